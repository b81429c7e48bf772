"""The filter program, run in a small interpreter of classic BPF."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address
from itertools import pairwise

import pytest
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
    program = bpf.compile_filter(addresses(0, 1, 2, 7, 20, 21, 90))
    for offset in range(-5, 100):
        assert bool(run(program, question(VIP + offset))) == (offset in {0, 1, 2, 7, 20, 21, 90}), offset


def test_the_whole_frame_is_delivered() -> None:
    assert run(bpf.compile_filter(addresses(0)), question(VIP)) >= 1500


@pytest.mark.parametrize(
    ("frame", "vlan"),
    [
        (question(VIP, op=2), 0),
        (question(VIP), 1),
        (question(VIP)[:12] + b"\x08\x00" + question(VIP)[14:], 0),
        (question(VIP)[:41], 0),
        (b"", 0),
    ],
    ids=["a reply", "another VLAN", "not ARP", "cut short", "empty"],
)
def test_what_is_not_a_question_of_this_link_is_dropped(frame: bytes, vlan: int) -> None:
    assert run(bpf.compile_filter(addresses(0)), frame, vlan=vlan) == 0


def test_without_addresses_nothing_passes() -> None:
    assert run(bpf.compile_filter([]), question(VIP)) == 0


def test_thousands_of_scattered_addresses_fit_and_none_is_lost() -> None:
    scattered = [index * 3 + index * index % 7 for index in range(5000)]
    program = bpf.compile_filter(addresses(*scattered))
    assert len(program) <= bpf.LONGEST_PROGRAM
    assert all(one.jump_true < 256 and one.jump_false < 256 for one in program)
    assert all(run(program, question(VIP + offset)) for offset in scattered[::17])


def test_a_block_of_addresses_costs_as_much_as_one() -> None:
    assert len(bpf.compile_filter(addresses(*range(5000)))) == len(bpf.compile_filter(addresses(0)))


def test_surplus_ranges_close_the_smallest_gaps() -> None:
    numbers = [index * 10 for index in range(bpf.MOST_RANGES)] + [3, 10_000_000]
    ranges = bpf.cover(numbers)
    assert len(ranges) == bpf.MOST_RANGES
    assert ranges[0] == (0, 3) or ranges[0][1] >= 3
    assert ranges[-1] == (10_000_000, 10_000_000)
    assert all(before[1] < after[0] for before, after in pairwise(ranges))
    assert all(any(first <= number <= last for first, last in ranges) for number in numbers)


def test_the_extreme_addresses_are_filtered_rightly() -> None:
    program = bpf.compile_filter([bytes(4), b"\xff" * 4])
    assert run(program, question(IPv4Address("0.0.0.0")))
    assert run(program, question(IPv4Address("255.255.255.255")))
    assert not run(program, question(IPv4Address("255.255.255.254")))
