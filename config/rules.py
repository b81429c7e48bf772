"""What the schema cannot say: rules about one object's values, and rules between objects.

Each rule is a function that yields findings; config.compile attaches names to them and decides what follows. A rule
never stops another one.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

from config.check import show
from config.kinds.ip_address_pool import IPAddressPool
from config.kinds.l2_advertisement import L2Advertisement
from config.model import AddressRange
from config.problem import Finding
from config.selectors import check_selector, check_selectors
from config.values import TextError, parse_range, show_range


def pool_rules(pool: IPAddressPool) -> Iterator[Finding]:
    """Everything wrong with a pool by itself."""
    yield from _addresses(pool.spec.addresses)
    allocation = pool.spec.service_allocation
    if allocation is not None:
        yield from duplicates(allocation.namespaces, "spec.serviceAllocation.namespaces", "namespace")
        yield from check_selectors(allocation.namespace_selectors, "spec.serviceAllocation.namespaceSelectors")
        yield from check_selectors(allocation.service_selectors, "spec.serviceAllocation.serviceSelectors")


def l2_advertisement_rules(advertisement: L2Advertisement) -> Iterator[Finding]:
    """Everything wrong with an L2Advertisement by itself. Pools that do not exist are not an error."""
    spec = advertisement.spec
    yield from duplicates(spec.ip_address_pools, "spec.ipAddressPools", "pool")
    yield from check_selectors(spec.ip_address_pool_selectors, "spec.ipAddressPoolSelectors")
    yield from check_selectors(spec.node_selectors, "spec.nodeSelectors")
    yield from check_selectors(spec.service_selectors, "spec.serviceSelectors")
    for index, preferred in enumerate(spec.preferred_node_selectors):
        yield from check_selector(preferred.preference, f"spec.preferredNodeSelectors[{index}].preference")


def duplicates(values: Sequence[str], path: str, what: str) -> Iterator[Finding]:
    """A finding for every value that stands in the list a second time."""
    seen: set[str] = set()
    for index, value in enumerate(values):
        if value in seen:
            yield Finding(f"{path}[{index}]", "duplicate", f"duplicate {what} {value!r}", f"list each {what} once", show(value))
        seen.add(value)


def _addresses(entries: Sequence[str]) -> Iterator[Finding]:
    if not entries:
        yield Finding("spec.addresses", "no-addresses", "pool has no addresses", "list at least one CIDR or range", "[]")
    occupied = Occupied()
    for index, entry in enumerate(entries):
        path = f"spec.addresses[{index}]"
        try:
            one = parse_range(entry)
        except TextError as problem:
            yield Finding(path, "address-range", problem.message, problem.remedy, show(entry))
            continue
        other = occupied.overlapping(one)
        if other is None:
            occupied.add(one, "the same pool")
        else:
            yield overlap(path, one, *other)


def overlap(path: str, one: AddressRange, other: AddressRange, owner: str) -> Finding:
    """The finding that a range at `path` overlaps another one, which `owner` has."""
    message = f'CIDR "{show_range(one)}" overlaps with already defined CIDR "{show_range(other)}" of {owner}'
    return Finding(path, "overlap", message, "make the ranges disjoint; the older pool keeps its range", show(show_range(one)))


class Occupied:
    """Disjoint address ranges with their owners; finds an overlap in logarithmic time."""

    def __init__(self) -> None:
        self._ranges: dict[int, list[tuple[int, int, AddressRange, str]]] = {4: [], 6: []}

    def add(self, one: AddressRange, owner: str) -> None:
        """Remember a range that overlaps none so far."""
        insort(self._ranges[one.first.version], (int(one.first), int(one.last), one, owner), key=_start)

    def overlapping(self, one: AddressRange) -> tuple[AddressRange, str] | None:
        """The lowest remembered range that shares an address with this one, and its owner."""
        ranges = self._ranges[one.first.version]
        after = bisect_left(ranges, int(one.first), key=_start)
        for first, last, other, owner in ranges[max(after - 1, 0) : after + 1]:
            if first <= int(one.last) and int(one.first) <= last:
                return other, owner
        return None

    def check_invariants(self) -> None:
        """Ranges are sorted and disjoint."""
        for ranges in self._ranges.values():
            for left, right in pairwise(ranges):
                assert left[1] < right[0], (left, right)


def _start(item: tuple[int, int, AddressRange, str]) -> int:
    return item[0]


REMEDY_DUPLICATE: Final = "give each object a name of its own"


def duplicate_name(kind: str, name: str) -> Finding:
    """The finding that another object of the kind already has the name."""
    return Finding("metadata.name", "duplicate", f"duplicate {kind} name {name!r}", REMEDY_DUPLICATE, show(name))
