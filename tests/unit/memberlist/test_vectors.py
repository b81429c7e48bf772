"""Every recorded vector, read and written: the bytes are those of hashicorp/memberlist, not of our own encoder."""

import json
import zlib
from pathlib import Path
from typing import Any

import pytest

from memberlist import lzw, packet, streams, wire
from memberlist.errors import AuthError
from memberlist.keyring import Keyring, metallb_key
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
    Type,
    UserMessage,
)
from memberlist.packet import Envelope

FILE = json.loads((Path(__file__).parents[2] / "vectors" / "memberlist-vectors.json").read_text())
VECTORS = {name: bytes.fromhex(text) for name, text in FILE["vectors"].items()}
KEY = bytes.fromhex(FILE["key"])
NONCE = bytes.fromhex(FILE["nonce"])

A = bytes([10, 0, 0, 1])
B = bytes([10, 0, 0, 2])
A_IN_16 = bytes(10) + b"\xff\xff" + A
VSN = bytes([1, 5, 2, 0, 0, 0])
PING = Ping(1, "n")
ALIVE = Alive(1, "a", A, 7946, b"meta", VSN)
TABLE = PushPull(
    (
        NodeState("a", A, 7946, b"", 1, State.ALIVE, VSN),
        NodeState("b", B, 7946, b"m", 300, State.LEFT, VSN),
    ),
    join=True,
    user_state=b"xyz",
)
BLUE = b"blue"

PLAIN: dict[str, Message] = {
    "ping_min": PING,
    "ping_full": Ping(300, "node-b", A, 7946, "node-a"),
    "indirect_ping": IndirectPing(7, A, 7946, "b", nack=True, source_address=A, source_port=7946, source_node="a"),
    "indirect_ping_no_source": IndirectPing(7, A, 7946, "b"),
    "ack_nil": Ack(1),
    "ack_payload_hi": Ack(1, b"hi"),
    "nack": Nack(1),
    "suspect": Suspect(2, "b", "a"),
    "dead": Dead(2, "b", "a"),
    "alive_meta": ALIVE,
    "alive_nil_meta_ip16": Alive(1, "a", A_IN_16, 7946, b"", VSN),
    "user_packet": UserMessage(b"hello-udp"),
}
PACKETS: dict[str, tuple[Envelope, tuple[bytes, ...]]] = {
    "compound_ping_suspect": (Envelope(), (VECTORS["ping_min"], VECTORS["suspect"])),
    "compound_3_alive": (Envelope(), (VECTORS["alive_meta"],) * 3),
    "compound_3_alive_lzw": (Envelope(compress_outgoing=True), (VECTORS["alive_meta"],) * 3),
    "crc_ping": (Envelope(), (VECTORS["ping_min"],)),
    "label_blue_ping": (Envelope(BLUE), (VECTORS["ping_min"],)),
    "enc_v1_ping": (Envelope(keyring=Keyring(KEY)), (VECTORS["ping_min"],)),
    "label_blue_enc_v1_ping": (Envelope(BLUE, Keyring(KEY)), (VECTORS["ping_min"],)),
    "label_blue_enc_v1_crc_ping": (Envelope(BLUE, Keyring(KEY)), (VECTORS["ping_min"],)),
    "metallb_enc_v1_ping": (Envelope(keyring=Keyring(metallb_key(b"AAECAwQFBgcICQoLDA0ODw"))), (VECTORS["ping_min"],)),
}
LZW: dict[str, bytes] = {
    "lzw_08": b"\x08",
    "lzw_empty": b"",
    "lzw_user_08_40A": b"\x08" + b"A" * 40,
    "lzw_TOBEORNOT": b"TOBEORNOTTOBEORTOBEORNOT",
}
STREAMS: dict[str, tuple[Envelope, Message]] = {
    "error_boom": (Envelope(), ErrorReply("boom")),
    "user_stream": (Envelope(), UserMessage(b"hello")),
    "pushpull_plain": (Envelope(), TABLE),
    "pushpull_lzw": (Envelope(compress_outgoing=True), TABLE),
    "pushpull_lzw_enc": (Envelope(keyring=Keyring(KEY), compress_outgoing=True), TABLE),
    "pushpull_lzw_enc_aad_label_blue_body": (Envelope(BLUE, Keyring(KEY), compress_outgoing=True), TABLE),
    "stream_enc_ping": (Envelope(keyring=Keyring(KEY)), PING),
}
OTHERS = {"enc_v0_ping", "stream_label_blue_header"}


