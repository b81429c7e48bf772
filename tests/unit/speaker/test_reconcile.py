"""The speaker's loop: from stores to frames, in one turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from scapy.layers.l2 import ARP, Ether

from config.model import EXCLUDE_LABEL, NodeName, ServiceKey
from kube.auth import Access, Credentials
from kube.client import KubeClient
from kube.events import EventRecorder
from kube.objects import ObjectKey, RawObject, View
from kube.store import Store
from speaker import observe
from speaker.agenda import SERVICES_PER_BATCH
from speaker.election import elect
from speaker.layer2 import interfaces
from speaker.layer2.engine import Engine
from speaker.layer2.responder import Claimed
from speaker.metrics import Metrics
from speaker.observe import Observer, Stores
from speaker.plan import decide
from speaker.reason import Reason
from speaker.reconcile import Reconciler, Surroundings
from speaker.status import Reporter
from speaker.world import Link
from tests.builders_speaker import ETH0, OTHER_MAC, VIP, a_link, nodes
from tests.unit.speaker.test_observe import advertisement, endpoints, node, pool, service
from tests.wires import Lines, Wires, until

WEB = ServiceKey("default/web")
ME = NodeName("a")


class Stage:
    """A reconciler of node a with real parts; only the API server and the network are missing."""

    def __init__(self, client: KubeClient) -> None:
        self.stores = Stores()
        self.dirty = asyncio.Event()
        self.log = Lines()
        self.wires = Wires()
        self.members: frozenset[NodeName] | None = nodes("a")
        self.hold = ""
        self.isolation = ""
        self.speakers: dict[bytes, NodeName] = {}
        self.links: tuple[Link, ...] | None = (a_link(),)
        self.registry = CollectorRegistry()
        metrics = Metrics(self.registry, ME)
        self.engine = Engine(metrics, self.log, self.wires, claimed=self.heard)
        self.recorder = EventRecorder(client, "metallb-speaker", ME)
        self.statuses: Store[RawObject] = Store()
        self.reporter = Reporter(
            client,
            self.recorder,
            self.statuses,
            self.stores.services,
            me=ME,
            namespace="metallb-system",
            pod_name="",
            metrics=metrics,
            log=self.log,
        )
        self.reconciler = Reconciler(
            self.stores,
            Observer(self.stores, ME, lb_class="", honour_exclude_label=True, excluded=interfaces.exclusion(["^lo$"])),
            Surroundings(
                all_ours=lambda: True,
                members=lambda: self.members,
                hold=lambda: self.hold,
                isolation=lambda: self.isolation,
                speakers=lambda: self.speakers,
                links=lambda: self.links or (),
                links_known=lambda: self.links is not None,
            ),
            self.engine,
            self.reporter,
            metrics,
            dirty=self.dirty,
            log=self.log,
        )

    def heard(self, claim: Claimed) -> None:
        self.reconciler.heard(claim)

    def put(self, *views: View) -> None:
        """As a watch would: keep the objects and set dirty if that is news."""
        by: dict[str, tuple[Store[Any], Any]] = {
            "Service": (self.stores.services, observe.service_fingerprint),
            "EndpointSlice": (self.stores.slices, observe.slice_fingerprint),
            "Node": (self.stores.nodes, observe.node_fingerprint),
            "IPAddressPool": (self.stores.pools, observe.config_fingerprint),
            "L2Advertisement": (self.stores.advertisements, observe.config_fingerprint),
        }
        for view in views:
            kind = view.document["kind"] if isinstance(view, RawObject) else type(view).__name__
            store, fingerprint = by[kind]
            if store.put(view, fingerprint):
                self.dirty.set()

    def delete(self, store: Store[Any], key: str) -> None:
        if store.delete(ObjectKey(key)):
            self.dirty.set()

    def sync(self) -> None:
        """The API server has listed everything."""
        self.put(node("a"), node("b"), pool("default", "192.0.2.0/24"), advertisement("all"))
        slots = (getattr(self.stores, name) for name in self.stores.__slots__ if name != "bgp")
        for store in (*slots, *self.stores.bgp.values()):
            store.replace(list(store.snapshot().values()), lambda view: view)
        self.dirty.set()

    def say(self) -> list[tuple[int, str]]:
        """What was sent on eth0 since last asked."""
        return self.wires.open["eth0"].said()

    async def settled(self) -> None:
        """Everything that is due has been done."""
        await until(lambda: not self.dirty.is_set() and not self.reconciler._agenda, "settled")
        await asyncio.sleep(0)
        await asyncio.sleep(0)


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    client = await KubeClient.connect(Credentials(lambda: Access("https://127.0.0.1:1")))
    stage = Stage(client)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(stage.reconciler.run(), name="reconcile")
        yield stage
        stage.reconciler.plan.check_invariants()
        running.cancel()
    stage.engine.close()
    await client.close()


async def test_nothing_happens_before_everything_has_been_listed(stage: Stage) -> None:
    stage.links = None
    stage.dirty.set()
    await stage.settled()
    assert stage.log.facts("waiting_for_lists") == [
        {"kinds": ["services", "slices", "nodes", "namespaces", "pools", "advertisements", "links"]}
    ]
    assert not stage.reconciler.caches_complete.is_set()
    stage.put(service("web", "192.0.2.10"), endpoints("b"))
    stage.links = (a_link(),)
    stage.sync()
    await stage.settled()
    assert stage.reconciler.caches_complete.is_set()
    assert stage.say() == [(1, "192.0.2.10"), (2, "192.0.2.10")]


async def test_an_address_in_a_service_status_is_announced_within_three_turns_of_the_loop(stage: Stage) -> None:
    stage.sync()
    stage.put(service("web"), endpoints("b"))
    await stage.settled()
    stage.put(service("web", "192.0.2.10"))
    for _ in range(3):
        await asyncio.sleep(0)
    assert stage.say() == [(1, "192.0.2.10"), (2, "192.0.2.10")]


async def test_an_announcement_is_logged_counted_and_told_to_the_user(stage: Stage) -> None:
    stage.sync()
    stage.put(service("web", "192.0.2.10", metadata={"uid": "u-1"}), endpoints("b"))
    await stage.settled()
    (facts,) = stage.log.facts("address_announced")
    assert (facts["address"], facts["service"], facts["node"], facts["was"]) == ("192.0.2.10", WEB, "a", None)
    assert facts["reason"] == "WON_ELECTION"
    labels = {"service": WEB, "protocol": "layer2", "node": "a", "ip": "192.0.2.10"}
    assert stage.registry.get_sample_value("metallb_speaker_announced", labels) == 1
    assert len(stage.recorder.correlator) == 1


async def test_the_death_of_a_member_moves_its_addresses_here(stage: Stage) -> None:
    stage.members = nodes("a b")
    stage.sync()
    views = [service(f"s{index}", f"192.0.2.{index}") for index in range(8)]
    stage.put(*views, *(endpoints("b", name=f"s{index}-1", of=f"s{index}") for index in range(8)))
    await stage.settled()
    mine = set(stage.reconciler.report()["plan"]["owned"])
    assert 0 < len(mine) < 8
    stage.say()
    stage.members = nodes("a")
    stage.dirty.set()
    await stage.settled()
    moved = {address for opcode, address in stage.say() if opcode == 1}
    assert moved == {f"192.0.2.{index}" for index in range(8)} - mine, "only what moved is announced"
    assert {facts["was"] for facts in stage.log.facts("address_announced") if facts["address"] in moved} == {"b"}


async def test_a_deleted_service_falls_silent(stage: Stage) -> None:
    stage.sync()
    stage.put(service("web", "192.0.2.10"), endpoints("b"))
    await stage.settled()
    stage.delete(stage.stores.services, "default/web")
    await stage.settled()
    (facts,) = stage.log.facts("address_withdrawn")
    assert facts["reason"] == "SERVICE_DELETED"
    assert stage.wires.open["eth0"].targets == ()
    labels = {"service": WEB, "protocol": "layer2", "node": "a", "ip": "192.0.2.10"}
    assert stage.registry.get_sample_value("metallb_speaker_announced", labels) is None


async def test_a_new_address_replaces_the_old_one(stage: Stage) -> None:
    stage.sync()
    stage.put(service("web", "192.0.2.10"), endpoints("b"))
    await stage.settled()
    stage.put(service("web", "192.0.2.11"))
    await stage.settled()
    assert stage.reconciler.report()["plan"]["owned"] == {"192.0.2.11": ["eth0"]}
    assert stage.log.facts("address_withdrawn")[0]["address"] == "192.0.2.10"


async def test_a_speaker_whose_own_node_is_deleted_falls_silent(stage: Stage) -> None:
    stage.sync()
    stage.put(service("web", "192.0.2.10"), endpoints("b"))
    await stage.settled()
    stage.delete(stage.stores.nodes, "a")
    await stage.settled()
    assert stage.reconciler.report()["plan"]["owned"] == {}
    assert "there is no Node a" in stage.log.facts("address_withdrawn")[0]["detail"]


async def test_a_speaker_that_must_wait_announces_when_it_may(stage: Stage) -> None:
    stage.hold = "nobody has been met yet"
    stage.sync()
    stage.put(service("web", "192.0.2.10"), endpoints("b"))
    await stage.settled()
    assert stage.say() == []
    assert stage.reconciler.report()["plan"]["services"][WEB]["reason"] == "WAITING_FOR_MEMBERS"
    assert not stage.reporter._complete
    stage.hold = ""
    stage.dirty.set()
    await stage.settled()
    assert stage.say() == [(1, "192.0.2.10"), (2, "192.0.2.10")]
    assert stage.reporter._complete


async def test_a_new_interface_joins_the_announcement(stage: Stage) -> None:
    stage.sync()
    stage.put(service("web", "192.0.2.10"), endpoints("b"))
    await stage.settled()
    stage.links = (a_link(), a_link("eth1", 3))
    stage.dirty.set()
    await stage.settled()
    assert stage.wires.open["eth1"].said() == [(1, "192.0.2.10"), (2, "192.0.2.10")]
    assert stage.reconciler.report()["plan"]["services"][WEB]["interfaces"] == ["eth0", "eth1"]


async def test_without_a_usable_interface_the_user_is_told(stage: Stage) -> None:
    stage.links = (a_link(up=False),)
    stage.sync()
    stage.put(service("web", "192.0.2.10"), endpoints("b"))
    await stage.settled()
    assert stage.log.facts("announce_failed") == [{"service": WEB, "detail": "eth0 is down"}]
    assert len(stage.recorder.correlator) == 1


async def test_an_interface_without_a_socket_is_not_counted_on(stage: Stage) -> None:
    stage.wires.refuse.add("eth0")
    stage.sync()
    stage.put(service("web", "192.0.2.10"), endpoints("b"))
    await stage.settled()
    decision = stage.reconciler.report()["plan"]["services"][WEB]
    assert (decision["announcing"], decision["reason"]) == (False, "NO_USABLE_INTERFACE")
    assert "lacks the capability CAP_NET_RAW" in decision["detail"]
    stage.wires.refuse.clear()
    stage.links = (a_link(carrier=False),)
    stage.dirty.set()
    await stage.settled()
    assert stage.reconciler.report()["plan"]["owned"] == {"192.0.2.10": ["eth0"]}


async def test_problems_of_the_configuration_are_logged_once(stage: Stage) -> None:
    stage.sync()
    stage.put(pool("torn", "nonsense"))
    await stage.settled()
    stage.put(pool("torn", "nonsense", 2))
    await stage.settled()
    assert len(stage.log.facts("failed to parse the configuration")) >= 1
    problems = [facts["problem"] for facts in stage.log.facts("failed to parse the configuration")]
    assert len(problems) == len(set(problems))
    assert stage.registry.get_sample_value("metallb_k8s_client_config_stale_bool") == 1
    stage.delete(stage.stores.pools, "metallb-system/torn")
    await stage.settled()
    assert stage.registry.get_sample_value("metallb_k8s_client_config_stale_bool") == 0


async def test_an_address_is_announced_while_its_pool_is_broken_and_withdrawn_when_it_is_deleted(stage: Stage) -> None:
    """The last valid edition is known here: it stays in force, and the broken one changes nothing."""
    stage.sync()
    stage.put(service("web", "192.0.2.10"), endpoints("b"))
    await stage.settled()
    stage.say()
    stage.put(pool("default", "nonsense", 2))
    await stage.settled()
    assert stage.registry.get_sample_value("metallb_k8s_client_config_stale_bool") == 1
    assert stage.reconciler.report()["plan"]["owned"] == {"192.0.2.10": ["eth0"]}
    assert stage.say() == [], "nothing has moved, so nothing is announced again"
    stage.delete(stage.stores.pools, "metallb-system/default")
    await stage.settled()
    assert stage.reconciler.report()["plan"]["owned"] == {}
    assert stage.log.facts("address_withdrawn")[0]["reason"] == "ADDRESS_IN_NO_POOL"


async def test_a_speaker_that_starts_beside_a_broken_pool_announces_what_it_gave_and_nothing_else(stage: Stage) -> None:
    """No valid edition is known: the Service that names the pool keeps its address, whatever it is, until the pool is deleted."""
    stage.put(pool("torn", "nonsense"))
    given = {"annotations": {"metallb.io/ip-allocated-from-pool": "torn"}}
    stage.put(service("web", "198.51.100.7", metadata=given), endpoints("b"))
    stage.put(service("alien", "198.51.100.8"), endpoints("b", name="alien-1", of="alien"))
    stage.sync()
    await stage.settled()
    assert stage.reconciler.report()["plan"]["owned"] == {"198.51.100.7": ["eth0"]}
    assert stage.reconciler.report()["plan"]["services"]["default/alien"]["reason"] == "ADDRESS_IN_NO_POOL"
    stage.put(pool("torn", "198.51.100.0/24", 2))
    await stage.settled()
    assert stage.reconciler.report()["plan"]["owned"] == {"198.51.100.7": ["eth0"], "198.51.100.8": ["eth0"]}
    stage.delete(stage.stores.pools, "metallb-system/torn")
    await stage.settled()
    assert stage.reconciler.report()["plan"]["owned"] == {}


async def test_a_turn_of_the_loop_decides_a_bounded_number_of_services(stage: Stage) -> None:
    stage.sync()
    await stage.settled()
    many = 3 * SERVICES_PER_BATCH
    stage.put(*(service(f"s{index}", f"192.0.2.{index}") for index in range(many)))
    counts = []
    while len(stage.reconciler.plan.decisions) < many:
        before = len(stage.reconciler.plan.decisions)
        await asyncio.sleep(0)
        counts.append(len(stage.reconciler.plan.decisions) - before)
    assert max(counts) <= SERVICES_PER_BATCH


async def test_the_incremental_plan_equals_a_full_one(stage: Stage) -> None:
    stage.members = nodes("a b")
    stage.sync()
    stage.put(
        service("web", "192.0.2.10"), service("dns", "192.0.2.11", spec={"externalTrafficPolicy": "Local"}), endpoints("b")
    )
    await stage.settled()
    stage.members = nodes("a")
    stage.put(endpoints("a", name="dns-1", of="dns"), node("b", {EXCLUDE_LABEL: "true"}))
    await stage.settled()
    world = stage.reconciler._observer.world
    assert dict(stage.reconciler.plan.decisions) == {key: decide(one, world) for key, one in world.services.items()}


async def test_the_status_shows_nodes_links_and_decisions(stage: Stage) -> None:
    stage.members = nodes("a")
    stage.sync()
    stage.put(service("web", "192.0.2.10"), endpoints("b"))
    await stage.settled()
    report = stage.reconciler.report()
    assert report["world"]["nodes"] == {
        "a": {"candidate": True, "detail": ""},
        "b": {"candidate": False, "detail": "b is not a member of the gossip"},
    }
    assert report["world"]["links"][0]["usable"] is True
    assert report["plan"]["services"][WEB] == {
        "addresses": ["192.0.2.10"],
        "announcing": True,
        "interfaces": ["eth0"],
        "winner": "a",
        "ranking": ["a"],
        "reason": "WON_ELECTION",
        "sentence": "this node won the election among the candidates",
        "detail": "a is first of a for 192.0.2.10",
    }


# Handover


def address_of(winner: str) -> str:
    """An address that this one of a and b wins."""
    hosts = map(str, ip_network("192.0.2.0/24").hosts())
    return next(one for one in hosts if elect(ip_address(one), [ME, NodeName("b")], {})[0] == winner)


async def a_moving_address(stage: Stage) -> str:
    """Announced by a, and b's from now on."""
    address = address_of("b")
    stage.put(service("web", address), endpoints("b"))
    stage.sync()
    await stage.settled()
    assert stage.say() == [(1, address), (2, address)]
    stage.members = nodes("a b")
    stage.dirty.set()
    await stage.settled()
    return address


