"""From the YAML that users write to BIRD's tables: at every step BIRD has what was planned, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv6Address, ip_address, ip_interface
from pathlib import Path

import pytest

from config.compile import compile_config
from config.cross import PasswordSecret, Surroundings
from config.model import Community, InterfaceName, NodeName, PeerName
from config.yaml_text import load_all
from speaker.bgp.model import Prefix, Route
from speaker.bgp.neighbors import Neighborhood, Site, neighborhood
from speaker.bgp.routes import Table, decide
from speaker.reason import Reason
from speaker.world import Cluster, Node, Service, TrafficPolicy
from tests.builders_speaker import a_service
from tests.interop.bgp import Running, by_prefix, running
from tests.interop.peers import Daemons, run, wired

pytestmark = [pytest.mark.needs("root", "bird"), pytest.mark.timeout(120)]

YAML = """
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: pool, namespace: metallb-system}
spec: {addresses: [198.18.0.0/24, "2001:db8:9::/120"]}
---
apiVersion: metallb.io/v1beta1
kind: Community
metadata: {name: names, namespace: metallb-system}
spec: {communities: [{name: no-advertise, value: "65535:65282"}, {name: rack, value: "large:65000:1:2"}]}
---
apiVersion: metallb.io/v1beta2
kind: BGPPeer
metadata: {name: outside, namespace: metallb-system}
spec:
  {myASN: 65000, peerASN: 65001, peerAddress: 198.51.100.1, holdTime: 9s, passwordSecret: {name: outside}, connectTime: 5s,
   dualStackAddressFamily: true}
---
apiVersion: metallb.io/v1beta2
kind: BGPPeer
metadata: {name: inside, namespace: metallb-system}
spec:
  {myASN: 65000, dynamicASN: internal, peerAddress: "2001:db8:2::1", holdTime: 9s, dualStackAddressFamily: true,
   enableGracefulRestart: true}
