"""Run the Pods of one node: the lab's kubelet.

One Kubelet per node, all in the supervisor's process. It looks at the Pods that are placed on its node and keeps one task for
each; the task makes the Pod's network and volumes, starts its containers (lab.images says as what, lab.container in which
surroundings), probes them, restarts them, reports the Pod's status, and takes all of it away when the Pod is deleted.

What differs from a real kubelet: a readiness probe is repeated every 0.2 s until it succeeds for the first time; the first
restart comes after 0.1 s, later ones after at most 1 s; init containers, projected volumes and grpc probes are refused, and
the Pod says so in its status. A container sees the machine's files, but of the lab's only those of
its own Pod.

power_off() is what a power cut does to a node: everything dies at once and nothing is reported any more. freeze() stops all
processes and the kubelet with them: nothing is started, probed, stopped or reported before thaw().
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace
from pyroute2.netlink.exceptions import NetlinkError

from kube import resources
from kube.errors import KubeError, NotFound
from kube.objects import ObjectKey
from lab import images, netns, podspec, probes, processes
from lab.client import LabClient, timestamp
from lab.container import Mount
from lab.kinds import PODS, Capabilities, Container, Pod, Probe, SecurityContext
from lab.podspec import Missing, PodError
from lab.topology import API_PORT, Node, Topology
from lab.workloads import is_ready
from telemetry.log import get_logger

SERVICE_ACCOUNT_DIRECTORY: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
TOKEN_VALID_S: Final = 86400 * 30
RETRY_S: Final = 0.5
FIRST_RESTART_S: Final = 0.1
LONGEST_RESTART_S: Final = 1.0
STEADY_AFTER_S: Final = 10.0
EAGER_PROBE_S: Final = 0.2
VOLUME_REFRESH_S: Final = 10.0

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Places:
    """Where a kubelet keeps things, and how its Pods reach the API server."""

    topology: Topology
    state: Path
    pods: Path
    logs: Path
    ca: Callable[[], bytes]


@dataclass(slots=True)
class _ContainerState:
    """What is known about one container."""

    running: processes.Running | None = None
    started_at: str = ""
    restarts: int = 0
    ready: bool = False
    started: bool = False
    finished: bool = False
    """It has ended, and its restartPolicy leaves it at that."""
    before: dict[str, Any] = field(default_factory=dict)
    """How it ended the last time, as the API says it."""
    waiting: tuple[str, str] | None = ("ContainerCreating", "")
    last_exit: int | None = None


@dataclass(slots=True)
class _PodState:
    """What a node remembers of one Pod; it outlives a power cut, as a disk does."""

    pod: Pod
    directory: Path
    network: str | None = None
    addresses: tuple[IPv4Address, IPv6Address] | None = None
    containers: dict[str, _ContainerState] = field(default_factory=dict)
    started_at: str = ""
    reported: dict[str, Any] | None = None
    task: asyncio.Task[None] | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class Kubelet:
    """Runs the Pods of one node. `look` is called whenever Pods changed; run() must be running."""

    def __init__(self, node: Node, places: Places, client: LabClient) -> None:
        self.node = node
        self.powered = True
        self._places = places
        self._client = client
        self._pods: dict[str, _PodState] = {}
        self._group: asyncio.TaskGroup | None = None
        self._awake = asyncio.Event()
        self._awake.set()

    async def run(self) -> None:
        """Be there for ever; Pods' tasks live in here."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            await asyncio.Event().wait()

    def look(self, pods: Mapping[ObjectKey, Pod]) -> None:
        """Compare what should run on this node with what does."""
        if not self.powered or self._group is None or not self._awake.is_set():
            return
        mine = {pod.metadata.uid: pod for pod in pods.values() if pod.spec.node_name == self.node.name}
        for uid, pod in mine.items():
            state = self._pods.get(uid)
            if state is None:
                state = self._pods[uid] = _PodState(pod, self._places.pods / uid)
            if state.pod is not pod:
                state.pod = pod
                if _reported_ready(state) and not is_ready(pod):  # While the node was silent others said that it is not.
                    state.reported = None
                state.changed.set()
        for uid, state in self._pods.items():
            if uid not in mine and state.pod.metadata.deletion_timestamp is None:
                state.pod = _gone(state.pod)
                state.changed.set()
            if state.task is None or state.task.done():
                state.task = self._group.create_task(self._live(uid, state), name=f"pod {state.pod.key}")

    def pids(self) -> dict[str, dict[str, int]]:
        """Pod key → container name → process id, of what runs now."""
        return {
            state.pod.key: {
                name: pid
                for name, container in state.containers.items()
                if container.running is not None and (pid := container.running.pid) is not None
            }
            for state in self._pods.values()
        }

    async def power_off(self) -> None:
        """Kill every process on the node and stop reporting. What was made for Pods stays, as disks do."""
        self.powered = False
        self._awake.set()
        tasks = [state.task for state in self._pods.values() if state.task is not None]
        for state in self._pods.values():
            _kill(state)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for state in self._pods.values():
            _kill(state)
            state.task, state.reported = None, None
            for container in state.containers.values():
                container.restarts += container.running is not None
                container.running, container.ready, container.waiting = None, False, ("ContainerCreating", "the node restarts")

    def power_on(self) -> None:
        """Let the node run again; the next look() starts its Pods."""
        self.powered = True

    async def freeze(self) -> None:
        """Stop all processes of the node, and act no more. A program that is just being started is waited for."""
        self._awake.clear()
        running = [each.running for state in self._pods.values() for each in state.containers.values() if each.running]
        while any(each.alive and each.pid is None for each in running):  # noqa: ASYNC110 - A file tells the pid, no event.
            await asyncio.sleep(0.01)
        processes.signal_all(self._all_pids(), signal.SIGSTOP)

    def thaw(self) -> None:
        """Let everything go on; the next look() sees what was missed."""
        processes.signal_all(self._all_pids(), signal.SIGCONT)
        self._awake.set()

    def _all_pids(self) -> list[int]:
        return [pid for containers in self.pids().values() for pid in containers.values()]

    # One Pod

    async def _live(self, uid: str, state: _PodState) -> None:
        """The whole life of a Pod on this node."""
        while not _is_going(state):
            try:
                await self._prepare(state)
                await self._run_containers(state)
            except (PodError, images.ImageError) as error:
                reason = "ErrImagePull" if isinstance(error, images.ImageError) else "CreateContainerConfigError"
                await self._wait_with(state, reason, str(error))
            except Missing as missing:
                await self._wait_with(state, "ContainerCreating", str(missing))
            except (KubeError, OSError, NetlinkError) as error:
                log.warning("pod_not_started", pod=state.pod.key, node=self.node.name, error=str(error))
                await self._wait_with(state, "ContainerCreating", str(error))
        await self._awake.wait()
        await _stop(state, grace_s=float(state.pod.spec.termination_grace_period_seconds))
        await self._clear(state)
        await self._forget(state)
        self._pods.pop(uid, None)

    async def _wait_with(self, state: _PodState, reason: str, message: str) -> None:
        """Say why the Pod does not run, and let some time pass before the next try."""
        for container in state.pod.spec.containers:
            known = state.containers.setdefault(container.name, _ContainerState())
            if known.running is None:
                known.waiting = (reason, message)
        await self._report(state)
        await _wait(state.changed, RETRY_S)

    async def _prepare(self, state: _PodState) -> None:
        """Network, volumes and directories of a Pod."""
        podspec.check(state.pod)
        for container in state.pod.spec.containers:
            state.containers.setdefault(container.name, _ContainerState())
        state.started_at = state.started_at or timestamp()
        await self._report(state)
        state.directory.mkdir(parents=True, exist_ok=True)
        state.directory.chmod(0o755)
        if state.pod.spec.host_network:
            state.network = self._places.topology.netns(self.node.name)
            state.addresses = (self.node.ip, self.node.ip6)
        elif state.network is None:
            taken = {each.addresses for each in self._pods.values()}
            addresses = state.addresses = next(free for free in self.node.pod_addresses() if free not in taken)
            name = _cable(state.pod)
            await netns.detach_pod(self._places.topology, self.node, pod=name)
            state.network = await netns.attach_pod(self._places.topology, self.node, pod=name, addresses=addresses)

    async def _volumes(self, state: _PodState) -> tuple[dict[str, Path], Mapping[tuple[str, str], podspec.CONTENTS]]:
        """Write the files of a Pod's volumes; returns where each is, and the Secrets and ConfigMaps that were read.

        Raises:
            Missing: one of them is not there and not optional.

        """
        pod, contents = state.pod, await self._read_sources(state.pod)
        where: dict[str, Path] = {}
        for volume in pod.spec.volumes or ():
            path = where[volume.name] = state.directory / "volumes" / volume.name
            path.mkdir(parents=True, exist_ok=True)
            for kind, source in (("secret", volume.secret), ("configmap", volume.config_map)):
                if source is None:
                    continue
                name = getattr(source, "secret_name", "") or getattr(source, "name", "")
                data = contents.get((kind, name), {})
                chosen = podspec.files(data, source.items, of=f"{kind} {name!r}", optional=source.optional)
                _write_files(path, chosen, mode=source.default_mode, group=pod.spec.security_context.fs_group)
            if volume.empty_dir is not None:
                _open_to_all(path, pod.spec.security_context.fs_group)
        return where, contents

    async def _read_sources(self, pod: Pod) -> dict[tuple[str, str], podspec.CONTENTS]:
        found: dict[tuple[str, str], podspec.CONTENTS] = {}
        for source in podspec.sources(pod):
            try:
                if source.kind == "secret":
                    secret = await self._client.get(resources.SECRETS, source.name, pod.metadata.namespace)
                    found["secret", source.name] = podspec.contents_of(secret.data, encoded=True)
                else:
                    config_map = await self._client.get(resources.CONFIG_MAPS, source.name, pod.metadata.namespace)
                    found["configmap", source.name] = podspec.contents_of(config_map.data, encoded=False)
            except NotFound:
                if not source.optional:
                    raise Missing(f"{source.kind} {pod.metadata.namespace}/{source.name} not found") from None
        return found

    async def _run_containers(self, state: _PodState) -> None:
        """Run all containers until the Pod goes."""
        volumes, contents = await self._volumes(state)
        commands = {container.name: self._command(state, container) for container in state.pod.spec.containers}
        if any(command.needs_api for command in commands.values()):
            await self._write_service_account(state)
        programs = [self._program(state, each, commands[each.name], volumes, contents) for each in state.pod.spec.containers]
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._keep_running(state, container, program), name=f"{state.pod.key}/{container.name}")
                for container, program in zip(state.pod.spec.containers, programs, strict=True)
            ]
            if contents:
                tasks.append(group.create_task(self._refresh_volumes(state), name=f"{state.pod.key} volumes"))
            while not _is_going(state):
                await self._report(state)
                await _wait(state.changed, None)
            for task in tasks:
                task.cancel()

    def _command(self, state: _PodState, container: Container) -> images.Command:
        here = state.directory / container.name
        return images.command_for(container.image, command=container.command or (), args=container.args or (), here=here)

    async def _write_service_account(self, state: _PodState) -> None:
        """The files with which a Pod proves to the API server who it is."""
        meta, spec = state.pod.metadata, state.pod.spec
        token = await self._client.token(meta.namespace, spec.service_account_name or "default", valid_s=TOKEN_VALID_S)
        directory = state.directory / "serviceaccount"
        directory.mkdir(exist_ok=True)
        files = {"token": token.encode(), "ca.crt": self._places.ca(), "namespace": meta.namespace.encode()}
        _write_files(directory, files, mode=0o644)  # As in a cluster: nobody but the Pod's containers sees the directory.

    def _program(
        self,
        state: _PodState,
        container: Container,
        command: images.Command,
        volumes: Mapping[str, Path],
        contents: Mapping[tuple[str, str], podspec.CONTENTS],
    ) -> processes.Program:
        """How to start a container."""
        assert state.network is not None
        pod, here, host_ip = state.pod, state.directory / container.name, str(self.node.ip)
        who = podspec.identity(pod, container) if command.as_written else podspec.Identity(0, (0,))
        here.mkdir(exist_ok=True)
        here.chmod(0o755)
        for name in command.directories:
            (here / name).mkdir(exist_ok=True)
        for name, text in command.files.items():
            (here / name).write_text(text, encoding="utf-8")
        mounts = [
            Mount(source=str(volumes[each.name] / each.sub_path), target=each.mount_path, read_only=each.read_only)
            for each in container.volume_mounts or ()
        ]
        base = {
            "HOSTNAME": self.node.name if pod.spec.host_network else pod.metadata.name,
            "HOME": "/" if who.user else "/root",
            **command.env,
        }
        if command.needs_api:
            source = str(state.directory / "serviceaccount")
            mounts.append(Mount(source=source, target=SERVICE_ACCOUNT_DIRECTORY, read_only=True))
            base |= {
                "KUBERNETES_SERVICE_HOST": str(self._places.topology.control_plane.ip),
                "KUBERNETES_SERVICE_PORT": str(API_PORT),
            }
        downward = podspec.fields(pod, pod_ip=_ip(state), host_ip=host_ip)
        env = podspec.environment(container, downward, lambda kind, name: contents.get((kind, name)), base)
        security = container.security_context or SecurityContext()
        wanted = security.capabilities or Capabilities()
        output = self._places.logs / f"{pod.metadata.namespace}_{pod.metadata.name}_{container.name}.log"
        output.touch(mode=0o600)
        os.chown(output, who.user, -1)  # Programs open /dev/stdout.
        return processes.Program(
            argv=tuple(podspec.expand(word, env) for word in command.argv),
            scratch=here,
            log=output,
            cwd=command.cwd,
            env=env,
            network=state.network,
            mounts=mounts,
            capabilities=images.capabilities(command, add=wanted.add or (), drop=wanted.drop or ()),
            user=who.user,
            groups=who.groups,
            hide=(self._places.state,),
            keep=(images.CLONE, Path(sys.prefix), Path(sys.base_prefix), state.directory),
            read_only=security.read_only_root_filesystem and command.as_written,
        )

    async def _keep_running(self, state: _PodState, container: Container, program: processes.Program) -> None:
        """Start a container again whenever it ends, until the Pod goes."""
        known = state.containers[container.name]
        pause_s = FIRST_RESTART_S
        loop = asyncio.get_running_loop()
        while not _is_going(state) and not known.finished:
            await self._awake.wait()
            try:
                if known.running is None or not known.running.alive:
                    known.running = await processes.start(program)
            except OSError as error:
                known.waiting = ("CreateContainerError", str(error))
                state.changed.set()
                await asyncio.sleep(LONGEST_RESTART_S)
                continue
            begun = loop.time()
            known.started_at, known.waiting = timestamp(), None
            known.started = container.startup_probe is None
            known.ready = known.started and container.readiness_probe is None
            state.changed.set()
            async with asyncio.TaskGroup() as group:
                health = self._watch_health(state, container, program)
                probing = group.create_task(health, name=f"probes {state.pod.key}/{container.name}")
                known.last_exit = await known.running.wait()
                probing.cancel()
            known.running, known.ready, known.started = None, False, False
            if _is_going(state):
                return
            known.before = _terminated(known)
            policy = state.pod.spec.restart_policy
            known.finished = policy == "Never" or (policy == "OnFailure" and known.last_exit == 0)
            if not known.finished:
                log.warning("container_ended", pod=state.pod.key, container=container.name, status=known.last_exit)
                known.restarts += 1
                known.waiting = ("CrashLoopBackOff", f"ended with status {known.last_exit}; back-off {pause_s:.1f}s")
            state.changed.set()
            pause_s = FIRST_RESTART_S if loop.time() - begun > STEADY_AFTER_S else min(LONGEST_RESTART_S, 2 * pause_s)
            await asyncio.sleep(pause_s)

    async def _watch_health(self, state: _PodState, container: Container, program: processes.Program) -> None:
        """Run a container's probes: first whether it has started, then whether it lives and is ready."""
        known = state.containers[container.name]
        if container.startup_probe is not None:
            if not await self._first_verdict(state, container, program, container.startup_probe):
                await self._end_unhealthy(state, container, "startup")
                return
            known.started, known.ready = True, container.readiness_probe is None
            state.changed.set()
        async with asyncio.TaskGroup() as group:
            if container.liveness_probe is not None:
                group.create_task(self._keep_alive(state, container, program, container.liveness_probe), name="liveness")
            if container.readiness_probe is not None:
                group.create_task(self._keep_ready(state, container, program, container.readiness_probe), name="readiness")

    async def _first_verdict(
        self, state: _PodState, container: Container, program: processes.Program, probe: Probe, *, wanted: bool | None = None
    ) -> bool:
        """The first thing that a probe settles; with `wanted` the first time that it settles this."""
        verdicts = self._verdicts(state, container, program, probe)
        return await anext(verdict async for verdict in verdicts if wanted is None or verdict == wanted)

    async def _keep_alive(self, state: _PodState, container: Container, program: processes.Program, probe: Probe) -> None:
        await self._first_verdict(state, container, program, probe, wanted=False)
        await self._end_unhealthy(state, container, "liveness")

    async def _end_unhealthy(self, state: _PodState, container: Container, probe: str) -> None:
        log.warning("container_unhealthy", pod=state.pod.key, container=container.name, probe=probe)
        running = state.containers[container.name].running
        if running is not None:
            await running.stop(grace_s=float(state.pod.spec.termination_grace_period_seconds))

    async def _keep_ready(self, state: _PodState, container: Container, program: processes.Program, probe: Probe) -> None:
        known = state.containers[container.name]
        async for ready in self._verdicts(state, container, program, probe, eager=True):
            if ready != known.ready:
                known.ready = ready
                state.changed.set()

    async def _verdicts(
        self, state: _PodState, container: Container, program: processes.Program, probe: Probe, *, eager: bool = False
    ) -> AsyncIterator[bool]:
        """What a probe settles, again and again. An eager one does not wait its period while it is bad."""
        known = state.containers[container.name]
        network = self._places.topology.netns(self.node.name)
        if probe.exec is not None:
            target = probes.Target(network, command=probe.exec.command, program=program, running=known.running)
        else:
            address, port = podspec.probe_target(container, probe, pod_ip=_ip(state))
            target = probes.Target(network, address, port)
        streak = probes.Streak(probe, state=False)
        await asyncio.sleep(probe.initial_delay_seconds)
        while True:
            good = await probes.attempt(probe, target)
            if not self._awake.is_set():  # The node slept meanwhile: this tells nothing.
                await self._awake.wait()
                continue
            verdict = streak.note(good=good)
            if verdict is not None:
                yield verdict
            await asyncio.sleep(
                min(EAGER_PROBE_S, probe.period_seconds) if eager and not streak.state else probe.period_seconds
            )

    async def _refresh_volumes(self, state: _PodState) -> None:
        """Let changes of Secrets and ConfigMaps reach the files, as a kubelet does after a while."""
        while True:
            await asyncio.sleep(VOLUME_REFRESH_S)
            with contextlib.suppress(KubeError, Missing, PodError):
                await self._volumes(state)

    async def _clear(self, state: _PodState) -> None:
        if state.network is not None and not state.pod.spec.host_network:
            await netns.detach_pod(self._places.topology, self.node, pod=_cable(state.pod))
        shutil.rmtree(state.directory, ignore_errors=True)

    async def _forget(self, state: _PodState) -> None:
        """Take the Pod out of the API, for as long as the API server is away again and again."""
        while True:
            try:
                await self._client.remove(state.pod)
            except NotFound:
                return
            except KubeError as error:
                if error.status == 409:  # Another Pod of that name: ours is gone.
                    return
                await asyncio.sleep(RETRY_S)
            else:
                return

    async def _report(self, state: _PodState) -> None:
        """Write the Pod's status when it is not what was written last; tried again with the next change."""
        await self._awake.wait()
        status = _status(state, host_ips=(str(self.node.ip), str(self.node.ip6)))
        if status == state.reported or _is_going(state):
            return
        meta = state.pod.metadata
        try:
            patch = {"metadata": {"uid": meta.uid}, "status": status}
            await self._client.patch(PODS, meta.name, patch, namespace=meta.namespace, subresource="status")
        except NotFound:
            return
        except KubeError as error:
            log.warning("pod_status_not_written", pod=state.pod.key, error=str(error))
            state.changed.set()
            await asyncio.sleep(RETRY_S)
        else:
            state.reported = status


