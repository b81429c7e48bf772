from __future__ import annotations

import json
from typing import Any

import pytest

from lab.apiserver import apply
from lab.apiserver.api import Call
from lab.apiserver.errors import ApiError
from lab.apiserver.resources import BUILTIN, Resource

Json = dict[str, Any]
NOW = "2026-01-01T00:00:00Z"


def kind(name: str) -> Resource:
    return next(r for r in BUILTIN if r.kind == name)


def service(*ports: Json, **metadata: Any) -> Json:
    return {
        "kind": "Service", "apiVersion": "v1", "metadata": {"name": "s", **metadata}, "spec": {"ports": list(ports)},
        "status": {"loadBalancer": {}},
    }  # fmt: skip


def owners(document: Json) -> dict[str, Json]:
    return {e["manager"]: e["fieldsV1"] for e in document["metadata"].get("managedFields", [])}


ONE: Json = {"f:metadata": {"f:labels": {".": {}, "f:a": {}}}, "f:spec": {"f:type": {}}}
TWO: Json = {"f:metadata": {"f:labels": {"f:a": {}, "f:b": {}}}, "f:spec": {"f:ports": {".": {}, "v:1": {}}}}


def test_field_sets_are_joined_taken_apart_and_compared() -> None:
    joined: Json = {
        "f:metadata": {"f:labels": {".": {}, "f:a": {}, "f:b": {}}}, "f:spec": {"f:type": {}, "f:ports": {".": {}, "v:1": {}}},
    }  # fmt: skip
    assert apply.union(ONE, TWO) == joined
    assert apply.minus(joined, TWO) == {"f:metadata": {"f:labels": {}}, "f:spec": {"f:type": {}}}
    assert apply.minus(ONE, joined) is None
    assert apply.both(ONE, TWO) == {"f:metadata": {"f:labels": {"f:a": {}}}}
    assert apply.both({"f:data": {}}, {"f:data": {"f:a": {}}}) is None
    assert list(apply.paths_of(ONE)) == [("f:metadata", "f:labels"), ("f:metadata", "f:labels", "f:a"), ("f:spec", "f:type")]


def test_what_a_change_added_and_took_away_is_said_at_the_highest_field_that_differs() -> None:
    old: Json = {"metadata": {}, "spec": {"ports": [{"port": 1, "protocol": "TCP"}], "selector": {"a": "1"}}}
    new: Json = {"metadata": {}, "spec": {"ports": [{"port": 2, "protocol": "TCP"}], "selector": {"a": "2"}, "type": "X"}}
    changed, removed = apply.changes(old, new, apply.schema_of(kind("Service")))
    port: Json = {".": {}, "f:port": {}, "f:protocol": {}}
    assert changed == {"f:spec": {"f:ports": {'k:{"port":2,"protocol":"TCP"}': port}, "f:selector": {}, "f:type": {}}}
    assert removed == {"f:spec": {"f:ports": {'k:{"port":1,"protocol":"TCP"}': port}}}
    assert apply.changes(old, old, {}) == (None, None)


def test_an_update_owns_what_it_changed_and_takes_it_from_others() -> None:
    first = service({"port": 80, "protocol": "TCP"})
    apply.track(first, None, kind("Service"), "one", "", NOW)
    assert owners(first)["one"]["f:spec"] == {
        "f:ports": {".": {}, 'k:{"port":80,"protocol":"TCP"}': {".": {}, "f:port": {}, "f:protocol": {}}}
    }
    second = service({"port": 80, "protocol": "TCP", "name": "http"}, labels={"a": "b"})
    apply.track(second, first, kind("Service"), "two", "", NOW, before=first["metadata"]["managedFields"])
    assert owners(second)["two"] == {
        "f:metadata": {"f:labels": {".": {}, "f:a": {}}},
        "f:spec": {"f:ports": {'k:{"port":80,"protocol":"TCP"}': {"f:name": {}}}},
    }
    third = service({"port": 80, "protocol": "TCP", "name": "web"}, labels={"a": "b"})
    apply.track(third, second, kind("Service"), "one", "", NOW, before=second["metadata"]["managedFields"])
    assert "f:spec" not in owners(third)["two"]


