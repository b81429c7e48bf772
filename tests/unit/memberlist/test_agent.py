"""Real sockets on loopback. No timing is asserted; every wait is for a condition, with a deadline."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest

from memberlist import wire
from memberlist.agent import Agent
from memberlist.config import Config, lan
from memberlist.effects import (
    Cause,
    Endpoint,
    Failure,
    Joined,
    Left,
    Liveness,
    LivenessChecked,
    MemberEvent,
    MessageReceived,
    PacketRefused,
    ProfileChanged,
    Rejected,
    StreamEnded,
    Suspected,
    Updated,
    UserStateReceived,
)
from memberlist.errors import ConfigError
from memberlist.keyring import Keyring
from memberlist.messages import Ping
from memberlist.profiles import configured
from memberlist.transport import Transport

KEY = b"k" * 32
# A ring that finds out in a second what the presets find out in five.
FAST = lan("any", "127.0.0.1", 0, probe_interval_s=0.2, probe_timeout_s=0.09, gossip_interval_s=0.05, stream_timeout_s=2.0)


@dataclass
class Ours:
    agent: Agent
    events: list[MemberEvent] = field(default_factory=list)

    @property
    def address(self) -> tuple[str, int]:
        return str(self.agent.endpoint.address), self.agent.endpoint.port

    def names(self) -> list[str]:
        return [member.name for member in self.agent.members()]

    def saw(self, kind: type[MemberEvent]) -> list[MemberEvent]:
        return [event for event in self.events if isinstance(event, kind)]


@asynccontextmanager
async def running(*names: str, key: bytes | None = KEY, config: Config = FAST) -> AsyncIterator[list[Ours]]:
    ring: list[Ours] = []
    try:
        for name in names:
            events: list[MemberEvent] = []
            keyring = None if key is None else Keyring(key)
            ours = Ours(Agent(replace(config, name=name), keyring=keyring, on_event=events.append), events)
            await ours.agent.start()
            ring.append(ours)
        yield ring
    finally:
        for ours in ring:
            await ours.agent.stop()


async def eventually(holds: Callable[[], object], within_s: float = 20.0) -> None:
    async with asyncio.timeout(within_s):
        while not holds():  # noqa: ASYNC110  (members are not made to set events for tests)
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("key", [None, KEY])
async def test_members_join_probe_and_bury_each_other_over_real_sockets(key: bytes | None) -> None:
    async with running("a", "b", "c", key=key) as (a, b, c):
        assert await b.agent.join([a.address]) == 1
        assert await c.agent.join([a.address, b.address]) == 2
        await eventually(lambda: all(ours.names() == ["a", "b", "c"] for ours in (a, b, c)))
        await eventually(lambda: all(ours.agent.probes_answered() >= 3 for ours in (a, b, c)))
        assert not any(ours.saw(Left) for ours in (a, b, c))
        await c.agent.stop()
        await eventually(lambda: a.names() == b.names() == ["a", "b"])
        (left,) = a.saw(Left)
        assert isinstance(left, Left)
        assert (left.member.name, left.cause) == ("c", Cause.FAILED)
        assert a.saw(Suspected)
        assert c.names() == []


async def test_who_leaves_is_no_failure() -> None:
    async with running("a", "b") as (a, b):
        await b.agent.join([a.address])
        await b.agent.leave(timeout_s=5.0)
        await b.agent.stop()
        await eventually(lambda: a.saw(Left))
        assert [event.cause for event in a.events if isinstance(event, Left)] == [Cause.LEFT]


async def test_a_leave_without_company_returns_at_once() -> None:
    async with running("a") as (a,):
        async with asyncio.timeout(2.0):
            await a.agent.leave(timeout_s=60.0)


async def test_new_metadata_reaches_the_others() -> None:
    async with running("a", "b") as (a, b):
        await b.agent.join([a.address])
        b.agent.update_meta(b"synced")
        await eventually(lambda: a.saw(Updated))
        assert a.agent.members()[1].meta == b"synced"


async def test_only_seeds_that_answer_count() -> None:
    async with running("a", "b", "c") as (a, b, c), running("foreign", key=b"f" * 32) as (foreign,):
        await b.agent.stop()
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            seeds = [a.address, b.address, c.address, foreign.address, silent.getsockname(), ("no.such.host.invalid", 1)]
            assert await c.agent.join(seeds, timeout_s=1.0) == 1
        assert c.names() == ["a", "c"]
        assert [type(event) for event in foreign.events] == [Rejected]
        assert foreign.agent.rejections() == {"AuthError": 1}


async def test_seeds_may_be_named_and_a_member_does_not_join_itself() -> None:
    async with running("a", "b") as (a, b):
        assert await a.agent.join([a.address]) == 0
        assert await a.agent.join([]) == 0
        assert await b.agent.join([("localhost", a.address[1])]) >= 1


async def test_a_member_that_cannot_reach_anything_goes_on() -> None:
    """Errors of the operating system at sending are the network's, not the member's."""
    async with running("a", "b", config=replace(FAST, stream_timeout_s=0.2)) as (a, b):
        await b.agent.join([a.address])
        assert await b.agent.join([("240.0.0.1", 1), ("255.255.255.255", 9), ("ff02::1", 9)], timeout_s=1.0) == 0
        await a.agent.stop()
        await eventually(lambda: b.names() == ["b"])
        assert b.agent.members()


async def test_both_families_work() -> None:
    config = lan("any", "::1", 0)
    async with running("a", "b", config=config) as (a, b):
        assert await b.agent.join([a.address]) == 1
        assert a.names() == b.names() == ["a", "b"]


async def test_an_address_in_use_is_named() -> None:
    async with running("a") as (a,):
        second = Agent(replace(FAST, name="b", bind_port=a.address[1]), on_event=print)
        with pytest.raises(OSError, match=f"gossip cannot bind 127.0.0.1:{a.address[1]}"):
            await second.start()
        await second.stop()
        assert (second.members(), second.rejections(), second.probes_answered()) == ((), {}, 0)


async def test_a_taken_udp_port_is_named_too() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        agent = Agent(replace(FAST, name="a", bind_port=taken.getsockname()[1]), on_event=print)
        with pytest.raises(OSError, match="Address already in use"):
            await agent.start()


async def test_run_starts_and_returns_when_the_member_is_stopped() -> None:
    agent = Agent(replace(FAST, name="a"), on_event=print)
    async with asyncio.timeout(5.0), asyncio.TaskGroup() as group:
        group.create_task(agent.run(), name="gossip")
        await eventually(agent.members)
        await agent.stop()
    assert await agent.join([("127.0.0.1", 1)]) == 0
    await agent.leave(timeout_s=1.0)


async def test_a_fault_of_the_application_stops_the_member_and_is_raised_where_it_runs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(event: MemberEvent) -> None:
        raise ZeroDivisionError(str(event))

    agent = Agent(replace(FAST, name="a"), on_event=broken)
    await agent.start()
    async with running("b", key=None) as (b,):
        running_agent = asyncio.ensure_future(agent.run())
        await b.agent.join([(str(agent.endpoint.address), agent.endpoint.port)])
        with pytest.raises(RuntimeError, match="fault of its own code"):
            async with asyncio.timeout(5.0):
                await running_agent
    assert agent.members() == ()
    assert "ZeroDivisionError" in caplog.text


async def test_a_join_that_is_waiting_ends_when_the_member_stops() -> None:
    async with running("a") as (a,):
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            joining = asyncio.ensure_future(a.agent.join([silent.getsockname()], timeout_s=30.0))
            await asyncio.sleep(0)
            await a.agent.stop()
            async with asyncio.timeout(5.0):
                assert await joining == 0


async def test_bytes_from_strangers_are_counted_and_a_ping_is_answered() -> None:
    async with running("a", key=None) as (a,):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.setblocking(False)
            stranger.bind(("127.0.0.1", 0))
            stranger.sendto(b"", a.address)
            stranger.sendto(b"\x63", a.address)
            stranger.sendto(wire.encode(Ping(7, "a", b"", 0, "stranger")), a.address)
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(5.0):
                answer = await loop.sock_recv(stranger, 2000)
        assert answer[:2] in {b"\x02\x82", b"\x07\x02"}
        assert a.agent.rejections() == {"UnsupportedError": 1}


async def test_many_members_join_at_once() -> None:
    async with running(*[f"m{number}" for number in range(12)]) as ring:
        answers = await asyncio.gather(*(ours.agent.join([ring[0].address]) for ours in ring[1:]))
        assert answers == [1] * 11
        await eventually(lambda: all(len(ours.names()) == 12 for ours in ring))
        assert {type(event) for ours in ring for event in ours.events} == {Joined}


async def test_a_ring_of_the_fast_profile_finds_a_crash_out_over_real_sockets() -> None:
    """No time is asserted: the machine may be busy. The kernel of the stopped member refuses, and two agree on it."""
    async with running("a", "b", "c", config=configured("subsecond", "any", "127.0.0.1", 0)) as (a, b, c):
        await b.agent.join([a.address])
        await c.agent.join([a.address])
        await eventually(lambda: all(len(ours.names()) == 3 for ours in (a, b, c)))
        assert {ours.agent.profile for ours in (a, b, c)} == {"subsecond"}
        await eventually(lambda: all(ours.agent.counters()["probes_answered"] >= 3 for ours in (a, b, c)))
        await c.agent.stop()
        await eventually(lambda: a.names() == b.names() == ["a", "b"])
        assert not a.agent.isolated
    assert (c.agent.profile, c.agent.isolated, c.agent.counters()) == ("", False, {})


async def test_a_foreign_member_is_seen_to_slow_the_ring_down() -> None:
    async with running("a", config=configured("ring", "any", "127.0.0.1", 0)) as (a,), running("go") as (foreign,):
        await foreign.agent.join([a.address])
        await eventually(lambda: a.agent.profile == "balanced")
        await foreign.agent.leave(timeout_s=5.0)
        await eventually(lambda: a.agent.profile == "ring")
        assert [event.profile for event in a.saw(ProfileChanged) if isinstance(event, ProfileChanged)] == ["balanced", "ring"]


async def test_the_application_talks_over_all_three_ways() -> None:
    async with running("a", "b") as (a, b):
        await b.agent.join([a.address])
        to_a = Endpoint.of(*a.address)
        b.agent.send(to_a, b"packet")
        b.agent.send_reliably(to_a, b"stream" * 50_000)
        b.agent.broadcast(b"gossip")
        expected = {b"packet", b"stream" * 50_000, b"gossip"}
        await eventually(lambda: {e.payload for e in a.saw(MessageReceived) if isinstance(e, MessageReceived)} == expected)
        b.agent.set_user_state(b"state")
        assert await a.agent.join([b.address]) == 1
        (received,) = a.saw(UserStateReceived)
        assert isinstance(received, UserStateReceived)
        assert (received.state, received.join) == (b"state", True)


async def test_too_much_metadata_is_refused() -> None:
    async with running("a") as (a,):
        with pytest.raises(ConfigError, match="at most 512"):
            a.agent.update_meta(bytes(513))


# the transport by itself


async def test_kernels_answer_refuse_or_are_silent() -> None:
    reported: list[object] = []
    transport = Transport(reported.append)
    transport.open(FAST.bind_address, 0)
    with socket.socket() as listening, socket.socket() as full:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        full.bind(("127.0.0.1", 0))
        full.listen(0)  # Its queue takes one connection; what comes later is not answered.
        with socket.socket() as first:
            first.connect(full.getsockname())
            closed = Endpoint.of("127.0.0.1", 1)
            unroutable, other_family = Endpoint.of("240.0.0.1", 9), Endpoint.of("ff02::1", 9)
            for number, to in enumerate(
                (Endpoint.of(*listening.getsockname()), closed, Endpoint.of(*full.getsockname()), unroutable, other_family)
            ):
                transport.check_liveness(number, to, 0.2)
            await eventually(lambda: len(reported) == 5)
    found = {answer.check: answer.outcome for answer in reported if isinstance(answer, LivenessChecked)}
    silent = dict.fromkeys((2, 3, 4), Liveness.SILENT)
    assert found == {0: Liveness.ANSWERED, 1: Liveness.REFUSED} | silent
    transport.check_liveness(9, unroutable, 5.0)
    transport.close()
    assert len(reported) == 5


async def test_what_has_arrived_can_be_read_before_anybody_is_judged() -> None:
    reported: list[object] = []
    transport = Transport(reported.append)
    transport.read_waiting()
    transport.open(FAST.bind_address, 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(100):
            sender.sendto(b"x", ("127.0.0.1", transport.port))
    transport.read_waiting()
    assert len(reported) == 100
    transport.close()


async def test_a_closed_transport_takes_everything_and_does_nothing() -> None:
    reported: list[object] = []
    transport = Transport(reported.append)
    transport.close()
    transport.send(Endpoint.of("127.0.0.1", 9), b"x")
    transport.write_stream(5, b"x")
    transport.close_stream(5)
    assert reported == []


async def test_what_the_system_will_not_send_is_reported_and_not_raised() -> None:
    reported: list[object] = []
    transport = Transport(reported.append)
    transport.open(FAST.bind_address, 0)
    nowhere = Endpoint.of("240.0.0.1", 9)
    transport.send(nowhere, b"from loopback to elsewhere")
    transport.send(Endpoint.of("127.0.0.1", 9), bytes(70_000))
    assert reported == [PacketRefused(nowhere), PacketRefused(Endpoint.of("127.0.0.1", 9))]
    other_family = Endpoint.of("::1", 9)
    transport.send(other_family, b"x")
    assert reported.pop() == PacketRefused(other_family)
    transport.open_stream(-1, Endpoint.of("ff02::1", 9), b"x")
    transport.open_stream(-2, Endpoint.of("127.0.0.1", 1), b"x")
    await eventually(lambda: len(reported) == 4)
    assert StreamEnded(-2, Failure.REFUSED) in reported
    transport.close()


async def test_a_peer_that_breaks_off_is_reported() -> None:
    reported: list[object] = []
    transport = Transport(reported.append)
    transport.open(FAST.bind_address, 0)
    loop = asyncio.get_running_loop()
    for linger in (b"", struct.pack("ii", 1, 0)):
        with socket.socket() as peer:
            peer.setblocking(False)
            await loop.sock_connect(peer, ("127.0.0.1", transport.port))
            if linger:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)  # Closing sends a reset.
    await eventually(lambda: StreamEnded(1) in reported and StreamEnded(2, Failure.BROKEN) in reported)
    transport.close()


async def test_a_peer_that_reads_nothing_does_not_block_a_closing_stream() -> None:
    reported: list[object] = []
    transport = Transport(reported.append)
    transport.open(FAST.bind_address, 0)
    loop = asyncio.get_running_loop()
    with socket.socket() as peer:
        peer.setblocking(False)
        await loop.sock_connect(peer, ("127.0.0.1", transport.port))
        await eventually(lambda: reported)
        transport.write_stream(1, bytes(50_000_000))
        transport.close_stream(1)
        transport.write_stream(1, b"too late")
        transport.close_stream(1)
        received = 0
        async with asyncio.timeout(20.0):
            while data := await loop.sock_recv(peer, 1 << 20):
                received += len(data)
    assert received == 50_000_000
    transport.close()
