"""Write down as nginx configuration what lab.ingress.routing decided and users set. Pure text from values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from lab.ingress.routing import Location, Match, Server, Stream, Target
from lab.ingress.settings import Chosen, networks

HEALTH_PORT: Final = 10254
RESERVED: Final = (80, 443, HEALTH_PORT)
_HEALTH: Final = "location = /healthz { return 200; } location / { return 404; }"


@dataclass(frozen=True, slots=True)
class Ground:
    """What all servers stand on: settings, headers to add for backends and for clients, certificates.

    `certificates` are paths of PEM files by Secret (namespace/name); the default certificate has the empty name.
    """

    config: Chosen
    certificates: Mapping[str, str]
    request_headers: Mapping[str, str] = field(default_factory=dict)
    response_headers: Mapping[str, str] = field(default_factory=dict)


def quoted(text: str) -> str:
    """A text as one word for nginx; its variables work in there."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
    return f'"{escaped}"'


def http(servers: Sequence[Server], upstreams: Mapping[Target, Sequence[str]], ground: Ground) -> str:
    """The inside of the http block. A target without endpoints answers 503, paths that nobody claims 404."""
    config = ground.config
    strict = ""
    if config.is_on("hsts"):
        strict = f"max-age={config['hsts-max-age']}"
        strict += "; includeSubDomains" * config.is_on("hsts-include-subdomains") + "; preload" * config.is_on("hsts-preload")
    lines = [
        *config.all_directives(),
        f"access_log {'off' if config.is_on('disable-access-log') else '/dev/stdout'};",
        "proxy_http_version 1.1;",
        "ssl_session_cache shared:SSL:10m;",
        *(f"proxy_hide_header {name};" for name in networks(config["hide-headers"])),
        config["http-snippet"],
        f"map $scheme $strict_transport {{ https {quoted(strict)}; default ''; }}",
        "map $http_upgrade $connection_upgrade { default upgrade; '' ''; }",
        f"server {{ listen {HEALTH_PORT}; listen [::]:{HEALTH_PORT}; access_log off; {_HEALTH} }}",
    ]
    alive = config["upstream-keepalive-connections"]
    for target, endpoints in sorted(upstreams.items(), key=lambda item: item[0].upstream):
        if endpoints:
            lines.append(f"upstream {target.upstream} {{ {_members(endpoints)} keepalive {alive}; }}")
    for server in servers:
        lines += _server(server, upstreams, ground)
    return "\n    ".join(lines)


def _members(endpoints: Iterable[str]) -> str:
    return " ".join(f"server {endpoint};" for endpoint in endpoints)


def _server(server: Server, upstreams: Mapping[Target, Sequence[str]], ground: Ground) -> list[str]:
    default = "" if server.host else " default_server"
    secure = "ssl http2" if ground.config.is_on("use-http2") else "ssl"
    pem = ground.certificates.get(server.secret) or ground.certificates[""]
    lines = [
        f"server {{ server_name {_server_name(server.host)};",
        *(f"  listen {where}80{default};" for where in ("", "[::]:")),
        *(f"  listen {where}443 {secure}{default};" for where in ("", "[::]:")),
        f"  ssl_certificate {quoted(pem)}; ssl_certificate_key {quoted(pem)};",
        "  add_header Strict-Transport-Security $strict_transport always;",
        *(f"  add_header {name} {quoted(value)} always;" for name, value in sorted(ground.response_headers.items())),
    ]
    if server.app_root:
        lines.append(f"  if ($uri = /) {{ return 302 $scheme://$http_host{server.app_root}; }}")
    exact = {each.path for each in server.locations if each.match is Match.EXACT}
    taken = set()
    for location in server.locations:
        body = _body(location, server, upstreams, ground)
        for where in _where(location, exact, regular=server.has_regular_expressions):
            if where not in taken:
                taken.add(where)
                lines.append(f"  location {where} {{ {body} }}")
    if "/" not in taken:
        passing = _pass(server.fallback, "http", upstreams) if server.fallback else "return 404;"
        lines.append(f"  location / {{ {_headers(ground, '$http_host')} {passing} }}")
    return [*lines, "}"]


