"""Decide which Pods there should be, where they run, and which of them a Service reaches: the lab's controller manager.

Pure functions from views to values; lab.manager carries them out. A Deployment owns its Pods directly (the lab has no
ReplicaSets); the template's hash in a label tells old Pods from new ones. Everything is level-triggered: asked twice about the
same objects, the same is answered, and nothing is answered about a world that already is as it should be.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from config.kinds.meta import Condition, OwnerReference
from kube.objects import EndpointSlice, Service, ServicePort, View
from lab import taints
from lab.kinds import DaemonSet, Deployment, Node, Pod, Toleration

TEMPLATE_HASH_LABEL: Final = "pod-template-hash"
REVISION_LABEL: Final = "controller-revision-hash"
SERVICE_NAME_LABEL: Final = "kubernetes.io/service-name"
MANAGED_BY_LABEL: Final = "endpointslice.kubernetes.io/managed-by"
MANAGED_BY: Final = "endpointslice-controller.k8s.io"
NODE_GRACE_S: Final = 40.0
"""A node whose lease was not renewed for so long is not ready (kube-controller-manager, node-monitor-grace-period)."""

MAX_SURGE: Final = "25%"
MAX_UNAVAILABLE: Final = "25%"


@dataclass(frozen=True, slots=True)
class Rollout:
    """What to do about one Deployment or DaemonSet: Pods to create (whole bodies), Pods to delete, the status it has."""

    create: tuple[dict[str, Any], ...] = ()
    delete: tuple[Pod, ...] = ()
    status: dict[str, Any] = field(default_factory=dict)


def condition(conditions: Iterable[Condition] | None, type_: str) -> str:
    """The status of a condition: True, False or Unknown; Unknown too when it is not there."""
    return next((each.status for each in conditions or () if each.type == type_), "Unknown")


def is_ready(pod: Pod) -> bool:
    """Whether a Pod says that it is ready."""
    return condition(pod.status.conditions, "Ready") == "True"


def is_going(view: View) -> bool:
    """Whether an object's deletion has begun."""
    return view.metadata.deletion_timestamp is not None


def node_is_ready(node: Node) -> bool:
    """Whether a node says that it is ready."""
    return condition(node.status.conditions, "Ready") == "True"


def template_hash(template: Mapping[str, Any]) -> str:
    """Ten letters and digits that change with a Pod template."""
    return hashlib.sha256(msgspec.json.encode(template, order="deterministic")).hexdigest()[:10]


def owned_by(view: View) -> str:
    """The uid of the controller that owns an object, or nothing."""
    return next((owner.uid for owner in view.metadata.owner_references or () if owner.controller), "")


def _pod_body(
    owner: View, kind: str, template: Mapping[str, Any], labels: Mapping[str, str], *, node: str = ""
) -> dict[str, Any]:
    """A Pod to create from a template."""
    meta = template.get("metadata") or {}
    reference = OwnerReference(
        api_version="apps/v1",
        kind=kind,
        name=owner.metadata.name,
        uid=owner.metadata.uid,
        controller=True,
        block_owner_deletion=True,
    )
    prefix = "-".join([owner.metadata.name, *([labels[TEMPLATE_HASH_LABEL]] if TEMPLATE_HASH_LABEL in labels else []), ""])
    spec = dict(template.get("spec") or {})
    if node:
        spec["nodeName"] = node
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": prefix,
            "namespace": owner.metadata.namespace,
            "labels": {**(meta.get("labels") or {}), **labels},
            "annotations": meta.get("annotations") or {},
            "ownerReferences": [msgspec.to_builtins(reference)],
        },
        "spec": spec,
    }


def _share(value: float | str | None, default: str, total: int, *, up: bool) -> int:
    """A count or a percentage of `total`, rounded as Kubernetes does."""
    value = default if value is None else value
    if isinstance(value, str):
        exact = total * int(value.removesuffix("%")) / 100
        return math.ceil(exact) if up else math.floor(exact)
    return int(value)


