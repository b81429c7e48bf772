"""Addresses that outlive their Services: what is kept back, for whom, for how long, and what happens when it cannot be had."""

from __future__ import annotations

from dataclasses import replace

from config.model import Config, ServiceKey
from controller.ipam.memory import Remembered
from controller.plan import Change, Decision, Planner
from controller.reason import Reason
from controller.world import FamilyPolicy, Recorded, Service
from tests.builders import a_config, a_pool, a_service, addresses

POOL = a_config(a_pool("default", "10.0.0.0/30"))
DAY_S = 86400.0
WEB = ServiceKey("default/web")


class Story:
    """A planner, the time, and short verbs."""

    def __init__(self, config: Config = POOL) -> None:
        self.planner = Planner()
        self.now = 1000.0
        self._uids = 0
        self.handle(Change(config=config))

    def handle(self, change: Change) -> dict[str, Decision]:
        decisions = self.planner.handle(replace(change, now=self.now))
        self.planner.check_invariants()
        return {one.service.partition("/")[2]: one for one in decisions}

    def put(self, *services: Service) -> dict[str, Decision]:
        return self.handle(Change(services={one.key: one for one in services}))

    def delete(self, *names: str) -> dict[str, Decision]:
        return self.handle(Change(services={ServiceKey(f"default/{name}"): None for name in names}))

    def create(self, name: str = "web", **members: object) -> str:
        """Put a new Service of that name; its addresses."""
        self._uids += 1
        members = {"created": self._uids, "uid": f"uid-{self._uids}"} | members
        self.put(a_service(name, **members))  # type: ignore[arg-type]  # members are of several types
        return self.ips(name)

    def ips(self, name: str = "web") -> str:
        return " ".join(map(str, self.planner.decisions[ServiceKey(f"default/{name}")].recorded.addresses))

    def pass_s(self, seconds: float) -> dict[str, Decision]:
        self.now += seconds
        return self.handle(Change())


def test_a_deleted_service_that_returns_gets_its_address_back() -> None:
    story = Story()
    story.create("first")
    assert story.create(keep_for_s=DAY_S) == "10.0.0.1"
    story.delete("web", "first")
    assert story.create("other") == "10.0.0.0"
    assert story.create("another") == "10.0.0.2", "10.0.0.1 is kept back"
    story.now += DAY_S - 1
    assert story.create() == "10.0.0.1"
    assert story.planner.decisions[WEB].detail == 'it got 10.0.0.1 back from pool "default"'
    assert not story.planner.memory.entries, "without the annotation nothing is remembered of it any more"


def test_after_its_time_the_oldest_who_waits_gets_the_address() -> None:
    story = Story(a_config(a_pool("default", "10.0.0.0/32")))
    story.create(keep_for_s=DAY_S)
    story.delete("web")
    assert story.create("young", created=30) == ""
    assert story.create("old", created=20) == ""
    assert story.planner.decisions[ServiceKey("default/old")].detail == (
        'no available IPs: pool "default" has no free IPv4 address (all 1 in use or kept for deleted Services)'
    )
    assert story.pass_s(DAY_S - 0.001) == {}
    assert story.planner.memory.wake_at() == 1000.0 + DAY_S
    assert story.pass_s(0.001).keys() >= {"old"}
    assert (story.ips("old"), story.ips("young")) == ("10.0.0.0", "")
    assert story.create() == ""


def test_who_asks_for_a_kept_address_by_name_gets_it() -> None:
    story = Story()
    story.create(keep_for_s=DAY_S)
    story.delete("web")
    assert story.create("asks", wants="10.0.0.0") == "10.0.0.0"
    assert story.create() == "10.0.0.1"
    story.delete("web")
    assert story.create("next") == "10.0.0.1", "who got another address has none kept back"


def test_the_address_is_kept_on_while_somebody_who_asked_for_it_had_it() -> None:
    story = Story()
    story.create(keep_for_s=DAY_S)
    story.delete("web")
    story.create("asks", wants="10.0.0.0")
    story.delete("asks")
    assert story.create("other") == "10.0.0.1"
    assert story.create() == "10.0.0.0"


def test_what_a_returned_service_asks_for_counts_more_than_what_it_had() -> None:
    config = a_config(a_pool("default", "10.0.0.0/30"), a_pool("other", "10.9.0.0/24", auto_assign=False))
    story = Story(config)
    story.create(keep_for_s=DAY_S)
    story.delete("web")
    assert story.create(wants="10.0.0.3") == "10.0.0.3"
    assert story.create("next") == "10.0.0.0", "nothing is kept back for one who has an address"
    story.delete("next")
    story.put(a_service("next", created=50, uid="n2", keep_for_s=DAY_S))
    story.delete("next")
    assert story.create("next", wants_pool="other") == "10.9.0.0"


