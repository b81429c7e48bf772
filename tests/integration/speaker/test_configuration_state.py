"""The ConfigurationState of a speaker, with a whole speaker that may use none of this machine's interfaces."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kube.configuration_state import STATES
from kube.errors import NotFound
from kube.objects import RawObject
from kube.resources import IP_ADDRESS_POOLS, NODES, PODS, SECRETS, resource_of
from speaker.run import Speaker
from speaker.settings import read
from tests.builders import NAMESPACE, a_pool_document
from tests.unit.controller.cluster import Cluster, a_cluster, client_of, until

ME = "node-a"
NAME = f"speaker-{ME}"
NO_INTERFACE = re.compile("")
PEER = {"myASN": 64512, "peerASN": 64513, "peerAddress": "192.0.2.1"}
TAIL = "\nfailed to parse peer router password secret"


@asynccontextmanager
async def a_speaker(cluster: Cluster, *flags: str, mode: str = "native") -> AsyncIterator[Speaker]:
    """The speaker of node-a, as long as the block lasts."""
    own = [f"--node-name={ME}", "--port=0", "--health-probe-port=0", f"--status-socket={cluster.path / 'controller.sock'}"]
    settings = replace(read([*own, *flags], {"METALLB_BGP_TYPE": mode}), excluded=NO_INTERFACE)
    async with client_of(cluster.server) as client, asyncio.TaskGroup() as group:
        speaker = Speaker(settings, client, NAMESPACE)
        tasks = speaker.start(group)
        try:
            yield speaker
        finally:
            await speaker.leave()
            for task in tasks:
                task.cancel()


@asynccontextmanager
async def a_node(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with a_cluster(tmp_path) as cluster:
        metadata = {"name": ME, "labels": {"kubernetes.io/hostname": ME}}
        await cluster.client.create(NODES, {"apiVersion": "v1", "kind": "Node", "metadata": metadata})
        yield cluster


async def create(cluster: Cluster, kind: str, name: str, **spec: Any) -> RawObject:
    resource = resource_of(kind)
    body = {"apiVersion": resource.api_version, "kind": kind, "metadata": {"name": name}, "spec": spec}
    return await cluster.client.create(resource, body, namespace=NAMESPACE)


async def secret(cluster: Cluster, type_: str) -> None:
    body = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "bgp"},
        "type": type_,
        "stringData": {"password": "x", "username": "y"},
    }
    await cluster.client.create(SECRETS, body, namespace=NAMESPACE)


async def found(cluster: Cluster) -> dict[str, Any] | None:
    try:
        return (await cluster.client.get(STATES, NAME, NAMESPACE)).document
    except NotFound:
        return None


async def state(cluster: Cluster, result: str, summary: str | None = None) -> dict[str, Any]:
    """The object once it has this result, and this summary if one is given."""

    async def there() -> dict[str, Any] | None:
        document = await found(cluster)
        status = {} if document is None else document.get("status", {})
        right = status.get("result") == result and summary in {None, status.get("errorSummary")}
        return document if right else None

    document = await until(there)
    assert document is not None
    return document


async def test_it_is_valid_and_has_the_names_and_labels_that_programs_know(tmp_path: Path) -> None:
    async with a_node(tmp_path) as cluster, a_speaker(cluster):
        document = await state(cluster, "Valid")
        assert document["metadata"]["labels"] == {
            "metallb.io/component-type": "speaker",
            "metallb.io/node-name": ME,
        }
        assert document["status"]["errorSummary"] == ""
        (condition,) = document["status"]["conditions"]
        assert (condition["type"], condition["status"], condition["reason"], condition["message"]) == (
            "configReconcilerValid",
            "True",
            "Reconciled",
            "",
        )


async def broken_secret_type(cluster: Cluster) -> None:
    await secret(cluster, "Opaque")
    await create(cluster, "BGPPeer", "router", **PEER, passwordSecret={"name": "bgp"})


async def broken_secret_missing(cluster: Cluster) -> None:
    await create(cluster, "BGPPeer", "router", **PEER, passwordSecret={"name": "bgp"})


async def broken_profile_missing(cluster: Cluster) -> None:
    await create(cluster, "BGPPeer", "router", **PEER, bfdProfile="fast")


async def broken_alias(cluster: Cluster) -> None:
    await create(cluster, "BGPAdvertisement", "ad", communities=["nope"])


async def broken_duplicate(cluster: Cluster) -> None:
    await create(cluster, "BGPPeer", "router", **PEER)
    await create(cluster, "BGPPeer", "twin", **PEER)


async def repair_secret_type(cluster: Cluster) -> None:
    await cluster.client.delete(SECRETS, "bgp", namespace=NAMESPACE)
    await secret(cluster, "kubernetes.io/basic-auth")


async def repair_secret_missing(cluster: Cluster) -> None:
    await secret(cluster, "kubernetes.io/basic-auth")


async def repair_profile_missing(cluster: Cluster) -> None:
    await create(cluster, "BFDProfile", "fast")


async def repair_alias(cluster: Cluster) -> None:
    await create(cluster, "Community", "names", communities=[{"name": "nope", "value": "1:1"}])


async def repair_duplicate(cluster: Cluster) -> None:
    await cluster.client.delete(resource_of("BGPPeer"), "twin", namespace=NAMESPACE)


@pytest.mark.parametrize(
    ("spoil", "repair", "mode", "summary", "told"),
    [
        (
            broken_secret_type,
            repair_secret_type,
            "native",
            f'parsing peer router secret type mismatch on "{NAMESPACE}"/"bgp", type "kubernetes.io/basic-auth" is expected {TAIL}',
            "router",
        ),
        (
            broken_secret_missing,
            repair_secret_missing,
            "native",
            f'parsing peer router secret ref not found for peer config "{NAMESPACE}"/"router"{TAIL}',
            "router",
        ),
        (
            broken_profile_missing,
            repair_profile_missing,
            "frr",
            "peer router referencing non existing bfd profile fast",
            "router",
        ),
        (
            broken_alias,
            repair_alias,
            "native",
            'invalid community format: nope\ninvalid community "nope" in BGP advertisement',
            "",
        ),
        (
            broken_duplicate,
            repair_duplicate,
            "frr-k8s",
            "peer 192.0.2.1 already exists, FRR mode doesn't support duplicate BGPPeers selecting the same node",
            "twin",
        ),
    ],
    ids=["secret type", "secret missing", "profile missing", "alias", "duplicate"],
)
async def test_the_texts_that_programs_compare_letter_by_letter(
    tmp_path: Path, spoil: Any, repair: Any, mode: str, summary: str, told: str
) -> None:
    async with a_node(tmp_path) as cluster, a_speaker(cluster, mode=mode):
        await state(cluster, "Valid")
        await spoil(cluster)
        document = await state(cluster, "Invalid", f"configuration error: {summary}")
        (condition,) = document["status"]["conditions"]
        assert (condition["status"], condition["reason"]) == ("False", "ConfigurationError")
        assert condition["message"] == f"configuration error: {summary}"
        metrics = await cluster.ask("/metrics")
        assert b"metallb_k8s_client_config_loaded_bool 1.0" in metrics
        assert b"metallb_k8s_client_config_stale_bool 1.0" in metrics
        if told:
            assert f'on node "{ME}"' in await cluster.event(told, "ConfigurationInvalid", NAMESPACE)
        await repair(cluster)
        await state(cluster, "Valid", "")
        assert b"metallb_k8s_client_config_stale_bool 0.0" in await cluster.ask("/metrics")


async def test_what_is_for_other_nodes_is_not_this_ones_fault_until_its_labels_say_so(tmp_path: Path) -> None:
    async with a_node(tmp_path) as cluster, a_speaker(cluster):
        await state(cluster, "Valid")
        selector = [{"matchLabels": {"rack": "b"}}]
        await create(cluster, "BGPPeer", "router", **PEER, passwordSecret={"name": "bgp"}, nodeSelectors=selector)
        await create(cluster, "BGPPeer", "here", **PEER, bfdProfile="fast")
        document = await state(cluster, "Invalid")
        assert "router" not in document["status"]["errorSummary"]
        await cluster.client.delete(resource_of("BGPPeer"), "here", namespace=NAMESPACE)
        await state(cluster, "Valid", "")
        await cluster.client.patch(NODES, ME, {"metadata": {"labels": {"rack": "b"}}})
        assert "router" in (await state(cluster, "Invalid"))["status"]["errorSummary"]


@pytest.mark.parametrize("result", ["Valid", "Invalid"])
async def test_it_comes_back_with_the_same_result_when_somebody_deletes_it(tmp_path: Path, result: str) -> None:
    async with a_node(tmp_path) as cluster, a_speaker(cluster):
        if result == "Invalid":
            await broken_alias(cluster)
        before = await state(cluster, result)
        await cluster.client.delete(STATES, NAME, namespace=NAMESPACE)

        async def another() -> bool:
            return bool((await state(cluster, result))["metadata"]["uid"] != before["metadata"]["uid"])

        assert await until(another)


async def test_a_restart_writes_nothing_and_a_new_pod_takes_it_over(tmp_path: Path) -> None:
    async with a_node(tmp_path) as cluster:
        await create(cluster, "IPAddressPool", "default", addresses=["192.0.2.0/24"])
        async with a_speaker(cluster):
            before = await state(cluster, "Valid")
        async with a_speaker(cluster) as speaker:
            await until(idle(speaker))
            await broken_alias(cluster)
            await state(cluster, "Invalid")
            await cluster.client.delete(resource_of("BGPAdvertisement"), "ad", namespace=NAMESPACE)
            after = await state(cluster, "Valid")
            assert after["metadata"]["generation"] == before["metadata"]["generation"]
            assert after["metadata"]["uid"] == before["metadata"]["uid"]
        container = {"name": "speaker", "image": "x"}
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "me"}, "spec": {"containers": [container]}}
        pod = await cluster.client.create(PODS, body, namespace=NAMESPACE)
        async with a_speaker(cluster, "--pod-name=me"):

            async def owned() -> bool:
                owners = (await state(cluster, "Valid"))["metadata"].get("ownerReferences") or []
                return [one["uid"] for one in owners] == [pod.metadata.uid]

            await until(owned)
        await cluster.client.delete(PODS, "me", namespace=NAMESPACE)

        async def gone() -> bool:
            return await found(cluster) is None

        await until(gone)


def idle(speaker: Speaker) -> Any:
    async def look() -> bool:
        return speaker._reconciler.caches_complete.is_set() and not speaker._dirty.is_set()

    return look


async def test_a_broken_pool_is_told_by_every_speaker_and_the_others_are_in_force(tmp_path: Path) -> None:
    async with a_node(tmp_path) as cluster, a_speaker(cluster) as speaker:
        await cluster.client.create(IP_ADDRESS_POOLS, a_pool_document("good", ["192.0.2.0/24"]) | {}, namespace=NAMESPACE)
        await cluster.client.create(IP_ADDRESS_POOLS, a_pool_document("bad", ["192.0.2.9-192.0.2.1"]), namespace=NAMESPACE)
        assert "start is after end" in (await state(cluster, "Invalid"))["status"]["errorSummary"]
        config = speaker._reconciler._observer.world.cluster.config
        assert (set(config.pools), set(config.broken_pools)) == ({"good"}, {"bad"})
