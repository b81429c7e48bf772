"""How much of every pool is in use, written into its status for `kubectl get ipaddresspools`.

controller.reconcile tells after every pass which pools' counters may have moved; the Store of pools tells when somebody
has edited a status by hand. What and when to write is decided in controller.pacing; here is the doing. Nothing reads these
statuses to decide anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from config.model import PoolName
from controller import observe
from controller.ipam.ledger import Ledger
from controller.observe import PoolCounters, Stores
from controller.pacing import Pacer
from kube.client import KubeClient, PatchKind
from kube.errors import Forbidden, KubeError, NotFound
from kube.resources import IP_ADDRESS_POOLS
from telemetry.log import Logger

CONCURRENT: Final = 8
INT64_MAX: Final = 2**63 - 1
"""The counters of the API are int64; larger pools show this, as in MetalLB."""


def counters(ledger: Ledger, pool: PoolName) -> PoolCounters:
    """What the status of a pool has to say."""
    four, six = ledger.usage(pool, 4), ledger.usage(pool, 6)
    return PoolCounters(
        assigned_ipv4=four.in_use,
        assigned_ipv6=six.in_use,
        available_ipv4=max(0, min(four.usable, INT64_MAX) - four.in_use),
        available_ipv6=max(0, min(six.usable, INT64_MAX) - six.in_use),
    )


class PoolStatuses:
    """Keeps the statuses of pools. Use: run() in a task; look() after every pass of the loop."""

    def __init__(
        self, client: KubeClient, stores: Stores, ledger: Callable[[], Ledger], log: Logger, *, namespace: str
    ) -> None:
        self.writes = 0
        self.failures = 0
        self._client = client
        self._stores = stores
        self._ledger = ledger
        self._log = log
        self._namespace = namespace
        self._pacer: Pacer[PoolCounters] = Pacer()
        self._wake = asyncio.Event()
        self._edited: set[str] = set()
        self._said: set[str] = set()
        self._may_patch = True
        stores.pools.follow(observe.pool_status, self._note)

    def _note(self, key: str) -> None:
        self._edited.add(key.rpartition("/")[2])
        self._wake.set()

    def look(self, touched: Iterable[PoolName]) -> None:
        """The counters of these pools may have changed."""
        some = {str(name) for name in touched}
        if some:
            self._edited |= some
            self._wake.set()

    def _take_in(self) -> None:
        ledger = self._ledger()
        edited, self._edited = self._edited, set()
        for name in edited:
            pool = PoolName(name)
            document = self._stores.pool(self._namespace, pool)
            if pool not in ledger.pools or document is None:
                self._pacer.forget(name)
                continue
            self._pacer.want(name, counters(ledger, pool))
            self._pacer.seen(name, observe.pool_status(document), document.metadata.resource_version)

    def stand_by(self) -> None:
        """Want nothing any more: another process writes."""
        self._pacer = Pacer()

    async def run(self) -> None:
        """Write for ever."""
        loop = asyncio.get_running_loop()
        limit = asyncio.Semaphore(CONCURRENT)
        self._pacer.abandon()
        async with asyncio.TaskGroup() as group:
            while True:
                self._wake.clear()
                self._take_in()
                for name, value in self._pacer.due(loop.time()).items():
                    group.create_task(self._write(name, value, limit), name=f"pool-status-{name}")
                at = self._pacer.wake_at()
                try:
                    async with asyncio.timeout_at(at):
                        await self._wake.wait()
                except TimeoutError:
                    pass

    async def _write(self, name: str, value: PoolCounters, limit: asyncio.Semaphore) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with limit:
                version = await self._send(name, value)
        except NotFound:
            self._pacer.forget(name)
        except KubeError as error:
            self.failures += 1
            retry_in_s = self._pacer.failed(name, loop.time())
            if error.message not in self._said:
                self._said.add(error.message)
                self._log.warning("pool_status_not_written", pool=name, error=error.message, retry_in_s=retry_in_s)
        else:
            self.writes += 1
            self._said.clear()
            self._pacer.written(name, value, version, loop.time())
        self._wake.set()

    async def _send(self, name: str, value: PoolCounters) -> str:
        """Write; the version that the pool has then."""
        if self._may_patch:
            try:
                done = await self._client.patch(
                    IP_ADDRESS_POOLS,
                    name,
                    {"status": document(value)},
                    namespace=self._namespace,
                    subresource="status",
                    kind=PatchKind.MERGE,
                )
            except Forbidden:
                self._may_patch = False  # MetalLB's Role has only the verb update.
            else:
                return done.metadata.resource_version
        whole = await self._client.get(IP_ADDRESS_POOLS, name, self._namespace)
        body = {**whole.document, "status": document(value)}
        replaced = await self._client.update(IP_ADDRESS_POOLS, name, body, namespace=self._namespace, subresource="status")
        return replaced.metadata.resource_version

    @property
    def pending(self) -> list[str]:
        """Pools whose status is not yet what it has to be, for /status."""
        return self._pacer.pending


def document(value: PoolCounters) -> Mapping[str, Any]:
    """The member status of an IPAddressPool."""
    return {
        "assignedIPv4": value.assigned_ipv4,
        "assignedIPv6": value.assigned_ipv6,
        "availableIPv4": value.available_ipv4,
        "availableIPv6": value.available_ipv6,
    }
