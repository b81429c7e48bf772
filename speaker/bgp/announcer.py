"""Keeps BGP in step with the plan: decides each Service for this node's sessions, and hands the routes to ExaBGP's supervisor.

reconcile.py calls it with the same Services and the same Cluster as it gives to layer 2, so that both protocols follow one plan.
What is decided is routes.py's and neighbors.py's; this is the shell around them, and starts no ExaBGP before there is a session
to have. It knows nothing of Kubernetes: what is to be reported is handed to a Listener.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from config.model import Config, PeerName, ServiceKey
from config.problem import Problem
from speaker.bgp.model import Neighbor, Prefix
from speaker.bgp.neighbors import Neighborhood, Peering, Site, neighborhood
from speaker.bgp.routes import Decision, Table, decide
from speaker.bgp.sessions import State
from speaker.bgp.supervisor import Supervisor
from speaker.world import Service, World


class Listener(Protocol):
    """Who is told what was decided."""

    def decided(self, key: ServiceKey, service: Service | None, before: Decision | None, after: Decision | None) -> None:
        """A Service was decided, perhaps as before."""
        ...

    def peers(self, service: ServiceKey, peers: Sequence[PeerName]) -> None:
        """The peers that are to hear of a Service may have changed."""
        ...

    def complete(self) -> None:
        """Every Service has been decided once."""
        ...

    def problems(self, problems: Sequence[Problem]) -> None:
        """What is wrong or different with peers on this node changed."""
        ...


class Announcer:
    """Owns the routes of this node. `site` gives the facts about the node, asked anew each time."""

    def __init__(self, supervisor: Supervisor, site: Callable[[], Site], listener: Listener) -> None:
        self._supervisor = supervisor
        self._site = site
        self._listener = listener
        self._seen: tuple[Config, Site] | None = None
        self._asns: dict[PeerName, int] = {}
        self._complete = False
        self._dirty = False
        self._told: dict[ServiceKey, tuple[PeerName, ...]] = {}
        self._offering: dict[Prefix, set[ServiceKey]] = {}
        self._needed = asyncio.Event()
        self.neighborhood = Neighborhood()
        self.table = Table()

    async def run(self) -> None:
        """Keep ExaBGP running from when the first session is wanted."""
        await self._needed.wait()
        await self._supervisor.run()

    def look(self, config: Config) -> None:
        """Take in the configuration and what the node and the routers are like now."""
        self._learn()
        seen = config, replace(self._site(), asns=dict(self._asns))
        if seen == self._seen:
            return
        self._seen = seen
        before, self.neighborhood = self.neighborhood, neighborhood(*seen)
        if before.problems != self.neighborhood.problems:
            self._listener.problems(self.neighborhood.problems)
        if before == self.neighborhood:
            return
        self.table.meet(self.neighborhood)
        self._dirty = True
        for service in self.table.decisions:
            self._tell(service)

    def _learn(self) -> None:
        """Remember what AS a router said it has; of no use but to peers with dynamicASN."""
        for peering in self.neighborhood.peerings:
            state = self.state_of(peering)
            if state is not None and state.peer is not None:
                self._asns[peering.peer] = state.peer.asn

    def decide(self, key: ServiceKey, service: Service | None, world: World) -> None:
        """Decide one Service, or forget it."""
        before = self.table.decisions.get(key)
        after = None if service is None else decide(service, world.cluster, world.me)
        self._listener.decided(key, service, before, after)
        if after == before:
            return
        changed = self.table.forget(key) if after is None else self.table.adopt(after)
        self._dirty |= bool(changed)
        concerned = {key}  # Services that share a prefix have the peers of all that do.
        for offer in () if before is None else before.offers:
            offering = self._offering.get(offer.prefix, set())
            offering.discard(key)
            concerned |= offering
            if not offering:
                self._offering.pop(offer.prefix, None)
        for offer in () if after is None else after.offers:
            offering = self._offering.setdefault(offer.prefix, set())
            offering.add(key)
            concerned |= offering
        for one in concerned if changed else {key}:
            self._tell(one)

    def _tell(self, service: ServiceKey) -> None:
        peers = self.table.peers_of(service)
        if peers != self._told.get(service, ()):
            self._listener.peers(service, peers)
        if peers:
            self._told[service] = peers
        else:
            self._told.pop(service, None)

    def carry_out(self, *, all_decided: bool) -> None:
        """Hand over what changed. Before everything was decided once nothing is: a router would take the rest for withdrawn."""
        if not self._complete:
            if not all_decided:
                return
            self._complete = True
            self._listener.complete()
        if not self._dirty:
            return
        self._dirty = False
        neighbors: list[Neighbor] = [one.neighbor for one in self.neighborhood.peerings]
        self._supervisor.want(neighbors, self.table.routes, self.table.touched())
        if neighbors:
            self._needed.set()

    def state_of(self, peering: Peering) -> State | None:
        """What is known of the session of a peer."""
        return self._supervisor.sessions.states.get(peering.neighbor.key)

    def report(self) -> Mapping[str, Any]:
        """Sessions and decisions for /status. It has no password, and nothing that ExaBGP shows of its configuration."""
        return {
            "peers": {one.peer: self._peer(one) for one in self.neighborhood.peerings},
            "elsewhere": sorted(self.neighborhood.elsewhere),
            "problems": [str(one) for one in self.neighborhood.problems],
            "exabgp_restarts": self._supervisor.restarts,
            "services": {
                key: {
                    verdict.peer: {
                        "prefixes": [str(prefix) for prefix in verdict.prefixes],
                        "reason": verdict.reason.value,
                        "detail": verdict.detail,
                    }
                    for verdict in self.table.verdicts(key)
                }
                for key in sorted(self.table.decisions)
            },
        }

    def _peer(self, peering: Peering) -> Mapping[str, Any]:
        neighbor, state = peering.neighbor, self.state_of(peering)
        found: dict[str, Any] = {
            "address": str(neighbor.peer),
            "port": neighbor.port,
            "my_asn": neighbor.local_as,
            "peer_asn": neighbor.peer_as,
            "router_id": str(neighbor.router_id),
            "up": False,
        }
        if state is None:
            return found
        told = state.notification
        return found | {
            "up": state.up,
            "reason": state.down_reason,
            "established": state.established,
            "families": sorted(state.families),
            "hold_time_s": state.hold_time_s,
            "wanted": len(state.want),
            "sent": len(state.sent),
            "unsendable": [str(prefix) for prefix in state.unsendable] if state.up else [],
            "notification": None
            if told is None
            else {"received": told.received, "code": told.code, "subcode": told.subcode, "text": told.text},
        }


SERIES: Final[Mapping[str, tuple[str, Callable[[State | None], int]]]] = {
    "metallb_bgp_session_up": ("1 while the session is established.", lambda state: int(state is not None and state.up)),
    "metallb_bgp_announced_prefixes_total": (
        "Prefixes that the peer is told of now.",
        lambda state: len(state.sent) if state is not None and state.up else 0,
    ),
    "metallb_bgp_pending_prefixes_total": (
        "Prefixes that are to be announced to the peer.",
        lambda state: 0 if state is None else len(state.want),
    ),
    "metallb_bgp_updates_total": (
        "Announcements and withdrawals of a prefix that were given to the session.",
        lambda state: 0 if state is None else state.updates,
    ),
}
"""MetalLB's names, and how each is read off a session; a peer without a session has no series."""


class SessionMetrics(Collector):
    """The sessions' metrics, read when they are asked for."""

    def __init__(self, announcer: Announcer) -> None:
        self._announcer = announcer

    def describe(self) -> Iterator[Metric]:
        """The names, for the registry's check of duplicates."""
        for name, (text, _) in SERIES.items():
            yield Metric(name, text, "unknown")

    def collect(self) -> Iterator[Metric]:
        """The values now."""
        for name, (text, value) in SERIES.items():
            metric = GaugeMetricFamily(name, text) if name != "metallb_bgp_updates_total" else Metric(name, text, "unknown")
            for peering in self._announcer.neighborhood.peerings:
                address, port = peering.neighbor.peer, peering.neighbor.port
                peer = f"{address}:{port}" if address.version == 4 else f"[{address}]:{port}"
                metric.add_sample(name, {"peer": peer}, value(self._announcer.state_of(peering)))
            yield metric
