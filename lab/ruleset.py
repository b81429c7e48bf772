"""A node's packet filter rules as values, and the nft commands that turn one set of rules into another.

lab.dataplane says what the rules are, lab.proxies applies them. Only what differs is touched, in one transaction: chains
that stay the same are left in place, so that a change of one Service disturbs no connection of another one and does not
forget which client belongs to which endpoint (session affinity lives in sets that the kernel fills). Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

TABLE: Final = "lab"


@dataclass(slots=True)
class Ruleset:
    """The table of one family.

    `family` is nft's word, ip or ip6. `hooks` are the base chains' types by chain name, `chains` the rules of every chain,
    `maps` the elements (key to verdict) of the verdict maps, whose types are in `types`; `sets` are the types of sets that
    the kernel fills.
    """

    family: str
    hooks: dict[str, str] = field(default_factory=dict)
    chains: dict[str, tuple[str, ...]] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    maps: dict[str, dict[str, str]] = field(default_factory=dict)
    sets: dict[str, str] = field(default_factory=dict)


def changes(old: Ruleset | None, new: Ruleset) -> str:
    """What `nft -f -` must read to get from one set of rules to another; empty when they are equal.

    Without an old one the table is replaced, whatever was in it.
    """
    table = f"{new.family} {TABLE}"
    lines = []
    if old is None:
        lines = [f"add table {table}", f"delete table {table}", f"add table {table}"]
        old = Ruleset(new.family)
    lines += [f"add set {table} {name} {{ {kind} }}" for name, kind in new.sets.items() if name not in old.sets]
    lines += [
        f"add map {table} {name} {{ type {kind} : verdict; }}" for name, kind in new.types.items() if name not in old.types
    ]
    for name in new.chains:
        if name not in old.chains:
            hook = f" {{ {new.hooks[name]} }}" if name in new.hooks else ""
            lines.append(f"add chain {table} {name}{hook}")
    for name, elements in old.maps.items():
        gone = [key for key, verdict in elements.items() if new.maps.get(name, {}).get(key) != verdict]
        lines += _elements("delete", f"{table} {name}", gone)
    lines += [f"flush chain {table} {name}" for name, rules in old.chains.items() if new.chains.get(name) != rules]
    for name, rules in new.chains.items():
        if old.chains.get(name) != rules:
            lines += [f"add rule {table} {name} {rule}" for rule in rules]
    for name, elements in new.maps.items():
        before = old.maps.get(name, {})
        fresh = [f"{key} : {verdict}" for key, verdict in elements.items() if before.get(key) != verdict]
        lines += _elements("add", f"{table} {name}", fresh)
    lines += [f"delete chain {table} {name}" for name in old.chains if name not in new.chains]
    lines += [f"delete set {table} {name}" for name in old.sets if name not in new.sets]
    return "".join(f"{line}\n" for line in lines)


def _elements(verb: str, where: str, elements: Iterable[str]) -> Iterator[str]:
    text = ", ".join(elements)
    if text:
        yield f"{verb} element {where} {{ {text} }}"
