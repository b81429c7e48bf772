"""One round of chaos: random faults for half a minute on five nodes, and no address lost or left with the wrong node afterwards.

Longer: `python -m lab chaos --minutes 15`.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.e2e.conftest import ROOT, a_lab

pytestmark = [pytest.mark.needs("root", "nginx", "nft", "tshark"), pytest.mark.timeout(240)]

SEED = os.environ.get("SEED", "7")


def test_half_a_minute_of_faults_leaves_every_address_with_its_one_owner() -> None:
    lab = a_lab("chaos")
    words = ["--state", str(lab.paths.root), "chaos", "--minutes", "0.5", "--seed", SEED, "--services", "40"]
    done = subprocess.run([sys.executable, "-m", "lab", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert f"seed {SEED}: no findings" in done.stdout
