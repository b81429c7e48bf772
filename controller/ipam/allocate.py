"""Which address a Service gets, or why it gets none.

Called by controller.plan with the ledger as it stands. Pure and total: nothing is claimed here, and every refusal names
the pools that were looked at and what each of them said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from config.model import IPAddress, Pool, PoolName, ServiceKey
from config.selectors import matches_any
from controller.ipam.ledger import Ledger
from controller.ipam.ranges import is_buggy
from controller.ipam.sharing import ALONE, Use
from controller.reason import Reason
from controller.world import Family, family_of

VERSIONS_OF: Final[Mapping[Family, tuple[int, ...]]] = {Family.IPV4: (4,), Family.IPV6: (6,), Family.DUAL: (4, 6)}
FAMILY_OF: Final[Mapping[int, Family]] = {4: Family.IPV4, 6: Family.IPV6}
SHOWN: Final[Mapping[Family, str]] = {Family.IPV4: "IPv4", Family.IPV6: "IPv6", Family.DUAL: "dual-stack"}

POOLS_NAMED_MAX: Final = 6
"""An Event is read by people: more pools than these are only counted."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a Service without an address asks for.

    `family` is what it needs. `alone` are the versions (4, 6) that do where no pool has a pair, best first; empty unless
    it prefers dual stack. `remembered` are the addresses kept back for it since it was deleted. `room` is how many addresses its
    namespace may hold beside those it holds already; None if any number.
    """

    service: ServiceKey
    family: Family
    labels: Mapping[str, str]
    addresses: tuple[IPAddress, ...] = ()
    pool: PoolName | None = None
    alone: tuple[int, ...] = ()
    use: Use = ALONE
    remembered: tuple[IPAddress, ...] = ()
    room: int | None = None

    @property
    def namespace(self) -> str:
        """The namespace of the Service."""
        return self.service.partition("/")[0]

    @property
    def families(self) -> tuple[Family, ...]:
        """What does, best first."""
        return (self.family, *(FAMILY_OF[version] for version in self.alone))

    def has_room(self, addresses: tuple[IPAddress, ...], ledger: Ledger) -> bool:
        """Whether the namespace may hold these addresses too."""
        return self.room is None or ledger.count_more(self.namespace, addresses) <= self.room


@dataclass(frozen=True, slots=True)
class Allocation:
    """Addresses that are free for the Service, and the pool they are from."""

    addresses: tuple[IPAddress, ...]
    pool: PoolName


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there is no address: the kind of reason, and a sentence with the facts."""

    reason: Reason
    detail: str


def allocate(request: Request, ledger: Ledger) -> Allocation | Refusal:
    """The addresses asked for, else those it had, else the lowest free one of the pool asked for, else of the first that has one."""
    if request.addresses:
        return _requested(request, ledger)
    if request.remembered and (had := _remembered(request, ledger)):
        return had
    if request.pool is not None:
        return _from_pool(request, request.pool, ledger)
    return _automatic(request, ledger)


def assign(
    service: ServiceKey, labels: Mapping[str, str], addresses: tuple[IPAddress, ...], ledger: Ledger, use: Use = ALONE
) -> Allocation | Refusal:
    """Exactly these addresses, if one pool has them all, may serve the Service, and whoever holds them shares with it."""
    shown = ", ".join(f'"{address}"' for address in addresses)
    pools = {pool.name: pool for address in addresses if (pool := ledger.pool_of(address)) is not None}
    missing = [address for address in addresses if ledger.pool_of(address) is None]
    if missing:
        return Refusal(Reason.NOT_IN_A_POOL, f"{shown} is not allowed in config: {_why_not(missing[0], ledger)}")
    if len(pools) > 1:
        return Refusal(Reason.NOT_IN_A_POOL, f"{shown} is not allowed in config: the addresses are in different pools")
    (pool,) = pools.values()
    objection = incompatible(pool, service.partition("/")[0], labels)
    if objection:
        return Refusal(Reason.POOL_NOT_FOR_SERVICE, f'{shown} is not allowed in config: pool "{pool.name}" {objection}')
    clash = ledger.conflict(service, addresses, use)
    if clash is not None:
        return Refusal(Reason.ADDRESS_IN_USE, str(clash))
    return Allocation(addresses, pool.name)


def incompatible(pool: Pool, namespace: str, labels: Mapping[str, str]) -> str:
    """Why a pool may not serve a Service with these labels in this namespace; empty if it may."""
    if pool.namespaces is not None and namespace not in pool.namespaces:
        return f'is not for namespace "{namespace}"'
    if pool.service_selectors and not matches_any(pool.service_selectors, labels):
        return "is not for Services with these labels"
    return ""


def _why_not(address: IPAddress, ledger: Ledger) -> str:
    for pool in ledger.pools.values():
        if is_buggy(address) and pool.avoid_buggy_ips and address in pool:
            return f'pool "{pool.name}" avoids addresses that end in .0 or .255'
    broken = ", ".join(f'"{name}"' for name in sorted(ledger.broken_pools))
    return f"no pool contains {address}" + (f" (pools that must be repaired first: {broken})" if broken else "")


