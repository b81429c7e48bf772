"""The main job from end to end: addresses, answers, frames on the wire, and what happens when processes and nodes die."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from kube.errors import KubeError, NotFound
from kube.resources import CONFIG_MAPS, SERVICES
from lab import netns
from lab.leftovers import what_is_left
from lab.scenarios.stage import BACKENDS, NAMESPACE, SYSTEM, Stage, until, until_async
from tests.e2e.conftest import Lab, a_lab

pytestmark = [pytest.mark.needs("root", "nginx", "nft"), pytest.mark.timeout(180)]

T = TypeVar("T")
DEADLINE_S = 60.0
KILLS = ("controller", "speaker", "apiserver")


@asynccontextmanager
async def a_stage(lab: Lab, *services: str) -> AsyncIterator[Stage]:
    """The lab with the product, a pool and web servers, and these Services; they are gone afterwards."""
    async with Stage.set(lab.paths) as stage:
        for name in services:
            await stage.create_service(name)
        try:
            yield stage
        finally:
            stage.client.rest()
            lab.command("heal")
            for name in await addresses(stage):
                await stage.delete_service(name)


async def once_possible(stage: Stage, act: Callable[[], Awaitable[T]], what: str) -> T:
    """Do something in the API as soon as it can be done; returns what came of it."""

    async def look() -> tuple[T] | None:
        try:
            return (await act(),)
        except KubeError:
            return None

    return (await until_async(look, limit_s=DEADLINE_S, what=what, logs=stage.where.logs))[0]


async def good_answers(stage: Stage, address: str, count: int = 20) -> None:
    """The client gets so many good answers from an address, started from now on."""
    since = time.monotonic()
    stage.client.ask(address)
    good = [each for each in stage.client.attempts if each.good]
    await stage.client.until(
        lambda: (
            len([a for a in stage.client.attempts if a.good and a.address == address and a.start >= since]) >= count or None
        ),
        limit_s=DEADLINE_S,
        what=f"{count} good answers from {address} (before: {len(good)})",
    )
    stage.client.rest()


async def addresses(stage: Stage) -> dict[str, str]:
    """The Services of these tests with their addresses, once the API server says so."""
    services, _ = await once_possible(stage, lambda: stage.kube.list(SERVICES, namespace=NAMESPACE), "a list of Services")
    return {s.metadata.name: each.ip for s in services for each in s.status.load_balancer.ingress or ()}


# Frames


@dataclass(frozen=True, slots=True)
class Frame:
    """An ARP frame as tshark understands it. `at` is wall-clock time."""

    at: float
    operation: int
    source: str
    destination: str
    sender: str
    target: str


FIELDS = ("frame.time_epoch", "arp.opcode", "eth.src", "eth.dst", "arp.src.proto_ipv4", "arp.dst.proto_ipv4")


class Capture:
    """ARP on the client's wire, recorded by tshark and read back by tshark."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def frames(self) -> list[Frame]:
        words = ["tshark", "-n", "-r", str(self._file), "-Y", "arp", "-T", "fields", *(w for f in FIELDS for w in ("-e", f))]
        done = subprocess.run(words, capture_output=True, text=True, check=False)  # A file that grows ends in half a frame.
        rows = [line.split("\t") for line in done.stdout.splitlines()]
        return [Frame(float(r[0]), int(r[1]), *r[2:]) for r in rows if len(r) == len(FIELDS)]

    def about(self, address: str) -> list[Frame]:
        """What somebody says about an address, not what is asked."""
        return [frame for frame in self.frames() if frame.sender == address]


@contextmanager
def a_capture(lab: Lab, file: Path) -> Iterator[Capture]:
    plan = lab.topology
    words = netns.enter(plan.netns("client"), ["tshark", "-i", "eth0", "-f", "arp", "-w", str(file), "-q"])
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as tshark:
        try:
            capture = Capture(file)
            catch_up(lab, capture)
            yield capture
        finally:
            tshark.terminate()


def ask(lab: Lab, address: str) -> None:
    """Make the client's kernel ask who has an address, whether it thinks it knows or not."""
    lab.run_on("client", "ip", "neigh", "flush", "to", address)
    lab.run_on("client", "curl", "--silent", "--max-time", "0.3", f"http://{address}/")


def catch_up(lab: Lab, capture: Capture) -> None:
    """Wait until the file has everything up to now: ask for a machine that is not there, until the question is in it."""
    marker, since, deadline = str(lab.topology.network[9]), time.time(), time.monotonic() + DEADLINE_S
    while not [frame for frame in capture.frames() if frame.target == marker and frame.at >= since]:
        assert time.monotonic() < deadline, "tshark captures nothing"
        ask(lab, marker)


@pytest.mark.parity("L2 > type=Loadbalancer > should work for ExternalTrafficPolicy=Cluster")
async def test_a_service_gets_an_address_that_answers_and_loses_it_when_deleted(lab: Lab) -> None:
    async with a_stage(lab, "first", "second") as stage:
        first, second = await stage.address_of("first"), await stage.address_of("second")
        assert first != second
        await good_answers(stage, first)
        await good_answers(stage, second)
        await stage.delete_service("first")
        await stage.create_service("third")
        assert await stage.address_of("third") == first  # The lowest that is free.
        await stage.delete_service("third")


