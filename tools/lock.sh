#!/bin/sh
# Rewrite requirements/lock.txt from pyproject.toml: exact versions and hashes for every supported Python (3.11, 3.12).
# Needs uv on PATH. Run it after changing a dependency, and commit both files together.
set -eu
cd "$(dirname "$0")/.."
uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --all-extras \
    --no-emit-index-url --no-emit-find-links --custom-compile-command tools/lock.sh \
    pyproject.toml -o requirements/lock.txt
