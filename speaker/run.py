"""Put a speaker together, run it, and end it in good order.

main() calls run() once. Here, and nowhere else, are all parts named together; every part runs as a supervised task. On SIGTERM
the speaker tells the gossip that it goes, answers until the others have announced what was its own, then closes its sockets:
nothing is ever without an owner.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from config.kinds.service_l2_status import LABEL_NODE
from config.model import NodeName
from config.problem import Problem
from kube import configuration_state, resources
from kube.auth import Credentials
from kube.client import KubeClient
from kube.configuration_state import StateKeeper
from kube.errors import KubeError
from kube.events import EventRecorder
from kube.informer import Reflector
from kube.resources import Resource
from kube.reviews import Reviewer
from kube.store import Fingerprint, Store
from speaker import observe
from speaker.bgp.announcer import Announcer, SessionMetrics
from speaker.bgp.neighbors import Site
from speaker.bgp.supervisor import Supervisor
from speaker.bgp_report import BgpReport
from speaker.layer2.engine import Engine
from speaker.layer2.links import LinkWatch
from speaker.layer2.responder import Claimed
from speaker.membership import Membership
from speaker.metrics import Metrics, new_registry
from speaker.observe import Observer, Stores
from speaker.reconcile import Reconciler, Surroundings
from speaker.settings import Settings
from speaker.status import BGP_STATUS, L2_STATUS, Form, Reporter, status_fingerprint
from telemetry.log import get_logger
from telemetry.server import Listeners, TelemetryServer
from telemetry.tasks import restart_counter, supervise

LEAVE_LIMIT_S = 1.5
"""How long the others may take to learn that this member goes and to announce what it had."""


async def run(settings: Settings, credentials: Credentials, namespace: str) -> None:
    """Be a speaker until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    client = await KubeClient.connect(credentials)
    try:
        speaker = Speaker(settings, client, namespace)
        async with asyncio.TaskGroup() as group:
            tasks = speaker.start(group)
            await stop.wait()
            await speaker.leave()
            for task in tasks:
                task.cancel()
    finally:
        await client.close()


