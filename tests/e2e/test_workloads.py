"""Pods, Deployments and DaemonSets of the lab as their manifests say them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.user import MANIFESTS
from tests.e2e.conftest import Lab
from tests.e2e.test_lab import a_deployment, eventually, pods_of, ready_pods

pytestmark = [pytest.mark.needs("root", "nginx", "nft"), pytest.mark.timeout(180)]


def of_process(pid: int) -> dict[str, str]:
    """What the kernel says of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: " ".join(value.split()) for name, _, value in (line.partition(":") for line in lines)}


def test_the_daemons_have_the_users_and_capabilities_of_their_manifests(lab: Lab) -> None:
    lab.user.apply(*MANIFESTS)
    eventually(lambda: len(lab.pids("speaker-")) == 3 and lab.pids("controller-"), "all are running")

    def settled(pid: int) -> dict[str, str]:  # The process is there a moment before it has become what it should be.
        return dict(eventually(lambda: (found := of_process(pid))["NoNewPrivs"] == "1" and found, "it is set up"))

    (controller,) = (settled(pid) for pid in lab.pids("controller-").values())
    assert (controller["Uid"], controller["Groups"]) == ("65534 65534 65534 65534", "65534")
    assert {controller[f"Cap{name}"] for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    for pid in lab.pids("speaker-").values():
        speaker = settled(pid)
        assert speaker["Uid"] == "0 0 0 0"
        assert {speaker[f"Cap{name}"] for name in ("Prm", "Eff", "Bnd")} == {
            f"{1 << 13 | 1 << 6 | 1 << 7 | 1 << 8:016x}"
        }  # CAP_NET_RAW; SETGID, SETUID, SETPCAP
        assert {speaker[f"Cap{name}"] for name in ("Inh", "Amb")} == {"0" * 16}


def test_a_pod_sees_its_own_files_and_nobody_elses(lab: Lab) -> None:
    lab.user.apply(*MANIFESTS)
    pid = eventually(lambda: lab.pids("controller-"), "a controller").popitem()[1]
    state = Path(f"/proc/{pid}/root{lab.paths.root}")
    eventually(lambda: list(state.iterdir()) == [state / "pods"], "of the lab's files only the Pods' directory is there")
    (own,) = (state / "pods").iterdir()
    assert own.name in str(lab.status()["pods"])


def test_probes_decide_whether_a_pod_is_ready_and_whether_it_is_started_again(lab: Lab) -> None:
    def flag(name: str, *words: str) -> dict[str, object]:
        return {"exec": {"command": ["test", *words, f"/run/flags/{name}"]}, "periodSeconds": 1, "failureThreshold": 1}

    container = {
        "startupProbe": flag("started", "-e") | {"failureThreshold": 60},
        "livenessProbe": flag("dead", "!", "-e"),
        "readinessProbe": flag("ready", "-e"),
        "volumeMounts": [{"name": "flags", "mountPath": "/run/flags"}],
    }
    volumes = [{"name": "flags", "emptyDir": {}}]
    lab.user.apply_documents([a_deployment("probed", container=container, volumes=volumes)])

    def status() -> dict[str, object]:
        (pod,) = (pod for pod in lab.user.list("Pod", namespace="default") if pod["metadata"]["name"].startswith("probed-"))
        found: dict[str, object] = pod["status"]["containerStatuses"][0]
        return found

    try:
        eventually(lambda: lab.pids("probed-"), "it runs")
        (directory,) = (pod["directory"] for pod in lab.status()["pods"] if pod["name"].startswith("probed-"))
        flags = Path(directory) / "volumes" / "flags"
        assert status()["started"] is False
        (flags / "started").touch()
        eventually(lambda: status()["started"], "it has started")
        assert not ready_pods(lab, "probed")
        (flags / "ready").touch()
        eventually(lambda: ready_pods(lab, "probed"), "it is ready")
        (flags / "dead").touch()
        eventually(lambda: status()["restartCount"] == 1, "it was started again")
        (flags / "dead").unlink()
        (flags / "ready").unlink()
        eventually(lambda: not ready_pods(lab, "probed"), "it is not ready")
        assert status()["lastState"]["terminated"]["reason"] == "Completed"  # type: ignore[index]
    finally:
        lab.user.delete("Deployment", "probed", namespace="default")
        eventually(lambda: not [pod for pod in lab.status()["pods"] if pod["name"].startswith("probed-")], "it is gone")


def test_a_pod_that_gets_the_address_of_another_one_is_reached_by_its_node_at_once(lab: Lab) -> None:
    """A neighbour entry lives for 30 s and more; another Pod on the node keeps the bridge, and with it the entries, up."""

    def the_node(name: str) -> tuple[str, str]:
        (pod,) = eventually(lambda: ready_pods(lab, name), f"{name} is ready", limit_s=15.0)
        found: tuple[str, str] = (pod["node"], lab.user.get("Pod", pod["name"], namespace="default")["status"]["podIP"])
        return found

    def delete(name: str) -> None:
        lab.user.delete("Deployment", name, namespace="default")
        eventually(lambda: not pods_of(lab, name), f"{name} is gone")

    try:
        lab.user.apply_documents([a_deployment("stays")])
        node, _ = the_node("stays")
        there = {"kubernetes.io/hostname": node}
        lab.user.apply_documents([a_deployment("goes", nodeSelector=there)])
        before = the_node("goes")
        delete("goes")
        lab.user.apply_documents([a_deployment("comes", nodeSelector=there)])
        assert the_node("comes") == before
    finally:
        for name in ("stays", "goes", "comes"):
            lab.user.delete("Deployment", name, namespace="default")
