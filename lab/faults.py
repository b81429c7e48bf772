"""What can go wrong in a lab on demand: the faults as values, what they are called, and what they mean for the switch. Pure.

The command line and the scenarios make faults, lab.control carries them to the supervisor, lab.injector puts them in force with
what rules() and delays() say here. Faults add up; a second `loss` or `delay` of the same machine takes the place of the first.
This module touches nothing: names are checked against a Topology, the outcome is text and numbers.

`str(fault)` is the command that makes it, and the name under which `lab status` lists it and `lab heal` takes it back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import permutations
from typing import Final

import msgspec

from lab.topology import CONTROL_PLANE, Topology

TABLE: Final = "lab_faults"
FAR: Final = "far-"
"""The tap on a machine's side of a delayed cable; frames there have not crossed the switch."""
LATE: Final = "late-"
"""The tap on the switch's side of a delayed cable: the machine's port for as long as the cable is delayed."""
LONGEST_DELAY_MS: Final = 10_000.0
_DICE: Final = 10_000


class FaultError(ValueError):
    """The fault cannot be; the message says which word is wrong and what would be right."""


class Fault(msgspec.Struct, frozen=True, tag_field="fault"):
    """One thing that is wrong."""

    @property
    def place(self) -> object:
        """Two faults in the same place are not in force together: the later one counts."""
        return self

    def check(self, topology: Topology) -> None:
        """Raise FaultError or TopologyError when this fault cannot be in that lab."""
        raise NotImplementedError


class NodeFault(Fault, frozen=True):
    """Something that happens to a node as a whole."""

    node: str

    @property
    def place(self) -> object:
        """A node that is frozen and then loses power is no longer frozen."""
        return ("node", self.node)

    def check(self, topology: Topology) -> None:
        """There must be such a node."""
        topology.node(self.node)


class Kill(NodeFault, frozen=True, tag="kill"):
    """A node has no power: its cable is pulled, all its processes are dead."""

    def __str__(self) -> str:
        return f"kill {self.node}"


class Freeze(NodeFault, frozen=True, tag="freeze"):
    """All processes of a node are stopped (SIGSTOP), its kubelet too; its kernel goes on."""

    def __str__(self) -> str:
        return f"freeze {self.node}"


class LinkDown(NodeFault, frozen=True, tag="link-down"):
    """A node's cable is pulled: eth0 has no carrier; addresses and routes stay."""

    @property
    def place(self) -> object:
        """A cable is not the node's power."""
        return ("link", self.node)

    def __str__(self) -> str:
        return f"link down {self.node}"


class ApiStop(Fault, frozen=True, tag="api-stop"):
    """The API server is dead and does not come back."""

    def check(self, topology: Topology) -> None:
        """It can always be."""

    def __str__(self) -> str:
        return "api stop"


class Partition(Fault, frozen=True, tag="partition"):
    """No frame passes between machines of different groups. A machine in no group reaches all, and all reach it."""

    groups: tuple[tuple[str, ...], ...]

    def check(self, topology: Topology) -> None:
        """At least two groups of machines, and no machine twice."""
        if len(self.groups) < 2 or not all(self.groups):
            raise FaultError("a partition needs two groups or more: 'n1,n2 | n3'")
        names = [name for group in self.groups for name in group]
        for name in names:
            topology.machine(name)
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise FaultError(f"{', '.join(twice)} cannot be named twice in one partition")

    def __str__(self) -> str:
        return f"partition {' | '.join(','.join(group) for group in self.groups)}"


class OneWay(Fault, frozen=True, tag="one-way"):
    """Frames of one machine do not reach another; the other way they do."""

    sender: str
    receiver: str

    def check(self, topology: Topology) -> None:
        """Two different machines."""
        topology.machine(self.sender)
        topology.machine(self.receiver)
        if self.sender == self.receiver:
            raise FaultError(f"{self.sender} cannot be cut off from itself")

    def __str__(self) -> str:
        return f"one-way {self.sender} {self.receiver}"


class Loss(Fault, frozen=True, tag="loss"):
    """So many of a hundred frames vanish on the switch: all frames, or those to and from one machine."""

    percent: float
    machine: str | None = None

    @property
    def place(self) -> object:
        """One for the whole switch, one for each machine."""
        return ("loss", self.machine)

    def check(self, topology: Topology) -> None:
        """A share of frames, and a machine if one is named."""
        if not 0 < self.percent <= 100:
            raise FaultError(f"loss takes a percentage above 0 and up to 100, not {self.percent:g}; heal ends a loss")
        if self.machine is not None:
            topology.machine(self.machine)

    def __str__(self) -> str:
        return " ".join(filter(None, (f"loss {self.percent:g}", self.machine)))


