"""Webhooks, asked over HTTPS: validating ones about writes they are registered for, and those that convert.

The real calls; a webhook that cannot be reached refuses or lets pass as its failurePolicy says. Mutating webhooks are stored
and not called: nothing of ours registers one. http.py asks before api.py writes.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import functools
import ssl
import uuid
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
from aiohttp import SocketFactoryType

from lab.apiserver import conversion, crds
from lab.apiserver.api import Call
from lab.apiserver.conversion import Missing
from lab.apiserver.errors import ApiError
from lab.apiserver.resources import Resource
from lab.apiserver.selectors import matches, of_object
from lab.apiserver.store import Store, Stored

Json = dict[str, Any]
_SHELF = "validatingwebhookconfigurations.admissionregistration.k8s.io"
FAILURES = (
    aiohttp.ClientError, TimeoutError, OSError, ssl.SSLError, msgspec.DecodeError, msgspec.ValidationError, LookupError, binascii.Error,
)  # fmt: skip
_UNCALLED = {"validatingwebhookconfigurations", "mutatingwebhookconfigurations"}


@functools.lru_cache(maxsize=16)
def _trusting(bundle: str) -> ssl.SSLContext:
    """A context that trusts the authorities of a caBundle. Kept, as connections are for each context."""
    return ssl.create_default_context(cadata=base64.b64decode(bundle).decode() if bundle else None)


class Webhooks:
    """The registered webhooks and a client to call them; `dial` makes its sockets, where they are not ordinary ones."""

    def __init__(self, store: Store, dial: SocketFactoryType | None = None) -> None:
        self._store = store
        self._dial = dial
        self._version = -1
        self._hooks: list[Json] = []
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the client."""
        if self._session is not None:
            await self._session.close()

    def _registered(self) -> list[Json]:
        shelf = self._store.shelf(_SHELF)
        if shelf.version != self._version:
            self._version = shelf.version
            self._hooks = [
                h for k in shelf.sorted_keys() for h in msgspec.json.decode(shelf.objects[k].body).get("webhooks") or ()
            ]
        return self._hooks

    def interested(self, resource: Resource, operations: tuple[str, ...], sub: str = "") -> list[Json]:
        """The webhooks registered for writes of a resource."""
        if resource.plural in _UNCALLED:
            return []
        name = f"{resource.plural}/{sub}" if sub else resource.plural
        return [h for h in self._registered() if _version_for(h, resource, operations, name)]

    async def review(
        self, operation: str, resource: Resource, namespace: str, new: Json | None, old: Stored | None, call: Call, *, sub: str = ""
    ) -> None:  # fmt: skip
        """Ask all webhooks about a write.

        Raises:
            ApiError: one of them refuses, or cannot be asked and must be.

        """
        for hook in self.interested(resource, (operation,), sub):
            name = f"{resource.plural}/{sub}" if sub else resource.plural
            version = _version_for(hook, resource, (operation,), name)
            shown = _in_version(new, version, resource)
            before = _in_version(msgspec.json.decode(old.body) if old is not None else None, version, resource)
            if not self._selected(hook, namespace, shown, before):
                continue
            body = _question(version, operation, resource, namespace, shown, before, call, sub)
            try:
                answer = (await self._post(hook["clientConfig"], body, hook["timeoutSeconds"]))["response"]
            except FAILURES as error:
                if hook["failurePolicy"] == "Ignore":
                    continue
                raise _unreachable(hook, error) from error
            if not answer.get("allowed"):
                status = answer.get("status") or {}
                reason = status.get("message") or status.get("reason") or "denied without explanation"
                message = f'admission webhook "{hook["name"]}" denied the request: {reason}'
                raise ApiError(int(status.get("code") or 403), status.get("reason") or "Forbidden", message)
            call.warn(list(answer.get("warnings") or ()))

    def _selected(self, hook: Json, namespace: str, shown: Json | None, before: Json | None) -> bool:
        labels = [(d.get("metadata") or {}).get("labels") or {} for d in (shown, before) if d is not None]
        if not any(matches(of_object(hook["objectSelector"]), found) for found in labels):
            return False
        stored = self._store.get("namespaces", ("", namespace)) if namespace else None
        return stored is None or matches(of_object(hook["namespaceSelector"]), stored.labels)

    def _address(self, config: Json) -> tuple[str, str]:
        """URL to call and the host name the certificate must have."""
        if config.get("url"):
            return config["url"], urlsplit(config["url"]).hostname or ""
        service = config["service"]
        found = self._store.get("services", (service["namespace"], service["name"]))
        if found is None:
            raise LookupError(f'service "{service["name"]}" not found')
        document = msgspec.json.decode(found.body)
        slices = self._store.shelf("endpointslices.discovery.k8s.io")
        wanted = {"kubernetes.io/service-name": service["name"]}
        port = next((p for p in document["spec"].get("ports") or () if p["port"] == service.get("port", 443)), None)
        for key, stored in slices.objects.items():
            if key[0] != service["namespace"] or not wanted.items() <= dict(stored.labels).items() or port is None:
                continue
            endpoint_slice = msgspec.json.decode(stored.body)
            numbers = {p["name"]: p.get("port") for p in endpoint_slice.get("ports") or ()}
            for endpoint in endpoint_slice.get("endpoints") or ():
                number = numbers.get(port.get("name", ""))
                if endpoint["conditions"].get("ready", True) and number:
                    path = service.get("path", "/")
                    return f"https://{endpoint['addresses'][0]}:{number}{path}", f"{service['name']}.{service['namespace']}.svc"
        raise LookupError(f'no endpoints available for service "{service["name"]}"')

    async def convert(self, missing: Missing) -> None:
        """Ask for a conversion, and remember it.

        Raises:
            ApiError: it could not be had.

        """
        asked = conversion.question(missing)
        try:
            review = await self._post(missing.config["clientConfig"], asked, conversion.TIMEOUT_S)
        except FAILURES as error:
            raise conversion.failed(missing, _why(missing.config["clientConfig"], error, conversion.TIMEOUT_S)) from error
        conversion.remember(missing, asked, review)

    async def _post(self, client: Json, body: Json, timeout_s: int) -> Json:
        """The answer of a webhook."""
        url, host = self._address(client)
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(socket_factory=self._dial))
        context = _trusting(client.get("caBundle") or "")
        async with asyncio.timeout(timeout_s):
            async with self._session.post(
                url, params={"timeout": f"{timeout_s}s"}, data=msgspec.json.encode(body), ssl=context, server_hostname=host,
                headers={"Content-Type": "application/json", "Accept": "application/json"},
            ) as answer:  # fmt: skip
                answer.raise_for_status()
                review: Json = msgspec.json.decode(await answer.read(), type=dict)
                return review


