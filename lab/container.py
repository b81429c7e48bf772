"""Run one program the way a container runtime does: own process tree, own view of files, given network, few capabilities.

Started by lab.processes as a program of its own (`python -I -S lab/container.py SPEC`), with nothing but the standard library,
because it must be small and quick. SPEC is a JSON file, see Spec. It refuses to know about Pods: paths and names come in SPEC.

What it makes, in this order:

* It dies with its parent (PR_SET_PDEATHSIG), and everything below dies with it: the program is process 1 of a new process
  namespace, which the kernel ends as a whole. So a `kill -9` of the lab's supervisor leaves no process behind.
* It enters the network namespace, and a new mount namespace where every volume is bound to its mount path. Where the mount
  path does not exist, its nearest existing parent is covered by a tmpfs of links to what was there, so nothing is ever
  written to the host's own directories; the kernel drops all of it with the last process.
* Directories in `hide` are empty, and so is every directory on the way to `keep` that the program's user may not enter (a clone
  in /root): of what is there, only `keep` is seen. So a container does not see the files of others, whoever it runs as.
* With `read_only` nothing can be written but volumes that may be, `scratch` and what the kernel makes (/dev/shm, /proc).
* It drops the capabilities that SPEC does not list from the bounding set, sets no_new_privs and takes its user and groups.

SIGTERM, SIGINT, SIGQUIT and SIGHUP are passed on to the program. The exit status is the program's, 128 + n after signal n,
127 when it could not be started. The program's process id, as the host counts, is written to SPEC's `pid_file`.
"""

import ctypes
import json
import os
import signal
import struct
import sys
from pathlib import Path
from typing import Final, TypedDict

AT_FDCWD: Final = -100
AT_RECURSIVE: Final = 0x8000
SYS_MOUNT_SETATTR: Final = 442
MOUNT_ATTR_RDONLY: Final = 1
CLONE_NEWNS: Final = 0x00020000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000
MS_RDONLY: Final = 1
MS_REMOUNT: Final = 32
MS_BIND: Final = 4096
MS_REC: Final = 16384
MS_SLAVE: Final = 1 << 19
PR_SET_PDEATHSIG: Final = 1
PR_CAPBSET_DROP: Final = 24
PR_SET_NO_NEW_PRIVS: Final = 38

# The position is the number (linux/capability.h).
CAPABILITIES: Final = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
]


class Mount(TypedDict):
    """Show the directory or file `source` at `target`."""

    source: str
    target: str
    read_only: bool


class Spec(TypedDict):
    """What to run and in which surroundings."""

    argv: list[str]
    env: dict[str, str]
    cwd: str
    network: str | None  # Path of a network namespace; None: the host's.
    mounts: list[Mount]
    scratch: str  # An existing directory below which this program may make what it needs.
    capabilities: list[str] | None  # Those to keep, without CAP_; None: all.
    user: int
    groups: list[int]  # The first is the group of the process, the others supplement it.
    hide: list[str]
    keep: list[str]  # Directories that can be seen wherever they are.
    read_only: bool
    pid_file: str


_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(source: str, target: str, kind: str, flags: int) -> None:
    result = _libc.mount(os.fsencode(source), os.fsencode(target), os.fsencode(kind), ctypes.c_ulong(flags), None)
    _check(result, f"mount {source} at {target}")


