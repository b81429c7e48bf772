"""A stand-in for Kubernetes' test image agnhost: `netexec`, which says who answered and who asked, over HTTP and UDP.

lab.images starts it for registry.k8s.io/e2e-test-images/agnhost. It answers as the real one does: GET /hostname, /clientip,
/echo?msg=, /header?key=, /healthz and /; over UDP the words `hostname`, `clientip` and `echo TEXT`. It refuses agnhost's other
subcommands, and what netexec can do beside that (a shell, uploads).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from ipaddress import IPv6Address

from aiohttp import web


def shown(host: str, port: int) -> str:
    """An address and a port as Go writes them."""
    address = IPv6Address(host.partition("%")[0])
    return f"{address.ipv4_mapped}:{port}" if address.ipv4_mapped else f"[{address}]:{port}"


def udp_answer(question: str, *, hostname: str, client: str) -> str:
    """What netexec says to a datagram; nothing to what it does not know."""
    word, _, text = question.strip().partition(" ")
    return {"hostname": hostname, "clientip": client, "echo": text}.get(word.lower(), "")


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, hostname: str) -> None:
        self._hostname = hostname
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]  # UDP has no other.
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        assert self._transport is not None
        client = shown(addr[0], addr[1])
        answer = udp_answer(data.decode(errors="replace"), hostname=self._hostname, client=client)
        self._transport.sendto(answer.encode(), addr)


def application(hostname: str) -> web.Application:
    """The HTTP half."""

    def client(request: web.Request) -> str:
        peer = request.transport.get_extra_info("peername") if request.transport else None
        return shown(peer[0], peer[1]) if peer else ""

    answers: dict[str, Callable[[web.Request], str]] = {
        "/": lambda _: f"NOW: {datetime.now(UTC)}",
        "/hostname": lambda _: hostname,
        "/clientip": client,
        "/echo": lambda request: request.query.get("msg", ""),
        "/header": lambda request: request.headers.get(request.query.get("key", ""), ""),
        "/healthz": lambda _: "",
    }

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=answers[request.path](request))

    app = web.Application(client_max_size=1 << 30)
    app.add_routes([web.route("*", path, answer) for path in answers])
    return app


async def netexec(words: Sequence[str]) -> None:
    """Answer until SIGTERM, and for as long after it as --delay-shutdown says."""
    parser = argparse.ArgumentParser(prog="agnhost netexec", allow_abbrev=False)
    parser.add_argument("--http-port", type=int, default=8080)
    parser.add_argument("--udp-port", type=int, default=8081)
    parser.add_argument("--delay-shutdown", type=int, default=0, metavar="S")
    flags = parser.parse_args(words)
    hostname = os.environ.get("HOSTNAME", socket.gethostname())
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, told.set)
    runner = web.AppRunner(application(hostname))
    await runner.setup()
    listener = socket.create_server(("::", flags.http_port), family=socket.AF_INET6, dualstack_ipv6=True)
    await web.SockSite(runner, listener).start()
    datagrams = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    datagrams.bind(("::", flags.udp_port))
    transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(hostname), sock=datagrams)
    await told.wait()
    await asyncio.sleep(flags.delay_shutdown)
    transport.close()
    await runner.cleanup()


if __name__ == "__main__":
    if sys.argv[1:2] != ["netexec"]:
        sys.exit(f"the lab's agnhost offers netexec, not {' '.join(sys.argv[1:2]) or 'pause'}")
    asyncio.run(netexec(sys.argv[2:]))
