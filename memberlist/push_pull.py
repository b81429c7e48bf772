"""The exchange of whole member tables, as data: what to send, what to refuse, how to merge.

It brings a joiner up to date, and repairs now and then what gossip lost. exchange.py moves the bytes. A remote "dead" is only a
suspicion here, so that one wrong table cannot kill; a remote "left" is believed, since only the leaver says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Final

from memberlist.effects import Effect, Endpoint, Member
from memberlist.marker import read_mark
from memberlist.members import Members
from memberlist.messages import VERSIONS_LENGTH, Alive, Dead, NodeState, PushPull, State, Suspect

_SCALE_FROM: Final = 32  # members; larger rings exchange tables less often


def interval_s(base_s: float, n: int) -> float:
    """Return the time between exchanges in a ring of n: the base up to 32 members, then longer by one base per doubling."""
    return base_s if n <= _SCALE_FROM else base_s * (math.ceil(math.log2(n) - math.log2(_SCALE_FROM)) + 1)


def table(members: Members) -> tuple[NodeState, ...]:
    """Return all records as rows, dead ones included."""
    return tuple(NodeState(r.name, r.address, r.port, r.meta, r.incarnation, int(r.state), r.versions) for r in members)


def disagreement(ours: Iterable[NodeState], theirs: Iterable[NodeState]) -> str | None:
    """Return why the versions of two tables cannot work together, None when they can.

    The range that all living members understand must contain what every member speaks, for the protocol and for the
    application. Rows without six version bytes count for nothing, since they are dropped by the merge too.
    """
    rows = [row for row in (*ours, *theirs) if len(row.versions) == VERSIONS_LENGTH]
    living = [row.versions for row in rows if row.state == State.ALIVE]
    for what, start in (("protocol", 0), ("application protocol", 3)):
        low = max((versions[start] for versions in living), default=0)
        high = min((versions[start + 1] for versions in living), default=255)
        for row in rows:
            spoken = row.versions[start + 2]
            if not low <= spoken <= high:
                return f"{row.name} speaks {what} version {spoken}, the living members understand {low} to {high}"
    return None


def joining(received: PushPull) -> tuple[Member, ...]:
    """Return the living members of a received table as the application sees them, those left out that cannot be read."""
    found = []
    for row in received.states:
        if row.state == State.ALIVE and len(row.address) in {4, 16}:
            profile, meta = read_mark(row.meta)
            address = Endpoint.of(row.address, row.port).address
            found.append(Member(row.name, address, row.port, meta, State.ALIVE, row.incarnation, profile))
    return tuple(found)


def merge(members: Members, received: PushPull, port_of: Callable[[int], int], now: float) -> list[Effect]:
    """Feed every row of a received table to the rules of the member table. `port_of` reads the port of a row."""
    effects: list[Effect] = []
    for row in received.states:
        if row.state == State.ALIVE:
            port = port_of(row.port)
            effects += members.alive(Alive(row.incarnation, row.name, row.address, port, row.meta, row.versions), now)
        elif row.state == State.LEFT:
            effects += members.dead(Dead(row.incarnation, row.name, row.name), now)
        elif row.state in {State.DEAD, State.SUSPECT}:
            effects += members.suspect(Suspect(row.incarnation, row.name, members.own.name), now)
    return effects
