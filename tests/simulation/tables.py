"""The lines of measure.py, added up to the tables that people read: on the terminal and in failure-detection.md."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tests.simulation.measure import LOSSES, SIZES, STALLS_S, Cell, Lines
from tests.simulation.profiles import ALL

BEGIN: Final = "<!-- simulation: written by python -m tests.simulation -->"
END: Final = "<!-- simulation: end -->"


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that `share` of the values do not exceed (nearest rank)."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def markdown(lines: Lines) -> str:
    """Return all tables."""
    parts = [_crashes(lines, loss) for loss in LOSSES]
    parts += [_steady(lines), _stalls(lines)]
    return "\n\n".join(part for part in parts if part)


def _rows(cells: Iterable[Cell], lines: Lines) -> list[tuple[Cell, Sequence[Mapping[str, Any]]]]:
    return [(cell, lines[cell]) for cell in cells if cell in lines]


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = [title, "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _seeds(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return the seeds as ranges."""
    seeds = sorted(line["seed"] for line in lines)
    ranges: list[list[int]] = []
    for seed in seeds:
        if ranges and seed == ranges[-1][1] + 1:
            ranges[-1][1] = seed
        else:
            ranges.append([seed, seed])
    return ", ".join(f"{low}" if low == high else f"{low}-{high}" for low, high in ranges)


def _crashes(lines: Lines, loss: float) -> str:
    rows = []
    for cell, found in _rows((Cell("crash", profile, n, loss) for profile in ALL for n in SIZES), lines):
        first = [time for line in found for time in line["first"]]
        everyone = [time for line in found for time in line["all"]]
        figures = [
            f"{value:.2f}"
            for times in (first, everyone)
            for value in (*(percentile(times, q) for q in (0.5, 0.99)), max(times))
        ]
        wrong = sum(line["wrong_deaths"] for line in found)
        rows.append([cell.profile, str(cell.n), *figures, str(wrong), str(len(first)), _seeds(found)])
    head = ["profile", "N", "first p50", "p99", "max", "all p50", "p99", "max", "wrong deaths", "crashes", "seeds"]
    return _table(
        f"Crash of a host, {loss:.0%} of the packets lost. Seconds until the first and until all survivors know.", head, rows
    )


def _steady(lines: Lines) -> str:
    rows = []
    for cell, found in _rows((Cell("steady", p, n, loss) for p in ALL for n in SIZES for loss in LOSSES), lines):
        hours = sum(line["node_hours"] for line in found)
        packets = sum(line["packets_per_s"] * line["node_hours"] for line in found) / hours
        size = sum(line["bytes_per_s"] * line["node_hours"] for line in found) / hours
        wrong = sum(line["wrong_deaths"] for line in found)
        rows.append(
            [
                cell.profile,
                str(cell.n),
                f"{cell.loss:.0%}",
                f"{packets:.1f}",
                f"{size:.0f}",
                f"{sum(line['suspicions'] for line in found) / hours:.2f}",
                str(wrong),
                f"{100 * wrong / hours:.1f}",
                f"{hours:.1f}",
                _seeds(found),
            ]
        )
    head = ["profile", "N", "loss", "packets/s", "payload B/s", "suspicions per node-hour", "wrong deaths"]
    head += ["per 100 node-hours", "node-hours", "seeds"]
    return _table("Nobody crashes. What each member sends, and who is taken for dead all the same.", head, rows)


def _stalls(lines: Lines) -> str:
    rows = []
    for cell, found in _rows((Cell("stall", p, n, 0.0, s) for p in ALL for n in SIZES for s in STALLS_S), lines):
        stalls, pairs = sum(line["stalls"] for line in found), sum(line["pairs"] for line in found)
        wrong, reports = sum(line["wrong_deaths"] for line in found), sum(line["wrong_reports"] for line in found)
        rows.append(
            [cell.profile, str(cell.n), f"{cell.stall_s:g}", str(stalls), str(wrong), f"{reports / pairs:.2%}", _seeds(found)]
        )
    head = ["profile", "N", "stall s", "stalls", "wrong deaths", "observers that believed one", "seeds"]
    return _table("Processes are stopped, timers and all, once a minute each. The host's kernel goes on.", head, rows)


def write(page: Path, lines: Lines, about: str) -> None:
    """Put the tables between the two marks of a page; ValueError when it has none."""
    text = page.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has no place for the tables: a line {BEGIN!r} and below it a line {END!r}")
    page.write_text(f"{before}{BEGIN}\n\n{about}\n\n{markdown(lines)}\n\n{END}{after}")
