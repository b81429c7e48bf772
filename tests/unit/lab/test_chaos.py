"""What a plan of random faults may hold, and what the judges of a record find."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.chaos import verdicts
from lab.chaos.plan import ROUND_S, Exclude, KillProcess, Narrow, Step, plan
from lab.chaos.verdicts import Allowed, Sample
from lab.faults import Fault
from lab.frames import Arp, Frame, Gossip
from lab.topology import plan as a_lab

NODES = ["n1", "n2", "n3", "n4", "n5"]
LAB = a_lab("lab123456", nodes=5)
MACS = {node.mac: node.name for node in LAB.nodes}
ONE, TWO = list(MACS)[:2]
ADDRESS = "192.168.20.20"


# Plans


def test_a_seed_is_a_plan_and_a_longer_one_begins_as_a_shorter() -> None:
    assert plan(7, 3, NODES) == plan(7, 3, NODES)
    assert plan(7, 5, NODES)[:3] == plan(7, 3, NODES)
    assert plan(7, 3, NODES) != plan(8, 3, NODES)


def test_every_kind_of_fault_comes_up() -> None:
    kinds = {type(step.deed).__name__ for steps in plan(1, 60, NODES) for step in steps}
    assert kinds >= {
        "Kill",
        "Freeze",
        "LinkDown",
        "Partition",
        "OneWay",
        "KillProcess",
        "ApiStop",
        "Loss",
        "Delay",
        "Exclude",
        "Narrow",
    }


@given(st.integers(), st.integers(min_value=3, max_value=9))
def test_a_plan_can_be_done_and_leaves_a_majority_alone(seed: int, nodes: int) -> None:
    topology = a_lab("lab123456", nodes=nodes)
    for steps in plan(seed, 2, [node.name for node in topology.nodes]):
        assert [step.at_s for step in steps] == sorted(step.at_s for step in steps)
        for step in steps:
            assert 0 < step.at_s <= step.ends_s <= ROUND_S
            if isinstance(step.deed, Fault):
                step.deed.check(topology)
            there = [each for each in steps if each.at_s <= step.at_s < each.ends_s or each is step]
            assert (
                len({touched for each in there if (touched := on(each))})
                == sum(bool(on(each)) for each in there)
                <= (nodes - 1) // 2
            )


def on(step: Step) -> str:
    """The node that a step takes away."""
    words = str(step.deed).split()
    return (
        words[-1]
        if isinstance(step.deed, Exclude | Narrow) or words[0] == "link"
        else next((word for word in words[1:] if word.startswith("n") and "," not in word), "")
    )


def test_a_plan_is_written_and_read_back() -> None:
    rounds = plan(3, 4, NODES)
    assert msgspec.json.decode(msgspec.json.encode(rounds), type=tuple[tuple[Step, ...], ...]) == rounds
    assert str(KillProcess("n1", "speaker")) == "kill-process n1 speaker"


def test_two_nodes_are_too_few() -> None:
    with pytest.raises(ValueError, match="3 nodes or more"):
        plan(1, 1, ["n1", "n2"])


# Verdicts


def answer(at: float, mac: str, address: str = ADDRESS) -> Arp:
    return Arp(
        at=at, from_mac=mac, to_mac="x", operation=2, sender_mac=mac, sender=address, target_mac="x", target="192.168.20.3"
    )


def judged(*frames: Frame, calm: tuple[float, float] = (10.0, 20.0)) -> list[str]:
    claimed = verdicts.claims(frames, frozenset({ADDRESS}))
    return verdicts.wrong_owners(claimed, [calm], MACS, {ADDRESS: ONE})


def test_one_owner_in_the_calm_is_well_whatever_was_before() -> None:
    assert judged(answer(9.0, TWO), answer(11.0, ONE), answer(12.0, ONE), answer(21.0, TWO)) == []


def test_two_owners_a_wrong_one_and_none_are_found() -> None:
    assert judged(answer(11.0, ONE), answer(12.0, TWO)) == [f"calm 1: n1, n2 claim {ADDRESS}"]
    assert judged(answer(11.0, TWO)) == [f"calm 1: {ADDRESS} is with n2, and was with n1"]
    assert judged(answer(9.9, ONE)) == [f"calm 1: nobody answers for {ADDRESS}"]


def test_a_question_of_the_client_and_gossip_claim_nothing_of_ours() -> None:
    gossip = Gossip(at=11.0, source="a", destination="b", transport="UDP", size=1)
    assert judged(answer(11.0, ONE), gossip, answer(12.0, TWO, "192.168.20.3")) == []


def test_a_stranger_and_an_address_of_nobody_are_found_at_any_time() -> None:
    frames = [answer(1.0, "02:00:00:00:00:09"), answer(2.0, ONE, "192.168.20.21")]
    claimed = verdicts.claims(frames, frozenset({ADDRESS}))
    assert verdicts.strangers(claimed, MACS) == [f"02:00:00:00:00:09, which is no node, claims {ADDRESS}"]
    pool = frozenset({ADDRESS, "192.168.20.21"})
    assert verdicts.unassigned(frames, pool, frozenset({ADDRESS})) == [f"{ONE} claims 192.168.20.21, which no Service has"]
    assert verdicts.strangers(verdicts.claims([answer(1.0, ONE)], frozenset({ADDRESS})), MACS) == []


def test_an_address_that_changed_or_went_is_lost() -> None:
    before = {"a": ["192.0.2.1"], "b": ["192.0.2.2"], "c": ["192.0.2.3"]}
    assert verdicts.lost_addresses(before, before) == []
    assert verdicts.lost_addresses(before, {"a": ["192.0.2.9"], "b": []}) == [
        "a had 192.0.2.1 and has 192.0.2.9", "b had 192.0.2.2 and has none", "c had 192.0.2.3 and has none",
    ]  # fmt: skip


def samples(name: str = "speaker", pid: int = 1, *, rss: float = 0, descriptors: float = 0, count: int = 20) -> list[Sample]:
    return [
        Sample(
            at=float(at),
            name=name,
            pid=pid,
            rss_kib=90_000 + int(rss * at),
            descriptors=20 + int(descriptors * at),
            threads=2,
            tasks=[30, None][at % 2],
        )
        for at in range(count)
    ]


def test_what_grows_is_found_and_what_is_steady_or_was_born_again_is_not() -> None:
    allowed = Allowed(rss_kib=1000, descriptors=5)
    assert verdicts.growth(samples(), allowed) == []
    assert verdicts.growth(samples(rss=200), allowed) == ["speaker (process 1): rss_kib grew from 91800 to 93400"]
    assert verdicts.growth(samples(descriptors=1), allowed) == ["speaker (process 1): descriptors grew from 29 to 37"]
    for dip in (range(5), range(5, 10), range(15, 20)):  # The API server is away, and so are the connections to it.
        series = [msgspec.structs.replace(each, descriptors=5) if at in dip else each for at, each in enumerate(samples())]
        assert verdicts.growth(series, allowed) == []
    assert verdicts.growth([*samples(pid=1, rss=200, count=7), *samples(pid=2, rss=200, count=7)], allowed) == []
