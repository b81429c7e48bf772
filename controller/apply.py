"""What the plan decided, written to the API server: one request per Service for status and annotation together.

controller.reconcile names the Services; this module asks it for the latest write of each when its turn comes, so that a
Service that changed meanwhile is written once. Up to 32 requests run at a time, one per Service. A write that fails is
tried again with growing pauses; after a conflict the Service is read again first. Nothing here decides anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from config.model import IPAddress, ServiceKey
from controller import observe
from controller.outbox import Write
from controller.world import Service, Verdict
from kube import objects
from kube.client import KubeClient, PatchKind
from kube.errors import Conflict, Forbidden, KubeError, Malformed, NotFound, Unreachable
from kube.events import EventType
from kube.objects import timestamp
from kube.resources import SERVICES, Resource

CONCURRENT: Final = 32
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 30.0
LONGEST_PAUSE_AWAY_S: Final = 2.0
"""While nothing listens, asking costs the server nothing, and it should be found soon."""
MAYBE: Final = (Unreachable, Malformed)
"""After these nobody knows whether the write arrived."""
CONFLICTS_IN_A_ROW_MAX: Final = 5
"""So often is a Service read again at once; then its writer waits, because somebody else writes all the time."""

WHOLE_SERVICES: Final = Resource("", "v1", "services", "Service", objects.RawObject)
"""Services with every member, for servers that only let us replace them."""


class Recorder(Protocol):
    """Where Events go."""

    def emit(self, regarding: objects.ObjectReference, type_: EventType, reason: str, note: str) -> None:
        """Write an Event soon; never blocks."""


class Source(Protocol):
    """Who knows what is to be written, and wants to know what became of it."""

    def next_write(self, key: ServiceKey) -> Write | None:
        """The latest write of a Service; None if there is nothing to write any more."""

    def sent(self, write: Write) -> None:
        """The write is on its way: from now on it may arrive."""

    def written(self, write: Write, version: str) -> None:
        """The write succeeded."""

    def refused(self, write: Write) -> None:
        """The write had no effect, for certain."""

    def is_unresolved(self, key: ServiceKey) -> bool:
        """Whether nobody knows if the last write of a Service arrived."""

    def reread(self, service: Service) -> bool:
        """The Service as it is now; true if the write still stands."""

    def failed(self, write: Write, error: KubeError, retry_in_s: float) -> None:
        """The write failed and will be tried again."""


@dataclass(slots=True)
class _Trouble:
    failures: int
    retry: asyncio.TimerHandle | None
    error: str


class StatusWriter:
    """Writes Services. Use: run() in a task; request(key) whenever a Service may have something to be written."""

    def __init__(self, client: KubeClient, source: Source, now: Callable[[], str] = timestamp) -> None:
        self._client = client
        self._now = now
        self._source = source
        self._queue: asyncio.Queue[ServiceKey] = asyncio.Queue()
        self._queued: set[ServiceKey] = set()
        self._active: set[ServiceKey] = set()
        self._again: set[ServiceKey] = set()
        self._trouble: dict[ServiceKey, _Trouble] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._attempts: set[asyncio.Timeout] = set()
        self.may_patch = True
        """False once the API server refused the verb patch: MetalLB's Role has only update."""

    def request(self, key: ServiceKey) -> None:
        """Write the Service as soon as it is its turn."""
        if key in self._active:
            self._again.add(key)
        elif key not in self._queued:
            self._queued.add(key)
            self._queue.put_nowait(key)
            self._idle.clear()

    async def run(self) -> None:
        """Write for ever."""
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(CONCURRENT):
                    group.create_task(self._work(), name=f"status-writer-{number}")
        finally:
            for trouble in self._trouble.values():
                if trouble.retry is not None:
                    trouble.retry.cancel()

    def abandon(self) -> None:
        """Stop what is under way: it is not ours to write any more. What arrived of it, arrived."""
        for attempt in self._attempts:
            attempt.reschedule(0.0)
        for trouble in self._trouble.values():
            if trouble.retry is not None:
                trouble.retry.cancel()
        self._trouble.clear()

    async def idle(self) -> None:
        """Return once nothing is queued or under way (failed writes that wait for another try do not count)."""
        await self._idle.wait()

    def pending(self) -> Mapping[str, Mapping[str, Any]]:
        """Services not written yet, for /status."""
        keys = {*self._queued, *self._active, *self._trouble}
        return {key: self._state(key) for key in sorted(keys)}

    def _state(self, key: ServiceKey) -> Mapping[str, Any]:
        trouble = self._trouble.get(key)
        state = "writing" if key in self._active else "queued" if key in self._queued else "waiting to retry"
        return {"state": state} | ({"failures": trouble.failures, "error": trouble.error} if trouble else {})

    async def _work(self) -> None:
        while True:
            key = await self._queue.get()
            self._queued.discard(key)
            self._active.add(key)
            try:
                async with asyncio.timeout(None) as attempt:
                    self._attempts.add(attempt)
                    await self._write(key)
            except TimeoutError:
                pass  # It was abandoned.
            finally:
                self._attempts.discard(attempt)
                self._active.discard(key)
                if key in self._again:
                    self._again.discard(key)
                    self.request(key)
                if not self._queued and not self._active:
                    self._idle.set()

    async def _write(self, key: ServiceKey) -> None:
        write: Write | None = None
        for _ in range(CONFLICTS_IN_A_ROW_MAX):
            write = self._source.next_write(key)
            if write is None:
                await self._resolve(key)
                return
            self._source.sent(write)
            try:
                version = await self._send(write)
            except Conflict as error:
                self._source.refused(write)
                if not await self._still_stands(write):
                    self._later(write, error)
                    return
            except NotFound:
                self._source.refused(write)
                self._over(key)  # The watch tells that it is gone, and the plan forgets it.
                return
            except KubeError as error:
                if not isinstance(error, MAYBE):
                    self._source.refused(write)
                pause_s = self._later(write, error)
                if isinstance(error, Unreachable):
                    await self._client.pause(pause_s)
                return
            else:
                self._over(key)
                self._source.written(write, version)
                return
        assert write is not None
        self._later(write, Conflict("somebody else changes the Service all the time"))

    async def _resolve(self, key: ServiceKey) -> None:
        """There is nothing to write. If the last write has no known result, others may wait for it: look what is there."""
        if self._source.is_unresolved(key):
            namespace, _, name = key.partition("/")
            try:
                self._source.reread(await self._client.get(observe.REDUCED_SERVICES, name, namespace))
            except NotFound:
                pass  # The watch tells.
            except KubeError as error:
                self._retry(key, error)
                return
        self._over(key)

    async def _still_stands(self, write: Write) -> bool:
        """Read the Service again; true if the write may be tried at once on what is there now."""
        namespace, _, name = write.service.partition("/")
        try:
            return self._source.reread(await self._client.get(observe.REDUCED_SERVICES, name, namespace))
        except KubeError:
            return False

    async def _send(self, write: Write) -> str:
        """Write; the version that the Service has then."""
        namespace, _, name = write.service.partition("/")
        if self.may_patch:
            try:
                done = await self._client.patch(
                    SERVICES,
                    name,
                    status_patch(write, self._now()),
                    namespace=namespace,
                    subresource="status",
                    kind=PatchKind.STRATEGIC,
                )
            except Forbidden:
                self.may_patch = False
            else:
                return done.metadata.resource_version
        whole = await self._client.get(WHOLE_SERVICES, name, namespace)
        if whole.metadata.resource_version != write.version:
            raise Conflict(f'Service "{write.service}" has changed since it was decided about')
        replaced = await self._client.update(
            SERVICES, name, replacement(write, whole.document, self._now()), namespace=namespace, subresource="status"
        )
        return replaced.metadata.resource_version

    def _later(self, write: Write, error: KubeError) -> float:
        """Plan another try and say so; in how many seconds."""
        pause_s = self._retry(write.service, error)
        self._source.failed(write, error, pause_s)
        return pause_s

    def _retry(self, key: ServiceKey, error: KubeError) -> float:
        trouble = self._trouble.setdefault(key, _Trouble(0, None, ""))
        if trouble.retry is not None:
            trouble.retry.cancel()
        away = isinstance(error, Unreachable) and error.phase == "connect"
        longest_s = LONGEST_PAUSE_AWAY_S if away else LONGEST_PAUSE_S
        pause_s: float = min(FIRST_PAUSE_S * 2 ** min(trouble.failures, 16), longest_s)
        if isinstance(error, Unreachable) and error.retry_after_s is not None:
            pause_s = max(pause_s, min(error.retry_after_s, LONGEST_PAUSE_S))
        trouble.failures += 1
        trouble.error = error.message
        trouble.retry = asyncio.get_running_loop().call_later(pause_s, self.request, key)
        return pause_s

    def _over(self, key: ServiceKey) -> None:
        trouble = self._trouble.pop(key, None)
        if trouble is not None and trouble.retry is not None:
            trouble.retry.cancel()


