"""What can go wrong between us and the API server, named by what the caller does next.

The client raises these and nothing else; the classification (error_of) is pure, so that the recorded answers of a real
server can be tested against it without a connection.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import msgspec

MESSAGE_LIMIT: Final = 500


class StatusCause(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One member of an object that the server did not accept."""

    reason: str = ""
    message: str = ""
    field: str = ""


class StatusDetails(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The particulars of a Status."""

    name: str = ""
    group: str = ""
    kind: str = ""
    uid: str = ""
    causes: tuple[StatusCause, ...] | None = None
    retry_after_seconds: int = 0


class Status(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """meta/v1 Status: what the API server answers when it does not answer with an object."""

    status: str = ""
    message: str = ""
    reason: str = ""
    code: int = 0
    details: StatusDetails | None = None


class KubeError(Exception):
    """Base: the request failed. Carries the HTTP status (0: there was no answer), reason, message and details."""

    def __init__(self, message: str, *, status: int = 0, reason: str = "", details: StatusDetails | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.details = details

    @property
    def causes(self) -> tuple[StatusCause, ...]:
        """The members that were refused, if the server named any."""
        return (self.details.causes if self.details else None) or ()


class NotFound(KubeError):  # noqa: N818 - named by what is the case, so that `except NotFound` reads well; as the others here
    """No such object or kind: create it, forget it, or wait for the kind."""


class Conflict(KubeError):  # noqa: N818
    """The object changed since it was read: read again and decide again."""


class AlreadyExists(Conflict):
    """An object of that name is there: read it."""


class Gone(KubeError):  # noqa: N818
    """The resource version is too old (or, in 504, too new) for the server: list again."""


class Unauthorized(KubeError):  # noqa: N818
    """The server does not know who we are: read the credentials again."""


class Forbidden(KubeError):  # noqa: N818
    """The server knows us and says no: the operator must grant the verb that the message names."""


class Invalid(KubeError):  # noqa: N818
    """The request itself is wrong; repeating it unchanged is useless."""


class Malformed(KubeError):  # noqa: N818
    """The answer is not what the API promises."""


Phase = Literal["connect", "exchange", "answer"]


class Unreachable(KubeError):  # noqa: N818
    """The server cannot serve us now: wait, then try again.

    Attributes:
        retry_after_s: the wait the server asked for, in seconds; None if it asked for none.
        phase: how far it went: no connection, a broken exchange, or an answer that says "not now" (429, 5xx).

    """

    def __init__(
        self,
        message: str,
        *,
        phase: Phase,
        retry_after_s: float | None = None,
        status: int = 0,
        reason: str = "",
        details: StatusDetails | None = None,
    ) -> None:
        super().__init__(message, status=status, reason=reason, details=details)
        self.phase: Phase = phase
        self.retry_after_s = retry_after_s


_BY_CODE: Final[Mapping[int, type[KubeError]]] = {
    400: Invalid,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    405: Invalid,
    406: Invalid,
    409: Conflict,
    410: Gone,
    413: Invalid,
    415: Invalid,
    422: Invalid,
}


def error_of(status: Status, *, retry_after: str = "") -> KubeError:
    """The error that a Status means; `retry_after` is the header of that name (only its form in seconds is understood)."""
    message = status.message or status.reason or f"HTTP status {status.code}"
    causes = (status.details.causes if status.details else None) or ()
    if status.code == 504 and any(cause.reason == "ResourceVersionTooLarge" for cause in causes):
        return Gone(message, status=status.code, reason=status.reason, details=status.details)
    if status.code == 409 and status.reason == "AlreadyExists":
        return AlreadyExists(message, status=status.code, reason=status.reason, details=status.details)
    kind = _BY_CODE.get(status.code)
    if kind is not None:
        return kind(message, status=status.code, reason=status.reason, details=status.details)
    if status.code == 429 or status.code >= 500 or status.code == 0:
        asked = status.details.retry_after_seconds if status.details else 0
        seconds = float(retry_after) if retry_after.isdecimal() else float(asked)
        return Unreachable(
            message,
            phase="answer",
            retry_after_s=seconds if seconds > 0 else None,
            status=status.code,
            reason=status.reason,
            details=status.details,
        )
    return KubeError(message, status=status.code, reason=status.reason, details=status.details)


def error_of_answer(code: int, body: bytes, *, retry_after: str = "") -> KubeError:
    """The error in an HTTP answer whose status is not 2xx. A body that is no Status (a proxy's page) becomes the message."""
    try:
        status = msgspec.json.decode(body, type=Status)
    except (msgspec.DecodeError, UnicodeDecodeError):
        text = " ".join(body[: 4 * MESSAGE_LIMIT].decode("utf-8", "replace").split())[:MESSAGE_LIMIT]
        status = Status(message=f"HTTP status {code}: {text}" if text else "")
    return error_of(msgspec.structs.replace(status, code=code), retry_after=retry_after)
