"""The supervisor's view of the API: one Store per kind, kept by reflectors, and who is told when something changed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Final

from kube import resources
from kube.client import KubeClient
from kube.informer import Reflector
from kube.objects import EndpointSlice
from kube.store import Store, everything
from lab import kinds
from telemetry.log import get_logger

log: Final = get_logger(__name__)


class Mirror:
    """What the API server holds, as far as the lab reads it. run() keeps it up to date."""

    def __init__(self, client: KubeClient) -> None:
        self.services: Store[kinds.ProxiedService] = Store()
        self.slices: Store[EndpointSlice] = Store()
        self.pods: Store[kinds.Pod] = Store()
        self.nodes: Store[kinds.Node] = Store()
        self.deployments: Store[kinds.Deployment] = Store()
        self.replica_sets: Store[kinds.ReplicaSet] = Store()
        self.daemon_sets: Store[kinds.DaemonSet] = Store()
        self.leases: Store[kinds.Lease] = Store()
        self._changed = asyncio.Event()
        self._listeners: list[asyncio.Event] = []
        self._reflectors: list[Reflector[Any]] = [
            Reflector(client, resource, store, dirty=self._changed, fingerprint=everything, log=log, namespace=namespace)
            for resource, store, namespace in (
                (kinds.SERVICES, self.services, None),
                (resources.ENDPOINT_SLICES, self.slices, None),
                (kinds.PODS, self.pods, None),
                (kinds.NODES, self.nodes, None),
                (kinds.DEPLOYMENTS, self.deployments, None),
                (kinds.REPLICA_SETS, self.replica_sets, None),
                (kinds.DAEMON_SETS, self.daemon_sets, None),
                (kinds.LEASES, self.leases, "kube-node-lease"),
            )
        ]

    def _stores(self) -> Iterator[Store[Any]]:
        yield from (self.services, self.slices, self.pods, self.nodes, self.leases)
        yield from (self.deployments, self.replica_sets, self.daemon_sets)

    @property
    def synced(self) -> bool:
        """Whether every kind was listed once."""
        return all(store.synced for store in self._stores())

    def listen(self) -> asyncio.Event:
        """An event that is set whenever something changed; the listener clears it."""
        event = asyncio.Event()
        event.set()
        self._listeners.append(event)
        return event

    def wake(self) -> None:
        """Tell everybody to look again, because something that is not in the API changed."""
        self._changed.set()

    async def run(self) -> None:
        """Mirror for ever."""
        async with asyncio.TaskGroup() as group:
            for reflector in self._reflectors:
                group.create_task(reflector.run(), name="reflector")
            while True:
                await self._changed.wait()
                self._changed.clear()
                for listener in self._listeners:
                    listener.set()
