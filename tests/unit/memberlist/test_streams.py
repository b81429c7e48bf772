"""Streams that break the rules, and what the peer is told. Go's own bytes are in test_vectors."""

import msgpack
import pytest

from memberlist import lzw, streams, wire
from memberlist.errors import AuthError, DecodeError, UnsupportedError, WireError
from memberlist.keyring import Keyring
from memberlist.messages import Ack, Message, Ping, PushPull, UserMessage
from memberlist.packet import Envelope
from memberlist.streams import StreamReader

KEY = b"k" * 16
PING = wire.encode(Ping(1, "n"))


def nonce() -> bytes:
    return bytes(12)


def reader(envelope: Envelope | None = None, *, bytes_max: int = 1000) -> StreamReader:
    return StreamReader(envelope or Envelope(), from_dialer=True, bytes_max=bytes_max, nodes_max=3)


def refused(reading: StreamReader, data: bytes) -> WireError:
    with pytest.raises(WireError) as caught:
        reading.feed(data)
    return caught.value


def header(nodes: int, user_state: int) -> bytes:
    packed: bytes = msgpack.packb({"Nodes": nodes, "UserStateLen": user_state, "Join": True})
    return b"\x06" + packed


def test_nothing_is_not_yet_a_message() -> None:
    assert reader().feed(b"") is None
    assert StreamReader(Envelope(), from_dialer=False, bytes_max=10, nodes_max=1).feed(b"") is None


@pytest.mark.parametrize(("nodes", "user_state"), [(-1, 0), (4, 0), (10_000_000, 0), (0, -1), (0, 1001), (0, 30_000_000)])
def test_a_table_beyond_the_limits_is_refused_by_its_header(nodes: int, user_state: int) -> None:
    reading = reader()
    assert isinstance(refused(reading, header(nodes, user_state)), DecodeError)
    assert not reading.owes_error


def test_a_table_as_large_as_allowed_is_read() -> None:
    assert reader().feed(header(0, 3) + b"abc") == PushPull((), join=True, user_state=b"abc")


@pytest.mark.parametrize("length", [-1, 1001, 30_000_000])
def test_a_user_message_beyond_the_limits_is_refused(length: int) -> None:
    packed: bytes = msgpack.packb({"UserMsgLen": length})
    assert isinstance(refused(reader(), b"\x08" + packed), DecodeError)


def test_a_user_message_is_read_in_pieces() -> None:
    data = streams.encode(UserMessage(b"hello"))
    reading = reader()
    assert [reading.feed(data[:-2]), reading.feed(data[-2:-1]), reading.feed(data[-1:])] == [None, None, UserMessage(b"hello")]


@pytest.mark.parametrize("number", [1, 3, 4, 5, 7, 11, 12, 99])
def test_types_that_streams_do_not_carry_are_refused(number: int) -> None:
    assert isinstance(refused(reader(), bytes([number]) + b"\x80"), UnsupportedError)


def test_a_foreign_label_is_refused_in_silence() -> None:
    for data in (PING, b"\xf4\x03red" + PING):
        reading = reader(Envelope(b"blue"))
        assert isinstance(refused(reading, data), AuthError)
        assert not reading.owes_error


def test_an_empty_label_header_is_refused_and_half_a_one_is_waited_for() -> None:
    assert isinstance(refused(reader(), b"\xf4\x00"), DecodeError)
    reading = reader(Envelope(b"blue"))
    assert [reading.feed(bytes([byte])) for byte in b"\xf4\x04blue"] == [None] * 6
    assert reading.feed(PING) == Ping(1, "n")


def test_a_plain_stream_is_told_that_the_ring_is_encrypted() -> None:
    reading = reader(Envelope(keyring=Keyring(KEY)))
    assert isinstance(refused(reading, PING), AuthError)
    assert reading.owes_error


def test_a_plain_stream_is_read_while_encryption_is_brought_in() -> None:
    assert reader(Envelope(keyring=Keyring(KEY), verify_incoming=False)).feed(PING) == Ping(1, "n")


def test_an_encrypted_stream_needs_a_key_and_the_right_one() -> None:
    data = streams.frame(PING, Envelope(keyring=Keyring(KEY)), nonce)
    assert isinstance(refused(reader(), data), AuthError)
    assert isinstance(refused(reader(Envelope(keyring=Keyring(b"x" * 16))), data), AuthError)


def test_encryption_can_be_off_for_what_is_sent() -> None:
    assert streams.frame(PING, Envelope(keyring=Keyring(KEY), encrypt_outgoing=False), nonce) == PING


def test_a_frame_that_announces_too_much_is_refused_before_it_is_kept() -> None:
    reading = reader(Envelope(keyring=Keyring(KEY)))
    assert "exceeds" in str(refused(reading, b"\x0a\x00\x00\x10\x00"))
    assert reading.owes_error


def test_a_plain_stream_that_sends_too_much_is_refused() -> None:
    reading = reader()
    assert reading.feed(b"\x00\xda\x10\x00" + bytes(900)) is None
    assert "exceeds" in str(refused(reading, bytes(200)))


def test_an_encrypted_message_that_is_cut_inside_is_refused() -> None:
    envelope = Envelope(keyring=Keyring(KEY))
    assert "cut short" in str(refused(reader(envelope), streams.frame(PING[:-1], envelope, nonce)))


@pytest.mark.parametrize("encrypted", [Envelope(), Envelope(keyring=Keyring(KEY))])
def test_compression_is_taken_off_once_and_holds_something(encrypted: Envelope) -> None:
    def framed(data: bytes) -> bytes:
        return streams.frame(wire.encode_compressed(lzw.compress(data)), encrypted, nonce)

    assert reader(encrypted).feed(framed(PING)) == Ping(1, "n")
    assert "compressed twice" in str(refused(reader(encrypted), framed(wire.encode_compressed(lzw.compress(PING)))))
    assert "holds nothing" in str(refused(reader(encrypted), framed(b"")))
    assert "exceeds" in str(refused(reader(encrypted), framed(bytes(1001))))


def test_a_compressed_stream_that_is_still_arriving_is_waited_for() -> None:
    data = wire.encode_compressed(lzw.compress(PING))
    reading = reader()
    answers: list[Message | None] = [reading.feed(bytes([byte])) for byte in data]
    assert answers == [*[None] * (len(data) - 1), Ping(1, "n")]


def test_an_ack_is_read_on_a_stream() -> None:
    assert reader().feed(wire.encode(Ack(7))) == Ack(7)
