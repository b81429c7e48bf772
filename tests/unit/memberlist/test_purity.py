"""The core knows no clock, socket, log or global chance: only agent.py and transport.py may reach them."""

import ast
from pathlib import Path

import pytest

from memberlist import agent

FORBIDDEN = {
    "asyncio",
    "socket",
    "time",
    "random",
    "os",
    "subprocess",
    "logging",
    "structlog",
    "threading",
    "secrets",
    "select",
}
SHELL = {"agent.py", "transport.py", "__init__.py", "__main__.py", "example.py"}
FILES = sorted(Path(agent.__file__).parent.glob("*.py"))


def imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found


@pytest.mark.parametrize("path", [path for path in FILES if path.name not in SHELL], ids=lambda path: path.name)
def test_a_module_of_the_core_imports_nothing_that_acts(path: Path) -> None:
    assert not imported(path) & FORBIDDEN


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_nothing_else_of_this_project_is_imported(path: Path) -> None:
    assert not imported(path) & {"config", "kube", "telemetry", "controller", "speaker", "cli", "lab"}


def test_both_shells_do_reach_the_world() -> None:
    assert "socket" in imported(next(path for path in FILES if path.name == "transport.py"))
