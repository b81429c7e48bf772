"""Label and field selectors: parse what a query says, and match it against labels or fields.

Pure. Called for every list, watch and delete of a collection. Knows the texts of the server's parse errors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lab.apiserver.errors import bad_request

_TERM = re.compile(
    r"""(?P<absent>!\s*)?(?P<key>[^\s=!,()<>]+)\s*
    (?:(?P<operator>==|!=|[=<>])\s*(?P<value>[^\s=!,()<>]*)|(?P<set>notin|in)\s*\((?P<values>[^()]*)\))?""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition: `operator` is one of = != in notin exists !exists gt lt."""

    key: str
    operator: str
    values: frozenset[str] = frozenset()

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Whether these labels meet it. != and notin hold where the label is missing."""
        value = labels.get(self.key)
        match self.operator:
            case "=" | "in":
                return value is not None and value in self.values
            case "!=" | "notin":
                return value is None or value not in self.values
            case "exists":
                return value is not None
            case "!exists":
                return value is None
        bound = next(iter(self.values))
        if value is None or not re.fullmatch(r"-?\d+", value):
            return False
        return int(value) > int(bound) if self.operator == "gt" else int(value) < int(bound)


Selector = tuple[Requirement, ...]


def matches(selector: Selector, labels: Mapping[str, str]) -> bool:
    """Whether all requirements hold; the empty selector matches everything."""
    return all(r.holds(labels) for r in selector)


_OPERATORS = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "!exists"}


def of_object(selector: Mapping[str, Any]) -> Selector:
    """The requirements of a LabelSelector."""
    pairs = (Requirement(key, "=", frozenset({value})) for key, value in (selector.get("matchLabels") or {}).items())
    terms = selector.get("matchExpressions") or ()
    return (*pairs, *(Requirement(t["key"], _OPERATORS[t["operator"]], frozenset(t.get("values") or ())) for t in terms))


def parse_labels(text: str) -> Selector:
    """The requirements of a labelSelector.

    Raises:
        ApiError: 400 with the server's text.

    """
    out: list[Requirement] = []
    rest = text.strip()
    while rest:
        found = _TERM.match(rest)
        if not found:
            raise bad_request(f"unable to parse requirement: found '{rest}', expected: a key with in, notin, =, ==, !=, gt, lt")
        key, values = (
            found["key"],
            frozenset(re.split(r"\s*,\s*", found["values"].strip()) if found["values"] is not None else ()),
        )
        if found["absent"] or not (found["set"] or found["operator"]):
            out.append(Requirement(key, "!exists" if found["absent"] else "exists"))
        else:
            name = found["set"] or {"==": "=", ">": "gt", "<": "lt"}.get(found["operator"], found["operator"])
            out.append(Requirement(key, name, values if found["set"] else frozenset({found["value"]})))
        rest = rest[found.end() :].strip()
        if rest and not rest.startswith(","):
            raise bad_request(f"found '{rest.split()[0]}', expected: ',' or 'end of string'")
        rest = rest[1:].strip()
    return tuple(out)


def parse_fields(text: str, check: Callable[[str], None]) -> Selector:
    """The requirements of a fieldSelector; `check` raises for a field that does not select here."""
    out: list[Requirement] = []
    for term in filter(None, text.split(",")):
        found = re.match(r"([^=!]+)(==|!=|=)(.*)", term)
        if not found:
            raise bad_request(f"invalid selector: '{text}'; can't understand '{term}'")
        key, operator, value = found.groups()
        check(key)
        out.append(Requirement(key, "!=" if operator == "!=" else "=", frozenset({value})))
    return tuple(out)
