"""Built-in kinds as the server's Go types see them: which fields exist, of which type, and what is left out when empty.

decode() takes a parsed document and gives the normal form the API answers with: unknown fields gone (and reported), values
checked, empty values left out or written as the type demands. It runs on every create and after every patch of a built-in
kind. It knows nothing of defaults or validation. The fields come from builtin_types.json; what that file cannot say (which
numbers and texts are pointers, which structures are always written) is in the tables below.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Json = dict[str, Any]


def _words(text: str) -> set[str]:
    """The fields of a table."""
    return set(text.split())


# Field of a value type with omitempty: a zero is the same as nothing. (Numbers and booleans are pointers otherwise.)
_OMIT_ZERO = _words("""
ObjectMeta.generation ServiceSpec.publishNotReadyAddresses ServiceSpec.healthCheckNodePort ServicePort.nodePort
NodeSpec.unschedulable PodSpec.hostNetwork PodSpec.hostPID PodSpec.hostIPC Container.stdin Container.stdinOnce Container.tty
VolumeMount.readOnly ContainerPort.hostPort Probe.initialDelaySeconds Probe.timeoutSeconds Probe.periodSeconds
Probe.successThreshold Probe.failureThreshold CoreEvent.count EventsEvent.deprecatedCount CoreEventSeries.count
DeploymentSpec.minReadySeconds DeploymentSpec.paused DeploymentStatus.* DaemonSetSpec.minReadySeconds
DaemonSetStatus.observedGeneration DaemonSetStatus.updatedNumberScheduled DaemonSetStatus.numberAvailable
DaemonSetStatus.numberUnavailable ReplicaSetSpec.minReadySeconds ReplicaSetStatus.fullyLabeledReplicas
ReplicaSetStatus.readyReplicas ReplicaSetStatus.availableReplicas ReplicaSetStatus.observedGeneration ScaleSpec.replicas
CustomResourceDefinitionSpec.preserveUnknownFields CustomResourceDefinitionVersion.deprecated JSONSchemaProps.nullable
JSONSchemaProps.uniqueItems JSONSchemaProps.exclusiveMaximum JSONSchemaProps.exclusiveMinimum
JSONSchemaProps.x-kubernetes-embedded-resource JSONSchemaProps.x-kubernetes-int-or-string SubjectAccessReviewStatus.denied
TokenReviewStatus.authenticated EndpointPort.port Volume.readOnly PodStatus.observedGeneration NamespaceCondition.observedGeneration
Condition.observedGeneration PodCondition.observedGeneration CustomResourceColumnDefinition.priority
""")
# Texts that are pointers: "" is a value.
_KEEP_EMPTY = _words("""
ServicePort.appProtocol ServiceSpec.loadBalancerClass ServiceSpec.ipFamilyPolicy ServiceSpec.internalTrafficPolicy
ServiceSpec.trafficDistribution LoadBalancerIngress.ipMode PortStatus.error LeaseSpec.holderIdentity LeaseSpec.strategy
DiscoveryEndpointPort.name DiscoveryEndpointPort.protocol DiscoveryEndpointPort.appProtocol Endpoint.hostname Endpoint.nodeName
Endpoint.zone EndpointAddress.nodeName CoreEndpointPort.appProtocol IngressSpec.ingressClassName PodSpec.runtimeClassName
PodSpec.preemptionPolicy HTTPIngressPath.pathType IngressClassParametersReference.apiGroup
ValidatingWebhook.failurePolicy ValidatingWebhook.matchPolicy ValidatingWebhook.sideEffects MutatingWebhook.failurePolicy
""")
# Structures and lists that are written even when nobody set them (no omitempty, or a structure that is no pointer).
_ALWAYS = _words("""
Service.spec Service.status ServiceStatus.loadBalancer Node.spec Node.status NodeStatus.daemonEndpoints NodeStatus.nodeInfo
NodeDaemonEndpoints.kubeletEndpoint Pod.spec Pod.status Namespace.spec Namespace.status Deployment.spec Deployment.status
DeploymentSpec.strategy DeploymentSpec.template DaemonSet.spec DaemonSet.status DaemonSetSpec.template DaemonSetSpec.updateStrategy
ReplicaSet.spec ReplicaSet.status ReplicaSetSpec.template PodTemplateSpec.metadata PodTemplateSpec.spec Container.resources
ContainerStatus.state ContainerStatus.lastState Ingress.spec Ingress.status IngressStatus.loadBalancer IngressClass.spec
NetworkPolicy.spec CoreEvent.source CoreEvent.firstTimestamp CoreEvent.lastTimestamp CoreEvent.eventTime
CoreEvent.reportingComponent CoreEvent.reportingInstance EventsEvent.eventTime EventsEvent.regarding EventsEvent.deprecatedSource
EventsEvent.deprecatedFirstTimestamp EventsEvent.deprecatedLastTimestamp Endpoint.conditions EndpointSlice.endpoints
EndpointSlice.ports Lease.spec Role.rules ClusterRole.rules
CustomResourceDefinition.spec CustomResourceDefinition.status CustomResourceDefinitionStatus.conditions
CustomResourceDefinitionStatus.acceptedNames CustomResourceDefinitionStatus.storedVersions CustomResourceDefinitionNames.plural
NodeCondition.lastHeartbeatTime NodeCondition.lastTransitionTime PodCondition.lastProbeTime PodCondition.lastTransitionTime
DeploymentCondition.lastUpdateTime DeploymentCondition.lastTransitionTime ObjectMeta.creationTimestamp
ReplicaSetCondition.lastTransitionTime DaemonSetCondition.lastTransitionTime
CustomResourceDefinitionNames.kind ValidatingWebhook.clientConfig MutatingWebhook.clientConfig HTTPIngressPath.backend
""")
_NEVER_EMITTED = {"CoreEvent.metadata"}  # Required in the table, but metadata is always there anyway.
_MICROTIME = {
    "CoreEvent.eventTime", "EventsEvent.eventTime", "LeaseSpec.acquireTime", "LeaseSpec.renewTime",
    "CoreEventSeries.lastObservedTime", "EventsEventSeries.lastObservedTime",
}  # fmt: skip
_INT64 = {
    "ObjectMeta.generation", "ObjectMeta.deletionGracePeriodSeconds", "PodSpec.terminationGracePeriodSeconds",
    "PodSpec.activeDeadlineSeconds", "TokenRequestSpec.expirationSeconds", "Toleration.tolerationSeconds",
    "DeploymentStatus.observedGeneration", "DaemonSetStatus.observedGeneration", "ReplicaSetStatus.observedGeneration",
    "SecurityContext.runAsUser", "SecurityContext.runAsGroup", "PodSecurityContext.runAsUser", "PodSecurityContext.fsGroup",
    "PodSecurityContext.runAsGroup", "JSONSchemaProps.maxLength", "JSONSchemaProps.minLength", "JSONSchemaProps.maxItems",
    "JSONSchemaProps.minItems", "DeleteOptions.gracePeriodSeconds", "Condition.observedGeneration",
}  # fmt: skip
_QUANTITIES = {
    "ResourceRequirements.limits", "ResourceRequirements.requests", "NodeStatus.capacity", "NodeStatus.allocatable",
    "PodSpec.overhead", "EmptyDirVolumeSource.sizeLimit", "ResourceFieldSelector.divisor",
}  # fmt: skip
_CORRECTIONS = {  # What the models say too loosely, or no longer.
    "ObjectReference": {"fieldPath": "string"},
    "JSONSchemaProps": {"items": "JSONSchemaProps", "additionalProperties": "schema or bool"},
}
_PREFIXES = re.compile(r"^(Core|Events|Discovery|Authentication|Admissionregistration|Apiextensions|RbacV1)(?=[A-Z])")


class MismatchError(Exception):
    """A value that does not fit its Go type; the text is the decoder's."""


