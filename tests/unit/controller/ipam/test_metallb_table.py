"""The rows of MetalLB's allocator tests, asked of the planner: who gets which address of which pools."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from config.compile import compile_config
from config.model import Config, PoolName, Requirement, Selector, ServiceKey
from controller.ipam.ledger import Ledger
from controller.plan import Change, Decision, Planner
from controller.pool_status import counters
from controller.world import FamilyPolicy, Service
from tests.builders import a_config, a_pool, a_pool_document, a_service, addresses

parity = pytest.mark.parity
PAIR: dict[str, Any] = {"cluster_ips": "10.96.0.1 fd00:10:96::1", "policy": FamilyPolicy.REQUIRE_DUAL}
FAMILIES = [
    pytest.param({}, "198.51.100.1", id="IPv4", marks=parity("Allocator > both families behave alike > IPv4")),
    pytest.param(
        {"cluster_ips": "fd00:10:96::1"},
        "2001:db8::1",
        id="IPv6",
        marks=parity("Allocator > both families behave alike > IPv6"),
    ),
    pytest.param(PAIR, "198.51.100.1 2001:db8::1", id="dual", marks=parity("Allocator > both families behave alike > dual")),
]
TEST = a_config(a_pool("test", "198.51.100.0/30,2001:db8::/126"))


class Book:
    """A planner and short words for what is asked of it."""

    def __init__(self, *pools: Any) -> None:
        self.planner = Planner()
        self.pools(*pools)

    def pools(self, *pools: Any) -> None:
        config = pools[0] if pools and isinstance(pools[0], Config) else a_config(*pools)
        self.planner.handle(Change(config=config))
        self.planner.check_invariants()

    def ask(self, name: str, **wishes: Any) -> str:
        """The addresses of a Service after it asked."""
        service = a_service(name, created=ord(name[0]), **wishes)
        self._tell(service.key, service)
        return self.has(name)

    def drop(self, name: str) -> None:
        self._tell(ServiceKey(f"default/{name}"), None)

    def _tell(self, key: ServiceKey, service: Service | None) -> None:
        self.planner.handle(Change(services={key: service}))
        self.planner.check_invariants()

    def decision(self, name: str) -> Decision:
        return self.planner.decisions[ServiceKey(f"default/{name}")]

    def has(self, name: str) -> str:
        return " ".join(map(str, self.decision(name).recorded.addresses))


@pytest.mark.parametrize(("family", "wanted"), FAMILIES)
@parity("Allocator > the same address for the same service again is a no-op")
@parity("Allocator > a second service without sharing cannot take an address in use, and can once it is released")
def test_an_address_has_one_holder_until_it_is_released(family: dict[str, Any], wanted: str) -> None:
    book = Book(TEST)
    assert book.ask("a", wants=wanted, **family) == wanted
    assert book.ask("a", wants=wanted, **family) == wanted
    assert book.ask("b", wants=wanted, **family) == ""
    book.drop("a")
    assert book.has("b") == wanted


@parity("Allocator > an explicit .0 or .255 of an avoidBuggyIPs pool is refused, another address is not")
def test_avoided_addresses_are_not_given_on_request() -> None:
    book = Book(a_pool("test", "198.51.100.0/24", avoid_buggy_ips=True))
    wanted = ("198.51.100.0", "198.51.100.255", "198.51.100.1")
    assert [book.ask(name, wants=one) for name, one in zip("abc", wanted, strict=True)] == ["", "", "198.51.100.1"]


@parity("Allocator > the only user may change its sharing key and its back ends")
def test_who_is_alone_on_an_address_may_change_how_it_shares() -> None:
    book = Book(TEST)
    uses: list[dict[str, Any]] = [
        {"sharing_key": "k"},
        {"sharing_key": "other"},
        {"sharing_key": "other", "backend": "app=x"},
        {},
    ]
    for use in uses:
        assert book.ask("a", wants="198.51.100.1", **use) == "198.51.100.1"


@pytest.mark.parametrize(
    ("use", "joins"),
    [
        pytest.param({"sharing_key": "k"}, "", marks=parity("Allocator > joining a shared address > refused on a port clash")),
        pytest.param(
            {"sharing_key": "x", "ports": "TCP/81"}, "", marks=parity("Allocator > joining a shared address > refused on another sharing key")
        ),
        pytest.param(
            {"sharing_key": "k", "ports": "TCP/81", "backend": "app=x"},
            "",
            marks=parity("Allocator > joining a shared address > refused on other back ends"),
        ),
        pytest.param(
            {"sharing_key": "k", "ports": "TCP/81"}, "198.51.100.1", marks=parity("Allocator > joining a shared address > accepted otherwise")
        ),
        pytest.param(
            {"sharing_key": "k", "ports": "UDP/80"}, "198.51.100.1", marks=parity("Allocator > joining a shared address > accepted otherwise")
        ),
    ],
)  # fmt: skip
def test_who_may_join_a_shared_address(use: dict[str, Any], joins: str) -> None:
    book = Book(TEST)
    book.ask("a", wants="198.51.100.1", sharing_key="k")
    assert book.ask("b", wants="198.51.100.1", **use) == joins


@parity("Allocator > a sharer may change its ports, not its key or back ends while others are there")
def test_a_sharer_may_change_its_ports_only() -> None:
    book = Book(TEST)
    book.ask("a", wants="198.51.100.1", sharing_key="k")
    wish: dict[str, Any] = {"wants": "198.51.100.1", "sharing_key": "k", "ports": "TCP/81"}
    assert book.ask("b", **wish) == "198.51.100.1"
    assert book.ask("b", **{**wish, "ports": "TCP/82"}) == "198.51.100.1"
    assert book.ask("b", **{**wish, "sharing_key": "x"}) == ""
    assert book.ask("b", **wish) == "198.51.100.1"
    assert book.ask("b", **{**wish, "backend": "app=x"}) == ""
    assert book.has("a") == "198.51.100.1"


@parity("Allocator > a pair of both families comes from one pool, never from two")
def test_a_pair_of_two_pools_is_refused() -> None:
    book = Book(a_pool("one", "198.51.100.0/30,2001:db8::/126"), a_pool("two", "203.0.113.0/30,2001:db8:2::/126"))
    assert book.ask("a", wants="198.51.100.1 2001:db8:2::1", **PAIR) == ""
    assert book.ask("a", wants="203.0.113.1 2001:db8:2::1", **PAIR) == "203.0.113.1 2001:db8:2::1"


LABEL = Selector((Requirement("team", "In", frozenset({"metal"})),))


@pytest.mark.parametrize(
    ("pinned", "fits", "unfit"),
    [
        pytest.param({"namespaces": ["x"]}, [{"namespace": "x"}], [{}], marks=parity("Allocator > a pinned pool > namespace")),
        pytest.param(
            {"selectors": [LABEL]}, [{"labels": {"team": "metal"}}], [{}, {"labels": {"team": "red"}}],
            marks=parity("Allocator > a pinned pool > service label"),
        ),
        pytest.param(
            {"namespaces": ["x"], "selectors": [LABEL]},
            [{"namespace": "x", "labels": {"team": "metal"}}],
            [{"namespace": "x"}, {"labels": {"team": "metal"}}, {}],
            marks=parity("Allocator > a pinned pool > both must match"),
        ),
    ],
)  # fmt: skip
def test_whom_a_pinned_pool_serves(pinned: dict[str, Any], fits: list[dict[str, Any]], unfit: list[dict[str, Any]]) -> None:
    requests: list[dict[str, Any]] = [{}, {"wants": "198.51.100.1"}, {"wants_pool": "test"}]
    for wishes in requests:
        for number, whose in enumerate([*fits, *unfit]):
            planner = Planner()
            service = a_service(**wishes, **whose)
            planner.handle(
                Change(services={service.key: service}, config=a_config(a_pool("test", "198.51.100.0/30", **pinned)))
            )
            assert bool(planner.decisions[service.key].recorded.addresses) == (number < len(fits)), (wishes, whose)


@pytest.mark.parametrize(
    ("pools", "wish"),
    [
        pytest.param(
            [a_pool("test", "198.51.100.0/30")], {"wants_pool": "test"},
            marks=parity("Allocator > a pool of four > four distinct addresses, the fifth fails until one is freed, a sixth only by sharing > by name"),
        ),
        pytest.param(
            [a_pool("a", "198.51.100.0/31"), a_pool("b", "203.0.113.0/31")], {},
            marks=parity("Allocator > a pool of four > four distinct addresses, the fifth fails until one is freed, a sixth only by sharing > automatically over several pools"),
        ),
    ],
)  # fmt: skip
def test_four_addresses_serve_four_or_those_who_share(pools: list[Any], wish: dict[str, Any]) -> None:
    book = Book(*pools)
    assert len({book.ask(name, sharing_key=name, **wish) for name in "abcd"}) == 4
    assert book.ask("e", sharing_key="e", **wish) == ""
    book.drop("c")
    assert book.has("e") != ""
    assert book.ask("f", sharing_key="e", **wish) == ""
    assert book.ask("f", sharing_key="e", ports="TCP/81", **wish) == book.has("e")


@parity("Allocator > a holder of IPv4 that asks for IPv6 is refused unless it is cleared first")
def test_a_service_that_changes_its_family_gives_its_address_up_first() -> None:
    ledger = Ledger(TEST)
    web = ServiceKey("default/web")
    ledger.claim(web, addresses("198.51.100.0"))
    book = Book(TEST)
    assert book.ask("w", wants_pool="test") == "198.51.100.0"
    assert book.ask("w", wants_pool="test", cluster_ips="fd00:10:96::1") == "2001:db8::"
    assert book.ask("x", wants_pool="test") == "198.51.100.0", "it is free again"


@parity("Allocator > PreferDualStack gets two addresses while both families are free, one when one is left")
def test_who_prefers_two_addresses_takes_one_when_that_is_left() -> None:
    book = Book(a_pool("test", "198.51.100.0/30,2001:db8::/127"))
    prefers = {**PAIR, "policy": FamilyPolicy.PREFER_DUAL}
    assert [book.ask(name, **prefers) for name in "abc"] == [
        "198.51.100.0 2001:db8::",
        "198.51.100.1 2001:db8::1",
        "198.51.100.2",
    ]


@parity("Allocator > an unknown pool name is an error")
@parity("Allocator > autoAssign=false is never chosen automatically and works by name")
def test_a_pool_without_auto_assign_serves_who_names_it() -> None:
    book = Book(a_pool("test", "198.51.100.0/30", auto_assign=False))
    assert (book.ask("a"), book.ask("b", wants_pool="none"), book.ask("c", wants_pool="test")) == ("", "", "198.51.100.0")
    complaint = book.decision("b").complaint
    assert complaint is not None
    assert 'unknown pool "none"' in complaint.note


@parity("Allocator > avoidBuggyIPs leaves one usable address in x.0/31 and in x.254/31")
def test_avoiding_leaves_one_address_at_each_end() -> None:
    book = Book(a_pool("test", "198.51.100.0/31,198.51.100.254/31", avoid_buggy_ips=True))
    assert [book.ask(name) for name in "abc"] == ["198.51.100.1", "198.51.100.254", ""]


@pytest.mark.parametrize(
    ("after", "expected", "pool"),
    [
        pytest.param([a_pool("test", "198.51.100.0/30,2001:db8::/126")], "198.51.100.0 2001:db8::", "test", marks=parity("Allocator > reloaded pools > same configuration")),
        pytest.param([a_pool("test", "198.51.100.0/24,2001:db8::/64")], "198.51.100.0 2001:db8::", "test", marks=parity("Allocator > reloaded pools > expanded")),
        pytest.param([a_pool("test", "198.51.100.0/31,2001:db8::/127")], "198.51.100.0 2001:db8::", "test", marks=parity("Allocator > reloaded pools > shrunk, address inside")),
        pytest.param([a_pool("test", "198.51.100.2/31,2001:db8::/126")], "198.51.100.2 2001:db8::", "test", marks=parity("Allocator > reloaded pools > shrunk, address outside, IPv4")),
        pytest.param([a_pool("test", "198.51.100.0/30,2001:db8::2/127")], "198.51.100.0 2001:db8::2", "test", marks=parity("Allocator > reloaded pools > shrunk, address outside, IPv6")),
        pytest.param([a_pool("new", "198.51.100.0/30,2001:db8::/126")], "198.51.100.0 2001:db8::", "new", marks=parity("Allocator > reloaded pools > renamed")),
        pytest.param([a_pool("one", "198.51.100.2/31,2001:db8::2/127"), a_pool("two", "198.51.100.0/31,2001:db8::/127")], "198.51.100.0 2001:db8::", "two", marks=parity("Allocator > reloaded pools > split")),
        pytest.param([a_pool("test", "198.51.100.0/30,2001:db8::/126", avoid_buggy_ips=True)], "198.51.100.1 2001:db8::", "test", marks=parity("Allocator > reloaded pools > avoidBuggyIPs turned on")),
    ],
)  # fmt: skip
def test_who_keeps_an_address_when_pools_change(after: list[Any], expected: str, pool: str) -> None:
    book = Book(TEST)
    assert book.ask("w", **PAIR) == "198.51.100.0 2001:db8::"
    before = book.has("w")
    book.pools(*after)
    assert (book.has("w"), book.decision("w").recorded.pool) == (expected, pool)
    assert ("ClearAssignment" in str(book.decision("w").happened)) == (expected != before)


@parity("Allocator > neither setting pools nor allocating changes the configuration objects")
def test_configuration_is_read_and_not_written() -> None:
    document = a_pool_document("test", ["198.51.100.0/30"], serviceAllocation={"namespaces": ["default"], "priority": 3})
    before = copy.deepcopy(document)
    book = Book(compile_config([document], {}, {}).config)
    assert book.ask("a") == "198.51.100.0"
    assert document == before


@parity("Allocator > a shared address counts once until its last user leaves")
@parity("Allocator > changed counters name each affected pool")
def test_counters_follow_the_last_user_of_an_address() -> None:
    one, two = a_pool("one", "198.51.100.0/30"), a_pool("two", "203.0.113.0/30")
    ledger = Ledger(a_config(one, two))
    use = replace(a_service(sharing_key="k")).use
    assert ledger.take_touched() == {"one", "two"}
    a, b = ServiceKey("ns/a"), ServiceKey("ns/b")
    ledger.claim(a, addresses("198.51.100.0"), use)
    ledger.claim(b, addresses("198.51.100.0"), replace(use, ports=frozenset({("TCP", 81)})))
    assert counters(ledger, PoolName("one")).assigned_ipv4 == 1
    ledger.release(a)
    assert counters(ledger, PoolName("one")).assigned_ipv4 == 1
    ledger.release(b)
    assert counters(ledger, PoolName("one")).assigned_ipv4 == 0
    assert ledger.take_touched() == {"one"}
