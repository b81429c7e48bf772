"""How fast the controller is, and what it costs: `python -m bench.controller [--services 1000 10000]` prints a table.

The controller and the lab's API server run as processes of their own, the controller with the files of a service account
as in a Pod (so this needs root); this process plays the user, with 16 requests at a time, and reads CPU and memory of both
from /proc. Absolutes depend on the machine, and on two cores the three processes share them, so the share of each is
printed, and the load of the machine first. What the controller writes is counted by watching it. Decisions are timed
without any of that.
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
from typing import Any, Final, Self

import yaml

from config import crd
from config.kinds import GROUP
from config.model import Config, Pool, PoolName
from config.values import parse_range
from controller.plan import Change, Planner
from controller.world import Service
from kube import objects
from kube.client import EventKind, KubeClient
from kube.resources import EVENTS, LEASES, NAMESPACES, SERVICES, Resource
from lab.client import administrator

NAMESPACE: Final = "metallb-system"
USERS: Final = 16
TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
IDLE_S: Final = 10.0
CUSTOM_RESOURCES: Final = Resource(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", objects.RawObject, namespaced=False
)
POOLS: Final = Resource(GROUP, "v1beta1", "ipaddresspools", "IPAddressPool", objects.RawObject)
POOL: Final = "10.0.0.0/16"
ACCOUNT: Final = "/run/secrets/kubernetes.io/serviceaccount"
"""/var/run, where programs look, is a link to /run."""
STATES: Final = Resource(GROUP, "v1beta1", "configurationstates", "ConfigurationState", objects.RawObject)
WRITTEN: Final[tuple[Resource[Any], ...]] = (SERVICES, EVENTS, POOLS, STATES, LEASES)
"""What the controller may write."""


def say(name: str, value: str, goal: str = "") -> None:
    """One line of the table."""
    print(f"{name:62} {value:>22} {goal:>16}", flush=True)


@dataclass
class Process:
    """A process of ours, seen from outside. `unshare` and the shell become the program, so that it is one process."""

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


def own_cpu_s() -> float:
    """User and system time of this process, in seconds."""
    used = os.times()
    return used.user + used.system


@contextlib.asynccontextmanager
async def api_server(state: Path) -> AsyncIterator[tuple[Process, dict[str, str]]]:
    """The lab's API server, and what it says of itself: url, ca, token, kubeconfig."""
    command = [sys.executable, "-m", "lab.apiserver.server", "--listen", "127.0.0.1:0", "--state", str(state)]
    child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    process = Process(child)
    try:
        assert child.stdout is not None
        ready = json.loads(await child.stdout.readline())
        yield process, ready
    finally:
        await process.end()


@dataclass
class Lab:
    """An API server with our kinds, and a client for the user."""

    server: Process
    ready: dict[str, str]
    client: KubeClient
    path: Path

    @contextlib.asynccontextmanager
    async def controller(self) -> AsyncIterator[Process]:
        """A controller; its status socket is in the lab's folder."""
        command = [
            *(sys.executable, "-m", "controller", f"--namespace={NAMESPACE}", "--pod-name=controller-bench", "--port=0"),
            *("--health-probe-port=0", "--webhook-mode=disabled", "--log-level=error", f"--status-socket={self.path}/socket"),
        ]
        host, _, port = self.ready["url"].removeprefix("https://").rpartition(":")
        environment = {key: value for key, value in os.environ.items() if key != "KUBECONFIG"}
        environment |= {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port, "TOKEN": self.ready["token"]}
        script = f'mount -t tmpfs none /run && mkdir -p {ACCOUNT} && cp "$0" {ACCOUNT}/ca.crt && printf %s "$TOKEN" > {ACCOUNT}/token'
        inside = ["sh", "-c", f'{script} && unset TOKEN && exec "$@"', self.ready["ca"], *command]
        child = await asyncio.create_subprocess_exec("unshare", "--mount", *inside, env=environment)
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
        async with api_server(Path(folder) / "api") as (server, ready):
            client = await KubeClient.connect(administrator(ready["kubeconfig"]))
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
                yield Lab(server, ready, client, Path(folder))
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


