from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from config.model import Config, PoolName, ServiceKey
from controller.ipam.sharing import ALONE
from controller.outbox import Write
from controller.plan import Change, Decision, Outcome, Planner, plan
from controller.reason import Notice, Reason
from controller.world import FamilyPolicy, Recorded, Service, Verdict
from tests.builders import a_config, a_pool, a_service, a_world, addresses

POOL = a_config(a_pool("default", "10.0.0.0/30"))
DUAL = a_config(a_pool("default", "10.0.0.0/30,fc00::/126"))
ONE_OF_EACH = a_pool("default", "10.0.0.0/32,fc00::/128")
TWO_IPS = "10.96.0.1 fd00::1"


def planner(*services: Service, config: Config = POOL, lb_class: str = "") -> Planner:
    made = Planner(lb_class)
    made.handle(Change(services={service.key: service for service in services}, config=config))
    made.check_invariants()
    return made


def change(made: Planner, *services: Service, gone: str = "", config: Config | None = None) -> Mapping[str, Decision]:
    keys: dict[ServiceKey, Service | None] = {service.key: service for service in services}
    keys |= {ServiceKey(f"default/{name}"): None for name in gone.split()}
    decisions = made.handle(Change(services=keys, config=config))
    made.check_invariants()
    return {decision.service.partition("/")[2]: decision for decision in decisions}


def decided(service: Service, config: Config = POOL, lb_class: str = "") -> Decision:
    made = planner(service, config=config, lb_class=lb_class)
    return made.decisions[service.key]


def ips(decision: Decision) -> str:
    return " ".join(map(str, decision.recorded.addresses))


def seen(made: Planner, name: str, version: str = "2") -> Service:
    """The Service as the API server shows it once what was decided about it is written."""
    service = made.services[ServiceKey(f"default/{name}")]
    return replace(service, recorded=made.decisions[service.key].shown, version=version)


class TestAssigning:
    def test_a_new_service_gets_the_first_address_of_the_pool(self) -> None:
        decision = decided(a_service())
        assert (decision.outcome, decision.reason) == (Outcome.ASSIGNED, Reason.ASSIGNED)
        assert decision.recorded == Recorded(addresses("10.0.0.0"), POOL.pools[next(iter(POOL.pools))].name)
        assert decision.achieved == (Notice("Normal", "IPAllocated", 'Assigned IP ["10.0.0.0"]'),)

    def test_who_waits_for_an_address_is_told_who_is_in_the_way_now(self) -> None:
        holder = a_service("holder", holds="10.0.0.0", pool="default", sharing_key="k")
        made = planner(holder, a_service("next", created=5, wants="10.0.0.0", sharing_key="k"))
        assert "port TCP/80 is already in use" in made.decisions[ServiceKey("default/next")].detail
        told = change(made, replace(holder, use=ALONE, version="2"))
        assert "its holder has no sharing key" in told["next"].detail
        assert set(told) == {"holder", "next"}

    def test_who_waits_for_an_address_is_told_of_everybody_who_shares_it(self) -> None:
        first = a_service("first", holds="10.0.0.0", pool="default", sharing_key="k")
        made = planner(first, a_service("next", created=5, wants="10.0.0.0"))
        second = a_service("second", created=9, wants="10.0.0.0", sharing_key="k", ports="TCP/81")
        told = change(made, second)
        assert ips(told["second"]) == "10.0.0.0"
        assert "in use by default/first, default/second" in told["next"].detail

    def test_waiting_services_are_served_oldest_first(self) -> None:
        made = planner(
            a_service("late", created=3), a_service("early", created=1), a_service("b", created=2), a_service("a", created=2)
        )
        assert {key: ips(one) for key, one in made.decisions.items()} == {
            "default/early": "10.0.0.0",
            "default/a": "10.0.0.1",
            "default/b": "10.0.0.2",
            "default/late": "10.0.0.3",
        }

    def test_requests_for_address_and_pool_are_honoured(self) -> None:
        config = a_config(a_pool("default", "10.0.0.0/30"), a_pool("other", "10.9.0.0/24"))
        assert ips(decided(a_service(wants="10.0.0.2"), config)) == "10.0.0.2"
        assert ips(decided(a_service(wants_pool="other"), config)) == "10.9.0.0"

    def test_each_deprecated_annotation_is_named_once_an_address_is_written(self) -> None:
        decision = decided(a_service(deprecated=("metallb.universe.tf/address-pool",)))
        assert [notice.reason for notice in decision.achieved] == ["IPAllocated", "deprecatedAnnotation"]
        assert "metallb.universe.tf/address-pool" in decision.achieved[1].note

    def test_before_the_first_configuration_nothing_is_decided(self) -> None:
        made = Planner()
        assert made.handle(Change(services={ServiceKey("default/web"): a_service()})) == []
        assert ips(made.handle(Change(config=POOL))[0]) == "10.0.0.0"


class TestKeeping:
    def test_an_address_in_the_status_is_kept_and_nothing_has_to_be_written(self) -> None:
        made = planner(a_service(holds="10.0.0.3", pool="default"))
        decision = made.decisions[ServiceKey("default/web")]
        assert (decision.outcome, ips(decision)) == (Outcome.KEPT, "10.0.0.3")
        assert made.pending(ServiceKey("default/web")) is None

    def test_holders_are_settled_before_anybody_else_is_served(self) -> None:
        made = planner(a_service("old", created=1), a_service("holder", created=9, holds="10.0.0.0", pool="default"))
        assert ips(made.decisions[ServiceKey("default/holder")]) == "10.0.0.0"
        assert ips(made.decisions[ServiceKey("default/old")]) == "10.0.0.1"

    def test_a_free_address_written_by_hand_is_adopted_without_an_event(self) -> None:
        decision = decided(a_service(holds="10.0.0.2"))
        assert (decision.outcome, decision.recorded.pool, decision.achieved) == (Outcome.KEPT, "default", ())

    def test_a_status_with_more_than_addresses_in_mode_vip_is_rewritten(self) -> None:
        made = planner(a_service(holds="10.0.0.2", pool="default", plain=False))
        write = made.pending(ServiceKey("default/web"))
        assert write is not None
        verdict = Verdict(True, "HoldsAddress", '10.0.0.2 from pool "default"')
        assert write.after == Recorded(addresses("10.0.0.2"), write.before.pool, verdict=verdict)

    def test_of_two_with_one_address_the_older_keeps_it_and_the_other_is_told(self) -> None:
        made = planner(
            a_service("young", created=2, holds="10.0.0.0", pool="default"),
            a_service("old", created=1, holds="10.0.0.0", pool="default"),
        )
        assert ips(made.decisions[ServiceKey("default/old")]) == "10.0.0.0"
        young = made.decisions[ServiceKey("default/young")]
        assert (young.outcome, ips(young)) == (Outcome.ASSIGNED, "10.0.0.1")
        (notice,) = young.happened
        assert (notice.type, notice.reason) == ("Normal", "ClearAssignment")
        assert "address also in use by default/old" in notice.note

    def test_a_pool_renamed_keeps_the_addresses_under_the_new_name(self) -> None:
        made = planner(a_service(holds="10.0.0.1", pool="default"))
        decision = change(made, config=a_config(a_pool("new", "10.0.0.0/24")))["web"]
        assert (decision.outcome, ips(decision), decision.recorded.pool) == (Outcome.KEPT, "10.0.0.1", "new")
        assert made.pending(ServiceKey("default/web")) is not None

    def test_a_second_pool_moves_nobody(self) -> None:
        made = planner(a_service(holds="10.0.0.1", pool="default"))
        decision = change(made, config=a_config(a_pool("default", "10.0.0.0/30"), a_pool("a", "10.9.0.0/24")))["web"]
        assert (decision.outcome, ips(decision)) == (Outcome.KEPT, "10.0.0.1")

    def test_turning_auto_assign_off_evicts_nobody(self) -> None:
        made = planner(a_service(holds="10.0.0.1", pool="default"))
        decision = change(made, config=a_config(a_pool("default", "10.0.0.0/30", auto_assign=False)))["web"]
        assert decision.outcome is Outcome.KEPT


