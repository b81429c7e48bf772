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
from config.kinds.bgp_advertisement import EXCLUSIVE, LENGTH_V4, LENGTH_V6, LOCAL_PREF_MAX, BGPAdvertisement
from config.kinds.bgp_peer import BGPPeer
from config.kinds.community import Community
from config.kinds.ip_address_pool import IPAddressPool
from config.kinds.l2_advertisement import L2Advertisement
from config.model import AddressRange, Election
from config.problem import Finding, Severity
from config.selectors import check_selector, check_selectors
from config.values import TextError, parse_address, parse_community, parse_duration, parse_range, parse_ranges, show_range

RESERVED: Final = "lb.metallb-py.io/reserved"
"""Annotation of a pool: addresses that only Services get that ask for them by address."""
ELECTION: Final = "lb.metallb-py.io/election"
"""Annotation of an L2Advertisement: how the node that announces is chosen, one of config.model.Election."""


def pool_rules(pool: IPAddressPool) -> Iterator[Finding]:
    """Everything wrong with a pool by itself."""
    yield from _addresses(pool.spec.addresses)
    reserved = (pool.metadata.annotations or {}).get(RESERVED, "")
    try:
        parse_ranges(reserved)
    except TextError as problem:
        yield Finding(f'metadata.annotations["{RESERVED}"]', "format", problem.message, problem.remedy, show(reserved))
    allocation = pool.spec.service_allocation
    if allocation is not None:
        yield from duplicates(allocation.namespaces, "spec.serviceAllocation.namespaces", "namespace")
        yield from check_selectors(allocation.namespace_selectors, "spec.serviceAllocation.namespaceSelectors")
        yield from check_selectors(allocation.service_selectors, "spec.serviceAllocation.serviceSelectors")


def l2_advertisement_rules(advertisement: L2Advertisement) -> Iterator[Finding]:
    """Everything wrong with an L2Advertisement by itself. Pools that do not exist are not an error."""
    spec = advertisement.spec
    election = (advertisement.metadata.annotations or {}).get(ELECTION)
    if election is not None and election not in set(Election):
        remedy = f"write {', '.join(Election)}, or remove it"
        yield Finding(
            f'metadata.annotations["{ELECTION}"]', "enum", f"{election!r} is no kind of election", remedy, show(election)
        )
    yield from duplicates(spec.ip_address_pools, "spec.ipAddressPools", "pool")
    yield from check_selectors(spec.ip_address_pool_selectors, "spec.ipAddressPoolSelectors")
    yield from check_selectors(spec.node_selectors, "spec.nodeSelectors")
    yield from check_selectors(spec.service_selectors, "spec.serviceSelectors")
    for index, preferred in enumerate(spec.preferred_node_selectors):
        yield from check_selector(preferred.preference, f"spec.preferredNodeSelectors[{index}].preference")


def bgp_advertisement_rules(advertisement: BGPAdvertisement) -> Iterator[Finding]:
    """Everything wrong with a BGPAdvertisement by itself. Pools and peers that do not exist are not an error."""
    spec = advertisement.spec
    for path, length, longest in (
        ("spec.aggregationLength", spec.aggregation_length, LENGTH_V4),
        ("spec.aggregationLengthV6", spec.aggregation_length_v6, LENGTH_V6),
    ):
        if not 0 <= length <= longest:
            family = "IPv4" if longest == LENGTH_V4 else "IPv6"
            message = f'invalid aggregation length "{length}" for {family}'
            yield Finding(path, "range", message, f"write a number up to {longest}", show(length))
    if not 0 <= spec.local_pref <= LOCAL_PREF_MAX:
        remedy = f"write a number from 0 to {LOCAL_PREF_MAX}"
        yield Finding("spec.localPref", "range", f"{spec.local_pref} is out of range", remedy, show(spec.local_pref))
    if spec.service_selectors and (spec.aggregation_length, spec.aggregation_length_v6) != (LENGTH_V4, LENGTH_V6):
        yield Finding("spec", "exclusive", EXCLUSIVE, "remove the aggregation lengths, or the service selectors")
    yield from duplicates(spec.communities, "spec.communities", "community")
    yield from duplicates(spec.ip_address_pools, "spec.ipAddressPools", "pool")
    yield from duplicates(spec.peers, "spec.peers", "peer")
    yield from check_selectors(spec.ip_address_pool_selectors, "spec.ipAddressPoolSelectors")
    yield from check_selectors(spec.node_selectors, "spec.nodeSelectors")
    yield from check_selectors(spec.service_selectors, "spec.serviceSelectors")


HOLD_TIME_MIN_S: Final = 3
CONNECT_TIME_MAX_S: Final = 65535


