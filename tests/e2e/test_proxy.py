"""The kube-proxy stand-in from end to end: what a client of a Service sees, by both families."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from typing import Any

import pytest

from lab import namespaces
from lab.topology import Node
from lab.user import MANIFESTS, CommandError
from tests.e2e.conftest import Lab
from tests.e2e.test_lab import a_deployment, a_service, curl, eventually, ready_pods

pytestmark = [pytest.mark.needs("root", "nginx", "nft"), pytest.mark.timeout(180)]

SYSTEM = "metallb-system"
POOL6 = "2001:db8:20::1000-2001:db8:20::10ff"


def a_pool(name: str, *ranges: str) -> dict[str, Any]:
    return {
        "apiVersion": "metallb.io/v1beta1",
        "kind": "IPAddressPool",
        "metadata": {"name": name, "namespace": SYSTEM},
        "spec": {"addresses": list(ranges)},
    }


@pytest.fixture
def pool6(lab: Lab) -> Iterator[None]:
    """The product, and a pool of IPv6 addresses."""
    lab.user.apply(*MANIFESTS)

    def applied() -> object:
        try:
            return lab.user.apply_documents([a_pool("six", POOL6)])
        except CommandError as error:
            if "failed calling webhook" not in str(error):
                raise
            return None  # Nothing can be configured before the controller is up.

    eventually(applied, "the controller lets the API server ask it")
    yield
    lab.user.delete("IPAddressPool", "six", namespace=SYSTEM)


# One Service among others. The servers say who they are and who asked; the client reaches them through node ports.


def a_crowd(name: str, replicas: int) -> dict[str, Any]:
    """Servers that say who they are, over HTTP and UDP."""
    container = {
        "image": "registry.k8s.io/e2e-test-images/agnhost:2.47",
        "args": ["netexec", "--http-port=80", "--udp-port=81"],
        "readinessProbe": {"httpGet": {"port": 80, "path": "/healthz"}, "periodSeconds": 1},
    }
    return a_deployment(name, replicas=replicas, container=container)


PORTS = [
    {"name": "http", "port": 80, "targetPort": 80},
    {"name": "talk", "port": 81, "targetPort": 81, "protocol": "UDP"},
]


@pytest.fixture(scope="module")
def crowd(lab: Lab) -> Iterator[Lab]:
    """The session's lab with three servers, one on every node (`crowd`), and one server alone (`lone`)."""
    lab.user.apply_documents([a_crowd("crowd", 3), a_crowd("lone", 1)])
    eventually(lambda: len(ready_pods(lab, "crowd")) == 3 and ready_pods(lab, "lone"), "four servers")
    yield lab
    for name in ("crowd", "lone"):
        lab.user.delete("Deployment", name, namespace="default")


@pytest.fixture
def served(crowd: Lab) -> Iterator[Lab]:
    """The same, whose Services are gone after each test."""
    yield crowd
    for name in ("crowd", "lone", "other"):
        crowd.user.delete("Service", name, namespace="default")


def serve(lab: Lab, name: str, **spec: Any) -> dict[str, Any]:
    """A Service in front of the servers of a name, as it is in force; no load balancer of this cluster cares for it."""
    if spec.setdefault("type", "NodePort") == "LoadBalancer":
        spec["loadBalancerClass"] = "example.com/nobody"
    lab.user.apply_documents([a_service(name, **{"ports": PORTS, **spec})])
    found: dict[str, Any] = lab.user.get("Service", name, namespace="default")["spec"]
    return found


def node_ports(service: dict[str, Any]) -> tuple[int, int]:
    """The node ports for HTTP and UDP."""
    return service["ports"][0]["nodePort"], service["ports"][1]["nodePort"]


def home(lab: Lab, name: str) -> Node:
    """The node of the one server of that name."""
    (pod,) = ready_pods(lab, name)
    return lab.topology.node(pod["node"])


def is_silent(lab: Lab, machine: str, url: str) -> bool:
    """Whether nothing at all comes back (curl 28: time is up)."""
    return lab.run_on(machine, "curl", "--silent", "--max-time", "1", url).returncode == 28


def ask_udp(lab: Lab, machine: str, address: str, port: int, question: str) -> str:
    """The answer to a datagram; nothing if there was none."""
    with namespaces.inside(lab.topology.netns(machine)):
        asking = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    with asking:
        asking.settimeout(1.0)
        try:
            asking.connect((address, port))
            asking.send(question.encode())
            return asking.recv(1000).decode()
        except OSError:
            return ""


