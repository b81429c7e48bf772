"""The lab's API server and the network to it, in one virtual loop: what KubeClient takes for its aiohttp session.

Requests arrive late, or not at all, or arrive although the answer is lost; watches break; the server refuses. What a process
had sent when it died may still arrive. The verbs are those of lab.apiserver.api, so conflicts, merges and defaults are real.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Mapping
from contextvars import Context
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import parse_qs

import aiohttp
import msgspec
import yaml
from yarl import URL

from config import crd
from kube.auth import Access, Credentials
from kube.client import KubeClient
from lab.apiserver import bootstrap, codec
from lab.apiserver.api import Api, Call, DeleteOptions, make_stored
from lab.apiserver.controllers import Controllers
from lab.apiserver.errors import ApiError, conflict, expired, internal
from lab.apiserver.resources import Registry, Resource
from lab.apiserver.store import Store
from lab.apiserver.watching import Hub, Watcher, line_of
from tests.simulation.virtual_time import Process

EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
FATES: Final = (
    "no connection", "cut before", "cut after", "late", "silent", "timeout after", "409", "410", "429", "500", "500 after"
)  # fmt: skip
"""What can go wrong with a request; "after" means that it has been carried out nevertheless."""


class Cluster:
    """An API server with our kinds and its state in a directory. One serves many histories: making one takes half a second."""

    def __init__(self, state: Path) -> None:
        self.now_s = 0.0
        self.writer: Wire | None = None
        """Whose request is being carried out; None for a user's."""
        registry = Registry()
        self.store = Store(
            state,
            lambda storage, _key, rv, body: make_stored(registry, storage, msgspec.json.decode(body), rv, body=body),
        )
        self.registry = registry
        rng = random.Random(1)  # noqa: S311 - names and uids
        self.api = Api(self.store, registry, now=lambda: datetime.fromtimestamp(EPOCH + self.now_s, UTC), rng=rng)
        self.hub = Hub(self.store)
        controllers = Controllers(self.api, self.hub)
        bootstrap.populate(self.api)
        controllers.start()
        for text in crd.files().values():
            self.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", yaml.safe_load(text))
        controllers.work()

    def target(self, path: str) -> tuple[Resource, str | None, str, str]:
        """Resource, namespace, name and subresource of a path."""
        parts = path.strip("/").split("/")
        group, version, rest = ("", parts[1], parts[2:]) if parts[0] == "api" else (parts[1], parts[2], parts[3:])
        namespace = None
        if rest[0] == "namespaces" and len(rest) > 2:
            namespace, rest = rest[1], rest[2:]
        resource = self.registry.find(group, version, rest[0])
        assert resource is not None, path
        return resource, namespace, rest[1] if len(rest) > 1 else "", rest[2] if len(rest) > 2 else ""

    def create(self, path: str, document: Mapping[str, Any]) -> None:
        """As a user."""
        resource, namespace, _, _ = self.target(path)
        self.api.create(resource, namespace or "", codec.normalize(resource, dict(document), []), Call())

    def patch(self, path: str, change: Mapping[str, Any]) -> None:
        """A merge patch, as a user."""
        resource, namespace, name, sub = self.target(path)
        self.api.patch(
            resource, (namespace or "", name), "application/merge-patch+json", msgspec.json.encode(change), Call(), sub=sub
        )

    def delete(self, path: str) -> None:
        """As a user; what is not there need not be deleted."""
        resource, namespace, name, _ = self.target(path)
        if (namespace or "", name) in self.store.shelf(resource.storage).objects:
            self.api.delete(resource, (namespace or "", name), DeleteOptions(), Call())

    def forget_history(self) -> None:
        """Every watch that starts again is too old (410)."""
        self.hub.end_all()
        for storage in self.store.resources():
            shelf = self.store.shelf(storage)
            shelf.history.clear()
            shelf.compacted_rv = self.store.rv

    def carry_out(self, method: str, path: str, query: Mapping[str, list[str]], data: bytes | None, media: str) -> bytes:
        """The body that answers a request.

        Raises:
            ApiError: it is refused.

        """
        resource, namespace, name, sub = self.target(path)
        key = (namespace or "", name)
        match method:
            case "GET" if name:
                return self.api.body(resource, self.api.find(resource, key))
            case "GET":
                page = self.api.list(resource, namespace, (), ())
                items = b",".join(self.api.body(resource, one) for one in page.items)
                return b'{"metadata":{"resourceVersion":"%d"},"items":[%s]}' % (page.rv, items)
            case "PATCH":
                assert data is not None
                document, _ = self.api.patch(resource, key, media, data, Call(), sub=sub)
                return msgspec.json.encode(document)
        raise AssertionError(f"{method} {path} is not for this simulation")


