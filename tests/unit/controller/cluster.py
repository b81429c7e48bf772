"""The controller in this process against the lab's API server: what the tests of its shells share."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from config import crd
from config.model import PoolName
from controller.run import serve
from controller.settings import Settings, settings
from kube import objects
from kube.auth import Credentials
from kube.client import KubeClient, PatchKind
from kube.objects import RawObject
from kube.resources import EVENTS, IP_ADDRESS_POOLS, NAMESPACES, SERVICES, Resource
from lab.apiserver.server import Served
from lab.apiserver.testing import access_to, running_server
from tests.builders import NAMESPACE, a_pool_document

CUSTOM_RESOURCES = Resource(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", RawObject, namespaced=False
)
OUTPUT = "metallb.io/ip-allocated-from-pool"
DEADLINE_S = 20.0
R = TypeVar("R")


async def until(condition: Callable[[], Awaitable[R]]) -> R:
    """What the condition returns once that is true."""
    async with asyncio.timeout(DEADLINE_S):
        while not (result := await condition()):  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)
    return result


@asynccontextmanager
async def client_of(server: Served, token: str | None = None) -> AsyncIterator[KubeClient]:
    """A client as the administrator, or with another token."""
    client = await KubeClient.connect(Credentials(lambda: access_to(server, token)))
    try:
        yield client
    finally:
        await client.close()


def chosen(tmp_path: Path, *flags: str) -> Settings:
    """Settings of a controller without listeners, but for its status socket."""
    own = [
        "--port=0",
        "--health-probe-port=0",
        "--webhook-mode=disabled",
        f"--namespace={NAMESPACE}",
        f"--status-socket={tmp_path / 'controller.sock'}",
    ]
    return settings([*own, *flags], {})


@asynccontextmanager
async def controlled(server: Served, tmp_path: Path, *flags: str, token: str | None = None) -> AsyncIterator[None]:
    """A controller that runs as long as the block."""
    stop = asyncio.Event()
    async with client_of(server, token) as client, asyncio.TaskGroup() as group:
        group.create_task(serve(chosen(tmp_path, *flags), client, stop), name="controller")
        try:
            yield
        finally:
            stop.set()


@dataclass
class Cluster:
    """An API server with our custom resources and namespace; short verbs for what users do."""

    server: Served
    client: KubeClient
    path: Path

    def controlled(self, *flags: str, token: str | None = None) -> Any:
        return controlled(self.server, self.path, *flags, token=token)

    async def pool(self, name: str = "default", *ranges: str, **spec: object) -> RawObject:
        document = a_pool_document(name, ranges or ("192.168.20.20-192.168.20.22",))
        document["spec"] |= spec
        document["metadata"] = {"name": name, "namespace": NAMESPACE}
        return await self.client.create(IP_ADDRESS_POOLS, document, namespace=NAMESPACE)

    async def change_pool(self, name: str, **spec: object) -> RawObject:
        return await self.client.patch(IP_ADDRESS_POOLS, name, {"spec": spec}, namespace=NAMESPACE)

    async def service(self, name: str = "web", *, annotations: dict[str, str] | None = None, **spec: object) -> objects.Service:
        document = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "annotations": annotations or {}},
            "spec": {"type": "LoadBalancer", "ports": [{"name": "http", "port": 80}], "selector": {"app": name}, **spec},
        }
        return await self.client.create(SERVICES, document, namespace="default")

    async def get(self, name: str = "web") -> objects.Service:
        return await self.client.get(SERVICES, name, "default")

    async def change(self, name: str, **patch: object) -> objects.Service:
        return await self.client.patch(SERVICES, name, patch, namespace="default")

    async def write_status(self, name: str, *ingress: dict[str, str], pool: PoolName | None = None) -> objects.Service:
        metadata = {"annotations": {OUTPUT: pool}} if pool else {}
        patch = {"metadata": metadata, "status": {"loadBalancer": {"ingress": list(ingress)}}}
        return await self.client.patch(SERVICES, name, patch, namespace="default", subresource="status", kind=PatchKind.MERGE)

    async def address(self, name: str = "web") -> str:
        """The addresses of a Service once there are any."""

        async def there() -> str:
            return ips(await self.get(name))

        return await until(there)

    async def events(self, name: str, namespace: str = "default") -> list[tuple[str, str, str]]:
        """Type, reason and message of the Events about an object, oldest first."""
        some, _ = await self.client.list(EVENTS, namespace=namespace, field_selector=f"involvedObject.name={name}")
        documents = sorted((one.document for one in some), key=lambda one: int(one["metadata"]["resourceVersion"]))
        return [(one["type"], one["reason"], one["message"]) for one in documents]

    async def event(self, name: str, reason: str, namespace: str = "default") -> str:
        """The message of the latest Event with this reason, once there is one."""

        async def there() -> str:
            return next((note for _, why, note in reversed(await self.events(name, namespace)) if why == reason), "")

        return await until(there)

    async def ask(self, path: str = "/status") -> bytes:
        """What the controller answers on its socket."""

        async def connected() -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
            try:
                return await asyncio.open_unix_connection(str(self.path / "controller.sock"))
            except OSError:
                return None

        connection = await until(connected)
        assert connection is not None
        reader, writer = connection
        writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        await writer.drain()
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer.partition(b"\r\n\r\n")[2]

    async def status(self) -> dict[str, Any]:
        """What the controller says about itself."""
        said: dict[str, Any] = json.loads(await self.ask())
        return said

    async def quiet(self) -> None:
        """Return once the controller has decided everything it knows and written it."""

        async def idle() -> bool:
            said = await self.status()
            return bool(said["world"]["ready"] and not said["pending_writes"])

        await until(idle)


@asynccontextmanager
async def a_cluster(
    tmp_path: Path, serve: Callable[[Path], AbstractAsyncContextManager[Served]] = running_server
) -> AsyncIterator[Cluster]:
    """An API server on loopback with our CRDs and namespace."""
    async with serve(tmp_path / "api") as server, client_of(server) as client:
        for text in crd.files().values():
            await client.create(CUSTOM_RESOURCES, yaml.safe_load(text))
        await client.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        yield Cluster(server, client, tmp_path)


def ips(service: objects.Service) -> str:
    """The addresses in a status, separated by blanks."""
    return " ".join(entry.ip for entry in service.status.load_balancer.ingress or ())


def annotation(service: objects.Service) -> str | None:
    """The output annotation."""
    return (service.metadata.annotations or {}).get(OUTPUT)
