"""Decide who announces each Service, and what that means for this node's interfaces.

reconcile.py calls decide() for every Service that a change may concern and keeps the answers in a Plan; layer 2 is told what
Plan.interfaces_of() says. `lbctl explain` calls decide() too. Nothing here sends, writes or logs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from config.model import Election, InterfaceName, IPAddress, L2Advertisement, NodeName, PoolName, ServiceKey
from speaker import eligibility
from speaker.balance import spread
from speaker.election import elect
from speaker.eligibility import Ineligible, Terms
from speaker.layer2 import interfaces
from speaker.reason import Reason
from speaker.world import Service, TrafficPolicy, World


@dataclass(frozen=True, slots=True)
class Announce:
    """What this node announces for a Service, and on which of its interfaces.

    `on_every_interface` says that the advertisements name no interfaces, so that interfaces which appear later join.
    """

    addresses: tuple[IPAddress, ...]
    interfaces: frozenset[InterfaceName]
    on_every_interface: bool


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome for one Service on this node, with the reason and the facts behind it.

    `ranking` has every node that may announce the Service, the elected one first; it is the same on all speakers.
    """

    service: ServiceKey
    addresses: tuple[IPAddress, ...]
    announce: Announce | None
    reason: Reason
    detail: str
    ranking: tuple[NodeName, ...] = ()

    @property
    def winner(self) -> NodeName | None:
        """The node that announces the Service, if one may."""
        return self.ranking[0] if self.ranking else None


def decide(service: Service, world: World) -> Decision:
    """Decide one Service from one moment's facts; the same facts always give the same Decision."""
    found = eligibility.terms(service, world.cluster)
    if isinstance(found, Ineligible):
        return Decision(service.key, service.addresses, None, found.reason, found.detail)
    own = eligibility.candidates(found, service, world.cluster)
    may = _agreed_with_sharers(service, own, world)
    if not may:
        reason, detail = _why_nobody(service, own, world)
        return Decision(service.key, service.addresses, None, reason, detail)
    ranking = _ranked(service, found, may, world)
    if world.cluster.all_ours and _is_balanced(found):
        owner = _balanced(world).get(service.addresses[0])
        ranking = tuple(sorted(ranking, key=lambda node: node != owner))
    announce, reason, detail = _here(service, found.advertisements, ranking, world)
    return Decision(service.key, service.addresses, announce, reason, detail, ranking)


def _agreed_with_sharers(service: Service, own: tuple[NodeName, ...], world: World) -> tuple[NodeName, ...]:
    """The candidates that every Service at the same first address accepts; one that accepts nobody has no say."""
    may = own
    for key in world.sharers.get(service.addresses[0], ()):
        other = world.services.get(key)
        if other is None or key == service.key:
            continue
        found = eligibility.terms(other, world.cluster)
        if isinstance(found, Ineligible):
            continue
        accepted = frozenset(eligibility.candidates(found, other, world.cluster))
        if accepted:
            may = tuple(node for node in may if node in accepted)
    return may


def _ranked(service: Service, found: Terms, may: tuple[NodeName, ...], world: World) -> tuple[NodeName, ...]:
    """The candidates in the order of the election, but those last that are about to be of no use."""
    ranking = elect(service.addresses[0], may, eligibility.scores(found, world.cluster))
    if world.cluster.all_ours and (ending := _ending(service, world)):
        return tuple(sorted(ranking, key=lambda node: node in ending))
    return ranking


def _is_balanced(found: Terms) -> bool:
    return any(one.election is Election.BALANCED for one in found.advertisements)


@lru_cache(maxsize=2)  # A World is compared by identity; all decisions about one have this in common.
def _balanced(world: World) -> Mapping[IPAddress, NodeName]:
    """Who is to have each address that is to be balanced: pool by pool, among the nodes that are equally good for it."""
    best: dict[PoolName, dict[IPAddress, tuple[NodeName, ...]]] = {}
    for address, sharers in world.sharers.items():
        for service in (world.services[key] for key in sharers):
            found = eligibility.terms(service, world.cluster)
            if isinstance(found, Ineligible) or not _is_balanced(found):
                continue
            may = _agreed_with_sharers(service, eligibility.candidates(found, service, world.cluster), world)
            if may:
                scores, ending = eligibility.scores(found, world.cluster), _ending(service, world)
                ranking = _ranked(service, found, may, world)
                merit = [(node in ending, scores.get(node, 0)) for node in ranking]
                equal = tuple(node for node, one in zip(ranking, merit, strict=True) if one == merit[0])
                best.setdefault(found.pool, {})[address] = equal
                break
    return {address: node for pool in best.values() for address, node in spread(pool).items()}


def _ending(service: Service, world: World) -> frozenset[NodeName]:
    """The nodes where the last endpoint of a Local Service at the same first address is about to end.

    They still serve, and for MetalLB they are as good as any. But when such an endpoint ends, requests fail until the address
    has moved; so it moves before, if there is another node, and if no MetalLB speaker is there that would not follow.
    """
    sharers = (world.services.get(key) for key in {service.key, *world.sharers.get(service.addresses[0], ())})
    found = (one.ending_nodes for one in sharers if one is not None and one.policy is TrafficPolicy.LOCAL)
    return frozenset[NodeName]().union(*found)


