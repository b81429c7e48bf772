"""The lab's API server with what a speaker needs: CRDs, namespace, Nodes, a pool, and the verbs of a user."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kube.client import KubeClient
from kube.objects import RawObject
from kube.resources import (
    ENDPOINT_SLICES,
    IP_ADDRESS_POOLS,
    L2_ADVERTISEMENTS,
    NAMESPACES,
    NODES,
    PODS,
    SERVICE_L2_STATUSES,
    SERVICES,
    Resource,
)
from lab.apiserver.server import Listen, Running, start
from lab.client import administrator

NAMESPACE = "metallb-system"
LABELS = {"app": "metallb", "component": "speaker"}
CRDS = Path(__file__).parents[1] / "manifests" / "crds"
CUSTOM_RESOURCES = Resource(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", RawObject, namespaced=False
)


@dataclass
class Cluster:
    """An API server's kubeconfig and an administrator's client. `server` is there if it runs in this process."""

    kubeconfig: Path
    client: KubeClient
    server: Running | None = None

    async def node(self, name: str, **labels: str) -> None:
        """Create a Node."""
        await self.client.create(NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}})

    async def speaker_pod(self, node: str, address: str) -> str:
        """Create the Pod of a speaker, running; its uid."""
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"speaker-{node}", "labels": LABELS},
            "spec": {"nodeName": node, "hostNetwork": True, "containers": [{"name": "speaker", "image": "speaker"}]},
        }
        made = await self.client.create(PODS, body, namespace=NAMESPACE)
        status = {"status": {"phase": "Running", "podIP": address, "hostIP": address}}
        await self.client.patch(PODS, made.metadata.name, status, namespace=NAMESPACE, subresource="status")
        return made.metadata.uid

    async def configure(self, addresses: str = "192.0.2.0/24") -> None:
        """Create a pool and an advertisement, both named default."""
        for resource, spec in (
            (IP_ADDRESS_POOLS, {"addresses": [addresses]}),
            (L2_ADVERTISEMENTS, {"ipAddressPools": ["default"]}),
        ):
            body = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": "default"}, "spec": spec}
            await self.client.create(resource, body, namespace=NAMESPACE)

    async def service(self, name: str, address: str = "", *, ready_on: str = "a") -> None:
        """Create a Service of type LoadBalancer with an endpoint, and give it an address as the controller would."""
        spec = {"type": "LoadBalancer", "ports": [{"name": "http", "port": 80}], "selector": {"app": name}}
        body: dict[str, Any] = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}
        await self.client.create(SERVICES, body, namespace="default")
        part = {
            "apiVersion": ENDPOINT_SLICES.api_version,
            "kind": ENDPOINT_SLICES.kind,
            "metadata": {"name": f"{name}-1", "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.0.0.1"], "nodeName": ready_on, "conditions": {"ready": True}}],
            "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
        }
        await self.client.create(ENDPOINT_SLICES, part, namespace="default")
        if address:
            await self.give(name, address)

    async def give(self, name: str, *addresses: str) -> None:
        """Write addresses into a Service's status."""
        status = {"status": {"loadBalancer": {"ingress": [{"ip": one} for one in addresses]}}}
        await self.client.patch(SERVICES, name, status, namespace="default", subresource="status")

    async def statuses(self) -> list[RawObject]:
        """All ServiceL2Status objects."""
        listed, _ = await self.client.list(SERVICE_L2_STATUSES, namespace=NAMESPACE)
        return listed


@asynccontextmanager
async def prepared(kubeconfig: Path) -> AsyncIterator[Cluster]:
    """The cluster behind a kubeconfig, with CRDs and the speaker's namespace."""
    client = await KubeClient.connect(administrator(kubeconfig))
    try:
        for path in sorted(CRDS.glob("*.yaml")):
            await client.create(CUSTOM_RESOURCES, yaml.safe_load(path.read_text(encoding="utf-8")))
        await client.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        yield Cluster(kubeconfig, client)
    finally:
        await client.close()


@asynccontextmanager
async def a_cluster(state: Path) -> AsyncIterator[Cluster]:
    """A new API server in this process, for the time of the block."""
    server = await start([Listen("127.0.0.1", 0)], state)
    try:
        async with prepared(server.kubeconfig) as cluster:
            cluster.server = server
            yield cluster
    finally:
        await server.close()
