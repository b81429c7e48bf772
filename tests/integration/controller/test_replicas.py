"""Several controllers on one cluster: one decides, the others wait with warm caches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from controller.run import LEASE, serve
from kube.resources import LEASES
from tests.builders import NAMESPACE
from tests.unit.controller.cluster import Cluster, a_cluster, chosen, client_of, ips, until

QUICK = ("--lease-duration=1s", "--lease-retry-period=50ms")


@dataclass
class Replica:
    """A controller that can end well, or vanish."""

    task: asyncio.Task[None]
    stop: asyncio.Event

    async def end(self) -> None:
        self.stop.set()
        await self.task

    async def vanish(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


@asynccontextmanager
async def replica(cluster: Cluster, name: str, *flags: str) -> AsyncIterator[Replica]:
    stop, path = asyncio.Event(), cluster.path / name
    path.mkdir()
    async with client_of(cluster.server) as client:
        task = asyncio.create_task(serve(chosen(path, f"--pod-name={name}", *QUICK, *flags), client, stop), name=name)
        made = Replica(task, stop)
        try:
            yield made
        finally:
            await made.end() if not task.done() else None


async def holder(cluster: Cluster) -> str:
    lease = await cluster.client.get(LEASES, LEASE, NAMESPACE)
    held: str = lease.document["spec"]["holderIdentity"]
    return held


async def test_the_next_replica_goes_on_where_the_leader_ended(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as cluster:
        await cluster.pool()
        async with replica(cluster, "one") as one:
            await cluster.service("a")
            await cluster.address("a")
            async with replica(cluster, "two"):
                assert await holder(cluster) == "one"
                await cluster.service("b")
                await cluster.address("b")
                await one.end()
                assert await holder(cluster) in {"", "two"}
                await cluster.service("c")
                assert await cluster.address("c") == "192.168.20.22"
                assert await holder(cluster) == "two"


async def test_when_the_leader_vanishes_another_replica_takes_over_once_the_lease_has_ended(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as cluster:
        await cluster.pool()
        async with replica(cluster, "one") as one:
            await cluster.service("a")
            before = await cluster.address("a")
            async with replica(cluster, "two"):
                await one.vanish()
                assert await holder(cluster) == "one"
                await cluster.service("b")
                assert await cluster.address("b") == "192.168.20.21"
                assert ips(await cluster.get("a")) == before


async def test_a_leader_that_lost_the_lease_decides_nothing_until_it_has_it_again(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as cluster:
        await cluster.pool()
        async with replica(cluster, "one"):
            await cluster.service("a")
            await cluster.address("a")
            thief = {"spec": {"holderIdentity": "thief", "leaseDurationSeconds": 2}}
            await cluster.client.patch(LEASES, LEASE, thief, namespace=NAMESPACE)

            async def stands_by() -> bool:
                told = Cluster(cluster.server, cluster.client, cluster.path / "one")
                return not (await told.status())["world"]["leads"]

            await until(stands_by)
            await cluster.service("b")
            assert await holder(cluster) == "thief"
            assert await cluster.address("b") == "192.168.20.21"
            assert await holder(cluster) == "one"
            assert ips(await cluster.get("a")) == "192.168.20.20"
