"""A ring of member cores on the virtual network of network.py, and everything that can happen to it.

Every run is decided by its seed: the same seed gives the same `digest()`. A host can lose power, a process can be killed or
stopped, slow down or start again under its name; cables can be pulled; links can lose, delay, duplicate, reorder, work one way
or not at all. No core knows. With a checker (checks.py) every step of every core is held to the rules of the protocol.
"""

from __future__ import annotations

import hashlib
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import permutations
from typing import Any, Final, TypeAlias

from memberlist.config import Config, lan
from memberlist.core import Core
from memberlist.effects import (
    Cause,
    CheckLiveness,
    CloseStream,
    Conflicted,
    Effect,
    Endpoint,
    Failure,
    Input,
    Join,
    JoinAnswered,
    Joined,
    JoinFailed,
    Leave,
    LeaveSpread,
    Left,
    Liveness,
    LivenessChecked,
    MemberEvent,
    Notify,
    OpenStream,
    PacketReceived,
    PacketRefused,
    Refuted,
    SendPacket,
    StreamAccepted,
    StreamConnected,
    StreamEnded,
    StreamReceived,
    Suspected,
    Updated,
    WriteStream,
)
from memberlist.keyring import Keyring
from memberlist.messages import State
from tests.simulation.checks import Checker
from tests.simulation.network import Clock, Link, Network, Power

PORT: Final = 7946
SOCKET_BUFFER: Final = 4096  # datagrams that wait for a stopped process
_NEVER: Final = float("inf")
AboutMember: TypeAlias = Joined | Updated | Suspected | Refuted | Left | Conflicted
_LOOK_EVERY_S: Final = 0.01
_FAILURES: Final = {
    "refused": Failure.REFUSED,
    "unreachable": Failure.UNREACHABLE,
    "timed out": Failure.TIMED_OUT,
    "broken": Failure.BROKEN,
}


@dataclass(eq=False)
class Node:
    """One member and what surrounds it."""

    name: str
    number: int
    endpoint: Endpoint
    core: Core
    power: Power = Power.ON
    cable: bool = True
    slow_s: float = 0.0  # what the process takes for each thing it does
    timer_at: float = _NEVER
    free_at: float = 0.0
    inbox: deque[Input] = field(default_factory=deque)
    draining: bool = False
    packets_sent: int = 0
    bytes_sent: int = 0
    joins: int = 0
    log: list[tuple[float, MemberEvent]] = field(default_factory=list)
    answers: list[Effect] = field(default_factory=list)

    def heard(self, kind: type[AboutMember], name: str) -> list[float]:
        """The times at which this node reported such an event about the member."""
        return [at for at, event in self.log if isinstance(event, kind) and event.member.name == name]

    def states(self) -> dict[str, State]:
        return {record.name: record.state for record in self.core.members}

    def table(self) -> dict[str, tuple[int, State]]:
        return {record.name: (record.incarnation, record.state) for record in self.core.members}


