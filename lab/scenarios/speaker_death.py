"""The speaker that owns an address is killed with -9 while its host lives on: for how long is no question answered?

The kernel of the host goes on forwarding, so a client that knows the address loses nothing; one that has to ask first waits. Questions
are asked all the time, each in another name, and requests are made by a client that knows the address. Judged on a capture, as planned
moves are. The kubelet starts the speaker again, and it wins the address back: the run ends after that.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncIterator

import msgspec

from lab.scenarios.planned_moves import AFTER_S, ASK_EVERY_S, Watched, judged, watching
from lab.scenarios.stage import Stage
from lab.timeline import Moment


class SpeakerDeath(msgspec.Struct, frozen=True, kw_only=True):
    """One run. `silent_s` is from the first question without an answer to the first that was answered again."""

    run: int
    address: str
    owner_before: str
    silent_s: float
    requests: int
    failed: tuple[str, ...]
    cut: int
    killed: float
    ended: float

    @property
    def seconds(self) -> float:
        """For how long no question was answered."""
        return self.silent_s

    @property
    def span(self) -> tuple[float, float]:
        """From the kill to the last request."""
        return (self.killed, self.ended)

    def seen(self) -> list[Moment]:
        """The cause."""
        return [Moment(at=self.killed, where=self.owner_before, kind="fault", what="the speaker is killed with -9")]

    def __str__(self) -> str:
        failed = "".join(f"\n  {one}" for one in self.failed)
        return (
            f"run {self.run}: {self.address} of {self.owner_before} not answered for {1000 * self.silent_s:.0f} ms;"
            f" {self.requests} requests with a warm cache, {len(self.failed)} failed, {self.cut} cut{failed}"
        )


async def run(stage: Stage, runs: int) -> AsyncIterator[SpeakerDeath]:
    """Kill the owner's speaker so many times."""
    name = "speaker-death"
    await stage.delete_service(name)
    await stage.create_service(name)
    try:
        watched = Watched(stage, name, await stage.address_of(name))
        for index in range(1, runs + 1):
            yield await _once(watched, index)
    finally:
        stage.client.rest()
        await stage.delete_service(name)


async def _once(watched: Watched, index: int) -> SpeakerDeath:
    stage = watched.stage
    owner = await stage.settled_owner(watched.key)
    async with watching(watched, f"speaker-death-{index}", owner) as seen:
        killed = time.monotonic()
        pid = watched.speaker(owner)
        os.kill(pid, signal.SIGKILL)
        await watched.restarted(owner, pid)
        await stage.client.first_good(after=time.monotonic() + AFTER_S, limit_s=30.0)
    told = judged(watched, seen, owner)
    silent = told.unanswered
    return SpeakerDeath(
        run=index,
        address=watched.address,
        owner_before=owner,
        silent_s=round(silent[-1].at - silent[0].at + ASK_EVERY_S, 4) if silent else 0.0,
        requests=told.requests,
        failed=told.failed,
        cut=told.cut,
        killed=killed,
        ended=seen.ended,
    )
