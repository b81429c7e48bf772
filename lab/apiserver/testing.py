"""A running server inside a test: the real listener with TLS on loopback, the same code as the process.

async with running_server(tmp_path) as server:
    ... server.url, server.ca_file, server.token, server.kubeconfig
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from kube.auth import Access
from lab.apiserver.server import Listen, Running, start


@contextlib.asynccontextmanager
async def running_server(state: Path) -> AsyncIterator[Running]:
    """A server on a free loopback port with its state in a directory; it ends with the block."""
    running = await start([Listen("127.0.0.1", 0)], state)
    try:
        yield running
    finally:
        await running.close()


def access_to(server: Running, token: str | None = None) -> Access:
    """What a client needs: as the administrator, or with another token."""
    return Access(server.url, f"Bearer {token or server.token}", ca=Path(server.ca_file).read_bytes())
