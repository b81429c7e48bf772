"""ExaBGP's configuration file as text, from neighbors.

Used by supervisor.py before each (re)load. ExaBGP refuses a whole file for one bad line, so check() finds what it would
refuse, neighbor by neighbor, and render() writes only what passed. The grammar is that of ExaBGP 5.0 (pinned).
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from typing import Final

from config.problem import Finding
from speaker.bgp.model import Family, Neighbor

PASSWORD_BYTES_MAX: Final = 80
"""What the kernel takes for TCP MD5 (RFC 2385); ExaBGP refuses the file above it."""
HOLD_TIME_MIN_S: Final = 3
_ASN_MAX: Final = 2**32 - 1
_HOLD_TIME_MAX_S: Final = 65535
_GRACEFUL_RESTART_MAX_S: Final = 4095
PROCESS: Final = "speaker"


def check(neighbors: Sequence[Neighbor]) -> dict[str, Finding]:
    """Return neighbor name → why ExaBGP cannot have it, for those it cannot; the path is that of the BGPPeer's field."""
    problems: dict[str, Finding] = {}
    taken: dict[object, str] = {}
    for neighbor in neighbors:
        problem = _problem(neighbor)
        if problem is None and neighbor.key in taken:
            message = (
                f"{neighbor.peer} is reached with the same source address, AS and router ID as by BGPPeer {taken[neighbor.key]}"
            )
            remedy = "give one of them another sourceAddress or routerID"
            problem = Finding("spec.peerAddress", "duplicate", message, remedy, str(neighbor.peer))
        if problem is None:
            taken[neighbor.key] = neighbor.name
        else:
            problems[neighbor.name] = problem
    return problems


def _problem(neighbor: Neighbor) -> Finding | None:
    length = len(neighbor.password.encode())
    if length > PASSWORD_BYTES_MAX:
        message = f"the password has {length} bytes, and the kernel takes {PASSWORD_BYTES_MAX} for TCP MD5"
        return Finding("spec.password", "password-length", message, "use a shorter one")
    hold = neighbor.hold_time_s
    if hold != 0 and not HOLD_TIME_MIN_S <= hold <= _HOLD_TIME_MAX_S:
        message = f"holdTime {hold}s is neither 0 nor from {HOLD_TIME_MIN_S}s to {_HOLD_TIME_MAX_S}s (RFC 4271 section 4.2)"
        return Finding("spec.holdTime", "hold-time", message, "write a time in these bounds", f"{hold}s")
    for what, number in (("myASN", neighbor.local_as), ("peerASN", neighbor.peer_as)):
        if number is not None and not 1 <= number <= _ASN_MAX:
            message = f"{what} {number} is not from 1 to {_ASN_MAX}"
            return Finding(f"spec.{what}", "asn", message, "write a number in these bounds", str(number))
    if neighbor.peer.is_link_local and not neighbor.interface:
        message = f"{neighbor.peer} is link-local, and no interface is named"
        return Finding("spec.peerAddress", "link-local", message, "write interface in place of peerAddress", str(neighbor.peer))
    return None


def render(neighbors: Iterable[Neighbor], *, run: str, generation: int) -> str:
    """Return the file. `run` is the command line of the helper, `generation` a number that tells this file from others."""
    parts = [f"process {PROCESS} {{\n  run {run};\n  encoder json;\n  respawn false;\n}}\n"]
    parts += [_neighbor(neighbor, generation) for neighbor in sorted(neighbors, key=_order)]
    return "\n".join(parts)


def _order(neighbor: Neighbor) -> tuple[int, int, str]:
    return neighbor.peer.version, int(neighbor.peer), neighbor.name


def generation_tag(generation: int) -> str:
    """Return what `show neighbor configuration` shows once a file is in force."""
    return f'"g={generation}"'


def _neighbor(neighbor: Neighbor, generation: int) -> str:
    lines = [
        f"description {generation_tag(generation)}",
        f"router-id {neighbor.router_id}",
        f"local-address {neighbor.local or 'auto'}",
        f"local-as {neighbor.local_as}",
        f"peer-as {neighbor.peer_as or 'auto'}",
        f"hold-time {neighbor.hold_time_s}",
        "adj-rib-in false",
        "adj-rib-out true",
        "manual-eor true",
    ]
    if neighbor.passive:
        lines.append("passive true")
    else:
        lines.append(f"connect {neighbor.port}")
    if neighbor.interface:
        lines.append(f"source-interface {neighbor.interface}")
    if neighbor.outgoing_ttl is not None:
        lines.append(f"outgoing-ttl {neighbor.outgoing_ttl}")
    if neighbor.incoming_ttl is not None:
        lines.append(f"incoming-ttl {neighbor.incoming_ttl}")
    if neighbor.password:
        secret = base64.b64encode(neighbor.password.encode()).decode()
        lines += ["md5-base64 true", f"md5-password {secret}"]
    return "\n".join(
        [
            f"neighbor {neighbor.peer} {{",
            *(f"  {line};" for line in lines),
            f"  family {{ {' '.join(f'{family};' for family in neighbor.families)} }}",
            f"  capability {{ {_capabilities(neighbor)} }}",
            *(["  nexthop { ipv4 unicast ipv6; }"] if _extended(neighbor) else []),
            f"  api {{ processes [ {PROCESS} ]; neighbor-changes; negotiated; receive {{ parsed; open; notification; refresh; }} }}",
            "}\n",
        ]
    )


def _extended(neighbor: Neighbor) -> bool:
    return neighbor.extended_next_hop and set(neighbor.families) == set(Family)


def _capabilities(neighbor: Neighbor) -> str:
    words = ["asn4 enable;", "route-refresh enable;"]
    if _extended(neighbor):
        words.append("nexthop enable;")
    if neighbor.graceful_restart_s is not None:
        words.append(f"graceful-restart {min(neighbor.graceful_restart_s, _GRACEFUL_RESTART_MAX_S)};")
    return " ".join(words)
