"""Compare a parsed JSON document with the structural schema of its kind, and collect every difference.

msgspec stops at the first member it cannot decode; users want all of them. Called by config.compile before it decodes.
The schema is the one in the CRD, with one difference: a member it does not know is a finding here, where the API server
drops it silently. Texts with a grammar of their own (addresses) are left to config.values, which explains better.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from config.problem import Finding

JSON_NAMES: Final[Mapping[type, str]] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
    type(None): "null",
}
SHOWN_MAX: Final = 80
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
"""What an integer of the Kubernetes API can be, where the schema says nothing narrower."""


def show(value: object) -> str:
    """The value as JSON text, shortened for messages."""
    text = json.dumps(value, ensure_ascii=False, default=str, sort_keys=True)
    return text if len(text) <= SHOWN_MAX else f"{text[: SHOWN_MAX - 1]}…"


def findings(value: object, schema: Mapping[str, Any], path: str) -> Iterator[Finding]:
    """Everything in `value` that the schema does not allow."""
    wanted, got = schema["type"], JSON_NAMES.get(type(value), type(value).__name__)
    if got != wanted:
        yield Finding(path, "type", f"must be {_article(wanted)}, is {_article(got)}", f"write {_article(wanted)}", show(value))
        return
    match value:
        case dict():
            yield from _object(value, schema, path)
        case list():
            if len(value) < schema.get("minItems", 0):
                yield Finding(path, "too-few", f"needs at least {schema['minItems']} entry", "add one", show(value))
            for index, one in enumerate(value):
                yield from findings(one, schema["items"], f"{path}[{index}]")
        case _:
            yield from _scalar(value, schema, path)


def _object(value: Mapping[str, object], schema: Mapping[str, Any], path: str) -> Iterator[Finding]:
    if "additionalProperties" in schema:
        for key, one in value.items():
            yield from findings(one, schema["additionalProperties"], f"{path}[{key}]")
        return
    known = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            yield Finding(f"{path}.{name}", "required", "is required", f"add {name}")
    for name, one in value.items():
        if name in known:
            yield from findings(one, known[name], f"{path}.{name}")
        else:
            yield Finding(f"{path}.{name}", "unknown-field", f"unknown field {name!r}", _suggestion(name, known), show(one))


def _scalar(value: Any, schema: Mapping[str, Any], path: str) -> Iterator[Finding]:
    if "enum" in schema and value not in schema["enum"]:
        choices = ", ".join(map(str, schema["enum"]))
        yield Finding(path, "enum", f"unknown value {show(value)}", f"write one of {choices}", show(value))
    if schema["type"] != "integer":
        return
    low, high = schema.get("minimum", INT64_MIN), schema.get("maximum", INT64_MAX)
    if not low <= value <= high:
        yield Finding(path, "range", f"{value} is out of range", f"write a number from {low} to {high}", show(value))


def _suggestion(name: str, known: Mapping[str, object]) -> str:
    for candidate in known:
        if candidate.lower() == name.lower():
            return f"write {candidate}"
    return f"remove it; known fields: {', '.join(sorted(known))}" if known else "remove it"


def _article(name: str) -> str:
    return name if name == "null" else f"an {name}" if name[0] in "aio" else f"a {name}"
