"""The sessions machine against an ExaBGP that keeps its promises as badly as the real one does."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import replace
from ipaddress import ip_address, ip_network

from hypothesis import given, settings
from hypothesis import strategies as st

from speaker.bgp import exabgp_api as api
from speaker.bgp.model import Family, Neighbor, NeighborKey, Prefix, Route
from speaker.bgp.sessions import RETRY_S, WINDOW, Command, Effect, Refused, SessionDown, Sessions, SessionUp
from tests.unit.speaker.bgp.neighbors import ANY_SOURCE, HERE, ROUTER, prefix, route, table

BOTH = frozenset(Family)
KEY = ROUTER.key


def lines(effects: list[Effect]) -> list[str]:
    """The commands without the words that name the neighbor."""
    return [effect.line.partition("router-id 192.0.2.10 ")[2] for effect in effects if isinstance(effect, Command)]


def running(*neighbors: Neighbor, **routes: dict[Prefix, Route]) -> Sessions:
    machine = Sessions()
    machine.want(neighbors, {neighbor.key: routes.get(neighbor.name, {}) for neighbor in neighbors})
    machine.started()
    return machine


def up(machine: Sessions, key: NeighborKey = KEY, families: frozenset[Family] = BOTH) -> list[Effect]:
    machine.heard(api.Negotiated(key, families, 90), 0.0)
    return machine.heard(api.StateChange(key, up=True), 0.0)


def answer_all(machine: Sessions, effects: list[Effect], now: float = 0.0) -> list[Effect]:
    """Acknowledge commands, and those that follow; return all that followed."""
    found: list[Effect] = []
    waiting = [effect for effect in effects if isinstance(effect, Command)]
    while waiting:
        waiting.pop(0)
        more = machine.heard(api.Ack(done=True), now)
        found += more
        waiting += [effect for effect in more if isinstance(effect, Command)]
    return found


ONE, TWO = route("198.51.100.1/32"), route("198.51.100.2/32")


def test_nothing_is_commanded_for_a_neighbor_that_is_down() -> None:
    machine = running(ROUTER, router=table(ONE))
    assert machine.want([ROUTER], {KEY: table(ONE, TWO)}) == []
    assert machine.idle


def test_a_session_that_comes_up_is_told_everything_and_then_that_this_is_all() -> None:
    machine = running(ROUTER, router=table(ONE, TWO))
    effects = up(machine)
    assert effects[0] == SessionUp(ROUTER)
    assert lines(effects) == ["announce attributes next-hop 192.0.2.10 nlri 198.51.100.1/32 198.51.100.2/32"]
    assert lines(answer_all(machine, effects)) == ["announce eor ipv4 unicast", "announce eor ipv6 unicast"]
    assert machine.idle


def test_a_session_without_routes_is_told_at_once_that_this_is_all() -> None:
    assert lines(up(running(ROUTER), families=frozenset({Family.IPV4}))) == ["announce eor ipv4 unicast"]


def test_only_what_changed_is_told() -> None:
    machine = running(ROUTER, router=table(ONE, TWO))
    answer_all(machine, up(machine))
    changed = route("198.51.100.2/32", "", 200, (65001, 7))
    effects = machine.want([ROUTER], {KEY: table(changed, route("198.51.100.3/32"))})
    assert lines(effects) == [
        "withdraw route 198.51.100.1/32",
        "announce attributes next-hop 192.0.2.10 local-preference 200 community [65001:7] nlri 198.51.100.2/32",
        "announce attributes next-hop 192.0.2.10 nlri 198.51.100.3/32",
    ]
    assert machine.want([ROUTER], {KEY: table(changed, route("198.51.100.3/32"))}) == []


def test_what_was_sent_before_a_session_was_lost_is_withdrawn_when_it_is_no_longer_wanted() -> None:
    """ExaBGP says again what it was told before; nobody else remembers it."""
    machine = running(ROUTER, router=table(ONE, TWO))
    answer_all(machine, up(machine))
    assert machine.heard(api.StateChange(KEY, up=False, reason="peer reset"), 1.0) == [SessionDown(ROUTER, "peer reset")]
    machine.want([ROUTER], {KEY: table(TWO)})
    assert lines(up(machine)) == [
        "withdraw route 198.51.100.1/32",
        "announce attributes next-hop 192.0.2.10 nlri 198.51.100.2/32",
    ]


def test_a_new_process_has_nothing_that_could_be_in_doubt() -> None:
    machine = running(ROUTER, router=table(ONE, TWO))
    answer_all(machine, up(machine))
    assert machine.stopped("killed") == [SessionDown(ROUTER, "killed")]
    machine.want([ROUTER], {KEY: table(TWO)})
    machine.started()
    assert lines(up(machine)) == ["announce attributes next-hop 192.0.2.10 nlri 198.51.100.2/32"]


def test_a_family_that_was_not_agreed_on_is_not_sent_and_said() -> None:
    """ExaBGP would answer `done` and send nothing."""
    six = route("2001:db8::1/128", "2001:db8::10")
    machine = running(ROUTER, router=table(ONE, six))
    effects = up(machine, families=frozenset({Family.IPV4}))
    assert lines(effects) == ["announce attributes next-hop 192.0.2.10 nlri 198.51.100.1/32"]
    assert machine.states[KEY].unsendable == (six.prefix,)


def test_a_route_of_the_other_family_needs_a_next_hop_of_its_own() -> None:
    machine = running(ROUTER, router=table(route("2001:db8::1/128")))
    assert lines(up(machine, families=frozenset({Family.IPV6}))) == ["announce eor ipv6 unicast"]
    assert machine.states[KEY].unsendable == (prefix("2001:db8::1/128"),)


def test_the_source_address_is_learned_where_the_kernel_chose_it() -> None:
    machine = running(ANY_SOURCE, any=table(ONE))
    event = replace(ANY_SOURCE.key, local=ip_address("192.0.2.77"))
    assert lines(up(machine, event)) == ["announce attributes next-hop 192.0.2.77 nlri 198.51.100.1/32"]


def test_a_refused_command_is_tried_again_later_and_later() -> None:
    machine = running(ROUTER, router=table(ONE))
    up(machine)
    now = 0.0
    for wait in (*RETRY_S, RETRY_S[-1]):
        effects = machine.heard(api.Ack(done=False), now)
        assert effects == [Refused(ROUTER, (ONE.prefix,))]
        at = machine.wake_at()
        assert at == now + wait
        assert lines(machine.tick(at)) == ["announce attributes next-hop 192.0.2.10 nlri 198.51.100.1/32"]
        now = at
    effects = machine.heard(api.Ack(done=True), now)
    assert lines(effects) == ["announce eor ipv4 unicast", "announce eor ipv6 unicast"]
    assert machine.wake_at() is None


def test_no_more_commands_are_unanswered_than_the_window_has() -> None:
    many = table(*(Route(ip_network(f"198.18.{n // 256}.{n % 256}/32")) for n in range(3 * WINDOW)))
    machine = running(ROUTER, router=many)
    answer_all(machine, up(machine))
    effects = machine.want([ROUTER], {KEY: {}})
    assert len(effects) == WINDOW
    rest = answer_all(machine, effects)
    assert len(rest) == 2 * WINDOW
    assert not machine.states[KEY].sent
    assert machine.idle


def test_announcements_too_wait_for_the_window() -> None:
    count = WINDOW + 100
    differing = table(*(Route(ip_network(f"198.18.{n // 256}.{n % 256}/32"), local_pref=n + 1) for n in range(count)))
    machine = running(ROUTER, router=differing)
    effects = up(machine)
    assert len(lines(effects)) == WINDOW
    assert len(lines(answer_all(machine, effects))) == 100 + len(BOTH)
    assert machine.states[KEY].sent.keys() == differing.keys()


def test_of_a_table_that_is_the_same_only_what_was_touched_is_looked_at() -> None:
    live = table(ONE, TWO)
    machine = running(ROUTER, router=live)
    answer_all(machine, up(machine))
    del live[ONE.prefix], live[TWO.prefix]
    assert lines(machine.want([ROUTER], {KEY: live}, {ONE.prefix})) == ["withdraw route 198.51.100.1/32"]
    assert lines(machine.want([ROUTER], {KEY: {}}, set())) == ["withdraw route 198.51.100.2/32"]


def test_families_that_are_agreed_on_late_are_sent_then() -> None:
    machine = running(ROUTER, router=table(ONE))
    assert not lines(answer_all(machine, up(machine, families=frozenset({Family.IPV6}))))
    effects = machine.heard(api.Negotiated(KEY, BOTH, 90), 0.0)
    assert lines(effects) == ["announce attributes next-hop 192.0.2.10 nlri 198.51.100.1/32"]


def test_nothing_is_commanded_while_the_configuration_is_changed() -> None:
    machine = running(ROUTER, router=table(ONE))
    answer_all(machine, up(machine))
    machine.hold()
    assert machine.want([ROUTER], {KEY: table(TWO)}) == []
    assert machine.idle
    assert lines(machine.release()) == [
        "withdraw route 198.51.100.1/32",
        "announce attributes next-hop 192.0.2.10 nlri 198.51.100.2/32",
    ]


def test_what_is_said_of_neighbors_that_nobody_has_is_ignored() -> None:
    machine = running(ROUTER)
    stranger = replace(KEY, peer=ip_address("192.0.2.66"))
    for heard in (
        api.StateChange(stranger, up=True),
        api.StateChange(stranger, up=False),
        api.Negotiated(stranger, BOTH, 3),
        api.PeerOpen(stranger, 1, "192.0.2.66", 90, None),
        api.PeerNotification(stranger, received=True, code=6, subcode=2, text=""),
        api.Ack(done=True),
        api.Text("neighbor"),
        api.Other(),
        api.Unreadable("?"),
    ):
        assert machine.heard(heard, 0.0) == []
    assert machine.states.keys() == {KEY}


def test_what_the_peer_said_is_kept() -> None:
    machine = running(ROUTER)
    opened = api.PeerOpen(KEY, 65001, "192.0.2.1", 240, 120)
    told = api.PeerNotification(KEY, received=True, code=2, subcode=2, text="")
    machine.heard(opened, 0.0)
    machine.heard(told, 0.0)
    assert (machine.states[KEY].peer, machine.states[KEY].notification) == (opened, told)


def test_answers_about_a_neighbor_that_is_gone_are_taken() -> None:
    machine = running(ROUTER, router=table(ONE))
    up(machine)
    machine.want([], {})
    assert machine.heard(api.Ack(done=False), 0.0) == []
    assert machine.idle


class FakeExaBGP:
    """Takes commands, answers in order and late, and says to its peer what it was told before whenever a session comes back."""

    def __init__(self) -> None:
        self.cache: dict[str, str] = {}
        self.router: dict[str, str] = {}
        self.queue: deque[str] = deque()
        self.up = False

    def answer(self, *, fault: bool) -> api.Ack:
        words = self.queue.popleft().partition("router-id 192.0.2.10 ")[2].split()
        if fault:
            return api.Ack(done=False)
        if words[:2] == ["withdraw", "route"]:
            self.cache.pop(words[2], None)
        elif words[1] == "attributes":
            at = words.index("nlri")
            self.cache |= dict.fromkeys(words[at + 1 :], " ".join(words[2:at]))
        if self.up:
            self.router = dict(self.cache)
        return api.Ack(done=True)

    def change(self, *, up: bool) -> None:
        self.up = up
        self.router = dict(self.cache) if up else {}


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_whatever_happens_the_router_has_in_the_end_what_is_wanted(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311  (repeatable)
    machine, child, now = running(ROUTER), FakeExaBGP(), 0.0
    wanted: dict[Prefix, Route] = {}

    def carry_out(effects: list[Effect]) -> None:
        child.queue += [effect.line for effect in effects if isinstance(effect, Command)]

    def session(*, goes_up: bool) -> None:
        child.change(up=goes_up)
        if goes_up:
            carry_out(machine.heard(api.Negotiated(KEY, BOTH, 90), now))
        carry_out(machine.heard(api.StateChange(KEY, up=goes_up), now))

    for _ in range(60):
        now += chance.random() * 3
        match chance.randrange(8):
            case 7:
                touched = [ip_network(f"198.51.100.{n}/32") for n in chance.sample(range(8), chance.randint(0, 3))]
                for prefix in touched:  # In the table that the machine has already.
                    if wanted.pop(prefix, None) is None:
                        wanted[prefix] = Route(prefix, None, chance.choice((0, 100)))
                carry_out(machine.want([ROUTER], {KEY: wanted}, touched))
            case 0 | 1:
                some = chance.sample(range(8), chance.randint(0, 8))
                wanted = table(*(route(f"198.51.100.{n}/32", "", chance.choice((0, 100))) for n in some))
                carry_out(machine.want([ROUTER], {KEY: wanted}))
            case 2:
                session(goes_up=not child.up)
            case 3 if chance.random() < 0.2:
                child = FakeExaBGP()
                carry_out(machine.stopped("killed"))
                machine.started()
            case 4 | 5 if child.queue:
                carry_out(machine.heard(child.answer(fault=chance.random() < 0.1), now))
            case _:
                carry_out(machine.tick(now))
    if not child.up:
        session(goes_up=True)
    for _ in range(200):
        while child.queue:
            carry_out(machine.heard(child.answer(fault=False), now))
        at = machine.wake_at()
        if at is None:
            break
        now = max(now, at)
        carry_out(machine.tick(now))
    assert child.router.keys() == {str(one) for one in wanted}
    for one, chosen in wanted.items():
        pref = f" local-preference {chosen.local_pref}" if chosen.local_pref else ""
        assert child.router[str(one)] == f"next-hop {HERE}{pref}"
    assert machine.idle
