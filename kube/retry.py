"""What a reflector does next, after the list or watch that just ended. Pure.

One function and its tables decide it: list again or resume, and how long to wait first. No clock, no chance (the caller
draws it), so that a day of failures can be tested in a millisecond: whatever a server does, the number of requests per
minute is bounded, and a server that comes back is found soon.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from kube.errors import Forbidden, Gone, KubeError, Malformed, NotFound, Unauthorized, Unreachable


class Outcome(Enum):
    """How a list or watch ended."""

    LISTED = "the list is complete"
    ENDED = "the server ended the watch"
    EXPIRED = "the resource version is not served any more"
    NO_CONNECTION = "there was no connection"
    BROKEN = "the exchange broke"
    BUSY = "the server answered that it cannot serve now"
    UNAUTHORIZED = "the server does not know us"
    FORBIDDEN = "the server does not let us"
    NO_SUCH_KIND = "the server does not have the kind"
    STRANGE = "the answer is not what the API promises"


class Step(Enum):
    """What comes next."""

    LIST = "list"
    WATCH = "watch"


@dataclass(frozen=True, slots=True)
class Ended:
    """A list or watch that is over.

    Attributes:
        outcome: how it ended.
        lasted_s: from its request to its end.
        opened: the server had begun the watch before it ended.
        events: how many lines it brought, bookmarks included.
        retry_after_s: the wait that the server asked for.

    """

    outcome: Outcome
    lasted_s: float = 0.0
    opened: bool = False
    events: int = 0
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast to try again: the n-th failure in a row waits base * 2^n, at most cap, times a chance between 1 and 2."""

    base_s: float = 0.1
    cap_s: float = 5.0
    away_cap_s: float = 2.0
    """The cap while there is no connection: trying costs the server nothing then, and it should be found soon."""
    longest_retry_after_s: float = 60.0
    quick_s: float = 1.0
    """A watch that was open this long ends a row of failures; one that ended sooner and brought nothing has failed."""


@dataclass(frozen=True, slots=True)
class Record:
    """Three rows of failures, each ended by its own kind of success.

    Attributes:
        failures: of a server that was there; a watch that was open for a while ends it.
        refused: answers to a watch from the same resource version; an event or a list ends it.
        away: tries without a connection; any answer ends it, so that an outage does not slow down what follows.

    """

    failures: int = 0
    refused: int = 0
    away: int = 0


@dataclass(frozen=True, slots=True)
class Next:
    """Wait, then take the step."""

    step: Step
    wait_s: float
    record: Record


START: Final = Record()

REFUSALS_BEFORE_LIST: Final = 3
"""A server that compacted its history may say 500 instead of 410: after so many refusals, list."""

_LIST_AFTER: Final = frozenset({Outcome.EXPIRED, Outcome.NO_SUCH_KIND, Outcome.FORBIDDEN})
"""What calls for a list. Who may list but not watch (speakers and Pods under MetalLB's own Roles) polls in this way."""
_REFUSED: Final = frozenset({Outcome.BUSY, Outcome.STRANGE, Outcome.ENDED})
_FAILURES: Final[Mapping[type[KubeError], Outcome]] = {
    Gone: Outcome.EXPIRED,
    Unauthorized: Outcome.UNAUTHORIZED,
    Forbidden: Outcome.FORBIDDEN,
    NotFound: Outcome.NO_SUCH_KIND,
    Malformed: Outcome.STRANGE,
}
_PHASES: Final = {"connect": Outcome.NO_CONNECTION, "exchange": Outcome.BROKEN, "answer": Outcome.BUSY}


def outcome_of(error: KubeError) -> Outcome:
    """How a list or watch ended that raised this."""
    if isinstance(error, Unreachable):
        return _PHASES[error.phase]
    return _FAILURES.get(type(error), Outcome.STRANGE)


def next_step(record: Record, step: Step, ended: Ended, *, chance: float, pace: Pace = Pace()) -> Next:
    """What to do after `step` has ended; `chance` is drawn evenly from [0, 1)."""
    if ended.outcome is Outcome.LISTED:
        # A list that succeeds does not end a row of failures: list, failing watch, list, … would never slow down.
        return Next(Step.WATCH, 0.0, replace(record, refused=0, away=0))
    if ended.opened and ended.lasted_s >= pace.quick_s:
        record = START
        if ended.outcome is Outcome.ENDED:
            return Next(Step.WATCH, 0.0, START)
    if ended.outcome is Outcome.ENDED and ended.events:
        # Worth resuming at once but for servers that close after every event; the row of failures neither grows nor ends.
        return Next(Step.WATCH, pace.base_s * (1 + chance), replace(record, refused=0, away=0))
    if ended.outcome is Outcome.NO_CONNECTION:
        return Next(step, _wait_s(record.away, pace.away_cap_s, chance, pace), replace(record, away=record.away + 1))
    wait_s = _wait_s(record.failures, pace.cap_s, chance, pace)
    if ended.retry_after_s is not None:
        wait_s = max(wait_s, min(ended.retry_after_s, pace.longest_retry_after_s) + pace.base_s * chance)
    refused = record.refused + 1 if ended.outcome in _REFUSED else record.refused
    if ended.events:
        refused = 0  # The resource version moved on.
    after = Record(record.failures + 1, refused)
    if step is Step.LIST or ended.outcome in _LIST_AFTER or refused >= REFUSALS_BEFORE_LIST:
        return Next(Step.LIST, wait_s, replace(after, refused=0))
    return Next(Step.WATCH, wait_s, after)


def _wait_s(row: int, cap_s: float, chance: float, pace: Pace) -> float:
    return float(min(pace.base_s * 2 ** min(row, 30), cap_s) * (1 + chance))  # 2^30 is beyond any cap.
