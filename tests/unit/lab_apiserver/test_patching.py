from __future__ import annotations

from typing import Any

import pytest

from lab.apiserver.errors import ApiError
from lab.apiserver.patching import json_patch, merge_patch, strategic_patch

Json = dict[str, Any]


@pytest.mark.parametrize(  # RFC 7386, appendix A.
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch_is_rfc_7386(target: Any, patch: Any, result: Any) -> None:
    assert merge_patch(target, patch) == result


def test_json_patch_operations() -> None:
    document: Json = {"a": {"x": 1, "l": [1, 2]}, "s/t": {"~": 1}}
    out = json_patch(
        document,
        [
            {"op": "test", "path": "/a/x", "value": 1},
            {"op": "add", "path": "/a/l/1", "value": 9},
            {"op": "add", "path": "/a/l/-", "value": 3},
            {"op": "replace", "path": "/a/l/0", "value": 0},
            {"op": "copy", "from": "/a/x", "path": "/b"},
            {"op": "move", "from": "/a/x", "path": "/c"},
            {"op": "remove", "path": "/s~1t/~0"},
        ],
    )
    assert out == {"a": {"l": [0, 9, 2, 3]}, "s/t": {}, "b": 1, "c": 1}
    assert document == {"a": {"x": 1, "l": [1, 2]}, "s/t": {"~": 1}}


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "test", "path": "/a", "value": 2},
        {"op": "remove", "path": "/none"},
        {"op": "add", "path": "/none/x", "value": 1},
        {"op": "add", "path": "/l/7", "value": 1},
        {"op": "jump", "path": "/a"},
        {"op": "add", "path": "a", "value": 1},
        {"path": "/a"},
        {"op": "replace", "path": "", "value": 5},
    ],
)
def test_a_json_patch_that_fails_is_refused_as_a_whole(operation: Json) -> None:
    with pytest.raises(ApiError) as caught:
        json_patch({"a": 1, "l": []}, [operation])
    assert caught.value.code == 422


def test_a_json_patch_must_be_a_list() -> None:
    with pytest.raises(ApiError) as caught:
        json_patch({}, {"op": "add"})
    assert caught.value.code == 400


def ports(*numbers: int) -> Json:
    return {"spec": {"ports": [{"port": n} for n in numbers]}}


@pytest.mark.parametrize(
    ("patch", "numbers"),
    [
        ({"ports": [{"port": 3}]}, [3, 1, 2]),
        ({"ports": [{"port": 2, "$patch": "delete"}]}, [1]),
        ({"ports": [{"$patch": "replace"}, {"port": 9}]}, [9]),
        ({"$setElementOrder/ports": [{"port": 2}, {"port": 1}]}, [2, 1]),
        ({"$setElementOrder/ports": [{"port": 2}, {"port": 3}, {"port": 1}], "ports": [{"port": 3}]}, [2, 3, 1]),
        ({"ports": None}, []),
    ],
)
def test_lists_of_a_service_merge_by_port(patch: Json, numbers: list[int]) -> None:
    out = strategic_patch(ports(1, 2), {"spec": patch}, "Service")
    assert [p["port"] for p in out["spec"].get("ports", [])] == numbers


def test_strategic_directives_on_maps_and_plain_lists() -> None:
    document: Json = {"metadata": {"finalizers": ["a/a", "b/b"]}, "spec": {"selector": {"x": "1"}}}
    patch = {
        "metadata": {"$deleteFromPrimitiveList/finalizers": ["a/a"], "finalizers": ["c/c"]},
        "spec": {"selector": {"$patch": "replace", "y": "2"}, "type": "NodePort"},
    }
    out = strategic_patch(document, patch, "Service")
    assert out == {"metadata": {"finalizers": ["c/c", "b/b"]}, "spec": {"selector": {"y": "2"}, "type": "NodePort"}}


def test_retain_keys_drops_the_others() -> None:
    document = {"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}
    patch = {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}
    assert strategic_patch(document, patch, "Deployment") == {"spec": {"strategy": {"type": "Recreate"}}}


@pytest.mark.parametrize("patch", [{"spec": {"ports": [{"targetPort": 1}]}}, {"spec": {"$patch": "merge"}}])
def test_a_strategic_patch_without_key_or_with_an_unknown_directive_is_refused(patch: Json) -> None:
    with pytest.raises(ApiError):
        strategic_patch(ports(1), patch, "Service")
