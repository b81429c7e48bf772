"""Built-in kinds as the server's Go types see them: which fields exist, of which type, and what is left out when empty.

decode() takes a parsed document and gives the normal form the API answers with: unknown fields gone (and reported), values
checked, empty values left out or written as the type demands. It runs on every create and after every patch of a built-in
kind. SCHEMAS says the same fields as structural schemas, for whatever walks documents of built-in and custom kinds alike
(defaults, server-side apply, strategic merge). Both come from builtin_types.json.

A field there is a type and flags. Type: string, int, bool, number, time, bytes, any, intstr, another type's name, `[]type` or
`{}type`; a leading `!` marks what the API always writes. Flags: `zero` a zero is the same as nothing, `keep` an empty text is
a value, `always` written even if nobody set it, `micro` a time with six digits, `64` a wide integer, `quantity`, `map=K,K` a
list that is a map by these keys, `set`, `atomic` (of a type: under the name ""), `merge=K` the key of strategic merges,
`default=JSON`.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Json = dict[str, Any]
_PREFIXES = re.compile(r"^(Core|Events|Discovery|Authentication|Admissionregistration|Apiextensions|RbacV1)(?=[A-Z])")
_EXACT = {"string": str, "intstr": str, "bool": bool, "int": int}
_WORDS = {bool: "bool", int: "number", float: "number", str: "string", list: "array", dict: "object"}


class MismatchError(Exception):
    """A value that does not fit its Go type; the text is the decoder's."""


@dataclass(frozen=True, slots=True)
class FieldType:
    """How one field is read and written."""

    kind: str
    exact: type | None  # Values of this Python type are taken as they are.
    emit: str  # "omit" an empty value, "keep" whatever is there, "always" write it even if missing
    micro: bool
    wide: bool
    quantity: bool
    required: bool


def _field(text: str) -> FieldType:
    kind, *flags = text.split(" ")
    required, bare = kind.startswith("!"), kind.removeprefix("!")
    if "keep" in flags:
        emit = "keep"
    elif "always" in flags or required:
        emit = "always"
    else:
        emit = "omit" if "zero" in flags or bare == "string" or bare[:2] in {"[]", "{}"} else "keep"
    exact = None if "quantity" in flags else _EXACT.get(bare)
    return FieldType(bare, exact, emit, "micro" in flags, "64" in flags, "quantity" in flags, required)


def _schema(text: str, members: dict[str, Json], atomic: set[str]) -> Json:
    kind, *flags = text.removeprefix("!").split(" ")
    if kind.startswith("[]"):
        out: Json = {"items": _schema(kind[2:], members, atomic)}
    elif kind.startswith("{}"):
        out = {"additionalProperties": _schema(kind[2:], members, atomic)}
    elif kind in members or kind == "schemaOrBool":
        out = {"properties": members[kind if kind in members else "JSONSchemaProps"]}
    else:
        out = {"x-kubernetes-preserve-unknown-fields": True, "x-kubernetes-map-type": "atomic"} if kind == "any" else {}
    if "atomic" in flags or kind in atomic:
        out["x-kubernetes-map-type"] = "atomic"
    if "set" in flags:
        out["x-kubernetes-list-type"] = "set"
    for flag in flags:
        name, _, value = flag.partition("=")
        if name == "map":
            out |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": value.split(",")}
        elif name == "merge":
            out["x-kubernetes-patch-merge-key"] = value
        elif name == "default":
            out["default"] = json.loads(value)
    return out


def _load() -> tuple[dict[str, dict[str, FieldType]], dict[str, Json]]:
    raw: dict[str, dict[str, str]] = json.loads(Path(__file__).with_name("builtin_types.json").read_text(encoding="utf-8"))
    atomic = {owner for owner, fields in raw.items() if "atomic" in fields.pop("", "")}
    members: dict[str, Json] = {owner: {} for owner in raw}
    for owner, fields in raw.items():
        members[owner].update((name, _schema(text, members, atomic)) for name, text in fields.items())
    types = {owner: {name: _field(text) for name, text in fields.items()} for owner, fields in raw.items()}
    return types, {owner: _schema(owner, members, atomic) for owner in raw}


def _items(schema: Json) -> Json:
    """The schema of what a list holds, or the schema itself."""
    return _items(schema["items"]) if "items" in schema else schema


def _defaulted(schemas: dict[str, Json]) -> dict[int, tuple[list[tuple[str, Any]], list[tuple[str, Json]]]]:
    """For the members of every type that has or contains defaults: its own, and the members in which to go on."""
    owners = {id(s["properties"]): s["properties"] for s in schemas.values()}
    own = {key: [(n, s["default"]) for n, s in members.items() if "default" in s] for key, members in owners.items()}
    found = {key for key, defaults in own.items() if defaults}
    while True:
        below = {
            k: [(n, i) for n, s in m.items() if id((i := _items(s)).get("properties")) in found] for k, m in owners.items()
        }
        more = {key for key, members in below.items() if members or own[key]}
        if more == found:
            return {key: (own[key], below[key]) for key in found}
        found = more


TYPES, SCHEMAS = _load()
_DEFAULTED = _defaulted(SCHEMAS)
_ALWAYS = {o: tuple((n, f) for n, f in fields.items() if f.emit == "always") for o, fields in TYPES.items()}


def go_name(type_name: str) -> str:
    """The Go type's name without its package."""
    return _PREFIXES.sub("", type_name)


