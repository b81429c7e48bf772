"""Spread addresses evenly over the nodes that may announce them, close to what the hash says.

Called by plan.decide() where an L2Advertisement has the annotation lb.metallb-py.io/election: balanced. Every speaker computes all
of it alike, from facts that all share: no clocks, no memory of who had an address, no order of arrival. It elects nobody by itself:
it is given the ranking of each address. What it refuses: to send an address to a node that is not among the best for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from config.model import IPAddress, NodeName
from speaker.election import rank_hash


def spread(best: Mapping[IPAddress, Sequence[NodeName]]) -> dict[IPAddress, NodeName]:
    """Who is to have each address, given the nodes that are equally good for it, ranked by hash, at least one.

    The first of each ranking, except that nodes with more than others give some up, to the node that has least; those go first that
    the hash gave them by the smallest margin. Where all nodes may have all addresses, their numbers differ by one at most. A change
    of the addresses or of the nodes moves little beside what it concerns: see the properties.
    """
    owner = {address: ranking[0] for address, ranking in best.items()}
    held: dict[NodeName, list[IPAddress]] = {node: [] for ranking in best.values() for node in ranking}
    for address, node in owner.items():
        held[node].append(address)
    for node, addresses in held.items():
        addresses.sort(key=lambda address, node=node: rank_hash(node, address))  # type: ignore[misc]  # mypy cannot type a default.
    while (move := _next_move(best, held)) is not None:
        address, source, target = move
        held[source].remove(address)
        held[target].insert(0, address)
        owner[address] = target
    return owner


def _next_move(
    best: Mapping[IPAddress, Sequence[NodeName]], held: Mapping[NodeName, Sequence[IPAddress]]
) -> tuple[IPAddress, NodeName, NodeName] | None:
    """One address to go from a node to one that has two less, or fewer; the sum of squares falls with each, so there is an end."""
    for source in sorted(held, key=lambda node: (-len(held[node]), node)):
        for address in reversed(held[source]):
            target = next((node for node in best[address] if len(held[node]) <= len(held[source]) - 2), None)
            if target is not None:
                return address, source, target
    return None
