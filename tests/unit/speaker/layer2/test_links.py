"""Netlink messages, as pyroute2 parses them, become links."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv6Address, ip_interface
from typing import Any

import pytest

from speaker.layer2.interfaces import why_not
from speaker.layer2.links import learn, learn_address, read_link
from speaker.world import Link
from tests.builders_speaker import ETH0, MAC

UP, BROADCAST, LOOPBACK, RUNNING, NOARP, MULTICAST, LOWER_UP = 0x1, 0x2, 0x8, 0x40, 0x80, 0x1000, 0x10000


def message(event: str = "RTM_NEWLINK", index: int = 2, **members: Any) -> Mapping[str, Any]:
    flags = UP | BROADCAST | RUNNING | MULTICAST | LOWER_UP
    plain = {"event": event, "index": index, "family": 0, "flags": flags, "ifname": "eth0", "address": MAC.hex(":")}
    return plain | members


@pytest.mark.parametrize(
    ("members", "link"),
    [
        ({}, Link(2, ETH0, MAC)),
        ({"flags": BROADCAST}, Link(2, ETH0, MAC, up=False, carrier=False)),
        ({"flags": UP | BROADCAST}, Link(2, ETH0, MAC, carrier=False)),
        ({"flags": UP | LOWER_UP | LOOPBACK}, Link(2, ETH0, MAC, broadcast=False)),
        ({"flags": UP | LOWER_UP | BROADCAST | NOARP}, Link(2, ETH0, MAC, noarp=True)),
        ({"master": 7}, Link(2, ETH0, MAC, master=True)),
        ({"address": None}, Link(2, ETH0, b"")),
    ],
)
def test_flags_and_attributes_are_understood(members: dict[str, Any], link: Link) -> None:
    assert read_link(message(**members)) == link


def test_links_come_change_and_go() -> None:
    links = learn({}, message())
    assert links == {2: Link(2, ETH0, MAC)}
    assert learn(links, message()) is links
    renamed = learn(links, message(ifname="uplink"))
    assert renamed[2].name == "uplink"
    assert learn(renamed, message("RTM_DELLINK")) == {}


TENTATIVE, DADFAILED, PERMANENT = 0x40, 0x08, 0x80
LINK_LOCAL = "fe80::ff:fe00:1"


def address(text: str = LINK_LOCAL, event: str = "RTM_NEWADDR", flags: int = PERMANENT, index: int = 2) -> Mapping[str, Any]:
    return {"event": event, "index": index, "family": 10, "flags": flags, "address": text}


def test_link_local_addresses_come_and_go_with_the_link_they_are_on() -> None:
    links = learn({}, message())
    known = learn(links, address())
    assert known[2].link_local == IPv6Address(LINK_LOCAL).packed
    assert learn(known, address()) is known
    assert learn(known, message(ifname="uplink"))[2].link_local == IPv6Address(LINK_LOCAL).packed
    two = learn(known, address("fe80::1"))
    assert two[2].link_locals == (IPv6Address("fe80::1").packed, IPv6Address(LINK_LOCAL).packed)
    assert learn(two, address("fe80::1", "RTM_DELADDR")) == known
    assert learn(known, address(event="RTM_DELADDR")) == links


@pytest.mark.rfc("4862", "5.4")
def test_an_address_counts_from_when_it_is_known_to_be_unique() -> None:
    links = learn({}, message())
    assert learn(links, address(flags=PERMANENT | TENTATIVE)) is links
    known = learn(links, address())
    assert learn(known, address(flags=PERMANENT | TENTATIVE | DADFAILED)) == links


@pytest.mark.parametrize(
    "other",
    [address("2001:db8::1"), address("192.0.2.1"), address(index=9), address(""), {"event": "RTM_NEWADDR", "index": 2}],
    ids=["global", "IPv4", "unknown link", "empty", "without address"],
)
def test_other_addresses_do_not_matter(other: Mapping[str, Any]) -> None:
    links = learn({}, message())
    assert learn(links, other) is links


@pytest.mark.parametrize(
    "strange",
    [
        message(family=7),
        message("RTM_DELLINK", family=7),
        message("RTM_DELLINK", index=9),
        message("RTM_NEWADDR"),
        message(ifname=None),
        {"event": None},
        {},
    ],
    ids=["bridge port", "bridge port gone", "unknown gone", "an address", "nameless", "no event", "empty"],
)
def test_other_messages_change_nothing(strange: Mapping[str, Any]) -> None:
    links = learn({}, message())
    assert learn(links, strange) is links


# Kinds of interfaces, as if_link.h and the kernel's drivers describe them to rtnetlink. MASTER and SLAVE are bonding's flags.

LOOPBACK_MAC, POINTOPOINT, MASTER, SLAVE = "00:00:00:00:00:00", 0x10, 0x400, 0x800
ETHERNET = UP | BROADCAST | RUNNING | MULTICAST | LOWER_UP


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ({"ifname": "eth0.100", "link": 2, "linkinfo": {"kind": "vlan"}}, None),
        ({"ifname": "bond0", "flags": ETHERNET | MASTER, "linkinfo": {"kind": "bond"}}, None),
        ({"ifname": "eth1", "flags": ETHERNET | SLAVE, "master": 7, "linkinfo": {"slave_kind": "bond"}}, "is part of"),
        ({"ifname": "bond0.200", "link": 7, "flags": ETHERNET | MASTER, "linkinfo": {"kind": "vlan"}}, None),
        ({"ifname": "br0", "linkinfo": {"kind": "bridge"}}, None),
        ({"ifname": "eth2", "master": 8, "linkinfo": {"slave_kind": "bridge"}}, "is part of"),
        ({"ifname": "eth3", "master": 9, "linkinfo": {"slave_kind": "vrf"}}, "is part of"),
        ({"ifname": "blue", "flags": UP | NOARP | MASTER | LOWER_UP, "linkinfo": {"kind": "vrf"}}, "NOARP"),
        ({"ifname": "dummy0", "flags": UP | BROADCAST | NOARP | LOWER_UP, "linkinfo": {"kind": "dummy"}}, "NOARP"),
        ({"ifname": "wg0", "flags": UP | POINTOPOINT | NOARP | LOWER_UP, "address": None}, "NOARP"),
        ({"ifname": "tun0", "flags": UP | POINTOPOINT | MULTICAST | LOWER_UP, "address": None}, "cannot broadcast"),
        ({"ifname": "ib0", "address": ":".join(["80"] * 20)}, "has no Ethernet address"),
        ({"ifname": "macvlan0", "link": 2, "linkinfo": {"kind": "macvlan"}}, None),
        ({"ifname": "lo", "flags": UP | LOOPBACK | LOWER_UP, "address": LOOPBACK_MAC}, "cannot broadcast"),
        ({"ifname": "eth4", "flags": BROADCAST | MULTICAST}, "is down"),
        ({"ifname": "eth5", "flags": UP | BROADCAST | MULTICAST}, None),
    ],
    ids=lambda value: value["ifname"] if isinstance(value, dict) else "",
)
def test_each_kind_of_interface_is_usable_or_says_why_not(members: dict[str, Any], problem: str | None) -> None:
    (link,) = learn({}, message(**members)).values()
    why = why_not(link)
    assert (why is None) == (problem is None)
    assert problem is None or problem in str(why)


def test_an_interface_that_joins_a_bond_and_leaves_it_again_is_followed() -> None:
    links = learn(learn({}, message()), address())
    enslaved = learn(links, message(master=7, flags=ETHERNET | SLAVE, address="02:00:00:00:00:77"))
    assert why_not(enslaved[2]) == "is part of a bridge, bond or VRF"
    assert enslaved[2].mac == bytes.fromhex("020000000077")
    freed = learn(enslaved, message())
    assert why_not(freed[2]) is None
    assert freed[2].link_local == IPv6Address(LINK_LOCAL).packed


def test_addresses_of_both_families_are_kept_in_the_kernels_order() -> None:
    four, six = {**address("192.0.2.1"), "prefixlen": 24}, {**address("2001:db8::1"), "prefixlen": 64}
    known = learn_address(learn_address({}, six), four)
    assert known == {2: (ip_interface("2001:db8::1/64"), ip_interface("192.0.2.1/24"))}
    assert learn_address(known, four) is known
    assert learn_address(known, {**six, "event": "RTM_DELADDR"}) == {2: (ip_interface("192.0.2.1/24"),)}
    assert learn_address(known, message("RTM_DELLINK")) == {}
    between = {**address("192.0.2.2"), "local": "192.0.2.1", "prefixlen": 31}
    assert learn_address({}, between) == {2: (ip_interface("192.0.2.1/31"),)}
    for strange in (message(), {**address(""), "prefixlen": 24}, address("192.0.2.1"), {**six, "flags": TENTATIVE}):
        assert learn_address({}, strange) == {}
