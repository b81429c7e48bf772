"""The Roles in manifests/base grant exactly what the daemons ask of the API server: no verb is missing, none is superfluous.

Every call of the API in the daemons' code is found, and has a row here that says which permission it needs. A call without a row,
a row without a call, and a permission that no row asks for all fail. The lab enforces the Roles, so a wrong row fails there.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
VERBS = {"get", "list", "list_all", "create", "update", "patch", "delete", "open_watch", "post"}
WATCHING = {"Reflector", "watch", "_reflector"}
CORE, OURS = "", "metallb.io"
ADMISSION, DEFINITIONS = "admissionregistration.k8s.io", "apiextensions.k8s.io"


@dataclass(frozen=True)
class Permission:
    """A verb on a resource (resource/subresource), perhaps of certain names only; in our namespace, or everywhere."""

    verb: str
    resource: str
    group: str = CORE
    name: str = ""
    everywhere: bool = False


def some(verbs: str, resources: str, group: str = CORE, name: str = "", *, everywhere: bool = False) -> list[Permission]:
    return [
        Permission(verb, resource, group, name, everywhere=everywhere)
        for verb in verbs.split()
        for resource in resources.split()
    ]


BGP = "bgpadvertisements bgppeers bfdprofiles communities"
LEASE, MEMORY, CERTIFICATE = "metallb-py-controller", "metallb-py-remembered-addresses", "metallb-webhook-cert"
ONLY_WITH_METALLBS_ROLE: list[Permission] = []
"""Done instead of a patch that was refused: our Roles allow the patch."""
NOT_A_CALL_OF_ITS_OWN: list[Permission] = []
"""Asks for what the caller names."""

SHARED: dict[str, list[Permission]] = {
    "kube/configuration_state.py Reflector STATES": some("list watch", "configurationstates", OURS),
    "kube/configuration_state.py create STATES": some("create", "configurationstates", OURS),
    "kube/configuration_state.py patch STATES": some("patch", "configurationstates", OURS),
    "kube/configuration_state.py patch STATES/status": some("patch", "configurationstates/status", OURS),
    "kube/configuration_state.py get PODS": some("get", "pods"),
    "kube/events.py create EVENTS": some("create", "events", everywhere=True),
    "kube/events.py patch EVENTS": some("patch", "events", everywhere=True),
    "kube/reviews.py post TOKEN_REVIEWS": some("create", "tokenreviews", "authentication.k8s.io", everywhere=True),
    "kube/reviews.py post ACCESS_REVIEWS": some("create", "subjectaccessreviews", "authorization.k8s.io", everywhere=True),
    "kube/informer.py list_all self._resource": NOT_A_CALL_OF_ITS_OWN,
    "kube/informer.py open_watch self._resource": NOT_A_CALL_OF_ITS_OWN,
}
CONTROLLER: dict[str, list[Permission]] = {
    "controller/admission.py list_all resource_of(kind)": some("list", f"ipaddresspools l2advertisements {BGP}", OURS),
    "controller/admission.py list_all NODES": some("list", "nodes", everywhere=True),
    "controller/apply.py get observe.REDUCED_SERVICES": some("get", "services", everywhere=True),
    "controller/apply.py patch SERVICES/status": some("patch", "services/status", everywhere=True),
    "controller/apply.py get WHOLE_SERVICES": ONLY_WITH_METALLBS_ROLE,
    "controller/apply.py update SERVICES/status": ONLY_WITH_METALLBS_ROLE,
    "controller/certificates.py Reflector resource": [
        *some("list watch", "secrets", name=CERTIFICATE),
        *some("list watch", "validatingwebhookconfigurations", ADMISSION, "metallb-webhook-configuration", everywhere=True),
        *some("list watch", "customresourcedefinitions", DEFINITIONS, "bgppeers.metallb.io", everywhere=True),
    ],
    "controller/certificates.py create SECRETS.raw()": some("create", "secrets"),
    "controller/certificates.py update SECRETS.raw()": some("update", "secrets", name=CERTIFICATE),
    "controller/certificates.py patch resource": [
        *some("patch", "validatingwebhookconfigurations", ADMISSION, "metallb-webhook-configuration", everywhere=True),
        *some("patch", "customresourcedefinitions", DEFINITIONS, "bgppeers.metallb.io", everywhere=True),
    ],
    "controller/memberlist_secret.py get SECRETS": some("get", "secrets", name="memberlist"),
    "controller/memberlist_secret.py create SECRETS": some("create", "secrets"),
    "controller/memberlist_secret.py get DEPLOYMENTS": some("get", "deployments", "apps", "controller"),
    "controller/pool_status.py patch IP_ADDRESS_POOLS/status": some("patch", "ipaddresspools/status", OURS),
    "controller/pool_status.py get IP_ADDRESS_POOLS": ONLY_WITH_METALLBS_ROLE,
    "controller/pool_status.py update IP_ADDRESS_POOLS/status": ONLY_WITH_METALLBS_ROLE,
    "controller/remembered.py get CONFIG_MAPS": some("get", "configmaps", name=MEMORY),
    "controller/remembered.py patch CONFIG_MAPS": some("patch", "configmaps", name=MEMORY),
    "controller/remembered.py create CONFIG_MAPS": some("create", "configmaps"),
    "controller/run.py Reflector observe.REDUCED_SERVICES": some("list watch", "services", everywhere=True),
    "controller/run.py Reflector IP_ADDRESS_POOLS": some("list watch", "ipaddresspools", OURS),
    "controller/run.py Reflector L2_ADVERTISEMENTS": some("list watch", "l2advertisements", OURS),
    "controller/run.py Reflector NAMESPACES": some("list watch", "namespaces", everywhere=True),
    "controller/run.py Reflector resource": some("list watch", BGP, OURS),
    "kube/leadership.py get LEASES": some("get", "leases", "coordination.k8s.io", LEASE),
    "kube/leadership.py create LEASES": some("create", "leases", "coordination.k8s.io"),
    "kube/leadership.py update LEASES": some("update", "leases", "coordination.k8s.io", LEASE),
}
SPEAKER: dict[str, list[Permission]] = {
    "speaker/run.py Reflector resource": NOT_A_CALL_OF_ITS_OWN,
    "speaker/run.py watch resources.SERVICES": some("list watch", "services", everywhere=True),
    "speaker/run.py watch resources.ENDPOINT_SLICES": some("list watch", "endpointslices", "discovery.k8s.io", everywhere=True),
    "speaker/run.py watch resources.NODES": some("list watch", "nodes", everywhere=True),
    "speaker/run.py get resources.NODES": some("get", "nodes", everywhere=True),
    "speaker/run.py watch resources.NAMESPACES": some("list watch", "namespaces", everywhere=True),
    "speaker/run.py watch resources.IP_ADDRESS_POOLS": some("list watch", "ipaddresspools", OURS),
    "speaker/run.py watch resources.L2_ADVERTISEMENTS": some("list watch", "l2advertisements", OURS),
    "speaker/run.py watch resource": some("list watch", BGP, OURS),
    "speaker/run.py watch secrets": some("list watch", "secrets"),
    "speaker/run.py watch resources.SERVICE_L2_STATUSES": some("list watch", "servicel2statuses", OURS),
    "speaker/run.py watch resources.SERVICE_BGP_STATUSES": some("list watch", "servicebgpstatuses", OURS),
    "speaker/run.py watch resources.PODS": some("list watch", "pods"),
    "speaker/status.py create self._form.resource": some("create", "servicel2statuses servicebgpstatuses", OURS),
    "speaker/status.py list self._form.resource": some("list", "servicel2statuses servicebgpstatuses", OURS),
    "speaker/status.py patch self._form.resource/status": some(
        "patch", "servicel2statuses/status servicebgpstatuses/status", OURS
    ),
    "speaker/status.py delete self._form.resource": some("delete", "servicel2statuses servicebgpstatuses", OURS),
    "speaker/status.py get PODS": some("get", "pods"),
}


def calls_in(text: str, path: str) -> Iterator[str]:
    """Every call of the API in a module, as the rows name them."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        name = ast.unparse(node.func)
        owner, _, verb = name.rpartition(".")
        if verb in VERBS and owner.endswith("client") and owner.rpartition(".")[2] in {"client", "_client"}:
            if not isinstance(node.args[0], ast.Constant):
                below = next((f"/{word.value.value}" for word in node.keywords if word.arg == "subresource"), "")  # type: ignore[attr-defined]  # a constant wherever it is given
                yield f"{path} {verb} {ast.unparse(node.args[0])}{below}"
        elif verb in WATCHING:
            yield f"{path} {verb} {ast.unparse(node.args[1 if verb == 'Reflector' else 0])}"


