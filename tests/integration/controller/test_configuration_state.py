"""The ConfigurationState of the controller, as users and tests of users see it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kube.configuration_state import CONTROLLER, STATES, says, status_saying
from kube.errors import KubeError, NotFound
from kube.objects import RawObject
from kube.resources import IP_ADDRESS_POOLS, PODS, Resource
from lab.apiserver.testing import own_server
from tests.builders import NAMESPACE
from tests.unit.controller.cluster import Cluster, a_cluster, until

COMMUNITIES = Resource("metallb.io", "v1beta1", "communities", "Community", RawObject)
PEERS = Resource("metallb.io", "v1beta2", "bgppeers", "BGPPeer", RawObject)
NAME, CONDITION = CONTROLLER.name, CONTROLLER.condition
NOW = datetime(2026, 1, 1, tzinfo=UTC)


async def state(cluster: Cluster, result: str) -> dict[str, Any]:
    """The object once it has this result."""

    async def there() -> dict[str, Any] | None:
        try:
            document = (await cluster.client.get(STATES, NAME, NAMESPACE)).document
        except KubeError:
            return None
        return document if document.get("status", {}).get("result") == result else None

    found = await until(there)
    assert found is not None
    return found


async def create(cluster: Cluster, resource: Resource[RawObject], name: str, **spec: Any) -> None:
    body = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": name}, "spec": spec}
    await cluster.client.create(resource, body, namespace=NAMESPACE)


@pytest.mark.parity(
    "ConfigurationState > missing objects are created",
    "ConfigurationState > all true is Valid with an empty summary",
    "ConfigurationState > a ConfigurationError is Invalid with its message",
)
async def test_it_is_valid_then_invalid_with_every_problem_then_valid_again(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as cluster, cluster.controlled():
        valid = await state(cluster, "Valid")
        assert valid["metadata"]["labels"] == {"metallb.io/component-type": "controller"}
        assert valid["status"]["errorSummary"] == ""
        (condition,) = valid["status"]["conditions"]
        assert (condition["type"], condition["status"], condition["reason"]) == (CONDITION, "True", "Reconciled")
        await cluster.pool("bad", "192.168.20.9-192.168.20.1")
        await create(cluster, COMMUNITIES, "names", communities=[{"name": "a", "value": "1:2:3"}])

        async def both() -> dict[str, Any] | None:
            found = await state(cluster, "Invalid")
            return found if found["status"]["errorSummary"].count("\n") else None

        invalid = await until(both)
        assert invalid is not None
        assert invalid["status"]["errorSummary"].splitlines() == [
            "configuration error: Community metallb-system/names: spec.communities[0].value: invalid community format: 1:2:3",
            (
                "configuration error: IPAddressPool metallb-system/bad: spec.addresses[0]: invalid IP range "
                "'192.168.20.9-192.168.20.1': start is after end"
            ),
        ]
        (condition,) = invalid["status"]["conditions"]
        assert (condition["status"], condition["reason"]) == ("False", "ConfigurationError")
        assert condition["message"] == invalid["status"]["errorSummary"]
        assert b"metallb_k8s_client_config_stale_bool 1.0" in await cluster.ask("/metrics")
        await cluster.client.delete(IP_ADDRESS_POOLS, "bad", namespace=NAMESPACE)
        await cluster.client.delete(COMMUNITIES, "names", namespace=NAMESPACE)
        await state(cluster, "Valid")
        assert b"metallb_k8s_client_config_stale_bool 0.0" in await cluster.ask("/metrics")


@pytest.mark.parametrize("result", ["Valid", "Invalid"])
async def test_it_comes_back_with_the_same_result_when_somebody_deletes_it(tmp_path: Path, result: str) -> None:
    async with a_cluster(tmp_path) as cluster, cluster.controlled():
        if result == "Invalid":
            await cluster.pool("bad", "192.168.20.9-192.168.20.1")
        before = await state(cluster, result)
        await cluster.client.delete(STATES, NAME, namespace=NAMESPACE)

        async def another() -> bool:
            return bool((await state(cluster, result))["metadata"]["uid"] != before["metadata"]["uid"])

        assert await until(another)
        assert (await state(cluster, result))["status"]["errorSummary"] == before["status"]["errorSummary"]


async def test_what_somebody_writes_into_it_is_put_right(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as cluster, cluster.controlled():
        await state(cluster, "Valid")
        edit = {"status": {"result": "Unknown"}}
        await cluster.client.patch(STATES, NAME, edit, namespace=NAMESPACE, subresource="status")
        await state(cluster, "Valid")


async def test_nothing_is_written_over_a_restart_when_nothing_changed(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as cluster:
        await cluster.pool()
        async with cluster.controlled():
            before = await state(cluster, "Valid")
        await cluster.service()
        async with cluster.controlled():
            await cluster.address()
            await cluster.event("web", "IPAllocated")
            await cluster.quiet()
        assert await state(cluster, "Valid") == before


async def test_it_goes_with_our_pod(tmp_path: Path) -> None:
    async with a_cluster(tmp_path, own_server) as cluster:  # Which collects garbage; a kube-apiserver alone does not.
        container = {"name": "controller", "image": "x"}
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "me"}, "spec": {"containers": [container]}}
        pod = await cluster.client.create(PODS, body, namespace=NAMESPACE)
        async with cluster.controlled("--pod-name=me"):
            (owner,) = (await state(cluster, "Valid"))["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["uid"]) == ("Pod", "me", pod.metadata.uid)
        await cluster.client.delete(PODS, "me", namespace=NAMESPACE)

        async def gone() -> bool:
            try:
                await cluster.client.get(STATES, NAME, NAMESPACE)
            except NotFound:
                return True
            return False

        assert await until(gone)


async def test_a_broken_peer_is_told_with_an_event_and_is_not_the_controllers_fault(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as cluster, cluster.controlled():
        await create(cluster, PEERS, "router", myASN=1, peerASN=2, peerAddress="nowhere")
        assert "invalid BGPPeer address 'nowhere'" in await cluster.event("router", "ConfigurationInvalid", NAMESPACE)
        assert (await state(cluster, "Valid"))["status"]["errorSummary"] == ""
        problems = (await cluster.status())["problems"]
        assert problems[0]["path"] == "spec.peerAddress"


async def test_nothing_seems_to_be_missing_while_the_first_lists_come(tmp_path: Path) -> None:
    profiles = Resource("metallb.io", "v1beta1", "bfdprofiles", "BFDProfile", RawObject)
    async with a_cluster(tmp_path) as cluster:
        await cluster.pool()
        await create(cluster, profiles, "fast")
        await create(cluster, COMMUNITIES, "names", communities=[{"name": "a", "value": "1:1"}])
        ad = Resource("metallb.io", "v1beta1", "bgpadvertisements", "BGPAdvertisement", RawObject)
        await create(cluster, ad, "ad", communities=["a"])
        async with cluster.controlled():
            await cluster.event("fast", "ConfigurationInvalid", NAMESPACE)  # Native mode has no BFD.
            await cluster.quiet()
        assert await cluster.events("ad", NAMESPACE) == []


class TestStatus:
    def test_a_time_moves_only_with_its_condition(self) -> None:
        first = status_saying("a", {}, NOW, CONDITION)
        later = datetime(2026, 2, 2, tzinfo=UTC)
        assert status_saying("b", first, later, CONDITION)["conditions"][0]["lastTransitionTime"] == "2026-01-01T00:00:00Z"
        assert status_saying("", first, later, CONDITION)["conditions"][0]["lastTransitionTime"] == "2026-02-02T00:00:00Z"

    def test_conditions_of_others_stay(self) -> None:
        other = {"type": "configReconcilerValid", "status": "True"}
        assert status_saying("", {"conditions": [other]}, NOW, CONDITION)["conditions"][0] == other

    def test_a_status_says_something_only_if_it_is_whole(self) -> None:
        whole = status_saying("a", {}, NOW, CONDITION)
        assert says(whole, CONDITION) == "a"
        assert says({}, CONDITION) is None
        assert says({**whole, "result": "Valid"}, CONDITION) is None
        assert says({**whole, "errorSummary": "b"}, CONDITION) is None
        assert says({**whole, "conditions": []}, CONDITION) is None
