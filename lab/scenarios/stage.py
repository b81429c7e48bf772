"""What every scenario needs: a lab with the product running in it, a pool, web servers, a client that asks, the speakers' logs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Self, TypeVar

from kube.client import KubeClient
from kube.errors import AlreadyExists, KubeError, NotFound
from kube.resources import IP_ADDRESS_POOLS, L2_ADVERTISEMENTS, NAMESPACES, SERVICES
from lab import control, daemons, lifecycle, timeline
from lab.client import administrator
from lab.client_machine import ClientMachine, on_client
from lab.faults import AnyFault
from lab.paths import LabError, Paths
from lab.topology import FIRST_POOL_OFFSET, Topology
from lab.user import MANIFESTS, User

T = TypeVar("T")

SYSTEM: Final = "metallb-system"
NAMESPACE: Final = "lab-scenarios"
BACKENDS: Final = "backend"
READY_S: Final = 60.0
LOOK_EVERY_S: Final = 0.05
NO_ANNOTATIONS: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of a speaker's log. `mono` is when it was written, by CLOCK_MONOTONIC."""

    mono: float
    event: str
    facts: dict[str, Any]


@dataclass(slots=True)
class Stage:
    """A lab in which a scenario plays."""

    where: Paths
    topology: Topology
    user: User
    kube: KubeClient
    client: ClientMachine

    @classmethod
    @asynccontextmanager
    async def opened(cls, where: Paths) -> AsyncIterator[Self]:
        """The lab that is up, as it is."""
        topology = lifecycle.running_topology(where)
        kube = await KubeClient.connect(administrator(where.kubeconfig), user_agent="lab-scenario")
        try:
            async with on_client(topology) as client:
                yield cls(where, topology, User(where.kubeconfig), kube, client)
        finally:
            await kube.close()

    @classmethod
    @asynccontextmanager
    async def set(cls, where: Paths) -> AsyncIterator[Self]:
        """The lab that is up, with the product installed, a pool if there was none, and web servers on every node."""
        async with cls.opened(where) as stage:
            await stage.install()
            await stage.add_pool()
            await stage.add_web_servers()
            yield stage

    async def install(self) -> None:
        """Apply the manifests and wait until the controller and a speaker on every node are ready."""
        self.user.apply(*MANIFESTS)
        await self.until_speakers_ready()

    async def until_controller_ready(self) -> None:
        """Wait until the controller says it is ready: from then on the API server can ask it about configuration objects."""

        def ready() -> bool | None:
            pods = [pod for pod in self.status()["pods"] if pod["namespace"] == SYSTEM and pod["ready"]]
            return True if any(pod["name"].startswith("controller-") for pod in pods) else None

        await until(ready, limit_s=READY_S, what="the controller ready", logs=self.where.logs)

    async def until_speakers_ready(self) -> None:
        """Wait until the controller and the speakers of all nodes say they are ready."""

        def ready() -> bool | None:
            names = [pod["name"] for pod in self.status()["pods"] if pod["namespace"] == SYSTEM and pod["ready"]]
            speakers = sum(name.startswith("speaker-") for name in names)
            controllers = sum(name.startswith("controller-") for name in names)
            return True if speakers >= len(self.topology.nodes) and controllers else None

        await until(ready, limit_s=READY_S, what="the controller and all speakers ready", logs=self.where.logs)

    async def add_pool(self) -> None:
        """Create a pool of the lab's network, and leave to announce it, unless there is a pool."""
        pools, _ = await self.kube.list(IP_ADDRESS_POOLS)
        if pools:
            return
        network = self.topology.network
        spec = {"addresses": [f"{network[FIRST_POOL_OFFSET]}-{network[255]}"]}
        for resource, body in ((IP_ADDRESS_POOLS, spec), (L2_ADVERTISEMENTS, {"ipAddressPools": ["default"]})):
            document = {
                "apiVersion": resource.api_version,
                "kind": resource.kind,
                "metadata": {"name": "default", "namespace": SYSTEM},
                "spec": body,
            }
            await self.kube.create(resource, document, namespace=SYSTEM)

    async def add_web_servers(self) -> None:
        """One nginx for every node, ready."""
        with suppress(AlreadyExists):
            await self.kube.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        container = {
            "name": "nginx",
            "image": "nginx:latest",
            "ports": [{"name": "http", "containerPort": 80}],
            "readinessProbe": {"httpGet": {"port": 80}, "periodSeconds": 1},
        }
        self.deploy(BACKENDS, container)

        def ready() -> bool | None:
            servers = sum(pod["namespace"] == NAMESPACE and pod["ready"] for pod in self.status()["pods"])
            return True if servers >= len(self.topology.nodes) else None

        await until(ready, limit_s=READY_S, what="the web servers ready", logs=self.where.logs)

    def deploy(self, name: str, container: Mapping[str, Any]) -> None:
        """A Deployment of as many Pods as there are nodes, labelled `app` with its name."""
        labels = {"app": name}
        deployment = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {
                "replicas": len(self.topology.nodes),
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
            },
        }
        self.user.apply_documents([deployment])

    async def create_service(self, name: str, annotations: Mapping[str, str] = NO_ANNOTATIONS, **spec: object) -> None:
        """A Service of type LoadBalancer in front of the web servers, or as the members of `spec` say."""
        body = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": NAMESPACE, "annotations": dict(annotations)},
            "spec": {
                "type": "LoadBalancer",
                "selector": {"app": BACKENDS},
                "ports": [{"name": "http", "port": 80, "targetPort": 80}],
                **spec,
            },
        }
        await self.kube.create(SERVICES, body, namespace=NAMESPACE)

    async def delete_service(self, name: str) -> None:
        """Delete a Service; one that is not there is not missed."""
        try:
            await self.kube.delete(SERVICES, name, namespace=NAMESPACE)
        except NotFound:
            return

    async def address_of(self, name: str, *, namespace: str = NAMESPACE, limit_s: float = 10.0) -> str:
        """The address in a Service's status, once there is one."""

        async def look() -> str | None:
            try:
                service = await self.kube.get(SERVICES, name, namespace)
            except KubeError:
                return None
            return next((each.ip for each in service.status.load_balancer.ingress or () if each.ip), None)

        return await until_async(look, limit_s=limit_s, what=f"an address for Service {namespace}/{name}", logs=self.where.logs)

    async def settled_owner(self, service: str) -> str:
        """The node that announces a Service (namespace/name), once all speakers are members of one gossip and agree on it."""
        nodes = frozenset(node.name for node in self.topology.nodes)

        async def look() -> str | None:
            return daemons.settled_owner(await daemons.statuses(self.where), service, nodes)

        return await until_async(look, limit_s=READY_S, what=f"one speaker that announces {service}", logs=self.where.logs)

    def owner_by_mac(self, mac: str | None) -> str | None:
        """The node that has a MAC address."""
        return next((node.name for node in self.topology.nodes if node.mac == mac), None)

    def status(self) -> dict[str, Any]:
        """What the lab's supervisor says."""
        return control.ask(self.where, "status")

    def inject(self, fault: AnyFault) -> dict[str, Any]:
        """Put a fault in force. The client's program goes on meanwhile; a pipe holds what it says."""
        return control.ask(self.where, "inject", fault=fault)

    def heal(self, fault: AnyFault | None = None) -> list[str]:
        """Take a fault back, or all of them; returns their names."""
        healed: list[str] = control.ask(self.where, "heal", fault=fault)["healed"]
        return healed

    def speaker_lines(self, *, after: float) -> list[LogLine]:
        """What the speakers logged since a moment, in order of time."""
        found = []
        for file in self.where.logs.glob(f"{SYSTEM}_speaker-*.log"):
            found += [line for line in read_log(file) if line.mono >= after]
        return sorted(found, key=lambda line: line.mono)


def read_log(file: Path) -> Iterator[LogLine]:
    """The lines of a log that are JSON objects with a time."""
    return (LogLine(facts["mono"], facts["msg"], facts) for facts in timeline.lines(file))


async def until(found: Callable[[], T | None], *, limit_s: float, what: str, logs: Path) -> T:
    """Look again and again until something is there.

    Raises:
        LabError: it was not, within the limit.

    """

    async def look() -> T | None:
        return found()

    return await until_async(look, limit_s=limit_s, what=what, logs=logs)


async def until_async(found: Callable[[], Awaitable[T | None]], *, limit_s: float, what: str, logs: Path) -> T:
    """As until(), for looks that wait."""
    deadline = time.monotonic() + limit_s
    while (result := await found()) is None:
        if time.monotonic() > deadline:
            raise LabError(f"expected {what}, not seen within {limit_s:g} s; logs are in {logs}")
        await asyncio.sleep(LOOK_EVERY_S)
    return result
