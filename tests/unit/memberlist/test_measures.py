"""The small parts behind the measures: marks, round trips, stalls, loss, isolation, watchers, limits."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memberlist.config import IPAddress
from memberlist.effects import Endpoint, Isolated, IsolationEnded
from memberlist.isolation import Isolation
from memberlist.lag import LagGuard
from memberlist.limits import BURST, RATE_PER_S, SOURCES_MAX, SourceLimit
from memberlist.loss import LossMeter
from memberlist.marker import MARK_MAX, marked, read_mark
from memberlist.measures import PROFILE_NAMES
from memberlist.rtt import RoundTrip
from memberlist.watch import successors

# the mark


@given(st.sampled_from(PROFILE_NAMES), st.binary(max_size=100))
def test_a_mark_can_be_read_back(profile: str, meta: bytes) -> None:
    assert read_mark(marked(profile, meta)) == (profile, meta)
    assert len(marked(profile, b"")) <= MARK_MAX == 16


@pytest.mark.parametrize(
    "meta", [b"", b"\xff\x81\xa4role", b"mlpy1 ", b"mlpy1 ring", b"mlpy1 ;", b"mlpy1 " + b"x" * 33 + b";", b"mlpy2 ring;"]
)
def test_metadata_of_others_has_no_mark(meta: bytes) -> None:
    assert read_mark(meta) == ("", meta)
    assert marked("", meta) == meta


def test_a_profile_of_the_future_is_a_mark_too() -> None:
    assert read_mark(b"mlpy1 warp;x") == ("warp", b"x")


# the round trip time


def test_a_steady_round_trip_waits_no_less_than_twenty_milliseconds() -> None:
    trip = RoundTrip(0.0005)
    for _ in range(50):
        trip.add(0.0005)
    assert trip.timeout_s == 0.02
    assert trip.smoothed_s == pytest.approx(0.0005)


def test_an_unsteady_one_waits_longer() -> None:
    trip = RoundTrip(0.01)
    for sample in (0.01, 0.03) * 20:
        trip.add(sample)
    assert 0.05 < trip.timeout_s < 0.1


# stalls of this process


def test_what_is_served_in_time_is_no_stall() -> None:
    guard = LagGuard()
    guard.served(1.0, 1.005, interval_s=0.1, worth_noting_s=0.01)
    guard.served(None, 9.0, interval_s=0.1, worth_noting_s=0.01)
    assert not guard.stalled(0.0, 0.001)
    assert guard.judging_from == 0.0


def test_a_stall_voids_what_it_overlapped_and_nothing_later() -> None:
    guard = LagGuard()
    guard.served(1.0, 1.05, interval_s=0.1, worth_noting_s=0.01)
    assert guard.stalled(0.9, 0.02)
    assert guard.stalled(1.04, 0.02)
    assert not guard.stalled(1.05, 0.02)
    assert not guard.stalled(0.9, 0.06)
    assert guard.judging_from == 0.0
    assert guard.longest_s == pytest.approx(0.05)


def test_after_a_long_stall_nothing_is_judged_for_two_intervals() -> None:
    guard = LagGuard()
    guard.served(1.0, 1.5, interval_s=0.1, worth_noting_s=0.01)
    assert guard.judging_from == pytest.approx(1.7)


def test_stalls_of_long_ago_are_forgotten() -> None:
    guard = LagGuard()
    guard.served(1.0, 1.5, interval_s=0.1, worth_noting_s=0.01)
    guard.served(40.0, 40.5, interval_s=0.1, worth_noting_s=0.01)
    assert len(guard._stalls) == 1


def test_time_never_falls_and_a_jump_back_suspends_judging() -> None:
    guard = LagGuard()
    assert guard.clamped(5.0, 0.1) == 5.0
    assert guard.clamped(3.0, 0.1) == 5.0
    assert guard.judging_from == pytest.approx(5.2)
    assert guard.clamped(6.0, 0.1) == 6.0


# loss


def pings(meter: LossMeter, start: float, seconds: float, *, lost_in_a_hundred: int, rate: int = 10) -> float:
    """Note pings at a steady rate, of which every so many is lost; return when the meter changed its mind, or the end."""
    before = meter.lossy
    for number in range(int(seconds * rate)):
        now = start + number / rate
        meter.note(now, answered=number % 100 * lost_in_a_hundred % 100 >= lost_in_a_hundred)
        if meter.lossy != before:
            return now
    return start + seconds


@pytest.mark.parametrize(("lost", "lossy"), [(0, False), (10, False), (20, True), (50, True)])
def test_a_network_is_lossy_once_far_more_than_twelve_percent_went_unanswered_over_thirty_seconds(
    lost: int, *, lossy: bool
) -> None:
    meter = LossMeter()
    changed = pings(meter, 100.0, 40.0, lost_in_a_hundred=lost)
    assert meter.lossy is lossy
    if lossy:
        assert 130.0 <= changed <= 131.0


def test_a_slight_excess_over_twelve_percent_takes_minutes_to_be_believed() -> None:
    meter = LossMeter()
    changed = pings(meter, 0.0, 400.0, lost_in_a_hundred=14)
    assert meter.lossy
    assert 30.0 < changed < 300.0
    assert pings(LossMeter(), 0.0, 900.0, lost_in_a_hundred=11) == 900.0


def test_five_percent_of_packets_lost_is_borne_whatever_chance_makes_of_it() -> None:
    meter, chance = LossMeter(), random.Random(3)  # noqa: S311  (repeatable on purpose)
    for number in range(10 * 3600 * 3):
        meter.note(number / 10, answered=chance.random() >= 0.0975)
        assert not meter.lossy


def test_it_is_clean_again_below_eight_percent_over_two_minutes() -> None:
    meter = LossMeter()
    now = pings(meter, 0.0, 60.0, lost_in_a_hundred=20)
    assert meter.lossy
    assert pings(meter, now, 200.0, lost_in_a_hundred=9, rate=2) == now + 200.0
    clean_since = now + 200.0
    changed = pings(meter, clean_since, 300.0, lost_in_a_hundred=2, rate=2)
    assert not meter.lossy
    assert changed - clean_since <= 120.0


def test_a_handful_of_pings_proves_nothing() -> None:
    meter = LossMeter()
    for number in range(19):
        meter.note(2.0 * number, answered=False)
    assert not meter.lossy
    assert meter.share() is None


def test_a_clean_spell_within_the_window_is_needed_for_the_whole_time() -> None:
    meter = LossMeter()
    now = pings(meter, 0.0, 60.0, lost_in_a_hundred=30)
    pings(meter, now, 119.0, lost_in_a_hundred=0, rate=2)
    assert meter.lossy


# isolation


def lose(isolation: Isolation, of: int, count: int, *, gap_s: float = 0.1) -> list[object]:
    said: list[object] = []
    for number in range(count):
        said += isolation.failed(of - number, 5.0, 100.0 + number * gap_s)
        said += isolation.counted(of - number - 1)
    return said


@pytest.mark.parametrize(("of", "lost"), [(3, 2), (4, 3), (5, 3), (10, 6), (11, 6)])
def test_who_loses_more_than_half_itself_counted_is_isolated(of: int, lost: int) -> None:
    assert lose(Isolation(), of, lost - 1) == []
    assert lose(Isolation(), of, lost) == [Isolated(lost, of)]


def test_two_never_call_themselves_isolated() -> None:
    assert lose(Isolation(), 2, 1) == []


def test_losses_that_are_further_apart_than_a_detection_takes_are_not_isolation() -> None:
    assert lose(Isolation(), 10, 6, gap_s=3.0) == []


def test_isolation_is_said_once_and_ends_when_more_than_half_are_back() -> None:
    isolation = Isolation()
    assert lose(isolation, 5, 4) == [Isolated(3, 5)]
    assert isolation.active
    assert isolation.counted(2) == []
    assert isolation.counted(3) == [IsolationEnded()]
    assert isolation.counted(4) == []
    assert not isolation.active


# watchers


@given(st.sets(st.text(min_size=1, max_size=5), min_size=1, max_size=30), st.integers(1, 3))
def test_everybody_has_as_many_watchers_as_it_watches(names: set[str], count: int) -> None:
    watched = [watch for name in names for watch in successors(name, names, count)]
    expected = min(count, len(names) - 1)
    assert {name: watched.count(name) for name in names} == dict.fromkeys(names, expected)


def test_in_a_ring_of_four_all_watch_all() -> None:
    names = {"a", "b", "c", "d"}
    assert all(set(successors(name, names, 3)) == names - {name} for name in names)


def test_nobody_is_watched_alone() -> None:
    assert successors("a", ["a"], 3) == ()


# limits


def source(number: int) -> IPAddress:
    return Endpoint.of((number + 1).to_bytes(4, "big"), 1).address


def test_a_stranger_may_burst_and_then_send_at_a_steady_rate() -> None:
    limit, sent = SourceLimit(), 0
    for _ in range(1000):
        if not limit.exhausted(source(1), 5.0):
            limit.spend(source(1), 5.0)
            sent += 1
    assert sent == BURST
    assert not limit.exhausted(source(2), 5.0)
    assert limit.exhausted(source(1), 5.0 + 0.5 / RATE_PER_S)
    assert not limit.exhausted(source(1), 5.0 + 1.5 / RATE_PER_S)


def test_the_sources_remembered_are_bounded() -> None:
    limit = SourceLimit()
    for number in range(SOURCES_MAX + 10):
        limit.spend(source(number), 1.0)
    assert len(limit) == SOURCES_MAX
