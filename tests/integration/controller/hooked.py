"""A cluster whose API server asks webhooks over HTTPS, served by a controller or by the parts that webhooks need."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.admission import WebhookServer
from controller.certificates import VALIDATORS, VALIDATORS_NAME, Keeper, host_name
from controller.webhook_pki import Pair, from_data
from kube.client import KubeClient
from kube.errors import Forbidden, KubeError
from kube.objects import RawObject
from kube.resources import ENDPOINT_SLICES, SECRETS, SERVICES, Resource
from lab import realapi
from tests.builders import NAMESPACE
from tests.unit.controller.cluster import Cluster, a_cluster, until

ROOT = Path(__file__).parents[3]
MANIFEST = ROOT / "manifests" / "base" / "25-webhooks.yaml"
SERVICE, SECRET = "metallb-webhook-service", "metallb-webhook-cert"
HOST = host_name(SERVICE, NAMESPACE)
PEER: dict[str, Any] = {"myASN": 64512, "peerASN": 64513, "peerAddress": "192.0.2.1"}
CLIENTS: dict[str, Resource[Any]] = {"Secret": SECRETS, "Service": SERVICES, "ValidatingWebhookConfiguration": VALIDATORS}


def kind(name: str, plural: str, version: str = "v1beta1") -> Resource[RawObject]:
    return Resource("metallb.io", version, plural, name, RawObject)


PEERS, OLD_PEERS = kind("BGPPeer", "bgppeers", "v1beta2"), kind("BGPPeer", "bgppeers")
ADS, PROFILES, COMMUNITIES = (
    kind("BGPAdvertisement", "bgpadvertisements"),
    kind("BFDProfile", "bfdprofiles"),
    kind("Community", "communities"),
)


def a_free_port() -> int:
    with socket.create_server(("", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def own_address() -> str:
    """Where the API server reaches this process. A real one refuses endpoints on loopback, so then it is an address of this machine."""
    if realapi.assets() is None:
        return "127.0.0.1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # Sends nothing: the kernel says which address it would send from.
        address: str = probe.getsockname()[0]
        return address


@dataclass
class Hooked:
    """A cluster whose API server asks webhooks."""

    cluster: Cluster
    port: int

    @property
    def client(self) -> KubeClient:
        return self.cluster.client

    def flags(self, *more: str) -> tuple[str, ...]:
        return ("--webhook-mode=onlywebhook", f"--webhook-port={self.port}", *more)

    async def create(
        self, resource: Resource[RawObject], name: str = "x", namespace: str = NAMESPACE, **spec: Any
    ) -> RawObject:
        document = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": name}, "spec": spec}
        return await self.client.create(resource, document, namespace=namespace)

    async def refused(self, resource: Resource[RawObject], name: str = "x", namespace: str = NAMESPACE, **spec: Any) -> str:
        with pytest.raises(Forbidden) as caught:
            await self.create(resource, name, namespace, **spec)
        return caught.value.message

    async def secret(self) -> Pair | None:
        return from_data((await self.client.get(SECRETS, SECRET, NAMESPACE)).data or {})

    async def until_served(self) -> None:
        async def served() -> bool:
            try:
                await self.create(COMMUNITIES, "probe")
            except KubeError:
                return False
            await self.client.delete(COMMUNITIES, "probe", namespace=NAMESPACE)
            return True

        assert await until(served)

    async def policy(self, policy: str) -> None:
        raw = await self.client.get(VALIDATORS, VALIDATORS_NAME)
        document = raw.document
        for hook in document["webhooks"]:
            hook["failurePolicy"] = policy
        await self.client.update(VALIDATORS, VALIDATORS_NAME, document)


@asynccontextmanager
async def hooked(tmp_path: Path, *, kinds: tuple[str, ...] = tuple(CLIENTS)) -> AsyncIterator[Hooked]:
    """A cluster with our manifest of webhooks, and an endpoint for their Service at a free port of this machine."""
    async with a_cluster(tmp_path) as cluster:
        port = a_free_port()
        for document in yaml.safe_load_all(MANIFEST.read_text()):
            resource = CLIENTS[document["kind"]]
            if document["kind"] in kinds:
                await cluster.client.create(resource, document, namespace=NAMESPACE if resource.namespaced else None)
        endpoints = {
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "webhooks", "labels": {"kubernetes.io/service-name": SERVICE}},
            "endpoints": [{"addresses": [own_address()], "conditions": {"ready": True}}], "ports": [{"name": "webhooks", "port": port}],
        }  # fmt: skip
        await cluster.client.create(ENDPOINT_SLICES, endpoints, namespace=NAMESPACE)
        yield Hooked(cluster, port)


@asynccontextmanager
async def running(keeper: Keeper, server: WebhookServer) -> AsyncIterator[None]:
    """Webhooks without the rest of a controller."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(keeper.run()), group.create_task(server.run())]
        tasks += [group.create_task(reflector.run()) for _, reflector in keeper.reflectors()]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
