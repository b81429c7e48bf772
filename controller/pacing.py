"""When a status that changes all the time is written: at once if it was quiet, else a moment after the last write.

Used by controller.pool_status for the counters of pools. Knows what every object shall say and what it says, so nothing is
written when nothing changed, what somebody else wrote over it is put right, and no object is written more than twice a
second. Pure: the caller passes the time (monotonic, in seconds) and does the writing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from controller.outbox import is_later

V = TypeVar("V")

BETWEEN_WRITES_S: Final = 0.5
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 30.0


@dataclass(slots=True)
class _Entry(Generic[V]):
    wanted: V
    has: V | None = None
    version: str = ""
    not_before: float = 0.0
    failures: int = 0
    under_way: bool = False


class Pacer(Generic[V]):
    """What objects, by name, shall say and do say; `None` stands for an object that says nothing yet."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry[V]] = {}

    def want(self, name: str, value: V) -> None:
        """The object shall say this."""
        entry = self._entries.get(name)
        if entry is None:
            self._entries[name] = _Entry(value)
        else:
            entry.wanted = value

    def forget(self, name: str) -> None:
        """The object is gone, or nobody knows what it shall say."""
        self._entries.pop(name, None)

    def seen(self, name: str, value: V | None, version: str) -> None:
        """The object says this in this version, which may be older than what we wrote."""
        entry = self._entries.get(name)
        if entry is not None and (not entry.version or is_later(version, entry.version)):
            entry.has, entry.version = value, version

    def due(self, now: float) -> Mapping[str, V]:
        """What has to be written now; each counts as under way until written or failed is called."""
        found = {
            name: entry.wanted
            for name, entry in self._entries.items()
            if entry.wanted != entry.has and not entry.under_way and entry.not_before <= now
        }
        for name in found:
            self._entries[name].under_way = True
        return found

    def wake_at(self) -> float | None:
        """When due has something next; None while nothing waits."""
        times = (one.not_before for one in self._entries.values() if one.wanted != one.has and not one.under_way)
        return min(times, default=None)

    def written(self, name: str, value: V, version: str, now: float) -> None:
        """A write succeeded and got this version."""
        entry = self._entries.get(name)
        if entry is not None:
            entry.has, entry.version = value, version
            entry.under_way, entry.failures, entry.not_before = False, 0, now + BETWEEN_WRITES_S

    def failed(self, name: str, now: float) -> float:
        """A write failed; in how many seconds it is tried again."""
        entry = self._entries.get(name)
        if entry is None:
            return 0.0
        pause_s: float = min(FIRST_PAUSE_S * 2 ** min(entry.failures, 16), LONGEST_PAUSE_S)
        entry.under_way, entry.failures, entry.not_before = False, entry.failures + 1, now + pause_s
        return pause_s

    def abandon(self) -> None:
        """Nothing is under way any more: who was writing has ended."""
        for entry in self._entries.values():
            entry.under_way = False

    @property
    def pending(self) -> list[str]:
        """The objects that do not say yet what they shall."""
        return sorted(name for name, entry in self._entries.items() if entry.wanted != entry.has)
