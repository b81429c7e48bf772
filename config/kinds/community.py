"""Community: names for BGP communities, for use in BGPAdvertisements.

The structs are the single source of the CRD (config.crd), of decoding (config.check) and of the reference page.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from config.kinds.meta import ObjectMeta


class CommunityAlias(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A name and what it stands for."""

    name: Annotated[str, Meta(description="The name; no other Community object may define it too.")] = ""
    value: Annotated[
        str, Meta(description="A community of RFC 1997, 65000:100, or a large one of RFC 8092, large:65000:1:2.")
    ] = ""


class CommunitySpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The names that this object defines."""

    communities: Annotated[tuple[CommunityAlias, ...], Meta(description="Names with their values.")] = ()


class CommunityStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Always empty."""


class Community(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Defines names for BGP communities."""

    api_version: str = "metallb.io/v1beta1"
    kind: str = "Community"
    metadata: ObjectMeta = ObjectMeta()
    spec: CommunitySpec = CommunitySpec()
    status: CommunityStatus | None = None
