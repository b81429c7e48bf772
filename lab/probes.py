"""Ask a container whether it has started, is alive, is ready: one attempt of a probe, and what a row of attempts means.

Streak is pure. attempt() is the shell: it connects from the node, as a kubelet does, or runs a command inside the container.
Called by lab.kubelet, which decides what an answer leads to.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from lab import namespaces, processes
from lab.kinds import HttpGet, Probe

_UNVERIFIED: Final = ssl._create_unverified_context()  # noqa: S323, SLF001 - A kubelet does not verify what it probes either.


@dataclass(slots=True)
class Streak:
    """The state of a probe: it changes after successThreshold good or failureThreshold bad answers in a row."""

    probe: Probe
    state: bool
    _same: int = 0
    _last: bool | None = None

    def note(self, *, good: bool) -> bool | None:
        """Take an answer; returns what it settles, nothing while the row is too short."""
        self._same = self._same + 1 if good == self._last else 1
        self._last = good
        if self._same < (self.probe.success_threshold if good else self.probe.failure_threshold):
            return None
        self.state = good
        return good


@dataclass(frozen=True, slots=True)
class Target:
    """Where a probe goes: an address and port as seen in a network namespace, or a command beside a running program."""

    netns: str
    address: str = ""
    port: int = 0
    command: Sequence[str] = ()
    program: processes.Program | None = None
    running: processes.Running | None = None


async def attempt(probe: Probe, target: Target) -> bool:
    """Whether one try within timeoutSeconds is answered well."""
    try:
        async with asyncio.timeout(float(probe.timeout_seconds)):
            if target.command:
                assert target.program is not None
                assert target.running is not None
                return await processes.run_beside(target.running, target.program, target.command) == 0
            return await _connect(target, probe.http_get)
    except (OSError, TimeoutError):
        return False


async def _connect(target: Target, page: HttpGet | None) -> bool:
    with namespaces.tcp_socket(target.netns) as connection:
        await asyncio.get_running_loop().sock_connect(connection, (target.address, target.port))
        if page is None:
            return True
        context = _UNVERIFIED if page.scheme == "HTTPS" else None
        reader, writer = await asyncio.open_connection(
            sock=connection.dup(), ssl=context, server_hostname="" if context else None
        )
        try:
            headers = {"Host": f"{target.address}:{target.port}", "User-Agent": "kube-probe/1.31", "Connection": "close"}
            headers |= {each.name: each.value for each in page.http_headers or ()}
            lines = (f"GET {page.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", "")
            writer.write("\r\n".join(lines).encode())
            words = (await reader.readline()).split(maxsplit=2)
            return len(words) > 1 and words[1].isdigit() and 200 <= int(words[1]) < 400
        finally:
            writer.transport.abort()
