"""Frozen values for speaker tests, with readable defaults: a_world("a b c"), a_service("web")."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, ip_address

from config.model import (
    AddressRange,
    Config,
    Election,
    InterfaceName,
    L2Advertisement,
    NodeName,
    NodePreference,
    Pool,
    PoolName,
    Requirement,
    Selector,
    ServiceKey,
)
from speaker.world import Cluster, Link, Node, Service, TrafficPolicy, World

MAC = bytes.fromhex("020000000001")
OTHER_MAC = bytes.fromhex("0200000000aa")
VIP = IPv4Address("192.0.2.10")
ETH0 = InterfaceName("eth0")
ETH1 = InterfaceName("eth1")


def nodes(text: str) -> frozenset[NodeName]:
    return frozenset(NodeName(name) for name in text.split())


def labelled(**labels: str) -> Selector:
    """A selector that wants these labels."""
    return Selector(tuple(Requirement(key, "In", frozenset({value})) for key, value in sorted(labels.items())))


def a_pool(name: str = "default", first: str = "192.0.2.0", last: str = "192.0.2.255") -> Pool:
    return Pool(PoolName(name), (AddressRange(ip_address(first), ip_address(last)),))


def an_advertisement(
    name: str = "default",
    *,
    pools: str = "default",
    on: tuple[Selector, ...] = (),
    services: tuple[Selector, ...] = (),
    interfaces: str = "",
    prefer: Mapping[int, Selector] | None = None,
    election: Election = Election.COMPATIBLE,
) -> L2Advertisement:
    return L2Advertisement(
        name,
        frozenset(PoolName(one) for one in pools.split()),
        on,
        services,
        frozenset(InterfaceName(one) for one in interfaces.split()),
        tuple(NodePreference(weight, selector) for weight, selector in (prefer or {}).items()),
        election,
    )


def a_config(*advertisements: L2Advertisement, pools: tuple[Pool, ...] = (), broken: Iterable[str] = ()) -> Config:
    return Config(
        {pool.name: pool for pool in pools or (a_pool(),)},
        advertisements or (an_advertisement(),),
        frozenset(PoolName(name) for name in broken),
    )


def a_service(
    name: str = "web",
    address: str = "192.0.2.10",
    *,
    policy: TrafficPolicy = TrafficPolicy.CLUSTER,
    ready_on: str = "a",
    ending_on: str = "",
    labels: Mapping[str, str] | None = None,
    may_share: bool = False,
    allocated_from: str | None = None,
    unreadable: str = "",
) -> Service:
    """A Service in namespace default; `ready_on` may be empty: then no endpoint is ready."""
    return Service(
        ServiceKey(f"default/{name}"),
        tuple(ip_address(one) for one in address.split()),
        policy,
        labels or {},
        bool(ready_on),
        nodes(ready_on),
        nodes(ending_on),
        may_share,
        unreadable,
        None if allocated_from is None else PoolName(allocated_from),
    )


def a_link(name: str = "eth0", index: int = 2, **facts: bool | bytes | str | tuple[bytes, ...]) -> Link:
    return Link(index, InterfaceName(name), **({"mac": MAC} | facts))  # type: ignore[arg-type]  # Facts are members of Link.


def a_world(
    names: str = "a b c",
    *services: Service,
    me: str = "a",
    members: str | None = "same",
    config: Config | None = None,
    node: Mapping[str, Node] | None = None,
    links: tuple[Link, ...] | None = None,
    hold: str = "",
    honour_exclude_label: bool = True,
) -> World:
    """A world of Nodes with a speaker each. `node` replaces single Nodes; `members` None means gossip is disabled."""
    known = {name: Node(name) for name in nodes(names)} | {NodeName(key): value for key, value in (node or {}).items()}
    sharers: dict[object, tuple[ServiceKey, ...]] = {}
    for service in services:
        if service.addresses:
            sharers[service.addresses[0]] = (*sharers.get(service.addresses[0], ()), service.key)
    return World(
        NodeName(me),
        Cluster(
            config or a_config(),
            known,
            None if members is None else nodes(names if members == "same" else members),
            honour_exclude_label,
        ),
        {service.key: service for service in services},
        sharers,  # type: ignore[arg-type]  # The keys are the services' addresses.
        (a_link(),) if links is None else links,
        hold,
    )
