"""BFD on a real network: drives the hub with UDP sockets and the clock of the event loop.

Used by __main__.py. It opens the sockets, reads what arrives before it lets any time run out, and sends what the hub says. It
decides nothing about sessions. Ports and TTLs are those of RFC 5881 sections 4 and 5 and RFC 5883 sections 3 and 5.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import socket
import struct
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from speaker.bfd.hub import (
    MULTIHOP_PORT,
    SINGLE_HOP_PORT,
    TTL,
    Datagram,
    Forget,
    Hub,
    HubEffect,
    Path,
    Report,
    Transmit,
    Wanted,
)

SOURCE_PORTS: Final = (49152, 65535)
"""Where packets come from (RFC 5881 section 4)."""
CONTROL_TRAFFIC: Final = 0xC0
"""The DSCP class of network control, CS6."""
_READ_AT_ONCE: Final = 64
_DATAGRAM_MAX: Final = 512
_ANCILLARY: Final = 256
_PKTINFO4: Final = struct.Struct("i4s4s")
_PKTINFO6: Final = struct.Struct("16si")
_INT: Final = struct.Struct("i")


class _Linux:
    """Options of ip(7) that the socket module does not name."""

    IP_PKTINFO = 8
    IP_RECVTTL = 12


class Engine:
    """start(), then apply() as often as wanted, then farewell() and close()."""

    def __init__(self, on_report: Callable[[Report | Forget], None], on_fault: Callable[[Path, str], None]) -> None:
        """`on_report` hears of states and ends, `on_fault` why packets of a path cannot be sent, once until they can."""
        self.hub = Hub(random.random, lambda: secrets.randbits(32))
        self._on_report = on_report
        self._on_fault = on_fault
        self._listening: dict[socket.socket, int] = {}  # With the port of each.
        self._sending: dict[Path, socket.socket] = {}
        self._faults: dict[Path, str] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    def start(self) -> None:
        """Listen on both ports in both families. OSError when a port is taken."""
        for port in (SINGLE_HOP_PORT, MULTIHOP_PORT):
            self._listen(socket.AF_INET, port)
            with contextlib.suppress(OSError):  # A machine without IPv6 has no IPv6 peers.
                self._listen(socket.AF_INET6, port)

    def _listen(self, family: socket.AddressFamily, port: int) -> None:
        made = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            if family == socket.AF_INET:
                made.setsockopt(socket.IPPROTO_IP, _Linux.IP_RECVTTL, 1)
                made.setsockopt(socket.IPPROTO_IP, _Linux.IP_PKTINFO, 1)
            else:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            made.bind(("", port))
        except OSError:
            made.close()
            raise
        self._listening[made] = port
        asyncio.get_running_loop().add_reader(made, self._readable, made, port)

    def close(self) -> None:
        """Close everything at once, without a word to the peers."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for listening in self._listening:
            asyncio.get_running_loop().remove_reader(listening)
            listening.close()
        self._listening.clear()
        for sending in self._sending.values():
            sending.close()
        self._sending.clear()

    def apply(self, wanted: Iterable[Wanted]) -> None:
        """Make these the sessions there are."""
        self._carry_out(self.hub.apply(wanted, self._now()))

    async def farewell(self, timeout_s: float) -> None:
        """End all sessions; return when all peers know, or after `timeout_s`."""
        self.apply(())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()

    # Receiving.

    def _readable(self, listening: socket.socket, port: int) -> None:
        for _ in range(_READ_AT_ONCE):
            try:
                data, ancillary, _, source = listening.recvmsg(_DATAGRAM_MAX, _ANCILLARY)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # An ICMP error of an earlier packet; the detection time decides.
                continue
            self._carry_out(self.hub.receive(_datagram(data, ancillary, str(source[0]), port), self._now()))

    def _tick(self) -> None:
        self._timer = None
        for listening, port in self._listening.items():
            self._readable(listening, port)  # What came while this process did not run must not be taken for silence.
        self._carry_out(self.hub.tick(self._now()))

    # Sending.

    def _carry_out(self, effects: Iterable[HubEffect]) -> None:
        for effect in effects:
            match effect:
                case Transmit(path=path, data=data):
                    self._send(path, data)
                case Forget(path=path):
                    self._hang_up(path)
                    self._faults.pop(path, None)
                    self._on_report(effect)
                case Report():
                    self._on_report(effect)
        if self.hub.sessions:
            self._idle.clear()
        else:
            self._idle.set()
        self._set_timer()

    def _send(self, path: Path, data: bytes) -> None:
        try:
            if path not in self._sending:
                self._sending[path] = _dial(path)
            self._sending[path].send(data)
        except ConnectionRefusedError:  # The peer's machine has no BFD yet; the next packet asks again.
            self._faults.pop(path, None)
        except OSError as fault:
            self._hang_up(path)
            problem = fault.strerror or str(fault)
            if self._faults.get(path) != problem:
                self._faults[path] = problem
                self._on_fault(path, problem)
        else:
            self._faults.pop(path, None)

    def _hang_up(self, path: Path) -> None:
        sending = self._sending.pop(path, None)
        if sending is not None:
            sending.close()

    def _set_timer(self) -> None:
        at = self.hub.wake_at()
        if self._timer is not None:
            if at == self._timer.when():
                return
            self._timer.cancel()
            self._timer = None
        if at is not None:
            self._timer = asyncio.get_running_loop().call_at(at, self._tick)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def _datagram(data: bytes, ancillary: list[tuple[int, int, bytes]], source: str, port: int) -> Datagram:
    """Put together what the kernel says of a datagram."""
    ttl, index, destination = 0, 0, b"\0\0\0\0"
    for level, kind, value in ancillary:
        match level, kind:
            case (socket.IPPROTO_IP, socket.IP_TTL) | (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT):
                (ttl,) = _INT.unpack_from(value)
            case (socket.IPPROTO_IP, _Linux.IP_PKTINFO):
                index, _, destination = _PKTINFO4.unpack_from(value)
            case (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
                destination, index = _PKTINFO6.unpack_from(value)
            case _:
                pass
    try:
        interface = socket.if_indextoname(index)
    except OSError:
        interface = ""
    address = ip_address(source.partition("%")[0])
    return Datagram(data, address, ip_address(destination), port, ttl, interface)


def _dial(path: Path) -> socket.socket:
    """Return a socket that sends to the peer of a path from a port of RFC 5881 section 4. OSError when there is none."""
    family = socket.AF_INET6 if isinstance(path.peer, IPv6Address) else socket.AF_INET
    made = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        if isinstance(path.peer, IPv4Address):
            made.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, TTL)
            made.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, CONTROL_TRAFFIC)
        else:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, TTL)
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, CONTROL_TRAFFIC)
        if path.interface:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, path.interface.encode() + b"\0")
        _bind(made, "" if path.local is None else str(path.local), path.interface)
        made.connect(_place(str(path.peer), path.port, path.interface if path.peer.is_link_local else ""))
    except OSError:
        made.close()
        raise
    return made


def _bind(made: socket.socket, address: str, interface: str) -> None:
    low, high = SOURCE_PORTS
    scope = interface if address and ip_address(address).is_link_local else ""
    for _ in range(20):
        try:
            made.bind(_place(address, low + secrets.randbelow(high - low + 1), scope))
        except OSError as fault:
            problem = fault
        else:
            return
    raise problem


def _place(address: str, port: int, interface: str) -> tuple[str, int] | tuple[str, int, int, int]:
    return (address, port, 0, socket.if_nametoindex(interface)) if interface and ":" in address else (address, port)
