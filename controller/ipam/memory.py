"""Which addresses are remembered for Services that asked for it: a machine whose only input of time is a parameter.

controller.plan notes here what such Services hold, and that they are deleted; from then on their addresses are kept back
until they return or their time is over. controller.remembered writes the same down, so that a restart forgets nothing.
Times are Unix seconds, because they have to mean the same to the next process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from types import MappingProxyType

from config.model import IPAddress, ServiceKey


@dataclass(frozen=True, slots=True)
class Remembered:
    """The addresses of a Service, how long they outlive it, and until when; `until` is None while the Service is there."""

    addresses: tuple[IPAddress, ...]
    keep_for_s: float
    until: float | None = None


class Memory:
    """What is remembered, by Service. Invariant: every entry with an end is in the heap with that end."""

    def __init__(self) -> None:
        self._entries: dict[ServiceKey, Remembered] = {}
        self._ends: list[tuple[float, ServiceKey]] = []
        self._changed: set[ServiceKey] = set()

    @property
    def entries(self) -> Mapping[ServiceKey, Remembered]:
        """Everything that is remembered."""
        return MappingProxyType(self._entries)

    def of_deleted(self, service: ServiceKey) -> tuple[IPAddress, ...]:
        """The addresses kept back for a Service that was deleted; none if it was not, or did not ask for it."""
        entry = self._entries.get(service)
        return () if entry is None or entry.until is None else entry.addresses

    def deleted(self) -> Iterator[tuple[ServiceKey, Remembered]]:
        """Services that were deleted and may return."""
        return ((key, entry) for key, entry in self._entries.items() if entry.until is not None)

    def hold(self, service: ServiceKey, addresses: tuple[IPAddress, ...], keep_for_s: float) -> None:
        """The Service has these addresses, and wants them to outlive it for so long."""
        self._put(service, Remembered(addresses, keep_for_s))

    def bury(self, service: ServiceKey, now: float) -> tuple[IPAddress, ...]:
        """The Service was deleted: the addresses that are kept back for it from now on."""
        entry = self._entries.get(service)
        if entry is None or entry.until is not None:
            return ()
        self._put(service, replace(entry, until=now + entry.keep_for_s))
        return entry.addresses

    def restore(self, service: ServiceKey, entry: Remembered, now: float) -> None:
        """What an earlier process remembered of a Service that is not there, or has no address (any more)."""
        self._put(service, entry if entry.until is not None else replace(entry, until=now + entry.keep_for_s))

    def forget(self, service: ServiceKey) -> None:
        """Nothing is remembered of the Service any more."""
        if self._entries.pop(service, None) is not None:
            self._changed.add(service)

    def expire(self, now: float) -> list[Remembered]:
        """Forget those whose time is over; what was remembered of them."""
        over = []
        while self._ends and self._ends[0][0] <= now:
            end, service = heappop(self._ends)
            entry = self._entries.get(service)
            if entry is not None and entry.until == end:
                self.forget(service)
                over.append(entry)
        return over

    def wake_at(self) -> float | None:
        """When the next time is over; None while nothing has an end."""
        while self._ends:
            end, service = self._ends[0]
            entry = self._entries.get(service)
            if entry is not None and entry.until == end:
                return end
            heappop(self._ends)
        return None

    def take_changed(self) -> frozenset[ServiceKey]:
        """Services of which something else is remembered than when this was last asked."""
        taken = frozenset(self._changed)
        self._changed.clear()
        return taken

    def _put(self, service: ServiceKey, entry: Remembered) -> None:
        if self._entries.get(service) == entry:
            return
        self._entries[service] = entry
        self._changed.add(service)
        if entry.until is not None:
            heappush(self._ends, (entry.until, service))
