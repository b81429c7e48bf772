"""What each neighbor has been told, and what it must be told next: the machine between the wanted routes and ExaBGP.

Driven by supervisor.py: lines that ExaBGP said come in as values of exabgp_api, commands go out. The rule that makes it converge
is to believe little: ExaBGP says nothing to a neighbor that is down, may say old things again to one that comes back, and its
acknowledgement only means that a command could be read. So nothing is commanded for a neighbor that is not up; what was sent
before a session was lost is in doubt afterwards, and is withdrawn unless it is still wanted; and what the negotiated families
do not allow is not sent at all. It knows no process, pipe or clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from config.model import IPAddress
from speaker.bgp import exabgp_api as api
from speaker.bgp.model import Family, Neighbor, NeighborKey, Prefix, Route

WINDOW: Final = 500
"""Commands that may be unanswered at a time."""
RETRY_S: Final = (1.0, 2.0, 5.0, 15.0, 60.0)
"""How long a refused prefix waits before it is tried again, try by try."""

Routes = Mapping[Prefix, Route]


@dataclass(frozen=True, slots=True)
class Command:
    """Effect: write this line to ExaBGP."""

    line: str


@dataclass(frozen=True, slots=True)
class SessionUp:
    """Effect: a session is established."""

    neighbor: Neighbor


@dataclass(frozen=True, slots=True)
class SessionDown:
    """Effect: a session is lost; `reason` is ExaBGP's words."""

    neighbor: Neighbor
    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Effect: ExaBGP could not read a command about these prefixes; they are tried again."""

    neighbor: Neighbor
    prefixes: tuple[Prefix, ...]


Effect = Command | SessionUp | SessionDown | Refused


@dataclass(slots=True)
class State:
    """One neighbor: what is known of the session, and what it was told."""

    neighbor: Neighbor
    want: Routes
    up: bool = False
    local: IPAddress | None = None
    families: frozenset[Family] = frozenset()
    hold_time_s: int | None = None
    peer: api.PeerOpen | None = None
    notification: api.PeerNotification | None = None
    down_reason: str = ""
    established: int = 0
    """How often the session came up."""
    updates: int = 0
    """How many announcements and withdrawals of a prefix were given to ExaBGP for it."""
    sent: dict[Prefix, Route] = field(default_factory=dict)
    doubt: set[Prefix] = field(default_factory=set)
    open: dict[Prefix, None] = field(default_factory=dict)
    """The prefixes about which something may be left to say; all others were told as they are wanted."""
    unanswered: int = 0
    end_of_rib_due: bool = False
    tries: dict[Prefix, int] = field(default_factory=dict)
    retry_at: dict[Prefix, float] = field(default_factory=dict)

    def sendable(self, prefix: Prefix, route: Route) -> Route | None:
        """Return the route as it can be sent on this session, with its next hop; None where it cannot."""
        if Family.of(prefix) not in self.families:
            return None
        if route.next_hop is not None:
            return route
        if self.local is None or self.local.version != prefix.version:
            return None
        return replace(route, next_hop=self.local)

    @property
    def unsendable(self) -> tuple[Prefix, ...]:
        """The wanted prefixes that this session cannot carry."""
        return tuple(prefix for prefix, route in self.want.items() if self.sendable(prefix, route) is None)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A command that waits for its acknowledgement."""

    key: NeighborKey
    prefixes: tuple[Prefix, ...]


