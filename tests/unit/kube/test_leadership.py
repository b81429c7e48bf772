"""The Lease as the API server has it, and what becomes of leaders that end, vanish, or cannot reach it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kube.client import KubeClient
from kube.leadership import Clocks, Leadership, record_of
from kube.lease import Moment, Record, Terms
from kube.objects import RawObject
from kube.resources import LEASES, NAMESPACES
from lab.apiserver.testing import running_server
from tests.unit.kube.responder import Line, Request, connected, responding
from tests.unit.kube.test_informer import Said
from tests.unit.kube.test_with_server import client_of

QUICK = Terms(1, 0.6, 0.2, 0.05)


def a_leadership(client: KubeClient, identity: str, terms: Terms = QUICK, log: Said | None = None) -> Leadership:
    return Leadership(client, namespace="lb", name="the-lease", identity=identity, terms=terms, log=log or Said())


@asynccontextmanager
async def running(leadership: Leadership) -> AsyncIterator[asyncio.Task[None]]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(leadership.run(), name="lease")
        try:
            yield task
        finally:
            task.cancel()


@asynccontextmanager
async def a_client(tmp_path: Path) -> AsyncIterator[KubeClient]:
    async with running_server(tmp_path) as server, client_of(server) as client:
        await client.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "lb"}})
        yield client


async def spec(client: KubeClient) -> dict[str, Any]:
    lease = await client.get(LEASES, "the-lease", "lb")
    found: dict[str, Any] = lease.document["spec"]
    return found


async def test_a_leader_writes_the_lease_and_gives_it_back(tmp_path: Path) -> None:
    async with a_client(tmp_path) as client, asyncio.timeout(10):
        first = a_leadership(client, "a")
        async with running(first):
            await first.until_leading()
            assert first.leads()
            said = await spec(client)
            assert (said["holderIdentity"], said["leaseDurationSeconds"], said["leaseTransitions"]) == ("a", 1, 0)
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", said["renewTime"])
            renewed = client.watch(
                LEASES, resource_version=(await client.get(LEASES, "the-lease", "lb")).metadata.resource_version
            )
            async with aclosing(renewed) as events:
                await anext(events)
            assert (await spec(client))["renewTime"] > said["renewTime"]
            assert (await spec(client))["acquireTime"] == said["acquireTime"]
        await first.release()
        assert not first.leads()
        assert (await spec(client))["holderIdentity"] == ""
        second = a_leadership(client, "b", Terms())
        async with running(second):
            await second.until_leading()
        assert (await spec(client))["leaseTransitions"] == 1


async def test_another_one_takes_over_when_a_leader_vanishes_and_not_before(tmp_path: Path) -> None:
    async with a_client(tmp_path) as client, asyncio.timeout(20):
        first, second = a_leadership(client, "a"), a_leadership(client, "b")
        async with running(first):
            await first.until_leading()
            async with running(second):
                await second.tried.wait()
                assert second.candidate.holder == "a"
                assert first.leads()
                assert not second.leads()
        async with running(second):
            await second.until_leading()
            assert not first.leads()
        assert (await spec(client))["holderIdentity"] == "b"


async def test_a_process_that_comes_back_under_its_name_leads_at_once(tmp_path: Path) -> None:
    async with a_client(tmp_path) as client, asyncio.timeout(5):
        first = a_leadership(client, "pod-1", Terms())
        async with running(first):
            await first.until_leading()
        again = a_leadership(client, "pod-1", Terms())
        async with running(again):
            await again.until_leading()


async def test_a_leader_whose_lease_was_taken_stops(tmp_path: Path) -> None:
    async with a_client(tmp_path) as client, asyncio.timeout(10):
        log = Said()
        leadership = a_leadership(client, "a", log=log)
        async with running(leadership):
            await leadership.until_leading()
            await client.patch(LEASES, "the-lease", {"spec": {"holderIdentity": "thief"}}, namespace="lb")
            await leadership.until_lost()
            assert not leadership.leads()
        assert "leadership_lost" in log.events()


async def test_a_leader_that_reaches_nobody_stops_by_itself() -> None:
    """The first write is answered; after it the server is silent."""
    lease = {"metadata": {"name": "the-lease", "resourceVersion": "1"}, "spec": {}}
    silent = asyncio.Event()

    async def answer(request: Request, line: Line) -> None:
        if silent.is_set():
            await asyncio.Event().wait()
        elif request.method == "GET":
            await line.answer(404, {"kind": "Status", "code": 404})
        else:
            await line.answer(201, lease)
            silent.set()

    async with responding(answer) as server, connected(server.url) as client, asyncio.timeout(10):
        leadership = a_leadership(client, "a")
        async with running(leadership):
            await leadership.until_leading()
            await leadership.until_lost()
            assert not leadership.leads()
        await leadership.release()


@pytest.mark.parametrize("code", [500, 429])
async def test_failures_are_survived(code: int) -> None:
    asked = 0

    async def answer(request: Request, line: Line) -> None:
        nonlocal asked
        asked += 1
        if asked < 4:
            await line.answer(code, {"kind": "Status", "code": code, "message": "not now"})
        elif request.method == "GET":
            await line.answer(404, {"kind": "Status", "code": 404})
        else:
            await line.answer(201, {"metadata": {"name": "the-lease", "resourceVersion": "1"}})

    log = Said()
    async with responding(answer) as server, connected(server.url) as client, asyncio.timeout(10):
        leadership = a_leadership(client, "a", log=log)
        async with running(leadership):
            await leadership.tried.wait()
            assert not leadership.leads()
            await leadership.until_leading()
    assert "lease_not_reached" in log.events()


async def test_without_the_verbs_it_leads_without_a_lease_and_says_so() -> None:
    async def answer(_: Request, line: Line) -> None:
        await line.answer(403, {"kind": "Status", "code": 403, "reason": "Forbidden", "message": "cannot get leases"})

    log = Said()
    async with responding(answer) as server, connected(server.url) as client, asyncio.timeout(10):
        leadership = a_leadership(client, "a", log=log)
        async with running(leadership) as task:
            await task
        assert leadership.leads()
        await leadership.release()
    assert log.events() == ["leads_without_lease"]


async def test_a_lease_that_cannot_be_given_back_is_said() -> None:
    async def answer(request: Request, line: Line) -> None:
        if request.method == "POST":
            await line.answer(201, {"metadata": {"name": "the-lease", "resourceVersion": "1"}})
        else:
            code = 404 if request.method == "GET" else 500
            await line.answer(code, {"kind": "Status", "code": code})

    log = Said()
    async with responding(answer) as server, connected(server.url) as client, asyncio.timeout(10):
        leadership = a_leadership(client, "a", log=log)
        async with running(leadership):
            await leadership.until_leading()
        await leadership.release()
    assert "lease_not_released" in log.events()


def test_a_lease_with_nothing_in_it_is_free() -> None:
    assert record_of(RawObject(document={})) == Record()
    assert record_of(RawObject(document={"spec": {"holderIdentity": None}})).holder == ""


def test_the_hasty_clock_makes_the_greatest_step_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([(0.0, 0.0, 100.0), (1.0, 1.0, 101.0), (2.0, 9.0, 102.0), (3.0, 10.0, 50.0), (4.0, 11.0, 80.0)])
    monkeypatch.setattr(Clocks, "_read", lambda _: next(readings))
    clocks = Clocks()
    assert [clocks() for _ in range(4)] == [Moment(1.0, 1.0), Moment(2.0, 9.0), Moment(3.0, 10.0), Moment(4.0, 40.0)]
