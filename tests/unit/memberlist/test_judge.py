"""The last look before a declaration: what a suspect's kernel says, and what counts for nothing."""

from typing import Any

import pytest

from memberlist.awareness import Awareness
from memberlist.broadcast import BroadcastQueue
from memberlist.effects import Cause, CheckLiveness, Effect, Endpoint, Left, Liveness, Notify
from memberlist.judge import Judge
from memberlist.lag import LagGuard
from memberlist.members import Members
from memberlist.messages import Alive, Suspect
from memberlist.profiles import configured

VSN = bytes([1, 5, 2, 0, 0, 0])
X = Endpoint.of("192.0.2.100", 7946)


class Court:
    """A judge named "me" and members m0, m1, ...; m0 is accused."""

    def __init__(self, others: int = 4, profile: str = "subsecond", **settings: Any) -> None:
        config = configured(profile, "me", "192.0.2.1", **settings)
        self.lag = LagGuard()
        self.members = Members(config, 7946, BroadcastQueue(bytes_max=1000), Awareness(8))
        for number in range(others):
            self.members.alive(Alive(1, f"m{number}", bytes([192, 0, 2, 100 + number]), 7946, b"", VSN), 0.0)
        self.judge = Judge(config, self.members, self.lag)

    def accuse(self, *accusers: str, at: float = 10.0) -> None:
        for accuser in accusers:
            self.members.suspect(Suspect(1, "m0", accuser), at)

    def until(self, limit: float) -> tuple[float, list[Effect]]:
        """Let time pass until something happens."""
        while (at := self.judge.wake_at()) is not None and at <= limit:
            if effects := self.judge.tick(at):
                return at, effects
        return limit, []

    def check(self, limit: float = 20.0) -> tuple[float, int]:
        """Wait for the next question to the kernel."""
        at, effects = self.until(limit)
        (check,) = effects
        assert isinstance(check, CheckLiveness)
        assert check.to == X
        return at, check.check


def left(effects: list[Effect]) -> Left:
    (effect,) = effects
    assert isinstance(effect, Notify)
    assert isinstance(effect.event, Left)
    assert (effect.event.cause, effect.event.by) == (Cause.FAILED, "me")
    return effect.event


def test_a_silent_kernel_costs_no_time_since_it_is_asked_before() -> None:
    court = Court()
    court.accuse("me", "m1", "m2")
    at, check = court.check()
    assert at == pytest.approx(10.35)
    assert court.judge.checked(check, Liveness.SILENT, at + 0.05 - 1e-9) == []
    at, effects = court.until(20.0)
    assert at == pytest.approx(10.4)
    left(effects)
    assert court.judge.wake_at() is None


def test_a_kernel_that_answers_for_a_stopped_process_is_asked_again_until_the_slow_limit() -> None:
    court = Court()
    court.accuse("me", "m1", "m2")
    questions = 0
    while True:
        at, effects = court.until(30.0)
        if not isinstance(effects[0], CheckLiveness):
            break
        questions += 1
        assert court.judge.checked(effects[0].check, Liveness.ANSWERED, at + 0.001) == []
    left(effects)
    assert at == pytest.approx(15.0)
    assert 30 <= questions <= 60


def test_a_large_ring_asks_a_stopped_processs_kernel_less_often() -> None:
    court = Court(99)
    court.accuse("me", "m1", "m2")
    questions = 0
    while isinstance((found := court.until(30.0))[1][0], CheckLiveness):
        questions += 1
        court.judge.checked(found[1][0].check, Liveness.ANSWERED, found[0])
    assert questions <= 7


def test_a_process_that_is_gone_is_declared_at_once_when_two_agree() -> None:
    court = Court()
    court.accuse("me")
    suspicion = court.members.suspects()[0].suspicion
    assert suspicion is not None
    suspicion.process_gone = True
    assert court.until(10.3)[1] == []
    court.accuse("m1", at=10.3)
    at, effects = court.until(10.3)
    left(effects)
    assert at <= 10.3


def test_one_accuser_suffices_where_there_is_no_second() -> None:
    court = Court(1)
    court.accuse("me")
    at, check = court.check()
    assert at == pytest.approx(10.35)
    left(court.judge.checked(check, Liveness.REFUSED, at + 0.001))


def test_an_outcome_that_never_comes_is_silence() -> None:
    court = Court()
    court.accuse("me", "m1", "m2")
    asked, _ = court.check()
    at, effects = court.until(20.0)
    left(effects)
    assert at == pytest.approx(asked + 0.1)


def test_what_was_asked_during_a_stall_is_asked_again() -> None:
    court = Court()
    court.accuse("me", "m1", "m2")
    at, check = court.check()
    court.judge.checked(check, Liveness.SILENT, at + 0.049)
    court.lag.served(at + 0.01, at + 0.048, interval_s=0.1, worth_noting_s=0.01)
    again, second = court.check()
    assert second != check
    left(court.judge.checked(second, Liveness.SILENT, again + 0.05))


def test_nothing_is_declared_while_judging_is_suspended() -> None:
    court = Court()
    court.accuse("me", "m1", "m2")
    court.lag.judging_from = 12.0
    at, check = court.check()
    assert at == pytest.approx(11.95)
    assert court.judge.checked(check, Liveness.SILENT, at + 0.049) == []
    assert court.until(20.0)[0] == pytest.approx(12.0)


def test_who_knows_by_hearsay_only_leaves_the_word_to_the_accusers() -> None:
    court = Court()
    court.accuse("m1", "m2", "m3")
    at, _ = court.check()
    assert at == pytest.approx(10.45)


def test_a_suspect_that_was_heard_is_not_declared_before_it_was_asked_once_more() -> None:
    court = Court()
    court.accuse("me", "m1", "m2")
    suspicion = court.members.suspects()[0].suspicion
    assert suspicion is not None
    suspicion.process_gone = True
    suspicion.heard(10.3, 0.3)
    assert not suspicion.process_gone
    at, _ = court.check()
    assert at == pytest.approx(10.55)


def test_a_refuted_suspicions_check_is_forgotten() -> None:
    court = Court()
    court.accuse("me", "m1", "m2")
    at, check = court.check()
    court.members.alive(Alive(2, "m0", X.address.packed, 7946, b"", VSN), at)
    court.judge.tick(at)
    assert court.judge.checked(check, Liveness.SILENT, at + 0.05) == []
    assert court.judge.wake_at() is None
    court.members.suspect(Suspect(2, "m0", "me"), 30.0)
    assert court.judge.checked(check, Liveness.REFUSED, 30.1) == []


def test_without_the_check_time_alone_decides() -> None:
    court = Court(profile="balanced")
    court.accuse("me", "m1", "m2")
    at, effects = court.until(20.0)
    assert at == pytest.approx(12.0)
    left(effects)


def test_in_the_ring_profile_two_watchers_open_the_time_to_refute() -> None:
    court = Court(profile="ring")
    court.accuse("me")
    court.accuse("m1", at=10.06)
    at, check = court.check()
    assert at == pytest.approx(10.16)
    court.judge.checked(check, Liveness.SILENT, 10.209)
    assert court.until(20.0)[0] == pytest.approx(10.21)
