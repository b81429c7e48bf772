"""The second opinion on frames, against frames that scapy made."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    ICMPv6NDOptUnknown,
    IPv6,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from lab.frames import Arp, Frame, Gossip, Ndp, read

MINE = "02:00:c0:a8:14:0b"
THEIRS = "02:00:c0:a8:14:03"
EVERYBODY = "ff:ff:ff:ff:ff:ff"


def seen(packet: Packet) -> Frame | None:
    return read(bytes(packet), at=1.5)


def test_an_arp_answer_claims_an_address_for_its_sender() -> None:
    frame = seen(Ether(src=MINE, dst=THEIRS) / ARP(op=2, hwsrc=MINE, psrc="192.0.2.1", hwdst=THEIRS, pdst="192.0.2.3"))
    assert frame == Arp(
        at=1.5,
        from_mac=MINE,
        to_mac=THEIRS,
        operation=2,
        sender_mac=MINE,
        sender="192.0.2.1",
        target_mac=THEIRS,
        target="192.0.2.3",
    )
    assert frame.claims == ("192.0.2.1", MINE)
    assert not frame.gratuitous
    assert str(frame) == f"ARP: 192.0.2.1 is at {MINE}, to 192.0.2.3"


@pytest.mark.parametrize("operation", [1, 2])
def test_a_gratuitous_arp_is_one_in_both_forms(operation: int) -> None:
    frame = seen(Ether(src=MINE, dst=EVERYBODY) / ARP(op=operation, hwsrc=MINE, psrc="192.0.2.1", pdst="192.0.2.1"))
    assert isinstance(frame, Arp)
    assert frame.gratuitous
    assert str(frame) == f"gratuitous ARP: 192.0.2.1 is at {MINE}"


def test_a_question_claims_the_askers_address_and_a_probe_none() -> None:
    question = seen(Ether(src=THEIRS, dst=EVERYBODY) / ARP(op=1, hwsrc=THEIRS, psrc="192.0.2.3", pdst="192.0.2.1"))
    probe = seen(Ether(src=THEIRS, dst=EVERYBODY) / ARP(op=1, hwsrc=THEIRS, psrc="0.0.0.0", pdst="192.0.2.1"))
    assert isinstance(question, Arp)
    assert isinstance(probe, Arp)
    assert question.claims == ("192.0.2.3", THEIRS)
    assert probe.claims is None
    assert str(question) == "ARP: 192.0.2.3 asks for 192.0.2.1"


def test_an_unsolicited_advertisement_claims_the_target_with_its_option() -> None:
    packet = (
        Ether(src=MINE, dst="33:33:00:00:00:01")
        / IPv6(src="fe80::1", dst="ff02::1", hlim=255)
        / ICMPv6ND_NA(tgt="2001:db8::1", R=0, S=0, O=1)
        / ICMPv6NDOptUnknown(type=200, len=1, data=b"123456")
        / ICMPv6NDOptDstLLAddr(lladdr=MINE)
    )
    frame = seen(packet)
    assert isinstance(frame, Ndp)
    assert (frame.gratuitous, frame.override, frame.claims) == (True, True, ("2001:db8::1", MINE))
    assert str(frame) == f"unsolicited neighbour advertisement: 2001:db8::1 is at {MINE}, override"


def test_a_solicitation_asks_and_its_answer_is_solicited() -> None:
    asked = seen(
        Ether(src=THEIRS, dst="33:33:ff:00:00:01")
        / IPv6(src="2001:db8::3", dst="ff02::1:ff00:1", hlim=255)
        / ICMPv6ND_NS(tgt="2001:db8::1")
        / ICMPv6NDOptSrcLLAddr(lladdr=THEIRS)
    )
    answered = seen(
        Ether(src=MINE, dst=THEIRS)
        / IPv6(src="2001:db8::1", dst="2001:db8::3", hlim=255)
        / ICMPv6ND_NA(tgt="2001:db8::1", S=1, O=0)
    )
    assert isinstance(asked, Ndp)
    assert isinstance(answered, Ndp)
    assert (asked.claims, asked.link_address, asked.gratuitous) == (None, THEIRS, False)
    assert (answered.claims, answered.solicited, answered.gratuitous) == (("2001:db8::1", MINE), True, False)
    assert str(asked) == "neighbour solicitation: 2001:db8::3 asks for 2001:db8::1"
    assert str(answered).startswith("neighbour advertisement: 2001:db8::1")


@pytest.mark.parametrize("network", [IP(src="192.0.2.1", dst="192.0.2.2"), IPv6(src="2001:db8::1", dst="2001:db8::2")])
def test_gossip_is_known_by_its_port(network: Packet) -> None:
    frame = seen(Ether(src=MINE, dst=THEIRS) / network / UDP(sport=7946, dport=7946) / Raw(b"x" * 10))
    assert isinstance(frame, Gossip)
    assert (frame.transport, frame.size, frame.claims) == ("UDP", 18, None)
    assert str(frame) == f"gossip: {network.src} to {network.dst}, UDP, 18 bytes"


@pytest.mark.parametrize(
    "packet",
    [
        Ether() / IP() / UDP(sport=1, dport=2),
        Ether() / IP() / ICMP(),
        Ether() / IPv6(hlim=255) / ICMPv6ND_NA(tgt="2001:db8::1", type=134),
        Ether() / IPv6(hlim=254) / ICMPv6ND_NA(tgt="2001:db8::1"),
        Ether() / ARP(hwtype=6),
        Ether(type=0x88CC) / Raw(b"x" * 60),
    ],
)
def test_other_frames_are_nothing(packet: Packet) -> None:
    assert seen(packet) is None


def test_a_frame_cut_short_anywhere_is_nothing_or_says_less() -> None:
    whole = bytes(
        Ether(src=MINE)
        / IPv6(src="fe80::1", dst="ff02::1", hlim=255)
        / ICMPv6ND_NA(tgt="2001:db8::1")
        / ICMPv6NDOptDstLLAddr(lladdr=MINE)
    )
    arp = bytes(Ether(src=MINE) / ARP(op=2, hwsrc=MINE, psrc="192.0.2.1"))
    gossip = bytes(Ether(src=MINE) / IP() / UDP(sport=7946, dport=7946))
    for frame, least in ((whole, 14 + 40 + 24), (arp, 14 + 28), (gossip, 14 + 20 + 4)):
        assert [size for size in range(len(frame)) if read(frame[:size], at=0.0) is not None] == list(range(least, len(frame)))
