"""The layers around a message on a stream, and a reader for bytes that arrive in pieces.

A dialer sends its label once, then each side sends one message: `[encryption][compression] type body`. Replies carry no
label, yet the label is part of what their encryption authenticates. Called by exchange.py. Refuses more bytes, rows or nested
layers than its limits, before it keeps them.
"""

from __future__ import annotations

from memberlist import lzw, wire
from memberlist.errors import AuthError, DecodeError, UnsupportedError
from memberlist.messages import Ack, ErrorReply, Message, NodeState, Ping, PushPull, Type, UserMessage
from memberlist.packet import Envelope, NonceSource, add_label

_FRAME_HEADER = 5  # type byte and length


def encode(message: Message) -> bytes:
    """Return the stream form of a message: as in a packet, but a UserMessage says its length."""
    if isinstance(message, UserMessage):
        return bytes([Type.USER]) + wire.encode_user_header(len(message.payload)) + message.payload
    return wire.encode(message)


def frame(message: bytes, envelope: Envelope, nonces: NonceSource) -> bytes:
    """Return the message with compression and encryption as the envelope asks, without a label."""
    if envelope.compress_outgoing:
        message = wire.encode_compressed(lzw.compress(message))
    if envelope.keyring is None or not envelope.encrypt_outgoing:
        return message
    header = bytes([Type.ENCRYPT]) + envelope.sealed_length(len(message)).to_bytes(4, "big")
    return header + envelope.sealed(message, nonce=nonces(), associated=header + envelope.label)


def dial(message: bytes, envelope: Envelope, nonces: NonceSource) -> bytes:
    """Return what a dialer sends first: its label and one framed message."""
    return add_label(frame(message, envelope, nonces), envelope.label)


class StreamReader:
    """Reads the one message of a peer. Feed it bytes until it returns the message; it raises WireError when there is none.

    After an error `owes_error` says whether Go would tell the peer: it does for layers it cannot take off, not for a foreign
    label or for a message that it can see and does not like.
    """

    def __init__(self, envelope: Envelope, *, from_dialer: bool, bytes_max: int, nodes_max: int) -> None:
        self._envelope = envelope
        self._bytes_max = bytes_max
        self._nodes_max = nodes_max
        self._awaits_label = from_dialer
        self._buffer = bytearray()
        self._body: _BodyReader | None = None
        self.owes_error = False
        self.bytes_read = 0

    def feed(self, data: bytes) -> Message | None:
        """Take bytes; return the message once it is whole."""
        self.bytes_read += len(data)
        if self._body is not None:
            self._body.feed(data)
            return self._read_body(self._body)
        self._buffer += data
        if self._awaits_label and not self._take_label():
            return None
        if not self._buffer:
            return None
        self.owes_error = True
        if self._buffer[0] == Type.ENCRYPT:
            return self._open_frame()
        if self._envelope.keyring is not None and self._envelope.verify_incoming:
            raise AuthError("stream is not encrypted, as this ring demands")
        self._body = self._body_reader(bytes(self._buffer))
        self._buffer.clear()
        return self._read_body(self._body)

    def _take_label(self) -> bool:
        """Take the label off the front once it is complete; AuthError when it is not ours."""
        if not self._buffer:
            return False
        label = b""
        if self._buffer[0] == Type.LABEL:
            if len(self._buffer) < 2 or len(self._buffer) < 2 + self._buffer[1]:
                return False
            if self._buffer[1] == 0:
                raise DecodeError("label header is empty")
            end = 2 + self._buffer[1]
            label = bytes(self._buffer[2:end])
            del self._buffer[:end]
        if label != self._envelope.label:
            raise AuthError(f"label is {label!r}, this ring's is {self._envelope.label!r}")
        self._awaits_label = False
        return True

    def _open_frame(self) -> Message | None:
        keyring = self._envelope.keyring
        if keyring is None:
            raise AuthError("stream is encrypted and this ring has no key")
        if len(self._buffer) < _FRAME_HEADER:
            return None
        header = bytes(self._buffer[:_FRAME_HEADER])
        length = int.from_bytes(header[1:], "big")
        if length > self._bytes_max:
            raise DecodeError(f"encrypted message of {length} bytes exceeds the {self._bytes_max} this member accepts")
        if len(self._buffer) < _FRAME_HEADER + length:
            return None
        sealed = bytes(self._buffer[_FRAME_HEADER : _FRAME_HEADER + length])
        return self._read_whole(keyring.decrypt(sealed, associated=header + self._envelope.label))

    def _read_body(self, body: _BodyReader) -> Message | None:
        compressed = body.compressed()
        if compressed is not None:
            return self._read_last(self._decompressed(compressed))
        self.owes_error = False
        return body.message()

    def _read_whole(self, data: bytes) -> Message:
        """Read a message of which nothing more will come. Compression may be inside, once."""
        if data[0] == Type.COMPRESS:
            data = self._decompressed(wire.decode_compressed(data[1:]))
        return self._read_last(data)

    def _read_last(self, data: bytes) -> Message:
        """Read what is left when every layer is off."""
        body = self._body_reader(data)
        self.owes_error = False
        message = body.message()
        if message is None:
            raise DecodeError("message is cut short or compressed twice")
        return message

    def _decompressed(self, buffer: bytes) -> bytes:
        data = lzw.decompress(buffer, limit=self._bytes_max)
        if not data:
            raise DecodeError("compressed message holds nothing")
        return data

    def _body_reader(self, data: bytes) -> _BodyReader:
        return _BodyReader(data, bytes_max=self._bytes_max, nodes_max=self._nodes_max)


