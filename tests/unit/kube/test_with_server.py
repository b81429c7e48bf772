"""Client, reflector, recorder and reviewer against the lab's API server: the ordinary life, and a server that is killed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
import yaml

from kube.auth import Credentials
from kube.client import KubeClient, PatchKind
from kube.errors import AlreadyExists, Conflict, Invalid, NotFound, Unauthorized
from kube.events import EventRecorder
from kube.informer import Reflector
from kube.objects import ObjectKey, ObjectReference, RawObject, View
from kube.resources import EVENTS, IP_ADDRESS_POOLS, NAMESPACES, SECRETS, SERVICES, Resource
from kube.reviews import Reviewer
from kube.store import Store, everything, generation
from lab.apiserver.testing import access_to, running_server

T = TypeVar("T", bound=View)

CRDS = Path(__file__).parents[2] / "recorded" / "apiserver" / "crds"
CUSTOM_RESOURCES = Resource(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", RawObject, namespaced=False
)
SERVICE_ACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount", RawObject)
CLUSTER_ROLES = Resource("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", RawObject, namespaced=False)
CLUSTER_ROLE_BINDINGS = Resource(
    "rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", RawObject, namespaced=False
)


class Quiet:
    def info(self, event: str, /, **facts: object) -> None:
        pass

    warning = info


@asynccontextmanager
async def client_of(server: Any) -> AsyncIterator[KubeClient]:
    client = await KubeClient.connect(Credentials(lambda: access_to(server)))
    try:
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def mirrored(
    client: KubeClient, resource: Resource[T], fingerprint: Callable[[T], object] = everything
) -> AsyncIterator[tuple[Store[T], asyncio.Event, Reflector[T]]]:
    store: Store[T] = Store()
    dirty = asyncio.Event()
    reflector = Reflector(client, resource, store, dirty=dirty, fingerprint=fingerprint, log=Quiet())
    async with asyncio.TaskGroup() as group:
        task = group.create_task(reflector.run(), name="reflector")
        try:
            yield store, dirty, reflector
        finally:
            task.cancel()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


def a_service(name: str) -> dict[str, object]:
    spec = {"type": "LoadBalancer", "ports": [{"name": "http", "port": 80}], "selector": {"app": name}}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


async def test_an_object_lives_and_dies(tmp_path: Path) -> None:
    async with running_server(tmp_path) as server, client_of(server) as client:
        made = await client.create(SERVICES, a_service("web"), namespace="default")
        assert (made.key, made.spec.type) == ("default/web", "LoadBalancer")
        with pytest.raises(AlreadyExists):
            await client.create(SERVICES, a_service("web"), namespace="default")
        status = {"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}
        patched = await client.patch(SERVICES, "web", status, namespace="default", subresource="status")
        assert patched.status.load_balancer.ingress is not None
        assert [(each.ip, each.ip_mode) for each in patched.status.load_balancer.ingress] == [("192.0.2.1", "VIP")]
        raw = await client.get(SERVICES.raw(), "web", "default")
        assert raw.document["spec"]["sessionAffinity"] == "None"
        stale = raw.document | {"metadata": raw.document["metadata"] | {"resourceVersion": made.metadata.resource_version}}
        with pytest.raises(Conflict):
            await client.update(SERVICES, "web", stale, namespace="default")
        again = await client.update(SERVICES, "web", raw.document, namespace="default", subresource="status")
        assert again.metadata.resource_version == patched.metadata.resource_version
        listed, version = await client.list(SERVICES, namespace="default", field_selector="metadata.name=web")
        assert [each.key for each in listed] == ["default/web"]
        assert int(version) >= int(again.metadata.resource_version)
        await client.delete(SERVICES, "web", namespace="default", uid=made.metadata.uid)
        with pytest.raises(NotFound):
            await client.get(SERVICES, "web", "default")


async def test_server_side_apply_and_json_patch_reach_the_server(tmp_path: Path) -> None:
    async with running_server(tmp_path) as server, client_of(server) as client:
        applied = await client.patch(
            SERVICES, "web", a_service("web"), namespace="default", kind=PatchKind.APPLY, field_manager="us", force=True
        )
        assert applied.spec.selector == {"app": "web"}
        labelled = await client.patch(
            SERVICES,
            "web",
            [{"op": "add", "path": "/metadata/labels", "value": {"tier": "front"}}],
            namespace="default",
            kind=PatchKind.JSON,
        )
        assert labelled.metadata.labels == {"tier": "front"}
        with pytest.raises(Invalid):
            await client.patch(SERVICES, "web", {"spec": {"ports": []}}, namespace="default")


async def test_a_store_follows_the_server(tmp_path: Path) -> None:
    async with running_server(tmp_path) as server, client_of(server) as client, mirrored(client, SERVICES) as mirror:
        store, dirty, _ = mirror
        await until(lambda: store.synced)
        await client.create(SERVICES, a_service("web"), namespace="default")
        await until(lambda: store.get(ObjectKey("default/web")) is not None)
        store.take_changed()
        dirty.clear()
        await client.patch(SERVICES, "web", {"metadata": {"labels": {"a": "b"}}}, namespace="default")
        await asyncio.wait_for(dirty.wait(), 20)
        assert store.take_changed() == {"default/web"}
        await client.delete(SERVICES, "web", namespace="default")
        await until(lambda: store.get(ObjectKey("default/web")) is None)


async def test_a_watch_goes_on_without_gaps_when_the_server_was_restarted(tmp_path: Path) -> None:
    async with running_server(tmp_path) as server:
        client = await KubeClient.connect(Credentials(lambda: access_to(server)))
        await client.create(SERVICES, a_service("before"), namespace="default")
    try:
        async with mirrored(client, SERVICES) as (store, _, reflector):
            async with running_server(tmp_path):
                await until(lambda: store.get(ObjectKey("default/before")) is not None)
                await until(lambda: reflector.tally.watches >= 1)
            await until(lambda: reflector.tally.failures >= 2)
            async with running_server(tmp_path):
                back = time.monotonic()
                await client.create(SERVICES, a_service("after"), namespace="default")
                await until(lambda: store.get(ObjectKey("default/after")) is not None)
                assert time.monotonic() - back < 5, "it was found again before long"
                assert set(store.snapshot()) == {"default/before", "default/after"} | {
                    key for key in store.snapshot() if key == "default/kubernetes"
                }
    finally:
        await client.close()


async def test_a_store_of_custom_resources_counts_only_new_generations(tmp_path: Path) -> None:
    definition = yaml.safe_load((CRDS / "ipaddresspools.yaml").read_text())
    async with running_server(tmp_path) as server, client_of(server) as client:
        mirror = mirrored(client, IP_ADDRESS_POOLS, generation)
        async with mirror as (store, dirty, reflector):
            await until(lambda: reflector.tally.failures >= 1)  # The kind does not exist yet.
            await client.create(CUSTOM_RESOURCES, definition)
            await until(lambda: store.synced)
            pool = {
                "apiVersion": "metallb.io/v1beta1",
                "kind": "IPAddressPool",
                "metadata": {"name": "default"},
                "spec": {"addresses": ["192.168.20.20-192.168.20.255"]},
            }
            await client.create(IP_ADDRESS_POOLS, pool, namespace="default")
            await until(lambda: len(store) == 1)
            held = store.get(ObjectKey("default/default"))
            assert held is not None
            assert held.document["spec"]["autoAssign"] is True, "the default of the schema"
            events = reflector.tally.events
            dirty.clear()
            await client.patch(IP_ADDRESS_POOLS, "default", {"metadata": {"annotations": {"a": "b"}}}, namespace="default")
            await until(lambda: reflector.tally.events > events)
            assert not dirty.is_set()
            await client.patch(IP_ADDRESS_POOLS, "default", {"spec": {"autoAssign": False}}, namespace="default")
            await asyncio.wait_for(dirty.wait(), 20)


async def test_events_are_found_by_their_reason(tmp_path: Path) -> None:
    async with running_server(tmp_path) as server, client_of(server) as client:
        recorder = EventRecorder(client, "metallb-speaker", "speaker-n1")
        about = ObjectReference(kind="Service", api_version="v1", namespace="default", name="web", uid="u")
        async with asyncio.TaskGroup() as group:
            task = group.create_task(recorder.run(), name="events")

            async def count() -> int:
                found, _ = await client.list(EVENTS, namespace="default", field_selector="reason=nodeAssigned")
                return int(found[0].document["count"]) if len(found) == 1 else 0

            for number in (1, 2, 3):
                recorder.emit(about, "Normal", "nodeAssigned", 'announcing from node "n1" with protocol "layer2"')
                async with asyncio.timeout(20):
                    while await count() != number:  # noqa: ASYNC110 - it is the server that is waited for
                        await asyncio.sleep(0.005)
            task.cancel()
        (event,), _ = await client.list(EVENTS, namespace="default", field_selector="reason=nodeAssigned")
        assert event.document["source"] == {"component": "metallb-speaker"}
        assert event.document["reportingInstance"] == "speaker-n1"


async def test_a_service_account_that_may_read_the_metrics_is_let_in(tmp_path: Path) -> None:
    async with running_server(tmp_path) as server, client_of(server) as client:
        await client.create(SERVICE_ACCOUNTS, {"metadata": {"name": "prom"}}, namespace="default")
        answer = await client.post(
            "/api/v1/namespaces/default/serviceaccounts/prom/token",
            {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}},
        )
        token = msgspec.json.decode(answer)["status"]["token"]
        role = {"metadata": {"name": "metrics"}, "rules": [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]}
        await client.create(CLUSTER_ROLES, role)
        binding = {
            "metadata": {"name": "metrics"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "metrics"},
            "subjects": [{"kind": "ServiceAccount", "name": "prom", "namespace": "default"}],
        }
        await client.create(CLUSTER_ROLE_BINDINGS, binding)
        reviewer = Reviewer(client, clock=time.monotonic)
        assert await reviewer.authorize(token, "/metrics") is HTTPStatus.OK
        assert await reviewer.authorize(token, "/status") is HTTPStatus.FORBIDDEN
        assert await reviewer.authorize("rubbish", "/metrics") is HTTPStatus.UNAUTHORIZED


async def test_a_pod_reads_its_service_account_and_an_unknown_token_is_unauthorized(tmp_path: Path) -> None:
    async with running_server(tmp_path / "server") as server, client_of(server) as admin:
        await admin.create(SECRETS, {"metadata": {"name": "s"}, "data": {"k": "dg=="}}, namespace="default")
        account = tmp_path / "account"
        account.mkdir()
        (account / "ca.crt").write_bytes(Path(server.ca_file).read_bytes())  # noqa: ASYNC240 - a test may block
        (account / "token").write_text(f"{server.token}\n")
        host, _, port = server.url.removeprefix("https://").rpartition(":")
        environment = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
        credentials = Credentials.from_environment(environment=environment, service_account=account)
        pod = await KubeClient.connect(credentials)
        try:
            secret = await pod.get(SECRETS, "s", "default")
            assert secret.data == {"k": "dg=="}
            assert "dg==" not in repr(secret)
            (account / "token").write_text("wrong")
            await credentials.read_again(credentials.access)
            with pytest.raises(Unauthorized):
                await pod.list(NAMESPACES)
            (account / "token").write_text(server.token)
            assert await pod.list(NAMESPACES)
        finally:
            await pod.close()


async def test_many_objects_are_listed_in_pages(tmp_path: Path) -> None:
    async with running_server(tmp_path) as server, client_of(server) as client:
        body = {"apiVersion": "v1", "kind": "Namespace"}
        for number in range(510):
            await client.create(NAMESPACES, body | {"metadata": {"name": f"n{number}"}})
        before = client.requests
        namespaces, _ = await client.list(NAMESPACES)
        assert len({each.key for each in namespaces}) == len(namespaces) >= 510
        assert client.requests - before == 2
