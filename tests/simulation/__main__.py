"""Long runs of the simulation.

`python -m tests.simulation --budget 60` measures for an hour and goes on where the last run ended; `--profile ring --n 10
--loss 0.05` measures only that. `table` adds up what is there. `chunk --kind crash --profile ring --n 10 --seed 3` does one
chunk again. `chaos --profile compat --n 5 --seed 7` does one run of random faults again, `chaos --runs 1000 --budget 10` many,
from --seed on.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.simulation import measure, tables
from tests.simulation.checks import Breach
from tests.simulation.faults import chaos
from tests.simulation.measure import Cell
from tests.simulation.profiles import ALL, PROFILES

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "explanation" / "failure-detection.jsonl"
PAGE = ROOT / "docs" / "explanation" / "failure-detection.md"


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(prog="python -m tests.simulation", description="Long runs of the gossip in virtual time.")
    made.add_argument("what", nargs="?", default="measure", choices=["measure", "table", "chunk", "chaos"])
    made.add_argument("--budget", type=float, default=10.0, metavar="MINUTES", help="stop after so long (default 10)")
    made.add_argument("--profile", action="append", choices=ALL, help="only this profile; may be repeated")
    made.add_argument("--n", action="append", type=int, help="only rings of this size; may be repeated")
    made.add_argument("--loss", action="append", type=float, help="only this share of lost packets; may be repeated")
    made.add_argument("--kind", action="append", choices=["crash", "steady", "stall"], help="only this; may be repeated")
    made.add_argument("--stall", type=float, default=0.0, help="seconds; with chunk --kind stall")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--runs", type=int, default=1, help="with chaos: so many seeds from --seed on")
    made.add_argument("--results", type=Path, default=RESULTS, help="JSON lines, appended to")
    made.add_argument("--page", type=Path, default=PAGE, help="where the tables go")
    made.add_argument("--any-code", action="store_true", help="add up lines that were measured with other code too")
    return made


def main(words: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit status."""
    asked = parser().parse_args(words)
    match asked.what:
        case "chunk":
            cell = Cell(asked.kind[0], asked.profile[0], asked.n[0], (asked.loss or [0.0])[0], asked.stall)
            _say(json.dumps(measure.measure(cell, asked.seed)))
        case "chaos":
            return _chaos(asked)
        case "table":
            _table(asked)
        case _:
            _measure(asked)
            _table(asked)
    return 0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line] if path.exists() else []


def _measure(asked: argparse.Namespace) -> None:
    end = time.monotonic() + 60 * asked.budget
    version = measure.code()
    wanted = [
        task
        for task in measure.tasks()
        if (not asked.profile or task.cell.profile in asked.profile)
        and (not asked.n or task.cell.n in asked.n)
        and (not asked.loss or task.cell.loss in asked.loss)
        and (not asked.kind or task.cell.kind in asked.kind)
    ]
    asked.results.parent.mkdir(parents=True, exist_ok=True)
    while time.monotonic() < end:
        chunk = measure.next_chunk(wanted, measure.done(_lines(asked.results), version))
        if chunk is None:
            _say("everything that was asked for is measured")
            return
        started = time.monotonic()
        line = measure.measure(*chunk)
        with asked.results.open("a") as results:
            results.write(json.dumps(line) + "\n")
        cell = chunk[0]
        facts = {key: value for key, value in line.items() if key not in {"cell", "code", "seed", "amount"}}
        if "all" in facts:
            facts["first"], facts["all"] = max(facts["first"]), max(facts["all"])
        _say(
            f"{time.monotonic() - started:6.1f} s  {cell.kind} {cell.profile} n={cell.n} loss={cell.loss:g} stall={cell.stall_s:g} "
            f"seed={chunk[1]}  {facts}"
        )
    _say("the time is over; the same command goes on")


def _table(asked: argparse.Namespace) -> None:
    version = None if asked.any_code else measure.code()
    found = _lines(asked.results)
    lines = measure.done(found, version)
    versions = sorted({line["code"] for of_cell in lines.values() for line in of_cell})
    about = (
        f"Code {', '.join(versions) or 'none'}; a row is made again with "
        "`python -m tests.simulation chunk --kind K --profile P --n N --loss L --seed S` for each of its seeds."
    )
    _say(tables.markdown(lines))
    if asked.page.exists() and lines:
        tables.write(asked.page, lines, about)


def _chaos(asked: argparse.Namespace) -> int:
    end = time.monotonic() + 60 * asked.budget
    failed = done = 0
    for seed in range(asked.seed, asked.seed + asked.runs):
        if time.monotonic() >= end:
            break
        for profile in asked.profile or PROFILES:
            size = asked.n[0] if asked.n else 2 + seed % 11
            done += 1
            try:
                outcome = chaos(profile, size, seed)
            except Breach as breach:
                failed += 1
                _say(str(breach))
                continue
            if asked.runs == 1:
                _say("\n".join(outcome.faults))
            _say(
                f"{profile} n={size} seed={seed}: {outcome.steps} steps, {len(outcome.faults)} faults, agreed after "
                f"{outcome.settled_after_s:.1f} s, {outcome.wrong_deaths} reports of a death of who lived, log {outcome.digest}"
            )
    _say(f"{done - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
