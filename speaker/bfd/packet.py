"""The BFD control packet as bytes and as a value (RFC 5880 section 4.1).

Used by session.py to say something and by engine.py to read what arrived. It judges what a packet alone can show (the first
steps of RFC 5880 section 6.8.6); which session it belongs to is found elsewhere. Authentication is not offered: a packet that
carries any is refused, as the RFC asks of a session without it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final

VERSION: Final = 1
LENGTH: Final = 24
"""Bytes of a control packet without authentication."""
_LENGTH_WITH_AUTHENTICATION: Final = 26
_LAYOUT: Final = struct.Struct("!BBBBIIIII")


class State(IntEnum):
    """bfd.SessionState, as on the wire (RFC 5880 section 4.1)."""

    ADMIN_DOWN = 0
    DOWN = 1
    INIT = 2
    UP = 3


class Diagnostic(IntEnum):
    """Why a session left Up, as on the wire (RFC 5880 section 4.1)."""

    NONE = 0
    DETECTION_TIME_EXPIRED = 1
    ECHO_FAILED = 2
    NEIGHBOR_SIGNALED_DOWN = 3
    FORWARDING_PLANE_RESET = 4
    PATH_DOWN = 5
    CONCATENATED_PATH_DOWN = 6
    ADMINISTRATIVELY_DOWN = 7
    REVERSE_CONCATENATED_PATH_DOWN = 8


class Refusal(StrEnum):
    """Why a packet was ignored; the value is the label of the counter."""

    SHORT = "short"
    VERSION = "version"
    LENGTH = "length"
    MULTIPLIER = "multiplier"
    MULTIPOINT = "multipoint"
    NO_DISCRIMINATOR = "no_discriminator"
    NOBODY = "nobody"
    """Your Discriminator is zero although the sender says it hears us."""
    AUTHENTICATION = "authentication"
    POLL_AND_FINAL = "poll_and_final"
    TTL = "ttl"
    UNKNOWN_SESSION = "unknown_session"
    WRONG_ADDRESS = "wrong_address"
    ADMIN_DOWN = "admin_down"


class PacketError(Exception):
    """A packet that must be ignored; `refusal` says why."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.value)
        self.refusal = refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlPacket:
    """A control packet without authentication. Intervals in microseconds, as on the wire; discriminators are 32 bits."""

    state: State
    my_discriminator: int
    your_discriminator: int
    desired_min_tx_us: int
    required_min_rx_us: int
    detect_multiplier: int
    diagnostic: int = Diagnostic.NONE
    """0 to 31; of those only the values of Diagnostic have a meaning yet, and the others are no reason to refuse a packet."""
    poll: bool = False
    final: bool = False
    demand: bool = False
    control_plane_independent: bool = False
    required_min_echo_rx_us: int = 0


def encode(packet: ControlPacket) -> bytes:
    """Return the 24 bytes of a packet (RFC 5880 section 4.1)."""
    flags = packet.poll << 5 | packet.final << 4 | packet.control_plane_independent << 3 | packet.demand << 1
    return _LAYOUT.pack(
        VERSION << 5 | packet.diagnostic,
        packet.state << 6 | flags,
        packet.detect_multiplier,
        LENGTH,
        packet.my_discriminator,
        packet.your_discriminator,
        packet.desired_min_tx_us,
        packet.required_min_rx_us,
        packet.required_min_echo_rx_us,
    )


def decode(data: bytes) -> ControlPacket:
    """Read the payload of a UDP datagram. Bytes behind the packet's own length are ignored.

    Raises:
        PacketError: it must be ignored (RFC 5880 section 6.8.6, up to the selection of a session).

    """
    if len(data) < LENGTH:
        raise PacketError(Refusal.SHORT)
    first, second, multiplier, length, mine, yours, desired_tx, required_rx, echo_rx = _LAYOUT.unpack_from(data)
    if first >> 5 != VERSION:
        raise PacketError(Refusal.VERSION)
    authenticated = bool(second & 0x04)
    if not (_LENGTH_WITH_AUTHENTICATION if authenticated else LENGTH) <= length <= len(data):
        raise PacketError(Refusal.LENGTH)
    if multiplier == 0:
        raise PacketError(Refusal.MULTIPLIER)
    if second & 0x01:
        raise PacketError(Refusal.MULTIPOINT)
    if mine == 0:
        raise PacketError(Refusal.NO_DISCRIMINATOR)
    state = State(second >> 6)
    if yours == 0 and state not in {State.DOWN, State.ADMIN_DOWN}:
        raise PacketError(Refusal.NOBODY)
    if authenticated:
        raise PacketError(Refusal.AUTHENTICATION)
    poll, final = bool(second & 0x20), bool(second & 0x10)
    if poll and final:
        raise PacketError(Refusal.POLL_AND_FINAL)
    return ControlPacket(
        state=state,
        my_discriminator=mine,
        your_discriminator=yours,
        desired_min_tx_us=desired_tx,
        required_min_rx_us=required_rx,
        detect_multiplier=multiplier,
        diagnostic=first & 0x1F,
        poll=poll,
        final=final,
        demand=bool(second & 0x02),
        control_plane_independent=bool(second & 0x08),
        required_min_echo_rx_us=echo_rx,
    )
