"""Does BFD stay up while the machine is busy, and what does it cost? `python -m bench.bfd`.

Two BFD processes in two network namespaces with a cable between them and ten sessions of 100 ms times 3; first on their own,
then beside as many busy loops as there are cores. Counts sessions that went down although nothing was wrong, on both sides.
Needs root. The long form is `--minutes 2`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
_READY_S: Final = 30.0
_TICKS: Final = os.sysconf("SC_CLK_TCK")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextmanager
def _cable(sessions: int) -> Iterator[tuple[str, str]]:
    names = (f"bfdbench{os.getpid()}a", f"bfdbench{os.getpid()}b")
    made: list[str] = []
    try:
        for name in names:
            _ip("netns", "add", name)
            made.append(name)
        _ip("link", "add", "port", "netns", names[0], "type", "veth", "peer", "name", "port", "netns", names[1])
        for side, name in enumerate(names):
            for number in range(sessions):
                _ip("-n", name, "addr", "add", f"{_address(side, number)}/24", "dev", "port")
            _ip("-n", name, "link", "set", "port", "up")
        yield names
    finally:
        for name in made:
            _ip("netns", "del", name)


def _address(side: int, number: int) -> str:
    return f"192.0.2.{100 * side + 10 + number}"


@dataclass
class Side:
    """One BFD process."""

    process: subprocess.Popen[bytes]

    def say(self, **order: Any) -> None:
        """Give an order."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        self.process.stdin.flush()

    def status(self) -> dict[str, Any]:
        """Return what it answers when it is asked."""
        assert self.process.stdout is not None
        self.say(say="ask")
        for line in self.process.stdout:
            news: dict[str, Any] = json.loads(line)
            if news["say"] == "status":
                return news
        raise RuntimeError("the BFD process ended")

    def cpu_s(self) -> float:
        """Return the processor time it has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS


@contextmanager
def _side(namespace: str) -> Iterator[Side]:
    process = subprocess.Popen(
        ["ip", "netns", "exec", namespace, sys.executable, "-m", "speaker.bfd"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        yield Side(process)
        assert process.stdin is not None
        process.stdin.close()
        process.wait(10)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@contextmanager
def _busy(loops: int) -> Iterator[None]:
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    try:
        yield
    finally:
        for loop in running:
            loop.kill()
            loop.wait()


def _up(side: Side) -> int:
    return sum(session["state"] == "up" for session in side.status()["sessions"])


def _measure(sides: Sequence[Side], seconds: float) -> dict[str, Any]:
    before = [side.status() for side in sides]
    cpu, started = sides[0].cpu_s(), time.monotonic()
    time.sleep(seconds)
    share = (sides[0].cpu_s() - cpu) / (time.monotonic() - started)
    after = [side.status() for side in sides]
    return {
        "seconds": round(seconds, 1),
        "false_downs": sum(
            now["downs"] - then["downs"]
            for side, was in zip(after, before, strict=True)
            for now, then in zip(side["sessions"], was["sessions"], strict=True)
        ),
        "longest_gap_ms": max(session["longest_gap_ms"] for side in after for session in side["sessions"]),
        "cpu_percent_of_a_core": round(100 * share, 2),
        "load": round(os.getloadavg()[0], 1),
    }


def main(words: Sequence[str] | None = None) -> int:
    """Measure; print one JSON object; the exit status says whether no session went down."""
    made = argparse.ArgumentParser(prog="python -m bench.bfd", description=__doc__)
    made.add_argument("--minutes", type=float, default=0.25, help="beside busy loops")
    made.add_argument("--sessions", type=int, default=10)
    made.add_argument("--interval-ms", type=int, default=100)
    asked = made.parse_args(words)
    with ExitStack() as stack:
        namespaces = stack.enter_context(_cable(asked.sessions))
        sides = [stack.enter_context(_side(namespace)) for namespace in namespaces]
        for here, side in enumerate(sides):
            timers = {"transmit_interval_ms": asked.interval_ms, "receive_interval_ms": asked.interval_ms}
            wanted = [
                {"peer": _address(1 - here, number), "local": _address(here, number), **timers}
                for number in range(asked.sessions)
            ]
            side.say(say="sessions", sessions=wanted)
        deadline = time.monotonic() + _READY_S
        while any(_up(side) < asked.sessions for side in sides):
            if time.monotonic() > deadline:
                raise RuntimeError(f"not all sessions came up: {[side.status() for side in sides]}")
            time.sleep(0.1)
        found = {"sessions": asked.sessions, "interval_ms": asked.interval_ms, "quiet": _measure(sides, 10.0)}
        cores = len(os.sched_getaffinity(0))
        with _busy(cores):
            found[f"beside_{cores}_busy_loops"] = _measure(sides, 60 * asked.minutes)
    sys.stdout.write(json.dumps({"bfd": found}) + "\n")
    return 1 if any(part["false_downs"] for part in found.values() if isinstance(part, dict)) else 0


if __name__ == "__main__":
    sys.exit(main())
