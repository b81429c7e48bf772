"""The page docs/reference/metallb-parity.md: read, brought up to date, written. Pure but for reading titles.toml.

plugin.py makes it of what a run collected and saw; tests/house/test_parity.py sees that it is not stale.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "reference" / "metallb-parity.md"
PASSED, FAILED, NOT_RUN = "passed", "FAILED", "not run"
NAMES: Final = {
    "controller": "Controller",
    "ipam": "IP address management",
    "config": "Configuration",
    "webhook": "Webhooks",
    "layer2": "Layer 2",
    "bgp": "BGP",
    "bfd": "BFD",
    "deployment": "Deployment",
}
SUITES: Final = {"e2e": "End to end", "unit": "Unit tables"}
HEAD: Final = """\
# What MetalLB tests, and what shows it here

The titles are those of MetalLB's end-to-end suite and short names for the rows of its unit tables. A title whose tests have
passed behaves here as it does there; the end-to-end ones run in the lab, against processes started from our manifests. What is
`not yet` waits for the work that is named.

This page is written by a test run: `make parity` runs every test that has a title and writes all of it; `pytest --parity FILE…`
runs some and brings their rows up to date. A test gets a title by `@pytest.mark.parity("…")` with a name of
[titles.toml](../../tests/parity/titles.toml).
"""

Links = Mapping[str, frozenset[str]]
"""Title → the tests that show it, as path::name."""


@dataclass(frozen=True, slots=True)
class Title:
    """One of MetalLB's tests. `awaits` names the work it waits for if no test of ours shows it; empty if one has to."""

    name: str
    area: str
    suite: str
    awaits: str


@dataclass(frozen=True, slots=True)
class Row:
    """What is known about a title."""

    tests: frozenset[str]
    status: str


def titles(text: str | None = None) -> list[Title]:
    """All titles, in the order of the file."""
    read = (Path(__file__).parent / "titles.toml").read_text(encoding="utf-8") if text is None else text
    found = []
    for section in tomllib.loads(read)["section"]:
        before = f"{section['under']} > " if section["under"] else ""
        found += [
            Title(before + one, section["area"], section["suite"], section.get("awaits", "")) for one in section["titles"]
        ]
    return found


_ROW = re.compile(r"^\| (?P<title>.+?) \| (?P<tests>.*?) \| (?P<status>.+?) \|$", re.MULTILINE)
_TEST = re.compile(r"\[([^\]]+)\]\(\.\./\.\./([^)]+)\)")


def rows(page: str) -> dict[str, Row]:
    """The rows of a page that have tests."""
    found = {}
    for match in _ROW.finditer(page):
        tests = frozenset(f"{path}::{name}" for name, path in _TEST.findall(match["tests"]))
        if tests:
            found[match["title"]] = Row(tests, match["status"])
    return found


def linked(page: Mapping[str, Row], links: Links) -> dict[str, Row]:
    """The rows for these links; the status stays where the tests of a title have not changed."""
    return {
        title: page[title] if title in page and page[title].tests == tests else Row(tests, NOT_RUN)
        for title, tests in links.items()
    }


def updated(page: Mapping[str, Row], links: Links, files: frozenset[str], failed: frozenset[str]) -> dict[str, Row]:
    """The rows after a run of these files in which these titles failed; tests in other files are as they were."""
    found = {}
    for title in {*page, *links}:
        before, ran = page.get(title, Row(frozenset(), PASSED)), links.get(title, frozenset())
        elsewhere = frozenset(test for test in before.tests if test.partition("::")[0] not in files)
        if not ran | elsewhere:
            continue
        was = before.status if elsewhere else PASSED
        status = FAILED if title in failed else was
        found[title] = Row(elsewhere | ran, status)
    return found


def render(known: list[Title], page: Mapping[str, Row]) -> str:
    """The page."""
    return "\n".join(_lines(known, page)) + "\n"


def _lines(known: list[Title], page: Mapping[str, Row]) -> Iterator[str]:
    yield HEAD
    yield "| area | titles | passed | not yet |"
    yield "|---|---|---|---|"
    for area, name in NAMES.items():
        mine = [title.name for title in known if title.area == area]
        shown = [page[one].status for one in mine if one in page]
        yield f"| {name} | {len(mine)} | {shown.count(PASSED)} | {len(mine) - len(shown)} |"
    for area, name in NAMES.items():
        for suite, heading in SUITES.items():
            some = [title for title in known if (title.area, title.suite) == (area, suite)]
            if not some:
                continue
            yield f"\n## {name}: {heading.lower()}\n"
            yield "| title | test | status |"
            yield "|---|---|---|"
            for title in some:
                row = page.get(title.name)
                if row is None:
                    yield f"| {title.name} |  | not yet: {title.awaits or name} |"
                else:
                    yield f"| {title.name} | {', '.join(map(_link, sorted(row.tests)))} | {row.status} |"


def _link(test: str) -> str:
    path, _, name = test.partition("::")
    return f"[{name}](../../{path})"
