"""The process: state directory, certificates, sockets, and the end by a signal.

`python -m lab apiserver --listen ADDRESS:PORT --state DIR [--listen-netns NETNS=ADDRESS:PORT ...]` calls main(). When it is
ready it prints one JSON line: url, ca, token (of the administrator), kubeconfig. Port, CA and tokens are kept in DIR, so that
clients go on after a restart. No root is needed but for --listen-netns.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import gc
import ipaddress
import json
import random
import secrets
import signal
import socket
import ssl
import sys
from asyncio import sslproto
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import yaml
from aiohttp import web

from lab.apiserver import auth, bootstrap, tables
from lab.apiserver.api import Api, make_stored
from lab.apiserver.auth import Authorizer, Tokens
from lab.apiserver.controllers import Controllers
from lab.apiserver.handlers import Handlers
from lab.apiserver.http import Server
from lab.apiserver.pki import DNS_NAMES, Authority
from lab.apiserver.resources import Registry
from lab.apiserver.services import API_SERVICE_ADDRESS
from lab.apiserver.store import Key, Store, Stored
from lab.apiserver.streams import Streams
from lab.apiserver.watching import Hub

Json = dict[str, Any]
MAX_BODY_BYTES = 8 * 1024 * 1024
READ_BUFFER_BYTES = 32 * 1024
SHUTDOWN_S = 0.5


@dataclass(frozen=True, slots=True)
class Listen:
    """An address to listen on, in this or a named network namespace."""

    address: str
    port: int
    netns: str = ""


@dataclass(slots=True)
class Served:
    """An API server that answers. `url` is what clients on this machine use."""

    url: str
    ca_file: Path
    token: str
    kubeconfig: Path
    stack: contextlib.AsyncExitStack = field(repr=False)

    async def close(self) -> None:
        """End watches, connections and the store."""
        await self.stack.aclose()


@dataclass(slots=True)
class Running(Served):
    """The lab's own, and what it is made of."""

    api: Api
    hub: Hub
    server: Server
    authority: Authority


def parse_listen(text: str) -> Listen:
    """ADDRESS:PORT or NETNS=ADDRESS:PORT.

    Raises:
        argparse.ArgumentTypeError: it is neither.

    """
    netns, _, rest = text.rpartition("=")
    address, _, port = rest.rpartition(":")
    address = address.strip("[]")
    try:
        ipaddress.ip_address(address)
        number = int(port)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not ADDRESS:PORT or NETNS=ADDRESS:PORT, e.g. 127.0.0.1:6443") from None
    return Listen(address, number, netns)


def bind(listen: Listen) -> socket.socket:
    """A listening socket; in a namespace it is made there and works from here."""
    family = socket.AF_INET6 if ":" in listen.address else socket.AF_INET
    with _inside(listen.netns):
        sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setblocking(False)
    sock.bind((listen.address, listen.port))
    sock.listen(512)
    return sock


def _inside(netns: str) -> contextlib.AbstractContextManager[None]:
    """Be in a named network namespace for a moment, if there is a name: a socket belongs to where it was made."""
    if not netns:
        return contextlib.nullcontext()
    from lab import namespaces  # noqa: PLC0415 - it loads pyroute2, which a server without namespaces does not need

    return namespaces.inside(netns)


def dialler(listen: Sequence[Listen]) -> Callable[[Any], socket.socket] | None:
    """Makes the sockets with which webhooks are called: in the first namespace listened in, which knows the way to Pods."""
    netns = next((entry.netns for entry in listen if entry.netns), "")
    if not netns:
        return None

    def dial(address: Any) -> socket.socket:
        family, kind, protocol, _, _ = address
        with _inside(netns):
            return socket.socket(family, kind, protocol)

    return dial


def remembered(path: Path, make: str) -> str:
    """The text in a file of the state directory; written when it is not there."""
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(make, encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()


def kubeconfig_for(url: str, ca: bytes, token: str) -> Json:
    """A kubeconfig document with one context."""
    cluster = {"server": url, "certificate-authority-data": base64.b64encode(ca).decode()}
    return {
        "apiVersion": "v1", "kind": "Config", "current-context": "lab", "preferences": {},
        "clusters": [{"name": "lab", "cluster": cluster}], "users": [{"name": "lab", "user": {"token": token}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab", "namespace": "default"}}],
    }  # fmt: skip


def _open_store(directory: Path, registry: Registry) -> Store:
    """The store; while it reads, custom objects need no index beyond labels, and built-in ones find their row."""

    def index(storage: str, _key: Key, rv: int, body: bytes) -> Stored:
        return make_stored(registry, storage, msgspec.json.decode(body), rv, body=body)

    return Store(directory, index)


def _listening(listen: Sequence[Listen], state: Path) -> tuple[list[socket.socket], str]:
    """The sockets, and the URL of the first; a port that the kernel chose is remembered."""
    state.mkdir(parents=True, exist_ok=True)
    port_file = state / "port"
    port = int(port_file.read_text()) if port_file.exists() else 0
    sockets = [bind(Listen(e.address, e.port or (0 if e.netns else port), e.netns)) for e in listen]
    address, port, *_ = sockets[0].getsockname()
    port_file.write_text(str(port))
    host = f"[{address}]" if ":" in address else "127.0.0.1" if address == "0.0.0.0" else address  # noqa: S104  # Compared, not bound.
    return sockets, f"https://{host}:{port}"


def _encrypted(authority: Authority, listen: Sequence[Listen]) -> ssl.SSLContext:
    """TLS with the serving certificate; clients may show one of theirs."""
    addresses = {"127.0.0.1", "::1", API_SERVICE_ADDRESS, *(e.address for e in listen)}
    pair = authority.issue("server", "kube-apiserver", names=DNS_NAMES, addresses=addresses)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.certificate_path))
    context.load_cert_chain(pair.certificate, pair.key)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


def write_kubeconfig(state: Path, url: str, ca: bytes, token: str) -> Path:
    """A kubeconfig with one context, for nobody but its owner to read."""
    path = state / "kubeconfig"
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(kubeconfig_for(url, ca, token), sort_keys=False), encoding="utf-8")
    return path


