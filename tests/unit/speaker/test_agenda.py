"""What is decided again, in which order, in which portions. Bounds are counts, so nothing here looks at a clock."""

from __future__ import annotations

from config.model import NodeName, ServiceKey
from speaker.agenda import JUDGEMENTS_PER_BATCH, SERVICES_PER_BATCH, Agenda, Changes
from speaker.plan import Decision
from speaker.reason import Reason
from tests.builders_speaker import nodes

ME = NodeName("a")


def keys(text: str) -> list[ServiceKey]:
    return [ServiceKey(name) for name in text.split()]


def decided(**rankings: str) -> dict[ServiceKey, Decision]:
    """Decisions by Service name, each with its ranking."""
    return {
        ServiceKey(name): Decision(
            ServiceKey(name), (), None, Reason.LOST_ELECTION, "", tuple(NodeName(one) for one in ranking.split())
        )
        for name, ranking in rankings.items()
    }


def taken(agenda: Agenda) -> list[str]:
    order: list[str] = []
    while len(agenda):
        order += agenda.take(1)
    return order


def test_orphans_of_a_lost_member_come_first() -> None:
    agenda = Agenda()
    decisions = decided(one="a b c", two="b a c", three="c b a", four="b c a")
    agenda.add(Changes(frozenset(keys("three new")), lost=nodes("b")), decisions, keys("one two three four new"), ME)
    assert taken(agenda) == ["two", "four", "new", "three", "one"]


def test_a_lost_member_concerns_only_services_it_was_a_candidate_for() -> None:
    agenda = Agenda()
    agenda.add(Changes(lost=nodes("b")), decided(one="a b", two="a c", three=""), keys("one two three"), ME)
    assert taken(agenda) == ["one"]


def test_a_change_of_the_cluster_concerns_everybody() -> None:
    agenda = Agenda()
    agenda.add(Changes(everybody=True, lost=nodes("b")), decided(one="a", two="b"), keys("one two three"), ME)
    assert taken(agenda) == ["two", "one", "three"]


def test_a_change_of_this_node_concerns_what_it_won() -> None:
    agenda = Agenda()
    agenda.add(Changes(own=True), decided(one="a b", two="b a", three="a"), keys("one two three"), ME)
    assert taken(agenda) == ["one", "three"]


def test_a_service_waits_once_in_the_first_queue_that_wants_it() -> None:
    agenda = Agenda()
    decisions = decided(one="b a", two="b a")
    agenda.add(Changes(everybody=True), decisions, keys("one two"), ME)
    agenda.add(Changes(frozenset(keys("two"))), decisions, keys("one two"), ME)
    assert len(agenda) == 2
    agenda.add(Changes(lost=nodes("b")), decisions, keys("one two"), ME)
    agenda.add(Changes(frozenset(keys("one"))), decisions, keys("one two"), ME)
    assert taken(agenda) == ["one", "two"]


def test_portions_are_bounded_by_services_and_by_judgements() -> None:
    agenda = Agenda()
    many = [ServiceKey(f"s{index}") for index in range(500)]
    agenda.add(Changes(everybody=True), {}, many, ME)
    assert len(agenda.take(0)) == len(agenda.take(3)) == SERVICES_PER_BATCH
    assert len(agenda.take(100)) == JUDGEMENTS_PER_BATCH // 100
    assert len(agenda.take(10 * JUDGEMENTS_PER_BATCH)) == 1


def test_no_change_is_false() -> None:
    assert not Changes()
    assert Changes(own=True)
    assert Changes(lost=nodes("a"))
