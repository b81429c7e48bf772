"""CustomResourceDefinitions: defaults, validation, acceptance, and the resources they add to the registry.

api.py calls default() and validate() on the write path of definitions; controllers.py calls accept() after it and installs
or removes what a definition serves. Conversion is strategy None (the same data under another apiVersion, pruned by the
schema of the version asked for) or Webhook (conversion.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lab.apiserver import conversion, structural
from lab.apiserver.cel import CelError, Rule, compile_rule
from lab.apiserver.errors import Cause, go_strings, invalid_value, raw_invalid, required
from lab.apiserver.resources import Resource
from lab.apiserver.rules import named

Json = dict[str, Any]
FINALIZER = "customresourcecleanup.apiextensions.k8s.io"


@dataclass(frozen=True, slots=True)
class Version:
    """One served version: its schema and the compiled rules of the schema's nodes."""

    name: str
    schema: Json
    rules: Mapping[int, list[tuple[Rule, Json]]]
    columns: tuple[Json, ...]
    deprecation: str | None


@dataclass(frozen=True, slots=True)
class Definition:
    """What a definition says, ready for use."""

    name: str
    storage: str
    versions: Mapping[str, Version] = field(default_factory=dict)
    webhook: Json | None = None
    """Who converts; None: strategy None."""
    converted: dict[tuple[str, bytes], Json] = field(default_factory=dict, compare=False)


def default(crd: Json) -> None:
    """Fill in names and conversion."""
    spec = crd["spec"]
    names = spec["names"]
    if names.get("kind"):
        names.setdefault("singular", names["kind"].lower())
        names.setdefault("listKind", names["kind"] + "List")
    spec.setdefault("conversion", {}).setdefault("strategy", "None")
    service = ((spec["conversion"].get("webhook") or {}).get("clientConfig") or {}).get("service")
    if service is not None:
        service.setdefault("port", 443)


def prepare(new: Json, old: Json | None) -> None:
    """A new definition has an empty status but for the stored version."""
    if old is None:
        new["status"] = {"conditions": None, "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": None}
        if _stored(new):
            new["status"]["storedVersions"] = _stored(new)[:1]
        finalizers = new["metadata"].setdefault("finalizers", [])
        if FINALIZER in finalizers:
            finalizers.remove(FINALIZER)
        if not finalizers:
            del new["metadata"]["finalizers"]
    else:
        stored = list(old["status"].get("storedVersions") or [])
        new["status"]["storedVersions"] = stored + [name for name in _stored(new) if name not in stored]


@named("definition-name")
def _name(field: str, name: str, new: Json, _old: Json | None) -> list[Cause]:
    right = f"{new['spec']['names'].get('plural')}.{new['spec'].get('group')}"
    return [] if name == right else [invalid_value(field, name or "", 'must be spec.names.plural+"."+spec.group')]


@named("storage-version")
def _storage_version(field: str, versions: list[Json] | None, new: Json, _old: Json | None) -> list[Cause]:
    storage, stored = _stored(new), new["status"].get("storedVersions") or []
    out = []
    if len(storage) != 1:
        names = [v["name"] for v in versions or ()]
        out.append(invalid_value(field, names, "must have exactly one version marked as storage version"))
    if not stored:
        out.append(raw_invalid("status.storedVersions", "[]string(nil)", "must have at least one stored version"))
    elif len(storage) > 1:
        detail = f"must have the storage version {storage[-1]}"
        out.append(raw_invalid("status.storedVersions", go_strings(stored), detail))
    return out


@named("schema")
def _schema(_field: str, schema: Json | None, _new: Json, _old: Json | None) -> list[Cause]:
    return _schema_faults(schema, "spec.validation.openAPIV3Schema", schema) if schema else []


@named("conversion")
def _conversion(_field: str, chosen: Json, _new: Json, _old: Json | None) -> list[Cause]:
    wanted = {"clientConfig": "required when strategy is set to Webhook", "conversionReviewVersions": ""}
    webhook = chosen.get("webhook") or {}
    missing = [m for m in wanted if not webhook.get(m)] if chosen["strategy"] == "Webhook" else []
    return [required(f"spec.conversion.{m.replace('client', 'webhookClient')}", wanted[m]) for m in missing]


def _stored(definition: Json) -> list[str]:
    """The versions that are marked as those to store."""
    return [v["name"] for v in definition["spec"].get("versions") or () if v.get("storage")]


