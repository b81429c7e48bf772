"""Pages of docs/ whose console blocks are run as a reader would type them: one shell, in order, each answer as promised."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
MARK = "----8<----"
COMMAND_LIMIT_S = 60
STATUS = re.compile(r"  # status (\d+)$")
NEWER = re.compile(r"^## .*kubectl 1\.(\d+) or newer", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Step:
    """A command, and the text that the page promises; `...` stands for anything."""

    command: str
    promised: str
    since: int = 0
    """kubectl's minor version that brought the command."""

    @property
    def status(self) -> str:
        """The exit status the page promises: 0, unless a comment says another."""
        found = STATUS.search(self.command)
        return found[1] if found else "0"

    def kept_by(self, printed: str) -> bool:
        pattern = ".*".join(re.escape(part.strip()) for part in self.promised.split("..."))
        return re.search(rf"\A\s*{pattern}\s*\Z", printed, re.DOTALL) is not None


def steps(page: str) -> list[Step]:
    """The commands of a page, in order."""
    found = []
    for section in re.split(r"^(?=## )", page, flags=re.MULTILINE):
        newer = NEWER.match(section)
        for block in re.findall(r"^```console\n(.*?)^```", section, re.DOTALL | re.MULTILINE):
            for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
                command, _, promised = part.partition("\n")
                found.append(Step(command, promised.strip(), int(newer[1]) if newer else 0))
    return found


def run(todo: Sequence[Step], home: Path, *, limit_s: float) -> None:
    """Run the steps with a lab and a home directory below `home`, and hold every answer against its promise."""
    limited = f'kubectl() {{ timeout {COMMAND_LIMIT_S} env kubectl "$@"; }}\n'
    script = limited + "\n".join(f"{step.command}\nprintf '\\n{MARK}%s\\n' $?" for step in todo)
    own = {"METALLB_LAB": str(home / "lab"), "HOME": str(home), "PYTHONUNBUFFERED": "1"}
    environment = dict(os.environ) | own
    try:
        done = subprocess.run(
            ["bash"], input=script, cwd=ROOT, env=environment, text=True, check=False, timeout=limit_s,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    finally:
        subprocess.run([sys.executable, "-m", "lab", "down"], cwd=ROOT, env=environment, check=False)
    printed = re.split(rf"^{MARK}(\d+)\n", done.stdout, flags=re.MULTILINE)
    answers = list(zip(printed[0::2], printed[1::2], strict=False))
    for step, (text, status) in zip(todo, answers, strict=True):
        assert status == step.status, f"$ {step.command}\nstatus {status}\n{text}"
        assert step.kept_by(text), f"$ {step.command}\npromised: {step.promised}\nprinted: {text}"
