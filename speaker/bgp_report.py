"""Tells people what was decided about BGP: logs, Events, the gauge of announced addresses, and ServiceBGPStatus objects.

run.py makes one and gives it to bgp/announcer.py, which calls it; status.py does the writing. It decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from config.model import IPAddress, NodeName, ObjectRef, PeerName, ServiceKey
from config.problem import Problem, Severity
from kube.objects import RawObject
from speaker.bgp.routes import Decision
from speaker.metrics import BGP, Metrics
from speaker.status import Reporter, desired_bgp_status
from speaker.world import Service
from telemetry.log import Logger


class BgpReport:
    """The announcer's listener. `reporter` writes ServiceBGPStatus; `find` gives a configuration object as it came."""

    def __init__(
        self, reporter: Reporter, metrics: Metrics, log: Logger, me: NodeName, find: Callable[[ObjectRef], RawObject | None]
    ) -> None:
        self._reporter = reporter
        self._metrics = metrics
        self._log = log
        self._me = me
        self._find = find
        self._announced: dict[ServiceKey, frozenset[IPAddress]] = {}
        self._said: frozenset[Problem] = frozenset()

    def decided(self, key: ServiceKey, service: Service | None, before: Decision | None, after: Decision | None) -> None:
        """Count and log the addresses that came and went; an Event when the announcement changed."""
        old = self._announced.pop(key, frozenset())
        new = frozenset(service.addresses) if service is not None and after is not None and after.offers else frozenset()
        if new:
            self._announced[key] = new
        if old != new:
            self._metrics.withdrawn(key, old - new, BGP)
            self._metrics.announced(key, new - old, BGP)
            reason, detail = ("SERVICE_DELETED", "") if after is None else (after.reason.value, after.detail)
            event = "bgp_addresses_announced" if new else "bgp_addresses_withdrawn"
            self._log.info(event, service=key, addresses=sorted(map(str, new or old)), reason=reason, detail=detail)
        if new and (before is None or after is None or before.offers != after.offers):
            self._reporter.assigned(key, BGP)

    def peers(self, service: ServiceKey, peers: Sequence[PeerName]) -> None:
        """Write to whom a Service is announced."""
        self._reporter.want(service, desired_bgp_status(service, self._me, peers))

    def complete(self) -> None:
        """Status objects of Services that are not announced here are leftovers."""
        self._reporter.plan_complete()

    def problems(self, problems: Sequence[Problem]) -> None:
        """Log what is new, and tell it where people look: at the BGPPeer."""
        for problem in problems:
            if problem in self._said:
                continue
            served = problem.severity is not Severity.ERROR
            self._log.warning("bgp_peer_differs" if served else "bgp_peer_not_served", problem=str(problem))
            if (raw := self._find(problem.object)) is not None:
                note = f'on node "{self._me}": {problem.path}: {problem.message}'
                self._reporter.about(problem.object, raw, "PeerDiffers" if served else "PeerNotServed", note)
        self._said = frozenset(problems)
