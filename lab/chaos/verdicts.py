"""Judge the record of a chaos run. Pure functions over frames, times and numbers; each returns sentences, none means all is well.

They share no code with the product: who owns an address is what frames on the client's cable say (lab.frames), and what should be so is
stated here in terms of the outside only.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from lab.frames import Frame

LEAST_SAMPLES: Final = 8


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """What a process of the product held at a moment. `name` is Pod and container, `pid` tells its lives apart.

    `tasks` are asyncio's, as the process itself counts them; None when it did not answer.
    """

    at: float
    name: str
    pid: int
    rss_kib: int
    descriptors: int
    threads: int
    tasks: int | None = None


class Allowed(msgspec.Struct, frozen=True, kw_only=True):
    """How much more a process may hold at the end of its life than it ever did in the first half."""

    rss_kib: int = 10 * 1024
    descriptors: int = 10
    threads: int = 4
    tasks: int = 20


def claims(frames: Iterable[Frame], addresses: frozenset[str]) -> dict[str, list[tuple[float, str]]]:
    """For each of these addresses, when frames asserted that it is at which MAC address."""
    found: dict[str, list[tuple[float, str]]] = {address: [] for address in addresses}
    for frame in frames:
        claim = frame.claims
        if claim is not None and claim[0] in found:
            found[claim[0]].append((frame.at, claim[1]))
    return found


def owners(claimed: Mapping[str, Sequence[tuple[float, str]]], span: tuple[float, float]) -> dict[str, set[str]]:
    """The MAC addresses that claimed each address in a span of time."""
    begin, end = span
    return {address: {mac for at, mac in found if begin <= at <= end} for address, found in claimed.items()}


def wrong_owners(
    claimed: Mapping[str, Sequence[tuple[float, str]]],
    calms: Sequence[tuple[float, float]],
    names: Mapping[str, str],
    expected: Mapping[str, str],
) -> list[str]:
    """In a calm every address is claimed by one node, the one that had it before the first fault: the election depends on facts only.

    Args:
        claimed: what claims() found; every address is asked for in every calm.
        calms: spans of time in which no fault is in force and every bound for recovery has passed.
        names: the nodes' names by MAC address.
        expected: the MAC address that owned each address before the first fault.

    """
    found = []
    for number, calm in enumerate(calms, start=1):
        for address, macs in sorted(owners(claimed, calm).items()):
            who = sorted(names.get(mac, mac) for mac in macs)
            if not macs:
                found.append(f"calm {number}: nobody answers for {address}")
            elif len(macs) > 1:
                found.append(f"calm {number}: {', '.join(who)} claim {address}")
            elif macs != {expected[address]}:
                found.append(f"calm {number}: {address} is with {who[0]}, and was with {names.get(expected[address], '?')}")
    return found


def strangers(claimed: Mapping[str, Sequence[tuple[float, str]]], names: Mapping[str, str]) -> list[str]:
    """At no time anything but a node claims a Service's address."""
    found = {(address, mac) for address, all_claims in claimed.items() for _, mac in all_claims if mac not in names}
    return [f"{mac}, which is no node, claims {address}" for address, mac in sorted(found)]


def unassigned(frames: Iterable[Frame], pool: frozenset[str], assigned: frozenset[str]) -> list[str]:
    """At no time anybody claims an address of the pool that no Service has."""
    found = {claim for frame in frames if (claim := frame.claims) is not None and claim[0] in pool - assigned}
    return [f"{mac} claims {address}, which no Service has" for address, mac in sorted(found)]


def lost_addresses(before: Mapping[str, Sequence[str]], after: Mapping[str, Sequence[str]]) -> list[str]:
    """Every Service has the addresses that it had."""
    return [
        f"{name} had {', '.join(had)} and has {', '.join(after.get(name, ())) or 'none'}"
        for name, had in sorted(before.items())
        if list(after.get(name, ())) != list(had)
    ]


def growth(samples: Iterable[Sample], allowed: Allowed) -> list[str]:
    """No process that lived long enough to tell grows: in the last quarter it holds no more than at most in the first half.

    The most, because a fault makes a process hold less for a while: without an API server there are no connections to it.
    """
    lives: dict[tuple[str, int], list[Sample]] = defaultdict(list)
    for sample in samples:
        lives[sample.name, sample.pid].append(sample)
    found = []
    for (name, pid), life in sorted(lives.items()):
        for what in ("rss_kib", "descriptors", "threads", "tasks"):
            series = [value for sample in life if (value := getattr(sample, what)) is not None]
            if len(series) < LEAST_SAMPLES:
                continue
            was = max(series[: len(series) // 2])
            now = statistics.median(series[-(len(series) // 4) :])
            if now - was > getattr(allowed, what):
                found.append(f"{name} (process {pid}): {what} grew from {was:g} to {now:g}")
    return found
