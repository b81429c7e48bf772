"""The controller's loop: something changed → observe → plan → say and write.

run() is woken by the reflectors through one asyncio.Event. A pass is synchronous: it takes what changed out of the stores,
lets the plan decide, emits Events for what has to be said and hands writes to the StatusWriter, which works beside it.
Nothing is decided before every reflector has its first complete list. It owns the only Planner.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from config.compile import Compiled, compile_config
from config.cross import NATIVE, Surroundings
from config.model import Config, ObjectRef, ServiceKey
from config.problem import Problem, Severity, as_json
from controller import observe
from controller.apply import Recorder, StatusWriter, reference
from controller.metrics import Standing, Tally
from controller.observe import Stores
from controller.outbox import Write
from controller.plan import Change, Decision, Outcome, Planner
from controller.pool_status import PoolStatuses
from controller.reason import Notice
from controller.remembered import RememberedAddresses
from controller.world import Service
from kube import configuration_state
from kube.client import KubeClient
from kube.configuration_state import StateKeeper
from kube.errors import KubeError
from telemetry.log import Logger

SAID_CONFIGURATION: Final = "failed to parse the configuration"
"""Operators and tests look for this text in the log."""


OWN_KINDS: Final = frozenset({"IPAddressPool", "Community"})
"""What the controller's ConfigurationState is about: what is wrong with peers and advertisements is the speakers' to say."""


class Reconciler:
    """Keeps the statuses of Services as the plan wants them. Implements controller.apply.Source for its writer."""

    def __init__(
        self,
        client: KubeClient,
        stores: Stores,
        recorder: Recorder,
        log: Logger,
        *,
        namespace: str,
        lb_class: str = "",
        leads: Callable[[], bool] = lambda: True,
        pod_name: str = "",
        bgp_type: str = NATIVE,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.tally = Tally()
        self.planner = Planner(lb_class)
        self.writer = StatusWriter(client, self)
        self.pool_statuses = PoolStatuses(client, stores, lambda: self.planner.ledger, log, namespace=namespace)
        self.states = StateKeeper(client, configuration_state.CONTROLLER, log, namespace=namespace, pod_name=pod_name)
        self.remembered = RememberedAddresses(client, lambda: self.planner.memory, log, namespace=namespace)
        self._clock = clock
        self._bgp_type = bgp_type
        self._stores = stores
        self._recorder = recorder
        self._log = log
        self._compiled = Compiled(Config(), (), {})
        self._ready = False
        self._reported_known = False
        self._anew = True
        self._leads = leads
        self._standing_by = False
        self._namespaces: Mapping[Any, Any] | None = None
        self._unreadable: Mapping[str, str] = {}
        self._complaints: dict[ServiceKey, Notice] = {}
        self._problems: dict[ObjectRef, tuple[Problem, ...]] = {}
        self._unfinished: dict[ServiceKey, Write] = {}

    async def run(self) -> None:
        """Reconcile for ever. Started again after a failure, it looks at everything anew: what it had taken may be lost."""
        self._anew = True
        self._stores.dirty.set()
        while True:
            await self._until_due()
            self._stores.dirty.clear()
            self.reconcile()

    async def _until_due(self) -> None:
        """Until something changed, or the time is over for which an address is kept back."""
        at = self.planner.memory.wake_at() if self._may_act() else None
        try:
            async with asyncio.timeout(None if at is None else max(0.0, at - self._clock())):
                await self._stores.dirty.wait()
        except TimeoutError:
            pass

    def stand_by(self) -> None:
        """Decide and write nothing from now on: another process leads. The stores stay warm."""
        self._standing_by = True
        self.planner = Planner(self.planner.lb_class)
        self._namespaces = None
        self._complaints.clear()
        self._unfinished.clear()
        self.writer.abandon()
        self.pool_statuses.stand_by()
        self.states.stand_by()
        self.remembered.stand_by()

    def take_over(self) -> None:
        """Decide and write from now on; everything is looked at anew."""
        self._standing_by = False
        self._anew = True
        self._stores.dirty.set()

    def _may_act(self) -> bool:
        return not self._standing_by and self._leads()

    def reconcile(self) -> None:
        """One pass over everything that changed since the last one."""
        if not self._may_act():
            return
        if not self._ready:
            if self._stores.unsynced:
                return
            self._ready = True
            self._log.info("caches_filled", services=len(self._stores.services), pools=len(self._stores.pools))
        config, quotas = self._configuration(), self._quotas()
        changed: frozenset[str] = self._stores.services.take_changed()
        if self._anew:
            changed |= self._stores.services.snapshot().keys() | self.planner.services.keys()
        moved = self._moved_on(changed)
        services = {ServiceKey(key): self._stores.service(key) for key in changed}
        memory = self.remembered.loaded
        change = Change(services=services, config=config, quotas=quotas, memory=memory, now=self._clock())
        self._conclude(self.planner.handle(change))
        self.remembered.taken_in()
        for key, version in moved.items():
            self._conclude(self.planner.refresh(key, version))
        for key in services.keys() - self.planner.services.keys():
            self._forget(key)
        self._write_unblocked()
        self.pool_statuses.look(self.planner.ledger.take_touched())
        if self._anew:
            gc.freeze()  # What came with the first list stays: the collector need not walk 10,000 Services again and again.
        self._anew = False

    def _quotas(self) -> Mapping[str, int] | None:
        """The quotas of namespaces if they may be others than before."""
        namespaces = self._stores.namespaces.snapshot()
        if namespaces is self._namespaces:
            return None
        self._namespaces = namespaces
        quotas, unreadable = observe.quotas(namespaces.values())
        for name in unreadable.keys() - self._unreadable.keys():
            self._log.warning(
                "quota_unreadable",
                namespace=name,
                annotation=observe.MAX_ADDRESSES,
                value=unreadable[name],
                remedy="write a whole number; until then there is no limit",
            )
        self._unreadable = unreadable
        return quotas

    def _configuration(self) -> Config | None:
        """The configuration if it is another one than before."""
        some = (self._stores.pools, self._stores.l2_advertisements, *self._stores.reported.values())
        changed = [self._stores.namespaces.take_changed(), *(store.take_changed() for store in some)]
        first, known = self._anew, self._stores.reported_known
        if not first and not any(changed) and known == self._reported_known:
            return None
        self._reported_known = known
        labels = {one.metadata.name: one.metadata.labels or {} for one in self._stores.namespaces.snapshot().values()}
        documents = self._stores.configuration_documents()
        before = self._compiled
        self._compiled = compile_config(documents, labels, before.valid, Surroundings(mode=self._bgp_type))
        self.states.say(problem for problem in self._compiled.problems if problem.object.kind in OWN_KINDS)
        self._report_problems()
        self.tally.updates += 1
        self.tally.update_errors += self._compiled.stale
        self.tally.config_loaded, self.tally.config_stale = True, self._compiled.stale
        config = self._compiled.config
        same = (config.pools, config.broken_pools) == (before.config.pools, before.config.broken_pools)
        if same and not first:
            return None
        self._log.info("configuration_loaded", pools=sorted(config.pools), broken_pools=sorted(config.broken_pools))
        return config

    def _moved_on(self, changed: frozenset[str]) -> dict[ServiceKey, str]:
        """Versions of Services with an unseen write that changed in nothing that matters."""
        moved: dict[ServiceKey, str] = {}
        for key in self.planner.unseen:
            seen = self._stores.service(key)
            if seen is not None and key not in changed:
                moved[key] = seen.version
        return moved

    def _conclude(self, decisions: Iterable[Decision]) -> None:
        for decision in decisions:
            self.tally.updates += 1
            service = self.planner.services[decision.service]
            self._say(service, decision)
            if self.planner.pending(service.key) is not None:
                self.writer.request(service.key)
            elif unfinished := self._unfinished.pop(service.key, None):
                self._finish_unanswered(service, unfinished)
        self.remembered.look(self.planner.memory.take_changed())

    def _write_unblocked(self) -> None:
        for key in self.planner.take_unblocked():
            if self.planner.pending(key) is not None:
                self.writer.request(key)

    def _say(self, service: Service, decision: Decision) -> None:
        """Emit what happened, and a complaint if it is a new one."""
        self._emit(service, decision.happened)
        before = self._complaints.get(service.key)
        if decision.complaint is None:
            self._complaints.pop(service.key, None)
        elif decision.complaint != before:
            self._complaints[service.key] = decision.complaint
            self._emit(service, (decision.complaint,))
        self._log_change(service, decision, before)

    def _log_change(self, service: Service, decision: Decision, before: Notice | None) -> None:
        """Log what became of the Service, if that is something else than before."""
        facts: dict[str, object] = {"service": service.key, "reason": decision.reason.value, "detail": decision.detail}
        lost = [str(address) for address in service.recorded.addresses if address not in decision.recorded.addresses]
        if lost and decision.outcome is not Outcome.IGNORED:
            self._log.info("address_released", ips=lost, **facts)
        if decision.complaint is not None and decision.complaint != before:
            said = "address_refused" if decision.outcome is Outcome.REFUSED else "request_not_served"
            self._log.warning(said, complaint=decision.complaint.note, **facts)
        if decision.outcome is Outcome.ASSIGNED:
            ips = [str(address) for address in decision.recorded.addresses]
            self._log.info("address_assigned", ips=ips, pool=decision.recorded.pool, **facts)

    def _emit(self, service: Service, notices: Iterable[Notice]) -> None:
        regarding = reference(service.key, service.uid, service.version)
        for notice in notices:
            self._recorder.emit(regarding, notice.type, notice.reason, notice.note)

    def _finish_unanswered(self, service: Service, write: Write) -> None:
        """A write whose answer never came: if the Service shows it, it was done, and that has to be said."""
        if service.uid == write.uid and service.recorded == write.after:
            self._emit(service, write.achieved)

    def _forget(self, key: ServiceKey) -> None:
        self._complaints.pop(key, None)
        self._unfinished.pop(key, None)

    def _report_problems(self) -> None:
        """Log and emit what is wrong with the configuration, once per object and change."""
        found: dict[ObjectRef, tuple[Problem, ...]] = {}
        for problem in self._compiled.problems:
            found[problem.object] = (*found.get(problem.object, ()), problem)
        for ref, problems in found.items():
            if problems == self._problems.get(ref):
                continue
            text = "; ".join(_problem_text(problem) for problem in problems)
            self._log.error(SAID_CONFIGURATION, object=str(ref), error=text)
            raw = self._stores.configuration_object(ref)
            if raw is not None:
                self._recorder.emit(configuration_state.reference(ref, raw), "Warning", "ConfigurationInvalid", text)
        for ref in self._problems.keys() - found.keys():
            self._log.info("configuration_repaired", object=str(ref))
        self._problems = found

    def next_write(self, key: ServiceKey) -> Write | None:
        """What is to be written to a Service now, on top of the latest version that says the same."""
        if not self._may_act():
            return None
        seen, known = self._stores.service(key), self.planner.services.get(key)
        if seen is None or known is None:
            return None
        if seen.version != known.version:
            if not _same(seen, known):
                return None  # The loop is about to decide again, and then asks for the write that follows from it.
            self._conclude(self.planner.refresh(key, seen.version))
        return self.planner.pending(key)

    def sent(self, write: Write) -> None:
        """A write is on its way."""
        self.planner.sent(write)

    def written(self, write: Write, version: str) -> None:
        """Count and announce a write that succeeded."""
        self.tally.writes += 1
        self._unfinished.pop(write.service, None)
        service = self.planner.services.get(write.service)
        if service is not None and service.uid == write.uid:
            self._emit(service, write.achieved)
        self.planner.written(write, version)
        if self.planner.pending(write.service) is not None:
            self.writer.request(write.service)
        self._write_unblocked()

    def reread(self, service: Service) -> bool:
        """Take in a Service that was read again; true if a write may be tried on what is there now."""
        stands = self.planner.read_again(service)
        self._write_unblocked()
        return stands

    def is_unresolved(self, key: ServiceKey) -> bool:
        """Whether nobody knows if the last write of a Service arrived."""
        return self.planner.is_unresolved(key)

    def refused(self, write: Write) -> None:
        """A write had no effect, for certain."""
        self.planner.refused(write)
        self._write_unblocked()

    def failed(self, write: Write, error: KubeError, retry_in_s: float) -> None:
        """Count and log a write that failed."""
        self.tally.update_errors += 1
        self.tally.failed_writes += 1
        self._unfinished[write.service] = write
        self._log.warning("status_write_failed", service=write.service, error=error.message, retry_in_s=round(retry_in_s, 2))

    def _blocked(self) -> Mapping[str, Mapping[str, Any]]:
        """Services that are not written before the old holder of their address is."""
        return {key: {"state": "waiting for another Service"} for key in self.planner.unseen if self.planner.is_blocked(key)}

    def standing(self) -> Standing:
        """How things stand, for metrics."""
        failures = {
            "service": self.tally.failed_writes,
            "pool": self.pool_statuses.failures,
            "configuration_state": self.states.failures,
            "remembered": self.remembered.failures,
        }
        return Standing(
            leads=self._may_act(),
            pending_writes=len({**self._blocked(), **self.writer.pending()}),
            waiting=len(self.planner.waiting),
            kept=sum(1 for _ in self.planner.memory.deleted()),
            failures=failures,
        )

    def status(self) -> Mapping[str, Any]:
        """What /status shows: the world in short, the plan with its reasons, problems, and what is not written yet."""
        planner, ledger = self.planner, self.planner.ledger
        pools = {
            name: {
                f"ipv{version}": {"usable": usage.usable, "in_use": usage.in_use}
                for version in (4, 6)
                if (usage := ledger.usage(name, version)).usable
            }
            for name in ledger.pools
        }
        return {
            "component": "controller",
            "tasks": len(asyncio.all_tasks()),
            "world": {
                "ready": self._ready,
                "leads": self._may_act(),
                "waiting_for": self._stores.unsynced,
                "services": len(planner.services),
                "lb_class": planner.lb_class,
                "pools": pools,
                "broken_pools": sorted(ledger.broken_pools),
            },
            "plan": {
                "services": {
                    key: {
                        "outcome": one.outcome.value,
                        "addresses": [str(address) for address in one.recorded.addresses],
                        "pool": one.recorded.pool,
                        "reason": one.reason.value,
                        "detail": one.detail,
                    }
                    for key, one in sorted(planner.decisions.items())
                    if one.outcome is not Outcome.IGNORED or planner.services[key].load_balancer
                },
                "waiting": planner.waiting,
                "kept_for_deleted": {
                    key: {"addresses": [str(address) for address in one.addresses], "for_s": round(until - self._clock(), 1)}
                    for key, one in sorted(planner.memory.deleted())
                    if (until := one.until) is not None
                },
            },
            "problems": [as_json(problem) for problem in self._compiled.problems],
            "pending_writes": {**self._blocked(), **self.writer.pending()},
            "pending_pool_statuses": self.pool_statuses.pending,
            "pending_remembered": self.remembered.pending,
            "failed_writes": dict(self.standing().failures),
        }


def _same(one: Service, other: Service) -> bool:
    """Whether two editions differ at most in their version."""
    return replace(one, version="") == replace(other, version="")


def _problem_text(problem: Problem) -> str:
    text = f"{problem.path}: {problem.message}" if problem.path else problem.message
    return f"{text} ({problem.remedy})" if problem.severity is Severity.ERROR else text
