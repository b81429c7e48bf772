"""What goes wrong when: a pure function of a seed. Called by lab.chaos.driver and by whoever wants to see a plan before it runs.

A run is a row of rounds. In each, faults begin every 2 to 5 s and end by themselves, so several are in force together; then all are
healed, and there is calm in which every address must have one owner again. A plan never takes more than a minority of the nodes away
at a time, because what is asked is whether the product recovers, not whether it does magic.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from lab.faults import AnyFault, ApiStop, Delay, Freeze, Kill, LinkDown, Loss, OneWay, Partition
from lab.topology import CLIENT, CONTROL_PLANE

ROUND_S: Final = 30.0
FIRST_S: Final = 1.0
BETWEEN_S: Final = (2.0, 5.0)


class KillProcess(msgspec.Struct, frozen=True, tag_field="fault", tag="kill-process"):
    """A container on a node is killed; its kubelet starts it again."""

    node: str
    name: str

    def __str__(self) -> str:
        return f"kill-process {self.node} {self.name}"


class Exclude(msgspec.Struct, frozen=True, tag_field="fault", tag="exclude"):
    """A node carries the label that keeps load balancers away from it: its addresses move as planned, not by accident."""

    node: str

    def __str__(self) -> str:
        return f"exclude {self.node}"


class Narrow(msgspec.Struct, frozen=True, tag_field="fault", tag="narrow"):
    """The configuration flips: the advertisement is for all nodes but one."""

    node: str

    def __str__(self) -> str:
        return f"narrow {self.node}"


Deed = AnyFault | KillProcess | Exclude | Narrow


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A deed is done `at_s` after its round began and taken back at `ends_s`; both are one for what ends by itself."""

    at_s: float
    ends_s: float
    deed: Deed


Round = tuple[Step, ...]
"""The steps of a round in order of begin. All are taken back ROUND_S after it began."""


class _Choices:
    """What may be done, each with the least and the most time it lasts."""

    def __init__(self, rng: random.Random, nodes: Sequence[str]) -> None:
        self._rng = rng
        self._nodes = nodes
        self.kinds: list[tuple[Callable[[str], Deed], float, float, bool]] = [
            (Kill, 3.0, 8.0, True),
            (Freeze, 0.1, 1.0, True),
            (LinkDown, 0.2, 3.0, True),
            (lambda node: Partition(((node,), tuple(each for each in nodes if each != node))), 2.0, 6.0, True),
            (lambda node: OneWay(node, self._other(node)), 2.0, 6.0, True),
            (lambda node: OneWay(node, CLIENT), 1.0, 4.0, True),
            (lambda node: Partition(((node,), (CONTROL_PLANE,))), 2.0, 8.0, True),
            (lambda node: KillProcess(node, "speaker"), 0.0, 0.0, True),
            (lambda _: ApiStop(), 2.0, 8.0, False),
            (lambda _: Loss(round(rng.uniform(0.5, 5.0), 1)), 2.0, 8.0, False),
            (lambda _: Delay(float(rng.randint(1, 30))), 2.0, 8.0, False),
            (Exclude, 3.0, 6.0, True),
            (Narrow, 3.0, 6.0, True),
        ]

    def _other(self, node: str) -> str:
        return self._rng.choice([each for each in self._nodes if each != node])


def plan(seed: int, rounds: int, nodes: Sequence[str]) -> tuple[Round, ...]:
    """So many rounds for a seed, for three nodes or more. A longer plan of the same seed begins as a shorter one.

    Raises:
        ValueError: with fewer nodes every fault takes half of the cluster.

    """
    if len(nodes) < 3:
        raise ValueError(f"chaos needs 3 nodes or more, not {len(nodes)}")
    rng = random.Random(seed)  # noqa: S311 - It is to be the same for the same seed.
    choices = _Choices(rng, nodes)
    return tuple(_round(rng, choices, nodes) for _ in range(rounds))


def _round(rng: random.Random, choices: _Choices, nodes: Sequence[str]) -> Round:
    steps: list[Step] = []
    at = FIRST_S
    while at < ROUND_S:
        step = _step(rng, choices, nodes, steps, at)
        if step is not None:
            steps.append(step)
        at += rng.uniform(*BETWEEN_S)
    return tuple(steps)


def _step(rng: random.Random, choices: _Choices, nodes: Sequence[str], before: Sequence[Step], at: float) -> Step | None:
    """A deed that may be done at a moment, given what is in force then; None when chance chose one that may not."""
    there = [each for each in before if each.ends_s > at]
    make, least_s, most_s, on_node = rng.choice(choices.kinds)
    hit = {each.deed.node for each in there if hasattr(each.deed, "node")} | {
        name for each in there for name in _cut(each.deed) if name in nodes
    }
    whole = [node for node in nodes if node not in hit]
    if on_node and len(hit) + 1 > (len(nodes) - 1) // 2:
        return None
    deed = make(rng.choice(whole))
    lasts_s = rng.uniform(least_s, most_s) if most_s else 0.0
    if not on_node and any(type(each.deed) is type(deed) for each in there):
        return None
    return Step(at_s=round(at, 3), ends_s=round(min(at + lasts_s, ROUND_S), 3), deed=deed)


def _cut(deed: Deed) -> tuple[str, ...]:
    """The nodes that a cut is about; of a partition the side that is alone."""
    match deed:
        case OneWay(sender, _):
            return (sender,)
        case Partition(groups):
            return groups[0]
    return ()
