"""The state rules: what a member believes, refuses, refutes and passes on (the table in memberlist/members.py)."""

from ipaddress import ip_address
from typing import Any

import pytest

from memberlist import wire
from memberlist.awareness import Awareness
from memberlist.broadcast import BroadcastQueue
from memberlist.config import lan
from memberlist.effects import (
    Cause,
    Conflicted,
    Effect,
    Endpoint,
    Joined,
    Left,
    Member,
    MemberEvent,
    Notify,
    Refuted,
    Suspected,
    Updated,
)
from memberlist.judge import Judge
from memberlist.lag import LagGuard
from memberlist.members import Members
from memberlist.messages import Alive, Dead, Message, State, Suspect

VSN = bytes([1, 5, 2, 0, 0, 0])
X = bytes([192, 0, 2, 7])
ELSEWHERE = bytes([192, 0, 2, 99])


class Table:
    """A member table named "me", what it queued, and its health."""

    def __init__(self, **settings: Any) -> None:
        self.queue = BroadcastQueue(bytes_max=5000)
        self.awareness = Awareness(8)
        config = lan("me", "192.0.2.1", **settings)
        self.members = Members(config, 7946, self.queue, self.awareness)
        self.judge = Judge(config, self.members, LagGuard())

    def told(self) -> list[Message]:
        """Take everything that is to be passed on."""
        return [wire.decode(data) for data in self.queue.take(part_overhead=2, limit=100_000, transmits_max=1)]

    def hear(self, statement: Alive | Suspect | Dead, now: float = 0.0) -> list[MemberEvent]:
        heard = {Alive: self.members.alive, Suspect: self.members.suspect, Dead: self.members.dead}[type(statement)]
        effects: list[Effect] = heard(statement, now)  # type: ignore[operator]  # the method that fits the type
        self.members.check_invariants()
        return events(effects)

    def state(self, name: str = "x") -> tuple[int, State] | None:
        record = self.members.get(name)
        return None if record is None else (record.incarnation, record.state)

    def with_x(self, state: State = State.ALIVE, incarnation: int = 5) -> "Table":
        """Know the member x in a state."""
        self.hear(alive(incarnation))
        if state is State.SUSPECT:
            self.hear(Suspect(incarnation, "x", "accuser"))
        elif state is State.DEAD:
            self.hear(Dead(incarnation, "x", "accuser"))
        elif state is State.LEFT:
            self.hear(Dead(incarnation, "x", "x"))
        self.told()
        return self


def events(effects: list[Effect]) -> list[MemberEvent]:
    assert all(isinstance(effect, Notify) for effect in effects)
    return [effect.event for effect in effects if isinstance(effect, Notify)]


def alive(
    incarnation: int, *, name: str = "x", address: bytes = X, port: int = 7946, meta: bytes = b"", versions: bytes = VSN
) -> Alive:
    return Alive(incarnation, name, address, port, meta, versions)


def x(incarnation: int, state: State, meta: bytes = b"") -> Member:
    return Member("x", ip_address("192.0.2.7"), 7946, meta, state, incarnation)


# alive


def test_a_new_member_joins_and_is_passed_on() -> None:
    table = Table()
    assert table.hear(alive(1)) == [Joined(x(1, State.ALIVE))]
    assert table.told() == [alive(1)]
    assert [member.name for member in table.members.usable()] == ["me", "x"]


def test_hearing_the_same_again_changes_nothing() -> None:
    table = Table().with_x()
    for incarnation in (5, 4):
        assert table.hear(alive(incarnation, meta=b"new")) == []
    assert table.told() == []
    assert table.state() == (5, State.ALIVE)


def test_new_metadata_under_a_new_incarnation_is_an_update() -> None:
    table = Table().with_x()
    assert table.hear(alive(6, meta=b"new")) == [Updated(x(6, State.ALIVE, b"new"))]
    assert table.hear(alive(7, meta=b"new")) == []
    assert table.state() == (7, State.ALIVE)


