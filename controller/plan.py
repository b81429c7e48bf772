"""Which Services keep, get, lose or await an address. Pure: no clock, no I/O, no logs.

plan(world) decides everything from nothing; it is what a start does, and what tests compare with. Planner.handle decides
what a change touches: Services that changed, and, when an address became free, those that wait, the oldest first. What it
decided counts as done until the API server shows it or something else (controller.outbox).

The order is what keeps promises: first every Service that has an address is settled, the oldest first, so nobody takes
what another one holds; only then those without one are served, the oldest first.

Called by controller.reconcile.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cache
from types import MappingProxyType
from typing import Final

from config.model import Config, IPAddress, PoolName, ServiceKey
from controller.ipam.allocate import FAMILY_OF, Allocation, Refusal, Request, allocate, assign, free, full
from controller.ipam.ledger import Ledger
from controller.ipam.memory import Memory, Remembered
from controller.outbox import Outbox, Write, is_later
from controller.reason import Notice, Reason
from controller.world import NOTHING, Family, FamilyPolicy, Recorded, Service, Verdict, World, family_of, other_version


class Outcome(StrEnum):
    """What a decision does to a Service."""

    IGNORED = "ignored"
    """Not ours, or not a load balancer and nothing of ours on it."""
    KEPT = "kept"
    ASSIGNED = "assigned"
    RELEASED = "released"
    """It is no load balancer (any more) and has no address."""
    REFUSED = "refused"
    """It wants an address and has none, or keeps one although its request cannot be served."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What becomes of one Service, and why.

    Attributes:
        service: which one.
        outcome: what happens to it.
        reason: the one reason, and `detail` a sentence with the facts.
        recorded: the addresses that its status has to say, and the pool in its annotation.
        verdict: the condition that goes with them; None if it shall have none.
        happened: Events to emit once, now.
        complaint: an Event to emit when it differs from the last complaint about the Service.
        achieved: Events to emit once `recorded` is written.

    """

    service: ServiceKey
    outcome: Outcome
    reason: Reason
    detail: str
    recorded: Recorded = NOTHING
    happened: tuple[Notice, ...] = ()
    complaint: Notice | None = None
    achieved: tuple[Notice, ...] = ()
    verdict: Verdict | None = None

    @property
    def shown(self) -> Recorded:
        """Everything that the Service has to say."""
        return replace(self.recorded, verdict=self.verdict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What is new. None in `services` means that it is gone; no `config` or `quotas` means that they are as before.

    `memory` is what an earlier process remembered, told once, with the first Services. `now` is the time (Unix seconds).
    """

    services: Mapping[ServiceKey, Service | None] = field(default_factory=lambda: MappingProxyType({}))
    config: Config | None = None
    quotas: Mapping[str, int] | None = None
    memory: Mapping[ServiceKey, Remembered] = field(default_factory=lambda: MappingProxyType({}))
    now: float = 0.0


LACKING: Final = frozenset({Reason.POOL_EXHAUSTED, Reason.ADDRESS_IN_USE})
"""Refusals for which others are the cause."""


def plan(world: World) -> Mapping[ServiceKey, Decision]:
    """Decide everything from nothing. The reference for what Planner does step by step."""
    decisions = Planner(world.lb_class).handle(
        Change(services=world.services, config=world.config, quotas=world.quotas, memory=world.memory, now=world.now)
    )
    return {decision.service: decision for decision in decisions}


