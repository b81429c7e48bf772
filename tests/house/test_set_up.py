"""Set-up refuses a machine that cannot run the lab with one sentence and exit status 2, before it changes anything."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ("sh", "dirname", "uname", "id", "unshare", "true", "cat", "sha256sum", "cut", "cmp", "env", "rm")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The parts of a clone that set-up reads, and a folder `bin` that stands for PATH, with the usual tools."""
    for name in ("tools", "requirements", "pyproject.toml"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    for tool in TOOLS:
        (bin_dir / tool).symlink_to(shutil.which(tool) or "/bin/false")
    put(bin_dir, "python3", 'case "$1" in -V) echo Python 3.12.3 ;; esac')
    put(bin_dir, "id", "echo 0")
    put(bin_dir, "unshare", "exit 0")
    return tmp_path


def put(bin_dir: Path, name: str, script: str) -> None:
    path = bin_dir / name
    path.unlink(missing_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def set_up(clone: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(clone / "bin"), "HOME": os.environ.get("HOME", "/")}
    command = [str(clone / "bin" / "sh"), str(clone / "tools" / "set-up.sh")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def refused(clone: Path) -> str:
    result = set_up(clone)
    assert result.returncode == 2, result
    lines = result.stderr.splitlines()
    assert len(lines) == 1, lines
    assert not (clone / ".venv").exists()
    return lines[0]


def test_an_old_python_is_named_with_the_version_needed(clone: Path) -> None:
    put(clone / "bin", "python3", 'case "$1" in -V) echo Python 3.9.2 ;; *) exit 1 ;; esac')
    assert "Python 3.11 or newer is needed, this is Python 3.9.2" in refused(clone)


def test_a_missing_python_is_named_with_its_package(clone: Path) -> None:
    (clone / "bin" / "python3").unlink()
    assert "apt-get install python3" in refused(clone)


def test_without_root_the_remedy_is_sudo(clone: Path) -> None:
    put(clone / "bin", "id", "echo 1000")
    assert "run it again with sudo" in refused(clone)


def test_without_network_namespaces_the_machine_is_named_as_the_limit(clone: Path) -> None:
    put(clone / "bin", "unshare", "exit 1")
    assert "network namespaces" in refused(clone)


def test_a_package_that_no_source_offers_is_named(clone: Path) -> None:
    put(clone / "bin", "apt-get", "exit 0")
    put(clone / "bin", "apt-cache", '[ "$2" != serf ]')
    put(clone / "bin", "sed", "cat")
    assert "the package serf is not offered" in refused(clone)


def test_without_apt_the_missing_packages_are_listed(clone: Path) -> None:
    put(clone / "bin", "curl", "exit 0")
    assert "no apt-get" in (sentence := refused(clone))
    assert "serf" in sentence
    assert "curl" not in sentence