class _BodyReader:
    """A type byte and what follows, read as far as the bytes go."""

    def __init__(self, data: bytes, *, bytes_max: int, nodes_max: int) -> None:
        self._type = data[0]
        self._body = wire.Body(data[1:], bytes_max=bytes_max)
        self._bytes_max = bytes_max
        self._nodes_max = nodes_max
        self._header: tuple[int, int, bool] | None = None
        self._length: int | None = None
        self._states: list[NodeState] = []

    def feed(self, data: bytes) -> None:
        self._body.feed(data)

    def compressed(self) -> bytes | None:
        """Return the LZW bytes when this is a compress message and whole."""
        if self._type != Type.COMPRESS:
            return None
        try:
            return self._body.compressed()
        except wire.NeedMore:
            return None

    def message(self) -> Message | None:
        try:
            match self._type:
                case Type.PING:
                    return self._body.read(Ping)
                case Type.ACK:
                    return self._body.read(Ack)
                case Type.ERROR:
                    return self._body.read(ErrorReply)
                case Type.PUSH_PULL:
                    return self._push_pull()
                case Type.USER:
                    return self._user()
                case Type.COMPRESS:
                    return None  # Not whole yet; compressed() reads it.
                case _:
                    raise UnsupportedError(f"message type {self._type} is not accepted on a stream")
        except wire.NeedMore:
            return None

    def _push_pull(self) -> PushPull:
        if self._header is None:
            self._header = self._body.push_pull_header()
        nodes, user_length, join = self._header
        if not 0 <= nodes <= self._nodes_max:
            raise DecodeError(f"table of {nodes} members; this member accepts 0 to {self._nodes_max}")
        if not 0 <= user_length <= self._bytes_max:
            raise DecodeError(f"user state of {user_length} bytes; this member accepts 0 to {self._bytes_max}")
        while len(self._states) < nodes:
            self._states.append(self._body.read(NodeState))
        return PushPull(tuple(self._states), join, self._body.raw(user_length))

    def _user(self) -> UserMessage:
        if self._length is None:
            self._length = self._body.user_length()
        if not 0 <= self._length <= self._bytes_max:
            raise DecodeError(f"user message of {self._length} bytes; this member accepts 0 to {self._bytes_max}")
        return UserMessage(self._body.raw(self._length))
