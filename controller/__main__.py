"""python -m controller: flags → Settings → run. Exit 0 after SIGTERM, 1 when it cannot start."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace

from controller.run import run
from controller.settings import PROGRAM, settings
from kube.auth import Credentials, CredentialsError
from telemetry import log, tasks
from telemetry.flags import FlagError, refuse
from telemetry.tls import TlsError


def main(arguments: Sequence[str]) -> int:
    """Run the controller; the exit status."""
    chosen = settings(arguments, os.environ)
    log.configure(chosen.log_level, component=PROGRAM)
    try:
        credentials = Credentials.from_environment()
        namespace = chosen.namespace or credentials.namespace()
        if not namespace:
            refuse(PROGRAM, FlagError("--namespace (or METALLB_NAMESPACE) is not set, and no service account tells it"))
        tasks.run(run(replace(chosen, namespace=namespace), credentials))
    except (CredentialsError, TlsError, OSError) as error:
        log.get_logger(PROGRAM).error("controller_cannot_start", error=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
