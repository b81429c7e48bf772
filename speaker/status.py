"""Report to the API server what this node announces: one ServiceL2Status or ServiceBGPStatus per Service, and Events.

reconcile.py hands in every decision that changed; a task of its own does the writing, so that an API server that is slow or away
never holds up an announcement. Desired and present objects are compared first: a status costs one create and one status
write, and nothing while nothing changes. Objects that other nodes left behind are removed by the new owner. It decides nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from config.kinds.service_l2_status import LABEL_NODE, LABEL_SERVICE_NAME, LABEL_SERVICE_NAMESPACE
from config.model import InterfaceName, NodeName, ObjectRef, PeerName, ServiceKey
from config.problem import Problem, Severity
from kube import configuration_state, objects
from kube.client import KubeClient, PatchKind
from kube.errors import Conflict, KubeError, NotFound, Unreachable
from kube.events import EventRecorder, EventType
from kube.objects import ObjectKey, ObjectReference, RawObject
from kube.resources import PODS, SERVICE_BGP_STATUSES, SERVICE_L2_STATUSES, Resource
from kube.store import Store
from speaker.metrics import Metrics
from speaker.plan import Announce, Decision
from speaker.reason import Reason
from telemetry.log import Logger

RETRY_S = 1.0
"""Pause before a write that failed is tried again."""
FIELD_MANAGER = "metallb-speaker"
ONLY_HERE = frozenset({"unresolved", "duplicate"})
"""Problems that need Secrets or nodes to be seen."""


def status_fingerprint(view: RawObject) -> object:
    """What of a ServiceL2Status matters here: all that we write."""
    return (view.metadata.labels, view.document.get("status"))


@dataclass(frozen=True, slots=True)
class Create:
    """Create the object, then write its status."""

    status: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Write:
    """Write the status of an object that exists."""

    name: str
    status: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete an object."""

    name: str


Action = Create | Write | Delete


def desired_status(service: ServiceKey, node: NodeName, announce: Announce | None) -> Mapping[str, Any] | None:
    """The status that should exist, or None. No interfaces are listed where the advertisement names none."""
    if announce is None:
        return None
    namespace, _, name = service.partition("/")
    listed: Iterable[InterfaceName] = () if announce.on_every_interface else sorted(announce.interfaces)
    return {
        "node": node,
        "serviceName": name,
        "serviceNamespace": namespace,
        "interfaces": [{"name": interface} for interface in listed],
    }


def desired_bgp_status(service: ServiceKey, node: NodeName, peers: Sequence[PeerName]) -> Mapping[str, Any] | None:
    """The ServiceBGPStatus that should exist, or None: of a Service that is announced to nobody there is none."""
    if not peers:
        return None
    namespace, _, name = service.partition("/")
    return {"node": node, "serviceName": name, "serviceNamespace": namespace, "peers": sorted(peers)}


@dataclass(frozen=True, slots=True)
class Form:
    """A kind of status object. `listed` is its list, which is absent where it is empty; `moves` says that one node has a Service."""

    resource: Resource[RawObject]
    prefix: str
    listed: str
    moves: bool


L2_STATUS = Form(SERVICE_L2_STATUSES, "l2-", "interfaces", moves=True)
BGP_STATUS = Form(SERVICE_BGP_STATUSES, "bgp-", "peers", moves=False)


def actions(
    desired: Mapping[str, Any] | None, present: Sequence[RawObject], listed: str = L2_STATUS.listed
) -> tuple[Action, ...]:
    """What to write so that exactly one object of this node and Service has the desired status, or none exists."""
    kept, surplus = (present[:1], present[1:]) if desired is not None else ((), present)
    todo: list[Action] = [Delete(one.metadata.name) for one in surplus]
    if desired is None:
        return tuple(todo)
    if not kept:
        return (*todo, Create(desired))
    written = {listed: []} | (kept[0].document.get("status") or {})
    if written != desired:
        todo.append(Write(kept[0].metadata.name, desired))
    return tuple(todo)


def service_of(view: RawObject) -> ServiceKey | None:
    """The Service that a status object is about, by its labels; None if they are missing."""
    labels = view.metadata.labels or {}
    namespace, name = labels.get(LABEL_SERVICE_NAMESPACE), labels.get(LABEL_SERVICE_NAME)
    return ServiceKey(f"{namespace}/{name}") if namespace and name else None


