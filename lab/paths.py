"""Where a lab keeps its files: everything below one state directory, inside the clone unless the user says otherwise."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from lab.images import CLONE

ENVIRONMENT: Final = "METALLB_LAB"
LAB: Final = f"{os.path.relpath(sys.executable)} -m lab"
"""What a user types in this directory to call this program again; messages say it."""


class LabError(RuntimeError):
    """The lab cannot do what was asked; the message says why and what to do."""


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What a supervisor leaves for other processes: enough to find the lab and to describe it again. `guardian` clears up after `pid`."""

    lab_id: str
    pid: int
    guardian: int
    nodes: int
    network: str


@dataclass(frozen=True, slots=True)
class Paths:
    """The files of one lab."""

    root: Path

    @property
    def logs(self) -> Path:
        """One file for every container, one for the API server, one for the supervisor."""
        return self.root / "logs"

    @property
    def api(self) -> Path:
        """The API server's directory."""
        return self.root / "api"

    @property
    def pods(self) -> Path:
        """A directory for every Pod, by uid."""
        return self.root / "pods"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.api / "kubeconfig"

    @property
    def state(self) -> Path:
        """A State as JSON while a lab is up."""
        return self.root / "state.json"

    @property
    def supervisor_log(self) -> Path:
        """What the supervisor says."""
        return self.logs / "supervisor.log"

    def read_state(self) -> State | None:
        """What the running supervisor (or one that was killed) left."""
        try:
            return msgspec.json.decode(self.state.read_bytes(), type=State)
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    @property
    def control(self) -> Path:
        """The supervisor's socket."""
        return self.root / "control.sock"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only one who builds, runs or clears the lab in this directory.

        Raises:
            LabError: somebody else is.

        """
        self.root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                state = self.read_state()
                who = f" (supervisor process {state.pid})" if state else ""
                raise LabError(f"a lab is already up in {self.root}{who}; {LAB} down ends it") from None
            yield
        finally:
            os.close(descriptor)


def paths(given: str | None) -> Paths:
    """The lab that the user means: --state, else METALLB_LAB, else .lab in this clone."""
    return Paths(Path(given or os.environ.get(ENVIRONMENT) or CLONE / ".lab").resolve())