class Planner:
    """Decides step by step, and keeps what that needs: the Services, the ledger, who waits, what is not yet seen.

    Invariants: the ledger has exactly the addresses of the decisions; a Service waits only if it lacks an address.
    """

    def __init__(self, lb_class: str = "") -> None:
        self.lb_class = lb_class
        self.config: Config | None = None
        self.quotas: Mapping[str, int] = MappingProxyType({})
        self.services: dict[ServiceKey, Service] = {}
        self.decisions: dict[ServiceKey, Decision] = {}
        self.ledger = Ledger(Config())
        self.memory = Memory()
        self._waiting: set[ServiceKey] = set()
        self._outbox = Outbox()

    def handle(self, change: Change) -> list[Decision]:
        """Take in what is new, and decide what it touches. Before the first configuration nothing is decided."""
        for key, service in change.services.items():
            known = self.services.get(key)
            if known is not None and (service is None or service.uid != known.uid):
                self.ledger.keep(self.memory.bury(key, change.now))
            if service is None:
                self._forget(key)
            else:
                self.services[key] = service
        self._take_memory(change)
        raised = self._take_quotas(change.quotas)
        if change.config is not None:
            self.config = change.config
            self.ledger = Ledger(change.config)
            for _, remembered in self.memory.deleted():
                self.ledger.keep(remembered.addresses)
            self._waiting.clear()
            return self._decide(self.services.values())
        if self.config is None:
            return []
        anew = {key: self.services[key] for key in self._waiting if self.services[key].namespace in raised}
        return self._decide({**anew, **{key: one for key, one in change.services.items() if one is not None}}.values())

    def _take_memory(self, change: Change) -> None:
        """Take in what an earlier process remembered, and forget what has been remembered for long enough.

        What it noted of a Service that is gone, or has no address, is kept back for it: it was deleted, and perhaps made
        again, while nobody looked.
        """
        for key, entry in change.memory.items():
            service = self.services.get(key)
            had = service is None or (not service.recorded.addresses and (service.load_balancer or entry.until is not None))
            if had and key not in self.memory.entries:
                self.memory.restore(key, entry, change.now)
                self.ledger.keep(entry.addresses)
        for entry in self.memory.expire(change.now):
            self.ledger.let_go(entry.addresses)

    def _remember(self, service: Service, decision: Decision) -> None:
        """Note what a Service holds, if its addresses shall outlive it."""
        addresses = () if decision.outcome is Outcome.IGNORED else decision.recorded.addresses
        if addresses and service.keep_for_s is not None:
            self.memory.hold(service.key, addresses, service.keep_for_s)
        elif not self.memory.of_deleted(service.key):  # Else it has returned, and waits for what it had.
            self.memory.forget(service.key)

    def _let_go_of_kept(self, made: Mapping[ServiceKey, Decision]) -> bool:
        """Who has addresses now needs none kept back; whether there was somebody, so that others may be served."""
        if self.memory.wake_at() is None:
            return False
        served = [key for key, one in made.items() if self.ledger.addresses_of(key) and self.memory.of_deleted(key)]
        for key in served:
            self.ledger.let_go(self.memory.of_deleted(key))
            self.memory.forget(key)
        return bool(served)

    def _take_quotas(self, quotas: Mapping[str, int] | None) -> frozenset[str]:
        """Namespaces whose quota is another one now; who holds more than that keeps it."""
        if quotas is None:
            return frozenset()
        before, self.quotas = self.quotas, quotas
        return frozenset(name for name in {*before, *quotas} if before.get(name) != quotas.get(name))

    def pending(self, key: ServiceKey) -> Write | None:
        """What is to be written to a Service now; None if nothing is, or if another Service has to be written first."""
        service = self.services.get(key)
        return None if service is None else self._outbox.pending(service)

    def sent(self, write: Write) -> None:
        """Note that a write is on its way."""
        service = self.services.get(write.service)
        if service is not None and service.uid == write.uid:
            self._outbox.sent(write, service)

    def written(self, write: Write, version: str) -> None:
        """Note that a write succeeded and got this version."""
        service = self.services.get(write.service)
        if service is not None:
            self._outbox.written(write, version, service)

    def refused(self, write: Write) -> None:
        """Note that a write had no effect, for certain."""
        service = self.services.get(write.service)
        if service is not None:
            self._outbox.refused(write, service)

    def refresh(self, key: ServiceKey, version: str) -> list[Decision]:
        """Note that a Service has a newer version that differs in nothing a decision reads; an older one is ignored.

        Decides again if the newer version shows that what we had written is not there any more.
        """
        service = self.services.get(key)
        if service is None or not is_later(version, service.version):
            return []
        before = self._outbox.believed(service)
        self.services[key] = service = replace(service, version=version)
        if key not in self.decisions or self.decisions[key].outcome is Outcome.IGNORED:
            return []
        if self._outbox.believed(service) != before:
            return self._decide([service])
        self._outbox.observed(service)
        return []

    def read_again(self, now: Service) -> bool:
        """Take in a Service that was read after a conflict or a lost answer; false if it must be decided about first."""
        known = self.services.get(now.key)
        if known is None or replace(known, version="") != replace(now, version=""):
            return False
        self.refresh(now.key, now.version)
        if self.services[now.key].version == now.version:
            self._outbox.not_arrived(self.services[now.key])
        return True

    def is_blocked(self, key: ServiceKey) -> bool:
        """Whether another Service still shows, or may show, an address that this one is to get."""
        return self._outbox.is_blocked(key)

    def is_unresolved(self, key: ServiceKey) -> bool:
        """Whether a write of the Service was sent whose result is not known."""
        return self._outbox.is_unresolved(key)

    def take_unblocked(self) -> frozenset[ServiceKey]:
        """Services whose write waited for that of another one, and can be done now; each is reported once."""
        vanished = self._outbox.take_vanished()
        return frozenset(holder for address, key in vanished for holder in self.ledger.holders_of(address) if holder != key)

    @property
    def unseen(self) -> tuple[ServiceKey, ...]:
        """Services of which the API server has, or shall have, something else than was observed."""
        return self._outbox.unseen

    @property
    def waiting(self) -> list[ServiceKey]:
        """Those that would take an address, or a second one, if one became free; the oldest first."""
        return sorted(self._waiting, key=lambda key: self.services[key].age)

    def check_invariants(self) -> None:
        """The ledger agrees with the decisions, and those who wait lack an address."""
        self.ledger.check_invariants()
        held = dict(self.ledger.holdings())
        decided = {
            key: one.recorded.addresses
            for key, one in self.decisions.items()
            if one.recorded.addresses and one.outcome is not Outcome.IGNORED
        }
        assert {key: set(addresses) for key, addresses in held.items()} == {
            key: set(addresses) for key, addresses in decided.items()
        }
        assert all(len(held.get(key, ())) < 2 for key in self._waiting)
        self.ledger.check_kept(address for _, one in self.memory.deleted() for address in one.addresses)
        assert all(held.get(key, ()) == one.addresses for key, one in self.memory.entries.items() if one.until is None)
        assert not any(key in held for key, _ in self.memory.deleted())
        ours = (key for key, one in self.decisions.items() if one.outcome is not Outcome.IGNORED)
        self._outbox.check_invariants(self.services[key] for key in ours)

    def _forget(self, key: ServiceKey) -> None:
        self.services.pop(key, None)
        self.decisions.pop(key, None)
        self._waiting.discard(key)
        self.ledger.release(key)
        self._outbox.forget(key)

    def _decide(self, services: Iterable[Service]) -> list[Decision]:
        """Settle those that hold something, then serve those that do not; after that nothing free is wanted by anyone."""
        made: dict[ServiceKey, Decision] = {}
        seeking: dict[ServiceKey, tuple[Notice, ...]] = {}
        for service in sorted(services, key=self._holders_first):
            settled = self._settle(service)
            if isinstance(settled, Decision):
                made[service.key] = settled
                if service.key in self._waiting:
                    seeking[service.key] = ()
            else:
                seeking[service.key] = settled
        self._serve(seeking.keys() | (self._waiting if self.ledger.has_freed else self._concerned()), seeking, made)
        served = True
        while served:
            while self._let_go_of_kept(made):
                self._serve(self._waiting, seeking, made)
            # Says what stands in the way at the end. Who may only share what its namespace has may find something even now.
            served = self._serve(self._concerned(), seeking, made)
        self.ledger.forget_freed()
        return [self._conclude(decision) for decision in made.values()]

    def _serve(
        self,
        asked: AbstractSet[ServiceKey],
        seeking: Mapping[ServiceKey, tuple[Notice, ...]],
        made: dict[ServiceKey, Decision],
    ) -> bool:
        """Give those who want an address one, the oldest first; whether anybody got one."""
        served = False
        for service in sorted((self.services[key] for key in asked), key=_age):
            # All that was freed may be taken by now.
            if service.key in seeking or self.ledger.has_freed or self._is_concerned(service):
                had = self.ledger.addresses_of(service.key)
                if had:
                    made[service.key] = self._second_address(service, made.get(service.key) or self.decisions[service.key])
                else:
                    made[service.key] = self._seek(service, seeking.get(service.key, ()))
                served |= self.ledger.addresses_of(service.key) != had
        return served

    def _concerned(self) -> frozenset[ServiceKey]:
        """Those who wait and for whom something else may stand in the way now, although nothing became free."""
        if not self.ledger.has_moved and not self.ledger.has_filled and self.ledger.recounted.isdisjoint(self.quotas):
            return frozenset()
        return frozenset(key for key in self._waiting if self._is_concerned(self.services[key]))

    def _is_concerned(self, service: Service) -> bool:
        if service.wanted_addresses and self.ledger.has_moved:
            return True
        if service.namespace in self.quotas and service.namespace in self.ledger.recounted:
            return True
        # Who wants two addresses or none is refused by a pool that lacks one of them, and told when it lacks the other too.
        pair = len(service.cluster_ips) > 1 and service.policy is not FamilyPolicy.PREFER_DUAL
        return pair and (self.ledger.has_filled or (self.ledger.has_moved and bool(service.use.key)))

    def _room(self, service: Service) -> int | None:
        """How many addresses the namespace of the Service may hold beside those it holds; None if any number."""
        quota = self.quotas.get(service.namespace)
        return None if quota is None else quota - self.ledger.count_of(service.namespace)

    def _over_quota(self, service: Service, more: int) -> Refusal | None:
        """Why the namespace of the Service cannot have so many addresses more; None if it can."""
        room = self._room(service)
        if room is None or more <= room:
            return None
        quota = self.quotas[service.namespace]
        # Without a count: it would be another one each time that others come and go, and be written again to all who wait.
        detail = f'namespace "{service.namespace}" may have {quota} addresses and would have more'
        return Refusal(Reason.NAMESPACE_QUOTA, f"{detail} (annotation lb.metallb-py.io/max-addresses)")

    def _holders_first(self, service: Service) -> tuple[bool, tuple[str, ServiceKey]]:
        return (not self._outbox.believed(service).addresses, service.age)

    def _conclude(self, decision: Decision) -> Decision:
        """Remember the decision, and what has to be written."""
        key, service = decision.service, self.services[decision.service]
        if decision.outcome is Outcome.IGNORED:
            self._outbox.forget(key)
        else:
            verdict = _verdict(decision, self._outbox.believed(service), service.keep_problem)
            decision = replace(decision, verdict=verdict, complaint=decision.complaint or _complaint_about_keeping(service))
            self._outbox.wish(service, decision.shown, decision.achieved)
            self._outbox.observed(service)
        self._remember(service, decision)
        self.decisions[key] = decision
        return decision

    def _settle(self, service: Service) -> Decision | tuple[Notice, ...]:
        """Decide about a Service that needs no new address; else what has to be said before it seeks one."""
        self._waiting.discard(service.key)
        assert self.config is not None
        believed = self._outbox.believed(service)
        if not self._is_ours(service, believed):
            self.ledger.release(service.key)
            return self._ignored(service)
        if not service.load_balancer:
            return self._without(service, Outcome.RELEASED, Reason.NOT_LOAD_BALANCER, "it is not of type LoadBalancer")
        if not self.config.pools and not self.config.broken_pools:
            return self._without(service, Outcome.REFUSED, Reason.NO_POOLS, "no IPAddressPool is configured")
        if not service.cluster_ips:
            return self._without(service, Outcome.REFUSED, Reason.NO_CLUSTER_IP, "it has no cluster IP")
        if service.policy is FamilyPolicy.REQUIRE_DUAL and len(service.cluster_ips) < 2:
            detail = "ipFamilyPolicy RequireDualStack needs two cluster IPs"
            complaint = Notice("Warning", "not enough clusterips", f'Failed to allocate IP for "{service.key}": {detail}')
            return self._without(service, Outcome.REFUSED, Reason.NOT_ENOUGH_CLUSTER_IPS, detail, complaint)
        return self._hold(service, believed) if believed.addresses else self._with_known_family(service)

    def _is_ours(self, service: Service, believed: Recorded) -> bool:
        """Whether the class of the Service is ours.

        A Service that stops being a load balancer loses its class, so then what we have put on it decides.
        """
        if service.load_balancer:
            return service.load_balancer_class == self.lb_class
        states = (believed, service.recorded)
        with_address = bool(self.ledger.addresses_of(service.key)) or any(
            state.pool is not None or state.verdict is not None for state in states
        )
        return with_address or (service.load_balancer_class == self.lb_class and any(state.addresses for state in states))

    def _with_known_family(self, service: Service) -> Decision | tuple[Notice, ...]:
        """A Service without an address: it seeks one if we can tell of which family."""
        self.ledger.release(service.key)
        if family_of(service.cluster_ips) is not None:
            return ()
        detail = f"the family of its cluster IPs {_list(service.cluster_ips)} is unknown"
        complaint = Notice("Warning", "AllocationFailed", f'Failed to allocate IP for "{service.key}": {detail}')
        return self._without(service, Outcome.REFUSED, Reason.UNKNOWN_FAMILY, detail, complaint)

    def _hold(self, service: Service, believed: Recorded) -> Decision | tuple[Notice, ...]:
        """A Service with addresses: it keeps them if it may, else it seeks others."""
        assert self.config is not None
        held, family = believed.addresses, family_of(service.cluster_ips)
        said: tuple[Notice, ...] = ()
        if family_of(held) is None:
            note = f'Failed to tell the IP family of {_list(held)} in the status of "{service.key}"'
            said = (Notice("Warning", "nolbIPsIPFamily", note),)
        if family is None:
            detail = f"the family of its cluster IPs {_list(service.cluster_ips)} is unknown"
            complaint = Notice("Warning", "noclusterIPsIPFamily", f'"{service.key}": {detail}')
            return self._stuck(service, believed, Reason.UNKNOWN_FAMILY, detail, complaint)
        partly_dual = family is Family.DUAL and service.policy is FamilyPolicy.PREFER_DUAL
        if family_of(held) is not family and not (partly_dual and family_of(held) is not None):
            return self._give_up(service, said)
        return self._hold_in_pool(service, believed)

    def _hold_in_pool(self, service: Service, believed: Recorded) -> Decision | tuple[Notice, ...]:
        """A Service whose addresses are of the right family: does a pool still allow them, and does the user want them?"""
        held = believed.addresses
        broken = self._came_from_broken_pool(believed)
        found: Allocation | Refusal = assign(service.key, service.labels, held, self.ledger, service.use)
        if broken:
            clash = self.ledger.conflict(service.key, held, service.use)
            found = Refusal(Reason.ADDRESS_IN_USE, str(clash)) if clash else Allocation(held, broken)
        if isinstance(found, Refusal):
            note = f'current IP of "{service.key}" not allowed by config, will try another: {found.detail}'
            return self._give_up(service, (Notice("Normal", "ClearAssignment", note),))
        if service.wanted_pool and service.wanted_pool != found.pool:
            return self._give_up(service, ())
        if service.request_problem:
            complaint = Notice(
                "Warning", "LoadBalancerFailed", f'invalid request of "{service.key}": {service.request_problem}'
            )
            return self._stuck(service, believed, Reason.BAD_REQUEST, service.request_problem, complaint)
        if service.wanted_addresses and set(service.wanted_addresses) != set(held):
            return self._give_up(service, ())
        kept = self._keep(service, Allocation(service.wanted_addresses or held, found.pool))
        if broken:
            detail = f"{kept.detail}, of which no valid edition is known"
            return replace(kept, reason=Reason.HOLDS_FROM_BROKEN_POOL, detail=detail)
        if len(held) == 1 and family_of(service.cluster_ips) is Family.DUAL and not service.wanted_addresses:
            self._waiting.add(service.key)
        return kept

    def _came_from_broken_pool(self, believed: Recorded) -> PoolName | None:
        """The broken pool that gave the addresses, if they are in no pool we understand."""
        assert self.config is not None
        understood = all(self.ledger.pool_of(address) is not None for address in believed.addresses)
        return believed.pool if believed.pool in self.config.broken_pools and not understood else None

    def _keep(self, service: Service, what: Allocation) -> Decision:
        self.ledger.claim(service.key, what.addresses, service.use)
        return Decision(
            service=service.key,
            outcome=Outcome.KEPT,
            reason=Reason.HOLDS_ADDRESS,
            detail=f'it holds {_list(what.addresses)} from pool "{what.pool}"',
            recorded=Recorded(what.addresses, what.pool),
        )

    def _second_address(self, service: Service, kept: Decision) -> Decision:
        """What becomes of a Service that keeps one address and prefers two: the other one comes from the same pool."""
        (first,), pool = kept.recorded.addresses, kept.recorded.pool
        assert pool is not None
        version = other_version(first.version)
        request = Request(service.key, FAMILY_OF[version], service.labels, use=service.use, room=self._room(service))
        second = free(pool, request.family, request, self.ledger)
        if not second:
            over = self._over_quota(service, 1)
            lack = full(pool, version, self.ledger, service.use) if over is None else over.detail
            note = f'no additional IP for "{service.key}": {lack}'
            return replace(kept, complaint=Notice("Normal", "AdditionalAssignFailed", note))
        self._waiting.discard(service.key)
        both = self._keep(service, Allocation((first, *second), pool))
        said = Notice("Normal", "IPAllocated", f'Assigned additional IP "{_list(second)}"')
        return replace(both, outcome=Outcome.ASSIGNED, reason=Reason.ASSIGNED, achieved=(said, *_deprecations(service)))

    def _give_up(self, service: Service, said: tuple[Notice, ...]) -> tuple[Notice, ...]:
        self.ledger.release(service.key)
        return said

    def _seek(self, service: Service, said: tuple[Notice, ...]) -> Decision:
        """Give the Service an address, or say why there is none and let it wait."""
        found = self._allocation(service)
        if isinstance(found, Refusal):
            self._waiting.add(service.key)
            complaint = Notice("Warning", "AllocationFailed", f'Failed to allocate IP for "{service.key}": {found.detail}')
            return replace(self._without(service, Outcome.REFUSED, found.reason, found.detail, complaint), happened=said)
        self._waiting.discard(service.key)
        self.ledger.claim(service.key, found.addresses, service.use)
        back = found.addresses == self.memory.of_deleted(service.key)
        quoted = " ".join(f'"{address}"' for address in found.addresses)
        decision = Decision(
            service=service.key,
            outcome=Outcome.ASSIGNED,
            reason=Reason.ASSIGNED,
            detail=f'it got {_list(found.addresses)} {"back " if back else ""}from pool "{found.pool}"',
            recorded=Recorded(found.addresses, found.pool),
            happened=said,
            achieved=(Notice("Normal", "IPAllocated", f"Assigned IP [{quoted}]"), *_deprecations(service)),
        )
        if len(found.addresses) == len(service.cluster_ips) or service.wanted_addresses:
            return decision
        self._waiting.add(service.key)
        if not back:
            return decision
        # It had one address when it was deleted, and prefers two now.
        both = self._second_address(service, decision)
        return replace(both, happened=said, achieved=tuple(dict.fromkeys((*decision.achieved, *both.achieved))))

    def _allocation(self, service: Service) -> Allocation | Refusal:
        family = family_of(service.cluster_ips)
        assert family is not None, service.key
        if service.request_problem:
            return Refusal(Reason.BAD_REQUEST, service.request_problem)
        alone: tuple[int, ...] = ()
        if family is Family.DUAL and service.policy is FamilyPolicy.PREFER_DUAL:
            alone = (service.primary, other_version(service.primary))
        request = Request(
            service.key,
            family,
            service.labels,
            service.wanted_addresses,
            service.wanted_pool,
            alone,
            service.use,
            self.memory.of_deleted(service.key),
            self._room(service),
        )
        found = allocate(request, self.ledger)
        if service.wanted_addresses and (isinstance(found, Allocation) or found.reason in LACKING):
            return self._over_quota(service, self.ledger.count_more(service.namespace, service.wanted_addresses)) or found
        if isinstance(found, Refusal) and found.reason in LACKING:
            # Of two reasons the one counts that does not come and go with what others do.
            return self._over_quota(service, 1 if alone else len(service.cluster_ips)) or found
        return found

    def _without(
        self, service: Service, outcome: Outcome, reason: Reason, detail: str, complaint: Notice | None = None
    ) -> Decision:
        """A decision that leaves the Service without an address."""
        self.ledger.release(service.key)
        return Decision(service=service.key, outcome=outcome, reason=reason, detail=detail, complaint=complaint)

    def _stuck(self, service: Service, believed: Recorded, reason: Reason, detail: str, complaint: Notice) -> Decision:
        """A decision that leaves everything as it is and says what is wrong; unless another one holds the addresses."""
        if self.ledger.conflict(service.key, believed.addresses, service.use) is not None:
            return self._without(service, Outcome.REFUSED, reason, detail, complaint)
        self.ledger.claim(service.key, believed.addresses, service.use)
        return Decision(
            service=service.key,
            outcome=Outcome.REFUSED,
            reason=reason,
            detail=detail,
            recorded=replace(believed, verdict=None),
            complaint=complaint,
        )

    def _ignored(self, service: Service) -> Decision:
        """A decision not to touch a Service."""
        other = f"its loadBalancerClass is {service.load_balancer_class!r}, ours is {self.lb_class!r}"
        reason, detail = (
            (Reason.OTHER_CLASS, other)
            if service.load_balancer
            else (Reason.NOT_LOAD_BALANCER, "it is not of type LoadBalancer")
        )
        return Decision(service=service.key, outcome=Outcome.IGNORED, reason=reason, detail=detail, recorded=service.recorded)


