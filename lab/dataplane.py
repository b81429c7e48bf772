"""Translate Services to nftables rules for one node: the lab's stand-in for kube-proxy.

`render` is pure text from values; lab.supervisor calls `apply` with it for every node when a Service or EndpointSlice changed.
The whole table is replaced in one transaction; connections that are already translated are not touched by that, because
the kernel remembers them (conntrack) and looks at these rules for first packets only.

What it does, in kube-proxy's terms: cluster IPs, node ports and load-balancer addresses (ipMode VIP) over TCP and UDP,
externalTrafficPolicy and internalTrafficPolicy, a random choice among ready endpoints (serving ones when none is ready),
a refusal where there is no endpoint, silence where Local policy finds none on this node, masquerading where the answer would
otherwise take another way. It refuses to know about session affinity, source ranges, SCTP and IPv6.

A load-balancer address is on no interface: the speaker answers ARP for it, the frame arrives, and these rules rewrite its
destination before the kernel asks whether the address is its own.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Final

from kube.objects import Endpoint, EndpointPort, EndpointSlice, Service, ServicePort
from lab import netns
from lab.topology import API_PORT, KUBERNETES_SERVICE, POD_NETWORK, Node, Topology

SERVICE_NAME_LABEL: Final = "kubernetes.io/service-name"
MASQUERADE_MARK: Final = "0x4000"
_PROTOCOLS: Final = {"TCP": "tcp", "UDP": "udp"}


class DataplaneError(RuntimeError):
    """nft refused a rule set; the message is its own."""


@dataclass(frozen=True, slots=True, order=True)
class Backend:
    """Where a connection can go."""

    address: IPv4Address
    port: int
    protocol: str

    @property
    def chain(self) -> str:
        """The chain that sends a connection there."""
        return f"to/{self.protocol}/{self.address}/{self.port}"


@dataclass(slots=True)
class _Rules:
    """What render() collects: chains by name, and which destination leads to which chain."""

    chains: dict[str, list[str]] = field(default_factory=dict)
    destinations: dict[str, str] = field(default_factory=dict)
    node_ports: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    refused_node_ports: dict[str, str] = field(default_factory=dict)


def render(services: Iterable[Service], slices: Iterable[EndpointSlice], *, node: Node, topology: Topology) -> str:
    """The rule set of a node, as `nft -f -` reads it: replaces the table `lab`, whatever was in it.

    The same Services and slices give the same text in whatever order they come.
    """
    slices_of: dict[tuple[str, str], list[EndpointSlice]] = {}
    for each in slices:
        service_name = (each.metadata.labels or {}).get(SERVICE_NAME_LABEL, "")
        if each.address_type == "IPv4" and service_name:
            slices_of.setdefault((each.metadata.namespace, service_name), []).append(each)
    rules = _Rules()
    api = Backend(topology.control_plane.ip, API_PORT, "tcp")
    rules.destinations[f"{KUBERNETES_SERVICE} . tcp . 443"] = _backend_chain(rules, api)
    for service in sorted(services, key=lambda service: service.key):
        owned = slices_of.get((service.metadata.namespace, service.metadata.name), [])
        for port in service.spec.ports or ():
            if (
                port.protocol in _PROTOCOLS
                and service.spec.cluster_ip not in {"", "None"}
                and service.spec.type != "ExternalName"
            ):
                _add_port(rules, service, port, owned, node)
    return _text(rules)


def _add_port(rules: _Rules, service: Service, port: ServicePort, slices: Sequence[EndpointSlice], node: Node) -> None:
    """Add one port of a Service: what its cluster IP, its load-balancer addresses and its node port lead to."""
    spec = service.spec
    protocol = _PROTOCOLS[port.protocol]
    everywhere = _backends(port, slices, node_name=None)
    here = _backends(port, slices, node_name=node.name)
    name = _chain_name(service, port)
    inside = here if spec.internal_traffic_policy == "Local" else everywhere

    cluster_ip = f"{spec.cluster_ip} . {protocol} . {port.port}"
    if inside:
        from_outside_pods = f"ip saddr != {POD_NETWORK} {_mark()}"
        rules.chains[f"svc/{name}"] = [from_outside_pods, _choice(rules, inside)]
        rules.destinations[cluster_ip] = f"svc/{name}"
    else:
        rules.refused[cluster_ip] = "drop" if everywhere else "goto refuse"

    outside = {f"{address} . {protocol} . {port.port}" for address in _load_balancer_addresses(service)}
    node_port = f"{protocol} . {port.node_port}" if port.node_port else ""
    if not outside and not node_port:
        return
    if not everywhere:
        rules.refused.update(dict.fromkeys(outside, "goto refuse"))
        rules.refused_node_ports.update({node_port: "goto refuse"} if node_port else {})
        return
    if spec.external_traffic_policy == "Local":
        # What Pods and the node itself send is inside traffic, whatever the address: it may go to any endpoint.
        rules.chains[f"all/{name}"] = [_choice(rules, everywhere)]
        rules.chains[f"ext/{name}"] = [
            f"ip saddr {POD_NETWORK} goto all/{name}",
            f"fib saddr type local {_mark()} goto all/{name}",
            _choice(rules, here) if here else "drop",
        ]
    else:
        rules.chains[f"ext/{name}"] = [_mark(), _choice(rules, everywhere)]
    rules.destinations.update(dict.fromkeys(outside, f"ext/{name}"))
    if node_port:
        rules.node_ports[node_port] = f"ext/{name}"


def _load_balancer_addresses(service: Service) -> list[str]:
    """The addresses that the node itself must translate: IPv4, and not with a proxy in front (ipMode Proxy)."""
    if service.spec.type != "LoadBalancer":
        return []
    ingress = service.status.load_balancer.ingress or ()
    return [each.ip for each in ingress if each.ip and ":" not in each.ip and each.ip_mode != "Proxy"]


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
                found = {Backend(IPv4Address(a), target.port, _PROTOCOLS[port.protocol]) for a in endpoint.addresses}
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


def _mark() -> str:
    return f"meta mark set meta mark or {MASQUERADE_MARK}"


def _backend_chain(rules: _Rules, backend: Backend) -> str:
    """The chain that sends a connection to a backend. One that talks to itself through a Service is masqueraded."""
    rules.chains[backend.chain] = [
        f"ip saddr {backend.address} {_mark()}",
        f"meta l4proto {backend.protocol} dnat to {backend.address}:{backend.port}",
    ]
    return backend.chain


def _choice(rules: _Rules, backends: Sequence[Backend]) -> str:
    """The rule that picks one of the backends at random."""
    chains = [_backend_chain(rules, backend) for backend in backends]
    if len(chains) == 1:
        return f"goto {chains[0]}"
    return f"numgen random mod {len(chains)} vmap {{ {', '.join(f'{i} : goto {chain}' for i, chain in enumerate(chains))} }}"


def _text(rules: _Rules) -> str:
    lines = ["add table ip lab", "delete table ip lab", "table ip lab {"]

    def chain(name: str, body: Iterable[str]) -> None:
        lines.extend((f"  chain {name} {{", *(f"    {rule}" for rule in body), "  }"))

    # A chain must be there before another one leads to it.
    for prefix in ("to/", "all/", "svc/", "ext/"):
        for name in sorted(rules.chains):
            if name.startswith(prefix):
                chain(name, rules.chains[name])
    chain(
        "services",
        _lookup({k: f"goto {v}" for k, v in rules.destinations.items()}, {k: f"goto {v}" for k, v in rules.node_ports.items()}),
    )
    chain("refuse", ["meta l4proto tcp reject with tcp reset", "reject"])
    chain("no_endpoint", _lookup(rules.refused, rules.refused_node_ports))
    for hook in ("prerouting", "output"):
        chain(f"refuse_{hook}", [f"type filter hook {hook} priority -110; policy accept;", "ct state new jump no_endpoint"])
        chain(f"translate_{hook}", [f"type nat hook {hook} priority -100; policy accept;", "jump services"])
    chain(
        "leave",
        [
            "type nat hook postrouting priority 100; policy accept;",
            f"meta mark and {MASQUERADE_MARK} == {MASQUERADE_MARK} masquerade fully-random",
            f"ip saddr {POD_NETWORK} ip daddr != {POD_NETWORK} masquerade fully-random",  # Only nodes know the way to Pods.
        ],
    )
    return "\n".join((*lines, "}", ""))


def _lookup(destinations: Mapping[str, str], node_ports: Mapping[str, str]) -> list[str]:
    """The rules that find the verdict for a packet's destination, or for its port when it is addressed to this node."""
    found = []
    if destinations:
        table = ", ".join(f"{key} : {verdict}" for key, verdict in sorted(destinations.items()))
        found.append(f"ip daddr . meta l4proto . th dport vmap {{ {table} }}")
    if node_ports:
        table = ", ".join(f"{key} : {verdict}" for key, verdict in sorted(node_ports.items()))
        found.append(f"ip daddr != 127.0.0.0/8 fib daddr type local meta l4proto . th dport vmap {{ {table} }}")
    return found


