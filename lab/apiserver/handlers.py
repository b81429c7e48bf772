"""The verbs as requests make them: options from the query, objects from bodies, answers in the form asked for.

http.py has found out who asks for what; here the request is checked (allowed, well formed), carried out by api.py and
answered. One function per verb, none per kind.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from aiohttp import SocketFactoryType, web

from lab.apiserver import admission, codec, protobuf, reviews, tables, typed
from lab.apiserver.answers import JSON_TYPE, NO_PAGE, Answer, Format, Target, flag, include_of, integer, json_answer, version_of
from lab.apiserver.api import Api, Call, DeleteOptions, decode_token, to_storage
from lab.apiserver.auth import Attributes, Authorizer, Tokens, User
from lab.apiserver.conversion import Missing
from lab.apiserver.errors import (
    ApiError,
    Cause,
    bad_request,
    forbidden,
    go_strings,
    internal,
    invalid,
    invalid_value,
    method_not_allowed,
    required,
    too_large_version,
    too_long,
    unsupported,
)
from lab.apiserver.resources import Resource, stored_field
from lab.apiserver.selectors import Requirement, Selector, parse_fields, parse_labels
from lab.apiserver.store import Stored

Json = dict[str, Any]
FUTURE_WAIT_S = 3.0
CREATED = frozenset({"token", "binding", "eviction", "exec", "attach", "portforward"})  # Subresources that take a POST.
_VERBS = {  # By method, and whether the path names an object.
    ("GET", False): "list", ("POST", False): "create", ("DELETE", False): "deletecollection", ("GET", True): "get",
    ("PUT", True): "update", ("PATCH", True): "patch", ("DELETE", True): "delete", ("POST", True): "create",
}  # fmt: skip
_OPTIONS = {
    "create": "CreateOptions", "update": "UpdateOptions", "patch": "PatchOptions", "delete": "DeleteOptions",
    "deletecollection": "DeleteOptions",
}  # fmt: skip
PATCH_TYPES = frozenset({
    "application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
})  # fmt: skip


class Handlers:
    """Carries out requests on resources."""

    def __init__(
        self,
        api: Api,
        authorizer: Authorizer,
        tokens: Tokens,
        clock: Callable[[], float],
        dial: SocketFactoryType | None = None,
    ) -> None:
        self.api, self.authorizer, self.tokens = api, authorizer, tokens
        self._clock = clock
        self._webhooks = admission.Webhooks(api.store, dial)

    async def close(self) -> None:
        """Close the connections to webhooks."""
        await self._webhooks.close()

    def require(self, user: User, verb: str, target: Target, query: Mapping[str, str]) -> None:
        """Let the user pass, or raise 403. A selection of one name counts as that name, so resourceNames cover it."""
        resource = target.resource
        one = re.search(r"(?:^|,)metadata\.name==?([^,]+)", query.get("fieldSelector", ""))
        name = target.name or (one[1] if one else "")
        namespace = target.namespace or ""
        if resource.type_name == "Namespace" and target.name:
            namespace = name
        self.authorizer.require(user, Attributes(verb, resource.group, resource.plural, target.sub, namespace, name))

    async def serve(self, request: web.BaseRequest, target: Target, form: Format, data: bytes, call: Call) -> Answer:
        """The answer to a request that is no watch; done again whenever a conversion had to be asked for first."""
        while True:
            try:
                return await self._serve(request, target, form, data, call)
            except Missing as missing:
                await self._webhooks.convert(missing)

    async def _serve(self, request: web.BaseRequest, target: Target, form: Format, data: bytes, call: Call) -> Answer:
        resource, method, query = target.resource, request.method, request.query
        verb = _VERBS.get((method, bool(target.name)), "")
        allowed = verb in resource.verbs and not (verb == "create" and (bool(target.name) != (target.sub in CREATED)))
        if verb == "create" and not target.name and resource.namespaced and target.namespace is None:
            if resource.custom is not None:
                return NO_PAGE
            allowed = False
        if not (verb in {"get", "update", "patch"} if target.sub in {"status", "scale"} else allowed):
            raise method_not_allowed()
        self.require(call.user, verb, target, query)
        call.manager = query.get("fieldManager") or _manager_of(request)
        if verb == "list":
            return await self._list(query, target, form)
        if verb == "get":
            return await self._get(query, target, form)
        self._write_options(query, _OPTIONS[verb], call)
        if verb == "deletecollection":
            return self._delete_collection(query, target, data, call)
        if verb == "delete":
            return await self._delete(query, target, form, data, call)
        media = request.headers.get("Content-Type", "")
        if resource.group in {"authentication.k8s.io", "authorization.k8s.io"}:
            document = self._read(resource, data, media, call)
            review = reviews.review(resource, document, call.user, self.authorizer, self.tokens, self._clock, self.api)
            return json_answer(review, status=201)
        if target.sub and target.sub != "status":
            return await self._subresource(target, verb, media, data, form, call)
        write = self._writer(target, verb, media, data, query, call)
        if self._webhooks.interested(resource, ("CREATE", "UPDATE"), target.sub):
            await self._review(target, write, call)
        document, created = write(call)
        return self._object(resource, document, form, query, status=201 if created else 200)

    def _writer(
        self, target: Target, verb: str, media: str, data: bytes, query: Mapping[str, str], call: Call
    ) -> Callable[[Call], tuple[Json, bool]]:
        """What carries out a create, update or patch; it can be called for a trial first. Returns the object and if it is new."""
        resource, key = target.resource, (target.namespace or "", target.name)
        if verb == "patch":
            kind = media.partition(";")[0].strip()
            if kind not in PATCH_TYPES:
                raise ApiError(415, "UnsupportedMediaType", "415: Unsupported Media Type", details={})
            call.force = flag(query, "force")
            if kind == "application/apply-patch+yaml":
                call.manager = query.get("fieldManager", "")
                if not call.manager:
                    raise invalid("meta.k8s.io", "PatchOptions", "", [required("fieldManager", "is required for apply patch")])
            return lambda call: self.api.patch(resource, key, kind, data, call, sub=target.sub)
        document = self._read(resource, data, media, call)

        def given(call: Call) -> Json:
            return codec.copy_of(document) if call.dry_run else document

        if verb == "update":
            return lambda call: self.api.update(resource, key, given(call), call, sub=target.sub)
        self.api.choose_name(document["metadata"])  # Once, so that the webhooks are asked about the name it gets.
        return lambda call: (self.api.create(resource, key[0], given(call), call)[0], True)

    async def _review(self, target: Target, write: Callable[[Call], tuple[Json, bool]], call: Call) -> None:
        """Ask the webhooks about the outcome of a write, which is tried first."""
        resource, namespace = target.resource, target.namespace or ""
        trial = Call(call.user, call.manager, dry_run=True, validation=call.validation, force=call.force)
        try:
            shown, created = write(trial)
        except ApiError as error:
            if error.reason == "AlreadyExists":  # That is said by the write itself.
                return
            raise
        before = self.api.store.get(resource.storage, (namespace, shown["metadata"]["name"]))
        operation = "CREATE" if created else "UPDATE"
        await self._webhooks.review(operation, resource, namespace, shown, before, call, sub=target.sub)

    @staticmethod
    def _write_options(query: Mapping[str, str], kind: str, call: Call) -> None:
        """Check dryRun, fieldManager and fieldValidation."""
        causes, dry = [], query.get("dryRun", "")
        if dry not in {"", "All"}:
            shown = f'Unsupported value: {go_strings([dry])}: supported values: "All"'
            causes.append(Cause("FieldValueNotSupported", shown, "dryRun"))
        call.dry_run = dry == "All"
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
        try:
            document = codec.normalize(resource, codec.read_object(resource, data, media), faults)
        except typed.MismatchError as error:
            raise codec.refuse_type(resource, error) from error
        if faults and call.validation == "Strict":
            raise codec.refuse_unknown(resource, faults)
        if call.validation == "Warn":
            call.warn(faults)
        return document

    def _object(
        self, resource: Resource, document: Json, form: Format, query: Mapping[str, str], *, status: int = 200
    ) -> Answer:
        if form.form == "json":
            return Answer(status, codec.encode(document))
        if form.form == "Table":
            metadata = {"resourceVersion": document["metadata"].get("resourceVersion", "")}
            rows = [self.for_table(resource, document)]
            shown = tables.table(resource, rows, metadata, include_of(query), form.version, tables.utc_now())
            return json_answer(shown, status=status)
        return json_answer(tables.partial(document, form.version), status=status)

    @staticmethod
    def for_table(resource: Resource, document: Json) -> Json:
        """Two views of one kind share the columns of the stored one."""
        return to_storage(resource, document) if resource.store_as else document

    async def _get(self, query: Mapping[str, str], target: Target, form: Format) -> Answer:
        resource, key = target.resource, (target.namespace or "", target.name)
        await self._wait_for(query)
        stored = self.api.find(resource, key)
        if target.sub in {"log", "exec", "portforward", "attach"}:
            raise self._no_kubelet(target)
        if target.sub == "scale":
            return json_answer(reviews.scale_of(self.api.document(resource, stored)))
        if form.form == "json":
            return Answer(200, self.api.body(resource, stored))
        return self._object(resource, self.api.document(resource, stored), form, query)

    @staticmethod
    def _no_kubelet(target: Target) -> ApiError:
        said = f"the lab's nodes have no kubelet: pods/{target.sub} is not offered; see the logs directory of the lab"
        return ApiError(404, "NotFound", said)

    async def _wait_for(self, query: Mapping[str, str]) -> None:
        """A read at a version that is still to come waits a little, then is 504."""
        text = query.get("resourceVersion", "")
        if not text or text == "0":
            return
        wanted = version_of(text)
        if wanted > self.api.store.rv:
            await asyncio.sleep(FUTURE_WAIT_S)
            if wanted > self.api.store.rv:
                raise too_large_version(wanted, self.api.store.rv)

    def selectors(self, query: Mapping[str, str], target: Target) -> tuple[Selector, Selector]:
        """Label and field selectors of a query, checked against what selects here."""
        resource = target.resource

        def check(name: str) -> None:
            if name in {"metadata.name", "metadata.namespace"} or name in resource.fields:
                return
            if resource.custom_fields:
                raise bad_request(f"field label not supported: {name}")
            raise bad_request(f'"{name}" is not a known field selector: only "metadata.name", "metadata.namespace"')

        fields = parse_fields(query.get("fieldSelector", ""), check)
        fields = tuple(Requirement(stored_field(f.key), f.operator, f.values) for f in fields)
        return parse_labels(query.get("labelSelector", "")), fields

    async def _list(self, query: Mapping[str, str], target: Target, form: Format) -> Answer:
        labels, fields = self.selectors(query, target)
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
            shown = [self.for_table(resource, d) for d in documents]
            return json_answer(tables.table(resource, shown, metadata, include_of(query), form.version, tables.utc_now()))
        items = [tables.partial(d, form.version) for d in documents]
        kind = {"kind": "PartialObjectMetadataList", "apiVersion": f"meta.k8s.io/{form.version}"}
        return json_answer({**kind, "metadata": metadata, "items": items})

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
        limit = integer(query.get("limit", "0"))
        match = query.get("resourceVersionMatch", "")
        text, token = query.get("resourceVersion", ""), query.get("continue", "")
        faults = (
            (match and not text, "resourceVersionMatch", "resourceVersionMatch is forbidden unless resourceVersion is provided"),
            (
                match == "Exact" and text == "0", "resourceVersionMatch",
                'resourceVersionMatch "exact" is forbidden for resourceVersion "0"',
            ),
            ("sendInitialEvents" in query, "sendInitialEvents", "sendInitialEvents is forbidden for list"),
        )  # fmt: skip
        causes = [forbidden(field, detail) for broken, field, detail in faults if broken]
        if match and text and match not in {"Exact", "NotOlderThan"}:
            causes = [unsupported("resourceVersionMatch", match, ("Exact", "NotOlderThan", ""))]
        if causes:
            raise invalid("meta.k8s.io", "ListOptions", "", causes)
        if token:
            if text and text != "0":
                raise bad_request("specifying resource version is not allowed when using continue")
            return max(limit, 0), decode_token(token), None
        if match == "Exact":
            at = version_of(text)
            if at > self.api.store.rv:
                raise internal("etcdserver: mvcc: required revision is a future revision")
            return max(limit, 0), None, at
        await self._wait_for(query)
        return max(limit, 0), None, None

    # Deletes

    @staticmethod
    def _delete_options(query: Mapping[str, str], data: bytes, call: Call) -> DeleteOptions:
        try:
            body = typed.decode(codec.parse_json(data or b"{}"), "DeleteOptions", [])
        except (ValueError, AttributeError) as error:
            raise internal(f"couldn't get version/kind; json parse error: {error}") from error
        except typed.MismatchError as error:
            raise internal(str(error)) from error
        kind = body.get("kind", "DeleteOptions")
        if kind != "DeleteOptions":
            version = body.get("apiVersion")
            raise internal(f'no kind "{kind}" is registered for version "{version}" in scheme "pkg/runtime/scheme.go:100"')
        call.dry_run = call.dry_run or body.get("dryRun") == ["All"]
        policy = body.get("propagationPolicy") or query.get("propagationPolicy", "")
        orphan = body.get("orphanDependents")
        cause = None
        if policy and orphan is not None:
            detail = "orphanDependents and deletionPropagation cannot be both set"
            cause = invalid_value("propagationPolicy", policy, detail)
        elif policy not in {"", "Foreground", "Background", "Orphan"}:
            cause = unsupported("propagationPolicy", policy, ("Foreground", "Background", "Orphan", "nil"))
        if cause is not None:
            raise invalid("meta.k8s.io", "DeleteOptions", "", [cause])
        policy = "Orphan" if orphan else policy
        grace = body.get("gracePeriodSeconds")
        if grace is None and "gracePeriodSeconds" in query:
            grace = integer(query["gracePeriodSeconds"])
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
            self.api.document(resource, before)  # Converts it while it is still there.
        document, gone = self.api.delete(resource, key, options, call)
        if not gone or resource.returns_deleted:
            return self._object(resource, document, form, query)
        details: Json = {"name": key[1]}
        if resource.group:
            details["group"] = resource.group
        details |= {"kind": resource.plural, "uid": document["metadata"]["uid"]}
        return json_answer({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})

    def _delete_collection(self, query: Mapping[str, str], target: Target, data: bytes, call: Call) -> Answer:
        options = self._delete_options(query, data, call)
        labels, fields = self.selectors(query, target)
        page = self.api.list(target.resource, target.namespace, labels, fields)
        for stored in page.items:
            self.api.delete(target.resource, stored.key, options, call)
        metadata = {"resourceVersion": str(page.rv)}
        return Answer(200, self._list_body(target.resource, page.items, metadata))

    async def _subresource(self, target: Target, verb: str, media: str, data: bytes, form: Format, call: Call) -> Answer:
        """finalize, scale, token, binding, eviction."""
        resource, key = target.resource, (target.namespace or "", target.name)
        if target.sub in {"log", "exec", "portforward", "attach"}:
            self.api.find(resource, key)
            raise self._no_kubelet(target)
        if target.sub == "finalize":
            document = self._read(resource, data, media, call)
            finalizers = document["spec"].get("finalizers")
            return self._object(resource, reviews.finalize(self.api, resource, key, finalizers), form, {})
        if target.sub == "scale":
            return json_answer(reviews.scale(self.api, resource, key, verb, media.partition(";")[0], data, call))
        try:
            document = msgspec.json.decode(data) if media.startswith(JSON_TYPE) or not media else protobuf.decode(data) or {}
        except msgspec.DecodeError as error:
            raise bad_request(f"couldn't get version/kind; json parse error: {error}") from error
        kind = {"token": "AuthenticationTokenRequest", "binding": "Binding", "eviction": "Eviction"}[target.sub]
        try:
            document = typed.decode(document if isinstance(document, dict) else {"metadata": document}, kind, [])
        except typed.MismatchError as error:
            wanted = typed.go_name(kind)
            raise bad_request(f"the object provided is unrecognized (must be of type {wanted}): {error}") from error
        if target.sub == "token":
            return json_answer(reviews.token_request(self.api, self.tokens, key, document, self._clock()), status=201)
        if target.sub == "binding":
            return json_answer(reviews.bind(self.api, resource, key, document), status=201)
        return json_answer(reviews.evict(self.api, resource, key, document, call), status=201)


def _manager_of(request: web.BaseRequest) -> str:
    return request.headers.get("User-Agent", "unknown").partition("/")[0][:128]