def _ip(state: _PodState) -> str:
    """The Pod's first address."""
    assert state.addresses is not None
    return str(state.addresses[0])


def _status(state: _PodState, *, host_ips: tuple[str, str]) -> dict[str, Any]:
    """The status of a Pod as the API has it, a merge patch."""
    containers = [_container_status(container, state.containers[container.name]) for container in state.pod.spec.containers]
    all_running = bool(containers) and all(each.running is not None for each in state.containers.values())
    began = all_running or any(each.restarts for each in state.containers.values())
    ready = all_running and all(each.ready for each in state.containers.values())
    unready = [name for name, each in state.containers.items() if not each.ready]
    before = {each["type"]: each for each in (state.reported or {}).get("conditions", ())}
    wanted = {"PodScheduled": True, "Initialized": True, "ContainersReady": ready, "Ready": ready}
    conditions = []
    for type_, good in wanted.items():
        status = "True" if good else "False"
        since = before[type_]["lastTransitionTime"] if before.get(type_, {}).get("status") == status else timestamp()
        conditions.append(
            {
                "type": type_,
                "status": status,
                "lastProbeTime": None,
                "lastTransitionTime": since,
                **(
                    {}
                    if good
                    else {"reason": "ContainersNotReady", "message": f"containers with unready status: [{' '.join(unready)}]"}
                ),
            }
        )
    addresses = [str(each) for each in state.addresses or ()] if state.network is not None else []
    return {
        "phase": _phase(state, began=began),
        "hostIP": host_ips[0],
        "hostIPs": [{"ip": each} for each in host_ips],
        **({"podIP": addresses[0], "podIPs": [{"ip": each} for each in addresses]} if addresses else {}),
        "startTime": state.started_at,
        "conditions": conditions,
        "containerStatuses": containers,
    }


