r"""Protobuf bodies: kubectl from 1.32 sends them for `create` of built-in kinds and for access reviews.

Only reading, and only the messages kubectl makes; answers are JSON. The envelope is the four bytes `k8s\0` and a
runtime.Unknown with apiVersion, kind and the raw message. Field numbers are those of the published .proto files.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any

Json = dict[str, Any]
MAGIC = b"k8s\x00"

# Message -> field number -> (JSON name, type). Types: s text, i int, b bool, y bytes as base64, p intstr, t time, ? not read,
# ? not read, a message name; [] repeats it, {} maps texts to it.
_MESSAGES: dict[str, dict[int, tuple[str, str]]] = {
    "ObjectMeta": {
        1: ("name", "s"), 2: ("generateName", "s"), 3: ("namespace", "s"), 4: ("selfLink", "s"), 5: ("uid", "s"),
        6: ("resourceVersion", "s"), 7: ("generation", "i"), 8: ("creationTimestamp", "t"), 11: ("labels", "{}s"),
        12: ("annotations", "{}s"), 14: ("finalizers", "[]s"),
    },
    "Namespace": {1: ("metadata", "ObjectMeta"), 2: ("spec", "NamespaceSpec"), 3: ("status", "?")},
    "NamespaceSpec": {1: ("finalizers", "[]s")},
    "ConfigMap": {1: ("metadata", "ObjectMeta"), 2: ("data", "{}s"), 3: ("binaryData", "{}y"), 4: ("immutable", "b")},
    "Secret": {
        1: ("metadata", "ObjectMeta"), 2: ("data", "{}y"), 3: ("type", "s"), 4: ("stringData", "{}s"), 5: ("immutable", "b"),
    },
    "ServiceAccount": {1: ("metadata", "ObjectMeta"), 4: ("automountServiceAccountToken", "b")},
    "Service": {1: ("metadata", "ObjectMeta"), 2: ("spec", "ServiceSpec"), 3: ("status", "?")},
    "ServiceSpec": {
        1: ("ports", "[]ServicePort"), 2: ("selector", "{}s"), 3: ("clusterIP", "s"), 4: ("type", "s"), 5: ("externalIPs", "[]s"),
        7: ("sessionAffinity", "s"), 8: ("loadBalancerIP", "s"), 9: ("loadBalancerSourceRanges", "[]s"), 10: ("externalName", "s"),
        11: ("externalTrafficPolicy", "s"), 12: ("healthCheckNodePort", "i"), 13: ("publishNotReadyAddresses", "b"),
        17: ("ipFamilyPolicy", "s"), 18: ("clusterIPs", "[]s"), 19: ("ipFamilies", "[]s"),
        20: ("allocateLoadBalancerNodePorts", "b"), 21: ("loadBalancerClass", "s"), 22: ("internalTrafficPolicy", "s"),
    },
    "ServicePort": {
        1: ("name", "s"), 2: ("protocol", "s"), 3: ("port", "i"), 4: ("targetPort", "p"), 5: ("nodePort", "i"), 6: ("appProtocol", "s"),
    },
    "Role": {1: ("metadata", "ObjectMeta"), 2: ("rules", "[]PolicyRule")},
    "ClusterRole": {1: ("metadata", "ObjectMeta"), 2: ("rules", "[]PolicyRule")},
    "PolicyRule": {
        1: ("verbs", "[]s"), 2: ("apiGroups", "[]s"), 3: ("resources", "[]s"), 4: ("resourceNames", "[]s"), 5: ("nonResourceURLs", "[]s"),
    },
    "RoleBinding": {1: ("metadata", "ObjectMeta"), 2: ("subjects", "[]Subject"), 3: ("roleRef", "RoleRef")},
    "ClusterRoleBinding": {1: ("metadata", "ObjectMeta"), 2: ("subjects", "[]Subject"), 3: ("roleRef", "RoleRef")},
    "Subject": {1: ("kind", "s"), 2: ("apiGroup", "s"), 3: ("name", "s"), 4: ("namespace", "s")},
    "RoleRef": {1: ("apiGroup", "s"), 2: ("kind", "s"), 3: ("name", "s")},
    "SelfSubjectAccessReview": {1: ("metadata", "ObjectMeta"), 2: ("spec", "AccessSpec"), 3: ("status", "?")},
    "AccessSpec": {1: ("resourceAttributes", "ResourceAttributes"), 2: ("nonResourceAttributes", "NonResourceAttributes")},
    "ResourceAttributes": {
        1: ("namespace", "s"), 2: ("verb", "s"), 3: ("group", "s"), 4: ("version", "s"), 5: ("resource", "s"), 6: ("subresource", "s"),
        7: ("name", "s"),
    },
    "NonResourceAttributes": {1: ("path", "s"), 2: ("verb", "s")},
    "SelfSubjectReview": {1: ("metadata", "ObjectMeta"), 2: ("status", "?")},
    "SelfSubjectRulesReview": {1: ("metadata", "ObjectMeta"), 2: ("spec", "RulesSpec"), 3: ("status", "?")},
    "RulesSpec": {1: ("namespace", "s")},
    "TokenRequest": {1: ("metadata", "ObjectMeta"), 2: ("spec", "TokenSpec"), 3: ("status", "?")},
    "TokenSpec": {1: ("audiences", "[]s"), 4: ("expirationSeconds", "i")},
    "Deployment": {1: ("metadata", "ObjectMeta"), 2: ("spec", "DeploymentSpec"), 3: ("status", "?")},
    "DeploymentSpec": {
        1: ("replicas", "i"), 2: ("selector", "LabelSelector"), 3: ("template", "PodTemplateSpec"),
        5: ("minReadySeconds", "i"), 6: ("revisionHistoryLimit", "i"), 7: ("paused", "b"), 9: ("progressDeadlineSeconds", "i"),
    },
    "LabelSelector": {1: ("matchLabels", "{}s")},
    "PodTemplateSpec": {1: ("metadata", "ObjectMeta"), 2: ("spec", "PodSpec")},
    "PodSpec": {2: ("containers", "[]Container"), 3: ("restartPolicy", "s"), 4: ("terminationGracePeriodSeconds", "i"), 6: ("dnsPolicy", "s"), 19: ("schedulerName", "s")},
    "Container": {
        1: ("name", "s"), 2: ("image", "s"), 3: ("command", "[]s"), 4: ("args", "[]s"), 6: ("ports", "[]ContainerPort"),
        13: ("terminationMessagePath", "s"), 14: ("imagePullPolicy", "s"), 20: ("terminationMessagePolicy", "s"),
    },
    "ContainerPort": {1: ("name", "s"), 2: ("hostPort", "i"), 3: ("containerPort", "i"), 4: ("protocol", "s"), 5: ("hostIP", "s")},
    "Ingress": {1: ("metadata", "ObjectMeta"), 2: ("spec", "IngressSpec"), 3: ("status", "?")},
    "IngressSpec": {
        1: ("defaultBackend", "IngressBackend"), 2: ("tls", "[]IngressTLS"), 3: ("rules", "[]IngressRule"), 4: ("ingressClassName", "s"),
    },
    "IngressBackend": {4: ("service", "IngressServiceBackend")},
    "IngressServiceBackend": {1: ("name", "s"), 2: ("port", "ServiceBackendPort")},
    "ServiceBackendPort": {1: ("name", "s"), 2: ("number", "i")},
    "IngressTLS": {1: ("hosts", "[]s"), 2: ("secretName", "s")},
    "IngressRule": {1: ("host", "s"), 2: ("http", "IngressHTTP")},
    "IngressHTTP": {1: ("http", "HTTPRule")},
    "HTTPRule": {1: ("paths", "[]HTTPPath")},
    "HTTPPath": {1: ("path", "s"), 2: ("backend", "IngressBackend"), 3: ("pathType", "s")},
}  # fmt: skip


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at += 1
        shift += 7
        if byte < 128:
            return value, at


def _fields(data: bytes) -> list[tuple[int, int | bytes]]:
    out: list[tuple[int, int | bytes]] = []
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(data, at)
            out.append((number, value))
        elif wire == 2:
            size, at = _varint(data, at)
            if at + size > len(data):
                raise ValueError("unexpected end of a protobuf message")
            out.append((number, data[at : at + size]))
            at += size
        elif wire in {1, 5}:
            size = 8 if wire == 1 else 4
            out.append((number, data[at : at + size]))
            at += size
        else:
            raise ValueError(f"protobuf wire type {wire} is not used by Kubernetes")
    return out


def _value(raw: int | bytes, kind: str) -> Any:
    if isinstance(raw, int):
        return bool(raw) if kind == "b" else raw - (1 << 64) if raw >= 1 << 63 else raw
    if kind == "s":
        return raw.decode()
    if kind == "y":
        return base64.b64encode(raw).decode()
    if kind == "p":
        parts = dict(_fields(raw))
        text = parts.get(3, b"")
        return text.decode() if parts.get(1) and isinstance(text, bytes) else parts.get(2, 0)
    if kind == "t":
        seconds = dict(_fields(raw)).get(1, 0)
        return (
            datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            if isinstance(seconds, int) and seconds > 0
            else None
        )
    return _message(raw, kind)


def _blank(raw: int | bytes) -> bool:
    """Whether a field says nothing: Go writes the zero values of plain members, messages of them included."""
    if isinstance(raw, int):
        return raw == 0
    try:
        return all(_blank(inner) for _, inner in _fields(raw))
    except (ValueError, IndexError):
        return False


def _message(data: bytes, name: str) -> Json:
    table = _MESSAGES[name]
    out: Json = {}
    if name == "IngressHTTP":  # IngressRuleValue is embedded: its only member is the rule itself.
        inner = dict(_fields(data)).get(1, b"")
        return _message(inner if isinstance(inner, bytes) else b"", "HTTPRule")
    for number, raw in _fields(data):
        member, kind = table.get(number, ("", "?"))
        if not member and not _blank(raw):
            raise ValueError(f"{name} has a protobuf field {number} that is not read here")
        if kind == "?":
            continue
        if kind.startswith("[]"):
            out.setdefault(member, []).append(_value(raw, kind[2:]))
        elif kind.startswith("{}") and isinstance(raw, bytes):
            entry = dict(_fields(raw))
            key, value = entry.get(1, b""), entry.get(2, b"")
            out.setdefault(member, {})[key.decode() if isinstance(key, bytes) else str(key)] = _value(value, kind[2:])
        else:
            out[member] = _value(raw, kind)
    return out


def decode(data: bytes) -> Json | None:
    """The document in an envelope, or None where its kind or one of its fields is not read here (the caller answers 415)."""
    if not data.startswith(MAGIC):
        return None
    try:
        outer = dict(_fields(data[4:]))
        meta = outer.get(1, b"")
        parts = {n: v.decode() for n, v in _fields(meta if isinstance(meta, bytes) else b"") if isinstance(v, bytes)}
        raw = outer.get(2, b"")
        kind = parts.get(2, "")
        if kind not in _MESSAGES or not isinstance(raw, bytes):
            return None
        return {"apiVersion": parts.get(1, ""), "kind": kind, **_message(raw, kind)}
    except (ValueError, IndexError, UnicodeDecodeError):
        return None
