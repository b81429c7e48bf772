"""Whose packet is it (RFC 5880 section 6.8.6, RFC 5881 sections 3 and 5, RFC 5883)?"""

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address
from itertools import count

import pytest

from speaker.bfd.hub import MULTIHOP_PORT, SINGLE_HOP_PORT, Datagram, Forget, Hub, HubEffect, Path, Report, Transmit, Wanted
from speaker.bfd.packet import ControlPacket, Refusal, State, decode, encode
from speaker.bfd.session import Timers

ROUTER, OTHER, HERE = ip_address("192.0.2.1"), ip_address("192.0.2.2"), ip_address("192.0.2.10")
LINK_LOCAL = ip_address("fe80::1")
PATH = Path(ROUTER)
FAR = Path(ROUTER, local=HERE, multihop=True, minimum_ttl=250)


def hub(*paths: Path) -> Hub:
    """A hub whose sessions have the discriminators 1, 2, 3 ..."""
    made = Hub(lambda: 0.0, count(1).__next__)
    made.apply([Wanted(path, Timers()) for path in paths], 0.0)
    return made


def packet(state: State = State.DOWN, your: int = 0, mine: int = 99) -> bytes:
    return encode(
        ControlPacket(
            state=state,
            my_discriminator=mine,
            your_discriminator=your,
            desired_min_tx_us=300_000,
            required_min_rx_us=300_000,
            detect_multiplier=3,
        )
    )


def datagram(data: bytes, **fields: object) -> Datagram:
    made = Datagram(data, source=ROUTER, destination=HERE, port=SINGLE_HOP_PORT, ttl=255, interface="eth0")
    return replace(made, **fields)  # type: ignore[arg-type]  # The fields are of several types.


def states(effects: Iterable[HubEffect]) -> list[tuple[Path, State]]:
    return [(effect.path, effect.change.state) for effect in effects if isinstance(effect, Report)]


def raised(made: Hub, path: Path = PATH, **fields: object) -> None:
    """Bring the session with discriminator 1 up."""
    made.receive(datagram(packet(), **fields), 0.0)
    effects = made.receive(datagram(packet(State.INIT, your=1), **fields), 0.0)
    assert states(effects) == [(path, State.UP)]


def test_a_peer_that_does_not_know_us_is_found_by_its_address() -> None:
    made = hub(PATH, Path(OTHER))
    assert states(made.receive(datagram(packet()), 0.0)) == [(PATH, State.INIT)]
    assert states(made.receive(datagram(packet(), source=OTHER), 0.0)) == [(Path(OTHER), State.INIT)]


def test_a_peer_that_knows_us_is_found_by_the_discriminator() -> None:
    made = hub(PATH, Path(OTHER))
    assert states(made.receive(datagram(packet(your=2), source=OTHER), 0.0)) == [(Path(OTHER), State.INIT)]


@pytest.mark.parametrize(
    ("wrong", "refusal"),
    [
        (datagram(packet(your=7)), Refusal.UNKNOWN_SESSION),
        (datagram(packet(), source=OTHER), Refusal.UNKNOWN_SESSION),
        (datagram(packet(your=1), source=OTHER), Refusal.WRONG_ADDRESS),
        (datagram(packet(your=1), port=MULTIHOP_PORT), Refusal.WRONG_ADDRESS),
        (datagram(packet(), port=MULTIHOP_PORT), Refusal.UNKNOWN_SESSION),
        (datagram(packet(), ttl=254), Refusal.TTL),
        (datagram(packet(your=1), ttl=64), Refusal.TTL),
        (datagram(packet()[:20]), Refusal.SHORT),
    ],
)
def test_what_is_not_for_us_is_counted_and_changes_nothing(wrong: Datagram, refusal: Refusal) -> None:
    made = hub(PATH)
    assert made.receive(wrong, 0.0) == []
    assert made.refused == {refusal: 1}
    assert made.sessions[PATH].state is State.DOWN
    assert made.tallies[PATH].packets_in == 0


@pytest.mark.rfc(5883, "5")
def test_a_session_over_several_hops_has_its_port_and_its_least_ttl() -> None:
    made = hub(FAR)
    assert made.receive(datagram(packet(), port=MULTIHOP_PORT, ttl=249), 0.0) == []
    assert made.receive(datagram(packet(), port=MULTIHOP_PORT, ttl=255, destination=OTHER), 0.0) == []
    assert made.refused == {Refusal.TTL: 1, Refusal.UNKNOWN_SESSION: 1}
    raised(made, FAR, port=MULTIHOP_PORT, ttl=250)


