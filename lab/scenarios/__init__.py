"""What can be run in the lab and measured, each one module with a run() coroutine that yields a result per run.

`run` is what `python -m lab run SCENARIO` calls: it uses the lab that is up, or brings one up for as long as it takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Final

import msgspec

from kube.errors import KubeError
from lab import control, lifecycle
from lab.paths import LabError, Paths
from lab.scenarios import first_service, node_death
from lab.scenarios.stage import Stage

Result = first_service.FirstService | node_death.NodeDeath

SCENARIOS: Final[Mapping[str, Callable[[Stage, int], AsyncIterator[Result]]]] = {
    "first_service": first_service.run,
    "node_death": node_death.run,
}


def run(where: Paths, scenario: str, *, runs: int, output: str) -> int:
    """Run a scenario so many times and print a line for each run: JSON, or a sentence; then the median.

    Raises:
        LabError: there is no such scenario, or it could not be carried out.

    """
    if scenario not in SCENARIOS:
        raise LabError(f"there is no scenario {scenario!r}; there are {', '.join(SCENARIOS)}")
    if runs < 1:
        raise LabError(f"--runs takes a number from 1, not {runs}")
    with _a_lab(where):
        try:
            return asyncio.run(_run(where, scenario, runs, output))
        except (KubeError, TimeoutError) as error:
            raise LabError(f"{scenario}: {error}; logs are in {where.logs}") from error


@contextlib.contextmanager
def _a_lab(where: Paths) -> Iterator[None]:
    """The lab that is up, or one for the length of the body."""
    try:
        control.ask(where, "status")
    except LabError:
        lifecycle.up(where)
        try:
            yield
        finally:
            lifecycle.down(where)
    else:
        yield


async def _run(where: Paths, scenario: str, runs: int, output: str) -> int:
    lengths = []
    async with Stage.set(where) as stage:
        async for result in SCENARIOS[scenario](stage, runs):
            lengths.append(result.seconds)
            print(msgspec.json.encode(result).decode() if output == "json" else str(result), flush=True)
    if output == "text":
        print(f"{scenario}: median {statistics.median(lengths):.3f} s, longest {max(lengths):.3f} s, runs {len(lengths)}")
    return 0
