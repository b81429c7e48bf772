"""The loop that every fuzzer here runs: inputs by number, how many a second, and what to type to do a failing one again.

Used by __main__.py, bfd.py and neighbours.py. It knows nothing of what is fed, nor to whom.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_REPORT_EVERY = 100_000


def drive(
    count: int,
    seed: int,
    next_input: Callable[[], T],
    feed: Callable[[T], object],
    show: Callable[[T], str],
    outcome: Callable[[str], str],
) -> None:
    """Feed `count` inputs; print `outcome` of the rate now and then. Whatever feeding raises is raised, after `show` of the input."""
    started = time.monotonic()
    for number in range(1, count + 1):
        data = next_input()
        try:
            feed(data)
        except BaseException:
            sys.stdout.write(f"input {number} of seed {seed}: {show(data)}\n")
            raise
        if number % _REPORT_EVERY == 0 or number == count:
            rate = number / (time.monotonic() - started)
            sys.stdout.write(f"{number} inputs, {outcome(f'{rate:.0f}/s')}\n")
            sys.stdout.flush()
