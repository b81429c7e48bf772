"""JSON patch (RFC 6902), merge patch (RFC 7386) and strategic merge patch, as the API server applies them.

Pure: documents in, documents out. Strategic patches need to know which lists merge by which key: MERGE_KEYS, from the
patch strategies of the Go types. Server-side apply is in apply.py.
"""

from __future__ import annotations

import copy
from typing import Any

from lab.apiserver.errors import ApiError, bad_request, internal
from lab.apiserver.typed import TYPES

Json = dict[str, Any]

# Lists that merge, by owner type: their merge key, or "" for a list of plain values.
MERGE_KEYS: dict[str, str] = {
    "ObjectMeta.ownerReferences": "uid", "ObjectMeta.finalizers": "", "ServiceSpec.ports": "port", "ServiceStatus.conditions": "type",
    "NodeStatus.conditions": "type", "NodeStatus.addresses": "type", "NodeSpec.podCIDRs": "", "PodStatus.conditions": "type",
    "PodStatus.podIPs": "ip", "PodStatus.hostIPs": "ip", "PodSpec.containers": "name", "PodSpec.initContainers": "name",
    "PodSpec.ephemeralContainers": "name", "PodSpec.volumes": "name", "PodSpec.imagePullSecrets": "name", "PodSpec.hostAliases": "ip",
    "PodSpec.topologySpreadConstraints": "topologyKey", "Container.ports": "containerPort", "Container.env": "name",
    "Container.volumeMounts": "mountPath", "Container.volumeDevices": "devicePath", "ServiceAccount.secrets": "name",
    "ServiceAccount.imagePullSecrets": "name", "DeploymentStatus.conditions": "type", "DaemonSetStatus.conditions": "type",
    "ReplicaSetStatus.conditions": "type", "NamespaceStatus.conditions": "type", "ValidatingWebhookConfiguration.webhooks": "name",
    "MutatingWebhookConfiguration.webhooks": "name", "EndpointSlice.endpoints": "-", "ResourceRequirements.claims": "-",
}  # fmt: skip


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


def json_patch(document: Json, operations: Any) -> Json:
    """RFC 6902, with the server's leniency that a replace may add.

    Raises:
        ApiError: 400 if it is no list of operations, 422 if one of them fails.

    """
    if not isinstance(operations, list):
        word = "object" if isinstance(operations, dict) else "string" if isinstance(operations, str) else "number"
        raise bad_request(f"error decoding patch: json: cannot unmarshal {word} into Go value of type []handlers.jsonPatchOp")
    out: Any = copy.deepcopy(document)
    for operation in operations:
        try:
            out = _operate(out, operation)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise rejected() from error
    if not isinstance(out, dict):
        raise rejected()
    return out


def _pointer(path: Any) -> list[str]:
    if not isinstance(path, str) or (path and not path.startswith("/")):
        raise ValueError(path)
    return [p.replace("~1", "/").replace("~0", "~") for p in path.split("/")[1:]]


def _walk(document: Any, parts: list[str]) -> Any:
    for part in parts:
        document = document[int(part)] if isinstance(document, list) else document[part]
    return document


def _add(document: Any, parts: list[str], value: Any) -> Any:
    if not parts:
        return value
    parent, last = _walk(document, parts[:-1]), parts[-1]
    if isinstance(parent, list):
        at = len(parent) if last == "-" else int(last)
        if not 0 <= at <= len(parent):
            raise IndexError(last)
        parent.insert(at, value)
    else:
        parent[last] = value
    return document


def _remove(document: Any, parts: list[str]) -> Any:
    parent, last = _walk(document, parts[:-1]), parts[-1]
    return parent.pop(int(last)) if isinstance(parent, list) else parent.pop(last)