class Delay(Fault, frozen=True, tag="delay"):
    """Every frame that crosses the switch comes so much later; or every frame to and from one machine."""

    ms: float
    machine: str | None = None

    @property
    def place(self) -> object:
        """One for the whole switch, one for each machine."""
        return ("delay", self.machine)

    def check(self, topology: Topology) -> None:
        """A time, and a machine if one is named."""
        if not 0 < self.ms <= LONGEST_DELAY_MS:
            raise FaultError(f"delay takes milliseconds, above 0 and up to {LONGEST_DELAY_MS:g}, not {self.ms:g}; heal ends it")
        if self.machine is not None:
            topology.machine(self.machine)

    def __str__(self) -> str:
        return " ".join(filter(None, (f"delay {self.ms:g}", self.machine)))


AnyFault = Kill | Freeze | LinkDown | ApiStop | Partition | OneWay | Loss | Delay


def groups(words: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The groups of a partition as a user writes them: 'n1,n2 | n3', or one word for each group."""
    text = " ".join(words)
    parts = text.split("|") if "|" in text else text.split()
    return tuple(tuple(part.replace(",", " ").split()) for part in parts)


def cuts(faults: Iterable[Fault]) -> frozenset[tuple[str, str]]:
    """The pairs (sender, receiver) of machines between which no frame passes in that direction."""
    found: set[tuple[str, str]] = set()
    for fault in faults:
        match fault:
            case OneWay(sender, receiver):
                found.add((sender, receiver))
            case Partition(parts):
                for one, other in permutations(parts, 2):
                    found.update((a, b) for a in one for b in other)
    return frozenset(found)


def unplugged(faults: Iterable[Fault]) -> frozenset[str]:
    """The nodes whose cable is pulled."""
    return frozenset(fault.node for fault in faults if isinstance(fault, Kill | LinkDown))


def silent(faults: Sequence[Fault]) -> frozenset[str]:
    """The nodes whose kubelet does not get through to the API server."""
    cut = {name for pair in cuts(faults) if CONTROL_PLANE in pair for name in pair} - {CONTROL_PLANE}
    return unplugged(faults) | cut | {fault.node for fault in faults if isinstance(fault, Freeze)}


def rules(faults: Sequence[Fault]) -> str:
    """What the switch drops, as a script for `nft -f` that takes the place of the one before.

    A frame passes the hook once for each port it leaves by, so a broadcast is lost for one receiver and not for another.
    """
    lines = [f"table bridge {TABLE}", f"delete table bridge {TABLE}"]
    drops: list[str] = []
    pairs = sorted(cuts(faults))
    if pairs:
        ports = (f'"{a}" . "{b}"' for one, other in pairs for a in _ports(one) for b in _ports(other))
        drops.append(f"iifname . oifname {{ {', '.join(ports)} }} drop")
    for fault in faults:
        if isinstance(fault, Loss):
            share = round(fault.percent * _DICE / 100)
            lost = f"numgen random mod {_DICE} < {share} drop" if share < _DICE else "drop"
            if fault.machine is None:
                drops.append(lost)
            else:
                ends = ", ".join(f'"{port}"' for port in _ports(fault.machine))
                drops += [f"{end} {{ {ends} }} {lost}" for end in ("iifname", "oifname")]
    if drops:
        passed = [f'{end} "{FAR}*" accept' for end in ("iifname", "oifname")]  # That is still the cable, not the switch.
        body = ["type filter hook forward priority 0; policy accept;", *passed, *drops]
        lines += [f"table bridge {TABLE} {{", "  chain forward {", *(f"    {line}" for line in body), "  }", "}"]
    return "\n".join((*lines, ""))


def _ports(machine: str) -> tuple[str, str]:
    """The port of a machine's cable, as it is and while it is delayed."""
    return machine, f"{LATE}{machine}"


def delays(faults: Iterable[Fault], topology: Topology) -> Mapping[str, tuple[float, float]]:
    """For every machine with a delayed cable: seconds by which frames from it, and frames to it, come later.

    A delay of the whole switch is laid on the way from the machine, so that it counts once for every frame.
    """
    outward = dict.fromkeys((machine.name for machine in topology.machines), 0.0)
    inward = dict(outward)
    for fault in faults:
        if isinstance(fault, Delay):
            for name in outward if fault.machine is None else (fault.machine,):
                outward[name] += fault.ms / 1000
            if fault.machine is not None:
                inward[fault.machine] += fault.ms / 1000
    return {name: (outward[name], inward[name]) for name in outward if outward[name] or inward[name]}
