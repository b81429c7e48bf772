"""The responder on a virtual clock: what it answers, what it announces, when, and when it is silent."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest

from config.model import InterfaceName, IPAddress
from speaker.layer2 import arp, ndp
from speaker.layer2.arp import ArpReply, ArpRequest
from speaker.layer2.ndp import Advertisement, Solicitation
from speaker.layer2.responder import (
    ANNOUNCE_GAP_S,
    STEP_ADDRESSES,
    Announce,
    Claimed,
    Event,
    Face,
    Faces,
    Fade,
    Form,
    Heard,
    Message,
    Own,
    Responder,
    SendFrame,
)
from tests.builders_speaker import ETH0, ETH1, MAC, OTHER_MAC, VIP

ASKER = IPv4Address("192.0.2.99").packed
NOWHERE: frozenset[InterfaceName] = frozenset()


def a_responder(*interfaces: InterfaceName) -> Responder:
    responder = Responder()
    assert say(responder, Faces({name: Face(MAC) for name in interfaces or (ETH0,)}), 0.0) == []
    return responder


def say(responder: Responder, event: Event, now: float) -> list[SendFrame]:
    """The frames that an event leads to; nothing else may."""
    effects = responder.handle(event, now)
    frames = [one for one in effects if isinstance(one, SendFrame)]
    assert frames == effects
    return frames


def own(address: IPAddress = VIP, *interfaces: InterfaceName) -> Own:
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
    frames = say(a_responder(), own(), 7.0)
    assert [(one.interface, one.address, one.form) for one in frames] == [
        (ETH0, VIP, Form.GRATUITOUS_REQUEST),
        (ETH0, VIP, Form.GRATUITOUS_REPLY),
    ]


def test_an_announcement_has_five_rounds_that_outlast_the_kernels_locktime() -> None:
    responder = a_responder()
    say(responder, own(), 0.0)
    times = [round(at, 3) for at, frame in run_out(responder) if frame.form is Form.GRATUITOUS_REPLY]
    assert times == [1.1, 2.2, 3.3, 4.4]
    assert responder.wake_at() is None


def test_an_owned_address_is_answered() -> None:
    responder = a_responder()
    say(responder, own(), 0.0)
    (reply,) = say(responder, asked(), 0.1)
    assert (reply.interface, reply.form, reply.address) == (ETH0, Form.REPLY, VIP)
    assert reply.frame[:6] == OTHER_MAC
    assert reply.frame[22:28] == MAC


@pytest.mark.parametrize(
    "question",
    [
        asked(destination=MAC),
        asked(sender_ip=bytes(4)),
        asked(sender_ip=IPv4Address("203.0.113.5").packed),
    ],
    ids=["unicast", "probe", "foreign net"],
)
@pytest.mark.parity("Wire > a request to us or to all is answered")
def test_every_honest_question_is_answered(question: Heard) -> None:
    responder = a_responder()
    say(responder, own(), 0.0)
    assert len(say(responder, question, 0.1)) == 1


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
    say(responder, own(VIP, ETH0), 0.0)
    assert say(responder, question, 0.1) == []


def test_a_withdrawn_address_is_silent_from_the_next_frame_on() -> None:
    responder = a_responder()
    say(responder, own(), 0.0)
    assert say(responder, Own({VIP: NOWHERE}), 0.5) == []
    assert say(responder, asked(), 0.5) == []
    assert run_out(responder) == []
    responder.check_invariants()


def test_withdrawing_what_was_never_owned_does_nothing() -> None:
    assert say(a_responder(), Own({VIP: NOWHERE}), 0.0) == []


def test_only_what_moved_is_announced() -> None:
    responder = a_responder(ETH0, ETH1)
    say(responder, own(VIP, ETH0), 0.0)
    run_out(responder)
    assert say(responder, own(VIP, ETH0), 9.0) == []
    frames = say(responder, own(VIP, ETH0, ETH1), 10.0)
    assert {one.interface for one in frames} == {ETH1}
    other = IPv4Address("192.0.2.11")
    assert {one.address for one in say(responder, own(other), 20.0) if one.round == 0} == {other}


def test_taking_an_address_back_begins_its_announcement_anew() -> None:
    responder = a_responder()
    say(responder, own(), 0.0)
    say(responder, Own({VIP: NOWHERE}), 0.5)
    assert len(say(responder, own(), 0.6)) == 2
    assert [round(at, 3) for at, one in run_out(responder) if one.form is Form.GRATUITOUS_REPLY] == [1.7, 2.8, 3.9, 5.0]


def test_an_interface_that_appears_announces_what_it_was_meant_for() -> None:
    responder = Responder()
    assert say(responder, own(VIP, ETH0), 0.0) == []
    assert responder.wake_at() is None
    frames = say(responder, Faces({ETH0: Face(MAC), ETH1: Face(OTHER_MAC)}), 5.0)
    assert {(one.interface, one.address) for one in frames} == {(ETH0, VIP)}
    responder.check_invariants()


def test_a_new_mac_address_is_announced_and_used_in_replies() -> None:
    responder = a_responder()
    say(responder, own(), 0.0)
    new = bytes.fromhex("0200000000bb")
    frames = say(responder, Faces({ETH0: Face(new)}), 10.0)
    assert {one.frame[22:28] for one in frames} == {new}
    (reply,) = say(responder, asked(), 10.1)
    assert reply.frame[22:28] == new


def test_a_cable_plugged_in_again_begins_the_announcements_anew() -> None:
    responder = a_responder()
    say(responder, own(), 0.0)
    run_out(responder)
    assert say(responder, Faces({ETH0: Face(MAC, carrier=False)}), 10.0) == []
    assert len(say(responder, Faces({ETH0: Face(MAC)}), 11.0)) == 2


def test_an_interface_that_goes_is_forgotten() -> None:
    responder = a_responder(ETH0, ETH1)
    say(responder, own(VIP, ETH0, ETH1), 0.0)
    say(responder, Faces({ETH1: Face(MAC)}), 0.1)
    assert say(responder, asked(), 0.2) == []
    assert len(say(responder, asked(interface=ETH1), 0.2)) == 1
    assert list(responder.answering(ETH0)) == []
    assert list(responder.answering(ETH1)) == [VIP.packed]
    say(responder, Own({VIP: NOWHERE}), 0.3)
    assert responder.owned() == {}


def test_a_takeover_of_many_addresses_is_sent_in_bounded_steps_and_in_order() -> None:
    responder = a_responder()
    many = [IPv4Address(int(VIP) + index) for index in range(3 * STEP_ADDRESSES)]
    first = say(responder, Own(dict.fromkeys(many, frozenset({ETH0}))), 0.0)
    assert len(first) == 2 * STEP_ADDRESSES
    sent = first + [frame for at, frame in run_out(responder) if at < ANNOUNCE_GAP_S]
    assert [frame.address for frame in sent if frame.form is Form.GRATUITOUS_REPLY] == many


def test_a_busy_interface_does_not_hold_up_another() -> None:
    responder = a_responder(ETH0, ETH1)
    many = [IPv4Address(int(VIP) + 1 + index) for index in range(2 * STEP_ADDRESSES)]
    say(responder, Own(dict.fromkeys(many, frozenset({ETH0}))), 0.0)
    assert len(say(responder, own(VIP, ETH1), 0.0)) == 2


# IPv6

VIP6 = IPv6Address("2001:db8::10")
LINK_LOCAL = IPv6Address("fe80::ff:fe00:1").packed
ASKER6 = IPv6Address("fe80::aa").packed
GROUP_MAC = bytes.fromhex("3333ff000010")


def solicited(
    target: IPv6Address = VIP6, *, source: bytes = ASKER6, destination: bytes = GROUP_MAC, mac: bytes = OTHER_MAC
) -> Heard:
    return Heard(ETH0, Solicitation(destination, mac, source, target.packed))


def a_dual_responder(*, link_local: bytes | None = LINK_LOCAL) -> Responder:
    responder = Responder()
    assert responder.handle(Faces({ETH0: Face(MAC, link_local=link_local)}), 0.0) == []
    return responder


def test_an_ipv6_address_is_announced_by_one_advertisement_in_each_round() -> None:
    responder = a_dual_responder()
    first = say(responder, own(VIP6), 0.0)
    assert [(one.address, one.form) for one in first] == [(VIP6, Form.UNSOLICITED_ADVERTISEMENT)]
    assert [(round(at, 3), one.form) for at, one in run_out(responder)] == [
        (at, Form.UNSOLICITED_ADVERTISEMENT) for at in (1.1, 2.2, 3.3, 4.4)
    ]


@pytest.mark.parametrize("destination", [GROUP_MAC, MAC], ids=["the group", "unicast"])
def test_a_solicitation_is_answered_to_the_asker(destination: bytes) -> None:
    responder = a_dual_responder()
    responder.handle(own(VIP6), 0.0)
    (answer,) = say(responder, solicited(destination=destination), 0.1)
    assert (answer.form, answer.address) == (Form.SOLICITED_ADVERTISEMENT, VIP6)
    assert (answer.frame[:6], answer.frame[38:54]) == (OTHER_MAC, ASKER6)


@pytest.mark.rfc("4861", "7.2.4")
@pytest.mark.rfc("4862", "5.4.3")
def test_a_probe_for_duplicates_is_answered_to_all_nodes() -> None:
    responder = a_dual_responder()
    responder.handle(own(VIP6), 0.0)
    (answer,) = say(responder, solicited(source=ndp.UNSPECIFIED), 0.1)
    assert answer.form is Form.PROBE_ANSWER
    assert (answer.frame[:6], answer.frame[38:54]) == (ndp.ALL_NODES_MAC, ndp.ALL_NODES)


@pytest.mark.parametrize(
    "question",
    [
        solicited(IPv6Address("2001:db8::11")),
        solicited(destination=OTHER_MAC),
        solicited(mac=MAC),
        replace(solicited(), interface=ETH1),
    ],
    ids=["not owned", "for another host", "own frame", "unknown interface"],
)
def test_other_solicitations_are_not_answered(question: Heard) -> None:
    responder = a_dual_responder()
    responder.handle(own(VIP6), 0.0)
    assert responder.handle(question, 0.1) == []


def test_without_a_link_local_address_only_ipv4_is_served_and_ipv6_from_when_there_is_one() -> None:
    responder = a_dual_responder(link_local=None)
    here = frozenset({ETH0})
    assert {one.address for one in say(responder, Own({VIP: here, VIP6: here}), 0.0)} == {VIP}
    assert responder.handle(solicited(), 0.1) == []
    responder.check_invariants()
    run_out(responder)
    frames = say(responder, Faces({ETH0: Face(MAC, link_local=LINK_LOCAL)}), 9.0)
    assert {one.address for one in frames} == {VIP6}
    assert len(responder.handle(solicited(), 9.1)) == 1
    responder.check_invariants()


def test_a_link_local_address_that_goes_takes_ipv6_with_it() -> None:
    responder = a_dual_responder()
    here = frozenset({ETH0})
    responder.handle(Own({VIP: here, VIP6: here}), 0.0)
    responder.handle(Faces({ETH0: Face(MAC)}), 0.1)
    responder.check_invariants()
    assert responder.handle(solicited(), 0.2) == []
    assert {one.address for _, one in run_out(responder)} == {VIP}


def test_another_link_local_address_becomes_the_source_and_nothing_is_announced_again() -> None:
    responder = a_dual_responder()
    responder.handle(own(VIP6), 0.0)
    run_out(responder)
    other = IPv6Address("fe80::2").packed
    assert responder.handle(Faces({ETH0: Face(MAC, link_local=other)}), 9.0) == []
    (answer,) = say(responder, solicited(), 9.1)
    assert answer.frame[22:38] == other


# What others say


@pytest.mark.rfc("5227", "2.4")
@pytest.mark.parametrize(
    ("message", "address"),
    [
        (ArpReply(OTHER_MAC, VIP.packed), VIP),
        (ArpRequest(arp.BROADCAST, OTHER_MAC, VIP.packed, ASKER), VIP),
        (Advertisement(OTHER_MAC, OTHER_MAC, ASKER6, VIP6.packed), VIP6),
    ],
    ids=["reply", "request in its name", "advertisement"],
)
def test_somebody_elses_claim_is_noticed(message: Message, address: IPAddress) -> None:
    responder = a_dual_responder()
    here = frozenset({ETH0})
    responder.handle(Own({VIP: here, VIP6: here}), 0.0)
    assert responder.handle(Heard(ETH0, message), 1.0) == [Claimed(ETH0, address, OTHER_MAC)]


def test_a_strangers_gratuitous_request_is_a_claim_and_a_question() -> None:
    responder = a_responder()
    responder.handle(own(), 0.0)
    claim, answer = responder.handle(asked(sender_ip=VIP.packed), 0.1)
    assert claim == Claimed(ETH0, VIP, OTHER_MAC)
    assert isinstance(answer, SendFrame)
    assert answer.form is Form.REPLY


@pytest.mark.parametrize(
    ("message", "to_all"),
    [
        (ArpReply(OTHER_MAC, VIP.packed, MAC), False),
        (ArpReply(OTHER_MAC, VIP.packed), True),
        (Advertisement(OTHER_MAC, OTHER_MAC, ASKER6, VIP6.packed, MAC), False),
        (Advertisement(OTHER_MAC, OTHER_MAC, ASKER6, VIP6.packed), True),
    ],
)
def test_an_answer_to_one_machine_is_told_from_an_announcement(message: Message, *, to_all: bool) -> None:
    responder = a_dual_responder()
    here = frozenset({ETH0})
    responder.handle(Own({VIP: here, VIP6: here}), 0.0)
    (claim,) = responder.handle(Heard(ETH0, message), 1.0)
    assert isinstance(claim, Claimed)
    assert claim.to_all is to_all


def test_our_own_announcements_heard_on_another_interface_are_no_claim() -> None:
    responder = Responder()
    responder.handle(Faces({ETH0: Face(MAC, link_local=LINK_LOCAL), ETH1: Face(OTHER_MAC)}), 0.0)
    here = frozenset({ETH0})
    responder.handle(Own({VIP: here, VIP6: here}), 0.0)
    for message in (ArpReply(OTHER_MAC, VIP.packed), Advertisement(OTHER_MAC, OTHER_MAC, ASKER6, VIP6.packed)):
        assert responder.handle(Heard(ETH0, message), 1.0) == []


@pytest.mark.parity("Wire > an ARP reply is ignored")
def test_claims_of_what_is_not_owned_are_none_of_our_business() -> None:
    responder = a_responder()
    assert responder.handle(Heard(ETH0, ArpReply(OTHER_MAC, VIP.packed)), 1.0) == []


# Handover


def test_a_fading_address_is_answered_but_announced_no_more() -> None:
    responder = a_responder()
    responder.handle(own(), 0.0)
    assert responder.handle(Fade(frozenset({VIP})), 0.5) == []
    responder.check_invariants()
    assert run_out(responder) == []
    assert responder.handle(Announce(frozenset({VIP})), 0.6) == []
    assert responder.handle(Faces({ETH0: Face(OTHER_MAC)}), 0.7) == [], "not even when the MAC address changes"
    assert len(responder.handle(asked(sender_mac=bytes.fromhex("0200000000bb")), 0.8)) == 1


def test_an_address_that_is_owned_again_fades_no_more() -> None:
    responder = a_responder()
    responder.handle(own(), 0.0)
    responder.handle(Fade(frozenset({VIP})), 0.5)
    responder.handle(own(), 0.6)
    assert [one.form for one in say(responder, Announce(frozenset({VIP})), 0.7)] == [
        Form.GRATUITOUS_REQUEST,
        Form.GRATUITOUS_REPLY,
    ]


def test_what_is_not_owned_neither_fades_nor_is_announced() -> None:
    responder = a_responder()
    other = frozenset({IPv4Address("192.0.2.99")})
    assert responder.handle(Fade(other), 0.0) == []
    assert responder.handle(Announce(other), 0.0) == []
    responder.check_invariants()


def test_an_address_can_be_announced_just_once() -> None:
    responder = a_responder()
    responder.handle(own(), 0.0)
    once = Announce(frozenset({VIP}), once=True)
    assert responder.handle(once, 0.5) == [], "it is being announced anyway"
    run_out(responder)
    assert len(responder.handle(once, 60.0)) == 2
    assert run_out(responder) == []
