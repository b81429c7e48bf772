"""Messages to bytes and back, in the msgpack dialect of hashicorp/memberlist.

A message is a type byte and a msgpack map whose keys are Go field names in bytewise order; text and byte strings are both
written in the old raw family, because older Go members drop anything else. Reading is as tolerant as Go's: any order, any
integer width, unknown keys skipped, missing ones zero, the positional array form, bytes after the map ignored.
Called by core.py, outbox.py and streams.py. Refuses to judge meaning: whether an incarnation or a name makes sense is
decided in members.py. Every failure is a DecodeError or UnsupportedError; nothing else escapes for any input.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Final, TypeVar

import msgpack

from memberlist.errors import DecodeError, UnsupportedError
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
    Suspect,
    Type,
    UserMessage,
)

_ARRAY_ELEMENTS_MAX: Final = 4096  # msgpack reserves an array before it reads it, at every nesting level.
_MAP_ENTRIES_MAX: Final = 256


class Kind(Enum):
    """What a field may hold. The unsigned kinds are as wide as Go's."""

    U8 = auto()
    U16 = auto()
    U32 = auto()
    SIGNED = auto()
    FLAG = auto()
    TEXT = auto()
    BYTES = auto()


_INTEGER_BOUNDS: Final = {
    Kind.U8: (0, 0xFF),
    Kind.U16: (0, 0xFFFF),
    Kind.U32: (0, 0xFFFFFFFF),
    Kind.SIGNED: (-(2**63), 2**63 - 1),
}


@dataclass(frozen=True, slots=True)
class Field:
    """One entry of a map: its Go name, our attribute, what it holds, and whether Go leaves it out when it is zero."""

    key: bytes
    attribute: str
    kind: Kind
    omitted_when_zero: bool = False
    bounds: tuple[int, int] | None = field(init=False)  # of a number; looked up once, since every message asks

    def __post_init__(self) -> None:
        object.__setattr__(self, "bounds", _INTEGER_BOUNDS.get(self.kind))


_SOURCE: Final = (
    Field(b"SourceAddr", "source_address", Kind.BYTES, omitted_when_zero=True),
    Field(b"SourcePort", "source_port", Kind.U16, omitted_when_zero=True),
    Field(b"SourceNode", "source_node", Kind.TEXT, omitted_when_zero=True),
)
_ACCUSATION: Final = (
    Field(b"Incarnation", "incarnation", Kind.U32),
    Field(b"Node", "node", Kind.TEXT),
    Field(b"From", "accuser", Kind.TEXT),
)
_SEQUENCE: Final = Field(b"SeqNo", "sequence", Kind.U32)

# In Go's order of declaration, which the positional form of a map follows.
FIELDS: Final[dict[type, tuple[Field, ...]]] = {
    Ping: (_SEQUENCE, Field(b"Node", "node", Kind.TEXT), *_SOURCE),
    IndirectPing: (
        _SEQUENCE,
        Field(b"Target", "target", Kind.BYTES),
        Field(b"Port", "port", Kind.U16),
        Field(b"Node", "node", Kind.TEXT),
        Field(b"Nack", "nack", Kind.FLAG),
        *_SOURCE,
    ),
    Ack: (_SEQUENCE, Field(b"Payload", "payload", Kind.BYTES)),
    Nack: (_SEQUENCE,),
    Suspect: _ACCUSATION,
    Dead: _ACCUSATION,
    Alive: (
        Field(b"Incarnation", "incarnation", Kind.U32),
        Field(b"Node", "node", Kind.TEXT),
        Field(b"Addr", "address", Kind.BYTES),
        Field(b"Port", "port", Kind.U16),
        Field(b"Meta", "meta", Kind.BYTES),
        Field(b"Vsn", "versions", Kind.BYTES),
    ),
    NodeState: (
        Field(b"Name", "name", Kind.TEXT),
        Field(b"Addr", "address", Kind.BYTES),
        Field(b"Port", "port", Kind.U16),
        Field(b"Meta", "meta", Kind.BYTES),
        Field(b"Incarnation", "incarnation", Kind.U32),
        Field(b"State", "state", Kind.SIGNED),
        Field(b"Vsn", "versions", Kind.BYTES),
    ),
    ErrorReply: (Field(b"Error", "text", Kind.TEXT),),
}

