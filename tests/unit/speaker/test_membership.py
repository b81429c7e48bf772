"""Speakers that meet on loopback: real members, real sockets, no cluster."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from ipaddress import ip_address

import pytest

from config.model import IPAddress, NodeName
from memberlist import effects
from memberlist.agent import Agent
from memberlist.config import lan
from memberlist.keyring import Keyring, metallb_key
from memberlist.messages import State
from speaker.membership import Membership, agent_config
from speaker.peers import encode
from speaker.settings import Gossip
from telemetry.flags import FlagError
from tests.builders_speaker import nodes
from tests.wires import Lines, until


def a_gossip(index: int, port: int, *, secret: bytes = b"geheim", overrides: bytes | None = None, wan: bool = False) -> Gossip:
    return Gossip(ip_address(f"127.0.0.{index}"), port, "app=metallb", secret, wan, overrides)


def a_free_port() -> int:
    """A port that is free for UDP on the addresses of the test at this moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Node:
    """One speaker's membership; `others` is what the API server lists."""

    def __init__(self, name: str, index: int, port: int, *, secret: bytes = b"geheim") -> None:
        self.others: Mapping[IPAddress, NodeName] | None = None
        self.wake, self.dirty, self.complete = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.log = Lines()
        self.reads, self.api_error = 0, ""
        self.reunited = 0
        self.deaths: list[tuple[NodeName, float]] = []
        self.address = ip_address(f"127.0.0.{index}")
        self.member = Membership(
            NodeName(name),
            a_gossip(index, port, secret=secret),
            others=lambda: self.others,
            read_own_node=self.read_own_node,
            reunited=self.reunions,
            died=self.death,
            macs=lambda: frozenset({bytes([2, 0, 0, 0, 0, index])}),
            wake=self.wake,
            dirty=self.dirty,
            log=self.log,
        )

    def death(self, node: NodeName, detected_s: float) -> None:
        self.deaths.append((node, detected_s))

    def reunions(self) -> None:
        self.reunited += 1

    async def read_own_node(self) -> str:
        self.reads += 1
        return self.api_error

    def list_pods(self, **pods: Node) -> None:
        self.others = {node.address: NodeName(name) for name, node in pods.items()}
        self.wake.set()


@contextlib.asynccontextmanager
async def running(*members: Node) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one.member.run(one.complete), name="gossip") for one in members]
        for one in members:
            one.complete.set()
        yield
        for one in members:
            await one.member.leave(timeout_s=0.2)
        for task in tasks:
            task.cancel()


async def test_nothing_is_bound_before_the_caches_are_complete() -> None:
    one = Node("a", 1, a_free_port())
    async with asyncio.TaskGroup() as group:
        task = group.create_task(one.member.run(one.complete), name="gossip")
        await asyncio.sleep(0)
        assert one.member.hold == "the gossip has not started yet"
        assert one.member.report() == {
            "hold": "the gossip has not started yet",
            "profile": "subsecond",
            "profile_configured": "subsecond",
            "isolated": False,
            "takeovers_held": "",
            "detection": {},
            "refused": {},
            "members": [],
        }
        assert one.log.events() == []
        task.cancel()


async def test_two_speakers_meet_and_may_announce() -> None:
    port = a_free_port()
    a, b = Node("a", 1, port), Node("b", 2, port)
    a.list_pods(b=b)
    b.list_pods(a=a)
    async with running(a, b):
        await until(lambda: a.member.names == b.member.names == nodes("a b"), "both know both")
        await until(lambda: not a.member.hold and not b.member.hold, "both may announce")
        assert a.dirty.is_set()
        assert a.log.facts("announcing_allowed")[0]["cause"] == "joined"
        assert [facts["node"] for facts in a.log.facts("member_joined")] == ["b"]
        report = a.member.report()
        assert [one["name"] for one in report["members"]] == ["a", "b"]  # type: ignore[attr-defined]  # JSON-like.
        assert [one["profile"] for one in report["members"]] == ["subsecond"] * 2  # type: ignore[attr-defined]  # JSON-like.
        assert report["profile"] == "subsecond"
        await until(lambda: a.member.speakers and b.member.speakers, "both have told their MAC addresses")
        assert a.member.speakers == {bytes.fromhex("020000000002"): "b"}
        assert b.member.speakers == {bytes.fromhex("020000000001"): "a"}