def test_a_connection_goes_on_while_services_change(served: Lab) -> None:
    service = serve(served, "crowd")
    node, (port, _) = served.topology.nodes[0], node_ports(service)
    eventually(lambda: curl(served, "client", f"http://{node.ip}:{port}/hostname"), "an answer")
    connection = http.client.HTTPConnection(str(node.ip), port, timeout=5)
    with namespaces.inside(served.topology.netns("client")):
        connection.connect()
    with closing(connection):

        def who() -> str:
            connection.request("GET", "/hostname")
            assert connection.sock is not None  # It would be opened again without a word.
            return connection.getresponse().read().decode()

        before = who()
        other = serve(served, "other", selector={"app": "lone"})
        until_other = f"http://{node.ip}:{node_ports(other)[0]}/hostname"
        eventually(lambda: curl(served, "client", until_other).startswith("lone"), "the other Service is in force")
        assert who() == before
        serve(served, "crowd", selector={"app": "lone"})
        eventually(lambda: curl(served, "client", f"http://{node.ip}:{port}/hostname").startswith("lone"), "its own change")
        assert who() == before


def test_local_policy_keeps_the_clients_address_and_tells_a_health_check_where_endpoints_are(served: Lab) -> None:
    service = serve(served, "lone", type="LoadBalancer", externalTrafficPolicy="Local")
    (port, _), check, there = node_ports(service), service["healthCheckNodePort"], home(served, "lone")
    address = eventually(lambda: curl(served, "client", f"http://{there.ip}:{port}/clientip"), "an answer")
    assert address.rpartition(":")[0] == str(served.topology.client.ip)
    for node in served.topology.nodes:
        answer = curl(served, "client", f"http://{node.ip}:{check}/")
        count = int(node == there)
        assert json.loads(answer) == {
            "service": {"namespace": "default", "name": "lone"}, "localEndpoints": count, "serviceProxyHealthy": True
        }  # fmt: skip
        status = served.run_on("client", "curl", "--silent", "--head", f"http://{node.ip}:{check}/").stdout
        assert status.startswith("HTTP/1.1 200" if node == there else "HTTP/1.1 503")
        assert node == there or is_silent(served, "client", f"http://{node.ip}:{port}/")
    serve(served, "lone", type="LoadBalancer", externalTrafficPolicy="Cluster")
    eventually(
        lambda: served.run_on("client", "curl", "--silent", f"http://{there.ip}:{check}/").returncode == 7,
        "the check is closed",
    )


def test_a_health_check_follows_the_endpoints(served: Lab) -> None:
    service = serve(served, "lone", type="LoadBalancer", externalTrafficPolicy="Local")
    there, check = home(served, "lone"), service["healthCheckNodePort"]

    def says(status: int) -> bool:
        head = served.run_on("client", "curl", "--silent", "--head", f"http://{there.ip}:{check}/").stdout
        return head.startswith(f"HTTP/1.1 {status}")

    eventually(lambda: says(200), "200 beside an endpoint")
    serve(served, "lone", type="LoadBalancer", externalTrafficPolicy="Local", selector={"app": "nobody"})
    eventually(lambda: says(503), "503 without one")


def test_internal_policy_local_serves_where_an_endpoint_is_and_is_silent_elsewhere(served: Lab) -> None:
    service = serve(served, "lone", internalTrafficPolicy="Local")
    url, there = f"http://{service['clusterIP']}/hostname", home(served, "lone")
    eventually(lambda: curl(served, there.name, url).startswith("lone"), "an answer beside the endpoint")
    assert all(is_silent(served, node.name, url) for node in served.topology.nodes if node != there)


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_a_client_keeps_its_server_while_other_services_change(served: Lab, family: str) -> None:
    affinity = {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}}
    families = {"ipFamilyPolicy": "SingleStack", "ipFamilies": [family]}
    node = served.topology.nodes[0]
    host = str(node.ip) if family == "IPv4" else f"[{node.ip6}]"
    free = f"http://{host}:{node_ports(serve(served, 'other', selector={'app': 'crowd'}, **families))[0]}/hostname"
    bound = f"http://{host}:{node_ports(serve(served, 'crowd', **affinity, **families))[0]}/hostname"
    eventually(lambda: curl(served, "client", bound) and curl(served, "client", free), "answers")
    assert len({curl(served, "client", free) for _ in range(20)}) > 1  # By chance it would be one in 3 ** 19 times.
    first = {curl(served, "client", bound) for _ in range(10)}
    serve(served, "lone")
    served.user.delete("Service", "other", namespace="default")
    eventually(lambda: not curl(served, "client", free), "the other Service is gone")
    assert {curl(served, "client", bound) for _ in range(10)} == first
    assert len(first) == 1