def roll_deployment(deployment: Deployment, pods: Iterable[Pod], *, now: str) -> Rollout:
    """What a Deployment needs. `pods` are all Pods of its namespace; `now` is the time for conditions, RFC 3339."""
    spec = deployment.spec
    hash_now = template_hash(spec.template)
    owned = [pod for pod in pods if owned_by(pod) == deployment.metadata.uid]
    staying = sorted((pod for pod in owned if not is_going(pod)), key=_most_useful_first)
    new = [pod for pod in staying if (pod.metadata.labels or {}).get(TEMPLATE_HASH_LABEL) == hash_now]
    old = [pod for pod in staying if pod not in new]
    rolling = spec.strategy.rolling_update
    surge = _share(rolling.max_surge if rolling else None, MAX_SURGE, spec.replicas, up=True)
    missing_allowed = _share(rolling.max_unavailable if rolling else None, MAX_UNAVAILABLE, spec.replicas, up=False)
    if spec.strategy.type == "Recreate":
        delete = [*old, *new[spec.replicas :]]
        wanted = (
            0
            if any((pod.metadata.labels or {}).get(TEMPLATE_HASH_LABEL) != hash_now for pod in owned)
            else spec.replicas - len(new)
        )
    else:
        if surge == 0 and missing_allowed == 0:
            missing_allowed = 1
        spare = sum(map(is_ready, staying)) - (spec.replicas - missing_allowed)
        idle = [pod for pod in old if not is_ready(pod)]
        busy = [pod for pod in old if is_ready(pod)]
        delete = [*idle, *(busy[len(busy) - max(0, min(spare, len(busy))) :] if spare > 0 else []), *new[spec.replicas :]]
        wanted = min(spec.replicas - len(new), spec.replicas + surge - len(staying))
    body = _pod_body(deployment, "Deployment", spec.template, {TEMPLATE_HASH_LABEL: hash_now})
    return Rollout(
        create=(body,) * max(0, wanted),
        delete=tuple(delete),
        status=_deployment_status(deployment, staying, new, now=now),
    )


def _most_useful_first(pod: Pod) -> tuple[bool, bool, str, str]:
    """Ready Pods before others, placed ones before others, old ones before young ones."""
    return (not is_ready(pod), not pod.spec.node_name, pod.metadata.creation_timestamp, pod.metadata.name)


def _deployment_status(deployment: Deployment, staying: Sequence[Pod], new: Sequence[Pod], *, now: str) -> dict[str, Any]:
    replicas = deployment.spec.replicas
    ready = sum(map(is_ready, staying))
    counts = {
        "replicas": len(staying),
        "updatedReplicas": len(new),
        "readyReplicas": ready,
        "availableReplicas": ready,
        "unavailableReplicas": max(0, replicas - ready),
    }
    enough = ready >= replicas - _share(None, MAX_UNAVAILABLE, replicas, up=False)
    done = sum(map(is_ready, new)) >= replicas and len(staying) == len(new)
    wanted = {
        "Available": ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
        if enough
        else ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability."),
        "Progressing": (
            "True",
            "NewReplicaSetAvailable",
            f'Deployment "{deployment.metadata.name}" has successfully progressed.',
        )
        if done
        else ("True", "ReplicaSetUpdated", f'Deployment "{deployment.metadata.name}" is progressing.'),
    }
    return {
        "observedGeneration": deployment.metadata.generation,
        **{name: count for name, count in counts.items() if count},
        "conditions": _conditions(deployment.status.get("conditions") or [], wanted, now),
    }


def _conditions(old: Sequence[Mapping[str, Any]], wanted: Mapping[str, tuple[str, str, str]], now: str) -> list[dict[str, Any]]:
    """The wanted conditions; what has not changed keeps its times, so that an unchanged status stays equal."""
    known = {each["type"]: each for each in old}
    result = []
    for type_, (status, reason, message) in wanted.items():
        before = known.get(type_, {})
        same = (before.get("status"), before.get("reason"), before.get("message")) == (status, reason, message)
        updated = before.get("lastUpdateTime", now) if same else now
        changed = before.get("lastTransitionTime", now) if before.get("status") == status else now
        result.append(
            {
                "type": type_,
                "status": status,
                "reason": reason,
                "message": message,
                "lastUpdateTime": updated,
                "lastTransitionTime": changed,
            }
        )
    return result


