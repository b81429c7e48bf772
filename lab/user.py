"""Do what a user does: apply manifests, look at objects. With kubectl where there is one, else by sending the same files to the API.

Used by the demo, the scenarios and the end-to-end tests, so that what they show is what a user would see.
"""

from __future__ import annotations

import base64
import os
import shutil
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from config import yaml_text
from lab.images import CLONE
from lab.paths import LabError
from lab.processes import BASE_PATH

MANIFESTS: Final = (CLONE / "manifests" / "crds", CLONE / "manifests" / "base")
INGRESS_MANIFESTS: Final = CLONE / "manifests" / "ingress-nginx"
TUTORIAL: Final = CLONE / "docs" / "tutorial"
COMMAND_LIMIT_S: Final = 60.0
NOT_THERE: Final = 404
ALREADY_THERE: Final = 409

_CLUSTER_SCOPED: Final = {
    "Namespace",
    "Node",
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "IngressClass",
    "ValidatingWebhookConfiguration",
}
_PLURAL_ES: Final = ("s", "x", "ch")


class CommandError(LabError):
    """kubectl or the API refused; the message is theirs. `status` is that of the API's answer, 0 if there was none."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class User:
    """Somebody with a kubeconfig. `kubectl` is the path of the program, or None where the API is used directly."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        self.kubectl = shutil.which("kubectl", path=f"{os.environ.get('PATH', '')}:{BASE_PATH}")

    def run(self, *words: str) -> str:
        """What kubectl prints.

        Raises:
            CommandError: it ended with an error, or there is no kubectl.

        """
        if self.kubectl is None:
            raise CommandError("there is no kubectl on this machine")
        # A cache in the home directory would be a file outside the clone.
        command = [
            self.kubectl,
            f"--kubeconfig={self.kubeconfig}",
            f"--cache-dir={self.kubeconfig.parent}/kubectl-cache",
            *words,
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=COMMAND_LIMIT_S)
        except subprocess.TimeoutExpired:
            raise CommandError(f"kubectl {' '.join(words)} did not end within {COMMAND_LIMIT_S:g} s") from None
        if done.returncode:
            raise CommandError(f"kubectl {' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def apply(self, *paths: Path, namespace: str = "") -> list[str]:
        """Apply files or directories of manifests; returns a line for every object."""
        words = [f"--filename={path}" for path in paths]
        if self.kubectl is not None:
            return self.run("apply", *words, *([f"--namespace={namespace}"] if namespace else [])).splitlines()
        return self.apply_documents(documents(paths), namespace=namespace)

    def delete(self, kind: str, name: str, *, namespace: str) -> None:
        """Delete an object; one that is not there is not missed."""
        try:
            self._call("DELETE", _path({"apiVersion": _API_VERSION.get(kind, "v1"), "kind": kind}, namespace, name))
        except CommandError as error:
            if error.status != NOT_THERE:
                raise

    def apply_documents(self, wanted: Iterable[Mapping[str, Any]], *, namespace: str = "") -> list[str]:
        """Send documents to the API: objects that are there already are changed to agree, member by member."""
        lines = []
        for document in wanted:
            meta = document["metadata"]
            inside = meta.get("namespace") or namespace or "default"
            body = msgspec.json.encode(document)
            done = "created"
            try:
                self._call("POST", _path(document, inside, "").rstrip("/"), body)
            except CommandError as error:
                if error.status != ALREADY_THERE:
                    raise
                self._call("PATCH", _path(document, inside, meta["name"]), body, "application/merge-patch+json")
                done = "configured"
            lines.append(f"{document['kind'].lower()}/{meta['name']} {done}")
        return lines

    def get(self, kind: str, name: str, *, namespace: str = "") -> dict[str, Any]:
        """An object.

        Raises:
            CommandError: there is none, or the API did not answer.

        """
        answer = self._call("GET", _path({"apiVersion": _API_VERSION.get(kind, "v1"), "kind": kind}, namespace, name))
        found: dict[str, Any] = msgspec.json.decode(answer)
        return found

    def list(self, kind: str, *, namespace: str = "", query: str = "") -> Sequence[dict[str, Any]]:
        """All objects of a kind in a namespace."""
        where = _path({"apiVersion": _API_VERSION.get(kind, "v1"), "kind": kind}, namespace, "").rstrip("/")
        items: list[dict[str, Any]] = msgspec.json.decode(self._call("GET", f"{where}{query and '?' + query}"))["items"]
        return items

    def _call(self, method: str, path: str, body: bytes | None = None, content_type: str = "application/json") -> bytes:
        """One request with the kubeconfig's credentials."""
        config = yaml.safe_load(self.kubeconfig.read_text(encoding="utf-8"))
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        ca = (
            base64.b64decode(cluster["certificate-authority-data"]).decode()
            if "certificate-authority-data" in cluster
            else None
        )
        context = ssl.create_default_context(cafile=cluster.get("certificate-authority"), cadata=ca)
        request = urllib.request.Request(cluster["server"] + path, data=body, method=method)  # noqa: S310
        request.add_header("Content-Type", content_type)
        request.add_header("Authorization", f"Bearer {user['token']}")
        try:
            with urllib.request.urlopen(request, timeout=COMMAND_LIMIT_S, context=context) as answer:  # noqa: S310
                content: bytes = answer.read()
                return content
        except urllib.error.HTTPError as error:
            raise CommandError(f"{method} {path}: {error.code} {_message(error.read())}", error.code) from None
        except OSError as error:
            raise CommandError(f"{method} {path}: {error}") from None


_API_VERSION: Final = {
    "Deployment": "apps/v1",
    "DaemonSet": "apps/v1",
    "Ingress": "networking.k8s.io/v1",
    "EndpointSlice": "discovery.k8s.io/v1",
    "IPAddressPool": "metallb.io/v1beta1",
    "L2Advertisement": "metallb.io/v1beta1",
    "ServiceL2Status": "metallb.io/v1beta1",
}


def _message(body: bytes) -> str:
    try:
        return str(msgspec.json.decode(body).get("message", ""))
    except (msgspec.DecodeError, AttributeError):
        return body.decode(errors="replace")


def _path(document: Mapping[str, Any], namespace: str, name: str) -> str:
    """The URL path of an object."""
    version, kind = document["apiVersion"], document["kind"]
    singular = kind.lower()
    plural = singular[:-1] + "ies" if singular.endswith("cy") else singular + ("es" if singular.endswith(_PLURAL_ES) else "s")
    base = f"/apis/{version}" if "/" in version else f"/api/{version}"
    inside = "" if kind in _CLUSTER_SCOPED or not namespace else f"/namespaces/{namespace}"
    return f"{base}{inside}/{plural}/{name}"


def documents(paths: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """The documents in files and directories, in the order kubectl takes them."""
    for path in paths:
        files = sorted(each for each in path.iterdir() if each.suffix in {".yaml", ".yml"}) if path.is_dir() else [path]
        for file in files:
            yield from (each for each in yaml_text.load_all(file.read_text(encoding="utf-8")) if each)
