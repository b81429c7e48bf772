"""One member on a real network: drives the core with sockets, the clock of the event loop and real randomness.

Used by speaker/membership.py. It owns the transport and one timer, and nothing else decides anything here. Faults of the
network never raise; a fault of this code ends the agent and is raised by run().
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from memberlist.chance import Chance
from memberlist.config import PORT, Config
from memberlist.core import Core
from memberlist.effects import (
    BroadcastMessage,
    CheckLiveness,
    CloseStream,
    Effect,
    Endpoint,
    Input,
    Join,
    JoinAnswered,
    JoinFailed,
    Leave,
    LeaveSpread,
    Member,
    MemberEvent,
    Notify,
    OpenStream,
    SendMessage,
    SendPacket,
    SendReliably,
    SetUserState,
    UpdateMeta,
    WriteStream,
)
from memberlist.errors import ConfigError
from memberlist.keyring import NONCE_LENGTH, Keyring
from memberlist.members import NO_VETOES, Vetoes
from memberlist.seeds import parse
from memberlist.transport import Transport


class Agent:
    """One member: start, join, leave, stop.

    `on_event` is called for every MemberEvent, in order, from the event loop; it must return quickly and not raise. With
    `keyring` None the gossip is plain text; keys may be added to it, used and removed while the member runs. `vetoes` is asked
    before members are let in. `rng` is for tests; nonces always come from the operating system.
    """

    def __init__(
        self,
        config: Config,
        *,
        keyring: Keyring | None = None,
        on_event: Callable[[MemberEvent], None],
        vetoes: Vetoes = NO_VETOES,
        rng: Chance | None = None,
    ) -> None:
        self._config = config
        self._vetoes = vetoes
        self._keyring = keyring
        self._on_event = on_event
        self._chance: Chance = rng if rng is not None else random.Random()  # noqa: S311  (whom to ask, not a secret)
        self._transport: Transport | None = None
        self._core: Core | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._inputs: deque[Input] = deque()
        self._stepping = False
        self._stopped: asyncio.Future[None] | None = None
        self._last_token = 0
        self._joins: dict[int, asyncio.Future[bool]] = {}
        self._leaves: list[asyncio.Future[None]] = []

    # Life.

    async def start(self) -> None:
        """Bind UDP and TCP to the same port and begin to answer. OSError when the address or port cannot be had."""
        assert self._transport is None, "an agent is started once"
        transport = Transport(self._take)
        transport.open(self._config.bind_address, self._config.bind_port)
        loop = asyncio.get_running_loop()
        self._transport = transport
        self._stopped = loop.create_future()
        self._core = Core(
            self._config,
            transport.port,
            keyring=self._keyring,
            chance=self._chance,
            nonces=_operating_system_nonce,
            vetoes=self._vetoes,
        )
        with self._step():
            self._carry_out(self._core.start(loop.time()))

    async def run(self) -> None:
        """Start unless started, then wait until stop(); raises what broke the agent, if anything did."""
        if self._transport is None:
            await self.start()
        assert self._stopped is not None
        try:
            await asyncio.shield(self._stopped)
        finally:
            await self.stop()

    async def stop(self) -> None:
        """Close all sockets at once, without a word to the others: to them it is a crash unless leave() came first."""
        self._close()
        if self._stopped is not None and not self._stopped.done():
            self._stopped.set_result(None)

    def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.close()
        self._core = None
        self._inputs.clear()
        for answer in self._joins.values():
            answer.cancel()
        for spread in self._leaves:
            spread.cancel()
        self._joins.clear()
        self._leaves.clear()

    # What the owner asks.

    @property
    def endpoint(self) -> Endpoint:
        """Where this member is bound; the port is the real one, also when 0 was asked for."""
        assert self._transport is not None
        return Endpoint(self._config.bind_address, self._transport.port)

    def members(self) -> tuple[Member, ...]:
        """Return who is alive or suspect, this member included, sorted by name; nobody unless the agent is running."""
        return self._core.members.usable() if self._core is not None else ()

    def rejections(self) -> dict[str, int]:
        """Return how many packets, streams and statements were refused, by kind."""
        return self._core.refusals() if self._core is not None else {}

    def probes_answered(self) -> int:
        """Return how many probes of this member were answered since it started."""
        return self._core.probes_answered if self._core is not None else 0

    @property
    def profile(self) -> str:
        """The profile in effect; "" while the agent does not run, and for a member with numbers of its own."""
        return self._core.profile if self._core is not None else ""

    @property
    def isolated(self) -> bool:
        """Whether this member takes itself for cut off from most others; see isolation.py."""
        return self._core is not None and self._core.isolation.active

    def counters(self) -> dict[str, float]:
        """Return how the detection fares: probes answered and voided, share of pings lost, own health, longest stall."""
        if self._core is None:
            return {}
        return {
            "probes_answered": self._core.probes_answered,
            "probes_voided": self._core.probes_voided,
            "pings_lost_share": self._core.pings_lost or 0.0,
            "health": self._core.health,
            "longest_stall_s": self._core.lag.longest_s,
        }

    async def join(self, seeds: Sequence[tuple[str, int] | str], *, timeout_s: float = 10.0) -> int:
        """Exchange member tables with every seed, all at once; return how many answered.

        A seed is a host and a port, or text as seeds.parse reads it. Seeds that are unreachable, do not resolve, refuse the
        key or are this member itself do not count, and nothing is raised for them.

        Raises:
            ConfigError: the text of a seed is none.

        """
        places = [parse(seed, port=self._config.bind_port or PORT) if isinstance(seed, str) else seed for seed in seeds]
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        waiting: list[asyncio.Future[bool]] = []
        for seed in await self._resolved(places, timeout_s):
            if self._core is None:
                break
            self._last_token += 1
            answer: asyncio.Future[bool] = loop.create_future()
            self._joins[self._last_token] = answer
            waiting.append(answer)
            self._take(Join(self._last_token, seed))
        if not waiting:
            return 0
        done, _ = await asyncio.wait(waiting, timeout=max(0.0, deadline - loop.time()))
        self._joins = {token: answer for token, answer in self._joins.items() if answer not in waiting}
        return sum(answer.result() for answer in done if not answer.cancelled())

    async def _resolved(self, seeds: Sequence[tuple[str, int]], timeout_s: float) -> list[Endpoint]:
        """Return the endpoints of the seeds, each once, without this member's own."""
        found: dict[Endpoint, None] = {}
        names: list[tuple[str, int]] = []
        for host, port in seeds:
            try:
                found[Endpoint.of(host, port)] = None
            except ValueError:
                names.append((host, port))
        loop = asyncio.get_running_loop()
        for host, port in names:
            try:
                async with asyncio.timeout(timeout_s):
                    answers = await loop.getaddrinfo(host, port)
            except (OSError, UnicodeError, TimeoutError):
                continue
            found |= {Endpoint.of(str(answer[4][0]), port): None for answer in answers}
        if self._core is not None:
            found.pop(self._core.members.own.endpoint, None)
        return list(found)

    async def leave(self, *, timeout_s: float) -> None:
        """Tell the others that this member goes; return once that is spread or the time is over. Then call stop()."""
        if self._core is None:
            return
        spread: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._leaves.append(spread)
        self._take(Leave())
        await asyncio.wait([spread], timeout=timeout_s)

    def update_meta(self, meta: bytes) -> None:
        """Gossip other metadata.

        Raises:
            ConfigError: it is longer than Config.meta_max.

        """
        if len(meta) > self._config.meta_max:
            raise ConfigError(f"meta has {len(meta)} bytes; at most {self._config.meta_max} may be gossiped")
        self._take(UpdateMeta(meta))

    # The application's own messages.

    def send(self, to: Endpoint, payload: bytes) -> None:
        """Send bytes to a member in one packet, which may get lost; beyond some 1300 bytes use send_reliably."""
        self._take(SendMessage(to, payload))

    def send_reliably(self, to: Endpoint, payload: bytes) -> None:
        """Send bytes to a member over a stream."""
        self._take(SendReliably(to, payload))

    def broadcast(self, payload: bytes) -> None:
        """Gossip bytes to all members; what does not fit a packet is dropped."""
        self._take(BroadcastMessage(payload))

    def set_user_state(self, state: bytes, *, ack_payload: bytes = b"") -> None:
        """Send bytes with every exchange of tables from now on, and others with every ack of a ping."""
        self._take(SetUserState(state, ack_payload))

    # The machine.

    def _take(self, event: Input) -> None:
        """Feed the core. An input that comes while effects are being carried out waits until they are."""
        if self._core is None:
            return
        self._inputs.append(event)
        if not self._stepping:
            with self._step():
                pass

    def _tick(self) -> None:
        self._timer = None
        if self._core is not None:
            assert self._transport is not None
            self._transport.read_waiting()
        if self._core is not None:
            with self._step():
                self._carry_out(self._core.tick(asyncio.get_running_loop().time()))

    @contextmanager
    def _step(self) -> Iterator[None]:
        """Do the body, then all inputs that wait, then set the timer. A fault of this code closes the agent and is kept."""
        self._stepping = True
        sound = False
        try:
            yield
            while self._inputs and self._core is not None:
                self._carry_out(self._core.handle(self._inputs.popleft(), asyncio.get_running_loop().time()))
            self._set_timer()
            sound = True
        finally:
            self._stepping = False
            if not sound:
                self._close()
                assert self._stopped is not None
                if not self._stopped.done():
                    self._stopped.set_exception(RuntimeError("gossip stopped by a fault of its own code"))

    def _set_timer(self) -> None:
        wake_at = self._core.wake_at() if self._core is not None else None
        if self._timer is not None:
            if self._timer.when() == wake_at:
                return
            self._timer.cancel()
            self._timer = None
        if wake_at is not None:
            self._timer = asyncio.get_running_loop().call_at(wake_at, self._tick)

    def _carry_out(self, effects: Sequence[Effect]) -> None:
        transport = self._transport
        assert transport is not None
        for effect in effects:
            match effect:
                case SendPacket(to=to, data=data):
                    transport.send(to, data)
                case OpenStream(stream=stream, to=to, data=data):
                    transport.open_stream(stream, to, data)
                case WriteStream(stream=stream, data=data):
                    transport.write_stream(stream, data)
                case CloseStream(stream=stream):
                    transport.close_stream(stream)
                case CheckLiveness(check=check, to=to, timeout_s=timeout_s):
                    transport.check_liveness(check, to, timeout_s)
                case Notify(event=event):
                    self._on_event(event)
                case JoinAnswered(token=token):
                    self._conclude_join(token, answered=True)
                case JoinFailed(token=token):
                    self._conclude_join(token, answered=False)
                case LeaveSpread():
                    for spread in self._leaves:
                        if not spread.done():
                            spread.set_result(None)
                    self._leaves.clear()

    def _conclude_join(self, token: int, *, answered: bool) -> None:
        answer = self._joins.pop(token, None)
        if answer is not None and not answer.done():
            answer.set_result(answered)


def _operating_system_nonce() -> bytes:
    return os.urandom(NONCE_LENGTH)
