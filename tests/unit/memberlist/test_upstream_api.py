"""hashicorp/memberlist's own tests of what an application sees, on real sockets of loopback, named after what Go promises."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from memberlist import Agent, Config, ConfigError, Conflicted, Joined, Keyring, Left, MemberEvent, Updated, lan
from memberlist.__main__ import _endpoint
from memberlist.effects import Cause, Endpoint, MessageReceived, PingCompleted, UserStateReceived
from memberlist.members import Vetoes
from memberlist.seeds import parse

KEY, OTHER_KEY = bytes(range(16)), bytes(range(16, 48))
FAST: dict[str, Any] = {"probe_interval_s": 0.1, "probe_timeout_s": 0.05, "gossip_interval_s": 0.02}
LIMIT_S = 30.0


class Member:
    """An agent and what it told its application."""

    def __init__(
        self, name: str, *, key: bytes | None = None, address: str = "127.0.0.1", vetoes: Vetoes | None = None, **settings: Any
    ) -> None:
        self.events: list[MemberEvent] = []
        keyring = Keyring(key) if key else None
        config = lan(name, address, 0, **(FAST | settings))
        self.agent = Agent(config, keyring=keyring, on_event=self.events.append, vetoes=vetoes or Vetoes())
        self.address = address

    @property
    def seed(self) -> tuple[str, int]:
        return self.address, self.agent.endpoint.port

    def names(self) -> list[str]:
        return [member.name for member in self.agent.members()]

    def saw(self, *kinds: type) -> bool:
        return all(any(isinstance(event, kind) for event in self.events) for kind in kinds)


@asynccontextmanager
async def running(*members: Member) -> AsyncIterator[tuple[Member, ...]]:
    try:
        for member in members:
            await member.agent.start()
        yield members
    finally:
        for member in members:
            await member.agent.stop()


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not holds():  # noqa: ASYNC110  (what is waited for sets no event)
            await asyncio.sleep(0.005)


async def never(told: Awaitable[int]) -> None:
    assert await told == 0


@pytest.mark.parametrize("version", [0, 6])
def test_a_protocol_version_outside_of_one_to_five_is_refused_at_creation(version: int) -> None:
    with pytest.raises(ConfigError, match="protocol_version"):
        lan("me", "192.0.2.1", protocol_version=version)


@pytest.mark.parametrize(("length", "good"), [(0, False), (10, False), (16, True), (24, True), (32, True), (33, False)])
def test_a_key_has_16_24_or_32_bytes(length: int, good: bool) -> None:  # noqa: FBT001  (a case)
    if good:
        Keyring(bytes(length))
        return
    with pytest.raises(ConfigError, match="16, 24 or 32"):
        Keyring(bytes(length))


def test_a_key_that_is_primary_and_in_the_list_is_there_once() -> None:
    assert len(Keyring(KEY, [KEY, OTHER_KEY])) == 2


async def test_members_join_and_see_each_other() -> None:
    async with running(Member("a"), Member("b")) as (a, b):
        assert await b.agent.join([a.seed]) == 1
        await until(lambda: a.names() == b.names() == ["a", "b"])
        assert a.saw(Joined)
        assert b.saw(Joined)


async def test_members_join_under_the_unique_address_of_each() -> None:
    async with running(Member("a"), Member("b")) as (a, b):
        assert await b.agent.join([a.seed, a.seed, a.seed]) == 1


async def test_a_member_that_leaves_is_left_and_one_that_stops_is_failed() -> None:
    async with running(Member("a"), Member("b"), Member("c")) as (a, b, c):
        assert await b.agent.join([a.seed]) == 1
        assert await c.agent.join([a.seed]) == 1
        await until(lambda: a.names() == ["a", "b", "c"])
        await b.agent.leave(timeout_s=LIMIT_S)
        await b.agent.stop()
        await c.agent.stop()
        await until(lambda: a.names() == ["a"])
        causes = {event.member.name: event.cause for event in a.events if isinstance(event, Left)}
        assert causes == {"b": Cause.LEFT, "c": Cause.FAILED}


async def test_new_metadata_is_an_update_for_the_others() -> None:
    async with running(Member("a"), Member("b", meta=b"web")) as (a, b):
        assert await b.agent.join([a.seed]) == 1
        b.agent.update_meta(b"api")
        await until(lambda: a.saw(Updated))
        assert next(member.meta for member in a.agent.members() if member.name == "b") == b"api"


async def test_a_merge_veto_cancels_a_join_on_the_side_that_has_it() -> None:
    vetoed: list[str] = []

    def merge(members: tuple[Any, ...]) -> str | None:
        vetoed.extend(member.name for member in members)
        return "not these"

    quiet = Member("b", gossip_interval_s=0.0, probe_interval_s=0.0)  # Gossip would bring it in past the veto, as in Go.
    async with running(Member("a", vetoes=Vetoes(merge=merge)), quiet) as (a, b):
        assert await a.agent.join([b.seed]) == 0
        assert a.names() == ["a"]
        assert "b" in vetoed


async def test_an_alive_veto_keeps_a_member_out_while_the_exchange_succeeds() -> None:
    refuse_b = Vetoes(alive=lambda member: "no b" if member.name == "b" else None)
    async with running(Member("a", vetoes=refuse_b), Member("b"), Member("c")) as (a, b, c):
        assert await b.agent.join([a.seed]) == 1
        assert await c.agent.join([a.seed]) == 1
        await until(lambda: b.names() == ["a", "b", "c"])
        assert a.names() == ["a", "c"]


@pytest.mark.parametrize("key", [None, KEY])
async def test_rings_with_different_labels_do_not_mix(key: bytes | None) -> None:
    members = Member("a", key=key, label=b"blah"), Member("b", key=key, label=b"blah"), Member("c", key=key, label=b"other")
    async with running(*members) as (a, b, c):
        assert await b.agent.join([a.seed]) == 1
        await never(c.agent.join([a.seed]))
        await never(a.agent.join([c.seed]))
        await until(lambda: a.names() == b.names() == ["a", "b"])
        assert c.names() == ["c"]


async def test_rings_with_different_keys_do_not_mix() -> None:
    async with running(Member("a", key=KEY), Member("b", key=OTHER_KEY), Member("c")) as (a, b, c):
        await never(b.agent.join([a.seed]))
        await never(c.agent.join([a.seed]))
        assert a.names() == ["a"]
        assert b.names() == ["b"]


async def test_a_ring_works_over_ipv6() -> None:
    async with running(Member("a", address="::1"), Member("b", address="::1")) as (a, b):
        assert await b.agent.join([a.seed]) == 1
        await until(lambda: a.names() == b.names() == ["a", "b"])


async def test_members_outside_of_the_allowed_networks_stay_out() -> None:
    only = (ip_network("127.0.0.0/30"),)
    members = Member("a", allowed_networks=only), Member("b", address="127.0.0.2"), Member("c", address="127.0.0.9")
    async with running(*members) as (a, b, c):
        assert await b.agent.join([a.seed]) == 1
        assert await c.agent.join([a.seed]) == 1
        await until(lambda: c.names() == ["a", "b", "c"])
        assert a.names() == ["a", "b"]
        assert Config(name="x", bind_address=ip_address("127.0.0.1")).allows(ip_address("192.0.2.1"))


async def test_a_second_member_of_a_name_is_a_conflict() -> None:
    async with running(Member("a"), Member("b"), Member("b")) as (a, b, again):
        assert await b.agent.join([a.seed]) == 1
        assert await again.agent.join([a.seed]) == 1
        await until(lambda: a.saw(Conflicted))


async def test_an_application_that_wants_to_hears_the_round_trip_of_pings_and_what_came_with_the_ack() -> None:
    async with running(Member("a", report_pings=True), Member("b")) as (a, b):
        b.agent.set_user_state(b"", ack_payload=b"whatever")
        assert await b.agent.join([a.seed]) == 1
        await until(lambda: any(isinstance(event, PingCompleted) and event.payload == b"whatever" for event in a.events))
        (first, *_) = [event for event in a.events if isinstance(event, PingCompleted)]
        assert first.member.name == "b"
        assert first.round_trip_s > 0


async def test_user_state_is_exchanged_with_the_tables() -> None:
    async with running(Member("a"), Member("b")) as (a, b):
        a.agent.set_user_state(b"state of a")
        b.agent.set_user_state(b"state of b")
        assert await b.agent.join([a.seed]) == 1
        heard = [event for member in (a, b) for event in member.events if isinstance(event, UserStateReceived)]
        assert {(event.state, event.join) for event in heard} == {(b"state of a", True), (b"state of b", True)}


async def test_user_messages_are_sent_in_packets_over_streams_and_by_gossip() -> None:
    async with running(Member("a"), Member("b"), Member("c")) as (a, b, c):
        assert await b.agent.join([a.seed]) == 1
        assert await c.agent.join([a.seed]) == 1
        await until(lambda: all(len(member.names()) == 3 for member in (a, b, c)))
        a.agent.send(b.agent.endpoint, b"send")
        a.agent.send_reliably(b.agent.endpoint, b"reliable")
        a.agent.broadcast(b"gossip")

        def heard(member: Member) -> set[bytes]:
            return {event.payload for event in member.events if isinstance(event, MessageReceived)}

        await until(lambda: heard(b) >= {b"send", b"reliable", b"gossip"} and b"gossip" in heard(c))


async def test_a_member_is_reached_where_it_advertises_itself() -> None:
    config = lan("a", "127.0.0.1", 0, advertise_address="127.0.0.7", advertise_port=4711)
    events: list[MemberEvent] = []
    agent = Agent(config, keyring=None, on_event=events.append)
    await agent.start()
    try:
        (own,) = agent.members()
        assert (str(own.address), own.port) == ("127.0.0.7", 4711)
    finally:
        await agent.stop()


@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
def test_a_member_that_binds_everywhere_must_say_where_it_is(address: str) -> None:
    with pytest.raises(ConfigError, match="advertise_address"):
        lan("a", address)


@pytest.mark.parametrize(
    ("text", "seed"),
    [
        ("1.2.3.4", ("1.2.3.4", 7946)),
        ("1.2.3.4:8888", ("1.2.3.4", 8888)),
        ("[1.2.3.4]:8888", ("1.2.3.4", 8888)),
        ("::1", ("::1", 7946)),
        ("[::1]", ("::1", 7946)),
        ("[::1]:8888", ("::1", 8888)),
        ("::ffff:1.2.3.4", ("::ffff:1.2.3.4", 7946)),
        ("[2001:db8::1%eth0]:80", ("2001:db8::1%eth0", 80)),
        ("node-3.example", ("node-3.example", 7946)),
        ("node-3.example:80", ("node-3.example", 80)),
        ("localhost", ("localhost", 7946)),
        ("name/1.2.3.4", ("1.2.3.4", 7946)),
        ("name/[::1]:80", ("::1", 80)),
        ("site/name/host:80", ("host", 80)),
    ],
)
def test_seeds_are_read_with_and_without_a_port_and_a_name_in_both_families(text: str, seed: tuple[str, int]) -> None:
    assert parse(text) == seed


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "names no host"),
        (":80", "names no host"),
        ("name/", "names no host"),
        ("/1.2.3.4", "before the slash"),
        ("1.2.3.4:80000", "'80000' is no port"),
        ("1.2.3.4:0", "'0' is no port"),
        ("1.2.3.4:", "'' is no port"),
        ("1.2.3.4:x", "'x' is no port"),
        ("[::1", r"\[ADDRESS\]:PORT"),
        ("[::1]80", r"\[ADDRESS\]:PORT"),
        ("2001:db8::1:99999", r"\[ADDRESS\]:PORT"),
    ],
)
def test_a_seed_that_is_none_is_refused_by_name(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        parse(text)


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("1.2.3.4", Endpoint.of("1.2.3.4", 7946)),
        ("1.2.3.4:0", Endpoint.of("1.2.3.4", 0)),
        ("::1", Endpoint.of("::1", 7946)),
        ("[::1]:8888", Endpoint.of("::1", 8888)),
    ],
)
def test_a_member_is_bound_to_an_address_with_or_without_a_port_in_both_families(text: str, endpoint: Endpoint) -> None:
    assert _endpoint(text) == endpoint


async def test_a_seed_is_looked_up_by_its_host_name() -> None:
    async with running(Member("a"), Member("b")) as (a, b):
        assert await b.agent.join([f"localhost:{a.agent.endpoint.port}"]) == 1
