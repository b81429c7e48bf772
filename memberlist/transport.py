"""Sockets of one member: a datagram socket and a listener on the same port, and the short streams.

Non-blocking sockets watched by the event loop, no task and no thread: every readiness becomes one input for the core, in the
order in which it happened. Owned by agent.py. Refuses to interpret a byte. A fault of the network (no route, refused,
reset) is an input like any other and never an exception.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from memberlist.config import IPAddress
from memberlist.effects import (
    Endpoint,
    Failure,
    Input,
    Liveness,
    LivenessChecked,
    PacketReceived,
    PacketRefused,
    StreamAccepted,
    StreamConnected,
    StreamEnded,
    StreamReceived,
)

_DATAGRAM_MAX: Final = 65536
_DATAGRAMS_PER_TURN: Final = 64  # Then other callbacks of the loop have their turn.
_TURNS_BEFORE_JUDGING: Final = 16
_CHUNK: Final = 65536
_RECEIVE_BUFFER: Final = 2 * 1024 * 1024
_BIND_TRIES: Final = 10
_BACKLOG: Final = 1024  # While the process is stopped, its kernel goes on answering those who ask whether it lives.
_FLUSH_S: Final = 5.0  # A peer that reads nothing holds a closing stream no longer than this.
_ACCEPT_PAUSE_S: Final = 0.1  # Without free file descriptors, accept fails at once and again.
_CLOSED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_FAILURES: Final = {
    errno.ECONNREFUSED: Failure.REFUSED,
    errno.EHOSTUNREACH: Failure.UNREACHABLE,
    errno.ENETUNREACH: Failure.UNREACHABLE,
    errno.ENETDOWN: Failure.UNREACHABLE,
    errno.ETIMEDOUT: Failure.TIMED_OUT,
}


def _liveness(code: int) -> Liveness:
    """Return what an error code of connect tells of the kernel at the other end."""
    if code == 0:
        return Liveness.ANSWERED
    return Liveness.REFUSED if code in {errno.ECONNREFUSED, errno.ECONNRESET} else Liveness.SILENT


@dataclass(slots=True)
class _Stream:
    number: int
    sock: socket.socket
    connecting: bool
    outgoing: bytearray = field(default_factory=bytearray)
    closing: asyncio.TimerHandle | None = None


@dataclass(slots=True)
class _Check:
    number: int
    sock: socket.socket
    timer: asyncio.TimerHandle | None = None


class Transport:
    """Opened with open(), closed with close(). Every input goes to `report`, also while another call is going on."""

    def __init__(self, report: Callable[[Input], None]) -> None:
        self._report = report
        self._loop = asyncio.get_running_loop()
        self._packets: socket.socket | None = None
        self._listener: socket.socket | None = None
        self._accept_pause: asyncio.TimerHandle | None = None
        self._streams: dict[int, _Stream] = {}
        self._checks: dict[int, _Check] = {}
        self._last_accepted = 0
        self._version = 4
        self._source: str | None = None
        self.port = 0

    def open(self, address: IPAddress, port: int) -> None:
        """Bind both sockets to one port, any free one for 0. OSError when that is not possible."""
        for attempt in range(_BIND_TRIES if port == 0 else 1):
            listener = self._bound(socket.SOCK_STREAM, address, port)
            chosen: int = listener.getsockname()[1]
            try:
                packets = self._bound(socket.SOCK_DGRAM, address, chosen)
            except OSError:
                listener.close()
                if port != 0 or attempt == _BIND_TRIES - 1:
                    raise
                continue
            break
        listener.listen(_BACKLOG)
        self._listener, self._packets, self.port = listener, packets, chosen
        self._version = address.version
        self._source = None if address.is_unspecified else str(address)
        self._loop.add_reader(packets, self._read_packets)
        self._loop.add_reader(listener, self._accept)

    @staticmethod
    def _bound(kind: socket.SocketKind, address: IPAddress, port: int) -> socket.socket:
        sock = socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET, kind)
        try:
            sock.setblocking(False)
            if kind is socket.SOCK_STREAM:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            else:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
            sock.bind((str(address), port))
        except OSError as fault:
            sock.close()
            raise OSError(fault.errno, f"gossip cannot bind {Endpoint(address, port)}: {fault.strerror}") from fault
        return sock

    def close(self) -> None:
        """Close every socket at once; what was not yet sent is lost."""
        if self._accept_pause is not None:
            self._accept_pause.cancel()
        for stream in list(self._streams.values()):
            self._drop(stream)
        for check in list(self._checks.values()):
            self._let_go(check)
        for sock in (self._packets, self._listener):
            if sock is not None:
                self._loop.remove_reader(sock)
                sock.close()
        self._packets = self._listener = None

    # Datagrams.

    def send(self, to: Endpoint, data: bytes) -> None:
        """Send a datagram; reports PacketRefused when there is no way to send it."""
        if self._packets is None:
            return
        if to.address.version != self._version:  # The system would look the address up as if it were a name.
            self._report(PacketRefused(to))
            return
        try:
            self._packets.sendto(data, (str(to.address), to.port))
        except (BlockingIOError, InterruptedError):
            pass  # The send queue is full: lost, as on a busy wire.
        except OSError:
            self._report(PacketRefused(to))

    def read_waiting(self) -> None:
        """Read what has already arrived, so that nobody is judged by an answer that lies unread."""
        for _ in range(_TURNS_BEFORE_JUDGING):
            if not self._read_packets():
                return

    def _read_packets(self) -> bool:
        """Read up to one turn's worth of datagrams; return whether there may be more."""
        for _ in range(_DATAGRAMS_PER_TURN):
            if self._packets is None:
                return False
            try:
                data, source = self._packets.recvfrom(_DATAGRAM_MAX)
            except OSError:  # Nothing more to read, or an error left over from an earlier send.
                return False
            if data:
                self._report(PacketReceived(Endpoint.of(source[0], source[1]), data))
        return True

    # Kernels.

    def check_liveness(self, number: int, to: Endpoint, timeout_s: float) -> None:
        """Try to connect and hang up; reports one LivenessChecked."""
        sock = socket.socket(socket.AF_INET6 if to.address.version == 6 else socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        check = _Check(number, sock)
        self._checks[number] = check
        try:
            if self._source is not None:
                sock.bind((self._source, 0))  # The way of the gossip, not another one that happens to work.
            code = sock.connect_ex((str(to.address), to.port))
        except OSError as fault:
            code = fault.errno or errno.EIO
        if code == errno.EINPROGRESS:
            check.timer = self._loop.call_later(timeout_s, self._answered, check, Liveness.SILENT)
            self._loop.add_writer(sock, self._connected, check)
        else:
            check.timer = self._loop.call_later(0, self._answered, check, _liveness(code))

    def _connected(self, check: _Check) -> None:
        self._answered(check, _liveness(check.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)))

    def _answered(self, check: _Check, outcome: Liveness) -> None:
        self._let_go(check)
        self._report(LivenessChecked(check.number, outcome))

    def _let_go(self, check: _Check) -> None:
        if check.timer is not None:
            check.timer.cancel()
        self._checks.pop(check.number, None)
        self._loop.remove_writer(check.sock)
        check.sock.close()

    # Streams.

    def open_stream(self, number: int, to: Endpoint, data: bytes) -> None:
        """Connect and send; reports StreamConnected, StreamReceived and at last StreamEnded."""
        sock = socket.socket(socket.AF_INET6 if to.address.version == 6 else socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        stream = _Stream(number, sock, connecting=True, outgoing=bytearray(data))
        self._streams[number] = stream
        try:
            code = sock.connect_ex((str(to.address), to.port))
        except OSError as fault:
            code = fault.errno or errno.EIO
        if code in {0, errno.EINPROGRESS}:
            self._loop.add_writer(sock, self._write_on, stream)
        else:
            self._end(stream, _FAILURES.get(code, Failure.BROKEN))

    def write_stream(self, number: int, data: bytes) -> None:
        """Send bytes on a stream, now or as soon as it takes them."""
        stream = self._streams.get(number)
        if stream is None or stream.closing is not None:
            return
        stream.outgoing += data
        if not stream.connecting:
            self._loop.add_writer(stream.sock, self._write_on, stream)

    def close_stream(self, number: int) -> None:
        """Close a stream once all is sent; nothing more is reported about it."""
        stream = self._streams.get(number)
        if stream is None or stream.closing is not None:
            return
        if stream.connecting or not stream.outgoing:
            self._drop(stream)
            return
        self._loop.remove_reader(stream.sock)
        stream.closing = self._loop.call_later(_FLUSH_S, self._drop, stream)

    def _accept(self) -> None:
        if self._listener is None:
            return
        try:
            sock, source = self._listener.accept()
        except OSError as fault:
            if fault.errno in _CLOSED:
                self._loop.remove_reader(self._listener)
                self._accept_pause = self._loop.call_later(_ACCEPT_PAUSE_S, self._accept_again)
            return
        sock.setblocking(False)
        self._last_accepted += 1
        stream = _Stream(self._last_accepted, sock, connecting=False)
        self._streams[stream.number] = stream
        self._loop.add_reader(sock, self._read_on, stream)
        self._report(StreamAccepted(stream.number, Endpoint.of(source[0], source[1])))

    def _accept_again(self) -> None:
        if self._listener is not None:
            self._loop.add_reader(self._listener, self._accept)

    def _read_on(self, stream: _Stream) -> None:
        try:
            data = stream.sock.recv(_CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as fault:
            self._end(stream, _FAILURES.get(fault.errno or 0, Failure.BROKEN))
            return
        if data:
            self._report(StreamReceived(stream.number, data))
        else:
            self._end(stream, None)

    def _write_on(self, stream: _Stream) -> None:
        if stream.connecting:
            code = stream.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                self._end(stream, _FAILURES.get(code, Failure.BROKEN))
                return
            stream.connecting = False
            self._loop.add_reader(stream.sock, self._read_on, stream)
            self._report(StreamConnected(stream.number))
            if stream.number not in self._streams:
                return
        try:
            sent = stream.sock.send(stream.outgoing)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as fault:
            self._end(stream, _FAILURES.get(fault.errno or 0, Failure.BROKEN))
            return
        del stream.outgoing[:sent]
        if not stream.outgoing:
            self._loop.remove_writer(stream.sock)
            if stream.closing is not None:
                self._drop(stream)

    def _end(self, stream: _Stream, failure: Failure | None) -> None:
        closing = stream.closing is not None
        self._drop(stream)
        if not closing:
            self._report(StreamEnded(stream.number, failure))

    def _drop(self, stream: _Stream) -> None:
        if stream.closing is not None:
            stream.closing.cancel()
        self._streams.pop(stream.number, None)
        self._loop.remove_reader(stream.sock)
        self._loop.remove_writer(stream.sock)
        with suppress(OSError):
            stream.sock.close()
