"""The network of the simulation behaves as one, or nothing that is found on it would mean anything."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from memberlist.effects import Failure, Join, JoinAnswered, Joined, JoinFailed, Left, PacketReceived, Suspected
from memberlist.messages import State
from tests.simulation.checks import Breach, Checker
from tests.simulation.network import BACKLOG, Clock, Link, Network, Power
from tests.simulation.ring import Ring

ROOT = Path(__file__).parents[2]


class Host:
    """A host that keeps what reaches it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.power = Power.ON
        self.cable = True
        self.packets: list[tuple[float, bytes]] = []
        self.streams: list[tuple[float, str, int, bytes]] = []

    def said(self) -> list[tuple[str, int, bytes]]:
        return [event[1:] for event in self.streams]


class Pair:
    """Two hosts and a network between them."""

    def __init__(self, seed: int = 1, **link: Any) -> None:
        self.clock = Clock()
        self.a, self.b = Host(0), Host(1)
        self.network = Network(
            self.clock,
            seed=seed,
            link=Link(**{"delay_s": 0.01, "jitter_s": 0.0, **link}),
            packet=self._packet,
            stream=self._stream,
        )

    def _packet(self, to: Host, sender: Host, data: bytes) -> None:
        to.packets.append((round(self.clock.now, 6), data))

    def _stream(self, to: Host, what: str, number: int, data: bytes, peer: Host | None) -> None:
        to.streams.append((round(self.clock.now, 6), what, number, data))

    def flood(self, count: int) -> list[int]:
        for number in range(count):
            self.network.send(self.a, self.b, number.to_bytes(4, "big"))
        self.clock.run(self.clock.now + 10)
        return [int.from_bytes(data, "big") for _, data in self.b.packets]


def test_a_good_link_delivers_in_order_after_its_delay() -> None:
    pair = Pair()
    assert pair.flood(100) == list(range(100))
    assert {at for at, _ in pair.b.packets} == {0.01}


def test_a_lossy_link_loses_its_share_and_another_direction_its_own() -> None:
    pair = Pair(loss=0.2)
    pair.network.set_link(pair.b, pair.a, loss=0.0)
    assert len(pair.flood(10_000)) == pytest.approx(8000, abs=200)
    for _ in range(100):
        pair.network.send(pair.b, pair.a, b"x")
    pair.clock.run(100)
    assert len(pair.a.packets) == 100


def test_a_link_doubles_and_reorders_as_often_as_it_should() -> None:
    doubled = Pair(duplicate=0.1).flood(10_000)
    assert len(doubled) == pytest.approx(11_000, abs=150)
    assert set(doubled) == set(range(10_000))
    pair = Pair(reorder=0.3, reorder_s=0.005)
    mixed = pair.flood(10_000)
    assert mixed != sorted(mixed)
    assert sum(at > 0.01 for at, _ in pair.b.packets) == pytest.approx(3000, abs=200)


def test_a_one_way_link_carries_nothing_the_other_way() -> None:
    pair = Pair()
    pair.network.set_link(pair.b, pair.a, cut=True)
    assert pair.flood(3) == [0, 1, 2]
    pair.network.send(pair.b, pair.a, b"x")
    pair.network.connect(pair.a, -1, pair.b, b"hello")
    pair.clock.run(60)
    assert pair.a.packets == []
    assert pair.a.streams == []
    assert pair.b.streams == []


def test_a_connection_takes_one_round_trip_and_its_bytes_one_way_more() -> None:
    pair = Pair()
    pair.network.connect(pair.a, -1, pair.b, b"hello")
    pair.clock.run(1)
    assert pair.a.streams == [(0.02, "connected", -1, b"")]
    assert pair.b.streams == [(0.02, "accepted", 1, b""), (0.03, "received", 1, b"hello")]
    pair.network.write(pair.b, 1, b"world")
    pair.network.close(pair.b, 1)
    pair.clock.run(2)
    assert pair.a.said()[1:] == [("received", -1, b"world"), ("ended", -1, b"")]
    assert pair.network.open_streams(pair.a) == pair.network.open_streams(pair.b) == 0


def test_a_lost_syn_costs_a_second_and_lost_data_two_tenths() -> None:
    connected, received = set(), set()
    for seed in range(200):
        pair = Pair(seed=seed, loss=0.3)
        pair.network.connect(pair.a, -1, pair.b, b"hello")
        pair.clock.run(600)
        (begun,) = [at for at, what, _, _ in pair.a.streams if what == "connected"]
        (arrived,) = [at for at, what, _, _ in pair.b.streams if what == "received"]
        connected.add(round(begun, 3))
        received.add(round(arrived - begun, 3))
    assert {0.02, 1.02, 3.02, 7.02} <= connected
    assert {0.01, 0.21, 0.61} <= received


