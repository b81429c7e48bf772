"""What must hold for every world: same inputs, same winner; minimal movement; withdrawn means silent; parsers never raise."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

from hypothesis import given
from hypothesis import strategies as st

from config.model import InterfaceName, IPAddress, NodeName
from speaker.election import elect
from speaker.layer2 import arp, bpf, ndp
from speaker.layer2.arp import ArpReply, ArpRequest
from speaker.layer2.responder import (
    ANNOUNCE_ROUNDS,
    Announce,
    Claimed,
    Effect,
    Event,
    Face,
    Faces,
    Fade,
    Form,
    Heard,
    Message,
    Own,
    Responder,
    SendFrame,
)
from speaker.plan import decide
from speaker.world import Node, TrafficPolicy, World
from tests.builders_speaker import (
    ETH0,
    ETH1,
    MAC,
    OTHER_MAC,
    a_config,
    a_service,
    a_world,
    an_advertisement,
    labelled,
)
from tests.unit.speaker.layer2.test_bpf import run as run_filter

names = st.text("abcdefghij-", min_size=1, max_size=8).map(NodeName)
candidates = st.lists(names, unique=True, max_size=8)
addresses = st.integers(0, 2**32 - 1).map(IPv4Address)
scores = st.dictionaries(names, st.integers(0, 100), max_size=8)


@given(addresses, candidates, scores, st.randoms())
def test_the_order_of_candidates_does_not_matter(
    address: IPv4Address, found: list[NodeName], points: dict[NodeName, int], chance: object
) -> None:
    shuffled = list(found)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]  # A random.Random.
    assert elect(address, shuffled, points) == elect(address, found, points)


@given(addresses, candidates.filter(bool), scores, st.data())
def test_removing_a_candidate_never_reorders_the_others(
    address: IPv4Address, found: list[NodeName], points: dict[NodeName, int], data: st.DataObject
) -> None:
    gone = data.draw(st.sampled_from(found))
    rest = [name for name in found if name != gone]
    assert elect(address, rest, points) == tuple(name for name in elect(address, found, points) if name != gone)


@given(addresses, candidates, scores, names)
def test_a_new_candidate_moves_an_address_only_to_itself(
    address: IPv4Address, found: list[NodeName], points: dict[NodeName, int], new: NodeName
) -> None:
    before = elect(address, found, points)
    after = elect(address, sorted({*found, new}), points)
    assert after[0] in {new, *before[:1]}


def test_the_winner_is_the_same_whatever_the_hash_seed() -> None:
    program = (
        "from ipaddress import ip_address\n"
        "from dataclasses import replace\n"
        "from speaker.plan import decide\n"
        "from tests.builders_speaker import a_service, a_world\n"
        "web = a_service()\n"
        "world = a_world('a b c d e f', web)\n"
        "print([decide(web, replace(world, me=name)).ranking for name in 'abcdef'])\n"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": "."},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("0", "1", "4242")
    }
    assert len(said) == 1


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Clusters of up to six nodes in three racks, with members, exclusions, selectors and a few Services."""
    everyone = "abcdef"
    known = draw(st.sets(st.sampled_from(everyone)))
    members = draw(st.none() | st.sets(st.sampled_from(everyone)))
    cluster = {
        name: Node(
            NodeName(name),
            {"rack": draw(st.sampled_from("123"))},
            network_unavailable=draw(st.booleans()) and draw(st.booleans()),
            excluded=draw(st.booleans()) and draw(st.booleans()),
        )
        for name in known
    }
    advertisements = [
        an_advertisement(
            f"ad{index}",
            on=tuple(labelled(rack=rack) for rack in draw(st.sets(st.sampled_from("123")))),
            interfaces=" ".join(draw(st.sets(st.sampled_from(["eth0", "eth9"])))),
        )
        for index in range(draw(st.integers(1, 3)))
    ]
    services = [
        a_service(
            f"s{index}",
            draw(st.sampled_from(["", "192.0.2.1", "192.0.2.2", "198.51.100.1"])),
            policy=draw(st.sampled_from(list(TrafficPolicy))),
            ready_on=" ".join(draw(st.sets(st.sampled_from(everyone)))),
        )
        for index in range(draw(st.integers(1, 4)))
    ]
    return a_world(
        "",
        *services,
        node=cluster,
        members=None if members is None else " ".join(sorted(members)),
        config=a_config(*advertisements),
    )


