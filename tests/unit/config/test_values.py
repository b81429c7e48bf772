from __future__ import annotations

import re
from ipaddress import ip_address

import pytest

from config.model import AddressRange
from config.values import ADDRESSES_PATTERN, TextError, parse_address, parse_range, show_range, widest_cidr


def a_range(first: str, last: str) -> AddressRange:
    return AddressRange(ip_address(first), ip_address(last))


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("192.168.1.0/24", "192.168.1.0", "192.168.1.255"),
        ("10.20.30.40/24", "10.20.30.0", "10.20.30.255"),
        ("10.0.0.1/32", "10.0.0.1", "10.0.0.1"),
        ("0.0.0.0/0", "0.0.0.0", "255.255.255.255"),
        ("10.0.0.0/024", "10.0.0.0", "10.0.0.255"),
        ("fc00::/124", "fc00::", "fc00::f"),
        ("fc00:f853:0ccd:e799::/64", "fc00:f853:ccd:e799::", "fc00:f853:ccd:e799:ffff:ffff:ffff:ffff"),
        ("192.168.20.20-192.168.20.255", "192.168.20.20", "192.168.20.255"),
        (" 192.168.20.20 - 192.168.20.22 ", "192.168.20.20", "192.168.20.22"),
        ("10.0.0.7-10.0.0.7", "10.0.0.7", "10.0.0.7"),
        ("fc00::1-fc00::3", "fc00::1", "fc00::3"),
    ],
)
def test_an_entry_means_an_inclusive_range(text: str, first: str, last: str) -> None:
    assert parse_range(text) == a_range(first, last)
    assert re.match(ADDRESSES_PATTERN, text)


@pytest.mark.parametrize(
    ("text", "said", "remedy"),
    [
        ("192.168.1.1", "no prefix length", "a-a"),
        (" 10.0.0.0/8", "blanks around it", "'10.0.0.0/8'"),
        ("10.0.0.0/8 ", "blanks around it", "'10.0.0.0/8'"),
        ("10.0.0.0/33", "bad prefix length '33'", "0 to 32"),
        ("fc00::/129", "bad prefix length '129'", "0 to 128"),
        ("10.0.0.0/255.0.0.0", "bad prefix length", "0 to 32"),
        ("10.0.0.0/", "bad prefix length ''", "0 to 32"),
        ("10.0.0.0/+8", "bad prefix length '+8'", "0 to 32"),
        ("10.0.0.0/٨", "bad prefix length", "0 to 32"),
        ("10.0.0.256/24", "invalid IP", "192.0.2.10"),
        ("010.0.0.0/8", "invalid IP", "without leading zeros"),
        ("10.0.0.1-10.0.0.009", "invalid IP", "without leading zeros"),
        ("10.0.0.9-10.0.0.1", "start is after end", "10.0.0.1-10.0.0.9"),
        ("::1-192.0.2.220", "mixes IPv4 and IPv6", "one entry per family"),
        ("192.0.2.1-fc00::1", "mixes IPv4 and IPv6", "one entry per family"),
        ("10.0.0.1-10.0.0.2-10.0.0.3", "invalid IP", ""),
        ("-", "invalid IP ''", ""),
        ("", "no prefix length", ""),
        ("::ffff:10.0.0.0/120", "invalid CIDR", "write it as IPv4"),
        ("fe80::1%eth0/64", "zones", "fe80::1"),
        ("fc00::g/64", "invalid IP", "2001:db8::10"),
    ],
)
def test_an_entry_that_cannot_be_understood_is_refused_with_a_remedy(text: str, said: str, remedy: str) -> None:
    with pytest.raises(TextError) as caught:
        parse_range(text)
    assert said in caught.value.message
    assert remedy in caught.value.remedy


def test_an_ipv4_mapped_address_is_the_ipv4_address() -> None:
    assert parse_address("::ffff:192.0.2.1") == ip_address("192.0.2.1")


def test_the_widest_cidr_of_a_range_is_found() -> None:
    assert str(widest_cidr(a_range("3.3.3.2", "3.3.3.254"))) == "3.3.3.64/26"


def test_a_range_is_shown_as_a_cidr_only_if_it_is_one() -> None:
    assert show_range(parse_range("10.0.0.0-10.0.0.255")) == "10.0.0.0/24"
    assert show_range(parse_range("10.0.0.1-10.0.0.255")) == "10.0.0.1-10.0.0.255"
