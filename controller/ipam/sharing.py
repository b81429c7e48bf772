"""May these Services use one address together?

Asked by the ledger for every claim. Two Services may if both carry the same sharing key, send their traffic to the same
backends (or both to any node), and use different ports. Namespaces do not matter. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from config.model import IPAddress, ServiceKey

Port = tuple[str, int]
"""Protocol and number: TCP 53 and UDP 53 are different ports."""


@dataclass(frozen=True, slots=True)
class Use:
    """How a Service uses its address, as far as others on the same address are concerned.

    `key` is the sharing key; without one the rest does not matter and is empty. `backend` is empty if traffic may enter on
    every node; under externalTrafficPolicy Local it is the selector as text, because all who share must then have their
    endpoints on the same nodes.
    """

    key: str = ""
    backend: str = ""
    ports: frozenset[Port] = frozenset()

    @property
    def group(self) -> tuple[str, str]:
        """Services of one group may share, if their ports differ."""
        return (self.key, self.backend)


ALONE = Use()
"""The use of a Service that shares with nobody."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """An address that a Service cannot have, who has it, and what is in the way; `port` if that is the one both want."""

    address: IPAddress
    service: ServiceKey
    holders: tuple[ServiceKey, ...]
    cause: str
    port: Port | None = None

    def __str__(self) -> str:
        holders = ", ".join(self.holders)
        if self.port is not None:
            return f'port {self.port[0]}/{self.port[1]} is already in use on "{self.address}" by {holders}'
        return (
            f'can\'t change sharing key for "{self.service}", address also in use by {holders} ({self.address}: {self.cause})'
        )


def conflict(service: ServiceKey, use: Use, address: IPAddress, holders: Iterable[tuple[ServiceKey, Use]]) -> Conflict | None:
    """Why the Service cannot use an address that these Services hold; None if it can."""
    others = sorted((holder, other) for holder, other in holders if holder != service)
    for _, other in others:
        cause = _objection(use, other)
        if cause:
            return Conflict(address, service, tuple(holder for holder, _ in others), cause)
    for holder, other in others:
        shared = use.ports & other.ports
        if shared:
            return Conflict(address, service, (holder,), "the port is taken", min(shared))
    return None


def _objection(use: Use, other: Use) -> str:
    """Why Services with these uses cannot share whatever their ports are; empty if they can."""
    if not use.key or not other.key:
        return f"{'the Service' if not use.key else 'its holder'} has no sharing key"
    if use.key != other.key:
        return f'sharing keys "{use.key}" and "{other.key}" differ'
    if use.backend != other.backend:
        return "Services that share must have the same externalTrafficPolicy, and with Local the same selector"
    return ""
