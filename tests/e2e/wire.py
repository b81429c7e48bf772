"""Send packets between machines of a lab and see which arrive. Sockets of this process in the machines' namespaces."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address

from lab import namespaces
from lab.topology import Machine, Topology
from lab.traffic import ETH_P_ARP, read_arp

ARRIVES_S = 5.0
SO_RCVBUFFORCE = 33  # linux/asm-generic/socket.h
_NUMBER = struct.Struct("!Id")


@dataclass(frozen=True, slots=True)
class Arrival:
    """A datagram that came: its number, and how long it took."""

    number: int
    took_s: float


class Path:
    """The way from one machine to another, tried with numbered datagrams, which keep their order."""

    def __init__(self, sender: socket.socket, receiver: socket.socket) -> None:
        self._sender = sender
        self._receiver = receiver
        self._next = 0

    def send(self, count: int) -> range:
        """Send so many datagrams; returns their numbers."""
        numbers = range(self._next, self._next + count)
        for number in numbers:
            self._sender.send(_NUMBER.pack(number, time.monotonic()))
        self._next = numbers.stop
        return numbers

    def arrivals(self, last: int) -> list[Arrival]:
        """What arrives up to a datagram, which must. Whatever was sent before it and is not here is lost: order is kept."""
        found: list[Arrival] = []
        self._receiver.settimeout(ARRIVES_S)
        while not found or found[-1].number != last:
            number, sent = _NUMBER.unpack(self._receiver.recv(64))
            found.append(Arrival(number, time.monotonic() - sent))
        return found

    def works(self) -> bool:
        """Whether a datagram arrives. Asks until one does: an address may have to be resolved first."""
        deadline = time.monotonic() + ARRIVES_S
        self._receiver.settimeout(0.1)
        while time.monotonic() < deadline:
            last = self.send(1)[-1]
            try:
                while _NUMBER.unpack(self._receiver.recv(64))[0] != last:
                    pass
            except TimeoutError:
                continue
            return True
        return False


@contextmanager
def path(topology: Topology, sender: str, receiver: str) -> Iterator[Path]:
    """A Path between two machines."""
    with _udp(topology, sender) as out, _udp(topology, receiver) as into:
        out.connect((str(topology.machine(receiver).ip), into.getsockname()[1]))
        yield Path(out, into)


def _udp(topology: Topology, name: str) -> socket.socket:
    with namespaces.inside(topology.netns(name)):
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 4_000_000)
    made.bind((str(topology.machine(name).ip), 0))
    return made


class Questions:
    """ARP questions from a machine, asked past its kernel, and who answered."""

    def __init__(self, packets: socket.socket, asker: Machine) -> None:
        self._packets = packets
        self._asker = asker

    def ask(self, machine: Machine) -> None:
        """Broadcast: who has the address of this machine?"""
        self._ask(machine.ip)

    def macs_of(self, address: IPv4Address, *, within_s: float = 0.4) -> frozenset[str]:
        """The MAC addresses of all who answer for an address in this time."""
        self._ask(address)
        found: set[str] = set()
        ends = time.monotonic() + within_s
        while (left := ends - time.monotonic()) > 0:
            self._packets.settimeout(left)
            try:
                seen = read_arp(self._packets.recv(2048), at=0.0)
            except TimeoutError:
                break
            if seen is not None and seen.operation == 2 and seen.target == str(self._asker.ip) and seen.sender == str(address):
                found.add(seen.sender_mac)
        return frozenset(found)

    def _ask(self, address: IPv4Address) -> None:
        mac = bytes.fromhex(self._asker.mac.replace(":", ""))
        head = b"\xff" * 6 + mac + ETH_P_ARP.to_bytes(2, "big")
        body = struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, mac, self._asker.ip.packed, bytes(6), address.packed)
        self._packets.send(head + body)

    def answers_until(self, machine: Machine) -> list[str]:
        """The addresses that were answered for, up to an answer of this machine, which is asked here and must answer."""
        self.ask(machine)
        found: list[str] = []
        self._packets.settimeout(ARRIVES_S)
        while str(machine.ip) not in found:
            seen = read_arp(self._packets.recv(2048), at=0.0)
            if seen is not None and seen.operation == 2 and seen.target == str(self._asker.ip):
                found.append(seen.sender)
        return found


@contextmanager
def questions(topology: Topology, asker: str) -> Iterator[Questions]:
    """Questions from a machine."""
    with namespaces.inside(topology.netns(asker)):
        packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ARP))
    with packets:
        packets.bind(("eth0", ETH_P_ARP))
        yield Questions(packets, topology.machine(asker))


def transfer(topology: Topology, sender: str, receiver: str, size: int) -> int:
    """Send so many bytes by TCP, in big segments; returns how many arrived."""
    content = bytes(size)
    address = str(topology.machine(receiver).ip)
    with namespaces.inside(topology.netns(receiver)):
        listener = socket.create_server((address, 0))
    with namespaces.inside(topology.netns(sender)):
        out = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with listener, out:
        out.settimeout(ARRIVES_S)
        out.connect((address, listener.getsockname()[1]))
        into, _ = listener.accept()
        with into:
            into.settimeout(ARRIVES_S)
            out.setblocking(False)
            sent = arrived = 0
            while arrived < size:
                if sent < size:
                    try:
                        sent += out.send(content[sent : sent + 65536])
                        continue
                    except BlockingIOError:
                        pass
                arrived += len(into.recv(1 << 20))
    return arrived
