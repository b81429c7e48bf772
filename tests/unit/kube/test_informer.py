"""A Store follows the server through everything that connections do."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from kube.client import KubeClient
from kube.errors import Gone
from kube.informer import Reflector
from kube.objects import ObjectKey, Service
from kube.resources import SERVICES
from kube.retry import Pace
from kube.store import Store
from tests.unit.kube.responder import Line, Request, connected, listing, responding, service

QUICK = Pace(base_s=0.001, cap_s=0.002, away_cap_s=0.002, quick_s=30.0)
"""Waits that do not hold up a test; a watch shorter than 30 s that brought nothing has failed."""


class Said:
    """A logger that remembers."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, object]]] = []

    def info(self, event: str, /, **facts: object) -> None:
        self.lines.append((event, facts))

    warning = info

    def events(self) -> list[str]:
        return [event for event, _ in self.lines]


class Mirror:
    """A reflector of Services at work, and what a test asks of it."""

    def __init__(self, client: KubeClient, pace: Pace) -> None:
        self.store: Store[Service] = Store()
        self.dirty = asyncio.Event()
        self.log = Said()
        self.reflector = Reflector(
            client,
            SERVICES,
            self.store,
            dirty=self.dirty,
            fingerprint=lambda view: view.spec,
            log=self.log,
            rng=random.Random(1),  # noqa: S311 - a seed, so that a failure can be repeated
            pace=pace,
        )

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.002)

    async def has(self, *names: str) -> None:
        keys = {ObjectKey(f"default/{name}") for name in names}
        await self.until(lambda: self.store.synced and set(self.store.snapshot()) == keys)


@asynccontextmanager
async def mirroring(url: str, pace: Pace = QUICK) -> AsyncIterator[Mirror]:
    async with connected(url) as client, asyncio.TaskGroup() as group:
        mirror = Mirror(client, pace)
        task = group.create_task(mirror.reflector.run(), name="reflector")
        try:
            yield mirror
        finally:
            task.cancel()


async def forever(_: Request, line: Line) -> None:
    """A watch in which nothing happens."""
    await line.begin()
    await asyncio.Event().wait()


async def test_a_list_in_pages_is_watched_from_the_version_of_its_first_page() -> None:
    async def answer(request: Request, line: Line) -> None:
        if request.is_watch:
            await forever(request, line)
        elif request.query.get("continue") == "next":
            await line.answer(200, listing(7, service("b", 2)))
        else:
            await line.answer(200, listing(5, service("a", 1), more="next"))

    async with responding(answer) as server, mirroring(server.url) as mirror:
        await mirror.has("a", "b")
        await mirror.until(lambda: len(server.requests) == 3)
        assert server.requests[2].query["resourceVersion"] == "5"
        assert server.requests[2].query["allowWatchBookmarks"] == "true"
        assert server.requests[0].query["limit"] == "500"


async def test_a_list_that_grows_old_between_pages_is_read_whole() -> None:
    async def answer(request: Request, line: Line) -> None:
        if request.is_watch:
            await forever(request, line)
        elif "continue" in request.query:
            await line.answer(410, {"kind": "Status", "code": 410, "reason": "Expired"})
        elif "limit" in request.query:
            await line.answer(200, listing(5, service("a", 1), more="next"))
        else:
            await line.answer(200, listing(6, service("a", 1), service("b", 2)))

    async with responding(answer) as server, mirroring(server.url) as mirror:
        await mirror.has("a", "b")


async def test_events_change_the_store_and_only_news_set_dirty() -> None:
    steps = asyncio.Queue[tuple[str, dict[str, object]]]()

    async def answer(request: Request, line: Line) -> None:
        if not request.is_watch:
            await line.answer(200, listing(1, service("a", 1, type="LoadBalancer")))
            return
        await line.begin()
        while True:
            await line.event(*await steps.get())

    async with responding(answer) as server, mirroring(server.url) as mirror:
        await mirror.dirty.wait()
        assert mirror.store.take_changed() == {"default/a"}
        mirror.dirty.clear()
        steps.put_nowait(("MODIFIED", service("a", 2, type="LoadBalancer")))
        await mirror.until(lambda: mirror.reflector.tally.events == 1)
        assert not mirror.dirty.is_set()
        steps.put_nowait(("MODIFIED", service("a", 3, type="ClusterIP")))
        await mirror.dirty.wait()
        assert mirror.store.take_changed() == {"default/a"}
        mirror.dirty.clear()
        steps.put_nowait(("BOOKMARK", {"metadata": {"resourceVersion": "9"}}))
        await mirror.until(lambda: mirror.reflector.tally.events == 3)
        assert not mirror.dirty.is_set()
        steps.put_nowait(("DELETED", service("a", 10)))
        await mirror.dirty.wait()
        assert mirror.store.take_changed() == {"default/a"}
        assert len(mirror.store) == 0


