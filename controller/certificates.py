"""Keep the webhooks' certificate: in its Secret, in the TLS context of the server, and trusted by the API server.

Run by controller.run beside the webhook server. With rotation, the Secret holds authority and server certificate; whichever
replica finds that they end soon renews them, and the others follow. The API server is told to trust a new authority before
the certificate it signed is shown, and goes on trusting the old one, so that no request fails over a rotation. Without
rotation the certificate is read from a directory that somebody else keeps, and nothing in the cluster is touched.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from controller.metrics import WebhookTally
from controller.webhook_pki import (
    CERTIFICATE_FILE,
    KEY_FILE,
    Pair,
    Renewal,
    authority,
    ends,
    from_data,
    renewal,
    renewed,
    trusted_beside,
)
from kube import objects
from kube.client import KubeClient, PatchKind
from kube.errors import AlreadyExists, Conflict, KubeError, NotFound, Unreachable
from kube.informer import Reflector
from kube.objects import ObjectKey
from kube.resources import SECRETS, Resource
from kube.store import Store, everything
from telemetry.log import Logger, get_logger
from telemetry.tls import TlsOptions, load_from_memory, server_context

VALIDATORS: Final = Resource(
    "admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations", "ValidatingWebhookConfiguration", objects.RawObject,
    namespaced=False,
)  # fmt: skip
DEFINITIONS: Final = Resource(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", objects.RawObject, namespaced=False
)
VALIDATORS_NAME: Final = "metallb-webhook-configuration"
CONVERTED: Final = "bgppeers.metallb.io"
FIELD_MANAGER: Final = "MetalLB"

LOOK_EVERY_S: Final = 12 * 3600.0
FILES_EVERY_S: Final = 5.0
TRUST_S: Final = 2.0
"""How long API servers may take to learn of an authority, after they were told and before its certificate is shown."""
FIRST_PAUSE_S: Final = 0.2
LONGEST_PAUSE_S: Final = 30.0


def host_name(service: str, namespace: str) -> str:
    """The name under which the API server connects to the webhooks."""
    return f"{service}.{namespace}.svc"


@dataclass(slots=True)
class Served:
    """The TLS context of the webhook server, once there is a certificate. The context stays; the certificate in it changes."""

    context: ssl.SSLContext
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    loads: int = 0
    tally: WebhookTally = field(default_factory=WebhookTally)
    _certificate: bytes = b""

    @classmethod
    def of(cls, options: TlsOptions, tally: WebhookTally | None = None) -> Served:
        """A context with these options, without a certificate."""
        return cls(server_context(options), tally=tally or WebhookTally())

    def show(self, certificate: bytes, key: bytes) -> None:
        """Show this certificate to everybody who connects from now on.

        Raises:
            ssl.SSLError: the two do not fit, or are no PEM; what was shown before stays.

        """
        if certificate == self._certificate:
            return
        load_from_memory(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), certificate, key)  # A bad pair must not spoil the context.
        load_from_memory(self.context, certificate, key)
        self._certificate = certificate
        self.tally.certificate_ends = ends(certificate)
        self.loads += 1
        self.ready.set()


class FileKeeper:
    """Shows the certificate in a directory, and follows it when it is replaced (--disable-cert-rotation)."""

    def __init__(self, folder: Path, served: Served, log: Logger) -> None:
        self._folder = folder
        self._served = served
        self._log = log
        self._said = ""

    async def run(self) -> None:
        """Look for ever."""
        while True:
            self.look()
            await asyncio.sleep(FILES_EVERY_S)

    def look(self) -> None:
        """Take up what the files say; what cannot be used is logged once."""
        try:
            self._served.show((self._folder / CERTIFICATE_FILE).read_bytes(), (self._folder / KEY_FILE).read_bytes())
        except (OSError, ssl.SSLError) as error:
            said = f"--cert-dir={self._folder}: {error}"
            if said != self._said:
                self._log.warning("webhook_certificate_not_usable", error=said)
            self._said = said
        else:
            self._said = ""


class Keeper:
    """Makes, renews, shows and makes trusted the certificate in a Secret."""

    def __init__(
        self,
        client: KubeClient,
        served: Served,
        log: Logger,
        *,
        namespace: str,
        secret: str,
        service: str,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        trust_s: float = TRUST_S,
    ) -> None:
        self._client = client
        self._served = served
        self._log = log
        self._namespace = namespace
        self._secret = secret
        self._host = host_name(service, namespace)
        self._clock = clock
        self._trust_s = trust_s
        self._shown: Pair | None = None
        self._dirty = asyncio.Event()
        self._secrets: Store[objects.RawObject] = Store()
        self._validators: Store[objects.RawObject] = Store()
        self._definitions: Store[objects.RawObject] = Store()

    def reflectors(self) -> Iterator[tuple[str, Reflector[objects.RawObject]]]:
        """What has to run beside it: one watch per object that matters, of exactly that object."""
        watched = (
            ("webhook-secret", SECRETS.raw(), self._secrets, self._secret, self._namespace),
            ("webhook-validators", VALIDATORS, self._validators, VALIDATORS_NAME, None),
            ("webhook-definition", DEFINITIONS, self._definitions, CONVERTED, None),
        )
        for title, resource, store, name, namespace in watched:
            yield (
                title,
                Reflector(
                    self._client,
                    resource,
                    store,
                    dirty=self._dirty,
                    fingerprint=everything,
                    log=get_logger("reflector"),
                    namespace=namespace,
                    field_selector=f"metadata.name={name}",
                ),
            )

    async def run(self) -> None:
        """Keep the certificate for ever; failures are logged and tried again."""
        pause_s = FIRST_PAUSE_S
        self._dirty.set()
        while True:
            await self._wait()
            self._dirty.clear()
            if not (self._secrets.synced and self._validators.synced and self._definitions.synced):
                continue
            try:
                await self.step()
            except (KubeError, ssl.SSLError) as error:
                text = error.message if isinstance(error, KubeError) else str(error)
                self._log.warning("webhook_certificate_not_kept", error=text, retry_in_s=pause_s)
                if isinstance(error, Unreachable):
                    await self._client.pause(pause_s)
                else:
                    await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
                self._dirty.set()
            else:
                pause_s = FIRST_PAUSE_S

    async def _wait(self) -> None:
        """Until something changed, or it is time to look at the dates again."""
        try:
            async with asyncio.timeout(LOOK_EVERY_S):
                await self._dirty.wait()
        except TimeoutError:
            pass

    async def step(self) -> None:
        """Renew what has to be renewed, then see that the API server trusts it and that it is shown.

        Raises:
            KubeError: the API server refused, or could not be asked.
            ssl.SSLError: the certificate in the Secret cannot be used.

        """
        document = self._document()
        pair = from_data((document or {}).get("data") or {})
        wanted = renewal(pair, self._host, self._clock())
        if wanted is Renewal.NOTHING:
            assert pair is not None
            await self._introduce(pair)
        else:
            pair = renewed(pair or self._shown, wanted, self._host, self._clock())
            await self._introduce(pair)
            if not await self._store(document, pair):
                return  # Somebody else was faster; the watch brings what it wrote.
            self._log.info("webhook_certificate_renewed", what=wanted.value, host=self._host)
        await self._trust(pair.ca)
        self._served.show(pair.certificate, pair.key)
        self._shown = pair

    async def _introduce(self, pair: Pair) -> None:
        """Where this pair has another authority than the one shown now, have API servers trust both before it is shown.

        However the other one came: made by us or another replica, because the old one ends or somebody deleted the Secret, or
        put into the Secret by somebody.
        """
        if self._shown is None or authority(self._shown) == authority(pair):
            return
        await self._trust(trusted_beside(pair, self._shown))
        await asyncio.sleep(self._trust_s)

    def _document(self) -> Mapping[str, Any] | None:
        raw = self._secrets.get(ObjectKey(f"{self._namespace}/{self._secret}"))
        return None if raw is None else raw.document

    async def _store(self, document: Mapping[str, Any] | None, pair: Pair) -> bool:
        """Write the Secret on top of the edition that was looked at; whether it was still that one."""
        body: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Secret",
            **({} if document is None else document),
            "data": {**((document or {}).get("data") or {}), **pair.as_data()},
        }
        try:
            if document is None:
                body["metadata"] = {"name": self._secret, "namespace": self._namespace}
                written = await self._client.create(SECRETS.raw(), body, namespace=self._namespace)
            else:
                written = await self._client.update(SECRETS.raw(), self._secret, body, namespace=self._namespace)
        except (Conflict, AlreadyExists, NotFound):
            return False
        self._secrets.put(written, everything)  # The watch may be late, and the old edition would be renewed once more.
        return True

    async def _trust(self, authorities: bytes) -> None:
        """Let the webhooks and the conversion of our kinds be believed with these authorities."""
        for resource, store, name, change in (
            (VALIDATORS, self._validators, VALIDATORS_NAME, validators_trusting),
            (DEFINITIONS, self._definitions, CONVERTED, definition_trusting),
        ):
            raw = store.get(ObjectKey(name))
            patch = {} if raw is None else change(raw.document, authorities)
            if raw is None or not patch:
                continue  # What is not installed brings us here again when it comes.
            patch["metadata"] = {"resourceVersion": raw.metadata.resource_version}
            try:
                done = await self._client.patch(resource, name, patch, kind=PatchKind.MERGE, field_manager=FIELD_MANAGER)
            except (Conflict, NotFound):
                continue  # It has changed since; the watch brings us here again.
            store.put(done, everything)
            self._log.info("webhook_authority_injected", object=f"{resource.kind} {name}")


def validators_trusting(document: Mapping[str, Any], authorities: bytes) -> dict[str, Any]:
    """The merge patch (RFC 7396) that lets every webhook of a configuration be believed; empty if all are already."""
    hooks = document.get("webhooks") or []
    clients = [_trusting(hook.get("clientConfig") or {}, authorities) for hook in hooks]
    if not any(clients):
        return {}
    return {
        "webhooks": [
            {**hook, "clientConfig": client or hook["clientConfig"]} for hook, client in zip(hooks, clients, strict=True)
        ]
    }


def definition_trusting(document: Mapping[str, Any], authorities: bytes) -> dict[str, Any]:
    """The merge patch that lets the conversion webhook of a definition be believed; empty if it is, or there is none."""
    conversion = document.get("spec", {}).get("conversion") or {}
    client = (conversion.get("webhook") or {}).get("clientConfig")
    changed = None if client is None else _trusting(client, authorities)
    return {} if changed is None else {"spec": {"conversion": {"webhook": {"clientConfig": changed}}}}


def _trusting(client: Mapping[str, Any], authorities: bytes) -> dict[str, Any] | None:
    """The clientConfig with these authorities (PEM) trusted; None if they are.

    One that trusts more is left alone: another replica is about to show a certificate of a newer authority.
    """
    if authorities in _decoded(client.get("caBundle")):
        return None
    return {**client, "caBundle": base64.b64encode(authorities).decode("ascii")}


def _decoded(bundle: object) -> bytes:
    try:
        return base64.b64decode(str(bundle or ""), validate=True)
    except binascii.Error:
        return b""