def test_an_address_from_a_pool_that_is_not_automatic_comes_back_without_being_asked_for() -> None:
    story = Story(a_config(a_pool("default", "10.0.0.0/30"), a_pool("other", "10.9.0.0/24", auto_assign=False)))
    assert story.create(wants_pool="other", keep_for_s=DAY_S) == "10.9.0.0"
    story.delete("web")
    assert story.create() == "10.9.0.0"


def test_what_cannot_be_had_any_more_is_let_go_and_those_who_wait_get_it() -> None:
    """The pool is for another namespace now: the one who returns gets another address, in the same turn as who waits."""
    config = a_config(a_pool("a", "10.0.0.0/32"), a_pool("b", "10.1.0.0/32", namespaces=["x"]))
    story = Story(config)
    story.create(keep_for_s=DAY_S)
    story.delete("web")
    waiting = a_service("waits", namespace="y", created=1, uid="w")
    story.put(waiting)
    both = a_config(a_pool("a", "10.0.0.0/32", namespaces=["y"]), a_pool("b", "10.1.0.0/32", namespaces=["default"]))
    story.handle(Change(config=both))
    assert story.planner.decisions[ServiceKey("y/waits")].recorded.addresses == ()
    assert story.create(created=60) == "10.1.0.0"
    assert story.planner.decisions[ServiceKey("y/waits")].recorded.addresses == addresses("10.0.0.0")


def test_a_service_made_anew_before_its_deletion_was_seen_has_its_address_back() -> None:
    """A watch that was away, or a loop that came late, shows only the new one, under a new uid."""
    story = Story(a_config(a_pool("default", "10.0.0.0/32")))
    story.create(keep_for_s=DAY_S)
    story.create("waits", created=0)
    assert story.create(uid="new", created=60) == "10.0.0.0"
    assert story.ips("waits") == ""


def test_without_the_annotation_nothing_is_kept() -> None:
    story = Story(a_config(a_pool("default", "10.0.0.0/32")))
    story.create()
    story.create("waits")
    story.delete("web")
    assert story.ips("waits") == "10.0.0.0"


def test_removing_the_annotation_while_the_service_lives_ends_it() -> None:
    story = Story()
    story.create(keep_for_s=DAY_S)
    service = story.planner.services[WEB]
    story.put(replace(service, keep_for_s=None, recorded=Recorded(addresses("10.0.0.0"), None), version="2"))
    assert not story.planner.memory.entries


def test_a_returned_service_that_is_no_load_balancer_yet_still_has_its_address_kept() -> None:
    story = Story()
    story.create(keep_for_s=DAY_S)
    story.delete("web")
    assert story.create(load_balancer=False) == ""
    assert story.create("other") == "10.0.0.1"
    story.put(replace(story.planner.services[WEB], load_balancer=True, version="2"))
    assert story.ips() == "10.0.0.0"


def test_a_pair_comes_back_as_a_pair() -> None:
    story = Story(a_config(a_pool("default", "10.0.0.0/30,fc00::/126")))
    dual = {"cluster_ips": "10.96.0.1 fd00::1", "policy": FamilyPolicy.REQUIRE_DUAL}
    assert story.create(keep_for_s=DAY_S, **dual) == "10.0.0.0 fc00::"
    story.delete("web")
    assert story.create("other", **dual) == "10.0.0.1 fc00::1"
    assert story.create(**dual) == "10.0.0.0 fc00::"


def test_a_service_that_returns_with_another_family_gets_an_address_of_that() -> None:
    story = Story(a_config(a_pool("default", "10.0.0.0/30,fc00::/126")))
    story.create(keep_for_s=DAY_S)
    story.delete("web")
    assert story.create(cluster_ips="fd00::1") == "fc00::"
    assert story.create("other") == "10.0.0.0"


def test_a_place_on_a_shared_address_is_kept_for_the_one_who_had_it() -> None:
    story = Story()
    story.create("stays", sharing_key="k", ports="TCP/1")
    assert story.create(sharing_key="k", ports="TCP/80", keep_for_s=DAY_S) == "10.0.0.0"
    story.delete("web")
    assert story.create("new", sharing_key="k", ports="TCP/80") == "10.0.0.1"
    assert story.create(sharing_key="k", ports="TCP/80") == "10.0.0.0"
    story.put(replace(story.planner.services[WEB], keep_for_s=DAY_S, recorded=Recorded(addresses("10.0.0.0")), version="2"))
    story.delete("web")
    story.pass_s(DAY_S)
    assert story.create("late", sharing_key="k", ports="TCP/80") == "10.0.0.0", "its time is over"


def test_what_is_kept_stays_so_when_the_configuration_changes() -> None:
    story = Story()
    story.create(keep_for_s=DAY_S)
    story.delete("web")
    story.handle(Change(config=a_config(a_pool("default", "10.0.0.0/29"))))
    assert story.create("other") == "10.0.0.1"
    story.handle(Change(config=a_config(a_pool("else", "10.5.0.0/29"))))
    assert story.create("third") == "10.5.0.1"
    story.handle(Change(config=a_config(a_pool("default", "10.0.0.0/29"))))
    assert story.create() == "10.0.0.0"


