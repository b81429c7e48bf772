"""Keep, await and give back the leadership of a deployment: the Lease that kube.lease decides about, read and written.

A daemon with replicas runs one Leadership beside everything else, asks `leads` immediately before everything that only a
leader may do, and stops what is under way at `until_lost`. Where the Role lacks the verbs for Leases it leads without one,
and says so: such a deployment has one replica.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from kube.client import KubeClient
from kube.errors import AlreadyExists, Conflict, Forbidden, KubeError, NotFound
from kube.lease import Candidate, Moment, Put, Read, Record, Terms, Wait
from kube.objects import RawObject
from kube.resources import LEASES

CALL_LIMIT_S: Final = 5.0
RELEASE_LIMIT_S: Final = 0.5
JITTER: Final = 0.2


class Log(Protocol):
    """What a Leadership needs of a logger."""

    def info(self, event: str, /, **facts: object) -> object:
        """Say what happened."""

    def warning(self, event: str, /, **facts: object) -> object:
        """Say what an operator may have to mend."""


class Clocks:
    """Reads a Moment. The hasty clock is the sum of the greatest steps that any clock of the machine made.

    CLOCK_MONOTONIC stands still while the machine is suspended; CLOCK_BOOTTIME does not, and the wall clock is put right
    after a virtual machine was paused. A wall clock that is set forward makes a leader renew early, nothing worse.
    """

    def __init__(self) -> None:
        self._last = self._read()
        self._hasty = 0.0

    def _read(self) -> tuple[float, float, float]:
        return time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME), time.time()

    def __call__(self) -> Moment:
        """Now."""
        now = self._read()
        self._hasty += max(0.0, *(after - before for after, before in zip(now, self._last, strict=True)))
        self._last = now
        return Moment(now[0], self._hasty)


class Leadership:
    """Use: run() in a task; await until_leading(), do what a leader does, await until_lost(); release() at the end."""

    def __init__(
        self,
        client: KubeClient,
        *,
        namespace: str,
        name: str,
        identity: str,
        terms: Terms,
        log: Log,
        clock: Callable[[], Moment] | None = None,
        wall_clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        self.candidate = Candidate(identity, terms)
        self.without_lease = False
        """Whether it leads because nobody lets it see Leases."""
        self.tried = asyncio.Event()
        """Set once the first attempt is over, whatever came of it."""
        self.since = 0.0
        """When it began to lead, by the clock of the event loop."""
        self._client = client
        self._namespace = namespace
        self._name = name
        self._log = log
        self._clock = clock or Clocks()
        self._wall_clock = wall_clock
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, keeps no secret
        self._leading = asyncio.Event()
        self._lost = asyncio.Event()
        self._lost.set()

    def leads(self) -> bool:
        """Whether this process may decide now."""
        return self.without_lease or self.candidate.leads(self._clock())

    async def until_leading(self) -> None:
        """Return once it leads."""
        await self._leading.wait()

    async def until_lost(self) -> None:
        """Return once it leads no more."""
        await self._lost.wait()

    async def run(self) -> None:
        """Keep or await the leadership for ever."""
        while True:
            step = self.candidate.next(self._clock())
            match step:
                case Wait(for_s):
                    await self._sleep(for_s)
                case Read():
                    await self._attempt(self._read())
                case Put():
                    await self._attempt(self._put(step))
            if self.without_lease:
                return
            self._tell()

    async def _sleep(self, for_s: float) -> None:
        """Wait, but not beyond the end of the leadership."""
        now = self._clock()
        remaining_s = self.candidate.remaining_s(now)
        if remaining_s:
            await asyncio.sleep(min(for_s, remaining_s))
        else:
            await self._client.pause(for_s * (1 + JITTER * self._rng.random()))

    async def _attempt(self, talk: Any) -> None:
        """Talk to the API server, for as long as that can be of use."""
        remaining_s = self.candidate.remaining_s(self._clock())
        limit_s = min(CALL_LIMIT_S, max(remaining_s / 2, 0.05)) if remaining_s else CALL_LIMIT_S
        try:
            async with asyncio.timeout(limit_s):
                await talk
        except Forbidden as error:
            self.without_lease = True
            self._log.warning(
                "leads_without_lease", error=error.message, remedy="run one replica, or grant get, create, update on leases"
            )
            self._begin()
        except (KubeError, TimeoutError) as error:
            self.candidate.failed(self._clock())
            self._log.warning("lease_not_reached", lease=self._name, error=str(error) or "no answer in time")
            self.tried.set()

    async def _read(self) -> None:
        try:
            lease = await self._client.get(LEASES, self._name, self._namespace)
        except NotFound:
            self.candidate.observed(None, None, self._clock())
        else:
            record = record_of(lease)
            ago_s = _seconds_since(record.renewed, self._wall_clock())
            self.candidate.observed(record, lease.metadata.resource_version, self._clock(), renewed_ago_s=ago_s)
            if record.holder not in {"", self.candidate.identity}:
                self.tried.set()

    async def _put(self, put: Put) -> None:
        sent = self._clock()
        try:
            record, version = await self._write(put)
        except (AlreadyExists, Conflict, NotFound):
            self.candidate.refused()
            self.tried.set()
        else:
            self.candidate.written(record, version, sent)

    async def _write(self, put: Put) -> tuple[Record, str]:
        now = _micro_time(self._wall_clock())
        record = Record(
            put.record.holder,
            put.record.duration_s,
            now if put.acquires else put.record.acquired,
            now,
            put.record.transitions,
        )
        body = document(record, self._namespace, self._name, put.version)
        done = await (
            self._client.create(LEASES, body, namespace=self._namespace)
            if put.version is None
            else self._client.update(LEASES, self._name, body, namespace=self._namespace)
        )
        return record, done.metadata.resource_version

    def _tell(self) -> None:
        """Let those know who wait for a beginning or an end."""
        leads = self.leads()
        if leads and not self._leading.is_set():
            self._log.info("leading", lease=self._name, identity=self.candidate.identity)
            self._begin()
        elif not leads and self._leading.is_set():
            self._log.warning("leadership_lost", lease=self._name, holder=self.candidate.holder)
            self._leading.clear()
            self._lost.set()

    def _begin(self) -> None:
        self.since = asyncio.get_running_loop().time()
        self._lost.clear()
        self._leading.set()
        self.tried.set()

    async def release(self) -> None:
        """Give the leadership back, so that nobody has to wait; run() must have ended, and all that only a leader does."""
        put = self.candidate.release(self._clock())
        self._leading.clear()
        self._lost.set()
        if put is None:
            return
        try:
            async with asyncio.timeout(RELEASE_LIMIT_S):
                await self._write(put)
        except (KubeError, TimeoutError) as error:
            self._log.warning("lease_not_released", lease=self._name, error=str(error) or "no answer in time")


def record_of(lease: RawObject) -> Record:
    """What a Lease says."""
    spec: dict[str, Any] = lease.document.get("spec") or {}
    return Record(
        holder=spec.get("holderIdentity") or "",
        duration_s=spec.get("leaseDurationSeconds") or 1,
        acquired=spec.get("acquireTime") or "",
        renewed=spec.get("renewTime") or "",
        transitions=spec.get("leaseTransitions") or 0,
    )


def document(record: Record, namespace: str, name: str, version: str | None) -> dict[str, Any]:
    """The Lease that says this; with a version, only that edition is replaced."""
    return {
        "apiVersion": LEASES.api_version,
        "kind": LEASES.kind,
        "metadata": {"namespace": namespace, "name": name} | ({"resourceVersion": version} if version else {}),
        "spec": {
            "holderIdentity": record.holder,
            "leaseDurationSeconds": record.duration_s,
            "acquireTime": record.acquired,
            "renewTime": record.renewed,
            "leaseTransitions": record.transitions,
        },
    }


def _micro_time(at: float) -> str:
    """A MicroTime of meta/v1: six digits of the second, always."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _seconds_since(text: str, now: float) -> float | None:
    try:
        return now - datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None
