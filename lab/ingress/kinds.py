"""The objects that the ingress stand-in reads beside those of kube.objects: Ingress and IngressClass."""

from __future__ import annotations

from typing import Final

import msgspec

from kube.objects import LoadBalancerIngress, View
from kube.resources import Resource


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
    path_type: str = "ImplementationSpecific"
    backend: Backend = Backend()


class HttpPaths(msgspec.Struct, frozen=True, kw_only=True):
    """The paths of a host."""

    paths: tuple[HttpPath, ...] = ()


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """A host; without a name, every host."""

    host: str = ""
    http: HttpPaths | None = None


class Tls(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Hosts that are served over HTTPS, and the Secret with their certificate; without one, the default certificate."""

    hosts: tuple[str, ...] | None = None
    secret_name: str = ""


class IngressSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What the user asks of an Ingress."""

    ingress_class_name: str = ""
    default_backend: Backend | None = None
    rules: tuple[Rule, ...] | None = None
    tls: tuple[Tls, ...] | None = None


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
