"""The kube-proxy stand-in from end to end: what a client of a Service sees, by both families."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from lab.user import MANIFESTS, CommandError
from tests.e2e.conftest import Lab
from tests.e2e.test_lab import a_deployment, a_service, eventually, until_ready, until_welcome

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
def clean(lab: Lab) -> Iterator[Lab]:
    """The session's lab with the objects of these tests gone afterwards."""
    yield lab
    for kind in ("Deployment", "Service"):
        lab.user.delete(kind, "web", namespace="default")
    eventually(lambda: not [pod for pod in lab.status()["pods"] if pod["name"].startswith("web-")], "the Pods are gone")


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


@pytest.mark.usefixtures("pool6")
def test_a_service_of_two_families_is_reached_by_all_its_addresses(clean: Lab) -> None:
    spec: dict[str, Any] = {"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6", "IPv4"], "type": "NodePort"}
    clean.user.apply_documents([a_deployment(replicas=3), a_service(**spec)])
    until_ready(clean, 3)
    service = clean.user.get("Service", "web", namespace="default")["spec"]
    six, four = service["clusterIPs"]
    node_port = service["ports"][0]["nodePort"]
    for node in clean.topology.nodes:
        until_welcome(clean, node.name, f"http://{four}/")
        until_welcome(clean, node.name, f"http://[{six}]/")
        until_welcome(clean, "client", f"http://{node.ip}:{node_port}/")
        until_welcome(clean, "client", f"http://[{node.ip6}]:{node_port}/")


@pytest.mark.usefixtures("pool6")
def test_an_ipv6_load_balancer_address_serves_whoever_sends_it_to_a_node(clean: Lab) -> None:
    spec: dict[str, Any] = {"ipFamilies": ["IPv6"], "ipFamilyPolicy": "SingleStack", "type": "LoadBalancer"}
    clean.user.apply_documents([a_deployment(replicas=3), a_service(**spec)])
    until_ready(clean, 3)

    def address() -> str | None:
        ingress = clean.user.get("Service", "web", namespace="default")["status"]["loadBalancer"].get("ingress")
        return str(ingress[0]["ip"]) if ingress else None

    ip = eventually(address, "an IPv6 address")
    assert ip.startswith("2001:db8:20::10")
    for node in clean.topology.nodes:  # This test is about the nodes' rules, so it does without an announcement.
        clean.run_on("client", "ip", "-6", "neigh", "replace", ip, "lladdr", node.mac, "dev", "eth0", "nud", "permanent")
        until_welcome(clean, "client", f"http://[{ip}]/")
    clean.run_on("client", "ip", "-6", "neigh", "del", ip, "dev", "eth0")
