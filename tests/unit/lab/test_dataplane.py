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
    ServicePort,
    ServiceStatus,
)
from lab import topology
from lab.dataplane import IPV4, IPV6, Family, by_service, health, local_addresses, render
from lab.kinds import AffinityConfig, ClientIPAffinity, ProxiedService, ProxiedServiceSpec
from lab.ruleset import Ruleset, changes

LAB = topology.plan("labx")
N1, N2, N3 = LAB.nodes


def a_service(name: str = "web", **changes: object) -> ProxiedService:
    spec = ProxiedServiceSpec(
        type="LoadBalancer",
        cluster_ip="10.96.0.10",
        ports=(ServicePort(name="http", port=80, target_port=8080, node_port=30080),),
    )
    ingress = (LoadBalancerIngress(ip="192.168.20.20", ip_mode="VIP"),)
    return ProxiedService(
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


def a_slice6(*endpoints: tuple[str, str]) -> EndpointSlice:
    return replace(a_slice(*endpoints), metadata=replace(a_slice().metadata, name="web-6"), address_type="IPv6")


def rules_of(
    services: list[ProxiedService], slices: list[EndpointSlice], *, node: topology.Node = N1, family: Family = IPV4
) -> Ruleset:
    return render(services, by_service(slices, family), node=node, topology=LAB, family=family)


def every_line(rules: Ruleset) -> str:
    """Everything that could lead a packet somewhere."""
    return f"{rules.chains}{rules.maps}"


def test_every_address_of_a_service_leads_to_its_endpoints() -> None:
    rules = rules_of([a_service()], [a_slice(("198.18.1.2", "n1"), ("198.18.2.2", "n2"))])
    assert rules.maps["destinations"]["10.96.0.10 . tcp . 80"] == "goto svc/a_b/web/80/tcp"
    assert rules.maps["destinations"]["192.168.20.20 . tcp . 80"] == "goto ext/a_b/web/80/tcp"
    assert rules.maps["node_ports"] == {"tcp . 30080": "goto ext/a_b/web/80/tcp"}
    assert rules.chains["ext/a_b/web/80/tcp"][-2:] == (
        "numgen random mod 2 == 0 goto to/tcp/198.18.1.2/8080",
        "goto to/tcp/198.18.2.2/8080",
    )
    assert "meta l4proto tcp dnat to 198.18.2.2:8080" in rules.chains["to/tcp/198.18.2.2/8080"]


def test_the_api_server_has_its_cluster_ip_without_any_service() -> None:
    rules = rules_of([], [])
    assert rules.maps["destinations"] == {"10.96.0.1 . tcp . 443": "goto to/tcp/192.168.20.2/6443"}
    assert rules_of([], [], family=IPV6).maps["destinations"] == {}
    assert rules_of([a_service("kubernetes", cluster_ip="10.96.0.1")], []).maps["refused"] == {}


def test_cluster_policy_masquerades_and_local_policy_keeps_the_clients_address() -> None:
    slices = [a_slice(("198.18.1.2", "n1"), ("198.18.2.2", "n2"))]
    cluster = rules_of([a_service()], slices)
    local = rules_of([a_service(external_traffic_policy="Local")], slices)
    assert cluster.chains["ext/a_b/web/80/tcp"][0].startswith("meta mark set")
    assert local.chains["ext/a_b/web/80/tcp"][-1] == "goto to/tcp/198.18.1.2/8080"


def test_local_policy_is_silent_to_outsiders_on_a_node_without_an_endpoint_but_serves_its_pods() -> None:
    rules = rules_of([a_service(external_traffic_policy="Local")], [a_slice(("198.18.1.2", "n1"))], node=N3)
    outside = rules.chains["ext/a_b/web/80/tcp"]
    assert outside[-1] == "drop"
    assert outside[0] == "ip saddr 198.18.0.0/15 goto all/a_b/web/80/tcp"
    assert "198.18.1.2" in rules.chains["all/a_b/web/80/tcp"][0]


def test_a_service_without_endpoints_is_refused_at_once() -> None:
    rules = rules_of([a_service()], [a_slice()])
    assert rules.maps["refused"] == {"10.96.0.10 . tcp . 80": "goto refuse", "192.168.20.20 . tcp . 80": "goto refuse"}
    assert rules.maps["refused_node_ports"] == {"tcp . 30080": "goto refuse"}


def test_internal_traffic_policy_local_drops_where_no_endpoint_is_near() -> None:
    slices = [a_slice(("198.18.1.2", "n1"))]
    service = a_service(internal_traffic_policy="Local")
    assert rules_of([service], slices, node=N2).maps["refused"] == {"10.96.0.10 . tcp . 80": "drop"}
    assert rules_of([service], slices).maps["destinations"]["10.96.0.10 . tcp . 80"].startswith("goto svc/")


def test_terminating_endpoints_serve_only_while_none_is_ready() -> None:
    going = EndpointConditions(ready=False, serving=True, terminating=True)
    old = a_slice(("198.18.1.2", "n1"), conditions=going)
    new = replace(a_slice(("198.18.2.2", "n2")), metadata=replace(old.metadata, name="web-2"))
    assert "198.18.1.2" in every_line(rules_of([a_service()], [old]))
    assert "198.18.1.2" not in every_line(rules_of([a_service()], [old, new]))


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
def test_what_no_proxy_translates_leaves_no_rule(service: ProxiedService) -> None:
    assert rules_of([service], [a_slice(("198.18.1.2", "n1"))]) == rules_of([], [])


def test_an_address_behind_a_proxy_is_left_alone() -> None:
    service = a_service()
    ingress = (LoadBalancerIngress(ip="192.168.20.20", ip_mode="Proxy"),)
    service = replace(service, status=ServiceStatus(load_balancer=LoadBalancerStatus(ingress=ingress)))
    assert "192.168.20.20" not in every_line(rules_of([service], [a_slice(("198.18.1.2", "n1"))]))


def test_ports_are_matched_by_name_and_slices_by_namespace() -> None:
    other = replace(
        a_slice(("198.18.1.9", "n1")),
        metadata=ObjectMeta(name="x", namespace="c", labels={"kubernetes.io/service-name": "web"}),
    )
    unnamed = replace(a_slice(("198.18.1.8", "n1")), ports=(EndpointPort(name="metrics", protocol="TCP", port=9),))
    rules = rules_of([a_service()], [other, unnamed])
    assert "198.18.1.8" not in every_line(rules)
    assert "198.18.1.9" not in every_line(rules)


def test_the_order_of_objects_does_not_change_the_text() -> None:
    services = [
        replace(
            a_service(f"s{i}"),
            spec=replace(a_service().spec, cluster_ip=f"10.96.0.{i}", ports=(ServicePort(name="http", port=80 + i),)),
        )
        for i in range(2, 9)
    ]
    slices = [a_slice((f"198.18.1.{i}", "n1"), name=f"s{i}") for i in range(2, 9)]
    expected = rules_of(services, slices)
    services = [*services[3:], *services[:3]]
    slices.reverse()
    assert rules_of(services, slices) == expected


# Two families

DUAL = ProxiedService(
    metadata=ObjectMeta(name="web", namespace="a-b"),
    spec=ProxiedServiceSpec(
        type="LoadBalancer",
        cluster_ip="10.96.0.10",
        cluster_ips=("10.96.0.10", "fd00:10:96::10"),
        ip_families=("IPv4", "IPv6"),
        ports=(ServicePort(name="http", port=80, target_port=8080, node_port=30080),),
    ),
    status=ServiceStatus(
        load_balancer=LoadBalancerStatus(
            ingress=(LoadBalancerIngress(ip="192.168.20.20"), LoadBalancerIngress(ip="2001:db8:20::1000"))
        )
    ),
)
BOTH = [a_slice(("198.18.1.2", "n1")), a_slice6(("2001:db8:198:1::2", "n1"))]


def test_each_family_has_its_own_addresses_and_backends() -> None:
    four, six = (rules_of([DUAL], BOTH, family=family) for family in (IPV4, IPV6))
    assert list(six.maps["destinations"]) == ["2001:db8:20::1000 . tcp . 80", "fd00:10:96::10 . tcp . 80"]
    assert "meta l4proto tcp dnat to [2001:db8:198:1::2]:8080" in six.chains["to/tcp/2001-db8-198-1--2/8080"]
    assert list(six.maps["node_ports"]) == list(four.maps["node_ports"]) == ["tcp . 30080"]
    assert ":db8:" not in every_line(four)
    assert "198.18." not in every_line(six)


def test_a_service_of_one_family_has_no_node_port_in_the_other() -> None:
    assert rules_of([a_service()], BOTH, family=IPV6).maps["node_ports"] == {}
    assert rules_of([a_service()], BOTH, family=IPV6).maps["refused_node_ports"] == {}


# Who may come, and where a client goes again


def test_source_ranges_guard_the_load_balancer_address_alone() -> None:
    service = replace(
        DUAL, spec=replace(DUAL.spec, load_balancer_source_ranges=("10.1.0.0/16", " 10.0.0.0/15", "2001:db8::/64"))
    )
    four, six = (rules_of([service], BOTH, family=family) for family in (IPV4, IPV6))
    assert four.maps["guarded"] == {"192.168.20.20 . tcp . 80": "goto guard/a_b/web/80/tcp"}
    assert four.chains["guard/a_b/web/80/tcp"] == ("ip saddr != { 10.0.0.0/15 } drop",)  # nft refuses ranges that overlap.
    assert six.chains["guard/a_b/web/80/tcp"] == ("ip6 saddr != { 2001:db8::/64 } drop",)
    assert rules_of([replace(service, spec=replace(service.spec, type="NodePort"))], BOTH).maps["guarded"] == {}


def test_session_affinity_asks_first_where_the_client_was_before() -> None:
    slices = [a_slice(("198.18.1.2", "n1"), ("198.18.2.2", "n2"))]
    config = AffinityConfig(client_ip=ClientIPAffinity(timeout_seconds=60))
    rules = rules_of([a_service(session_affinity="ClientIP", session_affinity_config=config)], slices)
    first = "sticky/60/a_b/web/80/tcp/tcp/198.18.1.2/8080"
    assert rules.chains["ext/a_b/web/80/tcp"][1] == f"ip saddr @{first} goto {first}"
    assert rules.chains[first] == (f"update @{first} {{ ip saddr }}", "goto to/tcp/198.18.1.2/8080")
    assert rules.sets[first] == "type ipv4_addr; flags dynamic,timeout; timeout 60s;"
    assert "timeout 10800s" in str(rules_of([a_service(session_affinity="ClientIP")], slices).sets)


def test_external_ips_lead_to_the_endpoints_like_load_balancer_addresses() -> None:
    rules = rules_of([a_service(type="ClusterIP", external_ips=("192.168.20.99", "2001:db8::9"))], BOTH)
    assert rules.maps["destinations"]["192.168.20.99 . tcp . 80"] == "goto ext/a_b/web/80/tcp"
    assert "2001:db8::9" not in every_line(rules)


# Health checks, addresses of IPVS mode


def test_a_health_check_counts_the_ready_endpoints_of_the_node() -> None:
    service = replace(DUAL, spec=replace(DUAL.spec, external_traffic_policy="Local", health_check_node_port=30777))
    going = a_slice(("198.18.1.3", "n1"), conditions=EndpointConditions(ready=False, serving=True, terminating=True))
    slices = [*BOTH, replace(going, metadata=replace(going.metadata, name="web-going"))]
    answers = {node.name: health([service], slices, node=node)[30777] for node in (N1, N2)}
    assert (answers["n1"].local_endpoints, answers["n2"].local_endpoints) == (1, 0)
    assert (answers["n1"].service.namespace, answers["n1"].service.name) == ("a-b", "web")


def test_only_local_policy_has_a_health_check() -> None:
    assert health([a_service(health_check_node_port=30777, external_traffic_policy="Cluster")], BOTH, node=N1) == {}
    assert health([a_service(type="NodePort", health_check_node_port=30777)], BOTH, node=N1) == {}
    assert health([a_service()], BOTH, node=N1) == {}


def test_ipvs_mode_puts_every_address_of_every_service_on_the_node() -> None:
    services = [DUAL, a_service("none", cluster_ips=("None",), type="ClusterIP"), a_service("out", type="ExternalName")]
    found = {str(each) for each in local_addresses(services)}
    assert found == {"10.96.0.10", "fd00:10:96::10", "192.168.20.20", "2001:db8:20::1000"}


# From one set of rules to another


def test_equal_rules_need_no_change() -> None:
    assert changes(rules_of([DUAL], BOTH), rules_of([DUAL], BOTH)) == ""


def test_a_change_of_one_service_leaves_the_chains_of_another_alone() -> None:
    other = replace(a_service("other", session_affinity="ClientIP"), spec=replace(a_service().spec, cluster_ip="10.96.0.11"))
    slices = [a_slice(("198.18.1.2", "n1")), a_slice(("198.18.1.9", "n1"), name="other")]
    before = rules_of([a_service(session_affinity="ClientIP"), other], slices)
    after = rules_of([a_service(session_affinity="ClientIP")], slices)
    commands = changes(before, after)
    assert "web" not in commands
    assert "delete element ip lab destinations { 10.96.0.11 . tcp . 80 }" in commands
    assert commands.index("flush chain ip lab svc/a_b/other/80/tcp") < commands.index(
        "delete chain ip lab svc/a_b/other/80/tcp"
    )


def test_without_knowledge_of_what_is_in_force_the_table_is_replaced() -> None:
    commands = changes(None, rules_of([DUAL], BOTH)).splitlines()
    assert commands[:3] == ["add table ip lab", "delete table ip lab", "add table ip lab"]
