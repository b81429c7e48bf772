"""Package names are flat (docs/decisions/0001): nobody else's `config` may take the place of ours."""

import ast
import importlib
import importlib.metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("config", "controller", "speaker", "memberlist", "kube", "telemetry", "cli", "lab")


@pytest.mark.parametrize("name", PACKAGES)
def test_the_imported_package_is_the_one_in_this_checkout(name: str) -> None:
    assert Path(importlib.import_module(name).__file__ or "").parent == ROOT / name


@pytest.mark.parametrize("name", PACKAGES)
def test_no_other_distribution_brings_a_package_of_this_name(name: str) -> None:
    assert set(importlib.metadata.packages_distributions().get(name, [])) <= {"metallb-py"}


def test_nothing_says_import_config() -> None:
    offenders = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for package in (*PACKAGES, "tests", "bench")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import) and any(alias.name in PACKAGES for alias in node.names)
    ]
    assert offenders == []


def test_no_file_is_named_after_nothing() -> None:
    homeless = {"utils.py", "util.py", "common.py", "misc.py", "helpers.py", "types.py"}
    found = [str(p.relative_to(ROOT)) for package in PACKAGES for p in (ROOT / package).rglob("*.py") if p.name in homeless]
    assert found == []


def test_every_module_says_why_it_exists() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []
