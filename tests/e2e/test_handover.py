"""Planned moves of an address in the lab, with 200 requests a second from a client: none is lost, no question goes unanswered.

What is judged, and what a cut request is, says lab.scenarios.planned_moves; the checker reads a capture of the client's cable and
is none of the product's code. Many rounds: `python -m lab run planned_moves --runs 20`.
"""

from __future__ import annotations

import pytest

from lab.scenarios import planned_moves
from lab.scenarios.stage import Stage
from tests.e2e.conftest import Lab

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
