"""Planned moves of an address in the lab, with 200 requests a second from a client: none is without an owner.

What no layer 2 load balancer can carry over is a connection that is open while the client's neighbour entry changes: its packets
go to another node from then on, whose kernel does not know the connection (docs/explanation/failover.md). Every other
request must be good, also those that start in the very moment of the move. (On a busy machine a single one may take too long.)
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest

from kube.resources import NODES
from lab.scenarios.stage import NAMESPACE, Stage
from lab.traffic import Attempt
from tests.e2e.conftest import Lab
from tests.e2e.test_service_address import a_stage

pytestmark = [pytest.mark.needs("root", "nginx", "nft"), pytest.mark.timeout(180)]

EXCLUDE = "node.kubernetes.io/exclude-from-external-load-balancers"
EVERY_S = 0.005
LONG = os.environ.get("METALLB_LONG_TESTS") == "1"
"""Restart every speaker; else the first."""
DEADLINE_S = 30.0
SEEN_LATE_S = 0.05
"""By which the client's program may note one thing later than another that happened at the same time."""
AFTER_S = 1.5
"""Of requests that follow the last move: a second round of announcements is among it."""


class Watched:
    """A Service's address, and the client that asks for it."""

    def __init__(self, stage: Stage, service: str, address: str) -> None:
        self.stage = stage
        self.service = f"{NAMESPACE}/{service}"
        self.address = address

    async def owned_by(self, node: str) -> None:
        """Until the client believes that a node has the address."""
        client = self.stage.client
        await client.until(
            lambda: self.stage.owner_by_mac(client.mac_of(self.address)) == node or None,
            limit_s=DEADLINE_S,
            what=f"{self.address} at {node}",
        )

    @asynccontextmanager
    async def no_request_lost(self) -> AsyncIterator[str]:
        """The client asks 200 times a second all the while, and for a while after; gives the owner at the beginning."""
        client = self.stage.client
        owner = await self.stage.settled_owner(self.service)
        client.ask(self.address, every_s=EVERY_S)
        await self.owned_by(owner)
        await client.first_good(after=time.monotonic(), limit_s=DEADLINE_S)
        client.forget()
        yield owner
        enough = time.monotonic() + AFTER_S
        await client.first_good(after=enough, limit_s=DEADLINE_S)
        client.rest()
        assert len(client.attempts) >= AFTER_S / EVERY_S / 2
        assert self._unowned() == [], self._story()

    def _unowned(self) -> list[Attempt]:
        """Requests that failed although they were not cut off by a move, two or more in a row.

        On a busy machine a single one may run into the client's limit of 250 ms; while nobody has the address all fail. "No
        route to host" is an answer of the owner's kernel (an ICMP message of the node, in captures): the address has an owner.
        """
        asked = sorted(self.stage.client.attempts, key=lambda one: one.start)
        inert = [one for one in asked if not self._cut(one) and one.detail != os.strerror(errno.EHOSTUNREACH)]
        return [two for one, two in pairwise(inert) if not one.good and not two.good]

    def _cut(self, attempt: Attempt) -> bool:
        """Whether the client's kernel changed its mind about the address while this connection was open."""
        changes = [one.at for one in self.stage.client.neighbours if one.address == self.address]
        return any(attempt.start - SEEN_LATE_S <= at <= attempt.end + SEEN_LATE_S for at in changes)

    def _story(self) -> str:
        """What the wire and the speakers said, for whoever reads a failure."""
        client = self.stage.client
        bad = [(one.start, f"asked: {one.detail}") for one in client.attempts if not one.good]
        lines = self.stage.speaker_lines(after=bad[0][0] - 2)
        moments = [(line.mono, f"{line.event} {line.facts}") for line in lines if line.facts.get("address") == self.address]
        moments += [(one.at, f"ARP {one}") for one in client.frames if one.sender == self.address]
        moments += [(one.at, f"neighbour {one.mac}") for one in client.neighbours if one.address == self.address]
        return "\n".join(f"{at:.4f} {what}" for at, what in sorted(moments + bad))

    def causes(self, since: float) -> list[str]:
        """Why the address was given up, each time since a moment."""
        lines = self.stage.speaker_lines(after=since)
        return [
            str(line.facts["cause"])
            for line in lines
            if line.event == "address_handed_over" and line.facts["address"] == self.address
        ]


@asynccontextmanager
async def watched(lab: Lab) -> AsyncIterator[Watched]:
    async with a_stage(lab, "moving") as stage:
        yield Watched(stage, "moving", await stage.address_of("moving"))


async def label(stage: Stage, node: str, value: str | None) -> None:
    await stage.kube.patch(NODES, node, {"metadata": {"labels": {EXCLUDE: value}}})


async def test_a_label_moves_an_address_away_and_back_without_losing_a_request(lab: Lab) -> None:
    async with watched(lab) as moving:
        stage, since = moving.stage, time.monotonic()
        owner = await stage.settled_owner(moving.service)
        try:
            async with moving.no_request_lost():
                await label(stage, owner, "")
                other = await other_owner(moving, owner)
                await label(stage, owner, None)
                await moving.owned_by(owner)
        finally:
            await label(stage, owner, None)
        assert other != owner
        assert moving.causes(since) == ["successorHeard", "successorHeard"]


async def other_owner(moving: Watched, owner: str) -> str:
    """Who has the address, once it is somebody else."""
    client, stage = moving.stage.client, moving.stage

    def moved() -> str | None:
        found = stage.owner_by_mac(client.mac_of(moving.address))
        return None if found == owner else found

    return await client.until(moved, limit_s=DEADLINE_S, what=f"{moving.address} away from {owner}")


async def test_a_speaker_that_is_stopped_and_returns_loses_no_request(lab: Lab) -> None:
    async with watched(lab) as moving:
        stage, since = moving.stage, time.monotonic()
        async with moving.no_request_lost() as owner:
            os.kill(speaker_of(stage, owner), signal.SIGTERM)
            await other_owner(moving, owner)
            await moving.owned_by(owner)  # The lab starts it again, and it wins again.
        assert moving.causes(since) == ["successorHeard", "successorHeard"]


def speaker_of(stage: Stage, node: str) -> int:
    """The process of the speaker on a node."""
    (pid,) = [
        pid
        for pod in stage.status()["pods"]
        if pod["name"].startswith("speaker-") and pod["node"] == node
        for pid in pod["pids"].values()
    ]
    return int(pid)


async def test_speakers_can_be_restarted_in_turn_without_losing_a_request(lab: Lab) -> None:
    async with watched(lab) as moving:
        stage = moving.stage
        async with moving.no_request_lost():
            for node in stage.topology.nodes if LONG else stage.topology.nodes[:1]:
                os.kill(speaker_of(stage, node.name), signal.SIGTERM)
                await asyncio.sleep(0)
                await stage.settled_owner(moving.service)
