"""Who holds which address: the one fact of the controller that is kept, not derived.

controller.plan is its only writer; it rebuilds the ledger from Service statuses at start and whenever the configuration
changes. Addresses may be kept back for Services that were deleted: then nobody gets them who does not ask for them. Claims may name addresses of no pool (a broken one's). Lookups cost the same with 10 holders and with 10,000.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from config.model import Config, IPAddress, Pool, PoolName, ServiceKey
from controller.ipam.ranges import PoolSpace, Reserved, is_buggy
from controller.ipam.sharing import ALONE, Conflict, Port, Use, conflict

VERSIONS: Final = (4, 6)


@dataclass(frozen=True, slots=True)
class Usage:
    """How many addresses of one family a pool may give out, and how many are in use."""

    usable: int
    in_use: int


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a range of addresses belongs."""

    first: int
    last: int
    pool: Pool
    index: int


@dataclass(slots=True)
class _Shared:
    """The addresses of one family of a pool whose holders may share with one group of Services.

    `places` are (index of the range, address), sorted, so in the order in which a pool gives addresses out. The first
    `tried[ports]` of them are known not to suit a Service with these ports.
    """

    places: list[tuple[int, int]] = field(default_factory=list)
    tried: dict[frozenset[Port], int] = field(default_factory=dict)

    def add(self, place: tuple[int, int]) -> None:
        if self.places and place < self.places[-1]:
            self.tried.clear()
        insort(self.places, place)

    def loosen(self, place: tuple[int, int], *, empty: bool) -> None:
        """A holder has left the place, and `empty` says whether it was the last."""
        at = bisect_left(self.places, place)
        if empty:
            del self.places[at]
        self.tried = {ports: min(tried, at) for ports, tried in self.tried.items()}


class _Taken:
    """The addresses of one family that are not free: held, or kept back."""

    __slots__ = ("_held", "_kept")

    def __init__(self, held: Container[int], kept: Container[int]) -> None:
        self._held = held
        self._kept = kept

    def __contains__(self, address: object) -> bool:
        return address in self._held or address in self._kept


