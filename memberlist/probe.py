"""One probe round at a time: is the next member there? (SWIM §3.1 and §4.3, Lifeguard §IV-A).

    0                     ping the target (a suspect also hears that it is suspected, so that it can refute)
    probe_timeout_s       ask other members to ping it, and ping it over a stream
    probe_interval_s x h  nobody got through: it is suspected; h is this member's own health, see awareness.py

Also the other side: answers to pings, and pings on behalf of others. core.py feeds it messages and time; it returns what
to transmit, still as messages. Refuses to judge beyond "suspect": members.py decides what becomes of that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, TypeAlias

from memberlist.awareness import Awareness
from memberlist.chance import Chance
from memberlist.config import Config
from memberlist.effects import Effect, Endpoint, Failure
from memberlist.members import GONE, Members, Record
from memberlist.messages import Ack, IndirectPing, Message, Nack, Ping, State, Suspect

_SEQUENCES: Final = 1 << 32
_STREAM_PING_SINCE: Final = 3  # protocol versions
_NACK_SINCE: Final = 4
_CRC_SINCE: Final = 5
_RELAYS_MAX: Final = 1024


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


@dataclass(slots=True)
class Round:
    """A probe that is going on."""

    target: str
    endpoint: Endpoint
    sequence: int
    escalate_at: float | None  # when others are asked; None once they are
    deadline: float
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

    def __init__(self, config: Config, members: Members, awareness: Awareness, chance: Chance) -> None:
        self._config = config
        self._members = members
        self._awareness = awareness
        self._chance = chance
        self._rotation = Rotation(members, chance)
        self._sequence = chance.getrandbits(32)  # Unpredictable, because an ack is known by its number alone.
        self._round: Round | None = None
        self._relays: dict[int, Relay] = {}
        self._next_at: float | None = None
        self.answered = 0

    def start(self, now: float) -> None:
        """Start probing at a random phase, so that members started together do not probe together."""
        if self._config.probe_interval_s > 0:
            self._next_at = now + self._chance.random() * self._config.probe_interval_s

    @property
    def round(self) -> Round | None:
        """The probe that is going on, for tests and status pages."""
        return self._round

    # Time.

    def tick(self, now: float) -> list[ProbeEffect]:
        """Do what is due: nack, escalate, end the round, start the next."""
        effects = self._tick_relays(now)
        if self._round is not None and self._round.escalate_at is not None and now >= self._round.escalate_at:
            effects += self._escalate(self._round)
        if self._round is not None and now >= self._round.deadline:
            effects += self._end(self._round, now)
        if self._round is None and self._next_at is not None and now >= self._next_at:
            interval_s = self._config.probe_interval_s
            # Ticks missed during a long round are dropped, the phase is kept.
            self._next_at += interval_s * (1 + (now - self._next_at) // interval_s)
            effects += self._begin(now)
        return effects

    def wake_at(self) -> float | None:
        """Return when tick is next due."""
        times = [self._next_at] if self._round is None else [self._round.escalate_at, self._round.deadline]
        for relay in self._relays.values():
            times += [relay.nack_at, relay.expires_at]
        return min((time for time in times if time is not None), default=None)

    def _begin(self, now: float) -> list[ProbeEffect]:
        target = self._rotation.next(now)
        if target is None:
            return []
        ping = self._ping(target.name)
        deadline = now + self._awareness.scaled(self._config.probe_interval_s)
        self._round = Round(target.name, target.endpoint, ping.sequence, now + self._config.probe_timeout_s, deadline)
        if target.state is State.SUSPECT:
            accusation = Suspect(target.incarnation, target.name, self._config.name)
            checksum = target.protocol_max() >= _CRC_SINCE
            return [Transmit(target.endpoint, (ping, accusation), piggyback=False, checksum=checksum)]
        return [Transmit(target.endpoint, (ping,))]

    def _escalate(self, current: Round) -> list[ProbeEffect]:
        """Ask other members, and try a stream; all under the number of the first ping."""
        current.escalate_at = None
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
            current.nacks_expected += wants_nack
            request = IndirectPing(
                current.sequence, target.address, target.port, target.name, wants_nack, own.address, own.port, own.name
            )
            effects.append(Transmit(helper.endpoint, (request,)))
        if self._config.stream_pings and target.protocol_max() >= _STREAM_PING_SINCE:
            current.stream = StreamOutcome.SILENT
            ping = Ping(current.sequence, target.name, own.address, own.port, own.name)
            effects.append(PingByStream(target.endpoint, ping, current.deadline))
        return effects

    def _succeed(self) -> None:
        self._round = None
        self.answered += 1
        self._awareness.adjust(-1)

    def _end(self, current: Round, now: float) -> list[ProbeEffect]:
        self._round = None
        if current.stream is StreamOutcome.ANSWERED:
            self._succeed()
            return []
        self._awareness.adjust(current.nacks_expected - current.nacks if current.nacks_expected else 1)
        target = self._members.get(current.target)
        return [] if target is None else [*self._members.accuse(target, now)]

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
        return [] if self.is_for_another(ping) else [Transmit(reply_to, (Ack(ping.sequence),))]

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

    def acked(self, sequence: int) -> list[ProbeEffect]:
        """Take an ack by its number: it ends the round, or is passed on to whom it was asked for."""
        if self._round is not None and self._round.sequence == sequence:
            self._succeed()
            return []
        relay = self._relays.pop(sequence, None)
        return [] if relay is None else [Transmit(relay.requester, (Ack(relay.sequence),))]

    def nacked(self, sequence: int) -> None:
        """Count a nack; it shows that this member can be reached, and does not end the round."""
        if self._round is not None and self._round.sequence == sequence:
            self._round.nacks += 1

    def refused(self, to: Endpoint, now: float) -> None:
        """Do not wait for an answer to a ping that could not be sent: escalate at once."""
        if self._round is not None and self._round.endpoint == to and self._round.escalate_at is not None:
            self._round.escalate_at = now

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
        if self._round is not None and self._round.sequence == sequence:
            self._round.stream = outcome

    def _ping(self, node: str) -> Ping:
        self._sequence = (self._sequence + 1) % _SEQUENCES
        own = self._members.own
        return Ping(self._sequence, node, own.address, own.port, own.name)