def status_patch(write: Write, now: str) -> dict[str, Any]:
    """The strategic merge patch of a write: only what differs, on top of exactly the version decided about.

    Strategic, because conditions of others must stay: the API server merges them by type. `now` is an RFC 3339 time.
    """
    metadata: dict[str, Any] = {"resourceVersion": write.version}
    patch: dict[str, Any] = {"metadata": metadata}
    before, after = write.before, write.after
    if after.pool != before.pool:
        metadata["annotations"] = {observe.ALLOCATED_FROM_POOL: after.pool}
    status: dict[str, Any] = {}
    if (after.addresses, after.plain) != (before.addresses, before.plain):
        status["loadBalancer"] = {"ingress": ingress(after.addresses) or None}
    if after.verdict is None and before.verdict is not None:
        status["conditions"] = [{"type": observe.ADDRESS_ASSIGNED, "$patch": "delete"}]
    elif after.verdict is not None and after.verdict != before.verdict:
        turned = before.verdict is None or before.verdict.assigned != after.verdict.assigned
        status["conditions"] = [condition(after.verdict) | ({"lastTransitionTime": now} if turned else {})]
    return patch | ({"status": status} if status else {})


def condition(verdict: Verdict) -> dict[str, str]:
    """Our condition, without the time of its last transition."""
    return {
        "type": observe.ADDRESS_ASSIGNED,
        "status": str(verdict.assigned),
        "reason": verdict.reason,
        "message": verdict.message,
    }


