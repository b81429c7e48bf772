"""docs/tutorial/kubectl.md with the machine's own kubectl: every command that a user of the lab types.

To try another version put it first: PATH=/where/it/is:$PATH pytest tests/e2e/test_kubectl_tour.py
"""

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.e2e.pages import ROOT, run, steps

PAGE = ROOT / "docs" / "tutorial" / "kubectl.md"
OF_THE_TOUR = """
get describe apply edit replace patch label annotate delete wait explain api-resources auth create rollout scale cordon drain
uncordon diff events
"""
"""What an issue promised, and this test keeps on the page."""


def verbs(page: Path) -> set[str]:
    """The kubectl commands that a page uses."""
    words = re.findall(r"kubectl((?: -n \S+)*) ([a-z-]+)", "\n".join(step.command for step in steps(page.read_text())))
    return {verb for _, verb in words}


def test_the_tour_has_every_command_and_the_tutorials_use_no_other() -> None:
    tour = verbs(PAGE)
    assert tour >= set(OF_THE_TOUR.split())
    assert {str(page): verbs(page) - tour for page in (ROOT / "docs" / "tutorial").glob("*.md") if verbs(page) - tour} == {}


@pytest.mark.timeout(300)
@pytest.mark.needs("root", "kubectl", "nginx", "nft")
def test_kubectl_prints_what_the_tour_promises(tmp_path: Path) -> None:
    version = subprocess.run(["kubectl", "version", "--client", "-o", "json"], check=True, capture_output=True).stdout
    minor = int(json.loads(version)["clientVersion"]["minor"].rstrip("+"))
    run([step for step in steps(PAGE.read_text()) if step.since <= minor], tmp_path, limit_s=280)
