"""Presets, the bound on detection, and MetalLB's override file."""

import json
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from memberlist.config import (
    Config,
    confirmations_needed,
    detection_time_max_s,
    detection_time_mean_s,
    from_json,
    lan,
    local,
    suspicion_min_s,
    wan,
)
from memberlist.errors import ConfigError

LAN = lan("a", "192.0.2.1")
COMPLETE: dict[str, object] = {
    "TCPTimeout": "5s",
    "IndirectChecks": 2,
    "RetransmitMult": 3,
    "SuspicionMult": 5,
    "SuspicionMaxTimeoutMult": 7,
    "PushPullInterval": "1m30s",
    "ProbeTimeout": "250ms",
    "ProbeInterval": "1.5s",
    "DisableTcpPings": True,
    "AwarenessMaxMultiplier": 4,
    "GossipNodes": 5,
    "GossipInterval": "100ms",
    "GossipToTheDeadTime": "0",
    "GossipVerifyIncoming": False,
    "GossipVerifyOutgoing": False,
    "EnableCompression": True,
    "HandoffQueueDepth": 1024,
    "UDPBufferSize": 1200,
    "QueueCheckInterval": "30s",
}


def test_the_presets_are_hashicorps() -> None:
    def numbers(config: Config) -> tuple[float, ...]:
        return (
            config.stream_timeout_s,
            config.indirect_checks,
            config.retransmit_mult,
            config.suspicion_mult,
            config.suspicion_max_mult,
            config.push_pull_interval_s,
            config.probe_interval_s,
            config.probe_timeout_s,
            config.awareness_max,
            config.gossip_interval_s,
            config.gossip_nodes,
            config.gossip_to_the_dead_s,
        )

    assert numbers(LAN) == (10, 3, 4, 4, 6, 30, 1, 0.5, 8, 0.2, 3, 30)
    assert numbers(wan("a", "192.0.2.1")) == (30, 3, 4, 6, 6, 60, 5, 3, 8, 0.5, 4, 60)
    assert numbers(local("a", "192.0.2.1")) == (1, 1, 2, 3, 6, 15, 1, 0.2, 8, 0.1, 3, 15)


def test_a_preset_takes_other_settings_by_name() -> None:
    config = wan("a", "2001:db8::1", 7000, probe_interval_s=6.0, advertise_address="2001:db8::2")
    assert (config.probe_interval_s, config.bind_port) == (6.0, 7000)
    assert config.advertised == ip_address("2001:db8::2")


