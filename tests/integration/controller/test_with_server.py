"""The whole controller against the lab's API server: what users and other controllers see of it."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from config.model import PoolName
from controller.observe import ADDRESS_ASSIGNED
from kube.client import PatchKind
from kube.errors import Invalid, NotFound
from kube.objects import RawObject
from kube.resources import DEPLOYMENTS, IP_ADDRESS_POOLS, NAMESPACES, SECRETS, SERVICES, Resource
from lab.apiserver.testing import running_server
from tests.builders import NAMESPACE, an_l2_document
from tests.unit.controller.cluster import Cluster, a_cluster, annotation, client_of, controlled, ips, until

SERVICE_ACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount", RawObject)
CLUSTER_ROLES = Resource("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", RawObject, namespaced=False)
CLUSTER_ROLE_BINDINGS = Resource(
    "rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", RawObject, namespaced=False
)


async def test_a_service_gets_an_address_an_annotation_and_an_event(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as cluster, cluster.controlled():
        await cluster.pool()
        await cluster.service()
        assert await cluster.address() == "192.168.20.20"
        service = await cluster.get()
        assert annotation(service) == "default"
        assert [entry.ip_mode for entry in service.status.load_balancer.ingress or ()] == ["VIP"]
        assert await cluster.event("web", "IPAllocated") == 'Assigned IP ["192.168.20.20"]'


async def test_one_write_for_a_service_and_none_when_nothing_changed(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as cluster:
        await cluster.pool()
        created = await cluster.service()
        async with cluster.controlled():
            await cluster.address()
            await cluster.event("web", "IPAllocated")
            await cluster.quiet()
            assert b"metallb_controller_status_writes_total 1.0" in await cluster.ask("/metrics")
            written = await cluster.get()
            await cluster.change("web", metadata={"labels": {"a": "b"}})
            await cluster.change("web", metadata={"annotations": {"example.com/x": "y"}})
            await cluster.service("second")
            assert await cluster.address("second") == "192.168.20.21"
            assert b"metallb_controller_status_writes_total 2.0" in await cluster.ask("/metrics")
        assert created.metadata.uid == written.metadata.uid
        assert [reason for _, reason, _ in await cluster.events("web")] == ["IPAllocated"]


async def test_addresses_stay_over_a_restart_and_nothing_is_written(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as cluster:
        await cluster.pool()
        async with cluster.controlled():
            for name in ("c", "b", "a"):
                await cluster.service(name)
                await cluster.address(name)
            await cluster.quiet()
        before = {name: await cluster.get(name) for name in "abc"}
        await cluster.service("new", loadBalancerIP="192.168.20.20")
        async with cluster.controlled():
            assert "address also in use by default/c" in await cluster.event("new", "AllocationFailed")
            await cluster.quiet()
            assert {name: await cluster.get(name) for name in "abc"} == before
            assert b"metallb_controller_status_writes_total 1.0" in await cluster.ask("/metrics"), (
                "the condition of the new one"
            )


async def test_an_exhausted_pool_is_said_once_and_a_freed_address_goes_to_the_oldest(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as cluster, cluster.controlled():
        await cluster.pool("tiny", "192.168.20.20/32")
        await cluster.service("holder")
        await cluster.address("holder")
        for name in ("first", "second"):
            await cluster.service(name)
            note = await cluster.event(name, "AllocationFailed")
            assert note == (
                f'Failed to allocate IP for "default/{name}": no available IPs: '
                'pool "tiny" has no free IPv4 address (all 1 in use)'
            )
        await cluster.client.delete(SERVICES, "holder", namespace="default")
        assert await cluster.address("first") == "192.168.20.20"
        await cluster.change("second", metadata={"labels": {"a": "b"}})
        await cluster.client.delete(SERVICES, "first", namespace="default")
        assert await cluster.address("second") == "192.168.20.20"
        await cluster.event("second", "IPAllocated")
        assert [reason for _, reason, _ in await cluster.events("second")] == ["AllocationFailed", "IPAllocated"]


async def test_a_service_of_another_type_gives_its_address_back(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as cluster, cluster.controlled():
        await cluster.pool("tiny", "192.168.20.20/32")
        await cluster.service()
        await cluster.address()
        await cluster.service("next")
        await cluster.change("web", spec={"type": "ClusterIP"})
        assert await cluster.address("next") == "192.168.20.20"

        async def cleared() -> bool:
            service = await cluster.get()
            return annotation(service) is None and not ips(service)

        assert await until(cleared)


@pytest.mark.parametrize(
    ("annotations", "spec", "expected"),
    [
        ({"metallb.io/loadBalancerIPs": "192.168.20.22"}, {}, "192.168.20.22"),
        ({"metallb.universe.tf/loadBalancerIPs": " 192.168.20.22 "}, {}, "192.168.20.22"),
        ({"metallb.io/loadBalancerIPs": "", "metallb.universe.tf/loadBalancerIPs": "192.168.20.22"}, {}, "192.168.20.20"),
        ({}, {"loadBalancerIP": "192.168.20.21"}, "192.168.20.21"),
        ({"metallb.io/address-pool": "other"}, {}, "10.9.0.0"),
        ({"metallb.universe.tf/address-pool": "other"}, {}, "10.9.0.0"),
        ({"metallb.io/address-pool": "default", "metallb.universe.tf/address-pool": "other"}, {}, "192.168.20.20"),
    ],
)
async def test_requests_in_annotations_and_spec_are_served(
    tmp_path: Path, annotations: dict[str, str], spec: dict[str, str], expected: str
) -> None:
    async with a_cluster(tmp_path) as cluster, cluster.controlled():
        await cluster.pool()
        await cluster.pool("other", "10.9.0.0/24", autoAssign=False)
        await cluster.service(annotations=annotations, **spec)
        assert await cluster.address() == expected
        await cluster.event("web", "IPAllocated")
        deprecated = [key for key in annotations if key.startswith("metallb.universe.tf/")]
        if deprecated:
            assert deprecated[0] in await cluster.event("web", "deprecatedAnnotation")


async def test_a_contradictory_request_is_refused_with_its_reason(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as cluster, cluster.controlled():
        await cluster.pool()
        await cluster.service(annotations={"metallb.io/loadBalancerIPs": "192.168.20.22"}, loadBalancerIP="192.168.20.21")
        assert "are both set" in await cluster.event("web", "AllocationFailed")
        said = (await cluster.status())["plan"]["services"]["default/web"]
        assert (said["outcome"], said["reason"], said["addresses"]) == ("refused", "BAD_REQUEST", [])


async def test_only_services_of_the_class_are_touched(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as cluster, cluster.controlled("--lb-class=example.com/ours"):
        await cluster.pool()
        await cluster.service("none")
        await cluster.service("theirs", loadBalancerClass="example.com/theirs")
        await cluster.service("ours", loadBalancerClass="example.com/ours")
        assert await cluster.address("ours") == "192.168.20.20"
        await cluster.change("ours", spec={"type": "ClusterIP", "loadBalancerClass": None})

        async def released() -> bool:
            return annotation(await cluster.get("ours")) is None

        assert await until(released)
        for name in ("none", "theirs"):
            service = await cluster.get(name)
            assert (ips(service), annotation(service)) == ("", None)


async def test_a_status_that_is_not_plain_is_rewritten_and_ip_mode_vip_is_left_alone(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as cluster:
        await cluster.pool()
        for name in ("proxy", "host", "vip"):
            await cluster.service(name)
        await cluster.write_status("proxy", {"ip": "192.168.20.20", "ipMode": "Proxy"})
        await cluster.write_status("host", {"ip": "192.168.20.21"}, {"hostname": "a.example.com"})
        await cluster.client.patch(
            SERVICES,
            "vip",
            {
                "metadata": {"annotations": {"metallb.io/ip-allocated-from-pool": "default"}},
                "status": {"loadBalancer": {"ingress": [{"ip": "192.168.20.22", "ipMode": "VIP"}]}},
            },
            namespace="default",
            subresource="status",
            kind=PatchKind.MERGE,
        )
        before = await cluster.get("vip")
        async with cluster.controlled():

            async def plain() -> bool:
                entries = [
                    entry
                    for name in ("proxy", "host")
                    for entry in (await cluster.get(name)).status.load_balancer.ingress or ()
                ]
                return [(one.ip, one.ip_mode, one.hostname) for one in entries] == [
                    ("192.168.20.20", "VIP", ""),
                    ("192.168.20.21", "VIP", ""),
                ]

            assert await until(plain)
            await cluster.quiet()
            assert await cluster.get("vip") == before


class TestBrokenPools:
    @pytest.mark.parity("Kubernetes glue > the stale gauge is 1 while something is not in force")
    async def test_a_broken_pool_is_reported_and_the_others_work(self, tmp_path: Path) -> None:
        async with a_cluster(tmp_path) as cluster, cluster.controlled():
            await cluster.pool("bad", "192.168.20.9-192.168.20.1")
            await cluster.pool("good", "10.9.0.0/24")
            await cluster.service()
            assert await cluster.address() == "10.9.0.0"
            note = await cluster.event("bad", "ConfigurationInvalid", NAMESPACE)
            assert "spec.addresses[0]: invalid IP range '192.168.20.9-192.168.20.1': start is after end" in note
            (problem, _) = (await cluster.status())["problems"]
            assert (problem["object"], problem["path"], problem["code"]) == (
                f"IPAddressPool {NAMESPACE}/bad",
                "spec.addresses[0]",
                "address-range",
            )
            assert b"metallb_k8s_client_config_stale_bool 1.0" in await cluster.ask("/metrics")
            await cluster.change_pool("bad", addresses=["192.168.20.1-192.168.20.9"])

            async def repaired() -> bool:
                return b"metallb_k8s_client_config_stale_bool 0.0" in await cluster.ask("/metrics")

            assert await until(repaired)

    async def test_no_held_address_is_dropped_by_a_broken_edition_even_over_a_restart(self, tmp_path: Path) -> None:
        async with a_cluster(tmp_path) as cluster:
            await cluster.pool()
            async with cluster.controlled():
                await cluster.service()
                held = await cluster.address()
                await cluster.change_pool("default", addresses=["192.168.20.22-192.168.20.20"])
                await cluster.event("default", "ConfigurationInvalid", NAMESPACE)
                await cluster.service("second")
                assert await cluster.address("second") == "192.168.20.21"
                await cluster.quiet()
            async with cluster.controlled():
                await cluster.service("third")
                note = await cluster.event("third", "AllocationFailed")
                assert 'pool "default" must be repaired first' in note
                assert (await cluster.status())["plan"]["services"]["default/web"]["reason"] == "HOLDS_FROM_BROKEN_POOL"
                assert ips(await cluster.get()) == held
                assert annotation(await cluster.get()) == "default"
                await cluster.client.delete(IP_ADDRESS_POOLS, "default", namespace=NAMESPACE)

                async def cleared() -> bool:
                    return not ips(await cluster.get()) and not ips(await cluster.get("second"))

                assert await until(cleared)

    async def test_a_broken_advertisement_is_reported(self, tmp_path: Path) -> None:
        async with a_cluster(tmp_path) as cluster, cluster.controlled():
            document = {**an_l2_document("ad", nodeSelectors=[{}, {}]), "metadata": {"name": "ad"}}
            resource = Resource("metallb.io", "v1beta1", "l2advertisements", "L2Advertisement", RawObject)
            await cluster.client.create(resource, document, namespace=NAMESPACE)
            assert "spec.nodeSelectors[1]: duplicate selector" in await cluster.event("ad", "ConfigurationInvalid", NAMESPACE)


@pytest.mark.parametrize("entry", ["nonsense", "192.168.20.1", "192.168.20.0/24/24", ""])
async def test_obvious_nonsense_in_a_pool_is_refused_by_the_api_server(tmp_path: Path, entry: str) -> None:
    async with a_cluster(tmp_path) as cluster:
        with pytest.raises(Invalid) as caught:
            await cluster.pool("bad", entry)
        assert caught.value.causes[0].field == "spec.addresses[0]"


async def test_namespace_labels_decide_about_pinned_pools(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as cluster, cluster.controlled():
        selector = {"matchLabels": {"team": "a"}}
        await cluster.pool("pinned", "10.1.0.0/24", serviceAllocation={"namespaceSelectors": [selector]})
        await cluster.service()
        assert 'pool "pinned" is not for namespace "default"' in await cluster.event("web", "AllocationFailed")
        namespaces = Resource("", "v1", "namespaces", "Namespace", RawObject, namespaced=False)
        await cluster.client.patch(namespaces, "default", {"metadata": {"labels": {"team": "a"}}})
        assert await cluster.address() == "10.1.0.0"


async def test_deleting_a_pool_moves_its_services_at_once(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as cluster, cluster.controlled():
        await cluster.pool("a", "10.1.0.0/24")
        await cluster.service()
        assert await cluster.address() == "10.1.0.0"
        await cluster.pool("b", "10.2.0.0/24")
        await cluster.client.delete(IP_ADDRESS_POOLS, "a", namespace=NAMESPACE)

        async def moved() -> bool:
            return ips(await cluster.get()) == "10.2.0.0"

        assert await until(moved)
        assert 'current IP of "default/web" not allowed by config' in await cluster.event("web", "ClearAssignment")


async def test_a_role_that_has_only_the_verb_update_is_enough(tmp_path: Path) -> None:
    """MetalLB's own manifests grant no patch on services/status."""
    rules = [
        {"apiGroups": [""], "resources": ["services", "namespaces"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["services/status"], "verbs": ["update"]},
        {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"]},
        {"apiGroups": ["metallb.io"], "resources": ["*"], "verbs": ["get", "list", "watch"]},
    ]
    async with a_cluster(tmp_path) as cluster:
        account = {"kind": "ServiceAccount", "name": "controller", "namespace": NAMESPACE}
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "controller"}
        api = "rbac.authorization.k8s.io/v1"
        await cluster.client.create(SERVICE_ACCOUNTS, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "controller"}}, namespace=NAMESPACE)  # fmt: skip
        await cluster.client.create(CLUSTER_ROLES, {"apiVersion": api, "kind": "ClusterRole", "metadata": {"name": "controller"}, "rules": rules})  # fmt: skip
        await cluster.client.create(CLUSTER_ROLE_BINDINGS, {"apiVersion": api, "kind": "ClusterRoleBinding", "metadata": {"name": "controller"}, "roleRef": role, "subjects": [account]})  # fmt: skip
        path = SERVICE_ACCOUNTS.path(namespace=NAMESPACE, name="controller", subresource="token")
        token_request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        token = json.loads(await cluster.client.post(path, token_request))["status"]["token"]
        await cluster.pool()
        await cluster.service(annotations={"example.com/mine": "kept"})
        async with cluster.controlled(token=token):
            assert await cluster.address() == "192.168.20.20"
            service = await cluster.get()
            assert annotation(service) == "default"
            assert (service.metadata.annotations or {})["example.com/mine"] == "kept"
            await cluster.change_pool("default", addresses=["10.0.0.0/24"])

            async def moved() -> bool:
                return ips(await cluster.get()) == "10.0.0.0"

            assert await until(moved)


