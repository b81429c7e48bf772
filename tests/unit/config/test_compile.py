from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest

from config.compile import Compiled, compile_config
from config.model import EMPTY, ObjectRef, PoolName, Requirement, Selector
from config.problem import Severity
from tests.builders import NAMESPACE, a_pool_document, an_l2_document

BAD = ["192.168.20.20-192.168.20.300"]


def compiled(*objects: Any, after: Compiled | None = None, namespaces: dict[str, dict[str, str]] | None = None) -> Compiled:
    return compile_config(objects, namespaces or {}, after.valid if after else {})


def errors(result: Compiled) -> list[tuple[str, str, str]]:
    return [(one.object.name, one.path, one.code) for one in result.problems if one.severity is Severity.ERROR]


def ranges(result: Compiled, name: str) -> list[str]:
    return [f"{one.first}-{one.last}" for one in result.config.pools[PoolName(name)].ranges]


@pytest.mark.parity("Parser > an empty configuration")
def test_nothing_is_a_valid_configuration() -> None:
    result = compiled()
    assert (result.config, result.problems, result.stale) == (EMPTY, (), False)


def test_a_pool_and_its_advertisement_are_cross_referenced() -> None:
    result = compiled(a_pool_document("default"), an_l2_document("default", ipAddressPools=["default", "not-there"]))
    assert not result.problems
    (pool,) = result.config.pools.values()
    assert (pool.name, pool.auto_assign, pool.avoid_buggy_ips, pool.pinned, pool.namespaces) == (
        "default",
        True,
        False,
        False,
        None,
    )
    assert result.config.l2_advertisements[0].pools == {"default"}


@pytest.mark.parity("Parser > pool > no advertisement")
def test_members_of_a_pool_reach_the_configuration() -> None:
    document = a_pool_document(
        "p",
        ["10.0.0.0/24", "fc00::1-fc00::2"],
        labels={"zone": "a"},
        autoAssign=False,
        avoidBuggyIPs=True,
        serviceAllocation={"priority": 7, "serviceSelectors": [{"matchLabels": {"app": "web"}}]},
    )
    pool = compiled(document).config.pools[PoolName("p")]
    assert dict(pool.labels) == {"zone": "a"}
    assert (pool.auto_assign, pool.avoid_buggy_ips, pool.pinned, pool.priority) == (False, True, True, 7)
    assert pool.service_selectors == (Selector((Requirement("app", "In", frozenset({"web"})),)),)


@pytest.mark.parametrize(
    ("allocation", "allowed"),
    [
        ({"priority": 1}, None),
        ({"namespaces": ["x"]}, {"x"}),
        ({"namespaceSelectors": [{"matchLabels": {"team": "a"}}]}, {"blue", "green"}),
        ({"namespaces": ["x"], "namespaceSelectors": [{"matchLabels": {"team": "a"}}]}, {"x", "blue", "green"}),
        ({"namespaceSelectors": [{"matchLabels": {"team": "nobody"}}]}, set()),
    ],
)
def test_namespaces_by_name_and_by_label_are_united(allocation: dict[str, Any], allowed: set[str] | None) -> None:
    namespaces = {"blue": {"team": "a"}, "green": {"team": "a"}, "red": {}}
    pool = compiled(a_pool_document("p", serviceAllocation=allocation), namespaces=namespaces).config.pools[PoolName("p")]
    assert pool.pinned
    assert pool.namespaces == allowed


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, {"a", "b", "broken"}),
        ({"ipAddressPools": ["a"]}, {"a"}),
        ({"ipAddressPoolSelectors": [{"matchLabels": {"zone": "b"}}]}, {"b"}),
        ({"ipAddressPools": ["a"], "ipAddressPoolSelectors": [{"matchLabels": {"zone": "b"}}]}, {"a", "b"}),
        ({"ipAddressPoolSelectors": [{"matchLabels": {"zone": "c"}}]}, set()),
        ({"ipAddressPools": ["c"]}, set()),
        ({"ipAddressPools": ["broken"]}, {"broken"}),
    ],
)
@pytest.mark.parity("Parser > pool selectors that match nothing apply to no pool")
def test_an_advertisement_names_the_pools_it_is_for(spec: dict[str, Any], expected: set[str]) -> None:
    result = compiled(
        a_pool_document("a", ["10.0.0.0/24"]),
        a_pool_document("b", ["10.0.1.0/24"], labels={"zone": "b"}),
        a_pool_document("broken", BAD),
        an_l2_document("ad", **spec),
    )
    assert result.config.l2_advertisements[0].pools == expected


