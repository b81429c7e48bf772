"""Every profile keeps its promises in virtual time, in any company. The long version is the table of failure-detection.md."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from memberlist import push_pull
from memberlist.config import Config, detection_time_max_s, lan
from memberlist.effects import Isolated, IsolationEnded, Join, Left, ProfileChanged, Suspected
from memberlist.messages import State
from memberlist.profiles import PROFILES, configured
from tests.simulation import measure
from tests.simulation.measure import Cell
from tests.simulation.network import Link, Power
from tests.simulation.profiles import configure
from tests.simulation.ring import Node, Ring
from tests.simulation.tables import percentile

FAST = ("subsecond", "ring")


def ring_of(profile: str, n: int, seed: int, **settings: Any) -> Ring:
    ring = Ring(n, seed=seed, configure=configure(profile), **settings)
    ring.join_all()
    return ring


@pytest.mark.parametrize(("profile", "p50_s", "max_s"), [("subsecond", 0.72, 0.95), ("ring", 0.45, 0.5)])
@pytest.mark.parametrize("n", [3, 10])
def test_all_members_know_of_a_crash_within_the_promise(profile: str, p50_s: float, max_s: float, n: int) -> None:
    everyone = measure.measure(Cell("crash", profile, n), 100)["all"]
    assert percentile(everyone, 0.5) <= p50_s
    assert max(everyone) <= max_s


@pytest.mark.parametrize("profile", PROFILES)
def test_no_crash_takes_longer_than_the_bound_of_the_profile(profile: str) -> None:
    for n in (2, 3, 5):
        bound_s = PROFILES[profile].detection_time_max_s(n)
        for seed in range(3):
            ring = ring_of(profile, n, seed)
            died_at = ring.kill("n2")
            survivors = ring.living()
            assert ring.run_until(missed_by(survivors, "n2"), within_s=bound_s + 1)
            assert min(node.heard(Left, "n2")[0] for node in survivors) - died_at <= bound_s


@pytest.mark.parametrize("profile", FAST)
def test_a_stall_of_a_second_is_no_death(profile: str) -> None:
    ring = ring_of(profile, 5, 1)
    for turn in range(10):
        ring.stall(f"n{1 + turn % 5}", 1.0)
        ring.run(1.7 + turn / 10)
    assert any(node.heard(Suspected, other) for node in ring.nodes.values() for other in ring.nodes)
    assert ring.wrong_deaths == []
    assert ring.agreed()


@pytest.mark.parametrize("profile", FAST)
def test_a_twentieth_of_the_packets_lost_is_no_death(profile: str) -> None:
    ring = ring_of(profile, 5, 1, loss=0.05)
    ring.run(60)
    assert ring.wrong_deaths == []


@pytest.mark.parametrize("profile", FAST)
def test_a_killed_process_is_known_as_soon_as_a_dead_host(profile: str) -> None:
    ring = ring_of(profile, 5, 1)
    died_at = ring.kill("n2", Power.PROCESS_KILLED)
    survivors = ring.living()
    assert ring.run_until(lambda: all(node.heard(Left, "n2") for node in survivors), within_s=5)
    assert ring.now - died_at <= 0.95


@pytest.mark.parametrize("profile", PROFILES)
def test_two_members_watch_each_other(profile: str) -> None:
    ring = ring_of(profile, 2, 1)
    ring.kill("n2")
    assert ring.run_until(lambda: bool(ring["n1"].heard(Left, "n2")), within_s=PROFILES[profile].detection_time_max_s(2))


def mixed(name: str, address: str) -> Config:
    """Odd members are foreign."""
    return lan(name, address) if int(name[1:]) % 2 else configured("subsecond", name, address)


def missed_by(nodes: Sequence[Node], victim: str) -> Callable[[], bool]:
    return lambda: all(node.heard(Left, victim) for node in nodes)


def all_alive(ring: Ring) -> bool:
    return all(node.states() == dict.fromkeys(ring.nodes, State.ALIVE) for node in ring.nodes.values())


def profiles_of(ring: Ring) -> dict[str, str]:
    return {node.name: node.core.profile for node in ring.living()}


def test_near_a_foreign_member_nobody_is_faster_than_balanced_until_the_last_one_leaves() -> None:
    ring = Ring(4, seed=1, configure=mixed)
    ring.join_all()
    assert profiles_of(ring) == {"n1": "", "n2": "balanced", "n3": "", "n4": "balanced"}
    ring.run(120)
    assert ring.wrong_deaths == []
    assert not any(node.heard(Suspected, other) for node in ring.nodes.values() for other in ring.nodes)
    for name in ("n1", "n3"):
        ring.leave(name)
        ring.run(2)
        ring.kill(name, Power.PROCESS_KILLED)
    ring.run(5)
    assert profiles_of(ring) == {"n2": "subsecond", "n4": "subsecond"}
    changes = [event for _, event in ring["n2"].log if isinstance(event, ProfileChanged)]
    assert [change.profile for change in changes] == ["balanced", "subsecond"]
    assert {change.configured for change in changes} == {"subsecond"}


def test_in_a_mixed_ring_either_side_finds_the_crash_of_the_other_and_nobody_else_dies() -> None:
    for victim in ("n1", "n2"):
        ring = Ring(6, seed=3, configure=mixed)
        ring.join_all()
        ring.run(2)
        ring.kill(victim)
        found = ring.run_until(missed_by(ring.living(), victim), within_s=20)
        assert found
        ring.run(30)
        assert ring.wrong_deaths == []


def with_loss(ring: Ring, loss: float) -> None:
    ring.network.link = replace(ring.network.link, loss=loss)


@pytest.mark.parametrize("profile", FAST)
def test_on_a_lossy_network_a_member_falls_back_to_balanced_says_so_and_comes_back(profile: str) -> None:
    ring = Ring(4, seed=1, configure=configure(f"{profile}-shipped"))
    ring.join_all()
    ring.run(60)
    assert set(profiles_of(ring).values()) == {profile}
    with_loss(ring, 0.15)
    assert ring.run_until(lambda: set(profiles_of(ring).values()) == {"balanced"}, within_s=120)
    reason = next(event.reason for _, event in ring["n1"].log if isinstance(event, ProfileChanged))
    assert reason
    with_loss(ring, 0.0)
    assert ring.run_until(lambda: set(profiles_of(ring).values()) == {profile}, within_s=600)
    assert ring.wrong_deaths == []


def test_who_loses_more_than_half_at_once_takes_itself_for_isolated_and_the_majority_does_not() -> None:
    ring = ring_of("subsecond", 5, 1)
    ring.partition(["n1"], ["n2", "n3", "n4", "n5"])
    ring.run(5)

    def told(name: str, kind: type) -> bool:
        return any(isinstance(event, kind) for _, event in ring[name].log)

    assert told("n1", Isolated)
    assert not any(told(name, Isolated) for name in ("n2", "n3", "n4", "n5"))
    ring.partition()
    ring.join("n1", "n2")
    assert ring.run_until(lambda: told("n1", IsolationEnded), within_s=10)


def test_of_two_members_none_takes_itself_for_isolated() -> None:
    ring = ring_of("subsecond", 2, 1)
    ring.partition(["n1"], ["n2"])
    ring.run(10)
    assert not any(isinstance(event, Isolated) for node in ring.nodes.values() for _, event in node.log)


# What holds for Go's own numbers (properties of hashicorp's code, measured there).


def test_suspicions_under_loss_are_as_many_as_the_formula_says() -> None:
    """Packets only: [1-(1-p)^2] [1-(1-p)^4]^3 for each probe, one a second and member."""
    loss, n, seconds = 0.15, 10, 600.0
    ring = Ring(n, seed=1, loss=loss, checked=False, recorded=False, stream_pings=False, suspicion_mult=60)
    for name in ring.nodes:
        if name != "n1":
            ring.join(name, "n1")
    ring.run(60)
    for node in ring.nodes.values():
        node.log.clear()
    ring.run(seconds)
    seen = sum(isinstance(event, Suspected) and event.by == node.name for node in ring.nodes.values() for _, event in node.log)
    expected = (1 - (1 - loss) ** 2) * (1 - (1 - loss) ** 4) ** 3 * n * seconds
    assert seen == pytest.approx(expected, rel=0.3)


def test_after_the_last_fault_all_tables_are_equal_within_two_exchanges_and_a_suspicion() -> None:
    ring = Ring(12, seed=5, link=Link(loss=0.2, duplicate=0.1, reorder=0.2))
    for name in ring.nodes:
        if name != "n1":
            ring.give(ring[name], Join(1, ring["n1"].endpoint))
    ring.run(60)
    ring.network.link = Link()
    config = lan("any", "10.0.0.1")
    bound_s = 2 * push_pull.interval_s(config.push_pull_interval_s, 12) + 24
    assert ring.run_until(ring.agreed, within_s=bound_s)


def keyed(*, verify: bool, encrypt: bool) -> Callable[[str, str], Config]:
    return lambda name, address: lan(name, address, verify_incoming=verify, encrypt_outgoing=encrypt)


def test_encryption_is_brought_into_a_running_ring_in_three_steps_without_losing_a_member() -> None:
    ring = Ring(3, seed=1)
    ring.join_all()
    key = bytes(range(32))
    for verify, encrypt in ((False, False), (False, True), (True, True)):
        for name in ring.nodes:
            ring.leave(name)
            ring.run(2)
            ring.reconfigure(keyed(verify=verify, encrypt=encrypt), key=key)
            ring.restart(name)
            ring.join(name, next(other for other in ring.nodes if other != name))
            assert ring.run_until(lambda: all_alive(ring), within_s=60)
    assert ring.wrong_deaths == []


def test_the_bound_on_detection_shrinks_from_profile_to_profile() -> None:
    bounds = [profile.detection_time_max_s(5) for profile in PROFILES.values()]
    assert bounds == sorted(bounds, reverse=True) or bounds[:4] == sorted(bounds[:4], reverse=True)
    assert PROFILES["compat"].detection_time_max_s(3) == pytest.approx(
        detection_time_max_s(configured("compat", "a", "10.0.0.1"), 3)
    )