def test_a_client_is_free_again_when_it_was_away_for_longer_than_its_affinity_lasts(served: Lab) -> None:
    affinity = {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 1}}}
    node = served.topology.nodes[0]
    bound = f"http://{node.ip}:{node_ports(serve(served, 'crowd', **affinity))[0]}/hostname"
    first = eventually(lambda: curl(served, "client", bound), "an answer")

    def is_known() -> bool:
        return f"{served.topology.client.ip} expires" in served.run_on(node.name, "nft", "list", "ruleset").stdout

    assert curl(served, "client", bound) == first
    assert is_known()
    eventually(lambda: not is_known() and curl(served, "client", bound) != first, "another one of three serves")


def test_source_ranges_decide_who_is_served_at_the_load_balancers_address(served: Lab) -> None:
    outside, node = "192.168.20.250", served.topology.nodes[0]
    service = serve(served, "crowd", type="LoadBalancer", loadBalancerSourceRanges=["192.0.2.0/24"])
    status = json.dumps({"status": {"loadBalancer": {"ingress": [{"ip": outside}]}}})
    served.user.run("patch", "service", "crowd", "--subresource=status", "--type=merge", f"--patch={status}")
    served.run_on("client", "ip", "neigh", "replace", outside, "lladdr", node.mac, "dev", "eth0", "nud", "permanent")
    try:
        eventually(
            lambda: curl(served, "client", f"http://{node.ip}:{node_ports(service)[0]}/hostname"), "the node port is open"
        )
        assert is_silent(served, "client", f"http://{outside}/hostname")
        wider = ["192.0.2.0/24", f"{served.topology.client.ip}/32"]
        serve(served, "crowd", type="LoadBalancer", loadBalancerSourceRanges=wider)
        eventually(
            lambda: curl(served, "client", f"http://{outside}/hostname"), "the client is served once its address is named"
        )
    finally:
        served.run_on("client", "ip", "neigh", "del", outside, "dev", "eth0")


def test_datagrams_reach_a_server_and_its_answer_comes_back(served: Lab) -> None:
    service = serve(served, "crowd", ipFamilyPolicy="RequireDualStack")
    node, (_, port) = served.topology.nodes[1], node_ports(service)
    for address in (str(node.ip), str(node.ip6)):
        assert eventually(partial(ask_udp, served, "client", address, port, "hostname"), f"by {address}").startswith("crowd")
    from_a_node = partial(ask_udp, served, "n3", service["clusterIP"], 81, "echo hello")
    assert eventually(from_a_node, "by the cluster IP, from a node") == "hello"


# Two families


def test_a_service_of_two_families_is_reached_by_all_its_addresses(served: Lab) -> None:
    service = serve(served, "crowd", ipFamilyPolicy="RequireDualStack", ipFamilies=["IPv6", "IPv4"])
    (six, four), (port, _) = service["clusterIPs"], node_ports(service)
    for node in served.topology.nodes:
        for machine, host in ((node.name, f"{four}"), (node.name, f"[{six}]")):
            eventually(partial(curl, served, machine, f"http://{host}/hostname"), f"{machine} is answered by {host}")
        for host in (f"{node.ip}", f"[{node.ip6}]"):
            eventually(partial(curl, served, "client", f"http://{host}:{port}/hostname"), f"the client is answered by {host}")


@pytest.mark.usefixtures("pool6")
def test_an_ipv6_load_balancer_address_serves_whoever_sends_it_to_a_node(served: Lab) -> None:
    spec = {"ipFamilies": ["IPv6"], "ipFamilyPolicy": "SingleStack", "type": "LoadBalancer"}
    served.user.apply_documents([a_service("crowd", ports=PORTS, **spec)])

    def address() -> str | None:
        ingress = served.user.get("Service", "crowd", namespace="default")["status"]["loadBalancer"].get("ingress")
        return str(ingress[0]["ip"]) if ingress else None

    ip = eventually(address, "an IPv6 address")
    assert ip.startswith("2001:db8:20::10")
    for node in served.topology.nodes:  # This test is about the nodes' rules, so it does without an announcement.
        served.run_on("client", "ip", "-6", "neigh", "replace", ip, "lladdr", node.mac, "dev", "eth0", "nud", "permanent")
        eventually(partial(curl, served, "client", f"http://[{ip}]/hostname"), f"an answer through {node.name}")
    served.run_on("client", "ip", "-6", "neigh", "del", ip, "dev", "eth0")
