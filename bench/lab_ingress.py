"""How soon a change reaches the lab's ingress proxy: `python -m bench.lab_ingress [--runs N]`, as root.

From the end of `kubectl replace` (of an Ingress, whose backend changes) and of `kubectl patch` (of the controller's ConfigMap)
to the first answer at the proxy's node port that shows it, asked every 5 ms from the client's namespace. nginx's old worker
goes on answering for about 0.1 s beside the new one, so the first answer may be followed by an old one; the last old answer is
counted too.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from lab import lifecycle, namespaces
from lab.paths import Paths
from lab.topology import Topology
from lab.user import INGRESS_MANIFESTS, User

AFTER_S = 0.5
"""For so long after the first new answer old ones are looked for."""
NAMESPACE = "default"


def documents(backend: str) -> list[dict[str, Any]]:
    """An Ingress whose backend is one of two Services."""
    port = {"service": {"name": backend, "port": {"number": 80}}}
    rules = [{"host": "a.example", "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": port}]}}]
    meta = {"name": "a", "namespace": NAMESPACE}
    return [{"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": meta, "spec": {"ingressClassName": "nginx", "rules": rules}}]  # fmt: skip


def servers(name: str) -> list[dict[str, Any]]:
    """Somebody who says his name, and the Service in front of him."""
    meta, labels = {"name": name, "namespace": NAMESPACE}, {"app": name}
    container = {
        "name": "c",
        "image": "registry.k8s.io/e2e-test-images/agnhost",
        "args": ["netexec", "--http-port=80"],
        "readinessProbe": {"httpGet": {"port": 80, "path": "/healthz"}},
    }
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    return [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": {"selector": {"matchLabels": labels}, "template": template}},
        {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"selector": labels, "ports": [{"port": 80}]}},
    ]  # fmt: skip


def answer(topology: Topology, address: tuple[str, int]) -> str:
    """Head and body of one answer, asked on a connection of its own."""
    with namespaces.inside(topology.netns("client")):
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with connection:
        connection.settimeout(1.0)
        connection.connect(address)
        connection.sendall(b"GET /hostname HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n")
        return b"".join(iter(lambda: connection.recv(4096), b"")).decode()


def measured(ask: Callable[[], str], new: str, old: str) -> tuple[float, float]:
    """Seconds from now to the first answer with the new text, and to the last with the old one."""
    began, first, last = time.monotonic(), 0.0, 0.0
    while not first or time.monotonic() < began + first + AFTER_S:
        at = time.monotonic() - began
        text = ask()
        if new in text:
            first = first or time.monotonic() - began
        elif old in text:
            last = at
        time.sleep(0.005)
    return first, last


def main() -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with TemporaryDirectory(prefix="lab-ingress-") as directory:
        where = Paths(Path(directory))
        lifecycle.up(where, nodes=1)
        try:
            found = _measure(where, arguments.runs, Path(directory) / "ingress.json")
        finally:
            lifecycle.down(where)
    load = os.getloadavg()[0]
    if arguments.json:
        print(json.dumps({"load": load, **found}))
        return 0
    print(f"load average {load:.1f}, {arguments.runs} changes each, seconds: median / longest")
    for name, values in found.items():
        print(f"  {name:40} {median(values):.3f} / {max(values):.3f}")
    return 0


def _measure(where: Paths, runs: int, file: Path) -> dict[str, list[float]]:
    user, topology = User(where.kubeconfig), lifecycle.running_topology(where)
    user.apply(INGRESS_MANIFESTS)
    user.apply_documents([*servers("one"), *servers("two"), *documents("one")])
    for words in (
        ("deployment/one",),
        ("deployment/two",),
        ("daemonset/ingress-nginx-controller", "--namespace=ingress-nginx"),
    ):
        user.run("rollout", "status", "--timeout=60s", *words)
    service = user.get("Service", "ingress-nginx-controller", namespace="ingress-nginx")
    address = str(topology.nodes[0].ip), int(service["spec"]["ports"][0]["nodePort"])

    def ask() -> str:
        try:
            return answer(topology, address)
        except OSError:
            return ""

    measured(ask, "\r\none-", "")
    found: dict[str, list[float]] = {}
    for run in range(runs):
        new, old = ("two", "one") if run % 2 == 0 else ("one", "two")
        file.write_text(json.dumps(documents(new)[0]))
        user.run("replace", f"--filename={file}")
        first, last = measured(ask, f"\r\n{new}-", f"\r\n{old}-")
        found.setdefault("kubectl replace: first new answer", []).append(first)
        found.setdefault("kubectl replace: last old answer", []).append(last)
        tokens = run % 2 == 0
        patch = json.dumps({"data": {"server-tokens": str(tokens).lower()}})
        where_ = ("configmap", "ingress-nginx-controller", "--namespace=ingress-nginx")
        user.run("patch", *where_, f"--patch={patch}")
        new, old = ("nginx/", "nginx\r\n") if tokens else ("nginx\r\n", "nginx/")
        first, last = measured(ask, new, old)
        found.setdefault("ConfigMap: first new answer", []).append(first)
        found.setdefault("ConfigMap: last old answer", []).append(last)
    return found


if __name__ == "__main__":
    sys.exit(main())
