from __future__ import annotations

import pytest

from config.model import Config, PoolName, Requirement, Selector, ServiceKey
from controller.ipam.allocate import Allocation, Refusal, Request, allocate, assign
from controller.ipam.ledger import Ledger
from controller.reason import Reason
from controller.world import Family
from tests.builders import a_config, a_pool, addresses

WEB = ServiceKey("team-a/web")
LABELLED = Selector((Requirement("app", "In", frozenset({"web"})),))


def ask(config: Config, *, held: str = "", family: Family = Family.IPV4, wants: str = "", pool: str | None = None, labels: dict[str, str] | None = None, alone: tuple[int, ...] = ()) -> Allocation | Refusal:  # fmt: skip
    ledger = Ledger(config)
    for number, address in enumerate(addresses(held)):
        ledger.claim(ServiceKey(f"others/{number}"), (address,))
    request = Request(WEB, family, labels or {}, addresses(wants), None if pool is None else PoolName(pool), alone)
    return allocate(request, ledger)


def got(found: Allocation | Refusal) -> tuple[str, str]:
    assert isinstance(found, Allocation), found
    return " ".join(map(str, found.addresses)), found.pool


def refused(found: Allocation | Refusal) -> tuple[Reason, str]:
    assert isinstance(found, Refusal), found
    return found.reason, found.detail


def test_the_lowest_free_address_of_the_first_pool_by_name_is_taken() -> None:
    config = a_config(a_pool("b", "10.0.1.0/24"), a_pool("a", "10.0.0.0/24"))
    assert got(ask(config)) == ("10.0.0.0", "a")
    assert got(ask(config, held="10.0.0.0 10.0.0.2")) == ("10.0.0.1", "a")


def test_a_single_stack_ipv6_service_gets_an_ipv6_address() -> None:
    config = a_config(a_pool("a", "10.0.0.0/24"), a_pool("b", "10.0.1.0/24,fc00::/124"))
    assert got(ask(config, family=Family.IPV6)) == ("fc00::", "b")


def test_the_next_pool_serves_when_one_is_full() -> None:
    config = a_config(a_pool("a", "10.0.0.0/32"), a_pool("b", "10.0.1.0/32"))
    assert got(ask(config, held="10.0.0.0")) == ("10.0.1.0", "b")


def test_pools_that_must_be_asked_for_give_nothing_by_themselves() -> None:
    config = a_config(a_pool("a", "10.0.0.0/24", auto_assign=False))
    assert refused(ask(config)) == (Reason.NO_SUITABLE_POOL, 'no available IPs: pool "a" has autoAssign off')
    assert got(ask(config, pool="a")) == ("10.0.0.0", "a")
    assert got(ask(config, wants="10.0.0.9")) == ("10.0.0.9", "a")


def test_avoided_addresses_are_neither_chosen_nor_given_on_request() -> None:
    config = a_config(a_pool("a", "10.0.0.0/24", avoid_buggy_ips=True))
    assert got(ask(config)) == ("10.0.0.1", "a")
    assert refused(ask(config, wants="10.0.0.255")) == (
        Reason.NOT_IN_A_POOL,
        '"10.0.0.255" is not allowed in config: pool "a" avoids addresses that end in .0 or .255',
    )
    assert got(ask(config, wants="10.0.0.7")) == ("10.0.0.7", "a")


def test_pinned_pools_are_tried_by_priority_before_the_others() -> None:
    config = a_config(
        a_pool("free", "10.0.0.0/24"),
        a_pool("p8", "10.0.8.0/24", namespaces=["team-a"], priority=8),
        a_pool("p5", "10.0.5.0/32", namespaces=["team-a", "team-b"], priority=5),
        a_pool("other", "10.0.1.0/24", namespaces=["team-b"], priority=1),
        a_pool("p0", "10.0.9.0/24", namespaces=["team-a"]),
    )
    assert got(ask(config)) == ("10.0.5.0", "p5")
    assert got(ask(config, held="10.0.5.0")) == ("10.0.8.0", "p8")


