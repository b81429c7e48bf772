"""MetalLB's end-to-end tests of layer 2: who announces what, where, and why it moves; by the processes in the lab.

Who owns an address is read from the ServiceL2Status, and for IPv4 asked on the wire from the client: exactly this node answers.
The winner that is expected is computed here from the documented hash.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from hashlib import sha256
from ipaddress import IPv4Address
from typing import Any

import pytest

from kube.objects import RawObject
from kube.resources import EVENTS, L2_ADVERTISEMENTS, NODES, SERVICE_L2_STATUSES, SERVICES
from lab.scenarios.stage import BACKENDS, NAMESPACE, SYSTEM, Stage
from tests.e2e.conftest import Lab
from tests.e2e.installed import Installed, addresses, opened, until
from tests.e2e.wire import questions

pytestmark = [pytest.mark.needs("root", "nginx", "nft"), pytest.mark.timeout(180)]

POOL, POOL6 = "192.168.20.40-192.168.20.60", "2001:db8:20::1000-2001:db8:20::10ff"
EXCLUDE = "node.kubernetes.io/exclude-from-external-load-balancers"
NODES_ = ("n1", "n2", "n3")
LABEL = "parity/rack"
SHARE = {"metallb.io/allow-shared-ip": "ours"}


def parity(*titles: str) -> pytest.MarkDecorator:
    return pytest.mark.parity(*titles)


def winner(address: str, among: Iterable[str] = NODES_) -> str:
    """The node with the lowest SHA-256 of "node#address"."""
    return min(among, key=lambda node: sha256(f"{node}#{address}".encode()).digest())


def labelled(**labels: str) -> dict[str, Any]:
    return {"matchLabels": labels}


def rack(name: str) -> dict[str, Any]:
    return {"matchLabels": {LABEL: name}}


def prefer(weight: int, name: str) -> dict[str, Any]:
    return {"weight": weight, "preference": rack(name)}


class Segment:
    """The product with a pool, and what can be seen of layer 2."""

    def __init__(self, user: Installed) -> None:
        self.user = user
        self.topology = user.lab.topology

    async def service(self, name: str = "web", **spec: Any) -> str:
        """A Service in front of the lab's web servers; its first address."""
        meta = {key: spec.pop(key) for key in ("annotations", "labels") if key in spec}
        await self.user.service(name, namespace=NAMESPACE, **meta, **{"selector": {"app": BACKENDS}, **spec})

        async def given() -> str:
            return next(iter(addresses(await self.user.get(name, NAMESPACE))), "")

        return await until(given, f"an address for {name}")

    async def advertise(self, name: str = "all", **spec: Any) -> None:
        await self.user.write("L2Advertisement", name, **spec)

    async def readvertise(self, name: str = "all", **spec: Any) -> None:
        await self.user.kube.patch(L2_ADVERTISEMENTS, name, {"spec": spec}, namespace=SYSTEM)

    async def label(self, node: str, key: str = LABEL, value: str | None = "") -> None:
        await self.user.kube.patch(NODES, node, {"metadata": {"labels": {key: value}}})

    async def statuses(self, name: str = "web") -> list[Mapping[str, Any]]:
        """The ServiceL2Status objects of a Service."""
        found, _ = await self.user.kube.list(SERVICE_L2_STATUSES, namespace=SYSTEM)
        statuses = [one.document.get("status") or {} for one in found if isinstance(one, RawObject)]
        return [one for one in statuses if (one.get("serviceName"), one.get("serviceNamespace")) == (name, NAMESPACE)]

    def answering(self, address: str) -> set[str]:
        """The nodes that answer for an IPv4 address."""
        with questions(self.topology, "client") as asking:
            macs = asking.macs_of(IPv4Address(address))
        return {node.name for node in self.topology.nodes if node.mac in macs}

    async def owned(self, by: str, name: str = "web") -> None:
        """Until one node announces a Service, by its status and by what it answers."""
        address = addresses(await self.user.get(name, NAMESPACE))[0]

        async def so() -> bool:
            if [one.get("node") for one in await self.statuses(name)] != [by]:
                return False
            return ":" in address or self.answering(address) == {by}

        await until(so, f"{name} ({address}) announced by {by}, by nobody else")

    async def unowned(self, name: str = "web") -> None:
        """Until nobody announces a Service."""
        address = addresses(await self.user.get(name, NAMESPACE))[0]

        async def so() -> bool:
            return await self.statuses(name) == [] and (":" in address or self.answering(address) == set())

        await until(so, f"{name} announced by nobody")

    async def told(self, reason: str, name: str = "web") -> str:
        """The newest Event of a reason about a Service."""

        async def look() -> str:
            events, _ = await self.user.kube.list(EVENTS, namespace=NAMESPACE, field_selector=f"involvedObject.name={name}")
            found = [one.document for one in events if one.document["reason"] == reason]
            return max(found, key=lambda one: one["lastTimestamp"])["message"] if found else ""

        return await until(look, f"an Event {reason} about {name}")


