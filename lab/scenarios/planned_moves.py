"""Planned moves of an address while a client asks 200 times a second: is a request lost, a question not answered, a move too many?

Every kind of move in MOVES is a run. What happened is read from a capture of the client's cable (lab.moves), not from the product:
who announced the address when, how long two nodes answered for it, and which of the questions that are asked all the time, each in
another name, got no answer. The client's program says which requests failed.

A request that is open when the address moves is cut off: its next packet reaches a node whose kernel does not know the connection.
No load balancer on layer 2 can carry it over, so such requests are counted on their own, and nothing else may fail.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from config.model import EXCLUDE_LABEL
from kube.errors import NotFound
from kube.resources import L2_ADVERTISEMENTS, NODES
from lab import asking, capture, moves
from lab.faults import Kill
from lab.frames import Arp, Frame
from lab.kinds import DEPLOYMENTS, PODS
from lab.paths import LabError
from lab.scenarios.stage import BACKENDS, NAMESPACE, READY_S, SYSTEM, Stage, until, until_async
from lab.timeline import Moment
from lab.traffic import Attempt

EVERY_S: Final = 0.005
ASK_EVERY_S: Final = 0.01
MOVED_S: Final = 30.0
BEFORE_S: Final = 0.3
LIMIT_S: Final = 0.9
"""For a request or a question to be answered: time for a busy machine, but not for asking a second time, which kernels do after 1 s."""
AFTER_S: Final = 1.2 + LIMIT_S
"""Of requests after the last move: a second round of announcements is among them. The last ones are not judged."""
SLOW_S: Final = 0.01
"""By which the client's program may note one thing later than it happened on its cable."""
HOST_LABEL: Final = "kubernetes.io/hostname"
ANOTHER: Final = "another"
"""In a path: any node; which one is the election's business."""
GRACEFUL: Final = "graceful"
NEAR: Final = "lab-scenarios/near"
"""A label of Pods; a Service that selects it has endpoints on no node but these."""


class PlannedMove(msgspec.Struct, frozen=True, kw_only=True):
    """One run. `failed` are requests that were not cut off by a move; `path` the nodes that had the address, one after the other."""

    run: int
    move: str
    address: str
    path: tuple[str, ...]
    expected: tuple[str, ...]
    requests: int
    cut: int
    failed: tuple[str, ...]
    questions: int
    unanswered: int
    both_s: float
    unannounced: int
    began: float
    ended: float

    @property
    def seconds(self) -> float:
        """For how long two nodes answered."""
        return self.both_s

    @property
    def span(self) -> tuple[float, float]:
        """From the cause to the last request."""
        return (self.began, self.ended)

    def seen(self) -> list[Moment]:
        """What failed."""
        return [Moment(at=float(text.split()[0]), where="client", kind="client", what=text) for text in self.failed]

    @property
    def flaws(self) -> list[str]:
        """What should not have been; nothing when all is well."""
        found = [f"{len(self.failed)} requests failed: {'; '.join(self.failed[:5])}"] if self.failed else []
        found += [f"{self.unanswered} of {self.questions} questions had no answer at the first try"] if self.unanswered else []
        found += [f"{self.unannounced} answers of a node that had not announced"] if self.unannounced else []
        if len(self.path) != len(self.expected) or any(
            w not in {n, ANOTHER} for n, w in zip(self.path, self.expected, strict=True)
        ):
            found.append(f"the address went {' -> '.join(self.path)}, not {' -> '.join(self.expected)}")
        return found

    def __str__(self) -> str:
        flaws = "".join(f"\n  {flaw}" for flaw in self.flaws)
        return (
            f"{self.move}: {self.address} {' -> '.join(self.path)}; {self.requests} requests, {len(self.failed)} failed, {self.cut} cut;"
            f" {self.questions} questions, {self.unanswered} unanswered; two responders {1000 * self.both_s:.1f} ms{flaws}"
        )


