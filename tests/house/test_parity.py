"""What MetalLB tests has a test here, and the page that says so is not stale (tests/parity)."""

import json
import subprocess
import sys
from collections.abc import Mapping

import pytest

from tests.parity.page import FAILED, NOT_RUN, PAGE, PASSED, ROOT, Row, Title, linked, render, rows, titles, updated

REMEDY = "run: python -m pytest --parity FILE… with the files whose marks changed, or make parity"


@pytest.fixture(scope="module")
def links(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, frozenset[str]]:
    """Title → tests, as pytest collects them."""
    files = [str(one) for one in sorted((ROOT / "tests").rglob("test_*.py")) if "parity(" in one.read_text(encoding="utf-8")]
    out = tmp_path_factory.mktemp("parity") / "links.json"
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", f"--parity-links={out}", *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    return {title: frozenset(tests) for title, tests in json.loads(out.read_text()).items()}


def test_every_title_has_a_test_or_waits_for_work_that_is_named(links: Mapping[str, frozenset[str]]) -> None:
    assert [title.name for title in titles() if not title.awaits and title.name not in links] == []


def test_the_page_shows_the_tests_there_are_and_all_have_passed(links: Mapping[str, frozenset[str]]) -> None:
    page = PAGE.read_text(encoding="utf-8")
    known = linked(rows(page), links)
    assert {title: row for title, row in known.items() if row.status != PASSED} == {}, REMEDY
    assert render(titles(), known) == page, REMEDY


KNOWN = [Title("one", "ipam", "unit", ""), Title("two", "bgp", "e2e", "BGP")]
ONE = frozenset({"tests/a.py::test_a"})


def test_a_page_reads_back_as_it_was_written() -> None:
    page = render(KNOWN, {"one": Row(ONE | {"tests/b.py::TestX::test_b"}, FAILED)})
    assert render(KNOWN, rows(page)) == page
    assert "| two |  | not yet: BGP |" in page


def test_a_title_passes_when_all_of_its_tests_do_and_only_what_ran_changes() -> None:
    both = ONE | {"tests/b.py::test_b"}
    before = {"one": Row(both, PASSED), "two": Row(frozenset({"tests/c.py::test_c"}), PASSED)}
    failed = updated(before, {"one": ONE}, frozenset({"tests/a.py"}), frozenset({"one"}))
    assert failed == {"one": Row(both, FAILED), "two": before["two"]}
    assert updated(failed, {"one": ONE}, frozenset({"tests/a.py"}), frozenset())["one"].status == FAILED, "b may have failed"
    assert updated(failed, {"one": both}, frozenset({"tests/a.py", "tests/b.py"}), frozenset())["one"].status == PASSED
    assert updated(before, {}, frozenset({"tests/c.py"}), frozenset()) == {"one": before["one"]}


def test_a_test_that_is_new_or_gone_makes_the_page_stale() -> None:
    before = {"one": Row(ONE, PASSED)}
    assert linked(before, {"one": ONE}) == before
    assert linked(before, {"one": frozenset({"tests/b.py::test_b"})})["one"].status == NOT_RUN
