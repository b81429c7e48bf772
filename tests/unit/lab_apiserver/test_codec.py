from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from lab.apiserver import codec, protobuf, tables, typed
from lab.apiserver.errors import ApiError
from lab.apiserver.resources import BUILTIN, Resource, version_rank

Json = dict[str, Any]
RECORDED = Path(__file__).parents[2] / "recorded" / "apiserver" / "kubectl"


def kind(name: str) -> Resource:
    return next(r for r in BUILTIN if r.kind == name)


def recorded_bodies() -> list[tuple[str, bytes]]:
    """Protobuf bodies that kubectl sent, with the command."""
    return [
        (path.stem, base64.b64decode(request["base64"]))
        for path in sorted(RECORDED.glob("*.json"))
        for request in json.loads(path.read_text())["requests"]
        if "base64" in request
    ]


@pytest.mark.parametrize(("name", "body"), recorded_bodies())
def test_every_protobuf_body_that_kubectl_sent_is_read(name: str, body: bytes) -> None:
    document = protobuf.decode(body)
    assert document is not None, name
    assert document["kind"]
    assert document["apiVersion"]


def test_a_service_that_kubectl_created_reads_as_it_was_asked_for() -> None:
    bodies = dict(recorded_bodies())
    document = protobuf.decode(bodies["75-create-service-loadbalancer"])
    assert document is not None
    unknown: list[str] = []
    service = typed.decode(document, "Service", unknown)
    assert unknown == []
    assert service["spec"]["type"] == "LoadBalancer"
    assert service["spec"]["ports"][0]["port"] > 0


@pytest.mark.parametrize("body", [b"", b"k8s\x00", b"k8s\x00\x0a\xff", b"{}", b"k8s\x00\x0a\x06\x0a\x01a\x12\x01b"])
def test_bytes_that_are_no_known_protobuf_are_not_read(body: bytes) -> None:
    assert protobuf.decode(body) is None


def test_yaml_is_read_as_the_server_reads_it() -> None:
    value = codec.parse_yaml(b"a: yes\nb: 2026-01-01\n1: x\nc: 'no'\n")
    assert value == {"a": True, "b": "2026-01-01", "1": "x", "c": "no"}


@pytest.mark.parametrize(
    ("media", "data", "code"),
    [("text/plain", b"{}", 415), ("application/json", b"{", 400), ("application/json", b"[]", 400), ("application/yaml", b"a: [", 400)],
)  # fmt: skip
def test_a_body_that_cannot_be_read_is_refused(media: str, data: bytes, code: int) -> None:
    with pytest.raises(ApiError) as caught:
        codec.read_object(kind("ConfigMap"), data, media)
    assert caught.value.code == code


def test_normal_form_leaves_out_what_is_empty_and_writes_what_is_always_there() -> None:
    unknown: list[str] = []
    service = typed.decode(
        {"spec": {"clusterIP": "", "ports": [{"port": 80, "nodePort": 0, "odd": 1}], "selector": {}}}, "Service", unknown
    )
    assert service["spec"] == {"ports": [{"port": 80}]}
    assert service["status"] == {"loadBalancer": {}}
    assert unknown == ["spec.ports[0].odd"]
    lease = typed.decode({"spec": {"holderIdentity": "", "leaseTransitions": 0}}, "Lease", [])
    assert lease["spec"] == {"holderIdentity": "", "leaseTransitions": 0}
    assert typed.decode({"endpoints": [], "ports": None}, "EndpointSlice", [])["endpoints"] is None


@pytest.mark.parametrize(
    ("type_name", "document", "text"),
    [
        ("Service", {"spec": {"ports": [{"port": 1 << 40}]}}, "cannot unmarshal number 1099511627776 into Go struct field"),
        ("Service", {"spec": {"publishNotReadyAddresses": "no"}}, "of type bool"),
        ("Secret", {"data": {"a": "***"}}, "illegal base64 data at input byte 0"),
        ("Lease", {"spec": {"renewTime": "soon"}}, "parsing time"),
        ("ConfigMap", {"data": []}, "of type map[string]string"),
        ("ConfigMap", {"metadata": "x"}, "of type v1.ObjectMeta"),
    ],
)
def test_values_of_the_wrong_type_are_said_as_the_decoder_says_them(type_name: str, document: Json, text: str) -> None:
    with pytest.raises(typed.MismatchError) as caught:
        typed.decode(document, type_name, [])
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(5, "5s"), (119, "119s"), (120, "2m"), (185, "3m5s"), (1200, "20m"), (3 * 3600, "3h"), (3 * 3600 + 300, "3h5m"), (30 * 3600, "30h"), (49 * 3600, "2d1h"), (10 * 86400, "10d"), (800 * 86400, "2y70d")],
)  # fmt: skip
def test_ages_are_printed_as_kubectl_prints_them(seconds: int, text: str) -> None:
    assert tables.duration(seconds) == text


def test_ages_of_nothing_and_of_the_future() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert tables.age(None, now) == "<unknown>"
    assert tables.age("2026-01-01T01:00:00Z", now) == "<invalid>"


def test_versions_sort_as_kubernetes_sorts_them() -> None:
    versions = ["v1alpha1", "other", "v1beta1", "v2", "v1", "v1beta2"]
    assert sorted(versions, key=version_rank) == ["v2", "v1", "v1beta2", "v1beta1", "v1alpha1", "other"]
