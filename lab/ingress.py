"""A stand-in for ingress-nginx in the lab: watches Ingress objects, writes an nginx configuration, runs this machine's nginx.

lab.images starts it for the image registry.k8s.io/ingress-nginx/controller, with the flags of the real one; those it does not
know are named in the log and ignored. It is for the lab only: it routes by host and path (Exact, Prefix), with several hosts
on one address, a default backend for what no Ingress claims, and writes the publish service's addresses into the Ingress'
status. It refuses to know about TLS, annotations and the ConfigMap. manifests/ingress-nginx/ deploys the real one.

The first half of this module is pure: `routes` and `configuration` turn objects into text. Endpoints are written into the
configuration directly, as the real one balances over Pods and not over the Service.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from kube.auth import Credentials
from kube.client import KubeClient
from kube.errors import KubeError
from kube.informer import Reflector
from kube.objects import EndpointSlice, LoadBalancerIngress, Service, View
from kube.resources import ENDPOINT_SLICES, SERVICES, Resource
from kube.store import Store, everything
from lab.images import NGINX, nginx_configuration
from telemetry import log as telemetry_log
from telemetry.log import get_logger

SERVICE_NAME_LABEL: Final = "kubernetes.io/service-name"
CLASS_ANNOTATION: Final = "kubernetes.io/ingress.class"
HEALTH_PORT: Final = 10254
_HOST: Final = re.compile(r"(\*\.)?[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_PATH: Final = re.compile(r"/[-A-Za-z0-9._~!$&()*+,=:@%/]*")
_WORD: Final = re.compile(r"[^a-zA-Z0-9]")

log = get_logger(__name__)


class BackendPort(msgspec.Struct, frozen=True, kw_only=True):
    """A port of a Service, by number or by name."""

    number: int = 0
    name: str = ""


class BackendService(msgspec.Struct, frozen=True, kw_only=True):
    """A port of a Service in the namespace of the Ingress."""

    name: str = ""
    port: BackendPort = BackendPort()


class Backend(msgspec.Struct, frozen=True, kw_only=True):
    """Where requests go."""

    service: BackendService | None = None


class HttpPath(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A path and its backend."""

    path: str = "/"
    path_type: str = "Prefix"
    backend: Backend = Backend()


class HttpPaths(msgspec.Struct, frozen=True, kw_only=True):
    """The paths of a host."""

    paths: tuple[HttpPath, ...] = ()


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """A host; without a name, every host."""

    host: str = ""
    http: HttpPaths | None = None


class IngressSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What the user asks of an Ingress."""

    ingress_class_name: str = ""
    default_backend: Backend | None = None
    rules: tuple[Rule, ...] | None = None


class AddressList(msgspec.Struct, frozen=True, kw_only=True):
    """Addresses of an Ingress."""

    ingress: tuple[LoadBalancerIngress, ...] | None = None


class IngressStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """At which addresses an Ingress answers."""

    load_balancer: AddressList = AddressList()


class Ingress(View, frozen=True, kw_only=True):
    """networking.k8s.io/v1 Ingress."""

    spec: IngressSpec = IngressSpec()
    status: IngressStatus = IngressStatus()


class IngressClassSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Which controller a class belongs to."""

    controller: str = ""


class IngressClass(View, frozen=True, kw_only=True):
    """networking.k8s.io/v1 IngressClass."""

    spec: IngressClassSpec = IngressClassSpec()


INGRESSES: Final = Resource("networking.k8s.io", "v1", "ingresses", "Ingress", Ingress)
INGRESS_CLASSES: Final = Resource("networking.k8s.io", "v1", "ingressclasses", "IngressClass", IngressClass, namespaced=False)


@dataclass(frozen=True, slots=True)
class Target:
    """A port of a Service. `port` is its number or name; empty: its first."""

    namespace: str
    service: str
    port: int | str = ""

    @property
    def upstream(self) -> str:
        """The name of the nginx upstream."""
        return _WORD.sub("_", f"{self.namespace}-{self.service}-{self.port}")


@dataclass(frozen=True, slots=True, order=True)
class Route:
    """Requests for a host (empty: any) and a path. An Exact path wins over a Prefix, a longer Prefix over a shorter."""

    host: str
    path: str
    exact: bool
    target: Target


def ours(ingress: Ingress, classes: Mapping[str, IngressClass], *, controller: str, annotation: str) -> bool:
    """Whether an Ingress is meant for us: by its class' controller, else by the old annotation."""
    if ingress.spec.ingress_class_name:
        known = classes.get(ingress.spec.ingress_class_name)
        return known is not None and known.spec.controller == controller
    return (ingress.metadata.annotations or {}).get(CLASS_ANNOTATION) == annotation


