from __future__ import annotations

from pathlib import Path

import pytest

from cli import generate
from cli.__main__ import main


def test_the_committed_files_are_up_to_date() -> None:
    assert generate.differences(generate.ROOT) == []


def test_check_names_what_differs_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--check", "--root", str(tmp_path)]) == 1
    assert "manifests/crds/ipaddresspools.yaml: not up to date; run `lbctl generate`" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_generate_writes_what_check_accepts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--root", str(tmp_path)]) == 0
    assert "wrote manifests/crds/ipaddresspools.yaml" in capsys.readouterr().out
    assert main(["generate", "--check", "--root", str(tmp_path)]) == 0
    assert main(["generate", "--root", str(tmp_path)]) == 0
    assert capsys.readouterr().out == ""