class Sessions:
    """The machine: want(), heard(), tick(), wake_at(); started() and stopped() tell of the process."""

    def __init__(self) -> None:
        self._states: dict[NeighborKey, State] = {}
        self._asked: deque[_Asked] = deque()
        self._running = False
        self._held = False
        self._work: dict[NeighborKey, None] = {}

    @property
    def states(self) -> Mapping[NeighborKey, State]:
        """What is known of each neighbor."""
        return self._states

    @property
    def idle(self) -> bool:
        """Whether every command has been answered."""
        return not self._asked

    def want(
        self, neighbors: Iterable[Neighbor], routes: Mapping[NeighborKey, Routes], touched: Collection[Prefix] | None = None
    ) -> list[Effect]:
        """Make these the neighbors, and these their routes. A neighbor that is left out is forgotten.

        `touched` promises that a table which is the same object as before differs in no other prefixes; None promises nothing.
        """
        by_key = {neighbor.key: neighbor for neighbor in neighbors}
        for key in self._states.keys() - by_key.keys():
            del self._states[key]
            self._work.pop(key, None)
        for key, neighbor in by_key.items():
            wanted = routes.get(key, {})
            state = self._states.setdefault(key, State(neighbor, wanted))
            same = state.want is wanted and touched is not None
            state.neighbor, state.want = neighbor, wanted
            self._look(state, touched if same else None)
        return self._pump()

    def _look(self, state: State, at: Iterable[Prefix] | None = None) -> None:
        """Open prefixes of a neighbor, or all, for the next commands."""
        state.open |= dict.fromkeys([*state.sent, *sorted(state.doubt, key=str), *state.want] if at is None else at)
        self._work[state.neighbor.key] = None

    def started(self) -> None:
        """Take in that a new process is there: no session is up and nothing has been told."""
        self._asked.clear()
        self._running = True
        for state in self._states.values():
            state.up = False
            state.unanswered = 0
            state.sent.clear()
            state.doubt.clear()

    def stopped(self, reason: str) -> list[Effect]:
        """Take in that the process is gone, and all sessions with it."""
        self._running = False
        self._asked.clear()
        return [effect for state in self._states.values() for effect in self._down(state, reason)]

    def hold(self) -> None:
        """Give no more commands until release(): what answers at once must not overtake what is queued."""
        self._held = True

    def release(self) -> list[Effect]:
        """Go on after hold()."""
        self._held = False
        self._work |= dict.fromkeys(self._states)
        return self._pump()

    def heard(self, heard: api.Heard, now: float) -> list[Effect]:
        """Take in what ExaBGP said."""
        match heard:
            case api.Ack(done=done):
                return [*self._answered(done=done, now=now), *self._pump()]
            case api.StateChange(up=True):
                return self._came_up(heard.key)
            case api.StateChange(reason=reason):
                state = self._of(heard.key)
                return [] if state is None else self._down(state, reason)
            case api.Negotiated():
                state = self._of(heard.key)
                if state is not None:
                    state.families, state.hold_time_s = heard.families, heard.hold_time_s
                    if state.up:
                        self._look(state)
                        return self._pump()
            case api.PeerOpen():
                state = self._of(heard.key)
                if state is not None:
                    state.peer = heard
            case api.PeerNotification():
                state = self._of(heard.key)
                if state is not None:
                    state.notification = heard
            case _:
                pass
        return []

    def _of(self, key: NeighborKey) -> State | None:
        """Return the neighbor that an event speaks of; ExaBGP names the real source address also where it may be any."""
        return self._states.get(key) or self._states.get(replace(key, local=None))

    def _came_up(self, key: NeighborKey) -> list[Effect]:
        state = self._of(key)
        if state is None:
            return []
        state.up, state.local = True, key.local
        state.down_reason = ""
        state.established += 1
        state.doubt |= state.sent.keys()
        state.sent.clear()
        state.tries.clear()
        state.retry_at.clear()
        state.end_of_rib_due = True
        self._look(state)
        return [SessionUp(state.neighbor), *self._pump()]

    @staticmethod
    def _down(state: State, reason: str) -> list[Effect]:
        state.down_reason = reason
        if not state.up:
            return []
        state.up = False
        state.end_of_rib_due = False
        return [SessionDown(state.neighbor, reason)]

    def _answered(self, *, done: bool, now: float) -> list[Effect]:
        if not self._asked:
            return []
        asked = self._asked.popleft()
        state = self._states.get(asked.key)
        if state is None:
            return []
        state.unanswered -= 1
        if not state.unanswered:
            self._work[state.neighbor.key] = None
        if done:
            for prefix in asked.prefixes:
                state.tries.pop(prefix, None)
            return []
        for prefix in asked.prefixes:
            state.sent.pop(prefix, None)
            state.doubt.add(prefix)
            tried = state.tries.get(prefix, 0)
            state.tries[prefix] = tried + 1
            state.retry_at[prefix] = now + RETRY_S[min(tried, len(RETRY_S) - 1)]
        return [Refused(state.neighbor, asked.prefixes)] if asked.prefixes else []

    def wake_at(self) -> float | None:
        """Return when tick() must be called next; None when nothing waits for time."""
        return min((at for state in self._states.values() if state.up for at in state.retry_at.values()), default=None)

    def tick(self, now: float) -> list[Effect]:
        """Try again what was refused, when it is time."""
        for state in self._states.values():
            due = [prefix for prefix, at in state.retry_at.items() if at <= now]
            for prefix in due:
                del state.retry_at[prefix]
            if due:
                self._look(state, due)
        return self._pump()

    def _pump(self) -> list[Effect]:
        """Give commands until the window is full or nothing is left to say; a full one is filled again when it is half empty."""
        effects: list[Effect] = []
        if len(self._asked) > WINDOW // 2:
            return effects
        while self._work and self._running and not self._held and len(self._asked) < WINDOW:
            key = next(iter(self._work))
            del self._work[key]
            state = self._states[key]
            if state.up and not self._say(state, effects):
                self._work[key] = None
        return effects

    def _say(self, state: State, effects: list[Effect]) -> bool:
        """Give the commands for one neighbor; whether the window sufficed."""
        key = state.neighbor.key
        gone: list[Prefix] = []
        new: list[Route] = []
        for prefix in list(state.open):
            if len(gone) == WINDOW:
                break
            wanted = state.want.get(prefix)
            route = None if wanted is None else state.sendable(prefix, wanted)
            if prefix not in state.retry_at and route is None and (prefix in state.sent or prefix in state.doubt):
                gone.append(prefix)
            elif prefix not in state.retry_at and route is not None and state.sent.get(prefix) != route:
                new.append(route)
            else:
                del state.open[prefix]
        for line, prefixes in api.withdraw(key, gone):
            if not self._ask(state, line, prefixes, effects):
                return False
            for prefix in prefixes:
                state.sent.pop(prefix, None)
                state.doubt.discard(prefix)
                del state.open[prefix]
        if len(gone) == WINDOW:
            return False
        told = {route.prefix: route for route in new}
        for line, prefixes in api.announce(key, new):
            if not self._ask(state, line, prefixes, effects):
                return False
            for prefix in prefixes:
                state.sent[prefix] = told[prefix]
                state.doubt.discard(prefix)
                del state.open[prefix]
        if state.end_of_rib_due and not state.unanswered and not state.retry_at:
            state.end_of_rib_due = False
            for family in sorted(state.families):
                self._ask(state, api.end_of_rib(key, family), (), effects)
        return True

    def _ask(self, state: State, line: str, prefixes: tuple[Prefix, ...], effects: list[Effect]) -> bool:
        if len(self._asked) >= WINDOW and prefixes:
            return False
        self._asked.append(_Asked(state.neighbor.key, prefixes))
        state.unanswered += 1
        state.updates += len(prefixes)
        effects.append(Command(line))
        return True
