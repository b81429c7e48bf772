from collections.abc import Iterable
from typing import Any

from msgspec.structs import replace

from config.kinds.meta import Condition, ObjectMeta, OwnerReference
from kube.objects import NodeStatus, View
from lab import workloads
from lab.kinds import (
    Container,
    ContainerPort,
    DaemonSet,
    DaemonSetSpec,
    Node,
    NodeSpec,
    Pod,
    PodSpec,
    PodStatus,
    ReplicaSet,
    ReplicaSetSpec,
    Strategy,
)

NOW = "2026-01-01T00:00:00Z"
TEMPLATE: dict[str, Any] = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "nginx:1"}]}}
HASH = workloads.template_hash(TEMPLATE)


def a_replica_set(replicas: int = 2) -> ReplicaSet:
    meta = ObjectMeta(name="web-1", namespace="x", uid="d", generation=3)
    return ReplicaSet(metadata=meta, spec=ReplicaSetSpec(replicas=replicas, template=TEMPLATE))


def a_pod(
    name: str,
    *,
    owner: str = "d",
    hash_: str = HASH,
    ready: str = "True",
    node: str = "n1",
    ip: str = "198.18.1.2",
    going: bool = False,
) -> Pod:
    return Pod(
        metadata=ObjectMeta(
            name=name,
            namespace="x",
            uid=f"uid-{name}",
            creation_timestamp=f"2026-01-01T00:00:0{name[-1]}Z",
            deletion_timestamp=NOW if going else None,
            labels={"app": "web", workloads.REVISION_LABEL: hash_},
            owner_references=(
                OwnerReference(api_version="apps/v1", kind="ReplicaSet", name="web-1", uid=owner, controller=True),
            ),
        ),
        spec=PodSpec(
            node_name=node, containers=(Container(name="c", ports=(ContainerPort(name="http", container_port=8080),)),)
        ),
        status=PodStatus(phase="Running", pod_ip=ip, conditions=(Condition(type="Ready", status=ready),)),
    )


def a_node(name: str, *, ready: str = "True", cordoned: bool = False, labels: dict[str, str] | None = None) -> Node:
    return Node(
        metadata=ObjectMeta(name=name, labels=labels),
        spec=NodeSpec(unschedulable=cordoned),
        status=NodeStatus(conditions=(Condition(type="Ready", status=ready),)),
    )


def names(pods: Iterable[View]) -> list[str]:
    return [pod.metadata.name for pod in pods]


# ReplicaSets


def test_a_replica_set_creates_the_pods_it_lacks_from_its_template() -> None:
    changes = workloads.roll_replica_set(a_replica_set(3), [a_pod("p1"), a_pod("other2", owner="e")])
    assert len(changes.create) == 2
    body = changes.create[0]
    assert body["metadata"]["generateName"] == "web-1-"
    assert body["metadata"]["labels"] == {"app": "web"}
    assert body["metadata"]["ownerReferences"][0]["uid"] == "d"
    assert body["spec"] == TEMPLATE["spec"]
    assert changes.status == {
        "replicas": 1,
        "observedGeneration": 3,
        "fullyLabeledReplicas": 1,
        "readyReplicas": 1,
        "availableReplicas": 1,
    }


def test_a_replica_set_that_is_as_wanted_is_left_alone() -> None:
    changes = workloads.roll_replica_set(a_replica_set(2), [a_pod("p1"), a_pod("p2", ready="False")])
    assert (changes.create, changes.delete) == ((), ())
    assert (changes.status["replicas"], changes.status["readyReplicas"]) == (2, 1)


def test_scaling_down_keeps_the_ready_and_the_old() -> None:
    pods = [a_pod("p1"), a_pod("p2", ready="False"), a_pod("p3")]
    assert names(workloads.roll_replica_set(a_replica_set(2), pods).delete) == ["p2"]
    assert names(workloads.roll_replica_set(a_replica_set(1), pods).delete) == ["p3", "p2"]


