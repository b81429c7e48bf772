"""Ask a Service for its page again and again, and watch what the machine that asks is told about the address.

Runs as a program of its own inside the client's namespace (`python -m lab.traffic`), driven by lab.client_machine through lines
of JSON: commands on standard input, observations on standard output. All times are CLOCK_MONOTONIC, which is the same clock
in every process of the machine, so they can be put beside the times in the speakers' logs.

How an outage is measured: a new TCP connection is started every 10 ms whatever became of the others, each with a limit of
250 ms, unless told otherwise, for connecting and getting an answer; the outage is the time from the last start that was answered before the gap to
the first start that was answered after it. Nothing is retried and nothing is averaged.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import struct
import sys
import time
from collections.abc import Iterable
from ipaddress import IPv4Address
from typing import Any, Final

import msgspec

EVERY_S: Final = 0.01
LIMIT_S: Final = 0.25
ETH_P_ARP: Final = 0x0806
_NO_WAIT: Final = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends a reset, so that no port stays taken after an attempt.
_ARP: Final = struct.Struct("!6s6sHHHBBH6s4s6s4s")


class Ask(msgspec.Struct, frozen=True, kw_only=True, tag="ask"):
    """Command: ask this address until told otherwise, or until so many answers were good."""

    address: str
    port: int = 80
    good: int = 0
    every_s: float = EVERY_S
    limit_s: float = LIMIT_S


class Rest(msgspec.Struct, frozen=True, kw_only=True, tag="rest"):
    """Command: stop asking."""


class Attempt(msgspec.Struct, frozen=True, kw_only=True, tag="attempt"):
    """One connection: when it was started, when it ended, whether a page came back, and if not, why."""

    address: str
    start: float
    end: float
    good: bool
    detail: str = ""


class ArpSeen(msgspec.Struct, frozen=True, kw_only=True, tag="arp"):
    """An ARP frame that reached the client. Operation 1 asks, 2 answers (RFC 826)."""

    at: float
    operation: int
    sender_mac: str
    sender: str
    target: str
    destination: str

    @property
    def gratuitous(self) -> bool:
        """Whether nobody asked: sender and target are the same address (RFC 5227 section 3)."""
        return self.sender == self.target


class Neighbour(msgspec.Struct, frozen=True, kw_only=True, tag="neighbour"):
    """The client kernel's neighbour table says something new about an address."""

    at: float
    address: str
    mac: str


Command = Ask | Rest
Observation = Attempt | ArpSeen | Neighbour


class Outage(msgspec.Struct, frozen=True, kw_only=True):
    """A gap between good answers. Times are starts of attempts."""

    last_good: float
    first_good: float

    @property
    def length_s(self) -> float:
        """How long nothing was answered."""
        return self.first_good - self.last_good


def longest_gap(attempts: Iterable[Attempt], *, after: float) -> Outage | None:
    """The longest time without a good answer that ended after a moment; None before there were two good answers."""
    good = sorted(attempt.start for attempt in attempts if attempt.good)
    gaps = [Outage(last_good=a, first_good=b) for a, b in itertools.pairwise(good) if b >= after]
    return max(gaps, key=lambda gap: gap.length_s, default=None)


def read_arp(frame: bytes, *, at: float) -> ArpSeen | None:
    """An Ethernet frame as an ARP observation; None when it is not ARP for IPv4."""
    if len(frame) < _ARP.size:
        return None
    destination, _, kind, hardware, protocol, _, _, operation, mac, sender, _, target = _ARP.unpack_from(frame)
    if (kind, hardware, protocol) != (ETH_P_ARP, 1, 0x0800):
        return None
    return ArpSeen(
        at=at,
        operation=operation,
        sender_mac=mac.hex(":"),
        sender=str(IPv4Address(sender)),
        target=str(IPv4Address(target)),
        destination=destination.hex(":"),
    )


def _say(observation: Observation) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(observation) + b"\n")
    sys.stdout.buffer.flush()


async def _attempt(address: str, port: int, limit_s: float) -> Attempt:
    """Open a connection, ask for the page, read the answer's head."""
    loop = asyncio.get_running_loop()
    start = time.monotonic()
    detail = ""
    connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    connection.setblocking(False)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_WAIT)
    try:
        async with asyncio.timeout(limit_s):
            await loop.sock_connect(connection, (address, port))
            await loop.sock_sendall(connection, f"GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
            answer = await loop.sock_recv(connection, 4096)
        if not answer.startswith(b"HTTP/1.1 200 "):
            detail = answer.split(b"\r\n", 1)[0].decode(errors="replace") or "connection closed"
    except TimeoutError:
        detail = f"no answer within {limit_s:g} s"
    except OSError as error:
        detail = os.strerror(error.errno) if error.errno else str(error)  # asyncio's own text hides which error it was.
    finally:
        connection.close()
    return Attempt(address=address, start=start, end=time.monotonic(), good=not detail, detail=detail)


async def _ask(command: Ask) -> None:
    """Start an attempt every so often, on a schedule that no answer can delay."""
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    good = 0

    async def one() -> None:
        nonlocal good
        attempt = await _attempt(command.address, command.port, command.limit_s)
        _say(attempt)
        good += attempt.good
        if command.good and good >= command.good:
            done.set()

    async with asyncio.TaskGroup() as group:
        due = loop.time()
        while not done.is_set():
            group.create_task(one(), name="attempt")
            due += command.every_s
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await done.wait()


async def _obey(reader: asyncio.StreamReader) -> None:
    """Carry out commands until standard input ends."""
    asking: asyncio.Task[None] | None = None
    async with asyncio.TaskGroup() as group:
        while line := await reader.readline():
            if asking is not None:
                asking.cancel()
            match msgspec.json.decode(line, type=Command):
                case Ask() as command:
                    asking = group.create_task(_ask(command), name="ask")
                case Rest():
                    asking = None
        if asking is not None:
            asking.cancel()


async def _watch_arp() -> None:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ARP)) as packets:
        packets.setblocking(False)
        while True:
            frame = await loop.sock_recv(packets, 2048)
            seen = read_arp(frame, at=time.monotonic())
            if seen is not None:
                _say(seen)


async def _watch_neighbours() -> None:
    from pyroute2 import AsyncIPRoute  # noqa: PLC0415 - Tests of the pure part need no netlink.
    from pyroute2.netlink.rtnl import RTMGRP_NEIGH  # noqa: PLC0415 - As above.

    known: dict[str, str] = {}

    def note(message: Any) -> None:
        address, mac = message.get("dst"), message.get("lladdr")
        if address and mac and known.get(address) != mac:
            known[address] = mac
            _say(Neighbour(at=time.monotonic(), address=address, mac=mac))

    async with AsyncIPRoute() as route:
        await route.bind(groups=RTMGRP_NEIGH)
        async for message in await route.neigh("dump"):  # Of an entry that stays valid there is no news.
            note(message)
        while True:
            async for message in route.get():
                note(message)


async def _main() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with asyncio.TaskGroup() as group:
        watchers = [group.create_task(_watch_arp(), name="arp"), group.create_task(_watch_neighbours(), name="neighbours")]
        await _obey(reader)
        for watcher in watchers:
            watcher.cancel()


if __name__ == "__main__":
    asyncio.run(_main())
