"""Field ownership: managedFields kept for every write, and server-side apply with conflicts, force and removal.

A field set is a set of paths; a path is a tuple of the words that managedFields uses ("f:spec", 'k:{"port":80}', 'v:"x"'),
so encoding is nesting and nothing else. How a document divides into fields is a Shape: from the types of a built-in kind and
the table below, or from the schema of a custom one. Pure; api.py calls track() on every write and merge() for an apply.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lab.apiserver import codec
from lab.apiserver.errors import ApiError, Cause, bad_request, internal, invalid, required
from lab.apiserver.resources import Resource
from lab.apiserver.typed import TYPES, MismatchError, decode

if TYPE_CHECKING:
    from lab.apiserver.api import Call
    from lab.apiserver.store import Key

Json = dict[str, Any]
Path = tuple[str, ...]

# Lists of built-in types that are maps by these keys; other lists are atomic but for the sets.
_LIST_MAPS: dict[str, tuple[str, ...]] = {
    "ServiceSpec.ports": ("port", "protocol"), "ObjectMeta.ownerReferences": ("uid",), "ServiceStatus.conditions": ("type",),
    "NodeStatus.conditions": ("type",), "NodeStatus.addresses": ("type",), "PodStatus.conditions": ("type",), "PodStatus.podIPs": ("ip",),
    "PodSpec.containers": ("name",), "PodSpec.initContainers": ("name",), "PodSpec.volumes": ("name",), "PodSpec.imagePullSecrets": ("name",),
    "Container.ports": ("containerPort", "protocol"), "Container.env": ("name",), "Container.volumeMounts": ("mountPath",),
    "DeploymentStatus.conditions": ("type",), "DaemonSetStatus.conditions": ("type",), "ReplicaSetStatus.conditions": ("type",),
    "NamespaceStatus.conditions": ("type",), "ServiceAccount.secrets": ("name",), "CustomResourceDefinitionStatus.conditions": ("type",),
    "ValidatingWebhookConfiguration.webhooks": ("name",), "MutatingWebhookConfiguration.webhooks": ("name",),
}  # fmt: skip
_SETS = {"ObjectMeta.finalizers", "NodeSpec.podCIDRs", "Endpoint.addresses", "LoadBalancerIngress.-"}
_ATOMIC = {
    "ServiceSpec.selector", "LabelSelector", "ObjectReference", "LocalObjectReference", "SecretKeySelector", "ConfigMapKeySelector",
    "ObjectFieldSelector", "ResourceFieldSelector", "RoleRef", "TypedLocalObjectReference", "ServiceBackendPort", "NodeSelector",
    "PodSpec.nodeSelector", "LoadBalancerStatus.ingress", "AggregationRule", "Subject", "IngressClassParametersReference",
}  # fmt: skip
_KEY_DEFAULTS = {"protocol": "TCP"}
_SYSTEM = frozenset(
    ("f:metadata", f"f:{n}")
    for n in (
        "name", "namespace", "creationTimestamp", "selfLink", "uid", "generation", "managedFields", "resourceVersion",
        "deletionTimestamp", "deletionGracePeriodSeconds",
    )
) | {("f:apiVersion",), ("f:kind",), ("f:metadata",)}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Shape:
    """How one value divides into fields: by its built-in type (`kind`), or by its schema."""

    kind: str = ""
    schema: Json | None = None
    owner_field: str = ""  # "ServiceSpec.ports", where this value stands in its owner

    def field(self, name: str) -> Shape:
        """The shape of a member."""
        if self.schema is not None:
            inner = (self.schema.get("properties") or {}).get(name)
            if inner is None:
                extra = self.schema.get("additionalProperties")
                inner = extra if isinstance(extra, dict) else {}
            return Shape("", inner)
        if self.kind.startswith("{}"):
            return Shape(self.kind[2:])
        field = TYPES.get(self.kind, {}).get(name)
        # "schema or bool" divides as a schema does; a boolean is a leaf whatever its shape.
        kind = "JSONSchemaProps" if field and field.type == "schema or bool" else field.type if field else "any"
        return Shape(kind, None, f"{self.kind}.{name}")

    def item(self) -> Shape:
        """The shape of a list's elements."""
        if self.schema is not None:
            return Shape("", self.schema.get("items") or {})
        return Shape(self.kind.removeprefix("[]"))

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of a list that is a map; empty for other lists."""
        if self.schema is not None:
            return (
                tuple(self.schema.get("x-kubernetes-list-map-keys") or ())
                if self.schema.get("x-kubernetes-list-type") == "map"
                else ()
            )
        return _LIST_MAPS.get(self.owner_field, ())

    @property
    def is_set(self) -> bool:
        """Whether a list is a set."""
        if self.schema is not None:
            return self.schema.get("x-kubernetes-list-type") == "set"
        return self.owner_field in _SETS

    @property
    def atomic(self) -> bool:
        """Whether an object is one field."""
        if self.schema is not None:
            return self.schema.get("x-kubernetes-map-type") == "atomic"
        return self.kind in _ATOMIC or self.owner_field in _ATOMIC or self.kind == "any"

    @property
    def free_map(self) -> bool:
        """Whether an object has free keys, so that it is a member in its own right."""
        if self.schema is not None:
            return True
        return self.kind.startswith("{}")

    def knows(self, name: str) -> bool:
        """Whether a member is declared."""
        if self.schema is not None:
            return (
                name in (self.schema.get("properties") or {})
                or bool(self.schema.get("additionalProperties"))
                or bool(self.schema.get("x-kubernetes-preserve-unknown-fields"))
            )
        return self.kind.startswith("{}") or self.kind == "any" or name in TYPES.get(self.kind, {})


def shape_of(resource: Resource) -> Shape:
    """The shape of a resource's objects."""
    if resource.custom is None:
        return Shape(resource.type_name)
    schema = resource.custom.versions[resource.version].schema
    return Shape("", {**schema, "properties": {**(schema.get("properties") or {}), **_META_SCHEMA}})


