"""The verbs: what a create, update, patch, delete or list does to the store, for every kind the same way.

The write path is one sequence (prepare, default, allocate, validate, compare, store) whose steps ask the registry row and the
hooks of the kind; nothing here names a kind but where the API itself treats one specially (namespaces, pods, definitions).
All of it is synchronous: between reading an object and storing its next version nothing else runs, so a write needs no lock.
http.py calls it with decoded requests; controllers.py calls it for what a cluster's controllers do.
"""

from __future__ import annotations

import base64
import random
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

from lab.apiserver import apply, codec, crds, kinds, meta, patching, rules, services, structural, typed
from lab.apiserver.auth import ADMIN, User
from lab.apiserver.errors import (
    MODIFIED,
    ApiError,
    already_exists,
    bad_request,
    conflict,
    forbidden_request,
    internal,
    invalid,
    invalid_value,
    not_found,
    raw_invalid,
    unsupported_media_type,
)
from lab.apiserver.resources import Registry, Resource, selecting_fields
from lab.apiserver.selectors import Selector, matches
from lab.apiserver.store import Key, Store, Stored

Json = dict[str, Any]
_SUFFIX = "bcdfghjklmnpqrstvwxz2456789"
IMMORTAL = frozenset({"default", "kube-system", "kube-public"})


@dataclass(slots=True)
class Call:
    """Circumstances of one request."""

    user: User = ADMIN
    manager: str = "lab"
    dry_run: bool = False
    validation: str = "Warn"  # Strict, Warn or Ignore
    force: bool = False
    applied: bool = False  # managedFields are set already
    warnings: list[str] = field(default_factory=list)

    def warn(self, texts: list[str]) -> None:
        """Add warnings to the answer, each once."""
        self.warnings += [t for t in texts if t not in self.warnings]


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """What a DELETE asks for."""

    grace_s: int | None = None
    policy: str = ""
    uid: str = ""
    rv: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """The answer to a list."""

    rv: int
    items: list[Stored]
    token: str = ""
    remaining: int | None = None


