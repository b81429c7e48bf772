"""The import contracts of pyproject.toml hold; a breach prints the chain of imports that broke them."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_import_contracts_are_kept() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-1000:]


def test_contracts_can_fail(tmp_path: Path) -> None:
    """A contract that matches nothing would pass for ever; this one must not."""
    (tmp_path / "contracts.ini").write_text(
        "[importlinter]\nroot_packages=\n    kube\n    config\n"
        "[importlinter:contract:1]\nname=upside down\ntype=layers\nlayers=\n    config\n    kube\n"
    )
    linter = Path(sys.executable).with_name("lint-imports")
    command = [str(linter), "--no-cache", "--config", str(tmp_path / "contracts.ini")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "BROKEN" in result.stdout
