"""Answers and what they are made of: forms a client can ask for, bodies ready to send, numbers and flags of a query.

The small vocabulary that http.py, handlers.py and streams.py share. Decides nothing but which form in Accept is served.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from aiohttp import web

from lab.apiserver.errors import ApiError, bad_request, internal
from lab.apiserver.resources import Resource

Json = dict[str, Any]
JSON_TYPE = "application/json"
_ALL = "application/json, application/yaml, application/vnd.kubernetes.protobuf"
STREAM_TYPES = ", application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch"


@dataclass(frozen=True, slots=True)
class Format:
    """How the client wants the answer: form is json, Table, PartialObjectMetadata or PartialObjectMetadataList."""

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


@dataclass(frozen=True, slots=True)
class Answer:
    """A body that is ready to be sent."""

    status: int
    body: bytes
    content_type: str = JSON_TYPE
    headers: Mapping[str, str] | None = None


PLAIN = "text/plain; charset=utf-8"
NO_PAGE = Answer(404, b"404 page not found\n", PLAIN)


@functools.lru_cache(maxsize=256)
def negotiate(accept: str, *, stream_text: str) -> Format:
    """The first form in Accept that is served.

    Raises:
        ApiError: 406.

    """
    plain_refused = False
    for clause in (accept or "*/*").split(","):
        media, *parameters = (p.strip() for p in clause.split(";"))
        options = dict(p.split("=", 1) for p in parameters if "=" in p)
        if media not in {"*/*", "application/*", JSON_TYPE}:
            continue
        wanted = options.get("as", "")
        if not wanted or options.get("g") == "apidiscovery.k8s.io":
            return JSON
        if wanted in {"Table", "PartialObjectMetadata", "PartialObjectMetadataList"} and options.get("v") in {"v1", "v1beta1"}:
            return Format(wanted, options["v"])
        plain_refused = True
    if plain_refused:
        raise ApiError(406, "NotAcceptable", f"only the following media types are accepted: {_ALL}")
    message = f"406: Not Acceptable\n\nAvailable representations: {_ALL}{stream_text}"
    raise ApiError(406, "NotAcceptable", message, details={})


def response_of(answer: Answer) -> web.Response:
    """The HTTP response of an answer."""
    response = web.Response(status=answer.status, body=answer.body, headers=answer.headers)
    response.headers["Content-Type"] = answer.content_type
    return response


def json_answer(document: Json, content_type: str = JSON_TYPE, *, status: int = 200) -> Answer:
    """An answer with a JSON document."""
    return Answer(status, msgspec.json.encode(document), content_type)


def flag(query: Mapping[str, str], name: str) -> bool:
    """Whether a query sets a switch."""
    return query.get(name, "") in {"1", "true", "True", "t"}


def include_of(query: Mapping[str, str]) -> str:
    """What goes into the rows of a Table.

    Raises:
        ApiError: 400.

    """
    include = query.get("includeObject", "")
    if include not in {"", "Metadata", "Object", "None"}:
        detail = f"includeObject: Invalid value: \"{include}\": must be 'Metadata', 'Object', 'None', or empty"
        raise bad_request(f"Unable to convert to Table as requested: {detail}")
    return include


def integer(text: str) -> int:
    """A number of a query.

    Raises:
        ApiError: 400.

    """
    try:
        return int(text or "0")
    except ValueError:
        raise bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax') from None


def version_of(text: str) -> int:
    """A resourceVersion of a query.

    Raises:
        ApiError: 500, as the server answers.

    """
    if not text.isdigit():
        raise internal(f'resourceVersion: Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax')
    return int(text)