def replacement(write: Write, document: Mapping[str, Any], now: str) -> dict[str, Any]:
    """The whole Service as it has to be, made from the document that the server has."""
    metadata, status = dict(document.get("metadata", {})), dict(document.get("status", {}))
    annotations = {
        key: value for key, value in (metadata.get("annotations") or {}).items() if key != observe.ALLOCATED_FROM_POOL
    }
    if write.after.pool is not None:
        annotations[observe.ALLOCATED_FROM_POOL] = write.after.pool
    metadata["annotations"] = annotations
    addresses = ingress(write.after.addresses)
    status["loadBalancer"] = {"ingress": addresses} if addresses else {}
    conditions: list[dict[str, Any]] = status.get("conditions") or []
    others = [one for one in conditions if one.get("type") != observe.ADDRESS_ASSIGNED]
    if write.after.verdict is not None:
        mine = next((one for one in conditions if one.get("type") == observe.ADDRESS_ASSIGNED), {})
        after = condition(write.after.verdict)
        since = mine.get("lastTransitionTime", now) if mine.get("status") == after["status"] else now
        others.append(after | {"lastTransitionTime": since})
    if others or "conditions" in status:
        status["conditions"] = others
    return {**document, "metadata": metadata, "status": status}


def ingress(addresses: tuple[IPAddress, ...]) -> list[dict[str, str]]:
    """The entries of status.loadBalancer.ingress; the API server adds ipMode VIP where it knows that member."""
    return [{"ip": str(address)} for address in addresses]


def reference(service: ServiceKey, uid: str, version: str) -> objects.ObjectReference:
    """What an Event about a Service points at."""
    namespace, _, name = service.partition("/")
    return objects.ObjectReference(
        api_version="v1", kind="Service", namespace=namespace, name=name, uid=uid, resource_version=version
    )
