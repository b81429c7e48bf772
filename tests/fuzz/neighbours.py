"""ARP, Neighbour Discovery and netlink messages changed at random: none raises, and nothing malformed is answered.

`python -m tests.fuzz.neighbours --count 1000000`; a failing input is printed in hex. tests/fuzz/test_neighbours.py runs a short
form of it. What is well-formed is judged here anew from the RFCs, not by asking the product.
"""

from __future__ import annotations

import argparse
import random
import socket
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from pyroute2.netlink.rtnl.marshal import MarshalRtnl
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether

from config.model import InterfaceName
from speaker.layer2 import arp, ndp
from speaker.layer2.links import FAILURES, learn
from speaker.layer2.responder import Claimed, Face, Faces, Heard, Own, Responder, SendFrame
from speaker.world import Link
from tests.fuzz.runs import drive

ETH0: Final = InterfaceName("eth0")
MAC: Final = bytes.fromhex("020000000001")
ASKER: Final = "02:00:00:00:00:aa"
VIP: Final = IPv4Address("192.0.2.10")
VIP6: Final = IPv6Address("2001:db8::10")
_CHANGES_MAX: Final = 4
_NETLINK_SHARE: Final = 0.05
"""pyroute2 takes half a millisecond for a link."""


def _arp(**fields: object) -> bytes:
    asked = {"op": 1, "hwsrc": ASKER, "psrc": "192.0.2.99", "pdst": str(VIP)} | fields
    return bytes(Ether(src=ASKER, dst="ff:ff:ff:ff:ff:ff", type=0x0806) / ARP(**asked)).ljust(60, b"\0")


def _ndp(message: object, source: str = "fe80::aa", destination: str = "ff02::1:ff00:10") -> bytes:
    return bytes(Ether(src=ASKER, dst="33:33:ff:00:00:10") / IPv6(src=source, dst=destination, hlim=255) / message)


SLLA: Final = ICMPv6NDOptSrcLLAddr(lladdr=ASKER)
GOOD: Final = [
    _arp(),
    _arp(psrc="0.0.0.0"),
    _arp(psrc=str(VIP)),
    _arp(op=2, psrc=str(VIP)),
    _ndp(ICMPv6ND_NS(tgt=str(VIP6)) / SLLA),
    _ndp(ICMPv6ND_NS(tgt=str(VIP6)), destination=str(VIP6)),
    _ndp(ICMPv6ND_NS(tgt=str(VIP6)), source="::"),
    _ndp(ICMPv6ND_NA(tgt=str(VIP6), S=0, O=1) / ICMPv6NDOptDstLLAddr(lladdr=ASKER), destination="ff02::1"),
]


