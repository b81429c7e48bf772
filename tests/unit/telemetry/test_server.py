"""Who may see what, over which listener."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import stat
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus
from ipaddress import ip_address
from pathlib import Path
from types import MappingProxyType

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Gauge

from telemetry import log
from telemetry import server as server_module
from telemetry.server import Listeners, TelemetryServer
from telemetry.tls import TlsOptions, self_signed

VERDICTS: Mapping[str, HTTPStatus] = {
    "good": HTTPStatus.OK,
    "limited": HTTPStatus.FORBIDDEN,
    "away": HTTPStatus.SERVICE_UNAVAILABLE,
}


async def authorize(token: str, path: str) -> HTTPStatus:
    if token == "only-status":
        return HTTPStatus.OK if path == "/status" else HTTPStatus.FORBIDDEN
    return VERDICTS.get(token, HTTPStatus.UNAUTHORIZED)


def free_port() -> int:
    with socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) as probe:
        return int(probe.getsockname()[1])


@dataclass
class Site:
    """A running server and a client that does not know its certificate."""

    listeners: Listeners
    session: aiohttp.ClientSession

    async def get(self, path: str, token: str = "", *, method: str = "GET") -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        url = f"https://127.0.0.1:{self.listeners.metrics_port}{path}"
        async with self.session.request(method, url, headers=headers, ssl=trusting()) as response:
            return response.status, await response.text()


def trusting(version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    return context


@asynccontextmanager
async def serving(tmp_path: Path, **changes: object) -> AsyncIterator[Site]:
    listeners = Listeners(
        metrics_port=free_port(), health_port=free_port(), health_address="127.0.0.1", socket_path=tmp_path / "run" / "s.sock"
    )
    listeners = replace(listeners, **changes)  # type: ignore[arg-type]  # each test names real members
    registry = CollectorRegistry()
    Gauge("metallb_speaker_announced", "Announced.", ["service"], registry=registry).labels(service="default/web").set(1)
    status = {"component": "speaker", "owned": frozenset({ip_address("192.0.2.1")}), "plan": MappingProxyType({"a": 1})}
    server = TelemetryServer(listeners, registry=registry, status=lambda: status, authorize=authorize)
    async with asyncio.timeout(20), asyncio.TaskGroup() as group, aiohttp.ClientSession() as session:
        running = group.create_task(server.run(), name="server")
        await server.started.wait()
        yield Site(listeners, session)
        running.cancel()


async def test_metrics_need_a_token_that_may_read_them(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        assert (await site.get("/metrics"))[0] == 401
        assert (await site.get("/metrics", "wrong"))[0] == 401
        assert (await site.get("/metrics", "limited"))[0] == 403
        assert (await site.get("/metrics", "only-status"))[0] == 403
        assert (await site.get("/metrics", "away"))[0] == 503
        status, text = await site.get("/metrics", "good")
        assert status == 200
        assert 'metallb_speaker_announced{service="default/web"} 1.0' in text


async def test_status_is_behind_the_same_check(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        assert (await site.get("/status"))[0] == 401
        status, text = await site.get("/status", "only-status")
        assert status == 200
        assert json.loads(text) == {"component": "speaker", "owned": ["192.0.2.1"], "plan": {"a": 1}}


async def test_there_is_nothing_else_and_nothing_to_write(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        assert (await site.get("/", "good"))[0] == 404
        assert (await site.get("/healthz", "good"))[0] == 404
        assert (await site.get("/metrics", "good", method="POST"))[0] == 405
        assert (await site.get("/metrics", "good", method="HEAD")) == (200, "")


async def test_plain_http_on_the_metrics_port_is_told_to_use_https(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        url = f"http://127.0.0.1:{site.listeners.metrics_port}/metrics"
        async with site.session.get(url, headers={"Authorization": "Bearer good"}) as response:
            assert response.status == 400
            assert "https" in await response.text()


async def test_a_connection_that_closes_without_a_word_harms_nobody(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        _, writer = await asyncio.open_connection("127.0.0.1", site.listeners.metrics_port)
        writer.close()
        _, rude = await asyncio.open_connection("127.0.0.1", site.listeners.metrics_port)
        rude.write(b"\x16\x03rubbish that is no handshake")
        assert (await site.get("/metrics", "good"))[0] == 200
        rude.close()


async def test_tls_1_2_is_refused_unless_it_is_allowed(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        url = f"https://127.0.0.1:{site.listeners.metrics_port}/metrics"
        with pytest.raises(aiohttp.ClientConnectorError):
            await site.session.get(url, ssl=trusting(ssl.TLSVersion.TLSv1_2))
    options = TlsOptions(ssl.TLSVersion.TLSv1_2, ciphers="ECDHE-ECDSA-AES256-GCM-SHA384")
    async with serving(tmp_path, tls=options) as site:
        url = f"https://127.0.0.1:{site.listeners.metrics_port}/metrics"
        async with site.session.get(url, ssl=trusting(ssl.TLSVersion.TLSv1_2)) as response:
            assert response.status == 401


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_health_is_a_plain_ping(tmp_path: Path, path: str) -> None:
    async with serving(tmp_path) as site:
        base = f"http://127.0.0.1:{site.listeners.health_port}"
        async with site.session.get(base + path) as response:
            assert (response.status, await response.text()) == (200, "ok")
        async with site.session.get(base + "/metrics") as response:
            assert response.status == 404


async def test_health_is_bound_only_where_it_is_asked_to(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.2", site.listeners.health_port)
    async with serving(tmp_path, health_address=None) as site:
        for host in ("127.0.0.2", "::1"):
            async with site.session.get(
                f"http://{host if '.' in host else f'[{host}]'}:{site.listeners.health_port}/readyz"
            ) as response:
                assert response.status == 200


async def test_the_local_socket_is_for_its_owner_only_and_goes_with_the_process(tmp_path: Path) -> None:
    path = tmp_path / "run" / "s.sock"
    async with serving(tmp_path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:
            async with session.get("http://local/status") as response:
                assert (await response.json())["component"] == "speaker"
            async with session.get("http://local/metrics") as response:
                assert response.status == 200
            async with session.get("http://local/other") as response:
                assert response.status == 404
    assert not path.exists()


async def test_a_socket_left_by_a_killed_process_is_taken_over_and_a_served_one_is_not(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    log.configure("info", component="speaker")
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with serving(tmp_path, socket_path=path):
        assert b"status_socket" not in capsysbinary.readouterr().out
        async with serving(tmp_path, socket_path=path):
            assert b"status_socket_taken" in capsysbinary.readouterr().out
        assert path.exists()


async def test_a_socket_that_cannot_be_made_is_said_and_the_rest_works(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    log.configure("info", component="speaker")
    (tmp_path / "file").write_text("")
    async with serving(tmp_path, socket_path=tmp_path / "file" / "s.sock") as site:
        assert b"status_socket_off" in capsysbinary.readouterr().out
        assert (await site.get("/metrics", "good"))[0] == 200


async def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        second = TelemetryServer(
            Listeners(metrics_port=site.listeners.metrics_port), registry=CollectorRegistry(), status=dict, authorize=authorize
        )
        with pytest.raises(OSError, match=f"cannot listen on the metrics port {site.listeners.metrics_port}"):
            await second.run()


@pytest.mark.parity("Kubernetes glue > metrics port 0 turns metrics off")
async def test_ports_that_are_0_are_off(tmp_path: Path) -> None:
    async with serving(tmp_path, metrics_port=0, health_port=0, socket_path=None) as site:
        assert site.listeners.metrics_port == 0


async def test_a_certificate_from_a_directory_is_used(tmp_path: Path) -> None:
    certificate, key = self_signed()
    (tmp_path / "tls.crt").write_bytes(certificate)
    (tmp_path / "tls.key").write_bytes(key)
    async with serving(tmp_path, cert_dir=tmp_path) as site:
        context = ssl.create_default_context(cadata=certificate.decode())
        context.check_hostname = False
        url = f"https://127.0.0.1:{site.listeners.metrics_port}/metrics"
        async with site.session.get(url, ssl=context) as response:
            assert response.status == 401


async def test_what_tls_options_cannot_do_is_said_once(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    log.configure("info", component="speaker")
    async with serving(tmp_path, tls=TlsOptions(notes=("no list of groups",))):
        assert capsysbinary.readouterr().out.count(b"no list of groups") == 1


async def test_a_plain_client_that_does_not_hang_up_is_hung_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "LINGER_S", 0.01)
    async with serving(tmp_path) as site:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.listeners.metrics_port)
        writer.write(b"GET /metrics HTTP/1.1\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.0 400 ")
        writer.close()


async def test_connections_beyond_the_limit_are_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "MAX_CONNECTIONS", 1)
    async with serving(tmp_path) as site:
        _, idle = await asyncio.open_connection("127.0.0.1", site.listeners.metrics_port)
        reader, writer = await asyncio.open_connection("127.0.0.1", site.listeners.metrics_port)
        assert await reader.read() == b""
        writer.close()
        idle.close()


async def test_a_certificate_that_cannot_be_reloaded_is_said_once_and_the_old_one_serves(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    log.configure("info", component="speaker")
    monkeypatch.setattr("telemetry.tls.LOOK_EVERY_S", 0.0)
    certificate, key = self_signed()
    (tmp_path / "tls.crt").write_bytes(certificate)
    (tmp_path / "tls.key").write_bytes(key)
    async with serving(tmp_path, cert_dir=tmp_path) as site:
        (tmp_path / "tls.crt").write_text("half a cert")
        assert (await site.get("/metrics", "good"))[0] == 200
        assert (await site.get("/metrics", "good"))[0] == 200
    assert capsysbinary.readouterr().out.count(b"certificate_not_reloaded") == 1
