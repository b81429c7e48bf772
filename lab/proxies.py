"""Carry out on every node what lab.dataplane decides: packet filter rules, health check node ports, addresses of IPVS mode.

Owned by lab.supervisor, which calls `write` when a Service or EndpointSlice changed. Rules are changed, not replaced: see
lab.ruleset. It refuses to decide anything.

Modes: `nftables` is the usual one. `ipvs` shows what kube-proxy's IPVS mode does to a load balancer on layer 2: the addresses
of all Services are on an interface of every node (here `lo`, as not every kernel has dummy devices), and a kernel answers
ARP for every address it has, on every interface, so that all nodes fight over every load-balancer address. `ipvs-strict-arp`
is the same with the remedy, kube-proxy's `strictARP: true`: the kernel answers only for addresses of the interface that is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from ipaddress import IPv4Address, IPv6Address

import msgspec
from aiohttp import web

from kube.objects import EndpointSlice
from lab import dataplane, namespaces, netns
from lab.dataplane import FAMILIES, Health
from lab.kinds import ProxiedService
from lab.ruleset import Ruleset, changes
from lab.topology import IPVS_STRICT_ARP, NFTABLES, Topology

FORGET_S = "5"
"""How long a node's kernel remembers where it sent a first packet that nobody answered; usually 120 s. A lab's client asks so often
that it uses each of its ports again after 20 s, and would be sent to an endpoint that is long gone."""


class DataplaneError(RuntimeError):
    """nft refused a rule set; the message is its own."""


async def apply(namespace: str, commands: str) -> None:
    """Give a node's packet filter commands, all or none of which take effect.

    Raises:
        DataplaneError: nft refused them; the old rules are still in force.

    """
    process = await asyncio.create_subprocess_exec(
        *netns.enter(namespace, ["nft", "-f", "-"]),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, complaint = await process.communicate(commands.encode())
    if process.returncode:
        raise DataplaneError(complaint.decode(errors="replace").strip())


class HealthPorts:
    """The health check node ports of one node: an HTTP server on each, as kube-proxy has."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._answers: Mapping[int, Health] = {}
        self._runners: dict[int, web.ServerRunner] = {}

    async def serve(self, answers: Mapping[int, Health]) -> None:
        """Answer so from now on; ports that are not mentioned are closed."""
        self._answers = answers
        for port in set(self._runners) - set(answers):
            await self._runners.pop(port).cleanup()
        for port in set(answers) - set(self._runners):
            runner = web.ServerRunner(web.Server(self._answering(port)))
            await runner.setup()
            await web.SockSite(runner, namespaces.tcp_listener(self._namespace, port)).start()
            self._runners[port] = runner

    def _answering(self, port: int) -> web.Handler:  # type: ignore[name-defined]
        async def answer(_: web.BaseRequest) -> web.StreamResponse:
            health = self._answers[port]
            headers = {"X-Content-Type-Options": "nosniff", "X-Load-Balancing-Endpoint-Weight": str(health.local_endpoints)}
            return web.Response(
                status=200 if health.local_endpoints else 503,
                body=msgspec.json.format(msgspec.json.encode(health), indent=4),
                content_type="application/json",
                headers=headers,
            )

        return answer


class Proxies:
    """kube-proxy on all nodes."""

    def __init__(self, topology: Topology, mode: str = NFTABLES) -> None:
        self._topology = topology
        self._mode = mode
        self._in_force: dict[str, tuple[Ruleset, ...]] = {}
        self._health = {node.name: HealthPorts(topology.netns(node.name)) for node in topology.nodes}
        self._local: dict[str, set[IPv4Address | IPv6Address]] = {}

    async def forget(self, node: str) -> None:
        """A node lost its power: nothing listens there any more, and its rules are to be written again, whatever they are."""
        self._in_force.pop(node, None)
        await self._health[node].serve({})

    async def close(self) -> None:
        """Close what listens."""
        for ports in self._health.values():
            await ports.serve({})

    async def write(self, services: Iterable[ProxiedService], slices: Iterable[EndpointSlice], nodes: Iterable[str]) -> None:
        """Bring these nodes up to date. What fails on one does not keep the others from it.

        Raises:
            DataplaneError, OSError, NetlinkError: the first thing that failed.

        """
        services, slices = list(services), list(slices)
        grouped = {family: dataplane.by_service(slices, family) for family in FAMILIES}
        local = dataplane.local_addresses(services) if self._mode != NFTABLES else set()

        async def write_one(name: str) -> None:
            node = self._topology.node(name)
            wanted = tuple(
                dataplane.render(services, grouped[family], node=node, topology=self._topology, family=family)
                for family in FAMILIES
            )
            before = self._in_force.pop(name, None)  # After a failure nobody knows what is in force.
            commands = "".join(map(changes, before or (None,) * len(FAMILIES), wanted))
            if commands:
                await apply(self._topology.netns(name), commands)
            if before is None:
                await netns.settle(self._topology.netns(name), {"net/netfilter/nf_conntrack_tcp_timeout_syn_sent": FORGET_S})
            self._in_force[name] = wanted
            await self._health[name].serve(dataplane.health(services, slices, node=node))
            await self._hold(name, local)

        results = await asyncio.gather(*map(write_one, nodes), return_exceptions=True)
        for failed in results:
            if failed is not None:
                raise failed

    async def _hold(self, node: str, wanted: AbstractSet[IPv4Address | IPv6Address]) -> None:
        """Let a node's own kernel have these addresses of Services, and no others."""
        if self._mode == NFTABLES:
            return
        namespace = self._topology.netns(node)
        if node not in self._local and self._mode == IPVS_STRICT_ARP:
            await netns.settle(namespace, {"net/ipv4/conf/all/arp_ignore": "1", "net/ipv4/conf/all/arp_announce": "2"})
        held = self._local.setdefault(node, set())
        async with namespaces.netlink(namespace) as route:
            (lo,) = await route.link_lookup(ifname="lo")
            for address in sorted(held ^ wanted, key=str):
                verb = "add" if address in wanted else "del"
                await route.addr(verb, index=lo, address=str(address), prefixlen=address.max_prefixlen)
                held ^= {address}
