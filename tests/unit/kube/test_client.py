"""Requests carry what they must, and every way in which they can fail has its name."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kube.auth import Access, Credentials, CredentialsError
from kube.client import EventKind, KubeClient, PatchKind
from kube.errors import Conflict, Forbidden, Malformed, NotFound, Unauthorized, Unreachable
from kube.objects import LoadBalancerIngress, LoadBalancerStatus, ServiceStatus
from kube.resources import IP_ADDRESS_POOLS, NODES, SERVICES
from tests.unit.kube.responder import Line, Request, connected, listing, responding, service


async def echo(request: Request, line: Line) -> None:
    """Answers every request with an object that holds the request."""
    body = json.loads(request.body) if request.body else None
    document = {
        "method": request.method,
        "path": request.path,
        "query": request.query,
        "headers": request.headers,
        "body": body,
    }
    await line.answer(200, {"metadata": {"name": "x"}, "seen": document})


async def test_the_token_is_sent_and_nothing_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Releases of the package have sent no Authorization header at all; proxies and ~/.netrc are not ours to use."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login a password b\n")
    async with responding(echo) as server:
        async with connected(server.url, "Bearer abc") as client:
            await client.get(SERVICES, "a", "default")
        async with connected(server.url) as client:
            await client.get(SERVICES, "a", "default")
        with_token, without = server.requests
    assert with_token.headers["authorization"] == "Bearer abc"
    assert with_token.headers["accept"] == "application/json"
    assert with_token.headers["user-agent"] == "metallb-py"
    assert "authorization" not in without.headers


async def test_a_token_that_was_rotated_is_found_when_the_old_one_is_refused() -> None:
    token = "old"

    async def answer(request: Request, line: Line) -> None:
        if request.headers["authorization"] == "Bearer new":
            await line.answer(200, service("a", 1))
        else:
            await line.answer(401, {"kind": "Status", "code": 401, "reason": "Unauthorized", "message": "Unauthorized"})

    async with responding(answer) as server:
        client = await KubeClient.connect(Credentials(lambda: Access(server.url, f"Bearer {token}")))
        try:
            with pytest.raises(Unauthorized):
                await client.get(SERVICES, "a", "default")
            assert len(server.requests) == 1, "no second try with the same token"
            token = "new"
            assert (await client.get(SERVICES, "a", "default")).key == "default/a"
            assert len(server.requests) == 3
        finally:
            await client.close()


async def test_a_token_that_is_due_is_used_without_waiting_for_a_refusal(tmp_path: Path) -> None:
    now = 0.0
    (tmp_path / "token").write_text("first\n")

    async with responding(echo) as server:

        def read() -> Access:
            path = tmp_path / "token"
            return Access(server.url, f"Bearer {path.read_text().strip()}", files=(path,))

        client = await KubeClient.connect(Credentials(read, clock=lambda: now))
        try:
            await client.get(SERVICES, "a", "default")
            (tmp_path / "token").write_text("second\n")
            now = 11.0
            await client.get(SERVICES, "a", "default")
        finally:
            await client.close()
        assert [request.headers["authorization"] for request in server.requests] == ["Bearer first", "Bearer second"]


async def seen(action: str, *arguments: Any, **options: Any) -> dict[str, Any]:
    async with responding(echo) as server, connected(server.url) as client:
        answer = await getattr(client, action)(*arguments, **options)
    document: dict[str, Any] = answer.document["seen"]
    return document


async def test_create_posts_to_the_collection() -> None:
    request = await seen("create", IP_ADDRESS_POOLS, {"metadata": {"name": "p"}}, namespace="m")
    assert (request["method"], request["path"]) == ("POST", "/apis/metallb.io/v1beta1/namespaces/m/ipaddresspools")
    assert request["body"] == {"metadata": {"name": "p"}}
    assert request["headers"]["content-type"] == "application/json"


async def test_structs_are_written_as_the_api_names_their_members() -> None:
    status = ServiceStatus(load_balancer=LoadBalancerStatus(ingress=(LoadBalancerIngress(ip="192.0.2.1", ip_mode="VIP"),)))
    patch = {"status": status}
    request = await seen("patch", SERVICES.raw(), "web", patch, namespace="default", subresource="status")
    assert (request["method"], request["path"]) == ("PATCH", "/api/v1/namespaces/default/services/web/status")
    assert request["headers"]["content-type"] == "application/merge-patch+json"
    assert request["body"] == {"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1", "ipMode": "VIP"}]}}}


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (PatchKind.JSON, [{"op": "remove", "path": "/status"}]),
        (PatchKind.STRATEGIC, {"status": {}}),
        (PatchKind.APPLY, {"apiVersion": "v1", "kind": "Service"}),
    ],
)
async def test_every_kind_of_patch_has_its_media_type(kind: PatchKind, body: object) -> None:
    request = await seen("patch", SERVICES.raw(), "web", body, namespace="default", kind=kind)
    assert request["headers"]["content-type"] == kind.value
    assert request["body"] == body


async def test_server_side_apply_names_its_manager() -> None:
    request = await seen(
        "patch", SERVICES.raw(), "web", {}, namespace="d", kind=PatchKind.APPLY, field_manager="metallb", force=True
    )
    assert request["query"] == {"fieldManager": "metallb", "force": "true"}


async def test_update_puts_the_whole_object() -> None:
    body = {"metadata": {"name": "web", "resourceVersion": "5"}, "spec": {"sessionAffinity": "None"}}
    request = await seen("update", SERVICES.raw(), "web", body, namespace="d", subresource="status")
    assert (request["method"], request["path"]) == ("PUT", "/api/v1/namespaces/d/services/web/status")
    assert request["body"] == body


async def test_delete_can_be_limited_to_one_very_object() -> None:
    async with responding(echo) as server, connected(server.url) as client:
        await client.delete(NODES, "n1")
        await client.delete(SERVICES, "web", namespace="d", uid="u-1")
        await client.delete(SERVICES, "web", namespace="d", grace_s=0)
        plain, limited, at_once = server.requests
    assert (plain.method, plain.path, plain.body) == ("DELETE", "/api/v1/nodes/n1", b"")
    assert json.loads(limited.body)["preconditions"] == {"uid": "u-1"}
    assert json.loads(at_once.body) == {"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0}


async def test_post_gives_the_answer_as_it_came() -> None:
    async with responding(echo) as server, connected(server.url) as client:
        answer = await client.post("/apis/authentication.k8s.io/v1/tokenreviews", {"spec": {"token": "t"}})
    assert msgspec.json.decode(answer)["seen"]["body"] == {"spec": {"token": "t"}}


async def test_selectors_are_sent_with_a_list_and_a_watch() -> None:
    async def answer(request: Request, line: Line) -> None:
        if request.is_watch:
            await line.begin()
            await line.event("ADDED", service("a", 3))
            await line.end()
        else:
            await line.answer(200, listing(7))

    chosen = {"label_selector": "app in (a,b)", "field_selector": "metadata.name=x"}
    async with responding(answer) as server, connected(server.url) as client:
        assert await client.list(SERVICES, namespace="d", **chosen) == ([], "7")
        events = [event async for event in client.watch(SERVICES, resource_version="7", timeout_s=30.2, **chosen)]
        for request in server.requests:
            assert request.query["labelSelector"] == "app in (a,b)"
            assert request.query["fieldSelector"] == "metadata.name=x"
        assert server.requests[1].query["timeoutSeconds"] == "30"
    assert [(event.kind, event.resource_version) for event in events] == [(EventKind.ADDED, "3")]


@pytest.mark.parametrize(("status", "error"), [(403, Forbidden), (404, NotFound), (409, Conflict)])
async def test_an_error_answer_is_raised_by_its_name(status: int, error: type[Exception]) -> None:
    async def answer(_: Request, line: Line) -> None:
        await line.answer(status, {"kind": "Status", "code": status, "message": "because"})

    async with responding(answer) as server, connected(server.url) as client:
        with pytest.raises(error, match="because"):
            await client.get(SERVICES, "a", "default")


async def test_a_server_that_is_away_is_unreachable() -> None:
    async with connected("http://127.0.0.1:1") as client:
        with pytest.raises(Unreachable, match=r"cannot connect to http://127\.0\.0\.1:1") as caught:
            await client.get(SERVICES, "a", "default")
    assert caught.value.phase == "connect"


async def test_a_server_whose_certificate_is_not_trusted_is_unreachable_and_the_reason_is_said() -> None:
    from telemetry.tls import ServerCertificate, TlsOptions  # noqa: PLC0415 - a certificate that is at hand

    context = ServerCertificate(TlsOptions(), None, clock=lambda: 0.0).context()
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with connected(url) as client:
        with pytest.raises(Unreachable, match="certificate"):
            await client.get(SERVICES, "a", "default")
    server.close()
    await server.wait_closed()


async def test_an_answer_that_breaks_off_is_unreachable() -> None:
    async def answer(request: Request, line: Line) -> None:
        if request.path.endswith("/half"):
            line._writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
            await line._writer.drain()
            line._writer.close()
        elif request.path.endswith("/rubbish"):
            line._writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")
            line._writer.close()
        else:
            line.reset()

    async with responding(answer) as server, connected(server.url) as client:
        for name in ("half", "rubbish", "reset"):
            with pytest.raises(Unreachable) as caught:
                await client.patch(SERVICES, name, {}, namespace="d")
            assert caught.value.phase == "exchange"


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"spec": 7}', b'{"metadata": {"name": "\xff"}}'])
async def test_an_answer_that_is_no_object_is_malformed(body: bytes) -> None:
    async def answer(_: Request, line: Line) -> None:
        await line.answer(200, body)

    async with responding(answer) as server, connected(server.url) as client:
        with pytest.raises(Malformed):
            await client.get(SERVICES, "a", "default")


async def test_a_list_that_cannot_be_read_is_malformed_and_one_bad_object_is_named() -> None:
    async def answer(request: Request, line: Line) -> None:
        bad: dict[str, object] = {"metadata": {"name": "bad", "namespace": "d"}, "spec": []}
        worse: dict[str, object] = {"metadata": 7}
        await line.answer(200, b"[]" if "nodes" in request.path else listing(1, service("good", 1), bad, worse))

    async with responding(answer) as server, connected(server.url) as client:
        with pytest.raises(Malformed, match="list of nodes"):
            await client.list(NODES)
        with pytest.raises(Malformed, match="Service d/bad"):
            await client.list(SERVICES)
        listed = await client.list_all(SERVICES)
    assert [each.key for each in listed.items] == ["default/good"]
    assert [each.key for each in listed.undecoded] == ["d/bad", "?"]


async def test_an_event_whose_metadata_cannot_be_read_keeps_the_watch_going() -> None:
    async def answer(_: Request, line: Line) -> None:
        await line.begin()
        await line.event("ADDED", {"metadata": 7})
        await line.event("ADDED", service("a", 3))
        await line.end()

    async with responding(answer) as server, connected(server.url) as client:
        first, second = [event async for event in client.watch(SERVICES, resource_version="1")]
    assert first.undecoded is not None
    assert (first.object, first.undecoded.key, first.resource_version) == (None, "?", "")
    assert second.object is not None


async def test_events_may_arrive_in_any_pieces() -> None:
    lines = b"".join(
        json.dumps({"type": "ADDED", "object": service(f"s{number}", number)}).encode() + b"\n" for number in range(20)
    )

    async def answer(_: Request, line: Line) -> None:
        await line.begin()
        for start in range(0, len(lines), 37):
            await line.send(lines[start : start + 37])
        await line.send(b"\n \n")
        await line.end()

    async with responding(answer) as server, connected(server.url) as client:
        events = [event async for event in client.watch(SERVICES, resource_version="1")]
    assert [event.resource_version for event in events] == [str(number) for number in range(20)]


async def test_a_watch_that_is_left_closes_its_connection() -> None:
    closed = asyncio.Event()

    async def answer(_: Request, line: Line) -> None:
        await line.begin()
        try:
            while True:
                await line.event("ADDED", service("a", 3))
                await asyncio.sleep(0.001)
        except ConnectionError:
            closed.set()

    async with asyncio.timeout(10), responding(answer) as server, connected(server.url) as client:
        async with client.open_watch(SERVICES, resource_version="1") as events:
            await anext(events)
        await closed.wait()


async def test_ca_certificates_that_are_none_are_refused_at_the_start() -> None:
    for rubbish in (b"no certificate", b"\xff"):
        with pytest.raises(CredentialsError, match="CA certificate for https://a:1"):
            await KubeClient.connect(Credentials(lambda content=rubbish: Access("https://a:1", ca=content)))  # type: ignore[misc]


async def test_rotated_certificates_that_cannot_be_used_are_remembered_as_a_problem() -> None:
    ca: bytes | None = None
    async with responding(echo) as server:
        credentials = Credentials(lambda: Access(server.url, ca=ca))
        client = await KubeClient.connect(credentials)
        try:
            ca = base64.b64encode(b"no certificate")
            assert await credentials.read_again(credentials.access)
            await client.get(SERVICES, "a", "default")
            assert "rotated certificates" in client.problem
        finally:
            await client.close()
