"""Gossip codecs and the member table under inputs nobody thought of."""

import random
from collections.abc import Callable
from contextlib import suppress

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memberlist import lzw, packet, push_pull, streams, wire
from memberlist.awareness import Awareness
from memberlist.broadcast import BroadcastQueue
from memberlist.config import lan
from memberlist.core import Core
from memberlist.effects import Endpoint, PacketReceived, StreamAccepted, StreamReceived
from memberlist.errors import WireError
from memberlist.judge import Judge
from memberlist.keyring import Keyring
from memberlist.lag import LagGuard
from memberlist.members import GONE, Members
from memberlist.messages import (
    Ack,
    Alive,
    Dead,
    ErrorReply,
    Gossip,
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

UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # The machine is shared: time says nothing.
KEY = bytes(range(32))
VSN = bytes([1, 5, 2, 0, 0, 0])

u16, u32 = st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1)
text = st.text(st.characters(codec="utf-8"), max_size=300)
address = st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16), st.just(b""))
short = st.binary(max_size=600)
in_packets: st.SearchStrategy[Message] = st.one_of(
    st.builds(Ping, u32, text, address, u16, text),
    st.builds(IndirectPing, u32, address, u16, text, st.booleans(), address, u16, text),
    st.builds(Ack, u32, short),
    st.builds(Nack, u32),
    st.builds(Suspect, u32, text, text),
    st.builds(Dead, u32, text, text),
    st.builds(Alive, u32, text, address, u16, short, st.binary(max_size=6)),
    st.builds(UserMessage, short),
)
rows = st.builds(NodeState, text, address, u16, short, u32, st.integers(-(2**31), 2**31), st.binary(max_size=6))
tables = st.builds(PushPull, st.lists(rows, max_size=8).map(tuple), st.booleans(), short)
on_streams: st.SearchStrategy[Message] = st.one_of(
    tables,
    st.builds(Ping, u32, text, address, u16, text),
    st.builds(Ack, u32, short),
    st.builds(UserMessage, short),
    st.builds(ErrorReply, text),
)
envelopes = st.builds(
    lambda label, key, compress: Envelope(label, Keyring(key) if key else None, compress_outgoing=compress),
    st.binary(max_size=255),
    st.sampled_from([b"", KEY[:16], KEY[:24], KEY]),
    st.booleans(),
)
bytes_with_structure = st.one_of(
    st.binary(max_size=300),
    st.builds(lambda kind, body: bytes([kind]) + body, st.sampled_from([*range(14), 244]), st.binary(max_size=300)),
    st.builds(
        lambda message, cut, place, value: (
            (wire.encode(message)[:cut] + b"\0")[:place] + bytes([value]) + wire.encode(message)[place + 1 : cut]
        ),
        st.one_of(in_packets, tables),
        st.integers(0, 400),
        st.integers(0, 60),
        st.integers(0, 255),
    ),
)


def nonce() -> bytes:
    return bytes(12)


@given(in_packets)
@UNTIMED
def test_a_message_comes_back_from_its_bytes(message: Message) -> None:
    assert wire.decode(wire.encode(message)) == message


@given(st.lists(in_packets, min_size=1, max_size=12), envelopes, st.booleans())
@UNTIMED
def test_messages_come_back_from_a_packet_in_order(messages: list[Message], envelope: Envelope, checksum: bool) -> None:  # noqa: FBT001  (drawn)
    data = packet.make_compound([wire.encode(message) for message in messages])
    opened = packet.open_packet(packet.seal_packet(data, envelope, nonce, checksum=checksum), envelope)
    assert [wire.decode(part) for part in opened.messages] == messages
    assert not opened.problems


