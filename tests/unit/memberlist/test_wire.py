"""What the message decoder takes and what it refuses, field by field."""

from contextlib import suppress

import msgpack
import pytest

from memberlist import wire
from memberlist.errors import DecodeError, UnsupportedError
from memberlist.messages import Alive, IndirectPing, Ping, UserMessage

ADDRESS = b"\x0a\0\0\1"


def ping(**fields: object) -> bytes:
    """A ping whose map holds exactly these fields."""
    packed: bytes = msgpack.packb(fields, use_bin_type=False)
    return b"\x00" + packed


def test_unknown_keys_are_skipped_and_other_spellings_are_unknown() -> None:
    assert wire.decode(ping(SeqNo=1, Node="n", New=[1, {"a": 2}], seqno=9)) == Ping(1, "n")


def test_the_last_of_two_equal_keys_counts() -> None:
    assert wire.decode(bytes.fromhex("0082a55365714e6f01a55365714e6f02")) == Ping(2, "")


def test_bytes_after_the_map_are_ignored() -> None:
    assert wire.decode(ping(SeqNo=1, Node="n") + b"more") == Ping(1, "n")


def test_new_string_types_and_wide_integers_are_read() -> None:
    packed: bytes = msgpack.packb({"SeqNo": 1, "Node": "n" * 40}, use_bin_type=True)
    assert wire.decode(b"\x00" + packed) == Ping(1, "n" * 40)
    assert wire.decode(b"\x00\x81\xa5SeqNo\xd3" + (7).to_bytes(8, "big")) == Ping(7, "")


def test_byte_fields_may_be_binary_or_an_array_of_small_numbers() -> None:
    array: bytes = msgpack.packb({"Node": "a", "Addr": list(ADDRESS), "Meta": [], "Port": 1, "Incarnation": 1})
    assert wire.decode(b"\x04" + array) == Alive(1, "a", ADDRESS, 1)


def test_flags_may_be_numbers_and_nil_is_zero() -> None:
    assert wire.decode(b"\x01\x81\xa4Nack\x01") == IndirectPing(0, b"", 0, "", nack=True)
    nothing: bytes = msgpack.packb({"Nack": None, "Node": None, "Port": None, "Target": None})
    assert wire.decode(b"\x01" + nothing) == IndirectPing(0, b"", 0, "")


@pytest.mark.parametrize("sequence", [-1, 1.0, True, 2**32, "1", [1], {}])
def test_a_sequence_that_is_not_an_unsigned_number_is_refused(sequence: object) -> None:
    with pytest.raises(DecodeError, match="SeqNo cannot be"):
        wire.decode(ping(SeqNo=sequence))


@pytest.mark.parametrize(
    ("field", "value"), [("SourcePort", 70_000), ("Node", 5), ("Node", [110]), ("SourceAddr", [256]), ("SourceAddr", 1)]
)
def test_a_value_of_another_kind_is_refused(field: str, value: object) -> None:
    with pytest.raises(DecodeError, match=field):
        wire.decode(ping(**{field: value}))


def test_a_flag_is_no_other_number() -> None:
    with pytest.raises(DecodeError, match="Nack"):
        wire.decode(b"\x01\x81\xa4Nack\x02")


def test_a_name_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(DecodeError, match="Node is not UTF-8"):
        wire.decode(b"\x00\x81\xa4Node\xa1\xff")


@pytest.mark.parametrize(
    "body", [b"", b"\x81", b"\x82\xa5SeqNo\x01", b"\x81\xa4Node\xa5ab", b"\xc1", b"\x01", b"\xa1n", b"\x81\x81\x01\x01\x01"]
)
def test_what_is_not_one_whole_map_is_refused(body: bytes) -> None:
    with pytest.raises(DecodeError):
        wire.decode(b"\x00" + body)


def test_a_huge_announced_array_is_refused_before_memory_is_taken() -> None:
    with pytest.raises(DecodeError, match="not msgpack"):
        wire.decode(b"\x00\xdd\xff\xff\xff\xff")


@pytest.mark.parametrize("depth", [500, 1000, 1023, 5000])
@pytest.mark.parametrize("layer", [b"\x91", b"\x81\x01"])
def test_nesting_does_not_exhaust_the_stack(depth: int, layer: bytes) -> None:
    for key in (b"\xa5SeqNo", b"\xa5Other", b""):
        with suppress(DecodeError):
            wire.decode(b"\x00\x81" + key + layer * depth + b"\x01")


def test_nothing_is_no_message() -> None:
    with pytest.raises(DecodeError, match="empty"):
        wire.decode(b"")


@pytest.mark.parametrize("number", [6, 10, 12, 13, 14, 99, 244])
def test_types_that_packets_do_not_carry_are_refused(number: int) -> None:
    with pytest.raises(UnsupportedError, match=str(number)):
        wire.decode(bytes([number]) + b"\x80")


def test_a_user_message_is_its_payload() -> None:
    assert wire.encode(UserMessage(b"x")) == b"\x08x"
    assert wire.decode(b"\x08") == UserMessage(b"")


def test_another_compression_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="algorithm 1"):
        wire.decode_compressed(msgpack.packb({"Algo": 1, "Buf": b""}, use_bin_type=False))


def test_a_body_takes_no_more_bytes_than_it_may() -> None:
    with pytest.raises(DecodeError, match="exceeds the 10 bytes"):
        wire.Body(bytes(11), bytes_max=10)


def test_text_is_never_written_in_the_families_that_old_go_members_drop() -> None:
    encoded = wire.encode(Ping(1, "n" * 200))
    assert b"\xda\x00\xc8nnn" in encoded
    assert b"\xd9\xc8" not in encoded
