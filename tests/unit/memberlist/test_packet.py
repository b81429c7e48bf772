"""The layers of a datagram, one by one and nested beyond reason. Go's own bytes are in test_vectors."""

import pytest

from memberlist import lzw, packet, wire
from memberlist.errors import AuthError, ConfigError, DecodeError, WireError
from memberlist.keyring import Keyring
from memberlist.messages import Nack, Type
from memberlist.packet import Envelope, Opened, Parts

MESSAGE = wire.encode(Nack(1))
KEY = b"k" * 16


def nonce() -> bytes:
    return bytes(12)


def compound(*parts: bytes) -> bytes:
    lengths = b"".join(len(part).to_bytes(2, "big") for part in parts)
    return bytes([Type.COMPOUND, len(parts)]) + lengths + b"".join(parts)


@pytest.mark.parametrize("label", [b"", b"foo", b"x" * 255])
def test_a_label_comes_off_as_it_was_put_on(label: bytes) -> None:
    labelled = packet.add_label(MESSAGE, label)
    assert len(labelled) == len(MESSAGE) + (2 + len(label) if label else 0)
    assert packet.remove_label(labelled, label) == MESSAGE


def test_a_label_of_256_bytes_is_a_mistake_in_the_settings() -> None:
    with pytest.raises(ConfigError, match="256 bytes"):
        Envelope(b"x" * 256)


@pytest.mark.parametrize(("label", "expected"), [(b"", b"blue"), (b"red", b"blue"), (b"blue", b""), (b"blu", b"blue")])
def test_another_label_is_refused(label: bytes, expected: bytes) -> None:
    with pytest.raises(AuthError, match="label"):
        packet.remove_label(packet.add_label(MESSAGE, label), expected)


@pytest.mark.parametrize("data", [b"\xf4", b"\xf4\x00", b"\xf4\x00abc", b"\xf4\x03ab"])
def test_a_label_header_that_is_cut_or_empty_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError, match="label header"):
        packet.remove_label(data, b"")


def test_a_checksum_that_does_not_match_is_refused() -> None:
    data = bytearray(packet.add_crc(MESSAGE))
    assert packet.remove_crc(bytes(data)) == MESSAGE
    data[-1] ^= 1
    with pytest.raises(DecodeError, match="checksum"):
        packet.remove_crc(bytes(data))


def test_a_checksum_message_too_short_for_one_is_left_to_be_refused_by_type() -> None:
    assert packet.open_packet(b"\x0c\x00", Envelope()).messages == (b"\x0c\x00",)


def test_one_message_needs_no_compound() -> None:
    assert packet.make_compound([MESSAGE]) == MESSAGE
    assert packet.make_compound([MESSAGE] * 2) == compound(MESSAGE, MESSAGE)


def test_a_cut_compound_delivers_the_parts_before_the_cut() -> None:
    data = compound(b"aaaa", b"bbbb", b"cccc")
    assert packet.split_compound(data) == Parts((b"aaaa", b"bbbb", b"cccc"))
    assert packet.split_compound(data[:-1]) == Parts((b"aaaa", b"bbbb"), lost=1)
    opened = packet.open_packet(data[:-5], Envelope())
    assert opened.messages == (b"aaaa",)
    assert "2 parts are lost" in str(opened.problems[0])


def test_an_empty_compound_is_nothing() -> None:
    assert packet.open_packet(b"\x07\x00", Envelope()) == Opened(())


@pytest.mark.parametrize("data", [b"\x07", b"\x07\x01", b"\x07\x02\x00\x01\x00"])
def test_a_compound_without_its_lengths_is_refused(data: bytes) -> None:
    opened = packet.open_packet(data, Envelope())
    assert opened.messages == ()
    assert isinstance(opened.problems[0], DecodeError)


def test_layers_may_be_nested_and_messages_keep_their_order() -> None:
    first, second, third = (wire.encode(Nack(number)) for number in (1, 2, 3))
    inner = wire.encode_compressed(lzw.compress(compound(first, second)))
    assert packet.open_packet(compound(inner, third), Envelope()) == Opened((first, second, third))


def test_nesting_stops_at_four_layers_and_the_rest_is_delivered() -> None:
    data = MESSAGE
    for _ in range(4):
        data = compound(data)
    assert packet.open_packet(data, Envelope()).messages == (MESSAGE,)
    opened = packet.open_packet(compound(compound(data), MESSAGE), Envelope())
    assert opened.messages == (MESSAGE,)
    assert "nested" in str(opened.problems[0])


def test_a_packet_that_expands_without_measure_is_stopped() -> None:
    bomb = wire.encode_compressed(lzw.compress(bytes(200_000)))
    assert len(bomb) < 1400
    opened = packet.open_packet(compound(bomb, MESSAGE), Envelope())
    assert opened.messages == (MESSAGE,)
    assert "exceeds" in str(opened.problems[0])


def test_many_small_bombs_are_one_big_one() -> None:
    small = wire.encode_compressed(lzw.compress(bytes(30_000)))
    opened = packet.open_packet(compound(*[small] * 5), Envelope())
    assert sum(map(len, opened.messages)) <= packet.EXPANDED_MAX
    assert len(opened.problems) == 3
    nested = wire.encode_compressed(lzw.compress(compound(*[bytes(13_000)] * 4)))
    assert len(packet.open_packet(nested, Envelope()).problems) == 1


def test_an_empty_part_is_left_to_be_refused_as_a_message() -> None:
    assert packet.open_packet(compound(b"", MESSAGE), Envelope()).messages == (b"", MESSAGE)


def test_a_plain_packet_is_refused_where_a_key_is_demanded_and_read_where_it_is_not() -> None:
    with pytest.raises(WireError):
        packet.open_packet(MESSAGE, Envelope(keyring=Keyring(KEY)))
    transition = Envelope(keyring=Keyring(KEY), verify_incoming=False, encrypt_outgoing=False)
    assert packet.open_packet(MESSAGE, transition).messages == (MESSAGE,)
    assert packet.seal_packet(MESSAGE, transition, nonce, checksum=False) == MESSAGE
    sealed = packet.seal_packet(MESSAGE, Envelope(keyring=Keyring(KEY)), nonce, checksum=False)
    assert packet.open_packet(sealed, transition).messages == (MESSAGE,)


def test_compression_is_used_only_where_it_helps() -> None:
    envelope = Envelope(compress_outgoing=True)
    assert packet.seal_packet(MESSAGE, envelope, nonce, checksum=False) == MESSAGE
    long = b"\x08" + b"a" * 500
    sealed = packet.seal_packet(long, envelope, nonce, checksum=True)
    assert len(sealed) < 100
    assert packet.open_packet(sealed, Envelope()).messages == (long,)


@pytest.mark.parametrize(
    ("envelope", "overhead"), [(Envelope(), 0), (Envelope(b"blue"), 6), (Envelope(b"blue", Keyring(KEY)), 35)]
)
def test_the_overhead_is_what_the_layers_add(envelope: Envelope, overhead: int) -> None:
    assert envelope.overhead == overhead
    assert len(packet.seal_packet(MESSAGE, envelope, nonce, checksum=False)) == len(MESSAGE) + overhead