@pytest.fixture(scope="module")
def product(lab: Lab) -> Lab:
    """The session's lab with the product and web servers in it."""
    import asyncio  # noqa: PLC0415  (a fixture of a module cannot be asynchronous in this loop scope)

    async def prepare() -> None:
        async with Stage.opened(lab.paths) as stage:
            await stage.install()
            await stage.add_web_servers()

    asyncio.run(prepare())
    return lab


@pytest.fixture
async def segment(product: Lab) -> AsyncIterator[Segment]:
    async with opened(product) as user:
        made = Segment(user)
        await user.pool("default", POOL, POOL6)
        try:
            yield made
        finally:
            for node in NODES_:
                for key in (LABEL, EXCLUDE):
                    await made.label(node, key, None)


@asynccontextmanager
async def racks(segment: Segment, **names: str) -> AsyncIterator[None]:
    """Nodes with these labels; the fixture takes them away."""
    for node, name in names.items():
        await segment.label(node, LABEL, name)
    yield


@parity("L2 > type=Loadbalancer > should process the status as L2ServiceStatus along with service")
async def test_one_status_names_the_node_that_the_event_names_and_goes_with_the_service(segment: Segment) -> None:
    await segment.advertise()
    node = winner(await segment.service())
    await segment.owned(node)
    assert f'"{node}"' in await segment.told("nodeAssigned")
    await segment.user.kube.delete(SERVICES, "web", namespace=NAMESPACE)

    async def gone() -> bool:
        return await segment.statuses() == []

    await until(gone, "no status without a Service")


@parity("L2 > type=Loadbalancer > IPV4 Should work with mixed protocol services")
async def test_one_address_serves_tcp_and_udp_ports(segment: Segment) -> None:
    await segment.advertise()
    ports = [{"name": "tcp", "port": 80, "protocol": "TCP"}, {"name": "udp", "port": 80, "protocol": "UDP"}]
    address = await segment.service(ports=ports)
    await segment.owned(winner(address))

    async def served() -> bool:
        return segment.user.lab.run_on("client", "curl", "-sf", "--max-time", "1", f"http://{address}/").returncode == 0

    await until(served, f"a page from {address}")


@parity("L2 > type=Loadbalancer > should not be announced from a node with a NetworkUnavailable condition")
async def test_a_node_whose_network_is_unavailable_does_not_announce(segment: Segment) -> None:
    await segment.advertise()
    address = await segment.service()
    first = winner(address)
    await segment.owned(first)

    async def network(status: str) -> None:
        view = await segment.user.kube.get(NODES, first)
        kept = [
            {"type": one.type, "status": one.status} for one in view.status.conditions or () if one.type != "NetworkUnavailable"
        ]
        conditions = [*kept, {"type": "NetworkUnavailable", "status": status}]
        await segment.user.kube.patch(NODES, first, {"status": {"conditions": conditions}}, subresource="status")

    try:
        await network("True")
        await segment.owned(winner(address, set(NODES_) - {first}))
    finally:
        await network("False")
    await segment.owned(first)


