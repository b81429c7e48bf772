"""Tables: the columns and cells that `kubectl get` prints, made by the server.

Column definitions of built-in kinds are in columns.json; those of custom kinds come from additionalPrinterColumns. A kind
without either has a name and an age. Pure: ages are computed from the time handed in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lab.apiserver.resources import Resource

Json = dict[str, Any]
Cells = Callable[[Json, datetime], list[Any]]

_RAW: dict[str, list[list[Any]]] = json.loads(Path(__file__).with_name("columns.json").read_text(encoding="utf-8"))


def _column(name: str, kind: str, form: str, priority: int, description: str) -> Json:
    return {"name": name, "type": kind, "format": form, "description": description, "priority": priority}


COLUMNS: dict[str, list[Json]] = {kind: [_column(*c) for c in columns] for kind, columns in _RAW.items()}
_NAME = COLUMNS["ConfigMap"][0]
_AGE_TEXT = COLUMNS["ConfigMap"][-1]["description"]
_PLAIN = [_NAME, _column("Created At", "date", "", 0, _AGE_TEXT)]


def age(text: str | None, now: datetime) -> str:
    """The age of a timestamp as kubectl prints it."""
    if not text:
        return "<unknown>"
    seconds = int((now - datetime.fromisoformat(text)).total_seconds())
    if seconds < -1:
        return "<invalid>"
    return duration(max(seconds, 0))


def duration(seconds: int) -> str:
    """A time span in the two largest units that matter."""
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if seconds < 120:
        return f"{seconds}s"
    if minutes < 10:
        rest = seconds % 60
        return f"{minutes}m{rest}s" if rest else f"{minutes}m"
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        rest = minutes % 60
        return f"{hours}h{rest}m" if rest else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        rest = hours % 24
        return f"{days}d{rest}h" if rest else f"{days}d"
    if days < 730:
        return f"{days}d"
    return f"{days // 365}y{days % 365}d" if days < 2920 and days % 365 else f"{days // 365}y"


def _created(o: Json, now: datetime) -> str:
    return age(o["metadata"].get("creationTimestamp"), now)


def _or_none(text: str) -> str:
    return text or "<none>"


def _labels(labels: Json | None) -> str:
    return ",".join(f"{k}={v}" for k, v in sorted((labels or {}).items())) or "<none>"


def selector_text(selector: Json | None) -> str:
    """A LabelSelector as text."""
    parts = [f"{k}={v}" for k, v in sorted(((selector or {}).get("matchLabels") or {}).items())]
    for term in (selector or {}).get("matchExpressions") or []:
        values = ",".join(term.get("values") or [])
        words = {"In": f"{term['key']} in ({values})", "NotIn": f"{term['key']} notin ({values})", "Exists": term["key"]}
        parts.append(words.get(term["operator"], f"!{term['key']}"))
    return ",".join(parts)


def _service_ports(o: Json) -> str:
    out = []
    for port in o["spec"].get("ports") or []:
        node_port = f":{port['nodePort']}" if port.get("nodePort") else ""
        out.append(f"{port['port']}{node_port}/{port['protocol']}")
    return _or_none(",".join(out))


def _service_external(o: Json) -> str:
    spec = o["spec"]
    if spec["type"] == "ExternalName":
        return str(spec["externalName"])
    addresses = list(spec.get("externalIPs") or [])
    if spec["type"] == "LoadBalancer":
        ingress = o["status"]["loadBalancer"].get("ingress") or []
        addresses = [i.get("ip") or i.get("hostname", "") for i in ingress] + addresses
        return ",".join(addresses) or "<pending>"
    return _or_none(",".join(addresses))


def _service(o: Json, now: datetime) -> list[Any]:
    spec = o["spec"]
    return [
        o["metadata"]["name"], spec["type"], _or_none(spec.get("clusterIP", "")), _service_external(o), _service_ports(o), _created(o, now),
        _labels(spec.get("selector")),
    ]  # fmt: skip


def _node(o: Json, now: datetime) -> list[Any]:
    status, labels = o["status"], o["metadata"].get("labels") or {}
    ready = next((c["status"] for c in status.get("conditions") or [] if c["type"] == "Ready"), None)
    word = {"True": "Ready", None: "Unknown"}.get(ready, "NotReady")
    if o["spec"].get("unschedulable"):
        word += ",SchedulingDisabled"
    roles = sorted(k.partition("/")[2] for k in labels if k.startswith("node-role.kubernetes.io/"))
    addresses = {a["type"]: a["address"] for a in reversed(status.get("addresses") or [])}
    info = status["nodeInfo"]
    return [
        o["metadata"]["name"], word, _or_none(",".join(roles)), _created(o, now), info["kubeletVersion"],
        addresses.get("InternalIP", "<none>"), addresses.get("ExternalIP", "<none>"), info["osImage"] or "<unknown>",
        info["kernelVersion"] or "<unknown>", info["containerRuntimeVersion"] or "<unknown>",
    ]  # fmt: skip


def _pod(o: Json, now: datetime) -> list[Any]:
    status, spec = o["status"], o["spec"]
    word = status.get("reason") or status.get("phase", "")
    containers = status.get("containerStatuses") or []
    for container in containers:
        state = container.get("state") or {}
        if (state.get("waiting") or {}).get("reason"):
            word = state["waiting"]["reason"]
        elif (state.get("terminated") or {}).get("reason"):
            word = state["terminated"]["reason"]
    if o["metadata"].get("deletionTimestamp"):
        word = "Terminating"
    ready = sum(1 for c in containers if c.get("ready") and (c.get("state") or {}).get("running"))
    return [
        o["metadata"]["name"], f"{ready}/{len(spec['containers'])}", word, str(sum(c.get("restartCount", 0) for c in containers)),
        _created(o, now), _or_none(status.get("podIP", "")), _or_none(spec.get("nodeName", "")),
        _or_none(status.get("nominatedNodeName", "")), "<none>",
    ]  # fmt: skip


def _slice(o: Json, now: datetime) -> list[Any]:
    ports = [str(p["port"]) if p.get("port") is not None else "*" for p in o.get("ports") or []]
    addresses = [a for e in o.get("endpoints") or [] for a in e["addresses"]]
    shown = ",".join(addresses[:3]) + (f" + {len(addresses) - 3} more..." if len(addresses) > 3 else "")
    return [
        o["metadata"]["name"], o["addressType"], ",".join(ports) or "<unset>", shown if addresses else "<unset>", _created(o, now),
    ]  # fmt: skip


def _event(o: Json, now: datetime) -> list[Any]:
    about = o["involvedObject"]
    first, last = o.get("firstTimestamp") or o.get("eventTime"), o.get("lastTimestamp")
    count = o.get("count", 0)
    if o.get("series"):
        last, count = o["series"]["lastObservedTime"], o["series"]["count"]
    source = o["source"]
    parts = [source.get("component") or o.get("reportingComponent", ""), source.get("host") or o.get("reportingInstance", "")]
    return [
        age(last or first, now), o.get("type", ""), o.get("reason", ""), f"{about.get('kind', '').lower()}/{about.get('name', '')}",
        about.get("fieldPath", ""), ", ".join(p for p in parts if p), o.get("message", "").strip(), age(first, now), count or 1,
        o["metadata"]["name"],
    ]  # fmt: skip


def _template(o: Json) -> list[Any]:
    containers = o["spec"]["template"]["spec"].get("containers") or []
    return [
        ",".join(c["name"] for c in containers),
        ",".join(c["image"] for c in containers),
        selector_text(o["spec"].get("selector")),
    ]


def _deployment(o: Json, now: datetime) -> list[Any]:
    status = o["status"]
    return [
        o["metadata"]["name"], f"{status.get('readyReplicas', 0)}/{o['spec'].get('replicas', 0)}", status.get("updatedReplicas", 0),
        status.get("availableReplicas", 0), _created(o, now), *_template(o),
    ]  # fmt: skip


def _daemon_set(o: Json, now: datetime) -> list[Any]:
    status = o["status"]
    counts = ("desiredNumberScheduled", "currentNumberScheduled", "numberReady", "updatedNumberScheduled", "numberAvailable")
    return [
        o["metadata"]["name"], *(status.get(c, 0) for c in counts),
        _labels(o["spec"]["template"]["spec"].get("nodeSelector")), _created(o, now), *_template(o),
    ]  # fmt: skip


def _replica_set(o: Json, now: datetime) -> list[Any]:
    status = o["status"]
    return [
        o["metadata"]["name"], o["spec"].get("replicas", 0), status.get("replicas", 0), status.get("readyReplicas", 0),
        _created(o, now), *_template(o),
    ]  # fmt: skip


def _ingress(o: Json, now: datetime) -> list[Any]:
    spec = o["spec"]
    hosts = [r["host"] for r in spec.get("rules") or [] if r.get("host")]
    shown = ",".join(hosts[:3]) + (f" + {len(hosts) - 3} more..." if len(hosts) > 3 else "")
    address = ",".join(i.get("ip") or i.get("hostname", "") for i in o["status"]["loadBalancer"].get("ingress") or [])
    return [
        o["metadata"]["name"], spec.get("ingressClassName") or "<none>", shown or "*", address, "80, 443" if spec.get("tls") else "80",
        _created(o, now),
    ]  # fmt: skip


def _endpoints(o: Json, now: datetime) -> list[Any]:
    out = [
        f"{a['ip']}:{p['port']}" for s in o.get("subsets") or [] for p in s.get("ports") or [] for a in s.get("addresses") or []
    ]
    shown = ",".join(out[:3]) + (f" + {len(out) - 3} more..." if len(out) > 3 else "")
    return [o["metadata"]["name"], shown or "<none>", _created(o, now)]


def _named(*more: Callable[[Json], Any]) -> Cells:
    return lambda o, now: [o["metadata"]["name"], *(m(o) for m in more), _created(o, now)]


def _plain_created(o: Json, _now: datetime) -> list[Any]:
    return [o["metadata"]["name"], o["metadata"].get("creationTimestamp")]


CELLS: dict[str, Cells] = {
    "Service": _service, "Node": _node, "Pod": _pod, "EndpointSlice": _slice, "Event": _event, "Deployment": _deployment,
    "DaemonSet": _daemon_set, "ReplicaSet": _replica_set, "Ingress": _ingress, "Endpoints": _endpoints,
    "ConfigMap": _named(lambda o: len(o.get("data") or {}) + len(o.get("binaryData") or {})),
    "Secret": _named(lambda o: o.get("type", ""), lambda o: len(o.get("data") or {})),
    "Namespace": _named(lambda o: o["status"].get("phase", "")),
    "Lease": _named(lambda o: o["spec"].get("holderIdentity") or ""),
    "ServiceAccount": _named(lambda o: str(len(o.get("secrets") or []))),
    "IngressClass": _named(lambda o: o["spec"].get("controller", ""), lambda _: "<none>"),
    "RoleBinding": _named(lambda o: f"{o['roleRef']['kind']}/{o['roleRef']['name']}"),
    "ClusterRoleBinding": _named(lambda o: f"{o['roleRef']['kind']}/{o['roleRef']['name']}"),
    "ValidatingWebhookConfiguration": _named(lambda o: len(o.get("webhooks") or [])),
    "MutatingWebhookConfiguration": _named(lambda o: len(o.get("webhooks") or [])),
    "NetworkPolicy": _named(lambda o: _labels((o["spec"].get("podSelector") or {}).get("matchLabels"))),
    "CustomResourceDefinition": _plain_created,
}  # fmt: skip


def _json_path(document: Any, path: str) -> list[Any]:
    """The values at a kubectl JSONPath of the simple kind: .a.b[0].c, [*], and [?(@.k=="v")]."""
    values = [document]
    for word in re.findall(r"\.?([\w\-]+(?:\\\.[\w\-/]+)*)|\[([^\]]+)\]", path):
        name, index = word
        out: list[Any] = []
        for value in values:
            if name and isinstance(value, dict) and name.replace("\\.", ".") in value:
                out.append(value[name.replace("\\.", ".")])
            elif index and isinstance(value, list):
                out += _indexed(value, index)
            elif index and isinstance(value, dict) and index.strip("'\"") in value:
                out.append(value[index.strip("'\"")])
        values = out
    return values


def _indexed(value: list[Any], index: str) -> list[Any]:
    if index == "*":
        return value
    if re.fullmatch(r"-?\d+", index):
        at = int(index)
        return [value[at]] if -len(value) <= at < len(value) else []
    found = re.fullmatch(r"\?\(@\.([\w.]+)\s*==\s*[\"'](.*)[\"']\)", index)
    if not found:
        return []
    return [v for v in value if isinstance(v, dict) and str(v.get(found[1])) == found[2]]


def _custom_cells(columns: tuple[Json, ...]) -> Cells:
    def cells(o: Json, now: datetime) -> list[Any]:
        out: list[Any] = [o["metadata"]["name"]]
        for column in columns:
            values = _json_path(o, column["jsonPath"])
            value = values[0] if values else None
            if value is None:
                out.append(None)
            elif column["type"] == "date":
                out.append(age(value, now) if isinstance(value, str) else None)
            elif column["type"] == "string":
                out.append(value if isinstance(value, str) else json.dumps(value, separators=(",", ":")))
            else:
                out.append(value)
        return out

    return cells


def columns_of(resource: Resource) -> tuple[list[Json], Cells]:
    """Columns of a resource and how its cells are made."""
    if resource.custom is None:
        if resource.kind in CELLS:
            return COLUMNS[resource.kind], CELLS[resource.kind]
        return _PLAIN, _plain_created
    columns = resource.custom.versions[resource.version].columns
    if not columns:
        return [_NAME, COLUMNS["ConfigMap"][-1]], _named()
    shown = [_NAME]
    for column in columns:
        described = column.get("description") or f"Custom resource definition column (in JSONPath format): {column['jsonPath']}"
        shown.append(_column(column["name"], column["type"], column.get("format", ""), column.get("priority", 0), described))
    return shown, _custom_cells(columns)


def partial(document: Json, version: str) -> Json:
    """The PartialObjectMetadata of an object."""
    return {"kind": "PartialObjectMetadata", "apiVersion": f"meta.k8s.io/{version}", "metadata": document["metadata"]}


def row(document: Json, cells: Cells, include: str, version: str, now: datetime) -> Json:
    """One row; `include` is "", Metadata, Object or None."""
    out: Json = {"cells": cells(document, now)}
    if include == "Object":
        out["object"] = document
    elif include != "None":
        out["object"] = partial(document, version)
    else:
        out["object"] = None
    return out


def table(resource: Resource, documents: list[Json], metadata: Json, include: str, version: str, now: datetime) -> Json:
    """A whole Table; documents as the store keeps them where the kind has two views."""
    columns, cells = columns_of(resource)
    rows = [row(d, cells, include, version, now) for d in documents]
    return {
        "kind": "Table", "apiVersion": f"meta.k8s.io/{version}", "metadata": metadata, "columnDefinitions": columns, "rows": rows,
    }  # fmt: skip


def utc_now() -> datetime:
    """The time ages are counted to."""
    return datetime.now(UTC)
