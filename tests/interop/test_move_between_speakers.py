"""An address moves from one speaker to another behind a bridge: do clients believe it, and does their traffic get there?

Two speakers' engines and two clients, each in a network namespace of its own, on a bridge that learns. One client has the kernel's
defaults, the other is as strict as sysctls make it. The judges are the clients' neighbour tables, and the echo requests that the
new owner's kernel counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

import pytest
from pyroute2 import netns

from config.model import InterfaceName, IPAddress
from speaker.layer2.engine import Engine
from speaker.world import Link
from tests.interop.cable import Tally, ip, namespaces, until
from tests.wires import Lines

pytestmark = pytest.mark.needs("root")

PORT = InterfaceName("port")
HERE = frozenset({PORT})
NOWHERE: frozenset[InterfaceName] = frozenset()
VIP, VIP6 = IPv4Address("198.18.0.10"), IPv6Address("2001:db8:20::10")
MACHINES = {"s1": 1, "s2": 2, "plain": 11, "strict": 12}
STRICT = (
    *(
        "ipv4/conf/port/arp_accept=0",
        "ipv4/conf/port/arp_ignore=2",
        "ipv4/conf/port/arp_announce=2",
        "ipv4/conf/port/arp_filter=1",
    ),
    *(
        "ipv4/conf/port/rp_filter=1",
        "ipv4/neigh/port/locktime=300",
        "ipv6/conf/port/ndisc_notify=0",
        "ipv6/conf/port/accept_ra=0",
    ),
    "ipv6/conf/port/accept_untracked_na=0",
)


def mac(name: str) -> str:
    return f"02:00:00:00:30:{MACHINES[name]:02x}"


@dataclass
class Segment:
    """The namespaces by machine, and the two engines."""

    names: dict[str, str]
    engines: dict[str, Engine]

    def run(self, name: str, script: str) -> str:
        return ip("netns", "exec", self.names[name], "sh", "-c", script)

    def own(self, name: str, *addresses: IPAddress, where: frozenset[InterfaceName] = HERE) -> None:
        with inside(self.names[name]):
            self.engines[name].own(dict.fromkeys(addresses, where))

    def move(self, *addresses: IPAddress) -> None:
        """From s1 to s2: the new owner announces, then the old one is silent."""
        self.own("s2", *addresses)
        self.own("s1", *addresses, where=NOWHERE)

    def neighbour(self, client: str, address: IPAddress) -> str:
        entries = json.loads(ip("-n", self.names[client], "-j", "neigh", "show", "to", str(address)) or "[]")
        return next((str(entry["lladdr"]) for entry in entries if "lladdr" in entry), "")

    def echoes(self, name: str, address: IPAddress) -> int:
        """How many echo requests a machine's kernel has got."""
        if address.version == 6:
            lines = self.run(name, "cat /proc/net/snmp6").splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("Icmp6InEchos "))
        head, values = (line.split() for line in self.run(name, "grep ^Icmp: /proc/net/snmp").splitlines())
        return int(values[head.index("InEchos")])

    async def ping(self, client: str, address: IPAddress) -> None:
        """One echo request from a client's kernel."""
        echo = b"\x08\x00\xf7\xff\0\0\0\0" if address.version == 4 else b"\x80\0\0\0\0\0\0\0"
        family, protocol = (
            (socket.AF_INET, socket.IPPROTO_ICMP) if address.version == 4 else (socket.AF_INET6, socket.IPPROTO_ICMPV6)
        )
        with inside(self.names[client]), socket.socket(family, socket.SOCK_RAW, protocol) as out:
            out.sendto(echo, (str(address), 0))
        await asyncio.sleep(0)


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    netns.pushns(namespace)
    try:
        yield
    finally:
        netns.popns()


