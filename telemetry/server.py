"""The listeners of a daemon: /metrics and /status over TLS, /healthz and /readyz in the clear, /status for lbctl.

The metrics port speaks TLS only (a plain request is told so) and asks `authorize` about the bearer token of every request;
the health port answers as long as the process runs, and says nothing else; the Unix socket is for the machine's root
(mode 0600). All of it is read only. What /status shows is the caller's: this module encodes it and knows nothing of it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from telemetry.log import get_logger
from telemetry.tls import ServerCertificate, TlsOptions
from telemetry.unix import short_path

Authorize = Callable[[str, str], Awaitable[HTTPStatus]]
"""May the holder of this token GET this path? OK, UNAUTHORIZED (who is that?), FORBIDDEN, or SERVICE_UNAVAILABLE when
nobody can be asked."""

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

FIRST_BYTE_LIMIT_S: Final = 10.0
HANDSHAKE_LIMIT_S: Final = 10.0
LINGER_S: Final = 1.0
MAX_CONNECTIONS: Final = 128
TLS_HANDSHAKE: Final = b"\x16"  # RFC 8446 section 5.1: the content type of a ClientHello.

_PLAIN: Final = (
    b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
    b"This port speaks HTTPS only: use https://\n"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listeners:
    """Where to listen. A port 0 and a path None mean: not at all. An address None means all addresses."""

    metrics_port: int = 0
    health_port: int = 0
    health_address: str | None = None
    socket_path: Path | None = None
    cert_dir: Path | None = None
    tls: TlsOptions = field(default_factory=TlsOptions)


class TelemetryServer:
    """All listeners of one process, made inside of a running loop. `run` serves until it is cancelled.

    Raises:
        TlsError: at construction, when the certificate in cert_dir cannot be used.
        OSError: from run, when an address is taken; the message says which.

    """

    def __init__(
        self,
        listeners: Listeners,
        *,
        registry: CollectorRegistry,
        status: Callable[[], object],
        authorize: Authorize,
    ) -> None:
        self.started = asyncio.Event()
        self._listeners = listeners
        self._registry = registry
        self._status = status
        self._authorize = authorize
        self._log = get_logger("server")
        self._connections = 0
        self._certificate = (
            ServerCertificate(listeners.tls, listeners.cert_dir, clock=asyncio.get_running_loop().time)
            if listeners.metrics_port
            else None
        )
        self._said_problem = ""

    async def run(self) -> None:
        """Listen and answer."""
        for note in self._listeners.tls.notes:
            self._log.warning("option_without_effect", detail=note)
        where = self._listeners
        async with AsyncExitStack() as stack:
            if where.health_port:
                await _serve(stack, _health, [_tcp("health", where.health_address, where.health_port)])
            if where.socket_path is not None:
                local = self._local_socket(where.socket_path)
                if local is not None:
                    stack.callback(where.socket_path.unlink, missing_ok=True)
                    await _serve(stack, self._local, [local])
            if where.metrics_port:
                await self._serve_tls(stack, where.metrics_port)
            self.started.set()
            await asyncio.get_running_loop().create_future()

    async def _serve_tls(self, stack: AsyncExitStack, port: int) -> None:
        listener = _tcp("metrics", None, port)
        stack.callback(listener.close)
        runner = web.ServerRunner(web.Server(self._guarded, access_log=None), handle_signals=False, shutdown_timeout=0.5)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        assert runner.server is not None
        group = await stack.enter_async_context(asyncio.TaskGroup())
        accepting = group.create_task(self._accept(listener, runner.server, group), name="metrics-accept")
        stack.callback(accepting.cancel)

    async def _accept(self, listener: socket.socket, server: web.Server, group: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError as error:  # Out of descriptors, or the peer went away in between: neither ends the service.
                self._log.warning("connection_not_accepted", error=str(error))
                await asyncio.sleep(0.1)
                continue
            if self._connections >= MAX_CONNECTIONS:
                connection.close()
                continue
            connection.setblocking(False)
            group.create_task(self._begin(connection, server), name="metrics-handshake")

    async def _begin(self, connection: socket.socket, server: web.Server) -> None:
        """Look at the first byte: a TLS client is handed to the HTTP server, any other is told to use https."""
        loop = asyncio.get_running_loop()
        self._connections += 1
        try:
            async with asyncio.timeout(FIRST_BYTE_LIMIT_S):
                first = await _peek(connection)
            if first != TLS_HANDSHAKE:
                if first:
                    await loop.sock_sendall(connection, _PLAIN)
                    connection.shutdown(socket.SHUT_WR)
                    async with asyncio.timeout(LINGER_S):  # Reading on keeps a reset from overtaking the answer.
                        while await loop.sock_recv(connection, 65536):
                            pass
                return
            transport, _ = await loop.connect_accepted_socket(
                server, connection, ssl=self._context(), ssl_handshake_timeout=HANDSHAKE_LIMIT_S
            )
            connection = None  # type: ignore[assignment]  # The transport owns it now.
            del transport
        except (OSError, ssl.SSLError, TimeoutError) as error:
            self._log.debug("connection_dropped", error=str(error) or type(error).__name__)
        finally:
            self._connections -= 1
            if connection is not None:
                connection.close()

    def _context(self) -> ssl.SSLContext:
        assert self._certificate is not None
        context = self._certificate.context()
        if self._certificate.problem != self._said_problem:
            self._said_problem = self._certificate.problem
            if self._said_problem:
                self._log.warning("certificate_not_reloaded", error=self._said_problem)
        return context

    async def _guarded(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path not in {"/metrics", "/status"}:
            return _text(HTTPStatus.NOT_FOUND, "not found\n")
        if request.method not in {"GET", "HEAD"}:
            return _text(HTTPStatus.METHOD_NOT_ALLOWED, "only GET\n", {"Allow": "GET, HEAD"})
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            return _refusal(HTTPStatus.UNAUTHORIZED)
        verdict = await self._authorize(token.strip(), request.path)
        if verdict is not HTTPStatus.OK:
            return _refusal(verdict)
        return self._metrics(request) if request.path == "/metrics" else self._status_page()

    async def _local(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/status":
            return self._status_page()
        if request.path == "/metrics":
            return self._metrics(request)
        return _text(HTTPStatus.NOT_FOUND, "not found\n")

    def _metrics(self, request: web.BaseRequest) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(self._registry), headers={"Content-Type": content_type})

    def _status_page(self) -> web.Response:
        return web.Response(body=encode_status(self._status()), content_type="application/json")

    def _local_socket(self, path: Path) -> socket.socket | None:
        """A listening socket at this path for root only; None, with a line in the log, when there cannot be one."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_socket():
                if _is_served(path):
                    self._log.warning(
                        "status_socket_taken", path=str(path), remedy="another process serves it; set --status-socket"
                    )
                    return None
                path.unlink()  # Left by a process that was killed.
            local = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            mask = os.umask(0o177)  # So that it never exists with a wider mode.
            try:
                with short_path(path) as short:
                    local.bind(short)
            finally:
                os.umask(mask)
            local.listen()
        except OSError as error:
            self._log.warning("status_socket_off", path=str(path), error=str(error))
            return None
        return local


