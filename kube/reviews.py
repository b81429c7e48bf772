"""Asks the API server who holds a token and what they may see.

The metrics port of a daemon is open to whoever may GET the path by RBAC: a TokenReview tells who it is, a
SubjectAccessReview whether they may. Answers are kept for a short while, so that a scraper costs two requests a minute;
when the API server is away nobody new gets in. The answer is an HTTP status, the one vocabulary that telemetry.server,
which must not know this package, shares with it. Tokens are kept only as hashes.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import msgspec

from kube.client import KubeClient
from kube.errors import KubeError

TOKEN_REVIEWS: Final = "/apis/authentication.k8s.io/v1/tokenreviews"  # noqa: S105 - a path
ACCESS_REVIEWS: Final = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
ALLOWED_FOR_S: Final = 60.0
REFUSED_FOR_S: Final = 10.0
REMEMBERED: Final = 256


class _User(msgspec.Struct, frozen=True, kw_only=True):
    username: str = ""
    uid: str = ""
    groups: tuple[str, ...] | None = None
    extra: dict[str, list[str]] | None = None


class _TokenStatus(msgspec.Struct, frozen=True, kw_only=True):
    authenticated: bool = False
    user: _User = _User()


class _TokenReview(msgspec.Struct, frozen=True, kw_only=True):
    status: _TokenStatus = _TokenStatus()


class _AccessStatus(msgspec.Struct, frozen=True, kw_only=True):
    allowed: bool = False


class _AccessReview(msgspec.Struct, frozen=True, kw_only=True):
    status: _AccessStatus = _AccessStatus()


@dataclass(frozen=True, slots=True)
class _Answer:
    status: HTTPStatus
    until: float


class Reviewer:
    """Use its `authorize` as the authorizer of a TelemetryServer. `clock` is monotonic, in seconds."""

    def __init__(self, client: KubeClient, *, clock: Callable[[], float]) -> None:
        self._client = client
        self._clock = clock
        self._answers: OrderedDict[tuple[bytes, str], _Answer] = OrderedDict()

    async def authorize(self, token: str, path: str) -> HTTPStatus:
        """OK, UNAUTHORIZED, FORBIDDEN, or SERVICE_UNAVAILABLE when the API server does not say."""
        key = (hashlib.sha256(token.encode()).digest(), path)
        now = self._clock()
        known = self._answers.get(key)
        if known is not None and now < known.until:
            return known.status
        try:
            status = await self._review(token, path)
        except (KubeError, msgspec.DecodeError):
            return HTTPStatus.SERVICE_UNAVAILABLE
        self._answers[key] = _Answer(status, now + (ALLOWED_FOR_S if status is HTTPStatus.OK else REFUSED_FOR_S))
        self._answers.move_to_end(key)
        if len(self._answers) > REMEMBERED:
            self._answers.popitem(last=False)
        return status

    async def _review(self, token: str, path: str) -> HTTPStatus:
        asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
        who = msgspec.json.decode(await self._client.post(TOKEN_REVIEWS, asked), type=_TokenReview).status
        if not who.authenticated:
            return HTTPStatus.UNAUTHORIZED
        spec: dict[str, object] = {
            "user": who.user.username,
            "uid": who.user.uid,
            "groups": who.user.groups or (),
            "extra": who.user.extra or {},
            "nonResourceAttributes": {"path": path, "verb": "get"},
        }
        asked = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        access = msgspec.json.decode(await self._client.post(ACCESS_REVIEWS, asked), type=_AccessReview).status
        return HTTPStatus.OK if access.allowed else HTTPStatus.FORBIDDEN
