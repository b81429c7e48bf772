"""The table of objects, valid and invalid, written to an API server with our definitions and, over HTTPS, our webhooks.

The first tests need no webhooks: they hold against any API server that running_server() brings.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cli.check import read
from config.compile import compile_config
from config.cross import References, Surroundings
from config.kinds import KINDS
from config.problem import Severity
from controller.admission import WebhookServer
from controller.certificates import Keeper, Served
from kube.client import KubeClient, PatchKind
from kube.errors import KubeError
from telemetry.log import get_logger
from telemetry.tls import TlsOptions
from tests.builders import NAMESPACE
from tests.integration.controller.hooked import PEERS, SECRET, SERVICE, Hooked, hooked, kind, running
from tests.unit.config.objects import PEER, ROWS, Row, document
from tests.unit.controller.cluster import a_cluster

SAMPLES = Path(__file__).with_name("samples.yaml")
UNCONVERTED = [row for row in ROWS if row.version == max(one.name for one in KINDS[row.kind].versions)]
"""Rows in the version that is stored: without webhooks nobody converts the other."""


async def written(client: KubeClient, row: Row) -> dict[str, Any]:
    """The object of a row as the API server shows it; it is gone afterwards.

    Raises:
        KubeError: it is refused.

    """
    resource = kind(row.kind, KINDS[row.kind].plural, row.version)
    await client.create(resource, document(row), namespace=NAMESPACE)
    shown = (await client.get(resource, "object", NAMESPACE)).document
    await client.delete(resource, "object", namespace=NAMESPACE)
    return dict(shown)


def lost(row: Row, shown: Mapping[str, Any]) -> dict[str, Any]:
    """What a user wrote and the API server does not show, but for what it drops on purpose."""
    spec = row.spec or {}
    dropped = row.path.rpartition(".")[2] if row.refused == "dropped" else ""
    there = shown.get("spec", {})
    return {
        name: value
        for name, value in spec.items()
        if name != dropped and there.get(name) != value and (name, value) != ("peerPort", 0)  # No port: the default is stored.
    }


async def test_the_schema_refuses_what_it_can_and_names_the_path(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as cluster:
        for row in UNCONVERTED:
            if row.refused == "api":
                with pytest.raises(KubeError) as caught:
                    await written(cluster.client, row)
                assert (caught.value.status, row.path.partition("[")[0] in caught.value.message) == (422, True), row
            else:
                await written(cluster.client, row)


async def test_what_users_write_comes_back_with_nothing_lost(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as cluster:
        for row in UNCONVERTED:
            if row.refused == "api":
                continue
            shown = await written(cluster.client, row)
            assert lost(row, shown) == {}, row
            if not row.refused:
                version = next(one for one in KINDS[row.kind].versions if one.name == row.version)
                understood = msgspec.convert(shown, version.struct)
                assert msgspec.json.decode(msgspec.json.encode(understood), type=version.struct) == understood


@pytest.mark.parity("Parser > port 179 comes from the schema only")
async def test_a_peer_without_a_port_reads_back_179_and_graceful_restart_stays(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as cluster:
        body = {"apiVersion": PEERS.api_version, "kind": "BGPPeer", "metadata": {"name": "router"}, "spec": {**PEER, "enableGracefulRestart": True}}  # fmt: skip
        created = await cluster.client.create(PEERS, body, namespace=NAMESPACE)
        assert created.document["spec"]["peerPort"] == 179
        change = {"spec": {"enableGracefulRestart": False}}
        with pytest.raises(KubeError, match="EnableGracefulRestart cannot be changed after creation") as caught:
            await cluster.client.patch(PEERS, "router", change, namespace=NAMESPACE)
        assert caught.value.status == 422


# Statuses, which our processes write


@dataclass(frozen=True)
class Status:
    """A status, a change to it, and the path at which the API server must refuse the change; empty if it must take it."""

    kind: str
    before: dict[str, Any]
    change: dict[str, Any]
    path: str = ""
    said: str = ""
    spec: dict[str, Any] = field(default_factory=dict)


OWNER = {"node": "n1", "serviceName": "web", "serviceNamespace": "default"}
CONDITION = {"type": "a", "status": "True", "reason": "Reconciled", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}
COUNTS = {"assignedIPv4": 1, "assignedIPv6": 2, "availableIPv4": 3, "availableIPv6": 2**63 - 1}
POOL = {"addresses": ["192.0.2.0/24"]}
STATUSES = [
    Status("ServiceL2Status", {**OWNER, "interfaces": [{"name": "eth0"}]}, {"interfaces": [{"name": "eth0"}, {"name": "eth1"}]}),
    Status("ServiceL2Status", OWNER, {"interfaces": []}),
    Status("ServiceL2Status", OWNER, {"interfaces": "eth0"}, "status.interfaces", "array"),
    Status("ServiceL2Status", OWNER, {"interfaces": [{"name": 1}]}, "status.interfaces[0].name", "string"),
    *(
        Status(kind, OWNER, {member: "other"}, f"status.{member}", "Value is immutable")
        for kind in ("ServiceL2Status", "ServiceBGPStatus")
        for member in OWNER
    ),
    Status("ServiceBGPStatus", {**OWNER, "peers": ["a"]}, {"peers": ["a", "b"]}),
    Status("ServiceBGPStatus", {**OWNER, "peers": ["a"]}, {"peers": []}),
    Status("ServiceBGPStatus", OWNER, {"peers": {"a": "b"}}, "status.peers", "array"),
    Status("ServiceBGPStatus", OWNER, {"peers": [1]}, "status.peers[0]", "string"),
    Status("ConfigurationState", {"result": "Unknown"}, {"result": "Valid", "errorSummary": "", "conditions": [CONDITION]}),
    Status("ConfigurationState", {"result": "Valid"}, {"result": "Invalid", "errorSummary": "one\ntwo"}),
    Status("ConfigurationState", {"result": "Valid"}, {"result": "Good"}, "status.result", "supported values"),
    Status("ConfigurationState", {"result": "Valid"}, {"errorSummary": ["one"]}, "status.errorSummary", "string"),
    Status("ConfigurationState", {}, {"conditions": [{**CONDITION, "status": "Perhaps"}]}, "status.conditions[0].status", "supported values"),
    Status("ConfigurationState", {}, {"conditions": [{**CONDITION, "reason": ""}]}, "status.conditions[0].reason", ""),
    Status("ConfigurationState", {}, {"conditions": [{"type": "a"}]}, "status.conditions[0].status", "Required value"),
    Status("ConfigurationState", {}, {"conditions": [CONDITION, CONDITION]}, "status.conditions[1]", "Duplicate value"),
    Status("IPAddressPool", {}, COUNTS, spec=POOL),
    Status("IPAddressPool", COUNTS, {"assignedIPv4": 0}, spec=POOL),
    Status("IPAddressPool", COUNTS, {"assignedIPv4": "one"}, "status.assignedIPv4", "integer", POOL),
    Status("IPAddressPool", COUNTS, {"availableIPv6": None}, "status.availableIPv6", "Required value", POOL),
]  # fmt: skip


async def test_every_kind_with_a_status_takes_what_our_processes_write_and_nothing_else(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as cluster:
        for row in STATUSES:
            resource = kind(row.kind, KINDS[row.kind].plural)
            body = {"apiVersion": resource.api_version, "kind": row.kind, "metadata": {"name": "object"}}
            await cluster.client.create(resource, body | ({"spec": row.spec} if row.spec else {}), namespace=NAMESPACE)

            async def put(status: dict[str, Any], resource: Any = resource) -> dict[str, Any]:
                patch = {"status": status}
                done = await cluster.client.patch(
                    resource, "object", patch, namespace=NAMESPACE, subresource="status", kind=PatchKind.MERGE
                )
                return dict(done.document.get("status", {}))

            assert not row.before or await put(row.before) == row.before, row
            if row.path:
                with pytest.raises(KubeError) as caught:
                    await put(row.change)
                assert (caught.value.status, row.path in caught.value.message, row.said in caught.value.message) == (422, True, True), caught.value.message  # fmt: skip
            else:
                assert await put(row.change) == {**row.before, **row.change}
            await cluster.client.delete(resource, "object", namespace=NAMESPACE)


def test_all_kinds_have_rows() -> None:
    assert {row.kind for row in ROWS} | {row.kind for row in STATUSES} == set(KINDS)
    assert len(ROWS) + len(STATUSES) >= 120


# With webhooks


@asynccontextmanager
async def judged(tmp_path: Path, mode: str) -> AsyncIterator[Hooked]:
    """An API server that asks webhooks in a mode of BGP."""
    async with hooked(tmp_path) as hooks:
        served, log = Served.of(TlsOptions()), get_logger("test")
        keeper = Keeper(hooks.client, served, log, namespace=NAMESPACE, secret=SECRET, service=SERVICE)
        async with running(keeper, WebhookServer(hooks.client, served, log, NAMESPACE, mode, hooks.port)):
            await hooks.until_served()
            yield hooks


@pytest.mark.parametrize("mode", ["frr", "native"])
async def test_webhooks_say_of_every_object_what_the_daemons_say(tmp_path: Path, mode: str) -> None:
    async with judged(tmp_path, mode) as hooks:
        for row in ROWS:
            if row.mode != mode:
                continue
            if row.refused not in {"api", "config"}:
                assert lost(row, await written(hooks.client, row)) == {}, row
                continue
            with pytest.raises(KubeError) as caught:
                await written(hooks.client, row)
            said = caught.value.message
            if row.refused == "api":
                assert (caught.value.status, row.path.partition("[")[0] in said) == (422, True), row
                continue
            around = Surroundings(mode=mode, references=References.IGNORE)
            problems = compile_config([document(row)], {}, {}, around).problems
            expected = [f"{one.path}: {one.message}" for one in problems if one.severity is Severity.ERROR and one.code != "not-in-force"]  # fmt: skip
            assert caught.value.status == 403
            assert f"{row.path}: " in said
            assert [one for one in expected if one not in said] == [], said


async def test_files_that_users_of_metallb_have_are_taken_as_they_are(tmp_path: Path) -> None:
    documents = [one.value for one in read([str(SAMPLES)], None)]  # type: ignore[arg-type]  # No standard input is read.
    assert {one["kind"] for one in documents} >= {"IPAddressPool", "L2Advertisement", "BGPAdvertisement", "BGPPeer", "BFDProfile", "Community"}  # fmt: skip
    async with judged(tmp_path, "frr") as hooks:
        for one in documents:
            resource = kind(one["kind"], KINDS[one["kind"]].plural, one["apiVersion"].rpartition("/")[2])
            await hooks.client.create(resource, one, namespace=NAMESPACE)
            shown = (await hooks.client.get(resource, one["metadata"]["name"], NAMESPACE)).document
            spec = one.get("spec") or {}
            assert {name: shown["spec"].get(name) for name in spec} == spec
