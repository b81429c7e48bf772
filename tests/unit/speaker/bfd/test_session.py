"""The session machine against RFC 5880 section 6.8, in virtual time."""

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest

from speaker.bfd.packet import ControlPacket, Diagnostic, Refusal, State
from speaker.bfd.session import Change, Changed, Disable, Effect, Ended, Ignored, Received, Send, Session, Timers

ADMIN_DOWN, DOWN, INIT, UP = State
MINE, THEIRS = 0x11, 0x22


def theirs(state: State, *, poll: bool = False, final: bool = False, your: int = MINE, **fields: int) -> ControlPacket:
    """A packet of the peer; 300 ms times 3 unless said otherwise."""
    made = ControlPacket(
        state=state,
        my_discriminator=THEIRS,
        your_discriminator=your,
        desired_min_tx_us=300_000,
        required_min_rx_us=300_000,
        detect_multiplier=3,
        poll=poll,
        final=final,
    )
    return replace(made, **fields)  # type: ignore[arg-type]  # The fields are of several types.


def fresh(timers: Timers = Timers(), chance: float = 0.0) -> Session:  # noqa: B008  (frozen)
    session = Session(timers, MINE, lambda: chance)
    session.tick(0.0)
    return session


def brought_to(state: State, timers: Timers = Timers(), *, agreed: bool = True) -> Session:  # noqa: B008  (frozen)
    """A session in this state at time 0; `agreed` when the poll of a session that came up has ended."""
    session = fresh(timers)
    match state:
        case State.ADMIN_DOWN:
            session.handle(Received(theirs(UP)), 0.0)
            session.handle(Disable(), 0.0)
        case State.INIT:
            session.handle(Received(theirs(DOWN)), 0.0)
        case State.UP:
            session.handle(Received(theirs(DOWN)), 0.0)
            session.handle(Received(theirs(INIT)), 0.0)
            if agreed:
                session.handle(Received(theirs(UP, final=True)), 0.0)
        case _:
            pass
    assert session.state is state
    return session


def sent(effects: Sequence[Effect]) -> list[ControlPacket]:
    return [effect.packet for effect in effects if isinstance(effect, Send)]


def changes(effects: Sequence[Effect]) -> list[tuple[State, State, Diagnostic]]:
    return [(effect.before, effect.state, effect.diagnostic) for effect in effects if isinstance(effect, Changed)]


def play(session: Session, until: float) -> list[tuple[float, Effect]]:
    """Let time pass; return what happened and when."""
    found: list[tuple[float, Effect]] = []
    while (at := session.wake_at()) is not None and at <= until:
        found += [(at, effect) for effect in session.tick(at)]
    return found


NOTHING, TIME, NEIGHBOR, ADMIN = (
    Diagnostic.NONE,
    Diagnostic.DETECTION_TIME_EXPIRED,
    Diagnostic.NEIGHBOR_SIGNALED_DOWN,
    Diagnostic.ADMINISTRATIVELY_DOWN,
)


@pytest.mark.rfc(5880, "6.8.6")
@pytest.mark.parametrize(
    ("own", "received", "after", "diagnostic"),
    [
        (DOWN, ADMIN_DOWN, DOWN, NOTHING),
        (DOWN, DOWN, INIT, NOTHING),
        (DOWN, INIT, UP, NOTHING),
        (DOWN, UP, DOWN, NOTHING),
        (INIT, ADMIN_DOWN, DOWN, NEIGHBOR),
        (INIT, DOWN, INIT, NOTHING),
        (INIT, INIT, UP, NOTHING),
        (INIT, UP, UP, NOTHING),
        (UP, ADMIN_DOWN, DOWN, NEIGHBOR),
        (UP, DOWN, DOWN, NEIGHBOR),
        (UP, INIT, UP, NOTHING),
        (UP, UP, UP, NOTHING),
        (ADMIN_DOWN, ADMIN_DOWN, ADMIN_DOWN, ADMIN),
        (ADMIN_DOWN, DOWN, ADMIN_DOWN, ADMIN),
        (ADMIN_DOWN, INIT, ADMIN_DOWN, ADMIN),
        (ADMIN_DOWN, UP, ADMIN_DOWN, ADMIN),
    ],
)
def test_every_pair_of_states_moves_as_the_rfc_says(own: State, received: State, after: State, diagnostic: Diagnostic) -> None:
    session = brought_to(own)
    effects = session.handle(Received(theirs(received)), 0.1)
    assert (session.state, session.diagnostic) == (after, diagnostic)
    assert changes(effects) == ([(own, after, diagnostic)] if own is not after else [])
    if own is not after:  # Told at once, not at the next interval.
        assert [packet.state for packet in sent(effects)] == [after]


@pytest.mark.rfc(5880, "6.8.4")
@pytest.mark.parametrize(
    ("own", "after", "diagnostic"),
    [(INIT, DOWN, TIME), (UP, DOWN, TIME), (DOWN, DOWN, NOTHING), (ADMIN_DOWN, ADMIN_DOWN, ADMIN)],
)
def test_silence_for_the_detection_time_ends_init_and_up_only(own: State, after: State, diagnostic: Diagnostic) -> None:
    session = brought_to(own)
    happened = play(session, 20.0)
    assert (session.state, session.diagnostic) == (after, diagnostic)
    found = [(at, *change) for at, effect in happened for change in changes([effect])]
    assert found == ([(0.9, own, after, diagnostic)] if own is not after else [])


