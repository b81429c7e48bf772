"""What must hold after every step of every member, whatever the network does.

* An incarnation never falls in anybody's table, but when a name that is dead or left is claimed from another address.
* Within one incarnation statements only get worse: alive, suspect, gone. Gone is final; so a table only moves upwards in one
  lattice, and merging tables is a join.
* A member is alive in its own table until it leaves: a refutation wins where it matters first.
* What waits to be told is at most one statement for each name.

A breach raises Breach, which names the member, the row, and what it was.
"""

from __future__ import annotations

from memberlist.core import Core
from memberlist.members import Record
from memberlist.messages import State

_RANK = {State.ALIVE: 0, State.SUSPECT: 1, State.DEAD: 2, State.LEFT: 2}


class Breach(AssertionError):  # noqa: N818  (a rule that does not hold, not a program that fails)
    """A rule of the protocol was broken."""


class Checker:
    """Remembers every table as it was after the last step, and compares."""

    def __init__(self) -> None:
        self._tables: dict[str, dict[str, tuple[int, State, Record]]] = {}
        self.steps = 0

    def started(self, name: str) -> None:
        """Forget what a member of that name knew: its process is new."""
        self._tables[name] = {}

    def after(self, core: Core, name: str) -> None:
        """Hold a member to the rules, once it did something."""
        self.steps += 1
        members = core.members
        before = self._tables[name]
        for record in members:
            was = before.get(record.name)
            if was is None or was[0] != record.incarnation or was[1] is not record.state:
                self._changed(core, name, record, was)
                before[record.name] = (record.incarnation, record.state, record)
        if len(before) != len(members):
            for gone in [known for known in before if members.get(known) is None]:
                if _RANK[before[gone][1]] < _RANK[State.DEAD]:
                    raise Breach(f"{name} forgot {gone}, which was {before[gone][1].name}")
                del before[gone]

    def _changed(self, core: Core, name: str, record: Record, was: tuple[int, State, Record] | None) -> None:
        core.members.check_invariants()
        if record is core.members.own:
            if record.state is not (State.LEFT if core.members.leaving else State.ALIVE):
                raise Breach(f"{name} is {record.state.name} in its own table")
        elif was is not None:
            incarnation, state, _ = was
            reclaimed = _RANK[state] == _RANK[State.DEAD] and record.state is State.ALIVE
            if record.incarnation < incarnation and not reclaimed:
                raise Breach(f"{name}: incarnation of {record.name} fell from {incarnation} to {record.incarnation}")
            if record.incarnation == incarnation and _RANK[record.state] < _RANK[state] and not reclaimed:
                raise Breach(
                    f"{name}: {record.name} went from {state.name} to {record.state.name} within incarnation {incarnation}"
                )
        waiting, known = len(core._queue), len(core.members)
        if waiting > known:
            raise Breach(f"{name} has {waiting} statements to tell about {known} members")