def test_a_terminating_pod_is_replaced_at_once() -> None:
    changes = workloads.roll_replica_set(a_replica_set(1), [a_pod("p1", going=True)])
    assert len(changes.create) == 1
    assert not changes.delete


# DaemonSets


def a_daemon_set(**changes: Any) -> DaemonSet:
    return DaemonSet(
        metadata=ObjectMeta(name="ds", namespace="x", uid="d"), spec=replace(DaemonSetSpec(template=TEMPLATE), **changes)
    )


def test_a_daemon_set_puts_one_pod_on_every_node_even_a_broken_one() -> None:
    nodes = [a_node("n1"), a_node("n2", ready="False"), a_node("n3", cordoned=True)]
    rollout = workloads.roll_daemon_set(a_daemon_set(), [a_pod("p1", node="n1")], nodes)
    assert [body["spec"]["nodeName"] for body in rollout.create] == ["n2", "n3"]
    assert rollout.status["desiredNumberScheduled"] == 3
    assert rollout.status["numberReady"] == 1
    assert rollout.status["numberUnavailable"] == 2


def test_a_daemon_set_removes_doubles_and_pods_on_nodes_that_are_not_chosen() -> None:
    chosen = {**TEMPLATE, "spec": {**TEMPLATE["spec"], "nodeSelector": {"disk": "ssd"}}}
    hash_ = workloads.template_hash(chosen)
    nodes = [a_node("n1", labels={"disk": "ssd"}), a_node("n2")]
    pods = [a_pod("p1", hash_=hash_), a_pod("p2", hash_=hash_), a_pod("p3", node="n2", hash_=hash_)]
    assert names(workloads.roll_daemon_set(a_daemon_set(template=chosen), pods, nodes).delete) == ["p2", "p3"]


def test_a_daemon_set_replaces_one_old_pod_at_a_time() -> None:
    nodes = [a_node("n1"), a_node("n2")]
    old = [a_pod("p1", node="n1", hash_="old"), a_pod("p2", node="n2", hash_="old")]
    assert len(workloads.roll_daemon_set(a_daemon_set(), old, nodes).delete) == 1
    moving = [a_pod("p1", node="n1", going=True), a_pod("p2", node="n2", hash_="old")]
    assert not workloads.roll_daemon_set(a_daemon_set(), moving, nodes).delete
    assert not workloads.roll_daemon_set(a_daemon_set(update_strategy=Strategy(type="OnDelete")), old, nodes).delete


# Places and orphans


def test_pods_spread_over_ready_open_nodes() -> None:
    nodes = [a_node("n1"), a_node("n2"), a_node("n3", ready="Unknown"), a_node("n4", cordoned=True)]
    pods = [a_pod("p1", node="n1"), a_pod("p2", node=""), a_pod("p3", node="")]
    assert [(pod.metadata.name, node) for pod, node in workloads.place(pods, nodes)] == [("p2", "n2"), ("p3", "n1")]


def test_a_pod_that_fits_nowhere_waits() -> None:
    pod = a_pod("p1", node="")
    picky = replace(pod, spec=replace(pod.spec, node_selector={"disk": "ssd"}))
    assert workloads.place([picky], [a_node("n1")]) == []
    assert [node for _, node in workloads.place([picky], [a_node("n1"), a_node("n2", labels={"disk": "ssd"})])] == ["n2"]
    assert workloads.place([a_pod("p2", node="", going=True)], [a_node("n1")]) == []


def test_pods_whose_owner_is_gone_are_orphans() -> None:
    pods = [a_pod("p1"), a_pod("p2", owner="gone"), a_pod("p3", owner="gone", going=True)]
    alone = replace(a_pod("p4"), metadata=ObjectMeta(name="p4", namespace="x", uid="p4"))
    assert names(workloads.orphans([*pods, alone], [a_replica_set()])) == ["p2"]
