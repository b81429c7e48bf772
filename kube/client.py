"""Requests to the API server: get, list, create, patch, update, delete, watch.

aiohttp carries them; msgspec writes the bodies and reads the answers into the views of kube.objects (docs/decisions/0006
says why not the official package). One client per process, made by main() and handed to reflectors, appliers and recorders.
It never retries, except once after a 401 for which new credentials were found: who asked knows best whether the question
still stands. Every failure is a KubeError. It keeps no objects and logs nothing.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from enum import Enum, StrEnum
from types import MappingProxyType
from typing import Any, Final, Generic, Self, TypeVar
from urllib.parse import quote, urlencode

import aiohttp
import msgspec
from yarl import URL

from config.kinds.meta import ObjectMeta
from kube.auth import Access, Credentials, CredentialsError, load_client_certificate
from kube.errors import Gone, Malformed, Status, Unreachable, error_of, error_of_answer
from kube.objects import Known, ObjectKey, key_of
from kube.resources import Resource

T = TypeVar("T", bound=Known)

PAGE_SIZE: Final = 500
CONNECT_LIMIT_S: Final = 5.0
CALL_LIMIT_S: Final = 15.0
LIST_LIMIT_S: Final = 60.0
WATCH_HEADER_LIMIT_S: Final = 60.0
WATCH_GRACE_S: Final = 60.0
"""How long after the end that it was asked for a silent watch is given up."""
KEEPALIVE: Final = MappingProxyType({socket.TCP_KEEPIDLE: 15, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 3})
"""A peer that vanished without a word is noticed after 30 s."""
READ_AHEAD: Final = 1 << 21
"""How much of an answer may wait in memory before the server is made to wait, in bytes: an object can have 1.5 MiB."""

_JSON: Final = "application/json"


class PatchKind(Enum):
    """How the body of a PATCH is meant. The value is the media type."""

    MERGE = "application/merge-patch+json"
    JSON = "application/json-patch+json"
    STRATEGIC = "application/strategic-merge-patch+json"
    APPLY = "application/apply-patch+yaml"


class EventKind(StrEnum):
    """What a watch event says of its object."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"
    BOOKMARK = "BOOKMARK"


@dataclass(frozen=True, slots=True)
class Undecoded:
    """An object that came but could not be read: where it is kept, and what is wrong with it."""

    key: ObjectKey
    problem: str


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """All objects of a kind at one moment. `resource_version` is where a watch continues."""

    items: list[T]
    undecoded: tuple[Undecoded, ...]
    resource_version: str


@dataclass(frozen=True, slots=True)
class WatchEvent(Generic[T]):
    """One line of a watch. `object` is None in a bookmark and when the object could not be read (then `undecoded` is set)."""

    kind: EventKind
    object: T | None
    resource_version: str
    undecoded: Undecoded | None = None