@pytest.mark.parity("L2 > type=Loadbalancer > should work for ExternalTrafficPolicy=Local")
async def test_local_policy_shows_the_clients_own_address_to_the_pods(lab: Lab) -> None:
    async with a_stage(lab, "local") as stage:
        await stage.kube.patch(SERVICES, "local", {"spec": {"externalTrafficPolicy": "Local"}}, namespace=NAMESPACE)
        await good_answers(stage, await stage.address_of("local"))
        client = str(stage.topology.client.ip)

        def seen() -> bool | None:
            return any(client in log.read_text() for log in lab.paths.logs.glob(f"{NAMESPACE}_{BACKENDS}-*.log")) or None

        await until(seen, limit_s=DEADLINE_S, what="the client's address in a web server's log", logs=lab.paths.logs)


async def test_frames_announce_answer_and_fall_silent(lab: Lab, tmp_path: Path) -> None:
    """Both forms of gratuitous ARP, replies by the owner only and only for owned addresses, silence after withdrawal."""
    async with a_stage(lab) as stage:
        with a_capture(lab, tmp_path / "arp.pcapng") as capture:
            await stage.create_service("frames")
            address = await stage.address_of("frames")
            mac_of = {node.mac: node.name for node in stage.topology.nodes}

            def announced() -> list[Frame] | None:
                found = [f for f in capture.about(address) if f.target == address]
                return found if {f.operation for f in found} == {1, 2} else None

            gratuitous = await until(announced, limit_s=DEADLINE_S, what="both forms of gratuitous ARP", logs=lab.paths.logs)
            owners = {frame.source for frame in gratuitous}
            assert len(owners) == 1
            assert owners <= set(mac_of)
            assert {frame.destination for frame in gratuitous} == {"ff:ff:ff:ff:ff:ff"}

            client = str(stage.topology.client.ip)

            def answered() -> list[Frame] | None:
                ask(lab, address)
                return [f for f in capture.about(address) if f.operation == 2 and f.target == client] or None

            replies = await until(answered, limit_s=DEADLINE_S, what="a reply to the client", logs=lab.paths.logs)
            assert {frame.source for frame in replies} == owners
            assert {frame.destination for frame in replies} == {stage.topology.client.mac}

            unowned = str(stage.topology.network[250])
            ask(lab, unowned)
            catch_up(lab, capture)
            assert [f for f in capture.frames() if f.target == unowned and f.operation == 1]  # It was asked for …
            assert capture.about(unowned) == []  # … and nobody spoke.

            await stage.delete_service("frames")

            def withdrawn() -> bool | None:
                lines = stage.speaker_lines(after=0.0)
                about = [
                    line.event for line in lines if line.facts.get("address") == address and line.event.startswith("address_")
                ]
                return about[-1] == "address_withdrawn" or None

            await until(withdrawn, limit_s=DEADLINE_S, what=f"{address} withdrawn", logs=lab.paths.logs)
            silent_since = time.time()
            for _ in range(3):
                ask(lab, address)
            catch_up(lab, capture)
            asked = [f for f in capture.frames() if f.target == address and f.sender == client and f.at > silent_since]
            assert len(asked) >= 2
            assert [f for f in capture.about(address) if f.at > silent_since] == []


# Death


def kill(stage: Stage, victim: str, owner: str) -> None:
    """End the API server, the controller, or the owner's speaker with SIGKILL."""
    status = stage.status()
    if victim == "apiserver":
        pids = [status["api"]["pid"]]
    else:
        pids = [
            pid
            for pod in status["pods"]
            if pod["namespace"] == SYSTEM
            and pod["name"].startswith(f"{victim}-")
            and (victim != "speaker" or pod["node"] == owner)
            for pid in pod["pids"].values()
        ]
    assert pids, f"no process of {victim} to kill"
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


async def converged(stage: Stage, before: dict[str, str]) -> None:
    """Everything works again: speakers ready, addresses as they were and answering, and a new Service gets one of its own."""
    await stage.until_speakers_ready()
    assert await addresses(stage) == before
    for address in before.values():
        await good_answers(stage, address)
    await once_possible(stage, lambda: stage.create_service("afterwards"), "a new Service")
    try:
        new = await stage.address_of("afterwards", limit_s=DEADLINE_S)
        assert new not in before.values()
        await good_answers(stage, new)
    finally:
        await stage.delete_service("afterwards")


@pytest.mark.parametrize("order", list(itertools.permutations(KILLS)), ids="-".join)
async def test_killed_processes_in_any_order_cost_no_address(lab: Lab, order: Sequence[str]) -> None:
    async with a_stage(lab, "kept-1", "kept-2") as stage:
        before = {name: await stage.address_of(name) for name in ("kept-1", "kept-2")}
        owner = await stage.settled_owner(f"{NAMESPACE}/kept-1")
        for victim in order:
            kill(stage, victim, owner)
        await converged(stage, before)


