"""L2Advertisement: which pools are announced by ARP and NDP, from which nodes and interfaces, for which Services.

The structs are the single source of the CRD (config.crd), of decoding (config.check) and of the reference page.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from config.kinds.announced_pools import PoolNames, PoolSelectors
from config.kinds.meta import LabelSelector, ObjectMeta


class PreferredNodeSelector(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A weight for the nodes that a selector matches; the node with the highest sum of weights announces."""

    weight: Annotated[
        int, Meta(ge=1, le=100, description="Added to the score of every matching node.", extra_json_schema={"format": "int32"})
    ]
    preference: Annotated[LabelSelector, Meta(description="The nodes that are preferred; an empty selector matches all.")]


class L2AdvertisementSpec(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, forbid_unknown_fields=True
):
    """What to announce and where. An empty advertisement announces every pool from every node on every interface."""

    ip_address_pools: PoolNames = msgspec.field(default=(), name="ipAddressPools")
    ip_address_pool_selectors: PoolSelectors = msgspec.field(default=(), name="ipAddressPoolSelectors")
    node_selectors: Annotated[
        tuple[LabelSelector, ...],
        Meta(description="Nodes that may announce, by label; one matching selector is enough. Absent: all nodes."),
    ] = ()
    interfaces: Annotated[
        tuple[str, ...],
        Meta(description="Network interfaces on which to announce. Absent: all interfaces."),
    ] = ()
    service_selectors: Annotated[
        tuple[LabelSelector, ...],
        Meta(description="Services to announce, by label; one matching selector is enough. Absent: all Services of the pools."),
    ] = ()
    preferred_node_selectors: Annotated[
        tuple[PreferredNodeSelector, ...],
        Meta(description="Nodes that should announce when they can, with a weight; the others stay candidates."),
    ] = ()


class L2AdvertisementStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Always empty."""


class L2Advertisement(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Announces the addresses of pools on the local network by ARP (IPv4) and NDP (IPv6)."""

    api_version: str = "metallb.io/v1beta1"
    kind: str = "L2Advertisement"
    metadata: ObjectMeta = ObjectMeta()
    spec: L2AdvertisementSpec = L2AdvertisementSpec()
    status: L2AdvertisementStatus | None = None
