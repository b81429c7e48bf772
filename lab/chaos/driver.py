"""Do a plan to a lab and record what happens. Called by `python -m lab chaos`.

The client asks for every Service's address by ARP all the time, and dumpcap writes what is answered and announced on its cable. After
each round everything is healed; when all Pods are ready again and SETTLE_S has passed, the calm begins that the verdicts are about,
long enough for every address to be asked for ASKED_IN_CALM times. Deeds are logged with their times, so `lab timeline` tells
them beside what the daemons logged. It refuses to run in a lab that is up: chaos is for a lab of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import time
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from config.model import EXCLUDE_LABEL
from kube.errors import KubeError
from kube.objects import Service
from kube.resources import L2_ADVERTISEMENTS, NODES, SERVICES
from lab import asking, capture, control, daemons, lifecycle
from lab.chaos import verdicts
from lab.chaos.plan import ROUND_S, Deed, Exclude, KillProcess, Narrow, Round, Step, plan
from lab.chaos.verdicts import Sample
from lab.paths import LAB, LabError, Paths
from lab.scenarios.stage import NAMESPACE, SYSTEM, Stage, until_async
from lab.topology import FIRST_POOL_OFFSET, Topology

ASK_EVERY_S: Final = 0.01
ASKED_IN_CALM: Final = 3
SETTLE_S: Final = 8.0
SAMPLE_EVERY_S: Final = 5.0
RECOVER_S: Final = 90.0
MADE_AT_ONCE: Final = 20


@dataclass(slots=True)
class Record:
    """What a run saw."""

    directory: Path
    began: float
    calms: list[tuple[float, float]] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)

    def say(self, what: str, **facts: object) -> None:
        """A line for whoever watches, and one for the timeline."""
        at = time.monotonic()
        print(f"{at - self.began:8.1f} s  {what} {' '.join(str(fact) for fact in facts.values())}".rstrip(), flush=True)
        with (self.directory.parent / "chaos.log").open("ab") as log:
            log.write(msgspec.json.encode({"mono": at, "level": "info", "msg": what, **facts}) + b"\n")


def chaos(where: Paths, *, length_s: float, seed: int, nodes: int, services: int) -> int:
    """Bring a lab up, do it, take it away; returns 0 when the verdicts find nothing.

    Raises:
        LabError, TopologyError: the lab cannot be, is up already, or did not come to rest in time.

    """
    names = [f"n{number}" for number in range(1, nodes + 1)]
    try:
        rounds = plan(seed, max(1, math.ceil(length_s / ROUND_S)), names)
    except ValueError as error:
        raise LabError(str(error)) from None
    print(f"chaos: seed {seed}, {len(rounds)} rounds of {ROUND_S:g} s, {nodes} nodes, {services} Services", flush=True)
    lifecycle.up(where, nodes=nodes)
    try:
        found = asyncio.run(_run(where, rounds, services))
    except (KubeError, TimeoutError) as error:
        raise LabError(f"chaos: {error}; logs are in {where.logs}") from error
    finally:
        lifecycle.down(where)
    print(*found, f"chaos: seed {seed}: {len(found) or 'no'} findings; the record is in {where.logs / 'chaos'}", sep="\n")
    print(f"  {LAB} timeline --capture {where.logs / 'chaos' / 'client.pcap'}")
    return 1 if found else 0


async def _run(where: Paths, rounds: Sequence[Round], services: int) -> list[str]:
    async with Stage.set(where) as stage:
        network = stage.topology.network
        pool = frozenset(str(network[offset]) for offset in range(FIRST_POOL_OFFSET, 256))
        if services > len(pool):
            raise LabError(f"the pool of this lab has {len(pool)} addresses, not {services}")
        record = Record(where.logs / "chaos", time.monotonic())
        record.directory.mkdir()
        before = await _make_services(stage, services)
        addresses = frozenset(address for each in before.values() for address in each)
        file = record.directory / "client.pcap"
        async with (
            capture.capturing(stage.topology, stage.topology.client.name, file, only=capture.ANNOUNCEMENTS),
            _meanwhile(
                ask=asking.ask(stage.topology, stage.topology.client.name, sorted(addresses), every_s=ASK_EVERY_S),
                sample=_sample(stage, record),
            ),
        ):
            await _calm(stage, record, len(addresses))
            for number, steps in enumerate(rounds, start=1):
                record.say("round", number=number)
                await _round(stage, record, steps)
                await _calm(stage, record, len(addresses))
            after = await _addresses(stage)
        return _judge(stage.topology, record, file, pool, before, after)


def _judge(
    topology: Topology,
    record: Record,
    file: Path,
    pool: frozenset[str],
    before: Mapping[str, list[str]],
    after: Mapping[str, list[str]],
) -> list[str]:
    frames = list(capture.read(file))
    addresses = frozenset(address for each in before.values() for address in each)
    names = {node.mac: node.name for node in topology.nodes}
    claimed = verdicts.claims(frames, addresses)
    first = verdicts.owners(claimed, record.calms[0])
    undecided = [f"before the first fault: {sorted(macs)} claim {address}" for address, macs in first.items() if len(macs) != 1]
    (record.directory / "record.json").write_bytes(
        msgspec.json.encode({"began": record.began, "calms": record.calms, "before": before, "samples": record.samples})
    )
    return undecided or [
        *verdicts.wrong_owners(claimed, record.calms[1:], names, {address: min(macs) for address, macs in first.items()}),
        *verdicts.strangers(claimed, names),
        *verdicts.unassigned(frames, pool, addresses),
        *verdicts.lost_addresses(before, after),
        *verdicts.growth(record.samples, verdicts.Allowed()),
    ]


# Services


async def _make_services(stage: Stage, count: int) -> dict[str, list[str]]:
    """So many Services, each with its address."""
    names = [f"chaos-{number}" for number in range(1, count + 1)]
    for batch in (names[at : at + MADE_AT_ONCE] for at in range(0, count, MADE_AT_ONCE)):
        await asyncio.gather(*(stage.create_service(name) for name in batch))

    async def all_have() -> dict[str, list[str]] | None:
        found = await _addresses(stage)
        return found if len(found) >= count and all(found.values()) else None

    return await until_async(
        all_have, limit_s=RECOVER_S, what=f"an address for each of {count} Services", logs=stage.where.logs
    )


async def _addresses(stage: Stage) -> dict[str, list[str]]:
    found: list[Service] = (await stage.kube.list(SERVICES, namespace=NAMESPACE))[0]
    return {
        service.metadata.name: [each.ip for each in service.status.load_balancer.ingress or ()]
        for service in found
        if service.metadata.name.startswith("chaos-")
    }


# A round and the calm after it


async def _round(stage: Stage, record: Record, steps: Round) -> None:
    """Do every step and take it back; at the end nothing is in force."""
    began = time.monotonic()
    moments = sorted(
        [(step.at_s, 0, number, step) for number, step in enumerate(steps)]
        + [(step.ends_s, 1, number, step) for number, step in enumerate(steps) if not isinstance(step.deed, KillProcess)]
    )
    done: list[Step] = []
    for at_s, ends, _, step in moments:
        await asyncio.sleep(max(0.0, began + at_s - time.monotonic()))
        if ends and step not in done:
            continue
        try:
            await _do(stage, step.deed, back=bool(ends))
        except (LabError, KubeError) as error:
            record.say("not_done", deed=str(step.deed), back=bool(ends), error=str(error))
            continue
        record.say("ended" if ends else "done", deed=str(step.deed))
        if ends:
            done.remove(step)
        else:
            done.append(step)
    stage.heal()
    for step in done:
        if isinstance(step.deed, Exclude | Narrow):

            async def back(deed: Deed = step.deed) -> bool | None:
                with contextlib.suppress(KubeError):
                    await _do(stage, deed, back=True)
                    return True
                return None

            await until_async(back, limit_s=RECOVER_S, what=f"{step.deed} taken back", logs=stage.where.logs)
            record.say("ended", deed=str(step.deed))


async def _do(stage: Stage, deed: Deed, *, back: bool) -> None:
    match deed:
        case KillProcess(node, name):
            control.ask(stage.where, "kill-process", node=node, name=name)
        case Exclude(node):
            labels = {EXCLUDE_LABEL: None if back else ""}
            await stage.kube.patch(NODES, node, {"metadata": {"labels": labels}})
        case Narrow(node):
            others = [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "NotIn", "values": [node]}]}]
            spec = {"nodeSelectors": None if back else others}
            await stage.kube.patch(L2_ADVERTISEMENTS, "default", {"spec": spec}, namespace=SYSTEM)
        case _:
            (stage.heal if back else stage.inject)(deed)


async def _calm(stage: Stage, record: Record, addresses: int) -> None:
    """Wait until the cluster has recovered, let it settle, and give every address time to be asked for."""
    healed = time.monotonic()
    await stage.until_speakers_ready()
    await asyncio.sleep(SETTLE_S)
    begin = time.monotonic()
    await asyncio.sleep(addresses * ASK_EVERY_S * ASKED_IN_CALM)
    record.calms.append((begin, time.monotonic()))
    record.say("calm", ready_after_s=round(begin - SETTLE_S - healed, 1))


# What goes on all the time


@contextlib.asynccontextmanager
async def _meanwhile(**parts: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run these for as long as the body runs."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(part, name=name) for name, part in parts.items()]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


async def _sample(stage: Stage, record: Record) -> None:
    """What the product's processes hold, every few seconds."""
    while True:
        for pod in stage.status()["pods"]:
            if pod["namespace"] == SYSTEM and pod["pids"]:
                status = await daemons.status_below(Path(pod["directory"]))
                for container, pid in pod["pids"].items():
                    with contextlib.suppress(OSError):
                        record.samples.append(_look_at(f"{pod['name']}/{container}", pid, (status or {}).get("tasks")))
        await asyncio.sleep(SAMPLE_EVERY_S)


def _look_at(name: str, pid: int, tasks: int | None) -> Sample:
    process = Path(f"/proc/{pid}")
    status = dict(line.split(":", 1) for line in (process / "status").read_text(encoding="utf-8").splitlines())
    return Sample(
        at=time.monotonic(),
        name=name,
        pid=pid,
        rss_kib=int(status.get("VmRSS", "0 kB").split()[0]),
        descriptors=len(os.listdir(process / "fd")),  # noqa: PTH208 - Only how many.
        threads=int(status["Threads"]),
        tasks=tasks,
    )
