"""The layers around messages in a datagram: label, encryption, checksum, compression, compound.

From the outside in: `[label] [encryption] [crc] [compression]` and then one message or a compound of several. Each layer is
a pair of functions; `open_packet` and `seal_packet` apply them in order. Called by core.py, outbox.py and streams.py.
Refuses to decode messages (wire.py does) and to expand without bound: Go nests compounds and compression without limit, this
reader stops at NESTING_MAX layers and EXPANDED_MAX bytes, whatever a sender packed.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Final, TypeAlias

from memberlist import lzw, wire
from memberlist.errors import AuthError, ConfigError, DecodeError, WireError
from memberlist.keyring import OVERHEAD, Keyring
from memberlist.messages import Type

NESTING_MAX: Final = 4
EXPANDED_MAX: Final = 64 * 1024
PARTS_MAX: Final = 255
COMPOUND_OVERHEAD: Final = 2  # type byte and count
PART_OVERHEAD: Final = 2  # the length of each part
CRC_OVERHEAD: Final = 5
_LABEL_MAX: Final = 255
_PAD_MAX: Final = 16

NonceSource: TypeAlias = Callable[[], bytes]  # 12 fresh unpredictable bytes at every call.


@dataclass(frozen=True, slots=True)
class Envelope:
    """How this member wraps what it sends and what it insists on when it opens.

    label: separates rings that share a network; not a secret. keyring: None means plain text. verify_incoming and
    encrypt_outgoing exist to bring encryption into a running ring; both are on otherwise. compress_outgoing is off by default:
    every peer accepts plain messages, and packing in Python costs more than it saves. padded: seal in the form of protocol 1.
    """

    label: bytes = b""
    keyring: Keyring | None = None
    verify_incoming: bool = True
    encrypt_outgoing: bool = True
    compress_outgoing: bool = False
    padded: bool = False

    def __post_init__(self) -> None:
        if len(self.label) > _LABEL_MAX:
            raise ConfigError(f"gossip label has {len(self.label)} bytes; at most {_LABEL_MAX} fit")

    @property
    def overhead(self) -> int:
        """Bytes that label and encryption add to a datagram."""
        label = 2 + len(self.label) if self.label else 0
        sealing = OVERHEAD + (_PAD_MAX if self.padded else 0)
        return label + (sealing if self.keyring is not None else 0)

    def sealed(self, message: bytes, *, nonce: bytes, associated: bytes) -> bytes:
        """Return the message encrypted under the key in use."""
        assert self.keyring is not None
        encrypt = self.keyring.encrypt_padded if self.padded else self.keyring.encrypt
        return encrypt(message, nonce=nonce, associated=associated)

    def sealed_length(self, length: int) -> int:
        """Return how long a message of this length is once it is encrypted."""
        return length + OVERHEAD + (_PAD_MAX - length % _PAD_MAX if self.padded else 0)


@dataclass(frozen=True, slots=True)
class Opened:
    """The messages of a datagram, undecoded, in order, and what was wrong with those that are missing."""

    messages: tuple[bytes, ...]
    problems: tuple[WireError, ...] = ()


def open_packet(data: bytes, envelope: Envelope) -> Opened:
    """Take off every layer. Raises WireError when nothing inside can be trusted or read."""
    data = remove_label(data, envelope.label)
    if envelope.keyring is not None:
        try:
            data = envelope.keyring.decrypt(data, associated=envelope.label)
        except WireError:
            if envelope.verify_incoming:
                raise
    messages: list[bytes] = []
    problems: list[WireError] = []
    budget = EXPANDED_MAX
    waiting = [(remove_crc(data), 0)]
    while waiting:  # Depth first, in order, so that messages come out as they were packed.
        part, depth = waiting.pop()
        try:
            inner = _unwrapped(part, budget)
            if inner is None:
                messages.append(part)
                continue
            if depth == NESTING_MAX:
                raise DecodeError(f"messages are nested more than {NESTING_MAX} deep")
        except WireError as problem:
            problems.append(problem)
            continue
        if inner.lost:
            problems.append(DecodeError(f"compound is cut short, {inner.lost} parts are lost"))
        budget -= sum(map(len, inner.parts))
        waiting.extend((part, depth + 1) for part in reversed(inner.parts))
    return Opened(tuple(messages), tuple(problems))


def _unwrapped(part: bytes, budget: int) -> Parts | None:
    """Return what a compound or compressed message holds, None for any other message."""
    kind = part[0] if part else None
    if kind == Type.COMPOUND:
        parts = split_compound(part)
        if sum(map(len, parts.parts)) > budget:
            raise DecodeError(f"packet expands to more than {EXPANDED_MAX} bytes")
        return parts
    if kind == Type.COMPRESS:
        return Parts((lzw.decompress(wire.decode_compressed(part[1:]), limit=budget),))
    return None


def seal_packet(message: bytes, envelope: Envelope, nonces: NonceSource, *, checksum: bool) -> bytes:
    """Put every layer around a message or compound; with `checksum` for peers that understand protocol 5."""
    if envelope.compress_outgoing:
        packed = wire.encode_compressed(lzw.compress(message))
        message = packed if len(packed) < len(message) else message
    if checksum:
        message = add_crc(message)
    if envelope.keyring is not None and envelope.encrypt_outgoing:
        message = envelope.sealed(message, nonce=nonces(), associated=envelope.label)
    return add_label(message, envelope.label)


def add_label(data: bytes, label: bytes) -> bytes:
    """Return the data behind its label header; unchanged for the empty label."""
    return bytes([Type.LABEL, len(label)]) + label + data if label else data


def remove_label(data: bytes, expected: bytes) -> bytes:
    """Return what follows the label header. AuthError when the label is not exactly the expected one."""
    label = b""
    if data[:1] == bytes([Type.LABEL]):
        end = 2 + data[1] if len(data) > 1 else 0
        if end <= 2 or len(data) < end:
            raise DecodeError("label header is cut short or empty")
        label, data = data[2:end], data[end:]
    if label != expected:
        raise AuthError(f"label is {label!r}, this ring's is {expected!r}")
    return data


def add_crc(data: bytes) -> bytes:
    """Return the data behind its CRC-32 (IEEE)."""
    return bytes([Type.CRC]) + zlib.crc32(data).to_bytes(4, "big") + data


def remove_crc(data: bytes) -> bytes:
    """Return what the checksum covers, or the data unchanged when it carries none. DecodeError on a mismatch."""
    if len(data) < CRC_OVERHEAD or data[0] != Type.CRC:
        return data
    covered = data[CRC_OVERHEAD:]
    if zlib.crc32(covered) != int.from_bytes(data[1:CRC_OVERHEAD], "big"):
        raise DecodeError("checksum does not match")
    return covered


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a compound that arrived whole, and how many did not."""

    parts: tuple[bytes, ...]
    lost: int = 0


def make_compound(messages: Sequence[bytes]) -> bytes:
    """Return one message that holds 1 to 255 others of at most 65535 bytes; a single one stays bare."""
    assert 1 <= len(messages) <= PARTS_MAX
    if len(messages) == 1:
        return messages[0]
    lengths = b"".join(len(message).to_bytes(2, "big") for message in messages)
    return bytes([Type.COMPOUND, len(messages)]) + lengths + b"".join(messages)


def split_compound(data: bytes) -> Parts:
    """Return the parts of a compound; a part that runs past the end is lost, with all after it."""
    if len(data) < COMPOUND_OVERHEAD:
        raise DecodeError("compound without a count")
    count = data[1]
    start = COMPOUND_OVERHEAD + PART_OVERHEAD * count
    if len(data) < start:
        raise DecodeError(f"compound of {count} parts without their lengths")
    lengths = [int.from_bytes(data[at : at + 2], "big") for at in range(COMPOUND_OVERHEAD, start, PART_OVERHEAD)]
    bounds = pairwise(accumulate(lengths, initial=start))
    whole = tuple(data[begin:end] for begin, end in bounds if end <= len(data))
    return Parts(whole, lost=count - len(whole))
