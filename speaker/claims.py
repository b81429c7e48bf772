"""The machine that judges what others claim about addresses that are owned here (RFC 5227 section 2.4).

A machine elsewhere that speaks in the name of an owned address is either another speaker, or a stranger. Most often it is the
new owner in a planned move that this node has not heard of yet; so a claim is left alone for a moment, and only one that this
node still disputes then is answered. Between living members of the gossip the election has decided, and the one that is to have
the address announces it again: the other falls silent (handover.py). Against anybody else the address is defended by one
announcement in DEFEND_INTERVAL_S, however often the other speaks, so that two stubborn machines do not flood the network; and
people are told, since only they can take the address away from a stranger. reconcile.py feeds it and carries out what it
returns. What nobody claims costs nothing, and what is not owned is not its business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import assert_never

from config.model import IPAddress, NodeName

DEFEND_INTERVAL_S = 10.0
"""RFC 5227 section 1.1."""
SETTLE_S = 0.25
"""How long a claim is left alone: the news of a planned move takes less."""
ANSWER_INTERVAL_S = 1.0
"""Between announcements against a member of the gossip, which falls silent as soon as it has heard one."""
TELL_INTERVAL_S = 60.0
"""Between reports of the same machine claiming the same address."""
FORGET_S = 3600.0
"""After so long without a claim a conflict is shown no more."""
CLAIMANTS_MAX = 16
"""Machines that are told apart for one address; further ones replace the one that was silent longest."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A machine with another MAC address, 6 bytes, spoke for an address that this node owns and is to own."""

    address: IPAddress
    mac: bytes
    interface: str


@dataclass(frozen=True, slots=True)
class Lost:
    """These addresses are owned here no more."""

    addresses: frozenset[IPAddress]


@dataclass(frozen=True, slots=True)
class Speakers:
    """The MAC addresses of other speakers' interfaces with the node each belongs to, and the nodes that are members now."""

    node_of: Mapping[bytes, NodeName]
    members: frozenset[NodeName]


Event = Claim | Lost | Speakers


@dataclass(frozen=True, slots=True)
class Defend:
    """Announce the address once."""

    address: IPAddress


@dataclass(frozen=True, slots=True)
class Tell:
    """Report a claim; `speaker` is the node whose speaker made it, None for a stranger. `count` are all of that machine."""

    address: IPAddress
    mac: bytes
    interface: str
    speaker: NodeName | None
    count: int


Effect = Defend | Tell


@dataclass(frozen=True, slots=True)
class Conflict:
    """What one machine has claimed, for /status."""

    interface: str
    speaker: NodeName | None
    count: int
    last_s: float


@dataclass(slots=True)
class _Address:
    claimants: dict[bytes, Conflict] = field(default_factory=dict)
    told: dict[bytes, float] = field(default_factory=dict)
    defended_at: float = float("-inf")


class Claims:
    """Machine: handle(event, now), tick(now), wake_at(). Times are seconds of any monotonic clock."""

    def __init__(self) -> None:
        self._speakers = Speakers(MappingProxyType({}), frozenset())
        self._addresses: dict[IPAddress, _Address] = {}
        self._due: dict[IPAddress, float] = {}  # In order of time, since all wait equally long.

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event in; what to do about it."""
        match event:
            case Claim():
                self._note(event, now)
            case Lost():
                for address in event.addresses:
                    self._addresses.pop(address, None)
                    self._due.pop(address, None)
            case Speakers():
                self._speakers = event
            case _:
                assert_never(event)
        return self.tick(now)

    def tick(self, now: float) -> list[Effect]:
        """Answer the claims that have been left alone for long enough."""
        effects: list[Effect] = []
        while self._due and (at := next(iter(self._due.items())))[1] <= now:
            del self._due[at[0]]
            effects += self._judge(at[0], self._addresses[at[0]], now)
        return effects

    def wake_at(self) -> float | None:
        """When tick() is due next; None if nothing is disputed."""
        return next(iter(self._due.values()), None)

    def conflicts(self, now: float) -> Mapping[IPAddress, Mapping[bytes, Conflict]]:
        """The claims of the last hour, by address and MAC address."""
        found = {}
        for address, known in self._addresses.items():
            recent = {mac: one for mac, one in known.claimants.items() if now - one.last_s <= FORGET_S}
            if recent:
                found[address] = recent
        return found

    def _note(self, claim: Claim, now: float) -> None:
        known = self._addresses.setdefault(claim.address, _Address())
        before = known.claimants.pop(claim.mac, None)
        if before is None and len(known.claimants) >= CLAIMANTS_MAX:
            silent = next(iter(known.claimants))  # Whoever spoke last is at the end.
            del known.claimants[silent]
            known.told.pop(silent, None)
        count = 1 if before is None else before.count + 1
        known.claimants[claim.mac] = Conflict(claim.interface, self._speakers.node_of.get(claim.mac), count, now)
        self._due.setdefault(claim.address, now + SETTLE_S)

    def _judge(self, address: IPAddress, known: _Address, now: float) -> list[Effect]:
        effects: list[Effect] = []
        recent = {mac: one for mac, one in known.claimants.items() if one.last_s > now - 2 * SETTLE_S}
        among_us = all(one.speaker in self._speakers.members for one in recent.values())
        if now - known.defended_at >= (ANSWER_INTERVAL_S if among_us else DEFEND_INTERVAL_S):
            known.defended_at = now
            effects.append(Defend(address))
        for mac, one in recent.items():
            if one.count == 1 and one.speaker in self._speakers.members:
                continue  # The old owner's last word in a planned move; it has heard us by now.
            if now - known.told.get(mac, float("-inf")) >= TELL_INTERVAL_S:
                known.told[mac] = now
                effects.append(Tell(address, mac, one.interface, one.speaker, one.count))
        return effects