@dataclass(frozen=True, slots=True)
class Watched:
    """A Service's address, and the client that asks for it."""

    stage: Stage
    service: str
    address: str

    @property
    def key(self) -> str:
        """Namespace and name of the Service."""
        return f"{NAMESPACE}/{self.service}"

    async def owned_by(self, node: str) -> None:
        """Until the client believes that a node has the address."""
        client, stage = self.stage.client, self.stage
        await client.until(
            lambda: stage.owner_by_mac(client.mac_of(self.address)) == node or None,
            limit_s=MOVED_S,
            what=f"{self.address} at {node}",
        )

    async def away_from(self, node: str) -> str:
        """Who has the address, once it is somebody else."""
        client, stage = self.stage.client, self.stage

        def moved() -> str | None:
            found = stage.owner_by_mac(client.mac_of(self.address))
            return None if found == node else found

        return await client.until(moved, limit_s=MOVED_S, what=f"{self.address} away from {node}")

    def speaker(self, node: str) -> int:
        """The process of the speaker on a node.

        Raises:
            LabError: there is none now.

        """
        pods = [pod for pod in self.stage.status()["pods"] if pod["name"].startswith("speaker-") and pod["node"] == node]
        pids = [int(pid) for pod in pods for pid in pod["pids"].values()]
        if len(pids) != 1:
            raise LabError(f"{node} has {len(pids)} speakers")
        return pids[0]

    async def restart(self, node: str) -> None:
        """Tell a speaker to end, and wait until all agree again; whoever starts it is not asked."""
        pid = self.speaker(node)
        os.kill(pid, signal.SIGTERM)
        await self.restarted(node, pid)

    async def restarted(self, node: str, pid: int) -> None:
        """Until a node has another speaker than that process, and all agree again."""

        async def other() -> bool | None:
            with contextlib.suppress(LabError):
                return self.speaker(node) != pid or None
            return None

        await until_async(other, limit_s=MOVED_S, what=f"another speaker on {node}", logs=self.stage.where.logs)
        await self.stage.settled_owner(self.key)

    async def label(self, node: str, value: str | None) -> None:
        """Set or remove the exclude label."""
        await self.stage.kube.patch(NODES, node, {"metadata": {"labels": {EXCLUDE_LABEL: value}}})

    async def advertise(self, **spec: object) -> None:
        """Change the advertisement."""
        await self.stage.kube.patch(L2_ADVERTISEMENTS, "default", {"spec": spec}, namespace=SYSTEM)


# The moves. Each is given the owner, and says which nodes had the address, one after the other.


async def _restart_all(watched: Watched, owner: str) -> list[str]:
    for node in watched.stage.topology.nodes:
        await watched.restart(node.name)
    return [owner, ANOTHER, owner]


async def _exclude(watched: Watched, owner: str) -> list[str]:
    """Maintenance by label, and the return of the better candidate."""
    await watched.label(owner, "")
    try:
        other = await watched.away_from(owner)
        await watched.stage.settled_owner(watched.key)
    finally:
        await watched.label(owner, None)
    await watched.owned_by(owner)
    return [owner, other, owner]


async def _prefer(watched: Watched, owner: str) -> list[str]:
    """A changed preference, and a changed nodeSelector."""
    other = next(node.name for node in watched.stage.topology.nodes if node.name != owner)
    selector = {"matchLabels": {HOST_LABEL: other}}
    try:
        await watched.advertise(preferredNodeSelectors=[{"weight": 10, "preference": selector}])
        await watched.owned_by(other)
        await watched.stage.settled_owner(watched.key)
        await watched.advertise(preferredNodeSelectors=None)
        await watched.owned_by(owner)
        await watched.stage.settled_owner(watched.key)
        await watched.advertise(nodeSelectors=[selector])
        await watched.owned_by(other)
        await watched.stage.settled_owner(watched.key)
    finally:
        await watched.advertise(preferredNodeSelectors=None, nodeSelectors=None)
    await watched.owned_by(owner)
    return [owner, other, owner, other, owner]


async def _drain(watched: Watched, owner: str) -> list[str]:
    """The last endpoint of a Local Service leaves the owner: it ends as Pods do that are told in time."""
    stage = watched.stage
    await stage.kube.patch(NODES, owner, {"spec": {"unschedulable": True}})
    try:
        pods, _ = await stage.kube.list(PODS, namespace=NAMESPACE)
        (pod,) = [p for p in pods if p.spec.node_name == owner and (p.metadata.labels or {}).get("app") == GRACEFUL]
        await stage.kube.delete(PODS, pod.metadata.name, namespace=NAMESPACE)
        other = await watched.away_from(owner)
    finally:
        await stage.kube.patch(NODES, owner, {"spec": {"unschedulable": None}})
    return [owner, other]


