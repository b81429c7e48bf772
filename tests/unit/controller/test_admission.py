from __future__ import annotations

from typing import Any

import pytest

from config.cross import References, Surroundings
from controller.admission import (
    VALIDATORS,
    BadReviewError,
    Request,
    Validator,
    Verdict,
    admission_answer,
    converted,
    judge,
    request_of,
)
from kube.resources import resource_of
from tests.builders import NAMESPACE, a_pool_document, an_l2_document

KINDS = {validator.kind: validator for validator in VALIDATORS.values()}
PEER = {"myASN": 64512, "peerASN": 64513, "peerAddress": "192.0.2.1"}


def a_document(kind: str, name: str, *, version: str = "v1beta1", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": f"metallb.io/{version}",
        "kind": kind,
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": spec,
    }


def a_peer(name: str = "peer", **spec: Any) -> dict[str, Any]:
    return a_document("BGPPeer", name, version="v1beta2", **{**PEER, **spec})


def asked(
    new: dict[str, Any] | None,
    *there: dict[str, Any],
    old: dict[str, Any] | None = None,
    mode: str = "frr",
    nodes: Any = None,
    namespace: str = NAMESPACE,
) -> Verdict:
    document = new or old
    assert document is not None
    operation = "DELETE" if new is None else "CREATE" if old is None else "UPDATE"
    request = Request(operation=operation, name=document["metadata"].get("name", ""), namespace=namespace, new=new, old=old)
    validator = KINDS[document["kind"]]
    present = {kind: [one for one in there if one["kind"] == kind] for kind in (validator.kind, *validator.beside)}
    around = Surroundings(mode=mode, references=References.IGNORE, nodes=nodes)
    return judge(validator, request, present, around, NAMESPACE)


ALLOWED = Verdict(allowed=True)


def test_a_sound_object_is_allowed() -> None:
    for document in (
        a_pool_document(),
        an_l2_document(),
        a_peer(),
        a_document("BFDProfile", "p"),
        a_document("Community", "c"),
    ):
        assert asked(document) == ALLOWED


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parity("Webhooks > outside the namespace > six kinds")
def test_objects_in_another_namespace_are_refused_when_they_are_created(kind: str) -> None:
    document = a_document(
        kind, "x", **(PEER if kind == "BGPPeer" else {"addresses": ["10.0.0.0/24"]} if kind == "IPAddressPool" else {})
    )
    verdict = asked(document, namespace="default")
    assert verdict == Verdict(allowed=False, message=f"resource must be created in {NAMESPACE} namespace")
    assert asked(document, old=document, namespace="default").allowed


def test_the_pool_that_comes_is_the_one_that_is_refused() -> None:
    older = a_pool_document("newcomer", ["10.0.0.0/24"], created=0)
    verdict = asked(older, a_pool_document("there", ["10.0.0.128/25"], created=9))
    assert not verdict.allowed
    assert 'CIDR "10.0.0.0/24" overlaps with already defined CIDR "10.0.0.128/25"' in verdict.message
    assert "IPAddressPool metallb-system/newcomer: spec.addresses[0]" in verdict.message


@pytest.mark.parity("Webhooks > a second object, an update and the same name again are judged with the others")
def test_a_pool_may_be_changed_and_written_again() -> None:
    there = a_pool_document("a", ["10.0.0.0/24"])
    assert asked(a_pool_document("a", ["10.0.0.0/25"]), there, old=there).allowed
    assert asked(there, there, old=None).allowed
    verdict = asked(a_pool_document("a", ["10.0.0.0/23"]), there, a_pool_document("b", ["10.0.1.0/24"]), old=there)
    assert "overlaps with already defined CIDR" in verdict.message


def test_what_is_broken_already_does_not_stop_others_nor_changes_of_its_labels() -> None:
    broken = a_pool_document("broken", ["10.0.0.9-10.0.0.1"])
    assert asked(a_pool_document("new", ["10.1.0.0/24"]), broken).allowed
    labelled = {**broken, "metadata": {**broken["metadata"], "labels": {"a": "b"}}}
    assert asked(labelled, broken, old=broken).allowed
    still = a_pool_document("broken", ["10.0.0.9-10.0.0.2"])
    assert not asked(still, broken, old=broken).allowed
    assert asked(a_pool_document("broken", ["10.0.0.0/24"]), broken, old=broken).allowed


