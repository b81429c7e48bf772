"""What layer 2 costs and how fast it is. `python -m bench.layer2` (needs root); `--lab` adds what needs a cluster.

A speaker's engine (sockets, filters, responder, pacing; without Kubernetes and gossip) runs as a process of its own in one network
namespace, a client that was written for this bench in another, with a cable between them. Figures beside which the issue gives
a target say so. The last line is the same as JSON. Use a quiet machine: the load is printed, because it decides the latencies.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import resource
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final

import structlog
from pyroute2 import netns

from config.model import InterfaceName, IPAddress

ROOT: Final = Path(__file__).parents[1]
PORT: Final = InterfaceName("port")
BASE: Final = int(IPv4Address("198.18.0.0"))
SPEAKER_MAC: Final = "02:00:00:00:20:01"
CLIENT_MAC: Final = bytes.fromhex("020000002099")
COUNTS: Final = (1, 1000, 5000)
SHARES: Final = (333, 1667)
QUESTIONS: Final = 3000
FLOOD_S: Final = 3.0
_SO_RCVBUFFORCE: Final = 33  # asm-generic/socket.h; the socket module names neither.
_SO_TIMESTAMPNS: Final = 35
BATCH: Final = 50
"""Services that a speaker decides in one turn of its loop (speaker/agenda.py)."""


def owned(count: int) -> list[IPv4Address]:
    """Addresses as an election leaves them to one of three nodes: every third of a pool, at random."""
    chance = random.Random(count)  # noqa: S311  (repeatable on purpose)
    return [IPv4Address(BASE + offset) for offset in sorted(chance.sample(range(1, 3 * count + 1), count))]


class Tally:
    """Counters for the engine that count nothing."""

    def request_received(self, address: IPAddress) -> None:
        """Not counted here."""

    response_sent = gratuitous_sent = request_received

    def first_announced(self, address: IPAddress, took_s: float) -> None:
        """Not counted here."""


async def _serve() -> None:
    """The speaker's side: obeys lines of JSON on standard input, answers each with one."""
    from speaker.layer2.engine import Engine  # noqa: PLC0415  (the client's process needs none of it)
    from speaker.layer2.links import LinkWatch  # noqa: PLC0415

    log = structlog.wrap_logger(structlog.PrintLogger(sys.stderr), wrapper_class=structlog.make_filtering_bound_logger(50))
    dirty = asyncio.Event()
    engine, watch = Engine(Tally(), log, claimed=lambda _: None), LinkWatch(dirty, log)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    watching = asyncio.create_task(watch.run())
    while not any(link.name == PORT and link.carrier for link in watch.links):
        await dirty.wait()
        dirty.clear()
    engine.show(watch.links)
    here, nowhere = frozenset({PORT}), frozenset[InterfaceName]()
    while line := await reader.readline():
        order = json.loads(line)
        longest = 0.0
        if "own" in order:
            engine.own(dict.fromkeys(engine.owned(), nowhere))
            addresses = owned(order["own"])
            for start in range(0, len(addresses), BATCH):
                began = time.perf_counter()
                engine.own(dict.fromkeys(addresses[start : start + BATCH], here))
                longest = max(longest, time.perf_counter() - began)
                await asyncio.sleep(0)
        used = resource.getrusage(resource.RUSAGE_SELF)
        answer = {"cpu_s": used.ru_utime + used.ru_stime, "longest_turn_s": longest}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    watching.cancel()
    engine.close()


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextmanager
def _cable() -> Iterator[tuple[str, str]]:
    names = (f"l2bench{os.getpid()}a", f"l2bench{os.getpid()}b")
    made: list[str] = []
    try:
        for name in names:
            _ip("netns", "add", name)
            made.append(name)
        _ip(
            "link",
            "add",
            PORT,
            "netns",
            names[0],
            "address",
            SPEAKER_MAC,
            "type",
            "veth",
            "peer",
            "name",
            PORT,
            "netns",
            names[1],
        )
        for name in names:
            _ip("-n", name, "link", "set", PORT, "up")
        yield names
    finally:
        for name in made:
            _ip("netns", "del", name)


