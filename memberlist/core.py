"""One member as a machine: what arrives and the passing of time go in, what must be sent and said comes out.

It routes inputs to the parts (members, probe, judge, exchange, outbox), runs the two periodic activities that belong to none of
them (gossip and the exchange of tables), and gives all parts other numbers when another profile comes into effect. agent.py drives it with sockets and a clock, the simulation of the tests with a heap of
events. Refuses to touch a socket, a clock, a log or a global random number generator.

Messages are acted on as they arrive. Go puts them into queues of limited length first, because its table is behind a lock; here
the receive buffer of the socket is the only queue.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from memberlist import push_pull, wire
from memberlist.awareness import Awareness
from memberlist.broadcast import BroadcastQueue
from memberlist.chance import Chance
from memberlist.config import Config, lone_detection_time_max_s
from memberlist.effects import (
    BroadcastMessage,
    Cause,
    Effect,
    Endpoint,
    Input,
    Join,
    Leave,
    LeaveSpread,
    Left,
    LivenessChecked,
    MessageReceived,
    Notify,
    PacketReceived,
    PacketRefused,
    ProfileChanged,
    Rejected,
    SendMessage,
    SendReliably,
    SetUserState,
    StreamAccepted,
    StreamConnected,
    StreamEnded,
    StreamReceived,
    UpdateMeta,
)
from memberlist.errors import WireError
from memberlist.exchange import Exchanges
from memberlist.isolation import Isolation
from memberlist.judge import Judge
from memberlist.keyring import Keyring
from memberlist.lag import LagGuard
from memberlist.limits import SourceLimit
from memberlist.members import GONE, NO_VETOES, Members, Record, Vetoes
from memberlist.messages import Ack, Alive, Dead, Gossip, IndirectPing, Message, Nack, Ping, State, Suspect, UserMessage
from memberlist.outbox import Outbox, room_for_gossip
from memberlist.pace import in_effect
from memberlist.packet import PART_OVERHEAD, Envelope, open_packet
from memberlist.probe import PingByStream, ProbeEffect, Prober, Transmit, pick
from memberlist.profiles import PROFILES

_CRC_SINCE: Final = 5  # protocol version
_REPORT_GAP_S: Final = 10.0
_NOTED_LAG_SHARE: Final = 0.1  # of the interval between probes
_ADDRESS_LENGTHS: Final = (4, 16)


class Core:
    """One member. `port` is the one it is bound to; `nonces` returns 12 fresh unpredictable bytes at every call.

    A call that comes later than wake_at() asked for is taken for a stall of this process: what it seems to show about others
    counts for nothing, where loop_guard is a measure.
    """

    def __init__(
        self,
        config: Config,
        port: int,
        *,
        keyring: Keyring | None,
        chance: Chance,
        nonces: Callable[[], bytes],
        vetoes: Vetoes = NO_VETOES,
    ) -> None:
        envelope = Envelope(
            config.label,
            keyring,
            verify_incoming=config.verify_incoming,
            encrypt_outgoing=config.encrypt_outgoing,
            compress_outgoing=config.compress_outgoing,
            padded=config.protocol_version == 1,
        )
        self._given = config
        self._config = config
        self.profile = config.profile
        """The profile in effect, "" for plain numbers."""
        self.isolation = Isolation()
        self.lag = LagGuard()
        self._promised: float | None = None
        self._last_call = 0.0
        self._seen_changes = -1
        self._seen_lossy = False
        self._limit = SourceLimit()
        self._room_for_answers: int | None = None  # bytes; None for who is known or holds the key
        self._chance = chance
        self._envelope = envelope
        self._queue = BroadcastQueue(bytes_max=room_for_gossip(config, envelope) - PART_OVERHEAD)
        self._awareness = Awareness(config.awareness_max)
        self.members = Members(config, config.advertise_port or port, self._queue, self._awareness, vetoes)
        self._prober = Prober(config, self.members, self._awareness, chance, self.lag)
        self._judge = Judge(config, self.members, self.lag)
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

    @property
    def probes_voided(self) -> int:
        """How many probes counted for nothing because this process was late."""
        return self._prober.voided

    @property
    def pings_lost(self) -> float | None:
        """The share of first pings that went unanswered lately, None while there are too few."""
        return self._prober.loss.share()

    @property
    def health(self) -> int:
        """What this member thinks of itself: 0 for healthy, up to awareness_max - 1."""
        return self._awareness.score

    def refusals(self) -> dict[str, int]:
        """Return how much was dropped, by kind: of packets and streams, and of well-formed statements."""
        return dict(self.rejections) | {f"Statement ({why})": count for why, count in self.members.refused.items()}

    def start(self, now: float) -> list[Effect]:
        """Start the periodic activities, each at a random phase; say nothing until there is somebody to hear it."""
        self.members.own.since = now
        self.members.announce()
        self._prober.start(now)
        self._start_gossip(now)
        if self._config.push_pull_interval_s > 0:
            self._push_pull_at = now + self._chance.random() * self._config.push_pull_interval_s
        return []

    def _start_gossip(self, now: float) -> None:
        interval_s = self._config.gossip_interval_s
        self._gossip_at = now + self._chance.random() * interval_s if interval_s > 0 else None

    def handle(self, event: Input, now: float) -> list[Effect]:
        """Take what happened; return everything that follows from it at once."""
        now = self._served(now)
        return self._with_consequences(self._handle(event, now), now)

    def _handle(self, event: Input, now: float) -> list[Effect]:
        match event:
            case PacketReceived():
                return self._packet(event, now)
            case PacketRefused(to=to):
                self._prober.refused(to, now)
            case StreamAccepted():
                return self._limited(self._exchanges.accepted(event, now), now)
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
            case LivenessChecked(check=check, outcome=outcome):
                return self._judge.checked(check, outcome, now)
            case SendMessage(to=to, payload=payload):
                return [self._outbox.packet(Transmit(to, (UserMessage(payload),), piggyback=False))]
            case SendReliably(to=to, payload=payload):
                return self._exchanges.send(to, payload, now)
            case BroadcastMessage(payload=payload):
                self._outbox.broadcast(payload)
            case SetUserState(state=state, ack_payload=ack_payload):
                self._exchanges.user_state = state
                self._prober.ack_payload = ack_payload
        return []

    # Time.

    def tick(self, now: float) -> list[Effect]:
        """Do everything that is due at or before now."""
        now = self._served(now)
        effects = self._judge.tick(now)
        effects += self._carried_out(self._prober.tick(now))
        effects += self._exchanges.tick(now)
        if self._gossip_at is not None and now >= self._gossip_at:
            interval_s = self._config.gossip_interval_s
            self._gossip_at += interval_s * (1 + (now - self._gossip_at) // interval_s)
            effects += self._gossip(now)
        if self._push_pull_at is not None and now >= self._push_pull_at:
            self._push_pull_at = now + push_pull.interval_s(self._config.push_pull_interval_s, len(self.members))
            effects += self._push_pull(now)
        return self._with_consequences(effects, now)

    def wake_at(self) -> float | None:
        """Return when tick must be called next, None for never."""
        gossip_at = self._gossip_at if self._outbox.has_gossip() else None
        times = (
            self._judge.wake_at(),
            self._prober.wake_at(),
            self._exchanges.wake_at(),
            gossip_at,
            self._push_pull_at,
        )
        self._promised = min((time for time in times if time is not None), default=None)
        return self._promised

    def _served(self, now: float) -> float:
        """Take note of how late this call is; return the time to go by, which never falls."""
        measures = self._config.measures
        if not measures.loop_guard:
            return now
        interval_s = measures.watch_interval_s if measures.watchers else self._config.probe_interval_s
        now = self.lag.clamped(now, interval_s)
        # What became due while the last call went on could not be served earlier than after it.
        due = None if self._promised is None else max(self._promised, self._last_call)
        self.lag.served(due, now, interval_s=interval_s, worth_noting_s=_NOTED_LAG_SHARE * interval_s)
        self._promised, self._last_call = None, now
        return now

    # What follows from a change.

    def _with_consequences(self, effects: list[Effect], now: float) -> list[Effect]:
        """Return the effects, and what follows from the changes that came with them."""
        if self.members.changes != self._seen_changes or self._prober.loss.lossy != self._seen_lossy:
            self._seen_changes, self._seen_lossy = self.members.changes, self._prober.loss.lossy
            effects += self._guard_partition(effects, now)
            effects += self._choose_profile(now)
            self._prober.follow_table(now)
        effects += self._urgent()
        if self._leave_unreported and (self.members.leave_is_spread() or self.members.alone()):
            self._leave_unreported = False
            effects.append(LeaveSpread())
        return effects

    def _guard_partition(self, effects: Iterable[Effect], now: float) -> list[Effect]:
        living = self.members.living()
        failures = sum(
            isinstance(effect, Notify) and isinstance(effect.event, Left) and effect.event.cause is Cause.FAILED
            for effect in effects
        )
        said: list[Effect] = []
        for before in range(living + failures, living, -1):
            window_s = lone_detection_time_max_s(self._config, before)
            said += [Notify(event) for event in self.isolation.failed(before, window_s, now)]
        return [*said, *(Notify(event) for event in self.isolation.counted(living))]

    def _choose_profile(self, now: float) -> list[Effect]:
        given = self._given.profile
        if not given:
            return []
        own = self.members.own
        strangers = (r.name for r in self.members if r is not own and r.state not in GONE and not r.profile())
        lossy = self._seen_lossy and self._given.measures.loss_fall_back
        chosen, reason = in_effect(given, foreign=next(strangers, ""), lossy=lossy)
        if chosen == self.profile:
            return []
        self.profile = chosen
        self._config = self._given if chosen == given else PROFILES[chosen].applied(self._given)
        self.members.retune(self._config)
        self._judge.retune(self._config)
        self._prober.retune(self._config, now)
        self._start_gossip(now)
        return [Notify(ProfileChanged(chosen, given, reason))]

    def _urgent(self) -> list[Effect]:
        """Send what should not wait for gossip: to one member, or to all and to whom it is about."""
        urgent = self.members.take_urgent()
        if not urgent:
            return []
        own = self.members.own
        effects: list[Effect] = []
        for record in self.members:
            if record is own:
                continue
            statements: list[Gossip] = []
            for one in urgent:
                to_all = one.to is None and (record.state not in GONE or one.statement.node == record.name)
                if (to_all or one.to == record.endpoint) and one.statement not in statements:
                    statements.append(one.statement)
            effects += self._outbox.urgent(record.endpoint, statements, checksum=record.protocol_max() >= _CRC_SINCE)
        return effects

    # Gossip and the exchange of tables.

    def _gossip(self, now: float) -> list[Effect]:
        """Send statements to a few members, also to those that died lately, so that they can refute (SWIM §4.1)."""
        own, window_s = self.members.own, self._config.gossip_to_the_dead_s

        def hears(record: Record) -> bool:
            if record is own or record.state is State.LEFT:
                return False
            return record.state is not State.DEAD or now - record.since <= window_s

        effects: list[Effect] = []
        if not self._outbox.has_gossip():
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
        sender = self.members.at(event.source)
        if sender is None and self._limit.exhausted(event.source.address, now):
            return self._limited(
                [Notify(Rejected(event.source, "RateLimited: more than this member reads of a stranger"))], now
            )
        try:
            opened = open_packet(event.data, self._envelope)
        except WireError as problem:
            if sender is None:
                self._limit.spend(event.source.address, now)
            return self._rejected(event.source, problem, now)
        effects: list[Effect] = []
        self._room_for_answers = None
        if sender is None and not self._trusted():
            self._limit.spend(event.source.address, now)
            self._room_for_answers = len(event.data)
        if sender is not None and sender.suspicion is not None:
            effects += self._heard_from(sender, now)
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

    def _heard_from(self, suspect: Record, now: float) -> list[Effect]:
        """Ask a suspect once more that has sent something, before it can be declared dead."""
        if not self._config.measures.evidence_hold or suspect.suspicion is None:
            return []
        suspect.suspicion.heard(now, self._prober.round_s())
        return self._carried_out(self._prober.verify(suspect, now))

    def _suspected(self, heard: Suspect, now: float) -> list[Effect]:
        """Hear an accusation; perhaps ask the accused too, as long as accusers are wanted."""
        record = self.members.get(heard.node)
        before = None if record is None or record.suspicion is None else record.suspicion.confirmations
        effects = self.members.suspect(heard, now)
        if record is None or record.suspicion is None or not self._config.measures.probe_on_rumour:
            return effects
        wanted = before is None or (record.suspicion.confirmations > before and record.suspicion.wants_confirmation)
        if wanted:
            effects += self._carried_out(self._prober.heard_rumour(record, now))
        return effects

    def _message(self, message: Message, source: Endpoint, now: float) -> list[Effect]:
        match message:
            case Ping():
                return self._answer(self._prober.pinged(message, self._reply_to(message, source)))
            case IndirectPing():
                return self._indirect_ping(message, source, now)
            case Ack(sequence=sequence, payload=payload):
                return self._carried_out(self._prober.acked(sequence, now, source, payload))
            case Nack(sequence=sequence):
                self._prober.nacked(sequence, source)
            case Suspect():
                return self._suspected(message, now)
            case Alive(port=port):
                return self.members.alive(replace(message, port=self._config.port_of(port)), now)
            case Dead():
                return self.members.dead(message, now)
            case UserMessage(payload=payload):
                return [Notify(MessageReceived(source, payload))]
            case _:
                pass
        return []

    def _answer(self, wanted: Iterable[ProbeEffect]) -> list[Effect]:
        """Answer a ping; a stranger in a ring without a key gets no more bytes than it sent, since it may not be who it says."""
        if self._room_for_answers is None:
            return self._carried_out(wanted)
        effects: list[Effect] = []
        for effect in wanted:
            if isinstance(effect, Transmit):
                packet = self._outbox.packet(replace(effect, piggyback=False))
                if len(packet.data) <= self._room_for_answers:
                    self._room_for_answers -= len(packet.data)
                    effects.append(packet)
                else:
                    self.rejections["Reflection"] += 1
        return effects

    def _indirect_ping(self, request: IndirectPing, source: Endpoint, now: float) -> list[Effect]:
        if len(request.target) not in _ADDRESS_LENGTHS:
            return []
        request = replace(request, port=self._config.port_of(request.port))
        target = Endpoint.of(request.target, request.port)
        if self._room_for_answers is not None or not (self._trusted() or self.members.knows(target)):
            self.rejections["Relay"] += 1
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
