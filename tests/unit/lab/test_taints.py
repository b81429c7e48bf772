"""Taints: which a node gets, who bears them, and for how long."""

from datetime import UTC, datetime, timedelta

from config.kinds.meta import Condition, ObjectMeta, OwnerReference
from kube.objects import NodeStatus
from lab import taints
from lab.kinds import Node, NodeSpec, Pod, PodSpec, Taint, Toleration

NOW = "2026-01-01T00:00:00Z"
LATER = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=taints.BORNE_S)


def a_node(*own: Taint, ready: str = "True", cordoned: bool = False) -> Node:
    status = NodeStatus(conditions=(Condition(type="Ready", status=ready),))
    return Node(metadata=ObjectMeta(name="n1"), spec=NodeSpec(unschedulable=cordoned, taints=own or None), status=status)


def a_pod(*tolerations: Toleration, owner: str = "ReplicaSet") -> Pod:
    owners = (OwnerReference(api_version="apps/v1", kind=owner, name="o", uid="o", controller=True),)
    return Pod(metadata=ObjectMeta(name="p", owner_references=owners), spec=PodSpec(node_name="n1", tolerations=tolerations))


def words(node: Node) -> list[str]:
    return [f"{taint.key}:{taint.effect}" for taint in taints.wanted(node, now=NOW)]


def test_taints_follow_from_a_nodes_state() -> None:
    assert words(a_node()) == []
    assert words(a_node(cordoned=True)) == ["node.kubernetes.io/unschedulable:NoSchedule"]
    lost = ["node.kubernetes.io/unreachable:NoSchedule", "node.kubernetes.io/unreachable:NoExecute"]
    assert words(a_node(ready="Unknown")) == lost
    assert words(a_node(ready="False"))[0] == "node.kubernetes.io/not-ready:NoSchedule"


def test_users_taints_stay_and_those_of_a_node_that_is_well_again_go() -> None:
    own = Taint(key="disk", value="slow", effect="NoSchedule")
    old = Taint(key=taints.UNREACHABLE, effect="NoExecute", time_added=NOW)
    assert taints.wanted(a_node(own, old), now=NOW) == (own,)


def test_a_taint_keeps_the_time_it_was_added() -> None:
    old = Taint(key=taints.UNREACHABLE, effect="NoExecute", time_added=NOW)
    assert old in taints.wanted(a_node(old, ready="Unknown"), now="2026-01-01T00:00:09Z")


def test_a_toleration_bears_taints_of_its_key_effect_and_value() -> None:
    node = a_node(Taint(key="disk", value="slow", effect="NoSchedule"))
    assert taints.keep_off((), node)
    assert taints.keep_off((Toleration(key="disk", value="fast"),), node)
    assert taints.keep_off((Toleration(key="disk", operator="Exists", effect="NoExecute"),), node)
    for each in (
        Toleration(key="disk", value="slow"),
        Toleration(key="disk", operator="Exists"),
        Toleration(operator="Exists"),
    ):
        assert not taints.keep_off((each,), node)
    assert not taints.keep_off((), a_node(Taint(key="disk", effect="PreferNoSchedule")))


def test_a_pod_stays_five_minutes_on_a_lost_node_and_one_of_a_daemon_set_for_ever() -> None:
    node = a_node(Taint(key=taints.UNREACHABLE, effect="NoExecute", time_added=NOW))
    pod = a_pod()
    assert taints.evicted([pod], [node], now=LATER - timedelta(seconds=1)) == []
    assert taints.evicted([pod], [node], now=LATER) == [pod]
    assert taints.evicted([a_pod(owner="DaemonSet")], [node], now=LATER) == []
    short = a_pod(Toleration(key=taints.UNREACHABLE, operator="Exists", toleration_seconds=10))
    assert taints.evicted([short], [node], now=LATER - timedelta(seconds=290)) == [short]


def test_a_users_taint_sends_pods_away_at_once_unless_they_bear_it() -> None:
    node = a_node(Taint(key="disk", effect="NoExecute"))
    pod = a_pod()
    assert taints.evicted([pod, a_pod(Toleration(key="disk", operator="Exists"))], [node], now=LATER) == [pod]