def test_members_of_an_advertisement_reach_the_configuration() -> None:
    document = an_l2_document(
        "ad",
        interfaces=["eth0", "eth1"],
        nodeSelectors=[{"matchLabels": {"n": "1"}}],
        serviceSelectors=[{}],
        preferredNodeSelectors=[{"weight": 50, "preference": {"matchExpressions": [{"key": "k", "operator": "Exists"}]}}],
    )
    (ad,) = compiled(document).config.l2_advertisements
    assert ad.interfaces == {"eth0", "eth1"}
    assert ad.node_selectors == (Selector((Requirement("n", "In", frozenset({"1"})),)),)
    assert ad.service_selectors == (Selector(),)
    assert [(one.weight, one.selector.requirements[0].operator) for one in ad.preferences] == [(50, "Exists")]


@pytest.mark.parametrize(
    ("document", "path", "code"),
    [
        (a_pool_document("p", []), "spec.addresses", "no-addresses"),
        (a_pool_document("p", [" 10.0.0.0/8"]), "spec.addresses[0]", "address-range"),
        (a_pool_document("p", ["10.0.0.0/8", "10.1.0.0/16"]), "spec.addresses[1]", "overlap"),
        (a_pool_document("p", ["10.0.0.0/8"], serviceAllocation={"namespaces": ["a", "a"]}), "spec.serviceAllocation.namespaces[1]", "duplicate"),
        (a_pool_document("p", ["10.0.0.0/8"], serviceAllocation={"serviceSelectors": [{}, {}]}), "spec.serviceAllocation.serviceSelectors[1]", "duplicate"),
        (a_pool_document("p", ["10.0.0.0/8"], serviceAllocation={"namespaceSelectors": [{}, {}]}), "spec.serviceAllocation.namespaceSelectors[1]", "duplicate"),
        (a_pool_document("p", ["10.0.0.0/8"], serviceAllocation={"priority": 10**30}), "spec.serviceAllocation.priority", "range"),
        ({"kind": "IPAddressPool", "metadata": {"name": "p"}}, "spec", "required"),
        ({"kind": "IPAddressPool", "metadata": {"name": "p"}, "spec": 5}, "spec", "type"),
        (an_l2_document("p", ipAddressPools=["a", "a"]), "spec.ipAddressPools[1]", "duplicate"),
        (an_l2_document("p", ipAddressPoolSelectors=[{}, {}]), "spec.ipAddressPoolSelectors[1]", "duplicate"),
        (an_l2_document("p", nodeSelectors=[{}, {}]), "spec.nodeSelectors[1]", "duplicate"),
        (an_l2_document("p", serviceSelectors=[{}, {}]), "spec.serviceSelectors[1]", "duplicate"),
        (an_l2_document("p", preferredNodeSelectors=[{"weight": 1, "preference": {"matchLabels": {"-": ""}}}]), "spec.preferredNodeSelectors[0].preference.matchLabels", "label-key"),
    ],
)  # fmt: skip
def test_a_broken_object_is_named_with_path_and_remedy(document: dict[str, Any], path: str, code: str) -> None:
    result = compiled(document)
    assert errors(result) == [("p", path, code)]
    assert all(one.message and one.remedy for one in result.problems)
    assert result.stale
    assert not result.config.pools
    assert not result.config.l2_advertisements


def test_every_problem_of_an_object_is_collected() -> None:
    result = compiled(a_pool_document("p", ["1.2.3.4", "10.0.0.0/33", "10.0.0.0/8"], autoassign=True, serviceAllocation=[]))
    assert sorted(path for _, path, _ in errors(result)) == [
        "spec.addresses[0]",
        "spec.addresses[1]",
        "spec.autoassign",
        "spec.serviceAllocation",
    ]