async def test_the_controller_waits_for_an_api_server_and_survives_its_restart(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as cluster:
        await cluster.pool()
        server = cluster.server
    async with controlled(server, tmp_path):  # Nothing listens now.
        async with running_server(tmp_path / "api") as again, client_of(again) as client:
            cluster.client = client
            await cluster.service()
            assert await cluster.address() == "192.168.20.20"
            await cluster.quiet()
        async with running_server(tmp_path / "api") as again, client_of(again) as client:
            cluster.client = client
            assert await cluster.address() == "192.168.20.20"
            await cluster.service("second")
            assert await cluster.address("second") == "192.168.20.21"


async def test_with_only_webhooks_asked_for_no_address_is_assigned(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as cluster:
        await cluster.pool()
        await cluster.service()
        async with cluster.controlled("--webhook-mode=onlywebhook"):
            assert (await cluster.status())["world"]["ready"] is False
        assert ips(await cluster.get()) == ""


class TestMemberlistSecret:
    FLAGS = ("--ml-secret-name=memberlist", "--deployment=controller")

    async def test_it_is_made_once_with_its_owner(self, tmp_path: Path) -> None:
        async with a_cluster(tmp_path) as cluster:
            deployment = await cluster.client.create(DEPLOYMENTS, a_deployment(), namespace=NAMESPACE)

            async def there() -> Any:
                try:
                    return await cluster.client.get(SECRETS, "memberlist", NAMESPACE)
                except NotFound:
                    return None

            async with cluster.controlled(*self.FLAGS):
                secret = await until(there)
            assert secret.data is not None
            key = base64.b64decode(secret.data["secretkey"]).decode("ascii")
            assert len(base64.b64decode(key + "==")) == 16
            assert not key.endswith("=")
            (owner,) = secret.metadata.owner_references
            assert (owner.kind, owner.name, owner.uid) == ("Deployment", "controller", deployment.metadata.uid)
            async with cluster.controlled(*self.FLAGS):
                await cluster.quiet()
            assert await cluster.client.get(SECRETS, "memberlist", NAMESPACE) == secret

    async def test_a_namespace_that_comes_late_is_waited_for(self, tmp_path: Path) -> None:
        async with a_cluster(tmp_path) as cluster, cluster.controlled(*self.FLAGS, "--namespace=later"):
            await cluster.status()
            namespaces = Resource("", "v1", "namespaces", "Namespace", RawObject, namespaced=False)
            await cluster.client.create(namespaces, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "later"}})

            async def there() -> bool:
                try:
                    await cluster.client.get(SECRETS, "memberlist", "later")
                except NotFound:
                    return False
                return True

            assert await until(there)