@pytest.mark.rfc(5880, "6.8.4")
def test_the_detection_time_is_the_peers_multiplier_times_the_greater_interval() -> None:
    session = brought_to(UP, Timers(required_min_rx_us=200_000))
    session.handle(Received(theirs(UP, detect_multiplier=5, desired_min_tx_us=400_000)), 1.0)
    assert session.detection_time_us == 2_000_000
    session.handle(Received(theirs(UP, detect_multiplier=2, desired_min_tx_us=50_000)), 1.0)
    assert session.detection_time_us == 400_000
    happened = play(session, 10.0)
    assert [at for at, effect in happened if isinstance(effect, Changed)] == [pytest.approx(1.4)]


@pytest.mark.rfc(5880, "6.8.1")
def test_a_peer_that_is_silent_is_forgotten_and_the_packets_say_so() -> None:
    session = brought_to(UP)
    down = [packet for _, effect in play(session, 0.95) for packet in sent([effect]) if packet.state is DOWN]
    assert [packet.your_discriminator for packet in down] == [0]
    session = brought_to(DOWN)
    session.handle(Received(theirs(UP)), 0.0)
    assert session.peer_discriminator == THEIRS
    play(session, 5.0)
    assert session.peer_discriminator == 0


@pytest.mark.rfc(5880, "6.8.3")
def test_packets_are_a_second_apart_until_the_session_is_up_and_then_as_agreed() -> None:
    session = fresh(Timers(desired_min_tx_us=50_000))
    slow = [at for at, effect in play(session, 5.5) if isinstance(effect, Send)]
    assert slow == pytest.approx([1.0, 2.0, 3.0, 4.0, 5.0])
    assert session.desired_min_tx_us == 1_000_000
    session.handle(Received(theirs(DOWN, required_min_rx_us=100_000)), 5.5)
    session.handle(Received(theirs(INIT, required_min_rx_us=100_000)), 5.5)
    assert session.desired_min_tx_us == 50_000
    fast = [at for at, effect in play(session, 6.05) if isinstance(effect, Send)]
    assert fast == pytest.approx([5.6, 5.7, 5.8, 5.9, 6.0])  # The peer takes no more than one in 100 ms.


@pytest.mark.rfc(5880, "6.8.7")
def test_a_shorter_interval_counts_from_the_last_packet_and_not_after_the_next() -> None:
    """The slow start must not go on after the session is up: the peer would miss three packets."""
    session = fresh()
    session.handle(Received(theirs(DOWN, required_min_rx_us=5_000_000)), 0.0)
    session.handle(Received(theirs(INIT, required_min_rx_us=5_000_000)), 0.0)
    assert session.wake_at() == pytest.approx(0.9)  # The detection time; the next packet is 5 s away.
    session.handle(Received(theirs(UP, required_min_rx_us=100_000)), 0.1)
    assert session.wake_at() == pytest.approx(0.3)


@pytest.mark.rfc(5880, "6.8.7")
def test_a_longer_interval_that_the_peer_asks_for_is_kept_at_once() -> None:
    session = brought_to(UP)
    assert session.wake_at() == pytest.approx(0.3)
    session.handle(Received(theirs(UP, required_min_rx_us=800_000)), 0.1)
    assert session.wake_at() == pytest.approx(0.8)


@pytest.mark.rfc(5880, "6.8.7")
def test_packets_come_up_to_a_quarter_sooner_and_at_least_a_tenth_with_a_multiplier_of_one() -> None:
    for multiplier, low, high in ((3, 0.75, 1.0), (1, 0.75, 0.90)):
        chance = random.Random(multiplier)  # noqa: S311  (repeatable)
        session = Session(Timers(detect_multiplier=multiplier), MINE, chance.random)
        at = [time for time, effect in play(session, 2000.0) if isinstance(effect, Send)]
        gaps = [after - before for before, after in pairwise(at)]
        assert low <= min(gaps) < low + 0.02
        assert high - 0.02 < max(gaps) <= high


@pytest.mark.rfc(5880, "6.8.7")
def test_a_peer_that_wants_no_packets_gets_none() -> None:
    session = brought_to(UP)
    session.handle(Received(theirs(UP, required_min_rx_us=0)), 0.0)
    assert session.transmit_interval_us == 0
    assert not [effect for at, effect in play(session, 0.85) if isinstance(effect, Send)]


@pytest.mark.rfc(5880, "6.1")
def test_a_passive_session_says_nothing_before_the_peer_does_and_nothing_after_it_is_gone() -> None:
    session = fresh(Timers(passive=True))
    assert session.wake_at() is None
    effects = session.handle(Received(theirs(DOWN, your=0)), 7.0)
    assert [packet.state for packet in sent(effects)] == [INIT]
    play(session, 7.9)
    assert session.state is DOWN
    assert session.wake_at() is None


