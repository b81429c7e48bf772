"""Clear what a lab leaves on the machine: namespaces, the API server's state, Pods' directories. Logs stay for whoever asks why."""

from __future__ import annotations

import shutil

from lab import netns
from lab.paths import Paths


def clear(paths: Paths, identity: str) -> None:
    """Remove everything a lab leaves on this machine but its logs. Its processes must have ended. Can be repeated."""
    netns.tear_down(identity)
    for directory in (paths.api, paths.pods):
        shutil.rmtree(directory, ignore_errors=True)
    for file in (paths.state, paths.root / "control.sock"):
        file.unlink(missing_ok=True)
