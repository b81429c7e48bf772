"""Build the lab's machines as network namespaces: a switch, cables, addresses, routes, Pods; and take them all away.

Called by lab.supervisor and, for clearing leftovers, by lab.__main__. It decides nothing: names and addresses come from
lab.topology. It never touches the host's own links, addresses, routes or settings: everything happens inside namespaces
whose names start with the lab's identity, so tear-down is by that prefix and may be repeated.

A Pod has a namespace of its own and a /32 and a /128 address with its node as gateway, so that everything it sends passes through
the node's routing and the Service rules there; two Pods of a node never talk past them across the bridge.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_interface
from typing import Any, Final

from pyroute2.netlink.exceptions import NetlinkError

from lab import namespaces
from lab.faults import FAR, LATE
from lab.namespaces import RUN_DIR
from lab.topology import SERVICE_NETWORK, SERVICE_NETWORK6, SWITCH, Machine, Node, Topology, mac_of

NODE_LINK: Final = "eth0"
POD_BRIDGE: Final = "cni0"
SWITCH_BRIDGE: Final = "br0"
DETOUR: Final = "via-"
"""The bridge between a machine with a delayed cable and the program that delays."""

_COMMON_SETTINGS: Final[Mapping[str, str]] = {
    # An address moves between nodes and paths are not symmetric: no reverse path check, no redirects past the switch.
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv4/conf/all/send_redirects": "0",
    "net/ipv4/conf/default/send_redirects": "0",
    "net/ipv4/conf/all/accept_redirects": "0",
    "net/ipv4/conf/default/accept_redirects": "0",
    "net/ipv6/conf/all/accept_redirects": "0",
    "net/ipv6/conf/default/accept_redirects": "0",
    # Addresses are given by us alone, and are good at once.
    "net/ipv6/conf/all/disable_ipv6": "0",
    "net/ipv6/conf/default/disable_ipv6": "0",
    "net/ipv6/conf/default/accept_ra": "0",
    "net/ipv6/conf/all/accept_dad": "0",
    "net/ipv6/conf/default/accept_dad": "0",
}
_ROUTER_SETTINGS: Final[Mapping[str, str]] = {
    **_COMMON_SETTINGS,
    "net/ipv4/ip_forward": "1",
    "net/ipv6/conf/all/forwarding": "1",
    "net/ipv6/conf/default/forwarding": "1",
}
_SWITCH_SETTINGS: Final[Mapping[str, str]] = {
    # A switch says nothing of its own.
    "net/ipv6/conf/all/disable_ipv6": "1",
    "net/ipv6/conf/default/disable_ipv6": "1",
}
_NODAD: Final = 0x02
"""IFA_F_NODAD: no duplicate address detection, which would keep the address back for a second."""


def enter(namespace: str, command: Sequence[str]) -> list[str]:
    """The command line that runs a command inside a namespace."""
    return ["nsenter", f"--net={RUN_DIR / namespace}", "--", *command]


def existing(identity: str) -> list[str]:
    """The namespaces of a lab that are there now, in order of name."""
    return sorted(path.name for path in RUN_DIR.glob(f"{identity}-*"))


async def build(topology: Topology) -> None:
    """Create every machine of the lab and connect it to the switch.

    Raises:
        OSError, NetlinkError: the kernel refused; what was made so far is left for tear_down().

    """
    for name in (SWITCH, *(machine.name for machine in topology.machines)):
        namespaces.create(topology.netns(name))
    async with asyncio.TaskGroup() as group:  # Before the first link: a link takes its defaults when it is made.
        group.create_task(settle(topology.netns(SWITCH), _SWITCH_SETTINGS), name="settle switch")
        for machine in topology.machines:
            settings = _ROUTER_SETTINGS if isinstance(machine, Node) else _COMMON_SETTINGS
            group.create_task(settle(topology.netns(machine.name), settings), name=f"settle {machine.name}")
    async with namespaces.netlink(topology.netns(SWITCH)) as switch:
        await _link_up(switch, "lo")
        await switch.link("add", ifname=SWITCH_BRIDGE, kind="bridge", br_mcast_snooping=0)
        bridge = await _link_up(switch, SWITCH_BRIDGE)
        for machine in topology.machines:
            await _add_cable(switch, machine.name, topology.netns(machine.name), address=machine.mac)
            port = await _index(switch, machine.name)
            await switch.link("set", index=port, master=bridge)
            await switch.link("set", index=port, state="up")
    async with asyncio.TaskGroup() as group:
        for machine in topology.machines:
            group.create_task(_connect(topology, machine), name=f"connect {machine.name}")


async def _connect(topology: Topology, machine: Machine) -> None:
    """Give one machine its addresses and routes; a node its Pod bridge as well."""
    async with namespaces.netlink(topology.netns(machine.name)) as route:
        await _link_up(route, "lo")
        link = await _index(route, NODE_LINK)
        await _add_address(route, link, machine.address)
        await _add_address(route, link, machine.address6)
        await route.link("set", index=link, state="up")
        if machine is topology.client:
            return
        for node in topology.nodes:
            if node is not machine:
                await route.route("add", dst=str(node.pod_network), gateway=str(node.ip))
                await route.route("add", dst=str(node.pod_network6), gateway=str(node.ip6))
        if isinstance(machine, Node):
            # The Service rules rewrite the destination, but the kernel looks for a route before they see a local packet.
            await route.route("add", dst=str(SERVICE_NETWORK), oif=link, scope="link")
            await route.route("add", dst=str(SERVICE_NETWORK6), oif=link)
            # A MAC address of its own: a bridge without one takes the lowest of its ports, so with every Pod that came or went
            # the others would send to an address that is no longer there until their neighbour entries had timed out.
            await route.link("add", ifname=POD_BRIDGE, kind="bridge", address=f"0a{machine.mac[2:]}")
            bridge = await _index(route, POD_BRIDGE)
            await _add_address(route, bridge, IPv4Interface((machine.pod_gateway, machine.pod_network.prefixlen)))
            await _add_address(route, bridge, IPv6Interface((machine.pod_gateway6, machine.pod_network6.prefixlen)))
            await route.link("set", index=bridge, state="up")


async def attach_pod(topology: Topology, node: Node, *, pod: str, addresses: tuple[IPv4Address, IPv6Address]) -> str:
    """Create a Pod's namespace on its node's bridge; returns the namespace. `pod` is unique and at most 11 characters.

    The MAC address follows from the IPv4 address, as CNI's bridge has it: the node goes on to believe its neighbour entry when
    another Pod gets the address of one that left.
    """
    namespace = topology.netns(f"pod-{pod}")
    namespaces.create(namespace)
    async with namespaces.netlink(topology.netns(node.name)) as route:
        await _add_cable(route, f"veth{pod}", namespace, address=mac_of(addresses[0]))
        link = await _index(route, f"veth{pod}")
        await route.link("set", index=link, master=await _index(route, POD_BRIDGE))
        # Where bridges show frames to the packet filter (br_netfilter), a Pod that calls its own Service turns around here.
        await route.brport("set", index=link, mode=1)
        await route.link("set", index=link, state="up")
    async with namespaces.netlink(namespace) as route:
        await _link_up(route, "lo")
        link = await _link_up(route, NODE_LINK)
        for address, gateway in zip(addresses, (node.pod_gateway, node.pod_gateway6), strict=True):
            four = isinstance(address, IPv4Address)
            await _add_address(route, link, ip_interface(str(address)))  # Alone in its network: /32 or /128.
            await route.route("add", dst=f"{gateway}/{32 if four else 128}", oif=link, scope="link" if four else "global")
            await route.route("add", dst="0.0.0.0/0" if four else "::/0", gateway=str(gateway))
    return namespace


async def detach_pod(topology: Topology, node: Node, *, pod: str) -> None:
    """Take a Pod's namespace away.

    Its cable goes at once: the kernel frees namespaces when it has time, and until then this one would answer for an address that
    the next Pod has by now.
    """
    with contextlib.suppress(NetlinkError):  # It is not there.
        async with namespaces.netlink(topology.netns(node.name)) as route:
            await route.link("del", index=await _index(route, f"veth{pod}"))
    namespaces.remove(topology.netns(f"pod-{pod}"))


async def unplug(topology: Topology, name: str) -> None:
    """Pull a machine's cable: its port on the switch goes down, so frames vanish both ways."""
    await _set_port(topology, name, "down")


