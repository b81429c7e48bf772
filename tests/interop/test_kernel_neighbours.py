"""Does the kernel of a neighbour believe us? And what do our frames look like to a dissector that is not ours?

A speaker's engine runs in one network namespace, a client's kernel in another, with a cable between them. The client's
neighbour table and tshark are the judges.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
from collections.abc import AsyncIterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import AsyncIPRoute, netns

from config.model import InterfaceName
from speaker.layer2.arp import ArpRequest, read
from speaker.layer2.links import LinkWatch
from speaker.layer2.responder import ANNOUNCE_GAP_S
from speaker.layer2.sockets import FRAMES_PER_WAKE, PacketSocket, Protocol
from tests.interop.cable import DEADLINE_S, HERE, NOWHERE, PORT, SPEAKER_MAC, STRANGER_MAC, Wire, a_cable, ip, until
from tests.wires import Lines

pytestmark = pytest.mark.needs("root", "tshark")

VIP = IPv4Address("198.18.0.10")
OTHER = IPv4Address("198.18.0.11")


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    async with a_cable() as made:
        yield made


async def test_the_kernel_learns_us_from_our_answer(wire: Wire) -> None:
    wire.engine.own({VIP: HERE})
    wire.forget()
    assert await wire.ask(VIP) == SPEAKER_MAC
    assert wire.tally.asked == wire.tally.answered >= 1


async def test_the_kernel_changes_its_entry_when_we_take_an_address_over(wire: Wire) -> None:
    ip("-n", wire.client, "neigh", "replace", str(VIP), "lladdr", STRANGER_MAC, "dev", "eth0", "nud", "stale")
    wire.engine.own({VIP: HERE})
    await until(lambda: wire.neighbour(VIP) == SPEAKER_MAC, "the old owner is still in the neighbour table")
    assert wire.tally.asked == 0, "the client had to ask"


async def test_the_kernel_changes_a_young_reachable_entry_by_a_repeated_announcement(wire: Wire) -> None:
    ip("-n", wire.client, "neigh", "replace", str(VIP), "lladdr", STRANGER_MAC, "dev", "eth0", "nud", "reachable")
    wire.engine.own({VIP: HERE})
    await until(lambda: wire.neighbour(VIP) == SPEAKER_MAC, f"not even the round after {ANNOUNCE_GAP_S} s was believed")


async def test_a_link_that_comes_back_announces_again(wire: Wire) -> None:
    wire.engine.own({VIP: HERE})
    ip("-n", wire.speaker, "link", "set", PORT, "down")
    await until(lambda: not any(link.name == PORT and link.up for link in wire.links.links), "netlink did not say down")
    wire.engine.show(wire.links.links)
    ip("-n", wire.client, "neigh", "replace", str(VIP), "lladdr", STRANGER_MAC, "dev", "eth0", "nud", "stale")
    ip("-n", wire.speaker, "link", "set", PORT, "up")
    await until(lambda: any(link.name == PORT and link.carrier for link in wire.links.links), "netlink did not say up")
    wire.engine.show(wire.links.links)
    await until(lambda: wire.neighbour(VIP) == SPEAKER_MAC, "the returned link was not announced")


async def test_a_link_with_a_new_mac_address_announces_it(wire: Wire) -> None:
    wire.engine.own({VIP: HERE})
    await wire.ask(VIP)
    ip("-n", wire.speaker, "link", "set", PORT, "address", "02:00:00:00:10:02")
    await until(lambda: any(link.mac.hex(":") == "02:00:00:00:10:02" for link in wire.links.links), "netlink kept the old MAC")
    wire.engine.show(wire.links.links)
    await until(lambda: wire.neighbour(VIP) == "02:00:00:00:10:02", "the new MAC address was not announced")


class Deafened(AsyncIPRoute):  # type: ignore[misc]  # pyroute2 has no types.
    """Netlink with a receive buffer that overflows soon: the kernel then drops messages and says so once."""

    async def bind(self, *words: Any, **named: Any) -> None:
        await super().bind(*words, **named)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)


async def test_links_are_read_again_when_the_kernel_had_to_drop_news(wire: Wire) -> None:
    log = Lines()
    watch = LinkWatch(asyncio.Event(), log, open_netlink=Deafened, retry_s=0.01)
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(watch.run(), name="links")
        await until(lambda: watch.synced, "the first list")
        many = "\n".join(f"link add v{number} type veth peer name w{number}" for number in range(100))
        subprocess.run(["ip", "-n", wire.speaker, "-batch", "-"], input=many, text=True, check=True)  # noqa: ASYNC221 - short
        await until(lambda: len(watch.links) == 202, "all links, loopback and the cable included")
        watching.cancel()
    assert "netlink_failed" in log.events()


async def test_questions_for_foreign_addresses_never_reach_the_process(wire: Wire) -> None:
    with contextlib.closing(PacketSocket(PORT, Protocol.ARP)) as listening:
        listening.set_targets((VIP.packed,))
        await wire.ask(OTHER)
        await wire.ask(VIP)
        heard = [read(frame) for frame in listening.frames()]
    assert heard
    assert {one.target for one in heard if isinstance(one, ArpRequest)} == {VIP.packed}


async def test_a_flood_is_read_in_bounded_portions(wire: Wire) -> None:
    with contextlib.closing(PacketSocket(PORT, Protocol.ARP)) as listening:
        listening.set_targets((VIP.packed,))
        netns.pushns(wire.client)
        try:
            asking = PacketSocket(InterfaceName("eth0"), Protocol.ARP)
        finally:
            netns.popns()
        with contextlib.closing(asking):
            sender = bytes.fromhex(STRANGER_MAC.replace(":", ""))
            header = b"\xff" * 6 + sender + bytes.fromhex("08060001080006040001")
            for _ in range(2 * FRAMES_PER_WAKE):
                asking.send(header + sender + bytes(4) + bytes(6) + VIP.packed)
        assert [len(list(listening.frames())) for _ in range(3)] == [FRAMES_PER_WAKE, FRAMES_PER_WAKE, 0]


async def test_frames_on_the_wire_are_what_a_dissector_expects(wire: Wire, tmp_path: Path) -> None:
    capture = tmp_path / "wire.pcapng"
    capture.touch()
    async with recording(wire.client, capture):
        wire.engine.own({VIP: HERE})
        wire.forget()
        assert await wire.ask(VIP) == SPEAKER_MAC
        assert await wire.ask(OTHER) == ""
        wire.engine.own({VIP: NOWHERE})
        wire.forget()
        assert await wire.ask(VIP) == ""
    frames = dissect(capture)
    ours = [frame for frame in frames if frame["eth.src"] == SPEAKER_MAC]
    gratuitous = [frame for frame in ours if frame["eth.dst"] == "ff:ff:ff:ff:ff:ff"]
    replies = [frame for frame in ours if frame["eth.dst"] != "ff:ff:ff:ff:ff:ff"]
    assert [frame["arp.opcode"] for frame in gratuitous[:2]] == ["1", "2"]
    for frame in gratuitous:
        assert frame["arp.isgratuitous"] in {"1", "True"}
        assert (frame["arp.src.hw_mac"], frame["arp.dst.hw_mac"]) == (SPEAKER_MAC, "ff:ff:ff:ff:ff:ff")
        assert (frame["arp.src.proto_ipv4"], frame["arp.dst.proto_ipv4"]) == (str(VIP), str(VIP))
    assert replies
    for frame in replies:
        assert (frame["arp.opcode"], frame["arp.src.proto_ipv4"], frame["arp.src.hw_mac"]) == ("2", str(VIP), SPEAKER_MAC)
        assert frame["arp.dst.proto_ipv4"] == "198.18.0.99"
        assert frame["arp.dst.hw_mac"] == frame["eth.dst"]
    asked = [int(frame["frame.number"]) for frame in frames if frame["arp.dst.proto_ipv4"] == str(OTHER)]
    assert asked, "the client never asked for the foreign address"
    assert not any(frame["arp.src.proto_ipv4"] == str(OTHER) for frame in ours)
    questions = [frame for frame in frames if frame["eth.src"] != SPEAKER_MAC and frame["arp.dst.proto_ipv4"] == str(VIP)]
    late = [frame for frame in questions if int(frame["frame.number"]) > max(asked)]
    assert late, "the client never asked after the withdrawal"
    last = max(int(frame["frame.number"]) for frame in ours)
    assert last < min(int(frame["frame.number"]) for frame in late), "a frame was sent after the withdrawal"


@contextlib.asynccontextmanager
async def recording(namespace: str, to: Path) -> AsyncIterator[None]:
    """Capture ARP at the client's end while the body runs."""
    process = await asyncio.create_subprocess_exec(
        *("ip", "netns", "exec", namespace, "dumpcap", "-q", "-i", "eth0", "-f", "arp", "-w", str(to)), stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    said = b""
    try:
        async with asyncio.timeout(DEADLINE_S):
            while b"File:" not in said:
                line = await process.stderr.readline()
                assert line, f"dumpcap ended: {said.decode()}"
                said += line
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


FIELDS = (
    *("frame.number", "eth.src", "eth.dst", "arp.opcode", "arp.isgratuitous", "arp.src.hw_mac", "arp.dst.hw_mac"),
    *("arp.src.proto_ipv4", "arp.dst.proto_ipv4"),
)


def dissect(capture: Path) -> list[dict[str, str]]:
    """Each frame's fields as tshark reads them."""
    fields = [word for field in FIELDS for word in ("-e", field)]
    run = subprocess.run(["tshark", "-r", str(capture), "-T", "fields", *fields], check=True, capture_output=True, text=True)
    return [dict(zip(FIELDS, line.split("\t"), strict=True)) for line in run.stdout.splitlines()]