def _phase(state: _PodState, *, began: bool) -> str:
    if state.containers and all(each.finished for each in state.containers.values()):
        return "Failed" if any(each.last_exit for each in state.containers.values()) else "Succeeded"
    return "Running" if began else "Pending"


def _terminated(known: _ContainerState) -> dict[str, Any]:
    """How a container has just ended."""
    reason = "Error" if known.last_exit else "Completed"
    return {"exitCode": known.last_exit, "reason": reason, "startedAt": known.started_at, "finishedAt": timestamp()}


def _container_status(container: Container, known: _ContainerState) -> dict[str, Any]:
    running = known.running is not None
    waiting = known.waiting or ("ContainerCreating", "")
    detail = {"reason": waiting[0], **({"message": waiting[1]} if waiting[1] else {})}
    return {
        "name": container.name,
        "image": container.image,
        "imageID": f"lab://{images.repository(container.image)}",
        "ready": known.ready,
        "started": known.started,
        "restartCount": known.restarts,
        "state": {"running": {"startedAt": known.started_at}}
        if running
        else {"terminated": known.before}
        if known.finished
        else {"waiting": detail},
        "lastState": {"terminated": known.before} if known.before and not known.finished else {},
    }


def _cable(pod: Pod) -> str:
    """What a Pod's namespace and cable are called; a link's name is short."""
    return pod.metadata.uid.replace("-", "")[:11]


