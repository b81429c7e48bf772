"""A ring of three on loopback: they meet, one says hello, one dies, the others find out. `python -m memberlist.example`.

For whoever wants to see the package at work before reading it. Used by nothing.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
from functools import partial

from memberlist import Agent, Keyring, Left, MemberEvent, MessageReceived, configured


def told(name: str, gone: asyncio.Event, event: MemberEvent) -> None:
    """Print what a member hears."""
    match event:
        case MessageReceived(payload=payload):
            what = f"hears {payload.decode()!r}"
        case Left(member=member, cause=cause):
            what = f"sees {member.name} gone: {cause}"
            gone.set()
        case _:
            what = type(event).__name__.lower()
    sys.stdout.write(f"{name}: {what}\n")


async def main() -> None:
    """Run the ring; returns once the crash is found out."""
    key = secrets.token_bytes(32)
    gone = {name: asyncio.Event() for name in ("anna", "bert", "carl")}
    ring: list[Agent] = []
    for name, event in gone.items():
        config = configured("subsecond", name, "127.0.0.1", 0)
        agent = Agent(config, keyring=Keyring(key), on_event=partial(told, name, event))
        await agent.start()
        ring.append(agent)
    anna, bert, carl = ring
    try:
        for newcomer in (bert, carl):
            await newcomer.join([(str(anna.endpoint.address), anna.endpoint.port)])
        anna.send_reliably(bert.endpoint, b"hello")
        await asyncio.sleep(1.0)  # So that they have probed each other.
        await carl.stop()  # Without a word: for the others this is a crash.
        await gone["anna"].wait()
        await gone["bert"].wait()
        sys.stdout.write(f"left over: {', '.join(member.name for member in anna.members())}\n")
    finally:
        for agent in ring:
            await agent.stop()


if __name__ == "__main__":
    asyncio.run(main())