def test_a_suspect_that_shows_a_higher_incarnation_is_no_suspect() -> None:
    table = Table().with_x(State.SUSPECT)
    assert table.hear(alive(5)) == []
    assert table.state() == (5, State.SUSPECT)
    assert table.hear(alive(6, meta=b"m")) == [Refuted(x(6, State.ALIVE, b"m")), Updated(x(6, State.ALIVE, b"m"))]
    assert table.judge.wake_at() is None


@pytest.mark.parametrize("gone", [State.DEAD, State.LEFT])
def test_the_gone_come_back_only_with_a_higher_incarnation(gone: State) -> None:
    table = Table().with_x(gone)
    assert table.hear(alive(5)) == []
    assert table.state() == (5, gone)
    assert table.hear(alive(6)) == [Joined(x(6, State.ALIVE))]


@pytest.mark.parametrize(
    "wrong",
    [
        alive(1, versions=b""),
        alive(1, versions=VSN[:3]),
        alive(1, versions=VSN + b"\0"),
        alive(1, versions=bytes([0, 5, 2, 0, 0, 0])),
        alive(1, versions=bytes([1, 0, 2, 0, 0, 0])),
        alive(1, versions=bytes([3, 2, 2, 0, 0, 0])),
        alive(0),
        alive(1, name=""),
        alive(1, address=b""),
        alive(1, address=bytes(5)),
        alive(1, meta=bytes(4097)),
    ],
)
def test_a_statement_no_member_would_make_is_neither_believed_nor_passed_on(wrong: Alive) -> None:
    table = Table()
    assert table.hear(wrong) == []
    assert table.told() == []
    assert len(table.members) == 1


def test_a_table_has_a_last_place() -> None:
    table = Table(members_max=2)
    table.hear(alive(1))
    assert table.hear(alive(1, name="y")) == []
    assert table.state("y") is None
    assert table.hear(alive(2)) == []
    assert table.state() == (2, State.ALIVE)


@pytest.mark.parametrize("state", [State.ALIVE, State.SUSPECT, State.DEAD])
@pytest.mark.parametrize(
    "claim", [alive(9, address=ELSEWHERE), alive(9, port=1), alive(9, address=bytes(10) + b"\xff\xff" + X)]
)
def test_a_name_stays_with_its_address_even_written_otherwise(state: State, claim: Alive) -> None:
    table = Table().with_x(state)
    (conflict,) = table.hear(claim)
    assert conflict == Conflicted(x(5, state), Endpoint.of(claim.address, claim.port))
    assert table.state() == (5, state)
    assert table.told() == []


def test_the_name_of_a_departed_member_is_free_at_once_whatever_the_incarnation() -> None:
    table = Table().with_x(State.LEFT)
    assert table.hear(alive(1, address=ELSEWHERE)) == [Joined(Member("x", ip_address("192.0.2.99"), 7946, b"", State.ALIVE, 1))]


def test_the_name_of_a_dead_member_is_free_after_the_reclaim_time_if_there_is_one() -> None:
    for reclaim_s, now, free in ((0.0, 1e6, False), (10.0, 10.0, False), (10.0, 10.1, True)):
        table = Table(dead_reclaim_s=reclaim_s).with_x(State.DEAD)
        (event,) = table.hear(alive(6, address=ELSEWHERE), now)
        assert isinstance(event, Joined) == free


# alive, about this member


def test_this_member_says_once_that_it_is_there() -> None:
    table = Table(meta=b"m")
    table.members.announce()
    assert table.told() == [alive(1, name="me", address=bytes([192, 0, 2, 1]), meta=b"m")]


def own_alive(incarnation: int, meta: bytes = b"") -> Alive:
    return alive(incarnation, name="me", address=bytes([192, 0, 2, 1]), meta=meta)


@pytest.mark.parametrize("heard", [own_alive(1), own_alive(0), own_alive(0, b"other")])
def test_what_is_true_of_this_member_or_old_needs_no_answer(heard: Alive) -> None:
    table = Table()
    assert table.hear(heard) == []
    assert table.told() == []