class Ledger:
    """Addresses and their holders, and the free space of every pool.

    Invariants: both directions of the relation agree; holders of one address are allowed to share it; the counters equal
    a recount; the lowest free address is not held.
    """

    def __init__(self, config: Config) -> None:
        self.pools: Mapping[PoolName, Pool] = config.pools
        self.broken_pools = config.broken_pools
        automatic = [pool for pool in sorted(config.pools.values(), key=_preference) if pool.auto_assign]
        self.pinned = tuple(pool for pool in automatic if pool.pinned)
        self.unpinned = tuple(pool for pool in automatic if not pool.pinned)
        self._holders: dict[int, dict[int, tuple[ServiceKey, ...]]] = {version: {} for version in VERSIONS}
        self._addresses: dict[ServiceKey, tuple[IPAddress, ...]] = {}
        self._uses: dict[ServiceKey, Use] = {}
        self._shared: dict[tuple[tuple[str, str], PoolName, int], _Shared] = {}
        self._kept: dict[int, Counter[int]] = {version: Counter() for version in VERSIONS}
        self._kept_in: Counter[tuple[PoolName, int]] = Counter()
        self._taken = {version: _Taken(self._holders[version], self._kept[version]) for version in VERSIONS}
        self._in_use: Counter[tuple[PoolName, int]] = Counter()
        self._freed: set[tuple[int, int]] = set()
        self._reads_otherwise = False
        self._by_namespace: dict[str, Counter[IPAddress]] = {}
        self._recounted: set[str] = set()
        self._moved = False
        self._filled = False
        self._touched: set[PoolName] = set(config.pools)
        self._spaces: dict[tuple[PoolName, int], PoolSpace] = {}
        self._places: dict[int, list[_Place]] = {version: [] for version in VERSIONS}
        for pool in config.pools.values():
            self._lay_out(pool)
        for places in self._places.values():
            places.sort(key=_first)

    def _lay_out(self, pool: Pool) -> None:
        for version in VERSIONS:
            ranges = tuple(one for one in pool.ranges if one.first.version == version)
            reserved = Reserved(one for one in pool.reserved if one.first.version == version)
            self._spaces[pool.name, version] = PoolSpace(ranges, avoid_buggy=pool.avoid_buggy_ips, reserved=reserved)
            self._places[version] += (_Place(int(one.first), int(one.last), pool, index) for index, one in enumerate(ranges))

    def pool_of(self, address: IPAddress) -> Pool | None:
        """The pool that may give out this address; None also for an address that its pool avoids."""
        place = self._place(address.version, int(address))
        return None if place is None or (place.pool.avoid_buggy_ips and is_buggy(address)) else place.pool

    def _giver_of(self, address: IPAddress) -> Pool | None:
        """The pool that gives this address out to Services that do not ask for it."""
        pool = self.pool_of(address)
        if pool is None or self._spaces[pool.name, address.version].reserved.end(int(address)) is not None:
            return None
        return pool

    def _place(self, version: int, address: int) -> _Place | None:
        places = self._places[version]
        after = bisect_right(places, address, key=_first)
        place = places[after - 1] if after else None
        return place if place is not None and address <= place.last else None

    def addresses_of(self, service: ServiceKey) -> tuple[IPAddress, ...]:
        """What the Service holds."""
        return self._addresses.get(service, ())

    def holders_of(self, address: IPAddress) -> tuple[ServiceKey, ...]:
        """Who holds the address."""
        return self._holders[address.version].get(int(address), ())

    def conflict(self, service: ServiceKey, addresses: tuple[IPAddress, ...], use: Use = ALONE) -> Conflict | None:
        """Why the Service cannot hold these addresses beside those who do; None if it can."""
        for address in addresses:
            holders = self.holders_of(address)
            found = conflict(service, use, address, ((one, self._uses[one]) for one in holders)) if holders else None
            if found is not None:
                return found
        return None

    def lowest(self, pool: PoolName, version: int, use: Use = ALONE) -> IPAddress | None:
        """The next address that the pool gives out in this family (4 or 6): free, or one that may be shared in this use."""
        free = self._spaces[pool, version].lowest(self._taken[version])
        found = free
        if use.key:
            shared = self._joinable(pool, version, use)
            if shared is not None and (free is None or shared < (self._index(version, free), free)):
                found = shared[1]
        if found is None:
            return None
        return IPv4Address(found) if version == 4 else IPv6Address(found)

    def _joinable(self, pool: PoolName, version: int, use: Use) -> tuple[int, int] | None:
        """The first place in the pool that its holders let others share in this use."""
        shared = self._shared.get((use.group, pool, version))
        if shared is None:
            return None
        at = shared.tried.get(use.ports, 0)
        holders, kept = self._holders[version], self._kept[version]
        while at < len(shared.places):
            if shared.places[at][1] not in kept and all(
                use.ports.isdisjoint(self._uses[one].ports) for one in holders[shared.places[at][1]]
            ):
                break
            at += 1
        shared.tried[use.ports] = at
        return shared.places[at] if at < len(shared.places) else None

    def lowest_held(self, namespace: str, pool: PoolName, version: int, use: Use) -> IPAddress | None:
        """The first address of the pool that Services of the namespace hold already, and that may be shared in this use."""
        shared = self._shared.get((use.group, pool, version)) if use.key else None
        holders, kept, held = self._holders[version], self._kept[version], self._by_namespace.get(namespace, Counter())
        for _, number in shared.places if shared is not None else ():
            address = IPv4Address(number) if version == 4 else IPv6Address(number)
            free_ports = all(use.ports.isdisjoint(self._uses[one].ports) for one in holders[number])
            if number not in kept and free_ports and address in held:
                return address
        return None

    def _index(self, version: int, number: int) -> int:
        place = self._place(version, number)
        assert place is not None, number
        return place.index

    def usage(self, pool: PoolName, version: int) -> Usage:
        """The counters of one family of a pool."""
        return Usage(self._spaces[pool, version].usable, self._in_use[pool, version])

    def keep(self, addresses: tuple[IPAddress, ...]) -> None:
        """Keep addresses back, once more than before: only who is given one by name gets it. It may have holders."""
        for address in addresses:
            self._kept[address.version][int(address)] += 1
            if self._kept[address.version][int(address)] == 1 and (place := self._place(address.version, int(address))):
                self._count_kept(place.pool.name, address.version, 1)
            self._look_if_full(address)

    def let_go(self, addresses: tuple[IPAddress, ...]) -> None:
        """Undo one keep of these addresses."""
        for address in addresses:
            version, number = address.version, int(address)
            self._kept[version][number] -= 1
            if self._kept[version][number]:
                continue
            del self._kept[version][number]
            place = self._place(version, number)
            if place is not None:
                self._count_kept(place.pool.name, version, -1)
            self._open_up(address)

    def _count_kept(self, pool: PoolName, version: int, step: int) -> None:
        before = self.has_kept(pool, version)
        self._kept_in[pool, version] += step
        self._reads_otherwise |= self.has_kept(pool, version) != before

    def _open_up(self, address: IPAddress) -> None:
        """An address is not kept back any more: it is free, or those who share may join."""
        version, number = address.version, int(address)
        holders, place = self._holders[version].get(number, ()), self._place(version, number)
        if not holders:
            self._freed.add((version, number))
            if place is not None:
                self._spaces[place.pool.name, version].give_back(place.index, number)
        elif (use := self._uses[holders[0]]).key:
            self._freed.add((version, number))
            if (pool := self._giver_of(address)) is not None and place is not None:
                self._shared[use.group, pool.name, version].loosen((place.index, number), empty=False)

    def has_kept(self, pool: PoolName, version: int) -> bool:
        """Whether a pool keeps addresses of a version (4 or 6) back for Services that were deleted."""
        return self._kept_in[pool, version] > 0

    def claim(self, service: ServiceKey, addresses: tuple[IPAddress, ...], use: Use = ALONE) -> None:
        """Make these the addresses of the Service, instead of those it held. There must be no conflict."""
        assert self.conflict(service, addresses, use) is None, (service, addresses)
        if self._addresses.get(service) == addresses and self._uses[service] == use:
            return
        self.release(service)
        for address in addresses:
            number, holders = int(address), self._holders[address.version]
            if not use.key and (address.version, number) in self._freed:
                self._freed.discard((address.version, number))
                self._moved = True
            if number in holders:
                self._moved = True
            else:
                self._count(address.version, number, 1)
                self._offer(address, use)
            holders[number] = (*holders.get(number, ()), service)
            self._join(_namespace(service), address)
            self._look_if_full(address)
        if addresses:
            self._addresses[service], self._uses[service] = addresses, use

    def release(self, service: ServiceKey) -> tuple[IPAddress, ...]:
        """Take everything from the Service; the addresses it held."""
        released = self._addresses.pop(service, ())
        use = self._uses.pop(service, ALONE)
        for address in released:
            version, number = address.version, int(address)
            holders = self._holders[version]
            holders[number] = tuple(holder for holder in holders[number] if holder != service)
            last = not holders[number]
            self._freed.add((version, number))
            self._leave(_namespace(service), address)
            self._withdraw(address, use, last=last)
            if last:
                del holders[number]
                self._count(version, number, -1)
                place = self._place(version, number)
                if place is not None:
                    self._spaces[place.pool.name, version].give_back(place.index, number)
        return released

    def _join(self, namespace: str, address: IPAddress) -> None:
        held = self._by_namespace.setdefault(namespace, Counter())
        held[address] += 1
        if held[address] == 1:
            self._recounted.add(namespace)

    def _look_if_full(self, address: IPAddress) -> None:
        """Somebody holds the address, or it is kept back: has its pool another one to give?"""
        pool, version = self._giver_of(address), address.version
        self._filled |= pool is not None and self._spaces[pool.name, version].lowest(self._taken[version]) is None

    def _leave(self, namespace: str, address: IPAddress) -> None:
        held = self._by_namespace[namespace]
        held[address] -= 1
        if not held[address]:
            del held[address]
            self._recounted.add(namespace)
        if not held:
            del self._by_namespace[namespace]

    def count_of(self, namespace: str) -> int:
        """How many different addresses the Services of a namespace hold."""
        return len(self._by_namespace.get(namespace, ()))

    def count_more(self, namespace: str, addresses: tuple[IPAddress, ...]) -> int:
        """How many of these the Services of a namespace do not hold."""
        held = self._by_namespace.get(namespace, Counter())
        return sum(address not in held for address in addresses)

    @property
    def recounted(self) -> AbstractSet[str]:
        """Namespaces that came to hold an address, or hold one no more, since forget_freed."""
        return self._recounted

    def _offer(self, address: IPAddress, use: Use) -> None:
        """An address has its first holder: others of the same group may join, if a pool gives the address out."""
        pool = self._giver_of(address) if use.key else None
        if pool is not None:
            shared = self._shared.setdefault((use.group, pool.name, address.version), _Shared())
            shared.add((self._index(address.version, int(address)), int(address)))

    def _withdraw(self, address: IPAddress, use: Use, *, last: bool) -> None:
        pool = self._giver_of(address) if use.key else None
        if pool is not None:
            group = (use.group, pool.name, address.version)
            self._shared[group].loosen((self._index(address.version, int(address)), int(address)), empty=last)
            if not self._shared[group].places:
                del self._shared[group]

    def _count(self, version: int, number: int, step: int) -> None:
        place = self._place(version, number)
        if place is not None:
            self._in_use[place.pool.name, version] += step
            self._touched.add(place.pool.name)

    def take_touched(self) -> frozenset[PoolName]:
        """Pools whose counters may have changed since this was last asked; all of them the first time."""
        taken = frozenset(self._touched)
        self._touched.clear()
        return taken

    @property
    def has_freed(self) -> bool:
        """Whether addresses were given up, or are shared in another way, since forget_freed: waiting Services may want them.

        An address that was given up and then taken by a Service that shares with nobody does not count. That a pool begins or
        ends to keep addresses back counts, because those who wait are told.
        """
        return bool(self._freed) or self._reads_otherwise

    @property
    def has_moved(self) -> bool:
        """Whether an address has another holder, one more, or one who shares it differently, since forget_freed.

        Nobody gets anything from that, but who waits for that very address has to be told who is in the way now.
        """
        return self._moved

    @property
    def has_filled(self) -> bool:
        """Whether an address was taken, since forget_freed, from a pool that has no free one of its family now."""
        return self._filled

    def forget_freed(self) -> None:
        """Everyone who waits has been asked."""
        self._freed.clear()
        self._moved = self._filled = False
        self._recounted.clear()
        self._reads_otherwise = False

    def holdings(self) -> Iterator[tuple[ServiceKey, tuple[IPAddress, ...]]]:
        """Every Service that holds something."""
        yield from self._addresses.items()

    def check_invariants(self) -> None:
        """Recompute everything from the holdings and compare; for tests and simulation."""
        holders: dict[tuple[int, int], list[ServiceKey]] = {}
        for service, addresses in self._addresses.items():
            assert addresses, service
            for address in addresses:
                holders.setdefault((address.version, int(address)), []).append(service)
        kept = {(version, number): sorted(who) for version, some in self._holders.items() for number, who in some.items()}
        assert kept == {key: sorted(who) for key, who in holders.items()}
        for (version, number), services in holders.items():
            address = IPv4Address(number) if version == 4 else IPv6Address(number)
            assert all(self.conflict(service, (address,), self._uses[service]) is None for service in services)
        recount: Counter[tuple[PoolName, int]] = Counter()
        for version, number in holders:
            if (place := self._place(version, number)) is not None:
                recount[place.pool.name, version] += 1
        assert recount == +self._in_use, (recount, self._in_use)
        for name, version in self._spaces:
            free = self.lowest(name, version)
            assert free is None or (not self.holders_of(free) and self._giver_of(free) == self.pools[name])
            assert free is None or int(free) not in self._kept[version]
        kept_in = Counter(
            (place.pool.name, version)
            for version, some in self._kept.items()
            for number in some
            if (place := self._place(version, number)) is not None
        )
        assert kept_in == +self._kept_in, (kept_in, self._kept_in)
        assert self._uses.keys() == self._addresses.keys()
        assert all(self._uses[service].key for place in self._freed for service in holders.get(place, ()))
        self._check_shared(holders)
        by_namespace: dict[str, Counter[IPAddress]] = {}
        for service, addresses in self._addresses.items():
            by_namespace.setdefault(_namespace(service), Counter()).update(addresses)
        assert by_namespace == self._by_namespace

    def check_kept(self, addresses: Iterable[IPAddress]) -> None:
        """Compare with what shall be kept back; for tests and simulation."""
        kept: Counter[tuple[int, int]] = Counter((address.version, int(address)) for address in addresses)
        assert kept == {(version, number): n for version, some in self._kept.items() for number, n in some.items()}

    def _check_shared(self, holders: Mapping[tuple[int, int], list[ServiceKey]]) -> None:
        offered: dict[tuple[tuple[str, str], PoolName, int], list[tuple[int, int]]] = {}
        for (version, number), services in holders.items():
            use = self._uses[services[0]]
            pool = self._giver_of(IPv4Address(number) if version == 4 else IPv6Address(number))
            if use.key and pool is not None:
                offered.setdefault((use.group, pool.name, version), []).append((self._index(version, number), number))
        assert {group: sorted(places) for group, places in offered.items()} == {
            group: shared.places for group, shared in self._shared.items()
        }


def _namespace(service: ServiceKey) -> str:
    return service.partition("/")[0]


def _first(place: _Place) -> int:
    return place.first


def _preference(pool: Pool) -> tuple[bool, int, PoolName]:
    """Pinned pools: positive priorities ascending, the rest last; equal ones, and unpinned pools, by name."""
    return (pool.priority <= 0, max(pool.priority, 0), pool.name)
