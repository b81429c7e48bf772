"""Take part in the gossip: who is a living speaker, and may this one announce yet.

The reconcile loop reads `names` and `hold`; `dirty` is set when either changed. What to join and when is decided in joining.py;
the detection of dead members is memberlist's. Every change of a member is logged with its monotonic time, so that a failover
can be put on a timeline. With gossip disabled every Node counts as a speaker and nothing is held back.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, assert_never

from config.model import IPAddress, NodeName
from memberlist import config as memberlist_config
from memberlist import effects, profiles
from memberlist.agent import Agent
from memberlist.config import Config
from memberlist.effects import MemberEvent
from memberlist.errors import ConfigError
from memberlist.keyring import Keyring, metallb_key
from speaker import peers
from speaker.isolation import Began, Ended, Isolation, LostOneMore, NodeRead
from speaker.isolation import Event as IsolationEvent
from speaker.joining import Cause, Effect, Join, JoinEnded, Joining, MembersChanged, PodsListed, Released
from speaker.peers import Peers
from speaker.settings import AUTO, GOSSIP_SETTINGS, Gossip
from telemetry.flags import FlagError
from telemetry.log import Logger

NODE_READ_LIMIT_S = 3.0
"""How long the API server may take to answer a read of the own Node."""
BIND_RETRY_S = 2.0
"""Pause before the gossip's port is tried again, for instance while the address of the node is not up yet."""

AUTO_PROFILE: Final = "subsecond"
"""What `auto` stands for; among MetalLB's own speakers it is `balanced` by itself (memberlist/pace.py)."""


def agent_config(gossip: Gossip, me: NodeName) -> Config:
    """The gossip's numbers: those of the profile, or of the preset for several sites or the file of overrides, which win.

    Raises:
        FlagError: the overrides cannot be used.

    """
    where = (me, gossip.bind_address, gossip.bind_port)
    try:
        if gossip.overrides is None and not gossip.wan:
            return profiles.configured(AUTO_PROFILE if gossip.profile == AUTO else gossip.profile, *where)
        preset = memberlist_config.wan if gossip.wan else memberlist_config.lan
        chosen = preset(*where)
        return chosen if gossip.overrides is None else memberlist_config.from_json(gossip.overrides, chosen)
    except ConfigError as error:
        raise FlagError(f"gossip: {error}") from error


