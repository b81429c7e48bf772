"""How long one member usually takes to answer (RFC 6298 §2, the estimator of TCP's retransmission timer).

Used by probe.py for the adaptive timeout of a ping.
"""

from __future__ import annotations

from typing import Final

_ALPHA: Final = 1 / 8
_BETA: Final = 1 / 4
_DEVIATIONS: Final = 6  # TCP takes 4; a wrong suspicion costs more than a late one.
TIMEOUT_MIN_S: Final = 0.02


class RoundTrip:
    """The smoothed round trip time of one member and its mean deviation."""

    def __init__(self, sample_s: float) -> None:
        self.smoothed_s = sample_s
        self.deviation_s = sample_s / 2

    def add(self, sample_s: float) -> None:
        """Take in another measured round trip."""
        self.deviation_s += _BETA * (abs(self.smoothed_s - sample_s) - self.deviation_s)
        self.smoothed_s += _ALPHA * (sample_s - self.smoothed_s)

    @property
    def timeout_s(self) -> float:
        """How long to wait before a ping is taken for lost: max(20 ms, srtt + 6 rttvar)."""
        return max(TIMEOUT_MIN_S, self.smoothed_s + _DEVIATIONS * self.deviation_s)
