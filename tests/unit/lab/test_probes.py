"""What a row of a probe's answers settles."""

from lab.kinds import Probe
from lab.probes import Streak


def test_as_many_bad_answers_as_the_threshold_says_settle_that_it_is_bad() -> None:
    streak = Streak(Probe(failure_threshold=3), state=True)
    assert [streak.note(good=False) for _ in range(4)] == [None, None, False, False]
    assert not streak.state


def test_one_answer_of_the_other_kind_starts_the_row_again() -> None:
    streak = Streak(Probe(failure_threshold=2, success_threshold=2), state=False)
    assert [streak.note(good=good) for good in (True, False, True, True, False, False)] == [None, None, None, True, None, False]


def test_a_state_stays_while_nothing_is_settled() -> None:
    streak = Streak(Probe(failure_threshold=3), state=False)
    assert streak.note(good=True)
    streak.note(good=False)
    assert streak.state
