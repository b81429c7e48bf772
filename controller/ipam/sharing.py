"""May these Services use one address together?

Asked by the ledger for every claim. In this version the answer is no for any two Services: allow-shared-ip is read and
logged as not yet in effect, so an address has one holder. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from config.model import IPAddress, ServiceKey


@dataclass(frozen=True, slots=True)
class Conflict:
    """An address that a Service cannot have, and who has it."""

    address: IPAddress
    service: ServiceKey
    holders: tuple[ServiceKey, ...]

    def __str__(self) -> str:
        holders = ", ".join(self.holders)
        return f'can\'t change sharing key for "{self.service}", address also in use by {holders} ({self.address})'


def conflict(service: ServiceKey, address: IPAddress, holders: Iterable[ServiceKey]) -> Conflict | None:
    """Why the Service cannot use an address that these Services hold; None if it can."""
    others = tuple(sorted(holder for holder in holders if holder != service))
    return Conflict(address, service, others) if others else None
