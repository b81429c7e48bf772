"""Whether this very process was late, so that silence of others proves nothing (the loop-lag and clock-jump guard).

A process that did not run for a while finds unanswered probes whose answers lie unread in its socket. The guard compares when
a timer was due with when it was served. probe.py asks it about every failed round, judge.py before every declaration. It only
sees what core.py tells it: no clock here.
"""

from __future__ import annotations

from collections import deque
from typing import Final

_REMEMBERED_S: Final = 30.0
_REMEMBERED: Final = 256


class LagGuard:
    """The stalls of this process in the last 30 seconds, and until when nothing may be judged after a long one."""

    def __init__(self) -> None:
        self._latest: float | None = None
        self._stalls: deque[tuple[float, float]] = deque(maxlen=_REMEMBERED)  # (when it ended, how long it took)
        self.judging_from = 0.0
        self.longest_s = 0.0

    def clamped(self, now: float, interval_s: float) -> float:
        """Return `now`, or the latest time seen if the clock went backwards; a jump back suspends judging for two intervals."""
        if self._latest is not None and now < self._latest:
            self.judging_from = max(self.judging_from, self._latest + 2 * interval_s)
            return self._latest
        self._latest = now
        return now

    def served(self, due: float | None, now: float, *, interval_s: float, worth_noting_s: float) -> None:
        """Note that what was due at `due` is served now. A stall longer than an interval suspends judging for two more."""
        if due is None or now - due <= worth_noting_s:
            return
        late_s = now - due
        self.longest_s = max(self.longest_s, late_s)
        while self._stalls and self._stalls[0][0] < now - _REMEMBERED_S:
            self._stalls.popleft()
        self._stalls.append((now, late_s))
        if late_s > interval_s:
            self.judging_from = max(self.judging_from, now + 2 * interval_s)

    def stalled(self, since: float, longer_than_s: float) -> bool:
        """Return whether a stall longer than that ended after `since`."""
        return any(ended > since and late_s > longer_than_s for ended, late_s in self._stalls)
