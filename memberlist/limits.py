"""How much attention a stranger gets: a bucket of tokens for each source address (unauthenticated traffic only).

Used by core.py for datagrams that no key opens, and for all datagrams of unknown senders in a ring without a key. Members are
never limited here: their address could be forged to silence them. The buckets themselves are bounded in number.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from memberlist.config import IPAddress

RATE_PER_S: Final = 100.0
BURST: Final = 200.0
SOURCES_MAX: Final = 4096


class SourceLimit:
    """A bucket of 200 tokens for each source address, refilled with 100 a second."""

    def __init__(self) -> None:
        self._buckets: OrderedDict[IPAddress, tuple[float, float]] = OrderedDict()  # (tokens, at this time)

    def __len__(self) -> int:
        return len(self._buckets)

    def _tokens(self, source: IPAddress, now: float) -> float:
        tokens, at = self._buckets.get(source, (BURST, now))
        return min(BURST, tokens + RATE_PER_S * (now - at))

    def exhausted(self, source: IPAddress, now: float) -> bool:
        """Return whether the source has used up what it may send."""
        return self._tokens(source, now) < 1

    def spend(self, source: IPAddress, now: float) -> None:
        """Take one token; the source heard least lately is forgotten when there are more than 4096."""
        self._buckets[source] = (max(0.0, self._tokens(source, now) - 1), now)
        self._buckets.move_to_end(source)
        if len(self._buckets) > SOURCES_MAX:
            self._buckets.popitem(last=False)
