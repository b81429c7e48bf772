"""What faults are called, which cannot be, and what they mean for the switch."""

from __future__ import annotations

import msgspec
import pytest

from lab.faults import (
    AnyFault,
    ApiStop,
    Delay,
    FaultError,
    Freeze,
    Kill,
    LinkDown,
    Loss,
    OneWay,
    Partition,
    cuts,
    delays,
    groups,
    rules,
    silent,
    unplugged,
)
from lab.topology import TopologyError, plan

LAB = plan("lab123456", nodes=3)
EVERY_KIND: list[tuple[AnyFault, str]] = [
    (Kill("n1"), "kill n1"),
    (Freeze("n2"), "freeze n2"),
    (LinkDown("n3"), "link down n3"),
    (ApiStop(), "api stop"),
    (Partition((("n1", "n2"), ("n3",))), "partition n1,n2 | n3"),
    (OneWay("n1", "cp"), "one-way n1 cp"),
    (Loss(2.5), "loss 2.5"),
    (Loss(5, "client"), "loss 5 client"),
    (Delay(20), "delay 20"),
    (Delay(20, "n1"), "delay 20 n1"),
]


@pytest.mark.parametrize(("fault", "name"), EVERY_KIND, ids=[name for _, name in EVERY_KIND])
def test_a_fault_is_called_what_the_user_typed_and_survives_the_way_to_the_supervisor(fault: AnyFault, name: str) -> None:
    fault.check(LAB)
    assert str(fault) == name
    assert msgspec.json.decode(msgspec.json.encode(fault), type=AnyFault) == fault


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (Kill("n9"), "there is no node 'n9' in this lab; its nodes are n1, n2, n3"),
        (Kill("client"), "no node 'client'"),
        (OneWay("n1", "x"), "no machine 'x'"),
        (OneWay("n1", "n1"), "from itself"),
        (Partition((("n1",),)), "two groups or more"),
        (Partition((("n1",), ())), "two groups or more"),
        (Partition((("n1", "n2"), ("n2", "n3"))), "n2 cannot be named twice"),
        (Partition((("n1",), ("n7",))), "no machine 'n7'"),
        (Loss(0), "above 0"),
        (Loss(101), "up to 100"),
        (Loss(5, "n9"), "no machine 'n9'"),
        (Delay(-1), "above 0"),
        (Delay(5, "n9"), "no machine 'n9'"),
    ],
)
def test_a_fault_that_cannot_be_is_refused_with_the_word_that_is_wrong(fault: AnyFault, why: str) -> None:
    with pytest.raises((FaultError, TopologyError), match=why):
        fault.check(LAB)


@pytest.mark.parametrize("words", [["n1,n2 | n3"], ["n1,n2", "n3"], ["n1, n2|n3"], ["n1,n2", "|", "n3"]])
def test_groups_are_read_with_a_bar_or_as_words(words: list[str]) -> None:
    assert groups(words) == (("n1", "n2"), ("n3",))


def test_later_losses_and_delays_of_one_machine_take_the_place_of_earlier_ones() -> None:
    assert Loss(1, "n1").place == Loss(2, "n1").place
    assert len({Loss(1).place, Loss(1, "n1").place, Delay(1).place, Delay(1, "n1").place, LinkDown("n1").place}) == 5
    assert Kill("n1").place == Freeze("n1").place != LinkDown("n1").place
    assert Partition((("n1",), ("n2",))).place != Partition((("n1",), ("n3",))).place


def test_a_partition_cuts_all_groups_from_each_other_both_ways_and_nobody_else() -> None:
    parts = (("n1", "cp"), ("n2",), ("n3",))
    found = cuts([Partition(parts), OneWay("client", "n1")])
    assert found == {
        ("n1", "n2"), ("n2", "n1"), ("n1", "n3"), ("n3", "n1"), ("cp", "n2"), ("n2", "cp"), ("cp", "n3"), ("n3", "cp"),
        ("n2", "n3"), ("n3", "n2"), ("client", "n1"),
    }  # fmt: skip


def test_a_node_that_does_not_get_through_to_the_api_server_is_silent() -> None:
    assert silent([Kill("n1"), LinkDown("n2")]) == {"n1", "n2"} == unplugged([Kill("n1"), LinkDown("n2"), Freeze("n3")])
    assert silent([Freeze("n3"), OneWay("n1", "n2")]) == {"n3"}
    assert silent([OneWay("cp", "n1"), Partition((("n2",), ("cp", "n3")))]) == {"n1", "n2"}


def test_the_rules_drop_what_is_cut_or_lost_on_plain_and_on_delayed_cables() -> None:
    assert rules([OneWay("n1", "n2"), Loss(2.5), Loss(10, "n3"), Kill("n1")]) == (
        "table bridge lab_faults\n"
        "delete table bridge lab_faults\n"
        "table bridge lab_faults {\n"
        "  chain forward {\n"
        "    type filter hook forward priority 0; policy accept;\n"
        '    iifname "far-*" accept\n'
        '    oifname "far-*" accept\n'
        '    iifname . oifname { "n1" . "n2", "n1" . "late-n2", "late-n1" . "n2", "late-n1" . "late-n2" } drop\n'
        "    numgen random mod 10000 < 250 drop\n"
        '    iifname { "n3", "late-n3" } numgen random mod 10000 < 1000 drop\n'
        '    oifname { "n3", "late-n3" } numgen random mod 10000 < 1000 drop\n'
        "  }\n"
        "}\n"
    )


def test_without_a_fault_on_the_switch_its_table_is_taken_away() -> None:
    assert rules([Kill("n1"), Delay(5)]) == "table bridge lab_faults\ndelete table bridge lab_faults\n"


def test_a_delay_of_the_switch_counts_once_and_one_of_a_machine_both_ways() -> None:
    assert delays([], LAB) == {}
    assert delays([Delay(20, "n1")], LAB) == {"n1": (0.02, 0.02)}
    assert delays([Delay(10), Delay(20, "n1")], LAB) == {
        "cp": (0.01, 0.0), "client": (0.01, 0.0), "n1": (0.03, 0.02), "n2": (0.01, 0.0), "n3": (0.01, 0.0),
    }  # fmt: skip
