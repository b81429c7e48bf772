from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from config.model import PoolName, ServiceKey
from controller import observe
from controller.apply import reference, replacement, status_patch
from controller.observe import Stores
from controller.outbox import Write
from controller.reconcile import Reconciler
from controller.world import Recorded, Verdict
from kube.client import KubeClient
from kube.objects import ObjectReference, RawObject, Service
from kube.resources import IP_ADDRESS_POOLS, SERVICES
from kube.store import generation
from tests.builders import addresses
from tests.unit.controller.cluster import Cluster, a_cluster, annotation, ips, until
from tests.unit.kube.responder import Line, Request, connected, responding

DEFAULT = PoolName("default")


def a_write(before: Recorded, after: Recorded) -> Write:
    return Write(service=ServiceKey("default/web"), uid="u", version="7", before=before, after=after)


NOW = "2026-01-02T03:04:05Z"
NONE, ONE = Recorded(), Recorded(addresses("192.0.2.1"), DEFAULT)


@pytest.mark.parametrize(
    ("before", "after", "annotations", "status"),
    [
        (NONE, ONE, {"metallb.io/ip-allocated-from-pool": "default"}, {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}),
        (ONE, NONE, {"metallb.io/ip-allocated-from-pool": None}, {"loadBalancer": {"ingress": None}}),
        (Recorded(addresses("192.0.2.1")), ONE, {"metallb.io/ip-allocated-from-pool": "default"}, None),
        (Recorded(ONE.addresses, DEFAULT, plain=False), ONE, None, {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}),
        (ONE, Recorded(addresses("192.0.2.1 fc00::1"), DEFAULT), None, {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"ip": "fc00::1"}]}}),
    ],
)  # fmt: skip
def test_a_patch_has_only_what_differs_on_top_of_one_version(
    before: Recorded, after: Recorded, annotations: Any, status: Any
) -> None:
    patch = status_patch(a_write(before, after), NOW)
    assert patch["metadata"] == {"resourceVersion": "7"} | ({} if annotations is None else {"annotations": annotations})
    assert patch.get("status") == status