@parity("L2 > type=Loadbalancer > It should be work when adding NodeExcludeBalancers label to a node")
async def test_a_node_that_is_excluded_does_not_announce(segment: Segment) -> None:
    await segment.advertise()
    address = await segment.service()
    first = winner(address)
    await segment.owned(first)
    await segment.label(first, EXCLUDE, "")
    await segment.owned(winner(address, set(NODES_) - {first}))
    await segment.label(first, EXCLUDE, None)
    await segment.owned(first)


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(
            family, marks=parity(f"L2 > different services sharing the same ip should advertise from the same node > {family}")
        )
        for family in ("IPV4", "IPV6")
    ],
)
async def test_services_that_share_an_address_are_announced_by_one_node(segment: Segment, family: str) -> None:
    await segment.advertise()
    spec: dict[str, Any] = {"ipFamilies": ["IPv6"]} if family == "IPV6" else {}
    address = await segment.service("one", annotations=SHARE, ports=[{"port": 80}], **spec)
    share = {**SHARE, "metallb.io/loadBalancerIPs": address}
    assert await segment.service("two", annotations=share, ports=[{"port": 81, "targetPort": 80}], **spec) == address
    for name in ("one", "two"):
        await segment.owned(winner(address), name)


@parity("L2 > Node Selector > should work selecting one node")
async def test_the_selected_node_announces(segment: Segment) -> None:
    await segment.advertise(nodeSelectors=[labelled(**{"kubernetes.io/hostname": "n2"})])
    await segment.service()
    await segment.owned("n2")
    await segment.readvertise(nodeSelectors=[labelled(**{"kubernetes.io/hostname": "n3"})])
    await segment.owned("n3")


@parity("L2 > Node Selector > should work with multiple node selectors")
async def test_one_of_several_selected_nodes_announces(segment: Segment) -> None:
    await segment.advertise(nodeSelectors=[labelled(**{"kubernetes.io/hostname": node}) for node in ("n1", "n2")])
    await segment.owned(winner(await segment.service(), ("n1", "n2")))


@parity("L2 > Node Selector > should work when adding nodes")
async def test_a_node_that_gets_the_label_becomes_a_candidate(segment: Segment) -> None:
    await segment.advertise(nodeSelectors=[rack("one")])
    async with racks(segment, n1="one"):
        address = await segment.service()
        await segment.owned("n1")
        for candidates in (("n1", "n2"), NODES_):
            await segment.label(candidates[-1], LABEL, "one")
            await segment.owned(winner(address, candidates))


PREFERRED = "L2 > Preferred Node Selector >"


@parity(f"{PREFERRED} should prefer the labeled node and fall back to the baseline election when the label is removed")
async def test_the_preferred_node_announces_for_as_long_as_it_has_the_label(segment: Segment) -> None:
    await segment.advertise(preferredNodeSelectors=[prefer(100, "best")])
    address = await segment.service()
    first = winner(address)
    await segment.owned(first)
    other = next(node for node in NODES_ if node != first)
    await segment.label(other, LABEL, "best")
    await segment.owned(other)
    await segment.label(other, LABEL, None)
    await segment.owned(first)


@parity(f"{PREFERRED} should behave like the baseline advertisement when no node matches the preferred selector")
async def test_a_preference_that_matches_nobody_changes_nothing(segment: Segment) -> None:
    await segment.advertise(preferredNodeSelectors=[prefer(100, "nobody")])
    await segment.owned(winner(await segment.service()))


@parity(f"{PREFERRED} should fail over when the preferred node becomes unschedulable and reclaim when it returns")
async def test_another_node_announces_while_the_preferred_one_is_away(segment: Segment) -> None:
    await segment.advertise(preferredNodeSelectors=[prefer(100, "best")])
    async with racks(segment, n2="best"):
        address = await segment.service()
        await segment.owned("n2")
        await segment.label("n2", EXCLUDE, "")
        await segment.owned(winner(address, ("n1", "n3")))
        await segment.label("n2", EXCLUDE, None)
        await segment.owned("n2")


