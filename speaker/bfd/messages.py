"""What the speaker and the BFD process say to each other: one JSON object a line, over the process's standard input and output.

Written and read by __main__.py there and child.py here. A `Sessions` names all sessions there shall be; what it leaves out
ends. The end of the input ends all of them, after a good-bye to each peer.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated

import msgspec
from msgspec import Meta

from speaker.bfd.hub import Path, Wanted
from speaker.bfd.session import Timers

US_OF_MS = 1000


class SessionSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One session. Addresses as text; intervals in milliseconds as in a BFDProfile."""

    peer: str
    local: str = ""
    interface: str = ""
    multihop: bool = False
    minimum_ttl: Annotated[int, Meta(ge=1, le=255)] = 1
    transmit_interval_ms: Annotated[int, Meta(ge=1)] = 300
    receive_interval_ms: Annotated[int, Meta(ge=1)] = 300
    detect_multiplier: Annotated[int, Meta(ge=1, le=255)] = 3
    passive: bool = False

    @property
    def wanted(self) -> Wanted:
        """The same as the machine wants it. ValueError where an address is none."""
        return Wanted(
            Path(
                peer=ip_address(self.peer),
                local=ip_address(self.local) if self.local else None,
                interface=self.interface,
                multihop=self.multihop,
                minimum_ttl=self.minimum_ttl,
            ),
            Timers(
                desired_min_tx_us=self.transmit_interval_ms * US_OF_MS,
                required_min_rx_us=self.receive_interval_ms * US_OF_MS,
                detect_multiplier=self.detect_multiplier,
                passive=self.passive,
            ),
        )


class Sessions(msgspec.Struct, frozen=True, tag="sessions", tag_field="say"):
    """Speaker → process: these sessions there shall be."""

    sessions: tuple[SessionSpec, ...]


class Ask(msgspec.Struct, frozen=True, tag="ask", tag_field="say"):
    """Speaker → process: answer with a Status."""


class PathName(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which session is meant; the same fields as in its SessionSpec."""

    peer: str
    local: str = ""
    interface: str = ""
    multihop: bool = False

    @classmethod
    def of(cls, path: Path) -> PathName:
        """Return the name of a path."""
        local = "" if path.local is None else str(path.local)
        return cls(peer=str(path.peer), local=local, interface=path.interface, multihop=path.multihop)


class Ready(msgspec.Struct, frozen=True, tag="ready", tag_field="say"):
    """Process → speaker: listening."""

    pid: int


class StateChanged(msgspec.Struct, frozen=True, kw_only=True, tag="state", tag_field="say"):
    """Process → speaker: a session is in another state. States and diagnostics are words of RFC 5880 section 4.1."""

    path: PathName
    state: str
    before: str
    diagnostic: str
    peer_diagnostic: str


class Over(msgspec.Struct, frozen=True, tag="over", tag_field="say"):
    """Process → speaker: a session has ended."""

    path: PathName


class Fault(msgspec.Struct, frozen=True, tag="fault", tag_field="say"):
    """Process → speaker: packets cannot be sent on a path, and why."""

    path: PathName
    problem: str


class SessionStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How one session fares. Intervals in milliseconds: what was negotiated; `longest_gap_ms` is the longest silence while up."""

    path: PathName
    state: str
    diagnostic: str
    peer_state: str
    peer_diagnostic: str
    transmit_interval_ms: float
    detection_time_ms: float
    peer_demands: bool
    packets_in: int
    packets_out: int
    ups: int
    downs: int
    longest_gap_ms: float


class Status(msgspec.Struct, frozen=True, kw_only=True, tag="status", tag_field="say"):
    """Process → speaker: how all sessions fare, and what was ignored by kind (packet.Refusal)."""

    sessions: tuple[SessionStatus, ...]
    refused: dict[str, int]


Order = Sessions | Ask
News = Ready | StateChanged | Over | Fault | Status

decode_order = msgspec.json.Decoder(Order).decode
decode_news = msgspec.json.Decoder(News).decode
encode = msgspec.json.Encoder().encode
