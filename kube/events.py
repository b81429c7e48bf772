"""Tells users what happened to their objects: core/v1 Events, as `kubectl describe` shows them.

emit never waits and never fails: what is to be said goes into a bounded queue, repeats of the same sentence become one
Event with a count, and an object that would get more than its share is muted for a while (limits as in client-go). `run`
writes the queue to the API server, a few Events at a time but those about one object in order, tries a bounded number of
times while that is away, and counts what it had to drop.
Correlator holds all of that without I/O; EventRecorder is its shell. Decisions never depend on an Event.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, Literal, Protocol

from kube.client import KubeClient
from kube.errors import AlreadyExists, KubeError, NotFound, Unreachable
from kube.objects import ObjectReference
from kube.resources import EVENTS

EventType = Literal["Normal", "Warning"]

QUEUE_LIMIT: Final = 20_000
"""So many can wait: 10,000 Services may get their addresses in a few seconds, and their Events trail."""
CONCURRENT: Final = 8
REMEMBERED: Final = 4096
BURST: Final = 25
REFILL_S: Final = 300.0
"""An object may get 25 Events at once and then one every five minutes."""
NOTE_LIMIT: Final = 1024
TRIES: Final = 12
FIRST_RETRY_S: Final = 0.2
RETRY_CAP_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Occurrence:
    """What an Event says, apart from when and how often: repeats of it are one Event."""

    kind: str
    api_version: str
    namespace: str
    name: str
    uid: str
    type: EventType
    reason: str
    note: str

    @property
    def subject(self) -> tuple[str, str, str, str]:
        """The object it is about."""
        return (self.kind, self.namespace, self.name, self.uid)

    @property
    def event_namespace(self) -> str:
        """Where its Event is kept: beside the object, or in default for objects without a namespace."""
        return self.namespace or "default"


@dataclass(frozen=True, slots=True)
class Said:
    """An Event that the API server has."""

    name: str
    count: int


@dataclass(frozen=True, slots=True)
class Due:
    """What must be written: `more` repeats, between two wall-clock times, of something perhaps already `said`."""

    what: Occurrence
    more: int
    first_at: float
    last_at: float
    resource_version: str
    said: Said | None = None


class Correlator:
    """Queue, memory and limits of a recorder. All times are passed in: `now` monotonic, `at` seconds since the epoch."""

    def __init__(self, *, queue_limit: int = QUEUE_LIMIT, remembered: int = REMEMBERED) -> None:
        self.dropped = 0
        self.muted = 0
        self._queue_limit = queue_limit
        self._remembered = remembered
        self._queue: OrderedDict[Occurrence, Due] = OrderedDict()
        self._said: OrderedDict[Occurrence, Said] = OrderedDict()
        self._buckets: OrderedDict[tuple[str, str, str, str], tuple[float, float]] = OrderedDict()
        self._under_way: set[tuple[str, str, str, str]] = set()

    def __len__(self) -> int:
        """How many wait or are being written."""
        return len(self._queue) + len(self._under_way)

    def add(self, what: Occurrence, *, at: float, now: float, resource_version: str = "") -> None:
        """Something happened."""
        if not self._may_speak(what, now):
            self.muted += 1
            return
        waiting = self._queue.get(what)
        if waiting is not None:
            self._queue[what] = Due(what, waiting.more + 1, waiting.first_at, at, resource_version)
            return
        if len(self._queue) >= self._queue_limit:
            self._queue.popitem(last=False)
            self.dropped += 1
        self._queue[what] = Due(what, 1, at, at, resource_version)

    def take(self) -> Due | None:
        """What to write next; it is in the caller's hands then, and repeats from now on are another Due.

        Nothing is taken about an object of which something is being written: what is said of it stays in order.
        """
        what = next((what for what in self._queue if what.subject not in self._under_way), None)
        if what is None:
            return None
        due = self._queue.pop(what)
        self._under_way.add(what.subject)
        return replace(due, said=self._said.get(what))

    def written(self, due: Due, said: Said) -> None:
        """The API server has it, under this name and with this count."""
        self._under_way.discard(due.what.subject)
        self._said[due.what] = said
        self._said.move_to_end(due.what)
        if len(self._said) > self._remembered:
            self._said.popitem(last=False)

    def expired(self, due: Due) -> None:
        """The API server does not have the Event any more (they live an hour)."""
        self._said.pop(due.what, None)

    def given_up(self, due: Due) -> None:
        """It could not be written."""
        self._under_way.discard(due.what.subject)
        self.dropped += due.more

    def abandon(self) -> None:
        """Nothing is being written any more: who was writing has ended."""
        self.dropped += len(self._under_way)
        self._under_way.clear()

    def _may_speak(self, what: Occurrence, now: float) -> bool:
        """Take a token from the bucket of the object, if there is one."""
        tokens, since = self._buckets.get(what.subject, (float(BURST), now))
        tokens = min(float(BURST), tokens + (now - since) / REFILL_S)
        allowed = tokens >= 1.0
        self._buckets[what.subject] = (tokens - 1.0 if allowed else tokens, now)
        self._buckets.move_to_end(what.subject)
        if len(self._buckets) > self._remembered:
            self._buckets.popitem(last=False)
        return allowed


class Log(Protocol):
    """What a recorder needs of a logger."""

    def warning(self, event: str, /, **facts: object) -> object:
        """Say what an operator may have to mend."""


class EventRecorder:
    """Writes Events in the name of a component (`metallb-controller`, `metallb-speaker`) and an instance of it."""

    def __init__(
        self,
        client: KubeClient,
        component: str,
        instance: str,
        *,
        log: Log | None = None,
        rng: random.Random | None = None,
        wall_clock: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        first_retry_s: float = FIRST_RETRY_S,
    ) -> None:
        self.correlator = Correlator()
        self._client = client
        self._component = component
        self._instance = instance
        self._log = log
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, keeps no secret
        self._wall_clock = wall_clock
        self._clock = clock
        self._first_retry_s = first_retry_s
        self._wake = asyncio.Event()
        self._refused: set[str] = set()

    @property
    def dropped(self) -> int:
        """How many occurrences were never written: queue full, tries used up, refused by the API server."""
        return self.correlator.dropped

    def emit(self, regarding: ObjectReference, type_: EventType, reason: str, note: str) -> None:
        """Say something about an object. Returns at once."""
        what = Occurrence(
            regarding.kind,
            regarding.api_version,
            regarding.namespace,
            regarding.name,
            regarding.uid,
            type_,
            reason,
            note if len(note) <= NOTE_LIMIT else note[: NOTE_LIMIT - 1] + "…",
        )
        self.correlator.add(what, at=self._wall_clock(), now=self._clock(), resource_version=regarding.resource_version)
        self._wake.set()

    async def run(self) -> None:
        """Write for ever."""
        self.correlator.abandon()
        async with asyncio.TaskGroup() as group:
            for number in range(CONCURRENT):
                group.create_task(self._work(), name=f"event-writer-{number}")

    async def _work(self) -> None:
        while True:
            due = self.correlator.take()
            if due is None:
                self._wake.clear()
                await self._wake.wait()
            else:
                await self._write(due)

    async def _write(self, due: Due) -> None:
        for attempt in range(TRIES):
            try:
                said = await self._say(due, attempt)
            except Unreachable as error:
                wait_s = min(self._first_retry_s * 2**attempt, RETRY_CAP_S) * (1 + self._rng.random())
                await self._client.pause(max(wait_s, min(error.retry_after_s or 0.0, RETRY_CAP_S)))
            except KubeError as error:
                self._give_up(due, error)
                return
            else:
                self.correlator.written(due, said)
                return
        self._give_up(due, None)

    def _give_up(self, due: Due, error: KubeError | None) -> None:
        self.correlator.given_up(due)
        cause = type(error).__name__ if error else "Unreachable"
        if self._log is not None and cause not in self._refused:  # One line for each cause: Events must not fill the log.
            self._refused.add(cause)
            self._log.warning(
                "event_not_written",
                object=f"{due.what.kind} {due.what.namespace}/{due.what.name}",
                reason=due.what.reason,
                error=error.message if error else f"the API server was away for {TRIES} tries",
            )

    async def _say(self, due: Due, attempt: int) -> Said:
        """Count on the Event that is there, or make one; `attempt` is 0 for the first try."""
        if due.said is not None:
            count = due.said.count + due.more
            patch = {"count": count, "lastTimestamp": _timestamp(due.last_at)}
            try:
                await self._client.patch(EVENTS, due.said.name, patch, namespace=due.what.event_namespace)
            except NotFound:
                self.correlator.expired(due)
            else:
                return Said(due.said.name, count)
        nanoseconds = round(due.last_at * 1e9)
        while True:
            name = f"{due.what.name}.{nanoseconds:x}"
            try:
                await self._client.create(EVENTS, self._document(due, name), namespace=due.what.event_namespace)
            except AlreadyExists:
                if attempt > 0:  # Ours: the last try arrived, only its answer was lost.
                    return Said(name, due.more)
                nanoseconds += 1 + self._rng.randrange(1_000_000)  # Another process spoke of it in the same moment.
            else:
                return Said(name, due.more)

    def _document(self, due: Due, name: str) -> dict[str, object]:
        what = due.what
        regarding = {
            "apiVersion": what.api_version,
            "kind": what.kind,
            "namespace": what.namespace,
            "name": what.name,
            "uid": what.uid,
            "resourceVersion": due.resource_version,
        }
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": what.event_namespace},
            "involvedObject": {key: value for key, value in regarding.items() if value},
            "type": what.type,
            "reason": what.reason,
            "message": what.note,
            "count": due.more,
            "firstTimestamp": _timestamp(due.first_at),
            "lastTimestamp": _timestamp(due.last_at),
            "source": {"component": self._component},
            "reportingComponent": self._component,
            "reportingInstance": self._instance,
        }


def _timestamp(at: float) -> str:
    """A time of meta/v1, which has whole seconds."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
