"""The server as its own process: ready line, kill -9, SIGTERM, sockets in other namespaces."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from tests.unit.lab_apiserver.helpers import eventually

MAPS = "/api/v1/namespaces/default/configmaps"


@dataclass
class Process:
    """A running server process and its ready line."""

    child: asyncio.subprocess.Process
    ready: dict[str, str]

    def session(self) -> aiohttp.ClientSession:
        context = ssl.create_default_context(cafile=self.ready["ca"])
        headers = {"Authorization": f"Bearer {self.ready['token']}"}
        return aiohttp.ClientSession(self.ready["url"], headers=headers, connector=aiohttp.TCPConnector(ssl=context))


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


async def test_nothing_acknowledged_is_lost_by_kill_9_and_a_watch_goes_on(tmp_path: Path) -> None:
    acknowledged: list[str] = []
    async with process(tmp_path) as server, server.session() as session:
        before = (await (await session.get(MAPS)).json())["metadata"]["resourceVersion"]

        async def write(worker: int) -> None:
            number = 0
            while True:
                name = f"m-{worker}-{number}"
                async with session.post(MAPS, json={"metadata": {"name": name}}) as answer:
                    assert answer.status == 201
                    acknowledged.append(name)
                number += 1

        async def kill() -> None:
            async def enough() -> bool:
                return len(acknowledged) >= 200

            await eventually(enough)
            server.child.send_signal(signal.SIGKILL)

        with contextlib.suppress(aiohttp.ClientError):
            await asyncio.gather(kill(), *(write(worker) for worker in range(4)))
        assert await server.child.wait() == -signal.SIGKILL
        old = server.ready
    async with process(tmp_path) as server, server.session() as session:
        assert server.ready == old
        listed = await (await session.get(MAPS)).json()
        names = [o["metadata"]["name"] for o in listed["items"]]
        assert set(acknowledged) <= set(names)
        query = {"watch": "1", "resourceVersion": before, "timeoutSeconds": "1"}
        async with session.get(MAPS, params=query) as answer:
            events = [json.loads(line) async for line in answer.content]
        versions = [int(e["object"]["metadata"]["resourceVersion"]) for e in events]
        assert versions == sorted(set(versions))
        assert sorted(e["object"]["metadata"]["name"] for e in events) == names


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
