"""The controller as a whole: reflectors, loop, writer, Events, listeners; started and stopped together.

__main__ calls run() with settings and credentials. Everything lives in one TaskGroup; SIGTERM and SIGINT end it within two
seconds: what is being written is finished, or given up after a second, because Services' statuses are the only state. Of
several replicas the one with the Lease decides and writes; the others keep their caches warm.
"""

from __future__ import annotations

import asyncio
import platform
import secrets
import signal
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.process_collector import ProcessCollector

from controller import memberlist_secret, observe, webhooks
from controller.metrics import Metrics, WebhookTally
from controller.observe import Stores
from controller.reconcile import Reconciler
from controller.settings import Settings
from controller.world import Service
from kube.auth import Credentials
from kube.client import KubeClient
from kube.events import EventRecorder
from kube.informer import Reflector
from kube.leadership import Leadership
from kube.resources import IP_ADDRESS_POOLS, L2_ADVERTISEMENTS, NAMESPACES, resource_of
from kube.reviews import Reviewer
from kube.store import generation
from telemetry.log import get_logger
from telemetry.server import Listeners, TelemetryServer
from telemetry.tasks import restart_counter, supervise

COMPONENT: Final = "metallb-controller"
LEASE: Final = "metallb-py-controller"
Part = Callable[[], Awaitable[None]]

FINISHING: Final = frozenset({"status-writer", "events", "remembered-addresses"})
"""What goes on for a moment when the process has to end."""
FINISH_STEP_S: Final = 0.02
FINISH_S: Final = 1.0
"""How long writes under way may take once the process has to end."""


