from __future__ import annotations

from typing import Any

import msgspec
import pytest

from controller import observe
from controller.ipam.sharing import Use
from controller.world import FamilyPolicy, Recorded
from kube import objects
from tests.builders import a_use, addresses


def a_document(
    annotations: dict[str, str] | None = None,
    status: list[dict[str, str]] | None = None,
    metadata: dict[str, Any] | None = None,
    **spec: Any,
) -> objects.Service:
    document = {
        "metadata": {
            "name": "web",
            "namespace": "ns",
            "uid": "u",
            "resourceVersion": "7",
            "annotations": annotations,
            **(metadata or {}),
        },
        "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.1", **spec},
        "status": {"loadBalancer": {"ingress": status}},
    }
    return msgspec.convert(document, objects.Service)


def test_the_members_of_a_service_reach_the_decision() -> None:
    service = observe.service(
        a_document(
            {"metallb.io/allow-shared-ip": "key", "metallb.universe.tf/address-pool": "p"},
            metadata={"labels": {"a": "b"}, "creationTimestamp": "2026-01-01T00:00:00Z"},
            loadBalancerClass="x",
            clusterIPs=["fd00::1", "10.96.0.1"],
            ipFamilies=["IPv6", "IPv4"],
            ipFamilyPolicy="PreferDualStack",
        )
    )
    assert (service.key, service.uid, service.version, service.created) == ("ns/web", "u", "7", "2026-01-01T00:00:00Z")
    assert (service.load_balancer, service.load_balancer_class, dict(service.labels)) == (True, "x", {"a": "b"})
    assert (service.cluster_ips, service.primary, service.policy) == (
        addresses("fd00::1 10.96.0.1"),
        6,
        FamilyPolicy.PREFER_DUAL,
    )
    assert (service.wanted_pool, service.use.key) == ("p", "key")
    assert service.deprecated_annotations == ("metallb.universe.tf/address-pool",)
    assert service.namespace == "ns"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, "10.96.0.1"),
        ({"clusterIPs": ["fd00::1"]}, "fd00::1"),
        ({"clusterIP": "None"}, ""),
        ({"clusterIP": ""}, ""),
        ({"clusterIPs": ["::ffff:10.96.0.9"]}, "10.96.0.9"),
    ],
)
def test_cluster_ips_are_addresses_or_nothing(spec: dict[str, Any], expected: str) -> None:
    assert observe.service(a_document(**spec)).cluster_ips == addresses(expected)


@pytest.mark.parametrize("policy", ["", "Something", "SingleStack"])
def test_an_absent_or_unknown_family_policy_is_single_stack(policy: str) -> None:
    assert observe.service(a_document(ipFamilyPolicy=policy)).policy is FamilyPolicy.SINGLE


@pytest.mark.parametrize(
    ("annotation", "spec", "wanted"),
    [
        ("", "", ""),
        ("192.0.2.1", "", "192.0.2.1"),
        (" 192.0.2.1 , fc00::1 ", "", "192.0.2.1 fc00::1"),
        ("fc00::1,10.0.0.1", "", "10.0.0.1 fc00::1"),
        ("203.0.113.9,2001:db8::209", "", "2001:db8::209 203.0.113.9"),
        ("", "192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "", "192.0.2.1"),
    ],
)
def test_requested_addresses_are_read_from_annotation_or_spec(annotation: str, spec: str, wanted: str) -> None:
    service = observe.service(a_document({"metallb.io/loadBalancerIPs": annotation}, loadBalancerIP=spec))
    assert (service.wanted_addresses, service.request_problem) == (addresses(wanted), "")


@pytest.mark.parametrize(
    ("annotation", "spec", "said"),
    [
        ("192.0.2.1", "192.0.2.1", "are both set"),
        ("nonsense", "", "annotation metallb.io/loadBalancerIPs: invalid IP 'nonsense'"),
        ("192.0.2.01", "", "without leading zeros"),
        ("192.0.2.1,192.0.2.2", "", "one of each IP family"),
        ("192.0.2.1,", "", "invalid IP ''"),
        ("192.0.2.1,fc00::1,fc00::2", "", "one of each IP family"),
        ("", "nonsense", "spec.loadBalancerIP: invalid IP 'nonsense'"),
        ("", "192.0.2.1,fc00::1", "spec.loadBalancerIP: invalid IP"),
    ],
)
def test_a_request_that_cannot_be_read_says_why(annotation: str, spec: str, said: str) -> None:
    service = observe.service(a_document({"metallb.io/loadBalancerIPs": annotation}, loadBalancerIP=spec))
    assert service.wanted_addresses == ()
    assert said in service.request_problem


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        (None, Recorded()),
        ([{"ip": "192.0.2.1"}], Recorded(addresses("192.0.2.1"))),
        ([{"ip": "192.0.2.1", "ipMode": "VIP"}], Recorded(addresses("192.0.2.1"))),
        ([{"ip": "192.0.2.1", "ipMode": "Proxy"}], Recorded(addresses("192.0.2.1"), plain=False)),
        ([{"hostname": "a.example.com"}], Recorded(plain=False)),
        ([{"ip": "192.0.2.1"}, {"hostname": "a"}], Recorded(addresses("192.0.2.1"), plain=False)),
        ([{"ip": "192.0.2.1", "hostname": "a"}], Recorded(addresses("192.0.2.1"), plain=False)),
        ([{"ip": "not an address"}], Recorded(plain=False)),
        ([{"ip": "fc00:0::1"}, {"ip": "192.0.2.1"}], Recorded(addresses("fc00::1 192.0.2.1"))),
    ],
)
def test_a_status_is_compared_in_normal_form(entries: list[dict[str, str]] | None, expected: Recorded) -> None:
    assert observe.service(a_document(status=entries)).recorded == expected


