"""hashicorp/memberlist's own tests of packets and streams, as behaviours: each test is named after what Go promises."""

import asyncio
import resource
import socket

import pytest

from memberlist import packet, wire
from memberlist.effects import (
    CloseStream,
    Endpoint,
    Failure,
    Input,
    Join,
    JoinAnswered,
    MessageReceived,
    Notify,
    OpenStream,
    PacketRefused,
    SendPacket,
    SetUserState,
    StreamAccepted,
    StreamConnected,
    StreamEnded,
    StreamReceived,
    UserStateReceived,
    WriteStream,
)
from memberlist.keyring import Keyring
from memberlist.messages import Ack, Alive, IndirectPing, Message, Nack, NodeState, Ping, PushPull, State, UserMessage
from memberlist.transport import Transport
from tests.unit.memberlist.test_core import KEY, STRANGER, VSN, Machine, X, Y

PROBING = {"probe_interval_s": 1.0, "probe_timeout_s": 0.5}


def probing(**settings: object) -> tuple[Machine, int, int]:
    """A member whose probe of x went unanswered until the stream was tried: the machine, the number, and the stream."""
    machine = Machine(**(PROBING | settings))  # type: ignore[arg-type]  # settings of a Config
    machine.knows("x")
    machine.core.tick(10.0)
    round_ = machine.core._prober.round
    assert round_ is not None
    (opened,) = [effect for effect in machine.core.tick(10.6) if isinstance(effect, OpenStream)]
    return machine, round_.sequence, opened.stream


def state_of_x(machine: Machine) -> State:
    record = machine.core.members.get("x")
    assert record is not None
    return record.state


def test_a_compound_of_three_pings_gets_three_acks() -> None:
    machine = Machine().knows("x")
    acks = [machine.sent(effect)[1] for effect in machine.packet(Ping(1, "me"), Ping(2, "me"), Ping(3, "me"))]
    assert acks == [[Ack(1)], [Ack(2)], [Ack(3)]]


def test_a_ping_is_answered_under_its_own_number_and_one_for_another_name_is_not() -> None:
    machine = Machine().knows("x")
    assert [machine.sent(effect) for effect in machine.packet(Ping(42, "me"))] == [(X, [Ack(42)])]
    assert machine.packet(Ping(42, "me-bad")) == []


def test_an_indirect_ping_is_relayed_and_the_ack_comes_back_under_the_original_number() -> None:
    machine = Machine().knows("x", "y")
    (ping,) = machine.packet(IndirectPing(100, Y.address.packed, Y.port, "y", nack=True))
    to, (sent,) = machine.sent(ping)
    assert isinstance(sent, Ping)
    assert (to, sent.node) == (Y, "y")
    assert sent.sequence != 100
    assert [machine.sent(effect) for effect in machine.packet(Ack(sent.sequence), source=Y)] == [(X, [Ack(100)])]


def test_an_indirect_ping_that_goes_unanswered_is_nacked_under_the_original_number() -> None:
    machine = Machine(probe_timeout_s=0.5).knows("x", "y")
    machine.packet(IndirectPing(100, Y.address.packed, Y.port, "y", nack=True))
    assert [machine.sent(effect) for effect in machine.core.tick(2.0)] == [(X, [Nack(100)])]


def test_a_ping_over_a_stream_succeeds() -> None:
    machine, number, stream = probing()
    machine.take(StreamConnected(stream), 10.6)
    machine.take(StreamReceived(stream, wire.encode(Ack(number))), 10.7)
    machine.core.tick(12.0)
    assert state_of_x(machine) is State.ALIVE


@pytest.mark.parametrize("answer", [Ack(0), Ping(1, "me"), UserMessage(b"x")])
def test_a_ping_over_a_stream_that_is_answered_under_another_number_or_with_another_message_is_no_contact(
    answer: Message,
) -> None:
    machine, _, stream = probing()
    machine.take(StreamConnected(stream), 10.6)
    machine.take(StreamReceived(stream, wire.encode(answer)), 10.7)
    machine.core.tick(12.0)
    assert state_of_x(machine) is State.SUSPECT


@pytest.mark.parametrize("end", [StreamEnded(0, Failure.REFUSED), StreamEnded(0, Failure.TIMED_OUT), StreamEnded(0), None])
def test_a_ping_over_a_stream_that_is_refused_or_runs_out_of_time_is_no_contact_and_no_error(end: StreamEnded | None) -> None:
    machine, _, stream = probing()
    if end is not None:
        machine.take(StreamEnded(stream, end.failure), 10.7)
    machine.core.tick(12.0)
    assert state_of_x(machine) is State.SUSPECT
    assert machine.core.rejections.total() == 0


