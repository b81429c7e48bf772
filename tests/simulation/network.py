"""A virtual clock and a network that exists only in a heap of events: what the rings of the simulation live on.

Datagrams are delayed, lost, duplicated and reordered per direction of a link. Streams follow TCP as far as a gossip member can
tell: a lost SYN costs a second, lost data two tenths, doubling; bytes never overtake; a kernel accepts for a process that is
stopped, refuses for one that is gone, and a host without power says nothing. Everything is decided by one seed. Knows hosts
only by their number and what their kernel does; ring.py puts members onto them. Refuses to look into a datagram.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Any, Final, Protocol

SYN_AGAIN_S: Final = 1.0
DATA_AGAIN_S: Final = 0.2
DATA_TRIES_MAX: Final = 8
ARP_GIVES_UP_S: Final = 3.0
BACKLOG: Final = 128


class Power(Enum):
    """What is left of a host."""

    ON = auto()
    STOPPED = auto()  # the process does not run, its kernel does: datagrams wait in the buffer, connections in the backlog
    PROCESS_KILLED = auto()
    HOST_GONE = auto()


@dataclass(frozen=True, slots=True)
class Link:
    """One direction between two hosts. Shares are probabilities of one datagram; `cut` lets nothing pass."""

    loss: float = 0.0
    delay_s: float = 0.0002
    jitter_s: float = 0.0002
    duplicate: float = 0.0
    reorder: float = 0.0
    reorder_s: float = 0.005
    cut: bool = False


class Host(Protocol):
    """What the network sees of a host."""

    number: int
    power: Power
    cable: bool


@dataclass(slots=True, eq=False)
class Way:
    """One direction of a connection: what waits, and when the last of it arrives."""

    to: Host
    stream: int  # the number of the stream at the receiving end
    waiting: deque[tuple[str, bytes]] = field(default_factory=deque)
    arrives_at: float = 0.0
    tries: int = 0
    pumping: bool = False


class Clock:
    """The heap of what is to happen, in the order of time and, at one time, of asking."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._tie = 0

    def at(self, time: float, action: Callable[..., None], *arguments: Any) -> None:
        """Let something happen at a time that is not over."""
        self._tie += 1
        heapq.heappush(self._heap, (time, self._tie, action, arguments))

    def after(self, delay_s: float, action: Callable[..., None], *arguments: Any) -> None:
        """Let something happen later."""
        self._tie += 1
        heapq.heappush(self._heap, (self.now + delay_s, self._tie, action, arguments))

    def run(self, until: float) -> None:
        """Let time pass."""
        heap, pop = self._heap, heapq.heappop
        while heap and heap[0][0] <= until:
            self.now, _, action, arguments = pop(heap)
            self.events += 1
            action(*arguments)
        self.now = max(self.now, until)

    def step(self, until: float) -> bool:
        """Let the next thing happen, if it does before `until`."""
        if not self._heap or self._heap[0][0] > until:
            self.now = max(self.now, until)
            return False
        self.now, _, action, arguments = heapq.heappop(self._heap)
        self.events += 1
        action(*arguments)
        return True