def claim(address: str) -> bytes:
    ethernet = Ether(src=OTHER_MAC.hex(":"), dst="ff:ff:ff:ff:ff:ff", type=0x0806)
    return bytes(ethernet / ARP(op=2, hwsrc=OTHER_MAC.hex(":"), psrc=address, pdst=address))


def asked(address: str) -> bytes:
    ethernet = Ether(src="02:00:00:00:00:cc", dst="ff:ff:ff:ff:ff:ff", type=0x0806)
    return bytes(ethernet / ARP(op=1, hwsrc="02:00:00:00:00:cc", psrc="192.0.2.254", pdst=address))


async def test_a_moving_address_is_answered_until_the_new_owner_is_heard(stage: Stage) -> None:
    address = await a_moving_address(stage)
    decision = stage.reconciler.plan.decisions[WEB]
    assert (decision.announce, decision.winner) == (None, "b")
    assert stage.reconciler.report()["plan"]["handover"] == {address: "b"}
    wire = stage.wires.open["eth0"]
    wire.deliver(asked(address))
    await until(lambda: wire.sent, "an answer")
    assert stage.say() == [(2, address)]
    wire.deliver(claim(address))
    await until(lambda: not stage.engine.owned(), "silence")
    (facts,) = stage.log.facts("address_handed_over")
    assert (facts["address"], facts["to"], facts["cause"]) == (address, "b", "successorHeard")
    wire.deliver(asked(address))
    await stage.settled()
    assert stage.say() == []


