"""Who may read the metrics is asked once a minute, and nobody new gets in while nobody can be asked."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

import pytest

from kube import reviews
from kube.reviews import ALLOWED_FOR_S, REFUSED_FOR_S, Reviewer
from tests.unit.kube.responder import Line, Request, connected, responding


class Cluster:
    """Answers reviews like the recorded ones: one token is known, and may read some paths."""

    def __init__(self) -> None:
        self.now = 0.0
        self.away = False
        self.asked: list[Any] = []
        self.readable = {"/metrics"}

    async def answer(self, request: Request, line: Line) -> None:
        body = json.loads(request.body)
        self.asked.append(body)
        if self.away:
            await line.answer(503, b"")
        elif request.path.endswith("/tokenreviews"):
            user = {
                "username": "system:serviceaccount:m:prom",
                "uid": "u",
                "groups": ["system:authenticated"],
                "extra": {"k": ["v"]},
            }
            known = body["spec"]["token"] == "good"
            await line.answer(201, {"status": {"authenticated": True, "user": user} if known else {"user": {}}})
        else:
            allowed = body["spec"]["nonResourceAttributes"]["path"] in self.readable
            await line.answer(201, {"status": {"allowed": allowed}})


@asynccontextmanager
async def reviewing() -> AsyncIterator[tuple[Cluster, Reviewer]]:
    cluster = Cluster()
    async with responding(cluster.answer) as server, connected(server.url) as client:
        yield cluster, Reviewer(client, clock=lambda: cluster.now)


async def test_a_known_holder_who_may_get_the_path_is_let_in() -> None:
    async with reviewing() as (cluster, reviewer):
        assert await reviewer.authorize("good", "/metrics") is HTTPStatus.OK
        assert await reviewer.authorize("good", "/status") is HTTPStatus.FORBIDDEN
        assert await reviewer.authorize("bad", "/metrics") is HTTPStatus.UNAUTHORIZED
        assert cluster.asked[1]["spec"] == {
            "user": "system:serviceaccount:m:prom",
            "uid": "u",
            "groups": ["system:authenticated"],
            "extra": {"k": ["v"]},
            "nonResourceAttributes": {"path": "/metrics", "verb": "get"},
        }


async def test_an_answer_holds_for_a_while_and_a_refusal_for_a_shorter_one() -> None:
    async with reviewing() as (cluster, reviewer):
        await reviewer.authorize("good", "/metrics")
        await reviewer.authorize("good", "/status")
        asked = len(cluster.asked)
        await reviewer.authorize("good", "/metrics")
        await reviewer.authorize("good", "/status")
        assert len(cluster.asked) == asked
        cluster.readable = {"/status"}
        cluster.now = REFUSED_FOR_S
        assert await reviewer.authorize("good", "/status") is HTTPStatus.OK
        assert await reviewer.authorize("good", "/metrics") is HTTPStatus.OK
        cluster.now = ALLOWED_FOR_S
        assert await reviewer.authorize("good", "/metrics") is HTTPStatus.FORBIDDEN


async def test_while_the_api_server_is_away_only_those_it_has_just_vouched_for_get_in() -> None:
    async with reviewing() as (cluster, reviewer):
        await reviewer.authorize("good", "/metrics")
        cluster.away = True
        assert await reviewer.authorize("good", "/metrics") is HTTPStatus.OK
        assert await reviewer.authorize("good", "/status") is HTTPStatus.SERVICE_UNAVAILABLE
        cluster.away = False
        assert await reviewer.authorize("good", "/status") is HTTPStatus.FORBIDDEN, "an outage is not remembered"


async def test_tokens_are_not_kept_and_the_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reviews, "REMEMBERED", 3)
    async with reviewing() as (_, reviewer):
        for number in range(5):
            await reviewer.authorize(f"guess-{number}", "/metrics")
        assert len(reviewer._answers) == 3
        assert "guess" not in repr(reviewer._answers)