async def test_a_watch_that_broke_is_resumed_after_the_last_event_or_bookmark() -> None:
    watches: list[str] = []

    async def answer(request: Request, line: Line) -> None:
        if not request.is_watch:
            await line.answer(200, listing(1))
            return
        watches.append(request.query["resourceVersion"])
        await line.begin()
        if len(watches) == 1:
            await line.event("ADDED", service("a", 4))
            await line.event("BOOKMARK", {"metadata": {"resourceVersion": "8", "creationTimestamp": None}})
            await line.send(b'{"type":"ADDED","object":{"metadata":{"na')
            line.reset()
        elif len(watches) == 2:
            await line.event("ADDED", service("b", 9))
            await line.end()
        else:
            await asyncio.Event().wait()

    async with responding(answer) as server, mirroring(server.url) as mirror:
        await mirror.has("a", "b")
        await mirror.until(lambda: len(watches) == 3)
        assert watches == ["1", "8", "9"]
        assert server.paths().count("GET") == 1


@pytest.mark.parametrize("how", ["error event", "http status"])
async def test_an_expired_version_calls_for_a_list_that_also_finds_deletions(how: str) -> None:
    lists = 0

    async def answer(request: Request, line: Line) -> None:
        nonlocal lists
        status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version: 1 (5)"}
        if not request.is_watch:
            lists += 1
            items = [service("a", 1), service("gone", 1)] if lists == 1 else [service("a", 1), service("new", 6)]
            await line.answer(200, listing(lists * 10, *items))
        elif lists > 1:
            await forever(request, line)
        elif how == "http status":
            await line.answer(410, status)
        else:
            await line.begin()
            await line.event("ERROR", status)
            await line.end()

    async with responding(answer) as server, mirroring(server.url) as mirror:
        await mirror.has("a", "new")
        assert mirror.store.take_changed() == {"default/a", "default/gone", "default/new"}
        await mirror.until(lambda: server.paths()[-1] == "watch" and lists == 2)
        assert server.requests[-1].query["resourceVersion"] == "20"
        assert "watch_expired" in mirror.log.events()


async def test_an_object_that_cannot_be_read_does_not_stop_the_others() -> None:
    bad = {"metadata": {"name": "bad", "namespace": "default", "uid": "u-bad", "resourceVersion": "3"}, "spec": {"ports": 7}}

    async def answer(request: Request, line: Line) -> None:
        if not request.is_watch:
            await line.answer(200, listing(1, service("a", 1), bad))
            return
        await line.begin()
        await line.event("MODIFIED", bad | {"metadata": {"name": "a", "namespace": "default", "resourceVersion": "4"}})
        await line.event("ADDED", service("b", 5))
        await line.event("DELETED", bad | {"metadata": {"name": "b", "namespace": "default", "resourceVersion": "6"}})
        await line.event("ADDED", service("c", 7))
        await asyncio.Event().wait()

    async with responding(answer) as server, mirroring(server.url) as mirror:
        await mirror.has("a", "c")
        told = [facts["object"] for event, facts in mirror.log.lines if event == "object_unreadable"]
        assert told == ["default/bad", "default/a", "default/b"]
        assert mirror.reflector.tally.undecoded == 3
        assert "$.spec.ports" in str(mirror.log.lines[0][1]["error"])


async def test_rubbish_on_a_watch_is_survived_and_ends_in_a_list() -> None:
    lists = 0

    async def answer(request: Request, line: Line) -> None:
        nonlocal lists
        if not request.is_watch:
            lists += 1
            await line.answer(200, listing(lists, service(f"s{lists}", lists)))
        elif lists == 2:
            await forever(request, line)
        else:
            await line.begin()
            await line.send(b"<html>no</html>\n")
            await line.end()

    async with responding(answer) as server, mirroring(server.url) as mirror:
        await mirror.has("s2")
        assert server.paths()[:5] == ["GET", "watch", "watch", "watch", "GET"]


async def test_too_many_requests_is_answered_with_the_wait_that_was_asked_for() -> None:
    times: list[float] = []

    async def answer(request: Request, line: Line) -> None:
        times.append(asyncio.get_running_loop().time())
        if len(times) == 1:
            await line.answer(429, {"kind": "Status", "code": 429, "reason": "TooManyRequests"}, Retry_After="1")
        elif request.is_watch:
            await forever(request, line)
        else:
            await line.answer(200, listing(1))

    async with responding(answer) as server, mirroring(server.url) as mirror:
        await mirror.has()
        assert times[1] - times[0] >= 1.0