def test_a_problem_reads_as_a_sentence() -> None:
    problem = compiled(a_pool_document("p", ["1.2.3.4"])).problems[0]
    assert str(problem) == (
        "IPAddressPool metallb-system/p: spec.addresses[0]: invalid CIDR '1.2.3.4': no prefix length "
        "(write a CIDR (192.0.2.0/24), or first-last; one address is a-a)"
    )
    assert problem.value == '"1.2.3.4"'


def test_a_broken_pool_does_not_hold_up_the_others() -> None:
    result = compiled(a_pool_document("bad", BAD), a_pool_document("good", ["10.0.0.0/24"]))
    assert set(result.config.pools) == {"good"}
    assert result.config.broken_pools == {"bad"}


def test_a_broken_edition_is_replaced_by_the_last_valid_one() -> None:
    before = compiled(a_pool_document("p", ["10.0.0.0/24"]))
    result = compiled(a_pool_document("p", BAD), after=before)
    assert ranges(result, "p") == ["10.0.0.0-10.0.0.255"]
    assert not result.config.broken_pools
    assert result.replaced == {ObjectRef("IPAddressPool", NAMESPACE, "p")}
    assert result.stale
    again = compiled(a_pool_document("p", BAD), after=result)
    assert ranges(again, "p") == ["10.0.0.0-10.0.0.255"]


def test_a_repaired_edition_is_in_force_at_once() -> None:
    before = compiled(a_pool_document("p", BAD), after=compiled(a_pool_document("p", ["10.0.0.0/24"])))
    result = compiled(a_pool_document("p", ["10.0.1.0/24"]), after=before)
    assert ranges(result, "p") == ["10.0.1.0-10.0.1.255"]
    assert (result.problems, result.replaced, result.stale) == ((), frozenset(), False)


def test_without_a_last_valid_edition_a_pool_is_listed_as_broken() -> None:
    result = compiled(a_pool_document("p", BAD))
    assert result.config.broken_pools == {"p"}
    assert any("keep addresses they have" in one.message for one in result.problems)


def test_deleting_a_pool_is_honoured_at_once() -> None:
    result = compiled(after=compiled(a_pool_document("p", ["10.0.0.0/24"])))
    assert (result.config, result.valid) == (EMPTY, {})


def test_a_new_pool_of_a_deleted_pools_name_does_not_inherit_its_edition() -> None:
    before = compiled(a_pool_document("p", ["10.0.0.0/24"], uid="one"))
    assert compiled(a_pool_document("p", BAD, uid="two"), after=before).config.broken_pools == {"p"}


def test_the_last_valid_edition_follows_the_present_labels() -> None:
    before = compiled(a_pool_document("p", ["10.0.0.0/24"], labels={"zone": "a"}))
    ad = an_l2_document("ad", ipAddressPoolSelectors=[{"matchLabels": {"zone": "b"}}])
    result = compiled(a_pool_document("p", BAD, labels={"zone": "b"}), ad, after=before)
    assert result.config.l2_advertisements[0].pools == {"p"}


def test_a_broken_advertisement_is_replaced_by_its_last_valid_edition_or_ignored() -> None:
    good, bad = an_l2_document("ad", interfaces=["eth0"]), an_l2_document("ad", interfaces="eth1")
    assert compiled(bad, after=compiled(good)).config.l2_advertisements[0].interfaces == {"eth0"}
    alone = compiled(bad)
    assert not alone.config.l2_advertisements
    assert any(one.message.endswith("it is ignored") for one in alone.problems)


@pytest.mark.parity("Parser > pools that overlap")
def test_of_two_overlapping_pools_the_older_keeps_its_range() -> None:
    result = compiled(
        a_pool_document("a-newer", ["10.0.0.128/25"], created=5), a_pool_document("b-older", ["10.0.0.0/24"], created=1)
    )
    assert set(result.config.pools) == {"b-older"}
    assert result.config.broken_pools == {"a-newer"}
    problem = next(one for one in result.problems if one.code == "overlap")
    assert (
        'CIDR "10.0.0.128/25" overlaps with already defined CIDR "10.0.0.0/24" of IPAddressPool metallb-system/b-older'
        in problem.message
    )


def test_of_two_overlapping_pools_of_the_same_age_the_first_by_name_keeps_its_range() -> None:
    result = compiled(a_pool_document("b", ["10.0.0.0/24"]), a_pool_document("a", ["10.0.0.0/25"]))
    assert set(result.config.pools) == {"a"}


