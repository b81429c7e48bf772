"""Neighbour Discovery messages, checked against Scapy's own dissection and, for what is refused, against RFC 4861."""

from __future__ import annotations

from ipaddress import IPv6Address
from typing import Any

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import Ether

from speaker.layer2 import ndp
from speaker.layer2.ndp import Advertisement, Drop, Solicitation
from tests.builders_speaker import MAC, OTHER_MAC

VIP6 = IPv6Address("2001:db8::10")
LINK_LOCAL = IPv6Address("fe80::ff:fe00:1")
ASKER = IPv6Address("fe80::aa")
GROUP = "ff02::1:ff00:10"
GROUP_MAC = "33:33:ff:00:00:10"
SLLA = bytes(ICMPv6NDOptSrcLLAddr(lladdr=OTHER_MAC.hex(":")))


def frame(
    message: Any,
    options: bytes = SLLA,
    *,
    source: str = str(ASKER),
    destination: str = GROUP,
    mac: str = GROUP_MAC,
    source_mac: bytes = OTHER_MAC,
    hop_limit: int = 255,
) -> bytes:
    """A whole frame with a right checksum; Scapy computes it over whatever the message is."""
    ethernet = Ether(src=source_mac.hex(":"), dst=mac, type=0x86DD)
    return bytes(ethernet / IPv6(src=source, dst=destination, hlim=hop_limit, nh=58) / message / options)


def question(options: bytes = SLLA, *, target: str = str(VIP6), code: int = 0, **envelope: Any) -> bytes:
    return frame(ICMPv6ND_NS(tgt=target, code=code), options, **envelope)


def answer(options: bytes = b"", *, target: str = str(VIP6), solicited: int = 0, destination: str = "ff02::1") -> bytes:
    return frame(ICMPv6ND_NA(tgt=target, R=0, S=solicited, O=1), options, destination=destination, mac="33:33:00:00:00:01")


def test_a_question_is_read() -> None:
    expected = Solicitation(bytes.fromhex("3333ff000010"), OTHER_MAC, ASKER.packed, VIP6.packed)
    assert ndp.read(question()) == expected
    assert ndp.read(question() + bytes(20)) == expected, "what pads the frame is not part of the packet"
    assert not expected.is_probe


def test_a_question_for_reachability_goes_to_the_address_itself_and_needs_no_option() -> None:
    read = ndp.read(question(b"", destination=str(VIP6), mac=MAC.hex(":")))
    assert read == Solicitation(MAC, OTHER_MAC, ASKER.packed, VIP6.packed)


@pytest.mark.rfc("4862", "5.4.3")
def test_a_probe_for_duplicates_has_no_source() -> None:
    read = ndp.read(question(b"", source="::"))
    assert isinstance(read, Solicitation)
    assert read.is_probe


def test_the_answer_goes_where_the_option_says() -> None:
    read = ndp.read(question(source_mac=bytes.fromhex("0200000000bb")))
    assert isinstance(read, Solicitation)
    assert read.asker_mac == OTHER_MAC


def test_unknown_options_are_skipped() -> None:
    nonce = bytes([14, 1]) + bytes(6)  # RFC 3971; Linux sends one in probes for duplicates.
    assert isinstance(ndp.read(question(nonce, source="::")), Solicitation)
    assert isinstance(ndp.read(question(nonce + SLLA)), Solicitation)


def test_an_advertisement_is_read() -> None:
    tlla = bytes(ICMPv6NDOptDstLLAddr(lladdr="02:00:00:00:00:bb"))
    claimed = bytes.fromhex("0200000000bb")
    assert ndp.read(answer(tlla)) == Advertisement(OTHER_MAC, claimed, ASKER.packed, VIP6.packed)
    assert ndp.read(answer()) == Advertisement(OTHER_MAC, OTHER_MAC, ASKER.packed, VIP6.packed)


def changed(at: int, value: int) -> bytes:
    """A good question with one octet changed and the checksum left as it was."""
    mutable = bytearray(question())
    mutable[at] = value
    return bytes(mutable)


