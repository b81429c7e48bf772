"""Decide which ReplicaSets a Deployment has, and how many Pods each: how one template takes over from another.

A pure function from views to values; lab.manager carries it out. Each template has a ReplicaSet, named after the template's hash;
those of earlier templates stay, empty, so that `kubectl rollout history` and `undo` find them (deployment_controller of
Kubernetes; left out: proportional scaling in the middle of a rollout, progress deadlines, minReadySeconds).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from kube.objects import View
from lab.kinds import Deployment, Pod, ReplicaSet
from lab.workloads import Changes, is_going, is_ready, owned_by, reference, staying, template_hash

TEMPLATE_HASH_LABEL: Final = "pod-template-hash"
REVISION: Final = "deployment.kubernetes.io/revision"
_NOT_INHERITED: Final = frozenset({"kubectl.kubernetes.io/last-applied-configuration", REVISION})

MAX_SURGE: Final = "25%"
MAX_UNAVAILABLE: Final = "25%"


def _share(value: float | str | None, default: str, total: int, *, up: bool) -> int:
    """A count or a percentage of `total`, rounded as Kubernetes does."""
    value = default if value is None else value
    if isinstance(value, str):
        exact = total * int(value.removesuffix("%")) / 100
        return math.ceil(exact) if up else math.floor(exact)
    return int(value)


def roll_deployment(deployment: Deployment, replica_sets: Iterable[ReplicaSet], pods: Iterable[Pod], *, now: str) -> Changes:
    """What a Deployment needs. All ReplicaSets and Pods of its namespace are given; `now` is the time for conditions, RFC 3339."""
    everybody = list(pods)
    owned = [each for each in replica_sets if owned_by(each) == deployment.metadata.uid and not is_going(each)]
    owned.sort(key=lambda each: (_revision(each), each.metadata.name))
    hash_now = template_hash(deployment.spec.template)
    current = next((each for each in owned if (each.metadata.labels or {}).get(TEMPLATE_HASH_LABEL) == hash_now), None)
    old = [each for each in owned if each is not current]
    here = {each.metadata.uid: staying(everybody, each) for each in owned}
    ready = {each.metadata.uid: min(each.spec.replicas, sum(map(is_ready, here[each.metadata.uid]))) for each in owned}
    earlier = {each.metadata.uid for each in old}
    held_back = deployment.spec.strategy.type == "Recreate" and any(owned_by(pod) in earlier for pod in everybody)
    wanted = _replicas(deployment, current, old, ready, held_back=held_back)
    revision = max((_revision(each) for each in old), default=0) + 1
    if current is not None:
        revision = max(revision, _revision(current))
    patches: list[tuple[View, dict[str, Any]]] = []
    for each in owned:
        change: dict[str, Any] = {}
        if each is current and _revision(each) != revision:
            change["metadata"] = {"annotations": _annotations(deployment, revision)}
        if each.spec.replicas != wanted[each.metadata.uid]:
            change["spec"] = {"replicas": wanted[each.metadata.uid]}
        if change:
            patches.append((each, change))
    create = () if current or deployment.spec.paused else (_replica_set(deployment, hash_now, revision, wanted[""]),)
    if (current or create) and _revision(deployment) != revision:
        patches.append((deployment, {"metadata": {"annotations": {REVISION: str(revision)}}}))
    empty = [each for each in old if not each.spec.replicas and not here[each.metadata.uid]]
    return Changes(
        create=create,
        patch=tuple(patches),
        delete=tuple(empty[: max(0, len(empty) - deployment.spec.revision_history_limit)]),
        status=_status(deployment, here, here[current.metadata.uid] if current else [], now=now),
    )


def _replicas(
    deployment: Deployment,
    current: ReplicaSet | None,
    old: Sequence[ReplicaSet],
    ready: Mapping[str, int],
    *,
    held_back: bool,
) -> dict[str, int]:
    """How many Pods each ReplicaSet should have, by uid; under "" how many one that is yet to be made starts with."""
    spec = deployment.spec
    of_new = current.metadata.uid if current else ""
    have = current.spec.replicas if current else 0
    if spec.paused:
        active = [each for each in old if each.spec.replicas]
        kept = {each.metadata.uid: each.spec.replicas for each in (*old, *([current] if current else ()))}
        only = [*active, *([current] if current and have else ())]
        return kept | ({only[0].metadata.uid: spec.replicas} if len(only) == 1 else {})
    if spec.strategy.type == "Recreate":
        return {each.metadata.uid: 0 for each in old} | {of_new: have if held_back else spec.replicas}
    rolling = spec.strategy.rolling_update
    surge = _share(rolling.max_surge if rolling else None, MAX_SURGE, spec.replicas, up=True)
    missing_allowed = _share(rolling.max_unavailable if rolling else None, MAX_UNAVAILABLE, spec.replicas, up=False)
    if surge == 0 and missing_allowed == 0:
        missing_allowed = 1
    total = have + sum(each.spec.replicas for each in old)
    more = max(0, min(spec.replicas + surge - total, spec.replicas - have))
    wanted = {of_new: have + more if have < spec.replicas else spec.replicas}
    minimum = spec.replicas - missing_allowed
    spare = max(0, total - minimum - (have - ready.get(of_new, 0)))
    for each in old:  # First those that serve nobody.
        idle = min(spare, each.spec.replicas - ready[each.metadata.uid])
        wanted[each.metadata.uid] = each.spec.replicas - idle
        spare -= idle
    spare = min(spare, max(0, sum(ready.values()) - minimum))
    for each in old:
        busy = min(spare, wanted[each.metadata.uid])
        wanted[each.metadata.uid] -= busy
        spare -= busy
    return wanted


def _revision(view: View) -> int:
    """Which of its Deployment's templates a ReplicaSet holds, counted from 1; 0 when nothing says it."""
    text = (view.metadata.annotations or {}).get(REVISION, "")
    return int(text) if text.isdecimal() else 0


