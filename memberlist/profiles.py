"""The profiles: how soon a crash is found out, against how much a member may stall before it is taken for dead.

    compat      as hashicorp/memberlist's LAN preset, and nacks in time; right in any company
    balanced    twice as fast; the fastest that may share a ring with Go members
    fast        needs members of this package only, as do the following
    subsecond   0.6 s in the usual case; falls back to balanced by itself on a lossy network
    ring        three fixed watchers for each member; 0.4 s

Used by whoever builds a Config, and by core.py when the profile in effect changes. Refuses to decide which one is in effect:
pace.py does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

from memberlist.config import PORT, Config, IPAddress, detection_time_max_s, lan
from memberlist.errors import ConfigError
from memberlist.measures import PROFILE_NAMES, Measures


@dataclass(frozen=True, slots=True)
class Profile:
    """Numbers and measures under a name. What is not here stays as the Config has it."""

    name: str
    probe_interval_s: float
    probe_timeout_s: float
    suspicion_mult: int
    gossip_interval_s: float
    measures: Measures
    relay_patience: float = 0.8

    def applied(self, config: Config) -> Config:
        """Return the config with this profile's numbers."""
        return replace(
            config,
            probe_interval_s=self.probe_interval_s,
            probe_timeout_s=self.probe_timeout_s,
            suspicion_mult=self.suspicion_mult,
            gossip_interval_s=self.gossip_interval_s,
            relay_patience=self.relay_patience,
            measures=self.measures,
        )

    def detection_time_max_s(self, n: int) -> float:
        """Return the bound on the time from a crash to its first declaration, n members, no loss; see config.py."""
        return detection_time_max_s(self.applied(lan("any", "192.0.2.1")), n)


_COMPAT: Final = Measures(loop_guard=True)
_BALANCED: Final = replace(_COMPAT, evidence_hold=True, direct_sends=True, proven_nacks=True)
_FAST: Final = replace(_BALANCED, kernel_check=True, probe_on_rumour=True, flat_log=True)
_SUBSECOND: Final = replace(_FAST, retry=True, adaptive_timeout=True, successor_turns=True, loss_fall_back=True)
_RING: Final = replace(_SUBSECOND, successor_turns=False, watchers=3, watch_interval_s=0.1, refutation_s=0.15, confirmations=1)

PROFILES: Final[Mapping[str, Profile]] = MappingProxyType(
    {
        "compat": Profile("compat", 1.0, 0.45, 4, 0.2, _COMPAT),
        "balanced": Profile("balanced", 0.5, 0.2, 4, 0.1, _BALANCED),
        "fast": Profile("fast", 0.2, 0.08, 4, 0.1, _FAST),
        "subsecond": Profile("subsecond", 0.1, 0.04, 4, 0.05, _SUBSECOND),
        # A watcher hears its relays' nacks only if they come within 60 ms of its asking.
        "ring": Profile("ring", 1.0, 0.45, 4, 0.05, _RING, relay_patience=0.07),
    }
)
assert tuple(PROFILES) == PROFILE_NAMES


def slower(one: str, other: str) -> str:
    """Return the slower of two profiles by name."""
    return min(one, other, key=PROFILE_NAMES.index)


def configured(profile: str, name: str, bind_address: IPAddress | str, bind_port: int = PORT, **settings: Any) -> Config:
    """Return the settings of a member under a profile. Other Config fields may be given by name, and win.

    Raises:
        ConfigError: there is no profile of that name, or a setting cannot work.

    """
    if profile not in PROFILES:
        raise ConfigError(f"profile is {profile!r}; known are {', '.join(PROFILE_NAMES)}")
    plain = PROFILES[profile].applied(lan(name, bind_address, bind_port, profile=profile))
    return lan(name, bind_address, bind_port, **(_numbers(plain) | settings))


def _numbers(config: Config) -> dict[str, Any]:
    fields = (
        "profile",
        "probe_interval_s",
        "probe_timeout_s",
        "suspicion_mult",
        "gossip_interval_s",
        "relay_patience",
        "measures",
    )
    return {field: getattr(config, field) for field in fields}
