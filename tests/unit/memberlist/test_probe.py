"""Probe rounds in virtual time: who is asked when, and what the answers do."""

import random
from typing import Any

import pytest

from memberlist.awareness import Awareness
from memberlist.broadcast import BroadcastQueue
from memberlist.config import lan
from memberlist.effects import Endpoint, Failure, Notify, Suspected
from memberlist.members import Members
from memberlist.messages import Ack, Alive, Dead, IndirectPing, Nack, Ping, State, Suspect
from memberlist.probe import PingByStream, ProbeEffect, Prober, Rotation, StreamOutcome, Transmit, pick

VSN = bytes([1, 5, 2, 0, 0, 0])
ME = bytes([192, 0, 2, 1])


def address(number: int) -> bytes:
    return bytes([192, 0, 2, 100 + number])


def where(number: int) -> Endpoint:
    return Endpoint.of(address(number), 7946)


def seeded(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311  (repeatable on purpose)


class Probing:
    """A prober named "me" among members m1, m2, ..."""

    def __init__(self, others: int, *, versions: bytes = VSN, start: bool = True, **settings: Any) -> None:
        config = lan("me", "192.0.2.1", **settings)
        self.queue = BroadcastQueue(bytes_max=1000)
        self.awareness = Awareness(config.awareness_max)
        self.members = Members(config, 7946, self.queue, self.awareness)
        for number in range(1, others + 1):
            self.members.alive(Alive(1, f"m{number}", address(number), 7946, b"", versions), 0.0)
        self.prober = Prober(config, self.members, self.awareness, seeded(5))
        if start:
            self.prober.start(0.0)

    def due(self) -> tuple[float, list[ProbeEffect]]:
        """Let the prober do what is due next; return when and what."""
        now = self.prober.wake_at()
        assert now is not None
        return now, self.prober.tick(now)

    def pinged(self) -> tuple[float, Ping]:
        """Wait for the next direct ping."""
        now, effects = self.due()
        (effect,) = effects
        assert isinstance(effect, Transmit)
        ping = effect.messages[0]
        assert isinstance(ping, Ping)
        return now, ping


def test_the_first_probe_comes_at_a_random_phase_and_then_one_every_interval() -> None:
    probing = Probing(1)
    times = []
    for _ in range(4):
        now, ping = probing.pinged()
        assert probing.prober.acked(ping.sequence, 0.0) == []
        times.append(now)
    assert 0 < times[0] < 1
    assert times == pytest.approx([times[0] + step for step in range(4)])
    assert probing.prober.answered == 4


def test_a_ping_names_its_target_and_where_the_ack_goes() -> None:
    probing = Probing(1)
    _, ping = probing.pinged()
    assert (ping.node, ping.source_address, ping.source_port, ping.source_node) == ("m1", ME, 7946, "me")
    assert probing.prober.round is not None
    assert probing.prober.round.endpoint == where(1)


def test_after_the_timeout_others_are_asked_and_a_stream_is_tried_under_the_same_number() -> None:
    probing = Probing(5)
    start, ping = probing.pinged()
    now, effects = probing.due()
    assert now == pytest.approx(start + 0.5)
    *requests, stream = effects
    assert len(requests) == 3
    helpers = set()
    for request in requests:
        assert isinstance(request, Transmit)
        target = probing.members.get(ping.node)
        assert target is not None
        assert request.messages == (
            IndirectPing(
                ping.sequence, target.address, 7946, ping.node, nack=True, source_address=ME, source_port=7946, source_node="me"
            ),
        )
        assert request.to != target.endpoint
        helpers.add(request.to)
    assert len(helpers) == 3
    assert isinstance(stream, PingByStream)
    assert stream.ping.sequence == ping.sequence
    assert stream.deadline == pytest.approx(start + 1.0)


def test_nobody_got_through_so_the_target_is_suspected_after_one_interval() -> None:
    probing = Probing(1)
    start, ping = probing.pinged()
    probing.due()
    now, effects = probing.due()
    assert now == pytest.approx(start + 1.0)
    suspected = effects[0]
    assert isinstance(suspected, Notify)
    assert isinstance(suspected.event, Suspected)
    assert (suspected.event.member.name, suspected.event.by) == (ping.node, "me")
    assert isinstance(effects[1], Transmit)  # The next probe starts at once.


@pytest.mark.parametrize("late_s", [0.4, 0.6, 0.9])
def test_an_ack_within_the_interval_is_success_direct_or_relayed(late_s: float) -> None:
    probing = Probing(2)
    probing.awareness.adjust(2)
    start, ping = probing.pinged()
    probing.prober.tick(start + late_s)
    probing.prober.acked(ping.sequence, 0.0)
    assert probing.prober.round is None
    assert probing.awareness.score == 1
    assert probing.prober.tick(start + 0.99) == []


def test_an_ack_of_another_number_is_nobodys() -> None:
    probing = Probing(1)
    _, ping = probing.pinged()
    assert probing.prober.acked(ping.sequence + 1, 0.0) == []
    assert probing.prober.round is not None


def test_an_answer_over_the_stream_counts_when_the_round_ends() -> None:
    probing = Probing(1)
    start, ping = probing.pinged()
    probing.due()
    probing.prober.stream_connected(ping.sequence)
    probing.prober.stream_answered(ping.sequence)
    assert probing.prober.round is not None
    effects = probing.prober.tick(start + 1.0)
    assert not any(isinstance(effect, Notify) for effect in effects)
    record = probing.members.get("m1")
    assert record is not None
    assert record.state is State.ALIVE


@pytest.mark.parametrize(
    ("failure", "outcome"),
    [(Failure.REFUSED, StreamOutcome.REFUSED), (Failure.TIMED_OUT, StreamOutcome.SILENT), (None, StreamOutcome.SILENT)],
)
def test_a_failed_stream_is_no_answer_and_its_kind_is_kept(failure: Failure | None, outcome: StreamOutcome) -> None:
    probing = Probing(1)
    _, ping = probing.pinged()
    probing.due()
    probing.prober.stream_failed(ping.sequence, failure)
    probing.prober.stream_answered(ping.sequence + 1)
    assert probing.prober.round is not None
    assert probing.prober.round.stream is outcome


def test_streams_are_not_tried_where_they_are_off_or_not_understood() -> None:
    for probing in (Probing(1, stream_pings=False), Probing(1, versions=bytes([1, 2, 2, 0, 0, 0]))):
        probing.pinged()
        assert probing.due()[1] == []


def test_nacks_are_expected_only_from_members_that_send_them() -> None:
    probing = Probing(3, versions=bytes([1, 3, 2, 0, 0, 0]))
    start, _ = probing.pinged()
    _, effects = probing.due()
    requests = [effect.messages[0] for effect in effects if isinstance(effect, Transmit)]
    assert [isinstance(request, IndirectPing) and request.nack for request in requests] == [False, False]
    probing.prober.tick(start + 1.0)
    assert probing.awareness.score == 1


@pytest.mark.parametrize(("nacks", "score"), [(0, 3), (1, 2), (3, 0)])
def test_missing_nacks_are_held_against_this_member_itself(nacks: int, score: int) -> None:
    probing = Probing(5)
    start, ping = probing.pinged()
    probing.due()
    probing.prober.nacked(ping.sequence + 1)
    for _ in range(nacks):
        probing.prober.nacked(ping.sequence)
    probing.prober.tick(start + 1.0)
    assert probing.awareness.score == score


def test_a_member_in_bad_health_takes_longer_and_drops_the_ticks_it_missed() -> None:
    probing = Probing(1)
    probing.awareness.adjust(2)
    start, ping = probing.pinged()
    assert probing.prober.round is not None
    assert probing.prober.round.deadline == pytest.approx(start + 3.0)
    probing.due()
    probing.prober.acked(ping.sequence, 0.0)
    again, ping = probing.pinged()
    assert again == pytest.approx(start + 1.0)
    probing.prober.tick(again + 0.5)
    now, _ = probing.due()
    assert now == pytest.approx(again + 2.0)  # Awareness went down by one.
    second = probing.prober.round
    assert second is not None
    probing.prober.acked(second.sequence, 0.0)
    later, _ = probing.pinged()
    assert later == pytest.approx(again + 3.0)


def test_a_ping_that_cannot_be_sent_is_not_waited_for() -> None:
    probing = Probing(2)
    start, ping = probing.pinged()
    assert probing.prober.round is not None
    probing.prober.refused(where(9), start + 0.1)
    assert probing.prober.wake_at() == pytest.approx(start + 0.5)
    probing.prober.refused(probing.prober.round.endpoint, start + 0.1)
    now, effects = probing.due()
    assert now == pytest.approx(start + 0.1)
    assert any(isinstance(effect, PingByStream) and effect.ping.sequence == ping.sequence for effect in effects)
    probing.prober.refused(probing.prober.round.endpoint, start + 0.2)
    assert probing.prober.wake_at() == pytest.approx(start + 1.0)


def test_a_suspect_hears_with_the_ping_that_it_is_suspected() -> None:
    probing = Probing(1)
    probing.members.suspect(Suspect(1, "m1", "m2"), 0.0)
    _, effects = probing.due()
    (effect,) = effects
    assert isinstance(effect, Transmit)
    assert effect.messages[1] == Suspect(1, "m1", "me")
    assert (effect.piggyback, effect.checksum) == (False, True)


def test_a_target_that_is_gone_meanwhile_is_left_alone() -> None:
    probing = Probing(1)
    start, _ = probing.pinged()
    probing.members.dead(Dead(1, "m1", "m2"), start)
    probing.members.forget_the_dead(start + 100)
    assert probing.prober.tick(start + 0.5) == []
    assert probing.prober.tick(start + 1.0) == []


def test_alone_there_is_nobody_to_probe() -> None:
    probing = Probing(0)
    assert probing.due()[1] == []
    assert probing.prober.round is None


def test_probing_can_be_off() -> None:
    probing = Probing(1, probe_interval_s=0.0)
    assert probing.prober.wake_at() is None


def test_every_member_is_probed_once_in_a_round_and_nobody_who_is_gone() -> None:
    probing = Probing(5)
    probing.members.dead(Dead(1, "m2", "x"), 0.0)
    probing.members.dead(Dead(1, "m4", "m4"), 0.0)
    rotation = Rotation(probing.members, seeded(1))
    for _ in range(4):
        turn = [record.name for record in (rotation.next(1.0) for _ in range(3)) if record is not None]
        assert sorted(turn) == ["m1", "m3", "m5"]


def test_every_round_has_its_own_order() -> None:
    probing = Probing(8)
    rotation = Rotation(probing.members, seeded(1))
    rounds = [tuple(record.name for record in (rotation.next(0.0) for _ in range(8)) if record is not None) for _ in range(4)]
    assert len(set(rounds)) == 4


def test_a_new_member_takes_a_place_in_the_running_round_without_disturbing_it() -> None:
    for seed in range(20):
        probing = Probing(6)
        rotation = Rotation(probing.members, seeded(seed))
        first = [rotation.next(0.0) for _ in range(3)]
        probing.members.alive(Alive(1, "m7", address(7), 7946, b"", VSN), 0.0)
        rest = [rotation.next(0.0) for _ in range(3)]
        names = [record.name for record in first + rest if record is not None]
        assert len(set(names)) == 6


def test_the_dead_are_forgotten_at_the_end_of_a_round() -> None:
    probing = Probing(2)
    rotation = Rotation(probing.members, seeded(1))
    probing.members.dead(Dead(1, "m1", "x"), 0.0)
    for _ in range(3):
        rotation.next(100.0)
    assert probing.members.get("m1") is None
    assert rotation.next(100.0) is probing.members.get("m2")


def test_helpers_are_different_wanted_and_never_more_than_there_are() -> None:
    probing = Probing(4)
    chosen = pick(seeded(1), probing.members, 10, lambda record: record.name != "me")
    assert sorted(record.name for record in chosen) == ["m1", "m2", "m3", "m4"]
    assert pick(seeded(1), probing.members, 0, lambda _: True) == []


# the other side


def test_a_ping_is_answered_by_whom_it_is_meant_for() -> None:
    prober = Probing(0).prober
    assert prober.pinged(Ping(7, "me"), where(1)) == [Transmit(where(1), (Ack(7),))]
    assert prober.pinged(Ping(7, ""), where(1)) == [Transmit(where(1), (Ack(7),))]
    assert prober.pinged(Ping(7, "you"), where(1)) == []


def ask(probing: Probing, *, nack: bool = True, port: int = 7946) -> Ping:
    (effect,) = probing.prober.asked_to_ping(IndirectPing(300, address(2), port, "m2", nack=nack), where(1), 10.0)
    assert isinstance(effect, Transmit)
    assert effect.to == where(2)
    (ping,) = effect.messages
    assert isinstance(ping, Ping)
    return ping


def test_a_relay_pings_under_its_own_number_and_passes_the_ack_on_under_the_askers() -> None:
    probing = Probing(2, start=False)
    ping = ask(probing, port=0)
    assert ping.sequence != 300
    assert (ping.node, ping.source_address) == ("m2", ME)
    assert probing.prober.acked(ping.sequence, 0.0) == [Transmit(where(1), (Ack(300),))]
    assert probing.prober.acked(ping.sequence, 0.0) == []
    assert probing.prober.wake_at() is None


def test_a_relay_says_in_time_that_it_got_no_answer_and_still_passes_a_late_one_on() -> None:
    probing = Probing(2, start=False)
    ping = ask(probing)
    now, effects = probing.due()
    assert now == pytest.approx(10.4)  # 0.8 of the timeout, so that the asker, who waits as long again, still hears it.
    assert effects == [Transmit(where(1), (Nack(300),))]
    assert probing.prober.acked(ping.sequence, 0.0) == [Transmit(where(1), (Ack(300),))]


def test_a_relay_that_is_not_asked_for_a_nack_sends_none_and_forgets() -> None:
    probing = Probing(2, start=False)
    ping = ask(probing, nack=False)
    now, effects = probing.due()
    assert now == pytest.approx(10.5)
    assert effects == []
    assert probing.prober.acked(ping.sequence, 0.0) == []
    assert probing.prober.wake_at() is None


def test_a_flood_of_requests_is_bounded() -> None:
    probing = Probing(2, start=False)
    request = IndirectPing(1, address(2), 7946, "m2", nack=True)
    sent = sum(len(probing.prober.asked_to_ping(request, where(1), 0.0)) for _ in range(2000))
    assert sent == 1024