class Api:
    """The verbs over one store and registry."""

    def __init__(self, store: Store, registry: Registry, *, now: Callable[[], datetime], rng: random.Random) -> None:
        self.store, self.registry = store, registry
        self.now, self._rng = now, rng
        self.allocator = services.Allocator(rng)
        for key, stored in store.shelf("services").objects.items():
            self.allocator.hold(key, msgspec.json.decode(stored.body))

    # Reading

    def timestamp(self) -> str:
        """Now, as the API writes it."""
        return self.now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def find(self, resource: Resource, key: Key) -> Stored:
        """The stored object.

        Raises:
            ApiError: 404.

        """
        stored = self.store.get(resource.storage, key)
        if stored is None:
            raise not_found(resource.group, resource.plural, key[1])
        return stored

    def document(self, resource: Resource, stored: Stored) -> Json:
        """The object as this resource shows it."""
        document: Json = msgspec.json.decode(stored.body)
        return from_storage(resource, document)

    def body(self, resource: Resource, stored: Stored) -> bytes:
        """The object's JSON as this resource shows it; the stored bytes themselves where they are the same."""
        return stored.body if is_stored_form(resource) else codec.encode(self.document(resource, stored))

    def list(
        self, resource: Resource, namespace: str | None, labels: Selector, fields: Selector, *, limit: int = 0, after: tuple[int, Key] | None = None,
        at: int | None = None,
    ) -> Page:  # fmt: skip
        """Objects in order of their keys: now, as of version `at`, or the page of `after` = (version, last key)."""
        shelf = self.store.shelf(resource.storage)
        rv = after[0] if after else at if at is not None else self.store.rv
        if rv == self.store.rv:
            objects, order = shelf.objects, shelf.sorted_keys()
        else:
            objects = self.store.state_at(resource.storage, rv)
            order = sorted(objects)
        found: list[Stored] = []
        for position, key in enumerate(order):
            if (after and key <= after[1]) or (namespace is not None and key[0] != namespace):
                continue
            stored = objects[key]
            if not selected(stored, labels, fields):
                continue
            if limit and len(found) == limit:
                rest = None
                if not labels and not fields:
                    rest = sum(1 for k in order[position:] if namespace is None or k[0] == namespace)
                return Page(rv, found, encode_token(rv, found[-1].key), rest)
            found.append(stored)
        return Page(rv, found)

    # Creating

    def create(self, resource: Resource, namespace: str, document: Json, call: Call) -> tuple[Json, Stored | None]:
        """Store a new object; the document is normalized already. Returns it as this resource shows it, and stored (None in a dry run)."""
        metadata = document["metadata"]
        self._place(resource, namespace, metadata)
        name = self.choose_name(metadata)
        key = (namespace, name)
        self.check_namespace(resource, namespace, name)
        for gone in ("deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"):
            metadata.pop(gone, None)
        rv_given = metadata.pop("resourceVersion", "")
        metadata["uid"] = self._uuid()
        metadata["creationTimestamp"] = self.timestamp()
        if resource.generation:
            metadata["generation"] = 1
        if resource.status and not resource.keeps_status:
            document.pop("status", None)
            if resource.type_name:
                document = typed.decode(document, resource.type_name, [])
        document = self._complete(resource, document, None, call, status_only=False)
        if rv_given:
            raise internal("resourceVersion should not be set on objects to be created")
        there = self.store.get(resource.storage, key)
        if there is not None:
            raise already_exists(resource.group, resource.plural, name, deleting=b'"deletionTimestamp"' in there.body)
        shown = from_storage(resource, document) if not is_stored_form(resource) else document
        apply.track(shown, None, resource, call.manager, "", self.timestamp(), applied=call.applied)
        document["metadata"] = shown["metadata"]
        if call.dry_run:
            return shown, None
        stored = self._put(resource, document)
        return (document if is_stored_form(resource) else self.document(resource, stored)), stored

    def choose_name(self, metadata: Json) -> str:
        """The name of a new object; one with a prefix gets the rest of its name here."""
        if metadata.get("generateName") and not metadata.get("name"):
            metadata["name"] = metadata["generateName"][:58] + "".join(self._rng.choice(_SUFFIX) for _ in range(5))
        return str(metadata.get("name", ""))

    def _uuid(self) -> str:
        return str(uuid.UUID(int=self._rng.getrandbits(128), version=4))

    def _place(self, resource: Resource, namespace: str, metadata: Json) -> None:
        given = metadata.get("namespace", "")
        if resource.namespaced:
            if given and given != namespace:
                raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
            metadata["namespace"] = namespace
        elif given:
            metadata.pop("namespace")

    def check_namespace(self, resource: Resource, namespace: str, name: str) -> None:
        """A namespaced object is created only in a namespace that is there and stays.

        Raises:
            ApiError: 404 or 403.

        """
        if not resource.namespaced:
            return
        stored = self.store.get("namespaces", ("", namespace))
        if stored is None:
            raise not_found("", "namespaces", namespace)
        if b'"deletionTimestamp"' in stored.body and msgspec.json.decode(stored.body)["metadata"].get("deletionTimestamp"):
            why = f"unable to create new content in namespace {namespace} because it is being terminated"
            message = f'{resource.qualified} "{name}" is forbidden: {why}'
            said = f"namespace {namespace} is being terminated"
            cause = {"reason": "NamespaceTerminating", "message": said, "field": "metadata.namespace"}
            raise forbidden_request(message, resource.group, resource.plural, name, causes=[cause])

    def _complete(self, resource: Resource, document: Json, old: Json | None, call: Call, *, status_only: bool) -> Json:
        """Defaults, allocation and validation: the document in storage form, or the answer that refuses it.

        `old` is in storage form too.
        """
        name = document["metadata"].get("name", "")
        causes = meta.check_metadata(document["metadata"], resource.name_rule)
        if old is not None:
            updates = meta.check_metadata_update(document["metadata"], old["metadata"])
            causes += updates if resource.custom is not None else updates * 2  # The server looks twice, and says so twice.
        if resource.custom is not None:
            version = resource.custom.versions[resource.version]
            structural.default(document, version.schema)
            was = (
                from_storage(resource, codec.copy_of(old))
                if old is not None and resource.version != resource.custom.storage
                else old
            )
            causes += structural.validate(document, was, version.schema, version.rules)
            if causes:
                raise invalid(resource.group, resource.kind, name, causes)
            return to_storage(resource, document)
        name_of_type = resource.type_name
        document = to_storage(resource, document)
        if not status_only and name_of_type in kinds.PREPARE:
            kinds.PREPARE[name_of_type](document, old)
        if name_of_type in kinds.DEFAULT:
            kinds.DEFAULT[name_of_type](document)
        typed.fill(document, name_of_type if not resource.store_as else "CoreEvent")
        if name_of_type == "Service" and not status_only:
            faults = services.allocate(document, old, self.allocator, dry=call.dry_run)
            if faults:
                raise invalid(resource.group, resource.kind, name, faults)
        table = "Service/status" if name_of_type == "Service" and status_only else name_of_type
        causes += rules.faults(table, document, old)
        if causes:
            group = "" if resource.store_as else resource.group
            raise invalid(group, resource.kind, name, causes)
        return document

    def _put(self, resource: Resource, document: Json) -> Stored:
        """Store a document in storage form under the next version."""
        rv = self.store.next_rv()
        document["metadata"]["resourceVersion"] = str(rv)
        stored = make_stored(self.registry, resource.storage, document, rv)
        if resource.storage == "services":
            self.allocator.hold(stored.key, document)
        self.store.put(resource.storage, stored)
        return stored

    # Updating

    def update(self, resource: Resource, key: Key, document: Json, call: Call, *, sub: str = "") -> tuple[Json, bool]:
        """PUT: replace an object. Returns it and whether it was created."""
        metadata = document["metadata"]
        apply.name_as(metadata, key)
        self._place(resource, key[0], metadata)
        rv = _parse_rv(metadata.get("resourceVersion", ""))
        stored = self.store.get(resource.storage, key)
        if stored is None:
            if not resource.creates_on_put or sub:
                raise not_found(resource.group, resource.plural, key[1])
            return self.create(resource, key[0], document, call)[0], True
        if rv is None and resource.needs_rv:
            cause = raw_invalid("metadata.resourceVersion", "0x0", "must be specified for an update")
            raise invalid(resource.group, resource.plural, key[1], [cause])
        uid = metadata.get("uid")
        if uid and uid != stored.uid:
            why = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {stored.uid}"
            raise conflict(resource.group, resource.plural, key[1], why)
        return self._replace(resource, stored, document, call, sub, rv), False

    def _replace(self, resource: Resource, stored: Stored, document: Json, call: Call, sub: str, rv: int | None) -> Json:
        """Write the next version of an object, from a normalized document in this resource's form."""
        if rv is not None and rv != stored.rv:
            raise conflict(resource.group, resource.plural, stored.key[1], MODIFIED)
        old_stored: Json = msgspec.json.decode(stored.body)
        old = from_storage(resource, msgspec.json.decode(stored.body))
        inherit_identity(document["metadata"], old["metadata"])
        # What a status write says about metadata that is not its to change still counts as an attempt at ownership.
        tried: Json = {}
        if sub == "status" and resource.status_metadata == "old":
            given = document["metadata"]
            tried = {m: {**(old["metadata"].get(m) or {}), **given[m]} for m in ("labels", "annotations") if given.get(m)}
        document = self._isolate(resource, document, old, sub)
        before_tracking = old["metadata"].get("managedFields")
        new = self._complete(resource, document, old_stored, call, status_only=sub == "status")
        if resource.generation and _spec_differs(new, old_stored, resource):
            new["metadata"]["generation"] = int(old_stored["metadata"].get("generation", 0)) + 1
        elif resource.generation:
            new["metadata"]["generation"] = old_stored["metadata"].get("generation", 1)
        shown = new if is_stored_form(resource) else from_storage(resource, codec.copy_of(new))
        held = {m: shown["metadata"].get(m) for m in tried}
        shown["metadata"] |= tried
        apply.track(shown, old, resource, call.manager, sub, self.timestamp(), before=before_tracking, applied=call.applied)
        new["metadata"] = {k: v for k, v in {**shown["metadata"], **held}.items() if k not in tried or v is not None}
        return self._finish(resource, stored, old_stored, new, call)

    def _finish(self, resource: Resource, stored: Stored, old: Json, new: Json, call: Call) -> Json:
        """Store a complete next version unless it is the same; remove the object when its last finalizer went."""
        new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"]
        if call.dry_run or apply.same_but_times(new, old):
            if not call.dry_run:
                new = old
            return new if is_stored_form(resource) else from_storage(resource, new)
        metadata = new["metadata"]
        ending = metadata.get("deletionTimestamp") and not metadata.get("finalizers")
        if ending and not metadata.get("deletionGracePeriodSeconds") and not self._held(resource, new):
            self._remove(resource, stored, old)  # Watchers see the state before the last finalizer went.
            return from_storage(resource, new)
        self._put(resource, new)
        return new if is_stored_form(resource) else from_storage(resource, codec.copy_of(new))

    @staticmethod
    def _held(resource: Resource, document: Json) -> bool:
        return resource.type_name == "Namespace" and bool(document["spec"].get("finalizers"))

    def _isolate(self, resource: Resource, document: Json, old: Json, sub: str) -> Json:
        """Keep status from a write of the object, and everything else from a write of its status."""
        if sub == "status":
            kept = {**old, "status": document.get("status")}
            if kept["status"] is None:
                del kept["status"]
            if resource.status_metadata == "new":
                kept["metadata"] = document["metadata"]
            else:
                kept["metadata"] = {**codec.copy_of(old["metadata"])}
                if "managedFields" in document["metadata"]:
                    kept["metadata"]["managedFields"] = document["metadata"]["managedFields"]
            return kept
        if resource.status:
            document = dict(document)
            document.pop("status", None)
            if "status" in old:
                document["status"] = codec.copy_of(old["status"])
        return document

    # Patching

    def patch(self, resource: Resource, key: Key, media: str, data: bytes, call: Call, *, sub: str = "") -> tuple[Json, bool]:
        """PATCH of any kind. Returns the object and whether it was created (server-side apply may)."""
        if media == "application/apply-patch+yaml":
            return self._apply(resource, key, data, call, sub)
        stored = self.find(resource, key)
        if media == "application/strategic-merge-patch+json" and resource.custom is not None:
            accepted = "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"
            raise unsupported_media_type(accepted)
        current = self.document(resource, stored)
        patch = self._decode_patch(data, media)
        if media == "application/json-patch+json":
            patched = patching.json_patch(current, patch)
        elif media == "application/merge-patch+json":
            patched = patching.merge_patch(current, patch)
        else:
            patched = patching.strategic_patch(current, patch, resource.type_name)
        document = self._decode_patched(resource, patched, call)
        apply.name_as(document["metadata"], key)
        self._place(resource, key[0], document["metadata"])
        rv = _parse_rv(document["metadata"].get("resourceVersion", ""))
        return self._replace(resource, stored, document, call, sub, rv), False

    @staticmethod
    def _decode_patch(data: bytes, media: str) -> Any:
        try:
            patch = codec.parse_json(data)
        except ValueError as error:
            raise bad_request(f"error decoding patch: {error}") from error
        if media != "application/json-patch+json" and not isinstance(patch, dict):
            word = {"list": "array", "str": "string"}.get(type(patch).__name__, "number")
            said = f"json: cannot unmarshal {word} into Go value of type map[string]interface {{}}"
            raise bad_request(f"error decoding patch: {said}")
        return patch

    def _decode_patched(self, resource: Resource, patched: Json, call: Call) -> Json:
        """The normalized result of a patch; what does not decode is 422 with an empty name, as the server says it."""

        def refuse(text: str) -> ApiError:
            shown = msgspec.json.encode(patched).decode()
            return invalid("", "", "", [invalid_value("patch", shown, text)])

        if patched.get("kind") != resource.kind or patched.get("apiVersion") != resource.api_version:
            raise refuse(f'no kind "{patched.get("kind")}" is registered for version "{patched.get("apiVersion")}"')
        unknown: list[str] = []
        try:
            document = codec.normalize(resource, patched, unknown)
        except typed.MismatchError as error:
            raise refuse(str(error)) from error
        if unknown and call.validation == "Strict":
            raise refuse("strict decoding error: " + ", ".join(unknown))
        if call.validation == "Warn":
            call.warn(unknown)
        return document

    def _apply(self, resource: Resource, key: Key, data: bytes, call: Call, sub: str) -> tuple[Json, bool]:
        """Server-side apply."""
        applied = apply.read(resource, key, data)
        stored = self.store.get(resource.storage, key)
        metadata = applied["metadata"]
        if stored is None:
            if metadata.get("uid"):
                why = f"uid mismatch: the provided object specified uid {metadata['uid']}, and no existing object was found"
                raise conflict(resource.group, resource.plural, key[1], why)
            if sub and resource.custom is not None:
                raise not_found(resource.group, resource.plural, key[1])
            live = None
        else:
            live = self.document(resource, stored)
            rv = _parse_rv(str(metadata.get("resourceVersion", "")))
            if rv is not None and rv != stored.rv:
                raise conflict(resource.group, resource.plural, key[1], MODIFIED)
        merged, owned = apply.merge(live, applied, resource, call, sub)
        owned = [e if e.get("time") else {**e, "time": self.timestamp()} for e in owned]
        call.applied = True
        document = self._decode_patched(resource, merged, call)
        document["metadata"]["managedFields"] = owned
        if stored is None:
            self._place(resource, key[0], document["metadata"])
            return self.create(resource, key[0], document, call)[0], True
        return self._replace(resource, stored, document, call, sub, None), False

    # Deleting

    def delete(self, resource: Resource, key: Key, options: DeleteOptions, call: Call) -> tuple[Json, bool]:
        """DELETE. Returns the object as it is now or was last, and whether it is gone."""
        stored = self.find(resource, key)
        document: Json = msgspec.json.decode(stored.body)
        self._preconditions(resource, stored, options)
        metadata = document["metadata"]
        if resource.type_name == "Namespace" and key[1] in IMMORTAL:
            said = f'namespaces "{key[1]}" is forbidden: this namespace may not be deleted'
            raise forbidden_request(said, "", "namespaces", key[1])
        finalizers = list(metadata.get("finalizers") or [])
        for policy, finalizer in (("Foreground", "foregroundDeletion"), ("Orphan", "orphan")):
            if options.policy == policy and finalizer not in finalizers:
                finalizers.append(finalizer)
        if resource.type_name == "CustomResourceDefinition" and not metadata.get("deletionTimestamp"):
            finalizers += [f for f in (crds.FINALIZER,) if f not in finalizers]
        grace = self._grace(resource, document, options)
        if finalizers or grace or resource.type_name == "Namespace":
            return self._mark(resource, stored, document, finalizers, grace, call), False
        if resource.graceful:
            metadata["deletionTimestamp"] = metadata.get("deletionTimestamp") or self.timestamp()
            metadata["deletionGracePeriodSeconds"] = 0
        if not call.dry_run:
            self._remove(resource, stored, document)
        return from_storage(resource, document), True

    @staticmethod
    def _grace(resource: Resource, document: Json, options: DeleteOptions) -> int:
        if not resource.graceful or not document["spec"].get("nodeName"):
            return 0
        if document["status"].get("phase") in {"Succeeded", "Failed"}:
            return 0
        if options.grace_s is not None:
            return options.grace_s
        return int(document["spec"].get("terminationGracePeriodSeconds", 30))

    @staticmethod
    def _preconditions(resource: Resource, stored: Stored, options: DeleteOptions) -> None:
        for asked, held, word, what in (
            (options.uid, stored.uid, "UID", "deleted and then recreated"),
            (options.rv, str(stored.rv), "ResourceVersion", "modified"),
        ):
            if asked and asked != held:
                why = f"the {word} in the precondition ({asked}) does not match the {word} in record ({held})"
                raise conflict(resource.group, resource.kind, stored.key[1], f"{why}. The object might have been {what}")

    def _mark(
        self, resource: Resource, stored: Stored, document: Json, finalizers: Sequence[str], grace: int, call: Call
    ) -> Json:
        """Begin a deletion that something still holds up."""
        metadata = document["metadata"]
        old = codec.copy_of(document)
        if finalizers:
            metadata["finalizers"] = list(finalizers)
        if not metadata.get("deletionTimestamp"):
            metadata["deletionTimestamp"] = self.timestamp()
            if resource.type_name == "Namespace":
                document["status"]["phase"] = "Terminating"
            else:
                metadata["deletionGracePeriodSeconds"] = grace
            if metadata.get("generation"):
                metadata["generation"] += 1
        elif grace < metadata.get("deletionGracePeriodSeconds", 0):
            metadata["deletionGracePeriodSeconds"] = grace
        if document != old and not call.dry_run:
            self._put(resource, document)
        return from_storage(resource, document)

    def _remove(self, resource: Resource, stored: Stored, document: Json) -> None:
        """Take an object out of the store; `document` is its last state and gets the version of the deletion."""
        rv = self.store.next_rv()
        document["metadata"]["resourceVersion"] = str(rv)
        if resource.storage == "services":
            self.allocator.release(stored.key)
        self.store.delete(resource.storage, make_stored(self.registry, resource.storage, document, rv))

    def set_status(self, resource: Resource, stored: Stored, status: Json) -> None:
        """Write a status the server itself decided."""
        document: Json = msgspec.json.decode(stored.body)
        if document.get("status") != status:
            document["status"] = status
            self._put(resource, document)

    def release(self, resource: Resource, key: Key, change: Callable[[Json], None]) -> None:
        """Change an object on the server's own behalf; it goes when nothing holds its deletion up any more."""
        stored = self.store.get(resource.storage, key)
        if stored is not None:
            old: Json = msgspec.json.decode(stored.body)
            new = codec.copy_of(old)
            change(new)
            self._finish(resource, stored, old, new, Call())


