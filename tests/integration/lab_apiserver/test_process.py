"""The server as its own process: ready line, kill -9, SIGTERM, sockets in other namespaces."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.unit.lab_apiserver.helpers import eventually

Json = dict[str, Any]
MAPS = "/api/v1/namespaces/default/configmaps"


@dataclass
class Process:
    """A running server process and its ready line."""

    child: asyncio.subprocess.Process
    ready: dict[str, str]

    def session(self) -> aiohttp.ClientSession:
        return self.session_of(self.ready)

    @staticmethod
    def session_of(ready: dict[str, str]) -> aiohttp.ClientSession:
        context = ssl.create_default_context(cafile=ready["ca"])
        headers = {"Authorization": f"Bearer {ready['token']}"}
        return aiohttp.ClientSession(ready["url"], headers=headers, connector=aiohttp.TCPConnector(ssl=context))


@contextlib.asynccontextmanager
async def process(state: Path, *more: str) -> AsyncIterator[Process]:
    command = [sys.executable, "-m", "lab.apiserver.server", "--listen", "127.0.0.1:0", "--state", str(state), *more]
    child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert child.stdout is not None
    try:
        async with asyncio.timeout(20):
            line = await child.stdout.readline()
        yield Process(child, json.loads(line))
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


@dataclass
class Ledger:
    """What the writers were told: the last acknowledged version of every object, 0 for one that is deleted."""

    state: dict[str, int] = field(default_factory=dict)
    versions: list[int] = field(default_factory=list)
    acknowledged: int = 0
    in_flight: set[str] = field(default_factory=set)

    async def write(self, session: aiohttp.ClientSession, method: str, name: str, **body: object) -> None:
        """One write; what breaks off stays in flight: nobody knows whether it was made."""
        self.in_flight.add(name)
        path = MAPS if method == "POST" else f"{MAPS}/{name}"
        headers = {"Content-Type": "application/merge-patch+json" if method == "PATCH" else "application/json"}
        document = {"metadata": {"name": name}, **body} if method in {"POST", "PUT"} else body
        async with session.request(method, path, data=json.dumps(document), headers=headers) as answer:
            said = await answer.json()
            assert answer.status < 300, said
        self.state[name] = 0 if method == "DELETE" else int(said["metadata"]["resourceVersion"])
        self.versions += [self.state[name]] if self.state[name] else []
        self.acknowledged += 1
        self.in_flight.discard(name)

    async def work(self, session: aiohttp.ClientSession, worker: str, upto: int) -> None:
        """Create, replace, patch, and delete every other object, until so many writes were acknowledged."""
        for number in itertools.count():
            name = f"{worker}-{number}"
            steps: tuple[tuple[str, dict[str, object]], ...] = (
                ("POST", {"data": {"n": "1"}}), ("PUT", {"data": {"n": "2"}}), ("PATCH", {"data": {"n": "3"}}), ("DELETE", {}),
            )  # fmt: skip
            for method, body in steps[: 4 if number % 2 else 3]:
                if self.acknowledged >= upto:
                    return
                await self.write(session, method, name, **body)


async def follow(state: Path, since: str, events: list[Json]) -> None:
    """Watch as a client does: whenever the stream ends, go on from the last version seen."""
    seen = since
    while True:
        ready = json.loads((state / "ready.json").read_text())
        with contextlib.suppress(aiohttp.ClientError):
            async with (
                Process.session_of(ready) as session,
                session.get(MAPS, params={"watch": "1", "resourceVersion": seen}) as answer,
            ):
                async for line in answer.content:
                    event = json.loads(line)
                    events.append(event)
                    seen = event["object"]["metadata"]["resourceVersion"]
        await asyncio.sleep(0.01)


async def test_kill_9_amid_500_writes_loses_nothing_acknowledged_and_the_watch_goes_on_without_gap_or_repetition(
    tmp_path: Path,
) -> None:
    ledger, events = Ledger(), list[Json]()
    async with asyncio.TaskGroup() as group:
        async with process(tmp_path) as server, server.session() as session:
            (tmp_path / "ready.json").write_text(json.dumps(server.ready))
            listed = await (await session.get(MAPS)).json()
            before = {o["metadata"]["name"] for o in listed["items"]}
            watch = group.create_task(follow(tmp_path, listed["metadata"]["resourceVersion"], events), name="watch")

            async def kill() -> None:
                async def half() -> bool:
                    return ledger.acknowledged >= 250

                await eventually(half)
                server.child.send_signal(signal.SIGKILL)

            with contextlib.suppress(aiohttp.ClientError):
                await asyncio.gather(kill(), *(ledger.work(session, f"first-{n}", 500) for n in range(5)))
            assert await server.child.wait() == -signal.SIGKILL
            assert 250 <= ledger.acknowledged < 500
            old = server.ready
        async with process(tmp_path) as server, server.session() as session:
            assert server.ready == old
            listed = await (await session.get(MAPS)).json()
            found = {o["metadata"]["name"]: int(o["metadata"]["resourceVersion"]) for o in listed["items"]}
            lost = {n: v for n, v in ledger.state.items() if found.get(n, 0) != v and n not in ledger.in_flight}
            assert not lost
            await asyncio.gather(*(ledger.work(session, f"second-{n}", 500) for n in range(5)))
            assert ledger.acknowledged >= 500
            await ledger.write(session, "POST", "last")
            listed = await (await session.get(MAPS)).json()

            async def caught_up() -> bool:
                return bool(events) and int(events[-1]["object"]["metadata"]["resourceVersion"]) >= max(ledger.versions)

            await eventually(caught_up)
            watch.cancel()
    versions = [int(e["object"]["metadata"]["resourceVersion"]) for e in events]
    assert versions == sorted(set(versions))
    assert set(ledger.versions) <= set(versions)
    there: dict[str, int] = dict.fromkeys(before, 0)
    for event, version in zip(events, versions, strict=True):
        name = event["object"]["metadata"]["name"]
        assert (event["type"] == "ADDED") == (name not in there), event
        if event["type"] == "DELETED":
            del there[name]
        else:
            there[name] = version
    assert {n: v for n, v in there.items() if v} == {
        o["metadata"]["name"]: int(o["metadata"]["resourceVersion"]) for o in listed["items"] if o["metadata"]["name"] not in before
    }  # fmt: skip


async def test_sigterm_ends_open_watches_and_the_process_with_exit_0(tmp_path: Path) -> None:
    async with process(tmp_path) as server, server.session() as session:
        watches = [await session.get(MAPS, params={"watch": "1"}) for _ in range(20)]
        server.child.terminate()
        async with asyncio.timeout(2):
            assert await server.child.wait() == 0
            for watch in watches:
                assert await watch.content.read() == b""


async def test_a_taken_port_is_said_and_exits_1(tmp_path: Path) -> None:
    async with process(tmp_path / "a") as server:
        port = server.ready["url"].rpartition(":")[2]
        command = [
            sys.executable,
            "-m",
            "lab.apiserver.server",
            "--listen",
            f"127.0.0.1:{port}",
            "--state",
            str(tmp_path / "b"),
        ]
        other = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        _, text = await other.communicate()
    assert other.returncode == 1
    assert b"lab apiserver: " in text


@pytest.fixture
def namespace() -> Iterator[str]:
    name = f"apitest{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
    yield name
    subprocess.run(["ip", "netns", "del", name], check=True)


@pytest.mark.needs("root")
async def test_it_answers_inside_a_network_namespace_too(tmp_path: Path, namespace: str) -> None:
    async with process(tmp_path, "--listen-netns", f"{namespace}=127.0.0.1:6443") as server:
        code = "import ssl,urllib.request as u,sys;print(u.urlopen('https://127.0.0.1:6443/healthz',context=ssl.create_default_context(cafile=sys.argv[1])).read().decode())"
        command = ["ip", "netns", "exec", namespace, sys.executable, "-c", code, server.ready["ca"]]
        inside = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        output, _ = await inside.communicate()
    assert output.strip() == b"ok"