async def apply(namespace: str, rules: str) -> None:
    """Replace a node's rules.

    Raises:
        DataplaneError: nft refused them; the old rules are still in force.

    """
    process = await asyncio.create_subprocess_exec(
        *netns.enter(namespace, ["nft", "-f", "-"]),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, complaint = await process.communicate(rules.encode())
    if process.returncode:
        raise DataplaneError(complaint.decode(errors="replace").strip())


class Proxies:
    """The Service rules of all nodes, rewritten only where their text changed."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._in_force: dict[str, str] = {}

    def forget(self, node: str) -> None:
        """The rules of a node are to be written again, whatever they are."""
        self._in_force.pop(node, None)

    async def write(self, services: Iterable[Service], slices: Iterable[EndpointSlice], nodes: Iterable[str]) -> None:
        """Bring the rules of these nodes up to date. Errors as in apply(); the other nodes are written all the same."""
        services, slices = list(services), list(slices)
        changed = {}
        for name in nodes:
            rules = render(services, slices, node=self._topology.node(name), topology=self._topology)
            if self._in_force.get(name) != rules:
                changed[name] = rules
        results = await asyncio.gather(
            *(apply(self._topology.netns(name), rules) for name, rules in changed.items()), return_exceptions=True
        )
        self._in_force |= {
            name: rules for (name, rules), failed in zip(changed.items(), results, strict=True) if failed is None
        }
        for failed in results:
            if failed is not None:
                raise failed
