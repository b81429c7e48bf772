"""A bounded run of the fuzzer of ARP, NDP and netlink in every test run."""

import pytest

from tests.fuzz.neighbours import Target, main


def test_thirty_thousand_changed_messages_raise_nothing_and_nothing_malformed_is_answered() -> None:
    target = Target(seed=1)
    for _ in range(30_000):
        data, netlink = target.next()
        target.feed(data, netlink=netlink)
    outcome = target.outcome
    assert min(outcome.refused, outcome.read, outcome.answered) > 3_000
    assert outcome.netlink > 1_000
    assert outcome.netlink_refused < outcome.netlink / 2


def test_an_answer_to_something_malformed_is_found_out() -> None:
    target = Target(seed=1, answers=lambda frame: frame[20:22] != b"\0\1")
    with pytest.raises(AssertionError, match="a malformed message led to"):  # noqa: PT012  (which one it is depends on the seed)
        for _ in range(1_000):
            data, netlink = target.next()
            target.feed(data, netlink=netlink)


def test_the_command_runs_as_many_as_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--count", "200", "--seed", "3"]) == 0
    assert capsys.readouterr().out.startswith("200 inputs")
