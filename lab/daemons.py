"""What the controller and the speakers of a lab say of themselves: their /status, read from the Unix sockets in the Pods' folders.

Scenarios and tests wait on these answers. A socket whose process is gone is passed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from lab.paths import Paths
from telemetry.unix import short_path

TIMEOUT = aiohttp.ClientTimeout(total=2.0)


async def statuses(where: Paths) -> list[dict[str, Any]]:
    """The /status document of every daemon that answers."""
    found = [await _read(path) for path in _sockets(where.pods)]
    return [status for status in found if status is not None]


async def status_below(directory: Path) -> dict[str, Any] | None:
    """The /status document of the daemon whose socket is in a Pod's directory, if one answers."""
    for path in _sockets(directory):
        if (status := await _read(path)) is not None:
            return status
    return None


def _sockets(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*.sock"))


async def _read(path: Path) -> dict[str, Any] | None:
    try:
        with short_path(path) as short:
            async with (
                aiohttp.UnixConnector(short) as connector,
                aiohttp.ClientSession(connector=connector, timeout=TIMEOUT) as session,
                session.get("http://localhost/status") as answer,
            ):
                document: dict[str, Any] = msgspec.json.decode(await answer.read())
                return document
    except (aiohttp.ClientError, TimeoutError, OSError, msgspec.DecodeError):
        return None


def settled_owner(found: Sequence[dict[str, Any]], service: str, nodes: frozenset[str]) -> str | None:
    """The node that announces a Service, once the speakers of all these nodes know each other and agree; else None. Pure."""
    speakers = {status["node"]: status for status in found if status.get("component") == "speaker"}
    if frozenset(speakers) < nodes:
        return None
    announcing = []
    for node in nodes:
        known = {member["name"] for member in speakers[node]["gossip"]["members"] or () if member["state"] == "alive"}
        if known != nodes:
            return None
        if speakers[node]["plan"]["services"].get(service, {}).get("announcing"):
            announcing.append(node)
    return announcing[0] if len(announcing) == 1 else None