def test_a_pool_changed_into_an_overlap_falls_back_to_its_last_valid_edition() -> None:
    older, newer = a_pool_document("old", ["10.0.0.0/24"], created=1), a_pool_document("new", ["10.0.1.0/24"], created=2)
    before = compiled(older, newer)
    result = compiled(older, a_pool_document("new", ["10.0.0.0/23"], created=2), after=before)
    assert ranges(result, "new") == ["10.0.1.0-10.0.1.255"]
    result = compiled(a_pool_document("old", ["10.0.0.0/23"], created=1), newer, after=before)
    assert (ranges(result, "old"), ranges(result, "new")) == (["10.0.0.0-10.0.0.255"], ["10.0.1.0-10.0.1.255"])
    assert [name for name, _, code in errors(result) if code == "overlap"] == ["old"]


def test_a_last_valid_edition_that_overlaps_does_not_help() -> None:
    broken = a_pool_document("p", BAD, created=9)
    before = compiled(a_pool_document("p", ["10.0.0.0/24"], created=9, uid="x"))
    result = compiled(
        {**broken, "metadata": {**broken["metadata"], "uid": "x"}}, a_pool_document("q", ["10.0.0.0/8"]), after=before
    )
    assert set(result.config.pools) == {"p"}
    changed = a_pool_document("p", ["10.1.0.0/16", "10.9.0.0/16"], created=9, uid="x")
    result = compiled(changed, a_pool_document("q", ["10.0.0.0/8"], created=1), after=before)
    assert set(result.config.pools) == {"q"}
    assert result.config.broken_pools == {"p"}


def test_two_pools_may_swap_their_ranges() -> None:
    before = compiled(a_pool_document("a", ["10.0.0.0/24"]), a_pool_document("b", ["10.0.1.0/24"]))
    result = compiled(a_pool_document("a", ["10.0.1.0/24"]), a_pool_document("b", ["10.0.0.0/24"]), after=before)
    assert not result.problems
    assert (ranges(result, "a"), ranges(result, "b")) == (["10.0.1.0-10.0.1.255"], ["10.0.0.0-10.0.0.255"])


def test_the_same_name_twice_counts_once() -> None:
    result = compiled(a_pool_document("p", ["10.0.0.0/24"]), a_pool_document("p", ["10.0.1.0/24"], created=3))
    assert ranges(result, "p") == ["10.0.0.0-10.0.0.255"]
    assert errors(result) == [("p", "metadata.name", "duplicate")]


def test_an_advertisement_without_a_spec_announces_every_pool() -> None:
    result = compiled(a_pool_document("p", ["10.0.0.0/24"]), {"kind": "L2Advertisement", "metadata": {"name": "ad"}})
    assert result.config.l2_advertisements[0].pools == {"p"}


@pytest.mark.parametrize(
    "document",
    [
        {"kind": "Service", "metadata": {"name": "p"}},
        {"apiVersion": "crd.example.com/v1", "kind": "IPAddressPool", "metadata": {"name": "p"}},
        {"kind": ["IPAddressPool"]},
        {},
    ],
)
def test_kinds_that_are_not_ours_are_ignored(document: dict[str, Any]) -> None:
    assert compiled(document).problems == ()


@pytest.mark.parity("Parser > pool > no name")
def test_objects_without_a_name_are_problems() -> None:
    result = compiled(
        {"kind": "IPAddressPool", "metadata": {"name": 5, "namespace": "x"}}, 17, {"kind": "L2Advertisement", "metadata": None}
    )
    assert sorted((one.object.kind, one.path, one.code) for one in result.problems) == [
        ("IPAddressPool", "metadata.name", "required"),
        ("L2Advertisement", "metadata.name", "required"),
        ("unknown", "", "type"),
    ]


def test_metadata_that_cannot_be_read_does_not_break_the_object() -> None:
    document = a_pool_document("p", ["10.0.0.0/24"])
    document["metadata"]["labels"] = ["not", "a", "map"]
    assert set(compiled(document).config.pools) == {"p"}


def test_the_order_of_the_objects_does_not_matter() -> None:
    documents = [
        a_pool_document("a", ["10.0.0.0/24"]),
        a_pool_document("b", ["10.0.0.0/25"]),
        an_l2_document("x"),
        a_pool_document("c", BAD),
    ]
    assert compiled(*documents) == compiled(*reversed(documents))


