"""Decide which request goes where: Ingress objects in, virtual servers and their locations out. Pure.

Where two Ingresses ask for the same host and path, the older one has it. A path that nginx could not hold is left out, with a
message. As in ingress-nginx, one rewrite-target or use-regex on a host makes all its paths regular expressions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from kube.objects import EndpointSlice, Service
from lab.ingress.kinds import Backend, Ingress, IngressClass
from lab.ingress.settings import ANNOTATIONS, Chosen, of_annotations

SERVICE_NAME_LABEL: Final = "kubernetes.io/service-name"
CLASS_ANNOTATION: Final = "kubernetes.io/ingress.class"
DEFAULT_CLASS_ANNOTATION: Final = "ingressclass.kubernetes.io/is-default-class"
_HOST: Final = re.compile(r"(\*\.)?[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_PLAIN_PATH: Final = re.compile(r"/[-A-Za-z0-9._~!$&()*+,=:@%/]*")
_ANY_PATH: Final = re.compile(r"/([^\s\"\\]|\\[^\s\"])*")
_WORD: Final = re.compile(r"[^a-zA-Z0-9]")


class Match(Enum):
    """How a path is compared: the whole of it, by elements (/a is for /a and /a/b, not for /ab), or by its beginning."""

    EXACT = "Exact"
    PREFIX = "Prefix"
    BEGINNING = "ImplementationSpecific"


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


@dataclass(frozen=True, slots=True)
class Location:
    """Requests for a path of a host. `options` are the annotations of the Ingress that asks for it."""

    path: str
    match: Match
    target: Target
    options: Chosen = field(default=Chosen(ANNOTATIONS))

    @property
    def rewrites(self) -> bool:
        """Whether the path that the backend sees is another one."""
        return self.options["rewrite-target"] not in {"", self.path}


@dataclass(frozen=True, slots=True)
class Server:
    """A host (empty: every host that has no other) with its locations, longest path first.

    `fallback` serves the paths that no location has. `tls` says whether the host asks for HTTPS, `secret` where its
    certificate is (namespace/name; empty: the default certificate). `app_root` is where a request for / is sent.
    """

    host: str
    locations: tuple[Location, ...] = ()
    fallback: Target | None = None
    tls: bool = False
    secret: str = ""
    app_root: str = ""

    @property
    def has_regular_expressions(self) -> bool:
        """Whether the paths of this host are regular expressions."""
        return any(each.rewrites or each.options.is_on("use-regex") for each in self.locations)


def ours(ingress: Ingress, classes: Mapping[str, IngressClass], *, controller: str, annotation: str) -> bool:
    """Whether an Ingress is meant for us: by its class' controller, by the old annotation, or by our class being the default."""
    if ingress.spec.ingress_class_name:
        known = classes.get(ingress.spec.ingress_class_name)
        return known is not None and known.spec.controller == controller
    named = (ingress.metadata.annotations or {}).get(CLASS_ANNOTATION)
    if named is not None:
        return named == annotation
    return any(
        each.spec.controller == controller and (each.metadata.annotations or {}).get(DEFAULT_CLASS_ANNOTATION) == "true"
        for each in classes.values()
    )


def servers(
    ingresses: Iterable[Ingress], names: Mapping[str, Iterable[str]], *, default: Target | None
) -> tuple[list[Server], list[str]]:
    """The servers that Ingresses ask for, the one for all other hosts first, and what is wrong with the Ingresses.

    Args:
        ingresses: those that are ours.
        names: for every Secret (namespace/name) with a good certificate the DNS names in it.
        default: what serves hosts and paths that nobody claims.

    """
    locations: dict[str, dict[tuple[str, Match], Location]] = {"": {}}
    fallbacks: dict[str, Target] = {}
    app_roots: dict[str, str] = {}
    secrets: dict[str, str] = {}
    problems: list[str] = []
    for ingress in sorted(ingresses, key=lambda each: (each.metadata.creation_timestamp, each.key)):
        options, wrong = of_annotations(ingress.metadata.annotations, of=f"Ingress {ingress.key}")
        problems += wrong
        fallback = _target(ingress, ingress.spec.default_backend)
        if fallback is not None and not ingress.spec.rules:
            fallbacks.setdefault("", fallback)
        for rule in ingress.spec.rules or ():
            if rule.host and not _HOST.fullmatch(rule.host):
                problems.append(f"Ingress {ingress.key}: host {rule.host!r} is no DNS name")
                continue
            here = locations.setdefault(rule.host, {})
            if fallback is not None:
                fallbacks.setdefault(rule.host, fallback)
            if options["app-root"]:
                app_roots.setdefault(rule.host, options["app-root"])
            for path in rule.http.paths if rule.http else ():
                target, match = _target(ingress, path.backend), Match(path.path_type)
                good = _ANY_PATH if match is Match.BEGINNING else _PLAIN_PATH
                if target is None:
                    problems.append(f"Ingress {ingress.key}: {rule.host}{path.path}: the backend is not a Service")
                elif not good.fullmatch(path.path):
                    problems.append(f"Ingress {ingress.key}: path {path.path!r} cannot be of pathType {path.path_type}")
                else:
                    kept = path.path if match is not Match.PREFIX else path.path.rstrip("/") or "/"
                    here.setdefault((kept, match), Location(kept, match, target, options))
            secret = _secret(ingress, rule.host, names)
            if secret is not None:
                secrets.setdefault(rule.host, secret)
    made = [
        Server(
            host=host,
            locations=tuple(sorted(here.values(), key=lambda each: (-len(each.path), each.path, each.match.value))),
            fallback=fallbacks.get(host, fallbacks.get("", default)),
            tls=host in secrets,
            secret=secrets.get(host, ""),
            app_root=app_roots.get(host, ""),
        )
        for host, here in sorted(locations.items())
    ]
    return made, problems