class Speaker:
    """All parts of one speaker, connected."""

    def __init__(self, settings: Settings, client: KubeClient, namespace: str) -> None:
        me = settings.node_name
        log = get_logger("speaker")
        self._log = log
        self._settings = settings
        self._client = client
        self._namespace = namespace
        self._registry = new_registry()
        self._metrics = Metrics(self._registry, me)
        self._dirty = asyncio.Event()
        self._stores = Stores()
        self._pods: Store[Any] = Store()
        self._pods_changed = asyncio.Event()
        self._statuses: Store[Any] = Store()
        self._bgp_statuses: Store[Any] = Store()
        self._links = LinkWatch(self._dirty, log)
        self._engine = Engine(self._metrics, log, claimed=self._claimed)
        self._recorder = EventRecorder(client, "metallb-speaker", me, log=log)
        self._membership = self._member()
        self._reporter = self._reporter_of(L2_STATUS, self._statuses)
        self._bgp_reporter = self._reporter_of(BGP_STATUS, self._bgp_statuses)
        self._bgp = Announcer(
            Supervisor(settings.bgp_folder, log, on_change=self._dirty.set),
            self._site,
            BgpReport(self._bgp_reporter, self._metrics, log, me, self._stores.configuration_object),
        )
        self._registry.register(SessionMetrics(self._bgp))
        self._state = StateKeeper(client, configuration_state.speaker(me), log, namespace=namespace, pod_name=settings.pod_name)
        member = self._membership
        self._reconciler = Reconciler(
            self._stores,
            Observer(
                self._stores,
                me,
                lb_class=settings.lb_class,
                honour_exclude_label=settings.honour_exclude_label,
                excluded=settings.excluded,
                bgp_type=settings.bgp_type,
            ),
            Surroundings(
                members=lambda: None if member is None else member.names,
                all_ours=lambda: member is not None and member.all_ours,
                hold=lambda: "" if member is None else member.hold,
                speakers=lambda: {} if member is None else member.speakers,
                isolation=lambda: "" if member is None else member.isolation,
                links=lambda: self._links.links,
                links_known=lambda: self._links.synced,
            ),
            self._engine,
            self._reporter,
            self._metrics,
            dirty=self._dirty,
            log=log,
            problems=self._tell_problems,
            bgp=self._bgp,
        )
        self._server = TelemetryServer(
            Listeners(
                metrics_port=settings.port,
                health_port=settings.health_port,
                health_address="127.0.0.1",
                socket_path=settings.status_socket,
                cert_dir=settings.metrics_cert_dir,
                tls=settings.tls,
            ),
            registry=self._registry,
            status=self.report,
            authorize=Reviewer(client, clock=asyncio.get_running_loop().time).authorize,
        )

    def _reporter_of(self, form: Form, own: Store[Any]) -> Reporter:
        return Reporter(
            self._client,
            self._recorder,
            own,
            self._stores.services,
            me=self._settings.node_name,
            namespace=self._namespace,
            pod_name=self._settings.pod_name,
            metrics=self._metrics,
            log=self._log,
            form=form,
        )

    def _site(self) -> Site:
        """This node, as BGP sessions see it now."""
        cluster = self._reconciler.world.cluster
        return observe.site_of(self._stores, cluster, self._settings.node_name, self._namespace, self._links.addresses)

    def _tell_problems(self, problems: Sequence[Problem]) -> None:
        """What is wrong with the configuration, for this node."""
        self._state.say(problems)
        self._reporter.problems(problems, self._stores.configuration_object)

    def _member(self) -> Membership | None:
        settings = self._settings
        if settings.gossip is None:
            self._log.info("gossip_disabled", consequence="every Node counts as having a speaker")
            return None
        return Membership(
            settings.node_name,
            settings.gossip,
            others=lambda: observe.other_speakers(self._pods, settings.node_name),
            read_own_node=self._read_own_node,
            reunited=self._reunited,
            died=self._died,
            macs=lambda: frozenset(link.mac for link in self._links.links if len(link.mac) == 6),
            wake=self._pods_changed,
            dirty=self._dirty,
            log=self._log,
        )

    async def _read_own_node(self) -> str:
        """Read this Node from the API server; empty if it was answered, else what went wrong."""
        try:
            await self._client.get(resources.NODES, self._settings.node_name)
        except KubeError as error:
            return error.message
        return ""

    def _claimed(self, claim: Claimed) -> None:
        self._reconciler.heard(claim)

    def _died(self, node: NodeName, detected_s: float) -> None:
        self._metrics.death_detected(detected_s)
        self._reconciler.died(node)

    def _reunited(self) -> None:
        self._reconciler.reunited()

    def start(self, group: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """Start every part; the tasks, to be cancelled at the end."""
        parts: dict[str, Callable[[], Any]] = {
            "links": self._links.run,
            "reconcile": self._reconciler.run,
            "events": self._recorder.run,
            "status": self._reporter.run,
            "bgp": self._bgp.run,
            "bgp-status": self._bgp_reporter.run,
            "telemetry": self._server.run,
            "configuration-state": self._state.run,
            "configuration-state-watch": self._state.reflector().run,
        }
        for reflector_name, reflector in self._reflectors().items():
            parts[reflector_name] = reflector.run
        if self._membership is not None:
            parts["gossip"] = functools.partial(self._membership.run, self._reconciler.caches_complete)
        restarts = restart_counter(self._registry)
        return [supervise(group, name, part, restarts=restarts) for name, part in parts.items()]

    def _reflectors(self) -> Mapping[str, Reflector[Any]]:
        stores, own = self._stores, self._namespace
        watch = self._reflector
        watches = {
            "services": watch(resources.SERVICES, stores.services, observe.service_fingerprint),
            "endpointslices": watch(resources.ENDPOINT_SLICES, stores.slices, observe.slice_fingerprint),
            "nodes": watch(resources.NODES, stores.nodes, observe.node_fingerprint),
            "namespaces": watch(resources.NAMESPACES, stores.namespaces, observe.namespace_fingerprint),
            "ipaddresspools": watch(resources.IP_ADDRESS_POOLS, stores.pools, observe.pool_fingerprint, namespace=own),
            "l2advertisements": watch(
                resources.L2_ADVERTISEMENTS, stores.advertisements, observe.advertisement_fingerprint, namespace=own
            ),
            "servicel2statuses": watch(
                resources.SERVICE_L2_STATUSES,
                self._statuses,
                status_fingerprint,
                namespace=own,
                labels=f"{LABEL_NODE}={self._settings.node_name}",
                dirty=self._reporter.wake,
            ),
        }
        watches["servicebgpstatuses"] = watch(
            resources.SERVICE_BGP_STATUSES,
            self._bgp_statuses,
            status_fingerprint,
            namespace=own,
            labels=f"{LABEL_NODE}={self._settings.node_name}",
            dirty=self._bgp_reporter.wake,
        )
        for kind, store in stores.bgp.items():
            resource = resources.resource_of(kind)
            watches[resource.plural] = watch(resource, store, observe.config_fingerprint, namespace=own)
        secrets = resources.SECRETS.reduced(observe.secret_view)
        watches["secrets"] = watch(secrets, stores.secrets, observe.secret_fingerprint, namespace=own)
        if self._settings.gossip is not None:
            watches["pods"] = watch(
                resources.PODS,
                self._pods,
                observe.pod_fingerprint,
                namespace=own,
                labels=self._settings.gossip.labels,
                dirty=self._pods_changed,
            )
        return watches

    def _reflector(
        self,
        resource: Resource[Any],
        store: Store[Any],
        fingerprint: Fingerprint[Any],
        *,
        namespace: str | None = None,
        labels: str = "",
        dirty: asyncio.Event | None = None,
    ) -> Reflector[Any]:
        return Reflector(
            self._client,
            resource,
            store,
            dirty=dirty or self._dirty,
            fingerprint=fingerprint,
            namespace=namespace,
            label_selector=labels,
            log=self._log,
        )

    async def leave(self) -> None:
        """Hand over: tell the gossip, answer until the others have announced what was ours, then fall silent."""
        self._log.info("speaker_stopping")
        if self._membership is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LEAVE_LIMIT_S), asyncio.TaskGroup() as group:
                    group.create_task(self._reconciler.hand_over_all(), name="hand over")
                    group.create_task(self._membership.leave(timeout_s=LEAVE_LIMIT_S), name="leave the gossip")
        self._engine.close()
        if self._membership is not None:
            await self._membership.stop()

    def report(self) -> Mapping[str, Any]:
        """What /status shows."""
        member = self._membership
        gossip: Mapping[str, Any] = {"hold": "", "members": None} if member is None else member.report()
        return {
            "component": "speaker",
            "node": self._settings.node_name,
            "tasks": len(asyncio.all_tasks()),
            "gossip": gossip,
            **self._reconciler.report(),
        }