def a_deployment() -> dict[str, Any]:
    labels = {"app": "controller"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "controller"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "controller", "image": "x"}]}},
        },
    }


async def test_services_share_an_address_and_are_reconsidered_when_conditions_change(tmp_path: Path) -> None:
    shared = {"metallb.io/allow-shared-ip": "key"}
    async with a_cluster(tmp_path) as cluster:
        await cluster.pool("default", "192.168.20.20/32")
        async with cluster.controlled():

            async def held(expected: str) -> None:
                async def so() -> bool:
                    return [name for name in "ab" if ips(await cluster.get(name))] == list(expected)

                await until(so)

            for name, port in (("a", 80), ("b", 8080)):
                await cluster.service(name, annotations=shared, ports=[{"port": port}], selector={"app": "web"})
                assert await cluster.address(name) == "192.168.20.20"
            await cluster.change("b", spec={"externalTrafficPolicy": "Local"})
            await held("a")
            assert "same externalTrafficPolicy" in await cluster.event("b", "ClearAssignment")
            await cluster.change("a", spec={"externalTrafficPolicy": "Local"})
            await held("ab")
            await cluster.change("a", spec={"selector": {"app": "other"}})
            await held("b")
            await cluster.change("b", spec={"selector": {"app": "other"}})
            await held("ab")
            await cluster.quiet()
            assert (await cluster.status())["world"]["pools"]["default"]["ipv4"] == {"usable": 1, "in_use": 1}


