"""hashicorp/memberlist's own tests of codecs and framing, as behaviours: each test is named after what Go promises."""

import pytest

from memberlist import lzw, packet, streams, wire
from memberlist.config import lan
from memberlist.effects import Rejected, StreamAccepted, StreamEnded, StreamReceived
from memberlist.errors import AuthError, ConfigError, DecodeError, UnsupportedError, WireError
from memberlist.keyring import OVERHEAD, Keyring
from memberlist.messages import Ack, Alive, Ping, PushPull, Type
from memberlist.packet import Envelope
from tests.unit.memberlist.test_core import VSN, Machine, X

KEYS = (bytes(16), bytes(range(24)), bytes(range(32)))
PARTS = [wire.encode(Ping(number, "n")) for number in (1, 2, 3)]


def nonce() -> bytes:
    return bytes(12)


def test_a_compound_is_as_long_as_its_parts_two_for_each_and_two_more() -> None:
    assert len(packet.make_compound(PARTS)) == sum(map(len, PARTS)) + 2 * 3 + 2


def test_three_parts_come_back_from_a_compound() -> None:
    assert packet.split_compound(packet.make_compound(PARTS)) == packet.Parts(tuple(PARTS))


def test_a_compound_whose_last_part_is_cut_delivers_two_and_counts_one_lost() -> None:
    assert packet.split_compound(packet.make_compound(PARTS)[:-1]) == packet.Parts(tuple(PARTS[:2]), lost=1)


def test_a_compound_of_the_single_byte_0x80_is_an_error() -> None:
    with pytest.raises(DecodeError):
        packet.split_compound(bytes([Type.COMPOUND, 0x80]))


def test_what_is_compressed_decompresses() -> None:
    assert lzw.decompress(lzw.compress(b"testing"), limit=7) == b"testing"


def test_an_unknown_compression_algorithm_is_refused() -> None:
    body = wire.encode_compressed(lzw.compress(b"testing")).replace(b"\xa4Algo\x00", b"\xa4Algo\x01")
    with pytest.raises(UnsupportedError, match="algorithm 1"):
        wire.decode_compressed(body[1:])


def test_data_that_decompresses_to_more_than_the_limit_is_refused_and_the_limit_itself_is_not() -> None:
    """Go stops at 40 MiB. The limit is a setting here, 4 MiB unless changed."""
    assert lan("me", "192.0.2.1").stream_bytes_max == 4 * 1024 * 1024
    packed = lzw.compress(bytes(50_000))
    assert len(lzw.decompress(packed, limit=50_000)) == 50_000
    with pytest.raises(WireError):
        lzw.decompress(packed, limit=49_999)


def test_an_empty_packet_is_refused_without_a_crash() -> None:
    machine = Machine()
    machine.raw(b"")
    assert machine.core.rejections.total() == 1


def test_an_empty_message_is_refused_without_a_crash() -> None:
    with pytest.raises(DecodeError):
        wire.decode(b"")


@pytest.mark.parametrize("key", [None, KEYS[2]])
def test_a_stream_message_that_decompresses_to_nothing_is_refused_without_a_crash(key: bytes | None) -> None:
    machine = Machine(keyring=Keyring(key) if key else None)
    data = streams.dial(wire.encode_compressed(lzw.compress(b"")), machine.envelope, nonce)
    machine.take(StreamAccepted(1, X))
    machine.take(StreamReceived(1, data))
    assert machine.core.rejections.total() == 1


def test_an_ack_to_an_unknown_node_carries_no_checksum() -> None:
    (effect,) = Machine().packet(Ping(7, "me", X.address.packed, X.port, "x"), source=X)
    assert effect.data[0] != Type.CRC  # type: ignore[union-attr]  # a packet was asked for


def test_a_checksum_adds_five_bytes_and_is_used_for_members_of_protocol_five_and_not_below() -> None:
    message = wire.encode(Ping(1, "n"))
    plain = packet.seal_packet(message, Envelope(), nonce, checksum=False)
    assert len(packet.seal_packet(message, Envelope(), nonce, checksum=True)) == len(plain) + 5
    assert packet.seal_packet(message, Envelope(), nonce, checksum=True)[0] == Type.CRC


def test_a_packet_with_a_flipped_byte_under_its_checksum_is_dropped() -> None:
    machine = Machine()
    data = bytearray(packet.add_crc(wire.encode(Ping(1, "me"))))
    data[8] ^= 1
    effects = machine.raw(bytes(data))
    assert [type(effect.event) for effect in effects] == [Rejected]  # type: ignore[union-attr]  # only a report


@pytest.mark.parametrize("label", [b"", b"foo", b"x" * 255])
def test_a_label_goes_onto_a_packet_and_comes_off(label: bytes) -> None:
    added = packet.add_label(b"\x02rest", label)
    assert len(added) - 5 == (2 + len(label) if label else 0) == Envelope(label).overhead
    assert packet.remove_label(added, label) == b"\x02rest"


def test_a_label_of_256_bytes_is_refused() -> None:
    with pytest.raises(ConfigError):
        Envelope(b"x" * 256)


@pytest.mark.parametrize("data", [b"\xf4", b"\xf4\x03fo", b"\xf4\x00abc"])
def test_a_label_header_that_is_cut_or_of_length_nought_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        packet.remove_label(data, b"foo")


@pytest.mark.parametrize("label", [b"", b"foo", b"x" * 255])
def test_a_label_goes_onto_a_stream_and_comes_off(label: bytes) -> None:
    envelope = Envelope(label)
    reader = streams.StreamReader(envelope, from_dialer=True, bytes_max=1000, nodes_max=10)
    assert reader.feed(streams.dial(wire.encode(Ping(1, "n")), envelope, nonce)) == Ping(1, "n")


