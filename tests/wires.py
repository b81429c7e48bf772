"""The network as the speaker's engine sees it, without a network: sockets that record what is sent."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from scapy.layers.inet6 import ICMPv6ND_NA
from scapy.layers.l2 import ARP, Ether

from config.model import InterfaceName
from speaker.layer2.sockets import Protocol


class RecordingWire:
    """A wire that keeps what is sent and delivers what a test puts in, filtered as the kernel would."""

    def __init__(self, name: InterfaceName, protocol: Protocol = Protocol.ARP) -> None:
        self.name = name
        self._asked_for = slice(38, 42) if protocol is Protocol.ARP else slice(62, 78)
        self.sent: list[bytes] = []
        self.targets: tuple[bytes, ...] = ()
        self.aimed: list[str] = []
        self.closed = False
        self.broken: OSError | None = None
        self.groupless: OSError | None = None
        self._incoming: list[bytes] = []
        self._near, self._far = socket.socketpair()

    def fileno(self) -> int:
        return self._near.fileno()

    def set_targets(self, targets: Sequence[bytes], *, roughly: bool = False) -> None:
        self.targets = tuple(targets)
        self.aimed.append("roughly" if roughly else "precisely")
        if self.groupless is not None:
            raise self.groupless

    def deliver(self, frame: bytes) -> None:
        about = {frame[self._asked_for], frame[28:32]}
        if about & set(self.targets):
            self._incoming.append(frame)
            self._far.send(b"!")

    def frames(self) -> Iterator[bytes]:
        self._near.recv(4096)
        while self._incoming:
            yield self._incoming.pop(0)

    def send(self, frame: bytes) -> None:
        if self.broken is not None:
            raise self.broken
        self.sent.append(frame)

    def close(self) -> None:
        self.closed = True
        self._near.close()
        self._far.close()

    def said(self) -> list[tuple[int, str]]:
        """Opcode and sender address of each frame that was sent since this was last asked."""
        messages = [Ether(frame)[ARP] for frame in self.sent]
        self.sent = []
        return [(message.op, message.psrc) for message in messages]

    def advertised(self) -> list[tuple[str, str, int, int]]:
        """Destination, target, and the flags solicited and override of each advertisement since this was last asked."""
        frames = [Ether(frame) for frame in self.sent]
        self.sent = []
        return [(frame.payload.dst, frame[ICMPv6ND_NA].tgt, frame[ICMPv6ND_NA].S, frame[ICMPv6ND_NA].O) for frame in frames]


class Wires:
    """Opens a recording wire for each interface; `refuse` names those that cannot be opened.

    `open` has the wires for ARP by interface, `open6` those for NDP.
    """

    def __init__(self, *refuse: str) -> None:
        self.refuse = set(refuse)
        self.open: dict[str, RecordingWire] = {}
        self.open6: dict[str, RecordingWire] = {}

    def __call__(self, name: InterfaceName, protocol: Protocol) -> RecordingWire:
        if name in self.refuse or f"{name} {protocol}" in self.refuse:
            raise PermissionError(1, "Operation not permitted")
        opened = self.open if protocol is Protocol.ARP else self.open6
        opened[name] = RecordingWire(name, protocol)
        return opened[name]


class Lines:
    """A log that keeps its lines: (event, facts)."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, Mapping[str, Any]]] = []

    def info(self, event: str, /, **facts: Any) -> None:
        self.lines.append((event, facts))

    debug = warning = error = info

    def events(self) -> list[str]:
        """The events in order."""
        return [event for event, _ in self.lines]

    def facts(self, event: str) -> list[Mapping[str, Any]]:
        """The facts of each line with this event."""
        return [facts for one, facts in self.lines if one == event]


async def until(condition: Callable[[], object], what: str, *, limit_s: float = 10.0) -> None:
    """Let the loop turn until a condition holds; fail with `what` if it never does."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"after {limit_s:g} s still not: {what}"
        await asyncio.sleep(0.001)
