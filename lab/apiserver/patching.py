"""JSON patch (RFC 6902), merge patch (RFC 7386) and strategic merge patch, as the API server applies them.

Pure: documents in, documents out. Which lists a strategic patch merges, and by which key, is in the schemas of the built-in
kinds. Server-side apply is in apply.py.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import jsonpatch

from lab.apiserver.apply import member_schema
from lab.apiserver.errors import ApiError, bad_request, go_quote, internal
from lab.apiserver.typed import SCHEMAS

Json = dict[str, Any]


def rejected() -> ApiError:
    """Every failing operation of a JSON patch gives this."""
    return ApiError(422, "Invalid", "the server rejected our request due to an error in our request", details={})


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7386: null removes, objects merge, everything else replaces."""
    if not isinstance(patch, dict):
        return patch
    out = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            out.pop(key, None)
        else:
            out[key] = merge_patch(out.get(key), value)
    return out


class _Replace(jsonpatch.ReplaceOperation):  # type: ignore[misc]  # The library has no types.
    """A replace that may add a member, as the server's does."""

    def apply(self, obj: Any) -> Any:
        parent, last = self.pointer.to_last(obj)
        if isinstance(parent, dict) and last is not None and "value" in self.operation:
            parent[last] = self.operation["value"]
            return obj
        return super().apply(obj)


class _JsonPatch(jsonpatch.JsonPatch):  # type: ignore[misc]  # The library has no types.
    operations = MappingProxyType({**jsonpatch.JsonPatch.operations, "replace": _Replace})


def json_patch(document: Json, operations: Any) -> Json:
    """RFC 6902, with the server's leniency that a replace may add.

    Raises:
        ApiError: 400 if it is no list of operations, 422 if one of them fails.

    """
    if not isinstance(operations, list):
        word = "object" if isinstance(operations, dict) else "string" if isinstance(operations, str) else "number"
        raise bad_request(f"error decoding patch: json: cannot unmarshal {word} into Go value of type []handlers.jsonPatchOp")
    try:
        out = _JsonPatch(operations).apply(document)
    except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException, TypeError, KeyError, ValueError) as error:
        raise rejected() from error
    if not isinstance(out, dict):
        raise rejected()
    return out


def strategic_patch(document: Json, patch: Json, type_name: str) -> Json:
    """Kubernetes' strategic merge of a patch into a document of a built-in type.

    Raises:
        ApiError: 500 for an element without merge key or an unknown $patch, as the server answers.

    """
    try:
        return _merge_map(document, patch, SCHEMAS[type_name])
    except (TypeError, AttributeError) as error:  # A list where the type has a map, or the like.
        raise bad_request(f"error decoding patch: a value has not the form of its field: {error}") from error


def _merge_map(original: Any, patch: Json, schema: Json) -> Json:
    directive = patch.get("$patch")
    if directive == "replace":
        return {k: v for k, v in patch.items() if k != "$patch"}
    if directive == "delete":
        return {}
    if directive is not None:
        if "properties" in schema:
            raise internal(f"unknown patch type: {directive} in map: {go_quote(patch)}")
        return dict(original or {})
    out: Json = dict(original) if isinstance(original, dict) else {}
    if "$retainKeys" in patch:
        out = {k: v for k, v in out.items() if k in patch["$retainKeys"]}
    for name, value in patch.items():
        directive, _, target = name.partition("/")
        order = patch.get(f"$setElementOrder/{name}")
        inner = member_schema(schema, target or name)
        if directive == "$deleteFromPrimitiveList" and isinstance(out.get(target), list):
            out[target] = [v for v in out[target] if v not in value]
        elif directive == "$setElementOrder" and target not in patch and isinstance(out.get(target), list):
            out[target] = _ordered(out[target], inner.get("x-kubernetes-patch-merge-key", ""), value, [], out[target])
        elif name.startswith("$"):
            continue
        elif value is None:
            out.pop(name, None)
        elif isinstance(value, dict):
            out[name] = _merge_map(out.get(name), value, inner)
        elif isinstance(value, list) and "x-kubernetes-patch-merge-key" in inner:
            out[name] = _merge_list(out.get(name) or [], value, inner, order)
        else:
            out[name] = value
    return out


def _merge_list(original: list[Any], patch: list[Any], schema: Json, order: list[Any] | None) -> list[Any]:
    key, inner = schema["x-kubernetes-patch-merge-key"], schema["items"]
    if not key:
        merged = original + [v for v in patch if v not in original]
        return _ordered(merged, key, order, patch, original)
    if any(isinstance(p, dict) and p.get("$patch") == "replace" and key not in p for p in patch):
        return [p for p in patch if "$patch" not in p]
    out = list(original)
    touched = []
    for element in patch:
        if key not in element:
            raise internal(f"map: {go_quote(element)} does not contain declared merge key: {key}")
        at = next((i for i, o in enumerate(out) if o.get(key) == element[key]), None)
        if element.get("$patch") == "delete":
            if at is not None:
                del out[at]
            continue
        touched.append(element[key])
        if at is None:
            out.append(_merge_map({}, element, inner))
        else:
            out[at] = _merge_map(out[at], element, inner)
    return _ordered(out, key, order, touched, original)


def _ordered(merged: list[Any], key: str, order: list[Any] | None, touched: list[Any], original: list[Any]) -> list[Any]:
    """Sort as the patch wants: its own elements in its order, the others around them as they stood; new ones go first."""

    def name(element: Any) -> Any:
        return element.get(key) if key and isinstance(element, dict) else element

    wanted = [name(o) for o in order] if order is not None else touched
    rank = {v: i for i, v in reversed(list(enumerate(wanted)))}
    first = sorted((e for e in merged if name(e) in rank), key=lambda e: rank[name(e)])
    rest = [e for e in merged if name(e) not in rank]
    place = {name(e): i for i, e in enumerate(original)}
    out: list[Any] = []
    while first and rest:
        earlier = name(first[0]) in place and place[name(rest[0])] < place[name(first[0])]
        out.append(rest.pop(0) if earlier else first.pop(0))
    return out + first + rest
