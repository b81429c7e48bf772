"""Describe a lab: which machines there are, their addresses, and how they are named on this host.

Frozen values only: lab.netns builds what is written here, everything else looks addresses up here. Nothing in this module
touches the host. All machines hang on one switch, as in a small server room: a control plane (`cp`), nodes `n1` to `nN`,
and `client`, a machine outside the cluster.

Addresses: the control plane is the network's .2, the client .3, nodes start at .11. In a /24 that leaves .20 and above to
address pools, which is where the tutorial's pool lies; so a /24 holds nine nodes. A bigger network keeps its first 256
addresses free of nodes: node i is at offset 256 + 10 + i.

Every machine has an IPv6 address beside it, with the same digits at the end: 192.168.20.11 is also 2001:db8:20::11. The lab is
a dual-stack cluster whose first family is IPv4.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from pathlib import Path
from typing import Final

CONTROL_PLANE: Final = "cp"
CLIENT: Final = "client"
SWITCH: Final = "sw"

DEFAULT_NETWORK: Final = IPv4Network("192.168.20.0/24")
"""The network of the tutorial, whose pool is 192.168.20.20-192.168.20.255."""

DEFAULT_BIG_NETWORK: Final = IPv4Network("192.168.20.0/22")
"""Taken when more nodes are asked for than DEFAULT_NETWORK holds."""

POD_NETWORK: Final = IPv4Network("198.18.0.0/15")
"""All Pods. Reserved for benchmarks (RFC 2544), so it collides with no real network."""

SERVICE_NETWORK: Final = IPv4Network("10.96.0.0/16")
"""Cluster IPs; the first address is the API server's."""

NETWORK6: Final = IPv6Network("2001:db8:20::/64")
"""The switch's IPv6 network, from the documentation range; address pools start at ::1000."""

POD_NETWORK6: Final = IPv6Network("2001:db8:198::/48")
"""All Pods, by IPv6: a /64 for every node."""

SERVICE_NETWORK6: Final = IPv6Network("fd00:10:96::/112")
"""IPv6 cluster IPs."""

KUBERNETES_SERVICE: Final = IPv4Address("10.96.0.1")
API_PORT: Final = 6443
MAX_NODES: Final = 200
FIRST_POOL_OFFSET: Final = 20
"""In a /24, addresses from here on belong to address pools."""


NFTABLES: Final = "nftables"
IPVS: Final = "ipvs"
IPVS_STRICT_ARP: Final = "ipvs-strict-arp"
PROXY_MODES: Final = (NFTABLES, IPVS, IPVS_STRICT_ARP)
"""How the nodes' proxies work; lab.proxies says what each means."""


class TopologyError(ValueError):
    """The lab that was asked for cannot be built; the message says what to ask for instead."""


def mac_of(ip: IPv4Address) -> str:
    """The MAC address of whoever has an address: locally administered, then the IPv4 address, so that captures read easily."""
    return ":".join(f"{octet:02x}" for octet in (0x02, 0x00, *ip.packed))


@dataclass(frozen=True, slots=True)
class Machine:
    """Something with a cable to the switch. `name` is what the user types; the addresses are those of its eth0."""

    name: str
    address: IPv4Interface
    address6: IPv6Interface

    @property
    def ip(self) -> IPv4Address:
        """The address without its prefix length."""
        return self.address.ip

    @property
    def ip6(self) -> IPv6Address:
        """The IPv6 address without its prefix length."""
        return self.address6.ip

    @property
    def mac(self) -> str:
        """The MAC address of eth0."""
        return mac_of(self.ip)


@dataclass(frozen=True, slots=True)
class Node(Machine):
    """A machine that runs Pods, which get their addresses from the Pod networks; the first address of each is the node's bridge."""

    pod_network: IPv4Network
    pod_network6: IPv6Network

    @property
    def pod_gateway(self) -> IPv4Address:
        """The address of the node's own bridge, where its Pods send everything."""
        return self.pod_network[1]

    @property
    def pod_gateway6(self) -> IPv6Address:
        """The same by IPv6."""
        return self.pod_network6[1]

    def pod_addresses(self) -> Iterator[tuple[IPv4Address, IPv6Address]]:
        """The addresses a Pod of this node may have, one of each family, lowest first."""
        offsets = range(2, self.pod_network.num_addresses - 1)
        return ((self.pod_network[offset], self.pod_network6[offset]) for offset in offsets)