def netlink_messages() -> list[bytes]:
    """The kernel's own messages about the links and IPv6 addresses that are here."""
    found: list[bytes] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as kernel:
        kernel.bind((0, 0))
        for kind, body in ((18, bytes(16)), (22, struct.pack("=BBBBI", socket.AF_INET6, 0, 0, 0, 0))):
            kernel.send(struct.pack("=IHHII", 16 + len(body), kind, 0x301, 1, 0) + body)
            ended = False
            while not ended:
                data = kernel.recv(1 << 16)
                while data:
                    length, answer = struct.unpack_from("=IH", data)
                    found.append(data[:length])
                    data, ended = data[(length + 3) // 4 * 4 :], ended or answer == 3
    return found


def _folded(frame: bytes) -> int:
    """The one's complement sum over pseudo-header and payload (RFC 8200 section 8.1)."""
    length = int.from_bytes(frame[18:20], "big")
    covered = frame[22:54] + length.to_bytes(4, "big") + b"\0\0\0\x3a" + frame[54 : 54 + length]
    covered += b"\0" * (len(covered) % 2)
    total = sum(int.from_bytes(covered[i : i + 2], "big") for i in range(0, len(covered), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def well_formed(frame: bytes) -> bool:
    """Whether a frame may be answered or believed: RFC 826, and RFC 4861 sections 7.1.1 and 7.1.2."""
    if frame[12:14] == b"\x08\x06":
        return (
            len(frame) >= 42 and frame[14:20] == bytes.fromhex("000108000604") and frame[20:22] in {b"\0\1", b"\0\2"}
            and not frame[22] & 1 and frame[22:28] != bytes(6)
        )  # fmt: skip
    length = int.from_bytes(frame[18:20], "big")
    end = 54 + length
    if (
        len(frame) < 78 or frame[12:14] != b"\x86\xdd" or frame[14] >> 4 != 6 or frame[20] != 58 or frame[21] != 255
        or frame[54] not in {135, 136} or frame[55] or length < 24 or end > len(frame) or _folded(frame) != 0xFFFF
        or frame[62] == 0xFF
    ):  # fmt: skip
        return False
    at, kinds = 78, set()
    while at < end:
        if at + 2 > end or not frame[at + 1] or at + 8 * frame[at + 1] > end:
            return False
        kinds.add(frame[at])
        at += 8 * frame[at + 1]
    if frame[54] == 136:
        return not (frame[38] == 0xFF and frame[58] & 0x40)
    if frame[22:38] == bytes(16):
        return frame[38:51] == IPv6Address("ff02::1:ff00:0").packed[:13] and 1 not in kinds
    return True


@dataclass
class Outcome:
    """What became of the inputs."""

    refused: int = 0
    read: int = 0
    answered: int = 0
    netlink: int = 0
    netlink_refused: int = 0


@dataclass
class Target:
    """A responder that owns an address of each family, and the links as netlink tells them."""

    seed: int
    answers: Callable[[bytes], bool] = well_formed
    outcome: Outcome = field(default_factory=Outcome)

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)  # noqa: S311  (repeatable on purpose)
        self._responder = Responder()
        self._responder.handle(Faces({ETH0: Face(MAC, link_local=IPv6Address("fe80::1").packed)}), 0.0)
        self._responder.handle(Own({VIP: frozenset({ETH0}), VIP6: frozenset({ETH0})}), 0.0)
        self._marshal = MarshalRtnl()
        self._kernel = netlink_messages()
        self._links: Mapping[int, Link] = {}

    def next(self) -> tuple[bytes, bool]:
        """Return a message changed in a few places, and whether it is netlink's."""
        chance = self._chance
        netlink = chance.random() < _NETLINK_SHARE
        data = bytearray(chance.choice(self._kernel if netlink else GOOD))
        for _ in range(chance.randint(0, _CHANGES_MAX)):
            at = chance.randrange(len(data) + 1)
            match chance.randrange(5):
                case 0 if at < len(data):
                    data[at] ^= 1 << chance.randrange(8)
                case 1 | 2 if at < len(data):
                    data[at] = chance.choice((0, 1, 2, 0x7F, 0x80, 0xFF))
                case 3:
                    del data[at : at + chance.randint(1, 8)]
                case _:
                    data[at:at] = chance.randbytes(chance.randint(1, 8))
        if not netlink and len(data) >= 78 and data[12:14] == b"\x86\xdd" and chance.random() < 0.8:
            _right_checksum(data)  # Or all that is wrong would be the checksum.
        return bytes(data), netlink

    def feed(self, data: bytes, *, netlink: bool) -> None:
        """Feed an input. AssertionError when something malformed was answered; whatever else comes out is a fault too."""
        if netlink:
            self._feed_netlink(data)
            return
        for read in (arp.read, ndp.read):
            message = read(data)
            if isinstance(message, arp.Drop | ndp.Drop):
                self.outcome.refused += 1
                continue
            self.outcome.read += 1
            for effect in self._responder.handle(Heard(ETH0, message), 1.0):
                assert self.answers(data), f"a malformed message led to {effect}"
                assert effect.address in {VIP, VIP6}
                if isinstance(effect, SendFrame):
                    self.outcome.answered += 1
                    assert not isinstance(arp.read(effect.frame), arp.Drop) or not isinstance(ndp.read(effect.frame), ndp.Drop)
                else:
                    assert isinstance(effect, Claimed)

    def _feed_netlink(self, data: bytes) -> None:
        self.outcome.netlink += 1
        try:
            messages = list(self._marshal.parse(data))
        except FAILURES:
            self.outcome.netlink_refused += 1  # The watch reads everything again.
            return
        for message in messages:
            self._links = learn(self._links, message)
        if len(self._links) > 64:
            self._links = {}


def _right_checksum(frame: bytearray) -> None:
    frame[56:58] = b"\0\0"
    frame[56:58] = (0xFFFF - _folded(bytes(frame))).to_bytes(2, "big")


def main(words: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit status."""
    made = argparse.ArgumentParser(prog="python -m tests.fuzz.neighbours", description=__doc__)
    made.add_argument("--count", type=int, default=50_000)
    made.add_argument("--seed", type=int, default=0)
    asked = made.parse_args(words)
    target = Target(asked.seed)
    drive(
        asked.count, asked.seed, target.next, lambda made: target.feed(made[0], netlink=made[1]),
        lambda made: f"{'netlink' if made[1] else 'frame'} {made[0].hex()}", lambda rate: f"{target.outcome}, {rate}",
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
