"""Two processes never lead at one moment, and nobody waits longer than they must."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

import pytest

from kube.lease import CLOCKS_DIFFER_S, Candidate, Moment, Put, Read, Record, Terms, Wait

TERMS = Terms()


def at(seconds: float) -> Moment:
    return Moment(seconds, seconds)


def leading(since: float = 0.0, identity: str = "a") -> Candidate:
    """A candidate that wrote the Lease at that time."""
    made = Candidate(identity, TERMS)
    made.observed(None, None, at(since))
    step = made.next(at(since))
    assert isinstance(step, Put)
    made.written(step.record, "1", at(since))
    return made


class TestTaking:
    """When a Lease may be taken."""

    def test_the_lease_is_read_first(self) -> None:
        assert Candidate("a", TERMS).next(at(0)) == Read()

    def test_a_missing_lease_is_made_at_once(self) -> None:
        made = Candidate("a", TERMS)
        made.observed(None, None, at(0))
        assert made.next(at(0)) == Put(Record("a", 15), None, acquires=True)
        assert not made.leads(at(0))
        made.written(Record("a", 15), "1", at(0))
        assert made.leads(at(9.9))
        assert not made.leads(at(10))

    def test_a_released_lease_is_taken_at_once(self) -> None:
        made = Candidate("b", TERMS)
        made.observed(Record("", 1, transitions=4), "7", at(0))
        assert made.next(at(0)) == Put(Record("b", 15, transitions=5), "7", acquires=True)

    def test_a_lease_of_our_earlier_life_is_taken_at_once(self) -> None:
        made = Candidate("a", TERMS)
        made.observed(Record("a", 15, "then", "then", 3), "7", at(0), renewed_ago_s=1.0)
        assert made.next(at(0)) == Put(Record("a", 15, "then", "then", 3), "7", acquires=True)

    @pytest.mark.parametrize(("ago_s", "taken"), [(15.0, False), (15 + CLOCKS_DIFFER_S, False), (16 + CLOCKS_DIFFER_S, True)])
    def test_a_lease_that_ended_long_ago_is_taken_at_once(self, ago_s: float, taken: object) -> None:
        made = Candidate("b", TERMS)
        made.observed(Record("a", 15), "7", at(0), renewed_ago_s=ago_s)
        assert isinstance(made.next(at(0)), Put) is taken

    def test_a_lease_that_nobody_renews_is_taken_after_its_duration_from_when_it_was_seen(self) -> None:
        made = Candidate("b", TERMS)
        now, steps = 100.0, []
        while True:
            step = made.next(at(now))
            steps.append(step)
            if isinstance(step, Read):
                made.observed(Record("a", 15), "7", at(now))
            elif isinstance(step, Wait):
                now += step.for_s
            else:
                break
        assert now == pytest.approx(115.0)
        assert step == Put(Record("b", 15, transitions=1), "7", acquires=True)

    def test_a_renewal_starts_the_wait_anew(self) -> None:
        made = Candidate("b", TERMS)
        for number in range(20):
            made.observed(Record("a", 15), str(number), at(number * 5.0))
            assert isinstance(made.next(at(number * 5.0)), Wait)
            made.next(at(number * 5.0 + 2))

    def test_the_duration_that_the_holder_promised_counts(self) -> None:
        made = Candidate("b", Terms.of(2))
        made.observed(Record("a", 60), "7", at(0))
        made.next(at(0))
        made.observed(Record("a", 60), "7", at(59))
        assert isinstance(made.next(at(59)), Wait)


class TestLeading:
    """What a leader does."""

    def test_it_renews_after_a_third_of_the_duration(self) -> None:
        made = leading()
        assert made.next(at(0)) == Wait(5.0)
        assert made.next(at(5)) == Put(Record("a", 15), "1", acquires=False)

    def test_it_stops_by_itself_if_it_cannot_renew(self) -> None:
        made = leading()
        made.failed(at(5))
        assert made.leads(at(9.9))
        assert made.next(at(5)) == Wait(1.25)
        assert made.next(at(7)) == Read()
        assert not made.leads(at(10))
        assert made.remaining_s(at(10)) == 0.0

    def test_time_counts_from_before_the_request(self) -> None:
        made = leading()
        made.written(Record("a", 15), "2", at(5))
        assert not made.leads(at(15))

    def test_it_stops_by_the_hasty_clock(self) -> None:
        assert not leading().leads(Moment(1.0, 11.0))

    def test_it_stops_at_once_when_somebody_else_has_written_the_lease(self) -> None:
        made = leading()
        made.refused()
        assert not made.leads(at(1))
        made = leading()
        made.observed(Record("b", 15), "9", at(1))
        assert not made.leads(at(1))

    def test_it_gives_the_lease_back(self) -> None:
        made = leading()
        assert made.release(at(1)) == Put(Record("", 1), "1", acquires=False)
        assert not made.leads(at(1))
        assert Candidate("a", TERMS).release(at(1)) is None


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        (Terms(), ""),
        (Terms.of(2), ""),
        (Terms.of(1), ""),
        (Terms(0), "at least one second"),
        (Terms(10, 10.0), "longer than the renew deadline"),
        (Terms(15, 4.0, 5.0), "longer than the time between renewals"),
        (Terms(retry_s=0), "retry period"),
    ],
)
def test_terms_that_promise_nothing_are_refused(terms: Terms, said: str) -> None:
    assert said in terms.problem()
    assert bool(said) == bool(terms.problem())


@dataclass
class Server:
    """The Lease, with a version."""

    record: Record | None = None
    version: int = 0
    renewed_at: float = 0.0

    def put(self, put: Put, now: float) -> str | None:
        expected = str(self.version) if self.record is not None else None
        if put.version != expected:
            return None
        self.record, self.version, self.renewed_at = put.record, self.version + 1, now
        return str(self.version)


@dataclass
class Process:
    """A candidate on a machine of its own: it may stop at any point, and its machine may be suspended."""

    candidate: Candidate
    skew_s: float
    offset_s: float
    hurry: float
    slept_s: float = 0.0
    stopped_until: float = 0.0

    def now(self, real: float) -> Moment:
        return Moment(real - self.slept_s + self.offset_s, real * self.hurry)


@dataclass
class Cluster:
    """Processes and one server in real time; every message may take long, get lost, or be overtaken."""

    rng: random.Random
    server: Server = field(default_factory=Server)
    real: float = 0.0
    queue: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    numbers: count[int] = field(default_factory=count)
    leaders: set[str] = field(default_factory=set)

    def later(self, delay_s: float, deed: Callable[[], None]) -> None:
        heapq.heappush(self.queue, (self.real + delay_s, next(self.numbers), deed))

    def delay(self) -> float:
        return self.rng.choice([0.01, 0.01, 0.1, 1.0, 4.0, 20.0]) * self.rng.random()

    def go_on(self, process: Process, deed: Callable[[], None]) -> None:
        """Do it once the process runs; sometimes it is stopped first, or its machine is suspended."""
        if self.rng.random() < 0.05:
            pause_s = 40 * self.rng.random()
            process.stopped_until = self.real + pause_s
            if self.rng.random() < 0.5:
                process.slept_s += pause_s
        if self.real < process.stopped_until:
            self.later(process.stopped_until - self.real, deed)
        else:
            deed()

    def turn(self, process: Process) -> None:
        now = process.now(self.real)
        step = process.candidate.next(now)
        if isinstance(step, Wait):
            self.later(step.for_s, lambda: self.go_on(process, lambda: self.turn(process)))
        elif isinstance(step, Read):
            self.later(self.delay(), lambda: self.read(process))
        else:
            self.later(self.delay(), lambda: self.put(process, step, now))

    def answer(self, process: Process, told: Callable[[], None]) -> None:
        def arrive() -> None:
            if self.rng.random() < 0.1:
                process.candidate.failed(process.now(self.real))
            else:
                told()
            self.turn(process)

        self.later(self.delay(), lambda: self.go_on(process, arrive))

    def read(self, process: Process) -> None:
        record, version = self.server.record, str(self.server.version)
        ago_s = self.real - self.server.renewed_at + process.skew_s
        self.answer(
            process,
            lambda: process.candidate.observed(
                record, version if record else None, process.now(self.real), renewed_ago_s=ago_s if record else None
            ),
        )

    def put(self, process: Process, step: Put, sent: Moment) -> None:
        if self.rng.random() < 0.1:
            self.answer(process, lambda: process.candidate.failed(process.now(self.real)))
            return
        version = self.server.put(step, self.real)
        if version is None:
            self.answer(process, process.candidate.refused)
        else:
            self.answer(process, lambda: process.candidate.written(step.record, version, sent))


@pytest.mark.parametrize("seed", range(40))
def test_two_processes_never_lead_at_one_moment(seed: int) -> None:
    """An hour of three processes with stalls, suspended machines, clocks that differ, late and lost messages."""
    rng = random.Random(seed)  # noqa: S311 - a simulation
    cluster = Cluster(rng)
    processes = [
        Process(
            Candidate(name, Terms.of(rng.choice([2, 15]))),
            skew_s=rng.uniform(-CLOCKS_DIFFER_S, CLOCKS_DIFFER_S),
            offset_s=rng.uniform(0, 1000),
            hurry=rng.choice([1.0, 1.0, 1.2]),
        )
        for name in "abc"
    ]
    for process in processes:
        cluster.turn(process)
    led = 0
    while cluster.real < 3600:
        cluster.real, _, deed = heapq.heappop(cluster.queue)
        deed()
        now = [
            one.candidate.identity
            for one in processes
            if cluster.real >= one.stopped_until and one.candidate.leads(one.now(cluster.real))
        ]
        assert len(now) <= 1, (cluster.real, now)
        led += len(now)
    assert led, "somebody leads now and then"
