"""Watches: what a change of the store means to each watcher, encoded once and shared.

A Watcher is fed synchronously by the store's commit and holds encoded lines until its connection has taken them; http.py
drains it. One that falls too far behind is ended, so that a slow client costs a bounded amount of memory and lists again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from lab.apiserver import codec
from lab.apiserver.api import Api, is_stored_form, selected
from lab.apiserver.conversion import Missing
from lab.apiserver.resources import Resource
from lab.apiserver.selectors import Selector
from lab.apiserver.store import Change, Store, Stored

Json = dict[str, Any]
MAX_PENDING = 8192  # Lines; a watcher that has not taken so many is ended.

# (event type, object as the resource shows it) -> the object to send; None: the bytes as they are
Shaper = Callable[[str, Json, int], Json]


def line_of(kind: str, body: bytes) -> bytes:
    """One event of a JSON watch."""
    return b'{"type":"' + kind.encode() + b'","object":' + body + b"}\n"


@dataclass(slots=True, eq=False)
class Watcher:
    """One open watch."""

    api: Api
    resource: Resource
    namespace: str | None
    labels: Selector
    fields: Selector
    shape: Shaper | None
    after_rv: int = 0
    pending: list[bytes] = field(default_factory=list)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False
    sent_rv: int = 0  # The newest version the client has heard of, by event or bookmark.

    def _wants(self, stored: Stored | None) -> bool:
        return (
            stored is not None
            and (self.namespace is None or stored.key[0] == self.namespace)
            and selected(stored, self.labels, self.fields)
        )

    def offer(self, change: Change) -> None:
        """Take a change: entering the selection is ADDED, leaving it DELETED."""
        if change.rv <= self.after_rv or self.ended:
            return
        was, is_now = self._wants(change.before), self._wants(change.now)
        if is_now:
            self.push("MODIFIED" if was else "ADDED", change.now, change)
        elif was:
            self.push("DELETED", change.last if change.now is None else None, change)

    def push(self, kind: str, stored: Stored | None, change: Change | None) -> None:
        """Queue an event; None as object means: the one that left the selection, under the version of the change."""
        key = (kind, self.resource.api_version)
        line = change.lines.get(key) if change is not None and self.shape is None else None
        if line is None:
            try:
                line = self._encode(kind, stored, change)
            except Missing:
                self.end()  # A webhook would have to be asked first; the client lists again, and lists can wait.
                return
            if change is not None and self.shape is None:
                change.lines[key] = line
        self.pending.append(line)
        if len(self.pending) > MAX_PENDING:
            self.ended = True
        self.wake.set()

    def _encode(self, kind: str, stored: Stored | None, change: Change | None) -> bytes:
        if stored is not None and self.shape is None and is_stored_form(self.resource):
            return line_of(kind, stored.body)
        if stored is None:
            assert change is not None
            assert change.before is not None
            document = self.api.document(self.resource, change.before)
            document["metadata"]["resourceVersion"] = str(change.rv)
        else:
            document = self.api.document(self.resource, stored)
        if self.shape is None:
            return line_of(kind, codec.encode(document))
        rv = change.rv if change is not None else int(document["metadata"]["resourceVersion"])
        return line_of(kind, msgspec.json.encode(self.shape(kind, document, rv)))

    def end(self) -> None:
        """No more events; the connection closes after those pending."""
        self.ended = True
        self.wake.set()


class Hub:
    """All open watches by shelf of the store."""

    def __init__(self, store: Store) -> None:
        self._watchers: dict[str, set[Watcher]] = {}
        store.listeners.append(self._changed)

    def _changed(self, storage: str, change: Change) -> None:
        for watcher in self._watchers.get(storage, ()):
            watcher.offer(change)

    def add(self, watcher: Watcher) -> None:
        """Begin to feed a watcher."""
        self._watchers.setdefault(watcher.resource.storage, set()).add(watcher)

    def remove(self, watcher: Watcher) -> None:
        """Stop feeding a watcher."""
        self._watchers.get(watcher.resource.storage, set()).discard(watcher)

    def end_all(self, storage: str | None = None) -> None:
        """End the watches of one shelf, or all."""
        for name, watchers in self._watchers.items():
            if storage is None or name == storage:
                for watcher in watchers:
                    watcher.end()

    def count(self) -> int:
        """How many watches are open."""
        return sum(len(w) for w in self._watchers.values())