@given(on_streams, envelopes, st.lists(st.integers(1, 400), max_size=10))
@UNTIMED
def test_a_message_comes_back_from_a_stream_however_it_is_cut(message: Message, envelope: Envelope, cuts: list[int]) -> None:
    data = streams.dial(streams.encode(message), envelope, nonce)
    reading = streams.StreamReader(envelope, from_dialer=True, bytes_max=1 << 20, nodes_max=100)
    found = None
    for cut in [*cuts, len(data)]:
        assert found is None
        piece, data = data[:cut], data[cut:]
        found = reading.feed(piece)
        if not data:
            break
    assert found == message


@given(st.binary(max_size=3000))
@UNTIMED
def test_compressed_data_comes_back(data: bytes) -> None:
    assert lzw.decompress(lzw.compress(data), limit=len(data)) == data


@given(st.lists(st.sampled_from([b"A", b"AB", b"node", bytes(40)]), max_size=3000).map(b"".join))
@settings(UNTIMED, max_examples=20)
def test_repetitive_data_comes_back(data: bytes) -> None:
    assert lzw.decompress(lzw.compress(data), limit=len(data)) == data


@given(bytes_with_structure)
@settings(UNTIMED, max_examples=500)
def test_any_bytes_decode_or_are_a_wire_error(data: bytes) -> None:
    with suppress(WireError):
        wire.decode(data)
    with suppress(WireError):
        lzw.decompress(data, limit=10_000)
    for keyring in (None, Keyring(KEY)):
        with suppress(WireError):
            opened = packet.open_packet(data, Envelope(keyring=keyring))
            assert sum(map(len, opened.messages)) <= max(packet.EXPANDED_MAX, len(data))
        with suppress(WireError):
            streams.StreamReader(Envelope(keyring=keyring), from_dialer=True, bytes_max=10_000, nodes_max=10).feed(data)


@given(st.lists(bytes_with_structure, max_size=20))
@UNTIMED
def test_no_bytes_from_the_network_break_a_member(datagrams: list[bytes]) -> None:
    core = Core(lan("me", "192.0.2.1"), 7946, keyring=None, chance=random.Random(1), nonces=nonce)  # noqa: S311  (repeatable)
    core.start(0.0)
    for number, data in enumerate(datagrams, start=1):
        now = float(number)
        core.handle(PacketReceived(Endpoint.of("203.0.113.1", 4000), data), now)
        core.handle(StreamAccepted(number, Endpoint.of("203.0.113.1", 4000)), now)
        core.handle(StreamReceived(number, data), now)
        core.tick(now)
        core.members.check_invariants()


# The member table against an oracle: the precedence table of its docstring, written a second time.

NAMES = ("x", "y")
names = st.sampled_from(NAMES)
incarnations = st.integers(1, 4)
accusers = st.sampled_from(["a", "b", "c"])


def an_alive(incarnation: int, name: str) -> Alive:
    return Alive(incarnation, name, b"\x0a\0\0" + name.encode(), 7946, b"", VSN)


statements: st.SearchStrategy[Gossip] = st.one_of(
    st.builds(an_alive, incarnations, names),
    st.builds(Suspect, incarnations, names, accusers),
    st.builds(Dead, incarnations, names, accusers),
    st.builds(lambda incarnation, name: Dead(incarnation, name, name), incarnations, names),
)


def a_table() -> Members:
    return Members(lan("me", "192.0.2.1"), 7946, BroadcastQueue(bytes_max=1000), Awareness(8))


def tell(table: Members, statement: Gossip, now: float = 0.0) -> None:
    match statement:
        case Alive():
            table.alive(statement, now)
        case Suspect():
            table.suspect(statement, now)
        case Dead():
            table.dead(statement, now)


def oracle(known: tuple[int, State] | None, statement: Gossip) -> tuple[int, State] | None:
    heard = statement.incarnation
    if known is None:
        return (heard, State.ALIVE) if isinstance(statement, Alive) else None
    incarnation, state = known
    match statement:
        case Alive():
            return (heard, State.ALIVE) if heard > incarnation else known
        case Suspect():
            return (heard, State.SUSPECT) if state is State.ALIVE and heard >= incarnation else known
        case Dead(accuser=accuser, node=node):
            gone = State.LEFT if accuser == node else State.DEAD
            return (heard, gone) if state not in GONE and heard >= incarnation else known


