from __future__ import annotations

from typing import Any

import pytest

from lab.apiserver import crds, rules, structural

Json = dict[str, Any]


def definition(schema: Json) -> Json:
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": schema}}},
    }
    names = {"plural": "things", "kind": "Thing", "singular": "thing", "listKind": "ThingList"}
    spec = {"group": "example.com", "scope": "Namespaced", "names": names, "versions": [version]}
    spec["conversion"] = {"strategy": "None"}
    return {"metadata": {"name": "things.example.com"}, "spec": spec, "status": {"storedVersions": ["v1"]}}


def faults(schema: Json, value: Any, old: Any = ...) -> list[str]:
    _, (resource,) = crds.resources_of(definition(schema))
    assert resource.custom is not None
    version = resource.custom.versions["v1"]
    before = None if old is ... else {"spec": old}
    return [c.text() for c in structural.validate({"spec": value}, before, version.schema, version.rules)]


@pytest.mark.parametrize(
    ("schema", "value", "fault"),
    [
        ({"type": "integer", "maximum": 3, "exclusiveMaximum": True}, 3, "spec in body should be less than 3"),
        ({"type": "integer", "minimum": 3, "exclusiveMinimum": True}, 3, "spec in body should be greater than 3"),
        ({"type": "integer", "multipleOf": 2}, 3, "should be a multiple of 2"),
        ({"type": "string", "maxLength": 2}, "abc", "Too long: must have at most 2 bytes"),
        ({"type": "string", "pattern": "^a"}, "b", "should match '^a'"),
        ({"type": "array", "items": {"type": "string"}, "minItems": 1}, [], "should have at least 1 items"),
        ({"type": "array", "items": {"type": "string"}, "maxItems": 1}, ["a", "b"], "Too many: 2: must have at most 1 items"),
        ({"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"}, ["a", "a"], 'Duplicate value: "a"'),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, {"a": "b"}, "must be of type integer"),
        ({"type": "object", "minProperties": 1}, {}, "at least 1 properties"),
        ({"x-kubernetes-int-or-string": True}, [1], "must be of type integer,string"),
        ({"type": "string"}, None, 'must be of type string: "null"'),
    ],
)
def test_each_bound_is_kept(schema: Json, value: Any, fault: str) -> None:
    (text,) = faults(schema, value)
    assert fault in text


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "string", "nullable": True}, None),
        ({"type": "number"}, 3),
        ({"type": "integer"}, 3.0),
        ({"x-kubernetes-int-or-string": True}, "80%"),
        ({"type": "string", "format": "date-time"}, "2026-01-01T00:00:00Z"),
        ({"type": "object", "x-kubernetes-preserve-unknown-fields": True}, {"any": {"thing": 1}}),
    ],
)
def test_what_a_schema_allows_passes(schema: Json, value: Any) -> None:
    assert faults(schema, value) == []


def test_transition_rules_see_the_old_element_of_a_list_map_and_of_a_map() -> None:
    fixed = {"type": "string", "x-kubernetes-validations": [{"rule": "self == oldSelf"}]}
    listed = {
        "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
        "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": fixed}},
    }  # fmt: skip
    assert faults(listed, [{"k": "b", "v": "2"}, {"k": "a", "v": "1"}], [{"k": "a", "v": "1"}]) == []
    (text,) = faults(listed, [{"k": "a", "v": "9"}], [{"k": "a", "v": "1"}])
    assert text == 'spec[0].v: Invalid value: "string": failed rule: self == oldSelf'
    mapped = {"type": "object", "additionalProperties": fixed}
    assert faults(mapped, {"x": "1", "new": "1"}, {"x": "1"}) == []
    assert len(faults(mapped, {"x": "2"}, {"x": "1"})) == 1


def test_rules_are_not_checked_while_the_schema_is_broken() -> None:
    schema = {
        "type": "object",
        "required": ["a"],
        "x-kubernetes-validations": [{"rule": "self.a == 1"}],
        "properties": {"a": {"type": "integer"}},
    }
    first, second = faults(schema, {})
    assert first == "spec.a: Required value"
    assert second.startswith("<nil>: ")


def test_pruning_and_defaults_reach_into_lists_and_maps() -> None:
    inner = {"type": "object", "properties": {"a": {"type": "integer", "default": 1}, "n": {"type": "string"}}}
    schema = {
        "type": "object",
        "properties": {"l": {"type": "array", "items": inner}, "m": {"type": "object", "additionalProperties": inner}},
    }
    value: Json = {"l": [{"x": 1}, {"n": None}], "m": {"k": {"y": 2}}, "z": 3}
    unknown: list[str] = []
    structural.prune(value, schema, "spec", unknown)
    structural.default(value, schema)
    assert unknown == ["spec.l[0].x", "spec.m.k.y", "spec.z"]
    assert value == {"l": [{"a": 1}, {"a": 1}], "m": {"k": {"a": 1}}}


@pytest.mark.parametrize(
    ("schema", "fault"),
    [
        ({"type": "object", "properties": {"a": {}}}, "must not be empty for specified object fields"),
        (
            {"type": "array", "items": {"type": "object"}, "x-kubernetes-list-type": "map"},
            "x-kubernetes-list-map-keys: Required value",
        ),
        ({"type": "integer", "default": "x"}, "must be of type integer"),
        ({"type": "object", "x-kubernetes-validations": [{"rule": "frob(self)"}]}, "undeclared reference"),
    ],
)
def test_a_definition_with_a_broken_schema_is_refused(schema: Json, fault: str) -> None:
    assert any(fault in cause.text() for cause in rules.faults("CustomResourceDefinition", definition(schema), None))


def test_a_good_definition_has_no_faults() -> None:
    good = {"type": "object", "properties": {"a": {"type": "string", "x-kubernetes-validations": [{"rule": "self != ''"}]}}}
    assert rules.faults("CustomResourceDefinition", definition(good), None) == []
