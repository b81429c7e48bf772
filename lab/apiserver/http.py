"""The HTTP side: paths, media types, options, and who does what.

One handler for everything, because routing is data: a path splits into group, version, namespace, resource, name and
subresource, and the registry says what that is. Decoding and deciding happen in codec.py and api.py; here is only what the
protocol adds. Bodies are read before anything is decided, so that a request is carried out in one go.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import web

from lab.apiserver import discovery, openapi_v2
from lab.apiserver.answers import (
    JSON_TYPE,
    NO_PAGE,
    PLAIN,
    STREAM_TYPES,
    Answer,
    Target,
    flag,
    json_answer,
    negotiate,
    response_of,
)
from lab.apiserver.api import Call
from lab.apiserver.auth import ANONYMOUS, Attributes, User
from lab.apiserver.errors import ApiError, not_found, unknown_resource
from lab.apiserver.handlers import Handlers
from lab.apiserver.resources import Registry
from lab.apiserver.streams import Streams

Json = dict[str, Any]


class Server:
    """Answers requests: finds out who asks for what, and hands it to the handlers or the streams."""

    def __init__(self, registry: Registry, handlers: Handlers, streams: Streams, clock: Callable[[], float]) -> None:
        self.registry, self.handlers, self.streams = registry, handlers, streams
        self.authorizer, self.tokens = handlers.authorizer, handlers.tokens
        self._clock = clock
        self._documents: dict[str, tuple[int, bytes]] = {}

    async def close(self) -> None:
        """End all watches and connections to webhooks."""
        self.streams.close()
        await self.handlers.close()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request."""
        call = Call()
        try:
            data = await request.read() if request.body_exists else b""
            user = self._authenticate(request)
            call.user = user
            parts = [p for p in request.path.split("/") if p]
            found = self._discovery(request, parts, user)
            if found is not None:
                return response_of(found)
            target = self._target(request.path, parts)
            if target is None:
                return response_of(NO_PAGE)
            if target.resource.custom is not None:
                warning = target.resource.custom.versions[target.resource.version].deprecation
                call.warn([warning] if warning else [])
            form = negotiate(request.headers.get("Accept", ""), stream_text="" if target.name else STREAM_TYPES)
            if request.method == "GET" and not target.name and flag(request.query, "watch"):
                return await self.streams.watch(request, target, form, user, call)
            answer = await self.handlers.serve(request, target, form, data, call)
        except ApiError as error:
            answer = Answer(error.code, msgspec.json.encode(error.status()), JSON_TYPE, error.headers)
        response = response_of(answer)
        for warning in call.warnings:
            escaped = warning.replace("\\", "\\\\").replace('"', '\\"')
            response.headers.add("Warning", f'299 - "{escaped}"')
        return response

    # Who and what

    def _authenticate(self, request: web.BaseRequest) -> User:
        header = request.headers.get("Authorization", "")
        if header.startswith("Bearer "):
            known = self.tokens.check(header[7:].strip(), self._clock())
            if known is None:
                raise ApiError(401, "Unauthorized", "Unauthorized")
            user = known[0]
        else:
            user = _certificate_user(request) or ANONYMOUS
        other = request.headers.get("Impersonate-User")
        if not other:
            return user
        self.authorizer.require(user, Attributes("impersonate", "", "users", name=other))
        groups = tuple(request.headers.getall("Impersonate-Group", []))
        if other.startswith("system:serviceaccount:"):
            namespace = other.split(":")[2]
            groups = groups or ("system:serviceaccounts", f"system:serviceaccounts:{namespace}")
        return User(other, (*groups, "system:authenticated"))

    def _target(self, path: str, parts: list[str]) -> Target | None:
        """What a path names; None for "404 page not found".

        Raises:
            ApiError: 404 in a group that is known.

        """
        if parts[:2] == ["api", "v1"]:
            group, version, rest = "", "v1", parts[2:]
        elif parts[:1] == ["apis"] and len(parts) >= 3:
            group, version, rest = parts[1], parts[2], parts[3:]
        else:
            return None
        namespace: str | None = None
        own = group == "" and len(rest) == 3 and rest[2] in {"status", "finalize"}  # Subresources of the namespace itself.
        if len(rest) >= 3 and rest[0] == "namespaces" and not own:
            namespace, rest = rest[1], rest[2:]
        plural = rest[0] if rest else ""
        resource = self.registry.find(group, version, plural)
        if resource is None or (namespace is not None and not resource.namespaced) or len(rest) > 3:
            known = any(r.group == group and r.custom is None for r in self.registry.all())
            if known or (resource is not None):
                raise unknown_resource()
            return None
        name, sub = (rest[1] if len(rest) > 1 else ""), (rest[2] if len(rest) > 2 else "")
        if name and resource.namespaced and namespace is None:
            raise unknown_resource()
        if sub and sub not in discovery.subresources(resource):
            if resource.custom is not None:
                raise not_found(resource.group, resource.plural, name)
            raise unknown_resource()
        return Target(resource, namespace, name, sub)

    def _discovery(self, request: web.BaseRequest, parts: list[str], user: User) -> Answer | None:
        """Answers that need no resource; None for a path that names one."""
        head = parts[0] if parts else ""
        if (head == "api" and (len(parts) > 2 or parts[1:] not in ([], ["v1"]))) or (head == "apis" and len(parts) > 3):
            return None
        self.authorizer.require(user, Attributes(request.method.lower(), path=request.path))
        match head:
            case "healthz" | "livez" | "readyz":
                return _health(head, verbose="verbose" in request.query)
            case "version":
                return json_answer(discovery.version_info())
            case "":
                return json_answer({"paths": ["/api", "/apis", "/healthz", "/livez", "/openapi/v3", "/readyz", "/version"]})
            case "openapi":
                return self._openapi(request, parts)
            case "api" | "apis":
                return self._groups(request, parts)
        return NO_PAGE

    def _groups(self, request: web.BaseRequest, parts: list[str]) -> Answer:
        accept, registry = request.headers.get("Accept", ""), self.registry
        negotiate(accept, stream_text="")
        core = parts[0] == "api"
        if len(parts) == 1:
            for clause in accept.split(","):
                if "as=APIGroupDiscoveryList" in clause:
                    version = "v2beta1" if "v=v2beta1" in clause else "v2"
                    kind = f"application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"
                    return json_answer(discovery.aggregated(registry, [""] if core else registry.groups(), version), kind)
            if core:
                addresses = [{"clientCIDR": "0.0.0.0/0", "serverAddress": request.headers.get("Host", "")}]
                return json_answer({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": addresses})
            return json_answer(discovery.group_list(registry))
        group = "" if core else parts[1]
        if group and group not in registry.groups():
            return NO_PAGE
        if len(parts) == 2 and not core:
            return json_answer({"kind": "APIGroup", "apiVersion": "v1", **discovery.group_entry(registry, group)})
        found = discovery.resource_list(registry, group, parts[-1])
        if found is None:
            raise unknown_resource()
        return json_answer(found)

    def _openapi(self, request: web.BaseRequest, parts: list[str]) -> Answer:
        if parts[1:] == ["v2"]:
            kind = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
            if "protobuf" not in request.headers.get("Accept", ""):
                raise ApiError(406, "NotAcceptable", f"only the following media types are accepted: {kind}")
            body = self._cached("v2", lambda: discovery.openapi_v2(self.registry), openapi_v2.encode)
            return Answer(200, body, kind)
        if parts[1:] == ["v3"]:
            return json_answer(discovery.openapi_index(self.registry), PLAIN)
        group, version = ("", parts[3]) if parts[2:3] == ["api"] else (parts[3], parts[4]) if len(parts) == 5 else ("", "")
        body = self._cached("/".join(parts), lambda: discovery.openapi_v3(self.registry, group, version))
        return Answer(200, body) if body != b"null" else Answer(404, b"", PLAIN)

    def _cached(
        self, name: str, make: Callable[[], Json | None], encode: Callable[[Any], bytes] = msgspec.json.encode
    ) -> bytes:
        held = self._documents.get(name)
        if held is None or held[0] != self.registry.version:
            held = self._documents[name] = (self.registry.version, encode(make()))
        return held[1]


def _certificate_user(request: web.BaseRequest) -> User | None:
    """The user of a client certificate that our CA signed: CN is the name, O the groups."""
    certificate = request.get_extra_info("peercert")
    if not certificate:
        return None
    parts = [pair for rdn in certificate.get("subject", ()) for pair in rdn]
    name = next((v for k, v in parts if k == "commonName"), "")
    groups = tuple(v for k, v in parts if k == "organizationName")
    return User(name, (*groups, "system:authenticated")) if name else None


def _health(kind: str, *, verbose: bool) -> Answer:
    text = f"[+]ping ok\n[+]log ok\n[+]etcd ok\n{kind} check passed\n" if verbose else "ok"
    return Answer(200, text.encode(), PLAIN)
