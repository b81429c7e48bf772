"""What clients read before anything else: groups, resources, and OpenAPI documents, all derived from the registry.

The OpenAPI documents list paths, parameters and the schemas of kinds; descriptions of built-in kinds are in builtin_texts.json,
which tools/builtin_types.py writes from the kubernetes package. lab.apiserver.openapi_v2 writes v2 for old kubectls.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lab.apiserver.resources import Registry, Resource
from lab.apiserver.typed import SCHEMAS, TYPES, go_name

Json = dict[str, Any]
_SUB_VERBS = {
    "status": ("get", "patch", "update"), "scale": ("get", "patch", "update"), "finalize": ("update",), "token": ("create",),
    "binding": ("create",), "eviction": ("create",), "log": ("get",), "exec": ("create", "get"), "attach": ("create", "get"),
    "portforward": ("create", "get"),
}  # fmt: skip
_SUB_KINDS = {
    "scale": ("autoscaling", "v1", "Scale"), "token": ("authentication.k8s.io", "v1", "TokenRequest"),
    "exec": ("", "v1", "PodExecOptions"), "attach": ("", "v1", "PodAttachOptions"), "portforward": ("", "v1", "PodPortForwardOptions"),
    "binding": ("", "v1", "Binding"), "eviction": ("policy", "v1", "Eviction"),
}  # fmt: skip


def subresources(resource: Resource) -> list[str]:
    """Names of the subresources served."""
    return sorted([*resource.subresources, *(["status"] if resource.status else []), *(["scale"] if resource.scale else [])])


def group_entry(registry: Registry, group: str) -> Json:
    """An APIGroup without kind."""
    versions = [{"groupVersion": f"{group}/{v}", "version": v} for v in registry.versions(group)]
    return {"name": group, "versions": versions, "preferredVersion": versions[0]}


def group_list(registry: Registry) -> Json:
    """GET /apis."""
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [group_entry(registry, g) for g in registry.groups()]}


def _of_version(registry: Registry, group: str, version: str) -> list[Resource]:
    return sorted((r for r in registry.all() if (r.group, r.version) == (group, version)), key=lambda r: r.plural)


def resource_list(registry: Registry, group: str, version: str) -> Json | None:
    """GET /apis/GROUP/VERSION, or None where there is none."""
    served = _of_version(registry, group, version)
    if not served:
        return None
    rows: list[Json] = []
    for resource in served:
        entry = {
            "name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced, "kind": resource.kind,
            "verbs": list(resource.verbs), **_also_called(resource),
        }  # fmt: skip
        if "list" in resource.verbs:
            entry["storageVersionHash"] = _hash(f"{resource.qualified}/{resource.version}")
        rows.append(entry)
        for name in subresources(resource):
            sub_group, sub_version, kind = _SUB_KINDS.get(name, ("", "", resource.kind))
            where = {"group": sub_group, "version": sub_version} if sub_group else {}
            row = {"name": f"{resource.plural}/{name}", "singularName": "", "namespaced": resource.namespaced, **where}
            rows.append({**row, "kind": kind, "verbs": _SUB_VERBS[name]})
    out: Json = {"kind": "APIResourceList", "groupVersion": f"{group}/{version}" if group else version, "resources": rows}
    if group:
        out["apiVersion"] = "v1"
    return out


def _also_called(resource: Resource) -> Json:
    names = {"shortNames": list(resource.short_names), "categories": list(resource.categories)}
    return {name: values for name, values in names.items() if values}


def _aggregated_entry(resource: Resource) -> Json:
    # Built-in kinds leave out the group and version that the entry around them says already.
    group, version = (resource.group, resource.version) if resource.custom else ("", "")
    subs = []
    for name in subresources(resource):
        sub_group, sub_version, kind = _SUB_KINDS.get(name, (group, version, resource.kind))
        shown = {"group": sub_group, "version": sub_version if sub_group else "", "kind": kind}
        subs.append({"subresource": name, "responseKind": shown, "verbs": list(_SUB_VERBS[name])})
    return {
        "resource": resource.plural, "responseKind": {"group": group, "version": version, "kind": resource.kind},
        "scope": "Namespaced" if resource.namespaced else "Cluster", "singularResource": resource.singular,
        "verbs": list(resource.verbs), **_also_called(resource), **({"subresources": subs} if subs else {}),
    }  # fmt: skip


def aggregated(registry: Registry, groups: Iterable[str], version: str) -> Json:
    """An APIGroupDiscoveryList of the given groups ("" is core)."""
    items = []
    for group in groups:
        versions = [
            {
                "version": v, "resources": [_aggregated_entry(r) for r in _of_version(registry, group, v)], "freshness": "Current",
            }
            for v in registry.versions(group)
        ]  # fmt: skip
        items.append({"metadata": {**({"name": group} if group else {}), "creationTimestamp": None}, "versions": versions})
    return {"kind": "APIGroupDiscoveryList", "apiVersion": f"apidiscovery.k8s.io/{version}", "metadata": {}, "items": items}


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _document_path(group: str, version: str) -> str:
    return f"apis/{group}/{version}" if group else f"api/{version}"


def openapi_index(registry: Registry) -> Json:
    """GET /openapi/v3."""
    paths: Json = {"version": {"serverRelativeURL": "/openapi/v3/version?hash=1"}}
    for group in ["", *registry.groups()]:
        for version in registry.versions(group):
            path = _document_path(group, version)
            paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={_hash(f'{path}{registry.version if group else 0}')}"}
    return {"paths": paths}


_PARAMETERS = tuple(
    {"name": name, "in": "query", "schema": {"type": "string"}} for name in ("dryRun", "fieldManager", "fieldValidation")
)
# Strategic merge is not listed: kubectl then patches by the types it was built with, which are complete.
_PATCHES: Json = {
    m: {} for m in ("application/apply-patch+yaml", "application/json-patch+json", "application/merge-patch+json")
}


def _operation(resource: Resource, action: str) -> Json:
    """What kubectl looks for in an operation: the kind it is about, and how it can be tried."""
    kind = {"group": resource.group, "version": resource.version, "kind": resource.kind}
    body = {"requestBody": {"content": _PATCHES}} if action == "patch" else {}
    return {**body, "x-kubernetes-action": action, "x-kubernetes-group-version-kind": kind, "parameters": _PARAMETERS}


def _paths(resources: Iterable[Resource]) -> Json:
    out: Json = {}
    for resource in resources:
        root = f"/{_document_path(resource.group, resource.version)}"
        base = f"{root}/namespaces/{{namespace}}/{resource.plural}" if resource.namespaced else f"{root}/{resource.plural}"
        out[base] = {"post": _operation(resource, "post")}
        if "get" in resource.verbs:
            out[base] |= {"get": _operation(resource, "list"), "delete": _operation(resource, "deletecollection")}
            for path in (f"{base}/{{name}}", *([f"{base}/{{name}}/status"] if resource.status else [])):
                out[path] = {action: _operation(resource, action) for action in ("get", "put", "delete", "patch")}
    return out


_PACKAGES = {
    "": "io.k8s.api.core.v1", "apps": "io.k8s.api.apps.v1", "discovery.k8s.io": "io.k8s.api.discovery.v1",
    "coordination.k8s.io": "io.k8s.api.coordination.v1", "events.k8s.io": "io.k8s.api.events.v1",
    "networking.k8s.io": "io.k8s.api.networking.v1", "rbac.authorization.k8s.io": "io.k8s.api.rbac.v1",
    "admissionregistration.k8s.io": "io.k8s.api.admissionregistration.v1", "authentication.k8s.io": "io.k8s.api.authentication.v1",
    "authorization.k8s.io": "io.k8s.api.authorization.v1",
    "apiextensions.k8s.io": "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1",
}  # fmt: skip
_SIMPLE: dict[str, Json] = {
    "string": {"type": "string"}, "int": {"type": "integer", "format": "int32"}, "bool": {"type": "boolean"}, "number": {"type": "number"},
    "time": {"type": "string", "format": "date-time"}, "bytes": {"type": "string", "format": "byte"}, "any": {},
    "intstr": {"type": "string", "format": "int-or-string"}, "schemaOrBool": {},
}  # fmt: skip


@functools.cache
def _texts() -> dict[str, dict[str, str]]:
    """What built-in types, under the name "", and their fields are for; read when somebody first asks (kubectl explain)."""
    read: dict[str, dict[str, str]] = json.loads(Path(__file__).with_name("builtin_texts.json").read_text(encoding="utf-8"))
    return read


def _reference(kind: str, package: str, pending: list[str]) -> Json:
    if kind.startswith("[]"):
        return {"type": "array", "items": _reference(kind[2:], package, pending)}
    if kind.startswith("{}"):
        return {"type": "object", "additionalProperties": _reference(kind[2:], package, pending)}
    if kind in _SIMPLE:
        return dict(_SIMPLE[kind])
    pending.append(kind)
    return {"allOf": [{"$ref": f"#/components/schemas/{_schema_name(kind, package)}"}], "default": {}}


def _schema_name(kind: str, package: str) -> str:
    if kind in {"ObjectMeta", "OwnerReference", "ManagedFieldsEntry", "LabelSelector", "LabelSelectorRequirement", "Condition"}:
        return f"io.k8s.apimachinery.pkg.apis.meta.v1.{kind}"
    return f"{package}.{go_name(kind)}"


def _schemas(resources: list[Resource], group: str) -> Json:
    out: Json = {}
    package = _PACKAGES.get(group, "")
    pending = [r.type_name for r in resources if r.type_name]
    kinds = {r.type_name: r for r in resources}
    while pending:
        name = pending.pop()
        title = _schema_name(name, package)
        if title in out:
            continue
        described = _texts().get(name, {})
        properties: Json = {}
        schema: Json = {"type": "object", "properties": properties}
        out[title] = schema
        if described.get(""):
            schema["description"] = described[""]
        required = [n for n, f in TYPES[name].items() if f.required]
        if required:
            schema["required"] = required
        for member, field in TYPES[name].items():
            properties[member] = _reference(field.kind, package, pending)
            if described.get(member):
                properties[member]["description"] = described[member]
            key = SCHEMAS[name]["properties"][member].get("x-kubernetes-patch-merge-key")
            if key is not None:
                properties[member] |= {"x-kubernetes-patch-strategy": "merge", "x-kubernetes-patch-merge-key": key}
        if name in kinds:
            r = kinds[name]
            schema["x-kubernetes-group-version-kind"] = [{"group": r.group, "kind": r.kind, "version": r.version}]
    return out


def _custom_schema(resource: Resource) -> tuple[str, Json]:
    assert resource.custom is not None
    schema = dict(resource.custom.versions[resource.version].schema)
    schema["properties"] = {
        **(schema.get("properties") or {}),
        "apiVersion": {"type": "string", "description": "The version of the schema of this object."},
        "kind": {"type": "string", "description": "The kind of this object."},
        "metadata": {"type": "object", "description": "Standard object's metadata."},
    }
    schema["x-kubernetes-group-version-kind"] = [{"group": resource.group, "kind": resource.kind, "version": resource.version}]
    return f"{'.'.join(reversed(resource.group.split('.')))}.{resource.version}.{resource.kind}", schema


def openapi_v3(registry: Registry, group: str, version: str) -> Json | None:
    """GET /openapi/v3/apis/GROUP/VERSION."""
    served = _of_version(registry, group, version)
    if not served:
        return None
    if served[0].custom is not None:
        schemas = dict(_custom_schema(r) for r in served if r.custom is not None)
    else:
        schemas = _schemas(served, group)
    return {
        "openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1.31.4"}, "paths": _paths(served),
        "components": {"schemas": schemas},
    }  # fmt: skip


def openapi_v2(registry: Registry) -> Json:
    """What openapi_v2.py writes, with schemas in the words of v3."""
    definitions: Json = {}
    for group in ["", *registry.groups()]:
        served = [r for r in registry.all() if r.group == group and r.custom is None]
        definitions.update(_schemas(served, group))
    definitions.update(_custom_schema(r) for r in registry.all() if r.custom is not None)
    return {
        "swagger": "2.0", "info": {"title": "Kubernetes", "version": "v1.31.4"}, "paths": _paths(r for r in registry.all()),
        "definitions": definitions,
    }  # fmt: skip


def version_info() -> Json:
    """GET /version."""
    return {
        "major": "1", "minor": "31", "gitVersion": "v1.31.4", "gitCommit": "lab", "gitTreeState": "clean",
        "buildDate": "2025-01-01T00:00:00Z", "goVersion": "none", "compiler": "CPython", "platform": "linux/amd64",
    }  # fmt: skip
