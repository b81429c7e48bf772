"""Field ownership: managedFields kept for every write, and server-side apply with conflicts, force and removal.

A field set is the tree that managedFields holds: words ("f:spec", 'k:{"port":80}', 'v:"x"') to subtrees, where {} is a field
that is owned and "." says that a field with more below it is owned too. parts() says how a value divides into words, from
the schema of its kind, built-in or custom; everything else walks trees. Pure; api.py calls track() on every write and merge()
for an apply.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lab.apiserver import codec, structural
from lab.apiserver.errors import ApiError, Cause, bad_request, internal
from lab.apiserver.resources import Resource
from lab.apiserver.typed import SCHEMAS, MismatchError, decode

if TYPE_CHECKING:
    from lab.apiserver.api import Call
    from lab.apiserver.store import Key

Json = dict[str, Any]
Path = tuple[str, ...]

_KEY_DEFAULTS = {"protocol": "TCP"}
_SYSTEM = {
    "name", "namespace", "creationTimestamp", "selfLink", "uid", "generation", "managedFields", "resourceVersion",
    "deletionTimestamp", "deletionGracePeriodSeconds",
}  # fmt: skip
_FREE: Json = {"x-kubernetes-preserve-unknown-fields": True}
_LEAF: Json = {"x-kubernetes-map-type": "atomic"}


# Values and their words


def schema_of(resource: Resource) -> Json:
    """The schema of a resource's objects, metadata included."""
    if resource.custom is None:
        return SCHEMAS[resource.type_name]
    schema = resource.custom.versions[resource.version].schema
    common = {"apiVersion": {}, "kind": {}, "metadata": SCHEMAS["ObjectMeta"]}
    return {**schema, "properties": {**(schema.get("properties") or {}), **common}}


def member_schema(schema: Json, name: str) -> Json:
    """The schema of a member of an object."""
    properties = schema.get("properties")
    if properties is not None and name in properties:
        return properties[name]  # type: ignore[no-any-return]  # Schemas are JSON.
    extra = schema.get("additionalProperties")
    return extra if isinstance(extra, dict) else _FREE


def _word(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False)


def element_word(item: Json, keys: list[str]) -> str:
    """The word of an element of a list that is a map."""
    found = {k: item.get(k, _KEY_DEFAULTS.get(k)) for k in keys}
    return "k:" + _word({k: v for k, v in found.items() if v is not None})


def parts(value: Any, schema: Json) -> dict[str, tuple[Any, Json]] | None:
    """What a value divides into, by word, with schemas; None for one that is a field as a whole."""
    if isinstance(value, dict):
        if schema.get("x-kubernetes-map-type") != "atomic":
            return {f"f:{name}": (inner, member_schema(schema, name)) for name, inner in value.items()}
    elif isinstance(value, list):
        kind = schema.get("x-kubernetes-list-type")
        if kind == "map" and all(isinstance(item, dict) for item in value):
            keys, inner_schema = schema["x-kubernetes-list-map-keys"], schema.get("items") or _FREE
            return {element_word(item, keys): (item, inner_schema) for item in value}
        if kind == "set":
            return {"v:" + _word(item): (item, _LEAF) for item in value}
    return None


def tree(value: Any, schema: Json, *, inner: bool, owned: bool = False) -> Json:
    """All fields of a value. `inner`: those with more below them too; elements of lists that are maps always are."""
    divided = parts(value, schema)
    if not divided:
        return {}
    out = {w: tree(v, s, inner=inner, owned=inner or w[0] == "k") for w, (v, s) in divided.items()}
    return {".": {}, **out} if owned else out


def changes(old: Any, new: Any, schema: Json) -> tuple[Json | None, Json | None]:
    """The fields of `new` that are new or have another value, and those of `old` that are gone; None for none."""
    if old == new:
        return None, None
    before, after = parts(old, schema), parts(new, schema)
    if before is None or after is None:
        return {}, None
    changed: Json = {}
    removed = {w: tree(v, s, inner=True, owned=True) for w, (v, s) in before.items() if w not in after}
    for word, (value, inner) in after.items():
        if word not in before:
            changed[word] = tree(value, inner, inner=True, owned=True)
            continue
        below, gone = changes(before[word][0], value, inner)
        if below is not None:
            changed[word] = below
        if gone is not None:
            removed[word] = gone
    return (changed or None) if after else {}, removed or None


# Trees


def _is_owned(fields: Json) -> bool:
    return not fields or "." in fields


def union(one: Json, other: Json) -> Json:
    """Both sets."""
    if not one or not other:
        return one or other
    out = {**one, **other}
    out.update((w, _join(one[w], other[w])) for w in one if w != "." and w in other)
    return out


def _join(one: Json, other: Json) -> Json:
    """Both subtrees; an empty one is a field that is owned."""
    joined = union(one, other)
    return {".": {}, **joined} if joined and (_is_owned(one) or _is_owned(other)) else joined


def minus(fields: Json, gone: Json) -> Json | None:
    """What is left of a set; None for nothing."""
    out: Json = {}
    for word, below in fields.items():
        if word == ".":
            continue
        left = minus(below, gone[word]) if word in gone else below
        if left is not None:
            out[word] = left
    if _is_owned(fields) and not _is_owned(gone):
        return {".": {}, **out} if out else {}
    return out or None