def test_an_exhausted_pinned_pool_falls_back_to_pools_for_all() -> None:
    config = a_config(a_pool("free", "10.0.0.0/24"), a_pool("pinned", "10.0.5.0/32", namespaces=["team-a"]))
    assert got(ask(config, held="10.0.5.0")) == ("10.0.0.0", "free")


@pytest.mark.parametrize(("labels", "pool"), [({"app": "web"}, "both"), ({"app": "db"}, "free"), ({}, "free")])
def test_a_pool_pinned_by_namespace_and_label_needs_both(labels: dict[str, str], pool: str) -> None:
    config = a_config(a_pool("free", "10.0.0.0/24"), a_pool("both", "10.0.1.0/24", namespaces=["team-a"], selectors=[LABELLED]))
    assert got(ask(config, labels=labels))[1] == pool


def test_a_pool_whose_namespace_selectors_match_nothing_is_for_nobody() -> None:
    config = a_config(a_pool("nobody", "10.0.0.0/24", namespaces=[]))
    assert refused(ask(config, pool="nobody")) == (Reason.POOL_NOT_FOR_SERVICE, 'pool "nobody" is not for namespace "team-a"')
    assert refused(ask(config, wants="10.0.0.1"))[0] is Reason.POOL_NOT_FOR_SERVICE


def test_a_refusal_says_what_every_pool_said() -> None:
    config = a_config(
        a_pool("a", "10.0.0.0/31"),
        a_pool("b", "fc00::/124"),
        a_pool("c", "10.1.0.0/24", auto_assign=False),
        a_pool("d", "10.2.0.0/24", namespaces=["team-b"]),
        a_pool("e", "10.3.0.0/24", selectors=[LABELLED]),
        broken=["f"],
    )
    assert refused(ask(config, held="10.0.0.0 10.0.0.1")) == (
        Reason.POOL_EXHAUSTED,
        (
            'no available IPs: pool "a" has no free IPv4 address (all 2 in use); pool "b" has no IPv4 addresses; '
            'pool "c" has autoAssign off; pool "d" is not for namespace "team-a"; pool "e" is not for Services with these labels; '
            'pool "f" must be repaired first'
        ),
    )


def test_a_refusal_names_at_most_six_pools() -> None:
    pools = [a_pool(f"p{number}", f"10.0.{number}.0/24", auto_assign=False) for number in range(9)]
    assert refused(ask(a_config(*pools)))[1].endswith('pool "p5" has autoAssign off; and 3 more pools')


@pytest.mark.parametrize(
    ("pool", "held", "reason", "said"),
    [
        ("nope", "", Reason.UNKNOWN_POOL, 'unknown pool "nope"'),
        ("broken", "", Reason.POOL_BROKEN, 'pool "broken" has no valid configuration'),
        ("a", "10.0.0.0", Reason.POOL_EXHAUSTED, 'no available IPs: pool "a" has no free IPv4 address (all 1 in use)'),
        ("b", "", Reason.POOL_NOT_FOR_SERVICE, 'pool "b" is not for namespace "team-a"'),
    ],
)
def test_a_pool_that_cannot_serve_the_request_says_why(pool: str, held: str, reason: Reason, said: str) -> None:
    config = a_config(a_pool("a", "10.0.0.0/32"), a_pool("b", "10.1.0.0/24", namespaces=["x"]), broken=["broken"])
    found = refused(ask(config, held=held, pool=pool))
    assert found[0] is reason
    assert said in found[1]


@pytest.mark.parametrize(
    ("wants", "pool", "reason", "said"),
    [
        ("fc00::1", None, Reason.WRONG_FAMILY, "needs exactly one IPv4 address"),
        ("10.0.0.1 fc00::1", None, Reason.WRONG_FAMILY, "needs exactly one IPv4 address"),
        ("192.0.2.1", None, Reason.NOT_IN_A_POOL, "no pool contains 192.0.2.1"),
        ("10.0.0.1", "b", Reason.POOL_MISMATCH, 'is in pool "a", not in requested pool "b"'),
        ("10.0.0.5", None, Reason.ADDRESS_IN_USE, "address also in use by others/0"),
    ],
)
def test_a_requested_address_that_cannot_be_had_says_why(wants: str, pool: str | None, reason: Reason, said: str) -> None:
    config = a_config(a_pool("a", "10.0.0.0/24,fc00::/124"), a_pool("b", "10.1.0.0/24"))
    found = refused(ask(config, held="10.0.0.5", wants=wants, pool=pool))
    assert found[0] is reason
    assert said in found[1]


