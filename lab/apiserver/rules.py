"""Rules of built-in kinds as tables: where in an object a check looks, and what it says when the check fails.

A rule is a path and checks. The path is dotted, `[*]` stands for every element of a list, and ` as NAME` says under which
name the server reports what is before the first `[*]`. Of the checks of one rule the first that finds a fault speaks. kinds.py
and services.py hold the tables. Pure.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lab.apiserver.errors import Cause, duplicate, invalid_value, required, unsupported
from lab.apiserver.resources import dig

Json = dict[str, Any]
Check = Callable[[str, Any, Json, Json | None], list[Cause]]
"""(field, value or None, the object, the object before or None) -> faults"""
Rule = tuple[str, *tuple[Check, ...]]

IP_DETAIL = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"


def values_at(document: Json, path: str) -> Iterator[tuple[str, Any]]:
    """Every place that a path names: its field and its value, None where nothing is."""
    head, star, rest = path.partition("[*]")
    value = dig(document, head)
    if not star:
        yield head, value
        return
    for at, item in enumerate(value or []):
        if not rest:
            yield f"{head}[{at}]", item
        else:
            yield from ((f"{head}[{at}].{field}", inner) for field, inner in values_at(item, rest[1:]))


def faults_by(rules: Sequence[Rule], new: Json, old: Json | None) -> list[Cause]:
    """What the rules find."""
    out: list[Cause] = []
    for rule in rules:
        path, _, shown = rule[0].partition(" as ")
        for place, value in values_at(new, path):
            field = shown + place[len(path.partition("[*]")[0]) :] if shown else place
            out += next((found for check in rule[1:] if (found := check(field, value, new, old))), [])
    return out


def needed(detail: str = "") -> Check:
    """It has to be there."""
    return lambda field, value, _new, _old: [] if value or value == 0 else [required(field, detail)]


def among(*allowed: str) -> Check:
    """It is one of a few texts, or not there."""
    return lambda field, value, _new, _old: [] if value is None or value in allowed else [unsupported(field, value, allowed)]


def said_by(faults: Callable[[Any], Sequence[str]]) -> Check:
    """A function of the value knows its faults; empty and missing values have none."""
    return lambda field, value, _new, _old: [invalid_value(field, value, t) for t in faults(value)] if value else []


def holds(test: Callable[[Any], bool], detail: str, *, shown: Any = ...) -> Check:
    """A test of the value, which is reported, or `shown` in its place."""

    def check(field: str, value: Any, _new: Json, _old: Json | None) -> list[Cause]:
        return [] if value is None or test(value) else [invalid_value(field, value if shown is ... else shown, detail)]

    return check


def fixed(detail: str = "field is immutable") -> Check:
    """It does not change."""

    def check(field: str, value: Any, _new: Json, old: Json | None) -> list[Cause]:
        return [] if old is None or value == dig(old, field) else [invalid_value(field, value, detail)]

    return check


def unique(member: str) -> Check:
    """The elements of a list differ in a member, where they have it."""

    def check(field: str, value: Any, _new: Json, _old: Json | None) -> list[Cause]:
        texts = [item.get(member) for item in value or []]
        return [duplicate(f"{field}[{at}].{member}", t) for at, t in enumerate(texts) if t is not None and t in texts[:at]]

    return check


def is_address(text: str, version: int = 0) -> bool:
    """Whether a text is an IP address, of a version if one is given."""
    try:
        return version in {0, ipaddress.ip_address(text).version}
    except ValueError:
        return False


ADDRESS = holds(is_address, IP_DETAIL)
PORT = holds(lambda v: isinstance(v, int) and 1 <= v <= 65535, "must be between 1 and 65535, inclusive")
NOT_NEGATIVE = holds(lambda v: not isinstance(v, int) or v >= 0, "must be greater than or equal to 0")