@pytest.fixture
async def segment() -> AsyncIterator[Segment]:
    prefix = f"lbmv{os.getpid()}"
    names = {name: f"{prefix}{name}" for name in MACHINES}
    bridge = f"{prefix}br"
    with namespaces(bridge, *names.values()):
        ip("-n", bridge, "link", "add", "br0", "type", "bridge", "forward_delay", "0")
        ip("-n", bridge, "link", "set", "br0", "up")
        for name, namespace in names.items():
            ip("netns", "exec", namespace, "sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad")
            ip(
                "-n",
                bridge,
                "link",
                "add",
                f"p{name}",
                "type",
                "veth",
                "peer",
                "name",
                PORT,
                "address",
                mac(name),
                "netns",
                namespace,
            )
            ip("-n", bridge, "link", "set", f"p{name}", "master", "br0", "up")
            ip("netns", "exec", namespace, "sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/port/accept_dad")
            ip("-n", namespace, "link", "set", PORT, "up")
            ip("-n", namespace, "address", "add", f"198.18.0.{100 + MACHINES[name]}/24", "dev", PORT)
            ip("-n", namespace, "address", "add", f"2001:db8:20::{100 + MACHINES[name]}/64", "dev", PORT, "nodad")
        for name in (
            "s1",
            "s2",
        ):  # Their kernels have the addresses, so that traffic can be counted, and do not answer for them.
            ip("netns", "exec", names[name], "sh", "-c", "echo 8 > /proc/sys/net/ipv4/conf/all/arp_ignore")
            ip("-n", names[name], "address", "add", f"{VIP}/32", "dev", "lo")
            ip("-n", names[name], "address", "add", f"{VIP6}/128", "dev", "lo", "nodad")
        for setting in STRICT:
            key, value = setting.split("=")
            ip(
                "netns",
                "exec",
                names["strict"],
                "sh",
                "-c",
                f"[ ! -e /proc/sys/net/{key} ] || echo {value} > /proc/sys/net/{key}",
            )
        made = Segment(names, {})
        try:
            for name in ("s1", "s2"):
                await until(lambda name=name: link_local(names[name]) != b"", f"{name} has no link-local address")  # type: ignore[misc]
                with inside(names[name]):
                    made.engines[name] = Engine(Tally(), Lines(), claimed=lambda _: None)
                    index = socket.if_nametoindex(PORT)
                    here = bytes.fromhex(mac(name).replace(":", ""))
                    made.engines[name].show([Link(index, PORT, here, link_locals=(link_local(names[name]),))])
            yield made
        finally:
            for engine in made.engines.values():
                engine.close()


def link_local(namespace: str) -> bytes:
    """The link-local address of a machine's port, once it has a usable one."""
    found = json.loads(ip("-n", namespace, "-6", "-j", "address", "show", "dev", PORT, "scope", "link", "-tentative") or "[]")
    return next(
        (IPv6Address(info["local"]).packed for one in found for info in one.get("addr_info", ()) if "local" in info), b""
    )


@pytest.mark.parametrize("address", [VIP, VIP6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("client", ["plain", "strict"])
@pytest.mark.parametrize("state", ["stale", "reachable", "young"])
async def test_a_client_believes_the_new_owner_and_its_traffic_gets_there(
    segment: Segment, address: IPAddress, client: str, state: str
) -> None:
    segment.own("s1", address)
    await segment.ping(client, address)
    await until(lambda: segment.neighbour(client, address) == mac("s1"), "the client knows the first owner")
    await until(lambda: segment.echoes("s1", address) > 0, "the first owner gets the traffic")
    if state != "young":  # Which it is now: just made by an answer.
        entry = (str(address), "lladdr", mac("s1"), "dev", PORT, "nud", state)
        ip("-n", segment.names[client], "neigh", "replace", *entry)
    segment.move(address)
    await until(lambda: segment.neighbour(client, address) == mac("s2"), f"an entry that was {state} is still the old owner's")
    at_the_old, at_the_new = segment.echoes("s1", address), segment.echoes("s2", address)
    for _ in range(3):
        await segment.ping(client, address)
    await until(lambda: segment.echoes("s2", address) >= at_the_new + 3, "the traffic gets to the new owner")
    assert segment.echoes("s1", address) == at_the_old


async def test_both_clients_learn_both_families_in_one_move_without_asking(segment: Segment) -> None:
    segment.own("s1", VIP, VIP6)
    for client in ("plain", "strict"):
        for address in (VIP, VIP6):
            await segment.ping(client, address)
    await until(
        lambda: all(segment.neighbour(c, a) == mac("s1") for c in ("plain", "strict") for a in (VIP, VIP6)),
        "all know the first",
    )
    segment.move(VIP, VIP6)
    await until(
        lambda: all(segment.neighbour(c, a) == mac("s2") for c in ("plain", "strict") for a in (VIP, VIP6)),
        "all know the second",
    )
