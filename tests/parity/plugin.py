"""Hooks of pytest: a title in a mark must exist; with --parity the outcome of a run is written into the page.

Registered by tests/conftest.py.
"""

from __future__ import annotations

import json
from collections import defaultdict
from difflib import get_close_matches
from pathlib import Path

import pytest

from tests.parity import page


class Parity:
    """What a run collected and saw."""

    def __init__(self, links: Path | None, *, write: bool) -> None:
        self._write = write
        self._links_file = links
        self._links: dict[str, set[str]] = defaultdict(set)
        self._files: set[str] = set()
        self._items: dict[str, tuple[str, list[str]]] = {}
        self._ran: set[str] = set()
        self._failed: set[str] = set()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Learn which tests have titles.

        Raises:
            pytest.UsageError: a title is not in titles.toml.

        """
        known = {title.name for title in page.titles()}
        for item in items:
            name = item.nodeid.partition("[")[0]
            self._files.add(name.partition("::")[0])
            shown = [title for mark in item.iter_markers("parity") for title in mark.args]
            for title in shown:
                if title not in known:
                    near = "".join(f"; did you mean {one!r}?" for one in get_close_matches(title, known, 1))
                    raise pytest.UsageError(f"{name}: tests/parity/titles.toml has no title {title!r}{near}")
                self._links[title].add(name)
            if shown:
                self._items[item.nodeid] = (name, shown)
        if self._links_file is not None:
            self._links_file.write_text(json.dumps({title: sorted(tests) for title, tests in self._links.items()}))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what failed."""
        if report.nodeid in self._items:
            name, shown = self._items[report.nodeid]
            self._ran.add(name)
            if report.failed:
                self._failed.update(shown)

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """Write the page, if this run was to do so and ran to its end."""
        if not self._write or exitstatus not in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}:
            return
        before = page.rows(page.PAGE.read_text(encoding="utf-8")) if page.PAGE.exists() else {}
        links = {title: frozenset(tests & self._ran) for title, tests in self._links.items() if tests & self._ran}
        after = page.updated(before, links, frozenset(self._files), frozenset(self._failed))
        page.PAGE.write_text(page.render(page.titles(), after), encoding="utf-8")