def routes(ingresses: Iterable[Ingress]) -> list[Route]:
    """The routes that Ingresses ask for. Where two ask for the same host and path, the older Ingress has it."""
    found: dict[tuple[str, str, bool], Route] = {}
    for ingress in sorted(ingresses, key=lambda each: (each.metadata.creation_timestamp, each.key)):
        for rule in ingress.spec.rules or ():
            for path in rule.http.paths if rule.http else ():
                target = _target(ingress, path.backend)
                if target is None or not _PATH.fullmatch(path.path) or (rule.host and not _HOST.fullmatch(rule.host)):
                    continue
                route = Route(rule.host, path.path, path.path_type == "Exact", target)
                found.setdefault((route.host, _normal(route), route.exact), route)
        target = _target(ingress, ingress.spec.default_backend) if ingress.spec.default_backend else None
        if target is not None:
            found.setdefault(("", "/", False), Route("", "/", exact=False, target=target))
    return sorted(found.values(), key=lambda route: (route.host, route.path, route.exact))


def _normal(route: Route) -> str:
    return route.path if route.exact else route.path.rstrip("/") or "/"


def _target(ingress: Ingress, backend: Backend) -> Target | None:
    if backend.service is None:
        return None
    port = backend.service.port
    return Target(ingress.metadata.namespace, backend.service.name, port.number or port.name)


def addresses(target: Target, services: Mapping[str, Service], slices: Iterable[EndpointSlice]) -> list[str]:
    """The ready endpoints of a target as address:port."""
    service = services.get(f"{target.namespace}/{target.service}")
    if service is None:
        return []
    port = next((p for p in service.spec.ports or () if target.port in {"", p.port, p.name}), None)
    if port is None:
        return []
    found = {
        f"{address}:{number.port}"
        for each in slices
        if each.metadata.namespace == target.namespace
        and (each.metadata.labels or {}).get(SERVICE_NAME_LABEL) == target.service
        and each.address_type == "IPv4"
        for number in each.ports or ()
        if (number.name or "") == port.name and number.port is not None
        for endpoint in each.endpoints or ()
        if endpoint.conditions.ready is not False
        for address in endpoint.addresses
    }
    return sorted(found)


def configuration(wanted: Sequence[Route], upstreams: Mapping[Target, Sequence[str]], default: Target | None) -> str:
    """The http block of nginx. A target without endpoints answers 503; without a default backend, unclaimed requests get 404."""
    lines = [
        "server_tokens off;",
        "server_names_hash_bucket_size 256;",
        "proxy_http_version 1.1;",
        "proxy_set_header Connection '';",
        "proxy_set_header Host $host;",
        "proxy_set_header X-Real-IP $remote_addr;",
        "proxy_set_header X-Forwarded-For $remote_addr;",
        "proxy_set_header X-Forwarded-Host $host;",
        "proxy_set_header X-Forwarded-Proto $scheme;",
        "proxy_connect_timeout 1s;",  # A Pod on a node without power does not answer; the next one will.
        f"server {{ listen {HEALTH_PORT}; location = /healthz {{ return 200; }} location / {{ return 404; }} }}",
    ]
    for target, endpoints in sorted(upstreams.items(), key=lambda item: item[0].upstream):
        if endpoints:
            servers = " ".join(f"server {endpoint};" for endpoint in endpoints)
            lines.append(f"upstream {target.upstream} {{ {servers} }}")
    hosts = sorted({route.host for route in wanted} | {""})
    for host in hosts:
        lines.append(f"server {{ listen 80{'' if host else ' default_server'}; server_name {host or '_'};")
        mine = [route for route in wanted if route.host == host]
        lines += _locations(mine, upstreams)
        if not any(_normal(route) == "/" and not route.exact for route in mine):
            lines.append(f"  location / {{ {_pass(default, upstreams) if default else 'return 404;'} }}")
        lines.append("}")
    return "\n    ".join(lines)


def _locations(mine: Sequence[Route], upstreams: Mapping[Target, Sequence[str]]) -> list[str]:
    """The locations of one host. A Prefix matches whole path elements: /a is for /a and /a/b, not for /ab."""
    lines = []
    exact = {route.path for route in mine if route.exact}
    for route in mine:
        passing = _pass(route.target, upstreams)
        path = _normal(route)
        if route.exact:
            lines.append(f'  location = "{path}" {{ {passing} }}')
        elif path == "/":
            lines.append(f"  location / {{ {passing} }}")
        else:
            if path not in exact:
                lines.append(f'  location = "{path}" {{ {passing} }}')
            lines.append(f'  location "{path}/" {{ {passing} }}')
    return lines


def _pass(target: Target, upstreams: Mapping[Target, Sequence[str]]) -> str:
    return f"proxy_pass http://{target.upstream};" if upstreams.get(target) else "return 503;"