async def start(listen: Sequence[Listen], state: Path) -> Running:
    """Bring a server up from its state directory; it runs in the current loop until Running.close().

    Raises:
        OSError: an address cannot be bound.

    """
    # What every connection reserves for reading: 256 KiB, which thousands of watches would not use and pay for.
    sslproto.SSLProtocol.max_size = READ_BUFFER_BYTES
    sockets, url = _listening(listen, state)
    authority = Authority(state / "pki")
    context = _encrypted(authority, listen)
    rng = random.Random()  # noqa: S311  # Names, ports and uids of a lab.
    registry = Registry()
    store = _open_store(state, registry)
    api = Api(store, registry, now=tables.utc_now, rng=rng)
    hub = Hub(store)
    controllers = Controllers(api, hub)
    bootstrap.populate(api)
    controllers.start()
    controllers.work()
    token = remembered(state / "token", secrets.token_hex(24))
    signing = bytes.fromhex(remembered(state / "pki" / "sa.secret", secrets.token_hex(32)))
    handlers = Handlers(api, Authorizer(store), Tokens(signing, store, token), auth.wall_clock, dialler(listen))
    answering = Server(registry, handlers, Streams(handlers, hub, rng), auth.wall_clock)
    kubeconfig = write_kubeconfig(state, url, authority.certificate_path.read_bytes(), token)
    stack = contextlib.AsyncExitStack()
    stack.callback(store.close)
    group = await stack.enter_async_context(asyncio.TaskGroup())  # A fault of the controllers ends the server, loudly.
    stack.callback(group.create_task(controllers.run(), name="apiserver-controllers").cancel)
    server = web.Server(answering.handle, request_factory=_request, handler_cancellation=True, access_log=None)
    runner = web.ServerRunner(server, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    stack.push_async_callback(answering.close)
    for sock in sockets:
        await web.SockSite(runner, sock, ssl_context=context, backlog=512).start()
    return Running(url, authority.certificate_path, token, kubeconfig, stack, api, hub, answering, authority)


def _request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=MAX_BODY_BYTES)


async def _serve(listen: Sequence[Listen], state: Path, *, real: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    gc.disable()  # Reading the journal makes thousands of objects and no garbage.
    running = await (_start_real(listen, state) if real else start(listen, state))
    gc.freeze()
    gc.enable()
    gc.set_threshold(20_000, 20, 50)  # A request makes no cycles; what is stored need not be looked at over and over.
    ready = {"url": running.url, "ca": str(running.ca_file), "token": running.token, "kubeconfig": str(running.kubeconfig)}
    print(json.dumps(ready), flush=True)
    await stop.wait()
    await running.close()


async def _start_real(listen: Sequence[Listen], state: Path) -> Served:
    from lab import realapi  # noqa: PLC0415 - It is built on this module, and few need it.

    programs = realapi.assets()
    if programs is None:
        raise OSError(f"--real needs {realapi.ENVIRONMENT}, the directory with etcd and kube-apiserver")
    return await realapi.start(programs, listen, state)


def main(argv: Sequence[str]) -> int:
    """Run the server until SIGTERM; returns the exit status."""
    parser = argparse.ArgumentParser(prog="lab apiserver", description="A small durable Kubernetes API server.")
    parser.add_argument(
        "--listen", type=parse_listen, default=Listen("127.0.0.1", 0), help="ADDRESS:PORT; port 0 is any, remembered in DIR"
    )
    parser.add_argument(
        "--listen-netns", type=parse_listen, action="append", default=[], metavar="NETNS=ADDRESS:PORT",
        help="listen in a named network namespace too (repeatable)",
    )  # fmt: skip
    parser.add_argument("--state", type=Path, required=True, metavar="DIR", help="where state, CA and tokens are kept")
    parser.add_argument("--real", action="store_true", help="run the etcd and kube-apiserver in $KUBEBUILDER_ASSETS instead")
    options = parser.parse_args(argv)
    for entry in options.listen_netns:
        if not entry.netns:
            parser.error("--listen-netns needs NETNS=ADDRESS:PORT")
    try:
        asyncio.run(_serve([options.listen, *options.listen_netns], options.state.absolute(), real=options.real))
    except OSError as error:
        print(f"lab apiserver: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
