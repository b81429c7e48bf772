"""The election is MetalLB's, bit for bit."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from config.model import NodeName
from speaker.election import elect, rank_hash


def names(text: str) -> list[NodeName]:
    return [NodeName(name) for name in text.split()]


@pytest.mark.parametrize(
    ("candidates", "address", "scores", "order"),
    [
        ("node-a node-b node-c", "10.0.0.1", {}, "node-b node-a node-c"),
        ("node-a node-b node-c", "10.0.0.2", {}, "node-b node-c node-a"),
        ("edge-a edge-b worker-a worker-b", "10.20.30.1", {"edge-a": 100}, "edge-a edge-b worker-a worker-b"),
        ("edge-a edge-b worker-a", "10.20.30.1", {"edge-a": 100, "edge-b": 100}, "edge-b edge-a worker-a"),
        ("iris1 iris2", "10.20.30.1", {}, "iris2 iris1"),
        ("kind-control-plane kind-worker kind-worker2", "192.168.10.0", {}, "kind-worker2 kind-worker kind-control-plane"),
        (
            "kind-control-plane kind-worker kind-worker2",
            "fc00:f853:0ccd:e799::0",
            {},
            "kind-worker kind-worker2 kind-control-plane",
        ),
    ],
)
def test_candidates_are_ranked_as_metallb_ranks_them(candidates: str, address: str, scores: dict[str, int], order: str) -> None:
    ranking = elect(ip_address(address), names(candidates), {NodeName(k): v for k, v in scores.items()})
    assert ranking == tuple(names(order))


@pytest.mark.parametrize(
    ("node", "digest"),
    [("node-b", "2acae88581fd8b47"), ("node-a", "dd41591fe8f31f9f"), ("node-c", "f949561f9d43a768")],
)
def test_the_hash_is_sha256_of_node_and_address(node: str, digest: str) -> None:
    assert rank_hash(NodeName(node), ip_address("10.0.0.1")).hex().startswith(digest)


def test_a_mapped_address_counts_as_the_ipv4_address() -> None:
    assert rank_hash(NodeName("n"), ip_address("::ffff:10.0.0.1")) == rank_hash(NodeName("n"), ip_address("10.0.0.1"))


def test_nobody_is_elected_among_none() -> None:
    assert elect(ip_address("10.0.0.1"), [], {}) == ()
