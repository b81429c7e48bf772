"""Three real serf agents and three members of ours in one ring: encrypted and plain, IPv4 and IPv6, all at once.

A fifth ring beside them goes through a minute of churn.
"""

from __future__ import annotations

import asyncio
import base64
import random
import re
import signal
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from memberlist import Cause, Keyring, metallb_key
from tests.interop.rings import Ours, Process, Rings, Serf, eventually, farewell, read_tags, user_event

SECRET = b"AAECAwQFBgcICQoLDA0ODw"
KEY, NEW_KEY = metallb_key(SECRET), bytes(range(32, 64))
CHURN_S = 60.0
NAMES = ("o1", "o2", "o3", "s1", "s2", "s3")

pytestmark = [
    pytest.mark.needs("serf"),
    pytest.mark.timeout(400),
]


class Six:
    """Three serf agents s1, s2, s3, our members o1 and o2, and o3 in a process of its own."""

    def __init__(self, rings: Rings) -> None:
        self.serfs = {name: rings.serf(name) for name in ("s1", "s2", "s3")}
        self.ours = {"o1": rings.ours("o1"), "o2": rings.ours("o2", "balanced")}
        self.process = rings.process("o3")

    @property
    def o1(self) -> Ours:
        return self.ours["o1"]

    @property
    def o2(self) -> Ours:
        return self.ours["o2"]

    async def start(self) -> None:
        """Start all and join both ways: serf dials ours, ours dial serf."""
        s1, s2, s3 = self.serfs.values()
        await asyncio.gather(*(serf.start() for serf in self.serfs.values()), *(ours.start() for ours in self.ours.values()))
        assert (await s1.run("join", self.o1.address))[0] == 0
        assert await self.o2.join(s2)
        assert (await s2.run("join", s1.address))[0] == 0
        assert (await s3.run("join", self.o2.address))[0] == 0
        await self.process.start(s1)
        await self.all_see(dict.fromkeys(NAMES, "alive"))

    async def all_see(self, wanted: dict[str, str]) -> None:
        """Wait until each that is named alive sees exactly this; our members do not show the gone."""
        alive = {name for name, status in wanted.items() if status == "alive"}

        async def holds() -> bool:
            ours = [set(ours.states()) for name, ours in self.ours.items() if name in alive]
            if any(seen != alive for seen in ours):
                return False
            serfs = await asyncio.gather(*(serf.statuses() for name, serf in self.serfs.items() if name in alive))
            return all({name: seen.get(name) for name in wanted} == wanted for seen in serfs)

        await eventually(f"all see {wanted}", holds)


async def live_and_die(folder: Path, host: str, key: bytes | None) -> None:
    """The whole life of a ring, in order."""
    key_file = None
    if key is not None:
        key_file = folder / "secret"
        key_file.write_bytes(SECRET)
    async with Rings(folder, host, key, key_file) as rings:
        six = Six(rings)
        await six.start()
        await tags_are_seen(six)
        await messages_pass_both_ways(six)
        await a_killed_member_of_ours_is_missed_and_comes_back(six)
        await a_killed_serf_is_missed_and_comes_back(six)
        await a_leave_is_a_leave(six)
        if key is not None:
            await a_key_is_changed_without_losing_a_member(six)
        await serf_and_ours_leave(six)
        assert six.o1.lost() == [
            ("o3", Cause.FAILED),
            ("s3", Cause.FAILED),
            ("o3", Cause.LEFT),
            ("s2", Cause.LEFT),
            ("o2", Cause.LEFT),
        ]
        assert six.o1.agent is not None
        assert six.o1.agent.rejections() == {}


async def tags_are_seen(six: Six) -> None:
    for serf in six.serfs.values():
        seen = await serf.members()
        assert seen["o1"]["tags"] == {"kind": "o1"}
        assert seen["o2"]["tags"]["role"].startswith("mlpy1 balanced;")  # What is no tags is a role to serf, and no problem.
        assert seen["s2"]["tags"] == {"kind": "s2"}
    for ours in six.ours.values():
        assert read_tags(ours.meta("s3")) == {"kind": "s3"}
        assert read_tags(ours.meta("o1")) == {"kind": "o1"}


async def messages_pass_both_ways(six: Six) -> None:
    """Serf hands a message on a few times, our members not at all: in such a ring it may miss somebody, and is said again."""

    async def ours_heard() -> bool:
        assert (await six.serfs["s1"].run("event", "-coalesce=false", "from-serf", "payload"))[0] == 0
        return all(("from-serf", b"payload") in ours.user_events() for ours in six.ours.values())

    await eventually("our members hear serf's user event", ours_heard)
    assert six.o1.agent is not None
    agent, clock = six.o1.agent, count(5000)

    async def serfs_heard() -> bool:
        agent.broadcast(user_event("from-ours", b"hello\n", next(clock)))
        return all("hello" in serf.events for serf in six.serfs.values())

    await eventually("serf's handlers are given our user event", serfs_heard)


async def a_killed_member_of_ours_is_missed_and_comes_back(six: Six) -> None:
    before = six.o1.states()["o3"]
    await six.process.kill()
    await six.all_see({name: "failed" if name == "o3" else "alive" for name in NAMES})
    await six.process.start(six.o1)
    await six.all_see(dict.fromkeys(NAMES, "alive"))
    assert all(ours.states()["o3"] > before for ours in six.ours.values())


