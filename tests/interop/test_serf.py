"""A real serf (hashicorp's own memberlist, another language, another decade) and our members in one encrypted ring."""

import asyncio
import base64
import json
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from memberlist import Agent, Cause, Joined, Keyring, Left, MemberEvent, Suspected, lan, metallb_key

KEY = metallb_key(b"AAECAwQFBgcICQoLDA0ODw")
OTHER_KEY = bytes(range(32))
OURS = ("ours-1", "ours-2", "ours-3")
DELEGATE_VERSIONS = (2, 5, 4)  # serf's own protocol on top of memberlist's; it refuses members that do not speak it.

pytestmark = pytest.mark.needs("serf")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Ours:
    """One of our members and what it told its application."""

    agent: Agent
    events: list[MemberEvent] = field(default_factory=list)

    def saw(self, name: str, kind: type[Joined] | type[Suspected]) -> bool:
        return any(isinstance(event, kind) and event.member.name == name for event in self.events)

    def saw_fail(self, name: str) -> bool:
        lost = [event for event in self.events if isinstance(event, Left) and event.member.name == name]
        return [event.cause for event in lost] == [Cause.FAILED]


@dataclass
class Serf:
    """A running serf agent."""

    process: asyncio.subprocess.Process
    port: int
    rpc: str
    log: Path

    async def statuses(self) -> dict[str, str]:
        """Return what `serf members` says of each name."""
        asked = await asyncio.create_subprocess_exec(
            "serf", "members", "-format", "json", f"-rpc-addr={self.rpc}", stdout=asyncio.subprocess.PIPE
        )
        output, _ = await asked.communicate()
        return {member["name"]: member["status"] for member in json.loads(output)["members"]} if asked.returncode == 0 else {}


async def eventually(claim: str, holds: Callable[[], Awaitable[bool]], *, within_s: float) -> None:
    try:
        async with asyncio.timeout(within_s):
            while not await holds():  # noqa: ASYNC110  (serf cannot set an event of ours)
                await asyncio.sleep(0.1)
    except TimeoutError:
        pytest.fail(f"not within {within_s} s: {claim}")


@asynccontextmanager
async def running_serf(tmp_path: Path, *, key: bytes) -> AsyncIterator[Serf]:
    port, rpc, log = free_port(), f"127.0.0.1:{free_port()}", tmp_path / "serf.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            "serf",
            "agent",
            "-node=serf",
            f"-bind=127.0.0.1:{port}",
            f"-rpc-addr={rpc}",
            "-log-level=debug",
            f"-encrypt={base64.b64encode(key).decode()}",
            stdout=output,
            stderr=output,
        )
    serf = Serf(process, port, rpc, log)
    try:

        async def answers() -> bool:
            return bool(await serf.statuses())

        await eventually("serf answers its RPC", answers, within_s=20)
        yield serf
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def our_ring() -> AsyncIterator[dict[str, Ours]]:
    """Three of our members on one address and different ports, joined to the first."""
    ring: dict[str, Ours] = {}
    try:
        for name in OURS:
            events: list[MemberEvent] = []
            config = lan(name, "127.0.0.1", 0, delegate_versions=DELEGATE_VERSIONS)
            agent = Agent(config, keyring=Keyring(KEY), on_event=events.append)
            await agent.start()
            ring[name] = Ours(agent, events)
            if name != OURS[0]:
                assert await agent.join([endpoint(ring[OURS[0]])]) == 1
        yield ring
    finally:
        for ours in ring.values():
            await ours.agent.stop()


def endpoint(ours: Ours) -> tuple[str, int]:
    return "127.0.0.1", ours.agent.endpoint.port


async def serf_joins(serf: Serf, ours: Ours) -> bool:
    """Let serf dial our member; return whether it reports success."""
    joining = await asyncio.create_subprocess_exec(
        "serf",
        "join",
        f"-rpc-addr={serf.rpc}",
        "{}:{}".format(*endpoint(ours)),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    return await joining.wait() == 0


async def test_serf_and_our_members_live_and_die_in_one_encrypted_ring(tmp_path: Path) -> None:
    async with running_serf(tmp_path, key=KEY) as serf, our_ring() as ring:
        assert await serf_joins(serf, ring["ours-2"])

        async def serf_sees_us_alive() -> bool:
            return await serf.statuses() == dict.fromkeys((*OURS, "serf"), "alive")

        async def we_see_serf() -> bool:
            return all(ours.saw("serf", Joined) for ours in ring.values())

        await eventually("serf sees all of us alive", serf_sees_us_alive, within_s=10)
        await eventually("all of us see serf alive", we_see_serf, within_s=10)

        async def each_probed_each() -> bool:  # Two rounds over three others, with gossip in between.
            return all(ours.agent.probes_answered() >= 6 for ours in ring.values())

        await eventually("serf answers our probes, and we answer each other's", each_probed_each, within_s=20)
        assert await serf_sees_us_alive()
        assert not any(ours.saw("serf", Suspected) for ours in ring.values())
        assert "uspect" not in serf.log.read_text()
        assert [ours.agent.rejections() for ours in ring.values()] == [{}, {}, {}]

        await ring["ours-3"].agent.stop()  # No leave: to the others this is a crash.

        async def serf_sees_one_failed() -> bool:
            return await serf.statuses() == {"ours-1": "alive", "ours-2": "alive", "ours-3": "failed", "serf": "alive"}

        async def we_see_it_failed() -> bool:
            return all(ring[name].saw_fail("ours-3") for name in ("ours-1", "ours-2"))

        await eventually("serf reports our dead member as failed", serf_sees_one_failed, within_s=30)
        await eventually("our others report it too", we_see_it_failed, within_s=5)

        serf.process.send_signal(signal.SIGKILL)
        await serf.process.wait()

        async def we_see_serf_failed() -> bool:
            return all(ring[name].saw_fail("serf") for name in ("ours-1", "ours-2"))

        await eventually("we report the killed serf as failed", we_see_serf_failed, within_s=40)
        assert [member.name for member in ring["ours-1"].agent.members()] == ["ours-1", "ours-2"]


async def test_serf_takes_a_member_of_ours_back_after_it_came_again(tmp_path: Path) -> None:
    async with running_serf(tmp_path, key=KEY) as serf:
        events: list[MemberEvent] = []
        config = lan("ours", "127.0.0.1", free_port(), delegate_versions=DELEGATE_VERSIONS)
        first = Agent(config, keyring=Keyring(KEY), on_event=events.append)
        await first.start()
        assert await first.join([("127.0.0.1", serf.port)]) == 1
        await first.leave(timeout_s=5)
        await first.stop()

        async def serf_sees_it_gone() -> bool:  # serf calls a leave without its own farewell a failure.
            return (await serf.statuses()).get("ours") == "failed"

        await eventually("serf hears the leave", serf_sees_it_gone, within_s=10)
        second = Agent(config, keyring=Keyring(KEY), on_event=events.append)
        await second.start()
        try:
            assert await second.join([("127.0.0.1", serf.port)]) == 1

            async def serf_sees_it_back() -> bool:
                return (await serf.statuses()).get("ours") == "alive"

            await eventually("serf sees the member again", serf_sees_it_back, within_s=10)
        finally:
            await second.stop()


async def test_serf_with_another_key_stays_outside(tmp_path: Path) -> None:
    async with running_serf(tmp_path, key=OTHER_KEY) as serf, our_ring() as ring:
        assert not await serf_joins(serf, ring["ours-1"])
        assert await ring["ours-2"].agent.join([("127.0.0.1", serf.port)]) == 0
        assert not any(ours.saw("serf", Joined) for ours in ring.values())
