"""Create what a new cluster holds before anybody wrote to it: the objects of bootstrap.yaml.

server.py calls this once per start; what is there already stays as it is.
"""

from __future__ import annotations

from pathlib import Path

from lab.apiserver import codec, typed
from lab.apiserver.api import Api, Call


def populate(api: Api) -> None:
    """Create what is missing."""
    for text in Path(__file__).with_name("bootstrap.yaml").read_bytes().split(b"\n---\n"):
        document = codec.parse_yaml(text)
        group, _, version = document["apiVersion"].rpartition("/")
        resource = api.registry.by_kind(group, version, document["kind"])
        assert resource is not None
        namespace = document["metadata"].get("namespace", "")
        if api.store.get(resource.storage, (namespace, document["metadata"]["name"])) is None:
            api.create(resource, namespace, typed.decode(document, resource.type_name, []), Call(manager="bootstrap"))
