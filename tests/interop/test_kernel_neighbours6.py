"""Does the kernel of an IPv6 neighbour believe us? The client's neighbour table, its addresses and its groups are the judges."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from ipaddress import IPv6Address

import pytest

from speaker.layer2.ndp import solicited_node
from tests.interop.cable import HERE, NOWHERE, PORT, SPEAKER_MAC, STRANGER_MAC, Wire, a_cable, ip, until

pytestmark = pytest.mark.needs("root")

VIP = IPv6Address("2001:db8:20::10")
OTHER = IPv6Address("2001:db8:20::11")


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    async with a_cable() as made:
        yield made


async def test_the_kernel_learns_us_from_our_answer(wire: Wire) -> None:
    wire.engine.own({VIP: HERE})
    wire.forget()
    assert await wire.ask(VIP) == SPEAKER_MAC
    assert wire.tally.asked == wire.tally.answered >= 1
    assert await wire.ask(OTHER) == ""
    wire.engine.own({VIP: NOWHERE})
    wire.forget()
    assert await wire.ask(VIP) == ""


@pytest.mark.rfc("4861", "7.2.6")
@pytest.mark.parametrize("state", ["stale", "reachable", "delay"])
async def test_the_kernel_changes_its_entry_when_we_take_an_address_over(wire: Wire, state: str) -> None:
    ip("-n", wire.client, "neigh", "replace", str(VIP), "lladdr", STRANGER_MAC, "dev", "eth0", "nud", state)
    wire.engine.own({VIP: HERE})
    await until(lambda: wire.neighbour(VIP) == SPEAKER_MAC, "the old owner is still in the neighbour table")
    assert wire.tally.asked == 0, "the client had to ask"


@pytest.mark.rfc("4861", "7.3")
async def test_a_probe_for_reachability_is_answered(wire: Wire) -> None:
    """The kernel asks us alone, by unicast, for an address that our kernel does not have."""
    wire.engine.own({VIP: HERE})
    ip("-n", wire.client, "neigh", "replace", str(VIP), "lladdr", SPEAKER_MAC, "dev", "eth0", "nud", "probe")

    def reachable() -> bool:
        (entry,) = json.loads(ip("-n", wire.client, "-j", "neigh", "show", "to", str(VIP)))
        return "REACHABLE" in entry["state"]

    await until(reachable, "the client does not hear from us")


@pytest.mark.rfc("4862", "5.4")
async def test_a_client_that_wants_our_address_finds_it_taken(wire: Wire) -> None:
    wire.engine.own({VIP: HERE})
    ip("netns", "exec", wire.client, "sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/eth0/accept_dad")
    ip("-n", wire.client, "address", "add", f"{VIP}/64", "dev", "eth0")
    await until(lambda: "dadfailed" in ip("-n", wire.client, "-6", "address", "show", "dev", "eth0"), "it thinks it is free")
    ip("-n", wire.client, "address", "add", f"{OTHER}/64", "dev", "eth0")
    free = ("-n", wire.client, "-6", "address", "show", "dev", "eth0", "to", str(OTHER))
    await until(lambda: str(OTHER) in ip(*free, "-tentative"), "an address that nobody owns is refused too")


async def test_the_groups_of_owned_addresses_are_joined_and_left(wire: Wire) -> None:
    def joined() -> set[str]:
        said = ip("-n", wire.speaker, "-6", "maddress", "show", "dev", PORT)
        return {word for word in said.split() if word.startswith("ff02::1:ff")}

    before, group = joined(), str(IPv6Address(solicited_node(VIP.packed)))
    twin = IPv6Address(int(VIP) + (1 << 64))  # Of the same group.
    wire.engine.own({VIP: HERE, twin: HERE})
    assert joined() == before | {group}
    wire.engine.own({VIP: NOWHERE})
    assert joined() == before | {group}
    wire.engine.own({twin: NOWHERE})
    assert joined() == before


async def test_thousands_of_groups_are_joined_although_one_socket_holds_only_hundreds(wire: Wire) -> None:
    many = [VIP + offset for offset in range(2000)]
    wire.engine.own(dict.fromkeys(many, HERE))
    said = ip("-n", wire.speaker, "-6", "maddress", "show", "dev", PORT)
    assert said.count("ff02::1:ff00:") >= len(many)
    assert "multicast_group_not_joined" not in wire.log.events()
    wire.engine.own(dict.fromkeys(many, NOWHERE))
    said = ip("-n", wire.speaker, "-6", "maddress", "show", "dev", PORT)
    assert said.count("ff02::1:ff00:") <= 2


async def test_a_link_that_comes_back_announces_again(wire: Wire) -> None:
    wire.engine.own({VIP: HERE})
    ip("-n", wire.speaker, "link", "set", PORT, "down")
    await until(lambda: not any(link.name == PORT and link.up for link in wire.links.links), "netlink did not say down")
    wire.engine.show(wire.links.links)
    ip("-n", wire.client, "neigh", "replace", str(VIP), "lladdr", STRANGER_MAC, "dev", "eth0", "nud", "stale")
    ip("-n", wire.speaker, "link", "set", PORT, "up")
    await until(lambda: any(link.name == PORT and link.link_local for link in wire.links.links), "no link-local address")
    wire.engine.show(wire.links.links)
    await until(lambda: wire.neighbour(VIP) == SPEAKER_MAC, "the returned link was not announced")
