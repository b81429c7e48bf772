"""One lab for all end-to-end tests of a session, brought up as a user would and always taken away again."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab import lifecycle, netns
from lab.leftovers import what_is_left
from lab.paths import Paths
from lab.topology import Topology
from lab.user import User

ROOT = Path(__file__).parents[2]
COMMAND_LIMIT_S = 120.0


@dataclass(frozen=True, slots=True)
class Lab:
    """A lab and the commands a user gives."""

    paths: Paths

    def command(self, *words: str, status: int = 0) -> str:
        """What `python -m lab WORDS` prints; it must end with this status."""
        done = subprocess.run(
            [sys.executable, "-m", "lab", "--state", str(self.paths.root), *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_LIMIT_S,
        )
        assert done.returncode == status, f"lab {' '.join(words)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.command("status", "-o", "json"))
        return found

    @property
    def topology(self) -> Topology:
        return lifecycle.running_topology(self.paths)

    @property
    def user(self) -> User:
        return User(self.paths.kubeconfig)

    def run_on(self, machine: str, *words: str) -> subprocess.CompletedProcess[str]:
        """A command on a machine of the lab."""
        return subprocess.run(
            netns.enter(self.topology.netns(machine), words),
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_LIMIT_S,
        )

    def pids(self, name: str) -> dict[str, int]:
        """The process of every Pod whose name starts so, by Pod name, as the host counts."""
        return {
            pod["name"]: pid for pod in self.status()["pods"] if pod["name"].startswith(name) for pid in pod["pids"].values()
        }


def a_lab(name: str) -> Lab:
    """A lab below this clone's own lab directory, so that it is ignored by git and removed by make clean."""
    return Lab(Paths(ROOT / ".lab" / "tests" / name))


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """The session's lab: three nodes, up."""
    made = a_lab("session")
    made.command("down")
    made.command("up")
    try:
        yield made
    finally:
        made.command("down")
        assert what_is_left(made.paths) == []