class TestLosing:
    @pytest.mark.parametrize(
        ("config", "cause"),
        [
            (a_config(a_pool("default", "10.0.0.8/29")), "no pool contains 10.0.0.0"),
            (a_config(a_pool("default", "10.0.0.0/29", avoid_buggy_ips=True)), "avoids addresses"),
            (a_config(a_pool("default", "10.0.0.0/29", namespaces=["x"]), a_pool("b", "10.0.0.8/29")), "is not for namespace"),
        ],
    )
    def test_an_address_the_configuration_forbids_is_replaced(self, config: Config, cause: str) -> None:
        made = planner(a_service(holds="10.0.0.0", pool="default"))
        decision = change(made, config=config)["web"]
        assert decision.outcome is Outcome.ASSIGNED
        assert ips(decision) != "10.0.0.0"
        (notice,) = decision.happened
        assert notice.reason == "ClearAssignment"
        assert 'current IP of "default/web" not allowed by config, will try another' in notice.note
        assert cause in notice.note

    def test_without_any_pool_every_status_is_cleared_and_nothing_said(self) -> None:
        made = planner(a_service(holds="10.0.0.0", pool="default"))
        decision = change(made, config=Config())["web"]
        assert (decision.outcome, decision.reason, ips(decision)) == (Outcome.REFUSED, Reason.NO_POOLS, "")
        assert (decision.happened, decision.complaint) == ((), None)
        write = made.pending(ServiceKey("default/web"))
        assert write is not None
        assert write.after == Recorded(verdict=Verdict(False, "NoPools", "no IPAddressPool is configured"))

    def test_a_service_that_is_no_load_balancer_any_more_releases_its_address(self) -> None:
        made = planner(a_service(holds="10.0.0.0", pool="default"), a_service("next", created=5, wants="10.0.0.0"))
        made_decisions = change(made, a_service(holds="", pool="default", load_balancer=False, version="2"))
        assert (made_decisions["web"].outcome, made_decisions["web"].recorded) == (Outcome.RELEASED, Recorded())
        assert ips(made_decisions["next"]) == "10.0.0.0"

    def test_a_changed_request_moves_the_service(self) -> None:
        config = a_config(a_pool("default", "10.0.0.0/30"), a_pool("other", "10.9.0.0/24"))
        held = a_service(holds="10.0.0.0", pool="default")
        assert ips(decided(replace(held, wanted_addresses=addresses("10.0.0.2")), config)) == "10.0.0.2"
        moved = decided(replace(held, wanted_pool=PoolName("other")), config)
        assert (ips(moved), moved.happened) == ("10.9.0.0", ())

    def test_a_request_that_cannot_be_met_costs_the_address_held(self) -> None:
        decision = decided(a_service(holds="10.0.0.0", pool="default", wants="192.0.2.1"))
        assert (decision.outcome, decision.reason, ips(decision)) == (Outcome.REFUSED, Reason.NOT_IN_A_POOL, "")
        assert decision.complaint is not None
        assert decision.complaint.reason == "AllocationFailed"

    def test_a_request_that_cannot_be_read_costs_nothing_but_an_event(self) -> None:
        decision = decided(a_service(holds="10.0.0.0", pool="default", problem="spec.loadBalancerIP: invalid IP 'x'"))
        assert (decision.outcome, decision.reason, ips(decision)) == (Outcome.REFUSED, Reason.BAD_REQUEST, "10.0.0.0")
        assert decision.complaint is not None
        assert (decision.complaint.type, decision.complaint.reason) == ("Warning", "LoadBalancerFailed")

    def test_a_recorded_address_of_the_wrong_family_is_replaced(self) -> None:
        decision = decided(a_service(holds="fc00::1", pool="default"), DUAL)
        assert (decision.outcome, ips(decision)) == (Outcome.ASSIGNED, "10.0.0.0")

    def test_recorded_addresses_of_no_known_family_are_replaced_and_said(self) -> None:
        decision = decided(a_service(holds="10.0.0.0 10.0.0.1 10.0.0.2", pool="default"))
        assert (decision.outcome, ips(decision)) == (Outcome.ASSIGNED, "10.0.0.0")
        assert decision.happened[0].reason == "nolbIPsIPFamily"

    def test_a_status_with_only_a_host_name_is_replaced(self) -> None:
        decision = decided(a_service(plain=False))
        assert decision.outcome is Outcome.ASSIGNED


class TestRefusing:
    def test_an_exhausted_pool_is_said_with_its_name(self) -> None:
        decision = decided(a_service(), a_config(a_pool("tiny", "10.0.0.0/31", avoid_buggy_ips=True, namespaces=["x"])))
        assert decision.outcome is Outcome.REFUSED
        assert decision.complaint == Notice(
            "Warning",
            "AllocationFailed",
            'Failed to allocate IP for "default/web": no available IPs: pool "tiny" is not for namespace "default"',
        )

    def test_a_request_that_cannot_be_read_is_said(self) -> None:
        decision = decided(a_service(problem="spec.loadBalancerIP: invalid IP 'x'"))
        assert decision.complaint is not None
        assert decision.complaint.note == "Failed to allocate IP for \"default/web\": spec.loadBalancerIP: invalid IP 'x'"

    def test_a_service_without_a_cluster_ip_is_cleared_in_silence(self) -> None:
        decision = decided(a_service(cluster_ips="", holds="10.0.0.0", pool="default"))
        assert (decision.reason, decision.complaint, ips(decision)) == (Reason.NO_CLUSTER_IP, None, "")

    def test_require_dual_stack_with_one_cluster_ip_is_said(self) -> None:
        decision = decided(a_service(policy=FamilyPolicy.REQUIRE_DUAL, holds="10.0.0.0", pool="default"))
        assert ips(decision) == ""
        assert decision.complaint is not None
        assert decision.complaint.reason == "not enough clusterips"

    @pytest.mark.parametrize(("holds", "reason"), [("", "AllocationFailed"), ("10.0.0.0", "noclusterIPsIPFamily")])
    def test_cluster_ips_of_no_known_family_are_said_and_nothing_is_cleared(self, holds: str, reason: str) -> None:
        decision = decided(a_service(cluster_ips="10.96.0.1 10.96.0.2", holds=holds))
        assert (decision.reason, ips(decision)) == (Reason.UNKNOWN_FAMILY, holds)
        assert decision.complaint is not None
        assert decision.complaint.reason == reason

    def test_nobody_shares_an_address_even_if_its_request_is_unclear(self) -> None:
        made = planner(
            a_service("a", created=1, holds="10.0.0.0", pool="default"),
            a_service("b", created=2, holds="10.0.0.0", pool="default", cluster_ips="10.96.0.1 10.96.0.2"),
        )
        assert ips(made.decisions[ServiceKey("default/b")]) == ""