def _refuse(value: object, owner: str, path: str, field: FieldType, kind: str) -> MismatchError:
    word = _WORDS.get(type(value), "null")
    if word == "number" and kind == "int":
        word = f"number {value}"
    simple = {"int": "int64" if field.wide else "int32", "bytes": "[]uint8", "time": "v1.Time", "number": "float64"}

    def go_type(kind: str) -> str:
        if kind[:2] in {"[]", "{}"}:
            return kind[:2].replace("{}", "map[string]") + go_type(kind[2:])
        return simple.get(kind, kind if kind in {"string", "bool"} else f"v1.{go_name(kind)}")

    where = re.sub(r"\[\d+\]|\.\0[^\0]*\0", "", path)
    return MismatchError(f"json: cannot unmarshal {word} into Go struct field {go_name(owner)}.{where} of type {go_type(kind)}")


_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)$")


def _time(text: str, *, micro: bool) -> str:
    layout = "2006-01-02T15:04:05.000000Z07:00" if micro else "2006-01-02T15:04:05Z07:00"
    found = _RFC3339.match(text)
    if not found:
        raise MismatchError(f'parsing time "{text}" as "{layout}": cannot parse "{text}" as "2006"')
    seconds, fraction, zone = found.groups()
    if micro and len(fraction or "") != 7:
        raise MismatchError(f'parsing time "{text}" as "{layout}": cannot parse "{fraction or ""}{zone}" as ".000000"')
    if zone == "Z":
        return text if micro else seconds + "Z"
    try:
        moment = datetime.fromisoformat(text).astimezone(UTC)
    except ValueError as error:
        raise MismatchError(f'parsing time "{text}" as "{layout}": {error}') from error
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ" if micro else "%Y-%m-%dT%H:%M:%SZ")


def _scalar(value: Any, kind: str, field: FieldType, owner: str, path: str) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    match kind:
        case "any":
            return value
        case "string" if field.quantity and number:
            return str(value)
        case "int" if number and (isinstance(value, int) or value.is_integer()):
            bound = 1 << (63 if field.wide else 31)
            if -bound <= value < bound:
                return int(value)
        case "number" if number:
            return value
        case "intstr" if isinstance(value, int | str) and not isinstance(value, bool):
            return value
        case "time" if isinstance(value, str):
            return _time(value, micro=field.micro)
        case "bytes" if isinstance(value, str):
            try:
                base64.b64decode(value, validate=True)
            except binascii.Error:
                at = next((i for i, c in enumerate(value) if not re.match(r"[A-Za-z0-9+/=]", c)), len(value) // 4 * 4)
                raise MismatchError(f"illegal base64 data at input byte {at}") from None
            return value
        case "string" | "bool" if type(value) is _EXACT[kind]:
            return value
    raise _refuse(value, owner, path, field, kind)


def _zero(kind: str) -> Any:
    if kind in TYPES:
        return _complete(kind, {})
    return {"string": "", "int": 0, "bool": False, "number": 0, "intstr": 0}.get(kind)


def _complete(owner: str, out: Json) -> Json:
    """Add what a type always writes."""
    for name, field in _ALWAYS[owner]:
        if name not in out:
            out[name] = {"creationTimestamp": None} if field.kind == "ObjectMeta" else _zero(field.kind)
    return out


def _value(value: Any, kind: str, field: FieldType, owner: str, path: str, unknown: list[str]) -> Any:
    if kind.startswith("[]"):
        if not isinstance(value, list):
            raise _refuse(value, owner, path, field, kind)
        inner = kind[2:]
        return [
            _zero(inner) if v is None else _value(v, inner, field, owner, f"{path}[{at}]", unknown)
            for at, v in enumerate(value)
        ]
    if kind.startswith("{}"):
        if not isinstance(value, dict):
            raise _refuse(value, owner, path, field, kind)
        inner = kind[2:]
        if inner == "string" and not field.quantity and all(type(v) is str for v in value.values()):
            return value
        return {
            k: _zero(inner) if v is None else _value(v, inner, field, owner, f"{path}.\0{k}\0", unknown)
            for k, v in value.items()
        }
    if kind == "schemaOrBool":
        if isinstance(value, bool):
            return value
        kind = "JSONSchemaProps"
    if kind in TYPES:
        if not isinstance(value, dict):
            raise _refuse(value, owner, path, field, kind)
        return _struct(value, kind, path, unknown)
    return _scalar(value, kind, field, owner, path)


def _struct(document: Json, owner: str, path: str, unknown: list[str]) -> Json:
    fields = TYPES[owner]
    out: Json = {}
    for name, value in document.items():
        field = fields.get(name)
        if field is None:
            unknown.append((f"{path}.{name}" if path else name).replace("\0", ""))
            continue
        if value is None:
            continue
        done: Any = value
        if field.exact is not type(value) or (field.exact is int and not -0x80000000 <= done < 0x80000000):
            done = _value(value, field.kind, field, owner, f"{path}.{name}" if path else name, unknown)
        if not done:
            if field.emit == "omit" and done is not None:
                continue
            if field.emit == "always" and field.kind[:2] in {"[]", "{}"}:
                done = None  # What the real store's encoding makes of an empty list.
        out[name] = done
    return _complete(owner, out)


def decode(document: Json, type_name: str, unknown: list[str], *, path: str = "") -> Json:
    """The document in normal form; paths of unknown fields are appended to `unknown`. `path` is where it stands in its owner.

    Raises:
        MismatchError: a value does not fit its type.

    """
    return _struct(document, type_name, path, unknown)


def fill(document: Any, type_name: str) -> None:
    """The defaults of a type and of what is in it, in place."""
    _fill(document, SCHEMAS[type_name])


def _fill(value: Any, schema: Json) -> None:
    if isinstance(value, list):
        for item in value:
            _fill(item, schema)
    elif isinstance(value, dict):
        own, below = _DEFAULTED.get(id(schema["properties"]), ((), ()))
        for name, default in own:
            if name not in value:
                value[name] = {} if default == {} else default
        for name, inner in below:
            if name in value:
                _fill(value[name], inner)
