"""The machine that answers ARP and NDP for owned addresses and announces those that were taken over.

engine.py feeds it what to own, which interfaces exist and what was heard, and sends the frames it returns. It keeps the owned
set per interface and the announcements that are still to be repeated. It never looks at a clock: time comes in as `now`.
It decides neither what to own nor on which interface; after an address is withdrawn nothing more is sent for it. It notices
when somebody else speaks for an address that is owned here, and leaves it to others to say what that means.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from itertools import count
from typing import assert_never

from config.model import InterfaceName, IPAddress
from speaker.layer2 import arp, ndp

ANNOUNCE_GAP_S = 1.1
"""Linux keeps a neighbour entry for at least locktime, 1 s, and ignores updates that come sooner. arp(7)."""
ANNOUNCE_ROUNDS = 5
"""As many as MetalLB sends within its window of 5 s."""
STEP_ADDRESSES = 128
"""Announcements per interface in one step, two frames each: short enough for the loop, for the socket and for a switch."""
STEP_GAP_S = 0.005
"""Pause of an interface after a full step."""


Message = arp.ArpRequest | arp.ArpReply | ndp.Solicitation | ndp.Advertisement


@dataclass(frozen=True, slots=True)
class Own:
    """From now on the addresses belong to these interfaces; an address with no interface is withdrawn. Others stay."""

    changes: Mapping[IPAddress, frozenset[InterfaceName]]


@dataclass(frozen=True, slots=True)
class Fade:
    """Announce these addresses no more, but go on answering: they are about to belong to another node."""

    addresses: frozenset[IPAddress]


@dataclass(frozen=True, slots=True)
class Announce:
    """Begin the announcements of these addresses anew, where they are owned; or announce them just once."""

    addresses: frozenset[IPAddress]
    once: bool = False


@dataclass(frozen=True, slots=True)
class Face:
    """What an interface shows to its neighbours: 6 bytes of MAC, and whether a cable is attached.

    `link_local` is the source of what is said by NDP, 16 bytes; without one IPv6 addresses are not served there.
    """

    mac: bytes
    carrier: bool = True
    link_local: bytes | None = None


@dataclass(frozen=True, slots=True)
class Faces:
    """All interfaces that may announce, replacing those known before."""

    faces: Mapping[InterfaceName, Face]


@dataclass(frozen=True, slots=True)
class Heard:
    """A message that came in on an interface."""

    interface: InterfaceName
    message: Message


Event = Own | Fade | Announce | Faces | Heard


class Form(StrEnum):
    """Which kind of frame is sent."""

    GRATUITOUS_REQUEST = "gratuitous request"
    GRATUITOUS_REPLY = "gratuitous reply"
    REPLY = "reply"
    UNSOLICITED_ADVERTISEMENT = "unsolicited advertisement"
    SOLICITED_ADVERTISEMENT = "solicited advertisement"
    PROBE_ANSWER = "answer to a probe for duplicates"

    @property
    def is_answer(self) -> bool:
        """Whether the frame was asked for."""
        return self in {Form.REPLY, Form.SOLICITED_ADVERTISEMENT, Form.PROBE_ANSWER}


@dataclass(frozen=True, slots=True)
class SendFrame:
    """Send an Ethernet frame on an interface; `address` is what it is about, `round` counts announcements from 0.

    `due` is when an announcement should have been sent; pacing may have made it later.
    """

    interface: InterfaceName
    frame: bytes
    address: IPAddress
    form: Form
    round: int = 0
    due: float = 0.0


@dataclass(frozen=True, slots=True)
class Claimed:
    """Somebody with another MAC address, 6 bytes, says that an address which is owned here is theirs.

    `to_all` tells an announcement from an answer to one machine: an owner also answers the first announcement of the next one.
    """

    interface: InterfaceName
    address: IPAddress
    mac: bytes
    to_all: bool = True


Effect = SendFrame | Claimed


@dataclass(frozen=True, slots=True, order=True)
class _Due:
    at: float
    turn: int
    interface: InterfaceName = field(compare=False)
    address: IPAddress = field(compare=False)
    round: int = field(compare=False)


@dataclass(slots=True)
class _Port:
    """One interface: its frames, the replies ready to be sent by packed address, the announcements to come."""

    face: Face
    arp_frames: arp.Templates
    ndp_frames: ndp.Templates | None
    replies: dict[bytes, tuple[IPAddress, bytes | ndp.Template]] = field(default_factory=dict)
    due: list[_Due] = field(default_factory=list)
    turn_of: dict[IPAddress, int] = field(default_factory=dict)  # The valid entry of `due` for an address.
    resume_at: float = float("-inf")

    def serves(self, address: IPAddress) -> bool:
        """Whether the interface can speak for an address of this family."""
        return isinstance(address, IPv4Address) or self.ndp_frames is not None


class Responder:
    """Machine: handle(event, now), tick(now), wake_at(). Times are seconds of any monotonic clock."""

    def __init__(self) -> None:
        self._owned: dict[IPAddress, frozenset[InterfaceName]] = {}
        self._ports: dict[InterfaceName, _Port] = {}
        self._macs: frozenset[bytes] = frozenset()
        self._fading: set[IPAddress] = set()
        self._turns = count()

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event in; what was noticed and the frames to send at once, in order."""
        match event:
            case Heard():
                return self._listen(event)
            case Own():
                self._own(event.changes, now)
            case Fade():
                self._fade(event.addresses)
            case Announce():
                self._announce(event, now)
            case Faces():
                self._show(event.faces, now)
            case _:
                assert_never(event)
        return [*self.tick(now)]

    def owned(self) -> Mapping[IPAddress, frozenset[InterfaceName]]:
        """Which address belongs to which interfaces, whether those exist now or not."""
        return self._owned

    def answering(self, interface: InterfaceName) -> Iterable[bytes]:
        """The packed addresses that are answered on an interface."""
        port = self._ports.get(interface)
        return () if port is None else port.replies.keys()

    def tick(self, now: float) -> list[SendFrame]:
        """Send the announcements that are due, up to STEP_ADDRESSES per interface."""
        frames: list[SendFrame] = []
        for port in self._ports.values():
            if now >= port.resume_at:
                frames += self._announce_due(port, now)
        return frames

    def wake_at(self) -> float | None:
        """When tick() is due next; None if nothing is to be announced."""
        times = [max(port.due[0].at, port.resume_at) for port in self._ports.values() if port.due]
        return min(times, default=None)

    def check_invariants(self) -> None:
        """Assert that replies and announcements exist for owned addresses only, and for all of them."""
        for name, port in self._ports.items():
            answered = {address for address, _ in port.replies.values()}
            wanted = {address for address, on in self._owned.items() if name in on and port.serves(address)}
            assert answered == wanted, f"{name} answers {answered}"
            assert set(port.turn_of) <= answered, f"{name} announces addresses it does not answer for"
            assert not self._fading & set(port.turn_of), f"{name} announces what is about to belong to another node"
        assert self._fading <= self._owned.keys(), "an address that is not owned fades"
        assert all(self._owned.values()), "an address is owned on no interface"

    def _listen(self, heard: Heard) -> list[Effect]:
        port = self._ports.get(heard.interface)
        if port is None:
            return []
        match heard.message:
            case arp.ArpRequest() as request:
                return [
                    *self._claim(heard.interface, port, request.sender_ip, request.sender_mac, request.destination),
                    *_reply(heard, port, request),
                ]
            case arp.ArpReply() as reply:
                return self._claim(heard.interface, port, reply.sender_ip, reply.sender_mac, reply.destination)
            case ndp.Solicitation() as question:
                return _advertise(heard, port, question)
            case ndp.Advertisement() as said:
                if said.source_mac in self._macs:
                    return []
                return self._claim(heard.interface, port, said.target, said.mac, said.destination_mac)
            case _:
                assert_never(heard.message)

    def _claim(self, interface: InterfaceName, port: _Port, claimed: bytes, mac: bytes, destination: bytes) -> list[Effect]:
        found = port.replies.get(claimed)
        to_all = bool(destination[0] & 1)
        return [] if found is None or mac in self._macs else [Claimed(interface, found[0], mac, to_all)]

    def _own(self, changes: Mapping[IPAddress, frozenset[InterfaceName]], now: float) -> None:
        for address, interfaces in changes.items():
            self._fading.discard(address)
            before = self._owned.get(address, frozenset())
            if interfaces:
                self._owned[address] = interfaces
            else:
                self._owned.pop(address, None)
            for name in sorted(before - interfaces):
                self._silence(name, address)
            for name in sorted(interfaces - before):
                self._take(name, address, now)

    def _announce(self, event: Announce, now: float) -> None:
        first = ANNOUNCE_ROUNDS - 1 if event.once else 0
        for name, port in self._ports.items():
            for address, _ in list(port.replies.values()):
                if address in event.addresses and not (event.once and address in port.turn_of):
                    self._begin(name, port, address, now, first)

    def _fade(self, addresses: frozenset[IPAddress]) -> None:
        self._fading |= addresses & self._owned.keys()
        for port in self._ports.values():
            for address in addresses:
                port.turn_of.pop(address, None)

    def _show(self, faces: Mapping[InterfaceName, Face], now: float) -> None:
        self._macs = frozenset(face.mac for face in faces.values())
        for name in sorted(self._ports.keys() - faces.keys()):
            del self._ports[name]
        for name, face in sorted(faces.items()):
            port = self._ports.get(name)
            if port is not None and port.face.mac == face.mac:
                regained = face.carrier and not port.face.carrier
                moved = face.link_local != port.face.link_local
                port.face = face
                if moved:
                    self._move(name, port, now)
                if regained:
                    for address, _ in port.replies.values():
                        self._begin(name, port, address, now)
                continue
            self._ports[name] = _Port(face, arp.templates(face.mac), _ndp_templates(face))
            for address in [address for address, on in self._owned.items() if name in on]:
                self._take(name, address, now)

    def _move(self, name: InterfaceName, port: _Port, now: float) -> None:
        """The interface got, lost or changed its link-local address: what is said by NDP has another source, or none."""
        served = port.ndp_frames is not None
        port.ndp_frames = _ndp_templates(port.face)
        for address in [address for address, on in self._owned.items() if name in on and isinstance(address, IPv6Address)]:
            if port.ndp_frames is None:
                self._silence(name, address)
            elif served:
                port.replies[address.packed] = (address, ndp.filled(port.ndp_frames.reply, address))
            else:
                self._take(name, address, now)

    def _take(self, name: InterfaceName, address: IPAddress, now: float) -> None:
        port = self._ports.get(name)
        if port is None or not port.serves(address):
            return  # Announced when the interface appears, or its link-local address.
        if isinstance(address, IPv4Address):
            port.replies[address.packed] = (address, arp.reply_for(port.arp_frames.reply, address))
        else:
            assert port.ndp_frames is not None
            port.replies[address.packed] = (address, ndp.filled(port.ndp_frames.reply, address))
        self._begin(name, port, address, now)

    def _silence(self, name: InterfaceName, address: IPAddress) -> None:
        port = self._ports.get(name)
        if port is not None:
            port.replies.pop(address.packed, None)
            port.turn_of.pop(address, None)

    def _begin(self, name: InterfaceName, port: _Port, address: IPAddress, now: float, first: int = 0) -> None:
        """Start the announcements of an address on an interface anew, or only those from some round on."""
        if address in self._fading:
            return
        self._schedule(port, _Due(now, next(self._turns), name, address, first))

    @staticmethod
    def _schedule(port: _Port, due: _Due) -> None:
        heapq.heappush(port.due, due)
        port.turn_of[due.address] = due.turn

    def _announce_due(self, port: _Port, now: float) -> list[SendFrame]:
        frames: list[SendFrame] = []
        announced = 0
        while port.due and port.due[0].at <= now:
            if announced == STEP_ADDRESSES:
                port.resume_at = now + STEP_GAP_S
                break
            due = heapq.heappop(port.due)
            if port.turn_of.get(due.address) != due.turn:
                continue  # Withdrawn or begun anew since.
            announced += 1
            frames += [
                SendFrame(due.interface, frame, due.address, form, due.round, due.at)
                for form, frame in _announcements(port, due.address)
            ]
            if due.round + 1 < ANNOUNCE_ROUNDS:
                self._schedule(port, _Due(now + ANNOUNCE_GAP_S, next(self._turns), due.interface, due.address, due.round + 1))
            else:
                del port.turn_of[due.address]
        return frames