class TestWhoseServiceItIs:
    @pytest.mark.parametrize(
        ("ours", "its", "handled"), [("", "", True), ("", "x", False), ("x", "", False), ("x", "x", True), ("x", "y", False)]
    )
    @pytest.mark.parity(
        "Kubernetes glue > lb-class > none and none",
        "Kubernetes glue > lb-class > none and set",
        "Kubernetes glue > lb-class > set and none",
        "Kubernetes glue > lb-class > set and the same",
        "Kubernetes glue > lb-class > set and another",
    )
    def test_the_class_decides(self, ours: str, its: str, handled: object) -> None:
        decision = decided(a_service(lb_class=its, holds="192.0.2.1"), lb_class=ours)
        assert (decision.outcome is not Outcome.IGNORED) is handled
        if decision.outcome is Outcome.IGNORED:
            assert (decision.reason, ips(decision)) == (Reason.OTHER_CLASS, "192.0.2.1")

    def test_a_service_of_another_class_frees_what_it_held_and_is_not_touched(self) -> None:
        made = planner(a_service(holds="10.0.0.0", pool="default"), a_service("b", created=2, wants="10.0.0.0"))
        decisions = change(made, a_service(holds="10.0.0.0", pool="default", lb_class="other", version="2"))
        assert decisions["web"].outcome is Outcome.IGNORED
        assert made.pending(ServiceKey("default/web")) is None
        assert ips(decisions["b"]) == "10.0.0.0"

    def test_with_a_class_of_our_own_a_type_change_still_releases(self) -> None:
        made = planner(a_service(holds="10.0.0.0", pool="default", lb_class="x"), lb_class="x")
        decision = change(made, a_service(pool="default", load_balancer=False, version="2"))["web"]
        assert decision.outcome is Outcome.RELEASED
        write = made.pending(ServiceKey("default/web"))
        assert write is not None
        assert write.after == Recorded()

    def test_services_that_never_were_load_balancers_are_ignored(self) -> None:
        decision = decided(a_service(load_balancer=False))
        assert (decision.outcome, decision.reason) == (Outcome.IGNORED, Reason.NOT_LOAD_BALANCER)

    def test_leftovers_on_a_service_of_another_type_are_cleared(self) -> None:
        decision = decided(a_service(load_balancer=False, pool="default"))
        assert (decision.outcome, decision.recorded) == (Outcome.RELEASED, Recorded())


class TestBrokenPools:
    BROKEN = a_config(a_pool("good", "10.9.0.0/24"), broken=["bad"])

    def test_services_keep_what_they_have_from_a_broken_pool(self) -> None:
        made = planner(a_service(holds="192.0.2.1", pool="bad"), config=self.BROKEN)
        decision = made.decisions[ServiceKey("default/web")]
        assert (decision.outcome, decision.reason, ips(decision)) == (Outcome.KEPT, Reason.HOLDS_FROM_BROKEN_POOL, "192.0.2.1")
        assert made.pending(ServiceKey("default/web")) is None

    def test_nothing_new_comes_from_a_broken_pool(self) -> None:
        decision = decided(a_service(wants_pool="bad"), self.BROKEN)
        assert decision.reason is Reason.POOL_BROKEN

    def test_with_only_broken_pools_nobody_is_cleared(self) -> None:
        made = planner(a_service(holds="192.0.2.1", pool="bad"), a_service("new"), config=a_config(broken=["bad"]))
        assert ips(made.decisions[ServiceKey("default/web")]) == "192.0.2.1"
        assert made.decisions[ServiceKey("default/new")].reason is Reason.NO_SUITABLE_POOL

    def test_of_two_with_one_address_from_a_broken_pool_the_older_keeps_it(self) -> None:
        made = planner(
            a_service("a", holds="192.0.2.1", pool="bad"), a_service("b", holds="192.0.2.1", pool="bad"), config=self.BROKEN
        )
        assert ips(made.decisions[ServiceKey("default/a")]) == "192.0.2.1"
        assert ips(made.decisions[ServiceKey("default/b")]) == "10.9.0.0"

    def test_the_address_of_a_deleted_pool_is_not_kept(self) -> None:
        assert ips(decided(a_service(holds="192.0.2.1", pool="deleted"), self.BROKEN)) == "10.9.0.0"

    def test_a_service_may_ask_to_leave_a_broken_pool(self) -> None:
        service = a_service(holds="192.0.2.1", pool="bad", wants_pool="good")
        assert ips(decided(service, self.BROKEN)) == "10.9.0.0"


class TestFreedAddresses:
    def full(self) -> Planner:
        services = [a_service(name, created=at, holds=f"10.0.0.{at}", pool="default") for at, name in enumerate("abcd")]
        return planner(*services, a_service("w2", created=12), a_service("w1", created=11), a_service("w3", created=13))

    def test_the_oldest_that_waits_gets_the_address_of_a_deleted_service(self) -> None:
        made = self.full()
        assert made.waiting == ["default/w1", "default/w2", "default/w3"]
        decisions = change(made, gone="b")
        assert {name: ips(one) for name, one in decisions.items()} == {"w1": "10.0.0.1"}
        assert made.waiting == ["default/w2", "default/w3"]

    def test_one_that_cannot_use_the_address_lets_the_next_have_it(self) -> None:
        made = self.full()
        change(made, replace(a_service("w1", created=11), wanted_addresses=addresses("10.0.0.3")))
        decisions = change(made, gone="a")
        assert {name: ips(one) for name, one in decisions.items()} == {"w1": "", "w2": "10.0.0.0"}

    def test_two_services_may_swap_addresses(self) -> None:
        made = planner(a_service("a", holds="10.0.0.0", pool="default"), a_service("b", holds="10.0.0.1", pool="default"))
        first = change(made, a_service("a", holds="10.0.0.0", pool="default", wants="10.0.0.1", version="2"))
        assert {name: ips(one) for name, one in first.items()} == {"a": ""}
        second = change(made, a_service("b", holds="10.0.0.1", pool="default", wants="10.0.0.0", version="2"))
        assert {name: ips(one) for name, one in second.items()} == {"a": "10.0.0.1", "b": "10.0.0.0"}

    def test_in_one_pass_they_swap_at_once(self) -> None:
        made = planner(a_service("a", holds="10.0.0.0", pool="default"), a_service("b", holds="10.0.0.1", pool="default"))
        both = change(
            made,
            a_service("a", holds="10.0.0.0", pool="default", wants="10.0.0.1", version="2"),
            a_service("b", holds="10.0.0.1", pool="default", wants="10.0.0.0", version="2"),
        )
        assert {name: ips(one) for name, one in both.items()} == {"a": "10.0.0.1", "b": "10.0.0.0"}

    def test_a_grown_pool_serves_those_who_wait(self) -> None:
        made = self.full()
        decisions = change(made, config=a_config(a_pool("default", "10.0.0.0/29")))
        assert {name: ips(decisions[name]) for name in ("w1", "w2", "w3")} == {
            "w1": "10.0.0.4",
            "w2": "10.0.0.5",
            "w3": "10.0.0.6",
        }

    def test_a_deleted_service_that_waited_waits_no_more(self) -> None:
        made = self.full()
        change(made, gone="w1 w2")
        assert made.waiting == ["default/w3"]


