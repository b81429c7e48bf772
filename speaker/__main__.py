"""`python -m speaker`: read the settings, then run until told to stop.

Exit status 0 after SIGTERM or SIGINT, 1 if a setting or the credentials cannot be used; then stderr says which and what to do.
"""

from __future__ import annotations

import os
import sys

from kube.auth import Credentials, CredentialsError
from speaker import settings as speaker_settings
from speaker.run import run
from telemetry import tasks
from telemetry.flags import FlagError, HelpAsked, refuse, usage
from telemetry.log import configure, get_logger

PROGRAM = "speaker"


def main() -> int:
    """Be a speaker; the exit status."""
    try:
        settings = speaker_settings.read(sys.argv[1:], os.environ)
        credentials = Credentials.from_environment()
    except HelpAsked:
        sys.stdout.write(usage(PROGRAM, speaker_settings.FLAGS))
        return 0
    except FlagError as error:
        refuse(PROGRAM, error)
    except CredentialsError as error:
        refuse(PROGRAM, FlagError(str(error)))
    namespace = settings.namespace or credentials.namespace()
    if not namespace:
        refuse(PROGRAM, FlagError("the speaker's namespace is not known: give --namespace or METALLB_NAMESPACE"))
    configure(settings.log_level, component=PROGRAM)
    log = get_logger(PROGRAM)
    log.info("speaker_started", node=settings.node_name, namespace=namespace, server=credentials.access.server)
    for flag in settings.not_in_effect:
        log.warning("option_not_in_effect", option=flag.key, reason=flag.not_yet)
    tasks.run(run(settings, credentials, namespace))
    log.info("speaker_stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