class Network:
    """Links between hosts. Hosts get what arrives through the callbacks given at the start.

    packet(to, sender, data); stream(to, what, number, data, sender) with `what` one of accepted, connected, received, ended,
    refused, unreachable, timed out, broken.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        seed: int,
        link: Link,
        packet: Callable[[Any, Any, bytes], None],
        stream: Callable[[Any, str, int, bytes, Any], None],
    ) -> None:
        self.clock = clock
        self.link = link
        self._packet = packet
        self._stream = stream
        self._random = random.Random(seed).random  # noqa: S311  (a network, not a secret)
        self._links: dict[tuple[int, int], Link] = {}
        self._ways: dict[tuple[int, int], Way] = {}  # (sending host, its stream number) -> where its bytes go
        self._accepted: dict[int, int] = {}
        self._waiting: dict[int, int] = {}  # connections in a stopped host's backlog
        self.datagrams = 0

    # What the hosts are connected by.

    def set_link(self, a: Host, b: Host, **changes: Any) -> None:
        """Change one direction, from a to b."""
        self._links[a.number, b.number] = replace(self.between(a, b), **changes)

    def reset_links(self) -> None:
        """Make all links usual again."""
        self._links.clear()

    def between(self, a: Host, b: Host) -> Link:
        """Return the link from a to b."""
        return self._links.get((a.number, b.number), self.link) if self._links else self.link

    def open_streams(self, host: Host) -> int:
        """Return how many streams end at a host."""
        return sum(number == host.number for number, _ in self._ways)

    def passes(self, a: Host, b: Host) -> bool:
        """Return whether anything gets from a to b at all."""
        return a.cable and b.cable and b.power is not Power.HOST_GONE and not self.between(a, b).cut

    # Datagrams.

    def send(self, sender: Host, to: Host, data: bytes) -> None:
        """Send a datagram; it arrives once, never, or twice."""
        self.datagrams += 1
        link = self._links.get((sender.number, to.number), self.link) if self._links else self.link
        if link.cut or to.power is Power.HOST_GONE or not to.cable or (link.loss and self._random() < link.loss):
            return
        delay_s = link.delay_s + link.jitter_s * self._random()
        if link.reorder and self._random() < link.reorder:
            delay_s += link.reorder_s * self._random()
        self.clock.after(delay_s, self._packet, to, sender, data)
        if link.duplicate and self._random() < link.duplicate:
            self.clock.after(delay_s + link.jitter_s * self._random(), self._packet, to, sender, data)

    # Streams.

    def connect(self, host: Host, number: int, to: Host | None, data: bytes) -> None:
        """Open a stream and send `data` on it."""
        if not host.cable:
            self.clock.after(0.0, self._tell, host, "unreachable", number)
        elif to is None:
            self.clock.after(ARP_GIVES_UP_S, self._tell, host, "unreachable", number)
        else:
            way = Way(to, 0)
            self._ways[host.number, number] = way
            self._syn(host, number, way, data, SYN_AGAIN_S)

    def _syn(self, host: Host, number: int, way: Way, data: bytes, again_s: float) -> None:
        if self._ways.get((host.number, number)) is not way:
            return  # given up by the dialer
        to = way.to
        there, back = self.between(host, to), self.between(to, host)
        kept = (1 - there.loss) * (1 - back.loss)
        if not self.passes(host, to) or back.cut or (kept < 1 and self._random() >= kept):
            self.clock.after(again_s, self._syn, host, number, way, data, 2 * again_s)
            return
        round_trip_s = self._delay_s(there) + self._delay_s(back)
        self.clock.after(round_trip_s, self._answered, host, number, way, data, again_s)

    def _answered(self, host: Host, number: int, way: Way, data: bytes, again_s: float) -> None:
        to = way.to
        if self._ways.get((host.number, number)) is not way:
            return
        if to.power is Power.PROCESS_KILLED and self.passes(to, host):
            del self._ways[host.number, number]
            self._stream(host, "refused", number, b"", to)
            return
        full = to.power is Power.STOPPED and self._waiting.get(to.number, 0) >= BACKLOG
        if full or not self.passes(to, host):
            self.clock.after(again_s, self._syn, host, number, way, data, 2 * again_s)
            return
        if to.power is Power.STOPPED:
            self._waiting[to.number] = self._waiting.get(to.number, 0) + 1
        accepted = self._accepted[to.number] = self._accepted.get(to.number, 0) + 1
        way.stream = accepted
        self._ways[to.number, accepted] = Way(host, number)
        self._stream(to, "accepted", accepted, b"", host)
        self._stream(host, "connected", number, b"", to)
        self.write(host, number, data)

    def knock(self, host: Host, to: Host | None, timeout_s: float, answer: Callable[[str], None]) -> None:
        """Ask a kernel whether it is there: answered, refused, or silent when nothing came within the timeout."""
        if not host.cable:
            self.clock.after(0.0, answer, "silent")
            return
        after_s, again_s = 0.0, SYN_AGAIN_S
        if to is not None:
            there, back = self.between(host, to), self.between(to, host)
            kept = (1 - there.loss) * (1 - back.loss)
            while kept < 1 and after_s < timeout_s and self._random() >= kept:
                after_s, again_s = after_s + again_s, 2 * again_s
            after_s += self._delay_s(there) + self._delay_s(back)
        if to is None or after_s > timeout_s or not self.passes(host, to) or self.between(to, host).cut:
            self.clock.after(timeout_s, answer, "silent")
        elif to.power is Power.PROCESS_KILLED:
            self.clock.after(after_s, answer, "refused")
        else:
            self.clock.after(after_s, answer, "answered")

    def write(self, host: Host, number: int, data: bytes) -> None:
        """Send bytes on a stream."""
        self._push(host, number, "received", data)

    def close(self, host: Host, number: int) -> None:
        """Close a stream when everything written is sent; the host hears of it no more."""
        way = self._ways.get((host.number, number))
        if way is not None and way.stream == 0:
            del self._ways[host.number, number]  # not connected yet
            return
        self._push(host, number, "ended", b"")
        self._ways.pop((host.number, number), None)

    def resumed(self, host: Host) -> None:
        """The process runs again and empties its backlog."""
        self._waiting.pop(host.number, None)

    def died(self, host: Host) -> None:
        """The process is gone; with its kernel still there, the peers of its streams are told."""
        for key in [key for key in self._ways if key[0] == host.number]:
            way = self._ways.pop(key)
            if host.power is not Power.HOST_GONE and way.stream and self.passes(host, way.to):
                self.clock.after(self._delay_s(self.between(host, way.to)), self._tell, way.to, "broken", way.stream)

    def _push(self, host: Host, number: int, what: str, data: bytes) -> None:
        way = self._ways.get((host.number, number))
        if way is None or not way.stream:
            return
        way.waiting.append((what, data))
        if not way.pumping:
            self._pump(host, way)

    def _pump(self, host: Host, way: Way) -> None:
        way.pumping = False
        link = self.between(host, way.to)
        while way.waiting:
            lost = bool(link.loss) and self._random() < link.loss
            if lost or not self.passes(host, way.to):
                way.tries += 1
                if way.tries <= DATA_TRIES_MAX:
                    way.pumping = True
                    self.clock.after(DATA_AGAIN_S * 2 ** (way.tries - 1), self._pump, host, way)
                return
            way.tries = 0
            what, data = way.waiting.popleft()
            way.arrives_at = max(self.clock.now + self._delay_s(link), way.arrives_at)
            self.clock.at(way.arrives_at, self._arrive, way, what, data)

    def _arrive(self, way: Way, what: str, data: bytes) -> None:
        if what == "ended":
            self._tell(way.to, what, way.stream)
        elif (way.to.number, way.stream) in self._ways:
            self._stream(way.to, what, way.stream, data, None)

    def _tell(self, host: Host, what: str, number: int) -> None:
        if self._ways.pop((host.number, number), None) is not None or what == "unreachable":
            self._stream(host, what, number, b"", None)

    def _delay_s(self, link: Link) -> float:
        return link.delay_s + link.jitter_s * self._random()