class TestDualStack:
    def test_a_required_pair_is_allocated(self) -> None:
        decision = decided(a_service(cluster_ips=TWO_IPS, policy=FamilyPolicy.REQUIRE_DUAL), DUAL)
        assert ips(decision) == "10.0.0.0 fc00::"
        assert decision.achieved[0].note == 'Assigned IP ["10.0.0.0" "fc00::"]'

    def test_a_preferred_pair_may_be_one_address(self) -> None:
        service = a_service(cluster_ips=TWO_IPS, policy=FamilyPolicy.PREFER_DUAL)
        assert ips(decided(service, DUAL)) == "10.0.0.0 fc00::"
        assert ips(decided(service, POOL)) == "10.0.0.0"

    def test_one_cluster_ip_means_one_address_even_if_two_are_preferred(self) -> None:
        made = planner(a_service(policy=FamilyPolicy.PREFER_DUAL), config=DUAL)
        assert ips(made.decisions[ServiceKey("default/web")]) == "10.0.0.0"
        again = change(made, seen(made, "web"))["web"]
        assert (again.outcome, ips(again)) == (Outcome.KEPT, "10.0.0.0")

    def test_a_service_with_one_address_gains_the_other_when_its_pool_does(self) -> None:
        made = planner(
            a_service(cluster_ips=TWO_IPS, policy=FamilyPolicy.PREFER_DUAL, holds="10.0.0.1", pool="default"), config=POOL
        )
        first = made.decisions[ServiceKey("default/web")]
        assert first.complaint is not None
        assert (first.outcome, first.complaint.reason) == (Outcome.KEPT, "AdditionalAssignFailed")
        decision = change(made, config=DUAL)["web"]
        assert (decision.outcome, ips(decision)) == (Outcome.ASSIGNED, "10.0.0.1 fc00::")
        assert decision.achieved[0] == Notice("Normal", "IPAllocated", 'Assigned additional IP "fc00::"')

    def test_a_second_address_that_becomes_free_goes_to_who_lacks_it(self) -> None:
        config = a_config(a_pool("default", "10.0.0.0/30,fc00::/128"))
        made = planner(
            a_service("six", holds="fc00::", pool="default", cluster_ips="fd00::1", primary=6),
            a_service("both", cluster_ips=TWO_IPS, policy=FamilyPolicy.PREFER_DUAL),
            config=config,
        )
        assert ips(made.decisions[ServiceKey("default/both")]) == "10.0.0.0"
        decisions = change(made, seen(made, "both"))
        assert ips(decisions["both"]) == "10.0.0.0"
        assert ips(change(made, gone="six")["both"]) == "10.0.0.0 fc00::"

    def test_a_second_address_is_never_taken_from_its_holder(self) -> None:
        made = planner(
            a_service(
                "both", created=1, cluster_ips=TWO_IPS, policy=FamilyPolicy.PREFER_DUAL, holds="10.0.0.0", pool="default"
            ),
            a_service("six", created=2, holds="fc00::", pool="default", cluster_ips="fd00::1"),
            config=DUAL,
        )
        assert ips(made.decisions[ServiceKey("default/six")]) == "fc00::"
        assert ips(made.decisions[ServiceKey("default/both")]) == "10.0.0.0 fc00::1"

    def test_a_required_pair_replaces_a_single_address(self) -> None:
        held = a_service(cluster_ips=TWO_IPS, policy=FamilyPolicy.REQUIRE_DUAL, holds="10.0.0.3", pool="default")
        assert ips(decided(held, DUAL)) == "10.0.0.0 fc00::"

    def test_a_single_requested_address_is_not_supplemented(self) -> None:
        held = a_service(
            cluster_ips=TWO_IPS, policy=FamilyPolicy.PREFER_DUAL, holds="10.0.0.3", pool="default", wants="10.0.0.3"
        )
        assert ips(decided(held, DUAL)) == "10.0.0.3"

    def test_a_requested_pair_is_held_in_the_order_of_the_request_and_another_one_as_the_status_has_it(self) -> None:
        pair = {"cluster_ips": TWO_IPS, "policy": FamilyPolicy.REQUIRE_DUAL}
        asked = a_service(holds="fc00::1 10.0.0.1", pool="default", wants="10.0.0.1 fc00::1", **pair)  # type: ignore[arg-type]  # one mapping of several types
        assert ips(decided(asked, DUAL)) == "10.0.0.1 fc00::1"
        given = a_service(holds="fc00::1 10.0.0.1", pool="default", **pair)  # type: ignore[arg-type]  # as above
        assert ips(decided(given, DUAL)) == "fc00::1 10.0.0.1"


