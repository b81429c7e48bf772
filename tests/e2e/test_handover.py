"""Planned moves of an address in the lab, with 200 requests a second from a client: none is lost, no question goes unanswered.

What is judged, and what a cut request is, says lab.scenarios.planned_moves; the checker reads a capture of the client's cable and
is none of the product's code. Many rounds: `python -m lab run planned_moves --runs 20`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import pytest

from kube.resources import L2_ADVERTISEMENTS
from lab.scenarios import planned_moves
from lab.scenarios.stage import NAMESPACE, SYSTEM, Stage, until_async
from tests.e2e.conftest import ROOT, Lab
from tests.e2e.test_service_address import a_stage

pytestmark = [pytest.mark.needs("root", "nginx", "nft", "tshark"), pytest.mark.timeout(120)]

CUT_AT_MOST = 4
"""Requests that are open in one moment, on a busy machine; usually there is none."""
TWO_RESPONDERS_S = 0.05


@pytest.mark.parametrize("move", planned_moves.MOVES)
async def test_a_planned_move_loses_no_request_and_leaves_no_question_unanswered(lab: Lab, move: str) -> None:
    async with Stage.set(lab.paths) as stage:
        found = await planned_moves.once(stage, 1, move)
    assert found.flaws == []
    assert found.requests > 100
    assert found.questions > 50
    assert found.cut <= CUT_AT_MOST * (len(found.path) - 1)
    assert found.both_s <= TWO_RESPONDERS_S


def lbctl(lab: Lab, *words: str) -> tuple[int, str]:
    """What `lbctl WORDS` ends with and prints."""
    environment = os.environ | {"KUBECONFIG": str(lab.paths.kubeconfig)}
    done = subprocess.run(
        [sys.executable, "-m", "cli", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stdout + done.stderr


async def test_lbctl_maintenance_empties_a_node_and_fills_it_again(lab: Lab) -> None:
    async with a_stage(lab, "kept-up") as stage:
        address, service = await stage.address_of("kept-up"), f"{NAMESPACE}/kept-up"
        owner = await stage.settled_owner(service)
        watched = planned_moves.Watched(stage, "kept-up", address)
        stage.client.ask(address)
        await watched.owned_by(owner)
        try:
            assert lbctl(lab, "maintenance", "start", owner) == (0, f"{owner} announces nothing\n")
            assert await watched.away_from(owner) == await stage.settled_owner(service)
        finally:
            assert lbctl(lab, "maintenance", "stop", owner) == (0, f"{owner} may have addresses again\n")
        await watched.owned_by(owner)
        assert lbctl(lab, "maintenance", "stop", owner) == (0, f"{owner} was not in maintenance\n")
        assert lbctl(lab, "maintenance", "start", "n9") == (2, "lbctl maintenance: there is no node n9\n")


async def test_balanced_addresses_are_spread_evenly(lab: Lab) -> None:
    names = [f"even-{number}" for number in range(6)]

    async def even(stage: Stage) -> bool | None:
        owners = Counter([await stage.settled_owner(f"{NAMESPACE}/{name}") for name in names])
        return [owners[node.name] for node in stage.topology.nodes] == [2, 2, 2] or None

    async def elect(stage: Stage, kind: str | None) -> None:
        annotations = {"metadata": {"annotations": {"lb.metallb-py.io/election": kind}}}
        await stage.kube.patch(L2_ADVERTISEMENTS, "default", annotations, namespace=SYSTEM)

    async with a_stage(lab, *names) as stage:
        await elect(stage, "balanced")
        try:
            await until_async(lambda: even(stage), limit_s=30, what="two addresses on each node", logs=stage.where.logs)
        finally:
            await elect(stage, None)