@parity(f"{PREFERRED} should re-elect when the L2Advertisement spec changes at runtime")
async def test_another_preference_moves_the_address(segment: Segment) -> None:
    await segment.advertise(preferredNodeSelectors=[prefer(100, "one")])
    async with racks(segment, n1="one", n3="two"):
        await segment.service()
        await segment.owned("n1")
        await segment.readvertise(preferredNodeSelectors=[prefer(100, "two")])
        await segment.owned("n3")


@parity(f"{PREFERRED} should respect nodeSelectors as a hard filter while preferredNodeSelectors orders the eligible set")
async def test_a_preferred_node_that_is_not_selected_does_not_announce(segment: Segment) -> None:
    hosts = [labelled(**{"kubernetes.io/hostname": node}) for node in ("n1", "n2")]
    await segment.advertise(nodeSelectors=hosts, preferredNodeSelectors=[prefer(100, "far"), prefer(10, "near")])
    async with racks(segment, n3="far", n2="near"):
        await segment.service()
        await segment.owned("n2")


@parity(f"{PREFERRED} should announce from the nodeSelectors set when it is disjoint from preferredNodeSelectors")
async def test_without_a_preferred_node_among_the_selected_the_hash_decides(segment: Segment) -> None:
    hosts = [labelled(**{"kubernetes.io/hostname": node}) for node in ("n1", "n2")]
    await segment.advertise(nodeSelectors=hosts, preferredNodeSelectors=[prefer(100, "far")])
    async with racks(segment, n3="far"):
        await segment.owned(winner(await segment.service(), ("n1", "n2")))


@parity(f"{PREFERRED} should sum weights across multiple L2Advertisements targeting the same pool")
async def test_weights_of_several_advertisements_add_up(segment: Segment) -> None:
    await segment.advertise("one", preferredNodeSelectors=[prefer(60, "middle"), prefer(100, "high")])
    await segment.advertise("two", preferredNodeSelectors=[prefer(50, "middle")])
    async with racks(segment, n1="high", n3="middle"):
        await segment.service()
        await segment.owned("n3")


@parity(f"{PREFERRED} should scope preferredNodeSelectors to services matching serviceSelectors")
async def test_a_preference_counts_for_the_selected_services_only(segment: Segment) -> None:
    await segment.advertise("everybody")
    await segment.advertise("gold", serviceSelectors=[labelled(tier="gold")], preferredNodeSelectors=[prefer(100, "best")])
    plain = await segment.service("plain")
    best = next(node for node in NODES_ if node != winner(plain))
    async with racks(segment, **{best: "best"}):
        await segment.service("gold", labels={"tier": "gold"})
        await segment.owned(best, "gold")
        await segment.owned(winner(plain), "plain")


SERVICE = "L2-ServiceSelector >"


@parity(
    f"{SERVICE} Pool and Service Selectors together > should only advertise services matching both pool and service selectors"
)
async def test_pool_and_service_must_both_be_selected(segment: Segment) -> None:
    await segment.user.pool("other", "192.168.20.70-192.168.20.80", autoAssign=False)
    await segment.advertise(ipAddressPools=["default"], serviceSelectors=[labelled(tier="gold")])
    address = await segment.service("both", labels={"tier": "gold"})
    await segment.service("no-label")
    await segment.service("no-pool", labels={"tier": "gold"}, annotations={"metallb.io/address-pool": "other"})
    await segment.owned(winner(address), "both")
    await segment.unowned("no-label")
    await segment.unowned("no-pool")


FILTERS = f"{SERVICE} Service selector filters election candidate nodes >"


@parity(f"{FILTERS} should announce from exactly one node when both advertisements match the service")
async def test_two_advertisements_that_match_make_one_election(segment: Segment) -> None:
    for name, node in (("one", "n1"), ("two", "n2")):
        hosts = [labelled(**{"kubernetes.io/hostname": node})]
        await segment.advertise(name, nodeSelectors=hosts, serviceSelectors=[labelled(tier="gold")])
    await segment.owned(winner(await segment.service(labels={"tier": "gold"}), ("n1", "n2")))


