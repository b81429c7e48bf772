"""Fills and seals packets: the messages that must go, and gossip in the room that is left (SWIM §4.1, piggyback).

Called by core.py with what probe.py wants transmitted, and at every gossip tick. Refuses to exceed packet_bytes_max, since a
larger datagram may be cut into fragments and lost.
"""

from __future__ import annotations

from memberlist import wire
from memberlist.broadcast import BroadcastQueue, transmit_limit
from memberlist.config import Config
from memberlist.effects import Endpoint, SendPacket
from memberlist.members import Members
from memberlist.packet import (
    COMPOUND_OVERHEAD,
    PART_OVERHEAD,
    Envelope,
    NonceSource,
    make_compound,
    seal_packet,
)
from memberlist.probe import Transmit


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
        self._envelope = envelope
        self._nonces = nonces
        self._room = room_for_gossip(config, envelope)
        self._mult = config.retransmit_mult

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
        if not len(self._queue):
            return []
        limit = transmit_limit(self._mult, len(self._members))
        return self._queue.take(part_overhead=PART_OVERHEAD, limit=room, transmits_max=limit)

    def _sealed(self, to: Endpoint, parts: list[bytes], *, checksum: bool) -> SendPacket:
        return SendPacket(to, seal_packet(make_compound(parts), self._envelope, self._nonces, checksum=checksum))
