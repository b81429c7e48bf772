"""What both sides of the BGP package speak of: neighbors, routes, families.

Made by routes.py and neighbors.py, read by everything else here. Values only.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Network

from config.model import Community, IPAddress

Prefix = IPv4Network | IPv6Network


class Family(StrEnum):
    """An address family of RFC 4760; the value is ExaBGP's name for it."""

    IPV4 = "ipv4 unicast"
    IPV6 = "ipv6 unicast"

    @classmethod
    def of(cls, prefix: Prefix) -> Family:
        """Return the family of a prefix."""
        return cls.IPV4 if prefix.version == 4 else cls.IPV6


@dataclass(frozen=True, slots=True)
class Route:
    """A prefix as it is to be announced to one neighbor.

    `next_hop` None is this end of the session, which serves prefixes of the session's own family only. `local_pref` 0 leaves it
    to the router (RFC 4271 section 5.1.5).
    """

    prefix: Prefix
    next_hop: IPAddress | None = None
    local_pref: int = 0
    communities: tuple[Community, ...] = ()
    """In ascending order, each once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbor:
    """One BGP session as ExaBGP is told of it. Times in seconds, TTLs 1 to 255; None leaves a setting out.

    `local` None lets the kernel choose the source address. `peer_as` None takes whatever AS the peer says it has. A `passive`
    neighbor is neither dialled nor listened for: it is how a session is ended with a Cease before it is taken away.
    """

    name: str
    """The BGPPeer, for messages; not part of the session."""
    peer: IPAddress
    local: IPAddress | None
    local_as: int
    peer_as: int | None
    router_id: IPv4Address
    port: int = 179
    hold_time_s: int = 90
    families: tuple[Family, ...] = (Family.IPV4,)
    extended_next_hop: bool = False
    graceful_restart_s: int | None = None
    interface: str = ""
    outgoing_ttl: int | None = None
    incoming_ttl: int | None = None
    password: str = ""
    passive: bool = False

    def __repr__(self) -> str:
        """Say everything but the password."""
        return f"Neighbor({self.name}: {self.local or 'any'} AS {self.local_as} to {self.peer} AS {self.peer_as or 'any'})"

    @property
    def key(self) -> NeighborKey:
        """Which session this is: what differs here is another session to ExaBGP, without the routes of this one."""
        return NeighborKey(self.peer, self.local, self.local_as, self.router_id)


@dataclass(frozen=True, slots=True)
class NeighborKey:
    """Identifies a session among those of one ExaBGP."""

    peer: IPAddress
    local: IPAddress | None
    local_as: int
    router_id: IPv4Address
