from __future__ import annotations

from config.model import ServiceKey
from controller.ipam.memory import Memory, Remembered
from tests.builders import addresses

WEB, API = ServiceKey("default/web"), ServiceKey("default/api")
ONE, TWO = addresses("10.0.0.1"), addresses("10.0.0.2")


def test_what_a_service_holds_has_no_end_until_it_is_deleted() -> None:
    memory = Memory()
    memory.hold(WEB, ONE, 60.0)
    assert (memory.wake_at(), memory.of_deleted(WEB), list(memory.deleted())) == (None, (), [])
    assert memory.expire(1e9) == []
    assert memory.bury(WEB, 100.0) == ONE
    assert (memory.wake_at(), memory.of_deleted(WEB)) == (160.0, ONE)


def test_it_is_forgotten_at_its_end_and_not_before() -> None:
    memory = Memory()
    for key, had, keep_for_s in ((WEB, ONE, 60.0), (API, TWO, 30.0)):
        memory.hold(key, had, keep_for_s)
        memory.bury(key, 100.0)
    assert memory.expire(129.9) == []
    assert memory.expire(130.0) == [Remembered(TWO, 30.0, 130.0)]
    assert memory.wake_at() == 160.0
    assert memory.expire(1000.0) == [Remembered(ONE, 60.0, 160.0)]
    assert (memory.wake_at(), dict(memory.entries)) == (None, {})


def test_an_end_does_not_outlive_the_return_of_the_service() -> None:
    memory = Memory()
    memory.hold(WEB, ONE, 60.0)
    memory.bury(WEB, 0.0)
    memory.hold(WEB, TWO, 60.0)
    assert memory.wake_at() is None
    assert memory.expire(1000.0) == []
    assert memory.entries[WEB] == Remembered(TWO, 60.0)


def test_a_second_deletion_and_an_unknown_service_change_nothing() -> None:
    memory = Memory()
    assert memory.bury(WEB, 0.0) == ()
    memory.hold(WEB, ONE, 60.0)
    memory.bury(WEB, 0.0)
    assert memory.bury(WEB, 50.0) == ()
    assert memory.wake_at() == 60.0
    memory.forget(API)
    assert memory.take_changed() == {WEB}


def test_an_ended_entry_in_the_way_is_skipped_when_it_has_returned_and_was_deleted_again() -> None:
    memory = Memory()
    memory.hold(WEB, ONE, 60.0)
    memory.bury(WEB, 0.0)
    memory.hold(WEB, ONE, 60.0)
    memory.bury(WEB, 50.0)
    assert memory.expire(60.0) == []
    assert memory.wake_at() == 110.0


def test_changes_are_told_once_and_only_real_ones() -> None:
    memory = Memory()
    memory.hold(WEB, ONE, 60.0)
    assert memory.take_changed() == {WEB}
    memory.hold(WEB, ONE, 60.0)
    assert memory.take_changed() == set()
    memory.bury(WEB, 0.0)
    memory.expire(60.0)
    assert memory.take_changed() == {WEB}


def test_what_an_earlier_process_noted_of_a_service_that_is_gone_ends_from_now_on() -> None:
    memory = Memory()
    memory.restore(WEB, Remembered(ONE, 60.0), 100.0)
    memory.restore(API, Remembered(TWO, 60.0, 120.0), 100.0)
    assert dict(memory.entries) == {WEB: Remembered(ONE, 60.0, 160.0), API: Remembered(TWO, 60.0, 120.0)}
