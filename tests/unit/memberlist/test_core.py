"""The whole machine, bytes in and bytes out: routing, gossip, streams, leaving, and what is dropped."""

import random
from typing import Any

import pytest

from memberlist import lzw, packet, streams, wire
from memberlist.config import lan
from memberlist.core import Core
from memberlist.effects import (
    CloseStream,
    Effect,
    Endpoint,
    Failure,
    Input,
    Join,
    JoinAnswered,
    Joined,
    JoinFailed,
    Leave,
    LeaveSpread,
    Left,
    MessageReceived,
    Notify,
    OpenStream,
    PacketReceived,
    PacketRefused,
    Rejected,
    SendPacket,
    StreamAccepted,
    StreamConnected,
    StreamEnded,
    StreamReceived,
    Suspected,
    UpdateMeta,
    UserStateReceived,
    WriteStream,
)
from memberlist.keyring import Keyring
from memberlist.messages import (
    Ack,
    Alive,
    Dead,
    ErrorReply,
    IndirectPing,
    Message,
    Nack,
    NodeState,
    Ping,
    PushPull,
    State,
    Suspect,
    UserMessage,
)
from memberlist.packet import Envelope

VSN = bytes([1, 5, 2, 0, 0, 0])
KEY = b"k" * 32
X = Endpoint.of("192.0.2.7", 7946)
Y = Endpoint.of("192.0.2.8", 7946)
M0 = Endpoint.of("10.0.0.0", 7946)
STRANGER = Endpoint.of("203.0.113.66", 5000)


