"""Measurements in virtual time: how long a crash takes to be known, who is declared dead wrongly, what it costs.

The work is cut into chunks of seconds, each decided by what is measured (a Cell) and a seed, and each yielding one line of
JSON. The command of __main__.py does chunks until its time is over and appends the lines to a file; tables.py adds them up.
A line names the code it was measured with, so that lines of different code are not added up.
"""

from __future__ import annotations

import ast
import hashlib
import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeAlias

from memberlist import core
from memberlist.effects import Left, Suspected
from tests.simulation.network import Power
from tests.simulation.profiles import FALLING_BACK, PROFILES, configure, pace_s
from tests.simulation.ring import Node, Ring

SIZES: Final = (3, 10, 30, 100)
LOSSES: Final = (0.0, 0.01, 0.05)
STALLS_S: Final = (0.5, 1.0, 2.0, 5.0)
STALL_EVERY_S: Final = 60.0
PROMISED: Final = ("subsecond", "ring")
_SHELLS: Final = {"__init__.py", "__main__.py", "agent.py", "example.py", "seeds.py", "transport.py"}
_WRONG_WITHIN_S: Final = 5.0  # Reports about one victim within this time are one death.


@dataclass(frozen=True, slots=True)
class Cell:
    """What is measured: `kind` is crash, steady or stall; `stall_s` is 0 but for stalls."""

    kind: str
    profile: str
    n: int
    loss: float = 0.0
    stall_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Task:
    """A cell and how much of it is wanted: crashes, node-hours or stalls. Lower `rank` comes first."""

    cell: Cell
    target: float
    rank: int


def tasks() -> Iterator[Task]:
    """Everything that the table shows; what is promised of the fastest profiles comes first."""
    for profile in PROFILES:
        fast = profile in PROMISED
        for n in SIZES:
            crashes = {3: 300, 10: 300, 30: 100, 100: 60}[n]
            for loss in LOSSES:
                yield Task(Cell("crash", profile, n, loss), crashes, (0 if fast else 4) if loss == 0 else (2 if fast else 5))
                promised = fast and n == 10 and loss == 0.05
                yield Task(Cell("steady", profile, n, loss), 100.0 if promised else 10.0, 3 if promised else 6)
            for stall_s in STALLS_S:
                yield Task(Cell("stall", profile, n, 0.0, stall_s), 600 if n == 10 else 200, 1 if fast and n == 10 else 5)
    for profile in FALLING_BACK:
        for loss in LOSSES:
            yield Task(Cell("crash", profile, 10, loss), 300, 5)
            yield Task(Cell("steady", profile, 10, loss), 10.0, 6)


@cache
def code() -> str:
    """Return a number for the core's code as it was loaded; comments and docstrings do not count."""
    digest = hashlib.blake2b(digest_size=4)
    for path in sorted(Path(core.__file__).parent.glob("*.py")):
        if path.name not in _SHELLS:
            tree = ast.parse(path.read_text())
            for node in ast.walk(tree):
                if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
                    node.value.value = ""
            digest.update(ast.dump(tree).encode())
    return digest.hexdigest()


def chunk_size(cell: Cell) -> float:
    """Return how much of its target one chunk brings: crashes, node-hours or stalls."""
    if cell.kind == "crash":
        return {3: 30, 10: 30, 30: 10, 100: 6}.get(cell.n, 10)
    if cell.kind == "steady":
        return {30: 2.5, 100: 5.0}.get(cell.n, 0.5)  # Large rings take long to form, which is no part of what is measured.
    return 100.0


def measure(cell: Cell, seed: int) -> dict[str, Any]:
    """Do one chunk; return its line."""
    line: dict[str, Any] = {"cell": as_dict(cell), "seed": seed, "code": code(), "amount": chunk_size(cell)}
    doing = {"crash": _crashes, "steady": _steady, "stall": _stalls}[cell.kind]
    return line | doing(cell, seed)


def as_dict(cell: Cell) -> dict[str, Any]:
    """Return a cell as it is written."""
    return {"kind": cell.kind, "profile": cell.profile, "n": cell.n, "loss": cell.loss, "stall_s": cell.stall_s}


def _settled(cell: Cell, seed: int) -> tuple[Ring, random.Random]:
    chance = random.Random(f"{cell} {seed}")  # noqa: S311  (repeatable on purpose)
    ring = Ring(
        cell.n,
        seed=chance.getrandbits(64),
        loss=cell.loss,
        checked=False,
        recorded=False,
        configure=configure(cell.profile),
    )
    for name in ring.nodes:
        if name != "n1":
            ring.join(name, "n1")
    _until_whole(ring)
    ring.run((2.0 + chance.random()) * pace_s(cell.profile) ** 0.5)
    return ring, chance


def _until_whole(ring: Ring) -> None:
    if not ring.run_until(
        lambda: all(len(node.core.members.usable()) == len(ring.nodes) for node in ring.living()), within_s=300
    ):
        raise AssertionError("the ring never became whole")


def _incidents(times: Iterable[tuple[float, str]]) -> int:
    """Count deaths: all reports about one victim that follow each other closely are one."""
    last: dict[str, float] = {}
    count = 0
    for at, victim in sorted(times):
        count += at - last.get(victim, -math.inf) > _WRONG_WITHIN_S
        last[victim] = at
    return count