def fixed_nonce() -> bytes:
    return NONCE


def reader(envelope: Envelope, *, from_dialer: bool = False) -> streams.StreamReader:
    return streams.StreamReader(envelope, from_dialer=from_dialer, bytes_max=1 << 20, nodes_max=100)


def test_every_vector_of_the_file_is_used_here() -> None:
    assert set(VECTORS) == {*PLAIN, *PACKETS, *LZW, *STREAMS, *OTHERS}


@pytest.mark.parametrize("name", PLAIN)
def test_a_message_is_written_as_go_writes_it_and_read_back(name: str) -> None:
    assert wire.encode(PLAIN[name]) == VECTORS[name]
    assert wire.decode(VECTORS[name]) == PLAIN[name]


@pytest.mark.parametrize("name", PACKETS)
def test_the_layers_of_a_packet_are_gos(name: str) -> None:
    envelope, messages = PACKETS[name]
    sealed = packet.seal_packet(packet.make_compound(messages), envelope, fixed_nonce, checksum="crc" in name)
    assert sealed == VECTORS[name]
    assert packet.open_packet(VECTORS[name], envelope) == packet.Opened(messages)


@pytest.mark.parametrize("name", LZW)
def test_a_compress_message_is_gos(name: str) -> None:
    assert wire.encode_compressed(lzw.compress(LZW[name])) == VECTORS[name]
    assert lzw.decompress(wire.decode_compressed(VECTORS[name][1:]), limit=100) == LZW[name]


@pytest.mark.parametrize("size", FILE["lzw_crc32"]["cases"])
def test_compression_around_every_change_of_code_width_is_gos(size: str) -> None:
    data = bytes(((i * i * 7 + i * 3) >> 3) & 255 for i in range(int(size)))
    length, checksum = FILE["lzw_crc32"]["cases"][size]
    compressed = lzw.compress(data)
    wrapped = wire.encode_compressed(compressed)
    assert (len(wrapped), f"{zlib.crc32(wrapped):08x}") == (length, checksum)
    assert lzw.decompress(compressed, limit=len(data)) == data


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("piece", [1, 7, 10_000])
def test_a_stream_is_gos_however_its_bytes_are_cut(name: str, piece: int) -> None:
    envelope, message = STREAMS[name]
    data = VECTORS[name]
    assert streams.frame(streams.encode(message), envelope, fixed_nonce) == data
    reading = reader(envelope)
    answers = [reading.feed(data[start : start + piece]) for start in range(0, len(data), piece)]
    assert answers[-1] == message
    assert not any(answers[:-1])


def test_a_dialer_sends_its_label_before_its_message() -> None:
    envelope = Envelope(BLUE, Keyring(KEY))
    dialled = streams.dial(VECTORS["ping_min"], envelope, fixed_nonce)
    assert dialled.startswith(VECTORS["stream_label_blue_header"])
    assert reader(envelope, from_dialer=True).feed(dialled) == PING


def test_encryption_of_protocol_one_is_written_and_read() -> None:
    keyring = Keyring(KEY)
    assert keyring.encrypt_padded(VECTORS["ping_min"], nonce=NONCE, associated=b"") == VECTORS["enc_v0_ping"]
    assert packet.open_packet(VECTORS["enc_v0_ping"], Envelope(keyring=keyring)).messages == (VECTORS["ping_min"],)


