"""BFDProfile: how fast a broken path to a router is to be noticed (RFC 5880).

The structs are the single source of the CRD (config.crd), of decoding (config.check) and of the reference page.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from config.kinds.meta import ObjectMeta

INT32 = {"format": "int32"}
Milliseconds = Annotated[int, Meta(ge=10, le=60000, extra_json_schema=INT32)]
Multiplier = Annotated[int, Meta(ge=2, le=255, extra_json_schema=INT32)]
Ttl = Annotated[int, Meta(ge=1, le=254, extra_json_schema=INT32)]


class BFDProfileSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, forbid_unknown_fields=True):
    """Timers and modes of the BFD sessions that use this profile."""

    receive_interval: Annotated[
        Milliseconds | None,
        Meta(
            description="Least time between two packets that we are able to receive, in milliseconds. Absent: 300.",
        ),
    ] = None
    transmit_interval: Annotated[
        Milliseconds | None,
        Meta(
            description="Least time between two packets that we want to send, in milliseconds. Absent: 300.",
        ),
    ] = None
    detect_multiplier: Annotated[
        Multiplier | None,
        Meta(
            description="So many packets must be missing before the path counts as broken. Absent: 3.",
        ),
    ] = None
    echo_interval: Annotated[
        Milliseconds | None,
        Meta(
            description="Time between two echo packets, sent and received, in milliseconds. Absent: 50.",
        ),
    ] = None
    echo_mode: Annotated[
        bool | None, Meta(description="Let the router send our packets back. Not over several hops, and not with IPv6.")
    ] = None
    passive_mode: Annotated[bool | None, Meta(description="Wait for the router to begin.")] = None
    minimum_ttl: Annotated[
        Ttl | None,
        Meta(
            description="Packets of sessions over several hops must arrive with at least this TTL. Absent: any.",
        ),
    ] = None


class BFDProfileStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Always empty."""


class BFDProfile(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Settings of bidirectional forwarding detection, used by BGPPeers."""

    api_version: str = "metallb.io/v1beta1"
    kind: str = "BFDProfile"
    metadata: ObjectMeta = ObjectMeta()
    spec: BFDProfileSpec = BFDProfileSpec()
    status: BFDProfileStatus | None = None
