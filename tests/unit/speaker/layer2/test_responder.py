"""The responder on a virtual clock: what it answers, what it announces, when, and when it is silent."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from config.model import InterfaceName
from speaker.layer2 import arp
from speaker.layer2.arp import ArpRequest
from speaker.layer2.responder import (
    ANNOUNCE_GAP_S,
    STEP_ADDRESSES,
    Face,
    Faces,
    Form,
    Heard,
    Own,
    Responder,
    SendFrame,
)
from tests.builders_speaker import ETH0, ETH1, MAC, OTHER_MAC, VIP

ASKER = IPv4Address("192.0.2.99").packed
NOWHERE: frozenset[InterfaceName] = frozenset()


def a_responder(*interfaces: InterfaceName) -> Responder:
    responder = Responder()
    assert responder.handle(Faces({name: Face(MAC) for name in interfaces or (ETH0,)}), 0.0) == []
    return responder


def own(address: IPv4Address = VIP, *interfaces: InterfaceName) -> Own:
    return Own({address: frozenset(interfaces or (ETH0,))})


def asked(
    target: IPv4Address = VIP,
    interface: InterfaceName = ETH0,
    destination: bytes = arp.BROADCAST,
    sender_mac: bytes = OTHER_MAC,
    sender_ip: bytes = ASKER,
) -> Heard:
    return Heard(interface, ArpRequest(destination, sender_mac, sender_ip, target.packed))


def run_out(responder: Responder) -> list[tuple[float, SendFrame]]:
    """All that is still to be announced, with its time."""
    sent = []
    while (at := responder.wake_at()) is not None:
        sent += [(at, frame) for frame in responder.tick(at)]
        responder.check_invariants()
    return sent


def test_taking_an_address_announces_it_at_once_in_both_forms() -> None:
    frames = a_responder().handle(own(), 7.0)
    assert [(one.interface, one.address, one.form) for one in frames] == [
        (ETH0, VIP, Form.GRATUITOUS_REQUEST),
        (ETH0, VIP, Form.GRATUITOUS_REPLY),
    ]


def test_an_announcement_has_five_rounds_that_outlast_the_kernels_locktime() -> None:
    responder = a_responder()
    responder.handle(own(), 0.0)
    times = [round(at, 3) for at, frame in run_out(responder) if frame.form is Form.GRATUITOUS_REPLY]
    assert times == [1.1, 2.2, 3.3, 4.4]
    assert responder.wake_at() is None


def test_an_owned_address_is_answered() -> None:
    responder = a_responder()
    responder.handle(own(), 0.0)
    (reply,) = responder.handle(asked(), 0.1)
    assert (reply.interface, reply.form, reply.address) == (ETH0, Form.REPLY, VIP)
    assert reply.frame[:6] == OTHER_MAC
    assert reply.frame[22:28] == MAC


@pytest.mark.parametrize(
    "question",
    [
        asked(destination=MAC),
        asked(sender_ip=bytes(4)),
        asked(sender_ip=VIP.packed),
        asked(sender_ip=IPv4Address("203.0.113.5").packed),
    ],
    ids=["unicast", "probe", "gratuitous", "foreign net"],
)
@pytest.mark.parity("Wire > a request to us or to all is answered")
def test_every_honest_question_is_answered(question: Heard) -> None:
    responder = a_responder()
    responder.handle(own(), 0.0)
    assert len(responder.handle(question, 0.1)) == 1


@pytest.mark.parametrize(
    "question",
    [
        asked(IPv4Address("192.0.2.11")),
        asked(interface=ETH1),
        asked(interface=InterfaceName("eth9")),
        asked(destination=OTHER_MAC),
        asked(sender_mac=MAC),
    ],
    ids=["not owned", "other interface", "unknown interface", "for another host", "own frame"],
)
@pytest.mark.parity(
    "Wire > a request to another machine's address is ignored",
    "Wire > the announcer may veto",
)
def test_nothing_else_is_answered(question: Heard) -> None:
    responder = a_responder(ETH0, ETH1)
    responder.handle(own(VIP, ETH0), 0.0)
    assert responder.handle(question, 0.1) == []


def test_a_withdrawn_address_is_silent_from_the_next_frame_on() -> None:
    responder = a_responder()
    responder.handle(own(), 0.0)
    assert responder.handle(Own({VIP: NOWHERE}), 0.5) == []
    assert responder.handle(asked(), 0.5) == []
    assert run_out(responder) == []
    responder.check_invariants()


def test_withdrawing_what_was_never_owned_does_nothing() -> None:
    assert a_responder().handle(Own({VIP: NOWHERE}), 0.0) == []


def test_only_what_moved_is_announced() -> None:
    responder = a_responder(ETH0, ETH1)
    responder.handle(own(VIP, ETH0), 0.0)
    run_out(responder)
    assert responder.handle(own(VIP, ETH0), 9.0) == []
    frames = responder.handle(own(VIP, ETH0, ETH1), 10.0)
    assert {one.interface for one in frames} == {ETH1}
    other = IPv4Address("192.0.2.11")
    assert {one.address for one in responder.handle(own(other), 20.0) if one.round == 0} == {other}


def test_taking_an_address_back_begins_its_announcement_anew() -> None:
    responder = a_responder()
    responder.handle(own(), 0.0)
    responder.handle(Own({VIP: NOWHERE}), 0.5)
    assert len(responder.handle(own(), 0.6)) == 2
    assert [round(at, 3) for at, one in run_out(responder) if one.form is Form.GRATUITOUS_REPLY] == [1.7, 2.8, 3.9, 5.0]


def test_an_interface_that_appears_announces_what_it_was_meant_for() -> None:
    responder = Responder()
    assert responder.handle(own(VIP, ETH0), 0.0) == []
    assert responder.wake_at() is None
    frames = responder.handle(Faces({ETH0: Face(MAC), ETH1: Face(OTHER_MAC)}), 5.0)
    assert {(one.interface, one.address) for one in frames} == {(ETH0, VIP)}
    responder.check_invariants()


def test_a_new_mac_address_is_announced_and_used_in_replies() -> None:
    responder = a_responder()
    responder.handle(own(), 0.0)
    new = bytes.fromhex("0200000000bb")
    frames = responder.handle(Faces({ETH0: Face(new)}), 10.0)
    assert {one.frame[22:28] for one in frames} == {new}
    (reply,) = responder.handle(asked(), 10.1)
    assert reply.frame[22:28] == new


def test_a_cable_plugged_in_again_begins_the_announcements_anew() -> None:
    responder = a_responder()
    responder.handle(own(), 0.0)
    run_out(responder)
    assert responder.handle(Faces({ETH0: Face(MAC, carrier=False)}), 10.0) == []
    assert len(responder.handle(Faces({ETH0: Face(MAC)}), 11.0)) == 2


def test_an_interface_that_goes_is_forgotten() -> None:
    responder = a_responder(ETH0, ETH1)
    responder.handle(own(VIP, ETH0, ETH1), 0.0)
    responder.handle(Faces({ETH1: Face(MAC)}), 0.1)
    assert responder.handle(asked(), 0.2) == []
    assert len(responder.handle(asked(interface=ETH1), 0.2)) == 1
    assert list(responder.answering(ETH0)) == []
    assert list(responder.answering(ETH1)) == [VIP.packed]
    responder.handle(Own({VIP: NOWHERE}), 0.3)
    assert responder.owned() == {}


def test_a_takeover_of_many_addresses_is_sent_in_bounded_steps_and_in_order() -> None:
    responder = a_responder()
    many = [IPv4Address(int(VIP) + index) for index in range(3 * STEP_ADDRESSES)]
    first = responder.handle(Own(dict.fromkeys(many, frozenset({ETH0}))), 0.0)
    assert len(first) == 2 * STEP_ADDRESSES
    sent = first + [frame for at, frame in run_out(responder) if at < ANNOUNCE_GAP_S]
    assert [frame.address for frame in sent if frame.form is Form.GRATUITOUS_REPLY] == many


def test_a_busy_interface_does_not_hold_up_another() -> None:
    responder = a_responder(ETH0, ETH1)
    many = [IPv4Address(int(VIP) + 1 + index) for index in range(2 * STEP_ADDRESSES)]
    responder.handle(Own(dict.fromkeys(many, frozenset({ETH0}))), 0.0)
    assert len(responder.handle(own(VIP, ETH1), 0.0)) == 2