async def a_killed_serf_is_missed_and_comes_back(six: Six) -> None:
    s3, before = six.serfs["s3"], six.o1.states()["s3"]
    await s3.kill()
    await six.all_see({name: "failed" if name == "s3" else "alive" for name in NAMES})
    await s3.start()
    assert (await s3.run("join", six.o2.address))[0] == 0
    await six.all_see(dict.fromkeys(NAMES, "alive"))
    assert all(ours.states()["s3"] > before for ours in six.ours.values())


async def a_leave_is_a_leave(six: Six) -> None:
    """The gossip of a leave; without serf's own farewell serf calls it a failure, our members do not."""
    assert six.process.process is not None
    six.process.process.send_signal(signal.SIGTERM)
    assert await six.process.process.wait() == 0
    await six.all_see({name: "failed" if name == "o3" else "alive" for name in NAMES})


async def a_key_is_changed_without_losing_a_member(six: Six) -> None:
    new, old = (base64.b64encode(key).decode() for key in (NEW_KEY, KEY))
    s1 = six.serfs["s1"]
    changes: list[tuple[str, str, Callable[[Keyring], None]]] = [
        ("-install", new, lambda keyring: keyring.add(NEW_KEY)),
        ("-use", new, lambda keyring: keyring.use(NEW_KEY)),
        ("-remove", old, lambda keyring: keyring.remove(KEY)),
    ]
    for verb, word, change in changes:
        for ours in six.ours.values():
            assert ours.keyring is not None
            change(ours.keyring)

        async def carried_out(verb: str = verb, word: str = word) -> bool:
            await s1.run("keys", f"{verb}={word}")  # Fails by its status, since our members do not answer serf's queries.
            return all(f"Received {verb[1:]}-key query" in serf.log for serf in six.serfs.values())

        await eventually(f"all serfs carried out {verb}", carried_out)
    counts = {name: ours.agent.probes_answered() for name, ours in six.ours.items() if ours.agent is not None}

    async def probed_under_the_new_key() -> bool:
        return all(ours.agent is not None and ours.agent.probes_answered() >= counts[n] + 8 for n, ours in six.ours.items())

    await eventually("everybody answers probes under the new key alone", probed_under_the_new_key)
    await six.all_see({name: "failed" if name == "o3" else "alive" for name in NAMES})
    assert [name for name, _ in six.o1.lost()] == ["o3", "s3", "o3"]


async def serf_and_ours_leave(six: Six) -> None:
    assert (await six.serfs["s2"].run("leave"))[0] == 0
    await six.all_see({"o1": "alive", "o2": "alive", "s1": "alive", "s2": "left", "s3": "alive"})
    assert six.o2.agent is not None
    agent, clock = six.o2.agent, count(6000)

    async def serf_expects_it() -> bool:
        agent.broadcast(farewell("o2", next(clock)))
        return (await six.serfs["s1"].statuses())["o2"] == "leaving" and (await six.serfs["s3"].statuses())["o2"] == "leaving"

    await eventually("serf understands our farewell", serf_expects_it)
    await six.o2.agent.leave(timeout_s=10)
    await six.o2.stop()
    await six.all_see({"o1": "alive", "o2": "left", "s1": "alive", "s2": "left", "s3": "alive"})


async def churn(folder: Path) -> None:
    """Kill and start again one of each kind, for a while: nobody else may be taken for dead."""
    (folder / "secret").write_bytes(SECRET)
    chance = random.Random(1)  # noqa: S311  (repeatable on purpose)
    async with Rings(folder, "127.0.0.1", KEY, folder / "secret") as rings:
        six = Six(rings)
        await six.start()
        end = time.monotonic() + CHURN_S
        while time.monotonic() < end:
            choices: list[Process | Serf] = [six.process, six.serfs["s3"]]
            who = chance.choice(choices)
            await who.kill()
            await asyncio.sleep(3 * chance.random())
            if isinstance(who, Serf):
                await who.start()
                await who.run("join", six.o1.address)
            else:
                await who.start(six.o2)
            await asyncio.sleep(3 * chance.random())
        await six.all_see(dict.fromkeys(NAMES, "alive"))
        for ours in six.ours.values():
            assert {name for name, _ in ours.lost()} <= {"o3", "s3"}
        for name in ("s1", "s2"):
            assert set(re.findall("EventMemberFailed: (\\S+)", six.serfs[name].log)) <= {"o3", "s3"}


async def test_three_serf_and_three_of_ours_live_and_die_together_plain_and_encrypted_over_both_families(
    tmp_path: Path,
) -> None:
    rings = {
        "plain IPv4": ("127.0.0.1", None),
        "encrypted IPv4": ("127.0.0.1", KEY),
        "plain IPv6": ("::1", None),
        "encrypted IPv6": ("::1", KEY),
    }
    folders = {name: tmp_path / name.replace(" ", "-") for name in (*rings, "churn")}
    for folder in folders.values():
        folder.mkdir()
    outcomes = await asyncio.gather(
        *(live_and_die(folders[name], host, key) for name, (host, key) in rings.items()),
        churn(folders["churn"]),
        return_exceptions=True,
    )
    problems = {name: outcome for name, outcome in zip(folders, outcomes, strict=True) if outcome is not None}
    assert not problems, "\n".join(f"{name}: {type(problem).__name__}: {problem}" for name, problem in problems.items())