def test_the_version_bytes_are_the_protocols_and_the_applications() -> None:
    assert LAN.versions == bytes([1, 5, 2, 0, 0, 0])
    assert replace(LAN, delegate_versions=(2, 5, 4)).versions == bytes([1, 5, 2, 2, 5, 4])


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"name": ""}, "name is empty"),
        ({"bind_address": ip_address("0.0.0.0")}, "set advertise_address"),
        ({"bind_port": 65536}, "bind_port is 65536"),
        ({"advertise_port": -1}, "advertise_port is -1"),
        ({"meta": bytes(513)}, "513 bytes"),
        ({"delegate_versions": (0, 256, 0)}, "delegate_versions"),
        ({"probe_timeout_s": 1.0}, "below probe_interval_s"),
        ({"probe_interval_s": -1.0}, "probe_interval_s is -1.0"),
        ({"awareness_max": 0}, "awareness_max is 0; it must be at least 1"),
        ({"packet_bytes_max": 100}, "packet_bytes_max is 100"),
        ({"packet_bytes_max": 65_536}, "a datagram holds at most 65000"),
        ({"gossip_interval_s": float("nan")}, "gossip_interval_s is nan"),
    ],
)
def test_a_setting_that_cannot_work_is_named(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        replace(LAN, **changes)


@pytest.mark.parametrize(
    ("n", "seconds"), [(1, 4.0), (2, 4.0), (10, 4.0), (30, 5.908), (50, 6.792), (100, 8.0), (500, 10.792), (1000, 12.0)]
)
def test_the_least_suspicion_grows_with_the_logarithm_of_the_ring(n: int, seconds: float) -> None:
    assert suspicion_min_s(LAN, n) == pytest.approx(seconds)


def test_no_confirmations_are_waited_for_in_a_ring_too_small_to_give_them() -> None:
    assert [confirmations_needed(LAN, living) for living in range(1, 7)] == [0, 0, 0, 2, 2, 2]
    assert [confirmations_needed(replace(LAN, suspicion_mult=6), living) for living in range(4, 8)] == [0, 0, 4, 4]
    assert confirmations_needed(replace(LAN, suspicion_mult=1), 10) == 0


@pytest.mark.parametrize(("n", "seconds"), [(2, 13), (3, 15), (5, 39), (10, 49), (30, 100.448), (100, 253), (1000, 2077)])
def test_the_bound_on_detection_is_the_documented_one(n: int, seconds: float) -> None:
    assert detection_time_max_s(LAN, n) == pytest.approx(seconds)


@pytest.mark.parametrize(("n", "seconds"), [(2, 5.5), (3, 5.667), (10, 5.9), (100, 9.99)])
def test_the_mean_of_detection_is_the_documented_one(n: int, seconds: float) -> None:
    assert detection_time_mean_s(LAN, n) == pytest.approx(seconds, abs=0.001)


def test_the_override_file_replaces_every_setting_it_has() -> None:
    config = from_json(json.dumps(COMPLETE), LAN)
    assert config == replace(
        LAN,
        stream_timeout_s=5,
        indirect_checks=2,
        retransmit_mult=3,
        suspicion_mult=5,
        suspicion_max_mult=7,
        push_pull_interval_s=90,
        probe_timeout_s=0.25,
        probe_interval_s=1.5,
        stream_pings=False,
        awareness_max=4,
        gossip_nodes=5,
        gossip_interval_s=0.1,
        gossip_to_the_dead_s=0,
        verify_incoming=False,
        encrypt_outgoing=False,
        compress_outgoing=True,
        packet_bytes_max=1200,
    )


def test_a_number_or_flag_that_is_missing_keeps_its_value_where_metallb_would_take_zero() -> None:
    partial = {key: value for key, value in COMPLETE.items() if isinstance(value, str)}
    config = from_json(json.dumps(partial), LAN)
    assert (config.suspicion_mult, config.verify_incoming, config.probe_interval_s) == (4, True, 1.5)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("1h2m3.5s", 3723.5),
        ("300us", 3e-4),
        ("300µs", 3e-4),
        ("2000000ns", 2e-3),
        (".5s", 0.5),
        ("+1s", 1),
        ("0", 0),
    ],
)
def test_durations_are_written_as_in_go(text: str, seconds: float) -> None:
    assert from_json(json.dumps({**COMPLETE, "PushPullInterval": text}), LAN).push_pull_interval_s == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"ProbeTimeout": "fast"}, "ProbeTimeout is 'fast', expected a duration"),
        ({"ProbeTimeout": 5}, "ProbeTimeout is 5, expected a duration"),
        ({"ProbeTimeout": "-1s"}, "expected a duration"),
        ({"ProbeTimeout": "1"}, "expected a duration"),
        ({"ProbeTimeout": ""}, "expected a duration"),
        ({"GossipNodes": -1}, "GossipNodes is -1, expected a whole number"),
        ({"GossipNodes": True}, "expected a whole number"),
        ({"GossipNodes": 1.5}, "expected a whole number"),
        ({"DisableTcpPings": 0}, "DisableTcpPings is 0, expected true or false"),
        ({"EnableCompression": "yes"}, "expected true or false"),
        ({"probeTimeout": "1s"}, "unknown key 'probeTimeout'"),
        ({"ProbeTimeout": "2s"}, "below probe_interval_s"),
    ],
)
def test_a_wrong_value_in_the_override_file_is_named_with_its_key(change: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        from_json(json.dumps({**COMPLETE, **change}), LAN)


def test_a_missing_duration_is_an_error_as_in_metallb() -> None:
    partial = {key: value for key, value in COMPLETE.items() if key != "ProbeInterval"}
    with pytest.raises(ConfigError, match="ProbeInterval is missing"):
        from_json(json.dumps(partial), LAN)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", b"\xff"])
def test_an_override_file_that_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"config\.json"):
        from_json(text, LAN)
