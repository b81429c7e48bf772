"""Read what matters to a load balancer out of Ethernet frames: ARP, IPv6 neighbour discovery, gossip. Pure; a second opinion.

Used by lab.timeline and by the checkers of lab.verdicts on captures. It shares no code with the product's own codecs, so that a mistake
there is seen here. What is none of these, or cut short, is None: a capture holds all sorts of things. Sources: RFC 826,
RFC 5227 (ARP), RFC 4861 (neighbour discovery), RFC 768 and 793 (ports).
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Final

import msgspec

GOSSIP_PORT: Final = 7946
_ETHERNET: Final = struct.Struct("!6s6sH")
_ARP: Final = struct.Struct("!HHBBH6s4s6s4s")
_IPV4: Final = struct.Struct("!BBHHHBBH4s4s")
_IPV6: Final = struct.Struct("!IHBB16s16s")
_PORTS: Final = struct.Struct("!HH")
_NDP: Final = struct.Struct("!BBHI16s")
_NS: Final = 135
_NA: Final = 136
_LINK_ADDRESS: Final = {_NS: 1, _NA: 2}
"""The option with the link-layer address: of the source in a solicitation, of the target in an advertisement."""


class Arp(msgspec.Struct, frozen=True, kw_only=True, tag="arp"):
    """An ARP packet for IPv4. `operation` 1 asks, 2 answers; `from_mac` and `to_mac` are the frame's own."""

    at: float
    from_mac: str
    to_mac: str
    operation: int
    sender_mac: str
    sender: str
    target_mac: str
    target: str

    @property
    def claims(self) -> tuple[str, str] | None:
        """The address and MAC address whose binding this frame asserts; a probe (RFC 5227 section 1.1) asserts none."""
        return None if self.sender == "0.0.0.0" else (self.sender, self.sender_mac)  # noqa: S104 - an address, not a listener

    @property
    def gratuitous(self) -> bool:
        """Whether it announces: sender and target are one address."""
        return self.sender == self.target

    def __str__(self) -> str:
        if self.gratuitous:
            return f"gratuitous ARP: {self.sender} is at {self.sender_mac}"
        if self.operation == 1:
            return f"ARP: {self.sender} asks for {self.target}"
        return f"ARP: {self.sender} is at {self.sender_mac}, to {self.target}"


class Ndp(msgspec.Struct, frozen=True, kw_only=True, tag="ndp"):
    """A neighbour solicitation or advertisement. `link_address` is empty when the option is missing."""

    at: float
    from_mac: str
    to_mac: str
    advertisement: bool
    source: str
    destination: str
    target: str
    link_address: str
    solicited: bool = False
    override: bool = False

    @property
    def claims(self) -> tuple[str, str] | None:
        """The address and MAC address whose binding this frame asserts."""
        return (self.target, self.link_address or self.from_mac) if self.advertisement else None

    @property
    def gratuitous(self) -> bool:
        """Whether nobody asked for it."""
        return self.advertisement and not self.solicited

    def __str__(self) -> str:
        if not self.advertisement:
            return f"neighbour solicitation: {self.source} asks for {self.target}"
        kind = "neighbour advertisement" if self.solicited else "unsolicited neighbour advertisement"
        return f"{kind}: {self.target} is at {self.link_address}{', override' if self.override else ''}"


class Gossip(msgspec.Struct, frozen=True, kw_only=True, tag="gossip"):
    """A packet of the speakers' gossip. What it says is encrypted."""

    at: float
    source: str
    destination: str
    transport: str
    size: int

    @property
    def claims(self) -> None:
        """Nothing about who has an address."""
        return

    def __str__(self) -> str:
        return f"gossip: {self.source} to {self.destination}, {self.transport}, {self.size} bytes"


Frame = Arp | Ndp | Gossip


def read(frame: bytes, *, at: float) -> Frame | None:
    """An Ethernet frame as one of these; None when it is something else."""
    if len(frame) < _ETHERNET.size:
        return None
    to_mac, from_mac, kind = _ETHERNET.unpack_from(frame)
    body = frame[_ETHERNET.size :]
    match kind:
        case 0x0806:
            return _arp(body, at, from_mac.hex(":"), to_mac.hex(":"))
        case 0x0800 if len(body) >= _IPV4.size:
            head, *_, protocol, _, source, destination = _IPV4.unpack_from(body)
            payload = body[(head & 0x0F) * 4 :]
            return _gossip(payload, at, protocol, str(IPv4Address(source)), str(IPv4Address(destination)))
        case 0x86DD if len(body) >= _IPV6.size:
            _, _, protocol, hops, source, destination = _IPV6.unpack_from(body)
            payload, ends = body[_IPV6.size :], (str(IPv6Address(source)), str(IPv6Address(destination)))
            if protocol == 58 and hops == 255:  # RFC 4861 section 7.1: with fewer hops it came from elsewhere.
                return _ndp(payload, at, (from_mac.hex(":"), to_mac.hex(":")), ends)
            return _gossip(payload, at, protocol, *ends)
    return None


def _arp(body: bytes, at: float, from_mac: str, to_mac: str) -> Arp | None:
    if len(body) < _ARP.size:
        return None
    hardware, protocol, _, _, operation, sender_mac, sender, target_mac, target = _ARP.unpack_from(body)
    if (hardware, protocol) != (1, 0x0800):
        return None
    return Arp(
        at=at,
        from_mac=from_mac,
        to_mac=to_mac,
        operation=operation,
        sender_mac=sender_mac.hex(":"),
        sender=str(IPv4Address(sender)),
        target_mac=target_mac.hex(":"),
        target=str(IPv4Address(target)),
    )


def _ndp(body: bytes, at: float, macs: tuple[str, str], ends: tuple[str, str]) -> Ndp | None:
    if len(body) < _NDP.size:
        return None
    kind, _, _, flags, target = _NDP.unpack_from(body)
    if kind not in _LINK_ADDRESS:
        return None
    link_address, options = "", body[_NDP.size :]
    while len(options) >= 8 and options[1]:
        if options[0] == _LINK_ADDRESS[kind]:
            link_address = options[2:8].hex(":")
        options = options[options[1] * 8 :]
    return Ndp(
        at=at,
        from_mac=macs[0],
        to_mac=macs[1],
        advertisement=kind == _NA,
        source=ends[0],
        destination=ends[1],
        target=str(IPv6Address(target)),
        link_address=link_address,
        solicited=kind == _NA and bool(flags & 0x4000_0000),
        override=kind == _NA and bool(flags & 0x2000_0000),
    )


def _gossip(body: bytes, at: float, protocol: int, source: str, destination: str) -> Gossip | None:
    transport = {6: "TCP", 17: "UDP"}.get(protocol)
    if transport is None or len(body) < _PORTS.size or GOSSIP_PORT not in _PORTS.unpack_from(body):
        return None
    return Gossip(at=at, source=source, destination=destination, transport=transport, size=len(body))
