"""ARP frames, checked against Scapy's own dissection."""

from __future__ import annotations

import os
from ipaddress import IPv4Address

import pytest
from scapy.layers.l2 import ARP, Ether

from speaker.layer2 import arp
from speaker.layer2.arp import ArpReply, ArpRequest, Drop
from tests.builders_speaker import MAC, OTHER_MAC, VIP


def question(**fields: object) -> bytes:
    """A broadcast question for VIP from OTHER_MAC; `fields` replace members of the ARP part."""
    asked = {"op": 1, "hwsrc": OTHER_MAC.hex(":"), "psrc": "192.0.2.99", "pdst": str(VIP)} | fields
    return bytes(Ether(src=OTHER_MAC.hex(":"), dst="ff:ff:ff:ff:ff:ff", type=0x0806) / ARP(**asked))


@pytest.mark.rfc("826", "packet format")
def test_a_question_is_read() -> None:
    expected = ArpRequest(arp.BROADCAST, OTHER_MAC, IPv4Address("192.0.2.99").packed, VIP.packed)
    assert arp.read(question()) == expected
    assert arp.read(question() + bytes(18)) == expected


def test_a_reply_says_who_is_where() -> None:
    assert arp.read(question(op=2)) == ArpReply(OTHER_MAC, IPv4Address("192.0.2.99").packed)


@pytest.mark.parametrize(
    ("frame", "drop"),
    [
        (b"", Drop.TOO_SHORT),
        (question()[:41], Drop.TOO_SHORT),
        (question(op=3), Drop.UNKNOWN_OPCODE),
        (question(hwtype=6), Drop.NOT_ETHERNET_IPV4),
        (question(ptype=0x86DD), Drop.NOT_ETHERNET_IPV4),
        (question()[:18] + b"\x05" + question()[19:], Drop.NOT_ETHERNET_IPV4),
        (question()[:19] + b"\x05" + question()[20:], Drop.NOT_ETHERNET_IPV4),
        (question()[:12] + b"\x81\x00" + question()[14:], Drop.NOT_ETHERNET_IPV4),
        (question(hwsrc="00:00:00:00:00:00"), Drop.BAD_SENDER),
        (question(hwsrc="01:00:5e:00:00:01"), Drop.BAD_SENDER),
        (question(hwsrc="ff:ff:ff:ff:ff:ff"), Drop.BAD_SENDER),
    ],
)
def test_anything_else_is_dropped_with_a_reason(frame: bytes, drop: Drop) -> None:
    assert arp.read(frame) is drop


@pytest.mark.rfc("5227", "3")
@pytest.mark.parametrize("form", ["gratuitous_request", "gratuitous_reply"])
def test_announcements_are_broadcast_and_name_the_address_twice(form: str) -> None:
    frame = arp.announcement(getattr(arp.templates(MAC), form), VIP)
    parsed = Ether(frame)
    assert (parsed.src, parsed.dst) == (MAC.hex(":"), "ff:ff:ff:ff:ff:ff")
    message = parsed[ARP]
    assert message.op == (1 if form == "gratuitous_request" else 2)
    assert (message.psrc, message.pdst, message.hwsrc, message.hwdst) == (
        str(VIP),
        str(VIP),
        MAC.hex(":"),
        "ff:ff:ff:ff:ff:ff",
    )
    assert len(frame) == arp.SHORTEST_FRAME


@pytest.mark.rfc("826", "packet reception")
def test_a_reply_goes_to_the_asker_alone() -> None:
    request = arp.read(question())
    assert isinstance(request, ArpRequest)
    parsed = Ether(arp.reply_to(request, arp.reply_for(arp.templates(MAC).reply, VIP)))
    message = parsed[ARP]
    assert (parsed.src, parsed.dst, message.op) == (MAC.hex(":"), OTHER_MAC.hex(":"), 2)
    assert (message.hwsrc, message.psrc) == (MAC.hex(":"), str(VIP))
    assert (message.hwdst, message.pdst) == (OTHER_MAC.hex(":"), "192.0.2.99")
    assert len(bytes(parsed)) == arp.SHORTEST_FRAME


def test_importing_scapy_leaves_the_environment_alone() -> None:
    assert os.environ.get("XDG_CACHE_HOME") != os.devnull + "/none"
