"""Lines that ExaBGP 5.0.15 said to BIRD and FRR, and lines that it should never say."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speaker.bgp import exabgp_api as api
from speaker.bgp.model import Family, NeighborKey
from tests.unit.speaker.bgp.neighbors import ANY_SOURCE, ROUTER, prefix, route

KEY = ROUTER.key
ABOUT = (
    '"neighbor": { "address": { "local": "192.0.2.10", "peer": "192.0.2.1" }, "asn": { "local": 65000, "peer": 65001 }, '
    '"router-id": "192.0.2.10" '
)
HEAD = '{ "exabgp": "5.0.0", "time": 1795608969.03, "host" : "vm", "pid" : 15674, "ppid" : 15647, "counter": 4, '
OPEN = (
    '"direction": "receive", "open": { "version": 4, "asn": 23456, "hold_time": 240, "router_id": "198.51.100.1", '
    '"capabilities": { "2": { "name": "route-refresh", "variant": "RFC" }, "64": { "name": "graceful restart", "time": 120 }, '
    '"65": { "name": "asn4", "asn4": 4200000001 } } }'
)
AGREED = (
    '"negotiated": { "message_size": 4096, "hold_time": 9, "asn4": true, "families": ["ipv4 unicast", "ipv6 unicast", '
    '"ipv4 flow"], "nexthop": [], "add_path": {"send": [], "receive": []} }'
)


def said(kind: str, more: str, about: str = ABOUT) -> str:
    return f'{HEAD}"type": "{kind}", {about}, {more} }} }}'


@pytest.mark.parametrize(
    ("line", "heard"),
    [
        ("done", api.Ack(done=True)),
        ("error", api.Ack(done=False)),
        ("exabgp 5.0.15", api.Text("exabgp 5.0.15")),
        ("", api.Text("")),
        (said("state", '"state": "up"'), api.StateChange(KEY, up=True)),
        (said("state", '"state": "down", "reason": "peer reset"'), api.StateChange(KEY, up=False, reason="peer reset")),
        (said("state", '"state": "connected"'), api.Other()),
        (said("negotiated", AGREED), api.Negotiated(KEY, frozenset(Family), 9)),
        (said("open", OPEN), api.PeerOpen(KEY, 4200000001, "198.51.100.1", 240, 120)),
        (said("refresh", '"route-refresh": {"afi": "ipv4"}'), api.Refresh(KEY)),
        (f'{HEAD}"type": "notification", "notification": "shutdown" }}', api.Other()),
        (said("keepalive", '"direction": "receive"'), api.Other()),
    ],
)
def test_a_line_is_read(line: str, heard: api.Heard) -> None:
    assert api.decode(line) == heard


def test_a_notification_is_read_with_its_side_and_codes() -> None:
    told = '"direction": "receive", "notification": { "code": 6, "subcode": 2, "data": "", "message": "maintenance" }'
    assert api.decode(said("notification", told)) == api.PeerNotification(KEY, True, 6, 2, "maintenance")
    sent = told.replace("receive", "send").replace(', "message": "maintenance"', "")
    assert api.decode(said("notification", sent)) == api.PeerNotification(KEY, False, 6, 2, "")


def test_a_source_address_that_is_not_known_yet_and_an_as_that_is_not_known_yet_are_read() -> None:
    about = ABOUT.replace('"192.0.2.10", "peer"', '"None", "peer"').replace("65001", "None")
    heard = api.decode(said("state", '"state": "up"', about))
    assert heard == api.StateChange(replace(KEY, local=None), up=True)


@pytest.mark.parametrize(
    "line",
    [
        "{",
        '{ "exabgp": "5.0.0", "neighbor": 5, "type": "state" }',
        said("state", '"state": "up"', ABOUT.replace("192.0.2.1", "x")),
        said("negotiated", '"negotiated": { "families": 5 }'),
        '{ "exabgp": "5.0.0", "neighbor": {} }',
    ],
)
def test_a_broken_line_is_told_and_raises_nothing(line: str) -> None:
    assert isinstance(api.decode(line), api.Unreadable)


@given(
    st.text(max_size=80) | st.text(max_size=40).map("{{{}".format) | st.integers(0, 400).map(lambda at: said("open", OPEN)[:at])
)
def test_no_line_raises(line: str) -> None:
    api.decode(line)


def test_a_session_is_named_so_that_no_other_answers() -> None:
    assert api.select(KEY) == "neighbor 192.0.2.1 local-ip 192.0.2.10 local-as 65000 router-id 192.0.2.10"
    assert api.select(ANY_SOURCE.key) == "neighbor 192.0.2.2 local-as 65000 router-id 192.0.2.10"


def test_routes_with_the_same_attributes_share_a_line_of_a_hundred() -> None:
    routes = [route(f"198.18.0.{n}/32", "192.0.2.10") for n in range(150)] + [route("198.18.1.0/24", "192.0.2.10", 5)]
    found = list(api.announce(KEY, routes))
    assert [len(prefixes) for _, prefixes in found] == [100, 50, 1]
    assert all(line.isascii() for line, _ in found)
    assert found[2][0].endswith("announce attributes next-hop 192.0.2.10 local-preference 5 nlri 198.18.1.0/24")


def test_the_other_commands() -> None:
    key = NeighborKey(ip_address("2001:db8::1"), None, 65000, KEY.router_id)
    who = "neighbor 2001:db8::1 local-as 65000 router-id 192.0.2.10"
    assert list(api.withdraw(key, [prefix("2001:db8::/64")])) == [
        (f"{who} withdraw route 2001:db8::/64", (prefix("2001:db8::/64"),))
    ]
    assert api.end_of_rib(key, Family.IPV6) == f"{who} announce eor ipv6 unicast"
