"""What the shells of the speaker need of a logger. main() passes one in, so that tests can read what was said."""

from __future__ import annotations

from typing import Any, Protocol


class Log(Protocol):
    """An event in the past tense, and facts."""

    def debug(self, event: str, **facts: Any) -> Any:
        """Log a detail."""

    def info(self, event: str, **facts: Any) -> Any:
        """Log a change."""

    def warning(self, event: str, **facts: Any) -> Any:
        """Log something that an operator should see."""

    def error(self, event: str, **facts: Any) -> Any:
        """Log a failure."""