def both(one: Json, other: Json) -> Json | None:
    """What is in both sets; None for nothing."""
    common = {w: both(one[w], other[w]) for w in one if w != "." and w in other}
    out = {w: below for w, below in common.items() if below is not None}
    if _is_owned(one) and _is_owned(other):
        return {".": {}, **out} if out else {}
    return out or None


def paths_of(fields: Json, path: Path = ()) -> Iterator[Path]:
    """The fields of a set, one by one."""
    if path and _is_owned(fields):
        yield path
    for word, below in fields.items():
        if word != ".":
            yield from paths_of(below, (*path, word))


# managedFields of an update


def _view(document: Json) -> Json:
    """What of a document can be owned."""
    metadata = {k: v for k, v in document["metadata"].items() if k not in _SYSTEM}
    return {**{k: v for k, v in document.items() if k not in {"apiVersion", "kind"}}, "metadata": metadata}


def _tracked(fields: Json | None, resource: Resource, sub: str) -> Json:
    """The part of a set that a write of the object, or of its status, can own."""
    if sub == "status":
        out = {w: below for w, below in (fields or {}).items() if w in {"f:status", "f:metadata"}}
    else:
        apart = "f:status" if resource.status and not resource.keeps_status else ""
        out = {w: below for w, below in (fields or {}).items() if w != apart}
    metadata = {w: below for w, below in out.pop("f:metadata", {}).items() if w != "."}
    return {"f:metadata": metadata, **out} if metadata else out


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
    entries = given if given is not None else before or []
    if not applied:
        entries = _updated(new, old, resource, manager, sub, now, entries)
    if entries:
        metadata["managedFields"] = entries


@functools.cache
def _blank(type_name: str) -> Json:
    return decode({}, type_name, [])


def _updated(
    new: Json, old: Json | None, resource: Resource, manager: str, sub: str, now: str, entries: list[Json]
) -> list[Json]:
    if old is None:
        old = {"metadata": {}} if resource.custom is not None else {"metadata": {}, **_blank(resource.type_name)}
    all_changed, all_removed = changes(_view(old), _view(new), schema_of(resource))
    changed, removed = _tracked(all_changed, resource, sub), all_removed or {}
    if not changed and not removed:
        return entries
    mine = {"manager": manager, "operation": "Update", "apiVersion": resource.api_version, "subresource": sub}
    out: list[Json] = []
    own: Json = {}
    stamp = now
    for entry in entries:
        fields = entry.get("fieldsV1") or {}
        if all((entry.get(k) or "") == v for k, v in mine.items()):
            own = fields
            if not (changed and minus(changed, own)) and not (removed and both(own, removed)):
                stamp = entry.get("time", now)
            continue
        left = minus(minus(fields, changed) or {}, removed)
        if left:
            out.append(entry if left == fields else {**entry, "fieldsV1": left})
    own = minus(union(own, changed), removed) or {}
    if own:
        out.append(_entry(manager, "Update", resource, sub, stamp, own))
    return out


def _entry(manager: str, operation: str, resource: Resource, sub: str, now: str, fields: Json) -> Json:
    entry = {
        "manager": manager, "operation": operation, "apiVersion": resource.api_version, "time": now, "fieldsType": "FieldsV1",
        "fieldsV1": fields,
    }  # fmt: skip
    if sub:
        entry["subresource"] = sub
    return entry


def same_but_times(new: Json, old: Json) -> bool:
    """Whether two versions differ in nothing but the times of managedFields."""

    def plain(document: Json) -> Json:
        entries = [{**entry, "time": ""} for entry in document["metadata"].get("managedFields") or ()]
        return {**document, "metadata": {**document["metadata"], "managedFields": sorted(entries, key=_word)}}

    return {**new, "metadata": None} == {**old, "metadata": None} and plain(new) == plain(old)


# Server-side apply


def name_as(metadata: Json, key: Key) -> None:
    """Give an object the name of its path, if it has no other.

    Raises:
        ApiError: it has.

    """
    name = metadata.setdefault("name", key[1])
    if name != key[1]:
        raise bad_request(f"the name of the object ({name}) does not match the name on the URL ({key[1]})")


