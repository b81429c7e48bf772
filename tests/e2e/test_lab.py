"""The lab itself: it comes, it goes, it leaves nothing, whatever happens to it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import netns
from lab.leftovers import what_is_left
from lab.user import INGRESS_MANIFESTS, MANIFESTS, TUTORIAL, CommandError
from tests.e2e.conftest import Lab, a_lab

pytestmark = [pytest.mark.needs("root", "nginx", "nft"), pytest.mark.timeout(180)]

DEADLINE_S = 30.0
APP = {"app": "web"}


def eventually(look: Callable[[], object], what: str, *, limit_s: float = DEADLINE_S) -> Any:
    """What a look finds, once it finds something."""
    deadline = time.monotonic() + limit_s
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {limit_s:g} s: {what}"
        time.sleep(0.05)
    return found


def the_host() -> dict[str, str]:
    """What a lab must not change outside its namespaces."""
    looks = {
        "addresses": ["ip", "-brief", "address"],
        "routes": ["ip", "route", "show", "table", "all"],
        "rules": ["nft", "list", "ruleset"],
    }
    return {name: subprocess.run(words, capture_output=True, text=True, check=True).stdout for name, words in looks.items()}


@pytest.fixture
def small() -> Iterator[Lab]:
    """Another lab with one node, beside the session's."""
    made = a_lab("small")
    made.command("down")
    made.command("up", "--nodes", "1")
    try:
        yield made
    finally:
        made.command("down")
        assert what_is_left(made.paths) == []


def a_deployment(name: str = "web", *, replicas: int = 1, image: str = "nginx:latest", **pod: Any) -> dict[str, Any]:
    container = {
        "name": "c",
        "image": image,
        "ports": [{"name": "http", "containerPort": 80}],
        "readinessProbe": {"httpGet": {"port": "http"}, "periodSeconds": 1},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [container | pod.pop("container", {})], **pod},
            },
        },
    }


def a_service(name: str = "web", **spec: Any) -> dict[str, Any]:
    ports = [{"name": "http", "port": 80, "targetPort": "http"}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"app": name}, "ports": ports, **spec},
    }


def pods_of(lab: Lab, name: str) -> list[dict[str, Any]]:
    """The Pods of a workload in `default`."""
    return [pod for pod in lab.status()["pods"] if pod["namespace"] == "default" and pod["name"].startswith(f"{name}-")]


def ready_pods(lab: Lab, name: str) -> list[dict[str, Any]]:
    return [pod for pod in pods_of(lab, name) if pod["ready"]]


def until_ready(lab: Lab, count: int) -> list[dict[str, Any]]:
    """The Pods of `web`, once so many are ready."""
    found: list[dict[str, Any]] = eventually(
        lambda: pods if len(pods := ready_pods(lab, "web")) == count else None, f"{count} ready web servers"
    )
    return found


def curl(lab: Lab, machine: str, url: str) -> str:
    return lab.run_on(machine, "curl", "--silent", "--show-error", "--max-time", "2", url).stdout


def until_welcome(lab: Lab, machine: str, url: str) -> None:
    eventually(lambda: "Welcome to nginx" in curl(lab, machine, url), f"{machine} gets nginx's page from {url}")


@pytest.mark.usefixtures("lab")
def test_a_lab_leaves_the_host_as_it_was() -> None:
    before = the_host()
    other = a_lab("other")
    other.command("up", "--nodes", "2", "--net", "10.77.0.0/24")
    try:
        assert the_host() == before
        assert netns.existing(other.topology.lab_id)
        assert other.run_on("client", "curl", "--silent", "--insecure", "https://10.77.0.2:6443/livez").stdout == "ok"
    finally:
        other.command("down")
    assert the_host() == before
    assert what_is_left(other.paths) == []


def test_a_second_lab_in_the_same_place_is_refused_and_the_first_lives_on(lab: Lab) -> None:
    refusal = lab.command("up", status=1)
    assert "a lab is already up" in refusal
    assert "-m lab down" in refusal
    assert all(node["ready"] for node in lab.status()["nodes"].values())


def test_a_killed_lab_is_cleared_by_its_guardian_and_the_next_one_starts_from_nothing(small: Lab) -> None:
    small.user.apply_documents([a_deployment()])
    eventually(lambda: ready_pods(small, "web"), "nginx is ready")
    state = small.paths.read_state()
    assert state is not None
    os.kill(state.pid, signal.SIGKILL)
    small.command("up", "--nodes", "1")
    assert small.status()["pods"] == []
    state = small.paths.read_state()
    assert state is not None
    os.kill(state.pid, signal.SIGKILL)
    eventually(lambda: what_is_left(small.paths) == [], "nothing is left, though nobody asked for it")
    assert "no lab is up" in small.command("status", status=1)


