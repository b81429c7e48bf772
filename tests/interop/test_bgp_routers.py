"""Routes reach FRR and BIRD through our ExaBGP, and go again, whatever dies meanwhile.

The supervisor runs in a network namespace of its own, each router in one of its own, with a cable to each.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from config.model import Community
from speaker.bgp.model import Family, Neighbor, Prefix, Route
from tests.interop.bgp import Running, by_prefix, running
from tests.interop.peers import Daemons, run, wait, wired

pytestmark = [pytest.mark.needs("root", "vtysh", "bird"), pytest.mark.timeout(180)]

BOTH = (Family.IPV4, Family.IPV6)
TO_FRR = Neighbor(
    name="frr",
    peer=ip_address("192.0.2.1"),
    local=ip_address("192.0.2.10"),
    local_as=4200000001,
    peer_as=65001,
    router_id=IPv4Address("192.0.2.10"),
    hold_time_s=9,
    families=BOTH,
    password="old;{}'s3cret",
)
TO_BIRD = Neighbor(
    name="bird",
    peer=ip_address("2001:db8:2::1"),
    local=None,
    local_as=65000,
    peer_as=65000,
    router_id=IPv4Address("192.0.2.10"),
    hold_time_s=9,
    families=BOTH,
    extended_next_hop=True,
)
FRR_CONFIG = """
router bgp 65001
 bgp router-id 192.0.2.1
 no bgp ebgp-requires-policy
 neighbor 192.0.2.10 remote-as 4200000001
 neighbor 192.0.2.10 password old;{}'s3cret
 neighbor 192.0.2.10 timers connect 1
 address-family ipv6 unicast
  neighbor 192.0.2.10 activate
 exit-address-family