def encode_status(status: object) -> bytes:
    """Any value of ours as JSON, with the same bytes for the same value."""
    return msgspec.json.encode(status, enc_hook=_plain, order="deterministic")


def _plain(value: object) -> object:
    return dict(value) if isinstance(value, Mapping) else str(value)


async def _health(request: web.BaseRequest) -> web.StreamResponse:
    """Both pages are pings: the process runs, and its loop turns (contract of the probes in MetalLB's manifests)."""
    if request.path.rstrip("/") in {"/healthz", "/readyz"}:
        return _text(HTTPStatus.OK, "ok")
    return _text(HTTPStatus.NOT_FOUND, "not found\n")


async def _serve(stack: AsyncExitStack, handler: Handler, sockets: list[socket.socket]) -> None:
    """Serve plain HTTP on listening sockets until the stack unwinds."""
    runner = web.ServerRunner(web.Server(handler, access_log=None), handle_signals=False, shutdown_timeout=0.5)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    for each in sockets:
        await web.SockSite(runner, each).start()


def _tcp(what: str, address: str | None, port: int) -> socket.socket:
    """A listening socket on one address, or on all of both families."""
    try:
        if address is None and socket.has_dualstack_ipv6():
            made = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        else:
            made = socket.create_server((address or "", port))
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on the {what} port {port}: {error.strerror}") from error
    made.setblocking(False)
    return made


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            with short_path(path) as short:
                probe.connect(short)
        except OSError:
            return False
        return True


async def _peek(connection: socket.socket) -> bytes:
    """The first byte that a peer sent, left where it is; empty when the peer closed."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            return connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            readable: asyncio.Future[None] = loop.create_future()
            loop.add_reader(connection, _settle, readable)
            try:
                await readable
            finally:
                loop.remove_reader(connection)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _text(status: HTTPStatus, text: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(status=status.value, text=text, headers=headers)


_WORDS: Final[Mapping[HTTPStatus, str]] = {
    HTTPStatus.UNAUTHORIZED: "a bearer token that the cluster knows is needed\n",
    HTTPStatus.FORBIDDEN: "the holder of this token may not GET this path\n",
    HTTPStatus.SERVICE_UNAVAILABLE: "the API server cannot be asked about this token now\n",
}


def _refusal(status: HTTPStatus) -> web.Response:
    headers: dict[str, Any] = {"WWW-Authenticate": "Bearer"} if status is HTTPStatus.UNAUTHORIZED else {}
    return _text(status, _WORDS.get(status, f"{status.phrase}\n"), headers)