_META_SCHEMA: Json = {
    "apiVersion": {"type": "string"}, "kind": {"type": "string"},
    "metadata": {
        "type": "object",
        "properties": {
            **{n: {"type": "string"} for n in ("name", "namespace", "uid", "resourceVersion", "generateName", "creationTimestamp", "selfLink")},
            "labels": {"additionalProperties": {"type": "string"}}, "annotations": {"additionalProperties": {"type": "string"}},
            "finalizers": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "ownerReferences": {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["uid"], "items": {"x-kubernetes-map-type": "atomic"}},
            "managedFields": {}, "generation": {}, "deletionTimestamp": {}, "deletionGracePeriodSeconds": {},
        },
    },
}  # fmt: skip


def _word(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False)


def element_word(item: Any, keys: tuple[str, ...]) -> str:
    """The path word of an element of a list map."""
    found = {k: item.get(k, _KEY_DEFAULTS.get(k)) for k in keys}
    return "k:" + _word({k: v for k, v in found.items() if v is not None})


def walk(value: Any, shape: Shape, path: Path = ()) -> Iterator[tuple[Path, Any, bool]]:
    """All nodes of a document: path, value, and whether it is a leaf."""
    if isinstance(value, dict) and not shape.atomic:
        if path:
            yield path, value, not value
        for name, inner in value.items():
            yield from walk(inner, shape.field(name), (*path, f"f:{name}"))
    elif isinstance(value, list) and shape.keys and all(isinstance(i, dict) for i in value):
        yield path, value, not value
        for item in value:
            yield from walk(item, shape.item(), (*path, element_word(item, shape.keys)))
    elif isinstance(value, list) and shape.is_set:
        yield path, value, not value
        for item in value:
            yield (*path, "v:" + _word(item)), item, True
    else:
        yield path, value, True


def encode(paths: set[Path]) -> Json:
    """A set as fieldsV1."""
    out: Json = {}
    for path in sorted(paths):
        node = out
        for word in path:
            node = node.setdefault(word, {})
        node["."] = {}

    def tidy(node: Json) -> Json:
        if set(node) == {"."}:
            return {}
        return {k: ({} if k == "." else tidy(v)) for k, v in node.items()}

    return {k: tidy(v) for k, v in out.items()}


