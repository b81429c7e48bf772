"""Turn what the API server, the gossip and netlink say into a World, and say what changed.

The one file of the speaker that reads Kubernetes objects into decisions: Service annotations, EndpointSlices, Node
conditions. reconcile.py calls look() whenever something is dirty. Only what changed is read again. It decides nothing.
"""

from __future__ import annotations

import base64
import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Address, ip_address
from types import MappingProxyType
from typing import Any

from config.compile import Compiled, compile_config
from config.cross import NATIVE, PasswordSecret, Surroundings
from config.model import (
    EMPTY,
    EXCLUDE_LABEL,
    Config,
    Election,
    InterfaceAddress,
    InterfaceName,
    IPAddress,
    NodeName,
    ObjectRef,
    PoolName,
    ServiceKey,
)
from config.rules import ELECTION, RESERVED
from kube import objects
from kube.objects import ObjectKey
from kube.store import Store, generation
from speaker.agenda import Changes
from speaker.bgp.neighbors import Site
from speaker.layer2 import interfaces
from speaker.world import Cluster, Link, Node, Service, TrafficPolicy, World

SERVICE_NAME_LABEL = "kubernetes.io/service-name"
SHARE_ANNOTATIONS = ("metallb.io/allow-shared-ip", "metallb.universe.tf/allow-shared-ip")
POOL_ANNOTATIONS = ("metallb.io/ip-allocated-from-pool", "metallb.universe.tf/ip-allocated-from-pool")


def service_fingerprint(view: objects.Service) -> object:
    """What of a Service a speaker's decision reads."""
    spec, annotations = view.spec, view.metadata.annotations or {}
    return (
        spec.type,
        spec.load_balancer_class,
        spec.external_traffic_policy,
        view.status.load_balancer.ingress,
        view.metadata.labels,
        tuple(annotations.get(name) for name in (*SHARE_ANNOTATIONS, *POOL_ANNOTATIONS)),
    )


def slice_fingerprint(view: objects.EndpointSlice) -> object:
    """What of an EndpointSlice a speaker's decision reads."""
    return (_service_of_slice(view), view.endpoints)


def node_fingerprint(view: objects.Node) -> object:
    """What of a Node a speaker's decision reads; heartbeats do not count."""
    return (view.metadata.labels, _network_unavailable(view), view.status.addresses)


def namespace_fingerprint(view: objects.Namespace) -> object:
    """What of a Namespace the configuration reads."""
    return view.metadata.labels


config_fingerprint = generation

BGP_KINDS = ("BGPPeer", "BGPAdvertisement", "BFDProfile", "Community")


def pool_fingerprint(view: objects.RawObject) -> object:
    """What of a pool the configuration reads: an annotation of ours too, with which no generation grows."""
    return (generation(view), (view.metadata.annotations or {}).get(RESERVED))


def advertisement_fingerprint(view: objects.RawObject) -> object:
    """What of an L2Advertisement the configuration reads: an annotation of ours too."""
    return (generation(view), (view.metadata.annotations or {}).get(ELECTION))


@dataclass(frozen=True, slots=True)
class SecretView:
    """What of a Secret is kept: whether a peer can take its password from it, and that password, which no text shows."""

    key: ObjectKey
    uid: str
    version: str
    use: PasswordSecret
    password: bytes | None = field(default=None, repr=False)


def secret_view(secret: objects.Secret) -> SecretView:
    """The Secret without what nobody needs; a password only of the type that peers may name."""
    meta = secret.metadata
    data = secret.data or {}
    password = None
    if secret.type == "kubernetes.io/basic-auth" and "password" in data:
        with contextlib.suppress(ValueError):
            password = base64.b64decode(data["password"], validate=True)
    return SecretView(secret.key, meta.uid, meta.resource_version, PasswordSecret(secret.type, "password" in data), password)


def secret_fingerprint(view: SecretView) -> object:
    """What of a Secret the configuration reads."""
    return view.use, view.password


