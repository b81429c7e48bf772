"""What our programs rely on, through the real listener. The recorded exchanges cover the breadth."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from lab.apiserver.server import Running
from lab.apiserver.testing import own_server
from tests.unit.lab_apiserver.helpers import APPLY, MERGE, Client, balancer, client_of, config_map, eventually

MAPS = "/api/v1/namespaces/default/configmaps"
SERVICES = "/api/v1/namespaces/default/services"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
RBAC = "/apis/rbac.authorization.k8s.io/v1"


async def until_gone(admin: Client, path: str) -> None:
    async def gone() -> bool:
        return (await admin.call("GET", path))[0] == 404

    await eventually(gone)


async def test_a_new_cluster_has_its_namespaces_service_and_accounts(admin: Client) -> None:
    namespaces = await admin.must("GET", "/api/v1/namespaces")
    assert [n["metadata"]["name"] for n in namespaces["items"]] == ["default", "kube-public", "kube-system"]
    service = await admin.must("GET", f"{SERVICES}/kubernetes")
    assert service["spec"]["clusterIP"] == "10.96.0.1"
    for name in ("default", "kube-system"):
        await admin.must("GET", f"/api/v1/namespaces/{name}/serviceaccounts/default")


async def test_a_status_write_reaches_a_watcher_with_the_version_of_its_answer(admin: Client) -> None:
    created = await admin.must("POST", SERVICES, balancer("web"))
    async with admin.watch(SERVICES, resourceVersion=created["metadata"]["resourceVersion"]) as events:
        patch = {"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}
        answer = await admin.must("PATCH", f"{SERVICES}/web/status", patch, media=MERGE)
        event = await anext(events)
    assert event["type"] == "MODIFIED"
    assert event["object"] == answer
    assert answer["status"]["loadBalancer"]["ingress"] == [{"ip": "192.0.2.1", "ipMode": "VIP"}]


async def test_all_watchers_see_every_change_once_and_in_order(admin: Client) -> None:
    start = (await admin.must("GET", MAPS))["metadata"]["resourceVersion"]
    async with contextlib.AsyncExitStack() as stack:
        watches = [await stack.enter_async_context(admin.watch(MAPS, resourceVersion=start)) for _ in range(50)]
        for number in range(20):
            await admin.must("POST", MAPS, config_map(f"m{number:02}"))
        for events in watches:
            names = [(await anext(events))["object"]["metadata"]["name"] for _ in range(20)]
            assert names == [f"m{number:02}" for number in range(20)]


async def test_writes_with_an_old_version_lose(admin: Client) -> None:
    first = await admin.must("POST", MAPS, config_map("a", k="1"))
    await admin.must("PATCH", f"{MAPS}/a", {"data": {"k": "2"}}, media=MERGE)
    first["data"] = {"k": "3"}
    status, answer = await admin.call("PUT", f"{MAPS}/a", first)
    assert (status, answer["reason"]) == (409, "Conflict")


async def test_state_tokens_port_and_watches_go_on_after_a_restart(tmp_path: Path) -> None:
    async with own_server(tmp_path) as server, client_of(server) as admin:
        await admin.must("POST", MAPS, config_map("before"))
        version = (await admin.must("GET", MAPS))["metadata"]["resourceVersion"]
        await admin.must("POST", MAPS, config_map("after"))
        url, token = server.url, server.token
    async with own_server(tmp_path) as server, client_of(server, token) as admin:
        assert server.url == url
        async with admin.watch(MAPS, resourceVersion=version) as events:
            event = await anext(events)
    assert (event["type"], event["object"]["metadata"]["name"]) == ("ADDED", "after")


async def test_addresses_and_node_ports_are_still_held_after_a_restart(tmp_path: Path) -> None:
    async with own_server(tmp_path) as server, client_of(server) as admin:
        web = await admin.must("POST", SERVICES, balancer("web", clusterIP="10.96.1.1"))
        port = web["spec"]["ports"][0]["nodePort"]
    async with own_server(tmp_path) as server, client_of(server) as admin:
        for spec in ({"clusterIP": "10.96.1.1"}, {"ports": [{"port": 80, "nodePort": port}]}):
            status, answer = await admin.call("POST", SERVICES, balancer("other", **spec))
            assert status == 422
            assert "already allocated" in answer["message"]
        await admin.must("DELETE", f"{SERVICES}/web")
        await admin.must("POST", SERVICES, balancer("other", clusterIP="10.96.1.1"))


async def test_a_watch_from_before_the_history_gets_410(server: Running, admin: Client) -> None:
    await admin.must("POST", MAPS, config_map("a"))
    server.api.store.compact()
    async with admin.watch(MAPS, resourceVersion="1") as events:
        event = await anext(events)
        rest = [e async for e in events]
    assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")
    assert rest == []


async def test_pages_of_a_list_are_one_snapshot_and_expire(server: Running, admin: Client) -> None:
    for name in "abcd":
        await admin.must("POST", MAPS, config_map(name))
    first = await admin.must("GET", MAPS, limit="2")
    await admin.must("DELETE", f"{MAPS}/c")
    second = await admin.must("GET", MAPS, limit="9", **{"continue": first["metadata"]["continue"]})
    assert [o["metadata"]["name"] for o in first["items"] + second["items"]] == list("abcd")
    server.api.store.compact()
    status, gone = await admin.call("GET", MAPS, limit="2", **{"continue": first["metadata"]["continue"]})
    assert (status, gone["reason"]) == (410, "Expired")


async def test_deleting_an_owner_deletes_what_it_owns(admin: Client) -> None:
    owner = await admin.must("POST", MAPS, config_map("owner"))
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}
    for name in ("child", "shared"):
        await admin.must("POST", MAPS, {"metadata": {"name": name, "ownerReferences": [reference]}})
    other = await admin.must("POST", MAPS, config_map("other"))
    second = {**reference, "name": "other", "uid": other["metadata"]["uid"]}
    await admin.must("PATCH", f"{MAPS}/shared", {"metadata": {"ownerReferences": [reference, second]}}, media=MERGE)
    await admin.must("DELETE", f"{MAPS}/owner")
    await until_gone(admin, f"{MAPS}/child")
    shared = await admin.must("GET", f"{MAPS}/shared")
    assert shared["metadata"]["ownerReferences"] == [second]


async def test_orphan_and_foreground_deletions_finish(admin: Client) -> None:
    for policy, kept in (("Orphan", True), ("Foreground", False)):
        owner = await admin.must("POST", MAPS, config_map("owner"))
        reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}
        await admin.must("POST", MAPS, {"metadata": {"name": policy.lower(), "ownerReferences": [reference]}})
        await admin.must("DELETE", f"{MAPS}/owner", {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": policy})
        await until_gone(admin, f"{MAPS}/owner")
        status, child = await admin.call("GET", f"{MAPS}/{policy.lower()}")
        assert (status == 200) is kept
        assert "ownerReferences" not in child.get("metadata", {})


async def test_a_foreground_deletion_waits_for_what_is_owned_by_what_it_owns(admin: Client) -> None:
    owners: list[dict[str, Any]] = []
    for name, held in (("top", []), ("middle", []), ("leaf", ["example.com/hold"])):
        made = await admin.must("POST", MAPS, {"metadata": {"name": name, "ownerReferences": owners, "finalizers": held}})
        owners = [{"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": made["metadata"]["uid"]}]
    policy = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Foreground"}
    await admin.must("DELETE", f"{MAPS}/top", policy)

    async def leaf_is_going() -> bool:
        return "deletionTimestamp" in (await admin.must("GET", f"{MAPS}/leaf"))["metadata"]

    await eventually(leaf_is_going)
    assert (await admin.must("GET", f"{MAPS}/middle"))["metadata"]["finalizers"] == ["foregroundDeletion"]
    await admin.must("PATCH", f"{MAPS}/leaf", {"metadata": {"finalizers": None}}, media=MERGE)
    for name in ("leaf", "middle", "top"):
        await until_gone(admin, f"{MAPS}/{name}")


async def test_a_deleted_namespace_takes_its_contents_and_goes(admin: Client) -> None:
    await admin.must("POST", "/api/v1/namespaces", {"metadata": {"name": "web"}})
    path = "/api/v1/namespaces/web/configmaps"
    await admin.must("POST", path, {"metadata": {"name": "held", "finalizers": ["example.com/hold"]}})
    await admin.must("DELETE", "/api/v1/namespaces/web")
    status, answer = await admin.call("POST", path, config_map("late"))
    assert (status, answer["reason"]) == (403, "Forbidden")
    await admin.must("PATCH", f"{path}/held", {"metadata": {"finalizers": None}}, media=MERGE)
    await until_gone(admin, "/api/v1/namespaces/web")


async def test_standing_namespaces_cannot_be_deleted(admin: Client) -> None:
    assert (await admin.call("DELETE", "/api/v1/namespaces/default"))[0] == 403


def widget_definition(**version: Any) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {
            "spec": {
                "type": "object",
                "required": ["size"],
                "properties": {
                    "size": {"type": "integer", "minimum": 1},
                    "color": {"type": "string", "default": "red"},
                    "fixed": {
                        "type": "string",
                        "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "is fixed"}],
                    },
                },
            },
            "status": {"type": "object", "properties": {"note": {"type": "string"}}},
        },
    }
    columns = [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}]
    entry = {
        "name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}, "subresources": {"status": {}},
        "additionalPrinterColumns": columns, **version,
    }  # fmt: skip
    names = {"plural": "widgets", "kind": "Widget"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": names, "versions": [entry]},
    }  # fmt: skip


WIDGETS = "/apis/example.com/v1/namespaces/default/widgets"


async def serve_widgets(admin: Client) -> None:
    await admin.must("POST", CRDS, widget_definition())

    async def served() -> bool:
        return (await admin.call("GET", WIDGETS))[0] == 200

    await eventually(served)


def widget(**spec: Any) -> dict[str, Any]:
    return {"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": spec}


async def test_custom_objects_are_defaulted_pruned_and_validated(admin: Client) -> None:
    await serve_widgets(admin)
    made = await admin.must("POST", WIDGETS, widget(size=2, odd=1))
    assert made["spec"] == {"size": 2, "color": "red"}
    assert made["metadata"]["generation"] == 1
    status, answer = await admin.call("PATCH", f"{WIDGETS}/w", {"spec": {"size": 0}}, media=MERGE)
    assert status == 422
    assert "greater than or equal to 1" in answer["message"]
    status, answer = await admin.call("POST", WIDGETS, widget(size=2, odd=1), fieldValidation="Strict")
    assert (status, answer["reason"]) == (400, "BadRequest")


async def test_generation_counts_spec_changes_only_and_immutable_fields_stay(admin: Client) -> None:
    await serve_widgets(admin)
    await admin.must("POST", WIDGETS, widget(size=2, fixed="x"))
    noted = await admin.must("PATCH", f"{WIDGETS}/w/status", {"status": {"note": "n"}, "spec": {"size": 9}}, media=MERGE)
    assert (noted["metadata"]["generation"], noted["spec"]["size"], noted["status"]) == (1, 2, {"note": "n"})
    grown = await admin.must("PATCH", f"{WIDGETS}/w", {"spec": {"size": 3}, "status": {"note": "lost"}}, media=MERGE)
    assert (grown["metadata"]["generation"], grown["status"]) == (2, {"note": "n"})
    status, answer = await admin.call("PATCH", f"{WIDGETS}/w", {"spec": {"fixed": "y"}}, media=MERGE)
    assert status == 422
    assert "is fixed" in answer["message"]


async def test_custom_resources_are_served_again_after_a_restart_and_go_with_their_definition(tmp_path: Path) -> None:
    async with own_server(tmp_path) as server, client_of(server) as admin:
        await serve_widgets(admin)
        await admin.must("POST", WIDGETS, widget(size=2))
    async with own_server(tmp_path) as server, client_of(server) as admin:
        assert (await admin.must("GET", f"{WIDGETS}/w"))["spec"]["size"] == 2
        await admin.must("DELETE", f"{CRDS}/widgets.example.com")
        await until_gone(admin, f"{CRDS}/widgets.example.com")
        assert (await admin.call("GET", WIDGETS))[0] == 404
        await serve_widgets(admin)
        assert (await admin.must("GET", WIDGETS))["items"] == []


async def test_a_definition_with_names_in_use_is_not_established(admin: Client) -> None:
    await serve_widgets(admin)
    rival = widget_definition()
    rival["metadata"]["name"] = "gadgets.example.com"
    rival["spec"]["names"] = {"plural": "gadgets", "kind": "Widget"}
    await admin.must("POST", CRDS, rival)
    found: list[dict[str, Any]] = []

    async def judged() -> bool:
        found[:] = (await admin.must("GET", f"{CRDS}/gadgets.example.com"))["status"]["conditions"] or []
        return bool(found)

    await eventually(judged)
    assert {c["type"]: c["status"] for c in found} == {"NamesAccepted": "False", "Established": "False"}


async def test_server_side_apply_keeps_what_others_own(admin: Client) -> None:
    def applied(**data: str) -> dict[str, Any]:
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data}

    await admin.must("PATCH", f"{MAPS}/a", applied(x="1", y="1"), media=APPLY, fieldManager="one")
    await admin.must("PATCH", f"{MAPS}/a", applied(z="2"), media=APPLY, fieldManager="two")
    status, answer = await admin.call("PATCH", f"{MAPS}/a", applied(x="9", z="2"), media=APPLY, fieldManager="two")
    assert (status, answer["reason"]) == (409, "Conflict")
    forced = await admin.must("PATCH", f"{MAPS}/a", applied(x="9", z="2"), media=APPLY, fieldManager="two", force="true")
    assert forced["data"] == {"x": "9", "y": "1", "z": "2"}
    dropped = await admin.must("PATCH", f"{MAPS}/a", applied(), media=APPLY, fieldManager="one")
    assert dropped["data"] == {"x": "9", "z": "2"}
    owners = {m["manager"]: m["fieldsV1"] for m in dropped["metadata"]["managedFields"]}
    assert owners["two"] == {"f:data": {"f:x": {}, "f:z": {}}}


async def token_of(admin: Client, account: str) -> str:
    await admin.must("POST", "/api/v1/namespaces/default/serviceaccounts", {"metadata": {"name": account}})
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    answer = await admin.must("POST", f"/api/v1/namespaces/default/serviceaccounts/{account}/token", request)
    return str(answer["status"]["token"])


async def grant(admin: Client, account: str, *rules: dict[str, Any]) -> None:
    await admin.must("POST", f"{RBAC}/namespaces/default/roles", {"metadata": {"name": account}, "rules": list(rules)})
    binding = {
        "metadata": {"name": account}, "roleRef": {"kind": "Role", "name": account, "apiGroup": "rbac.authorization.k8s.io"},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": "default"}],
    }  # fmt: skip
    await admin.must("POST", f"{RBAC}/namespaces/default/rolebindings", binding)


async def test_a_service_account_may_do_what_its_role_says_and_nothing_else(server: Running, admin: Client) -> None:
    await admin.must("POST", SERVICES, balancer("web"))
    token = await token_of(admin, "robot")
    async with client_of(server, token) as robot:
        assert (await robot.call("GET", SERVICES))[0] == 403
        await grant(
            admin, "robot", {"apiGroups": [""], "resources": ["services"], "verbs": ["get", "list"]},
            {"apiGroups": [""], "resources": ["services/status"], "verbs": ["patch"]},
            {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["mine"], "verbs": ["update", "get"]},
        )  # fmt: skip
        expected = {
            ("GET", SERVICES): 200, ("GET", f"{SERVICES}/web"): 200, ("DELETE", f"{SERVICES}/web"): 403, ("GET", "/api/v1/services"): 403,
            ("GET", f"{MAPS}/mine"): 404, ("GET", f"{MAPS}/other"): 403, ("GET", "/api/v1/nodes"): 403, ("GET", "/metrics"): 403,
        }  # fmt: skip
        for (method, path), status in expected.items():
            assert (await robot.call(method, path))[0] == status, (method, path)
        patch: dict[str, Any] = {"status": {"loadBalancer": {}}}
        assert (await robot.call("PATCH", f"{SERVICES}/web/status", patch, media=MERGE))[0] == 200
        assert (await robot.call("PATCH", f"{SERVICES}/web", {}, media=MERGE))[0] == 403
        assert (await robot.call("GET", SERVICES, watch="1"))[0] == 403


async def test_a_rule_for_one_name_covers_lists_and_watches_of_that_name(server: Running, admin: Client) -> None:
    token = await token_of(admin, "robot")
    await grant(
        admin, "robot", {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["mine"], "verbs": ["list", "watch"]}
    )
    async with client_of(server, token) as robot:
        assert (await robot.call("GET", MAPS, fieldSelector="metadata.name=mine"))[0] == 200
        assert (await robot.call("GET", MAPS, fieldSelector="metadata.name=other"))[0] == 403
        assert (await robot.call("GET", MAPS))[0] == 403
        async with robot.watch(MAPS, fieldSelector="metadata.name=mine", timeoutSeconds="1"):
            pass


async def test_a_token_dies_with_its_account_and_a_forged_one_never_lives(server: Running, admin: Client) -> None:
    token = await token_of(admin, "robot")
    await admin.must("DELETE", "/api/v1/namespaces/default/serviceaccounts/robot")
    for bad in (token, token[:-2] + "xx", "a.b.c", "garbage"):
        async with client_of(server, bad) as robot:
            assert (await robot.call("GET", SERVICES))[0] == 401


async def test_a_token_review_knows_the_tokens_of_the_administrator_and_of_accounts(server: Running, admin: Client) -> None:
    path = "/apis/authentication.k8s.io/v1/tokenreviews"
    names = {}
    for token in (server.token, await token_of(admin, "robot"), "garbage"):
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
        status = (await admin.must("POST", path, body))["status"]
        names[status["user"].get("username", "")] = status.get("authenticated", False)
    assert names == {"admin": True, "system:serviceaccount:default:robot": True, "": False}


async def test_nobody_without_credentials_reads_more_than_health_and_version(server: Running) -> None:
    async with client_of(server) as client:
        client.session.headers.pop("Authorization")
        for path, status in (("/healthz", 200), ("/version", 200), (SERVICES, 403), ("/apis", 403), ("/openapi/v3", 403)):
            assert (await client.call("GET", path))[0] == status, path


async def test_a_cluster_role_bound_in_a_namespace_holds_there_only(server: Running, admin: Client) -> None:
    token = await token_of(admin, "viewer")
    binding = {
        "metadata": {"name": "viewer"}, "roleRef": {"kind": "ClusterRole", "name": "view", "apiGroup": "rbac.authorization.k8s.io"},
        "subjects": [{"kind": "ServiceAccount", "name": "viewer", "namespace": "default"}],
    }  # fmt: skip
    await admin.must("POST", f"{RBAC}/namespaces/default/rolebindings", binding)
    async with client_of(server, token) as viewer:
        assert (await viewer.call("GET", SERVICES))[0] == 200
        assert (await viewer.call("GET", "/api/v1/namespaces/kube-system/services"))[0] == 403
        await admin.must("DELETE", f"{RBAC}/namespaces/default/rolebindings/viewer")
        assert (await viewer.call("GET", SERVICES))[0] == 403


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_a_missing_object_is_404_with_its_name(admin: Client, method: str) -> None:
    status, answer = await admin.call(
        method, f"{SERVICES}/none", {} if method == "PATCH" else None, media=MERGE if method == "PATCH" else "application/json"
    )
    assert (status, answer["details"]["name"]) == (404, "none")


async def test_a_slow_watcher_is_ended_and_the_others_go_on(
    server: Running, admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lab.apiserver.watching.MAX_PENDING", 3)
    start = (await admin.must("GET", MAPS))["metadata"]["resourceVersion"]
    async with admin.watch(MAPS, resourceVersion=start) as events:
        for watchers in server.hub._watchers.values():
            for watcher in watchers:
                watcher.wake.set = lambda: None  # type: ignore[method-assign]  # The connection that never drains.
        for number in range(5):
            await admin.must("POST", MAPS, config_map(f"m{number}"))
        for watchers in server.hub._watchers.values():
            for watcher in watchers:
                assert watcher.ended
                type(watcher.wake).set(watcher.wake)
        assert len([e async for e in events]) == 4
