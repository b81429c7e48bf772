"""Kubernetes objects turned into the World that decisions read; the only file of the controller that knows annotations.

Called by controller.reconcile for every Service that changed. A request that cannot be read is not an error here: the
text of the problem is part of the value, and the plan says it to the user.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from types import MappingProxyType
from typing import Any, Final

from config.model import IPAddress, ObjectRef, PoolName, ServiceKey
from config.rules import RESERVED
from config.values import TextError, parse_address, parse_duration
from controller.ipam.sharing import ALONE, Port, Use
from controller.world import FamilyPolicy, Recorded, Service, Verdict, family_of
from kube import objects
from kube.objects import ObjectKey
from kube.resources import SERVICES
from kube.store import Store, generation

PREFIX: Final = "metallb.io/"
DEPRECATED_PREFIX: Final = "metallb.universe.tf/"
ADDRESS_POOL: Final = "address-pool"
LOAD_BALANCER_IPS: Final = "loadBalancerIPs"
ALLOW_SHARED_IP: Final = "allow-shared-ip"
ALLOCATED_FROM_POOL: Final = PREFIX + "ip-allocated-from-pool"

ADDRESS_ASSIGNED: Final = "lb.metallb-py.io/AddressAssigned"
"""The type of our condition in the status of a Service."""

MAX_ADDRESSES: Final = "lb.metallb-py.io/max-addresses"
"""Annotation of a Namespace: how many different addresses its Services may hold."""

INPUTS: Final = tuple(
    prefix + name for prefix in (PREFIX, DEPRECATED_PREFIX) for name in (ADDRESS_POOL, LOAD_BALANCER_IPS, ALLOW_SHARED_IP)
)
PLAIN_MODES: Final = frozenset({"", "VIP"})
"""The API server writes VIP where ipMode is absent (Kubernetes 1.30): both mean the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolCounters:
    """What the status of an IPAddressPool says."""

    assigned_ipv4: int
    assigned_ipv6: int
    available_ipv4: int
    available_ipv6: int


KEEP_ADDRESS_FOR: Final = "lb.metallb-py.io/keep-address-for"
"""Annotation of a Service: how long its addresses are kept back for it once it is deleted."""
KEEP_LONGEST_S: Final = 366 * 24 * 3600.0

NO_LABELS: Final[Mapping[str, str]] = MappingProxyType({})
REPORTED: Final = ("BGPAdvertisement", "BGPPeer", "BFDProfile", "Community")


@dataclass(frozen=True, slots=True)
class Stores:
    """What the reflectors fill, and the event they set."""

    dirty: asyncio.Event = field(default_factory=asyncio.Event)
    services: Store[Service] = field(default_factory=Store)
    pools: Store[objects.RawObject] = field(default_factory=Store)
    l2_advertisements: Store[objects.RawObject] = field(default_factory=Store)
    namespaces: Store[objects.Namespace] = field(default_factory=Store)
    reported: Mapping[str, Store[objects.RawObject]] = field(default_factory=lambda: {kind: Store() for kind in REPORTED})
    """Kinds of which nothing is decided here: what is wrong with them is said once for the whole cluster."""

    @property
    def unsynced(self) -> list[str]:
        """The kinds whose first complete list has not come yet."""
        kinds: dict[str, Store[Any]] = {
            "Service": self.services,
            "IPAddressPool": self.pools,
            "L2Advertisement": self.l2_advertisements,
            "Namespace": self.namespaces,
        }
        return [kind for kind, store in kinds.items() if not store.synced]

    @property
    def reported_known(self) -> bool:
        """Whether all kinds that are only reported on have been listed: before that, one would seem to name what nothing has."""
        return all(store.synced for store in self.reported.values())

    def configuration_documents(self) -> list[Mapping[str, Any]]:
        """Every configuration object as JSON; those of the reported kinds once all of these are there."""
        stores = {"IPAddressPool": self.pools, "L2Advertisement": self.l2_advertisements}
        if self.reported_known:
            stores |= self.reported
        return [configuration_document(kind, raw) for kind, store in stores.items() for raw in store.snapshot().values()]

    def service(self, key: str) -> Service | None:
        """A Service as decisions see it; None if it is gone."""
        return self.services.get(ObjectKey(key))

    def pool(self, namespace: str, name: PoolName) -> objects.RawObject | None:
        """A pool as it came."""
        return self.pools.get(ObjectKey(f"{namespace}/{name}"))

    def configuration_object(self, ref: ObjectRef) -> objects.RawObject | None:
        """A configuration object as it came."""
        stores = {"IPAddressPool": self.pools, "L2Advertisement": self.l2_advertisements, **self.reported}
        return stores[ref.kind].get(ObjectKey(f"{ref.namespace}/{ref.name}" if ref.namespace else ref.name))