async def test_a_server_that_is_away_at_the_start_is_waited_for() -> None:
    async def answer(request: Request, line: Line) -> None:
        await (forever(request, line) if request.is_watch else line.answer(200, listing(1, service("a", 1))))

    probe = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    port = probe.sockets[0].getsockname()[1]
    probe.close()
    await probe.wait_closed()
    async with mirroring(f"http://127.0.0.1:{port}") as mirror:
        await mirror.until(lambda: mirror.reflector.tally.failures >= 3)
        assert not mirror.store.synced
        assert not mirror.dirty.is_set()
        async with responding(answer, port=port):
            await mirror.has("a")
            await mirror.until(lambda: "api_answers_again" in mirror.log.events())
    said = [facts for event, facts in mirror.log.lines if event == "watch_failed"]
    assert len(said) == 1, "one line, not one for every try"
    assert "cannot connect" in str(said[0]["error"])


async def test_a_kind_that_does_not_exist_yet_is_waited_for() -> None:
    answers = 0

    async def answer(request: Request, line: Line) -> None:
        nonlocal answers
        answers += 1
        if answers < 4:
            await line.answer(404, b"404 page not found\n")
        elif request.is_watch:
            await forever(request, line)
        else:
            await line.answer(200, listing(1, service("a", 1)))

    async with responding(answer) as server, mirroring(server.url) as mirror:
        await mirror.has("a")
        assert server.paths()[:4] == ["GET"] * 4


async def test_who_waits_for_a_lost_server_is_woken_when_it_answers_another() -> None:
    async def answer(_: Request, line: Line) -> None:
        await line.answer(200, listing(1))

    probe = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    port = probe.sockets[0].getsockname()[1]
    probe.close()
    await probe.wait_closed()
    slow = Pace(base_s=3600.0, cap_s=3600.0, away_cap_s=3600.0)
    async with mirroring(f"http://127.0.0.1:{port}", slow) as mirror:
        await mirror.until(lambda: mirror.reflector.tally.failures == 1)
        async with responding(answer, port=port):
            await mirror.reflector._client.list(SERVICES)
            await mirror.has()


async def test_a_list_too_new_for_the_server_is_an_expired_version() -> None:
    async def answer(_: Request, line: Line) -> None:
        causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
        await line.answer(504, {"kind": "Status", "code": 504, "reason": "Timeout", "details": {"causes": causes}})

    async with responding(answer) as server, connected(server.url) as client:
        with pytest.raises(Gone):
            await anext(client.watch(SERVICES, resource_version="99999"))


async def test_who_may_list_but_not_watch_polls() -> None:
    lists = 0

    async def answer(request: Request, line: Line) -> None:
        nonlocal lists
        if request.is_watch:
            await line.answer(403, {"kind": "Status", "code": 403, "message": "cannot watch resource"})
        else:
            lists += 1
            await line.answer(200, listing(lists, service(f"s{lists}", lists)))

    async with responding(answer) as server, mirroring(server.url) as mirror:
        await mirror.until(lambda: lists >= 4)
        await mirror.until(mirror.dirty.is_set)
        assert mirror.log.events().count("watch_failed") == 1


async def test_a_list_can_be_asked_for_while_a_watch_is_under_way() -> None:
    watches = lists = 0

    async def answer(request: Request, line: Line) -> None:
        nonlocal watches, lists
        if request.is_watch:
            watches += 1
            await forever(request, line)
        else:
            lists += 1
            await line.answer(200, listing(lists, *(service(f"s{number}", number) for number in range(lists))))

    async with responding(answer) as server, mirroring(server.url) as mirror, asyncio.timeout(10):
        loop = asyncio.get_running_loop()
        await mirror.reflector.listed_since(0.0)
        await mirror.until(lambda: watches == 1)
        await mirror.reflector.listed_since(loop.time())
        assert lists == 2
        await mirror.has("s0", "s1")
        await mirror.until(lambda: watches == 2)
        await mirror.reflector.listed_since(0.0)
        assert lists == 2, "the last one is late enough"
        assert mirror.reflector.tally.failures == 0


async def test_a_list_that_was_begun_too_early_is_followed_by_another_one() -> None:
    go_on = asyncio.Event()
    lists = 0

    async def answer(request: Request, line: Line) -> None:
        nonlocal lists
        if request.is_watch:
            await forever(request, line)
        else:
            lists += 1
            await go_on.wait()
            await line.answer(200, listing(lists))

    async with responding(answer) as server, mirroring(server.url) as mirror, asyncio.timeout(10):
        await mirror.until(lambda: lists == 1)
        async with asyncio.TaskGroup() as group:
            group.create_task(mirror.reflector.listed_since(asyncio.get_running_loop().time()), name="asking")
            await asyncio.sleep(0)
            go_on.set()
        assert lists == 2
