"""A table of objects, valid and invalid: what the API server makes of each by our schema, and what compile_config says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from config import crd
from config.compile import compile_config
from config.cross import Surroundings
from config.kinds import KINDS
from config.problem import Severity
from lab.apiserver.testing import running_server
from tests.builders import NAMESPACE
from tests.unit.config.objects import ROWS, Row
from tests.unit.lab_apiserver.helpers import Client, client_of, eventually

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


def document(row: Row, name: str = "object") -> dict[str, Any]:
    return {
        "apiVersion": f"metallb.io/{row.version}",
        "kind": row.kind,
        "metadata": {"name": name, "namespace": NAMESPACE},
        **({} if row.spec is None else {"spec": row.spec}),
    }


def test_the_table_is_long_enough_to_mean_something() -> None:
    assert len(ROWS) >= 120
    assert {row.kind for row in ROWS} == {
        "IPAddressPool",
        "L2Advertisement",
        "BGPAdvertisement",
        "BGPPeer",
        "BFDProfile",
        "Community",
    }


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.title)
@pytest.mark.parity(
    "Parser > timers > holdTime below 3s",
    "Parser > timers > keepaliveTime above holdTime",
    "Parser > pool > octet out of range",
    "Parser > pool > prefix length 33",
    "Parser > pool > reversed range",
    "Parser > pool > no addresses",
    "Parser > password > both ways",
    "Parser > BFD > receiveInterval 2 or 90000",
    "Parser > selectors or values twice",
    "Parser > preferredNodeSelectors > an unknown operator",
    "Parser > preferredNodeSelectors > an empty preference",
    "Parser > serviceSelectors with the default lengths",
    "Parser > serviceSelectors with other lengths",
    "Communities > one part",
    "Communities > three parts",
    "Communities > a marker that is not large",
    "Communities > a section that is no number",
    "Modes > native > each member that is not supported",
    "Modes > native > a peer with what is supported",
)
def test_each_object_is_valid_or_its_fault_is_named_with_path_and_message(row: Row) -> None:
    result = compile_config([document(row)], {}, {}, Surroundings(mode=row.mode))
    errors = [one for one in result.problems if one.severity is Severity.ERROR]
    if not row.refused:
        assert not errors
        return
    assert (row.path, True) in [(one.path, row.message in one.message) for one in errors], errors
    assert all(one.remedy for one in errors)
    assert result.stale
    assert not result.valid


async def with_definitions(admin: Client) -> None:
    await admin.must("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    for text in crd.files().values():
        definition = yaml.safe_load(text)
        if "conversion" in definition["spec"]:
            definition["spec"]["conversion"] = {"strategy": "None"}  # Nobody is there to ask.
        await admin.must("POST", DEFINITIONS, definition)

    async def served() -> bool:
        documents = [
            await admin.call("GET", collection(kind.plural, version.name))
            for kind in KINDS.values()
            for version in kind.versions
        ]
        return all(status == 200 for status, _ in documents)

    await eventually(served)


def collection(plural: str, version: str = "v1beta1") -> str:
    return f"/apis/metallb.io/{version}/namespaces/{NAMESPACE}/{plural}"


async def test_the_api_server_refuses_what_the_schema_forbids_at_the_path_we_name(tmp_path: Path) -> None:
    async with running_server(tmp_path / "state") as server, client_of(server) as admin:
        await with_definitions(admin)
        for number, row in enumerate(ROWS):
            path = collection(KINDS[row.kind].plural, row.version)
            status, answer = await admin.call("POST", path, document(row, f"object-{number}"))
            if row.refused == "api":
                assert status == 422, (row, answer)
                fields = [cause["field"] for cause in answer["details"]["causes"]]
                assert any(row.path.partition("[")[0] in field for field in fields), (row, fields)
            else:
                assert status == 201, (row, answer)


def as_written(row: Row) -> Any:
    return {} if row.spec is None else row.spec


async def test_what_users_write_comes_back_from_the_api_server_with_nothing_lost(tmp_path: Path) -> None:
    async with running_server(tmp_path / "state") as server, client_of(server) as admin:
        await with_definitions(admin)
        for number, row in enumerate(row for row in ROWS if not row.refused):
            path = collection(KINDS[row.kind].plural, row.version)
            await admin.must("POST", path, document(row, f"object-{number}"))
            shown = await admin.must("GET", f"{path}/object-{number}")
            written = shown.get("spec", {})
            assert {name: written.get(name) for name in as_written(row)} == as_written(row)
            version = next(one for one in KINDS[row.kind].versions if one.name == row.version)
            understood = msgspec.convert(shown, version.struct)
            assert msgspec.json.decode(msgspec.json.encode(understood), type=version.struct) == understood


@pytest.mark.parity("Parser > port 179 comes from the schema only")
async def test_a_peer_without_a_port_reads_back_179_and_graceful_restart_stays(tmp_path: Path) -> None:
    async with running_server(tmp_path / "state") as server, client_of(server) as admin:
        await with_definitions(admin)
        peers = collection("bgppeers", "v1beta2")
        spec = {"myASN": 1, "peerASN": 2, "peerAddress": "192.0.2.1", "enableGracefulRestart": True}
        body = {"apiVersion": "metallb.io/v1beta2", "kind": "BGPPeer", "metadata": {"name": "router"}, "spec": spec}
        created = await admin.must("POST", peers, body)
        assert created["spec"]["peerPort"] == 179
        created["spec"]["enableGracefulRestart"] = False
        status, answer = await admin.call("PUT", f"{peers}/router", created)
        assert status == 422
        assert "EnableGracefulRestart cannot be changed after creation" in answer["message"]
