from __future__ import annotations

from typing import Any

import pytest

from config.check import SHOWN_MAX, findings, show
from config.crd import structural
from config.kinds.ip_address_pool import IPAddressPool
from config.kinds.l2_advertisement import L2Advertisement

POOL = structural(IPAddressPool)["properties"]["spec"]
L2 = structural(L2Advertisement)["properties"]["spec"]


def test_a_sound_spec_has_no_findings() -> None:
    selector = {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "a", "operator": "In", "values": ["x"]}]}
    spec = {
        "addresses": ["10.0.0.0/8"],
        "autoAssign": False,
        "serviceAllocation": {"priority": 5, "serviceSelectors": [selector]},
    }
    assert not list(findings(spec, POOL, "spec"))


@pytest.mark.parametrize(
    ("schema", "spec", "path", "code", "remedy"),
    [
        (POOL, {}, "spec.addresses", "required", "add addresses"),
        (POOL, [], "spec", "type", "write an object"),
        (POOL, {"addresses": [], "autoassign": True}, "spec.autoassign", "unknown-field", "write autoAssign"),
        (POOL, {"addresses": [], "protocol": "bgp"}, "spec.protocol", "unknown-field", "known fields: addresses, autoAssign"),
        (POOL, {"addresses": "10.0.0.0/8"}, "spec.addresses", "type", "write an array"),
        (POOL, {"addresses": [1]}, "spec.addresses[0]", "type", "write a string"),
        (POOL, {"addresses": [None]}, "spec.addresses[0]", "type", "write a string"),
        (POOL, {"addresses": [], "autoAssign": 1}, "spec.autoAssign", "type", "write a boolean"),
        (POOL, {"addresses": [], "serviceAllocation": {"priority": True}}, "spec.serviceAllocation.priority", "type", "write an integer"),
        (POOL, {"addresses": [], "serviceAllocation": {"priority": 1.5}}, "spec.serviceAllocation.priority", "type", "write an integer"),
        (
            POOL,
            {"addresses": [], "serviceAllocation": {"serviceSelectors": [{"matchExpressions": [{"key": "a", "operator": "Is"}]}]}},
            "spec.serviceAllocation.serviceSelectors[0].matchExpressions[0].operator",
            "enum",
            "DoesNotExist, Exists, In, NotIn",
        ),
        (POOL, {"addresses": [], "serviceAllocation": {"serviceSelectors": [{"matchLabels": {"a": 1}}]}}, "spec.serviceAllocation.serviceSelectors[0].matchLabels[a]", "type", "write a string"),
        (L2, {"preferredNodeSelectors": [{"weight": 0, "preference": {}}]}, "spec.preferredNodeSelectors[0].weight", "range", "1 to 100"),
        (L2, {"preferredNodeSelectors": [{"weight": 101, "preference": {}}]}, "spec.preferredNodeSelectors[0].weight", "range", "1 to 100"),
        (L2, {"preferredNodeSelectors": [{"weight": 1}]}, "spec.preferredNodeSelectors[0].preference", "required", "add preference"),
        (L2, {"interfaces": {}}, "spec.interfaces", "type", "write an array"),
    ],
)  # fmt: skip
def test_what_the_schema_does_not_allow_is_found_with_its_path(
    schema: Any, spec: object, path: str, code: str, remedy: str
) -> None:
    (finding,) = findings(spec, schema, "spec")
    assert (finding.path, finding.code) == (path, code)
    assert remedy in finding.remedy


def test_every_difference_is_found_not_only_the_first() -> None:
    spec = {"addresses": [1, "10.0.0.0/8", 2], "autoAssign": "yes", "extra": {}}
    assert {finding.path for finding in findings(spec, POOL, "spec")} == {
        "spec.addresses[0]",
        "spec.addresses[2]",
        "spec.autoAssign",
        "spec.extra",
    }


def test_an_unknown_field_where_none_is_known_has_to_go() -> None:
    (finding,) = findings({"a": 1}, {"type": "object", "properties": {}}, "status")
    assert finding.remedy == "remove it"


def test_long_values_are_shortened() -> None:
    assert len(show("x" * 1000)) == SHOWN_MAX
    assert show({"b": 1, "a": None}) == '{"a": null, "b": 1}'