def test_a_stream_that_ends_inside_its_label_is_no_fault() -> None:
    machine = Machine(label=b"foo")
    machine.take(StreamAccepted(1, X))
    assert machine.take(StreamReceived(1, b"\xf4\x03fo")) == []
    assert machine.take(StreamEnded(1)) == []


def test_a_stream_with_a_label_where_none_is_expected_is_refused() -> None:
    reader = streams.StreamReader(Envelope(), from_dialer=True, bytes_max=1000, nodes_max=10)
    with pytest.raises(AuthError):
        reader.feed(b"\xf4\x03foo" + wire.encode(Ping(1, "n")))


@pytest.mark.parametrize("length", [1, 15, 16, 17, 31, 32, 255])
def test_padding_of_version_nought_comes_off_at_any_length(length: int) -> None:
    keyring = Keyring(KEYS[0])
    sealed = keyring.encrypt_padded(bytes(length), nonce=nonce(), associated=b"aad")
    assert keyring.decrypt(sealed, associated=b"aad") == bytes(length)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("padded", [False, True])
def test_both_versions_of_encryption_open_with_the_associated_data_and_only_with_it(key: bytes, padded: bool) -> None:  # noqa: FBT001
    keyring = Keyring(key)
    encrypt = keyring.encrypt_padded if padded else keyring.encrypt
    sealed = encrypt(b"this is a plain text message", nonce=nonce(), associated=b"aad")
    assert keyring.decrypt(sealed, associated=b"aad") == b"this is a plain text message"
    with pytest.raises(AuthError):
        keyring.decrypt(sealed, associated=b"other")


@pytest.mark.parametrize("length", range(1, 40))
def test_the_length_of_an_encrypted_message_is_known_before(length: int) -> None:
    keyring = Keyring(KEYS[0])
    padding = 16 - length % 16
    assert len(keyring.encrypt(bytes(length), nonce=nonce(), associated=b"")) == length + OVERHEAD
    assert len(keyring.encrypt_padded(bytes(length), nonce=nonce(), associated=b"")) == length + OVERHEAD + padding


def test_a_ring_without_a_key_sends_plain_text() -> None:
    machine = Machine().knows("x")
    (effect,) = machine.packet(Ping(7, "me"))
    assert wire.decode(effect.data) == Ack(7)  # type: ignore[union-attr]  # a packet was asked for


def test_a_keyring_has_its_first_key_in_use_and_takes_use_and_removal_of_others() -> None:
    keyring = Keyring(KEYS[0])
    assert len(keyring) == 1
    keyring.add(KEYS[1])
    keyring.add(KEYS[1])
    assert len(keyring) == 2
    keyring.use(KEYS[1])
    keyring.remove(KEYS[0])
    assert len(keyring) == 1
    with pytest.raises(ConfigError, match="not in the ring"):
        keyring.use(KEYS[0])


def test_the_key_in_use_cannot_be_removed() -> None:
    keyring = Keyring(KEYS[0], [KEYS[1]])
    with pytest.raises(ConfigError, match="in use"):
        keyring.remove(KEYS[0])


def test_a_message_under_a_secondary_key_opens_until_that_key_is_removed() -> None:
    keyring = Keyring(KEYS[0], [KEYS[1]])
    sealed = Keyring(KEYS[1]).encrypt(b"hello", nonce=nonce(), associated=b"")
    assert keyring.decrypt(sealed, associated=b"") == b"hello"
    keyring.remove(KEYS[1])
    with pytest.raises(AuthError):
        keyring.decrypt(sealed, associated=b"")


def test_a_key_added_while_a_member_runs_opens_the_next_packet() -> None:
    """Go adds keys under a lock while packets are opened; here one loop does both, in turns."""
    keyring = Keyring(KEYS[0])
    machine = Machine(keyring=keyring)
    theirs = Envelope(keyring=Keyring(KEYS[1]))
    data = packet.seal_packet(wire.encode(Alive(1, "x", b"\x0a\0\0\1", 7946, b"", VSN)), theirs, nonce, checksum=False)
    machine.raw(data)
    assert machine.core.members.get("x") is None
    keyring.add(KEYS[1])
    machine.raw(data)
    assert machine.core.members.get("x") is not None


@pytest.mark.parametrize("header", [(10_000_000, 0), (0, 30_000_000)])
def test_a_table_of_ten_million_nodes_or_thirty_megabytes_of_state_is_refused_by_its_header(header: tuple[int, int]) -> None:
    nodes, state = header
    body = wire._pack({b"Nodes": nodes, b"UserStateLen": state, b"Join": False})
    machine = Machine()
    machine.take(StreamAccepted(1, X))
    machine.take(StreamReceived(1, bytes([Type.PUSH_PULL]) + body))
    assert machine.core.rejections.total() == 1


def test_a_user_message_of_thirty_megabytes_is_refused_by_its_header() -> None:
    machine = Machine()
    machine.take(StreamAccepted(1, X))
    machine.take(StreamReceived(1, bytes([Type.USER]) + wire.encode_user_header(30_000_000)))
    assert machine.core.rejections.total() == 1


def test_a_table_comes_back_from_its_bytes_with_the_user_state() -> None:
    table = PushPull((), join=True, user_state=b"state")
    reader = streams.StreamReader(Envelope(), from_dialer=True, bytes_max=1000, nodes_max=10)
    assert reader.feed(streams.dial(streams.encode(table), Envelope(), nonce)) == table