---
apiVersion: metallb.io/v1beta2
kind: BGPPeer
metadata: {name: without-vrf, namespace: metallb-system}
spec: {myASN: 65000, peerASN: 65002, peerAddress: 198.51.100.77, vrf: missing}
---
apiVersion: metallb.io/v1beta1
kind: BGPAdvertisement
metadata: {name: each, namespace: metallb-system}
spec: {localPref: 300, communities: ["65000:1", rack]}
---
apiVersion: metallb.io/v1beta1
kind: BGPAdvertisement
metadata: {name: wide, namespace: metallb-system}
spec: {aggregationLength: 24, aggregationLengthV6: 120, peers: [outside, nobody], communities: ["65000:2"]}
"""
MARKED = """---
apiVersion: metallb.io/v1beta1
kind: BGPAdvertisement
metadata: {name: marked, namespace: metallb-system}
spec: {localPref: 300, serviceSelectors: [{matchLabels: {mark: "yes"}}], communities: [no-advertise]}
"""
BIRD_CONFIG = """
router id 198.51.100.1;
protocol device { }
ipv4 table outside4; ipv6 table outside6; ipv4 table inside4; ipv6 table inside6;
template bgp ours { passive on; error wait time 1, 2; error forget time 1; }
protocol bgp outside from ours {
  local 198.51.100.1 as 65001;
  neighbor 198.51.100.10 as 65000;
  password "s3cret {;}";
  ipv4 { table outside4; import all; export none; };
  ipv6 { table outside6; import all; export none; };
}
protocol bgp inside from ours {
  local 2001:db8:2::1 as 65000;
  neighbor 2001:db8:2::10 as 65000;
  ipv4 { table inside4; import all; export none; };
  ipv6 { table inside6; import all; export none; };
}
"""
ME = NodeName("node")
OUR_ADDRESSES = {4: ip_address("198.51.100.10"), 6: ip_address("2001:db8:2::10")}
SITE = Site(
    node=ME,
    namespace="metallb-system",
    links={InterfaceName("bird"): (ip_interface("198.51.100.10/24"), ip_interface("2001:db8:2::10/64"))},
    secrets={"outside": b"s3cret {;}"},
)


@dataclass(frozen=True, slots=True)
class Seen:
    """A route as far as it is ours to decide. Preferences stay inside an AS."""

    next_hop: str
    local_pref: int | None
    communities: frozenset[Community]


class Router(Daemons):
    """One BIRD with a session of each kind, and tables for each."""

    def tables(self) -> dict[str, dict[str, Seen]]:
        return {peer: self._table(f"{peer}4") | self._table(f"{peer}6") for peer in ("outside", "inside")}

    def main_table(self) -> dict[str, str]:
        return by_prefix(run("birdc", "-s", str(self.folder / "bird.ctl"), "show route all"))

    def _table(self, name: str) -> dict[str, Seen]:
        text = run("birdc", "-s", str(self.folder / "bird.ctl"), f"show route all table {name}")
        return {prefix: _seen(part, internal=name.startswith("inside")) for prefix, part in by_prefix(text).items()}


def _seen(text: str, *, internal: bool) -> Seen:
    hop = re.search(r"BGP.next_hop: (\S+)", text)
    preference = re.search(r"BGP.local_pref: (\d+)", text)
    plain = re.findall(r"\((\d+),(\d+)\)", text)
    large = re.findall(r"\((\d+), (\d+), (\d+)\)", text)
    return Seen(
        hop[1] if hop else "",
        int(preference[1]) if preference and internal else None,
        frozenset(Community(tuple(map(int, parts))) for parts in [*plain, *large]),
    )


def planned(table: Table, sight: Neighborhood) -> dict[str, dict[str, Seen]]:
    """The same of what was decided."""
    return {
        peering.peer: {
            str(prefix): _planned(prefix, route, internal=peering.neighbor.local_as == peering.neighbor.peer_as)
            for prefix, route in table.routes[peering.neighbor.key].items()
        }
        for peering in sight.peerings
    }


def _planned(prefix: Prefix, route: Route, *, internal: bool) -> Seen:
    hop = route.next_hop or OUR_ADDRESSES[prefix.version]
    return Seen(str(hop), (route.local_pref or 100) if internal else None, frozenset(route.communities))


@pytest.fixture
def router(tmp_path: Path) -> Iterator[Router]:
    with wired():
        made = Router(tmp_path)
        try:
            made.start_bird(BIRD_CONFIG)
            yield made
        finally:
            made.stop()


def a_cluster(yaml: str, *, node: Node) -> Cluster:
    around = Surroundings(
        mode="frr",
        nodes={ME: dict(node.labels)},
        node=ME,
        secrets={"outside": PasswordSecret("kubernetes.io/basic-auth", True)},
    )
    compiled = compile_config(load_all(yaml), {}, {}, around)
    assert not compiled.problems
    return Cluster(compiled.config, {ME: node}, None)


WEB = a_service("web", "198.18.0.1 2001:db8:9::1", ready_on="node other")
API = a_service("api", "198.18.0.2", ready_on="node", policy=TrafficPolicy.LOCAL)
STEPS: Mapping[str, tuple[str, Node, tuple[Service, ...], set[str]]] = {
    "two Services": (YAML, Node(ME), (WEB, API), {"198.18.0.1/32", "2001:db8:9::1/128", "198.18.0.2/32"}),
    "one loses its endpoint here": (
        YAML, Node(ME), (WEB, replace(API, ready_nodes=frozenset({NodeName("other")}))), {"198.18.0.1/32", "2001:db8:9::1/128"},
    ),
    "an advertisement for one of them": (
        YAML + MARKED, Node(ME), (replace(WEB, labels={"mark": "yes"}), API),
        {"198.18.0.1/32", "2001:db8:9::1/128", "198.18.0.2/32"},
    ),
    "the node is excluded": (YAML, Node(ME, excluded=True), (WEB, API), set()),
    "it is back, with another address": (
        YAML, Node(ME), (replace(WEB, addresses=(IPv6Address("2001:db8:9::5"),)),), {"2001:db8:9::5/128"},
    ),
}  # fmt: skip


async def test_bird_has_what_the_yaml_means_step_by_step(router: Router, tmp_path: Path) -> None:
    async with running(tmp_path / "run") as us:
        table = Table()
        for what, (yaml, node, services, expected) in STEPS.items():
            sight = take(table, us, a_cluster(yaml, node=node), services)
            plan = planned(table, sight)
            assert plan["inside"].keys() == expected, what
            await us.until(lambda: router.tables() == plan, f"{what}: {plan}")  # noqa: B023
        aggregates = {"198.18.0.0/24", "2001:db8:9::/120"}
        assert plan["outside"].keys() - plan["inside"].keys() == aggregates & plan["outside"].keys() == {"2001:db8:9::/120"}
        verdicts = {verdict.peer: verdict.reason for verdict in table.verdicts(WEB.key)}
        assert verdicts[PeerName("without-vrf")] is Reason.PEER_REFUSED
        assert "s3cret" not in f"{us.log.lines}{sight}{SITE}{table.routes}"


def take(table: Table, us: Running, cluster: Cluster, services: tuple[Service, ...]) -> Neighborhood:
    """Do what a speaker does after any change."""
    sight = neighborhood(cluster.config, SITE)
    assert [problem.path for problem in sight.problems] == ["spec.vrf"]
    table.meet(sight)
    for key in table.decisions.keys() - {service.key for service in services}:
        table.forget(key)
    for service in services:
        table.adopt(decide(service, cluster, ME))
    us.want([peering.neighbor for peering in sight.peerings], table.routes)
    return sight


DYNAMIC = """
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: pool, namespace: metallb-system}
spec: {addresses: [198.18.0.0/24]}
---
apiVersion: metallb.io/v1beta2
kind: BGPPeer
metadata: {name: dynamic, namespace: metallb-system}
spec: {myASN: 65000, dynamicASN: external, peerAddress: 198.51.100.1, holdTime: 9s}
---
apiVersion: metallb.io/v1beta1
kind: BGPAdvertisement
metadata: {name: each, namespace: metallb-system}
"""
DYNAMIC_BIRD = """
router id 198.51.100.1;
protocol device {{ }}
protocol bgp ours {{
  passive on; error wait time 1, 2; error forget time 1;
  local 198.51.100.1 as {asn};
  neighbor 198.51.100.10 as 65000;
  ipv4 {{ import all; export none; }};
}}
"""


async def test_an_external_router_of_unknown_as_is_told_once_it_has_one_that_is_not_ours(
    router: Router, tmp_path: Path
) -> None:
    cluster, asns, table = a_cluster(DYNAMIC, node=Node(ME)), dict[PeerName, int](), Table()
    table.adopt(decide(a_service("web", "198.18.0.1"), cluster, ME))

    async with running(tmp_path / "run") as us:

        def learn() -> dict[PeerName, int]:
            """Do what a speaker does when a router has said something."""
            for state in us.supervisor.sessions.states.values():
                if state.peer is not None:
                    asns[PeerName(state.neighbor.name)] = state.peer.asn
            sight = neighborhood(cluster.config, replace(SITE, asns=dict(asns)))
            table.meet(sight)
            us.want([peering.neighbor for peering in sight.peerings], table.routes)
            return asns

        for asn, told in ((65000, False), (4200000001, True), (65009, True)):
            router.stop()
            router.start_bird(DYNAMIC_BIRD.format(asn=asn))
            await us.until(lambda: learn() == {"dynamic": asn}, f"AS {asn} is learned")  # noqa: B023
            if told:
                await us.until(lambda: "198.18.0.1/32" in router.main_table(), f"AS {asn} has the route")
            assert router.main_table().keys() <= ({"198.18.0.1/32"} if told else set())