@dataclass
class _Stream:
    """The events of a watch, as they arrive."""

    wire: Wire
    watcher: Watcher
    end_s: float

    async def iter_any(self) -> AsyncIterator[bytes]:
        loop, rng = asyncio.get_running_loop(), self.wire.rng
        try:
            while loop.time() < self.end_s:
                if not self.watcher.pending:
                    if self.watcher.ended:
                        return
                    self.watcher.wake.clear()
                    try:
                        async with asyncio.timeout_at(self.end_s):
                            await self.watcher.wake.wait()
                    except TimeoutError:
                        return
                await self.wire.travel()
                count = rng.randint(1, len(self.watcher.pending)) if self.watcher.pending else 0
                lines, self.watcher.pending[:] = self.watcher.pending[:count], self.watcher.pending[count:]
                if lines:
                    yield b"".join(lines)
                if rng.random() < self.wire.trouble / 2:
                    raise aiohttp.ClientPayloadError("cut")
        finally:
            self.close()

    def close(self) -> None:
        self.wire.cluster.hub.remove(self.watcher)


@dataclass
class _Answer:
    status: int
    body: bytes
    url: URL
    headers: Mapping[str, str] = field(default_factory=dict)
    content: _Stream | None = None

    async def read(self) -> bytes:
        return self.body

    def release(self) -> None:
        pass

    def close(self) -> None:
        if self.content is not None:
            self.content.close()


class Wire:
    """The network between one process and the API server. `trouble` is how often a request meets a fate of its own."""

    def __init__(self, cluster: Cluster, process: Process, rng: random.Random, *, trouble: float) -> None:
        self.cluster, self.process, self.rng, self.trouble = cluster, process, rng, trouble
        self.writes = 0

    def client(self) -> KubeClient:
        """A client whose requests go this way."""
        return KubeClient(cast("Any", self), _CONTEXT, Credentials(lambda: _ACCESS))

    async def travel(self) -> None:
        """The time that a message needs."""
        await asyncio.sleep(self.rng.choice((0.0, 0.0, 0.001, 0.01, 0.3)))
        if self.process.dead:
            await asyncio.get_running_loop().create_future()

    async def request(self, method: str, url: URL, *, headers: Mapping[str, str], data: bytes | None, **more: Any) -> _Answer:
        """As aiohttp.ClientSession.request."""
        limits: aiohttp.ClientTimeout = more["timeout"]
        rng, loop = self.rng, asyncio.get_running_loop()
        query = parse_qs(url.raw_query_string)
        fate = rng.choice(FATES) if rng.random() < self.trouble else ""
        if self.process.dead:
            await loop.create_future()
        if fate == "no connection":
            raise aiohttp.ConnectionTimeoutError("no connection")
        answered: asyncio.Future[_Answer] = loop.create_future()

        def arrive() -> None:
            if self.process.dead and rng.random() < 0.5:
                return  # It was on the way, and is lost with its process.
            answer = self._answer(fate, method, url, query, data, headers["Content-Type"])
            if not answered.done():
                answered.set_result(answer)

        way_s = rng.choice((0.0, 0.001, 0.01, 0.3))
        if fate == "late":
            way_s = (limits.total or 0.0) + rng.uniform(0.0, 10.0)
        if fate not in {"cut before", "silent"}:
            loop.call_later(way_s, arrive, context=_OUTSIDE)
        if fate.startswith("cut"):
            await asyncio.sleep(way_s)
            raise aiohttp.ServerDisconnectedError("cut")
        if fate == "timeout after":
            await asyncio.sleep(limits.total or 1.0)
            raise TimeoutError
        async with asyncio.timeout(limits.total):
            answer = await answered
        await self.travel()
        return answer

    def _answer(
        self, fate: str, method: str, url: URL, query: Mapping[str, list[str]], data: bytes | None, media: str
    ) -> _Answer:
        resource, namespace, name, _ = self.cluster.target(url.path)
        self.cluster.now_s = asyncio.get_running_loop().time()
        self.cluster.writer = self
        try:
            match fate:
                case "409" if method == "PATCH":
                    raise conflict(resource.group, resource.plural, name, "somebody was faster")
                case "410" if method == "GET":
                    raise expired("too old")
                case "429":
                    return _Answer(429, b"", url, {"Retry-After": str(self.rng.randint(0, 2))})
                case "500":
                    raise internal("no")
            if "watch" in query:
                return _Answer(200, b"", url, content=self._watch(resource, namespace, query))
            body = self.cluster.carry_out(method, url.path, query, data, media)
            self.writes += method != "GET"
            if fate == "500 after":
                raise internal("done, but the answer is lost")
            return _Answer(200, body, url)
        except ApiError as error:
            return _Answer(error.code, msgspec.json.encode(error.status()), url, error.headers)
        finally:
            self.cluster.writer = None

    def _watch(self, resource: Resource, namespace: str | None, query: Mapping[str, list[str]]) -> _Stream:
        cluster = self.cluster
        since = int(query["resourceVersion"][0])
        watcher = Watcher(cluster.api, resource, namespace, (), (), None, after_rv=since)
        try:
            for change in cluster.store.changes_since(resource.storage, since):
                watcher.offer(change)
        except ApiError as error:
            watcher.pending.append(line_of("ERROR", msgspec.json.encode(error.status())))
            watcher.ended = True
        cluster.hub.add(watcher)
        return _Stream(self, watcher, asyncio.get_running_loop().time() + float(query["timeoutSeconds"][0]))


_CONTEXT: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
_ACCESS: Final = Access("https://api")
_OUTSIDE: Final = Context()
