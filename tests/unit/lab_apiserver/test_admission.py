"""Validating webhooks, really called over TLS."""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from aiohttp import web

from lab.apiserver.server import Running
from tests.unit.lab_apiserver.helpers import MERGE, Client, config_map

MAPS = "/api/v1/namespaces/default/configmaps"
HOOKS = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
Json = dict[str, Any]


@contextlib.asynccontextmanager
async def webhook(server: Running, *names: str) -> AsyncIterator[tuple[int, list[Json]]]:
    """A webhook that refuses data.refuse=yes and warns of everything: its port, and the reviews it was asked for."""
    asked: list[Json] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        review = msgspec.json.decode(await request.read())["request"]
        asked.append(review)
        refused = ((review["object"] or {}).get("data") or {}).get("refuse") == "yes"
        verdict = {"uid": review["uid"], "allowed": not refused, "status": {"message": "no such thing"}, "warnings": ["seen"]}
        return web.json_response({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": verdict})

    pair = server.authority.issue("hook", "hook", names=names, addresses=["127.0.0.1"])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.certificate, pair.key)
    runner = web.ServerRunner(web.Server(answer, access_log=None), shutdown_timeout=0)
    await runner.setup()
    sock = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, sock, ssl_context=context).start()
    try:
        yield sock.getsockname()[1], asked
    finally:
        await runner.cleanup()


def configuration(server: Running, client: Json, **more: Any) -> Json:
    bundle = base64.b64encode(server.ca_file.read_bytes()).decode()
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["configmaps"]}
    hook = {
        "name": "check.example.com", "clientConfig": {"caBundle": bundle, **client}, "rules": [rule], "sideEffects": "None",
        "admissionReviewVersions": ["v1"], "timeoutSeconds": 2, **more,
    }  # fmt: skip
    return {"metadata": {"name": "check"}, "webhooks": [hook]}


async def test_a_webhook_sees_each_write_and_its_refusal_stops_it(server: Running, admin: Client) -> None:
    async with webhook(server) as (port, asked):
        await admin.must("POST", HOOKS, configuration(server, {"url": f"https://127.0.0.1:{port}/check"}))
        await admin.must("POST", MAPS, config_map("a", k="1"))
        await admin.must("PATCH", f"{MAPS}/a", {"data": {"k": "2"}}, media=MERGE)
        status, answer = await admin.call("PATCH", f"{MAPS}/a", {"data": {"refuse": "yes"}}, media=MERGE)
        await admin.must("DELETE", f"{MAPS}/a")
    assert (status, answer["message"]) == (403, 'admission webhook "check.example.com" denied the request: no such thing')
    assert [r["operation"] for r in asked] == ["CREATE", "UPDATE", "UPDATE", "DELETE"]
    assert [(r["oldObject"] or {}).get("data") for r in asked] == [None, {"k": "1"}, {"k": "2"}, {"k": "2"}]
    assert [(r["object"] or {}).get("data") for r in asked] == [{"k": "1"}, {"k": "2"}, {"k": "2", "refuse": "yes"}, None]


async def test_a_webhook_behind_a_service_is_found_through_its_endpoints(server: Running, admin: Client) -> None:
    async with webhook(server, "hook.default.svc") as (port, asked):
        ports = [{"name": "https", "port": 443, "targetPort": port}]
        await admin.must(
            "POST", "/api/v1/namespaces/default/services", {"metadata": {"name": "hook"}, "spec": {"ports": ports}}
        )
        endpoints = {
            "metadata": {"name": "hook-1", "labels": {"kubernetes.io/service-name": "hook"}}, "addressType": "IPv4",
            "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": True}}], "ports": [{"name": "https", "port": port}],
        }  # fmt: skip
        await admin.must("POST", "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", endpoints)
        await admin.must("POST", HOOKS, configuration(server, {"service": {"name": "hook", "namespace": "default"}}))
        await admin.must("POST", MAPS, config_map("a"))
    assert len(asked) == 1


async def test_a_webhook_with_a_certificate_of_another_authority_is_not_believed(server: Running, admin: Client) -> None:
    async with webhook(server) as (port, asked):
        untrusted = configuration(server, {"url": f"https://127.0.0.1:{port}/", "caBundle": ""})
        await admin.must("POST", HOOKS, untrusted)
        status, answer = await admin.call("POST", MAPS, config_map("a"))
    assert (status, answer["reason"], asked) == (500, "InternalError", [])


async def test_selectors_and_failure_policy_decide_who_is_asked(server: Running, admin: Client) -> None:
    nobody = {"url": "https://127.0.0.1:1/"}
    chosen = {"objectSelector": {"matchLabels": {"check": "yes"}}}
    await admin.must("POST", HOOKS, configuration(server, nobody, **chosen))
    await admin.must("POST", MAPS, config_map("plain"))
    labelled = {"metadata": {"name": "labelled", "labels": {"check": "yes"}}}
    assert (await admin.call("POST", MAPS, labelled))[0] == 500
    await admin.must("DELETE", f"{HOOKS}/check")
    await admin.must("POST", HOOKS, configuration(server, nobody, failurePolicy="Ignore"))
    await admin.must("POST", MAPS, labelled)
