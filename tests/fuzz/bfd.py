"""BFD packets changed at random: none raises, and none that is not the peer's moves a session.

`python -m tests.fuzz.bfd --count 1000000`; a failing input is printed in hex. tests/fuzz/test_bfd.py runs a short form of it.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import count
from typing import Final

from speaker.bfd.hub import SINGLE_HOP_PORT, TTL, Datagram, Hub, Path, Wanted
from speaker.bfd.packet import ControlPacket, PacketError, State, decode, encode
from speaker.bfd.session import Timers
from tests.fuzz.runs import drive

PEER: Final = ip_address("192.0.2.1")
HERE: Final = ip_address("192.0.2.10")
_CHANGES_MAX: Final = 4


def _from_peer(state: State, your: int) -> bytes:
    return encode(
        ControlPacket(
            state=state,
            my_discriminator=99,
            your_discriminator=your,
            desired_min_tx_us=300_000,
            required_min_rx_us=300_000,
            detect_multiplier=3,
        )
    )


GOOD: Final = [_from_peer(state, your) for state in State for your in (0, 1, 2) if your or state < State.INIT]


@dataclass
class Outcome:
    """What became of the inputs."""

    refused: int = 0
    read: int = 0


class Target:
    """A session that is up, and strangers' packets: sound ones with a wrong TTL, port, source or discriminator, and broken ones."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)  # noqa: S311  (repeatable on purpose)
        self._hub = Hub(lambda: 0.0, count(1).__next__)
        self._path = Path(PEER)
        self._hub.apply([Wanted(self._path, Timers())], 0.0)
        for state, your in ((State.DOWN, 0), (State.INIT, 1)):
            self._hub.receive(self._arrived(_from_peer(state, your)), 0.0)
        assert self._hub.sessions[self._path].state is State.UP
        self._before = self._facts()
        self.outcome = Outcome()

    @staticmethod
    def _arrived(data: bytes, *, ttl: int = TTL, port: int = SINGLE_HOP_PORT, source: str = "192.0.2.1") -> Datagram:
        return Datagram(data, ip_address(source), HERE, port, ttl, "eth0")

    def _facts(self) -> tuple[object, ...]:
        session = self._hub.sessions[self._path]
        return (
            session.state, session.diagnostic, session.peer_state, session.peer_discriminator, session.detection_time_us,
            session.transmit_interval_us, session.wake_at(),
        )  # fmt: skip

    def next(self) -> bytes:
        """Return a packet changed in a few places."""
        chance = self._chance
        data = bytearray(chance.choice(GOOD))
        for _ in range(chance.randint(0, _CHANGES_MAX)):
            at = chance.randrange(len(data) + 1)
            match chance.randrange(4):
                case 0 if at < len(data):
                    data[at] ^= 1 << chance.randrange(8)
                case 1 if at < len(data):
                    data[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF))
                case 2:
                    del data[at : at + chance.randint(1, 8)]
                case _:
                    data[at:at] = chance.randbytes(chance.randint(1, 8))
        return bytes(data)

    def feed(self, data: bytes) -> None:
        """Feed an input as a stranger's; it must be refused or ignored. AssertionError when it moved the session."""
        chance = self._chance
        stranger = chance.choice(({"ttl": chance.randrange(TTL)}, {"port": 4784}, {"source": "192.0.2.66"}))
        effects = self._hub.receive(self._arrived(data, **stranger), 0.1)
        assert not effects
        assert self._facts() == self._before
        try:
            packet = decode(data)
        except PacketError:
            self.outcome.refused += 1
            assert not self._hub.receive(self._arrived(data), 0.1)
            assert self._facts() == self._before
            return
        self.outcome.read += 1
        if packet.your_discriminator not in {0, 1}:  # Sound, from the right place, for a session that there is not.
            assert not self._hub.receive(self._arrived(data), 0.1)
            assert self._facts() == self._before


def main(words: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit status."""
    made = argparse.ArgumentParser(prog="python -m tests.fuzz.bfd", description=__doc__)
    made.add_argument("--count", type=int, default=50_000)
    made.add_argument("--seed", type=int, default=0)
    asked = made.parse_args(words)
    target = Target(asked.seed)
    drive(
        asked.count, asked.seed, target.next, target.feed, bytes.hex,
        lambda rate: f"{target.outcome.refused} refused, {target.outcome.read} read, {rate}",
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
