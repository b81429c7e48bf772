"""The whole machine with measures on: who is told what at once, who is asked, and how company and own stalls change it."""

from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest

from memberlist import packet, streams, wire
from memberlist.config import lan
from memberlist.core import Core
from memberlist.effects import (
    BroadcastMessage,
    CheckLiveness,
    CloseStream,
    Effect,
    Endpoint,
    Input,
    Isolated,
    Liveness,
    LivenessChecked,
    MessageReceived,
    Notify,
    OpenStream,
    PacketReceived,
    PingCompleted,
    ProfileChanged,
    Refuted,
    Rejected,
    SendMessage,
    SendPacket,
    SendReliably,
    SetUserState,
    StreamAccepted,
    StreamConnected,
    StreamReceived,
    Suspected,
    UpdateMeta,
    UserStateReceived,
)
from memberlist.errors import ConfigError
from memberlist.keyring import Keyring
from memberlist.marker import marked
from memberlist.members import Vetoes
from memberlist.messages import Ack, Alive, Dead, IndirectPing, Message, NodeState, Ping, PushPull, State, Suspect, UserMessage
from memberlist.packet import Envelope
from memberlist.probe import Reason, Round
from memberlist.profiles import PROFILES, configured
from memberlist.watch import successors
from tests.unit.memberlist.test_core import KEY, STRANGER, VSN, seeded


def at(number: int) -> Endpoint:
    return Endpoint.of(f"192.0.2.{100 + number}", 7946)


def alive(number: int, incarnation: int = 1, *, profile: str = "subsecond", meta: bytes = b"") -> Alive:
    return Alive(incarnation, f"m{number}", at(number).address.packed, 7946, marked(profile, meta), VSN)


class Ours:
    """A core named "me" among members m0, m1, ... whose kernels and processes say only what a test makes them say."""

    def __init__(
        self,
        others: int,
        profile: str = "subsecond",
        *,
        keyring: Keyring | None = None,
        vetoes: Vetoes | None = None,
        seed: int = 3,
        **settings: Any,
    ) -> None:
        config = configured(profile, "me", "192.0.2.1", **settings) if profile else lan("me", "192.0.2.1", **settings)
        self.config = config
        self.envelope = Envelope(b"", keyring, padded=config.protocol_version == 1)
        chance = seeded(seed)
        self.core = Core(
            config, 7946, keyring=keyring, chance=chance, nonces=lambda: chance.randbytes(12), vetoes=vetoes or Vetoes()
        )
        self.core.start(0.0)
        self.now = 0.0
        for number in range(others):
            self.hear(alive(number))
        self.core.wake_at()

    def take(self, event: Input) -> list[Effect]:
        effects = self.core.handle(event, self.now)
        self.core.wake_at()
        return effects

    def hear(self, *messages: Message, source: Endpoint | None = None) -> list[Effect]:
        data = packet.make_compound([wire.encode(message) for message in messages])
        sealed = packet.seal_packet(data, self.envelope, lambda: bytes(12), checksum=False)
        return self.take(PacketReceived(source or at(0), sealed))

    def until(self, limit: float) -> list[Effect]:
        """Serve every timer in time until then."""
        effects: list[Effect] = []
        while (due := self.core.wake_at()) is not None and due <= limit:
            self.now = max(self.now, due)
            effects += self.core.tick(self.now)
        self.now = limit
        return effects

    def until_probe(self) -> tuple[Round, list[Effect]]:
        """Let time pass until the next probe in turn begins."""
        effects: list[Effect] = []
        while (current := self.core._prober.round) is None:
            effects += self.until(self.now + 0.001)
        return current, effects

    def said(self, effects: list[Effect]) -> list[tuple[Endpoint, Message]]:
        """What is sent in packets, message by message."""
        found = []
        for effect in effects:
            if isinstance(effect, SendPacket):
                opened = packet.open_packet(effect.data, self.envelope)
                found += [(effect.to, wire.decode(data)) for data in opened.messages]
        return found


