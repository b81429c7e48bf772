"""What built-in kinds have of their own: defaults, preparation of a write, and validation. Table: HOOKS, by type name.

Pure but for Services, whose allocator is handed in by api.py. A kind that is not here has no rules beyond its types and its
metadata. Order and texts of faults are those of the recorded answers.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lab.apiserver import services
from lab.apiserver.errors import (
    Cause,
    duplicate,
    forbidden,
    invalid_value,
    raw_invalid,
    required,
    unsupported,
)
from lab.apiserver.meta import label_faults, qualified_faults, subdomain_faults

Json = dict[str, Any]


def _nothing(new: Json, old: Json | None) -> None:
    """Prepare nothing."""


def _no_default(new: Json) -> None:
    """Default nothing."""


def _no_faults(_new: Json, _old: Json | None) -> list[Cause]:
    """Find nothing."""
    return []


@dataclass(frozen=True, slots=True)
class Hooks:
    """The rules of one kind: `prepare` sees a write before defaults, with the object it replaces or None."""

    prepare: Callable[[Json, Json | None], None] = _nothing
    default: Callable[[Json], None] = _no_default
    validate: Callable[[Json, Json | None], list[Cause]] = _no_faults


IP_DETAIL = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"


def _is_address(text: str, version: int = 0) -> bool:
    try:
        return version in {0, ipaddress.ip_address(text).version}
    except ValueError:
        return False


# Namespace


def _namespace_prepare(new: Json, old: Json | None) -> None:
    if old is None:
        finalizers = new["spec"].setdefault("finalizers", [])
        if "kubernetes" not in finalizers:
            finalizers.append("kubernetes")
        new["status"] = {"phase": "Active"}
    else:
        new["spec"]["finalizers"] = old["spec"].get("finalizers") or []
        if not new["spec"]["finalizers"]:
            del new["spec"]["finalizers"]


def _namespace_default(new: Json) -> None:
    name = new["metadata"].get("name")
    if name:
        new["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = name


# Node


def _node_default(new: Json) -> None:
    spec = new["spec"]
    if spec.get("podCIDR") and not spec.get("podCIDRs"):
        spec["podCIDRs"] = [spec["podCIDR"]]
    if spec.get("podCIDRs"):
        spec["podCIDR"] = spec["podCIDRs"][0]
    capacity = new["status"].get("capacity")
    if capacity and not new["status"].get("allocatable"):
        new["status"]["allocatable"] = dict(capacity)


def _taint_faults(new: Json) -> list[Cause]:
    out: list[Cause] = []
    for at, taint in enumerate(new["spec"].get("taints") or []):
        field = f"metadata.taints[{at}]"
        out += [invalid_value(f"{field}.key", taint.get("key", ""), f) for f in qualified_faults(taint.get("key", ""))]
        if not taint.get("effect"):
            out.append(required(f"{field}.effect"))
        elif taint["effect"] not in {"NoSchedule", "PreferNoSchedule", "NoExecute"}:
            out.append(unsupported(f"{field}.effect", taint["effect"], ("NoSchedule", "PreferNoSchedule", "NoExecute")))
    return out


def _node_validate(new: Json, old: Json | None) -> list[Cause]:
    out = _taint_faults(new)
    if old is not None:
        out += _taint_faults(new)  # The server looks twice, and says so twice.
        was = old["spec"].get("podCIDRs") or []
        if was and (new["spec"].get("podCIDRs") or []) != was:
            out.append(forbidden("spec.podCIDRs", 'node updates may not change podCIDR except from "" to valid'))
    return out


# Pod


def _probe_default(probe: Json) -> None:
    for name, value in (("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)):
        probe.setdefault(name, value)
    if probe.get("httpGet"):
        probe["httpGet"].setdefault("path", "/")
        probe["httpGet"].setdefault("scheme", "HTTP")


def _container_default(container: Json, *, host_network: bool) -> None:
    image = container.get("image", "")
    tag = image.rsplit("/", 1)[-1].partition(":")[2]
    container.setdefault("imagePullPolicy", "IfNotPresent" if ("@" in image or tag not in {"", "latest"}) else "Always")
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    for port in container.get("ports") or []:
        port.setdefault("protocol", "TCP")
        if host_network:
            port.setdefault("hostPort", port["containerPort"])
    for variable in container.get("env") or []:
        reference = (variable.get("valueFrom") or {}).get("fieldRef")
        if reference is not None:
            reference.setdefault("apiVersion", "v1")
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        if container.get(name):
            _probe_default(container[name])
    resources = container.get("resources") or {}
    for name, value in (resources.get("limits") or {}).items():
        resources.setdefault("requests", {}).setdefault(name, value)


_VOLUME_MODES = {"secret": "defaultMode", "configMap": "defaultMode", "projected": "defaultMode", "downwardAPI": "defaultMode"}


def pod_spec_default(spec: Json) -> None:
    """Fill in a pod's spec, in a Pod or in a template."""
    for name, value in (
        ("restartPolicy", "Always"), ("terminationGracePeriodSeconds", 30), ("dnsPolicy", "ClusterFirst"),
        ("schedulerName", "default-scheduler"),
    ):  # fmt: skip
        spec.setdefault(name, value)
    spec.setdefault("securityContext", {})
    if spec.get("serviceAccountName"):
        spec["serviceAccount"] = spec["serviceAccountName"]
    elif spec.get("serviceAccount"):
        spec["serviceAccountName"] = spec["serviceAccount"]
    for container in [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]:
        _container_default(container, host_network=bool(spec.get("hostNetwork")))
    for volume in spec.get("volumes") or []:
        for source, mode in _VOLUME_MODES.items():
            if volume.get(source) is not None:
                volume[source].setdefault(mode, 420)
        for source in (volume.get("projected") or {}).get("sources") or []:
            if source.get("serviceAccountToken"):
                source["serviceAccountToken"].setdefault("expirationSeconds", 3600)
        if volume.get("hostPath") is not None:
            volume["hostPath"].setdefault("type", "")
        if set(volume) == {"name"}:
            volume["emptyDir"] = {}


