"""Decide what a node does with packets for Services: the lab's stand-in for kube-proxy.

Pure: `render` makes the rules of one node and family from Services and EndpointSlices, `health` what the node's health checks
answer; lab.proxies carries both out on every node when one of these objects changed. Connections that are translated already
are not touched by a change, because the kernel remembers them (conntrack) and looks at these rules for first packets only.

What it does, in kube-proxy's terms: cluster IPs, node ports, external IPs and load-balancer addresses (ipMode VIP) over TCP
and UDP, IPv4 and IPv6; externalTrafficPolicy with health check node ports, internalTrafficPolicy, session affinity by client
address, loadBalancerSourceRanges; a random choice among ready endpoints (serving ones when none is ready), a refusal where
there is no endpoint, silence where Local policy finds none on this node, masquerading where the answer would otherwise take
another way. It refuses to know about SCTP and topology hints.

A load-balancer address is on no interface: the speaker answers for it, the frame arrives, and these rules rewrite its
destination before the kernel asks whether the address is its own. (With `--proxy-mode ipvs` it is on one; see lab.proxies.)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, collapse_addresses, ip_address, ip_network
from typing import Final

import msgspec

from kube.objects import Endpoint, EndpointPort, EndpointSlice, ServicePort
from lab.kinds import ProxiedService as Service
from lab.ruleset import Ruleset
from lab.topology import API_PORT, KUBERNETES_SERVICE, POD_NETWORK, POD_NETWORK6, Node, Topology

SERVICE_NAME_LABEL: Final = "kubernetes.io/service-name"
MASQUERADE_MARK: Final = "0x4000"
AFFINITY_S: Final = 10800
_PROTOCOLS: Final = {"TCP": "tcp", "UDP": "udp"}
_MARK: Final = f"meta mark set meta mark or {MASQUERADE_MARK}"


@dataclass(frozen=True, slots=True)
class Family:
    """What differs between IPv4 and IPv6. `name` is nft's word, `kind` Kubernetes'."""

    name: str
    kind: str
    address_type: str
    pods: IPv4Network | IPv6Network
    loopback: str

    def owns(self, address: str) -> bool:
        """Whether an address is of this family."""
        return bool(address) and address != "None" and (":" in address) == (self.kind == "IPv6")


IPV4: Final = Family("ip", "IPv4", "ipv4_addr", POD_NETWORK, "127.0.0.0/8")
IPV6: Final = Family("ip6", "IPv6", "ipv6_addr", POD_NETWORK6, "::1")
FAMILIES: Final = (IPV4, IPV6)

Slices = Mapping[tuple[str, str], Sequence[EndpointSlice]]
"""Namespace and name of a Service → its slices of one family."""


class HealthSubject(msgspec.Struct, frozen=True):
    """Of which Service a health check speaks."""

    namespace: str
    name: str


class Health(msgspec.Struct, frozen=True, rename="camel"):
    """The answer of a health check node port, member by member that of kube-proxy."""

    service: HealthSubject
    local_endpoints: int
    service_proxy_healthy: bool = True


@dataclass(frozen=True, slots=True, order=True)
class Backend:
    """Where a connection can go."""

    address: IPv4Address | IPv6Address
    port: int
    protocol: str

    @property
    def name(self) -> str:
        """Protocol, address and port as nft accepts them in a name, which may not have colons."""
        return f"{self.protocol}/{str(self.address).replace(':', '-')}/{self.port}"

    @property
    def target(self) -> str:
        """Address and port as dnat takes them."""
        return f"[{self.address}]:{self.port}" if self.address.version == 6 else f"{self.address}:{self.port}"


def by_service(slices: Iterable[EndpointSlice], family: Family) -> Slices:
    """The slices of a family, by Service."""
    found: dict[tuple[str, str], list[EndpointSlice]] = {}
    for each in slices:
        service_name = (each.metadata.labels or {}).get(SERVICE_NAME_LABEL, "")
        if each.address_type == family.kind and service_name:
            found.setdefault((each.metadata.namespace, service_name), []).append(each)
    return found


def render(services: Iterable[Service], slices: Slices, *, node: Node, topology: Topology, family: Family) -> Ruleset:
    """The rules of a node for one family. The same Services and slices give equal rules in whatever order they come."""
    rules = _Rules(family, node)
    if family is IPV4:
        api = Backend(topology.control_plane.ip, API_PORT, "tcp")
        rules.destinations[f"{KUBERNETES_SERVICE} . tcp . 443"] = f"goto {rules.backend_chain(api)}"
    for service in sorted(services, key=lambda service: service.key):
        if service.spec.type == "ExternalName" or service.spec.cluster_ip in {"", "None", str(KUBERNETES_SERVICE)}:
            continue
        owned = slices.get((service.metadata.namespace, service.metadata.name), ())
        for port in service.spec.ports or ():
            if port.protocol in _PROTOCOLS:
                rules.add_port(service, port, owned)
    return rules.all()


def health(services: Iterable[Service], slices: Iterable[EndpointSlice], *, node: Node) -> dict[int, Health]:
    """What the node says at each health check node port: how many ready endpoints of the Service it has itself."""
    slices = list(slices)
    found = {}
    for service in services:
        number = service.spec.health_check_node_port
        if not number or service.spec.type != "LoadBalancer" or service.spec.external_traffic_policy != "Local":
            continue
        counts = []
        for family in FAMILIES:
            owned = by_service(slices, family).get((service.metadata.namespace, service.metadata.name), ())
            local = {
                endpoint.addresses
                for each in owned
                for endpoint in each.endpoints or ()
                if endpoint.node_name == node.name and _is_ready(endpoint)
            }
            counts.append(len(local))
        found[number] = Health(HealthSubject(service.metadata.namespace, service.metadata.name), max(counts))
    return found


def local_addresses(services: Iterable[Service]) -> set[IPv4Address | IPv6Address]:
    """The addresses that kube-proxy's IPVS mode puts on an interface of every node: those of all Services."""
    found: set[str] = set()
    for service in services:
        if service.spec.type != "ExternalName":
            found |= {*(service.spec.cluster_ips or ()), *(service.spec.external_ips or ()), *_load_balancer_addresses(service)}
    return {ip_address(each) for each in found if each and each != "None"}