def _question(
    version: str, operation: str, resource: Resource, namespace: str, new: Json | None, old: Json | None, call: Call, sub: str
) -> Json:
    """The AdmissionReview to send."""
    kind = {"group": resource.group, "version": version, "kind": resource.kind}
    where = {"group": resource.group, "version": version, "resource": resource.plural}
    requested = {"version": resource.version}
    return {
        "kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": str(uuid.uuid4()), "kind": kind, "resource": where, "requestKind": {**kind, **requested},
            "requestResource": {**where, **requested}, "subResource": sub, "name": (new or old or {})["metadata"]["name"],
            "namespace": namespace, "operation": operation, "object": new, "oldObject": old, "dryRun": call.dry_run, "options": None,
            "userInfo": {"username": call.user.name, "groups": list(call.user.groups)},
        },
    }  # fmt: skip


def _in_version(document: Json | None, version: str, resource: Resource) -> Json | None:
    """The document in the version that a webhook is registered for."""
    if document is None or resource.custom is None or document.get("apiVersion") == f"{resource.group}/{version}":
        return document
    return crds.in_version(document, version, resource.custom, resource.group)


def _version_for(hook: Json, resource: Resource, operations: tuple[str, ...], name: str) -> str:
    """The version of a resource in which a webhook wants to see it; empty if it does not. Equivalent versions count."""
    versions = [resource.version]
    if resource.custom is not None and hook.get("matchPolicy", "Equivalent") == "Equivalent":
        versions += [v for v in resource.custom.versions if v != resource.version]
    rules = hook.get("rules") or ()
    return next((v for v in versions if any(_covers(r, resource, v, operations, name) for r in rules)), "")


def _covers(rule: Json, resource: Resource, version: str, operations: tuple[str, ...], name: str) -> bool:
    def has(member: str, wanted: str) -> bool:
        return any(v in {"*", wanted} for v in rule.get(member) or ())

    scope = rule.get("scope", "*")
    return (
        any(has("operations", o) for o in operations)
        and has("apiGroups", resource.group)
        and has("apiVersions", version)
        and (has("resources", name) or "*/*" in (rule.get("resources") or ()))
        and scope in {"*", "Namespaced" if resource.namespaced else "Cluster"}
    )


def _unreachable(hook: Json, error: Exception) -> ApiError:
    why = _why(hook["clientConfig"], error, hook["timeoutSeconds"])
    message = f'failed calling webhook "{hook["name"]}": failed to call webhook: {why}'
    details = {"causes": [{"message": message}]}
    return ApiError(500, "InternalError", f"Internal error occurred: {message}", details=details)


def _why(client: Json, error: Exception, timeout_s: int) -> str:
    if not isinstance(error, aiohttp.ClientConnectorError):
        return str(error) or type(error).__name__
    url = client.get("url") or f"https://{error.host}:{error.port}/"
    refused = isinstance(error.os_error, ConnectionRefusedError)
    detail = "connect: connection refused" if refused else str(getattr(error, "certificate_error", error.os_error))
    return f'Post "{url}?timeout={timeout_s}s": dial tcp {error.host}:{error.port}: {detail}'
