"""The announcer hands to ExaBGP what was decided, when everything was, and tells who is to hear of what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest

from config.model import Config, Peer, PeerName, ServiceKey
from config.problem import Problem
from speaker.bgp.announcer import Announcer, SessionMetrics
from speaker.bgp.exabgp_api import Negotiated, PeerOpen, StateChange
from speaker.bgp.model import Family
from speaker.bgp.routes import Decision
from speaker.bgp.supervisor import Supervisor
from speaker.world import Service, World
from tests.unit.speaker.bgp.test_routes import ME, NO_SIX, ONE, SITE, TWO, a_cluster, an_ad, router, web
from tests.wires import Lines

WEB, OTHER = ServiceKey("default/web"), ServiceKey("default/other")


class Stage:
    """An announcer with a real supervisor whose ExaBGP does not run."""

    def __init__(self, folder: Path) -> None:
        self.site = SITE
        self.cluster = a_cluster(an_ad(aggregation_length=24))
        self.heard: list[tuple[str, tuple[str, ...]]] = []
        self.completed = 0
        self.said: Sequence[Problem] = ()
        self.supervisor = Supervisor(folder, Lines(), on_change=lambda: None, user=None)
        self.announcer = Announcer(self.supervisor, lambda: self.site, self)

    def decided(self, key: ServiceKey, service: Service | None, before: Decision | None, after: Decision | None) -> None:
        """What reporting is tested by itself."""

    def peers(self, service: ServiceKey, peers: Sequence[PeerName]) -> None:
        self.heard.append((service, tuple(peers)))

    def complete(self) -> None:
        self.completed += 1

    def problems(self, problems: Sequence[Problem]) -> None:
        self.said = problems

    def decide(self, key: ServiceKey, service: Service | None) -> None:
        self.announcer.decide(key, service, World(ME, self.cluster))

    def wanted(self) -> dict[str, list[str]]:
        return {str(key.peer): sorted(map(str, one.want)) for key, one in self.supervisor.sessions.states.items()}

    def look(self, *peers: Peer) -> None:
        self.announcer.look(Config(peers=peers))


def test_nothing_is_handed_over_before_everything_was_decided(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.look(ONE, TWO)
    stage.decide(WEB, web())
    stage.announcer.carry_out(all_decided=False)
    assert (stage.wanted(), stage.completed) == ({}, 0)
    stage.announcer.carry_out(all_decided=True)
    stage.announcer.carry_out(all_decided=False)
    assert stage.wanted() == {"192.0.2.1": ["198.51.100.0/24"], "192.0.2.2": ["198.51.100.0/24"]}
    assert stage.completed == 1


def test_services_of_one_aggregate_hear_of_each_others_peers(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.look(ONE, TWO)
    stage.cluster = a_cluster(an_ad(aggregation_length=24, peers="one"))
    stage.decide(WEB, web())
    stage.cluster = a_cluster(an_ad(aggregation_length=24, peers="two"))
    stage.decide(OTHER, replace(web("198.51.100.8"), key=OTHER))
    assert stage.heard[0] == (WEB, ("one",))
    assert sorted(stage.heard[1:]) == [(OTHER, ("one", "two")), (WEB, ("one", "two"))]
    stage.decide(WEB, None)
    assert dict(stage.heard) == {WEB: (), OTHER: ("two",)}


def test_a_peer_that_goes_is_told_of_and_its_session_forgotten(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.look(ONE, TWO)
    stage.decide(WEB, web())
    stage.announcer.carry_out(all_decided=True)
    stage.look(TWO)
    stage.announcer.carry_out(all_decided=True)
    assert dict(stage.heard) == {WEB: ("two",)}
    assert list(stage.wanted()) == ["192.0.2.2"]


def test_a_router_with_a_dynamic_as_is_remembered_by_what_it_said(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    config = Config(peers=(replace(router("any", 9), peer_asn=None, dynamic_asn="external"),))
    stage.announcer.look(config)
    stage.announcer.carry_out(all_decided=True)
    (peering,) = stage.announcer.neighborhood.peerings
    stage.supervisor.sessions.heard(PeerOpen(peering.neighbor.key, 4200000000, "192.0.2.9", 90, None), 0.0)
    stage.announcer.look(config)
    assert stage.announcer.neighborhood.peerings[0].neighbor.peer_as == 4200000000


def test_a_change_of_the_node_is_noticed_and_problems_are_told(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    dual = router("dual", 3, dual_stack=True)
    stage.look(dual)
    assert list(stage.said) == []
    stage.site = NO_SIX
    stage.look(dual)
    assert [one.code for one in stage.said] == ["no-next-hop"]


def test_the_metrics_and_the_report_show_each_session(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.look(ONE, router("six", 4, address=ip_address("2001:db8:1::4")))
    stage.decide(WEB, web())
    stage.announcer.carry_out(all_decided=True)
    key = stage.announcer.neighborhood.peerings[0].neighbor.key
    stage.supervisor.sessions.started()
    up = replace(key, local=ip_address("192.0.2.10"))
    stage.supervisor.sessions.heard(Negotiated(up, frozenset({Family.IPV4}), 90), 0.0)
    stage.supervisor.sessions.heard(StateChange(up, up=True), 0.0)
    registry = CollectorRegistry()
    registry.register(SessionMetrics(stage.announcer))
    lines = generate_latest(registry).decode().splitlines()
    for name in ("session_up", "announced_prefixes_total", "pending_prefixes_total", "updates_total"):
        assert f'metallb_bgp_{name}{{peer="192.0.2.1:179"}} 1.0' in lines
    assert 'metallb_bgp_session_up{peer="[2001:db8:1::4]:179"} 0.0' in lines
    report = stage.announcer.report()
    assert {name: one["up"] for name, one in report["peers"].items()} == {"one": True, "six": False}
    assert report["services"][WEB]["one"]["prefixes"] == ["198.51.100.0/24"]