def test_a_requested_address_in_the_requested_pool_is_given() -> None:
    assert got(ask(a_config(a_pool("a", "10.0.0.0/24")), wants="10.0.0.77", pool="a")) == ("10.0.0.77", "a")


def test_an_unknown_address_hints_at_pools_that_must_be_repaired() -> None:
    found = ask(a_config(a_pool("a", "10.0.0.0/24"), broken=["x", "w"]), wants="192.0.2.1")
    assert 'pools that must be repaired first: "w", "x"' in refused(found)[1]


class TestDualStack:
    def test_both_addresses_come_from_one_pool_ipv4_first(self) -> None:
        config = a_config(a_pool("a", "10.0.0.0/24"), a_pool("b", "10.1.0.0/24,fc00::/124"), a_pool("c", "fc01::/124"))
        assert got(ask(config, family=Family.DUAL)) == ("10.1.0.0 fc00::", "b")

    def test_without_a_pair_there_is_a_refusal(self) -> None:
        config = a_config(a_pool("a", "10.0.0.0/24"), a_pool("b", "10.1.0.0/32,fc00::/124"))
        found = refused(ask(config, family=Family.DUAL, held="10.1.0.0"))
        assert found == (
            Reason.POOL_EXHAUSTED,
            'no available IPs: pool "a" has no IPv6 addresses; pool "b" has no free IPv4 address (all 1 in use)',
        )

    def test_one_address_of_the_primary_family_does_if_a_pair_is_only_preferred(self) -> None:
        config = a_config(a_pool("a", "10.0.0.0/24"), a_pool("b", "fc00::/124"))
        assert got(ask(config, family=Family.DUAL, alone=(4, 6))) == ("10.0.0.0", "a")
        assert got(ask(config, family=Family.DUAL, alone=(6, 4))) == ("fc00::", "b")
        assert got(ask(a_config(a_pool("b", "fc00::/124")), family=Family.DUAL, alone=(4, 6))) == ("fc00::", "b")

    def test_a_pinned_pool_with_one_family_beats_a_pair_from_another(self) -> None:
        config = a_config(a_pool("pair", "10.0.0.0/24,fc00::/124"), a_pool("pinned", "10.1.0.0/24", namespaces=["team-a"]))
        assert got(ask(config, family=Family.DUAL, alone=(4, 6))) == ("10.1.0.0", "pinned")
        assert got(ask(config, family=Family.DUAL)) == ("10.0.0.0 fc00::", "pair")

    def test_a_named_pool_gives_what_it_has(self) -> None:
        config = a_config(a_pool("a", "10.0.0.0/24"), a_pool("b", "fc00::/124"))
        assert got(ask(config, family=Family.DUAL, alone=(4, 6), pool="b")) == ("fc00::", "b")
        assert refused(ask(config, family=Family.DUAL, pool="b"))[1] == 'no available IPs: pool "b" has no IPv4 addresses'

    def test_a_requested_pair_keeps_its_order(self) -> None:
        config = a_config(a_pool("a", "10.0.0.0/24,fc00::/124"), a_pool("b", "10.1.0.0/24"))
        assert got(ask(config, family=Family.DUAL, wants="fc00::9 10.0.0.9")) == ("fc00::9 10.0.0.9", "a")
        assert refused(ask(config, family=Family.DUAL, wants="10.0.0.9"))[1].endswith("needs one address of each family")
        assert refused(ask(config, family=Family.DUAL, wants="fc00::9 10.1.0.9"))[1].endswith(
            "the addresses are in different pools"
        )


def test_assign_is_a_no_op_for_the_holder() -> None:
    ledger = Ledger(a_config(a_pool("a", "10.0.0.0/24")))
    ledger.claim(WEB, addresses("10.0.0.1"))
    assert got(assign(WEB, {}, addresses("10.0.0.1"), ledger)) == ("10.0.0.1", "a")
