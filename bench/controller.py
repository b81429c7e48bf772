"""How fast the controller is, and what it costs: `python -m bench.controller [--services 1000 10000]` prints a table.

The controller and the lab's API server run as processes of their own; this process plays the user, with 16 requests at a
time, and reads CPU and memory of both from /proc. Absolutes depend on the machine, and on two cores the three processes
share them, so the API server's share is printed beside the controller's. Decisions are timed without any of that.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import yaml

from config import crd
from config.kinds import GROUP
from config.model import Config, Pool, PoolName
from config.values import parse_range
from controller.plan import Change, Planner
from controller.world import Service
from kube import objects
from kube.auth import Credentials
from kube.client import KubeClient
from kube.resources import EVENTS, NAMESPACES, SERVICES, Resource

NAMESPACE: Final = "metallb-system"
USERS: Final = 16
TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
IDLE_S: Final = 10.0
CUSTOM_RESOURCES: Final = Resource(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", objects.RawObject, namespaced=False
)
POOLS: Final = Resource(GROUP, "v1beta1", "ipaddresspools", "IPAddressPool", objects.RawObject)
POOL: Final = "10.0.0.0/16"


def say(name: str, value: str, goal: str = "") -> None:
    """One line of the table."""
    print(f"{name:62} {value:>22} {goal:>16}", flush=True)


@dataclass
class Process:
    """A process of ours, seen from outside."""

    child: asyncio.subprocess.Process

    @property
    def cpu_s(self) -> float:
        """User and system time since its start, in seconds."""
        fields = Path(f"/proc/{self.child.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_S

    @property
    def rss_mib(self) -> float:
        """Resident memory, in MiB."""
        lines = Path(f"/proc/{self.child.pid}/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024

    async def end(self) -> None:
        """Ask it to end, and wait."""
        if self.child.returncode is None:
            self.child.send_signal(signal.SIGTERM)
            await self.child.wait()


@contextlib.asynccontextmanager
async def api_server(state: Path) -> AsyncIterator[tuple[Process, Path]]:
    """The lab's API server and the kubeconfig of its administrator."""
    command = [sys.executable, "-m", "lab.apiserver.server", "--listen", "127.0.0.1:0", "--state", str(state)]
    child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    process = Process(child)
    try:
        assert child.stdout is not None
        ready = json.loads(await child.stdout.readline())
        yield process, Path(ready["kubeconfig"])
    finally:
        await process.end()


@dataclass
class Lab:
    """An API server with our kinds, and a client for the user."""

    server: Process
    kubeconfig: Path
    client: KubeClient
    path: Path

    @contextlib.asynccontextmanager
    async def controller(self) -> AsyncIterator[Process]:
        """A controller; its status socket is in the lab's folder."""
        command = [
            *(sys.executable, "-m", "controller", f"--namespace={NAMESPACE}", "--pod-name=controller-bench", "--port=0"),
            *("--health-probe-port=0", "--webhook-mode=disabled", "--log-level=error", f"--status-socket={self.path}/socket"),
        ]
        environment = os.environ | {"KUBECONFIG": str(self.kubeconfig)}
        child = await asyncio.create_subprocess_exec(*command, env=environment)
        process = Process(child)
        try:
            yield process
        finally:
            await process.end()

    async def ask(self, path: str) -> bytes:
        """What the controller answers on its socket."""
        reader, writer = await asyncio.open_unix_connection(f"{self.path}/socket")
        writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        return answer.partition(b"\r\n\r\n")[2]

    async def status_writes(self) -> int:
        """Service statuses written since the controller started."""
        lines = (await self.ask("/metrics")).decode().splitlines()
        (value,) = (line.split()[1] for line in lines if line.startswith("metallb_controller_status_writes_total "))
        return round(float(value))

    async def create(self, name: str) -> None:
        """Create a Service."""
        document = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name},
            "spec": {
                "type": "LoadBalancer",
                "ports": [{"port": 80}],
                "selector": {"app": name},
                "allocateLoadBalancerNodePorts": False,  # There are only 2,768 of them.
            },
        }
        await self.client.create(SERVICES, document, namespace="default")


