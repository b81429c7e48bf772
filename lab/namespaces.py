"""Make, enter and remove named network namespaces, without a second process.

pyroute2 can do this too, but it forks the caller and ends the child with SIGTERM; the child shares the caller's event loop
descriptors, so an asyncio program with a handler for SIGTERM believes that it was told to end. Here the calling thread visits
a namespace for the length of a few system calls and comes back; nothing may be awaited in between. A socket stays in the
namespace in which it was made. The names are those of iproute2: files in /run/netns.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pyroute2 import AsyncIPRoute

RUN_DIR: Final = Path("/run/netns")
_CLONE_NEWNET: Final = 0x40000000
_MS_BIND: Final = 4096
_MS_REC: Final = 16384
_MS_SHARED: Final = 1 << 20
_MNT_DETACH: Final = 2
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(source: Path | None, target: Path, flags: int) -> None:
    result = _libc.mount(os.fsencode(source or ""), os.fsencode(target), b"none", ctypes.c_ulong(flags), None)
    _check(result, f"mount {target}")


@contextlib.contextmanager
def _visiting() -> Iterator[None]:
    """Come back to the present namespace afterwards, whatever happens."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield
    finally:
        try:
            _check(_libc.setns(home, _CLONE_NEWNET), "return to our network namespace")
        finally:
            os.close(home)


def create(name: str) -> None:
    """Make a namespace.

    Raises:
        FileExistsError: there is one of that name.
        OSError: the kernel refused.

    """
    RUN_DIR.mkdir(exist_ok=True)
    try:
        _mount(None, RUN_DIR, _MS_SHARED | _MS_REC)
    except OSError:  # It is no mount point yet: this is the first namespace of the host.
        _mount(RUN_DIR, RUN_DIR, _MS_BIND | _MS_REC)
        _mount(None, RUN_DIR, _MS_SHARED | _MS_REC)
    path = RUN_DIR / name
    path.touch(mode=0o444, exist_ok=False)
    with _visiting():
        _check(_libc.unshare(_CLONE_NEWNET), "make a network namespace")
        _mount(Path("/proc/thread-self/ns/net"), path, _MS_BIND)


@contextlib.contextmanager
def inside(name: str) -> Iterator[None]:
    """Be in a namespace for the body, which must not wait for anything.

    Raises:
        OSError: there is no such namespace, or we may not enter it.

    """
    with opened(name) as there, _visiting():
        _check(_libc.setns(there, _CLONE_NEWNET), f"enter network namespace {name}")
        yield


@contextlib.contextmanager
def opened(name: str) -> Iterator[int]:
    """A descriptor that stands for a namespace, for the length of the body."""
    descriptor = os.open(RUN_DIR / name, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def tcp_socket(name: str) -> socket.socket:
    """A TCP socket in a namespace, ready for asyncio."""
    with inside(name):
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setblocking(False)
    return made


def tcp_listener(name: str, port: int) -> socket.socket:
    """A TCP socket in a namespace that listens at a port of all its addresses, of both families."""
    with inside(name):
        made = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    made.setblocking(False)
    return made


def netlink(name: str) -> AsyncIPRoute:
    """A connection to the kernel's routing tables in a namespace; an asynchronous context manager."""
    with inside(name):
        made = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, socket.NETLINK_ROUTE)
    return AsyncIPRoute(fileno=made.detach())


def remove(name: str) -> None:
    """Remove a namespace; one that is not there is not missed. The kernel frees it when its processes are gone."""
    path = RUN_DIR / name
    with contextlib.suppress(FileNotFoundError):
        _libc.umount2(os.fsencode(path), _MNT_DETACH)
        path.unlink()


def remove_directory() -> None:
    """Undo what the first namespace of a host needed, when the last one is gone; refused by the kernel while it is used."""
    if RUN_DIR.is_dir() and not any(RUN_DIR.iterdir()):
        _libc.umount2(os.fsencode(RUN_DIR), 0)
        with contextlib.suppress(OSError):
            RUN_DIR.rmdir()
