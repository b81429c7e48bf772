"""Judge how an address moved, from what passed the client's cable: who announced it, who answered, which question nobody answered.

lab.scenarios.planned_moves and tests use it on captures. It reads lab.frames only, none of the product's code: a second opinion.
Pure. It knows one address at a time and no reasons.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from lab.frames import Arp, Frame


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """An address went from one MAC address to another, by a gratuitous frame of the new one at `at`.

    `both_s` is how long after that frame the former owner still answered; 0 if it did not.
    """

    at: float
    was: str
    now: str
    both_s: float = 0.0


class Story(msgspec.Struct, frozen=True, kw_only=True):
    """What became of an address. `unannounced` are answers of somebody who neither announced the address nor just lost it."""

    owner: str
    moves: tuple[Move, ...] = ()
    unannounced: tuple[tuple[float, str], ...] = ()


def story(frames: Iterable[Frame], address: str, owner: str) -> Story:
    """Follow an address from its first owner, by MAC address, through frames in order of time."""
    moves: list[Move] = []
    unannounced: list[tuple[float, str]] = []
    for frame in frames:
        if frame.claims is None or frame.claims[0] != address:
            continue
        mac = frame.claims[1]
        if mac == owner:
            continue
        if _announces(frame):
            moves.append(Move(at=frame.at, was=owner, now=mac))
            owner = mac
        elif moves and mac == moves[-1].was:
            moves[-1] = msgspec.structs.replace(moves[-1], both_s=frame.at - moves[-1].at)
        else:
            unannounced.append((frame.at, mac))
    return Story(owner=owner, moves=tuple(moves), unannounced=tuple(unannounced))


def _announces(frame: Frame) -> bool:
    return not isinstance(frame, Arp) or frame.gratuitous


def questions(frames: Iterable[Frame], address: str) -> list[Arp]:
    """Who asked by broadcast for an address, in the frames' order."""
    return [
        one
        for one in frames
        if isinstance(one, Arp)
        and one.operation == 1
        and one.target == address
        and not one.gratuitous
        and one.to_mac == "ff:ff:ff:ff:ff:ff"
    ]


def unanswered(frames: Sequence[Frame], address: str, *, until: float) -> list[Arp]:
    """The questions for an address that were asked before a moment and got no answer before the same asker asked again.

    An asker is known by its IP address, which the answer is addressed to (RFC 826). Whoever wants each question judged on its own
    asks each in another name.
    """
    open_: dict[str, Arp] = {}
    found: list[Arp] = []
    asked = {id(one) for one in questions(frames, address)}
    for frame in frames:
        if not isinstance(frame, Arp):
            continue
        if id(frame) in asked and frame.at < until:
            if frame.sender in open_:
                found.append(open_[frame.sender])
            open_[frame.sender] = frame
        elif frame.operation == 2 and frame.sender == address and not frame.gratuitous:
            open_.pop(frame.target, None)
    return sorted([*found, *open_.values()], key=lambda one: one.at)
