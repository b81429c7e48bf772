"""Addresses that are spread evenly: the rules of speaker.balance for any addresses and nodes."""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv4Address

from hypothesis import given
from hypothesis import strategies as st

from config.model import IPAddress, NodeName
from speaker.balance import spread
from speaker.election import elect

ADDRESSES: st.SearchStrategy[IPAddress] = st.integers(0, 400).map(lambda last: IPv4Address(0xC6120000 + last))
NODES = st.integers(1, 8).map(lambda count: [NodeName(f"n{number}") for number in range(count)])


def rankings(addresses: set[IPAddress], nodes: list[NodeName]) -> dict[IPAddress, tuple[NodeName, ...]]:
    return {address: elect(address, nodes, {}) for address in addresses}


@given(st.sets(ADDRESSES, max_size=60), NODES)
def test_where_all_nodes_may_have_all_addresses_their_numbers_differ_by_one_at_most(
    addresses: set[IPAddress], nodes: list[NodeName]
) -> None:
    count = Counter(spread(rankings(addresses, nodes)).values())
    assert max(count[node] for node in nodes) - min(count[node] for node in nodes) <= 1


@given(
    st.dictionaries(
        ADDRESSES, st.lists(st.sampled_from([NodeName("a"), NodeName("b"), NodeName("c")]), min_size=1, unique=True)
    )
)
def test_no_address_goes_to_a_node_that_is_not_good_for_it_and_the_order_of_asking_does_not_matter(
    best: dict[IPAddress, list[NodeName]],
) -> None:
    found = spread(best)
    assert found.keys() == best.keys()
    assert all(found[address] in best[address] for address in best)
    assert spread(dict(reversed(best.items()))) == found


@given(st.sets(ADDRESSES, min_size=1, max_size=60), NODES)
def test_one_address_more_or_less_moves_few_others(addresses: set[IPAddress], nodes: list[NodeName]) -> None:
    first = min(addresses)
    with_it, without = spread(rankings(addresses, nodes)), spread(rankings(addresses - {first}, nodes))
    assert sum(without[address] != with_it[address] for address in without) <= 2 * len(nodes)


@given(st.sets(ADDRESSES, min_size=1, max_size=60), NODES.filter(lambda nodes: len(nodes) > 1))
def test_a_node_that_goes_moves_what_it_had_and_little_else(addresses: set[IPAddress], nodes: list[NodeName]) -> None:
    before, after = spread(rankings(addresses, nodes)), spread(rankings(addresses, nodes[1:]))
    others = [address for address, owner in before.items() if owner != nodes[0]]
    assert sum(after[address] != before[address] for address in others) <= len(addresses) // 4 + len(nodes)
