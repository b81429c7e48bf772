"""Label selectors: what users write, compiled once, and matched often.

Matching is the API's own (labels.Requirement): NotIn and DoesNotExist also hold when the key is absent. Called by
config.compile and by the deciders of both daemons. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from config.kinds.meta import LabelSelector
from config.model import Requirement, Selector
from config.problem import Finding

NAME: Final = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", re.ASCII)
PREFIX: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", re.ASCII)
PREFIX_LENGTH_MAX: Final = 253


def matches(selector: Selector, labels: Mapping[str, str]) -> bool:
    """Whether all requirements hold for these labels."""
    return all(_holds(requirement, labels) for requirement in selector.requirements)


def matches_any(selectors: Iterable[Selector], labels: Mapping[str, str]) -> bool:
    """Whether one of the selectors matches; no selectors match nothing (callers decide what an absent list means)."""
    return any(matches(selector, labels) for selector in selectors)


def _holds(requirement: Requirement, labels: Mapping[str, str]) -> bool:
    match requirement.operator:
        case "In":
            return labels.get(requirement.key) in requirement.values
        case "NotIn":
            return labels.get(requirement.key) not in requirement.values
        case "Exists":
            return requirement.key in labels
        case "DoesNotExist":
            return requirement.key not in labels


def compile_selector(selector: LabelSelector) -> Selector:
    """The requirements of a selector that check_selector has no findings about, in a fixed order."""
    wanted = [Requirement(key, "In", frozenset((value,))) for key, value in selector.match_labels.items()]
    wanted += [Requirement(one.key, one.operator, frozenset(one.values)) for one in selector.match_expressions]
    return Selector(tuple(sorted(wanted, key=lambda one: (one.key, one.operator, sorted(one.values)))))


def check_selector(selector: LabelSelector, path: str) -> Iterator[Finding]:
    """What is wrong with a selector at this JSON path (apimachinery: LabelSelectorAsSelector)."""
    for key, value in selector.match_labels.items():
        yield from _check_key(key, f"{path}.matchLabels")
        yield from _check_value(value, f"{path}.matchLabels[{key}]")
    seen = set()
    for index, one in enumerate(selector.match_expressions):
        here = f"{path}.matchExpressions[{index}]"
        yield from _check_key(one.key, f"{here}.key")
        for position, value in enumerate(one.values):
            yield from _check_value(value, f"{here}.values[{position}]")
        if one.operator in {"In", "NotIn"} and not one.values:
            yield Finding(
                f"{here}.values", "selector-values", f"operator {one.operator} needs values", "list at least one value"
            )
        if one.operator in {"Exists", "DoesNotExist"} and one.values:
            yield Finding(
                f"{here}.values",
                "selector-values",
                f"operator {one.operator} takes no values",
                "remove the values, or use In or NotIn",
            )
        if len(set(one.values)) < len(one.values):
            yield Finding(f"{here}.values", "duplicate", "duplicate value in a match expression", "list each value once")
        text = (one.key, one.operator, tuple(sorted(one.values)))
        if text in seen:
            yield Finding(here, "duplicate", "duplicate match expression in a selector", "write each expression once")
        seen.add(text)


def check_selectors(selectors: Sequence[LabelSelector], path: str) -> Iterator[Finding]:
    """What is wrong with a list of selectors: each by itself, and two that say the same."""
    seen = set()
    for index, selector in enumerate(selectors):
        yield from check_selector(selector, f"{path}[{index}]")
        expressions = sorted((one.key, one.operator, tuple(sorted(one.values))) for one in selector.match_expressions)
        text = (tuple(sorted(selector.match_labels.items())), tuple(expressions))
        if text in seen:
            yield Finding(f"{path}[{index}]", "duplicate", "duplicate selector", "write each selector once")
        seen.add(text)


def _check_key(key: str, path: str) -> Iterator[Finding]:
    prefix, slash, name = key.rpartition("/")
    good = NAME.fullmatch(name) and (not slash or (len(prefix) <= PREFIX_LENGTH_MAX and PREFIX.fullmatch(prefix)))
    if not good:
        yield Finding(
            path,
            "label-key",
            f"invalid label key {key!r}",
            "a key is [prefix/]name; the name has at most 63 letters, digits, '-', '_' or '.'",
        )


def _check_value(value: str, path: str) -> Iterator[Finding]:
    if value and not NAME.fullmatch(value):
        yield Finding(
            path, "label-value", f"invalid label value {value!r}", "a value has at most 63 letters, digits, '-', '_' or '.'"
        )