def events(effects: list[Effect], *kinds: type) -> list[object]:
    return [effect.event for effect in effects if isinstance(effect, Notify) and isinstance(effect.event, kinds)]


# what is told at once


def test_a_refutation_goes_to_everybody_at_once() -> None:
    ours = Ours(4)
    effects = ours.hear(Suspect(1, "me", "m2"))
    told = {to for to, message in ours.said(effects) if isinstance(message, Alive) and message.node == "me"}
    assert told == {at(number) for number in range(4)}


def test_an_accuser_that_missed_the_refutation_is_told_again_but_not_in_a_flood() -> None:
    ours = Ours(4)
    ours.hear(Suspect(1, "me", "m2"))
    ours.now += 1.0
    (told,) = [to for to, message in ours.said(ours.hear(Suspect(1, "me", "m2"))) if isinstance(message, Alive)]
    assert told == at(2)
    assert ours.hear(Suspect(1, "me", "m2")) == []
    ours.now += 0.06
    assert ours.hear(Dead(1, "me", "m2")) != []
    assert ours.hear(Suspect(1, "me", "nobody")) == []


def test_made_up_accusations_do_not_multiply_into_packets() -> None:
    ours = Ours(4)
    sent = sum(len(ours.said(ours.hear(Suspect(incarnation, "me", "m1")))) for incarnation in range(1, 200))
    assert sent <= 4 + 200


def test_above_a_hundred_members_only_the_accuser_is_told_at_once() -> None:
    ours = Ours(105)
    effects = ours.hear(Suspect(1, "me", "m2"))
    assert [to for to, message in ours.said(effects) if isinstance(message, Alive)] == [at(2)]


def test_the_plain_algorithm_tells_by_gossip_only() -> None:
    assert Ours(4, "").hear(Suspect(1, "me", "m2")) == []


def test_own_suspicions_and_deaths_go_to_everybody_and_to_whom_they_are_about() -> None:
    ours = Ours(2, probe_interval_s=0.1)
    everything = ours.until(0.4)
    suspicions = [(to, message) for to, message in ours.said(everything) if isinstance(message, Suspect)]
    victim = suspicions[0][1]
    assert isinstance(victim, Suspect)
    assert {to for to, message in suspicions if message == victim} == {at(0), at(1)}
    everything = ours.until(3.0)
    deaths = [(to, message) for to, message in ours.said(everything) if isinstance(message, Dead) and message.accuser == "me"]
    assert {to for to, message in deaths if message.node == victim.node} == {at(0), at(1)}


# who is asked


def test_a_rumour_makes_a_small_ring_ask_the_suspect_itself() -> None:
    ours = Ours(4)
    effects = ours.hear(Suspect(1, "m1", "m2"))
    pings = [message for to, message in ours.said(effects) if to == at(1) and isinstance(message, Ping)]
    assert [ping.node for ping in pings] == ["m1"]
    assert "m1" in ours.core._prober.probing
    assert not [1 for _, message in ours.said(ours.hear(Suspect(1, "m1", "m3"))) if isinstance(message, Ping)]


def test_in_a_ring_of_a_hundred_about_five_ask() -> None:
    asking = sum("m1" in _asked_after_rumour(seed) for seed in range(100))
    assert 1 <= asking <= 12


def _asked_after_rumour(seed: int) -> tuple[str, ...]:
    ours = Ours(99, seed=seed)
    ours.hear(Suspect(1, "m1", "m2"))
    return ours.core._prober.probing


def test_every_accusation_that_leaves_more_to_be_wished_for_is_another_chance_to_ask() -> None:
    asking = 0
    for seed in range(100):
        ours = Ours(99, seed=seed)
        ours.hear(Suspect(1, "m1", "m2"))
        ours.core._prober._rounds = [one for one in ours.core._prober._rounds if one.reason is not Reason.RUMOUR]
        ours.hear(Suspect(1, "m1", "m2"))
        assert ours.core._prober.probing == ()
        ours.hear(Suspect(1, "m1", "m3"))
        asking += "m1" in ours.core._prober.probing
        ours.core._prober._rounds.clear()
        ours.hear(Suspect(1, "m1", "m4"))
        assert ours.core._prober.probing == ()
    assert 1 <= asking <= 12


