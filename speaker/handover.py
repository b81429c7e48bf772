"""The machine that gives an address up without a gap: it answers on until the new owner has been heard.

A planned move (a speaker that stops, a label, a change of configuration, a better node that returns) leaves the old owner able
to answer and to forward. A client whose question nobody answers waits a second before it asks again, while one that gets two
answers loses nothing. So the old owner answers until the new one has announced the address on the wire, and falls silent then.
reconcile.py says what is to be given up and to whom, and what others claim; it carries out what is returned. A successor that
is not heard is waited for within bounds. It decides nobody's ownership, and an address that nobody is to have is not its business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from config.model import IPAddress, NodeName

WAIT_S = 1.0
"""How long a successor may take to announce its first address, or the next after one was heard."""
WAIT_AT_MOST_S = 10.0
"""For all that a successor is given at once, however many addresses."""
HEARD_BEFORE_S = 1.0
"""A claim so shortly before the address is given up was the successor's, who learnt of the move first."""


@dataclass(frozen=True, slots=True)
class Yield:
    """These addresses are answered here, and are to be the successor's."""

    to: Mapping[IPAddress, NodeName]


@dataclass(frozen=True, slots=True)
class Settle:
    """These addresses are not being given up (any more): they belong here, or nobody is to have them."""

    addresses: frozenset[IPAddress]


@dataclass(frozen=True, slots=True)
class Heard:
    """Another machine announced an address that is answered here; `by` is its node, None if the machine is not known."""

    address: IPAddress
    by: NodeName | None = None


Event = Yield | Settle | Heard


class Cause(StrEnum):
    """Why an address is answered no more."""

    SUCCESSOR_HEARD = "successorHeard"
    SUCCESSOR_SILENT = "successorSilent"


@dataclass(frozen=True, slots=True)
class Release:
    """Fall silent about an address now. `waited_s` is how long the successor took, 0 if it was faster than the news."""

    address: IPAddress
    to: NodeName
    cause: Cause
    waited_s: float


@dataclass(frozen=True, slots=True)
class _Given:
    to: NodeName
    at: float


class Handover:
    """Machine: handle(event, now), tick(now), wake_at(). Times are seconds of any monotonic clock."""

    def __init__(self) -> None:
        self._given: dict[IPAddress, _Given] = {}
        self._progress: dict[NodeName, float] = {}
        self._heard: dict[IPAddress, tuple[float, NodeName | None]] = {}

    def __contains__(self, address: object) -> bool:
        return address in self._given

    def __len__(self) -> int:
        return len(self._given)

    @property
    def successors(self) -> Mapping[IPAddress, NodeName]:
        """Who is waited for, by address."""
        return {address: one.to for address, one in self._given.items()}

    def handle(self, event: Event, now: float) -> list[Release]:
        """Take one event in; what to fall silent about."""
        released: list[Release] = []
        match event:
            case Yield():
                for address, to in event.to.items():
                    known = self._given.get(address)
                    if known is None or known.to != to:
                        self._given[address] = _Given(to, now)
                    at, by = self._heard.get(address, (float("-inf"), None))
                    if now - at <= HEARD_BEFORE_S and by in {to, None}:
                        released.append(self._release(address, Cause.SUCCESSOR_HEARD, now))
            case Settle():
                for address in event.addresses:
                    self._given.pop(address, None)
                    self._heard.pop(address, None)
            case Heard():
                if event.address in self._given:
                    released.append(self._release(event.address, Cause.SUCCESSOR_HEARD, now))
                else:
                    self._heard[event.address] = (now, event.by)
            case _:
                assert_never(event)
        return released

    def tick(self, now: float) -> list[Release]:
        """Give up waiting for those who are silent for too long."""
        late = [address for address, one in self._given.items() if now >= self._limit(one)]
        released = [self._release(address, Cause.SUCCESSOR_SILENT, now) for address in late]
        for address in [address for address, (at, _) in self._heard.items() if now - at > HEARD_BEFORE_S]:
            del self._heard[address]
        if not self._given:
            self._progress.clear()
        return released

    def wake_at(self) -> float | None:
        """When tick() is due next; None if nothing is being given up."""
        return min((self._limit(one) for one in self._given.values()), default=None)

    def _limit(self, one: _Given) -> float:
        heard = self._progress.get(one.to, one.at)
        return min(max(one.at, heard) + WAIT_S, one.at + WAIT_AT_MOST_S)

    def _release(self, address: IPAddress, cause: Cause, now: float) -> Release:
        one = self._given.pop(address)
        self._heard.pop(address, None)
        if cause is Cause.SUCCESSOR_HEARD:
            self._progress[one.to] = now
        return Release(address, one.to, cause, now - one.at)
