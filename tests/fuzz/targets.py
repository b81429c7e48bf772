"""What is fed to the gossip's codecs, and what may come out: a message, or a WireError, and nothing else.

`Corpus` starts from the bytes of real peers (tests/vectors) and changes them; `feed` gives one input to every reader that
touches bytes of the network: messages, packets and streams, plain and inside a sound encryption, and a whole member.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from memberlist import lzw, packet, streams, wire
from memberlist.config import lan
from memberlist.core import Core
from memberlist.effects import Endpoint, PacketReceived, StreamAccepted, StreamReceived
from memberlist.errors import WireError
from memberlist.keyring import Keyring
from memberlist.packet import Envelope

VECTORS: Final = Path(__file__).parents[1] / "vectors" / "memberlist-vectors.json"
KEY: Final = bytes(range(32))
LIMIT: Final = 64 * 1024
_MEMBER_LIVES: Final = 500  # inputs; then a new one, so that tables it was told do not pile up
_INTERESTING: Final = (0, 1, 0x7F, 0x80, 0x81, 0xA0, 0xC0, 0xC4, 0xCE, 0xCF, 0xD9, 0xDA, 0xDC, 0xDD, 0xDE, 0xDF, 0xF4, 0xFF)
_MUTATIONS_MAX: Final = 6


def _hex_strings(value: Any) -> Iterator[bytes]:
    """Return whatever in the vectors file is bytes in hex."""
    if isinstance(value, str):
        try:
            yield bytes.fromhex(value)
        except ValueError:
            return
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _hex_strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _hex_strings(inner)


class Corpus:
    """Inputs by number: what real peers sent, changed in a few places. The same seed gives the same inputs."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311  (repeatable on purpose)
        self.entries = sorted({entry for entry in _hex_strings(json.loads(VECTORS.read_text())) if 0 < len(entry) <= 4096})

    def next(self) -> bytes:
        """Return the next input."""
        chance = self._random
        data = bytearray(chance.choice(self.entries))
        for _ in range(chance.randint(1, _MUTATIONS_MAX)):
            self._change(data)
        return bytes(data)

    def _change(self, data: bytearray) -> None:
        chance = self._random
        at = chance.randrange(len(data) + 1)
        end = min(len(data), at + chance.randint(1, 8))
        match chance.randrange(9):
            case 0 if at < len(data):
                data[at] ^= 1 << chance.randrange(8)
            case 1 if at < len(data):
                data[at] = chance.choice(_INTERESTING)
            case 2 if at < len(data):
                data[at] = (data[at] + chance.choice((-1, 1))) % 256
            case 3:
                del data[at:end]
            case 4:
                data[at:at] = chance.randbytes(chance.randint(1, 8))
            case 5:
                data[at:at] = data[at:end] * chance.randint(1, 40)
            case 6:
                other = chance.choice(self.entries)
                data[at:] = other[chance.randrange(len(other)) :]
            case 7:
                data[at:end] = chance.choice(
                    (b"\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff")
                )
            case _:
                data[:] = bytes([chance.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 244))]) + data


class Readers:
    """Everything that reads bytes of the network."""

    def __init__(self) -> None:
        self._keyring = Keyring(KEY)
        self._plain = Envelope()
        self._sealed = Envelope(keyring=self._keyring)
        self._fed = 0
        self._member = self._new_member()

    @staticmethod
    def _new_member() -> Core:
        core = Core(lan("me", "192.0.2.1"), 7946, keyring=None, chance=random.Random(1), nonces=lambda: bytes(12))  # noqa: S311
        core.start(0.0)
        return core

    def feed(self, data: bytes) -> int:
        """Feed one input to all readers; return how many of them made sense of it. Raises whatever is not a WireError."""
        read = 0
        header = b"\x0a" + (len(data) + 29).to_bytes(4, "big")
        nonce = bytes(12)
        for attempt in (
            lambda: wire.decode(data),
            lambda: lzw.decompress(data, limit=LIMIT),
            lambda: _parts(packet.open_packet(data, self._plain)),
            lambda: _parts(packet.open_packet(self._keyring.encrypt(data, nonce=nonce, associated=b""), self._sealed)),
            lambda: packet.open_packet(data, self._sealed),
            lambda: _stream(data, self._plain),
            lambda: _stream(header + self._keyring.encrypt(data, nonce=nonce, associated=header), self._sealed),
        ):
            try:
                attempt()
            except WireError:
                continue
            read += 1
        self._feed_member(data)
        return read

    def _feed_member(self, data: bytes) -> None:
        self._fed += 1
        if self._fed % _MEMBER_LIVES == 0:
            self._member = self._new_member()
        now, source = self._fed / 1000, Endpoint.of("192.0.2.9", 7946)
        self._member.handle(PacketReceived(source, data), now)
        self._member.handle(StreamAccepted(self._fed, source), now)
        self._member.handle(StreamReceived(self._fed, data), now)
        if self._fed % 50 == 0:
            self._member.tick(now)
            self._member.members.check_invariants()


def _parts(opened: packet.Opened) -> None:
    assert sum(map(len, opened.messages)) <= LIMIT + packet.EXPANDED_MAX
    for message in opened.messages:
        wire.decode(message)


def _stream(data: bytes, envelope: Envelope) -> None:
    reader = streams.StreamReader(envelope, from_dialer=True, bytes_max=LIMIT, nodes_max=100)
    half = len(data) // 2
    if reader.feed(data[:half]) is None:
        reader.feed(data[half:])
