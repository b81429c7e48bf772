"""How long-running parts of a process are kept alive, and how a loop that is held up is noticed.

supervise is the restart boundary of this project: the one place that catches whatever a part raises, says it, counts it
and starts the part again after a growing wait. run starts the event loop with a guard: while one callback runs, gossip
probes go unanswered, so each turn of the loop that took too long is reported. Called by the main modules of the daemons.
"""

from __future__ import annotations

import asyncio
import random
import selectors
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from prometheus_client import CollectorRegistry, Counter

from telemetry.log import get_logger

R = TypeVar("R")

SLOW_TURN_S: Final = 0.05
"""A gossip probe must be answered within 0.5 s; a turn of the loop may take a tenth of that."""


@dataclass(frozen=True, slots=True)
class RestartPace:
    """The n-th restart in a row waits first * 2^n, at most cap, times a chance between 1 and 2."""

    first_s: float = 0.1
    cap_s: float = 30.0
    good_after_s: float = 60.0
    """A part that ran this long ends a row of restarts."""


def restart_wait_s(failures: int, chance: float, pace: RestartPace) -> float:
    """How long to wait before the restart that follows `failures` earlier ones in a row; `chance` is from [0, 1)."""
    return float(min(pace.first_s * 2 ** min(failures, 30), pace.cap_s) * (1 + chance))


def restart_counter(registry: CollectorRegistry) -> Counter:
    """The counter that supervise increases, in a registry."""
    return Counter(
        "metallb_task_restarts", "Parts of the process that failed and were started again.", ["task"], registry=registry
    )


def supervise(
    group: asyncio.TaskGroup,
    name: str,
    part: Callable[[], Awaitable[object]],
    *,
    restarts: Counter | None = None,
    pace: RestartPace = RestartPace(),
    rng: random.Random | None = None,
) -> asyncio.Task[None]:
    """Run a part in a group under this name, again and again while it raises; its return is the end."""
    return group.create_task(_kept_alive(name, part, restarts, pace, rng or random.Random()), name=name)  # noqa: S311 - no secret


async def _kept_alive(
    name: str, part: Callable[[], Awaitable[object]], restarts: Counter | None, pace: RestartPace, rng: random.Random
) -> None:
    log = get_logger("tasks")
    loop = asyncio.get_running_loop()
    failures = 0
    while True:
        begun = loop.time()
        try:
            await part()
        except Exception:
            if loop.time() - begun >= pace.good_after_s:
                failures = 0
            wait_s = restart_wait_s(failures, rng.random(), pace)
            failures += 1
            if restarts is not None:
                restarts.labels(task=name).inc()
            log.exception("task_failed", task=name, restart_in_s=round(wait_s, 2))
            await asyncio.sleep(wait_s)
        else:
            return


class WatchfulSelector(selectors.DefaultSelector):
    """A selector that sees how long the loop was busy between two calls: the length of one turn of all its callbacks."""

    def __init__(self, limit_s: float, on_slow: Callable[[float], None]) -> None:
        super().__init__()
        self._limit_s = limit_s
        self._on_slow = on_slow
        self._returned_at: float | None = None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """As in the base class, after reporting a turn that took too long."""
        if self._returned_at is not None:
            took_s = time.perf_counter() - self._returned_at
            if took_s > self._limit_s:
                self._on_slow(took_s)
        ready = super().select(timeout)
        self._returned_at = time.perf_counter()
        return ready


def run(main: Coroutine[Any, Any, R], *, on_slow: Callable[[float], None] | None = None, slow_turn_s: float = SLOW_TURN_S) -> R:
    """As asyncio.run, with turns of the loop over `slow_turn_s` reported (to the log if `on_slow` is not given)."""
    selector = WatchfulSelector(slow_turn_s, on_slow or _say_slow)
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        return runner.run(main)


def _say_slow(took_s: float) -> None:
    get_logger("tasks").debug("loop_held_up", took_s=round(took_s, 3))
