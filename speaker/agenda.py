"""Which Services to decide again after a change, in which order, and how many at a time.

reconcile.py keeps one Agenda. Deciding thousands of Services takes longer than the gossip may wait for its turn, so work is
handed out in portions bounded by count: what a lost member owned comes first, then what changed itself, then what a change
elsewhere may concern. It decides nothing about a Service.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from config.model import NodeName, ServiceKey
from speaker.plan import Decision

SERVICES_PER_BATCH = 50
"""Each may cost a few frames, log lines and an Event."""
JUDGEMENTS_PER_BATCH = 1500
"""One candidate judged and hashed for one Service takes a few microseconds."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What is new since the last look at the world.

    `services` came, changed or went themselves. `lost` are the nodes that are candidates no more. `everybody` says that any
    decision may be affected; `own` that those may which this node won (its links, or the leave to announce).
    """

    services: frozenset[ServiceKey] = frozenset()
    lost: frozenset[NodeName] = frozenset()
    everybody: bool = False
    own: bool = False

    def __bool__(self) -> bool:
        return bool(self.services or self.lost or self.everybody or self.own)


class Agenda:
    """The Services that wait to be decided. Three queues; a Service waits in the first that wants it."""

    def __init__(self) -> None:
        self._queues: tuple[dict[ServiceKey, None], ...] = ({}, {}, {})

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues)

    def add(
        self, changes: Changes, decisions: Mapping[ServiceKey, Decision], services: Iterable[ServiceKey], me: NodeName
    ) -> None:
        """Put on what the changes may concern. `services` are all that exist."""
        orphans = [key for key, one in decisions.items() if one.winner in changes.lost] if changes.lost else []
        self._put(0, orphans)
        self._put(1, sorted(changes.services))
        if changes.everybody:
            self._put(2, services)
            return
        if changes.lost:
            self._put(2, [key for key, one in decisions.items() if not changes.lost.isdisjoint(one.ranking)])
        if changes.own:
            self._put(2, [key for key, one in decisions.items() if one.winner == me])

    def take(self, candidates: int) -> tuple[ServiceKey, ...]:
        """The next portion, for a cluster with so many candidates."""
        size = min(SERVICES_PER_BATCH, max(1, JUDGEMENTS_PER_BATCH // max(1, candidates)))
        taken: list[ServiceKey] = []
        for queue in self._queues:
            while queue and len(taken) < size:
                key = next(iter(queue))
                del queue[key]
                taken.append(key)
        return tuple(taken)

    def _put(self, rank: int, keys: Iterable[ServiceKey]) -> None:
        for key in keys:
            if any(key in queue for queue in self._queues[: rank + 1]):
                continue
            for queue in self._queues[rank + 1 :]:
                queue.pop(key, None)
            self._queues[rank][key] = None
