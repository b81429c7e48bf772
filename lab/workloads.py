"""Decide which Pods there should be and where they run: the lab's controllers of ReplicaSets and DaemonSets, and its scheduler.

Pure functions from views to values; lab.manager carries them out. Everything is level-triggered: asked twice about the same
objects, the same is answered, and nothing is answered about a world that already is as it should be.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import msgspec

from config.kinds.meta import Condition, OwnerReference
from kube.objects import View
from lab import taints
from lab.kinds import DaemonSet, Node, Pod, ReplicaSet, Toleration

AnyView = TypeVar("AnyView", bound=View)

REVISION_LABEL: Final = "controller-revision-hash"
NODE_GRACE_S: Final = 40.0
"""A node whose lease was not renewed for so long is not ready (kube-controller-manager, node-monitor-grace-period)."""


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


@dataclass(frozen=True, slots=True)
class Changes:
    """What to do about one owner of others.

    `create` are whole bodies, `delete` and `patch` objects that are there (a patch is a merge patch), `status` is the one the
    owner should have.
    """

    create: tuple[dict[str, Any], ...] = ()
    delete: tuple[View, ...] = ()
    patch: tuple[tuple[View, dict[str, Any]], ...] = ()
    status: dict[str, Any] = field(default_factory=dict)


def reference(owner: View, api_version: str, kind: str) -> dict[str, Any]:
    """The reference with which an object says that `owner` controls it."""
    meta = owner.metadata
    named = OwnerReference(
        api_version=api_version, kind=kind, name=meta.name, uid=meta.uid, controller=True, block_owner_deletion=True
    )
    found: dict[str, Any] = msgspec.to_builtins(named)
    return found


def _pod_body(owner: View, kind: str, template: Mapping[str, Any], *, node: str = "", **labels: str) -> dict[str, Any]:
    """A Pod to create from a template."""
    meta = template.get("metadata") or {}
    spec = dict(template.get("spec") or {})
    if node:
        spec["nodeName"] = node
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": f"{owner.metadata.name}-",
            "namespace": owner.metadata.namespace,
            "labels": {**(meta.get("labels") or {}), **labels},
            "annotations": meta.get("annotations") or {},
            "ownerReferences": [reference(owner, "apps/v1", kind)],
        },
        "spec": spec,
    }


def staying(pods: Iterable[Pod], owner: View) -> list[Pod]:
    """The Pods of an owner that are not being deleted, those first that are worth most."""
    owned = (pod for pod in pods if owned_by(pod) == owner.metadata.uid and not is_going(pod))
    return sorted(owned, key=_most_useful_first)


def _most_useful_first(pod: Pod) -> tuple[bool, bool, str, str]:
    """Ready Pods before others, placed ones before others, old ones before young ones."""
    return (not is_ready(pod), not pod.spec.node_name, pod.metadata.creation_timestamp, pod.metadata.name)


def roll_replica_set(replica_set: ReplicaSet, pods: Iterable[Pod]) -> Changes:
    """What a ReplicaSet needs. `pods` are all Pods of its namespace."""
    spec = replica_set.spec
    here = staying(pods, replica_set)
    ready = sum(map(is_ready, here))
    counts = {"fullyLabeledReplicas": len(here), "readyReplicas": ready, "availableReplicas": ready}
    return Changes(
        create=(_pod_body(replica_set, "ReplicaSet", spec.template),) * max(0, spec.replicas - len(here)),
        delete=tuple(here[spec.replicas :]),
        status={
            "replicas": len(here),
            "observedGeneration": replica_set.metadata.generation,
            **{name: count for name, count in counts.items() if count},
        },
    )


def roll_daemon_set(daemon_set: DaemonSet, pods: Iterable[Pod], nodes: Iterable[Node]) -> Changes:
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
            create.append(_pod_body(daemon_set, "DaemonSet", spec.template, node=name, **{REVISION_LABEL: hash_now}))
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
    return Changes(tuple(create), tuple(delete), status=status)


def orphans(owned: Iterable[AnyView], owners: Iterable[View]) -> list[AnyView]:
    """The objects whose owner is gone."""
    known = {owner.metadata.uid for owner in owners}
    return [each for each in owned if (uid := owned_by(each)) and uid not in known and not is_going(each)]


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
