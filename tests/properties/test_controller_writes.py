"""Planner and API server together, in every order of watch events, writes, lost answers, conflicts and crashes.

The API server is a dictionary with versions and a queue of events. At every moment no two Services show one address that they may not share, if
nobody but us writes statuses; and when all is delivered and written, statuses say what the plan says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.model import Config, ServiceKey
from controller.ipam.sharing import conflict
from controller.outbox import Write
from controller.plan import Change, Outcome, Planner
from controller.world import NOTHING, Service
from tests.builders import a_config, a_pool, a_service, a_use, addresses

UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # The machine is shared: time says nothing.
NAMES = ("a", "b", "c", "d")
USES = {"a": a_use("k"), "b": a_use("k", ports="TCP/81"), "c": a_use(""), "d": a_use("k")}
"""What goes together: a with b, and b with d. A user who changes these under live Services makes two show one address."""
CONFIGS = (
    a_config(a_pool("p", "10.0.0.0/31")),
    a_config(a_pool("p", "10.0.0.0/30")),
    a_config(a_pool("q", "10.0.0.1-10.0.0.2")),
)
SETTLED_WITHIN = 40


class Simulation:
    """An API server, a controller that may crash, and users."""

    def __init__(self, given: int) -> None:
        self.version = 0
        self.api: dict[ServiceKey, Service] = {}
        self.events: list[tuple[ServiceKey, Service | None]] = []
        self.flying: list[Write] = []
        self.config: Config = CONFIGS[1]
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

    def delete(self, key: ServiceKey) -> None:
        if self.api.pop(key, None) is not None:
            self.version += 1
            self.events.append((key, None))

    def deliver(self, count: int) -> None:
        """Some events reach the store; the loop runs once for all of them."""
        some, self.events = self.events[:count], self.events[count:]
        self.planner.handle(Change(services=dict(some)))

    def configure(self, config: Config) -> None:
        self.config = config
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
        now = self.api.get(write.service)
        if now is None or now.version != write.version:
            if answer == "answered":
                self.planner.refused(write)
                if now is not None:
                    self.planner.read_again(now)
            return
        version = self.put(replace(now, recorded=write.after))
        if answer == "answered":
            self.planner.written(write, version)

    def check(self) -> None:
        self.planner.check_invariants()
        shown = [(address, one.key, one.use) for one in self.api.values() for address in one.recorded.addresses]
        for address, key, use in shown:
            others = [(other, its) for also, other, its in shown if also == address]
            assert conflict(key, use, address, others) is None, {key: one.recorded for key, one in self.api.items()}

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
        st.sampled_from(["answered", "answered", "lost", "never sent"]),
    ),
    st.builds(lambda config: lambda sim: sim.configure(config), st.sampled_from(CONFIGS)),
    st.just(lambda sim: sim.start()),
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