async def _power(watched: Watched, owner: str) -> list[str]:
    """A node that had lost power returns; the Service's endpoints are elsewhere."""
    watched.stage.heal()
    await watched.owned_by(owner)
    await watched.stage.settled_owner(watched.key)
    return [ANOTHER, owner]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of move: what is done, for a Service of which policy in front of which Pods, and what is done before."""

    act: Callable[[Watched, str], Awaitable[list[str]]]
    selector: Mapping[str, str]
    policy: str = "Cluster"
    dead_before: bool = False


WEB: Final[Mapping[str, str]] = {"app": BACKENDS}
MOVES: Final[Mapping[str, Kind]] = {
    "rolling restart of all speakers": Kind(_restart_all, WEB),
    "exclude label set and removed": Kind(_exclude, WEB),
    "preference and selector of nodes changed and back": Kind(_prefer, WEB),
    "last endpoint of a Local Service drained": Kind(_drain, {"app": GRACEFUL}, policy="Local"),
    "the owner returns after a loss of power": Kind(_power, {NEAR: "yes"}, dead_before=True),
}


async def run(stage: Stage, runs: int) -> AsyncIterator[PlannedMove]:
    """Every kind of move, so many times."""
    for index in range(1, runs + 1):
        for name in MOVES:
            yield await once(stage, index, name)


async def once(stage: Stage, index: int, name: str) -> PlannedMove:
    """One move, with a Service of its own."""
    kind = MOVES[name]
    service = f"moving-{index}-{list(MOVES).index(name)}"
    await stage.delete_service(service)
    if kind.selector.get("app") == GRACEFUL:
        await _add_graceful(stage)
    if NEAR in kind.selector:
        await _near(stage, frozenset())
    await stage.create_service(service, selector=dict(kind.selector), externalTrafficPolicy=kind.policy)
    try:
        return await _measured(Watched(stage, service, await stage.address_of(service)), index, name, kind)
    finally:
        stage.client.rest()
        stage.heal()
        await stage.delete_service(service)
        if kind.selector.get("app") == GRACEFUL:
            await _without_graceful(stage)


async def _measured(watched: Watched, index: int, name: str, kind: Kind) -> PlannedMove:
    stage, client = watched.stage, watched.stage.client
    owner = await stage.settled_owner(watched.key)
    if NEAR in kind.selector:
        await _near(stage, frozenset({owner}))
    client.ask(watched.address, every_s=EVERY_S, limit_s=LIMIT_S)
    await watched.owned_by(owner)
    first = owner
    if kind.dead_before:
        stage.inject(Kill(owner))
        first = await watched.away_from(owner)
    async with watching(watched, watched.service, first) as seen:
        expected = await kind.act(watched, owner)
        await client.first_good(after=time.monotonic() + AFTER_S, limit_s=MOVED_S)
    told = judged(watched, seen, first)
    names = {node.mac: node.name for node in stage.topology.nodes}
    return PlannedMove(
        run=index,
        move=name,
        address=watched.address,
        path=(first, *(names.get(one.now, one.now) for one in told.story.moves)),
        expected=tuple(expected),
        requests=told.requests,
        cut=told.cut,
        failed=told.failed,
        questions=told.questions,
        unanswered=len(told.unanswered),
        both_s=max((one.both_s for one in told.story.moves), default=0.0),
        unannounced=len(told.story.unannounced),
        began=seen.began,
        ended=seen.ended,
    )


# What is watched, and what came of it


@dataclass(slots=True)
class Seen:
    """A span of time in which questions and requests were made, and the frames on the client's cable in it."""

    began: float
    ended: float = 0.0
    frames: list[Frame] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Told:
    """What became of an address, its requests and the questions for it. `failed` are requests that were not cut off by a move."""

    story: moves.Story
    requests: int
    cut: int
    failed: tuple[str, ...]
    questions: int
    unanswered: tuple[Arp, ...]


