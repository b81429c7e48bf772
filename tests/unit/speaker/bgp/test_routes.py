"""What is announced by BGP and to whom: the lines of MetalLB's contract about BGP advertisements, as rows."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.model import BgpAdvertisement, Community, Config, InterfaceName, NodeName, Peer, PeerName, PoolName, ServiceKey
from speaker.bgp import exabgp_api as api
from speaker.bgp.exabgp_config import render
from speaker.bgp.model import Route
from speaker.bgp.neighbors import Neighborhood, Site, neighborhood
from speaker.bgp.routes import Table, decide
from speaker.bgp.sessions import Command, Sessions
from speaker.reason import Reason
from speaker.world import Cluster, Node, Service, TrafficPolicy
from tests.builders_speaker import a_pool, a_service, labelled

ME: Final = NodeName("a")
HERE, HERE_SIX = ip_address("192.0.2.10"), ip_address("2001:db8:1::10")
POOLS = (
    a_pool("default", "198.51.100.0", "198.51.100.255"),
    a_pool("six", "2001:db8:9::", "2001:db8:9::ffff"),
    replace(a_pool("dual", "203.0.113.0", "203.0.113.255"), ranges=(
        *a_pool("dual", "203.0.113.0", "203.0.113.255").ranges,
        *a_pool("dual", "2001:db8:a::", "2001:db8:a::ffff").ranges,
    )),
)  # fmt: skip
SITE = Site(
    node=ME,
    namespace="metallb-system",
    labels={"rack": "1"},
    links={InterfaceName("eth0"): (ip_interface("192.0.2.10/24"), ip_interface("2001:db8:1::10/64"))},
)
NO_SIX = replace(SITE, links={InterfaceName("eth0"): (ip_interface("192.0.2.10/24"),)})
RED = Community((65000, 1))
BLUE = Community((65000, 2))
LARGE = Community((65000, 1, 2))


def an_ad(name: str = "ad", *, pools: str = "default six dual", peers: str = "", **more: Any) -> BgpAdvertisement:
    more["communities"] = frozenset(more.get("communities", ()))
    listed = frozenset(PeerName(one) for one in peers.split()) or None
    return BgpAdvertisement(name, frozenset(PoolName(one) for one in pools.split()), peers=listed, **more)


def a_cluster(*ads: BgpAdvertisement, node: Node | None = None, broken: str = "", **more: Any) -> Cluster:
    config = Config(
        pools={pool.name: pool for pool in POOLS},
        bgp_advertisements=ads,
        broken_pools=frozenset(PoolName(name) for name in broken.split()),
    )
    own = node or Node(ME, {"rack": "1"})
    return Cluster(config, {own.name: own, NodeName("b"): Node(NodeName("b"))}, None, **more)


def web(address: str = "198.51.100.7", **more: Any) -> Service:
    return a_service(address=address, **more)


def router(name: str, host: int, **more: Any) -> Peer:
    return Peer(PeerName(name), 65000, 65001, **({"address": ip_address(f"192.0.2.{host}")} | more))


ONE, TWO = router("one", 1), router("two", 2)
DUAL = router("dual", 3, dual_stack=True)
SIX = router("six", 4, address=ip_address("2001:db8:1::4"))


def met(*peers: Peer, site: Site = SITE) -> Neighborhood:
    return neighborhood(Config(peers=peers), site)


def a_table(services: Iterable[Service], cluster: Cluster, around: Neighborhood) -> Table:
    table = Table()
    table.meet(around)
    for service in services:
        table.adopt(decide(service, cluster, ME))
    table.check_invariants()
    return table


def told(table: Table) -> dict[str, dict[str, Route]]:
    """Peer's address → prefix → route."""
    return {str(key.peer): {str(prefix): route for prefix, route in routes.items()} for key, routes in table.routes.items()}


LOCAL = TrafficPolicy.LOCAL
TITLES = {
    "LOCAL_PREF": "Speaker > localPref conflicts at announcement",
    "Local:": "Speaker > policy Local > withdrawn without endpoint, announced with one",
    "exclude label": "Speaker > the exclude label",
    "no configuration": "Speaker > no configuration",
    "two advertisements": "Speaker > two advertisements on a pool are two prefixes",
    "for other nodes": "Speaker > two advertisements on a pool are two prefixes",
    "listed peer": "Speaker > two advertisements on a pool are two prefixes",
}
"""Words in the name of a row → the title among MetalLB's tests that it shows."""


