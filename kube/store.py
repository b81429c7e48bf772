"""The last known state of every object of one kind, and which of them changed.

A Reflector writes it; the reconcile loop of a daemon reads it, between two awaits, and asks which keys to decide again.
An object counts as changed only when its fingerprint differs: our own status writes and heartbeats of others must not
wake anybody. The store holds what was made of documents, never those themselves, and it does no I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Generic, TypeVar

from kube.objects import Known, ObjectKey, View

T = TypeVar("T", bound=Known)

Fingerprint = Callable[[T], object]
"""What of an object matters: two objects with equal fingerprints lead to the same decisions."""


def everything(view: View) -> object:
    """The fingerprint for kinds of which every member in the view matters, except the resource version."""
    return (type(view), *(getattr(view, name) for name in view.__struct_fields__ if name != "metadata"), *of_metadata(view))


def of_metadata(view: View) -> tuple[object, ...]:
    """The members of metadata that a decision may read."""
    meta = view.metadata
    return (meta.uid, meta.labels, meta.annotations, meta.deletion_timestamp, meta.owner_references)


def generation(view: View) -> object:
    """The fingerprint for custom resources: status writes do not count (metadata.generation does not grow with them)."""
    meta = view.metadata
    return (meta.uid, meta.generation, meta.labels, meta.deletion_timestamp)


class Store(Generic[T]):
    """Objects by key. `synced` turns true with the first complete list and stays so."""

    def __init__(self) -> None:
        self.synced = False
        self._objects: dict[ObjectKey, T] = {}
        self._changed: set[ObjectKey] = set()
        self._snapshot: Mapping[ObjectKey, T] | None = None
        self._follower: tuple[Fingerprint[T], Callable[[ObjectKey], None]] | None = None

    def follow(self, fingerprint: Fingerprint[T], notify: Callable[[ObjectKey], None]) -> None:
        """Call `notify` whenever this of an object changes, or it comes or goes; for one whom nothing else interests.

        It is called from within the write, so it must only take a note. There is one follower.
        """
        self._follower = (fingerprint, notify)

    def __len__(self) -> int:
        return len(self._objects)

    def get(self, key: ObjectKey) -> T | None:
        """The object with that key, if there is one."""
        return self._objects.get(key)

    def snapshot(self) -> Mapping[ObjectKey, T]:
        """All objects as they are now; later changes do not show in it. Asking twice without a change costs nothing."""
        if self._snapshot is None:
            self._snapshot = MappingProxyType(self._objects.copy())
        return self._snapshot

    def take_changed(self) -> frozenset[ObjectKey]:
        """The keys that came, changed or went since this was last asked; each is reported once."""
        taken = frozenset(self._changed)
        self._changed.clear()
        return taken

    def put(self, view: T, fingerprint: Fingerprint[T]) -> bool:
        """Keep an object; true if that is news."""
        key = ObjectKey(view.key)
        old = self._objects.get(key)
        self._objects[key] = view
        self._snapshot = None
        self._tell(key, old, view)
        if old is not None and not _differ(old, view, fingerprint):
            return False
        self._changed.add(key)
        return True

    def delete(self, key: ObjectKey) -> bool:
        """Forget an object; true if it was there."""
        old = self._objects.pop(key, None)
        if old is None:
            return False
        self._snapshot = None
        self._tell(key, old, None)
        self._changed.add(key)
        return True

    def replace(self, views: Iterable[T], fingerprint: Fingerprint[T], *, keep: Iterable[ObjectKey] = ()) -> bool:
        """Make the store hold exactly these objects; true if that is news, which the first time it always is.

        `keep` names objects that the server still has but whose present edition cannot be read: their last readable
        edition stays.
        """
        fresh = {ObjectKey(view.key): view for view in views}
        for key in keep:
            if key in self._objects and key not in fresh:
                fresh[key] = self._objects[key]
        old = self._objects
        news = {key for key in old if key not in fresh}
        news.update(key for key, view in fresh.items() if key not in old or _differ(old[key], view, fingerprint))
        first = not self.synced
        self._objects = fresh
        self._snapshot = None
        self._changed |= news
        self.synced = True
        if self._follower is not None:
            for key in old.keys() | fresh.keys():
                self._tell(key, old.get(key), fresh.get(key))
        return first or bool(news)

    def _tell(self, key: ObjectKey, old: T | None, new: T | None) -> None:
        if self._follower is not None:
            fingerprint, notify = self._follower
            if old is None or new is None or fingerprint(old) != fingerprint(new):
                notify(key)


def _differ(old: T, new: T, fingerprint: Fingerprint[T]) -> bool:
    """Whether two editions of an object lead to different decisions. A new uid is a new object under an old name."""
    if old.uid != new.uid:
        return True
    if old.version and old.version == new.version:
        return False
    return bool(fingerprint(old) != fingerprint(new))
