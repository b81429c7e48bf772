"""kubectl, whatever version the machine has, against the lab's API server: the commands the tutorials use."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import msgspec
import pytest

from lab.apiserver.api import Call
from lab.apiserver.testing import own_server

KUBECTL = shutil.which("kubectl")
MERGE = "application/merge-patch+json"
# What the lab's controllers would write: kubectl before 1.24 cannot write a status.
STATUSES = (
    ("", "services", {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}),
    ("apps", "deployments", {"conditions": [{"type": "Available", "status": "True"}]}),
)

WEB = """
apiVersion: v1
kind: Namespace
metadata: {name: web}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: nginx, namespace: web}
spec:
  selector: {matchLabels: {app: nginx}}
  template:
    metadata: {labels: {app: nginx}}
    spec: {containers: [{name: nginx, image: "nginx:latest"}]}
---
apiVersion: v1
kind: Service
metadata: {name: nginx, namespace: web}
spec: {type: LoadBalancer, selector: {app: nginx}, ports: [{name: http, port: 80}]}
"""

WRITE_STATUS_AFTER = "get all -n web -o wide"
TOUR: tuple[tuple[str, int, str], ...] = (
    ("apply -f web.yaml", 0, "service/nginx created"),
    ("apply -f web.yaml", 0, "service/nginx unchanged"),
    ("get svc -n web", 0, "<pending>"),
    ("get all -n web -o wide", 0, "deployment.apps/nginx"),
    ("wait deployment/nginx -n web --for=condition=Available --timeout=5s", 0, "condition met"),
    ("get svc nginx -n web -o jsonpath={.status.loadBalancer.ingress[0].ip}", 0, "192.0.2.1"),
    ("describe svc nginx -n web", 0, "LoadBalancer Ingress:     192.0.2.1"),
    ("label svc nginx -n web tier=front", 0, "labeled"),
    ("annotate svc nginx -n web a=b", 0, "annotated"),
    ("get svc -A -l tier=front -o name", 0, "service/nginx"),
    ("scale deployment nginx -n web --replicas=2", 0, "scaled"),
    ("create configmap c -n web --from-literal=a=b", 0, "created"),
    ("create secret generic s -n web --from-literal=a=b", 0, "created"),
    ("create service loadbalancer other -n web --tcp=80:80", 0, "created"),
    ("apply --server-side -f web.yaml --force-conflicts", 0, "serverside-applied"),
    ("explain service.spec.externalTrafficPolicy", 0, "externalTrafficPolicy <string>"),
    ("api-resources", 0, "endpointslices"),
    ("auth can-i create services", 0, "yes"),
    ("auth can-i create services --as=system:serviceaccount:web:default", 1, "no"),
    ("get nothing", 1, "the server doesn't have a resource type"),
    ("get svc none", 1, 'services "none" not found'),
    ("delete svc other -n web", 0, "deleted"),
    ("delete -f web.yaml", 0, "deleted"),
    ("get ns web", 1, 'namespaces "web" not found'),
)  # fmt: skip


@pytest.mark.needs("kubectl")
async def test_a_tour_with_kubectl(tmp_path: Path) -> None:
    (tmp_path / "web.yaml").write_text(WEB, encoding="utf-8")
    async with own_server(tmp_path / "state") as server:
        environment = {**os.environ, "KUBECONFIG": str(server.kubeconfig), "HOME": str(tmp_path)}
        for words, status, text in TOUR:
            command = [str(KUBECTL), *words.split(" ")]
            child = await asyncio.create_subprocess_exec(
                *command, cwd=tmp_path, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
            )
            output, _ = await child.communicate()
            if words == WRITE_STATUS_AFTER:
                for group, plural, status_written in STATUSES:
                    resource = server.api.registry.find(group, "v1", plural)
                    assert resource is not None
                    body = msgspec.json.encode({"status": status_written})
                    server.api.patch(resource, ("web", "nginx"), MERGE, body, Call(), sub="status")
            assert (child.returncode, text in output.decode()) == (status, True), f"kubectl {words}: {output.decode()}"