class _Rules:
    """What render() collects: chains by name, which destination leads where, and the sets that session affinity needs."""

    def __init__(self, family: Family, node: Node) -> None:
        self.destinations: dict[str, str] = {}
        self._family = family
        self._node = node
        self._chains: dict[str, tuple[str, ...]] = {}
        self._node_ports: dict[str, str] = {}
        self._refused: dict[str, str] = {}
        self._refused_node_ports: dict[str, str] = {}
        self._guarded: dict[str, str] = {}
        self._sets: dict[str, str] = {}

    def add_port(self, service: Service, port: ServicePort, slices: Sequence[EndpointSlice]) -> None:
        """Add one port of a Service: what its cluster IP, its outside addresses and its node port lead to."""
        spec, family = service.spec, self._family
        protocol = _PROTOCOLS[port.protocol]
        everywhere = _backends(port, slices, node_name=None)
        here = _backends(port, slices, node_name=self._node.name)
        name = _chain_name(service, port)

        def keys(addresses: Iterable[str]) -> list[str]:
            return [f"{address} . {protocol} . {port.port}" for address in addresses if family.owns(address)]

        cluster = keys(spec.cluster_ips or (spec.cluster_ip,))
        inside = here if spec.internal_traffic_policy == "Local" else everywhere
        if cluster and inside:
            from_outside_pods = f"{family.name} saddr != {family.pods} {_MARK}"
            self._chains[f"svc/{name}"] = (from_outside_pods, *self._choice(service, name, inside))
            self.destinations.update(dict.fromkeys(cluster, f"goto svc/{name}"))
        elif cluster:
            self._refused.update(dict.fromkeys(cluster, "drop" if everywhere else "goto refuse"))

        balanced = keys(_load_balancer_addresses(service))
        outside = [*balanced, *keys(spec.external_ips or ())]
        # A Service of one family has node ports of that family only.
        node_ports = [f"{protocol} . {port.node_port}"] if port.node_port and cluster else []
        ranges = _ranges(service, family)
        if ranges:
            self._chains[f"guard/{name}"] = (f"{family.name} saddr != {{ {', '.join(ranges)} }} drop",)
            self._guarded.update(dict.fromkeys(balanced, f"goto guard/{name}"))
        if not outside and not node_ports:
            return
        if not everywhere:
            self._refused.update(dict.fromkeys(outside, "goto refuse"))
            self._refused_node_ports.update(dict.fromkeys(node_ports, "goto refuse"))
            return
        if spec.external_traffic_policy == "Local":
            # What Pods and the node itself send is inside traffic, whatever the address: it may go to any endpoint.
            self._chains[f"all/{name}"] = self._choice(service, name, everywhere)
            self._chains[f"ext/{name}"] = (
                f"{family.name} saddr {family.pods} goto all/{name}",
                f"fib saddr type local {_MARK} goto all/{name}",
                *(self._choice(service, name, here) if here else ("drop",)),
            )
        else:
            self._chains[f"ext/{name}"] = (_MARK, *self._choice(service, name, everywhere))
        self.destinations.update(dict.fromkeys(outside, f"goto ext/{name}"))
        self._node_ports.update(dict.fromkeys(node_ports, f"goto ext/{name}"))

    def backend_chain(self, backend: Backend) -> str:
        """The chain that sends a connection to a backend. One that talks to itself through a Service is masqueraded."""
        self._chains[f"to/{backend.name}"] = (
            f"{self._family.name} saddr {backend.address} {_MARK}",
            f"meta l4proto {backend.protocol} dnat to {backend.target}",
        )
        return f"to/{backend.name}"

    def _choice(self, service: Service, name: str, backends: Sequence[Backend]) -> tuple[str, ...]:
        """The rules that pick one of the backends: the one that the client had before, if the Service wants that, or by chance."""
        chains = [self.backend_chain(backend) for backend in backends]
        before: list[str] = []
        if service.spec.session_affinity == "ClientIP":
            sticky = [self._sticky_chain(service, name, backend) for backend in backends]
            before = [f"{self._family.name} saddr @{chain} goto {chain}" for chain in sticky]
            chains = sticky
        # One rule for each, like kube-proxy's iptables mode: a map for each Service would cost the kernel quadratic time.
        odds = range(len(chains), 1, -1)
        by_chance = (f"numgen random mod {left} == 0 goto {chain}" for left, chain in zip(odds, chains, strict=False))
        return (*before, *by_chance, f"goto {chains[-1]}")

    def _sticky_chain(self, service: Service, name: str, backend: Backend) -> str:
        """A chain that remembers the client and sends its connection to a backend; the set of clients has the same name."""
        config = service.spec.session_affinity_config
        timeout_s = (config and config.client_ip and config.client_ip.timeout_seconds) or AFFINITY_S
        chain = f"sticky/{timeout_s}/{name}/{backend.name}"
        self._sets[chain] = f"type {self._family.address_type}; flags dynamic,timeout; timeout {timeout_s}s;"
        self._chains[chain] = (f"update @{chain} {{ {self._family.name} saddr }}", f"goto to/{backend.name}")
        return chain

    def all(self) -> Ruleset:
        """Everything collected, with the base chains and maps that lead there."""
        family = self._family
        where = f"{family.name} daddr . meta l4proto . th dport"
        mine = f"{family.name} daddr != {family.loopback} fib daddr type local meta l4proto . th dport"
        chains = dict(sorted(self._chains.items()))
        hooks = {}
        chains["services"] = (f"{where} vmap @destinations", f"{mine} vmap @node_ports")
        chains["refuse"] = ("meta l4proto tcp reject with tcp reset", "reject")
        chains["no_endpoint"] = (f"{where} vmap @guarded", f"{where} vmap @refused", f"{mine} vmap @refused_node_ports")
        for hook in ("prerouting", "output"):
            hooks[f"refuse_{hook}"] = f"type filter hook {hook} priority -110; policy accept;"
            chains[f"refuse_{hook}"] = ("ct state new jump no_endpoint",)
            hooks[f"translate_{hook}"] = f"type nat hook {hook} priority -100; policy accept;"
            chains[f"translate_{hook}"] = ("jump services",)
        # What conntrack cannot place (the last packets of connections that came another way before) would not be translated, but
        # forwarded to an address that is nobody's. kube-proxy drops it too.
        hooks["strays"] = "type filter hook forward priority 0; policy accept;"
        # What no rule translates (the Service's rules are still to come) must not leave by the cable it came from: the kernel would
        # remember its connection as it is for two minutes, and the next one from the same port would not be translated either.
        chains["strays"] = ("ct state invalid drop", "iifname eth0 oifname eth0 ct status and dnat != dnat drop")
        hooks["leave"] = "type nat hook postrouting priority 100; policy accept;"
        chains["leave"] = (
            f"meta mark and {MASQUERADE_MARK} == {MASQUERADE_MARK} masquerade fully-random",
            # Only nodes know the way to Pods.
            f"{family.name} saddr {family.pods} {family.name} daddr != {family.pods} masquerade fully-random",
        )
        by_address, by_port = f"{family.address_type} . inet_proto . inet_service", "inet_proto . inet_service"
        maps = {
            "destinations": self.destinations,
            "node_ports": self._node_ports,
            "refused": self._refused,
            "refused_node_ports": self._refused_node_ports,
            "guarded": self._guarded,
        }
        return Ruleset(
            family=family.name,
            hooks=hooks,
            chains=chains,
            types={name: by_port if name.endswith("node_ports") else by_address for name in maps},
            maps={name: dict(sorted(elements.items())) for name, elements in maps.items()},
            sets=dict(sorted(self._sets.items())),
        )


