"""The Secret with the key of the speakers' gossip, made once if it does not exist.

Run by controller.run beside everything else when --ml-secret-name is given: speakers' Pods wait for the Secret. An
existing Secret is never changed. The key is not logged.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
from typing import Any, Final

from kube.client import KubeClient
from kube.errors import AlreadyExists, KubeError, NotFound, Unreachable
from kube.resources import DEPLOYMENTS, SECRETS
from telemetry.log import Logger

KEY_NAME: Final = "secretkey"
KEY_BYTES: Final = 16
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 30.0


async def ensure(client: KubeClient, *, namespace: str, name: str, deployment: str, log: Logger) -> None:
    """Return once the Secret exists; failures are logged and tried again."""
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            if await _exists(client, namespace, name):
                return
            owners = await _owners(client, namespace, deployment, log)
            await client.create(SECRETS, body(namespace, name, new_key(), owners), namespace=namespace)
        except AlreadyExists:
            return
        except KubeError as error:
            log.warning(
                "memberlist_secret_not_created", object=f"Secret {namespace}/{name}", error=error.message, retry_in_s=pause_s
            )
            if isinstance(error, Unreachable):
                await client.pause(pause_s)
            else:
                await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
        else:
            log.info("memberlist_secret_created", object=f"Secret {namespace}/{name}")
            return


def new_key() -> str:
    """16 random bytes as unpadded base64 text, which is what the speakers' key rule expects."""
    return base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode("ascii").rstrip("=")


def body(namespace: str, name: str, key: str, owners: list[dict[str, Any]]) -> dict[str, Any]:
    """The Secret object."""
    metadata: dict[str, Any] = {"name": name, "namespace": namespace}
    if owners:
        metadata["ownerReferences"] = owners
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata,
        "type": "Opaque",
        "data": {KEY_NAME: base64.b64encode(key.encode("ascii")).decode("ascii")},
    }


async def _exists(client: KubeClient, namespace: str, name: str) -> bool:
    try:
        await client.get(SECRETS, name, namespace)
    except NotFound:
        return False
    return True


async def _owners(client: KubeClient, namespace: str, deployment: str, log: Logger) -> list[dict[str, Any]]:
    """The owner reference to our Deployment, so that the Secret goes when it goes; none if there is no such Deployment."""
    if not deployment:
        return []
    try:
        owner = await client.get(DEPLOYMENTS, deployment, namespace)
    except NotFound:
        log.warning("deployment_not_found", deployment=f"{namespace}/{deployment}", consequence="the Secret has no owner")
        return []
    return [{"apiVersion": "apps/v1", "kind": "Deployment", "name": deployment, "uid": owner.metadata.uid}]