@pytest.mark.parametrize(
    ("heard", "answer"),
    [(own_alive(1, b"wrong"), own_alive(2)), (own_alive(7), own_alive(8)), (own_alive(7, b"wrong"), own_alive(8))],
)
def test_what_is_wrong_about_this_member_is_refuted(heard: Alive, answer: Alive) -> None:
    table = Table()
    assert table.hear(heard) == []
    assert table.told() == [answer]
    assert table.awareness.score == 1


def test_somebody_else_with_this_members_name_is_a_conflict() -> None:
    (event,) = Table().hear(alive(9, name="me", address=ELSEWHERE))
    assert isinstance(event, Conflicted)
    assert event.claimed == Endpoint.of(ELSEWHERE, 7946)


# suspect


def test_an_accusation_is_believed_and_passed_on_under_its_own_name() -> None:
    table = Table().with_x()
    assert table.hear(Suspect(5, "x", "accuser"), 10.0) == [Suspected(x(5, State.SUSPECT), "accuser")]
    assert table.told() == [Suspect(5, "x", "accuser")]
    assert table.judge.wake_at() == 14.0  # Two living members: nobody can confirm.
    assert [member.name for member in table.members.usable()] == ["me", "x"]


def test_an_accusation_with_a_higher_incarnation_raises_the_known_one() -> None:
    table = Table().with_x()
    table.hear(Suspect(8, "x", "accuser"))
    assert table.state() == (8, State.SUSPECT)
    assert table.hear(alive(8)) == []


def test_old_or_unknown_accusations_are_ignored() -> None:
    table = Table().with_x()
    assert table.hear(Suspect(4, "x", "accuser")) == []
    assert table.hear(Suspect(5, "nobody", "accuser")) == []
    assert table.state() == (5, State.ALIVE)
    assert table.told() == []


@pytest.mark.parametrize("gone", [State.DEAD, State.LEFT])
def test_the_gone_cannot_be_suspected(gone: State) -> None:
    table = Table().with_x(gone)
    assert table.hear(Suspect(9, "x", "accuser")) == []
    assert table.state() == (5, gone)


def test_confirmations_hasten_the_end_and_only_those_that_count_are_passed_on() -> None:
    table = Table().with_x()
    for name in ("a", "b", "c"):
        table.hear(alive(1, name=name, address=b"\x0a\0\0" + name.encode()))
    table.told()
    table.hear(Suspect(5, "x", "a"), 100.0)
    assert table.judge.wake_at() == 124.0
    table.told()
    assert table.hear(Suspect(5, "x", "a"), 101.0) == []
    assert table.told() == []
    table.hear(Suspect(5, "x", "b"), 102.0)
    assert table.told() == [Suspect(5, "x", "b")]
    table.hear(Suspect(5, "x", "c"), 103.0)
    assert table.judge.wake_at() == 104.0
    table.told()
    table.hear(Suspect(5, "x", "d"), 103.5)
    assert table.told() == []


def test_who_does_not_refute_in_time_is_declared_dead_by_this_member() -> None:
    table = Table().with_x()
    table.hear(Suspect(5, "x", "accuser"), 10.0)
    table.told()
    assert table.judge.tick(13.9) == []
    assert events(table.judge.tick(14.0)) == [Left(x(5, State.DEAD), Cause.FAILED, "me")]
    assert table.told() == [Dead(5, "x", "me")]
    assert table.judge.wake_at() is None


def test_the_departed_are_not_waited_for_to_confirm() -> None:
    table = Table().with_x()
    for name in ("a", "b"):
        table.hear(alive(1, name=name, address=b"\x0a\0\0" + name.encode()))
    table.hear(Dead(1, "b", "b"))
    table.hear(Suspect(5, "x", "me"), 10.0)
    assert table.judge.wake_at() == 14.0


def test_an_accusation_of_this_member_is_refuted() -> None:
    for accused, answer in ((1, 2), (100, 101)):
        table = Table()
        assert table.hear(Suspect(accused, "me", "accuser")) == []
        assert table.told() == [own_alive(answer)]
        assert table.awareness.score == 1
    assert Table().hear(Suspect(0, "me", "accuser")) == []


