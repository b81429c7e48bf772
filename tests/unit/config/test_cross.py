"""Rules between objects: which of two that cannot both be in force loses, and what changes of others do to an object."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest

from config.compile import Compiled, compile_config
from config.cross import PasswordSecret, References, Surroundings
from config.model import BfdProfile, Community, PeerName, PoolName
from config.problem import SUMMARY_LENGTH_MAX, Problem, Severity, as_json, error_summary
from tests.builders import NAMESPACE, a_pool_document, an_l2_document

PEER = {"myASN": 64512, "peerASN": 64513, "peerAddress": "192.0.2.1"}
FRR = Surroundings(mode="frr")
NODES = {"a": {"host": "a", "all": "yes"}, "b": {"host": "b", "all": "yes"}}
ON_A, ON_B = [{"matchLabels": {"host": "a"}}], [{"matchLabels": {"host": "b"}}]


def a_document(kind: str, name: str, *, created: int = 0, version: str = "v1beta1", **spec: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": NAMESPACE, "creationTimestamp": f"2026-01-01T00:00:{created:02}Z"}
    return {"apiVersion": f"metallb.io/{version}", "kind": kind, "metadata": metadata, "spec": spec}


def a_peer(name: str = "peer", **spec: Any) -> dict[str, Any]:
    return a_document("BGPPeer", name, version="v1beta2", **{**PEER, **spec})


def an_ad(name: str = "ad", **spec: Any) -> dict[str, Any]:
    return a_document("BGPAdvertisement", name, **spec)


def a_community(name: str, *, created: int = 0, **aliases: str) -> dict[str, Any]:
    pairs = [{"name": key, "value": value} for key, value in aliases.items()]
    return a_document("Community", name, created=created, communities=pairs)


def compiled(*objects: Any, around: Surroundings = FRR, after: Compiled | None = None) -> Compiled:
    return compile_config(objects, {}, after.valid if after else {}, around)


def errors(result: Compiled) -> list[tuple[str, str, str]]:
    return [(one.object.name, one.path, one.message) for one in result.problems if one.severity is Severity.ERROR]


def summary(result: Compiled) -> str:
    return error_summary(result.problems)


@pytest.mark.parity(
    "Parser > every feature together",
    "Communities > the text of a large one",
)
def test_everything_of_bgp_reaches_the_configuration() -> None:
    result = compiled(
        a_pool_document("v4", ["10.0.0.0/24"], labels={"zone": "a"}),
        a_community("names", blackhole="65535:666"),
        a_document("BFDProfile", "fast", receiveInterval=50, transmitInterval=60, detectMultiplier=4, echoMode=True, minimumTtl=2),
        a_peer(
            bfdProfile="fast", peerAddress="2001:db8::1", sourceAddress="2001:db8::2", routerID="1.2.3.4", holdTime="90s",
            connectTime="10s", ebgpMultiHop=True, vrf="red", localASN=5, passwordSecret={"name": "secret"}, nodeSelectors=ON_A,
        ),
        an_ad(
            ipAddressPoolSelectors=[{"matchLabels": {"zone": "a"}}], peers=["peer", "later"], localPref=7, aggregationLength=24,
            communities=["blackhole", "1:2", "large:1:2:3"],
        ),
    )  # fmt: skip
    assert not result.problems
    (peer,) = result.config.peers
    assert (peer.hold_time_s, peer.keepalive_time_s, peer.connect_time_s) == (90, 30, 10)
    assert (peer.address, peer.source_address) == (ip_address("2001:db8::1"), ip_address("2001:db8::2"))
    assert (peer.peer_asn, peer.port, peer.password_secret, peer.vrf, peer.local_asn) == (64513, 179, "secret", "red", 5)
    assert peer.bfd_profile == "fast"
    assert result.config.bfd_profiles["fast"] == BfdProfile("fast", 50, 60, 4, echo_mode=True, minimum_ttl=2)
    (ad,) = result.config.bgp_advertisements
    assert ad.pools == {PoolName("v4")}
    assert ad.peers == frozenset({PeerName("peer"), PeerName("later")})
    assert ad.communities == {Community((65535, 666)), Community((1, 2)), Community((1, 2, 3))}
    assert sorted(map(str, ad.communities)) == ["1:2", "65535:666", "large:1:2:3"]
    assert (ad.local_pref, ad.aggregation_length, ad.aggregation_length_v6) == (7, 24, 128)


@pytest.mark.parametrize(
    ("timers", "expected"),
    [
        ({}, (None, None)),
        ({"holdTime": "180s"}, (180, 60)),
        ({"keepaliveTime": "20s"}, (60, 20)),
        ({"holdTime": "0s", "keepaliveTime": "0s"}, (0, 0)),
        ({"holdTime": "1m30s", "keepaliveTime": "500ms"}, (90, 0.5)),
    ],
)
@pytest.mark.parity(
    "Parser > timers > holdTime 180s",
    "Parser > timers > keepaliveTime only",
    "Parser > timers > both 0",
)
def test_each_timer_follows_from_the_other(timers: dict[str, str], expected: tuple[float | None, float | None]) -> None:
    (peer,) = compiled(a_peer(**timers)).config.peers
    assert (peer.hold_time_s, peer.keepalive_time_s) == expected


def test_a_password_is_not_shown_with_its_peer() -> None:
    (peer,) = compiled(a_peer(password="hunter2")).config.peers
    assert peer.password == "hunter2"
    assert "hunter2" not in repr(peer)


class TestTextsThatProgramsCompare:
    @pytest.mark.parity("Parser > password > Secret of another type")
    def test_a_secret_of_the_wrong_type(self) -> None:
        around = Surroundings(mode="frr", secrets={"s": PasswordSecret("Opaque", has_password=True)})
        result = compiled(a_peer("peer1", passwordSecret={"name": "s"}), around=around)
        assert summary(result) == (
            'configuration error: parsing peer peer1 secret type mismatch on "metallb-system"/"s", type "kubernetes.io/basic-auth" '
            "is expected \nfailed to parse peer peer1 password secret"
        )

    @pytest.mark.parity("Parser > password > Secret missing")
    def test_a_secret_that_is_missing(self) -> None:
        around = Surroundings(mode="frr", secrets={})
        assert summary(compiled(a_peer("peer1", passwordSecret={"name": "s"}), around=around)) == (
            'configuration error: parsing peer peer1 secret ref not found for peer config "metallb-system"/"peer1"\n'
            "failed to parse peer peer1 password secret"
        )

    @pytest.mark.parity("Parser > password > Secret without the key")
    def test_a_secret_without_a_password(self) -> None:
        around = Surroundings(mode="frr", secrets={"s": PasswordSecret("kubernetes.io/basic-auth", has_password=False)})
        ((name, path, message),) = errors(compiled(a_peer("peer1", passwordSecret={"name": "s"}), around=around))
        assert (name, path) == ("peer1", "spec.passwordSecret")
        assert "no key 'password'" in message

    @pytest.mark.parity("Parser > BFD > profile missing")
    def test_a_profile_that_is_missing(self) -> None:
        expected = "configuration error: peer peer1 referencing non existing bfd profile fast"
        assert summary(compiled(a_peer("peer1", bfdProfile="fast"))) == expected

    def test_a_community_that_nothing_defines(self) -> None:
        assert summary(compiled(an_ad(communities=["nowhere"]))) == (
            'configuration error: invalid community format: nowhere\ninvalid community "nowhere" in BGP advertisement'
        )

    @pytest.mark.parity("Modes > FRR > one address in one VRF")
    def test_two_peers_with_one_address_on_a_node(self) -> None:
        text = "already exists, FRR mode doesn't support duplicate BGPPeers selecting the same node"
        assert summary(compiled(a_peer("a"), a_peer("b"))) == f"configuration error: peer 192.0.2.1 {text}"
        in_vrf = summary(compiled(a_peer("a", vrf="red"), a_peer("b", vrf="red")))
        assert in_vrf == f"configuration error: peer 192.0.2.1-red {text}"

    def test_several_problems_are_sorted_and_nothing_wrong_is_nothing(self) -> None:
        result = compiled(a_peer("z", bfdProfile="fast"), a_peer("a", bfdProfile="slow", peerAddress="192.0.2.2"))
        assert summary(result).splitlines() == [
            "configuration error: peer a referencing non existing bfd profile slow",
            "configuration error: peer z referencing non existing bfd profile fast",
        ]
        assert summary(compiled(a_peer())) == ""

    def test_a_summary_fits_into_a_condition(self) -> None:
        one = compiled(a_peer(bfdProfile="x")).problems[0]
        many = [Problem(one.object, "spec", "x", f"{number} " + "x" * 200, "") for number in range(1000)]
        assert len(error_summary(many)) <= SUMMARY_LENGTH_MAX
        assert error_summary(many).endswith("\nand more")

    def test_a_problem_as_data_has_all_of_its_parts(self) -> None:
        assert as_json(compiled(a_peer("p", bfdProfile="x")).problems[0]) == {
            "object": "BGPPeer metallb-system/p",
            "path": "spec.bfdProfile",
            "code": "unresolved",
            "value": '"x"',
            "message": "peer p referencing non existing bfd profile x",
            "remedy": "create the BFDProfile",
            "severity": "error",
        }


class TestPeersOfFrr:
    @pytest.mark.parametrize(
        ("mine", "theirs", "nodes", "fault"),
        [
            ({}, {"peerAddress": "192.0.2.2"}, None, ""),
            ({}, {}, None, "already exists"),
            ({}, {}, {}, "already exists"),
            ({"nodeSelectors": ON_A}, {"nodeSelectors": ON_B}, NODES, ""),
            ({"nodeSelectors": ON_A}, {"nodeSelectors": ON_B}, {}, "already exists"),
            ({"nodeSelectors": ON_A}, {"nodeSelectors": [*ON_B, *ON_A]}, NODES, "already exists"),
            ({"nodeSelectors": ON_A}, {}, NODES, "already exists"),
            ({}, {"vrf": "red"}, None, ""),
            ({"peerAddress": "", "interface": "eth0"}, {"peerAddress": "", "interface": "eth1"}, None, ""),
            ({"peerAddress": "", "interface": "eth0"}, {"peerAddress": "", "interface": "eth0"}, None, "already exists"),
            ({}, {"peerAddress": "192.0.2.2", "routerID": "1.1.1.1"}, None, "routerID"),
            ({"routerID": "1.1.1.1"}, {"peerAddress": "192.0.2.2", "routerID": "1.1.1.1"}, None, ""),
            ({}, {"peerAddress": "192.0.2.2", "myASN": 5}, None, "myASN"),
            ({}, {"peerAddress": "192.0.2.2", "myASN": 5, "vrf": "red"}, None, ""),
        ],
    )
    @pytest.mark.parity(
        "Modes > FRR > routerIDs equal or unset",
        "Modes > FRR > routerIDs different or one unset",
        "Modes > FRR > myASN different in one VRF",
        "Modes > FRR > myASN different in other VRFs",
        "Modes > FRR > one address",
        "Modes > FRR > one address in another VRF",
        "Modes > FRR > one interface",
        "Modes > FRR > two interfaces",
        "Modes > FRR > duplicates > disjoint nodes",
        "Modes > FRR > duplicates > overlapping nodes",
        "Modes > FRR > duplicates > no selector is every node",
        "Modes > FRR > duplicates > selectors are ORed",
        "Modes > FRR > duplicates > no node is known",
    )
    def test_what_two_peers_on_a_node_cannot_have(
        self, mine: dict[str, Any], theirs: dict[str, Any], nodes: Any, fault: str
    ) -> None:
        result = compiled(a_peer("a", **mine), a_peer("b", **theirs), around=Surroundings(mode="frr", nodes=nodes))
        found = errors(result)
        if not fault:
            assert not found
            return
        ((name, _, message),) = found
        assert name == "b"
        assert fault in message
        assert [peer.name for peer in result.config.peers] == ["a"]

    @pytest.mark.parity("Modes > FRR > duplicates > the third overlaps the first")
    def test_each_two_of_three_are_compared(self) -> None:
        peers = (
            a_peer(name, nodeSelectors=where)
            for name, where in (("a", ON_A), ("b", ON_B), ("c", [*ON_A, {"matchLabels": {"x": "y"}}]))
        )
        ((name, _, message),) = errors(compiled(*peers, around=Surroundings(mode="frr", nodes=NODES)))
        assert (name, "already exists" in message) == ("c", True)

    def test_another_mode_has_no_such_rules(self) -> None:
        for mode in ("native", "other"):
            assert not errors(compiled(a_peer("a"), a_peer("b"), around=Surroundings(mode=mode)))

    def test_a_relabelled_node_takes_the_younger_peer_and_says_so(self) -> None:
        peers = a_peer("a", nodeSelectors=ON_A), a_peer("b", nodeSelectors=[{"matchLabels": {"also": "b"}}])
        around = Surroundings(mode="frr", nodes={"a": {"host": "a"}, "b": {"also": "b"}})
        before = compiled(*peers, around=around)
        assert not errors(before)
        after = compiled(*peers, around=Surroundings(mode="frr", nodes={"a": {"host": "a", "also": "b"}}), after=before)
        assert [name for name, _, _ in errors(after)] == ["b"]


def test_objects_for_other_nodes_are_left_out() -> None:
    around = Surroundings(mode="frr", nodes=NODES, node="a")
    result = compiled(a_peer("a", nodeSelectors=ON_A), a_peer("b", nodeSelectors=ON_B, bfdProfile="nowhere"), an_ad(nodeSelectors=ON_B), around=around)  # fmt: skip
    assert not result.problems
    assert [peer.name for peer in result.config.peers] == ["a"]
    assert not result.config.bgp_advertisements


@pytest.mark.parametrize(("references", "severities"), [("check", ["error"] * 2), ("warn", ["warning"] * 2), ("ignore", [])])
def test_names_that_nothing_has_are_errors_warnings_or_nothing(references: str, severities: list[str]) -> None:
    result = compiled(a_peer(bfdProfile="x"), an_ad(communities=["y"]), around=Surroundings(mode="frr", references=References(references)))  # fmt: skip
    assert [one.severity for one in result.problems if one.code == "unresolved"] == severities
    assert bool(result.config.peers) == (references != "check")


class TestCommunities:
    def test_the_younger_of_two_definitions_loses(self) -> None:
        result = compiled(a_community("a", created=5, x="1:1"), a_community("b", created=1, x="2:2"), an_ad(communities=["x"]))
        assert errors(result) == [("a", "spec.communities[0].name", 'duplicate definition of community "x"')]
        assert result.config.bgp_advertisements[0].communities == {Community((2, 2))}

    def test_a_name_beats_the_number_it_looks_like(self) -> None:
        (ad,) = compiled(a_document("Community", "c", communities=[{"name": "1:1", "value": "2:2"}]), an_ad(communities=["1:1"])).config.bgp_advertisements  # fmt: skip
        assert ad.communities == {Community((2, 2))}

    def test_an_advertisement_keeps_a_community_whose_definition_is_gone(self) -> None:
        before = compiled(a_community("c", keep="65535:65281"), an_ad(communities=["keep", "1:1"]))
        after = compiled(an_ad(communities=["keep", "1:1"]), after=before)
        assert [path for _, path, _ in errors(after)] == ["spec.communities[0]"]
        assert after.config.bgp_advertisements == before.config.bgp_advertisements
        again = compiled(a_community("c", keep="3:3"), an_ad(communities=["keep", "1:1"]), after=after)
        assert not again.problems
        assert again.config.bgp_advertisements[0].communities == {Community((3, 3)), Community((1, 1))}


class TestChangesOfOthers:
    def test_a_peer_goes_on_without_a_profile_that_is_deleted(self) -> None:
        profile = a_document("BFDProfile", "fast")
        before = compiled(profile, a_peer(bfdProfile="fast"))
        after = compiled(a_peer(bfdProfile="fast"), after=before)
        assert summary(after).startswith("configuration error: peer peer referencing non existing bfd profile fast")
        assert [(peer.name, peer.bfd_profile) for peer in after.config.peers] == [("peer", "")]
        assert after.stale
        assert compiled(profile, a_peer(bfdProfile="fast"), after=after).config.peers == before.config.peers

    def test_an_advertisement_stays_when_its_pool_gets_too_small(self) -> None:
        ad = an_ad(aggregationLength=26)
        before = compiled(a_pool_document("p", ["10.0.0.0/24"]), ad)
        after = compiled(a_pool_document("p", ["10.0.0.0/28"]), ad, after=before)
        assert [name for name, _, _ in errors(after)] == ["ad"]
        assert after.config.bgp_advertisements == before.config.bgp_advertisements
        assert not compiled(a_pool_document("p", ["10.0.0.0/28"]), ad).config.bgp_advertisements

    def test_layer_2_and_pools_do_not_mind_what_is_wrong_with_bgp(self) -> None:
        sound = a_pool_document("p"), an_l2_document("ad")
        alone = compiled(*sound).config
        broken = compiled(*sound, a_peer(myASN=0), an_ad(communities=["1:2:3"]), a_community("c", x="1")).config
        assert (alone.pools, alone.l2_advertisements) == (broken.pools, broken.l2_advertisements)
        assert not broken.peers


@pytest.mark.parametrize(
    ("entry", "lengths", "fault"),
    [
        ("10.0.0.0/28", {"aggregationLength": 26}, "prefix 28 in this pool is more specific than the aggregation length for addresses 10.0.0.0/28"),
        ("3.3.3.2-3.3.3.254", {"aggregationLength": 26}, ""),
        ("3.3.3.2-3.3.3.254", {"aggregationLength": 24}, "invalid aggregation length 24: prefix 26 in this pool"),
        ("10.0.0.0/24", {"aggregationLength": 26}, ""),
        ("2001:db8::/120", {"aggregationLengthV6": 112}, "invalid aggregation length 112: prefix 120"),
        ("2001:db8::/64", {"aggregationLength": 1}, ""),
    ],
)  # fmt: skip
@pytest.mark.parity(
    "Parser > aggregation of a range > /26 fits",
    "Parser > aggregation of a range > /24 does not",
)
def test_an_aggregate_must_not_be_larger_than_what_a_pool_has(entry: str, lengths: dict[str, Any], fault: str) -> None:
    found = errors(compiled(a_pool_document("p", [entry]), an_ad(**lengths)))
    assert bool(found) == bool(fault)
    assert all(fault in message for _, _, message in found)


@pytest.mark.parametrize(
    ("ranges", "mine", "theirs", "contradiction"),
    [
        (["10.0.0.0/24"], {"localPref": 1}, {"localPref": 1}, False),
        (["10.0.0.0/24"], {"localPref": 1}, {"localPref": 2}, True),
        (["10.0.0.0/24"], {"localPref": 1, "ipAddressPools": ["x"]}, {"localPref": 2}, False),
        (["10.0.0.0/24"], {"localPref": 1, "aggregationLength": 24}, {"localPref": 2}, False),
        (["10.0.0.0/24"], {"localPref": 1, "aggregationLengthV6": 64}, {"localPref": 2}, True),
        (["2001:db8::/64"], {"localPref": 1, "aggregationLengthV6": 64}, {"localPref": 2}, False),
        (["10.0.0.0/24", "2001:db8::/64"], {"localPref": 1, "aggregationLength": 24}, {"localPref": 2}, True),
        (["10.0.0.0/24", "2001:db8::/64"], {"localPref": 1, "aggregationLength": 24, "aggregationLengthV6": 64}, {"localPref": 2}, False),
        (["10.0.0.0/24"], {"localPref": 1, "peers": ["a"]}, {"localPref": 2, "peers": ["b"]}, False),
        (["10.0.0.0/24"], {"localPref": 1, "peers": ["a", "b"]}, {"localPref": 2, "peers": ["b", "c"]}, True),
        (["10.0.0.0/24"], {"localPref": 1, "peers": ["a"]}, {"localPref": 2}, True),
        (["10.0.0.0/24"], {"localPref": 1, "nodeSelectors": ON_A}, {"localPref": 2, "nodeSelectors": ON_B}, False),
        (["10.0.0.0/24"], {"localPref": 1, "nodeSelectors": ON_A}, {"localPref": 2}, True),
        (["10.0.0.0/24"], {"localPref": 1, "serviceSelectors": [{}]}, {"localPref": 2}, False),
    ],
)  # fmt: skip
@pytest.mark.parity(
    "Parser > localPref > same peers and nodes, different values",
    "Parser > localPref > different lengths on an IPv4 pool",
    "Parser > localPref > both lengths different on a dual pool",
    "Parser > localPref > disjoint nodes",
    "Parser > localPref > disjoint lists of peers",
)
def test_preferences_of_one_route_must_agree(
    ranges: list[str], mine: dict[str, Any], theirs: dict[str, Any], contradiction: object
) -> None:
    result = compiled(
        a_pool_document("p", ranges), an_ad("a", **mine), an_ad("b", **theirs), around=Surroundings(mode="frr", nodes=NODES)
    )
    assert [(name, path) for name, path, _ in errors(result)] == ([("b", "spec.localPref")] if contradiction else [])


def test_without_nodes_selectors_may_keep_preferences_apart() -> None:
    documents = a_pool_document("p"), an_ad("a", localPref=1, nodeSelectors=ON_A), an_ad("b", localPref=2, nodeSelectors=ON_B)
    assert not errors(compiled(*documents))
    assert errors(compiled(a_pool_document("p"), an_ad("a", localPref=1), an_ad("b", localPref=2)))
    nowhere = Surroundings(mode="frr", nodes={})
    assert not errors(compiled(a_pool_document("p"), an_ad("a", localPref=1), an_ad("b", localPref=2), around=nowhere))


class TestIpv6Pools:
    POOL = a_pool_document("six", ["2001:db8::/64"], labels={"family": "six"})

    @pytest.mark.parametrize(
        "spec", [{}, {"ipAddressPools": ["six"]}, {"ipAddressPoolSelectors": [{"matchLabels": {"family": "six"}}]}]
    )
    @pytest.mark.parity(
        "Modes > native > an IPv6 pool selected > by name",
        "Modes > native > an IPv6 pool selected > by label",
        "Modes > native > an IPv6 pool selected > by none",
    )
    def test_native_mode_cannot_announce_them(self, spec: dict[str, Any]) -> None:
        ((name, _, message),) = errors(compiled(self.POOL, an_ad(**spec), around=Surroundings()))
        assert name == "ad"
        assert "native BGP mode" in message

    @pytest.mark.parity("Modes > native > an IPv6 pool that no BGP advertisement selects")
    def test_native_mode_does_not_mind_them_unannounced(self) -> None:
        assert not errors(compiled(self.POOL, an_ad(ipAddressPools=["other"]), around=Surroundings()))

    @pytest.mark.parity(
        "Parser > BFD > echo and an IPv6 pool",
        "Parser > BFD > echo and an IPv4 pool",
    )
    def test_they_do_not_go_with_a_profile_that_echoes(self) -> None:
        profile, peer = a_document("BFDProfile", "echo", echoMode=True), a_peer(bfdProfile="echo")
        ((name, _, message),) = errors(compiled(self.POOL, profile, peer, an_ad()))
        assert name == "ad"
        assert "echoMode" in message
        assert not errors(compiled(a_pool_document("four"), profile, peer, an_ad()))
        assert not errors(compiled(self.POOL, profile, peer, an_ad(peers=["another"])))
