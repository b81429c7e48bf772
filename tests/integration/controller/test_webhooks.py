"""Webhooks end to end: the API server really asks the controller, over TLS, about what users write."""

from __future__ import annotations

import asyncio
import base64
import re
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from cli.check import read
from controller.admission import VALIDATORS as PATHS
from controller.admission import WebhookServer
from controller.certificates import CONVERTED, DEFINITIONS, VALIDATORS, VALIDATORS_NAME, FileKeeper, Keeper, Served
from controller.webhook_pki import Renewal, renewal, renewed
from kube.errors import Forbidden, KubeError
from kube.resources import IP_ADDRESS_POOLS, SECRETS
from telemetry.log import get_logger
from telemetry.tls import TlsOptions
from tests.builders import NAMESPACE
from tests.integration.controller.hooked import (
    ADS,
    COMMUNITIES,
    HOST,
    MANIFEST,
    OLD_PEERS,
    PEER,
    PEERS,
    PROFILES,
    ROOT,
    SECRET,
    SERVICE,
    a_free_port,
    hooked,
    kind,
    running,
)
from tests.unit.controller.cluster import a_cluster, until


async def test_broken_objects_of_every_kind_are_refused_with_the_reason(tmp_path: Path) -> None:
    async with hooked(tmp_path) as hooks, hooks.cluster.controlled(*hooks.flags()):
        await hooks.until_served()
        await hooks.create(IP_ADDRESS_POOLS, "first", addresses=["10.0.0.0/28"])
        said = await hooks.refused(IP_ADDRESS_POOLS, "second", addresses=["10.0.0.8-10.0.0.20"])
        assert 'admission webhook "ipaddresspoolvalidationwebhook.metallb.io" denied the request' in said
        assert "overlaps with already defined CIDR" in said
        assert "more specific than the aggregation length for addresses 10.0.0.0/28" in await hooks.refused(
            ADS, aggregationLength=26
        )
        assert "invalid BGPPeer address" in await hooks.refused(PEERS, **{**PEER, "peerAddress": "1.1.1.400"})
        assert "invalid BGPPeer address" in await hooks.refused(OLD_PEERS, **{**PEER, "peerAddress": "1.1.1.400"})
        value = [{"name": "a", "value": "99999:1"}]
        assert "invalid community value: invalid section" in await hooks.refused(COMMUNITIES, communities=value)
        await hooks.create(COMMUNITIES, "one", communities=[{"name": "a", "value": "1:1"}])
        assert "duplicate definition of community" in await hooks.refused(
            COMMUNITIES, "two", communities=[{"name": "a", "value": "2:1"}]
        )
        assert "duplicate selector" in await hooks.refused(kind("L2Advertisement", "l2advertisements"), nodeSelectors=[{}, {}])


async def test_objects_outside_our_namespace_are_refused(tmp_path: Path) -> None:
    async with hooked(tmp_path) as hooks, hooks.cluster.controlled(*hooks.flags()):
        await hooks.until_served()
        for resource, spec in (
            (PROFILES, {}), (IP_ADDRESS_POOLS, {"addresses": ["10.0.0.0/24"]}), (PEERS, PEER), (ADS, {}), (COMMUNITIES, {}),
            (kind("L2Advertisement", "l2advertisements"), {}),
        ):  # fmt: skip
            said = await hooks.refused(resource, "x", "default", **spec)
            assert f"resource must be created in {NAMESPACE} namespace" in said


async def test_a_profile_in_use_cannot_be_deleted(tmp_path: Path) -> None:
    async with hooked(tmp_path) as hooks, hooks.cluster.controlled(*hooks.flags()):
        await hooks.until_served()
        await hooks.create(PROFILES, "fast")
        await hooks.create(PEERS, "peer", **PEER, bfdProfile="fast")
        with pytest.raises(Forbidden, match="failed to delete BFDProfile fast, used by BGPPeer peer"):
            await hooks.client.delete(PROFILES, "fast", namespace=NAMESPACE)
        await hooks.client.delete(PEERS, "peer", namespace=NAMESPACE)
        await hooks.client.delete(PROFILES, "fast", namespace=NAMESPACE)
        metrics = (await hooks.cluster.ask("/metrics")).decode()
        for operation, verdict in (("CREATE", "allowed"), ("DELETE", "refused"), ("DELETE", "allowed")):
            labels = f'{{kind="BFDProfile",operation="{operation}",verdict="{verdict}"}}'
            assert f"metallb_controller_webhook_requests_total{labels} 1.0" in metrics
        (ends,) = re.findall(r"^metallb_controller_webhook_certificate_expiry_timestamp_seconds (\S+)$", metrics, re.MULTILINE)
        assert 364 < (float(ends) - datetime.now(UTC).timestamp()) / 86400 < 366