@contextlib.asynccontextmanager
async def watching(watched: Watched, file_name: str, owner: str) -> AsyncIterator[Seen]:
    """For the length of the body the client makes requests and asks who has the address, and its cable is captured."""
    stage, client, machine = watched.stage, watched.stage.client, watched.stage.topology.client.name
    directory = stage.where.logs / "planned_moves"
    directory.mkdir(exist_ok=True)
    file = directory / f"{file_name}.pcap"
    client.ask(watched.address, every_s=EVERY_S, limit_s=LIMIT_S)
    await watched.owned_by(owner)
    await client.first_good(after=time.monotonic(), limit_s=MOVED_S)
    questions = asking.ask(stage.topology, machine, [watched.address], every_s=ASK_EVERY_S, of=asking.names())
    async with capture.capturing(stage.topology, machine, file), asyncio.TaskGroup() as group:
        asked = group.create_task(questions, name="questions")
        await asyncio.sleep(BEFORE_S)
        client.forget()
        seen = Seen(time.monotonic())
        yield seen
        client.rest()
        seen.ended = time.monotonic()
        asked.cancel()
    seen.frames = list(capture.read(file))


def judged(watched: Watched, seen: Seen, first: str) -> Told:
    """What the frames and the requests say; the address was a node's at first."""
    address, until_ = watched.address, seen.ended - LIMIT_S
    story = moves.story(seen.frames, address, watched.stage.topology.node(first).mac)
    attempts = [one for one in watched.stage.client.attempts if seen.began <= one.start <= until_]
    bad = [one for one in attempts if not one.good]
    cut = [one for one in bad if is_cut(one, story.moves)]
    return Told(
        story=story,
        requests=len(attempts),
        cut=len(cut),
        failed=tuple(f"{one.start:.4f} {one.detail} after {one.end - one.start:.3f} s" for one in bad if one not in cut),
        questions=sum(one.at < until_ for one in moves.questions(seen.frames, address)),
        unanswered=tuple(moves.unanswered(seen.frames, address, until=until_)),
    )


def is_cut(attempt: Attempt, moved: Sequence[moves.Move]) -> bool:
    """Whether a connection was open when the address moved."""
    return any(attempt.start - SLOW_S <= one.at <= attempt.end + SLOW_S for one in moved)


# What the moves need


async def _near(stage: Stage, without: frozenset[str]) -> None:
    """Label the web servers of all nodes but these, and wait until the Services' slices say so."""
    pods, _ = await stage.kube.list(PODS, namespace=NAMESPACE)
    for pod in pods:
        if (pod.metadata.labels or {}).get("app") == BACKENDS:
            value = None if pod.spec.node_name in without else "yes"
            await stage.kube.patch(PODS, pod.metadata.name, {"metadata": {"labels": {NEAR: value}}}, namespace=NAMESPACE)


async def _without_graceful(stage: Stage) -> None:
    with contextlib.suppress(NotFound):
        await stage.kube.delete(DEPLOYMENTS, GRACEFUL, namespace=NAMESPACE)

    def gone() -> bool | None:
        return not [pod for pod in stage.status()["pods"] if pod["name"].startswith(f"{GRACEFUL}-")] or None

    await until(gone, limit_s=READY_S, what="no graceful web server", logs=stage.where.logs)


async def _add_graceful(stage: Stage) -> None:
    """A web server for every node that goes on for a while after it was told to end, as those of careful people do."""
    container = {
        "name": "agnhost",
        "image": "registry.k8s.io/e2e-test-images/agnhost:2.47",
        "args": ["netexec", "--http-port=80", "--delay-shutdown=2"],
        "ports": [{"name": "http", "containerPort": 80}],
        "readinessProbe": {"httpGet": {"port": 80}, "periodSeconds": 1},
    }
    await _without_graceful(stage)
    stage.deploy(GRACEFUL, container)

    def ready() -> bool | None:
        pods = stage.status()["pods"]
        on = {pod["node"] for pod in pods if pod["name"].startswith(f"{GRACEFUL}-") and pod["ready"]}
        return on == {node.name for node in stage.topology.nodes} or None

    await until(ready, limit_s=READY_S, what="a graceful web server on every node", logs=stage.where.logs)
