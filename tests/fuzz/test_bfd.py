"""A bounded run of the BFD fuzzer in every test run."""

import pytest

from speaker.bfd import hub
from tests.fuzz.bfd import Target, main


def test_thirty_thousand_changed_packets_raise_nothing_and_move_no_session() -> None:
    target = Target(seed=1)
    for _ in range(30_000):
        target.feed(target.next())
    assert target.outcome.refused > 5_000
    assert target.outcome.read > 5_000


def test_a_hub_that_does_not_look_at_the_ttl_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    target = Target(seed=1)
    monkeypatch.setattr(hub, "TTL", 0)
    with pytest.raises(AssertionError):  # noqa: PT012  (which one it will be depends on the seed)
        for _ in range(1_000):
            target.feed(target.next())


def test_the_command_runs_as_many_as_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--count", "200", "--seed", "3"]) == 0
    assert capsys.readouterr().out.startswith("200 inputs")