def peer_rules(peer: BGPPeer) -> Iterator[Finding]:
    """Everything wrong with a BGPPeer by itself. Profiles and Secrets that it names are config.cross's."""
    spec = peer.spec
    if spec.my_asn == 0:
        yield Finding("spec.myASN", "asn", "missing local ASN", "write our AS number", "0")
    if spec.peer_asn == 0 and spec.dynamic_asn is None:
        yield Finding("spec.peerASN", "asn", "missing peer ASN", "set peerASN, or dynamicASN")
    if spec.peer_asn and spec.dynamic_asn is not None:
        yield Finding("spec.dynamicASN", "exclusive", "peerASN and dynamicASN are both set", "remove one of them")
    if spec.peer_asn and spec.peer_asn == spec.my_asn and spec.ebgp_multi_hop:
        message = "ebgpMultiHop is set for a peer of our own AS"
        yield Finding("spec.ebgpMultiHop", "exclusive", message, "remove ebgpMultiHop: it is for external peers", "true")
    yield from _peer_addresses(peer)
    yield from _timers(peer)
    yield from check_selectors(spec.node_selectors, "spec.nodeSelectors")
    if spec.password and spec.password_secret is not None and spec.password_secret.name:
        message = "password and passwordSecret are both set"
        yield Finding("spec.passwordSecret", "exclusive", message, "remove password, and keep it in the Secret")
    if spec.disable_mp:
        yield Finding(
            "spec.disableMP", "deprecated", "disableMP is deprecated", "remove it: it has no effect", "true", Severity.WARNING
        )


def _peer_addresses(peer: BGPPeer) -> Iterator[Finding]:
    spec = peer.spec
    if not spec.peer_address and not spec.interface:
        yield Finding("spec.peerAddress", "required", "neither peerAddress nor interface is set", "set one of them")
    if spec.peer_address and spec.interface:
        yield Finding("spec.interface", "exclusive", "peerAddress and interface are both set", "remove one of them")
    for path, what, text in (
        ("spec.peerAddress", "BGPPeer address", spec.peer_address),
        ("spec.sourceAddress", "BGPPeer source address", spec.source_address),
        ("spec.routerID", "BGPPeer router ID", spec.router_id),
    ):
        if not text:
            continue
        try:
            parse_address(text)
        except TextError as problem:
            yield Finding(path, "address", f"invalid {what} {text!r}", problem.remedy, show(text))


def _timers(peer: BGPPeer) -> Iterator[Finding]:
    spec, read = peer.spec, dict[str, float]()
    for name, text in (
        ("holdTime", spec.hold_time),
        ("keepaliveTime", spec.keepalive_time),
        ("connectTime", spec.connect_time),
    ):
        if text is None:
            continue
        try:
            read[name] = parse_duration(text)
        except TextError as problem:
            yield Finding(f"spec.{name}", "duration", problem.message, problem.remedy, show(text))
            continue
        if read[name] < 0:
            yield Finding(f"spec.{name}", "duration", f"{name} is negative", "write a duration such as 90s", show(text))
    hold_s, keepalive_s, connect_s = (read.get(name) for name in ("holdTime", "keepaliveTime", "connectTime"))
    if hold_s is not None and int(hold_s) != 0 and 0 <= hold_s < HOLD_TIME_MIN_S:
        message = f'invalid hold time "{spec.hold_time}": must be 0 or >={HOLD_TIME_MIN_S}s'
        yield Finding("spec.holdTime", "duration", message, "write 0s, or 3s and more", show(spec.hold_time))
    if hold_s is not None and keepalive_s is not None and keepalive_s > hold_s:
        message = f'invalid keepaliveTime "{spec.keepalive_time}", must be lower than holdTime "{spec.hold_time}"'
        yield Finding("spec.keepaliveTime", "duration", message, "write a third of holdTime", show(spec.keepalive_time))
    if connect_s is not None and not (1 <= connect_s <= CONNECT_TIME_MAX_S and connect_s == int(connect_s)):
        message = f'invalid connectTime "{spec.connect_time}": not a whole number of seconds from 1 to {CONNECT_TIME_MAX_S}'
        yield Finding("spec.connectTime", "duration", message, "write whole seconds, such as 10s", show(spec.connect_time))


def community_rules(community: Community) -> Iterator[Finding]:
    """Everything wrong with a Community object by itself."""
    for index, one in enumerate(community.spec.communities):
        path = f"spec.communities[{index}]"
        if not one.name:
            yield Finding(f"{path}.name", "required", "the community has no name", "add a name")
        try:
            parse_community(one.value)
        except TextError as problem:
            yield Finding(f"{path}.value", "community", problem.message, problem.remedy, show(one.value))


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
