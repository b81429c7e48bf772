"""Conversion webhooks, really called over TLS."""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from aiohttp import web

from lab.apiserver.server import Running
from tests.unit.lab_apiserver.helpers import MERGE, Client, eventually

Json = dict[str, Any]
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
OLD, NEW = (f"/apis/example.com/{version}/namespaces/default/doors" for version in ("v1", "v2"))


@contextlib.asynccontextmanager
async def converter(server: Running) -> AsyncIterator[tuple[int, list[Json]]]:
    """A webhook that knows v1 as spec.width and v2 as spec.widthMm; it refuses doors of width 13. Its port, and what it was asked."""
    asked: list[Json] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        review = msgspec.json.decode(await request.read())
        asked.append(review)
        wanted, (document,) = review["request"]["desiredAPIVersion"], review["request"]["objects"]
        spec = document["spec"]
        if spec.get("width") == 13:
            result, objects = {"status": "Failed", "message": "no such door"}, []
        else:
            converted = {"widthMm": spec["width"] * 10} if wanted == "example.com/v2" else {"width": spec["widthMm"] // 10}
            result, objects = {"status": "Success"}, [{**document, "apiVersion": wanted, "spec": converted}]
        response = {"uid": review["request"]["uid"], "result": result, "convertedObjects": objects}
        return web.json_response({**review, "request": None, "response": response})

    pair = server.authority.issue("hook", "hook", names=(), addresses=["127.0.0.1"])
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


def version(name: str, member: str, *, storage: bool) -> Json:
    spec = {"type": "object", "required": [member], "properties": {member: {"type": "integer", "minimum": 1}}}
    schema = {"type": "object", "properties": {"spec": spec}}
    return {"name": name, "served": True, "storage": storage, "schema": {"openAPIV3Schema": schema}}


async def with_doors(server: Running, admin: Client, port: int) -> None:
    bundle = base64.b64encode(server.ca_file.read_bytes()).decode()
    client = {"url": f"https://127.0.0.1:{port}/convert", "caBundle": bundle}
    conversion = {"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1beta1"], "clientConfig": client}}
    names = {"kind": "Door", "plural": "doors"}
    versions = [version("v1", "width", storage=False), version("v2", "widthMm", storage=True)]
    spec = {"group": "example.com", "scope": "Namespaced", "names": names, "versions": versions, "conversion": conversion}
    await admin.must("POST", DEFINITIONS, {"metadata": {"name": "doors.example.com"}, "spec": spec})

    async def served() -> bool:
        return (await admin.call("GET", NEW))[0] == 200

    await eventually(served)


def door(version: str, name: str = "front", **spec: int) -> Json:
    return {"apiVersion": f"example.com/{version}", "kind": "Door", "metadata": {"name": name}, "spec": spec}


async def test_objects_are_converted_when_they_are_written_and_when_they_are_read(server: Running, admin: Client) -> None:
    async with converter(server) as (port, asked):
        await with_doors(server, admin, port)
        created = await admin.must("POST", OLD, door("v1", width=80))
        assert (created["apiVersion"], created["spec"]) == ("example.com/v1", {"width": 80})
        stored = await admin.must("GET", f"{NEW}/front")
        assert (stored["apiVersion"], stored["spec"]) == ("example.com/v2", {"widthMm": 800})
        assert stored["metadata"]["uid"] == created["metadata"]["uid"]
        changed = await admin.must("PATCH", f"{OLD}/front", {"spec": {"width": 90}}, media=MERGE)
        assert (changed["spec"], changed["metadata"]["generation"]) == ({"width": 90}, 2)
        await admin.must("POST", NEW, door("v2", "back", widthMm=1200))
        listed = await admin.must("GET", OLD)
        assert [(one["metadata"]["name"], one["spec"]) for one in listed["items"]] == [
            ("back", {"width": 120}),
            ("front", {"width": 90}),
        ]
        await admin.must("DELETE", f"{OLD}/front")
        assert (await admin.call("GET", f"{NEW}/front"))[0] == 404
    assert {review["apiVersion"] for review in asked} == {"apiextensions.k8s.io/v1beta1"}


async def test_each_version_is_checked_by_its_own_schema(server: Running, admin: Client) -> None:
    async with converter(server) as (port, _):
        await with_doors(server, admin, port)
        status, answer = await admin.call("POST", OLD, door("v1", width=0))
        assert (status, answer["details"]["causes"][0]["field"]) == (422, "spec.width")


@pytest.mark.parametrize("width", [13, 80])
async def test_a_conversion_that_cannot_be_had_fails_the_request(server: Running, admin: Client, width: int) -> None:
    async with converter(server) as (port, _):
        await with_doors(server, admin, port if width == 13 else 1)
        status, answer = await admin.call("POST", OLD, door("v1", width=width))
    assert (status, answer["reason"]) == (500, "InternalError")
    assert answer["message"].startswith("conversion webhook for example.com/v1, Kind=Door failed: ")
    assert ("no such door" if width == 13 else "connect: connection refused") in answer["message"]


async def test_a_validating_webhook_sees_every_version_in_the_one_it_knows(server: Running, admin: Client) -> None:
    seen: list[Json] = []

    async def allow(request: web.BaseRequest) -> web.Response:
        review = msgspec.json.decode(await request.read())["request"]
        seen.append(review)
        return web.json_response({"response": {"uid": review["uid"], "allowed": True}})

    async with converter(server) as (port, _):
        await with_doors(server, admin, port)
        pair = server.authority.issue("other", "other", names=(), addresses=["127.0.0.1"])
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(pair.certificate, pair.key)
        runner = web.ServerRunner(web.Server(allow, access_log=None), shutdown_timeout=0)
        await runner.setup()
        sock = socket.create_server(("127.0.0.1", 0))
        await web.SockSite(runner, sock, ssl_context=context).start()
        rule = {"apiGroups": ["example.com"], "apiVersions": ["v2"], "operations": ["*"], "resources": ["doors"]}
        client = {
            "url": f"https://127.0.0.1:{sock.getsockname()[1]}/",
            "caBundle": base64.b64encode(server.ca_file.read_bytes()).decode(),
        }
        hook = {
            "name": "a.example.com",
            "clientConfig": client,
            "rules": [rule],
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
        }
        path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
        await admin.must("POST", path, {"metadata": {"name": "doors"}, "webhooks": [hook]})
        await admin.must("POST", OLD, door("v1", width=80))
        await admin.must("PATCH", f"{OLD}/front", {"spec": {"width": 70}}, media=MERGE)
        await runner.cleanup()
    created, changed = seen[0], seen[-1]
    assert (created["object"]["apiVersion"], created["object"]["spec"]) == ("example.com/v2", {"widthMm": 800})
    assert (created["kind"]["version"], created["requestKind"]["version"]) == ("v2", "v1")
    assert (changed["oldObject"]["spec"], changed["object"]["spec"]) == ({"widthMm": 800}, {"widthMm": 700})
