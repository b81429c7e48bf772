"""Whatever kills or breaks a lab while it is set up, nothing of it is left: no namespace, process, mount, nft table or file.

The failures are injected by tests.e2e.dying at actions spread over the whole set-up; METALLB_LONG_TESTS=1 tries every action.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import control, netns
from lab.faults import Delay, Freeze, Loss, OneWay
from lab.leftovers import what_is_left
from lab.topology import lab_id
from tests.e2e.conftest import ROOT, Lab, a_lab

pytestmark = [pytest.mark.needs("root", "nft"), pytest.mark.timeout(1800 if os.environ.get("METALLB_LONG_TESTS") else 180)]

POINTS = {"kill": 20, "fail": 10}
LIMIT_S = 30.0


@pytest.fixture
def doomed() -> Iterator[Lab]:
    made = a_lab("doomed")
    made.command("down")
    try:
        yield made
    finally:
        made.command("down")


def begin(lab: Lab, how: str, number: int) -> subprocess.Popen[str]:
    """The guardian of a lab that meets a failure at an action."""
    lab.paths.logs.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-m", "tests.e2e.dying", how, str(number), str(lab.paths.root)]
    trace = lab.paths.supervisor_log.open("w", encoding="utf-8")
    with trace:
        return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=trace, text=True, start_new_session=True)


def actions(lab: Lab) -> list[str]:
    return re.findall(r"^action \d+: .*", lab.paths.supervisor_log.read_text(encoding="utf-8"), re.MULTILINE)


def set_up_actions(lab: Lab) -> int:
    """How many actions a set-up without failure takes."""
    process = begin(lab, "fail", 0)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        count = len(actions(lab))
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 0
    assert what_is_left(lab.paths) == []
    return count


def points(total: int, wanted: int) -> list[int]:
    """So many actions, spread evenly, the first and the last among them; all of them in the long form."""
    if os.environ.get("METALLB_LONG_TESTS"):
        return list(range(1, total + 1))
    return sorted({1 + round(index * (total - 1) / (wanted - 1)) for index in range(wanted)})


def outside() -> set[str]:
    """What a lab could leave on the host: mounts, and tables of its packet filter. Namespaces are known by the lab's name."""
    mounts = {line.split()[1] for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()}
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout.splitlines()
    return {each for each in mounts if not each.startswith("/run/netns")} | set(tables)


def left(lab: Lab) -> list[str]:
    """What is there of the lab, its logs and its lock apart, once it has had time to go."""
    deadline = time.monotonic() + LIMIT_S
    while found := [*what_is_left(lab.paths), *(f"file {path}" for path in unknown(lab))]:
        if time.monotonic() > deadline:
            return found
        time.sleep(0.02)
    return []


def unknown(lab: Lab) -> list[Path]:
    """Files in the state directory that nobody said would stay."""
    return [path for path in lab.paths.root.iterdir() if path.name not in {"logs", "lock"}]


@pytest.mark.parametrize("how", ["kill", "fail"])
def test_a_failure_at_any_action_of_the_set_up_leaves_nothing(doomed: Lab, how: str) -> None:
    """Killed with SIGKILL, or an action that fails: the lab ends, and is gone without anybody asking for it."""
    total = set_up_actions(doomed)
    assert total > 2 * POINTS[how]
    before = outside()
    for number in points(total, POINTS[how]):
        process = begin(doomed, how, number)
        with process:
            assert process.stdout is not None
            said = process.stdout.readline()
            # What comes in a changing order may have been fewer actions this time: then this lab is up, and ends as others do.
            if said == "ready\n":
                process.send_signal(signal.SIGTERM)
        seen = actions(doomed)
        what = f"{how} at {seen[number - 1] if number <= len(seen) else 'no action'}"
        assert left(doomed) == [], what
        assert outside() == before, what
        if said != "ready\n":
            assert process.returncode == (137 if how == "kill" else 1), what


def test_a_lab_killed_with_faults_in_force_leaves_nothing(doomed: Lab) -> None:
    process = begin(doomed, "fail", 0)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for fault in (Delay(10), Loss(5), OneWay("n1", "client"), Freeze("n1")):
            control.ask(doomed.paths, "inject", fault=fault)
        state = doomed.paths.read_state()
        assert state is not None
        os.kill(state.pid, signal.SIGKILL)
    assert left(doomed) == []


def test_a_killed_guardian_ends_the_lab(doomed: Lab) -> None:
    process = begin(doomed, "fail", 0)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.kill()
    assert left(doomed) == []


def test_down_clears_what_is_left_when_everything_was_killed_at_once(doomed: Lab) -> None:
    total = set_up_actions(doomed)
    process = begin(doomed, "fail", 0)
    with process:
        deadline = time.monotonic() + LIMIT_S
        while len(actions(doomed)) < total // 2:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
    assert netns.existing(lab_id(doomed.paths.root))
    doomed.command("down")
    assert left(doomed) == []


def test_an_up_that_is_killed_leaves_a_lab_that_down_takes_away(doomed: Lab) -> None:
    """`up` is only a messenger: the lab it started goes on, or was never begun."""
    for seen in ("lock", "state.json"):
        words = [sys.executable, "-m", "lab", "--state", str(doomed.paths.root), "up", "--nodes", "1"]
        with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + LIMIT_S
            while not (doomed.paths.root / seen).exists():
                assert time.monotonic() < deadline
                time.sleep(0.002)
            process.kill()
        doomed.command("down")
        assert left(doomed) == []
