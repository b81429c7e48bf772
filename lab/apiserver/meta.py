"""Metadata rules that hold for every kind: names, labels, annotations, finalizers, owners, and what an update may not change.

The forms of names (how long, which pattern, what is said) are rows of names.json. Pure. Called by api.py for every create and
update. The texts are the server's.
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

from lab.apiserver.errors import Cause, forbidden, go_strings, invalid_value, required

Json = dict[str, Any]
_FORMS: dict[str, tuple[int, re.Pattern[str], str]] = {
    form: (limit, re.compile(pattern), text)
    for form, (limit, pattern, text) in json.loads(Path(__file__).with_name("names.json").read_text(encoding="utf-8")).items()
}


@functools.lru_cache(maxsize=4096)
def faults_of(form: str, text: str) -> tuple[str, ...]:
    """Why a text has not a form of names.json, or is no qualified name (label keys, finalizers, classes)."""
    if form == "qualified":
        return _qualified_faults(text)
    limit, pattern, detail = _FORMS[form]
    faults = () if len(text) <= limit else (f"must be no more than {limit} characters",)
    return faults if pattern.fullmatch(text) else (*faults, detail)


def _qualified_faults(text: str) -> tuple[str, ...]:
    prefix, slash, name = text.rpartition("/")
    whole = _FORMS["name-part"][2].replace("name part must", "a qualified name must")
    if "/" in prefix:
        return (f"{whole} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",)
    faults: tuple[str, ...] = ()
    if slash:
        faults = (
            tuple(f"prefix part {f}" for f in faults_of("subdomain", prefix)) if prefix else ("prefix part must be non-empty",)
        )
    named = faults_of("name-part", name)
    return (
        *faults,
        *([] if name else ["name part must be non-empty"]),
        *(f if f.startswith("name") else f"name part {f}" for f in named),
    )


def label_causes(labels: Json, field: str) -> list[Cause]:
    """Faults of a map of labels or of a plain selector."""
    out = []
    for key, value in labels.items():
        out += [invalid_value(field, key, f) for f in faults_of("qualified", key)]
        out += [invalid_value(field, value, f) for f in faults_of("label-value", value)]
    return out


def check_metadata(metadata: Json, name_rule: str) -> list[Cause]:
    """Faults of an object's metadata."""
    name, prefix = metadata.get("name", ""), metadata.get("generateName", "")
    out = [invalid_value("metadata.generateName", prefix, f) for f in faults_of(name_rule, re.sub("-$", "a", prefix)) if prefix]
    if not name:
        out.append(required("metadata.name", "name or generateName is required"))
    else:
        out += [invalid_value("metadata.name", name, f) for f in faults_of(name_rule, name)]
    out += label_causes(metadata.get("labels") or {}, "metadata.labels")
    for key in metadata.get("annotations") or {}:
        out += [invalid_value("metadata.annotations", key, f) for f in faults_of("qualified", key.lower())]
    owners = metadata.get("ownerReferences") or []
    for owner in owners:
        for member, said in (("apiVersion", "version"), ("kind", "kind"), ("name", "name"), ("uid", "uid")):
            if not owner.get(member):
                out.append(invalid_value(f"metadata.ownerReferences.{member}", "", f"{said} must not be empty"))
    for at, finalizer in enumerate(metadata.get("finalizers") or []):
        out += [invalid_value("metadata.finalizers", finalizer, f) for f in faults_of("qualified", finalizer)]
        if "/" not in finalizer and finalizer not in {"kubernetes", "orphan", "foregroundDeletion"}:
            detail = "name is neither a standard finalizer name nor is it fully qualified"
            out.append(invalid_value(f"metadata.finalizers[{at}]", finalizer, detail))
    return out


def check_metadata_update(new: Json, old: Json) -> list[Cause]:
    """What an update tried to change and may not. Members the caller left out were filled from the old object before."""
    out = [
        invalid_value(f"metadata.{member}", new.get(member, ""), "field is immutable")
        for member in ("uid", "deletionTimestamp")
        if new.get(member) != old.get(member)
    ]
    added = [f for f in new.get("finalizers") or [] if f not in (old.get("finalizers") or [])]
    if old.get("deletionTimestamp") and added:
        detail = f"no new finalizers can be added if the object is being deleted, found new finalizers {go_strings(added)}"
        out.append(forbidden("metadata.finalizers", detail))
    return out