def test_the_label_is_authenticated_although_it_is_not_encrypted() -> None:
    stripped = VECTORS["label_blue_enc_v1_ping"][6:]
    with pytest.raises(AuthError):
        packet.open_packet(stripped, Envelope(keyring=Keyring(KEY)))


# Packets recorded from live Go members.
LIVE = {
    "ack with an alive riding along, from a lone node": (
        (
            "07020012003b0282a75061796c6f6164c0a55365714e6f050486a441646472a47f000001ab496e6361726e6174696f6e01a44d657461c0"
            "a44e6f6465a3676f31a4506f7274cd6d2aa356736ea6010502000000"
        ),
        (Ack(5), Alive(1, "go1", b"\x7f\0\0\1", 27946, b"", VSN)),
    ),
    "gossip behind a checksum": (
        (
            "0c03786caa0486a441646472a47f000001ab496e6361726e6174696f6e02a44d657461a76e65776d657461a44e6f6465a3707931a4506f"
            "7274cd4651a356736ea6010502000000"
        ),
        (Alive(2, "py1", b"\x7f\0\0\1", 18001, b"newmeta", VSN),),
    ),
    "serf's ping to a suspect": (
        (
            "0cd4e9ee150702004100230085a44e6f6465a3707931a55365714e6f02aa536f7572636541646472a47f000001aa536f757263654e6f64"
            "65a57365726631aa536f75726365506f7274cd6d2e0383a446726f6da57365726631ab496e6361726e6174696f6e01a44e6f6465a37079"
            "31"
        ),
        (Ping(2, "py1", b"\x7f\0\0\1", 27950, "serf1"), Suspect(1, "py1", "serf1")),
    ),
    "a death": (
        "0c4d7a7d0e0583a446726f6da3676f31ab496e6361726e6174696f6e01a44e6f6465a3676f32",
        (Dead(1, "go2", "go1"),),
    ),
    "a user message": ("0c583cae95087564702d75736572", (UserMessage(b"udp-user"),)),
}


@pytest.mark.parametrize("name", LIVE)
def test_a_packet_of_a_live_go_member_is_read(name: str) -> None:
    text, messages = LIVE[name]
    opened = packet.open_packet(bytes.fromhex(text), Envelope())
    assert tuple(wire.decode(data) for data in opened.messages) == messages
    assert not opened.problems


def test_a_stream_of_a_live_go_member_is_read() -> None:
    data = bytes.fromhex("0982a4416c676f00a3427566ba0011045255654e19394de69c6152c60d023a63e0b4a863504e40")
    message = reader(Envelope()).feed(data)
    assert isinstance(message, UserMessage)
    assert message.payload.startswith(b"tcp")


@pytest.mark.parametrize(
    "header",
    [
        "0683a44a6f696ec2a54e6f646573d100c8ac5573657253746174654c656ed200000001",
        "0683a44a6f696ec2a54e6f646573ccc8ac5573657253746174654c656e01",
    ],
)
def test_a_table_header_is_read_in_the_integers_of_either_generation_of_gos_codec(header: str) -> None:
    rows = b"".join(wire.encode_body(row) for row in TABLE.states)
    message = streams.StreamReader(Envelope(), from_dialer=True, bytes_max=1 << 20, nodes_max=200).feed(
        bytes.fromhex(header) + rows * 100 + b"!"
    )
    assert message == PushPull(TABLE.states * 100, join=False, user_state=b"!")


def test_a_body_may_be_positional_or_nothing() -> None:
    assert wire.decode(bytes.fromhex("009201a16e")) == PING
    assert wire.decode(bytes.fromhex("00c0")) == wire.decode(bytes.fromhex("0080")) == Ping(0, "")


def test_the_types_are_those_of_the_first_bytes() -> None:
    names: dict[str, Any] = {
        "ping_min": Type.PING,
        "suspect": Type.SUSPECT,
        "nack": Type.NACK,
        "pushpull_plain": Type.PUSH_PULL,
    }
    assert {name: VECTORS[name][0] for name in names} == names