def _load_balancer_addresses(service: Service) -> list[str]:
    """The addresses that the node itself must translate: not those with a proxy in front (ipMode Proxy)."""
    if service.spec.type != "LoadBalancer":
        return []
    return [each.ip for each in service.status.load_balancer.ingress or () if each.ip and each.ip_mode != "Proxy"]


def _ranges(service: Service, family: Family) -> list[str]:
    """The networks whose clients a load-balancer address serves, as far as they are of this family; none: all."""
    if service.spec.type != "LoadBalancer":
        return []
    wanted = [ip_network(each.strip(), strict=False) for each in service.spec.load_balancer_source_ranges or ()]
    if family is IPV4:
        return [str(each) for each in collapse_addresses(each for each in wanted if isinstance(each, IPv4Network))]
    return [str(each) for each in collapse_addresses(each for each in wanted if isinstance(each, IPv6Network))]


def _backends(port: ServicePort, slices: Sequence[EndpointSlice], *, node_name: str | None) -> list[Backend]:
    """The endpoints a port's connections may go to: ready ones, or, when none is, those that still serve while terminating."""
    ready: set[Backend] = set()
    serving: set[Backend] = set()
    for each in slices:
        for target in each.ports or ():
            if not _same_port(port, target) or target.port is None:
                continue
            for endpoint in each.endpoints or ():
                if node_name is not None and endpoint.node_name != node_name:
                    continue
                found = {Backend(ip_address(a), target.port, _PROTOCOLS[port.protocol]) for a in endpoint.addresses}
                if _is_ready(endpoint):
                    ready |= found
                elif endpoint.conditions.serving and endpoint.conditions.terminating:
                    serving |= found
    return sorted(ready or serving)


def _same_port(port: ServicePort, target: EndpointPort) -> bool:
    return (target.name or "") == port.name and (target.protocol or "TCP") == port.protocol


def _is_ready(endpoint: Endpoint) -> bool:
    return endpoint.conditions.ready is not False


def _chain_name(service: Service, port: ServicePort) -> str:
    """A Service port as nft accepts it: names have no underscore, so the replacement loses nothing."""
    return re.sub(r"[^a-z0-9/]", "_", f"{service.key}/{port.port}/{port.protocol}".lower())
