"""How many of this member's own first pings go unanswered, and whether the network is too lossy for a fast profile.

Used by probe.py, which notes every round that found its target alive, and by core.py. A round that found nobody is not counted:
it tells of the target. Loss of p in each direction leaves p(2 - p) of the pings unanswered: 9.75 % for p = 5 %.
"""

from __future__ import annotations

from collections import deque
from typing import Final

LOSSY_ABOVE: Final = 0.12
LOSSY_OVER_S: Final = 30.0
CLEAN_BELOW: Final = 0.08
CLEAN_OVER_S: Final = 120.0
_SAMPLES_MIN: Final = 20


class LossMeter:
    """Lossy once more than 12 % were unanswered over 30 s; clean again once it was less than 8 % over the 120 s since."""

    def __init__(self) -> None:
        self._seconds: deque[tuple[int, int, int]] = deque()  # (the second, pings, unanswered ones)
        self._since: float | None = None  # the first sample, or the last change of mind
        self.lossy = False

    def note(self, now: float, *, answered: bool) -> None:
        """Take in one first ping."""
        if self._since is None:
            self._since = now
        second = int(now)
        pings, lost = 1, int(not answered)
        if self._seconds and self._seconds[-1][0] == second:
            _, pings_before, lost_before = self._seconds.pop()
            pings, lost = pings + pings_before, lost + lost_before
        self._seconds.append((second, pings, lost))
        window_s = CLEAN_OVER_S if self.lossy else LOSSY_OVER_S
        while self._seconds[0][0] <= now - window_s:
            self._seconds.popleft()
        share = self.share()
        if share is None or now - self._since < window_s:
            return
        if (share < CLEAN_BELOW) if self.lossy else (share > LOSSY_ABOVE):
            self.lossy = not self.lossy
            self._seconds.clear()
            self._since = now

    def share(self) -> float | None:
        """Return the share of unanswered first pings in the window, None while there are fewer than 20 of them."""
        pings = sum(count for _, count, _ in self._seconds)
        return sum(lost for _, _, lost in self._seconds) / pings if pings >= _SAMPLES_MIN else None