async def plug(topology: Topology, name: str) -> None:
    """Put a machine's cable back."""
    await _set_port(topology, name, "up")


async def detour(topology: Topology, name: str) -> None:
    """Lay a machine's cable through the taps of lab.delay, which must be there: machine, bridge, tap; tap, switch."""
    async with namespaces.netlink(topology.netns(SWITCH)) as switch:
        await switch.link("add", ifname=f"{DETOUR}{name}", kind="bridge")
        side = await _link_up(switch, f"{DETOUR}{name}")
        far, late = await _link_up(switch, f"{FAR}{name}"), await _link_up(switch, f"{LATE}{name}")
        await switch.link("set", index=far, master=side)
        await switch.link("set", index=late, master=await _index(switch, SWITCH_BRIDGE))
        await switch.link("set", index=await _index(switch, name), master=side)


async def straighten(topology: Topology, name: str) -> None:
    """Put a machine's cable directly on the switch again; the taps are their program's to remove."""
    async with namespaces.netlink(topology.netns(SWITCH)) as switch:
        await switch.link("set", index=await _index(switch, name), master=await _index(switch, SWITCH_BRIDGE))
        for side in await switch.link_lookup(ifname=f"{DETOUR}{name}"):
            await switch.link("del", index=side)


async def _set_port(topology: Topology, name: str, state: str) -> None:
    async with namespaces.netlink(topology.netns(SWITCH)) as switch:
        await switch.link("set", index=await _index(switch, topology.machine(name).name), state=state)