@contextlib.asynccontextmanager
async def lab() -> AsyncIterator[Lab]:
    """A fresh lab."""
    with tempfile.TemporaryDirectory() as folder:
        async with api_server(Path(folder) / "api") as (server, kubeconfig):
            client = await KubeClient.connect(Credentials.from_environment(str(kubeconfig), environment={}))
            try:
                for text in crd.files().values():
                    await client.create(CUSTOM_RESOURCES, yaml.safe_load(text))
                await client.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
                document = {
                    "apiVersion": f"{GROUP}/v1beta1",
                    "kind": "IPAddressPool",
                    "metadata": {"name": "default"},
                    "spec": {"addresses": [POOL]},
                }
                await client.create(POOLS, document, namespace=NAMESPACE)
                yield Lab(server, kubeconfig, client, Path(folder))
            finally:
                await client.close()


class Addresses:
    """Counts Services with an address, from a watch; the status writes are what it sees of the controller."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.got: set[str] = set()
        self._more = asyncio.Event()

    async def follow(self) -> None:
        """Watch for ever."""
        some, version = await self._lab.client.list(SERVICES)
        for one in some:
            self._take(one)
        async for event in self._lab.client.watch(SERVICES, resource_version=version, timeout_s=3000):
            if event.object is not None:
                self._take(event.object)

    def _take(self, service: objects.Service) -> None:
        if service.status.load_balancer.ingress:
            self.got.add(service.metadata.name)
            self._more.set()

    async def until(self, met: Callable[[], bool]) -> None:
        """Return once the condition is met; it is asked at every address."""
        async with asyncio.timeout(600):
            while not met():
                self._more.clear()
                await self._more.wait()


async def events_come(lab: Lab, count: int) -> None:
    """Return once there are so many Events. One list and a watch: who lists again and again measures himself."""
    some, version = await lab.client.list(EVENTS, namespace="default")
    names = {one.metadata.name for one in some}
    if len(names) < count:
        async for event in lab.client.watch(EVENTS, resource_version=version, namespace="default", timeout_s=600):
            if event.object is not None:
                names.add(event.object.metadata.name)
            if len(names) >= count:
                return


@contextlib.asynccontextmanager
async def following(lab: Lab) -> AsyncIterator[Addresses]:
    """Addresses that are followed as long as the block."""
    addresses = Addresses(lab)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(addresses.follow(), name="watch")
        try:
            yield addresses
        finally:
            task.cancel()


async def until_ready(lab: Lab) -> None:
    """Return once the controller has decided everything it knows."""
    async with asyncio.timeout(120):
        while True:
            with contextlib.suppress(OSError, json.JSONDecodeError):
                said: dict[str, Any] = json.loads(await lab.ask("/status"))
                if said["world"]["ready"] and not said["pending_writes"]:
                    return
            await asyncio.sleep(0.02)


async def burst(lab: Lab, count: int) -> None:
    """Create Services, 16 at a time, and see when the last one has its address."""
    async with lab.controller() as controller, following(lab) as addresses:
        await until_ready(lab)
        cpu_s, server_cpu_s = controller.cpu_s, lab.server.cpu_s
        names = iter(range(count))

        async def user() -> None:
            for number in names:
                await lab.create(f"s{number}")

        begun = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in range(USERS):
                group.create_task(user(), name=f"user-{number}")
        created = time.perf_counter()
        await addresses.until(lambda: len(addresses.got) >= count)
        done = time.perf_counter()
        used_s, server_used_s = controller.cpu_s - cpu_s, lab.server.cpu_s - server_cpu_s
        writes = await lab.status_writes()
        goals = {1000: ("<= 1 s", "<= 1.5 s", "<= 78 MiB"), 10_000: ("<= 6 s", "<= 12 s", "<= 110 MiB")}.get(
            count, ("", "", "")
        )
        say(f"{count} Services: first create to last create", f"{created - begun:.2f} s")
        say(f"{count} Services: last create to last address", f"{done - created:.2f} s", goals[0])
        await events_come(lab, count)
        say(f"{count} Services: last address to last Event", f"{time.perf_counter() - done:.2f} s", "may trail")
        say(f"{count} Services: controller CPU until the last address", f"{used_s:.2f} s")
        say(f"{count} Services: controller CPU until the last Event", f"{controller.cpu_s - cpu_s:.2f} s", goals[1])
        say(f"{count} Services: API server CPU until the last address", f"{server_used_s:.2f} s")
        say(f"{count} Services: controller memory", f"{controller.rss_mib:.0f} MiB", goals[2])
        say(f"{count} Services: status writes per Service", f"{writes / count:.3f}", "1")
        events = len((await lab.client.list(EVENTS, namespace="default"))[0])
        say(f"{count} Services: Events per Service", f"{events / count:.3f}", "1")
        before = controller.cpu_s
        await asyncio.sleep(IDLE_S)
        say("idle: share of a core", f"{(controller.cpu_s - before) / IDLE_S:.2%}", "<= 0.2 %")
        say("idle: status writes", str(await lab.status_writes() - writes), "0")


async def restart(lab: Lab, count: int) -> None:
    """Start a controller on Services that have their addresses; a new one comes in the same moment."""
    async with following(lab) as addresses:
        await addresses.until(lambda: len(addresses.got) >= count)
        name = f"new{count}"
        begun = time.perf_counter()
        async with lab.controller() as controller:
            await lab.create(name)
            await addresses.until(lambda: name in addresses.got)
            took_s = time.perf_counter() - begun
            await until_ready(lab)
            goal = {1000: "<= 1.5 s", 10_000: "<= 3 s"}.get(count, "")
            say(f"{count} Services present: start to address of a new one", f"{took_s:.2f} s", goal)
            say(f"{count} Services present: other status writes after it", str(await lab.status_writes() - 1), "0")
            say(f"{count} Services present: memory after a restart", f"{controller.rss_mib:.0f} MiB")


def a_pool(name: str, ranges: list[str]) -> Pool:
    """A compiled pool."""
    return Pool(PoolName(name), tuple(parse_range(one) for one in ranges))


def a_service(number: int, family: int = 4) -> Service:
    """A new Service as the plan sees it."""
    document = {
        "metadata": {"name": f"s{number}", "namespace": "default", "uid": str(number), "resourceVersion": "1"},
        "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.1" if family == 4 else "fd00::1"},
    }
    from controller import observe  # noqa: PLC0415 - only here is a Service made without an API server

    return observe.service(SERVICES.from_mapping(document))


def decision_us(config: Config, present: int, *, family: int = 4) -> float:
    """How long the plan takes for one new Service with so many present, in microseconds: the median of many."""
    planner = Planner()
    some = [a_service(number, family) for number in range(present)]
    planner.handle(Change(services={one.key: one for one in some}, config=config))
    took: list[float] = []
    for number in range(present, present + 300):
        one = a_service(number, family)
        begun = time.perf_counter()
        planner.handle(Change(services={one.key: one}))
        took.append(time.perf_counter() - begun)
    return median(took) * 1e6


def decisions() -> None:
    """Decisions alone."""
    plain = Config({PoolName("p"): a_pool("p", [POOL])})
    few, many = decision_us(plain, 1000), decision_us(plain, 10_000)
    say("plan for one new Service, 1,000 present", f"{few:.0f} µs")
    say("plan for one new Service, 10,000 present", f"{many:.0f} µs")
    say("ratio", f"{many / few:.2f}", "<= 1.2")
    huge = Config({PoolName("p"): a_pool("p", ["fc00::/64"])})
    say("pool of 2^64 addresses, 1,000 present", f"{decision_us(huge, 1000, family=6):.0f} µs", "< 1000 µs")
    ranges = [f"10.{number // 256}.{number % 256}.0-10.{number // 256}.{number % 256}.3" for number in range(1000)]
    scattered = Config({PoolName("p"): a_pool("p", ranges)})
    say("pool of 1,000 ranges, 3,000 present", f"{decision_us(scattered, 3000):.0f} µs", "< 1000 µs")
    pools = {
        PoolName(f"p{number:03}"): a_pool(f"p{number:03}", [f"10.{number // 256}.{number % 256}.0/29"]) for number in range(500)
    }
    say("500 pools, 3,500 present", f"{decision_us(Config(pools), 3500):.0f} µs", "< 1000 µs")


async def with_processes(counts: list[int]) -> None:
    """What needs an API server, once for every count."""
    for count in counts:
        async with lab() as made:
            await burst(made, count)
            await restart(made, count)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="bench.controller", description=__doc__)
    parser.add_argument("--services", type=int, nargs="*", default=[1000, 10_000], help="how many Services in each run")
    chosen = parser.parse_args()
    say("what", "here", "goal")
    decisions()
    asyncio.run(with_processes(chosen.services))


if __name__ == "__main__":
    main()
