"""Typed views of the built-in kinds that we read: only the members that a decision or a report uses.

A view is a projection: msgspec skips everything else while decoding, which keeps 10,000 Services small, and two equal
views mean that nothing we care about has changed. Every member has a default, because a watch bookmark carries nothing
but a resource version. Only */observe.py, */apply.py and speaker/status.py may import this module beside kube itself.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NewType, Protocol

import msgspec

from config.kinds.meta import Condition, LabelSelector, ObjectMeta, OwnerReference

__all__ = ["Condition", "LabelSelector", "ObjectMeta", "OwnerReference"]

ObjectKey = NewType("ObjectKey", str)
"""namespace/name, or only the name for kinds that have no namespace."""


class Known(Protocol):
    """What a Store needs of whatever it keeps: which object it is, and in which edition."""

    @property
    def key(self) -> str:
        """As an ObjectKey."""

    @property
    def uid(self) -> str:
        """Tells an object from another one that had its name before."""

    @property
    def version(self) -> str:
        """The resource version."""


class View(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Base of all views."""

    metadata: ObjectMeta = ObjectMeta()

    @property
    def key(self) -> ObjectKey:
        """Where a Store keeps the object."""
        return key_of(self.metadata)

    @property
    def uid(self) -> str:
        """As in its metadata."""
        return self.metadata.uid

    @property
    def version(self) -> str:
        """Its resource version."""
        return self.metadata.resource_version


def key_of(metadata: ObjectMeta) -> ObjectKey:
    """The key of an object with this metadata."""
    return ObjectKey(f"{metadata.namespace}/{metadata.name}" if metadata.namespace else metadata.name)


class RawObject(View, frozen=True, kw_only=True):
    """A custom resource as it came: metadata is understood, the rest waits for config.compile.

    `document` is the whole object as parsed JSON; the decoder of kube.resources fills it.
    """

    document: dict[str, Any] = {}


class ServicePort(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One port of a Service. `target_port` is a number or the name of a container port."""

    name: str = ""
    protocol: str = "TCP"
    port: int = 0
    target_port: int | str = 0
    node_port: int = 0


class ServiceSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What the user asks of a Service."""

    type: str = "ClusterIP"
    ports: tuple[ServicePort, ...] | None = None
    selector: dict[str, str] | None = None
    cluster_ip: str = msgspec.field(default="", name="clusterIP")
    cluster_ips: tuple[str, ...] | None = msgspec.field(default=None, name="clusterIPs")
    ip_families: tuple[str, ...] | None = None
    ip_family_policy: str = ""
    load_balancer_ip: str = msgspec.field(default="", name="loadBalancerIP")
    load_balancer_class: str = ""
    external_traffic_policy: str = ""
    internal_traffic_policy: str = ""
    health_check_node_port: int = 0
    publish_not_ready_addresses: bool = False


class LoadBalancerIngress(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One address in a Service's status. The API server defaults `ip_mode` to VIP (Kubernetes 1.30)."""

    ip: str = ""
    hostname: str = ""
    ip_mode: str = ""


class LoadBalancerStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The addresses at which a Service is reachable from outside."""

    ingress: tuple[LoadBalancerIngress, ...] | None = None


class ServiceStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The part of a Service that the controller writes."""

    load_balancer: LoadBalancerStatus = LoadBalancerStatus()
    conditions: tuple[Condition, ...] | None = None


class Service(View, frozen=True, kw_only=True):
    """core/v1 Service."""

    spec: ServiceSpec = ServiceSpec()
    status: ServiceStatus = ServiceStatus()


class EndpointConditions(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Unset `ready` means ready (discovery.k8s.io/v1)."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Endpoint(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One backend of a Service."""

    addresses: tuple[str, ...] = ()
    conditions: EndpointConditions = EndpointConditions()
    node_name: str | None = None


class EndpointPort(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A port that the endpoints of a slice listen on."""

    name: str | None = None
    protocol: str | None = None
    port: int | None = None


class EndpointSlice(View, frozen=True, kw_only=True):
    """discovery.k8s.io/v1 EndpointSlice; the label kubernetes.io/service-name ties it to its Service."""

    address_type: str = ""
    endpoints: tuple[Endpoint, ...] | None = None
    ports: tuple[EndpointPort, ...] | None = None


class NodeAddress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An address of a Node: InternalIP, Hostname and so on."""

    type: str = ""
    address: str = ""


class NodeSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What is asked of a Node."""

    pod_cidr: str = msgspec.field(default="", name="podCIDR")
    unschedulable: bool = False


class NodeStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What the kubelet reports of a Node."""

    addresses: tuple[NodeAddress, ...] | None = None
    conditions: tuple[Condition, ...] | None = None


class Node(View, frozen=True, kw_only=True):
    """core/v1 Node."""

    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()


class Namespace(View, frozen=True, kw_only=True):
    """core/v1 Namespace; only its labels matter to us."""


class PodSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Where a Pod runs."""

    node_name: str = ""
    host_network: bool = False


class PodStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Whether a Pod runs, and at which address."""

    phase: str = ""
    pod_ip: str = msgspec.field(default="", name="podIP")
    host_ip: str = msgspec.field(default="", name="hostIP")
    conditions: tuple[Condition, ...] | None = None


class Pod(View, frozen=True, kw_only=True):
    """core/v1 Pod."""

    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


class Secret(View, frozen=True, kw_only=True):
    """core/v1 Secret. `data` holds base64 text; it is decoded where it is used and never logged."""

    type: str = ""
    data: dict[str, str] | None = None

    def __repr__(self) -> str:
        return f"Secret({self.key})"


class ConfigMap(View, frozen=True, kw_only=True):
    """core/v1 ConfigMap."""

    data: dict[str, str] | None = None


class ObjectReference(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Points at the object that an Event is about."""

    api_version: str = ""
    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""
    resource_version: str = ""


def timestamp() -> str:
    """This moment as a time of meta/v1, which has whole seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
