"""Netlink messages, as pyroute2 parses them, become links."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from speaker.layer2.links import learn, read_link
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
