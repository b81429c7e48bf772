"""The loop of the speaker: look at the world, decide what changed, own what was won, report.

main() runs it as one task. It is the only writer of the Plan. A decision is carried out in the same turn of the loop in which
it was made: from a watch event to the first gratuitous ARP nothing waits. Work comes in portions bounded by count, and between
two portions the gossip and the answers to ARP get their turn. What is announced stays announced while nothing new is heard.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from config.model import InterfaceName, IPAddress, NodeName, ServiceKey
from config.problem import Problem, Severity
from speaker import eligibility
from speaker.agenda import Agenda
from speaker.layer2 import interfaces
from speaker.layer2.engine import Engine
from speaker.metrics import Metrics
from speaker.observe import Observer, Stores
from speaker.plan import Decision, Plan, decide
from speaker.reason import Reason
from speaker.status import Reporter
from speaker.world import Link
from telemetry.log import Logger


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is looked at beside the stores, asked anew each time. `members` gives None if gossip is disabled."""

    members: Callable[[], frozenset[NodeName] | None]
    hold: Callable[[], str]
    links: Callable[[], Sequence[Link]]
    links_known: Callable[[], bool]


class Reconciler:
    """Owns the Plan and keeps layer 2 and the reports in step with it."""

    def __init__(
        self,
        stores: Stores,
        observer: Observer,
        around: Surroundings,
        engine: Engine,
        reporter: Reporter,
        metrics: Metrics,
        *,
        dirty: asyncio.Event,
        log: Logger,
        problems: Callable[[Sequence[Problem]], None] = lambda _: None,
    ) -> None:
        self._tell_problems = problems
        self._stores = stores
        self._observer = observer
        self._around = around
        self._engine = engine
        self._reporter = reporter
        self._metrics = metrics
        self._dirty = dirty
        self._log = log
        self._agenda = Agenda()
        self._problems_said: frozenset[str] = frozenset()
        self._waiting_said: tuple[str, ...] = ()
        self.plan = Plan()
        self.caches_complete = asyncio.Event()
        """Set once everything that a decision needs has been heard of once."""

    async def run(self) -> None:
        """Reconcile for ever."""
        while True:
            if not self._agenda:
                await self._dirty.wait()
            self._dirty.clear()
            if self._complete():
                self._look()
                self._decide_some()
            await asyncio.sleep(0)

    def _complete(self) -> bool:
        if self.caches_complete.is_set():
            return True
        waiting = self._stores.waiting_for() + (() if self._around.links_known() else ("links",))
        if waiting:
            if waiting != self._waiting_said:
                self._waiting_said = waiting
                self._log.info("waiting_for_lists", kinds=list(waiting))
            return False
        self._log.info("caches_complete")
        self.caches_complete.set()
        return True

    def _look(self) -> None:
        links, compiled = self._observer.links, self._observer.compiled
        changes = self._observer.look(
            members=self._around.members(),
            hold=self._around.hold(),
            links=self._around.links(),
            refused=self._engine.refused(),
        )
        world = self._observer.world
        if self._observer.compiled is not compiled:
            self._say_problems()
        if self._observer.links != links:
            refused = self._engine.refused()
            self._engine.show(self._observer.links)
            if self._engine.refused() != refused:
                self._dirty.set()  # The next look knows it.
        if changes:
            self._metrics.updates.increase()
            self._agenda.add(changes, self.plan.decisions, world.services, world.me)

    def _decide_some(self) -> None:
        """Decide one portion and carry it out."""
        world = self._observer.world
        keys = self._agenda.take(len(eligibility.electorate(world.cluster).candidates))
        changed: list[tuple[ServiceKey, Decision | None, Decision | None]] = []
        touched: set[IPAddress] = set()
        for key in keys:
            before, service = self.plan.decisions.get(key), world.services.get(key)
            after = None if service is None else decide(service, world)
            if after == before:
                continue
            touched |= self.plan.forget(key) if after is None else self.plan.adopt(after)
            changed.append((key, before, after))
        self._own(touched)
        for key, before, after in changed:
            self._report(key, before, after)
        if not self._agenda and not world.hold:
            self._reporter.plan_complete()

    def _own(self, touched: set[IPAddress]) -> None:
        owned = self._engine.owned()
        news: dict[IPAddress, frozenset[InterfaceName]] = {}
        for address in sorted(touched, key=_by_family):
            now = self.plan.interfaces_of(address)
            if now != owned.get(address, frozenset()):
                news[address] = now
        if news:
            self._engine.own(news)

    def _report(self, key: ServiceKey, before: Decision | None, after: Decision | None) -> None:
        """Log, count and write a change of mind. The reasons of those who announce nothing are in /status only."""
        old = frozenset() if before is None or before.announce is None else frozenset(before.announce.addresses)
        new = frozenset() if after is None or after.announce is None else frozenset(after.announce.addresses)
        me = self._observer.world.me
        for address in sorted(old - new, key=_by_family):
            reason, detail = (Reason.SERVICE_DELETED, "") if after is None else (after.reason, after.detail)
            self._log.info("address_withdrawn", address=str(address), service=key, node=me, reason=reason.value, detail=detail)
        for address in sorted(new - old, key=_by_family):
            assert after is not None
            was = None if before is None else before.winner
            self._log.info(
                "address_announced",
                address=str(address),
                service=key,
                node=me,
                was=was,
                reason=after.reason.value,
                detail=after.detail,
            )
        self._metrics.withdrawn(key, old - new)
        self._metrics.announced(key, new - old)
        if after is not None and after.reason is Reason.NO_USABLE_INTERFACE:
            self._log.warning("announce_failed", service=key, detail=after.detail)
        self._reporter.changed(key, before, after)

    def _say_problems(self) -> None:
        """Log what is wrong with the configuration, once for each problem."""
        compiled = self._observer.compiled
        self._metrics.config_loaded.set(1)
        self._metrics.config_stale.set(1 if compiled.stale else 0)
        for problem in compiled.problems:
            if str(problem) in self._problems_said:
                continue
            if problem.severity is Severity.ERROR:
                self._log.error("failed to parse the configuration", problem=str(problem))
            else:
                self._log.warning("configuration_questionable", problem=str(problem))
        self._problems_said = frozenset(str(problem) for problem in compiled.problems)
        self._tell_problems(compiled.problems)

    def report(self) -> Mapping[str, Any]:
        """World and plan for /status."""
        world = self._observer.world
        standing = eligibility.electorate(world.cluster).standing
        return {
            "world": {
                "nodes": {
                    name: {"candidate": verdict is eligibility.ELIGIBLE, "detail": getattr(verdict, "detail", "")}
                    for name, verdict in standing.items()
                },
                "links": [
                    {
                        "name": link.name,
                        "mac": link.mac.hex(":"),
                        "usable": (why := interfaces.why_not(link)) is None,
                        "detail": why or "",
                    }
                    for link in world.links
                ],
                "waiting_for": list(self._stores.waiting_for()),
                "problems": sorted(self._problems_said),
            },
            "plan": {
                "pending": len(self._agenda),
                "services": {key: _decision(one) for key, one in sorted(self.plan.decisions.items())},
                "owned": {
                    str(address): sorted(names)
                    for address, names in sorted(self._engine.owned().items(), key=lambda one: _by_family(one[0]))
                },
            },
        }


def _by_family(address: IPAddress) -> tuple[int, int]:
    return address.version, int(address)


def _decision(one: Decision) -> Mapping[str, Any]:
    """A decision as /status shows it."""
    return {
        "addresses": [str(address) for address in one.addresses],
        "announcing": one.announce is not None,
        "interfaces": sorted(one.announce.interfaces) if one.announce is not None else [],
        "winner": one.winner,
        "ranking": list(one.ranking),
        "reason": one.reason.value,
        "sentence": one.reason.sentence,
        "detail": one.detail,
    }
