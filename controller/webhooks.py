"""What serves webhooks, as parts of the process: the server, and what keeps its certificate.

controller.run starts them, in every mode but --webhook-mode=disabled, in leaders and in replicas that wait alike.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator

from controller.admission import WebhookServer
from controller.certificates import FileKeeper, Keeper, Served
from controller.metrics import WebhookTally
from controller.settings import Settings
from kube.client import KubeClient
from telemetry.log import get_logger


def parts(client: KubeClient, settings: Settings, tally: WebhookTally) -> Iterator[tuple[str, Callable[[], Awaitable[None]]]]:
    """Name and coroutine function of everything that webhooks need."""
    if settings.webhook_mode == "disabled":
        return
    served, log = Served.of(settings.tls, tally), get_logger("webhooks")
    server = WebhookServer(client, served, log, settings.namespace, settings.bgp_type, settings.webhook_port)
    yield "webhooks", server.run
    if not settings.cert_rotation:
        yield "webhook-certificate", FileKeeper(settings.cert_dir, served, log).run
        return
    keeper = Keeper(
        client,
        served,
        log,
        namespace=settings.namespace,
        secret=settings.webhook_secret,
        service=settings.cert_service_name,
    )
    yield "webhook-certificate", keeper.run
    for name, reflector in keeper.reflectors():
        yield name, reflector.run