@given(st.lists(statements, max_size=30))
@UNTIMED
def test_the_table_follows_the_precedence_rules(heard: list[Gossip]) -> None:
    table = a_table()
    expected: dict[str, tuple[int, State] | None] = dict.fromkeys(NAMES)
    for statement in heard:
        tell(table, statement)
        table.check_invariants()
        expected[statement.node] = oracle(expected[statement.node], statement)
        record = table.get(statement.node)
        assert (None if record is None else (record.incarnation, record.state)) == expected[statement.node]


@given(st.lists(statements, max_size=30))
@UNTIMED
def test_incarnations_never_fall(heard: list[Gossip]) -> None:
    table = a_table()
    highest = dict.fromkeys(NAMES, 0)
    for statement in heard:
        tell(table, statement)
        for record in table:
            assert record.incarnation >= highest.get(record.name, 0)
            highest[record.name] = record.incarnation


@given(st.lists(statements, max_size=30))
@UNTIMED
def test_hearing_everything_twice_is_hearing_it_once(heard: list[Gossip]) -> None:
    once, twice = a_table(), a_table()
    for statement in heard:
        tell(once, statement)
        tell(twice, statement)
        tell(twice, statement)
    assert push_pull.table(once) == push_pull.table(twice)


def settled(heard: list[Gossip]) -> dict[str, tuple[int, bool]]:
    """Where a table ends after all statements, and the timers of those who did not refute."""
    table = a_table()
    for name in NAMES:
        table.alive(an_alive(1, name), 0.0)
    for statement in heard:
        tell(table, statement)
    Judge(lan("me", "192.0.2.1"), table, LagGuard()).tick(1e9)
    return {record.name: (record.incarnation, record.state in GONE) for record in table}


@given(st.lists(statements, max_size=8), st.randoms(use_true_random=False))
@UNTIMED
def test_the_order_of_arrival_does_not_decide_who_lives(heard: list[Gossip], shuffler: random.Random) -> None:
    """Once the highest incarnation is known, all orders of the statements made under it end with the same members alive."""
    top = {name: max((s.incarnation for s in heard if s.node == name), default=1) for name in NAMES}
    newest: list[Gossip] = [s for s in heard if s.incarnation == top[s.node]]
    first: list[Gossip] = [an_alive(incarnation, name) for name, incarnation in top.items()]
    shuffled = list(newest)
    shuffler.shuffle(shuffled)
    assert settled(first + newest) == settled(first + shuffled)


@given(st.lists(st.tuples(st.sampled_from(["n1", "n2", "n3", "n4"]), st.integers(1, 60)), max_size=40), st.integers(60, 300))
@UNTIMED
def test_a_packet_is_never_overfilled_and_nothing_is_sent_too_often(statements: list[tuple[str, int]], limit: int) -> None:
    queue = BroadcastQueue(bytes_max=limit - 2)  # as the core does: what fits no packet would wait for ever
    sent: dict[bytes, int] = {}
    take: Callable[[], list[bytes]] = lambda: queue.take(part_overhead=2, limit=limit, transmits_max=3)  # noqa: E731  (one line)
    for number, (name, length) in enumerate(statements):
        queue.enqueue(name, number.to_bytes(2, "big") + bytes(length))
        taken = take()
        assert sum(len(message) + 2 for message in taken) <= limit
        assert len(set(taken)) == len(taken)
        for message in taken:
            sent[message] = sent.get(message, 0) + 1
    while taken := take():
        for message in taken:
            sent[message] = sent.get(message, 0) + 1
    assert all(count <= 3 for count in sent.values())
    assert len(queue) == 0