def test_a_suspect_that_is_heard_is_asked_again_and_not_declared() -> None:
    ours = Ours(4)
    ours.hear(Suspect(1, "m1", "m2"))
    ours.hear(Suspect(1, "m1", "m3"))
    ours.hear(Suspect(1, "m1", "m0"))
    ours.core._prober._rounds.clear()
    effects = ours.hear(Ping(9, "me"), source=at(1))
    accusations = [message for to, message in ours.said(effects) if isinstance(message, Suspect) and to == at(1)]
    assert Suspect(1, "m1", "me") in accusations
    suspicion = ours.core.members.suspects()[0].suspicion
    assert suspicion is not None
    assert suspicion.deadline >= ours.now + 0.1


def test_a_second_ping_goes_out_at_half_the_timeout_and_either_answer_counts() -> None:
    ours = Ours(1)
    begun, effects = ours.until_probe()
    ((_, first),) = [pair for pair in ours.said(effects) if isinstance(pair[1], Ping)]
    ((_, second),) = [pair for pair in ours.said(ours.until(begun.started + 0.021)) if isinstance(pair[1], Ping)]
    assert isinstance(first, Ping)
    assert isinstance(second, Ping)
    assert second.sequence != first.sequence
    ours.hear(Ack(second.sequence))
    assert ours.core.probes_answered == 1
    assert ours.core._prober.loss._seconds[-1][1:] == (1, 1)


def test_the_timeout_follows_the_round_trip_of_each_member() -> None:
    ours = Ours(1)
    for _ in range(8):
        current, _ = ours.until_probe()
        ours.hear(Ack(current.sequence))
    current, _ = ours.until_probe()
    assert current.escalate_at == pytest.approx(current.started + 0.02)


def test_a_watcher_asks_its_successors_every_tenth_of_a_second() -> None:
    ours = Ours(9, "ring")
    pings: list[str] = []
    for _ in range(100):
        for _, message in ours.said(ours.until(ours.now + 0.01)):
            if isinstance(message, Ping) and message.source_node == "me":
                pings.append(message.node)
                ours.hear(Ack(message.sequence))
    watched = {name for name in pings if pings.count(name) >= 9}
    assert len(watched) == 3
    assert len(pings) == pytest.approx(31, abs=2)


def test_a_miss_of_a_watcher_is_judged_after_a_hundred_and_forty_milliseconds() -> None:
    ours = Ours(3, "ring")
    while not (rounds := [one for one in ours.core._prober._rounds if one.reason is Reason.WATCHED]):
        ours.until(ours.now + 0.01)
    first = rounds[0]
    assert (first.retry_at, first.escalate_at, first.deadline) == pytest.approx(
        (first.started + 0.04, first.started + 0.08, first.started + 0.14)
    )
    assert first.target in {e.member.name for e in events(ours.until(first.deadline), Suspected)}  # type: ignore[attr-defined]


def test_every_second_turn_goes_to_the_successor() -> None:
    ours = Ours(20)
    targets: list[str] = []
    for _ in range(40):
        current, _ = ours.until_probe()
        targets.append(current.target)
        ours.hear(Ack(current.sequence))
    successor = successors("me", [f"m{number}" for number in range(20)], 1)[0]
    assert targets[::2] == [successor] * 20
    assert len(set(targets[1::2])) == 20


# who is there no more


def test_a_kernel_is_asked_before_a_declaration_and_its_answer_saves_the_member() -> None:
    ours = Ours(2)
    effects = ours.until(1.0)
    checks = [effect for effect in effects if isinstance(effect, CheckLiveness)]
    assert {check.to for check in checks} <= {at(0), at(1)}
    ours = Ours(2)
    for _ in range(150):
        for effect in ours.until(ours.now + 0.02):
            if isinstance(effect, CheckLiveness):
                ours.take(LivenessChecked(effect.check, Liveness.ANSWERED))
    assert len(ours.core.members.usable()) == 3
    assert ours.core.members.suspects()


