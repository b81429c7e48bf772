"""Empty a node of load-balancer addresses before somebody works on it, and let it have them again.

Called by `lbctl maintenance start|stop NODE`. It sets the label that every speaker honours, MetalLB's too, and an annotation that
says that it did, so that `stop` takes back nothing that another hand has set. `start` waits until no ServiceL2Status names the
node any more. It evicts no Pod and cordons nothing: that is `kubectl drain`. With the speakers' flag --ignore-exclude-lb it has
no effect, which it notices by waiting in vain.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from config.kinds.service_l2_status import LABEL_NODE
from config.model import EXCLUDE_LABEL
from kube.auth import Credentials, CredentialsError
from kube.client import KubeClient
from kube.errors import KubeError, NotFound
from kube.resources import NODES, SERVICE_L2_STATUSES

MARK: Final = "lb.metallb-py.io/maintenance"
LOOK_EVERY_S: Final = 0.2
DONE, FINDING, COULD_NOT = 0, 1, 2
Labels = Mapping[str, str]


def changes(verb: str, labels: Labels, annotations: Labels) -> Mapping[str, Any] | str:
    """The patch of a Node that a verb asks for, empty if there is nothing to do; or a sentence why it is not done. Pure."""
    set_, ours = EXCLUDE_LABEL in labels, MARK in annotations
    if verb == "start":
        return {} if set_ else {"metadata": {"labels": {EXCLUDE_LABEL: ""}, "annotations": {MARK: "lbctl"}}}
    if set_ and not ours:
        return f"it has the label {EXCLUDE_LABEL}, which lbctl did not set; remove it yourself: kubectl label node NODE {EXCLUDE_LABEL}-"
    return {"metadata": {"labels": {EXCLUDE_LABEL: None}, "annotations": {MARK: None}}} if set_ or ours else {}


def run(argv: Sequence[str]) -> int:
    """Parse the arguments and do it."""
    parser = argparse.ArgumentParser(
        prog="lbctl maintenance",
        description="Move every load-balancer address away from a node, or let it have them again.",
        epilog="example: lbctl maintenance start n1 && kubectl drain n1 --ignore-daemonsets",
        allow_abbrev=False,
    )
    parser.add_argument("verb", choices=("start", "stop"))
    parser.add_argument("node", metavar="NODE")
    parser.add_argument("--kubeconfig", help="default: $KUBECONFIG, then ~/.kube/config")
    parser.add_argument("--namespace", default="metallb-system", help="where the speakers run (default metallb-system)")
    parser.add_argument("--timeout", type=float, default=30.0, metavar="SECONDS", help="how long start waits (default 30)")
    arguments = parser.parse_args(argv)
    try:
        return asyncio.run(_run(arguments))
    except CredentialsError as error:
        print(f"lbctl maintenance: {error}", file=sys.stderr)
    except NotFound:
        print(f"lbctl maintenance: there is no node {arguments.node}", file=sys.stderr)
    except KubeError as error:
        print(f"lbctl maintenance: {error.message}", file=sys.stderr)
    return COULD_NOT


async def _run(arguments: argparse.Namespace) -> int:
    client = await KubeClient.connect(Credentials.from_environment(arguments.kubeconfig), user_agent="lbctl")
    try:
        node = await client.get(NODES, arguments.node)
        patch = changes(arguments.verb, node.metadata.labels or {}, node.metadata.annotations or {})
        if isinstance(patch, str):
            print(f"{arguments.node} is left as it is: {patch.replace('NODE', arguments.node)}")
            return FINDING
        if patch:
            await client.patch(NODES, arguments.node, patch)
        if arguments.verb == "stop":
            print(f"{arguments.node} may have addresses again" if patch else f"{arguments.node} was not in maintenance")
            return DONE
        return await _emptied(client, arguments)
    finally:
        await client.close()


async def _emptied(client: KubeClient, arguments: argparse.Namespace) -> int:
    """Wait until no speaker reports that the node announces anything."""
    left: list[str] = []
    try:
        async with asyncio.timeout(arguments.timeout):
            while left := await _announced_by(client, arguments.node, arguments.namespace):  # noqa: ASYNC110 - the API is asked
                await asyncio.sleep(LOOK_EVERY_S)
    except TimeoutError:
        print(f"{arguments.node} still announces {len(left)} Services after {arguments.timeout:g} s: {', '.join(left[:5])}")
        print("do its speakers run, and without --ignore-exclude-lb?")
        return FINDING
    print(f"{arguments.node} announces nothing")
    return DONE


async def _announced_by(client: KubeClient, node: str, namespace: str) -> list[str]:
    found, _ = await client.list(SERVICE_L2_STATUSES, namespace=namespace, label_selector=f"{LABEL_NODE}={node}")
    return sorted(_service(one.document) for one in found)


def _service(document: Mapping[str, Any]) -> str:
    status = document.get("status", {})
    return f"{status.get('serviceNamespace', '?')}/{status.get('serviceName', '?')}"
