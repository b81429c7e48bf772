"""Rings of real serf agents and members of ours on loopback: what test_serf_rings.py starts, asks and ends.

serf is hashicorp's own memberlist with an application on top, whose messages are spoken here as far as the tests need: tags
in the metadata, user events, and the farewell without which serf calls every leave a failure.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import msgpack

from memberlist import Agent, Cause, Joined, Keyring, Left, MemberEvent, lan, profiles
from memberlist.effects import MessageReceived

ROOT: Final = Path(__file__).parents[2]
DELEGATE_VERSIONS: Final = (2, 5, 4)  # serf's own protocol on top of memberlist's; it refuses members that do not speak it.
LIMIT_S: Final = 60.0
_TAGS: Final = b"\xff"
_LEAVE, _USER_EVENT = 0, 3


class NotSeenError(AssertionError):
    """Something that should have come about did not, in a time that is long enough for any machine."""


async def eventually(claim: str, holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something holds."""
    try:
        async with asyncio.timeout(LIMIT_S):
            while not await holds():  # noqa: ASYNC110  (serf cannot set an event of ours)
                await asyncio.sleep(0.2)
    except TimeoutError:
        raise NotSeenError(f"not within {LIMIT_S:g} s: {claim}") from None


def free_port(host: str) -> int:
    """Return a port that is free for UDP and TCP."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    while True:
        with socket.socket(family, socket.SOCK_STREAM) as tcp, socket.socket(family, socket.SOCK_DGRAM) as udp:
            tcp.bind((host, 0))
            port: int = tcp.getsockname()[1]
            try:
                udp.bind((host, port))
            except OSError:
                continue
            return port


def written(host: str, port: int) -> str:
    """Return an address as both command lines take it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def tags(**named: str) -> bytes:
    """Return metadata that serf reads as tags."""
    packed: bytes = msgpack.packb(named, use_bin_type=False)
    return _TAGS + packed


def read_tags(meta: bytes) -> dict[str, str]:
    """Return the tags in metadata of serf."""
    assert meta[:1] == _TAGS
    return {key.decode(): value.decode() for key, value in msgpack.unpackb(meta[1:], raw=True).items()}


def user_event(name: str, payload: bytes, clock: int) -> bytes:
    """Return a user message that serf takes for a user event."""
    packed: bytes = msgpack.packb({"LTime": clock, "Name": name, "Payload": payload, "CC": False}, use_bin_type=False)
    return bytes([_USER_EVENT]) + packed


def farewell(name: str, clock: int) -> bytes:
    """Return a user message by which serf tells a leave from a failure."""
    packed: bytes = msgpack.packb({"LTime": clock, "Node": name, "Prune": False}, use_bin_type=False)
    return bytes([_LEAVE]) + packed


def read_user_event(payload: bytes) -> tuple[str, bytes] | None:
    """Return name and payload of a serf user event, None for serf's other messages."""
    if payload[:1] != bytes([_USER_EVENT]):
        return None
    event: dict[bytes, Any] = msgpack.unpackb(payload[1:], raw=True)
    return event[b"Name"].decode(), event[b"Payload"] or b""