def service_fingerprint(service: Service) -> object:
    """What of a Service a decision reads: if this stays the same, nothing has to be decided."""
    return replace(service, version="")


def service(document: objects.Service) -> Service:
    """The Service as decisions see it."""
    spec, meta = document.spec, document.metadata
    annotations = meta.annotations or {}
    wanted, problem = _wanted_addresses(spec.load_balancer_ip, _annotation(annotations, LOAD_BALANCER_IPS))
    pool = _annotation(annotations, ADDRESS_POOL)
    keep_for_s, keep_problem = _keep_for(annotations.get(KEEP_ADDRESS_FOR))
    return Service(
        key=ServiceKey(f"{meta.namespace}/{meta.name}"),
        uid=meta.uid,
        version=meta.resource_version,
        created=sys.intern(meta.creation_timestamp),
        labels=MappingProxyType(meta.labels) if meta.labels else NO_LABELS,
        load_balancer=spec.type == "LoadBalancer",
        load_balancer_class=spec.load_balancer_class,
        cluster_ips=_addresses(spec.cluster_ips or (spec.cluster_ip,)),
        policy=_policy(spec.ip_family_policy),
        primary=6 if (spec.ip_families or ("",))[0] == "IPv6" else 4,
        wanted_addresses=wanted,
        wanted_pool=PoolName(pool) if pool else None,
        request_problem=problem,
        use=_use(document),
        keep_for_s=keep_for_s,
        keep_problem=keep_problem,
        deprecated_annotations=tuple(sorted(key for key in annotations if key.startswith(DEPRECATED_PREFIX))),
        recorded=_recorded(document.status, annotations.get(ALLOCATED_FROM_POOL)),
    )


REDUCED_SERVICES: Final = SERVICES.reduced(service)
"""Services of which nothing is kept but what decisions read: a fifth of the view."""


def _annotation(annotations: Mapping[str, str], name: str) -> str:
    """The value of an input; the present prefix wins where it is there, even if it is empty."""
    return annotations.get(PREFIX + name, annotations.get(DEPRECATED_PREFIX + name, ""))


def _keep_for(text: str | None) -> tuple[float | None, str]:
    """How long the addresses of a Service outlive it, and what is wrong with that."""
    if text is None:
        return None, ""
    try:
        seconds = parse_duration(text.strip())
    except TextError as problem:
        return None, f"annotation {KEEP_ADDRESS_FOR}: {problem.message}; {problem.remedy}"
    if not 0 < seconds <= KEEP_LONGEST_S:
        return None, f"annotation {KEEP_ADDRESS_FOR}: {text!r} is out of range; write more than 0s and at most 8784h (366 days)"
    return seconds, ""


def _use(document: objects.Service) -> Use:
    """How the Service shares its address; whatever does not share is the same."""
    key = _annotation(document.metadata.annotations or {}, ALLOW_SHARED_IP)
    if not key:
        return ALONE
    spec = document.spec
    local = spec.external_traffic_policy == "Local"
    backend = ",".join(f"{name}={value}" for name, value in sorted((spec.selector or {}).items())) if local else ""
    return _same_use(key, backend, frozenset((port.protocol, port.port) for port in spec.ports or ()))


@lru_cache(maxsize=1024)
def _same_use(key: str, backend: str, ports: frozenset[Port]) -> Use:
    """One value for all Services that use their addresses in one way."""
    return Use(key, backend, ports)