def is_stored_form(resource: Resource) -> bool:
    """Whether the resource shows objects just as they are stored."""
    if resource.custom is not None:
        return resource.version == resource.custom.storage
    return not resource.store_as


_EVENT_NAMES = (
    ("involvedObject", "regarding"), ("message", "note"), ("source", "deprecatedSource"), ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"), ("count", "deprecatedCount"), ("reportingComponent", "reportingController"),
)  # fmt: skip


def from_storage(resource: Resource, document: Json) -> Json:
    """A stored document as this resource shows it. May use parts of the document it is given."""
    if is_stored_form(resource):
        return document
    if resource.custom is not None:
        return crds.in_version(document, resource.version, resource.custom, resource.group)
    names = dict(_EVENT_NAMES)
    shown = {names.get(k, k): v for k, v in document.items()}
    shown["apiVersion"] = resource.api_version
    for name in ("reportingController", "reportingInstance"):
        if not shown.get(name):
            shown.pop(name, None)
    return shown


def to_storage(resource: Resource, document: Json) -> Json:
    """A document of this resource in the form it is stored in."""
    if is_stored_form(resource):
        return document
    if resource.custom is not None:
        stored = crds.in_version(document, resource.custom.storage, resource.custom, resource.group)
        structural.default(stored, resource.custom.versions[resource.custom.storage].schema)
        return stored
    names = {new: old for old, new in _EVENT_NAMES}
    renamed = {names.get(k, k): v for k, v in document.items()}
    renamed["apiVersion"] = "v1"
    return typed.decode(renamed, "CoreEvent", [])


