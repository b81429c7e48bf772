"""What is said about an object arrives as few Events, and saying it never holds anything up."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import msgspec

from kube.events import BURST, CONCURRENT, REFILL_S, Correlator, EventRecorder, Occurrence, Said
from kube.objects import ObjectReference
from tests.unit.kube.responder import Line, Request, connected, responding

WEB = ObjectReference(kind="Service", api_version="v1", namespace="default", name="web", uid="u-web", resource_version="5")
ASSIGNED = Occurrence("Service", "v1", "default", "web", "u-web", "Normal", "IPAllocated", 'Assigned IP ["192.0.2.1"]')


class TestCorrelator:
    """Queue, memory and limits, without a clock."""

    def test_repeats_that_wait_are_one_event_with_a_count(self) -> None:
        events = Correlator()
        events.add(ASSIGNED, at=100.0, now=0.0)
        events.add(ASSIGNED, at=107.0, now=7.0, resource_version="9")
        due = events.take()
        assert due is not None
        assert (due.more, due.first_at, due.last_at, due.resource_version, due.said) == (2, 100.0, 107.0, "9", None)
        assert events.take() is None

    def test_a_repeat_of_what_was_written_counts_on(self) -> None:
        events = Correlator()
        events.add(ASSIGNED, at=100.0, now=0.0)
        due = events.take()
        assert due is not None
        events.add(ASSIGNED, at=101.0, now=1.0)  # While the first is on its way.
        events.written(due, Said("web.1", 1))
        again = events.take()
        assert again is not None
        assert (again.more, again.said) == (1, Said("web.1", 1))
        events.expired(again)
        events.given_up(again)
        events.add(ASSIGNED, at=102.0, now=2.0)
        third = events.take()
        assert third is not None
        assert third.said is None

    def test_what_is_said_of_one_object_stays_in_order_and_others_do_not_wait(self) -> None:
        events = Correlator()
        for note in "xy":
            events.add(replace(ASSIGNED, note=note), at=1.0, now=1.0)
        events.add(replace(ASSIGNED, name="other", uid="o"), at=1.0, now=1.0)
        first, second = events.take(), events.take()
        assert first is not None
        assert second is not None
        assert (first.what.note, second.what.name, events.take(), len(events)) == ("x", "other", None, 3)
        events.written(first, Said("web.1", 1))
        third = events.take()
        assert third is not None
        assert third.what.note == "y"

    def test_what_an_ended_writer_held_is_counted_as_dropped(self) -> None:
        events = Correlator()
        for note in "xy":
            events.add(replace(ASSIGNED, note=note), at=1.0, now=1.0)
        events.take()
        events.abandon()
        assert events.dropped == 1
        assert events.take() is not None

    def test_the_events_of_ten_thousand_services_fit(self) -> None:
        events = Correlator()
        for number in range(10_000):
            events.add(replace(ASSIGNED, name=f"s{number}", uid=f"u{number}"), at=1.0, now=1.0)
        assert (len(events), events.dropped, events.muted) == (10_000, 0, 0)

    def test_another_sentence_is_another_event(self) -> None:
        events = Correlator()
        events.add(ASSIGNED, at=1.0, now=1.0)
        events.add(replace(ASSIGNED, note="other"), at=1.0, now=1.0)
        assert len(events) == 2

    def test_a_full_queue_drops_its_oldest_and_counts_it(self) -> None:
        events = Correlator(queue_limit=2)
        for number in range(3):
            events.add(replace(ASSIGNED, name=f"s{number}"), at=1.0, now=1.0)
        assert events.dropped == 1
        due = events.take()
        assert due is not None
        assert due.what.name == "s1"

    def test_an_object_gets_its_burst_and_then_one_every_five_minutes(self) -> None:
        events = Correlator()
        for number in range(BURST + 5):
            events.add(replace(ASSIGNED, note=str(number)), at=0.0, now=0.0)
        assert (len(events), events.muted) == (BURST, 5)
        events.add(replace(ASSIGNED, name="other", uid="u"), at=0.0, now=0.0)
        assert len(events) == BURST + 1
        events.add(replace(ASSIGNED, note="later"), at=0.0, now=REFILL_S)
        events.add(replace(ASSIGNED, note="later still"), at=0.0, now=REFILL_S)
        assert (len(events), events.muted) == (BURST + 2, 6)

    def test_memory_is_bounded(self) -> None:
        events = Correlator(remembered=10)
        for number in range(100):
            events.add(replace(ASSIGNED, name=f"s{number}"), at=0.0, now=0.0)
            due = events.take()
            assert due is not None
            events.written(due, Said("x", 1))
        assert len(events._said) == len(events._buckets) == 10


@asynccontextmanager
async def recording(url: str) -> AsyncIterator[EventRecorder]:
    async with connected(url) as client, asyncio.TaskGroup() as group:
        rng = random.Random(1)  # noqa: S311 - a seed, so that a failure can be repeated
        recorder = EventRecorder(
            client, "metallb-controller", "controller-0", rng=rng, wall_clock=lambda: 1_700_000_000.5, first_retry_s=0.001
        )
        task = group.create_task(recorder.run(), name="events")
        try:
            yield recorder
        finally:
            task.cancel()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.002)


async def test_an_event_looks_like_those_of_a_go_recorder() -> None:
    written: list[tuple[str, str, Any]] = []

    async def answer(request: Request, line: Line) -> None:
        written.append((request.method, request.path, json.loads(request.body)))
        await line.answer(201, {"metadata": {"name": "x"}})

    async with responding(answer) as server, recording(server.url) as recorder:
        recorder.emit(WEB, "Normal", "IPAllocated", 'Assigned IP ["192.0.2.1"]')
        await until(lambda: len(written) == 1)
        recorder.emit(WEB, "Normal", "IPAllocated", 'Assigned IP ["192.0.2.1"]')
        await until(lambda: len(written) == 2)
    method, path, event = written[0]
    assert (method, path) == ("POST", "/api/v1/namespaces/default/events")
    name = f"web.{1_700_000_000_500_000_000:x}"
    assert event == {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": "default"},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Service",
            "namespace": "default",
            "name": "web",
            "uid": "u-web",
            "resourceVersion": "5",
        },
        "type": "Normal",
        "reason": "IPAllocated",
        "message": 'Assigned IP ["192.0.2.1"]',
        "count": 1,
        "firstTimestamp": "2023-11-14T22:13:20Z",
        "lastTimestamp": "2023-11-14T22:13:20Z",
        "source": {"component": "metallb-controller"},
        "reportingComponent": "metallb-controller",
        "reportingInstance": "controller-0",
    }
    assert written[1] == (
        "PATCH",
        f"/api/v1/namespaces/default/events/{name}",
        {"count": 2, "lastTimestamp": "2023-11-14T22:13:20Z"},
    )


async def test_events_of_objects_without_a_namespace_are_kept_in_default_and_long_notes_are_cut() -> None:
    written: list[tuple[str, Any]] = []

    async def answer(request: Request, line: Line) -> None:
        written.append((request.path, json.loads(request.body)))
        await line.answer(201, {})

    async with responding(answer) as server, recording(server.url) as recorder:
        recorder.emit(ObjectReference(kind="Node", name="n1"), "Warning", "Odd", "x" * 5000)
        await until(lambda: len(written) == 1)
    assert written[0][0] == "/api/v1/namespaces/default/events"
    assert written[0][1]["involvedObject"] == {"kind": "Node", "name": "n1"}
    assert len(written[0][1]["message"]) == 1024


async def test_an_event_that_expired_is_made_anew() -> None:
    methods: list[str] = []

    async def answer(request: Request, line: Line) -> None:
        methods.append(request.method)
        await line.answer(*((404, {"code": 404}) if request.method == "PATCH" else (201, {})))

    async with responding(answer) as server, recording(server.url) as recorder:
        recorder.emit(WEB, "Normal", "r", "n")
        await until(lambda: len(methods) == 1)
        recorder.emit(WEB, "Normal", "r", "n")
        await until(lambda: len(methods) == 3)
    assert methods == ["POST", "PATCH", "POST"]


async def test_a_name_that_another_took_in_the_same_moment_is_replaced() -> None:
    names: list[str] = []

    async def answer(request: Request, line: Line) -> None:
        names.append(json.loads(request.body)["metadata"]["name"])
        await line.answer(*((409, {"code": 409, "reason": "AlreadyExists"}) if len(names) == 1 else (201, {})))

    async with responding(answer) as server, recording(server.url) as recorder:
        recorder.emit(WEB, "Normal", "r", "n")
        await until(lambda: len(names) == 2)
    assert names[0] != names[1]


async def test_an_event_whose_answer_was_lost_is_not_written_twice() -> None:
    bodies: list[bytes] = []

    async def answer(request: Request, line: Line) -> None:
        bodies.append(request.body)
        if len(bodies) == 1:
            line.reset()
        elif len(bodies) == 2:
            await line.answer(409, {"code": 409, "reason": "AlreadyExists"})
        else:
            await line.answer(200, {})

    async with responding(answer) as server, recording(server.url) as recorder:
        recorder.emit(WEB, "Normal", "r", "n")
        await until(lambda: len(bodies) == 2)
        recorder.emit(WEB, "Normal", "r", "n")
        await until(lambda: len(bodies) == 3)
    assert bodies[0] == bodies[1]
    assert json.loads(bodies[2])["count"] == 2


async def test_what_cannot_be_written_is_dropped_after_some_tries_and_counted() -> None:
    tries = 0

    async def answer(_: Request, line: Line) -> None:
        nonlocal tries
        tries += 1
        await line.answer(503, b"")

    async with responding(answer) as server, recording(server.url) as recorder:
        recorder._first_retry_s = 0.0
        recorder.emit(WEB, "Normal", "r", "n")
        await until(lambda: recorder.dropped == 1)
    assert tries == 12


async def test_a_refusal_is_logged_once_and_does_not_hold_up_the_next() -> None:
    said: list[dict[str, object]] = []

    class Log:
        def warning(self, event: str, /, **facts: object) -> None:
            said.append(facts)

    async def answer(_: Request, line: Line) -> None:
        await line.answer(403, {"code": 403, "message": "events is forbidden"})

    async with responding(answer) as server, recording(server.url) as recorder:
        recorder._log = Log()
        for number in range(3):
            recorder.emit(WEB, "Normal", "r", f"n{number}")
        await until(lambda: recorder.dropped == 3)
    assert [facts["error"] for facts in said] == ["events is forbidden"]


async def test_several_events_are_written_at_a_time() -> None:
    """As many as may come together: each answer waits for the others."""
    together, total = asyncio.Barrier(CONCURRENT), 3 * CONCURRENT
    answered, done = 0, asyncio.Event()

    async def answer(_: Request, line: Line) -> None:
        nonlocal answered
        await together.wait()
        await line.answer(201, {"metadata": {"name": "e"}})
        answered += 1
        if answered == total:
            done.set()

    async with responding(answer) as server, connected(server.url) as client, asyncio.TaskGroup() as group:
        recorder = EventRecorder(client, "metallb-controller", "pod")
        for number in range(total):
            recorder.emit(msgspec.structs.replace(WEB, name=f"s{number}", uid=str(number)), "Normal", "IPAllocated", "note")
        task = group.create_task(recorder.run(), name="events")
        async with asyncio.timeout(10):
            await done.wait()
        task.cancel()
    assert recorder.dropped == 0