@dataclass(frozen=True, slots=True)
class WrongDeath:
    """An observer that declared dead who lived; `why` is what was done to the victim, if anything."""

    at: float
    observer: str
    victim: str
    why: str


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
        link: Link | None = None,
        checked: bool = True,
        recorded: bool = True,
        configure: Callable[[str, str], Config] | None = None,
        **settings: Any,
    ) -> None:
        self.clock = Clock()
        self.seed = seed
        self._key = key
        self._configure = configure or (lambda name, address: lan(name, address, PORT, **settings))
        self._chance = random.Random(seed)  # noqa: S311  (a network, not a secret)
        usual = link or Link(loss=loss, delay_s=latency_s[0], jitter_s=latency_s[1] - latency_s[0])
        self.network = Network(
            self.clock, seed=self._chance.getrandbits(64), link=usual, packet=self._packet, stream=self._stream_event
        )
        self._at: dict[int, Node] = {}
        self.nodes: dict[str, Node] = {}
        self.trace: list[str] = []
        self.changes = 0
        self.wrong_deaths: list[WrongDeath] = []
        self.disturbed: dict[str, str] = {}  # who may rightly be taken for dead, and why
        self.checker = Checker() if checked else None
        self._hash = hashlib.blake2b(digest_size=16) if recorded else None
        for number in range(1, size + 1):
            self.boot(f"n{number}", f"10.0.{number // 250}.{number % 250 + 1}")

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    @property
    def now(self) -> float:
        """The virtual time in seconds."""
        return self.clock.now

    def digest(self) -> str:
        """Everything that reached a member so far, as one number."""
        assert self._hash is not None
        return self._hash.hexdigest()

    # What a test does to the ring.

    def boot(self, name: str, address: str) -> Node:
        """Start a member, in place of a former one of that name."""
        former = self.nodes.get(name)
        if former is not None and former.power is not Power.HOST_GONE:
            former.power = Power.PROCESS_KILLED
            self.network.died(former)
        chance = random.Random(self._chance.getrandbits(64))  # noqa: S311  (repeatable on purpose)
        keyring = None if self._key is None else Keyring(self._key)
        core = Core(self._configure(name, address), PORT, keyring=keyring, chance=chance, nonces=lambda: chance.randbytes(12))
        endpoint = Endpoint.of(address, PORT)
        before = self._at.get(int(endpoint.address))
        node = Node(name, before.number if before else len(self._at), endpoint, core)
        self.nodes[name] = node
        self._at[int(endpoint.address)] = node
        self.disturbed.pop(name, None)
        if self.checker is not None:
            self.checker.started(name)
        self._carry_out(node, core.start(self.now))
        self._set_timer(node)
        return node

    def restart(self, name: str) -> Node:
        """Start a killed member again, at its address; it knows nobody until it joins."""
        return self.boot(name, str(self.nodes[name].endpoint.address))

    def reconfigure(self, configure: Callable[[str, str], Config], *, key: bytes | None) -> None:
        """Start members with these settings and this key from now on."""
        self._configure, self._key = configure, key

    def join(self, name: str, seed: str) -> None:
        """Let a member exchange tables with another."""
        node = self.nodes[name]
        node.joins += 1
        self.give(node, Join(node.joins, self.nodes[seed].endpoint))

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
        """Let an input reach a member now, or as soon as its process runs."""
        if node.power is Power.ON:
            if node.slow_s or node.draining:
                self._queue(node, event)
            else:
                self._step(node, event)
        elif node.power is Power.STOPPED and len(node.inbox) < SOCKET_BUFFER:
            node.inbox.append(event)

    def leave(self, name: str) -> None:
        self.disturbed[name] = "left"
        self.give(self[name], Leave())

    def kill(self, name: str, power: Power = Power.HOST_GONE) -> float:
        """End a member without a word; return the time."""
        node = self[name]
        node.power = power
        node.inbox.clear()
        self.disturbed[name] = "crashed"
        self.network.died(node)
        return self.now

    def stall(self, name: str, seconds: float) -> None:
        """Stop a process, timers and all, and let it go on later; its kernel goes on."""
        node = self[name]
        if node.power is Power.ON:
            node.power = Power.STOPPED
            self.clock.after(seconds, self._resume, node)

    def freeze(self, name: str, seconds: float) -> None:
        """Stop a whole host, as when a virtual machine is paused: its kernel is silent too."""
        node = self[name]
        if node.power is Power.ON:
            self.disturbed[name] = "frozen"
            node.power, node.cable = Power.STOPPED, False
            self.clock.after(seconds, self._thaw, node)

    def _thaw(self, node: Node) -> None:
        node.cable = True
        self.disturbed.pop(node.name, None)
        self._resume(node)

    def _resume(self, node: Node) -> None:
        if node.power is Power.STOPPED:
            node.power = Power.ON
            self.network.resumed(node)
            node.timer_at = _NEVER
            node.draining = True
            self._drain(node)

    def partition(self, *sides: Sequence[str]) -> None:
        """Let nothing pass between the sides; no side heals."""
        self.network.reset_links()
        side_of = {name: number for number, side in enumerate(sides) for name in side}
        for (a, one), (b, other) in permutations(side_of.items(), 2):
            if one != other:
                self.network.set_link(self[a], self[b], cut=True)

    def link(self, a: str, b: str, **changes: Any) -> None:
        """Change one direction between two members."""
        self.network.set_link(self[a], self[b], **changes)

    def heal(self) -> None:
        """Make every link usual and plug every cable in."""
        self.network.reset_links()
        for node in self.nodes.values():
            node.cable = True

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.run(self.now + seconds)

    def run_until(self, holds: Callable[[], bool], *, within_s: float) -> bool:
        """Let time pass until something holds; return whether it does. Looked at after every report, and every 10 ms."""
        end = self.now + within_s
        seen, looked_at = -1, 0.0
        while True:
            if seen != self.changes or self.now - looked_at >= _LOOK_EVERY_S:
                seen, looked_at = self.changes, self.now
                if holds():
                    return True
            if not self.clock.step(end):
                return holds()

    def living(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.power is Power.ON]

    def agreed(self) -> bool:
        """Return whether all living members have the same table, and everybody living is alive in it."""
        living = self.living()
        tables = [node.table() for node in living]
        own = {node.name: (node.core.members.own.incarnation, State.ALIVE) for node in living}
        return all({name: row for name, row in table.items() if row[1] < State.DEAD} == own for table in tables)

    # How a process runs.

    def _step(self, node: Node, event: Input) -> None:
        if self._hash is not None:
            self._hash.update(f"{self.clock.now:.9f} {node.name} {event!r}\n".encode())
        effects = node.core.handle(event, self.clock.now)
        if effects:
            self._carry_out(node, effects)
        if self.checker is not None:
            self.checker.after(node.core, node.name)
        self._set_timer(node)

    def _set_timer(self, node: Node) -> None:
        wake = node.core.wake_at()
        if wake is not None and wake < node.timer_at:
            node.timer_at = wake
            self.clock.at(max(wake, self.clock.now), self._wake, node, wake)

    def _wake(self, node: Node, due: float) -> None:
        if node.timer_at != due or node.power is not Power.ON or node.draining:
            return
        if node.slow_s and self.clock.now < node.free_at:
            self.clock.at(node.free_at, self._wake, node, due)
            return
        node.timer_at = _NEVER
        self._tick(node)

    def _tick(self, node: Node) -> None:
        now = self.clock.now
        wake = node.core.wake_at()
        if wake is not None and wake <= now:
            if self._hash is not None:
                self._hash.update(f"{now:.9f} {node.name} tick\n".encode())
            effects = node.core.tick(now)
            node.free_at = now + node.slow_s
            if effects:
                self._carry_out(node, effects)
            if self.checker is not None:
                self.checker.after(node.core, node.name)
        self._set_timer(node)

    def _queue(self, node: Node, event: Input) -> None:
        if len(node.inbox) < SOCKET_BUFFER:
            node.inbox.append(event)
        if not node.draining:
            node.draining = True
            self.clock.at(max(self.now, node.free_at), self._drain, node)

    def _drain(self, node: Node) -> None:
        """Read what waits as an event loop does: a batch of inputs, then the timers, then the next batch."""
        if node.power is not Power.ON:
            node.draining = False
            return
        batch = 1 if node.slow_s else 64
        while node.inbox:
            for _ in range(min(batch, len(node.inbox))):
                self._step(node, node.inbox.popleft())
            self._tick(node)
            if node.slow_s:
                node.free_at = self.now + node.slow_s
                self.clock.at(node.free_at, self._drain, node)
                return
        node.draining = False
        node.timer_at = _NEVER
        self._tick(node)

    # What comes out of a core, and what the network brings.

    def _carry_out(self, node: Node, effects: Sequence[Effect]) -> None:
        for effect in effects:
            kind = type(effect)
            if kind is SendPacket:
                self._send(node, effect)  # type: ignore[arg-type]  # type() narrows nothing, and this is the hot path
            elif isinstance(effect, OpenStream):
                to = self._at.get(int(effect.to.address)) if effect.to.port == PORT else None
                self.network.connect(node, effect.stream, to, effect.data)
            elif isinstance(effect, WriteStream):
                self.network.write(node, effect.stream, effect.data)
            elif isinstance(effect, CloseStream):
                self.network.close(node, effect.stream)
            elif isinstance(effect, CheckLiveness):
                to = self._at.get(int(effect.to.address)) if effect.to.port == PORT else None
                self.network.knock(node, to, effect.timeout_s, partial(self._knocked, node, effect.check))
            elif isinstance(effect, Notify):
                self._note(node, effect.event)
            elif isinstance(effect, JoinAnswered | JoinFailed | LeaveSpread):
                self.changes += 1
                node.answers.append(effect)

    def _note(self, node: Node, event: MemberEvent) -> None:
        self.changes += 1
        node.log.append((self.now, event))
        if self._hash is not None:
            self.trace.append(f"{self.now:.9f} {node.name} {event}")
        if isinstance(event, Left) and event.cause is Cause.FAILED:
            victim = self.nodes.get(event.member.name)
            if victim is not None and victim.power in {Power.ON, Power.STOPPED} and victim.name not in self.disturbed:
                why = "stopped" if victim.power is Power.STOPPED else ""
                self.wrong_deaths.append(WrongDeath(self.now, node.name, victim.name, why))

    def _send(self, node: Node, packet: SendPacket) -> None:
        if not node.cable:
            self.clock.after(0.0, self.give, node, PacketRefused(packet.to))
            return
        node.packets_sent += 1
        node.bytes_sent += len(packet.data)
        to = self._at.get(int(packet.to.address))
        if to is not None:
            self.network.send(node, to, packet.data)

    def _packet(self, to: Node, sender: Node, data: bytes) -> None:
        if to.power is Power.ON or to.power is Power.STOPPED:
            self.give(to, PacketReceived(sender.endpoint, data))

    def _knocked(self, node: Node, check: int, outcome: str) -> None:
        self.give(node, LivenessChecked(check, Liveness(outcome)))

    def _stream_event(self, node: Node, what: str, number: int, data: bytes, peer: Node | None) -> None:
        if what == "received":
            self.give(node, StreamReceived(number, data))
        elif what == "accepted":
            assert peer is not None
            self.give(node, StreamAccepted(number, peer.endpoint))
        elif what == "connected":
            self.give(node, StreamConnected(number))
        else:
            self.give(node, StreamEnded(number, _FAILURES.get(what)))
