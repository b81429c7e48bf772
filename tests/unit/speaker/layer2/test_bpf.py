"""The filter program, run in a small interpreter of classic BPF."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from itertools import pairwise

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6ND_RA, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether

from speaker.layer2 import bpf
from speaker.layer2.bpf import Instruction
from tests.builders_speaker import VIP


def run(program: Sequence[Instruction], frame: bytes, *, vlan: int = 0) -> int:
    """Octets that the kernel would deliver: the semantics of the opcodes that we use (linux filter.rst)."""
    counter = accumulator = 0
    while True:
        one = program[counter]
        counter += 1
        match one.code:
            case bpf.RETURN:
                return one.operand
            case bpf.LOAD_BYTE | bpf.LOAD_HALF | bpf.LOAD_WORD:
                if one.operand == bpf.VLAN_TAG_PRESENT:
                    accumulator = vlan
                    continue
                size = {bpf.LOAD_BYTE: 1, bpf.LOAD_HALF: 2, bpf.LOAD_WORD: 4}[one.code]
                if one.operand + size > len(frame):
                    return 0
                accumulator = int.from_bytes(frame[one.operand : one.operand + size], "big")
            case bpf.JUMP:
                counter += one.operand
            case bpf.JUMP_EQUAL:
                counter += one.jump_true if accumulator == one.operand else one.jump_false
            case bpf.JUMP_GREATER:
                counter += one.jump_true if accumulator > one.operand else one.jump_false
            case bpf.JUMP_GREATER_OR_EQUAL:
                counter += one.jump_true if accumulator >= one.operand else one.jump_false
            case _:
                pytest.fail(f"opcode {one.code:#x}")


def question(target: IPv4Address, op: int = 1) -> bytes:
    ethernet = Ether(src="02:00:00:00:00:aa", dst="ff:ff:ff:ff:ff:ff", type=0x0806)
    return bytes(ethernet / ARP(op=op, hwsrc="02:00:00:00:00:aa", psrc="192.0.2.99", pdst=str(target)))


def addresses(*offsets: int) -> list[bytes]:
    return [(VIP + offset).packed for offset in offsets]


def test_questions_for_owned_addresses_pass_and_others_do_not() -> None:
    program = bpf.arp_filter(addresses(0, 1, 2, 7, 20, 21, 90))
    for offset in range(-5, 100):
        assert bool(run(program, question(VIP + offset))) == (offset in {0, 1, 2, 7, 20, 21, 90}), offset


def test_the_whole_frame_is_delivered() -> None:
    assert run(bpf.arp_filter(addresses(0)), question(VIP)) >= 1500


@pytest.mark.parametrize(
    ("frame", "vlan"),
    [
        (question(VIP), 1),
        (question(VIP)[:12] + b"\x08\x00" + question(VIP)[14:], 0),
        (question(VIP)[:41], 0),
        (b"", 0),
    ],
    ids=["another VLAN", "not ARP", "cut short", "empty"],
)
def test_what_is_not_a_question_of_this_link_is_dropped(frame: bytes, vlan: int) -> None:
    assert run(bpf.arp_filter(addresses(0)), frame, vlan=vlan) == 0


def test_without_addresses_nothing_passes() -> None:
    assert run(bpf.arp_filter([]), question(VIP)) == 0


def test_thousands_of_scattered_addresses_fit_and_none_is_lost() -> None:
    scattered = [index * 3 + index * index % 7 for index in range(5000)]
    program = bpf.arp_filter(addresses(*scattered))
    assert len(program) <= bpf.LONGEST_PROGRAM
    assert all(one.jump_true < 256 and one.jump_false < 256 for one in program)
    assert all(run(program, question(VIP + offset)) for offset in scattered[::17])


def test_a_block_of_addresses_costs_as_much_as_one() -> None:
    assert len(bpf.arp_filter(addresses(*range(5000)))) == len(bpf.arp_filter(addresses(0)))


def test_surplus_ranges_close_the_smallest_gaps() -> None:
    numbers = [index * 10 for index in range(bpf.MOST_RANGES)] + [3, 10_000_000]
    ranges = bpf.cover(numbers)
    assert len(ranges) == bpf.MOST_RANGES
    assert ranges[0] == (0, 3) or ranges[0][1] >= 3
    assert ranges[-1] == (10_000_000, 10_000_000)
    assert all(before[1] < after[0] for before, after in pairwise(ranges))
    assert all(any(first <= number <= last for first, last in ranges) for number in numbers)


def test_the_extreme_addresses_are_filtered_rightly() -> None:
    program = bpf.arp_filter([bytes(4), b"\xff" * 4])
    assert run(program, question(IPv4Address("0.0.0.0")))
    assert run(program, question(IPv4Address("255.255.255.255")))
    assert not run(program, question(IPv4Address("255.255.255.254")))


def test_what_is_said_in_the_name_of_an_owned_address_passes_whatever_it_is() -> None:
    program = bpf.arp_filter(addresses(0, 7))
    for op in (1, 2, 9):
        said = bytearray(question(VIP + 50, op=op))
        assert not run(program, bytes(said))
        said[28:32] = (VIP + 7).packed
        assert run(program, bytes(said))
    assert not run(program, question(VIP, op=2)), "a reply to an owned address from another one"


VIP6 = IPv6Address("2001:db8::10")


def message(target: IPv6Address, layer: object = None) -> bytes:
    ethernet = Ether(src="02:00:00:00:00:aa", dst="33:33:ff:00:00:10", type=0x86DD)
    what = ICMPv6ND_NS(tgt=str(target)) if layer is None else layer
    return bytes(
        ethernet / IPv6(src="fe80::aa", dst="ff02::1:ff00:10") / what / ICMPv6NDOptSrcLLAddr(lladdr="02:00:00:00:00:aa")
    )


def test_questions_and_claims_of_owned_ipv6_addresses_pass_and_others_do_not() -> None:
    owned = {VIP6 + offset for offset in (0, 1, 2, 7)} | {IPv6Address("2001:db8:1::10"), IPv6Address("fd00::ffff:ffff")}
    program = bpf.ndp_filter(one.packed for one in owned)
    near = {VIP6 + offset for offset in range(-5, 12)} | {IPv6Address("2001:db8:1::11"), IPv6Address("2001:db8:2::10")}
    for target in owned | near | {IPv6Address("fd00::1:0:0"), IPv6Address("::")}:
        assert bool(run(program, message(target))) == (target in owned), target
        assert bool(run(program, message(target, ICMPv6ND_NA(tgt=str(target))))) == (target in owned), target


@pytest.mark.parametrize(
    ("frame", "vlan"),
    [
        (message(VIP6), 1),
        (message(VIP6, ICMPv6ND_RA()), 0),
        (message(VIP6)[:20] + b"\x11" + message(VIP6)[21:], 0),
        (message(VIP6)[:77], 0),
        (question(VIP), 0),
    ],
    ids=["another VLAN", "a router", "UDP", "cut short", "ARP"],
)
def test_other_ipv6_packets_are_dropped(frame: bytes, vlan: int) -> None:
    assert run(bpf.ndp_filter([VIP6.packed]), frame, vlan=vlan) == 0


def test_without_ipv6_addresses_nothing_passes() -> None:
    assert run(bpf.ndp_filter([]), message(VIP6)) == 0


def test_thousands_of_ipv6_addresses_below_many_prefixes_fit_and_none_is_lost() -> None:
    for prefixes in (1, bpf.MOST_PREFIXES, bpf.MOST_PREFIXES + 1):
        owned = [VIP6 + (index % prefixes << 64) + index * 3 + index * index % 7 for index in range(3000)]
        program = bpf.ndp_filter(one.packed for one in owned)
        assert len(program) <= bpf.LONGEST_PROGRAM
        assert all(run(program, message(one)) for one in owned[::101])


def test_the_last_address_below_a_prefix_and_the_first_below_the_next_are_told_apart() -> None:
    program = bpf.ndp_filter([IPv6Address("2001:db8::ffff:ffff").packed, IPv6Address("2001:db8::1:0:0").packed])
    assert run(program, message(IPv6Address("2001:db8::ffff:ffff")))
    assert run(program, message(IPv6Address("2001:db8::1:0:0")))
    assert not run(program, message(IPv6Address("2001:db8::1:ffff:ffff")))
    assert not run(program, message(IPv6Address("2001:db8::")))


def test_the_rough_filters_let_in_every_message_of_their_protocol_and_nothing_else() -> None:
    for frame in (question(VIP), question(VIP, op=2)):
        assert run(bpf.any_arp(), frame)
        assert not run(bpf.any_arp(), frame, vlan=1)
        assert not run(bpf.any_ndp(), frame)
    for frame in (message(VIP6), message(VIP6, ICMPv6ND_NA(tgt=str(VIP6)))):
        assert run(bpf.any_ndp(), frame)
        assert not run(bpf.any_ndp(), frame, vlan=1)
        assert not run(bpf.any_arp(), frame)
    assert not run(bpf.any_ndp(), message(VIP6, ICMPv6ND_RA()))
