"""What the API server has of each Service as far as we know, what we want it to have, and what is on the way to it.

Between a decision and the watch event that shows it lies time in which our own view is old: answers are lost, events are
late, others write too. controller.plan asks here what to believe, and what to write next. One promise is kept here: an
address is written to its new holder only after the status of whoever has to give it up has lost it, so that no reader ever
sees two holders that do not share it.
Pure; resource versions are compared as numbers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from config.model import IPAddress, ServiceKey
from controller.reason import Notice
from controller.world import NOTHING, Recorded, Service


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """What has to be written to a Service on top of a version of it, and the Events to emit once that is done.

    `clears_first` marks a step on the way: the Service gives up addresses that others wait for, and waits itself.
    """

    service: ServiceKey
    uid: str
    version: str
    before: Recorded
    after: Recorded
    achieved: tuple[Notice, ...] = ()
    clears_first: bool = False


@dataclass(slots=True)
class _Wish:
    """What the API server shall have instead of `base`."""

    uid: str
    base: Recorded
    after: Recorded
    achieved: tuple[Notice, ...]


@dataclass(frozen=True, slots=True)
class _Confirmed:
    """What the API server has in `version`, which we wrote on top of `base`, and which the watch has not shown yet."""

    uid: str
    base: str
    version: str
    recorded: Recorded

    def is_news_to(self, service: Service) -> bool:
        """Whether this is later than an observed edition."""
        if self.version.isdecimal() and service.version.isdecimal():
            later = int(self.version) > int(service.version)
        else:
            later = service.version == self.base
        return later and self.uid == service.uid


def is_later(version: str, other: str) -> bool:
    """Whether a resourceVersion is later than another one of the same object.

    They are comparable numbers (KEP-5504; all API servers have always used such). Where they are not, any other is later.
    """
    if version.isdecimal() and other.isdecimal():
        return int(version) > int(other)
    return version != other


class Outbox:
    """Knows, wishes and writes under way, by Service.

    `_sent` are writes without a definite result: they may have arrived, or still arrive. `_shown` are the addresses that
    the API server has, or may have, for a Service; `_meant` are those that it shall have, and which the plan has found to go
    together with everybody else's. Invariant: `_shown_by` is the inverse of `_shown`.
    """

    def __init__(self) -> None:
        self._wishes: dict[ServiceKey, _Wish] = {}
        self._confirmed: dict[ServiceKey, _Confirmed] = {}
        self._sent: dict[ServiceKey, list[Write]] = {}
        self._shown: dict[ServiceKey, tuple[IPAddress, ...]] = {}
        self._shown_by: dict[IPAddress, tuple[ServiceKey, ...]] = {}
        self._meant: dict[ServiceKey, tuple[IPAddress, ...]] = {}
        self._vanished: set[tuple[IPAddress, ServiceKey]] = set()

    def known(self, service: Service) -> tuple[str, Recorded]:
        """The latest version we know of, and what the Service says in it."""
        confirmed = self._confirmed.get(service.key)
        if confirmed is not None and confirmed.is_news_to(service):
            return confirmed.version, confirmed.recorded
        return service.version, service.recorded

    def believed(self, service: Service) -> Recorded:
        """What the Service says, or will say once our wish is fulfilled; a wish that somebody else overruled is dropped."""
        _, now = self.known(service)
        wish = self._wishes.get(service.key)
        if wish is None:
            return now
        if wish.uid == service.uid and now != wish.after:
            if now != wish.base and any(one.after == now for one in self._sent.get(service.key, ())):
                wish.base = now  # Our own write, seen before its answer came.
            if now == wish.base:
                return wish.after
        del self._wishes[service.key]
        return now

    def wish(self, service: Service, recorded: Recorded, achieved: tuple[Notice, ...]) -> None:
        """Want the Service to say this; a wish that is already known keeps its Events."""
        meant = self._meant.get(service.key, ())
        self._meant[service.key] = recorded.addresses
        self._vanished.update(
            (address, service.key)
            for address in recorded.addresses
            if address not in meant and service.key in self._shown_by.get(address, ())
        )
        if recorded != self.believed(service):
            _, now = self.known(service)
            self._wishes.pop(service.key, None)
            if recorded != now:
                self._wishes[service.key] = _Wish(service.uid, now, recorded, achieved)

    def observed(self, service: Service) -> None:
        """Drop what an observed edition of the Service makes old; call it after believed has seen that edition."""
        key, confirmed = service.key, self._confirmed.get(service.key)
        if confirmed is not None and not confirmed.is_news_to(service):
            del self._confirmed[key]
        if key in self._sent:
            # A write on an older version than this one has arrived by now, or is refused.
            self._keep_sent(key, (one for one in self._sent[key] if one.uid == service.uid and one.version == service.version))
        self._show(key, service)

    def forget(self, key: ServiceKey) -> None:
        """The Service is gone, or not ours."""
        self._wishes.pop(key, None)
        self._confirmed.pop(key, None)
        self._sent.pop(key, None)
        self._meant.pop(key, None)
        self._show(key, None)

    def pending(self, service: Service) -> Write | None:
        """What is to be written now; None if nothing is, or if another Service has to be written first."""
        wish = self._wishes.get(service.key)
        version, before = self.known(service)
        if wish is None or wish.after == before:
            return None
        write = Write(
            service=service.key, uid=service.uid, version=version, before=before, after=wish.after, achieved=wish.achieved
        )
        if not self.is_blocked(service.key):
            return write
        if set(before.addresses) <= set(wish.after.addresses):
            return None
        return Write(service=service.key, uid=service.uid, version=version, before=before, after=NOTHING, clears_first=True)

    def is_blocked(self, key: ServiceKey) -> bool:
        """Whether another Service still shows, or may show, an address that it has to give up for this one."""
        wish = self._wishes.get(key)
        return wish is not None and any(
            other != key and address not in self._meant.get(other, ())
            for address in wish.after.addresses
            for other in self._shown_by.get(address, ())
        )

    def is_unresolved(self, key: ServiceKey) -> bool:
        """Whether a write of the Service was sent whose result is not known."""
        return key in self._sent

    def sent(self, write: Write, service: Service) -> None:
        """A write is on its way: from now on the API server may have it."""
        self._sent.setdefault(write.service, []).append(write)
        self._show(write.service, service)

    def written(self, write: Write, version: str, service: Service) -> None:
        """A write succeeded and got this version."""
        key = write.service
        if write.uid != service.uid:
            return
        self._sent.pop(key, None)  # One is under way at a time, and its success refuses any other on the same version.
        confirmed = _Confirmed(write.uid, write.version, version, write.after)
        if confirmed.is_news_to(service):
            self._confirmed[key] = confirmed
        _, now = self.known(service)
        wish = self._wishes.get(key)
        if wish is not None and now == write.after:
            wish.base = now
            if wish.after == now:
                del self._wishes[key]
        self._show(key, service)

    def refused(self, write: Write, service: Service) -> None:
        """A write had no effect, for certain."""
        self._keep_sent(write.service, (one for one in self._sent.get(write.service, ()) if one is not write))
        self._show(write.service, service)

    def not_arrived(self, service: Service) -> None:
        """The Service was read again, and is still in the version that writes without a result were to change."""
        self._keep_sent(service.key, (one for one in self._sent.get(service.key, ()) if one.version != service.version))
        self._show(service.key, service)

    @property
    def unseen(self) -> tuple[ServiceKey, ...]:
        """Services of which the API server has, or shall have, something else than was observed."""
        return tuple(dict.fromkeys((*self._wishes, *self._confirmed, *self._sent)))

    def take_vanished(self) -> frozenset[tuple[IPAddress, ServiceKey]]:
        """Addresses of which a Service stands in nobody's way any more, with that Service; each is reported once.

        It has shown them and does not any more, or it was to give them up and now is not.
        """
        taken = frozenset(self._vanished)
        self._vanished.clear()
        return taken

    def check_invariants(self, services: Iterable[Service]) -> None:
        """What is shown equals a recount over these Services, which are all that are ours."""
        shown = {service.key: addresses for service in services if (addresses := self._shows(service))}
        assert shown == self._shown, (shown, self._shown)
        pairs = {(address, key) for key, some in shown.items() for address in some}
        assert pairs == {(address, key) for address, keys in self._shown_by.items() for key in keys}

    def _keep_sent(self, key: ServiceKey, writes: Iterable[Write]) -> None:
        kept = list(writes)
        if kept:
            self._sent[key] = kept
        else:
            self._sent.pop(key, None)

    def _shows(self, service: Service) -> tuple[IPAddress, ...]:
        _, now = self.known(service)
        sent = (address for write in self._sent.get(service.key, ()) for address in write.after.addresses)
        return tuple(dict.fromkeys((*now.addresses, *sent)))

    def _show(self, key: ServiceKey, service: Service | None) -> None:
        before, now = self._shown.pop(key, ()), () if service is None else self._shows(service)
        if now:
            self._shown[key] = now
        for address in set(before) - set(now):
            self._vanished.add((address, key))
            others = tuple(other for other in self._shown_by.pop(address) if other != key)
            if others:
                self._shown_by[address] = others
        for address in now:
            showing = self._shown_by.get(address, ())
            if key not in showing:
                self._shown_by[address] = (*showing, key)