def decode_set(fields: Json) -> set[Path]:
    """fieldsV1 as a set."""
    out: set[Path] = set()

    def down(node: Json, path: Path) -> None:
        if not node and path:
            out.add(path)
        for word, inner in node.items():
            if word == ".":
                out.add(path)
            else:
                down(inner, (*path, word))

    down(fields or {}, ())
    return out


def _tracked(path: Path, sub: str, resource: Resource) -> bool:
    if path in _SYSTEM or (len(path) > 1 and path[:2] in _SYSTEM):
        return False
    if sub == "status":
        return path[0] in {"f:status", "f:metadata"}
    return not (path[0] == "f:status" and resource.status and not resource.keeps_status)


def track(
    new: Json, old: Json | None, resource: Resource, manager: str, sub: str, now: str, *, before: list[Json] | None = None, applied: bool = False
) -> None:  # fmt: skip
    """Set metadata.managedFields of `new` after an update by `manager`; an apply has set them already.

    `before` is what the stored object had; where the client sent its own list, that is the base.
    """
    metadata = new["metadata"]
    given = metadata.pop("managedFields", None)
    if given is not None and all(not e for e in given):
        return
    entries = [dict(e) for e in (given if given is not None else before or [])]
    if not applied:
        entries = _updated(new, old, resource, manager, sub, now, entries)
    if entries:
        metadata["managedFields"] = entries


def _updated(
    new: Json, old: Json | None, resource: Resource, manager: str, sub: str, now: str, entries: list[Json]
) -> list[Json]:
    shape = shape_of(resource)
    if old is None:
        old = decode({}, resource.type_name, []) if resource.custom is None else {"metadata": {}}
    if {k: v for k, v in new.items() if k != "metadata"} == {k: v for k, v in old.items() if k != "metadata"} and all(
        new["metadata"].get(m) == old.get("metadata", {}).get(m)
        for m in ("labels", "annotations", "finalizers", "ownerReferences")
    ):
        return entries
    was = {p: (v, leaf) for p, v, leaf in walk(old, shape)}
    now_there = {p: (v, leaf) for p, v, leaf in walk(new, shape)}
    changed = {
        p
        for p, (value, leaf) in now_there.items()
        if (p not in was or (leaf and (was[p][0] != value or not was[p][1]))) and _tracked(p, sub, resource)
    }
    removed = {p for p in was if p not in now_there}
    if not changed and not removed:
        return entries
    mine = {"manager": manager, "operation": "Update", "apiVersion": resource.api_version, "subresource": sub}
    out: list[Json] = []
    own: set[Path] = set()
    stamp = now
    for entry in entries:
        fields = decode_set(entry.get("fieldsV1") or {})
        if all((entry.get(k) or "") == v for k, v in mine.items()):
            own = fields
            if changed <= own and not (own & removed):
                stamp = entry.get("time", now)
            continue
        left = fields - changed - removed
        if left:
            out.append(entry if left == fields else {**entry, "fieldsV1": encode(left)})
    own = (own | changed) - removed
    if own:
        out.append(_entry(manager, "Update", resource, sub, stamp, own))
    return out


def _entry(manager: str, operation: str, resource: Resource, sub: str, now: str, fields: set[Path]) -> Json:
    entry = {
        "manager": manager, "operation": operation, "apiVersion": resource.api_version, "time": now, "fieldsType": "FieldsV1",
        "fieldsV1": encode(fields),
    }  # fmt: skip
    if sub:
        entry["subresource"] = sub
    return entry


def same_but_times(new: Json, old: Json) -> bool:
    """Whether two versions differ in nothing but the times of managedFields."""
    if {k: v for k, v in new.items() if k != "metadata"} != {k: v for k, v in old.items() if k != "metadata"}:
        return False
    left, right = dict(new["metadata"]), dict(old["metadata"])
    mine, theirs = left.pop("managedFields", None) or [], right.pop("managedFields", None) or []
    if left != right or len(mine) != len(theirs):
        return False

    def key(entry: Json) -> str:
        return _word({k: v for k, v in entry.items() if k != "time"})

    return sorted(map(key, mine)) == sorted(map(key, theirs))


# Server-side apply


