"""Join a ring by hand and watch it: `python -m memberlist join --bind IP:PORT --seed IP:PORT`.

For an operator who asks whether gossip works between two machines, and for tests with foreign peers. Prints what happens, one
line each, until SIGINT or SIGTERM; then leaves. Exit status: 0, 1 when no seed answered or the address cannot be had, 2
for wrong arguments. It is a full member while it runs: under a speaker's name it would be taken for that speaker.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from memberlist.agent import Agent
from memberlist.config import PORT, Config, lan, wan
from memberlist.effects import Endpoint, Member, MemberEvent
from memberlist.errors import ConfigError
from memberlist.keyring import Keyring, metallb_key
from memberlist.measures import PROFILE_NAMES
from memberlist.profiles import configured
from memberlist.seeds import parse

_LEAVE_S: Final = 1.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = _parser().parse_args(argv)
    try:
        config = _config(arguments)
        keyring = Keyring(metallb_key(arguments.key_file.read_bytes())) if arguments.key_file else None
    except (ConfigError, OSError) as wrong:
        sys.stderr.write(f"memberlist: {wrong}\n")
        return 2
    return asyncio.run(_watch(config, keyring, arguments.seed, _Lines(json_lines=arguments.output == "json")))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m memberlist", description="Take part in a gossip ring.")
    join = parser.add_subparsers(required=True, metavar="COMMAND").add_parser("join", help="join a ring and watch it")
    join.add_argument("--bind", required=True, type=_endpoint, metavar="IP[:PORT]", help="own address (UDP and TCP)")
    join.add_argument("--seed", action="append", default=[], type=_seed, metavar="HOST[:PORT]", help="may be repeated")
    join.add_argument("--name", default=socket.gethostname(), help="member name, unique in the ring (default: host name)")
    join.add_argument("--key-file", type=Path, metavar="FILE", help="MetalLB's secret, byte for byte (default: plain text)")
    timing = join.add_mutually_exclusive_group()
    timing.add_argument("--wan", action="store_true", help="timing for several sites, as --ml-wan-config")
    timing.add_argument("--profile", choices=PROFILE_NAMES, help="how soon a crash is found out (default: as Go's LAN preset)")
    join.add_argument("--delegate-versions", type=_versions, default=(0, 0, 0), metavar="MIN,MAX,SPOKEN", help="serf: 2,5,4")
    join.add_argument("-o", dest="output", choices=["text", "json"], default="text", help="form of the lines")
    return parser


def _config(arguments: argparse.Namespace) -> Config:
    bind: Endpoint = arguments.bind
    versions = arguments.delegate_versions
    if arguments.profile:
        return configured(arguments.profile, arguments.name, bind.address, bind.port, delegate_versions=versions)
    preset = wan if arguments.wan else lan
    return preset(arguments.name, bind.address, bind.port, delegate_versions=versions)


def _endpoint(text: str) -> Endpoint:
    host, port = text, str(PORT)
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":") or port
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    try:
        return Endpoint(ip_address(host), int(port))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not IP or IP:PORT; IPv6 with a port is [IP]:PORT") from None


def _seed(text: str) -> tuple[str, int]:
    try:
        return parse(text)
    except ConfigError as wrong:
        raise argparse.ArgumentTypeError(str(wrong)) from None


def _versions(text: str) -> tuple[int, int, int]:
    try:
        low, high, spoken = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not three numbers such as 2,5,4") from None
    return low, high, spoken


@dataclass(frozen=True, slots=True)
class _Lines:
    """Writes what happens, one line each, with seconds since the epoch."""

    json_lines: bool

    def write(self, what: str, **facts: object) -> None:
        """Write a line: a word for what happened, and facts that JSON can hold."""
        at = round(time.time(), 3)
        if self.json_lines:
            line = json.dumps({"at": at, "event": what, **facts})
        else:
            line = " ".join([f"{at:.3f}", what, *(f"{name}={fact}" for name, fact in facts.items())])
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    def write_event(self, event: MemberEvent) -> None:
        """Write a member event."""
        facts: dict[str, object] = {}
        for field in fields(event):
            value = getattr(event, field.name)
            facts |= _facts(value) if isinstance(value, Member) else {field.name: _plain(value)}
        self.write(type(event).__name__.lower(), **facts)


def _facts(member: Member) -> dict[str, object]:
    return {
        "name": member.name,
        "address": str(Endpoint(member.address, member.port)),
        "state": member.state.name.lower(),
        "incarnation": member.incarnation,
        "profile": member.profile,
        "meta": member.meta.decode(errors="replace"),
    }


def _plain(value: object) -> object:
    """Return what JSON can hold."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if isinstance(value, (int, float)) else str(value)


async def _watch(config: Config, keyring: Keyring | None, seeds: Sequence[tuple[str, int]], lines: _Lines) -> int:
    stop = asyncio.Event()
    _on_signals(stop.set)
    agent = Agent(config, keyring=keyring, on_event=lines.write_event)
    try:
        await agent.start()
    except OSError as fault:
        sys.stderr.write(f"memberlist: {fault.strerror or fault}\n")
        return 1
    try:
        lines.write("listening", name=config.name, address=str(agent.endpoint))
        if seeds:
            answered = await agent.join(seeds)
            lines.write("asked", seeds=len(seeds), answered=answered)
            if not answered:
                sys.stderr.write("memberlist: no seed answered; is the address right, and the key the same?\n")
                return 1
        await stop.wait()
        await agent.leave(timeout_s=_LEAVE_S)
        lines.write("left", rejections=agent.rejections())
    finally:
        await agent.stop()
    return 0


def _on_signals(stop: Callable[[], None]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop)


if __name__ == "__main__":
    sys.exit(main())
