"""What speakers tell each other over the gossip beside being alive: the MAC addresses that they announce with.

membership.py sends encode()'s bytes with every exchange of member tables and reads those of others with Peers. MetalLB's own
speakers ignore such bytes. The answer to "is this MAC address one of ours?" only sets the tone: a claim of a speaker is settled
by the election, one of a stranger is reported. Bytes that cannot be read are ignored, and so is what is said in the name of a node that
is no member.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from config.model import NodeName

MACS_MAX = 64
LENGTH_MAX = 4096


class _Card(msgspec.Struct, frozen=True, tag_field="kind", tag="lb.metallb-py.io/v1"):
    """Who I am, and the MAC addresses of my interfaces as 12 hexadecimal digits."""

    node: str
    macs: tuple[str, ...]


def encode(node: NodeName, macs: Iterable[bytes]) -> bytes:
    """What to tell the others."""
    return msgspec.json.encode(_Card(node, tuple(sorted(mac.hex() for mac in macs))[:MACS_MAX]))


def decode(data: bytes) -> tuple[NodeName, frozenset[bytes]] | None:
    """Who says so, and the MAC addresses; None if the bytes say something else."""
    if len(data) > LENGTH_MAX:
        return None
    try:
        card = msgspec.json.decode(data, type=_Card)
        macs = frozenset(bytes.fromhex(text) for text in card.macs[:MACS_MAX])
    except (msgspec.DecodeError, ValueError):
        return None
    return NodeName(card.node), frozenset(mac for mac in macs if len(mac) == 6)


class Peers:
    """The MAC addresses of the other speakers that have been members; one that is cut off is still one of ours."""

    def __init__(self) -> None:
        self._macs: dict[NodeName, frozenset[bytes]] = {}

    def learn(self, data: bytes, members: frozenset[NodeName]) -> bool:
        """Take in what a member says; whether it was news."""
        said = decode(data)
        if said is None or said[0] not in members or self._macs.get(said[0]) == said[1]:
            return False
        self._macs[said[0]] = said[1]
        return True

    def node_of(self) -> Mapping[bytes, NodeName]:
        """The node of each MAC address; of one that two nodes claim, the first by name."""
        return {mac: node for node in sorted(self._macs, reverse=True) for mac in self._macs[node]}