@dataclass(frozen=True, slots=True)
class Stores:
    """What the reflectors keep, for observation."""

    services: Store[objects.Service] = field(default_factory=Store)
    slices: Store[objects.EndpointSlice] = field(default_factory=Store)
    nodes: Store[objects.Node] = field(default_factory=Store)
    namespaces: Store[objects.Namespace] = field(default_factory=Store)
    pools: Store[objects.RawObject] = field(default_factory=Store)
    advertisements: Store[objects.RawObject] = field(default_factory=Store)
    bgp: Mapping[str, Store[objects.RawObject]] = field(default_factory=lambda: {kind: Store() for kind in BGP_KINDS})
    """Kinds that nothing on layer 2 waits for; they count once all of them and the Secrets are there."""
    secrets: Store[SecretView] = field(default_factory=Store)

    def waiting_for(self) -> tuple[str, ...]:
        """The kinds that the API server has not listed yet."""
        needed = ("services", "slices", "nodes", "namespaces", "pools", "advertisements")
        return tuple(name for name in needed if not getattr(self, name).synced)

    @property
    def bgp_known(self) -> bool:
        """Whether all kinds of BGP have been listed: before that, one would seem to name what nothing has."""
        return self.secrets.synced and all(store.synced for store in self.bgp.values())

    def configuration(self) -> list[Mapping[str, Any]]:
        """Every configuration object as JSON."""
        stores = {"IPAddressPool": self.pools, "L2Advertisement": self.advertisements}
        if self.bgp_known:
            stores |= self.bgp
        return [{"kind": kind, **view.document} for kind, store in stores.items() for view in store.snapshot().values()]

    def configuration_object(self, ref: ObjectRef) -> objects.RawObject | None:
        """A configuration object as it came."""
        stores = {"IPAddressPool": self.pools, "L2Advertisement": self.advertisements, **self.bgp}
        return stores[ref.kind].get(ObjectKey(f"{ref.namespace}/{ref.name}")) if ref.kind in stores else None


