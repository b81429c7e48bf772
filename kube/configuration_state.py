"""The ConfigurationState of a daemon: whether what users wrote is in force, for people and tests to look at.

The controller has the object `controller`, every speaker one named after its node. A daemon says after every compilation what
is wrong; this module keeps the object so: made if it is missing (also when somebody deletes it), with its labels, owned by
our Pod, with which it goes; written only when it does not say so already, and at most twice a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from config.kinds import GROUP, KINDS
from config.kinds.configuration_state import LABEL_COMPONENT_TYPE, LABEL_NODE_NAME
from config.model import ObjectRef
from config.problem import Problem, error_summary
from kube import objects
from kube.client import KubeClient, PatchKind
from kube.errors import AlreadyExists, KubeError, NotFound
from kube.informer import Log, Reflector
from kube.objects import ObjectKey
from kube.resources import PODS, metallb
from kube.store import Store, everything

STATES: Final = metallb("configurationstates", "ConfigurationState")
BETWEEN_WRITES_S: Final = 0.5
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Role:
    """Whose state it is: the name and labels of the object, and the type of the condition and who manages it."""

    name: str
    labels: Mapping[str, str]
    condition: str
    field_manager: str


CONTROLLER: Final = Role("controller", {LABEL_COMPONENT_TYPE: "controller"}, "poolReconcilerValid", "poolReconciler")


def speaker(node: str) -> Role:
    """The role of the speaker on a node."""
    labels = {LABEL_COMPONENT_TYPE: "speaker", LABEL_NODE_NAME: node}
    return Role(f"speaker-{node}", labels, "configReconcilerValid", "configReconciler")


class StateKeeper:
    """Keeps the object. Use: run() and the reflector in tasks; say() after every compilation."""

    def __init__(
        self,
        client: KubeClient,
        role: Role,
        log: Log,
        *,
        namespace: str,
        pod_name: str,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.writes = 0
        self.failures = 0
        self._client = client
        self._role = role
        self._log = log
        self._namespace = namespace
        self._pod_name = pod_name
        self._clock = clock
        self._wanted: str | None = None
        self._wake = asyncio.Event()
        self._store: Store[objects.RawObject] = Store()
        self._owner: Mapping[str, Any] | None = None

    def reflector(self) -> Reflector[objects.RawObject]:
        """What watches the object; has to run beside run()."""
        return Reflector(
            self._client,
            STATES,
            self._store,
            dirty=self._wake,
            fingerprint=everything,
            log=self._log,
            namespace=self._namespace,
            field_selector=f"metadata.name={self._role.name}",
        )

    def say(self, problems: Iterable[Problem]) -> None:
        """The object shall say this from now on."""
        wanted = error_summary(problems)
        if wanted != self._wanted:
            self._wanted = wanted
            self._wake.set()

    def stand_by(self) -> None:
        """Want nothing any more: another process writes."""
        self._wanted = None

    async def run(self) -> None:
        """Keep the object for ever."""
        pause_s = FIRST_PAUSE_S
        self._wake.set()
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._wanted is None or not self._store.synced:
                continue
            try:
                wrote = await self.step(self._wanted)
            except KubeError as error:
                self.failures += 1
                self._log.warning("configuration_state_not_written", error=error.message, retry_in_s=pause_s)
                self._wake.set()
                await self._client.pause(pause_s)
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
            else:
                pause_s = FIRST_PAUSE_S
                if wrote:
                    await asyncio.sleep(BETWEEN_WRITES_S)

    async def step(self, wanted: str) -> bool:
        """Write what is missing; whether there was something.

        Raises:
            KubeError: the API server refused, or could not be asked.

        """
        seen = self._store.get(ObjectKey(f"{self._namespace}/{self._role.name}"))
        if seen is None:
            seen = await self._create()
        if seen is None:
            return False  # Somebody else made it; the watch brings it.
        adopted = await self._adopt(seen)
        status = seen.document.get("status") or {}
        if says(status, self._role.condition) == wanted:
            return adopted
        patch = {"status": status_saying(wanted, status, self._clock(), self._role.condition)}
        try:
            done = await self._client.patch(
                STATES,
                self._role.name,
                patch,
                namespace=self._namespace,
                subresource="status",
                kind=PatchKind.MERGE,
                field_manager=self._role.field_manager,
            )
        except NotFound:
            return False  # Just deleted; the watch tells, and it is made again.
        self._store.put(done, everything)
        self.writes += 1
        return True

    async def _adopt(self, seen: objects.RawObject) -> bool:
        """Give an object that an earlier Pod, or somebody else, made our labels and our owner; whether that was needed."""
        metadata = seen.document.get("metadata") or {}
        labels, owners = metadata.get("labels") or {}, metadata.get("ownerReferences") or []
        owner = await self._own_pod()
        mine = owners if owner is None else [owner]
        if self._role.labels.items() <= labels.items() and owners == mine:
            return False
        patch = {"metadata": {"labels": dict(self._role.labels), "ownerReferences": mine}}
        try:
            done = await self._client.patch(STATES, self._role.name, patch, namespace=self._namespace, kind=PatchKind.MERGE)
        except NotFound:
            return False  # Just deleted; the watch tells, and it is made again.
        self._store.put(done, everything)
        self.writes += 1
        return True

    async def _create(self) -> objects.RawObject | None:
        metadata: dict[str, Any] = {
            "name": self._role.name,
            "namespace": self._namespace,
            "labels": dict(self._role.labels),
        }
        owner = await self._own_pod()
        if owner is not None:
            metadata["ownerReferences"] = [owner]
        body = {"apiVersion": STATES.api_version, "kind": STATES.kind, "metadata": metadata}
        try:
            made = await self._client.create(STATES, body, namespace=self._namespace)
        except AlreadyExists:
            return None
        self._store.put(made, everything)
        self.writes += 1
        return made

    async def _own_pod(self) -> Mapping[str, Any] | None:
        """The reference to our Pod, with which the object goes; None where there is no such Pod."""
        if self._owner is None and self._pod_name:
            try:
                pod = await self._client.get(PODS, self._pod_name, self._namespace)
            except NotFound:
                return None
            self._owner = {"apiVersion": "v1", "kind": "Pod", "name": self._pod_name, "uid": pod.metadata.uid}
        return self._owner


def says(status: Mapping[str, Any], type_: str) -> str | None:
    """The error summary that a complete status has; None for one that is not as we would write it."""
    summary = status.get("errorSummary")
    condition = _condition_in(status, type_)
    if not isinstance(summary, str) or condition is None:
        return None
    expected = _condition(type_, summary, str(condition.get("lastTransitionTime", "")))
    complete = condition == expected and status.get("result") == ("Invalid" if summary else "Valid")
    return summary if complete else None


def status_saying(summary: str, before: Mapping[str, Any], now: datetime, type_: str) -> dict[str, Any]:
    """The status with this error summary; conditions of other types stay, and a time only moves with its condition."""
    condition = _condition(type_, summary, now.strftime("%Y-%m-%dT%H:%M:%SZ"))
    old = _condition_in(before, type_)
    if old is not None and old.get("status") == condition["status"] and old.get("lastTransitionTime"):
        condition["lastTransitionTime"] = old["lastTransitionTime"]
    others = [one for one in before.get("conditions") or () if one.get("type") != type_]
    return {"result": "Invalid" if summary else "Valid", "errorSummary": summary, "conditions": [*others, condition]}


def _condition_in(status: Mapping[str, Any], type_: str) -> Mapping[str, Any] | None:
    return next((one for one in status.get("conditions") or () if one.get("type") == type_), None)


def _condition(type_: str, summary: str, since: str) -> dict[str, Any]:
    return {
        "type": type_,
        "status": "False" if summary else "True",
        "reason": "ConfigurationError" if summary else "Reconciled",
        "message": summary,
        "lastTransitionTime": since,
    }


def reference(ref: ObjectRef, raw: objects.RawObject) -> objects.ObjectReference:
    """What an Event about a configuration object points at."""
    return objects.ObjectReference(
        api_version=f"{GROUP}/{KINDS[ref.kind].storage.name}",
        kind=ref.kind,
        namespace=ref.namespace,
        name=ref.name,
        uid=raw.metadata.uid,
        resource_version=raw.metadata.resource_version,
    )