def roll_daemon_set(daemon_set: DaemonSet, pods: Iterable[Pod], nodes: Iterable[Node]) -> Rollout:
    """What a DaemonSet needs. `pods` are all Pods of its namespace. One old Pod at a time is replaced."""
    spec = daemon_set.spec
    hash_now = template_hash(spec.template)
    template = spec.template.get("spec") or {}
    selector = template.get("nodeSelector") or {}
    lost = tuple(Toleration(key=key, operator="Exists") for key in taints.OURS)
    tolerations = (*lost, *msgspec.convert(template.get("tolerations") or (), tuple[Toleration, ...]))
    eligible = {
        node.metadata.name: node
        for node in sorted(nodes, key=lambda node: node.metadata.name)
        if all((node.metadata.labels or {}).get(key) == value for key, value in selector.items())
    }
    owned = [pod for pod in pods if owned_by(pod) == daemon_set.metadata.uid]
    on_node: dict[str, list[Pod]] = {}
    for pod in sorted(owned, key=_most_useful_first):
        on_node.setdefault(pod.spec.node_name, []).append(pod)
    create, delete, current, kept_off = [], [], [], 0
    for name, node in eligible.items():
        here = on_node.pop(name, [])
        if not here:
            if taints.keep_off(tolerations, node):
                kept_off += 1
                continue
            create.append(_pod_body(daemon_set, "DaemonSet", spec.template, {REVISION_LABEL: hash_now}, node=name))
            continue
        staying = [pod for pod in here if not is_going(pod)]
        current += staying[:1]
        delete += staying[1:]
    delete += [pod for pods_elsewhere in on_node.values() for pod in pods_elsewhere if not is_going(pod)]
    updated = [pod for pod in current if (pod.metadata.labels or {}).get(REVISION_LABEL) == hash_now]
    if spec.update_strategy.type != "OnDelete":
        old = [pod for pod in current if pod not in updated]
        delete += [pod for pod in old if not is_ready(pod)]
        if len(current) == len(eligible) - kept_off and all(map(is_ready, current)):
            delete += [pod for pod in old if is_ready(pod)][:1]
    ready = sum(map(is_ready, current))
    status = {
        "observedGeneration": daemon_set.metadata.generation,
        "desiredNumberScheduled": len(eligible) - kept_off,
        "currentNumberScheduled": len(current),
        "numberMisscheduled": 0,
        "numberReady": ready,
        **({"updatedNumberScheduled": len(updated)} if updated else {}),
        **({"numberAvailable": ready} if ready else {}),
        **({"numberUnavailable": len(eligible) - kept_off - ready} if len(eligible) - kept_off > ready else {}),
    }
    return Rollout(tuple(create), tuple(delete), status)


def orphans(pods: Iterable[Pod], owners: Iterable[View]) -> list[Pod]:
    """Pods of Deployments and DaemonSets that are gone."""
    known = {owner.metadata.uid for owner in owners}
    return [pod for pod in pods if (uid := owned_by(pod)) and uid not in known and not is_going(pod)]


def place(pods: Iterable[Pod], nodes: Iterable[Node]) -> list[tuple[Pod, str]]:
    """A node for every Pod that has none: ready, open, with the labels asked for; the one with the fewest Pods of the same owner.

    Pods that fit nowhere are left out; they are asked about again when something changes.
    """
    everything = list(pods)
    count: dict[tuple[str, str], int] = {}
    for pod in everything:
        if pod.spec.node_name and not is_going(pod):
            for owner in (owned_by(pod), ""):
                count[owner, pod.spec.node_name] = count.get((owner, pod.spec.node_name), 0) + 1
    open_nodes = [node for node in nodes if node_is_ready(node) and not node.spec.unschedulable]
    placed = []
    for pod in sorted(everything, key=lambda pod: (pod.metadata.creation_timestamp, pod.key)):
        if pod.spec.node_name or is_going(pod):
            continue
        fitting = [
            node.metadata.name
            for node in open_nodes
            if all((node.metadata.labels or {}).get(k) == v for k, v in (pod.spec.node_selector or {}).items())
            and not taints.keep_off(pod.spec.tolerations or (), node)
        ]
        if not fitting:
            continue
        owner = owned_by(pod)
        chosen = min(fitting, key=lambda name: (count.get((owner, name), 0), count.get(("", name), 0), name))
        for key in (owner, ""):
            count[key, chosen] = count.get((key, chosen), 0) + 1
        placed.append((pod, chosen))
    return placed


