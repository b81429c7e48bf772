"""The configurations that are simulated: the shipped profiles by name.

`subsecond` and `ring` slow down by themselves on a lossy network, which would hide what they do there; so the names mean the
pure profiles, and `subsecond-shipped` and `ring-shipped` those that fall back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from memberlist import profiles
from memberlist.config import Config

SHIPPED: Final = "-shipped"
PROFILES: Final = tuple(profiles.PROFILES)
FALLING_BACK: Final = tuple(
    f"{name}{SHIPPED}" for name, profile in profiles.PROFILES.items() if profile.measures.loss_fall_back
)
ALL: Final = (*PROFILES, *FALLING_BACK)


def configure(profile: str) -> Callable[[str, str], Config]:
    """Return what makes a member's configuration of its name and address."""
    shipped = profile.removesuffix(SHIPPED)
    measures = profiles.PROFILES[shipped].measures
    if not profile.endswith(SHIPPED):
        measures = replace(measures, loss_fall_back=False)
    return lambda name, address: profiles.configured(shipped, name, address, measures=measures)


def pace_s(profile: str) -> float:
    """Return the shortest time in seconds between two probes of one member, which is the pace of everything."""
    config = configure(profile)("n", "10.0.0.1")
    return config.measures.watch_interval_s if config.measures.watchers else config.probe_interval_s
