"""What happens on streams: joining, exchanging tables now and then, and pings that must not get lost.

One short stream per exchange. The dialer sends one message and reads one; the acceptor answers with its table before it
merges what came. Called by core.py; every stream has a deadline, so that a peer that goes silent costs nothing for long.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from memberlist import push_pull, streams
from memberlist.config import Config
from memberlist.effects import (
    CloseStream,
    Effect,
    Endpoint,
    Failure,
    JoinAnswered,
    JoinFailed,
    Notify,
    OpenStream,
    Rejected,
    StreamAccepted,
    StreamConnected,
    StreamEnded,
    StreamReceived,
    WriteStream,
)
from memberlist.errors import WireError
from memberlist.members import Members
from memberlist.messages import Ack, ErrorReply, Message, Ping, PushPull
from memberlist.packet import Envelope, NonceSource
from memberlist.probe import PingByStream, Prober


class Purpose(Enum):
    """Why a stream is open."""

    SERVE = auto()  # a peer dialled
    JOIN = auto()
    PUSH_PULL = auto()
    PING = auto()


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

    # Opening.

    def join(self, token: int, seed: Endpoint, now: float) -> list[Effect]:
        """Exchange tables with a seed."""
        deadline = now + self._config.stream_timeout_s
        return self._dial(Purpose.JOIN, seed, PushPull(push_pull.table(self._members), join=True), deadline, token)

    def push_pull(self, peer: Endpoint, now: float) -> list[Effect]:
        """Exchange tables with a member."""
        deadline = now + self._config.stream_timeout_s
        return self._dial(Purpose.PUSH_PULL, peer, PushPull(push_pull.table(self._members)), deadline)

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
        """Serve a peer that dialled, unless too many are being served."""
        serving = sum(stream.purpose is Purpose.SERVE for stream in self._open.values())
        if serving >= self._config.inbound_streams_max:
            return [CloseStream(event.stream)]
        deadline = now + self._config.stream_timeout_s
        reader = self._reader(from_dialer=True)
        self._open[event.stream] = Stream(event.stream, Purpose.SERVE, event.source, reader, deadline)
        return []

    def connected(self, event: StreamConnected) -> list[Effect]:
        """Note that a ping's target took the connection."""
        stream = self._open.get(event.stream)
        if stream is not None and stream.purpose is Purpose.PING:
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
            return []
        del self._open[stream.number]
        if stream.purpose is Purpose.SERVE:
            return self._serve(stream, message, now)
        return [CloseStream(stream.number), *self._conclude(stream, message, now)]

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
        return min((stream.deadline for stream in self._open.values()), default=None)

    # Outcomes.

    def _serve(self, stream: Stream, message: Message, now: float) -> list[Effect]:
        close = CloseStream(stream.number)
        match message:
            case Ping():
                if self._prober.is_for_another(message):
                    return [close]
                return [self._reply(stream, Ack(message.sequence)), close]
            case PushPull():
                reply = self._reply(stream, PushPull(push_pull.table(self._members), join=message.join))
                problem, merged = self._merge(message, now)
                refused = [_refused(stream, problem)] if problem else []
                return [reply, close, *refused, *merged]
            case _:  # The application's own messages: none of ours.
                return [close]

    def _conclude(self, stream: Stream, message: Message, now: float) -> list[Effect]:
        if stream.purpose is Purpose.PING:
            if isinstance(message, Ack) and message.sequence == stream.reference:
                self._prober.stream_answered(stream.reference)
            return []
        if isinstance(message, PushPull):
            problem, merged = self._merge(message, now)
        else:
            said = message.text if isinstance(message, ErrorReply) else type(message).__name__
            problem, merged = f"answered with {said!r} instead of its members", []
        if stream.purpose is Purpose.JOIN:
            return [*merged, JoinFailed(stream.reference, problem) if problem else JoinAnswered(stream.reference)]
        return [_refused(stream, problem)] if problem else merged

    def _merge(self, received: PushPull, now: float) -> tuple[str | None, list[Effect]]:
        problem = push_pull.disagreement(push_pull.table(self._members), received.states)
        return (problem, []) if problem else (None, push_pull.merge(self._members, received, self._config.bind_port, now))

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