@dataclass(frozen=True, slots=True)
class Topology:
    """One lab. `lab_id` starts the name of every namespace, so that two clones on one host do not collide."""

    lab_id: str
    network: IPv4Network
    control_plane: Machine
    client: Machine
    nodes: tuple[Node, ...]

    @property
    def machines(self) -> tuple[Machine, ...]:
        """All machines on the switch, the control plane first."""
        return (self.control_plane, self.client, *self.nodes)

    def netns(self, name: str) -> str:
        """The network namespace of a machine, of the switch (`sw`), or of a Pod (`pod-…`)."""
        return f"{self.lab_id}-{name}"

    def node(self, name: str) -> Node:
        """The node of that name.

        Raises:
            TopologyError: there is none; the message lists those there are.

        """
        for node in self.nodes:
            if node.name == name:
                return node
        raise TopologyError(f"there is no node {name!r} in this lab; its nodes are {', '.join(n.name for n in self.nodes)}")

    def machine(self, name: str) -> Machine:
        """The machine of that name; errors as in node()."""
        for machine in self.machines:
            if machine.name == name:
                return machine
        names = ", ".join(m.name for m in self.machines)
        raise TopologyError(f"there is no machine {name!r} in this lab; its machines are {names}")


def lab_id(state_dir: Path) -> str:
    """The identity of the lab whose state is in a directory: short, the same every time, different for every directory."""
    return "lab" + hashlib.sha256(str(state_dir.resolve()).encode()).hexdigest()[:6]


def plan(identity: str, *, nodes: int = 3, network: IPv4Network | None = None) -> Topology:
    """The lab with so many nodes.

    Args:
        identity: what lab_id() said.
        nodes: 1 to 200.
        network: the network of the switch; by default 192.168.20.0/24, or a /22 when that is too small.

    Raises:
        TopologyError: too many nodes, or a network that cannot hold them or that overlaps with the Pods' or Services'.

    """
    if not 1 <= nodes <= MAX_NODES:
        raise TopologyError(f"a lab has 1 to {MAX_NODES} nodes, not {nodes}")
    if network is None:
        network = DEFAULT_NETWORK if nodes < FIRST_POOL_OFFSET - 10 else DEFAULT_BIG_NETWORK
    for taken, owner in ((POD_NETWORK, "Pods"), (SERVICE_NETWORK, "Services")):
        if network.overlaps(taken):
            raise TopologyError(f"{network} overlaps with {taken}, which the lab uses for {owner}; choose another --net")
    first = 11 if network.num_addresses <= 256 else 256 + 11
    room = (FIRST_POOL_OFFSET if network.num_addresses <= 256 else network.num_addresses - 1) - first
    if network.num_addresses < 32 or nodes > room:
        raise TopologyError(
            f"{network} has no room for {nodes} nodes: a /24 holds 9, a /22 holds {MAX_NODES}; choose another --net"
        )

    def interfaces(offset: int) -> tuple[IPv4Interface, IPv6Interface]:
        same_digits = int(str(offset), 16)
        return IPv4Interface((network[offset], network.prefixlen)), IPv6Interface((NETWORK6[same_digits], NETWORK6.prefixlen))

    pod_networks = zip(POD_NETWORK.subnets(new_prefix=24), POD_NETWORK6.subnets(new_prefix=64), strict=False)
    next(pod_networks)
    return Topology(
        lab_id=identity,
        network=network,
        control_plane=Machine(CONTROL_PLANE, *interfaces(2)),
        client=Machine(CLIENT, *interfaces(3)),
        nodes=tuple(
            Node(f"n{index + 1}", *interfaces(first + index), *networks)
            for index, networks in zip(range(nodes), pod_networks, strict=False)
        ),
    )
