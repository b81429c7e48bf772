"""What keeps Pods off nodes: the taints a node should have, who bears them, who has to go. Pure; lab.manager carries it out.

A node that is not ready or was cordoned gets the taints of a real cluster, so that `kubectl describe node` shows them. Every Pod
bears those of a lost node for five minutes unless it says otherwise; Pods of DaemonSets bear them for ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from lab.kinds import Node, Pod, Taint, Toleration

NOT_READY: Final = "node.kubernetes.io/not-ready"
UNREACHABLE: Final = "node.kubernetes.io/unreachable"
UNSCHEDULABLE: Final = "node.kubernetes.io/unschedulable"
OURS: Final = frozenset({NOT_READY, UNREACHABLE, UNSCHEDULABLE})
BORNE_S: Final = 300
"""How long a Pod stays on a lost node (the admission plug-in DefaultTolerationSeconds)."""


def wanted(node: Node, *, now: str) -> tuple[Taint, ...]:
    """The taints a node should have: the users' own, and those that follow from its state. Those it has keep their times."""
    ready = next((each.status for each in node.status.conditions or () if each.type == "Ready"), "Unknown")
    lost = {"True": (), "False": (NOT_READY,)}.get(ready, (UNREACHABLE,))
    pairs = [(key, effect) for key in lost for effect in ("NoSchedule", "NoExecute")]
    if node.spec.unschedulable:
        pairs.append((UNSCHEDULABLE, "NoSchedule"))
    known = {(taint.key, taint.effect): taint for taint in node.spec.taints or ()}
    own = tuple(taint for taint in node.spec.taints or () if taint.key not in OURS)
    return own + tuple(known.get(pair, Taint(key=pair[0], effect=pair[1], time_added=now)) for pair in pairs)


def tolerates(tolerations: Iterable[Toleration], taint: Taint) -> Toleration | None:
    """The first of the tolerations that bears a taint."""
    for each in tolerations:
        key = not each.key or each.key == taint.key
        if key and each.effect in {"", taint.effect} and (each.operator == "Exists" or each.value == taint.value):
            return each
    return None


def keep_off(tolerations: Sequence[Toleration], node: Node) -> bool:
    """Whether a node's taints keep a new Pod with these tolerations away."""
    return any(
        taint.effect in {"NoSchedule", "NoExecute"} and tolerates(tolerations, taint) is None
        for taint in node.spec.taints or ()
    )


def evicted(pods: Iterable[Pod], nodes: Iterable[Node], *, now: datetime) -> list[Pod]:
    """The Pods that must leave their node by now."""
    known = {node.metadata.name: node for node in nodes}
    gone = []
    for pod in pods:
        node = known.get(pod.spec.node_name)
        taints = [taint for taint in (node.spec.taints or () if node else ()) if taint.effect == "NoExecute"]
        if pod.metadata.deletion_timestamp is None and any(_is_over(pod, taint, now) for taint in taints):
            gone.append(pod)
    return gone


def _is_over(pod: Pod, taint: Taint, now: datetime) -> bool:
    """Whether a Pod no longer bears a NoExecute taint."""
    lost = taint.key in {NOT_READY, UNREACHABLE}
    borne = tolerates(pod.spec.tolerations or (), taint)
    if borne is None and lost and any(owner.kind == "DaemonSet" for owner in pod.metadata.owner_references or ()):
        return False
    limit_s = borne.toleration_seconds if borne is not None else BORNE_S if lost else 0
    if limit_s is None:
        return False
    since = datetime.fromisoformat(taint.time_added) if taint.time_added else now
    return (now - since).total_seconds() >= limit_s
