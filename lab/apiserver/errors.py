"""What the API answers when it refuses: one exception, and the bodies and texts a kube-apiserver uses.

Every module raises ApiError through the functions here, so that the wording exists once; http.py turns it into an answer.
Nothing is logged here and nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import msgspec

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cause:
    """One fault of an object: `field` is a path such as spec.ports[0].port, `message` starts with its kind of fault."""

    reason: str
    message: str
    field: str

    def text(self) -> str:
        """The fault as the message of the whole answer quotes it."""
        return f"{self.field}: {self.message}"


def go_quote(value: object) -> str:
    """A value as Go's %q or %v prints it in these messages."""
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return '"null"'
    return msgspec.json.encode(value).decode() if isinstance(value, dict | list) else str(value)


def go_strings(texts: Iterable[str]) -> str:
    """A list of texts as Go's %#v prints it."""
    return "[]string{" + ", ".join(f'"{text}"' for text in texts) + "}"


def invalid_value(field: str, value: object, detail: str) -> Cause:
    """A value that breaks a rule."""
    shown = f"Invalid value: {go_quote(value)}"
    return Cause("FieldValueInvalid", f"{shown}: {detail}" if detail else shown, field)


def raw_invalid(field: str, shown: str, detail: str) -> Cause:
    """A value that breaks a rule, with its text already made (Go's %#v of a structure)."""
    return Cause("FieldValueInvalid", f"Invalid value: {shown}: {detail}", field)


def required(field: str, detail: str = "") -> Cause:
    """A value that is missing."""
    return Cause("FieldValueRequired", f"Required value: {detail}" if detail else "Required value", field)


def forbidden(field: str, detail: str) -> Cause:
    """A value that may not be there."""
    return Cause("FieldValueForbidden", f"Forbidden: {detail}", field)


def duplicate(field: str, value: object) -> Cause:
    """A value that is there already."""
    return Cause("FieldValueDuplicate", f"Duplicate value: {go_quote(value)}", field)


def unsupported(field: str, value: object, supported: Sequence[str]) -> Cause:
    """A value outside its list; `supported` in the order the server lists it."""
    shown = ", ".join(go_quote(s) for s in supported)
    return Cause("FieldValueNotSupported", f"Unsupported value: {go_quote(value)}: supported values: {shown}", field)


def too_long(field: str, limit: int) -> Cause:
    """A text over its limit in bytes."""
    return Cause("FieldValueTooLong", f"Too long: must have at most {limit} bytes", field)


class ApiError(Exception):
    """An answer that refuses.

    `details` None leaves the member out of the Status, as the server does for some errors.
    """

    def __init__(
        self, code: int, reason: str, message: str, *, details: Json | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.code, self.reason, self.message, self.details, self.headers = code, reason, message, details, headers or {}

    def status(self) -> Json:
        """The body: a Status object."""
        body: Json = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": self.message}
        if self.reason:
            body["reason"] = self.reason
        if self.details is not None:
            body["details"] = self.details
        body["code"] = self.code
        return body

    @classmethod
    def named(cls, code: int, reason: str, message: str, group: str, kind: str, name: str = "", **more: object) -> Self:
        """An error about one object or resource; `kind` is the plural or the kind, as the server says it here."""
        return cls(code, reason, message, details={**_naming(group, kind, name), **more})


def _naming(group: str, kind: str, name: str) -> Json:
    return {member: value for member, value in (("name", name), ("group", group), ("kind", kind)) if value}


def qualified(plural: str, group: str) -> str:
    """A resource or kind with its group, as messages name it."""
    return f"{plural}.{group}" if group else plural


def not_found(group: str, plural: str, name: str) -> ApiError:
    """The object is not there."""
    return ApiError.named(404, "NotFound", f'{qualified(plural, group)} "{name}" not found', group, plural, name)


def unknown_resource() -> ApiError:
    """The path names no resource."""
    return ApiError(404, "NotFound", "the server could not find the requested resource", details={})


def method_not_allowed() -> ApiError:
    """The path names something that has no such verb."""
    return ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource", details={})


def already_exists(group: str, plural: str, name: str, *, deleting: bool = False) -> ApiError:
    """A create of what is there."""
    what = f'{qualified(plural, group)} "{name}" already exists'
    return ApiError.named(409, "AlreadyExists", f"object is being deleted: {what}" if deleting else what, group, plural, name)


def conflict(group: str, plural: str, name: str, why: str) -> ApiError:
    """A write that lost against another."""
    message = f'Operation cannot be fulfilled on {qualified(plural, group)} "{name}": {why}'
    return ApiError.named(409, "Conflict", message, group, plural, name)


MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"


def bad_request(message: str) -> ApiError:
    """The request cannot be understood."""
    return ApiError(400, "BadRequest", message)


def internal(message: str) -> ApiError:
    """What the server calls its own fault; it is often the caller's."""
    return ApiError(500, "", message)


def forbidden_request(message: str, group: str, plural: str, name: str = "", **more: object) -> ApiError:
    """The caller, or the state of the namespace, does not allow it."""
    return ApiError.named(403, "Forbidden", message, group, plural, name, **more)


def invalid(group: str, kind: str, name: str, causes: Iterable[Cause]) -> ApiError:
    """An object with faults: 422 with every cause."""
    found = list(causes)
    texts = list(dict.fromkeys(c.text() for c in found))
    joined = texts[0] if len(texts) == 1 else "[" + ", ".join(texts) + "]"
    details = {**_naming(group, kind, name), "causes": [msgspec.to_builtins(cause) for cause in found]}
    return ApiError(422, "Invalid", f'{qualified(kind, group)} "{name}" is invalid: {joined}', details=details)


def unsupported_media_type(accepted: str) -> ApiError:
    """The body is in a format that is not read here."""
    message = f"the body of the request was in an unknown format - accepted media types include: {accepted}"
    return ApiError(415, "UnsupportedMediaType", message)


def too_large_version(asked: int, current: int) -> ApiError:
    """A resourceVersion from the future."""
    causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
    message = f"Timeout: Too large resource version: {asked}, current: {current}"
    return ApiError(504, "Timeout", message, details={"causes": causes, "retryAfterSeconds": 1}, headers={"Retry-After": "1"})


def expired(message: str) -> ApiError:
    """A resourceVersion older than the history kept: the client lists again."""
    return ApiError(410, "Expired", message)