def _verdict(decision: Decision, believed: Recorded, problem: str) -> Verdict | None:
    """The condition that a decision asks for; `problem` is what else is wrong with the Service.

    A Service that keeps what it has and carries no condition of ours (it was there before us) is not written for one, unless
    there is a problem.
    """
    has, and_problem = decision.recorded, f"; {problem}" if problem else ""
    match decision.outcome:
        case Outcome.REFUSED:
            return Verdict(bool(has.addresses), _word(decision.reason), decision.detail + and_problem)
        case Outcome.KEPT if believed == has and not problem:
            return None
        case Outcome.KEPT | Outcome.ASSIGNED:
            held = f'{_list(has.addresses)} from pool "{has.pool}"'
            return Verdict(True, _word(Reason.HOLDS_ADDRESS), held + and_problem)
        case _:
            return None


def _complaint_about_keeping(service: Service) -> Notice | None:
    if not service.keep_problem or not service.load_balancer:
        return None
    return Notice("Warning", "KeepAddressInvalid", f'the address of "{service.key}" will not be kept: {service.keep_problem}')


@cache
def _word(reason: Reason) -> str:
    """A reason as conditions write it: one word in camel case."""
    return "".join(part.capitalize() for part in reason.value.split("_"))


def _age(service: Service) -> tuple[str, ServiceKey]:
    return service.age


def _list(addresses: Iterable[IPAddress]) -> str:
    return ", ".join(map(str, addresses))


def _deprecations(service: Service) -> tuple[Notice, ...]:
    return tuple(
        Notice(
            "Warning", "deprecatedAnnotation", f"Service annotation {key} is deprecated, use metallb.io/{key.partition('/')[2]}"
        )
        for key in service.deprecated_annotations
    )
