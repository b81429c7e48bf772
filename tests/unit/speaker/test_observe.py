"""From Kubernetes objects to the World, and what is said to have changed."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import msgspec
import pytest

from config.model import EXCLUDE_LABEL, NodeName, PoolName, ServiceKey
from kube import objects
from kube.objects import ObjectKey, View
from kube.resources import IP_ADDRESS_POOLS, L2_ADVERTISEMENTS
from kube.store import Store
from speaker import observe
from speaker.agenda import Changes
from speaker.layer2 import interfaces
from speaker.observe import Observer, Stores, node_of, other_speakers, service_of
from speaker.world import Node, TrafficPolicy
from tests.builders_speaker import a_link, nodes

WEB = ServiceKey("default/web")


def view(kind: type[Any], **document: Any) -> Any:
    return msgspec.convert(document, kind)


def service(name: str = "web", *ips: str, **changes: Any) -> objects.Service:
    spec = {"type": "LoadBalancer"} | changes.pop("spec", {})
    status = {"loadBalancer": {"ingress": [{"ip": ip} for ip in ips]}}
    meta = {"name": name, "namespace": "default"} | changes.pop("metadata", {})
    made: objects.Service = view(objects.Service, metadata=meta, spec=spec, status=changes.pop("status", status))
    return made


def endpoints(
    *nodes_: str | None, name: str = "web-1", of: str | None = "web", conditions: dict[str, bool] | None = None
) -> objects.EndpointSlice:
    labels = {observe.SERVICE_NAME_LABEL: of} if of else {}
    made: objects.EndpointSlice = view(
        objects.EndpointSlice,
        metadata={"name": name, "namespace": "default", "labels": labels},
        endpoints=[{"addresses": ["10.0.0.1"], "nodeName": node, "conditions": conditions or {}} for node in nodes_],
    )
    return made


def node(name: str, labels: dict[str, str] | None = None, **conditions: str) -> objects.Node:
    made: objects.Node = view(
        objects.Node,
        metadata={"name": name, "labels": labels or {}},
        status={"conditions": [{"type": key, "status": value} for key, value in conditions.items()]},
    )
    return made


def pool(name: str, addresses: str, generation: int = 1) -> objects.RawObject:
    return IP_ADDRESS_POOLS.from_mapping(
        {
            "apiVersion": "metallb.io/v1beta1",
            "kind": "IPAddressPool",
            "metadata": {"name": name, "namespace": "metallb-system", "generation": generation},
            "spec": {"addresses": [addresses]},
        }
    )


def advertisement(name: str, *pools: str) -> objects.RawObject:
    return L2_ADVERTISEMENTS.from_mapping(
        {
            "apiVersion": "metallb.io/v1beta1",
            "kind": "L2Advertisement",
            "metadata": {"name": name, "namespace": "metallb-system", "generation": 1},
            "spec": {"ipAddressPools": list(pools)},
        }
    )


class Scene:
    """Stores and an observer of node a."""

    def __init__(self, **settings: Any) -> None:
        self.stores = Stores()
        self.members: frozenset[NodeName] | None = nodes("a b")
        self.hold = ""
        self.links: tuple[Any, ...] = (a_link(),)
        wanted: dict[str, Any] = {"lb_class": "", "honour_exclude_label": True, "excluded": None}
        self.observer = Observer(self.stores, NodeName("a"), **(wanted | settings))
        slots = (getattr(self.stores, name) for name in self.stores.__slots__ if name != "bgp")
        for store in (*slots, *self.stores.bgp.values()):
            store.replace([], lambda one: one)
        self.put(self.stores.nodes, node("a"), node("b"), by=observe.node_fingerprint)

    @staticmethod
    def put(store: Store[Any], *views: View, by: Callable[[Any], object]) -> None:
        for one in views:
            store.put(one, by)

    def services(self, *views: objects.Service) -> None:
        self.put(self.stores.services, *views, by=observe.service_fingerprint)

    def slices(self, *views: objects.EndpointSlice) -> None:
        self.put(self.stores.slices, *views, by=observe.slice_fingerprint)

    def look(self) -> Changes:
        return self.observer.look(members=self.members, hold=self.hold, links=self.links)


def test_the_kinds_that_are_not_listed_yet_are_named() -> None:
    stores = Stores()
    assert stores.waiting_for() == ("services", "slices", "nodes", "namespaces", "pools", "advertisements")
    stores.nodes.replace([], lambda one: one)
    assert "nodes" not in stores.waiting_for()


def test_nothing_new_changes_nothing() -> None:
    scene = Scene()
    assert scene.look()
    before = scene.observer.world
    assert not scene.look()
    assert scene.observer.world is before


def test_a_service_with_endpoints_is_seen_whole() -> None:
    scene = Scene()
    scene.services(
        service(
            "web",
            "192.0.2.10",
            "2001:db8::1",
            metadata={
                "labels": {"tier": "front"},
                "annotations": {"metallb.io/allow-shared-ip": "", "metallb.universe.tf/ip-allocated-from-pool": "gold"},
            },
            spec={"externalTrafficPolicy": "Local"},
        )
    )
    scene.slices(endpoints("b", None))
    scene.look()
    seen = scene.observer.world.services[WEB]
    assert seen.addresses == (ip_address("192.0.2.10"), ip_address("2001:db8::1"))
    assert (seen.policy, seen.labels, seen.may_share) == (TrafficPolicy.LOCAL, {"tier": "front"}, True)
    assert (seen.ready, seen.ready_nodes, seen.allocated_from) == (True, nodes("b"), PoolName("gold"))
    assert scene.observer.world.sharers == {ip_address("192.0.2.10"): (WEB,)}


@pytest.mark.parametrize(
    ("conditions", "usable"),
    [
        ({}, True),
        ({"ready": True}, True),
        ({"ready": True, "serving": False}, True),
        ({"ready": False}, False),
        ({"ready": False, "serving": False}, False),
        ({"ready": False, "serving": True, "terminating": True}, True),
    ],
)
def test_an_endpoint_is_usable_if_it_is_ready_or_serves(conditions: dict[str, bool], *, usable: bool) -> None:
    seen = service_of(service(), [endpoints("b", conditions=conditions)], "")
    assert seen is not None
    assert seen.ready is usable


def test_a_node_whose_usable_endpoints_all_terminate_is_ending() -> None:
    going = {"ready": False, "serving": True, "terminating": True}
    seen = service_of(service(), [endpoints("b", conditions=going)], "")
    assert seen is not None
    assert (seen.ready_nodes, seen.ending_nodes) == (nodes("b"), nodes("b"))
    parts = [endpoints("b", conditions=going), endpoints("b", "c", conditions={"ready": True}, name="second")]
    seen = service_of(service(), parts, "")
    assert seen is not None
    assert (seen.ready_nodes, seen.ending_nodes) == (nodes("b c"), nodes(""))


@pytest.mark.parametrize(
    ("kind", "own_class", "flag", "served"),
    [
        ("LoadBalancer", "", "", True),
        ("LoadBalancer", "x", "", False),
        ("LoadBalancer", "", "x", False),
        ("LoadBalancer", "x", "x", True),
        ("LoadBalancer", "y", "x", False),
        ("ClusterIP", "", "", False),
    ],
)
def test_only_services_of_our_class_are_served(kind: str, own_class: str, flag: str, *, served: bool) -> None:
    seen = service_of(service(spec={"type": kind, "loadBalancerClass": own_class}), [], flag)
    assert (seen is not None) is served


def test_a_status_that_is_no_address_is_kept_as_text() -> None:
    for ingress, text in (
        ([{"hostname": "example.org"}], "example.org"),
        ([{"ip": "192.0.2.300"}], "192.0.2.300"),
        ([{}], "an empty entry"),
    ):
        seen = service_of(service(status={"loadBalancer": {"ingress": ingress}}), [], "")
        assert seen is not None
        assert (seen.addresses, seen.unreadable) == ((), text)


def test_a_mapped_address_is_the_ipv4_address() -> None:
    seen = service_of(service("web", "::ffff:192.0.2.1"), [], "")
    assert seen is not None
    assert seen.addresses == (ip_address("192.0.2.1"),)


def test_endpoints_decide_for_their_service_only_when_they_change() -> None:
    scene = Scene()
    scene.services(service("web", "192.0.2.10"), service("dns", "192.0.2.11"))
    scene.look()
    scene.slices(endpoints("b"), endpoints("b", name="stray", of=None))
    assert scene.look() == Changes(frozenset({WEB}))
    scene.slices(endpoints("b", None))
    assert not scene.look(), "another endpoint without a node changes nothing for the decision"
    scene.stores.slices.delete(ObjectKey("default/web-1"))
    assert scene.look() == Changes(frozenset({WEB}))
    assert not scene.observer.world.services[WEB].ready


def test_a_slice_that_moves_to_another_service_concerns_both() -> None:
    scene = Scene()
    scene.services(service("web", "192.0.2.10"), service("dns", "192.0.2.11"))
    scene.slices(endpoints("b"))
    scene.look()
    scene.slices(endpoints("b", of="dns"))
    assert scene.look().services == {WEB, "default/dns"}
    scene.slices(endpoints("b", of=None))
    assert scene.look().services == {"default/dns"}


def test_a_service_concerns_those_that_share_its_address() -> None:
    scene = Scene()
    scene.services(service("web", "192.0.2.10"), service("dns", "192.0.2.10"))
    scene.look()
    assert scene.observer.world.sharers[ip_address("192.0.2.10")] == ("default/dns", WEB)
    scene.services(service("dns", "192.0.2.11"))
    assert scene.look().services == {WEB, "default/dns"}
    scene.stores.services.delete(ObjectKey("default/web"))
    assert scene.look().services == {WEB}
    assert scene.observer.world.sharers == {ip_address("192.0.2.11"): ("default/dns",)}
    assert WEB not in scene.observer.world.services


def test_a_lost_member_is_named_and_nothing_else() -> None:
    scene = Scene()
    scene.look()
    scene.members = nodes("a")
    assert scene.look() == Changes(lost=nodes("b"))


def test_a_lost_node_is_named_too() -> None:
    scene = Scene()
    scene.look()
    scene.stores.nodes.delete(ObjectKey("b"))
    assert scene.look() == Changes(lost=nodes("b"))


def test_a_new_member_and_a_new_label_concern_everybody() -> None:
    scene = Scene()
    scene.members = nodes("a")
    scene.look()
    scene.members = nodes("a b")
    assert scene.look() == Changes(everybody=True)
    scene.put(scene.stores.nodes, node("b", {"rack": "1"}), by=observe.node_fingerprint)
    assert scene.look() == Changes(everybody=True)


def test_where_addresses_are_balanced_a_new_service_concerns_everybody() -> None:
    scene = Scene()
    made = advertisement("even", "gold")
    metadata = made.document["metadata"] | {"annotations": {"lb.metallb-py.io/election": "balanced"}}
    even = L2_ADVERTISEMENTS.from_mapping({**made.document, "metadata": metadata})
    scene.put(scene.stores.advertisements, made, by=observe.advertisement_fingerprint)
    scene.look()
    scene.services(service("web", "192.0.2.10"))
    assert not scene.look().everybody
    scene.put(scene.stores.advertisements, even, by=observe.advertisement_fingerprint)
    assert scene.look().everybody
    scene.services(service("dns", "192.0.2.11"))
    assert scene.look().everybody


def test_with_gossip_disabled_members_are_not_known() -> None:
    scene = Scene()
    scene.members = None
    scene.look()
    assert scene.observer.world.cluster.members is None
    assert not scene.look()


def test_heartbeats_of_a_node_do_not_count() -> None:
    scene = Scene()
    scene.look()
    scene.put(scene.stores.nodes, node("b", Ready="False"), by=observe.node_fingerprint)
    assert not scene.look()


def test_node_conditions_and_labels_are_understood() -> None:
    assert node_of(node("b", {EXCLUDE_LABEL: ""})) == Node(NodeName("b"), {EXCLUDE_LABEL: ""}, excluded=True)
    assert node_of(node("b", NetworkUnavailable="True")).network_unavailable
    assert not node_of(node("b", NetworkUnavailable="False")).network_unavailable


def test_links_and_the_leave_to_announce_concern_this_node() -> None:
    scene = Scene(excluded=interfaces.exclusion(["^veth"]))
    scene.look()
    scene.links = (a_link(), a_link("veth1", 9))
    assert not scene.look(), "an excluded interface does not exist"
    scene.links = (a_link(up=False),)
    assert scene.look() == Changes(own=True)
    scene.hold = "wait"
    assert scene.look() == Changes(own=True)
    assert scene.observer.world.hold == "wait"


def test_the_configuration_is_compiled_when_its_objects_change() -> None:
    scene = Scene()
    scene.put(scene.stores.pools, pool("default", "192.0.2.0/24"), by=observe.config_fingerprint)
    scene.put(scene.stores.advertisements, advertisement("all", "default"), by=observe.config_fingerprint)
    scene.look()
    config = scene.observer.world.cluster.config
    assert [one.name for one in config.l2_advertisements] == ["all"]
    assert ip_address("192.0.2.9") in config.pools[PoolName("default")]


def test_a_broken_edition_of_a_pool_leaves_the_last_valid_one_in_force() -> None:
    scene = Scene()
    scene.put(scene.stores.pools, pool("default", "192.0.2.0/24"), by=observe.config_fingerprint)
    scene.look()
    scene.put(scene.stores.pools, pool("default", "nonsense", 2), by=observe.config_fingerprint)
    assert not scene.look()
    assert PoolName("default") in scene.observer.world.cluster.config.pools
    assert scene.observer.compiled.stale
    scene.stores.pools.delete(ObjectKey("metallb-system/default"))
    assert scene.look() == Changes(everybody=True)


def test_running_speakers_on_other_nodes_are_the_seeds() -> None:
    def pod(name: str, on: str, ip: str, phase: str = "Running") -> objects.Pod:
        made: objects.Pod = view(
            objects.Pod,
            metadata={"name": name, "namespace": "metallb-system"},
            spec={"nodeName": on},
            status={"phase": phase, "podIP": ip},
        )
        return made

    pods: Store[objects.Pod] = Store()
    assert other_speakers(pods, NodeName("a")) is None
    pods.replace(
        [
            *(pod("own", "a", "192.0.2.1"), pod("other", "b", "192.0.2.2"), pod("pending", "c", "192.0.2.3", "Pending")),
            *(pod("homeless", "", "192.0.2.4"), pod("starting", "d", "")),
        ],
        observe.pod_fingerprint,
    )
    assert other_speakers(pods, NodeName("a")) == {ip_address("192.0.2.2"): "b"}
