"""Random faults, many seeds. A failure prints the command that runs it again."""

import pytest

from tests.simulation import faults
from tests.simulation.checks import Breach
from tests.simulation.faults import chaos, command
from tests.simulation.profiles import PROFILES
from tests.simulation.ring import Ring

SEEDS = range(8)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("profile", PROFILES)
def test_whatever_happens_no_rule_is_broken_and_the_living_agree_afterwards(profile: str, seed: int) -> None:
    outcome = chaos(profile, 2 + seed % 5, seed, seconds=30.0)
    assert outcome.steps > 100
    assert len(outcome.faults) > 5


def test_a_larger_ring_goes_through_the_same() -> None:
    assert chaos("compat", 30, 1, seconds=20.0).steps > 1000


def test_a_failing_seed_says_how_to_run_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ring, "agreed", lambda _ring: False)
    monkeypatch.setattr(faults, "_bound_s", lambda _ring: 1.0)
    with pytest.raises(Breach) as breach:
        chaos("compat", 3, 5, seconds=5.0)
    assert str(breach.value).endswith("run it again with: " + command("compat", 3, 5))
    assert command("compat", 3, 5) == "python -m tests.simulation chaos --profile compat --n 3 --seed 5"