def read(resource: Resource, key: Key, data: bytes) -> Json:
    """The document of an apply.

    Raises:
        ApiError: it cannot be applied to this object.

    """
    try:
        document = codec.parse_yaml(data)
    except ValueError as error:
        raise bad_request(f"error decoding YAML: {error}") from error
    if not isinstance(document, dict):
        raise bad_request("error decoding YAML: the patch is not an object")
    kind, version = str(document.get("kind", "")), str(document.get("apiVersion", ""))
    if kind != resource.kind or version != resource.api_version:
        shown = f"/{version}" if version and "/" not in version else version or "/"
        raise bad_request(f"invalid object type: {shown}, Kind={kind}")
    metadata = document.setdefault("metadata", {})
    if not isinstance(metadata, dict):
        raise bad_request("error decoding YAML: metadata is not an object")
    if metadata.get("managedFields") is not None:
        raise bad_request("metadata.managedFields must be nil")
    name = metadata.get("name", "")
    if name and name != key[1]:
        raise bad_request(f"the name of the object ({name}) does not match the name on the URL ({key[1]})")
    metadata["name"] = key[1]
    intro = f"failed to create typed patch object ({metadata.get('namespace', '')}/{key[1]}; {_gvk(resource)}): "
    fault = _undeclared(document, shape_of(resource), "")
    if fault:
        raise internal(intro + fault)
    if resource.custom is None:
        try:
            decode(document, resource.type_name, [])
        except MismatchError as error:
            raise internal(intro + str(error)) from error
    return document


def _gvk(resource: Resource) -> str:
    version = resource.api_version if resource.group else f"/{resource.version}"
    return f"{version}, Kind={resource.kind}"


def _undeclared(value: Any, shape: Shape, path: str) -> str:
    if isinstance(value, dict) and not (shape.kind == "any" and shape.schema is None):
        for name, inner in value.items():
            if not shape.knows(name):
                return f"{path}.{name}: field not declared in schema"
            fault = _undeclared(inner, shape.field(name), f"{path}.{name}")
            if fault:
                return fault
    elif isinstance(value, list):
        seen: set[str] = set()
        for at, item in enumerate(value):
            word = element_word(item, shape.keys) if shape.keys and isinstance(item, dict) else ""
            if word and word in seen:
                return f"{path}: duplicate entries for key [{_key_text(word)}]"
            seen.add(word)
            fault = _undeclared(item, shape.item(), f"{path}[{_key_text(word)}]" if word else f"{path}[{at}]")
            if fault:
                return fault
    return ""


def _key_text(word: str) -> str:
    return ",".join(f"{k}={_word(v)}" for k, v in sorted(json.loads(word[2:]).items()))


def path_text(path: Path) -> str:
    """A path as conflict messages show it."""
    out = ""
    for word in path:
        if word.startswith("f:"):
            out += "." + word[2:]
        elif word.startswith("k:"):
            out += f"[{_key_text(word)}]"
        else:
            out += f"[={word[2:]}]"
    return out


def applied_set(document: Json, resource: Resource, sub: str) -> set[Path]:
    """What an applied document owns: its leaves and the elements of its list maps."""
    out = set()
    for path, _, leaf in walk(document, shape_of(resource)):
        if (leaf or path[-1].startswith("k:")) and _tracked(path, sub, resource):
            out.add(path)
    return out


