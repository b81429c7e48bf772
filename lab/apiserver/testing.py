"""A running server inside a test: the real listener with TLS on loopback, the same code as the process.

async with running_server(tmp_path) as server:
    ... server.url, server.ca_file, server.token, server.kubeconfig

Where KUBEBUILDER_ASSETS names a directory with etcd and kube-apiserver, running_server() is these two instead. Tests of the
lab's own server ask for own_server().
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from kube.auth import Access
from lab import realapi
from lab.apiserver.server import Listen, Running, Served, start


@contextlib.asynccontextmanager
async def running_server(state: Path) -> AsyncIterator[Served]:
    """A server on a free loopback port with its state in a directory; it ends with the block."""
    programs = realapi.assets()
    if programs is None:
        async with own_server(state) as own:
            yield own
        return
    running = await realapi.start(programs, [Listen("127.0.0.1", 0)], state)
    try:
        yield running
    finally:
        await running.close()


@contextlib.asynccontextmanager
async def own_server(state: Path) -> AsyncIterator[Running]:
    """The lab's own server."""
    running = await start([Listen("127.0.0.1", 0)], state)
    try:
        yield running
    finally:
        await running.close()


def access_to(server: Served, token: str | None = None) -> Access:
    """What a client needs: as the administrator, or with another token."""
    return Access(server.url, f"Bearer {token or server.token}", ca=Path(server.ca_file).read_bytes())