def test_a_replacement_keeps_what_is_not_ours() -> None:
    document = {
        "kind": "Service",
        "metadata": {"name": "web", "annotations": {"a": "b", observe.ALLOCATED_FROM_POOL: "old"}},
        "spec": {"type": "LoadBalancer"},
        "status": {"conditions": [{"type": "Ready"}], "loadBalancer": {"ingress": [{"hostname": "x"}]}},
    }
    whole = replacement(a_write(NONE, ONE), document, NOW)
    assert whole["metadata"]["annotations"] == {"a": "b", observe.ALLOCATED_FROM_POOL: "default"}
    assert whole["status"] == {"conditions": [{"type": "Ready"}], "loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}
    cleared = replacement(a_write(ONE, NONE), {"metadata": {}, "status": {}}, NOW)
    assert cleared == {"metadata": {"annotations": {}}, "status": {"loadBalancer": {}}}


YES, NO, OTHER_NO = Verdict(True, "HoldsAddress", "m"), Verdict(False, "PoolExhausted", "m"), Verdict(False, "NoPools", "n")


def a_condition(status: str, reason: str, message: str, since: str = "") -> dict[str, str]:
    made = {"type": observe.ADDRESS_ASSIGNED, "status": status, "reason": reason, "message": message}
    return made | ({"lastTransitionTime": since} if since else {})


@pytest.mark.parametrize(
    ("before", "after", "conditions"),
    [
        (None, YES, [a_condition("True", "HoldsAddress", "m", NOW)]),
        (NO, YES, [a_condition("True", "HoldsAddress", "m", NOW)]),
        (NO, OTHER_NO, [a_condition("False", "NoPools", "n")]),
        (YES, YES, None),
        (None, None, None),
        (YES, None, [{"type": observe.ADDRESS_ASSIGNED, "$patch": "delete"}]),
    ],
)
def test_the_condition_is_patched_only_when_it_changes(before: Verdict | None, after: Verdict | None, conditions: Any) -> None:
    patch = status_patch(a_write(replace(ONE, verdict=before), replace(ONE, verdict=after)), NOW)
    assert patch.get("status") == (None if conditions is None else {"conditions": conditions})


def test_in_a_replacement_the_condition_stands_beside_those_of_others() -> None:
    ready = {"type": "Ready", "status": "True"}
    old = a_condition("False", "PoolExhausted", "m", "2020-01-01T00:00:00Z")
    document = {"metadata": {}, "status": {"conditions": [old, ready]}}
    still = replacement(a_write(NONE, replace(NONE, verdict=OTHER_NO)), document, NOW)
    assert still["status"]["conditions"] == [ready, a_condition("False", "NoPools", "n", "2020-01-01T00:00:00Z")]
    turned = replacement(a_write(NONE, replace(ONE, verdict=YES)), document, NOW)
    assert turned["status"]["conditions"] == [ready, a_condition("True", "HoldsAddress", "m", NOW)]
    gone = replacement(a_write(ONE, NONE), document, NOW)
    assert gone["status"]["conditions"] == [ready]


def test_an_event_points_at_the_service() -> None:
    expected = ObjectReference(api_version="v1", kind="Service", namespace="default", name="web", uid="u", resource_version="7")
    assert reference(ServiceKey("default/web"), "u", "7") == expected


class Heard:
    """An Event recorder and a log that remember."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        self.lines: list[str] = []

    def emit(self, regarding: ObjectReference, type_: str, reason: str, note: str) -> None:
        self.events.append((regarding.name, reason))

    def info(self, event: str, /, **facts: object) -> None:
        self.lines.append(event)

    debug = warning = error = info


@asynccontextmanager
async def by_hand(client: KubeClient) -> AsyncIterator[tuple[Reconciler, Stores, Heard]]:
    """A Reconciler whose stores the test fills itself, with its writer running."""
    stores, heard = Stores(), Heard()
    reconciler = Reconciler(client, stores, heard, heard, namespace="metallb-system")
    for store in (stores.services, stores.pools, stores.l2_advertisements, stores.namespaces):
        store.synced = True
    async with asyncio.TaskGroup() as group:
        task = group.create_task(reconciler.writer.run(), name="writer")
        try:
            yield reconciler, stores, heard
        finally:
            task.cancel()


def put(stores: Stores, service: Service) -> None:
    stores.services.put(observe.service(service), observe.service_fingerprint)


async def with_pool(cluster: Cluster, stores: Stores) -> None:
    pool: RawObject = await cluster.pool()
    stores.pools.put(await cluster.client.get(IP_ADDRESS_POOLS, pool.metadata.name, pool.metadata.namespace), generation)


class TestConflicts:
    async def test_a_service_that_changed_in_nothing_that_matters_is_written_at_once(self, tmp_path: Path) -> None:
        async with a_cluster(tmp_path) as cluster, by_hand(cluster.client) as (reconciler, stores, heard):
            await with_pool(cluster, stores)
            put(stores, await cluster.service())
            await cluster.change("web", metadata={"annotations": {"example.com/a": "b"}})
            reconciler.reconcile()
            await reconciler.writer.idle()
            service = await cluster.get()
            assert (ips(service), annotation(service)) == ("192.168.20.20", "default")
            assert heard.events == [("web", "IPAllocated")]
            put(stores, service)
            reconciler.reconcile()
            assert not reconciler.planner.unseen
            assert reconciler.tally.writes == 1

    async def test_a_service_that_asks_for_something_else_by_now_is_decided_again_first(self, tmp_path: Path) -> None:
        async with a_cluster(tmp_path) as cluster, by_hand(cluster.client) as (reconciler, stores, heard):
            await with_pool(cluster, stores)
            put(stores, await cluster.service())
            changed = await cluster.change("web", spec={"loadBalancerIP": "192.168.20.22"})
            reconciler.reconcile()
            await reconciler.writer.idle()
            assert ips(await cluster.get()) == ""
            assert "status_write_failed" in heard.lines
            assert reconciler.status()["pending_writes"]["default/web"]["state"] == "waiting to retry"
            put(stores, changed)
            reconciler.reconcile()
            await reconciler.writer.idle()
            assert ips(await cluster.get()) == "192.168.20.22"
            assert reconciler.status()["pending_writes"] == {}

    async def test_a_newer_edition_in_the_store_is_what_is_written_on(self, tmp_path: Path) -> None:
        async with a_cluster(tmp_path) as cluster, by_hand(cluster.client) as (reconciler, stores, _):
            await with_pool(cluster, stores)
            put(stores, await cluster.service())
            reconciler.reconcile()
            put(stores, await cluster.change("web", metadata={"annotations": {"example.com/a": "b"}}))
            await reconciler.writer.idle()
            assert ips(await cluster.get()) == "192.168.20.20"
            assert reconciler.tally.update_errors == 0

    async def test_a_service_that_waits_to_be_decided_again_is_not_written(self, tmp_path: Path) -> None:
        async with a_cluster(tmp_path) as cluster, by_hand(cluster.client) as (reconciler, stores, _):
            await with_pool(cluster, stores)
            put(stores, await cluster.service())
            reconciler.reconcile()
            put(stores, await cluster.change("web", spec={"loadBalancerIP": "192.168.20.22"}))
            await reconciler.writer.idle()
            assert ips(await cluster.get()) == ""
            reconciler.reconcile()
            await reconciler.writer.idle()
            assert ips(await cluster.get()) == "192.168.20.22"

    async def test_a_service_that_is_gone_is_not_written_and_not_tried_again(self, tmp_path: Path) -> None:
        async with a_cluster(tmp_path) as cluster, by_hand(cluster.client) as (reconciler, stores, heard):
            await with_pool(cluster, stores)
            service = await cluster.service()
            put(stores, service)
            await cluster.client.delete(SERVICES, "web", namespace="default")
            reconciler.reconcile()
            await reconciler.writer.idle()
            assert reconciler.status()["pending_writes"] == {}
            assert heard.events == []
            stores.services.delete(service.key)
            reconciler.reconcile()
            assert not reconciler.planner.services
            assert not list(reconciler.planner.ledger.holdings())

    async def test_a_write_reverted_by_somebody_else_is_done_again(self, tmp_path: Path) -> None:
        async with a_cluster(tmp_path) as cluster, by_hand(cluster.client) as (reconciler, stores, _):
            await with_pool(cluster, stores)
            put(stores, await cluster.service())
            reconciler.reconcile()
            await reconciler.writer.idle()
            patch = {
                "metadata": {"annotations": {observe.ALLOCATED_FROM_POOL: None}},
                "status": {"loadBalancer": {"ingress": None}},
            }
            reverted = await cluster.client.patch(SERVICES, "web", patch, namespace="default", subresource="status")
            put(stores, reverted)
            assert not stores.services.take_changed() - {"default/web"}
            reconciler.reconcile()
            await reconciler.writer.idle()
            assert ips(await cluster.get()) == "192.168.20.20"


def server_has_a_request(server: Any) -> Callable[[], Awaitable[bool]]:
    async def so() -> bool:
        return bool(server.requests)

    return so


class TestFailures:
    """An API server that answers wrongly, which a real one does only when it fails."""

    def service(self) -> Service:
        document = {
            "metadata": {"name": "web", "namespace": "default", "uid": "u", "resourceVersion": "1"},
            "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.1"},
        }
        return msgspec.convert(document, Service)

    def pool(self) -> RawObject:
        metadata = {"name": "default", "namespace": "metallb-system"}
        document = {"kind": "IPAddressPool", "metadata": metadata, "spec": {"addresses": ["192.168.20.20/32"]}}
        return IP_ADDRESS_POOLS.from_mapping(document)

    async def test_a_write_is_tried_again_until_it_succeeds(self) -> None:
        answers = [500, 429, 422, 200]

        async def answer(_: Request, line: Line) -> None:
            code = answers.pop(0)
            metadata = {"name": "web", "namespace": "default", "resourceVersion": "2"}
            await line.answer(
                code, {"metadata": metadata} if code == 200 else {"kind": "Status", "code": code, "message": "no"}
            )

        async with (
            responding(answer) as server,
            connected(server.url) as client,
            by_hand(client) as (reconciler, stores, heard),
        ):
            stores.pools.put(self.pool(), generation)
            put(stores, self.service())
            reconciler.reconcile()

            async def written() -> bool:
                return reconciler.tally.writes == 1

            assert await until(written)
            assert (reconciler.tally.update_errors, heard.lines.count("status_write_failed")) == (3, 3)
            assert heard.events == [("web", "IPAllocated")]

    async def test_a_write_whose_answer_was_lost_is_announced_when_it_is_seen(self) -> None:
        async def answer(_: Request, line: Line) -> None:
            await line.answer(503, {"kind": "Status", "code": 503, "message": "connection lost"}, Retry_After="5")

        async with (
            responding(answer) as server,
            connected(server.url) as client,
            by_hand(client) as (reconciler, stores, heard),
        ):
            stores.pools.put(self.pool(), generation)
            service = self.service()
            put(stores, service)
            reconciler.reconcile()

            async def failed() -> bool:
                return reconciler.tally.update_errors == 1

            assert await until(failed)
            assert heard.events == []
            patch = {"ip": "192.168.20.20"}
            document = {
                "metadata": {
                    "name": "web",
                    "namespace": "default",
                    "uid": "u",
                    "resourceVersion": "2",
                    "annotations": {observe.ALLOCATED_FROM_POOL: "default"},
                },
                "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.1"},
                "status": {
                    "loadBalancer": {"ingress": [patch]},
                    "conditions": [a_condition("True", "HoldsAddress", '192.168.20.20 from pool "default"', NOW)],
                },
            }
            put(stores, msgspec.convert(document, Service))
            reconciler.reconcile()
            assert heard.events == [("web", "IPAllocated")]

    async def test_what_is_being_written_when_the_leadership_ends_is_given_up(self) -> None:
        async def answer(_: Request, __: Line) -> None:
            await asyncio.Event().wait()

        async with (
            responding(answer) as server,
            connected(server.url) as client,
            by_hand(client) as (reconciler, stores, heard),
        ):
            stores.pools.put(self.pool(), generation)
            put(stores, self.service())
            reconciler.reconcile()
            await until(server_has_a_request(server))
            assert reconciler.writer.pending() == {"default/web": {"state": "writing"}}
            reconciler.stand_by()
            await reconciler.writer.idle()
            assert reconciler.writer.pending() == {}
            assert heard.events == []
            reconciler.reconcile()
            assert reconciler.next_write(ServiceKey("default/web")) is None
            reconciler.take_over()
            reconciler.reconcile()
            assert reconciler.next_write(ServiceKey("default/web")) is not None

    async def test_a_lost_write_that_is_not_wanted_any_more_is_looked_for(self) -> None:
        """Until it is known that it did not arrive, nobody else may be given its address."""
        document = msgspec.to_builtins(self.service())
        document["status"] = {"conditions": [a_condition("False", "NoPools", "no IPAddressPool is configured", NOW)]}
        reads = [503, 200]

        async def answer(request: Request, line: Line) -> None:
            code = reads.pop(0) if request.method == "GET" else 503
            await line.answer(code, document if code == 200 else {"kind": "Status", "code": code, "message": "lost"})

        async with (
            responding(answer) as server,
            connected(server.url) as client,
            by_hand(client) as (reconciler, stores, heard),
        ):
            stores.pools.put(self.pool(), generation)
            put(stores, msgspec.convert(document, Service))
            reconciler.reconcile()

            async def failed() -> bool:
                return reconciler.tally.update_errors == 1

            assert await until(failed)
            stores.pools.delete(self.pool().key)
            reconciler.reconcile()
            key = ServiceKey("default/web")
            assert reconciler.planner.is_unresolved(key)

            async def resolved() -> bool:
                return not reconciler.planner.is_unresolved(key)

            assert await until(resolved)
            assert (reads, heard.events) == ([], [])

    async def test_somebody_who_changes_a_service_all_the_time_is_not_fought(self) -> None:
        asked = 0

        async def answer(request: Request, line: Line) -> None:
            nonlocal asked
            asked += 1
            if request.method == "PATCH":
                await line.answer(409, {"kind": "Status", "code": 409, "reason": "Conflict", "message": "changed"})
            else:
                metadata = {"name": "web", "namespace": "default", "uid": "u", "resourceVersion": str(asked)}
                await line.answer(200, {"metadata": metadata, "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.1"}})

        async with (
            responding(answer) as server,
            connected(server.url) as client,
            by_hand(client) as (reconciler, stores, heard),
        ):
            stores.pools.put(self.pool(), generation)
            put(stores, self.service())
            reconciler.reconcile()
            await reconciler.writer.idle()
            assert asked == 10
            assert reconciler.status()["pending_writes"]["default/web"]["failures"] == 1
            assert reconciler.status()["failed_writes"]["service"] == 1
            assert (reconciler.standing().pending_writes, reconciler.standing().failures["service"]) == (1, 1)
            assert heard.lines.count("status_write_failed") == 1
