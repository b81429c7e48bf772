"""lbctl generate: write the files that are made from the sources; with --check, only compare.

Run by developers after a change to config/kinds, and by CI, which fails when a committed file differs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from config import crd, reference

ROOT = Path(__file__).resolve().parent.parent


def generated() -> Mapping[str, str]:
    """Path below the root of the repository → content, for every generated file."""
    definitions = {f"manifests/crds/{name}": content for name, content in crd.files().items()}
    return definitions | {f"docs/reference/{name}": content for name, content in reference.files().items()}


def differences(root: Path) -> list[str]:
    """The paths whose file is missing or differs from what would be written."""
    return [
        path
        for path, content in generated().items()
        if not (root / path).is_file() or (root / path).read_text(encoding="utf-8") != content
    ]


def run(argv: Sequence[str]) -> int:
    """Write (exit 0), or with --check compare: 0 when all files are up to date, else 1."""
    parser = argparse.ArgumentParser(
        prog="lbctl generate",
        description="Write the files that are made from the sources (manifests/crds, docs/reference).",
        epilog="example: lbctl generate --check",
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file is missing or differs")
    parser.add_argument("--root", type=Path, default=ROOT, help="root of the repository (default: this one)")
    options = parser.parse_args(argv)
    changed = differences(options.root)
    if options.check:
        for path in changed:
            print(f"{path}: not up to date; run `lbctl generate`", file=sys.stderr)
        return 1 if changed else 0
    for path in changed:
        target = options.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(generated()[path], encoding="utf-8")
        print(f"wrote {path}")
    return 0
