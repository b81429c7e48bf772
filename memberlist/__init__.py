"""SWIM + Lifeguard membership, wire-compatible with hashicorp/memberlist: who of the speakers is alive.

Use:

    agent = Agent(lan("node-1", "192.0.2.1"), keyring=Keyring(metallb_key(secret)), on_event=print)
    await agent.start()
    answered = await agent.join([("192.0.2.2", 7946)])
    ...
    await agent.leave(timeout_s=1.0)
    await agent.stop()

It is not a message bus: messages of the application are carried, some may be lost and none are ordered. It is not an authority: two parts of a network
that cannot reach each other each believe the other dead. Imports nothing else of this project.
"""

from memberlist.agent import Agent
from memberlist.config import Config, detection_time_max_s, from_json, lan, local, wan
from memberlist.effects import (
    Cause,
    Conflicted,
    Endpoint,
    Isolated,
    IsolationEnded,
    Joined,
    Left,
    Member,
    MemberEvent,
    MessageReceived,
    PingCompleted,
    ProfileChanged,
    Refuted,
    Rejected,
    Suspected,
    Updated,
    UserStateReceived,
)
from memberlist.errors import ConfigError, MemberlistError
from memberlist.keyring import Keyring, metallb_key
from memberlist.members import Vetoes
from memberlist.messages import State
from memberlist.profiles import PROFILES, Profile, configured

__all__ = [
    "PROFILES",
    "Agent",
    "Cause",
    "Config",
    "ConfigError",
    "Conflicted",
    "Endpoint",
    "Isolated",
    "IsolationEnded",
    "Joined",
    "Keyring",
    "Left",
    "Member",
    "MemberEvent",
    "MemberlistError",
    "MessageReceived",
    "PingCompleted",
    "Profile",
    "ProfileChanged",
    "Refuted",
    "Rejected",
    "State",
    "Suspected",
    "Updated",
    "UserStateReceived",
    "Vetoes",
    "configured",
    "detection_time_max_s",
    "from_json",
    "lan",
    "local",
    "metallb_key",
    "wan",
]
