"""The lab's own way to its API server: kube's client and what only a kubelet and a controller manager need beside it."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import yaml

from kube.auth import Access, Credentials
from kube.client import KubeClient
from lab.kinds import PODS, Pod


def timestamp() -> str:
    """The time now as Kubernetes writes it: seconds, UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def micro_timestamp() -> str:
    """The time now as leases carry it: microseconds, UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def administrator(kubeconfig: str | Path) -> Credentials:
    """The credentials in a kubeconfig that the lab wrote: its form is known, so it is read without the official client."""

    def read() -> Access:
        document = yaml.safe_load(Path(kubeconfig).read_text(encoding="utf-8"))
        cluster, user = document["clusters"][0]["cluster"], document["users"][0]["user"]
        ca = base64.b64decode(cluster["certificate-authority-data"])
        return Access(cluster["server"], f"Bearer {user['token']}", ca=ca)

    return Credentials(read)


class LabClient(KubeClient):
    """A KubeClient that can also place Pods, finish their deletion, and ask for the tokens of service accounts."""

    async def bind(self, pod: Pod, node: str) -> None:
        """Give a Pod its node, as the scheduler does."""
        meta = pod.metadata
        body = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        await self.post(PODS.path(namespace=meta.namespace, name=meta.name, subresource="binding"), body)

    async def remove(self, pod: Pod) -> None:
        """Take a Pod whose processes have ended out of the API at once, as the kubelet does."""
        meta = pod.metadata
        await self.delete(PODS, meta.name, namespace=meta.namespace, uid=meta.uid, grace_s=0)

    async def token(self, namespace: str, service_account: str, *, valid_s: int) -> str:
        """A token of a service account (TokenRequest)."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{service_account}/token"
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"audiences": [], "expirationSeconds": valid_s},
        }
        answer = msgspec.json.decode(await self.post(path, body), type=_TokenRequest)
        return answer.status.token


class _TokenStatus(msgspec.Struct):
    token: str


class _TokenRequest(msgspec.Struct):
    status: _TokenStatus