class _ListMeta(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class _List(msgspec.Struct, frozen=True, kw_only=True):
    metadata: _ListMeta = _ListMeta()
    items: tuple[msgspec.Raw, ...] | None = None


class _WatchLine(msgspec.Struct, frozen=True, kw_only=True):
    type: str
    object: msgspec.Raw


class _Name(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    name: str = ""
    namespace: str = ""
    resource_version: str = ""


class _Identified(msgspec.Struct, frozen=True, kw_only=True):
    """As much of an object as says which it is. A bookmark is no more than that: its creationTimestamp is null."""

    metadata: _Name = _Name()

    @property
    def key(self) -> ObjectKey:
        return key_of(ObjectMeta(name=self.metadata.name, namespace=self.metadata.namespace))


_READ_LIST: Final = msgspec.json.Decoder(_List)
_READ_LINE: Final = msgspec.json.Decoder(_WatchLine)
_READ_STATUS: Final = msgspec.json.Decoder(Status)
_READ_IDENTITY: Final = msgspec.json.Decoder(_Identified)


class KubeClient:
    """The one way to the API server. Use: client = await KubeClient.connect(credentials); ...; await client.close()."""

    def __init__(self, session: aiohttp.ClientSession, context: ssl.SSLContext, credentials: Credentials) -> None:
        self._session = session
        self._context = context
        self._credentials = credentials
        self._access = credentials.access
        self._away = False
        self._waiting: set[asyncio.Future[None]] = set()
        self.requests = 0
        """How many requests were sent, for metrics and for tests that bound it."""

    @classmethod
    async def connect(cls, credentials: Credentials, *, user_agent: str = "metallb-py") -> Self:
        """A client with these credentials. Nothing is sent yet: the API server may be away.

        Raises:
            CredentialsError: a certificate cannot be used.

        """
        access = credentials.access
        context = _tls(access)
        # Without trust_env=False aiohttp would read the environment and ~/.netrc for every request, in a thread.
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context, socket_factory=_socket),
            headers={"Accept": _JSON, "User-Agent": user_agent},
            trust_env=False,
            read_bufsize=READ_AHEAD,
        )
        return cls(session, context, credentials)

    async def close(self) -> None:
        """Close all connections. Requests that run fail."""
        await self._session.close()

    @property
    def server(self) -> str:
        """The address of the API server, for logs."""
        return self._credentials.access.server

    @property
    def problem(self) -> str:
        """Why the credentials on disk are not the ones in use; empty when they are. For status pages."""
        return self._credentials.problem

    async def get(self, resource: Resource[T], name: str, namespace: str | None = None) -> T:
        """One object."""
        return _decoded(resource, await self._call("GET", resource.path(namespace=namespace, name=name)))

    async def list(
        self, resource: Resource[T], *, namespace: str | None = None, label_selector: str = "", field_selector: str = ""
    ) -> tuple[list[T], str]:
        """All objects and the resource version of the list.

        Raises:
            Malformed: one of them cannot be read (list_all reads the others).

        """
        listing = await self.list_all(
            resource, namespace=namespace, label_selector=label_selector, field_selector=field_selector
        )
        if listing.undecoded:
            first = listing.undecoded[0]
            raise Malformed(f"{resource.kind} {first.key}: {first.problem}")
        return listing.items, listing.resource_version

    async def list_all(
        self, resource: Resource[T], *, namespace: str | None = None, label_selector: str = "", field_selector: str = ""
    ) -> Listing[T]:
        """All objects that can be read, page by page, and the others by name."""
        selectors = [*_selectors(label_selector, field_selector)]
        path = resource.path(namespace=namespace)
        try:
            return await self._pages(resource, path, [("limit", str(PAGE_SIZE)), *selectors])
        except Gone:
            # The list was too old before its last page was read; whole it cannot grow old.
            return await self._pages(resource, path, selectors)

    async def _pages(self, resource: Resource[T], path: str, query: Sequence[tuple[str, str]]) -> Listing[T]:
        items: list[T] = []
        undecoded: list[Undecoded] = []
        version = token = ""
        while True:
            asked = [*query, ("continue", token)] if token else query
            body = await self._call("GET", path, query=asked, limit_s=LIST_LIMIT_S)
            try:
                page = _READ_LIST.decode(body)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise Malformed(f"the list of {resource.plural} cannot be read: {error}") from error
            for raw in page.items or ():
                try:
                    items.append(resource.decode(raw))
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    undecoded.append(Undecoded(_key_in(raw), str(error)))
            version = version or page.metadata.resource_version  # The first page says where a watch continues.
            token = page.metadata.continue_
            if not token:
                return Listing(items, tuple(undecoded), version)

    async def create(self, resource: Resource[T], body: object, *, namespace: str | None = None) -> T:
        """Create an object; `body` is a Struct or plain JSON values."""
        return _decoded(resource, await self._call("POST", resource.path(namespace=namespace), body=body))

    async def patch(
        self,
        resource: Resource[T],
        name: str,
        patch: object,
        *,
        namespace: str | None = None,
        subresource: str = "",
        kind: PatchKind = PatchKind.MERGE,
        field_manager: str = "",
        force: bool = False,
    ) -> T:
        """Change an object. A JSON patch is a list of operations; APPLY needs a field manager, and `force` takes fields over."""
        query = [("fieldManager", field_manager)] if field_manager else []
        if force:
            query.append(("force", "true"))
        path = resource.path(namespace=namespace, name=name, subresource=subresource)
        return _decoded(resource, await self._call("PATCH", path, query=query, body=patch, content_type=kind.value))

    async def update(
        self, resource: Resource[T], name: str, body: object, *, namespace: str | None = None, subresource: str = ""
    ) -> T:
        """Replace an object; with metadata.resourceVersion in the body only the edition that was read is replaced."""
        path = resource.path(namespace=namespace, name=name, subresource=subresource)
        return _decoded(resource, await self._call("PUT", path, body=body))

    async def delete(
        self,
        resource: Resource[T],
        name: str,
        *,
        namespace: str | None = None,
        uid: str | None = None,
        grace_s: int | None = None,
    ) -> None:
        """Delete an object, with `uid` only that very one, not another that has its name by now (Conflict then).

        `grace_s` says how long a Pod may take to end; 0 takes it out of the API at once. None leaves that to the Pod.
        """
        options: dict[str, Any] = {}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        if grace_s is not None:
            options["gracePeriodSeconds"] = grace_s
        body = {"apiVersion": "v1", "kind": "DeleteOptions", **options} if options else None
        await self._call("DELETE", resource.path(namespace=namespace, name=name), body=body)

    async def post(self, path: str, body: object) -> bytes:
        """POST to any path, for reviews and subresources; the answer as it came."""
        return await self._call("POST", path, body=body)

    async def watch(
        self,
        resource: Resource[T],
        *,
        resource_version: str,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
        timeout_s: float = 300.0,
    ) -> AsyncGenerator[WatchEvent[T], None]:
        """Events after a resource version, bookmarks included, until the server ends the watch (after about `timeout_s`).

        Raises:
            KubeError: the watch could not start, the server reported an error in it (Gone: list again), or it broke.

        """
        async with self.open_watch(
            resource,
            resource_version=resource_version,
            namespace=namespace,
            label_selector=label_selector,
            field_selector=field_selector,
            timeout_s=timeout_s,
        ) as events:
            async for event in events:
                yield event

    @asynccontextmanager
    async def open_watch(
        self,
        resource: Resource[T],
        *,
        resource_version: str,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
        timeout_s: float = 300.0,
    ) -> AsyncGenerator[AsyncGenerator[WatchEvent[T], None], None]:
        """As watch; entering the block means that the server has begun the watch, though no event may have come yet."""
        query = [
            ("watch", "true"),
            ("allowWatchBookmarks", "true"),
            ("resourceVersion", resource_version),
            ("timeoutSeconds", str(max(1, round(timeout_s)))),
            *_selectors(label_selector, field_selector),
        ]
        limits = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_LIMIT_S, sock_read=timeout_s + WATCH_GRACE_S)
        try:
            async with asyncio.timeout(WATCH_HEADER_LIMIT_S):
                response = await self._send("GET", resource.path(namespace=namespace), query, None, _JSON, limits)
        except TimeoutError as error:
            raise Unreachable(f"{self.server} did not begin the watch", phase="exchange") from error
        try:
            async with aclosing(_events(resource, response)) as events:
                yield events
        finally:
            response.close()

    async def pause(self, limit_s: float) -> None:
        """Sleep, but no longer than until a server that could not be connected to answers somebody again."""
        if not self._away:
            await asyncio.sleep(limit_s)
            return
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(waiting)
        try:
            async with asyncio.timeout(limit_s):
                await waiting
        except TimeoutError:
            pass
        finally:
            self._waiting.discard(waiting)

    async def _call(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        body: object = None,
        content_type: str = _JSON,
        limit_s: float = CALL_LIMIT_S,
    ) -> bytes:
        limits = aiohttp.ClientTimeout(total=limit_s, sock_connect=CONNECT_LIMIT_S)
        response = await self._send(method, path, query, body, content_type, limits)
        return await self._body(response)

    async def _send(
        self,
        method: str,
        path: str,
        query: Sequence[tuple[str, str]],
        body: object,
        content_type: str,
        limits: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        """The answer to a request, once its head has come and is a success."""
        await self._credentials.look()
        content = None if body is None else msgspec.json.encode(body)
        used, response = await self._attempt(method, path, query, content, content_type, limits)
        if response.status == 401 and await self._credentials.read_again(used):
            response.release()
            _, response = await self._attempt(method, path, query, content, content_type, limits)
        if response.status >= 300:
            retry_after = response.headers.get("Retry-After", "")
            raise error_of_answer(response.status, await self._body(response), retry_after=retry_after)
        return response

    async def _attempt(
        self,
        method: str,
        path: str,
        query: Sequence[tuple[str, str]],
        content: bytes | None,
        content_type: str,
        limits: aiohttp.ClientTimeout,
    ) -> tuple[Access, aiohttp.ClientResponse]:
        """The credentials that were used, and the answer, whatever it says."""
        access = self._credentials.access
        if access is not self._access:
            self._use(access)
        headers = {"Content-Type": content_type}
        if access.authorization:
            headers["Authorization"] = access.authorization
        asked = f"?{urlencode(query, quote_via=quote)}" if query else ""
        self.requests += 1
        try:
            response = await self._session.request(
                method,
                URL(f"{access.server}{path}{asked}", encoded=True),
                headers=headers,
                data=content,
                timeout=limits,
                proxy=access.proxy,
                server_hostname=access.tls_server_name,
            )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            self._away = True
            raise Unreachable(f"cannot connect to {self.server}: {_words(error)}", phase="connect") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"{method} {path}: no answer from {self.server}: {_words(error)}", phase="exchange") from error
        if self._away:
            self._away = False
            for waiting in self._waiting:
                if not waiting.done():
                    waiting.set_result(None)
        return access, response

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        try:
            return await response.read()
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"{response.url.path}: the answer broke off: {_words(error)}", phase="exchange") from error
        finally:
            response.release()

    def _use(self, access: Access) -> None:
        """Let the next connections use this access. Those that are open stay as they are."""
        self._access = access
        try:
            _trust(self._context, access)  # Adds; an old CA is trusted until restart.
        except CredentialsError as error:
            self._credentials.problem = f"rotated certificates cannot be used: {error}"