async def test_an_address_that_comes_back_while_it_moves_is_announced_anew(stage: Stage) -> None:
    address = await a_moving_address(stage)
    stage.members = nodes("a")
    stage.dirty.set()
    await until(lambda: not stage.reconciler.report()["plan"]["handover"], "it is ours again")
    assert stage.engine.owned() == {ip_address(address): {"eth0"}}
    assert stage.say() == [(1, address), (2, address)]


async def test_an_address_whose_service_goes_while_it_moves_is_withdrawn_at_once(stage: Stage) -> None:
    await a_moving_address(stage)
    stage.delete(stage.stores.services, WEB)
    await until(lambda: not stage.engine.owned(), "silence")
    assert stage.reconciler.report()["plan"]["handover"] == {}


async def test_an_address_that_nobody_is_to_have_is_withdrawn_at_once(stage: Stage) -> None:
    stage.put(service("web", "192.0.2.10"), endpoints("b"))
    stage.sync()
    await stage.settled()
    stage.put(endpoints())
    await until(lambda: not stage.engine.owned(), "silence")


async def test_a_speaker_that_stops_answers_until_its_successors_are_heard_and_decides_nothing_more(stage: Stage) -> None:
    stage.members = nodes("a b")
    moved = address_of("a")
    stage.put(service("web", moved), endpoints("b"))
    stage.sync()
    await stage.settled()
    stage.say()
    leaving = asyncio.create_task(stage.reconciler.hand_over_all())
    await until(lambda: stage.reconciler.report()["plan"]["handover"] == {moved: "b"}, "the handover")
    stage.members = nodes("a")
    stage.dirty.set()
    wire = stage.wires.open["eth0"]
    wire.deliver(asked(moved))
    await until(lambda: wire.sent, "an answer")
    assert not leaving.done()
    wire.deliver(claim(moved))
    await leaving
    assert stage.engine.owned() == {}


