"""The store: every object once, as encoded JSON, with a journal that survives the death of the process.

One counter gives every change its resourceVersion. A write is one line appended to `journal.jsonl` with a single write(2)
and no fsync: what was acknowledged is in the kernel and survives kill -9; power loss is out of scope. Reading the journal
back also brings back the recent history, so a watch resumes over a restart without a gap.

Called by api.py, which decides what is written; the store never looks inside an object. It refuses nothing but a journal
that it cannot read.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from lab.apiserver.errors import expired

HISTORY_PER_RESOURCE = 4096  # Events a watch or a paged list can go back.
COMPACT_AT_BYTES = 64 * 1024 * 1024  # The journal is rewritten when it is this long and mostly old.

Key = tuple[str, str]  # namespace ("" for cluster scope), name


@dataclass(frozen=True, slots=True)
class Stored:
    """One version of one object: `body` is its whole JSON, kind and apiVersion first."""

    key: Key
    rv: int
    body: bytes
    labels: Mapping[str, str]
    fields: Mapping[str, str]
    uid: str
    owners: tuple[str, ...] = ()  # uids of its ownerReferences


@dataclass(frozen=True, slots=True)
class Change:
    """One event: `before` None is a creation, `now` None a deletion, whose last state with its own version is `last`."""

    rv: int
    before: Stored | None
    now: Stored | None
    last: Stored | None = None
    lines: dict[object, bytes] = field(default_factory=dict, compare=False)  # Encoded watch lines, shared by watchers.


# (resource, key, rv, body) -> the version with what selectors and owners need taken from the body
Index = Callable[[str, Key, int, bytes], Stored]


class Record(msgspec.Struct, array_like=True):
    """One journal line, before its body."""

    op: str  # P put, D delete, V only the version (a compaction)
    rv: int
    resource: str
    namespace: str = ""
    name: str = ""


@dataclass(slots=True)
class Shelf:
    """All objects of one resource, sorted by key on demand, and its recent history."""

    objects: dict[Key, Stored] = field(default_factory=dict)
    history: deque[Change] = field(default_factory=lambda: deque(maxlen=HISTORY_PER_RESOURCE))
    compacted_rv: int = 0  # History up to here is gone.
    version: int = 0  # rv of the last change, for caches of derived facts.
    order: list[Key] | None = None

    def sorted_keys(self) -> list[Key]:
        """Keys by namespace and name."""
        if self.order is None:
            self.order = sorted(self.objects)
        return self.order

    def apply(self, change: Change) -> None:
        """Take a change into state and history."""
        key = (change.now or change.before or change.last).key  # type: ignore[union-attr]  # One of them is there.
        if change.now is None:
            self.objects.pop(key, None)
            self.order = None
        else:
            if key not in self.objects:
                self.order = None
            self.objects[key] = change.now
        if len(self.history) == HISTORY_PER_RESOURCE:
            self.compacted_rv = self.history[0].rv
        self.history.append(change)
        self.version = change.rv


class Store:
    """Objects of every resource, their history and the journal.

    Use: store = Store(directory, index); store.put(...), store.delete(...), store.shelf(resource); store.close().
    """

    def __init__(self, directory: Path, index: Index) -> None:
        self.rv = 0
        self.path = directory / "journal.jsonl"
        self.listeners: list[Callable[[str, Change], None]] = []
        self._index = index
        self._shelves: dict[str, Shelf] = {}
        self._size = self._live = 0
        self._floor = 0  # The version of the last compaction.
        directory.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            self._load()
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def close(self) -> None:
        """Close the journal. Nothing has to be flushed."""
        os.close(self._file)

    def shelf(self, resource: str) -> Shelf:
        """The objects of a resource ("services", "leases.coordination.k8s.io")."""
        found = self._shelves.get(resource)
        if found is None:
            found = self._shelves[resource] = Shelf(compacted_rv=self._floor)
        return found

    def resources(self) -> Iterable[str]:
        """Resources that have or had objects."""
        return tuple(self._shelves)

    def get(self, resource: str, key: Key) -> Stored | None:
        """The present version of an object."""
        return self.shelf(resource).objects.get(key)

    def put(self, resource: str, stored: Stored) -> None:
        """Store a version whose rv the caller took from next_rv()."""
        shelf = self.shelf(resource)
        self._append(Record("P", stored.rv, resource, *stored.key), stored.body)
        self._commit(resource, shelf, Change(stored.rv, shelf.objects.get(stored.key), stored))

    def delete(self, resource: str, last: Stored) -> None:
        """Remove an object; `last` is its last state under the version of the deletion."""
        shelf = self.shelf(resource)
        self._append(Record("D", last.rv, resource, *last.key), last.body)
        self._commit(resource, shelf, Change(last.rv, shelf.objects.get(last.key), None, last))

    def next_rv(self) -> int:
        """The version of the write about to be made. A version that is not used leaves a gap, which nobody sees."""
        return self.rv + 1

    def state_at(self, resource: str, rv: int) -> dict[Key, Stored]:
        """All objects as they were at a version.

        Raises:
            ApiError: 410 when the history does not reach back that far.

        """
        state = dict(self.shelf(resource).objects)
        for change in reversed(self.changes_since(resource, rv, "The resourceVersion for the provided list is too old: {rv}")):
            if change.before is None:
                state.pop(change.now.key, None)  # type: ignore[union-attr]  # A creation has its object.
            else:
                state[change.before.key] = change.before
        return state

    def changes_since(self, resource: str, rv: int, said: str = "too old resource version: {rv} ({kept})") -> list[Change]:
        """What happened to a resource after a version, oldest first.

        Raises:
            ApiError: 410 when the history does not reach back that far.

        """
        shelf = self.shelf(resource)
        if rv < shelf.compacted_rv:
            raise expired(said.format(rv=rv, kept=shelf.compacted_rv))
        return list(itertools.takewhile(lambda change: change.rv > rv, reversed(shelf.history)))[::-1]

    def compact(self) -> None:
        """Forget all history and rewrite the journal with what is there now."""
        fresh = self.path.with_suffix(".new")
        encode = msgspec.json.encode
        self._floor = self.rv
        with fresh.open("wb") as file:
            file.write(encode(Record("V", self.rv, "")) + b"\n\n")
            for resource, shelf in self._shelves.items():
                shelf.history.clear()
                shelf.compacted_rv = self.rv
                for key, stored in shelf.objects.items():
                    file.write(encode(Record("P", stored.rv, resource, *key)) + b"\n" + stored.body + b"\n")
            self._size = self._live = file.tell()
        fresh.chmod(0o600)
        fresh.replace(self.path)
        os.close(self._file)
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND)

    def _append(self, record: Record, body: bytes) -> None:
        line = msgspec.json.encode(record) + b"\n" + body + b"\n"
        written = os.write(self._file, line)
        if written != len(line):  # Not acknowledged, so not kept.
            os.ftruncate(self._file, self._size)
            raise OSError(28, f"short write of the journal {self.path}: is the disk full?")
        self._size += written

    def _commit(self, resource: str, shelf: Shelf, change: Change) -> None:
        self.rv = change.rv
        shelf.apply(change)
        for listen in self.listeners:
            listen(resource, change)
        if self._size > COMPACT_AT_BYTES and self._size > 4 * self._live:
            self.compact()

    def _load(self) -> None:
        """Read the journal. A last line that was not finished was never acknowledged: it is cut off."""
        decode = msgspec.json.Decoder(Record).decode
        raw = self.path.read_bytes()
        at, end, whole = 0, len(raw), 0
        while at < end:
            head = raw.find(b"\n", at)
            tail = raw.find(b"\n", head + 1) if head >= 0 else -1
            if tail < 0:
                break
            try:
                record = decode(raw[at:head])
            except msgspec.DecodeError as error:
                raise RuntimeError(
                    f"{self.path}: line at byte {at} is not a journal line ({error}); move the file away"
                ) from error
            body = raw[head + 1 : tail]
            at = whole = tail + 1
            if record.op == "V":
                self.rv = self._floor = record.rv
                continue
            shelf = self.shelf(record.resource)
            key = (record.namespace, record.name)
            stored = self._index(record.resource, key, record.rv, body)
            before = shelf.objects.get(key)
            if record.op == "P" and record.rv <= self._floor:  # From a compaction: state without history.
                shelf.objects[key] = stored
                shelf.order = None
                shelf.version = max(shelf.version, record.rv)
            elif record.op == "P":
                shelf.apply(Change(record.rv, before, stored))
            else:
                shelf.apply(Change(record.rv, before, None, stored))
            self.rv = max(self.rv, record.rv)
        if whole != end:
            os.truncate(self.path, whole)
        self._size = whole
        self._live = sum(len(s.body) + 100 for shelf in self._shelves.values() for s in shelf.objects.values())
