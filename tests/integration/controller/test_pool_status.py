from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from config.model import PoolName, ServiceKey
from controller import observe
from controller.ipam.ledger import Ledger
from controller.observe import PoolCounters
from controller.pool_status import INT64_MAX, counters
from kube.client import PatchKind
from kube.objects import RawObject
from kube.resources import IP_ADDRESS_POOLS
from tests.builders import NAMESPACE, a_config, a_pool, addresses
from tests.unit.controller.cluster import Cluster, a_cluster, until


@pytest.mark.parametrize(
    ("ranges", "avoid", "four", "six"),
    [
        ("10.0.0.0/24", False, 256, 0),
        ("10.0.0.0/24,10.0.1.0/25", False, 384, 0),
        ("10.0.0.0/24,10.0.1.0/25", True, 381, 0),
        ("10.0.0.0/24,10.0.1.0/25,fc00::/64", True, 381, INT64_MAX),
        ("1.2.3.0/31,fc00::/127", True, 1, 2),
        ("1.2.3.0/32", True, 0, 0),
        ("fc00::/64,10.0.0.0/24", False, 256, INT64_MAX),
    ],
)
@pytest.mark.parity(
    "Allocator > counts > /24",
    "Allocator > counts > /24 and /25",
    "Allocator > counts > /24 and /25 with avoidBuggyIPs",
    "Allocator > counts > with a /64",
    "Allocator > counts > /31 at .0 with avoidBuggyIPs, and /127",
)
def test_the_counters_of_a_fresh_pool(ranges: str, avoid: object, four: int, six: int) -> None:
    ledger = Ledger(a_config(a_pool("p", ranges, avoid_buggy_ips=bool(avoid))))
    found = counters(ledger, PoolName("p"))
    assert (found.assigned_ipv4, found.assigned_ipv6, found.available_ipv4, found.available_ipv6) == (0, 0, four, six)


def test_a_shared_address_counts_once_and_only_touched_pools_are_looked_at() -> None:
    ledger = Ledger(a_config(a_pool("p", "10.0.0.0/31"), a_pool("q", "10.0.1.0/31")))
    assert ledger.take_touched() == {"p", "q"}
    ledger.claim(ServiceKey("ns/a"), addresses("10.0.0.0"))
    assert ledger.take_touched() == {"p"}
    assert counters(ledger, PoolName("p")).available_ipv4 == 1
    assert ledger.take_touched() == frozenset()


@pytest.mark.parametrize("status", [None, {}, {"assignedIPv4": "x"}, {"assignedIPv4": 1}])
def test_a_status_that_is_not_ours_counts_as_none(status: Any) -> None:
    assert observe.pool_status(RawObject(document={"status": status})) is None


async def says(cluster: Cluster, name: str = "default") -> PoolCounters | None:
    return observe.pool_status(await cluster.client.get(IP_ADDRESS_POOLS, name, NAMESPACE))


async def until_it_says(cluster: Cluster, in_use: int, free: int, name: str = "default") -> None:
    expected = PoolCounters(assigned_ipv4=in_use, assigned_ipv6=0, available_ipv4=free, available_ipv6=0)

    async def so() -> bool:
        return await says(cluster, name) == expected

    await until(so)


@pytest.mark.parity(
    "Kubernetes glue > IPAddressPool status > written on creation",
    "Kubernetes glue > IPAddressPool status > written on a change",
    "Kubernetes glue > IPAddressPool status > an edit is reverted",
)
async def test_a_pool_says_how_much_of_it_is_in_use_and_edits_are_reverted(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as cluster:
        await cluster.pool()
        async with cluster.controlled():
            await until_it_says(cluster, 0, 3)
            await cluster.service("a")
            await cluster.service("b")
            await until_it_says(cluster, 2, 1)
            await cluster.client.patch(
                IP_ADDRESS_POOLS,
                "default",
                {"status": {"assignedIPv4": 77, "availableIPv4": 0}},
                namespace=NAMESPACE,
                subresource="status",
                kind=PatchKind.MERGE,
            )
            await until_it_says(cluster, 2, 1)
            await cluster.change_pool("default", addresses=["192.168.20.20-192.168.20.29"])
            await until_it_says(cluster, 2, 8)
            await cluster.pool("second", "10.9.0.0/31")
            await until_it_says(cluster, 0, 2, "second")
        before = (await cluster.client.get(IP_ADDRESS_POOLS, "default", NAMESPACE)).metadata.resource_version
        async with cluster.controlled():
            await cluster.quiet()
            assert (await cluster.status())["pending_pool_statuses"] == []
        after = (await cluster.client.get(IP_ADDRESS_POOLS, "default", NAMESPACE)).metadata.resource_version
        assert after == before, "a restart writes nothing"


async def test_many_allocations_become_few_writes(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as cluster:
        await cluster.pool("default", "192.168.20.0/24")
        async with cluster.controlled():
            await until_it_says(cluster, 0, 256)
            before = await cluster.client.get(IP_ADDRESS_POOLS, "default", NAMESPACE)
            for number in range(40):
                await cluster.service(f"s{number}")
            await until_it_says(cluster, 40, 216)
            watch = cluster.client.watch(
                IP_ADDRESS_POOLS, resource_version=before.metadata.resource_version, namespace=NAMESPACE, timeout_s=1
            )
            seen = [event.object async for event in watch if event.object is not None]
            assert len(seen) <= 10, "not one write per Service"
