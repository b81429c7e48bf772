"""What the processes write: one JSON object per line on standard output.

Every line has ts (RFC 3339), mono (CLOCK_MONOTONIC in seconds, the same clock in all processes of a machine, so that the
lines of several can be put in order), level, caller, component and msg, then the facts. Libraries that use the standard
logging module end up in the same stream. Secrets are blanked by the name of the fact. main() calls configure once; every
module that logs asks get_logger for a logger. Nothing here decides what is worth a line.
"""

from __future__ import annotations

import logging
import re
import sys
import time
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol, cast

import msgspec
import structlog
from structlog.typing import EventDict, WrappedLogger

LEVELS: Final[Mapping[str, int]] = {
    "all": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "none": logging.CRITICAL + 1,
}
"""What --log-level takes, from chatty to silent."""

_NAMES: Final = {"warning": "warn", "critical": "error", "exception": "error"}
_SECRET: Final = re.compile(
    r"(passw(or)?d|secret([_-]?(key|data))?|token|authorization|(private|client)[_-]?key([_-]?data)?)$", re.IGNORECASE
)
_BEARER: Final = re.compile(r"\b(bearer|basic)\s+[^\s\"']+", re.IGNORECASE)
BLANK: Final = "(blanked)"


def configure(level: str, *, component: str, stream: BinaryIO | None = None) -> None:
    """Send the lines of this process, from this level on, to a stream (standard output if none is given).

    Raises:
        KeyError: no such level; the flag parser allows only those of LEVELS.

    """
    least = LEVELS[level]
    sink = _Sink(stream or sys.stdout.buffer, component, least)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.CallsiteParameterAdder(
                [structlog.processors.CallsiteParameter.FILENAME, structlog.processors.CallsiteParameter.LINENO]
            ),
            sink.render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(min(least, logging.CRITICAL)),
        logger_factory=lambda *_: sink,
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers = [_Bridge(sink)]
    # Framework logs share the level, but what libraries call information is chatter to an operator.
    root.setLevel(max(least, logging.WARNING) if level != "all" else logging.DEBUG)
    logging.captureWarnings(capture=True)


class Logger(Protocol):
    """What a part of a process needs of a logger: an event as a constant in the past tense, and facts.

    Shells take one as a parameter, so that a test can read what was said.
    """

    def debug(self, event: str, /, **facts: Any) -> Any:
        """Log a detail."""

    def info(self, event: str, /, **facts: Any) -> Any:
        """Log a change."""

    def warning(self, event: str, /, **facts: Any) -> Any:
        """Log something that an operator should see."""

    def error(self, event: str, /, **facts: Any) -> Any:
        """Log a failure."""


class BoundLogger(Logger, Protocol):
    """A Logger as the process has it."""

    def exception(self, event: str, /, **facts: Any) -> Any:
        """Log a failure that nobody expected, with where it happened; call it while handling the exception."""

    def bind(self, **facts: Any) -> BoundLogger:
        """A logger that adds these facts to every line."""
        ...


def get_logger(name: str) -> BoundLogger:
    """A logger for a part of a process; every line names the part."""
    return cast("BoundLogger", structlog.get_logger(part=name))


class _Sink:
    """Renders and writes lines. structlog calls its methods by the name of the level."""

    def __init__(self, stream: BinaryIO, component: str, least: int) -> None:
        self._stream = stream
        self._component = component
        self._silent = least > logging.CRITICAL

    def render(self, _: WrappedLogger, level: str, facts: EventDict) -> bytes:
        event = facts.pop("event", "")
        caller = f"{facts.pop('filename', '?')}:{facts.pop('lineno', 0)}"
        cause = facts.pop("exc_info", None)
        if cause:
            error = cause if isinstance(cause, BaseException) else sys.exc_info()[1]
            if error is not None:
                facts.setdefault("error", f"{type(error).__name__}: {error}")
                facts["traceback"] = "".join(traceback.format_exception(error))
        return self.line(level, caller, str(event), facts)

    def line(self, level: str, caller: str, message: str, facts: Mapping[str, Any]) -> bytes:
        head = {
            "ts": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "mono": round(time.monotonic(), 6),
            "level": _NAMES.get(level, level),
            "caller": caller,
            "component": facts.get("component", self._component),
            "msg": _BEARER.sub(BLANK, message),
        }
        return msgspec.json.encode(
            head | {key: blanked(key, value) for key, value in facts.items() if key not in head}, enc_hook=str
        )

    def write(self, line: bytes) -> None:
        if self._silent:
            return
        try:
            self._stream.write(line + b"\n")
            self._stream.flush()
        except (OSError, ValueError):
            self._silent = True  # Whoever read us is gone; what this process is for goes on.

    debug = info = warning = error = critical = exception = write


def blanked(key: str, value: object) -> object:
    """The value, without secrets: those whose name says so, inside of mappings and lists too, and bearer tokens in texts."""
    if _SECRET.search(key) and value not in ("", None):
        return BLANK
    if isinstance(value, str):
        return _BEARER.sub(BLANK, value)
    if isinstance(value, Mapping):
        return {str(inner): blanked(str(inner), each) for inner, each in value.items()}
    if isinstance(value, list | tuple):
        return [blanked(key, each) for each in value]
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    return value


class _Bridge(logging.Handler):
    """Takes what libraries log through the standard module."""

    def __init__(self, sink: _Sink) -> None:
        super().__init__()
        self._sink = sink

    def emit(self, record: logging.LogRecord) -> None:
        facts: dict[str, Any] = {"part": record.name}
        if record.exc_info and record.exc_info[1]:
            facts["error"] = f"{type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
            facts["traceback"] = "".join(traceback.format_exception(record.exc_info[1]))
        caller = f"{Path(record.pathname).name}:{record.lineno}"
        self._sink.write(self._sink.line(record.levelname.lower(), caller, record.getMessage(), facts))
