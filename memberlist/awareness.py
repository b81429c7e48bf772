"""How healthy this member believes itself to be (Lifeguard §IV-A, local health multiplier).

A member that misses what others deliver is probably slow itself, so it takes more time before it accuses. Used by probe.py
and members.py.
"""

from __future__ import annotations


class Awareness:
    """A score from 0 (healthy) to maximum - 1; probes take score + 1 times as long."""

    def __init__(self, maximum: int) -> None:
        self._highest = maximum - 1
        self.score = 0

    def adjust(self, delta: int) -> None:
        """Add to the score, within its bounds; a negative delta is good news."""
        self.score = min(self._highest, max(0, self.score + delta))

    def scaled(self, interval_s: float) -> float:
        """Return the interval as long as the score makes it."""
        return interval_s * (self.score + 1)
