"""Work out what a Pod's containers run with: environment, arguments, volumes, probe targets. Pure; lab.kubelet does it."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from lab.kinds import Container, EnvVar, KeyToPath, Pod, Probe, SecurityContext

CONTENTS = Mapping[str, bytes]
"""The keys of a Secret or ConfigMap."""


class PodError(ValueError):
    """The Pod cannot run as it is written; the message names the member and the remedy."""


class Missing(Exception):  # noqa: N818 - Not a failure: the Pod waits for the object.
    """A Secret, a ConfigMap or a key of one is not there yet; the Pod waits for it. The text is for its status."""


@dataclass(frozen=True, slots=True)
class Source:
    """A Secret or ConfigMap that a Pod needs. `optional` ones are waited for by nobody."""

    kind: str
    name: str
    optional: bool


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a process is: a user id, its group, and supplementary groups behind it."""

    user: int
    groups: tuple[int, ...]


Lookup = Callable[[str, str], CONTENTS | None]
"""Kind and name of a Secret or ConfigMap in the Pod's namespace → its contents; None if there is none."""

_REFERENCE: Final = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)|\$\$")


def sources(pod: Pod) -> tuple[Source, ...]:
    """The Secrets and ConfigMaps that the Pod reads, in the order they are written."""
    found: dict[tuple[str, str], Source] = {}

    def note(kind: str, name: str, *, optional: bool) -> None:
        before = found.get((kind, name))
        found[kind, name] = Source(kind, name, optional if before is None else optional and before.optional)

    for volume in pod.spec.volumes or ():
        if volume.secret is not None:
            note("secret", volume.secret.secret_name, optional=volume.secret.optional)
        if volume.config_map is not None:
            note("configmap", volume.config_map.name, optional=volume.config_map.optional)
    for container in pod.spec.containers:
        for variable in container.env or ():
            source = variable.value_from
            if source is not None and source.secret_key_ref is not None:
                note("secret", source.secret_key_ref.name, optional=source.secret_key_ref.optional)
            if source is not None and source.config_map_key_ref is not None:
                note("configmap", source.config_map_key_ref.name, optional=source.config_map_key_ref.optional)
    return tuple(found.values())


def contents_of(data: Mapping[str, str] | None, *, encoded: bool) -> CONTENTS:
    """The contents of a ConfigMap (text) or Secret (`encoded`: base64).

    Raises:
        PodError: the text is no base64; the API server does not let that happen.

    """
    try:
        return {key: base64.b64decode(text) if encoded else text.encode() for key, text in (data or {}).items()}
    except binascii.Error as error:
        raise PodError(f"a Secret's data is not base64: {error}") from error


def check(pod: Pod) -> None:
    """Refuse what the lab does not offer, rather than run a Pod in another way than it is written.

    Raises:
        PodError: what, and where.

    """
    if pod.spec.init_containers:
        raise PodError("spec.initContainers: the lab runs none")
    names = set()
    for volume in pod.spec.volumes or ():
        names.add(volume.name)
        if volume.secret is None and volume.config_map is None and volume.empty_dir is None:
            raise PodError(f"spec.volumes {volume.name!r}: the lab offers secret, configMap and emptyDir")
    for container in pod.spec.containers:
        for mount in container.volume_mounts or ():
            if mount.name not in names:
                raise PodError(f"container {container.name!r} mounts {mount.name!r}, but spec.volumes has no such volume")
        for kind, probe in probes_of(container).items():
            if probe.http_get is None and probe.tcp_socket is None and probe.exec is None:
                raise PodError(f"container {container.name!r}, {kind}: the lab offers httpGet, tcpSocket and exec")
            if probe.exec is None:
                probe_target(container, probe, pod_ip="")  # Refuse a port without a name before anything runs.


def probes_of(container: Container) -> Mapping[str, Probe]:
    """A container's probes by the name of their field."""
    found = {
        "startupProbe": container.startup_probe,
        "livenessProbe": container.liveness_probe,
        "readinessProbe": container.readiness_probe,
    }
    return {kind: probe for kind, probe in found.items() if probe is not None}


