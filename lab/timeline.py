"""Put what happened in a lab in one order: what daemons and the lab logged, frames of captures, what a client saw. Pure but for files.

`python -m lab timeline`, the scenarios and the chaos run make Moments here and show them as text, JSON or a picture (lab.picture).
All logs have CLOCK_MONOTONIC, one clock for all processes of the machine; captures are brought to it by lab.capture.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from lab import capture
from lab.frames import Gossip
from lab.topology import Topology

LAB_LANE: Final = "lab"
_FURNITURE: Final = frozenset({"ts", "mono", "level", "caller", "component", "msg", "part", "exception", "stack"})
_FAULTS: Final = frozenset({"fault_injected", "fault_healed", "processes_killed", "node_killed", "node_restored"})
_GOSSIP: Final = ("member_", "gossip_", "join_")


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened. `at` is CLOCK_MONOTONIC in seconds; `where` a machine, `lab`, or a Pod that is on no known node."""

    at: float
    where: str
    kind: str
    """fault, gossip, log, frame or client."""
    what: str
    facts: Mapping[str, Any] = {}

    def __str__(self) -> str:
        facts = " ".join(f"{name}={_short(value)}" for name, value in self.facts.items())
        return f"{self.where:8} {self.kind:6} {self.what}{' ' + facts if facts else ''}"


def _short(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def lines(file: Path) -> Iterator[dict[str, Any]]:
    """The lines of a log that are JSON objects with a time and a message."""
    for text in file.read_bytes().splitlines():
        try:
            facts = msgspec.json.decode(text)
            if isinstance(facts["mono"], float | int) and isinstance(facts["msg"], str):
                yield facts
        except (msgspec.DecodeError, KeyError, TypeError):
            continue


def from_log(file: Path) -> Iterator[Moment]:
    """What one process logged. A speaker says on which node it is; other Pods are told by their name."""
    where = LAB_LANE if file.stem in {"supervisor", "apiserver"} else _pod(file.stem)
    for facts in lines(file):
        if facts["msg"] == "speaker_started":
            where = str(facts["node"])
        kind = "fault" if facts["msg"] in _FAULTS else "gossip" if facts["msg"].startswith(_GOSSIP) else "log"
        shown = {name: value for name, value in facts.items() if name not in _FURNITURE}
        yield Moment(at=facts["mono"], where=where, kind=kind, what=facts["msg"], facts=shown)


def logs(directory: Path) -> list[Iterator[Moment]]:
    """from_log of every log of a lab."""
    return [from_log(file) for file in sorted(directory.glob("*.log"))]


def _pod(stem: str) -> str:
    """The Pod's name in the name of a log: NAMESPACE_POD_CONTAINER."""
    parts = stem.split("_")
    return parts[1] if len(parts) == 3 else stem


def from_capture(file: Path, topology: Topology) -> Iterator[Moment]:
    """What passed the cable where a file was captured; a frame is told by the machine that sent it.

    Raises:
        LabError: the file is no capture.

    """
    by_mac = {machine.mac: machine.name for machine in topology.machines}
    by_ip = {str(ip): machine.name for machine in topology.machines for ip in (machine.ip, machine.ip6)}
    for frame in capture.read(file):
        sender = (
            by_ip.get(frame.source, frame.source) if isinstance(frame, Gossip) else by_mac.get(frame.from_mac, frame.from_mac)
        )
        yield Moment(at=frame.at, where=sender, kind="frame", what=str(frame), facts={"seen_in": file.stem})


def merged(*sources: Iterable[Moment], since: float = float("-inf"), until: float = float("inf")) -> list[Moment]:
    """All moments of a span of time, in order."""
    found = (moment for source in sources for moment in source if since <= moment.at <= until)
    return sorted(found, key=lambda moment: moment.at)


def text(moments: Sequence[Moment], *, zero: float) -> list[str]:
    """A line for each moment, with the milliseconds since `zero`."""
    return [f"{(moment.at - zero) * 1000:+10.1f} ms  {moment}" for moment in moments]
