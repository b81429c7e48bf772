"""Invariants 1 to 3 of docs/explanation/invariants.md: one holder, sticky, no theft; and incremental equals full."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from random import Random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.model import Config, IPAddress, PoolName, ServiceKey
from controller.ipam.ledger import Ledger
from controller.ipam.sharing import Use, conflict
from controller.plan import Change, Decision, Outcome, Planner, plan
from controller.world import NOTHING, FamilyPolicy, Recorded, Service
from tests.builders import a_config, a_pool, a_service, a_use, a_world, addresses

UNTIMED = settings(  # The machine is shared: time says nothing. EXAMPLES=100000 is the long form.
    max_examples=int(os.environ.get("EXAMPLES", "300")), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)

CONFIGS = (
    a_config(a_pool("a", "10.0.0.0/30")),
    a_config(a_pool("a", "10.0.0.0/31,fc00::/127"), a_pool("b", "10.0.0.2-10.0.0.3", namespaces=["x"], priority=1)),
    a_config(a_pool("b", "10.0.0.0/30", avoid_buggy_ips=True), a_pool("c", "fc00::/127", auto_assign=False)),
    a_config(a_pool("a", "10.0.0.2/31"), broken=["b"]),
    a_config(),
)
NAMES = [f"s{number}" for number in range(6)]


CHOICES: Mapping[str, Sequence[Any]] = {
    "name": NAMES,
    "namespace": ["x", "y"],
    "created": range(4),
    "holds": ["", "", "10.0.0.0", "10.0.0.1", "10.0.0.2 fc00::", "fc00::1", "192.0.2.1"],
    "pool": [None, "a", "b"],
    "plain": [True, True, False],
    "cluster_ips": ["10.96.0.1", "10.96.0.1", "fd00::1", "10.96.0.1 fd00::1", ""],
    "policy": list(FamilyPolicy),
    "primary": [4, 6],
    "wants": ["", "", "", "10.0.0.1", "10.0.0.3", "fc00::1 10.0.0.0", "192.0.2.9"],
    "wants_pool": [None, None, None, "a", "b", "nope"],
    "problem": ["", "", "", "unreadable"],
    "load_balancer": [True, True, True, False],
    "lb_class": ["", "", "", "other"],
    "sharing_key": ["", "k", "k", "l"],
    "backend": ["", "", "a=b"],
    "ports": ["TCP/80", "TCP/81", "TCP/80 UDP/80", "UDP/80"],
    "keep_for_s": [None, None, 1.0, 3.0],
    "uid": ["", "", "", "another"],
}
"""Any state that a cluster can have a Service in: a value for each of these, the plain ones first."""


def drawn() -> Iterator[tuple[int, list[str]]]:
    """The choices in groups, each with the number of its combinations. A draw costs much, so one draw makes several choices."""
    size, group = 1, list[str]()
    for name, options in CHOICES.items():
        if size * len(options) > LARGEST_DRAW:
            yield size, group
            size, group = 1, []
        size, group = size * len(options), [*group, name]
    yield size, group


LARGEST_DRAW = 1 << 20
"""Below this hypothesis draws integers evenly."""
GROUPS = list(drawn())


def chosen(draws: tuple[int, ...]) -> Service:
    picked: dict[str, Any] = {}
    for draw, (_, group) in zip(draws, GROUPS, strict=True):
        rest = draw
        for name in group:
            rest, index = divmod(rest, len(CHOICES[name]))
            picked[name] = CHOICES[name][index]
    return a_service(**picked)


SOME_SERVICE = st.tuples(*(st.integers(0, size - 1) for size, _ in GROUPS)).map(chosen)
SERVICES = st.lists(SOME_SERVICE, max_size=8)


@dataclass(frozen=True)
class Step:
    """A change that comes to the planner: Services put, names deleted, perhaps another configuration, perhaps all writes done."""

    put: tuple[Service, ...]
    deleted: tuple[str, ...]
    config: Config | None
    quotas: Mapping[str, int] | None
    settle: bool
    later_s: int = 0


ALL_NAMES = [f"{namespace}/{name}" for namespace in "xy" for name in NAMES]
CIRCUMSTANCES = list(
    product((None, None, *CONFIGS), (None, None, {}, {"x": 1}, {"x": 2, "y": 0}), (False, True), (0, 1, 2))
)  # Like the choices for a Service, these are drawn at once.
STEPS = st.builds(
    lambda put, deleted, others: Step(tuple(put), deleted, *others),
    st.lists(SOME_SERVICE, max_size=4),
    st.sampled_from([*[()] * 20, *((one,) for one in ALL_NAMES), *combinations(ALL_NAMES, 2)]),
    st.sampled_from(CIRCUMSTANCES),
)


def settled(world: Mapping[ServiceKey, Service], decisions: Mapping[ServiceKey, Decision]) -> dict[ServiceKey, Service]:
    """The Services as they are once everything that was decided is written."""
    return {
        key: one if decisions[key].outcome is Outcome.IGNORED else replace(one, recorded=decisions[key].shown)
        for key, one in world.items()
    }


def assert_shared(services: Mapping[ServiceKey, Service], holdings: list[tuple[IPAddress, ServiceKey]]) -> None:
    """Whoever holds one address together may."""
    for address, key in holdings:
        others = [(other, services[other].use) for also, other in holdings if also == address]
        assert conflict(key, services[key].use, address, others) is None


def held(decisions: Mapping[ServiceKey, Decision]) -> list[tuple[IPAddress, ServiceKey]]:
    return [
        (address, key)
        for key, one in decisions.items()
        if one.outcome is not Outcome.IGNORED
        for address in one.recorded.addresses
    ]


@UNTIMED
@given(SERVICES, st.sampled_from(CONFIGS))
def test_replanning_what_was_planned_changes_nothing(some: list[Service], config: Config) -> None:
    world = a_world(*some, config=config)
    first = plan(world)
    second = plan(replace(world, services=settled(world.services, first)))
    for key, decision in second.items():
        assert decision.recorded == first[key].recorded
        assert decision.outcome is not Outcome.ASSIGNED
        assert not decision.happened
        if decision.outcome is Outcome.REFUSED:
            assert decision.reason == first[key].reason


@UNTIMED
@given(SERVICES, st.sampled_from(CONFIGS))
def test_an_address_has_one_holder_and_is_never_stolen(some: list[Service], config: Config) -> None:
    world = a_world(*some, config=config)
    decisions = plan(world)
    assert_shared(world.services, held(decisions))
    before = {
        address: one
        for one in sorted(world.services.values(), key=lambda one: one.age, reverse=True)
        for address in one.recorded.addresses
    }
    for address, key in held(decisions):
        oldest = before.get(address)
        if oldest is not None and oldest.key != key and decisions[oldest.key].outcome is Outcome.KEPT:
            stays = address in decisions[oldest.key].recorded.addresses
            assert not stays or conflict(key, world.services[key].use, address, [(oldest.key, oldest.use)]) is None


@UNTIMED
@given(st.sampled_from(CONFIGS), st.lists(STEPS, max_size=8))
def test_step_by_step_leads_where_a_full_plan_stays(config: Config, steps: list[Step]) -> None:
    """A full plan is what another process makes of the statuses and of what this one remembered."""
    planner = Planner()
    planner.handle(Change(config=config))
    now = 0.0
    for step in steps:
        now += step.later_s
        puts: dict[ServiceKey, Service | None] = {ServiceKey(key): None for key in step.deleted}
        puts |= {service.key: service for service in step.put}
        planner.handle(Change(services=puts, config=step.config, quotas=step.quotas, now=now))
        planner.check_invariants()
        wake_at = planner.memory.wake_at()
        assert wake_at is None or wake_at > now
        if step.settle:
            seen = settled(planner.services, planner.decisions)
            planner.handle(Change(services={key: replace(one, version="2") for key, one in seen.items()}, now=now))
            planner.check_invariants()
            assert all(planner.pending(key) is None for key in seen)
        assert planner.config is not None
        world = a_world(*settled(planner.services, planner.decisions).values(), config=planner.config)
        full = plan(replace(world, quotas=planner.quotas, memory=dict(planner.memory.entries), now=now))
        assert {key: one.recorded for key, one in full.items()} == {key: one.recorded for key, one in planner.decisions.items()}
        for key, one in full.items():
            if one.outcome is Outcome.REFUSED:
                said = planner.decisions[key]
                assert (said.outcome, said.reason, said.detail) == (Outcome.REFUSED, one.reason, one.detail)


ORDERS = st.integers(0, LARGEST_DRAW).map(
    lambda seed: Random(seed).sample([*range(5)] * 3, k=15)  # noqa: S311 - shuffles, keeps no secret
)
"""Whose next edition comes; of a shuffled list, for drawing a permutation costs more than the test."""


@UNTIMED
@given(ORDERS, st.sampled_from(list(product([False, True], repeat=5))))
def test_no_order_of_events_matters_to_services_that_do_not_compete(order: list[int], shares: tuple[bool, ...]) -> None:
    """Five Services, three editions of each, in any order between Services; each wants an address that no other one wants."""
    config = a_config(a_pool("p", "10.0.0.0/28,10.0.1.0/28"))
    planner = Planner()
    planner.handle(Change(config=config))
    editions: dict[int, int] = {}
    for name in order:
        edition = editions[name] = editions.get(name, -1) + 1
        service = a_service(
            f"s{name}",
            created=name,
            wants=f"10.0.{edition % 2}.{name}",
            version=str(edition),
            sharing_key="k" if shares[name] else "",
        )
        known = planner.services.get(service.key)
        planner.handle(Change(services={service.key: replace(service, recorded=known.recorded) if known else service}))
        planner.check_invariants()
    assert {key: str(*one.recorded.addresses) for key, one in planner.decisions.items()} == {
        f"default/s{name}": f"10.0.0.{name}" for name in range(5)
    }


@UNTIMED
@given(SERVICES, st.sampled_from(CONFIGS))
def test_releasing_everything_empties_the_ledger(some: list[Service], config: Config) -> None:
    planner = Planner()
    planner.handle(Change(services={service.key: service for service in some}, config=config))
    planner.handle(Change(services=dict.fromkeys(planner.services)))
    planner.check_invariants()
    assert not list(planner.ledger.holdings())
    assert not planner.waiting
    assert not planner.unseen


USES = (a_use(""), a_use("k"), a_use("k", ports="TCP/81"), a_use("k", "a=b", "TCP/82"), a_use("l", ports="UDP/80"))
VERBS = ("claim", "claim", "lowest", "lowest", "release")
OPERATIONS = st.lists(st.sampled_from(list(product(VERBS, range(7), range(13), (4, 6), USES))), max_size=80)


@UNTIMED
@given(OPERATIONS, st.booleans(), st.sampled_from(["", "10.0.0.251-10.0.0.253,10.0.0.253-10.0.0.255,fc00::", "10.0.0.0/8"]))
def test_the_lowest_address_is_what_a_search_finds(
    operations: list[tuple[str, int, int, int, Use]], avoid: object, reserved: str
) -> None:
    ranges = "10.0.0.250-10.0.1.2,10.0.0.8/30,fc00::4/126,fc00::/127"
    pool = a_pool("p", ranges, avoid_buggy_ips=bool(avoid), reserved=reserved)
    ledger = Ledger(a_config(pool))
    everything: dict[int, list[IPAddress]] = {4: [], 6: []}
    for one in pool.ranges:
        everything[one.first.version] += [one.first + offset for offset in range(one.size)]
    for verb, who, which, version, use in operations:
        key, seeker = ServiceKey(f"ns/{who}"), ServiceKey("ns/seeker")
        candidates = [
            address
            for address in everything[version]
            if ledger.pool_of(address) and ledger.conflict(seeker, (address,), use) is None
        ]
        if verb == "release":
            ledger.release(key)
        elif verb == "lowest":
            given_out = [address for address in candidates if not any(address in one for one in pool.reserved)]
            assert ledger.lowest(PoolName("p"), version, use) == (given_out[0] if given_out else None)
        elif which < len(candidates):
            ledger.claim(key, (candidates[which],), use)
        ledger.check_invariants()


def test_recorded_defaults_to_nothing() -> None:
    assert Recorded((), None) == NOTHING
    assert addresses("") == ()
