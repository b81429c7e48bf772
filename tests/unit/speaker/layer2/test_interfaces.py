"""Which interfaces may announce, and why the others may not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from config.model import InterfaceName
from speaker.layer2.interfaces import considered, exclusion, pick, wanted, why_not, why_not_ipv6
from speaker.world import Link
from tests.builders_speaker import ETH0, ETH1, a_link


@pytest.mark.parametrize(
    ("link", "why"),
    [
        (a_link(), None),
        (a_link(carrier=False), None),
        (a_link(up=False), "is down"),
        (a_link(noarp=True), "has ARP switched off (NOARP)"),
        (a_link(broadcast=False), "cannot broadcast"),
        (a_link(master=True), "is part of a bridge, bond or VRF"),
        (a_link(mac=b""), "has no Ethernet address"),
        (a_link(refused="no permission"), "cannot be used: no permission"),
    ],
)
def test_an_interface_must_be_able_to_answer(link: Link, why: str | None) -> None:
    assert why_not(link) == why


def test_ipv6_needs_a_link_local_address_besides() -> None:
    served = a_link(link_locals=(b"\xfe\x80" + bytes(13) + b"\x01",))
    assert why_not_ipv6(served) is None
    assert why_not_ipv6(a_link()) == "has no IPv6 link-local address"
    assert why_not_ipv6(replace(served, up=False)) == "is down"
    assert pick((served, a_link("eth1", 3)), None, 6).usable == {ETH0}


def test_an_advertisement_without_interfaces_wants_all() -> None:
    assert wanted([frozenset({ETH0}), frozenset()]) is None
    assert wanted([frozenset({ETH0}), frozenset({ETH1})]) == frozenset({ETH0, ETH1})


def test_only_named_interfaces_are_picked() -> None:
    links = (a_link("eth0"), a_link("eth1", 3))
    assert pick(links, frozenset({ETH1}), 4).usable == {ETH1}
    assert pick(links, None, 4).usable == {ETH0, ETH1}


def test_the_explanation_names_every_interface_that_cannot_be_used() -> None:
    links = (a_link("eth0", up=False), a_link("eth1", 3))
    assert pick(links, frozenset({ETH0, ETH1, InterfaceName("eth9")}), 4).explanation == "eth0 is down, eth9 does not exist"
    assert pick((), None, 4).explanation == "this node has no interface to announce on"


def test_excluded_interfaces_are_ignored_entirely() -> None:
    links = [a_link("veth1", 5), a_link("eth0"), a_link("myveth", 7)]
    assert [one.name for one in considered(links, exclusion(["^veth.*", "^lo$"]))] == ["eth0", "myveth"]
    assert [one.name for one in considered(links, exclusion(["veth"]))] == ["eth0"]
    assert len(considered(links, exclusion([]))) == 3


def test_a_bad_pattern_is_named() -> None:
    with pytest.raises(ValueError, match=r"announcedInterfacesToExclude: '\('"):
        exclusion(["eth", "("])