def remove(names: Iterable[str]) -> None:
    """Remove namespaces; those that are not there are not missed. The kernel frees them when their processes are gone."""
    for name in names:
        namespaces.remove(name)


def tear_down(identity: str) -> None:
    """Remove everything that build() and attach_pod() ever made for a lab, complete or not.

    The mount at /run/netns, which the first namespace of a host needs, goes too when nobody uses it any more.
    """
    remove(existing(identity))
    namespaces.remove_directory()


async def settle(namespace: str, settings: Mapping[str, str]) -> None:
    """Write kernel settings inside a namespace; /proc/sys/net shows those of the process that looks."""
    script = "\n".join(f"echo {value} > /proc/sys/{name}" for name, value in settings.items())
    process = await asyncio.create_subprocess_exec(
        *enter(namespace, ["sh", "-ec", script]), stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    _, complaint = await process.communicate()
    if process.returncode:
        raise OSError(f"kernel settings of {namespace}: {complaint.decode(errors='replace').strip()}")


async def _index(route: Any, name: str) -> int:
    found: list[int] = await route.link_lookup(ifname=name)
    if not found:
        raise NetlinkError(19, f"no link {name}")
    return found[0]


async def _add_cable(route: Any, name: str, namespace: str, **peer: str) -> None:
    """A pair of links: one here, the other one, eth0, in another namespace."""
    with namespaces.opened(namespace) as there:
        await route.link("add", ifname=name, kind="veth", peer={"ifname": NODE_LINK, "net_ns_fd": there, **peer})


async def _link_up(route: Any, name: str) -> int:
    index = await _index(route, name)
    await route.link("set", index=index, state="up")
    return index


async def _add_address(route: Any, link: int, address: IPv4Interface | IPv6Interface) -> None:
    flags = {"flags": _NODAD} if address.version == 6 else {}
    await route.addr("add", index=link, address=str(address.ip), prefixlen=address.network.prefixlen, **flags)


__all__ = [
    "attach_pod",
    "build",
    "detour",
    "enter",
    "existing",
    "plug",
    "remove",
    "settle",
    "straighten",
    "tear_down",
    "unplug",
]