def _annotations(deployment: Deployment, revision: int) -> dict[str, str]:
    """The annotations of the ReplicaSet of a template: those of its Deployment (the cause of the change), and its number."""
    inherited = {k: v for k, v in (deployment.metadata.annotations or {}).items() if k not in _NOT_INHERITED}
    return {**inherited, REVISION: str(revision)}


def _replica_set(deployment: Deployment, hash_now: str, revision: int, replicas: int) -> dict[str, Any]:
    """The ReplicaSet of the present template."""
    template = deployment.spec.template
    meta = template.get("metadata") or {}
    labels = {**(meta.get("labels") or {}), TEMPLATE_HASH_LABEL: hash_now}
    selector = msgspec.to_builtins(deployment.spec.selector)
    selector["matchLabels"] = {**(selector.get("matchLabels") or {}), TEMPLATE_HASH_LABEL: hash_now}
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": f"{deployment.metadata.name}-{hash_now}",
            "namespace": deployment.metadata.namespace,
            "labels": labels,
            "annotations": _annotations(deployment, revision),
            "ownerReferences": [reference(deployment, "apps/v1", "Deployment")],
        },
        "spec": {"replicas": replicas, "selector": selector, "template": {**template, "metadata": {**meta, "labels": labels}}},
    }


def _status(deployment: Deployment, here: Mapping[str, Sequence[Pod]], new: Sequence[Pod], *, now: str) -> dict[str, Any]:
    """The status; `here` are the Pods of every ReplicaSet, `new` those of the present template."""
    replicas = deployment.spec.replicas
    present = sum(map(len, here.values()))
    ready = sum(is_ready(pod) for each in here.values() for pod in each)
    counts = {
        "replicas": present,
        "updatedReplicas": len(new),
        "readyReplicas": ready,
        "availableReplicas": ready,
        "unavailableReplicas": max(0, replicas - ready),
    }
    enough = ready >= replicas - _share(None, MAX_UNAVAILABLE, replicas, up=False)
    done = sum(map(is_ready, new)) >= replicas and present == len(new)
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
