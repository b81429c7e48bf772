from __future__ import annotations

import pytest

from cli.__main__ import SUBCOMMANDS, main


def test_help_lists_every_subcommand(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in SUBCOMMANDS)


@pytest.mark.parametrize(("argv", "said"), [([], "usage:"), (["frobnicate"], "unknown subcommand 'frobnicate'")])
def test_what_cannot_be_run_exits_2_with_the_usage(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    assert said in capsys.readouterr().err