class Reporter:
    """Writes what was decided about one protocol. `own` is the store of this node's status objects, kept by a reflector."""

    def __init__(
        self,
        client: KubeClient,
        recorder: EventRecorder,
        own: Store[RawObject],
        services: Store[objects.Service],
        *,
        me: NodeName,
        namespace: str,
        pod_name: str,
        metrics: Metrics,
        log: Logger,
        form: Form = L2_STATUS,
    ) -> None:
        self._form = form
        self._client = client
        self._metrics = metrics
        self._recorder = recorder
        self._own = own
        self._services = services
        self._me = me
        self._namespace = namespace
        self._pod_name = pod_name
        self._log = log
        self._desired: dict[ServiceKey, Mapping[str, Any]] = {}
        self._taken_over: set[ServiceKey] = set()
        self._pending: set[ServiceKey] = set()
        self._created: dict[ServiceKey, RawObject] = {}  # Until the watch shows them.
        self._complete = False
        self._told: dict[ObjectRef, str] = {}
        self._owner: Sequence[Mapping[str, Any]] | None = None
        self.wake = asyncio.Event()
        """Set when there may be something to write; the reflector of `own` sets it too."""

    def changed(self, service: ServiceKey, before: Decision | None, after: Decision | None) -> None:
        """Take note of a decision that changed, and emit the Events that users read."""
        old, new = (None if one is None else one.announce for one in (before, after))
        if after is not None and after.reason is Reason.NO_USABLE_INTERFACE and after != before:
            for address in after.addresses:
                text = f'announcing "{address}" from node "{self._me}" with protocol "layer2" failed: {after.detail}'
                self._emit(service, "Warning", "announceFailed", text)
        if new == old:
            return
        if new is not None:
            self.assigned(service, "layer2")
            if old is None:
                self._taken_over.add(service)
        self.want(service, desired_status(service, self._me, new))

    def about(self, ref: ObjectRef, raw: RawObject, reason: str, note: str) -> None:
        """Emit a Warning about a configuration object."""
        self._recorder.emit(configuration_state.reference(ref, raw), "Warning", reason, note)

    def assigned(self, service: ServiceKey, protocol: str) -> None:
        """Tell people that this node announces a Service."""
        self._emit(service, "Normal", "nodeAssigned", f'announcing from node "{self._me}" with protocol "{protocol}"')

    def want(self, service: ServiceKey, status: Mapping[str, Any] | None) -> None:
        """Let this be the status of a Service, or let there be none."""
        if status is None:
            self._desired.pop(service, None)
        else:
            self._desired[service] = status
        self._pending.add(service)
        self.wake.set()

    def problems(self, problems: Sequence[Problem], find: Callable[[ObjectRef], RawObject | None]) -> None:
        """Emit an Event on each BGPPeer with a problem that only this node sees, once for each change; the controller tells the rest."""
        found: dict[ObjectRef, str] = {}
        for problem in problems:
            if problem.object.kind == "BGPPeer" and problem.code in ONLY_HERE and problem.severity is Severity.ERROR:
                found[problem.object] = "; ".join(
                    filter(None, (found.get(problem.object), f"{problem.path}: {problem.message}"))
                )
        for ref, text in found.items():
            raw = find(ref)
            if text != self._told.get(ref) and raw is not None:
                note = f'on node "{self._me}": {text}'
                self._recorder.emit(configuration_state.reference(ref, raw), "Warning", "ConfigurationInvalid", note)
        self._told = found

    def conflict(self, service: ServiceKey, text: str) -> None:
        """Tell people that a stranger claims an address of a Service."""
        self._emit(service, "Warning", "addressConflict", text)

    def plan_complete(self) -> None:
        """Every Service has been decided once: status objects of Services that are not announced here are leftovers."""
        if not self._complete:
            self._complete = True
            self.wake.set()

    async def run(self) -> None:
        """Write for ever. What fails is tried again."""
        while True:
            await self.wake.wait()
            self.wake.clear()
            if not self._complete or not self._own.synced:
                continue
            self._look_at_own()
            if await self._write_pending():
                await asyncio.sleep(RETRY_S)
                self.wake.set()

    def _emit(self, service: ServiceKey, kind: EventType, reason: str, text: str) -> None:
        view = self._services.get(ObjectKey(service))
        if view is None:
            return
        meta = view.metadata
        regarding = ObjectReference(
            api_version="v1",
            kind="Service",
            namespace=meta.namespace,
            name=meta.name,
            uid=meta.uid,
            resource_version=meta.resource_version,
        )
        self._recorder.emit(regarding, kind, reason, text)

    def _look_at_own(self) -> None:
        """Objects that were changed or deleted by others, or left by an earlier run, are put right."""
        for key in self._own.take_changed():
            view = self._own.get(key)
            service = None if view is None else service_of(view)
            if view is None or view.document.get("status"):
                for created in [one for one, made in self._created.items() if made.key == key]:
                    del self._created[created]  # The watch has caught up with what was written.
                    self._pending.add(created)
            if service is not None:
                self._pending.add(service)
            elif view is not None:
                self._log.warning("status_without_labels", object=key)
            else:
                self._pending |= self._desired.keys()  # One is gone; which Service it was about is not known any more.

    async def _write_pending(self) -> bool:
        """Write what is due; whether something failed and is still due."""
        batch = sorted(self._pending)
        if not batch:
            return False
        try:
            by_service: dict[ServiceKey, list[RawObject]] = {}
            for view in self._own.snapshot().values():
                if (about := service_of(view)) is not None:
                    by_service.setdefault(about, []).append(view)
            for service in batch:
                self._pending.discard(service)
                try:
                    await self._write(service, by_service.get(service, []))
                except KubeError:
                    self._pending.add(service)
                    raise
            if self._form.moves:
                await self._remove_predecessors()
        except KubeError as error:
            self._metrics.update_errors.increase()
            self._log.warning("status_not_written", error=error.message, retry_s=RETRY_S)
            return True
        return False

    async def _write(self, service: ServiceKey, present: list[RawObject]) -> None:
        if (assumed := self._created.get(service)) is not None:
            present = [assumed, *(one for one in present if one.key != assumed.key)]
        desired = self._desired.get(service)
        present.sort(key=lambda one: (one.metadata.creation_timestamp, one.metadata.name))
        for action in actions(desired, present, self._form.listed):
            match action:
                case Create():
                    await self._create(service, action.status)
                case Write():
                    await self._write_status(action.name, action.status)
                case Delete():
                    await self._delete(action.name)
                    self._created.pop(service, None)

    async def _create(self, service: ServiceKey, status: Mapping[str, Any]) -> None:
        namespace, _, name = service.partition("/")
        metadata: dict[str, Any] = {
            "generateName": self._form.prefix,
            "namespace": self._namespace,
            "labels": {LABEL_NODE: self._me, LABEL_SERVICE_NAME: name, LABEL_SERVICE_NAMESPACE: namespace},
        }
        if owner := await self._owner_references():
            metadata["ownerReferences"] = owner
        body = {
            "apiVersion": self._form.resource.api_version,
            "kind": self._form.resource.kind,
            "metadata": metadata,
            "spec": {},
        }
        made = await self._client.create(self._form.resource, body, namespace=self._namespace)
        # A created object carries no status yet; the watch may be slow to show it, and it must not be created twice.
        self._created[service] = made
        await self._write_status(made.metadata.name, status)
        self._created[service] = self._form.resource.from_mapping({**made.document, "status": dict(status)})

    async def _write_status(self, name: str, status: Mapping[str, Any]) -> None:
        try:
            await self._client.patch(
                self._form.resource,
                name,
                {"status": dict(status)},
                namespace=self._namespace,
                subresource="status",
                kind=PatchKind.MERGE,
                field_manager=FIELD_MANAGER,
            )
        except NotFound:
            self._log.info("status_gone", object=name)  # Its deletion comes by the watch, then it is made anew.

    async def _delete(self, name: str) -> None:
        with contextlib.suppress(NotFound, Conflict):  # Somebody was faster.
            await self._client.delete(self._form.resource, name, namespace=self._namespace)

    async def _remove_predecessors(self) -> None:
        """Delete what the previous owners of Services that were taken over have left, dead ones above all."""
        taken = {service for service in self._taken_over if service in self._desired}
        self._taken_over &= taken
        if not taken:
            return
        selector = ""
        if len(taken) == 1:
            namespace, _, name = next(iter(taken)).partition("/")
            selector = f"{LABEL_SERVICE_NAMESPACE}={namespace},{LABEL_SERVICE_NAME}={name}"
        listed, _ = await self._client.list(self._form.resource, namespace=self._namespace, label_selector=selector)
        for view in listed:
            if service_of(view) in taken and (view.metadata.labels or {}).get(LABEL_NODE) != self._me:
                await self._delete(view.metadata.name)
        self._taken_over -= taken

    async def _owner_references(self) -> Sequence[Mapping[str, Any]]:
        """The speaker's own Pod, so that its status objects go with it."""
        if self._owner is None:
            self._owner = ()
            if self._pod_name:
                try:
                    pod = await self._client.get(PODS, self._pod_name, self._namespace)
                    self._owner = ({"apiVersion": "v1", "kind": "Pod", "name": self._pod_name, "uid": pod.metadata.uid},)
                except Unreachable:
                    self._owner = None
                    raise
                except KubeError as error:
                    self._log.warning("own_pod_unknown", pod=self._pod_name, error=error.message)
        return self._owner