def test_a_status_write_is_an_entry_of_its_own() -> None:
    old = service({"port": 80, "protocol": "TCP"})
    new = {**old, "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}, "metadata": {"name": "s"}}
    apply.track(new, old, kind("Service"), "lb", "status", NOW)
    (entry,) = new["metadata"]["managedFields"]
    assert entry["subresource"] == "status"
    assert entry["fieldsV1"] == {"f:status": {"f:loadBalancer": {"f:ingress": {}}}}


def test_an_unchanged_object_keeps_its_entries_and_a_reset_clears_them() -> None:
    old = service({"port": 80, "protocol": "TCP"})
    apply.track(old, None, kind("Service"), "one", "", NOW)
    entries = old["metadata"]["managedFields"]
    same = service({"port": 80, "protocol": "TCP"})
    apply.track(same, old, kind("Service"), "two", "", "later", before=entries)
    assert same["metadata"]["managedFields"] == entries
    reset = service({"port": 80, "protocol": "TCP"}, managedFields=[{}])
    apply.track(reset, old, kind("Service"), "two", "", NOW, before=entries)
    assert "managedFields" not in reset["metadata"]


def test_times_alone_make_no_new_version() -> None:
    one = service({"port": 80}, managedFields=[{"manager": "a", "time": "1"}])
    two = service({"port": 80}, managedFields=[{"manager": "a", "time": "2"}])
    three = service({"port": 80}, managedFields=[{"manager": "b", "time": "1"}])
    assert apply.same_but_times(one, two)
    assert not apply.same_but_times(one, three)
    assert not apply.same_but_times(one, service({"port": 81}, managedFields=[{"manager": "a"}]))


def apply_as(live: Json | None, manager: str, applied: Json, *, force: bool = False) -> Json:
    merged, entries = apply.merge(live, applied, kind("Service"), Call(manager=manager, force=force), "")
    merged["metadata"]["managedFields"] = entries
    return merged


def ports_of(document: Json) -> list[tuple[int, str]]:
    return [(p["port"], p.get("name", "")) for p in document["spec"].get("ports", [])]


def test_two_managers_share_a_list_by_its_keys_and_each_takes_its_own_away() -> None:
    live = apply_as(None, "one", service({"port": 80, "name": "a"}))
    live = apply_as(live, "two", service({"port": 81, "name": "b"}))
    assert ports_of(live) == [(80, "a"), (81, "b")]
    live = apply_as(live, "one", service({"port": 80, "name": "x"}))
    assert ports_of(live) == [(80, "x"), (81, "b")]
    live = apply_as(live, "two", service())
    assert ports_of(live) == [(80, "x")]


def test_a_conflict_names_manager_and_path_and_force_takes_the_field() -> None:
    live = apply_as(None, "one", service({"port": 80, "name": "a"}))
    with pytest.raises(ApiError) as caught:
        apply_as(live, "two", service({"port": 80, "name": "b"}))
    assert caught.value.code == 409
    assert caught.value.message == 'Apply failed with 1 conflict: conflict with "one": .spec.ports[port=80,protocol="TCP"].name'
    forced = apply_as(live, "two", service({"port": 80, "name": "b"}), force=True)
    assert ports_of(forced) == [(80, "b")]
    assert "f:name" not in str(owners(forced)["one"])


def test_applying_the_same_value_shares_the_field() -> None:
    live = apply_as(None, "one", service({"port": 80, "name": "a"}))
    live = apply_as(live, "two", service({"port": 80, "name": "a"}))
    live = apply_as(live, "one", service())
    assert ports_of(live) == [(80, "a")]


@pytest.mark.parametrize(
    ("body", "code", "text"),
    [
        (b"kind: [", 400, "error decoding YAML"),
        (b"- a", 400, "not an object"),
        (b"{}", 400, "invalid object type"),
        (b"{apiVersion: v1, kind: Service, metadata: {name: other}}", 400, "does not match the name on the URL"),
        (b"{apiVersion: v1, kind: Service, metadata: {managedFields: []}}", 400, "must be nil"),
        (b"{apiVersion: v1, kind: Service, spec: {prts: []}}", 500, ".spec.prts: field not declared in schema"),
        (b"{apiVersion: v1, kind: Service, spec: {ports: [{port: x}]}}", 500, "cannot unmarshal string"),
    ],
)
def test_a_document_that_cannot_be_applied_is_refused(body: bytes, code: int, text: str) -> None:
    with pytest.raises(ApiError) as caught:
        apply.read(kind("Service"), ("", "s"), body)
    assert caught.value.code == code
    assert text in caught.value.message


@pytest.mark.parametrize("extra", [{"type": "string"}, True])
def test_a_definition_whose_schema_has_a_map_can_be_applied(extra: Any) -> None:
    version = {
        "name": "v1",
        "schema": {"openAPIV3Schema": {"properties": {"m": {"type": "object", "additionalProperties": extra}}}},
    }
    document = {
        "kind": "CustomResourceDefinition", "apiVersion": "apiextensions.k8s.io/v1", "metadata": {"name": "x"},
        "spec": {"versions": [version]},
    }  # fmt: skip
    assert apply.read(kind("CustomResourceDefinition"), ("", "x"), json.dumps(document).encode()) == document