@dataclass
class Speaker:
    """The process of the engine."""

    process: subprocess.Popen[bytes]

    def tell(self, **order: Any) -> dict[str, float]:
        """Give an order; the answer, once it is carried out."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        self.process.stdin.flush()
        answer: dict[str, float] = json.loads(self.process.stdout.readline())
        return answer


@contextmanager
def _speaker(namespace: str) -> Iterator[Speaker]:
    words = ["ip", "netns", "exec", namespace, sys.executable, "-m", "bench.layer2", "--serve"]
    with subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        speaker = Speaker(process)
        try:
            speaker.tell()
            yield speaker
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(timeout=10)


def _client(namespace: str) -> socket.socket:
    netns.pushns(namespace)
    try:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806))
        opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 24)
        opened.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        opened.bind((PORT, 0x0806))
        return opened
    finally:
        netns.popns()


def _question(target: IPv4Address) -> bytes:
    header = b"\xff" * 6 + CLIENT_MAC + bytes.fromhex("08060001080006040001") + CLIENT_MAC
    return (header + IPv4Address(BASE).packed + bytes(6) + target.packed).ljust(60, b"\0")


def _drain(client: socket.socket) -> None:
    while select.select([client], [], [], 0)[0]:
        client.recv(2048)


def latency(client: socket.socket, addresses: Sequence[IPv4Address]) -> tuple[float, float]:
    """p50 and p99 of the time from a question to its answer, in milliseconds."""
    chance, took = random.Random(1), []  # noqa: S311  (repeatable on purpose)
    for _ in range(QUESTIONS):
        target = chance.choice(addresses)
        _drain(client)
        began = time.perf_counter()
        client.send(_question(target))
        while True:
            if not select.select([client], [], [], 1.0)[0]:
                raise RuntimeError(f"{target} was not answered")
            frame = client.recv(2048)
            if frame[:6] == CLIENT_MAC and frame[28:32] == target.packed:
                break
        took.append(1000 * (time.perf_counter() - began))
    marks = quantiles(took, n=100)
    return round(marks[49], 3), round(marks[98], 3)


def flood(client: socket.socket, addresses: Sequence[IPv4Address]) -> tuple[int, int]:
    """Questions asked and answers got in a second, asking as fast as this process can."""
    asked = answered = 0
    client.setblocking(False)
    frames = [_question(address) for address in addresses[:200]]
    ends = time.perf_counter() + FLOOD_S
    while time.perf_counter() < ends:
        for frame in frames:
            try:
                client.send(frame)
                asked += 1
            except BlockingIOError:
                break
            while True:
                try:
                    answered += client.recv(2048)[:6] == CLIENT_MAC
                except BlockingIOError:
                    break
    client.setblocking(True)
    return round(asked / FLOOD_S), round(answered / FLOOD_S)


def takeover(client: socket.socket, speaker: Speaker, count: int) -> tuple[float, int, float]:
    """From the first to the last address: seconds between their first gratuitous frames; how many were seen; longest turn."""
    _drain(client)
    first: dict[bytes, float] = {}
    answer = speaker.tell(own=count)
    quiet = time.perf_counter() + 2.0
    while len(first) < count and time.perf_counter() < quiet:
        if select.select([client], [], [], 0.2)[0]:
            frame, [(_, _, stamp)] = client.recvmsg(2048, 64)[:2]
            if frame[28:32] == frame[38:42]:
                seconds, nanoseconds = struct.unpack("@qq", stamp)
                first.setdefault(frame[28:32], seconds + nanoseconds / 1e9)
    return (max(first.values()) - min(first.values()) if first else 0.0), len(first), answer["longest_turn_s"]


def foreign(client: socket.socket, speaker: Speaker) -> float:
    """Processor time of the speaker for a broadcast question that is not for it, in microseconds."""
    before, asked = speaker.tell()["cpu_s"], 100_000
    frame = _question(IPv4Address("203.0.113.1"))
    for _ in range(asked):
        client.send(frame)
    return round(1e6 * (speaker.tell()["cpu_s"] - before) / asked, 2)


Row = tuple[str, str, str]


@contextmanager
def _lab(nodes: int) -> Iterator[Callable[[str, int], list[dict[str, Any]]]]:
    """A lab of so many nodes; called with a scenario and a number of runs, it gives the result of each."""
    lab = [sys.executable, "-m", "lab", "--state", str(ROOT / ".lab" / "bench-layer2")]

    def results(scenario: str, runs: int) -> list[dict[str, Any]]:
        words = [*lab, "run", scenario, "--runs", str(runs), "-o", "json"]
        done = subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith(b"{")]

    subprocess.run([*lab, "down"], cwd=ROOT, check=True, capture_output=True)
    subprocess.run([*lab, "up", "--nodes", str(nodes)], cwd=ROOT, check=True, capture_output=True)
    try:
        yield results
    finally:
        subprocess.run([*lab, "down"], cwd=ROOT, check=False, capture_output=True)


def _spread(values: Sequence[float]) -> str:
    return f"median {median(values):.3f} s, worst {max(values):.3f} s"


def in_labs(runs: int, figures: dict[str, Any]) -> Iterator[Row]:
    """The rows that need a cluster: outages of three and of ten nodes, planned moves, a killed speaker, a new Service."""
    with _lab(3) as results:
        figures["outages_s"] = outages = [one["outage_s"] for one in results("node_death", runs)]
        yield f"owner loses power, 3 nodes, {len(outages)} runs", _spread(outages), "<= 0.7, <= 1.2"
        figures["speaker_deaths"] = deaths = results("speaker_death", max(1, runs // 3))
        lost = sum(len(one["failed"]) for one in deaths)
        yield (
            f"speaker killed with -9, {len(deaths)} runs: no answer for",
            f"{_spread([one['silent_s'] for one in deaths])}, {lost} requests failed with a warm cache",
            "<= 0.7, 0 failed",
        )
        figures["planned_moves"] = moves = results("planned_moves", max(1, runs // 10))
        for kind in dict.fromkeys(one["move"] for one in moves):
            yield kind, _moves([one for one in moves if one["move"] == kind]), "0, 0, <= 50 ms, 0"
        figures["first_service"] = first = results("first_service", runs)
        for name, what, target in (
            ("assigned_s", "address in status", "<= 16 ms"),
            ("first_good_s", "first good answer", "<= 22 ms"),
        ):
            values = sorted(1000 * one[name] for one in first)
            p95 = values[max(0, math.ceil(0.95 * len(values)) - 1)]
            yield f"Service created -> {what}", f"median {median(values):.0f} ms, p95 {p95:.0f} ms", target
    with _lab(10) as results:
        figures["outages_10_s"] = outages = [one["outage_s"] for one in results("node_death", max(1, runs // 3))]
        yield f"owner loses power, 10 nodes, {len(outages)} runs", _spread(outages), "<= 0.8, <= 1.3"


def _moves(found: Sequence[dict[str, Any]]) -> str:
    def total(name: str) -> int:
        return sum(one[name] if isinstance(one[name], int) else len(one[name]) for one in found)

    extra = sum(len(one["path"]) - len(one["expected"]) for one in found)
    return (
        f"{total('failed')} of {total('requests')} requests failed ({total('cut')} cut), {total('unanswered')} of"
        f" {total('questions')} questions, two for {1000 * max(one['both_s'] for one in found):.1f} ms, {extra} extra moves"
    )


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print the table and the JSON; the exit status."""
    made = argparse.ArgumentParser(prog="python -m bench.layer2", description=__doc__)
    made.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    made.add_argument("--lab", type=int, metavar="RUNS", default=0, help="also what needs a lab, in so many runs")
    asked = made.parse_args(words)
    if asked.serve:
        asyncio.run(_serve())
        return 0
    rows: list[Row] = []
    figures: dict[str, Any] = {"load": os.getloadavg()[0]}
    with ExitStack() as stack:
        names = stack.enter_context(_cable())
        speaker = stack.enter_context(_speaker(names[0]))
        client = stack.enter_context(_client(names[1]))
        for count in COUNTS:
            speaker.tell(own=count)
            time.sleep(6.0)  # The announcements are over.
            p50, p99 = latency(client, owned(count))
            rows.append((f"ARP reply, {count} addresses", f"p50 {p50} ms, p99 {p99} ms", "p50 <= 0.10, p99 <= 0.5"))
            questions, answers = flood(client, owned(count))
            rows.append((f"flood, {count} addresses", f"{answers}/s of {questions}/s", ">= 12000/s"))
            figures[f"latency_{count}_ms"], figures[f"flood_{count}"] = (p50, p99), (questions, answers)
        cost = foreign(client, speaker)
        rows.append(("CPU of one speaker per question for others", f"{cost} us", "<= 40 us summed over 3"))
        figures["foreign_us"] = cost
        for count, target in zip(SHARES, ("<= 0.15 s", "<= 0.7 s"), strict=True):
            speaker.tell(own=0)
            time.sleep(0.5)
            took, seen, turn = takeover(client, speaker, count)
            rows.append(
                (f"takeover of {count}: first to last", f"{took:.3f} s, {seen} seen, longest turn {1000 * turn:.1f} ms", target)
            )
            figures[f"takeover_{count}"] = {"s": round(took, 4), "seen": seen, "longest_turn_s": round(turn, 4)}
    if asked.lab:
        rows += in_labs(asked.lab, figures)
    print(f"layer 2, load {figures['load']:.1f} on {os.cpu_count()} cores")
    for what, measured, target in rows:
        print(f"  {what:52} {measured:60} target {target}")
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
