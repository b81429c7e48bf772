"""What all tests share: a test says what it needs of the machine, and fails with the remedy where that is missing.

Nothing is skipped: a test that did not run proves nothing. `make test` installs everything that is needed. What no command
can install, because nobody offers it for this kernel or processor, is left out and listed with its number at the end.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Mapping
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
    "/usr/lib/nginx/modules/ngx_stream_module.so": "libnginx-mod-stream",
    "vtysh": "frr",
    "bird": "bird2",
}
OFFERED: Final[Mapping[str, tuple[str, Callable[[], bool]]]] = {
    "atheris": ("machine", lambda: platform.machine() == "x86_64" and sys.version_info < (3, 14)),
}
"""What a test may ask for with `offered`: by whom it is offered or not, and whether it is here."""
LEFT_OUT: Final = pytest.StashKey[Counter[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of what is measured against MetalLB's own tests."""
    parser.addoption("--parity", action="store_true", help="write the outcome of tests with titles into metallb-parity.md")
    parser.addoption("--parity-links", type=Path, metavar="FILE", help="write the titles of all tests into a file (JSON)")


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers."""
    config.addinivalue_line("markers", "needs(*what): programs, files, or root, that the test cannot do without")
    config.addinivalue_line("markers", "parity(*titles): tests of MetalLB (tests/parity/titles.toml) that this one shows")
    config.pluginmanager.register(Parity(config.getoption("--parity-links"), write=config.getoption("--parity")))
    config.addinivalue_line("markers", "offered(*what): what the test cannot do without and nobody can install; see OFFERED")
    config.stash[LEFT_OUT] = Counter()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what this kernel or machine does not offer, and count it."""
    kept: list[pytest.Item] = []
    dropped: list[pytest.Item] = []
    for item in items:
        asked = {what for marker in item.iter_markers("offered") for what in marker.args}
        missing = sorted(what for what in asked if not OFFERED[what][1]())
        config.stash[LEFT_OUT].update(f"not offered by this {OFFERED[what][0]}: {what}" for what in missing[:1])
        (dropped if missing else kept).append(item)
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = kept


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """List what was left out."""
    for what, tests in sorted(config.stash[LEFT_OUT].items()):
        terminalreporter.line(f"{what} ({tests} test{'s' if tests > 1 else ''})")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail where something is missing, and say how to get it."""
    for marker in item.iter_markers("needs"):
        for what in marker.args:
            if what == "root":
                if os.geteuid() != 0:
                    pytest.fail("needs root; run make test with sudo", pytrace=False)
            elif not Path(what).exists() if what.startswith("/") else shutil.which(what, path=PATH) is None:
                pytest.fail(f"needs {what}; apt-get install {PACKAGES[what]} (make test does)", pytrace=False)