def test_the_output_annotation_is_part_of_what_is_recorded() -> None:
    assert observe.service(a_document({"metallb.io/ip-allocated-from-pool": ""})).recorded == Recorded((), "")  # type: ignore[arg-type]  # a pool's name
    assert observe.service(a_document({"metallb.universe.tf/ip-allocated-from-pool": "p"})).recorded == Recorded()


def fingerprint(document: objects.Service) -> object:
    return observe.service_fingerprint(observe.service(document))


def test_only_what_decisions_read_changes_the_fingerprint() -> None:
    before = fingerprint(a_document())
    same = [
        a_document({"example.com/a": "b"}),
        a_document(metadata={"resourceVersion": "9"}),
        a_document(externalTrafficPolicy="Local"),
    ]
    assert all(fingerprint(one) == before for one in same)
    others = [
        a_document({"metallb.io/address-pool": "p"}),
        a_document({"metallb.io/ip-allocated-from-pool": "p"}),
        a_document(metadata={"labels": {"a": "b"}}),
        a_document(metadata={"uid": "other"}),
        a_document(type="ClusterIP"),
        a_document(loadBalancerIP="192.0.2.1"),
        a_document(status=[{"ip": "192.0.2.1"}]),
    ]
    assert all(fingerprint(one) != before for one in others)


def test_a_configuration_document_gets_the_kind_that_a_list_left_out() -> None:
    raw = objects.RawObject(document={"metadata": {"name": "p"}})
    assert observe.configuration_document("IPAddressPool", raw) == {"kind": "IPAddressPool", "metadata": {"name": "p"}}


@pytest.mark.parametrize(
    ("annotations", "spec", "use"),
    [
        ({}, {"externalTrafficPolicy": "Local", "selector": {"a": "b"}}, a_use("")),
        ({"metallb.io/allow-shared-ip": ""}, {}, a_use("")),
        ({"metallb.universe.tf/allow-shared-ip": "k"}, {}, a_use("k", ports="TCP/80 UDP/80")),
        (
            {"metallb.io/allow-shared-ip": "k"},
            {"externalTrafficPolicy": "Cluster", "selector": {"a": "b"}},
            a_use("k", ports="TCP/80 UDP/80"),
        ),
        (
            {"metallb.io/allow-shared-ip": "k"},
            {"externalTrafficPolicy": "Local", "selector": {"b": "2", "a": "1"}},
            a_use("k", "a=1,b=2", "TCP/80 UDP/80"),
        ),
        ({"metallb.io/allow-shared-ip": "k"}, {"externalTrafficPolicy": "Local"}, a_use("k", ports="TCP/80 UDP/80")),
    ],
)
def test_how_a_service_shares_its_address(annotations: dict[str, str], spec: dict[str, Any], use: Use) -> None:
    document = a_document(annotations=annotations, ports=[{"port": 80}, {"port": 80, "protocol": "UDP"}], **spec)
    assert observe.service(document).use == use


def test_ports_and_selectors_matter_only_to_services_that_share() -> None:
    alone = [a_document(ports=[{"port": port}], selector={"a": str(port)}) for port in (80, 81)]
    assert fingerprint(alone[0]) == fingerprint(alone[1])
    shared = [a_document(annotations={"metallb.io/allow-shared-ip": "k"}, ports=[{"port": port}]) for port in (80, 81)]
    assert fingerprint(shared[0]) != fingerprint(shared[1])


@pytest.mark.parametrize(
    ("text", "seconds", "said"),
    [
        (None, None, ""),
        ("24h", 86400.0, ""),
        (" 1h30m ", 5400.0, ""),
        ("8784h", 31622400.0, ""),
        (
            "8785h",
            None,
            "annotation lb.metallb-py.io/keep-address-for: '8785h' is out of range; write more than 0s and at most",
        ),
        ("0", None, "is out of range"),
        ("-1h", None, "is out of range"),
        ("a day", None, "annotation lb.metallb-py.io/keep-address-for: invalid duration 'a day'; write a number with a unit"),
        ("24", None, "invalid duration '24'"),
        ("", None, "invalid duration ''"),
    ],
)
def test_how_long_an_address_is_kept_is_read_or_the_problem_is_named(
    text: str | None, seconds: float | None, said: str
) -> None:
    document = a_document(annotations={} if text is None else {observe.KEEP_ADDRESS_FOR: text})
    read = observe.service(document)
    assert read.keep_for_s == seconds
    assert said in read.keep_problem
    assert bool(said) == bool(read.keep_problem)
    assert (fingerprint(document) == fingerprint(a_document())) == (text is None)
