"""What a Pod's containers run as: lab.images and lab.podspec."""

import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lab import images, podspec
from lab.kinds import Container, Pod, Volume
from lab.podspec import Missing, PodError

HERE = Path("/work/pod/web")


def a_pod(**spec: Any) -> Pod:
    document = {
        "metadata": {"name": "p", "namespace": "x", "uid": "u", "labels": {"app": "web"}},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "nginx"}], **spec},
    }
    return msgspec.convert(document, Pod)


def a_container(**members: Any) -> Container:
    return msgspec.convert({"name": "c", **members}, Container)


def run(image: str, *, command: tuple[str, ...] = (), args: tuple[str, ...] = ()) -> images.Command:
    return images.command_for(image, command=command, args=args, here=HERE)


@pytest.mark.parametrize(
    "image",
    ["nginx", "nginx:latest", "nginx:1.25@sha256:00ff", "docker.io/library/nginx:1", "docker.io/nginx", "library/nginx"],
)
def test_every_spelling_of_nginx_is_debians_nginx_with_its_own_configuration(image: str) -> None:
    command = run(image)
    assert command.argv == (images.NGINX, "-p", str(HERE), "-e", "stderr", "-c", f"{HERE}/nginx.conf")
    assert "listen 80;" in command.files["nginx.conf"]
    assert "/var/" not in command.files["nginx.conf"]


def test_a_registry_with_a_port_is_not_taken_for_a_tag() -> None:
    assert images.repository("localhost:5000/team/app:1") == "localhost:5000/team/app"


def test_our_images_are_this_checkouts_processes() -> None:
    assert run("quay.io/metallb-py/speaker:v9", args=("--port=1",)).argv == (sys.executable, "-m", "speaker", "--port=1")
    controller = run("quay.io/metallb-py/controller", command=("python", "-m", "controller"), args=("-x",))
    assert controller.argv == (sys.executable, "-m", "controller", "-x")
    assert controller.needs_api


def test_the_ingress_image_takes_the_real_ones_command_line() -> None:
    command = run("registry.k8s.io/ingress-nginx/controller:v1", args=("/nginx-ingress-controller", "--ingress-class=nginx"))
    assert command.argv[1:] == ("-m", "lab.ingress", f"--lab-directory={HERE}", "--ingress-class=nginx")


@pytest.mark.parametrize(
    ("image", "command", "words"),
    [
        ("redis:7", (), "it has nginx, quay.io/metallb-py/controller"),
        ("nginx", ("sleep", "1"), "takes no command"),
        ("quay.io/metallb-py/speaker", ("/bin/speaker",), "python -m speaker"),
    ],
)
def test_what_the_lab_does_not_have_is_refused_with_what_it_has(image: str, command: tuple[str, ...], words: str) -> None:
    with pytest.raises(images.ImageError, match=words):
        run(image, command=command)


def test_capabilities_are_the_runtimes_less_dropped_plus_added() -> None:
    speaker = run("quay.io/metallb-py/speaker")
    assert images.capabilities(speaker, add=["NET_RAW"], drop=["ALL"]) == ("NET_RAW",)
    assert "CHOWN" not in (images.capabilities(speaker, add=[], drop=["CAP_CHOWN"]) or ())
    assert images.capabilities(speaker, add=["ALL"], drop=[]) is None
    assert images.capabilities(run("registry.k8s.io/ingress-nginx/controller"), add=[], drop=["ALL"]) is None


# Environment and arguments


def test_the_downward_api_fills_the_environment() -> None:
    downward = podspec.fields(a_pod(), pod_ip="198.18.1.2", host_ip="192.168.20.11")
    env = [
        {"name": path.replace(".", "_"), "valueFrom": {"fieldRef": {"fieldPath": path}}}
        for path in (
            "metadata.name",
            "metadata.namespace",
            "spec.nodeName",
            "status.hostIP",
            "status.podIP",
            "metadata.labels['app']",
        )
    ]
    found = podspec.environment(a_container(env=env), downward, lambda *_: None, {"BASE": "1"})
    assert list(found.values()) == ["1", "p", "x", "n1", "192.168.20.11", "198.18.1.2", "web"]


def test_later_variables_see_earlier_ones() -> None:
    env = [{"name": "A", "value": "a"}, {"name": "B", "value": "$(A)-$(C)-$$(A)"}]
    assert podspec.environment(a_container(env=env), {}, lambda *_: None, {})["B"] == "a-$(C)-$(A)"
    assert podspec.expand("--x=$(A)/y", {"A": "1"}) == "--x=1/y"


