"""`python -m lab.ingress`: the ingress stand-in as a program, with the flags of ingress-nginx."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from kube.auth import Credentials
from kube.client import KubeClient
from lab.ingress.controller import Controller
from lab.ingress.proxy import Proxy
from telemetry import log as telemetry_log
from telemetry.log import get_logger

log = get_logger(__name__)


def _flags(words: Sequence[str]) -> argparse.Namespace:
    """The flags that the stand-in knows; those it does not know are named in the log and ignored."""
    parser = argparse.ArgumentParser(prog="lab.ingress", allow_abbrev=False)
    parser.add_argument("--lab-directory", required=True, type=Path)
    parser.add_argument("--controller-class", default="k8s.io/ingress-nginx")
    parser.add_argument("--ingress-class", default="nginx")
    for name in ("publish-service", "configmap", "default-backend-service", "default-ssl-certificate"):
        parser.add_argument(f"--{name}", default="")
    for name in ("tcp-services-configmap", "udp-services-configmap"):
        parser.add_argument(f"--{name}", default="")
    flags, others = parser.parse_known_args(words)
    for word in others:
        log.info("flag_not_known_to_the_stand_in", flag=word)
    return flags


async def _main(words: Sequence[str]) -> int:
    """Run until SIGTERM (0), or until nginx ends, which the kubelet mends by starting us again (1)."""
    flags = _flags(words)
    proxy = Proxy(flags.lab_directory)
    client = await KubeClient.connect(Credentials.from_environment())
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    async with asyncio.TaskGroup() as group:
        controlling = group.create_task(Controller(client, proxy, flags).run(), name="controller")
        nginx = group.create_task(proxy.ended(), name="nginx")
        telling = group.create_task(told.wait(), name="SIGTERM")
        await asyncio.wait({nginx, telling}, return_when=asyncio.FIRST_COMPLETED)
        for task in (controlling, nginx, telling):
            task.cancel()
    await proxy.stop()
    await client.close()
    return 0 if told.is_set() else 1


if __name__ == "__main__":
    telemetry_log.configure("info", component="ingress")
    sys.exit(asyncio.run(_main(sys.argv[1:])))
