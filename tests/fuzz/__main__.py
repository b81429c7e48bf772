"""Long runs of the fuzzer.

`python -m tests.fuzz --count 2000000` changes the bytes of real peers at random, from --seed on. `--atheris` lets atheris
choose the changes by the code they reach, until --seconds are over or --count inputs were tried; what reached new code is kept
in --corpus for the next run. A failing input is printed in hex, or by atheris in a file; `--input HEX` feeds it again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.fuzz.runs import drive

ROOT = Path(__file__).parents[2]
_COUNT = 50_000


def resident_mib() -> float:
    """Return the memory this process holds, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def main(words: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit status."""
    made = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    made.add_argument("--count", type=int, help="inputs (default 50000; with --atheris no limit)")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--atheris", action="store_true", help="coverage-guided")
    made.add_argument("--seconds", type=int, default=600, help="with --atheris")
    made.add_argument("--corpus", type=Path, default=ROOT / ".lab" / "fuzz", help="with --atheris: where inputs are kept")
    made.add_argument("--input", metavar="HEX", help="feed this one input")
    asked = made.parse_args(words)
    if asked.atheris:
        return _guided(asked)
    from tests.fuzz.targets import Corpus, Readers  # noqa: PLC0415  (atheris must be imported before what it watches)

    readers = Readers()
    if asked.input is not None:
        sys.stdout.write(f"{readers.feed(bytes.fromhex(asked.input))} readers made sense of it\n")
        return 0
    corpus, read = Corpus(asked.seed), 0

    def feed(data: bytes) -> None:
        nonlocal read
        read += readers.feed(data)

    drive(
        _COUNT if asked.count is None else asked.count, asked.seed, corpus.next, feed, bytes.hex,
        lambda rate: f"{read} readings made sense, {rate}, {resident_mib():.1f} MiB resident",
    )  # fmt: skip
    return 0


def _guided(asked: argparse.Namespace) -> int:
    import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]  # noqa: PLC0415  (not offered everywhere)

    with atheris.instrument_imports(include=["memberlist"]):
        from tests.fuzz.targets import Corpus, Readers  # noqa: PLC0415

    readers = Readers()
    asked.corpus.mkdir(parents=True, exist_ok=True)
    for number, entry in enumerate(Corpus(0).entries):
        (asked.corpus / f"vector-{number}").write_bytes(entry)
    limits = [f"-max_total_time={asked.seconds}", "-max_len=4096", f"-artifact_prefix={asked.corpus}/failed-"]
    if asked.count is not None:
        limits.append(f"-runs={asked.count}")
    atheris.Setup([sys.argv[0], *limits, f"-seed={asked.seed}", str(asked.corpus)], readers.feed)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
