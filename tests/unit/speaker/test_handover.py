"""Giving addresses up on a virtual clock: who is waited for, for how long, and what ends it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from hypothesis import given
from hypothesis import strategies as st

from config.model import IPAddress, NodeName
from speaker.handover import (
    HEARD_BEFORE_S,
    WAIT_AT_MOST_S,
    WAIT_S,
    Cause,
    Event,
    Handover,
    Heard,
    Release,
    Settle,
    Yield,
)
from tests.builders_speaker import VIP

B, C = NodeName("b"), NodeName("c")
VIP6 = IPv6Address("2001:db8::10")


def test_an_address_is_answered_until_the_successor_is_heard() -> None:
    handover = Handover()
    assert handover.handle(Yield({VIP: B}), 1.0) == []
    assert VIP in handover
    assert handover.successors == {VIP: B}
    assert handover.handle(Heard(VIP), 1.25) == [Release(VIP, B, Cause.SUCCESSOR_HEARD, 0.25)]
    assert VIP not in handover
    assert handover.wake_at() is None


def test_a_silent_successor_is_waited_for_within_bounds() -> None:
    handover = Handover()
    handover.handle(Yield({VIP: B}), 1.0)
    assert handover.wake_at() == 1.0 + WAIT_S
    assert handover.tick(1.0 + WAIT_S - 0.001) == []
    assert handover.tick(1.0 + WAIT_S) == [Release(VIP, B, Cause.SUCCESSOR_SILENT, WAIT_S)]


def test_a_successor_that_learnt_of_the_move_first_is_not_waited_for() -> None:
    handover = Handover()
    assert handover.handle(Heard(VIP), 1.0) == []
    assert handover.handle(Yield({VIP: B}), 1.0 + HEARD_BEFORE_S) == [Release(VIP, B, Cause.SUCCESSOR_HEARD, 0.0)]


def test_what_another_node_announced_before_is_not_the_successor() -> None:
    handover = Handover()
    handover.handle(Heard(VIP, C), 1.0)
    assert handover.handle(Yield({VIP: B}), 1.1) == []
    assert handover.handle(Heard(VIP, B), 1.2) != []


def test_what_was_heard_long_ago_does_not_count() -> None:
    handover = Handover()
    handover.handle(Heard(VIP), 1.0)
    handover.tick(1.0)
    assert handover.handle(Yield({VIP: B}), 1.001 + HEARD_BEFORE_S) == []
    handover.tick(1.002 + HEARD_BEFORE_S)
    assert VIP in handover


def test_a_successor_with_much_to_announce_has_time_while_it_goes_on() -> None:
    handover = Handover()
    many = [IPv4Address(int(VIP) + index) for index in range(3)]
    handover.handle(Yield(dict.fromkeys(many, B)), 0.0)
    assert handover.handle(Heard(many[0]), 0.9) != []
    assert handover.tick(1.5) == []
    assert handover.handle(Heard(many[1]), 1.8) != []
    assert handover.wake_at() == 1.8 + WAIT_S
    (last,) = handover.tick(1.8 + WAIT_S)
    assert (last.address, last.cause) == (many[2], Cause.SUCCESSOR_SILENT)


def test_progress_of_one_successor_is_none_of_another() -> None:
    handover = Handover()
    handover.handle(Yield({VIP: B, VIP6: C}), 0.0)
    handover.handle(Heard(VIP), 0.9)
    assert [one.address for one in handover.tick(WAIT_S)] == [VIP6]


def test_even_progress_has_an_end() -> None:
    handover = Handover()
    many = [IPv4Address(int(VIP) + index) for index in range(40)]
    handover.handle(Yield(dict.fromkeys(many, B)), 0.0)
    for index in range(20):
        handover.handle(Heard(many[index]), index / 2)
    assert {one.cause for one in handover.tick(WAIT_AT_MOST_S)} == {Cause.SUCCESSOR_SILENT}
    assert len(handover) == 0


def test_a_change_of_successor_begins_the_wait_anew_and_the_same_news_does_not() -> None:
    handover = Handover()
    handover.handle(Yield({VIP: B}), 0.0)
    handover.handle(Yield({VIP: B}), 0.5)
    assert handover.wake_at() == WAIT_S
    handover.handle(Yield({VIP: C}), 0.75)
    assert handover.wake_at() == 0.75 + WAIT_S


def test_what_comes_back_or_is_nobodys_is_not_given_up() -> None:
    handover = Handover()
    handover.handle(Heard(VIP6), 0.0)
    handover.handle(Yield({VIP: B}), 0.0)
    assert handover.handle(Settle(frozenset({VIP, VIP6})), 0.1) == []
    assert handover.wake_at() is None
    assert handover.handle(Heard(VIP), 0.2) == []
    assert handover.handle(Yield({VIP6: B}), 0.3) == [], "settling forgets what was heard"


addresses: st.SearchStrategy[IPAddress] = st.sampled_from([VIP, VIP6, IPv4Address("192.0.2.11")])
events: st.SearchStrategy[Event] = st.one_of(
    st.dictionaries(addresses, st.sampled_from([B, C])).map(Yield),
    st.frozensets(addresses).map(Settle),
    st.builds(Heard, addresses),
)


@given(st.lists(st.tuples(events, st.floats(0, 2))))
def test_every_address_that_is_given_up_is_released_once_or_settled_within_the_bound(
    script: list[tuple[Event, float]],
) -> None:
    handover, now = Handover(), 0.0
    begun: dict[IPAddress, float] = {}

    def check(released: list[Release], at: float) -> None:
        for one in released:
            assert at - begun.pop(one.address) <= WAIT_AT_MOST_S + WAIT_S
        assert set(handover.successors) == set(begun)

    for event, wait in script:
        while (at := handover.wake_at()) is not None and at <= now + wait:
            check(handover.tick(at), at)
        now += wait
        if isinstance(event, Yield):
            for address, to in event.to.items():
                if handover.successors.get(address) != to:
                    begun[address] = now
        elif isinstance(event, Settle):
            for address in event.addresses:
                begun.pop(address, None)
        check(handover.handle(event, now), now)
