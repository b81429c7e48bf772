"""Paths and decoding of resources."""

from typing import NamedTuple

import msgspec
import pytest

from kube.resources import IP_ADDRESS_POOLS, NODES, SERVICES


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (SERVICES.path(), "/api/v1/services"),
        (SERVICES.path(namespace="a"), "/api/v1/namespaces/a/services"),
        (SERVICES.path(namespace="a", name="b", subresource="status"), "/api/v1/namespaces/a/services/b/status"),
        (NODES.path(namespace="ignored", name="n1"), "/api/v1/nodes/n1"),
        (IP_ADDRESS_POOLS.path(namespace="m"), "/apis/metallb.io/v1beta1/namespaces/m/ipaddresspools"),
        (SERVICES.path(namespace="a/../b", name="c?d"), "/api/v1/namespaces/a%2F..%2Fb/services/c%3Fd"),
    ],
)
def test_paths(path: str, expected: str) -> None:
    assert path == expected


def test_api_versions() -> None:
    assert (SERVICES.api_version, IP_ADDRESS_POOLS.api_version) == ("v1", "metallb.io/v1beta1")


def test_a_custom_resource_keeps_its_whole_document() -> None:
    document = b'{"metadata": {"name": "p", "namespace": "m", "generation": 3}, "spec": {"addresses": 7, "odd": null}}'
    pool = IP_ADDRESS_POOLS.decode(document)
    assert (pool.key, pool.metadata.generation) == ("m/p", 3)
    assert pool.document["spec"] == {"addresses": 7, "odd": None}


def test_a_raw_view_of_a_built_in_kind_loses_nothing() -> None:
    document = b'{"metadata": {"name": "a", "namespace": "b", "managedFields": []}, "spec": {"sessionAffinity": "None"}}'
    raw = SERVICES.raw()
    assert raw.path(namespace="b", name="a") == SERVICES.path(namespace="b", name="a")
    assert raw.decode(document).document == msgspec.json.decode(document)


def test_a_mapping_is_decoded_like_a_document() -> None:
    assert SERVICES.from_mapping({"metadata": {"name": "a"}, "spec": {"type": "LoadBalancer"}}).spec.type == "LoadBalancer"
    assert IP_ADDRESS_POOLS.from_mapping({"spec": {}}).document == {"spec": {}}


def test_a_wrong_type_is_named_with_its_path() -> None:
    with pytest.raises(msgspec.ValidationError, match=r"\$\.spec\.type"):
        SERVICES.decode(b'{"spec": {"type": 7}}')


def test_null_means_the_default() -> None:
    """API objects may carry null where a member is unset, whoever wrote them."""
    service = SERVICES.decode(b'{"metadata": {"labels": null}, "spec": {"ports": null, "selector": null}, "status": {}}')
    assert service.spec.ports is None


def test_a_reduced_kind_keeps_only_what_is_made_of_its_objects() -> None:
    class Seen(NamedTuple):
        key: str
        uid: str
        version: str

    reduced = SERVICES.reduced(lambda one: Seen(one.key, one.uid, one.version))
    document = {"metadata": {"name": "web", "namespace": "d", "uid": "u", "resourceVersion": "3"}, "spec": {"type": "x"}}
    expected = Seen("d/web", "u", "3")
    assert reduced.decode(msgspec.json.encode(document)) == reduced.from_mapping(document) == expected
    assert reduced.path(namespace="d", name="web") == SERVICES.path(namespace="d", name="web")
