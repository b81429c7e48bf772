"""The messages members exchange, as values. One docstring each: who sends it, when, and what it makes the receiver do.

wire.py turns them into bytes and back, core.py acts on them. Addresses are the raw 4 or 16 bytes of the wire and are never
normalised: hashicorp/memberlist compares them bytewise, so the same IPv4 address in another form is a name conflict there.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, TypeAlias


class Type(IntEnum):
    """The first byte of every message."""

    PING = 0
    INDIRECT_PING = 1
    ACK = 2
    SUSPECT = 3
    ALIVE = 4
    DEAD = 5
    PUSH_PULL = 6
    COMPOUND = 7
    USER = 8
    COMPRESS = 9
    ENCRYPT = 10
    NACK = 11
    CRC = 12
    ERROR = 13
    LABEL = 244


class State(IntEnum):
    """What a member believes of another; the numbers are those of the wire."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2
    LEFT = 3


VERSIONS_LENGTH: Final = 6  # protocol min, max, spoken; the same three of the application. Shorter ones crash Go peers.


@dataclass(frozen=True, slots=True)
class Ping:
    """Sent by a prober to its target, by packet or stream; the target answers with an Ack of the same number.

    `node` is the intended target (a receiver with another name stays silent; "" means anyone); `source_*` say where the ack
    goes, b"" and 0 meaning "where the ping came from".
    """

    sequence: int
    node: str
    source_address: bytes = b""
    source_port: int = 0
    source_node: str = ""


@dataclass(frozen=True, slots=True)
class IndirectPing:
    """Sent by a prober to a relay after a direct ping went unanswered: ping `target` for me (SWIM §3.1, ping-req).

    With `nack` the relay reports in time that it got no answer either (Lifeguard: tells a deaf prober from a dead target).
    """

    sequence: int
    target: bytes
    port: int
    node: str
    nack: bool = False
    source_address: bytes = b""
    source_port: int = 0
    source_node: str = ""


@dataclass(frozen=True, slots=True)
class Ack:
    """The answer to a Ping, direct or relayed. `payload` belongs to the application (serf puts coordinates there)."""

    sequence: int
    payload: bytes = b""


@dataclass(frozen=True, slots=True)
class Nack:
    """Sent by a relay whose ping went unanswered; it shows the prober that its own network works."""

    sequence: int


@dataclass(frozen=True, slots=True)
class Suspect:
    """Gossip: `accuser` got no answer from `node`. The node refutes; others confirm, or declare it dead in time."""

    incarnation: int
    node: str
    accuser: str


@dataclass(frozen=True, slots=True)
class Alive:
    """Gossip: `node` is at this address with this metadata. Only the node itself originates it, with a rising incarnation."""

    incarnation: int
    node: str
    address: bytes
    port: int
    meta: bytes = b""
    versions: bytes = b""


@dataclass(frozen=True, slots=True)
class Dead:
    """Gossip: `node` is gone, says `accuser`; when the two are the same it left of its own will."""

    incarnation: int
    node: str
    accuser: str


@dataclass(frozen=True, slots=True)
class NodeState:
    """One row of a member table inside a PushPull. `state` is a number because a peer may send one unknown to us."""

    name: str
    address: bytes
    port: int
    meta: bytes
    incarnation: int
    state: int
    versions: bytes


@dataclass(frozen=True, slots=True)
class PushPull:
    """A whole member table over a stream, sent by both sides of an exchange: on joining, and now and then afterwards."""

    states: tuple[NodeState, ...]
    join: bool = False
    user_state: bytes = b""


@dataclass(frozen=True, slots=True)
class UserMessage:
    """Bytes of the application, by packet or stream; serf has its own messages in them."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """The answer on a stream whose first message could not be read."""

    text: str


Gossip: TypeAlias = Suspect | Alive | Dead
Message: TypeAlias = Ping | IndirectPing | Ack | Nack | Gossip | UserMessage | ErrorReply | PushPull
