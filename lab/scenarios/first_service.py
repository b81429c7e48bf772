"""From a Service's creation to its first answer: how long does a user wait?

Every run creates a Service in front of running web servers, waits for its address as a watcher of the API sees it, and lets
the client, whose neighbour table does not know the address, ask for the page. Times are CLOCK_MONOTONIC.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time
from collections.abc import AsyncIterator

import msgspec

from kube.errors import KubeError
from kube.resources import SERVICES
from lab import netns
from lab.scenarios.stage import NAMESPACE, Stage
from lab.timeline import Moment

LIMIT_S = 15.0


class FirstService(msgspec.Struct, frozen=True, kw_only=True):
    """One run."""

    run: int
    address: str
    created: float
    assigned: float
    first_good: float
    assigned_s: float
    first_good_s: float

    @property
    def seconds(self) -> float:
        """The whole wait."""
        return self.first_good_s

    @property
    def span(self) -> tuple[float, float]:
        """From the request to the answer."""
        return (self.created, self.first_good)

    def seen(self) -> list[Moment]:
        """What the user sees."""
        return [
            Moment(at=self.created, where="client", kind="client", what="the Service is created"),
            Moment(at=self.assigned, where="client", kind="client", what=f"a watcher sees {self.address} in its status"),
            Moment(at=self.first_good, where="client", kind="client", what="first good answer"),
        ]

    def __str__(self) -> str:
        return f"run {self.run}: {self.address} in the status after {self.assigned_s * 1000:.0f} ms, first good answer after {self.first_good_s * 1000:.0f} ms"


async def run(stage: Stage, runs: int) -> AsyncIterator[FirstService]:
    """Create and delete a Service so many times."""
    for index in range(1, runs + 1):
        name = f"first-service-{index}"
        await stage.delete_service(name)
        try:
            yield await _once(stage, index, name)
        finally:
            await stage.delete_service(name)
            stage.client.rest()


async def _once(stage: Stage, index: int, name: str) -> FirstService:
    watching = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        assigned = group.create_task(_assignment(stage, name, watching), name="watch")
        await watching.wait()
        stage.client.forget()
        created = time.monotonic()
        await stage.create_service(name)
        async with asyncio.timeout(LIMIT_S):
            address, seen = await assigned
    stage.client.ask(address, good=1)
    good = await stage.client.first_good(after=created, limit_s=LIMIT_S)
    _forget_neighbour(stage, address)
    return FirstService(
        run=index,
        address=address,
        created=created,
        assigned=seen,
        first_good=good.end,
        assigned_s=round(seen - created, 4),
        first_good_s=round(good.end - created, 4),
    )


async def _assignment(stage: Stage, name: str, watching: asyncio.Event) -> tuple[str, float]:
    """The address a watcher sees in the Service's status, and when."""
    _, version = await stage.kube.list(SERVICES, namespace=NAMESPACE)
    watching.set()
    while True:
        with contextlib.suppress(KubeError):
            events = stage.kube.watch(SERVICES, namespace=NAMESPACE, resource_version=version)
            async with contextlib.aclosing(events):
                async for event in events:
                    service = event.object
                    if service is None or service.metadata.name != name:
                        continue
                    for each in service.status.load_balancer.ingress or ():
                        return each.ip, time.monotonic()


def _forget_neighbour(stage: Stage, address: str) -> None:
    """Let the client not know who has an address, as a client that never asked."""
    client = stage.topology.netns(stage.topology.client.name)
    subprocess.run(netns.enter(client, ["ip", "neigh", "del", address, "dev", "eth0"]), check=False, capture_output=True)
