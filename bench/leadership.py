"""How long nobody assigns addresses when the leading controller is killed: `python -m bench.leadership [--durations 2 15]`.

Two controller processes, the lab's API server, and a user who creates a Service right after the leader was killed with SIGKILL.
Printed are the time until that Service has its address and its ratio to the lease's duration; a leader that is told to
end (SIGTERM) gives the lease back, so that takes no part of it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from statistics import median
from typing import Final

from bench.controller import NAMESPACE, Lab, Process, lab, say
from kube.errors import NotFound
from kube.objects import RawObject
from kube.resources import LEASES, SERVICES

LEASE: Final = "metallb-py-controller"
LOOK_EVERY_S: Final = 0.005
GOALS_S: Final = {2: "< 3 s", 15: "<= 15 s + 2"}


@contextlib.asynccontextmanager
async def replica(where: Lab, name: str, duration_s: int) -> AsyncIterator[Process]:
    """A controller that leads or waits."""
    command = [
        *(sys.executable, "-m", "controller", f"--namespace={NAMESPACE}", f"--pod-name={name}", "--port=0"),
        *("--health-probe-port=0", "--webhook-mode=disabled", "--log-level=error"),
        *(f"--status-socket={where.path}/{name}", f"--lease-duration={duration_s}s"),
    ]
    environment = {**os.environ, "KUBECONFIG": where.ready["kubeconfig"]}
    process = Process(await asyncio.create_subprocess_exec(*command, env=environment))
    try:
        yield process
    finally:
        await process.end()


async def until_held_by(where: Lab, name: str) -> None:
    """Return once this replica has the lease."""
    while True:
        lease: RawObject | None = None
        with contextlib.suppress(NotFound):
            lease = await where.client.get(LEASES, LEASE, NAMESPACE)
        if lease is not None and (lease.document.get("spec") or {}).get("holderIdentity") == name:
            return
        await asyncio.sleep(LOOK_EVERY_S)


async def addressed_after_s(where: Lab, name: str) -> float:
    """Create a Service; how long it takes to get its address."""
    since = time.perf_counter()
    await where.create(name)
    while not (await where.client.get(SERVICES, name, "default")).status.load_balancer.ingress:  # noqa: ASYNC110 - as a user looks
        await asyncio.sleep(LOOK_EVERY_S)
    return time.perf_counter() - since


async def takeover_s(where: Lab, number: int, duration_s: int, how: signal.Signals) -> float:
    """End the leader; how long until a new Service has an address."""
    first, second = f"r{number}-a", f"r{number}-b"
    async with replica(where, first, duration_s) as leader:
        await until_held_by(where, first)
        async with replica(where, second, duration_s):
            await addressed_after_s(where, f"before-{number}")
            while not (where.path / second).exists():  # noqa: ASYNC110 - the file of a socket has no event
                await asyncio.sleep(LOOK_EVERY_S)
            await asyncio.sleep(1.0)  # Its caches are full by then.
            leader.child.send_signal(how)
            await leader.child.wait()
            return await addressed_after_s(where, f"after-{number}")


async def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--durations", type=int, nargs="+", default=[2, 15], help="durations of the lease, in seconds")
    parser.add_argument("--runs", type=int, default=3)
    chosen = parser.parse_args()
    number = 0
    async with lab() as where:
        for duration_s in chosen.durations:
            for how in (signal.SIGKILL, signal.SIGTERM):
                took = []
                for _ in range(chosen.runs):
                    number += 1
                    took.append(await takeover_s(where, number, duration_s, how))
                middle, longest = median(took), max(took)
                goal = GOALS_S.get(duration_s, "") if how is signal.SIGKILL else ""
                title = f"{how.name} of the leader, lease of {duration_s} s: new address after"
                say(title, f"{middle:.2f} s, at most {longest:.2f}", goal)
                say("  as a share of the lease", f"{longest / duration_s:.2f}")


if __name__ == "__main__":
    asyncio.run(main())
