"""How exact the lab's delay and loss are: `python -m bench.lab_faults`. One line of JSON for each; brings a lab up and takes it away.

Datagrams go from n1 to n2 one at a time (for delay) or all at once (for loss). `added_ms` is what the delay of n1's cable added to
the same way without it; it should be the delay, within 2 ms.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

from lab import control, lifecycle
from lab.faults import AnyFault, Delay, Loss
from lab.paths import Paths
from tests.e2e.wire import Path as Way
from tests.e2e.wire import path

FAULTS: tuple[AnyFault, ...] = (*(Delay(ms, "n1") for ms in (1, 5, 20, 100)), *(Loss(percent, "n1") for percent in (1, 5, 30)))
ONE_BY_ONE = 200
AT_ONCE = 5000


def main() -> None:
    """Measure and print."""
    where = Paths(Path(".lab/bench-faults").resolve())
    lifecycle.up(where, nodes=2)
    try:
        with path(lifecycle.running_topology(where), "n1", "n2") as way:
            way.works()
            usual = statistics.median(_times_ms(way))
            for fault in FAULTS:
                control.ask(where, "inject", fault=fault)
                if isinstance(fault, Delay):
                    found = _spread([took - usual for took in _times_ms(way)])
                    control.ask(where, "heal")
                else:
                    numbers = way.send(AT_ONCE)
                    control.ask(where, "heal")
                    arrived = {each.number for each in way.arrivals(way.send(1)[-1])} & set(numbers)
                    found = {"sent": AT_ONCE, "lost_percent": round(100 - 100 * len(arrived) / AT_ONCE, 2)}
                sys.stdout.write(json.dumps({"fault": str(fault), **found}) + "\n")
    finally:
        lifecycle.down(where)


def _spread(added_ms: list[float]) -> dict[str, float]:
    added = sorted(added_ms)
    named = {"min": added[0], "median": statistics.median(added), "p95": added[len(added) * 95 // 100], "max": added[-1]}
    return {f"added_ms_{name}": round(value, 3) for name, value in named.items()}


def _times_ms(way: Way) -> list[float]:
    return [way.arrivals(way.send(1)[-1])[-1].took_s * 1000 for _ in range(ONE_BY_ONE)]


if __name__ == "__main__":
    main()
