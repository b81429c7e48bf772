"""What speakers tell each other over the gossip beside being alive: the MAC addresses they announce with, and which run they are.

membership.py sends encode()'s bytes with every exchange of member tables and reads those of others with Peers. MetalLB's own
speakers ignore such bytes. The answer to "is this MAC address one of ours?" only sets the tone: a claim of a speaker is settled
by the election, one of a stranger is reported. A member that was lost and returns as the same run was cut off and lived: it may have
claimed what is owned here, which a speaker that was started anew cannot have. Bytes that cannot be read are ignored, and so is what is said in the name of a node that
is no member.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from config.model import NodeName

MACS_MAX = 64
LENGTH_MAX = 4096


class _Card(msgspec.Struct, frozen=True, tag_field="kind", tag="lb.metallb-py.io/v1"):
    """Who I am, the MAC addresses of my interfaces as 12 hexadecimal digits, and a word that no other process of mine had."""

    node: str
    macs: tuple[str, ...]
    run: str = ""


@dataclass(frozen=True, slots=True)
class Card:
    """What a speaker said of itself. MAC addresses have 6 bytes."""

    node: NodeName
    macs: frozenset[bytes]
    run: str


def encode(node: NodeName, macs: Iterable[bytes], run: str) -> bytes:
    """What to tell the others."""
    return msgspec.json.encode(_Card(node, tuple(sorted(mac.hex() for mac in macs))[:MACS_MAX], run))


def decode(data: bytes) -> Card | None:
    """What is said; None if the bytes say something else."""
    if len(data) > LENGTH_MAX:
        return None
    try:
        card = msgspec.json.decode(data, type=_Card)
        macs = frozenset(bytes.fromhex(text) for text in card.macs[:MACS_MAX])
    except (msgspec.DecodeError, ValueError):
        return None
    return Card(NodeName(card.node), frozenset(mac for mac in macs if len(mac) == 6), card.run)


class Peers:
    """What the other speakers that have been members said of themselves; one that is cut off is still one of ours."""

    def __init__(self) -> None:
        self._cards: dict[NodeName, Card] = {}
        self._lost: set[NodeName] = set()

    def lost(self, node: NodeName) -> None:
        """A member was declared dead."""
        self._lost.add(node)

    def learn(self, data: bytes, members: frozenset[NodeName]) -> bool:
        """Take in what a member says; whether it was lost and is the same run, so that it was cut off and lived."""
        card = decode(data)
        if card is None or card.node not in members:
            return False
        before = self._cards.get(card.node)
        self._cards[card.node] = card
        was_lost = card.node in self._lost
        self._lost.discard(card.node)
        return was_lost and before is not None and before.run == card.run != ""

    def node_of(self) -> Mapping[bytes, NodeName]:
        """The node of each MAC address; of one that two nodes claim, the first by name."""
        return {mac: node for node in sorted(self._cards, reverse=True) for mac in self._cards[node].macs}
