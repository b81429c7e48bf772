"""What happens on streams: joining, exchanging tables now and then, and pings that must not get lost.

One short stream per exchange. The dialer sends one message and reads one; the acceptor answers with its table before it
merges what came. Called by core.py; every stream has a deadline, so that a peer that goes silent costs nothing for long.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from memberlist import push_pull, streams
from memberlist.config import Config
from memberlist.effects import (
    CloseStream,
    Effect,
    Endpoint,
    Failure,
    JoinAnswered,
    JoinFailed,
    MessageReceived,
    Notify,
    OpenStream,
    Rejected,
    StreamAccepted,
    StreamConnected,
    StreamEnded,
    StreamReceived,
    UserStateReceived,
    WriteStream,
)
from memberlist.errors import WireError
from memberlist.members import Members
from memberlist.messages import Ack, ErrorReply, Message, Ping, PushPull, UserMessage
from memberlist.packet import Envelope, NonceSource
from memberlist.probe import PingByStream, Prober


class Purpose(Enum):
    """Why a stream is open."""

    SERVE = auto()  # a peer dialled
    JOIN = auto()
    PUSH_PULL = auto()
    PING = auto()
    MESSAGE = auto()


_TABLE_BYTES: Final = 4096  # Who sent so much without an end is sending a table.


@dataclass(slots=True)
class Stream:
    """An open stream. `reference` is the join's token or the ping's number."""

    number: int
    purpose: Purpose
    peer: Endpoint
    reader: streams.StreamReader
    deadline: float
    reference: int = 0


class Exchanges:
    """All open streams of this member."""

    def __init__(self, config: Config, members: Members, prober: Prober, envelope: Envelope, nonces: NonceSource) -> None:
        self._config = config
        self._members = members
        self._prober = prober
        self._envelope = envelope
        self._nonces = nonces
        self._open: dict[int, Stream] = {}
        self._last_number = 0
        self.user_state = b""

    # Opening.

    def join(self, token: int, seed: Endpoint, now: float) -> list[Effect]:
        """Exchange tables with a seed."""
        deadline = now + self._config.stream_timeout_s
        return self._dial(Purpose.JOIN, seed, self._table(join=True), deadline, token)

    def push_pull(self, peer: Endpoint, now: float) -> list[Effect]:
        """Exchange tables with a member, unless that is going on."""
        if any(one.peer == peer and one.purpose in {Purpose.PUSH_PULL, Purpose.JOIN} for one in self._open.values()):
            return []
        deadline = now + self._config.stream_timeout_s
        return self._dial(Purpose.PUSH_PULL, peer, self._table(join=False), deadline)

    def send(self, to: Endpoint, payload: bytes, now: float) -> list[Effect]:
        """Send a message of the application."""
        return self._dial(Purpose.MESSAGE, to, UserMessage(payload), now + self._config.stream_timeout_s)

    def _table(self, *, join: bool) -> PushPull:
        return PushPull(push_pull.table(self._members), join=join, user_state=self.user_state)

    def ping(self, request: PingByStream) -> list[Effect]:
        """Ping over a stream."""
        return self._dial(Purpose.PING, request.to, request.ping, request.deadline, request.ping.sequence)

    def _dial(self, purpose: Purpose, peer: Endpoint, message: Message, deadline: float, reference: int = 0) -> list[Effect]:
        self._last_number -= 1
        stream = Stream(self._last_number, purpose, peer, self._reader(from_dialer=False), deadline, reference)
        self._open[stream.number] = stream
        return [OpenStream(stream.number, peer, streams.dial(streams.encode(message), self._envelope, self._nonces))]

    def _reader(self, *, from_dialer: bool) -> streams.StreamReader:
        return streams.StreamReader(
            self._envelope,
            from_dialer=from_dialer,
            bytes_max=self._config.stream_bytes_max,
            nodes_max=self._config.members_max,
        )

    # What the shell reports.

    def accepted(self, event: StreamAccepted, now: float) -> list[Effect]:
        """Serve a peer that dialled, unless too many are being served, or too many for that address."""
        serving = [stream for stream in self._open.values() if stream.purpose is Purpose.SERVE]
        same = sum(stream.peer.address == event.source.address for stream in serving)
        limits = self._config
        if len(serving) >= limits.inbound_streams_max or same >= limits.inbound_streams_per_source_max * self._members_at(
            event
        ):
            return [CloseStream(event.stream), _busy(event.source, f"{len(serving)} streams are open, {same} to this address")]
        deadline = now + self._config.stream_timeout_s
        reader = self._reader(from_dialer=True)
        self._open[event.stream] = Stream(event.stream, Purpose.SERVE, event.source, reader, deadline)
        return []

    def _members_at(self, event: StreamAccepted | Stream) -> int:
        """Return how many members live at the peer's address, at least one: it may be about to join."""
        address = (event.source if isinstance(event, StreamAccepted) else event.peer).address
        return max(1, sum(record.endpoint.address == address for record in self._members))

    def connected(self, event: StreamConnected) -> list[Effect]:
        """Note that a ping's target took the connection; a message of the application is all there is to say."""
        stream = self._open.get(event.stream)
        if stream is None:
            return []
        if stream.purpose is Purpose.MESSAGE:
            del self._open[stream.number]
            return [CloseStream(stream.number)]
        if stream.purpose is Purpose.PING:
            self._prober.stream_connected(stream.reference)
        return []

    def received(self, event: StreamReceived, now: float) -> list[Effect]:
        """Read on; act when the peer's message is whole."""
        stream = self._open.get(event.stream)
        if stream is None:
            return []
        try:
            message = stream.reader.feed(event.data)
        except WireError as problem:
            return self._unreadable(stream, problem)
        if message is None:
            return self._one_table_at_a_time(stream)
        del self._open[stream.number]
        if stream.purpose is Purpose.SERVE:
            return self._serve(stream, message, now)
        return [CloseStream(stream.number), *self._conclude(stream, message, now)]

    def _one_table_at_a_time(self, stream: Stream) -> list[Effect]:
        """Refuse a stream that brings a second unfinished table from the same member."""
        if stream.purpose is not Purpose.SERVE or stream.reader.bytes_read <= _TABLE_BYTES:
            return []
        unfinished = sum(
            other.purpose is Purpose.SERVE
            and other.peer.address == stream.peer.address
            and other.reader.bytes_read > _TABLE_BYTES
            for other in self._open.values()
        )
        if unfinished <= self._members_at(stream):
            return []
        del self._open[stream.number]
        return [CloseStream(stream.number), _busy(stream.peer, "another table from this address is not finished")]

    def ended(self, event: StreamEnded) -> list[Effect]:
        """Take note that a stream is gone before its exchange was done."""
        stream = self._open.pop(event.stream, None)
        if stream is None:
            return []
        return self._give_up(stream, event.failure, event.failure.value if event.failure else "closed without an answer")

    def tick(self, now: float) -> list[Effect]:
        """Close streams that took too long."""
        effects: list[Effect] = []
        for stream in [stream for stream in self._open.values() if stream.deadline <= now]:
            del self._open[stream.number]
            effects += [CloseStream(stream.number), *self._give_up(stream, Failure.TIMED_OUT, "timed out")]
        return effects

    def wake_at(self) -> float | None:
        """Return the nearest deadline."""
        return min(stream.deadline for stream in self._open.values()) if self._open else None

    # Outcomes.

    def _serve(self, stream: Stream, message: Message, now: float) -> list[Effect]:
        close = CloseStream(stream.number)
        match message:
            case Ping():
                if self._prober.is_for_another(message):
                    return [close]
                return [self._reply(stream, Ack(message.sequence)), close]
            case PushPull():
                reply = self._reply(stream, self._table(join=message.join))
                problem, merged = self._merge(stream.peer, message, now)
                refused = [_refused(stream, problem)] if problem else []
                return [reply, close, *refused, *merged]
            case UserMessage(payload=payload):
                return [close, Notify(MessageReceived(stream.peer, payload))]
            case _:
                return [close]

    def _conclude(self, stream: Stream, message: Message, now: float) -> list[Effect]:
        if stream.purpose is Purpose.PING:
            if isinstance(message, Ack) and message.sequence == stream.reference:
                self._prober.stream_answered(stream.reference)
            return []
        if isinstance(message, PushPull):
            problem, merged = self._merge(stream.peer, message, now)
        else:
            said = message.text if isinstance(message, ErrorReply) else type(message).__name__
            problem, merged = f"answered with {said!r} instead of its members", []
        if stream.purpose is Purpose.JOIN:
            return [*merged, JoinFailed(stream.reference, problem) if problem else JoinAnswered(stream.reference)]
        return [_refused(stream, problem)] if problem else merged

    def _merge(self, peer: Endpoint, received: PushPull, now: float) -> tuple[str | None, list[Effect]]:
        problem = push_pull.disagreement(push_pull.table(self._members), received.states)
        if not problem and received.join:
            problem = self._members.objection_to_join(push_pull.joining(received))
        if problem:
            return problem, []
        merged = push_pull.merge(self._members, received, self._config.port_of, now)
        if received.user_state:
            merged.append(Notify(UserStateReceived(peer, received.user_state, received.join)))
        return None, merged

    def _unreadable(self, stream: Stream, problem: WireError) -> list[Effect]:
        del self._open[stream.number]
        effects: list[Effect] = []
        if stream.purpose is Purpose.SERVE and stream.reader.owes_error:
            effects.append(self._reply(stream, ErrorReply(str(problem))))
        rejected = Notify(Rejected(stream.peer, f"{type(problem).__name__}: {problem}"))
        return [*effects, CloseStream(stream.number), rejected, *self._give_up(stream, Failure.BROKEN, str(problem))]

    def _give_up(self, stream: Stream, failure: Failure | None, reason: str) -> list[Effect]:
        if stream.purpose is Purpose.PING:
            self._prober.stream_failed(stream.reference, failure)
        return [JoinFailed(stream.reference, reason)] if stream.purpose is Purpose.JOIN else []

    def _reply(self, stream: Stream, message: Message) -> WriteStream:
        return WriteStream(stream.number, streams.frame(streams.encode(message), self._envelope, self._nonces))


def _refused(stream: Stream, problem: str) -> Notify:
    return Notify(Rejected(stream.peer, f"Exchange: {problem}"))


def _busy(peer: Endpoint, why: str) -> Notify:
    return Notify(Rejected(peer, f"Busy: {why}"))
