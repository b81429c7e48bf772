from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from config import crd
from config.kinds import KINDS

RECORDED = Path(__file__).parents[2] / "recorded" / "apiserver" / "crds"


def test_the_definitions_are_the_same_every_time() -> None:
    first = crd.files()
    crd.structural.cache_clear()
    assert crd.files() == first


def schema_of(definition: Any) -> Any:
    return definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


@pytest.mark.parametrize("plural", ["ipaddresspools", "servicel2statuses"])
def test_the_definition_has_the_shape_that_existing_objects_need(plural: str) -> None:
    ours = yaml.safe_load(crd.files()[f"{plural}.yaml"])
    theirs = yaml.safe_load((RECORDED / f"{plural}.yaml").read_text(encoding="utf-8"))
    assert _near(schema_of(ours), schema_of(theirs))
    for member in ("group", "scope", "names"):
        assert ours["spec"][member] == theirs["spec"][member]
    versions = ours["spec"]["versions"], theirs["spec"]["versions"]
    assert versions[0][0]["additionalPrinterColumns"] == versions[1][0]["additionalPrinterColumns"]
    assert versions[0][0]["subresources"] == {"status": {}}


def _near(ours: Any, theirs: Any) -> bool:
    """Every statement of the recorded schema is in ours."""
    if isinstance(theirs, dict):
        return isinstance(ours, dict) and all(
            key == "description" or (key in ours and _near(ours[key], value)) for key, value in theirs.items()
        )
    if isinstance(theirs, list) and theirs and isinstance(theirs[0], str):
        return bool(sorted(ours) == sorted(theirs))
    if isinstance(theirs, list):
        return len(ours) == len(theirs) and all(_near(*pair) for pair in zip(ours, theirs, strict=True))
    return bool(ours == theirs)


def nodes(schema: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    yield path, schema
    for name, one in schema.get("properties", {}).items():
        yield from nodes(one, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from nodes(schema[key], f"{path}[{key}]")


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_schema_is_structural(kind: str) -> None:
    for version in KINDS[kind].versions:
        for path, node in nodes(crd.structural(version.struct)):
            assert node["type"] in {"object", "array", "string", "integer", "boolean"}, path
            assert not node.keys() & {"$ref", "$defs", "anyOf", "oneOf", "title"}, path
            assert node.get("additionalProperties") is not False, path
            assert ("items" in node) == (node["type"] == "array"), path
            if path.startswith((".spec.", ".status.")) and not path.endswith("]"):
                assert node["description"].strip(), path


def test_only_defaults_that_say_something_are_written() -> None:
    text = crd.files()["ipaddresspools.yaml"]
    assert re.findall(r"default: (.*)", text) == ["true", "false"]


def test_the_node_of_a_service_l2_status_cannot_change() -> None:
    (version,) = KINDS["ServiceL2Status"].versions
    status = crd.structural(version.struct)["properties"]["status"]["properties"]
    rule = [{"rule": "self == oldSelf", "message": "Value is immutable"}]
    assert all(status[name]["x-kubernetes-validations"] == rule for name in ("node", "serviceName", "serviceNamespace"))


def test_both_versions_of_a_peer_have_the_shape_that_existing_objects_need() -> None:
    ours = yaml.safe_load(crd.files()["bgppeers.yaml"])["spec"]
    theirs = yaml.safe_load((RECORDED / "bgppeers.yaml").read_text(encoding="utf-8"))["spec"]
    for mine, recorded in zip(ours["versions"], theirs["versions"], strict=True):
        for member in ("name", "served", "storage", "deprecated", "deprecationWarning", "additionalPrinterColumns"):
            assert mine.get(member) == recorded.get(member)
        specs = (one["schema"]["openAPIV3Schema"]["properties"]["spec"] for one in (mine, recorded))
        mine_spec, recorded_spec = specs
        recorded_spec["properties"].pop("nodeSelectors", None)  # Ours names the operators.
        assert _near(mine_spec, recorded_spec)
    service = {"namespace": "metallb-system", "name": "metallb-webhook-service", "path": "/convert"}
    assert ours["conversion"]["webhook"]["clientConfig"] == {"service": service}


def test_a_state_has_conditions_that_can_be_applied_one_by_one() -> None:
    ours = yaml.safe_load(crd.files()["configurationstates.yaml"])
    theirs = yaml.safe_load((RECORDED / "configurationstates.yaml").read_text(encoding="utf-8"))
    ours_status, theirs_status = (schema_of(one)["properties"]["status"] for one in (ours, theirs))
    assert _near(ours_status, theirs_status)
    columns = [one["spec"]["versions"][0]["additionalPrinterColumns"] for one in (ours, theirs)]
    assert columns[0] == columns[1]


def test_there_is_a_definition_for_each_of_the_nine_kinds() -> None:
    assert sorted(crd.files()) == [
        "bfdprofiles.yaml",
        "bgpadvertisements.yaml",
        "bgppeers.yaml",
        "communities.yaml",
        "configurationstates.yaml",
        "ipaddresspools.yaml",
        "l2advertisements.yaml",
        "servicebgpstatuses.yaml",
        "servicel2statuses.yaml",
    ]


def test_a_bgp_advertisement_has_the_shape_that_existing_objects_need() -> None:
    ours = yaml.safe_load(crd.files()["bgpadvertisements.yaml"])
    theirs = yaml.safe_load((RECORDED / "bgpadvertisements.yaml").read_text(encoding="utf-8"))
    del schema_of(theirs)["required"]  # An advertisement without a spec is one of everything.
    assert _near(schema_of(ours), schema_of(theirs))
