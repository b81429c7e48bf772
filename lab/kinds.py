"""Typed views of the kinds that run programs: Pod, Deployment, DaemonSet, and Node with what the lab reads of them.

kube.objects holds what the product reads; the lab, which plays kubelet and controller manager, needs more of the same kinds.
Unknown members are skipped while reading. A Pod template is kept as it came, so that a Pod gets all of it.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from config.kinds.meta import Condition, LabelSelector
from kube.objects import NodeStatus, Service, ServiceSpec, View
from kube.resources import Resource


class KeyToPath(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One key of a Secret or ConfigMap, and the file it becomes."""

    key: str
    path: str


class SecretVolume(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Files from a Secret."""

    secret_name: str = ""
    optional: bool = False
    items: tuple[KeyToPath, ...] | None = None
    default_mode: int = 0o644


class ConfigMapVolume(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Files from a ConfigMap."""

    name: str = ""
    optional: bool = False
    items: tuple[KeyToPath, ...] | None = None
    default_mode: int = 0o644


class Volume(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A volume of a Pod: exactly one source, of those the lab offers."""

    name: str
    secret: SecretVolume | None = None
    config_map: ConfigMapVolume | None = None
    empty_dir: dict[str, Any] | None = None


class VolumeMount(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Where a container sees a volume."""

    name: str
    mount_path: str
    read_only: bool = False
    sub_path: str = ""


class FieldSelector(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A field of the Pod itself (downward API)."""

    field_path: str


class KeySelector(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A key of a Secret or ConfigMap."""

    name: str = ""
    key: str = ""
    optional: bool = False


class EnvSource(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Where the value of an environment variable comes from."""

    field_ref: FieldSelector | None = None
    secret_key_ref: KeySelector | None = None
    config_map_key_ref: KeySelector | None = None


class EnvVar(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """An environment variable. `$(NAME)` in `value` stands for a variable before it."""

    name: str
    value: str = ""
    value_from: EnvSource | None = None


class Header(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A header of a request."""

    name: str
    value: str = ""


class HttpGet(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A probe that asks for a page; 200 to 399 is good."""

    port: int | str
    path: str = "/"
    host: str = ""
    scheme: str = "HTTP"
    http_headers: tuple[Header, ...] | None = None


class TcpSocket(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A probe that connects."""

    port: int | str
    host: str = ""


class Exec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A probe that runs a command in the container; status 0 is good."""

    command: tuple[str, ...] = ()


class Probe(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """How to find out how a container is. Times in seconds. Exactly one of the actions."""

    exec: Exec | None = None
    http_get: HttpGet | None = None
    tcp_socket: TcpSocket | None = None
    initial_delay_seconds: int = 0
    period_seconds: int = 10
    timeout_seconds: int = 1
    success_threshold: int = 1
    failure_threshold: int = 3


class ContainerPort(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A port that a container says it listens on."""

    container_port: int
    name: str = ""
    protocol: str = "TCP"


class Capabilities(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Linux capabilities to add and drop, without CAP_; ALL means all."""

    add: tuple[str, ...] | None = None
    drop: tuple[str, ...] | None = None


class SecurityContext(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Of a container's security settings, those the lab honours. None: what the Pod says."""

    capabilities: Capabilities | None = None
    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    read_only_root_filesystem: bool = False


class PodSecurityContext(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What holds for all containers of a Pod. `fs_group` owns its volumes."""

    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool = False
    fs_group: int | None = None
    supplemental_groups: tuple[int, ...] = ()


class Container(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One program of a Pod."""

    name: str
    image: str = ""
    command: tuple[str, ...] | None = None
    args: tuple[str, ...] | None = None
    env: tuple[EnvVar, ...] | None = None
    ports: tuple[ContainerPort, ...] | None = None
    volume_mounts: tuple[VolumeMount, ...] | None = None
    readiness_probe: Probe | None = None
    liveness_probe: Probe | None = None
    startup_probe: Probe | None = None
    security_context: SecurityContext | None = None


class Toleration(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Taints that a Pod bears: those of a key (all keys when empty), an effect (all when empty) and, with Equal, a value."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""
    toleration_seconds: int | None = None


class PodSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What is to run, and where."""

    node_name: str = ""
    host_network: bool = False
    containers: tuple[Container, ...] = ()
    init_containers: tuple[Container, ...] | None = None
    volumes: tuple[Volume, ...] | None = None
    service_account_name: str = ""
    termination_grace_period_seconds: int = 30
    node_selector: dict[str, str] | None = None
    restart_policy: str = "Always"
    tolerations: tuple[Toleration, ...] | None = None
    security_context: PodSecurityContext = PodSecurityContext()


class PodIP(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One address of a Pod."""

    ip: str = ""


class PodStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What the kubelet reports."""

    phase: str = ""
    pod_ip: str = msgspec.field(default="", name="podIP")
    pod_ips: tuple[PodIP, ...] | None = msgspec.field(default=None, name="podIPs")
    conditions: tuple[Condition, ...] | None = None


class Pod(View, frozen=True, kw_only=True):
    """core/v1 Pod."""

    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


class ClientIPAffinity(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """How long a client keeps its endpoint."""

    timeout_seconds: int = 0


class AffinityConfig(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The settings of session affinity."""

    client_ip: ClientIPAffinity | None = msgspec.field(default=None, name="clientIP")


class ProxiedServiceSpec(ServiceSpec, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A Service's spec with what only a node's proxy reads."""

    session_affinity: str = "None"
    session_affinity_config: AffinityConfig | None = None
    load_balancer_source_ranges: tuple[str, ...] | None = None
    external_ips: tuple[str, ...] | None = msgspec.field(default=None, name="externalIPs")


class ProxiedService(Service, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """core/v1 Service as a node's proxy reads it."""

    spec: ProxiedServiceSpec = ProxiedServiceSpec()


class RollingUpdate(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """How many Pods more or less than wanted there may be during a change: a count or a percentage."""

    max_surge: int | str | None = None
    max_unavailable: int | str | None = None


class Strategy(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """How old Pods are replaced."""

    type: str = "RollingUpdate"
    rolling_update: RollingUpdate | None = None


class DeploymentSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """So many Pods of one template."""

    replicas: int = 1
    selector: LabelSelector = LabelSelector()
    template: dict[str, Any] = {}
    strategy: Strategy = Strategy()
    paused: bool = False
    revision_history_limit: int = 10


class Deployment(View, frozen=True, kw_only=True):
    """apps/v1 Deployment. `status` is compared with the wanted one, so it is kept as it came."""

    spec: DeploymentSpec = DeploymentSpec()
    status: dict[str, Any] = msgspec.field(default_factory=dict)


class ReplicaSetSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """So many Pods of one template, which never changes."""

    replicas: int = 1
    template: dict[str, Any] = {}


class ReplicaSet(View, frozen=True, kw_only=True):
    """apps/v1 ReplicaSet."""

    spec: ReplicaSetSpec = ReplicaSetSpec()
    status: dict[str, Any] = msgspec.field(default_factory=dict)


class DaemonSetSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A Pod of one template on every node."""

    selector: LabelSelector = LabelSelector()
    template: dict[str, Any] = {}
    update_strategy: Strategy = Strategy()


class DaemonSet(View, frozen=True, kw_only=True):
    """apps/v1 DaemonSet."""

    spec: DaemonSetSpec = DaemonSetSpec()
    status: dict[str, Any] = msgspec.field(default_factory=dict)


class LeaseSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Who holds a lease, and since when."""

    holder_identity: str = ""
    renew_time: str = ""


class Lease(View, frozen=True, kw_only=True):
    """coordination.k8s.io/v1 Lease: here, the heartbeat of a node."""

    spec: LeaseSpec = LeaseSpec()


class Taint(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Keeps Pods off a node; with the effect NoExecute, those that run there too."""

    key: str
    effect: str
    value: str = ""
    time_added: str | None = None


class NodeSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is asked of a node."""

    unschedulable: bool = False
    taints: tuple[Taint, ...] | None = None


class Node(View, frozen=True, kw_only=True):
    """core/v1 Node."""

    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()


SERVICES: Final = Resource("", "v1", "services", "Service", ProxiedService)
PODS: Final = Resource("", "v1", "pods", "Pod", Pod)
NODES: Final = Resource("", "v1", "nodes", "Node", Node, namespaced=False)
DEPLOYMENTS: Final = Resource("apps", "v1", "deployments", "Deployment", Deployment)
REPLICA_SETS: Final = Resource("apps", "v1", "replicasets", "ReplicaSet", ReplicaSet)
DAEMON_SETS: Final = Resource("apps", "v1", "daemonsets", "DaemonSet", DaemonSet)
LEASES: Final = Resource("coordination.k8s.io", "v1", "leases", "Lease", Lease)
