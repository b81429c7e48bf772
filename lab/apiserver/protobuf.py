r"""Protobuf bodies: kubectl from 1.32 sends them for `create` of built-in kinds and for access reviews.

Only reading, and only the messages kubectl makes; answers are JSON. The envelope is the four bytes `k8s\0` and a
runtime.Unknown with apiVersion, kind and the raw message. Field numbers are those of the published .proto files.
"""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Json = dict[str, Any]
MAGIC = b"k8s\x00"

# Message -> field number -> (JSON name, type). Types: s text, i int, b bool, y bytes as base64, p intstr, t time, ? not read,
# a message name; [] repeats it, {} maps texts to it.
_MESSAGES: dict[str, dict[int, tuple[str, str]]] = {
    message: {int(number): (text.split()[0], text.split()[1]) for number, text in fields.items()}
    for message, fields in json.loads(Path(__file__).with_name("protobuf.json").read_text(encoding="utf-8")).items()
}


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
        seconds = int(dict(_fields(raw)).get(1, 0))
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if seconds > 0 else None
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
