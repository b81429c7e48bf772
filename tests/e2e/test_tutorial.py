"""The tutorial's commands, run as a reader would type them, in one shell, in order."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tutorial" / "first-address.md"
MARK = "----8<----"


@dataclass(frozen=True, slots=True)
class Step:
    """A command, and the text that the page promises; `...` stands for anything."""

    command: str
    promised: str

    def kept_by(self, printed: str) -> bool:
        pattern = ".*".join(re.escape(part.strip()) for part in self.promised.split("..."))
        return re.search(rf"\A\s*{pattern}\s*\Z", printed, re.DOTALL) is not None


def steps(page: str) -> list[Step]:
    found = []
    for block in re.findall(r"^```console\n(.*?)^```", page, re.DOTALL | re.MULTILINE):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, promised = part.partition("\n")
            found.append(Step(command, promised.strip()))
    return found


def test_a_promise_that_is_not_kept_is_noticed() -> None:
    assert Step("x", "...b... d").kept_by("a b c d")
    assert not Step("x", "...b... d").kept_by("a c d")
    assert not Step("x", "a").kept_by("a b")


@pytest.mark.timeout(300)
def test_the_tutorial_prints_what_it_promises(tmp_path: Path) -> None:
    todo = steps(PAGE.read_text())
    assert len(todo) > 12
    script = "\n".join(f"{step.command}\nprintf '\\n{MARK}%s\\n' $?" for step in todo)
    environment = dict(os.environ) | {"METALLB_LAB": str(tmp_path / "lab"), "PYTHONUNBUFFERED": "1"}
    try:
        run = subprocess.run(
            ["bash"], input=script, cwd=ROOT, env=environment, text=True, check=False, timeout=280,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    finally:
        subprocess.run([sys.executable, "-m", "lab", "down"], cwd=ROOT, env=environment, check=False)
    printed = re.split(rf"^{MARK}(\d+)\n", run.stdout, flags=re.MULTILINE)
    answers = list(zip(printed[0::2], printed[1::2], strict=False))
    for step, (text, status) in zip(todo, answers, strict=True):
        assert status == "0", f"$ {step.command}\n{text}"
        assert step.kept_by(text), f"$ {step.command}\npromised: {step.promised}\nprinted: {text}"
