"""Who holds which address: the one fact of the controller that is kept, not derived.

controller.plan is its only writer; it rebuilds the ledger from Service statuses at start and whenever the configuration
changes. Claims may name addresses of no pool (a broken one's). Lookups cost the same with 10 holders and with 10,000.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from config.model import Config, IPAddress, Pool, PoolName, ServiceKey
from controller.ipam.ranges import PoolSpace, is_buggy
from controller.ipam.sharing import Conflict, conflict

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
        self._in_use: Counter[tuple[PoolName, int]] = Counter()
        self._freed: set[tuple[int, int]] = set()
        self._spaces: dict[tuple[PoolName, int], PoolSpace] = {}
        self._places: dict[int, list[_Place]] = {version: [] for version in VERSIONS}
        for pool in config.pools.values():
            self._lay_out(pool)
        for places in self._places.values():
            places.sort(key=_first)

    def _lay_out(self, pool: Pool) -> None:
        for version in VERSIONS:
            ranges = tuple(one for one in pool.ranges if one.first.version == version)
            self._spaces[pool.name, version] = PoolSpace(ranges, avoid_buggy=pool.avoid_buggy_ips)
            self._places[version] += (_Place(int(one.first), int(one.last), pool, index) for index, one in enumerate(ranges))

    def pool_of(self, address: IPAddress) -> Pool | None:
        """The pool that may give out this address; None also for an address that its pool avoids."""
        place = self._place(address.version, int(address))
        return None if place is None or (place.pool.avoid_buggy_ips and is_buggy(address)) else place.pool

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

    def conflict(self, service: ServiceKey, addresses: tuple[IPAddress, ...]) -> Conflict | None:
        """Why the Service cannot hold these addresses beside those who do; None if it can."""
        found = (conflict(service, address, self.holders_of(address)) for address in addresses)
        return next((one for one in found if one is not None), None)

    def lowest_free(self, pool: PoolName, version: int) -> IPAddress | None:
        """The next address that the pool gives out in this family (4 or 6)."""
        found = self._spaces[pool, version].lowest(self._holders[version])
        if found is None:
            return None
        return IPv4Address(found) if version == 4 else IPv6Address(found)

    def usage(self, pool: PoolName, version: int) -> Usage:
        """The counters of one family of a pool."""
        return Usage(self._spaces[pool, version].usable, self._in_use[pool, version])

    def claim(self, service: ServiceKey, addresses: tuple[IPAddress, ...]) -> None:
        """Make these the addresses of the Service, instead of those it held. There must be no conflict."""
        assert self.conflict(service, addresses) is None, (service, addresses)
        if self._addresses.get(service) == addresses:
            return
        self.release(service)
        for address in addresses:
            number, holders = int(address), self._holders[address.version]
            self._freed.discard((address.version, number))
            if number not in holders:
                self._count(address.version, number, 1)
            holders[number] = (*holders.get(number, ()), service)
        if addresses:
            self._addresses[service] = addresses

    def release(self, service: ServiceKey) -> tuple[IPAddress, ...]:
        """Take everything from the Service; the addresses it held."""
        released = self._addresses.pop(service, ())
        for address in released:
            version, number = address.version, int(address)
            holders = self._holders[version]
            holders[number] = tuple(holder for holder in holders[number] if holder != service)
            if not holders[number]:
                del holders[number]
                self._count(version, number, -1)
                self._freed.add((version, number))
                place = self._place(version, number)
                if place is not None:
                    self._spaces[place.pool.name, version].give_back(place.index, number)
        return released

    def _count(self, version: int, number: int, step: int) -> None:
        place = self._place(version, number)
        if place is not None:
            self._in_use[place.pool.name, version] += step

    @property
    def has_freed(self) -> bool:
        """Whether addresses were released since forget_freed and are still free: waiting Services may want them."""
        return bool(self._freed)

    def forget_freed(self) -> None:
        """Everyone who waits has been asked."""
        self._freed.clear()

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
            assert all(self.conflict(service, (address,)) is None for service in services)
        recount: Counter[tuple[PoolName, int]] = Counter()
        for version, number in holders:
            if (place := self._place(version, number)) is not None:
                recount[place.pool.name, version] += 1
        assert recount == +self._in_use, (recount, self._in_use)
        for name, version in self._spaces:
            free = self.lowest_free(name, version)
            assert free is None or (not self.holders_of(free) and self.pool_of(free) == self.pools[name])
        assert not any(key in holders for key in self._freed)


def _first(place: _Place) -> int:
    return place.first


def _preference(pool: Pool) -> tuple[bool, int, PoolName]:
    """Pinned pools: positive priorities ascending, the rest last; equal ones, and unpinned pools, by name."""
    return (pool.priority <= 0, max(pool.priority, 0), pool.name)
