"""Watch this node's network interfaces and their addresses over netlink; keep them as frozen Links, and the addresses beside.

The reconcile loop reads `LinkWatch.links`, BGP `LinkWatch.addresses`; `dirty` is set when they changed. pyroute2 does the
talking, asynchronously. Whether a link may announce is for interfaces.py to say.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Mapping
from dataclasses import replace
from ipaddress import IPv6Address, ip_address, ip_interface
from socket import AF_INET, AF_INET6
from typing import Any

from pyroute2.iproute.linux import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR, RTMGRP_LINK

from config.model import InterfaceAddress, InterfaceName
from speaker.world import Link
from telemetry.log import Logger

# Interface flags of linux/if.h.
IFF_UP = 0x1
IFF_BROADCAST = 0x2
IFF_NOARP = 0x80
IFF_LOWER_UP = 0x10000
# Address flags of linux/if_addr.h.
IFA_F_DADFAILED = 0x08
IFA_F_TENTATIVE = 0x40

FAILURES = (OSError, NetlinkError, struct.error, ValueError, ArithmeticError, LookupError)
"""What reading netlink may end with: lost messages, an error of the kernel, a message that pyroute2 cannot take apart."""
RETRY_S = 1.0
"""Pause before netlink is opened again after it failed."""


def read_link(message: Mapping[str, Any]) -> Link:
    """The link that an RTM_NEWLINK message describes (rtnetlink(7)). A message without a name has an empty one."""
    flags = message["flags"]
    address = message.get("address") or ""
    return Link(
        index=message["index"],
        name=InterfaceName(message.get("ifname") or ""),
        mac=bytes.fromhex(address.replace(":", "")),
        up=bool(flags & IFF_UP),
        carrier=bool(flags & IFF_LOWER_UP),
        broadcast=bool(flags & IFF_BROADCAST),
        noarp=bool(flags & IFF_NOARP),
        master=bool(message.get("master")),
    )


def learn(links: Mapping[int, Link], message: Mapping[str, Any]) -> Mapping[int, Link]:
    """The links by index after one netlink message; the same mapping if it changes nothing."""
    index = message.get("index")
    known = links.get(index) if isinstance(index, int) else None
    match message.get("event"):
        case "RTM_NEWLINK":
            # Bridges repeat their ports under AF_BRIDGE, without most members; such messages say nothing about the link.
            if message.get("family") or not message.get("ifname"):
                return links
            link = replace(read_link(message), link_locals=() if known is None else known.link_locals)
        case "RTM_DELLINK" if known is not None and not message.get("family"):
            return {other: link for other, link in links.items() if other != index}
        case "RTM_NEWADDR" | "RTM_DELADDR" if known is not None and (address := _link_local(message)) is not None:
            usable = message["event"] == "RTM_NEWADDR" and not message["flags"] & (IFA_F_TENTATIVE | IFA_F_DADFAILED)
            link = replace(
                known, link_locals=tuple(sorted({*known.link_locals} - {address} | ({address} if usable else set())))
            )
        case _:
            return links
    return links if link == known else {**links, link.index: link}


def learn_address(
    known: Mapping[int, tuple[InterfaceAddress, ...]], message: Mapping[str, Any]
) -> Mapping[int, tuple[InterfaceAddress, ...]]:
    """The usable addresses by index of their link, in the kernel's order, after one message; the same mapping if it changes nothing."""
    event, index = message.get("event"), message.get("index")
    if event == "RTM_DELLINK" and not message.get("family") and index in known:
        return {other: addresses for other, addresses in known.items() if other != index}
    if event not in {"RTM_NEWADDR", "RTM_DELADDR"} or not isinstance(index, int):
        return known
    try:  # Of a link between two points, `address` is the other end.
        found = ip_interface(f"{message.get('local') or message.get('address')}/{message['prefixlen']}")
    except (ValueError, LookupError):
        return known
    usable = event == "RTM_NEWADDR" and not message.get("flags", 0) & (IFA_F_TENTATIVE | IFA_F_DADFAILED)
    before = known.get(index, ())
    if usable == (found in before):
        return known
    after = (*before, found) if usable else tuple(one for one in before if one != found)
    return {**known, index: after}


def _link_local(message: Mapping[str, Any]) -> bytes | None:
    """The IPv6 link-local address that a message is about, packed."""
    try:
        address = ip_address(message.get("address") or "")
    except ValueError:
        return None
    return address.packed if isinstance(address, IPv6Address) and address.is_link_local else None


class LinkWatch:
    """The links of this network namespace, kept up to date by run(). The last two parameters are for tests."""

    def __init__(
        self,
        dirty: asyncio.Event,
        log: Logger,
        *,
        open_netlink: Callable[[], Any] = AsyncIPRoute,
        retry_s: float = RETRY_S,
    ) -> None:
        self._open_netlink = open_netlink
        self._retry_s = retry_s
        self._dirty = dirty
        self._log = log
        self._by_index: Mapping[int, Link] = {}
        self._addresses: Mapping[int, tuple[InterfaceAddress, ...]] = {}
        self.synced = False

    @property
    def links(self) -> tuple[Link, ...]:
        """All links, in index order."""
        return tuple(self._by_index[index] for index in sorted(self._by_index))

    @property
    def addresses(self) -> Mapping[InterfaceName, tuple[InterfaceAddress, ...]]:
        """The addresses of every link by its name, also of links that have none."""
        return {link.name: self._addresses.get(index, ()) for index, link in self._by_index.items()}

    async def run(self) -> None:
        """Watch forever; after an error (lost messages, for instance) read everything again."""
        while True:
            try:
                async with self._open_netlink() as netlink:
                    await self._watch(netlink)
            except FAILURES as error:
                self._log.warning("netlink_failed", error=str(error), retry_s=self._retry_s)
            await asyncio.sleep(self._retry_s)

    async def _watch(self, netlink: Any) -> None:
        await netlink.bind(groups=RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR)
        found: Mapping[int, Link] = {}
        async for message in await netlink.link("dump"):
            found = learn(found, message)
        addresses: Mapping[int, tuple[InterfaceAddress, ...]] = {}
        for family in (AF_INET, AF_INET6):
            async for message in await netlink.addr("dump", family=family):
                found, addresses = learn(found, message), learn_address(addresses, message)
        self._replace(found, addresses)
        while True:
            async for message in netlink.get():
                self._replace(learn(self._by_index, message), learn_address(self._addresses, message))

    def _replace(self, links: Mapping[int, Link], addresses: Mapping[int, tuple[InterfaceAddress, ...]]) -> None:
        if self.synced and (links, addresses) == (self._by_index, self._addresses):
            return
        self._by_index, self._addresses = links, addresses
        self.synced = True
        self._dirty.set()
