"""Ranges of addresses at the scale of 2^64: how many are usable, and which free one is the lowest.

Used by the ledger. Addresses are plain integers here, because hashing address objects dominates otherwise. Nothing
iterates over a range as a whole.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Container, Iterable
from heapq import heapify, heappop, heappush

from config.model import AddressRange, IPAddress

BUGGY_OCTETS = (0, 255)


def is_buggy(address: IPAddress) -> bool:
    """Whether avoidBuggyIPs excludes it: an IPv4 address whose last octet is 0 or 255."""
    return address.version == 4 and int(address) & 0xFF in BUGGY_OCTETS


def usable_count(one: AddressRange, *, avoid_buggy: bool) -> int:
    """How many addresses of the range may be given out."""
    if not avoid_buggy or one.first.version == 6:
        return one.size
    first, last = int(one.first), int(one.last)
    return one.size - sum((last - octet) // 256 - (first - 1 - octet) // 256 for octet in BUGGY_OCTETS)


class Reserved:
    """Addresses that are not given out unless somebody asks for one of them: those in any of these ranges of one family."""

    __slots__ = ("_firsts", "_lasts")

    def __init__(self, ranges: Iterable[AddressRange]) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for first, last in sorted((int(one.first), int(one.last)) for one in ranges):
            if self._lasts and first <= self._lasts[-1] + 1:
                self._lasts[-1] = max(self._lasts[-1], last)
            else:
                self._firsts.append(first)
                self._lasts.append(last)

    def end(self, address: int) -> int | None:
        """The last address of the reserved range that this one is in; None if it is in none."""
        after = bisect_right(self._firsts, address)
        return self._lasts[after - 1] if after and address <= self._lasts[after - 1] else None


NOTHING_RESERVED = Reserved(())


class FreeAddresses:
    """Finds the lowest free address of one range in amortized constant time.

    Below `_next` an address is either in use or in the heap of returned ones; from `_next` on nobody has looked yet.
    What is in use is asked of the owner, so that an address claimed from outside needs no call here.
    """

    __slots__ = ("_avoid_buggy", "_last", "_next", "_reserved", "_returned", "_returned_heap", "first")

    def __init__(self, one: AddressRange, *, avoid_buggy: bool, reserved: Reserved = NOTHING_RESERVED) -> None:
        self._reserved = reserved
        self.first = self._next = int(one.first)
        self._last = int(one.last)
        self._avoid_buggy = avoid_buggy and one.first.version == 4
        self._returned: set[int] = set()
        self._returned_heap: list[int] = []

    def lowest(self, in_use: Container[int]) -> int | None:
        """The lowest address that is usable and not in use; None if there is none."""
        while self._returned_heap:
            candidate = self._returned_heap[0]
            if candidate not in in_use:
                return candidate
            self._returned.discard(heappop(self._returned_heap))
        while self._next <= self._last:
            reserved_to = self._reserved.end(self._next)
            if reserved_to is not None:
                self._next = reserved_to + 1
            elif self._next in in_use or self._skips(self._next):
                self._next += 1
            else:
                break
        return self._next if self._next <= self._last else None

    def give_back(self, address: int) -> None:
        """Note that an address of the range is not in use any more."""
        usable = not self._skips(address) and self._reserved.end(address) is None
        if address < self._next and usable and address not in self._returned:
            self._returned.add(address)
            heappush(self._returned_heap, address)

    def _skips(self, address: int) -> bool:
        return self._avoid_buggy and address & 0xFF in BUGGY_OCTETS


class PoolSpace:
    """The ranges of one family of a pool, in the order the user wrote them; skips those that are full without looking."""

    __slots__ = ("_open", "_open_set", "ranges", "reserved", "usable")

    def __init__(self, ranges: tuple[AddressRange, ...], *, avoid_buggy: bool, reserved: Reserved = NOTHING_RESERVED) -> None:
        self.reserved = reserved
        self.ranges = [FreeAddresses(one, avoid_buggy=avoid_buggy, reserved=reserved) for one in ranges]
        self.usable = sum(usable_count(one, avoid_buggy=avoid_buggy) for one in ranges)
        self._open = list(range(len(self.ranges)))
        heapify(self._open)
        self._open_set = set(self._open)

    def lowest(self, in_use: Container[int]) -> int | None:
        """The first free address: ranges in order, lowest first within each."""
        while self._open:
            found = self.ranges[self._open[0]].lowest(in_use)
            if found is not None:
                return found
            self._open_set.discard(heappop(self._open))
        return None

    def give_back(self, index: int, address: int) -> None:
        """Note that an address of the range with this index is not in use any more."""
        self.ranges[index].give_back(address)
        if index not in self._open_set:
            self._open_set.add(index)
            heappush(self._open, index)
