"""Our ExaBGP in the namespace that has cables to the routers, and what BIRD says of its routes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from pyroute2 import netns

from speaker.bgp.model import Neighbor, NeighborKey, Prefix, Route
from speaker.bgp.supervisor import NOBODY, Supervisor
from tests.interop.peers import DEADLINE_S, US
from tests.wires import Lines


def by_prefix(text: str) -> dict[str, str]:
    """Prefix → its part of what birdc answers to `show route all`."""
    found: dict[str, str] = {}
    prefix = ""
    for line in text.splitlines():
        if line[:1].isalnum() and "/" in line.partition(" ")[0]:
            prefix = line.partition(" ")[0]
            found[prefix] = ""
        if prefix:
            found[prefix] += line + "\n"
    return found


def readable_by_nobody() -> bool:
    """Whether ExaBGP can be run as another user from this checkout: one below /root cannot be read by others."""
    asked = "import os, sys, exabgp; sys.exit(not os.access(os.path.realpath(sys.executable), os.X_OK))"
    words = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups", sys.executable, "-c", asked]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


class Running:
    """A supervisor whose children live in our namespace, and what it logs."""

    def __init__(self, folder: Path) -> None:
        self.log = Lines()
        self.changed = asyncio.Event()
        self.user = NOBODY if readable_by_nobody() else None
        self.supervisor = Supervisor(folder, self.log, on_change=self.changed.set, user=self.user)

    def established(self, *neighbors: Neighbor) -> bool:
        states = self.supervisor.sessions.states
        return all(states[neighbor.key].up for neighbor in neighbors)

    def want(self, neighbors: list[Neighbor], routes: Mapping[NeighborKey, Mapping[Prefix, Route]]) -> None:
        self.supervisor.want(neighbors, routes)

    async def until(self, holds: Callable[[], object], what: str) -> None:
        """Wait for what a router shows; it has to be asked."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                while not holds():  # noqa: ASYNC110  (the router tells nobody)
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"never: {what}; log: {self.log.lines}") from None

    def children(self) -> dict[str, int]:
        """ExaBGP and its helper, by name: process id."""
        found: dict[str, int] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                    if str(self.supervisor._folder).encode() in b" ".join(words):
                        found["helper" if b"exabgp_relay.py" in b" ".join(words) else "exabgp"] = int(entry.name)
        return found


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Running]:
    before = os.open("/proc/self/ns/net", os.O_RDONLY)
    netns.setns(US)
    made = Running(folder)
    task = asyncio.create_task(made.supervisor.run(), name="bgp")
    try:
        yield made
        assert not task.done(), task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        netns.setns(before)
        os.close(before)
