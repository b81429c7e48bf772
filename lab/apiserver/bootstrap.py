"""What a new cluster holds before anybody wrote to it: namespaces, the Service of the API, and the standing roles.

server.py calls this once per start; what is there already stays as it is.
"""

from __future__ import annotations

from typing import Any

from lab.apiserver.api import Api, Call
from lab.apiserver.services import API_SERVICE_ADDRESS

Json = dict[str, Any]
_RBAC = "rbac.authorization.k8s.io"
_READ, _WRITE = ["get", "list", "watch"], ["create", "delete", "deletecollection", "patch", "update"]
_VIEWED = [
    {
        "apiGroups": [""],
        "resources": ["configmaps", "endpoints", "events", "namespaces", "pods", "serviceaccounts", "services"],
    },
    {"apiGroups": ["apps"], "resources": ["daemonsets", "deployments", "replicasets"]},
    {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"]},
    {"apiGroups": ["networking.k8s.io"], "resources": ["ingresses", "networkpolicies"]},
]
_ROLES: dict[str, list[Json]] = {
    "cluster-admin": [
        {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}, {"nonResourceURLs": ["*"], "verbs": ["*"]},
    ],
    "view": [{**r, "verbs": _READ} for r in _VIEWED],
    "edit": [{**r, "verbs": _READ + _WRITE} for r in [*_VIEWED, {"apiGroups": [""], "resources": ["secrets"]}]],
    "admin": [
        {**r, "verbs": _READ + _WRITE}
        for r in [
            *_VIEWED, {"apiGroups": [""], "resources": ["secrets"]}, {"apiGroups": [_RBAC], "resources": ["roles", "rolebindings"]},
        ]
    ],
    "system:auth-delegator": [
        {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
        {"apiGroups": ["authorization.k8s.io"], "resources": ["subjectaccessreviews"], "verbs": ["create"]},
    ],
}  # fmt: skip
_BINDINGS = {"cluster-admin": ("Group", "system:masters")}


def _objects() -> list[tuple[str, str, str, Json]]:
    """(group, plural, namespace, object) in the order of creation."""
    out: list[tuple[str, str, str, Json]] = [
        ("", "namespaces", "", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": n}, "spec": {}, "status": {}})
        for n in ("default", "kube-system", "kube-public")
    ]
    service = {
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kubernetes", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {
            "clusterIP": API_SERVICE_ADDRESS, "clusterIPs": [API_SERVICE_ADDRESS],
            "ports": [{"name": "https", "port": 443, "targetPort": 6443}],
        },
        "status": {"loadBalancer": {}},
    }  # fmt: skip
    out.append(("", "services", "default", service))
    for name, rules in _ROLES.items():
        role = {"apiVersion": f"{_RBAC}/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules}
        out.append((_RBAC, "clusterroles", "", role))
    for name, (kind, subject) in _BINDINGS.items():
        binding = {
            "apiVersion": f"{_RBAC}/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": name},
            "subjects": [{"apiGroup": _RBAC, "kind": kind, "name": subject}],
        }  # fmt: skip
        out.append((_RBAC, "clusterrolebindings", "", binding))
    return out


def populate(api: Api) -> None:
    """Create what is missing."""
    for group, plural, namespace, document in _objects():
        resource = api.registry.find(group, "v1", plural)
        assert resource is not None
        if api.store.get(resource.storage, (namespace, document["metadata"]["name"])) is None:
            api.create(resource, namespace, document, Call(manager="bootstrap"))
