"""What built-in kinds have of their own beyond types and rules: preparation of a write, and defaults that depend on others.

PREPARE and DEFAULT have a row for each kind that has any; the functions that rules.json calls by name are here too. Plain
defaults are in builtin_types.json. Pure. The texts of faults are those of the recorded answers.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from lab.apiserver import crds, rules, selectors, services
from lab.apiserver.errors import Cause, forbidden, invalid_value, raw_invalid, required
from lab.apiserver.meta import faults_of
from lab.apiserver.rules import is_address, named

Json = dict[str, Any]
_RBAC = "rbac.authorization.k8s.io"


# Namespace and Node


def _namespace_prepare(new: Json, old: Json | None) -> None:
    if old is None:
        new["spec"]["finalizers"] = list(dict.fromkeys([*(new["spec"].get("finalizers") or []), "kubernetes"]))
        new["status"] = {"phase": "Active"}
    else:
        new["spec"] = {**new["spec"], "finalizers": old["spec"].get("finalizers")}
        if not new["spec"]["finalizers"]:
            del new["spec"]["finalizers"]


def _namespace_default(new: Json) -> None:
    if new["metadata"].get("name"):
        new["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = new["metadata"]["name"]


def _node_default(new: Json) -> None:
    spec, status = new["spec"], new["status"]
    if spec.get("podCIDR") and not spec.get("podCIDRs"):
        spec["podCIDRs"] = [spec["podCIDR"]]
    if spec.get("podCIDRs"):
        spec["podCIDR"] = spec["podCIDRs"][0]
    if status.get("capacity") and not status.get("allocatable"):
        status["allocatable"] = dict(status["capacity"])


# Pods and what makes them


def _pod_spec_default(spec: Json) -> None:
    account = spec.get("serviceAccountName") or spec.get("serviceAccount")
    if account:
        spec["serviceAccountName"] = spec["serviceAccount"] = account
    for container in [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]:
        image = container.get("image", "")
        pinned = "@" in image or image.rsplit("/", 1)[-1].partition(":")[2] not in {"", "latest"}
        container.setdefault("imagePullPolicy", "IfNotPresent" if pinned else "Always")
        for port in container.get("ports") or [] if spec.get("hostNetwork") else []:
            port.setdefault("hostPort", port["containerPort"])
        resources = container.get("resources") or {}
        if resources.get("limits"):
            resources["requests"] = {**resources["limits"], **(resources.get("requests") or {})}
    for volume in spec.get("volumes") or []:
        if set(volume) == {"name"}:
            volume["emptyDir"] = {}


def _pod_prepare(new: Json, old: Json | None) -> None:
    if old is None:
        new["status"] = {"phase": "Pending"}


def _pod_default(new: Json) -> None:
    _pod_spec_default(new["spec"])
    new["spec"].setdefault("enableServiceLinks", True)
    for condition in new["status"].get("conditions") or []:
        condition.setdefault("lastProbeTime", None)
    new["status"].setdefault("qosClass", _qos(new["spec"]))


def _qos(spec: Json) -> str:
    wants = [c.get("resources") or {} for c in spec.get("containers") or []]
    if not any(w.get("requests") or w.get("limits") for w in wants):
        return "BestEffort"
    limited = all({"cpu", "memory"} <= set(w.get("limits") or {}) and w["limits"] == w.get("requests") for w in wants)
    return "Guaranteed" if limited else "Burstable"


_POD_MUTABLE = ("activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "schedulingGates")


@named("pod-mutable")
def _pod_check(_field: str, _value: Any, new: Json, old: Json | None) -> list[Cause]:
    def fixed_part(spec: Json) -> Json:
        kept = {k: v for k, v in spec.items() if k not in _POD_MUTABLE}
        for name in {"containers", "initContainers"} & set(kept):
            kept[name] = [{k: v for k, v in c.items() if k != "image"} for c in kept[name]]
        return kept

    if old is None or fixed_part(new["spec"]) == fixed_part(old["spec"]):
        return []
    detail = (
        "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
        "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
        "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
    )
    return [forbidden("spec", detail)]


def _workload_default(new: Json) -> None:
    _pod_spec_default(new["spec"]["template"]["spec"])
    name = {"Deployment": "strategy", "DaemonSet": "updateStrategy"}.get(new["kind"])
    if name and new["spec"].setdefault(name, {}).get("type", "RollingUpdate") == "RollingUpdate":
        new["spec"][name].setdefault("rollingUpdate", {})


@named("workload")
def _workload_check(_field: str, _value: Any, new: Json, old: Json | None) -> list[Cause]:
    selector = new["spec"].get("selector")
    out: list[Cause] = []
    if selector is not None and not selector.get("matchLabels") and not selector.get("matchExpressions"):
        out.append(raw_invalid("spec.selector", "v1.LabelSelector{}", "empty selector is invalid for deployment"))
    labels = (new["spec"]["template"].get("metadata") or {}).get("labels") or {}
    if selector and not selectors.matches(selectors.of_object(selector), labels):
        detail = "`selector` does not match template `labels`"
        out.append(invalid_value("spec.template.metadata.labels", labels, detail))
    if old is not None and selector != old["spec"].get("selector"):
        out.append(invalid_value("spec.selector", selector, "field is immutable"))
    return out


# Secret and ConfigMap

_SECRET_NEEDS = {
    "kubernetes.io/basic-auth": (("username", "password"), any), "kubernetes.io/tls": (("tls.crt", "tls.key"), all),
    "kubernetes.io/ssh-auth": (("ssh-privatekey",), all), "kubernetes.io/dockerconfigjson": ((".dockerconfigjson",), all),
}  # fmt: skip


def _secret_prepare(new: Json, old: Json | None) -> None:
    for key, text in (new.pop("stringData", None) or {}).items():
        new.setdefault("data", {})[key] = base64.b64encode(text.encode()).decode()
    if old is not None and not new.get("type"):
        new["type"] = old.get("type", "Opaque")


@named("data")
def _data_check(_field: str, _value: Any, new: Json, old: Json | None) -> list[Cause]:
    members = ("data", "binaryData")
    out = [
        invalid_value(f"{member}[{key}]", key, fault)
        for member in members
        for key in new.get(member) or {}
        for fault in faults_of("config-key", key)
    ]
    both = set(new.get("data") or {}) & set(new.get("binaryData") or {})
    out += [invalid_value(f"data[{key}]", key, "duplicate of key present in binaryData") for key in sorted(both)]
    if old is not None and old.get("immutable"):
        detail = "field is immutable when `immutable` is set"
        out += [] if new.get("immutable") else [forbidden("immutable", detail)]
        out += [forbidden(m, detail) for m in members if (new.get(m) or {}) != (old.get(m) or {})]
    keys, enough = _SECRET_NEEDS.get(new.get("type", ""), ((), all))
    present = [k in (new.get("data") or {}) for k in keys]
    if keys and not enough(present):
        out += [required(f"data[{k}]") for k, there in zip(keys, present, strict=True) if not there]
    return out


# Events


@named("event")
def _event_core_check(_field: str, _value: Any, new: Json, old: Json | None) -> list[Cause]:
    if new.get("eventTime"):  # Written by the newer API: its rules hold on.
        return rules.faults("EventsEvent", new, old)
    namespace, regarding = new["metadata"].get("namespace", ""), new["involvedObject"].get("namespace", "")
    if regarding != namespace and not (not regarding and namespace == "default"):
        return [invalid_value("involvedObject.namespace", regarding, "does not match event.namespace")]
    return []


@named("event-type")
def _event_type(field: str, value: str | None, _new: Json, _old: Json | None) -> list[Cause]:
    return [] if value in {"Normal", "Warning"} else [invalid_value(field, "", f"has invalid value: {value or ''}")]


# EndpointSlice, Ingress, RBAC, webhooks


@named("slice-address")
def _slice_addresses(field: str, value: str, new: Json, _old: Json | None) -> list[Cause]:
    kind = new["addressType"]
    version = {"IPv4": 4, "IPv6": 6}.get(kind)
    if not version or is_address(value, version):
        return []
    more = [] if is_address(value) else [invalid_value(field, value, "must be a valid IP address")]
    return [invalid_value(field, value, f"must be a valid {kind} address"), *more]


@named("backend")
def _backend(field: str, backend: Any, new: Json, old: Json | None) -> list[Cause]:
    if backend is None or (backend.get("service") is None and backend.get("resource") is not None):
        return []
    service = backend.get("service")
    if service is None:
        return [required(field, "either `service` or `resource` is required")]
    port = service.get("port") or {}
    out = [] if service.get("name") else [required(f"{field}.service.name")]
    if not port.get("name") and not port.get("number"):
        return [*out, required(field, "port name or number is required")]
    return out + rules.WORDS["port"]("")(f"{field}.service.port.number", port.get("number"), new, old)


@named("ingress")
def _ingress_check(field: str, spec: Json, _new: Json, _old: Json | None) -> list[Cause]:
    if spec.get("rules") or spec.get("defaultBackend"):
        return []
    return [raw_invalid(field, "[]networking.IngressRule(nil)", "either `defaultBackend` or `rules` must be specified")]


@named("ingress-path")
def _ingress_path(field: str, path: Json, _new: Json, _old: Json | None) -> list[Cause]:
    text, kind = path.get("path", ""), path.get("pathType")
    if kind not in {"Exact", "Prefix", "ImplementationSpecific"} or text.startswith("/") or (kind[0] == "I" and not text):
        return []
    return [invalid_value(f"{field}.path", text, "must be an absolute path")]


def _policy_default(new: Json) -> None:
    new["spec"].setdefault("policyTypes", ["Ingress", *(["Egress"] if new["spec"].get("egress") else [])])


@named("role")
def _role_rule(field: str, rule: Json, _new: Json, _old: Json | None) -> list[Cause]:
    wanted = {"verbs": "verbs must contain at least one value"}
    if not rule.get("nonResourceURLs"):
        wanted["apiGroups"] = "resource rules must supply at least one api group"
        wanted["resources"] = "resource rules must supply at least one resource"
    return [required(f"{field}.{name}", detail) for name, detail in wanted.items() if not rule.get(name)]


def _binding_default(new: Json) -> None:
    new["roleRef"]["apiGroup"] = new["roleRef"].get("apiGroup") or _RBAC
    for subject in new.get("subjects") or []:
        if subject.get("kind") in {"User", "Group"}:
            subject.setdefault("apiGroup", _RBAC)


@named("subject")
def _account_namespace(field: str, subject: Json, _new: Json, _old: Json | None) -> list[Cause]:
    lacks = subject.get("kind") == "ServiceAccount" and not subject.get("namespace")
    return [required(f"{field}.namespace")] if lacks else []


@named("hook-client")
def _hook_client(field: str, config: Json, _new: Json, _old: Json | None) -> list[Cause]:
    url = config.get("url")
    if bool(url) == bool(config.get("service")):
        return [required(field, "exactly one of url or service is required")]
    if url and not url.startswith("https://"):
        detail = "'https' is the only allowed URL scheme; desired format: https://host[/path]"
        return [invalid_value(f"{field}.url", url.partition(":")[0], detail)]
    return []


PREPARE: dict[str, Callable[[Json, Json | None], None]] = {
    "Namespace": _namespace_prepare, "Pod": _pod_prepare, "Service": services.prepare, "Secret": _secret_prepare,
    "CustomResourceDefinition": crds.prepare,
}  # fmt: skip
"""What a write becomes before defaults, seen with the object it replaces or None."""
DEFAULT: dict[str, Callable[[Json], None]] = {
    "Namespace": _namespace_default, "Node": _node_default, "Pod": _pod_default, "Service": services.default,
    "Deployment": _workload_default, "ReplicaSet": _workload_default, "DaemonSet": _workload_default,
    "NetworkPolicy": _policy_default, "RoleBinding": _binding_default, "ClusterRoleBinding": _binding_default,
    "CustomResourceDefinition": crds.default,
}  # fmt: skip
"""What a kind fills in that depends on more than one field."""
