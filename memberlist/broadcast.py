"""What this member still has to tell the others (SWIM §4.1, infection-style dissemination).

Every statement about a member rides on so many outgoing packets, then is dropped; a newer statement about the same member
replaces the older. Used by members.py to enqueue and by outbox.py to fill packets.
"""

from __future__ import annotations

import math
from bisect import insort
from dataclasses import dataclass, field


def transmit_limit(mult: int, n: int) -> int:
    """Return how often a statement is sent in a ring of n known members: mult x ceil(log10(n + 1))."""
    return mult * math.ceil(math.log10(n + 1))


@dataclass(order=True, slots=True)
class _Item:
    """Ordered as it is to be sent: rarely sent first, then long ones, then new ones."""

    transmits: int
    negative_length: int
    negative_id: int
    name: str = field(compare=False)
    message: bytes = field(compare=False)


class BroadcastQueue:
    """Statements by the name of the member they are about, each to be sent a limited number of times.

    `bytes_max` bounds one statement: one that fits no packet would wait for ever, so it is not taken in.
    """

    def __init__(self, *, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._items: list[_Item] = []
        self._next_id = 1

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, item_id: int) -> bool:
        return any(item.negative_id == -item_id for item in self._items)

    def enqueue(self, name: str, message: bytes) -> int:
        """Add a statement about `name` in place of the former one; return its id, to be looked up with `in`."""
        self._items = [item for item in self._items if item.name != name]
        item_id = self._next_id
        self._next_id += 1
        if len(message) <= self._bytes_max:
            insort(self._items, _Item(0, -len(message), -item_id, name, message))
        return item_id

    def prune(self, count: int) -> None:
        """Drop what was sent most often until so many are left."""
        del self._items[count:]

    def take(self, *, part_overhead: int, limit: int, transmits_max: int, count_max: int = 254) -> list[bytes]:
        """Return at most count_max statements for one packet, whose lengths with part_overhead each stay within `limit` bytes.

        Each counts as sent once more; one sent `transmits_max` times is dropped. None is taken twice in one call.
        """
        if not self._items:
            return []
        taken: list[_Item] = []
        left: list[_Item] = []
        for item in self._items:
            size = len(item.message) + part_overhead
            if size <= limit and len(taken) < count_max:
                limit -= size
                taken.append(item)
            else:
                left.append(item)
        if taken:
            for item in taken:
                item.transmits += 1
            self._items = sorted([*left, *(item for item in taken if item.transmits < transmits_max)])
        return [item.message for item in taken]