class Proxy:
    """nginx with a configuration that changes."""

    def __init__(self, here: Path) -> None:
        self._here = here
        self._written = ""
        self._process: asyncio.subprocess.Process | None = None
        self._started = asyncio.Event()
        (here / "temporary").mkdir(parents=True, exist_ok=True)

    async def serve(self, http: str) -> None:
        """Start nginx with a configuration, or let it change to that one."""
        text = nginx_configuration(self._here, http, workers=1)
        if text == self._written:
            return
        (self._here / "nginx.conf").write_text(text, encoding="utf-8")
        if self._process is None:
            command = (NGINX, "-p", str(self._here), "-e", "stderr", "-c", str(self._here / "nginx.conf"))
            self._process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL)
            self._started.set()
        else:
            self._process.send_signal(signal.SIGHUP)
        self._written = text

    async def ended(self) -> int:
        """The exit status of nginx, once it has ended by itself."""
        await self._started.wait()
        assert self._process is not None
        return await self._process.wait()

    async def stop(self) -> None:
        """End nginx once it has answered what it was asked."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGQUIT)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2.0):
                    await self._process.wait()


class Controller:
    """Mirrors what is needed, and brings nginx and the Ingresses' status in line with it."""

    def __init__(self, client: KubeClient, proxy: Proxy, flags: argparse.Namespace) -> None:
        self._client = client
        self._proxy = proxy
        self._flags = flags
        self._ingresses: Store[Ingress] = Store()
        self._classes: Store[IngressClass] = Store()
        self._services: Store[Service] = Store()
        self._slices: Store[EndpointSlice] = Store()
        self._dirty = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            pairs: list[tuple[Resource[Any], Store[Any]]] = [
                (INGRESSES, self._ingresses),
                (INGRESS_CLASSES, self._classes),
                (SERVICES, self._services),
                (ENDPOINT_SLICES, self._slices),
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
            if ours(each, classes, controller=self._flags.controller_class, annotation=self._flags.ingress_class)
        ]
        wanted = routes(mine)
        namespace, _, name = self._flags.default_backend_service.partition("/")
        default = Target(namespace, name) if name else None
        services = {str(key): each for key, each in self._services.snapshot().items()}
        slices = list(self._slices.snapshot().values())
        targets = {route.target for route in wanted} | ({default} if default else set())
        upstreams = {target: addresses(target, services, slices) for target in targets}
        await self._proxy.serve(configuration(wanted, upstreams, default))
        published = services.get(self._flags.publish_service)
        ingress = published.status.load_balancer.ingress if published else None
        for each in mine:
            await self._report(each, [one.ip for one in ingress or () if one.ip])

    async def _report(self, ingress: Ingress, ips: Sequence[str]) -> None:
        if [each.ip for each in ingress.status.load_balancer.ingress or ()] == list(ips):
            return
        patch = {"status": {"loadBalancer": {"ingress": [{"ip": ip} for ip in ips]}}}
        meta = ingress.metadata
        try:
            await self._client.patch(INGRESSES, meta.name, patch, namespace=meta.namespace, subresource="status")
        except KubeError as error:
            log.warning("ingress_status_not_written", ingress=ingress.key, error=str(error))


def _flags(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="lab.ingress", allow_abbrev=False)
    parser.add_argument("--lab-directory", required=True, type=Path)
    parser.add_argument("--publish-service", default="")
    parser.add_argument("--controller-class", default="k8s.io/ingress-nginx")
    parser.add_argument("--ingress-class", default="nginx")
    parser.add_argument("--default-backend-service", default="")
    flags, others = parser.parse_known_args(words)
    for word in others:
        log.info("flag_not_known_to_the_stand_in", flag=word)
    return flags


async def _main(words: Sequence[str]) -> int:
    """Run until SIGTERM (0), or until nginx ends, which the kubelet mends by starting us again (1)."""
    flags = _flags(words)
    proxy = Proxy(flags.lab_directory)
    client = await KubeClient.connect(Credentials.from_environment())
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    async with asyncio.TaskGroup() as group:
        controlling = group.create_task(Controller(client, proxy, flags).run(), name="controller")
        nginx = group.create_task(proxy.ended(), name="nginx")
        telling = group.create_task(told.wait(), name="SIGTERM")
        await asyncio.wait({nginx, telling}, return_when=asyncio.FIRST_COMPLETED)
        for task in (controlling, nginx, telling):
            task.cancel()
    await proxy.stop()
    await client.close()
    return 0 if told.is_set() else 1


if __name__ == "__main__":
    telemetry_log.configure("info", component="ingress")
    sys.exit(asyncio.run(_main(sys.argv[1:])))
