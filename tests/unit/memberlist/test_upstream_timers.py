"""hashicorp/memberlist's own tests of timers, scaling and the broadcast queue, as behaviours named after what Go promises."""

import pytest

from memberlist import push_pull
from memberlist.awareness import Awareness
from memberlist.broadcast import BroadcastQueue, transmit_limit
from memberlist.config import lan, suspicion_min_s
from memberlist.suspicion import Suspicion, timeout_s

MINIMUM_S, MAXIMUM_S, NEEDED = 2.0, 30.0, 3


@pytest.mark.parametrize(
    ("confirmations", "elapsed_s", "remaining_s"),
    [(0, 0.0, 30.0), (1, 2.0, 14.0), (2, 3.0, 4.81), (3, 4.0, -2.0), (4, 5.0, -3.0), (5, 10.0, -8.0)],
)
def test_what_remains_of_a_suspicion_shrinks_with_confirmations(
    confirmations: int, elapsed_s: float, remaining_s: float
) -> None:
    total_s = timeout_s(min(confirmations, NEEDED), NEEDED, MINIMUM_S, MAXIMUM_S)
    assert total_s - elapsed_s == pytest.approx(remaining_s, abs=0.002)


@pytest.mark.parametrize(
    ("accusers", "total_s"),
    [
        ([], 2.0),
        (["me"], 2.0),
        (["me", "foo"], 1.25),
        (["me", "foo", "foo", "foo"], 1.25),
        (["me", "foo", "bar"], 0.81),
        (["me", "foo", "bar", "baz"], 0.5),
        (["me", "foo", "bar", "baz", "zoo"], 0.5),
    ],
)
def test_a_suspicion_ends_after_its_time_counting_each_accuser_once_and_the_first_not(
    accusers: list[str], total_s: float
) -> None:
    suspicion = Suspicion("me", needed=3, minimum_s=0.5, maximum_s=2.0, now=0.0)
    for accuser in accusers:
        suspicion.confirm(accuser, 0.0)
    assert suspicion.deadline == pytest.approx(total_s, abs=0.005)


def test_a_suspicion_that_needs_no_confirmation_takes_the_minimum() -> None:
    assert Suspicion("me", needed=0, minimum_s=0.5, maximum_s=30.0, now=0.0).deadline == 0.5


def test_a_confirmation_after_the_minimum_ends_a_suspicion_at_once() -> None:
    suspicion = Suspicion("me", needed=1, minimum_s=0.1, maximum_s=30.0, now=0.0)
    assert suspicion.deadline == 30.0
    assert suspicion.confirm("foo", 0.2)
    assert suspicion.deadline <= 0.2


def test_the_health_ladder_stays_within_its_bounds_and_scales_the_interval() -> None:
    awareness = Awareness(8)
    ladder = [(0, 0, 1.0), (-1, 0, 1.0), (-10, 0, 1.0), (1, 1, 2.0), (-1, 0, 1.0), (10, 7, 8.0), (-1, 6, 7.0), (-1, 5, 6.0)]
    ladder += [(-1, 4, 5.0), (-1, 3, 4.0), (-1, 2, 3.0), (-1, 1, 2.0), (-1, 0, 1.0), (-1, 0, 1.0)]
    for delta, score, scaled_s in ladder:
        awareness.adjust(delta)
        assert awareness.score == score
        assert awareness.scaled(1.0) == scaled_s


@pytest.mark.parametrize(("n", "seconds"), [(5, 1.0), (10, 1.0), (50, 1.698), (100, 2.0), (500, 2.698), (1000, 3.0)])
def test_a_suspicion_grows_with_the_logarithm_of_the_ring(n: int, seconds: float) -> None:
    assert suspicion_min_s(lan("me", "192.0.2.1", suspicion_mult=1), n) == pytest.approx(seconds, abs=1e-9)


@pytest.mark.parametrize(("n", "limit"), [(0, 0), (1, 3), (99, 6)])
def test_a_statement_is_sent_three_times_the_logarithm_of_the_ring(n: int, limit: int) -> None:
    assert transmit_limit(3, n) == limit


def test_tables_are_exchanged_as_often_up_to_32_members_and_then_less_often_with_each_doubling() -> None:
    factors = {n: push_pull.interval_s(1.0, n) for n in range(129)}
    assert {factors[n] for n in range(33)} == {1.0}
    assert {factors[n] for n in range(33, 65)} == {2.0}
    assert {factors[n] for n in range(65, 129)} == {3.0}


def queue_of(*names: str, length: int = 18) -> BroadcastQueue:
    queue = BroadcastQueue(bytes_max=1000)
    for name in names:
        queue.enqueue(name, name.encode().ljust(length, b"."))
    return queue


def test_a_newer_statement_takes_the_place_of_the_older_about_the_same_member() -> None:
    queue = queue_of("test", "foo", "bar")
    assert len(queue) == 3
    queue.enqueue("test", b"newer")
    assert len(queue) == 3
    taken = queue.take(part_overhead=0, limit=1000, transmits_max=9)
    assert b"newer" in taken
    assert not any(statement.startswith(b"test") for statement in taken)


@pytest.mark.parametrize(("overhead", "count"), [(2, 4), (3, 3)])
def test_a_packet_of_80_bytes_takes_four_statements_of_18_with_overhead_two_and_three_with_three(
    overhead: int, count: int
) -> None:
    queue = queue_of("test", "foo", "bar", "baz")
    assert len(queue.take(part_overhead=overhead, limit=80, transmits_max=9)) == count


def test_with_two_transmissions_each_four_statements_fill_packets_of_three_three_two_and_none() -> None:
    queue = queue_of("test", "foo", "bar", "baz")
    counts = [len(queue.take(part_overhead=3, limit=80, transmits_max=2)) for _ in range(4)]
    assert counts == [3, 3, 2, 0]
    assert len(queue) == 0


def test_pruning_keeps_the_newest() -> None:
    queue = queue_of("test", "foo", "bar", "baz")
    queue.prune(2)
    assert [statement.rstrip(b".") for statement in queue.take(part_overhead=0, limit=1000, transmits_max=9)] == [
        b"baz",
        b"bar",
    ]


def test_a_statement_can_be_asked_for_until_it_was_sent_often_enough() -> None:
    """Go tells whoever queued it that it is done; a leave waits for this."""
    queue = BroadcastQueue(bytes_max=100)
    number = queue.enqueue("x", b"statement")
    assert number in queue
    queue.take(part_overhead=0, limit=100, transmits_max=1)
    assert number not in queue
