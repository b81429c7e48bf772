"""Decide which node announces an address.

Every speaker runs this on the same inputs and must reach the same answer, because nobody asks anyone: two winners mean two
MAC addresses for one address. So: no clocks, no randomness, no iteration over sets, no knowledge of who "we" are. The hash
is MetalLB's, so that speakers of both kinds can serve one cluster. Called by plan.decide() and by lbctl.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256

from config.model import IPAddress, NodeName


def rank_hash(node: NodeName, address: IPAddress) -> bytes:
    """The 32 bytes that order the candidates of an address: SHA-256 of "node#address".

    The address is in canonical text (RFC 5952 for IPv6); an IPv4-mapped IPv6 address counts as the IPv4 address.
    """
    if address.version == 6 and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return sha256(f"{node}#{address}".encode()).digest()


def elect(address: IPAddress, candidates: Iterable[NodeName], scores: Mapping[NodeName, int]) -> tuple[NodeName, ...]:
    """Rank the candidates for an address, the winner first.

    A higher score (preferred nodes) comes first, then the lower hash as an unsigned big-endian number. Removing a candidate
    never changes the order of the others. Nodes without a score have 0.
    """
    return tuple(sorted(candidates, key=lambda node: (-scores.get(node, 0), rank_hash(node, address), node)))
