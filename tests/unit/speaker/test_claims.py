"""What others claim about owned addresses, on a virtual clock: what is answered, how often, and what people are told."""

from __future__ import annotations

from ipaddress import IPv4Address
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.model import IPAddress, NodeName
from speaker.claims import (
    ANSWER_INTERVAL_S,
    CLAIMANTS_MAX,
    DEFEND_INTERVAL_S,
    FORGET_S,
    SETTLE_S,
    TELL_INTERVAL_S,
    Claim,
    Claims,
    Defend,
    Effect,
    Lost,
    Speakers,
    Tell,
)
from tests.builders_speaker import OTHER_MAC, VIP, nodes

STRANGER = OTHER_MAC
OURS = bytes.fromhex("0200000000bb")
B = NodeName("b")


def claim(mac: bytes = STRANGER, address: IPAddress = VIP) -> Claim:
    return Claim(address, mac, "eth0")


def settled(claims: Claims) -> list[Effect]:
    """What is done at the next deadline."""
    at = claims.wake_at()
    return [] if at is None else claims.tick(at)


def test_a_claim_is_left_alone_for_a_moment_then_answered_and_told() -> None:
    claims = Claims()
    assert claims.handle(claim(), 1.0) == []
    assert claims.wake_at() == 1.0 + SETTLE_S
    assert settled(claims) == [Defend(VIP), Tell(VIP, STRANGER, "eth0", None, 1)]
    assert claims.wake_at() is None


def test_an_address_that_is_given_up_meanwhile_is_not_disputed() -> None:
    claims = Claims()
    claims.handle(claim(), 1.0)
    assert claims.handle(Lost(frozenset({VIP})), 1.1) == []
    assert claims.wake_at() is None
    assert claims.conflicts(1.1) == {}


@pytest.mark.rfc("5227", "2.4")
def test_a_stubborn_stranger_meets_one_defence_in_each_interval_and_is_told_of_once_a_minute() -> None:
    claims, effects, now = Claims(), list[tuple[float, Effect]](), 0.0
    while now < TELL_INTERVAL_S + DEFEND_INTERVAL_S:
        effects += [(now, one) for one in claims.handle(claim(), now)]
        now += 0.1
    defences = [at for at, one in effects if isinstance(one, Defend)]
    assert len(defences) == (TELL_INTERVAL_S + DEFEND_INTERVAL_S) / DEFEND_INTERVAL_S
    assert all(b - a >= DEFEND_INTERVAL_S for a, b in pairwise(defences))
    assert len([one for _, one in effects if isinstance(one, Tell)]) == 2


def test_a_living_member_is_answered_sooner_since_it_will_fall_silent() -> None:
    claims = Claims()
    claims.handle(Speakers({OURS: B}, nodes("a b")), 0.0)
    claims.handle(claim(OURS), 0.0)
    assert settled(claims) == [Defend(VIP)], "one word too many in a planned move is not worth telling"
    claims.handle(claim(OURS), ANSWER_INTERVAL_S)
    assert settled(claims) == [Defend(VIP), Tell(VIP, OURS, "eth0", B, 2)]


def test_a_speaker_that_is_cut_off_is_no_stranger_but_is_answered_no_oftener_than_one() -> None:
    claims = Claims()
    claims.handle(Speakers({OURS: B}, nodes("a")), 0.0)
    claims.handle(claim(OURS), 0.0)
    assert settled(claims) == [Defend(VIP), Tell(VIP, OURS, "eth0", B, 1)]
    claims.handle(claim(OURS), ANSWER_INTERVAL_S)
    assert settled(claims) == []


def test_every_machine_is_told_of_and_counted() -> None:
    claims = Claims()
    claims.handle(claim(), 1.0)
    claims.handle(claim(OURS), 1.01)
    claims.handle(claim(), 1.02)
    assert settled(claims) == [Defend(VIP), Tell(VIP, OURS, "eth0", None, 1), Tell(VIP, STRANGER, "eth0", None, 2)]
    shown = claims.conflicts(2.0)[VIP]
    assert {mac: one.count for mac, one in shown.items()} == {STRANGER: 2, OURS: 1}
    assert claims.conflicts(2.0 + FORGET_S) == {}


def test_a_flood_of_machines_is_remembered_in_part() -> None:
    claims = Claims()
    for index in range(1000):
        claims.handle(claim(b"\x02" + index.to_bytes(5, "big")), 1.0)
    assert len(claims.conflicts(1.0)[VIP]) == CLAIMANTS_MAX


addresses = st.integers(1, 3).map(lambda last: IPv4Address("192.0.2.0") + last)


@given(st.lists(st.tuples(addresses, st.sampled_from([STRANGER, OURS]), st.floats(0, 3), st.booleans()), max_size=60))
def test_no_address_is_defended_more_often_than_the_limit(script: list[tuple[IPv4Address, bytes, float, bool]]) -> None:
    claims, now = Claims(), 0.0
    defended: dict[IPAddress, float] = {}

    def check(effects: list[Effect], at: float) -> None:
        for one in effects:
            if isinstance(one, Defend):
                assert at - defended.get(one.address, float("-inf")) >= DEFEND_INTERVAL_S
                defended[one.address] = at

    for address, mac, wait, lost in script:
        while (at := claims.wake_at()) is not None and at <= now + wait:
            check(claims.tick(at), at)
        now += wait
        if lost:
            defended.pop(address, None)
            claims.handle(Lost(frozenset({address})), now)
        check(claims.handle(claim(mac, address), now), now)
