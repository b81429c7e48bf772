"""Keep a Store equal to what the API server has: list once, then follow the watch for ever.

A daemon runs one Reflector per kind. It sets `dirty` when an object came, went or changed in a way that matters (by the
caller's fingerprint), and once when the first list is complete; it never says what changed, the Store does. What to do
after a failure is decided in kube.retry; here is only the doing. It survives every failure of the server and raises
nothing but cancellation.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from kube.client import EventKind, KubeClient, Undecoded, WatchEvent
from kube.errors import KubeError, Unreachable
from kube.objects import Known, ObjectKey
from kube.resources import Resource
from kube.retry import START, Ended, Next, Outcome, Pace, Step, next_step, outcome_of
from kube.store import Fingerprint, Store

T = TypeVar("T", bound=Known)

WATCH_S: Final = (240.0, 480.0)
"""A watch is asked to end after a random time in this range, so that watches spread over the API servers."""
SAY_AGAIN_S: Final = 60.0
BREATH_EVERY: Final = 200
"""Events handled before others get a turn: gossip and health answers share the loop."""


class Log(Protocol):
    """What a Reflector needs of a logger: an event name and facts."""

    def info(self, event: str, /, **facts: object) -> object:
        """Say what happened."""

    def warning(self, event: str, /, **facts: object) -> object:
        """Say what an operator may have to mend."""


@dataclass(slots=True)
class Tally:
    """What a reflector did so far, for metrics and status pages."""

    lists: int = 0
    watches: int = 0
    events: int = 0
    failures: int = 0
    undecoded: int = 0
    last_outcome: Outcome = Outcome.LISTED
    last_error: str = ""


class Reflector(Generic[T]):
    """One kind of object, perhaps in one namespace or by one selector, mirrored into one Store."""

    def __init__(
        self,
        client: KubeClient,
        resource: Resource[T],
        store: Store[T],
        *,
        dirty: asyncio.Event,
        fingerprint: Fingerprint[T],
        log: Log,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
        rng: random.Random | None = None,
        pace: Pace | None = None,
    ) -> None:
        self.tally = Tally()
        self._client = client
        self._resource = resource
        self._store = store
        self._dirty = dirty
        self._fingerprint = fingerprint
        self._log = log
        self._namespace = namespace
        self._label_selector = label_selector
        self._field_selector = field_selector
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, keeps no secret
        self._pace = pace or Pace()
        self._version = ""
        self._opened = False
        self._listing_since: float | None = None
        self._listed_since: float | None = None
        self._listed = asyncio.Event()
        self._list_next = False
        self._watching: asyncio.Timeout | None = None
        self._said: tuple[Outcome, float] | None = None

    async def run(self) -> None:
        """Mirror for ever."""
        loop = asyncio.get_running_loop()
        step, record = Step.LIST, START
        while True:
            begun, before = loop.time(), self.tally.events
            self._opened = False
            outcome, retry_after_s = Outcome.ENDED, None
            try:
                if step is Step.LIST:
                    await self._list()
                    outcome = Outcome.LISTED
                else:
                    await self._watch()
            except KubeError as error:
                outcome = outcome_of(error)
                retry_after_s = error.retry_after_s if isinstance(error, Unreachable) else None
                self.tally.failures += 1
                self.tally.last_error = error.message
            self._listing_since = None
            ended = Ended(outcome, loop.time() - begun, self._opened, self.tally.events - before, retry_after_s)
            following = next_step(record, step, ended, chance=self._rng.random(), pace=self._pace)
            self.tally.last_outcome = outcome
            if following.record.failures > record.failures or outcome not in {Outcome.LISTED, Outcome.ENDED}:
                self._say_failed(step, outcome, following, loop.time())
            if following.wait_s > 0 and not (self._list_next and outcome is Outcome.ENDED):
                if outcome is Outcome.NO_CONNECTION:
                    await self._client.pause(following.wait_s)
                else:
                    await asyncio.sleep(following.wait_s)
            step, record = Step.LIST if self._list_next else following.step, following.record

    async def listed_since(self, moment: float) -> None:
        """Return once the store has a list that was begun at or after this moment (by the clock of the event loop).

        A list shows everything that was written before it was begun, which a watch does not promise: one that is under
        way is ended for it.
        """
        while self._listed_since is None or self._listed_since < moment:
            if self._listing_since is None or self._listing_since < moment:
                self._list_next = True
                if self._watching is not None and not self._watching.expired():
                    self._watching.reschedule(0.0)
            self._listed.clear()
            await self._listed.wait()

    async def _list(self) -> None:
        self.tally.lists += 1
        begun = self._listing_since = asyncio.get_running_loop().time()
        self._list_next = False
        listing = await self._client.list_all(
            self._resource,
            namespace=self._namespace,
            label_selector=self._label_selector,
            field_selector=self._field_selector,
        )
        for undecoded in listing.undecoded:
            self._say_undecoded(undecoded)
        self._version = listing.resource_version
        if self._store.replace(listing.items, self._fingerprint, keep=(each.key for each in listing.undecoded)):
            self._dirty.set()
        self._listed_since = begun
        self._listed.set()

    async def _watch(self) -> None:
        self.tally.watches += 1
        watch = self._client.open_watch(
            self._resource,
            resource_version=self._version,
            namespace=self._namespace,
            label_selector=self._label_selector,
            field_selector=self._field_selector,
            timeout_s=self._rng.uniform(*WATCH_S),
        )
        try:
            async with asyncio.timeout(None) as self._watching, watch as events:
                self._opened = True
                self._say_recovered()
                async for event in events:
                    self._take(event)
                    if self.tally.events % BREATH_EVERY == 0:
                        await asyncio.sleep(0)
        except TimeoutError:
            pass  # A list was asked for.
        finally:
            self._watching = None

    def _take(self, event: WatchEvent[T]) -> None:
        """Bring one event into the store, then move the resource version on: in this order a lost event comes again."""
        self.tally.events += 1
        view = event.object
        if view is not None:
            deleted = event.kind is EventKind.DELETED
            news = self._store.delete(ObjectKey(view.key)) if deleted else self._store.put(view, self._fingerprint)
            if news:
                self._dirty.set()
        elif event.undecoded is not None:
            self._say_undecoded(event.undecoded)
            # Its last readable edition stays, unless the object is gone: deleting needs no more than the name.
            if event.kind is EventKind.DELETED and self._store.delete(event.undecoded.key):
                self._dirty.set()
        if event.resource_version:
            self._version = event.resource_version

    def _say_undecoded(self, undecoded: Undecoded) -> None:
        self.tally.undecoded += 1
        self._log.warning("object_unreadable", kind=self._resource.kind, object=undecoded.key, error=undecoded.problem)

    def _say_failed(self, step: Step, outcome: Outcome, following: Next, now: float) -> None:
        """Log a failure when it is new in kind, and once a minute while it lasts."""
        if self._said is not None and self._said[0] is outcome and now - self._said[1] < SAY_AGAIN_S:
            return
        self._said = (outcome, now)
        facts = {**self._facts(), "step": step.value, "reason": outcome.value, "retry_in_s": round(following.wait_s, 2)}
        if outcome is not Outcome.ENDED:
            facts["error"] = self.tally.last_error
        if outcome is Outcome.EXPIRED:  # Ordinary life of a watch.
            self._log.info("watch_expired", **facts)
        else:
            self._log.warning("watch_failed", **facts)

    def _say_recovered(self) -> None:
        if self._said is not None:
            self._said = None
            self._log.info("api_answers_again", **self._facts())

    def _facts(self) -> dict[str, object]:
        facts: dict[str, object] = {"kind": self._resource.kind}
        if self._namespace:
            facts["namespace"] = self._namespace
        return facts
