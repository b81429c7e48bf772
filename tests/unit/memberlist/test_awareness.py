"""The local health score against the table of hashicorp/memberlist."""

from memberlist.awareness import Awareness


def test_the_score_stays_within_its_bounds() -> None:
    awareness = Awareness(8)
    scores = []
    for delta in (0, -1, -10, 1, -1, 10, -1, -1, -1, -1, -1, -1, -1, -1):
        awareness.adjust(delta)
        scores.append(awareness.score)
    assert scores == [0, 0, 0, 1, 0, 7, 6, 5, 4, 3, 2, 1, 0, 0]


def test_probes_take_as_many_intervals_as_the_score_and_one() -> None:
    awareness = Awareness(8)
    assert awareness.scaled(1.0) == 1.0
    awareness.adjust(99)
    assert awareness.scaled(1.0) == 8.0
