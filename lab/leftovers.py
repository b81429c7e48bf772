"""Clear what a lab leaves on the machine: namespaces, the API server's state, Pods' directories. Logs stay for whoever asks why."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from lab import netns
from lab.paths import Paths
from lab.topology import lab_id


def clear(paths: Paths, identity: str) -> None:
    """Remove everything a lab leaves on this machine but its logs. Its processes must have ended. Can be repeated."""
    netns.tear_down(identity)
    for directory in (paths.api, paths.pods):
        shutil.rmtree(directory, ignore_errors=True)
    for file in (paths.state, paths.control):
        file.unlink(missing_ok=True)


def what_is_left(paths: Paths) -> list[str]:
    """What is still there of a lab that should be gone, in words: namespaces, files, mounts, processes."""
    identity = lab_id(paths.root)
    left = [f"namespace {name}" for name in netns.existing(identity)]
    left += [f"file {path}" for path in (paths.api, paths.pods, paths.state) if path.exists()]
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    left += [f"mount {line.split()[1]}" for line in mounts if identity in line or f"{paths.root}/" in line]
    here = str(paths.root).encode()
    for process in Path("/proc").glob("[0-9]*"):
        if process.name == str(os.getpid()):
            continue
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if any(word == here or word.startswith(here + b"/") for word in words):
                left.append(f"process {process.name} ({b' '.join(words).decode(errors='replace').strip()})")
    return left