def test_a_name_that_the_server_will_choose_is_no_fault() -> None:
    document = a_pool_document("x", ["10.0.0.0/24"])
    document["metadata"] = {"generateName": "pool-", "namespace": NAMESPACE}
    assert asked(document, a_pool_document("pool-", ["10.1.0.0/24"])).allowed


def test_every_problem_is_in_the_answer() -> None:
    verdict = asked(a_pool_document("p", ["10.0.0.0/33", "x"]))
    assert "spec.addresses[0]" in verdict.message
    assert "spec.addresses[1]" in verdict.message


class TestAdvertisements:
    def test_an_aggregate_larger_than_a_pool_is_refused(self) -> None:
        ad = a_document("BGPAdvertisement", "ad", aggregationLength=26)
        verdict = asked(ad, a_pool_document("p", ["10.0.0.0/28"]))
        assert "invalid aggregation length 26: prefix 28 in this pool is more specific" in verdict.message
        assert asked(ad, a_pool_document("p", ["10.0.0.0/24"])).allowed

    def test_shrinking_the_pool_below_an_aggregate_is_allowed(self) -> None:
        ad, pool = a_document("BGPAdvertisement", "ad", aggregationLength=26), a_pool_document("p", ["10.0.0.0/24"])
        assert asked(a_pool_document("p", ["10.0.0.0/28"]), pool, ad, old=pool).allowed

    @pytest.mark.parity("Webhooks > unresolved > a community without a colon passes")
    def test_names_of_communities_are_not_looked_up(self) -> None:
        assert asked(a_document("BGPAdvertisement", "ad", communities=["later"])).allowed
        verdict = asked(a_document("BGPAdvertisement", "ad", communities=["1:2:3"]))
        assert "invalid community format: 1:2:3" in verdict.message

    def test_nodes_decide_whether_preferences_contradict_each_other(self) -> None:
        def ad(name: str, host: str, preference: int) -> dict[str, Any]:
            return a_document("BGPAdvertisement", name, localPref=preference, nodeSelectors=[{"matchLabels": {"host": host}}])

        nodes = {"a": {"host": "a"}, "b": {"host": "b"}}
        pool = a_pool_document("p", ["10.0.0.0/24"])
        assert asked(ad("x", "a", 1), pool, ad("y", "b", 2), nodes=nodes).allowed
        assert not asked(ad("x", "a", 1), pool, ad("y", "a", 2), nodes=nodes).allowed


class TestPeers:
    def test_a_bad_address_is_refused(self) -> None:
        assert "invalid BGPPeer address" in asked(a_peer(peerAddress="1.1.1.400")).message

    @pytest.mark.parity(
        "Webhooks > unresolved > a BFD profile passes",
        "Webhooks > unresolved > a password's Secret passes",
    )
    def test_profile_and_secret_may_come_later(self) -> None:
        assert asked(a_peer(bfdProfile="later", passwordSecret={"name": "later"})).allowed
        assert asked(a_peer(bfdProfile="later"), mode="native").allowed

    @pytest.mark.parity("Webhooks > unresolved > nothing else passes")
    def test_a_password_beside_a_secret_is_refused(self) -> None:
        assert "password and passwordSecret are both set" in asked(a_peer(password="x", passwordSecret={"name": "y"})).message

    @pytest.mark.parity("Webhooks > peers are judged with the nodes")
    def test_the_second_with_one_address_on_a_node_is_refused(self) -> None:
        on_a, on_b = ({"nodeSelectors": [{"matchLabels": {"host": host}}]} for host in "ab")
        nodes = {"a": {"host": "a"}, "b": {"host": "b"}}
        assert "already exists" in asked(a_peer("a", **on_a), a_peer("b", **on_a), nodes=nodes).message
        assert asked(a_peer("a", **on_a), a_peer("b", **on_b), nodes=nodes).allowed
        assert "already exists" in asked(a_peer("a", **on_a), a_peer("b", **on_b), nodes={}).message

    def test_a_deprecated_member_is_warned_of_and_everything_else_still_checked(self) -> None:
        verdict = asked(a_peer(disableMP=True))
        assert verdict.allowed
        assert "disableMP is deprecated" in verdict.warnings[0]
        assert not asked(a_peer(disableMP=True, myASN=0)).allowed
        assert not asked(a_peer(disableMP=True), namespace="default").allowed


