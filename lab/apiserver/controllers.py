"""What a cluster's controllers do that nobody else in the lab does: they finish what the API only begins.

Namespaces that end, objects whose owners are gone, definitions that are accepted or removed, the default service account of
each namespace. One task that wakes when the store changes; a pass looks only at what the change touched.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from lab.apiserver import crds
from lab.apiserver.api import Api, Call, DeleteOptions
from lab.apiserver.errors import ApiError
from lab.apiserver.resources import Resource
from lab.apiserver.store import Change, Key, Stored
from lab.apiserver.watching import Hub

Json = dict[str, Any]
_CRDS = "customresourcedefinitions.apiextensions.k8s.io"
Reference = tuple[str, Key]  # storage name, key
# A namespace keeps its contents for so long after it was deleted: `kubectl delete -f` of a namespace and what is in it asks
# for each, one after the other, and an object that is gone already would fail the command.
NAMESPACE_GRACE_S = 1.0


class Controllers:
    """The task and its memory. Use: controllers = Controllers(api, hub); await controllers.run()."""

    def __init__(self, api: Api, hub: Hub) -> None:
        self._api, self._hub = api, hub
        self._wake = asyncio.Event()
        self._dependents: dict[str, set[Reference]] = {}  # owner uid -> what it owns
        self._gone: list[str] = []
        self._namespaces: set[str] = set()
        self._definitions: set[str] = set()
        self._ending: set[Reference] = set()
        self._held: dict[str, Reference] = {}  # uid -> an owner whose Foreground deletion waits for what it owns
        self._due_at: dict[str, float] = {}  # Namespace uid -> when its contents go (loop time)
        api.store.listeners.append(self._changed)

    def start(self) -> None:
        """Take up what is stored: install definitions, look at everything once."""
        store = self._api.store
        for key in store.shelf(_CRDS).sorted_keys():
            self._install(store.shelf(_CRDS).objects[key])
            self._definitions.add(key[1])
        alive = set()
        for storage in store.resources():
            for stored in store.shelf(storage).objects.values():
                alive.add(stored.uid)
                self._note(storage, stored)
        self._gone = [uid for uid in self._dependents if uid not in alive]
        self._namespaces.update(name for _, name in store.shelf("namespaces").objects)
        self._wake.set()

    def _note(self, storage: str, stored: Stored) -> None:
        for uid in stored.owners:
            self._dependents.setdefault(uid, set()).add((storage, stored.key))
        if b'"foregroundDeletion"' in stored.body or b'"orphan"' in stored.body:
            self._ending.add((storage, stored.key))

    def _changed(self, storage: str, change: Change) -> None:
        if change.now is not None and (change.now.owners or b'"finalizers"' in change.now.body):
            self._note(storage, change.now)
        if change.before is not None and change.now is None:
            for uid in change.before.owners:
                self._dependents.get(uid, set()).discard((storage, change.before.key))
                if uid in self._held:
                    self._ending.add(self._held.pop(uid))
            if change.before.uid in self._dependents:
                self._gone.append(change.before.uid)
        key = (change.now or change.before).key  # type: ignore[union-attr]  # One of them is there.
        if storage == "namespaces":
            self._namespaces.add(key[1])
        elif change.now is None and key[0] in self._waiting():
            self._namespaces.add(key[0])
        if storage == _CRDS:
            self._definitions.add(key[1])
        elif change.now is None and storage in self._api.registry.definitions:
            self._definitions.add(storage)
        if self._gone or self._namespaces or self._definitions or self._ending:
            self._wake.set()

    def _waiting(self) -> set[str]:
        """Namespaces that are ending."""
        found = self._api.store.shelf("namespaces").objects
        return {key[1] for key, stored in found.items() if b'"phase":"Terminating"' in stored.body}

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await asyncio.sleep(0)  # The answer to the request that woke us goes out first.
            self.work()

    def work(self) -> None:
        """One pass."""
        while self._definitions:
            self._definition(self._definitions.pop())
        while self._namespaces:
            self._namespace(self._namespaces.pop())
        while self._ending:
            self._propagate(self._ending.pop())
        while self._gone:
            self._collect(self._gone.pop())

    # Definitions

    def _install(self, stored: Stored) -> None:
        document = msgspec.json.decode(stored.body)
        conditions = {c["type"]: c["status"] for c in document["status"].get("conditions") or ()}
        if conditions.get("Established") == "True":
            definition, resources = crds.resources_of(document)
            self._api.registry.install(definition.name, definition, resources)

    def _definition(self, name: str) -> None:
        api, registry = self._api, self._api.registry
        resource = self._kept_in(_CRDS)
        stored = api.store.get(_CRDS, ("", name))
        if stored is None:
            registry.install(name, None, ())
            self._hub.end_all(name)
            return
        document: Json = msgspec.json.decode(stored.body)
        if document["metadata"].get("deletionTimestamp"):
            self._empty(name)
            registry.install(name, None, ())
            if not api.store.shelf(name).objects:
                api.release(resource, ("", name), lambda crd: _drop_finalizer(crd, crds.FINALIZER))
            return
        kinds: dict[tuple[str, str], str] = {}
        for served in registry.all():
            owner = served.custom.name if served.custom else "built-in"
            kinds[served.group, served.plural] = kinds[served.group, served.kind] = owner
        status = crds.accept(document, kinds, api.timestamp())
        if status != document.get("status"):
            api.set_status(resource, stored, status)
            self._definitions.discard(name)
        held = api.store.get(_CRDS, ("", name))
        assert held is not None
        self._install(held)

    def _empty(self, storage: str) -> None:
        """Delete all objects of a definition that is going."""
        resource = self._api.registry.by_storage(storage)
        if resource is None:
            return
        for key in list(self._api.store.shelf(storage).sorted_keys()):
            self._delete(resource, key)

    def _kept_in(self, storage: str) -> Resource:
        resource = self._api.registry.by_storage(storage)
        assert resource is not None
        return resource

    def _delete(self, resource: Resource, key: Key, policy: str = "") -> None:
        try:
            self._api.delete(resource, key, DeleteOptions(policy=policy), Call())
        except ApiError as error:
            if error.code != 404:
                raise

    # Namespaces

    def _namespace(self, name: str) -> None:
        api = self._api
        stored = api.store.get("namespaces", ("", name))
        if stored is None:
            return
        resource = self._kept_in("namespaces")
        if b'"phase":"Terminating"' not in stored.body:
            self._default_account(name)
            return
        loop = asyncio.get_running_loop()
        if stored.uid not in self._due_at:
            self._due_at[stored.uid] = loop.time() + NAMESPACE_GRACE_S
            loop.call_at(self._due_at[stored.uid], self._again, name)
        if loop.time() < self._due_at[stored.uid]:
            return
        left = 0
        for storage in api.store.resources():
            inner = api.registry.by_storage(storage)
            if inner is None or not inner.namespaced:
                continue
            keys = [k for k in api.store.shelf(storage).sorted_keys() if k[0] == name]
            for key in keys:
                self._delete(inner, key)
            left += sum(1 for k in keys if k in api.store.shelf(storage).objects)
        if not left:
            api.release(resource, ("", name), lambda namespace: namespace["spec"].pop("finalizers", None))
            self._namespaces.discard(name)
            self._due_at.pop(stored.uid, None)

    def _again(self, name: str) -> None:
        self._namespaces.add(name)
        self._wake.set()

    def _default_account(self, namespace: str) -> None:
        resource = self._kept_in("serviceaccounts")
        if self._api.store.get("serviceaccounts", (namespace, "default")) is None:
            account = {"kind": "ServiceAccount", "apiVersion": "v1", "metadata": {"name": "default"}}
            self._api.create(resource, namespace, account, Call(manager="controllers"))

    # Owners

    def _propagate(self, reference: Reference) -> None:
        """Finish a Foreground or Orphan deletion."""
        storage, key = reference
        stored, resource = self._api.store.get(storage, key), self._api.registry.by_storage(storage)
        if stored is None or resource is None:
            return
        metadata = msgspec.json.decode(stored.body)["metadata"]
        finalizers = metadata.get("finalizers") or []
        if not metadata.get("deletionTimestamp"):
            return
        dependents = list(self._dependents.get(stored.uid, ()))
        if "orphan" in finalizers:
            for dependent in dependents:
                self._disown(dependent, stored.uid)
            self._api.release(resource, key, lambda o: _drop_finalizer(o, "orphan"))
        elif "foregroundDeletion" in finalizers:
            for dependent in dependents:
                self._drop_dependent(dependent, stored.uid, policy="Foreground")
            if any(self._api.store.get(s, k) for s, k in self._dependents.get(stored.uid, ())):
                self._held[stored.uid] = reference  # Pods take their time; the last one wakes it again.
            else:
                self._api.release(resource, key, lambda o: _drop_finalizer(o, "foregroundDeletion"))

    def _collect(self, uid: str) -> None:
        """Background collection: an owner is gone."""
        for dependent in list(self._dependents.get(uid, ())):
            self._drop_dependent(dependent, uid)
        self._dependents.pop(uid, None)

    def _drop_dependent(self, dependent: Reference, uid: str, policy: str = "") -> None:
        storage, key = dependent
        stored, resource = self._api.store.get(storage, key), self._api.registry.by_storage(storage)
        if stored is None or resource is None or uid not in stored.owners:
            return
        if any(o != uid and self._alive(o) for o in stored.owners):
            self._disown(dependent, uid)
        else:  # What owns nothing itself has nothing to wait for.
            self._delete(resource, key, policy if self._dependents.get(stored.uid) else "")

    def _alive(self, uid: str) -> bool:
        return any(
            s.uid == uid for storage in self._api.store.resources() for s in self._api.store.shelf(storage).objects.values()
        )

    def _disown(self, dependent: Reference, uid: str) -> None:
        resource = self._api.registry.by_storage(dependent[0])
        if resource is None:
            return

        def change(document: Json) -> None:
            metadata = document["metadata"]
            metadata["ownerReferences"] = [o for o in metadata.get("ownerReferences") or () if o["uid"] != uid]
            if not metadata["ownerReferences"]:
                del metadata["ownerReferences"]

        self._api.release(resource, dependent[1], change)
        self._dependents.get(uid, set()).discard(dependent)


def _drop_finalizer(document: Json, name: str) -> None:
    metadata = document["metadata"]
    metadata["finalizers"] = [f for f in metadata.get("finalizers") or () if f != name]
    if not metadata["finalizers"]:
        del metadata["finalizers"]