def read(resource: Resource, key: Key, data: bytes) -> Json:
    """The document of an apply.

    Raises:
        ApiError: it cannot be applied to this object.

    """
    try:
        document = codec.parse_yaml(data)
    except ValueError as error:
        raise bad_request(f"error decoding YAML: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.setdefault("metadata", {}), dict):
        raise bad_request("error decoding YAML: the patch or its metadata is not an object")
    kind, version = str(document.get("kind", "")), str(document.get("apiVersion", ""))
    if kind != resource.kind or version != resource.api_version:
        shown = f"/{version}" if version and "/" not in version else version or "/"
        raise bad_request(f"invalid object type: {shown}, Kind={kind}")
    metadata = document["metadata"]
    if metadata.get("managedFields") is not None:
        raise bad_request("metadata.managedFields must be nil")
    name_as(metadata, key)
    kind_shown = f"{version if resource.group else f'/{version}'}, Kind={kind}"
    intro = f"failed to create typed patch object ({metadata.get('namespace', '')}/{key[1]}; {kind_shown}): "
    unknown: list[str] = []
    structural.prune(codec.copy_of(document), schema_of(resource), "", unknown)
    if unknown:
        raise internal(f"{intro}.{unknown[0]}: field not declared in schema")
    if resource.custom is None:
        try:
            decode(document, resource.type_name, [])
        except MismatchError as error:
            raise internal(intro + str(error)) from error
    return document


def _key_text(word: str) -> str:
    return ",".join(f"{k}={_word(v)}" for k, v in sorted(json.loads(word[2:]).items()))


def path_text(path: Path) -> str:
    """A path as conflict messages show it."""
    forms = {"f": lambda rest: f".{rest}", "k": lambda rest: f"[{_key_text('k:' + rest)}]", "v": lambda rest: f"[={rest}]"}
    return "".join(forms[word[0]](word[2:]) for word in path)


def merge(live: Json | None, applied: Json, resource: Resource, call: Call, sub: str) -> tuple[Json, list[Json]]:
    """The live document with an applied one merged in, and its managedFields.

    Raises:
        ApiError: 409 when others own what would change, and force is not set.

    """
    schema = schema_of(resource)
    wanted = _tracked(tree(_view(applied), schema, inner=False), resource, sub)
    if live is None:
        return applied, [_entry(call.manager, "Apply", resource, sub, "", wanted)] if wanted else []
    entries = live["metadata"].get("managedFields") or []
    live = {**live, "metadata": {k: v for k, v in live["metadata"].items() if k != "managedFields"}}
    merged = _merge_value(live, applied, schema)
    changed = both(changes(_view(live), _view(merged), schema)[0] or {}, wanted) or {}
    mine: Json = {}
    stamp = ""
    others: list[tuple[Json, Json]] = []
    for entry in entries:
        fields = entry.get("fieldsV1") or {}
        if (entry.get("manager"), entry.get("operation"), entry.get("subresource") or "") == (call.manager, "Apply", sub):
            mine, stamp = fields, entry.get("time", "")
        else:
            others.append((entry, fields))
    contested = [(entry, sorted(paths_of(both(fields, changed) or {}))) for entry, fields in others] if changed else []
    contested = [(entry, paths) for entry, paths in contested if paths]
    if contested and not call.force:
        raise _conflicts(contested)
    out, kept = [], wanted
    for entry, fields in others:
        left = minus(fields, changed) if changed else fields
        if left:
            out.append(entry if left == fields else {**entry, "fieldsV1": left})
        kept = union(kept, fields)
    if mine:
        _drop(merged, minus(mine, kept) or {}, kept, schema)
    if wanted:
        out.append(_entry(call.manager, "Apply", resource, sub, stamp if mine == wanted else "", wanted))
    return merged, out


def _merge_value(live: Any, applied: Any, schema: Json) -> Any:
    mine, theirs = parts(live, schema), parts(applied, schema)
    if mine is None or theirs is None or type(live) is not type(applied):
        return applied
    out = {w: v for w, (v, _) in mine.items()}
    for word, (value, inner) in theirs.items():
        if value is not None:
            out[word] = _merge_value(out[word], value, inner) if word in out else value
    return list(out.values()) if isinstance(live, list) else {w[2:]: v for w, v in out.items()}


def _drop(value: Any, gone: Json, kept: Json, schema: Json) -> None:
    """Take fields out of a document, and maps and lists that became empty by it; what has kept fields below it stays."""
    for word, below in gone.items():
        found = (parts(value, schema) or {}).get(word) if word != "." else None
        if found is None:
            continue
        inner, inner_schema = found
        if word in kept or not _is_owned(below):
            _drop(inner, below, kept.get(word, {}), inner_schema)
        if (word not in kept and _is_owned(below)) or inner in ({}, []):
            if isinstance(value, dict):
                del value[word[2:]]
            else:
                value.remove(inner)


def _conflicts(contested: list[tuple[Json, list[Path]]]) -> ApiError:
    causes = []
    lines = []
    for entry, paths in contested:
        who = f'"{entry.get("manager")}"' + (f' with subresource "{entry["subresource"]}"' if entry.get("subresource") else "")
        who += f" using {entry.get('apiVersion')}" if entry.get("operation") == "Update" else ""
        causes += [Cause("FieldManagerConflict", f"conflict with {who}", path_text(p)) for p in paths]
        lines.append((who, [path_text(p) for p in paths]))
    if len(causes) == 1:
        message = f"Apply failed with 1 conflict: conflict with {lines[0][0]}: {lines[0][1][0]}"
    else:
        texts = [f"conflicts with {who}:\n" + "\n".join(f"- {p}" for p in paths) for who, paths in lines]
        message = f"Apply failed with {len(causes)} conflicts: " + "\n".join(texts)
    shown = [{"reason": c.reason, "message": c.message, "field": c.field} for c in causes]
    return ApiError(409, "Conflict", message, details={"causes": shown})
