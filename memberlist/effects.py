"""What goes into the core and what comes out of it, as values.

The core is a machine (`handle(event, now)`, `tick(now)`, `wake_at()`): inputs are what the network and the application did,
effects are what the shell must do. agent.py carries effects out with sockets, the simulation of the tests with a heap.
MemberEvents are what the application hears, in the order in which they happened.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeAlias

from memberlist.messages import State


@lru_cache(maxsize=4096)
def _parsed(address: bytes | str | IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    parsed = ip_address(address)
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped
    return parsed


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a packet or stream goes to or came from. An IPv4-mapped address counts as IPv4."""

    address: IPv4Address | IPv6Address
    port: int

    @classmethod
    def of(cls, address: bytes | str | IPv4Address | IPv6Address, port: int) -> Endpoint:
        """Build from raw bytes, text or an address; ValueError when it is none."""
        return cls(_parsed(address), port)

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if self.address.version == 6 else f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class Member:
    """A member as the application sees it."""

    name: str
    address: IPv4Address | IPv6Address
    port: int
    meta: bytes
    state: State
    incarnation: int
    profile: str = ""
    """The profile its mark tells, "" for a member that is not of this package; `meta` is without the mark."""


class Cause(StrEnum):
    """Why a member is gone."""

    LEFT = "left"
    FAILED = "failed"


# What the application hears. Only other members are reported, never the member itself.


@dataclass(frozen=True, slots=True)
class Joined:
    """A member is new, or back."""

    member: Member


@dataclass(frozen=True, slots=True)
class Updated:
    """A member gossips other metadata."""

    member: Member


@dataclass(frozen=True, slots=True)
class Suspected:
    """`by` got no answer from a member, which stays in the member list until it is declared dead."""

    member: Member
    by: str


@dataclass(frozen=True, slots=True)
class Refuted:
    """A suspect showed that it lives."""

    member: Member


@dataclass(frozen=True, slots=True)
class Left:
    """A member is gone; `by` said so (itself when it left)."""

    member: Member
    cause: Cause
    by: str


@dataclass(frozen=True, slots=True)
class Conflicted:
    """Somebody else claims the name of a known member, from `claimed`; the claim was refused."""

    member: Member
    claimed: Endpoint


@dataclass(frozen=True, slots=True)
class Rejected:
    """Bytes from `source` were dropped. `reason` is "Kind: why"; each kind is reported at most once in ten seconds."""

    source: Endpoint
    reason: str


@dataclass(frozen=True, slots=True)
class ProfileChanged:
    """Another profile is in effect than before. `configured` is the one this member was given."""

    profile: str
    configured: str
    reason: str


@dataclass(frozen=True, slots=True)
class Isolated:
    """This member lost `lost` of `of` members (itself counted) so fast that it is more likely cut off itself."""

    lost: int
    of: int


@dataclass(frozen=True, slots=True)
class IsolationEnded:
    """More than half of the members that were there before the isolation are there again."""


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """The application of another member says something. `source` is where the packet or stream came from."""

    source: Endpoint
    payload: bytes


@dataclass(frozen=True, slots=True)
class UserStateReceived:
    """The application state that came with another member's table; `join` when one of the two was joining."""

    source: Endpoint
    state: bytes
    join: bool


@dataclass(frozen=True, slots=True)
class PingCompleted:
    """A member answered a direct ping; only reported with Config.report_pings. `payload` is its application's."""

    member: Member
    round_trip_s: float
    payload: bytes


MemberEvent: TypeAlias = (
    Joined
    | Updated
    | Suspected
    | Refuted
    | Left
    | Conflicted
    | Rejected
    | ProfileChanged
    | Isolated
    | IsolationEnded
    | MessageReceived
    | UserStateReceived
    | PingCompleted
)


class Liveness(Enum):
    """What became of a connection attempt that asked only whether there is a kernel."""

    ANSWERED = "answered"  # The handshake came about: the host lives, whatever its process does.
    REFUSED = "refused"  # The host lives and nobody listens: the process is gone.
    SILENT = "silent"  # Nothing came in time: host or path are gone.


class Failure(Enum):
    """What became of a stream that could not be opened or broke. The difference tells a dead process from a dead host."""

    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    TIMED_OUT = "timed out"
    BROKEN = "broken"


