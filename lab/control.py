"""How other processes talk to a lab's supervisor: one JSON line each way over a Unix socket in the state directory."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from pyroute2.netlink.exceptions import NetlinkError

from lab.faults import AnyFault, FaultError
from lab.paths import LAB, LabError, Paths
from lab.proxies import DataplaneError
from lab.topology import TopologyError
from telemetry.unix import short_path


class Request(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is asked: status, inject FAULT, heal (FAULT, or all), kill-process NODE NAME, down."""

    verb: str
    fault: AnyFault | None = None
    node: str = ""
    name: str = ""


Answer = Callable[[Request], Awaitable[dict[str, Any]]]


@asynccontextmanager
async def serving(paths: Paths, answer: Answer) -> AsyncIterator[None]:
    """Answer requests for as long as the body runs. What it refuses, and why, becomes the asker's error."""

    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            try:
                reply = await answer(msgspec.json.decode(await reader.readline(), type=Request))
            except (LabError, TopologyError, FaultError, DataplaneError, NetlinkError, OSError, msgspec.DecodeError) as error:
                reply = {"error": str(error)}
            writer.write(msgspec.json.encode(reply) + b"\n")
            await writer.drain()
        writer.close()

    paths.control.unlink(missing_ok=True)
    with short_path(paths.control) as path:
        server = await asyncio.start_unix_server(conversation, path)
    paths.control.chmod(0o600)
    try:
        yield
    finally:
        server.close()


def ask(
    paths: Paths, verb: str, *, fault: AnyFault | None = None, node: str = "", name: str = "", limit_s: float = 30.0
) -> dict[str, Any]:
    """What the supervisor says to a request; `verb` and the rest as in Request.

    Raises:
        LabError: no lab is up in this directory, or the supervisor refused; the message says why.

    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection, short_path(paths.control) as path:
            connection.settimeout(limit_s)
            connection.connect(path)
            connection.sendall(msgspec.json.encode(Request(verb=verb, fault=fault, node=node, name=name)) + b"\n")
            with connection.makefile("rb") as lines:
                reply: dict[str, Any] = msgspec.json.decode(lines.readline())
    except (FileNotFoundError, ConnectionRefusedError):
        raise LabError(f"no lab is up in {paths.root}; {LAB} up starts one") from None
    except (OSError, msgspec.DecodeError) as error:
        raise LabError(f"the lab in {paths.root} does not answer ({error}); its log is {paths.supervisor_log}") from error
    if "error" in reply:
        raise LabError(reply["error"])
    return reply
