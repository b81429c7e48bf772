"""ARP frames: read requests and replies, build announcements and replies (RFC 826, RFC 5227).

The responder calls this. Scapy builds one frame of each form per interface; the addresses of a particular case are then
written into those bytes, because building a frame anew costs a hundred times more than patching it, and a taken-over node may
own thousands of addresses. Nothing here decides whether to answer, except that what is not well-formed is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address

from scapy.layers.l2 import ARP, Ether

BROADCAST = b"\xff" * 6
ETHERTYPE_ARP = 0x0806
REQUEST = 1
REPLY = 2
SHORTEST_FRAME = 60
"""Octets of the shortest Ethernet frame without its check sequence (IEEE 802.3); shorter frames are padded with zeros."""

# Offsets into a frame without VLAN tag (RFC 826 with hardware type 1 and protocol type 0x0800).
_DESTINATION = slice(0, 6)
_FIXED = slice(12, 20)  # EtherType, hardware type, protocol type, lengths of the addresses.
_OPCODE = slice(20, 22)
_SENDER_MAC = slice(22, 28)
_SENDER_IP = slice(28, 32)
_TARGET_IP = slice(38, 42)
_LENGTH = 42

_ETHERNET_IPV4 = bytes.fromhex("0806 0001 0800 06 04")
_OPCODE_REQUEST = REQUEST.to_bytes(2, "big")
_OPCODE_REPLY = REPLY.to_bytes(2, "big")


class Drop(StrEnum):
    """Why a frame is not a message that could be believed or answered."""

    TOO_SHORT = "tooShort"
    NOT_ETHERNET_IPV4 = "notEthernetIPv4"
    UNKNOWN_OPCODE = "unknownOpcode"
    BAD_SENDER = "badSender"


@dataclass(frozen=True, slots=True)
class ArpRequest:
    """A question "who has `target`?". Addresses are packed: 6 bytes of MAC, 4 bytes of IPv4."""

    destination: bytes
    sender_mac: bytes
    sender_ip: bytes
    target: bytes


@dataclass(frozen=True, slots=True)
class ArpReply:
    """Somebody says that `sender_ip` is at `sender_mac`, asked or not. `destination` is the Ethernet header's."""

    sender_mac: bytes
    sender_ip: bytes
    destination: bytes = BROADCAST


def read(frame: bytes) -> ArpRequest | ArpReply | Drop:
    """Read an Ethernet frame; anything but a well-formed ARP request or reply is named and dropped. Never raises.

    A sender that is a group address or zero cannot be answered by unicast nor own an address, so such a frame is malformed.
    """
    if len(frame) < _LENGTH:
        return Drop.TOO_SHORT
    if frame[_FIXED] != _ETHERNET_IPV4:
        return Drop.NOT_ETHERNET_IPV4
    opcode = frame[_OPCODE]
    if opcode not in {_OPCODE_REQUEST, _OPCODE_REPLY}:
        return Drop.UNKNOWN_OPCODE
    sender = frame[_SENDER_MAC]
    if sender[0] & 1 or not any(sender):
        return Drop.BAD_SENDER
    if opcode == _OPCODE_REPLY:
        return ArpReply(sender, frame[_SENDER_IP], frame[_DESTINATION])
    return ArpRequest(frame[_DESTINATION], sender, frame[_SENDER_IP], frame[_TARGET_IP])


@dataclass(frozen=True, slots=True)
class Templates:
    """The three frames that an interface sends, with zeros where the address and the asker go."""

    gratuitous_request: bytes
    gratuitous_reply: bytes
    reply: bytes


def templates(mac: bytes) -> Templates:
    """Build the frames of an interface with Scapy. `mac` is its hardware address, 6 bytes."""
    text = mac.hex(":")
    return Templates(
        gratuitous_request=_build(text, BROADCAST, REQUEST, BROADCAST),
        gratuitous_reply=_build(text, BROADCAST, REPLY, BROADCAST),
        reply=_build(text, bytes(6), REPLY, bytes(6)),
    )


def _build(source: str, destination: bytes, opcode: int, target_mac: bytes) -> bytes:
    ethernet = Ether(src=source, dst=destination.hex(":"), type=ETHERTYPE_ARP)
    arp = ARP(op=opcode, hwsrc=source, psrc="0.0.0.0", hwdst=target_mac.hex(":"), pdst="0.0.0.0")  # noqa: S104  # Not a socket.
    return bytes(ethernet / arp).ljust(SHORTEST_FRAME, b"\0")


def announcement(template: bytes, address: IPv4Address) -> bytes:
    """A gratuitous frame for an address: it is sender and target at once (RFC 5227 section 3)."""
    packed = address.packed
    return template[:28] + packed + template[32:38] + packed + template[42:]


def reply_for(template: bytes, address: IPv4Address) -> bytes:
    """The reply template of an interface with an owned address filled in; reply_to() fills in the asker."""
    return template[:28] + address.packed + template[32:]


def reply_to(request: ArpRequest, prepared: bytes) -> bytes:
    """The reply to a request, from what reply_for() prepared: unicast to the asker (RFC 826)."""
    mac = request.sender_mac
    return mac + prepared[6:32] + mac + request.sender_ip + prepared[42:]
