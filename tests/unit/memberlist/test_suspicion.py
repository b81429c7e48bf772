"""The suspicion timer against the tables of hashicorp/memberlist."""

import pytest

from memberlist.suspicion import Suspicion, timeout_s


@pytest.mark.parametrize(
    ("confirmations", "elapsed_s", "remaining_s"), [(0, 0, 30), (1, 2, 14), (2, 3, 4.81), (3, 4, -2), (4, 5, -3), (5, 10, -8)]
)
def test_each_confirmation_shortens_the_wait(confirmations: int, elapsed_s: float, remaining_s: float) -> None:
    assert timeout_s(confirmations, 3, 2, 30) - elapsed_s == pytest.approx(remaining_s, abs=1e-6)


@pytest.mark.parametrize(
    ("minimum_s", "ladder"), [(4.0, (24.0, 11.381, 4.0)), (8.0, (48.0, 22.762, 8.0)), (12.0, (72.0, 34.144, 12.0))]
)
def test_the_ladders_of_the_lan_preset(minimum_s: float, ladder: tuple[float, ...]) -> None:
    assert [timeout_s(c, 2, minimum_s, 6 * minimum_s) for c in range(3)] == pytest.approx(list(ladder), abs=0.0011)


def test_the_ladder_of_four_accusers() -> None:
    assert [timeout_s(c, 3, 0.5, 2.0) for c in range(4)] == pytest.approx([2.0, 1.25, 0.81, 0.5], abs=0.0011)


@pytest.mark.parametrize(("confirmations", "milliseconds"), [(0, 1000), (1, 750), (2, 604), (3, 500), (9, 500)])
def test_the_dogpile_table(confirmations: int, milliseconds: int) -> None:
    assert timeout_s(confirmations, 3, 0.5, 1.0) * 1000 == pytest.approx(milliseconds, abs=1)


def test_without_confirmations_to_wait_for_the_minimum_applies() -> None:
    suspicion = Suspicion("a", needed=0, minimum_s=4, maximum_s=24, now=100)
    assert suspicion.deadline == 104
    assert not suspicion.confirm("b", 100)


def test_an_accuser_counts_once_the_first_not_at_all_and_no_more_than_needed() -> None:
    suspicion = Suspicion("a", needed=2, minimum_s=4, maximum_s=24, now=100)
    assert suspicion.deadline == 124
    assert not suspicion.confirm("a", 100)
    assert suspicion.confirm("b", 100)
    assert not suspicion.confirm("b", 100)
    assert suspicion.deadline == pytest.approx(111.381, abs=0.001)
    assert suspicion.confirm("c", 100)
    assert suspicion.deadline == 104
    assert not suspicion.confirm("d", 100)
    assert suspicion.confirmations == 2
