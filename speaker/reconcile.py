"""The loop of the speaker: look at the world, decide what changed for layer 2 and BGP alike, carry it out, report.

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
from speaker.bgp.announcer import Announcer
from speaker.claims import Claim, Claims, Defend, Lost, Speakers, Tell
from speaker.claims import Effect as ClaimEffect
from speaker.handover import Handover, Heard, Release, Settle, Yield
from speaker.layer2 import interfaces
from speaker.layer2.engine import Engine
from speaker.layer2.responder import Claimed
from speaker.metrics import Metrics
from speaker.observe import Observer, Stores
from speaker.plan import Decision, Plan, decide
from speaker.reason import Reason
from speaker.status import Reporter
from speaker.world import Link, World
from telemetry.log import Logger


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is looked at beside the stores, asked anew each time. `members` gives None if gossip is disabled."""

    members: Callable[[], frozenset[NodeName] | None]
    all_ours: Callable[[], bool]
    hold: Callable[[], str]
    isolation: Callable[[], str]
    speakers: Callable[[], Mapping[bytes, NodeName]]
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
        bgp: Announcer | None = None,
    ) -> None:
        self._bgp = bgp
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
        self._handover = Handover()
        self._handover_timer: asyncio.TimerHandle | None = None
        self._leaving = False
        self._kept: frozenset[IPAddress] = frozenset()
        self._handed_over = asyncio.Event()
        self._announce_again = False
        self._died_at: dict[NodeName, float] = {}
        self._claims = Claims()
        self._claims_timer: asyncio.TimerHandle | None = None
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
            if self._leaving:
                return  # What is owned now is what is to be handed over.
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
        isolation = self._around.isolation()
        if not isolation:
            self._kept = frozenset()
        elif not self._observer.world.isolation:
            self._kept = frozenset(self._engine.owned().keys() - self._handover.successors.keys())
        links, compiled = self._observer.links, self._observer.compiled
        changes = self._observer.look(
            members=self._around.members(),
            all_ours=self._around.all_ours(),
            hold=self._around.hold(),
            links=self._around.links(),
            refused=self._engine.refused(),
            isolation=isolation,
            kept=self._kept,
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
        if self._bgp is not None:
            self._bgp.look(world.cluster.config)

    def _decide_some(self) -> None:
        """Decide one portion and carry it out."""
        world = self._observer.world
        keys = self._agenda.take(len(eligibility.electorate(world.cluster).candidates))
        changed: list[tuple[ServiceKey, Decision | None, Decision | None]] = []
        touched: set[IPAddress] = set()
        heirs: dict[IPAddress, NodeName] = {}
        for key in keys:
            before, service = self.plan.decisions.get(key), world.services.get(key)
            if self._bgp is not None:
                self._bgp.decide(key, service, world)
            after = None if service is None else decide(service, world)
            if after == before:
                continue
            touched |= self.plan.forget(key) if after is None else self.plan.adopt(after)
            changed.append((key, before, after))
            if before is not None:
                touched.update(address for address in before.addresses if address in self._handover)
                if after is not None and after.winner is not None and after.winner != world.me:
                    heirs |= {address: after.winner for address in before.addresses if address in after.addresses}
        self._measure(changed)
        self._own(touched, heirs)
        if self._bgp is not None:
            self._bgp.carry_out(all_decided=not self._agenda and self._stores.bgp_known)
        for key, before, after in changed:
            self._report(key, before, after)
        if not self._agenda and not world.hold:
            self._reporter.plan_complete()
            if self._announce_again:
                self._announce_again = False
                self._engine.announce(self._engine.owned(), once=True)

    def _measure(self, changed: Sequence[tuple[ServiceKey, Decision | None, Decision | None]]) -> None:
        """Say how long deciding took about what a node that died had and is ours now."""
        if not self._died_at:
            return
        now = asyncio.get_running_loop().time()
        for _, before, after in changed:
            died_at = None if before is None or before.winner is None else self._died_at.get(before.winner)
            if died_at is not None and after is not None and after.announce is not None:
                self._metrics.takeover_decided(after.announce.addresses, now - died_at)
        if not self._agenda:
            self._died_at.clear()  # All that it had has been decided.

    def _own(self, touched: set[IPAddress], heirs: Mapping[IPAddress, NodeName]) -> None:
        """Take and give up addresses; what another node is to have is answered until that node has announced it."""
        owned = self._engine.owned()
        news: dict[IPAddress, frozenset[InterfaceName]] = {}
        given: dict[IPAddress, NodeName] = {}
        for address in sorted(touched, key=_by_family):
            now = self.plan.interfaces_of(address)
            if not now and address in owned and address in heirs:
                given[address] = heirs[address]
            elif now != owned.get(address, frozenset()) or address in self._handover:
                news[address] = now
        back = [address for address, now in news.items() if now and address in self._handover]
        self._handover.handle(Settle(frozenset(news)), 0.0)
        self._claims.handle(Lost(frozenset(given) | {address for address, now in news.items() if not now}), 0.0)
        if news:
            self._engine.own(news)
        if back:
            self._engine.announce(back)
        if given:
            self._give(given)

    def _give(self, given: Mapping[IPAddress, NodeName]) -> None:
        self._engine.fade(given)
        self._release(self._handover.handle(Yield(given), asyncio.get_running_loop().time()))
        self._arm()

    def heard(self, claimed: Claimed) -> None:
        """Another machine spoke for an address that is owned here; called by the engine."""
        now = asyncio.get_running_loop().time()
        disputed = claimed.address not in self._handover
        speakers = self._around.speakers()
        if claimed.to_all:  # An answer may be that of the owner before, to what was announced here.
            self._release(self._handover.handle(Heard(claimed.address, speakers.get(claimed.mac)), now))
        if disputed:
            if claimed.mac not in speakers:
                self._metrics.foreign_claim(claimed.address)
            self._claims.handle(Speakers(speakers, self._around.members() or frozenset()), now)
            self._settle(self._claims.handle(Claim(claimed.address, claimed.mac, claimed.interface), now))

    def died(self, node: NodeName) -> None:
        """A member was declared dead just now."""
        self._died_at[node] = asyncio.get_running_loop().time()

    def reunited(self) -> None:
        """A member that was lost without a word is there again, and may have owned what is owned here: say so once more."""
        self._announce_again = True
        self._dirty.set()

    def _settle(self, effects: Sequence[ClaimEffect]) -> None:
        """Answer claims that are disputed, and tell of them."""
        defended = [one.address for one in effects if isinstance(one, Defend)]
        if defended:
            self._engine.announce(defended, once=True)
        for one in effects:
            if isinstance(one, Tell):
                self._tell(one)
        at = self._claims.wake_at()
        if at is not None and self._claims_timer is None:
            self._claims_timer = asyncio.get_running_loop().call_at(at, self._claims_due)

    def _claims_due(self) -> None:
        self._claims_timer = None
        self._settle(self._claims.tick(asyncio.get_running_loop().time()))

    def _tell(self, one: Tell) -> None:
        me, mac = self._observer.world.me, one.mac.hex(":")
        facts = {"address": str(one.address), "interface": one.interface, "mac": mac, "count": one.count}
        if one.speaker is not None:
            self._log.warning("address_claimed_by_speaker", node=one.speaker, **facts)
            return
        self._log.warning("address_claimed_by_stranger", **facts)
        for service in self.plan.services_at(one.address):
            text = f'{mac} on {one.interface} claims {one.address}, which is announced from node "{me}"'
            self._reporter.conflict(service, text)

    def _release(self, released: Sequence[Release]) -> None:
        if released:
            self._engine.own({one.address: frozenset() for one in released})
        for one in released:
            self._log.info(
                "address_handed_over",
                address=str(one.address),
                to=one.to,
                cause=one.cause.value,
                waited_s=round(one.waited_s, 4),
            )
        if self._leaving and not self._handover:
            self._handed_over.set()

    def _arm(self) -> None:
        at = self._handover.wake_at()
        if at is not None and self._handover_timer is None:
            self._handover_timer = asyncio.get_running_loop().call_at(at, self._wait_no_longer)

    def _wait_no_longer(self) -> None:
        self._handover_timer = None
        self._release(self._handover.tick(asyncio.get_running_loop().time()))
        self._arm()

    async def hand_over_all(self) -> None:
        """Decide nothing more, and return when whoever is next in line has announced what this node owns, or waiting ended.

        What nobody can take over is answered until the engine is closed.
        """
        self._leaving = True
        self._dirty.set()
        me = self._observer.world.me
        given: dict[IPAddress, NodeName] = {}
        for decision in self.plan.decisions.values():
            heir = next((node for node in decision.ranking if node != me), None)
            if decision.announce is not None and heir is not None:
                given |= dict.fromkeys(decision.announce.addresses, heir)
        self._give({address: heir for address, heir in given.items() if address in self._engine.owned()})
        if self._handover:
            await self._handed_over.wait()

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

    def _conflicts(self) -> Mapping[str, Any]:
        """Who else claims what is owned here."""
        now = asyncio.get_running_loop().time()
        found = self._claims.conflicts(now)
        return {
            str(address): [
                {
                    "mac": mac.hex(":"),
                    "interface": one.interface,
                    "speaker": one.speaker,
                    "count": one.count,
                    "seconds_ago": round(now - one.last_s, 1),
                }
                for mac, one in found[address].items()
            ]
            for address in sorted(found, key=_by_family)
        }

    @property
    def world(self) -> World:
        """The moment that was looked at last."""
        return self._observer.world

    def report(self) -> Mapping[str, Any]:
        """World and plan for /status."""
        world = self._observer.world
        standing = eligibility.electorate(world.cluster).standing
        return {
            **({} if self._bgp is None else {"bgp": self._bgp.report()}),
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
                "handover": {
                    str(address): to
                    for address, to in sorted(self._handover.successors.items(), key=lambda one: _by_family(one[0]))
                },
                "services": {key: _decision(one) for key, one in sorted(self.plan.decisions.items())},
                "conflicts": self._conflicts(),
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