class Observer:
    """Keeps the last World and renews the parts whose sources changed."""

    def __init__(
        self,
        stores: Stores,
        me: NodeName,
        *,
        lb_class: str,
        honour_exclude_label: bool,
        excluded: re.Pattern[str] | None,
        bgp_type: str = NATIVE,
    ) -> None:
        self._stores = stores
        self._lb_class = lb_class
        self._excluded = excluded
        self._bgp_type = bgp_type
        self._slices_of: dict[ServiceKey, set[ObjectKey]] = {}
        self._service_of: dict[ObjectKey, ServiceKey] = {}
        self._seen_links: tuple[Sequence[Link], Mapping[InterfaceName, str]] | None = None
        self.links: tuple[Link, ...] = ()
        """The interfaces that are not excluded, whether a socket can be opened on them or not."""
        self.compiled: Compiled = Compiled(EMPTY, (), MappingProxyType({}))
        self._bgp_known = False
        self.world = World(me, Cluster(honour_exclude_label=honour_exclude_label))

    def look(
        self,
        *,
        members: frozenset[NodeName] | None,
        all_ours: bool = False,
        hold: str,
        links: Sequence[Link],
        refused: Mapping[InterfaceName, str] = MappingProxyType({}),
        isolation: str = "",
        kept: frozenset[IPAddress] = frozenset(),
    ) -> Changes:
        """Renew `world`; what changed. To be called only when no store is waited for.

        `refused` says of links on which no socket could be opened why not.
        """
        before = self.world
        cluster = self._look_at_cluster(before.cluster, members, all_ours)
        services, sharers, changed = self._look_at_services(before)
        considered = before.links
        if self._seen_links != (links, refused):
            self._seen_links = (links, dict(refused))
            self.links = interfaces.considered(links, self._excluded)
            considered = tuple(replace(link, refused=refused.get(link.name, "")) for link in self.links)
        own = hold != before.hold or (isolation, kept) != (before.isolation, before.kept) or considered != before.links
        if cluster is before.cluster and not changed and not own:
            return Changes()
        self.world = World(before.me, cluster, services, sharers, considered, hold, isolation, kept)
        lost, everybody = _compare(before.cluster, cluster)
        if (changed or lost) and any(one.election is Election.BALANCED for one in cluster.config.l2_advertisements):
            everybody = True  # One address more or less may move another one.
        return Changes(changed, lost, everybody, own)

    def _look_at_cluster(self, before: Cluster, members: frozenset[NodeName] | None, all_ours: bool) -> Cluster:  # noqa: FBT001 - a fact
        config, nodes = before.config, before.nodes
        sources: tuple[Store[Any], ...] = (
            self._stores.pools,
            self._stores.advertisements,
            self._stores.namespaces,
            self._stores.secrets,
            *self._stores.bgp.values(),
        )
        changed = any([store.take_changed() for store in sources])  # noqa: C419 - every store is to be asked
        if self._stores.nodes.take_changed():
            changed |= any(len(store) for store in self._stores.bgp.values())
            nodes = {NodeName(key): node_of(view) for key, view in self._stores.nodes.snapshot().items()}
        if self._bgp_known != self._stores.bgp_known:
            self._bgp_known = changed = True
        if changed:
            config = self._compile()
        if (config, nodes, members, all_ours) == (before.config, before.nodes, before.members, before.all_ours):
            return before
        return Cluster(config, nodes, members, before.honour_exclude_label, all_ours)

    def _compile(self) -> Config:
        namespaces = {view.metadata.name: view.metadata.labels or {} for view in self._stores.namespaces.snapshot().values()}
        nodes = {str(name): view.metadata.labels or {} for name, view in self._stores.nodes.snapshot().items()}
        secrets = {key.rpartition("/")[2]: view.use for key, view in self._stores.secrets.snapshot().items()}
        around = Surroundings(mode=self._bgp_type, nodes=nodes, node=self.world.me, secrets=secrets)
        self.compiled = compile_config(self._stores.configuration(), namespaces, self.compiled.valid, around)
        return self.compiled.config

    def _look_at_services(
        self, before: World
    ) -> tuple[Mapping[ServiceKey, Service], Mapping[IPAddress, tuple[ServiceKey, ...]], frozenset[ServiceKey]]:
        touched = {ServiceKey(key) for key in self._stores.services.take_changed()} | self._index_slices()
        if not touched:
            return before.services, before.sharers, frozenset()
        services, sharers = dict(before.services), dict(before.sharers)
        changed: set[ServiceKey] = set()
        for key in touched:
            old, new = services.pop(key, None), self._service(key)
            if new is not None:
                services[key] = new
            if new == old:
                continue
            changed.add(key)
            for one in (old, new):
                if one is not None and one.addresses:
                    changed.update(sharers.get(one.addresses[0], ()))
            _reindex(sharers, key, old, new)
        return services, sharers, frozenset(changed)

    def _index_slices(self) -> set[ServiceKey]:
        """Follow the EndpointSlices that changed to their Services, old and new."""
        touched: set[ServiceKey] = set()
        for key in self._stores.slices.take_changed():
            view = self._stores.slices.get(key)
            old, new = self._service_of.pop(key, None), None if view is None else _service_of_slice(view)
            if old is not None:
                self._slices_of[old].discard(key)
                touched.add(old)
            if new is not None:
                self._service_of[key] = new
                self._slices_of.setdefault(new, set()).add(key)
                touched.add(new)
        for service in touched:
            if not self._slices_of.get(service, True):
                del self._slices_of[service]
        return touched

    def _service(self, key: ServiceKey) -> Service | None:
        view = self._stores.services.get(ObjectKey(key))
        if view is None:
            return None
        slices = (self._stores.slices.get(one) for one in sorted(self._slices_of.get(key, ())))
        return service_of(view, [one for one in slices if one is not None], self._lb_class)


def _reindex(
    sharers: dict[IPAddress, tuple[ServiceKey, ...]], key: ServiceKey, old: Service | None, new: Service | None
) -> None:
    if old is not None and old.addresses:
        rest = tuple(one for one in sharers[old.addresses[0]] if one != key)
        if rest:
            sharers[old.addresses[0]] = rest
        else:
            del sharers[old.addresses[0]]
    if new is not None and new.addresses:
        sharers[new.addresses[0]] = tuple(sorted((*sharers.get(new.addresses[0], ()), key)))


def _compare(before: Cluster, after: Cluster) -> tuple[frozenset[NodeName], bool]:
    """The nodes that were lost, and whether more changed than that."""
    if after is before:
        return frozenset(), False
    lost_members = (before.members or frozenset()) - (after.members or frozenset())
    lost_nodes = frozenset(before.nodes.keys() - after.nodes.keys())
    remaining = {name: node for name, node in before.nodes.items() if name not in lost_nodes}
    only_losses = (
        (before.config, before.all_ours) == (after.config, after.all_ours)
        and remaining == after.nodes
        and (before.members is None) == (after.members is None)
        and (after.members or frozenset()) <= (before.members or frozenset())
    )
    return lost_members | lost_nodes, not only_losses


