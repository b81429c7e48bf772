"""Ask by ARP for addresses from a machine, past its kernel. Called by the chaos run and by scenarios; captures hold the answers."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import struct
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network

from lab import namespaces, netns
from lab.topology import Machine, Topology

SEVERAL = IPv4Network("198.18.0.0/15")
"""In whose names questions are asked when each is to be known by its asker (RFC 2544: for tests)."""


def names() -> Iterator[IPv4Address]:
    """Askers, each another one for a long while."""
    return (SEVERAL[1 + number % (SEVERAL.num_addresses - 2)] for number in itertools.count())


def question(asker: Machine, address: IPv4Address, name: IPv4Address) -> bytes:
    """A broadcast frame of a machine that asks for an address in the name of an IP address (RFC 826)."""
    mac = bytes.fromhex(asker.mac.replace(":", ""))
    head = b"\xff" * 6 + mac + b"\x08\x06" + struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)
    return head + mac + name.packed + bytes(6) + address.packed


async def ask(
    topology: Topology, machine: str, addresses: Iterable[str], *, every_s: float, of: Iterator[IPv4Address] | None = None
) -> None:
    """Ask for one address after the other, round and round, in the machine's own name or those that `of` yields."""
    asker = topology.machine(machine)
    with namespaces.inside(topology.netns(machine)):
        packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    with packets:
        packets.bind((netns.NODE_LINK, 0))
        packets.setblocking(False)
        for address in itertools.cycle(addresses):
            with contextlib.suppress(OSError):  # The cable is pulled, or the queue is full.
                packets.send(question(asker, IPv4Address(address), asker.ip if of is None else next(of)))
            await asyncio.sleep(every_s)
