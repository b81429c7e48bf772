"""What an operator can set: one table of flags, environment variables and defaults (those of MetalLB's controller).

Read by __main__; the reference page of flags is made from the same table. Flags of features that come later are accepted,
so that existing manifests work, and are logged once as not in effect.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kube.lease import Terms
from telemetry.flags import Flag, FlagError, Parsed, parse_or_exit, refuse
from telemetry.tls import TlsError, TlsOptions, parse_tls_options

PROGRAM: Final = "controller"
NATIVE: Final = "native"

FLAGS: Final = (
    Flag(name="port", default=9120, low=0, high=65535, help="Port of /metrics and /status over HTTPS; 0 turns them off."),
    Flag(name="health-probe-port", default=17472, low=0, high=65535, help="Port of /healthz and /readyz over plain HTTP."),
    Flag(
        name="namespace",
        env="METALLB_NAMESPACE",
        help="Namespace of the configuration; without it, that of the service account.",
    ),
    Flag(
        name="ml-secret-name",
        env="METALLB_ML_SECRET_NAME",
        help="Secret with the gossip key of the speakers, made if it does not exist.",
    ),
    Flag(name="deployment", env="METALLB_DEPLOYMENT", help="Deployment that owns the Secret."),
    Flag(name="pod-name", env="METALLB_POD_NAME", help="Name of the controller's own Pod; Events name it as their origin."),
    Flag(
        name="log-level",
        default="info",
        choices=("all", "debug", "info", "warn", "error", "none"),
        help="Least level of the lines that are logged.",
    ),
    Flag(name="lb-class", help="Serve Services of this loadBalancerClass only; without it, those that have none."),
    Flag(
        name="status-socket",
        default="/run/metallb/controller.sock",
        env="METALLB_STATUS_SOCKET",
        help="Unix socket for lbctl; empty turns it off.",
    ),
    Flag(
        name="webhook-mode",
        default="enabled",
        choices=("enabled", "disabled", "onlywebhook"),
        help="Whether to serve webhooks; onlywebhook assigns no addresses.",
    ),
    Flag(name="webhook-port", default=9443, low=1, high=65535, help="Port of the webhooks over HTTPS."),
    Flag(
        name="disable-cert-rotation",
        default=False,
        help="Serve the certificate in --cert-dir, which somebody else renews and has trusted; touch no Secret and no webhook.",
    ),
    Flag(
        name="cert-dir",
        default="/tmp/k8s-webhook-server/serving-certs",  # noqa: S108 - MetalLB's default; only read from, and only when asked to
        help="Directory with tls.crt and tls.key of the webhooks; read with --disable-cert-rotation only.",
    ),
    Flag(
        name="cert-service-name",
        default="metallb-webhook-service",
        help="Service of the webhooks; its DNS name is in their certificate.",
    ),
    Flag(name="webhook-secret", default="metallb-webhook-cert", help="Secret that keeps the certificate of the webhooks."),
    Flag(name="webhook-http2", default=False, help="Speak HTTP/2 to the API server.", not_yet="HTTP/1.1 is spoken"),
    Flag(
        name="lease-duration",
        default="15s",
        help="Of several replicas, how long the others wait for a leader that is silent: whole seconds, as 15s or 1m.",
    ),
    Flag(
        name="lease-renew-deadline",
        help="How long a leader goes on that cannot renew its lease; without it, two thirds of the lease's duration.",
    ),
    Flag(
        name="lease-retry-period",
        help="How often another one looks at the lease; without it, two fifteenths of the lease's duration.",
    ),
    Flag(name="tls-min-version", help="Least TLS version: VersionTLS12 or VersionTLS13 (the default)."),
    Flag(name="tls-cipher-suites", help="Cipher suites for TLS 1.2, separated by commas."),
    Flag(name="tls-curve-preferences", help="Numbers of the curves for TLS, separated by commas."),
    Flag(
        name="metrics-cert-dir",
        help="Directory with tls.crt and tls.key for metrics; without it, a certificate is made at start.",
    ),
    Flag(name="pprof-bind-address", help="Address of the profiler of MetalLB.", not_yet="there is no such profiler"),
    Flag(env="METALLB_BGP_TYPE", default=NATIVE, help="How BGP is spoken: by it the rules for BGP objects are chosen."),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings in effect. An empty `namespace` stands for that of the service account."""

    port: int
    health_probe_port: int
    namespace: str
    ml_secret_name: str
    deployment: str
    pod_name: str
    log_level: str
    lb_class: str
    webhook_mode: str
    webhook_port: int
    cert_rotation: bool
    cert_dir: Path
    cert_service_name: str
    webhook_secret: str
    bgp_type: str
    metrics_cert_dir: Path | None
    tls: TlsOptions
    status_socket: Path | None
    lease: Terms
    not_in_effect: tuple[str, ...] = ()