async def run(settings: Settings, credentials: Credentials) -> None:
    """Serve until a signal asks to stop.

    Raises:
        OSError: a listener cannot be opened.

    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    client = await KubeClient.connect(credentials, user_agent="metallb-py-controller")
    try:
        await serve(settings, client, stop)
    finally:
        await client.close()


async def serve(settings: Settings, client: KubeClient, stop: asyncio.Event) -> None:
    """Be the controller until `stop` is set.

    Raises:
        OSError: a listener cannot be opened.

    """
    log = get_logger("controller")
    log.info("controller_started", server=client.server, namespace=settings.namespace, lb_class=settings.lb_class)
    for option in settings.not_in_effect:
        log.warning("option_not_in_effect", option=option)
    stores = Stores()
    recorder = EventRecorder(client, COMPONENT, settings.pod_name or platform.node(), log=get_logger("events"))
    leadership = Leadership(
        client,
        namespace=settings.namespace,
        name=LEASE,
        identity=settings.pod_name or f"{platform.node()}_{secrets.token_hex(4)}",
        terms=settings.lease,
        log=get_logger("leadership"),
    )
    reconciler = Reconciler(
        client,
        stores,
        recorder,
        get_logger("reconcile"),
        namespace=settings.namespace,
        lb_class=settings.lb_class,
        leads=leadership.leads,
        pod_name=settings.pod_name,
        bgp_type=settings.bgp_type,
    )
    reconciler.stand_by()
    registry = CollectorRegistry()
    answers = WebhookTally()
    registry.register(Metrics(reconciler.tally, lambda: reconciler.planner.ledger, reconciler.standing, answers))
    ProcessCollector(registry=registry)
    restarts = restart_counter(registry)
    listeners = Listeners(
        metrics_port=settings.port,
        health_port=settings.health_probe_port,
        socket_path=settings.status_socket,
        cert_dir=settings.metrics_cert_dir,
        tls=settings.tls,
    )
    reviewer = Reviewer(client, clock=asyncio.get_running_loop().time)
    server = TelemetryServer(listeners, registry=registry, status=reconciler.status, authorize=reviewer.authorize)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(server.run(), name="listeners")]
            for name, part in _parts(client, settings, stores, reconciler, recorder, leadership, answers):
                tasks.append(supervise(group, name, part, restarts=restarts))
            await stop.wait()
            log.info("controller_stopping")
            for task in tasks:
                if task.get_name() not in FINISHING:
                    task.cancel()
            await _finish(reconciler, recorder)
            for task in tasks:
                task.cancel()
        await leadership.release()
    except BaseExceptionGroup as failures:
        unopened, others = failures.split(OSError)
        if unopened is None or others is not None:
            raise
        raise unopened.exceptions[0] from None  # A listener that cannot be opened.
    log.info("controller_stopped")


async def _finish(reconciler: Reconciler, recorder: EventRecorder) -> None:
    """Let writes and Events that are due go out, for a moment."""
    try:
        async with asyncio.timeout(FINISH_S):
            await reconciler.writer.idle()
            await reconciler.remembered.idle()
            while len(recorder.correlator):  # noqa: ASYNC110 - the recorder tells nobody when its queue is empty
                await asyncio.sleep(FINISH_STEP_S)
    except TimeoutError:
        get_logger("controller").warning(
            "writes_given_up", services=sorted(reconciler.writer.pending()), events=len(recorder.correlator)
        )


def _secret_maker(client: KubeClient, settings: Settings) -> Part:
    async def make() -> None:
        await memberlist_secret.ensure(
            client,
            namespace=settings.namespace,
            name=settings.ml_secret_name,
            deployment=settings.deployment,
            log=get_logger("memberlist-secret"),
        )

    return make


def _parts(
    client: KubeClient,
    settings: Settings,
    stores: Stores,
    reconciler: Reconciler,
    recorder: EventRecorder,
    leadership: Leadership,
    answers: WebhookTally,
) -> Iterator[tuple[str, Part]]:
    """Name and coroutine function of everything that runs as long as the process."""
    yield "events", recorder.run
    if settings.ml_secret_name:
        yield "memberlist-secret", _secret_maker(client, settings)
    yield from webhooks.parts(client, settings, answers)
    if settings.webhook_mode == "onlywebhook":
        get_logger("controller").warning("no_addresses_assigned", because="--webhook-mode=onlywebhook")
        return
    own, log, dirty = settings.namespace, get_logger("reflector"), stores.dirty
    services = Reflector(
        client, observe.REDUCED_SERVICES, stores.services, dirty=dirty, fingerprint=observe.service_fingerprint, log=log
    )
    pools = Reflector(
        client, IP_ADDRESS_POOLS, stores.pools, dirty=dirty, fingerprint=observe.pool_fingerprint, namespace=own, log=log
    )
    l2_advertisements = Reflector(
        client, L2_ADVERTISEMENTS, stores.l2_advertisements, dirty=dirty, fingerprint=generation, namespace=own, log=log
    )
    namespaces = Reflector(
        client, NAMESPACES, stores.namespaces, dirty=dirty, fingerprint=observe.namespace_fingerprint, log=log
    )
    for kind, store in stores.reported.items():
        resource = resource_of(kind)
        reported = Reflector(client, resource, store, dirty=dirty, fingerprint=generation, namespace=own, log=log)
        yield resource.plural, reported.run
    yield "configuration-state", reconciler.states.run
    yield "configuration-state-watch", reconciler.states.reflector().run
    yield "reconcile", reconciler.run
    yield "status-writer", reconciler.writer.run
    yield "pool-statuses", reconciler.pool_statuses.run
    yield "remembered-addresses", reconciler.remembered.run
    yield "lease", leadership.run
    yield "leading", _leading(leadership, services, reconciler)
    yield "services", _after_first_try(leadership, services)
    yield "pools", pools.run
    yield "l2-advertisements", l2_advertisements.run
    yield "namespaces", namespaces.run


def _leading(leadership: Leadership, services: Reflector[Service], reconciler: Reconciler) -> Part:
    """What begins and ends with the leadership.

    The last leader's writes must be seen before anything is decided, and a watch may be late: so Services are listed
    once more, unless their first list was begun as leader.
    """

    async def lead() -> None:
        while True:
            await leadership.until_leading()
            if not leadership.without_lease:
                await services.listed_since(leadership.since)
            await reconciler.remembered.load()
            reconciler.take_over()
            await leadership.until_lost()
            reconciler.stand_by()

    return lead


def _after_first_try(leadership: Leadership, services: Reflector[Service]) -> Part:
    """Services are listed once it is known whether we lead: a single replica then lists them only once."""

    async def mirror() -> None:
        await leadership.tried.wait()
        await services.run()

    return mirror