def _gone(pod: Pod) -> Pod:
    """A Pod that the API forgot before we did: treat it as being deleted."""
    return replace(pod, metadata=replace(pod.metadata, deletion_timestamp=timestamp()))


def _reported_ready(state: _PodState) -> bool:
    return any(each["type"] == "Ready" and each["status"] == "True" for each in (state.reported or {}).get("conditions", ()))


def _is_going(state: _PodState) -> bool:
    return state.pod.metadata.deletion_timestamp is not None


def _kill(state: _PodState) -> None:
    for container in state.containers.values():
        if container.running is not None:
            container.running.kill()


async def _stop(state: _PodState, *, grace_s: float) -> None:
    """End a Pod's processes, first politely."""
    running = [container.running for container in state.containers.values() if container.running is not None]
    await asyncio.gather(*(each.stop(grace_s=grace_s) for each in running))


async def _wait(changed: asyncio.Event, limit_s: float | None) -> None:
    """Until something changed, at most so long."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            await changed.wait()
    changed.clear()


def _open_to_all(directory: Path, group: int | None) -> None:
    """Let every container of the Pod write to a directory; files made there belong to the Pod's group, if it has one."""
    if group is not None:
        os.chown(directory, -1, group)
    directory.chmod(0o777 if group is None else 0o2777)


def _write_files(directory: Path, files: podspec.CONTENTS, *, mode: int, group: int | None = None) -> None:
    """Make a directory hold exactly these files; each changes at once or not at all. Their group may read them."""
    for name, content in files.items():
        path = directory / name
        if path.exists() and path.read_bytes() == content:
            continue
        unfinished = directory / f".{Path(name).name}.new"
        unfinished.write_bytes(content)
        unfinished.chmod(mode)
        if group is not None:
            os.chown(unfinished, -1, group)
            unfinished.chmod(mode | 0o040)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.rename(path)
    for path in directory.iterdir():
        if path.is_file() and path.name not in files:
            path.unlink()
