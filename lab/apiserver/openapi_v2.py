"""The OpenAPI v2 document in protobuf, which kubectl before 1.27 reads for explain, diff, validation and apply.

Pure: lab.apiserver.discovery makes the document, this writes it with the field numbers of gnostic's OpenAPIv2.proto. Written is
what kubectl reads: definitions with types, texts and the x-kubernetes-* members, and of each path the PATCH operation, where
kubectl sees that a kind can be tried with dryRun. Everything else is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

Json = dict[str, Any]
_EXTENSIONS = ("x-kubernetes-group-version-kind", "x-kubernetes-patch-strategy", "x-kubernetes-patch-merge-key")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, content: str | bytes) -> bytes:
    """A length-delimited field: a text or a message."""
    raw = content.encode() if isinstance(content, str) else content
    return _varint(number << 3 | 2) + _varint(len(raw)) + raw


def _named(number: int, name: str, value: bytes) -> bytes:
    """An entry of a map: gnostic writes it as a message with name and value."""
    return _field(number, _field(1, name) + _field(2, value))


def _extensions(number: int, members: Mapping[str, Any]) -> bytes:
    """The vendor extensions; their values are YAML texts, of which JSON is one kind."""
    return b"".join(
        _named(number, name, _field(2, msgspec.json.encode(members[name]))) for name in _EXTENSIONS if members.get(name)
    )


def _schema(schema: Mapping[str, Any]) -> bytes:
    out = b""
    for reference in schema.get("allOf") or ():  # In v3 a reference stands below allOf, in v2 by itself.
        out += _field(1, reference["$ref"].replace("#/components/schemas/", "#/definitions/")) if "$ref" in reference else b""
    for number, member in ((2, "format"), (4, "description")):
        if schema.get(member):
            out += _field(number, schema[member])
    out += b"".join(_field(19, name) for name in schema.get("required") or ())
    if isinstance(extra := schema.get("additionalProperties"), dict):
        out += _field(21, _field(1, _schema(extra)))
    if schema.get("type"):
        out += _field(22, _field(1, schema["type"]))
    if "items" in schema:
        out += _field(23, _field(1, _schema(schema["items"])))
    if schema.get("properties"):
        out += _field(25, b"".join(_named(1, name, _schema(each)) for name, each in schema["properties"].items()))
    return out + _extensions(31, schema)


def _patch_operation(operation: Mapping[str, Any]) -> bytes:
    # A parameter is ParametersItem.parameter.non_body_parameter.query_parameter_sub_schema.
    parameters = (_field(2, "query") + _field(4, each["name"]) for each in operation["parameters"])
    items = (_field(8, _field(1, _field(2, _field(3, each)))) for each in parameters)
    return b"".join(items) + _extensions(13, operation)


def encode(document: Json) -> bytes:
    """The bytes of a gnostic openapi.v2.Document."""
    info = _field(1, document["info"]["title"]) + _field(2, document["info"]["version"])
    patches = (
        _named(2, path, _field(8, _patch_operation(operations["patch"])))
        for path, operations in document["paths"].items()
        if "patch" in operations
    )
    definitions = (_named(1, name, _schema(schema)) for name, schema in document["definitions"].items())
    return _field(1, "2.0") + _field(2, info) + _field(8, b"".join(patches)) + _field(9, b"".join(definitions))
