"""Metadata rules that hold for every kind: names, labels, annotations, finalizers, owners, and what an update may not change.

Pure. Called by api.py for every create and update. The texts are the server's.
"""

from __future__ import annotations

import re
from typing import Any

from lab.apiserver.errors import Cause, invalid_value, required

Json = dict[str, Any]

SUBDOMAIN = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an "
    "alphanumeric character (e.g. 'example.com', regex used for validation is "
    r"'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
LABEL = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an "
    "alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
DNS1035 = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an "
    "alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
)
NAME_PART = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character "
    "(e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
LABEL_VALUE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an "
    "alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
QUALIFIED_PARTS = (
    "a qualified name must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character "
    "(e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an "
    "optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
)
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_DNS1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_NAME_PART = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")


def subdomain_faults(text: str) -> list[str]:
    """Why a text is no DNS subdomain."""
    faults = [] if len(text) <= 253 else ["must be no more than 253 characters"]
    return faults if _SUBDOMAIN.fullmatch(text) else [*faults, SUBDOMAIN]


def label_faults(text: str) -> list[str]:
    """Why a text is no DNS label."""
    faults = [] if len(text) <= 63 else ["must be no more than 63 characters"]
    return faults if _LABEL.fullmatch(text) else [*faults, LABEL]


def dns1035_faults(text: str) -> list[str]:
    """Why a text is no DNS-1035 label, which names of Services must be."""
    faults = [] if len(text) <= 63 else ["must be no more than 63 characters"]
    return faults if _DNS1035.fullmatch(text) else [*faults, DNS1035]


def path_faults(text: str) -> list[str]:
    """Why a text cannot be part of a URL path."""
    if text in {".", ".."}:
        return [f"may not be '{text}'"]
    return [f"may not contain '{c}'" for c in "/%" if c in text]


NAME_RULES = {"subdomain": subdomain_faults, "label": label_faults, "dns1035": dns1035_faults, "path": path_faults}


def qualified_faults(text: str) -> list[str]:
    """Why a text is no qualified name (label keys, finalizers, classes)."""
    parts = text.split("/")
    if len(parts) > 2:
        return [QUALIFIED_PARTS]
    faults = []
    if len(parts) == 2:
        if not parts[0]:
            faults.append("prefix part must be non-empty")
        elif not _SUBDOMAIN.fullmatch(parts[0]):
            faults.append("prefix part " + SUBDOMAIN)
    if not parts[-1]:
        faults.append("name part must be non-empty")
    elif len(parts[-1]) > 63:
        faults.append("name part must be no more than 63 characters")
    if not _NAME_PART.fullmatch(parts[-1]):
        faults.append(NAME_PART)
    return faults


def label_value_faults(text: str) -> list[str]:
    """Why a text cannot be the value of a label."""
    faults = [] if len(text) <= 63 else ["must be no more than 63 characters"]
    return faults if _LABEL_VALUE.fullmatch(text) else [*faults, LABEL_VALUE]


def label_causes(labels: Json, field: str) -> list[Cause]:
    """Faults of a map of labels or of a plain selector."""
    out = []
    for key, value in labels.items():
        out += [invalid_value(field, key, f) for f in qualified_faults(key)]
        out += [invalid_value(field, value, f) for f in label_value_faults(value)]
    return out


def check_metadata(metadata: Json, name_rule: str) -> list[Cause]:
    """Faults of an object's metadata."""
    out: list[Cause] = []
    name, prefix = metadata.get("name", ""), metadata.get("generateName", "")
    faults_of = NAME_RULES[name_rule]
    if prefix:
        trimmed = prefix[:-1] + "a" if prefix.endswith("-") else prefix
        out += [invalid_value("metadata.generateName", prefix, f) for f in faults_of(trimmed)]
    if not name:
        out.append(required("metadata.name", "name or generateName is required"))
    else:
        out += [invalid_value("metadata.name", name, f) for f in faults_of(name)]
    out += label_causes(metadata.get("labels") or {}, "metadata.labels")
    for key in metadata.get("annotations") or {}:
        out += [invalid_value("metadata.annotations", key, f) for f in qualified_faults(key.lower())]
    owners = metadata.get("ownerReferences") or []
    for owner in owners:
        field = "metadata.ownerReferences"
        for member in ("apiVersion", "kind"):
            if not owner.get(member):
                what = "version" if member == "apiVersion" else "kind"
                out.append(invalid_value(f"{field}.{member}", owner.get(member, ""), f"{what} must not be empty"))
        out += [invalid_value(f"{field}.{m}", "", f"{m} must not be empty") for m in ("name", "uid") if not owner.get(m)]
    controllers = [o for o in owners if o.get("controller")]
    if len(controllers) > 1:
        names = [f"{o['kind']}/{o['name']}" for o in controllers[:2]]
        detail = f'Only one reference can have Controller set to true. Found "true" in references for {names[0]} and {names[1]}'
        out.append(invalid_value("metadata.ownerReferences", len(owners), detail))
    for at, finalizer in enumerate(metadata.get("finalizers") or []):
        out += [invalid_value("metadata.finalizers", finalizer, f) for f in qualified_faults(finalizer)]
        if "/" not in finalizer and finalizer not in {"kubernetes", "orphan", "foregroundDeletion"}:
            detail = "name is neither a standard finalizer name nor is it fully qualified"
            out.append(invalid_value(f"metadata.finalizers[{at}]", finalizer, detail))
    return out


def check_metadata_update(new: Json, old: Json) -> list[Cause]:
    """What an update tried to change and may not. Members the caller left out were filled from the old object before."""
    out = []
    if new.get("uid") != old.get("uid"):
        out.append(invalid_value("metadata.uid", new.get("uid", ""), "field is immutable"))
    if new.get("deletionTimestamp") != old.get("deletionTimestamp"):
        out.append(invalid_value("metadata.deletionTimestamp", new.get("deletionTimestamp"), "field is immutable"))
    if old.get("deletionTimestamp"):
        added = [f for f in new.get("finalizers") or [] if f not in (old.get("finalizers") or [])]
        if added:
            shown = "[]string{" + ", ".join(f'"{f}"' for f in added) + "}"
            detail = "no new finalizers can be added if the object is being deleted, found new finalizers " + shown
            out.append(Cause("FieldValueForbidden", f"Forbidden: {detail}", "metadata.finalizers"))
    return out
