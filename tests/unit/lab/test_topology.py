from ipaddress import IPv4Address, IPv4Network, IPv6Address
from pathlib import Path

import pytest

from lab import topology
from lab.topology import TopologyError


def test_the_default_lab_leaves_the_tutorials_pool_free() -> None:
    lab = topology.plan("labx")
    assert [node.name for node in lab.nodes] == ["n1", "n2", "n3"]
    assert all(machine.ip < IPv4Address("192.168.20.20") for machine in lab.machines)
    assert all(machine.ip in lab.network for machine in lab.machines)


@pytest.mark.parametrize("nodes", [1, 9, 10, 20, 200])
def test_every_machine_has_its_own_address_mac_and_pod_network(nodes: int) -> None:
    lab = topology.plan("labx", nodes=nodes)
    assert len({machine.ip for machine in lab.machines}) == nodes + 2
    assert len({machine.ip6 for machine in lab.machines}) == nodes + 2
    assert all(machine.ip6 in topology.NETWORK6 for machine in lab.machines)
    assert len({machine.mac for machine in lab.machines}) == nodes + 2
    assert len({node.pod_network for node in lab.nodes}) == nodes
    assert all(node.pod_network.subnet_of(topology.POD_NETWORK) for node in lab.nodes)


def test_a_bigger_network_keeps_its_first_256_addresses_free_of_nodes() -> None:
    lab = topology.plan("labx", nodes=20, network=IPv4Network("10.10.0.0/22"))
    assert lab.nodes[0].ip == IPv4Address("10.10.1.11")
    assert lab.control_plane.ip == IPv4Address("10.10.0.2")


@pytest.mark.parametrize(
    ("nodes", "network", "words"),
    [
        (0, None, "1 to 200 nodes, not 0"),
        (201, None, "1 to 200 nodes"),
        (10, "192.168.20.0/24", "a /24 holds 9"),
        (2, "192.168.20.0/28", "no room for 2 nodes"),
        (3, "198.18.4.0/24", "overlaps with 198.18.0.0/15"),
        (3, "10.0.0.0/8", "uses for Services"),
    ],
)
def test_a_lab_that_cannot_be_is_refused_with_a_remedy(nodes: int, network: str | None, words: str) -> None:
    with pytest.raises(TopologyError, match=words):
        topology.plan("labx", nodes=nodes, network=IPv4Network(network) if network else None)


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    lab = topology.plan("labx", nodes=2)
    with pytest.raises(TopologyError, match="its nodes are n1, n2"):
        lab.node("n3")
    with pytest.raises(TopologyError, match="cp, client, n1, n2"):
        lab.machine("router")
    assert lab.machine("client") is lab.client
    assert lab.node("n2") is lab.nodes[1]


def test_pods_get_addresses_beside_their_gateway() -> None:
    node = topology.plan("labx").nodes[0]
    addresses = list(node.pod_addresses())
    assert addresses[0] == (IPv4Address("198.18.1.2"), IPv6Address("2001:db8:198:1::2"))
    assert addresses[-1][0] == IPv4Address("198.18.1.254")
    assert all(node.pod_gateway != four and node.pod_gateway6 != six for four, six in addresses)


def test_the_ipv6_address_of_a_machine_ends_in_the_digits_of_its_ipv4_address() -> None:
    lab = topology.plan("labx", nodes=20)
    assert (str(lab.client.ip6), str(lab.nodes[0].ip6)) == ("2001:db8:20::3", "2001:db8:20::267")
    assert str(topology.plan("labx").nodes[0].ip6) == "2001:db8:20::11"


def test_two_state_directories_make_two_identities(tmp_path: Path) -> None:
    assert topology.lab_id(tmp_path / "a") != topology.lab_id(tmp_path / "b")
    assert topology.lab_id(tmp_path / "a") == topology.lab_id(tmp_path / "b" / ".." / "a")
    assert topology.plan(topology.lab_id(tmp_path)).netns("n1").endswith("-n1")
