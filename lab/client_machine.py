"""Drive lab.traffic in the client's namespace and collect what it observes. Used by scenarios, demo and end-to-end tests."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import msgspec

from lab import netns
from lab.images import CLONE
from lab.topology import Topology
from lab.traffic import EVERY_S, LIMIT_S, ArpSeen, Ask, Attempt, Command, Neighbour, Observation, Rest

T = TypeVar("T")


class ClientMachine:
    """A program on the client. What it has seen so far is in `attempts`, `frames` and `neighbours`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.attempts: list[Attempt] = []
        self.frames: list[ArpSeen] = []
        self.neighbours: list[Neighbour] = []
        self._process = process
        self._news = asyncio.Event()

    def forget(self) -> None:
        """Start with empty lists; the neighbour table's last word on every address is kept."""
        self.attempts.clear()
        self.frames.clear()
        self.neighbours[:] = list({each.address: each for each in self.neighbours}.values())

    def tell(self, command: Command) -> None:
        """Send a command."""
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(command) + b"\n")

    def ask(self, address: str, *, port: int = 80, good: int = 0, every_s: float = EVERY_S, limit_s: float = LIMIT_S) -> None:
        """Ask an address for its page every so often, until `good` answers were good (0: until rest())."""
        self.tell(Ask(address=address, port=port, good=good, every_s=every_s, limit_s=limit_s))

    def rest(self) -> None:
        """Stop asking."""
        self.tell(Rest())

    def mac_of(self, address: str) -> str | None:
        """What the client's kernel last said about who has an address."""
        return next((each.mac for each in reversed(self.neighbours) if each.address == address), None)

    async def until(self, found: Callable[[], T | None], *, limit_s: float, what: str) -> T:
        """Wait for something to be seen.

        Raises:
            TimeoutError: it was not, within the limit; the message says what was waited for.

        """
        try:
            async with asyncio.timeout(limit_s):
                while (result := found()) is None:
                    self._news.clear()
                    await self._news.wait()
                return result
        except TimeoutError:
            last = next((attempt.detail for attempt in reversed(self.attempts) if not attempt.good), "nothing failed")
            raise TimeoutError(f"{what}: not within {limit_s:g} s; the last failed attempt: {last}") from None

    async def first_good(self, *, after: float, limit_s: float) -> Attempt:
        """The first good answer to an attempt started at or after a moment."""
        return await self.until(
            lambda: next((each for each in self.attempts if each.good and each.start >= after), None),
            limit_s=limit_s,
            what="a good answer",
        )

    async def collect(self) -> None:
        """Read observations until the program ends."""
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            match msgspec.json.decode(line, type=Observation):
                case Attempt() as attempt:
                    self.attempts.append(attempt)
                case ArpSeen() as frame:
                    self.frames.append(frame)
                case Neighbour() as neighbour:
                    self.neighbours.append(neighbour)
            self._news.set()


@asynccontextmanager
async def on_client(topology: Topology) -> AsyncIterator[ClientMachine]:
    """A ClientMachine for the length of the body."""
    process = await asyncio.create_subprocess_exec(
        *netns.enter(topology.netns(topology.client.name), [sys.executable, "-m", "lab.traffic"]),
        cwd=CLONE,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    machine = ClientMachine(process)
    try:
        async with asyncio.TaskGroup() as group:
            collecting = group.create_task(machine.collect(), name="collect")
            yield machine
            assert process.stdin is not None
            process.stdin.close()
            await collecting
            await process.wait()
    except BaseExceptionGroup as errors:  # The group is our business; what the body raised is its caller's.
        if len(errors.exceptions) > 1:
            raise
        raise errors.exceptions[0] from None
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
