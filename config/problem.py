"""What is wrong with a configuration object, in a form that people and programs can use.

Made by config.compile and config.rules, shown by the daemons (log, Event, /status) and by lbctl check. A problem is a
value, never an exception: all of them are collected, and none hides another.
"""

from __future__ import annotations

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
    (shortened), or empty where something is missing.
    """

    path: str
    code: str
    message: str
    remedy: str
    value: str = ""
    severity: Severity = Severity.ERROR


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

    @classmethod
    def of(cls, ref: ObjectRef, finding: Finding) -> Problem:
        """The finding, with the name of the object it is about."""
        return cls(ref, finding.path, finding.code, finding.message, finding.remedy, finding.value, finding.severity)

    def __str__(self) -> str:
        where = f"{self.object}: {self.path}" if self.path else str(self.object)
        return f"{where}: {self.message} ({self.remedy})" if self.remedy else f"{where}: {self.message}"
