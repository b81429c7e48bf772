"""A small client for these tests: plain JSON over the server's real TLS listener."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp

from lab.apiserver.server import Served

Json = dict[str, Any]
MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"


async def eventually(check: Callable[[], Awaitable[bool]]) -> None:
    """Ask until it holds; the test's deadline is 5 s."""
    async with asyncio.timeout(5):
        while True:
            if await check():
                return
            await asyncio.sleep(0.01)


class Client:
    """One user's connection."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session

    async def call(
        self, method: str, path: str, body: Any = None, *, media: str = "application/json", **query: str
    ) -> tuple[int, Json]:
        """Status and document of an answer."""
        data = None if body is None else json.dumps(body)
        async with self.session.request(method, path, data=data, params=query, headers={"Content-Type": media}) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if text.startswith("{") else {"text": text}

    async def must(self, method: str, path: str, body: Any = None, *, media: str = "application/json", **query: str) -> Json:
        """The document of an answer that has to be a success."""
        status, document = await self.call(method, path, body, media=media, **query)
        assert status < 300, document
        return document

    @contextlib.asynccontextmanager
    async def watch(self, path: str, **query: str) -> AsyncIterator[AsyncIterator[Json]]:
        """The events of a watch."""
        async with self.session.get(path, params={"watch": "1", **query}) as answer:
            assert answer.status == 200, await answer.text()

            async def events() -> AsyncIterator[Json]:
                async for line in answer.content:
                    yield json.loads(line)

            yield events()


@contextlib.asynccontextmanager
async def client_of(server: Served, token: str | None = None) -> AsyncIterator[Client]:
    """A client of a running server; the administrator's unless a token is given."""
    context = ssl.create_default_context(cafile=str(server.ca_file))
    headers = {"Authorization": f"Bearer {server.token if token is None else token}"}
    connector = aiohttp.TCPConnector(ssl=context, limit=0)
    async with aiohttp.ClientSession(server.url, headers=headers, connector=connector) as session:
        yield Client(session)


def config_map(name: str, **data: str) -> Json:
    """A ConfigMap."""
    return {"metadata": {"name": name}, "data": data}


def balancer(name: str, **spec: Any) -> Json:
    """A Service of type LoadBalancer."""
    return {"metadata": {"name": name}, "spec": {"type": "LoadBalancer", "ports": [{"port": 80}], **spec}}