def _pod_prepare(new: Json, old: Json | None) -> None:
    if old is None:
        new["status"] = {"phase": "Pending"}


def _pod_default(new: Json) -> None:
    pod_spec_default(new["spec"])
    new["spec"].setdefault("enableServiceLinks", True)
    status = new["status"]
    for condition in status.get("conditions") or []:
        condition.setdefault("lastProbeTime", None)
    if "qosClass" not in status:
        status["qosClass"] = _qos(new["spec"])


def _qos(spec: Json) -> str:
    wants = [c.get("resources") or {} for c in spec.get("containers") or []]
    if not any(w.get("requests") or w.get("limits") for w in wants):
        return "BestEffort"
    limited = all({"cpu", "memory"} <= set(w.get("limits") or {}) and w["limits"] == w.get("requests") for w in wants)
    return "Guaranteed" if limited else "Burstable"


def pod_spec_faults(spec: Json, field: str) -> list[Cause]:
    """Faults of a pod's spec."""
    out: list[Cause] = []
    containers = spec.get("containers") or []
    if not containers:
        out.append(required(f"{field}.containers"))
    seen: set[str] = set()
    for at, container in enumerate(containers):
        where = f"{field}.containers[{at}]"
        name = container.get("name", "")
        if not name:
            out.append(required(f"{where}.name"))
        else:
            out += [invalid_value(f"{where}.name", name, f) for f in label_faults(name)]
            if name in seen:
                out.append(duplicate(f"{where}.name", name))
            seen.add(name)
        if not container.get("image"):
            out.append(required(f"{where}.image"))
        for port_at, port in enumerate(container.get("ports") or []):
            out += services.port_number_faults(f"{where}.ports[{port_at}].containerPort", port["containerPort"])
    if spec["restartPolicy"] not in {"Always", "OnFailure", "Never"}:
        out.append(unsupported(f"{field}.restartPolicy", spec["restartPolicy"], ("Always", "OnFailure", "Never")))
    return out