@dataclass
class Serf:
    """A serf agent: a process."""

    name: str
    host: str
    port: int
    rpc: str
    folder: Path
    key: bytes | None
    process: asyncio.subprocess.Process | None = None

    @property
    def address(self) -> str:
        return written(self.host, self.port)

    @property
    def log(self) -> str:
        return (self.folder / f"{self.name}.log").read_text()

    @property
    def events(self) -> str:
        """What its event handler was given."""
        path = self.folder / f"{self.name}.events"
        return path.read_text() if path.exists() else ""

    async def start(self) -> None:
        words = [
            f"-node={self.name}",
            f"-bind={self.address}",
            f"-rpc-addr={self.rpc}",
            "-log-level=debug",
            f"-tag=kind={self.name}",
            f"-event-handler=user=cat >> {self.folder / self.name}.events",
        ]
        if self.key is not None:
            words.append(f"-encrypt={base64.b64encode(self.key).decode()}")
        with (self.folder / f"{self.name}.log").open("ab") as output:
            self.process = await asyncio.create_subprocess_exec("serf", "agent", *words, stdout=output, stderr=output)

        async def answers() -> bool:
            return bool(await self.members())

        await eventually(f"{self.name} answers its RPC", answers)

    async def run(self, *words: str, timeout_s: float = LIMIT_S) -> tuple[int, str]:
        """Run a serf command against this agent."""
        command = words[0]
        asked = await asyncio.create_subprocess_exec(
            "serf",
            command,
            f"-rpc-addr={self.rpc}",
            *words[1:],
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await asyncio.wait_for(asked.communicate(), timeout_s)
        return asked.returncode or 0, output.decode()

    async def members(self) -> dict[str, dict[str, Any]]:
        status, output = await self.run("members", "-format=json")
        return {member["name"]: member for member in json.loads(output)["members"]} if status == 0 else {}

    async def statuses(self) -> dict[str, str]:
        return {name: member["status"] for name, member in (await self.members()).items()}

    async def kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(signal.SIGKILL)
            await self.process.wait()


@dataclass
class Ours:
    """A member of ours in this process."""

    name: str
    host: str
    port: int
    key: bytes | None
    profile: str = ""
    agent: Agent | None = None
    keyring: Keyring | None = None
    events: list[MemberEvent] = field(default_factory=list)

    @property
    def address(self) -> str:
        return written(self.host, self.port)

    async def start(self) -> None:
        self.keyring = None if self.key is None else Keyring(self.key)
        settings: dict[str, Any] = {"delegate_versions": DELEGATE_VERSIONS, "meta": tags(kind=self.name)}
        if self.profile:
            config = profiles.configured(self.profile, self.name, self.host, self.port, **settings)
        else:
            config = lan(self.name, self.host, self.port, **settings)
        self.agent = Agent(config, keyring=self.keyring, on_event=self.events.append)
        await self.agent.start()

    async def stop(self) -> None:
        """End without a word."""
        if self.agent is not None:
            await self.agent.stop()
            self.agent = None

    async def join(self, other: Serf | Ours) -> bool:
        assert self.agent is not None
        return await self.agent.join([(other.host, other.port)], timeout_s=LIMIT_S) == 1

    def states(self) -> dict[str, int]:
        """Return who is there, and under which incarnation."""
        return {member.name: member.incarnation for member in self.agent.members()} if self.agent else {}

    def meta(self, name: str) -> bytes:
        assert self.agent is not None
        return next(member.meta for member in self.agent.members() if member.name == name)

    def joined(self, name: str) -> int:
        return sum(isinstance(event, Joined) and event.member.name == name for event in self.events)

    def lost(self) -> list[tuple[str, Cause]]:
        """Return who went, in order, and why."""
        return [(event.member.name, event.cause) for event in self.events if isinstance(event, Left)]

    def user_events(self) -> list[tuple[str, bytes]]:
        found = [read_user_event(event.payload) for event in self.events if isinstance(event, MessageReceived)]
        return [event for event in found if event is not None]


@dataclass
class Process:
    """A member of ours in a process of its own, which can be killed."""

    name: str
    host: str
    port: int
    key_file: Path | None
    folder: Path
    process: asyncio.subprocess.Process | None = None

    @property
    def address(self) -> str:
        return written(self.host, self.port)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / f"{self.name}.json").read_text().splitlines()]

    async def start(self, seed: Serf | Ours) -> None:
        words = ["--bind", self.address, "--name", self.name, "--seed", seed.address, "-o", "json"]
        words += ["--delegate-versions", ",".join(map(str, DELEGATE_VERSIONS))]
        if self.key_file is not None:
            words += ["--key-file", str(self.key_file)]
        with (self.folder / f"{self.name}.json").open("ab") as output, (self.folder / f"{self.name}.err").open("ab") as errors:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "memberlist", "join", *words, cwd=ROOT, stdout=output, stderr=errors, env=dict(os.environ)
            )

    async def kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(signal.SIGKILL)
            await self.process.wait()


class Rings:
    """Ends whatever was started, whatever happened."""

    def __init__(self, folder: Path, host: str, key: bytes | None, key_file: Path | None) -> None:
        self.folder, self.host, self.key = folder, host, key
        self._key_file = key_file
        self._ends = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self._ends.aclose()

    def serf(self, name: str) -> Serf:
        serf = Serf(name, self.host, free_port(self.host), f"127.0.0.1:{free_port('127.0.0.1')}", self.folder, self.key)
        self._ends.push_async_callback(serf.kill)
        return serf

    def ours(self, name: str, profile: str = "") -> Ours:
        ours = Ours(name, self.host, free_port(self.host), self.key, profile)
        self._ends.push_async_callback(ours.stop)
        return ours

    def process(self, name: str) -> Process:
        process = Process(name, self.host, free_port(self.host), self._key_file, self.folder)
        self._ends.push_async_callback(process.kill)
        return process
