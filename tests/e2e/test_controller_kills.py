"""The controller is killed with -9 again and again while users create, change and delete Services: no address changes.

KILLS=200 is the long form. The lab has one node, and nobody announces the addresses: what matters here is who
has which.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from kube.errors import Gone, NotFound
from kube.objects import Service
from kube.resources import IP_ADDRESS_POOLS, NAMESPACES, SERVICES
from lab.leftovers import what_is_left
from lab.scenarios.stage import SYSTEM, Stage, until
from lab.user import MANIFESTS
from tests.e2e.conftest import Lab, a_lab

KILLS = int(os.environ.get("KILLS", "20"))
PRESENT = 500
CHURNING = 100
USERS = 4
NAMESPACE = "churn"
POOL = "198.18.0.0-198.18.2.255"
SEED = int(os.environ.get("SEED", "1"))
CALM_S = 60.0

pytestmark = [pytest.mark.needs("root", "nft"), pytest.mark.timeout(120 + 10 * KILLS)]


@pytest.fixture
def small_lab() -> Iterator[Lab]:
    made = a_lab("kills")
    made.command("down")
    made.command("up", "--nodes", "1", "--net", "192.168.30.0/24")
    try:
        yield made
    finally:
        made.command("down")
        assert what_is_left(made.paths) == []


class Witness:
    """Follows every Service, and remembers the first address of each as long as it lives."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.address: dict[str, str] = {}
        self.name: dict[str, str] = {}
        self.given = 0
        self.faults: list[str] = []

    async def follow(self) -> None:
        """For ever."""
        while True:
            listed, version = await self._stage.kube.list(SERVICES, namespace=NAMESPACE)
            for uid in self.name.keys() - {one.uid for one in listed}:
                self._gone(uid)
            for one in listed:
                self._look(one)
            with suppress(Gone):
                async for event in self._stage.kube.watch(SERVICES, namespace=NAMESPACE, resource_version=version):
                    if event.object is not None and event.kind.value == "DELETED":
                        self._gone(event.object.uid)
                    elif event.object is not None:
                        self._look(event.object)
                    version = event.resource_version

    def _look(self, service: Service) -> None:
        uid, name = service.uid, service.metadata.name
        self.name[uid] = name
        now = " ".join(entry.ip for entry in service.status.load_balancer.ingress or ())
        before = self.address.get(uid)
        if before is None and now:
            others = [self.name[other] for other, one in self.address.items() if one == now]
            if others:
                self.faults.append(f"{name} got {now}, which {others} has")
            self.address[uid] = now
            self.given += 1
        elif before is not None and now != before:
            self.faults.append(f"{name} had {before} and has {now or 'nothing'}")

    def _gone(self, uid: str) -> None:
        self.address.pop(uid, None)
        self.name.pop(uid, None)

    @property
    def waiting(self) -> list[str]:
        return [name for uid, name in self.name.items() if uid not in self.address]


def body(name: str) -> dict[str, Any]:
    spec = {"type": "LoadBalancer", "ports": [{"port": 80}], "allocateLoadBalancerNodePorts": False}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec}


async def churn(stage: Stage, number: int, enough: asyncio.Event) -> None:
    """A user who deletes Services and creates others under their names, and changes what is no reason to lose an address."""
    kube, rng = stage.kube, random.Random(SEED + number)  # noqa: S311 - replays from its seed
    while not enough.is_set():
        name = f"churn-{rng.randrange(number, CHURNING, USERS)}"
        with suppress(NotFound):
            await kube.delete(SERVICES, name, namespace=NAMESPACE)
        await kube.create(SERVICES, body(name), namespace=NAMESPACE)
        other = f"steady-{rng.randrange(PRESENT - CHURNING)}"
        change = {"metadata": {"labels": {"turn": str(rng.random())}}, "spec": {"ports": [{"port": rng.randint(1, 9999)}]}}
        await kube.patch(SERVICES, other, change, namespace=NAMESPACE)


async def controller_pid(stage: Stage, *, other_than: int = 0) -> int:
    """The controller's process, once there is one."""

    def look() -> int | None:
        pods = [pod for pod in stage.status()["pods"] if pod["namespace"] == SYSTEM and pod["name"].startswith("controller-")]
        pids = [pid for pod in pods for pid in pod["pids"].values() if pid != other_than]
        return pids[0] if pids else None

    return await until(look, limit_s=30.0, what="a controller", logs=stage.where.logs)


@asynccontextmanager
async def busy(lab: Lab) -> AsyncIterator[tuple[Stage, Witness, asyncio.TaskGroup]]:
    """The lab with the product, a pool, and so many Services with their addresses."""
    async with Stage.opened(lab.paths) as stage:
        stage.user.apply(*MANIFESTS)
        await stage.until_controller_ready()
        kube, witness = stage.kube, Witness(stage)
        await kube.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        pool = {"apiVersion": IP_ADDRESS_POOLS.api_version, "kind": "IPAddressPool", "metadata": {"name": "churn"}}
        await kube.create(IP_ADDRESS_POOLS, pool | {"spec": {"addresses": [POOL]}}, namespace=SYSTEM)
        names = iter([f"steady-{n}" for n in range(PRESENT - CHURNING)] + [f"churn-{n}" for n in range(CHURNING)])

        async def create() -> None:
            for name in names:
                await kube.create(SERVICES, body(name), namespace=NAMESPACE)

        async with asyncio.TaskGroup() as group:
            for number in range(USERS):
                group.create_task(create(), name=f"creator-{number}")
        async with asyncio.TaskGroup() as group:
            following = group.create_task(witness.follow(), name="witness")
            await everybody_has_one(stage, witness)
            yield stage, witness, group
            following.cancel()


async def everybody_has_one(stage: Stage, witness: Witness) -> None:
    def look() -> bool | None:
        return True if len(witness.name) == PRESENT and not witness.waiting else None

    await until(look, limit_s=CALM_S, what="an address for every Service", logs=stage.where.logs)


async def another_address(stage: Stage, witness: Witness) -> None:
    given = witness.given
    await until(lambda: witness.given > given or None, limit_s=CALM_S, what="another address", logs=stage.where.logs)


async def test_a_controller_that_is_killed_under_churn_changes_no_address(small_lab: Lab) -> None:
    rng, enough = random.Random(SEED), asyncio.Event()  # noqa: S311 - replays from its seed
    async with busy(small_lab) as (stage, witness, group):
        given, pid = witness.given, 0
        for number in range(USERS):
            group.create_task(churn(stage, number, enough), name=f"user-{number}")
        for number in range(KILLS):
            pid = await controller_pid(stage, other_than=pid)
            if number % 2:  # In the midst of its work, and else at any moment of its start.
                await another_address(stage, witness)
                await asyncio.sleep(rng.uniform(0.0, 0.5))
            else:
                await asyncio.sleep(rng.uniform(0.0, 2.0))
            os.kill(pid, signal.SIGKILL)
            assert witness.faults == []
        enough.set()
        await everybody_has_one(stage, witness)
        assert witness.faults == []
        done = f"{KILLS} kills, {PRESENT} Services, {witness.given - given} addresses given meanwhile, 0 changed"
        print(done)  # noqa: T201 - the long form reports it
