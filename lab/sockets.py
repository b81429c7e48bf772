"""Make sockets that live in another network namespace than this process.

A socket stays in the namespace in which it was made. So the calling thread visits the namespace for the length of one
system call and comes back; there is no await in between, and the lab has no other threads.
"""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from lab.netns import RUN_DIR

_CLONE_NEWNET: Final = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def _enter(descriptor: int, name: str) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"enter network namespace {name}: {os.strerror(number)}")


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Be in a network namespace for the body, which must not wait for anything.

    Raises:
        OSError: there is no such namespace, or we may not enter it.

    """
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(Path(RUN_DIR, namespace), os.O_RDONLY | os.O_CLOEXEC)
        try:
            _enter(there, namespace)
        finally:
            os.close(there)
        try:
            yield
        finally:
            _enter(home, "of this process")
    finally:
        os.close(home)


def tcp_socket(namespace: str) -> socket.socket:
    """A TCP socket in a namespace, ready for asyncio."""
    with inside(namespace):
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setblocking(False)
    return made
