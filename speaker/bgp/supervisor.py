"""Runs ExaBGP: starts it without privileges, keeps its file, its pipes and its life in order, and feeds the sessions machine.

One task of the speaker. It writes the configuration by atomic rename, asks for a reload, and believes that it happened only
when ExaBGP shows the new generation; it reads everything ExaBGP says at once, because a full pipe would stop the sessions;
and it starts ExaBGP again, later and later, when it ends or no longer answers. Passwords are in the file (mode 0600) and
nowhere else: what ExaBGP shows of its configuration is never logged. It decides nothing about routes.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import os
import shutil
import socket
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, Protocol

from speaker.bgp import exabgp_api as api
from speaker.bgp import exabgp_config, exabgp_relay
from speaker.bgp.model import Neighbor, NeighborKey, Prefix
from speaker.bgp.sessions import Command, Effect, Refused, Routes, SessionDown, Sessions, SessionUp

NOBODY: Final = 65534
READY_LIMIT_S: Final = 15.0
BACKOFF_S: Final = (0.2, 0.5, 1.0, 2.0, 5.0)
STABLE_S: Final = 30.0
"""A process that ran so long is started again without delay."""
PING_EVERY_S: Final = 10.0
PING_LIMIT_S: Final = 5.0
RELOAD_AGAIN_S: Final = 0.03
RELOAD_LIMIT_S: Final = 5.0
_libc: Final = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG: Final = 1
_PR_GET_PDEATHSIG: Final = 2
_PIPE_BYTES: Final = 1024 * 1024
_ENVIRONMENT: Final = {
    "exabgp_api_cli": "false",
    "exabgp_api_terminate": "true",
    "exabgp_daemon_user": "root",  # No change of user by ExaBGP itself: setpriv has done it.
    "exabgp_log_destination": "stderr",
    "exabgp_log_level": "ERROR",
    "exabgp_reactor_speed": "5",
}


class Log(Protocol):
    """What the supervisor needs of a logger."""

    def info(self, event: str, /, **facts: object) -> object:
        """Log what happened."""
        ...

    def warning(self, event: str, /, **facts: object) -> object:
        """Log what should not have happened."""
        ...


class LostError(Exception):
    """This ExaBGP is of no more use; the text says why."""


class Supervisor:
    """want() says what is to be done; run() does it for ever."""

    def __init__(self, folder: Path, log: Log, *, on_change: Callable[[], None], user: int | None = NOBODY) -> None:
        """`folder` is on a tmpfs and this speaker's own; `user` None keeps the user this process runs as."""
        self._folder = folder
        self._log = log
        self._on_change = on_change
        self._user = user if os.geteuid() == 0 else None
        self.sessions = Sessions()
        self.restarts = 0
        self._wanted: tuple[Neighbor, ...] = ()
        self._applied: tuple[Neighbor, ...] | None = None
        self._generation = 0
        self._wake = asyncio.Event()
        self._writer: asyncio.StreamWriter | None = None
        self._idle = asyncio.Event()
        self._lines_heard = 0
        self._answer: list[str] | None = None
        self._answered = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None

    def want(
        self, neighbors: Iterable[Neighbor], routes: Mapping[NeighborKey, Routes], touched: Collection[Prefix] | None = None
    ) -> None:
        """Make these the neighbors and routes; ExaBGP is told as soon as it can be. `touched` is as for Sessions.want().

        The neighbors are some that exabgp_config.check() has let pass: one bad one would lose all.
        """
        self._wanted = tuple(neighbors)
        self._carry_out(self.sessions.want(self._wanted, routes, touched))
        self._wake.set()

    async def run(self) -> None:
        """Keep an ExaBGP running; returns only by cancellation, and takes ExaBGP along."""
        loop = asyncio.get_running_loop()
        attempt = 0
        while True:
            started = loop.time()
            try:
                await self._live()
            except LostError as lost:
                reason = str(lost)
            self._carry_out(self.sessions.stopped(reason))
            self._on_change()
            attempt = 0 if loop.time() - started > STABLE_S else attempt + 1
            delay_s = BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)]
            self.restarts += 1
            self._log.warning("ExaBGP is started again", reason=reason, delay_s=delay_s)
            await asyncio.sleep(delay_s)

    # One life of ExaBGP.

    async def _live(self) -> None:
        """Start ExaBGP and serve it until it is lost; always raises LostError, or is cancelled."""
        self._applied = self._wanted
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as listening:
            with self._as_child():
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                path = self._folder / "relay.sock"
                path.unlink(missing_ok=True)
                listening.bind(str(path))
                path.chmod(0o600)
            listening.listen(1)
            self._write_config(self._applied)
            process = await asyncio.create_subprocess_exec(
                *self._command(), env=os.environ | _ENVIRONMENT, stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE, cwd="/",
            )  # fmt: skip
            try:
                await self._serve(process, listening)
            finally:
                self._writer = None
                if process.returncode is None:
                    with self._as_child():
                        process.kill()
                await process.wait()

    async def _serve(self, process: asyncio.subprocess.Process, listening: socket.socket) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._watch(process), name="exabgp: exit")
                relay, reader, writer = await self._connect(listening)
                try:
                    self._writer = writer
                    self.sessions.started()
                    self._idle.set()
                    group.create_task(_until_closed(relay), name="exabgp: helper")
                    group.create_task(self._read(reader), name="exabgp: lines")
                    group.create_task(self._ping(), name="exabgp: liveness")
                    await self._follow()
                finally:
                    relay.close()
                    writer.close()
        except* LostError as lost:
            raise LostError(str(lost.exceptions[0])) from None

    def _command(self) -> list[str]:
        command = [sys.executable, "-m", "exabgp", "server", str(self._folder / "exabgp.conf")]
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            raise LostError("setpriv is missing (package util-linux); ExaBGP is not run with more privileges than it needs")
        drop = ["--no-new-privs", "--pdeathsig", "KILL"]
        if os.geteuid() == 0:
            drop += ["--clear-groups", "--bounding-set", "-all"]
        if self._user is not None:
            drop += ["--reuid", str(self._user), "--regid", str(self._user)]
        return [setpriv, *drop, "--", *command]

    @contextlib.contextmanager
    def _as_child(self) -> Iterator[None]:
        """Act as the user that ExaBGP runs as: root without capabilities may neither give files away nor kill others' processes."""
        if self._user is None:
            yield
            return
        before, dies_with_parent = os.getegid(), _death_signal()
        os.setegid(self._user)
        os.seteuid(self._user)
        try:
            yield
        finally:
            os.seteuid(0)
            os.setegid(before)
            _libc.prctl(_PR_SET_PDEATHSIG, dies_with_parent)  # The kernel forgets it with every change of the user.

    def _write_config(self, neighbors: tuple[Neighbor, ...]) -> None:
        self._generation += 1
        run = f"{Path(sys.executable).resolve()} -SE {exabgp_relay.__file__} {self._folder / 'relay.sock'}"
        text = exabgp_config.render(neighbors, run=run, generation=self._generation)
        new = self._folder / "exabgp.conf.new"
        with self._as_child():
            new.unlink(missing_ok=True)
            with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(text)
            new.replace(self._folder / "exabgp.conf")

    async def _connect(self, listening: socket.socket) -> tuple[socket.socket, asyncio.StreamReader, asyncio.StreamWriter]:
        """Wait for the helper, which brings the ends of ExaBGP's pipes."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(READY_LIMIT_S):
                relay, _ = await loop.sock_accept(listening)
                await _readable(relay)
        except TimeoutError:
            raise LostError(f"its helper did not come within {READY_LIMIT_S:g} s") from None
        _, descriptors, _, _ = socket.recv_fds(relay, 1, 2)
        if len(descriptors) != 2:
            raise LostError("its helper brought no pipes")
        ours_in, ours_out = (os.fdopen(one, mode, buffering=0) for one, mode in zip(descriptors, ("rb", "wb"), strict=True))
        with contextlib.suppress(OSError):  # More than a user may have: the default size does as well, with less reserve.
            fcntl.fcntl(ours_in, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        reader = asyncio.StreamReader(limit=api.LINE_MAX)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), ours_in)
        transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, ours_out)
        return relay, reader, asyncio.StreamWriter(transport, protocol, None, loop)

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Wait for the end of the process; its last words are the reason."""
        assert process.stderr is not None
        last = ""
        async for line in process.stderr:
            last = line.decode(errors="replace").strip() or last
        raise LostError(f"it ended with status {await process.wait()}" + (f": {last}" if last else ""))

    # Listening.

    async def _read(self, reader: asyncio.StreamReader) -> None:
        now = asyncio.get_running_loop().time
        while True:
            try:
                line = await reader.readline()
            except ValueError:
                raise LostError(f"it said a line of more than {api.LINE_MAX} bytes") from None
            if not line:
                raise LostError("it closed its pipes")
            self._lines_heard += 1
            heard = api.decode(line.decode(errors="replace").rstrip("\n"))
            if self._answer is not None and isinstance(heard, api.Text):
                self._answer.append(heard.line)
            elif self._answer is not None and isinstance(heard, api.Ack):
                self._answered.set()
            elif isinstance(heard, api.Unreadable):
                raise LostError(f"it said what cannot be read: {heard.problem}")
            else:
                self._carry_out(self.sessions.heard(heard, now()))
                if not isinstance(heard, api.Ack | api.Text):
                    self._on_change()

    # Speaking.

    def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Command(line=line):
                    if self._writer is not None:
                        self._writer.write(line.encode("ascii") + b"\n")
                case SessionUp(neighbor=neighbor):
                    self._log.info("BGP session established", peer=neighbor.name, address=str(neighbor.peer))
                case SessionDown(neighbor=neighbor, reason=reason):
                    self._log.warning("BGP session lost", peer=neighbor.name, address=str(neighbor.peer), reason=reason)
                case Refused(neighbor=neighbor, prefixes=prefixes):
                    self._log.warning("ExaBGP refuses routes", peer=neighbor.name, prefixes=[str(one) for one in prefixes])
        if self.sessions.idle:
            self._idle.set()
        else:
            self._idle.clear()
        at = self.sessions.wake_at()
        if self._timer is None and at is not None:
            self._timer = asyncio.get_running_loop().call_at(at, self._tick)

    async def _ask(self, line: str) -> list[str]:
        """Give a command that is answered at once; return the lines before the acknowledgement."""
        assert self._writer is not None
        self._answer = []
        self._answered.clear()
        try:
            self._writer.write(line.encode("ascii") + b"\n")
            async with asyncio.timeout(PING_LIMIT_S):
                await self._answered.wait()
        except TimeoutError:
            raise LostError(f"it did not answer within {PING_LIMIT_S:g} s") from None
        else:
            return self._answer
        finally:
            self._answer = None

    async def _alone(self, *lines: str) -> list[str]:
        """Give commands while no others are unanswered, whose acknowledgements they would overtake."""
        async with self._one_at_a_time:
            self.sessions.hold()
            try:
                await self._until_idle()
                said = [await self._ask(line) for line in lines]
            finally:
                self._carry_out(self.sessions.release())
            return said[-1]

    async def _until_idle(self) -> None:
        """Wait until every command is answered, however long that takes, as long as there are answers."""
        while not self._idle.is_set():
            heard = self._lines_heard
            try:
                async with asyncio.timeout(PING_LIMIT_S):
                    await self._idle.wait()
            except TimeoutError:
                if self._lines_heard == heard:
                    raise LostError(f"it left commands unanswered for {PING_LIMIT_S:g} s") from None

    async def _follow(self) -> None:
        """Bring every change of the neighbors into force."""
        while True:
            self._wake.clear()
            neighbors = self._wanted
            if neighbors != self._applied:
                await self._reload(neighbors)
                self._applied = neighbors
            if self._wanted == self._applied:
                await self._wake.wait()

    async def _reload(self, neighbors: tuple[Neighbor, ...]) -> None:
        """Write the file and have it read. An acknowledged reload may have been dropped, so the new generation must show."""
        self._write_config(neighbors)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + RELOAD_LIMIT_S
        tag = exabgp_config.generation_tag(self._generation)
        while True:
            shown = await self._alone("reload", *([f"show neighbor configuration {neighbors[0].peer}"] if neighbors else []))
            if not neighbors or any(tag in line for line in shown):
                return
            if loop.time() > deadline:
                raise LostError(f"it did not take over its configuration within {RELOAD_LIMIT_S:g} s")
            await asyncio.sleep(RELOAD_AGAIN_S)

    async def _ping(self) -> None:
        """See that ExaBGP still answers: one that does not sends no keepalives either."""
        while True:
            await asyncio.sleep(PING_EVERY_S)
            await self._alone("version")

    def _tick(self) -> None:
        self._timer = None
        self._carry_out(self.sessions.tick(asyncio.get_running_loop().time()))


def _death_signal() -> int:
    """The signal that the kernel sends us when our parent dies; 0 for none (prctl(2))."""
    number = ctypes.c_int()
    _libc.prctl(_PR_GET_PDEATHSIG, ctypes.byref(number))
    return number.value


async def _readable(of: socket.socket) -> None:
    ready = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(of, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(of)


async def _until_closed(relay: socket.socket) -> None:
    """Wait for the end of the helper. ExaBGP itself does not notice it before the next command."""
    relay.setblocking(False)
    await asyncio.get_running_loop().sock_recv(relay, 1)
    raise LostError("its helper ended")
