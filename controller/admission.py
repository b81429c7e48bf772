"""The webhooks: may this object be written, and how does it read in another version? Served over HTTPS to the API server.

judge() and converted() are pure: they put what is about to be written beside what is there and ask the same compile_config
as the daemons and lbctl. Names that an object refers to and that may be made later (BFD profiles, Secrets, communities) are
not asked for. What is there is listed anew for each review, so that two writes in a row see each other. The caller
(controller.run) starts the server; controller.certificates keeps its certificate.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Final, NoReturn

from aiohttp import web

from config.compile import compile_config
from config.convert import ConversionError, convert
from config.crd import CONVERSION_PATH
from config.cross import References, Surroundings
from config.kinds.meta import Labels
from config.problem import Problem, Severity
from controller.certificates import Served
from controller.metrics import Answer
from kube.client import KubeClient
from kube.errors import KubeError
from kube.resources import NODES, resource_of
from telemetry.log import Logger

Json = dict[str, Any]
Document = Mapping[str, Any]

BODY_LIMIT: Final = 8 * 1024 * 1024
SHUTDOWN_S: Final = 0.5
CONVERTED_KIND: Final = "BGPPeer"
ADMISSION_VERSIONS: Final = frozenset({"admission.k8s.io/v1"})
CONVERSION_VERSIONS: Final = frozenset({"apiextensions.k8s.io/v1", "apiextensions.k8s.io/v1beta1"})


@dataclass(frozen=True, slots=True)
class Validator:
    """What one webhook looks at: objects of its kind, beside those of other kinds, and perhaps the nodes."""

    kind: str
    beside: tuple[str, ...] = ()
    nodes: bool = False
    compiled: bool = True
    """Whether the objects are checked; BFDProfiles are only guarded against deletion, and have their schema."""


VALIDATORS: Final[Mapping[str, Validator]] = MappingProxyType(
    {
        "/validate-metallb-io-v1beta1-ipaddresspool": Validator("IPAddressPool"),
        "/validate-metallb-io-v1beta1-l2advertisement": Validator("L2Advertisement", ("IPAddressPool",)),
        "/validate-metallb-io-v1beta1-bgpadvertisement": Validator("BGPAdvertisement", ("IPAddressPool",), nodes=True),
        "/validate-metallb-io-v1beta2-bgppeer": Validator("BGPPeer", nodes=True),
        "/validate-metallb-io-v1beta1-community": Validator("Community"),
        "/validate-metallb-io-v1beta1-bfdprofile": Validator("BFDProfile", ("BGPPeer",), compiled=False),
    }
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a write is allowed, why not, and what to tell the user anyway."""

    allowed: bool
    message: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A write under review. `old` is None for a CREATE, `new` for a DELETE."""

    operation: str
    name: str
    namespace: str
    new: Document | None
    old: Document | None


def judge(
    validator: Validator, request: Request, there: Mapping[str, Sequence[Document]], around: Surroundings, namespace: str
) -> Verdict:
    """The verdict on a write.

    Args:
        validator: which webhook was called.
        request: the write.
        there: kind → the objects there are now, of the kinds that the validator names.
        around: mode and nodes.
        namespace: where our objects live.

    """
    if request.operation == "CREATE" and request.namespace != namespace:
        return Verdict(allowed=False, message=f"resource must be created in {namespace} namespace")
    if request.operation == "DELETE":
        return _deletion(validator, request, there)
    if not validator.compiled or request.new is None:
        return Verdict(allowed=True)
    others = [one for kind in validator.beside for one in there[kind]]
    same_kind = [one for one in there[validator.kind] if _name(one) != request.name]
    was = [request.old] if request.old is not None else []
    new = _named(request)
    before = compile_config([*others, *same_kind, *was], {}, {}, around)
    after = compile_config([*others, *same_kind, new], {}, before.valid, around)
    known = _errors(before.problems)
    untouched = request.old is not None and request.old.get("spec") == request.new.get("spec")

    def is_about_new(problem: Problem) -> bool:
        return problem.object.kind == validator.kind and problem.object.name == request.name

    refused = [
        problem
        for problem in after.problems
        if problem.severity is Severity.ERROR and (problem not in known or (is_about_new(problem) and not untouched))
    ]
    warnings = tuple(str(one) for one in after.problems if one.code == "deprecated" and is_about_new(one))
    if refused:
        return Verdict(allowed=False, message="; ".join(map(str, refused)), warnings=warnings)
    return Verdict(allowed=True, warnings=warnings)


def _errors(problems: Iterable[Problem]) -> frozenset[Problem]:
    return frozenset(problem for problem in problems if problem.severity is Severity.ERROR)


def _deletion(validator: Validator, request: Request, there: Mapping[str, Sequence[Document]]) -> Verdict:
    """Nothing is kept from going but a BFDProfile that is in use."""
    if validator.kind != "BFDProfile":
        return Verdict(allowed=True)
    users = sorted(_name(peer) for peer in there["BGPPeer"] if (peer.get("spec") or {}).get("bfdProfile") == request.name)
    if not users:
        return Verdict(allowed=True)
    return Verdict(
        allowed=False,
        message=f"failed to delete BFDProfile {request.name}, used by BGPPeer {', '.join(users)} (change the peers first)",
    )


def _name(document: Document) -> str:
    return str((document.get("metadata") or {}).get("name", ""))


def _named(request: Request) -> Document:
    """What is to be written, with the name it will have, or another one that nothing has: one from generateName comes later."""
    assert request.new is not None
    metadata = request.new.get("metadata") or {}
    name = request.name or f"{metadata.get('generateName', '')}*"
    return {**request.new, "metadata": {**metadata, "name": name, "namespace": request.namespace}}


def converted(review: Document) -> Json:
    """The answer to a ConversionReview.

    Raises:
        BadReviewError: it is none.

    """
    asked = review.get("request")
    if review.get("kind") != "ConversionReview" or review.get("apiVersion") not in CONVERSION_VERSIONS:
        raise BadReviewError("not a ConversionReview of apiextensions.k8s.io/v1 or v1beta1")
    if not isinstance(asked, Mapping) or not isinstance(asked.get("objects"), list):
        raise BadReviewError("the ConversionReview has no request with objects")
    response: Json = {"uid": asked.get("uid", "")}
    try:
        response["convertedObjects"] = [convert(one, str(asked.get("desiredAPIVersion", ""))) for one in asked["objects"]]
        response["result"] = {"status": "Success"}
    except ConversionError as error:
        response["convertedObjects"] = []
        response["result"] = {"status": "Failure", "message": str(error)}
    return {"apiVersion": review["apiVersion"], "kind": "ConversionReview", "response": response}


class BadReviewError(Exception):
    """The body of a request is not what a webhook is asked with."""


def request_of(review: Document) -> tuple[str, Request]:
    """The uid and the write in an AdmissionReview.

    Raises:
        BadReviewError: it is none.

    """
    asked = review.get("request")
    if review.get("kind") != "AdmissionReview" or review.get("apiVersion") not in ADMISSION_VERSIONS:
        raise BadReviewError("not an AdmissionReview of admission.k8s.io/v1")
    if not isinstance(asked, Mapping):
        raise BadReviewError("the AdmissionReview has no request")
    new, old = asked.get("object"), asked.get("oldObject")
    if not all(one is None or isinstance(one, Mapping) for one in (new, old)):
        raise BadReviewError("object and oldObject must be objects")
    name = str(asked.get("name") or _name(new or old or {}))
    namespace = str(asked.get("namespace") or "")
    operation = str(asked.get("operation") or "")
    return str(asked.get("uid", "")), Request(operation=operation, name=name, namespace=namespace, new=new, old=old)


def admission_answer(uid: str, verdict: Verdict) -> Json:
    """The AdmissionReview that says a verdict."""
    response: Json = {"uid": uid, "allowed": verdict.allowed}
    if not verdict.allowed:
        status = HTTPStatus.FORBIDDEN
        response["status"] = {"code": status.value, "reason": "Forbidden", "message": verdict.message}
    if verdict.warnings:
        response["warnings"] = list(verdict.warnings)
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}


@dataclass(slots=True)
class WebhookServer:
    """Answers the API server, as soon as there is a certificate. `run` serves until it is cancelled.

    Raises:
        OSError: from run, when the port is taken.

    """

    client: KubeClient
    served: Served
    log: Logger
    namespace: str
    mode: str
    port: int
    listening: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Wait for a certificate, then listen and answer."""
        await self.served.ready.wait()
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        listener = socket.create_server(("", self.port), family=family, dualstack_ipv6=dual)
        runner = web.ServerRunner(web.Server(self._answer, access_log=None), handle_signals=False, shutdown_timeout=SHUTDOWN_S)
        await runner.setup()
        try:
            await web.SockSite(runner, listener, ssl_context=self.served.context).start()
            self.log.info("webhooks_served", port=self.port, mode=self.mode)
            self.listening.set()
            await asyncio.get_running_loop().create_future()
        finally:
            self.listening.clear()
            await runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path != CONVERSION_PATH and request.path not in VALIDATORS:
            return web.Response(status=HTTPStatus.NOT_FOUND, text="not found\n")
        if request.method != "POST":
            return web.Response(status=HTTPStatus.METHOD_NOT_ALLOWED, text="only POST\n", headers={"Allow": "POST"})
        kind = CONVERTED_KIND if request.path == CONVERSION_PATH else VALIDATORS[request.path].kind
        try:
            review = await _review_in(request)
            if request.path == CONVERSION_PATH:
                answer = converted(review)
                self.served.tally.count(kind, "CONVERT", Answer.CONVERTED)
                return web.json_response(answer)
            return web.json_response(await self._admit(VALIDATORS[request.path], review))
        except BadReviewError as error:
            self.served.tally.count(kind, "", Answer.MALFORMED)
            return web.Response(status=HTTPStatus.BAD_REQUEST, text=f"{error}\n")
        except KubeError as error:
            # What is there cannot be seen: neither yes nor no. The failurePolicy of the webhook decides.
            self.served.tally.count(kind, "", Answer.UNANSWERED)
            self.log.warning("webhook_not_answered", path=request.path, error=error.message)
            return web.Response(status=HTTPStatus.SERVICE_UNAVAILABLE, text=f"{error.message}\n")

    async def _admit(self, validator: Validator, review: Document) -> Json:
        uid, request = request_of(review)
        there = {kind: await self._list(kind) for kind in (validator.kind, *validator.beside)}
        nodes = await self._nodes() if validator.nodes else None
        around = Surroundings(mode=self.mode, references=References.IGNORE, nodes=nodes)
        verdict = judge(validator, request, there, around, self.namespace)
        self.served.tally.count(validator.kind, request.operation, Answer.ALLOWED if verdict.allowed else Answer.REFUSED)
        if not verdict.allowed:
            where = f"{validator.kind} {request.namespace}/{request.name}"
            self.log.info("write_refused", object=where, operation=request.operation, reason=verdict.message)
        return admission_answer(uid, verdict)

    async def _list(self, kind: str) -> list[Document]:
        listing = await self.client.list_all(resource_of(kind), namespace=self.namespace)
        return [{"kind": kind, **one.document} for one in listing.items]

    async def _nodes(self) -> dict[str, Labels]:
        listing = await self.client.list_all(NODES)
        return {node.metadata.name: node.metadata.labels or {} for node in listing.items}


async def _review_in(request: web.BaseRequest) -> Document:
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > BODY_LIMIT:
            _refuse("the review is too large")
    try:
        review = json.loads(body)
    except (ValueError, UnicodeDecodeError, RecursionError) as error:
        raise BadReviewError(f"the body is not JSON: {error}") from error
    if not isinstance(review, dict):
        _refuse("the body is not an object")
    return review


def _refuse(why: str) -> NoReturn:
    raise BadReviewError(why)