class TestAssumedUntilSeen:
    KEY = ServiceKey("default/web")

    def write(self, made: Planner) -> Write:
        write = made.pending(self.KEY)
        assert write is not None
        return write

    def test_a_decision_stands_while_the_api_does_not_show_it(self) -> None:
        made = planner(a_service())
        again = change(made, a_service(version="2", labels={"a": "b"}))["web"]
        assert (again.outcome, ips(again)) == (Outcome.KEPT, "10.0.0.0")
        assert self.write(made).version == "2"
        assert self.write(made).achieved[0].reason == "IPAllocated"

    def test_once_shown_there_is_nothing_to_write(self) -> None:
        made = planner(a_service())
        change(made, seen(made, "web"))
        assert made.pending(self.KEY) is None
        assert made.unseen == ()

    def done(self, made: Planner, version: str) -> None:
        """The pending write is sent and succeeds."""
        write = self.write(made)
        made.sent(write)
        made.written(write, version)
        made.check_invariants()

    def test_between_the_answer_and_the_watch_there_is_nothing_to_write(self) -> None:
        made = planner(a_service())
        self.done(made, "2")
        assert made.pending(self.KEY) is None
        assert made.unseen == (self.KEY,)
        change(made, seen(made, "web"))
        assert not made.unseen

    def test_what_somebody_else_writes_wins(self) -> None:
        made = planner(a_service())
        decision = change(made, a_service(holds="10.0.0.3", pool="default", version="2"))["web"]
        assert ips(decision) == "10.0.0.3"
        assert made.unseen == ()

    def test_a_later_version_that_shows_the_old_state_again_is_believed(self) -> None:
        made = planner(a_service(version="10"))
        self.done(made, "12")
        decision = change(made, a_service(version="13"))["web"]
        assert (decision.outcome, ips(decision)) == (Outcome.ASSIGNED, "10.0.0.0")
        assert self.write(made).version == "13"

    def test_a_version_before_our_write_is_not_believed(self) -> None:
        made = planner(a_service(version="10"))
        self.done(made, "12")
        decision = change(made, a_service(version="11", labels={"a": "b"}))["web"]
        assert decision.outcome is Outcome.KEPT
        assert made.pending(self.KEY) is None

    def test_the_api_may_have_moved_on_before_the_answer_came(self) -> None:
        made = planner(a_service(version="10"))
        write = self.write(made)
        made.sent(write)
        assert made.refresh(self.KEY, "13") == []
        made.written(write, "12")
        assert self.write(made).version == "13"

    def test_our_own_write_may_be_seen_before_its_answer(self) -> None:
        made = planner(a_service(version="10"))
        write = self.write(made)
        made.sent(write)
        change(made, replace(a_service(version="11"), recorded=write.after))
        made.written(write, "11")
        made.check_invariants()
        assert made.pending(self.KEY) is None
        assert not made.unseen

    def test_a_newer_version_that_differs_in_nothing_is_what_the_write_goes_on(self) -> None:
        made = planner(a_service(version="10"))
        assert made.refresh(self.KEY, "11") == []
        assert made.refresh(self.KEY, "11") == []
        assert self.write(made).version == "11"
        assert made.refresh(ServiceKey("default/none"), "1") == []

    def test_a_reverted_write_is_noticed_from_the_version_alone(self) -> None:
        made = planner(a_service(version="10"))
        self.done(made, "12")
        (decision,) = made.refresh(self.KEY, "13")
        assert decision.outcome is Outcome.ASSIGNED

    def test_versions_that_are_no_numbers_are_later_when_they_differ(self) -> None:
        made = planner(a_service(version="a"))
        self.done(made, "b")
        assert made.refresh(self.KEY, "a") == []
        assert change(made, a_service(version="a", labels={"x": "y"}))["web"].outcome is Outcome.KEPT
        assert change(made, a_service(version="c"))["web"].outcome is Outcome.ASSIGNED

    def test_after_an_answer_to_an_older_write_the_newer_one_goes_on_top(self) -> None:
        made = planner(a_service())
        write = self.write(made)
        made.sent(write)
        change(made, a_service(labels={"a": "b"}, wants="10.0.0.2"))
        made.written(write, "3")
        newer = self.write(made)
        assert (newer.version, newer.before, newer.after.addresses) == ("3", write.after, addresses("10.0.0.2"))

    def test_answers_about_services_that_are_gone_are_ignored(self) -> None:
        made = planner(a_service())
        write = self.write(made)
        made.sent(write)
        change(made, a_service(uid="another", version="7"))
        made.written(write, "6")
        made.check_invariants()
        assert self.write(made).uid == "another"
        change(made, gone="web")
        made.sent(write)
        made.written(write, "3")
        made.refused(write)
        assert not made.read_again(a_service())
        assert not made.unseen
        made.check_invariants()

    def test_a_service_deleted_and_created_again_starts_anew(self) -> None:
        made = planner(a_service(), a_service("b", created=1, holds="10.0.0.1", pool="default"))
        decision = change(made, a_service(uid="another", created=9, version="7"))["web"]
        assert (decision.outcome, ips(decision)) == (Outcome.ASSIGNED, "10.0.0.0")
        assert self.write(made).uid == "another"

    def test_changing_ones_mind_before_the_write_leaves_nothing_to_write(self) -> None:
        made = planner(a_service())
        decision = change(made, a_service(version="2", load_balancer=False))["web"]
        assert decision.outcome is Outcome.RELEASED
        assert made.pending(self.KEY) is None


class TestHandingOver:
    """An address is written to its new holder only after the old one's status has lost it."""

    A, B = ServiceKey("default/a"), ServiceKey("default/b")

    def handed_over(self) -> Planner:
        made = planner(a_service("a", holds="10.0.0.0", pool="default"), a_service("b", created=1, wants="10.0.0.0"))
        change(made, a_service("a", holds="10.0.0.0", pool="default", wants="10.0.0.3", version="2"))
        return made

    def done(self, made: Planner, key: ServiceKey, version: str) -> Write:
        write = made.pending(key)
        assert write is not None
        made.sent(write)
        made.written(write, version)
        made.check_invariants()
        return write

    def test_the_new_holder_waits_for_the_write_of_the_old_one(self) -> None:
        made = self.handed_over()
        assert ips(made.decisions[self.B]) == "10.0.0.0"
        assert made.pending(self.B) is None
        assert made.is_blocked(self.B)
        assert made.take_unblocked() == set()
        assert self.done(made, self.A, "3").after.addresses == addresses("10.0.0.3")
        assert made.take_unblocked() == {self.B}
        assert made.pending(self.B) is not None

    def test_it_need_not_wait_for_a_service_that_is_gone(self) -> None:
        made = self.handed_over()
        change(made, gone="a")
        assert made.take_unblocked() == {self.B}
        assert made.pending(self.B) is not None

    def test_two_that_swap_addresses_are_cleared_first(self) -> None:
        made = planner(a_service("a", holds="10.0.0.0", pool="default"), a_service("b", holds="10.0.0.1", pool="default"))
        change(
            made,
            a_service("a", holds="10.0.0.0", pool="default", wants="10.0.0.1", version="2"),
            a_service("b", holds="10.0.0.1", pool="default", wants="10.0.0.0", version="2"),
        )
        first = self.done(made, self.A, "3")
        assert (first.clears_first, first.after, first.achieved) == (True, Recorded(), ())
        assert made.take_unblocked() == {self.B}
        second = self.done(made, self.B, "4")
        assert (second.clears_first, second.after.addresses) == (False, addresses("10.0.0.0"))
        assert made.take_unblocked() == {self.A}
        third = self.done(made, self.A, "5")
        assert (third.version, third.before, third.after.addresses) == ("3", Recorded(), addresses("10.0.0.1"))
        assert third.achieved[0].reason == "IPAllocated"

    def test_a_write_without_a_known_result_counts_as_shown_until_the_service_was_read(self) -> None:
        config = a_config(a_pool("default", "10.0.0.0/32"))
        made = planner(a_service("a"), a_service("b", created=1), config=config)
        lost = made.pending(self.A)
        assert lost is not None
        made.sent(lost)
        change(made, a_service("a", version="1", wants="10.0.0.9"))
        assert ips(made.decisions[self.B]) == "10.0.0.0"
        assert made.pending(self.B) is None
        assert made.is_unresolved(self.A)
        assert made.read_again(made.services[self.A])
        assert not made.is_unresolved(self.A)
        assert made.take_unblocked() == {self.B}
        assert made.pending(self.B) is not None

    def test_a_refused_write_is_not_shown(self) -> None:
        made = planner(a_service("a"))
        write = made.pending(self.A)
        assert write is not None
        made.sent(write)
        made.refused(write)
        assert not made.is_unresolved(self.A)
        assert made.pending(self.A) == write

    def test_a_lost_write_that_arrived_is_recognized_as_ours(self) -> None:
        made = planner(a_service("a"))
        lost = made.pending(self.A)
        assert lost is not None
        made.sent(lost)
        change(made, a_service("a", wants="10.0.0.2"))
        decision = change(made, replace(a_service("a", wants="10.0.0.2", version="2"), recorded=lost.after))["a"]
        assert (decision.outcome, decision.happened, ips(decision)) == (Outcome.KEPT, (), "10.0.0.2")
        write = made.pending(self.A)
        assert write is not None
        assert (write.before, write.achieved[0].reason) == (lost.after, "IPAllocated")
        assert not made.is_unresolved(self.A)


