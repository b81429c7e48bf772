"""Who watches whom in the ring profile: each member its three successors in the order of their hashed names.

Fixed watchers bound the wait for the first probe of a dead member by one watch interval, whatever the size of the ring. The order
by hash spreads neighbours over racks. Used by probe.py. In a ring of four all watch all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def place(name: str) -> bytes:
    """Return where a name stands on the circle; the same for all members."""
    return hashlib.sha256(name.encode()).digest()[:8]


def successors(own: str, others: Iterable[str], count: int) -> tuple[str, ...]:
    """Return the next `count` names after `own` on the circle; all there are if fewer."""
    here = (place(own), own)
    circle = sorted((place(name), name) for name in set(others) if name != own)
    after = [name for *key, name in circle if (key[0], name) > here]
    before = [name for *key, name in circle if (key[0], name) < here]
    return tuple([*after, *before][:count])
