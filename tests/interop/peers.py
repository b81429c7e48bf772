"""FRR and BIRD as neighbours: three network namespaces with cables, and the daemons in two of them.

Used by the tests of BFD and BGP. Everything carries a prefix of its own and is taken away again.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

FRR = Path("/usr/lib/frr")
PREFIX = f"peers{os.getpid()}"
US, FRR_NS, BIRD_NS = f"{PREFIX}us", f"{PREFIX}frr", f"{PREFIX}bird"
DEADLINE_S = 30.0


def run(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


@contextmanager
def wired() -> Iterator[None]:
    """Three namespaces; cables from ours to the others', dual stack."""
    made: list[str] = []
    try:
        for name in (US, FRR_NS, BIRD_NS):
            run("ip", "netns", "add", name)
            made.append(name)
            run("ip", "-n", name, "link", "set", "lo", "up")
            run("ip", "netns", "exec", name, "sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0")
        for port, there, four, six in (
            ("frr", FRR_NS, "192.0.2", "2001:db8:1:"),
            ("bird", BIRD_NS, "198.51.100", "2001:db8:2:"),
        ):
            run("ip", "link", "add", port, "netns", US, "type", "veth", "peer", "name", "port", "netns", there)
            for name, device, host in ((US, port, 10), (there, "port", 1)):
                run("ip", "-n", name, "addr", "add", f"{four}.{host}/24", "dev", device)
                run("ip", "-n", name, "addr", "add", f"{six}:{host}/64", "dev", device, "nodad")
                run("ip", "-n", name, "link", "set", device, "up")
        yield
    finally:
        for name in made:
            run("ip", "netns", "del", name)


class Daemons:
    """Daemons of FRR, and BIRD, each kind in its namespace; by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start_zebra(self) -> None:
        """Prepare the folder for FRR's user, and start what its other daemons need."""
        shutil.chown(self.folder, "frr", "frrvty")
        self.folder.chmod(0o711)
        for parent in self.folder.parents[:2]:
            parent.chmod(0o755)
        self.start_frr("zebra", "")
        wait((self.folder / "zserv").exists, "zebra listens")

    def start_bird(self, config: str) -> None:
        (self.folder / "bird.conf").write_text(config)
        (self.folder / "bird.ctl").unlink(missing_ok=True)
        socket = str(self.folder / "bird.ctl")
        self.spawn("bird", BIRD_NS, "bird", "-f", "-c", str(self.folder / "bird.conf"), "-s", socket, "-P", f"{socket}.pid")
        wait((self.folder / "bird.ctl").exists, "bird listens")

    def start_frr(self, name: str, config: str, *more: str) -> None:
        path = self.folder / f"{name}.conf"
        path.write_text(config)
        files = ("--vty_socket", str(self.folder), "-i", str(self.folder / f"{name}.pid"), "-z", str(self.folder / "zserv"))
        self.spawn(name, FRR_NS, str(FRR / name), "-u", "frr", "-g", "frr", *files, "-f", str(path), *more)

    def spawn(self, name: str, namespace: str, *words: str) -> None:
        log = (self.folder / f"{name}.log").open("wb")
        with log:
            self.running[name] = subprocess.Popen(["ip", "netns", "exec", namespace, *words], stdout=log, stderr=log)

    def frr(self, command: str) -> str:
        return run("vtysh", "--vty_socket", str(self.folder), "-c", command)

    def stop(self) -> None:
        for name in [*(one for one in self.running if one != "zebra"), "zebra"]:
            process = self.running.pop(name, None)
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait(10)


def wait(holds: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