class Membership:
    """This node's place in the gossip.

    `others` gives the running speaker Pods but our own by address, or None before the API server has listed them. `wake` is
    set by whoever changes what `others` gives. `reunited` is called when a member that was lost without a word is there again and was not started anew: it may
    have been cut off, and have claimed what is owned here. `died` is told who was declared dead, and how long after the first suspicion.
    """

    def __init__(
        self,
        me: NodeName,
        gossip: Gossip,
        *,
        others: Callable[[], Mapping[IPAddress, NodeName] | None],
        read_own_node: Callable[[], Awaitable[str]],
        macs: Callable[[], frozenset[bytes]],
        reunited: Callable[[], None],
        died: Callable[[NodeName, float], None],
        wake: asyncio.Event,
        dirty: asyncio.Event,
        log: Logger,
    ) -> None:
        self._others = others
        self._read_own_node = read_own_node
        self._macs = macs
        self._reunited = reunited
        self._died = died
        self._suspected_at: dict[str, float] = {}
        self._run = secrets.token_hex(8)
        self._unanswered_said: list[object] = []
        self._fed_macs: frozenset[bytes] = frozenset()
        self._peers = Peers()
        self._isolation = Isolation()
        self._isolation_said = ""
        self._node_reads_due = False
        self._wake = wake
        self._dirty = dirty
        self._log = log
        self._me = me
        self._config = agent_config(gossip, me)
        if not self._config.profile:
            log.info(
                "gossip_profile_overridden",
                by=str(GOSSIP_SETTINGS) if gossip.overrides is not None else "--ml-wan-config",
                profile=gossip.profile,
            )
        if not gossip.secret:
            log.warning("gossip_not_encrypted", remedy="give --ml-secret-key-path")
        self._keyring = Keyring(metallb_key(gossip.secret)) if gossip.secret else None
        self._agent: Agent | None = None
        self._joining = Joining()
        self._released = False
        self._hold_said = ""
        self._names: frozenset[NodeName] = frozenset({me})
        self._all_ours = False
        self._fed_others: Mapping[IPAddress, NodeName] | None = None
        self._fed_names: frozenset[NodeName] = frozenset()

    @property
    def names(self) -> frozenset[NodeName]:
        """The members that are alive or suspected, this one included."""
        return self._names

    @property
    def all_ours(self) -> bool:
        """Whether every member is known to be of this package."""
        return self._all_ours

    @property
    def hold(self) -> str:
        """Why nothing may be announced yet; empty when it may."""
        if self._released:
            return ""
        return "the gossip has not started yet" if self._agent is None else self._joining.hold

    @property
    def isolation(self) -> str:
        """Why nothing may be taken over, as a clause; empty when it may."""
        return self._isolation.hold

    @property
    def speakers(self) -> Mapping[bytes, NodeName]:
        """The MAC addresses that other speakers announce with, as far as they have said so."""
        return self._peers.node_of()

    def report(self) -> Mapping[str, object]:
        """The gossip for /status."""
        members = () if self._agent is None else self._agent.members()
        return {
            "hold": self.hold,
            "profile": self._config.profile if self._agent is None else self._agent.profile,
            "profile_configured": self._config.profile,
            "isolated": self._isolation.active,
            "takeovers_held": self.isolation,
            "detection": {} if self._agent is None else self._agent.counters(),
            "refused": {} if self._agent is None else self._agent.rejections(),
            "members": [
                {
                    "name": one.name,
                    "address": str(one.address),
                    "state": one.state.name.lower(),
                    "incarnation": one.incarnation,
                    "profile": one.profile,
                }
                for one in members
            ],
        }

    async def run(self, caches_complete: asyncio.Event) -> None:
        """Start once the caches are complete, since a member is a candidate in everybody's eyes; then join for ever.

        If it fails and is run again, what is announced stays so, and the members that were known stand until it has joined anew.
        """
        await caches_complete.wait()
        self._joining, self._fed_others, self._fed_names, self._fed_macs = Joining(), None, frozenset(), frozenset()
        agent = await self._start()
        self._wake.set()
        async with asyncio.TaskGroup() as group:
            group.create_task(agent.run(), name="gossip agent")
            while True:
                self._feed(agent, group)
                await self._rest()

    async def leave(self, *, timeout_s: float) -> None:
        """Tell the others that this member goes; return when they know or the time is over. Then call stop()."""
        if self._agent is not None:
            self._log.info("gossip_leaving")
            await self._agent.leave(timeout_s=timeout_s)

    async def stop(self) -> None:
        """Close the gossip's sockets."""
        if self._agent is not None:
            await self._agent.stop()

    async def _start(self) -> Agent:
        where = f"{self._config.bind_address}:{self._config.bind_port}"
        while True:
            agent = Agent(self._config, keyring=self._keyring, on_event=self._heard)
            try:
                await agent.start()
            except OSError as error:
                self._log.warning("gossip_cannot_bind", address=where, error=str(error), retry_s=BIND_RETRY_S)
                await asyncio.sleep(BIND_RETRY_S)
            else:
                self._log.info(
                    "gossip_started",
                    address=where,
                    encrypted=self._keyring is not None,
                    profile=self._config.profile or "none",
                )
                self._agent = agent
                return agent

    async def _rest(self) -> None:
        """Until something changed or the machine is due."""
        at = min((each for each in (self._joining.wake_at(), self._isolation.wake_at()) if each is not None), default=None)
        loop = asyncio.get_running_loop()
        timer = None if at is None else loop.call_at(at, self._wake.set)
        await self._wake.wait()
        self._wake.clear()
        if timer is not None:
            timer.cancel()

    def _feed(self, agent: Agent, group: asyncio.TaskGroup) -> None:
        """Tell the machine what is new, and do what it says."""
        now = asyncio.get_running_loop().time()
        if self._isolation.tick(now) or self._node_reads_due:
            self._node_reads_due = False
            group.create_task(self._read_node(), name="read own node")
        self._introduce(agent)
        todo: list[Effect] = []
        present = self._present()
        if present != self._fed_names:
            self._fed_names = present
            todo += self._joining.handle(MembersChanged(present), now)
        others = self._others()
        if others is not None and others != self._fed_others:
            self._fed_others = others
            self._log.info("speaker_pods_listed", others=sorted(others.values()))
            todo += self._joining.handle(PodsListed(others), now)
        self._perform([*todo, *self._joining.tick(now)], agent, group)
        if self.hold and self.hold != self._hold_said:
            self._log.info("announcing_held_back", detail=self.hold)
        self._hold_said = self.hold

    def _perform(self, todo: Sequence[Effect], agent: Agent, group: asyncio.TaskGroup) -> None:
        for effect in todo:
            match effect:
                case Join():
                    for seed in effect.seeds:
                        group.create_task(self._ask(seed, effect.limit_s, agent, group), name=f"join {seed}")
                case Released():
                    say = self._log.warning if effect.cause is Cause.NOBODY_ANSWERED else self._log.info
                    say("announcing_allowed", cause=effect.cause.value, detail=effect.detail)
                    self._released = True
                    self._recount()
                    self._dirty.set()
                case _:
                    assert_never(effect)

    async def _ask(self, seed: IPAddress, limit_s: float, agent: Agent, group: asyncio.TaskGroup) -> None:
        answered = await agent.join([(str(seed), self._config.bind_port)], timeout_s=limit_s)
        now = asyncio.get_running_loop().time()
        self._recount()
        if not answered:
            self._say_unanswered(seed)
        self._fed_names = self._present()
        todo = self._joining.handle(MembersChanged(self._fed_names), now)
        self._perform([*todo, *self._joining.handle(JoinEnded(seed, answered=answered > 0), now)], agent, group)
        self._wake.set()

    def _say_unanswered(self, seed: IPAddress) -> None:
        """Once for each change of members or Pods: a Pod that is gone may be asked four times a second."""
        said = (seed, self._present(), self._fed_others)
        if said not in self._unanswered_said:
            self._unanswered_said = [*self._unanswered_said[-63:], said]
            self._log.info("join_unanswered", seed=str(seed))

    def _heard(self, event: MemberEvent) -> None:
        """Log what the gossip says; called by the agent, in order."""
        match event:
            case effects.Joined():
                self._log.info("member_joined", node=event.member.name, address=str(event.member.address))
            case effects.Suspected():
                self._log.info("member_suspected", node=event.member.name, by=event.by)
                self._suspected_at.setdefault(event.member.name, asyncio.get_running_loop().time())
            case effects.Refuted():
                self._suspected_at.pop(event.member.name, None)
                self._log.info("member_refuted", node=event.member.name)
            case effects.Left():
                gone = "member_dead" if event.cause is effects.Cause.FAILED else "member_left"
                self._log.info(gone, node=event.member.name, by=event.by)
                now = asyncio.get_running_loop().time()
                suspected_at = self._suspected_at.pop(event.member.name, now)
                if event.cause is effects.Cause.FAILED:
                    self._died(NodeName(event.member.name), now - suspected_at)
                    self._peers.lost(NodeName(event.member.name))
                    self._consider(LostOneMore())
            case effects.Conflicted():
                self._log.warning("member_name_claimed_twice", node=event.member.name, also_at=str(event.claimed))
            case effects.Rejected():
                self._log.warning("gossip_rejected", source=str(event.source), reason=event.reason)
            case effects.ProfileChanged():
                self._log.info(
                    "gossip_profile_changed", profile=event.profile, configured=event.configured, reason=event.reason
                )
            case effects.Isolated():
                self._log.warning("gossip_isolated", lost=event.lost, of=event.of)
                self._consider(Began(event.lost, event.of))
            case effects.IsolationEnded():
                self._log.info("gossip_isolation_ended")
                self._consider(Ended())
            case effects.UserStateReceived():
                self._learn(event.state)
                return
            case effects.MessageReceived():
                self._learn(event.payload)
                return
            case effects.Updated() | effects.PingCompleted():
                return  # Metadata decides nothing yet.
        self._recount()

    def _learn(self, card: bytes) -> None:
        if self._peers.learn(card, self._present()):
            self._reunited()

    def _introduce(self, agent: Agent) -> None:
        """Tell the others which MAC addresses are ours: with every exchange of tables, and at once when they change."""
        macs = self._macs()
        if macs != self._fed_macs:
            self._fed_macs = macs
            card = peers.encode(self._me, macs, self._run)
            agent.set_user_state(card)
            agent.broadcast(card)

    def _consider(self, event: IsolationEvent) -> None:
        """Tell the isolation machine what is new; the main task reads the Node when it is to be read."""
        if self._isolation.handle(event, asyncio.get_running_loop().time()):
            self._node_reads_due = True
        if self._isolation.hold != self._isolation_said:
            if self._isolation.active and not self._isolation.hold:
                self._log.info("takeovers_allowed", detail="the API server has answered a read of the own Node")
            elif self._isolation.hold and not self._isolation_said:
                self._log.warning("takeovers_held", detail=self._isolation.hold)
            self._isolation_said = self._isolation.hold
        self._wake.set()
        self._dirty.set()

    async def _read_node(self) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            async with asyncio.timeout(NODE_READ_LIMIT_S):
                error = await self._read_own_node()
        except TimeoutError:
            error = f"no answer within {NODE_READ_LIMIT_S:g} s"
        self._consider(NodeRead(begun, error))

    def _present(self) -> frozenset[NodeName]:
        """Who is a member in the agent's eyes now."""
        members = () if self._agent is None else self._agent.members()
        return frozenset({self._me, *(NodeName(one.name) for one in members)})

    def _recount(self) -> None:
        self._wake.set()
        if self._released and self._joining.hold:
            return  # A gossip that was begun anew knows less than the one before, until it has joined.
        names = self._present()
        all_ours = self._agent is not None and all(one.profile for one in self._agent.members())
        if (names, all_ours) != (self._names, self._all_ours):
            self._names, self._all_ours = names, all_ours
            self._dirty.set()
