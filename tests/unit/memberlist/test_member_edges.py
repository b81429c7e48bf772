"""The member table at its edges: exact limits, exact times, and who is told at once. bench/mutants.py asks for these."""

from collections.abc import Callable
from dataclasses import FrozenInstanceError
from ipaddress import ip_network
from typing import Any

import pytest

from memberlist import profiles
from memberlist.awareness import Awareness
from memberlist.broadcast import BroadcastQueue
from memberlist.config import Config, lan
from memberlist.effects import Conflicted, Endpoint, Joined, Left, Notify, Suspected, Updated
from memberlist.members import META_ACCEPTED_MAX, Members, Record, Urgent, Vetoes
from memberlist.messages import Alive, Dead, State, Suspect
from memberlist.suspicion import SLOW_LIMIT_S, Suspicion

VSN = bytes([1, 5, 2, 0, 0, 0])
GAP_S = 0.05  # between two refutations to everybody, and two to one accuser


def alive(name: str = "x", incarnation: int = 1, **fields: Any) -> Alive:
    defaults: dict[str, Any] = {"address": b"\xc0\0\2\7", "port": 7946, "meta": b"", "versions": VSN}
    return Alive(incarnation, name, **(defaults | fields))


def table(config: Config | None = None, *, others: int = 0, **settings: Any) -> Members:
    """A table under `subsecond`, which sends directly, with x and as many others as asked for; what it told is forgotten."""
    config = config or profiles.configured("subsecond", "me", "192.0.2.1", **settings)
    made = Members(config, 7946, BroadcastQueue(bytes_max=1000), Awareness(8))
    made.alive(alive(), 0.0)
    for number in range(others):
        made.alive(alive(f"o{number}", address=bytes([10, 1, number // 256, number % 256])), 0.0)
    made.take_urgent()
    made._queue.take(part_overhead=0, limit=10**6, transmits_max=1, count_max=10**6)
    return made


def plain(**settings: Any) -> Members:
    return table(lan("me", "192.0.2.1", **settings))


def record(members: Members, name: str = "x") -> Record:
    found = members.get(name)
    assert found is not None
    return found


def statements(members: Members) -> list[object]:
    return [urgent.statement for urgent in members.take_urgent()]


# Who is told at once.


@pytest.mark.parametrize(("others", "at_once"), [(0, True), (97, True), (98, True), (99, False)])
def test_up_to_a_hundred_members_are_told_directly_and_more_are_not(others: int, at_once: bool) -> None:  # noqa: FBT001  (a case)
    members = table(others=others)
    assert len(members) == others + 2
    accusation, verdict = Suspect(1, "x", "me"), Dead(1, "x", "me")
    members.accuse(record(members), 1.0)
    assert statements(members) == ([accusation] if at_once else [])
    members.declare(record(members), 2.0)
    assert statements(members) == ([verdict] if at_once else [])


@pytest.mark.parametrize(("others", "told"), [(98, [None]), (99, [Endpoint.of("10.1.0.0", 7946)])])
def test_a_refutation_goes_to_all_up_to_a_hundred_members_and_to_the_accuser_above(
    others: int, told: list[Endpoint | None]
) -> None:
    members = table(others=others)
    members.suspect(Suspect(1, "me", "o0"), 1.0)
    assert [urgent.to for urgent in members.take_urgent()] == told


def test_the_plain_algorithm_tells_nothing_at_once() -> None:
    members = plain()
    members.suspect(Suspect(1, "me", "x"), 1.0)
    members.suspect(Suspect(1, "me", "x"), 2.0)
    members.accuse(record(members), 3.0)
    members.declare(record(members), 4.0)
    assert members.take_urgent() == []


def test_an_accusation_is_sent_at_once_only_when_it_is_new() -> None:
    members = table(others=3)
    members.suspect(Suspect(1, "x", "o0"), 1.0)
    members.take_urgent()
    members.accuse(record(members), 1.1)  # It confirms, which is told at once as this member's own finding.
    assert statements(members) == [Suspect(1, "x", "me")]
    members.accuse(record(members), 1.2)
    assert statements(members) == []


def test_what_others_found_out_is_told_by_gossip_only() -> None:
    members = table(others=3)
    members.suspect(Suspect(1, "x", "o0"), 1.0)
    members.suspect(Suspect(1, "x", "o1"), 1.1)
    assert statements(members) == []
    assert len(members._queue) == 1


def test_who_is_gone_is_not_accused_anew() -> None:
    members = table()
    members.dead(Dead(1, "x", "a"), 1.0)
    assert members.accuse(record(members), 2.0) == []
    assert statements(members) == []


# Refutations, one after the other.


@pytest.mark.parametrize(("after_s", "direct"), [(GAP_S / 2, False), (GAP_S, True), (GAP_S * 2, True), (1.0, True)])
def test_refutations_go_to_everybody_at_most_twenty_times_a_second(after_s: float, direct: bool) -> None:  # noqa: FBT001  (a case)
    members = table(others=2)
    members.suspect(Suspect(1, "me", "x"), 8.0)
    assert len(members.take_urgent()) == 1
    members.suspect(Suspect(2, "me", "x"), 8.0 + after_s)
    assert members.own.incarnation == 3
    assert bool(members.take_urgent()) is direct
    assert len(members._queue) == 1


@pytest.mark.parametrize(("after_s", "again"), [(GAP_S / 2, False), (GAP_S, True), (1.0, True)])
@pytest.mark.parametrize("kind", [Suspect, Dead])
def test_who_repeats_an_old_accusation_is_told_again_at_most_twenty_times_a_second(
    kind: type[Suspect] | type[Dead],
    after_s: float,
    again: bool,  # noqa: FBT001  (a case)
) -> None:
    members = table(others=2)
    hear: Any = members.suspect if kind is Suspect else members.dead
    hear(kind(1, "me", "x"), 4.0)
    members.take_urgent()
    repeated = Urgent(members.own_alive(), record(members).endpoint)
    assert hear(kind(1, "me", "x"), 8.0) == []
    assert members.take_urgent() == [repeated]
    hear(kind(1, "me", "x"), 8.0 + after_s)
    assert members.take_urgent() == ([repeated] if again else [])
    hear(kind(1, "me", "o1"), 8.0 + after_s)
    assert [urgent.to for urgent in members.take_urgent()] == [record(members, "o1").endpoint]
    assert members.own.incarnation == 2


def test_the_accusers_that_were_told_are_forgotten_again() -> None:
    members = table(others=60)
    members.suspect(Suspect(1, "me", "x"), 1.0)
    for number in range(60):
        members.suspect(Suspect(1, "me", f"o{number}"), 2.0 + number)
    assert len(members._repeated) == 1
    for number in range(5):
        members.suspect(Suspect(1, "me", f"o{number}"), 100.0 + number / 1000)
    assert len(members._repeated) == 5


@pytest.mark.parametrize("accuser", ["nobody", "me"])
def test_an_accuser_that_is_unknown_or_this_member_itself_is_told_nothing(accuser: str) -> None:
    members = table()
    members.suspect(Suspect(1, "me", "x"), 1.0)
    members.take_urgent()
    members.suspect(Suspect(1, "me", accuser), 2.0)
    assert members.take_urgent() == []


def test_an_old_accusation_of_another_member_is_no_business_of_ours() -> None:
    members = table()
    members.alive(alive(incarnation=5), 1.0)
    members.take_urgent()
    assert members.suspect(Suspect(4, "x", "o0"), 2.0) == []
    assert members.dead(Dead(4, "x", "o0"), 2.0) == []
    assert members.take_urgent() == []


@pytest.mark.parametrize("incarnation", [0, 1, 2])
def test_who_leaves_answers_no_accusation(incarnation: int) -> None:
    members = table()
    members.own.incarnation = 1
    members.leave(1.0)
    members.take_urgent()
    assert members.suspect(Suspect(incarnation, "me", "x"), 2.0) == []
    assert members.dead(Dead(incarnation, "me", "x"), 2.0) == []
    assert members.take_urgent() == []
    assert members.own.state is State.LEFT
    members.check_invariants()


def test_a_second_leave_says_nothing_new() -> None:
    members = table()
    members.leave(1.0)
    queued, since, changes = members._leave_id, members.own.since, members.changes
    members.leave(5.0)
    assert (members._leave_id, members.own.since, members.changes) == (queued, since, changes) == (queued, 1.0, changes)


@pytest.mark.parametrize("accused", [1, 7])
def test_a_refutation_is_one_above_what_is_known_and_what_was_said_and_costs_health(accused: int) -> None:
    members = table()
    members.own.incarnation = 3
    members.suspect(Suspect(max(3, accused), "me", "x"), 1.0)
    assert members.own.incarnation == max(3, accused) + 1
    assert members._awareness.score == 1


# Limits.


@pytest.mark.parametrize(("length", "taken"), [(META_ACCEPTED_MAX, True), (META_ACCEPTED_MAX + 1, False)])
def test_metadata_up_to_4096_bytes_is_accepted(length: int, taken: bool) -> None:  # noqa: FBT001  (a case)
    assert META_ACCEPTED_MAX == 4096
    members = table()
    assert bool(members.alive(alive("new", meta=bytes(length), address=b"\x0a\0\0\1"), 1.0)) is taken


@pytest.mark.parametrize(
    ("versions", "taken"),
    [
        (bytes([1, 1, 1, 0, 0, 0]), True),
        (bytes([0, 5, 2, 0, 0, 0]), False),
        (bytes([2, 1, 1, 0, 0, 0]), False),
        (bytes(5), False),
        (bytes([1, 5, 2, 0, 0, 0, 0]), False),
    ],
)
def test_the_version_range_begins_above_nought_and_does_not_end_before_it_begins(versions: bytes, taken: bool) -> None:  # noqa: FBT001
    assert bool(table().alive(alive("new", versions=versions, address=b"\x0a\0\0\1"), 1.0)) is taken


@pytest.mark.parametrize(
    ("fields", "taken"),
    [
        ({"address": b"\x0a\0\0\1"}, True),
        ({"address": bytes(15) + b"\1"}, True),
        ({"address": b"\x0a\0\0"}, False),
        ({"address": bytes(5)}, False),
        ({"address": b""}, False),
    ],
)
def test_addresses_have_four_or_sixteen_bytes(fields: dict[str, Any], taken: bool) -> None:  # noqa: FBT001  (a case)
    assert bool(table().alive(alive("new", **fields), 1.0)) is taken


def test_incarnation_nought_and_no_name_are_refused_and_counted() -> None:
    members = table()
    assert members.alive(alive("new", 0), 1.0) == []
    assert members.alive(alive("", 1), 1.0) == []
    assert members.refused["malformed"] == 2


def test_a_full_table_takes_no_newcomer_and_still_hears_of_its_members() -> None:
    members = table(members_max=2)
    assert members.alive(alive("new", address=b"\x0a\0\0\1"), 1.0) == []
    assert members.refused["too many members"] == 1
    assert [
        type(effect.event) for effect in members.alive(alive(incarnation=2, meta=b"m"), 1.0) if isinstance(effect, Notify)
    ] == [Updated]


def test_a_veto_does_not_concern_this_member_itself() -> None:
    config = lan("me", "192.0.2.1")
    members = Members(config, 7946, BroadcastQueue(bytes_max=1000), Awareness(8), Vetoes(alive=lambda _: "nobody"))
    assert members.alive(alive(), 1.0) == []
    assert members.refused["veto"] == 1
    members.alive(alive("me", 5, address=b"\xc0\0\2\1", meta=b"wrong"), 1.0)
    assert members.own.incarnation == 6


@pytest.mark.parametrize(
    ("reclaim_s", "at", "free"),
    [(0.0, 1000.0, False), (0.5, 100.5, False), (0.5, 100.6, True), (10.0, 110.0, False), (10.0, 110.1, True)],
)
def test_the_name_of_the_dead_is_free_after_the_reclaim_time_and_not_at_it(reclaim_s: float, at: float, free: bool) -> None:  # noqa: FBT001
    members = table(dead_reclaim_s=reclaim_s)
    members.dead(Dead(1, "x", "a"), 100.0)
    (effect,) = members.alive(alive(address=b"\x0a\0\0\x63"), at)
    assert isinstance(effect, Notify)
    assert isinstance(effect.event, Joined if free else Conflicted)


@pytest.mark.parametrize(("at", "forgotten"), [(10.0, False), (30.0, False), (30.1, True)])
def test_the_dead_are_forgotten_after_their_time_and_not_at_it(at: float, forgotten: bool) -> None:  # noqa: FBT001  (a case)
    members = table()
    members.dead(Dead(1, "x", "a"), 0.0)
    changes, generation = members.changes, members.generation
    members.forget_the_dead(at)
    assert (members.get("x") is None) is forgotten
    assert members.generation - generation == members.changes - changes == int(forgotten)


# States and times.


def test_a_state_is_as_old_as_its_last_change() -> None:
    members = table()
    assert record(members).since == 0.0
    members.alive(alive(incarnation=2), 1.0)
    assert record(members).since == 0.0
    members.suspect(Suspect(2, "x", "a"), 2.0)
    assert record(members).since == 2.0
    members.alive(alive(incarnation=3), 3.0)
    assert record(members).since == 3.0
    members.dead(Dead(3, "x", "a"), 4.0)
    assert record(members).since == 4.0
    members.alive(alive(incarnation=4), 5.0)
    assert (record(members).since, record(members).state) == (5.0, State.ALIVE)


def test_the_table_counts_what_others_must_react_to() -> None:
    members = table()

    def counted(happens: Callable[[], object]) -> int:
        before = members.changes
        happens()
        return members.changes - before

    assert counted(lambda: members.alive(alive(incarnation=2), 1.0)) == 0
    assert counted(lambda: members.alive(alive(incarnation=3, meta=b"new"), 1.0)) == 1
    assert counted(lambda: members.suspect(Suspect(3, "x", "a"), 1.0)) == 1
    assert counted(lambda: members.suspect(Suspect(3, "x", "b"), 1.0)) == 0
    assert counted(lambda: members.dead(Dead(3, "x", "a"), 1.0)) == 1
    assert counted(lambda: members.alive(alive(incarnation=4, meta=b"new"), 1.0)) == 1
    assert counted(lambda: members.alive(alive("y", address=b"\x0a\0\0\1"), 1.0)) == 1
    assert counted(lambda: members.set_meta(b"mine")) == 1
    assert counted(lambda: members.leave(1.0)) == 1


def test_a_departed_member_that_moves_is_found_at_its_new_place() -> None:
    members = table()
    members.dead(Dead(1, "x", "x"), 1.0)
    members.alive(alive(address=b"\x0a\0\0\x63", port=99), 2.0)
    assert record(members).endpoint == Endpoint.of("10.0.0.99", 99)
    assert members.knows(Endpoint.of("10.0.0.99", 99))
    assert not members.knows(Endpoint.of("192.0.2.7", 7946))


def test_only_who_asked_itself_knows_at_first_hand() -> None:
    members = table(others=3)
    members.suspect(Suspect(1, "x", "o0"), 1.0)
    suspicion = record(members).suspicion
    assert suspicion is not None
    assert not suspicion.first_hand
    members.suspect(Suspect(1, "x", "o1"), 1.0)
    assert not suspicion.first_hand
    members.accuse(record(members), 1.1)
    assert suspicion.first_hand


@pytest.mark.parametrize(("others", "quorum"), [(0, 1), (1, 2), (3, 2)])
def test_in_a_ring_of_two_one_accuser_is_all_there_can_be(others: int, quorum: int) -> None:
    members = table(others=others)
    members.accuse(record(members), 1.0)
    suspicion = record(members).suspicion
    assert suspicion is not None
    assert suspicion.agreed is (quorum == 1)


def test_an_accusation_is_reported_with_the_accuser_and_a_death_with_who_said_it() -> None:
    members = table()
    (suspected,) = members.suspect(Suspect(1, "x", "a"), 1.0)
    assert isinstance(suspected, Notify)
    assert isinstance(suspected.event, Suspected)
    assert suspected.event.by == "a"
    (left,) = members.declare(record(members), 2.0)
    assert isinstance(left, Notify)
    assert isinstance(left.event, Left)
    assert left.event.by == "me"


@pytest.mark.parametrize("accuser", ["a", "w", "y", "z"])
def test_only_the_member_itself_can_say_that_it_leaves(accuser: str) -> None:
    members = table()
    members.dead(Dead(1, "x", accuser), 1.0)
    assert record(members).state is State.DEAD


def test_a_statement_to_be_sent_at_once_cannot_be_changed_on_its_way() -> None:
    urgent = Urgent(Suspect(1, "x", "me"))
    with pytest.raises(FrozenInstanceError):
        urgent.to = None  # type: ignore[misc]  # that is the point
    with pytest.raises(FrozenInstanceError):
        Vetoes().alive = lambda _: None  # type: ignore[misc]  # that is the point


# A suspect's clock.


def clock(**settings: Any) -> Suspicion:
    return Suspicion("a", **({"needed": 2, "minimum_s": 1.0, "maximum_s": 6.0, "now": 10.0} | settings))


def test_a_suspicion_begins_at_its_longest_and_ends_at_its_shortest() -> None:
    suspicion = clock()
    assert (suspicion.since, suspicion.deadline, suspicion.confirmations) == (10.0, 16.0, 0)
    assert suspicion.confirm("b", 11.0)
    assert suspicion.confirmations == 1
    assert 11.0 < suspicion.deadline < 16.0
    assert suspicion.confirm("c", 12.0)
    assert suspicion.deadline == 11.0
    assert not suspicion.confirm("d", 12.0)
    assert suspicion.confirmations == 2


def test_with_a_window_the_suspect_has_that_long_once_the_last_needed_accuser_agreed() -> None:
    suspicion = clock(window_s=0.15)
    suspicion.confirm("b", 11.0)
    assert suspicion.deadline > 12.0
    suspicion.confirm("c", 12.0)
    assert suspicion.deadline == 12.15


@pytest.mark.parametrize(
    ("quorum", "accusers", "agreed"),
    [(1, "", True), (2, "", False), (2, "a", False), (2, "b", True), (3, "b", False), (3, "bc", True)],
)
def test_a_quorum_is_of_different_accusers_the_first_counted(quorum: int, accusers: str, agreed: bool) -> None:  # noqa: FBT001
    suspicion = clock(quorum=quorum)
    for accuser in accusers:
        suspicion.confirm(accuser, 10.0)
    assert suspicion.agreed is agreed


def test_a_quorum_counts_accusers_that_no_confirmation_needs() -> None:
    suspicion = clock(needed=0)
    assert not suspicion.confirm("b", 10.0)
    assert suspicion.agreed


def test_made_up_accusers_are_not_collected() -> None:
    suspicion = clock()
    for number in range(1000):
        suspicion.confirm(f"made up {number}", 10.0)
    assert len(suspicion._accusers) == 2
    assert len(suspicion._confirming) == 3


def test_evidence_of_life_puts_off_the_end_within_the_slow_limit_and_never_brings_it_nearer() -> None:
    suspicion = clock(needed=0)
    assert suspicion.deadline == 11.0
    suspicion.process_gone = True
    suspicion.heard(10.9, 0.5)
    assert not suspicion.process_gone
    assert suspicion.deadline == 11.4
    suspicion.hold(11.0)
    assert suspicion.deadline == 11.4
    suspicion.hold(1000.0)
    assert suspicion.deadline == 10.0 + SLOW_LIMIT_S == 15.0


# What the mutants asked for last.


def test_a_record_knows_the_profile_in_its_mark() -> None:
    members = table()
    members.alive(alive(incarnation=2, meta=b"mlpy1 fast;own"), 1.0)
    assert record(members).profile() == "fast"
    assert record(members).seen().meta == b"own"


@pytest.mark.parametrize("accuser", ["a", "z"])
def test_the_word_of_another_is_not_first_hand(accuser: str) -> None:
    members = table(others=3)
    members.suspect(Suspect(1, "x", accuser), 1.0)
    suspicion = record(members).suspicion
    assert suspicion is not None
    assert not suspicion.first_hand
    assert not clock().first_hand


@pytest.mark.parametrize("meta", [b"a", b"z"])
def test_any_other_metadata_is_an_update(meta: bytes) -> None:
    members = table()
    members.alive(alive(incarnation=2, meta=b"m"), 1.0)
    changes = members.changes
    (effect,) = members.alive(alive(incarnation=3, meta=meta), 1.0)
    assert isinstance(effect, Notify)
    assert isinstance(effect.event, Updated)
    assert members.changes == changes + 1


def test_the_first_refutation_is_direct_and_so_is_one_exactly_at_the_end_of_the_gap() -> None:
    members = table(others=2)
    for number, at in enumerate((0.0, GAP_S), start=1):
        members.suspect(Suspect(number, "me", "x"), at)
        assert len(members.take_urgent()) == 1


def test_two_accusers_agree_in_a_larger_ring() -> None:
    members = table(others=3)
    members.suspect(Suspect(1, "x", "o0"), 1.0)
    suspicion = record(members).suspicion
    assert suspicion is not None
    assert not suspicion.agreed
    members.suspect(Suspect(1, "x", "o1"), 1.0)
    assert suspicion.agreed


def test_a_large_table_is_full_at_its_limit() -> None:
    members = table(others=998, members_max=1000)
    assert len(members) == 1000
    assert members.alive(alive("new", address=b"\x0a\0\0\1"), 1.0) == []


@pytest.mark.parametrize("state", [State.ALIVE, State.DEAD])
def test_only_suspects_are_declared(state: State) -> None:
    members = table()
    if state is State.DEAD:
        members.dead(Dead(1, "x", "a"), 1.0)
    with pytest.raises(AssertionError):
        members.declare(record(members), 2.0)


def test_the_invariants_can_be_broken() -> None:
    members = table()
    members.check_invariants()
    for attribute, wrong in (
        ("incarnation", 0),
        ("incarnation", -1),
        ("state", State.SUSPECT),
        ("versions", bytes(5)),
        ("versions", bytes(7)),
    ):
        right = getattr(record(members), attribute)
        setattr(record(members), attribute, wrong)
        with pytest.raises(AssertionError):
            members.check_invariants()
        setattr(record(members), attribute, right)
    members.own.state = State.DEAD
    with pytest.raises(AssertionError):
        members.check_invariants()


def test_a_suspicion_wants_confirmations_until_it_has_those_it_needs() -> None:
    suspicion = clock()
    for accuser, wanted in (("b", True), ("c", False)):
        assert suspicion.wants_confirmation
        suspicion.confirm(accuser, 10.0)
        assert suspicion.wants_confirmation is wanted
    assert not clock(needed=0).wants_confirmation


@pytest.mark.parametrize("meta", [b"a", b"z"])
def test_any_other_metadata_said_of_this_member_is_refuted(meta: bytes) -> None:
    members = plain(meta=b"m")
    members.alive(alive("me", 1, address=b"\xc0\0\2\1", meta=meta), 1.0)
    assert members.own.incarnation == 2


def test_who_died_late_is_kept_as_long_as_who_died_early() -> None:
    members = table()
    members.dead(Dead(1, "x", "a"), 100.0)
    members.forget_the_dead(129.0)
    assert members.get("x") is not None


def test_a_new_name_is_a_new_generation_and_news_of_an_old_one_is_not() -> None:
    members = table()
    generation = members.generation
    members.alive(alive("new", address=b"\x0a\0\0\1"), 1.0)
    assert members.generation == generation + 1
    members.alive(alive("new", 2, address=b"\x0a\0\0\1"), 1.0)
    assert members.generation == generation + 1


def test_members_may_live_in_the_allowed_networks_only() -> None:
    members = plain(allowed_networks=(ip_network("192.0.2.0/24"), ip_network("10.0.0.0/30")))
    assert members.alive(alive("in", address=b"\x0a\0\0\1"), 1.0)
    assert members.alive(alive("out", address=b"\x0a\0\0\x09"), 1.0) == []
    assert members.refused["network"] == 1


def test_accusers_are_told_again_and_forgotten_whatever_multiple_of_the_first_time_it_is() -> None:
    members = table(others=3)
    members.suspect(Suspect(1, "me", "x"), 0.5)
    members.take_urgent()
    for at, accuser in ((1.0, "x"), (5.0, "x"), (10.0, "o0")):
        members.suspect(Suspect(1, "me", accuser), at)
        assert len(members.take_urgent()) == 1
    assert list(members._repeated) == ["o0"]


@pytest.mark.parametrize("name", ["a", "z"])
def test_who_leaves_still_hears_of_others(name: str) -> None:
    members = table()
    members.leave(1.0)
    assert members.alive(alive(name, address=b"\x0a\0\0\1"), 2.0)
