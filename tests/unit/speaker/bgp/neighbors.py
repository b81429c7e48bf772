"""Neighbors and routes that the tests of this directory share."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network

from config.model import Community
from speaker.bgp.model import Family, Neighbor, Prefix, Route

HERE = IPv4Address("192.0.2.10")
ROUTER = Neighbor(
    name="router",
    peer=ip_address("192.0.2.1"),
    local=HERE,
    local_as=65000,
    peer_as=65001,
    router_id=HERE,
    families=(Family.IPV4, Family.IPV6),
)
ANY_SOURCE = replace(ROUTER, name="any", peer=ip_address("192.0.2.2"), local=None)


def prefix(text: str) -> Prefix:
    return ip_network(text)


def route(text: str, next_hop: str = "", local_pref: int = 0, *communities: tuple[int, ...]) -> Route:
    hop = ip_address(next_hop) if next_hop else None
    return Route(ip_network(text), hop, local_pref, tuple(Community(parts) for parts in communities))


def table(*routes: Route) -> dict[Prefix, Route]:
    return {one.prefix: one for one in routes}