def slices_of(service: Service, pods: Iterable[Pod]) -> list[dict[str, Any]]:
    """The EndpointSlices a Service should have: for each of its families one for every set of port numbers its Pods resolve to."""
    selector = service.spec.selector
    if not selector or service.spec.type == "ExternalName":
        return []
    everybody = sorted(pods, key=lambda pod: pod.key)
    return [body for family in service.spec.ip_families or ("IPv4",) for body in _slices_of_family(service, everybody, family)]


def _slices_of_family(service: Service, pods: Iterable[Pod], family: str) -> list[dict[str, Any]]:
    selector = service.spec.selector or {}
    groups: dict[tuple[tuple[str, str, int], ...], list[dict[str, Any]]] = {}
    for pod in pods:
        address = _address(pod, family)
        if pod.metadata.namespace != service.metadata.namespace or not address or pod.status.phase != "Running":
            continue
        if not all((pod.metadata.labels or {}).get(key) == value for key, value in selector.items()):
            continue
        resolved = ((port, _target_port(port, pod)) for port in service.spec.ports or ())
        ports = tuple((port.name, port.protocol, number) for port, number in resolved if number is not None)
        groups.setdefault(ports, []).append(_endpoint(pod, address, publish=service.spec.publish_not_ready_addresses))
    if not groups:
        groups[()] = []
    base = hashlib.sha256(f"{service.metadata.uid}{'' if family == 'IPv4' else family}".encode()).hexdigest()[:5]
    reference = OwnerReference(
        api_version="v1",
        kind="Service",
        name=service.metadata.name,
        uid=service.metadata.uid,
        controller=True,
        block_owner_deletion=True,
    )
    return [
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"{service.metadata.name}-{base}{index or ''}",
                "namespace": service.metadata.namespace,
                "labels": {SERVICE_NAME_LABEL: service.metadata.name, MANAGED_BY_LABEL: MANAGED_BY},
                "ownerReferences": [msgspec.to_builtins(reference)],
            },
            "addressType": family,
            "endpoints": endpoints,
            "ports": [{"name": name, "protocol": protocol, "port": number} for name, protocol, number in ports],
        }
        for index, (ports, endpoints) in enumerate(sorted(groups.items()))
    ]


def _target_port(port: ServicePort, pod: Pod) -> int | None:
    """The number behind a target port on one Pod; None when the Pod has no port of that name."""
    if isinstance(port.target_port, int):
        return port.target_port or port.port
    for container in pod.spec.containers:
        for each in container.ports or ():
            if each.name == port.target_port and each.protocol == port.protocol:
                return each.container_port
    return None


def _address(pod: Pod, family: str) -> str:
    """A Pod's address of a family, or nothing."""
    known = (pod.status.pod_ip, *(each.ip for each in pod.status.pod_ips or ()))
    return next((ip for ip in known if ip and (":" in ip) == (family == "IPv6")), "")


def _endpoint(pod: Pod, address: str, *, publish: bool) -> dict[str, Any]:
    ready = is_ready(pod)
    return {
        "addresses": [address],
        "conditions": {"ready": publish or (ready and not is_going(pod)), "serving": ready, "terminating": is_going(pod)},
        "nodeName": pod.spec.node_name,
        "targetRef": {"kind": "Pod", "namespace": pod.metadata.namespace, "name": pod.metadata.name, "uid": pod.metadata.uid},
    }


def same_endpoints(slice_: EndpointSlice, body: Mapping[str, Any]) -> bool:
    """Whether a slice already says what its body would."""
    wanted = msgspec.convert(body, EndpointSlice)
    return (slice_.endpoints or (), slice_.ports or ()) == (wanted.endpoints or (), wanted.ports or ())
