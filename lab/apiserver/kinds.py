"""What built-in kinds have of their own beyond their types: preparation of a write, defaults that depend on others, and rules.

KINDS has a row for each kind that has any; a kind without a row has no rules beyond its types and its metadata. Plain defaults
are in builtin_types.json. Pure. The texts of faults are those of the recorded answers.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from lab.apiserver import crds, services
from lab.apiserver.errors import Cause, forbidden, invalid_value, raw_invalid, required
from lab.apiserver.meta import label_faults, qualified_faults, subdomain_faults
from lab.apiserver.rules import (
    ADDRESS,
    NOT_NEGATIVE,
    PORT,
    Rule,
    among,
    faults_by,
    fixed,
    holds,
    is_address,
    needed,
    said_by,
    unique,
)

Json = dict[str, Any]
_RBAC = "rbac.authorization.k8s.io"


@dataclass(frozen=True, slots=True)
class Kind:
    """The rules of one kind.

    `prepare` sees a write before defaults, with the object it replaces or None; `check` finds what the rules cannot say.
    """

    prepare: Callable[[Json, Json | None], None] = lambda _new, _old: None
    default: Callable[[Json], None] = lambda _new: None
    rules: tuple[Rule, ...] = ()
    check: Callable[[Json, Json | None], list[Cause]] = lambda _new, _old: []

    def faults(self, new: Json, old: Json | None) -> list[Cause]:
        """All faults."""
        return faults_by(self.rules, new, old) + self.check(new, old)


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


def _node_check(new: Json, old: Json | None) -> list[Cause]:
    was = old["spec"].get("podCIDRs") if old is not None else None
    if was and new["spec"].get("podCIDRs") != was:
        return [forbidden("spec.podCIDRs", 'node updates may not change podCIDR except from "" to valid')]
    return []


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


def _pod_rules(spec: str) -> tuple[Rule, ...]:
    return (
        (f"{spec}.containers", needed(), unique("name")),
        (f"{spec}.containers[*].name", needed(), said_by(label_faults)),
        (f"{spec}.containers[*].image", needed()),
        (f"{spec}.containers[*].ports[*].containerPort", PORT),
        (f"{spec}.restartPolicy", among("Always", "OnFailure", "Never")),
    )


_POD_MUTABLE = ("activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "schedulingGates")


def _pod_check(new: Json, old: Json | None) -> list[Cause]:
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


def _daemon_set_prepare(new: Json, old: Json | None) -> None:
    name = "deprecated.daemonset.template.generation"
    if old is None:
        new["metadata"].setdefault("annotations", {})[name] = "1"
    elif new["spec"].get("template") != old["spec"].get("template"):
        count = int((old["metadata"].get("annotations") or {}).get(name, "1"))
        new["metadata"].setdefault("annotations", {})[name] = str(count + 1)


def selector_holds(selector: Json, labels: Json) -> bool:
    """Whether a LabelSelector selects these labels."""
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return False
    for term in selector.get("matchExpressions") or []:
        value, values = labels.get(term["key"]), term.get("values") or []
        held = {
            "In": value in values, "NotIn": value not in values, "Exists": value is not None, "DoesNotExist": value is None,
        }.get(term["operator"], False)  # fmt: skip
        if not held:
            return False
    return True


def _go_labels(labels: Json | None) -> str:
    return "map[string]string{" + ", ".join(f'"{k}":"{v}"' for k, v in sorted((labels or {}).items())) + "}"


def _workload_check(new: Json, old: Json | None) -> list[Cause]:
    selector = new["spec"].get("selector")
    out: list[Cause] = []
    if selector is not None and not selector.get("matchLabels") and not selector.get("matchExpressions"):
        out.append(raw_invalid("spec.selector", "v1.LabelSelector{}", "empty selector is invalid for deployment"))
    labels = (new["spec"]["template"].get("metadata") or {}).get("labels")
    if selector and not selector_holds(selector, labels or {}):
        detail = "`selector` does not match template `labels`"
        out.append(raw_invalid("spec.template.metadata.labels", _go_labels(labels), detail))
    if old is not None and selector != old["spec"].get("selector"):
        shown = f"v1.LabelSelector{{MatchLabels:{_go_labels((selector or {}).get('matchLabels'))}, "
        shown += "MatchExpressions:[]v1.LabelSelectorRequirement(nil)}"
        out.append(raw_invalid("spec.selector", shown, "field is immutable"))
    return out


_WORKLOAD = Kind(
    default=_workload_default,
    rules=(("spec.selector", needed()), ("spec.replicas", NOT_NEGATIVE), *_pod_rules("spec.template.spec")),
    check=_workload_check,
)


# Secret and ConfigMap

_KEY_DETAIL = (
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', "
    "regex used for validation is '[-._a-zA-Z0-9]+')"
)
_SECRET_NEEDS = {
    "kubernetes.io/basic-auth": (("username", "password"), any), "kubernetes.io/tls": (("tls.crt", "tls.key"), all),
    "kubernetes.io/ssh-auth": (("ssh-privatekey",), all), "kubernetes.io/dockerconfigjson": ((".dockerconfigjson",), all),
}  # fmt: skip


def _secret_prepare(new: Json, old: Json | None) -> None:
    for key, text in (new.pop("stringData", None) or {}).items():
        new.setdefault("data", {})[key] = base64.b64encode(text.encode()).decode()
    if old is not None and not new.get("type"):
        new["type"] = old.get("type", "Opaque")


def _data_check(new: Json, old: Json | None) -> list[Cause]:
    members = ("data", "binaryData")
    out = [
        invalid_value(f"{member}[{key}]", key, _KEY_DETAIL)
        for member in members
        for key in new.get(member) or {}
        if not re.fullmatch(r"[-._a-zA-Z0-9]+", key)
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


def _event_core_check(new: Json, old: Json | None) -> list[Cause]:
    if new.get("eventTime"):  # Written by the newer API: its rules hold on.
        return faults_by(_EVENT, new, old)
    namespace, regarding = new["metadata"].get("namespace", ""), new["involvedObject"].get("namespace", "")
    if regarding != namespace and not (not regarding and namespace == "default"):
        return [invalid_value("involvedObject.namespace", regarding, "does not match event.namespace")]
    return []


def _unset(field: str, value: Any, _new: Json, old: Json | None) -> list[Cause]:
    return [invalid_value(field, "", "needs to be unset")] if value and old is None else []


def _at_most(limit: int) -> Any:
    return holds(lambda v: len(v) <= limit, f"can have at most {limit} characters", shown="")


_EVENT: tuple[Rule, ...] = (
    ("eventTime", needed()),
    ("type", lambda f, v, _n, _o: [] if v in {"Normal", "Warning"} else [invalid_value(f, "", f"has invalid value: {v or ''}")]),
    ("reportingComponent as reportingController", needed()),
    ("reportingComponent as reportingController", lambda f, v, _n, _o: [invalid_value(f, v, t) for t in qualified_faults(v)]),
    *((name, needed(), _at_most(128)) for name in ("reportingInstance", "action", "reason")),
    ("message", _at_most(1024)),
    *((name, _unset) for name in ("firstTimestamp", "lastTimestamp", "count", "source")),
    *(
        (name, fixed())
        for name in (
            "involvedObject", "reason", "message", "eventTime", "reportingComponent", "reportingInstance", "action", "related", "type",
        )
    ),
    ("series.count", holds(lambda v: v >= 2, "should be at least 2", shown="")),
)  # fmt: skip


# EndpointSlice, Ingress, RBAC, webhooks


def _slice_addresses(field: str, value: str, new: Json, _old: Json | None) -> list[Cause]:
    kind = new["addressType"]
    version = {"IPv4": 4, "IPv6": 6}.get(kind)
    if not version or is_address(value, version):
        return []
    more = [] if is_address(value) else [invalid_value(field, value, "must be a valid IP address")]
    return [invalid_value(field, value, f"must be a valid {kind} address"), *more]


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
    return out + PORT(f"{field}.service.port.number", port.get("number"), new, old)


def _host(text: str) -> list[str]:
    if is_address(text):
        return ["must be a DNS name, not an IP address"]
    return [] if text.startswith("*.") else subdomain_faults(text)


def _ingress_check(new: Json, _old: Json | None) -> list[Cause]:
    out: list[Cause] = []
    if not new["spec"].get("rules") and not new["spec"].get("defaultBackend"):
        detail = "either `defaultBackend` or `rules` must be specified"
        out.append(raw_invalid("spec", "[]networking.IngressRule(nil)", detail))
    return out


def _ingress_path(field: str, path: Json, _new: Json, _old: Json | None) -> list[Cause]:
    text, kind = path.get("path", ""), path.get("pathType")
    if kind not in {"Exact", "Prefix", "ImplementationSpecific"} or text.startswith("/") or (kind[0] == "I" and not text):
        return []
    return [invalid_value(f"{field}.path", text, "must be an absolute path")]


def _policy_default(new: Json) -> None:
    new["spec"].setdefault("policyTypes", ["Ingress", *(["Egress"] if new["spec"].get("egress") else [])])


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


def _binding_check(new: Json, old: Json | None) -> list[Cause]:
    reference = new["roleRef"]
    if old is not None and reference != old["roleRef"]:
        shown = f'rbac.RoleRef{{APIGroup:"{reference["apiGroup"]}", Kind:"{reference["kind"]}", Name:"{reference["name"]}"}}'
        return [raw_invalid("roleRef", shown, "cannot change roleRef")]
    return []


def _account_namespace(field: str, subject: Json, _new: Json, _old: Json | None) -> list[Cause]:
    lacks = subject.get("kind") == "ServiceAccount" and not subject.get("namespace")
    return [required(f"{field}.namespace")] if lacks else []


def _hook_client(field: str, config: Json, _new: Json, _old: Json | None) -> list[Cause]:
    url = config.get("url")
    if bool(url) == bool(config.get("service")):
        return [required(field, "exactly one of url or service is required")]
    if url and not url.startswith("https://"):
        detail = "'https' is the only allowed URL scheme; desired format: https://host[/path]"
        return [invalid_value(f"{field}.url", url.partition(":")[0], detail)]
    return []


def _hook_name(text: str) -> list[str]:
    short = [] if text.count(".") >= 2 else ["should be a domain with at least three segments separated by dots"]
    return subdomain_faults(text) or short


_ROLE = Kind(rules=(("rules[*]", _role_rule),))
_BINDING = Kind(
    default=_binding_default,
    check=_binding_check,
    rules=(
        ("roleRef.kind", among("ClusterRole", "Role")), ("roleRef.name", needed()), ("subjects[*].name", needed()),
        ("subjects[*]", _account_namespace),
    ),
)  # fmt: skip
_WEBHOOKS = Kind(
    rules=(
        ("webhooks[*].admissionReviewVersions", needed("must specify one of v1, v1beta1")),
        ("webhooks[*].name", said_by(_hook_name)),
        ("webhooks[*].rules[*].operations[*]", among("*", "CONNECT", "CREATE", "DELETE", "UPDATE")),
        ("webhooks[*].failurePolicy", among("Fail", "Ignore")),
        ("webhooks[*].sideEffects", needed("must specify one of None, NoneOnDryRun")),
        ("webhooks[*].timeoutSeconds", holds(lambda v: 1 <= v <= 30, "the timeout value must be between 1 and 30 seconds")),
        ("webhooks[*].clientConfig", _hook_client),
    )
)
_CONTROLLER = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9/\-._~%!$&'()*+,;=:]+")

KINDS: dict[str, Kind] = {
    "Namespace": Kind(_namespace_prepare, _namespace_default),
    "Node": Kind(
        default=_node_default, check=_node_check,
        rules=(
            ("spec.taints[*].key as metadata.taints", said_by(qualified_faults)),
            ("spec.taints[*].effect as metadata.taints", needed(), among("NoSchedule", "PreferNoSchedule", "NoExecute")),
        ),
    ),
    "Pod": Kind(_pod_prepare, _pod_default, (*_pod_rules("spec"), ("status.podIPs[*].ip", ADDRESS)), _pod_check),
    "Service": Kind(services.prepare, services.default, services.RULES),
    "Secret": Kind(_secret_prepare, rules=(("type", fixed()),), check=_data_check),
    "ConfigMap": Kind(check=_data_check),
    "CoreEvent": Kind(check=_event_core_check),
    "EventsEvent": Kind(rules=_EVENT),
    "EndpointSlice": Kind(
        rules=(
            ("addressType", fixed(), needed(), among("FQDN", "IPv4", "IPv6")),
            ("endpoints[*].addresses", needed("must contain at least 1 address")),
            ("endpoints[*].addresses[*]", _slice_addresses),
            ("endpoints[*].nodeName", said_by(subdomain_faults)),
            ("ports", unique("name")),
            ("ports[*].protocol", among("SCTP", "TCP", "UDP")),
        )
    ),
    "Endpoints": Kind(rules=(("subsets[*].addresses[*].ip", ADDRESS), ("subsets[*].notReadyAddresses[*].ip", ADDRESS))),
    "Lease": Kind(
        rules=(
            ("spec.leaseDurationSeconds", holds(lambda v: v > 0, "must be greater than 0")),
            ("spec.leaseTransitions", NOT_NEGATIVE),
        )
    ),
    "Deployment": _WORKLOAD, "ReplicaSet": _WORKLOAD, "DaemonSet": replace(_WORKLOAD, prepare=_daemon_set_prepare),
    "Ingress": Kind(
        check=_ingress_check,
        rules=(
            ("spec.defaultBackend", _backend),
            ("spec.rules[*].host", said_by(_host)),
            (
                "spec.rules[*].http.paths[*].pathType",
                needed("pathType must be specified"), among("Exact", "ImplementationSpecific", "Prefix"),
            ),
            ("spec.rules[*].http.paths[*]", _ingress_path),
            ("spec.rules[*].http.paths[*].backend", _backend),
        ),
    ),
    "IngressClass": Kind(
        rules=(
            (
                "spec.controller", fixed(),
                holds(lambda v: bool(_CONTROLLER.fullmatch(v)), 'must be a domain-prefixed path (such as "acme.io/foo")'),
            ),
        )
    ),
    "NetworkPolicy": Kind(default=_policy_default),
    "Role": _ROLE, "ClusterRole": _ROLE, "RoleBinding": _BINDING, "ClusterRoleBinding": _BINDING,
    "ValidatingWebhookConfiguration": _WEBHOOKS, "MutatingWebhookConfiguration": _WEBHOOKS,
    "CustomResourceDefinition": Kind(crds.prepare, crds.default, (), crds.validate),
}  # fmt: skip
