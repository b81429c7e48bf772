"""The first-join gate and the joining itself, on a virtual clock."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address

from config.model import IPAddress, NodeName
from speaker.joining import (
    ALONE_S,
    LOST_ANSWER_S,
    LOST_FOR_S,
    LOST_RETRY_S,
    REJOIN_S,
    RETRY_S,
    SETTLE_S,
    SILENT_AT_MOST_S,
    Cause,
    Effect,
    Join,
    JoinEnded,
    Joining,
    MembersChanged,
    PodsListed,
    Released,
)
from tests.builders_speaker import nodes


def address(name: str) -> IPAddress:
    """The address of a speaker Pod on node a, b, c and so on."""
    return ip_address(f"192.0.2.{ord(name) - ord('a') + 1}")


def listed(names: str) -> PodsListed:
    return PodsListed({address(name): NodeName(name) for name in names.split()})


def members(names: str) -> MembersChanged:
    return MembersChanged(nodes(names))


def join(names: str) -> Join:
    return Join(tuple(address(name) for name in names.split()))


def ended(name: str, *, answered: bool) -> JoinEnded:
    return JoinEnded(address(name), answered)


def causes(effects: list[Effect]) -> list[Cause]:
    return [one.cause for one in effects if isinstance(one, Released)]


def until(machine: Joining, end: float) -> Mapping[float, list[Effect]]:
    """Everything that happens by itself up to `end`."""
    seen: dict[float, list[Effect]] = {}
    while (at := machine.wake_at()) is not None and at <= end:
        effects = machine.tick(at)
        if not effects and machine.wake_at() == at:
            raise AssertionError(f"nothing is due at {at}, yet tick is asked for again")
        if effects:
            seen[round(at, 3)] = effects
    return seen


def test_nothing_is_announced_before_the_pods_are_known() -> None:
    machine = Joining()
    assert machine.wake_at() is None
    assert machine.tick(100.0) == []
    assert "not listed" in machine.hold


def test_listed_pods_are_asked_at_once_and_all_together() -> None:
    assert Joining().handle(listed("b c"), 0.0) == [join("b c")]


def test_announcing_may_begin_when_all_that_were_asked_have_answered() -> None:
    machine = Joining()
    machine.handle(listed("b c"), 0.0)
    machine.handle(members("a b c"), 0.01)
    assert machine.handle(ended("b", answered=True), 0.01) == []
    assert "none of them" in machine.hold
    assert causes(machine.handle(ended("c", answered=True), 0.02)) == [Cause.JOINED]
    assert machine.hold == ""


def test_a_dead_pod_does_not_hold_up_a_join_that_succeeded() -> None:
    machine = Joining()
    machine.handle(listed("b c"), 0.0)
    machine.handle(ended("b", answered=True), 0.01)
    assert [causes(effects) for effects in until(machine, 1.0).values()] == [[Cause.JOINED]]
    assert machine.hold == ""
    assert round(0.01 + SETTLE_S, 3) == 0.06


def test_failed_attempts_are_repeated_until_one_succeeds() -> None:
    machine = Joining()
    machine.handle(listed("b"), 0.0)
    assert machine.handle(ended("b", answered=False), 0.5) == []
    assert until(machine, 2.0) == {0.5 + RETRY_S: [join("b")]}
    assert causes(machine.handle(ended("b", answered=True), 2.0)) == [Cause.JOINED]


def test_pods_that_never_answer_hold_it_for_fifteen_seconds_at_most() -> None:
    machine = Joining()
    assert machine.handle(listed("b"), 5.0) == [join("b")]
    happened = until(machine, 60.0)
    assert [(at, causes(effects)) for at, effects in happened.items()] == [(5.0 + SILENT_AT_MOST_S, [Cause.NOBODY_ANSWERED])]
    released = happened[20.0][0]
    assert isinstance(released, Released)
    assert "1 speaker Pods are listed, none answered" in released.detail


def test_attempts_go_on_after_it_gave_up_waiting() -> None:
    machine = Joining()
    machine.handle(listed("b"), 0.0)
    until(machine, 16.0)
    machine.handle(ended("b", answered=False), 16.0)
    assert until(machine, 17.5) == {16.0 + RETRY_S: [join("b")]}


def test_a_lone_speaker_waits_three_seconds() -> None:
    machine = Joining()
    assert machine.handle(listed(""), 1.0) == []
    assert "no other speaker Pod" in machine.hold
    assert machine.handle(listed(""), 2.0) == []
    assert {at: causes(effects) for at, effects in until(machine, 10.0).items()} == {1.0 + ALONE_S: [Cause.ALONE]}
    assert machine.wake_at() is None


def test_a_pod_that_appears_meanwhile_is_joined_first() -> None:
    machine = Joining()
    machine.handle(listed(""), 0.0)
    assert machine.handle(listed("b"), 2.0) == [join("b")]
    assert until(machine, 16.9) == {}
    assert causes(machine.handle(ended("b", answered=True), 16.9)) == [Cause.JOINED]


def test_pods_that_vanish_start_the_wait_of_a_lone_speaker() -> None:
    machine = Joining()
    machine.handle(listed("b"), 0.0)
    machine.handle(listed(""), 10.0)
    machine.handle(ended("b", answered=False), 10.5)
    assert [(at, causes(effects)) for at, effects in until(machine, 20.0).items()] == [(13.0, [Cause.ALONE])]


def test_being_joined_by_all_others_counts_as_joined() -> None:
    machine = Joining()
    machine.handle(listed("b"), 0.0)
    machine.handle(ended("b", answered=False), 0.1)
    assert causes(machine.handle(members("a b"), 0.5)) == [Cause.JOINED]


def test_being_joined_by_one_of_several_does_not() -> None:
    machine = Joining()
    machine.handle(listed("b c"), 0.0)
    assert machine.handle(members("a c"), 0.5) == []
    assert machine.hold


def a_joined_machine() -> Joining:
    machine = Joining()
    machine.handle(listed("b c"), 0.0)
    machine.handle(members("a b c"), 0.0)
    for name in "bc":
        machine.handle(ended(name, answered=True), 0.0)
    return machine


def test_only_missing_pods_are_asked_again_every_minute() -> None:
    machine = a_joined_machine()
    assert until(machine, REJOIN_S * 2.5) == {}
    machine.handle(listed("b c d"), 155.0)
    machine.handle(ended("d", answered=False), 156.0)
    assert until(machine, 156.0 + REJOIN_S) == {156.0 + REJOIN_S: [join("d")]}
    machine.handle(ended("d", answered=False), 220.0)
    assert until(machine, 285.0) == {220.0 + REJOIN_S: [join("d")]}


def test_a_pod_that_appears_later_is_asked_at_once() -> None:
    machine = a_joined_machine()
    assert machine.handle(listed("b c d"), 10.0) == [join("d")]


def test_a_pod_that_disappears_is_not_asked() -> None:
    machine = a_joined_machine()
    machine.handle(members("a b"), 10.0)
    assert machine.handle(listed("b"), 11.0) == []
    assert until(machine, 130.0) == {}


def test_a_pod_that_is_being_asked_is_not_asked_twice() -> None:
    machine = Joining()
    machine.handle(listed("b"), 0.0)
    assert machine.handle(listed("b c"), 0.1) == [join("c")]


def test_a_lost_member_is_asked_for_again_and_again_until_it_is_back() -> None:
    joining = Joining()
    joining.handle(PodsListed({address("b"): NodeName("b")}), 0.0)
    joining.handle(MembersChanged(nodes("a b")), 0.1)
    joining.handle(JoinEnded(address("b"), answered=True), 0.1)
    assert joining.handle(MembersChanged(nodes("a")), 10.0) == []
    asked, now = [], 10.0
    while now < 20.0:
        at = joining.wake_at()
        assert at is not None
        now = at
        for effect in joining.tick(now):
            assert effect == Join((address("b"),), LOST_ANSWER_S)
            asked.append(now)
            now += LOST_ANSWER_S
            joining.handle(JoinEnded(address("b"), answered=False), now)
    assert asked[0] == 10.0 + LOST_RETRY_S
    assert len(asked) == 10 / (LOST_RETRY_S + LOST_ANSWER_S)
    joining.handle(MembersChanged(nodes("a b")), now)
    at = joining.wake_at()
    assert at is not None
    assert joining.tick(at) == []
    assert joining.wake_at() == at + REJOIN_S


def test_a_member_that_was_lost_long_ago_is_asked_for_at_leisure() -> None:
    joining = Joining()
    joining.handle(PodsListed({address("b"): NodeName("b")}), 0.0)
    joining.handle(MembersChanged(nodes("a b")), 0.1)
    joining.handle(JoinEnded(address("b"), answered=True), 0.1)
    joining.handle(MembersChanged(nodes("a")), 10.0)
    late = 10.0 + LOST_FOR_S + 1.0
    assert joining.tick(late) == [Join((address("b"),))]
    joining.handle(JoinEnded(address("b"), answered=False), late + 3.0)
    assert joining.wake_at() == late + 3.0 + REJOIN_S
