"""ExaBGP's file: what we let pass ExaBGP accepts, and what it would refuse we find out before."""

import subprocess
import sys
from dataclasses import replace
from ipaddress import IPv4Address, ip_address
from pathlib import Path

import pytest

from speaker.bgp.exabgp_config import check, generation_tag, render
from speaker.bgp.model import Family, Neighbor
from tests.unit.speaker.bgp.neighbors import ANY_SOURCE, ROUTER

LINK_LOCAL = replace(
    ROUTER, name="unnumbered", peer=ip_address("fe80::1"), local=None, interface="eth0", extended_next_hop=True
)
FULL = replace(
    ROUTER,
    name="full",
    peer=ip_address("192.0.2.3"),
    port=1179,
    hold_time_s=3,
    graceful_restart_s=99999,
    outgoing_ttl=255,
    incoming_ttl=255,
    password="p {};#\"' ss\N{LATIN SMALL LETTER E WITH ACUTE}",
)
SIX = replace(ROUTER, name="six", peer=ip_address("2001:db8::1"), local=None, families=(Family.IPV6,), hold_time_s=0)
PASSIVE = replace(ROUTER, name="passive", peer=ip_address("192.0.2.4"), passive=True)
DYNAMIC = replace(ROUTER, name="dynamic", peer=ip_address("192.0.2.5"), peer_as=None)


@pytest.mark.parametrize(
    "neighbors", [[], [ROUTER], [ROUTER, ANY_SOURCE, LINK_LOCAL, FULL, SIX, PASSIVE, DYNAMIC]], ids=["none", "one", "all forms"]
)
def test_exabgp_accepts_what_is_rendered(neighbors: list[Neighbor], tmp_path: Path) -> None:
    assert check(neighbors) == {}
    file = tmp_path / "exabgp.conf"
    file.write_text(render(neighbors, run=f"{Path(sys.executable).resolve()} -SE /dev/null", generation=7))
    words = [sys.executable, "-m", "exabgp", "validate", "-n", "-r", str(file)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("neighbor", "problem"),
    [
        (replace(ROUTER, password="x" * 81), "the password has 81 bytes"),
        (replace(ROUTER, hold_time_s=2), "holdTime 2s is neither 0 nor from 3s"),
        (replace(ROUTER, hold_time_s=65536), "holdTime 65536s"),
        (replace(ROUTER, peer_as=0), "peerASN 0 is not from 1"),
        (replace(ROUTER, local_as=2**32), "myASN 4294967296"),
        (replace(LINK_LOCAL, interface=""), "no interface is named"),
    ],
)
def test_what_exabgp_would_refuse_costs_only_that_neighbor(neighbor: Neighbor, problem: str) -> None:
    (found,) = check([neighbor, ANY_SOURCE]).items()
    assert found[0] == neighbor.name
    assert problem in found[1].message


def test_two_neighbors_that_exabgp_cannot_tell_apart_are_found() -> None:
    twin = replace(ROUTER, name="twin", port=1179)
    assert "as by BGPPeer router" in check([ROUTER, twin])["twin"].message
    assert check([ROUTER, replace(twin, router_id=IPv4Address("192.0.2.99"))]) == {}


def test_the_longest_password_and_the_shortest_hold_times_pass() -> None:
    assert check([replace(ROUTER, password="x" * 80, hold_time_s=3)]) == {}
    assert check([replace(ROUTER, hold_time_s=0)]) == {}


def test_the_file_is_the_same_for_the_same_neighbors_in_any_order() -> None:
    one = render([ROUTER, ANY_SOURCE], run="/bin/true", generation=1)
    assert one == render([ANY_SOURCE, ROUTER], run="/bin/true", generation=1)
    assert generation_tag(1) in one
    assert one != render([ROUTER, ANY_SOURCE], run="/bin/true", generation=2)


def test_a_password_is_never_shown() -> None:
    assert "x1y2z3" not in repr(replace(ROUTER, password="x1y2z3"))
