"""Say in one sentence why a Service has its address (or none) and who announces it (or nobody).

Called by `lbctl explain svc/NAME`. It asks the running controller and speakers for the plan they last made and puts their own
reasons into a sentence; it decides nothing itself, so it cannot disagree with them. A process that does not answer is named.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from telemetry.unix import short_path

RUN_DIRECTORY = Path("/run/metallb")
TIMEOUT_S = 3.0
FOUND, FINDING, COULD_NOT_LOOK = 0, 1, 2
Status = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Explanation:
    """What the processes say of one Service. `sentence` is for people; the rest is the same as data."""

    service: str
    addresses: tuple[str, ...]
    pool: str | None
    announced_by: str | None
    reason: str
    detail: str
    sentence: str


class StatusConnection(http.client.HTTPConnection):
    """HTTP over the Unix socket of a daemon."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        """Open the socket.

        Raises:
            OSError: nobody listens there, or we may not.

        """
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        with short_path(self._path) as short:
            self.sock.connect(short)


def read_status(path: Path) -> Status:
    """The /status document of the daemon behind a socket.

    Raises:
        OSError: it does not answer.
        ValueError: what it answers is not JSON.

    """
    connection = StatusConnection(path)
    try:
        connection.request("GET", "/status")
        body = connection.getresponse().read()
    finally:
        connection.close()
    document: Status = json.loads(body)
    return document


def sockets(environment: Mapping[str, str], lab: Path) -> list[Path]:
    """Where the daemons of this machine listen: the variable, else the lab of this clone, else the usual directory."""
    if named := environment.get("METALLB_STATUS_SOCKET"):
        return [Path(one) for one in named.split(":")]
    if found := sorted(lab.rglob("*.sock")) if lab.is_dir() else []:
        return [path for path in found if path.name in {"controller.sock", "speaker.sock"}]
    return sorted(RUN_DIRECTORY.glob("*.sock"))


def explain(service: str, statuses: Iterable[Status]) -> Explanation | None:
    """Combine what controller and speakers say of a Service; None if no process knows it. Pure."""
    controller: Mapping[str, Any] | None = None
    speakers: dict[str, Mapping[str, Any]] = {}
    for status in statuses:
        said = status.get("plan", {}).get("services", {}).get(service)
        if said is None:
            continue
        if status.get("component") == "controller":
            controller = said
        else:
            speakers[status.get("node", "?")] = said
    if controller is None and not speakers:
        return None

    addresses = tuple((controller or next(iter(speakers.values())))["addresses"])
    pool = controller.get("pool") if controller else None
    if controller and not addresses:
        return Explanation(
            service=service,
            addresses=(),
            pool=None,
            announced_by=None,
            reason=controller["reason"],
            detail=controller["detail"],
            sentence=f"{service} has no address: {controller['detail']}.",
        )

    held = f"{service} has {' and '.join(addresses) or 'no address'}" + (f" from pool {pool}" if pool else "")
    owners = sorted(node for node, said in speakers.items() if said["announcing"])
    if owners:
        said = speakers[owners[0]]
        who = " and ".join(owners)
        announced = f"announced by {who}" if len(owners) == 1 else f"announced by {who} (they disagree: gossip has not settled)"
    elif speakers:
        said = next((one for node, one in sorted(speakers.items()) if node == one.get("winner")), speakers[min(speakers)])
        announced = "announced by nobody"
    else:
        said = {"reason": "NO_SPEAKER", "detail": "no speaker answered here"}
        announced = "announced by nobody that answers here"
    return Explanation(
        service=service,
        addresses=addresses,
        pool=pool,
        announced_by=owners[0] if owners else None,
        reason=said["reason"],
        detail=said["detail"],
        sentence=f"{held}, {announced}: {said['detail']}.",
    )


def service_key(name: str, namespace: str) -> str:
    """namespace/name from what users type: svc/web, service/web, web, or team-a/web."""
    kind, _, rest = name.partition("/")
    if not rest:
        return f"{namespace}/{name}"
    return f"{namespace}/{rest}" if kind in {"svc", "service", "services"} else name


def run(argv: Sequence[str]) -> int:
    """The command; returns the exit status: 0 announced, 1 a finding (no address, or nobody announces), 2 could not look."""
    parser = argparse.ArgumentParser(
        prog="lbctl explain",
        description="Why a Service has its address (or none), and who announces it (or nobody).",
        epilog="example: lbctl explain svc/nginx-service -n metallb-system",
    )
    parser.add_argument("service", metavar="svc/NAME")
    parser.add_argument("-n", "--namespace", default="default")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")
    parser.add_argument("--socket", action="append", type=Path, default=[], help="status socket of a daemon, repeatable")
    options = parser.parse_args(argv)

    paths = options.socket or sockets(os.environ, Path(os.environ.get("METALLB_LAB", ".lab")))
    if not paths:
        print(
            f"lbctl: no status socket in {RUN_DIRECTORY}; run this where a controller or speaker runs, or name one with --socket"
        )
        return COULD_NOT_LOOK
    statuses, silent = [], []
    for path in paths:
        try:
            statuses.append(read_status(path))
        except (OSError, ValueError) as error:
            silent.append(f"{path} ({error})")
    if not statuses:
        print("lbctl: no process answered: " + ", ".join(silent))
        return COULD_NOT_LOOK

    key = service_key(options.service, options.namespace)
    explanation = explain(key, statuses)
    if explanation is None:
        print(f"lbctl: no running process knows a Service {key} of type LoadBalancer; is the namespace right (-n)?")
        return FINDING
    if options.output == "json":
        print(json.dumps(asdict(explanation)))
    else:
        print(explanation.sentence)
        if silent:
            print("not answering: " + ", ".join(silent))
    return FOUND if explanation.announced_by else FINDING
