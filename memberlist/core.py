"""One member as a machine: what arrives and the passing of time go in, what must be sent and said comes out.

It routes inputs to the parts (members, probe, exchange, outbox) and runs the two periodic activities that belong to none of
them: gossip and the exchange of tables. agent.py drives it with sockets and a clock, the simulation of the tests with a heap of
events. Refuses to touch a socket, a clock, a log or a global random number generator.

Messages are acted on as they arrive. Go puts them into queues of limited length first, because its table is behind a lock; here
the receive buffer of the socket is the only queue.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from memberlist import push_pull, wire
from memberlist.awareness import Awareness
from memberlist.broadcast import BroadcastQueue
from memberlist.chance import Chance
from memberlist.config import Config
from memberlist.effects import (
    Effect,
    Endpoint,
    Input,
    Join,
    Leave,
    LeaveSpread,
    Notify,
    PacketReceived,
    PacketRefused,
    Rejected,
    StreamAccepted,
    StreamConnected,
    StreamEnded,
    StreamReceived,
    UpdateMeta,
)
from memberlist.errors import WireError
from memberlist.exchange import Exchanges
from memberlist.keyring import Keyring
from memberlist.members import Members, Record
from memberlist.messages import Ack, Alive, Dead, IndirectPing, Message, Nack, Ping, State, Suspect
from memberlist.outbox import Outbox, room_for_gossip
from memberlist.packet import PART_OVERHEAD, Envelope, open_packet
from memberlist.probe import PingByStream, ProbeEffect, Prober, Transmit, pick

_CRC_SINCE: Final = 5  # protocol version
_REPORT_GAP_S: Final = 10.0
_ADDRESS_LENGTHS: Final = (4, 16)


class Core:
    """One member. `port` is the one it is bound to; `nonces` returns 12 fresh unpredictable bytes at every call."""

    def __init__(
        self, config: Config, port: int, *, keyring: Keyring | None, chance: Chance, nonces: Callable[[], bytes]
    ) -> None:
        envelope = Envelope(
            config.label,
            keyring,
            verify_incoming=config.verify_incoming,
            encrypt_outgoing=config.encrypt_outgoing,
            compress_outgoing=config.compress_outgoing,
        )
        self._config = config
        self._chance = chance
        self._envelope = envelope
        self._queue = BroadcastQueue(bytes_max=room_for_gossip(config, envelope) - PART_OVERHEAD)
        self._awareness = Awareness(config.awareness_max)
        self.members = Members(config, config.advertise_port or port, self._queue, self._awareness)
        self._prober = Prober(config, self.members, self._awareness, chance)
        self._exchanges = Exchanges(config, self.members, self._prober, envelope, nonces)
        self._outbox = Outbox(config, self.members, self._queue, envelope, nonces)
        self._gossip_at: float | None = None
        self._push_pull_at: float | None = None
        self._leave_unreported = False
        self._reported: dict[str, float] = {}
        self.rejections: Counter[str] = Counter()  # by the word before the colon of their reason

    @property
    def probes_answered(self) -> int:
        """How many probes of this member were answered since it started."""
        return self._prober.answered

    def start(self, now: float) -> list[Effect]:
        """Start the periodic activities, each at a random phase; say nothing until there is somebody to hear it."""
        self.members.own.since = now
        self.members.announce()
        self._prober.start(now)
        if self._config.gossip_interval_s > 0:
            self._gossip_at = now + self._chance.random() * self._config.gossip_interval_s
        if self._config.push_pull_interval_s > 0:
            self._push_pull_at = now + self._chance.random() * self._config.push_pull_interval_s
        return []

    def handle(self, event: Input, now: float) -> list[Effect]:
        """Take what happened; return everything that follows from it at once."""
        return [*self._handle(event, now), *self._due_at_once(now)]

    def _handle(self, event: Input, now: float) -> list[Effect]:
        match event:
            case PacketReceived():
                return self._packet(event, now)
            case PacketRefused(to=to):
                self._prober.refused(to, now)
            case StreamAccepted():
                return self._exchanges.accepted(event, now)
            case StreamConnected():
                return self._exchanges.connected(event)
            case StreamReceived():
                return self._limited(self._exchanges.received(event, now), now)
            case StreamEnded():
                return self._exchanges.ended(event)
            case Join(token=token, seed=seed):
                return self._exchanges.join(token, seed, now)
            case Leave():
                self.members.leave(now)
                self._leave_unreported = True
            case UpdateMeta(meta=meta):
                self.members.set_meta(meta)
        return []

    # Time.

    def tick(self, now: float) -> list[Effect]:
        """Do everything that is due at or before now."""
        effects = self.members.tick(now)
        effects += self._carried_out(self._prober.tick(now))
        effects += self._exchanges.tick(now)
        if self._gossip_at is not None and now >= self._gossip_at:
            interval_s = self._config.gossip_interval_s
            self._gossip_at += interval_s * (1 + (now - self._gossip_at) // interval_s)
            effects += self._gossip(now)
        if self._push_pull_at is not None and now >= self._push_pull_at:
            self._push_pull_at = now + push_pull.interval_s(self._config.push_pull_interval_s, len(self.members))
            effects += self._push_pull(now)
        return [*effects, *self._due_at_once(now)]

    def wake_at(self) -> float | None:
        """Return when tick must be called next, None for never."""
        gossip_at = self._gossip_at if len(self._queue) else None
        times = (
            self.members.wake_at(),
            self._prober.wake_at(),
            self._exchanges.wake_at(),
            gossip_at,
            self._push_pull_at,
        )
        return min((time for time in times if time is not None), default=None)

    def _due_at_once(self, now: float) -> list[Effect]:
        """Report the leave once it is spread, or once nobody is left to hear it."""
        if self._leave_unreported and (self.members.leave_is_spread() or self.members.alone()):
            self._leave_unreported = False
            return [LeaveSpread()]
        return []

    def _gossip(self, now: float) -> list[Effect]:
        """Send statements to a few members, also to those that died lately, so that they can refute (SWIM §4.1)."""
        own, window_s = self.members.own, self._config.gossip_to_the_dead_s

        def hears(record: Record) -> bool:
            if record is own or record.state is State.LEFT:
                return False
            return record.state is not State.DEAD or now - record.since <= window_s

        effects: list[Effect] = []
        if not len(self._queue):
            return effects
        for record in pick(self._chance, self.members, self._config.gossip_nodes, hears):
            packet = self._outbox.gossip(record.endpoint, checksum=record.protocol_max() >= _CRC_SINCE)
            if packet is None:
                break
            effects.append(packet)
        return effects

    def _push_pull(self, now: float) -> list[Effect]:
        own = self.members.own
        partners = pick(self._chance, self.members, 1, lambda r: r is not own and r.state is State.ALIVE)
        return [effect for partner in partners for effect in self._exchanges.push_pull(partner.endpoint, now)]

    # Packets.

    def _packet(self, event: PacketReceived, now: float) -> list[Effect]:
        try:
            opened = open_packet(event.data, self._envelope)
        except WireError as problem:
            return self._rejected(event.source, problem, now)
        effects: list[Effect] = []
        for lost in opened.problems:
            effects += self._rejected(event.source, lost, now)
        for data in opened.messages:
            try:
                message = wire.decode(data)
            except WireError as problem:
                effects += self._rejected(event.source, problem, now)
                continue
            effects += self._message(message, event.source, now)
        return effects

    def _message(self, message: Message, source: Endpoint, now: float) -> list[Effect]:
        match message:
            case Ping():
                return self._carried_out(self._prober.pinged(message, self._reply_to(message, source)))
            case IndirectPing():
                return self._indirect_ping(message, source, now)
            case Ack(sequence=sequence):
                return self._carried_out(self._prober.acked(sequence))
            case Nack(sequence=sequence):
                self._prober.nacked(sequence)
            case Suspect():
                return self.members.suspect(message, now)
            case Alive(port=0):
                port = self._config.bind_port
                named = Alive(message.incarnation, message.node, message.address, port, message.meta, message.versions)
                return self.members.alive(named, now)
            case Alive():
                return self.members.alive(message, now)
            case Dead():
                return self.members.dead(message, now)
            case _:  # The application's own messages: none of ours.
                pass
        return []

    def _indirect_ping(self, request: IndirectPing, source: Endpoint, now: float) -> list[Effect]:
        if len(request.target) not in _ADDRESS_LENGTHS:
            return []
        target = Endpoint.of(request.target, request.port or self._config.bind_port)
        if not self._trusted() and not self.members.knows(target):
            return []
        return self._carried_out(self._prober.asked_to_ping(request, self._reply_to(request, source), now))

    def _reply_to(self, message: Ping | IndirectPing, source: Endpoint) -> Endpoint:
        """Return where the answer goes: where the message says, else where it came from.

        Without encryption anybody may name any address, so only those of known members are taken.
        """
        if len(message.source_address) not in _ADDRESS_LENGTHS or not message.source_port:
            return source
        named = Endpoint.of(message.source_address, message.source_port)
        return named if self._trusted() or self.members.knows(named) else source

    def _trusted(self) -> bool:
        return self._envelope.keyring is not None and self._envelope.verify_incoming

    def _carried_out(self, wanted: Iterable[ProbeEffect]) -> list[Effect]:
        """Turn what the prober wants into packets and streams."""
        effects: list[Effect] = []
        for effect in wanted:
            match effect:
                case Transmit():
                    effects.append(self._outbox.packet(effect))
                case PingByStream():
                    effects += self._exchanges.ping(effect)
                case _:
                    effects.append(effect)
        return effects

    # Reports of what was dropped.

    def _rejected(self, source: Endpoint, problem: WireError, now: float) -> list[Effect]:
        return self._limited([Notify(Rejected(source, f"{type(problem).__name__}: {problem}"))], now)

    def _limited(self, effects: list[Effect], now: float) -> list[Effect]:
        """Count rejections, and let each kind through once in ten seconds: a flood of bytes is not a flood of reports."""
        passed: list[Effect] = []
        for effect in effects:
            if isinstance(effect, Notify) and isinstance(effect.event, Rejected):
                kind = effect.event.reason.partition(":")[0]
                self.rejections[kind] += 1
                if now - self._reported.get(kind, now - _REPORT_GAP_S) < _REPORT_GAP_S:
                    continue
                self._reported[kind] = now
            passed.append(effect)
        return passed
