"""Fills and seals packets: the messages that must go, and gossip in the room that is left (SWIM §4.1, piggyback).

Called by core.py with what probe.py wants transmitted, and at every gossip tick. Refuses to exceed packet_bytes_max, since a
larger datagram may be cut into fragments and lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from memberlist import wire
from memberlist.broadcast import BroadcastQueue, transmit_limit
from memberlist.config import Config
from memberlist.effects import Endpoint, SendPacket
from memberlist.members import Members
from memberlist.messages import Gossip, UserMessage
from memberlist.packet import (
    COMPOUND_OVERHEAD,
    PART_OVERHEAD,
    Envelope,
    NonceSource,
    make_compound,
    seal_packet,
)
from memberlist.probe import Transmit

_MESSAGES_MAX: Final = 256
_PARTS_MAX: Final = 254  # of 255, so that a packet that must go has room for itself


def room_for_gossip(config: Config, envelope: Envelope) -> int:
    """Return the bytes that statements, with two more for each, may take in a packet of nothing else."""
    return config.packet_bytes_max - COMPOUND_OVERHEAD - envelope.overhead


class Outbox:
    """Turns messages into datagrams, with statements of the queue as company."""

    def __init__(
        self, config: Config, members: Members, queue: BroadcastQueue, envelope: Envelope, nonces: NonceSource
    ) -> None:
        self._members = members
        self._queue = queue
        self._messages = BroadcastQueue(bytes_max=room_for_gossip(config, envelope) - PART_OVERHEAD)
        self._messages_queued = 0
        self._envelope = envelope
        self._nonces = nonces
        self._room = room_for_gossip(config, envelope)
        self._mult = config.retransmit_mult

    def broadcast(self, payload: bytes) -> None:
        """Gossip a message of the application; of more than 256 those sent most often are dropped."""
        self._messages_queued += 1
        self._messages.enqueue(str(self._messages_queued), wire.encode(UserMessage(payload)))
        self._messages.prune(_MESSAGES_MAX)

    def has_gossip(self) -> bool:
        """Return whether there is anything to gossip."""
        return len(self._queue) > 0 or len(self._messages) > 0

    def urgent(self, to: Endpoint, statements: Sequence[Gossip], *, checksum: bool) -> list[SendPacket]:
        """Return the datagrams that tell these statements at once, as few as will do."""
        packets: list[SendPacket] = []
        parts: list[bytes] = []
        room = self._room
        for part in map(wire.encode, statements):
            size = len(part) + PART_OVERHEAD
            if parts and size > room:
                packets.append(self._sealed(to, parts, checksum=checksum))
                parts, room = [], self._room
            if size <= room:
                parts.append(part)
                room -= size
        return [*packets, self._sealed(to, parts, checksum=checksum)] if parts else packets

    def packet(self, transmit: Transmit) -> SendPacket:
        """Return the datagram for messages that must go."""
        parts = [wire.encode(message) for message in transmit.messages]
        if transmit.piggyback:
            parts += self._statements(self._room - sum(len(part) + PART_OVERHEAD for part in parts))
        return self._sealed(transmit.to, parts, checksum=transmit.checksum)

    def gossip(self, to: Endpoint, *, checksum: bool) -> SendPacket | None:
        """Return a datagram of statements only, None when there is nothing to tell."""
        parts = self._statements(self._room)
        return self._sealed(to, parts, checksum=checksum) if parts else None

    def _statements(self, room: int) -> list[bytes]:
        """Return what to tell in so many bytes: of members first, of the application in what is left."""
        if not self.has_gossip():
            return []
        limit = transmit_limit(self._mult, len(self._members))
        told = self._queue.take(part_overhead=PART_OVERHEAD, limit=room, transmits_max=limit)
        room -= sum(len(part) + PART_OVERHEAD for part in told)
        count = _PARTS_MAX - len(told)
        return told + self._messages.take(part_overhead=PART_OVERHEAD, limit=room, transmits_max=limit, count_max=count)

    def _sealed(self, to: Endpoint, parts: list[bytes], *, checksum: bool) -> SendPacket:
        return SendPacket(to, seal_packet(make_compound(parts), self._envelope, self._nonces, checksum=checksum))
