"""Neighbour Discovery frames: read solicitations and advertisements, build announcements and answers (RFC 4861, RFC 4862).

The responder calls this, as it calls arp.py for IPv4. Whole Ethernet frames are read and made, because the sockets are packet
sockets: the kernel hands no unicast question for an address that is not its own to an ICMPv6 socket. Nothing here decides
whether to answer, except that what RFC 4861 section 7.1 tells a receiver to discard is dropped. Scapy's IPv6 layers would cost
25 MiB of memory in every speaker for two messages, so the bytes are put together here and Scapy judges them in the tests.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv6Address

ETHERTYPE_IPV6 = 0x86DD
ICMPV6 = 58
SOLICITATION = 135
ADVERTISEMENT = 136
HOP_LIMIT = 255
"""A router would have lowered it, so what carries it comes from this link (RFC 4861 section 3.1)."""
SOLICITED = 0x40
OVERRIDE = 0x20

ALL_NODES = IPv6Address("ff02::1").packed
ALL_NODES_MAC = bytes.fromhex("333300000001")
UNSPECIFIED = bytes(16)
_SOLICITED_NODE_PREFIX = IPv6Address("ff02::1:ff00:0").packed[:13]

# Offsets into an Ethernet frame without VLAN tag and an IPv6 packet without extension headers.
_DESTINATION_MAC = slice(0, 6)
_SOURCE_MAC = slice(6, 12)
_ETHERTYPE = slice(12, 14)
_PAYLOAD_LENGTH = slice(18, 20)
_NEXT_HEADER = 20
_HOP_LIMIT = 21
_SOURCE = slice(22, 38)
_DESTINATION = slice(38, 54)
_PAYLOAD = 54
_TYPE = 54
_CODE = 55
_FLAGS = 58
_TARGET = slice(62, 78)
_OPTIONS = 78
_SHORTEST = 24  # Octets of a solicitation or an advertisement without options.

_SOURCE_LINK_LAYER = 1
_TARGET_LINK_LAYER = 2
_IPV6_ETHERTYPE = ETHERTYPE_IPV6.to_bytes(2, "big")


class Drop(StrEnum):
    """Why a frame is not a message that could be believed or answered."""

    TOO_SHORT = "tooShort"
    NOT_NEIGHBOUR_DISCOVERY = "notNeighbourDiscovery"
    BAD_HOP_LIMIT = "badHopLimit"
    BAD_CODE = "badCode"
    BAD_LENGTH = "badLength"
    BAD_CHECKSUM = "badChecksum"
    BAD_TARGET = "badTarget"
    BAD_OPTION = "badOption"
    BAD_SOURCE = "badSource"
    BAD_DESTINATION = "badDestination"


@dataclass(frozen=True, slots=True)
class Solicitation:
    """A question "who has `target`?". MAC addresses have 6 bytes, IPv6 addresses 16.

    `asker_mac` is where an answer goes. `source` is unspecified (all zero) in a probe for duplicates (RFC 4862).
    """

    destination_mac: bytes
    asker_mac: bytes
    source: bytes
    target: bytes

    @property
    def is_probe(self) -> bool:
        """Whether somebody wants to use the address and asks if it is free."""
        return self.source == UNSPECIFIED


@dataclass(frozen=True, slots=True)
class Advertisement:
    """Somebody says that `target` is at `mac`. `source_mac` and `destination_mac` are the Ethernet header's."""

    source_mac: bytes
    mac: bytes
    source: bytes
    target: bytes
    destination_mac: bytes = ALL_NODES_MAC


def read(frame: bytes) -> Solicitation | Advertisement | Drop:
    """Read an Ethernet frame by the rules of RFC 4861 sections 7.1.1 and 7.1.2. Never raises.

    Beyond these, a solicitation must be sent to its target or to the target's solicited-node group (section 4.3), and an asker
    that is a group cannot be answered.
    """
    if len(frame) < _OPTIONS:
        return Drop.TOO_SHORT
    if frame[_ETHERTYPE] != _IPV6_ETHERTYPE or frame[14] >> 4 != 6 or frame[_NEXT_HEADER] != ICMPV6:
        return Drop.NOT_NEIGHBOUR_DISCOVERY
    if frame[_TYPE] not in {SOLICITATION, ADVERTISEMENT}:
        return Drop.NOT_NEIGHBOUR_DISCOVERY
    if frame[_HOP_LIMIT] != HOP_LIMIT:
        return Drop.BAD_HOP_LIMIT
    if frame[_CODE] != 0:
        return Drop.BAD_CODE
    length = int.from_bytes(frame[_PAYLOAD_LENGTH], "big")
    end = _PAYLOAD + length
    if length < _SHORTEST or end > len(frame):
        return Drop.BAD_LENGTH
    if _fold(_sum(frame[_SOURCE.start : end]) + length + ICMPV6) != 0xFFFF:
        return Drop.BAD_CHECKSUM
    target = frame[_TARGET]
    if target[0] == 0xFF or target == UNSPECIFIED:
        return Drop.BAD_TARGET
    options = _link_layer_options(frame[_OPTIONS:end])
    if options is None:
        return Drop.BAD_OPTION
    source_mac = frame[_SOURCE_MAC]
    if source_mac[0] & 1 or not any(source_mac) or frame[_SOURCE.start] == 0xFF:
        return Drop.BAD_SOURCE
    if frame[_TYPE] == SOLICITATION:
        return _solicitation(frame, source_mac, target, options)
    return _advertisement(frame, source_mac, target, options)