def make_stored(registry: Registry, storage: str, document: Json, rv: int, *, body: bytes = b"") -> Stored:
    """The stored version of a document in storage form; `body` is its encoding where that is there already."""
    metadata = document["metadata"]
    resource = registry.by_storage(storage)
    return Stored(
        (metadata.get("namespace", ""), metadata["name"]), rv, body or codec.encode(document), metadata.get("labels") or {},
        selecting_fields(resource, document) if resource is not None and resource.fields else {}, metadata.get("uid", ""),
        tuple(o["uid"] for o in metadata.get("ownerReferences") or ()),
    )  # fmt: skip


def selected(stored: Stored, labels: Selector, fields: Selector) -> bool:
    """Whether selectors take an object."""
    if labels and not matches(labels, stored.labels):
        return False
    if not fields:
        return True
    known = {"metadata.name": stored.key[1], "metadata.namespace": stored.key[0], **stored.fields}
    return matches(fields, known)


def inherit_identity(metadata: Json, old: Json) -> None:
    """What an update need not repeat, and what it cannot change, comes from the old object."""
    for name in ("uid", "deletionTimestamp", "deletionGracePeriodSeconds"):
        if name in old:
            metadata.setdefault(name, old[name])
    for name in ("creationTimestamp", "generation", "generateName"):
        if name in old:
            metadata[name] = old[name]
        else:
            metadata.pop(name, None)
    metadata.pop("selfLink", None)
    if "deletionTimestamp" in metadata and "deletionTimestamp" in old:
        metadata["deletionGracePeriodSeconds"] = old.get("deletionGracePeriodSeconds", 0)
        if "deletionGracePeriodSeconds" not in old:
            del metadata["deletionGracePeriodSeconds"]


