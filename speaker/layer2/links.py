"""Watch this node's network interfaces over netlink and keep them as frozen Links.

The reconcile loop reads `LinkWatch.links`; `dirty` is set when they changed. pyroute2 does the talking, asynchronously. Whether
a link may announce is for interfaces.py to say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from pyroute2.iproute.linux import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import RTMGRP_LINK

from config.model import InterfaceName
from speaker.world import Link
from telemetry.log import Logger

# Interface flags of linux/if.h.
IFF_UP = 0x1
IFF_BROADCAST = 0x2
IFF_NOARP = 0x80
IFF_LOWER_UP = 0x10000

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
    match message.get("event"):
        case "RTM_NEWLINK":
            link = read_link(message)
            # Bridges repeat their ports under AF_BRIDGE, without most members; such messages say nothing about the link.
            if message.get("family") or not link.name or links.get(link.index) == link:
                return links
            return {**links, link.index: link}
        case "RTM_DELLINK" if index in links and not message.get("family"):
            return {other: link for other, link in links.items() if other != index}
        case _:
            return links


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
        self.synced = False

    @property
    def links(self) -> tuple[Link, ...]:
        """All links, in index order."""
        return tuple(self._by_index[index] for index in sorted(self._by_index))

    async def run(self) -> None:
        """Watch forever; after an error (lost messages, for instance) read everything again."""
        while True:
            try:
                async with self._open_netlink() as netlink:
                    await self._watch(netlink)
            except (OSError, NetlinkError) as error:
                self._log.warning("netlink_failed", error=str(error), retry_s=self._retry_s)
            await asyncio.sleep(self._retry_s)

    async def _watch(self, netlink: Any) -> None:
        await netlink.bind(groups=RTMGRP_LINK)
        found: Mapping[int, Link] = {}
        async for message in await netlink.link("dump"):
            found = learn(found, message)
        self._replace(found)
        while True:
            async for message in netlink.get():
                self._replace(learn(self._by_index, message))

    def _replace(self, links: Mapping[int, Link]) -> None:
        if self.synced and links == self._by_index:
            return
        self._by_index = links
        self.synced = True
        self._dirty.set()