def seeded(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311  (repeatable on purpose)


class Machine:
    """A core named "me", fed with messages; periodic activities are off unless asked for."""

    def __init__(self, *, keyring: Keyring | None = None, periodic: bool = False, **settings: Any) -> None:
        if not periodic:
            settings = {"probe_interval_s": 0.0, "gossip_interval_s": 0.0, "push_pull_interval_s": 0.0, **settings}
        self.envelope = Envelope(settings.get("label", b""), keyring)
        self.core = Core(lan("me", "192.0.2.1", **settings), 7946, keyring=keyring, chance=seeded(3), nonces=lambda: bytes(12))
        assert self.core.start(0.0) == []

    def take(self, event: Input, now: float = 1.0) -> list[Effect]:
        return self.core.handle(event, now)

    def packet(self, *messages: Message, source: Endpoint = X, now: float = 1.0) -> list[Effect]:
        """Receive a datagram sealed as this ring does."""
        data = packet.make_compound([wire.encode(message) for message in messages])
        return self.raw(packet.seal_packet(data, self.envelope, lambda: bytes(12), checksum=False), source=source, now=now)

    def raw(self, data: bytes, *, source: Endpoint = X, now: float = 1.0) -> list[Effect]:
        return self.take(PacketReceived(source, data), now)

    def sent(self, effect: Effect) -> tuple[Endpoint, list[Message]]:
        """Open a packet that this member sends."""
        assert isinstance(effect, SendPacket)
        assert len(effect.data) <= 1400
        opened = packet.open_packet(effect.data, self.envelope)
        assert not opened.problems
        return effect.to, [wire.decode(data) for data in opened.messages]

    def knows(self, *names: str) -> "Machine":
        for number, name in enumerate(names):
            self.packet(Alive(1, name, bytes([192, 0, 2, 7 + number]), 7946, b"", VSN))
        self.drain()
        return self

    def drain(self) -> None:
        """Forget what is still to be told."""
        self.core._queue.take(part_overhead=2, limit=1_000_000, transmits_max=1, count_max=10_000)

    def reader(self, *, from_dialer: bool) -> streams.StreamReader:
        return streams.StreamReader(self.envelope, from_dialer=from_dialer, bytes_max=1 << 20, nodes_max=1000)

    def dialled(self, effects: list[Effect]) -> tuple[int, Message]:
        """The stream this member opened and what it said."""
        (opened,) = [effect for effect in effects if isinstance(effect, OpenStream)]
        message = self.reader(from_dialer=True).feed(opened.data)
        assert message is not None
        return opened.stream, message

    def dial(self, message: Message, *, stream: int = 1, now: float = 1.0) -> list[Effect]:
        """Open a stream to this member and say something."""
        assert self.take(StreamAccepted(stream, X), now) == []
        data = streams.dial(streams.encode(message), self.envelope, lambda: bytes(12))
        return self.take(StreamReceived(stream, data), now)

    def answer(self, stream: int, message: Message, now: float = 1.0) -> list[Effect]:
        """Answer a stream that this member opened."""
        data = streams.frame(streams.encode(message), self.envelope, lambda: bytes(12))
        return self.take(StreamReceived(stream, data), now)

    def replied(self, effects: list[Effect]) -> Message:
        """What this member wrote on a stream before it closed it."""
        write, close = effects[:2]
        assert isinstance(write, WriteStream)
        assert isinstance(close, CloseStream)
        message = self.reader(from_dialer=False).feed(write.data)
        assert message is not None
        return message


def alive(name: str, number: int, incarnation: int = 1) -> Alive:
    return Alive(incarnation, name, bytes([192, 0, 2, number]), 7946, b"", VSN)


def told(effects: list[Effect]) -> list[object]:
    return [effect.event for effect in effects if isinstance(effect, Notify)]


RINGS = [{}, {"keyring": Keyring(KEY)}, {"keyring": Keyring(KEY), "label": b"blue"}, {"label": b"blue"}]


# packets


@pytest.mark.parametrize("ring", RINGS)
def test_three_pings_in_one_packet_get_three_acks(ring: dict[str, Any]) -> None:
    machine = Machine(**ring).knows("x")
    effects = machine.packet(Ping(1, "me"), Ping(2, ""), Ping(3, "me"))
    assert [machine.sent(effect) for effect in effects] == [(X, [Ack(1)]), (X, [Ack(2)]), (X, [Ack(3)])]


def test_gossip_rides_on_an_ack_after_the_ack() -> None:
    machine = Machine(keyring=Keyring(KEY))
    (effect,) = machine.packet(Ping(1, "me"))
    _, messages = machine.sent(effect)
    assert messages == [Ack(1), Alive(1, "me", bytes([192, 0, 2, 1]), 7946, b"", VSN)]


def test_a_ping_for_another_name_gets_nothing() -> None:
    assert Machine().packet(Ping(1, "you")) == []


@pytest.mark.parametrize("source", [bytes([203, 0, 113, 9]), b"", bytes(5)])
def test_a_plain_ring_answers_only_to_members_or_to_whence_the_ping_came(source: bytes) -> None:
    machine = Machine().knows("x")
    (effect,) = machine.packet(Ping(1, "me", source, 9999), source=STRANGER)
    assert machine.sent(effect)[0] == STRANGER
    (effect,) = machine.packet(Ping(1, "me", X.address.packed, 7946), source=STRANGER)
    assert machine.sent(effect)[0] == X


def test_an_encrypted_ring_answers_to_where_the_ping_says() -> None:
    machine = Machine(keyring=Keyring(KEY))
    (effect,) = machine.packet(Ping(1, "me", bytes([203, 0, 113, 9]), 9999))
    assert machine.sent(effect)[0] == Endpoint.of("203.0.113.9", 9999)


def test_an_indirect_ping_is_relayed_and_its_ack_comes_back_under_the_askers_number() -> None:
    machine = Machine().knows("x", "y")
    (effect,) = machine.packet(IndirectPing(300, Y.address.packed, 7946, "y", nack=True), source=X)
    to, (ping,) = machine.sent(effect)
    assert to == Y
    assert isinstance(ping, Ping)
    (effect,) = machine.packet(Ack(ping.sequence), source=Y)
    assert machine.sent(effect) == (X, [Ack(300)])


def test_an_indirect_ping_to_a_dead_target_is_nacked() -> None:
    machine = Machine().knows("x", "y")
    machine.packet(IndirectPing(300, Y.address.packed, 7946, "y", nack=True), now=5.0)
    assert machine.core.wake_at() == pytest.approx(5.4)
    (effect,) = machine.core.tick(5.4)
    assert machine.sent(effect) == (X, [Nack(300)])


def test_a_plain_ring_pings_nobody_that_it_does_not_know() -> None:
    request = IndirectPing(300, bytes([203, 0, 113, 9]), 53, "victim", nack=True)
    assert Machine().packet(request) == []
    assert len(Machine(keyring=Keyring(KEY)).packet(request)) == 1
    assert Machine(keyring=Keyring(KEY)).packet(IndirectPing(300, b"abc", 53, "victim")) == []


def test_gossip_reaches_the_member_table() -> None:
    machine = Machine()
    (joined,) = told(machine.packet(alive("x", 7)))
    assert isinstance(joined, Joined)
    (suspected,) = told(machine.packet(Suspect(1, "x", "y")))
    assert isinstance(suspected, Suspected)
    (left,) = told(machine.packet(Dead(1, "x", "y")))
    assert isinstance(left, Left)
    assert machine.packet(UserMessage(b"serf's"), Nack(1)) == [Notify(MessageReceived(X, b"serf's"))]


def test_a_member_that_names_no_port_is_on_this_members_own() -> None:
    machine = Machine(bind_port=7999)
    machine.packet(Alive(1, "x", X.address.packed, 0, b"", VSN))
    assert machine.core.members.usable()[1].port == 7999


@pytest.mark.parametrize("data", [b"", b"\x63abc", b"\x0c" + bytes(8), b"\x07", b"\x00\x81"])
def test_bytes_that_are_no_message_are_counted_and_reported_once_in_ten_seconds(data: bytes) -> None:
    machine = Machine()
    for now, reports in ((1.0, 1), (2.0, 0), (10.9, 0), (11.1, 1)):
        assert [type(event) for event in told(machine.raw(data, source=STRANGER, now=now))] == [Rejected] * reports
    assert sum(machine.core.rejections.values()) == 4


def test_one_bad_part_does_not_spoil_the_others() -> None:
    machine = Machine()
    data = packet.make_compound(
        [b"\x63", wire.encode(alive("x", 7)), wire.encode_compressed(lzw.compress(wire.encode(alive("y", 8))))]
    )
    effects = machine.raw(data + b"")
    assert [type(event) for event in told(effects)] == [Rejected, Joined, Joined]


def test_a_packet_under_another_key_is_dropped() -> None:
    machine = Machine(keyring=Keyring(KEY))
    foreign = packet.seal_packet(
        wire.encode(alive("x", 7)), Envelope(keyring=Keyring(b"z" * 32)), lambda: bytes(12), checksum=False
    )
    assert [type(event) for event in told(machine.raw(foreign))] == [Rejected]
    assert machine.core.rejections == {"AuthError": 1}
    assert len(machine.core.members) == 1


# periodic


def test_gossip_goes_to_a_few_members_and_stops_when_all_is_told() -> None:
    machine = Machine(gossip_interval_s=0.2).knows("x", "y")
    machine.packet(alive("z", 9))
    receivers: list[Endpoint] = []
    while (now := machine.core.wake_at()) is not None:
        for effect in machine.core.tick(now):
            to, messages = machine.sent(effect)
            assert all(isinstance(message, Alive) for message in messages)
            receivers.append(to)
    assert len(receivers) >= 4
    assert set(receivers) <= {X, Y, Endpoint.of("192.0.2.9", 7946)}


def test_the_dead_hear_gossip_for_a_while_and_the_departed_do_not() -> None:
    for message, now, hears in (
        (Dead(1, "x", "y"), 20.0, True),
        (Dead(1, "x", "y"), 31.1, False),
        (Dead(1, "x", "x"), 2.0, False),
    ):
        machine = Machine(gossip_interval_s=0.2)
        machine.packet(alive("x", 7))
        machine.packet(message, now=1.0)
        assert bool(machine.core.tick(now)) == hears


def test_gossip_carries_a_checksum_only_for_those_who_read_it() -> None:
    for versions, first in ((VSN, 12), (bytes([1, 4, 2, 0, 0, 0]), 7)):
        machine = Machine(gossip_interval_s=0.2)
        machine.packet(Alive(1, "x", X.address.packed, 7946, b"", versions))
        (effect,) = machine.core.tick(2.0)
        assert isinstance(effect, SendPacket)
        assert effect.data[0] == first


def test_packets_stay_within_their_size_whatever_is_to_be_told() -> None:
    machine = Machine(keyring=Keyring(KEY), label=b"blue", gossip_interval_s=0.2)
    for number in range(200):
        machine.packet(Alive(1, f"member-{number}" + "x" * (number % 50), bytes([10, 0, number, 1]), 7946, bytes(number), VSN))
    (effect,) = machine.packet(Ping(1, "me"))
    assert len(machine.sent(effect)[1]) > 5
    packets = [effect for effect in machine.core.tick(2.0) if isinstance(effect, SendPacket)]
    assert len(packets) == 3
    assert all(1300 < len(effect.data) <= 1405 for effect in packets)


def test_a_packet_has_no_more_parts_than_its_count_can_say() -> None:
    machine = Machine(packet_bytes_max=60_000, members_max=1000)
    for number in range(400):
        machine.packet(Alive(1, f"m{number}", bytes([10, 0, number // 250, number % 250]), 7946, b"", VSN), source=M0)
    machine.drain()
    for number in range(400):
        machine.packet(Suspect(1, f"m{number}", "x"), source=M0)
    (effect,) = machine.packet(Ping(1, "me"), source=M0)
    assert isinstance(effect, SendPacket)
    assert len(packet.split_compound(effect.data).parts) == 255


def test_tables_are_exchanged_now_and_then_with_somebody_alive() -> None:
    machine = Machine(push_pull_interval_s=30.0)
    first = machine.core.wake_at()
    assert first is not None
    assert 0 <= first <= 30
    assert machine.core.tick(first) == []
    assert machine.core.wake_at() == pytest.approx(first + 30)
    machine.packet(alive("x", 7))
    stream, message = machine.dialled(machine.core.tick(first + 30))
    assert isinstance(message, PushPull)
    assert not message.join
    assert [row.name for row in message.states] == ["me", "x"]
    row = NodeState("y", Y.address.packed, 7946, b"", 1, State.ALIVE, VSN)
    effects = machine.answer(stream, PushPull((row,)))
    assert effects[0] == CloseStream(stream)
    assert [type(event) for event in told(effects)] == [Joined]


def test_everything_runs_from_the_phases_chosen_at_start() -> None:
    machine = Machine(periodic=True)
    machine.packet(alive("x", 7), now=0.0)
    kinds: set[type] = set()
    while (now := machine.core.wake_at()) is not None and now < 40:
        kinds |= {type(effect) for effect in machine.core.tick(now)}
    assert kinds == {SendPacket, OpenStream, CloseStream, Notify}


# streams


@pytest.mark.parametrize("ring", RINGS)
def test_a_join_exchanges_tables_and_says_so(ring: dict[str, Any]) -> None:
    machine = Machine(**ring)
    stream, message = machine.dialled(machine.take(Join(77, X)))
    assert isinstance(message, PushPull)
    assert message.join
    row = NodeState("x", X.address.packed, 7946, b"", 1, State.ALIVE, VSN)
    effects = machine.answer(stream, PushPull((row,), join=True, user_state=b"serf's own"))
    assert effects[0] == CloseStream(stream)
    assert effects[-1] == JoinAnswered(77)
    assert [type(event) for event in told(effects)] == [Joined, UserStateReceived]
    assert told(effects)[1] == UserStateReceived(X, b"serf's own", join=True)


@pytest.mark.parametrize("ring", RINGS)
def test_a_peer_that_joins_gets_this_members_table_as_it_was_before(ring: dict[str, Any]) -> None:
    machine = Machine(**ring)
    row = NodeState("x", X.address.packed, 7946, b"", 1, State.ALIVE, VSN)
    effects = machine.dial(PushPull((row,), join=True))
    reply = machine.replied(effects)
    assert isinstance(reply, PushPull)
    assert reply.join
    assert [entry.name for entry in reply.states] == ["me"]
    assert [type(event) for event in told(effects)] == [Joined]


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (StreamEnded(-1, Failure.REFUSED), "refused"),
        (StreamEnded(-1), "closed without an answer"),
        (StreamReceived(-1, b"\x63"), "not accepted"),
        (StreamReceived(-1, wire.encode(ErrorReply("no"))), "'no'"),
        (StreamReceived(-1, wire.encode(Ack(1))), "'Ack'"),
    ],
)
def test_a_join_that_is_not_answered_says_why(event: Input, reason: str) -> None:
    machine = Machine()
    machine.take(Join(77, X))
    (failed,) = [effect for effect in machine.take(event) if isinstance(effect, JoinFailed)]
    assert failed.token == 77
    assert reason in failed.reason
    assert machine.take(event) == []


def test_a_seed_that_says_nothing_is_given_up_after_its_time() -> None:
    machine = Machine()
    machine.take(Join(77, X), now=1.0)
    assert machine.take(StreamConnected(-1)) == []
    assert machine.core.wake_at() == 11.0
    assert machine.core.tick(10.9) == []
    assert machine.core.tick(11.0) == [CloseStream(-1), JoinFailed(77, "timed out")]


def test_tables_that_cannot_work_together_are_not_merged() -> None:
    serf = NodeState("serf", X.address.packed, 7946, b"", 1, State.ALIVE, bytes([1, 5, 2, 2, 5, 5]))
    machine = Machine()
    stream, _ = machine.dialled(machine.take(Join(77, X)))
    failed = machine.answer(stream, PushPull((serf,)))[-1]
    assert isinstance(failed, JoinFailed)
    assert "application protocol" in failed.reason
    effects = machine.dial(PushPull((serf,)))
    assert isinstance(machine.replied(effects), PushPull)
    assert [type(event) for event in told(effects)] == [Rejected]
    assert len(machine.core.members) == 1


def test_a_periodic_exchange_that_fails_is_reported_not_raised() -> None:
    machine = Machine(push_pull_interval_s=30.0)
    machine.packet(alive("x", 7))
    stream, _ = machine.dialled(machine.core.tick(31.0))
    assert [type(event) for event in told(machine.answer(stream, ErrorReply("no")))] == [Rejected]
    stream, _ = machine.dialled(machine.core.tick(70.0))
    assert machine.take(StreamEnded(stream, Failure.TIMED_OUT)) == []


def test_a_ping_over_a_stream_is_answered_when_it_is_meant_for_this_member() -> None:
    machine = Machine(label=b"blue", keyring=Keyring(KEY))
    assert machine.replied(machine.dial(Ping(9, "me"))) == Ack(9)
    assert machine.dial(Ping(9, "you"), stream=2) == [CloseStream(2)]
    said = machine.dial(UserMessage(b"serf's"), stream=3)
    assert said == [CloseStream(3), Notify(MessageReceived(X, b"serf's"))]


def test_a_peer_is_told_when_its_layers_cannot_be_taken_off_and_only_then() -> None:
    machine = Machine(keyring=Keyring(KEY))
    machine.take(StreamAccepted(1, X))
    effects = machine.take(StreamReceived(1, wire.encode(Ping(1, "me"))))
    assert isinstance(machine.replied(effects), ErrorReply)
    assert [type(event) for event in told(effects)] == [Rejected]
    machine.take(StreamAccepted(2, X))
    assert machine.take(StreamReceived(2, b"\xf4\x03red"))[0] == CloseStream(2)


def test_a_stalled_peer_is_let_go_after_its_time() -> None:
    machine = Machine()
    machine.take(StreamAccepted(1, X), now=5.0)
    machine.take(StreamReceived(1, b"\x00"), now=14.0)
    assert machine.core.tick(15.0) == [CloseStream(1)]
    assert machine.take(StreamReceived(1, b"\x80"), now=15.1) == []


def test_more_streams_than_can_be_served_are_closed_at_once() -> None:
    machine = Machine()
    callers = [Endpoint.of(f"203.0.113.{number // 10}", number) for number in range(1, 130)]
    answers = [machine.take(StreamAccepted(number, caller)) for number, caller in enumerate(callers, 1)]
    assert answers[:127] == [[]] * 127
    assert [answer[0] for answer in answers[127:]] == [CloseStream(128), CloseStream(129)]
    assert machine.core.rejections == {"Busy": 2}
    assert machine.take(StreamEnded(1)) == []
    assert machine.take(StreamAccepted(130, X)) == []


def probe_until_stream(machine: Machine) -> int:
    """Let a probe go unanswered until the stream is tried; return the stream."""
    while True:
        now = machine.core.wake_at()
        assert now is not None
        opened = [effect.stream for effect in machine.core.tick(now) if isinstance(effect, OpenStream)]
        if opened:
            return opened[0]


@pytest.mark.parametrize("answered", [True, False])
def test_a_member_that_answers_only_streams_is_not_suspected(answered: bool) -> None:  # noqa: FBT001  (a case)
    machine = Machine(probe_interval_s=1.0)
    machine.packet(alive("x", 7), now=0.0)
    stream = probe_until_stream(machine)
    current = machine.core._prober.round
    assert current is not None
    machine.take(StreamConnected(stream))
    machine.answer(stream, Ack(current.sequence if answered else current.sequence + 1))
    effects = machine.core.tick(current.deadline)
    assert [type(event) for event in told(effects)] == ([] if answered else [Suspected])


def test_a_refused_stream_and_a_silent_one_leave_the_suspicion() -> None:
    for end in (StreamEnded(-1, Failure.REFUSED), None):
        machine = Machine(probe_interval_s=1.0)
        machine.packet(alive("x", 7), now=0.0)
        assert probe_until_stream(machine) == -1
        if end is not None:
            machine.take(end)
        current = machine.core._prober.round
        assert current is not None
        assert Suspected in [type(event) for event in told(machine.core.tick(current.deadline))]


def test_a_packet_that_could_not_be_sent_hastens_the_probe() -> None:
    machine = Machine(probe_interval_s=1.0)
    machine.packet(alive("x", 7), now=0.0)
    start = machine.core.wake_at()
    assert start is not None
    machine.core.tick(start)
    machine.take(PacketRefused(X), now=start + 0.001)
    assert machine.core.wake_at() == pytest.approx(start + 0.001)


# leaving


def test_a_leave_alone_is_spread_at_once() -> None:
    assert Machine().take(Leave()) == [LeaveSpread()]


def test_a_leave_is_spread_when_it_was_sent_often_enough_and_pings_are_answered_meanwhile() -> None:
    machine = Machine(gossip_interval_s=0.2).knows("x", "y")
    assert machine.take(Leave()) == []
    (effect,) = machine.packet(Ping(1, "me"))
    assert Dead(1, "me", "me") in machine.sent(effect)[1]
    effects: list[Effect] = []
    while LeaveSpread() not in effects:
        now = machine.core.wake_at()
        assert now is not None
        assert now < 3.0
        effects = machine.core.tick(now)
    assert machine.take(Leave()) == [LeaveSpread()]


def test_a_leave_is_over_when_the_last_who_could_hear_it_is_gone() -> None:
    machine = Machine(gossip_interval_s=0.2).knows("x")
    assert machine.take(Leave()) == []
    assert machine.packet(Dead(1, "x", "x"))[-1] == LeaveSpread()


def test_new_metadata_is_gossiped() -> None:
    machine = Machine(keyring=Keyring(KEY))
    machine.take(UpdateMeta(b"synced"))
    (effect,) = machine.packet(Ping(1, "me"))
    assert machine.sent(effect)[1][1] == Alive(2, "me", bytes([192, 0, 2, 1]), 7946, b"synced", VSN)
