"""One probe round at a time: is the next member there? (SWIM §3.1 and §4.3, Lifeguard §IV-A).

    0                     ping the target (a suspect also hears that it is suspected, so that it can refute)
    probe_timeout_s / 2   ping it again, with the measure `retry`
    probe_timeout_s       ask other members to ping it, and ping it over a stream
    probe_interval_s x h  nobody got through: it is suspected; h is this member's own health, see awareness.py

Besides the round whose turn it is there may be others: of a member that another one suspects (probe_on_rumour), of a suspect that
was heard since (evidence_hold), and of those this member watches in the ring profile (watch.py). Also the other side: answers to pings, and pings on behalf of others. core.py feeds it messages and time; it returns what
to transmit, still as messages. Refuses to judge beyond "suspect": members.py decides what becomes of that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, TypeAlias

from memberlist.awareness import Awareness
from memberlist.chance import Chance
from memberlist.config import WATCH_VERDICT_S, Config
from memberlist.effects import Effect, Endpoint, Failure, Notify, PingCompleted
from memberlist.lag import LagGuard
from memberlist.loss import LossMeter
from memberlist.members import GONE, Members, Record
from memberlist.messages import Ack, IndirectPing, Message, Nack, Ping, State, Suspect
from memberlist.rtt import RoundTrip
from memberlist.watch import successors

_SEQUENCES: Final = 1 << 32
_STREAM_PING_SINCE: Final = 3  # protocol versions
_NACK_SINCE: Final = 4
_CRC_SINCE: Final = 5
_RELAYS_MAX: Final = 1024
_TIMEOUT_SHARE_MAX: Final = 0.45  # of the interval; the relays need as long again
_WATCH_TIMEOUT_S: Final = 0.08
_VOID_MAX: Final = 3  # rounds of one target in a row
_RUMOUR_PROBERS: Final = 5  # in expectation, whatever the size of the ring


@dataclass(frozen=True, slots=True)
class Transmit:
    """Send messages in one packet. `piggyback`: gossip may ride along; `checksum`: the receiver is known to read CRCs."""

    to: Endpoint
    messages: tuple[Message, ...]
    piggyback: bool = True
    checksum: bool = False


@dataclass(frozen=True, slots=True)
class PingByStream:
    """Ping over a stream until the deadline; the outcome comes back through stream_answered or stream_failed."""

    to: Endpoint
    ping: Ping
    deadline: float


ProbeEffect: TypeAlias = Transmit | PingByStream | Effect


class StreamOutcome(Enum):
    """What the stream ping has shown so far."""

    NOT_TRIED = auto()
    SILENT = auto()  # not connected
    CONNECTED = auto()  # the kernel answers, the process does not
    REFUSED = auto()  # the host is there, the process is gone
    ANSWERED = auto()


class Reason(Enum):
    """Why a member is probed."""

    TURN = auto()
    WATCHED = auto()
    RUMOUR = auto()  # and when a suspect was heard since


@dataclass(slots=True)
class Round:
    """A probe that is going on. `sequence` is the number of its first ping, which the relays' acks carry too.

    `incarnation` is that of the target when the round began.
    """

    target: str
    endpoint: Endpoint
    reason: Reason
    incarnation: int
    sequence: int
    started: float
    retry_at: float | None
    escalate_at: float | None  # when others are asked; None once they are
    deadline: float
    lag_allowed_s: float
    voided: int = 0
    pings: dict[int, float] = field(default_factory=dict)  # number -> when it was sent
    asked: dict[Endpoint, str] = field(default_factory=dict)
    nacks_expected: int = 0
    nacks: int = 0
    stream: StreamOutcome = StreamOutcome.NOT_TRIED


@dataclass(slots=True)
class Relay:
    """A ping on behalf of `requester`, who numbers it `sequence`."""

    requester: Endpoint
    sequence: int
    nack_at: float | None
    expires_at: float


def pick(chance: Chance, members: Iterable[Record], count: int, wanted: Callable[[Record], bool]) -> list[Record]:
    """Return up to `count` different records that are wanted, at random."""
    candidates = [record for record in members if wanted(record)]
    return chance.sample(candidates, min(count, len(candidates)))


class Rotation:
    """Whose turn it is: round-robin over a shuffled list, so that everybody is probed within two rounds (SWIM §4.3)."""

    def __init__(self, members: Members, chance: Chance) -> None:
        self._members = members
        self._chance = chance
        self._names: list[str] = []
        self._index = 0
        self._generation = -1

    def next(self, now: float) -> Record | None:
        """Return the next member to probe, None when there is none; forget the dead at the end of each round."""
        self._follow_table()
        for _ in range(2):
            while self._index < len(self._names):
                record = self._members.get(self._names[self._index])
                self._index += 1
                if record is not None and record.state not in GONE:
                    return record
            self._members.forget_the_dead(now)
            self._follow_table()
            self._chance.shuffle(self._names)
            self._index = 0
        return None

    def _follow_table(self) -> None:
        """Take in new names at random places, and let go of forgotten ones."""
        if self._generation == self._members.generation:
            return
        self._generation = self._members.generation
        current = {record.name for record in self._members if record is not self._members.own}
        self._index = sum(name in current for name in self._names[: self._index])
        self._names = [name for name in self._names if name in current]
        for name in sorted(current.difference(self._names)):
            place = self._chance.randrange(len(self._names) + 1)
            self._names.insert(place, name)
            self._index += place < self._index


class Prober:
    """Probes members in turn, and pings on behalf of others."""

    def __init__(
        self, config: Config, members: Members, awareness: Awareness, chance: Chance, lag: LagGuard | None = None
    ) -> None:
        self._config = config
        self._members = members
        self._awareness = awareness
        self._chance = chance
        self._lag = lag or LagGuard()
        self._rotation = Rotation(members, chance)
        self._sequence = chance.getrandbits(32)  # Unpredictable, because an ack is known by its number alone.
        self._rounds: list[Round] = []
        self._by_ping: dict[int, Round] = {}
        self._relays: dict[int, Relay] = {}
        self._watch_at: dict[str, float] = {}
        self._watches_of = -1
        self._turns = 0
        self._successor = ""
        self._next_at: float | None = None
        self._round_trips: dict[str, RoundTrip] = {}
        self._send_nacks: set[str] = set()  # members whose nacks came in time at least once
        self.loss = LossMeter()
        self.ack_payload = b""
        self.answered = 0
        self.voided = 0

    def start(self, now: float) -> None:
        """Start probing at a random phase, so that members started together do not probe together."""
        self._next_at = None
        if self._config.probe_interval_s > 0:
            self._next_at = now + self._chance.random() * self._config.probe_interval_s

    def retune(self, config: Config, now: float) -> None:
        """Go by other numbers from now on; rounds that are going on end as they were begun."""
        self._config = config
        self._watch_at.clear()
        self._watches_of = -1
        self._successor = ""
        self.start(now)

    @property
    def round(self) -> Round | None:
        """The probe of the member whose turn it is, for tests and status pages."""
        return next((current for current in self._rounds if current.reason is Reason.TURN), None)

    @property
    def probing(self) -> tuple[str, ...]:
        """The targets of all rounds that are going on."""
        return tuple(current.target for current in self._rounds)

    # Time.

    def tick(self, now: float) -> list[ProbeEffect]:
        """Do what is due: nack, ping again, escalate, end rounds, start the next."""
        effects = self._tick_relays(now)
        for current in tuple(self._rounds):
            if current.retry_at is not None and now >= current.retry_at:
                current.retry_at = None
                effects += self._ping_again(current, now)
            if current.escalate_at is not None and now >= current.escalate_at:
                effects += self._escalate(current)
            if now >= current.deadline:
                effects += self._end(current, now)
        if self._next_at is not None and now >= self._next_at and self.round is None:
            interval_s = self._config.probe_interval_s
            # Ticks missed during a long round are dropped, the phase is kept.
            self._next_at += interval_s * (1 + (now - self._next_at) // interval_s)
            target = self._whose_turn(now)
            if target is not None:
                effects += self._begin(target, Reason.TURN, now)
        return [*effects, *self._watch(now)]

    def wake_at(self) -> float | None:
        """Return when tick is next due."""
        times = [self._next_at] if self.round is None else []
        for current in self._rounds:
            times += [current.retry_at, current.escalate_at, current.deadline]
        for relay in self._relays.values():
            times += [relay.nack_at, relay.expires_at]
        times += self._watch_at.values()
        return min((time for time in times if time is not None), default=None)

    def _whose_turn(self, now: float) -> Record | None:
        self._turns += 1
        successor = self._members.get(self._successor)
        if self._turns % 2 and successor is not None and successor.state not in GONE:
            return successor
        return self._rotation.next(now)

    def follow_table(self, now: float) -> None:
        """Choose anew whom to watch, when the member table has changed; each at a random phase."""
        measures = self._config.measures
        if not (measures.watchers or measures.successor_turns) or self._watches_of == self._members.changes:
            return
        self._watches_of = self._members.changes
        living = [record.name for record in self._members if record.state not in GONE]
        if measures.successor_turns:
            self._successor = next(iter(successors(self._config.name, living, 1)), "")
        chosen = successors(self._config.name, living, measures.watchers)
        self._watch_at = {
            name: self._watch_at.get(name, now + self._chance.random() * measures.watch_interval_s) for name in chosen
        }

    def _watch(self, now: float) -> list[ProbeEffect]:
        effects: list[ProbeEffect] = []
        interval_s = self._config.measures.watch_interval_s
        for name, due in self._watch_at.items():
            if now < due:
                continue
            self._watch_at[name] = due + interval_s * (1 + (now - due) // interval_s)
            target = self._members.get(name)
            watching = any(one.target == name and one.reason is Reason.WATCHED for one in self._rounds)
            if target is not None and not watching:
                effects += self._begin(target, Reason.WATCHED, now)
        return effects

    # Rounds.

    def heard_rumour(self, target: Record, now: float) -> list[ProbeEffect]:
        """Probe a member that another one began to suspect, with a chance such that about five of the ring do."""
        if self._chance.random() * len(self._members) >= _RUMOUR_PROBERS:
            return []
        return self.verify(target, now)

    def verify(self, target: Record, now: float) -> list[ProbeEffect]:
        """Probe a member at once, unless that is going on or probing is off."""
        if self._next_at is None or target.name in self.probing:
            return []
        return self._begin(target, Reason.RUMOUR, now)

    def round_s(self) -> float:
        """Return how long a round begun now for another reason than its turn would take at most."""
        return self._awareness.scaled(self._span_s(Reason.RUMOUR))

    def _span_s(self, reason: Reason) -> float:
        return self._config.probe_interval_s if reason is Reason.TURN or not self._config.measures.watchers else WATCH_VERDICT_S

    def _timeout_s(self, target: Record, reason: Reason) -> float:
        """Return after how long a ping counts as unanswered."""
        config = self._config
        quick = config.measures.watchers and reason is not Reason.TURN
        most_s = _WATCH_TIMEOUT_S if quick else config.probe_timeout_s
        known = self._round_trips.get(target.name)
        if not config.measures.adaptive_timeout or known is None:
            return most_s
        limit_s = most_s if quick else _TIMEOUT_SHARE_MAX * config.probe_interval_s
        return min(known.timeout_s, limit_s)

    def _begin(self, target: Record, reason: Reason, now: float, voided: int = 0) -> list[ProbeEffect]:
        timeout_s = self._timeout_s(target, reason)
        ping = self._ping(target.name)
        quick = self._config.measures.watchers and reason is not Reason.TURN
        usual_s = _WATCH_TIMEOUT_S / 2 if quick else self._config.probe_timeout_s
        current = Round(
            target=target.name,
            endpoint=target.endpoint,
            reason=reason,
            incarnation=target.incarnation,
            sequence=ping.sequence,
            started=now,
            retry_at=now + timeout_s / 2 if self._config.measures.retry else None,
            escalate_at=now + timeout_s,
            deadline=now + self._awareness.scaled(self._span_s(reason)),
            lag_allowed_s=self._awareness.scaled(usual_s) / 4,
            voided=voided,
        )
        self._rounds.append(current)
        return [self._sent(current, target, ping, now)]

    def _ping_again(self, current: Round, now: float) -> list[ProbeEffect]:
        target = self._members.get(current.target)
        return [] if target is None else [self._sent(current, target, self._ping(target.name), now)]

    def _sent(self, current: Round, target: Record, ping: Ping, now: float) -> Transmit:
        current.pings[ping.sequence] = now
        self._by_ping[ping.sequence] = current
        if target.state is State.SUSPECT:
            accusation = Suspect(target.incarnation, target.name, self._config.name)
            checksum = target.protocol_max() >= _CRC_SINCE
            return Transmit(target.endpoint, (ping, accusation), piggyback=False, checksum=checksum)
        return Transmit(target.endpoint, (ping,))

    def _escalate(self, current: Round) -> list[ProbeEffect]:
        """Ask other members, and try a stream; all under the number of the first ping."""
        current.retry_at = current.escalate_at = None
        target = self._members.get(current.target)
        if target is None:
            return []
        own = self._members.own
        helpers = pick(
            self._chance,
            self._members,
            self._config.indirect_checks,
            lambda record: record is not own and record is not target and record.state is State.ALIVE,
        )
        effects: list[ProbeEffect] = []
        for helper in helpers:
            wants_nack = helper.protocol_max() >= _NACK_SINCE
            proven = not self._config.measures.proven_nacks or helper.name in self._send_nacks
            current.nacks_expected += wants_nack and proven
            current.asked[helper.endpoint] = helper.name
            request = IndirectPing(
                current.sequence, target.address, target.port, target.name, wants_nack, own.address, own.port, own.name
            )
            effects.append(Transmit(helper.endpoint, (request,)))
        if self._config.stream_pings and target.protocol_max() >= _STREAM_PING_SINCE:
            current.stream = StreamOutcome.SILENT
            ping = Ping(current.sequence, target.name, own.address, own.port, own.name)
            effects.append(PingByStream(target.endpoint, ping, current.deadline))
        return effects

    def _close(self, current: Round) -> None:
        self._rounds.remove(current)
        for number in current.pings:
            self._by_ping.pop(number, None)

    def _succeed(self, current: Round, now: float, *, first_answered: bool) -> None:
        self._close(current)
        self.answered += 1
        self._awareness.adjust(-1)
        self.loss.note(now, answered=first_answered)

    def _end(self, current: Round, now: float) -> list[ProbeEffect]:
        """Draw the conclusion from a round in which no ack came."""
        if current.stream is StreamOutcome.ANSWERED:
            self._succeed(current, now, first_answered=False)
            return []
        self._close(current)
        target = self._members.get(current.target)
        if now < self._lag.judging_from or self._lag.stalled(current.started, current.lag_allowed_s):
            return self._void(current, target, now)
        if target is not None and target.incarnation != current.incarnation:
            return []  # It has spoken since the round began, or is back from the dead.
        missing = max(0, current.nacks_expected - current.nacks)
        without_nacks = 0 if current.nacks else 1
        self._awareness.adjust(missing if current.nacks_expected else without_nacks)
        if target is None:
            return []
        effects = self._members.accuse(target, now)
        refused = current.stream is StreamOutcome.REFUSED
        if refused and target.suspicion is not None and self._config.measures.kernel_check:
            target.suspicion.process_gone = True
        return [*effects]

    def _void(self, current: Round, target: Record | None, now: float) -> list[ProbeEffect]:
        """Let a round count for nothing because this process was late, and ask again, a few times."""
        self.voided += 1
        self._awareness.adjust(1)
        asked_again = current.voided >= _VOID_MAX or current.target in self.probing
        if target is None or target.state in GONE or current.reason is Reason.WATCHED or asked_again:
            return []
        return self._begin(target, Reason.RUMOUR, now, current.voided + 1)

    def _tick_relays(self, now: float) -> list[ProbeEffect]:
        effects: list[ProbeEffect] = []
        for number, relay in list(self._relays.items()):
            if relay.nack_at is not None and now >= relay.nack_at:
                relay.nack_at = None
                effects.append(Transmit(relay.requester, (Nack(relay.sequence),)))
            if now >= relay.expires_at:
                del self._relays[number]
        return effects

    # Messages.

    def pinged(self, ping: Ping, reply_to: Endpoint) -> list[ProbeEffect]:
        """Answer a ping meant for this member, or for anyone."""
        return [] if self.is_for_another(ping) else [Transmit(reply_to, (Ack(ping.sequence, self.ack_payload),))]

    def is_for_another(self, ping: Ping) -> bool:
        """Return whether the ping is meant for a member of another name."""
        return ping.node not in {"", self._config.name}

    def asked_to_ping(self, request: IndirectPing, reply_to: Endpoint, now: float) -> list[ProbeEffect]:
        """Ping somebody for another member; the request beyond the 1024th that is open at once is dropped."""
        if len(self._relays) >= _RELAYS_MAX:
            return []
        ping = self._ping(request.node)
        patience_s = self._config.probe_timeout_s
        nack_at = now + self._config.relay_patience * patience_s if request.nack else None
        self._relays[ping.sequence] = Relay(reply_to, request.sequence, nack_at, now + patience_s)
        to = Endpoint.of(request.target, request.port or self._config.bind_port)
        return [Transmit(to, (ping,))]

    def acked(self, sequence: int, now: float, source: Endpoint | None = None, payload: bytes = b"") -> list[ProbeEffect]:
        """Take an ack by its number: it ends the round, or is passed on to whom it was asked for.

        `source` is where it came from, which tells a direct answer from a relayed one.
        """
        current = self._by_ping.get(sequence)
        if current is None:
            relay = self._relays.pop(sequence, None)
            return [] if relay is None else [Transmit(relay.requester, (Ack(relay.sequence),))]
        direct = current.escalate_at is not None or source == current.endpoint
        self._succeed(current, now, first_answered=direct and sequence == current.sequence)
        return self._measured(current, now - current.pings[sequence], payload) if direct else []

    def _measured(self, current: Round, round_trip_s: float, payload: bytes) -> list[ProbeEffect]:
        target = self._members.get(current.target)
        if target is None:
            return []
        if current.target in self._round_trips:
            self._round_trips[current.target].add(round_trip_s)
        else:
            known = {record.name for record in self._members}
            self._round_trips = {name: trip for name, trip in self._round_trips.items() if name in known}
            self._round_trips[current.target] = RoundTrip(round_trip_s)
            self._send_nacks &= known
        return [Notify(PingCompleted(target.seen(), round_trip_s, payload))] if self._config.report_pings else []

    def nacked(self, sequence: int, source: Endpoint | None = None) -> None:
        """Count a nack; it shows that this member can be reached, and does not end the round."""
        current = self._by_ping.get(sequence)
        if current is None:
            return
        current.nacks += 1
        if source is not None and source in current.asked:
            self._send_nacks.add(current.asked[source])

    def refused(self, to: Endpoint, now: float) -> None:
        """Do not wait for an answer to a ping that could not be sent: escalate at once."""
        for current in self._rounds:
            if current.endpoint == to and current.escalate_at is not None:
                current.escalate_at = now

    # Streams.

    def stream_connected(self, sequence: int) -> None:
        """Note that the target's kernel took the connection."""
        self._note_stream(sequence, StreamOutcome.CONNECTED)

    def stream_answered(self, sequence: int) -> None:
        """Note the ack that came over the stream; it counts when the round ends, so that packets are still waited for."""
        self._note_stream(sequence, StreamOutcome.ANSWERED)

    def stream_failed(self, sequence: int, failure: Failure | None) -> None:
        """Note how the stream failed."""
        if failure is Failure.REFUSED:
            self._note_stream(sequence, StreamOutcome.REFUSED)

    def _note_stream(self, sequence: int, outcome: StreamOutcome) -> None:
        current = self._by_ping.get(sequence)
        if current is not None:
            current.stream = outcome

    def _ping(self, node: str) -> Ping:
        self._sequence = (self._sequence + 1) % _SEQUENCES
        own = self._members.own
        return Ping(self._sequence, node, own.address, own.port, own.name)
