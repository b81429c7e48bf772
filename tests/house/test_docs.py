"""Documentation stays true: links lead somewhere, commands exist, and nothing names a path outside the clone."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "manifests").rglob("*.md")) if path.is_file()
)
LINK = re.compile(r"\[[^\]]+\]\(([^)#]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_of_the_repository(page: Path) -> None:
    broken = [
        target
        for target in LINK.findall(page.read_text())
        if not target.startswith("http") and not (page.parent / target).exists()
    ]
    assert broken == []


def test_the_readme_names_the_two_commands_that_the_makefile_has() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for command in re.findall(r"(?:^ {4}|`)make (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE):
        assert re.search(rf"^{command}:", makefile, re.MULTILINE), command


def test_ci_runs_the_test_command_of_the_readme() -> None:
    assert "exec make test" in (ROOT / ".ci" / "run").read_text()


def test_no_test_is_skipped() -> None:
    """Where a machine lacks something, a test fails and says how to get it (tests/conftest.py)."""
    words = re.compile(r"pytest\.(?:mark\.)?(?:skip|xfail)|importorskip")
    found = [str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py") if words.search(path.read_text())]
    assert found == [str(Path(__file__).relative_to(ROOT))]


def test_no_page_is_longer_than_the_architecture_allows() -> None:
    assert len((ROOT / "ARCHITECTURE.md").read_text().splitlines()) <= 200


RULES = ROOT / "docs" / "reference" / "assignment.md"
SHORT = {"U/": "unit/controller/", "I/": "integration/controller/", "E::": "e2e/test_metallb_assignment.py::"}


def test_the_tests_that_hold_the_rules_of_assignment_exist() -> None:
    missing = []
    named = re.findall(r"`([\w/.]+::\w+)`", RULES.read_text())
    for name in named:
        short = next((one for one in SHORT if name.startswith(one)), "")
        file, _, test = (SHORT.get(short, "") + name.removeprefix(short)).partition("::")
        path = ROOT / "tests" / file
        if not path.exists() or not re.search(rf"def {test}\(", path.read_text()):
            missing.append(name)
    assert missing == []
    assert len(named) > 60
