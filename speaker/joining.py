"""The machine that finds the other speakers, and holds back every announcement until that has happened.

A speaker that has just started sees only itself and would win every election. So it announces nothing until it has joined the
gossip, or has reason to believe that it is alone. membership.py feeds this machine the list of speaker Pods, the members and
how each attempt to join ended, and carries out what it returns. It never decides who announces what.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from config.model import IPAddress, NodeName

ALONE_S = 3.0
"""How long the API server must have listed no other speaker Pod before this speaker believes that there is none."""
SILENT_AT_MOST_S = 15.0
"""How long Pods that do not answer can hold this speaker back."""
SETTLE_S = 0.05
"""After the first Pod answered: time for the others that were asked at the same moment, since the first may itself be new."""
RETRY_S = 1.0
"""Between attempts until one succeeds."""
REJOIN_S = 60.0
"""Between attempts for Pods that are missing from the gossip later on."""
LOST_FOR_S = 120.0
"""For so long after a member was lost its Pod is asked again and again: a cut network that is whole again has two owners for
every address until the sides have met."""
LOST_RETRY_S = 0.25
ANSWER_S = 3.0
"""How long a Pod may take to answer."""
LOST_ANSWER_S = 1.0
"""How long a Pod may take to answer that was a member: behind a cut nobody does, and the cut may end at any time."""


@dataclass(frozen=True, slots=True)
class PodsListed:
    """The running speaker Pods other than our own, by address, with the node each runs on."""

    others: Mapping[IPAddress, NodeName]


@dataclass(frozen=True, slots=True)
class MembersChanged:
    """The names of all members, our own included."""

    names: frozenset[NodeName]


@dataclass(frozen=True, slots=True)
class JoinEnded:
    """An attempt to join through one Pod is over."""

    seed: IPAddress
    answered: bool


Event = PodsListed | MembersChanged | JoinEnded


class Cause(StrEnum):
    """Why the speaker may announce."""

    JOINED = "joined"
    ALONE = "alone"
    NOBODY_ANSWERED = "nobodyAnswered"


@dataclass(frozen=True, slots=True)
class Join:
    """Try to join through these addresses, all at the same time; each ends with a JoinEnded within `limit_s`."""

    seeds: tuple[IPAddress, ...]
    limit_s: float = ANSWER_S


@dataclass(frozen=True, slots=True)
class Released:
    """From now on the speaker may announce."""

    cause: Cause
    detail: str


Effect = Join | Released


class Joining:
    """Machine: handle(event, now), tick(now), wake_at(). `hold` says what it waits for, empty once it is released."""

    def __init__(self) -> None:
        self._others: Mapping[IPAddress, NodeName] | None = None
        self._members: frozenset[NodeName] = frozenset()
        self._asking: set[IPAddress] = set()
        self._lost_at: dict[NodeName, float] = {}
        self._released = False
        self._alone_since: float | None = None
        self._listed_since: float | None = None
        self._answered_at: float | None = None
        self._ask_at: float | None = None

    @property
    def hold(self) -> str:
        """Why nothing may be announced yet, as a sentence; empty when it may."""
        if self._released:
            return ""
        if self._others is None:
            return "the API server has not listed the speaker Pods yet"
        if not self._others:
            return f"no other speaker Pod is known; waiting {ALONE_S:g} s in case one appears"
        return f"{len(self._others)} other speaker Pods are listed, none of them has been joined yet"

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event in."""
        match event:
            case PodsListed():
                self._listed(event.others, now)
            case MembersChanged():
                self._change_members(event.names, now)
            case JoinEnded():
                self._asking.discard(event.seed)
                if event.answered and self._answered_at is None:
                    self._answered_at = now
                if not self._asking:
                    self._ask_at = now + (RETRY_S if self._answered_at is None else self._pause_s(now))
            case _:
                assert_never(event)
        return self.tick(now)

    def tick(self, now: float) -> list[Effect]:
        """Do what is due at `now`."""
        effects: list[Effect] = []
        missing = self._missing()
        if self._ask_at is not None and now >= self._ask_at:
            self._ask_at = None if missing else now + REJOIN_S
            if missing:
                self._asking.update(missing)
                effects.append(Join(missing, LOST_ANSWER_S if self._lost_lately(now) else ANSWER_S))
        if not self._released and (released := self._release(missing, now)) is not None:
            self._released = True
            effects.append(released)
        return effects

    def wake_at(self) -> float | None:
        """When tick() is due next; None if only an event can change anything."""
        times = [self._ask_at] if self._ask_at is not None else []
        if not self._released:
            times += [
                since + wait
                for since, wait in (
                    (self._alone_since, ALONE_S),
                    (self._listed_since, SILENT_AT_MOST_S),
                    (self._answered_at, SETTLE_S),
                )
                if since is not None
            ]
        return min(times, default=None)

    def _listed(self, others: Mapping[IPAddress, NodeName], now: float) -> None:
        before, self._others = self._others, others
        if not others:
            self._listed_since = None
            self._alone_since = self._alone_since if before is not None and self._alone_since is not None else now
        else:
            self._alone_since = None
            self._listed_since = self._listed_since if self._listed_since is not None else now
        if others.keys() - (before or {}).keys():
            self._ask_at = now  # A Pod that has just appeared is asked at once.

    def _change_members(self, names: frozenset[NodeName], now: float) -> None:
        lost = self._members - names
        self._members = names
        known = self._lost_at | dict.fromkeys(lost, now)
        self._lost_at = {node: at for node, at in known.items() if node not in names and now - at <= LOST_FOR_S}
        if lost and not self._asking and self._lost_lately(now):
            self._ask_at = now + LOST_RETRY_S

    def _lost_lately(self, now: float) -> bool:
        """Whether a listed Pod was a member until lately."""
        nodes = (self._others or {}).values()
        return any(now - self._lost_at.get(node, float("-inf")) <= LOST_FOR_S for node in nodes)

    def _pause_s(self, now: float) -> float:
        return LOST_RETRY_S if self._lost_lately(now) else REJOIN_S

    def _missing(self) -> tuple[IPAddress, ...]:
        """Listed Pods that are neither members nor being asked, in a fixed order."""
        others = self._others or {}
        absent = [address for address, node in others.items() if node not in self._members and address not in self._asking]
        return tuple(sorted(absent, key=lambda address: (address.version, int(address))))

    def _release(self, missing: tuple[IPAddress, ...], now: float) -> Released | None:
        if self._others is None:
            return None
        if self._others and not missing and not self._asking:
            return Released(Cause.JOINED, "all listed speakers are members")
        if self._answered_at is not None and (not self._asking or now >= self._answered_at + SETTLE_S):
            return Released(Cause.JOINED, f"{len(self._members)} members")
        if self._alone_since is not None and now >= self._alone_since + ALONE_S:
            return Released(Cause.ALONE, f"no other speaker Pod was listed for {ALONE_S:g} s")
        if self._listed_since is not None and now >= self._listed_since + SILENT_AT_MOST_S:
            return Released(
                Cause.NOBODY_ANSWERED, f"{len(self._others)} speaker Pods are listed, none answered in {SILENT_AT_MOST_S:g} s"
            )
        return None
