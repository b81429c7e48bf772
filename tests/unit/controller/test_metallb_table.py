"""The table of MetalLB's controller: a Service as Kubernetes has it, the configuration, and what must become of the Service."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import pytest

from config.compile import compile_config
from config.model import Config, ServiceKey
from controller import observe
from controller.plan import Change, Decision, Outcome, Planner
from controller.world import Service
from kube import objects
from tests.builders import a_pool_document

PINNED = {"namespaces": ["team"]}
WEB = {"serviceSelectors": [{"matchLabels": {"app": "web"}}]}
POOLS = [
    a_pool_document("a", ["198.51.100.0/24"]),
    a_pool_document("b", ["203.0.113.0/24"]),
    a_pool_document("dual", ["192.0.2.0/24", "2001:db8:d::/64"]),
    a_pool_document("six", ["2001:db8:6::/64"]),
    *(
        a_pool_document(f"p{priority}", [f"10.{priority}.0.0/24"], serviceAllocation={**PINNED, "priority": priority})
        for priority in (8, 5, 11, 9, 10)
    ),
    a_pool_document("quiet", ["10.20.0.0/24"], serviceAllocation={"namespaces": ["quiet"]}),
    a_pool_document("labels", ["10.30.0.0/24"], serviceAllocation={**WEB, "priority": 7}),
    a_pool_document("both", ["10.40.0.0/24"], serviceAllocation={**WEB, **PINNED, "priority": 3}),
]
V4, V6, BOTH = ["10.96.0.1"], ["fd00:10:96::1"], ["10.96.0.1", "fd00:10:96::1"]
IPS, POOL = "metallb.io/loadBalancerIPs", "metallb.io/address-pool"


def compiled(*documents: Any) -> Config:
    result = compile_config(documents, {"team": {}, "quiet": {}, "default": {}}, {})
    assert not result.problems
    return result.config


CONFIG = compiled(*POOLS)


@dataclass(frozen=True)
class Row:
    """A Service, the addresses it must have afterwards, and the reasons of Events it must be told."""

    title: str
    spec: dict[str, Any] = field(default_factory=dict)
    expected: str = ""
    told: Sequence[str] = ()
    annotations: dict[str, str] = field(default_factory=dict)
    ingress: Sequence[dict[str, str]] = ()
    namespace: str = "default"
    labels: dict[str, str] = field(default_factory=dict)

    def service(self) -> Service:
        document = {
            "metadata": {
                "name": "web", "namespace": self.namespace, "uid": "u", "resourceVersion": "1",
                "annotations": self.annotations, "labels": self.labels,
            },
            "spec": {"type": "LoadBalancer", "clusterIPs": V4, "ports": [{"port": 80}], **self.spec},
            "status": {"loadBalancer": {"ingress": list(self.ingress)}},
        }  # fmt: skip
        return observe.service(msgspec.convert(document, objects.Service))


def ip(*addresses: str) -> list[dict[str, str]]:
    return [{"ip": address} for address in addresses]


def dual(policy: str = "RequireDualStack", ips: Sequence[str] = BOTH) -> dict[str, Any]:
    return {"clusterIPs": list(ips), "ipFamilyPolicy": policy}


FAILED, BAD, NOT_ENOUGH = ["AllocationFailed"], ["LoadBalancerFailed"], ["not enough clusterips"]
FIRST, FIRST_OF_B, PAIR = "198.51.100.0", "203.0.113.0", "192.0.2.0 2001:db8:d::"
ROWS = [
    Row("a NodePort service", {"type": "NodePort"}),
    Row("a plain LoadBalancer gets the first address", {}, FIRST),
    Row("a requested address > spec.loadBalancerIP", {"loadBalancerIP": "198.51.100.9"}, "198.51.100.9"),
    Row("a requested address > annotation", {}, "198.51.100.9", annotations={IPS: "198.51.100.9"}),
    Row("both spec.loadBalancerIP and the annotation", {"loadBalancerIP": "198.51.100.9"}, "", FAILED, {IPS: "198.51.100.9"}),
    Row("an address that cannot be parsed", {"loadBalancerIP": "please"}, "", FAILED),
    Row("an annotation with two addresses of one family", {}, "", FAILED, {IPS: "198.51.100.1,198.51.100.2"}),
    Row("an address outside the pools", {"loadBalancerIP": "100.64.0.1"}, "", FAILED),
    Row("an address and a pool that do not fit", {"loadBalancerIP": "198.51.100.1"}, "", FAILED, {POOL: "b"}),
    Row("a holder that asks for what cannot be is cleared and warned", {"loadBalancerIP": "100.64.0.1"}, "", FAILED, ingress=ip(FIRST)),
    Row("a requested pool, and another one later", {}, FIRST_OF_B, annotations={POOL: "b"}, ingress=ip(FIRST)),
    Row("a requested pool, and another one later", {}, FIRST_OF_B, annotations={POOL: "b"}),
    Row("an unknown pool", {}, "", FAILED, {POOL: "none"}),
    Row("a status with an address in no pool", {}, FIRST, ["ClearAssignment"], ingress=ip("100.64.0.1")),
    Row("a status with only a host name", {}, FIRST, ingress=[{"hostname": "a.example.com"}]),
    Row("was LoadBalancer, is NodePort", {"type": "NodePort"}, ingress=ip(FIRST), annotations={"metallb.io/ip-allocated-from-pool": "a"}),
    Row("traffic policy Local", {"externalTrafficPolicy": "Local"}, FIRST),
    Row("no clusterIP and no event", {"clusterIPs": [], "clusterIP": ""}),
    Row("a requested family that is not the clusterIP's > IPv6 by spec", {"loadBalancerIP": "2001:db8:6::1"}, "", FAILED),
    Row("a requested family that is not the clusterIP's > IPv6 by annotation", {}, "", FAILED, {IPS: "2001:db8:6::1"}),
    Row("a requested family that is not the clusterIP's > IPv4 by spec", {"clusterIPs": V6, "loadBalancerIP": FIRST}, "", FAILED),
    Row("a requested family that is not the clusterIP's > IPv4 by annotation", {"clusterIPs": V6}, "", FAILED, {IPS: FIRST}),
    Row("a recorded address of the wrong family", {}, FIRST, ingress=ip("2001:db8:6::1")),
    Row("a recorded address of the wrong family", {"clusterIPs": V6}, "2001:db8:d::", ingress=ip(FIRST)),
    Row("RequireDualStack with both clusterIPs", dual(), PAIR),
    Row("PreferDualStack > both clusterIPs", dual("PreferDualStack"), PAIR),
    Row("PreferDualStack > a named pool of one family", dual("PreferDualStack"), "2001:db8:6::", annotations={POOL: "six"}),
    Row("PreferDualStack > one clusterIP and a pool of both families", dual("PreferDualStack", V4), "192.0.2.0", annotations={POOL: "dual"}),
    Row("RequireDualStack with one clusterIP", dual(ips=V4), "", NOT_ENOUGH),
    Row("both clusterIPs and one requested address > spec", {**dual(), "loadBalancerIP": "192.0.2.7"}, "", FAILED),
    Row("both clusterIPs and one requested address > annotation", dual(), "", FAILED, {IPS: "192.0.2.7"}),
    Row("an annotation with a pair, in the order of the texts", dual(), "192.0.2.7 2001:db8:d::7", annotations={IPS: "2001:db8:d::7,192.0.2.7"}),
    Row("an annotation with a pair, in the order of the texts", dual(), "192.0.2.7 2001:db8:d::7", annotations={IPS: "192.0.2.7,2001:db8:d::7"}),
    Row("a dual service whose status has a host name and one address", dual(), PAIR, ingress=[{"hostname": "a.example.com"}, {"ip": "192.0.2.3"}]),
    Row("an annotation with a pair on a single-stack service", {}, "", FAILED, {IPS: "192.0.2.7,2001:db8:d::7"}),
    Row("pools pinned to a namespace, by priority", {}, "10.5.0.0", namespace="team"),
    Row("a namespace whose pool has no priority", {}, "10.20.0.0", namespace="quiet"),
    Row("a pool pinned to labels", {}, "10.30.0.0", labels={"app": "web"}),
    Row("a pool pinned to namespace and labels", {}, "10.40.0.0", namespace="team", labels={"app": "web"}),
    Row("three recorded addresses of one family", {}, FIRST, ["nolbIPsIPFamily"], ingress=ip(FIRST, "198.51.100.1", "198.51.100.2")),
]  # fmt: skip
MARKED = [pytest.param(row, marks=pytest.mark.parity(f"Controller > {row.title}"), id=row.title) for row in ROWS]


def outcome(decision: Decision) -> tuple[str, list[str]]:
    told = [notice.reason for notice in decision.happened]
    told += [decision.complaint.reason] if decision.complaint else []
    return " ".join(map(str, decision.recorded.addresses)), told


def decide(planner: Planner, service: Service) -> Decision:
    planner.handle(Change(services={service.key: service}))
    planner.check_invariants()
    return planner.decisions[service.key]


@pytest.mark.parametrize("row", MARKED)
def test_what_becomes_of_a_service(row: Row) -> None:
    planner = Planner()
    planner.handle(Change(config=CONFIG))
    assert outcome(decide(planner, row.service())) == (row.expected, list(row.told))


def test_no_outcome_depends_on_what_the_service_was_before() -> None:
    planner = Planner()
    planner.handle(Change(config=CONFIG))
    chance, version = random.Random(7), 1  # noqa: S311 - the same order every time
    for _ in range(100):
        for row in chance.sample(ROWS, len(ROWS)):
            version += 1
            service = replace(row.service(), version=str(version))
            assert outcome(decide(planner, service)) == (row.expected, list(row.told)), row.title
            while write := planner.pending(service.key):
                version += 1
                planner.sent(write)
                planner.written(write, str(version))


PLAIN = Row("", {}).service()


def another(name: str, created: int = 1) -> Service:
    return replace(PLAIN, key=ServiceKey(f"default/{name}"), uid=name, created=f"2026-01-01T00:00:0{created}Z")


def started(config: Config, *services: Service) -> Planner:
    planner = Planner()
    planner.handle(Change(services={one.key: one for one in services}, config=config))
    return planner


@pytest.mark.parity("Controller > a deleted service")
def test_nothing_becomes_of_a_service_that_is_gone() -> None:
    planner = started(CONFIG)
    assert planner.handle(Change(services={PLAIN.key: None})) == []


@pytest.mark.parity("Controller > before any configuration nothing is written")
def test_before_any_configuration_nothing_is_decided_or_written() -> None:
    planner = Planner()
    assert planner.handle(Change(services={PLAIN.key: PLAIN})) == []
    assert planner.pending(PLAIN.key) is None


@pytest.mark.parity("Controller > an empty set of pools is accepted")
def test_no_pools_are_a_configuration() -> None:
    decision = started(compiled(), PLAIN).decisions[PLAIN.key]
    assert (decision.outcome, outcome(decision)) == (Outcome.REFUSED, ("", []))


@pytest.mark.parity("Controller > a pool removed under a service > none left")
def test_a_service_whose_last_pool_goes_is_cleared() -> None:
    planner = started(compiled(POOLS[0]), replace(PLAIN, recorded=started(CONFIG, PLAIN).decisions[PLAIN.key].recorded))
    planner.handle(Change(config=compiled()))
    assert outcome(planner.decisions[PLAIN.key]) == ("", [])
    assert planner.pending(PLAIN.key) is not None


@pytest.mark.parity("Controller > a pool removed under a service > another there")
def test_a_service_whose_pool_goes_moves_to_another() -> None:
    planner = started(compiled(*POOLS[:2]), PLAIN)
    planner.handle(Change(config=compiled(POOLS[1])))
    assert outcome(planner.decisions[PLAIN.key])[0] == FIRST_OF_B


@pytest.mark.parity("Controller > a second pool moves nobody")
def test_a_pool_that_comes_first_by_name_moves_nobody() -> None:
    planner = started(compiled(POOLS[1]), PLAIN)
    planner.handle(Change(config=compiled(*POOLS[:2])))
    assert outcome(planner.decisions[PLAIN.key]) == (FIRST_OF_B, [])


@pytest.mark.parity(
    "Controller > a pool of one address > the second service is warned, not written, and served when the first is deleted"
)
def test_a_pool_of_one_address_serves_one_after_the_other() -> None:
    first, second = another("first"), another("second", 2)
    planner = started(compiled(a_pool_document("one", ["192.0.2.1-192.0.2.1"])), first, second)
    assert outcome(planner.decisions[second.key]) == ("", FAILED)
    planner.handle(Change(services={first.key: None}))
    assert outcome(planner.decisions[second.key])[0] == "192.0.2.1"