def test_an_answer_to_a_check_that_nobody_asked_for_is_nothing() -> None:
    assert Ours(2).take(LivenessChecked(99, Liveness.SILENT)) == []


def test_a_round_that_overlapped_a_stall_of_this_process_proves_nothing() -> None:
    ours = Ours(1)
    ours.until_probe()
    due = ours.core.wake_at()
    assert due is not None
    ours.now = due + 2.0
    effects = ours.core.tick(ours.now)
    assert events(effects, Suspected) == []
    assert ours.core.probes_voided == 1
    assert ours.core.lag.longest_s == pytest.approx(2.0)
    assert ours.core.health == 1


def test_after_a_stall_suspects_are_not_declared_before_they_could_be_heard() -> None:
    ours = Ours(2)
    for number, accuser in ((0, "m1"), (1, "m0")):
        ours.hear(Suspect(1, f"m{number}", accuser))
    ours.now = 9.0
    effects = ours.core.tick(ours.now)
    assert not [message for _, message in ours.said(effects) if isinstance(message, Dead)]
    assert [e.member.name for e in events(ours.hear(alive(0, 2), alive(1, 2)), Refuted)] == ["m0", "m1"]  # type: ignore[attr-defined]


def test_a_target_that_spoke_while_it_was_asked_is_not_accused() -> None:
    ours = Ours(1)
    current, _ = ours.until_probe()
    ours.hear(alive(0, 7), source=STRANGER)
    assert events(ours.until(current.deadline), Suspected) == []


def test_losing_more_than_half_at_once_is_said_to_be_isolation() -> None:
    ours = Ours(4)
    assert events(ours.hear(Dead(1, "m1", "m0"), Dead(1, "m2", "m0")), Isolated) == []
    assert events(ours.hear(Dead(1, "m3", "m0")), Isolated) == [Isolated(3, 5)]
    assert ours.core.isolation.active
    ours.hear(alive(3, 2))
    assert not ours.core.isolation.active


def test_losing_the_only_other_member_is_not_isolation() -> None:
    assert events(Ours(1).hear(Dead(1, "m0", "m0x")), Isolated) == []


# company


def test_a_member_without_the_mark_slows_the_ring_down_until_it_is_gone() -> None:
    ours = Ours(2)
    assert ours.core.profile == "subsecond"
    effects = ours.hear(alive(9, profile=""))
    assert events(effects, ProfileChanged) == [ProfileChanged("balanced", "subsecond", "m9 is not of this package")]
    assert ours.core._config == replace(PROFILES["balanced"].applied(ours.config), profile="subsecond")
    assert events(ours.hear(Suspect(1, "m9", "m1")), ProfileChanged) == []
    effects = ours.hear(Dead(1, "m9", "m9"))
    assert events(effects, ProfileChanged) == [ProfileChanged("subsecond", "subsecond", "all members are of this package")]
    assert ours.core._config == ours.config


@pytest.mark.parametrize("profile", ["compat", "balanced"])
def test_profiles_that_suit_foreign_members_do_not_change(profile: str) -> None:
    ours = Ours(2, profile)
    assert events(ours.hear(alive(9, profile="")), ProfileChanged) == []
    assert ours.core.profile == profile


def test_numbers_of_ones_own_never_change_and_carry_no_mark() -> None:
    ours = Ours(2, "")
    ours.hear(alive(9, profile=""))
    assert (ours.core.profile, ours.core.members.own.meta) == ("", b"")
    assert ours.core._config == ours.config


