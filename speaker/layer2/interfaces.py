"""Say which interfaces of this node may carry announcements, and why the others may not.

plan.decide() calls it after the election is won: interfaces never decide who wins. The rules are MetalLB's: an interface
must be up, able to broadcast, not NOARP, and not enslaved to a bridge, bond or VRF; it needs no IPv4 address of its own. For
IPv6 it needs a link-local address, which its messages come from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from config.model import InterfaceName
from speaker.world import Link


@dataclass(frozen=True, slots=True)
class Pick:
    """The interfaces to use, and one sentence about those that were wanted and cannot be used (empty: none)."""

    usable: frozenset[InterfaceName]
    explanation: str


def why_not(link: Link) -> str | None:
    """Why an interface cannot carry ARP announcements, or None if it can."""
    if not link.up:
        return "is down"
    if link.noarp:
        return "has ARP switched off (NOARP)"
    if not link.broadcast:
        return "cannot broadcast"
    if link.master:
        return "is part of a bridge, bond or VRF"
    if len(link.mac) != 6:
        return "has no Ethernet address"
    return f"cannot be used: {link.refused}" if link.refused else None


def why_not_ipv6(link: Link) -> str | None:
    """Why an interface cannot carry NDP announcements, or None if it can."""
    return why_not(link) or ("has no IPv6 link-local address" if link.link_local is None else None)


def wanted(named: Iterable[frozenset[InterfaceName]]) -> frozenset[InterfaceName] | None:
    """The union of the interfaces that advertisements name, or None for all, which one without names means."""
    union: frozenset[InterfaceName] = frozenset()
    for names in named:
        if not names:
            return None
        union |= names
    return union


def pick(links: Sequence[Link], names: frozenset[InterfaceName] | None, version: int) -> Pick:
    """Choose the interfaces that can carry addresses of an IP version among those named (None: among all)."""
    judge = why_not if version == 4 else why_not_ipv6
    present = {link.name: judge(link) for link in links}
    relevant = sorted(present if names is None else names)
    usable = frozenset(name for name in relevant if name in present and present[name] is None)
    problems = [f"{name} {present.get(name, 'does not exist')}" for name in relevant if name not in usable]
    if not relevant:
        return Pick(usable, "this node has no interface to announce on")
    return Pick(usable, ", ".join(problems))


def exclusion(patterns: Iterable[str]) -> re.Pattern[str] | None:
    """One pattern for the interfaces to ignore entirely, or None if there are none.

    Raises:
        ValueError: a pattern is not a regular expression; the message names it.

    """
    checked = []
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"announcedInterfacesToExclude: {pattern!r} is not a regular expression: {error}") from error
        checked.append(f"(?:{pattern})")
    return re.compile("|".join(checked)) if checked else None


def considered(links: Iterable[Link], excluded: re.Pattern[str] | None) -> tuple[Link, ...]:
    """The interfaces that are not excluded, in name order. A pattern matches anywhere in the name unless it is anchored."""
    return tuple(sorted((one for one in links if excluded is None or not excluded.search(one.name)), key=lambda one: one.name))