def rows(table: Mapping[str, tuple[object, ...]]) -> list[Any]:
    return [
        pytest.param(*row, id=name, marks=[pytest.mark.parity(title) for words, title in TITLES.items() if words in name])
        for name, row in table.items()
    ]


SERVED: dict[str, tuple[Service, tuple[BgpAdvertisement, ...], set[str]]] = {
    "6.6 an address is a prefix": (web(), (an_ad(),), {"198.51.100.7/32"}),
    "6.6 both families": (web("203.0.113.7 2001:db8:a::7"), (an_ad(),), {"203.0.113.7/32", "2001:db8:a::7/128"}),
    "1.3 aggregationLength": (web(), (an_ad(aggregation_length=24),), {"198.51.100.0/24"}),
    "1.3 aggregationLengthV6": (
        web("203.0.113.7 2001:db8:a::7"),
        (an_ad(aggregation_length_v6=112),),
        {"203.0.113.7/32", "2001:db8:a::/112"},
    ),
    "11.3 two advertisements are two prefixes": (
        web(),
        (an_ad(), an_ad("wide", aggregation_length=24)),
        {"198.51.100.7/32", "198.51.100.0/24"},
    ),
    "11.3 an advertisement for other nodes adds nothing": (
        web(),
        (an_ad(), an_ad("other", aggregation_length=24, node_selectors=(labelled(rack="2"),))),
        {"198.51.100.7/32"},
    ),
    "11.3 several node selectors are ORed": (
        web(),
        (an_ad(node_selectors=(labelled(rack="2"), labelled(rack="1"))),),
        {"198.51.100.7/32"},
    ),
    "2.3 a pool that is not selected adds nothing": (
        web(),
        (an_ad(pools="default"), an_ad("six", pools="six", aggregation_length=24)),
        {"198.51.100.7/32"},
    ),
    "2.3 service selectors": (
        web(labels={"app": "web"}),
        (an_ad(service_selectors=(labelled(app="db"), labelled(app="web"))),),
        {"198.51.100.7/32"},
    ),
    "6.5 sharing with service selectors is allowed": (
        web(labels={"app": "web"}, may_share=True),
        (an_ad(service_selectors=(labelled(app="web"),)),),
        {"198.51.100.7/32"},
    ),
    "6.5 Cluster: endpoints elsewhere": (web(ready_on="b"), (an_ad(),), {"198.51.100.7/32"}),
    "6.5 Local: an endpoint here": (web(policy=LOCAL, ready_on="a b"), (an_ad(),), {"198.51.100.7/32"}),
    "4.3 Local: an endpoint here that is about to end but serves": (
        web(policy=LOCAL, ready_on="a b", ending_on="a"),
        (an_ad(),),
        {"198.51.100.7/32"},
    ),
    "11.3 LOCAL_PREF: one value never conflicts": (
        web(),
        (an_ad(local_pref=5), an_ad("two", local_pref=5)),
        {"198.51.100.7/32"},
    ),
    "2.3 LOCAL_PREF: other lengths in every family of the pool": (
        web(),
        (an_ad(local_pref=5), an_ad("two", local_pref=6, aggregation_length=24)),
        {"198.51.100.7/32", "198.51.100.0/24"},
    ),
    "2.3 LOCAL_PREF: other lengths in both families of a dual pool": (
        web("203.0.113.7"),
        (an_ad(local_pref=5), an_ad("two", local_pref=6, aggregation_length=24, aggregation_length_v6=64)),
        {"203.0.113.7/32", "203.0.113.0/24"},
    ),
    "2.3 LOCAL_PREF: disjoint peers": (
        web(),
        (an_ad(local_pref=5, peers="one"), an_ad("two", local_pref=6, peers="two")),
        {"198.51.100.7/32"},
    ),
    "11.3 LOCAL_PREF: other nodes": (
        web(),
        (an_ad(local_pref=5), an_ad("two", local_pref=6, node_selectors=(labelled(rack="2"),))),
        {"198.51.100.7/32"},
    ),
    "11.3 LOCAL_PREF: other Services": (
        web(),
        (an_ad(local_pref=5), an_ad("two", local_pref=6, service_selectors=(labelled(app="db"),))),
        {"198.51.100.7/32"},
    ),
}


