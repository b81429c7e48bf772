"""The frozen inputs of a speaker's decisions: everything that may matter, and nothing else.

observe.py makes these values, plan.decide() reads them, `/status` shows them. No string here still needs parsing.
What every speaker must agree on (Cluster) is kept apart from what only this node knows (the rest of World): an election
that looked at the second kind would have two winners.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from config.model import EMPTY, Config, InterfaceName, IPAddress, NodeName, PoolName, ServiceKey


def _no_labels() -> Mapping[str, str]:
    return MappingProxyType({})


class TrafficPolicy(StrEnum):
    """externalTrafficPolicy: may a node forward to endpoints elsewhere (Cluster), or only to its own (Local)."""

    CLUSTER = "Cluster"
    LOCAL = "Local"


@dataclass(frozen=True, slots=True)
class Service:
    """A Service of type LoadBalancer that is ours to serve.

    `unreadable` is the text of a status entry that is not an address, or empty. `may_share` says that one of the
    allow-shared-ip annotations is present, whatever its value. `ready_nodes` are the nodes with a usable endpoint;
    `ready` is also true if a usable endpoint names no node; `ending_nodes` are those whose usable endpoints are all about to end.
    `allocated_from` is the pool named by the controller.
    """

    key: ServiceKey
    addresses: tuple[IPAddress, ...] = ()
    policy: TrafficPolicy = TrafficPolicy.CLUSTER
    labels: Mapping[str, str] = field(default_factory=_no_labels)
    ready: bool = False
    ready_nodes: frozenset[NodeName] = frozenset()
    ending_nodes: frozenset[NodeName] = frozenset()
    may_share: bool = False
    unreadable: str = ""
    allocated_from: PoolName | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """A Node as far as candidacy goes. Readiness, taints and cordons do not matter here."""

    name: NodeName
    labels: Mapping[str, str] = field(default_factory=_no_labels)
    network_unavailable: bool = False
    excluded: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface of this node.

    `mac` has 6 bytes, or none where the link has no hardware address. `link_locals` are the usable IPv6 link-local addresses,
    packed, ascending. `refused` says why no socket could be opened on it.
    """

    index: int
    name: InterfaceName
    mac: bytes = b""
    up: bool = True
    carrier: bool = True
    broadcast: bool = True
    noarp: bool = False
    master: bool = False
    link_locals: tuple[bytes, ...] = ()
    refused: str = ""

    @property
    def link_local(self) -> bytes | None:
        """The address that NDP messages come from."""
        return self.link_locals[0] if self.link_locals else None


@dataclass(frozen=True, slots=True, eq=False)
class Cluster:
    """What all speakers agree on once their watches and their gossip have caught up.

    Compared by identity, so that what is derived from it can be kept until it is replaced. `members` is None if gossip is
    disabled: then every Node counts as having a speaker. `all_ours` says that every member decides as this package does, so
    that a rule of ours beyond MetalLB's makes no two owners. `honour_exclude_label` is off with --ignore-exclude-lb.
    """

    config: Config = EMPTY
    nodes: Mapping[NodeName, Node] = field(default_factory=lambda: MappingProxyType({}))
    members: frozenset[NodeName] | None = None
    honour_exclude_label: bool = True
    all_ours: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """One moment, as this speaker sees it.

    `sharers` maps an address to the Services whose first address it is. `hold` is the sentence that says why this speaker
    must not announce yet, or empty. `isolation` is the sentence that says why it may take nothing over, or empty; it keeps what
    it owned when that began, `kept`.
    """

    me: NodeName
    cluster: Cluster = field(default_factory=Cluster)
    services: Mapping[ServiceKey, Service] = field(default_factory=lambda: MappingProxyType({}))
    sharers: Mapping[IPAddress, tuple[ServiceKey, ...]] = field(default_factory=lambda: MappingProxyType({}))
    links: tuple[Link, ...] = ()
    hold: str = ""
    isolation: str = ""
    kept: frozenset[IPAddress] = frozenset()
