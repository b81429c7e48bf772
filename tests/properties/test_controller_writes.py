"""Planner and API server together, in every order of watch events, relists, writes, lost answers, errors, conflicts and crashes.

The API server is a dictionary with versions and a queue of events. At every moment no two Services show one address that they may not share, if
nobody but us writes statuses; and when all is delivered and written, statuses say what the plan says.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.model import AddressRange, Config, IPAddress, ServiceKey
from controller.ipam.sharing import conflict
from controller.outbox import Write
from controller.plan import Change, Outcome, Planner
from controller.world import NOTHING, Service
from tests.builders import a_config, a_pool, a_service, a_use, addresses

UNTIMED = settings(  # The machine is shared: time says nothing. EXAMPLES=100000 is the long form.
    max_examples=int(os.environ.get("EXAMPLES", "2000")), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
NAMES = ("a", "b", "c", "d")
USES = {"a": a_use("k"), "b": a_use("k", ports="TCP/81"), "c": a_use(""), "d": a_use("k")}
"""What goes together: a with b, and b with d. A user who changes these under live Services makes two show one address."""
CONFIGS = (
    a_config(a_pool("p", "10.0.0.0/31")),
    a_config(a_pool("p", "10.0.0.0/30")),
    a_config(a_pool("q", "10.0.0.1-10.0.0.2")),
)
SETTLED_WITHIN = 40


class Reference:
    """What users were promised, in terms of what they can see; knows nothing of how the controller works.

    A Service that shows addresses shows other ones, or none, only after somebody gave a cause: its user changed the Service, or
    the pools were changed, since everything was last at rest. Two Services show one address only if they may share it. At
    rest, who lacks an address it could have does not exist.
    """

    def __init__(self) -> None:
        self.shown: dict[ServiceKey, Service] = {}
        self.caused: set[ServiceKey] = set()

    def changed_by_user(self, service: Service) -> None:
        self.caused.add(service.key)
        self.shown[service.key] = service

    def deleted(self, key: ServiceKey) -> None:
        self.caused.discard(key)
        self.shown.pop(key, None)

    def configured(self) -> None:
        self.caused |= self.shown.keys()

    def written(self, service: Service) -> None:
        """The controller wrote a Service."""
        before = self.shown[service.key]
        assert before.uid == service.uid, "a write for another Service of the same name"
        if before.recorded.addresses and before.recorded.addresses != service.recorded.addresses:
            assert service.key in self.caused, f"{service.key} lost {before.recorded} for nothing"
        self.shown[service.key] = service

    def check(self) -> None:
        held = [(address, one) for one in self.shown.values() for address in one.recorded.addresses]
        for address, one in held:
            others = [(other.key, other.use) for also, other in held if also == address]
            assert conflict(one.key, one.use, address, others) is None, (address, others)

    def at_rest(self, config: Config) -> None:
        self.caused.clear()
        everything = [address for pool in config.pools.values() for one in pool.ranges for address in all_of(one)]
        for one in self.shown.values():
            if one.load_balancer and not one.recorded.addresses:
                for address in set(one.wanted_addresses) & set(everything) if one.wanted_addresses else everything:
                    holders = [(each.key, each.use) for each in self.shown.values() if address in each.recorded.addresses]
                    assert conflict(one.key, one.use, address, holders) is not None, f"{one.key} could have {address}"


def all_of(one: AddressRange) -> list[IPAddress]:
    return [one.first + offset for offset in range(one.size)]


class Simulation:
    """An API server, a controller that may crash, and users."""

    def __init__(self, given: int) -> None:
        self.version = 0
        self.api: dict[ServiceKey, Service] = {}
        self.events: list[tuple[ServiceKey, Service | None]] = []
        self.flying: list[Write] = []
        self.config: Config = CONFIGS[1]
        self.reference = Reference()
        self.start()
        for name in NAMES[:given]:
            self.user(ServiceKey(f"default/{name}"), wants="", load_balancer=True, labels=0)
            self.settle()

    def start(self) -> None:
        """A new process lists everything; what the old one was writing does not arrive."""
        self.events.clear()
        self.flying.clear()
        self.planner = Planner()
        self.planner.handle(Change(services=dict(self.api), config=self.config))

    def put(self, service: Service) -> str:
        self.version += 1
        service = replace(service, version=str(self.version))
        self.api[service.key] = service
        self.events.append((service.key, service))
        return service.version

    def user(self, key: ServiceKey, *, wants: str, load_balancer: object, labels: int) -> None:
        """Create or change a Service."""
        before = self.api.get(key)
        name = key.partition("/")[2]
        fresh = a_service(name, uid=f"uid-{self.version}", created=self.version)
        fresh = replace(fresh, use=USES[name])
        service = replace(
            before or fresh, wanted_addresses=addresses(wants), load_balancer=bool(load_balancer), labels={"n": str(labels)}
        )
        if not load_balancer:  # The API server empties the status itself.
            service = replace(service, recorded=replace(service.recorded, addresses=()))
        self.put(service)
        self.reference.changed_by_user(self.api[key])

    def delete(self, key: ServiceKey) -> None:
        if self.api.pop(key, None) is not None:
            self.reference.deleted(key)
            self.version += 1
            self.events.append((key, None))

    def relist(self) -> None:
        """The resource version was too old (410): the reflector lists everything, and the events between are never seen."""
        self.events.clear()
        gone = dict.fromkeys(self.planner.services.keys() - self.api.keys())
        self.planner.handle(Change(services={**self.api, **gone}))

    def deliver(self, count: int) -> None:
        """Some events reach the store; the loop runs once for all of them."""
        some, self.events = self.events[:count], self.events[count:]
        self.planner.handle(Change(services=dict(some)))

    def configure(self, config: Config) -> None:
        self.config = config
        self.reference.configured()
        self.planner.handle(Change(config=config))

    def write(self, key: ServiceKey) -> None:
        """The writer takes up a Service, unless it is writing it already."""
        if any(one.service == key for one in self.flying):
            return
        write = self.planner.pending(key)
        if write is not None:
            self.planner.sent(write)
            self.flying.append(write)
        elif self.planner.is_unresolved(key) and key in self.api:
            self.planner.read_again(self.api[key])

    def land(self, index: int, *, answer: str) -> None:
        """A request reaches the server, or not; its answer reaches us, or not."""
        if not self.flying:
            return
        write = self.flying.pop(index % len(self.flying))
        if answer == "never sent":
            return
        if answer == "rejected":
            self.planner.refused(write)
            return
        now = self.api.get(write.service)
        if now is None or now.version != write.version:
            if answer == "answered":
                self.planner.refused(write)
                if now is not None:
                    self.planner.read_again(now)
            return
        version = self.put(replace(now, recorded=write.after))
        self.reference.written(self.api[write.service])
        if answer == "answered":
            self.planner.written(write, version)

    def check(self) -> None:
        self.planner.check_invariants()
        self.reference.check()

    def settle(self) -> None:
        """Deliver and write everything, several times over."""
        for _ in range(SETTLED_WITHIN):
            self.deliver(len(self.events))
            for key in NAMES:
                self.write(ServiceKey(f"default/{key}"))
            if not self.flying and not self.events:
                break
            while self.flying:
                self.land(0, answer="answered")
                self.check()
        assert not self.flying
        assert not self.events
        assert not self.planner.unseen
        for key, service in self.api.items():
            decision = self.planner.decisions[key]
            assert service.recorded == (service.recorded if decision.outcome is Outcome.IGNORED else decision.shown)
            assert service.load_balancer or service.recorded == NOTHING
        self.reference.at_rest(self.config)


KEYS = st.sampled_from([ServiceKey(f"default/{name}") for name in NAMES])
WANTS = st.sampled_from(["", "10.0.0.0", "10.0.0.1", "10.0.0.2"])
OPERATIONS: st.SearchStrategy[Callable[[Simulation], None]] = st.one_of(
    st.builds(
        lambda key, wants, lb, n: lambda sim: sim.user(key, wants=wants, load_balancer=lb, labels=n),
        KEYS,
        WANTS,
        st.sampled_from([True, True, True, False]),
        st.integers(0, 1),
    ),
    st.builds(lambda key: lambda sim: sim.delete(key), KEYS),
    st.builds(lambda count: lambda sim: sim.deliver(count), st.integers(0, 5)),
    st.builds(lambda count: lambda sim: sim.deliver(count), st.integers(0, 5)),
    st.builds(lambda key: lambda sim: sim.write(key), KEYS),
    st.builds(lambda key: lambda sim: sim.write(key), KEYS),
    st.builds(
        lambda index, answer: lambda sim: sim.land(index, answer=answer),
        st.integers(0, 3),
        st.sampled_from(["answered", "answered", "lost", "never sent", "rejected"]),
    ),
    st.builds(lambda config: lambda sim: sim.configure(config), st.sampled_from(CONFIGS)),
    st.just(lambda sim: sim.start()),
    st.just(lambda sim: sim.relist()),
)


@UNTIMED
@given(st.integers(0, len(NAMES)), st.lists(OPERATIONS, max_size=40))
def test_no_two_services_ever_show_one_address_they_may_not_share_and_everything_settles(
    given_already: int, operations: list[Callable[[Simulation], None]]
) -> None:
    simulation = Simulation(given_already)
    for operation in operations:
        operation(simulation)
        simulation.check()
    simulation.settle()
    before = dict(simulation.api)
    simulation.start()
    simulation.settle()
    assert simulation.api == before, "a restart changes nothing"
