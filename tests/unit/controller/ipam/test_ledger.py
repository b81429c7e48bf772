from __future__ import annotations

from ipaddress import ip_address

import pytest

from config.model import PoolName, ServiceKey
from controller.ipam.ledger import Ledger, Usage
from tests.builders import a_config, a_pool, addresses

A, B = ServiceKey("ns/a"), ServiceKey("ns/b")
DEFAULT = PoolName("default")


def a_ledger(ranges: str = "10.0.0.0/30,fc00::/126", *, avoid_buggy_ips: bool = False) -> Ledger:
    return Ledger(a_config(a_pool("default", ranges, avoid_buggy_ips=avoid_buggy_ips)))


def test_an_address_has_one_holder() -> None:
    ledger = a_ledger()
    ledger.claim(A, addresses("10.0.0.1"))
    assert ledger.holders_of(ip_address("10.0.0.1")) == (A,)
    clash = ledger.conflict(B, addresses("10.0.0.1"))
    assert (
        str(clash)
        == 'can\'t change sharing key for "ns/b", address also in use by ns/a (10.0.0.1: the Service has no sharing key)'
    )
    assert ledger.conflict(A, addresses("10.0.0.1")) is None
    with pytest.raises(AssertionError):
        ledger.claim(B, addresses("10.0.0.1"))
    ledger.check_invariants()


def test_a_claim_replaces_the_one_before() -> None:
    ledger = a_ledger()
    ledger.claim(A, addresses("10.0.0.1"))
    ledger.claim(A, addresses("10.0.0.2 fc00::1"))
    ledger.claim(A, addresses("10.0.0.2 fc00::1"))
    assert ledger.addresses_of(A) == addresses("10.0.0.2 fc00::1")
    assert ledger.holders_of(ip_address("10.0.0.1")) == ()
    ledger.claim(A, ())
    assert dict(ledger.holdings()) == {}
    ledger.check_invariants()


def test_a_released_address_is_the_next_to_be_given_out() -> None:
    ledger = a_ledger()
    for key, address in ((A, "10.0.0.0"), (B, "10.0.0.1")):
        assert ledger.lowest(DEFAULT, 4) == ip_address(address)
        ledger.claim(key, addresses(address))
    assert ledger.release(A) == addresses("10.0.0.0")
    assert ledger.lowest(DEFAULT, 4) == ip_address("10.0.0.0")
    assert ledger.release(A) == ()
    ledger.check_invariants()


def test_freed_addresses_are_noted_until_claimed_or_forgotten() -> None:
    ledger = a_ledger()
    ledger.claim(A, addresses("10.0.0.0"))
    assert not ledger.has_freed
    ledger.release(A)
    assert ledger.has_freed
    ledger.claim(B, addresses("10.0.0.0"))
    assert not ledger.has_freed
    ledger.release(B)
    ledger.forget_freed()
    assert not ledger.has_freed


def test_usage_counts_each_family() -> None:
    ledger = a_ledger()
    ledger.claim(A, addresses("10.0.0.0 fc00::1"))
    ledger.claim(B, addresses("10.0.0.1"))
    assert (ledger.usage(DEFAULT, 4), ledger.usage(DEFAULT, 6)) == (Usage(4, 2), Usage(4, 1))
    ledger.release(B)
    assert ledger.usage(DEFAULT, 4) == Usage(4, 1)


def test_addresses_outside_every_pool_can_be_held() -> None:
    ledger = a_ledger()
    ledger.claim(A, addresses("192.0.2.1"))
    ledger.check_invariants()
    ledger.release(A)
    assert ledger.usage(DEFAULT, 4) == Usage(4, 0)


def test_the_pool_of_an_address_is_found_between_ranges() -> None:
    ledger = Ledger(a_config(a_pool("a", "10.0.0.10-10.0.0.19,10.0.0.30-10.0.0.39"), a_pool("b", "10.0.0.20-10.0.0.29")))
    found = {last: ledger.pool_of(ip_address(f"10.0.0.{last}")) for last in (9, 10, 19, 20, 29, 30, 39, 40)}
    assert [pool.name if pool else None for pool in found.values()] == [None, "a", "a", "b", "b", "a", "a", None]
    assert ledger.pool_of(ip_address("fc00::1")) is None


def test_an_avoided_address_is_in_no_pool() -> None:
    ledger = a_ledger(avoid_buggy_ips=True)
    assert ledger.pool_of(ip_address("10.0.0.0")) is None
    assert ledger.lowest(DEFAULT, 4) == ip_address("10.0.0.1")
    assert ledger.usage(DEFAULT, 4) == Usage(3, 0)


def test_automatic_pools_are_ordered_by_priority_then_name() -> None:
    pools = [
        a_pool("z", "10.0.0.0/24"),
        a_pool("a", "10.0.1.0/24"),
        a_pool("off", "10.0.2.0/24", auto_assign=False),
        a_pool("p0", "10.0.3.0/24", pinned=True),
        a_pool("p9", "10.0.4.0/24", pinned=True, priority=9),
        a_pool("p5", "10.0.5.0/24", pinned=True, priority=5),
        a_pool("negative", "10.0.6.0/24", pinned=True, priority=-1),
        a_pool("p-off", "10.0.7.0/24", pinned=True, priority=1, auto_assign=False),
    ]
    ledger = Ledger(a_config(*pools))
    assert [pool.name for pool in ledger.pinned] == ["p5", "p9", "negative", "p0"]
    assert [pool.name for pool in ledger.unpinned] == ["a", "z"]