def _operate(document: Any, operation: Json) -> Any:
    parts = _pointer(operation["path"])
    match operation["op"]:
        case "test":
            if _walk(document, parts) != operation.get("value"):
                raise ValueError("test failed")
        case "add":
            return _add(document, parts, operation["value"])
        case "replace":
            parent = _walk(document, parts[:-1]) if parts else None
            if isinstance(parent, list):
                parent[int(parts[-1])] = operation["value"]
            else:
                return _add(document, parts, operation["value"])
        case "remove":
            _remove(document, parts)
        case "copy":
            return _add(document, parts, copy.deepcopy(_walk(document, _pointer(operation["from"]))))
        case "move":
            return _add(document, parts, _remove(document, _pointer(operation["from"])))
        case other:
            raise ValueError(other)
    return document


def _go_map(value: Any) -> str:
    if isinstance(value, dict):
        return "map[" + " ".join(f"{k}:{_go_map(v)}" for k, v in sorted(value.items())) + "]"
    if isinstance(value, list):
        return "[" + " ".join(_go_map(v) for v in value) + "]"
    return str(value)


def strategic_patch(document: Json, patch: Json, type_name: str) -> Json:
    """Kubernetes' strategic merge of a patch into a document of a built-in type.

    Raises:
        ApiError: 500 for an element without merge key or an unknown $patch, as the server answers.

    """
    try:
        return _merge_map(document, patch, type_name)
    except (TypeError, AttributeError) as error:  # A list where the type has a map, or the like.
        raise bad_request(f"error decoding patch: a value has not the form of its field: {error}") from error


def _child_type(owner: str, name: str) -> str:
    field = TYPES.get(owner, {}).get(name)
    return field.type if field else ""


def _merge_map(original: Any, patch: Json, owner: str) -> Json:
    directive = patch.get("$patch")
    if directive == "replace":
        return {k: v for k, v in patch.items() if k != "$patch"}
    if directive == "delete":
        return {}
    if directive is not None:
        if owner:
            raise internal(f"unknown patch type: {directive} in map: {_go_map(patch)}")
        return dict(original or {})
    out: Json = dict(original) if isinstance(original, dict) else {}
    if "$retainKeys" in patch:
        out = {k: v for k, v in out.items() if k in patch["$retainKeys"]}
    for name, gone in patch.items():
        if name.startswith("$deleteFromPrimitiveList/"):
            target = name.split("/", 1)[1]
            if isinstance(out.get(target), list):
                out[target] = [v for v in out[target] if v not in gone]
    for name, value in patch.items():
        if name.startswith("$"):
            continue
        if value is None:
            out.pop(name, None)
            continue
        kind = _child_type(owner, name)
        order = patch.get(f"$setElementOrder/{name}")
        if isinstance(value, dict):
            out[name] = _merge_map(out.get(name), value, kind.removeprefix("{}") if kind in TYPES or kind[2:] in TYPES else "")
        elif isinstance(value, list) and f"{owner}.{name}" in MERGE_KEYS:
            out[name] = _merge_list(out.get(name) or [], value, MERGE_KEYS[f"{owner}.{name}"], kind.removeprefix("[]"), order)
        else:
            out[name] = value
    for name, order in patch.items():  # An order alone sorts what is there.
        if (
            name.startswith("$setElementOrder/")
            and (target := name.split("/", 1)[1]) not in patch
            and isinstance(out.get(target), list)
        ):
            out[target] = _ordered(out[target], MERGE_KEYS.get(f"{owner}.{target}", ""), order, [], out[target])
    return out


def _merge_list(original: list[Any], patch: list[Any], key: str, inner: str, order: list[Any] | None) -> list[Any]:
    if key == "-":  # Atomic after all.
        return patch
    if not key:
        merged = original + [v for v in patch if v not in original]
        return _ordered(merged, key, order, patch, original)
    if any(isinstance(p, dict) and p.get("$patch") == "replace" and key not in p for p in patch):
        return [p for p in patch if "$patch" not in p]
    out = list(original)
    touched = []
    for element in patch:
        if key not in element:
            raise internal(f"map: {_go_map(element)} does not contain declared merge key: {key}")
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