def test_this_member_accuses_under_its_own_name() -> None:
    table = Table().with_x()
    record = table.members.get("x")
    assert record is not None
    assert events(table.members.accuse(record, 1.0)) == [Suspected(x(5, State.SUSPECT), "me")]
    assert table.told() == [Suspect(5, "x", "me")]


# dead


@pytest.mark.parametrize("state", [State.ALIVE, State.SUSPECT])
@pytest.mark.parametrize("incarnation", [5, 6])
def test_a_death_is_believed_at_once_from_anybody(state: State, incarnation: int) -> None:
    table = Table().with_x(state)
    assert table.hear(Dead(incarnation, "x", "accuser")) == [Left(x(incarnation, State.DEAD), Cause.FAILED, "accuser")]
    assert table.told() == [Dead(incarnation, "x", "accuser")]
    assert [member.name for member in table.members.usable()] == ["me"]


def test_who_says_it_of_itself_leaves() -> None:
    table = Table().with_x()
    assert table.hear(Dead(5, "x", "x")) == [Left(x(5, State.LEFT), Cause.LEFT, "x")]


def test_old_unknown_and_second_deaths_are_ignored_and_the_dead_never_leave() -> None:
    table = Table().with_x()
    assert table.hear(Dead(4, "x", "accuser")) == []
    assert table.hear(Dead(5, "nobody", "accuser")) == []
    table.hear(Dead(5, "x", "accuser"))
    table.told()
    assert table.hear(Dead(6, "x", "x")) == []
    assert table.state() == (5, State.DEAD)
    assert table.told() == []


def test_a_death_of_this_member_is_refuted() -> None:
    table = Table()
    assert table.hear(Dead(3, "me", "accuser")) == []
    assert table.told() == [own_alive(4)]


# leaving, metadata, forgetting


def test_a_leave_is_a_death_that_this_member_declares_of_itself() -> None:
    table = Table().with_x()
    assert not table.members.leave_is_spread()
    table.members.leave(3.0)
    table.members.leave(4.0)
    table.members.check_invariants()
    assert not table.members.leave_is_spread()
    assert table.told() == [Dead(1, "me", "me")]
    assert table.members.leave_is_spread()
    assert table.members.leaving
    assert [member.name for member in table.members.usable()] == ["x"]


@pytest.mark.parametrize("heard", [own_alive(9), Suspect(9, "me", "a"), Dead(9, "me", "a")])
def test_who_leaves_refutes_nothing(heard: Alive | Suspect | Dead) -> None:
    table = Table()
    table.members.leave(0.0)
    table.told()
    assert table.hear(heard) == []
    assert table.told() == []


def test_new_metadata_of_this_member_goes_out_under_a_new_incarnation() -> None:
    table = Table()
    table.members.set_meta(b"synced")
    assert table.told() == [own_alive(2, b"synced")]


def test_the_gone_are_forgotten_after_their_time_and_this_member_never() -> None:
    table = Table().with_x(State.DEAD)
    table.members.leave(0.0)
    generation = table.members.generation
    table.members.forget_the_dead(30.0)
    assert (table.state(), table.members.generation) == ((5, State.DEAD), generation)
    table.members.forget_the_dead(30.1)
    assert table.state() is None
    assert table.members.generation > generation
    assert table.state("me") is not None
    assert table.hear(alive(1)) == [Joined(x(1, State.ALIVE))]


def test_a_member_is_alone_when_everybody_else_is_gone() -> None:
    table = Table()
    assert table.members.alone()
    table.with_x(State.SUSPECT)
    assert not table.members.alone()
    table.hear(Dead(5, "x", "a"))
    assert table.members.alone()


def test_an_endpoint_reads_as_one_types_it_and_a_mapped_address_is_ipv4() -> None:
    assert str(Endpoint.of(bytes(10) + b"\xff\xff" + X, 7946)) == "192.0.2.7:7946"
    assert str(Endpoint.of("2001:db8::1", 7946)) == "[2001:db8::1]:7946"


def test_an_address_is_known_when_a_member_lives_there() -> None:
    table = Table().with_x()
    assert table.members.knows(Endpoint.of(X, 7946))
    assert not table.members.knows(Endpoint.of(X, 7947))