@dataclass(frozen=True, slots=True)
class FieldType:
    """How one field is read and written."""

    name: str
    type: str  # simple type, type name, []x or {}x
    emit: str  # "omit" an empty value, "keep" whatever is there, "always" write it even if missing
    micro: bool = False
    int64: bool = False
    quantity: bool = False
    required: bool = False


def _load() -> dict[str, dict[str, FieldType]]:
    raw: dict[str, dict[str, str]] = json.loads(Path(__file__).with_name("builtin_types.json").read_text(encoding="utf-8"))
    omit, keep, always = _OMIT_ZERO, _KEEP_EMPTY, _ALWAYS
    out: dict[str, dict[str, FieldType]] = {}
    for owner, fields in raw.items():
        fields.update(_CORRECTIONS.get(owner, {}))
        table = out[owner] = {}
        for name, kind in fields.items():
            path, required, bare = f"{owner}.{name}", kind.startswith("!"), kind.removeprefix("!")
            if path in keep:
                emit = "keep"
            elif path in always or (required and path not in _NEVER_EMITTED):
                emit = "always"
            elif path in omit or f"{owner}.*" in omit or bare == "string" or bare[:2] in {"[]", "{}"}:
                emit = "omit"
            else:
                emit = "keep"
            table[name] = FieldType(name, bare, emit, path in _MICROTIME, path in _INT64, path in _QUANTITIES, required)
    return out


