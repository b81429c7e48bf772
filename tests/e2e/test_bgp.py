"""The speakers of a cluster announce its Services by BGP to a router: BIRD on the lab's client, which forwards by what it hears.

The sessions have a password out of a Secret. One lab and one router for all tests.
"""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from kube.errors import NotFound
from kube.objects import RawObject
from kube.resources import NAMESPACES, NODES, SECRETS, SERVICE_BGP_STATUSES, SERVICES, resource_of
from lab import daemons, namespaces, netns
from lab.scenarios.stage import BACKENDS, NAMESPACE, SYSTEM, Stage
from tests.e2e.conftest import Lab
from tests.e2e.installed import Installed, addresses, opened, until
from tests.e2e.test_lab import eventually

pytestmark = [pytest.mark.needs("root", "nginx", "nft", "bird"), pytest.mark.timeout(120)]

ROUTER_AS, OUR_AS, PASSWORD, SECRET = 64513, 64512, "lab's;{secret", "router-password"
NODES_ = ("n1", "n2", "n3")
EXCLUDE = "node.kubernetes.io/exclude-from-external-load-balancers"
POOL = "203.0.113.0/28"


class Router:
    """BIRD on the client, with a session to every node."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab, self.folder = lab, folder
        self.address = lab.topology.client.ip

    def configuration(self) -> str:
        sessions = (
            f"protocol bgp {node.name} {{\n  local {self.address} as {ROUTER_AS};\n  neighbor {node.ip} as {OUR_AS};\n"
            f'  password "{PASSWORD}";\n  passive on;\n  ipv4 {{ import all; export none; }};\n  ipv6 {{ import all; export none; }};\n}}\n'
            for node in self.lab.topology.nodes
        )
        kernels = "".join(
            f"protocol kernel {{ merge paths on; ipv{version} {{ export all; import none; }}; }}\n" for version in (4, 6)
        )
        return f"router id {self.address};\nprotocol device {{ }}\n{kernels}{''.join(sessions)}"

    @contextmanager
    def running(self) -> Iterator[None]:
        config, control = self.folder / "bird.conf", self.folder / "bird.ctl"
        config.write_text(self.configuration())
        words = ["bird", "-f", "-c", str(config), "-s", str(control), "-P", str(self.folder / "bird.pid")]
        with (self.folder / "bird.log").open("wb") as log:
            bird = subprocess.Popen(netns.enter(self.lab.topology.netns("client"), words), stdout=log, stderr=log)
        try:
            yield
        finally:
            bird.terminate()
            bird.wait(10)

    def nodes_of(self, prefix: str) -> set[str]:
        """The nodes that announce a prefix."""
        words = ["birdc", "-s", str(self.folder / "bird.ctl"), "show", "route", "for", prefix]
        shown = subprocess.run(words, capture_output=True, text=True, check=False).stdout
        return {node for node in NODES_ if f"[{node} " in shown}


class Fabric:
    """The product with a pool that is announced by BGP, and the router."""

    def __init__(self, user: Installed, router: Router) -> None:
        self.user, self.router = user, router

    async def service(self, name: str = "web", **spec: Any) -> str:
        """A Service in front of the lab's web servers; its first address."""
        await self.user.service(name, namespace=NAMESPACE, **{"selector": {"app": BACKENDS}, **spec})

        async def given() -> str:
            return next(iter(addresses(await self.user.get(name, NAMESPACE))), "")

        return await until(given, f"an address for {name}")

    async def routed(self, prefix: str, *nodes: str) -> None:
        """Until the router has a prefix from exactly these nodes."""

        async def so() -> bool:
            return self.router.nodes_of(prefix) == set(nodes)

        await until(so, f"{prefix} from {nodes}")

    async def statuses(self, name: str = "web") -> dict[str, list[str]]:
        """Node → peers, by the ServiceBGPStatus objects of a Service."""
        found, _ = await self.user.kube.list(SERVICE_BGP_STATUSES, namespace=SYSTEM)
        every = [one.document.get("status") or {} for one in found if isinstance(one, RawObject)]
        return {one["node"]: one["peers"] for one in every if one.get("serviceName") == name}

    async def announced_to(self, expected: dict[str, list[str]]) -> None:
        async def so() -> bool:
            return await self.statuses() == expected

        await until(so, f"ServiceBGPStatus {expected}")

    def answers(self, address: str) -> str:
        """What the client gets from an address by HTTP."""
        host = f"[{address}]" if ":" in address else address
        return self.user.lab.run_on("client", "curl", "-s", "--max-time", "3", f"http://{host}/").stdout