TYPE_OF: Final[dict[type, Type]] = {
    Ping: Type.PING,
    IndirectPing: Type.INDIRECT_PING,
    Ack: Type.ACK,
    Nack: Type.NACK,
    Suspect: Type.SUSPECT,
    Alive: Type.ALIVE,
    Dead: Type.DEAD,
    ErrorReply: Type.ERROR,
}
_CLASS_OF: Final[dict[int, type]] = {number: message for message, number in TYPE_OF.items()}
_BY_KEY: Final = {message: tuple(sorted(fields, key=lambda entry: entry.key)) for message, fields in FIELDS.items()}

_PUSH_PULL_HEADER: Final = (
    Field(b"Nodes", "nodes", Kind.SIGNED),
    Field(b"UserStateLen", "user_state_length", Kind.SIGNED),
    Field(b"Join", "join", Kind.FLAG),
)
_USER_HEADER: Final = (Field(b"UserMsgLen", "length", Kind.SIGNED),)
_COMPRESSED: Final = (Field(b"Algo", "algorithm", Kind.U8), Field(b"Buf", "buffer", Kind.BYTES))

T = TypeVar("T")


def encode(message: Message) -> bytes:
    """Return the type byte and body that Go would send; a UserMessage in its packet form."""
    match message:
        case UserMessage(payload=payload):
            return bytes([Type.USER]) + payload
        case PushPull():
            return bytes([Type.PUSH_PULL]) + _encode_push_pull(message)
        case _:
            return bytes([TYPE_OF[type(message)]]) + encode_body(message)


def encode_body(message: object) -> bytes:
    """Return the map of a message or NodeState. Empty bytes are written as nil, as Go does for an absent slice."""
    fields = {}
    for entry in _BY_KEY[type(message)]:
        value = getattr(message, entry.attribute)
        if value or not entry.omitted_when_zero:
            fields[entry.key] = None if value == b"" else value
    return _pack(fields)


def encode_compressed(buffer: bytes) -> bytes:
    """Return a compress message around LZW bytes (algorithm 0, the only one)."""
    return bytes([Type.COMPRESS]) + _pack({b"Algo": 0, b"Buf": buffer})


def encode_user_header(length: int) -> bytes:
    """Return the map that goes before a user message on a stream."""
    return _pack({b"UserMsgLen": length})


def _encode_push_pull(message: PushPull) -> bytes:
    header = {b"Join": message.join, b"Nodes": len(message.states), b"UserStateLen": len(message.user_state)}
    return b"".join([_pack(header), *(encode_body(state) for state in message.states), message.user_state])


def _pack(value: object) -> bytes:
    packed: bytes = msgpack.packb(value, use_bin_type=False)
    return packed


def decode(data: bytes) -> Message:
    """Read one message as it arrives in a packet.

    Raises DecodeError for bytes that are not a message, UnsupportedError for a type that packets do not carry.
    """
    if not data:
        raise DecodeError("empty message")
    if data[0] == Type.USER:
        return UserMessage(bytes(data[1:]))
    message = _CLASS_OF.get(data[0])
    if message is None or message is ErrorReply:
        raise UnsupportedError(f"message type {data[0]} is not accepted in a packet")
    decoded: Message = Body(bytes(data[1:])).read(message)
    return decoded


def decode_compressed(body: bytes) -> bytes:
    """Return the LZW bytes of a compress message's body; UnsupportedError for an algorithm other than 0."""
    return Body(body).compressed()


