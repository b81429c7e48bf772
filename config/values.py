"""The values users write as text, parsed once: addresses and ranges of them, durations, communities.

Called by config.compile for pools and by the controller's observe for requested addresses. Texts that look right but
mean something else elsewhere (leading zeros, blanks around a prefix, ranges that mix families) are refused, not guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, summarize_address_range
from typing import Final

from config.model import AddressRange, Community, IPAddress

PREFIX_LENGTH: Final = re.compile(r"[0-9]{1,3}", re.ASCII)

ADDRESSES_PATTERN: Final = r"^([0-9A-Fa-f:.]+/[0-9]{1,3}|\s*[0-9A-Fa-f:.]+\s*-\s*[0-9A-Fa-f:.]+\s*)$"
"""What the API server can check: everything that parse_range accepts, and no obvious nonsense."""


class TextError(ValueError):
    """A text that cannot be understood. `remedy` says what to write instead."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


def parse_address(text: str) -> IPAddress:
    """The address in `text`, exactly as written: no blanks, no leading zeros, no zone.

    An IPv4-mapped IPv6 address counts as the IPv4 address in it.

    Raises:
        TextError: the text is not an address.

    """
    try:
        return IPv4Address(text)
    except ValueError as problem:
        reason = str(problem)
    if ":" not in text:
        hint = (
            "write octets without leading zeros"
            if "Leading zeros" in reason
            else "write an address such as 192.0.2.10 or 2001:db8::10"
        )
        raise TextError(f"invalid IP {text!r}", hint)
    try:
        address = IPv6Address(text)
    except ValueError:
        raise TextError(f"invalid IP {text!r}", "write an address such as 192.0.2.10 or 2001:db8::10") from None
    if address.scope_id is not None:
        raise TextError(f"invalid IP {text!r}: zones are not allowed", f"write {str(address).partition('%')[0]}")
    return address.ipv4_mapped or address


def parse_range(text: str) -> AddressRange:
    """The range that one entry of a pool means: a CIDR (host bits are ignored), or first-last.

    Raises:
        TextError: neither of the two, a last address before the first, or two families in one range.

    """
    return _dashed(text) if "-" in text else _cidr(text)


def parse_ranges(text: str) -> tuple[AddressRange, ...]:
    """The ranges in a list with commas, whose entries may be single addresses too; blanks around entries do not matter.

    Raises:
        TextError: an entry is none of these.

    """
    entries = [entry.strip() for entry in text.split(",") if entry.strip()]
    return tuple(parse_range(entry if "-" in entry or "/" in entry else f"{entry}-{entry}") for entry in entries)


def _cidr(text: str) -> AddressRange:
    if text != text.strip():
        raise TextError(f"invalid CIDR {text!r}: blanks around it", f"write {text.strip()!r}")
    address_text, slash, length_text = text.partition("/")
    if not slash:
        raise TextError(
            f"invalid CIDR {text!r}: no prefix length", "write a CIDR (192.0.2.0/24), or first-last; one address is a-a"
        )
    address = parse_address(address_text)
    mapped = address.version == 4 and ":" in address_text
    longest = address.max_prefixlen
    if mapped or not PREFIX_LENGTH.fullmatch(length_text) or int(length_text) > longest:
        remedy = "write it as IPv4" if mapped else f"a prefix length is a number from 0 to {longest}"
        raise TextError(
            f"invalid CIDR {text!r}: bad prefix length {length_text!r}" if not mapped else f"invalid CIDR {text!r}", remedy
        )
    network_type = IPv4Network if address.version == 4 else IPv6Network
    network = network_type((int(address), int(length_text)), strict=False)
    return AddressRange(network[0], network[-1])


def _dashed(text: str) -> AddressRange:
    first_text, _, last_text = text.partition("-")
    first, last = parse_address(first_text.strip()), parse_address(last_text.strip())
    if first.version != last.version:
        raise TextError(f"invalid IP range {text!r}: mixes IPv4 and IPv6", "write one entry per family")
    if int(first) > int(last):
        raise TextError(f"invalid IP range {text!r}: start is after end", f"write {last}-{first}")
    return AddressRange(first, last)


def widest_cidr(one: AddressRange) -> IPv4Network | IPv6Network:
    """The first CIDR among the widest ones that make up a range."""
    networks: Iterable[IPv4Network | IPv6Network] = summarize_address_range(one.first, one.last)
    return min(networks, key=lambda network: network.prefixlen)


def show_range(one: AddressRange) -> str:
    """The range as a CIDR where it is one, else as first-last."""
    widest = widest_cidr(one)
    return str(widest) if (widest[0], widest[-1]) == (one.first, one.last) else f"{one.first}-{one.last}"


DURATION_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
UNITS_S: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_duration(text: str) -> float:
    """Seconds in a duration as Go writes it: 90s, 1m30s, 1.5h, 0.

    Raises:
        TextError: it is not one.

    """
    sign, body = (-1.0, text[1:]) if text.startswith("-") else (1.0, text.removeprefix("+"))
    if body == "0":
        return 0.0
    parts = DURATION_PART.findall(body)
    if not parts or "".join(number + unit for number, unit in parts) != body:
        raise TextError(f"invalid duration {text!r}", "write a number with a unit, such as 90s or 1m30s")
    return sign * sum(float(number) * UNITS_S[unit] for number, unit in parts)


LEGACY_PARTS, LARGE_PARTS = 2, 4
COMMUNITY_REMEDY: Final = "write 65000:100 (two numbers up to 65535) or large:65000:1:2 (three numbers up to 4294967295)"


class CommunityFormatError(TextError):
    """The text is no community at all; in an advertisement it may be the name of one."""


def parse_community(text: str) -> Community:
    """The community that a text means (RFC 1997: two numbers; RFC 8092: `large:` and three numbers).

    Raises:
        CommunityFormatError: it does not have two or four parts.
        TextError: a part is wrong.

    """
    parts = text.split(":")
    if len(parts) == LEGACY_PARTS:
        return Community(tuple(_section(part, 65535, text) for part in parts))
    if len(parts) != LARGE_PARTS:
        raise CommunityFormatError(f"invalid community format: {text}", COMMUNITY_REMEDY)
    if parts[0] != "large":
        raise TextError(
            f"invalid community value: expected community to be of format large:<number>:<number>:<number>, is {text}",
            COMMUNITY_REMEDY,
        )
    return Community(tuple(_section(part, 4294967295, text) for part in parts[1:]))


def _section(part: str, highest: int, text: str) -> int:
    if not (part.isascii() and part.isdigit()) or int(part) > highest:
        raise TextError(f'invalid community value: invalid section "{part}" of {text}', COMMUNITY_REMEDY)
    return int(part)
