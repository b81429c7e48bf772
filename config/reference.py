"""KINDS turned into the reference pages of the custom resources, one page per kind.

Made from the same schema as the CRDs, so that page, `kubectl explain` and validation cannot disagree. cli.generate writes
the pages to docs/reference. Label selectors are the same everywhere: they are named, not unfolded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from config.crd import structural
from config.kinds import GROUP, KINDS, Kind, Version

NOTE: Final = "<!-- Written by `lbctl generate` from config/kinds. Change the structs there, then generate again. -->\n"
BOUNDS: Final = {
    "minimum": "at least {}",
    "maximum": "at most {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} entries",
}
SELECTOR: Final = frozenset({"matchLabels", "matchExpressions"})


def files() -> dict[str, str]:
    """File name → content of all pages, byte for byte the same on every machine."""
    pages = {f"{kind.singular}.md": page(kind) for kind in KINDS.values()}
    return {"resources.md": index(), **pages}


def index() -> str:
    """The page that lists the kinds."""
    lines = [NOTE, "# Custom resources", "", f"All are of the group `{GROUP}`, and live in the namespace of metallb-py.", ""]
    lines += ["| kind | what it is for |", "|---|---|"]
    lines += (f"| [{kind.name}]({kind.singular}.md) | {_description(_schema(kind.storage))} |" for kind in KINDS.values())
    return "\n".join(lines) + "\n"


def page(kind: Kind) -> str:
    """The page of a kind."""
    lines = [NOTE, f"# {kind.name}"]
    for version in reversed(kind.versions):
        lines += ["", f"## {GROUP}/{version.name}", "", _description(_schema(version))]
        if version.deprecation:
            lines += ["", f"Deprecated: {version.deprecation}."]
        rows = list(_rows(version))
        if rows:
            lines += ["", "| member | type | default | allowed | meaning |", "|---|---|---|---|---|", *rows]
        if version.columns:
            names = ", ".join(f"{one.name} (`{one.json_path}`)" for one in version.columns)
            lines += ["", f"Columns of `kubectl get {kind.plural}`: {names}."]
    return "\n".join(lines) + "\n"


def _schema(version: Version) -> Mapping[str, Any]:
    return structural(version.struct)


def _description(schema: Mapping[str, Any]) -> str:
    return " ".join(str(schema.get("description", "")).split())


def _rows(version: Version) -> Iterator[str]:
    properties = _schema(version)["properties"]
    for part in ("spec", "status"):
        if part in properties:
            yield from _members(properties[part], part)


def _members(schema: Mapping[str, Any], path: str) -> Iterator[str]:
    required = schema.get("required", ())
    for name, one in schema.get("properties", {}).items():
        inner = f"{path}.{name}"
        yield _row(inner, one, needed=name in required)
        if one["type"] == "array":
            inner, one = f"{inner}[]", one["items"]  # noqa: PLW2901 - the entries are what has members
        if one["type"] == "object" and not _is_selector(one):
            yield from _members(one, inner)


def _is_selector(schema: Mapping[str, Any]) -> bool:
    return set(schema.get("properties", ())) == SELECTOR


def _row(path: str, schema: Mapping[str, Any], *, needed: bool) -> str:
    default = f"`{json.dumps(schema['default'])}`" if "default" in schema else "required" if needed else ""
    cells = (f"`{path}`", _type(schema), default, _allowed(schema), _description(schema))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _type(schema: Mapping[str, Any]) -> str:
    if schema["type"] == "array":
        return f"list of {_type(schema['items'])}s"
    if _is_selector(schema):
        return "label selector"
    if "additionalProperties" in schema:
        return "map"
    return str(schema["type"])


def _allowed(schema: Mapping[str, Any]) -> str:
    said = [", ".join(f"`{one}`" for one in schema["enum"])] if "enum" in schema else []
    said += (text.format(schema[name]) for name, text in BOUNDS.items() if name in schema)
    said += (rule["message"] for rule in schema.get("x-kubernetes-validations", ()))
    return "; ".join(said)