def test_the_same_link_local_peer_on_two_links_is_two_sessions() -> None:
    left, right = Path(LINK_LOCAL, interface="eth0"), Path(LINK_LOCAL, interface="eth1")
    made = hub(left, right)
    assert states(made.receive(datagram(packet(), source=LINK_LOCAL, interface="eth1"), 0.0)) == [(right, State.INIT)]
    assert states(made.receive(datagram(packet(), source=LINK_LOCAL, interface="eth0"), 0.0)) == [(left, State.INIT)]
    assert made.receive(datagram(packet(), source=LINK_LOCAL, interface="eth2"), 0.0) == []


def test_discriminators_are_never_nought_and_never_shared() -> None:
    numbers = iter([5, 0, 5, 5, 6])
    made = Hub(lambda: 0.0, numbers.__next__)
    made.apply([Wanted(PATH, Timers()), Wanted(Path(OTHER), Timers())], 0.0)
    assert sorted(session.discriminator for session in made.sessions.values()) == [5, 6]


def test_sessions_are_woken_when_they_are_due_and_in_order() -> None:
    made = hub(PATH, Path(OTHER))
    first = made.tick(0.0)
    assert [effect.path for effect in first if isinstance(effect, Transmit)] == [PATH, Path(OTHER)]
    raised(made)
    found: list[tuple[float, HubEffect]] = []
    while (at := made.wake_at()) is not None and at < 2.5:
        found += [(round(at, 3), effect) for effect in made.tick(at)]
    assert [(at, effect.change.state) for at, effect in found if isinstance(effect, Report)] == [(0.9, State.DOWN)]
    assert [at for at, effect in found if isinstance(effect, Transmit) and effect.path == Path(OTHER)] == [1.0, 2.0]
    assert made.tallies[PATH].downs == made.tallies[PATH].ups == 1


def test_the_longest_silence_of_a_session_that_is_up_is_kept() -> None:
    made = hub(PATH)
    raised(made)
    for at in (0.2, 0.7, 0.9):
        made.receive(datagram(packet(State.UP, your=1)), at)
    assert made.tallies[PATH].longest_gap_s == pytest.approx(0.5)


def test_a_session_that_is_no_longer_wanted_says_goodbye_and_is_forgotten() -> None:
    made = hub(PATH)
    raised(made)
    effects = made.apply([], 1.0)
    (told,) = [decode(effect.data) for effect in effects if isinstance(effect, Transmit)]
    assert told.state is State.ADMIN_DOWN
    assert PATH in made.sessions
    assert made.receive(datagram(packet(State.DOWN, your=1)), 1.1) == [Forget(PATH)]
    assert not made.sessions
    assert not made.tallies
    assert made.receive(datagram(packet(State.DOWN, your=1)), 1.2) == []
    assert made.refused == {Refusal.ADMIN_DOWN: 1, Refusal.UNKNOWN_SESSION: 1}
    assert made.wake_at() is None


def test_a_session_that_is_wanted_again_while_it_says_goodbye_begins_anew() -> None:
    made = hub(PATH)
    raised(made)
    made.apply([], 1.0)
    made.apply([], 1.0)
    assert made.apply([Wanted(PATH, Timers(detect_multiplier=5))], 1.05) == []
    made.receive(datagram(packet(State.DOWN, your=1)), 1.1)
    session = made.sessions[PATH]
    assert (session.state, session.discriminator, session.timers.detect_multiplier) == (State.DOWN, 2, 5)
    assert states(made.receive(datagram(packet()), 1.2)) == [(PATH, State.INIT)]


def test_other_timers_are_agreed_without_losing_the_session() -> None:
    made = hub(PATH)
    raised(made)
    effects = made.apply([Wanted(PATH, Timers(desired_min_tx_us=100_000))], 0.1)
    (told,) = [decode(effect.data) for effect in effects if isinstance(effect, Transmit)]
    assert (told.state, told.poll, told.desired_min_tx_us) == (State.UP, True, 100_000)
    assert made.apply([Wanted(PATH, Timers(desired_min_tx_us=100_000))], 0.2) == []
