"""Rows of MetalLB's tables about who announces at layer 2, decided on frozen worlds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from hashlib import sha256
from random import Random

import pytest

from config.model import InterfaceName, NodeName
from speaker.layer2.interfaces import wanted
from speaker.observe import service_of
from speaker.plan import decide
from speaker.reason import Reason
from speaker.world import Node, TrafficPolicy
from tests.builders_speaker import ETH0, ETH1, a_config, a_link, a_service, a_world, an_advertisement, labelled, nodes
from tests.unit.speaker.test_observe import endpoints, service

ADDRESS = "192.0.2.10"
A, B, C = NodeName("a"), NodeName("b"), NodeName("c")


def by_hash(address: str, among: Iterable[str]) -> list[str]:
    """The documented order, computed here anew: SHA-256 of "node#address", ascending."""
    return sorted(among, key=lambda node: sha256(f"{node}#{address}".encode()).digest())


def on(name: str) -> dict[str, Node]:
    """Node `name` carries the label rack=1."""
    return {name: Node(NodeName(name), {"rack": "1"})}


@pytest.mark.parity("Speaker > usable nodes are merged over slices")
def test_endpoints_of_all_slices_count() -> None:
    seen = service_of(service("web", ADDRESS), [endpoints("a", name="one"), endpoints("b", name="two")], "")
    assert seen is not None
    assert seen.ready_nodes == nodes("a b")


@pytest.mark.parity("Speaker > an advertisement for one node, policy Cluster")
def test_the_one_node_of_an_advertisement_announces_wherever_the_endpoint_is() -> None:
    web = a_service(ready_on="b")
    world = a_world("a b c", web, config=a_config(an_advertisement(on=(labelled(rack="1"),))), node=on("a"))
    assert decide(web, world).ranking == (A,)


@pytest.mark.parity("Speaker > an advertisement for one node, endpoint on another, policy Local")
def test_under_local_policy_the_one_node_of_an_advertisement_needs_the_endpoint() -> None:
    web = a_service(ready_on="b", policy=TrafficPolicy.LOCAL)
    world = a_world("a b c", web, config=a_config(an_advertisement(on=(labelled(rack="1"),))), node=on("a"))
    assert decide(web, world).winner is None
    assert decide(web, world).reason is Reason.NO_CANDIDATE


@pytest.mark.parity("Speaker > the exclude label > on both")
def test_if_all_nodes_are_excluded_nobody_announces() -> None:
    web = a_service()
    excluded = {name: Node(NodeName(name), excluded=True) for name in "ab"}
    decision = decide(web, a_world("a b", web, node=excluded))
    assert (decision.winner, decision.reason) == (None, Reason.NODE_EXCLUDED)


@pytest.mark.parity("Speaker > two services on one address have one owner")
def test_two_services_at_one_address_are_won_by_one_node() -> None:
    services = [a_service(name, ready_on=where) for name, where in (("one", "a"), ("two", "b"))]
    world = a_world("a b c", *services)
    assert {decide(one, world).winner for one in services} == {by_hash(ADDRESS, "abc")[0]}


@pytest.mark.parity("Speaker > the election uses all matching advertisements, the interfaces only this node's")
def test_the_interfaces_are_those_of_the_advertisements_that_reach_the_winner() -> None:
    config = a_config(
        an_advertisement("here", on=(labelled(rack="1"),), interfaces="eth0"),
        an_advertisement("there", on=(labelled(rack="2"),), interfaces="eth1"),
    )
    racks = {"a": Node(A, {"rack": "1"}), "b": Node(B, {"rack": "2"})}
    web = a_service()
    links = (a_link("eth0"), a_link("eth1", 3))
    world = a_world("a b c", web, config=config, node=racks, links=links)
    ranking = decide(web, world).ranking
    assert list(ranking) == by_hash(ADDRESS, "ab")
    announce = decide(web, replace(world, me=ranking[0])).announce
    assert announce is not None
    assert announce.interfaces == {ETH0 if ranking[0] == "a" else ETH1}


@pytest.mark.parity("Speaker > preferences > the highest score wins, ties go to the hash")
def test_the_highest_score_wins_and_equal_scores_go_to_the_hash() -> None:
    config = a_config(an_advertisement(prefer={10: labelled(rack="1"), 20: labelled(rack="2")}))
    web = a_service()
    racks = {"a": Node(A, {"rack": "1"}), "b": Node(B, {"rack": "2"}), "c": Node(C, {"rack": "2"})}
    assert list(decide(web, a_world("a b c d", web, config=config, node=racks)).ranking) == [*by_hash(ADDRESS, "bc"), "a", "d"]


@pytest.mark.parity("Speaker > preferences > a preferred node without endpoint is dropped under Local")
def test_under_local_policy_a_preferred_node_without_an_endpoint_is_no_candidate() -> None:
    config = a_config(an_advertisement(prefer={100: labelled(rack="1")}))
    web = a_service(ready_on="b c", policy=TrafficPolicy.LOCAL)
    assert list(decide(web, a_world("a b c", web, config=config, node=on("a"))).ranking) == by_hash(ADDRESS, "bc")


@pytest.mark.parity("Speaker > preferences > return of the preferred node")
def test_a_preferred_node_that_returns_wins_again() -> None:
    config = a_config(an_advertisement(prefer={100: labelled(rack="1")}))
    web = a_service()
    last = by_hash(ADDRESS, "abc")[-1]
    away = a_world("a b c", web, config=config, node=on(last), members=" ".join({*"abc"} - {last}))
    back = a_world("a b c", web, config=config, node=on(last))
    assert (decide(web, away).winner, decide(web, back).winner) == (by_hash(ADDRESS, {*"abc"} - {last})[0], last)


@pytest.mark.parity("Speaker > interfaces of several advertisements are merged")
def test_interfaces_are_merged_and_none_means_all() -> None:
    named = [frozenset({ETH0}), frozenset({ETH1, InterfaceName("eth2")})]
    assert wanted(named) == frozenset(map(InterfaceName, ("eth0", "eth1", "eth2")))
    assert wanted([*named, frozenset()]) is None


def test_two_hundred_elections_are_won_as_documented() -> None:
    chance = Random(4)  # noqa: S311  (repeatable on purpose)
    for _ in range(200):
        names = [f"node-{number}" for number in chance.sample(range(1000), chance.randint(1, 12))]
        address = f"192.0.2.{chance.randrange(256)}"
        web = a_service(address=address)
        world = a_world(" ".join(names), web, me=names[0])
        assert list(decide(web, world).ranking) == by_hash(address, names)