async def test_peers_are_converted_between_their_versions(tmp_path: Path) -> None:
    async with hooked(tmp_path) as hooks, hooks.cluster.controlled(*hooks.flags()):
        await hooks.until_served()
        await hooks.create(OLD_PEERS, "old", **PEER, nodeSelectors=[{"matchLabels": {"a": "b"}}])
        new = (await hooks.client.get(PEERS, "old", NAMESPACE)).document
        assert new["spec"] == {
            **PEER, "peerPort": 179, "holdTime": "0s", "keepaliveTime": "0s", "nodeSelectors": [{"matchLabels": {"a": "b"}}],
            "disableMP": False, "dualStackAddressFamily": False,
        }  # fmt: skip
        await hooks.create(PEERS, "new", **PEER, holdTime="90s", password="x")
        shown = (await hooks.client.get(OLD_PEERS, "new", NAMESPACE)).document
        assert shown["apiVersion"] == "metallb.io/v1beta1"
        assert shown["spec"] == {**PEER, "peerPort": 179, "holdTime": "90s", "keepaliveTime": "0s", "password": "x"}
        listing, _ = await hooks.client.list(OLD_PEERS, namespace=NAMESPACE)
        assert {one.metadata.name for one in listing} == {"old", "new"}


async def test_our_examples_are_accepted(tmp_path: Path) -> None:
    async with hooked(tmp_path) as hooks:
        server = Served.of(TlsOptions())
        log = get_logger("test")
        keeper = Keeper(hooks.client, server, log, namespace=NAMESPACE, secret=SECRET, service=SERVICE)
        async with running(keeper, WebhookServer(hooks.client, server, log, NAMESPACE, "frr", hooks.port)):
            await hooks.until_served()
            for document in read([str(ROOT / "docs" / "examples")], None):  # type: ignore[arg-type]  # No standard input is read.
                version = document.value["apiVersion"].rpartition("/")[2]
                plural = {"Community": "communities"}.get(document.value["kind"], f"{document.value['kind'].lower()}s")
                resource = kind(document.value["kind"], plural, version)
                await hooks.client.create(resource, document.value, namespace=NAMESPACE)


@pytest.mark.parametrize("what", [Renewal.SERVER, Renewal.BOTH])
async def test_certificates_are_rotated_while_requests_come_in(tmp_path: Path, what: Renewal) -> None:
    now = datetime.now(UTC)
    if what is Renewal.SERVER:
        clock = [now - timedelta(days=299)]
        old = renewed(None, Renewal.BOTH, HOST, clock[0])
    else:
        clock = [now - timedelta(days=90)]
        old = renewed(renewed(None, Renewal.BOTH, HOST, now - timedelta(days=3600)), Renewal.SERVER, HOST, clock[0])
    async with hooked(tmp_path) as hooks:
        await hooks.client.patch(SECRETS, SECRET, {"data": old.as_data()}, namespace=NAMESPACE)
        served, log = Served.of(TlsOptions()), get_logger("test")
        keeper = Keeper(
            hooks.client, served, log, namespace=NAMESPACE, secret=SECRET, service=SERVICE, clock=lambda: clock[0], trust_s=0.05
        )
        server = WebhookServer(hooks.client, served, log, NAMESPACE, "native", hooks.port)
        async with running(keeper, server):
            await hooks.until_served()
            before, loads = await hooks.secret(), served.loads
            rounds, rotated = 0, asyncio.Event()

            async def write() -> None:
                nonlocal rounds
                while not rotated.is_set() or rounds < 20:
                    await hooks.create(COMMUNITIES, f"c-{rounds}")
                    with pytest.raises(Forbidden):
                        await hooks.create(IP_ADDRESS_POOLS, f"p-{rounds}", addresses=["10.0.0.9-10.0.0.1"])
                    rounds += 1

            async with asyncio.TaskGroup() as group:
                group.create_task(write())
                clock[0] = now
                # A look at the dates comes every 12 hours, or when the Secret changes.
                await hooks.client.patch(SECRETS, SECRET, {"metadata": {"labels": {"look": "now"}}}, namespace=NAMESPACE)

                async def shown() -> bool:
                    return served.loads > loads

                assert await until(shown)
                rotated.set()
            after = await hooks.secret()
            assert before == old
            assert after is not None
            assert (before.ca == after.ca) == (what is Renewal.SERVER)
            assert before.certificate != after.certificate
            assert renewal(after, HOST, clock[0]) is Renewal.NOTHING
            for resource, name in ((VALIDATORS, VALIDATORS_NAME), (DEFINITIONS, CONVERTED)):
                assert base64.b64encode(after.ca).decode() in str((await hooks.client.get(resource, name)).document)


