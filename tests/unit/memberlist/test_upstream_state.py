"""hashicorp/memberlist's own tests of probing and of the member table, as behaviours, each named after what Go promises."""

import random
from collections import Counter
from typing import Any

import pytest

from memberlist import push_pull
from memberlist.awareness import Awareness
from memberlist.broadcast import BroadcastQueue
from memberlist.config import confirmations_needed, lan, suspicion_min_s
from memberlist.effects import Cause, Conflicted, Joined, Left, MemberEvent, Notify, Refuted, SendPacket, Suspected, Updated
from memberlist.members import Members, Record
from memberlist.messages import Ack, Alive, Dead, Nack, NodeState, Ping, PushPull, State, Suspect
from memberlist.probe import pick
from memberlist.suspicion import timeout_s
from tests.unit.memberlist.test_core import VSN, Machine, X, Y

PROBING = {"probe_interval_s": 1.0, "probe_timeout_s": 0.45, "gossip_interval_s": 0.0, "push_pull_interval_s": 0.0}


def alive(
    name: str = "x", incarnation: int = 1, *, address: bytes = b"\xc0\0\2\7", meta: bytes = b"", vsn: bytes = VSN
) -> Alive:
    return Alive(incarnation, name, address, 7946, meta, vsn)


class Table:
    """A member table and the kinds of what it reported."""

    def __init__(self, **settings: Any) -> None:
        self.queue = BroadcastQueue(bytes_max=1000)
        self.table = Members(lan("me", "192.0.2.1", **settings), 7946, self.queue, Awareness(8))

    def hear(self, *statements: Alive | Suspect | Dead, now: float = 0.0) -> list[type[MemberEvent]]:
        told: list[type[MemberEvent]] = []
        for statement in statements:
            hearing = {Alive: self.table.alive, Suspect: self.table.suspect, Dead: self.table.dead}[type(statement)]
            effects = hearing(statement, now)  # type: ignore[operator]  # each takes its own kind
            told += [type(effect.event) for effect in effects if isinstance(effect, Notify)]
        self.table.check_invariants()
        return told

    def state(self, name: str = "x") -> tuple[State, int]:
        record = self.table.get(name)
        assert record is not None
        return record.state, record.incarnation


class Probing:
    """A member that probes x with the help of a, b and c."""

    def __init__(self, versions: bytes = VSN, **settings: Any) -> None:
        self.machine = Machine(periodic=True, **(PROBING | settings))
        helpers = [alive(name, address=bytes([192, 0, 2, 20 + number]), vsn=versions) for number, name in enumerate("abc")]
        self.machine.packet(alive(), *helpers)
        self.now = 1.0

    def until_probe_of_x(self) -> int:
        """Answer the probes of all others; return the number of the ping to x."""
        while True:
            self.now = self.machine.core.wake_at() or self.now
            for effect in self.machine.core.tick(self.now):
                if isinstance(effect, SendPacket):
                    to, messages = self.machine.sent(effect)
                    for message in messages:
                        if isinstance(message, Ping) and message.node == "x":
                            return message.sequence
                        if isinstance(message, Ping):
                            self.machine.packet(Ack(message.sequence), source=to, now=self.now)

    @property
    def score(self) -> int:
        return self.machine.core.health

    def to_the_end(self, sequence: int, *, nacks: int = 0, ack: bool = False) -> None:
        """Let the probe time out, get these answers, and let it end."""
        self.machine.core.tick(self.now + 0.5)
        for _ in range(nacks):
            self.machine.packet(Nack(sequence), now=self.now + 0.9)
        if ack:
            self.machine.packet(Ack(sequence), source=X, now=self.now + 0.9)
        round_ = self.machine.core._prober.round
        if round_ is not None:
            self.machine.core.tick(round_.deadline)


def state_of_x(probing: Probing) -> State:
    record = probing.machine.core.members.get("x")
    assert record is not None
    return record.state


# Probing.


def test_a_probe_that_is_answered_keeps_its_target_alive() -> None:
    probing = Probing()
    probing.machine.packet(Ack(probing.until_probe_of_x()), source=X, now=probing.now + 0.01)
    probing.machine.core.tick(probing.now + 0.99)
    assert state_of_x(probing) is State.ALIVE


def test_a_probe_that_nobody_answers_makes_its_target_a_suspect() -> None:
    probing = Probing()
    probing.to_the_end(probing.until_probe_of_x())
    assert state_of_x(probing) is State.SUSPECT