class TestCommunities:
    @pytest.mark.parametrize(
        ("value", "said"), [("99999:1", "invalid community value: invalid section"), ("lar:1:2:3", "expected community to be of format large")]
    )  # fmt: skip
    def test_an_invalid_value_is_refused(self, value: str, said: str) -> None:
        document = a_document("Community", "c", communities=[{"name": "a", "value": value}])
        assert said in asked(document).message
        assert said in asked(document, old=a_document("Community", "c")).message

    @pytest.mark.parametrize("value", ["1:1", "large:1:1:1"])
    def test_a_second_definition_is_refused(self, value: str) -> None:
        one, two = (a_document("Community", name, communities=[{"name": "a", "value": value}]) for name in ("one", "two"))
        assert "duplicate definition of community" in asked(one, two).message


class TestProfiles:
    @pytest.mark.parity("Webhooks > a BFD profile in use is not deleted")
    def test_one_in_use_cannot_be_deleted(self) -> None:
        profile = a_document("BFDProfile", "fast")
        verdict = asked(None, a_peer("b", bfdProfile="fast"), a_peer("a", bfdProfile="fast"), a_peer("c"), old=profile)
        assert verdict.message.startswith("failed to delete BFDProfile fast, used by BGPPeer a, b")
        assert asked(None, a_peer("c", bfdProfile="other"), old=profile).allowed

    def test_other_kinds_may_always_be_deleted(self) -> None:
        assert asked(None, old=a_pool_document()).allowed


class TestReviews:
    def review(self, **request: Any) -> dict[str, Any]:
        return {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": {"uid": "7", **request}}

    def test_a_review_names_the_write(self) -> None:
        uid, request = request_of(self.review(operation="UPDATE", name="p", namespace="n", object={"a": 1}, oldObject={}))
        assert (uid, request) == ("7", Request(operation="UPDATE", name="p", namespace="n", new={"a": 1}, old={}))

    @pytest.mark.parametrize(
        "review",
        [
            {},
            {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1beta1", "request": {}},
            {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1"},
            {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": {"object": []}},
        ],
    )
    def test_what_is_no_review_is_refused(self, review: dict[str, Any]) -> None:
        with pytest.raises(BadReviewError):
            request_of(review)

    def test_an_answer_carries_the_uid_and_a_refusal_its_reason(self) -> None:
        response = {"uid": "7", "allowed": True, "warnings": ["w"]}
        assert admission_answer("7", Verdict(allowed=True, warnings=("w",)))["response"] == response
        refused = admission_answer("7", Verdict(allowed=False, message="no"))["response"]
        assert refused == {"uid": "7", "allowed": False, "status": {"code": 403, "reason": "Forbidden", "message": "no"}}

    @pytest.mark.parametrize("version", ["v1", "v1beta1"])
    def test_a_conversion_answers_in_the_version_it_was_asked_in(self, version: str) -> None:
        review = {
            "kind": "ConversionReview",
            "apiVersion": f"apiextensions.k8s.io/{version}",
            "request": {"uid": "7", "desiredAPIVersion": "metallb.io/v1beta1", "objects": [a_peer(), a_peer("other")]},
        }
        answer = converted(review)
        assert answer["apiVersion"] == f"apiextensions.k8s.io/{version}"
        assert (answer["response"]["uid"], answer["response"]["result"]) == ("7", {"status": "Success"})
        assert [one["apiVersion"] for one in answer["response"]["convertedObjects"]] == ["metallb.io/v1beta1"] * 2

    def test_a_conversion_that_is_impossible_says_why(self) -> None:
        request = {"uid": "7", "desiredAPIVersion": "metallb.io/v1beta1", "objects": [a_document("Community", "c")]}
        response = converted({"kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1", "request": request})[
            "response"
        ]
        assert response["result"]["status"] == "Failure"
        assert "BGPPeer is what can be converted" in response["result"]["message"]

    @pytest.mark.parametrize("review", [{}, {"kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1"}])
    def test_what_is_no_conversion_is_refused(self, review: dict[str, Any]) -> None:
        with pytest.raises(BadReviewError):
            converted(review)


def test_peers_are_listed_in_the_version_that_is_stored() -> None:
    assert resource_of("BGPPeer").path(namespace="n") == "/apis/metallb.io/v1beta2/namespaces/n/bgppeers"
    assert isinstance(KINDS["BGPPeer"], Validator)
