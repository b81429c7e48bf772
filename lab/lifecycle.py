"""Start and end a lab: the supervisor in the background, what must be there first, what a killed one left.

Called by the command line, the scenarios, the demo and the tests. It holds no state: the lock in the state directory says
whether a lab is up, the supervisor's State says which.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from ipaddress import IPv4Network
from pathlib import Path
from typing import Final

from lab import control, leftovers, namespaces, realapi, topology
from lab.images import CLONE, NGINX
from lab.paths import LAB, LabError, Paths, State
from lab.processes import BASE_PATH
from lab.topology import Topology

END_S: Final = 20.0
_PROGRAMS: Final = {
    "nsenter": "util-linux",
    "setsid": "util-linux",
    "setpriv": "util-linux",
    "ip": "iproute2",
    "nft": "nftables",
    NGINX: "nginx-light",
    "curl": "curl",
}


class MissingError(RuntimeError):
    """This machine lacks something that a lab needs; the message says what, and how to get it."""


def check_machine(identity: str) -> None:
    """Find out whether a lab of that identity can run here.

    Raises:
        MissingError: it cannot.

    """
    if sys.platform != "linux" or not Path("/proc/self/ns/net").exists():
        raise MissingError("the lab needs a Linux kernel with network namespaces; this one has none")
    if os.geteuid() != 0:
        raise MissingError("the lab needs root to make network namespaces; run it as root, for example with sudo")
    try:
        namespaces.create(probe := f"{identity}-probe-{os.getpid()}")
        namespaces.remove(probe)
        namespaces.remove_directory()
    except OSError as error:
        raise MissingError(
            f"the lab needs network namespaces, and this machine does not let root make one ({error.strerror or error}); "
            "run it on a machine of your own or in a privileged container"
        ) from None
    for program, package in _PROGRAMS.items():
        if shutil.which(program, path=BASE_PATH) is None:
            raise MissingError(f"the lab needs {program}; apt-get install {package} brings it")


def _check_real_api() -> None:
    try:
        if realapi.assets() is None:
            raise MissingError(f"--api real needs {realapi.ENVIRONMENT}, the directory with etcd and kube-apiserver")
    except OSError as error:
        raise MissingError(str(error)) from None


def up(
    where: Paths,
    *,
    nodes: int = 3,
    network: IPv4Network | None = None,
    api: str = "lab",
    proxy_mode: str = topology.NFTABLES,
) -> None:
    """Bring a lab up in the background and return when it is ready; with the API server `lab` or `real`.

    Raises:
        MissingError: this machine cannot run one.
        TopologyError: no such lab can be.
        LabError: one is up already, or it did not come up; nothing is left of it.

    """
    if api == "real":
        _check_real_api()
    check_machine(topology.lab_id(where.root))
    topology.plan(topology.lab_id(where.root), nodes=nodes, network=network)
    left = where.read_state()
    if left is not None and not _is_supervisor(left.pid):  # It was killed a moment ago, and is being cleared.
        _wait_ended(left, END_S)
    with where.lock():
        shutil.rmtree(where.logs, ignore_errors=True)
        where.logs.mkdir(parents=True)
    # setsid --fork: the supervisor is nobody's child, so that nobody has to wait for it.
    command = ["setsid", "--fork", sys.executable, "-m", "lab", "--state", str(where.root), "supervise"]
    command += ["--nodes", str(nodes), "--api", api, "--proxy-mode", proxy_mode]
    if network is not None:
        command += ["--net", str(network)]
    with where.supervisor_log.open("ab") as log:
        process = subprocess.Popen(command, cwd=CLONE, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
    with process:
        assert process.stdout is not None
        said = process.stdout.readline().decode().strip()
    if said != "ready":
        if (left := where.read_state()) is not None:
            _wait_ended(left, END_S)
        with contextlib.suppress(LabError), where.lock():  # It may have been killed before it could clear up.
            leftovers.clear(where, topology.lab_id(where.root))
        raise LabError(said or f"the lab did not come up; see {where.supervisor_log}")


def down(where: Paths) -> bool:
    """Take the lab away, and whatever a killed one left; true if one was running.

    Raises:
        LabError: it could not be ended.

    """
    if not where.root.exists():
        return False
    running = _is_locked(where)
    if running:
        state = where.read_state()
        with contextlib.suppress(LabError):
            control.ask(where, "down")
        if not _wait_unlocked(where, END_S):
            _kill_supervisor(where)
        if state is not None:
            _wait_ended(state, END_S)
    with where.lock():
        leftovers.clear(where, topology.lab_id(where.root))
    return running


def _is_locked(where: Paths) -> bool:
    try:
        with where.lock():
            return False
    except LabError:
        return True


def _wait_unlocked(where: Paths, limit_s: float) -> bool:
    deadline = time.monotonic() + limit_s
    while _is_locked(where):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _is_supervisor(pid: int) -> bool:
    try:
        return b"supervise" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def _wait_ended(state: State, limit_s: float) -> None:
    """A supervisor lets go of its lock a moment before it ends, and its guardian ends after it."""
    deadline = time.monotonic() + limit_s
    while any(_is_supervisor(pid) for pid in (state.pid, state.guardian)) and time.monotonic() < deadline:
        time.sleep(0.02)


def _kill_supervisor(where: Paths) -> None:
    """End a supervisor that does not listen. Its processes die with it."""
    state = where.read_state()
    if state is None:
        raise LabError(f"something holds {where.root / 'lock'} and does not say what it is")
    if not _is_supervisor(state.pid):
        raise LabError(f"process {state.pid} is not this lab's supervisor, but {where.root / 'lock'} is held")
    os.kill(state.pid, signal.SIGKILL)
    if not _wait_unlocked(where, END_S):
        raise LabError(f"the supervisor, process {state.pid}, does not end")


def running_topology(where: Paths) -> Topology:
    """The topology of the lab that is up.

    Raises:
        LabError: none is.

    """
    state = where.read_state()
    if state is None or not _is_locked(where):
        raise LabError(f"no lab is up in {where.root}; {LAB} up starts one")
    return topology.plan(topology.lab_id(where.root), nodes=state.nodes, network=IPv4Network(state.network))
