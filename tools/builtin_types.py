# ruff: noqa: INP001 - a script, in no package
"""Write lab/apiserver/builtin_types.json and builtin_texts.json anew: the built-in kinds' fields, and what they are for.

Both come from the kubernetes package's generated models; `kubectl explain` shows the texts.
Run by hand (`.venv/bin/python tools/builtin_types.py`) when the package changes: fields and types that are new are added. The
flags behind a type, and types that the models say too loosely, are written by hand in the file and stay. lab/apiserver/typed.py
says what the words mean; it reads only the JSON, because importing the models costs more than the whole start of the server.
"""

from __future__ import annotations

import datetime as dt
import json
import re
import sys
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kubernetes.client import models

_ROOTS = """
V1Namespace V1Service V1Endpoints V1Node V1Pod V1ConfigMap V1Secret V1ServiceAccount CoreV1Event EventsV1Event V1EndpointSlice
V1Lease V1Deployment V1DaemonSet V1ReplicaSet V1ControllerRevision V1Ingress V1IngressClass V1NetworkPolicy V1Role V1ClusterRole
V1RoleBinding V1ClusterRoleBinding V1CustomResourceDefinition V1ValidatingWebhookConfiguration V1MutatingWebhookConfiguration
V1TokenReview V1SubjectAccessReview V1LocalSubjectAccessReview V1SelfSubjectAccessReview V1SelfSubjectRulesReview V1SelfSubjectReview
AuthenticationV1TokenRequest V1DeleteOptions V1Eviction V1Binding V1Scale
"""
OUTPUT = Path(__file__).parents[1] / "lab" / "apiserver" / "builtin_types.json"
TEXTS = OUTPUT.with_name("builtin_texts.json")


def type_name(cls: type) -> str:
    """The name in the table: the class name without its version."""
    return re.sub(
        r"^(Core|Events|Discovery|Authentication|Admissionregistration|Apiextensions|)V1(?=[A-Z])", r"\1", cls.__name__
    )


def reference(annotation: Any, found: dict[str, type]) -> str:
    """The table's word for a Python annotation; classes met on the way are added to `found`."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return reference(arguments[0], found)
    if origin is typing.Union or origin is types.UnionType:
        choices = {reference(a, found) for a in arguments if a is not type(None)}
        if choices == {"int", "string"}:
            return "intstr"
        if choices == {"int", "number"}:
            return "number"
        if choices == {"bytes", "string"}:
            return "bytes"
        return choices.pop() if len(choices) == 1 else "any"
    if origin is list:
        return "[]" + reference(arguments[0], found)
    if origin is dict:
        inner = reference(arguments[1], found)
        return "any" if inner == "any" else "{}" + inner
    simple = {str: "string", int: "int", bool: "bool", float: "number", bytes: "bytes", dt.datetime: "time"}
    if annotation in simple:
        return simple[annotation]
    if isinstance(annotation, type) and hasattr(annotation, "model_fields"):
        found[type_name(annotation)] = annotation
        return type_name(annotation)
    return "any"


def table() -> dict[str, dict[str, str]]:
    """All types reachable from _ROOTS."""
    pending = {type_name(getattr(models, root)): getattr(models, root) for root in _ROOTS.split()}
    out: dict[str, dict[str, str]] = {}
    while pending:
        name, cls = pending.popitem()
        if name in out:
            continue
        found: dict[str, type] = {}
        out[name] = {
            (field.serialization_alias or field_name): ("!" if field.is_required() else "") + reference(field.annotation, found)
            for field_name, field in cls.model_fields.items()
        }
        pending.update(found)
    return dict(sorted(out.items()))


def merged(old: dict[str, dict[str, str]], new: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """The new types and fields; what is there keeps its type and flags."""
    return {name: {**fields, **old.get(name, {})} for name, fields in new.items()}


def texts(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """What each type, under the name "", and its fields are for."""
    members = (getattr(models, name) for name in dir(models))
    classes = {type_name(c): c for c in members if isinstance(c, type) and hasattr(c, "model_fields")}
    out: dict[str, dict[str, str]] = {}
    for name in sorted(set(names) & set(classes)):
        about = (classes[name].__doc__ or "").partition("\n\n")[0].strip()
        fields = {f.serialization_alias or n: f.description or "" for n, f in classes[name].model_fields.items()}
        out[name] = {member: text for member, text in {"": about, **fields}.items() if text}
    return out


def main() -> int:
    """Write the files; returns the exit status."""
    types_now = merged(json.loads(OUTPUT.read_text(encoding="utf-8")), table())
    for path, content in ((OUTPUT, types_now), (TEXTS, texts(types_now))):
        text = json.dumps(content, separators=(",", ":")).replace('},"', '},\n"')
        path.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
