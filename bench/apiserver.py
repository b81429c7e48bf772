"""How fast the lab's API server is: `python -m bench.apiserver [--json]` prints five figures and what was wanted.

The server runs as a process of its own, with TLS and RBAC as in the lab. The clients are processes with blocking sockets and
bodies made beforehand, so that they cost little and the server is what is measured. Absolutes depend on the machine and on
what else it does: the load is printed, and beside each rate what the server's own processor time would have allowed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import re
import select
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final, Self

TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
WRITERS: Final = 4
SERVICES: Final = "/api/v1/namespaces/default/services"
CONFIG_MAPS: Final = "/api/v1/namespaces/default/configmaps"
SENT: Final = re.compile(rb'"bench/sent":"([0-9.]+)"')


@dataclass(frozen=True, slots=True)
class Address:
    """Where the server is and who asks."""

    host: str
    port: int
    ca: str
    token: str


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured thing. `wanted` is the issue's bound; `note` what it cost or depends on."""

    name: str
    value: float
    unit: str
    wanted: str
    note: str = ""


class Connection:
    """A kept connection with a blocking socket that carries one request at a time."""

    def __init__(self, address: Address) -> None:
        context = ssl.create_default_context(cafile=address.ca)
        plain = socket.create_connection((address.host, address.port))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = context.wrap_socket(plain, server_hostname=address.host)
        self._common = f"Host: bench\r\nAuthorization: Bearer {address.token}\r\nAccept: application/json\r\n"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, method: str, path: str, body: bytes = b"", media: str = "application/json") -> None:
        """Write a request."""
        head = f"{method} {path} HTTP/1.1\r\n{self._common}Content-Type: {media}\r\nContent-Length: {len(body)}\r\n\r\n"
        self.socket.sendall(head.encode() + body)

    def ask(self, method: str, path: str, body: bytes = b"", media: str = "application/json") -> bytes:
        """Write a request and read its answer.

        Raises:
            RuntimeError: the server refused.

        """
        self.send(method, path, body, media)
        data = bytearray()
        while b"\r\n\r\n" not in data:
            data += self._receive()
        head, _, rest = bytes(data).partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        parts, missing = [rest], (int(length[1]) if length else 0) - len(rest)
        while missing > 0:
            part = self._receive()
            parts.append(part)
            missing -= len(part)
        answer = b"".join(parts)
        if not head.startswith(b"HTTP/1.1 2"):
            raise RuntimeError(f"{method} {path}: {head.splitlines()[0].decode()} {answer[:300].decode()}")
        return answer

    def _receive(self) -> bytes:
        data = self.socket.recv(1 << 18)
        if not data:
            raise RuntimeError("the server closed the connection")
        return data


def service(name: str, **more: object) -> Any:
    """A Service as users write them."""
    spec = {"type": "LoadBalancer", "selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}
    return {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {**spec, "allocateLoadBalancerNodePorts": False, **more},
    }  # fmt: skip


def encoded(document: object) -> bytes:
    """JSON."""
    return json.dumps(document, separators=(",", ":")).encode()


def create_services(address: Address, first: int, count: int) -> int:
    """Create Services one after another; the work of one process. Returns how many writes it made."""
    with Connection(address) as connection:
        for number in range(first, first + count):
            connection.ask("POST", SERVICES, encoded(service(f"load-{number:05}")))
    return count


def write_mixed(address: Address, writer: int, until: float) -> int:
    """Create, patch, update, write status and delete, until a monotonic time. Returns how many writes were acknowledged."""
    merge = "application/merge-patch+json"
    done = number = 0
    with Connection(address) as connection:
        while time.monotonic() < until:
            number += 1
            name = f"mixed-{writer}-{number}"
            given = service(name)
            status = {"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}
            kept: Any = json.loads(connection.ask("POST", SERVICES, encoded(given)))
            connection.ask("PATCH", f"{SERVICES}/{name}", encoded({"metadata": {"labels": {"round": "2"}}}), merge)
            connection.ask("PATCH", f"{SERVICES}/{name}/status", encoded(status), merge)
            kept["spec"]["ports"][0]["targetPort"] = 9090
            del kept["metadata"]["resourceVersion"]
            connection.ask("PUT", f"{SERVICES}/{name}", encoded(kept))
            connection.ask("DELETE", f"{SERVICES}/{name}")
            settings: Any = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "1"}}
            connection.ask("POST", CONFIG_MAPS, encoded(settings))
            settings["data"]["a"] = "2"
            connection.ask("PUT", f"{CONFIG_MAPS}/{name}", encoded(settings))
            connection.ask("DELETE", f"{CONFIG_MAPS}/{name}")
            done += 8
    return done


def watch_changes(address: Address, watchers: int, changes: int, ready: Any) -> list[float]:
    """Receive all events of the changes on every watch; the seconds from the write's request to each event's arrival."""
    connections = [Connection(address) for _ in range(watchers)]
    poll = select.epoll()
    buffers: dict[int, bytes] = {}
    for connection in connections:
        connection.send("GET", f"{CONFIG_MAPS}?watch=1&labelSelector=bench=watched")
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.socket.recv(65536)
        connection.socket.setblocking(False)
        poll.register(connection.socket.fileno(), select.EPOLLIN)
        buffers[connection.socket.fileno()] = b""
    sockets = {c.socket.fileno(): c.socket for c in connections}
    ready.set()
    delays: list[float] = []
    deadline = time.monotonic() + 120
    while len(delays) < watchers * changes:
        assert time.monotonic() < deadline, f"{len(delays)} of {watchers * changes} events arrived"
        for number, _ in poll.poll(1.0):
            with contextlib.suppress(ssl.SSLWantReadError):
                while True:
                    data = buffers[number] + sockets[number].recv(1 << 18)
                    now = time.monotonic()
                    whole, _, buffers[number] = data.rpartition(b"\n")
                    delays += [now - float(sent) for sent in SENT.findall(whole)]
    for connection in connections:
        connection.socket.close()
    return delays


