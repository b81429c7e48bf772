"""Watch what the ingress stand-in serves, and bring nginx and the Ingresses' status in line with it."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from kube import resources
from kube.client import KubeClient
from kube.errors import KubeError
from kube.informer import Reflector
from kube.objects import ConfigMap, EndpointSlice, Secret, Service
from kube.resources import Resource
from kube.store import Store, everything
from lab.ingress import nginx, routing
from lab.ingress.certificates import CertificateError, fake_pem, pem_of
from lab.ingress.kinds import INGRESS_CLASSES, INGRESSES, Ingress, IngressClass
from lab.ingress.proxy import Proxy, RefusedError
from lab.ingress.routing import Stream, Target
from lab.ingress.settings import CONFIG, choose
from telemetry.log import get_logger

log = get_logger(__name__)


class Controller:
    """Mirrors what is needed, and acts when any of it changes."""

    def __init__(self, client: KubeClient, proxy: Proxy, flags: argparse.Namespace) -> None:
        self._client = client
        self._proxy = proxy
        self._flags = flags
        self._ingresses: Store[Ingress] = Store()
        self._classes: Store[IngressClass] = Store()
        self._services: Store[Service] = Store()
        self._slices: Store[EndpointSlice] = Store()
        self._secrets: Store[Secret] = Store()
        self._config_maps: Store[ConfigMap] = Store()
        self._dirty = asyncio.Event()
        self._fake = proxy.keep(fake_pem())
        self._said: set[str] = set()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            pairs: list[tuple[Resource[Any], Store[Any]]] = [
                (INGRESSES, self._ingresses),
                (INGRESS_CLASSES, self._classes),
                (resources.SERVICES, self._services),
                (resources.ENDPOINT_SLICES, self._slices),
                (resources.SECRETS, self._secrets),
                (resources.CONFIG_MAPS, self._config_maps),
            ]
            for resource, store in pairs:
                mirror = Reflector(self._client, resource, store, dirty=self._dirty, fingerprint=everything, log=log)
                group.create_task(mirror.run(), name=f"mirror {resource.plural}")
            while True:
                await self._dirty.wait()
                self._dirty.clear()
                if all(store.synced for _, store in pairs):
                    await self._reconcile()

    async def _reconcile(self) -> None:
        classes = {str(key): each for key, each in self._classes.snapshot().items()}
        mine = [
            each
            for each in self._ingresses.snapshot().values()
            if routing.ours(each, classes, controller=self._flags.controller_class, annotation=self._flags.ingress_class)
        ]
        services = {str(key): each for key, each in self._services.snapshot().items()}
        config, problems = choose(self._config_map(self._flags.configmap), CONFIG, of=f"ConfigMap {self._flags.configmap}")
        certificates, names, wrong = self._certificates(mine)
        problems += wrong
        namespace, _, name = self._flags.default_backend_service.partition("/")
        default = Target(namespace, name) if name else None
        servers, wrong = routing.servers(mine, names, default=default)
        problems += wrong
        streams, wrong = self._streams()
        problems += wrong
        slices = list(self._slices.snapshot().values())
        targets = {location.target for server in servers for location in server.locations}
        targets |= {server.fallback for server in servers if server.fallback is not None}
        ground = nginx.Ground(
            config=config,
            certificates=certificates,
            request_headers=self._config_map(config["proxy-set-headers"]),
            response_headers=self._config_map(config["add-headers"]),
        )
        http = nginx.http(
            servers, {each: routing.addresses(each, services, slices, protocol="TCP") for each in targets}, ground
        )
        stream = nginx.stream(
            {each: routing.addresses(each.target, services, slices, protocol=each.protocol) for each in streams}, config
        )
        try:
            await self._proxy.serve(http, stream)
        except RefusedError as error:
            problems.append(f"nginx refuses the configuration, the one before stays in force: {error}")
        self._say(problems)
        published = services.get(self._flags.publish_service)
        ingress = (published.status.load_balancer.ingress if published else None) or ()
        reached = [{"ip": each.ip} if each.ip else {"hostname": each.hostname} for each in ingress]
        for each in mine:
            await self._report(each, reached)

    def _say(self, problems: Sequence[str]) -> None:
        """Log what is wrong, each thing once for as long as it lasts."""
        for problem in problems:
            if problem not in self._said:
                log.warning("ingress_problem", problem=problem)
        self._said = set(problems)

    def _config_map(self, key: str) -> Mapping[str, str]:
        found = next((each for each in self._config_maps.snapshot().values() if each.key == key), None) if key else None
        return (found.data if found else None) or {}

    def _streams(self) -> tuple[list[Stream], list[str]]:
        found: list[Stream] = []
        problems: list[str] = []
        for protocol, key in (("TCP", self._flags.tcp_services_configmap), ("UDP", self._flags.udp_services_configmap)):
            some, wrong = routing.streams(
                self._config_map(key), protocol=protocol, reserved=nginx.RESERVED, of=f"ConfigMap {key}"
            )
            found += some
            problems += wrong
        return found, problems

    def _certificates(self, mine: Sequence[Ingress]) -> tuple[dict[str, str], dict[str, tuple[str, ...]], list[str]]:
        """Paths of PEM files and names by Secret, of the Secrets that are used, and what is wrong with the others."""
        wanted = {
            f"{each.metadata.namespace}/{tls.secret_name}" for each in mine for tls in each.spec.tls or () if tls.secret_name
        }
        default = self._flags.default_ssl_certificate
        secrets = {str(key): each for key, each in self._secrets.snapshot().items()}
        paths: dict[str, str] = {"": self._fake}
        names: dict[str, tuple[str, ...]] = {}
        problems = []
        for key in sorted(wanted | ({default} if default else set())):
            if key not in secrets:
                problems.append(f"there is no Secret {key}; the default certificate is shown")
                continue
            try:
                pem, names[key] = pem_of(secrets[key])
            except CertificateError as error:
                problems.append(f"{error}; the default certificate is shown")
                continue
            paths[key] = self._proxy.keep(pem)
        if default in paths:
            paths[""] = paths[default]
        return paths, names, problems

    async def _report(self, ingress: Ingress, reached: Sequence[Mapping[str, str]]) -> None:
        """Write into an Ingress at which addresses it is reached."""
        now = [
            {"ip": each.ip} if each.ip else {"hostname": each.hostname} for each in ingress.status.load_balancer.ingress or ()
        ]
        if now == list(reached):
            return
        patch = {"status": {"loadBalancer": {"ingress": list(reached)}}}
        meta = ingress.metadata
        try:
            await self._client.patch(INGRESSES, meta.name, patch, namespace=meta.namespace, subresource="status")
        except KubeError as error:
            log.warning("ingress_status_not_written", ingress=ingress.key, error=str(error))