def _target(ingress: Ingress, backend: Backend | None) -> Target | None:
    if backend is None or backend.service is None:
        return None
    port = backend.service.port
    return Target(ingress.metadata.namespace, backend.service.name, port.number or port.name)


def _secret(ingress: Ingress, host: str, names: Mapping[str, Iterable[str]]) -> str | None:
    """The Secret for a host: of the entry that names it, else one whose certificate does; empty: the default certificate."""
    for tls in ingress.spec.tls or ():
        if any(_covers(each, host) for each in tls.hosts or ()):
            return f"{ingress.metadata.namespace}/{tls.secret_name}" if tls.secret_name else ""
    for tls in ingress.spec.tls or ():
        secret = f"{ingress.metadata.namespace}/{tls.secret_name}"
        if any(_covers(each, host) for each in names.get(secret, ())):
            return secret
    return None


def _covers(name: str, host: str) -> bool:
    """Whether a name of a certificate is for a host; an asterisk stands for one label."""
    return name == host or (name.startswith("*.") and name[2:] == host.partition(".")[2] and bool(name[2:]))


def addresses(target: Target, services: Mapping[str, Service], slices: Iterable[EndpointSlice], *, protocol: str) -> list[str]:
    """The ready endpoints of a target as address:port, of the Service's first family."""
    service = services.get(f"{target.namespace}/{target.service}")
    if service is None:
        return []
    ports = (p for p in service.spec.ports or () if p.protocol == protocol)
    port = next((p for p in ports if target.port in {"", p.port, p.name} or str(p.port) == target.port), None)
    if port is None:
        return []
    family = (service.spec.ip_families or ("IPv4",))[0]
    found = {
        f"[{address}]:{number.port}" if ":" in address else f"{address}:{number.port}"
        for each in slices
        if each.metadata.namespace == target.namespace
        and (each.metadata.labels or {}).get(SERVICE_NAME_LABEL) == target.service
        and each.address_type == family
        for number in each.ports or ()
        if (number.name or "") == port.name and (number.protocol or "TCP") == protocol and number.port is not None
        for endpoint in each.endpoints or ()
        if endpoint.conditions.ready is not False
        for address in endpoint.addresses
    }
    return sorted(found)


@dataclass(frozen=True, slots=True)
class Stream:
    """A port that is passed on as it is, TCP or UDP, from the tcp-services or udp-services ConfigMap."""

    port: int
    protocol: str
    target: Target

    @property
    def upstream(self) -> str:
        """The name of the nginx upstream."""
        return f"{self.protocol.lower()}_{self.port}_{self.target.upstream}"


def streams(data: Mapping[str, str], *, protocol: str, reserved: Iterable[int], of: str) -> tuple[list[Stream], list[str]]:
    """The streams of a ConfigMap whose keys are ports and whose values are NAMESPACE/SERVICE:PORT, and what is wrong with it."""
    found, problems = [], []
    for key, value in sorted(data.items()):
        words = re.fullmatch(r"\s*([-a-z0-9]+)/([-a-z0-9]+):([-a-z0-9]+)\s*", value)
        if not key.isdigit() or not 0 < int(key) < 65536:
            problems.append(f"{of}: key {key!r} is no port number")
        elif words is None:
            problems.append(
                f"{of}: {key}: {value!r} is not NAMESPACE/SERVICE:PORT (PROXY is not offered by the lab's stand-in)"
            )
        elif protocol == "TCP" and int(key) in reserved:
            problems.append(f"{of}: port {key} is one of the stand-in's own")
        else:
            found.append(Stream(int(key), protocol, Target(words[1], words[2], words[3])))
    return found, problems