@pytest.mark.parametrize(
    ("n", "confirmations", "milliseconds"),
    [(2, 0, 500), (3, 0, 500), (4, 0, 500), (5, 0, 1000), (6, 0, 1000), (6, 1, 750), (6, 2, 604), (6, 3, 500), (6, 4, 500)],
)
def test_dogpile_a_suspect_dies_sooner_the_more_confirm(n: int, confirmations: int, milliseconds: int) -> None:
    config = lan("me", "192.0.2.1", suspicion_mult=5, suspicion_max_mult=2, probe_interval_s=0.1, probe_timeout_s=0.04)
    minimum_s = suspicion_min_s(config, n)
    needed = confirmations_needed(config, n)
    waited_s = timeout_s(min(confirmations, needed), needed, minimum_s, 2 * minimum_s)
    assert 1000 * waited_s == pytest.approx(milliseconds, abs=1.0)  # Go's own test rounds up what its code cuts off.


def test_a_member_in_bad_health_whose_relays_all_nack_stays_as_it_is_and_takes_two_intervals() -> None:
    probing = Probing()
    probing.machine.core._awareness.adjust(1)
    while probing.score != 1:
        probing.machine.core._awareness.adjust(1 - probing.score)
    sequence = probing.until_probe_of_x()
    probing.machine.core._awareness.adjust(1 - probing.score)
    probing.now = probing.machine.core._prober.round.deadline - 1.0  # type: ignore[union-attr]  # it has just begun
    probing.to_the_end(sequence, nacks=3)
    assert state_of_x(probing) is State.SUSPECT
    assert probing.score == 1


def test_a_probe_that_succeeds_betters_the_health() -> None:
    probing = Probing()
    sequence = probing.until_probe_of_x()
    probing.machine.core._awareness.adjust(2)
    before = probing.score
    probing.to_the_end(sequence, ack=True)
    assert probing.score == before - 1


def test_each_missing_nack_worsens_the_health_by_one() -> None:
    probing = Probing()
    probing.to_the_end(probing.until_probe_of_x(), nacks=2)
    assert probing.score == 1


def test_with_relays_too_old_for_nacks_a_failed_probe_worsens_the_health_by_one() -> None:
    probing = Probing(versions=bytes([1, 3, 2, 0, 0, 0]))
    probing.to_the_end(probing.until_probe_of_x())
    assert probing.score == 1


def test_a_suspect_that_is_probed_hears_of_it_and_queues_a_refutation() -> None:
    """The buddy system: the ping to a suspect carries the suspicion."""
    prober = Probing()
    prober.to_the_end(prober.until_probe_of_x())
    ping = prober.until_probe_of_x()
    suspect = Machine(probe_interval_s=0.0)
    suspect.drain()
    (answer,) = suspect.packet(Ping(ping, "me"), Suspect(1, "me", "prober"))
    assert suspect.sent(answer)[1][0] == Ack(ping)
    (refutation,) = suspect.core._queue.take(part_overhead=2, limit=1400, transmits_max=1)
    assert b"\xabIncarnation\x02" in refutation


def test_an_ack_or_the_timeout_ends_waiting_for_a_number_and_a_nack_does_not() -> None:
    probing = Probing()
    sequence = probing.until_probe_of_x()
    probing.machine.packet(Nack(sequence), now=probing.now + 0.1)
    round_ = probing.machine.core._prober.round
    assert round_ is not None
    assert round_.sequence == sequence
    probing.machine.packet(Ack(sequence), source=X, now=probing.now + 0.2)
    assert probing.machine.core._prober.round is None
    probing.machine.packet(Ack(sequence), source=X, now=probing.now + 0.3)  # nobody's
    assert probing.machine.core.probes_answered >= 1


def test_random_members_are_never_oneself_honour_the_filter_and_are_all_there_are_when_few() -> None:
    table = Table()
    table.hear(*(alive(f"n{number}", address=bytes([10, 0, 0, number])) for number in range(1, 6)))
    chance, own = random.Random(1), table.table.own  # noqa: S311  (repeatable on purpose)

    def wanted(record: Record) -> bool:
        return record is not own and record.name != "n1"

    seen: Counter[str] = Counter()
    for _ in range(300):
        chosen = [record.name for record in pick(chance, table.table, 3, wanted)]
        assert len(set(chosen)) == 3
        seen.update(chosen)
    assert set(seen) == {"n2", "n3", "n4", "n5"}
    assert all(count == pytest.approx(225, abs=60) for count in seen.values())
    assert {record.name for record in pick(chance, table.table, 9, wanted)} == set(seen)


# Alive.


def test_a_new_member_is_a_join_and_is_told_on() -> None:
    table = Table()
    assert table.hear(alive()) == [Joined]
    assert len(table.queue) == 1


