"""What speakers report, written to the lab's API server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from config.model import InterfaceName, NodeName, ServiceKey
from kube.events import EventRecorder
from kube.informer import Reflector
from kube.objects import RawObject, Service
from kube.resources import EVENTS, SERVICE_L2_STATUSES, SERVICES
from kube.store import Store
from speaker import observe
from speaker.metrics import Metrics
from speaker.plan import Announce, Decision
from speaker.reason import Reason
from speaker.status import Create, Delete, Reporter, Write, actions, desired_status, service_of, status_fingerprint
from tests.speaker_cluster import NAMESPACE, Cluster, a_cluster
from tests.wires import Lines, until

WEB = ServiceKey("default/web")
VIP = IPv4Address("192.0.2.10")


def announcing(*interfaces: str, every: bool = False, node: str = "a", address: IPv4Address = VIP) -> Decision:
    announce = Announce((address,), frozenset(InterfaceName(one) for one in interfaces), on_every_interface=every)
    return Decision(WEB, (address,), announce, Reason.WON_ELECTION, "", (NodeName(node),))


def silent(reason: Reason = Reason.LOST_ELECTION, detail: str = "b is first") -> Decision:
    return Decision(WEB, (VIP,), None, reason, detail, (NodeName("b"),))


def present(name: str, status: dict[str, Any] | None, node: str = "a") -> RawObject:
    labels = {"metallb.io/node": node, "metallb.io/service-name": "web", "metallb.io/service-namespace": "default"}
    return SERVICE_L2_STATUSES.from_mapping({"metadata": {"name": name, "labels": labels}, "status": status})


STATUS = {"node": "a", "serviceName": "web", "serviceNamespace": "default", "interfaces": [{"name": "eth0"}]}


def test_the_status_lists_interfaces_only_where_the_advertisement_names_some() -> None:
    assert desired_status(WEB, NodeName("a"), None) is None
    assert desired_status(WEB, NodeName("a"), announcing("eth0").announce) == STATUS
    assert desired_status(WEB, NodeName("a"), announcing("eth0", every=True).announce) == STATUS | {"interfaces": []}


def test_only_differences_are_written() -> None:
    assert actions(STATUS, []) == (Create(STATUS),)
    assert actions(STATUS, [present("l2-x", STATUS)]) == ()
    assert actions(STATUS, [present("l2-x", None)]) == (Write("l2-x", STATUS),)
    assert actions(STATUS, [present("l2-x", STATUS), present("l2-y", STATUS)]) == (Delete("l2-y"),)
    assert actions(None, [present("l2-x", STATUS)]) == (Delete("l2-x"),)
    assert actions(None, []) == ()
    bare = {key: value for key, value in STATUS.items() if key != "interfaces"}
    assert actions(STATUS | {"interfaces": []}, [present("l2-x", bare)]) == (), "an empty list may be left out by the server"


def test_an_object_without_labels_is_about_no_service() -> None:
    assert service_of(present("l2-x", STATUS)) == WEB
    assert service_of(SERVICE_L2_STATUSES.from_mapping({"metadata": {"name": "x"}})) is None


class Node:
    """The reporting half of a speaker."""

    def __init__(self, cluster: Cluster, name: str, services: Store[Service]) -> None:
        self.cluster = cluster
        self.own: Store[RawObject] = Store()
        self.log = Lines()
        self.recorder = EventRecorder(cluster.client, "metallb-speaker", name)
        self.metrics = Metrics(CollectorRegistry(), NodeName(name))
        self.reporter = Reporter(
            cluster.client,
            self.recorder,
            self.own,
            services,
            me=NodeName(name),
            namespace=NAMESPACE,
            pod_name=f"speaker-{name}",
            metrics=self.metrics,
            log=self.log,
        )
        self.reflector = Reflector(
            cluster.client,
            SERVICE_L2_STATUSES,
            self.own,
            dirty=self.reporter.wake,
            fingerprint=status_fingerprint,
            namespace=NAMESPACE,
            label_selector=f"metallb.io/node={name}",
            log=self.log,
        )

    async def idle(self) -> None:
        """All that was to be written has been."""
        await until(lambda: self.own.synced and not self.reporter._pending and not self.reporter._taken_over, "idle")


@asynccontextmanager
async def reporting(cluster: Cluster, *names: str) -> AsyncIterator[list[Node]]:
    services: Store[Service] = Store()
    listed, _ = await cluster.client.list(SERVICES)
    services.replace(listed, observe.service_fingerprint)
    nodes = [Node(cluster, name, services) for name in names]
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(part(), name="part")
            for node in nodes
            for part in (node.reporter.run, node.reflector.run, node.recorder.run)
        ]
        yield nodes
        for task in tasks:
            task.cancel()


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with a_cluster(tmp_path / "api") as cluster:
        await cluster.service("web", str(VIP))
        yield cluster


@pytest.mark.parity("Speaker > ServiceL2Status > created with owner and labels")
async def test_an_announcement_costs_one_create_and_one_status_write(cluster: Cluster) -> None:
    uid = await cluster.speaker_pod("a", "192.0.2.1")
    async with reporting(cluster, "a") as (node,):
        node.reporter.plan_complete()
        node.reporter.changed(WEB, None, announcing("eth0"))
        await node.idle()
        await until(lambda: node.own.snapshot() and not node.reporter._created, "the watch shows it")
        (made,) = await cluster.statuses()
        assert made.metadata.name.startswith("l2-")
        assert made.document["status"] == STATUS
        assert made.metadata.labels == {
            "metallb.io/node": "a",
            "metallb.io/service-name": "web",
            "metallb.io/service-namespace": "default",
        }
        (owner,) = made.metadata.owner_references or ()
        assert (owner.kind, owner.name, owner.uid, owner.controller) == ("Pod", "speaker-a", uid, False)
        version = made.metadata.resource_version
        node.reporter.changed(WEB, announcing("eth0"), announcing("eth0"))
        node.reporter.wake.set()
        await node.idle()
        (same,) = await cluster.statuses()
        assert same.metadata.resource_version == version


@pytest.mark.parity("Speaker > ServiceL2Status > an interface change is patched")
async def test_a_change_of_interfaces_is_written_into_the_same_object(cluster: Cluster) -> None:
    async with reporting(cluster, "a") as (node,):
        node.reporter.plan_complete()
        node.reporter.changed(WEB, None, announcing("eth0"))
        await node.idle()
        (before,) = await cluster.statuses()
        node.reporter.changed(WEB, announcing("eth0"), announcing("eth0", every=True))
        await node.idle()
        (after,) = await cluster.statuses()
        assert after.metadata.uid == before.metadata.uid
        assert after.document["status"].get("interfaces", []) == []


@pytest.mark.parity("Speaker > ServiceL2Status > removed when no longer announced")
async def test_a_withdrawal_removes_the_object(cluster: Cluster) -> None:
    async with reporting(cluster, "a") as (node,):
        node.reporter.plan_complete()
        node.reporter.changed(WEB, None, announcing("eth0"))
        await node.idle()
        node.reporter.changed(WEB, announcing("eth0"), silent())
        await node.idle()
        assert await cluster.statuses() == []


@pytest.mark.parity("Speaker > ServiceL2Status > leftovers of others are deleted by the owner only")
async def test_the_new_owner_removes_what_a_dead_one_left(cluster: Cluster) -> None:
    async with reporting(cluster, "b") as (dead,):
        dead.reporter.plan_complete()
        dead.reporter.changed(WEB, None, announcing("eth0", node="b"))
        await dead.idle()
    async with reporting(cluster, "a") as (node,):
        node.reporter.plan_complete()
        node.reporter.changed(WEB, silent(), announcing("eth0"))
        await node.idle()
        (left,) = await cluster.statuses()
        assert left.document["status"]["node"] == "a"


async def test_many_takeovers_cost_one_list(cluster: Cluster) -> None:
    keys = [ServiceKey(f"default/s{index}") for index in range(5)]
    async with reporting(cluster, "b") as (dead,):
        dead.reporter.plan_complete()
        for key in keys:
            dead.reporter.changed(key, None, announcing("eth0"))
        await dead.idle()
    async with reporting(cluster, "a") as (node,):
        await until(lambda: node.own.synced, "listed")
        node.reporter.plan_complete()
        before = cluster.client.requests
        for key in keys:
            node.reporter.changed(key, None, announcing("eth0"))
        await node.idle()
        # Per Service: create, status, the removal of the dead one's object, an Event; once: own Pod, list, watch.
        assert cluster.client.requests - before <= 4 * len(keys) + 3
        assert {one.document["status"]["node"] for one in await cluster.statuses()} == {"a"}


async def test_leftovers_of_an_earlier_run_go_when_the_plan_is_complete(cluster: Cluster) -> None:
    async with reporting(cluster, "a") as (before,):
        before.reporter.plan_complete()
        before.reporter.changed(WEB, None, announcing("eth0"))
        await before.idle()
    async with reporting(cluster, "a") as (node,):
        await until(lambda: node.own.synced, "listed")
        await asyncio.sleep(0)
        assert len(await cluster.statuses()) == 1, "nothing is removed before it is known what is announced"
        node.reporter.plan_complete()
        await until(lambda: not node.own.snapshot(), "removed")


async def test_an_object_of_an_earlier_run_is_adopted_without_a_write(cluster: Cluster) -> None:
    async with reporting(cluster, "a") as (before,):
        before.reporter.plan_complete()
        before.reporter.changed(WEB, None, announcing("eth0"))
        await before.idle()
        (old,) = await cluster.statuses()
    async with reporting(cluster, "a") as (node,):
        await until(lambda: node.own.synced, "listed")
        node.reporter.changed(WEB, None, announcing("eth0"))
        node.reporter.plan_complete()
        await node.idle()
        (same,) = await cluster.statuses()
        assert same.metadata.resource_version == old.metadata.resource_version


async def test_an_object_deleted_by_hand_is_made_again(cluster: Cluster) -> None:
    async with reporting(cluster, "a") as (node,):
        node.reporter.plan_complete()
        node.reporter.changed(WEB, None, announcing("eth0"))
        await node.idle()
        (old,) = await cluster.statuses()
        await cluster.client.delete(SERVICE_L2_STATUSES, old.metadata.name, namespace=NAMESPACE)
        await until(lambda: {one.metadata.uid for one in node.own.snapshot().values()} - {old.metadata.uid, ""}, "made again")
        await node.idle()
        (new,) = await cluster.statuses()
        assert new.document["status"] == STATUS


async def test_an_object_without_labels_is_left_alone(cluster: Cluster) -> None:
    body = {
        "apiVersion": SERVICE_L2_STATUSES.api_version,
        "kind": SERVICE_L2_STATUSES.kind,
        "metadata": {"name": "odd", "labels": {"metallb.io/node": "a"}},
    }
    await cluster.client.create(SERVICE_L2_STATUSES, body, namespace=NAMESPACE)
    async with reporting(cluster, "a") as (node,):
        node.reporter.plan_complete()
        await until(lambda: "status_without_labels" in node.log.events(), "a warning")
        assert len(await cluster.statuses()) == 1


async def test_users_read_an_event_about_the_announcing_node(cluster: Cluster) -> None:
    async with reporting(cluster, "a") as (node,):
        node.reporter.changed(WEB, None, announcing("eth0"))
        node.reporter.changed(WEB, announcing("eth0"), silent(Reason.NO_USABLE_INTERFACE, "eth0 is down"))
        await until(lambda: not len(node.recorder.correlator), "written")
        events, _ = await cluster.client.list(EVENTS, namespace="default")
        texts = {(one.document["type"], one.document["reason"], one.document["message"]) for one in events}
        assert ("Normal", "nodeAssigned", 'announcing from node "a" with protocol "layer2"') in texts
        failed = 'announcing "192.0.2.10" from node "a" with protocol "layer2" failed: eth0 is down'
        assert ("Warning", "announceFailed", failed) in texts
        (event, *_) = events
        assert event.document["source"]["component"] == "metallb-speaker"
        assert event.document["involvedObject"]["name"] == "web"


async def test_a_service_that_is_gone_gets_no_event(cluster: Cluster) -> None:
    async with reporting(cluster, "a") as (node,):
        node.reporter.changed(ServiceKey("default/gone"), None, announcing("eth0"))
        assert len(node.recorder.correlator) == 0


async def test_what_cannot_be_written_is_said_counted_and_tried_again(cluster: Cluster) -> None:
    async with reporting(cluster, "a") as (node,):
        await until(lambda: node.own.synced, "listed")
        assert cluster.server is not None
        await cluster.server.close()
        node.reporter.plan_complete()
        node.reporter.changed(WEB, None, announcing("eth0"))
        await until(lambda: "status_not_written" in node.log.events(), "a warning")
        assert node.metrics.update_errors.value() >= 1
        assert WEB in node.reporter._pending
