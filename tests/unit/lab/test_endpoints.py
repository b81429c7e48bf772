from typing import Any

import msgspec
from msgspec.structs import replace

from config.kinds.meta import ObjectMeta
from kube.objects import EndpointSlice, Service, ServicePort, ServiceSpec
from lab import endpoints
from lab.kinds import Container, ContainerPort, PodIP
from tests.unit.lab.test_workloads import a_pod


def a_service(**changes: Any) -> Service:
    spec = ServiceSpec(selector={"app": "web"}, ports=(ServicePort(name="http", port=80, target_port="http"),))
    return Service(metadata=ObjectMeta(name="web", namespace="x", uid="s"), spec=replace(spec, **changes))


def test_a_slice_names_every_selected_pod_with_its_node_and_readiness() -> None:
    pods = [a_pod("p1"), a_pod("p2", ready="False", node="n2", ip="198.18.2.2"), a_pod("p3", going=True, ip="198.18.1.3")]
    (body,) = endpoints.slices_of(a_service(), pods)
    assert body["ports"] == [{"name": "http", "protocol": "TCP", "port": 8080}]
    assert [(e["addresses"][0], e["nodeName"], e["conditions"]) for e in body["endpoints"]] == [
        ("198.18.1.2", "n1", {"ready": True, "serving": True, "terminating": False}),
        ("198.18.2.2", "n2", {"ready": False, "serving": False, "terminating": False}),
        ("198.18.1.3", "n1", {"ready": False, "serving": True, "terminating": True}),
    ]
    assert body["metadata"]["labels"][endpoints.SERVICE_NAME_LABEL] == "web"


def test_a_service_of_two_families_has_slices_of_both() -> None:
    pod = a_pod("p1")
    pod = replace(pod, status=replace(pod.status, pod_ips=(PodIP(ip="198.18.1.2"), PodIP(ip="2001:db8:198:1::2"))))
    four, six = endpoints.slices_of(a_service(ip_families=("IPv4", "IPv6")), [pod, a_pod("p2")])
    assert (four["addressType"], six["addressType"]) == ("IPv4", "IPv6")
    assert [endpoint["addresses"] for endpoint in six["endpoints"]] == [["2001:db8:198:1::2"]]  # p2 has no IPv6 address.
    assert four["metadata"]["name"] != six["metadata"]["name"]


def test_a_service_that_selects_nothing_has_an_empty_slice_and_one_without_selector_has_none() -> None:
    (body,) = endpoints.slices_of(a_service(selector={"app": "other"}), [a_pod("p1")])
    assert body["endpoints"] == []
    assert endpoints.slices_of(a_service(selector=None), [a_pod("p1")]) == []
    assert endpoints.slices_of(a_service(type="ExternalName"), [a_pod("p1")]) == []


def test_target_ports_are_numbers_names_or_the_port_itself() -> None:
    ports = (
        ServicePort(name="a", port=1, target_port=8),
        ServicePort(name="b", port=2, target_port=0),
        ServicePort(name="c", port=3, target_port="nobody"),
    )
    (body,) = endpoints.slices_of(a_service(ports=ports), [a_pod("p1")])
    assert [(port["name"], port["port"]) for port in body["ports"]] == [("a", 8), ("b", 2)]


def test_pods_that_resolve_a_port_differently_get_different_slices() -> None:
    other = a_pod("p2", ip="198.18.1.3")
    other = replace(
        other,
        spec=replace(other.spec, containers=(Container(name="c", ports=(ContainerPort(name="http", container_port=9090),)),)),
    )
    bodies = endpoints.slices_of(a_service(), [a_pod("p1"), other])
    assert [body["ports"][0]["port"] for body in bodies] == [8080, 9090]
    assert len({body["metadata"]["name"] for body in bodies}) == 2


def test_unready_pods_are_published_when_the_service_says_so() -> None:
    (body,) = endpoints.slices_of(a_service(publish_not_ready_addresses=True), [a_pod("p1", ready="False")])
    assert body["endpoints"][0]["conditions"]["ready"] is True


def test_a_slice_is_the_same_when_the_api_has_added_its_defaults() -> None:
    (body,) = endpoints.slices_of(a_service(), [a_pod("p1")])
    stored = msgspec.convert({**body, "metadata": {**body["metadata"], "uid": "u", "resourceVersion": "7"}}, EndpointSlice)
    assert endpoints.same_endpoints(stored, body)
    (changed,) = endpoints.slices_of(a_service(), [a_pod("p1", ready="False")])
    assert not endpoints.same_endpoints(stored, changed)
