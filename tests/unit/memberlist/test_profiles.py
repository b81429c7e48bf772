"""The profiles as data: their numbers, their bounds, and which one is in effect in which company."""

from itertools import pairwise

import pytest

from memberlist.config import lan, lone_detection_time_max_s, suspicion_min_s
from memberlist.errors import ConfigError
from memberlist.measures import PROFILE_NAMES
from memberlist.pace import in_effect
from memberlist.profiles import PROFILES, configured, slower


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("compat", (1.0, 0.45, 4, 0.2)),
        ("balanced", (0.5, 0.2, 4, 0.1)),
        ("fast", (0.2, 0.08, 4, 0.1)),
        ("subsecond", (0.1, 0.04, 4, 0.05)),
        ("ring", (1.0, 0.45, 4, 0.05)),
    ],
)
def test_a_profile_is_its_numbers(name: str, numbers: tuple[float, ...]) -> None:
    config = configured(name, "a", "192.0.2.1")
    assert (config.probe_interval_s, config.probe_timeout_s, config.suspicion_mult, config.gossip_interval_s) == numbers
    assert config.profile == name
    assert config.measures == PROFILES[name].measures


def test_timeouts_leave_the_relays_as_long_again() -> None:
    for profile in PROFILES.values():
        assert profile.probe_timeout_s <= 0.45 * profile.probe_interval_s
        assert profile.relay_patience * profile.probe_timeout_s < profile.probe_interval_s - profile.probe_timeout_s


def test_measures_only_add_up_from_compat_to_subsecond() -> None:
    switches = [
        {name for name in PROFILES[profile].measures.__dataclass_fields__ if getattr(PROFILES[profile].measures, name) is True}
        for profile in PROFILE_NAMES
    ]
    for fewer, more in pairwise(switches[:-1]):
        assert fewer <= more
    assert not any(value is True for value in map(lan("a", "192.0.2.1").measures.__getattribute__, switches[-1]))


@pytest.mark.parametrize("n", [2, 3, 10, 30, 100])
def test_every_faster_profile_has_a_lower_bound(n: int) -> None:
    bounds = [PROFILES[name].detection_time_max_s(n) for name in PROFILE_NAMES]
    assert bounds == sorted(bounds, reverse=True)


def test_the_ring_profile_is_bound_below_half_a_second_whatever_its_size() -> None:
    assert [PROFILES["ring"].detection_time_max_s(n) for n in (3, 10, 100)] == pytest.approx([0.44] * 3)
    assert lone_detection_time_max_s(configured("ring", "a", "192.0.2.1"), 10) > 1.0


def test_the_flat_scale_grows_only_beyond_a_hundred() -> None:
    config = configured("subsecond", "a", "192.0.2.1")
    assert [suspicion_min_s(config, n) for n in (3, 10, 100)] == pytest.approx([0.4] * 3)
    assert suspicion_min_s(config, 1000) == pytest.approx(0.8)


def test_fields_given_by_name_win() -> None:
    assert configured("ring", "a", "192.0.2.1", gossip_interval_s=1.5, meta=b"x").gossip_interval_s == 1.5


def test_unknown_profiles_and_too_much_metadata_are_refused() -> None:
    with pytest.raises(ConfigError, match="known are compat, balanced, fast, subsecond, ring"):
        configured("warp", "a", "192.0.2.1")
    with pytest.raises(ConfigError, match="known are"):
        lan("a", "192.0.2.1", profile="warp")
    with pytest.raises(ConfigError, match="at most 496"):
        configured("ring", "a", "192.0.2.1", meta=bytes(500))
    assert len(configured("ring", "a", "192.0.2.1", meta=bytes(496)).meta) == 496


def test_the_slower_of_two() -> None:
    assert slower("ring", "balanced") == slower("balanced", "ring") == "balanced"
    assert slower("compat", "balanced") == "compat"


@pytest.mark.parametrize("given", PROFILE_NAMES)
def test_near_foreign_members_and_on_lossy_networks_nobody_is_faster_than_balanced(given: str) -> None:
    at_most = slower(given, "balanced")
    assert in_effect(given, foreign="go", lossy=False)[0] == at_most
    assert in_effect(given, foreign="", lossy=True)[0] == at_most
    assert in_effect(given, foreign="", lossy=False)[0] == given


def test_the_reason_names_who_slows_the_ring_down() -> None:
    assert in_effect("ring", foreign="go-1", lossy=True)[1] == "go-1 is not of this package"
    assert "12 %" in in_effect("ring", foreign="", lossy=True)[1]