def test_the_mark_is_hidden_from_the_application_and_told_to_the_others() -> None:
    ours = Ours(1, "ring", meta=b"mine")
    ours.take(UpdateMeta(b"other"))
    own, m0 = (next(one for one in ours.core.members.usable() if one.name == name) for name in ("me", "m0"))
    assert (own.profile, own.meta, m0.profile, m0.meta) == ("ring", b"other", "subsecond", b"")
    assert ours.core.members.own_alive().meta == b"mlpy1 ring;other"


def test_a_lossy_network_slows_the_member_down() -> None:
    ours = Ours(3)
    said: list[object] = []
    lost = 0
    while ours.now < 60.0 and not said:
        for to, message in ours.said(effects := ours.until(ours.now + 0.01)):
            if isinstance(message, Ping) and message.source_node == "me":
                lost += 1
                if lost % 4 and to != at(9):
                    said += events(ours.hear(Ack(message.sequence), source=to), ProfileChanged)
        said += events(effects, ProfileChanged)
    assert said == [ProfileChanged("balanced", "subsecond", "more than 12 % of the first pings went unanswered over 30 s")]
    assert ours.now >= 30.0


# strangers


def test_a_stranger_gets_no_more_bytes_than_it_sent() -> None:
    ours = Ours(0)
    ours.core.handle(SetUserState(ack_payload=b"p" * 300), 0.0)
    assert ours.hear(Ping(1, "me", b"", 0, "stranger"), source=STRANGER) == []
    assert ours.core.rejections["Reflection"] == 1
    ours.core.handle(SetUserState(), 0.0)
    request = packet.make_compound([wire.encode(Ping(number, "")) for number in range(200)])
    answers = ours.take(PacketReceived(STRANGER, request))
    assert sum(len(answer.data) for answer in answers if isinstance(answer, SendPacket)) <= len(request)


def test_a_stranger_is_not_pinged_for() -> None:
    ours = Ours(2)
    request = IndirectPing(1, at(1).address.packed, 7946, "m1", nack=True)
    assert ours.hear(request, source=STRANGER) == []
    assert ours.core.rejections["Relay"] == 1
    assert ours.hear(request, source=at(0)) != []


def test_a_flood_of_a_stranger_is_dropped_unread_and_members_are_still_heard() -> None:
    ours = Ours(2)
    for _ in range(300):
        ours.hear(Ping(1, "you"), source=STRANGER)
    assert ours.core.rejections["RateLimited"] == 100
    assert ours.hear(Ping(1, "me"), source=at(1)) != []
    ours.now += 1.0
    ours.hear(Ping(1, "you"), source=STRANGER)
    assert ours.core.rejections["RateLimited"] == 100


def test_with_a_key_only_what_it_does_not_open_is_limited() -> None:
    ours = Ours(2, keyring=Keyring(KEY))
    for _ in range(300):
        ours.hear(Ping(1, "you"), source=STRANGER)
    assert ours.core.rejections == {}
    for _ in range(300):
        ours.take(PacketReceived(STRANGER, b"\x01" + bytes(60)))
    assert ours.core.rejections["AuthError"] == 200
    assert ours.core.rejections["RateLimited"] == 100
    for _ in range(300):
        ours.take(PacketReceived(at(1), b"\x01" + bytes(60)))
    assert ours.core.rejections["AuthError"] == 500


def test_an_address_may_have_sixteen_streams_open() -> None:
    ours = Ours(2)
    refused = [
        effect
        for number in range(1, 20)
        for effect in ours.take(StreamAccepted(number, STRANGER))
        if isinstance(effect, CloseStream)
    ]
    assert refused == [CloseStream(17), CloseStream(18), CloseStream(19)]
    assert ours.core.rejections["Busy"] == 3


