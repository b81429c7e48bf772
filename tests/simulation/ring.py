"""A ring of member cores on a virtual clock and a network that exists only in a heap of events.

Every run is decided by its seed. The network delays, loses, cuts and partitions; a host can lose power, a process can be
killed (its kernel then refuses streams), a cable can be pulled (its kernel then refuses to send). No core knows.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial
from itertools import count
from typing import Any

from memberlist.config import Config, lan
from memberlist.core import Core
from memberlist.effects import (
    CloseStream,
    Effect,
    Endpoint,
    Failure,
    Input,
    Join,
    JoinAnswered,
    JoinFailed,
    Leave,
    LeaveSpread,
    MemberEvent,
    Notify,
    OpenStream,
    PacketReceived,
    PacketRefused,
    Rejected,
    SendPacket,
    StreamAccepted,
    StreamConnected,
    StreamEnded,
    StreamReceived,
    WriteStream,
)
from memberlist.keyring import Keyring
from memberlist.messages import State

PORT = 7946


class Power(Enum):
    ON = auto()
    PROCESS_KILLED = auto()
    HOST_GONE = auto()


@dataclass
class Node:
    """One member and what surrounds it."""

    name: str
    endpoint: Endpoint
    core: Core
    power: Power = Power.ON
    cable: bool = True
    wake: float | None = None
    streams: dict[int, tuple[str, int]] = field(default_factory=dict)  # own number -> (peer, the peer's number)
    accepted: int = 0
    packets_sent: int = 0
    log: list[tuple[float, MemberEvent]] = field(default_factory=list)
    answers: list[Effect] = field(default_factory=list)

    def heard(self, kind: type[MemberEvent], name: str) -> list[float]:
        """The times at which this node reported such an event about the member."""
        return [
            at
            for at, event in self.log
            if isinstance(event, kind) and not isinstance(event, Rejected) and event.member.name == name
        ]

    def states(self) -> dict[str, State]:
        return {record.name: record.state for record in self.core.members}

    def table(self) -> dict[str, tuple[int, State]]:
        return {record.name: (record.incarnation, record.state) for record in self.core.members}


class Ring:
    """Members n1..nN at 10.0.0.1.., not yet joined, and the clock."""

    def __init__(
        self,
        size: int,
        *,
        seed: int,
        loss: float = 0.0,
        latency_s: tuple[float, float] = (0.0002, 0.0004),
        key: bytes | None = None,
        **settings: Any,
    ) -> None:
        self.now = 0.0
        self.loss = loss
        self._latency_s = latency_s
        self._key = key
        self._settings = settings
        self._chance = random.Random(seed)  # noqa: S311  (a network, not a secret)
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._tie = count()
        self._cut: set[tuple[str, str]] = set()
        self._arrived: dict[tuple[str, int], float] = {}  # when the last bytes of a stream reach its peer
        self._at: dict[Endpoint, str] = {}
        self.nodes: dict[str, Node] = {}
        self.trace: list[str] = []
        for number in range(1, size + 1):
            self.boot(f"n{number}", f"10.0.{number // 250}.{number % 250 + 1}")

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    # What a test does to the ring.

    def boot(self, name: str, address: str) -> Node:
        """Start a member, in place of a former one of that name."""
        config: Config = lan(name, address, PORT, **self._settings)
        chance = random.Random(self._chance.getrandbits(64))  # noqa: S311  (repeatable on purpose)
        keyring = None if self._key is None else Keyring(self._key)
        core = Core(config, PORT, keyring=keyring, chance=chance, nonces=lambda: chance.randbytes(12))
        node = Node(name, Endpoint.of(address, PORT), core)
        self.nodes[name] = node
        self._at[node.endpoint] = name
        self._carry_out(node, core.start(self.now))
        return node

    def join_all(self, seed: str = "n1") -> None:
        """Let every member join through one, and settle for a few seconds.

        Gossip misses a member now and then in a large ring (e^-8 per member and statement); the exchange of tables repairs it.
        """
        for node in self.nodes.values():
            if node.name != seed:
                self.give(node, Join(1, self[seed].endpoint))
        everybody = dict.fromkeys(self.nodes, State.ALIVE)
        self.run(5.0)
        assert self.run_until(lambda: all(n.states() == everybody for n in self.nodes.values()), within_s=90)
        assert all(node.answers == [JoinAnswered(1)] for node in self.nodes.values() if node.name != seed)

    def give(self, node: Node, event: Input) -> None:
        """Let an input reach a member now."""
        if node.power is Power.ON and self.nodes[node.name] is node:
            self._carry_out(node, node.core.handle(event, self.now))

    def leave(self, name: str) -> None:
        self.give(self[name], Leave())

    def kill(self, name: str, power: Power = Power.HOST_GONE) -> float:
        """End a member without a word; return the time."""
        self[name].power = power
        return self.now

    def partition(self, *sides: Sequence[str]) -> None:
        """Let nothing pass between the sides; no side heals."""
        side_of = {name: number for number, side in enumerate(sides) for name in side}
        self._cut = {(a, b) for a in side_of for b in side_of if side_of[a] != side_of[b]}

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.run_until(lambda: False, within_s=seconds)

    def run_until(self, holds: Callable[[], bool], *, within_s: float) -> bool:
        """Let time pass until something holds; return whether it does."""
        end = self.now + within_s
        while not holds():
            if not self._heap or self._heap[0][0] > end:
                self.now = end
                return holds()
            self.now, _, action = heapq.heappop(self._heap)
            action()
        return True

    def living(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.power is Power.ON]

    # The network.

    def _later(self, delay_s: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (self.now + delay_s, next(self._tie), action))

    def _delay_s(self) -> float:
        low, high = self._latency_s
        return low + (high - low) * self._chance.random()

    def _passes(self, node: Node, to: Node) -> bool:
        return node.cable and to.cable and (node.name, to.name) not in self._cut and to.power is not Power.HOST_GONE

    def _carry_out(self, node: Node, effects: Sequence[Effect]) -> None:
        if any(isinstance(effect, Notify) for effect in effects):
            node.core.members.check_invariants()
        for effect in effects:
            match effect:
                case SendPacket():
                    self._send(node, effect)
                case OpenStream():
                    self._open(node, effect)
                case WriteStream(stream=stream, data=data):
                    self._to_peer(node, stream, partial(StreamReceived, data=data))
                case CloseStream(stream=stream):
                    self._to_peer(node, stream, StreamEnded)
                    node.streams.pop(stream, None)
                case Notify(event=event):
                    node.log.append((self.now, event))
                    self.trace.append(f"{self.now:.9f} {node.name} {event}")
                case JoinAnswered() | JoinFailed() | LeaveSpread():
                    node.answers.append(effect)
        wake = node.core.wake_at()
        if wake is not None and wake != node.wake:
            node.wake = wake
            self._later(max(0.0, wake - self.now), lambda: self._wake(node, wake))

    def _wake(self, node: Node, due: float) -> None:
        if node.wake == due and node.power is Power.ON and self.nodes[node.name] is node:
            node.wake = None
            self._carry_out(node, node.core.tick(max(self.now, due)))

    def _send(self, node: Node, packet: SendPacket) -> None:
        if not node.cable:
            self._later(0.0, lambda: self.give(node, PacketRefused(packet.to)))
            return
        node.packets_sent += 1
        peer = self.nodes.get(self._at.get(packet.to, ""))
        if peer is not None and self._passes(node, peer) and self._chance.random() >= self.loss:
            self._later(self._delay_s(), lambda: self.give(peer, PacketReceived(node.endpoint, packet.data)))

    def _open(self, node: Node, opening: OpenStream) -> None:
        if not node.cable:
            self._later(0.0, lambda: self.give(node, StreamEnded(opening.stream, Failure.UNREACHABLE)))
            return
        peer = self.nodes.get(self._at.get(opening.to, ""))
        if peer is None or not self._passes(node, peer):
            return  # The SYN is lost; the core's own deadline ends it.
        lost = self._chance.random() < 1 - (1 - self.loss) ** 2
        delay_s = 2 * self._delay_s() + (1.0 if lost else 0.0)  # A lost SYN is sent again after one second.
        self._later(delay_s, lambda: self._connected(node, peer, opening))

    def _connected(self, node: Node, peer: Node, opening: OpenStream) -> None:
        if peer.power is Power.PROCESS_KILLED:
            self.give(node, StreamEnded(opening.stream, Failure.REFUSED))
            return
        peer.accepted += 1
        number = peer.accepted
        node.streams[opening.stream] = (peer.name, number)
        peer.streams[number] = (node.name, opening.stream)
        self.give(peer, StreamAccepted(number, node.endpoint))
        self.give(node, StreamConnected(opening.stream))
        self._to_peer(node, opening.stream, partial(StreamReceived, data=opening.data))

    def _to_peer(self, node: Node, stream: int, event: Callable[[int], Input]) -> None:
        name, number = node.streams.get(stream, ("", 0))
        peer = self.nodes.get(name)
        if peer is not None and self._passes(node, peer):
            delay_s = self._delay_s() + (0.2 if self._chance.random() < self.loss else 0.0)
            arrives_at = max(self.now + delay_s, self._arrived.get((name, number), 0.0))  # Bytes never overtake.
            self._arrived[name, number] = arrives_at
            self._later(arrives_at - self.now, lambda: self.give(peer, event(number)))