def _ndp_templates(face: Face) -> ndp.Templates | None:
    return None if face.link_local is None else ndp.templates(face.mac, face.link_local)


def _announcements(port: _Port, address: IPAddress) -> list[tuple[Form, bytes]]:
    """What one round says about an address: both forms of gratuitous ARP, or one advertisement."""
    if isinstance(address, IPv4Address):
        return [
            (Form.GRATUITOUS_REQUEST, arp.announcement(port.arp_frames.gratuitous_request, address)),
            (Form.GRATUITOUS_REPLY, arp.announcement(port.arp_frames.gratuitous_reply, address)),
        ]
    assert port.ndp_frames is not None
    return [(Form.UNSOLICITED_ADVERTISEMENT, ndp.announcement(port.ndp_frames.unsolicited, address))]


def _reply(heard: Heard, port: _Port, request: arp.ArpRequest) -> list[Effect]:
    found = port.replies.get(request.target)
    if found is None or request.destination not in {arp.BROADCAST, port.face.mac} or request.sender_mac == port.face.mac:
        return []
    address, prepared = found
    assert isinstance(prepared, bytes)
    return [SendFrame(heard.interface, arp.reply_to(request, prepared), address, Form.REPLY)]


def _advertise(heard: Heard, port: _Port, question: ndp.Solicitation) -> list[Effect]:
    """Answer the asker; a probe for duplicates is answered to all, since its sender has no address yet (RFC 4861 7.2.4)."""
    found = port.replies.get(question.target)
    if found is None or question.asker_mac == port.face.mac:
        return []
    if not question.destination_mac[0] & 1 and question.destination_mac != port.face.mac:
        return []
    address, prepared = found
    if question.is_probe:
        assert isinstance(address, IPv6Address)
        assert port.ndp_frames is not None
        answer = ndp.announcement(port.ndp_frames.unsolicited, address)
        return [SendFrame(heard.interface, answer, address, Form.PROBE_ANSWER)]
    assert isinstance(prepared, ndp.Template)
    return [SendFrame(heard.interface, ndp.reply_to(question, prepared), address, Form.SOLICITED_ADVERTISEMENT)]