@given(worlds())
def test_every_node_sees_the_same_ranking_and_at_most_one_announces(world: World) -> None:
    for service in world.services.values():
        decisions = [decide(service, replace(world, me=NodeName(name))) for name in "abcdef"]
        assert len({one.ranking for one in decisions}) == 1
        assert sum(one.announce is not None for one in decisions) <= 1
        assert all(one.detail for one in decisions)


@given(worlds())
def test_services_at_one_address_are_announced_by_one_node(world: World) -> None:
    owners: dict[object, set[NodeName]] = {}
    for name in map(NodeName, "abcdef"):
        for service in world.services.values():
            decision = decide(service, replace(world, me=name))
            if decision.announce is not None:
                owners.setdefault(decision.announce.addresses[0], set()).add(name)
    assert all(len(found) == 1 for found in owners.values())


@given(worlds(), st.sampled_from("abcdef"))
def test_losing_a_node_moves_only_what_it_had(world: World, gone: str) -> None:
    cluster = world.cluster
    members = cluster.members if cluster.members is not None else frozenset(cluster.nodes)
    full = replace(world, cluster=replace(cluster, members=members))
    less = replace(world, cluster=replace(cluster, members=members - {NodeName(gone)}))
    for service in world.services.values():
        before, after = decide(service, full), decide(service, less)
        if before.winner not in {gone, None} and len(world.sharers[service.addresses[0]]) == 1:
            assert after.winner == before.winner


FOUR, SIX = IPv4Address("192.0.2.0"), IPv6Address("2001:db8::")
addresses_of_both = st.one_of(st.integers(0, 5).map(lambda n: FOUR + n), st.integers(0, 5).map(lambda n: SIX + n))
owned = st.sets(st.one_of(st.integers(0, 12).map(lambda n: FOUR + n), st.integers(0, 12).map(lambda n: SIX + n)))
LINK_LOCAL = IPv6Address("fe80::1").packed
interface_sets = st.frozensets(st.sampled_from([ETH0, ETH1]))
macs = st.sampled_from([MAC, OTHER_MAC, bytes.fromhex("020000000002")])


def heard_about(address: IPAddress) -> st.SearchStrategy[Message]:
    """Anything that may be said about an address."""
    packed = st.just(address.packed)
    if isinstance(address, IPv4Address):
        destinations = st.sampled_from([arp.BROADCAST, MAC, OTHER_MAC])
        senders = st.sampled_from([bytes(4), FOUR.packed, IPv4Address("198.51.100.1").packed])
        return st.one_of(st.builds(ArpRequest, destinations, macs, senders, packed), st.builds(ArpReply, macs, packed))
    sources = st.sampled_from([ndp.UNSPECIFIED, IPv6Address("fe80::aa").packed])
    groups = st.sampled_from([bytes.fromhex("3333ff000001"), MAC, OTHER_MAC])
    return st.one_of(
        st.builds(ndp.Solicitation, groups, macs, sources, packed),
        st.builds(ndp.Advertisement, macs, macs, sources, packed),
    )


events: st.SearchStrategy[Event] = st.one_of(
    st.dictionaries(addresses_of_both, interface_sets, max_size=4).map(Own),
    st.dictionaries(
        st.sampled_from([ETH0, ETH1]),
        st.builds(
            Face,
            st.sampled_from([MAC, bytes.fromhex("020000000002")]),
            st.booleans(),
            st.sampled_from([None, LINK_LOCAL, IPv6Address("fe80::2").packed]),
        ),
    ).map(Faces),
    st.frozensets(addresses_of_both, max_size=3).map(Fade),
    st.frozensets(addresses_of_both, max_size=3).map(Announce),
    st.builds(Heard, st.sampled_from([ETH0, ETH1]), addresses_of_both.flatmap(heard_about)),
)