def identity(pod: Pod, container: Container) -> Identity:
    """The user and the groups a container runs with; root where nobody says another.

    Raises:
        PodError: it must not be root, and is.

    """
    every, own = pod.spec.security_context, container.security_context or SecurityContext()
    user = own.run_as_user if own.run_as_user is not None else every.run_as_user or 0
    group = own.run_as_group if own.run_as_group is not None else every.run_as_group or 0
    non_root = own.run_as_non_root if own.run_as_non_root is not None else every.run_as_non_root
    if non_root and user == 0:
        raise PodError(f"container {container.name!r} has runAsNonRoot and would run as root; set runAsUser")
    volumes = () if every.fs_group is None else (every.fs_group,)
    return Identity(user, (group, *volumes, *every.supplemental_groups))


def files(contents: CONTENTS, items: Sequence[KeyToPath] | None, *, of: str, optional: bool) -> CONTENTS:
    """The files of a volume: every key, or only `items` under their paths.

    Raises:
        Missing: an item's key is not there.

    """
    if items is None:
        return contents
    chosen = {}
    for item in items:
        if item.key in contents:
            chosen[item.path] = contents[item.key]
        elif not optional:
            raise Missing(f"{of} has no key {item.key!r}")
    return chosen


def fields(pod: Pod, *, pod_ip: str, host_ip: str) -> Mapping[str, str]:
    """What the downward API can say about a Pod."""
    meta = pod.metadata
    return {
        "metadata.name": meta.name,
        "metadata.namespace": meta.namespace,
        "metadata.uid": meta.uid,
        "spec.nodeName": pod.spec.node_name,
        "spec.serviceAccountName": pod.spec.service_account_name or "default",
        "status.hostIP": host_ip,
        "status.podIP": pod_ip,
        **{f"metadata.labels['{key}']": value for key, value in (meta.labels or {}).items()},
        **{f"metadata.annotations['{key}']": value for key, value in (meta.annotations or {}).items()},
    }


def environment(container: Container, downward: Mapping[str, str], lookup: Lookup, base: Mapping[str, str]) -> dict[str, str]:
    """The environment a container is written to have, on top of `base`.

    Raises:
        PodError: a field that the lab does not know.
        Missing: a Secret or ConfigMap key that is not there and not optional.

    """
    env = dict(base)
    for variable in container.env or ():
        value = _value(variable, env, downward, lookup)
        if value is not None:
            env[variable.name] = value
    return env


def _value(variable: EnvVar, env: Mapping[str, str], downward: Mapping[str, str], lookup: Lookup) -> str | None:
    source = variable.value_from
    if source is None:
        return expand(variable.value, env)
    if source.field_ref is not None:
        if source.field_ref.field_path not in downward:
            raise PodError(f"env {variable.name}: the lab does not know the field {source.field_ref.field_path}")
        return downward[source.field_ref.field_path]
    for kind, reference in (("secret", source.secret_key_ref), ("configmap", source.config_map_key_ref)):
        if reference is not None:
            contents = lookup(kind, reference.name) or {}
            if reference.key in contents:
                return contents[reference.key].decode(errors="replace")
            if reference.optional:
                return None
            raise Missing(f"env {variable.name}: {kind} {reference.name!r} has no key {reference.key!r}")
    raise PodError(f"env {variable.name}: valueFrom has fieldRef, secretKeyRef or configMapKeyRef in the lab")


def expand(text: str, env: Mapping[str, str]) -> str:
    """A text with $(NAME) replaced by variables that exist; $$ is a dollar sign; unknown references stay as they are."""

    def replacement(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return env.get(match[1], match[0])

    return _REFERENCE.sub(replacement, text)


def probe_target(container: Container, probe: Probe, *, pod_ip: str) -> tuple[str, int]:
    """The address and port that a probe connects to.

    Raises:
        PodError: the probe names a port that the container does not have.

    """
    action = probe.http_get or probe.tcp_socket
    assert action is not None  # check() refused the others.
    if isinstance(action.port, int):
        return action.host or pod_ip, action.port
    for port in container.ports or ():
        if port.name == action.port:
            return action.host or pod_ip, port.container_port
    raise PodError(f"container {container.name!r}: a probe names port {action.port!r}, but ports has no such name")