@pytest.mark.rfc(5880, "6.5")
def test_a_poll_is_answered_at_once_with_final_and_without_poll() -> None:
    session = brought_to(UP, agreed=False)
    (answer,) = sent(session.handle(Received(theirs(UP, poll=True)), 0.1))
    assert (answer.final, answer.poll) == (True, False)
    assert session.wake_at() == pytest.approx(0.3)  # It does not stand for the periodic packet.


@pytest.mark.rfc(5880, "6.5")
def test_a_session_that_comes_up_polls_until_the_peer_answers() -> None:
    session = brought_to(UP, agreed=False)
    assert [packet.poll for _, effect in play(session, 0.7) for packet in sent([effect])] == [True, True]
    session.handle(Received(theirs(UP, final=True)), 0.7)
    assert [packet.poll for _, effect in play(session, 1.3) for packet in sent([effect])] == [False, False]


@pytest.mark.rfc(5880, "6.8.3")
def test_packets_become_rarer_and_the_detection_stricter_only_when_the_peer_knows() -> None:
    session = brought_to(UP)
    (told,) = sent(session.handle(Change(Timers(desired_min_tx_us=600_000, required_min_rx_us=100_000)), 0.1))
    assert (told.poll, told.desired_min_tx_us, told.required_min_rx_us) == (True, 600_000, 100_000)
    assert session.transmit_interval_us == 300_000
    session.handle(Received(theirs(UP, desired_min_tx_us=50_000)), 0.1)
    assert session.detection_time_us == 900_000
    session.handle(Received(theirs(UP, desired_min_tx_us=50_000, final=True)), 0.2)
    assert session.transmit_interval_us == 600_000
    assert session.detection_time_us == 300_000


@pytest.mark.rfc(5880, "6.8.3")
def test_packets_become_more_frequent_and_the_detection_laxer_at_once() -> None:
    session = brought_to(UP)
    session.handle(Received(theirs(UP, required_min_rx_us=50_000)), 0.0)
    session.handle(Change(Timers(desired_min_tx_us=100_000, required_min_rx_us=600_000)), 0.1)
    assert session.transmit_interval_us == 100_000
    assert session.detection_time_us == 1_800_000


def test_the_same_timers_again_are_no_change() -> None:
    session = brought_to(UP)
    assert session.handle(Change(Timers()), 0.1) == []


@pytest.mark.rfc(5880, "6.6")
def test_demand_mode_is_refused() -> None:
    session = brought_to(UP)
    session.handle(Received(replace(theirs(UP), demand=True)), 0.0)
    assert session.peer_demands
    packets = [packet for _, effect in play(session, 0.85) for packet in sent([effect])]
    assert len(packets) == 2
    assert not any(packet.demand for packet in packets)


@pytest.mark.rfc(5880, "6.8.16")
def test_an_end_on_purpose_is_told_until_the_peer_shows_that_it_heard() -> None:
    session = brought_to(UP)
    (told,) = sent(session.handle(Disable(), 1.0))
    assert (told.state, told.diagnostic) == (ADMIN_DOWN, ADMIN)
    effects = session.handle(Received(theirs(UP)), 1.1)  # On its way before the first arrived, or that one was lost.
    assert effects[0] == Ignored(Refusal.ADMIN_DOWN)
    assert [packet.state for packet in sent(effects)] == [ADMIN_DOWN]
    assert session.handle(Received(theirs(DOWN)), 1.2)[-1] == Ended()
    assert session.wake_at() is None
    assert session.handle(Received(theirs(DOWN)), 1.3) == [Ignored(Refusal.ADMIN_DOWN)]
    assert session.handle(Disable(), 1.4) == []


def test_a_peer_that_does_not_hear_is_told_three_times() -> None:
    session = brought_to(UP)
    session.handle(Disable(), 0.0)
    happened = play(session, 60.0)
    assert [at for at, effect in happened if isinstance(effect, Send)] == pytest.approx([1.0, 2.0])
    assert happened[-1][1] == Ended()


def test_a_session_without_a_peer_ends_without_a_word() -> None:
    for timers in (Timers(), Timers(passive=True)):
        effects = fresh(timers).handle(Disable(), 0.0)
        assert sent(effects) == []
        assert effects[-1] == Ended()


def test_two_sessions_find_each_other_whoever_begins() -> None:
    for passive in (False, True):
        one, two = Session(Timers(), 1, lambda: 0.5), Session(Timers(passive=passive), 2, lambda: 0.5)
        mail = [(one, effect) for effect in one.tick(0.0)] + [(two, effect) for effect in two.tick(0.0)]
        for _ in range(20):
            sender, effect = mail.pop(0) if mail else (one, None)
            if isinstance(effect, Send):
                reader = two if sender is one else one
                mail += [(reader, answer) for answer in reader.handle(Received(effect.packet), 0.0)]
        assert one.state is two.state is UP
        assert not mail
        assert one.transmit_interval_us == two.transmit_interval_us == 300_000
