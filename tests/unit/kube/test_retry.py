"""Whatever a server does, requests stay few, and a server that is back is found soon."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube.errors import (
    Conflict,
    Forbidden,
    Gone,
    KubeError,
    Malformed,
    NotFound,
    Unauthorized,
    Unreachable,
)
from kube.retry import START, Ended, Outcome, Pace, Record, Step, next_step, outcome_of

FAILURES = [outcome for outcome in Outcome if outcome is not Outcome.LISTED]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (Gone("x"), Outcome.EXPIRED),
        (Unauthorized("x"), Outcome.UNAUTHORIZED),
        (Forbidden("x"), Outcome.FORBIDDEN),
        (NotFound("x"), Outcome.NO_SUCH_KIND),
        (Malformed("x"), Outcome.STRANGE),
        (Conflict("x"), Outcome.STRANGE),
        (KubeError("x"), Outcome.STRANGE),
        (Unreachable("x", phase="connect"), Outcome.NO_CONNECTION),
        (Unreachable("x", phase="exchange"), Outcome.BROKEN),
        (Unreachable("x", phase="answer"), Outcome.BUSY),
    ],
)
def test_every_error_is_an_outcome(error: KubeError, outcome: Outcome) -> None:
    assert outcome_of(error) is outcome


def test_a_complete_list_is_followed_by_a_watch_at_once() -> None:
    following = next_step(START, Step.LIST, Ended(Outcome.LISTED), chance=0.5)
    assert (following.step, following.wait_s) == (Step.WATCH, 0.0)


def test_a_list_does_not_end_a_row_of_failures() -> None:
    following = next_step(Record(failures=4), Step.LIST, Ended(Outcome.LISTED), chance=0.5)
    assert following.record.failures == 4


def test_a_watch_that_was_open_for_a_while_is_resumed_at_once() -> None:
    ended = Ended(Outcome.ENDED, lasted_s=300.0, opened=True)
    assert next_step(Record(failures=7), Step.WATCH, ended, chance=0.5) == next_step(START, Step.WATCH, ended, chance=0.9)
    assert next_step(START, Step.WATCH, ended, chance=0.5).wait_s == 0.0


def test_a_watch_that_closes_at_once_without_events_is_a_failure() -> None:
    ended = Ended(Outcome.ENDED, lasted_s=0.01, opened=True)
    first = next_step(START, Step.WATCH, ended, chance=0.0)
    second = next_step(first.record, Step.WATCH, ended, chance=0.0)
    assert (first.wait_s, second.wait_s) == (0.1, 0.2)


def test_a_watch_that_closes_at_once_after_events_is_resumed_without_growing_waits() -> None:
    ended = Ended(Outcome.ENDED, lasted_s=0.01, opened=True, events=1)
    following = next_step(Record(failures=3, refused=2), Step.WATCH, ended, chance=0.0)
    assert (following.step, following.wait_s, following.record) == (Step.WATCH, 0.1, Record(3, 0))


@pytest.mark.parametrize("outcome", [Outcome.EXPIRED, Outcome.NO_SUCH_KIND, Outcome.FORBIDDEN])
def test_a_version_or_kind_that_is_gone_or_a_watch_that_is_not_allowed_calls_for_a_list(outcome: Outcome) -> None:
    assert next_step(START, Step.WATCH, Ended(outcome), chance=0.0).step is Step.LIST


@pytest.mark.parametrize("outcome", [Outcome.NO_CONNECTION, Outcome.BROKEN, Outcome.UNAUTHORIZED])
def test_a_server_that_is_away_or_does_not_know_us_does_not_cost_the_resource_version(outcome: Outcome) -> None:
    record = START
    for _ in range(50):
        following = next_step(record, Step.WATCH, Ended(outcome), chance=0.0)
        assert following.step is Step.WATCH
        record = following.record


@pytest.mark.parametrize("outcome", [Outcome.BUSY, Outcome.STRANGE, Outcome.ENDED])
def test_three_refusals_of_one_version_call_for_a_list(outcome: Outcome) -> None:
    record, steps = START, []
    for _ in range(3):
        following = next_step(record, Step.WATCH, Ended(outcome), chance=0.0)
        steps.append(following.step)
        record = following.record
    assert steps == [Step.WATCH, Step.WATCH, Step.LIST]


def test_events_between_refusals_keep_the_watch() -> None:
    record = START
    for _ in range(9):
        following = next_step(record, Step.WATCH, Ended(Outcome.STRANGE, opened=True, events=5), chance=0.0)
        assert following.step is Step.WATCH
        record = following.record


@pytest.mark.parametrize("outcome", FAILURES)
def test_a_list_that_failed_is_listed_again(outcome: Outcome) -> None:
    assert next_step(START, Step.LIST, Ended(outcome), chance=0.0).step is Step.LIST


def test_the_wait_that_the_server_asks_for_is_kept_within_reason() -> None:
    asked = next_step(START, Step.WATCH, Ended(Outcome.BUSY, retry_after_s=7.0), chance=0.5)
    assert asked.wait_s == pytest.approx(7.05)
    absurd = next_step(START, Step.WATCH, Ended(Outcome.BUSY, retry_after_s=86400.0), chance=0.0)
    assert absurd.wait_s == 60.0
    small = next_step(Record(failures=20), Step.WATCH, Ended(Outcome.BUSY, retry_after_s=1.0), chance=0.0)
    assert small.wait_s == 5.0


def test_a_connection_is_tried_more_often_than_a_busy_server() -> None:
    assert next_step(Record(away=10_000), Step.WATCH, Ended(Outcome.NO_CONNECTION), chance=0.0).wait_s == 2.0
    assert next_step(Record(failures=10_000), Step.WATCH, Ended(Outcome.BUSY), chance=0.0).wait_s == 5.0


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome is not Outcome.NO_CONNECTION])
def test_a_long_outage_does_not_slow_down_what_follows_it(outcome: Outcome) -> None:
    following = next_step(Record(away=10_000), Step.WATCH, Ended(outcome, opened=True), chance=0.0)
    assert following.wait_s <= 0.1
    assert following.record.away == 0


def requests_in(duration_s: float, answer: Callable[[Step], Ended], chance: float) -> int:
    """How many requests a reflector sends in virtual time to a server that answers like this."""
    now, requests, step, record = 0.0, 0, Step.LIST, START
    while now < duration_s:
        requests += 1
        ended = answer(step)
        following = next_step(record, step, ended, chance=chance)
        now += ended.lasted_s + following.wait_s
        step, record = following.step, following.record
        assert requests < 10_000, "a hot loop"
    return requests


@pytest.mark.parametrize("outcome", FAILURES)
@pytest.mark.parametrize("chance", [0.0, 0.999])
def test_a_server_that_always_fails_gets_few_requests(outcome: Outcome, chance: float) -> None:
    assert requests_in(60.0, lambda _: Ended(outcome), chance) <= 40


@pytest.mark.parametrize("outcome", FAILURES)
def test_a_server_that_lists_but_cannot_watch_gets_few_requests(outcome: Outcome) -> None:
    answer = {Step.LIST: Ended(Outcome.LISTED), Step.WATCH: Ended(outcome)}
    assert requests_in(60.0, lambda step: answer[step], 0.0) <= 60


def test_a_server_that_closes_after_every_event_gets_ten_requests_a_second_at_most() -> None:
    answer = {Step.LIST: Ended(Outcome.LISTED), Step.WATCH: Ended(Outcome.ENDED, opened=True, events=1)}
    assert requests_in(60.0, lambda step: answer[step], 0.0) <= 610


def test_a_server_that_was_killed_is_tried_five_times_in_the_first_three_seconds() -> None:
    assert 4 <= requests_in(3.0, lambda _: Ended(Outcome.NO_CONNECTION), 0.5) <= 8


@given(
    record=st.builds(Record, st.integers(0, 10**6), st.integers(0, 2), st.integers(0, 10**6)),
    step=st.sampled_from(Step),
    ended=st.builds(
        Ended,
        st.sampled_from(Outcome),
        st.floats(0, 1e6),
        st.booleans(),
        st.integers(0, 10**6),
        st.none() | st.floats(0, 1e9),
    ),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_a_step_without_a_wait_follows_only_a_list_or_a_watch_that_was_open_a_while(
    record: Record, step: Step, ended: Ended, chance: float
) -> None:
    pace = Pace()
    following = next_step(record, step, ended, chance=chance, pace=pace)
    assert 0.0 <= following.wait_s <= pace.longest_retry_after_s + pace.base_s
    if following.wait_s == 0.0:
        assert ended.outcome is Outcome.LISTED or (ended.opened and ended.lasted_s >= pace.quick_s)
