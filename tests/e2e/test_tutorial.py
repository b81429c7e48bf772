"""The tutorial's commands, run as a reader would type them, in one shell, in order."""

from pathlib import Path

import pytest

from tests.e2e.pages import ROOT, Step, run, steps

PAGE = ROOT / "docs" / "tutorial" / "first-address.md"


def test_a_promise_that_is_not_kept_is_noticed() -> None:
    assert Step("x", "...b... d").kept_by("a b c d")
    assert not Step("x", "...b... d").kept_by("a c d")
    assert not Step("x", "a").kept_by("a b")


@pytest.mark.timeout(300)
def test_the_tutorial_prints_what_it_promises(tmp_path: Path) -> None:
    todo = steps(PAGE.read_text())
    assert len(todo) > 12
    run(todo, tmp_path, limit_s=280)