def test_one_member_sends_one_table_at_a_time() -> None:
    ours = Ours(2)
    rows = tuple(NodeState(f"n{number}", bytes([10, 0, 0, number]), 7946, b"", 1, State.ALIVE, VSN) for number in range(200))
    data = streams.dial(streams.encode(PushPull(rows)), ours.envelope, lambda: bytes(12))
    half = len(data) // 2
    assert half > 4096
    for number in (1, 2):
        ours.take(StreamAccepted(number, at(0)))
    assert ours.take(StreamReceived(1, data[:half])) == []
    refused = ours.take(StreamReceived(2, data[:half]))
    assert refused[0] == CloseStream(2)
    assert [type(event) for event in events(refused, Rejected)] == [Rejected]
    assert ours.take(StreamReceived(1, data[half:])) != []


def test_a_member_is_asked_for_its_table_once_at_a_time() -> None:
    ours = Ours(1)
    assert len(ours.core._exchanges.push_pull(at(0), 0.0)) == 1
    assert ours.core._exchanges.push_pull(at(0), 0.0) == []


def test_what_is_not_believed_is_counted_by_kind() -> None:
    ours = Ours(1, allowed_networks=(), vetoes=Vetoes(alive=lambda member: "no" if member.name == "m2" else None))
    assert ours.core.members.usable()[0].name == "me"
    ours.hear(Alive(1, "short", b"\x01", 1, b"", VSN))
    assert ours.core.refusals() == {"Statement (network)": 1, "Statement (malformed)": 1}


# what the application has a say in


def test_members_that_the_application_will_not_have_are_not_let_in() -> None:
    ours = Ours(1, vetoes=Vetoes(alive=lambda member: "not that one" if member.name == "m5" else None))
    ours.hear(alive(5), alive(6))
    assert [one.name for one in ours.core.members.usable()] == ["m0", "m6", "me"]
    assert ours.core.refusals() == {"Statement (veto)": 1}


def test_a_join_that_the_application_will_not_have_is_answered_and_not_merged() -> None:
    seen: list[str] = []

    def veto(members: tuple[Any, ...]) -> str:
        seen.extend(f"{one.name} {one.profile} {one.meta!r}" for one in members)
        return "no strangers here"

    ours = Ours(0, vetoes=Vetoes(merge=veto))
    row = NodeState("x", at(7).address.packed, 7946, marked("ring", b"m"), 1, State.ALIVE, VSN)
    unreadable = NodeState("y", b"", 7946, b"", 1, State.ALIVE, VSN)
    for join in (True, False):
        data = streams.dial(streams.encode(PushPull((row, unreadable), join=join)), ours.envelope, lambda: bytes(12))
        ours.take(StreamAccepted(1, at(7)))
        effects = ours.take(StreamReceived(1, data))
        assert len(ours.core.members) == (1 if join else 2)
        if join:
            assert [event.reason for event in events(effects, Rejected)] == ["Exchange: no strangers here"]  # type: ignore[attr-defined]
    assert seen == ["x ring b'm'"]


def test_only_members_in_the_allowed_networks_are_let_in() -> None:
    ours = Ours(0, allowed_networks=(ip_network("192.0.2.0/24"),))
    ours.hear(alive(1), Alive(1, "far", bytes([203, 0, 113, 1]), 7946, b"", VSN))
    assert [one.name for one in ours.core.members.usable()] == ["m1", "me"]


def test_messages_of_the_application_go_by_packet_stream_or_gossip() -> None:
    ours = Ours(2)
    assert ours.said(ours.take(SendMessage(at(1), b"hello"))) == [(at(1), UserMessage(b"hello"))]
    opened, *_ = ours.take(SendReliably(at(1), b"for sure"))
    assert isinstance(opened, OpenStream)
    reader = streams.StreamReader(ours.envelope, from_dialer=True, bytes_max=1 << 20, nodes_max=10)
    assert reader.feed(opened.data) == UserMessage(b"for sure")
    assert ours.take(StreamConnected(opened.stream)) == [CloseStream(opened.stream)]
    ours.take(BroadcastMessage(b"to all"))
    told = [to for to, message in ours.said(ours.until(1.0)) if message == UserMessage(b"to all")]
    assert len(told) == 4
    assert set(told) == {at(0), at(1)}


