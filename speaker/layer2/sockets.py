"""Raw ARP sockets: one per interface, with the kernel's filter set to what this node owns there.

engine.py opens, feeds and closes them. Needs CAP_NET_RAW. Nothing here looks into a frame.
"""

from __future__ import annotations

import array
import socket
import struct
from collections.abc import Iterator, Sequence
from itertools import chain

from config.model import InterfaceName
from speaker.layer2.arp import ETHERTYPE_ARP
from speaker.layer2.bpf import Instruction, compile_filter

FRAMES_PER_WAKE = 64
"""Frames read before the loop gets its turn again: gossip must not wait behind a flood."""
_LONGEST_FRAME = 2048
_SO_ATTACH_FILTER = 26  # asm-generic/socket.h; the socket module does not name it.


class ArpSocket:
    """Sends and receives ARP frames on one interface. Drops everything until targets are set.

    Raises:
        OSError: no such interface, or CAP_NET_RAW is missing.

    """

    def __init__(self, name: InterfaceName) -> None:
        # Protocol 0 receives nothing: the filter is in place before bind() lets the first frame in.
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0)
        try:
            self._attach(compile_filter(()))
            self._socket.bind((name, ETHERTYPE_ARP))
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """The descriptor, for loop.add_reader."""
        return self._socket.fileno()

    def set_targets(self, targets: Sequence[bytes]) -> None:
        """From now on let in questions for these packed addresses only."""
        self._attach(compile_filter(targets))

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
