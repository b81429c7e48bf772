"""All BFD sessions of a node: whose packet is this, which session is due, what is counted.

Driven by engine.py. It gives each session its discriminator, finds the session of a packet (RFC 5880 section 6.8.6, RFC 5881
section 3, RFC 5883 section 3), checks the TTL (RFC 5881 section 5), and wakes the sessions in order. It opens no socket.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from config.model import IPAddress
from speaker.bfd.packet import PacketError, Refusal, State, decode, encode
from speaker.bfd.session import Change, Changed, Disable, Effect, Ended, Ignored, Received, Send, Session, Timers

SINGLE_HOP_PORT: Final = 3784
MULTIHOP_PORT: Final = 4784
TTL: Final = 255


@dataclass(frozen=True, slots=True)
class Path:
    """Between which two points a session runs. It is what makes a session this one and no other.

    `local` None takes any address of this machine. `interface` is needed for link-local peers, and is part of the path where
    it is given. `minimum_ttl` counts for several hops only; a single hop is 255 (RFC 5881 section 5).
    """

    peer: IPAddress
    local: IPAddress | None = None
    interface: str = ""
    multihop: bool = False
    minimum_ttl: int = 1

    @property
    def port(self) -> int:
        """The port that the peer is spoken to, and speaks to (RFC 5881 section 4, RFC 5883 section 5)."""
        return MULTIHOP_PORT if self.multihop else SINGLE_HOP_PORT


@dataclass(frozen=True, slots=True)
class Wanted:
    """A session that there shall be."""

    path: Path
    timers: Timers


@dataclass(frozen=True, slots=True)
class Datagram:
    """What arrived, and how: `ttl` is the TTL or hop limit, `port` the one it was sent to, `interface` where it came in."""

    data: bytes
    source: IPAddress
    destination: IPAddress
    port: int
    ttl: int
    interface: str


@dataclass(frozen=True, slots=True)
class Transmit:
    """Effect: send this to the peer of a path."""

    path: Path
    data: bytes


@dataclass(frozen=True, slots=True)
class Report:
    """Effect: a session is in another state."""

    path: Path
    change: Changed


@dataclass(frozen=True, slots=True)
class Forget:
    """Effect: a session is over; what was opened for it can be closed."""

    path: Path


HubEffect = Transmit | Report | Forget


@dataclass(slots=True)
class Tally:
    """What one session did, for metrics."""

    packets_in: int = 0
    packets_out: int = 0
    ups: int = 0
    downs: int = 0
    longest_gap_s: float = 0.0
    heard_at: float | None = field(default=None, repr=False)


class Hub:
    """The machine of all sessions: apply(), receive(), tick(), wake_at()."""

    def __init__(self, chance: Callable[[], float], discriminators: Callable[[], int]) -> None:
        """`chance` returns floats in [0, 1); `discriminators` random 32-bit numbers, of which 0 and those in use are left."""
        self._chance = chance
        self._discriminators = discriminators
        self._sessions: dict[Path, Session] = {}
        self._ending: set[Path] = set()
        self._by_discriminator: dict[int, Path] = {}
        self._by_place: dict[tuple[IPAddress, int], list[Path]] = {}
        self._due: list[tuple[float, int, Path]] = []
        self._pushed = 0
        self._again: dict[Path, Timers] = {}
        self.tallies: dict[Path, Tally] = {}
        self.refused: Counter[Refusal] = Counter()

    @property
    def sessions(self) -> Mapping[Path, Session]:
        """The sessions by path, those included that say good-bye."""
        return self._sessions

    def apply(self, wanted: Iterable[Wanted], now: float) -> list[HubEffect]:
        """Make these the sessions there are: new ones begin, others end, changed timers are agreed anew."""
        by_path = {one.path: one.timers for one in wanted}
        effects: list[HubEffect] = []
        for path in self._sessions.keys() - by_path.keys():
            effects += self._end(path, now)
        for path, timers in by_path.items():
            session = self._sessions.get(path)
            if session is None:
                self._begin(path, timers)
            elif path in self._ending:
                self._again[path] = timers
            else:
                effects += self._follow(path, session.handle(Change(timers), now))
        return effects

    def _begin(self, path: Path, timers: Timers) -> None:
        number = self._discriminators()
        while number == 0 or number in self._by_discriminator:
            number = self._discriminators()
        self._sessions[path] = Session(timers, number, self._chance)
        self._by_discriminator[number] = path
        self._by_place.setdefault((path.peer, path.port), []).append(path)
        self.tallies[path] = Tally()
        self._schedule(path)

    def _end(self, path: Path, now: float) -> list[HubEffect]:
        self._again.pop(path, None)
        if path in self._ending:
            return []
        self._ending.add(path)
        return self._follow(path, self._sessions[path].handle(Disable(), now))

    def receive(self, datagram: Datagram, now: float) -> list[HubEffect]:
        """Read a datagram and hand it to its session; what belongs to none is counted and ignored."""
        try:
            packet = decode(datagram.data)
            path = self._path_of(datagram, packet.your_discriminator)
        except PacketError as refused:
            self.refused[refused.refusal] += 1
            return []
        tally = self.tallies[path]
        tally.packets_in += 1
        session = self._sessions[path]
        if tally.heard_at is not None and session.state is State.UP:
            tally.longest_gap_s = max(tally.longest_gap_s, now - tally.heard_at)
        tally.heard_at = now
        return self._follow(path, session.handle(Received(packet), now))

    def _path_of(self, datagram: Datagram, your_discriminator: int) -> Path:
        if your_discriminator:
            path = self._by_discriminator.get(your_discriminator)
            if path is None:
                raise PacketError(Refusal.UNKNOWN_SESSION)
            if not _fits(path, datagram):
                raise PacketError(Refusal.WRONG_ADDRESS)
        else:
            candidates = self._by_place.get((datagram.source, datagram.port), ())
            path = next((candidate for candidate in candidates if _fits(candidate, datagram)), None)
            if path is None:
                raise PacketError(Refusal.UNKNOWN_SESSION)
        if datagram.ttl < (path.minimum_ttl if path.multihop else TTL):
            raise PacketError(Refusal.TTL)
        return path

    def tick(self, now: float) -> list[HubEffect]:
        """Do what is due."""
        effects: list[HubEffect] = []
        while self._due and self._due[0][0] <= now:
            at, _, path = heapq.heappop(self._due)
            session = self._sessions.get(path)
            if session is not None and session.wake_at() == at:
                effects += self._follow(path, session.tick(now))
        return effects

    def wake_at(self) -> float | None:
        """Return when tick() must be called next."""
        while self._due:
            at, _, path = self._due[0]
            session = self._sessions.get(path)
            if session is not None and session.wake_at() == at:
                return at
            heapq.heappop(self._due)
        return None

    def _schedule(self, path: Path) -> None:
        at = self._sessions[path].wake_at()
        if at is not None:
            self._pushed += 1
            heapq.heappush(self._due, (at, self._pushed, path))

    def _follow(self, path: Path, effects: Iterable[Effect]) -> list[HubEffect]:
        found: list[HubEffect] = []
        tally, over = self.tallies[path], False
        for effect in effects:
            match effect:
                case Send(packet=packet):
                    tally.packets_out += 1
                    found.append(Transmit(path, encode(packet)))
                case Changed():
                    tally.ups += effect.state is State.UP
                    tally.downs += effect.before is State.UP
                    found.append(Report(path, effect))
                case Ignored(refusal=refusal):
                    self.refused[refusal] += 1
                case Ended():
                    over = True
        if over:
            found += self._forget(path)
        else:
            self._schedule(path)
        return found

    def _forget(self, path: Path) -> list[HubEffect]:
        session = self._sessions.pop(path)
        self._ending.discard(path)
        del self._by_discriminator[session.discriminator], self.tallies[path]
        place = self._by_place[path.peer, path.port]
        place.remove(path)
        if not place:
            del self._by_place[path.peer, path.port]
        again = self._again.pop(path, None)
        if again is not None:
            self._begin(path, again)
            return []
        return [Forget(path)]


def _fits(path: Path, datagram: Datagram) -> bool:
    return (
        datagram.source == path.peer
        and datagram.port == path.port
        and path.local in {None, datagram.destination}
        and path.interface in {"", datagram.interface}
    )