async def test_a_speaker_without_successors_has_nobody_to_wait_for(stage: Stage) -> None:
    stage.put(service("web", "192.0.2.10"), endpoints("b"))
    stage.sync()
    await stage.settled()
    await stage.reconciler.hand_over_all()
    assert stage.engine.owned() == {ip_address("192.0.2.10"): {"eth0"}}, "answered until the engine is closed"


async def test_an_isolated_speaker_keeps_what_it_owns_and_takes_over_when_it_may(stage: Stage) -> None:
    ours, theirs = address_of("a"), address_of("b")
    stage.members = nodes("a b")
    stage.put(service("web", ours), service("other", theirs), endpoints("b"), endpoints("b", name="other-1", of="other"))
    stage.sync()
    await stage.settled()
    assert set(stage.engine.owned()) == {ip_address(ours)}
    stage.members, stage.isolation = nodes("a"), "cut off"
    stage.dirty.set()
    await stage.settled()
    assert set(stage.engine.owned()) == {ip_address(ours)}
    decision = stage.reconciler.plan.decisions[ServiceKey("default/other")]
    assert (decision.reason, decision.detail, decision.winner) == (Reason.ISOLATED, "cut off", "a")
    stage.isolation = ""
    stage.dirty.set()
    await until(lambda: set(stage.engine.owned()) == {ip_address(ours), ip_address(theirs)}, "the takeover")


