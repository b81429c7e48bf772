"""Start programs in lab.container's surroundings and end them.

Used by lab.supervisor for the API server and by lab.kubelet for Pods. Everything started here dies with this process, even
when it is killed with SIGKILL. It refuses to restart anything: whoever starts a program decides what its end means.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from lab.container import Mount, Spec
from lab.namespaces import RUN_DIR

_CONTAINER: Final = str(Path(__file__).with_name("container.py"))
BASE_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Program:
    """What to run. `network` is the name of a network namespace (None: the host's), `scratch` an existing directory."""

    argv: tuple[str, ...]
    scratch: Path
    log: Path
    cwd: Path = Path("/")
    env: Mapping[str, str] = field(default_factory=dict)
    network: str | None = None
    mounts: Sequence[Mount] = ()
    capabilities: Sequence[str] | None = None
    user: int = 0
    groups: Sequence[int] = (0,)
    hide: Sequence[Path] = ()
    keep: Sequence[Path] = ()
    read_only: bool = False
    speaks: bool = False
    """The program's standard output is for this process (Running.line), not for the log."""


class Running:
    """A started program. `pid` is None until the program itself runs and after it has ended."""

    def __init__(self, process: asyncio.subprocess.Process, pid_file: Path) -> None:
        self._process = process
        self._pid_file = pid_file

    @property
    def alive(self) -> bool:
        """Whether the program has not ended yet."""
        return self._process.returncode is None

    @property
    def pid(self) -> int | None:
        """The program's own process id, as this process counts."""
        if not self.alive:
            return None
        with contextlib.suppress(FileNotFoundError, ValueError):
            return int(self._pid_file.read_text(encoding="utf-8"))
        return None

    async def line(self) -> bytes:
        """The next line of the program's standard output; nothing when it has ended. For programs that `speak`."""
        assert self._process.stdout is not None
        return await self._process.stdout.readline()

    async def wait(self) -> int:
        """The exit status, once it has ended; see lab.container."""
        return await self._process.wait()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the program; without effect when it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def kill(self) -> None:
        """End the program and all that it started, at once."""
        program = self.pid
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        if program is not None:  # It dies with its parent, unless it has changed its user since.
            with contextlib.suppress(ProcessLookupError):
                os.kill(program, signal.SIGKILL)

    async def stop(self, *, grace_s: float) -> int:
        """Ask it to end, and make it end when it has not after `grace_s`; returns the exit status."""
        self.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_s):
                return await self.wait()
        except TimeoutError:
            self.kill()
            return await self.wait()


async def start(program: Program) -> Running:
    """Start a program; what it prints is appended to its log.

    Raises:
        OSError: the log or the description could not be written, or no process could be made.

    """
    pid_file = program.scratch / "pid"
    pid_file.unlink(missing_ok=True)
    spec = Spec(
        argv=list(program.argv),
        env={"PATH": BASE_PATH, **program.env},
        cwd=str(program.cwd),
        network=str(RUN_DIR / program.network) if program.network is not None else None,
        mounts=list(program.mounts),
        scratch=str(program.scratch),
        capabilities=list(program.capabilities) if program.capabilities is not None else None,
        user=program.user,
        groups=list(program.groups),
        hide=[str(path) for path in program.hide],
        keep=[str(path) for path in program.keep],
        read_only=program.read_only,
        pid_file=str(pid_file),
    )
    spec_file = program.scratch / "container.json"
    spec_file.write_bytes(msgspec.json.encode(spec))
    spec_file.chmod(0o600)
    with program.log.open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            _CONTAINER,
            str(spec_file),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE if program.speaks else log,
            stderr=log,
            start_new_session=True,
        )
    return Running(process, pid_file)


def signal_all(programs: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to programs (Running.pid) and to all that they started: whatever shares their process namespaces."""
    spaces = {_space(Path(f"/proc/{program}")) for program in programs} - {None}
    known: set[Path] = set()
    while True:  # What a process started before it got the signal is found in the next round.
        fresh = {each for each in Path("/proc").glob("[0-9]*") if each not in known and _space(each) in spaces}
        if not fresh:
            return
        known |= fresh
        for process in fresh:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process.name), number)


def _space(process: Path) -> Path | None:
    """The process namespace of a process; None when it has ended."""
    try:
        return (process / "ns" / "pid").readlink()
    except OSError:
        return None


async def run_beside(running: Running, program: Program, command: Sequence[str]) -> int:
    """Run a command inside a started program's surroundings, as its user and with its capabilities; returns the status.

    Raises:
        OSError: the program does not run.

    """
    if (pid := running.pid) is None:
        raise ProcessLookupError("the program has ended")
    bounds = "-all" if program.capabilities is not None else "+all"
    keep = [f"+{name.lower()}" for name in program.capabilities or ()]
    others = ["--groups", ",".join(map(str, program.groups[1:]))] if program.groups[1:] else ["--clear-groups"]
    words = [
        *("nsenter", "--target", str(pid), "--mount", "--net", "--pid", "--"),
        *("setpriv", "--no-new-privs", "--bounding-set", ",".join((bounds, *keep))),
        *("--reuid", str(program.user), "--regid", str(program.groups[0]), *others, "--", *command),
    ]
    quiet = asyncio.subprocess.DEVNULL
    child = await asyncio.create_subprocess_exec(
        *words, env={"PATH": BASE_PATH, **program.env}, cwd="/", stdin=quiet, stdout=quiet, stderr=quiet
    )
    try:
        return await child.wait()
    finally:
        if child.returncode is None:
            _end_children(child.pid)


def _end_children(parent: int) -> None:
    """Kill the children of a process, which stays to wait for them: unwaited for they would keep their container from ending."""
    with contextlib.suppress(OSError):
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii")
        for child in children.split():
            os.kill(int(child), signal.SIGKILL)