def service_of(view: objects.Service, slices: Iterable[objects.EndpointSlice], lb_class: str) -> Service | None:
    """The Service as decisions see it; None if it is not of type LoadBalancer or of another load balancer class."""
    if view.spec.type != "LoadBalancer" or view.spec.load_balancer_class != lb_class:
        return None
    addresses, unreadable = _addresses(view.status.load_balancer.ingress or ())
    annotations = view.metadata.annotations or {}
    usable = [one for part in slices for one in part.endpoints or () if _usable(one)]
    lasting = {one.node_name for one in usable if not one.conditions.terminating}
    local = view.spec.external_traffic_policy == TrafficPolicy.LOCAL
    pool = next((annotations[name] for name in POOL_ANNOTATIONS if annotations.get(name)), None)
    return Service(
        key=ServiceKey(view.key),
        addresses=addresses,
        policy=TrafficPolicy.LOCAL if local else TrafficPolicy.CLUSTER,
        labels=MappingProxyType(view.metadata.labels or {}),
        ready=bool(usable),
        ready_nodes=frozenset(NodeName(one.node_name) for one in usable if one.node_name),
        ending_nodes=frozenset(NodeName(one.node_name) for one in usable if one.node_name and one.node_name not in lasting),
        may_share=any(name in annotations for name in SHARE_ANNOTATIONS),
        unreadable=unreadable,
        allocated_from=None if pool is None else PoolName(pool),
    )


def _addresses(ingress: Iterable[objects.LoadBalancerIngress]) -> tuple[tuple[IPAddress, ...], str]:
    """The addresses of a status; if one is none, its text. An IPv4-mapped address is the IPv4 address."""
    found: list[IPAddress] = []
    for one in ingress:
        try:
            address = ip_address(one.ip)
        except ValueError:
            return (), one.ip or one.hostname or "an empty entry"
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        found.append(mapped or address)
    return tuple(found), ""


def _usable(endpoint: objects.Endpoint) -> bool:
    """Ready (or not said), or serving, which an endpoint may still be while it terminates."""
    conditions = endpoint.conditions
    return conditions.ready is not False or conditions.serving is True


def _service_of_slice(view: objects.EndpointSlice) -> ServiceKey | None:
    name = (view.metadata.labels or {}).get(SERVICE_NAME_LABEL)
    return ServiceKey(f"{view.metadata.namespace}/{name}") if name else None


def node_of(view: objects.Node) -> Node:
    """The Node as decisions see it."""
    labels = view.metadata.labels or {}
    return Node(NodeName(view.metadata.name), MappingProxyType(labels), _network_unavailable(view), EXCLUDE_LABEL in labels)


def _network_unavailable(view: objects.Node) -> bool:
    return any(one.type == "NetworkUnavailable" and one.status == "True" for one in view.status.conditions or ())


def site_of(
    stores: Stores, cluster: Cluster, me: NodeName, namespace: str, links: Mapping[InterfaceName, tuple[InterfaceAddress, ...]]
) -> Site:
    """This node as far as its BGP sessions depend on it; the caller adds what routers said."""
    view, node = stores.nodes.get(ObjectKey(me)), cluster.nodes.get(me)
    internal = [one.address for one in (view.status.addresses or ()) if one.type == "InternalIP"] if view is not None else []
    found: list[IPAddress] = []
    for text in internal:
        with contextlib.suppress(ValueError):
            found.append(ip_address(text))
    secrets = {key.rpartition("/")[2]: one.password for key, one in stores.secrets.snapshot().items()}
    return Site(
        node=me,
        namespace=namespace,
        labels=MappingProxyType({}) if node is None else node.labels,
        links=links,
        node_addresses=tuple(found),
        secrets={name: password for name, password in secrets.items() if password is not None},
    )


def pod_fingerprint(view: objects.Pod) -> object:
    """What of a speaker Pod the joining reads."""
    return (view.status.phase, view.status.pod_ip, view.spec.node_name)


def other_speakers(pods: Store[objects.Pod], me: NodeName) -> Mapping[IPAddress, NodeName] | None:
    """The running speaker Pods on other nodes, by address; None before the API server has listed them."""
    if not pods.synced:
        return None
    found: dict[IPAddress, NodeName] = {}
    for view in pods.snapshot().values():
        if view.status.phase != "Running" or view.spec.node_name in {me, ""}:
            continue
        try:
            found[ip_address(view.status.pod_ip)] = NodeName(view.spec.node_name)
        except ValueError:
            continue  # It has no address yet.
    return found
