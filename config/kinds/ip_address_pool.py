"""IPAddressPool: the addresses that Services of type LoadBalancer may get.

The structs are the single source of the CRD (config.crd), of decoding (config.check) and of the reference page.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from config.kinds.meta import LabelSelector, ObjectMeta
from config.values import ADDRESSES_PATTERN

INT64 = {"format": "int64"}


class ServiceAllocation(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, forbid_unknown_fields=True
):
    """Pins a pool: only matching Services use it, and they try it before pools that are not pinned."""

    priority: Annotated[
        int | None,
        Meta(
            description="Order among pinned pools that match a Service: the lowest positive number is tried first; 0, absent and negative come last."
        ),
    ] = None
    namespaces: Annotated[tuple[str, ...], Meta(description="Namespaces, by name, whose Services may use the pool.")] = ()
    namespace_selectors: Annotated[
        tuple[LabelSelector, ...],
        Meta(description="Namespaces, by label, whose Services may use the pool; added to the ones listed by name."),
    ] = ()
    service_selectors: Annotated[
        tuple[LabelSelector, ...],
        Meta(description="Services, by label, that may use the pool; one matching selector is enough."),
    ] = ()


class IPAddressPoolSpec(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, forbid_unknown_fields=True
):
    """The addresses of the pool, and who gets them."""

    addresses: Annotated[
        tuple[Annotated[str, Meta(extra_json_schema={"pattern": ADDRESSES_PATTERN})], ...],
        Meta(
            description="Address ranges, each a CIDR (192.0.2.0/24) or first and last address (192.0.2.10-192.0.2.20). "
            "Addresses are handed out lowest first, range by range in this order. Ranges of all pools must not overlap."
        ),
    ]
    auto_assign: Annotated[
        bool,
        Meta(description="Whether Services that ask for no particular pool or address may get one from here."),
    ] = True
    avoid_buggy_ips: Annotated[
        bool,
        Meta(description="Never use IPv4 addresses whose last octet is 0 or 255; some old devices drop their packets."),
    ] = msgspec.field(default=False, name="avoidBuggyIPs")
    service_allocation: Annotated[
        ServiceAllocation | None,
        Meta(description="Pins the pool to namespaces and Services. Absent: any Service may use it."),
    ] = None


class IPAddressPoolStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How much of the pool is in use; written by the controller."""

    assigned_ipv4: Annotated[int, Meta(description="IPv4 addresses in use.", extra_json_schema=INT64)] = msgspec.field(
        name="assignedIPv4"
    )
    assigned_ipv6: Annotated[int, Meta(description="IPv6 addresses in use.", extra_json_schema=INT64)] = msgspec.field(
        name="assignedIPv6"
    )
    available_ipv4: Annotated[int, Meta(description="IPv4 addresses that are free.", extra_json_schema=INT64)] = msgspec.field(
        name="availableIPv4"
    )
    available_ipv6: Annotated[int, Meta(description="IPv6 addresses that are free.", extra_json_schema=INT64)] = msgspec.field(
        name="availableIPv6"
    )


class IPAddressPool(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A set of addresses that can be allocated to Services of type LoadBalancer."""

    api_version: str = "metallb.io/v1beta1"
    kind: str = "IPAddressPool"
    metadata: ObjectMeta = ObjectMeta()
    spec: IPAddressPoolSpec
    status: IPAddressPoolStatus | None = None
