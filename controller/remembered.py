"""The addresses remembered for Services that asked for it, kept in a ConfigMap of ours, so that a restart forgets nothing.

What is remembered is decided in controller.plan (controller.ipam.memory); here it is read once when this process begins to
lead, and written down whenever it changes: only the entries that changed, at most twice a second, nothing while nothing
changes. An entry is written when a Service gets its address, not when it is deleted, so a deletion that nobody saw is
found out at the next start. Nothing here decides anything; without the right to write, what is remembered ends with the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from ipaddress import ip_address
from types import MappingProxyType
from typing import Any, Final

import msgspec

from config.model import ServiceKey
from controller.ipam.memory import Memory, Remembered
from kube.client import KubeClient, PatchKind
from kube.errors import AlreadyExists, Conflict, Forbidden, KubeError, NotFound
from kube.resources import CONFIG_MAPS
from telemetry.log import Logger

NAME: Final = "metallb-py-remembered-addresses"
FIELD_MANAGER: Final = "metallb-controller"
ROOM: Final = 900_000
"""Bytes of names and entries; the API server takes no object of more than a mebibyte."""
BETWEEN_WRITES_S: Final = 0.5
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 30.0


class Entry(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One value in the ConfigMap. `until` (RFC 3339) is there once the Service is deleted."""

    addresses: tuple[str, ...]
    keep_for_seconds: float
    until: str = ""


def encoded(one: Remembered) -> str:
    """What the ConfigMap says of a Service."""
    until = "" if one.until is None else datetime.fromtimestamp(one.until, UTC).isoformat(timespec="milliseconds")
    addresses = tuple(map(str, one.addresses))
    return msgspec.json.encode(Entry(addresses=addresses, keep_for_seconds=one.keep_for_s, until=until)).decode()


def decoded(text: str) -> Remembered:
    """What an entry says.

    Raises:
        ValueError: it is none of ours.

    """
    entry = msgspec.json.decode(text, type=Entry)
    until = datetime.fromisoformat(entry.until).timestamp() if entry.until else None
    return Remembered(tuple(map(ip_address, entry.addresses)), entry.keep_for_seconds, until)


def name_of(service: ServiceKey) -> str:
    """The key of a Service in the ConfigMap: neither part of it can have a dot."""
    return service.replace("/", ".")


