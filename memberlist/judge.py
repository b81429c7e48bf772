"""Whether a suspicion that ran out ends in a declaration: the last look before a member is called dead.

By itself time decides, as in SWIM. With the kernel check the suspect's kernel is asked shortly before:

    nothing came      host or path are gone: declare it
    refused           the host lives, the process is gone: declare it, at once when a second accuser agrees
    answered          the host lives and the process is busy or stopped: ask again, until the slow limit of 5 s

And whatever this process found out while it was stalled itself counts for nothing (lag.py). core.py drives it; members.py owns the
suspicions and says what becomes of the member.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from memberlist.config import CHECK_S, Config, hearsay_patience_s
from memberlist.effects import CheckLiveness, Effect, Liveness
from memberlist.lag import LagGuard
from memberlist.members import Members, Record
from memberlist.suspicion import SLOW_LIMIT_S, Suspicion

RECHECK_S: Final = 0.1  # in rings of up to ten members; longer in larger ones, since the suspect's kernel queues every call
_OVERDUE_S: Final = 0.05  # beyond which an outcome that never came counts as silence


@dataclass(slots=True)
class Check:
    """One question to a suspect's kernel. `suspicion` is that of the time it was asked."""

    number: int
    suspicion: Suspicion
    asked_at: float
    outcome: Liveness | None = None


class Judge:
    """Declares suspects dead, and asks their kernels before."""

    def __init__(self, config: Config, members: Members, lag: LagGuard) -> None:
        self._config = config
        self._members = members
        self._lag = lag
        self._checks: dict[str, Check] = {}
        self._last_number = 0

    def retune(self, config: Config) -> None:
        """Go by other numbers from now on."""
        self._config = config

    def checked(self, number: int, outcome: Liveness, now: float) -> list[Effect]:
        """Take the outcome of a check; one that nobody waits for any more is dropped."""
        for name, check in self._checks.items():
            if check.number == number:
                check.outcome = outcome
                check.suspicion.process_gone = outcome is Liveness.REFUSED
                record = self._members.get(name)
                return [] if record is None else self._judge(record, now)
        return []

    def tick(self, now: float) -> list[Effect]:
        """Judge every suspect whose time has come."""
        suspects = self._members.suspects()
        if not suspects and not self._checks:
            return []
        current = {record.name: record.suspicion for record in suspects}
        self._checks = {name: check for name, check in self._checks.items() if current.get(name) is check.suspicion}
        return [effect for record in suspects for effect in self._judge(record, now)]

    def wake_at(self) -> float | None:
        """Return when tick is next due."""
        suspects = self._members.suspects()
        return min(map(self._next_at, suspects)) if suspects else None

    def _due_at(self, suspicion: Suspicion) -> float:
        """Return when a suspicion runs out for this member, which waits a little longer if it knows it by hearsay only."""
        hearsay = not suspicion.first_hand
        due = suspicion.deadline + (hearsay_patience_s(self._config) if hearsay else 0.0)
        if suspicion.process_gone and suspicion.agreed and not hearsay:
            due = suspicion.since
        return max(due, self._lag.judging_from)

    def _next_at(self, record: Record) -> float:
        suspicion = record.suspicion
        assert suspicion is not None
        due = self._due_at(suspicion)
        if not self._config.measures.kernel_check:
            return due
        check = self._checks.get(record.name)
        if check is None or check.suspicion is not suspicion:
            return due if suspicion.process_gone and suspicion.agreed else due - CHECK_S
        if check.outcome is None:
            return max(due, check.asked_at + CHECK_S + _OVERDUE_S)
        return due

    def _judge(self, record: Record, now: float) -> list[Effect]:
        suspicion = record.suspicion
        if suspicion is None or now < self._next_at(record):
            return []
        due = self._due_at(suspicion)
        gone = suspicion.process_gone and suspicion.agreed
        if not self._config.measures.kernel_check or gone or now >= max(due, suspicion.since + SLOW_LIMIT_S):
            return self._declare(record, now)
        check = self._checks.get(record.name)
        if check is None or check.suspicion is not suspicion:
            return self._ask(record, suspicion, now)
        if check.outcome is Liveness.ANSWERED:
            suspicion.hold(now + RECHECK_S * max(1.0, len(self._members) / 10))
            if suspicion.deadline - now > CHECK_S:  # Else the slow limit is near, and there is nothing more to ask.
                del self._checks[record.name]
            return []
        if check.outcome is not Liveness.REFUSED and self._lag.stalled(check.asked_at, CHECK_S / 4):
            return self._ask(record, suspicion, now)
        return self._declare(record, now)

    def _ask(self, record: Record, suspicion: Suspicion, now: float) -> list[Effect]:
        self._last_number += 1
        self._checks[record.name] = Check(self._last_number, suspicion, now)
        return [CheckLiveness(self._last_number, record.endpoint, CHECK_S)]

    def _declare(self, record: Record, now: float) -> list[Effect]:
        self._checks.pop(record.name, None)
        return self._members.declare(record, now)