class TestQuota:
    """The annotation lb.metallb-py.io/max-addresses of a Namespace."""

    def limited(self, *services: Service, config: Config = POOL, **quotas: int) -> Planner:
        made = Planner()
        made.handle(Change(services={one.key: one for one in services}, config=config, quotas=quotas))
        made.check_invariants()
        return made

    def test_a_namespace_gets_no_more_addresses_than_it_may_have(self) -> None:
        made = self.limited(a_service("a"), a_service("b", created=1), a_service("c", namespace="x", created=2), default=1)
        assert [ips(one) for one in made.decisions.values()] == ["10.0.0.0", "", "10.0.0.1"]
        refused = made.decisions[ServiceKey("default/b")]
        assert (refused.reason, refused.detail) == (
            Reason.NAMESPACE_QUOTA,
            'namespace "default" may have 1 addresses and would have more (annotation lb.metallb-py.io/max-addresses)',
        )

    def test_an_address_given_up_counts_no_more(self) -> None:
        made = self.limited(a_service("a"), a_service("b", created=1), default=1)
        assert ips(change(made, gone="a")["b"]) == "10.0.0.0"

    def test_the_quota_is_free_even_if_the_address_went_to_another_namespace(self) -> None:
        waits = a_service("c", namespace="x", wants="10.0.0.0")
        made = self.limited(a_service("a"), a_service("b", created=1), waits, default=1)
        found = change(made, gone="a")
        assert (ips(found["c"]), ips(found["b"])) == ("10.0.0.0", "10.0.0.1")

    def test_a_higher_quota_serves_those_who_wait_and_a_lower_one_takes_nothing(self) -> None:
        made = self.limited(a_service("a"), a_service("b", created=1), default=1)
        assert [ips(one) for one in made.handle(Change(quotas={"default": 2}))] == ["10.0.0.1"]
        assert made.handle(Change(quotas={"default": 0})) == []
        made.check_invariants()
        change(made, seen(made, "a"), seen(made, "b"))
        assert [ips(one) for one in made.decisions.values()] == ["10.0.0.0", "10.0.0.1"]

    def test_a_shared_address_counts_once(self) -> None:
        sharers = (a_service(name, created=n, sharing_key="k", ports=f"TCP/{n}") for n, name in enumerate("ab", 1))
        made = self.limited(*sharers, default=1)
        assert [ips(one) for one in made.decisions.values()] == ["10.0.0.0", "10.0.0.0"]

    def test_who_prefers_two_gets_one_where_there_is_room_for_one(self) -> None:
        prefers = a_service(cluster_ips=TWO_IPS, policy=FamilyPolicy.PREFER_DUAL)
        made = self.limited(prefers, config=DUAL, default=1)
        assert ips(made.decisions[prefers.key]) == "10.0.0.0"
        assert [ips(one) for one in made.handle(Change(quotas={"default": 2}))] == ["10.0.0.0 fc00::"]
        made.check_invariants()

    def test_who_needs_two_gets_none_where_there_is_room_for_one(self) -> None:
        needs = a_service(cluster_ips=TWO_IPS, policy=FamilyPolicy.REQUIRE_DUAL)
        made = self.limited(needs, config=DUAL, default=1)
        assert made.decisions[needs.key].reason is Reason.NAMESPACE_QUOTA

    def test_without_room_a_sharer_joins_what_its_namespace_has_whichever_address_is_the_next(self) -> None:
        holder = a_service("holder", holds="10.0.0.2", pool="default", sharing_key="k")
        joins = a_service("joins", created=1, sharing_key="k", ports="TCP/81")
        made = self.limited(holder, joins, default=1)
        assert ips(made.decisions[joins.key]) == "10.0.0.2", "10.0.0.0 is free, but the namespace may have no more"

    def test_without_room_a_pair_is_made_of_one_that_is_shared_and_a_new_one(self) -> None:
        holder = a_service("holder", holds="10.0.0.2", pool="default", sharing_key="k")
        pair = a_service(
            "pair", created=1, cluster_ips=TWO_IPS, policy=FamilyPolicy.REQUIRE_DUAL, sharing_key="k", ports="TCP/81"
        )
        made = self.limited(holder, pair, config=DUAL, default=2)
        assert ips(made.decisions[pair.key]) == "10.0.0.2 fc00::"

    def test_an_older_one_joins_what_a_younger_one_brings_into_the_namespace(self) -> None:
        old = a_service("old", created=1, sharing_key="k", ports="TCP/81")
        made = self.limited(old, a_service("none", namespace="x"), default=0)
        assert ips(made.decisions[old.key]) == ""
        young = a_service("young", created=9, holds="10.0.0.3", pool="default", sharing_key="k")
        found = made.handle(Change(services={young.key: young}, quotas={"default": 1}))
        made.check_invariants()
        assert {one.service: ips(one) for one in found} == {"default/young": "10.0.0.3", "default/old": "10.0.0.3"}

    def test_what_was_kept_for_a_deleted_service_needs_room_too(self) -> None:
        kept = a_service("kept", keep_for_s=60.0)
        made = self.limited(kept, default=1)
        made.handle(Change(services={kept.key: None}, now=1.0))
        other = a_service("other", created=1)
        made.handle(Change(services={other.key: other}, now=1.0))
        returned = made.handle(Change(services={kept.key: replace(kept, uid="new", version="9")}, now=2.0))
        assert [(one.reason, ips(one)) for one in returned] == [(Reason.NAMESPACE_QUOTA, "")]
        freed = made.handle(Change(services={other.key: None}, now=3.0))
        made.check_invariants()
        assert [ips(one) for one in freed] == ["10.0.0.0"]

    def test_a_second_address_counts_too(self) -> None:
        prefers = a_service(cluster_ips=TWO_IPS, policy=FamilyPolicy.PREFER_DUAL, holds="10.0.0.0", pool="default")
        made = self.limited(prefers, config=DUAL, default=1)
        complaint = made.decisions[ServiceKey("default/web")].complaint
        assert complaint is not None
        assert complaint.reason == "AdditionalAssignFailed"
        assert [ips(one) for one in made.handle(Change(quotas={}))] == ["10.0.0.0 fc00::"]


