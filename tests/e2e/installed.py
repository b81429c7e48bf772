"""The product in the session's lab, for tests of its controller: short words for what users do, and what they see of it.

The controller is the process that the manifests start, under the Roles written there. Used by test_metallb_*.py.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import yaml

from kube.client import KubeClient
from kube.errors import AlreadyExists, KubeError, NotFound
from kube.objects import RawObject, Service
from kube.resources import EVENTS, IP_ADDRESS_POOLS, NAMESPACES, SERVICES, Resource, resource_of
from lab import daemons
from lab.client import administrator
from lab.scenarios.stage import SYSTEM, Stage
from tests.e2e.conftest import Lab

T = TypeVar("T")
HOME: Final = "parity"
DEADLINE_S: Final = 30.0
CONDITION: Final = "lb.metallb-py.io/AddressAssigned"
OLD_PEERS: Final = Resource("metallb.io", "v1beta1", "bgppeers", "BGPPeer", RawObject)
WRITTEN: Final = ("BGPAdvertisement", "BGPPeer", "BFDProfile", "Community", "L2Advertisement", "IPAddressPool")
"""The kinds that users write, those that others name last."""


async def until(found: Callable[[], Awaitable[T | None]], what: str) -> T:
    """What the look returns once that is something."""
    deadline = time.monotonic() + DEADLINE_S
    while not (result := await found()):
        assert time.monotonic() < deadline, f"not seen within {DEADLINE_S:g} s: {what}"
        await asyncio.sleep(0.02)
    return result


def install(lab: Lab) -> None:
    """Apply the manifests, unless they are, and wait until controller and speakers are ready."""

    async def installed() -> None:
        async with Stage.opened(lab.paths) as stage:
            await stage.install()

    asyncio.run(installed())


@dataclass(frozen=True, slots=True)
class Installed:
    """A lab with the product, and its administrator's client."""

    lab: Lab
    kube: KubeClient

    async def write(self, kind: str | Resource[Any], name: str, *, namespace: str = SYSTEM, labels: Mapping[str, str] = {}, **spec: Any) -> RawObject:  # fmt: skip
        """Create a configuration object."""
        resource = resource_of(kind) if isinstance(kind, str) else kind
        document = {
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {"name": name, "labels": dict(labels)},
            "spec": spec,
        }
        created: RawObject = await self.kube.create(resource, document, namespace=namespace)
        return created

    async def pool(self, name: str, *ranges: str, **spec: Any) -> RawObject:
        return await self.write("IPAddressPool", name, addresses=list(ranges), **spec)

    async def change_pool(self, name: str, *ranges: str) -> None:
        await self.kube.patch(IP_ADDRESS_POOLS, name, {"spec": {"addresses": list(ranges)}}, namespace=SYSTEM)

    async def drop_pool(self, name: str) -> None:
        await self.kube.delete(IP_ADDRESS_POOLS, name, namespace=SYSTEM)

    async def namespace(self, name: str, **labels: str) -> str:
        """A namespace with these labels."""
        document = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        try:
            await self.kube.create(NAMESPACES, document)
        except AlreadyExists:
            await self.kube.patch(NAMESPACES, name, {"metadata": {"labels": labels}})
        return name

    async def service(
        self, name: str = "web", *, namespace: str = HOME, annotations: Mapping[str, str] = {}, labels: Mapping[str, str] = {}, **spec: Any
    ) -> None:  # fmt: skip
        """Create a Service of type LoadBalancer."""
        document = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "annotations": dict(annotations), "labels": dict(labels)},
            "spec": {"type": "LoadBalancer", "ports": [{"port": 80}], "selector": {"app": "web"}, **spec},
        }
        await self.kube.create(SERVICES, document, namespace=namespace)

    async def change(self, name: str, **spec: Any) -> None:
        await self.kube.patch(SERVICES, name, {"spec": spec}, namespace=HOME)

    async def drop(self, name: str) -> None:
        await self.kube.delete(SERVICES, name, namespace=HOME)

    async def get(self, name: str = "web", namespace: str = HOME) -> Service:
        return await self.kube.get(SERVICES, name, namespace)

    async def has(self, name: str, *expected: str, namespace: str = HOME) -> None:
        """Return once a Service shows exactly these addresses; none means that it is told why it has none."""

        async def so() -> bool:
            service = await self.get(name, namespace)
            if expected:
                return addresses(service) == expected
            refused = [one for one in service.status.conditions or () if one.type == CONDITION and one.status == "False"]
            return addresses(service) == () and bool(refused)

        await until(so, f"{name} with {expected or 'no address and a reason'}")

    async def told(self, name: str, reason: str) -> str:
        """The text of an Event about a Service."""

        async def look() -> str:
            events, _ = await self.kube.list(EVENTS, namespace=HOME, field_selector=f"involvedObject.name={name}")
            return next((one.document["message"] for one in events if one.document["reason"] == reason), "")

        return await until(look, f"an Event {reason} about {name}")

    def controllers(self) -> dict[str, int]:
        """The controller's processes by Pod."""
        return self.lab.pids("controller-")

    async def decides(self, *, instead_of: Mapping[str, int]) -> None:
        """Return once one controller that is not one of these has decided about everything and written it."""

        async def so() -> bool:
            if len(now := self.controllers()) != 1 or set(now.values()) & set(instead_of.values()):
                return False
            said = [one for one in await daemons.statuses(self.lab.paths) if one.get("component") == "controller"]
            return len(said) == 1 and bool(said[0]["world"]["ready"]) and not said[0]["pending_writes"]

        await until(so, "the controller's decisions")

    async def ready(self) -> None:
        """Return once one controller is there and serves webhooks."""

        async def so() -> bool:
            pods = [one for one in self.lab.status()["pods"] if one["name"].startswith("controller-")]
            return len(pods) == 1 and bool(pods[0]["ready"])

        await until(so, "the controller ready")

    async def metrics(self) -> str:
        """What the controller's metrics port says to the administrator."""
        (pod,) = (one for one in self.lab.status()["pods"] if one["name"].startswith("controller-"))
        config = yaml.safe_load(self.lab.paths.kubeconfig.read_text(encoding="utf-8"))
        header = f"Authorization: Bearer {config['users'][0]['user']['token']}"
        done = self.lab.run_on(pod["node"], "curl", "-sk", "-H", header, f"https://{pod['ip']}:9120/metrics")
        return done.stdout

    async def metered(self, entry: str, advertisement: str, **spec: Any) -> None:
        """A pool with this entry is in the metrics, without and with a Service that has its address."""
        four, six = ("256.0", "0.0") if "." in entry else ("0.0", "9.223372036854776e+18")
        name = '{pool="metered"}'

        async def shows(in_use: int) -> None:
            wanted = {
                f"metallb_allocator_addresses_total{name} {four if four != '0.0' else six}",
                f"metallb_allocator_ipv4_addresses_total{name} {four}",
                f"metallb_allocator_ipv6_addresses_total{name} {six}",
                f"metallb_allocator_addresses_in_use_total{name} {in_use}.0",
                f"metallb_allocator_ipv{4 if '.' in entry else 6}_addresses_in_use_total{name} {in_use}.0",
                "metallb_k8s_client_config_loaded_bool 1.0",
                "metallb_k8s_client_config_stale_bool 0.0",
            }

            async def all_there() -> bool:
                return wanted <= set((await self.metrics()).splitlines())

            await until(all_there, "\n".join(sorted(wanted)))

        await self.pool("metered", entry)
        await self.write(advertisement, "metered", ipAddressPools=["metered"])
        await shows(0)
        await self.service(**spec)
        await self.has("web", entry.partition("/")[0])
        await shows(1)

    async def clear(self) -> None:
        """Take away every Service with an address and everything users configured."""
        services, _ = await self.kube.list(SERVICES)
        for service in services:
            if service.spec.type == "LoadBalancer" or service.metadata.namespace == HOME:
                await self._delete(SERVICES, service.metadata.name, service.metadata.namespace)
        for kind in WRITTEN:
            objects, _ = await self.kube.list(resource_of(kind), namespace=SYSTEM)
            for one in objects:
                await self._delete(resource_of(kind), one.metadata.name, SYSTEM)

    async def _delete(self, resource: Resource[Any], name: str, namespace: str) -> None:
        try:
            await self.kube.delete(resource, name, namespace=namespace)
        except NotFound:
            return


def addresses(service: Service) -> tuple[str, ...]:
    """The addresses in a status."""
    return tuple(one.ip for one in service.status.load_balancer.ingress or ())


@asynccontextmanager
async def opened(lab: Lab) -> AsyncIterator[Installed]:
    """The lab without Services or configuration, before and after."""
    kube = await KubeClient.connect(administrator(lab.paths.kubeconfig), user_agent="parity")
    try:
        found = Installed(lab, kube)
        await found.clear()
        await found.namespace(HOME)
        try:
            yield found
        finally:
            await found.clear()
    finally:
        await kube.close()


async def refused(attempt: Awaitable[object]) -> str:
    """Why the API server refused something.

    Raises:
        AssertionError: it did not.

    """
    try:
        await attempt
    except KubeError as error:
        return error.message
    raise AssertionError("it was accepted")
