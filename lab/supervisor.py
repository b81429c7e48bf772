"""The one process that is the lab: it builds the machines, runs the API server, plays controller manager, kubelets and proxies.

`python -m lab up` starts it in the background (lab.__main__), and talks to it through a Unix socket (lab.control). When it ends,
for whatever reason it can act on, everything it made is taken away; when it is killed, lab.guardian does that.

A failure of one part of the cluster must not end the lab: parts are restarted by telemetry.tasks.supervise.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, Final

import msgspec
from pyroute2.netlink.exceptions import NetlinkError

from kube import resources
from kube.errors import AlreadyExists, KubeError
from kube.objects import ObjectKey
from lab import control, netns, processes, realapi, topology
from lab.client import LabClient, administrator, micro_timestamp, timestamp
from lab.images import CLONE
from lab.injector import Injector
from lab.kinds import LEASES, NODES
from lab.kinds import Node as NodeObject
from lab.kubelet import Kubelet, Places
from lab.leftovers import clear
from lab.manager import Manager
from lab.mirror import Mirror
from lab.paths import LabError, Paths, State
from lab.proxies import Proxies
from lab.topology import API_PORT, Node, Topology
from lab.workloads import is_ready, node_is_ready
from telemetry import log as telemetry_log
from telemetry.log import get_logger
from telemetry.tasks import supervise

LOOK_AFTER_NODES_S: Final = 1.0
LEASE_EVERY: Final = 10
HEARTBEAT_LIMIT_S: Final = 5.0
API_START_S: Final = 20.0
READY_S: Final = 20.0

log = get_logger(__name__)


class ApiReady(msgspec.Struct):
    """The line with which the API server says that it is ready."""

    url: str
    ca: str
    token: str
    kubeconfig: str


@dataclass(slots=True)
class ApiServer:
    """The API server as a child, started again whenever it ends: same port, same state."""

    paths: Paths
    topology: Topology
    kind: str = "lab"  # or "real", see lab.realapi
    ready: ApiReady | None = None
    running: processes.Running | None = None
    wanted: asyncio.Event = field(default_factory=asyncio.Event)
    serves: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self) -> None:
        """Start it and wait until it serves.

        Raises:
            LabError: it ended, or was not ready in time; the message has the log's path.

        """
        cp = self.topology.control_plane
        self.wanted.set()
        scratch = self.paths.api / "process"
        scratch.mkdir(parents=True, exist_ok=True)
        listen = f"{self.topology.netns(cp.name)}={cp.ip}:{API_PORT}"
        argv = ["-m", "lab", "apiserver", "--listen", "127.0.0.1:0", "--listen-netns", listen, "--state", str(self.paths.api)]
        env = _PYTHON
        if self.kind == "real":
            argv.append("--real")
            env = _PYTHON | {realapi.ENVIRONMENT: os.environ.get(realapi.ENVIRONMENT, "")}
        log_file = self.paths.logs / "apiserver.log"
        program = processes.Program((sys.executable, *argv), scratch, log_file, cwd=CLONE, env=env, speaks=True)
        self.running = await processes.start(program)
        try:
            async with asyncio.timeout(API_START_S if self.kind == "lab" else realapi.READY_S):
                line = await self.running.line()
            self.ready = msgspec.json.decode(line, type=ApiReady)
            self.serves.set()
        except (TimeoutError, msgspec.DecodeError) as error:
            self.running.kill()
            raise LabError(f"the API server did not start; its log is {log_file}") from error

    async def stop(self) -> None:
        """Kill it and keep it away."""
        self.wanted.clear()
        self.serves.clear()
        if self.running is not None:
            self.running.kill()
            await self.running.wait()

    async def allow(self) -> None:
        """Let it come back, and wait until it has.

        Raises:
            LabError: it has not in time.

        """
        self.wanted.set()
        try:
            async with asyncio.timeout(API_START_S):
                await self.serves.wait()
        except TimeoutError:
            raise LabError(f"the API server does not come back; its log is {self.paths.logs / 'apiserver.log'}") from None

    async def keep_running(self) -> None:
        """Start it again whenever it ends and is wanted. What it prints after the first line goes nowhere; its log is standard error."""
        while True:
            assert self.running is not None
            while await self.running.line():
                pass
            self.serves.clear()
            log.warning("api_server_ended", status=await self.running.wait())
            await self.wanted.wait()
            await self.start()


_PYTHON: Final = {"PYTHONUNBUFFERED": "1", "HOME": "/root"}


class Supervisor:
    """One lab, from nothing to nothing. Use: `await Supervisor(paths, topology, api=…, proxy_mode=…).run(on_ready)`."""

    def __init__(self, paths: Paths, plan: Topology, *, api: str, proxy_mode: str) -> None:
        self._paths = paths
        self._topology = plan
        self._ended = asyncio.Event()
        self._api = ApiServer(paths, plan, api)
        self._proxies = Proxies(plan, proxy_mode)
        self._kubelets: dict[str, Kubelet] = {}
        self._faults: Injector

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Bring the lab up, call `on_ready`, run it until it is told to end, and take it away.

        Raises:
            LabError, OSError, NetlinkError: it could not be brought up; nothing is left of it.

        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end, number.name)
        clear(self._paths, self._topology.lab_id)
        try:
            self._write_state()
            await netns.build(self._topology)
            await self._api.start()
            assert self._api.ready is not None
            client = await LabClient.connect(administrator(self._api.ready.kubeconfig), user_agent="lab")
            try:
                await self._run_cluster(client, on_ready)
            finally:
                await client.close()
        finally:
            await self._proxies.close()
            for kubelet in self._kubelets.values():
                await kubelet.power_off()
            if self._api.running is not None:
                await self._api.running.stop(grace_s=2.0)
            clear(self._paths, self._topology.lab_id)

    def _end(self, cause: str) -> None:
        log.info("lab_ends", cause=cause)
        self._ended.set()

    def _write_state(self) -> None:
        for directory in (self._paths.logs, self._paths.api, self._paths.pods):
            directory.mkdir(parents=True, exist_ok=True)
        for directory in (self._paths.api, self._paths.pods):  # Tokens, keys and Secrets; Pods see their own all the same.
            directory.chmod(0o700)
        state = State(
            lab_id=self._topology.lab_id,
            pid=os.getpid(),
            guardian=os.getppid(),
            nodes=len(self._topology.nodes),
            network=str(self._topology.network),
        )
        self._paths.state.write_bytes(msgspec.json.encode(state))

    async def _run_cluster(self, client: LabClient, on_ready: Callable[[], None]) -> None:
        ready = self._api.ready
        assert ready is not None
        await self._register(client)
        mirror = Mirror(client)
        places = Places(
            self._topology, self._paths.root, self._paths.pods, self._paths.logs, ca=lambda: Path(ready.ca).read_bytes()
        )
        self._kubelets = {node.name: Kubelet(node, places, client) for node in self._topology.nodes}
        self._faults = Injector(
            self._topology,
            self._paths.root,
            self._kubelets,
            self._api,
            lost=self._proxies.forget,
            revived=lambda node: self._revive(node, client, mirror),
        )
        async with self._faults.ready(), asyncio.TaskGroup() as group:
            parts: dict[str, Callable[[], Awaitable[object]]] = {
                "api server": self._api.keep_running,
                "mirror": mirror.run,
                "controller manager": Manager(client, mirror).run,
                "proxies": lambda: self._write_rules(mirror),
                "kubelets look": lambda: self._look(mirror),
                "heartbeats": lambda: self._heartbeats(client, mirror),
                **{f"kubelet {name}": kubelet.run for name, kubelet in self._kubelets.items()},
            }
            tasks = [supervise(group, name, part) for name, part in parts.items()]
            async with control.serving(self._paths, self._answer(mirror)):
                await self._until_ready(mirror)
                log.info("lab_ready", nodes=len(self._topology.nodes), kubeconfig=str(self._paths.kubeconfig))
                on_ready()
                await self._ended.wait()
            for kubelet in self._kubelets.values():
                await kubelet.power_off()
            for task in tasks:
                task.cancel()

    async def _until_ready(self, mirror: Mirror) -> None:
        changed = mirror.listen()
        try:
            async with asyncio.timeout(READY_S):
                while not (mirror.synced and len(mirror.nodes) >= len(self._topology.nodes)):
                    await changed.wait()
                    changed.clear()
        except TimeoutError:
            raise LabError(f"the lab's API did not come up; see {self._paths.supervisor_log}") from None

    # The nodes in the API

    async def _register(self, client: LabClient) -> None:
        """Make the nodes and what belongs to them known."""
        for name in ("default", "kube-system", "kube-public", "kube-node-lease"):
            body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
            with contextlib.suppress(AlreadyExists):
                await client.create(resources.NAMESPACES, body)
        for node in self._topology.nodes:
            with contextlib.suppress(AlreadyExists):
                await client.create(NODES, _node_body(node))
            await self._post_status(client, node)
            with contextlib.suppress(AlreadyExists):
                await client.create(LEASES, _lease_body(node), namespace="kube-node-lease")

    async def _post_status(self, client: LabClient, node: Node) -> None:
        await client.patch(NODES, node.name, {"status": _node_status(node, self._topology)}, subresource="status")

    async def _heartbeats(self, client: LabClient, mirror: Mirror) -> None:
        """Renew the lease of every node that gets through to the API server, and say so of a node that the API believes not to be ready."""
        for beat in itertools.count(1):
            await asyncio.sleep(LOOK_AFTER_NODES_S)
            names = self._kubelets.keys() - self._faults.silent()
            due = beat % LEASE_EVERY == 0
            await asyncio.gather(*(self._heartbeat(name, client, mirror.nodes.get(ObjectKey(name)), due=due) for name in names))

    async def _heartbeat(self, name: str, client: LabClient, known: NodeObject | None, *, due: bool) -> None:
        """One node's: bounded, because an answer that never comes must not make all nodes look dead."""
        try:
            async with asyncio.timeout(HEARTBEAT_LIMIT_S):
                if due:
                    await self._renew(client, name)
                if known is not None and not node_is_ready(known):
                    with contextlib.suppress(KubeError):
                        await self._post_status(client, self._topology.node(name))
        except TimeoutError:
            log.warning("heartbeat_unanswered", node=name, limit_s=HEARTBEAT_LIMIT_S)

    async def _renew(self, client: LabClient, node: str) -> None:
        try:
            patch = {"spec": {"renewTime": micro_timestamp()}}
            await client.patch(LEASES, node, patch, namespace="kube-node-lease")
        except KubeError as error:
            log.warning("lease_not_renewed", node=node, error=str(error))

    # What follows the Mirror

    async def _look(self, mirror: Mirror) -> None:
        changed = mirror.listen()
        while True:
            await changed.wait()
            changed.clear()
            if mirror.pods.synced:
                for kubelet in self._kubelets.values():
                    kubelet.look(mirror.pods.snapshot())

    async def _write_rules(self, mirror: Mirror) -> None:
        changed = mirror.listen()
        while True:
            await changed.wait()
            changed.clear()
            if mirror.services.synced and mirror.slices.synced:
                powered = [name for name, kubelet in self._kubelets.items() if kubelet.powered]
                await self._proxies.write(mirror.services.snapshot().values(), mirror.slices.snapshot().values(), powered)

    # What the user asks for

    def _answer(self, mirror: Mirror) -> control.Answer:
        async def answer(request: control.Request) -> dict[str, Any]:
            match request.verb:
                case "status":
                    return self._status(mirror)
                case "inject" if request.fault is not None:
                    return await self._faults.inject(request.fault)
                case "heal":
                    return await self._faults.heal(request.fault)
                case "kill-process":
                    return await self._faults.kill_process(request.node, request.name)
                case "down":
                    self._end("down")
                    return {}
            raise LabError(f"the lab does not know the verb {request.verb!r}")

        return answer

    async def _revive(self, node: str, client: LabClient, mirror: Mirror) -> None:
        """A node is back: it reports, its Pods start, its Service rules are written."""
        if node not in self._faults.silent():
            with contextlib.suppress(KubeError):  # The heartbeat says it again until the API server has heard it.
                await self._renew(client, node)
                await self._post_status(client, self._topology.node(node))
        mirror.wake()

    def _status(self, mirror: Mirror) -> dict[str, Any]:
        pids = {key: names for kubelet in self._kubelets.values() for key, names in kubelet.pids().items()}
        api = self._api.ready
        nodes = mirror.nodes.snapshot()
        return {
            "lab_id": self._topology.lab_id,
            "state": str(self._paths.root),
            "kubeconfig": str(self._paths.kubeconfig),
            "api": {"url": api.url if api else "", "pid": self._api.running.pid if self._api.running else None},
            "network": str(self._topology.network),
            "machines": {
                machine.name: {
                    "address": str(machine.ip),
                    "address6": str(machine.ip6),
                    "mac": machine.mac,
                    "netns": self._topology.netns(machine.name),
                }
                for machine in self._topology.machines
            },
            "faults": [{"fault": str(fault), "since": since} for fault, since in self._faults.in_force.items()],
            "nodes": {
                name: {
                    "powered": kubelet.powered,
                    "ready": any(node.metadata.name == name and node_is_ready(node) for node in nodes.values()),
                }
                for name, kubelet in self._kubelets.items()
            },
            "pods": [
                {
                    "namespace": pod.metadata.namespace,
                    "name": pod.metadata.name,
                    "node": pod.spec.node_name,
                    "ip": pod.status.pod_ip,
                    "phase": pod.status.phase,
                    "ready": is_ready(pod),
                    "pids": pids.get(pod.key, {}),
                    "directory": str(self._paths.pods / pod.metadata.uid),
                }
                for pod in sorted(mirror.pods.snapshot().values(), key=lambda pod: pod.key)
            ],
            "services": [
                {
                    "namespace": service.metadata.namespace,
                    "name": service.metadata.name,
                    "type": service.spec.type,
                    "cluster_ip": service.spec.cluster_ip,
                    "addresses": [each.ip for each in service.status.load_balancer.ingress or ()],
                }
                for service in sorted(mirror.services.snapshot().values(), key=lambda service: service.key)
            ],
        }