class TestReserved:
    """The annotation lb.metallb-py.io/reserved of a pool."""

    CONFIG = a_config(a_pool("default", "10.0.0.0/30", reserved="10.0.0.0,10.0.0.2-10.0.0.9"))

    def test_only_who_asks_for_a_reserved_address_gets_it(self) -> None:
        made = planner(
            a_service("a"), a_service("b", created=1), a_service("c", created=2, wants="10.0.0.2"), config=self.CONFIG
        )
        assert [ips(made.decisions[ServiceKey(f"default/{name}")]) for name in "abc"] == ["10.0.0.1", "", "10.0.0.2"]
        assert made.decisions[ServiceKey("default/b")].detail == (
            'no available IPs: pool "default" has no free IPv4 address (all 4 in use or reserved)'
        )
        change(made, gone="c")
        assert ips(made.decisions[ServiceKey("default/b")]) == "", "it is reserved again"

    def test_who_holds_an_address_keeps_it_when_it_becomes_reserved(self) -> None:
        made = planner(a_service(holds="10.0.0.2", pool="default"))
        assert not change(made, config=self.CONFIG)["web"].happened
        assert ips(made.decisions[ServiceKey("default/web")]) == "10.0.0.2"

    def test_nobody_joins_a_reserved_address_without_asking(self) -> None:
        config = a_config(a_pool("default", "10.0.0.0/32", reserved="10.0.0.0"))
        asks = a_service("a", wants="10.0.0.0", sharing_key="k")
        made = planner(asks, a_service("b", created=1, sharing_key="k", ports="TCP/81"), config=config)
        assert [ips(made.decisions[ServiceKey(f"default/{name}")]) for name in "ab"] == ["10.0.0.0", ""]


class TestVerdict:
    """The condition on a Service."""

    def test_a_service_that_was_there_before_us_gets_none_until_something_changes(self) -> None:
        made = planner(a_service(holds="10.0.0.0", pool="default"))
        assert made.pending(ServiceKey("default/web")) is None
        change(made, a_service(holds="10.0.0.0", pool="default", wants="10.0.0.1"))
        write = made.pending(ServiceKey("default/web"))
        assert write is not None
        assert write.after.verdict == Verdict(True, "HoldsAddress", '10.0.0.1 from pool "default"')

    def test_it_is_not_written_again_while_it_stays(self) -> None:
        made = planner(a_service("a"), a_service("b", created=1), config=a_config(a_pool("default", "10.0.0.0/32")))
        change(made, seen(made, "a"), seen(made, "b"))
        assert made.pending(ServiceKey("default/a")) is None
        assert made.pending(ServiceKey("default/b")) is None
        change(made, replace(seen(made, "b", "3"), labels={"a": "b"}))
        assert made.pending(ServiceKey("default/b")) is None

    def test_a_bad_request_of_a_holder_says_so_and_that_it_has_its_address(self) -> None:
        made = planner(a_service(holds="10.0.0.0", pool="default", problem="unreadable"))
        write = made.pending(ServiceKey("default/web"))
        assert write is not None
        assert write.after == Recorded(
            addresses("10.0.0.0"), write.before.pool, verdict=Verdict(True, "BadRequest", "unreadable")
        )

    def test_it_goes_with_the_type(self) -> None:
        made = planner(a_service(), config=POOL)
        change(made, seen(made, "web"))
        change(made, replace(seen(made, "web", "3"), load_balancer=False))
        write = made.pending(ServiceKey("default/web"))
        assert write is not None
        assert write.after == Recorded()

    def test_it_goes_with_the_type_of_a_service_of_our_class_that_had_no_address(self) -> None:
        made = planner(a_service(lb_class="x", cluster_ips=""), lb_class="x")
        change(made, replace(seen(made, "web"), load_balancer=False, load_balancer_class="", version="3"))
        write = made.pending(ServiceKey("default/web"))
        assert write is not None
        assert write.after == Recorded()

    def test_one_that_somebody_edited_is_put_right(self) -> None:
        made = planner(a_service())
        change(made, seen(made, "web"))
        edited = seen(made, "web", "3")
        change(made, replace(edited, recorded=replace(edited.recorded, verdict=Verdict(False, "Nonsense", ""))))
        write = made.pending(ServiceKey("default/web"))
        assert write is not None
        assert write.after == made.decisions[ServiceKey("default/web")].shown


ONE = a_config(a_pool("default", "10.0.0.0/32"))


