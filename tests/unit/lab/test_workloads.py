from typing import Any

import msgspec
from msgspec.structs import replace

from config.kinds.meta import Condition, ObjectMeta, OwnerReference
from kube.objects import EndpointSlice, NodeStatus, Service, ServicePort, ServiceSpec
from lab import workloads
from lab.kinds import (
    Container,
    ContainerPort,
    DaemonSet,
    DaemonSetSpec,
    Deployment,
    DeploymentSpec,
    Node,
    NodeSpec,
    Pod,
    PodIP,
    PodSpec,
    PodStatus,
    RollingUpdate,
    Strategy,
)

NOW = "2026-01-01T00:00:00Z"
TEMPLATE: dict[str, Any] = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "nginx:1"}]}}
HASH = workloads.template_hash(TEMPLATE)


def a_deployment(replicas: int = 2, **changes: Any) -> Deployment:
    spec = DeploymentSpec(replicas=replicas, template=TEMPLATE)
    return Deployment(metadata=ObjectMeta(name="web", namespace="x", uid="d", generation=3), spec=replace(spec, **changes))


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
            labels={"app": "web", workloads.TEMPLATE_HASH_LABEL: hash_, workloads.REVISION_LABEL: hash_},
            owner_references=(
                OwnerReference(api_version="apps/v1", kind="Deployment", name="web", uid=owner, controller=True),
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


def names(pods: tuple[Pod, ...]) -> list[str]:
    return [pod.metadata.name for pod in pods]


# Deployments


def test_a_new_deployment_creates_all_its_pods_from_the_template() -> None:
    rollout = workloads.roll_deployment(a_deployment(3), [], now=NOW)
    assert len(rollout.create) == 3
    body = rollout.create[0]
    assert body["metadata"]["generateName"] == f"web-{HASH}-"
    assert body["metadata"]["labels"] == {"app": "web", workloads.TEMPLATE_HASH_LABEL: HASH}
    assert body["metadata"]["ownerReferences"][0]["uid"] == "d"
    assert body["spec"] == TEMPLATE["spec"]


def test_a_deployment_that_is_as_wanted_is_left_alone() -> None:
    pods = [a_pod("p1"), a_pod("p2"), a_pod("other3", owner="e")]
    rollout = workloads.roll_deployment(a_deployment(2), pods, now=NOW)
    assert not rollout.create
    assert not rollout.delete
    assert rollout.status["readyReplicas"] == 2
    assert [c["status"] for c in rollout.status["conditions"]] == ["True", "True"]


def test_scaling_down_keeps_the_ready_and_the_old() -> None:
    pods = [a_pod("p1"), a_pod("p2", ready="False"), a_pod("p3")]
    assert names(workloads.roll_deployment(a_deployment(2), pods, now=NOW).delete) == ["p2"]
    assert names(workloads.roll_deployment(a_deployment(1), pods, now=NOW).delete) == ["p3", "p2"]


def test_a_terminating_pod_is_replaced_at_once() -> None:
    rollout = workloads.roll_deployment(a_deployment(1), [a_pod("p1", going=True)], now=NOW)
    assert len(rollout.create) == 1
    assert not rollout.delete


def test_a_rolling_update_starts_new_pods_before_it_ends_old_ones() -> None:
    old = [a_pod("p1", hash_="old"), a_pod("p2", hash_="old")]
    first = workloads.roll_deployment(a_deployment(2), old, now=NOW)
    assert (len(first.create), first.delete) == (1, ())  # 25 % of two, rounded up, is one more.
    waiting = workloads.roll_deployment(a_deployment(2), [*old, a_pod("p3", ready="False")], now=NOW)
    assert (waiting.create, waiting.delete) == ((), ())
    second = workloads.roll_deployment(a_deployment(2), [*old, a_pod("p3")], now=NOW)
    assert names(second.delete) == ["p2"]


def test_old_pods_that_never_became_ready_make_way_immediately() -> None:
    old = [a_pod("p1", hash_="old", ready="False"), a_pod("p2", hash_="old")]
    assert names(workloads.roll_deployment(a_deployment(2), old, now=NOW).delete) == ["p1"]


def test_recreate_waits_until_the_last_old_pod_is_gone() -> None:
    deployment = a_deployment(1, strategy=Strategy(type="Recreate"))
    assert names(workloads.roll_deployment(deployment, [a_pod("p1", hash_="old")], now=NOW).delete) == ["p1"]
    going = workloads.roll_deployment(deployment, [a_pod("p1", hash_="old", going=True)], now=NOW)
    assert (going.create, going.delete) == ((), ())
    assert len(workloads.roll_deployment(deployment, [], now=NOW).create) == 1


def test_an_update_that_allows_neither_more_nor_fewer_pods_still_moves() -> None:
    deployment = a_deployment(1, strategy=Strategy(rolling_update=RollingUpdate(max_surge=0, max_unavailable=0)))
    assert names(workloads.roll_deployment(deployment, [a_pod("p1", hash_="old")], now=NOW).delete) == ["p1"]


def test_an_unchanged_status_stays_equal_as_time_passes() -> None:
    pods = [a_pod("p1"), a_pod("p2")]
    status = workloads.roll_deployment(a_deployment(2), pods, now=NOW).status
    later = workloads.roll_deployment(replace(a_deployment(2), status=status), pods, now="2026-01-01T01:00:00Z").status
    assert later == status


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
    assert names(tuple(workloads.orphans([*pods, alone], [a_deployment()]))) == ["p2"]


# EndpointSlices


def a_service(**changes: Any) -> Service:
    spec = ServiceSpec(selector={"app": "web"}, ports=(ServicePort(name="http", port=80, target_port="http"),))
    return Service(metadata=ObjectMeta(name="web", namespace="x", uid="s"), spec=replace(spec, **changes))


def test_a_slice_names_every_selected_pod_with_its_node_and_readiness() -> None:
    pods = [a_pod("p1"), a_pod("p2", ready="False", node="n2", ip="198.18.2.2"), a_pod("p3", going=True, ip="198.18.1.3")]
    (body,) = workloads.slices_of(a_service(), pods)
    assert body["ports"] == [{"name": "http", "protocol": "TCP", "port": 8080}]
    assert [(e["addresses"][0], e["nodeName"], e["conditions"]) for e in body["endpoints"]] == [
        ("198.18.1.2", "n1", {"ready": True, "serving": True, "terminating": False}),
        ("198.18.2.2", "n2", {"ready": False, "serving": False, "terminating": False}),
        ("198.18.1.3", "n1", {"ready": False, "serving": True, "terminating": True}),
    ]
    assert body["metadata"]["labels"][workloads.SERVICE_NAME_LABEL] == "web"


def test_a_service_of_two_families_has_slices_of_both() -> None:
    pod = a_pod("p1")
    pod = replace(pod, status=replace(pod.status, pod_ips=(PodIP(ip="198.18.1.2"), PodIP(ip="2001:db8:198:1::2"))))
    four, six = workloads.slices_of(a_service(ip_families=("IPv4", "IPv6")), [pod, a_pod("p2")])
    assert (four["addressType"], six["addressType"]) == ("IPv4", "IPv6")
    assert [endpoint["addresses"] for endpoint in six["endpoints"]] == [["2001:db8:198:1::2"]]  # p2 has no IPv6 address.
    assert four["metadata"]["name"] != six["metadata"]["name"]


def test_a_service_that_selects_nothing_has_an_empty_slice_and_one_without_selector_has_none() -> None:
    (body,) = workloads.slices_of(a_service(selector={"app": "other"}), [a_pod("p1")])
    assert body["endpoints"] == []
    assert workloads.slices_of(a_service(selector=None), [a_pod("p1")]) == []
    assert workloads.slices_of(a_service(type="ExternalName"), [a_pod("p1")]) == []


def test_target_ports_are_numbers_names_or_the_port_itself() -> None:
    ports = (
        ServicePort(name="a", port=1, target_port=8),
        ServicePort(name="b", port=2, target_port=0),
        ServicePort(name="c", port=3, target_port="nobody"),
    )
    (body,) = workloads.slices_of(a_service(ports=ports), [a_pod("p1")])
    assert [(port["name"], port["port"]) for port in body["ports"]] == [("a", 8), ("b", 2)]


def test_pods_that_resolve_a_port_differently_get_different_slices() -> None:
    other = a_pod("p2", ip="198.18.1.3")
    other = replace(
        other,
        spec=replace(other.spec, containers=(Container(name="c", ports=(ContainerPort(name="http", container_port=9090),)),)),
    )
    bodies = workloads.slices_of(a_service(), [a_pod("p1"), other])
    assert [body["ports"][0]["port"] for body in bodies] == [8080, 9090]
    assert len({body["metadata"]["name"] for body in bodies}) == 2


def test_unready_pods_are_published_when_the_service_says_so() -> None:
    (body,) = workloads.slices_of(a_service(publish_not_ready_addresses=True), [a_pod("p1", ready="False")])
    assert body["endpoints"][0]["conditions"]["ready"] is True


def test_a_slice_is_the_same_when_the_api_has_added_its_defaults() -> None:
    (body,) = workloads.slices_of(a_service(), [a_pod("p1")])
    stored = msgspec.convert({**body, "metadata": {**body["metadata"], "uid": "u", "resourceVersion": "7"}}, EndpointSlice)
    assert workloads.same_endpoints(stored, body)
    (changed,) = workloads.slices_of(a_service(), [a_pod("p1", ready="False")])
    assert not workloads.same_endpoints(stored, changed)