"""
BIRD_CONFIG = """
router id 198.51.100.1;
protocol device { }
protocol bgp ours {
  local 2001:db8:2::1 as 65000;
  neighbor 2001:db8:2::10 as 65000;
  passive on;
  error wait time 1, 2;
  error forget time 1;
  ipv4 { import all; export none; extended next hop on; };
  ipv6 { import all; export none; };
}
"""


class Routers(Daemons):
    """bgpd and BIRD as route receivers."""

    def start(self) -> None:
        self.start_zebra()
        self.start_frr("bgpd", FRR_CONFIG)
        self.start_bird(BIRD_CONFIG)

    def frr_routes(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for family in ("ipv4", "ipv6"):
            try:
                routes = json.loads(self.frr(f"show bgp {family} unicast json")).get("routes", {})
            except (subprocess.CalledProcessError, json.JSONDecodeError):
                return {}
            found |= {prefix: paths[0] for prefix, paths in routes.items()}
        return found

    def bird_routes(self) -> dict[str, str]:
        """Prefix → all that BIRD says of it."""
        return by_prefix(run("birdc", "-s", str(self.folder / "bird.ctl"), "show route all"))


def route(text: str, next_hop: str = "", **more: Any) -> Route:
    return Route(ip_network(text), ip_address(next_hop) if next_hop else None, **more)


def table(*routes: Route) -> dict[Prefix, Route]:
    return {one.prefix: one for one in routes}


FOUR = route("198.18.0.1/32")
SIX_BY_FOUR = route("2001:db8:9::1/128", "2001:db8:1::10")
FOUR_BY_SIX = route("198.18.0.1/32", "2001:db8:2::10", local_pref=200)
SIX = route("2001:db8:9::1/128", local_pref=200, communities=(Community((65000, 7)), Community((65000, 1, 2))))
ROUTES = {TO_FRR.key: table(FOUR, SIX_BY_FOUR), TO_BIRD.key: table(FOUR_BY_SIX, SIX)}


@pytest.fixture
def routers(tmp_path: Path) -> Iterator[Routers]:
    with wired():
        made = Routers(tmp_path)
        try:
            made.start()
            yield made
        finally:
            made.stop()


async def test_routes_of_both_families_reach_routers_over_sessions_of_either_and_outlive_every_death(
    routers: Routers, tmp_path: Path
) -> None:
    async with running(tmp_path / "run") as us:
        us.want([TO_FRR, TO_BIRD], ROUTES)
        everything = {"198.18.0.1/32", "2001:db8:9::1/128"}
        await us.until(lambda: routers.frr_routes().keys() == everything, "FRR has both routes")
        await us.until(lambda: routers.bird_routes().keys() == everything, "BIRD has both routes")
        frr, bird = routers.frr_routes(), routers.bird_routes()
        assert [hop["ip"] for hop in frr["198.18.0.1/32"]["nexthops"]] == ["192.0.2.10"]
        assert "2001:db8:1::10" in [hop["ip"] for hop in frr["2001:db8:9::1/128"]["nexthops"]]
        assert frr["198.18.0.1/32"]["path"] == "4200000001"
        assert "BGP.next_hop: 2001:db8:2::10" in bird["198.18.0.1/32"]
        for words in ("BGP.local_pref: 200", "BGP.community: (65000,7)", "BGP.large_community: (65000, 1, 2)"):
            assert words in bird["2001:db8:9::1/128"]

        # The configuration changes: one session more attributes, the other goes, and comes back.
        us.want([TO_FRR], {TO_FRR.key: table(FOUR)})
        await us.until(lambda: routers.frr_routes().keys() == {"198.18.0.1/32"}, "FRR loses a route")
        await us.until(lambda: not routers.bird_routes(), "BIRD loses all")
        us.want([replace(TO_FRR, hold_time_s=12), TO_BIRD], ROUTES)
        await us.until(lambda: routers.frr_routes().keys() == everything, "FRR has both routes again")
        await us.until(lambda: routers.bird_routes().keys() == everything, "BIRD has both routes again")
        await us.until(lambda: us.supervisor.sessions.states[TO_FRR.key].hold_time_s == 12, "the new hold time")

        # Everybody dies once; meanwhile something else is wanted.
        fewer = {TO_FRR.key: table(SIX_BY_FOUR), TO_BIRD.key: table(SIX)}
        for number, victim in enumerate(("exabgp", "helper", "bird", "frozen exabgp")):
            await us.until(lambda: us.established(TO_FRR, TO_BIRD), f"all sessions before {victim} dies")
            if victim == "bird":
                routers.running["bird"].kill()
                routers.running["bird"].wait()
                routers.start_bird(BIRD_CONFIG)
            elif victim == "frozen exabgp":
                os.kill(us.children()["exabgp"], signal.SIGSTOP)
            else:
                os.kill(us.children()[victim], signal.SIGKILL)
            wanted = ROUTES if number % 2 else fewer
            us.want([replace(TO_FRR, hold_time_s=12), TO_BIRD], wanted)
            prefixes = {str(prefix) for prefix in wanted[TO_FRR.key]}
            await us.until(lambda: routers.frr_routes().keys() == prefixes, f"FRR agrees after {victim} died")  # noqa: B023
            await us.until(lambda: routers.bird_routes().keys() == prefixes, f"BIRD agrees after {victim} died")  # noqa: B023
        assert us.supervisor.restarts == 3

        await us.until(lambda: len(us.children()) == 2, "ExaBGP and its helper run")
        children = us.children()
        privileges_are_dropped(children["exabgp"], us.user or 0)
        secrets_are_kept(children.values(), us, tmp_path / "run" / "exabgp.conf")
    assert not us.children()
    wait(lambda: not routers.frr_routes(), "FRR has no route once nobody speaks to it")


def privileges_are_dropped(pid: int, user: int) -> None:
    status = Path(f"/proc/{pid}/status").read_text()
    for words in (f"Uid:\t{user}\t{user}\t{user}", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"):
        assert words in status


def secrets_are_kept(pids: Iterable[int], us: Running, file: Path) -> None:
    assert (file.stat().st_mode & 0o777, file.stat().st_uid) == (0o600, us.user or 0)
    told = str(us.log.lines) + "".join(
        Path(f"/proc/{pid}/{what}").read_bytes().decode(errors="replace") for pid in pids for what in ("cmdline", "environ")
    )
    for secret in (TO_FRR.password, base64.b64encode(TO_FRR.password.encode()).decode()):
        assert secret in file.read_text() or secret == TO_FRR.password
        assert secret not in told
