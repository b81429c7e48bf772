"""What gossip costs and how soon it knows, on this machine: `python -m bench.memberlist [codec|idle|flood|cables|saturated]`.

codec      packets decoded and encoded in a second, plain and encrypted
idle       what one of five members in `subsecond` takes of a core, over 20 s
flood      a member that gets 5,000 valid packets a second for 10 s: are its own probes answered, does its memory grow
cables     five real processes in namespaces under `subsecond`, 30 pulled cables (needs root; --kills)
saturated  the same five for 10 minutes while all cores are busy with something else: who is taken for dead? (--minutes)

Without a word: codec, idle and flood. Nothing here runs in CI with a limit on time; what it promises is in
docs/explanation/failure-detection.md.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from bench.cables import ROOT, Cables
from memberlist import Agent, Keyring, MemberEvent, Suspected, configured, metallb_key, packet, wire
from memberlist.effects import Left
from memberlist.messages import Ack, Alive, Ping, Suspect
from memberlist.packet import Envelope

SECRET: Final = b"a secret of the ring"
KEY: Final = metallb_key(SECRET)
FLOOD_PER_S: Final = 5000
FLOOD_S: Final = 10.0
_BURST_S: Final = 0.01
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


def main(words: Sequence[str] | None = None) -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench.memberlist", description="What gossip costs, and how soon it knows.")
    parser.add_argument("what", nargs="*", choices=["codec", "idle", "flood", "cables", "saturated", []])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--profile", default="subsecond")
    parser.add_argument("--seconds", type=float, default=20.0, help="with idle")
    asked = parser.parse_args(words)
    for what in asked.what or ["codec", "idle", "flood"]:
        match what:
            case "codec":
                codec()
            case "idle":
                idle(asked.profile, asked.seconds)
            case "flood":
                asyncio.run(flood(asked.profile))
            case "cables":
                cables(asked.profile, asked.kills)
            case _:
                saturated(asked.profile, asked.minutes)
    return 0


# Codecs.


def _rate(step: Callable[[], object], *, seconds: float = 1.0) -> float:
    """Return how often a step is done in a second, the best of three."""
    best = 0.0
    for _ in range(3):
        count, started = 0, time.perf_counter()
        while (passed := time.perf_counter() - started) < seconds / 3:
            for _ in range(100):
                step()
            count += 100
        best = max(best, count / passed)
    return best


def codec() -> None:
    """Print packets decoded and encoded in a second: a ping, and a compound of an ack and four statements."""
    node, versions = "node-17.example.org", bytes([1, 5, 2, 0, 0, 0])
    ping = [Ping(4711, node, bytes([192, 0, 2, 1]), 7946, "node-3.example.org")]
    gossip = [
        Ack(4711),
        *(Alive(7, f"node-{n}.example.org", bytes([192, 0, 2, n]), 7946, b"mlpy1 subsecond;", versions) for n in (1, 2)),
        *(Suspect(7, f"node-{n}.example.org", node) for n in (3, 4)),
    ]
    for key in (None, KEY):
        envelope = Envelope(keyring=Keyring(key) if key else None)
        for what, messages in (("ping", ping), ("ack and 4 statements", gossip)):

            def encode(envelope: Envelope = envelope, messages: Sequence[object] = messages) -> bytes:
                parts = [wire.encode(message) for message in messages]  # type: ignore[arg-type]  # all are messages
                return packet.seal_packet(packet.make_compound(parts), envelope, lambda: os.urandom(12), checksum=True)

            data = encode()

            def decode(envelope: Envelope = envelope, data: bytes = data) -> object:
                return [wire.decode(part) for part in packet.open_packet(data, envelope).messages]

            print(
                f"codec  {'encrypted' if key else 'plain':9}  {what:20}  {len(data):4} bytes  "
                f"decoded {_rate(decode):8.0f}/s  encoded {_rate(encode):8.0f}/s"
            )


# Processes.


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def _resident_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _member(name: str, port: int, seed: int | None, profile: str, key_file: Path) -> subprocess.Popen[bytes]:
    words = ["--bind", f"127.0.0.1:{port}", "--name", name, "--profile", profile, "--key-file", str(key_file)]
    if seed is not None:
        words += ["--seed", f"127.0.0.1:{seed}"]
    return subprocess.Popen([sys.executable, "-m", "memberlist", "join", *words], cwd=ROOT, stdout=subprocess.DEVNULL)


def idle(profile: str, seconds: float) -> None:
    """Print what each of five members takes while nothing happens."""
    with tempfile.TemporaryDirectory() as folder:
        key_file = Path(folder) / "secret"
        key_file.write_bytes(SECRET)
        ports = [_free_port() for _ in range(5)]
        members: list[subprocess.Popen[bytes]] = []
        try:
            for number, port in enumerate(ports):
                members.append(_member(f"m{number}", port, ports[0] if number else None, profile, key_file))
                time.sleep(1.0)
            time.sleep(3.0)
            before = [_cpu_s(member.pid) for member in members]
            started = time.perf_counter()
            time.sleep(seconds)
            passed = time.perf_counter() - started
            shares = [(_cpu_s(member.pid) - spent) / passed for member, spent in zip(members, before, strict=True)]
        finally:
            for member in members:
                member.kill()
                member.wait()
        each = " ".join(f"{share:.2%}" for share in shares)
        print(f"idle   {profile}, ring of 5, encrypted, {passed:.0f} s: {each} of a core, mean {sum(shares) / 5:.2%}")


async def flood(profile: str) -> None:
    """Print how a member fares under 5,000 valid packets a second."""
    with tempfile.TemporaryDirectory() as folder:
        key_file = Path(folder) / "secret"
        key_file.write_bytes(SECRET)
        events: list[MemberEvent] = []
        agent = Agent(configured(profile, "flooded", "127.0.0.1", _free_port()), keyring=Keyring(KEY), on_event=events.append)
        await agent.start()
        port = agent.endpoint.port
        partners = [_member(f"m{number}", _free_port(), port, profile, key_file) for number in range(2)]
        try:
            async with asyncio.timeout(30):
                while len(agent.members()) < 3:  # noqa: ASYNC110  (members are other processes)
                    await asyncio.sleep(0.1)
            await asyncio.sleep(2.0)
            await _under_flood(agent, events, port)
        finally:
            for partner in partners:
                partner.kill()
                partner.wait()
            await agent.stop()


async def _under_flood(agent: Agent, events: list[MemberEvent], port: int) -> None:
    loop = asyncio.get_running_loop()
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    flooder = context.Process(target=_flooder, args=(port, answers))
    events.clear()
    flooder.start()
    await asyncio.sleep(1.5)  # It has to start, and the first second is a warm-up.
    memory, cpu = _resident_mib(os.getpid()), _cpu_s(os.getpid())
    answered, started = agent.probes_answered(), loop.time()
    latest = 0.0
    while loop.time() - started < FLOOD_S - 2:
        before = loop.time()
        await asyncio.sleep(0.01)
        latest = max(latest, loop.time() - before - 0.01)
    passed = loop.time() - started
    probes = (agent.probes_answered() - answered) / passed
    spent = (_cpu_s(os.getpid()) - cpu) / passed
    growth = _resident_mib(os.getpid()) - memory
    sent, acks = await loop.run_in_executor(None, answers.get)
    flooder.join()
    lost = [event for event in events if isinstance(event, Left | Suspected)]
    print(
        f"flood  {sent / FLOOD_S:.0f} valid packets/s for {FLOOD_S:.0f} s: {acks / sent:.1%} answered, own probes answered "
        f"{probes:.1f}/s, latest turn of the loop {1000 * latest:.0f} ms late, {spent:.0%} of a core, memory {growth:+.1f} MiB, "
        f"{len(lost)} suspicions or losses, {agent.counters()}"
    )


def _flooder(port: int, answers: multiprocessing.Queue[tuple[int, int]]) -> None:
    """Send pings at a steady pace and count what comes back."""
    envelope = Envelope(keyring=Keyring(KEY))
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 2**20)
    sock.setblocking(False)
    chance = random.Random(1)  # noqa: S311  (a load, not a secret)
    packets = [
        packet.seal_packet(wire.encode(Ping(number, "flooded")), envelope, lambda: chance.randbytes(12), checksum=True)
        for number in range(1000)
    ]
    started, sent, acks = time.perf_counter(), 0, 0
    while (passed := time.perf_counter() - started) < FLOOD_S:
        while sent < passed * FLOOD_PER_S:
            sock.sendto(packets[sent % len(packets)], ("127.0.0.1", port))
            sent += 1
        acks += _drained(sock)
        time.sleep(_BURST_S)
    time.sleep(0.5)
    answers.put((sent, acks + _drained(sock)))


def _drained(sock: socket.socket) -> int:
    count = 0
    while True:
        try:
            sock.recv(2048)
        except BlockingIOError:
            return count
        count += 1


# Namespaces.


def _percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[max(0, -(-int(share * 100) * len(values) // 100) - 1)]


def cables(profile: str, kills: int) -> None:
    """Print how long each of many pulled cables took to be known."""
    chance = random.Random(1)  # noqa: S311  (who is next)
    first: list[float] = []
    everyone: list[float] = []
    with tempfile.TemporaryDirectory() as folder, Cables(5, Path(folder), profile=profile) as ring:
        for number in range(1, kills + 1):
            time.sleep(1.0 + chance.random())
            times = ring.crash(chance.choice(ring.machines))
            first.append(min(times.values()))
            everyone.append(max(times.values()))
            print(f"cables {number:3}: first {first[-1]:.3f} s, all {everyone[-1]:.3f} s", flush=True)
    for what, values in (("first", first), ("all", everyone)):
        print(
            f"cables {profile}, 5 members, {len(values)} kills, {what}: p50 {_percentile(values, 0.5):.3f} s, "
            f"p99 {_percentile(values, 0.99):.3f} s, max {max(values):.3f} s; nobody else was reported lost"
        )


def _spin(end: float) -> None:
    while time.time() < end:
        pass


def saturated(profile: str, minutes: float) -> None:
    """Print who is taken for dead while all cores have other work."""
    with tempfile.TemporaryDirectory() as folder, Cables(5, Path(folder), profile=profile) as ring:
        time.sleep(2.0)
        began = time.time()
        cores = os.cpu_count() or 1
        load = [multiprocessing.Process(target=_spin, args=(began + 60 * minutes,)) for _ in range(cores)]
        for process in load:
            process.start()
        for process in load:
            process.join()
        losses = ring.losses(began)
        suspicions = sum(
            line["event"] == "suspected" and line["at"] >= began for machine in ring.machines for line in machine.lines()
        )
        print(
            f"saturated {profile}, 5 members, {cores} cores busy for {minutes:g} minutes: {len(losses)} wrong deaths "
            f"{losses or ''}, {suspicions} reports of a suspicion"
        )


if __name__ == "__main__":
    sys.exit(main())
