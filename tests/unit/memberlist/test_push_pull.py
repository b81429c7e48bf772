"""Exchanging whole tables: what is refused, and how much of a remote table is believed."""

import pytest

from memberlist import push_pull
from memberlist.effects import Notify, Suspected
from memberlist.messages import Alive, NodeState, PushPull, State, Suspect
from tests.unit.memberlist.test_members import VSN, Table, X, alive

SERF = bytes([1, 5, 2, 2, 5, 4])


def row(name: str, state: int = State.ALIVE, versions: bytes = VSN, incarnation: int = 5) -> NodeState:
    return NodeState(name, X, 7946, b"", incarnation, state, versions)


def versions(low: int, high: int, spoken: int) -> bytes:
    return bytes([low, high, spoken, 0, 0, 0])


@pytest.mark.parametrize(("n", "factor"), [(1, 1), (32, 1), (33, 2), (64, 2), (65, 3), (128, 3), (129, 4), (1000, 6)])
def test_larger_rings_exchange_tables_less_often(n: int, factor: int) -> None:
    assert push_pull.interval_s(30, n) == 30 * factor


def test_the_table_has_every_member_the_dead_too() -> None:
    table = Table().with_x(State.DEAD)
    assert [(entry.name, entry.state) for entry in push_pull.table(table.members)] == [("me", State.ALIVE), ("x", State.DEAD)]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (versions(1, 5, 2), versions(1, 5, 2)),
        (versions(1, 5, 2), versions(1, 9, 3)),
        (versions(2, 5, 4), versions(1, 4, 3)),
    ],
)
def test_ranges_that_contain_what_is_spoken_agree(ours: bytes, theirs: bytes) -> None:
    assert push_pull.disagreement([row("a", versions=ours)], [row("b", versions=theirs)]) is None


def test_a_version_outside_of_a_living_members_range_is_a_disagreement() -> None:
    problem = push_pull.disagreement([row("a", versions=versions(1, 3, 2))], [row("b", versions=versions(4, 5, 4))])
    assert problem == "a speaks protocol version 2, the living members understand 4 to 3"


def test_a_version_outside_of_a_third_members_range_is_a_disagreement_too() -> None:
    third = row("c", versions=versions(3, 5, 3))
    assert push_pull.disagreement([row("a", versions=versions(1, 5, 2))], [row("b", versions=versions(1, 5, 3)), third])


def test_only_the_living_set_the_range_but_everybody_must_fit() -> None:
    narrow = row("b", State.DEAD, versions(4, 4, 4))
    assert push_pull.disagreement([row("a")], [narrow]) is None
    assert push_pull.disagreement([row("a")], [row("b", State.DEAD, versions(9, 9, 9))]) is not None


def test_the_application_must_agree_as_well() -> None:
    problem = push_pull.disagreement([row("a")], [row("serf", versions=SERF)])
    assert problem is not None
    assert "application protocol version 0" in problem


def test_rows_without_six_version_bytes_do_not_spoil_the_exchange() -> None:
    assert push_pull.disagreement([row("a")], [row("b", versions=b""), row("c", versions=b"\1\5\2")]) is None


def test_a_remote_death_is_a_suspicion_of_our_own() -> None:
    for state in (State.DEAD, State.SUSPECT):
        table = Table().with_x()
        effects = push_pull.merge(table.members, PushPull((row("x", state),)), lambda port: port, 0.0)
        (effect,) = effects
        assert isinstance(effect, Notify)
        assert isinstance(effect.event, Suspected)
        assert effect.event.by == "me"
        assert table.told() == [Suspect(5, "x", "me")]


def test_a_remote_leave_is_believed() -> None:
    table = Table().with_x()
    push_pull.merge(table.members, PushPull((row("x", State.LEFT),)), lambda port: port, 0.0)
    assert table.state() == (5, State.LEFT)


def test_a_remote_alive_joins_and_port_nought_means_the_usual_one() -> None:
    table = Table()
    entry = NodeState("x", X, 0, b"", 1, State.ALIVE, VSN)
    push_pull.merge(table.members, PushPull((entry,)), lambda port: port or 7999, 0.0)
    assert table.told() == [alive(1, port=7999)]


def test_a_remote_row_in_a_state_nobody_knows_is_ignored() -> None:
    table = Table().with_x()
    assert push_pull.merge(table.members, PushPull((row("x", 9),)), lambda port: port, 0.0) == []
    assert table.state() == (5, State.ALIVE)


@pytest.mark.parametrize("state", [State.DEAD, State.SUSPECT, State.LEFT])
def test_this_member_refutes_a_table_in_which_it_is_gone(state: State) -> None:
    table = Table()
    me = NodeState("me", bytes([192, 0, 2, 1]), 7946, b"", 6, state, VSN)
    push_pull.merge(table.members, PushPull((me,)), lambda port: port, 0.0)
    assert table.told() == [Alive(7, "me", bytes([192, 0, 2, 1]), 7946, b"", VSN)]
