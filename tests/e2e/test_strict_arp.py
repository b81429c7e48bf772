"""The trap of kube-proxy's IPVS mode: which nodes' kernels answer ARP for a load-balancer address, without any speaker."""

from __future__ import annotations

import asyncio
import json

import pytest

from lab import netns
from lab.client_machine import on_client
from lab.leftovers import what_is_left
from tests.e2e.conftest import Lab, a_lab
from tests.e2e.test_lab import a_service, eventually

pytestmark = [pytest.mark.needs("root", "nginx", "nft"), pytest.mark.timeout(120)]

ADDRESS = "192.168.20.99"
NODES = 2


def balanced(lab: Lab) -> None:
    """A load-balancer Service that has its address already, as a controller would have written it."""
    lab.user.apply_documents([a_service(type="LoadBalancer", ports=[{"port": 80}])])
    patch = json.dumps({"status": {"loadBalancer": {"ingress": [{"ip": ADDRESS}]}}})
    lab.user.run("patch", "service", "web", "--subresource=status", "--type=merge", f"--patch={patch}")


async def who_answers(lab: Lab) -> set[str]:
    """The nodes that answer ARP for the address while the client's kernel asks, until that has an answer or gives up."""
    nodes = {node.mac: node.name for node in lab.topology.nodes}
    async with on_client(lab.topology) as client:
        client.ask(ADDRESS, good=1)
        await client.until(lambda: client.attempts or None, limit_s=30.0, what="that the client asks")
        asking = netns.enter(lab.topology.netns("client"), ["curl", "--silent", "--max-time", "10", f"http://{ADDRESS}/"])
        await (await asyncio.create_subprocess_exec(*asking)).wait()
        client.rest()
        return {nodes[each.sender_mac] for each in client.frames if each.operation == 2 and each.sender == ADDRESS}


@pytest.mark.parametrize(("mode", "answering"), [("ipvs", {"n1", "n2"}), ("ipvs-strict-arp", set())], ids=["trap", "remedy"])
def test_in_ipvs_mode_every_kernel_answers_for_every_service_unless_arp_is_strict(mode: str, answering: set[str]) -> None:
    lab = a_lab(mode)
    lab.command("down")
    lab.command("up", "--nodes", str(NODES), "--proxy-mode", mode)
    try:
        balanced(lab)
        names = [node.name for node in lab.topology.nodes]
        eventually(lambda: all(ADDRESS in lab.run_on(each, "ip", "address", "show", "lo").stdout for each in names), "on lo")
        assert asyncio.run(who_answers(lab)) == answering
    finally:
        lab.command("down")
    assert what_is_left(lab.paths) == []