async def test_a_member_that_leaves_is_gone_at_once() -> None:
    port = a_free_port()
    a, b = Node("a", 1, port), Node("b", 2, port)
    a.list_pods(b=b)
    b.list_pods(a=a)
    async with running(a, b):
        await until(lambda: a.member.names == nodes("a b"), "they have met")
        a.dirty.clear()
        await b.member.leave(timeout_s=1.0)
        await until(lambda: a.member.names == nodes("a"), "b is gone")
        assert a.dirty.is_set()
        assert a.log.facts("member_left")[0]["node"] == "b"


async def test_a_speaker_with_another_key_is_not_met() -> None:
    port = a_free_port()
    a, b = Node("a", 1, port), Node("b", 2, port, secret=b"other")
    a.list_pods(b=b)
    async with running(a, b):
        await until(lambda: "join_unanswered" in a.log.events(), "the join failed")
        assert a.member.names == nodes("a")
        assert a.member.hold
        assert {"detail": a.member.hold} in a.log.facts("announcing_held_back")


async def test_a_gossip_that_breaks_and_begins_anew_forgets_nobody_meanwhile() -> None:
    port = a_free_port()
    a, b = Node("a", 1, port), Node("b", 2, port)
    a.list_pods(b=b)
    b.list_pods(a=a)
    async with running(b):
        a.complete.set()
        with pytest.raises(ExceptionGroup) as broken:  # noqa: PT012 - it breaks at some moment after they have met
            async with asyncio.TaskGroup() as group:
                group.create_task(a.member.run(a.complete), name="gossip")
                await until(lambda: a.member.names == nodes("a b") and not a.member.hold, "they have met")
                assert a.member._agent is not None
                assert a.member._agent._stopped is not None
                a.member._agent._stopped.set_exception(RuntimeError("a fault of the agent"))
        assert broken.group_contains(RuntimeError, match="a fault of the agent")
        a.others = None
        async with running(a):
            await until(lambda: len(a.log.facts("gossip_started")) == 2, "it has begun anew")
            assert a.member.names == nodes("a b"), "what it knew stands until it has joined"
            assert a.member.hold == "", "and what is announced stays announced"
            a.list_pods(b=b)
            await until(lambda: len(a.log.facts("announcing_allowed")) == 2, "it has joined again")
            assert a.member.names == nodes("a b")


MEMBER = effects.Member("b", ip_address("192.0.2.2"), 7946, b"", State.ALIVE, 3)


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (effects.Joined(MEMBER), ("member_joined", {"node": "b", "address": "192.0.2.2"})),
        (effects.Suspected(MEMBER, "c"), ("member_suspected", {"node": "b", "by": "c"})),
        (effects.Refuted(MEMBER), ("member_refuted", {"node": "b"})),
        (effects.Left(MEMBER, effects.Cause.FAILED, "c"), ("member_dead", {"node": "b", "by": "c"})),
        (effects.Left(MEMBER, effects.Cause.LEFT, "b"), ("member_left", {"node": "b", "by": "b"})),
        (
            effects.Conflicted(MEMBER, effects.Endpoint(ip_address("192.0.2.9"), 7946)),
            ("member_name_claimed_twice", {"node": "b", "also_at": "192.0.2.9:7946"}),
        ),
        (
            effects.Rejected(effects.Endpoint(ip_address("192.0.2.9"), 7946), "no key fits"),
            ("gossip_rejected", {"source": "192.0.2.9:7946", "reason": "no key fits"}),
        ),
    ],
)
async def test_what_happens_to_members_is_logged(event: effects.MemberEvent, line: tuple[str, Mapping[str, str]]) -> None:
    one = Node("a", 1, 7946)
    one.member._heard(event)
    assert one.log.lines == [line]


async def test_new_metadata_of_a_member_is_not_worth_a_line() -> None:
    one = Node("a", 1, 7946)
    one.member._heard(effects.Updated(MEMBER))
    assert one.log.lines == []


async def test_an_address_that_cannot_be_bound_is_named_and_tried_again() -> None:
    port = a_free_port()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as squatter:
        squatter.bind(("127.0.0.1", port))
        one = Node("a", 1, port)
        async with asyncio.TaskGroup() as group:
            one.complete.set()
            task = group.create_task(one.member.run(one.complete), name="gossip")
            await until(lambda: "gossip_cannot_bind" in one.log.events(), "a complaint")
            assert one.log.facts("gossip_cannot_bind")[0]["address"] == f"127.0.0.1:{port}"
            task.cancel()


async def test_plain_text_gossip_is_warned_about() -> None:
    assert Node("a", 1, 7946, secret=b"").log.events() == ["gossip_not_encrypted"]


