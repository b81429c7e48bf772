"""The HTTP side: paths, media types, options, answers and the streams of watches.

One handler for everything, because routing is data: a path splits into group, version, namespace, resource, name and
subresource, and the registry says what that is. Decoding and deciding happen in codec.py and api.py; here is only what the
protocol adds. Bodies are read before anything is decided, so that a request is carried out in one go.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import yaml
from aiohttp import web

from lab.apiserver import admission, codec, discovery, protobuf, reviews, tables, typed
from lab.apiserver.api import Api, Call, DeleteOptions, decode_token, to_storage
from lab.apiserver.auth import ANONYMOUS, Attributes, Authorizer, Tokens, User
from lab.apiserver.errors import (
    ApiError,
    Cause,
    bad_request,
    forbidden,
    internal,
    invalid,
    invalid_value,
    method_not_allowed,
    not_found,
    too_large_version,
    too_long,
    unknown_resource,
    unsupported,
)
from lab.apiserver.resources import Registry, Resource, stored_field
from lab.apiserver.selectors import Requirement, Selector, parse_fields, parse_labels
from lab.apiserver.store import Stored
from lab.apiserver.watching import Hub, Watcher, line_of

Json = dict[str, Any]
BOOKMARK_EVERY_S = 60.0
BOOKMARK_BEFORE_END_S = 2.0
FUTURE_WAIT_S = 3.0
_JSON = "application/json"
_ALL = "application/json, application/yaml, application/vnd.kubernetes.protobuf"
_STREAMS = ", application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch"
CREATED = frozenset({"token", "binding", "eviction", "exec", "attach", "portforward"})  # Subresources that take a POST.
PATCH_TYPES = frozenset({
    "application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Format:
    """How the client wants the answer: form is json, yaml, Table, PartialObjectMetadata or PartialObjectMetadataList."""

    form: str
    version: str = "v1"


JSON = Format("json")


@dataclass(frozen=True, slots=True)
class Target:
    """What a path names. `namespace` None is all namespaces."""

    resource: Resource
    namespace: str | None
    name: str
    sub: str
    watch: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """A body that is ready to be sent."""

    status: int
    body: bytes
    content_type: str = _JSON
    headers: Mapping[str, str] | None = None


def negotiate(accept: str, *, stream_text: str) -> Format:
    """The first form in Accept that is served.

    Raises:
        ApiError: 406.

    """
    plain_refused = False
    for clause in (accept or "*/*").split(","):
        media, *parameters = (p.strip() for p in clause.split(";"))
        options = dict(p.split("=", 1) for p in parameters if "=" in p)
        if media not in {"*/*", "application/*", _JSON, "application/yaml"}:
            continue
        wanted = options.get("as", "")
        if not wanted or options.get("g") == "apidiscovery.k8s.io":
            return Format("yaml") if media == "application/yaml" else JSON
        if wanted in {"Table", "PartialObjectMetadata", "PartialObjectMetadataList"} and options.get("v") in {"v1", "v1beta1"}:
            return Format(wanted, options["v"])
        plain_refused = True
    if plain_refused:
        raise ApiError(406, "NotAcceptable", f"only the following media types are accepted: {_ALL}")
    message = f"406: Not Acceptable\n\nAvailable representations: {_ALL}{stream_text}"
    raise ApiError(406, "NotAcceptable", message, details={})


class Server:
    """Answers requests. `ready` says whether the bootstrap objects are there."""

    def __init__(
        self, api: Api, registry: Registry, hub: Hub, authorizer: Authorizer, tokens: Tokens, *,
        clock: Callable[[], float], rng: random.Random,
    ) -> None:  # fmt: skip
        self.api, self.registry, self.hub = api, registry, hub
        self.authorizer, self.tokens = authorizer, tokens
        self._clock, self._rng = clock, rng
        self._texts = discovery.Descriptions()
        self._documents: dict[str, tuple[int, bytes]] = {}
        self._webhooks = admission.Webhooks(api.store)
        self.closing = False

    async def close(self) -> None:
        """End all watches and connections to webhooks."""
        self.closing = True
        self.hub.end_all()
        await self._webhooks.close()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request."""
        call, form = Call(), JSON
        try:
            data = await request.read() if request.body_exists else b""
            user = self._authenticate(request)
            call.user = user
            parts = [p for p in request.path.split("/") if p]
            found = self._discovery(request, parts, user)
            if found is not None:
                return _response(found)
            target = self._target(request.path, parts)
            if target is None:
                return web.Response(status=404, text="404 page not found\n")
            if target.resource.custom is not None:
                warning = target.resource.custom.versions[target.resource.version].deprecation
                call.warn([warning] if warning else [])
            form = negotiate(request.headers.get("Accept", ""), stream_text="" if target.name else _STREAMS)
            if request.method == "GET" and (target.watch or (not target.name and _flag(request.query, "watch"))):
                return await self._watch(request, target, form, user, call)
            answer = await self._serve(request, target, form, data, call)
        except ApiError as error:
            answer = self._error(error, form)
        response = _response(answer)
        for warning in call.warnings:
            escaped = warning.replace("\\", "\\\\").replace('"', '\\"')
            response.headers.add("Warning", f'299 - "{escaped}"')
        return response

    @staticmethod
    def _error(error: ApiError, form: Format) -> Answer:
        if form.form == "yaml":
            return Answer(error.code, yaml.safe_dump(error.status()).encode(), "application/yaml", error.headers)
        return Answer(error.code, msgspec.json.encode(error.status()), _JSON, error.headers)

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
        watch = rest[:1] == ["watch"]
        if watch:
            rest = rest[1:]
        namespace: str | None = None
        if (
            len(rest) >= 3
            and rest[0] == "namespaces"
            and not (group == "" and len(rest) == 3 and rest[2] in {"status", "finalize"})
        ):
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
        if watch and name:
            name = f"={name}"  # A selector, not an object.
        return Target(resource, namespace, name, sub, watch)

    def _discovery(self, request: web.BaseRequest, parts: list[str], user: User) -> Answer | None:
        """Answers that need no resource."""
        head = parts[0] if parts else ""
        groups = len(parts) in {1, 2, 3} and head == "apis"
        if not (
            head in {"", "healthz", "livez", "readyz", "version", "openapi", "metrics"}
            or parts in (["api"], ["api", "v1"])
            or groups
        ):
            if head not in {"api", "apis"}:
                self.authorizer.require(user, Attributes(request.method.lower(), path=request.path))
                return Answer(404, b"404 page not found\n", "text/plain; charset=utf-8")
            return None
        self.authorizer.require(user, Attributes(request.method.lower(), path=request.path))
        match head:
            case "healthz" | "livez" | "readyz":
                return _health(head, parts, verbose="verbose" in request.query)
            case "version":
                return _json_answer(discovery.version_info())
            case "":
                return _json_answer({"paths": self._root_paths()})
            case "openapi":
                return self._openapi(request, parts)
            case "metrics":
                return Answer(200, b"", "text/plain; version=0.0.4")
        return self._groups(request, parts)

    def _root_paths(self) -> list[str]:
        out = ["/api", "/api/v1", "/apis", "/apis/"]
        for group in self.registry.groups():
            out += [f"/apis/{group}", *(f"/apis/{group}/{v}" for v in self.registry.versions(group))]
        return [*out, "/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]

    def _groups(self, request: web.BaseRequest, parts: list[str]) -> Answer:
        accept = request.headers.get("Accept", "")
        negotiate(accept, stream_text="")
        if len(parts) == 1:
            for clause in accept.split(","):
                if "as=APIGroupDiscoveryList" in clause:
                    version = "v2beta1" if "v=v2beta1" in clause else "v2"
                    groups = [""] if parts == ["api"] else self.registry.groups()
                    kind = f"application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"
                    return Answer(200, msgspec.json.encode(discovery.aggregated(self.registry, groups, version)), kind)
            if parts == ["api"]:
                host = request.headers.get("Host", "")
                addresses = [{"clientCIDR": "0.0.0.0/0", "serverAddress": host}]
                return _json_answer({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": addresses})
            return _json_answer(discovery.group_list(self.registry))
        if parts == ["api", "v1"]:
            return _json_answer(discovery.resource_list(self.registry, "", "v1") or {})
        group = parts[1]
        if group not in self.registry.groups():
            return Answer(404, b"404 page not found\n", "text/plain; charset=utf-8")
        if len(parts) == 2:
            return _json_answer({"kind": "APIGroup", "apiVersion": "v1", **discovery.group_entry(self.registry, group)})
        found = discovery.resource_list(self.registry, group, parts[2])
        if found is None:
            raise unknown_resource()
        return _json_answer(found)

    def _openapi(self, request: web.BaseRequest, parts: list[str]) -> Answer:
        if parts[1:] == ["v2"]:
            if "protobuf" in request.headers.get("Accept", ""):
                return Answer(200, discovery.EMPTY_OPENAPI_V2, "application/com.github.proto-openapi.spec.v2.v1.0+protobuf")
            return Answer(200, self._cached("v2", lambda: discovery.openapi_v2(self.registry, self._texts)))
        if parts[1:] == ["v3"]:
            return _json_answer(discovery.openapi_index(self.registry), "text/plain; charset=utf-8")
        group, version = ("", parts[3]) if parts[2:3] == ["api"] else (parts[3], parts[4]) if len(parts) == 5 else ("", "")
        body = self._cached("/".join(parts), lambda: discovery.openapi_v3(self.registry, group, version, self._texts))
        return Answer(200, body) if body != b"null" else Answer(404, b"", "text/plain; charset=utf-8")

    def _cached(self, name: str, make: Callable[[], Json | None]) -> bytes:
        held = self._documents.get(name)
        if held is None or held[0] != self.registry.version:
            held = self._documents[name] = (self.registry.version, msgspec.json.encode(make()))
        return held[1]

    # Verbs

    def _require(self, user: User, verb: str, target: Target) -> None:
        resource = target.resource
        name = target.name.removeprefix("=")
        namespace = target.namespace or ""
        if resource.type_name == "Namespace" and name:
            namespace = name
        self.authorizer.require(user, Attributes(verb, resource.group, resource.plural, target.sub, namespace, name))

    async def _serve(self, request: web.BaseRequest, target: Target, form: Format, data: bytes, call: Call) -> Answer:
        resource, method = target.resource, request.method
        if not target.name:
            verb = {"GET": "list", "POST": "create", "DELETE": "deletecollection"}.get(method, "")
        else:
            verb = {"GET": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete", "POST": "create"}.get(method, "")
        allowed = verb in resource.verbs and not (verb == "create" and (bool(target.name) != (target.sub in CREATED)))
        if verb == "create" and not target.name and resource.namespaced and target.namespace is None:
            if resource.custom is not None:
                return Answer(404, b"404 page not found\n", "text/plain; charset=utf-8")
            allowed = False
        if target.sub in {"status", "scale"}:
            allowed = verb in {"get", "update", "patch"}
        if not allowed:
            raise method_not_allowed()
        self._require(call.user, verb, target)
        call.manager = request.query.get("fieldManager") or _manager_of(request)
        options = request.query
        match verb:
            case "list":
                return await self._list(options, target, form)
            case "get":
                return await self._get(options, target, form, call)
            case "deletecollection":
                self._write_options(request, "DeleteOptions", call)
                return self._delete_collection(options, target, form, data, call)
            case "delete":
                self._write_options(request, "DeleteOptions", call)
                return await self._delete(options, target, form, data, call)
        self._write_options(
            request, {"create": "CreateOptions", "update": "UpdateOptions", "patch": "PatchOptions"}[verb], call
        )
        media = request.headers.get("Content-Type", "")
        if resource.group in {"authentication.k8s.io", "authorization.k8s.io"}:
            document = self._read(resource, data, media, call)
            review = reviews.review(resource, document, call.user, self.authorizer, self.tokens, self._clock, self.api)
            return _json_answer(review, status=201)
        if target.sub and target.sub != "status":
            return await self._subresource(target, verb, media, data, form, call)
        key = (target.namespace or "", target.name)
        if verb == "create":
            document = self._read(resource, data, media, call)
            await self._webhooks.review("CREATE", resource, target.namespace or "", document, None, call)
            document, _ = self.api.create(resource, target.namespace or "", document, call)
            return self._object(resource, document, form, options, status=201)
        if verb == "update":
            document = self._read(resource, data, media, call)
            before = self.api.store.get(resource.storage, key)
            if before is not None:
                await self._webhooks.review("UPDATE", resource, target.namespace or "", document, before, call, sub=target.sub)
            document, created = self.api.update(resource, key, document, call, sub=target.sub)
            return self._object(resource, document, form, options, status=201 if created else 200)
        kind = media.partition(";")[0].strip()
        if kind not in PATCH_TYPES:
            raise ApiError(415, "UnsupportedMediaType", "415: Unsupported Media Type", details={})
        call.force = _flag(options, "force")
        if kind == "application/apply-patch+yaml":
            call.manager = options.get("fieldManager", "")
            if not call.manager:
                cause = Cause("FieldValueRequired", "Required value: is required for apply patch", "fieldManager")
                raise invalid("meta.k8s.io", "PatchOptions", "", [cause])
        if self._webhooks.interested(resource, ("CREATE", "UPDATE")):
            await self._review_patch(target, key, kind, data, call)
        document, created = self.api.patch(resource, key, kind, data, call, sub=target.sub)
        return self._object(resource, document, form, options, status=201 if created else 200)

    async def _review_patch(self, target: Target, key: tuple[str, str], kind: str, data: bytes, call: Call) -> None:
        """Ask the webhooks about the outcome of a patch, made in a dry run."""
        trial = Call(call.user, call.manager, dry_run=True, validation=call.validation, force=call.force)
        document, created = self.api.patch(target.resource, key, kind, data, trial, sub=target.sub)
        before = self.api.store.get(target.resource.storage, key)
        operation = "CREATE" if created else "UPDATE"
        await self._webhooks.review(operation, target.resource, key[0], document, before, call, sub=target.sub)

    @staticmethod
    def _write_options(request: web.BaseRequest, kind: str, call: Call) -> None:
        """Check dryRun, fieldManager and fieldValidation."""
        query, causes = request.query, []
        dry = query.getall("dryRun", [])
        if dry and dry != ["All"]:
            shown = "[]string{" + ", ".join(f'"{d}"' for d in dry) + "}"
            causes.append(Cause("FieldValueNotSupported", f'Unsupported value: {shown}: supported values: "All"', "dryRun"))
        call.dry_run = dry == ["All"]
        if len(query.get("fieldManager", "")) > 128:
            causes.append(too_long("fieldManager", 128))
        validation = query.get("fieldValidation", "")
        if validation not in {"", "Ignore", "Strict", "Warn"}:
            causes.append(unsupported("fieldValidation", validation, ("", "Ignore", "Strict", "Warn")))
        call.validation = validation or "Warn"
        if causes:
            raise invalid("meta.k8s.io", kind, "", causes)

    @staticmethod
    def _read(resource: Resource, data: bytes, media: str, call: Call) -> Json:
        """The normalized document of a body."""
        faults: list[str] = []
        document = codec.read_object(resource, data, media, faults)
        unknown: list[str] = []
        try:
            document = codec.normalize(resource, document, unknown)
        except typed.MismatchError as error:
            raise codec.refuse_type(resource, error) from error
        faults += unknown
        if faults and call.validation == "Strict":
            raise codec.refuse_unknown(resource, faults)
        if call.validation == "Warn":
            call.warn(faults)
        return document

    def _object(
        self, resource: Resource, document: Json, form: Format, query: Mapping[str, str], *, status: int = 200
    ) -> Answer:
        if form is JSON or form.form == "json":
            return Answer(status, codec.encode(document))
        if form.form == "yaml":
            return Answer(status, yaml.safe_dump(document).encode(), "application/yaml")
        if form.form == "Table":
            include = _include(query)
            shown = tables.table(
                resource, [self._for_table(resource, document)], {"resourceVersion": document["metadata"].get("resourceVersion", "")},
                include, form.version, tables.utc_now(),
            )  # fmt: skip
            return _json_answer(shown, status=status)
        return _json_answer(tables.partial(document, form.version), status=status)

    @staticmethod
    def _for_table(resource: Resource, document: Json) -> Json:
        """Two views of one kind share the columns of the stored one."""
        return to_storage(resource, document) if resource.store_as else document

    async def _get(self, query: Mapping[str, str], target: Target, form: Format, call: Call) -> Answer:
        resource, key = target.resource, (target.namespace or "", target.name)
        await self._wait_for(query)
        stored = self.api.find(resource, key)
        if target.sub in {"log", "exec", "portforward", "attach"}:
            raise self._no_kubelet(stored, target, query)
        if target.sub == "scale":
            return _json_answer(reviews.scale_of(self.api.document(resource, stored)))
        if form.form == "json":
            return Answer(200, self.api.body(resource, stored))
        return self._object(resource, self.api.document(resource, stored), form, query)

    @staticmethod
    def _no_kubelet(stored: Stored, target: Target, query: Mapping[str, str]) -> ApiError:
        pod = msgspec.json.decode(stored.body)
        container = query.get("container", "")
        if container and container not in {c["name"] for c in pod["spec"]["containers"]}:
            return bad_request(f"container {container} is not valid for pod {target.name}")
        return ApiError(
            404,
            "NotFound",
            f"the lab's nodes have no kubelet: pods/{target.sub} is not offered; see the logs directory of the lab",
        )

    async def _wait_for(self, query: Mapping[str, str]) -> None:
        """A read at a version that is still to come waits a little, then is 504."""
        text = query.get("resourceVersion", "")
        if not text or text == "0":
            return
        wanted = _rv(text)
        if wanted > self.api.store.rv:
            await asyncio.sleep(FUTURE_WAIT_S)
            if wanted > self.api.store.rv:
                raise too_large_version(wanted, self.api.store.rv)

    def _selectors(self, query: Mapping[str, str], target: Target) -> tuple[Selector, Selector]:
        resource = target.resource

        def check(name: str) -> None:
            if name in {"metadata.name", "metadata.namespace"} or name in resource.fields:
                return
            if resource.custom_fields:
                raise bad_request(f"field label not supported: {name}")
            raise bad_request(f'"{name}" is not a known field selector: only "metadata.name", "metadata.namespace"')

        fields = parse_fields(query.get("fieldSelector", ""), check)
        fields = tuple(Requirement(stored_field(f.key), f.operator, f.values) for f in fields)
        if target.name.startswith("="):
            fields = (*fields, Requirement("metadata.name", "=", frozenset({target.name[1:]})))
        return parse_labels(query.get("labelSelector", "")), fields

    async def _list(self, query: Mapping[str, str], target: Target, form: Format) -> Answer:
        labels, fields = self._selectors(query, target)
        limit, after, at = await self._list_options(query)
        resource = target.resource
        page = self.api.list(resource, target.namespace, labels, fields, limit=limit, after=after, at=at)
        metadata: Json = {"resourceVersion": str(page.rv)}
        if page.token:
            metadata["continue"] = page.token
            if page.remaining is not None:
                metadata["remainingItemCount"] = page.remaining
        if form.form == "json":
            return Answer(200, self._list_body(resource, page.items, metadata))
        documents = [self.api.document(resource, s) for s in page.items]
        if form.form == "Table":
            shown = [self._for_table(resource, d) for d in documents]
            return _json_answer(tables.table(resource, shown, metadata, _include(query), form.version, tables.utc_now()))
        if form.form == "yaml":
            whole = {"kind": resource.list_name, "apiVersion": resource.api_version, "metadata": metadata, "items": documents}
            return Answer(200, yaml.safe_dump(whole).encode(), "application/yaml")
        items = [tables.partial(d, form.version) for d in documents]
        kind = {"kind": "PartialObjectMetadataList", "apiVersion": f"meta.k8s.io/{form.version}"}
        return _json_answer({**kind, "metadata": metadata, "items": items})

    def _list_body(self, resource: Resource, items: list[Stored], metadata: Json) -> bytes:
        """The bytes of a list: those of its objects, joined."""
        if resource.custom is not None:
            metadata = {"continue": "", **metadata}
        head = (
            f'{{"kind":"{resource.list_name}","apiVersion":"{resource.api_version}","metadata":'.encode()
            + msgspec.json.encode(metadata)
        )
        bodies = [self.api.body(resource, s) for s in items]
        if resource.custom is None:
            skip = len(resource.prefix)
            bodies = [b"{" + b[skip:] for b in bodies]
        return head + b',"items":[' + b",".join(bodies) + b"]}"

    async def _list_options(self, query: Mapping[str, str]) -> tuple[int, Any, int | None]:
        limit = _integer(query.get("limit", "0"))
        match = query.get("resourceVersionMatch", "")
        text, token = query.get("resourceVersion", ""), query.get("continue", "")
        causes: list[Cause] = []
        if match:
            if not text:
                causes.append(
                    forbidden("resourceVersionMatch", "resourceVersionMatch is forbidden unless resourceVersion is provided")
                )
            elif match not in {"Exact", "NotOlderThan"}:
                causes.append(unsupported("resourceVersionMatch", match, ("Exact", "NotOlderThan", "")))
            elif match == "Exact" and text == "0":
                causes.append(
                    forbidden("resourceVersionMatch", 'resourceVersionMatch "exact" is forbidden for resourceVersion "0"')
                )
        if "sendInitialEvents" in query:
            causes.append(forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list"))
        if causes:
            raise invalid("meta.k8s.io", "ListOptions", "", causes)
        if token:
            if text and text != "0":
                raise bad_request("specifying resource version is not allowed when using continue")
            return max(limit, 0), decode_token(token), None
        if match == "Exact":
            at = _rv(text)
            if at > self.api.store.rv:
                raise internal("etcdserver: mvcc: required revision is a future revision")
            return max(limit, 0), None, at
        await self._wait_for(query)
        return max(limit, 0), None, None

    # Deletes

    @staticmethod
    def _delete_options(query: Mapping[str, str], data: bytes, call: Call) -> DeleteOptions:
        body: Json = {}
        if data.strip():
            try:
                body, _ = codec.parse_json(data)
            except ValueError as error:
                raise internal(f"couldn't get version/kind; json parse error: {error}") from error
            if not isinstance(body, dict):
                raise internal("couldn't get version/kind; json parse error: the body is not an object")
            kind = body.get("kind", "DeleteOptions")
            if kind != "DeleteOptions":
                raise internal(
                    f'no kind "{kind}" is registered for version "{body.get("apiVersion")}" in scheme "pkg/runtime/scheme.go:100"'
                )
            try:
                body = typed.decode(body, "DeleteOptions", [])
            except typed.MismatchError as error:
                raise internal(str(error)) from error
        call.dry_run = call.dry_run or body.get("dryRun") == ["All"]
        policy = body.get("propagationPolicy") or query.get("propagationPolicy", "")
        orphan = body.get("orphanDependents")
        causes = []
        if policy and orphan is not None:
            causes.append(
                invalid_value("propagationPolicy", policy, "orphanDependents and deletionPropagation cannot be both set")
            )
        elif policy not in {"", "Foreground", "Background", "Orphan"}:
            causes.append(unsupported("propagationPolicy", policy, ("Foreground", "Background", "Orphan", "nil")))
        if causes:
            raise invalid("meta.k8s.io", "DeleteOptions", "", causes)
        if orphan:
            policy = "Orphan"
        grace = body.get("gracePeriodSeconds")
        if grace is None and "gracePeriodSeconds" in query:
            grace = _integer(query["gracePeriodSeconds"])
        conditions = body.get("preconditions") or {}
        return DeleteOptions(grace, policy, conditions.get("uid") or "", conditions.get("resourceVersion") or "")

    async def _delete(self, query: Mapping[str, str], target: Target, form: Format, data: bytes, call: Call) -> Answer:
        resource, key = target.resource, (target.namespace or "", target.name)
        if target.sub:
            raise method_not_allowed()
        options = self._delete_options(query, data, call)
        before = self.api.store.get(resource.storage, key)
        if before is not None:
            await self._webhooks.review("DELETE", resource, key[0], None, before, call)
        document, gone = self.api.delete(resource, key, options, call)
        if not gone or resource.returns_deleted:
            return self._object(resource, document, form, query)
        details: Json = {"name": key[1]}
        if resource.group:
            details["group"] = resource.group
        details |= {"kind": resource.plural, "uid": document["metadata"]["uid"]}
        return _json_answer({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})

    def _delete_collection(self, query: Mapping[str, str], target: Target, form: Format, data: bytes, call: Call) -> Answer:
        options = self._delete_options(query, data, call)
        labels, fields = self._selectors(query, target)
        page = self.api.list(target.resource, target.namespace, labels, fields)
        for stored in page.items:
            self.api.delete(target.resource, stored.key, options, call)
        metadata = {"resourceVersion": str(page.rv)}
        return Answer(200, self._list_body(target.resource, page.items, metadata))

    async def _subresource(self, target: Target, verb: str, media: str, data: bytes, form: Format, call: Call) -> Answer:
        """finalize, scale, token, binding, eviction."""
        resource, key = target.resource, (target.namespace or "", target.name)
        if target.sub in {"log", "exec", "portforward", "attach"}:
            raise self._no_kubelet(self.api.find(resource, key), target, {})
        if target.sub == "finalize":
            document = self._read(resource, data, media, call)
            finalizers = document["spec"].get("finalizers")
            return self._object(resource, reviews.finalize(self.api, resource, key, finalizers), form, {})
        if target.sub == "scale":
            return _json_answer(reviews.scale(self.api, resource, key, verb, media.partition(";")[0], data, call))
        try:
            document = msgspec.json.decode(data) if media.startswith(_JSON) or not media else protobuf.decode(data) or {}
        except msgspec.DecodeError as error:
            raise bad_request(f"couldn't get version/kind; json parse error: {error}") from error
        kind = {"token": "AuthenticationTokenRequest", "binding": "Binding", "eviction": "Eviction"}[target.sub]
        try:
            document = typed.decode(document if isinstance(document, dict) else {"metadata": document}, kind, [])
        except typed.MismatchError as error:
            raise bad_request(
                f"the object provided is unrecognized (must be of type {typed.go_name(kind)}): {error}"
            ) from error
        if target.sub == "token":
            return _json_answer(reviews.token_request(self.api, self.tokens, key, document, self._clock()), status=201)
        if target.sub == "binding":
            return _json_answer(reviews.bind(self.api, resource, key, document), status=201)
        return _json_answer(reviews.evict(self.api, resource, key, document, call), status=201)

    # Watches

    async def _watch(
        self, request: web.BaseRequest, target: Target, form: Format, user: User, call: Call
    ) -> web.StreamResponse:
        query, resource = request.query, target.resource
        self._require(user, "watch", target)
        labels, fields = self._selectors(query, target)
        initial = query.get("sendInitialEvents", "")
        match = query.get("resourceVersionMatch", "")
        if initial and match != "NotOlderThan":
            text = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
            raise invalid("meta.k8s.io", "ListOptions", "", [forbidden("resourceVersionMatch", text)])
        if match and not initial:
            text = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
            raise invalid("meta.k8s.io", "ListOptions", "", [forbidden("resourceVersionMatch", text)])
        timeout_s = float(_integer(query.get("timeoutSeconds", "0"))) or self._rng.uniform(1800, 3600)
        since = _rv(query.get("resourceVersion", "") or "0")
        watcher = Watcher(self.api, resource, target.namespace, labels, fields, self._shaper(resource, form, query))
        response = web.StreamResponse(headers={"Content-Type": _JSON})
        for warning in call.warnings:
            response.headers.add("Warning", f'299 - "{warning}"')
        response.enable_chunked_encoding()
        bookmarks = _flag(query, "allowWatchBookmarks")
        self._begin(watcher, since, initial, bookmarks=bookmarks)
        self.hub.add(watcher)
        try:
            await response.prepare(request)
            await self._stream(response, watcher, timeout_s, bookmarks=bookmarks)
            with contextlib.suppress(ConnectionError):
                await response.write_eof()
        except ConnectionError:
            pass  # The client is gone; the watch ends with it.
        finally:
            self.hub.remove(watcher)
        return response

    def _begin(self, watcher: Watcher, since: int, initial: str, *, bookmarks: bool) -> None:
        """Queue what the watch starts with."""
        store, resource = self.api.store, watcher.resource
        watcher.sent_rv = store.rv
        if initial == "true" or (not initial and not since):
            for stored in self.api.list(resource, watcher.namespace, watcher.labels, watcher.fields).items:
                watcher.push("ADDED", stored, None)
            if initial == "true" and bookmarks:
                watcher.pending.append(self._bookmark(watcher, ending=True))
            return
        watcher.after_rv = max(since, 0)
        try:
            changes = store.changes_since(resource.storage, since) if since <= store.rv else []
        except ApiError as error:
            watcher.pending.append(line_of("ERROR", msgspec.json.encode(error.status())))
            watcher.ended = True
            return
        watcher.sent_rv = since
        for change in changes:
            watcher.offer(change)

    def _bookmark(self, watcher: Watcher, *, ending: bool = False) -> bytes:
        metadata: Json = {"resourceVersion": str(self.api.store.rv), "creationTimestamp": None}
        if ending:
            metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
        resource = watcher.resource
        return line_of(
            "BOOKMARK", msgspec.json.encode({"kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata})
        )

    async def _stream(self, response: web.StreamResponse, watcher: Watcher, timeout_s: float, *, bookmarks: bool) -> None:
        """Send events until the time is over, the server closes or the watcher is ended."""
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout_s
        marks = [end - BOOKMARK_BEFORE_END_S] if bookmarks and timeout_s > BOOKMARK_BEFORE_END_S else []
        next_mark = min(loop.time() + BOOKMARK_EVERY_S, *marks) if marks else end
        while True:
            if watcher.pending:
                lines, watcher.pending = watcher.pending, []
                await response.write(b"".join(lines))
                continue
            now = loop.time()
            if watcher.ended or now >= end or self.closing:
                return
            if bookmarks and now >= next_mark:
                next_mark = marks[0] if marks and now < marks[0] < now + BOOKMARK_EVERY_S else now + BOOKMARK_EVERY_S
                if self.api.store.rv > watcher.sent_rv:
                    watcher.sent_rv = self.api.store.rv
                    await response.write(self._bookmark(watcher))
                    continue
            watcher.wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(min(end, next_mark) - now, 0)):
                    await watcher.wake.wait()

    def _shaper(self, resource: Resource, form: Format, query: Mapping[str, str]) -> Callable[[str, Json, int], Json] | None:
        """How watch objects are shown, or None for plain JSON."""
        if form.form in {"json", "yaml"}:
            return None
        if form.form != "Table":
            return lambda _kind, document, _rv: tables.partial(document, form.version)
        include = _include(query)
        columns, cells = tables.columns_of(resource)
        first = [columns]

        def shape(_kind: str, document: Json, rv: int) -> Json:
            shown = first.pop() if first else None
            line = tables.row(self._for_table(resource, document), cells, include, form.version, tables.utc_now())
            return {
                "kind": "Table", "apiVersion": f"meta.k8s.io/{form.version}", "metadata": {"resourceVersion": str(rv)},
                "columnDefinitions": shown, "rows": [line],
            }  # fmt: skip

        return shape


def _certificate_user(request: web.BaseRequest) -> User | None:
    """The user of a client certificate that our CA signed: CN is the name, O the groups."""
    certificate = request.get_extra_info("peercert")
    if not certificate:
        return None
    parts = [pair for rdn in certificate.get("subject", ()) for pair in rdn]
    name = next((v for k, v in parts if k == "commonName"), "")
    groups = tuple(v for k, v in parts if k == "organizationName")
    return User(name, (*groups, "system:authenticated")) if name else None


def _response(answer: Answer) -> web.Response:
    response = web.Response(status=answer.status, body=answer.body, headers=answer.headers)
    response.headers["Content-Type"] = answer.content_type
    return response


def _json_answer(document: Json, content_type: str = _JSON, *, status: int = 200) -> Answer:
    return Answer(status, msgspec.json.encode(document), content_type)


def _health(kind: str, parts: list[str], *, verbose: bool) -> Answer:
    text = "text/plain; charset=utf-8"
    if len(parts) == 2 and parts[1] != "ping":
        return Answer(404, b"404 page not found\n", text)
    if verbose:
        return Answer(200, f"[+]ping ok\n[+]log ok\n[+]etcd ok\n{kind} check passed\n".encode(), text)
    return Answer(200, b"ok", text)


def _flag(query: Mapping[str, str], name: str) -> bool:
    return query.get(name, "") in {"1", "true", "True", "t"}


def _include(query: Mapping[str, str]) -> str:
    include = query.get("includeObject", "")
    if include not in {"", "Metadata", "Object", "None"}:
        detail = f"includeObject: Invalid value: \"{include}\": must be 'Metadata', 'Object', 'None', or empty"
        raise bad_request(f"Unable to convert to Table as requested: {detail}")
    return include


def _integer(text: str) -> int:
    try:
        return int(text or "0")
    except ValueError:
        raise bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax') from None


def _rv(text: str) -> int:
    if not text.isdigit():
        raise internal(f'resourceVersion: Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax')
    return int(text)


def _manager_of(request: web.BaseRequest) -> str:
    return request.headers.get("User-Agent", "unknown").partition("/")[0][:128]