def _wrong(ring: Ring) -> dict[str, int]:
    return {
        "wrong_reports": len(ring.wrong_deaths),
        "wrong_deaths": _incidents((death.at, death.victim) for death in ring.wrong_deaths),
    }


def _crashes(cell: Cell, seed: int) -> dict[str, Any]:
    """Crash one member after another, each on its own; note when the first and the last survivor reported it."""
    ring, chance = _settled(cell, seed)
    pace = pace_s(cell.profile)
    first: list[float] = []
    everyone: list[float] = []
    for _ in range(int(chunk_size(cell))):
        victim = chance.choice(sorted(ring.nodes))
        for node in ring.nodes.values():
            node.log.clear()
        died_at = ring.kill(victim)
        survivors = ring.living()
        if not ring.run_until(lambda: _all_report(survivors, victim), within_s=600):  # noqa: B023  (used at once)
            raise AssertionError(f"the crash of {victim} never became known to all: {cell}, seed {seed}")
        times = [node.heard(Left, victim)[0] - died_at for node in survivors]
        first.append(round(min(times), 4))
        everyone.append(round(max(times), 4))
        ring.restart(victim)
        ring.join(victim, chance.choice([node.name for node in survivors]))
        for _ in range(100):
            ring.run(0.5 * pace)
            if all(len(node.core.members.usable()) == cell.n for node in ring.living()):
                break
            if len(ring[victim].core.members.usable()) == 1:
                ring.join(victim, chance.choice([node.name for node in survivors]))
        ring.run((8 + 3 * chance.random()) * pace)  # Until everybody is healthy again, and at any phase.
    return {"first": first, "all": everyone, **_wrong(ring)}


def _all_report(survivors: list[Node], victim: str) -> bool:
    return all(node.heard(Left, victim) for node in survivors)


def _steady(cell: Cell, seed: int) -> dict[str, Any]:
    """Let a ring be for a while under loss."""
    ring, _ = _settled(cell, seed)
    seconds = chunk_size(cell) * 3600 / cell.n
    packets, size = _sent(ring)
    suspicions = 0
    ring.wrong_deaths.clear()
    for node in ring.nodes.values():
        node.log.clear()
    for _ in range(math.ceil(seconds / 10)):
        ring.run(seconds / math.ceil(seconds / 10))
        for node in ring.nodes.values():
            suspicions += sum(isinstance(event, Suspected) and event.by == node.name for _, event in node.log)
            node.log.clear()
    after, size_after = _sent(ring)
    return {
        "node_hours": seconds * cell.n / 3600,
        "packets_per_s": round((after - packets) / seconds / cell.n, 3),
        "bytes_per_s": round((size_after - size) / seconds / cell.n, 1),
        "suspicions": suspicions,
        **_wrong(ring),
    }


def _sent(ring: Ring) -> tuple[int, int]:
    return sum(n.packets_sent for n in ring.nodes.values()), sum(n.bytes_sent for n in ring.nodes.values())


def _stalls(cell: Cell, seed: int) -> dict[str, Any]:
    """Stop each process for `stall_s` every minute on average; whoever is declared dead is brought back by joining."""
    ring, chance = _settled(cell, seed)
    ring.wrong_deaths.clear()
    stalls = 0
    while stalls < chunk_size(cell):
        ring.run(chance.expovariate(cell.n / STALL_EVERY_S))
        node = chance.choice(ring.living() or [ring["n1"]])
        if node.power is Power.ON:
            ring.stall(node.name, cell.stall_s)
            stalls += 1
        for other in ring.living():
            other.log.clear()
            if len(other.core.members.usable()) < cell.n:
                ring.join(other.name, chance.choice([name for name in ring.nodes if name != other.name]))
    return {"stalls": stalls, "pairs": stalls * (cell.n - 1), "node_hours": ring.now * cell.n / 3600, **_wrong(ring)}


# What is still to be done.

Lines: TypeAlias = Mapping[Cell, Sequence[Mapping[str, Any]]]


def done(lines: Iterable[Mapping[str, Any]], version: str | None) -> Lines:
    """Sort lines by cell; with a version, only the lines of that code. A seed counts once."""
    found: dict[Cell, dict[int, Mapping[str, Any]]] = {}
    for line in lines:
        if version is None or line["code"] == version:
            found.setdefault(Cell(**line["cell"]), {})[line["seed"]] = line
    return {cell: list(by_seed.values()) for cell, by_seed in found.items()}


def next_chunk(wanted: Iterable[Task], lines: Lines) -> tuple[Cell, int] | None:
    """Return the cell that is furthest behind among the most urgent ones, and its next seed; None when all is done."""
    open_tasks: list[tuple[int, float, int, Cell, Sequence[Mapping[str, Any]]]] = []
    for task in wanted:
        there = lines.get(task.cell, [])
        share = sum(line["amount"] for line in there) / task.target
        if share < 1:
            open_tasks.append((task.rank, share, len(open_tasks), task.cell, there))
    if not open_tasks:
        return None
    _, _, _, cell, there = min(open_tasks, key=lambda entry: entry[:3])
    used = {line["seed"] for line in there}
    return cell, next(seed for seed in range(len(used) + 1) if seed not in used)
