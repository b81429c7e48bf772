"""Carry out what lab.deployments, lab.workloads and lab.endpoints decide: the lab's controller manager and scheduler.

One loop over the Mirror. Between a write and its echo in the watch the loop would see an old world and write again, so Pods
that were created or deleted are remembered until the Mirror shows it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import msgspec

from kube.errors import Conflict, KubeError, NotFound
from kube.objects import EndpointSlice, ObjectKey, View
from kube.resources import ENDPOINT_SLICES, Resource
from lab import endpoints, taints, workloads
from lab.client import LabClient, timestamp
from lab.deployments import roll_deployment
from lab.kinds import DAEMON_SETS, DEPLOYMENTS, NODES, PODS, REPLICA_SETS, DaemonSet, Deployment, Node, Pod, ReplicaSet
from lab.mirror import Mirror
from telemetry.log import get_logger

RETRY_S: Final = 0.5
LOOK_AT_LEASES_S: Final = 1.0
FORGET_AFTER_S: Final = 10.0

log = get_logger(__name__)

_Owner = Deployment | ReplicaSet | DaemonSet
_AnyOwner = TypeVar("_AnyOwner", Deployment, ReplicaSet, DaemonSet)


def _wanted(owners: Iterable[_AnyOwner]) -> list[_AnyOwner]:
    """Those that are not being deleted."""
    return [each for each in owners if not workloads.is_going(each)]


class Manager:
    """Keeps Pods, their places and EndpointSlices as Deployments, DaemonSets and Services want them."""

    def __init__(self, client: LabClient, mirror: Mirror) -> None:
        self._client = client
        self._mirror = mirror
        self._dirty = mirror.listen()
        self._assumed: dict[str, tuple[Pod, float]] = {}
        self._deleted: dict[str, float] = {}
        self._bound: dict[str, str] = {}
        self._slices_written: dict[ObjectKey, str] = {}
        self._renewed: dict[str, tuple[str, float]] = {}
        self._failed = False

    async def run(self) -> None:
        """Decide and do, for ever."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_AT_LEASES_S):
                    await self._dirty.wait()
            self._dirty.clear()
            if not self._mirror.synced:
                continue
            self._failed = False
            await self._reconcile()
            if self._failed:
                await asyncio.sleep(RETRY_S)
                self._dirty.set()

    async def _reconcile(self) -> None:
        await self._watch_over_nodes()
        pods = self._pods()
        nodes = list(self._mirror.nodes.snapshot().values())
        deployments = list(self._mirror.deployments.snapshot().values())
        replica_sets = list(self._mirror.replica_sets.snapshot().values())
        daemon_sets = list(self._mirror.daemon_sets.snapshot().values())
        for deployment in _wanted(deployments):
            rolled = roll_deployment(deployment, replica_sets, pods, now=timestamp())
            await self._carry_out(DEPLOYMENTS, deployment, rolled, makes=REPLICA_SETS)
        for replica_set in _wanted(replica_sets):
            rolled = workloads.roll_replica_set(replica_set, pods)
            await self._carry_out(REPLICA_SETS, replica_set, rolled, makes=PODS)
        for daemon_set in _wanted(daemon_sets):
            rolled = workloads.roll_daemon_set(daemon_set, pods, nodes)
            await self._carry_out(DAEMON_SETS, daemon_set, rolled, makes=PODS)
        for replica_set in workloads.orphans(replica_sets, deployments):
            await self._delete(replica_set)
        for pod in workloads.orphans(pods, (*replica_sets, *daemon_sets)):
            await self._delete(pod)
        await self._taint(nodes, pods)
        for pod, node in workloads.place(self._pods(), nodes):
            if await self._try(self._client.bind(pod, node)):
                self._bound[pod.metadata.uid] = node
        await self._write_slices()

    async def _try(self, doing: Awaitable[Any]) -> bool:
        """Do one thing in the API. What lost a race is seen again with the next event; other failures are tried again."""
        try:
            await doing
        except (NotFound, Conflict):
            return False
        except KubeError as error:
            log.warning("api_call_failed", error=str(error))
            self._failed = True
            return False
        return True

    def _pods(self) -> list[Pod]:
        """All Pods, as they will be in the Mirror once everything written has come back."""
        now = asyncio.get_running_loop().time()
        seen = self._mirror.pods.snapshot()
        uids = {pod.metadata.uid for pod in seen.values()}
        self._assumed = {u: (p, until) for u, (p, until) in self._assumed.items() if u not in uids and until > now}
        self._deleted = {u: until for u, until in self._deleted.items() if u in uids and until > now}
        self._bound = {u: node for u, node in self._bound.items() if u in uids or u in self._assumed}
        pods = [*seen.values(), *(pod for pod, _ in self._assumed.values())]
        return [self._placed(pod) for pod in pods if pod.metadata.uid not in self._deleted]

    def _placed(self, pod: Pod) -> Pod:
        node = self._bound.get(pod.metadata.uid, "")
        if pod.spec.node_name or not node:
            return pod
        return msgspec.structs.replace(pod, spec=msgspec.structs.replace(pod.spec, node_name=node))

    async def _carry_out(
        self, resource: Resource[Any], owner: _Owner, changes: workloads.Changes, *, makes: Resource[Any]
    ) -> None:
        now = asyncio.get_running_loop().time()
        for view in changes.delete:
            await self._delete(view)
        for view, patch in changes.patch:
            of, meta = resource if view is owner else makes, view.metadata
            await self._try(self._client.patch(of, meta.name, patch, namespace=meta.namespace))
        for body in changes.create:
            try:
                made = await self._client.create(makes, body, namespace=owner.metadata.namespace)
            except (NotFound, Conflict):  # The namespace is gone; what we made already is there.
                continue
            except KubeError as error:
                log.warning("not_created", kind=makes.kind, owner=owner.key, error=str(error))
                self._failed = True
                return
            if isinstance(made, Pod):
                self._assumed[made.metadata.uid] = (made, now + FORGET_AFTER_S)
        status = owner.status
        if any(status.get(key) != value for key, value in changes.status.items()) or any(
            key not in changes.status for key in status if key != "collisionCount"
        ):
            wanted = {"status": {**dict.fromkeys(status), **changes.status}}
            meta = owner.metadata
            await self._try(self._client.patch(resource, meta.name, wanted, namespace=meta.namespace, subresource="status"))

    async def _delete(self, view: View) -> None:
        meta = view.metadata
        resource: Resource[Any] = PODS if isinstance(view, Pod) else REPLICA_SETS
        gone = await self._try(self._client.delete(resource, meta.name, namespace=meta.namespace, uid=meta.uid))
        if isinstance(view, Pod):
            if gone:
                self._deleted[meta.uid] = asyncio.get_running_loop().time() + FORGET_AFTER_S
            if not view.spec.node_name:  # No kubelet will finish it.
                await self._try(self._client.remove(view))

    async def _write_slices(self) -> None:
        """Create, correct and delete EndpointSlices."""
        pods = list(self._mirror.pods.snapshot().values())
        existing = self._mirror.slices.snapshot()
        wanted: set[ObjectKey] = set()
        for service in self._mirror.services.snapshot().values():
            if workloads.is_going(service):
                continue
            for body in endpoints.slices_of(service, pods):
                key = ObjectKey(f"{body['metadata']['namespace']}/{body['metadata']['name']}")
                wanted.add(key)
                await self._write_slice(key, body, existing.get(key))
        for key, slice_ in existing.items():
            ours = (slice_.metadata.labels or {}).get(endpoints.MANAGED_BY_LABEL) == endpoints.MANAGED_BY
            if ours and key not in wanted:
                meta = slice_.metadata
                self._slices_written.pop(key, None)
                await self._try(self._client.delete(ENDPOINT_SLICES, meta.name, namespace=meta.namespace, uid=meta.uid))

    async def _write_slice(self, key: ObjectKey, body: dict[str, Any], existing: EndpointSlice | None) -> None:
        """Make one slice say what it should. What was written is not written again before the Mirror had time to show it."""
        if existing is not None and endpoints.same_endpoints(existing, body):
            self._slices_written.pop(key, None)
            return
        digest = hashlib.sha256(msgspec.json.encode(body)).hexdigest()
        version = f"{digest} {existing.metadata.resource_version if existing else ''}"
        if self._slices_written.get(key) == version:
            return
        meta = body["metadata"]
        if existing is None:
            done = await self._try(self._client.create(ENDPOINT_SLICES, body, namespace=meta["namespace"]))
        else:
            done = await self._try(self._client.update(ENDPOINT_SLICES, meta["name"], body, namespace=meta["namespace"]))
        if done:
            self._slices_written[key] = version

    async def _watch_over_nodes(self) -> None:
        """Mark nodes whose lease was not renewed in time, and their Pods, not ready."""
        now = asyncio.get_running_loop().time()
        leases = self._mirror.leases.snapshot()
        for node in self._mirror.nodes.snapshot().values():
            lease = leases.get(ObjectKey(f"kube-node-lease/{node.metadata.name}"))
            renewal = lease.spec.renew_time if lease else ""
            if self._renewed.get(node.metadata.name, ("", 0.0))[0] != renewal or node.metadata.name not in self._renewed:
                self._renewed[node.metadata.name] = (renewal, now)
            overdue = now - self._renewed[node.metadata.name][1] > workloads.NODE_GRACE_S
            if overdue and workloads.condition(node.status.conditions, "Ready") != "Unknown":
                await self._declare_unreachable(node)

    async def _taint(self, nodes: Sequence[Node], pods: Sequence[Pod]) -> None:
        """Give nodes the taints that follow from their state, and take away the Pods that do not bear them."""
        for node in nodes:
            wanted = taints.wanted(node, now=timestamp())
            if wanted != (node.spec.taints or ()):
                patch = {"spec": {"taints": [msgspec.to_builtins(taint) for taint in wanted] or None}}
                await self._try(self._client.patch(NODES, node.metadata.name, patch))
        for pod in taints.evicted(pods, nodes, now=datetime.now(UTC)):
            log.warning("pod_evicted", pod=pod.key, node=pod.spec.node_name)
            await self._delete(pod)

    async def _declare_unreachable(self, node: Node) -> None:
        log.warning("node_not_ready", node=node.metadata.name)
        condition = {
            "type": "Ready",
            "status": "Unknown",
            "reason": "NodeStatusUnknown",
            "message": "Kubelet stopped posting node status.",
            "lastTransitionTime": timestamp(),
        }
        others = [msgspec.to_builtins(each) for each in node.status.conditions or () if each.type != "Ready"]
        patch = {"status": {"conditions": [*others, condition]}}
        await self._try(self._client.patch(NODES, node.metadata.name, patch, subresource="status"))
        for pod in self._mirror.pods.snapshot().values():
            if pod.spec.node_name == node.metadata.name and workloads.is_ready(pod):
                kept = [msgspec.to_builtins(each) for each in pod.status.conditions or () if each.type != "Ready"]
                unready = {"type": "Ready", "status": "False", "lastTransitionTime": timestamp()}
                patch = {"status": {"conditions": [*kept, unready]}}
                meta = pod.metadata
                await self._try(self._client.patch(PODS, meta.name, patch, namespace=meta.namespace, subresource="status"))