def test_keys_of_secrets_and_config_maps_become_variables() -> None:
    env = [
        {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
        {"name": "M", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k", "optional": True}}},
    ]
    contents = {("secret", "s"): {"k": b"v"}}
    found = podspec.environment(a_container(env=env), {}, lambda kind, name: contents.get((kind, name)), {})
    assert found == {"S": "v"}
    with pytest.raises(Missing, match="secret 's' has no key 'k'"):
        podspec.environment(a_container(env=env), {}, lambda *_: None, {})


@pytest.mark.parametrize(
    "source", [{"fieldRef": {"fieldPath": "spec.unknown"}}, {"resourceFieldRef": {"resource": "limits.cpu"}}]
)
def test_a_variable_the_lab_cannot_fill_is_refused(source: dict[str, Any]) -> None:
    with pytest.raises(PodError, match="env X"):
        podspec.environment(a_container(env=[{"name": "X", "valueFrom": source}]), {}, lambda *_: None, {})


# Volumes


def test_every_source_is_named_once_and_needed_if_anyone_needs_it() -> None:
    env = [{"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]
    volumes = [
        {"name": "v", "secret": {"secretName": "s", "optional": True}},
        {"name": "w", "configMap": {"name": "m", "optional": True}},
    ]
    pod = a_pod(volumes=volumes, containers=[{"name": "c", "env": env}])
    assert podspec.sources(pod) == (
        podspec.Source("secret", "s", optional=False),
        podspec.Source("configmap", "m", optional=True),
    )


def test_items_choose_keys_and_rename_them() -> None:
    contents = {"a": b"1", "b": b"2"}
    volume = msgspec.convert({"name": "v", "secret": {"items": [{"key": "a", "path": "x"}]}}, Volume)
    assert volume.secret is not None
    assert podspec.files(contents, volume.secret.items, of="secret 's'", optional=False) == {"x": b"1"}
    assert podspec.files(contents, None, of="secret 's'", optional=False) == contents
    with pytest.raises(Missing, match="secret 's' has no key 'a'"):
        podspec.files({}, volume.secret.items, of="secret 's'", optional=False)
    assert podspec.files({}, volume.secret.items, of="secret 's'", optional=True) == {}


def test_secret_data_is_base64_and_config_map_data_is_text() -> None:
    assert podspec.contents_of({"k": "dg=="}, encoded=True) == {"k": b"v"}
    assert podspec.contents_of({"k": "dg=="}, encoded=False) == {"k": b"dg=="}
    assert podspec.contents_of(None, encoded=True) == {}
    with pytest.raises(PodError, match="not base64"):
        podspec.contents_of({"k": "a"}, encoded=True)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"initContainers": [{"name": "i"}]}, "initContainers"),
        ({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}, "'v': the lab offers secret"),
        ({"containers": [{"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}, "has no such volume"),
        ({"containers": [{"name": "c", "livenessProbe": {"grpc": {"port": 1}}}]}, "livenessProbe: the lab offers httpGet"),
        ({"containers": [{"name": "c", "startupProbe": {"httpGet": {"port": "http"}}}]}, "names port 'http'"),
    ],
)
def test_a_pod_that_the_lab_would_run_differently_is_refused(spec: dict[str, Any], words: str) -> None:
    with pytest.raises(PodError, match=words):
        podspec.check(a_pod(**spec))


def test_probes_find_their_port_by_number_or_name() -> None:
    container = a_container(
        ports=[{"name": "http", "containerPort": 8080}], readinessProbe={"httpGet": {"port": "http", "path": "/healthz"}}
    )
    assert container.readiness_probe is not None
    assert podspec.probe_target(container, container.readiness_probe, pod_ip="198.18.1.2") == ("198.18.1.2", 8080)
    other = a_container(readinessProbe={"tcpSocket": {"port": 7, "host": "127.0.0.1"}})
    assert other.readiness_probe is not None
    assert podspec.probe_target(other, other.readiness_probe, pod_ip="198.18.1.2") == ("127.0.0.1", 7)
    lost = a_container(readinessProbe={"tcpSocket": {"port": "nobody"}})
    assert lost.readiness_probe is not None
    with pytest.raises(PodError, match="'nobody'"):
        podspec.probe_target(lost, lost.readiness_probe, pod_ip="198.18.1.2")


@pytest.mark.parametrize(
    ("every", "own", "identity"),
    [
        ({}, {}, (0, (0,))),
        ({"runAsUser": 65534, "fsGroup": 7}, {}, (65534, (0, 7))),
        ({"runAsUser": 1, "runAsGroup": 2, "supplementalGroups": [9]}, {"runAsUser": 3, "runAsGroup": 4}, (3, (4, 9))),
        ({"runAsNonRoot": True}, {"runAsNonRoot": False}, (0, (0,))),
    ],
)
def test_a_container_is_who_its_own_context_says_or_else_the_pods(
    every: dict[str, Any], own: dict[str, Any], identity: tuple[int, tuple[int, ...]]
) -> None:
    assert podspec.identity(a_pod(securityContext=every), a_container(securityContext=own)) == podspec.Identity(*identity)


def test_a_container_that_must_not_be_root_is_refused_as_root() -> None:
    with pytest.raises(PodError, match="runAsNonRoot and would run as root; set runAsUser"):
        podspec.identity(a_pod(securityContext={"runAsNonRoot": True}), a_container())