def test_down_clears_what_a_lab_left_that_was_killed_with_its_guardian_and_may_be_repeated(small: Lab) -> None:
    state = small.paths.read_state()
    assert state is not None
    os.kill(state.guardian, signal.SIGSTOP)  # It must not see the end of the other.
    os.kill(state.pid, signal.SIGKILL)
    os.kill(state.guardian, signal.SIGKILL)
    eventually(lambda: not [left for left in what_is_left(small.paths) if left.startswith("process")], "no process is left")
    assert netns.existing(state.lab_id)
    assert "no lab is up" in small.command("status", status=1)
    small.command("down")
    assert what_is_left(small.paths) == []
    assert "nothing was up" in small.command("down")


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["up", "--nodes", "99", "--net", "192.168.20.0/24"], "a /24 holds 9"),
        (["exec", "n9", "--", "true"], "its machines are"),
        (["kill", "n9"], "there is no node 'n9'"),
        (["restore", "n1"], "kill n1: that is not in force"),
        (["run", "nothing"], "there are first_service, node_death"),
    ],
)
def test_a_wrong_command_is_refused_with_what_would_be_right(lab: Lab, words: list[str], answer: str) -> None:
    assert answer in lab.command(*words, status=1)


def test_exec_gives_the_commands_own_status(lab: Lab) -> None:
    lab.command("exec", "client", "--", "sh", "-c", "exit 7", status=7)
    assert "192.168.20.3/24" in lab.command("exec", "client", "--", "ip", "-brief", "address")


def test_without_kubectl_the_same_files_are_sent_to_the_api(small: Lab) -> None:
    user = small.user
    user.kubectl = None
    user.apply(*MANIFESTS)

    def applied() -> object:
        try:
            return user.apply(TUTORIAL / "iptool.yaml", TUTORIAL / "test_service.yaml", namespace="metallb-system")
        except CommandError as error:
            if "failed calling webhook" not in str(error):
                raise
            return None  # Nothing can be configured before the controller is up.

    eventually(applied, "the controller lets the API server ask it")

    def address() -> object:
        return user.get("Service", "nginx-service", namespace="metallb-system")["status"]["loadBalancer"].get("ingress")

    assert eventually(address, "the Service has its address")[0]["ip"] == "192.168.20.20"
    assert user.apply(INGRESS_MANIFESTS)[0] == "namespace/ingress-nginx created"
    assert user.apply(INGRESS_MANIFESTS)[0] == "namespace/ingress-nginx configured"
    with pytest.raises(CommandError, match="404"):
        user.get("Service", "nobody", namespace="default")


# Workloads


@pytest.fixture
def clean(lab: Lab) -> Iterator[Lab]:
    """The session's lab with the objects of these tests gone afterwards."""
    yield lab
    for kind in ("Deployment", "Service", "Secret"):
        lab.user.delete(kind, "web", namespace="default")
    eventually(lambda: not pods_of(lab, "web"), "the Pods are gone")


def test_a_service_is_reached_by_cluster_ip_and_node_port_from_everywhere(clean: Lab) -> None:
    clean.user.apply_documents([a_deployment(replicas=2), a_service(type="NodePort")])
    pod = until_ready(clean, 2)[0]
    service = clean.user.get("Service", "web", namespace="default")["spec"]
    for node in clean.topology.nodes:
        until_welcome(clean, node.name, f"http://{service['clusterIP']}/")
        until_welcome(clean, "client", f"http://{node.ip}:{service['ports'][0]['nodePort']}/")
    inside = clean.topology.netns(f"pod-{Path(pod['directory']).name.replace('-', '')[:11]}")
    words = netns.enter(inside, ["curl", "--silent", "--max-time", "2", f"http://{service['clusterIP']}/"])
    for _ in range(8):  # By chance it is its own backend too.
        assert "Welcome to nginx" in subprocess.run(words, capture_output=True, text=True, check=False).stdout