def _server_name(host: str) -> str:
    """A host for nginx; an asterisk stands for one label, while nginx's own would stand for several."""
    if host.startswith("*"):
        domain = host.removeprefix("*").replace(".", "[.]")
        return rf'"~^[\w-]+{domain}$"'
    return host or "_"


def _where(location: Location, exact: set[str], *, regular: bool) -> list[str]:
    """The patterns of nginx that stand for one path."""
    path = location.path
    if regular:
        return [f'~* "^{path}"']
    if location.match is Match.EXACT:
        return [f'= "{path}"']
    if path == "/":
        return ["/"]
    if location.match is Match.BEGINNING:
        return [f'"{path}"']
    return [f'"{path}/"', *([] if path in exact else [f'= "{path}"'])]


def _body(location: Location, server: Server, upstreams: Mapping[Target, Sequence[str]], ground: Ground) -> str:
    """What happens to a request: who may come, redirects, what the backend is told, and where it goes."""
    options, config = location.options, ground.config
    parts = []
    allowed = list(networks(options["whitelist-source-range"] or config["whitelist-source-range"]))
    if allowed:
        parts += [*(f"allow {network};" for network in allowed), "deny all;"]
    wished = options["ssl-redirect"] or config["ssl-redirect"]
    forced = options["force-ssl-redirect"] or config["force-ssl-redirect"]
    if forced == "true" or (server.tls and wished == "true"):
        parts.append(f"if ($scheme = http) {{ return {config['http-redirect-code']} https://$host$request_uri; }}")
    if options["permanent-redirect"]:
        parts.append(f"return {options['permanent-redirect-code'] or '301'} {options['permanent-redirect']};")
    if options["temporal-redirect"]:
        parts.append(f"return 302 {options['temporal-redirect']};")
    parts += options.directives()
    parts.append(_headers(ground, options["upstream-vhost"] or "$http_host"))
    if location.rewrites:
        parts.append(f'rewrite "(?i){location.path}" {options["rewrite-target"]} break;')
    parts.append(_pass(location.target, (options["backend-protocol"] or "HTTP").lower(), upstreams))
    return " ".join(parts)


def _headers(ground: Ground, host: str) -> str:
    """The headers that tell a backend who asked, how and for what."""
    trusted = ground.config.is_on("use-forwarded-headers")
    headers = {
        "Host": host,
        "Upgrade": "$http_upgrade",
        "Connection": "$connection_upgrade",
        "X-Request-ID": "$request_id",
        "X-Real-IP": "$remote_addr",
        "X-Forwarded-For": "$proxy_add_x_forwarded_for" if trusted else "$remote_addr",
        "X-Forwarded-Host": "$http_host",
        "X-Forwarded-Port": "$server_port",
        "X-Forwarded-Proto": "$scheme",
        "X-Forwarded-Scheme": "$scheme",
        "X-Scheme": "$scheme",
        **ground.request_headers,
    }
    return " ".join(f"proxy_set_header {name} {quoted(value)};" for name, value in headers.items())


def _pass(target: Target, protocol: str, upstreams: Mapping[Target, Sequence[str]]) -> str:
    return f"proxy_pass {protocol}://{target.upstream};" if upstreams.get(target) else "return 503;"


def stream(wanted: Mapping[Stream, Sequence[str]], config: Chosen) -> str:
    """The inside of the stream block; a target without endpoints is not listened for."""
    lines = []
    for each, endpoints in sorted(wanted.items(), key=lambda item: (item[0].protocol, item[0].port)):
        if endpoints:
            udp, answers = (
                (" udp", f" proxy_responses {config['proxy-stream-responses']};") if each.protocol == "UDP" else ("", "")
            )
            lines.append(f"upstream {each.upstream} {{ {_members(endpoints)} }}")
            lines.append(
                f"server {{ listen {each.port}{udp}; listen [::]:{each.port}{udp};{answers}"
                f" proxy_timeout {config['proxy-stream-timeout']}; proxy_pass {each.upstream}; }}"
            )
    return "\n    ".join(lines)
