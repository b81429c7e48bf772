from __future__ import annotations

from ipaddress import ip_address

import pytest

from config.values import parse_range
from controller.ipam.ranges import FreeAddresses, PoolSpace, is_buggy, usable_count


def free(text: str, *, avoid_buggy: bool = False) -> FreeAddresses:
    return FreeAddresses(parse_range(text), avoid_buggy=avoid_buggy)


def number(text: str) -> int:
    return int(ip_address(text))


@pytest.mark.parametrize(
    ("text", "all_of_them", "without_buggy"),
    [
        ("1.2.3.0/24", 256, 254),
        ("1.2.3.0/25", 128, 127),
        ("1.2.0.0/16", 65536, 65536 - 512),
        ("1.2.3.0/31", 2, 1),
        ("1.2.3.254/31", 2, 1),
        ("1.2.3.0-1.2.3.0", 1, 0),
        ("1.2.3.255-1.2.3.255", 1, 0),
        ("1.2.3.7-1.2.3.9", 3, 3),
        ("1.2.3.255-1.2.4.1", 3, 1),
        ("fc00::/127", 2, 2),
        ("fc00::/64", 2**64, 2**64),
    ],
)
def test_usable_addresses_are_counted_without_listing_them(text: str, all_of_them: int, without_buggy: int) -> None:
    one = parse_range(text)
    assert usable_count(one, avoid_buggy=False) == all_of_them
    assert usable_count(one, avoid_buggy=True) == without_buggy


def test_only_ipv4_addresses_ending_in_0_or_255_are_buggy() -> None:
    assert [is_buggy(ip_address(text)) for text in ("1.2.3.0", "1.2.3.255", "1.2.0.1", "fc00::", "fc00::ff")] == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_the_lowest_free_address_is_found() -> None:
    one = free("10.0.0.0-10.0.0.3")
    used: set[int] = set()
    for expected in ("10.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.3"):
        assert one.lowest(used) == number(expected)
        used.add(number(expected))
    assert one.lowest(used) is None


def test_an_address_given_back_is_found_again_lowest_first() -> None:
    one = free("10.0.0.0-10.0.0.9")
    used = {number(f"10.0.0.{last}") for last in range(10)}
    assert one.lowest(used) is None
    for last in (7, 3, 5):
        used.discard(number(f"10.0.0.{last}"))
        one.give_back(number(f"10.0.0.{last}"))
        one.give_back(number(f"10.0.0.{last}"))
    assert one.lowest(used) == number("10.0.0.3")
    used.add(number("10.0.0.3"))
    assert one.lowest(used) == number("10.0.0.5")


def test_buggy_addresses_are_skipped_and_never_given_back() -> None:
    one = free("10.0.0.254-10.0.1.1", avoid_buggy=True)
    assert one.lowest({number("10.0.0.254")}) == number("10.0.1.1")
    one.give_back(number("10.0.0.255"))
    assert one.lowest({number("10.0.0.254"), number("10.0.1.1")}) is None


def test_ipv6_addresses_are_never_buggy() -> None:
    assert free("fc00::/120", avoid_buggy=True).lowest(set()) == number("fc00::")


def test_ranges_are_emptied_in_the_order_they_were_written() -> None:
    space = PoolSpace((parse_range("10.0.9.0/31"), parse_range("10.0.1.0/31")), avoid_buggy=False)
    used: set[int] = set()
    found = []
    while (address := space.lowest(used)) is not None:
        found.append(str(ip_address(address)))
        used.add(address)
    assert found == ["10.0.9.0", "10.0.9.1", "10.0.1.0", "10.0.1.1"]
    used.discard(number("10.0.9.1"))
    space.give_back(0, number("10.0.9.1"))
    assert space.lowest(used) == number("10.0.9.1")


def test_a_huge_range_costs_nothing() -> None:
    space = PoolSpace((parse_range("fc00::/64"),), avoid_buggy=False)
    assert space.usable == 2**64
    assert space.lowest({number("fc00::")}) == number("fc00::1")