async def test_beside_a_foreign_member_a_speaker_is_balanced_until_that_one_leaves() -> None:
    port = a_free_port()
    a = Node("a", 1, port)
    foreign = Agent(lan("go", "127.0.0.2", port), keyring=Keyring(metallb_key(b"geheim")), on_event=lambda _: None)
    a.list_pods(go=Node("go", 2, port))
    async with running(a):
        await foreign.start()
        await until(lambda: a.member.report()["profile"] == "balanced", "it slows down")
        assert a.log.facts("gossip_profile_changed")[0] == {
            "profile": "balanced",
            "configured": "subsecond",
            "reason": "go is not of this package",
        }
        await foreign.leave(timeout_s=2.0)
        await foreign.stop()
        await until(lambda: a.member.report()["profile"] == "subsecond", "it is fast again")


async def test_isolation_is_logged_and_shown() -> None:
    one = Node("a", 1, 7946)
    one.member._heard(effects.Isolated(3, 5))
    one.member._heard(effects.IsolationEnded())
    assert one.log.facts("gossip_isolated") == [{"lost": 3, "of": 5}]
    assert "gossip_isolation_ended" in one.log.events()


async def test_numbers_of_ones_own_win_over_the_profile_and_are_logged() -> None:
    wake, log = asyncio.Event(), Lines()
    gossip = Gossip(ip_address("127.0.0.1"), 7946, "x", b"key", True, None, "ring")
    node = Node("a", 1, 7946)
    member = Membership(
        NodeName("a"),
        gossip,
        others=lambda: None,
        read_own_node=node.read_own_node,
        reunited=node.reunions,
        died=node.death,
        macs=frozenset,
        wake=wake,
        dirty=wake,
        log=log,
    )
    assert log.facts("gossip_profile_overridden") == [{"by": "--ml-wan-config", "profile": "ring"}]
    assert member.report()["profile_configured"] == ""


def test_the_profile_the_presets_and_the_file_of_overrides_set_the_numbers() -> None:
    me = NodeName("a")
    assert agent_config(a_gossip(1, 7946), me).profile == "subsecond"
    assert agent_config(replace(a_gossip(1, 7946), profile="compat"), me).probe_interval_s == 1.0
    assert agent_config(a_gossip(1, 7946, wan=True), me).probe_interval_s == 5.0
    with pytest.raises(FlagError, match="gossip: "):
        agent_config(a_gossip(1, 7946, overrides=b"no json"), me)
    with pytest.raises(FlagError, match="gossip: "):
        agent_config(Gossip(ip_address("0.0.0.0"), 7946, "x", b"", False, None), me)


async def test_an_isolated_speaker_reads_its_node_until_it_is_answered() -> None:
    one = Node("a", 1, a_free_port())
    one.api_error = "connection refused"
    async with running(one):
        await until(lambda: "gossip_started" in one.log.events(), "it runs")
        one.member._heard(effects.Isolated(2, 3))
        assert one.member.isolation.startswith("2 of 3 speakers were lost at once")
        await until(lambda: one.member.isolation.endswith("(last error: connection refused)"), "the error")
        assert one.member.report()["isolated"] is True
        assert one.member.report()["takeovers_held"] == one.member.isolation
        one.api_error, one.dirty = "", asyncio.Event()
        await until(lambda: not one.member.isolation, "the leave to take over")
        assert one.log.events().count("takeovers_held") == one.log.events().count("takeovers_allowed") == 1
        one.member._heard(effects.IsolationEnded())
        assert one.member.report()["isolated"] is False
        assert one.reads == 2


async def test_the_return_of_a_member_that_was_cut_off_is_passed_on() -> None:
    one = Node("a", 1, 7946)
    b = effects.Member("b", ip_address("127.0.0.2"), 7946, b"", State.ALIVE, 1)
    one.member._present = lambda: nodes("a b")  # type: ignore[method-assign]  # No agent runs here.

    def says(run: str) -> None:
        one.member._heard(
            effects.UserStateReceived(effects.Endpoint.of("127.0.0.2", 7946), encode(NodeName("b"), [], run), True)
        )

    one.member._heard(effects.Joined(b))
    says("one")
    one.member._heard(effects.Left(b, effects.Cause.FAILED, "a"))
    assert [node for node, _ in one.deaths] == ["b"]
    one.member._heard(effects.Joined(b))
    says("one")
    assert one.reunited == 1
    one.member._heard(effects.Left(b, effects.Cause.FAILED, "a"))
    one.member._heard(effects.Joined(b))
    says("two")
    assert one.reunited == 1