class TestOverRestarts:
    def started(self, *services: Service, memory: dict[str, Remembered], config: Config = POOL) -> Story:
        story = Story()
        story.planner = Planner()
        there = {one.key: one for one in services}
        noted = {ServiceKey(f"default/{name}"): one for name, one in memory.items()}
        story.handle(Change(services=there, config=config, memory=noted))
        return story

    def test_what_was_kept_stays_kept_until_its_end(self) -> None:
        story = self.started(memory={"web": Remembered(addresses("10.0.0.0"), DAY_S, 1500.0)})
        assert story.create("other") == "10.0.0.1"
        assert story.create() == "10.0.0.0"

    def test_what_ended_meanwhile_is_not_kept(self) -> None:
        story = self.started(memory={"web": Remembered(addresses("10.0.0.0"), DAY_S, 999.0)})
        assert story.create("other") == "10.0.0.0"

    def test_a_service_deleted_while_nobody_looked_is_found_out(self) -> None:
        story = self.started(memory={"web": Remembered(addresses("10.0.0.0"), DAY_S)})
        assert story.planner.memory.wake_at() == 1000.0 + DAY_S
        assert story.create() == "10.0.0.0"

    def test_a_service_deleted_and_made_anew_while_nobody_looked_gets_its_address_before_older_ones(self) -> None:
        anew, older = a_service("web", created=9), a_service("older", created=1)
        story = self.started(anew, older, memory={"web": Remembered(addresses("10.0.0.0"), DAY_S)})
        assert (story.ips("web"), story.ips("older")) == ("10.0.0.0", "10.0.0.1")

    def test_a_service_that_is_there_with_its_address_needs_nothing_kept(self) -> None:
        there = a_service("web", holds="10.0.0.0", pool="default", keep_for_s=DAY_S)
        story = self.started(there, memory={"web": Remembered(addresses("10.0.0.0"), DAY_S)})
        assert story.planner.memory.wake_at() is None
        assert story.planner.pending(WEB) is None

    def test_one_that_became_no_load_balancer_while_nobody_looked_was_not_deleted(self) -> None:
        there = a_service("web", load_balancer=False)
        story = self.started(there, memory={"web": Remembered(addresses("10.0.0.0"), DAY_S)})
        assert story.create("other") == "10.0.0.0"


class TestBadValues:
    PROBLEM = 'annotation lb.metallb-py.io/keep-address-for: invalid duration "x"'

    def test_the_service_is_served_and_told(self) -> None:
        story = Story()
        assert story.create(keep_problem=self.PROBLEM) == "10.0.0.0"
        decision = story.planner.decisions[WEB]
        assert decision.complaint is not None
        assert (decision.complaint.type, decision.complaint.reason) == ("Warning", "KeepAddressInvalid")
        assert decision.complaint.note == f'the address of "default/web" will not be kept: {self.PROBLEM}'
        assert decision.verdict is not None
        assert (decision.verdict.assigned, decision.verdict.message) == (
            True,
            f'10.0.0.0 from pool "default"; {self.PROBLEM}',
        )

    def test_one_that_had_its_address_before_us_is_told_too(self) -> None:
        story = Story()
        story.put(a_service(holds="10.0.0.2", pool="default", keep_problem=self.PROBLEM))
        write = story.planner.pending(WEB)
        assert write is not None
        assert write.after.addresses == addresses("10.0.0.2")

    def test_a_refusal_says_both(self) -> None:
        story = Story()
        story.create(wants_pool="nope", keep_problem=self.PROBLEM)
        decision = story.planner.decisions[WEB]
        assert decision.reason is Reason.UNKNOWN_POOL
        assert decision.verdict is not None
        assert decision.verdict.message == f'unknown pool "nope"; {self.PROBLEM}'
        assert decision.complaint is not None
        assert decision.complaint.reason == "AllocationFailed"

    def test_one_that_is_no_load_balancer_is_left_alone(self) -> None:
        story = Story()
        story.create(load_balancer=False, keep_problem=self.PROBLEM)
        assert story.planner.decisions[WEB].complaint is None


def test_who_returns_with_two_families_has_its_address_back_and_gets_the_second_one_with_it() -> None:
    made = Planner()
    made.handle(Change(config=a_config(a_pool("default", "10.0.0.0/30,fc00::/126"))))
    web = a_service(keep_for_s=DAY_S, holds="10.0.0.2")
    made.handle(Change(services={web.key: web}, now=0.0))
    made.handle(Change(services={web.key: None}, now=1.0))
    back = a_service(uid="other", cluster_ips="10.96.0.1 fd00::1", policy=FamilyPolicy.PREFER_DUAL)
    (decision,) = made.handle(Change(services={back.key: back}, now=2.0))
    made.check_invariants()
    assert decision.recorded.addresses == addresses("10.0.0.2 fc00::")
    assert [notice.note for notice in decision.achieved] == ['Assigned IP ["10.0.0.2"]', 'Assigned additional IP "fc00::"']