class Writes:
    """When something was written to each kind, from watches. Services count from their second edition: users create them."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.at: dict[str, list[float]] = {resource.kind: [] for resource in WRITTEN}
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        began = [asyncio.Event() for _ in WRITTEN]
        for resource, event in zip(WRITTEN, began, strict=True):
            self._tasks.append(asyncio.create_task(self._follow(resource, event), name=resource.plural))
        for event in began:
            await event.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _follow(self, resource: Resource[Any], began: asyncio.Event) -> None:
        _, version = await self._lab.client.list(resource)
        async with self._lab.client.open_watch(resource, resource_version=version, timeout_s=3000) as events:
            began.set()
            async for event in events:
                if event.object is not None and not (resource is SERVICES and event.kind is EventKind.ADDED):
                    self.at[resource.kind].append(time.perf_counter())

    def count(self, *kinds: str, since: float = 0.0) -> int:
        """How often these kinds were written."""
        return sum(at >= since for kind in kinds for at in self.at[kind])

    def most_in_a_second(self, kind: str) -> int:
        """The most writes that fell into any one second."""
        times = self.at[kind]
        return max((sum(begin <= at < begin + 1.0 for at in times) for begin in times), default=0)


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
    async with lab.controller() as controller, following(lab) as addresses, Writes(lab) as written:
        await until_ready(lab)
        cpu_s, server_cpu_s, user_cpu_s = controller.cpu_s, lab.server.cpu_s, own_cpu_s()
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
        all_s = used_s + server_used_s + own_cpu_s() - user_cpu_s
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
        say(
            f"{count} Services: share of the API server and of the controller",
            f"{server_used_s / all_s:.0%}, {used_s / all_s:.0%}",
        )
        say(f"{count} Services: controller memory", f"{controller.rss_mib:.0f} MiB", goals[2])
        say(f"{count} Services: status writes per Service", f"{writes / count:.3f}", "1")
        events = len((await lab.client.list(EVENTS, namespace="default"))[0])
        say(f"{count} Services: Events per Service", f"{events / count:.3f}", "1")
        say(f"{count} Services: all writes per Service", f"{written.count('Service', 'Event') / count:.3f}", "2")
        for kind in ("IPAddressPool", "ConfigurationState"):
            total, most = written.count(kind), written.most_in_a_second(kind)
            say(f"{count} Services: writes of {kind}, in all and most in a second", f"{total}, {most}", "<= 2 a second")
        await asyncio.sleep(2.0)
        before, began = controller.cpu_s, time.perf_counter()
        await asyncio.sleep(IDLE_S)
        say("idle: share of a core", f"{(controller.cpu_s - before) / IDLE_S:.2%}", "<= 0.2 %")
        idle = written.count(*(one.kind for one in WRITTEN if one is not LEASES), since=began)
        say("idle: writes", str(idle), "0")
        say("idle: renewals of the Lease, which say that the leader lives", str(written.count("Lease", since=began)))


async def restart(lab: Lab, count: int) -> None:
    """Start a controller on Services that have their addresses; a new one comes in the same moment."""
    async with following(lab) as addresses:
        await addresses.until(lambda: len(addresses.got) >= count)
        name = f"new{count}"
        async with Writes(lab) as written:  # Which lists everything: its own work is no part of the start.
            server_cpu_s, user_cpu_s, begun = lab.server.cpu_s, own_cpu_s(), time.perf_counter()
            async with lab.controller() as controller:
                await lab.create(name)
                await addresses.until(lambda: name in addresses.got)
                took_s, used_s = time.perf_counter() - begun, controller.cpu_s
                server_used_s, user_used_s = lab.server.cpu_s - server_cpu_s, own_cpu_s() - user_cpu_s
                await until_ready(lab)
                goal = {1000: "<= 1.5 s", 10_000: "<= 3 s"}.get(count, "")
                say(f"{count} Services present: start to address of a new one", f"{took_s:.2f} s", goal)
                used = f"{used_s:.2f}, {server_used_s:.2f}, {user_used_s:.2f} s"
                say(f"{count} Services present: CPU until then: controller, API server, user", used)
                await asyncio.sleep(2.0)
                others = (
                    written.count("Service", "IPAddressPool", "ConfigurationState") - 2
                )  # The new one, its pool's counters.
                say(f"{count} Services present: other writes after it", str(others), "0")
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
    say(
        f"load of this machine of {os.cpu_count()} cores before, over 1 and 5 minutes",
        "{:.1f}, {:.1f}".format(*os.getloadavg()),
    )
    decisions()
    asyncio.run(with_processes(chosen.services))


if __name__ == "__main__":
    main()
