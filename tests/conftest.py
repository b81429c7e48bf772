"""What all tests share: a test says what it needs of the machine, and fails with the remedy where that is missing.

Nothing is skipped: a test that did not run proves nothing. `make test` installs everything that is needed.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

import pytest

from tests.parity.plugin import Parity

PATH: Final = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
PACKAGES: Final = {
    "serf": "serf",
    "kubectl": "kubernetes-client",
    "tshark": "tshark",
    "nginx": "nginx-light",
    "nft": "nftables",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of what is measured against MetalLB's own tests."""
    parser.addoption("--parity", action="store_true", help="write the outcome of tests with titles into metallb-parity.md")
    parser.addoption("--parity-links", type=Path, metavar="FILE", help="write the titles of all tests into a file (JSON)")


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers."""
    config.addinivalue_line("markers", "needs(*what): programs, or root, that the test cannot do without")
    config.addinivalue_line("markers", "parity(*titles): tests of MetalLB (tests/parity/titles.toml) that this one shows")
    config.pluginmanager.register(Parity(config.getoption("--parity-links"), write=config.getoption("--parity")))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail where something is missing, and say how to get it."""
    for marker in item.iter_markers("needs"):
        for what in marker.args:
            if what == "root":
                if os.geteuid() != 0:
                    pytest.fail("needs root; run make test with sudo", pytrace=False)
            elif shutil.which(what, path=PATH) is None:
                pytest.fail(f"needs {what}; apt-get install {PACKAGES[what]} (make test does)", pytrace=False)
