import pytest
from msgspec.structs import replace

from kube.objects import (
    Endpoint,
    EndpointConditions,
    EndpointPort,
    EndpointSlice,
    LoadBalancerIngress,
    LoadBalancerStatus,
    ObjectMeta,
    Service,
    ServicePort,
    ServiceSpec,
    ServiceStatus,
)
from lab import topology
from lab.dataplane import render

LAB = topology.plan("labx")
N1, N2, N3 = LAB.nodes


def a_service(name: str = "web", **changes: object) -> Service:
    spec = ServiceSpec(
        type="LoadBalancer",
        cluster_ip="10.96.0.10",
        ports=(ServicePort(name="http", port=80, target_port=8080, node_port=30080),),
    )
    ingress = (LoadBalancerIngress(ip="192.168.20.20", ip_mode="VIP"),)
    return Service(
        metadata=ObjectMeta(name=name, namespace="a-b"),
        spec=replace(spec, **changes),
        status=ServiceStatus(load_balancer=LoadBalancerStatus(ingress=ingress)),
    )


def a_slice(*endpoints: tuple[str, str], name: str = "web", conditions: EndpointConditions | None = None) -> EndpointSlice:
    return EndpointSlice(
        metadata=ObjectMeta(name=f"{name}-1", namespace="a-b", labels={"kubernetes.io/service-name": name}),
        address_type="IPv4",
        ports=(EndpointPort(name="http", protocol="TCP", port=8080),),
        endpoints=tuple(
            Endpoint(addresses=(address,), node_name=node, conditions=conditions or EndpointConditions())
            for address, node in endpoints
        ),
    )


def chain(rules: str, name: str) -> list[str]:
    """The rules of one chain."""
    lines = rules.splitlines()
    start = lines.index(f"  chain {name} {{")
    return [line.strip() for line in lines[start + 1 : lines.index("  }", start)]]


def test_every_address_of_a_service_leads_to_its_endpoints() -> None:
    rules = render([a_service()], [a_slice(("198.18.1.2", "n1"), ("198.18.2.2", "n2"))], node=N1, topology=LAB)
    services = " ".join(chain(rules, "services"))
    assert "10.96.0.10 . tcp . 80 : goto svc/a_b/web/80/tcp" in services
    assert "192.168.20.20 . tcp . 80 : goto ext/a_b/web/80/tcp" in services
    assert "tcp . 30080 : goto ext/a_b/web/80/tcp" in services
    choice = chain(rules, "ext/a_b/web/80/tcp")[-1]
    assert choice == "numgen random mod 2 vmap { 0 : goto to/tcp/198.18.1.2/8080, 1 : goto to/tcp/198.18.2.2/8080 }"
    assert "meta l4proto tcp dnat to 198.18.2.2:8080" in chain(rules, "to/tcp/198.18.2.2/8080")


def test_the_api_server_has_its_cluster_ip_without_any_service() -> None:
    rules = render([], [], node=N1, topology=LAB)
    assert "10.96.0.1 . tcp . 443 : goto to/tcp/192.168.20.2/6443" in rules


def test_cluster_policy_masquerades_and_local_policy_keeps_the_clients_address() -> None:
    slices = [a_slice(("198.18.1.2", "n1"), ("198.18.2.2", "n2"))]
    cluster = render([a_service()], slices, node=N1, topology=LAB)
    local = render([a_service(external_traffic_policy="Local")], slices, node=N1, topology=LAB)
    assert chain(cluster, "ext/a_b/web/80/tcp")[0].startswith("meta mark set")
    assert chain(local, "ext/a_b/web/80/tcp")[-1] == "goto to/tcp/198.18.1.2/8080"