def merge(live: Json | None, applied: Json, resource: Resource, call: Call, sub: str) -> tuple[Json, list[Json]]:
    """The live document with an applied one merged in, and its managedFields.

    Raises:
        ApiError: 409 when others own what would change, and force is not set; 422 without a manager.

    """
    if not call.manager:
        cause = required("fieldManager", "is required for apply patch")
        raise invalid("meta.k8s.io", "PatchOptions", "", [cause])
    shape = shape_of(resource)
    wanted = applied_set(applied, resource, sub)
    if live is None:
        return copy.deepcopy(applied), [_entry(call.manager, "Apply", resource, sub, "", wanted)] if wanted else []
    entries = [dict(e) for e in live["metadata"].get("managedFields") or []]
    live = {**live, "metadata": {k: v for k, v in live["metadata"].items() if k != "managedFields"}}
    merged = _merge_value(live, applied, shape)
    was = {p: v for p, v, leaf in walk(live, shape) if leaf}
    changed = {p for p, v, leaf in walk(merged, shape) if leaf and was.get(p, ...) != v}
    others: list[tuple[Json, set[Path]]] = []
    mine: set[Path] = set()
    stamp = ""
    for entry in entries:
        fields = decode_set(entry.get("fieldsV1") or {})
        if (entry.get("manager"), entry.get("operation"), entry.get("subresource") or "") == (call.manager, "Apply", sub):
            mine, stamp = fields, entry.get("time", "")
        else:
            others.append((entry, fields))
    contested = [(entry, sorted(fields & changed & wanted)) for entry, fields in others]
    contested = [(entry, paths) for entry, paths in contested if paths]
    if contested and not call.force:
        raise _conflicts(contested)
    out = []
    for entry, fields in others:
        lost = fields & changed & wanted
        if fields - lost:
            out.append({**entry, "fieldsV1": encode(fields - lost)} if lost else entry)
    held = set().union(*(fields for _, fields in others)) if others else set()
    kept = held | wanted
    for path in sorted(mine - wanted - held, key=len):
        if not any(k[: len(path)] == path for k in kept):
            _remove(merged, shape, path)
    if wanted:
        out.append(_entry(call.manager, "Apply", resource, sub, stamp if mine == wanted else "", wanted))
    return merged, out


def _merge_value(live: Any, applied: Any, shape: Shape) -> Any:
    if isinstance(live, dict) and isinstance(applied, dict) and not shape.atomic:
        out = dict(live)
        for name, value in applied.items():
            out[name] = _merge_value(live.get(name), value, shape.field(name)) if value is not None else live.get(name)
        return out
    if isinstance(live, list) and isinstance(applied, list) and shape.keys:
        out_list = list(live)
        place = {element_word(item, shape.keys): at for at, item in enumerate(live)}
        for item in applied:
            at = place.get(element_word(item, shape.keys))
            if at is None:
                out_list.append(copy.deepcopy(item))
            else:
                out_list[at] = _merge_value(live[at], item, shape.item())
        return out_list
    if isinstance(live, list) and isinstance(applied, list) and shape.is_set:
        return live + [i for i in applied if i not in live]
    return copy.deepcopy(applied)


def _remove(value: Any, shape: Shape, path: Path) -> None:
    """Take a field out of a document, and a map that became empty by it."""
    word, rest = path[0], path[1:]
    if word.startswith("f:") and isinstance(value, dict):
        name = word[2:]
        if name not in value:
            return
        if rest:
            _remove(value[name], shape.field(name), rest)
            if value[name] in ({}, []):
                del value[name]
        else:
            del value[name]
    elif isinstance(value, list):
        for at, item in enumerate(value):
            mine = element_word(item, shape.keys) if word.startswith("k:") and isinstance(item, dict) else "v:" + _word(item)
            if mine == word:
                if rest:
                    _remove(item, shape.item(), rest)
                else:
                    del value[at]
                return


def _conflicts(contested: list[tuple[Json, list[Path]]]) -> ApiError:
    causes = []
    lines = []
    for entry, paths in contested:
        who = f'"{entry.get("manager")}"'
        if entry.get("subresource"):
            who += f' with subresource "{entry["subresource"]}"'
        if entry.get("operation") == "Update":
            who += f" using {entry.get('apiVersion')}"
        causes += [Cause("FieldManagerConflict", f"conflict with {who}", path_text(p)) for p in paths]
        lines.append((who, [path_text(p) for p in paths]))
    if len(causes) == 1:
        message = f"Apply failed with 1 conflict: conflict with {lines[0][0]}: {lines[0][1][0]}"
    else:
        parts = [f"conflicts with {who}:\n" + "\n".join(f"- {p}" for p in paths) for who, paths in lines]
        message = f"Apply failed with {len(causes)} conflicts: " + "\n".join(parts)
    shown = [{"reason": c.reason, "message": c.message, "field": c.field} for c in causes]
    return ApiError(409, "Conflict", message, details={"causes": shown})