def _node_body(node: Node) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": node.name,
            "labels": {"kubernetes.io/hostname": node.name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"},
        },
        "spec": {"podCIDR": str(node.pod_network), "podCIDRs": [str(node.pod_network), str(node.pod_network6)]},
    }


def _node_status(node: Node, plan: Topology) -> dict[str, Any]:
    now = timestamp()

    def condition(type_: str, status: str, reason: str, message: str) -> dict[str, str]:
        return {
            "type": type_,
            "status": status,
            "reason": reason,
            "message": message,
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        }

    return {
        "addresses": [
            {"type": "InternalIP", "address": str(node.ip)},
            {"type": "InternalIP", "address": str(node.ip6)},
            {"type": "Hostname", "address": node.name},
        ],
        "conditions": [
            condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            condition("NetworkUnavailable", "False", "RouteCreated", "the lab's routes are in place"),
            condition("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
        ],
        "capacity": {"cpu": "1", "memory": "1Gi", "pods": "110"},
        "allocatable": {"cpu": "1", "memory": "1Gi", "pods": "110"},
        "nodeInfo": {
            "machineID": plan.lab_id,
            "systemUUID": f"{plan.lab_id}-{node.name}",
            "bootID": plan.lab_id,
            "kernelVersion": "",
            "osImage": "metallb-py lab",
            "containerRuntimeVersion": "lab://1",
            "kubeletVersion": "v1.31.0",
            "kubeProxyVersion": "v1.31.0",
            "operatingSystem": "linux",
            "architecture": "amd64",
        },
    }


def _lease_body(node: Node) -> dict[str, Any]:
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": node.name, "namespace": "kube-node-lease"},
        "spec": {"holderIdentity": node.name, "leaseDurationSeconds": 40, "renewTime": micro_timestamp()},
    }


async def main(paths: Paths, *, nodes: int, network: IPv4Network | None, api: str, proxy_mode: str) -> int:
    """Be the supervisor. The first line on standard output is `ready`, or why not; logs go to standard error."""
    telemetry_log.configure("info", component="lab", stream=sys.stderr.buffer)
    plan = topology.plan(topology.lab_id(paths.root), nodes=nodes, network=network)

    def say(text: str) -> None:
        print(text, flush=True)
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, sys.stdout.fileno())
        os.close(silence)

    try:
        with paths.lock():
            await Supervisor(paths, plan, api=api, proxy_mode=proxy_mode).run(lambda: say("ready"))
    except (LabError, KubeError, OSError, NetlinkError, ExceptionGroup) as error:
        cause = error.exceptions[0] if isinstance(error, ExceptionGroup) else error
        log.exception("lab_failed", error=str(cause))
        say(f"the lab did not come up: {cause}")
        return 1
    return 0