def test_every_call_of_the_api_has_a_row_and_every_row_a_call() -> None:
    found = {
        call
        for package in ("controller", "speaker", "kube", "telemetry", "memberlist")
        for file in sorted((ROOT / package).rglob("*.py"))
        for call in calls_in(file.read_text(), str(file.relative_to(ROOT)))
    }
    assert found == SHARED.keys() | CONTROLLER.keys() | SPEAKER.keys()


def granted(account: str) -> set[Permission]:
    """What the manifest lets a service account do."""
    documents: list[dict[str, Any]] = list(yaml.safe_load_all((ROOT / "manifests/base/10-rbac.yaml").read_text()))
    roles = {(one["kind"], one["metadata"]["name"]): one for one in documents if one["kind"] in {"Role", "ClusterRole"}}
    found = set()
    for binding in documents:
        if {"kind": "ServiceAccount", "name": account, "namespace": "metallb-system"} not in binding.get("subjects", ()):
            continue
        role = roles[binding["roleRef"]["kind"], binding["roleRef"]["name"]]
        for rule in role["rules"]:
            found |= {
                Permission(verb, resource, group, name, everywhere=binding["kind"] == "ClusterRoleBinding")
                for group in rule["apiGroups"]
                for resource in rule["resources"]
                for verb in rule["verbs"]
                for name in rule.get("resourceNames", [""])
            }
    return found


@pytest.mark.parametrize(("account", "rows"), [("controller", CONTROLLER), ("speaker", SPEAKER)])
def test_the_role_grants_what_is_asked_for_and_nothing_else(account: str, rows: dict[str, list[Permission]]) -> None:
    needed = {one for row in (*rows.values(), *SHARED.values()) for one in row}
    has = granted(account)
    assert (needed - has, has - needed) == (set(), set()), "missing, superfluous"
