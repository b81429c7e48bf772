"""Both daemons under exactly the Roles of manifests/base: nothing that they ask for is refused."""

from __future__ import annotations

import asyncio
import functools
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from config.model import InterfaceName, NodeName, ServiceKey
from controller.observe import KEEP_ADDRESS_FOR
from kube.client import KubeClient
from kube.errors import KubeError, NotFound
from kube.objects import RawObject
from kube.resources import CONFIG_MAPS, LEASES, NODES, SECRETS, SERVICE_L2_STATUSES, SERVICES, Resource
from lab.apiserver.auth import Attributes, Authorizer, User
from lab.apiserver.errors import ApiError
from speaker.plan import Announce, Decision
from speaker.reason import Reason
from speaker.run import Speaker
from speaker.settings import read
from tests.builders import NAMESPACE, addresses
from tests.integration.controller.hooked import a_free_port
from tests.unit.controller.cluster import Cluster, a_cluster, client_of, until

MANIFEST = Path(__file__).parents[2] / "manifests/base/10-rbac.yaml"
RBAC = "rbac.authorization.k8s.io"
PLURALS = {
    "ServiceAccount": ("", "serviceaccounts", True),
    "ClusterRole": (RBAC, "clusterroles", False),
    "ClusterRoleBinding": (RBAC, "clusterrolebindings", False),
    "Role": (RBAC, "roles", True),
    "RoleBinding": (RBAC, "rolebindings", True),
}


async def tokens(cluster: Cluster) -> dict[str, str]:
    """Create what the manifest has; a token of each service account."""
    found = {}
    for document in yaml.safe_load_all(MANIFEST.read_text()):
        group, plural, namespaced = PLURALS[document["kind"]]
        resource = Resource(group, "v1", plural, document["kind"], RawObject, namespaced)
        await cluster.client.create(resource, document, namespace=NAMESPACE if namespaced else None)
        if document["kind"] == "ServiceAccount":
            name = document["metadata"]["name"]
            request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
            answer = await cluster.client.post(resource.path(namespace=NAMESPACE, name=name, subresource="token"), request)
            found[name] = json.loads(answer)["status"]["token"]
    return found


async def there(client: KubeClient, resource: Resource[Any], name: str) -> None:
    async def look() -> bool:
        try:
            await client.get(resource, name, NAMESPACE)
        except NotFound:
            return False
        return True

    await until(look)


async def test_nothing_that_the_daemons_ask_for_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[str] = []
    asked = Authorizer.require

    def require(self: Authorizer, user: User, wanted: Attributes) -> None:
        try:
            asked(self, user, wanted)
        except ApiError:
            refused.append(f"{user.name}: {wanted}")
            raise

    monkeypatch.setattr(Authorizer, "require", require)
    async with a_cluster(tmp_path) as cluster:
        token = await tokens(cluster)
        await cluster.client.create(NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"}})
        await cluster.pool()
        flags = (
            "--webhook-mode=enabled",
            f"--webhook-port={a_free_port()}",
            "--ml-secret-name=memberlist",
            "--deployment=controller",
        )
        async with cluster.controlled(*flags, token=token["controller"]):
            await there(cluster.client, SECRETS, "memberlist")
            await there(cluster.client, SECRETS, "metallb-webhook-cert")
            await cluster.service(annotations={KEEP_ADDRESS_FOR: "1h"})
            assert await cluster.address() == "192.168.20.20"
            await there(cluster.client, CONFIG_MAPS, "metallb-py-remembered-addresses")
            await there(cluster.client, LEASES, "metallb-py-controller")
            await cluster.event("web", "IPAllocated")
            await speak(cluster, token["speaker"])
            await cluster.client.delete(SERVICES, "web", namespace="default")
            await cluster.quiet()
    assert refused == []


async def speak(cluster: Cluster, token: str) -> None:
    """Run a speaker that may use no interface; what it writes about a Service is asked of its reporter."""
    socket = cluster.path / "speaker.sock"
    own = ["--node-name=a", "--pod-name=none", "--port=0", "--health-probe-port=0", f"--status-socket={socket}"]
    settings = replace(read(own, {}), excluded=re.compile(""))
    key, announce = (
        ServiceKey("default/web"),
        Announce(addresses("192.168.20.20"), frozenset({InterfaceName("eth0")}), on_every_interface=True),
    )
    decision = Decision(key, announce.addresses, announce, Reason.WON_ELECTION, "", (NodeName("a"),))
    async with client_of(cluster.server, token) as client, asyncio.TaskGroup() as group:
        speaker = Speaker(settings, client, NAMESPACE)
        tasks = speaker.start(group)
        try:
            async with asyncio.timeout(20):
                await speaker._reconciler.caches_complete.wait()
            for before, after, count in ((None, decision, 1), (decision, None, 0)):
                speaker._reporter.changed(key, before, after)
                await until(functools.partial(statuses, cluster, count))
        finally:
            await speaker.leave()
            for task in tasks:
                task.cancel()


async def statuses(cluster: Cluster, count: int) -> bool:
    """Whether there are so many statuses, all of them written."""
    try:
        found, _ = await cluster.client.list(SERVICE_L2_STATUSES, namespace=NAMESPACE)
    except KubeError:
        return False
    return len(found) == count and all(one.document.get("status") for one in found)