def test_the_pool_of_addresses_has_all_of_them() -> None:
    config = compiled(a_pool_document("a", ["10.0.0.0/24"]), a_pool_document("b", ["10.0.1.0/24"])).config
    one, other = ip_address("10.0.0.1"), ip_address("10.0.1.1")
    assert config.pool_of((one,)) == config.pools[PoolName("a")]
    assert config.pool_of((one, other)) is None
    assert config.pool_of(()) is None
    assert config.pools[PoolName("a")].ranges[0].size == 256
    assert str(ObjectRef("IPAddressPool", "ns", "p")) == "IPAddressPool ns/p"


def a_reserving(text: str) -> dict[str, Any]:
    document = a_pool_document("p", ["10.0.0.0/24"])
    document["metadata"]["annotations"] = {"lb.metallb-py.io/reserved": text}
    return document


def test_addresses_that_a_pool_reserves_are_read_from_its_annotation() -> None:
    document = a_reserving("10.0.0.1, 10.0.0.16/28,10.0.0.64-10.0.0.70,")
    pool = compile_config([document], {}, {}).config.pools[PoolName("p")]
    assert [str(one.first) + "-" + str(one.last) for one in pool.reserved] == [
        "10.0.0.1-10.0.0.1",
        "10.0.0.16-10.0.0.31",
        "10.0.0.64-10.0.0.70",
    ]


def test_a_reservation_that_cannot_be_read_leaves_the_last_valid_one_in_force() -> None:
    good = compile_config([a_reserving("10.0.0.1")], {}, {})
    bad = compile_config([a_reserving("10.0.0.1-")], {}, good.valid)
    assert bad.config.pools[PoolName("p")].reserved == good.config.pools[PoolName("p")].reserved
    paths = [problem.path for problem in bad.problems if problem.severity is Severity.ERROR]
    assert paths == ['metadata.annotations["lb.metallb-py.io/reserved"]']


@pytest.mark.parametrize(
    ("annotations", "election"), [({}, "compatible"), ({"lb.metallb-py.io/election": "balanced"}, "balanced")]
)
def test_the_kind_of_election_is_read_from_an_annotation(annotations: dict[str, str], election: str) -> None:
    document = an_l2_document("all")
    document["metadata"]["annotations"] = annotations
    (found,) = compiled(a_pool_document("p"), document).config.l2_advertisements
    assert found.election == election


def test_an_election_that_does_not_exist_leaves_the_last_valid_edition_in_force() -> None:
    document = an_l2_document("all")
    document["metadata"]["annotations"] = {"lb.metallb-py.io/election": "fair"}
    result = compile_config([document], {}, {})
    (problem,) = [one for one in result.problems if one.severity is Severity.ERROR]
    assert problem.path == 'metadata.annotations["lb.metallb-py.io/election"]'
    assert "compatible, balanced" in str(problem)
    assert result.config.l2_advertisements == ()


@pytest.mark.parity("Parser > no nodeSelectors mean every node")
def test_an_advertisement_without_node_selectors_excludes_no_node() -> None:
    result = compiled(
        a_pool_document("p"), an_l2_document("all"), an_l2_document("one", nodeSelectors=[{"matchLabels": {"n": "1"}}])
    )
    every, one = result.config.l2_advertisements
    assert (every.node_selectors, len(one.node_selectors)) == ((), 1)


@pytest.mark.parametrize(
    "other",
    [
        {"nodeSelectors": [{"matchLabels": {"n": "1"}}]},
        {"interfaces": ["eth0"]},
        {"serviceSelectors": [{"matchLabels": {"app": "web"}}]},
        {"preferredNodeSelectors": [{"weight": 1, "preference": {}}]},
    ],
)
@pytest.mark.parity("Parser > Layer 2 advertisements that differ in one member stay two")
def test_two_advertisements_that_differ_are_both_in_force(other: dict[str, Any]) -> None:
    result = compiled(a_pool_document("p"), an_l2_document("plain"), an_l2_document("special", **other))
    assert [ad.pools for ad in result.config.l2_advertisements] == [{"p"}, {"p"}]
    assert not result.problems