def settings(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """The settings that a command line (without the program's name) and an environment mean.

    Raises:
        SystemExit: --help (0), or something is wrong with a flag or variable (1), said in one line on stderr.

    """
    parsed = parse_or_exit(PROGRAM, FLAGS, arguments, environment)
    try:
        tls = parse_tls_options(
            parsed.text("tls-min-version"), parsed.text("tls-cipher-suites"), parsed.text("tls-curve-preferences")
        )
    except TlsError as error:
        refuse(PROGRAM, FlagError(str(error)))
    try:
        lease = _terms(parsed)
    except FlagError as error:
        refuse(PROGRAM, error)
    socket, certificates = parsed.text("status-socket"), parsed.text("metrics-cert-dir")
    return Settings(
        port=parsed.integer("port"),
        health_probe_port=parsed.integer("health-probe-port"),
        namespace=parsed.text("namespace"),
        ml_secret_name=parsed.text("ml-secret-name"),
        deployment=parsed.text("deployment"),
        pod_name=parsed.text("pod-name"),
        log_level=parsed.text("log-level"),
        lb_class=parsed.text("lb-class"),
        webhook_mode=parsed.text("webhook-mode"),
        webhook_port=parsed.integer("webhook-port"),
        cert_rotation=not parsed.switch("disable-cert-rotation"),
        cert_dir=Path(parsed.text("cert-dir")),
        cert_service_name=parsed.text("cert-service-name"),
        webhook_secret=parsed.text("webhook-secret"),
        bgp_type=parsed.text("METALLB_BGP_TYPE"),
        metrics_cert_dir=Path(certificates) if certificates else None,
        tls=tls,
        status_socket=Path(socket) if socket else None,
        lease=lease,
        not_in_effect=tuple(flag.key for flag in parsed.not_in_effect),
    )


_DURATION: Final = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+)ms)?")


def _seconds(parsed: Parsed, key: str) -> float | None:
    """The duration in a flag, in Go's notation; None if it is not given.

    Raises:
        FlagError: it is no duration.

    """
    text = parsed.text(key)
    if not text:
        return None
    found = _DURATION.fullmatch(text)
    if found is None:
        raise FlagError(f"--{key}: {text!r} is not a duration; write it as 15s, 1m or 500ms")
    hours, minutes, seconds, milliseconds = (float(part or 0) for part in found.groups())
    return hours * 3600 + minutes * 60 + seconds + milliseconds / 1000


def _terms(parsed: Parsed) -> Terms:
    """The terms of the lease.

    Raises:
        FlagError: they promise nothing.

    """
    duration_s = _seconds(parsed, "lease-duration") or 0.0
    if duration_s != int(duration_s):
        raise FlagError(
            f"--lease-duration: {parsed.text('lease-duration')!r} must be whole seconds, because a Lease has only these"
        )
    usual = Terms.of(int(duration_s))
    deadline_s = _seconds(parsed, "lease-renew-deadline")
    terms = Terms(
        usual.duration_s,
        usual.renew_deadline_s if deadline_s is None else deadline_s,
        min(usual.renew_s, usual.renew_deadline_s if deadline_s is None else deadline_s / 2),
        usual.retry_s if (retry_s := _seconds(parsed, "lease-retry-period")) is None else retry_s,
    )
    if terms.problem():
        raise FlagError(f"--lease-duration, --lease-renew-deadline, --lease-retry-period: {terms.problem()}")
    return terms
