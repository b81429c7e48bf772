"""Who announces a Service, and the reason given for it."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_address

import pytest

from config.model import AddressRange, Election, InterfaceName, NodeName, Pool, PoolName, ServiceKey
from speaker.election import elect
from speaker.eligibility import ELIGIBLE, Ineligible, judge
from speaker.plan import Announce, Decision, Plan, decide
from speaker.reason import Reason
from speaker.world import Node, Service, TrafficPolicy, World
from tests.builders_speaker import (
    ETH0,
    ETH1,
    VIP,
    a_config,
    a_link,
    a_service,
    a_world,
    an_advertisement,
    labelled,
    nodes,
)

LOCAL = TrafficPolicy.LOCAL
TEXTS = [f"192.0.2.{last}" for last in range(1, 100)]


def everywhere(service: Service, world: World) -> list[Decision]:
    """What each node of the world decides."""
    return [decide(service, replace(world, me=name)) for name in sorted(world.cluster.nodes)]


def winner_of(service: Service, world: World) -> str | None:
    return decide(service, world).winner


def test_exactly_one_node_announces_and_all_agree_on_the_ranking() -> None:
    web = a_service()
    decisions = everywhere(web, a_world("a b c", web))
    assert [one.reason for one in decisions].count(Reason.WON_ELECTION) == 1
    assert len({one.ranking for one in decisions}) == 1
    assert {one.reason for one in decisions} == {Reason.WON_ELECTION, Reason.LOST_ELECTION}


def test_the_winner_announces_on_its_interfaces() -> None:
    web = a_service()
    world = a_world("a", web, links=(a_link("eth0"), a_link("eth1", 3, up=False)))
    assert decide(web, world).announce == Announce((VIP,), frozenset({ETH0}), on_every_interface=True)


def test_the_loser_names_the_winner() -> None:
    web = a_service()
    world = a_world("a b c", web)
    winner = winner_of(web, world)
    loser = next(name for name in "abc" if name != winner)
    assert decide(web, replace(world, me=NodeName(loser))).detail.startswith(f"{winner} is first of ")


@pytest.mark.parametrize(
    ("service", "reason"),
    [
        (a_service(address=""), Reason.NO_ADDRESS),
        (a_service(unreadable="example.org"), Reason.INVALID_ADDRESS),
        (a_service(address="198.51.100.1"), Reason.ADDRESS_IN_NO_POOL),
        (a_service(address="192.0.2.1 198.51.100.1"), Reason.ADDRESS_IN_NO_POOL),
        (a_service(ready_on=""), Reason.NO_READY_ENDPOINT),
    ],
)
def test_nobody_announces_what_cannot_be_served(service: Service, reason: Reason) -> None:
    for decision in everywhere(service, a_world("a b", service)):
        assert (decision.announce, decision.reason, decision.ranking) == (None, reason, ())
        assert decision.detail


def test_an_address_of_a_pool_that_broke_is_still_announced() -> None:
    web = a_service(address="198.51.100.1", allocated_from="torn")
    config = a_config(an_advertisement(pools="torn"), broken=["torn"])
    assert decide(web, a_world("a", web, config=config)).reason is Reason.WON_ELECTION


def test_an_address_of_a_deleted_pool_is_not_announced() -> None:
    web = a_service(address="198.51.100.1", allocated_from="gone")
    assert decide(web, a_world("a", web)).reason is Reason.ADDRESS_IN_NO_POOL


def test_no_advertisement_for_the_pool_means_no_announcement() -> None:
    web = a_service()
    config = a_config(an_advertisement(pools="other"))
    assert decide(web, a_world("a", web, config=config)).reason is Reason.NO_MATCHING_ADVERTISEMENT


@pytest.mark.parity("Speaker > serviceSelectors restrict the candidates")
def test_service_selectors_restrict_an_advertisement_and_any_of_them_suffices() -> None:
    config = a_config(an_advertisement(services=(labelled(tier="web"), labelled(tier="db"))))
    for labels, reason in (({"tier": "db"}, Reason.WON_ELECTION), ({"tier": "x"}, Reason.NO_MATCHING_ADVERTISEMENT)):
        service = a_service(labels=labels)
        assert decide(service, a_world("a", service, config=config)).reason is reason


@pytest.mark.parity("Speaker > allow-shared-ip with serviceSelectors is refused")
def test_a_service_that_may_share_is_not_announced_by_an_advertisement_with_service_selectors() -> None:
    config = a_config(an_advertisement("all"), an_advertisement("some", services=(labelled(tier="web"),)))
    web = a_service(labels={"tier": "web"}, may_share=True)
    decision = decide(web, a_world("a", web, config=config))
    assert decision.reason is Reason.SHARED_WITH_SERVICE_SELECTOR
    assert "some" in decision.detail
    plain = replace(web, may_share=False)
    assert decide(plain, a_world("a", plain, config=config)).reason is Reason.WON_ELECTION


@pytest.mark.parity("Speaker > policy Local: candidates are nodes with a usable endpoint, the hash decides")
def test_local_policy_leaves_nodes_with_a_ready_endpoint_only() -> None:
    web = a_service(policy=LOCAL, ready_on="b")
    world = a_world("a b c", web)
    assert decide(web, world).ranking == ("b",)
    assert decide(web, world).reason is Reason.NO_LOCAL_ENDPOINT


@pytest.mark.parametrize(("all_ours", "first"), [(True, "b"), (False, "a")])
def test_an_address_leaves_a_node_before_its_last_endpoint_ends(*, all_ours: bool, first: str) -> None:
    """Unless a MetalLB speaker is there, which would not follow."""
    quick = next(text for text in TEXTS if elect(ip_address(text), [NodeName("a"), NodeName("b")], {})[0] == "a")
    web = a_service(address=quick, policy=LOCAL, ready_on="a b", ending_on="a")
    world = a_world("a b", web)
    world = replace(world, cluster=replace(world.cluster, all_ours=all_ours))
    assert decide(web, world).ranking[0] == first
    assert set(decide(web, world).ranking) == {"a", "b"}


def test_an_address_stays_where_its_last_endpoint_ends_if_there_is_no_other_node() -> None:
    web = a_service(policy=LOCAL, ready_on="a b", ending_on="a b")
    world = a_world("a b", web)
    ours = replace(world, cluster=replace(world.cluster, all_ours=True))
    assert decide(web, ours).ranking == decide(web, world).ranking


def test_sharers_leave_a_node_together() -> None:
    web = a_service("web", policy=LOCAL, ready_on="a b", ending_on="a")
    dns = a_service("dns", policy=LOCAL, ready_on="a b", ending_on="")
    world = a_world("a b", web, dns)
    ours = replace(world, cluster=replace(world.cluster, all_ours=True))
    assert decide(web, ours).ranking == decide(dns, ours).ranking == ("b", "a")


def balanced_world(*services: Service, ours: bool = True) -> World:
    config = a_config(an_advertisement(election=Election.BALANCED))
    world = a_world("a b c", *services, config=config)
    return replace(world, cluster=replace(world.cluster, all_ours=ours))


def many(count: int) -> list[Service]:
    return [a_service(f"s{number}", TEXTS[number]) for number in range(count)]


def test_balanced_addresses_are_spread_evenly_and_all_speakers_agree() -> None:
    services = many(30)
    world = balanced_world(*services)
    winners = [winner_of(service, world) for service in services]
    assert {winners.count(node) for node in "abc"} == {10}
    for service in services:
        assert [one.reason for one in everywhere(service, world)].count(Reason.WON_ELECTION) == 1
        assert len({one.ranking for one in everywhere(service, world)}) == 1


def test_balanced_addresses_go_by_the_hash_while_a_metallb_speaker_is_there() -> None:
    services = many(30)
    world, plain = balanced_world(*services, ours=False), a_world("a b c", *services)
    assert [winner_of(one, world) for one in services] == [winner_of(one, plain) for one in services]


def test_balance_does_not_outweigh_a_preference_or_an_endpoint_that_ends() -> None:
    services = many(10)
    config = a_config(an_advertisement(election=Election.BALANCED, prefer={10: labelled(rack="1")}))
    world = a_world("a b c", *services, config=config, node={"b": Node(NodeName("b"), {"rack": "1"})})
    world = replace(world, cluster=replace(world.cluster, all_ours=True))
    assert {winner_of(one, world) for one in services} == {"b"}
    ending = [replace(one, policy=LOCAL, ready_nodes=nodes("a b c"), ending_nodes=nodes("a")) for one in services]
    assert {winner_of(one, balanced_world(*ending)) for one in ending} == {"b", "c"}


def test_services_that_share_a_balanced_address_have_one_owner_and_those_without_candidates_count_for_nothing() -> None:
    shared = [a_service(name, TEXTS[0], policy=LOCAL, ready_on=on) for name, on in (("one", "a b"), ("two", "b c"))]
    nobody = a_service("nobody", TEXTS[1], policy=LOCAL, ready_on="")
    world = balanced_world(*shared, nobody)
    assert [winner_of(one, world) for one in shared] == ["b", "b"]
    assert winner_of(nobody, world) is None


def test_cluster_policy_needs_no_endpoint_on_the_announcing_node() -> None:
    web = a_service(ready_on="b")
    assert set(decide(web, a_world("a b c", web)).ranking) == {"a", "b", "c"}


def test_local_policy_with_endpoints_that_name_no_node_has_no_candidate() -> None:
    web = replace(a_service(policy=LOCAL), ready_nodes=frozenset())
    decision = decide(web, a_world("a b", web))
    assert (decision.reason, decision.ranking) == (Reason.NO_LOCAL_ENDPOINT, ())
    assert "a" in decision.detail


@pytest.mark.parametrize(
    ("world", "reason"),
    [
        (a_world("a b", members="a"), Reason.SPEAKER_DOWN),
        (a_world("a", members="a b"), Reason.NODE_UNKNOWN),
        (a_world("a", node={"b": Node(NodeName("b"), excluded=True)}, members="a b"), Reason.NODE_EXCLUDED),
        (
            a_world("a", node={"b": Node(NodeName("b"), network_unavailable=True)}, members=None),
            Reason.NODE_NETWORK_UNAVAILABLE,
        ),
        (a_world("a"), Reason.NODE_UNKNOWN),
    ],
)
@pytest.mark.parity("Speaker > the exclude label > on one node")
def test_unfit_nodes_are_not_candidates(world: World, reason: Reason) -> None:
    web = a_service()
    verdict = judge(web, NodeName("b"), world)
    assert isinstance(verdict, Ineligible)
    assert verdict.reason is reason
    decision = decide(web, replace(world, me=NodeName("b")))
    assert (decision.ranking, decision.reason) == (("a",), reason)
    assert "a is first of a for" in decision.detail


@pytest.mark.parity("Speaker > the exclude label > ignored with the flag")
def test_the_exclude_label_can_be_ignored() -> None:
    world = a_world("", node={"a": Node(NodeName("a"), excluded=True)}, members=None, honour_exclude_label=False)
    assert judge(a_service(), NodeName("a"), world) is ELIGIBLE


def test_a_service_without_terms_is_judged_the_same_for_every_node() -> None:
    verdict = judge(a_service(address=""), NodeName("a"), a_world("a"))
    assert isinstance(verdict, Ineligible)
    assert verdict.reason is Reason.NO_ADDRESS


def test_with_gossip_disabled_every_node_is_a_candidate() -> None:
    web = a_service()
    assert set(decide(web, a_world("a b c", web, members=None)).ranking) == {"a", "b", "c"}


def test_without_any_node_nobody_announces() -> None:
    web = a_service()
    assert (decide(web, a_world("", web)).reason, decide(web, a_world("", web)).detail) == (
        Reason.NO_CANDIDATE,
        "no node is known",
    )


def test_different_obstacles_are_all_named() -> None:
    web = a_service()
    world = a_world("a b", web, members="b", node={"b": Node(NodeName("b"), excluded=True)})
    decision = decide(web, world)
    assert decision.reason is Reason.NO_CANDIDATE
    assert "a is not a member" in decision.detail
    assert "b has the label" in decision.detail


def test_node_selectors_of_any_matching_advertisement_make_a_candidate() -> None:
    config = a_config(an_advertisement("one", on=(labelled(rack="1"),)), an_advertisement("two", on=(labelled(rack="2"),)))
    racks = {name: Node(NodeName(name), {"rack": rack}) for name, rack in (("a", "1"), ("b", "2"), ("c", "3"))}
    web = a_service()
    world = a_world("a b c", web, config=config, node=racks, me="c")
    decision = decide(web, world)
    assert set(decision.ranking) == {"a", "b"}
    assert decision.reason is Reason.NO_MATCHING_ADVERTISEMENT


def test_preferences_of_matching_advertisements_add_up() -> None:
    racks = {name: Node(NodeName(name), {"rack": rack}) for name, rack in (("a", "1"), ("b", "2"), ("c", "3"))}
    config = a_config(
        an_advertisement("one", prefer={60: labelled(rack="1"), 50: labelled(rack="3")}),
        an_advertisement("two", prefer={20: labelled(rack="3")}),
        an_advertisement("elsewhere", pools="other", prefer={100: labelled(rack="2")}),
    )
    web = a_service()
    assert decide(web, a_world("a b c", web, config=config, node=racks)).ranking == ("c", "a", "b")


def test_a_preference_does_not_reach_beyond_the_node_selectors_of_its_advertisement() -> None:
    racks = {name: Node(NodeName(name), {"rack": rack}) for name, rack in (("a", "1"), ("b", "2"))}
    web = a_service()
    plain = decide(web, a_world("a b", web, node=racks)).ranking
    config = a_config(
        an_advertisement("all"), an_advertisement("one", on=(labelled(rack="1"),), prefer={100: labelled(rack="2")})
    )
    assert decide(web, a_world("a b", web, config=config, node=racks)).ranking == plain


def test_both_addresses_follow_the_election_of_the_first() -> None:
    config = a_config()
    both = a_service(address="192.0.2.10 192.0.2.11")
    world = a_world("a b c", both, config=config)
    alone = a_service("alone", "192.0.2.10")
    assert decide(both, world).ranking == decide(alone, world).ranking


def test_sharers_under_local_policy_have_one_owner_that_suits_all() -> None:
    web = a_service("web", policy=LOCAL, ready_on="a b", may_share=True)
    dns = a_service("dns", policy=LOCAL, ready_on="b c", may_share=True)
    world = a_world("a b c", web, dns)
    assert decide(web, world).ranking == decide(dns, world).ranking == ("b",)


def test_sharers_without_a_common_node_are_refused_with_a_reason() -> None:
    web = a_service("web", policy=LOCAL, ready_on="a")
    dns = a_service("dns", policy=LOCAL, ready_on="c")
    decision = decide(web, a_world("a b c", web, dns))
    assert (decision.reason, decision.announce) == (Reason.SHARERS_DISAGREE, None)
    assert "default/dns" in decision.detail


def test_a_sharer_that_nobody_can_announce_has_no_say() -> None:
    web = a_service("web", policy=LOCAL, ready_on="a")
    idle = a_service("idle", policy=LOCAL, ready_on="")
    homeless = replace(a_service("homeless", policy=LOCAL), ready_nodes=frozenset())
    assert decide(web, a_world("a b", web, idle, homeless)).ranking == ("a",)


def test_a_sharer_that_is_gone_has_no_say() -> None:
    web = a_service()
    world = replace(a_world("a", web), sharers={web.addresses[0]: (web.key, ServiceKey("default/gone"))})
    assert decide(web, world).reason is Reason.WON_ELECTION


def test_a_speaker_that_must_wait_says_so_instead_of_announcing() -> None:
    web = a_service()
    decision = decide(web, a_world("a", web, hold="the first join has not succeeded yet"))
    assert (decision.announce, decision.reason) == (None, Reason.WAITING_FOR_MEMBERS)
    assert decision.detail == "the first join has not succeeded yet"


_RANGES = ((ip_address("2001:db8::"), ip_address("2001:db8::ff")), (ip_address("192.0.2.0"), ip_address("192.0.2.255")))
DUAL = a_config(pools=(Pool(PoolName("default"), tuple(AddressRange(*ends) for ends in _RANGES)),))
LINK_LOCAL = ip_address("fe80::1").packed


def test_an_ipv6_address_is_announced_where_there_is_a_link_local_address() -> None:
    web = a_service(address="2001:db8::1")
    links = (a_link(link_locals=(LINK_LOCAL,)), a_link("eth1", 3))
    announce = decide(web, a_world("a", web, config=DUAL, links=links)).announce
    assert announce == Announce(web.addresses, frozenset({ETH0}), on_every_interface=True)


def test_an_ipv6_address_needs_a_link_local_address() -> None:
    web = a_service(address="2001:db8::1")
    decision = decide(web, a_world("a", web, config=DUAL))
    assert (decision.announce, decision.reason) == (None, Reason.NO_USABLE_INTERFACE)
    assert decision.detail == "eth0 has no IPv6 link-local address"


def test_one_family_is_announced_where_the_other_cannot_be_and_the_detail_says_so() -> None:
    web = a_service(address="192.0.2.10 2001:db8::1")
    decision = decide(web, a_world("a", web, config=DUAL))
    assert decision.announce == Announce((VIP,), frozenset({ETH0}), on_every_interface=True)
    assert decision.detail.endswith("; 2001:db8::1 is not announced: eth0 has no IPv6 link-local address")


def test_both_families_follow_the_election_of_the_first_address() -> None:
    web = a_service(address="2001:db8::1 192.0.2.10")
    links = (a_link(link_locals=(LINK_LOCAL,)),)
    worlds = [a_world("a b c", web, me=me, config=DUAL, links=links) for me in "abc"]
    announcing = [one.announce for one in (decide(web, world) for world in worlds) if one.announce is not None]
    assert [one.addresses for one in announcing] == [web.addresses]
    assert decide(web, worlds[0]).ranking == elect(web.addresses[0], worlds[0].cluster.nodes, {})


@pytest.mark.parity("Speaker > interfaces of several advertisements are merged")
def test_interfaces_are_the_union_over_advertisements_that_reach_this_node() -> None:
    config = a_config(
        an_advertisement("one", interfaces="eth0"),
        an_advertisement("two", interfaces="eth1"),
        an_advertisement("elsewhere", on=(labelled(rack="9"),)),
    )
    web = a_service()
    links = tuple(a_link(name, index) for index, name in enumerate(("eth0", "eth1", "eth2"), 2))
    announce = decide(web, a_world("a", web, config=config, links=links)).announce
    assert announce == Announce((VIP,), frozenset({ETH0, ETH1}), on_every_interface=False)


def test_a_winner_without_a_usable_interface_says_which_and_why() -> None:
    config = a_config(an_advertisement(interfaces="eth0 eth7"))
    web = a_service()
    decision = decide(web, a_world("a", web, config=config, links=(a_link(up=False),)))
    assert (decision.announce, decision.reason) == (None, Reason.NO_USABLE_INTERFACE)
    assert decision.detail == "eth0 is down, eth7 does not exist"


def announcing(name: str, *addresses: str, on: str = "eth0") -> Decision:
    packed = tuple(IPv4Address(address) for address in addresses)
    announce = Announce(packed, frozenset(InterfaceName(one) for one in on.split()), on_every_interface=False)
    return Decision(ServiceKey(name), packed, announce, Reason.WON_ELECTION, "", (NodeName("a"),))


def test_an_address_is_owned_on_the_interfaces_of_all_its_services() -> None:
    plan = Plan()
    assert plan.adopt(announcing("x", "192.0.2.10")) == {VIP}
    plan.adopt(announcing("y", "192.0.2.10", on="eth1"))
    assert plan.interfaces_of(VIP) == {ETH0, ETH1}
    assert plan.layer2() == {VIP: {ETH0, ETH1}}
    assert plan.services_at(VIP) == ("x", "y")
    plan.check_invariants()


@pytest.mark.parity("Wire > an address has as many users as services")
def test_an_address_is_withdrawn_when_its_last_service_leaves() -> None:
    plan = Plan()
    plan.adopt(announcing("x", "192.0.2.10"))
    plan.adopt(announcing("y", "192.0.2.10"))
    plan.forget(ServiceKey("x"))
    assert plan.interfaces_of(VIP) == {ETH0}
    assert plan.forget(ServiceKey("y")) == {VIP}
    assert plan.interfaces_of(VIP) == frozenset()
    assert plan.forget(ServiceKey("never")) == frozenset()
    plan.check_invariants()
    assert not plan.decisions


def test_a_new_address_touches_the_old_one_too() -> None:
    plan = Plan()
    plan.adopt(announcing("x", "192.0.2.10"))
    assert plan.adopt(announcing("x", "192.0.2.11")) == {VIP, IPv4Address("192.0.2.11")}
    plan.adopt(Decision(ServiceKey("x"), (), None, Reason.NO_ADDRESS, ""))
    plan.check_invariants()


def test_every_reason_has_a_word_and_a_sentence() -> None:
    assert len({reason.value for reason in Reason}) == len({reason.sentence for reason in Reason}) == len(Reason)
    assert all(reason.value == reason.name for reason in Reason)