@pytest.mark.rfc("4861", "7.1.1")
@pytest.mark.rfc("4861", "7.1.2")
@pytest.mark.parametrize(
    ("bad", "drop"),
    [
        (b"", Drop.TOO_SHORT),
        (question()[:77], Drop.TOO_SHORT),
        (changed(13, 0x00), Drop.NOT_NEIGHBOUR_DISCOVERY),
        (changed(14, 0x40), Drop.NOT_NEIGHBOUR_DISCOVERY),
        (changed(20, 6), Drop.NOT_NEIGHBOUR_DISCOVERY),
        (changed(54, 134), Drop.NOT_NEIGHBOUR_DISCOVERY),
        (question(hop_limit=64), Drop.BAD_HOP_LIMIT),
        (question(code=1), Drop.BAD_CODE),
        (changed(19, 23), Drop.BAD_LENGTH),
        (changed(19, 200), Drop.BAD_LENGTH),
        (changed(56, question()[56] ^ 1), Drop.BAD_CHECKSUM),
        (changed(70, 1), Drop.BAD_CHECKSUM),
        (question(target="ff02::1"), Drop.BAD_TARGET),
        (question(target="::"), Drop.BAD_TARGET),
        (question(b"\x0e\x00" + bytes(6)), Drop.BAD_OPTION),
        (question(b"\x0e\x02" + bytes(6)), Drop.BAD_OPTION),
        (question(b"\x0e"), Drop.BAD_OPTION),
        (question(b"\x01\x02" + bytes(14)), Drop.BAD_OPTION),
        (question(source="::"), Drop.BAD_OPTION),
        (question(b"", source="::", destination=str(VIP6)), Drop.BAD_DESTINATION),
        (question(destination="ff02::1"), Drop.BAD_DESTINATION),
        (question(destination="ff02::1:ff00:11"), Drop.BAD_DESTINATION),
        (question(source="ff02::5"), Drop.BAD_SOURCE),
        (question(source_mac=b"\xff" * 6), Drop.BAD_SOURCE),
        (question(source_mac=bytes(6)), Drop.BAD_SOURCE),
        (question(b"\x01\x01" + b"\xff" * 6), Drop.BAD_SOURCE),
        (question(b"\x01\x01" + bytes(6)), Drop.BAD_SOURCE),
        (answer(solicited=1), Drop.BAD_DESTINATION),
        (answer(target="ff02::1"), Drop.BAD_TARGET),
        (answer(b"\x02\x00" + bytes(6)), Drop.BAD_OPTION),
    ],
)
def test_what_a_receiver_must_discard_is_dropped_with_a_reason(bad: bytes, drop: Drop) -> None:
    assert ndp.read(bad) is drop


def dissected(sent: bytes) -> Any:
    """The frame as Scapy reads it, its checksum proved."""
    parsed = Ether(sent)
    again = Ether(sent)
    del again[ICMPv6ND_NA].cksum
    assert bytes(again) == sent, "Scapy computes another checksum or length"
    return parsed


@pytest.mark.rfc("4861", "7.2.6")
@pytest.mark.parametrize("address", [VIP6, IPv6Address("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"), IPv6Address("fd00::")])
def test_an_announcement_goes_to_all_nodes_and_overrides(address: IPv6Address) -> None:
    parsed = dissected(ndp.announcement(ndp.templates(MAC, LINK_LOCAL.packed).unsolicited, address))
    assert (parsed.src, parsed.dst) == (MAC.hex(":"), "33:33:00:00:00:01")
    assert (parsed[IPv6].src, parsed[IPv6].dst, parsed[IPv6].hlim) == (str(LINK_LOCAL), "ff02::1", 255)
    message = parsed[ICMPv6ND_NA]
    assert (message.tgt, message.R, message.S, message.O) == (str(address), 0, 0, 1)
    assert parsed[ICMPv6NDOptDstLLAddr].lladdr == MAC.hex(":")


@pytest.mark.rfc("4861", "7.2.4")
@pytest.mark.parametrize("asker", ["fe80::aa", "2001:db8::ffff:ffff:ffff:fffe"])
def test_an_answer_is_solicited_and_goes_to_the_asker_alone(asker: str) -> None:
    read = ndp.read(question(source=asker))
    assert isinstance(read, Solicitation)
    prepared = ndp.filled(ndp.templates(MAC, LINK_LOCAL.packed).reply, VIP6)
    parsed = dissected(ndp.reply_to(read, prepared))
    assert (parsed.src, parsed.dst) == (MAC.hex(":"), OTHER_MAC.hex(":"))
    assert (parsed[IPv6].src, parsed[IPv6].dst, parsed[IPv6].hlim) == (str(LINK_LOCAL), asker, 255)
    message = parsed[ICMPv6ND_NA]
    assert (message.tgt, message.R, message.S, message.O) == (str(VIP6), 0, 1, 0)
    assert parsed[ICMPv6NDOptDstLLAddr].lladdr == MAC.hex(":")


def test_what_we_send_is_what_we_would_believe() -> None:
    sent = ndp.announcement(ndp.templates(MAC, LINK_LOCAL.packed).unsolicited, VIP6)
    assert ndp.read(sent) == Advertisement(MAC, MAC, LINK_LOCAL.packed, VIP6.packed)


@pytest.mark.rfc("4291", "2.7.1")
def test_the_solicited_node_group_has_the_last_three_octets() -> None:
    assert ndp.solicited_node(IPv6Address("4037::01:800:200E:8C6C").packed) == IPv6Address("ff02::1:ff0e:8c6c").packed
