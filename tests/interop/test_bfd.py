"""BFD with FRR's bfdd and with BIRD: over one hop and several, IPv4 and IPv6, up and down for every reason.

Our process runs in one network namespace, each of the two daemons in one of its own, with a cable to each.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.interop.peers import BIRD_NS, DEADLINE_S, US, Daemons, run, wait, wired

pytestmark = pytest.mark.needs("root", "vtysh", "bird")

ROOT = Path(__file__).parents[2]

FRR_CONFIG = """
bfd
 profile quick
  receive-interval 100
  transmit-interval 100
 !
 peer 192.0.2.10 interface port
  profile quick
 !
 peer 2001:db8:1::10 local-address 2001:db8:1::1 interface port
  profile quick
 !
 peer 192.0.2.10 multihop local-address 192.0.2.1
  profile quick
  minimum-ttl 250
 !
 peer 2001:db8:1::10 multihop local-address 2001:db8:1::1
  profile quick
 !
"""
BIRD_CONFIG = """
router id 198.51.100.1;
protocol device { }
protocol bfd {
  interface "port" { interval 100 ms; multiplier 3; };
  multihop { interval 100 ms; multiplier 3; };
  neighbor 198.51.100.10 dev "port";
  neighbor 2001:db8:2::10 dev "port";
  neighbor 198.51.100.10 local 198.51.100.1 multihop yes;
  neighbor 2001:db8:2::10 local 2001:db8:2::1 multihop yes;
}
"""
TIMERS = {"transmit_interval_ms": 100, "receive_interval_ms": 100}


def session(peer: str, local: str, *, multihop: bool = False, interface: str = "", **more: Any) -> dict[str, Any]:
    return {"peer": peer, "local": local, "multihop": multihop, "interface": interface, **TIMERS, **more}


WITH_FRR = [
    session("192.0.2.1", "192.0.2.10", interface="frr"),
    session("2001:db8:1::1", "2001:db8:1::10", interface="frr"),
    session("192.0.2.1", "192.0.2.10", multihop=True),
    session("2001:db8:1::1", "2001:db8:1::10", multihop=True),
]
WITH_BIRD = [
    session("198.51.100.1", "198.51.100.10", interface="bird"),
    session("2001:db8:2::1", "2001:db8:2::10", interface="bird"),
    session("198.51.100.1", "198.51.100.10", multihop=True),
    session("2001:db8:2::1", "2001:db8:2::10", multihop=True),
]


class Pair(Daemons):
    """FRR's bfdd and BIRD."""

    def start(self) -> None:
        self.start_zebra()
        self.start_bfdd()
        self.start_bird(BIRD_CONFIG)

    def start_bfdd(self) -> None:
        self.start_frr("bfdd", FRR_CONFIG, "--bfdctl", str(self.folder / "bfdd.sock"))

    def frr_states(self) -> dict[tuple[str, bool], str]:
        """(our address, several hops) → state, as bfdd sees it; empty while it cannot be asked."""
        try:
            peers: list[dict[str, Any]] = json.loads(self.frr("show bfd peers json"))
        except subprocess.CalledProcessError:
            return {}
        return {(peer["peer"], peer["multihop"]): peer["status"] for peer in peers}

    def bird_states(self) -> list[str]:
        """States of all sessions, as BIRD sees them."""
        lines = run("birdc", "-s", str(self.folder / "bird.ctl"), "show bfd sessions").splitlines()
        return [line.split()[2].lower() for line in lines if line.startswith(("198.51.100.10", "2001:db8:2::10"))]


