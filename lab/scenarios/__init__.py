"""What can be run in the lab and measured, each one module with a run() coroutine that yields a result per run.

`run` is what `python -m lab run SCENARIO` calls: it uses the lab that is up, or brings one up for as long as it takes.
A new scenario is a module with `run(stage, runs)`, an asynchronous generator of Results, and a line in SCENARIOS.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from kube.errors import KubeError
from lab import control, lifecycle, picture, timeline
from lab.paths import LabError, Paths
from lab.scenarios import first_service, node_death, planned_moves, speaker_death
from lab.scenarios.result import Result
from lab.scenarios.stage import Stage
from lab.timeline import Moment

SCENARIOS: Final[Mapping[str, Callable[[Stage, int], AsyncIterator[Result]]]] = {
    "first_service": first_service.run,
    "node_death": node_death.run,
    "planned_moves": planned_moves.run,
    "speaker_death": speaker_death.run,
}
AROUND_S: Final = 0.1
"""The timeline of a run begins so long before it and ends so long after it."""


def run(where: Paths, scenario: str, *, runs: int, output: str, drawn: Path | None = None) -> int:
    """Run a scenario so many times and print a line for each run: JSON, or a sentence; then the median and what happened.

    What happened is the timeline of the longest run; it is also drawn to a file if one is named.

    Raises:
        LabError: there is no such scenario, or it could not be carried out.

    """
    if scenario not in SCENARIOS:
        raise LabError(f"there is no scenario {scenario!r}; there are {', '.join(SCENARIOS)}")
    if runs < 1:
        raise LabError(f"--runs takes a number from 1, not {runs}")
    with _a_lab(where):
        try:
            results = asyncio.run(_run(where, scenario, runs, output))
        except (KubeError, TimeoutError) as error:
            raise LabError(f"{scenario}: {error}; logs are in {where.logs}") from error
        _tell(where, scenario, results, aloud=output == "text", drawn=drawn)
    return 0


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


async def _run(where: Paths, scenario: str, runs: int, output: str) -> list[Result]:
    results: list[Result] = []
    async with Stage.set(where) as stage:
        async for result in SCENARIOS[scenario](stage, runs):
            results.append(result)
            print(msgspec.json.encode(result).decode() if output == "json" else str(result), flush=True)
    return results


def _tell(where: Paths, scenario: str, results: Sequence[Result], *, aloud: bool, drawn: Path | None) -> None:
    """The median, and what happened in the longest run."""
    lengths = [result.seconds for result in results]
    longest = max(results, key=lambda result: result.seconds)
    moments, zero = happened(where, longest), longest.span[0]
    if aloud:
        print(f"{scenario}: median {statistics.median(lengths):.3f} s, longest {max(lengths):.3f} s, runs {len(lengths)}")
        print("what happened in the longest run:", *timeline.text(moments, zero=zero), sep="\n  ")
    if drawn is not None:
        drawn.write_text(picture.svg(moments, zero=zero, title=f"{scenario}: {longest}"), encoding="utf-8")


def happened(where: Paths, result: Result) -> list[Moment]:
    """What a run's client saw and what everybody logged meanwhile, in order."""
    begin, end = result.span
    return timeline.merged(result.seen(), *timeline.logs(where.logs), since=begin - AROUND_S, until=end + AROUND_S)
