"""Which resources there are: group, version, plural name, and the view that decodes them.

A Resource is all that list, watch and patch need to know about a kind. Custom resources decode to RawObject, so that one
object that cannot be understood never stops the watch of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import msgspec

from config.kinds import GROUP, KINDS
from kube import objects

T = TypeVar("T", bound=objects.Known)
K = TypeVar("K", bound=objects.Known)


@dataclass(frozen=True, slots=True)
class Resource(Generic[T]):
    """A kind of object as the API serves it. `group` is empty for core/v1."""

    group: str
    version: str
    plural: str
    kind: str
    view: type[T]
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """The value of apiVersion in its objects."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, *, namespace: str | None = None, name: str | None = None, subresource: str = "") -> str:
        """The URL path of the collection (in all namespaces if none is given), of one object, or of a subresource."""
        parts = ["/apis" if self.group else "/api", *([self.group] if self.group else []), self.version]
        if namespace is not None and self.namespaced:
            parts += ["namespaces", quote(namespace, safe="")]
        parts.append(self.plural)
        if name is not None:
            parts.append(quote(name, safe=""))
        if subresource:
            parts.append(subresource)
        return "/".join(parts)

    def raw(self) -> Resource[objects.RawObject]:
        """The same kind, decoded to whole documents: for a read that ends in a PUT, which must lose nothing."""
        return Resource(self.group, self.version, self.plural, self.kind, objects.RawObject, self.namespaced)

    def reduced(self, reduce: Callable[[T], K]) -> Resource[K]:
        """The same kind, of which only what this function makes of an object is kept: the object itself goes at once."""
        view: type[Any] = self.view
        return _Reduced(self.group, self.version, self.plural, self.kind, view, self.namespaced, reduce=reduce, whole=self)

    def decode(self, document: bytes | msgspec.Raw) -> T:
        """The object in a JSON document.

        Raises:
            msgspec.ValidationError: a member that we read has the wrong type; the message has its path.

        """
        if self.view is objects.RawObject:
            whole: dict[str, Any] = msgspec.json.decode(document)
            return self.from_mapping(whole)
        return msgspec.json.decode(document, type=self.view)

    def from_mapping(self, document: Mapping[str, Any]) -> T:
        """The object in an already parsed document."""
        if self.view is objects.RawObject:
            return msgspec.convert({"metadata": document.get("metadata", {}), "document": document}, self.view)
        return msgspec.convert(document, self.view)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reduced(Resource[K]):
    """A Resource whose objects are reduced as soon as they are decoded."""

    whole: Resource[Any]
    reduce: Callable[[Any], K]

    def decode(self, document: bytes | msgspec.Raw) -> K:
        return self.reduce(self.whole.decode(document))

    def from_mapping(self, document: Mapping[str, Any]) -> K:
        return self.reduce(self.whole.from_mapping(document))


SERVICES = Resource("", "v1", "services", "Service", objects.Service)
NODES = Resource("", "v1", "nodes", "Node", objects.Node, namespaced=False)
NAMESPACES = Resource("", "v1", "namespaces", "Namespace", objects.Namespace, namespaced=False)
PODS = Resource("", "v1", "pods", "Pod", objects.Pod)
SECRETS = Resource("", "v1", "secrets", "Secret", objects.Secret)
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap", objects.ConfigMap)
EVENTS = Resource("", "v1", "events", "Event", objects.RawObject)
ENDPOINT_SLICES = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", objects.EndpointSlice)
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease", objects.RawObject)
DEPLOYMENTS = Resource("apps", "v1", "deployments", "Deployment", objects.RawObject)
DAEMON_SETS = Resource("apps", "v1", "daemonsets", "DaemonSet", objects.RawObject)
INGRESSES = Resource("networking.k8s.io", "v1", "ingresses", "Ingress", objects.RawObject)
INGRESS_CLASSES = Resource("networking.k8s.io", "v1", "ingressclasses", "IngressClass", objects.RawObject, namespaced=False)


def metallb(plural: str, kind: str) -> Resource[objects.RawObject]:
    """A custom resource of the group metallb.io/v1beta1."""
    return Resource("metallb.io", "v1beta1", plural, kind, objects.RawObject)


def resource_of(kind: str) -> Resource[objects.RawObject]:
    """The stored version of one of our kinds."""
    known = KINDS[kind]
    return Resource(GROUP, known.storage.name, known.plural, known.name, objects.RawObject)


IP_ADDRESS_POOLS = metallb("ipaddresspools", "IPAddressPool")
L2_ADVERTISEMENTS = metallb("l2advertisements", "L2Advertisement")
SERVICE_L2_STATUSES = metallb("servicel2statuses", "ServiceL2Status")
SERVICE_BGP_STATUSES = metallb("servicebgpstatuses", "ServiceBGPStatus")