def _tls(access: Access) -> ssl.SSLContext:
    """How to check the server, and what to show it.

    Raises:
        CredentialsError: a certificate cannot be used.

    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not access.ca:
        context.load_default_certs()
    if not access.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # Cluster CAs without key usage exist (old EKS, microk8s).
    _trust(context, access)
    return context


def _trust(context: ssl.SSLContext, access: Access) -> None:
    """Take the CA and the client certificate of an access into a context.

    Raises:
        CredentialsError: one of them cannot be used.

    """
    if access.ca:
        try:
            context.load_verify_locations(cadata=access.ca.decode("ascii"))
        except (ssl.SSLError, UnicodeDecodeError) as error:
            raise CredentialsError(f"the CA certificate for {access.server} cannot be used: {error}") from error
    if access.client_certificate:
        load_client_certificate(context, access.client_certificate, access.client_key)


def _socket(address: Any) -> socket.socket:
    """A TCP socket that notices a vanished peer."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE.items():
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made


def _selectors(label_selector: str, field_selector: str) -> Sequence[tuple[str, str]]:
    given = (("labelSelector", label_selector), ("fieldSelector", field_selector))
    return [(name, text) for name, text in given if text]


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _decoded(resource: Resource[T], document: bytes) -> T:
    try:
        return resource.decode(document)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Malformed(f"{resource.kind} {_key_in(document)}: {error}") from error


