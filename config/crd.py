"""KINDS turned into CustomResourceDefinitions.

The structs of config.kinds are the only place where fields, bounds and their documentation are written; this module
turns msgspec's JSON schema of them into the structural form that Kubernetes demands. config.check validates against the
same schema, so that API server and daemons cannot disagree. cli.generate writes the files in manifests/crds.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

import msgspec
import yaml

from config.kinds import GROUP, KINDS, Kind, Version

HEADER: Final = "# Written by `lbctl generate` from config/kinds. Change the structs there, then generate again.\n"

WEBHOOK_SERVICE: Final[Mapping[str, Any]] = {"namespace": "metallb-system", "name": "metallb-webhook-service"}
"""Who converts objects: the controller, behind this Service. It puts its caBundle beside it (controller.certificates)."""
CONVERSION_PATH: Final = "/convert"

TYPE_META: Final[Mapping[str, dict[str, Any]]] = {
    "apiVersion": {"type": "string", "description": "The version of the API that this object is written in."},
    "kind": {"type": "string", "description": "The kind of object this is."},
    "metadata": {"type": "object"},
}

ATOMIC_LISTS: Final = frozenset({"matchExpressions", "values"})
"""Members of a label selector that server-side apply replaces as a whole, as in the built-in LabelSelector."""

ATOMIC_MAPS: Final = frozenset({"LabelSelector", "SecretReference"})
"""Structs that server-side apply replaces as a whole, as in the built-in types."""


@cache
def structural(struct: type[msgspec.Struct]) -> dict[str, Any]:
    """The OpenAPI v3 structural schema of one version of a kind. Callers must not change it."""
    schema = msgspec.json.schema(struct)
    definitions = schema.get("$defs", {})
    whole = _inline(schema, definitions)
    whole["properties"] = {**whole["properties"], **TYPE_META}
    ordered = [*TYPE_META, *(name for name in whole["properties"] if name not in TYPE_META)]
    whole["properties"] = {name: whole["properties"][name] for name in ordered}
    return whole


def _inline(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """The schema without references, unions with null, titles and defaults that say nothing."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        target = {**definitions[name], **{key: value for key, value in schema.items() if key not in {"$ref", "$defs"}}}
        extra = {"x-kubernetes-map-type": "atomic"} if name in ATOMIC_MAPS else {}
        return {**_inline(target, definitions), **extra}
    if "anyOf" in schema:
        (only,) = (choice for choice in schema["anyOf"] if choice != {"type": "null"})
        rest = {key: value for key, value in schema.items() if key != "anyOf"}
        return _inline({**only, **rest}, definitions)
    result: dict[str, Any] = {"type": schema.get("type", "string")}
    for key, value in schema.items():
        match key:
            case "title" | "type" | "$defs":
                pass
            case "additionalProperties" if value is False:
                pass  # A structural schema prunes what it does not know; config.check refuses it.
            case "required":
                result |= {"required": list(value)} if value else {}
            case "default":
                result |= {"default": value} if value or value is False else {}
            case "properties":
                result["properties"] = {name: _property(name, one, definitions) for name, one in value.items()}
            case "items" | "additionalProperties":
                result[key] = _inline(value, definitions)
            case _:
                result[key] = value
    return result


def _property(name: str, schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    if name in TYPE_META:
        return {}
    extra = {"x-kubernetes-list-type": "atomic"} if name in ATOMIC_LISTS else {}
    return {**_inline(schema, definitions), **extra}


def definition(kind: Kind) -> dict[str, Any]:
    """The CustomResourceDefinition object of a kind."""
    spec: dict[str, Any] = {
        "group": GROUP,
        "scope": "Namespaced",
        "names": {"kind": kind.name, "listKind": f"{kind.name}List", "plural": kind.plural, "singular": kind.singular},
        "versions": [_version(version) for version in kind.versions],
    }
    if len(kind.versions) > 1:
        spec["conversion"] = {
            "strategy": "Webhook",
            "webhook": {
                "conversionReviewVersions": ["v1", "v1beta1"],
                "clientConfig": {"service": {**WEBHOOK_SERVICE, "path": CONVERSION_PATH}},
            },
        }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}"},
        "spec": spec,
    }


def _version(version: Version) -> dict[str, Any]:
    columns = [
        {"name": one.name, "type": one.type, "jsonPath": one.json_path} | ({"priority": one.priority} if one.priority else {})
        for one in version.columns
    ]
    return {
        "name": version.name,
        "served": True,
        "storage": version.storage,
        **({"deprecated": True, "deprecationWarning": version.deprecation} if version.deprecation else {}),
        "schema": {"openAPIV3Schema": structural(version.struct)},
        "subresources": {"status": {}},
    } | ({"additionalPrinterColumns": columns} if columns else {})


class _Plain(yaml.SafeDumper):
    """Writes equal sub-objects out in full: no anchors, which confuse readers and some tools."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def files() -> dict[str, str]:
    """File name → content of all definitions, byte for byte the same on every machine."""
    dump = {
        kind.plural: yaml.dump(definition(kind), Dumper=_Plain, sort_keys=False, width=120, allow_unicode=True)
        for kind in KINDS.values()
    }
    return {f"{plural}.yaml": HEADER + text for plural, text in dump.items()}
