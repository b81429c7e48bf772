"""Speakers as processes: real gossip, real sockets, the lab's API server; what they do when parts of the world are killed.

Two speakers (nodes a and b) share one network namespace with a cable to a client's namespace. Which of them announces is read
from their logs; that the client's kernel believes it is for tests/interop/test_kernel_neighbours.py to show.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kube.resources import EVENTS, NODES
from tests.speaker_cluster import NAMESPACE, Cluster, prepared

pytestmark = pytest.mark.needs("root")

ROOT = Path(__file__).parents[2]
ADDRESS = {"a": "127.0.0.1", "b": "127.0.0.2"}
GOSSIP_PORT = 7946
DEADLINE_S = 30.0
VIP = "192.0.2.10"


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


@contextmanager
def a_namespace() -> Iterator[str]:
    """A network namespace with loopback and one interface that has a neighbour."""
    name = f"lbsp{os.getpid()}"
    with ExitStack() as stack:
        for one in (name, f"{name}c"):
            ip("netns", "add", one)
            stack.callback(ip, "netns", "del", one)
        ip("-n", name, "link", "set", "lo", "up")
        ip("-n", name, "link", "add", "uplink", "type", "veth", "peer", "name", "eth0", "netns", f"{name}c")
        ip("-n", name, "link", "set", "uplink", "up")
        ip("-n", f"{name}c", "link", "set", "eth0", "up")
        yield name


async def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"after {DEADLINE_S:g} s still not: {what}"
        await asyncio.sleep(0.01)


@dataclass
class Speaker:
    """A speaker process and what it said."""

    node: str
    log: Path
    process: asyncio.subprocess.Process

    def lines(self) -> list[Mapping[str, Any]]:
        return [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines() if line.endswith("}")]

    def said(self, message: str, **facts: object) -> list[Mapping[str, Any]]:
        return [line for line in self.lines() if line["msg"] == message and all(line.get(key) == facts[key] for key in facts)]

    def owns(self, address: str) -> bool:
        """Whether the last thing it said about an address is that it announces it."""
        about = [line["msg"] for line in self.lines() if line.get("address") == address]
        about = [message for message in about if message.startswith("address_")]
        return bool(about) and about[-1] == "address_announced"

    def kill(self) -> None:
        self.process.kill()


@dataclass
class Stage:
    """The cluster, the namespace and the speakers."""

    namespace: str
    port: int
    state: Path
    cluster: Cluster = field(init=False)
    api: asyncio.subprocess.Process = field(init=False)
    speakers: dict[str, Speaker] = field(default_factory=dict)

    async def begin(self, node: str) -> Speaker:
        """Start the speaker of a node."""
        log = self.state / f"{node}-{time.monotonic_ns()}.log"
        arguments = [
            *("--node-name", node, "--namespace", NAMESPACE, "--pod-name", f"speaker-{node}", "--port", "0"),
            *("--health-probe-port", "0", "--status-socket", str(self.state / f"{node}.sock")),
            *("-ml-bindaddr", ADDRESS[node], "-ml-bindport", str(GOSSIP_PORT), "-ml-labels", "app=metallb,component=speaker"),
            *("-ml-secret-key-path", str(self.state)),
        ]
        with log.open("wb") as out:
            process = await asyncio.create_subprocess_exec(
                *("ip", "netns", "exec", self.namespace, sys.executable, "-m", "speaker", *arguments),
                cwd=ROOT,
                env={**os.environ, "KUBECONFIG": str(self.cluster.kubeconfig)},
                stdout=out,
            )
        self.speakers[node] = Speaker(node, log, process)
        return self.speakers[node]

    async def begin_api(self) -> Path:
        """Start the API server, on the same port each time; its kubeconfig once it answers."""
        here = f"127.0.0.1:{self.port}"
        listen = ("--listen", here, "--listen-netns", f"{self.namespace}={here}", "--state", str(self.state / "api"))
        self.api = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "lab", "apiserver", *listen), cwd=ROOT, stdout=subprocess.PIPE
        )
        assert self.api.stdout is not None
        ready = json.loads(await self.api.stdout.readline())
        return Path(ready["kubeconfig"])

    async def api_away(self) -> None:
        """Kill -9."""
        self.api.kill()
        await self.api.communicate()

    async def api_back(self) -> None:
        await self.begin_api()

    def owners(self, address: str) -> list[str]:
        return [node for node, one in sorted(self.speakers.items()) if one.process.returncode is None and one.owns(address)]

    async def owner(self, address: str, *, but: str = "") -> Speaker:
        """The one speaker that announces an address, once there is exactly one (and it is not `but`)."""
        await until(lambda: self.owners(address) not in ([], [but]) and len(self.owners(address)) == 1, f"{address} owned")
        return self.speakers[self.owners(address)[0]]

    def other(self, speaker: Speaker) -> Speaker:
        return next(one for one in self.speakers.values() if one is not speaker)


@asynccontextmanager
async def a_stage(tmp_path: Path) -> AsyncIterator[Stage]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "secretkey").write_text("QUJDREVGR0hJSktMTU5PUA")
    with a_namespace() as namespace:
        stage = Stage(namespace, port, tmp_path)
        try:
            async with prepared(await stage.begin_api()) as stage.cluster:
                for node, address in ADDRESS.items():
                    await stage.cluster.node(node)
                    await stage.cluster.speaker_pod(node, address)
                await stage.cluster.configure()
                yield stage
        finally:
            for one in stage.speakers.values():
                if one.process.returncode is None:
                    one.process.kill()
                await one.process.wait()
            if stage.api.returncode is None:
                await stage.api_away()


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with a_stage(tmp_path) as made:
        yield made


@pytest.fixture
async def pair(stage: Stage) -> Stage:
    """Both speakers run and know each other."""
    for node in ADDRESS:
        await stage.begin(node)
    await until(lambda: all(one.said("announcing_allowed") for one in stage.speakers.values()), "both may announce")
    return stage


async def test_a_service_is_announced_by_one_of_two_and_reported(pair: Stage) -> None:
    await pair.cluster.service("web")
    await pair.cluster.give("web", VIP)
    owner = await pair.owner(VIP)
    await until(lambda: owner.said("first_garp_sent", address=VIP, interface="uplink"), "a gratuitous ARP")
    deadline = time.monotonic() + DEADLINE_S
    while [one.document.get("status", {}).get("node") for one in await pair.cluster.statuses()] != [owner.node]:
        assert time.monotonic() < deadline, "no ServiceL2Status"
    events, _ = await pair.cluster.client.list(EVENTS, namespace="default")
    assert any(f'"{owner.node}"' in one.document["message"] for one in events)
    assert not pair.other(owner).said("address_announced")


async def test_a_dead_speakers_address_moves_although_the_api_server_is_away(pair: Stage) -> None:
    await pair.cluster.service("web", VIP)
    owner = await pair.owner(VIP)
    heir = pair.other(owner)
    await pair.api_away()
    owner.kill()
    await until(lambda: heir.said("first_garp_sent", address=VIP), "the other announces")
    (dead,) = heir.said("member_dead", node=owner.node)
    (announced,) = heir.said("address_announced", address=VIP)
    assert (announced["was"], announced["reason"]) == (owner.node, "WON_ELECTION")
    assert heir.said("member_suspected", node=owner.node)[0]["mono"] < dead["mono"] <= announced["mono"]
    await pair.api_back()


async def test_a_killed_speaker_takes_its_address_back_only_after_it_has_joined(pair: Stage) -> None:
    await pair.cluster.service("web", VIP)
    owner = await pair.owner(VIP)
    owner.kill()
    await owner.process.wait()
    again = await pair.begin(owner.node)
    await until(lambda: again.said("first_garp_sent", address=VIP), "it announces again")
    (allowed,) = again.said("announcing_allowed")
    assert allowed["cause"] == "joined"
    assert allowed["mono"] <= again.said("first_garp_sent", address=VIP)[0]["mono"]
    assert (await pair.owner(VIP)).node == owner.node


async def test_sigterm_hands_over_within_its_bound_and_ends(pair: Stage) -> None:
    """The two share an interface, so the heir cannot be told from its predecessor by a MAC address: the wait ends by its bound."""
    await pair.cluster.service("web", VIP)
    owner = await pair.owner(VIP)
    heir = pair.other(owner)
    owner.process.send_signal(signal.SIGTERM)
    assert await owner.process.wait() == 0
    await until(lambda: heir.said("first_garp_sent", address=VIP), "the other announces")
    (released,) = owner.said("address_handed_over", address=VIP)
    assert (released["to"], released["cause"]) == (heir.node, "successorSilent")
    assert heir.said("first_garp_sent", address=VIP)[0]["mono"] < released["mono"], "the heir came first"
    assert heir.said("member_left", node=owner.node)
    assert not heir.said("member_dead")


async def test_what_is_announced_stays_announced_while_the_api_server_is_away(pair: Stage) -> None:
    await pair.cluster.service("web", VIP)
    owner = await pair.owner(VIP)
    await pair.api_away()
    await until(lambda: owner.said("watch_failed"), "it notices")
    await pair.api_back()
    await until(lambda: owner.said("api_answers_again"), "it is back")
    await pair.cluster.service("dns", "192.0.2.11")
    await pair.owner("192.0.2.11")
    assert not [line for one in pair.speakers.values() for line in one.said("address_withdrawn")]


async def test_a_speaker_that_starts_without_an_api_server_waits_and_says_so(stage: Stage) -> None:
    await stage.cluster.service("web", VIP)
    await stage.api_away()
    one = await stage.begin("a")
    await until(lambda: one.said("waiting_for_lists"), "it says so")
    assert not one.said("gossip_started"), "a member would be a candidate for the others"
    await stage.api_back()
    await until(lambda: one.said("gossip_started"), "it goes on")


async def test_listed_speakers_that_do_not_answer_hold_it_back_for_fifteen_seconds(stage: Stage) -> None:
    await stage.cluster.service("web", VIP)
    alone = await stage.begin("a")
    await until(lambda: alone.said("gossip_started"), "it has started")
    await until(lambda: alone.said("first_garp_sent", address=VIP), "it announces")
    (allowed,) = alone.said("announcing_allowed")
    assert allowed["cause"] == "nobodyAnswered"
    assert allowed["level"] == "warn"
    assert allowed["mono"] - alone.said("gossip_started")[0]["mono"] >= 15.0


async def test_a_speaker_whose_node_object_is_deleted_falls_silent_and_the_other_takes_over(pair: Stage) -> None:
    await pair.cluster.service("web", VIP)
    owner = await pair.owner(VIP)
    await pair.cluster.client.delete(NODES, owner.node)
    heir = await pair.owner(VIP, but=owner.node)
    assert heir is not owner
    (withdrawn,) = owner.said("address_withdrawn")
    assert withdrawn["reason"] == "NODE_UNKNOWN"


async def test_the_status_socket_tells_members_decisions_and_reasons(pair: Stage) -> None:
    await pair.cluster.service("web", VIP)
    owner = await pair.owner(VIP)
    reader, writer = await asyncio.open_unix_connection(str(pair.state / f"{owner.node}.sock"))
    writer.write(b"GET /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    status = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert (status["component"], status["node"], status["gossip"]["hold"]) == ("speaker", owner.node, "")
    assert [one["name"] for one in status["gossip"]["members"]] == ["a", "b"]
    decision = status["plan"]["services"]["default/web"]
    assert (decision["announcing"], decision["winner"], decision["reason"]) == (True, owner.node, "WON_ELECTION")
    assert status["plan"]["owned"] == {VIP: ["uplink"]}
