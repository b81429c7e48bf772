"""A raw HTTP/1.1 responder for what a real server does only when it fails: resets, half lines, hangs, 429, rubbish.

It knows no Kubernetes: a test gives it a function from request to answer. Everything that a working API server does is
tested against the lab's API server instead.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

from kube.auth import Access, Credentials
from kube.client import KubeClient


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def is_watch(self) -> bool:
        return self.query.get("watch") == "true"


class Line:
    """The connection of one request: what the answer function writes to."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    async def answer(self, status: int, body: object = None, **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(content)}", "Content-Type: application/json"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self._writer.write("\r\n".join([*lines, "", ""]).encode() + content)
        await self._writer.drain()

    async def begin(self) -> None:
        """The head of a watch."""
        self._writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: application/json\r\n\r\n")
        await self._writer.drain()

    async def send(self, chunk: bytes) -> None:
        self._writer.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        await self._writer.drain()

    async def event(self, kind: str, document: object) -> None:
        await self.send(json.dumps({"type": kind, "object": document}).encode() + b"\n")

    async def end(self) -> None:
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()

    def reset(self) -> None:
        """Drop the connection with a TCP reset, whatever was promised."""
        self._writer.transport.abort()


Answer = Callable[[Request, Line], Awaitable[None]]


@dataclass
class Responder:
    url: str
    requests: list[Request] = field(default_factory=list)

    def paths(self) -> list[str]:
        return ["watch" if request.is_watch else request.method for request in self.requests]


@asynccontextmanager
async def responding(answer: Answer, *, port: int = 0) -> AsyncIterator[Responder]:
    responder = Responder("")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *rest = head.decode().strip().split("\r\n")
                method, target, _ = first.split(" ")
                headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in rest)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                parts = urlsplit(target)
                request = Request(method, parts.path, dict(parse_qsl(parts.query)), headers, body)
                responder.requests.append(request)
                await answer(request, Line(writer))
                if writer.is_closing():
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except asyncio.CancelledError:
            pass  # The server is closed while a client still waits.
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    responder.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield responder
    finally:
        server.close()


@asynccontextmanager
async def connected(url: str, authorization: str | None = None) -> AsyncIterator[KubeClient]:
    client = await KubeClient.connect(Credentials(lambda: Access(server=url, authorization=authorization)))
    try:
        yield client
    finally:
        await client.close()


def service(name: str, version: int, **spec: object) -> dict[str, object]:
    return {
        "metadata": {"name": name, "namespace": "default", "uid": f"u-{name}", "resourceVersion": str(version)},
        "spec": spec,
    }


def listing(version: int, *items: dict[str, object], more: str = "") -> dict[str, object]:
    metadata = {"resourceVersion": str(version)} | ({"continue": more} if more else {})
    return {"kind": "List", "metadata": metadata, "items": list(items)}
