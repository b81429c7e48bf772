"""The process: how it starts, refuses to start, and ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from lab.apiserver.server import Served
from tests.builders import NAMESPACE
from tests.unit.controller.cluster import a_cluster, ips, until

ROOT = Path(__file__).parents[3]
END_S = 10.0


@asynccontextmanager
async def process(tmp_path: Path, *flags: str, kubeconfig: Path | None) -> AsyncIterator[asyncio.subprocess.Process]:
    """A controller process that does not outlive the block."""
    own = [f"--status-socket={tmp_path / 'controller.sock'}", "--port=0", "--health-probe-port=0"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("METALLB_", "KUBE"))}
    environment |= {"HOME": str(tmp_path)} | ({"KUBECONFIG": str(kubeconfig)} if kubeconfig else {})
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "controller", *own, *flags, cwd=ROOT, env=environment, stdout=PIPE, stderr=PIPE
    )
    try:
        yield running
    finally:
        if running.returncode is None:
            running.kill()
            await running.communicate()


async def ended(running: asyncio.subprocess.Process) -> tuple[int, list[str], str]:
    """Exit status, messages of the log, and what stderr says."""
    async with asyncio.timeout(END_S):
        out, err = await running.communicate()
    assert running.returncode is not None
    return running.returncode, messages(out.splitlines()), err.decode()


def messages(lines: Iterable[bytes]) -> list[str]:
    return [json.loads(line)["msg"] for line in lines]


async def test_it_serves_until_sigterm_and_exits_0(tmp_path: Path) -> None:
    flags = (f"--namespace={NAMESPACE}", "--webhook-http2")
    async with a_cluster(tmp_path) as cluster, process(tmp_path, *flags, kubeconfig=cluster.server.kubeconfig) as running:
        await cluster.pool()
        await cluster.service()
        assert await cluster.address() == "192.168.20.20"
        await cluster.event("web", "IPAllocated")
        running.send_signal(signal.SIGTERM)
        code, said, err = await ended(running)
        assert (code, err) == (0, "")
        assert said[0] == "controller_started"
        assert "option_not_in_effect" in said
        assert said[-2:] == ["controller_stopping", "controller_stopped"]


async def test_killed_at_any_moment_it_goes_on_where_it_was(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as cluster:
        await cluster.pool("default", "10.0.0.0/24")
        names = [f"s{number}" for number in range(12)]
        for name in names:
            await cluster.service(name)

        async def held() -> dict[str, str]:
            return {name: address for name in names if (address := ips(await cluster.get(name)))}

        given: dict[str, str] = {}
        for count in (1, 5, len(names)):

            async def enough(count: int = count) -> bool:
                return len(await held()) >= count

            flags = (f"--namespace={NAMESPACE}", "--pod-name=controller-x")  # As a container that its Pod starts again.
            async with process(tmp_path, *flags, kubeconfig=cluster.server.kubeconfig) as running:
                assert await until(enough)
                running.send_signal(signal.SIGKILL)
                await ended(running)
            now = await held()
            assert {name: now[name] for name in given} == given
            assert len(set(now.values())) == len(now)
            given = now


async def test_without_an_api_server_it_says_so_waits_and_still_ends_on_sigterm(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as cluster:
        server: Served = cluster.server
    async with process(tmp_path, f"--namespace={NAMESPACE}", kubeconfig=server.kubeconfig) as running:
        assert running.stdout is not None
        async with asyncio.timeout(END_S):
            while "watch_failed" not in messages([await running.stdout.readline()]):
                pass
        running.send_signal(signal.SIGTERM)
        code, _, err = await ended(running)
        assert (code, err) == (0, "")


async def test_without_credentials_it_exits_1_and_says_what_is_missing(tmp_path: Path) -> None:
    async with process(tmp_path, f"--namespace={NAMESPACE}", kubeconfig=None) as running:
        code, said, _ = await ended(running)
    assert (code, said) == (1, ["controller_cannot_start"])


async def test_without_a_namespace_it_exits_1_and_says_how_to_give_one(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        "{kind: Config, apiVersion: v1, current-context: c, clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}], "
        "users: [{name: u, user: {token: t}}], contexts: [{name: c, context: {cluster: c, user: u}}]}"
    )
    async with process(tmp_path, kubeconfig=kubeconfig) as running:
        code, _, err = await ended(running)
    assert code == 1
    assert "--namespace (or METALLB_NAMESPACE)" in err


async def test_a_port_that_is_taken_ends_it_with_1(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as cluster:
        with socket.create_server(("", 0)) as taken:
            flags = (f"--namespace={NAMESPACE}", f"--health-probe-port={taken.getsockname()[1]}")
            async with process(tmp_path, *flags, kubeconfig=cluster.server.kubeconfig) as running:
                code, said, _ = await ended(running)
    assert code == 1
    assert said[-1] == "controller_cannot_start"