class Server:
    """The server's process, seen from outside."""

    def __init__(self, state: Path) -> None:
        command = [sys.executable, "-m", "lab.apiserver.server", "--listen", "127.0.0.1:0", "--state", str(state)]
        began = time.monotonic()
        self._child = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        self.start_s = time.monotonic() - began
        self.start_note = f"{self.cpu_s:.2f} s of one processor"
        ready = json.loads(line)
        host, _, port = ready["url"].removeprefix("https://").rpartition(":")
        self.address = Address(host, int(port), ready["ca"], ready["token"])

    @property
    def cpu_s(self) -> float:
        """User and system time since its start, in seconds."""
        fields = Path(f"/proc/{self._child.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_S

    @property
    def memory_mib(self) -> float:
        """Resident memory, in MiB."""
        lines = Path(f"/proc/{self._child.pid}/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.send_signal(signal.SIGTERM)
        self._child.wait()


def _list(server: Server, services: int) -> Iterator[Figure]:
    with Connection(server.address) as connection:
        times = []
        for _ in range(5):
            began = time.monotonic()
            answer = connection.ask("GET", "/api/v1/services")
            times.append(time.monotonic() - began)
    found = len(json.loads(answer)["items"])
    assert found >= services, f"{found} listed, {services} created"
    yield Figure(f"list of {services} Services", median(times), "s", "<= 0.5", f"{len(answer) / 1e6:.1f} MB, median of 5")


def _writes(server: Server, pool: ProcessPoolExecutor, seconds: float) -> Iterator[Figure]:
    list(pool.map(time.sleep, [0.01] * WRITERS))  # Their start is not measured.
    began, cpu = time.monotonic(), server.cpu_s
    jobs = [pool.submit(write_mixed, server.address, writer, began + seconds) for writer in range(WRITERS)]
    done = sum(job.result() for job in jobs)
    took, used = time.monotonic() - began, server.cpu_s - cpu
    note = f"{WRITERS} connections; {used / done * 1e6:.0f} us of the server each, {done / used:.0f}/s of one processor"
    yield Figure("mixed writes", done / took, "/s", ">= 2000", note)


def _watches(server: Server, pool: ProcessPoolExecutor, watchers: int, changes: int) -> Iterator[Figure]:
    with multiprocessing.get_context("spawn").Manager() as manager:
        ready = manager.Event()
        job = pool.submit(watch_changes, server.address, watchers, changes, ready)
        ready.wait(60)
        with Connection(server.address) as connection:
            began, cpu = time.monotonic(), server.cpu_s
            for number in range(changes):
                metadata = {
                    "name": "watched", "labels": {"bench": "watched"}, "annotations": {"bench/sent": f"{time.monotonic():.6f}"}
                }  # fmt: skip
                document = encoded({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"n": str(number)}})
                if number:
                    connection.ask("PUT", f"{CONFIG_MAPS}/watched", document)
                else:
                    connection.ask("POST", CONFIG_MAPS, document)
        delays = job.result()
        took, used = time.monotonic() - began, server.cpu_s - cpu
    note = f"all {len(delays)} events in {took:.2f} s, {used:.2f} s of the server; from request to arrival"
    yield Figure(f"{watchers} watchers, {changes} changes: p99", quantiles(delays, n=100)[98], "s", "<= 0.5", note)


def measure(services: int, seconds: float, watchers: int, changes: int) -> Iterator[Figure]:
    """All figures, in the order in which they are taken."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(WRITERS, mp_context=context) as pool:
        state = Path(folder) / "state"
        with Server(state) as server:
            yield Figure("start, nothing stored", server.start_s, "s", "<= 1", server.start_note)
            began, cpu, share = time.monotonic(), server.cpu_s, services // WRITERS
            jobs = [pool.submit(create_services, server.address, n * share, share) for n in range(WRITERS)]
            made = sum(job.result() for job in jobs)
            took, used = time.monotonic() - began, server.cpu_s - cpu
            yield Figure("creates of Services", made / took, "/s", "", f"{made / used:.0f}/s of one processor")
            yield Figure(f"memory with {made} Services", server.memory_mib, "MiB", "<= 250")
            yield from _list(server, made)
            yield from _writes(server, pool, seconds)
            yield from _watches(server, pool, watchers, changes)
            yield Figure("memory at the end", server.memory_mib, "MiB", "")
        with Server(state) as server:
            yield Figure(f"start with {made} Services", server.start_s, "s", "<= 1", server.start_note)


def main(argv: Sequence[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.apiserver", description="How fast the lab's API server is.")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.add_argument("--services", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=5.0, help="of mixed writes")
    parser.add_argument("--watchers", type=int, default=100)
    parser.add_argument("--changes", type=int, default=1000)
    options = parser.parse_args(argv)
    load, processors = os.getloadavg()[0], os.cpu_count()
    figures = []
    if not options.json:
        print(f"load {load:.1f} on {processors} processors")
    for figure in measure(options.services, options.seconds, options.watchers, options.changes):
        figures.append(asdict(figure))
        if not options.json:
            print(f"{figure.name:38} {figure.value:9.2f} {figure.unit:4} {figure.wanted:>9}   {figure.note}", flush=True)
    if options.json:
        print(json.dumps({"load": load, "processors": processors, "figures": figures}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
