"""A bounded run of the fuzzer in every test run: nothing but WireError, and the memory stays flat."""

import gc
import re
import subprocess
import sys
from pathlib import Path

import pytest

from memberlist.errors import WireError
from tests.fuzz.__main__ import main, resident_mib
from tests.fuzz.targets import Corpus, Readers

COUNT = 50_000
WARM_UP = 10_000
GROWTH_MAX_MIB = 12.0


def test_fifty_thousand_changed_inputs_are_read_or_refused_and_the_memory_stays_flat() -> None:
    corpus, readers = Corpus(seed=1), Readers()
    done = read = 0
    before = 0.0
    for _ in range(COUNT):
        data = corpus.next()
        try:
            read += readers.feed(data)
        except Exception as escaped:
            raise AssertionError(f"escaped: run python -m tests.fuzz --input {data.hex()}") from escaped
        done += 1
        if done == WARM_UP:
            gc.collect()
            before = resident_mib()
    gc.collect()
    assert done == COUNT
    assert read > COUNT // 2  # Inputs that every reader refuses at the first byte would show little.
    assert resident_mib() - before < GROWTH_MAX_MIB


@pytest.mark.offered("atheris")
def test_inputs_chosen_by_the_code_they_reach_are_read_or_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--atheris", "--count", "20000", "--seed", "1", "--corpus", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    reached = [int(edges) for edges in re.findall(r"cov: (\d+)", done.stderr)]
    assert reached[-1] > reached[0] > 100  # It saw the readers' code, and found more of it than the vectors do.
    assert not list(tmp_path.glob("failed-*"))


def test_the_inputs_start_from_what_real_peers_sent_and_are_decided_by_the_seed() -> None:
    one, same, other = Corpus(1), Corpus(1), Corpus(2)
    assert len(one.entries) > 40
    inputs = [one.next() for _ in range(100)]
    assert inputs == [same.next() for _ in range(100)]
    assert inputs != [other.next() for _ in range(100)]


def test_what_is_no_wire_error_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    readers = Readers()

    def broken(data: bytes) -> None:
        raise (KeyError if data else WireError)(data)

    monkeypatch.setattr("tests.fuzz.targets.wire.decode", broken)
    with pytest.raises(KeyError):
        readers.feed(b"\x02")


def test_the_command_runs_as_many_as_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--count", "200", "--seed", "3"]) == 0
    assert capsys.readouterr().out.startswith("200 inputs")
    assert main(["--input", "02"]) == 0