TYPES = _load()


def go_name(type_name: str) -> str:
    """The Go type's name without its package."""
    return _PREFIXES.sub("", type_name)


def _json_word(value: object) -> str:
    match value:
        case bool():
            return "bool"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case dict():
            return "object"
    return "null"


def _go_type(field: FieldType) -> str:
    def word(kind: str) -> str:
        if kind.startswith("[]"):
            return "[]" + word(kind[2:])
        if kind.startswith("{}"):
            return "map[string]" + word(kind[2:])
        return {"int": "int64" if field.int64 else "int32", "time": "v1.Time", "bytes": "[]uint8", "number": "float64"}.get(
            kind, kind if kind in {"string", "bool"} else f"v1.{go_name(kind)}"
        )

    return word(field.type)


def _refuse(value: object, owner: str, path: str, field: FieldType, kind: str) -> MismatchError:
    shown = (
        f"number {value}"
        if isinstance(value, int | float) and not isinstance(value, bool) and kind == "int"
        else _json_word(value)
    )
    whole = {"int": "int64" if field.int64 else "int32", "bytes": "[]uint8"}.get(kind)
    if whole is None:
        whole = kind if kind in {"string", "bool"} else _go_type(FieldType(field.name, kind, "", int64=field.int64))
    return MismatchError(f"json: cannot unmarshal {shown} into Go struct field {go_name(owner)}.{path} of type {whole}")


_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)$")


def _time(text: str, *, micro: bool) -> str:
    layout = "2006-01-02T15:04:05.000000Z07:00" if micro else "2006-01-02T15:04:05Z07:00"
    found = _RFC3339.match(text)
    if not found:
        raise MismatchError(f'parsing time "{text}" as "{layout}": cannot parse "{text}" as "2006"')
    seconds, fraction, zone = found.groups()
    if micro and (fraction is None or len(fraction) < 7):
        raise MismatchError(f'parsing time "{text}" as "{layout}": cannot parse "{fraction or ""}{zone}" as ".000000"')
    if micro and len(fraction) > 7:
        raise MismatchError(f'parsing time "{text}" as "{layout}": cannot parse "{fraction[7:]}{zone}" as "Z07:00"')
    if zone == "Z":
        return text if micro or fraction is None else seconds + "Z"
    try:
        moment = datetime.fromisoformat(text).astimezone(UTC)
    except ValueError as error:
        raise MismatchError(f'parsing time "{text}" as "{layout}": {error}') from error
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ" if micro else "%Y-%m-%dT%H:%M:%SZ")


