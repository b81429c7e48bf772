from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from config.model import ServiceKey
from controller.observe import Stores
from kube.objects import ObjectKey
from kube.store import generation
from tests.unit.controller.cluster import a_cluster, ips
from tests.unit.controller.test_apply import by_hand, put, with_pool


@pytest.mark.parity("Kubernetes glue > no service is handled before the first lists")
async def test_nothing_is_decided_before_every_first_list_has_come(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as cluster, by_hand(cluster.client) as (reconciler, stores, _):
        put(stores, await cluster.service())
        stores.l2_advertisements.synced = False
        reconciler.reconcile()
        assert reconciler.status()["world"] == {
            "ready": False,
            "leads": True,
            "waiting_for": ["L2Advertisement"],
            "services": 0,
            "lb_class": "",
            "pools": {},
            "broken_pools": [],
        }
        await with_pool(cluster, stores)
        stores.l2_advertisements.synced = True
        reconciler.reconcile()
        assert reconciler.status()["plan"]["services"]["default/web"]["addresses"] == ["192.168.20.20"]


def test_all_kinds_are_waited_for() -> None:
    assert Stores().unsynced == ["Service", "IPAddressPool", "L2Advertisement", "Namespace"]


async def test_a_complaint_is_repeated_only_when_it_changes(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as cluster, by_hand(cluster.client) as (reconciler, stores, heard):
        await with_pool(cluster, stores)
        for annotations in ({"metallb.io/address-pool": "nope"}, {"a": "b"}, {"metallb.io/address-pool": "neither"}):
            service = (
                await cluster.change("web", metadata={"annotations": annotations})
                if heard.events
                else await cluster.service(annotations=annotations)
            )
            put(stores, service)
            reconciler.reconcile()
        assert heard.events == [("web", "AllocationFailed")] * 2
        assert heard.lines.count("address_refused") == 2
        put(stores, await cluster.change("web", metadata={"annotations": {"metallb.io/address-pool": None}}))
        reconciler.reconcile()
        await reconciler.writer.idle()
        put(stores, await cluster.change("web", metadata={"annotations": {"metallb.io/address-pool": "neither"}}))
        reconciler.reconcile()
        await reconciler.writer.idle()
        assert [reason for _, reason in heard.events][2:] == ["IPAllocated", "AllocationFailed"]
        assert "address_released" in heard.lines


async def test_after_a_failure_of_the_loop_everything_is_looked_at_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The changed keys that the failed pass had taken out of the stores would be lost otherwise."""
    async with a_cluster(tmp_path) as cluster, by_hand(cluster.client) as (reconciler, stores, _):
        await with_pool(cluster, stores)
        reconciler.reconcile()
        put(stores, await cluster.service())
        with monkeypatch.context() as broken:
            broken.setattr(reconciler.planner, "handle", failing)
            with pytest.raises(ZeroDivisionError):
                reconciler.reconcile()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(reconciler.run(), name="reconcile")
            await cluster.address()
            task.cancel()


def failing(_: object) -> Any:
    raise ZeroDivisionError


async def test_a_service_deleted_while_the_loop_was_down_is_forgotten(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as cluster, by_hand(cluster.client) as (reconciler, stores, _):
        await with_pool(cluster, stores)
        service = await cluster.service()
        put(stores, service)
        reconciler.reconcile()
        await reconciler.writer.idle()
        stores.services.delete(ObjectKey(service.key))
        stores.services.take_changed()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(reconciler.run(), name="reconcile")
            async with asyncio.timeout(10):
                while ServiceKey("default/web") in reconciler.planner.services:  # noqa: ASYNC110 - nothing to wait for
                    await asyncio.sleep(0)
            task.cancel()
        assert not list(reconciler.planner.ledger.holdings())


@pytest.mark.parity("Kubernetes glue > a configuration that means the same is not handled again")
async def test_a_configuration_that_means_the_same_is_not_planned_again(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as cluster, by_hand(cluster.client) as (reconciler, stores, heard):
        await with_pool(cluster, stores)
        reconciler.reconcile()
        pool = stores.pools.get(ObjectKey("metallb-system/default"))
        assert pool is not None
        stores.pools.delete(pool.key)
        stores.pools.put(pool, generation)
        reconciler.reconcile()
        assert heard.lines.count("configuration_loaded") == 1


async def test_a_service_that_waits_for_another_one_is_shown_as_pending(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as cluster, by_hand(cluster.client) as (reconciler, stores, _):
        await with_pool(cluster, stores)
        put(stores, await cluster.service("a"))
        reconciler.reconcile()
        await reconciler.writer.idle()
        await cluster.change("a", spec={"loadBalancerIP": "192.168.20.22"})
        put(stores, await cluster.get("a"))
        put(stores, await cluster.service("b", loadBalancerIP="192.168.20.20"))
        reconciler.reconcile()
        assert reconciler.status()["pending_writes"]["default/b"] == {"state": "waiting for another Service"}
        await reconciler.writer.idle()
        assert (ips(await cluster.get("a")), ips(await cluster.get("b"))) == ("192.168.20.22", "192.168.20.20")


async def test_two_services_swap_their_addresses(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as cluster, by_hand(cluster.client) as (reconciler, stores, _):
        await with_pool(cluster, stores)
        for name in "ab":
            put(stores, await cluster.service(name))
            reconciler.reconcile()
            await reconciler.writer.idle()
        for name, wanted in (("a", "192.168.20.21"), ("b", "192.168.20.20")):
            await cluster.change(name, spec={"loadBalancerIP": wanted})
            put(stores, await cluster.get(name))
        reconciler.reconcile()
        await reconciler.writer.idle()
        assert (ips(await cluster.get("a")), ips(await cluster.get("b"))) == ("192.168.20.21", "192.168.20.20")
        assert reconciler.tally.writes == 6
