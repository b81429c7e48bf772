"""What is said to ExaBGP and what it says, as lines: commands are encoded, acknowledgements and JSON events decoded.

Used by sessions.py (commands) and supervisor.py (lines). Only ASCII goes out, because one other byte ends ExaBGP's API. What
comes in is not trusted: a line that cannot be read is an Unreadable, never an exception.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address
from typing import Any, Final

import msgspec

from config.model import IPAddress
from speaker.bgp.model import Family, NeighborKey, Prefix, Route

PREFIXES_PER_LINE: Final = 100
LINE_MAX: Final = 1024 * 1024
"""Longest line that is read; ExaBGP says nothing as long unless something is wrong."""


@dataclass(frozen=True, slots=True)
class Ack:
    """The answer to the oldest command that has none: it was understood (`done`) or not. It does not say that anything was sent."""

    done: bool


@dataclass(frozen=True, slots=True)
class StateChange:
    """A session went up or down; `reason` is ExaBGP's, for a session that is down."""

    key: NeighborKey
    up: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Negotiated:
    """What both sides agreed on. Hold time in seconds, 0 for none."""

    key: NeighborKey
    families: frozenset[Family]
    hold_time_s: int


@dataclass(frozen=True, slots=True)
class PeerOpen:
    """The peer's OPEN message: who it says it is. `asn` is its 4-byte AS where it has one (RFC 6793)."""

    key: NeighborKey
    asn: int
    router_id: str
    hold_time_s: int
    graceful_restart_s: int | None


@dataclass(frozen=True, slots=True)
class PeerNotification:
    """A NOTIFICATION message (RFC 4271 section 4.5); `received` from the peer, or sent to it."""

    key: NeighborKey
    received: bool
    code: int
    subcode: int
    text: str


@dataclass(frozen=True, slots=True)
class Refresh:
    """The peer asks for all routes again (RFC 2918)."""

    key: NeighborKey


@dataclass(frozen=True, slots=True)
class Text:
    """A line of an answer that is neither an acknowledgement nor an event."""

    line: str


@dataclass(frozen=True, slots=True)
class Other:
    """An event that nobody asked for."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A line that is no answer and no event."""

    problem: str


Heard = Ack | StateChange | Negotiated | PeerOpen | PeerNotification | Refresh | Text | Other | Unreadable


def select(key: NeighborKey) -> str:
    """Return the words that name one session in a command."""
    local = "" if key.local is None else f" local-ip {key.local}"
    return f"neighbor {key.peer}{local} local-as {key.local_as} router-id {key.router_id}"


def announce(key: NeighborKey, routes: Iterable[Route]) -> Iterator[tuple[str, tuple[Prefix, ...]]]:
    """Yield commands that announce routes, and the prefixes in each. Routes with the same attributes share commands."""
    by_attributes: dict[str, list[Prefix]] = {}
    for route in routes:
        by_attributes.setdefault(_attributes(route), []).append(route.prefix)
    for attributes, prefixes in by_attributes.items():
        for first in range(0, len(prefixes), PREFIXES_PER_LINE):
            some = tuple(prefixes[first : first + PREFIXES_PER_LINE])
            yield f"{select(key)} announce attributes {attributes} nlri {' '.join(map(str, some))}", some


def _attributes(route: Route) -> str:
    words = [f"next-hop {route.next_hop}"]
    if route.local_pref:
        words.append(f"local-preference {route.local_pref}")
    plain = [community for community in route.communities if not community.large]
    large = [community for community in route.communities if community.large]
    if plain:
        words.append(f"community [{' '.join(map(str, plain))}]")
    if large:
        words.append(f"large-community [{' '.join(':'.join(map(str, one.parts)) for one in large)}]")
    return " ".join(words)


def withdraw(key: NeighborKey, prefixes: Iterable[Prefix]) -> Iterator[tuple[str, tuple[Prefix, ...]]]:
    """Yield a command for each prefix."""
    for prefix in prefixes:
        yield f"{select(key)} withdraw route {prefix}", (prefix,)


def end_of_rib(key: NeighborKey, family: Family) -> str:
    """Return the command that says all routes of a family are out (RFC 4724 section 2)."""
    return f"{select(key)} announce eor {family}"


_decoder = msgspec.json.Decoder()


def decode(line: str) -> Heard:
    """Read one line, without its newline."""
    match line:
        case "done":
            return Ack(done=True)
        case "error":
            return Ack(done=False)
    if not line.startswith("{"):
        return Text(line)
    try:
        # A neighbor whose AS is not known yet is written as Python would (`"peer": None`).
        event = _decoder.decode(line.replace('"peer": None', '"peer": null').replace('"local": "None"', '"local": null'))
        return _event(event)
    except (msgspec.DecodeError, KeyError, TypeError, ValueError, AttributeError) as wrong:
        return Unreadable(f"{type(wrong).__name__}: {wrong}")


def _event(event: Mapping[str, Any]) -> Heard:
    neighbor = event.get("neighbor")
    if "exabgp" not in event or neighbor is None:
        return Other()
    key = _key(neighbor)
    match event["type"]:
        case "state":
            return _state(key, neighbor)
        case "negotiated":
            agreed = neighbor.get("negotiated") or event["negotiated"]
            known = {family.value: family for family in Family}
            families = frozenset(known[name] for name in agreed["families"] if name in known)
            return Negotiated(key, families, int(agreed["hold_time"]))
        case "open" if neighbor.get("direction") == "receive":
            return _open(key, neighbor["open"])
        case "notification":
            told = neighbor.get("notification") or event["notification"]
            received = neighbor.get("direction") == "receive"
            return PeerNotification(key, received, int(told["code"]), int(told["subcode"]), _text(told))
        case "refresh":
            return Refresh(key)
        case _:
            return Other()


def _state(key: NeighborKey, neighbor: Mapping[str, Any]) -> Heard:
    match neighbor["state"]:
        case "up":
            return StateChange(key, up=True)
        case "down":
            return StateChange(key, up=False, reason=str(neighbor.get("reason", "")))
        case _:  # `connected` is also said of a connection that is refused in the next moment.
            return Other()


def _open(key: NeighborKey, said: Mapping[str, Any]) -> PeerOpen:
    capabilities: Mapping[str, Any] = said.get("capabilities", {})
    four_bytes = capabilities.get("65", {}).get("asn4")
    graceful = capabilities.get("64")
    return PeerOpen(
        key,
        int(said["asn"] if four_bytes is None else four_bytes),
        str(said["router_id"]),
        int(said["hold_time"]),
        None if graceful is None else int(graceful["time"]),
    )


def _text(told: Mapping[str, Any]) -> str:
    return str(told.get("message") or told.get("data") or "")


def _key(neighbor: Mapping[str, Any]) -> NeighborKey:
    local = neighbor["address"]["local"]
    return NeighborKey(
        _address(neighbor["address"]["peer"]),
        None if local in {None, "None"} else _address(local),
        int(neighbor["asn"]["local"]),
        IPv4Address(neighbor.get("router-id", "0.0.0.0")),  # noqa: S104  (an identifier, not an address to bind)
    )


def _address(text: str) -> IPAddress:
    return ip_address(text.partition("%")[0])
