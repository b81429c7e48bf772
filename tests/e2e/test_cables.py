"""Five real member processes in namespaces: what the simulation shows happens on real sockets and real clocks too.

Times are measured by `python -m bench.memberlist cables` on a quiet machine; here only what happens counts.
"""

from pathlib import Path

import pytest

from bench.cables import Cables

pytestmark = pytest.mark.needs("root")


@pytest.mark.timeout(300)
def test_every_pulled_cable_is_noticed_by_all_others_and_nobody_else_is_taken_for_dead(tmp_path: Path) -> None:
    with Cables(5, tmp_path, profile="subsecond") as ring:
        for number in (3, 0, 4):
            times = ring.crash(ring.machines[number])  # Raises when somebody else is reported lost.
            assert len(times) == 4
