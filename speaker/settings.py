"""The flags and variables of `python -m speaker`, and the files they point at.

MetalLB's names and defaults, so that either speaker can be started in the other's place. main() reads them once; nothing else
in the speaker looks at the environment. What cannot be used is a FlagError that names the setting and the remedy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import msgspec
import yaml

from config.cross import NATIVE
from config.model import IPAddress, NodeName
from memberlist.measures import PROFILE_NAMES
from speaker.layer2 import interfaces
from telemetry.flags import Flag, FlagError, Parsed, parse
from telemetry.tls import TlsError, TlsOptions, parse_tls_options

EXCLUDED_INTERFACES: Final = Path("/etc/metallb/excludel2.yaml")
GOSSIP_SETTINGS: Final = Path("/etc/metallb/memberlist/config.json")
SECRET_FILE: Final = "secretkey"  # noqa: S105 - the name of a file
AUTO: Final = "auto"
LOG_LEVELS: Final = ("all", "debug", "info", "warn", "error", "none")

TLS_FLAGS: Final = ("tls-min-version", "tls-cipher-suites", "tls-curve-preferences")
BGP = "BGP comes later"
FLAGS: Final = (
    Flag(name="node-name", env="METALLB_NODE_NAME", help="Name of the Node this speaker runs on. Required."),
    Flag(name="namespace", env="METALLB_NAMESPACE", help="Namespace of the speakers and their configuration."),
    Flag(name="pod-name", env="METALLB_POD_NAME", help="Name of this Pod, which will own the status objects."),
    Flag(name="host", env="METALLB_HOST", help="Accepted and ignored, as by MetalLB."),
    Flag(name="ml-bindaddr", env="METALLB_ML_BIND_ADDR", help="Address of the gossip; empty disables it."),
    Flag(
        name="ml-bindport", env="METALLB_ML_BIND_PORT", default=7946, low=1, high=65535, help="Port of the gossip, TCP and UDP."
    ),
    Flag(name="ml-labels", env="METALLB_ML_LABELS", help="Labels of the speaker Pods; empty disables the gossip."),
    Flag(
        name="ml-secret-key-path",
        env="METALLB_ML_SECRET_KEY_PATH",
        help="Directory of the file secretkey; empty: no encryption.",
    ),
    Flag(name="ml-wan-config", default=False, help="Gossip timing for several sites instead of one; wins over --ml-profile."),
    Flag(
        name="ml-profile",
        env="METALLB_ML_PROFILE",
        default=AUTO,
        choices=(AUTO, *PROFILE_NAMES),
        help="How soon a dead speaker is found out. auto: subsecond, balanced while MetalLB's own speakers are among the members.",
    ),
    Flag(name="port", default=9120, low=0, high=65535, help="HTTPS port of /metrics and /status; 0 switches it off."),
    Flag(name="health-probe-port", default=17472, low=0, high=65535, help="Port of /healthz and /readyz on 127.0.0.1."),
    Flag(
        name="status-socket",
        env="METALLB_STATUS_SOCKET",
        default="/run/metallb/speaker.sock",
        help="Unix socket of /status for lbctl.",
    ),
    Flag(name="log-level", default="info", choices=LOG_LEVELS, help="The least level that is logged."),
    Flag(name="lb-class", help="Serve only Services with this loadBalancerClass; empty: those without one."),
    Flag(
        name="ignore-exclude-lb", default=False, help="Announce from Nodes labelled exclude-from-external-load-balancers too."
    ),
    Flag(name="metrics-cert-dir", help="Directory of tls.crt and tls.key for the metrics port; empty: self-signed."),
    Flag(name="tls-min-version", help="Least TLS version of the metrics port: VersionTLS12 or VersionTLS13."),
    Flag(name="tls-cipher-suites", help="TLS 1.2 cipher suites of the metrics port, separated by commas."),
    Flag(name="tls-curve-preferences", help="TLS groups of the metrics port, as numbers separated by commas."),
    Flag(
        name="bgp-folder",
        env="METALLB_BGP_FOLDER",
        default="/run/bgp",
        help="Directory in memory for the files of the process that speaks BGP.",
    ),
    Flag(name="pprof-bind-address", help="Address of the profiler.", not_yet="there is no profiler"),
    Flag(
        name="bgp-debounce-timeout", env="METALLB_BGP_DEBOUNCE_TIMEOUT", default=3000, low=1, help="Milliseconds.", not_yet=BGP
    ),
    Flag(name="frrk8s-namespace", env="FRRK8S_NAMESPACE", help="Namespace of frr-k8s.", not_yet=BGP),
    Flag(name="frrk8s-secret-passthrough", default=False, help="Pass Secrets to frr-k8s.", not_yet=BGP),
    Flag(
        env="METALLB_BGP_TYPE",
        default=NATIVE,
        choices=(NATIVE, "frr", "frr-k8s"),
        help="How BGP is spoken: by it the rules for BGP objects are chosen.",
    ),
    Flag(env="FRR_CONFIG_FILE", help="Where FRR's configuration is written.", not_yet=BGP),
    Flag(env="FRR_RELOADER_PID_FILE", help="Where the reloader's process id is.", not_yet=BGP),
    Flag(env="FRR_LOGGING_LEVEL", help="FRR's log level.", not_yet=BGP),
)


@dataclass(frozen=True, slots=True)
class Gossip:
    """How to take part in the gossip. `secret` is the content of the secret file, never shown; empty: no encryption."""

    bind_address: IPAddress
    bind_port: int
    labels: str
    secret: bytes
    wan: bool
    overrides: bytes | None
    profile: str = AUTO

    def __repr__(self) -> str:
        return f"Gossip({self.bind_address}, {self.bind_port}, {self.labels!r})"


@dataclass(frozen=True, slots=True)
class Settings:
    """All that an operator can choose. `gossip` is None if it is disabled; `namespace` may be empty: ask the credentials."""

    node_name: NodeName
    namespace: str
    pod_name: str
    gossip: Gossip | None
    excluded: re.Pattern[str] | None
    port: int
    health_port: int
    status_socket: Path
    log_level: str
    lb_class: str
    bgp_type: str
    bgp_folder: Path
    honour_exclude_label: bool
    metrics_cert_dir: Path | None
    tls: TlsOptions
    not_in_effect: tuple[Flag, ...]


class _ExcludeFile(msgspec.Struct, frozen=True, rename="camel"):
    """The document in excludel2.yaml."""

    announced_interfaces_to_exclude: tuple[str, ...] = ()


def read(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """The settings of a command line (without the program's name) and an environment.

    Raises:
        FlagError: a setting is missing or cannot be used.
        telemetry.flags.HelpAsked: the command line asks for help.

    """
    parsed = parse(FLAGS, arguments, environment)
    node_name = parsed.text("node-name")
    if not node_name:
        raise FlagError("the name of the node is not known: give --node-name or METALLB_NODE_NAME")
    certificates = parsed.text("metrics-cert-dir")
    try:
        tls = parse_tls_options(*(parsed.text(name) for name in TLS_FLAGS))
    except TlsError as error:
        raise FlagError(str(error)) from error
    return Settings(
        node_name=NodeName(node_name),
        namespace=parsed.text("namespace"),
        pod_name=parsed.text("pod-name"),
        gossip=_gossip(parsed),
        excluded=excluded_interfaces(EXCLUDED_INTERFACES),
        port=parsed.integer("port"),
        health_port=parsed.integer("health-probe-port"),
        status_socket=Path(parsed.text("status-socket")),
        log_level=parsed.text("log-level"),
        lb_class=parsed.text("lb-class"),
        bgp_type=parsed.text("METALLB_BGP_TYPE"),
        bgp_folder=Path(parsed.text("bgp-folder")) / "exabgp",
        honour_exclude_label=not parsed.switch("ignore-exclude-lb"),
        metrics_cert_dir=Path(certificates) if certificates else None,
        tls=tls,
        not_in_effect=parsed.not_in_effect,
    )


def _gossip(parsed: Parsed) -> Gossip | None:
    address, labels = parsed.text("ml-bindaddr"), parsed.text("ml-labels")
    if not address or not labels:
        return None
    try:
        bind_address = ip_address(address)
    except ValueError:
        raise FlagError(f"--ml-bindaddr {address!r} is not an IP address") from None
    directory = parsed.text("ml-secret-key-path")
    secret = _read(Path(directory) / SECRET_FILE, "--ml-secret-key-path") if directory else b""
    overrides = _read(GOSSIP_SETTINGS, "the gossip settings") if GOSSIP_SETTINGS.exists() else None
    return Gossip(
        bind_address,
        parsed.integer("ml-bindport"),
        labels,
        secret,
        parsed.switch("ml-wan-config"),
        overrides,
        parsed.text("ml-profile"),
    )


def excluded_interfaces(path: Path) -> re.Pattern[str] | None:
    """The interfaces that the file says to ignore; None if there is no such file.

    Raises:
        FlagError: the file cannot be read or understood.

    """
    if not path.exists():
        return None
    text = _read(path, "the excluded interfaces")
    try:
        document = msgspec.convert(yaml.safe_load(text) or {}, _ExcludeFile)
        return interfaces.exclusion(document.announced_interfaces_to_exclude)
    except (yaml.YAMLError, msgspec.ValidationError, ValueError) as error:
        raise FlagError(f"{path}: {error}") from error


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FlagError(f"{what}: cannot read {path}: {error.strerror}") from error
