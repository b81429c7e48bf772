"""Drive the responder with real sockets and the loop's clock.

reconcile.py tells it which links there are and what to own; everything else (answers, repeated announcements) happens by
itself. It keeps no state of its own beyond the sockets; what is owned is the responder's to know.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, assert_never
from typing import Protocol as Interface

from config.model import InterfaceName, IPAddress
from speaker.layer2 import arp, interfaces, ndp
from speaker.layer2.responder import (
    Announce,
    Claimed,
    Effect,
    Face,
    Faces,
    Fade,
    Form,
    Heard,
    Message,
    Own,
    Responder,
    SendFrame,
)
from speaker.layer2.sockets import PacketSocket, Protocol
from speaker.world import Link
from telemetry.log import Logger

PRECISE_AT_ONCE = 256
"""Addresses for which a filter is compiled within a millisecond or two; with more it is not done for every change."""
PRECISE_AFTER_S = 0.1
"""How long a large set must have stayed as it is before its filter is compiled."""


class Wire(Interface):
    """A raw socket on one interface, as sockets.PacketSocket is."""

    def fileno(self) -> int:
        """The descriptor to wait on."""

    def set_targets(self, targets: Sequence[bytes], *, roughly: bool = False) -> None:
        """Let in what is about these packed addresses only, or roughly that; OSError if not all of it can be had."""

    def frames(self) -> Iterator[bytes]:
        """What has come in, a bounded number of frames."""

    def send(self, frame: bytes) -> None:
        """Put a frame on the wire; OSError if it is lost."""

    def close(self) -> None:
        """Give it back."""


class Counters(Interface):
    """Where frames are counted, by address."""

    def request_received(self, address: IPAddress) -> None:
        """A request that is answered came in."""

    def response_sent(self, address: IPAddress) -> None:
        """A reply went out."""

    def gratuitous_sent(self, address: IPAddress) -> None:
        """An announcement frame went out."""

    def first_announced(self, address: IPAddress, took_s: float) -> None:
        """The first announcement since an address is owned went out, so long after it was taken."""


@dataclass(slots=True)
class _Open:
    """A socket on a link; `failing` remembers that sending failed, so that it is logged once."""

    link: Link
    socket: Wire
    failing: bool = False


class Engine:
    """Owns the packet sockets of this node. All methods are called from the event loop. Tests pass another `open_wire`.

    `claimed` is called when somebody else speaks for an address that is owned here.
    """

    def __init__(
        self,
        counters: Counters,
        log: Logger,
        open_wire: Callable[[InterfaceName, Protocol], Wire] = PacketSocket,
        *,
        claimed: Callable[[Claimed], None],
    ) -> None:
        self._open_wire = open_wire
        self._loop = asyncio.get_running_loop()
        self._counters = counters
        self._claimed = claimed
        self._log = log
        self._responder = Responder()
        self._open: dict[InterfaceName, dict[Protocol, _Open]] = {}
        self._refused: dict[InterfaceName, tuple[Link, str]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._rough: dict[tuple[InterfaceName, Protocol], None] = {}
        self._rough_timer: asyncio.TimerHandle | None = None

    def owned(self) -> Mapping[IPAddress, frozenset[InterfaceName]]:
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
            if known is not None and any(one.link.index != link.index for one in known.values()):
                self._close(name)  # Another interface has taken the name.
            if name not in self._refused:
                self._adjust(link)
        faces = {name: _face(opened) for name, opened in self._open.items()}
        self._perform(self._responder.handle(Faces(faces), self._loop.time()), self._open)

    def _adjust(self, link: Link) -> None:
        """Open the sockets that a link needs and has not, and close the one it needs no more."""
        opened = self._open.setdefault(link.name, {})
        for one in opened.values():
            one.link = link
        wanted = (Protocol.ARP, Protocol.NDP) if link.link_local is not None else (Protocol.ARP,)
        for protocol in Protocol:
            if protocol not in wanted and protocol in opened:
                self._loop.remove_reader(opened[protocol].socket.fileno())
                opened.pop(protocol).socket.close()
            elif protocol in wanted and protocol not in opened and not self._try_open(link, protocol):
                self._close(link.name)
                return

    def own(self, changes: Mapping[IPAddress, frozenset[InterfaceName]]) -> None:
        """Take and withdraw addresses; the first announcements are sent before this returns."""
        before = self._responder.owned()
        touched: set[InterfaceName] = set()
        for address, names in changes.items():
            touched |= names ^ before.get(address, frozenset())
        self._perform(self._responder.handle(Own(changes), self._loop.time()), touched)

    def fade(self, addresses: Iterable[IPAddress]) -> None:
        """Go on answering for these addresses, but announce them no more."""
        self._perform(self._responder.handle(Fade(frozenset(addresses)), self._loop.time()), ())

    def announce(self, addresses: Iterable[IPAddress], *, once: bool = False) -> None:
        """Announce these addresses anew, as far as they are owned, in all rounds or just once."""
        self._perform(self._responder.handle(Announce(frozenset(addresses), once), self._loop.time()), ())

    def close(self) -> None:
        """Fall silent: close every socket and stop announcing."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._rough_timer is not None:
            self._rough_timer.cancel()
            self._rough_timer = None
        for name in sorted(self._open):
            self._close(name)
        self._responder.handle(Faces({}), self._loop.time())  # Nothing is sent, whoever asks for it now.

    def _try_open(self, link: Link, protocol: Protocol) -> bool:
        try:
            opened = self._open_wire(link.name, protocol)
        except OSError as error:
            why = "the process lacks the capability CAP_NET_RAW" if isinstance(error, PermissionError) else str(error)
            self._refused[link.name] = (link, why)
            self._log.warning("interface_unusable", interface=link.name, error=why)
            return False
        self._open[link.name][protocol] = _Open(link, opened)
        self._loop.add_reader(opened.fileno(), self._read, link.name, protocol)
        self._log.info("interface_opened", interface=link.name, protocol=protocol.value, mac=link.mac.hex(":"))
        return True

    def _close(self, name: InterfaceName) -> None:
        for known in self._open.pop(name).values():
            self._loop.remove_reader(known.socket.fileno())
            known.socket.close()
        self._log.info("interface_closed", interface=name)

    def _perform(self, effects: Iterable[Effect], touched: Iterable[InterfaceName]) -> None:
        """Let questions for what is owned now in, then send, then set the timer."""
        for name in touched:
            answering = tuple(self._responder.answering(name)) if name in self._open else ()
            for protocol, known in self._open.get(name, {}).items():
                self._aim(name, protocol, known, answering)
        self._act(effects)
        self._arm()

    def _aim(self, name: InterfaceName, protocol: Protocol, known: _Open, answering: Sequence[bytes]) -> None:
        """Set the filter; for many addresses roughly, and precisely when they have stopped changing for a moment."""
        targets = [one for one in answering if len(one) == _PACKED_LENGTHS[protocol]]
        roughly = len(targets) > PRECISE_AT_ONCE
        try:
            known.socket.set_targets(targets, roughly=roughly)
        except OSError as error:
            self._log.warning("multicast_group_not_joined", interface=name, error=str(error))
        if roughly:
            self._rough[name, protocol] = None
            if self._rough_timer is not None:
                self._rough_timer.cancel()
            self._rough_timer = self._loop.call_later(PRECISE_AFTER_S, self._aim_precisely)

    def _aim_precisely(self) -> None:
        """Make one of the rough filters precise; each takes milliseconds, so the next one waits for its turn."""
        self._rough_timer = None
        name, protocol = next(iter(self._rough))
        del self._rough[name, protocol]
        known = self._open.get(name, {}).get(protocol)
        if known is not None:
            length = _PACKED_LENGTHS[protocol]
            with contextlib.suppress(OSError):  # A group that cannot be joined was reported when it was new.
                known.socket.set_targets([one for one in self._responder.answering(name) if len(one) == length])
        if self._rough:
            self._rough_timer = self._loop.call_later(PRECISE_AFTER_S, self._aim_precisely)

    def _arm(self) -> None:
        at = self._responder.wake_at()
        if self._timer is not None:
            if at is not None and self._timer.when() <= at and not self._timer.cancelled():
                return  # It rings early enough, and sets itself anew.
            self._timer.cancel()
        self._timer = None if at is None else self._loop.call_at(at, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._act(self._responder.tick(self._loop.time()))
        self._arm()

    def _read(self, name: InterfaceName, protocol: Protocol) -> None:
        known = self._open[name][protocol]
        read = _READERS[protocol]
        try:
            for frame in known.socket.frames():
                message = read(frame)
                if not isinstance(message, arp.Drop | ndp.Drop):
                    # Answers do not depend on the time.
                    self._act(self._responder.handle(Heard(name, message), 0.0))
        except OSError as error:
            self._log.debug("interface_read_failed", interface=name, protocol=protocol.value, error=str(error))

    def _act(self, effects: Iterable[Effect]) -> None:
        first: list[SendFrame] = []
        for effect in effects:
            match effect:
                case SendFrame():
                    if self._send(effect):
                        first.append(effect)
                case Claimed():
                    self._claimed(effect)
                case _:
                    assert_never(effect)
        for one in first:  # After all have been sent: writing lines takes longer than sending frames.
            self._log.info("first_garp_sent", address=str(one.address), interface=one.interface)

    def _send(self, one: SendFrame) -> bool:
        """Send and count a frame; whether it was the first that announces its address."""
        known = self._open[one.interface][_protocol_of(one.address)]
        if one.form.is_answer:
            self._counters.request_received(one.address)
        try:
            known.socket.send(one.frame)
        except OSError as error:
            if not known.failing:
                known.failing = True
                self._log.warning("sending_failed", interface=one.interface, error=str(error))
            return False
        known.failing = False
        if one.form.is_answer:
            self._counters.response_sent(one.address)
            return False
        self._counters.gratuitous_sent(one.address)
        if one.round == 0 and one.form is not Form.GRATUITOUS_REPLY:
            self._counters.first_announced(one.address, self._loop.time() - one.due)
            return True
        return False


_READERS: Final[Mapping[Protocol, Callable[[bytes], Message | arp.Drop | ndp.Drop]]] = {
    Protocol.ARP: arp.read,
    Protocol.NDP: ndp.read,
}
_PACKED_LENGTHS: Final = {Protocol.ARP: 4, Protocol.NDP: 16}


def _protocol_of(address: IPAddress) -> Protocol:
    return Protocol.ARP if address.version == 4 else Protocol.NDP


def _face(opened: Mapping[Protocol, _Open]) -> Face:
    link = opened[Protocol.ARP].link
    return Face(link.mac, link.carrier, link.link_local if Protocol.NDP in opened else None)
