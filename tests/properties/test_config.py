"""compile_config is total, and what it returns is consistent whatever users write."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.check import findings
from config.compile import compile_config
from config.crd import structural
from config.kinds.ip_address_pool import IPAddressPool
from config.kinds.meta import LabelSelector
from config.model import Requirement, Selector
from config.problem import Severity
from config.rules import Occupied
from config.selectors import compile_selector, matches
from config.values import TextError, parse_range, show_range
from tests.builders import a_pool_document, an_l2_document

UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # The machine is shared: time says nothing.

TEXTS = st.one_of(
    st.text(max_size=6),
    st.sampled_from(["a", "b", "team", "10.0.0.0/30", "10.0.0.2-10.0.0.9", "fc00::/126", "10.0.0.9-10.0.0.1"]),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
SELECTORS = st.lists(
    st.fixed_dictionaries({}, optional={"matchLabels": st.dictionaries(TEXTS, TEXTS, max_size=2), "matchExpressions": JSON}),
    max_size=2,
)
NAMES = st.sampled_from(["a", "b", "c"])
POOL_SPECS = st.fixed_dictionaries(
    {"addresses": st.lists(TEXTS, max_size=3) | JSON},
    optional={
        "autoAssign": st.booleans() | JSON,
        "avoidBuggyIPs": st.booleans(),
        "serviceAllocation": st.fixed_dictionaries(
            {},
            optional={
                "priority": st.integers(),
                "namespaces": st.lists(TEXTS),
                "serviceSelectors": SELECTORS,
                "namespaceSelectors": SELECTORS,
            },
        )
        | JSON,
        "extra": JSON,
    },
)
L2_SPECS = st.fixed_dictionaries(
    {},
    optional={
        "ipAddressPools": st.lists(NAMES) | JSON,
        "ipAddressPoolSelectors": SELECTORS,
        "preferredNodeSelectors": st.lists(
            st.fixed_dictionaries({"weight": st.integers(0, 101), "preference": st.just({})}) | JSON, max_size=2
        ),
    },
)


@st.composite
def documents(draw: st.DrawFn) -> Any:
    """A configuration object, sound or not, or something else altogether."""
    name, created, labels = draw(NAMES), draw(st.integers(0, 5)), draw(st.dictionaries(NAMES, NAMES, max_size=1))
    match draw(st.sampled_from(["pool", "pool", "ad", "json", "kind"])):
        case "pool":
            return {**a_pool_document(name, [], created=created, labels=labels), "spec": draw(POOL_SPECS)}
        case "ad":
            return {**an_l2_document(name, created=created), "spec": draw(L2_SPECS)}
        case "kind":
            return {"kind": "IPAddressPool", "metadata": draw(JSON), "spec": draw(JSON)}
    return draw(JSON)


@UNTIMED
@given(
    st.lists(documents(), max_size=5),
    st.lists(documents(), max_size=5),
    st.dictionaries(NAMES, st.dictionaries(NAMES, NAMES, max_size=1), max_size=2),
)
def test_compile_never_raises_and_its_result_is_consistent(
    first: list[Any], second: list[Any], namespaces: dict[str, dict[str, str]]
) -> None:
    before = compile_config(first, namespaces, {})
    after = compile_config(second, namespaces, before.valid)
    for result in (before, after):
        assert not result.config.broken_pools & result.config.pools.keys()
        assert {ref.name for ref in result.valid if ref.kind == "IPAddressPool"} == set(result.config.pools)
        known = result.config.pools.keys() | result.config.broken_pools
        assert all(ad.pools <= known for ad in result.config.l2_advertisements)
        assert all(problem.message and (problem.remedy or problem.severity is Severity.WARNING) for problem in result.problems)
        occupied = Occupied()
        for pool in result.config.pools.values():
            assert pool.ranges
            for one in pool.ranges:
                assert occupied.overlapping(one) is None
                occupied.add(one, pool.name)
        occupied.check_invariants()
    assert compile_config(second, namespaces, after.valid).config == after.config


@UNTIMED
@given(JSON)
def test_what_the_check_lets_through_can_be_decoded(spec: Any) -> None:
    schema = structural(IPAddressPool)["properties"]["spec"]
    if not list(findings(spec, schema, "spec")):
        document = {**a_pool_document("p", []), "spec": spec}
        assert all(problem.code != "type" for problem in compile_config([document], {}, {}).problems)


@UNTIMED
@given(st.text(alphabet="0123456789abcdef:./- ", max_size=24))
def test_a_range_is_refused_or_reads_the_same_when_shown(text: str) -> None:
    try:
        one = parse_range(text)
    except TextError:
        return
    assert int(one.first) <= int(one.last)
    assert parse_range(show_range(one)) == one


@UNTIMED
@given(st.dictionaries(NAMES, NAMES, max_size=3), st.dictionaries(NAMES, NAMES, max_size=3))
def test_match_labels_means_a_subset(wanted: dict[str, str], labels: dict[str, str]) -> None:
    assert matches(compile_selector(LabelSelector(match_labels=wanted)), labels) == (wanted.items() <= labels.items())


@UNTIMED
@given(NAMES, st.frozensets(NAMES), st.dictionaries(NAMES, NAMES, max_size=3))
def test_each_operator_is_the_negation_of_its_opposite(key: str, values: frozenset[str], labels: dict[str, str]) -> None:
    def holds(requirement: Requirement) -> bool:
        return matches(Selector((requirement,)), labels)

    assert holds(Requirement(key, "In", values)) is not holds(Requirement(key, "NotIn", values))
    assert holds(Requirement(key, "Exists")) is not holds(Requirement(key, "DoesNotExist"))
