"""The engine between the responder and its wires."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from ipaddress import IPv4Address

import pytest
from prometheus_client import CollectorRegistry
from scapy.layers.l2 import ARP, Ether

from config.model import InterfaceName, NodeName
from speaker.layer2.engine import Engine
from speaker.metrics import Metrics
from tests.builders_speaker import ETH0, MAC, OTHER_MAC, VIP, a_link
from tests.wires import Lines, Wires, until

NOWHERE: frozenset[InterfaceName] = frozenset()
ANNOUNCED = [(1, str(VIP)), (2, str(VIP))]


def question(target: IPv4Address = VIP) -> bytes:
    ethernet = Ether(src=OTHER_MAC.hex(":"), dst="ff:ff:ff:ff:ff:ff", type=0x0806)
    return bytes(ethernet / ARP(op=1, hwsrc=OTHER_MAC.hex(":"), psrc="192.0.2.99", pdst=str(target)))


@dataclass
class Bench:
    engine: Engine
    wires: Wires
    log: Lines
    metrics: Metrics


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    log, wires, metrics = Lines(), Wires("eth9"), Metrics(CollectorRegistry(), NodeName("a"))
    engine = Engine(metrics, log, wires)
    engine.show((a_link(),))
    yield Bench(engine, wires, log, metrics)
    engine.close()
    assert all(wire.closed for wire in wires.open.values())


async def test_the_first_announcement_is_on_the_wire_when_own_returns(bench: Bench) -> None:
    bench.engine.own({VIP: frozenset({ETH0})})
    assert bench.wires.open["eth0"].said() == ANNOUNCED
    assert bench.log.facts("first_garp_sent") == [{"address": str(VIP), "interface": "eth0"}]
    assert bench.metrics._gratuitous.value(str(VIP)) == 2


async def test_only_owned_addresses_pass_the_filter(bench: Bench) -> None:
    wire = bench.wires.open["eth0"]
    bench.engine.own({VIP: frozenset({ETH0})})
    assert wire.targets == (VIP.packed,)
    bench.engine.own({VIP: NOWHERE})
    assert not wire.targets


async def test_a_question_is_answered(bench: Bench) -> None:
    wire = bench.wires.open["eth0"]
    bench.engine.own({VIP: frozenset({ETH0})})
    wire.said()
    wire.deliver(question())
    await until(lambda: wire.sent, "an answer")
    assert wire.said() == [(2, str(VIP))]
    assert bench.metrics._received.value(str(VIP)) == bench.metrics._responses.value(str(VIP)) == 1


async def test_what_is_no_question_is_not_answered(bench: Bench) -> None:
    wire = bench.wires.open["eth0"]
    bench.engine.own({VIP: frozenset({ETH0})})
    wire.said()
    wire.deliver(question()[:20] + b"\x00\x02" + question()[22:])
    wire.deliver(question())
    await until(lambda: wire.sent, "an answer")
    assert wire.said() == [(2, str(VIP))]


async def test_an_interface_that_qualifies_no_more_is_closed_and_opened_again_later(bench: Bench) -> None:
    bench.engine.own({VIP: frozenset({ETH0})})
    first = bench.wires.open["eth0"]
    bench.engine.show((a_link(up=False),))
    assert first.closed
    bench.engine.show((a_link(),))
    second = bench.wires.open["eth0"]
    assert second is not first
    assert second.said() == ANNOUNCED
    assert second.targets == (VIP.packed,)


async def test_another_interface_under_the_same_name_gets_a_socket_of_its_own(bench: Bench) -> None:
    first = bench.wires.open["eth0"]
    bench.engine.show((a_link(index=7, mac=OTHER_MAC),))
    assert first.closed
    assert bench.log.events()[-2:] == ["interface_closed", "interface_opened"]


async def test_a_known_interface_is_not_opened_twice(bench: Bench) -> None:
    first = bench.wires.open["eth0"]
    bench.engine.show((a_link(carrier=False),))
    assert bench.wires.open["eth0"] is first


async def test_a_missing_capability_is_named_once(bench: Bench) -> None:
    for _ in range(2):
        bench.engine.show((a_link(), a_link("eth9", 9)))
    (facts,) = bench.log.facts("interface_unusable")
    assert facts["error"] == "the process lacks the capability CAP_NET_RAW"
    assert bench.engine.refused() == {"eth9": facts["error"]}
    bench.wires.refuse.clear()
    bench.engine.show((a_link(), a_link("eth9", 9, carrier=False)))
    assert "eth9" in bench.wires.open
    assert bench.engine.refused() == {}


async def test_a_frame_that_cannot_be_sent_is_reported_once_and_the_rest_goes_on(bench: Bench) -> None:
    wire = bench.wires.open["eth0"]
    wire.broken = OSError(100, "Network is down")
    bench.engine.own({VIP: frozenset({ETH0})})
    assert len(bench.log.facts("sending_failed")) == 1
    wire.broken = None
    other = IPv4Address("192.0.2.11")
    bench.engine.own({other: frozenset({ETH0})})
    assert wire.said() == [(1, str(other)), (2, str(other))]
    assert bench.engine.owned() == {VIP: {ETH0}, other: {ETH0}}


async def test_a_read_error_does_not_end_the_reading(bench: Bench) -> None:
    wire = bench.wires.open["eth0"]
    bench.engine.own({VIP: frozenset({ETH0})})
    wire.said()
    wire.broken = OSError(100, "Network is down")
    wire.deliver(question())
    await until(lambda: "sending_failed" in bench.log.events(), "a failure")
    wire.broken = None
    wire.deliver(question())
    await until(lambda: wire.sent, "an answer")
    assert wire.said() == [(2, str(VIP))]


async def test_the_frames_carry_the_mac_of_their_interface(bench: Bench) -> None:
    bench.engine.own({VIP: frozenset({ETH0})})
    assert {frame[6:12] for frame in bench.wires.open["eth0"].sent} == {MAC}


async def test_the_timer_runs_for_as_long_as_there_is_something_to_announce(bench: Bench) -> None:
    assert bench.engine._timer is None
    bench.engine.own({VIP: frozenset({ETH0})})
    timer = bench.engine._timer
    assert timer is not None
    bench.engine.own({IPv4Address("192.0.2.11"): frozenset({ETH0})})
    assert bench.engine._timer is timer, "an earlier alarm is kept"
    timer.cancel()
    bench.wires.open["eth0"].said()
    bench.engine._tick()
    assert bench.engine._timer is not None, "nothing was due, so it is set again"
    assert bench.wires.open["eth0"].said() == []
