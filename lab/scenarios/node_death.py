"""The node that owns a Service's address loses power: for how long does nobody answer?

The client asks 100 times a second. The cable of the owner is pulled, then all its processes die. What is reported is the outage
as lab.traffic defines it, who owned the address before and after (by the MAC address in the client's neighbour table), and
the timeline: what the survivors logged, the first gratuitous frame on the wire, the first good answer. All CLOCK_MONOTONIC.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import msgspec

from lab.faults import Kill
from lab.paths import LabError
from lab.scenarios.stage import NAMESPACE, LogLine, Stage, until
from lab.timeline import Moment
from lab.traffic import ArpSeen, longest_gap

SETTLE_S = 60.0
TAKEOVER_S = 30.0
GOOD_BEFORE = 50
GOOD_AFTER = 100


class NodeDeath(msgspec.Struct, frozen=True, kw_only=True):
    """One run. Times of things that were not seen are null."""

    run: int
    service: str
    address: str
    outage_s: float
    owner_before: str
    owner_after: str
    cable_pulled: float
    last_good: float
    suspected: float | None
    declared_dead: float | None
    takeover: float | None
    first_garp: float | None
    neighbour_updated: float | None
    first_good: float

    @property
    def seconds(self) -> float:
        """The outage."""
        return self.outage_s

    @property
    def span(self) -> tuple[float, float]:
        """From the fault to the first good answer."""
        return (self.cable_pulled, self.first_good)

    def seen(self) -> list[Moment]:
        """What the client saw, and when the cable was pulled."""
        found = [
            (self.last_good, "client", "client", "last good answer was started"),
            (self.cable_pulled, "fault", self.owner_before, "cable pulled, then all processes killed"),
            (self.first_garp, "frame", self.owner_after, "first gratuitous ARP on the client's wire"),
            (self.neighbour_updated, "client", "client", f"neighbour table says {self.owner_after}"),
            (self.first_good, "client", "client", "first good answer was started"),
        ]
        return [Moment(at=at, kind=kind, where=where, what=what) for at, kind, where, what in found if at is not None]

    def timeline(self) -> list[tuple[float, str]]:
        """What happened, in short and in order: seconds since the cable was pulled, and words."""
        decided = [
            (self.suspected, f"{self.owner_before} suspected"),
            (self.declared_dead, f"{self.owner_before} declared dead"),
            (self.takeover, f"{self.owner_after} takes {self.address} over"),
        ]
        found = [*decided, *((moment.at, f"{moment.where}: {moment.what}") for moment in self.seen())]
        return sorted((at - self.cable_pulled, words) for at, words in found if at is not None)

    def __str__(self) -> str:
        return f"run {self.run}: {self.address} went from {self.owner_before} to {self.owner_after}, outage {self.outage_s * 1000:.0f} ms"


async def run(stage: Stage, runs: int) -> AsyncIterator[NodeDeath]:
    """Kill the owner of an address so many times, every time of another Service's."""
    names = [f"node-death-{index}" for index in range(1, runs + 1)]
    for name in names:
        await stage.delete_service(name)
        await stage.create_service(name)
    try:
        for index, name in enumerate(names, start=1):
            yield await _once(stage, index, name, await stage.address_of(name))
    finally:
        for name in names:
            await stage.delete_service(name)


async def _once(stage: Stage, index: int, name: str, address: str) -> NodeDeath:
    """One run: kill and measure, restore, wait until the old owner has the address again."""
    try:
        result = await kill_owner(stage, index, f"{NAMESPACE}/{name}", address)
    finally:
        stage.heal()
    await stage.settled_owner(f"{NAMESPACE}/{name}")
    return result


async def kill_owner(stage: Stage, index: int, service: str, address: str) -> NodeDeath:
    """Ask an address, kill the node that has it, and measure until the answers are back. The node stays dead.

    Before the kill the speakers have to agree on who announces the Service (namespace/name), and the client has to have
    learnt it: a client that asked while the address moved may know the old owner until the next announcement.
    """
    client = stage.client
    before = await stage.settled_owner(service)
    client.forget()
    client.ask(address)
    try:
        await client.until(
            lambda: (
                (
                    stage.owner_by_mac(client.mac_of(address)) == before
                    and len([each for each in client.attempts if each.good]) >= GOOD_BEFORE
                )
                or None
            ),
            limit_s=SETTLE_S,
            what=f"good answers of {before}, which announces {address}",
        )
        killed = stage.inject(Kill(before))
        return await _measure(stage, index, service, address, before, killed["unplugged"])
    finally:
        client.rest()


async def _measure(stage: Stage, index: int, service: str, address: str, before: str, pulled: float) -> NodeDeath:
    client = stage.client
    first = await client.first_good(after=pulled + 0.001, limit_s=TAKEOVER_S)
    await client.until(
        lambda: len([a for a in client.attempts if a.good and a.start >= first.start]) >= GOOD_AFTER or None,
        limit_s=TAKEOVER_S,
        what=f"{GOOD_AFTER} good answers after the takeover",
    )
    gap = longest_gap(client.attempts, after=pulled)
    assert gap is not None  # There were good answers before and after.
    mac = client.mac_of(address)
    after = stage.owner_by_mac(mac)
    if after is None or after == before:
        raise LabError(f"{address} is answered, but the client's neighbour table says {mac}, which is not a surviving node's")

    def lines() -> Sequence[LogLine] | None:
        found = stage.speaker_lines(after=pulled)
        return found if any(_is_takeover(line, address) for line in found) else None

    seen = await until(lines, limit_s=5.0, what=f"a speaker that logs it announces {address}", logs=stage.where.logs)
    garp = next(
        (f for f in client.frames if f.at >= pulled and f.sender == address and f.gratuitous and f.sender_mac == mac), None
    )
    change = next(
        (each for each in client.neighbours if each.at >= pulled and each.address == address and each.mac == mac), None
    )
    return NodeDeath(
        run=index,
        service=service,
        address=address,
        outage_s=round(gap.length_s, 4),
        owner_before=before,
        owner_after=after,
        cable_pulled=pulled,
        last_good=gap.last_good,
        suspected=_first(seen, "member_suspected", before),
        declared_dead=_first(seen, "member_dead", before),
        takeover=next((line.mono for line in seen if _is_takeover(line, address)), None),
        first_garp=garp.at if isinstance(garp, ArpSeen) else None,
        neighbour_updated=change.at if change is not None else None,
        first_good=gap.first_good,
    )


def _is_takeover(line: LogLine, address: str) -> bool:
    return line.event == "address_announced" and line.facts.get("address") == address


def _first(lines: Sequence[LogLine], event: str, node: str) -> float | None:
    return next((line.mono for line in lines if line.event == event and line.facts.get("node") == node), None)