async def test_without_the_controller_addresses_go_on_answering(lab: Lab) -> None:
    async with a_stage(lab, "kept") as stage:
        before = {"kept": await stage.address_of("kept")}
        await good_answers(stage, before["kept"])
        stage.client.forget()
        stage.client.ask(before["kept"])
        kill(stage, "controller", "")
        await stage.until_speakers_ready()
        await good_answers(stage, before["kept"], 50)
        assert [attempt for attempt in stage.client.attempts if not attempt.good] == []
        await converged(stage, before)


async def test_a_deleted_service_that_returns_has_its_address_back_although_the_controller_was_killed(lab: Lab) -> None:
    async with a_stage(lab) as stage:
        await stage.create_service("sticky", {"lb.metallb-py.io/keep-address-for": "24h"})
        address = await stage.address_of("sticky")
        await good_answers(stage, address)
        await until_async(lambda: noted(stage, "sticky"), limit_s=DEADLINE_S, what="a note", logs=stage.where.logs)
        kill(stage, "controller", "")
        await stage.delete_service("sticky")
        await stage.create_service("other")
        assert await stage.address_of("other", limit_s=DEADLINE_S) != address
        await stage.create_service("sticky")
        assert await stage.address_of("sticky") == address
        await good_answers(stage, address)


async def noted(stage: Stage, service: str) -> str | None:
    """What the controller remembers of a Service, if it does."""
    try:
        found = await stage.kube.get(CONFIG_MAPS, "metallb-py-remembered-addresses", SYSTEM)
    except NotFound:
        return None
    return (found.data or {}).get(f"{NAMESPACE}.{service}")


async def test_while_the_api_server_is_away_addresses_are_answered_and_taken_over(lab: Lab) -> None:
    async with a_stage(lab, "kept") as stage:
        address = await stage.address_of("kept")
        owner = await stage.settled_owner(f"{NAMESPACE}/kept")
        await good_answers(stage, address)
        lab.command("api", "stop")
        ask(lab, address)
        await good_answers(stage, address)
        assert stage.owner_by_mac(stage.client.mac_of(address)) == owner
        lab.command("kill", owner)
        try:
            since = time.monotonic()
            stage.client.ask(address)
            await stage.client.first_good(after=since, limit_s=DEADLINE_S)
            assert stage.owner_by_mac(stage.client.mac_of(address)) not in {None, owner}
            lab.command("api", "start")
        finally:
            _restore(lab, owner)
        assert await stage.settled_owner(f"{NAMESPACE}/kept") == owner
        await converged(stage, {"kept": address})


def _restore(lab: Lab, node: str) -> None:
    """Give a node its power back."""
    if not lab.status()["nodes"][node]["powered"]:
        lab.command("restore", node)


# Scenarios and the demo, as a user runs them


def test_a_dead_nodes_address_answers_again_within_ten_seconds(lab: Lab, tmp_path: Path) -> None:
    drawn = tmp_path / "death.svg"
    printed = lab.command("run", "node_death", "--runs", "2", "-o", "json", "--picture", str(drawn))
    runs = [json.loads(line) for line in printed.splitlines()]
    assert len(runs) == 2
    for run in runs:
        assert 0 < run["outage_s"] <= 10
        assert run["owner_before"] != run["owner_after"]
        order = [run[name] for name in ("last_good", "suspected", "declared_dead", "takeover")]
        assert order == sorted(order)
        assert run["declared_dead"] <= run["first_garp"]
        assert run["neighbour_updated"] is not None
    picture = drawn.read_text(encoding="utf-8")
    assert all(words in picture for words in ("cable pulled", "member_dead", "address_announced", "first good answer"))


def test_the_first_answer_of_a_new_service_is_measured(lab: Lab) -> None:
    printed = lab.command("run", "first_service", "--runs", "3")
    assert re.search(r"^first_service: median \d+\.\d+ s, longest \d+\.\d+ s, runs 3$", printed, re.MULTILINE)
    assert re.search(r"^ +\+0\.0 ms  client +client the Service is created$", printed, re.MULTILINE)


def test_the_demo_shows_the_main_job_and_leaves_nothing() -> None:
    demo = a_lab("demo")
    printed = demo.command("demo")
    last = printed.rstrip().splitlines()[-1]
    assert re.fullmatch(r"demo: ok service=192\.168\.20\.20 ingress=192\.168\.20\.21 failover_s=\d+\.\d+", last)
    assert what_is_left(demo.paths) == []


def test_a_demo_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    demo = a_lab("interrupted")
    words = [sys.executable, "-m", "lab", "--state", str(demo.paths.root), "demo"]
    with (tmp_path / "out").open("wb") as out, subprocess.Popen(words, stdout=out, stderr=out) as process:
        deadline = time.monotonic() + DEADLINE_S
        while b"[2/6" not in (tmp_path / "out").read_bytes():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=DEADLINE_S) == 1
    assert re.search(r"^demo: failed in step \d .*KeyboardInterrupt$", (tmp_path / "out").read_text(), re.MULTILINE)
    assert what_is_left(demo.paths) == []
