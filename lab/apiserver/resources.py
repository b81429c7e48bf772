"""The registry: every resource the server serves, as one row of facts, and the custom ones that CRDs add.

A row answers what the generic code in api.py asks: names, scope, subresources, which fields select, whose metadata a status
write takes. A new built-in kind is a new row (and, if it has rules of its own, an entry in kinds.py), never a new function.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.apiserver.errors import qualified

if TYPE_CHECKING:
    from lab.apiserver.crds import Definition

Json = dict[str, Any]
ALL_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource in one version."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    type_name: str = ""  # The row of builtin_types.json; empty for custom resources.
    singular: str = ""
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ALL_VERBS
    status: bool = False
    scale: bool = False
    subresources: tuple[str, ...] = ()  # Further ones: finalize, token, eviction, binding.
    fields: tuple[str, ...] = ()  # Field selectors besides metadata.name and metadata.namespace.
    custom_fields: bool = False  # Says "field label not supported" for others.
    name_rule: str = "subdomain"
    generation: bool = False  # Counts changes outside metadata and status.
    needs_rv: bool = False  # PUT without resourceVersion is refused.
    creates_on_put: bool = False
    returns_deleted: bool = False  # DELETE answers the object.
    status_metadata: str = "new"  # Whose labels and annotations a status write takes: the body's, or the stored ones ("old").
    keeps_status: bool = False  # Status in a create is stored.
    graceful: bool = False
    store_as: str = ""  # The store's name when it is not the resource's own (events.k8s.io).
    list_kind: str = ""
    custom: Definition | None = None

    @property
    def api_version(self) -> str:
        """The apiVersion of its objects."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """Plural with group, as messages and the store name it."""
        return qualified(self.plural, self.group)

    @property
    def storage(self) -> str:
        """The name of its shelf in the store."""
        return self.store_as or self.qualified

    @property
    def prefix(self) -> bytes:
        """How every stored body begins."""
        return f'{{"kind":"{self.kind}","apiVersion":"{self.api_version}",'.encode()

    @property
    def list_name(self) -> str:
        """The kind of a list of them."""
        return self.list_kind or self.kind + "List"


def _builtin() -> Iterator[Resource]:
    """The rows of resources.json: group, kind, plural, and whatever is not as most have it."""
    for row in json.loads(Path(__file__).with_name("resources.json").read_text(encoding="utf-8")):
        facts = {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
        yield Resource(version="v1", **{"type_name": row["kind"], "singular": row["kind"].lower(), **facts})


BUILTIN: tuple[Resource, ...] = tuple(_builtin())

# The order in which groups are listed; custom groups follow.
GROUP_ORDER = (
    "apps", "events.k8s.io", "authentication.k8s.io", "authorization.k8s.io", "networking.k8s.io", "rbac.authorization.k8s.io",
    "admissionregistration.k8s.io", "apiextensions.k8s.io", "coordination.k8s.io", "discovery.k8s.io",
)  # fmt: skip


def dig(document: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path, or None."""
    value: Any = document
    for part in path.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(part)
    return value


_SELECTS_AS = {"regarding": "involvedObject", "reportingController": "reportingComponent"}


def selecting_fields(resource: Resource, document: Json) -> dict[str, str]:
    """The fields of a stored document that selectors may ask for (metadata.name and .namespace are in its key)."""
    out = {}
    for name in resource.fields:
        value = dig(document, "source.component" if name == "source" else name)
        out[name] = str(value).lower() if isinstance(value, bool) else "" if value is None else str(value)
    if "spec.unschedulable" in out and not out["spec.unschedulable"]:
        out["spec.unschedulable"] = "false"
    return out


def stored_field(name: str) -> str:
    """The name under which the store keeps a selecting field of a second view of the same objects."""
    head, _, rest = name.partition(".")
    return _SELECTS_AS.get(head, head) + (f".{rest}" if rest else "")


@dataclass(slots=True)
class Registry:
    """All resources by (group, version, plural); custom ones come and go with their definitions."""

    served: dict[tuple[str, str, str], Resource] = field(
        default_factory=lambda: {(r.group, r.version, r.plural): r for r in BUILTIN}
    )
    definitions: dict[str, Definition] = field(default_factory=dict)
    version: int = 0  # Changes with every change of the custom part, for caches of discovery and OpenAPI.
    _stored_as: dict[str, Resource] = field(default_factory=dict)  # Derived; empty when it has to be made anew.

    def find(self, group: str, version: str, plural: str) -> Resource | None:
        """The resource, or None."""
        return self.served.get((group, version, plural))

    def by_storage(self, storage: str) -> Resource | None:
        """The resource in whose form a shelf of the store keeps its objects."""
        if not self._stored_as:
            self._stored_as = {
                r.storage: r
                for r in self.served.values()
                if not r.store_as and (r.custom is None or r.custom.storage == r.version)
            }
        return self._stored_as.get(storage)

    def by_kind(self, group: str, version: str, kind: str) -> Resource | None:
        """The resource of a kind."""
        for resource in self.served.values():
            if (resource.group, resource.version, resource.kind) == (group, version, kind):
                return resource
        return None

    def all(self) -> Iterator[Resource]:
        """Every resource."""
        yield from self.served.values()

    def groups(self) -> list[str]:
        """Named groups in listing order."""
        named = {r.group for r in self.served.values() if r.group}
        return [g for g in GROUP_ORDER if g in named] + sorted(named - set(GROUP_ORDER))

    def versions(self, group: str) -> list[str]:
        """Versions of a group, the preferred one first."""
        return sorted({r.version for r in self.served.values() if r.group == group}, key=version_rank)

    def install(self, name: str, definition: Definition | None, resources: tuple[Resource, ...]) -> None:
        """Replace what a CustomResourceDefinition adds; None takes it away."""
        self.served = {k: r for k, r in self.served.items() if r.custom is None or r.custom.name != name}
        self.definitions.pop(name, None)
        if definition is not None:
            self.definitions[name] = definition
            self.served.update({(r.group, r.version, r.plural): r for r in resources})
        self.version += 1
        self._stored_as = {}


def version_rank(version: str) -> tuple[int, int, int, str]:
    """Sort key by Kubernetes version priority: v2, v1, v2beta1, v1beta2, v1alpha1, then others by name."""
    found = re.fullmatch(r"v(\d+)(?:(alpha|beta)(\d+))?", version)
    if not found:
        return (3, 0, 0, version)
    level = {None: 0, "beta": 1, "alpha": 2}[found[2]]
    return (level, -int(found[1]), -int(found[3] or 0), "")