def test_a_service_without_endpoints_is_refused_at_once(clean: Lab) -> None:
    clean.user.apply_documents([a_service()])
    address = clean.user.get("Service", "web", namespace="default")["spec"]["clusterIP"]

    def refused() -> bool:  # Without the rule there would be silence, and curl would end with 28.
        return clean.run_on("n1", "curl", "--silent", "--max-time", "1", f"http://{address}/").returncode == 7

    eventually(refused, "a refusal")


def test_an_image_that_the_lab_lacks_is_named_in_the_pods_status(clean: Lab) -> None:
    clean.user.apply_documents([a_deployment(image="redis:7")])

    def message() -> str | None:
        for pod in clean.user.list("Pod", namespace="default"):
            for status in pod["status"].get("containerStatuses", []):
                waiting = status["state"].get("waiting", {})
                if waiting.get("reason") == "ErrImagePull":
                    return str(waiting["message"])
        return None

    assert "the lab has no image 'redis:7'; it has nginx" in eventually(message, "the Pod says why it waits")


def test_a_pod_waits_for_its_secret(clean: Lab) -> None:
    volumes = [{"name": "s", "secret": {"secretName": "web"}}]
    mounts = {"volumeMounts": [{"name": "s", "mountPath": "/usr/share/nginx/html", "readOnly": True}]}
    clean.user.apply_documents([a_deployment(volumes=volumes, container=mounts), a_service()])
    eventually(
        lambda: "secret default/web not found" in str(clean.user.list("Pod", namespace="default")), "it says what is missing"
    )
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "web", "namespace": "default"},
        "stringData": {"index.html": "psst"},
    }
    clean.user.apply_documents([secret])
    until_ready(clean, 1)
    address = clean.user.get("Service", "web", namespace="default")["spec"]["clusterIP"]
    eventually(lambda: curl(clean, "n1", f"http://{address}/") == "psst", "the secret page")


def test_a_changed_template_replaces_the_pods(clean: Lab) -> None:
    clean.user.apply_documents([a_deployment(replicas=2)])
    old = {pod["name"] for pod in until_ready(clean, 2)}
    clean.user.apply_documents([a_deployment(replicas=2, image="nginx:other")])

    def replaced() -> bool:
        names = {pod["name"] for pod in clean.status()["pods"] if pod["name"].startswith("web-")}
        return len(names) == 2 and not names & old and len(ready_pods(clean, "web")) == 2

    eventually(replaced, "two new ready Pods and no old one")
    status = clean.user.get("Deployment", "web", namespace="default")["status"]
    assert (status["updatedReplicas"], status["availableReplicas"]) == (2, 2)


def test_a_program_that_dies_is_started_again(clean: Lab) -> None:
    clean.user.apply_documents([a_deployment()])
    until_ready(clean, 1)
    (pid,) = clean.pids("web-").values()
    os.kill(pid, signal.SIGKILL)
    eventually(
        lambda: [new for new in clean.pids("web-").values() if new != pid] and ready_pods(clean, "web"), "another process"
    )
    (pod,) = clean.user.list("Pod", namespace="default")
    assert pod["status"]["containerStatuses"][0]["restartCount"] == 1


def test_a_node_without_power_is_not_ready_after_the_grace_period_and_again_when_it_returns(clean: Lab) -> None:
    clean.user.apply_documents([a_deployment(replicas=3), a_service()])
    until_ready(clean, 3)
    clean.command("kill", "n3")
    try:
        eventually(lambda: not clean.status()["nodes"]["n3"]["ready"], "n3 is not ready", limit_s=60.0)
        until_ready(clean, 2)

        def taints() -> set[str]:
            spec = clean.user.get("Node", "n3", namespace="")["spec"]
            return {f"{taint['key']}:{taint['effect']}" for taint in spec.get("taints", ())}

        lost = {f"node.kubernetes.io/unreachable:{effect}" for effect in ("NoSchedule", "NoExecute")}
        eventually(lambda: taints() == lost, "n3 has the taints of a lost node")

        def endpoints() -> dict[str, bool]:
            slices = clean.user.list("EndpointSlice", namespace="default")
            return {
                e["nodeName"]: e["conditions"]["ready"]
                for s in slices
                for e in s["endpoints"]
                if s["metadata"]["name"].startswith("web-")
            }

        eventually(lambda: endpoints() == {"n1": True, "n2": True, "n3": False}, "its endpoint is not ready")
    finally:
        clean.command("restore", "n3")
    eventually(lambda: clean.status()["nodes"]["n3"]["ready"], "n3 is ready again")
    eventually(lambda: taints() == set(), "n3 has no taint any more")
    until_ready(clean, 3)
