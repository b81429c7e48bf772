"""The machine that says what a speaker which has lost most others may do: keep what it owns, and take over only with leave.

A member that loses more than half of the gossip at once is more likely cut off itself (memberlist/isolation.py). What it owns it
keeps, since its clients may still reach it. It takes nothing over before the API server has answered a read of its own Node that
was begun after the last loss: whoever reaches the API server is not alone. membership.py feeds it and carries out what it
returns; plan.py honours `hold`. It never decides who owns what.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

RETRY_S = 1.0
"""Pause between reads of the Node that were not answered."""


@dataclass(frozen=True, slots=True)
class Began:
    """This many members of so many (this one counted) were lost at once."""

    lost: int
    of: int


@dataclass(frozen=True, slots=True)
class LostOneMore:
    """A member failed; matters while isolated."""


@dataclass(frozen=True, slots=True)
class Ended:
    """Most members are there again."""


@dataclass(frozen=True, slots=True)
class NodeRead:
    """A read of the own Node that was begun at `begun` is over; `error` is empty if it was answered."""

    begun: float
    error: str


Event = Began | LostOneMore | Ended | NodeRead


@dataclass(frozen=True, slots=True)
class ReadNode:
    """Read the own Node now; it ends with a NodeRead."""


class Isolation:
    """Machine: handle(event, now), tick(now), wake_at()."""

    def __init__(self) -> None:
        self._began: Began | None = None
        self._lost_at = 0.0
        self._allowed = False
        self._error = ""
        self._reading = False
        self._read_at: float | None = None

    @property
    def active(self) -> bool:
        """Whether this speaker takes itself for cut off."""
        return self._began is not None

    @property
    def hold(self) -> str:
        """Why nothing may be taken over, as a clause; empty if it may."""
        if self._began is None or self._allowed:
            return ""
        waiting = f"last error: {self._error}" if self._error else "not answered yet"
        return (
            f"{self._began.lost} of {self._began.of} speakers were lost at once, so this one may be cut off; "
            f"it takes over when the API server has answered a read of its Node ({waiting})"
        )

    def handle(self, event: Event, now: float) -> list[ReadNode]:
        """Take one event in."""
        match event:
            case Began():
                self._began = event
                self._lose(now)
            case LostOneMore() if self._began is not None:
                self._lose(now)
            case LostOneMore():
                pass
            case Ended():
                self._began, self._read_at, self._allowed, self._error = None, None, False, ""
            case NodeRead():
                self._reading = False
                if self._began is not None and not self._allowed:
                    self._allowed = not event.error and event.begun >= self._lost_at
                    self._error = event.error
                    self._read_at = None if self._allowed else now + (RETRY_S if event.error else 0.0)
            case _:
                assert_never(event)
        return self.tick(now)

    def tick(self, now: float) -> list[ReadNode]:
        """Do what is due at `now`."""
        if self._reading or self._read_at is None or now < self._read_at:
            return []
        self._reading, self._read_at = True, None
        return [ReadNode()]

    def wake_at(self) -> float | None:
        """When tick() is due next; None if only an event can change anything."""
        return None if self._reading else self._read_at

    def _lose(self, now: float) -> None:
        self._lost_at, self._allowed, self._error = now, False, ""
        self._read_at = now
