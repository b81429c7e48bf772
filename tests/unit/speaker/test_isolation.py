"""What a speaker that has lost most others may do, on a virtual clock."""

from __future__ import annotations

from speaker.isolation import RETRY_S, Began, Ended, Isolation, LostOneMore, NodeRead, ReadNode


def test_nothing_is_held_while_most_members_are_there() -> None:
    isolation = Isolation()
    assert isolation.handle(LostOneMore(), 1.0) == []
    assert (isolation.active, isolation.hold, isolation.wake_at()) == (False, "", None)


def test_takeovers_wait_for_an_answer_of_the_api_server() -> None:
    isolation = Isolation()
    assert isolation.handle(Began(2, 3), 1.0) == [ReadNode()]
    assert isolation.active
    assert isolation.hold.startswith("2 of 3 speakers were lost at once")
    assert isolation.hold.endswith("(not answered yet)")
    assert isolation.handle(NodeRead(1.0, ""), 1.5) == []
    assert (isolation.active, isolation.hold, isolation.wake_at()) == (True, "", None)


def test_a_read_that_fails_is_repeated_and_its_error_shown() -> None:
    isolation = Isolation()
    isolation.handle(Began(2, 3), 1.0)
    assert isolation.handle(NodeRead(1.0, "connection refused"), 2.0) == []
    assert isolation.hold.endswith("(last error: connection refused)")
    assert isolation.wake_at() == 2.0 + RETRY_S
    assert isolation.tick(2.0 + RETRY_S) == [ReadNode()]
    assert isolation.tick(2.0 + RETRY_S) == [], "one read at a time"
    isolation.handle(NodeRead(2.0 + RETRY_S, ""), 4.0)
    assert isolation.hold == ""


def test_an_answer_to_a_read_from_before_the_loss_says_nothing() -> None:
    isolation = Isolation()
    isolation.handle(Began(2, 3), 1.0)
    assert isolation.handle(LostOneMore(), 1.2) == [], "the read under way is waited for first"
    assert isolation.handle(NodeRead(1.0, ""), 1.3) == [ReadNode()]
    assert isolation.hold
    isolation.handle(NodeRead(1.3, ""), 1.4)
    assert not isolation.hold


def test_another_loss_wants_another_read() -> None:
    isolation = Isolation()
    isolation.handle(Began(3, 5), 1.0)
    isolation.handle(NodeRead(1.0, ""), 1.1)
    assert isolation.handle(LostOneMore(), 2.0) == [ReadNode()]
    assert isolation.hold


def test_the_return_of_the_others_ends_it() -> None:
    isolation = Isolation()
    isolation.handle(Began(2, 3), 1.0)
    assert isolation.handle(Ended(), 2.0) == []
    assert (isolation.active, isolation.hold) == (False, "")
    assert isolation.handle(NodeRead(1.0, "too late"), 3.0) == []
    assert isolation.wake_at() is None
    assert isolation.handle(Began(2, 3), 4.0) == [ReadNode()]