class Body:
    """Reads maps one after another from bytes that may still be arriving. Bounded in memory by `bytes_max`.

    Each reading method raises NeedMore when the bytes so far end inside the value, and can then be called again.
    """

    def __init__(self, data: bytes = b"", *, bytes_max: int = 1 << 20) -> None:
        self._unpacker = msgpack.Unpacker(
            raw=True,
            strict_map_key=False,
            max_buffer_size=bytes_max,
            max_array_len=_ARRAY_ELEMENTS_MAX,
            max_map_len=_MAP_ENTRIES_MAX,
        )
        self._bytes_max = bytes_max
        self._fed = 0
        self.feed(data)

    def feed(self, data: bytes) -> None:
        """Add bytes; DecodeError when they are more than bytes_max in all."""
        self._fed += len(data)
        if self._fed > self._bytes_max:
            raise DecodeError(f"message exceeds the {self._bytes_max} bytes that this member accepts")
        self._unpacker.feed(data)

    def read(self, message: type[T]) -> T:
        """Read the map of a message class or NodeState."""
        return message(**self._map(FIELDS[message]))

    def push_pull_header(self) -> tuple[int, int, bool]:
        """Read (number of nodes, bytes of user state, join flag)."""
        header = self._map(_PUSH_PULL_HEADER)
        return header["nodes"], header["user_state_length"], header["join"]

    def user_length(self) -> int:
        """Read the header of a user message on a stream: the bytes that follow."""
        length: int = self._map(_USER_HEADER)["length"]
        return length

    def compressed(self) -> bytes:
        """Read the map of a compress message and return its LZW bytes."""
        compressed = self._map(_COMPRESSED)
        if compressed["algorithm"] != 0:
            raise UnsupportedError(f"compression algorithm {compressed['algorithm']} is unknown")
        buffer: bytes = compressed["buffer"]
        return buffer

    def raw(self, length: int) -> bytes:
        """Read `length` bytes that are not msgpack."""
        if self._fed - self._unpacker.tell() < length:
            raise NeedMore
        data: bytes = self._unpacker.read_bytes(length)
        return data

    def _map(self, fields: tuple[Field, ...]) -> dict[str, Any]:
        try:
            value = self._unpacker.unpack()
        except msgpack.OutOfData as out:
            raise NeedMore from out
        except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as broken:
            # TypeError: a map as the key of a map; OverflowError: a timestamp outside the calendar.
            raise DecodeError(f"not msgpack: {broken}") from broken
        found: dict[object, object] = {}
        if isinstance(value, dict):
            found = value
        elif isinstance(value, list):
            found = {entry.key: element for entry, element in zip(fields, value, strict=False)}
        elif value is not None:
            raise DecodeError(f"expected a map, not {type(value).__name__}")
        return {entry.attribute: _checked(entry, found.get(entry.key)) for entry in fields}


class NeedMore(DecodeError):  # noqa: N818  (a truncated message for who has all bytes, a pause for who has not)
    """The bytes so far end inside a value."""

    def __init__(self) -> None:
        super().__init__("message is cut short")


def _checked(entry: Field, value: object) -> object:
    """Return the value in our type, zero for nil; DecodeError when Go would not accept it in this field."""
    kind = entry.kind
    if entry.bounds is not None:
        if value is None:
            return 0
        if type(value) is int and entry.bounds[0] <= value <= entry.bounds[1]:
            return value
    elif kind is Kind.FLAG:
        if value is None:
            return False
        if isinstance(value, int) and value in {0, 1}:
            return bool(value)
    elif kind is Kind.TEXT:
        if value is None:
            return ""
        if isinstance(value, bytes):
            return _text(entry, value)
    elif value is None:
        return b""
    elif isinstance(value, bytes):
        return value
    elif isinstance(value, list) and all(type(element) is int and 0 <= element <= 0xFF for element in value):
        return bytes(value)
    # Only numbers are shown: the text form of a thousand nested arrays would exhaust the interpreter's stack.
    shown = value if isinstance(value, int | float) else f"of type {type(value).__name__}"
    raise DecodeError(f"{entry.key.decode()} cannot be {shown}")


def _text(entry: Field, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as broken:
        raise DecodeError(f"{entry.key.decode()} is not UTF-8") from broken