class TestSharing:
    """Services that use one address together."""

    def sharer(
        self, name: str, made: Planner | None = None, *, ports: str = "TCP/80", backend: str = "", key: str = "k"
    ) -> Service:
        now = a_service(name, created=ord(name[0]), sharing_key=key, ports=ports, backend=backend)
        return now if made is None or now.key not in made.services else replace(seen(made, name), use=now.use)

    def test_services_with_one_key_and_different_ports_get_one_address(self) -> None:
        made = planner(self.sharer("a"), self.sharer("b", ports="UDP/80"), self.sharer("c"), config=ONE)
        assert [ips(made.decisions[ServiceKey(f"default/{name}")]) for name in "abc"] == ["10.0.0.0", "10.0.0.0", ""]
        refused = made.decisions[ServiceKey("default/c")]
        assert refused.detail == (
            'no available IPs: pool "default" has no free IPv4 address'
            ' (all 1 in use, none can be shared with sharing key "k" on these ports)'
        )

    def test_services_are_reconsidered_when_sharing_the_ip_and_conditions_change(self) -> None:
        made = planner(self.sharer("a"), self.sharer("b", ports="TCP/81"), config=ONE)
        change(made, seen(made, "a"), seen(made, "b"))

        def held() -> str:
            return "".join(name for name in "ab" if made.decisions[ServiceKey(f"default/{name}")].recorded.addresses)

        assert held() == "ab"
        found = change(made, self.sharer("b", made, ports="TCP/81", backend="app=web"))
        assert held() == "a"
        assert "ClearAssignment" in [notice.reason for notice in found["b"].happened]
        assert "ClearAssignment" not in str(found.get("a", ""))
        found = change(made, self.sharer("a", made, backend="app=web"))
        assert held() == "ab"
        assert set(found) == {"a", "b"}
        change(made, seen(made, "b", "9"))
        change(made, self.sharer("a", made, backend="app=other"))
        assert held() == "b"
        change(made, self.sharer("b", made, ports="TCP/81", backend="app=other"))
        assert held() == "ab"

    def test_a_port_given_up_goes_to_the_oldest_waiter_that_can_use_it(self) -> None:
        made = planner(self.sharer("a"), self.sharer("z", key="other"), self.sharer("c"), self.sharer("d"), config=ONE)
        found = change(made, self.sharer("a", made, ports="TCP/443"))
        assert {name: ips(one) for name, one in found.items()} == {"a": "10.0.0.0", "c": "10.0.0.0", "d": "", "z": ""}

    def test_a_service_that_begins_to_share_lets_waiting_ones_in(self) -> None:
        made = planner(a_service("a"), self.sharer("b", ports="TCP/81"), config=ONE)
        assert ips(made.decisions[ServiceKey("default/b")]) == ""
        found = change(made, self.sharer("a", made))
        assert ips(found["b"]) == "10.0.0.0"

    def test_nobody_waits_for_a_sharer_that_stays_but_for_one_that_leaves(self) -> None:
        made = planner(
            replace(self.sharer("a"), recorded=Recorded(addresses("10.0.0.0"), PoolName("default"))),
            self.sharer("b", ports="TCP/81"),
            config=ONE,
        )
        write = made.pending(ServiceKey("default/b"))
        assert write is not None
        assert write.after.addresses == addresses("10.0.0.0")
        change(made, gone="b")
        change(made, self.sharer("a", made, backend="app=web"), self.sharer("c", key="else"))
        change(made, replace(made.services[ServiceKey("default/a")], load_balancer=False, version="3"))
        change(made, self.sharer("d", key="else", ports="TCP/9"))
        assert ips(made.decisions[ServiceKey("default/c")]) == "10.0.0.0"
        assert made.pending(ServiceKey("default/d")) is None, "a still shows the address, and is to give it up"

    def test_both_addresses_of_a_pair_must_be_shareable(self) -> None:
        pair = {"cluster_ips": TWO_IPS, "policy": FamilyPolicy.REQUIRE_DUAL}
        first = a_service("a", sharing_key="k", **pair)  # type: ignore[arg-type]  # one mapping of several types
        second = a_service("b", created=1, sharing_key="k", ports="TCP/81", **pair)  # type: ignore[arg-type]  # as above
        third = a_service("c", created=2, sharing_key="k", ports="TCP/80", **pair)  # type: ignore[arg-type]  # as above
        made = planner(first, second, third, config=a_config(a_pool("default", "10.0.0.0/32,fc00::/127")))
        found = [ips(made.decisions[ServiceKey(f"default/{name}")]) for name in "abc"]
        assert found == ["10.0.0.0 fc00::", "10.0.0.0 fc00::", ""]

    def test_a_requested_shared_address_is_refused_with_the_port_in_the_way(self) -> None:
        made = planner(self.sharer("a"), replace(self.sharer("b"), wanted_addresses=addresses("10.0.0.0")), config=ONE)
        assert made.decisions[ServiceKey("default/b")].reason is Reason.ADDRESS_IN_USE
        assert made.decisions[ServiceKey("default/b")].detail == 'port TCP/80 is already in use on "10.0.0.0" by default/a'


class TestSayingWhatPoolsLack:
    """The reason of a refusal is the one that holds at the end of the pass, and changes only when it does."""

    def pair(self, name: str, created: int = 9, *, sharing_key: str = "", ports: str = "TCP/80") -> Service:
        return a_service(
            name,
            created=created,
            cluster_ips=TWO_IPS,
            policy=FamilyPolicy.REQUIRE_DUAL,
            sharing_key=sharing_key,
            ports=ports,
        )

    def test_a_pool_without_a_family_says_that_whatever_else_is_taken(self) -> None:
        made = planner(self.pair("pair"), config=ONE)
        change(made, a_service("single"))
        assert made.decisions[ServiceKey("default/pair")].detail == 'no available IPs: pool "default" has no IPv6 addresses'

    def test_who_wants_a_pair_is_told_in_the_pass_in_which_the_other_family_runs_out_too(self) -> None:
        made = planner(a_service("six", cluster_ips="fd00::1"), self.pair("pair"), config=a_config(ONE_OF_EACH))
        assert made.decisions[ServiceKey("default/pair")].detail == (
            'no available IPs: pool "default" has no free IPv6 address (all 1 in use)'
        )
        told = change(made, a_service("four"))["pair"]
        assert told.detail == (
            'no available IPs: pool "default" has no free IPv4 address (all 1 in use)'
            ' and pool "default" has no free IPv6 address (all 1 in use)'
        )
        assert change(made, a_service("five")).keys() == {"five"}

    def test_an_older_one_is_told_what_a_younger_one_takes_in_the_same_pass(self) -> None:
        made = planner(
            a_service("six", cluster_ips="fd00::1"),
            self.pair("pair", 1),
            a_service("four", created=2),
            config=a_config(ONE_OF_EACH),
        )
        assert "has no free IPv4 address" in made.decisions[ServiceKey("default/pair")].detail

    def test_who_prefers_two_and_gets_none_is_told_of_both(self) -> None:
        made = planner(a_service("four"), replace(self.pair("prefers"), policy=FamilyPolicy.PREFER_DUAL), config=ONE)
        refused = made.decisions[ServiceKey("default/prefers")]
        assert (refused.reason, refused.detail) == (
            Reason.POOL_EXHAUSTED,
            'no available IPs: pool "default" has no free IPv4 address (all 1 in use) and pool "default" has no IPv6 addresses',
        )

    def test_who_wants_a_pair_is_told_when_it_can_share_neither_address_any_more(self) -> None:
        four = a_service("four", sharing_key="k", ports="TCP/81")
        six = a_service("six", cluster_ips="fd00::1", sharing_key="k")
        made = planner(four, six, self.pair("pair", sharing_key="k"), config=a_config(ONE_OF_EACH))
        assert "IPv4" not in made.decisions[ServiceKey("default/pair")].detail
        told = change(made, a_service("more", sharing_key="k"))
        assert "no free IPv4 address" in told["pair"].detail

    def test_a_second_address_is_refused_for_the_quota_whether_or_not_the_pool_has_one(self) -> None:
        prefers = replace(self.pair("prefers"), policy=FamilyPolicy.PREFER_DUAL, recorded=Recorded(addresses("10.0.0.0")))
        for others in ((), (a_service("six", namespace="other", cluster_ips="fd00::1"),)):
            made = Planner()
            services = {one.key: one for one in (prefers, *others)}
            made.handle(Change(services=services, config=a_config(ONE_OF_EACH), quotas={"default": 1}))
            complaint = made.decisions[prefers.key].complaint
            assert complaint is not None
            assert 'namespace "default" may have 1 addresses' in complaint.note


def test_a_full_plan_is_the_first_step_of_a_planner() -> None:
    world = a_world(a_service("a"), a_service("b", holds="192.168.20.21", pool="default"))
    decisions = plan(world)
    assert {key: ips(one) for key, one in decisions.items()} == {"default/a": "192.168.20.20", "default/b": "192.168.20.21"}
