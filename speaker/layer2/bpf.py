"""Compile the owned addresses of an interface into classic BPF programs, so that the kernel drops all other frames.

Every speaker sees every broadcast question of its segment; with the filters only questions for addresses that this node owns
wake it, and what others claim about them. sockets.py attaches the programs, tests run them in a small interpreter. The program may let too much through (when there
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
SENDER_OFFSET = 28
TARGET_OFFSET = 38
NEXT_HEADER_OFFSET = 20
ICMP_TYPE_OFFSET = 54
IPV6_TARGET_OFFSET = 62

ACCEPT = 0xFFFF
"""How many octets of an accepted frame are delivered: all of them."""
DROP = 0
LONGEST_PROGRAM = 4096
"""BPF_MAXINSNS: the kernel refuses longer programs."""
MOST_RANGES = 335
"""Six instructions each, since a leaf has four, and a tree of n leaves has n - 1 forks of two; and for ARP two trees."""
MOST_PREFIXES = 32
"""Of 96 bits, ten instructions each; with more of them only the last 32 bits of an IPv6 address are looked at."""


class Instruction(NamedTuple):
    """struct sock_filter: opcode, how far to jump if true and if false, operand. A tuple, since thousands are made at once."""

    code: int
    jump_true: int
    jump_false: int
    operand: int


_DROPPED: Final = Instruction(RETURN, 0, 0, DROP)
_ACCEPTED: Final = Instruction(RETURN, 0, 0, ACCEPT)


def arp_filter(owned: Iterable[bytes]) -> tuple[Instruction, ...]:
    """A program that accepts, of these packed IPv4 addresses, ARP requests for one and ARP messages in the name of one.

    Frames that carried a VLAN tag belong to another link and are dropped. Without addresses the program is one instruction.
    """
    ranges = cover(int.from_bytes(address, "big") for address in owned)
    if not ranges:
        return (_DROPPED,)
    program = _only((LOAD_BYTE, VLAN_TAG_PRESENT, 0), (LOAD_HALF, ETHERTYPE_OFFSET, 0x0806))
    program.append(Instruction(LOAD_WORD, 0, 0, SENDER_OFFSET))
    misses = _append_search(program, ranges)
    _land(program, misses)
    program += _only((LOAD_HALF, OPCODE_OFFSET, 1))
    program.append(Instruction(LOAD_WORD, 0, 0, TARGET_OFFSET))
    _append_search(program, ranges)
    return _checked(program)


def any_arp() -> tuple[Instruction, ...]:
    """A program that accepts every ARP frame of this link; for moments in which the owned set changes all the time."""
    return (*_only((LOAD_BYTE, VLAN_TAG_PRESENT, 0), (LOAD_HALF, ETHERTYPE_OFFSET, 0x0806)), _ACCEPTED)


def any_ndp() -> tuple[Instruction, ...]:
    """A program that accepts every neighbour solicitation and advertisement of this link."""
    return (*_neighbour_discovery(), _ACCEPTED)


def _neighbour_discovery() -> list[Instruction]:
    return [
        *_only((LOAD_BYTE, VLAN_TAG_PRESENT, 0), (LOAD_HALF, ETHERTYPE_OFFSET, 0x86DD), (LOAD_BYTE, NEXT_HEADER_OFFSET, 58)),
        Instruction(LOAD_BYTE, 0, 0, ICMP_TYPE_OFFSET),
        Instruction(JUMP_EQUAL, 2, 0, 135),
        Instruction(JUMP_EQUAL, 1, 0, 136),
        _DROPPED,
    ]


def ndp_filter(owned: Iterable[bytes]) -> tuple[Instruction, ...]:
    """A program that accepts neighbour solicitations and advertisements whose target is one of these packed IPv6 addresses."""
    numbers = sorted({int.from_bytes(address, "big") for address in owned})
    if not numbers:
        return (_DROPPED,)
    prefixes = sorted({number >> 32 for number in numbers})
    any_prefix = len(prefixes) > MOST_PREFIXES
    program = _neighbour_discovery()
    # Numbers that keep the prefixes further apart than any two addresses below one prefix: gaps between them are closed last.
    place = dict.fromkeys(prefixes, 0) if any_prefix else {prefix: index for index, prefix in enumerate(prefixes)}
    ranges = cover((place[number >> 32] << 33) + (number & 0xFFFFFFFF) for number in numbers)
    for prefix in prefixes[: 1 if any_prefix else None]:
        start = place[prefix] << 33
        below = [(first - start, last - start) for first, last in ranges if first >> 33 == place[prefix]]
        strangers: list[int] = []
        for word in () if any_prefix else range(3):
            program.append(Instruction(LOAD_WORD, 0, 0, IPV6_TARGET_OFFSET + 4 * word))
            program.append(Instruction(JUMP_EQUAL, 1, 0, prefix >> 32 * (2 - word) & 0xFFFFFFFF))
            strangers.append(len(program))
            program.append(_DROPPED)
        program.append(Instruction(LOAD_WORD, 0, 0, IPV6_TARGET_OFFSET + 12))
        _append_search(program, below)
        _land(program, strangers)
    program.append(_DROPPED)
    return _checked(program)


def _checked(program: Sequence[Instruction]) -> tuple[Instruction, ...]:
    assert len(program) <= LONGEST_PROGRAM, f"{len(program)} instructions"
    return tuple(program)


def _only(*checks: tuple[int, int, int]) -> list[Instruction]:
    """Instructions that drop a frame unless each load at an offset gives the value."""
    program: list[Instruction] = []
    for load, offset, value in checks:
        program += [Instruction(load, 0, 0, offset), Instruction(JUMP_EQUAL, 1, 0, value), _DROPPED]
    return program


def _land(program: list[Instruction], misses: Iterable[int]) -> None:
    """Make these instructions jump to the end of the program as it is now."""
    for at in misses:
        program[at] = Instruction(JUMP, 0, 0, len(program) - at - 1)


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


def _append_search(program: list[Instruction], ranges: Sequence[tuple[int, int]]) -> list[int]:
    """Append a search tree over the ranges for the loaded word.

    It accepts what is in one, and drops what is not; returned is where it drops. Conditional jumps reach 255 instructions, so
    forks use the long jump.
    """
    if len(ranges) == 1:
        first, last = ranges[0]
        program.append(Instruction(JUMP_GREATER_OR_EQUAL, 0, 2, first))
        program.append(Instruction(JUMP_GREATER, 1, 0, last))
        program.append(_ACCEPTED)
        program.append(_DROPPED)
        return [len(program) - 1]
    middle = len(ranges) // 2
    program.append(Instruction(JUMP_GREATER_OR_EQUAL, 0, 1, ranges[middle][0]))
    fork = len(program)
    program.append(_DROPPED)  # Replaced below, when it is known how far the upper half is.
    misses = _append_search(program, ranges[:middle])
    _land(program, [fork])
    return misses + _append_search(program, ranges[middle:])
