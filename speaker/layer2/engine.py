"""Drive the responder with real sockets and the loop's clock.

reconcile.py tells it which links there are and what to own; everything else (answers, repeated announcements) happens by
itself. It keeps no state of its own beyond the sockets; what is owned is the responder's to know.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Protocol

from config.model import InterfaceName
from speaker.layer2 import arp, interfaces
from speaker.layer2.responder import Face, Faces, Form, Heard, Own, Responder, SendFrame
from speaker.layer2.sockets import ArpSocket
from speaker.world import Link
from telemetry.log import Logger


class Wire(Protocol):
    """A raw socket on one interface, as sockets.ArpSocket is."""

    def fileno(self) -> int:
        """The descriptor to wait on."""

    def set_targets(self, targets: Sequence[bytes]) -> None:
        """Let in questions for these packed addresses only."""

    def frames(self) -> Iterator[bytes]:
        """What has come in, a bounded number of frames."""

    def send(self, frame: bytes) -> None:
        """Put a frame on the wire; OSError if it is lost."""

    def close(self) -> None:
        """Give it back."""


class Counters(Protocol):
    """Where frames are counted, by address."""

    def request_received(self, address: IPv4Address) -> None:
        """A request that is answered came in."""

    def response_sent(self, address: IPv4Address) -> None:
        """A reply went out."""

    def gratuitous_sent(self, address: IPv4Address) -> None:
        """An announcement frame went out."""


@dataclass(slots=True)
class _Open:
    """A link with its socket; `failing` remembers that sending failed, so that it is logged once."""

    link: Link
    socket: Wire
    failing: bool = False


class Engine:
    """Owns the ARP sockets of this node. All methods are called from the event loop. Tests pass another `open_wire`."""

    def __init__(self, counters: Counters, log: Logger, open_wire: Callable[[InterfaceName], Wire] = ArpSocket) -> None:
        self._open_wire = open_wire
        self._loop = asyncio.get_running_loop()
        self._counters = counters
        self._log = log
        self._responder = Responder()
        self._open: dict[InterfaceName, _Open] = {}
        self._refused: dict[InterfaceName, tuple[Link, str]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def owned(self) -> Mapping[IPv4Address, frozenset[InterfaceName]]:
        """Which address belongs to which interfaces."""
        return self._responder.owned()

    def refused(self) -> Mapping[InterfaceName, str]:
        """The links on which no socket could be opened, and why; tried again when the link changes."""
        return {name: why for name, (_, why) in self._refused.items()}

    def show(self, links: Sequence[Link]) -> None:
        """Use these links from now on; those that may not announce are closed."""
        usable = {link.name: link for link in links if interfaces.why_not(link) is None}
        for name in sorted(self._open.keys() - usable.keys()):
            self._close(name)
        self._refused = {name: said for name, said in self._refused.items() if usable.get(name) == said[0]}
        for name, link in sorted(usable.items()):
            known = self._open.get(name)
            if known is not None and known.link.index != link.index:
                self._close(name)  # Another interface has taken the name.
                known = None
            if known is not None:
                known.link = link
            elif name not in self._refused:
                self._try_open(link)
        faces = {name: Face(one.link.mac, one.link.carrier) for name, one in self._open.items()}
        self._perform(self._responder.handle(Faces(faces), self._loop.time()), self._open)

    def own(self, changes: Mapping[IPv4Address, frozenset[InterfaceName]]) -> None:
        """Take and withdraw addresses; the first announcements are sent before this returns."""
        before = self._responder.owned()
        touched: set[InterfaceName] = set()
        for address, names in changes.items():
            touched |= names ^ before.get(address, frozenset())
        self._perform(self._responder.handle(Own(changes), self._loop.time()), touched)

    def close(self) -> None:
        """Fall silent: close every socket and stop announcing."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for name in sorted(self._open):
            self._close(name)

    def _try_open(self, link: Link) -> None:
        try:
            opened = self._open_wire(link.name)
        except OSError as error:
            why = "the process lacks the capability CAP_NET_RAW" if isinstance(error, PermissionError) else str(error)
            self._refused[link.name] = (link, why)
            self._log.warning("interface_unusable", interface=link.name, error=why)
            return
        self._open[link.name] = _Open(link, opened)
        self._loop.add_reader(opened.fileno(), self._read, link.name)
        self._log.info("interface_opened", interface=link.name, mac=link.mac.hex(":"))

    def _close(self, name: InterfaceName) -> None:
        known = self._open.pop(name)
        self._loop.remove_reader(known.socket.fileno())
        known.socket.close()
        self._log.info("interface_closed", interface=name)

    def _perform(self, frames: Iterable[SendFrame], touched: Iterable[InterfaceName]) -> None:
        """Let questions for what is owned now in, then send, then set the timer."""
        for name in touched:
            if name in self._open:
                self._open[name].socket.set_targets(tuple(self._responder.answering(name)))
        self._send(frames)
        self._arm()

    def _arm(self) -> None:
        at = self._responder.wake_at()
        if self._timer is not None:
            if at is not None and self._timer.when() <= at and not self._timer.cancelled():
                return  # It rings early enough, and sets itself anew.
            self._timer.cancel()
        self._timer = None if at is None else self._loop.call_at(at, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._send(self._responder.tick(self._loop.time()))
        self._arm()

    def _read(self, name: InterfaceName) -> None:
        known = self._open[name]
        try:
            for frame in known.socket.frames():
                request = arp.read_request(frame)
                if isinstance(request, arp.ArpRequest):
                    for reply in self._responder.handle(Heard(name, request), 0.0):  # Answers do not depend on the time.
                        self._counters.request_received(reply.address)
                        self._send((reply,))
        except OSError as error:
            self._log.debug("interface_read_failed", interface=name, error=str(error))

    def _send(self, frames: Iterable[SendFrame]) -> None:
        first: list[SendFrame] = []
        for one in frames:
            known = self._open[one.interface]
            try:
                known.socket.send(one.frame)
            except OSError as error:
                if not known.failing:
                    known.failing = True
                    self._log.warning("sending_failed", interface=one.interface, error=str(error))
                continue
            known.failing = False
            if one.form is Form.REPLY:
                self._counters.response_sent(one.address)
                continue
            self._counters.gratuitous_sent(one.address)
            if one.round == 0 and one.form is Form.GRATUITOUS_REQUEST:
                first.append(one)
        for one in first:  # After all have been sent: writing lines takes longer than sending frames.
            self._log.info("first_garp_sent", address=str(one.address), interface=one.interface)
