"""BGPAdvertisement: which pools are announced by BGP, as which prefixes, from which nodes, to which peers.

The structs are the single source of the CRD (config.crd), of decoding (config.check) and of the reference page.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from config.kinds.announced_pools import PoolNames, PoolSelectors
from config.kinds.meta import LabelSelector, ObjectMeta

LENGTH_V4 = 32
LENGTH_V6 = 128
LOCAL_PREF_MAX = 4294967295
INT32 = {"format": "int32"}
EXCLUSIVE = "serviceSelectors and aggregationLength are mutually exclusive"
EXCLUSIVE_RULE = {
    "x-kubernetes-validations": [
        {
            "rule": "!has(self.serviceSelectors) || self.serviceSelectors.size() == 0 || "
            "((!has(self.aggregationLength) || self.aggregationLength == 32) && "
            "(!has(self.aggregationLengthV6) || self.aggregationLengthV6 == 128))",
            "message": EXCLUSIVE,
        }
    ]
}


class BGPAdvertisementSpec(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, forbid_unknown_fields=True
):
    """What to announce, and how. An empty advertisement announces every address of every pool to every peer."""

    aggregation_length: Annotated[
        int,
        Meta(
            ge=1,
            description="Length of the IPv4 prefixes to announce, from 1 to 32: below 32, addresses are announced together.",
            extra_json_schema=INT32,
        ),
    ] = LENGTH_V4
    aggregation_length_v6: Annotated[
        int,
        Meta(
            description="Length of the IPv6 prefixes to announce, at most 128: below, addresses are announced together.",
            extra_json_schema=INT32,
        ),
    ] = msgspec.field(default=LENGTH_V6, name="aggregationLengthV6")
    local_pref: Annotated[
        int,
        Meta(
            description="The LOCAL_PREF attribute for internal peers. Advertisements of the same prefix to the same peers must agree.",
            extra_json_schema=INT32,
        ),
    ] = 0
    communities: Annotated[
        tuple[str, ...],
        Meta(description="Communities to attach: 65000:100, large:65000:1:2, or a name defined in a Community object."),
    ] = ()
    ip_address_pools: PoolNames = msgspec.field(default=(), name="ipAddressPools")
    ip_address_pool_selectors: PoolSelectors = msgspec.field(default=(), name="ipAddressPoolSelectors")
    node_selectors: Annotated[
        tuple[LabelSelector, ...],
        Meta(description="Nodes that announce, by label; one matching selector is enough. Absent: all nodes."),
    ] = ()
    peers: Annotated[
        tuple[str, ...],
        Meta(description="BGPPeers to announce to, by name; one that does not exist (yet) is not an error. Absent: all peers."),
    ] = ()
    service_selectors: Annotated[
        tuple[LabelSelector, ...],
        Meta(
            description="Services to announce, by label; one matching selector is enough. Absent: all Services of the pools. "
            "Not together with aggregation."
        ),
    ] = ()


class BGPAdvertisementStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Always empty."""


class BGPAdvertisement(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Announces the addresses of pools to routers by BGP."""

    api_version: str = "metallb.io/v1beta1"
    kind: str = "BGPAdvertisement"
    metadata: ObjectMeta = ObjectMeta()
    spec: Annotated[BGPAdvertisementSpec, Meta(extra_json_schema=EXCLUSIVE_RULE)] = BGPAdvertisementSpec()
    status: BGPAdvertisementStatus | None = None