def test_bytes_never_overtake() -> None:
    for seed in range(50):
        pair = Pair(seed=seed, loss=0.3, jitter_s=0.05)
        pair.network.connect(pair.a, -1, pair.b, b"0")
        pair.clock.run(600)
        for number in range(1, 10):
            pair.network.write(pair.a, -1, b"%d" % number)
        pair.clock.run(1200)
        assert b"".join(data for _, _, _, data in pair.b.streams) == b"0123456789"


def test_a_killed_process_refuses_a_stopped_one_accepts_and_is_silent_and_a_host_without_power_says_nothing() -> None:
    pair = Pair()
    pair.b.power = Power.PROCESS_KILLED
    pair.network.connect(pair.a, -1, pair.b, b"x")
    pair.clock.run(1)
    assert pair.a.streams == [(0.02, "refused", -1, b"")]
    pair.b.power = Power.STOPPED
    pair.network.connect(pair.a, -2, pair.b, b"x")
    pair.clock.run(2)
    assert pair.a.said()[1:] == [("connected", -2, b"")]
    pair.b.power = Power.HOST_GONE
    pair.network.connect(pair.a, -3, pair.b, b"x")
    pair.clock.run(60)
    assert len(pair.a.streams) == 2


def test_a_knock_tells_a_kernel_that_lives_from_a_process_that_is_gone_and_from_nothing() -> None:
    pair = Pair()
    heard: list[tuple[float, str]] = []

    def knock() -> None:
        pair.network.knock(pair.a, pair.b, 0.05, lambda outcome: heard.append((round(pair.clock.now, 6), outcome)))
        pair.clock.run(pair.clock.now + 1)

    knock()
    pair.b.power = Power.STOPPED
    knock()
    pair.b.power = Power.PROCESS_KILLED
    knock()
    pair.b.power = Power.HOST_GONE
    knock()
    pair.b.power = Power.ON
    pair.network.set_link(pair.b, pair.a, cut=True)
    knock()
    assert heard == [(0.02, "answered"), (1.02, "answered"), (2.02, "refused"), (3.05, "silent"), (4.05, "silent")]


def test_a_knock_that_gets_lost_is_silence_unless_there_is_time_for_another() -> None:
    outcomes: dict[float, list[str]] = {0.05: [], 4.0: []}
    for timeout_s, heard in outcomes.items():
        for seed in range(300):
            pair = Pair(seed=seed, loss=0.2)
            pair.network.knock(pair.a, pair.b, timeout_s, heard.append)
            pair.clock.run(10)
    assert outcomes[0.05].count("silent") == pytest.approx(300 * 0.36, abs=30)
    assert outcomes[4.0].count("silent") == pytest.approx(300 * 0.36**3, abs=12)


def test_a_stopped_process_has_a_backlog_and_no_more() -> None:
    pair = Pair()
    pair.b.power = Power.STOPPED
    for number in range(BACKLOG + 20):
        pair.network.connect(pair.a, -1 - number, pair.b, b"")
    pair.clock.run(0.5)
    assert len(pair.a.streams) == BACKLOG
    pair.b.power = Power.ON
    pair.network.resumed(pair.b)
    pair.clock.run(3)
    assert len(pair.a.streams) == BACKLOG + 20


def test_a_pulled_cable_is_known_to_its_own_kernel_only() -> None:
    pair = Pair()
    pair.a.cable = False
    pair.network.connect(pair.a, -1, pair.b, b"x")
    pair.network.connect(pair.b, -1, pair.a, b"x")
    pair.clock.run(60)
    assert pair.a.said() == [("unreachable", -1, b"")]
    assert pair.b.streams == []


def test_a_process_that_dies_breaks_its_connections() -> None:
    pair = Pair()
    pair.network.connect(pair.a, -1, pair.b, b"x")
    pair.clock.run(1)
    pair.b.power = Power.PROCESS_KILLED
    pair.network.died(pair.b)
    pair.clock.run(2)
    assert pair.a.said()[-1] == ("broken", -1, b"")
    assert pair.network.open_streams(pair.a) == 0


