"""How many of this member's own first pings go unanswered, and whether the network is too lossy for a fast profile.

Used by probe.py, which notes every round that found its target alive, and by core.py. A round that found nobody is not counted:
it tells of the target. Loss of p in each direction leaves p(2 - p) of the pings unanswered: 9.75 % for p = 5 %, which the fast
profiles bear. 30 s at ten pings a second cannot tell 9.75 % from 12 %: chance alone brings one window in ten above 12 %. So the
excess must be more than chance makes of 9.75 %, over 30 s for a heavy loss (17 %), over up to 300 s for a slight one.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final

LOSSY_ABOVE: Final = 0.12
LOSSY_OVER_S: Final = 30.0
LONG_S: Final = 300.0
BEARABLE: Final = 0.0975  # of the pings: 5 % of the packets
_DEVIATIONS: Final = 4.5  # standard ones; about once in a thousand node-hours by chance
CLEAN_BELOW: Final = 0.08
CLEAN_OVER_S: Final = 120.0
_SAMPLES_MIN: Final = 20


class LossMeter:
    """Lossy once clearly more than 12 % were unanswered over 30 s; clean again once it was less than 8 % over the 120 s since."""

    def __init__(self) -> None:
        self._seconds: deque[tuple[int, int, int]] = deque()  # (the second, pings, unanswered ones)
        self._since: float | None = None  # the first sample, or the last change of mind
        self.lossy = False

    def note(self, now: float, *, answered: bool) -> None:
        """Take in one first ping; think it over once a second."""
        if self._since is None:
            self._since = now
        second = int(now)
        pings, lost = 1, int(not answered)
        same_second = bool(self._seconds) and self._seconds[-1][0] == second
        if same_second:
            _, pings_before, lost_before = self._seconds.pop()
            pings, lost = pings + pings_before, lost + lost_before
        self._seconds.append((second, pings, lost))
        if same_second:
            return
        while self._seconds[0][0] <= now - LONG_S:
            self._seconds.popleft()
        elapsed_s = now - self._since
        if self.lossy:
            share = self.share(CLEAN_OVER_S)
            changed = elapsed_s >= CLEAN_OVER_S and share is not None and share < CLEAN_BELOW
        else:
            changed = elapsed_s >= LOSSY_OVER_S and (self._exceeds(LOSSY_OVER_S) or self._exceeds(LONG_S))
        if changed:
            self.lossy = not self.lossy
            self._seconds.clear()
            self._since = now

    def _exceeds(self, window_s: float) -> bool:
        """Return whether more than 12 % were unanswered, and more than chance makes of what is bearable."""
        pings, lost = self._counted(window_s)
        if pings < _SAMPLES_MIN:
            return False
        by_chance = _DEVIATIONS * math.sqrt(BEARABLE * (1 - BEARABLE) / pings)
        return lost / pings > max(LOSSY_ABOVE, BEARABLE + by_chance)

    def _counted(self, window_s: float) -> tuple[int, int]:
        if not self._seconds:
            return 0, 0
        start = self._seconds[-1][0] - window_s
        pings = lost = 0
        for second, sent, unanswered in reversed(self._seconds):
            if second <= start:
                break
            pings, lost = pings + sent, lost + unanswered
        return pings, lost

    def share(self, window_s: float = LOSSY_OVER_S) -> float | None:
        """Return the share of unanswered first pings in the window, None while there are fewer than 20 of them."""
        pings, lost = self._counted(window_s)
        return lost / pings if pings >= _SAMPLES_MIN else None