def test_local_policy_is_silent_to_outsiders_on_a_node_without_an_endpoint_but_serves_its_pods() -> None:
    rules = render([a_service(external_traffic_policy="Local")], [a_slice(("198.18.1.2", "n1"))], node=N3, topology=LAB)
    outside = chain(rules, "ext/a_b/web/80/tcp")
    assert outside[-1] == "drop"
    assert outside[0] == "ip saddr 198.18.0.0/15 goto all/a_b/web/80/tcp"
    assert "198.18.1.2" in chain(rules, "all/a_b/web/80/tcp")[0]


def test_a_service_without_endpoints_is_refused_at_once() -> None:
    rules = render([a_service()], [a_slice()], node=N1, topology=LAB)
    refused = " ".join(chain(rules, "no_endpoint"))
    assert "10.96.0.10 . tcp . 80 : goto refuse" in refused
    assert "192.168.20.20 . tcp . 80 : goto refuse" in refused
    assert "tcp . 30080 : goto refuse" in refused


def test_internal_traffic_policy_local_drops_where_no_endpoint_is_near() -> None:
    slices = [a_slice(("198.18.1.2", "n1"))]
    service = a_service(internal_traffic_policy="Local")
    assert "10.96.0.10 . tcp . 80 : drop" in render([service], slices, node=N2, topology=LAB)
    assert "10.96.0.10 . tcp . 80 : goto svc" in render([service], slices, node=N1, topology=LAB)


def test_terminating_endpoints_serve_only_while_none_is_ready() -> None:
    going = EndpointConditions(ready=False, serving=True, terminating=True)
    old = a_slice(("198.18.1.2", "n1"), conditions=going)
    new = replace(a_slice(("198.18.2.2", "n2")), metadata=replace(old.metadata, name="web-2"))
    assert "198.18.1.2" in render([a_service()], [old], node=N1, topology=LAB)
    assert "198.18.1.2" not in render([a_service()], [old, new], node=N1, topology=LAB)


@pytest.mark.parametrize(
    "service",
    [
        a_service(cluster_ip="None"),
        a_service(cluster_ip=""),
        a_service(type="ExternalName"),
        a_service(ports=(ServicePort(name="http", port=80, protocol="SCTP"),)),
        a_service(ports=None),
    ],
)
def test_what_no_proxy_translates_leaves_no_rule(service: Service) -> None:
    assert render([service], [a_slice(("198.18.1.2", "n1"))], node=N1, topology=LAB) == render([], [], node=N1, topology=LAB)


def test_an_address_behind_a_proxy_is_left_alone() -> None:
    service = a_service()
    ingress = (LoadBalancerIngress(ip="192.168.20.20", ip_mode="Proxy"),)
    service = replace(service, status=ServiceStatus(load_balancer=LoadBalancerStatus(ingress=ingress)))
    assert "192.168.20.20" not in render([service], [a_slice(("198.18.1.2", "n1"))], node=N1, topology=LAB)


def test_ports_are_matched_by_name_and_slices_by_namespace() -> None:
    other = replace(
        a_slice(("198.18.1.9", "n1")),
        metadata=ObjectMeta(name="x", namespace="c", labels={"kubernetes.io/service-name": "web"}),
    )
    unnamed = replace(a_slice(("198.18.1.8", "n1")), ports=(EndpointPort(name="metrics", protocol="TCP", port=9),))
    rules = render([a_service()], [other, unnamed], node=N1, topology=LAB)
    assert "198.18.1.8" not in rules
    assert "198.18.1.9" not in rules


def test_the_order_of_objects_does_not_change_the_text() -> None:
    services = [
        replace(
            a_service(f"s{i}"),
            spec=replace(a_service().spec, cluster_ip=f"10.96.0.{i}", ports=(ServicePort(name="http", port=80 + i),)),
        )
        for i in range(2, 9)
    ]
    slices = [a_slice((f"198.18.1.{i}", "n1"), name=f"s{i}") for i in range(2, 9)]
    expected = render(services, slices, node=N1, topology=LAB)
    services = [*services[3:], *services[:3]]
    slices.reverse()
    assert render(services, slices, node=N1, topology=LAB) == expected