def _spec_differs(new: Json, old: Json, resource: Resource) -> bool:
    """Whether a change counts as a new generation: outside metadata, and outside status where that is apart."""
    apart = {"metadata", "status"} if resource.status else {"metadata"}
    if {k: v for k, v in new.items() if k not in apart} != {k: v for k, v in old.items() if k not in apart}:
        return True
    watched = {"EndpointSlice": "labels", "Deployment": "annotations", "DaemonSet": "annotations"}.get(
        resource.type_name, "name"
    )
    return bool(new["metadata"].get(watched) != old["metadata"].get(watched))


def _parse_rv(text: str) -> int | None:
    """A resourceVersion given as a precondition; None for none."""
    if not text or text == "0":
        return None
    if not text.isdigit():
        raise internal(f'strconv.ParseUint: parsing "{text}": invalid syntax')
    return int(text)


def encode_token(rv: int, last: Key) -> str:
    """A continue token: the version of the first page and the last key given out."""
    return base64.urlsafe_b64encode(msgspec.json.encode({"v": "meta.k8s.io/v1", "rv": rv, "start": "/".join(last)})).decode()


def decode_token(token: str) -> tuple[int, Key]:
    """What a continue token says.

    Raises:
        ApiError: 400.

    """
    try:
        content = msgspec.json.decode(base64.urlsafe_b64decode(token))
        namespace, _, name = content["start"].partition("/")
        return int(content["rv"]), (namespace, name)
    except (ValueError, KeyError, TypeError, msgspec.DecodeError) as error:
        raise bad_request("invalid continue token: continue key is not valid") from error