# Inputs.


@dataclass(frozen=True, slots=True)
class PacketReceived:
    """A datagram arrived."""

    source: Endpoint
    data: bytes


@dataclass(frozen=True, slots=True)
class PacketRefused:
    """The operating system would not send a datagram, as when the cable is pulled."""

    to: Endpoint


@dataclass(frozen=True, slots=True)
class StreamAccepted:
    """A peer opened a stream; the shell chose a number that no other open stream has."""

    stream: int
    source: Endpoint


@dataclass(frozen=True, slots=True)
class StreamConnected:
    """A stream opened by OpenStream is established: the peer's kernel lives."""

    stream: int


@dataclass(frozen=True, slots=True)
class StreamReceived:
    """Bytes arrived on a stream."""

    stream: int
    data: bytes


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """A stream is closed: by the peer (failure None) or by a fault. The shell has let go of it."""

    stream: int
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Join:
    """Exchange member tables with the seed. Answered by exactly one JoinAnswered or JoinFailed with the same token."""

    token: int
    seed: Endpoint


@dataclass(frozen=True, slots=True)
class Leave:
    """Tell the others that this member goes; answered by LeaveSpread. The member goes on answering until it is stopped."""


@dataclass(frozen=True, slots=True)
class UpdateMeta:
    """Gossip other metadata for this member."""

    meta: bytes


@dataclass(frozen=True, slots=True)
class LivenessChecked:
    """The outcome of CheckLiveness with the same number."""

    check: int
    outcome: Liveness


@dataclass(frozen=True, slots=True)
class SendMessage:
    """Send the application's bytes to a member in one packet; it may get lost."""

    to: Endpoint
    payload: bytes


@dataclass(frozen=True, slots=True)
class SendReliably:
    """Send the application's bytes to a member over a stream."""

    to: Endpoint
    payload: bytes


@dataclass(frozen=True, slots=True)
class BroadcastMessage:
    """Gossip the application's bytes to all members. The oldest of more than 256 that wait is dropped."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class SetUserState:
    """Send these bytes of the application with every table from now on, and with every ack these."""

    state: bytes = b""
    ack_payload: bytes = b""


Input: TypeAlias = (
    PacketReceived
    | PacketRefused
    | StreamAccepted
    | StreamConnected
    | StreamReceived
    | StreamEnded
    | Join
    | Leave
    | UpdateMeta
    | LivenessChecked
    | SendMessage
    | SendReliably
    | BroadcastMessage
    | SetUserState
)


# Effects.


@dataclass(frozen=True, slots=True)
class SendPacket:
    """Send a datagram; PacketRefused comes back when that is impossible."""

    to: Endpoint
    data: bytes


@dataclass(frozen=True, slots=True)
class OpenStream:
    """Connect and send `data`. The core numbers its streams with negative numbers, the shell those it accepts with positive."""

    stream: int
    to: Endpoint
    data: bytes


@dataclass(frozen=True, slots=True)
class WriteStream:
    """Send bytes on an open stream."""

    stream: int
    data: bytes


@dataclass(frozen=True, slots=True)
class CloseStream:
    """Close a stream once everything written is sent. The core forgets it; nothing more is to be reported about it."""

    stream: int


@dataclass(frozen=True, slots=True)
class CheckLiveness:
    """Open a TCP connection and close it at once: does the kernel there live? Answered by one LivenessChecked.

    Nothing within timeout_s is SILENT.
    """

    check: int
    to: Endpoint
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Notify:
    """Tell the application."""

    event: MemberEvent


@dataclass(frozen=True, slots=True)
class JoinAnswered:
    """The seed answered and the tables are merged."""

    token: int


@dataclass(frozen=True, slots=True)
class JoinFailed:
    """The seed did not answer, or its answer was refused."""

    token: int
    reason: str


@dataclass(frozen=True, slots=True)
class LeaveSpread:
    """The leave was sent as often as it is to be sent, or nobody is there to hear it."""


Effect: TypeAlias = (
    SendPacket | OpenStream | WriteStream | CloseStream | CheckLiveness | Notify | JoinAnswered | JoinFailed | LeaveSpread
)
