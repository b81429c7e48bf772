"""Compile the owned addresses of an interface into a classic BPF program, so that the kernel drops all other frames.

Every speaker sees every broadcast question of its segment; with the filter only questions for addresses that this node owns
wake it. sockets.py attaches the program, tests run it in a small interpreter. The program may let too much through (when there
are more ranges of addresses than fit), never too little: the responder checks again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

# Opcodes of linux/bpf_common.h: class | size or operation | mode or source.
LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS
LOAD_HALF = 0x28  # BPF_LD | BPF_H | BPF_ABS
LOAD_BYTE = 0x30  # BPF_LD | BPF_B | BPF_ABS
JUMP = 0x05  # BPF_JMP | BPF_JA
JUMP_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
JUMP_GREATER = 0x25  # BPF_JMP | BPF_JGT | BPF_K
JUMP_GREATER_OR_EQUAL = 0x35  # BPF_JMP | BPF_JGE | BPF_K
RETURN = 0x06  # BPF_RET | BPF_K

VLAN_TAG_PRESENT = 0xFFFFF000 + 48  # SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT of linux/filter.h.
ETHERTYPE_OFFSET = 12
OPCODE_OFFSET = 20
TARGET_OFFSET = 38

ACCEPT = 0xFFFF
"""How many octets of an accepted frame are delivered: all of them."""
DROP = 0
LONGEST_PROGRAM = 4096
"""BPF_MAXINSNS: the kernel refuses longer programs."""
MOST_RANGES = 670
"""Six instructions each: a leaf has four, and a tree of n leaves has n - 1 forks of two."""


class Instruction(NamedTuple):
    """struct sock_filter: opcode, how far to jump if true and if false, operand. A tuple, since thousands are made at once."""

    code: int
    jump_true: int
    jump_false: int
    operand: int


_DROPPED: Final = Instruction(RETURN, 0, 0, DROP)
_ACCEPTED: Final = Instruction(RETURN, 0, 0, ACCEPT)


def compile_filter(targets: Iterable[bytes]) -> tuple[Instruction, ...]:
    """A program that accepts ARP requests for these packed IPv4 addresses and drops everything else.

    Frames that carried a VLAN tag belong to another link and are dropped. Without targets the program is one instruction.
    """
    ranges = cover(int.from_bytes(target, "big") for target in targets)
    if not ranges:
        return (_DROPPED,)
    checks = (
        (LOAD_BYTE, VLAN_TAG_PRESENT, 0),
        (LOAD_HALF, ETHERTYPE_OFFSET, 0x0806),
        (LOAD_HALF, OPCODE_OFFSET, 1),
    )
    program: list[Instruction] = []
    for load, offset, value in checks:
        program += [
            Instruction(load, 0, 0, offset),
            Instruction(JUMP_EQUAL, 1, 0, value),
            _DROPPED,
        ]
    program.append(Instruction(LOAD_WORD, 0, 0, TARGET_OFFSET))
    _append_search(program, ranges, 0, len(ranges))
    assert len(program) <= LONGEST_PROGRAM, f"{len(program)} instructions for {len(ranges)} ranges"
    return tuple(program)


def cover(numbers: Iterable[int], most: int = MOST_RANGES) -> list[tuple[int, int]]:
    """The numbers as ascending inclusive ranges, at most `most`; beyond that the smallest gaps are covered too."""
    ranges: list[tuple[int, int]] = []
    for number in sorted(set(numbers)):
        if ranges and ranges[-1][1] + 1 == number:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    surplus = len(ranges) - most
    if surplus <= 0:
        return ranges
    gaps = sorted(range(len(ranges) - 1), key=lambda i: (ranges[i + 1][0] - ranges[i][1], i))
    closed = set(gaps[:surplus])
    merged: list[tuple[int, int]] = []
    for i, (first, last) in enumerate(ranges):
        if i - 1 in closed:
            merged[-1] = (merged[-1][0], last)
        else:
            merged.append((first, last))
    return merged


def _append_search(program: list[Instruction], ranges: Sequence[tuple[int, int]], begin: int, end: int) -> None:
    """Append a search tree over ranges[begin:end]. Conditional jumps reach 255 instructions, so forks use the long jump."""
    if end - begin == 1:
        first, last = ranges[begin]
        program.append(Instruction(JUMP_GREATER_OR_EQUAL, 0, 2, first))
        program.append(Instruction(JUMP_GREATER, 1, 0, last))
        program.append(_ACCEPTED)
        program.append(_DROPPED)
        return
    middle = (begin + end) // 2
    program.append(Instruction(JUMP_GREATER_OR_EQUAL, 0, 1, ranges[middle][0]))
    fork = len(program)
    program.append(_DROPPED)  # Replaced below, when it is known how far the upper half is.
    _append_search(program, ranges, begin, middle)
    program[fork] = Instruction(JUMP, 0, 0, len(program) - fork - 1)
    _append_search(program, ranges, middle, end)
