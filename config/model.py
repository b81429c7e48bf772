"""The compiled, cross-referenced configuration that deciders see.

config.compile makes it out of what users wrote; the controller and every speaker read it. Nothing here is a string that
still needs parsing, and nothing refers to something that does not exist. All values are frozen and hashable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from types import MappingProxyType
from typing import Final, Literal, NewType

IPAddress = IPv4Address | IPv6Address
InterfaceAddress = IPv4Interface | IPv6Interface
"""An address of an interface, with the length of its network's prefix."""
PoolName = NewType("PoolName", str)
NodeName = NewType("NodeName", str)
ServiceKey = NewType("ServiceKey", str)
"""namespace/name of a Service."""
InterfaceName = NewType("InterfaceName", str)
PeerName = NewType("PeerName", str)
"""The name of a BGPPeer object."""

EXCLUDE_LABEL: Final = "node.kubernetes.io/exclude-from-external-load-balancers"
"""Label of a Node that is to announce nothing, whatever its value (Kubernetes, KEP-1143)."""

Operator = Literal["In", "NotIn", "Exists", "DoesNotExist"]


@dataclass(frozen=True, slots=True)
class Requirement:
    """One expression of a label selector."""

    key: str
    operator: Operator
    values: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Selector:
    """Requirements that must all hold; none means that every object matches."""

    requirements: tuple[Requirement, ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class ObjectRef:
    """Names a configuration object in problems, Events and logs."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class AddressRange:
    """An inclusive range of addresses of one family, first <= last."""

    first: IPAddress
    last: IPAddress

    def __contains__(self, address: IPAddress) -> bool:
        return address.version == self.first.version and int(self.first) <= int(address) <= int(self.last)

    @property
    def size(self) -> int:
        """How many addresses the range has."""
        return int(self.last) - int(self.first) + 1


@dataclass(frozen=True, slots=True)
class Pool:
    """An IPAddressPool whose text has been understood.

    `ranges` keeps the order the user wrote, because addresses are handed out lowest-first entry by entry.
    `namespaces` is the union of the names listed and those matched by namespaceSelectors; None means no restriction.
    `pinned` says that serviceAllocation is present: such pools are tried before the others. `reserved` are addresses that
    only Services get that ask for them by address.
    """

    name: PoolName
    ranges: tuple[AddressRange, ...]
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    auto_assign: bool = True
    avoid_buggy_ips: bool = False
    pinned: bool = False
    priority: int = 0
    namespaces: frozenset[str] | None = None
    service_selectors: tuple[Selector, ...] = ()
    reserved: tuple[AddressRange, ...] = ()

    def __contains__(self, address: IPAddress) -> bool:
        return any(address in one for one in self.ranges)


class Election(StrEnum):
    """How the node that announces an address is chosen, beside preferences."""

    COMPATIBLE = "compatible"
    """As MetalLB does: by the hash."""
    BALANCED = "balanced"
    """By the hash, but so that all nodes have equally many addresses of a pool."""


@dataclass(frozen=True, slots=True)
class NodePreference:
    """A weight (1 to 100) for the nodes that a selector matches."""

    weight: int
    selector: Selector


@dataclass(frozen=True, slots=True)
class L2Advertisement:
    """An L2Advertisement with its pools resolved to names; empty selectors or interfaces mean all."""

    name: str
    pools: frozenset[PoolName]
    node_selectors: tuple[Selector, ...] = ()
    service_selectors: tuple[Selector, ...] = ()
    interfaces: frozenset[InterfaceName] = frozenset()
    preferences: tuple[NodePreference, ...] = ()
    election: Election = Election.COMPATIBLE


@dataclass(frozen=True, slots=True, order=True)
class Community:
    """A BGP community: two numbers (RFC 1997), or three (large, RFC 8092)."""

    parts: tuple[int, ...]

    @property
    def large(self) -> bool:
        """Whether it is one of RFC 8092."""
        return len(self.parts) == 3

    def __str__(self) -> str:
        text = ":".join(map(str, self.parts))
        return f"large:{text}" if self.large else text


@dataclass(frozen=True, slots=True)
class BfdProfile:
    """A BFDProfile; what is None is left to the implementation. Intervals in milliseconds."""

    name: str
    receive_interval_ms: int | None = None
    transmit_interval_ms: int | None = None
    detect_multiplier: int | None = None
    echo_interval_ms: int | None = None
    echo_mode: bool = False
    passive_mode: bool = False
    minimum_ttl: int | None = None


@dataclass(frozen=True, slots=True)
class Peer:
    """A BGPPeer whose text has been understood; empty node selectors mean all nodes.

    Exactly one of `peer_asn` and `dynamic_asn` is set, and one of `address` and `interface`. Timers are None where the
    implementation chooses; 0 turns them off. `bfd_profile` is the name of a profile that exists. `password_secret` is the
    name of a Secret in our namespace.
    """

    name: PeerName
    my_asn: int
    peer_asn: int | None = None
    dynamic_asn: Literal["internal", "external"] | None = None
    address: IPAddress | None = None
    interface: InterfaceName | None = None
    source_address: IPAddress | None = None
    port: int = 179
    hold_time_s: float | None = None
    keepalive_time_s: float | None = None
    connect_time_s: float | None = None
    router_id: IPAddress | None = None
    node_selectors: tuple[Selector, ...] = ()
    password: str = field(default="", repr=False)
    password_secret: str = ""
    bfd_profile: str = ""
    graceful_restart: bool = False
    ebgp_multi_hop: bool = False
    vrf: str = ""
    dual_stack: bool = False
    local_asn: int | None = None


@dataclass(frozen=True, slots=True)
class BgpAdvertisement:
    """A BGPAdvertisement with its pools resolved to names and its communities to numbers; empty selectors mean all.

    `peers` None means all peers; a set may name peers that do not exist.
    """

    name: str
    pools: frozenset[PoolName]
    aggregation_length: int = 32
    aggregation_length_v6: int = 128
    local_pref: int = 0
    communities: frozenset[Community] = frozenset()
    peers: frozenset[PeerName] | None = None
    node_selectors: tuple[Selector, ...] = ()
    service_selectors: tuple[Selector, ...] = ()


@dataclass(frozen=True, slots=True)
class Config:
    """Everything users configured, valid as a whole.

    `broken_pools` are pools that exist but of which no edition is known to be valid (seen after a restart): Services that
    were given an address from them keep it, and nothing new is allocated. Advertisements name broken pools too.
    """

    pools: Mapping[PoolName, Pool] = field(default_factory=lambda: MappingProxyType({}))
    l2_advertisements: tuple[L2Advertisement, ...] = ()
    broken_pools: frozenset[PoolName] = frozenset()
    peers: tuple[Peer, ...] = ()
    bgp_advertisements: tuple[BgpAdvertisement, ...] = ()
    bfd_profiles: Mapping[str, BfdProfile] = field(default_factory=lambda: MappingProxyType({}))

    def pool_of(self, addresses: tuple[IPAddress, ...]) -> Pool | None:
        """The pool that contains all the addresses, if there is one (pools do not overlap)."""
        return next((pool for pool in self.pools.values() if addresses and all(a in pool for a in addresses)), None)


EMPTY = Config()
