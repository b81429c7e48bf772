"""The machine that answers ARP for owned addresses and announces those that were taken over.

engine.py feeds it what to own, which interfaces exist and what was asked, and sends the frames it returns. It keeps the owned
set per interface and the announcements that are still to be repeated. It never looks at a clock: time comes in as `now`.
It decides neither what to own nor on which interface; after an address is withdrawn nothing more is sent for it.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address
from itertools import count
from typing import assert_never

from config.model import InterfaceName
from speaker.layer2 import arp

ANNOUNCE_GAP_S = 1.1
"""Linux keeps a neighbour entry for at least locktime, 1 s, and ignores updates that come sooner. arp(7)."""
ANNOUNCE_ROUNDS = 5
"""As many as MetalLB sends within its window of 5 s."""
STEP_ADDRESSES = 128
"""Announcements per interface in one step, two frames each: short enough for the loop, for the socket and for a switch."""
STEP_GAP_S = 0.005
"""Pause of an interface after a full step."""


@dataclass(frozen=True, slots=True)
class Own:
    """From now on the addresses belong to these interfaces; an address with no interface is withdrawn. Others stay."""

    changes: Mapping[IPv4Address, frozenset[InterfaceName]]


@dataclass(frozen=True, slots=True)
class Face:
    """What an interface shows to its neighbours: 6 bytes of MAC, and whether a cable is attached."""

    mac: bytes
    carrier: bool = True


@dataclass(frozen=True, slots=True)
class Faces:
    """All interfaces that may announce, replacing those known before."""

    faces: Mapping[InterfaceName, Face]


@dataclass(frozen=True, slots=True)
class Heard:
    """A request that came in on an interface."""

    interface: InterfaceName
    request: arp.ArpRequest


Event = Own | Faces | Heard


class Form(StrEnum):
    """Which kind of frame is sent."""

    GRATUITOUS_REQUEST = "gratuitous request"
    GRATUITOUS_REPLY = "gratuitous reply"
    REPLY = "reply"


@dataclass(frozen=True, slots=True)
class SendFrame:
    """Send an Ethernet frame on an interface; `address` is what it is about, `round` counts announcements from 0."""

    interface: InterfaceName
    frame: bytes
    address: IPv4Address
    form: Form
    round: int = 0


@dataclass(frozen=True, slots=True, order=True)
class _Due:
    at: float
    turn: int
    interface: InterfaceName = field(compare=False)
    address: IPv4Address = field(compare=False)
    round: int = field(compare=False)


@dataclass(slots=True)
class _Port:
    """One interface: its frames, the replies ready to be sent by packed address, the announcements to come."""

    face: Face
    templates: arp.Templates
    replies: dict[bytes, tuple[IPv4Address, bytes]] = field(default_factory=dict)
    due: list[_Due] = field(default_factory=list)
    turn_of: dict[IPv4Address, int] = field(default_factory=dict)  # The valid entry of `due` for an address.
    resume_at: float = float("-inf")


class Responder:
    """Machine: handle(event, now), tick(now), wake_at(). Times are seconds of any monotonic clock."""

    def __init__(self) -> None:
        self._owned: dict[IPv4Address, frozenset[InterfaceName]] = {}
        self._ports: dict[InterfaceName, _Port] = {}
        self._turns = count()

    def handle(self, event: Event, now: float) -> list[SendFrame]:
        """Take one event in; the frames to send at once, in order."""
        match event:
            case Heard():
                return self._answer(event)
            case Own():
                self._own(event.changes, now)
            case Faces():
                self._show(event.faces, now)
            case _:
                assert_never(event)
        return self.tick(now)

    def owned(self) -> Mapping[IPv4Address, frozenset[InterfaceName]]:
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
            assert answered == {address for address, on in self._owned.items() if name in on}, f"{name} answers {answered}"
            assert set(port.turn_of) <= answered, f"{name} announces addresses it does not answer for"
        assert all(self._owned.values()), "an address is owned on no interface"

    def _answer(self, heard: Heard) -> list[SendFrame]:
        port = self._ports.get(heard.interface)
        if port is None:
            return []
        request = heard.request
        found = port.replies.get(request.target)
        if found is None:
            return []
        if request.destination not in (arp.BROADCAST, port.face.mac) or request.sender_mac == port.face.mac:
            return []
        address, prepared = found
        return [SendFrame(heard.interface, arp.reply_to(request, prepared), address, Form.REPLY)]

    def _own(self, changes: Mapping[IPv4Address, frozenset[InterfaceName]], now: float) -> None:
        for address, interfaces in changes.items():
            before = self._owned.get(address, frozenset())
            if interfaces:
                self._owned[address] = interfaces
            else:
                self._owned.pop(address, None)
            for name in sorted(before - interfaces):
                self._silence(name, address)
            for name in sorted(interfaces - before):
                self._take(name, address, now)

    def _show(self, faces: Mapping[InterfaceName, Face], now: float) -> None:
        for name in sorted(self._ports.keys() - faces.keys()):
            del self._ports[name]
        for name, face in sorted(faces.items()):
            port = self._ports.get(name)
            if port is not None and port.face.mac == face.mac:
                regained = face.carrier and not port.face.carrier
                port.face = face
                if regained:
                    for address, _ in port.replies.values():
                        self._begin(name, port, address, now)
                continue
            self._ports[name] = _Port(face, arp.templates(face.mac))
            for address in [address for address, on in self._owned.items() if name in on]:
                self._take(name, address, now)

    def _take(self, name: InterfaceName, address: IPv4Address, now: float) -> None:
        port = self._ports.get(name)
        if port is None:
            return  # Announced when the interface appears.
        port.replies[address.packed] = (address, arp.reply_for(port.templates.reply, address))
        self._begin(name, port, address, now)

    def _silence(self, name: InterfaceName, address: IPv4Address) -> None:
        port = self._ports.get(name)
        if port is not None:
            port.replies.pop(address.packed, None)
            port.turn_of.pop(address, None)

    def _begin(self, name: InterfaceName, port: _Port, address: IPv4Address, now: float) -> None:
        """Start the announcements of an address on an interface anew."""
        self._schedule(port, _Due(now, next(self._turns), name, address, 0))

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
            for form, template in (
                (Form.GRATUITOUS_REQUEST, port.templates.gratuitous_request),
                (Form.GRATUITOUS_REPLY, port.templates.gratuitous_reply),
            ):
                frame = arp.announcement(template, due.address)
                frames.append(SendFrame(due.interface, frame, due.address, form, due.round))
            if due.round + 1 < ANNOUNCE_ROUNDS:
                self._schedule(port, _Due(now + ANNOUNCE_GAP_S, next(self._turns), due.interface, due.address, due.round + 1))
            else:
                del port.turn_of[due.address]
        return frames
