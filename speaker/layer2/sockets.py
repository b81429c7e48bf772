"""Packet sockets: one per interface and protocol, with the kernel's filter set to what this node owns there.

engine.py opens, feeds and closes them. Needs CAP_NET_RAW. Nothing here looks into a frame.
"""

from __future__ import annotations

import array
import errno
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import StrEnum
from itertools import chain
from typing import Final

from config.model import InterfaceName
from speaker.layer2.arp import ETHERTYPE_ARP
from speaker.layer2.bpf import Instruction, any_arp, any_ndp, arp_filter, ndp_filter
from speaker.layer2.ndp import ETHERTYPE_IPV6, solicited_node

FRAMES_PER_WAKE = 64
"""Frames read before the loop gets its turn again: gossip must not wait behind a flood."""
_LONGEST_FRAME = 2048
_SO_ATTACH_FILTER = 26  # asm-generic/socket.h; the socket module does not name it.


class Protocol(StrEnum):
    """What resolves the addresses of a family."""

    ARP = "ARP"
    NDP = "NDP"


_FILTERS: Final[dict[Protocol, Callable[[Iterable[bytes]], tuple[Instruction, ...]]]] = {
    Protocol.ARP: arp_filter,
    Protocol.NDP: ndp_filter,
}
_ETHERTYPES: Final = {Protocol.ARP: ETHERTYPE_ARP, Protocol.NDP: ETHERTYPE_IPV6}


class PacketSocket:
    """Sends and receives the frames of a protocol on one interface. Drops everything until targets are set.

    For NDP it also joins the solicited-node group of every target, so that the interface and switches that listen to who
    wants which group let the questions through.

    Raises:
        OSError: no such interface, or CAP_NET_RAW is missing.

    """

    def __init__(self, name: InterfaceName, protocol: Protocol) -> None:
        self._compile = _FILTERS[protocol]
        self._any = any_arp() if protocol is Protocol.ARP else any_ndp()
        self._groups = Groups(name) if protocol is Protocol.NDP else None
        # Protocol 0 receives nothing: the filter is in place before bind() lets the first frame in.
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0)
        try:
            self._attach(self._compile(()))
            self._socket.bind((name, _ETHERTYPES[protocol]))
        except OSError:
            self.close()
            raise

    def fileno(self) -> int:
        """The descriptor, for loop.add_reader."""
        return self._socket.fileno()

    def set_targets(self, targets: Sequence[bytes], *, roughly: bool = False) -> None:
        """From now on let in what is about these packed addresses only; or, if roughly, about any address, which costs less to say.

        Raises:
            OSError: not every multicast group could be joined; the filter is in force.

        """
        self._attach(self._any if roughly else self._compile(targets))
        if self._groups is not None:
            self._groups.want({solicited_node(target) for target in targets})

    def _attach(self, program: Sequence[Instruction]) -> None:
        """Replace the filter (socket(7), SO_ATTACH_FILTER); the kernel does it atomically."""
        code = array.array("B", struct.pack("=" + "HBBI" * len(program), *chain.from_iterable(program)))
        address, _ = code.buffer_info()
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program), address))

    def frames(self) -> Iterator[bytes]:
        """The frames that are waiting, at most FRAMES_PER_WAKE.

        Raises:
            OSError: the interface went down; the socket stays usable when it comes back.

        """
        for _ in range(FRAMES_PER_WAKE):
            try:
                yield self._socket.recv(_LONGEST_FRAME)
            except BlockingIOError:
                return

    def send(self, frame: bytes) -> None:
        """Hand one frame to the interface.

        Raises:
            OSError: the interface is down, or its queue is full; the frame is lost.

        """
        self._socket.send(frame)

    def close(self) -> None:
        """Give the socket back; frames that wait in it are dropped."""
        self._socket.close()
        if self._groups is not None:
            self._groups.close()


class Groups:
    """The IPv6 multicast groups that this node wants on one interface; the kernel tells the switches (RFC 3810).

    A socket can hold a few hundred groups (net.core.optmem_max bounds it), so there are as many sockets as it takes.
    """

    def __init__(self, name: InterfaceName) -> None:
        self._index = socket.if_nametoindex(name)
        self._holder: dict[bytes, socket.socket] = {}
        self._held: dict[socket.socket, int] = {}
        self._filling: socket.socket | None = None

    def want(self, groups: set[bytes]) -> None:
        """Be in these groups (packed) and in no others. What fails is tried again when it is next called.

        Raises:
            OSError: a group could not be joined; all others are as wanted.

        """
        for group in sorted(self._holder.keys() - groups):
            self._leave(group)
        failed: OSError | None = None
        for group in sorted(groups - self._holder.keys()):
            try:
                self._join(group)
            except OSError as error:
                failed = error
        if failed is not None:
            raise failed

    def joined(self) -> frozenset[bytes]:
        """The groups that were joined."""
        return frozenset(self._holder)

    def close(self) -> None:
        """Leave all groups."""
        for one in self._held:
            one.close()
        self._filling = None
        self._held.clear()
        self._holder.clear()

    def _request(self, group: bytes) -> bytes:
        return group + struct.pack("@I", self._index)  # struct ipv6_mreq of linux/in6.h.

    def _join(self, group: bytes) -> None:
        if self._filling is not None:
            try:
                self._filling.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, self._request(group))
            except OSError as error:
                if error.errno not in {errno.ENOMEM, errno.ENOBUFS}:
                    raise
            else:
                self._enter(group, self._filling)
                return
        fresh = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            fresh.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, self._request(group))
        except OSError:
            fresh.close()
            raise
        self._filling = fresh
        self._enter(group, fresh)

    def _enter(self, group: bytes, holder: socket.socket) -> None:
        self._holder[group] = holder
        self._held[holder] = self._held.get(holder, 0) + 1

    def _leave(self, group: bytes) -> None:
        holder = self._holder.pop(group)
        try:
            holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_LEAVE_GROUP, self._request(group))
        except OSError as error:
            if error.errno not in {errno.ENODEV, errno.EADDRNOTAVAIL}:  # The interface, or the membership, is gone already.
                raise
        self._held[holder] -= 1
        if not self._held[holder]:
            del self._held[holder]
            if holder is self._filling:
                self._filling = None
            holder.close()