@given(st.lists(st.tuples(events, st.floats(0, 3)), max_size=20))
def test_no_frame_is_ever_sent_for_an_address_that_is_not_owned_there(script: list[tuple[Event, float]]) -> None:
    responder, now = Responder(), 0.0
    faces: Mapping[InterfaceName, Face] = {}
    belongs: dict[IPAddress, frozenset[InterfaceName]] = {}

    def check(effects: Sequence[Effect]) -> None:
        for one in effects:
            assert one.interface in belongs.get(one.address, frozenset()), "a word about what is not owned there"
            assert one.interface in faces
            if isinstance(one, Claimed):
                assert one.mac not in {face.mac for face in faces.values()}
            elif isinstance(one.address, IPv4Address):
                assert one.frame[28:32] == one.address.packed
            else:
                assert ndp.read(one.frame) == ndp.Advertisement(
                    faces[one.interface].mac,
                    faces[one.interface].mac,
                    faces[one.interface].link_local or b"none",
                    one.address.packed,
                )

    for event, wait in script:
        while (at := responder.wake_at()) is not None and at <= now + wait:
            check(responder.tick(at))
        now += wait
        if isinstance(event, Own):
            belongs |= event.changes
        elif isinstance(event, Faces):
            faces = event.faces
        check(responder.handle(event, now))
        responder.check_invariants()


@given(owned.filter(bool))
def test_every_address_that_is_taken_is_announced_in_every_round(taken: set[IPAddress]) -> None:
    responder = Responder()
    responder.handle(Faces({ETH0: Face(MAC, link_local=LINK_LOCAL)}), 0.0)
    effects = responder.handle(Own(dict.fromkeys(taken, frozenset({ETH0}))), 0.0)
    while (at := responder.wake_at()) is not None:
        effects += responder.tick(at)
    frames = [one for one in effects if isinstance(one, SendFrame)]
    for form, family in (
        (Form.GRATUITOUS_REQUEST, 4),
        (Form.GRATUITOUS_REPLY, 4),
        (Form.UNSOLICITED_ADVERTISEMENT, 6),
    ):
        for round_ in range(ANNOUNCE_ROUNDS):
            said = {one.address for one in frames if (one.form, one.round) == (form, round_)}
            assert said == {address for address in taken if address.version == family}


@given(st.binary(max_size=120))
def test_any_frame_is_read_or_dropped_and_never_raises(frame: bytes) -> None:
    assert isinstance(arp.read(frame), ArpRequest | ArpReply | arp.Drop)
    assert isinstance(ndp.read(frame), ndp.Solicitation | ndp.Advertisement | ndp.Drop)


@given(st.binary(min_size=42, max_size=60), st.sampled_from(list(range(42))), st.integers(0, 255))
def test_a_mutated_question_is_never_answered_to_a_group(tail: bytes, position: int, value: int) -> None:
    question = bytearray(
        b"\xff" * 6 + OTHER_MAC + bytes.fromhex("08060001080006040001") + OTHER_MAC + bytes(4) + bytes(6) + b"\xc0\x00\x02\x0a"
    )
    question[position] = value
    read = arp.read(bytes(question) + tail)
    if isinstance(read, ArpRequest):
        assert not read.sender_mac[0] & 1
        assert any(read.sender_mac)


@given(st.sets(st.integers(0, 2**32 - 1), max_size=40), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_the_filter_lets_in_exactly_what_is_about_owned_addresses(found: set[int], other: int, sender: int) -> None:
    program = bpf.arp_filter(number.to_bytes(4, "big") for number in found)
    header = b"\xff" * 6 + OTHER_MAC + bytes.fromhex("08060001080006040001") + OTHER_MAC
    for number in (*found, other, *(n + 1 for n in found if n + 1 < 2**32)):
        frame = header + sender.to_bytes(4, "big") + bytes(6) + number.to_bytes(4, "big")
        assert bool(run_filter(program, frame)) == (number in found or sender in found)


@given(st.sets(st.integers(0, 2**20), min_size=1, max_size=300), st.integers(1, 20))
def test_covering_ranges_are_few_ascending_and_complete(found: set[int], most: int) -> None:
    ranges = bpf.cover(found, most)
    assert len(ranges) <= most
    assert ranges == sorted(ranges)
    assert all(any(first <= number <= last for first, last in ranges) for number in found)


@given(st.sets(st.integers(0, 2**128 - 1), max_size=20), st.integers(0, 2**128 - 1))
def test_the_ipv6_filter_lets_in_exactly_the_owned_addresses(found: set[int], other: int) -> None:
    program = bpf.ndp_filter(number.to_bytes(16, "big") for number in found)
    header = bytes(12) + bytes.fromhex("86dd6000000000183aff") + bytes(32) + bytes([135]) + bytes(7)
    for number in (*found, other, *(n + 1 for n in found if n + 1 < 2**128)):
        assert bool(run_filter(program, header + number.to_bytes(16, "big"))) == (number in found)