def _requested(request: Request, ledger: Ledger) -> Allocation | Refusal:
    shown = ", ".join(map(str, request.addresses))
    if family_of(request.addresses) is not request.family:
        needs = (
            "one address of each family" if request.family is Family.DUAL else f"exactly one {SHOWN[request.family]} address"
        )
        return Refusal(Reason.WRONG_FAMILY, f"requested {shown}, but the Service needs {needs}")
    pools = {pool.name for address in request.addresses if (pool := ledger.pool_of(address)) is not None}
    if request.pool is not None and pools and pools != {request.pool}:
        where = " and ".join(f'"{name}"' for name in sorted(pools))
        return Refusal(Reason.POOL_MISMATCH, f'requested {shown} is in pool {where}, not in requested pool "{request.pool}"')
    return assign(request.service, request.labels, request.addresses, ledger, request.use)


def _remembered(request: Request, ledger: Ledger) -> Allocation | None:
    """The addresses that the Service had before it was deleted, if it may and wants to have them now."""
    if family_of(request.remembered) not in request.families or not request.has_room(request.remembered, ledger):
        return None
    found = assign(request.service, request.labels, request.remembered, ledger, request.use)
    return found if isinstance(found, Allocation) and request.pool in {None, found.pool} else None


def _from_pool(request: Request, name: PoolName, ledger: Ledger) -> Allocation | Refusal:
    if name in ledger.broken_pools:
        return Refusal(
            Reason.POOL_BROKEN, f'pool "{name}" has no valid configuration: nothing new comes from it until it is repaired'
        )
    if name not in ledger.pools:
        return Refusal(Reason.UNKNOWN_POOL, f'unknown pool "{name}"')
    objection = incompatible(ledger.pools[name], request.namespace, request.labels)
    if objection:
        return Refusal(Reason.POOL_NOT_FOR_SERVICE, f'pool "{name}" {objection}')
    for family in request.families:
        addresses = free(name, family, request, ledger)
        if addresses:
            return Allocation(addresses, name)
    return Refusal(Reason.POOL_EXHAUSTED, f"no available IPs: {_lacking(name, request, ledger)}")


def _automatic(request: Request, ledger: Ledger) -> Allocation | Refusal:
    """The best of the pinned pools, else the best of the others; a lone address of a pinned pool beats a pair elsewhere."""
    asked: list[PoolName] = []
    for group in (ledger.pinned, ledger.unpinned):
        pools = [pool.name for pool in group if not incompatible(pool, request.namespace, request.labels)]
        for family in request.families:
            for name in pools:
                addresses = free(name, family, request, ledger)
                if addresses:
                    return Allocation(addresses, name)
        asked += pools
    sized = any(
        all(ledger.usage(name, version).usable for version in VERSIONS_OF[family])
        for name in asked
        for family in request.families
    )
    return Refusal(Reason.POOL_EXHAUSTED if sized else Reason.NO_SUITABLE_POOL, f"no available IPs: {_survey(request, ledger)}")


def free(name: PoolName, family: Family, request: Request, ledger: Ledger) -> tuple[IPAddress, ...]:
    """The next address of every version that the family has, IPv4 first; empty if one of them lacks.

    Where the namespace has no room for a new address, one that it holds already and that can be shared does as well. So
    whether there is something does not depend on which address happens to be the next one.
    """
    found = {version: ledger.lowest(name, version, request.use) for version in VERSIONS_OF[family]}
    addresses = tuple(address for address in found.values() if address is not None)
    for version in VERSIONS_OF[family] if len(addresses) == len(found) else ():
        if request.has_room(addresses, ledger):
            break
        found[version] = ledger.lowest_held(request.namespace, name, version, request.use) or found[version]
        addresses = tuple(address for address in found.values() if address is not None)
    return addresses if len(addresses) == len(found) and request.has_room(addresses, ledger) else ()


def _lacking(name: PoolName, request: Request, ledger: Ledger) -> str:
    """Which of the families the pool lacks; if it never has one that is needed, that alone: what is free comes and goes."""
    wanted = VERSIONS_OF[request.family]
    never = [version for version in wanted if not request.alone and not ledger.usage(name, version).usable]
    lacking = never or [version for version in wanted if ledger.lowest(name, version, request.use) is None]
    return " and ".join(full(name, version, ledger, request.use) for version in lacking)


def full(name: PoolName, version: int, ledger: Ledger, use: Use = ALONE) -> str:
    """Says that a pool has no address of a version for this use."""
    usable = ledger.usage(name, version).usable
    if not usable:
        return f'pool "{name}" has no IPv{version} addresses'
    reserved = " or reserved" if any(one.first.version == version for one in ledger.pools[name].reserved) else ""
    kept = " or kept for deleted Services" if ledger.has_kept(name, version) else ""
    shared = f', none can be shared with sharing key "{use.key}" on these ports' if use.key else ""
    return f'pool "{name}" has no free IPv{version} address (all {usable} in use{reserved}{kept}{shared})'


def _survey(request: Request, ledger: Ledger) -> str:
    """What every pool says to a Service that takes whatever it gets."""
    said = []
    for pool in sorted(ledger.pools.values(), key=lambda pool: pool.name):
        objection = incompatible(pool, request.namespace, request.labels)
        if not pool.auto_assign:
            objection = "has autoAssign off"
        said.append(f'pool "{pool.name}" {objection}' if objection else _lacking(pool.name, request, ledger))
    said += [f'pool "{name}" must be repaired first' for name in sorted(ledger.broken_pools)]
    rest = len(said) - POOLS_NAMED_MAX
    return "; ".join(said[:POOLS_NAMED_MAX]) + (f"; and {rest} more pools" if rest > 0 else "")