def _schema_faults(schema: Json, path: str, root: Json) -> list[Cause]:
    out: list[Cause] = []
    free = schema.get("x-kubernetes-int-or-string") or schema.get("x-kubernetes-preserve-unknown-fields")
    if not schema.get("type") and not free:
        what = "at the root" if schema is root else "for specified object fields"
        out.append(required(f"{path}.type", f"must not be empty {what}"))
    if schema.get("x-kubernetes-list-type") == "map" and not schema.get("x-kubernetes-list-map-keys"):
        out.append(required(f"{path}.x-kubernetes-list-map-keys", "must not be empty if x-kubernetes-list-type is map"))
    if "default" in schema:
        run = structural.Validation({}, [])
        run.check(schema["default"], schema, "")
        out += [Cause(c.reason, c.message, f"{path}.default" + (f".{c.field}" if c.field else "")) for c in run.causes]
    for at, rule in enumerate(schema.get("x-kubernetes-validations") or []):
        try:
            compile_rule(rule["rule"])
        except CelError as error:
            out.append(
                invalid_value(f"{path}.x-kubernetes-validations[{at}].rule", rule["rule"], f"compilation failed: {error}")
            )
    for name, inner in (schema.get("properties") or {}).items():
        out += _schema_faults(inner, f"{path}.properties[{name}]", root)
    for member in ("items", "additionalProperties"):
        if isinstance(schema.get(member), dict):
            out += _schema_faults(schema[member], f"{path}.{member}", root)
    return out


def accept(crd: Json, registry_kinds: Mapping[tuple[str, str], str], now: str) -> Json:
    """The status of a definition after its names were looked at.

    `registry_kinds` says which definition already serves a (group, plural) or (group, kind).
    """
    spec, names = crd["spec"], crd["spec"]["names"]
    me, group = crd["metadata"]["name"], spec["group"]
    taken = [w for w in (names["plural"], names["kind"]) if registry_kinds.get((group, w), me) != me]
    status = dict(crd["status"])
    if taken:
        accepted = _condition("NamesAccepted", "False", "NameConflict", f'"{taken[0]}" is already in use', now)
        established = _condition("Established", "False", "NotAccepted", "not all names are accepted", now)
    else:
        accepted = _condition("NamesAccepted", "True", "NoConflicts", "no conflicts found", now)
        established = _condition("Established", "True", "InitialNamesAccepted", "the initial names have been accepted", now)
        status["acceptedNames"] = dict(names)
    old = {c["type"]: c for c in status.get("conditions") or []}
    status["conditions"] = [
        old[c["type"]] if c["type"] in old and old[c["type"]]["status"] == c["status"] else c for c in (accepted, established)
    ]
    return status


def _condition(kind: str, status: str, reason: str, message: str, now: str) -> Json:
    return {"type": kind, "status": status, "lastTransitionTime": now, "reason": reason, "message": message}


def _compile(schema: Json, rules: dict[int, list[tuple[Rule, Json]]]) -> None:
    written = schema.get("x-kubernetes-validations")
    if written:
        rules[id(schema)] = [(compile_rule(w["rule"]), w) for w in written]
    for inner in (schema.get("properties") or {}).values():
        _compile(inner, rules)
    for member in ("items", "additionalProperties"):
        if isinstance(schema.get(member), dict):
            _compile(schema[member], rules)


def resources_of(crd: Json) -> tuple[Definition, tuple[Resource, ...]]:
    """The definition and the resources it serves, one per served version."""
    spec, names = crd["spec"], crd["spec"]["names"]
    versions = {}
    for version in spec["versions"]:
        schema = version["schema"]["openAPIV3Schema"]
        rules: dict[int, list[tuple[Rule, Json]]] = {}
        _compile(schema, rules)
        deprecation = None
        if version.get("deprecated"):
            default_text = f"{spec['group']}/{version['name']} {names['kind']} is deprecated"
            deprecation = version.get("deprecationWarning") or default_text
        columns = tuple(version.get("additionalPrinterColumns") or ())
        versions[version["name"]] = Version(version["name"], schema, rules, columns, deprecation)
    chosen = spec.get("conversion") or {}
    webhook = chosen.get("webhook") if chosen.get("strategy") == "Webhook" else None
    definition = Definition(crd["metadata"]["name"], _stored(crd)[0], versions, webhook)
    resources = tuple(
        Resource(
            group=spec["group"], version=v["name"], plural=names["plural"], kind=names["kind"], singular=names["singular"],
            list_kind=names["listKind"], short_names=tuple(names.get("shortNames") or ()),
            categories=tuple(names.get("categories") or ()), namespaced=spec["scope"] == "Namespaced",
            status=(v.get("subresources") or {}).get("status") is not None, generation=True, needs_rv=True, custom_fields=True,
            status_metadata="old", custom=definition,
            verbs=("delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"),
        )
        for v in spec["versions"]
        if v.get("served")
    )  # fmt: skip
    return definition, resources


def in_version(document: Json, version: str, definition: Definition, group: str) -> Json:
    """The document under another version: converted by the webhook or just renamed, and pruned by that version's schema.

    Raises:
        Missing: the webhook has to be asked first.

    """
    wanted = f"{group}/{version}"
    if definition.webhook is not None and document.get("apiVersion") != wanted:
        out = conversion.look_up(document, wanted, definition.webhook, definition.converted)
    else:
        out = {**document, "apiVersion": wanted}
    structural.prune(out, definition.versions[version].schema, "", [], root=True)
    return out
