"""Conversion webhooks: objects of one version of a definition turned into another by somebody else, asked over HTTPS.

crds.in_version() is synchronous, like everything that touches the store: where it needs a conversion that is not known yet it
raises Missing, and handlers.py asks here and does the request again. What was answered is remembered by the definition, by
content, so that a request asks once. The metadata of an object is never the webhook's to change.
"""

from __future__ import annotations

import uuid
from typing import Any

import msgspec

from lab.apiserver.errors import ApiError

Json = dict[str, Any]
REMEMBERED_MAX = 4096
TIMEOUT_S = 30


class Missing(Exception):  # noqa: N818 - it is no error: somebody has to be asked
    """A conversion has to be asked for before the request can go on."""

    def __init__(self, document: Json, wanted: str, config: Json, known: dict[tuple[str, bytes], Json]) -> None:
        super().__init__(f"{document.get('apiVersion')} -> {wanted}")
        self.document, self.wanted, self.config, self.known = document, wanted, config, known


def look_up(document: Json, wanted: str, config: Json, known: dict[tuple[str, bytes], Json]) -> Json:
    """The document under another apiVersion.

    Raises:
        Missing: nobody has been asked yet.

    """
    found = known.get((wanted, _content(document)))
    if found is None:
        raise Missing(document, wanted, config, known)
    return {
        "apiVersion": wanted,
        "kind": document["kind"],
        "metadata": document["metadata"],
        **msgspec.json.decode(msgspec.json.encode(found)),
    }


def _content(document: Json) -> bytes:
    """All of a document but its metadata."""
    return msgspec.json.encode({k: v for k, v in document.items() if k != "metadata"}, order="sorted")


def question(missing: Missing) -> Json:
    """The ConversionReview to send."""
    versions = missing.config["conversionReviewVersions"]
    version = next((v for v in versions if v in {"v1", "v1beta1"}), "v1")
    return {
        "kind": "ConversionReview", "apiVersion": f"apiextensions.k8s.io/{version}",
        "request": {"uid": str(uuid.uuid4()), "desiredAPIVersion": missing.wanted, "objects": [missing.document]},
    }  # fmt: skip


def remember(missing: Missing, asked: Json, review: Json) -> None:
    """Take in an answer.

    Raises:
        ApiError: the webhook could not convert, or answered something else.

    """
    response = review.get("response") or {}
    result = response.get("result") or {}
    objects: list[Json] = response.get("convertedObjects") or []
    if result.get("status") != "Success":
        raise failed(missing, result.get("message") or "the webhook did not say why")
    if response.get("uid") != asked["request"]["uid"] or len(objects) != 1 or objects[0].get("apiVersion") != missing.wanted:
        raise failed(missing, f"webhook returned invalid converted object: one of {missing.wanted} was asked for")
    if len(missing.known) >= REMEMBERED_MAX:
        missing.known.clear()
    content = {k: v for k, v in objects[0].items() if k not in {"metadata", "apiVersion", "kind"}}
    missing.known[missing.wanted, _content(missing.document)] = content


def failed(missing: Missing, why: str) -> ApiError:
    """The answer to a request whose objects could not be converted."""
    kind = f"{missing.document['apiVersion']}, Kind={missing.document['kind']}"
    message = f"conversion webhook for {kind} failed: {why}"
    return ApiError(500, "InternalError", message)