@parity(f"{FILTERS} should not announce when no advertisement matches both service and node")
async def test_without_an_advertisement_for_service_and_node_nobody_announces(segment: Segment) -> None:
    hosts = [labelled(**{"kubernetes.io/hostname": "n1"})]
    await segment.advertise("gold", nodeSelectors=hosts, serviceSelectors=[labelled(tier="gold")])
    await segment.advertise("silver", nodeSelectors=[rack("nowhere")], serviceSelectors=[labelled(tier="silver")])
    await segment.service(labels={"tier": "silver"})
    await segment.unowned()


@parity(f"{SERVICE} Service Selector > should use OR logic for multiple selectors")
async def test_one_matching_service_selector_is_enough(segment: Segment) -> None:
    await segment.advertise(serviceSelectors=[labelled(tier="gold"), labelled(team="blue")])
    gold = await segment.service("gold", labels={"tier": "gold"})
    blue = await segment.service("blue", labels={"team": "blue"})
    await segment.service("neither", labels={"tier": "tin"})
    await segment.owned(winner(gold), "gold")
    await segment.owned(winner(blue), "blue")
    await segment.unowned("neither")


INTERFACE = "L2-interface selector > Interface Selector >"


async def shows(segment: Segment, *names: str) -> None:
    """Until the status lists these interfaces."""

    async def so() -> bool:
        found = await segment.statuses()
        return len(found) == 1 and [one["name"] for one in found[0].get("interfaces", ())] == list(names)

    await until(so, f"the interfaces {names} in the status")


@parity(f"{INTERFACE} Validate L2ServiceStatus interface", f"{INTERFACE} Validate the LB IP's mac")
async def test_the_status_names_the_interface_and_its_mac_address_answers(segment: Segment) -> None:
    await segment.advertise(interfaces=["eth0"])
    await segment.owned(winner(await segment.service()))
    await shows(segment, "eth0")


@parity(f"{INTERFACE} Modify L2 interface", f"{INTERFACE} Specify not existing interfaces")
async def test_interfaces_that_do_not_exist_end_the_announcement_with_an_event(segment: Segment) -> None:
    await segment.advertise(interfaces=["eth0"])
    node = winner(await segment.service())
    await segment.owned(node)
    await segment.readvertise(interfaces=["nosuch0"])
    await segment.unowned()
    assert "nosuch0 does not exist" in await segment.told("announceFailed")
    await segment.readvertise(interfaces=["eth0", "nosuch0"])
    await segment.owned(node)
    await shows(segment, "eth0")


@parity(f"{INTERFACE} Address pool connected with two L2 advertisements")
async def test_interfaces_of_two_advertisements_are_united(segment: Segment) -> None:
    await segment.advertise("one", interfaces=["nosuch0"])
    await segment.advertise("two", interfaces=["eth0"])
    await segment.owned(winner(await segment.service()))
    await shows(segment, "eth0")
    await segment.readvertise("two", interfaces=["nosuch1"])
    await segment.unowned()


@parity(f"{INTERFACE} node selector")
async def test_interfaces_count_on_the_nodes_of_their_advertisement(segment: Segment) -> None:
    for name, node, interface in (("one", "n1", "eth0"), ("two", "n2", "nosuch0")):
        hosts = [labelled(**{"kubernetes.io/hostname": node})]
        await segment.advertise(name, nodeSelectors=hosts, interfaces=[interface], ipAddressPools=["default"])
    address = await segment.service()
    if winner(address, ("n1", "n2")) == "n1":
        await segment.owned("n1")
        await shows(segment, "eth0")
    else:
        await segment.unowned()
    await segment.user.kube.delete(L2_ADVERTISEMENTS, "two", namespace=SYSTEM)
    await segment.owned("n1")


@parity("L2 > speaker failover > should move L2 advertisement when the announcing node stops running a ready speaker")
async def test_the_address_moves_when_its_node_has_no_speaker_any_more(segment: Segment) -> None:
    await segment.advertise()
    address = await segment.service()
    first = winner(address)
    await segment.owned(first)
    segment.user.lab.command("kill", first)
    try:
        await segment.owned(winner(address, set(NODES_) - {first}))
    finally:
        segment.user.lab.command("restore", first)
    await segment.owned(first)
