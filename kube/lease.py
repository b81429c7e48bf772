"""Who of several replicas may decide: leadership by a Lease of coordination.k8s.io. Pure; kube.leadership does the talking.

The promise: while every process keeps its own clocks to the rule below, no two processes lead at the same moment, however
long any of them, its requests or its answers are held up.

- A leader counts its time from before it sent the renewal that succeeded, and stops `renew_deadline_s` after it, by the
  hasty clock, whether or not it can reach the API server.
- Another one takes over only after it has seen the same edition of the Lease for the whole `duration_s` that the holder
  promised, counted from after it read it, by the steady clock; and only by replacing that very edition.

A Lease that was released, or whose holder is named like ourselves, is taken at once: a name belongs to one process at a
time (a Pod restarts a container only after the last one ended). So is one whose holder's own clock says that it ended more
than `CLOCKS_DIFFER_S` ago; this is the only place where clocks of two machines are compared.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

CLOCKS_DIFFER_S: Final = 30.0
"""Clocks of the machines in a cluster are supposed to agree within this."""
SHORTEST_PAUSE_S: Final = 0.05
RELEASED_FOR_S: Final = 1
"""What a released Lease says of its duration: the API wants at least one second."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Two readings at one time, in seconds: a clock that never runs faster than real time, and one that never runs slower."""

    steady: float
    hasty: float


@dataclass(frozen=True, slots=True)
class Terms:
    """How long a leader may be silent.

    Attributes:
        duration_s: so long others wait; whole seconds, because the API has only these.
        renew_deadline_s: so long a leader goes on after its last renewal.
        renew_s: the time from one renewal to the next.
        retry_s: the time from one look at a Lease of somebody else to the next, and after a failure.

    """

    duration_s: int = 15
    renew_deadline_s: float = 10.0
    renew_s: float = 5.0
    retry_s: float = 2.0

    def problem(self) -> str:
        """What is wrong with these terms; empty if nothing is."""
        if self.duration_s < 1:
            return "the lease duration must be at least one second"
        if not 0 < self.renew_s < self.renew_deadline_s < self.duration_s:
            return "the lease duration must be longer than the renew deadline, and that longer than the time between renewals"
        return "" if self.retry_s > 0 else "the retry period must be positive"

    @classmethod
    def of(cls, duration_s: int) -> Terms:
        """Terms in the usual proportions."""
        return cls(duration_s, duration_s * 2 / 3, duration_s / 3, duration_s * 2 / 15)


@dataclass(frozen=True, slots=True)
class Record:
    """What a Lease says. Times are those of the API (RFC 3339 with microseconds)."""

    holder: str = ""
    duration_s: int = RELEASED_FOR_S
    acquired: str = ""
    renewed: str = ""
    transitions: int = 0


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing for so long."""

    for_s: float


@dataclass(frozen=True, slots=True)
class Read:
    """Read the Lease, then call `observed`, or `failed` if that is not possible."""


@dataclass(frozen=True, slots=True)
class Put:
    """Write the Lease: replace the edition `version`, or create it if there is none; then call `written`, `refused` or `failed`.

    `acquires` says that the time of acquisition is now; else it is that of the record. The time of renewal is always now.
    """

    record: Record
    version: str | None
    acquires: bool


Step = Wait | Read | Put


class Candidate:
    """One process that would lead. Ask `next` what to do, do it, tell what came of it, and ask again."""

    def __init__(self, identity: str, terms: Terms) -> None:
        self.identity = identity
        self.terms = terms
        self._record: Record | None = None
        self._version: str | None = None
        self._seen_at: float | None = None
        self._expired_on_sight = False
        self._look = True
        self._until: float | None = None
        self._next_at = 0.0

    @property
    def holder(self) -> str:
        """Who holds the Lease as far as is known."""
        return self._record.holder if self._record is not None else ""

    def leads(self, now: Moment) -> bool:
        """Whether this process may decide now. To be asked immediately before every deed."""
        return self._until is not None and now.hasty < self._until

    def remaining_s(self, now: Moment) -> float:
        """How long it may go on without another renewal; 0 if it does not lead."""
        return max(0.0, self._until - now.hasty) if self._until is not None else 0.0

    def next(self, now: Moment) -> Step:
        """What to do now."""
        if now.steady < self._next_at:
            return Wait(self._next_at - now.steady)
        if self._look:
            return Read()
        if self._record is None:
            return Put(Record(self.identity, self.terms.duration_s), None, acquires=True)
        if self._record.holder == self.identity:
            renewed = replace(self._record, duration_s=self.terms.duration_s)
            return Put(renewed, self._version, acquires=not self.leads(now))
        if self._is_free(now):
            taken = Record(self.identity, self.terms.duration_s, transitions=self._record.transitions + 1)
            return Put(taken, self._version, acquires=True)
        self._look = True
        free_in_s = 0.0 if self._seen_at is None else self._seen_at + self._record.duration_s - now.steady
        self._next_at = now.steady + min(self.terms.retry_s, max(free_in_s, SHORTEST_PAUSE_S))
        return Wait(self._next_at - now.steady)

    def _is_free(self, now: Moment) -> bool:
        assert self._record is not None
        if not self._record.holder or self._expired_on_sight:
            return True
        return self._seen_at is not None and now.steady - self._seen_at >= self._record.duration_s

    def observed(self, record: Record | None, version: str | None, now: Moment, *, renewed_ago_s: float | None = None) -> None:
        """The Lease was read: what it says (None: there is none), its version, how old its renewal is by our wall clock."""
        if version != self._version or self._seen_at is None:
            self._seen_at = now.steady
            self._expired_on_sight = (
                record is not None and renewed_ago_s is not None and renewed_ago_s > record.duration_s + CLOCKS_DIFFER_S
            )
        self._record, self._version = record, version
        self._look = False
        if self.holder != self.identity:
            self._until = None

    def written(self, record: Record, version: str, sent: Moment) -> None:
        """A write that was begun at `sent` succeeded."""
        self._record, self._version, self._seen_at = record, version, sent.steady
        self._expired_on_sight = False
        self._until = sent.hasty + self.terms.renew_deadline_s
        self._next_at = sent.steady + self.terms.renew_s

    def refused(self) -> None:
        """Somebody else has written the Lease: we do not hold it, or not in this edition. Look at once."""
        self._until = None
        self._look = True

    def failed(self, now: Moment) -> None:
        """Nobody knows what came of it. Look again soon; a leader goes on until its time is up."""
        self._look = True
        remaining_s = self.remaining_s(now)
        pause_s = max(remaining_s / 4, SHORTEST_PAUSE_S) if remaining_s else self.terms.retry_s
        self._next_at = now.steady + min(self.terms.retry_s, pause_s)

    def release(self, now: Moment) -> Put | None:
        """Stop leading, for good; what to write so that nobody has to wait. None if the Lease is not ours."""
        led = self.leads(now)
        self._until = None
        if not led or self._record is None:
            return None
        return Put(replace(self._record, holder="", duration_s=RELEASED_FOR_S), self._version, acquires=False)