def test_an_alive_statement_heard_again_changes_nothing() -> None:
    table = Table()
    table.hear(alive())
    assert table.hear(alive(), alive()) == []
    assert table.state() == (State.ALIVE, 1)


def test_a_newer_alive_statement_clears_a_suspicion() -> None:
    table = Table()
    assert table.hear(alive(), Suspect(1, "x", "a"), alive(incarnation=2)) == [Joined, Suspected, Refuted]
    assert table.state() == (State.ALIVE, 2)


def test_an_alive_statement_of_the_same_incarnation_clears_no_suspicion() -> None:
    table = Table()
    table.hear(alive(), Suspect(1, "x", "a"), alive())
    assert table.state() == (State.SUSPECT, 1)


def test_other_metadata_is_an_update_and_no_join() -> None:
    table = Table()
    assert table.hear(alive(), alive(incarnation=2, meta=b"new")) == [Joined, Updated]


def test_a_wrong_alive_statement_about_oneself_is_refuted() -> None:
    table = Table()
    table.hear(alive("me", 5, address=b"\xc0\0\2\1", meta=b"wrong"))
    assert table.table.own.incarnation == 6
    assert table.table.own.meta == b""


def test_a_member_of_the_same_name_elsewhere_is_a_conflict_for_the_application() -> None:
    table = Table()
    assert table.hear(alive(), alive(incarnation=9, address=b"\x0a\0\0\x63")) == [Joined, Conflicted]
    assert table.state() == (State.ALIVE, 1)


@pytest.mark.parametrize(
    ("gone", "reclaim_s", "after_s", "taken"),
    [("x", 0.0, 0.0, True), ("a", 0.0, 99.0, False), ("a", 10.0, 9.0, False), ("a", 10.0, 11.0, True)],
)
def test_a_name_is_reclaimed_at_once_after_a_leave_and_after_a_death_with_a_reclaim_time_only(
    gone: str,
    reclaim_s: float,
    after_s: float,
    taken: bool,  # noqa: FBT001  (a case)
) -> None:
    table = Table(dead_reclaim_s=reclaim_s)
    table.hear(alive(), Dead(1, "x", gone))
    told = table.hear(alive(address=b"\x0a\0\0\x63"), now=after_s)
    assert told == ([Joined] if taken else [Conflicted])


@pytest.mark.parametrize("vsn", [b"", bytes(3), bytes(6), bytes([5, 1, 2, 0, 0, 0])])
def test_an_alive_statement_with_versions_that_cannot_be_is_ignored(vsn: bytes) -> None:
    table = Table()
    assert table.hear(alive(vsn=vsn)) == []
    assert table.table.get("x") is None


# Suspect and dead.


def test_suspicion_of_an_unknown_member_is_ignored() -> None:
    table = Table()
    assert table.hear(Suspect(1, "x", "a")) == []
    assert len(table.queue) == 0


def test_one_accuser_counts_once_and_a_second_suspicion_is_no_second_event() -> None:
    table = Table()
    table.hear(*(alive(name, address=bytes([10, 0, 0, number])) for number, name in enumerate("xabcd")))
    assert table.hear(Suspect(1, "x", "a")) == [Suspected]
    record = table.table.get("x")
    assert record is not None
    assert record.suspicion is not None
    deadline = record.suspicion.deadline
    assert table.hear(Suspect(1, "x", "a")) == []
    assert record.suspicion.deadline == deadline
    assert table.hear(Suspect(1, "x", "b")) == []
    assert record.suspicion.deadline < deadline


def test_suspicion_of_an_old_incarnation_is_ignored() -> None:
    table = Table()
    table.hear(alive(incarnation=10))
    assert table.hear(Suspect(9, "x", "a")) == []
    assert table.state() == (State.ALIVE, 10)


def test_suspicion_of_oneself_is_refuted() -> None:
    table = Table()
    assert table.hear(Suspect(1, "me", "a")) == []
    assert table.state("me") == (State.ALIVE, 2)


def test_the_death_of_an_unknown_member_is_ignored() -> None:
    table = Table()
    assert table.hear(Dead(1, "x", "a")) == []
    assert table.table.get("x") is None


def test_a_member_dies_once() -> None:
    table = Table()
    assert table.hear(alive(), Dead(1, "x", "a"), Dead(1, "x", "b"), Dead(2, "x", "b")) == [Joined, Left]


def test_a_death_in_an_old_incarnation_is_ignored() -> None:
    table = Table()
    table.hear(alive(incarnation=10))
    assert table.hear(Dead(1, "x", "a")) == []
    assert table.state() == (State.ALIVE, 10)


