"""Flags, variables and files of the speaker."""

from __future__ import annotations

import ssl
from ipaddress import ip_address
from pathlib import Path

import pytest

from speaker import settings as speaker_settings
from speaker.settings import excluded_interfaces, read
from telemetry.flags import FlagError

NODE = ["--node-name=a"]


def test_the_defaults_are_metallbs() -> None:
    settings = read(NODE, {})
    assert (settings.node_name, settings.port, settings.health_port) == ("a", 9120, 17472)
    assert (settings.gossip, settings.excluded, settings.honour_exclude_label, settings.lb_class) == (None, None, True, "")
    assert settings.tls.min_version is ssl.TLSVersion.TLSv1_3
    assert settings.not_in_effect == ()


def test_variables_stand_in_for_flags(tmp_path: Path) -> None:
    (tmp_path / "secretkey").write_bytes(b"geheim\n")
    settings = read(
        [],
        {
            "METALLB_NODE_NAME": "b",
            "METALLB_NAMESPACE": "lb",
            "METALLB_POD_NAME": "speaker-x",
            "METALLB_ML_BIND_ADDR": "192.0.2.1",
            "METALLB_ML_BIND_PORT": "7000",
            "METALLB_ML_LABELS": "app=metallb",
            "METALLB_ML_SECRET_KEY_PATH": str(tmp_path),
            "METALLB_STATUS_SOCKET": "/run/s.sock",
        },
    )
    gossip = settings.gossip
    assert gossip is not None
    assert (gossip.bind_address, gossip.bind_port, gossip.labels, gossip.secret) == (
        ip_address("192.0.2.1"),
        7000,
        "app=metallb",
        b"geheim\n",
    )
    assert "geheim" not in repr(settings)
    assert (settings.namespace, settings.pod_name, settings.status_socket) == ("lb", "speaker-x", Path("/run/s.sock"))


def test_single_dashes_work_too() -> None:
    settings = read(["-node-name", "a", "-ignore-exclude-lb", "-lb-class=x", "-port", "0"], {})
    assert (settings.honour_exclude_label, settings.lb_class, settings.port) == (False, "x", 0)


@pytest.mark.parametrize("missing", ["--ml-bindaddr=192.0.2.1", "--ml-labels=app=metallb"])
def test_gossip_needs_an_address_and_labels(missing: str) -> None:
    assert read([*NODE, missing], {}).gossip is None


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "METALLB_NODE_NAME"),
        ([*NODE, "--ml-bindaddr=nonsense", "--ml-labels=x"], "is not an IP address"),
        ([*NODE, "--ml-bindport=http"], "ml-bindport"),
        ([*NODE, "--ml-bindaddr=::1", "--ml-labels=x", "--ml-secret-key-path=/nowhere"], "/nowhere/secretkey"),
        ([*NODE, "--tls-min-version=VersionTLS10"], "--tls-min-version"),
        ([*NODE, "--log-level=loud"], "loud"),
        ([*NODE, "--bgp-debounce-timeout=0"], "bgp-debounce-timeout"),
        ([*NODE, "--nonsense"], "nonsense"),
    ],
)
def test_what_cannot_be_used_is_named(arguments: list[str], complaint: str) -> None:
    with pytest.raises(FlagError, match=complaint):
        read(arguments, {})


def test_the_mode_of_bgp_is_one_that_there_is() -> None:
    assert read(NODE, {}).bgp_type == "native"
    assert read(NODE, {"METALLB_BGP_TYPE": "frr-k8s"}).bgp_type == "frr-k8s"
    with pytest.raises(FlagError, match="METALLB_BGP_TYPE"):
        read(NODE, {"METALLB_BGP_TYPE": "bird"})


def test_options_of_later_features_are_accepted_and_remembered() -> None:
    settings = read(
        [*NODE, "--bgp-debounce-timeout=100", "--frrk8s-secret-passthrough", "--pprof-bind-address=:6060", "--host=x"],
        {"FRR_LOGGING_LEVEL": "debug"},
    )
    assert {flag.key for flag in settings.not_in_effect} == {
        "bgp-debounce-timeout",
        "frrk8s-secret-passthrough",
        "pprof-bind-address",
        "FRR_LOGGING_LEVEL",
    }


def test_excluded_interfaces_come_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "excludel2.yaml"
    assert excluded_interfaces(path) is None
    path.write_text("announcedInterfacesToExclude: ['^docker.*', '^lo$']\n")
    pattern = excluded_interfaces(path)
    assert pattern is not None
    assert [name for name in ("docker0", "lo", "eth0", "nolo") if pattern.search(name)] == ["docker0", "lo"]
    path.write_text("")
    assert excluded_interfaces(path) is None


@pytest.mark.parametrize("text", ["announcedInterfacesToExclude: ['(']", "announcedInterfacesToExclude: 7", "a: [", "- a"])
def test_a_bad_exclusion_file_stops_the_start(tmp_path: Path, text: str) -> None:
    path = tmp_path / "excludel2.yaml"
    path.write_text(text)
    with pytest.raises(FlagError, match=r"excludel2\.yaml"):
        excluded_interfaces(path)


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FlagError, match="cannot read"):
        excluded_interfaces(tmp_path)


def test_gossip_overrides_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.json"
    path.write_text("{}")
    monkeypatch.setattr(speaker_settings, "GOSSIP_SETTINGS", path)
    gossip = read([*NODE, "--ml-bindaddr=::1", "--ml-labels=x", "--ml-wan-config"], {}).gossip
    assert gossip is not None
    assert (gossip.overrides, gossip.wan) == (b"{}", True)


@pytest.mark.parametrize(
    ("arguments", "environment", "profile"),
    [([], {}, "auto"), ([], {"METALLB_ML_PROFILE": "ring"}, "ring"), (["--ml-profile=compat"], {}, "compat")],
)
def test_the_profile_is_chosen_by_flag_or_variable(arguments: list[str], environment: dict[str, str], profile: str) -> None:
    gossip = read([*NODE, "--ml-bindaddr=::1", "--ml-labels=x", *arguments], environment).gossip
    assert gossip is not None
    assert gossip.profile == profile


def test_an_unknown_profile_is_named() -> None:
    with pytest.raises(FlagError, match="ml-profile"):
        read([*NODE, "--ml-profile=warp"], {})


def test_every_setting_has_a_help_sentence() -> None:
    assert all(flag.help.endswith(".") for flag in speaker_settings.FLAGS)
