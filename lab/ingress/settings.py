"""What users may set: the keys of the controller's ConfigMap, and annotations of an Ingress, as tables.

A row says how a value must look, what it is without one, and which nginx directive it becomes. Values that do not fit keep
their default and are told to the user, and so are keys that this stand-in does not know. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

PREFIX: Final = "nginx.ingress.kubernetes.io/"

_SIZE: Final = r"\d+[kKmMgG]?"
_NUMBER: Final = r"\d+"
_TIME: Final = r"(\d+(ms|[smhd])?)+"
_SWITCH: Final = r"true|false"
_WORDS: Final = r"[-A-Za-z0-9._/ +*]+"
_CIDRS: Final = r"[0-9a-fA-F.:/]+( *, *[0-9a-fA-F.:/]+)*"
_URL: Final = r"[^\s\"';{}\\]+"
_CIPHERS: Final = r"[-A-Za-z0-9:!+@_=]+"
_LIST: Final = r"[-A-Za-z0-9_]+( *, *[-A-Za-z0-9_]+)*"


@dataclass(frozen=True, slots=True)
class Row:
    """One setting. `directive` has a {} for the value; empty: nginx.py reads the value itself."""

    pattern: str
    default: str = ""
    directive: str = ""

    def written(self, value: str) -> str:
        """The directive for a value."""
        if self.pattern == _SWITCH:
            value = "on" if value == "true" else "off"
        return self.directive.format(value)


CONFIG: Final[Mapping[str, Row]] = {
    "client-body-buffer-size": Row(_SIZE, "8k", "client_body_buffer_size {};"),
    "client-body-timeout": Row(_NUMBER, "60", "client_body_timeout {}s;"),
    "client-header-buffer-size": Row(_SIZE, "1k", "client_header_buffer_size {};"),
    "client-header-timeout": Row(_NUMBER, "60", "client_header_timeout {}s;"),
    "enable-underscores-in-headers": Row(_SWITCH, "false", "underscores_in_headers {};"),
    "gzip-level": Row(r"[1-9]", "1", "gzip_comp_level {};"),
    "gzip-min-length": Row(_NUMBER, "256", "gzip_min_length {};"),
    "gzip-types": Row(_WORDS, "application/json application/javascript text/css text/plain", "gzip_types {};"),
    "ignore-invalid-headers": Row(_SWITCH, "true", "ignore_invalid_headers {};"),
    "keep-alive": Row(_NUMBER, "75", "keepalive_timeout {}s;"),
    "keep-alive-requests": Row(_NUMBER, "1000", "keepalive_requests {};"),
    "large-client-header-buffers": Row(rf"\d+ {_SIZE}", "4 8k", "large_client_header_buffers {};"),
    "limit-rate": Row(_SIZE, "0", "limit_rate {};"),
    "proxy-body-size": Row(_SIZE, "1m", "client_max_body_size {};"),
    "proxy-buffer-size": Row(_SIZE, "4k", "proxy_buffer_size {};"),
    "proxy-buffering": Row(r"on|off", "off", "proxy_buffering {};"),
    # A second instead of the real one's five: a Pod on a node without power does not answer, and the next one will.
    "proxy-connect-timeout": Row(_NUMBER, "1", "proxy_connect_timeout {}s;"),
    "proxy-next-upstream": Row(r"[a-z_0-9 ]+", "error timeout", "proxy_next_upstream {};"),
    "proxy-next-upstream-tries": Row(_NUMBER, "3", "proxy_next_upstream_tries {};"),
    "proxy-read-timeout": Row(_NUMBER, "60", "proxy_read_timeout {}s;"),
    "proxy-send-timeout": Row(_NUMBER, "60", "proxy_send_timeout {}s;"),
    "server-name-hash-bucket-size": Row(_NUMBER, "256", "server_names_hash_bucket_size {};"),
    "server-tokens": Row(_SWITCH, "false", "server_tokens {};"),
    "ssl-ciphers": Row(_CIPHERS, "HIGH:!aNULL:!MD5", "ssl_ciphers {};"),
    "ssl-protocols": Row(r"(TLSv1(\.[123])?( +|$))+", "TLSv1.2 TLSv1.3", "ssl_protocols {};"),
    "ssl-session-timeout": Row(_TIME, "10m", "ssl_session_timeout {};"),
    "use-gzip": Row(_SWITCH, "false", "gzip {};"),
    "add-headers": Row(r"[-a-z0-9.]+/[-a-z0-9.]+"),
    "disable-access-log": Row(_SWITCH, "false"),
    "force-ssl-redirect": Row(_SWITCH, "false"),
    "hide-headers": Row(_LIST),
    "hsts": Row(_SWITCH, "true"),
    "hsts-include-subdomains": Row(_SWITCH, "true"),
    "hsts-max-age": Row(_NUMBER, "31536000"),
    "hsts-preload": Row(_SWITCH, "false"),
    "http-redirect-code": Row(r"30[1278]", "308"),
    "http-snippet": Row(r"[^{}]*"),
    "proxy-set-headers": Row(r"[-a-z0-9.]+/[-a-z0-9.]+"),
    "proxy-stream-responses": Row(_NUMBER, "1"),
    "proxy-stream-timeout": Row(_TIME, "600s"),
    "ssl-redirect": Row(_SWITCH, "true"),
    "upstream-keepalive-connections": Row(_NUMBER, "320"),
    "use-forwarded-headers": Row(_SWITCH, "false"),
    "use-http2": Row(_SWITCH, "true"),
    "whitelist-source-range": Row(_CIDRS),
}

ANNOTATIONS: Final[Mapping[str, Row]] = {
    "client-body-buffer-size": CONFIG["client-body-buffer-size"],
    "limit-rate": CONFIG["limit-rate"],
    "proxy-body-size": CONFIG["proxy-body-size"],
    "proxy-buffer-size": CONFIG["proxy-buffer-size"],
    "proxy-buffering": CONFIG["proxy-buffering"],
    "proxy-connect-timeout": CONFIG["proxy-connect-timeout"],
    "proxy-next-upstream": CONFIG["proxy-next-upstream"],
    "proxy-next-upstream-tries": CONFIG["proxy-next-upstream-tries"],
    "proxy-read-timeout": CONFIG["proxy-read-timeout"],
    "proxy-send-timeout": CONFIG["proxy-send-timeout"],
    "app-root": Row(r"/[^\s\"';{}\\]*"),
    "backend-protocol": Row(r"HTTPS?"),
    "force-ssl-redirect": Row(_SWITCH),
    "permanent-redirect": Row(_URL),
    "permanent-redirect-code": Row(r"30[1278]"),
    "rewrite-target": Row(r"[^\s\"';{}\\]+"),
    "ssl-redirect": Row(_SWITCH),
    "temporal-redirect": Row(_URL),
    "upstream-vhost": Row(r"[-A-Za-z0-9._:$]+"),
    "use-regex": Row(_SWITCH),
    "whitelist-source-range": Row(_CIDRS),
}


@dataclass(frozen=True, slots=True)
class Chosen:
    """The values that were given and are good, by key, without defaults."""

    rows: Mapping[str, Row]
    values: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, key: str) -> str:
        """The value of a setting, or its default."""
        return self.values.get(key, self.rows[key].default)

    def is_on(self, key: str) -> bool:
        """Whether a switch is on."""
        return self[key] == "true"

    def directives(self) -> list[str]:
        """The directives of the values that were given."""
        return [row.written(self.values[key]) for key, row in self.rows.items() if row.directive and key in self.values]

    def all_directives(self) -> list[str]:
        """The directives of all settings, with defaults where nothing was given."""
        return [row.written(self[key]) for key, row in self.rows.items() if row.directive]


def choose(given: Mapping[str, str], rows: Mapping[str, Row], *, of: str) -> tuple[Chosen, list[str]]:
    """What of the given settings takes effect, and what is wrong with the others, for the log. `of` names their object."""
    good: dict[str, str] = {}
    problems = []
    for key, value in sorted(given.items()):
        row = rows.get(key)
        if row is None:
            problems.append(f"{of}: the lab's stand-in does not know {key!r}")
        elif not re.fullmatch(row.pattern, value.strip()):
            problems.append(f"{of}: {key}: {value!r} does not fit {row.pattern}; the default is in force")
        else:
            good[key] = value.strip()
    return Chosen(rows, good), problems


def of_annotations(annotations: Mapping[str, str] | None, *, of: str) -> tuple[Chosen, list[str]]:
    """The settings in the annotations of an Ingress; annotations of others are none of our business."""
    given = {key.removeprefix(PREFIX): value for key, value in (annotations or {}).items() if key.startswith(PREFIX)}
    if "allowlist-source-range" in given:  # Its newer name.
        given["whitelist-source-range"] = given.pop("allowlist-source-range")
    return choose(given, ANNOTATIONS, of=of)


def networks(value: str) -> Iterable[str]:
    """The networks of a comma-separated list."""
    return (each.strip() for each in value.split(",") if each.strip())