async def condition(cluster: Cluster, name: str) -> tuple[str, str, str]:
    """Status, reason and message of our condition."""
    found = [one for one in (await cluster.get(name)).status.conditions or () if one.type == ADDRESS_ASSIGNED]
    return (found[0].status, found[0].reason, found[0].message) if found else ("", "", "")


async def test_a_condition_says_whether_there_is_an_address_and_why_not(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as cluster:
        await cluster.pool("tiny", "192.168.20.20/32")
        async with cluster.controlled():
            await cluster.service("a")
            await cluster.address("a")
            assert await condition(cluster, "a") == ("True", "HoldsAddress", '192.168.20.20 from pool "tiny"')
            await cluster.service("b")
            await cluster.event("b", "AllocationFailed")
            await cluster.quiet()
            assert await condition(cluster, "b") == (
                "False",
                "PoolExhausted",
                'no available IPs: pool "tiny" has no free IPv4 address (all 1 in use)',
            )
            ready = {"type": "example.com/Ready", "status": "True", "reason": "x", "message": ""}
            patch = {"status": {"conditions": [ready | {"lastTransitionTime": "2026-01-01T00:00:00Z"}]}}
            await cluster.client.patch(
                SERVICES, "b", patch, namespace="default", subresource="status", kind=PatchKind.STRATEGIC
            )
            await cluster.client.delete(SERVICES, "a", namespace="default")
            await cluster.address("b")
            assert await condition(cluster, "b") == ("True", "HoldsAddress", '192.168.20.20 from pool "tiny"')
            types = {one.type for one in (await cluster.get("b")).status.conditions or ()}
            assert types == {"example.com/Ready", ADDRESS_ASSIGNED}
            await cluster.change("b", spec={"type": "ClusterIP"})

            async def gone() -> bool:
                return await condition(cluster, "b") == ("", "", "")

            await until(gone)


async def test_a_service_that_had_its_address_before_us_is_not_written_for_a_condition(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as cluster:
        await cluster.pool()
        await cluster.service()
        before = await cluster.write_status("web", {"ip": "192.168.20.21"}, pool=PoolName("default"))
        async with cluster.controlled():
            await cluster.quiet()
            assert (await cluster.get()).metadata.resource_version == before.metadata.resource_version


async def test_a_reservation_takes_effect_when_the_annotation_is_written(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as cluster:
        await cluster.pool()
        async with cluster.controlled():
            await cluster.service("a")
            assert await cluster.address("a") == "192.168.20.20"
            metadata = {"annotations": {"lb.metallb-py.io/reserved": "192.168.20.20-192.168.20.21"}}
            await cluster.client.patch(IP_ADDRESS_POOLS, "default", {"metadata": metadata}, namespace=NAMESPACE)
            await cluster.service("b", loadBalancerIP="192.168.20.22")
            assert await cluster.address("b") == "192.168.20.22"
            await cluster.service("c")
            assert "in use or reserved" in await cluster.event("c", "AllocationFailed")
            await cluster.client.patch(IP_ADDRESS_POOLS, "default", {"metadata": {"annotations": None}}, namespace=NAMESPACE)
            assert await cluster.address("c") == "192.168.20.21"
            assert ips(await cluster.get("a")) == "192.168.20.20"


async def test_a_namespace_may_have_a_quota_of_addresses(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as cluster:
        await cluster.pool()

        async def quota(text: str | None) -> None:
            patch = {"metadata": {"annotations": {"lb.metallb-py.io/max-addresses": text}}}
            await cluster.client.patch(NAMESPACES, "default", patch)

        async with cluster.controlled():
            await quota("1")
            await cluster.service("a")
            await cluster.address("a")
            await cluster.service("b")
            assert "may have 1 addresses and would have more" in await cluster.event("b", "AllocationFailed")
            await quota("2")
            assert await cluster.address("b") == "192.168.20.21"
            await quota("many")
            await cluster.service("c")
            assert await cluster.address("c") == "192.168.20.22", "a quota that cannot be read is none, and logged"