@pytest.mark.parametrize(("service", "ads", "prefixes"), rows(SERVED))
def test_a_service_is_announced(service: Service, ads: tuple[BgpAdvertisement, ...], prefixes: set[str]) -> None:
    decision = decide(service, a_cluster(*ads), ME)
    assert decision.reason is Reason.BGP_OFFERED
    assert {str(offer.prefix) for offer in decision.offers} == prefixes
    assert all(prefix in decision.detail for prefix in prefixes)


def test_a_broken_pool_is_announced_as_before() -> None:
    service = web("192.0.2.77", allocated_from="gone")
    ad = an_ad(pools="gone", local_pref=5)
    cluster = a_cluster(ad, replace(ad, name="two", local_pref=6, aggregation_length=24), broken="gone")
    assert len(decide(service, cluster, ME).offers) == 2


EXCLUDED = Node(ME, excluded=True)
REFUSED: dict[str, tuple[Service, Cluster, Reason, str]] = {
    "11.3 no configuration": (web(), Cluster(), Reason.ADDRESS_IN_NO_POOL, "no IPAddressPool"),
    "4.2 no ingress": (web(""), a_cluster(an_ad()), Reason.NO_ADDRESS, "is empty"),
    "4.2 invalid ingress": (web(unreadable="x"), a_cluster(an_ad()), Reason.INVALID_ADDRESS, "'x'"),
    "4.2 in no pool": (web("192.0.2.77"), a_cluster(an_ad()), Reason.ADDRESS_IN_NO_POOL, "192.0.2.77"),
    "6.5 no advertisement of the pool": (
        web(), a_cluster(an_ad(pools="six")), Reason.NO_MATCHING_BGP_ADVERTISEMENT, "for pool default includes node a",
    ),
    "6.5 no advertisement of the pool for this node": (
        web(), a_cluster(an_ad(node_selectors=(labelled(rack="2"),))), Reason.NO_MATCHING_BGP_ADVERTISEMENT, "includes node a",
    ),
    "6.5 no advertisement matches the Service": (
        web(), a_cluster(an_ad(service_selectors=(labelled(app="db"),))), Reason.NO_MATCHING_BGP_ADVERTISEMENT,
        "the serviceSelectors of ad do not match default/web",
    ),
    "11.3 LOCAL_PREF conflict: the same nodes and peers": (
        web(), a_cluster(an_ad(local_pref=5), an_ad("two", local_pref=6)), Reason.CONFLICTING_LOCAL_PREF,
        "BGPAdvertisement ad wants localPref 5, two 6",
    ),
    "11.3 LOCAL_PREF conflict: peers overlap": (
        web(), a_cluster(an_ad(local_pref=5, peers="one two"), an_ad("two", local_pref=6, peers="two")),
        Reason.CONFLICTING_LOCAL_PREF, "two 6",
    ),
    "11.3 LOCAL_PREF conflict: an empty peer list overlaps everything": (
        web(), a_cluster(an_ad(local_pref=5, peers="one"), an_ad("two", local_pref=6)), Reason.CONFLICTING_LOCAL_PREF, "two 6",
    ),
    "2.3 LOCAL_PREF conflict: only one family of a dual pool has other lengths": (
        web("203.0.113.7"), a_cluster(an_ad(local_pref=5), an_ad("two", local_pref=6, aggregation_length=24)),
        Reason.CONFLICTING_LOCAL_PREF, "two 6",
    ),
    "6.5 LOCAL_PREF conflict of a Service that both select": (
        web(labels={"app": "web"}),
        a_cluster(an_ad(local_pref=5), an_ad("two", local_pref=6, service_selectors=(labelled(app="web"),))),
        Reason.CONFLICTING_LOCAL_PREF, "two 6",
    ),
    "4.4 NetworkUnavailable": (
        web(), a_cluster(an_ad(), node=Node(ME, network_unavailable=True)), Reason.NODE_NETWORK_UNAVAILABLE, "NetworkUnavailable",
    ),
    "4.4 exclude label": (web(), a_cluster(an_ad(), node=EXCLUDED), Reason.NODE_EXCLUDED, "exclude-from-external"),
    "6.5 Local: no endpoint here": (
        web(policy=LOCAL, ready_on="b"), a_cluster(an_ad()), Reason.NO_LOCAL_ENDPOINT, "no ready endpoint on a",
    ),
    "6.5 no endpoint anywhere": (web(ready_on=""), a_cluster(an_ad()), Reason.NO_READY_ENDPOINT, "none of the endpoints"),
    "6.5 the conflict is told before the node": (
        web(), a_cluster(an_ad(local_pref=5), an_ad("two", local_pref=6), node=EXCLUDED), Reason.CONFLICTING_LOCAL_PREF, "two 6",
    ),
    "6.5 the node is told before endpoints": (
        web(ready_on=""), a_cluster(an_ad(), node=EXCLUDED), Reason.NODE_EXCLUDED, "exclude-from-external",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("service", "cluster", "reason", "text"), rows(REFUSED))
def test_a_service_is_not_announced_and_every_peer_says_why(
    service: Service, cluster: Cluster, reason: Reason, text: str
) -> None:
    table = a_table([service], cluster, met(ONE, DUAL))
    assert not any(table.routes.values())
    assert [verdict.reason for verdict in table.verdicts(service.key)] == [reason, reason]
    assert text in table.verdicts(service.key)[0].detail
    assert table.peers_of(service.key) == ()


@pytest.mark.parity("Speaker > the exclude label")
def test_with_ignore_exclude_lb_the_label_does_not_matter() -> None:
    assert decide(web(), a_cluster(an_ad(), node=EXCLUDED, honour_exclude_label=False), ME).offers


def test_a_node_that_is_not_known_is_not_excluded_and_has_no_labels() -> None:
    cluster = a_cluster(an_ad(), an_ad("rack", aggregation_length=24, node_selectors=(labelled(rack="1"),)))
    assert [str(one.prefix) for one in decide(web(), cluster, NodeName("new")).offers] == ["198.51.100.7/32"]


V4, V6 = "203.0.113.7/32", "2001:db8:a::7/128"
PEERS: dict[str, tuple[Peer, Site, BgpAdvertisement, dict[str, object], Reason, str]] = {
    "6.6 every peer without a list": (ONE, SITE, an_ad(), {V4: None}, Reason.BGP_ANNOUNCED, f"{V6} is not announced"),
    "6.6 a listed peer": (DUAL, SITE, an_ad(peers="dual"), {V4: None, V6: HERE_SIX}, Reason.BGP_ANNOUNCED, f"{V4}, {V6}"),
    "6.6 not a listed peer": (ONE, SITE, an_ad(peers="two nobody"), {}, Reason.PEER_NOT_LISTED, V4),
    "6.3 IPv6 over IPv4": (DUAL, SITE, an_ad(), {V4: None, V6: HERE_SIX}, Reason.BGP_ANNOUNCED, V6),
    "6.3 IPv6 session": (SIX, SITE, an_ad(), {V6: None}, Reason.BGP_ANNOUNCED, f"{V4} is not announced"),
    "6.3 IPv4 over IPv6": (replace(SIX, dual_stack=True), SITE, an_ad(), {V4: HERE, V6: None}, Reason.BGP_ANNOUNCED, V4),
    "no next hop": (DUAL, NO_SIX, an_ad(), {V4: None}, Reason.BGP_ANNOUNCED, f"{V6} is not announced: this node has no address"),
    "1.4 node selectors of the peer": (
        replace(ONE, node_selectors=(labelled(rack="2"),)), SITE, an_ad(), {}, Reason.PEER_ELSEWHERE, "nodeSelectors",
    ),
    "nothing to a router whose AS is not known": (
        replace(ONE, peer_asn=None, dynamic_asn="external"), SITE, an_ad(), {}, Reason.PEER_AS_UNKNOWN, V4,
    ),
    "nothing to a router that has our AS and must not": (
        replace(ONE, peer_asn=None, dynamic_asn="external"), replace(SITE, asns={ONE.name: 65000}), an_ad(), {},
        Reason.PEER_AS_UNKNOWN, V4,
    ),
    "a router whose AS became known": (
        replace(ONE, peer_asn=None, dynamic_asn="external"), replace(SITE, asns={ONE.name: 65009}), an_ad(), {V4: None},
        Reason.BGP_ANNOUNCED, V4,
    ),
    "a refused peer": (replace(ONE, vrf="blue"), SITE, an_ad(), {}, Reason.PEER_REFUSED, "spec.vrf: this node has no VRF device"),
}  # fmt: skip


@pytest.mark.parametrize(("peer", "site", "ad", "routes", "reason", "text"), rows(PEERS))
def test_a_peer_is_told_what_its_session_carries_and_the_rest_has_a_reason(
    peer: Peer, site: Site, ad: BgpAdvertisement, routes: dict[str, object], reason: Reason, text: str
) -> None:
    service = web("203.0.113.7 2001:db8:a::7")
    table = a_table([service], a_cluster(ad), met(peer, site=site))
    assert {str(one.prefix): one.next_hop for each in table.routes.values() for one in each.values()} == routes
    (verdict,) = table.verdicts(service.key)
    assert (verdict.peer, verdict.reason) == (peer.name, reason)
    assert {str(prefix) for prefix in verdict.prefixes} == routes.keys()
    assert text in verdict.detail
    assert table.peers_of(service.key) == ((peer.name,) if routes else ())


@pytest.mark.parametrize(
    ("peer", "reason"), [(ONE, Reason.FAMILY_NOT_CARRIED), (DUAL, Reason.NO_NEXT_HOP)], ids=["one family", "no next hop"]
)
def test_a_session_that_carries_nothing_of_a_service_says_why(peer: Peer, reason: Reason) -> None:
    service = web("2001:db8:9::7")
    table = a_table([service], a_cluster(an_ad()), met(peer, site=NO_SIX))
    assert [verdict.reason for verdict in table.verdicts(service.key)] == [reason]


def test_one_prefix_has_one_route_with_every_community_in_order() -> None:
    ads = an_ad(communities=(BLUE, LARGE), local_pref=7), an_ad("two", communities=(RED, BLUE), local_pref=7)
    table = a_table([web()], a_cluster(*ads), met(ONE))
    assert told(table) == {"192.0.2.1": {"198.51.100.7/32": Route(ip_network("198.51.100.7/32"), None, 7, (RED, LARGE, BLUE))}}


def test_communities_of_an_advertisement_go_to_its_peers_only() -> None:
    ads = an_ad(communities=(RED,)), an_ad("two", communities=(BLUE,), peers="two")
    routes = told(a_table([web()], a_cluster(*ads), met(ONE, TWO)))
    assert routes["192.0.2.1"]["198.51.100.7/32"].communities == (RED,)
    assert routes["192.0.2.2"]["198.51.100.7/32"].communities == (RED, BLUE)


def test_services_with_other_communities_and_preferences_on_one_aggregate_make_one_route() -> None:
    """Advertisements with serviceSelectors and an aggregate are refused, but two Services may share an address."""
    ads = (
        an_ad(service_selectors=(labelled(app="web"),), communities=(RED,), local_pref=5),
        an_ad("two", service_selectors=(labelled(app="db"),), communities=(BLUE,), local_pref=6),
    )
    services = web(labels={"app": "web"}), a_service("db", "198.51.100.7", labels={"app": "db"})
    table = a_table(services, a_cluster(*ads), met(ONE))
    assert told(table)["192.0.2.1"]["198.51.100.7/32"] == Route(ip_network("198.51.100.7/32"), None, 6, (RED, BLUE))
    assert table.forget(services[1].key) == {"one"}
    assert told(table)["192.0.2.1"]["198.51.100.7/32"] == Route(ip_network("198.51.100.7/32"), None, 5, (RED,))


@pytest.mark.parity("Speaker > a service that shares an address")
@pytest.mark.parity("Speaker > peers of a service")
@pytest.mark.parametrize("second", ["198.51.100.7", "198.51.100.8"], ids=["shared address", "aggregate"])
def test_a_shared_prefix_is_withdrawn_with_its_last_service(second: str) -> None:
    cluster = a_cluster(an_ad(aggregation_length=24, peers="one"))
    table = a_table([web()], cluster, met(ONE, TWO))
    other = a_service("other", second)
    before = told(table)
    assert table.adopt(decide(other, cluster, ME)) == frozenset()
    assert told(table) == before
    assert table.peers_of(other.key) == table.peers_of(web().key) == ("one",)
    assert table.adopt(decide(replace(web(), ready=False), cluster, ME)) == frozenset()
    assert table.peers_of(web().key) == ()
    assert table.forget(other.key) == {"one"}
    assert told(table) == {"192.0.2.1": {}, "192.0.2.2": {}}
    assert table.forget(other.key) == frozenset()
    assert (table.verdicts(other.key), table.peers_of(other.key)) == ((), ())


def test_a_service_that_changes_its_address_moves_its_route() -> None:
    cluster = a_cluster(an_ad())
    table = a_table([web()], cluster, met(ONE))
    assert {str(prefix) for prefix in table.touched()} == {"198.51.100.7/32"}
    assert table.adopt(decide(web("198.51.100.8"), cluster, ME)) == {"one"}
    assert {str(prefix) for prefix in table.touched()} == {"198.51.100.7/32", "198.51.100.8/32"}
    assert not table.touched()
    assert told(table)["192.0.2.1"].keys() == {"198.51.100.8/32"}
    assert table.adopt(decide(web("198.51.100.8"), cluster, ME)) == frozenset()


@pytest.mark.parity("Speaker > a peer without services has an empty session")
def test_a_peer_without_services_has_an_empty_table() -> None:
    assert told(a_table([], a_cluster(an_ad()), met(ONE))) == {"192.0.2.1": {}}


@pytest.mark.parity("Speaker > peers of a service")
def test_peers_come_and_go_with_all_their_routes() -> None:
    cluster = a_cluster(an_ad())
    table = a_table([web()], cluster, met(ONE))
    table.meet(met(ONE, TWO))
    assert told(table)["192.0.2.1"] == told(table)["192.0.2.2"] != {}
    assert table.peers_of(web().key) == ("one", "two")
    table.meet(met(replace(TWO, dual_stack=True)))
    assert told(table).keys() == {"192.0.2.2"}
    table.check_invariants()
    table.meet(met())
    assert table.routes == {}
    assert table.decisions.keys() == {web().key}


ADS = [
    an_ad(),
    an_ad("wide", aggregation_length=24, communities=(RED,)),
    an_ad("listed", peers="one dual", communities=(BLUE,)),
    an_ad("preferred", local_pref=9, peers="two"),
    an_ad("web", service_selectors=(labelled(app="web"),), communities=(LARGE,), local_pref=9),
    an_ad("other", node_selectors=(labelled(rack="2"),)),
]
ADDRESSES = ["198.51.100.7", "198.51.100.8", "2001:db8:9::7", "203.0.113.7 2001:db8:a::7", "192.0.2.77", ""]
SERVICES = st.builds(
    lambda name, address, policy, ready, app: a_service(name, address, policy=policy, ready_on=ready, labels={"app": app}),
    st.sampled_from(["s0", "s1", "s2", "s3"]),
    st.sampled_from(ADDRESSES),
    st.sampled_from(list(TrafficPolicy)),
    st.sampled_from(["a", "b", "a b", ""]),
    st.sampled_from(["web", "db"]),
)
SOME_ADS = st.lists(st.sampled_from(ADS), unique_by=lambda one: one.name)
SOME_PEERS = st.lists(st.sampled_from([ONE, TWO, DUAL, SIX]), unique_by=lambda one: one.name)


@given(
    st.lists(SERVICES),
    st.lists(SERVICES, unique_by=lambda one: one.key),
    SOME_ADS,
    SOME_PEERS,
    st.randoms(use_true_random=False),
)
def test_the_routes_depend_on_the_facts_and_not_on_the_way_to_them(
    history: list[Service], services: list[Service], ads: list[BgpAdvertisement], peers: list[Peer], random: Random
) -> None:
    cluster = a_cluster(*ads)
    expected = a_table(services, cluster, met(*peers))
    other = a_cluster(*random.sample(ads, len(ads)))
    table = a_table(history, other, met(ONE))
    for service in random.sample(services, len(services)):
        table.adopt(decide(service, other, ME))
    table.meet(met(*random.sample(peers, len(peers))))
    for key in table.decisions.keys() - {one.key for one in services}:
        table.forget(key)
    table.check_invariants()
    assert table.routes == expected.routes
    for service in services:
        assert table.adopt(decide(service, other, ME)) == frozenset(), "adopting the same again changes nothing"
        assert table.verdicts(service.key) == expected.verdicts(service.key)
        _agrees(table, service.key)


def _agrees(table: Table, key: ServiceKey) -> None:
    """What the verdicts say is what the routes are, and every peer has one."""
    verdicts = {one.peer: one for one in table.verdicts(key)}
    names = {neighbor.peer for neighbor in table.routes}
    assert len(verdicts) == len(names)
    for verdict in verdicts.values():
        assert bool(verdict.prefixes) == (verdict.reason is Reason.BGP_ANNOUNCED)
        assert not verdict.prefixes or verdict.peer in table.peers_of(key)


def test_adopting_a_service_costs_no_more_on_a_large_aggregate() -> None:
    """Equal offers are counted, not collected: 300 Services of one aggregate are one offer."""
    cluster = a_cluster(an_ad(aggregation_length=24))
    table = a_table([a_service(f"s{n}", f"198.51.100.{n % 250}") for n in range(300)], cluster, met(ONE))
    assert [list(counts.values()) for counts in table._offers.values()] == [[300]]


EXABGP: Final = """
import json, sys
from exabgp.environment import getenv
from exabgp.logger import log
log.init(getenv())
from exabgp.configuration.configuration import Configuration
from exabgp.reactor.api import API
from exabgp.reactor.api.command.limit import extract_neighbors, match_neighbors
configuration = Configuration([sys.argv[1]])
assert configuration.reload(), configuration.error
parser = API(None)
for line in sys.stdin.read().splitlines():
    descriptions, command = extract_neighbors(line)
    (peer,) = match_neighbors(list(configuration.neighbors), descriptions)
    changes = parser.api_attributes(command, [peer])
    assert changes, line
    for change in changes:
        print(json.dumps([peer.split()[1], change.extensive()]))
"""


def test_exabgp_itself_understands_every_session_and_every_route(tmp_path: Path) -> None:
    """From the configuration to the commands by way of everything pure; ExaBGP's own parser reads both ends."""
    ads = an_ad(communities=(RED, LARGE), local_pref=7), an_ad("wide", aggregation_length=24, communities=(BLUE,))
    services = web(), a_service("six", "2001:db8:9::7"), a_service("dual", "203.0.113.7 2001:db8:a::7")
    sight = met(ONE, DUAL, replace(SIX, dual_stack=True, password="s3cret"))
    table = a_table(services, a_cluster(*ads), sight)
    file = tmp_path / "exabgp.conf"
    neighbors = [peering.neighbor for peering in sight.peerings]
    file.write_text(render(neighbors, run=f"{Path(sys.executable).resolve()} -SE /dev/null", generation=1))
    lines = _commands(table, sight)
    done = subprocess.run(
        [sys.executable, "-c", EXABGP, str(file)], input="\n".join(lines), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    understood: dict[str, dict[str, str]] = {}
    for peer, text in map(json.loads, done.stdout.splitlines()):
        understood.setdefault(peer, {})[text.split()[0]] = text
    planned = told(table)
    assert {peer: routes.keys() for peer, routes in understood.items()} == {
        peer: routes.keys() for peer, routes in planned.items()
    }
    for peer, routes in planned.items():
        for prefix, route in routes.items():
            own = HERE if ip_address(peer).version == 4 else HERE_SIX
            assert _attributes(route, str(route.next_hop or own)) <= set(_words(understood[peer][prefix])), prefix
    assert len(lines) > len(planned)


def _commands(table: Table, sight: Neighborhood) -> list[str]:
    """What ExaBGP is told once all sessions are up."""
    sessions = Sessions()
    sessions.started()
    sessions.want([peering.neighbor for peering in sight.peerings], table.routes)
    lines: list[str] = []
    for peering in sight.peerings:
        local = HERE if peering.neighbor.peer.version == 4 else HERE_SIX
        sessions.heard(api.Negotiated(peering.neighbor.key, frozenset(peering.neighbor.families), 90), 0.0)
        effects = sessions.heard(api.StateChange(replace(peering.neighbor.key, local=local), up=True), 0.0)
        lines += (effect.line for effect in effects if isinstance(effect, Command) and " announce attributes " in effect.line)
    return lines


def _words(text: str) -> list[str]:
    return text.replace("[", " ").replace("]", " ").split()


def _attributes(route: Route, next_hop: str) -> set[str]:
    communities = {":".join(map(str, one.parts)) for one in route.communities}
    return {next_hop, *communities} | ({"local-preference", str(route.local_pref)} if route.local_pref else set())
