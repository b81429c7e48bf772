"""When a suspect that does not refute is declared dead (Lifeguard §IV-B, local health aware suspicion).

One accuser may be wrong about itself, so it waits long; each independent confirmation shortens the wait, down to the minimum.
Used by members.py, which keeps one Suspicion per suspect.
"""

from __future__ import annotations

import math
from typing import Final


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


SLOW_LIMIT_S: Final = 5.0
"""How long evidence of life puts off a declaration at most: a member that answers but never refutes is of no use."""


class Suspicion:
    """A suspect's clock: its accusers and the moment at which it may be declared dead.

    `needed` accusers after the first bring the wait down to the minimum. With a `window_s` the suspect has that long to refute
    once they agree, whatever went before. `quorum`: how many accusers in all must agree before a process that is known to be gone is
    declared without further wait.
    """

    def __init__(
        self,
        accuser: str,
        *,
        needed: int,
        minimum_s: float,
        maximum_s: float,
        now: float,
        window_s: float = 0.0,
        quorum: int = 2,
    ) -> None:
        self._confirming: set[str] = {accuser}
        self._accusers = {accuser}  # no more than the quorum, since anybody may make up names
        self._needed = needed
        self._quorum = quorum
        self._bounds = (minimum_s, maximum_s)
        self._window_s = window_s
        self._held_until = now
        self.since = now
        self.first_hand = False
        """Whether this member asked the suspect itself and got no answer."""
        self.process_gone = False
        """Whether the suspect's kernel said that nobody listens any more."""
        self._runs_out = now + timeout_s(0, needed, minimum_s, maximum_s)

    @property
    def confirmations(self) -> int:
        """How many accusers counted after the first."""
        return len(self._confirming) - 1

    @property
    def wants_confirmation(self) -> bool:
        """Whether further accusers would shorten the wait."""
        return self.confirmations < self._needed

    @property
    def deadline(self) -> float:
        """When the suspect may be declared dead."""
        return max(self._runs_out, self._held_until)

    @property
    def agreed(self) -> bool:
        """Whether enough members accuse to believe that the process is gone."""
        return len(self._accusers) >= self._quorum

    def confirm(self, accuser: str, now: float) -> bool:
        """Count an accuser once; True when it is new and was needed, which is when others should hear of it too."""
        if not self.agreed:
            self._accusers.add(accuser)
        if self.confirmations >= self._needed or accuser in self._confirming:
            return False
        self._confirming.add(accuser)
        if self._window_s and self.confirmations == self._needed:
            self._runs_out = now + self._window_s
        else:
            self._runs_out = self.since + timeout_s(self.confirmations, self._needed, *self._bounds)
        return True

    def heard(self, now: float, hold_s: float) -> None:
        """Take in that the suspect sent something: it is not declared before it was asked once more, within the slow limit."""
        self.process_gone = False
        self.hold(now + hold_s)

    def hold(self, until: float) -> None:
        """Put off the declaration, but not beyond the slow limit."""
        self._held_until = max(self._held_until, min(until, self.since + SLOW_LIMIT_S))