# Claims of others


async def test_a_strangers_claim_is_answered_counted_shown_and_reported(stage: Stage) -> None:
    stage.put(service("web", "192.0.2.10"), endpoints("b"))
    stage.sync()
    await stage.settled()
    stage.say()
    stage.reconciler.heard(Claimed(ETH0, VIP, OTHER_MAC))
    await until(lambda: "address_claimed_by_stranger" in stage.log.events(), "the report")
    (facts,) = stage.log.facts("address_claimed_by_stranger")
    assert (facts["address"], facts["mac"], facts["interface"]) == (str(VIP), OTHER_MAC.hex(":"), "eth0")
    assert stage.registry.get_sample_value("metallb_layer2_foreign_claims", {"ip": str(VIP)}) == 1
    (shown,) = stage.reconciler.report()["plan"]["conflicts"][str(VIP)]
    assert (shown["mac"], shown["speaker"], shown["count"]) == (OTHER_MAC.hex(":"), None, 1)


async def test_a_claim_of_the_new_owner_that_came_before_the_news_of_the_move_is_not_answered(stage: Stage) -> None:
    address = address_of("b")
    stage.put(service("web", address), endpoints("b"))
    stage.sync()
    await stage.settled()
    stage.reconciler.heard(Claimed(ETH0, ip_address(address), OTHER_MAC))
    stage.members = nodes("a b")
    stage.dirty.set()
    await until(lambda: not stage.engine.owned(), "silence")
    assert stage.log.facts("address_handed_over")[0]["cause"] == "successorHeard"
    assert stage.reconciler._claims.wake_at() is None
    assert stage.reconciler.report()["plan"]["conflicts"] == {}


