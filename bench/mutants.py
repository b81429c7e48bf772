"""Do the tests of the member table notice when its rules change? `python -m bench.mutants` changes them one by one.

Uses cosmic-ray, which is no dependency of this project: install it anywhere (`pip install cosmic-ray`) and say where with
--cosmic-ray. Works on a copy of the tree, so that nothing here changes. The survivors that are known, and why they live, are
in docs/reference/mutants.md. Takes about a quarter of an hour; --session FILE lets an interrupted run go on.

Left out: `is` for `==` and the like (no test could tell them apart for enum members and None), and `|` in type annotations.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
MODULES: Final = ("memberlist/members.py", "memberlist/suspicion.py")
TESTS: Final = (  # Those that fail soonest come first.
    "tests/unit/memberlist/test_member_edges.py",
    "tests/unit/memberlist/test_members.py",
    "tests/unit/memberlist/test_suspicion.py",
    "tests/unit/memberlist/test_upstream_state.py",
    "tests/unit/memberlist/test_upstream_timers.py",
    "tests/unit/memberlist/test_push_pull.py",
    "tests/unit/memberlist/test_judge.py",
)
_LEFT_OUT: Final = (
    "core/ReplaceBinaryOperator_BitOr_.*",
    "core/ReplaceComparisonOperator_Is_Eq",
    "core/ReplaceComparisonOperator_IsNot_NotEq",
    "core/ReplaceComparisonOperator_Eq_Is",
    "core/ReplaceComparisonOperator_NotEq_IsNot",
)
_CONFIG: Final = """[cosmic-ray]
module-path = {modules}
timeout = 60.0
excluded-modules = []
test-command = "{command}"
[cosmic-ray.distributor]
name = "local"
[cosmic-ray.filters.operators-filter]
exclude-operators = {left_out}
"""


def main(words: Sequence[str] | None = None) -> int:
    """Make the mutants, try each, print what became of them; the exit status says whether 85 % were killed."""
    parser = argparse.ArgumentParser(prog="python -m bench.mutants", description="Mutation check of the member table.")
    parser.add_argument("--cosmic-ray", type=Path, default=Path(sys.executable).with_name("cosmic-ray"), metavar="PATH")
    parser.add_argument("--module", action="append", choices=MODULES, help="only this one")
    parser.add_argument("--session", type=Path, help="where the state of the run is kept")
    asked = parser.parse_args(words)
    if not asked.cosmic_ray.exists():
        sys.stderr.write(f"{asked.cosmic_ray} is not there; pip install cosmic-ray, and say where with --cosmic-ray\n")
        return 2
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "tree"
        shutil.copytree(
            ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", ".lab", "__pycache__", ".*_cache", ".hypothesis")
        )
        (copy / ".venv").symlink_to(Path(sys.prefix))
        session = (asked.session or copy / "session.sqlite").absolute()
        config = copy / "mutants.toml"
        config.write_text(
            _CONFIG.format(
                modules=json.dumps(asked.module or MODULES),
                command=f"{sys.executable} -m pytest -x -q --timeout=50 {' '.join(TESTS)}",
                left_out=json.dumps(_LEFT_OUT),
            )
        )

        def run(program: str, *arguments: str) -> str:
            command = [str(asked.cosmic_ray.with_name(program)), *arguments]
            return subprocess.run(command, cwd=copy, check=True, capture_output=True, text=True).stdout

        if not session.exists():
            run("cosmic-ray", "init", str(config), str(session))
            run("cr-filter-operators", str(session), str(config))
        run("cosmic-ray", "baseline", str(config))
        run("cosmic-ray", "exec", str(config), str(session))
        return _report(run("cosmic-ray", "dump", str(session)))


def _report(dump: str) -> int:
    outcomes: Counter[str] = Counter()
    for line in dump.splitlines():
        item, result = json.loads(line)
        if result is None or result["worker_outcome"] == "skipped":
            continue
        outcome = result["test_outcome"] or result["worker_outcome"]
        outcomes[outcome] += 1
        if outcome == "survived":
            (mutation,) = item["mutations"]
            sys.stdout.write(f"survived: {mutation['operator_name']} {mutation['module_path']}:{mutation['start_pos'][0]}\n")
            changed = [row for row in (result["diff"] or "").splitlines() if row[:1] in "+-" and row[:3] not in {"+++", "---"}]
            sys.stdout.write("\n".join(changed) + "\n")
    tried = sum(outcomes.values())
    killed = tried - outcomes["survived"]
    sys.stdout.write(f"{tried} mutants, {killed} killed ({killed / max(1, tried):.1%}): {dict(outcomes)}\n")
    return 0 if tried and killed / tried >= 0.85 else 1


if __name__ == "__main__":
    sys.exit(main())