def test_only_a_packet_that_cannot_be_sent_and_a_stream_that_fails_are_faults_of_the_other_side() -> None:
    """Go's failedRemote: dialling, reading and writing of streams, and writing of packets."""
    faults: list[Input] = [PacketRefused(X), *(StreamEnded(99, failure) for failure in Failure)]
    machine = Machine().knows("x")
    for fault in faults:
        assert machine.take(fault) == []
    assert state_of_x(machine) is State.ALIVE


def test_a_table_sent_over_a_stream_is_answered_with_this_members_own_and_the_user_state() -> None:
    machine = Machine().knows("x")
    machine.take(SetUserState(b"something"))
    states = (NodeState("y", Y.address.packed, Y.port, b"", 1, int(State.ALIVE), VSN),)
    effects = machine.dial(PushPull(states, join=False, user_state=b"theirs"))
    (written,) = [effect for effect in effects if isinstance(effect, WriteStream)]
    answer = machine.reader(from_dialer=False).feed(written.data)
    assert isinstance(answer, PushPull)
    assert {row.name for row in answer.states} == {"me", "x"}
    assert answer.user_state == b"something"
    assert machine.core.members.get("y") is not None
    assert Notify(UserStateReceived(X, b"theirs", join=False)) in effects


def test_a_queued_statement_rides_on_an_ack_which_comes_first() -> None:
    machine = Machine().knows("x")
    machine.packet(Alive(1, "new", b"\x0a\0\0\1", 7946, b"", VSN))
    (effect,) = machine.packet(Ping(42, "me"))
    ack, alive = machine.sent(effect)[1]
    assert ack == Ack(42)
    assert isinstance(alive, Alive)
    assert alive.node == "new"


def test_gossip_under_another_key_is_dropped() -> None:
    machine = Machine(keyring=Keyring(KEY))
    theirs = packet.Envelope(keyring=Keyring(b"q" * 32))
    data = packet.seal_packet(wire.encode(Ping(1, "me")), theirs, lambda: bytes(12), checksum=False)
    assert not any(isinstance(effect, SendPacket) for effect in machine.raw(data))


def test_a_user_message_in_a_packet_and_over_a_stream_reaches_the_application() -> None:
    machine = Machine().knows("x")
    assert machine.packet(UserMessage(b"by packet")) == [Notify(MessageReceived(X, b"by packet"))]
    assert Notify(MessageReceived(X, b"by stream")) in machine.dial(UserMessage(b"by stream"))


def test_a_join_is_answered_when_the_seeds_table_is_taken_in() -> None:
    machine = Machine()
    stream, sent = machine.dialled(machine.take(Join(3, X)))
    assert isinstance(sent, PushPull)
    assert sent.join
    rows = (NodeState("x", X.address.packed, X.port, b"", 1, int(State.ALIVE), VSN),)
    effects = machine.take(StreamReceived(stream, wire.encode(PushPull(rows, join=True))))
    assert JoinAnswered(3) in effects
    assert CloseStream(stream) in effects


def test_bytes_of_a_stranger_are_not_answered_at_an_address_that_he_names() -> None:
    """Not in Go: a ring without a key would otherwise send its answers to anybody's victim."""
    machine = Machine().knows("x")
    victim = Endpoint.of("198.51.100.1", 53)
    effects = machine.packet(Ping(1, "me", victim.address.packed, victim.port, "y"), source=STRANGER)
    assert [machine.sent(effect)[0] for effect in effects] == [STRANGER]


async def test_a_listener_without_file_descriptors_pauses_and_accepts_when_there_are_some() -> None:
    accepted: list[Input] = []
    transport = Transport(accepted.append)
    transport.open(Endpoint.of("127.0.0.1", 1).address, 0)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    client = socket.socket()
    client.setblocking(False)
    try:
        in_use = client.fileno()
        resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + 1, hard))
        client.connect_ex(("127.0.0.1", transport.port))
        for _ in range(50):
            await asyncio.sleep(0)
        assert not any(isinstance(event, StreamAccepted) for event in accepted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        async with asyncio.timeout(20):
            while not any(isinstance(event, StreamAccepted) for event in accepted):  # noqa: ASYNC110  (what is waited for sets no event)
                await asyncio.sleep(0.01)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        client.close()
        transport.close()
