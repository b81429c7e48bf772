"""One BFD session in asynchronous mode: the state machine and the timers of RFC 5880 section 6.8.

Driven by engine.py, one for each peer. Packets that reach it were read by packet.decode and belong to it. It decides when to
send, what, and when the path counts as broken; it knows no socket, no clock and no randomness, and does not know what the
session is good for. Demand mode is refused: a peer that asks for it goes on being sent packets. Echo is not offered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from speaker.bfd.packet import ControlPacket, Diagnostic, Refusal, State

SLOW_START_US: Final = 1_000_000
"""The least interval of packets while a session is not up (RFC 5880 section 6.8.3)."""
JITTER_MAX: Final = 0.25
"""Periodic packets come up to so much sooner than their interval (RFC 5880 section 6.8.7) ..."""
JITTER_MIN_OF_ONE: Final = 0.10
"""... and at least so much when a single missing packet breaks the session."""
FAREWELL_PACKETS: Final = 3
"""So often a peer that does not show that it heard is told that this session ends on purpose."""
_US: Final = 1_000_000

Transition = tuple[State, Diagnostic]

TRANSITIONS: Final[Mapping[tuple[State, State], Transition]] = MappingProxyType(
    {
        (State.DOWN, State.DOWN): (State.INIT, Diagnostic.NONE),
        (State.DOWN, State.INIT): (State.UP, Diagnostic.NONE),
        (State.INIT, State.ADMIN_DOWN): (State.DOWN, Diagnostic.NEIGHBOR_SIGNALED_DOWN),
        (State.INIT, State.INIT): (State.UP, Diagnostic.NONE),
        (State.INIT, State.UP): (State.UP, Diagnostic.NONE),
        (State.UP, State.ADMIN_DOWN): (State.DOWN, Diagnostic.NEIGHBOR_SIGNALED_DOWN),
        (State.UP, State.DOWN): (State.DOWN, Diagnostic.NEIGHBOR_SIGNALED_DOWN),
    }
)
"""(own state, received state) → new state and why (RFC 5880 section 6.8.6). What is not named changes nothing."""


@dataclass(frozen=True, slots=True)
class Timers:
    """What the operator wants of a session. Intervals in microseconds; a passive session waits for the peer to begin."""

    desired_min_tx_us: int = 300_000
    required_min_rx_us: int = 300_000
    detect_multiplier: int = 3
    passive: bool = False


@dataclass(frozen=True, slots=True)
class Received:
    """Input: a packet of this session arrived."""

    packet: ControlPacket


@dataclass(frozen=True, slots=True)
class Change:
    """Input: the operator wants other timers."""

    timers: Timers


@dataclass(frozen=True, slots=True)
class Disable:
    """Input: end the session on purpose; Ended follows."""


Input = Received | Change | Disable


@dataclass(frozen=True, slots=True)
class Send:
    """Effect: send this packet now."""

    packet: ControlPacket


@dataclass(frozen=True, slots=True)
class Changed:
    """Effect: the session is in another state. `peer_diagnostic` is what the peer last gave as its reason."""

    state: State
    before: State
    diagnostic: Diagnostic
    peer_state: State
    peer_diagnostic: int


@dataclass(frozen=True, slots=True)
class Ignored:
    """Effect: a packet changed nothing because of the state the session is in."""

    refusal: Refusal


@dataclass(frozen=True, slots=True)
class Ended:
    """Effect: the peer was told that the session ends; it may be forgotten."""


Effect = Send | Changed | Ignored | Ended


class Session:
    """The machine: handle(), tick() and wake_at(). Times are seconds of any clock that only goes forward."""

    def __init__(self, timers: Timers, discriminator: int, chance: Callable[[], float]) -> None:
        """`discriminator` is not 0 and no other session's here; `chance` returns floats in [0, 1), for the jitter."""
        self.discriminator = discriminator
        self.timers = timers
        self.state = State.DOWN
        self.diagnostic = Diagnostic.NONE
        self.peer_state = State.DOWN
        self.peer_diagnostic = 0
        self.peer_discriminator = 0
        self.peer_demands = False
        self._chance = chance
        self._peer_min_rx_us = 1
        self._peer_desired_tx_us = SLOW_START_US
        self._peer_multiplier = 1
        self._polling = False
        self._tx_until_final_us = 0
        self._rx_until_final_us = 0
        self._sent_at: float | None = None
        self._armed_for_us = 0
        self._send_at: float | None = None if timers.passive else 0.0
        self._expires_at: float | None = None
        self._farewells = 0

    @property
    def desired_min_tx_us(self) -> int:
        """bfd.DesiredMinTxInterval: what is told to the peer; at least a second while the session is not up."""
        wanted = self.timers.desired_min_tx_us
        return wanted if self.state is State.UP else max(wanted, SLOW_START_US)

    @property
    def transmit_interval_us(self) -> int:
        """The interval of periodic packets before jitter; 0 when the peer wants none (RFC 5880 section 6.8.7)."""
        if self._peer_min_rx_us == 0:
            return 0
        return max(self._tx_until_final_us or self.desired_min_tx_us, self._peer_min_rx_us)

    @property
    def detection_time_us(self) -> int:
        """How long nothing may arrive before the session is down (RFC 5880 section 6.8.4)."""
        required = max(self.timers.required_min_rx_us, self._rx_until_final_us)
        return self._peer_multiplier * max(required, self._peer_desired_tx_us)

    def wake_at(self) -> float | None:
        """Return when tick() must be called next; None when nothing will happen by itself."""
        return min((at for at in (self._send_at, self._expires_at) if at is not None), default=None)

    def handle(self, event: Input, now: float) -> list[Effect]:
        """Take an input; return what follows."""
        match event:
            case Received(packet=packet):
                return self._receive(packet, now)
            case Change(timers=timers):
                return self._change(timers, now)
            case Disable():
                return self._disable(now)

    def tick(self, now: float) -> list[Effect]:
        """Do what is due."""
        effects: list[Effect] = []
        if self._expires_at is not None and self._expires_at <= now:
            effects += self._expire(now)
        if self._send_at is not None and self._send_at <= now:
            effects += self._transmit(now)
        return effects

    # Receiving.

    def _receive(self, packet: ControlPacket, now: float) -> list[Effect]:
        if self.state is State.ADMIN_DOWN:
            return self._hear_after_the_end(packet, now)
        self.peer_discriminator = packet.my_discriminator
        self.peer_state, self.peer_diagnostic = packet.state, packet.diagnostic
        self.peer_demands = packet.demand
        self._peer_min_rx_us = packet.required_min_rx_us
        self._peer_desired_tx_us = packet.desired_min_tx_us
        self._peer_multiplier = packet.detect_multiplier
        if packet.final:
            self._polling = False
            self._tx_until_final_us = self._rx_until_final_us = 0
        effects: list[Effect] = []
        moved = TRANSITIONS.get((self.state, packet.state))
        if moved is not None:
            effects += self._move(*moved)
        self._expires_at = now + self.detection_time_us / _US
        if packet.poll:
            effects.append(Send(self._packet(final=True)))
        if moved is not None:
            effects += self._transmit(now)
        else:
            self._arm(now)
        return effects

    def _move(self, state: State, diagnostic: Diagnostic) -> list[Effect]:
        before, self.state, self.diagnostic = self.state, state, diagnostic
        self._tx_until_final_us = self._rx_until_final_us = 0
        self._polling = state is State.UP  # The interval just changed from slow start's to the wanted one.
        return [Changed(state, before, diagnostic, self.peer_state, self.peer_diagnostic)]

    def _expire(self, now: float) -> list[Effect]:
        """Nothing arrived for the detection time: who was there is forgotten, and a session that was on its way is down."""
        self._expires_at = None
        self.peer_discriminator = 0
        self.peer_demands = False
        effects: list[Effect] = []
        if self.state in {State.INIT, State.UP}:
            self.peer_state = State.DOWN
            effects += self._move(State.DOWN, Diagnostic.DETECTION_TIME_EXPIRED)
            effects += self._transmit(now)
        self._peer_min_rx_us = 1
        self._arm(now)
        return effects

    # The operator.

    def _change(self, timers: Timers, now: float) -> list[Effect]:
        if timers == self.timers:
            return []
        before = self.timers
        if self.state is State.UP:
            self._polling = True
            if timers.desired_min_tx_us > before.desired_min_tx_us:  # Slower only when the peer knows.
                self._tx_until_final_us = self._tx_until_final_us or before.desired_min_tx_us
            if timers.required_min_rx_us < before.required_min_rx_us:  # Stricter only when the peer knows.
                self._rx_until_final_us = max(self._rx_until_final_us, before.required_min_rx_us)
        self.timers = timers
        if self.state is State.UP:
            return self._transmit(now)
        self._arm(now)
        return []

    def _disable(self, now: float) -> list[Effect]:
        if self.state is State.ADMIN_DOWN:
            return []
        silent = not self._may_send()
        effects = self._move(State.ADMIN_DOWN, Diagnostic.ADMINISTRATIVELY_DOWN)
        self._polling = False
        self._expires_at = None
        if silent or not self.peer_discriminator:
            self._send_at = None
            return [*effects, Ended()]
        return [*effects, *self._transmit(now)]

    def _hear_after_the_end(self, packet: ControlPacket, now: float) -> list[Effect]:
        """RFC 5880 discards what arrives now. It shows whether the peer has heard, and one that has not is told again."""
        ignored = Ignored(Refusal.ADMIN_DOWN)
        if self._send_at is None:
            return [ignored]
        if packet.state in {State.DOWN, State.ADMIN_DOWN}:
            self._send_at = None
            return [ignored, Ended()]
        return [ignored, *self._transmit(now)]

    # Sending.

    def _may_send(self) -> bool:
        return bool(self.peer_discriminator) or not self.timers.passive

    def _transmit(self, now: float) -> list[Effect]:
        """Send a packet unless the role forbids it, and set the time of the next."""
        if not self._may_send():
            self._send_at = None
            return []
        effects: list[Effect] = [Send(self._packet())]
        self._sent_at, self._send_at = now, None
        if self.state is State.ADMIN_DOWN:
            self._farewells += 1
            if self._farewells >= FAREWELL_PACKETS:
                return [*effects, Ended()]
        self._arm(now)
        return effects

    def _arm(self, now: float) -> None:
        """Set the time of the next periodic packet, counted from the last one, unless it is set for this interval already."""
        interval_us = self.transmit_interval_us
        if interval_us == 0 or not self._may_send():
            self._send_at = None
            return
        if self._send_at is not None and interval_us == self._armed_for_us:
            return
        self._armed_for_us = interval_us
        if self._sent_at is None:
            self._send_at = now
            return
        least = JITTER_MIN_OF_ONE if self.timers.detect_multiplier == 1 else 0.0
        early = least + self._chance() * (JITTER_MAX - least)
        self._send_at = max(now, self._sent_at + interval_us * (1 - early) / _US)

    def _packet(self, *, final: bool = False) -> ControlPacket:
        return ControlPacket(
            state=self.state,
            diagnostic=self.diagnostic,
            my_discriminator=self.discriminator,
            your_discriminator=self.peer_discriminator,
            desired_min_tx_us=self.desired_min_tx_us,
            required_min_rx_us=self.timers.required_min_rx_us,
            detect_multiplier=self.timers.detect_multiplier,
            poll=self._polling and not final,
            final=final,
        )
