"""A ring of real member processes, each in a network namespace of its own, whose cables can be pulled.

Used by bench/memberlist.py for the long runs and by tests/e2e/test_cables.py for the short one. Everything it makes carries
a prefix of its own and is taken away again. Needs root. Refuses to know how long anything may take: it only measures.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, Self

ROOT: Final = Path(__file__).parents[1]
_WAIT_S: Final = 60.0
_LOOK_EVERY_S: Final = 0.02
_BRIDGE: Final = "br0"


class NotSeenError(AssertionError):
    """Something that should have come about did not, in a time that is long enough for any machine."""


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@dataclass
class Machine:
    """A namespace with one member."""

    name: str
    namespace: str
    address: str
    log: Path
    process: subprocess.Popen[bytes] | None = None
    _read: int = 0
    _lines: list[dict[str, Any]] = field(default_factory=list)

    def lines(self) -> list[dict[str, Any]]:
        """Return all that the member said so far."""
        with self.log.open("rb") as log:
            log.seek(self._read)
            text = log.read()
        whole = text.rfind(b"\n") + 1
        self._read += whole
        self._lines += [json.loads(line) for line in text[:whole].splitlines()]
        return self._lines

    def told(self, event: str, name: str, since: float) -> list[float]:
        """Return the times since then at which the member reported such an event about another."""
        return [
            line["at"] for line in self.lines() if line["event"] == event and line.get("name") == name and line["at"] >= since
        ]


class Cables:
    """Machines m1..mN on one switch, each running `python -m memberlist join` under a profile."""

    def __init__(self, count: int, folder: Path, *, profile: str, secret: bytes | None = b"a secret of the ring") -> None:
        self._prefix = f"mlc{os.getpid()}"
        self._profile = profile
        self._folder = folder
        self._key_file = folder / "secret" if secret is not None else None
        if self._key_file is not None and secret is not None:
            self._key_file.write_bytes(secret)
        self._switch = f"{self._prefix}-sw"
        self.machines = [
            Machine(f"m{n}", f"{self._prefix}-m{n}", f"10.99.0.{n}", folder / f"m{n}.json") for n in range(1, count + 1)
        ]
        self._files: list[IO[bytes]] = []

    def __enter__(self) -> Self:
        try:
            self._build()
            for machine in self.machines:
                self.start(machine)
            self.until(self.whole, "all members see each other")
        except BaseException:
            self._tear_down()
            raise
        return self

    def __exit__(self, *failure: object) -> None:
        self._tear_down()

    def _build(self) -> None:
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", _BRIDGE, "type", "bridge")
        _ip("-n", self._switch, "link", "set", _BRIDGE, "up")
        for machine in self.machines:
            _ip("netns", "add", machine.namespace)
            _ip("-n", self._switch, "link", "add", machine.name, "type", "veth", "peer", "eth0", "netns", machine.namespace)
            _ip("-n", self._switch, "link", "set", machine.name, "master", _BRIDGE, "up")
            _ip("-n", machine.namespace, "address", "add", f"{machine.address}/24", "dev", "eth0")
            _ip("-n", machine.namespace, "link", "set", "eth0", "up")
            _ip("-n", machine.namespace, "link", "set", "lo", "up")

    def _tear_down(self) -> None:
        for machine in self.machines:
            self.kill(machine)
        for file in self._files:
            file.close()
        for namespace in (self._switch, *(machine.namespace for machine in self.machines)):
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("netns", "delete", namespace)

    # What is done to a machine.

    def start(self, machine: Machine) -> None:
        """Start a member; it asks all others."""
        words = ["--bind", machine.address, "--name", machine.name, "--profile", self._profile, "-o", "json"]
        if self._key_file is not None:
            words += ["--key-file", str(self._key_file)]
        if machine is not self.machines[0] or self._running():
            words += [word for other in self.machines if other is not machine for word in ("--seed", other.address)]
        output = machine.log.open("ab")
        self._files.append(output)
        command = ["ip", "netns", "exec", machine.namespace, sys.executable, "-m", "memberlist", "join", *words]
        machine.process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
        if machine is self.machines[0]:
            self.until(lambda: any(line["event"] == "listening" for line in machine.lines()), "the first member listens")

    def _running(self) -> bool:
        return any(machine.process is not None for machine in self.machines)

    def kill(self, machine: Machine) -> None:
        """End a member without a word."""
        if machine.process is not None:
            machine.process.kill()
            machine.process.wait()
            machine.process = None

    def pull(self, machine: Machine) -> float:
        """Pull a machine's cable; return the time just before."""
        at = time.time()
        _ip("-n", self._switch, "link", "set", machine.name, "down")
        return at

    def plug(self, machine: Machine) -> None:
        """Plug a machine's cable in."""
        _ip("-n", self._switch, "link", "set", machine.name, "up")

    # What is seen.

    def others(self, machine: Machine) -> list[Machine]:
        """Return all machines but one."""
        return [other for other in self.machines if other is not machine]

    def until(self, holds: Callable[[], object], what: str) -> None:
        """Wait until something holds."""
        end = time.monotonic() + _WAIT_S
        while not holds():
            if time.monotonic() > end:
                logs = "\n".join(f"{m.name}: {m.lines()[-5:]}" for m in self.machines)
                raise NotSeenError(f"not within {_WAIT_S:g} s: {what}\n{logs}")
            time.sleep(_LOOK_EVERY_S)

    def seen_by(self, machine: Machine) -> set[str]:
        """Return whom a member holds for alive, by what it said since it last started."""
        present: set[str] = set()
        for line in machine.lines():
            match line["event"]:
                case "listening":
                    present = set()
                case "joined":
                    present.add(line["name"])
                case "left":
                    present.discard(line.get("name", ""))
                case _:
                    pass
        return present

    def whole(self) -> bool:
        """Return whether every member sees all others."""
        names = {machine.name for machine in self.machines}
        return all(self.seen_by(machine) == names - {machine.name} for machine in self.machines)

    def losses(self, since: float) -> list[tuple[str, str]]:
        """Return (observer, victim) of every loss that was reported since then."""
        return [
            (machine.name, line["name"])
            for machine in self.machines
            for line in machine.lines()
            if line["event"] == "left" and "name" in line and line["at"] >= since
        ]

    def crash(self, machine: Machine) -> dict[str, float]:
        """Pull a cable until all others report the loss; return after how many seconds each did. Then make all whole."""
        at = self.pull(machine)
        others = self.others(machine)
        self.until(lambda: all(other.told("left", machine.name, at) for other in others), f"all others miss {machine.name}")
        times = {other.name: other.told("left", machine.name, at)[0] - at for other in others}
        wrong = [(observer, victim) for observer, victim in self.losses(at) if machine.name not in {observer, victim}]
        if wrong:
            raise AssertionError(f"{machine.name} lost its cable, and {wrong} were reported lost as well")
        self.kill(machine)
        self.plug(machine)
        self.start(machine)
        self.until(self.whole, f"all see {machine.name} again")
        return times
