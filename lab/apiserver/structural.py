"""Structural schemas of custom resources: prune, default, validate.

Called by api.py for custom resources, on the write path. Schemas are the dicts of the definition, with their CEL rules
compiled once by crds.py into `rules` keyed by schema identity. Pure. Texts are the server's.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lab.apiserver.cel import CelError, Rule
from lab.apiserver.errors import Cause, duplicate, invalid_value, required, unsupported

Json = dict[str, Any]
Rules = Mapping[int, list[tuple[Rule, Json]]]  # id(schema) -> its rules and how they were written

_ROOT = ("apiVersion", "kind", "metadata")


def prune(value: Any, schema: Json, path: str, unknown: list[str], *, root: bool = False) -> None:
    """Remove what the schema does not know, in place; paths go to `unknown` sorted as met."""
    if isinstance(value, dict):
        properties, extra = schema.get("properties") or {}, schema.get("additionalProperties")
        for name in sorted(value):
            if root and name in _ROOT:
                continue
            where = f"{path}.{name}" if path else name
            if name in properties:
                prune(value[name], properties[name], where, unknown)
            elif isinstance(extra, dict):
                prune(value[name], extra, where, unknown)
            elif extra is not True and not schema.get("x-kubernetes-preserve-unknown-fields"):
                del value[name]
                unknown.append(where)
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for at, item in enumerate(value):
            prune(item, schema["items"], f"{path}[{at}]", unknown)


def default(value: Any, schema: Json) -> None:
    """Fill in defaults, in place; null for a field that is not nullable is no value."""
    if isinstance(value, dict):
        properties, extra = schema.get("properties") or {}, schema.get("additionalProperties")
        for name, inner in properties.items():
            if value.get(name, ...) is None and not inner.get("nullable"):
                del value[name]
            if name not in value and "default" in inner:
                value[name] = copy.deepcopy(inner["default"])
            if name in value:
                default(value[name], inner)
        if isinstance(extra, dict):
            for name, inner_value in value.items():
                if name not in properties:
                    default(inner_value, extra)
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for item in value:
            default(item, schema["items"])


_TYPE_WORDS = ((bool, "boolean"), (int, "integer"), (float, "number"), (str, "string"), (list, "array"), (dict, "object"))


def type_word(value: object) -> str:
    """The JSON schema type of a value."""
    return next((word for kind, word in _TYPE_WORDS if isinstance(value, kind)), "null")


@dataclass(slots=True)
class Validation:
    """One run over one object; collects causes."""

    rules: Rules
    causes: list[Cause]

    def fault(self, path: str, value: object, tail: str) -> None:
        """A broken schema rule."""
        cause = invalid_value(path, value, f"{path} in body {tail}")
        self.causes.append(Cause("FieldValueTypeInvalid", cause.message, path) if tail.startswith("must be of type") else cause)

    def check(self, value: Any, schema: Json, path: str) -> None:
        """Collect the faults of a value."""
        if value is None and schema.get("nullable"):
            return
        wanted = schema.get("type")
        if schema.get("x-kubernetes-int-or-string"):
            if not isinstance(value, int | str) or isinstance(value, bool):
                self.fault(path, type_word(value), f'must be of type integer,string: "{type_word(value)}"')
                return
        elif wanted and not _is(value, wanted):
            self.fault(path, type_word(value), f'must be of type {wanted}: "{type_word(value)}"')
            return
        if "enum" in schema and value not in schema["enum"]:
            self.causes.append(unsupported(path, value, [str(e) for e in schema["enum"]]))
        match value:
            case bool():
                pass
            case int() | float():
                self._number(value, schema, path)
            case str():
                self._text(value, schema, path)
            case list():
                self._list(value, schema, path)
            case dict():
                self._object(value, schema, path)

    def _number(self, value: float, schema: Json, path: str) -> None:
        for bound, strict, word, sign in (
            ("minimum", "exclusiveMinimum", "greater", 1),
            ("maximum", "exclusiveMaximum", "less", -1),
        ):
            over = sign * (value - schema[bound]) if bound in schema else 1
            if over < 0 or (over == 0 and schema.get(strict)):
                said = f"should be {word} than {'' if schema.get(strict) else 'or equal to '}{schema[bound]}"
                self.fault(path, value, said)
        step = schema.get("multipleOf")
        if step and value % step:
            self.fault(path, value, f"should be a multiple of {step}")

    def _text(self, value: str, schema: Json, path: str) -> None:
        if len(value) < schema.get("minLength", 0):
            self.fault(path, value, f"should be at least {schema['minLength']} chars long")
        if "maxLength" in schema and len(value) > schema["maxLength"]:
            self.causes.append(Cause("FieldValueTooLong", f"Too long: must have at most {schema['maxLength']} bytes", path))
        if "pattern" in schema and not re.search(schema["pattern"], value):
            self.fault(path, value, f"should match '{schema['pattern']}'")
        if schema.get("format") == "date-time" and not _is_date_time(value):
            self.fault(path, value, f'must be of type date-time: "{value}"')

    def _list(self, value: list[Any], schema: Json, path: str) -> None:
        if len(value) < schema.get("minItems", 0):
            self.fault(path, len(value), f"should have at least {schema['minItems']} items")
        if "maxItems" in schema and len(value) > schema["maxItems"]:
            detail = f"Too many: {len(value)}: must have at most {schema['maxItems']} items"
            self.causes.append(Cause("FieldValueTooMany", detail, path))
        if isinstance(schema.get("items"), dict):
            for at, item in enumerate(value):
                self.check(item, schema["items"], f"{path}[{at}]")
        seen: list[Any] = []
        for at, item in enumerate(value if schema.get("x-kubernetes-list-type") in {"map", "set"} else ()):
            keys = schema.get("x-kubernetes-list-map-keys") or ()
            key = {k: item.get(k) for k in keys} if keys and isinstance(item, dict) else item
            if key in seen:
                self.causes.append(duplicate(f"{path}[{at}]", key))
            seen.append(key)

    def _object(self, value: Json, schema: Json, path: str) -> None:
        properties, extra = schema.get("properties") or {}, schema.get("additionalProperties")
        for name in sorted(value):
            where = f"{path}.{name}" if path else name
            if name in properties:
                if path or name not in _ROOT:
                    self.check(value[name], properties[name], where)
            elif isinstance(extra, dict):
                self.check(value[name], extra, where)
        missing = [required(f"{path}.{n}" if path else n) for n in schema.get("required") or () if n not in value]
        self.causes += sorted(missing, key=lambda c: c.field)
        if "minProperties" in schema and len(value) < schema["minProperties"]:
            self.fault(path, len(value), f"should have at least {schema['minProperties']} properties")

    def check_rules(self, value: Any, old: Any, schema: Json, path: str) -> None:
        """Collect the faults of CEL rules; `old` is ... where there is no old value."""
        for rule, written in self.rules.get(id(schema), ()):
            if rule.transition and old is ...:
                continue
            message = written.get("message") or f"failed rule: {written['rule']}"
            try:
                held = rule.holds({"self": value} if old is ... else {"self": value, "oldSelf": old})
            except CelError as error:
                self.causes.append(_rule_fault(written, path, value, f"{error} evaluating rule: {message}"))
                continue
            if not held:
                self.causes.append(_rule_fault(written, path, value, message))
        if isinstance(value, dict):
            for name, inner in (schema.get("properties") or {}).items():
                if name in value:
                    was = old.get(name, ...) if isinstance(old, dict) else ...
                    self.check_rules(value[name], was, inner, f"{path}.{name}" if path else name)
            if isinstance(schema.get("additionalProperties"), dict):
                for name, inner_value in value.items():
                    was = old.get(name, ...) if isinstance(old, dict) else ...
                    self.check_rules(inner_value, was, schema["additionalProperties"], f"{path}[{name}]")
        elif isinstance(value, list) and isinstance(schema.get("items"), dict):
            keys = schema.get("x-kubernetes-list-map-keys")
            for at, item in enumerate(value):
                was = ...
                if keys and isinstance(old, list):
                    was = next((o for o in old if all(o.get(k) == item.get(k) for k in keys)), ...)
                self.check_rules(item, was, schema["items"], f"{path}[{at}]")


_BLOCKING = {"FieldValueTypeInvalid", "FieldValueRequired", "FieldValueTooLong", "FieldValueTooMany", "FieldValueNotSupported"}


def _rule_fault(written: Json, path: str, value: object, message: str) -> Cause:
    reason = written.get("reason") or "FieldValueInvalid"
    field = path + (written.get("fieldPath") or "")
    return Cause(reason, f'Invalid value: "{type_word(value)}": {message}', field)


def _is(value: object, wanted: str) -> bool:
    word = type_word(value)
    if wanted == "number":
        return word in {"integer", "number"}
    return word == wanted or (wanted == "integer" and isinstance(value, float) and value.is_integer())


def _is_date_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return "T" in text


def validate(document: Json, old: Json | None, schema: Json, rules: Rules) -> list[Cause]:
    """All faults of a custom object: schema first, CEL rules only if nothing blocks them."""
    run = Validation(rules, [])
    run.check(document, schema, "")
    if rules and any(c.reason in _BLOCKING for c in run.causes):
        message = (
            'Invalid value: "null": some validation rules were not checked because the object was invalid; '
            "correct the existing errors to complete validation"
        )
        run.causes.append(Cause("FieldValueInvalid", message, "<nil>"))
    elif rules:
        run.check_rules(document, old if old is not None else ..., schema, "")
    return run.causes
