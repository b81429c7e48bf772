"""The engine between the responder and its wires."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

import pytest
from prometheus_client import CollectorRegistry
from scapy.layers.inet6 import ICMPv6ND_NS, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether

from config.model import InterfaceName, NodeName
from speaker.layer2.engine import PRECISE_AT_ONCE, Engine
from speaker.layer2.responder import Claimed
from speaker.metrics import Metrics
from tests.builders_speaker import ETH0, ETH1, MAC, OTHER_MAC, VIP, a_link
from tests.wires import Lines, Wires, until

NOWHERE: frozenset[InterfaceName] = frozenset()
ANNOUNCED = [(1, str(VIP)), (2, str(VIP))]


def question(target: IPv4Address = VIP) -> bytes:
    ethernet = Ether(src=OTHER_MAC.hex(":"), dst="ff:ff:ff:ff:ff:ff", type=0x0806)
    return bytes(ethernet / ARP(op=1, hwsrc=OTHER_MAC.hex(":"), psrc="192.0.2.99", pdst=str(target)))


VIP6 = IPv6Address("2001:db8::10")
LINK_LOCAL = IPv6Address("fe80::1").packed


def solicitation(target: IPv6Address = VIP6) -> bytes:
    ethernet = Ether(src=OTHER_MAC.hex(":"), dst="33:33:ff:00:00:10", type=0x86DD)
    packet = IPv6(src="fe80::aa", dst="ff02::1:ff00:10") / ICMPv6ND_NS(tgt=str(target))
    return bytes(ethernet / packet / ICMPv6NDOptSrcLLAddr(lladdr=OTHER_MAC.hex(":")))


@dataclass
class Bench:
    engine: Engine
    wires: Wires
    log: Lines
    metrics: Metrics
    claims: list[Claimed]


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    log, wires, metrics = Lines(), Wires("eth9"), Metrics(CollectorRegistry(), NodeName("a"))
    claims: list[Claimed] = []
    engine = Engine(metrics, log, wires, claimed=claims.append)
    engine.show((a_link(),))
    yield Bench(engine, wires, log, metrics, claims)
    engine.close()
    assert all(wire.closed for wire in (*wires.open.values(), *wires.open6.values()))


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
    wire.deliver(question()[:20] + b"\x00\x09" + question()[22:])
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


# IPv6


async def test_both_families_have_a_socket_each_and_only_their_own_addresses(bench: Bench) -> None:
    bench.engine.show((a_link(link_locals=(LINK_LOCAL,)),))
    here = frozenset({ETH0})
    bench.engine.own({VIP: here, VIP6: here})
    assert bench.wires.open["eth0"].targets == (VIP.packed,)
    assert bench.wires.open6["eth0"].targets == (VIP6.packed,)
    assert bench.wires.open["eth0"].said() == ANNOUNCED
    assert bench.wires.open6["eth0"].advertised() == [("ff02::1", str(VIP6), 0, 1)]
    assert [one["address"] for one in bench.log.facts("first_garp_sent")] == [str(VIP), str(VIP6)]


async def test_a_solicitation_is_answered(bench: Bench) -> None:
    bench.engine.show((a_link(link_locals=(LINK_LOCAL,)),))
    bench.engine.own({VIP6: frozenset({ETH0})})
    wire = bench.wires.open6["eth0"]
    wire.advertised()
    wire.deliver(solicitation())
    await until(lambda: wire.sent, "an answer")
    assert wire.advertised() == [("fe80::aa", str(VIP6), 1, 0)]
    assert bench.metrics._received.value(str(VIP6)) == bench.metrics._responses.value(str(VIP6)) == 1


async def test_a_link_local_address_opens_and_closes_the_second_socket_alone(bench: Bench) -> None:
    bench.engine.own({VIP6: frozenset({ETH0})})
    assert bench.wires.open6 == {}
    first = bench.wires.open["eth0"]
    bench.engine.show((a_link(link_locals=(LINK_LOCAL,)),))
    second = bench.wires.open6["eth0"]
    assert second.targets == (VIP6.packed,)
    assert second.advertised() == [("ff02::1", str(VIP6), 0, 1)]
    bench.engine.show((a_link(),))
    assert second.closed
    assert bench.wires.open["eth0"] is first
    assert not first.closed


async def test_an_interface_on_which_the_second_socket_cannot_be_opened_is_not_used_at_all(bench: Bench) -> None:
    bench.wires.refuse.add("eth0 NDP")
    bench.engine.show((a_link(link_locals=(LINK_LOCAL,)),))
    assert set(bench.engine.refused()) == {"eth0"}
    assert bench.wires.open["eth0"].closed


async def test_a_group_that_cannot_be_joined_is_reported_and_the_address_announced(bench: Bench) -> None:
    bench.engine.show((a_link(link_locals=(LINK_LOCAL,)),))
    wire = bench.wires.open6["eth0"]
    wire.groupless = OSError(105, "No buffer space available")
    bench.engine.own({VIP6: frozenset({ETH0})})
    assert bench.log.facts("multicast_group_not_joined") == [
        {"interface": "eth0", "error": "[Errno 105] No buffer space available"}
    ]
    assert wire.advertised() == [("ff02::1", str(VIP6), 0, 1)]


async def test_a_claim_of_another_machine_is_passed_on(bench: Bench) -> None:
    bench.engine.own({VIP: frozenset({ETH0})})
    claim = bytearray(question())
    claim[20:22], claim[28:32] = b"\x00\x02", VIP.packed
    bench.wires.open["eth0"].deliver(bytes(claim))
    await until(lambda: bench.claims, "the claim")
    assert bench.claims == [Claimed(ETH0, VIP, OTHER_MAC)]


async def test_a_fading_address_is_answered_and_announced_no_more(bench: Bench) -> None:
    wire = bench.wires.open["eth0"]
    bench.engine.own({VIP: frozenset({ETH0})})
    wire.said()
    bench.engine.fade([VIP])
    bench.engine.announce([VIP])
    assert wire.said() == []
    wire.deliver(question())
    await until(lambda: wire.sent, "an answer")
    assert wire.said() == [(2, str(VIP))]


async def test_what_is_owned_can_be_announced_anew(bench: Bench) -> None:
    bench.engine.own({VIP: frozenset({ETH0})})
    bench.wires.open["eth0"].said()
    bench.engine.announce([VIP, IPv4Address("192.0.2.99")])
    assert bench.wires.open["eth0"].said() == ANNOUNCED


async def test_a_large_set_is_filtered_roughly_while_it_changes_and_precisely_afterwards(bench: Bench) -> None:
    bench.engine.show((a_link(), a_link("eth1", 3, link_locals=(LINK_LOCAL,))))
    one, two, six = bench.wires.open["eth0"], bench.wires.open["eth1"], bench.wires.open6["eth1"]
    for wire in (one, two, six):
        wire.aimed.clear()
    everywhere = frozenset({ETH0, ETH1})
    many = [VIP + offset for offset in range(PRECISE_AT_ONCE + 2)]
    bench.engine.own(dict.fromkeys(many[:-2], everywhere))
    assert one.aimed == two.aimed == six.aimed == ["precisely"]
    for address in many[-2:]:
        bench.engine.own({address: everywhere})
    assert one.aimed == two.aimed == ["precisely", "roughly", "roughly"]
    await until(lambda: one.aimed[-1] == two.aimed[-1] == "precisely", "precise filters")
    assert one.aimed == two.aimed == ["precisely", "roughly", "roughly", "precisely"]
    assert one.targets == tuple(address.packed for address in many)
    bench.engine.own({many[-1]: NOWHERE})
    bench.engine.show(())
    await until(lambda: bench.engine._rough == {}, "nothing left to do")


async def test_a_closed_engine_says_nothing_more_whoever_asks_it_to(bench: Bench) -> None:
    bench.engine.own({VIP: frozenset({ETH0})})
    wire = bench.wires.open["eth0"]
    wire.said()
    bench.engine.close()
    bench.engine.announce([VIP])
    bench.engine.own({VIP6: frozenset({ETH0})})
    assert wire.sent == []