class RememberedAddresses:
    """Keeps the ConfigMap. Use: load() when beginning to lead, look() after every pass of the loop, run() in a task."""

    def __init__(self, client: KubeClient, memory: Callable[[], Memory], log: Logger, *, namespace: str) -> None:
        self.writes = 0
        self.failures = 0
        self.loaded: Mapping[ServiceKey, Remembered] = MappingProxyType({})
        """What was found when this process began to lead, until somebody has taken it in."""
        self._client = client
        self._memory = memory
        self._log = log
        self._namespace = namespace
        self._has: dict[str, str] = {}
        self._version = ""
        self._pending: set[ServiceKey] = set()
        self._left_out: set[ServiceKey] = set()
        self._leads = False
        self._said = ""
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    async def load(self) -> None:
        """Read what the last leader has written. Tries until that is known; without the right to read, nothing is."""
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                await self._read()
            except Forbidden as error:
                remedy = "grant get, create, patch on configmaps; until then a restart forgets them"
                self._log.warning("remembered_addresses_not_readable", error=error.message, remedy=remedy)
            except KubeError as error:
                self._log.warning("remembered_addresses_not_read", error=error.message, retry_in_s=pause_s)
                await self._client.pause(pause_s)
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
                continue
            break
        found = {}
        for name, text in self._has.items():
            try:
                found[ServiceKey(name.replace(".", "/", 1))] = decoded(text)
            except ValueError as error:
                self._log.warning("remembered_address_unreadable", entry=name, value=text, error=str(error))
        self.loaded = MappingProxyType(found)
        self._leads = True
        self.look(ServiceKey(name.replace(".", "/", 1)) for name in self._has)

    def taken_in(self) -> None:
        """What was found is part of the plan now."""
        if self.loaded:
            self.loaded = MappingProxyType({})
            self._wake.set()

    def look(self, services: Iterable[ServiceKey]) -> None:
        """Something else may be remembered of these Services."""
        self._pending.update(services)
        if self._pending and self._leads:
            self._idle.clear()
            self._wake.set()

    def stand_by(self) -> None:
        """Write nothing any more: another process leads."""
        self._leads = False
        self.taken_in()
        self._pending.clear()
        self._left_out.clear()
        self._idle.set()

    async def idle(self) -> None:
        """Return once everything is written."""
        await self._idle.wait()

    @property
    def pending(self) -> list[str]:
        """Services of which the ConfigMap does not say what is remembered, for /status."""
        return sorted({*self._pending, *self._left_out})

    async def run(self) -> None:
        """Write for ever."""
        pause_s = FIRST_PAUSE_S
        while True:
            await self._wake.wait()
            self._wake.clear()
            if not self._leads or self.loaded:
                continue  # What was found has to be taken in first: the plan does not know of it yet.
            try:
                wrote = await self._write()
            except KubeError as error:
                self.failures += 1
                if error.message != self._said:
                    self._log.warning("remembered_addresses_not_written", error=error.message, retry_in_s=pause_s)
                self._said = error.message
                self._wake.set()
                await self._client.pause(pause_s)
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
            else:
                self._said, pause_s = "", FIRST_PAUSE_S
                if not self._pending:
                    self._idle.set()
                if wrote:
                    await asyncio.sleep(BETWEEN_WRITES_S)

    async def _read(self) -> None:
        self._has, self._version = {}, ""
        try:
            found = await self._client.get(CONFIG_MAPS, NAME, self._namespace)
        except NotFound:
            return
        self._has, self._version = dict(found.data or {}), found.metadata.resource_version

    def _differences(self, services: Iterable[ServiceKey]) -> dict[str, str | None]:
        """What to write of these Services; what finds no room is left out until there is some. Deleted ones come first."""
        entries = self._memory().entries
        wanted = {name_of(key): one for key in services if (one := entries.get(key)) is not None}
        gone = (name_of(key) for key in services if key not in entries)
        changes: dict[str, str | None] = {name: None for name in gone if name in self._has}
        room = ROOM - sum(len(name) + len(text) for name, text in self._has.items() if name not in changes)
        self._left_out.clear()
        for name, one in sorted(wanted.items(), key=lambda item: (item[1].until is None, item[0])):
            before, text = self._has.get(name), encoded(one)
            more = len(text) - len(before) if before is not None else len(name) + len(text)
            if text == before:
                continue
            if more > room:
                self._left_out.add(ServiceKey(name.replace(".", "/", 1)))
            else:
                room -= more
                changes[name] = text
        return changes

    async def _write(self) -> bool:
        """Write what differs; whether there was something."""
        services = self._pending | self._left_out
        left_out_before = bool(self._left_out)
        changes = self._differences(services)
        self._pending.clear()
        if self._left_out and not left_out_before:
            self._log.warning("remembered_addresses_full", services=len(self._left_out), remedy="ask for it for fewer Services")
        if not changes:
            return False
        try:
            self._version = await self._send(changes)
        except (AlreadyExists, Conflict, NotFound):
            self._pending |= services  # Somebody has made, changed or deleted it.
            self._wake.set()
            await self._read()
            self._pending |= self._memory().entries.keys() | {ServiceKey(name.replace(".", "/", 1)) for name in self._has}
            return True
        except KubeError:
            self._pending |= services
            raise
        self.writes += 1
        for name, text in changes.items():
            if text is None:
                del self._has[name]
            else:
                self._has[name] = text
        return True

    async def _send(self, changes: Mapping[str, str | None]) -> str:
        if self._version:
            patch: dict[str, Any] = {"metadata": {"resourceVersion": self._version}, "data": dict(changes)}
            done = await self._client.patch(
                CONFIG_MAPS, NAME, patch, namespace=self._namespace, kind=PatchKind.MERGE, field_manager=FIELD_MANAGER
            )
        else:
            metadata = {"name": NAME, "namespace": self._namespace, "labels": {"app": "metallb"}}
            body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": dict(changes)}
            done = await self._client.create(CONFIG_MAPS, body, namespace=self._namespace)
        return done.metadata.resource_version