def _key_in(document: bytes | msgspec.Raw) -> ObjectKey:
    """The key of an object that cannot be read as what it should be; "?" if not even its metadata can."""
    try:
        return _READ_IDENTITY.decode(document).key
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ObjectKey("?")


def _event_of(resource: Resource[T], line: bytes) -> WatchEvent[T]:
    """The event in one line of a watch.

    Raises:
        KubeError: the line reports an error, or is no watch event.

    """
    try:
        parts = _READ_LINE.decode(line)
        if parts.type == "ERROR":
            raise error_of(_READ_STATUS.decode(parts.object))
        kind = EventKind(parts.type)
        if kind is EventKind.BOOKMARK:
            return WatchEvent(kind, None, _READ_IDENTITY.decode(parts.object).metadata.resource_version)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise Malformed(f"the watch of {resource.plural} sent a line that is no event: {error}") from error
    try:
        view = resource.decode(parts.object)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return _unreadable(kind, parts.object, error)
    return WatchEvent(kind, view, view.version)


async def _events(resource: Resource[T], response: aiohttp.ClientResponse) -> AsyncGenerator[WatchEvent[T], None]:
    pending = b""
    try:
        async for chunk in response.content.iter_any():
            lines = (pending + chunk).split(b"\n") if pending else chunk.split(b"\n")
            pending = lines.pop()
            for line in lines:
                if line and not line.isspace():
                    yield _event_of(resource, line)
    except (aiohttp.ClientError, OSError) as error:
        raise Unreachable(f"the watch of {resource.plural} broke: {_words(error)}", phase="exchange") from error


def _unreadable(kind: EventKind, document: msgspec.Raw, error: Exception) -> WatchEvent[T]:
    try:
        found = _READ_IDENTITY.decode(document)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return WatchEvent(kind, None, "", Undecoded(ObjectKey("?"), str(error)))
    return WatchEvent(kind, None, found.metadata.resource_version, Undecoded(found.key, str(error)))
