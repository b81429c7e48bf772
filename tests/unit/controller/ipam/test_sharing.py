from __future__ import annotations

import pytest

from config.model import PoolName, ServiceKey
from controller.ipam.ledger import Ledger, Usage
from controller.ipam.sharing import Use, conflict
from tests.builders import a_config, a_pool, a_use, addresses

A, B, C = ServiceKey("ns/a"), ServiceKey("ns/b"), ServiceKey("other/c")
DEFAULT = PoolName("default")
(ADDRESS,) = addresses("10.0.0.1")


@pytest.mark.parametrize(
    ("mine", "theirs", "said"),
    [
        (a_use("k", ports="TCP/80"), a_use("k", ports="TCP/443"), ""),
        (a_use("k", ports="TCP/53"), a_use("k", ports="UDP/53"), ""),
        (a_use("k", "a=b", "TCP/80"), a_use("k", "a=b", "TCP/81"), ""),
        (a_use("k", ports="TCP/80"), a_use("k", ports="TCP/80 TCP/443"), 'port TCP/80 is already in use on "10.0.0.1" by ns/b'),
        (a_use(""), a_use("k"), "10.0.0.1: the Service has no sharing key"),
        (a_use("k"), a_use(""), "10.0.0.1: its holder has no sharing key"),
        (a_use(""), a_use(""), "10.0.0.1: the Service has no sharing key"),
        (a_use("k"), a_use("l", ports="TCP/443"), 'sharing keys "k" and "l" differ'),
        (a_use("k", "a=b"), a_use("k", "", "TCP/443"), "same externalTrafficPolicy"),
        (a_use("k", "a=b"), a_use("k", "a=c", "TCP/443"), "same selector"),
    ],
)
def test_two_services_share_if_keys_and_backends_are_equal_and_ports_differ(mine: Use, theirs: Use, said: str) -> None:
    found = conflict(A, mine, ADDRESS, [(B, theirs)])
    assert (said in str(found)) if said else found is None


def test_the_holders_in_the_way_are_named_in_order_and_one_self_is_not() -> None:
    found = conflict(B, a_use("l"), ADDRESS, [(C, a_use("k", ports="TCP/1")), (B, a_use("k")), (A, a_use("k", ports="TCP/2"))])
    assert str(found).startswith('can\'t change sharing key for "ns/b", address also in use by ns/a, other/c (')


def a_ledger(ranges: str = "10.0.0.8/31,10.0.0.0/31") -> Ledger:
    return Ledger(a_config(a_pool("default", ranges)))


def claim(ledger: Ledger, key: str, address: str, use: Use) -> None:
    ledger.claim(ServiceKey(key), addresses(address), use)
    ledger.check_invariants()


def test_a_sharer_gets_the_first_address_that_is_free_or_can_be_shared() -> None:
    ledger = a_ledger()
    claim(ledger, "ns/a", "10.0.0.8", a_use("k", ports="TCP/80"))
    assert ledger.lowest(DEFAULT, 4, a_use("k", ports="TCP/81")) == addresses("10.0.0.8")[0]
    assert ledger.lowest(DEFAULT, 4, a_use("k", ports="TCP/80")) == addresses("10.0.0.9")[0]
    assert ledger.lowest(DEFAULT, 4, a_use("l", ports="TCP/81")) == addresses("10.0.0.9")[0]
    assert ledger.lowest(DEFAULT, 4) == addresses("10.0.0.9")[0]
    claim(ledger, "ns/b", "10.0.0.0", a_use("k", ports="TCP/80"))
    claim(ledger, "ns/c", "10.0.0.8", a_use("k", ports="TCP/81"))
    assert ledger.lowest(DEFAULT, 4, a_use("k", ports="TCP/81")) == addresses("10.0.0.9")[0], "a free one that comes before"
    claim(ledger, "ns/d", "10.0.0.9", a_use(""))
    assert ledger.lowest(DEFAULT, 4, a_use("k", ports="TCP/81")) == addresses("10.0.0.0")[0], "before the free one that is left"


def test_a_shared_address_counts_once_until_its_last_user_leaves() -> None:
    ledger = a_ledger()
    claim(ledger, "ns/a", "10.0.0.8", a_use("k", ports="TCP/80"))
    claim(ledger, "ns/b", "10.0.0.8", a_use("k", ports="TCP/81"))
    assert ledger.usage(DEFAULT, 4) == Usage(4, 1)
    ledger.release(A)
    ledger.check_invariants()
    assert ledger.usage(DEFAULT, 4) == Usage(4, 1)
    assert ledger.lowest(DEFAULT, 4, a_use("k", ports="TCP/80")) == addresses("10.0.0.8")[0], "the port is free again"
    ledger.release(B)
    ledger.check_invariants()
    assert ledger.usage(DEFAULT, 4) == Usage(4, 0)


def test_the_only_user_may_change_how_it_shares_and_one_of_several_may_not() -> None:
    ledger = a_ledger()
    claim(ledger, "ns/a", "10.0.0.8", a_use("k"))
    claim(ledger, "ns/a", "10.0.0.8", a_use("l", "a=b"))
    claim(ledger, "ns/b", "10.0.0.8", a_use("l", "a=b", "TCP/81"))
    assert ledger.conflict(A, addresses("10.0.0.8"), a_use("k", "a=b")) is not None
    assert ledger.conflict(A, addresses("10.0.0.8"), a_use("l")) is not None
    claim(ledger, "ns/a", "10.0.0.8", a_use("l", "a=b", "TCP/82"))
    assert ledger.lowest(DEFAULT, 4, a_use("l", "a=b", "TCP/80")) == addresses("10.0.0.8")[0]


def test_a_port_given_up_on_a_shared_address_counts_as_freed() -> None:
    ledger = a_ledger()
    claim(ledger, "ns/a", "10.0.0.8", a_use("k", ports="TCP/80"))
    claim(ledger, "ns/b", "10.0.0.8", a_use("k", ports="TCP/81"))
    assert not ledger.has_freed
    claim(ledger, "ns/a", "10.0.0.8", a_use("k", ports="TCP/82"))
    assert ledger.has_freed


def test_an_address_of_no_pool_can_be_shared_but_is_given_to_nobody() -> None:
    ledger = a_ledger()
    claim(ledger, "ns/a", "192.0.2.1", a_use("k", ports="TCP/80"))
    claim(ledger, "ns/b", "192.0.2.1", a_use("k", ports="TCP/81"))
    assert ledger.lowest(DEFAULT, 4, a_use("k", ports="TCP/82")) == addresses("10.0.0.8")[0]
    ledger.release(A)
    ledger.check_invariants()
