"""The transmit-limited queue: what goes first, how often, and what makes room."""

import pytest

from memberlist.broadcast import BroadcastQueue, transmit_limit


def queue(*messages: tuple[str, bytes], bytes_max: int = 1000) -> BroadcastQueue:
    filled = BroadcastQueue(bytes_max=bytes_max)
    for name, message in messages:
        filled.enqueue(name, message)
    return filled


def take(from_queue: BroadcastQueue, *, overhead: int = 2, limit: int = 1000, times: int = 4) -> list[bytes]:
    return from_queue.take(part_overhead=overhead, limit=limit, transmits_max=times)


@pytest.mark.parametrize(
    ("mult", "n", "limit"), [(3, 0, 0), (3, 1, 3), (3, 99, 6), (4, 9, 4), (4, 10, 8), (4, 99, 8), (4, 100, 12), (4, 1000, 16)]
)
def test_the_limit_grows_with_the_logarithm_of_the_ring(mult: int, n: int, limit: int) -> None:
    assert transmit_limit(mult, n) == limit


def test_a_statement_is_sent_as_often_as_the_limit_says_and_then_dropped() -> None:
    waiting = queue(("a", b"one"))
    assert [take(waiting, times=3) for _ in range(4)] == [[b"one"], [b"one"], [b"one"], []]
    assert len(waiting) == 0


def test_rarely_sent_first_then_long_then_new() -> None:
    waiting = queue(("a", b"old!"), ("b", b"longest"), ("c", b"new!"))
    assert take(waiting) == [b"longest", b"new!", b"old!"]
    waiting.enqueue("d", b"x")
    assert take(waiting) == [b"x", b"longest", b"new!", b"old!"]


def test_a_newer_statement_about_the_same_member_replaces_the_older() -> None:
    waiting = queue(("a", b"alive"), ("b", b"other"))
    first = waiting.enqueue("a", b"dead")
    assert first in waiting
    assert sorted(take(waiting)) == [b"dead", b"other"]
    second = waiting.enqueue("a", b"alive again")
    assert first not in waiting
    assert second in waiting


@pytest.mark.parametrize(("overhead", "count"), [(2, 4), (3, 3)])
def test_overhead_counts_for_every_part(overhead: int, count: int) -> None:
    waiting = queue(*[(name, name.encode() * 18) for name in "abcd"])
    assert len(take(waiting, overhead=overhead, limit=80)) == count


def test_what_did_not_fit_goes_first_the_next_time() -> None:
    waiting = queue(*[(name, name.encode() * 18) for name in "abcd"])
    rounds = [len(take(waiting, overhead=3, limit=80, times=2)) for _ in range(4)]
    assert rounds == [3, 3, 2, 0]


def test_a_short_statement_goes_where_a_long_one_has_no_room() -> None:
    waiting = queue(("a", b"x" * 50), ("b", b"y" * 10))
    assert take(waiting, limit=11) == []
    assert take(waiting, limit=20) == [b"y" * 10]
    assert take(waiting, limit=60) == [b"x" * 50]


def test_a_statement_that_fits_no_packet_is_not_kept() -> None:
    waiting = queue(("a", b"small"), bytes_max=10)
    too_long = waiting.enqueue("b", b"x" * 11)
    assert too_long not in waiting
    assert take(waiting) == [b"small"]
