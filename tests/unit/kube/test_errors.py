"""Every error answer of a real API server becomes the exception that says what to do next."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kube.errors import (
    AlreadyExists,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    KubeError,
    NotFound,
    Status,
    Unauthorized,
    Unreachable,
    error_of,
    error_of_answer,
)

RECORDED = Path(__file__).parents[2] / "recorded" / "apiserver"
BY_STATUS: dict[int, tuple[type[KubeError], ...]] = {
    400: (Invalid,),
    401: (Unauthorized,),
    403: (Forbidden,),
    404: (NotFound,),
    405: (Invalid,),
    406: (Invalid,),
    409: (Conflict,),
    410: (Gone,),
    415: (Invalid,),
    422: (Invalid,),
    429: (Unreachable,),
    500: (Unreachable,),
    504: (Unreachable, Gone),
}


def recorded_errors() -> Iterator[tuple[str, int, Any]]:
    for path in sorted(RECORDED.glob("*.json")):
        for exchange in json.loads(path.read_text()).get("exchanges", ()):
            status = exchange["response"].get("status", 0)
            if status >= 300:
                yield f"{path.stem}:{exchange['id']}", status, exchange["response"].get("body")


@pytest.mark.parametrize(("name", "status", "body"), [pytest.param(*each, id=each[0]) for each in recorded_errors()])
def test_recorded_errors_are_named_by_what_to_do_next(name: str, status: int, body: Any) -> None:
    content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    error = error_of_answer(status, content)
    assert isinstance(error, BY_STATUS[status]), name
    assert error.status == status
    if isinstance(body, dict) and body.get("message"):
        assert error.message == body["message"]
        assert error.reason == body.get("reason", "")


def test_a_name_that_is_taken_is_told_from_a_lost_race() -> None:
    taken = error_of(Status(code=409, reason="AlreadyExists", message='services "a" already exists'))
    assert type(taken) is AlreadyExists
    assert type(error_of(Status(code=409, reason="Conflict"))) is Conflict


def test_the_members_that_were_refused_are_kept() -> None:
    body = b'{"code":422,"details":{"causes":[{"field":"spec.ports","reason":"FieldValueRequired","message":"Required"}]}}'
    assert [cause.field for cause in error_of_answer(422, body).causes] == ["spec.ports"]
    assert error_of_answer(422, b"{}").causes == ()


@pytest.mark.parametrize(
    ("retry_after", "details", "seconds"),
    [("7", "{}", 7.0), ("", '{"retryAfterSeconds": 3}', 3.0), ("soon", "{}", None), ("0", "{}", None), ("", "null", None)],
)
def test_the_wait_that_is_asked_for_is_in_the_error(retry_after: str, details: str, seconds: float | None) -> None:
    error = error_of_answer(429, b'{"code": 429, "details": %s}' % details.encode(), retry_after=retry_after)
    assert isinstance(error, Unreachable)
    assert (error.retry_after_s, error.phase) == (seconds, "answer")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html>\n  <b>Bad gateway</b></html>", "HTTP status 502: <html> <b>Bad gateway</b></html>"),
        (b"", "HTTP status 502"),
        (b"\xff\xfe", "HTTP status 502: \ufffd\ufffd"),
        (b'{"reason": "BadGateway"}', "BadGateway"),
    ],
)
def test_an_answer_that_is_no_status_becomes_the_message(body: bytes, message: str) -> None:
    assert error_of_answer(502, body).message == message


def test_a_long_page_is_cut() -> None:
    assert len(error_of_answer(502, b"x" * 100_000).message) < 600


def test_other_answers_are_plain_errors() -> None:
    assert type(error_of_answer(302, b"")) is KubeError
