from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from controller.settings import FLAGS, settings
from kube.lease import Terms

CONTRACT = (
    "port health-probe-port namespace ml-secret-name deployment pod-name log-level lb-class webhook-mode disable-cert-rotation "
    "cert-dir cert-service-name webhook-secret webhook-http2 tls-min-version tls-cipher-suites tls-curve-preferences "
    "metrics-cert-dir pprof-bind-address"
)


def test_every_flag_of_metallbs_controller_is_known() -> None:
    assert set(CONTRACT.split()) <= {flag.name for flag in FLAGS}


@pytest.mark.parity("Kubernetes glue > the health port is 17472 by default")
def test_the_defaults_are_metallbs() -> None:
    chosen = settings([], {})
    assert (chosen.port, chosen.health_probe_port, chosen.log_level, chosen.lb_class) == (9120, 17472, "info", "")
    assert (chosen.webhook_mode, chosen.tls.min_version, chosen.metrics_cert_dir) == ("enabled", ssl.TLSVersion.TLSv1_3, None)
    assert chosen.not_in_effect == ()


def test_environment_and_flags_in_both_dash_forms_are_read() -> None:
    environment = {
        "METALLB_NAMESPACE": "ns",
        "METALLB_ML_SECRET_NAME": "memberlist",
        "METALLB_DEPLOYMENT": "c",
        "METALLB_POD_NAME": "p",
    }
    chosen = settings(["-port=1", "--lb-class", "x", "-status-socket="], environment)
    assert (chosen.port, chosen.lb_class, chosen.status_socket) == (1, "x", None)
    assert (chosen.namespace, chosen.ml_secret_name, chosen.deployment, chosen.pod_name) == ("ns", "memberlist", "c", "p")
    assert settings(["--metrics-cert-dir=/x"], {}).metrics_cert_dir == Path("/x")


def test_options_of_later_features_are_accepted_and_named() -> None:
    chosen = settings(["--webhook-http2", "--cert-service-name=metallb-webhook-service"], {"METALLB_BGP_TYPE": "frr"})
    assert set(chosen.not_in_effect) == {"webhook-http2"}


def test_options_of_webhooks_are_in_effect() -> None:
    flags = ["--webhook-secret=s", "--cert-service-name=c", "--cert-dir=/x", "--disable-cert-rotation", "--webhook-port=1"]
    chosen = settings(flags, {"METALLB_BGP_TYPE": "frr"})
    assert (chosen.webhook_secret, chosen.cert_service_name, chosen.cert_dir) == ("s", "c", Path("/x"))
    assert (chosen.cert_rotation, chosen.webhook_port, chosen.bgp_type) == (False, 1, "frr")
    assert (settings([], {}).cert_rotation, settings([], {}).bgp_type) == (True, "native")


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--webhook-mode=sometimes", "'sometimes' is not one of"),
        ("--port=99999", "out of range"),
        ("--tls-min-version=VersionTLS11", "not one of VersionTLS12, VersionTLS13"),
        ("--tls-cipher-suites=X", "--tls-min-version=VersionTLS12"),
        ("--nonsense", "unknown flag --nonsense"),
        ("--lease-duration=soon", "'soon' is not a duration; write it as 15s"),
        ("--lease-duration=1500ms", "whole seconds"),
        ("--lease-duration=0s", "at least one second"),
        ("--lease-renew-deadline=15s", "longer than the renew deadline"),
        ("--lease-retry-period=0s", "retry period must be positive"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line_with_exit_status_1(
    flag: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        settings([flag], {})
    assert caught.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


@pytest.mark.parametrize(
    ("flags", "terms"),
    [
        ("", Terms(15, 10.0, 5.0, 2.0)),
        ("--lease-duration=1m", Terms(60, 40.0, 20.0, 8.0)),
        ("--lease-duration=2s --lease-retry-period=100ms", Terms(2, 4 / 3, 2 / 3, 0.1)),
        ("--lease-duration=1h0m30s --lease-renew-deadline=1.5s", Terms(3630, 1.5, 0.75, 484.0)),
    ],
)
def test_the_terms_of_the_lease_keep_their_proportions(flags: str, terms: Terms) -> None:
    assert settings(flags.split(), {}).lease == terms
