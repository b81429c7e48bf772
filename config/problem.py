"""What is wrong with a configuration object, in a form that people and programs can use.

Made by config.compile and config.rules, shown by the daemons (log, Event, /status) and by lbctl check. A problem is a
value, never an exception: all of them are collected, and none hides another.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from config.model import ObjectRef


class Severity(StrEnum):
    """An error makes an edition of an object unusable; a warning does not."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem inside one object whose name is not yet attached.

    `path` is a JSON path without the leading `$.`, such as `spec.addresses[0]`; `value` the offending value as JSON text
    (shortened), or empty where something is missing. `summary` is the text that programs expect in errorSummary where it
    is another one than the message.
    """

    path: str
    code: str
    message: str
    remedy: str
    value: str = ""
    severity: Severity = Severity.ERROR
    summary: str = ""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with one object: where, what, and what to do about it."""

    object: ObjectRef
    path: str
    code: str
    message: str
    remedy: str
    value: str = ""
    severity: Severity = Severity.ERROR
    summary: str = ""

    @classmethod
    def of(cls, ref: ObjectRef, finding: Finding) -> Problem:
        """The finding, with the name of the object it is about."""
        found = finding
        return cls(ref, found.path, found.code, found.message, found.remedy, found.value, found.severity, found.summary)

    def __str__(self) -> str:
        return f"{_sentence(self)} ({self.remedy})" if self.remedy else _sentence(self)


SUMMARY_PREFIX = "configuration error: "
SUMMARY_LENGTH_MAX = 32768
"""What the schema of conditions allows."""


def error_summary(problems: Iterable[Problem]) -> str:
    """The errors among the problems as ConfigurationState shows them: sorted, one after the other; empty without any."""
    texts = {one.summary or _sentence(one) for one in problems if one.severity is Severity.ERROR}
    lines = [SUMMARY_PREFIX + text for text in sorted(texts)]
    whole = "\n".join(lines)
    if len(whole) <= SUMMARY_LENGTH_MAX:
        return whole
    note = "\nand more"
    return whole[: SUMMARY_LENGTH_MAX - len(note)].rpartition("\n")[0] + note


def _sentence(problem: Problem) -> str:
    where = f"{problem.object}: {problem.path}" if problem.path else str(problem.object)
    return f"{where}: {problem.message}"


def as_json(problem: Problem) -> dict[str, str]:
    """The problem as programs read it: /status of the daemons and `lbctl check -o json` have the same members."""
    return {
        "object": str(problem.object),
        "path": problem.path,
        "code": problem.code,
        "value": problem.value,
        "message": problem.message,
        "remedy": problem.remedy,
        "severity": problem.severity.value,
    }
