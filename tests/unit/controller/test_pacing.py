from __future__ import annotations

from controller.pacing import BETWEEN_WRITES_S, LONGEST_PAUSE_S, Pacer


def test_the_first_change_is_due_at_once_and_the_next_a_moment_after_the_write() -> None:
    pacer: Pacer[int] = Pacer()
    pacer.want("a", 1)
    assert pacer.wake_at() == 0.0
    assert pacer.due(10.0) == {"a": 1}
    assert pacer.due(10.0) == {}, "it is under way"
    assert pacer.wake_at() is None
    pacer.want("a", 2)
    pacer.written("a", 1, "5", 10.1)
    assert pacer.wake_at() == 10.1 + BETWEEN_WRITES_S
    assert pacer.due(10.2) == {}
    assert pacer.due(10.1 + BETWEEN_WRITES_S) == {"a": 2}


def test_nothing_is_due_when_the_object_says_it_already() -> None:
    pacer: Pacer[int] = Pacer()
    pacer.want("a", 1)
    pacer.seen("a", 1, "3")
    assert pacer.due(0.0) == {}
    assert pacer.pending == []


def test_what_somebody_else_wrote_is_put_right() -> None:
    pacer: Pacer[int] = Pacer()
    pacer.want("a", 1)
    pacer.due(0.0)
    pacer.written("a", 1, "5", 0.0)
    pacer.seen("a", 9, "4")
    assert pacer.pending == [], "an older edition than what we wrote says nothing"
    pacer.seen("a", 9, "6")
    assert pacer.pending == ["a"]
    assert pacer.due(1.0) == {"a": 1}


def test_a_failed_write_is_tried_again_with_growing_pauses() -> None:
    pacer: Pacer[int] = Pacer()
    pacer.want("a", 1)
    now, pauses = 0.0, []
    for _ in range(8):
        assert pacer.due(now) == {"a": 1}
        pauses.append(pacer.failed("a", now))
        now += pauses[-1]
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, LONGEST_PAUSE_S, LONGEST_PAUSE_S, LONGEST_PAUSE_S]


def test_an_object_that_is_gone_is_not_written_any_more() -> None:
    pacer: Pacer[int] = Pacer()
    pacer.want("a", 1)
    pacer.due(0.0)
    pacer.forget("a")
    pacer.written("a", 1, "5", 0.0)
    pacer.seen("a", 2, "6")
    assert pacer.failed("a", 0.0) == 0.0
    assert pacer.wake_at() is None


def test_a_write_whose_writer_ended_is_due_again() -> None:
    pacer: Pacer[int] = Pacer()
    pacer.want("a", 1)
    pacer.due(0.0)
    pacer.abandon()
    assert pacer.due(0.0) == {"a": 1}