async def test_a_claim_of_another_speaker_is_settled_without_an_alarm(stage: Stage) -> None:
    stage.speakers[OTHER_MAC] = NodeName("b")
    stage.put(service("web", "192.0.2.10"), endpoints("b"))
    stage.sync()
    await stage.settled()
    for _ in range(2):
        stage.reconciler.heard(Claimed(ETH0, VIP, OTHER_MAC))
    await until(lambda: "address_claimed_by_speaker" in stage.log.events(), "the report")
    assert stage.log.facts("address_claimed_by_speaker")[0]["node"] == "b"
    assert "address_claimed_by_stranger" not in stage.log.events()


async def test_after_a_reunion_what_is_owned_is_announced_once_more(stage: Stage) -> None:
    stage.put(service("web", "192.0.2.10"), endpoints("b"))
    stage.sync()
    await stage.settled()
    wire = stage.wires.open["eth0"]
    await until(lambda: len(wire.sent) >= 10, "all five rounds", limit_s=20)
    stage.say()
    stage.reconciler.reunited()
    await until(lambda: wire.sent, "an announcement")
    assert stage.say() == [(1, "192.0.2.10"), (2, "192.0.2.10")]


async def test_a_takeover_is_measured_by_phase(stage: Stage) -> None:
    theirs = address_of("b")
    stage.members = nodes("a b")
    stage.put(service("web", theirs), endpoints("b"))
    stage.sync()
    await stage.settled()
    stage.members = nodes("a")
    stage.reconciler.died(NodeName("b"))
    stage.dirty.set()
    await until(stage.engine.owned, "the takeover")
    for phase in ("decide", "announce"):
        assert stage.registry.get_sample_value("metallb_speaker_failover_seconds_count", {"phase": phase}) == 1
    assert stage.registry.get_sample_value("metallb_speaker_failover_seconds_count", {"phase": "detect"}) == 0


async def test_what_is_new_or_moves_by_plan_is_no_failover(stage: Stage) -> None:
    stage.put(service("web", "192.0.2.10"), endpoints("b"))
    stage.sync()
    await until(stage.engine.owned, "the announcement")
    assert stage.registry.get_sample_value("metallb_speaker_failover_seconds_count", {"phase": "announce"}) == 0
