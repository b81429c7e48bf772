"""Rules of built-in kinds as tables: where in an object a check looks, and what it says when the check fails.

The rows are in rules.json, by kind: a path and checks. The path is dotted, `[*]` stands for every element of a list, and
` as NAME` says under which name the server reports what is before the first `[*]`. Of the checks of one row the first that finds a
fault speaks. A check is a word of WORDS and its argument, often the text to say; `check NAME` is a function of kinds.py or
services.py, for what no word can say. `@KIND` in the place of a row stands for the rows of another kind. Pure.
"""

from __future__ import annotations

import functools
import ipaddress
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.apiserver.errors import Cause, duplicate, forbidden, invalid_value, required, unsupported
from lab.apiserver.meta import faults_of, label_causes
from lab.apiserver.resources import dig

Json = dict[str, Any]
Check = Callable[[str, Any, Json, Json | None], list[Cause]]
"""(field, value or None, the object, the object before or None) -> faults"""


@dataclass(frozen=True, slots=True)
class Rule:
    """A row, ready for use. `shown` is what stands in reports for `head`; `optional`: a missing value has no faults."""

    path: str
    head: str
    steps: tuple[str, ...]
    shown: str
    optional: bool
    checks: tuple[Check, ...]


IP_DETAIL = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
FUNCTIONS: dict[str, Check] = {}


def named(name: str) -> Callable[[Check], Check]:
    """Make a function known to rules.json."""

    def keep(check: Check) -> Check:
        FUNCTIONS[name] = check
        return check

    return keep


def values_at(document: Json, path: str) -> Iterator[tuple[str, Any]]:
    """Every place that a path names: its field and its value, None where nothing is."""
    head, star, rest = path.partition("[*]")
    value = dig(document, head) if head else document
    if not star:
        yield head, value
        return
    for at, item in enumerate(value or []):
        if not rest:
            yield f"{head}[{at}]", item
        else:
            yield from ((f"{head}[{at}].{field}", inner) for field, inner in values_at(item, rest[1:]))


def faults(kind: str, new: Json, old: Json | None) -> list[Cause]:
    """What the rules of a kind find."""
    out: list[Cause] = []
    for rule in _rules_of(kind):
        first: Any = new
        for step in rule.steps:
            first = first.get(step) if isinstance(first, dict) else None
        if first is None and rule.optional:
            continue
        for place, value in values_at(new, rule.path) if rule.path is not rule.head else ((rule.head, first),):
            field = rule.shown + place[len(rule.head) :]
            for check in rule.checks:
                found = check(field, value, new, old)
                if found:
                    out += found
                    break
    return out


def is_address(text: str, version: int = 0) -> bool:
    """Whether a text is an IP address, of a version if one is given."""
    try:
        return version in {0, ipaddress.ip_address(text).version}
    except ValueError:
        return False


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text.strip(), strict=False)
    except ValueError:
        return False
    return True


def _holds(test: Callable[[Any], bool], detail: str, *, shown: Any = ...) -> Check:
    """A test of the value, which is reported, or `shown` in its place."""

    def check(field: str, value: Any, _new: Json, _old: Json | None) -> list[Cause]:
        return [] if value is None or test(value) else [invalid_value(field, value if shown is ... else shown, detail)]

    return check


def _between(text: str) -> Check:
    low, high, detail = text.split(" ", 2)
    return _holds(lambda v: isinstance(v, int) and int(low) <= v <= int(high), detail)


def _unique(text: str) -> Check:
    members = text.split()

    def check(field: str, value: Any, _new: Json, _old: Json | None) -> list[Cause]:
        keys = [[item.get(m) for m in members] if members else item for item in value or []]
        tail = f".{text}" if len(members) == 1 else ""
        return [
            duplicate(f"{field}[{at}]{tail}", key[0] if tail else key)
            for at, key in enumerate(keys)
            if key != [None] and key in keys[:at]
        ]

    return check


def _changes(refuse: Callable[[str, Any, str], Cause], detail: str, *, once_set: bool) -> Check:
    def check(field: str, value: Any, _new: Json, old: Json | None) -> list[Cause]:
        before = dig(old, field) if old is not None else None
        return [refuse(field, value, detail)] if old is not None and value != before and (before or not once_set) else []

    return check


def _when(text: str, *, wanted: bool) -> Check:
    condition, detail = text.split(" ", 1)
    path, _, word = condition.partition("=")

    def check(field: str, value: Any, new: Json, _old: Json | None) -> list[Cause]:
        return [forbidden(field, detail)] if value not in (None, []) and (dig(new, path) == word) != wanted else []

    return check


WORDS: dict[str, Callable[[str], Check]] = {
    "check": lambda name: FUNCTIONS[name],
    "needed": lambda detail: lambda f, v, _new, _old: [] if v or v == 0 else [required(f, detail)],
    "among": lambda words: (
        lambda f, v, _new, _old: [] if v is None or v in words.split() else [unsupported(f, v, words.split())]
    ),
    "form": lambda form: lambda f, v, _new, _old: [invalid_value(f, v, t) for t in faults_of(form, v)] if v else [],
    "labels": lambda _: lambda f, v, _new, _old: label_causes(v or {}, f),
    "address": lambda _: _holds(lambda v: not v or is_address(v), IP_DETAIL),
    "network": lambda _: _holds(_is_network, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"),
    "port": lambda _: _between("1 65535 must be between 1 and 65535, inclusive"),
    "count": lambda _: _between("0 2147483647 must be greater than or equal to 0"),
    "between": _between,
    "at-most": lambda limit: _holds(lambda v: len(v) <= int(limit), f"can have at most {limit} characters", shown=""),
    "several": lambda count: _holds(lambda v: v >= int(count), f"should be at least {count}", shown=""),
    "unique": _unique,
    "fixed": lambda detail: _changes(invalid_value, detail or "field is immutable", once_set=False),
    "kept": lambda detail: _changes(lambda f, _v, d: forbidden(f, d), detail, once_set=True),
    "unset": lambda detail: lambda f, v, _new, old: [invalid_value(f, "", detail)] if v and old is None else [],
    "only": functools.partial(_when, wanted=True),
    "unless": functools.partial(_when, wanted=False),
}
_ROWS: dict[str, list[list[str] | str]] = json.loads(Path(__file__).with_name("rules.json").read_text(encoding="utf-8"))


def _rows(kind: str) -> Iterator[Sequence[str]]:
    for row in _ROWS.get(kind, ()):
        if isinstance(row, str):
            yield from _rows(row[1:])
        else:
            yield row


@functools.cache
def _rules_of(kind: str) -> tuple[Rule, ...]:
    def made(text: str) -> Check:
        word, _, argument = text.partition(" ")
        return WORDS[word](argument)

    rules = []
    for where, *checks in _rows(kind):
        path, _, shown = where.partition(" as ")
        head, many, _ = path.partition("[*]")
        optional = bool(many) or not any(c.partition(" ")[0] in {"needed", "check", "fixed", "kept"} for c in checks)
        steps = tuple(head.split(".")) if head else ()
        rules.append(Rule(path if many else head, head, steps, shown or head, optional, tuple(map(made, checks))))
    return tuple(rules)
