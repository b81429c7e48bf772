"""When a suspect that does not refute is declared dead (Lifeguard §IV-B, local health aware suspicion).

One accuser may be wrong about itself, so it waits long; each independent confirmation shortens the wait, down to the minimum.
Used by members.py, which keeps one Suspicion per suspect.
"""

from __future__ import annotations

import math


def timeout_s(confirmations: int, needed: int, minimum_s: float, maximum_s: float) -> float:
    """Return the whole length of a suspicion after so many confirmations, never below the minimum.

    maximum - ln(c + 1) / ln(k + 1) x (maximum - minimum), cut to milliseconds as hashicorp/memberlist does; the minimum when
    none are needed.
    """
    if needed < 1:
        return minimum_s
    share = math.log(confirmations + 1) / math.log(needed + 1)
    # The tenth of a microsecond undoes what binary fractions take away, so that whole milliseconds stay whole.
    shortened = math.floor(1000 * (maximum_s - share * (maximum_s - minimum_s)) + 1e-4) / 1000
    return max(minimum_s, shortened)


class Suspicion:
    """A suspect's clock: the accusers counted so far and the moment at which it is declared dead."""

    def __init__(self, accuser: str, *, needed: int, minimum_s: float, maximum_s: float, now: float) -> None:
        self._accusers = {accuser}
        self._needed = needed
        self._bounds = (minimum_s, maximum_s)
        self._since = now
        self.deadline = now + timeout_s(0, needed, minimum_s, maximum_s)

    @property
    def confirmations(self) -> int:
        """How many accusers counted after the first."""
        return len(self._accusers) - 1

    def confirm(self, accuser: str) -> bool:
        """Count an accuser once; True when it is new and was needed, which is when others should hear of it too."""
        if self.confirmations >= self._needed or accuser in self._accusers:
            return False
        self._accusers.add(accuser)
        self.deadline = self._since + timeout_s(self.confirmations, self._needed, *self._bounds)
        return True
