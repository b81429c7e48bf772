"""The partition guard: did the others go, or did this member?

A member that loses more than half of a ring within the time that one detection may take is more likely cut off itself. It says
so, and the application decides (a speaker may withdraw rather than take over). Never said in a ring of two, where either side
would say it. Fed by core.py. Changes nothing in the member table.
"""

from __future__ import annotations

from collections import deque

from memberlist.effects import Isolated, IsolationEnded


class Isolation:
    """Which failures happened lately, and whether this member takes itself for cut off."""

    def __init__(self) -> None:
        self._losses: deque[tuple[float, int]] = deque()  # (when, how many lived just before, this member counted)
        self._of = 0

    @property
    def active(self) -> bool:
        """Whether this member takes itself for cut off."""
        return self._of > 0

    def failed(self, living_before: int, window_s: float, now: float) -> list[Isolated]:
        """Take in that a member was declared dead while so many lived, this one counted."""
        self._losses.append((now, living_before))
        while self._losses[0][0] < now - window_s:
            self._losses.popleft()
        of = max(living for _, living in self._losses)
        lost = min(len(self._losses), of - (living_before - 1))  # Who came back meanwhile is not lost.
        if self.active or of <= 2 or 2 * lost <= of:
            return []
        self._of = of
        return [Isolated(lost, of)]

    def counted(self, living: int) -> list[IsolationEnded]:
        """Take in how many live now; more than half of those there were before the loss end the isolation."""
        if not self.active or 2 * living <= self._of:
            return []
        self._of = 0
        self._losses.clear()
        return [IsolationEnded()]