class Ours:
    """Our process, its news in order, and the state of each session."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.news: list[dict[str, Any]] = []
        self.arrived = asyncio.Condition()

    @staticmethod
    def key(path: dict[str, Any]) -> tuple[str, bool]:
        return path["peer"], path.get("multihop", False)

    async def read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            async with self.arrived:
                self.news.append(json.loads(line))
                self.arrived.notify_all()

    async def order(self, **words: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(words).encode() + b"\n")
        await self.process.stdin.drain()

    async def until(self, holds: Callable[[], Any], what: str) -> None:
        async def waited() -> None:
            async with self.arrived:
                await self.arrived.wait_for(holds)

        try:
            await asyncio.wait_for(waited(), DEADLINE_S)
        except TimeoutError:
            raise AssertionError(f"never: {what}; news: {self.news[-12:]}") from None

    def last(self, say: str) -> dict[tuple[str, bool], dict[str, Any]]:
        return {self.key(news["path"]): news for news in self.news if news["say"] == say}

    def states(self) -> dict[tuple[str, bool], str]:
        return {key: news["state"] for key, news in self.last("state").items()}

    async def status(self) -> dict[str, Any]:
        before = len(self.news)
        await self.order(say="ask")
        await self.until(lambda: any(news["say"] == "status" for news in self.news[before:]), "a status")
        return next(news for news in self.news[before:] if news["say"] == "status")


@asynccontextmanager
async def ours() -> AsyncIterator[Ours]:
    process = await asyncio.create_subprocess_exec(
        "ip", "netns", "exec", US, sys.executable, "-m", "speaker.bfd",
        cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    made = Ours(process)
    reader = asyncio.create_task(made.read(), name="news")
    try:
        await made.until(lambda: any(news["say"] == "ready" for news in made.news), "ready")
        yield made
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), DEADLINE_S)
        finally:
            if process.returncode is None:
                process.kill()
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reader


def keys(sessions: list[dict[str, Any]]) -> set[tuple[str, bool]]:
    return {(one["peer"], one["multihop"]) for one in sessions}


@pytest.fixture
def daemons(tmp_path: Path) -> Iterator[Pair]:
    with wired():
        made = Pair(tmp_path)
        try:
            made.start()
            yield made
        finally:
            made.stop()


def all_up(sessions: dict[tuple[str, bool], str], count: int) -> bool:
    return len(sessions) == count and set(sessions.values()) == {"up"}


async def test_sessions_with_frr_and_bird_come_up_in_all_forms_go_down_for_each_reason_and_come_back(daemons: Pair) -> None:
    everything = [*WITH_FRR, *WITH_BIRD]
    frr, bird = keys(WITH_FRR), keys(WITH_BIRD)
    async with ours() as us:
        await us.order(say="sessions", sessions=everything)
        await us.until(lambda: all_up(us.states(), 8), "eight sessions are up")
        wait(lambda: all_up(daemons.frr_states(), 4), "FRR sees four up")
        wait(lambda: daemons.bird_states() == ["up"] * 4, "BIRD sees four up")
        status = await us.status()
        assert {(one["transmit_interval_ms"], one["detection_time_ms"]) for one in status["sessions"]} == {(100.0, 300.0)}

        # The daemon is killed: nothing arrives for the detection time.
        daemons.running["bfdd"].kill()
        await us.until(lambda: {us.states()[key] for key in frr} == {"down"}, "FRR's sessions are down")
        assert {us.last("state")[key]["diagnostic"] for key in frr} == {"detection_time_expired"}
        assert {us.states()[key] for key in bird} == {"up"}
        daemons.running["bfdd"].wait()
        daemons.start_bfdd()
        await us.until(lambda: all_up(us.states(), 8), "FRR's sessions are back")

        # The peer ends a session on purpose.
        wait(lambda: all_up(daemons.frr_states(), 4), "FRR sees four up again")
        run(
            "vtysh", "--vty_socket", str(daemons.folder),
            "-c", "configure", "-c", "bfd", "-c", "peer 192.0.2.10 interface port", "-c", "shutdown",
        )  # fmt: skip
        await us.until(lambda: us.states()["192.0.2.1", False] == "down", "FRR shuts a session down")
        assert us.last("state")["192.0.2.1", False]["diagnostic"] == "neighbor_signaled_down"

        # The cable is pulled at the other end.
        run("ip", "-n", BIRD_NS, "link", "set", "port", "down")
        await us.until(lambda: {us.states()[key] for key in bird} == {"down"}, "BIRD's sessions are down")
        run("ip", "-n", BIRD_NS, "link", "set", "port", "up")
        run("ip", "-n", BIRD_NS, "addr", "replace", "2001:db8:2::1/64", "dev", "port", "nodad")  # Taken away by the kernel.
        await us.until(lambda: {us.states()[key] for key in bird} == {"up"}, "BIRD's sessions are back")

        # Timers are changed while the sessions are up: nobody goes down.
        downs = sum(one["downs"] for one in (await us.status())["sessions"])
        slower = [one | {"transmit_interval_ms": 400, "receive_interval_ms": 200} for one in everything]
        await us.order(say="sessions", sessions=slower)
        async with asyncio.timeout(DEADLINE_S):
            while True:
                status = await us.status()
                up = [one for one in status["sessions"] if one["state"] == "up"]
                if {(one["transmit_interval_ms"], one["detection_time_ms"]) for one in up} == {(400.0, 600.0)}:
                    break
        assert len(up) == 7
        assert sum(one["downs"] for one in status["sessions"]) == downs

        # We end all on purpose.
        await us.order(say="sessions", sessions=[])
        await us.until(lambda: us.last("over").keys() == frr | bird, "all sessions are over")
        wait(lambda: set(daemons.bird_states()) == {"down"}, "BIRD hears of it")
        wait(lambda: set(daemons.frr_states().values()) <= {"down", "shutdown"}, "FRR hears of it")
        reasons = {peer["remote-diagnostic"] for peer in json.loads(daemons.frr("show bfd peers json")) if "downtime" in peer}
        assert "administratively down" in reasons
        assert "control detection time expired" not in reasons
    assert us.process.returncode == 0