def test_a_death_that_the_member_says_of_itself_is_a_leave() -> None:
    table = Table()
    table.hear(alive())
    (effect,) = table.table.dead(Dead(1, "x", "x"), 0.0)
    assert isinstance(effect, Notify)
    assert isinstance(effect.event, Left)
    assert effect.event.cause is Cause.LEFT
    assert table.state() == (State.LEFT, 1)


def test_an_alive_statement_heard_again_after_a_death_does_not_raise_the_dead() -> None:
    table = Table()
    table.hear(alive(incarnation=10), Dead(10, "x", "a"))
    assert table.hear(alive(incarnation=10)) == []
    assert table.state() == (State.DEAD, 10)


def test_a_death_of_oneself_is_refuted() -> None:
    table = Table()
    table.hear(Dead(1, "me", "a"))
    assert table.state("me") == (State.ALIVE, 2)


# Tables.


def row(name: str, incarnation: int, state: State) -> NodeState:
    return NodeState(name, b"\x0a\0\0" + name.encode(), 7946, b"", incarnation, int(state), VSN)


def test_merging_a_table_takes_newer_lives_makes_suspects_of_suspects_and_of_the_dead_and_joins_the_unknown() -> None:
    table = Table()
    table.hear(*(alive(name, address=b"\x0a\0\0" + name.encode()) for name in "abc"), Suspect(1, "a", "b"))
    rows = (row("a", 2, State.ALIVE), row("b", 1, State.SUSPECT), row("c", 1, State.DEAD), row("d", 1, State.ALIVE))
    push_pull.merge(table.table, PushPull(rows), lambda port: port, 0.0)
    assert table.state("a") == (State.ALIVE, 2)
    assert table.state("b") == table.state("c") == (State.SUSPECT, 1)
    assert table.state("d") == (State.ALIVE, 1)


def test_a_leave_in_a_table_is_believed_at_once() -> None:
    table = Table()
    table.hear(alive("a", address=b"\x0a\0\0a"))
    push_pull.merge(table.table, PushPull((row("a", 1, State.LEFT),)), lambda port: port, 0.0)
    assert table.state("a") == (State.LEFT, 1)


@pytest.mark.parametrize("accuser", ["a", "x"])
def test_the_dead_and_the_departed_are_kept_for_their_time_and_then_forgotten(accuser: str) -> None:
    table = Table()
    table.hear(alive(), Dead(1, "x", accuser))
    table.table.forget_the_dead(30.0)
    assert table.table.get("x") is not None
    table.table.forget_the_dead(30.1)
    assert table.table.get("x") is None


def versions(low: int, high: int, spoken: int) -> bytes:
    return bytes([low, high, spoken, 0, 0, 0])


@pytest.mark.parametrize(
    ("ours", "theirs", "agree"),
    [
        ([(1, 5, 2)], [(1, 5, 2)], True),
        ([(1, 5, 2)], [(1, 9, 2)], True),
        ([(1, 5, 2)], [(3, 9, 6)], False),
        ([(1, 5, 2), (1, 5, 5)], [(1, 4, 2)], False),
        ([(1, 5, 3)], [(2, 4, 3), (3, 9, 4)], True),
    ],
    ids=["identical", "wider", "outside", "outside of a third", "mixed"],
)
def test_protocol_ranges_agree_when_all_can_read_what_each_speaks(
    ours: list[tuple[int, int, int]],
    theirs: list[tuple[int, int, int]],
    agree: bool,  # noqa: FBT001  (a case)
) -> None:
    def rows(ranges: list[tuple[int, int, int]], prefix: str) -> list[NodeState]:
        return [NodeState(f"{prefix}{at}", b"\x0a\0\0\1", 1, b"", 1, 0, versions(*one)) for at, one in enumerate(ranges)]

    assert (push_pull.disagreement(rows(ours, "o"), rows(theirs, "t")) is None) is agree


def test_gossip_reaches_the_dead_only_inside_their_window() -> None:
    machine = Machine(gossip_interval_s=0.2, gossip_to_the_dead_s=30.0)
    machine.knows("x")
    machine.packet(Dead(1, "x", "a"), now=1.0)
    inside = [effect for effect in machine.core.tick(2.0) if isinstance(effect, SendPacket)]
    assert [effect.to for effect in inside] == [X]
    machine.packet(alive("y", address=Y.address.packed), now=40.0)
    outside = {effect.to for effect in machine.core.tick(41.0) if isinstance(effect, SendPacket)}
    assert X not in outside
