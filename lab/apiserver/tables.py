"""Tables: the columns and cells that `kubectl get` prints, made by the server.

Columns of built-in kinds are in columns.json: name, type, format, priority, description, and a cell, which is a word of CELLS with
an argument. Those of custom kinds come from additionalPrinterColumns. A kind without either has a name and an age. Pure: ages are computed from the time handed in.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lab.apiserver.resources import Resource, dig

Json = dict[str, Any]
Cells = Callable[[Json, datetime], list[Any]]


def _column(name: str, kind: str, form: str, priority: int, description: str) -> Json:
    return {"name": name, "type": kind, "format": form, "description": description, "priority": priority}


def age(text: str | None, now: datetime) -> str:
    """The age of a timestamp as kubectl prints it."""
    if not text:
        return "<unknown>"
    seconds = int((now - datetime.fromisoformat(text)).total_seconds())
    if seconds < -1:
        return "<invalid>"
    return duration(max(seconds, 0))


# Below so many seconds a span is shown in this unit, and what is left in a smaller one.
_SPANS = (
    (120, 1, "s", 0, ""), (600, 60, "m", 1, "s"), (10_800, 60, "m", 0, ""), (28_800, 3600, "h", 60, "m"), (172_800, 3600, "h", 0, ""),
    (691_200, 86_400, "d", 3600, "h"), (63_072_000, 86_400, "d", 0, ""), (252_288_000, 31_536_000, "y", 86_400, "d"),
    (math.inf, 31_536_000, "y", 0, ""),
)  # fmt: skip


def duration(seconds: int) -> str:
    """A time span in the two largest units that matter."""
    _, unit, word, small, small_word = next(span for span in _SPANS if seconds < span[0])
    whole, rest = divmod(seconds, unit)
    return f"{whole}{word}" + (f"{rest // small}{small_word}" if small and rest >= small else "")


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


# Cells that no word can say: (object, argument, now) -> cell


def _node_port(port: Json) -> str:
    return f":{port['nodePort']}" if port.get("nodePort") else ""


def _service_ports(o: Json, _: str, _now: datetime) -> str:
    ports = o["spec"].get("ports") or []
    shown = (f"{p['port']}{_node_port(p)}/{p['protocol']}" for p in ports)
    return ",".join(shown) or "<none>"


def _balanced(o: Json) -> list[str]:
    return [i.get("ip") or i.get("hostname", "") for i in o["status"]["loadBalancer"].get("ingress") or []]


def _service_external(o: Json, _: str, _now: datetime) -> str:
    spec = o["spec"]
    if spec["type"] == "ExternalName":
        return str(spec["externalName"])
    balancer = spec["type"] == "LoadBalancer"
    addresses = (_balanced(o) if balancer else []) + (spec.get("externalIPs") or [])
    return ",".join(addresses) or ("<pending>" if balancer else "<none>")


def _node_status(o: Json, _: str, _now: datetime) -> str:
    ready = next((c["status"] for c in o["status"].get("conditions") or [] if c["type"] == "Ready"), None)
    word = {"True": "Ready", None: "Unknown"}.get(ready, "NotReady")
    return word + (",SchedulingDisabled" if o["spec"].get("unschedulable") else "")


def _node_roles(o: Json, _: str, _now: datetime) -> str:
    prefix = "node-role.kubernetes.io/"
    labels = o["metadata"].get("labels") or {}
    return ",".join(sorted(k.removeprefix(prefix) for k in labels if k.startswith(prefix))) or "<none>"


def _pod_status(o: Json, _: str, _now: datetime) -> str:
    if o["metadata"].get("deletionTimestamp"):
        return "Terminating"
    word: str = o["status"].get("reason") or o["status"].get("phase", "")
    for container in o["status"].get("containerStatuses") or []:
        state = container.get("state") or {}
        word = dig(state, "waiting.reason") or dig(state, "terminated.reason") or word
    return word


def _pod_ready(o: Json, _: str, _now: datetime) -> str:
    containers = o["status"].get("containerStatuses") or []
    ready = sum(1 for c in containers if c.get("ready") and (c.get("state") or {}).get("running"))
    return f"{ready}/{len(o['spec']['containers'])}"


def _some(texts: list[str], nothing: str) -> str:
    return ",".join(texts[:3]) + (f" + {len(texts) - 3} more..." if len(texts) > 3 else "") or nothing


def _endpoints(o: Json, _: str, _now: datetime) -> str:
    pairs = [(a, p) for s in o.get("subsets") or [] for p in s.get("ports") or [] for a in s.get("addresses") or []]
    return _some([f"{address['ip']}:{port['port']}" for address, port in pairs], "<none>")


def _event_age(o: Json, which: str, now: datetime) -> str:
    first = o.get("firstTimestamp") or o.get("eventTime")
    last = dig(o, "series.lastObservedTime") or o.get("lastTimestamp") or first
    return age(first if which == "first" else last, now)


def _event_source(o: Json, _: str, _now: datetime) -> str:
    parts = (o["source"].get("component") or o.get("reportingComponent"), o["source"].get("host") or o.get("reportingInstance"))
    return ", ".join(p for p in parts if p)


CELLS: dict[str, Callable[[Json, str, datetime], Any]] = {
    "is": lambda o, path, _: str(dig(o, path) or "").strip(),
    "or-none": lambda o, path, _: dig(o, path) or "<none>",
    "or-unknown": lambda o, path, _: dig(o, path) or "<unknown>",
    "age": lambda o, path, now: age(dig(o, path), now),
    "labels": lambda o, path, _: _labels(dig(o, path)),
    "selector": lambda o, path, _: selector_text(dig(o, path)),
    "count": lambda o, path, _: dig(o, path) or 0,
    "size": lambda o, paths, _: sum(len(dig(o, path) or ()) for path in paths.split()),
    "ratio": lambda o, paths, _: "/".join(str(dig(o, path) or 0) for path in paths.split()),
    "each": lambda o, path, _: ",".join(i[path.split()[1]] for i in dig(o, path.split()[0]) or []),
    "role": lambda o, _, _now: f"{o['roleRef']['kind']}/{o['roleRef']['name']}",
    "service-ports": _service_ports, "service-external": _service_external, "node-status": _node_status, "node-roles": _node_roles,
    "node-address": lambda o, kind, _: next((a["address"] for a in o["status"].get("addresses") or [] if a["type"] == kind), "<none>"),
    "pod-ready": _pod_ready, "pod-status": _pod_status,
    "pod-restarts": lambda o, _, _now: str(sum(c.get("restartCount", 0) for c in o["status"].get("containerStatuses") or [])),
    "slice-ports": lambda o, _, _now: ",".join(str(p.get("port") or "*") for p in o.get("ports") or []) or "<unset>",
    "slice-addresses": lambda o, _, _now: _some([a for e in o.get("endpoints") or [] for a in e["addresses"]], "<unset>"),
    "endpoints-addresses": _endpoints,
    "event-age": _event_age, "event-source": _event_source,
    "event-count": lambda o, _, _now: dig(o, "series.count") or o.get("count") or 1,
    "event-object": lambda o, _, _now: f"{o['involvedObject'].get('kind', '').lower()}/{o['involvedObject'].get('name', '')}",
    "ingress-hosts": lambda o, _, _now: _some([r["host"] for r in o["spec"].get("rules") or [] if r.get("host")], "*"),
    "ingress-addresses": lambda o, _, _now: ",".join(_balanced(o)),
    "ingress-ports": lambda o, _, _now: "80, 443" if o["spec"].get("tls") else "80",
}  # fmt: skip


def _cells(texts: list[str]) -> Cells:
    words = [(CELLS[word], argument) for word, _, argument in (text.partition(" ") for text in texts)]
    return lambda o, now: [cell(o, argument, now) for cell, argument in words]


_RAW: dict[str, list[list[Any]]] = json.loads(Path(__file__).with_name("columns.json").read_text(encoding="utf-8"))
_BUILTIN = {kind: ([_column(*c[:5]) for c in columns], _cells([c[5] for c in columns])) for kind, columns in _RAW.items()}
_NAME, _, _AGE = _BUILTIN["ConfigMap"][0]
_PLAIN = ([_NAME, _column("Created At", "date", "", 0, _AGE["description"])], _BUILTIN["CustomResourceDefinition"][1])


@functools.cache
def _path(text: str) -> Any:
    """A kubectl JSONPath, compiled; None for one that is none."""
    import jsonpath  # noqa: PLC0415 - only definitions with columns need it

    try:
        return jsonpath.compile("$" + re.sub(r"\.([\w-]+\\\.[\w\\./-]+)", lambda m: f"['{m[1].replace(chr(92), '')}']", text))
    except jsonpath.JSONPathError:
        return None


def _custom_cells(columns: tuple[Json, ...]) -> Cells:
    def cells(o: Json, now: datetime) -> list[Any]:
        out: list[Any] = [o["metadata"]["name"]]
        for column in columns:
            path = _path(column["jsonPath"])
            value = next(iter(path.findall(o)), None) if path is not None else None
            if column["type"] == "date":
                value = age(value, now) if isinstance(value, str) else None
            elif column["type"] == "string" and value is not None and not isinstance(value, str):
                value = json.dumps(value, separators=(",", ":"))
            out.append(value)
        return out

    return cells


def columns_of(resource: Resource) -> tuple[list[Json], Cells]:
    """Columns of a resource and how its cells are made."""
    if resource.custom is None:
        return _BUILTIN.get(resource.kind, _PLAIN)
    columns = resource.custom.versions[resource.version].columns
    if not columns:
        return [_NAME, _AGE], _cells(["is metadata.name", "age metadata.creationTimestamp"])
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
    shown = document if include == "Object" else None if include == "None" else partial(document, version)
    return {"cells": cells(document, now), "object": shown}


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