@pytest.mark.parametrize("other", [False, True], ids=["deleted", "replaced"])
async def test_no_request_fails_when_somebody_takes_the_secret_away(tmp_path: Path, other: object) -> None:
    async with hooked(tmp_path) as hooks:
        served, log = Served.of(TlsOptions()), get_logger("test")
        keeper = Keeper(hooks.client, served, log, namespace=NAMESPACE, secret=SECRET, service=SERVICE, trust_s=0.05)
        async with running(keeper, WebhookServer(hooks.client, served, log, NAMESPACE, "native", hooks.port)):
            await hooks.until_served()
            loads, ended = served.loads, asyncio.Event()

            async def write(name: str) -> None:
                while not ended.is_set():
                    await hooks.create(COMMUNITIES, name)
                    await hooks.client.delete(COMMUNITIES, name, namespace=NAMESPACE)

            async with asyncio.TaskGroup() as group:
                for writer in range(4):
                    group.create_task(write(f"c-{writer}"))
                if other:
                    pair = renewed(None, Renewal.BOTH, HOST, datetime.now(UTC))
                    await hooks.client.patch(SECRETS, SECRET, {"data": pair.as_data()}, namespace=NAMESPACE)
                else:
                    await hooks.client.delete(SECRETS, SECRET, namespace=NAMESPACE)

                async def shown() -> bool:
                    return served.loads > loads

                assert await until(shown)
                ended.set()


async def test_while_the_controller_is_away_the_failure_policy_decides(tmp_path: Path) -> None:
    async with hooked(tmp_path) as hooks:
        async with hooks.cluster.controlled(*hooks.flags()):
            await hooks.until_served()
        with pytest.raises(KubeError, match="failed calling webhook") as caught:
            await hooks.create(COMMUNITIES, "closed")
        assert caught.value.status == 500
        await hooks.policy("Ignore")
        await hooks.create(COMMUNITIES, "open", communities=[{"name": "a", "value": "99999:1"}])
        with pytest.raises(KubeError, match=r"conversion webhook for metallb\.io/v1beta1, Kind=BGPPeer failed"):
            await hooks.create(OLD_PEERS, "old", **PEER)
        await hooks.policy("Fail")
        async with hooks.cluster.controlled(*hooks.flags()):
            await hooks.until_served()
            await hooks.create(COMMUNITIES, "closed")


async def test_a_restart_and_a_second_replica_use_the_certificate_that_is_there(tmp_path: Path) -> None:
    async with hooked(tmp_path) as hooks:
        async with hooks.cluster.controlled(*hooks.flags()):
            await hooks.until_served()
            first = await hooks.client.get(SECRETS.raw(), SECRET, NAMESPACE)
        async with hooks.cluster.controlled(*hooks.flags()):
            await hooks.until_served()
            served, log = Served.of(TlsOptions()), get_logger("test")
            keeper = Keeper(hooks.client, served, log, namespace=NAMESPACE, secret=SECRET, service=SERVICE)
            async with running(keeper, WebhookServer(hooks.client, served, log, NAMESPACE, "native", a_free_port())):
                async with asyncio.timeout(10):
                    await served.ready.wait()
        assert (await hooks.client.get(SECRETS.raw(), SECRET, NAMESPACE)).document == first.document


async def test_a_bundle_that_somebody_removes_comes_back(tmp_path: Path) -> None:
    async with hooked(tmp_path) as hooks, hooks.cluster.controlled(*hooks.flags()):
        await hooks.until_served()
        document = yaml.safe_load(list(MANIFEST.read_text().split("---"))[-1])
        current = await hooks.client.get(VALIDATORS, VALIDATORS_NAME)
        document["metadata"]["resourceVersion"] = current.metadata.resource_version
        await hooks.client.update(VALIDATORS, VALIDATORS_NAME, document)
        await hooks.until_served()