def test_messages_that_wait_are_bounded_and_too_long_ones_are_dropped() -> None:
    ours = Ours(2)
    for number in range(1000):
        ours.take(BroadcastMessage(b"%d" % number))
    ours.take(BroadcastMessage(bytes(2000)))
    assert len(ours.core._outbox._messages) == 256


def test_messages_and_states_of_others_reach_the_application() -> None:
    ours = Ours(2)
    assert events(ours.hear(UserMessage(b"hello"), source=at(1)), MessageReceived) == [MessageReceived(at(1), b"hello")]
    ours.take(SetUserState(b"mine"))
    ours.take(StreamAccepted(1, at(0)))
    data = streams.dial(streams.encode(PushPull((), join=True, user_state=b"theirs")), ours.envelope, lambda: bytes(12))
    effects = ours.take(StreamReceived(1, data))
    assert events(effects, UserStateReceived) == [UserStateReceived(at(0), b"theirs", join=True)]
    reader = streams.StreamReader(ours.envelope, from_dialer=False, bytes_max=1 << 20, nodes_max=10)
    answer = reader.feed(effects[0].data)  # type: ignore[union-attr]  # bytes on a stream
    assert isinstance(answer, PushPull)
    assert (answer.user_state, answer.join) == (b"mine", True)


def test_round_trips_and_payloads_are_reported_where_they_are_wanted() -> None:
    ours = Ours(1, report_pings=True)
    current, _ = ours.until_probe()
    ours.now = current.started + 0.003
    (completed,) = events(ours.hear(Ack(current.sequence, b"coordinates")), PingCompleted)
    assert isinstance(completed, PingCompleted)
    assert (completed.member.name, completed.payload) == ("m0", b"coordinates")
    assert completed.round_trip_s == pytest.approx(0.003)
    ours.take(SetUserState(ack_payload=b"here"))
    assert (at(0), Ack(5, b"here")) in ours.said(ours.hear(Ping(5, "me")))


# keys and versions


def test_keys_are_changed_while_the_member_runs() -> None:
    old, new = b"o" * 32, b"n" * 16
    keyring = Keyring(old)
    ours = Ours(1, keyring=keyring)
    foreign = Envelope(b"", Keyring(new))
    ping = packet.seal_packet(wire.encode(Ping(1, "me")), foreign, lambda: bytes(12), checksum=False)
    assert not ours.said(ours.take(PacketReceived(at(0), ping)))
    keyring.add(new)
    assert ours.said(ours.take(PacketReceived(at(0), ping)))
    keyring.use(new)
    keyring.remove(old)
    (answer,) = [effect for effect in ours.take(PacketReceived(at(0), ping)) if isinstance(effect, SendPacket)]
    assert packet.open_packet(answer.data, foreign).messages


def test_protocol_one_seals_in_the_padded_form_and_takes_its_own_port_for_everybodys() -> None:
    ours = Ours(0, "", keyring=Keyring(KEY), protocol_version=1, bind_port=7000)
    ours.hear(Alive(1, "x", at(1).address.packed, 9999, b"", VSN))
    assert ours.core.members.usable()[1].port == 7000
    (answer,) = [effect for effect in ours.hear(Ping(1, "me")) if isinstance(effect, SendPacket)]
    assert answer.data[0] == 0
    assert ours.core.members.own.versions[:3] == bytes([1, 5, 1])
    framed = streams.frame(streams.encode(Ack(1)), ours.envelope, lambda: bytes(12))
    reader = streams.StreamReader(ours.envelope, from_dialer=False, bytes_max=1 << 20, nodes_max=10)
    assert reader.feed(framed) == Ack(1)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"protocol_version": 0}, "speaks 1 to 5"),
        ({"protocol_version": 6}, "speaks 1 to 5"),
        ({"delegate_versions": (2, 5, 6)}, "must lie in the range"),
        ({"delegate_versions": (3, 2, 2)}, "must lie in the range"),
    ],
)
def test_versions_that_cannot_be_are_refused(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        lan("me", "192.0.2.1", **settings)