def _solicitation(frame: bytes, source_mac: bytes, target: bytes, options: dict[int, bytes]) -> Solicitation | Drop:
    source, destination = frame[_SOURCE], frame[_DESTINATION]
    asker = options.get(_SOURCE_LINK_LAYER)
    group = solicited_node(target)
    if source == UNSPECIFIED:
        if destination != group:
            return Drop.BAD_DESTINATION
        if asker is not None:
            return Drop.BAD_OPTION
    elif destination not in {target, group}:
        return Drop.BAD_DESTINATION
    asker = source_mac if asker is None else asker
    if asker[0] & 1 or not any(asker):
        return Drop.BAD_SOURCE
    return Solicitation(frame[_DESTINATION_MAC], asker, source, target)


def _advertisement(frame: bytes, source_mac: bytes, target: bytes, options: dict[int, bytes]) -> Advertisement | Drop:
    if frame[_DESTINATION.start] == 0xFF and frame[_FLAGS] & SOLICITED:
        return Drop.BAD_DESTINATION
    claimed = options.get(_TARGET_LINK_LAYER, source_mac)
    return Advertisement(source_mac, claimed, frame[_SOURCE], target, frame[_DESTINATION_MAC])


def _link_layer_options(options: bytes) -> dict[int, bytes] | None:
    """The link-layer addresses by option type; None if the options are malformed (RFC 4861 section 4.6)."""
    found: dict[int, bytes] = {}
    at = 0
    while at < len(options):
        if at + 2 > len(options):
            return None
        kind, size = options[at], options[at + 1] * 8
        if size == 0 or at + size > len(options):
            return None
        if kind in {_SOURCE_LINK_LAYER, _TARGET_LINK_LAYER}:
            if size != 8:
                return None  # Not the size of an Ethernet address.
            found.setdefault(kind, options[at + 2 : at + 8])
        at += size
    return found


def solicited_node(target: bytes) -> bytes:
    """The multicast group that questions for an address are sent to (RFC 4291 section 2.7.1), packed."""
    return _SOLICITED_NODE_PREFIX + target[13:]


def _sum(data: bytes) -> int:
    """The sum of the 16-bit words; a last odd octet counts as the upper half of a word (RFC 1071)."""
    if len(data) & 1:
        data += b"\0"
    return sum(struct.unpack(f"!{len(data) // 2}H", data))


def _fold(total: int) -> int:
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@dataclass(frozen=True, slots=True)
class Template:
    """A frame with zeros where addresses are to be filled in, and the sum of its words as the checksum takes it."""

    frame: bytes
    total: int


@dataclass(frozen=True, slots=True)
class Templates:
    """The two messages that an interface sends."""

    unsolicited: Template
    reply: Template


def templates(mac: bytes, link_local: bytes) -> Templates:
    """The messages of an interface with this MAC address (6 bytes) and link-local address (16 bytes), their source.

    Answers do not override what a neighbour believes, since while an address moves two nodes may answer and the announcement of
    the new owner is to have the last word (RFC 4861 section 7.2.4 wants the same of a proxy); announcements do.
    """
    return Templates(
        unsolicited=_template(mac, link_local, ALL_NODES_MAC, ALL_NODES, OVERRIDE),
        reply=_template(mac, link_local, bytes(6), UNSPECIFIED, SOLICITED),
    )


def _template(mac: bytes, source: bytes, destination_mac: bytes, destination: bytes, flags: int) -> Template:
    message = bytes([ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0]) + bytes(16) + bytes([_TARGET_LINK_LAYER, 1]) + mac
    header = bytes([0x60, 0, 0, 0]) + len(message).to_bytes(2, "big") + bytes([ICMPV6, HOP_LIMIT]) + source + destination
    frame = destination_mac + mac + _IPV6_ETHERTYPE + header + message
    return Template(frame, _sum(frame[_SOURCE.start :]) + len(message) + ICMPV6)


def announcement(template: Template, address: IPv6Address) -> bytes:
    """The unsolicited advertisement of an address, to all nodes (RFC 4861 section 7.2.6)."""
    return _finish(filled(template, address))


def filled(template: Template, address: IPv6Address) -> Template:
    """A template with an owned address as the target; reply_to() fills in the asker."""
    packed = address.packed
    frame = template.frame
    return Template(frame[: _TARGET.start] + packed + frame[_TARGET.stop :], template.total + _sum(packed))


def reply_to(question: Solicitation, prepared: Template) -> bytes:
    """The answer to a question that is no probe, from the filled() reply template: unicast to the asker."""
    frame, source = prepared.frame, question.source
    answered = question.asker_mac + frame[6 : _DESTINATION.start] + source + frame[_DESTINATION.stop :]
    return _finish(Template(answered, prepared.total + _sum(source)))


def _finish(template: Template) -> bytes:
    checksum = 0xFFFF - _fold(template.total)
    return template.frame[:56] + checksum.to_bytes(2, "big") + template.frame[58:]
