"""Say which process stands for a container image, because the lab has no containers to pull.

Pure: from a container and the places it may use to a command line and the files that command reads. lab.kubelet starts
it. An image that is not in the table is refused with the list of those that are, and the Pod stays pending with that message.
Tags are ignored: there is one version of each, the one on this machine.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

CLONE: Final = Path(__file__).resolve().parent.parent
NGINX: Final = "/usr/sbin/nginx"
NGINX_PAGES: Final = "/usr/share/nginx/html"

DEFAULT_CAPABILITIES: Final = (
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
)
"""What container runtimes leave to a container that asks for nothing."""


class ImageError(ValueError):
    """The lab has no such image, or not in that way; the message says what it has."""


@dataclass(frozen=True, slots=True)
class Command:
    """How to run an image. `files` are relative to the container's own directory, which `{here}` in argv stands for."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    directories: Sequence[str] = ()
    needs_api: bool = False
    default_capabilities: Sequence[str] | None = DEFAULT_CAPABILITIES
    as_written: bool = True
    """Runs with the user, the capabilities and the read-only root of its manifest."""
    cwd: Path = Path("/")


def repository(image: str) -> str:
    """An image name without tag, digest and Docker's default registry: docker.io/library/nginx:1.25 is nginx."""
    name = image.split("@", 1)[0]
    name = re.sub(r":[^/]*$", "", name)
    return name.removeprefix("docker.io/").removeprefix("library/")


def command_for(image: str, *, command: Sequence[str], args: Sequence[str], here: Path) -> Command:
    """The process that stands for an image.

    Args:
        image: as in the Pod.
        command: replaces the image's own entry point when not empty.
        args: its arguments.
        here: a directory that belongs to this container.

    Raises:
        ImageError: the lab does not offer that.

    """
    make = _IMAGES.get(repository(image))
    if make is None:
        raise ImageError(f"the lab has no image {image!r}; it has {', '.join(sorted(_IMAGES))}")
    return make(command, args, here)


def _python(module: str) -> Callable[[Sequence[str], Sequence[str], Path], Command]:
    """A program of this checkout, started with `python -m`."""

    def make(command: Sequence[str], args: Sequence[str], _here: Path) -> Command:
        if command and Path(command[0]).name not in {"python", "python3"}:
            raise ImageError(f"the lab starts {module} as python -m {module}; command: {list(command)} is not offered")
        argv = (sys.executable, *(command[1:] or ("-m", module)), *args)
        return Command(argv, env={"PYTHONUNBUFFERED": "1"}, needs_api=True, cwd=CLONE)

    return make


def _agnhost(command: Sequence[str], args: Sequence[str], _here: Path) -> Command:
    """The lab's own stand-in for the Kubernetes project's test image."""
    words = [*command[1:], *args]
    return Command((sys.executable, "-m", "lab.agnhost", *words), env={"PYTHONUNBUFFERED": "1"}, cwd=CLONE)


def _ingress(command: Sequence[str], args: Sequence[str], here: Path) -> Command:
    """The lab's own stand-in for ingress-nginx, with the flags of the real one."""
    words = [*command, *args]
    if words and not words[0].startswith("-"):
        words = words[1:]
    return Command(
        (sys.executable, "-m", "lab.ingress", f"--lab-directory={here}", *words),
        env={"PYTHONUNBUFFERED": "1"},
        needs_api=True,
        # The real one is user 101, with a capability that its image gives to the file nginx; files here are the machine's.
        as_written=False,
        cwd=CLONE,
    )


def _nginx(listen: int, location: str) -> Callable[[Sequence[str], Sequence[str], Path], Command]:
    """This machine's nginx with a configuration of its own."""

    def make(command: Sequence[str], args: Sequence[str], here: Path) -> Command:
        if command or args:
            raise ImageError(f"the lab's nginx takes no command or args, not {[*command, *args]}")
        return Command(
            (NGINX, "-p", str(here), "-e", "stderr", "-c", str(here / "nginx.conf")),
            files={
                "nginx.conf": nginx_configuration(
                    here, f"access_log /dev/stdout; server {{ listen {listen}; listen [::]:{listen}; {location} }}"
                )
            },
            directories=("temporary",),
        )

    return make


def nginx_configuration(here: Path, http: str, *, stream: str = "", before: str = "") -> str:
    """A whole nginx.conf that writes nowhere but below `here` and to its standard error.

    `http` and `stream` go into those blocks, `before` goes before them.
    """
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = " ".join(f'{kind}_temp_path "{here}/temporary/{kind}";' for kind in kinds)
    streams = f"stream {{\n    {stream}\n}}" if stream else ""
    return f"""
{before}
daemon off;
user root;
worker_processes 1;
worker_shutdown_timeout 240s;
pid "{here}/nginx.pid";
lock_file "{here}/nginx.lock";
error_log stderr notice;
events {{ worker_connections 1024; }}
http {{
    include /etc/nginx/mime.types;
    {temporary}
    {http}
}}
{streams}
"""


_IMAGES: Final[Mapping[str, Callable[[Sequence[str], Sequence[str], Path], Command]]] = {
    "nginx": _nginx(80, f"root {NGINX_PAGES}; index index.html;"),
    "quay.io/metallb-py/controller": _python("controller"),
    "quay.io/metallb-py/speaker": _python("speaker"),
    "registry.k8s.io/e2e-test-images/agnhost": _agnhost,
    "registry.k8s.io/ingress-nginx/controller": _ingress,
    "registry.k8s.io/defaultbackend-amd64": _nginx(
        8080,
        "default_type text/plain; location = /healthz { return 200 ok; } location / { return 404 'default backend - 404'; }",
    ),
}


def capabilities(command: Command, *, add: Sequence[str], drop: Sequence[str]) -> tuple[str, ...] | None:
    """The capabilities a container keeps: the runtime's default, less what it drops, plus what it adds. None: all."""
    if not command.as_written:
        return None
    names = {name.removeprefix("CAP_") for name in add}
    dropped = {name.removeprefix("CAP_") for name in drop}
    if "ALL" in names:
        return None
    kept = [] if "ALL" in dropped else [name for name in command.default_capabilities or () if name not in dropped]
    return tuple(dict.fromkeys((*kept, *sorted(names))))
