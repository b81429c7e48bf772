"""Put faults in force in a running lab, and take them back. Part of the supervisor; lab.faults says what each fault means.

One Injector per lab. It owns the list of faults in force, the rules on the switch and the program that delays frames. What a
fault does to processes is done by their owners: kubelets (power, freezing) and the API server. It refuses a fault that cannot
be, one that is in force already, and taking back one that is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from lab import faults, netns, proxies
from lab.delay import Cables
from lab.faults import AnyFault, ApiStop, Fault, FaultError, Freeze, Kill, LinkDown
from lab.images import CLONE
from lab.kubelet import Kubelet
from lab.paths import LabError
from lab.topology import SWITCH, Topology
from telemetry.log import get_logger

ANSWER_S: Final = 10.0
END_S: Final = 2.0

log = get_logger(__name__)


class Api(Protocol):
    """What a fault does to the API server."""

    async def stop(self) -> None:
        """Kill it and keep it away."""

    async def allow(self) -> None:
        """Let it come back, and wait until it has."""


class Injector:
    """The faults of one lab. `lost` is awaited when a node has lost its power, `revived` when it is back in any way."""

    def __init__(
        self,
        topology: Topology,
        state: Path,
        kubelets: Mapping[str, Kubelet],
        api: Api,
        *,
        lost: Callable[[str], Awaitable[None]],
        revived: Callable[[str], Awaitable[None]],
    ) -> None:
        self._topology = topology
        self._kubelets = kubelets
        self._api = api
        self._lost = lost
        self._revived = revived
        self._since: dict[AnyFault, float] = {}
        self._busy = asyncio.Lock()
        self._rules = faults.rules(())
        self._unplugged: frozenset[str] = frozenset()
        self._delayer = Delayer(topology, state)

    @property
    def in_force(self) -> Mapping[AnyFault, float]:
        """The faults in force, oldest first, with the time of CLOCK_MONOTONIC when each was there."""
        return self._since

    def silent(self) -> frozenset[str]:
        """The nodes whose kubelet does not get through to the API server."""
        return faults.silent(tuple(self._since))

    async def inject(self, fault: AnyFault) -> dict[str, Any]:
        """Put a fault in force; returns `at` (when), and for a killed node `unplugged` and `dead`, all CLOCK_MONOTONIC.

        Raises:
            FaultError, TopologyError: it cannot be.
            LabError: it is in force already.
            OSError, NetlinkError, DataplaneError: the kernel refused.

        """
        fault.check(self._topology)
        async with self._busy:
            if fault in self._since:
                raise LabError(f"{fault}: that is in force already")
            if isinstance(fault, Freeze) and Kill(fault.node) in self._since:
                raise LabError(f"{fault}: {fault.node} has no power; restore it first")
            wanted = [each for each in self._since if each.place != fault.place]
            result: dict[str, Any] = {}
            await self._lay(*wanted, fault)
            match fault:
                case Kill(node):
                    result["unplugged"] = time.monotonic()
                    await self._kubelets[node].power_off()
                    result["dead"] = time.monotonic()
                    await self._lost(node)
                case Freeze(node):
                    await self._kubelets[node].freeze()
                case ApiStop():
                    await self._api.stop()
            result["at"] = time.monotonic()
            self._since = {each: self._since[each] for each in wanted} | {fault: result["at"]}
            log.info("fault_injected", fault=str(fault))
            return result

    async def heal(self, fault: Fault | None = None) -> dict[str, Any]:
        """Take a fault back, or all of them, latest first; returns the names of those taken back under `healed`.

        Raises:
            LabError: this fault is not in force.
            OSError, NetlinkError, DataplaneError: the kernel refused.

        """
        async with self._busy:
            chosen = [each for each in self._since if fault is None or (type(each), each.place) == (type(fault), fault.place)]
            if fault is not None and not chosen and fault != ApiStop():  # An API server that runs may well be started.
                there = ", ".join(f"'{each}'" for each in self._since) or "none"
                raise LabError(f"{fault}: that is not in force; in force: {there}")
            for each in reversed(chosen):
                await self._lay(*(other for other in self._since if other != each))
                del self._since[each]
                match each:
                    case Kill(node):
                        self._kubelets[node].power_on()
                    case Freeze(node):
                        self._kubelets[node].thaw()
                    case ApiStop():
                        await self._api.allow()
                if isinstance(each, Kill | Freeze | LinkDown):
                    await self._revived(each.node)
                log.info("fault_healed", fault=str(each))
            return {"healed": [str(each) for each in chosen]}

    async def kill_process(self, node: str, name: str) -> dict[str, Any]:
        """Kill (SIGKILL) what runs on a node in the containers of this name, or in the Pods whose name starts so.

        Raises:
            TopologyError: there is no such node.
            LabError: nothing of that name runs there.

        """
        running = self._kubelets[self._topology.node(node).name].pids()
        found = {
            f"{key}/{container}": pid
            for key, containers in running.items()
            for container, pid in containers.items()
            if name == container or key.split("/")[-1].startswith(name)
        }
        if not found:
            there = ", ".join(sorted({container for containers in running.values() for container in containers})) or "nothing"
            raise LabError(f"no container {name!r}, and no Pod whose name starts so, runs on {node}; there runs {there}")
        for pid in found.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        log.info("processes_killed", node=node, processes=sorted(found))
        return {"killed": sorted(found), "at": time.monotonic()}

    @contextlib.asynccontextmanager
    async def ready(self) -> AsyncIterator[None]:
        """For as long as the body runs, faults can be put in force; afterwards the program that delays frames is gone."""
        try:
            yield
        finally:
            await self._delayer.close()

    async def _lay(self, *wanted: AnyFault) -> None:
        """Bring the switch to what these faults mean for it."""
        pulled = faults.unplugged(wanted)
        for name in pulled - self._unplugged:  # First: of a node without power nothing more is heard.
            await netns.unplug(self._topology, name)
        rules = faults.rules(wanted)
        if rules != self._rules:
            await proxies.apply(self._topology.netns(SWITCH), rules)
            self._rules = rules
        await self._delayer.follow(faults.delays(wanted, self._topology))
        for name in self._unplugged - pulled:
            await netns.plug(self._topology, name)
        self._unplugged = pulled


class Delayer:
    """The program lab.delay, started when the first cable is delayed, and the cables laid through it."""

    def __init__(self, topology: Topology, state: Path) -> None:
        self._topology = topology
        self._state = state
        self._process: asyncio.subprocess.Process | None = None
        self._cables: Mapping[str, tuple[float, float]] = {}

    async def follow(self, wanted: Mapping[str, tuple[float, float]]) -> None:
        """Delay these cables and no others.

        Raises:
            LabError: the program did not do it. OSError, NetlinkError: the kernel refused.

        """
        if wanted == self._cables:
            return
        for name in self._cables.keys() - wanted.keys():
            await netns.straighten(self._topology, name)
        if not wanted:
            await self.close()
            return
        try:
            await self._tell(wanted)
        except LabError:  # Without the program its cables lead nowhere.
            for name in self._cables.keys() & wanted.keys():
                await netns.straighten(self._topology, name)
            await self.close()
            raise
        for name in wanted.keys() - self._cables.keys():
            await netns.detour(self._topology, name)
        self._cables = wanted

    async def close(self) -> None:
        """End the program; its taps go with it."""
        self._cables = {}
        if self._process is None:
            return
        process, self._process = self._process, None
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(END_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    async def _tell(self, wanted: Mapping[str, tuple[float, float]]) -> None:
        if self._process is None:
            # The state directory on its command line says whose it is (lab.leftovers).
            self._process = await asyncio.create_subprocess_exec(
                *netns.enter(self._topology.netns(SWITCH), [sys.executable, "-m", "lab.delay", str(self._state)]),
                cwd=CLONE,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(msgspec.json.encode(Cables(dict(wanted))) + b"\n")
            async with asyncio.timeout(ANSWER_S):
                answer = (await self._process.stdout.readline()).decode().strip()
        except (ConnectionError, TimeoutError) as error:
            raise LabError(f"the program that delays frames does not answer ({error})") from error
        if answer != "ok":
            raise LabError(answer or "the program that delays frames ended")


__all__ = ["Delayer", "FaultError", "Injector"]
