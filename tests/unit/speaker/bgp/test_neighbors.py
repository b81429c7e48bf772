"""From BGPPeers and a node to sessions: the lines of MetalLB's contract about peers, as rows."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface
from pathlib import Path
from random import Random
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.model import BfdProfile, Config, InterfaceName, NodeName, Peer, PeerName
from config.problem import Problem, Severity
from speaker.bgp.exabgp_config import render
from speaker.bgp.model import Family, Neighbor
from speaker.bgp.neighbors import Bfd, Neighborhood, Peering, Site, neighborhood
from tests.builders_speaker import labelled

FOUR, SIX = ip_address("192.0.2.1"), ip_address("2001:db8:1::1")
FAR, FAR_SIX = ip_address("198.51.100.7"), ip_address("2001:db8:77::7")
HERE, HERE_SIX, LINK_LOCAL = ip_address("192.0.2.10"), ip_address("2001:db8:1::10"), ip_address("fe80::10")
ETH0, ETH1, LO, RED, ETH2 = (InterfaceName(name) for name in ("eth0", "eth1", "lo", "red", "eth2"))
SITE = Site(
    node=NodeName("a"),
    namespace="metallb-system",
    labels={"rack": "1"},
    links={
        LO: tuple(map(ip_interface, ("127.0.0.1/8", "192.0.2.200/32", "::1/128", "2001:db8:200::1/128"))),
        ETH0: tuple(map(ip_interface, ("192.0.2.10/24", "fe80::10/64", "2001:db8:1::10/64"))),
        ETH1: (ip_interface("fe80::11/64"),),
        ETH2: (ip_interface("198.18.2.1/24"), ip_interface("fe80::12/64")),
        RED: (),
    },
    node_addresses=(ip_address("203.0.113.5"), ip_address("2001:db8:5::5")),
    secrets={"good": b"s3cret", "newline": b"s3cret\n", "binary": b"\xff\xfe", "empty": b"", "long": b"s3cret" * 14},
    routers={ETH1: IPv6Address("fe80::1")},
    asns={PeerName("seen"): 4200000001, PeerName("same"): 65000},
)


def a_peer(name: str = "r", address: object = FOUR, peer_asn: int | None = 65001, **more: Any) -> Peer:
    return Peer(PeerName(name), 65000, peer_asn, address=address, **more)  # type: ignore[arg-type]  # Rows name any address.


def unnumbered(name: str = "r", interface: InterfaceName = ETH1, **more: Any) -> Peer:
    return a_peer(name, None, interface=interface, **more)


def dynamic(name: str, kind: Literal["internal", "external"]) -> Peer:
    return a_peer(name, peer_asn=None, dynamic_asn=kind)


def decided(*peers: Peer, site: Site = SITE, **more: Any) -> Neighborhood:
    return neighborhood(Config(peers=peers, **more), site)


def the_peering(peer: Peer, site: Site = SITE, **more: Any) -> Peering:
    (found,) = decided(peer, site=site, **more).peerings
    return found


def only_problem(found: Neighborhood) -> Problem:
    (problem,) = found.problems
    return problem


NEIGHBORS: dict[str, tuple[Peer, dict[str, object]]] = {
    "6.1 no timers: 90 s": (a_peer(), {"hold_time_s": 90, "peer": FOUR, "local": None, "port": 179}),
    "2.4 hold time in whole seconds": (a_peer(hold_time_s=10.7, keepalive_time_s=10.7 / 3), {"hold_time_s": 10}),
    "2.4 0 and 0 turn the timers off": (a_peer(hold_time_s=0.0, keepalive_time_s=0.0), {"hold_time_s": 0}),
    "1.4 peerPort": (a_peer(port=1179), {"port": 1179}),
    "1.4 sourceAddress on the link": (a_peer(source_address=HERE), {"local": HERE, "router_id": HERE}),
    "1.4 sourceAddress on lo": (a_peer(source_address=ip_address("192.0.2.200")), {"local": ip_address("192.0.2.200")}),
    "1.4 localASN replaces myASN": (a_peer(local_asn=64999), {"local_as": 64999, "peer_as": 65001}),
    "1.4 internal": (a_peer(peer_asn=65000), {"peer_as": 65000, "outgoing_ttl": None}),
    "2.4 dynamicASN internal": (dynamic("r", "internal"), {"peer_as": 65000, "outgoing_ttl": None}),
    "2.4 dynamicASN external, not seen yet": (dynamic("new", "external"), {"peer_as": None, "outgoing_ttl": 1}),
    "2.4 dynamicASN external, seen": (dynamic("seen", "external"), {"peer_as": 4200000001}),
    "6.2 routerID given": (a_peer(router_id=ip_address("10.0.0.1")), {"router_id": ip_address("10.0.0.1")}),
    "6.2 router ID is the local IPv4 address": (a_peer(), {"router_id": HERE}),
    "6.2 router ID of an IPv6 session is an IPv4 address of the link": (a_peer(address=SIX), {"router_id": HERE}),
    "6.2 router ID towards a far router is the Node's": (a_peer(address=FAR), {"router_id": ip_address("203.0.113.5")}),
    "6.2 unnumbered link without IPv4: the Node's": (unnumbered(), {"router_id": ip_address("203.0.113.5")}),
    "1.4 external, one hop: TTL 1": (a_peer(), {"outgoing_ttl": 1, "incoming_ttl": None}),
    "1.4 ebgpMultiHop: the kernel's TTL": (a_peer(address=FAR, ebgp_multi_hop=True), {"outgoing_ttl": None}),
    "6.2 a far router without ebgpMultiHop is tried": (a_peer(address=FAR), {"outgoing_ttl": None}),
    "1.4 password": (a_peer(password="plain"), {"password": "plain"}),
    "1.4 passwordSecret": (a_peer(password_secret="good"), {"password": "s3cret"}),
    "1.4 password counts with its blanks": (a_peer(password_secret="newline"), {"password": "s3cret\n"}),
    "1.4 vrf": (a_peer(vrf="red"), {"interface": "red"}),
    "1.4 enableGracefulRestart": (a_peer(graceful_restart=True), {"graceful_restart_s": 120}),
    "6.3 the family of the address": (a_peer(), {"families": (Family.IPV4,), "graceful_restart_s": None}),
    "6.3 the family of the address, IPv6": (a_peer(address=SIX), {"families": (Family.IPV6,), "extended_next_hop": False}),
    "6.3 dualStackAddressFamily": (a_peer(dual_stack=True), {"families": tuple(Family), "extended_next_hop": False}),
    "6.3 dualStackAddressFamily over IPv6": (a_peer(address=SIX, dual_stack=True), {"extended_next_hop": False}),
    "6.3 unnumbered carries both families": (
        unnumbered(),
        {
            "families": tuple(Family),
            "extended_next_hop": True,
            "peer": ip_address("fe80::1"),
            "local": None,
            "interface": "eth1",
            "outgoing_ttl": 1,
        },
    ),
}


@pytest.mark.parametrize(("peer", "facts"), NEIGHBORS.values(), ids=NEIGHBORS.keys())
def test_a_peer_is_a_session(peer: Peer, facts: dict[str, object]) -> None:
    neighbor = the_peering(peer).neighbor
    assert {name: getattr(neighbor, name) for name in facts} == facts
    assert neighbor.name == peer.name


NO_V4_LINK = replace(SITE, links={ETH0: (ip_interface("2001:db8:1::10/64"),)})
NO_V6 = replace(SITE, links={ETH0: (ip_interface("192.0.2.10/24"), ip_interface("fe80::10/64"))}, node_addresses=(HERE,))
SIX_ONLY = replace(SITE, node_addresses=(ip_address("2001:db8:5::5"),))
NEXT_HOPS: dict[str, tuple[Peer, Site, dict[Family, object]]] = {
    "own family: this end": (a_peer(), SITE, {Family.IPV4: None}),
    "IPv6 over IPv4: the link's": (a_peer(dual_stack=True), SITE, {Family.IPV4: None, Family.IPV6: HERE_SIX}),
    "IPv4 over IPv6: the link's": (a_peer(address=SIX, dual_stack=True), SITE, {Family.IPV4: HERE, Family.IPV6: None}),
    "IPv6 over IPv4: beside the source address": (
        a_peer(source_address=ip_address("192.0.2.200"), dual_stack=True),
        SITE,
        {Family.IPV4: None, Family.IPV6: ip_address("2001:db8:200::1")},
    ),
    "IPv6 over IPv4, far away: the Node's": (
        a_peer(address=FAR, ebgp_multi_hop=True, dual_stack=True),
        SITE,
        {Family.IPV4: None, Family.IPV6: ip_address("2001:db8:5::5")},
    ),
    "IPv4 over IPv6, far away: the Node's": (
        a_peer(address=FAR_SIX, ebgp_multi_hop=True, dual_stack=True),
        SITE,
        {Family.IPV4: ip_address("203.0.113.5"), Family.IPV6: None},
    ),
    "IPv4 over IPv6 without IPv4 on the link: RFC 8950": (
        a_peer(address=SIX, dual_stack=True),
        NO_V4_LINK,
        {Family.IPV4: HERE_SIX, Family.IPV6: None},
    ),
    "IPv4 over IPv6 without IPv4, with a source address: RFC 8950": (
        a_peer(address=SIX, dual_stack=True, source_address=HERE_SIX),
        NO_V4_LINK,
        {Family.IPV4: HERE_SIX, Family.IPV6: None},
    ),
    "IPv4 over IPv6, far away, without IPv4: RFC 8950": (
        a_peer(address=FAR_SIX, ebgp_multi_hop=True, dual_stack=True),
        SIX_ONLY,
        {Family.IPV4: ip_address("2001:db8:5::5"), Family.IPV6: None},
    ),
    "unnumbered: IPv4 by link-local (RFC 8950)": (unnumbered(), SITE, {Family.IPV4: ip_address("fe80::11"), Family.IPV6: None}),
    "IPv6 over IPv4 without any: none": (a_peer(dual_stack=True), NO_V6, {Family.IPV4: None}),
}


@pytest.mark.parametrize(("peer", "site", "hops"), NEXT_HOPS.values(), ids=NEXT_HOPS.keys())
def test_next_hops_are_ones_that_the_router_can_reach(peer: Peer, site: Site, hops: dict[Family, object]) -> None:
    peering = the_peering(peer, site)
    assert dict(peering.next_hops) == hops
    four = peering.next_hops.get(Family.IPV4)
    assert peering.neighbor.extended_next_hop == (four is not None and four.version == 6)


@pytest.mark.parametrize("address", [SIX, FAR_SIX])
def test_without_any_ipv4_address_the_router_id_is_made_of_the_nodes_name(address: IPv6Address) -> None:
    bare = replace(SITE, links={ETH0: (ip_interface("2001:db8:1::10/64"),)}, node_addresses=())
    assert the_peering(a_peer(address=address), bare).neighbor.router_id == IPv4Address("67.190.183.232")


WARNED: dict[str, tuple[Peer, str, str]] = {
    "keepaliveTime": (a_peer(hold_time_s=90.0, keepalive_time_s=10.0), "spec.keepaliveTime", "keepalives are sent every 30s"),
    "sourceAddress": (a_peer(source_address=ip_address("192.0.2.99")), "spec.sourceAddress", "that the kernel chooses"),
    "ebgpMultiHop": (a_peer(address=FAR), "spec.ebgpMultiHop", "the session is tried over several hops"),
    "password": (a_peer(password_secret="newline"), "spec.passwordSecret", "blanks or newlines, and they count"),
    "echoMode": (a_peer(bfd_profile="echo"), "spec.bfdProfile", "control packets alone"),
    "BFD interval": (a_peer(bfd_profile="hasty"), "spec.bfdProfile", "50 ms are used"),
}
PROFILES = {
    "plain": BfdProfile("plain"),
    "full": BfdProfile("full", 100, 200, 5, passive_mode=True, minimum_ttl=250),
    "echo": BfdProfile("echo", echo_mode=True),
    "hasty": BfdProfile("hasty", 10, 60),
}


@pytest.mark.parametrize(("peer", "path", "text"), WARNED.values(), ids=WARNED.keys())
def test_what_is_done_otherwise_is_a_warning_and_the_session_is_there(peer: Peer, path: str, text: str) -> None:
    found = decided(peer, bfd_profiles=PROFILES)
    problem = only_problem(found)
    assert (problem.severity, problem.path, problem.object.name) == (Severity.WARNING, path, "r")
    assert text in problem.message
    assert problem.remedy
    assert len(found.peerings) == 1


def test_without_a_next_hop_the_warning_names_the_family() -> None:
    assert "no IPv6 route is announced" in only_problem(decided(a_peer(dual_stack=True), site=NO_V6)).message


REFUSED: dict[str, tuple[Peer, str, str]] = {
    "no Secret": (a_peer(password_secret="none"), "spec.passwordSecret", "there is no Secret none"),
    "empty Secret": (a_peer(password_secret="empty"), "spec.passwordSecret", "Secret empty has no password"),
    "binary Secret": (a_peer(password_secret="binary"), "spec.passwordSecret", "is not UTF-8"),
    "long password": (a_peer(password_secret="long"), "spec.password", "has 84 bytes"),
    "hold time": (a_peer(hold_time_s=2.9, keepalive_time_s=1.0), "spec.holdTime", "neither 0 nor from 3s"),
    "family of sourceAddress": (a_peer(source_address=HERE_SIX), "spec.sourceAddress", "of another family"),
    "routerID": (a_peer(router_id=SIX), "spec.routerID", "no IPv4 address"),
    "no VRF": (a_peer(vrf="blue"), "spec.vrf", "no VRF device blue"),
    "no interface": (unnumbered(interface=InterfaceName("eth9")), "spec.interface", "no interface eth9"),
    "no link-local address": (unnumbered(interface=RED), "spec.interface", "no IPv6 link-local address"),
    "no router yet": (unnumbered(interface=ETH2), "spec.interface", "no router has made itself known on eth2"),
    "AS of an external router": (dynamic("same", "external"), "spec.dynamicASN", "has AS 65000, which is ours"),
    "link-local without interface": (a_peer(address=ip_address("fe80::1")), "spec.peerAddress", "is link-local"),
}


@pytest.mark.parametrize(("peer", "path", "text"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_is_refused_for_that_peer_alone(peer: Peer, path: str, text: str) -> None:
    other = a_peer("zz-other", SIX)
    found = decided(other, peer)
    problem = only_problem(found)
    assert (problem.severity, problem.path, problem.object.name) == (Severity.ERROR, path, peer.name)
    assert text in problem.message
    assert problem.remedy
    assert [one.peer for one in found.peerings] == ["zz-other"]


def test_of_two_that_exabgp_cannot_tell_apart_the_first_by_name_has_the_session() -> None:
    twin = a_peer("a", port=1179)
    found = decided(a_peer("b", password_secret="newline"), twin)
    assert [one.peer for one in found.peerings] == ["a"]
    assert only_problem(found).path == "spec.peerAddress"
    assert len(decided(a_peer("b", router_id=ip_address("10.0.0.1")), twin).peerings) == 2


@pytest.mark.parity("Speaker > peer node selectors")
@pytest.mark.parametrize(
    ("selectors", "here"),
    [
        ((), True),
        ((labelled(rack="1"),), True),
        ((labelled(rack="2"),), False),
        ((labelled(rack="2"), labelled(rack="1")), True),
    ],
    ids=["none: all nodes", "matching", "not matching", "one of several"],
)
def test_node_selectors_start_and_stop_a_session(selectors: tuple[Any, ...], here: bool) -> None:  # noqa: FBT001  (a row)
    found = decided(a_peer(node_selectors=selectors))
    assert (len(found.peerings), found.elsewhere) == ((1, frozenset()) if here else (0, frozenset({"r"})))
    assert not found.problems


BFD: dict[str, tuple[Peer, Bfd | None]] = {
    "none": (a_peer(), None),
    "6.8 defaults": (a_peer(bfd_profile="plain"), Bfd(FOUR, None, "", False, 254, 300, 300, 3, False)),
    "6.8 every field": (
        a_peer(bfd_profile="full", source_address=HERE),
        Bfd(FOUR, HERE, "", False, 250, 200, 100, 5, True),
    ),
    "several hops by ebgpMultiHop": (
        a_peer(bfd_profile="plain", ebgp_multi_hop=True),
        Bfd(FOUR, None, "", True, 254, 300, 300, 3, False),
    ),
    "several hops inside the AS": (
        a_peer(bfd_profile="plain", address=FAR, peer_asn=65000),
        Bfd(FAR, None, "", True, 254, 300, 300, 3, False),
    ),
    "unnumbered": (unnumbered(bfd_profile="plain"), Bfd(IPv6Address("fe80::1"), None, "eth1", False, 254, 300, 300, 3, False)),
    "too hasty": (a_peer(bfd_profile="hasty"), Bfd(FOUR, None, "", False, 254, 60, 50, 3, False)),
    "2.4 a profile that is gone": (a_peer(bfd_profile="gone"), None),
}


@pytest.mark.parametrize(("peer", "bfd"), BFD.values(), ids=BFD.keys())
def test_a_bfd_profile_is_a_bfd_session(peer: Peer, bfd: Bfd | None) -> None:
    assert the_peering(peer, bfd_profiles=PROFILES).bfd == bfd


def test_connect_time_is_passed_on() -> None:
    assert the_peering(a_peer(connect_time_s=7.0)).connect_time_s == 7.0
    assert the_peering(a_peer()).connect_time_s is None


ALL = [
    *(replace(peer, name=PeerName(f"n{i}-{peer.name}")) for i, (peer, _) in enumerate(NEIGHBORS.values())),
    *(replace(peer, name=PeerName(f"r{i}-{peer.name}")) for i, (peer, *_) in enumerate(REFUSED.values())),
    *(replace(peer, name=PeerName(f"w{i}-{peer.name}")) for i, (peer, *_) in enumerate(WARNED.values())),
]


@given(st.lists(st.sampled_from(ALL), unique_by=lambda one: one.name), st.randoms(use_true_random=False))
def test_the_order_of_peers_and_links_does_not_matter(peers: list[Peer], random: Random) -> None:
    expected = decided(*peers, bfd_profiles=PROFILES)
    shuffled = random.sample(peers, len(peers))
    names = random.sample(list(SITE.links), len(SITE.links))
    other = replace(SITE, links={name: SITE.links[name] for name in names})
    found = decided(*shuffled, site=other, bfd_profiles=PROFILES)
    assert found == expected
    accounted = {one.peer for one in found.peerings} | {one.object.name for one in found.problems}
    assert accounted == {peer.name for peer in peers}, "every peer has a session or an error"
    errors = {one.object.name for one in found.problems if one.severity is Severity.ERROR}
    assert errors.isdisjoint({one.peer for one in found.peerings})


@pytest.mark.parity("Speaker > session passwords")
@pytest.mark.parametrize(
    ("peer", "password"),
    [(a_peer(password="plain"), "plain"), (a_peer(password_secret="good"), "s3cret"), (a_peer(), "")],
    ids=["plain", "from a Secret", "none"],
)
def test_a_session_has_its_password_wherever_it_is_kept(peer: Peer, password: str) -> None:
    assert the_peering(peer).neighbor.password == password


def test_no_text_has_a_password() -> None:
    peers = [peer for peer in ALL if peer.password or peer.password_secret]
    found = decided(*peers, bfd_profiles=PROFILES)
    assert len(peers) > 5
    told = repr(found) + repr(SITE) + repr(peers) + "".join(map(str, found.problems))
    assert not [word for word in ("s3cret", "plain'", "=plain") if word in told]


def test_exabgp_accepts_every_session(tmp_path: Path) -> None:
    """Each kind of peer that is not refused, in one file; addresses are varied so that all of them stand side by side."""
    neighbors: list[Neighbor] = []
    for number, (peer, _) in enumerate(NEIGHBORS.values()):
        found = the_peering(replace(peer, router_id=IPv4Address(f"10.9.0.{number + 1}")))
        neighbors.append(replace(found.neighbor, name=f"p{number}"))
    file = tmp_path / "exabgp.conf"
    file.write_text(render(neighbors, run=f"{Path(sys.executable).resolve()} -SE /dev/null", generation=1))
    done = subprocess.run(
        [sys.executable, "-m", "exabgp", "validate", "-n", "-r", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