def _enter_network(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    _check(_libc.setns(descriptor, CLONE_NEWNET), f"enter {path}")
    os.close(descriptor)


def _set_read_only(path: str, *, on: bool, recursive: bool) -> None:
    """Make a mount, or all from there on, read-only or not (mount_setattr, Linux 5.12)."""
    attributes = struct.pack("=QQQQ", MOUNT_ATTR_RDONLY if on else 0, 0 if on else MOUNT_ATTR_RDONLY, 0, 0)
    flags = AT_RECURSIVE if recursive else 0
    result = _libc.syscall(SYS_MOUNT_SETATTR, AT_FDCWD, os.fsencode(path), flags, attributes, ctypes.c_size_t(len(attributes)))
    _check(result, f"mount attributes of {path}")


def _closed(path: Path, spec: Spec) -> Path | None:
    """The first directory on the way to a path that the program may not enter."""
    capabilities = {*CAPABILITIES} if spec["capabilities"] is None else {*spec["capabilities"]}
    if spec["user"] == 0 and capabilities & {"DAC_OVERRIDE", "DAC_READ_SEARCH"}:
        return None
    for directory in reversed(path.parents):
        found = directory.stat()
        own = found.st_uid == spec["user"] and "SETUID" not in capabilities  # Its children may be somebody else.
        if not found.st_mode & (0o100 if own else 0o001):
            return directory
    return None


class _Files:
    """The container's view of the file system while it is being arranged."""

    def __init__(self, spec: Spec) -> None:
        self._originals = Path(spec["scratch"]) / "originals"
        self._covered: set[Path] = set()
        _mount("none", "/", "none", MS_REC | MS_SLAVE)
        self._originals.mkdir(exist_ok=True)
        keep = [Path(path).resolve() for path in (*spec["keep"], spec["scratch"])]
        hide = {Path(path).resolve() for path in spec["hide"]} | {_closed(path, spec) for path in keep}
        # Opened before anything is hidden: what is kept is shown again through these.
        opened = {path: os.open(path, os.O_PATH | os.O_CLOEXEC) for path in keep}
        for directory in sorted(each for each in hide if each is not None and each.exists()):
            _mount("tmpfs", str(directory), "tmpfs", 0)
            directory.chmod(0o755)
            for path in sorted(path for path in keep if path.is_relative_to(directory)):
                path.mkdir(parents=True, exist_ok=True)
                _mount(f"/proc/self/fd/{opened[path]}", str(path), "none", MS_BIND)
        for descriptor in opened.values():
            os.close(descriptor)
        _mount("tmpfs", str(self._originals), "tmpfs", 0)

    def show(self, volume: Mount) -> None:
        """Bind a volume to its mount path."""
        source, target = Path(volume["source"]), Path(os.path.realpath(volume["target"]))
        if not target.exists():
            self._make_room(target.parent)
            if source.is_dir():
                target.mkdir()
            else:
                target.touch()
        _mount(str(source), str(target), "none", MS_BIND)
        if volume["read_only"]:
            _mount("none", str(target), "none", MS_BIND | MS_REMOUNT | MS_RDONLY)

    def _make_room(self, directory: Path) -> None:
        """Make a directory exist and be ours to write to, by covering its nearest existing parent with a tmpfs of links."""
        existing = directory
        while not existing.exists():
            existing = existing.parent
        if existing == Path("/"):
            raise OSError(f"cannot mount in {directory}: the lab mounts only below directories that this machine has")
        if not any(existing.is_relative_to(covered) for covered in self._covered):
            original = self._originals / str(len(self._covered))
            original.mkdir()
            _mount(str(existing), str(original), "none", MS_BIND | MS_REC)
            _mount("tmpfs", str(existing), "tmpfs", 0)
            for entry in original.iterdir():
                (existing / entry.name).symlink_to(entry)
            self._covered.add(existing)
        directory.mkdir(parents=True, exist_ok=True)


def _arrange_files(spec: Spec) -> None:
    """Bind every volume to its place; afterwards /proc and /sys speak of this container."""
    files = _Files(spec)
    for volume in sorted(spec["mounts"], key=lambda volume: volume["target"]):
        files.show(volume)
    if spec["read_only"]:
        _mount(spec["scratch"], spec["scratch"], "none", MS_BIND | MS_REC)
        _set_read_only("/", on=True, recursive=True)
        for path in (spec["scratch"], *(volume["target"] for volume in spec["mounts"] if not volume["read_only"])):
            _set_read_only(path, on=False, recursive=False)
        _mount("tmpfs", "/dev/shm", "tmpfs", 0)  # noqa: S108 - Every container has its own.
    _mount("proc", "/proc", "proc", 0)
    if spec["network"] is not None:
        _mount("sysfs", "/sys", "sysfs", 0)


def _drop_capabilities(keep: list[str]) -> None:
    for number, name in enumerate(CAPABILITIES):
        if name not in keep:
            _libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0)  # Refused for numbers that this kernel does not know.
    _check(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")


def _take_identity(user: int, groups: list[int]) -> None:
    """Give up the user that started this, for good; the capabilities of a user that is not root end with that."""
    os.setgroups(groups[1:])
    os.setresgid(groups[0], groups[0], groups[0])
    os.setresuid(user, user, user)
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # Another user, and the kernel forgets it.


def _become(spec: Spec) -> None:
    """In the child: make the surroundings, then turn into the program. Returns never; raises OSError."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    _arrange_files(spec)
    if spec["capabilities"] is not None:
        _drop_capabilities(spec["capabilities"])
    _take_identity(spec["user"], spec["groups"])
    os.chdir(spec["cwd"])
    os.execvpe(spec["argv"][0], spec["argv"], spec["env"])  # noqa: S606 - Becoming another program is what this is for.


def main(spec_file: str) -> int:
    """Run what a SPEC file says; returns the exit status."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    spec: Spec = json.loads(Path(spec_file).read_text(encoding="utf-8"))
    passed_on = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
    signal.pthread_sigmask(signal.SIG_BLOCK, passed_on)
    try:
        if spec["network"] is not None:
            _enter_network(spec["network"])
        _check(_libc.unshare(CLONE_NEWPID), "unshare")
        child = os.fork()
        if child == 0:
            _check(_libc.unshare(CLONE_NEWNS), "unshare")
            signal.pthread_sigmask(signal.SIG_UNBLOCK, passed_on)
            _become(spec)
    except OSError as error:
        print(f"cannot start {spec['argv'][0]}: {error.strerror or error}", file=sys.stderr, flush=True)
        os._exit(127)
    pid_file = Path(spec["pid_file"])
    unfinished = pid_file.with_suffix(".new")
    unfinished.write_text(str(child), encoding="utf-8")
    unfinished.rename(pid_file)
    for number in passed_on:
        signal.signal(number, lambda received, _: os.kill(child, received))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, passed_on)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