def _scalar(value: Any, kind: str, field: FieldType, owner: str, path: str) -> Any:
    match kind:
        case "any":
            return value
        case "string":
            if field.quantity and isinstance(value, int | float) and not isinstance(value, bool):
                return str(value)
            if isinstance(value, str):
                return value
        case "int":
            if isinstance(value, int) and not isinstance(value, bool):
                bound = 63 if field.int64 else 31
                if -(1 << bound) <= value < (1 << bound):
                    return value
            elif isinstance(value, float) and value.is_integer():
                return int(value)
        case "number":
            if isinstance(value, int | float) and not isinstance(value, bool):
                return value
        case "bool":
            if isinstance(value, bool):
                return value
        case "intstr":
            if isinstance(value, int | str) and not isinstance(value, bool):
                return value
        case "time":
            if isinstance(value, str):
                return _time(value, micro=field.micro)
        case "bytes":
            if isinstance(value, str):
                try:
                    base64.b64decode(value, validate=True)
                except binascii.Error:
                    at = next((i for i, c in enumerate(value) if not re.match(r"[A-Za-z0-9+/=]", c)), len(value) // 4 * 4)
                    raise MismatchError(f"illegal base64 data at input byte {at}") from None
                return value
    raise _refuse(value, owner, path, field, kind)


def _zero(kind: str) -> Any:
    if kind.startswith(("[]", "{}")) or kind in {"schema or bool", "time", "any", "bytes"}:
        return None
    simple = {"string": "", "int": 0, "bool": False, "number": 0, "intstr": 0}
    if kind in simple:
        return simple[kind]
    return _complete(kind, {})


def _complete(owner: str, out: Json) -> Json:
    """Add what a type always writes."""
    for name, field in TYPES[owner].items():
        if field.emit == "always" and name not in out:
            out[name] = {"creationTimestamp": None} if field.type == "ObjectMeta" else _zero(field.type)
    return out


def _value(value: Any, kind: str, field: FieldType, owner: str, path: str, shown: str, unknown: list[str]) -> Any:
    if kind.startswith("[]"):
        if not isinstance(value, list):
            raise _refuse(value, owner, path, field, kind)
        inner = kind[2:]
        return [
            (_zero(inner) if v is None else _value(v, inner, field, owner, path, f"{shown}[{i}]", unknown))
            for i, v in enumerate(value)
        ]
    if kind.startswith("{}"):
        if not isinstance(value, dict):
            raise _refuse(value, owner, path, field, kind)
        inner = kind[2:]
        return {
            k: (_zero(inner) if v is None else _value(v, inner, field, owner, path, f"{shown}.{k}", unknown))
            for k, v in value.items()
        }
    if kind == "schema or bool":
        if isinstance(value, bool):
            return value
        kind = "JSONSchemaProps"
    if kind in TYPES:
        if not isinstance(value, dict):
            raise _refuse(value, owner, path, field, kind)
        return _struct(value, kind, path, shown, unknown)
    return _scalar(value, kind, field, owner, path)


def _struct(document: Json, owner: str, path: str, shown: str, unknown: list[str]) -> Json:
    fields = TYPES[owner]
    out: Json = {}
    for name, value in document.items():
        field = fields.get(name)
        if field is None:
            unknown.append(f"{shown}.{name}" if shown else name)
            continue
        if value is None:
            continue
        done = _value(
            value, field.type, field, owner, f"{path}.{name}" if path else name, f"{shown}.{name}" if shown else name, unknown
        )
        if field.emit == "omit" and (not done and done is not None):
            continue
        if field.emit == "always" and done in ([], {}) and field.type[:2] in {"[]", "{}"}:
            done = None  # What the real store's encoding makes of an empty list.
        out[name] = done
    return _complete(owner, out)


def decode(document: Json, type_name: str, unknown: list[str]) -> Json:
    """The document in normal form; paths of unknown fields are appended to `unknown`.

    Raises:
        MismatchError: a value does not fit its type.

    """
    return _struct(document, type_name, "", "", unknown)


def decode_meta(metadata: Any, unknown: list[str], owner: str) -> Json:
    """The metadata of a custom resource in normal form."""
    if not isinstance(metadata, dict):
        raise MismatchError(
            f"json: cannot unmarshal {_json_word(metadata)} into Go struct field {owner}.metadata of type v1.ObjectMeta"
        )
    return _struct(metadata, "ObjectMeta", "metadata", "metadata", unknown)