@pytest.fixture(scope="module")
def router(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    """The session's lab with the product, web servers and a router in it."""

    async def prepare() -> None:
        async with Stage.opened(lab.paths) as stage:
            await stage.install()
            await stage.add_web_servers()

    async def clear() -> None:
        async with Stage.opened(lab.paths) as stage:
            await stage.kube.delete(NAMESPACES, NAMESPACE)

    asyncio.run(prepare())
    made = Router(lab, tmp_path_factory.mktemp("bird"))
    try:
        with made.running():
            yield made
    finally:
        asyncio.run(clear())
        eventually(lambda: not [pod for pod in lab.status()["pods"] if pod["namespace"] == NAMESPACE], "its Pods are gone")


@pytest.fixture
async def fabric(router: Router) -> AsyncIterator[Fabric]:
    async with opened(router.lab) as user:
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": SECRET},
            "type": "kubernetes.io/basic-auth",
            "data": {"username": "", "password": base64.b64encode(PASSWORD.encode()).decode()},
        }
        with suppress(NotFound):
            await user.kube.delete(SECRETS, SECRET, namespace=SYSTEM)
        await user.kube.create(SECRETS, secret, namespace=SYSTEM)
        await user.pool("outside", POOL)
        await user.write(
            "BGPPeer",
            "router",
            myASN=OUR_AS,
            peerASN=ROUTER_AS,
            peerAddress=str(router.address),
            passwordSecret={"name": SECRET},
        )
        await user.write("BGPAdvertisement", "all", ipAddressPools=["outside"])
        try:
            yield Fabric(user, router)
        finally:
            for node in NODES_:
                await user.kube.patch(NODES, node, {"metadata": {"labels": {EXCLUDE: None}}})
            await user.kube.delete(SECRETS, SECRET, namespace=SYSTEM)


async def test_a_service_is_routed_to_all_nodes_answers_and_is_withdrawn(fabric: Fabric) -> None:
    address = await fabric.service()
    await fabric.routed(f"{address}/32", *NODES_)
    await fabric.announced_to({node: ["router"] for node in NODES_})

    async def answered() -> str:
        return fabric.answers(address)

    await until(answered, f"an answer from {address}")
    speakers = [one for one in await daemons.statuses(fabric.user.lab.paths) if one.get("component") == "speaker"]
    assert [one["bgp"]["peers"]["router"]["up"] for one in speakers] == [True] * 3
    assert PASSWORD not in str(speakers)
    await fabric.user.kube.delete(SERVICES, "web", namespace=NAMESPACE)
    await fabric.routed(f"{address}/32")
    await fabric.announced_to({})


async def test_a_node_that_is_excluded_withdraws_and_one_that_is_not_selected_has_no_session(fabric: Fabric) -> None:
    prefix = f"{await fabric.service()}/32"
    await fabric.routed(prefix, *NODES_)
    await fabric.user.kube.patch(NODES, "n2", {"metadata": {"labels": {EXCLUDE: ""}}})
    await fabric.routed(prefix, "n1", "n3")
    await fabric.announced_to({"n1": ["router"], "n3": ["router"]})
    selected = [{"matchLabels": {"kubernetes.io/hostname": "n1"}}]
    await fabric.user.kube.patch(resource_of("BGPPeer"), "router", {"spec": {"nodeSelectors": selected}}, namespace=SYSTEM)
    await fabric.routed(prefix, "n1")
    await fabric.announced_to({"n1": ["router"]})


def exabgp_of(lab: Lab, node: str) -> int:
    """The process id of the ExaBGP on a node, by the namespace that it is in."""
    network = (namespaces.RUN_DIR / lab.topology.netns(node)).stat().st_ino
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if b"exabgp" in words and b"server" in words and (entry / "ns/net").stat().st_ino == network:
                return int(entry.name)
    raise AssertionError(f"no ExaBGP runs on {node}")


async def test_the_routes_are_there_again_after_exabgp_was_killed(fabric: Fabric) -> None:
    prefix = f"{await fabric.service()}/32"
    await fabric.routed(prefix, *NODES_)
    os.kill(exabgp_of(fabric.user.lab, "n1"), signal.SIGKILL)
    await fabric.routed(prefix, "n2", "n3")
    await fabric.routed(prefix, *NODES_)
