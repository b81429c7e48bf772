"""A speaker's engine in one network namespace, a client's kernel in another, and a cable between them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass

from pyroute2 import netns

from config.model import InterfaceName, IPAddress
from speaker.layer2.engine import Engine
from speaker.layer2.links import LinkWatch
from tests.wires import Lines

PORT = InterfaceName("uplink")
HERE = frozenset({PORT})
NOWHERE: frozenset[InterfaceName] = frozenset()
SPEAKER_MAC = "02:00:00:00:10:01"
STRANGER_MAC = "02:00:00:00:10:99"
DEADLINE_S = 10.0


class Tally:
    """Counters for the engine."""

    def __init__(self) -> None:
        self.asked = self.answered = self.announced = 0

    def request_received(self, address: IPAddress) -> None:
        self.asked += 1

    def response_sent(self, address: IPAddress) -> None:
        self.answered += 1

    def gratuitous_sent(self, address: IPAddress) -> None:
        self.announced += 1

    def first_announced(self, address: IPAddress, took_s: float) -> None:
        return


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


@dataclass
class Wire:
    """Two namespaces and the engine in the first."""

    speaker: str
    client: str
    engine: Engine
    links: LinkWatch
    tally: Tally
    log: Lines

    def neighbour(self, address: IPAddress) -> str:
        """The MAC address that the client's kernel holds for an address, or nothing."""
        entries = json.loads(ip("-n", self.client, "-j", "neigh", "show", "to", str(address)) or "[]")
        return next((str(entry["lladdr"]) for entry in entries if "lladdr" in entry), "")

    def forget(self) -> None:
        ip("-n", self.client, "neigh", "flush", "all")

    async def ask(self, address: IPAddress) -> str:
        """Make the client's kernel ask for an address; the MAC address it was told, or nothing if nobody answered."""
        netns.pushns(self.client)
        try:
            family = socket.AF_INET if address.version == 4 else socket.AF_INET6
            with socket.socket(family, socket.SOCK_DGRAM) as out:
                out.sendto(b"anyone?", (str(address), 9))
        finally:
            netns.popns()
        await until(lambda: self._settled(address), f"the client's kernel is still asking for {address}")
        return self.neighbour(address)

    def _settled(self, address: IPAddress) -> bool:
        entries = json.loads(ip("-n", self.client, "-j", "neigh", "show", "to", str(address)) or "[]")
        return any({"REACHABLE", "STALE", "DELAY", "FAILED"} & set(entry["state"]) for entry in entries)


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition, with a deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"after {DEADLINE_S:g} s: {what}"
        await asyncio.sleep(0.02)


@contextlib.contextmanager
def namespaces(*names: str) -> Iterator[None]:
    made: list[str] = []
    try:
        for name in names:
            ip("netns", "add", name)
            made.append(name)
            ip("-n", name, "link", "set", "lo", "up")
        yield
    finally:
        for name in made:
            ip("netns", "del", name)


@contextlib.asynccontextmanager
async def a_cable() -> AsyncIterator[Wire]:
    """The two namespaces, with addresses of both families at the client's end."""
    prefix = f"lbkn{os.getpid()}"
    speaker, client = f"{prefix}s", f"{prefix}c"
    with namespaces(speaker, client):
        ip("-n", speaker, "link", "add", PORT, "address", SPEAKER_MAC, "type", "veth", "peer", "name", "eth0", "netns", client)
        ip("-n", client, "address", "add", "198.18.0.99/24", "dev", "eth0")
        for name in (speaker, client):  # Link-local addresses are there at once.
            ip("netns", "exec", name, "sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad")
            ip("netns", "exec", name, "sh", "-c", "for d in /proc/sys/net/ipv6/conf/*; do echo 0 > $d/accept_dad; done")
        ip("-n", client, "address", "add", "2001:db8:20::99/64", "dev", "eth0", "nodad")
        for name, device in ((speaker, PORT), (client, "eth0")):
            ip("-n", name, "link", "set", device, "up")
        for version in (4, 6):
            retrans = f"/proc/sys/net/ipv{version}/neigh/eth0/retrans_time_ms"
            ip("netns", "exec", client, "sh", "-c", f"echo 200 > {retrans}")
        netns.pushns(speaker)
        try:
            log, tally, dirty = Lines(), Tally(), asyncio.Event()
            engine, watch = Engine(tally, log, claimed=lambda _: None), LinkWatch(dirty, log)
            async with asyncio.TaskGroup() as group:
                watching = group.create_task(watch.run(), name="links")
                try:
                    await until(
                        lambda: any(link.name == PORT and link.carrier and link.link_local for link in watch.links),
                        "no carrier",
                    )
                    ready = ("-n", client, "-6", "address", "show", "dev", "eth0", "scope", "link", "-tentative")
                    await until(lambda: "inet6" in ip(*ready), "the client has no link-local address")
                    engine.show(watch.links)
                    yield Wire(speaker, client, engine, watch, tally, log)
                finally:
                    engine.close()
                    watching.cancel()
        finally:
            netns.popns()