def _policy(text: str) -> FamilyPolicy:
    return FamilyPolicy(text) if text in list(FamilyPolicy) else FamilyPolicy.SINGLE


def _wanted_addresses(in_spec: str, annotation: str) -> tuple[tuple[IPAddress, ...], str]:
    """The addresses asked for, and what is wrong with the request (then there are no addresses)."""
    if in_spec and annotation:
        return (), f"spec.loadBalancerIP and the annotation {PREFIX}{LOAD_BALANCER_IPS} are both set; use the annotation only"
    if not in_spec and not annotation:
        return (), ""
    where = "spec.loadBalancerIP" if in_spec else f"annotation {PREFIX}{LOAD_BALANCER_IPS}"
    try:
        wanted = tuple(parse_address(text.strip()) for text in ([in_spec] if in_spec else annotation.split(",")))
    except TextError as problem:
        return (), f"{where}: {problem.message}; {problem.remedy}"
    if family_of(wanted) is None:
        return (), f"{where}: {in_spec or annotation!r} must be one address, or one of each IP family"
    # As MetalLB ends up writing them: the order of their texts. The first one decides which node announces both.
    return tuple(sorted(wanted, key=str)), ""


def _addresses(texts: Iterable[str]) -> tuple[IPAddress, ...]:
    """The texts that are addresses; the API server allows nothing else than them, None and nothing."""
    found = (_address(text) for text in texts)
    return tuple(address for address in found if address is not None)


def _address(text: str) -> IPAddress | None:
    try:
        address = IPv6Address(text) if ":" in text else IPv4Address(text)
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


def _verdict(conditions: Iterable[objects.Condition]) -> Verdict | None:
    """Our condition, if it is there."""
    ours = next((one for one in conditions if one.type == ADDRESS_ASSIGNED), None)
    return None if ours is None else Verdict(ours.status == "True", ours.reason, ours.message)


def _recorded(status: objects.ServiceStatus, pool: str | None) -> Recorded:
    entries = status.load_balancer.ingress or ()
    addresses = _addresses(entry.ip for entry in entries)
    plain = len(addresses) == len(entries) and all(not entry.hostname and entry.ip_mode in PLAIN_MODES for entry in entries)
    return Recorded(addresses, PoolName(pool) if pool is not None else None, plain, _verdict(status.conditions or ()))


def namespace_fingerprint(namespace: objects.Namespace) -> object:
    """What of a Namespace decisions read."""
    return (namespace.metadata.labels, (namespace.metadata.annotations or {}).get(MAX_ADDRESSES))


def quotas(namespaces: Iterable[objects.Namespace]) -> tuple[dict[str, int], dict[str, str]]:
    """How many addresses namespaces may hold, and what cannot be read of that, by namespace."""
    texts = {
        one.metadata.name: (one.metadata.annotations or {})[MAX_ADDRESSES]
        for one in namespaces
        if MAX_ADDRESSES in (one.metadata.annotations or {})
    }
    good = {name: int(text) for name, text in texts.items() if text.isascii() and text.isdecimal()}
    return good, {name: text for name, text in texts.items() if name not in good}


def pool_fingerprint(raw: objects.RawObject) -> object:
    """What of a pool the configuration reads: an annotation of ours too, with which no generation grows."""
    return (generation(raw), (raw.metadata.annotations or {}).get(RESERVED))


def pool_status(raw: objects.RawObject) -> PoolCounters | None:
    """What the status of a pool says; None if it is not what we write."""
    match raw.document.get("status"):
        case {"assignedIPv4": int(a4), "assignedIPv6": int(a6), "availableIPv4": int(f4), "availableIPv6": int(f6)}:
            return PoolCounters(assigned_ipv4=a4, assigned_ipv6=a6, available_ipv4=f4, available_ipv6=f6)
        case _:
            return None


def configuration_document(resource_kind: str, raw: objects.RawObject) -> Mapping[str, Any]:
    """The document of a custom resource, with its kind where a list left it out."""
    return {"kind": resource_kind, **raw.document}