_POD_MUTABLE = ("activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "schedulingGates")


def _pod_validate(new: Json, old: Json | None) -> list[Cause]:
    out = pod_spec_faults(new["spec"], "spec")
    if old is not None:

        def fixed(spec: Json) -> Json:
            kept = {k: v for k, v in spec.items() if k not in _POD_MUTABLE}
            for name in ("containers", "initContainers"):
                if name in kept:
                    kept[name] = [{k: v for k, v in c.items() if k != "image"} for c in kept[name]]
            return kept

        if fixed(new["spec"]) != fixed(old["spec"]):
            detail = (
                "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
                "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
                "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
            )
            out.append(forbidden("spec", detail))
    for at, entry in enumerate(new["status"].get("podIPs") or []):
        if not _is_address(entry.get("ip", "")):
            out.append(invalid_value(f"status.podIPs[{at}]", entry.get("ip", ""), IP_DETAIL))
    return out


# Secret, ConfigMap, ServiceAccount

_CONFIG_KEY = re.compile(r"[-._a-zA-Z0-9]+")
_CONFIG_KEY_DETAIL = (
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', "
    "regex used for validation is '[-._a-zA-Z0-9]+')"
)
_SECRET_NEEDS = {
    "kubernetes.io/basic-auth": (("username", "password"), any), "kubernetes.io/tls": (("tls.crt", "tls.key"), all),
    "kubernetes.io/ssh-auth": (("ssh-privatekey",), all), "kubernetes.io/dockerconfigjson": ((".dockerconfigjson",), all),
}  # fmt: skip


def _key_faults(new: Json, member: str) -> list[Cause]:
    return [
        invalid_value(f"{member}[{key}]", key, _CONFIG_KEY_DETAIL)
        for key in new.get(member) or {}
        if not _CONFIG_KEY.fullmatch(key)
    ]


def _secret_prepare(new: Json, old: Json | None) -> None:
    texts = new.pop("stringData", None)
    for key, text in (texts or {}).items():
        new.setdefault("data", {})[key] = base64.b64encode(text.encode()).decode()
    if old is not None and not new.get("type"):
        new["type"] = old.get("type", "Opaque")


def _secret_validate(new: Json, old: Json | None) -> list[Cause]:
    out: list[Cause] = []
    if old is not None:
        if new.get("type") != old.get("type"):
            out.append(invalid_value("type", new.get("type", ""), "field is immutable"))
        out += _immutable_faults(new, old, ("data",))
    out += _key_faults(new, "data")
    keys, enough = _SECRET_NEEDS.get(new.get("type", ""), ((), all))
    present = [k in (new.get("data") or {}) for k in keys]
    if keys and not enough(present):
        out += [required(f"data[{k}]") for k, there in zip(keys, present, strict=True) if not there]
    return out


def _immutable_faults(new: Json, old: Json, members: tuple[str, ...]) -> list[Cause]:
    if not old.get("immutable"):
        return []
    detail = "field is immutable when `immutable` is set"
    out = [] if new.get("immutable") else [forbidden("immutable", detail)]
    return out + [forbidden(m, detail) for m in members if (new.get(m) or {}) != (old.get(m) or {})]


def _config_map_validate(new: Json, old: Json | None) -> list[Cause]:
    out = _key_faults(new, "data")
    both = set(new.get("data") or {}) & set(new.get("binaryData") or {})
    out += [invalid_value(f"data[{key}]", key, "duplicate of key present in binaryData") for key in sorted(both)]
    out += _key_faults(new, "binaryData")
    return out + (_immutable_faults(new, old, ("data", "binaryData")) if old else [])


# Events


def _event_validate_core(new: Json, old: Json | None) -> list[Cause]:
    if new.get("eventTime"):  # Written by the newer API: its rules hold on.
        return _event_validate_new(new, old)
    namespace, regarding = new["metadata"].get("namespace", ""), new["involvedObject"].get("namespace", "")
    if regarding != namespace and not (not regarding and namespace == "default"):
        return [invalid_value("involvedObject.namespace", regarding, "does not match event.namespace")]
    return []


_EVENT_FIXED = (
    "involvedObject",
    "reason",
    "message",
    "eventTime",
    "reportingComponent",
    "reportingInstance",
    "action",
    "related",
    "type",
)


def _event_validate_new(new: Json, old: Json | None) -> list[Cause]:
    out: list[Cause] = []
    if not new.get("eventTime"):
        out.append(required("eventTime"))
    if new.get("type") not in {"Normal", "Warning"}:
        out.append(invalid_value("type", "", f"has invalid value: {new.get('type', '')}"))
    controller = new.get("reportingComponent", "")
    if not controller:
        out.append(required("reportingController"))
    out += [invalid_value("reportingController", controller, f) for f in qualified_faults(controller)]
    for name, shown, limit in (
        ("reportingInstance", "reportingInstance", 128),
        ("action", "action", 128),
        ("reason", "reason", 128),
    ):
        value = new.get(name, "")
        if not value:
            out.append(required(shown))
        elif len(value) > limit:
            out.append(invalid_value(shown, "", f"can have at most {limit} characters"))
    if len(new.get("message", "")) > 1024:
        out.append(invalid_value("message", "", "can have at most 1024 characters"))
    if old is None:
        rules = (
            (bool(new.get("firstTimestamp")), "firstTimestamp"), (bool(new.get("lastTimestamp")), "lastTimestamp"),
            (bool(new.get("count")), "count"), (bool(new.get("source")), "source"),
        )  # fmt: skip
        out += [invalid_value(field, "", "needs to be unset") for broken, field in rules if broken]
    else:
        out += [invalid_value(m, new.get(m), "field is immutable") for m in _EVENT_FIXED if new.get(m) != old.get(m)]
    series = new.get("series")
    if series and series.get("count", 0) < 2:
        out.append(invalid_value("series.count", "", "should be at least 2"))
    return out


# EndpointSlice, Endpoints, Lease


def _slice_default(new: Json) -> None:
    for port in new.get("ports") or []:
        port.setdefault("name", "")
        port.setdefault("protocol", "TCP")


def _slice_validate(new: Json, old: Json | None) -> list[Cause]:
    out: list[Cause] = []
    kind = new.get("addressType", "")
    if kind not in {"IPv4", "IPv6", "FQDN"}:
        out.append(unsupported("addressType", kind, ("FQDN", "IPv4", "IPv6")) if kind else required("addressType"))
    elif old is not None and kind != old.get("addressType"):
        return [invalid_value("addressType", kind, "field is immutable")]
    for at, endpoint in enumerate(new.get("endpoints") or []):
        field = f"endpoints[{at}]"
        if not endpoint.get("addresses"):
            out.append(required(f"{field}.addresses", "must contain at least 1 address"))
        for address_at, address in enumerate(endpoint.get("addresses") or []):
            where = f"{field}.addresses[{address_at}]"
            version = {"IPv4": 4, "IPv6": 6}.get(kind)
            if version and not _is_address(address, version):
                out.append(invalid_value(where, address, f"must be a valid {kind} address"))
            if version and not _is_address(address):
                out.append(invalid_value(where, address, "must be a valid IP address"))
        if endpoint.get("nodeName") is not None:
            out += [invalid_value(f"{field}.nodeName", endpoint["nodeName"], f) for f in subdomain_faults(endpoint["nodeName"])]
    names: set[str] = set()
    for at, port in enumerate(new.get("ports") or []):
        if port["name"] in names:
            out.append(duplicate(f"ports[{at}].name", port["name"]))
        names.add(port["name"])
        if port["protocol"] not in {"TCP", "UDP", "SCTP"}:
            out.append(unsupported(f"ports[{at}].protocol", port["protocol"], ("SCTP", "TCP", "UDP")))
    return out


def _endpoints_default(new: Json) -> None:
    for subset in new.get("subsets") or []:
        for port in subset.get("ports") or []:
            port.setdefault("protocol", "TCP")


def _endpoints_validate(new: Json, _old: Json | None) -> list[Cause]:
    out = []
    for at, subset in enumerate(new.get("subsets") or []):
        for member in ("addresses", "notReadyAddresses"):
            for address_at, address in enumerate(subset.get(member) or []):
                if not _is_address(address["ip"]):
                    field = f"subsets[{at}].{member}[{address_at}].ip"
                    out += [invalid_value(field, address["ip"], d) for d in (IP_DETAIL, "must be a valid IP address")]
    return out


def _lease_validate(new: Json, _old: Json | None) -> list[Cause]:
    out = []
    duration, transitions = new["spec"].get("leaseDurationSeconds"), new["spec"].get("leaseTransitions")
    if duration is not None and duration <= 0:
        out.append(invalid_value("spec.leaseDurationSeconds", duration, "must be greater than 0"))
    if transitions is not None and transitions < 0:
        out.append(invalid_value("spec.leaseTransitions", transitions, "must be greater than or equal to 0"))
    return out


# apps


def _template_default(new: Json) -> None:
    pod_spec_default(new["spec"]["template"]["spec"])


def _deployment_default(new: Json) -> None:
    spec = new["spec"]
    _template_default(new)
    spec.setdefault("replicas", 1)
    strategy = spec.setdefault("strategy", {})
    if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxUnavailable", "25%")
        rolling.setdefault("maxSurge", "25%")
    spec.setdefault("revisionHistoryLimit", 10)
    spec.setdefault("progressDeadlineSeconds", 600)


def _daemon_set_default(new: Json) -> None:
    spec = new["spec"]
    _template_default(new)
    strategy = spec.setdefault("updateStrategy", {})
    if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxUnavailable", 1)
        rolling.setdefault("maxSurge", 0)
    spec.setdefault("revisionHistoryLimit", 10)


def _daemon_set_prepare(new: Json, old: Json | None) -> None:
    if old is None:
        new["metadata"].setdefault("annotations", {})["deprecated.daemonset.template.generation"] = "1"
    elif new["spec"].get("template") != old["spec"].get("template"):
        name = "deprecated.daemonset.template.generation"
        count = int((old["metadata"].get("annotations") or {}).get(name, "1"))
        new["metadata"].setdefault("annotations", {})[name] = str(count + 1)


def _replica_set_default(new: Json) -> None:
    _template_default(new)
    new["spec"].setdefault("replicas", 1)


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


def _go_labels(labels: Json) -> str:
    return "map[string]string{" + ", ".join(f'"{k}":"{v}"' for k, v in sorted(labels.items())) + "}"


def _workload_validate(new: Json, old: Json | None) -> list[Cause]:
    spec = new["spec"]
    selector = spec.get("selector")
    out: list[Cause] = []
    if selector is None:
        out.append(required("spec.selector"))
    elif not selector.get("matchLabels") and not selector.get("matchExpressions"):
        out.append(raw_invalid("spec.selector", "v1.LabelSelector{}", "empty selector is invalid for deployment"))
    labels = (spec["template"].get("metadata") or {}).get("labels") or {}
    if selector and not selector_holds(selector, labels):
        detail = "`selector` does not match template `labels`"
        out.append(raw_invalid("spec.template.metadata.labels", _go_labels(labels), detail))
    if isinstance(spec.get("replicas"), int) and spec["replicas"] < 0:
        out.append(invalid_value("spec.replicas", spec["replicas"], "must be greater than or equal to 0"))
    out += pod_spec_faults(spec["template"]["spec"], "spec.template.spec")
    if old is not None and selector != old["spec"].get("selector"):
        shown = (
            f"v1.LabelSelector{{MatchLabels:{_go_labels((selector or {}).get('matchLabels') or {})}, "
            "MatchExpressions:[]v1.LabelSelectorRequirement(nil)}"
        )
        out.append(raw_invalid("spec.selector", shown, "field is immutable"))
    return out


# networking


def _backend_faults(backend: Json, field: str) -> list[Cause]:
    service = backend.get("service")
    if service is None and backend.get("resource") is None:
        return [required(field, "either `service` or `resource` is required")]
    if service is None:
        return []
    out = [] if service.get("name") else [required(f"{field}.service.name")]
    port = service.get("port") or {}
    if not port.get("name") and not port.get("number"):
        out.append(required(field, "port name or number is required"))
    elif port.get("number"):
        out += services.port_number_faults(f"{field}.service.port.number", port["number"])
    return out


def _ingress_validate(new: Json, _old: Json | None) -> list[Cause]:
    spec = new["spec"]
    out: list[Cause] = []
    if not spec.get("rules") and not spec.get("defaultBackend"):
        detail = "either `defaultBackend` or `rules` must be specified"
        out.append(raw_invalid("spec", "[]networking.IngressRule(nil)", detail))
    if spec.get("defaultBackend"):
        out += _backend_faults(spec["defaultBackend"], "spec.defaultBackend")
    for at, rule in enumerate(spec.get("rules") or []):
        field = f"spec.rules[{at}]"
        host = rule.get("host", "")
        if _is_address(host):
            out.append(invalid_value(f"{field}.host", host, "must be a DNS name, not an IP address"))
        elif host and not host.startswith("*."):
            out += [invalid_value(f"{field}.host", host, f) for f in subdomain_faults(host)]
        for path_at, path in enumerate((rule.get("http") or {}).get("paths") or []):
            where = f"{field}.http.paths[{path_at}]"
            kind, text = path.get("pathType"), path.get("path", "")
            if kind is None:
                out.append(required(f"{where}.pathType", "pathType must be specified"))
            elif kind not in {"Exact", "Prefix", "ImplementationSpecific"}:
                out.append(unsupported(f"{where}.pathType", kind, ("Exact", "ImplementationSpecific", "Prefix")))
            elif not text.startswith("/") and (kind != "ImplementationSpecific" or text):
                out.append(invalid_value(f"{where}.path", text, "must be an absolute path"))
            out += _backend_faults(path["backend"], f"{where}.backend")
    return out


def _ingress_class_validate(new: Json, old: Json | None) -> list[Cause]:
    controller = new["spec"].get("controller", "")
    if old is not None and controller != old["spec"].get("controller", ""):
        return [invalid_value("spec.controller", controller, "field is immutable")]
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9/\-._~%!$&'()*+,;=:]+", controller):
        return [invalid_value("spec.controller", controller, 'must be a domain-prefixed path (such as "acme.io/foo")')]
    return []


def _network_policy_default(new: Json) -> None:
    spec = new["spec"]
    for direction in ("ingress", "egress"):
        for rule in spec.get(direction) or []:
            for port in rule.get("ports") or []:
                port.setdefault("protocol", "TCP")
    if not spec.get("policyTypes"):
        spec["policyTypes"] = ["Ingress", *(["Egress"] if spec.get("egress") else [])]


# rbac


def _role_validate(new: Json, _old: Json | None) -> list[Cause]:
    out: list[Cause] = []
    for at, rule in enumerate(new.get("rules") or []):
        field = f"rules[{at}]"
        if not rule.get("verbs"):
            out.append(required(f"{field}.verbs", "verbs must contain at least one value"))
        if not rule.get("nonResourceURLs"):
            if not rule.get("apiGroups"):
                out.append(required(f"{field}.apiGroups", "resource rules must supply at least one api group"))
            if not rule.get("resources"):
                out.append(required(f"{field}.resources", "resource rules must supply at least one resource"))
    return out


def _binding_default(new: Json) -> None:
    new["roleRef"]["apiGroup"] = new["roleRef"].get("apiGroup") or "rbac.authorization.k8s.io"
    for subject in new.get("subjects") or []:
        if subject.get("kind") in {"User", "Group"}:
            subject.setdefault("apiGroup", "rbac.authorization.k8s.io")


def _binding_validate(new: Json, old: Json | None) -> list[Cause]:
    reference = new["roleRef"]
    if old is not None and reference != old["roleRef"]:
        shown = f'rbac.RoleRef{{APIGroup:"{reference["apiGroup"]}", Kind:"{reference["kind"]}", Name:"{reference["name"]}"}}'
        return [raw_invalid("roleRef", shown, "cannot change roleRef")]
    out: list[Cause] = []
    if reference["kind"] not in {"Role", "ClusterRole"}:
        out.append(unsupported("roleRef.kind", reference["kind"], ("ClusterRole", "Role")))
    if not reference["name"]:
        out.append(required("roleRef.name"))
    for at, subject in enumerate(new.get("subjects") or []):
        if not subject.get("name"):
            out.append(required(f"subjects[{at}].name"))
        if subject.get("kind") == "ServiceAccount" and not subject.get("namespace"):
            out.append(required(f"subjects[{at}].namespace"))
    return out


# admissionregistration


def _webhooks_default(new: Json) -> None:
    for hook in new.get("webhooks") or []:
        for name, value in (("failurePolicy", "Fail"), ("matchPolicy", "Equivalent"), ("timeoutSeconds", 10)):
            hook.setdefault(name, value)
        hook.setdefault("namespaceSelector", {})
        hook.setdefault("objectSelector", {})
        if new.get("kind") == "MutatingWebhookConfiguration":
            hook.setdefault("reinvocationPolicy", "Never")
        if hook["clientConfig"].get("service"):
            hook["clientConfig"]["service"].setdefault("port", 443)
        for rule in hook.get("rules") or []:
            rule.setdefault("scope", "*")


def _webhooks_validate(new: Json, _old: Json | None) -> list[Cause]:
    out: list[Cause] = []
    for at, hook in enumerate(new.get("webhooks") or []):
        field = f"webhooks[{at}]"
        if not hook.get("admissionReviewVersions"):
            out.append(required(f"{field}.admissionReviewVersions", "must specify one of v1, v1beta1"))
        name = hook.get("name", "")
        faults = subdomain_faults(name)
        out += [invalid_value(f"{field}.name", name, f) for f in faults]
        if not faults and len(name.split(".")) < 3:
            out.append(
                invalid_value(f"{field}.name", name, "should be a domain with at least three segments separated by dots")
            )
        for rule_at, rule in enumerate(hook.get("rules") or []):
            for op_at, operation in enumerate(rule.get("operations") or []):
                if operation not in {"*", "CONNECT", "CREATE", "DELETE", "UPDATE"}:
                    where = f"{field}.rules[{rule_at}].operations[{op_at}]"
                    out.append(unsupported(where, operation, ("*", "CONNECT", "CREATE", "DELETE", "UPDATE")))
        if hook["failurePolicy"] not in {"Fail", "Ignore"}:
            out.append(unsupported(f"{field}.failurePolicy", hook["failurePolicy"], ("Fail", "Ignore")))
        if not hook.get("sideEffects"):
            out.append(required(f"{field}.sideEffects", "must specify one of None, NoneOnDryRun"))
        if not 1 <= hook["timeoutSeconds"] <= 30:
            detail = "the timeout value must be between 1 and 30 seconds"
            out.append(invalid_value(f"{field}.timeoutSeconds", hook["timeoutSeconds"], detail))
        config = hook["clientConfig"]
        if bool(config.get("url")) == bool(config.get("service")):
            out.append(required(f"{field}.clientConfig", "exactly one of url or service is required"))
        elif config.get("url") and not config["url"].startswith("https://"):
            scheme = config["url"].partition(":")[0]
            detail = "'https' is the only allowed URL scheme; desired format: https://host[/path]"
            out.append(invalid_value(f"{field}.clientConfig.url", scheme, detail))
    return out


def _service_prepare(new: Json, old: Json | None) -> None:
    if old is not None:
        services.prepare_update(new, old)


HOOKS: dict[str, Hooks] = {
    "Namespace": Hooks(_namespace_prepare, _namespace_default),
    "Node": Hooks(default=_node_default, validate=_node_validate),
    "Pod": Hooks(_pod_prepare, _pod_default, _pod_validate),
    "Service": Hooks(_service_prepare, services.default, services.validate),
    "Secret": Hooks(_secret_prepare, lambda new: new.__setitem__("type", new.get("type") or "Opaque"), _secret_validate),
    "ConfigMap": Hooks(validate=_config_map_validate),
    "CoreEvent": Hooks(validate=_event_validate_core),
    "EventsEvent": Hooks(validate=_event_validate_new),
    "EndpointSlice": Hooks(default=_slice_default, validate=_slice_validate),
    "Endpoints": Hooks(default=_endpoints_default, validate=_endpoints_validate),
    "Lease": Hooks(validate=_lease_validate),
    "Deployment": Hooks(default=_deployment_default, validate=_workload_validate),
    "DaemonSet": Hooks(_daemon_set_prepare, _daemon_set_default, _workload_validate),
    "ReplicaSet": Hooks(default=_replica_set_default, validate=_workload_validate),
    "Ingress": Hooks(validate=_ingress_validate),
    "IngressClass": Hooks(validate=_ingress_class_validate),
    "NetworkPolicy": Hooks(default=_network_policy_default),
    "Role": Hooks(validate=_role_validate),
    "ClusterRole": Hooks(validate=_role_validate),
    "RoleBinding": Hooks(default=_binding_default, validate=_binding_validate),
    "ClusterRoleBinding": Hooks(default=_binding_default, validate=_binding_validate),
    "ValidatingWebhookConfiguration": Hooks(default=_webhooks_default, validate=_webhooks_validate),
    "MutatingWebhookConfiguration": Hooks(default=_webhooks_default, validate=_webhooks_validate),
}