def test_a_stopped_process_reads_all_that_waited_when_it_goes_on() -> None:
    ring = Ring(3, seed=1)
    ring.join_all()
    ring.stall("n2", 1.0)
    ring.run(0.9)
    waiting = len(ring["n2"].inbox)
    assert waiting > 0
    assert any(isinstance(event, PacketReceived) for event in ring["n2"].inbox)
    ring.run(0.2)
    assert len(ring["n2"].inbox) == 0
    ring.run(30)
    assert ring.agreed()
    assert ring.wrong_deaths == []


def test_a_slow_process_takes_its_time_for_each_thing_and_keeps_the_order() -> None:
    ring = Ring(3, seed=1)
    ring.join_all()
    ring["n2"].slow_s = 0.01
    ring.run(60)
    assert ring.agreed()
    assert not any(ring.nodes[name].heard(Suspected, "n2") for name in ("n1", "n3"))


def test_a_paused_machine_is_dead_to_the_others_and_no_wrong_death() -> None:
    ring = Ring(4, seed=1)
    ring.join_all()
    ring.freeze("n2", 20.0)
    ring.run(19.0)
    assert all(ring[name].heard(Left, "n2") for name in ("n1", "n3", "n4"))
    assert ring.wrong_deaths == []
    ring.run(5.0)
    ring.join("n2", "n1")
    ring.run(30.0)
    assert ring.agreed()


def test_whoever_is_declared_dead_and_lives_is_counted() -> None:
    ring = Ring(3, seed=1)
    ring.join_all()
    for other in ("n1", "n3"):
        ring.link("n2", other, cut=True)
    ring.run(20.0)
    assert {(death.victim, death.observer) for death in ring.wrong_deaths} >= {("n2", "n1"), ("n2", "n3")}


def test_a_join_through_a_dead_host_fails_in_time_and_one_through_a_dead_process_at_once() -> None:
    ring = Ring(3, seed=1)
    ring.kill("n2", Power.PROCESS_KILLED)
    ring.kill("n3")
    ring.give(ring["n1"], Join(1, ring["n2"].endpoint))
    ring.give(ring["n1"], Join(2, ring["n3"].endpoint))
    ring.run(0.1)
    assert ring["n1"].answers == [JoinFailed(1, Failure.REFUSED.value)]
    ring.run(11.0)
    assert [type(answer) for answer in ring["n1"].answers] == [JoinFailed, JoinFailed]
    ring.restart("n2")
    ring.join("n2", "n1")
    ring.run(1.0)
    assert ring["n2"].answers == [JoinAnswered(1)]
    assert ring["n1"].heard(Joined, "n2")


def test_the_checker_sees_an_incarnation_that_falls_and_a_death_that_is_undone() -> None:
    for change in ("incarnation", "state"):
        ring = Ring(2, seed=1)
        ring.join_all()
        ring.kill("n2")
        ring.run_until(lambda ring=ring: bool(ring["n1"].heard(Left, "n2")), within_s=20)  # type: ignore[misc]  # bound at once
        record = ring["n1"].core.members.get("n2")
        assert record is not None
        if change == "incarnation":
            record.incarnation -= 1
        else:
            record.state = State.SUSPECT
        with pytest.raises(AssertionError):
            ring.run(30)


def test_the_checker_sees_a_queue_that_grows() -> None:
    ring = Ring(2, seed=1)
    ring.join_all()
    queue = ring["n1"].core._queue
    for number in range(5):
        queue.enqueue(f"nobody{number}", b"x")
    ring["n2"].core.members.set_meta(b"news")
    with pytest.raises(Breach, match="statements to tell"):
        ring.run(5)


def test_the_checker_sees_who_takes_itself_for_dead() -> None:
    ring = Ring(2, seed=1)
    ring.join_all()
    checker = Checker()
    checker.started("n1")
    ring["n1"].core.members.own.state = State.DEAD
    with pytest.raises(AssertionError):
        checker.after(ring["n1"].core, "n1")


LOG = """
from tests.simulation.faults import chaos
print(chaos("compat", 6, 4, seconds=20.0).digest)
"""


def test_a_run_is_decided_by_its_seed_and_not_by_the_order_of_sets() -> None:
    logs = {
        subprocess.run(
            [sys.executable, "-c", LOG],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": order},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for order in ("0", "1", "77")
    }
    assert len(logs) == 1
    assert len(logs.pop().strip()) == 32


def test_another_seed_is_another_run() -> None:
    def log(seed: int) -> str:
        ring = Ring(4, seed=seed, loss=0.1)
        ring.join_all()
        ring.run(10)
        return ring.digest()

    assert log(1) == log(1) != log(2)