def _why_nobody(service: Service, own: tuple[NodeName, ...], world: World) -> tuple[Reason, str]:
    if own:
        others = [key for key in world.sharers[service.addresses[0]] if key != service.key]
        return Reason.SHARERS_DISAGREE, f"{', '.join(own)} would do for {service.key}, but not for {', '.join(others)}"
    nodes = sorted(eligibility.electorate(world.cluster).standing)
    verdicts = [eligibility.judge(service, node, world) for node in nodes]
    refusals = [verdict for verdict in verdicts if isinstance(verdict, Ineligible)]
    reasons = {refusal.reason for refusal in refusals}
    reason = refusals[0].reason if len(reasons) == 1 else Reason.NO_CANDIDATE
    return reason, "; ".join(refusal.detail for refusal in refusals) or "no node is known"


def _here(
    service: Service, advertisements: tuple[L2Advertisement, ...], ranking: tuple[NodeName, ...], world: World
) -> tuple[Announce | None, Reason, str]:
    """What the ranking means on this node."""
    order = f"{ranking[0]} is first of {', '.join(ranking)} for {service.addresses[0]}"
    if world.me != ranking[0]:
        verdict = eligibility.judge(service, world.me, world)
        if isinstance(verdict, Ineligible):
            return None, verdict.reason, f"{verdict.detail}; {order}"
        return None, Reason.LOST_ELECTION, order
    if world.hold:
        return None, Reason.WAITING_FOR_MEMBERS, world.hold
    if world.isolation and service.addresses[0] not in world.kept:
        return None, Reason.ISOLATED, world.isolation
    reach = eligibility.electorate(world.cluster).reach
    wanted = interfaces.wanted([one.interfaces for one in advertisements if world.me in reach[one.name]])
    picks = {version: interfaces.pick(world.links, wanted, version) for version in {one.version for one in service.addresses}}
    served = tuple(address for address in service.addresses if picks[address.version].usable)
    if not served:
        return None, Reason.NO_USABLE_INTERFACE, "; ".join(pick.explanation for _, pick in sorted(picks.items()))
    usable = frozenset[InterfaceName]().union(*(pick.usable for pick in picks.values()))
    missing = [f"{one} is not announced: {picks[one.version].explanation}" for one in service.addresses if one not in served]
    return Announce(served, usable, on_every_interface=wanted is None), Reason.WON_ELECTION, "; ".join([order, *missing])


class Plan:
    """The decisions in force on this node. Written by reconcile.py only.

    Keeps an index from address to Services, so that a change costs what it touches; check_invariants() proves the index.
    """

    def __init__(self) -> None:
        self._decisions: dict[ServiceKey, Decision] = {}
        self._announced_for: dict[IPAddress, dict[ServiceKey, frozenset[InterfaceName]]] = {}

    @property
    def decisions(self) -> Mapping[ServiceKey, Decision]:
        """All decisions in force."""
        return self._decisions

    def adopt(self, decision: Decision) -> frozenset[IPAddress]:
        """Put a decision in force; the addresses whose interfaces may have changed."""
        touched = self._drop(decision.service)
        self._decisions[decision.service] = decision
        if decision.announce is not None:
            for address in decision.announce.addresses:
                self._announced_for.setdefault(address, {})[decision.service] = decision.announce.interfaces
                touched.add(address)
        return frozenset(touched)

    def forget(self, service: ServiceKey) -> frozenset[IPAddress]:
        """Drop the decision about a Service that is gone; the addresses whose interfaces may have changed."""
        touched = self._drop(service)
        self._decisions.pop(service, None)
        return frozenset(touched)

    def _drop(self, service: ServiceKey) -> set[IPAddress]:
        before = self._decisions.get(service)
        if before is None or before.announce is None:
            return set()
        for address in before.announce.addresses:
            del self._announced_for[address][service]
            if not self._announced_for[address]:
                del self._announced_for[address]
        return set(before.announce.addresses)

    def interfaces_of(self, address: IPAddress) -> frozenset[InterfaceName]:
        """Where an address is announced: the union over the Services that use it; empty if nowhere."""
        return frozenset[InterfaceName]().union(*self._announced_for.get(address, {}).values())

    def layer2(self) -> Mapping[IPAddress, frozenset[InterfaceName]]:
        """Every address that this node announces, with its interfaces."""
        return {address: self.interfaces_of(address) for address in self._announced_for}

    def services_at(self, address: IPAddress) -> tuple[ServiceKey, ...]:
        """The Services for whose sake an address is announced here, in name order."""
        return tuple(sorted(self._announced_for.get(address, {})))

    def check_invariants(self) -> None:
        """Assert that the index says what the decisions say."""
        expected: dict[IPAddress, dict[ServiceKey, frozenset[InterfaceName]]] = {}
        for key, decision in self._decisions.items():
            assert key == decision.service, f"decision about {decision.service} is kept under {key}"
            if decision.announce is not None:
                for address in decision.announce.addresses:
                    expected.setdefault(address, {})[key] = decision.announce.interfaces
        assert expected == self._announced_for, "the address index does not match the decisions"
