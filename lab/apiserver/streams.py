"""The streams of watches: what a watch starts with, its bookmarks, and its end.

http.py hands over a request for a watch; watching.py says which events it gets; here they are sent until the client, the
timeout or the server ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from aiohttp import web

from lab.apiserver import tables
from lab.apiserver.answers import JSON_TYPE, Format, Target, flag, include_of, integer, version_of
from lab.apiserver.api import Call
from lab.apiserver.auth import User
from lab.apiserver.errors import ApiError, forbidden, invalid
from lab.apiserver.handlers import Handlers
from lab.apiserver.resources import Resource
from lab.apiserver.watching import Hub, Watcher, line_of

Json = dict[str, Any]
BOOKMARK_EVERY_S = 60.0
BOOKMARK_BEFORE_END_S = 2.0


class Streams:
    """Serves watches."""

    def __init__(self, handlers: Handlers, hub: Hub, rng: random.Random) -> None:
        self.api, self._handlers, self.hub, self._rng = handlers.api, handlers, hub, rng
        self.closing = False

    def close(self) -> None:
        """End all watches."""
        self.closing = True
        self.hub.end_all()

    async def watch(self, request: web.BaseRequest, target: Target, form: Format, user: User, call: Call) -> web.StreamResponse:
        """One watch, from its first event to its end."""
        query, resource = request.query, target.resource
        self._handlers.require(user, "watch", target, query)
        labels, fields = self._handlers.selectors(query, target)
        initial = query.get("sendInitialEvents", "")
        match = query.get("resourceVersionMatch", "")
        if (match != "NotOlderThan") if initial else match:
            text = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
            if match and not initial:
                text = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
            raise invalid("meta.k8s.io", "ListOptions", "", [forbidden("resourceVersionMatch", text)])
        timeout_s = float(integer(query.get("timeoutSeconds", "0"))) or self._rng.uniform(1800, 3600)
        since = version_of(query.get("resourceVersion", "") or "0")
        watcher = Watcher(self.api, resource, target.namespace, labels, fields, self._shaper(resource, form, query))
        response = web.StreamResponse(headers={"Content-Type": JSON_TYPE})
        for warning in call.warnings:
            response.headers.add("Warning", f'299 - "{warning}"')
        response.enable_chunked_encoding()
        bookmarks = flag(query, "allowWatchBookmarks")
        self._begin(watcher, since, initial, bookmarks=bookmarks)
        self.hub.add(watcher)
        try:
            await response.prepare(request)
            await self._stream(response, watcher, timeout_s, bookmarks=bookmarks)
            with contextlib.suppress(ConnectionError):
                await response.write_eof()
        except ConnectionError:
            pass  # The client is gone; the watch ends with it.
        finally:
            self.hub.remove(watcher)
        return response

    def _begin(self, watcher: Watcher, since: int, initial: str, *, bookmarks: bool) -> None:
        """Queue what the watch starts with."""
        store, resource = self.api.store, watcher.resource
        watcher.sent_rv = store.rv
        if initial == "true" or (not initial and not since):
            for stored in self.api.list(resource, watcher.namespace, watcher.labels, watcher.fields).items:
                watcher.push("ADDED", stored, None)
            if initial == "true" and bookmarks:
                watcher.pending.append(self._bookmark(watcher, ending=True))
            return
        watcher.after_rv = max(since, 0)
        try:
            changes = store.changes_since(resource.storage, since) if since <= store.rv else []
        except ApiError as error:
            watcher.pending.append(line_of("ERROR", msgspec.json.encode(error.status())))
            watcher.ended = True
            return
        watcher.sent_rv = since
        for change in changes:
            watcher.offer(change)

    def _bookmark(self, watcher: Watcher, *, ending: bool = False) -> bytes:
        metadata: Json = {"resourceVersion": str(self.api.store.rv), "creationTimestamp": None}
        if ending:
            metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
        resource = watcher.resource
        return line_of(
            "BOOKMARK", msgspec.json.encode({"kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata})
        )

    async def _stream(self, response: web.StreamResponse, watcher: Watcher, timeout_s: float, *, bookmarks: bool) -> None:
        """Send events until the time is over, the server closes or the watcher is ended."""
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout_s
        last_mark = end - BOOKMARK_BEFORE_END_S
        next_mark = min(loop.time() + BOOKMARK_EVERY_S, last_mark) if bookmarks and timeout_s > BOOKMARK_BEFORE_END_S else end
        alarm = loop.call_at(next_mark, watcher.wake.set)  # One timer for the whole watch, not one for every event.
        try:
            while True:
                if watcher.pending:
                    lines, watcher.pending = watcher.pending, []
                    await response.write(b"".join(lines))
                    continue
                now = loop.time()
                if watcher.ended or now >= end or self.closing:
                    return
                if now >= next_mark:
                    next_mark = end if now >= last_mark else min(now + BOOKMARK_EVERY_S, last_mark)
                    alarm = loop.call_at(next_mark, watcher.wake.set)
                    if self.api.store.rv > watcher.sent_rv:
                        watcher.sent_rv = self.api.store.rv
                        await response.write(self._bookmark(watcher))
                        continue
                watcher.wake.clear()
                await watcher.wake.wait()
        finally:
            alarm.cancel()

    def _shaper(self, resource: Resource, form: Format, query: Mapping[str, str]) -> Callable[[str, Json, int], Json] | None:
        """How watch objects are shown, or None for plain JSON."""
        if form.form == "json":
            return None
        if form.form != "Table":
            return lambda _kind, document, _rv: tables.partial(document, form.version)
        include = include_of(query)
        columns, cells = tables.columns_of(resource)
        first = [columns]

        def shape(_kind: str, document: Json, rv: int) -> Json:
            shown = first.pop() if first else None
            line = tables.row(self._handlers.for_table(resource, document), cells, include, form.version, tables.utc_now())
            return {
                "kind": "Table", "apiVersion": f"meta.k8s.io/{form.version}", "metadata": {"resourceVersion": str(rv)},
                "columnDefinitions": shown, "rows": [line],
            }  # fmt: skip

        return shape