async def test_without_a_secret_one_is_made_and_without_validators_nothing_is_waited_for(tmp_path: Path) -> None:
    async with hooked(tmp_path, kinds=("Service",)) as hooks, hooks.cluster.controlled(*hooks.flags()):

        async def there() -> bool:
            try:
                return await hooks.secret() is not None
            except KubeError:
                return False

        assert await until(there)

        async def convertible() -> bool:
            try:
                await hooks.create(OLD_PEERS, "old", **PEER)
            except KubeError:
                return False
            return True

        assert await until(convertible)


async def test_a_certificate_of_ones_own_is_served_and_followed_and_nothing_else_is_touched(tmp_path: Path) -> None:
    folder = tmp_path / "certificates"
    folder.mkdir()
    pair = renewed(None, Renewal.BOTH, HOST, datetime.now(UTC))
    (folder / "tls.crt").write_bytes(pair.certificate)
    (folder / "tls.key").write_bytes(pair.key)
    async with hooked(tmp_path) as hooks:
        document = (await hooks.client.get(VALIDATORS, VALIDATORS_NAME)).document
        for hook in document["webhooks"]:
            hook["clientConfig"]["caBundle"] = base64.b64encode(pair.ca).decode()
        before = await hooks.client.update(VALIDATORS, VALIDATORS_NAME, document)
        async with hooks.cluster.controlled(*hooks.flags("--disable-cert-rotation", f"--cert-dir={folder}")):
            await hooks.until_served()
            assert "pool has no addresses" in await hooks.refused(IP_ADDRESS_POOLS, addresses=[])
        assert await hooks.client.get(VALIDATORS, VALIDATORS_NAME) == before
        assert await hooks.secret() is None


def test_files_that_cannot_be_used_leave_what_is_shown(tmp_path: Path) -> None:
    served = Served.of(TlsOptions())
    keeper = FileKeeper(tmp_path, served, get_logger("test"))
    keeper.look()
    assert not served.ready.is_set()
    pair = renewed(None, Renewal.BOTH, HOST, datetime.now(UTC))
    (tmp_path / "tls.crt").write_bytes(pair.certificate)
    (tmp_path / "tls.key").write_bytes(pair.key)
    keeper.look()
    assert served.ready.is_set()
    (tmp_path / "tls.crt").write_bytes(b"half a file")
    keeper.look()
    assert served.loads == 1
    with pytest.raises(ssl.SSLError):
        served.show(b"x", b"y")


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/convert", b"", 405),
        ("POST", "/other", b"{}", 404),
        ("POST", "/convert", b"{", 400),
        ("POST", "/convert", b"[]", 400),
        ("POST", "/validate-metallb-io-v1beta1-community", b'{"kind":"AdmissionReview"}', 400),
    ],
)
async def test_what_is_no_review_is_answered_with_a_sentence(
    tmp_path: Path, method: str, path: str, body: bytes, status: int
) -> None:
    served = Served.of(TlsOptions())
    pair = renewed(None, Renewal.BOTH, "localhost", datetime.now(UTC))
    served.show(pair.certificate, pair.key)
    async with a_cluster(tmp_path) as cluster:
        server = WebhookServer(cluster.client, served, get_logger("test"), NAMESPACE, "native", a_free_port())
        async with asyncio.TaskGroup() as group:
            task = group.create_task(server.run())
            await server.listening.wait()
            context = ssl.create_default_context(cadata=pair.ca.decode())
            reader, writer = await asyncio.open_connection("localhost", server.port, ssl=context)
            writer.write(
                f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            answer = await reader.read()
            assert answer.startswith(f"HTTP/1.1 {status} ".encode())
            writer.close()
            task.cancel()


def test_the_manifest_registers_exactly_the_paths_that_are_served() -> None:

    *_, configuration = yaml.safe_load_all(MANIFEST.read_text())
    paths = [hook["clientConfig"]["service"]["path"] for hook in configuration["webhooks"]]
    assert sorted(paths) == sorted(PATHS)
    assert configuration["metadata"]["name"] == VALIDATORS_NAME
