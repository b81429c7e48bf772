"""A lab whose supervisor meets a failure at its n-th action: `python -m tests.e2e.dying kill|fail N STATE`. For test_teardown.

An action is whatever the supervisor does to the machine that Python reports to an audit hook: a process started, a file opened for
writing, a directory made, something renamed or removed, a socket bound or connected, a namespace entered. `kill` ends the
process with SIGKILL before the action, as a machine would that runs out of memory; `fail` has the action end with an error,
as a full disk would. Every action is told on standard error, so that action 0, which never comes, tells how many there are.
The product knows nothing of this.
"""

from __future__ import annotations

import errno
import os
import signal
import sys

from lab.__main__ import main

ACTIONS = {
    "subprocess.Popen",
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.chmod",
    "shutil.rmtree",
    "socket.bind",
    "socket.connect",
}


class Fate:
    """Counts actions and lets the chosen one fail."""

    def __init__(self, how: str, number: int) -> None:
        self.how = how
        self.number = number
        self.armed = False
        self.count = 0

    def arm(self) -> None:
        """Begin to count: this process is the supervisor."""
        self.armed = True

    def see(self, event: str, details: tuple[object, ...]) -> None:
        """The audit hook."""
        if not self.armed:
            return
        writes = event == "open" and isinstance(details[2], int) and bool(details[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        enters = event == "open" and "/ns/net" in str(details[0])
        if not (writes or enters or event in ACTIONS):
            return
        self.count += 1
        os.write(2, f"action {self.count}: {event} {details[:1]}\n".encode())
        if self.count == self.number:
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(errno.ENOSPC, f"injected at action {self.number}: {event} {details[:1]}")


if __name__ == "__main__":
    fate = Fate(sys.argv[1], int(sys.argv[2]))
    os.register_at_fork(after_in_child=fate.arm)
    sys.addaudithook(fate.see)
    sys.exit(main(["--state", sys.argv[3], "supervise", "--nodes", "1"]))
