"""What users of ingress-nginx rely on, in the lab: asked with curl from the client's namespace at the announced address."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab import netns
from lab.apiserver.pki import Authority, Pair
from lab.topology import FIRST_POOL_OFFSET
from lab.user import INGRESS_MANIFESTS, MANIFESTS, CommandError
from tests.e2e.conftest import Lab
from tests.e2e.test_lab import eventually

pytestmark = [
    pytest.mark.needs("root", "nginx", "/usr/lib/nginx/modules/ngx_stream_module.so", "nft", "kubectl"),
    pytest.mark.timeout(180),
]

NAMESPACE, SYSTEM = "cafe", "metallb-system"
IN_A_ROW = 8
SPECIFIC = "ImplementationSpecific"
UDP_QUESTION = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
with socket.socket(family, socket.SOCK_DGRAM) as asking:
    asking.settimeout(1)
    asking.connect((sys.argv[1], int(sys.argv[2])))
    asking.send(sys.argv[3].encode())
    print(asking.recv(1000).decode())
"""


def a_server(name: str) -> list[dict[str, Any]]:
    """Somebody who says his name over HTTP and UDP, and the Service in front of him."""
    labels = {"app": name}
    container = {
        "name": "agnhost",
        "image": "registry.k8s.io/e2e-test-images/agnhost:2.47",
        "args": ["netexec", "--http-port=8080", "--udp-port=8081"],
        "ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": {"httpGet": {"port": "http", "path": "/healthz"}, "periodSeconds": 1},
    }
    ports = [
        {"name": "http", "port": 80, "targetPort": "http"},
        {"name": "talk", "port": 8081, "protocol": "UDP", "targetPort": 8081},
    ]
    meta = {"name": name, "namespace": NAMESPACE}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    return [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": {"selector": {"matchLabels": labels}, "template": template}},
        {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"selector": labels, "ports": ports}},
    ]  # fmt: skip


def an_ingress(name: str, hosts: dict[str, dict[str, tuple[str, str]]], **more: Any) -> dict[str, Any]:
    """An Ingress: for every host and path the path type and the Service."""
    annotations = {f"nginx.ingress.kubernetes.io/{key}": value for key, value in more.pop("annotations", {}).items()}
    rules = [
        {
            "host": host,
            "http": {
                "paths": [
                    {"path": path, "pathType": kind, "backend": {"service": {"name": service, "port": {"name": "http"}}}}
                    for path, (kind, service) in paths.items()
                ]
            },
        }
        for host, paths in hosts.items()
    ]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": name, "namespace": NAMESPACE, "annotations": annotations},
        "spec": {"ingressClassName": "nginx", "rules": rules, **more},
    }


@dataclass(frozen=True, slots=True)
class Cafe:
    """The lab with the ingress proxy, two servers, coffee and tea, and an authority that signs certificates."""

    lab: Lab
    address: str
    directory: Path
    authority: Authority

    def curl(self, url: str, *words: str) -> str:
        """What curl on the client prints for a URL whose host is at the announced address."""
        return self.try_curl(url, *words).stdout

    def try_curl(self, url: str, *words: str) -> subprocess.CompletedProcess[str]:
        host = url.split("/")[2]
        where = (word for port in (80, 443) for word in ("--resolve", f"{host}:{port}:{self.address}"))
        return self.lab.run_on("client", "curl", "--silent", "--show-error", "--max-time", "3", *where, *words, url)

    def settled(self, look: Callable[[], bool], what: str) -> None:
        """Wait for a change to be all there is: for a moment nginx's old workers answer beside the new ones."""
        eventually(lambda: all(look() for _ in range(IN_A_ROW)), what)

    def status(self, url: str, *words: str) -> str:
        """The status code of the answer."""
        return self.curl(url, "--output", "/dev/null", "--write-out", "%{http_code}", *words)

    def who(self, url: str, *words: str) -> str:
        """Which of the two servers answers: its Pod says its name."""
        return self.curl(url, *words).partition("-")[0]

    def apply(self, *documents: dict[str, Any]) -> None:
        """Kubectl apply."""
        file = self.directory / "apply.yaml"
        file.write_text(yaml.safe_dump_all(documents))
        self.lab.user.apply(file)

    def certificate(self, name: str, *names: str) -> Pair:
        """A certificate of the authority for these names, as a Secret too."""
        pair = self.authority.issue(name, name, names=names)
        words = ("secret", "tls", name, f"--cert={pair.certificate}", f"--key={pair.key}", f"--namespace={NAMESPACE}")
        self.lab.user.run("create", *words)
        return pair

    def set_config(self, name: str, **data: str | None) -> None:
        """Change keys of a ConfigMap of the controller; None takes one away."""
        document = yaml.safe_dump({"data": {key.replace("_", "-"): value for key, value in data.items()}})
        self.lab.user.run("patch", "configmap", name, "--namespace=ingress-nginx", "--type=merge", f"--patch={document}")


def install(lab: Lab) -> None:
    """The product, and a pool with its announcement unless there is one."""
    lab.user.apply(*MANIFESTS)
    network = lab.topology.network
    ranges = [f"{network[FIRST_POOL_OFFSET]}-{network[255]}"]
    documents = [
        {"apiVersion": "metallb.io/v1beta1", "kind": kind, "metadata": {"name": "default", "namespace": SYSTEM}, "spec": spec}
        for kind, spec in (("IPAddressPool", {"addresses": ranges}), ("L2Advertisement", {"ipAddressPools": ["default"]}))
    ]

    def applied() -> object:
        try:
            return lab.user.list("IPAddressPool", namespace=SYSTEM) or lab.user.apply_documents(documents)
        except CommandError as error:
            if "failed calling webhook" not in str(error):
                raise
            return None  # Nothing can be configured before the controller is up.

    eventually(applied, "the controller lets the API server ask it")


@pytest.fixture(scope="module")
def cafe(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cafe]:
    install(lab)
    lab.user.apply(INGRESS_MANIFESTS)
    local = (
        '--patch={"spec": {"externalTrafficPolicy": "Local"}}'  # One node's proxy answers, which sees the client's own address.
    )
    lab.user.run("patch", "service", "ingress-nginx-controller", "--namespace=ingress-nginx", local)
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    lab.user.apply_documents([namespace, *a_server("coffee"), *a_server("tea")])

    def address() -> str | None:
        service = lab.user.get("Service", "ingress-nginx-controller", namespace="ingress-nginx")
        ingress = service["status"]["loadBalancer"].get("ingress")
        return str(ingress[0]["ip"]) if ingress else None

    directory = tmp_path_factory.mktemp("cafe")
    made = Cafe(lab, eventually(address, "the proxy has its address"), directory, Authority(directory))
    for namespace_, kind, name in (
        (NAMESPACE, "deployment", "coffee"),
        (NAMESPACE, "deployment", "tea"),
        ("ingress-nginx", "daemonset", "ingress-nginx-controller"),
        ("ingress-nginx", "deployment", "ingress-nginx-defaultbackend"),
    ):
        lab.user.run("rollout", "status", f"{kind}/{name}", f"--namespace={namespace_}", "--timeout=60s")
    try:
        eventually(lambda: "default backend" in made.curl("http://nobody.example/"), "the proxy answers at its address")
        yield made
    finally:
        lab.user.run("delete", "namespace", NAMESPACE, "ingress-nginx", "--wait=false")
        lab.user.run("delete", "ingressclass", "nginx")


@pytest.fixture
def kitchen(cafe: Cafe) -> Iterator[Cafe]:
    """The cafe, whose Ingresses and Secrets are gone after each test."""
    yield cafe
    cafe.lab.user.run("delete", "ingress,secret", "--all", f"--namespace={NAMESPACE}")


def test_several_hosts_on_one_address_are_told_apart(kitchen: Cafe) -> None:
    hosts = {"coffee.example": {"/": ("Prefix", "coffee")}, "*.tea.example": {"/": ("Prefix", "tea")}}
    kitchen.apply(an_ingress("hosts", hosts))
    kitchen.settled(lambda: kitchen.who("http://coffee.example/hostname") == "coffee", "coffee")
    assert kitchen.who("http://green.tea.example/hostname") == "tea"
    assert "default backend - 404" in kitchen.curl("http://tea.example/hostname")
    assert "default backend - 404" in kitchen.curl("http://very.green.tea.example/hostname")


def test_paths_are_exact_prefixes_of_elements_or_beginnings(kitchen: Cafe) -> None:
    exact = {"/hostname": ("Exact", "tea"), "/": ("Prefix", "coffee")}
    elements = {"/clientip": ("Prefix", "tea")}
    beginning = {"/host": (SPECIFIC, "tea")}
    kitchen.apply(an_ingress("paths", {"a.example": exact, "b.example": elements, "c.example": beginning}))
    kitchen.settled(lambda: kitchen.who("http://a.example/hostname") == "tea", "tea")
    assert kitchen.who("http://a.example/echo?msg=coffee-") == "coffee"
    assert kitchen.status("http://b.example/clientip") == "200"
    assert kitchen.curl("http://b.example/clientip/more") == "404: Not Found"  # The server says so, not the proxy.
    assert "default backend - 404" in kitchen.curl("http://b.example/clientipx")
    assert kitchen.who("http://c.example/hostname") == "tea"


def test_paths_and_hosts_that_nobody_claims_go_to_the_default_backend(kitchen: Cafe) -> None:
    backend = {"service": {"name": "tea", "port": {"name": "http"}}}
    kitchen.apply(
        an_ingress("own", {"own.example": {"/echo": ("Prefix", "coffee")}}, defaultBackend=backend),
        an_ingress("plain", {"plain.example": {"/echo": ("Prefix", "coffee")}}),
    )
    kitchen.settled(lambda: kitchen.who("http://own.example/hostname") == "tea", "the Ingress' own default backend")
    assert kitchen.status("http://plain.example/hostname") == "404"
    assert "default backend - 404" in kitchen.curl("http://plain.example/hostname")
    assert "default backend - 404" in kitchen.curl(f"http://{kitchen.address}/")


def test_each_host_shows_its_own_certificate(kitchen: Cafe) -> None:
    for name in ("coffee", "tea"):
        kitchen.certificate(name, f"{name}.example")
    tls = [{"hosts": [f"{name}.example"], "secretName": name} for name in ("coffee", "tea")]
    hosts = {f"{name}.example": {"/": ("Prefix", name)} for name in ("coffee", "tea")}
    kitchen.apply(an_ingress("secure", {**hosts, "open.example": {"/": ("Prefix", "tea")}}, tls=tls))
    trust = ("--cacert", str(kitchen.authority.certificate_path))
    kitchen.settled(lambda: kitchen.who("https://coffee.example/hostname", *trust) == "coffee", "coffee over HTTPS")
    assert kitchen.who("https://tea.example/hostname", *trust) == "tea"
    assert (
        "strict-transport-security: max-age=31536000" in kitchen.curl("https://tea.example/hostname", *trust, "--head").lower()
    )
    refused = kitchen.try_curl("https://open.example/hostname", *trust)
    assert refused.returncode == 60, refused  # curl: the peer's certificate cannot be authenticated.
    shown = kitchen.try_curl("https://open.example/hostname", "--insecure", "--verbose")
    assert "CN=Kubernetes Ingress Controller Fake Certificate" in shown.stderr
    assert shown.stdout.startswith("tea-")


def test_a_renewed_certificate_is_shown_without_a_break(kitchen: Cafe) -> None:
    kitchen.certificate("coffee", "coffee.example")
    trust = ("--cacert", str(kitchen.authority.certificate_path))
    tls = [{"hosts": ["coffee.example"], "secretName": "coffee"}]
    kitchen.apply(an_ingress("secure", {"coffee.example": {"/": ("Prefix", "coffee")}}, tls=tls))
    kitchen.settled(lambda: kitchen.who("https://coffee.example/hostname", *trust) == "coffee", "the first")
    other = Authority(kitchen.directory / "other")
    pair = other.issue("coffee", "coffee", names=["coffee.example"])
    words = ("secret", "tls", "coffee", f"--cert={pair.certificate}", f"--key={pair.key}", f"--namespace={NAMESPACE}")
    renewed = kitchen.directory / "renewed.yaml"
    renewed.write_text(kitchen.lab.user.run("create", *words, "--dry-run=client", "--output=yaml"))
    kitchen.lab.user.run("replace", f"--filename={renewed}")
    trust = ("--cacert", str(other.certificate_path))
    kitchen.settled(lambda: kitchen.who("https://coffee.example/hostname", *trust) == "coffee", "the renewed certificate")


def test_plain_requests_to_a_host_with_tls_are_sent_to_https(kitchen: Cafe) -> None:
    kitchen.certificate("coffee", "coffee.example", "plain.example")
    for name, marks in (("coffee", {}), ("plain", {"ssl-redirect": "false"})):
        tls = [{"hosts": [f"{name}.example"], "secretName": "coffee"}]
        kitchen.apply(an_ingress(name, {f"{name}.example": {"/": ("Prefix", "coffee")}}, tls=tls, annotations=marks))
    kitchen.settled(lambda: kitchen.status("http://coffee.example/hostname?a=b") == "308", "a redirect")
    trust = ("--cacert", str(kitchen.authority.certificate_path))
    assert kitchen.curl("http://coffee.example/hostname?a=b", "--output", "/dev/null", "--write-out", "%{redirect_url}") == (
        "https://coffee.example/hostname?a=b"
    )
    assert kitchen.who("http://coffee.example/hostname", "--location", *trust) == "coffee"
    kitchen.settled(lambda: kitchen.who("http://plain.example/hostname") == "coffee", "no redirect where it is switched off")


def test_a_rewrite_gives_the_backend_what_its_groups_captured(kitchen: Cafe) -> None:
    rule = {"cafe.example": {"/api(/|$)(.*)": (SPECIFIC, "coffee")}}
    kitchen.apply(an_ingress("rewrite", rule, annotations={"rewrite-target": "/$2"}))
    kitchen.settled(lambda: kitchen.who("http://cafe.example/api/hostname") == "coffee", "the path without /api")
    assert kitchen.curl("http://cafe.example/api/echo?msg=hello") == "hello"
    assert kitchen.curl("http://cafe.example/api").startswith("NOW: ")
    assert "default backend - 404" in kitchen.curl("http://cafe.example/hostname")


def test_a_backend_is_told_who_asked_and_for_what(kitchen: Cafe) -> None:
    kitchen.apply(an_ingress("told", {"cafe.example": {"/": ("Prefix", "coffee")}}))
    kitchen.settled(lambda: kitchen.curl("http://cafe.example/header?key=Host") == "cafe.example", "the host")
    assert kitchen.curl("http://cafe.example/header?key=X-Forwarded-Proto") == "http"
    forged = kitchen.curl("http://cafe.example/header?key=X-Forwarded-For", "--header", "X-Forwarded-For: 192.0.2.7")
    assert forged == str(kitchen.lab.topology.client.ip)  # Which the Service keeps, with externalTrafficPolicy: Local.


def test_the_ingress_says_at_which_address_it_answers(kitchen: Cafe) -> None:
    kitchen.apply(an_ingress("told", {"cafe.example": {"/": ("Prefix", "coffee")}}))

    def shown() -> str:
        words = ("get", "ingress", "told", f"--namespace={NAMESPACE}", "--output=jsonpath={.status.loadBalancer.ingress[*].ip}")
        return kitchen.lab.user.run(*words)

    eventually(lambda: shown() == kitchen.address, "the address in the Ingress' status")


def test_an_ingress_without_a_class_belongs_to_the_default_class(kitchen: Cafe) -> None:
    ingress = an_ingress("classless", {"classless.example": {"/": ("Prefix", "tea")}})
    del ingress["spec"]["ingressClassName"]
    kitchen.apply(ingress)
    kitchen.apply(an_ingress("other", {"other.example": {"/": ("Prefix", "tea")}}))
    kitchen.settled(lambda: kitchen.who("http://other.example/hostname") == "tea", "the one with a class")
    assert kitchen.status("http://classless.example/hostname") == "404"
    mark = "ingressclass.kubernetes.io/is-default-class"
    kitchen.lab.user.run("annotate", "ingressclass", "nginx", f"{mark}=true")
    kitchen.settled(lambda: kitchen.who("http://classless.example/hostname") == "tea", "the one without a class")
    kitchen.lab.user.run("annotate", "ingressclass", "nginx", f"{mark}-")


def test_kubectl_edit_and_replace_take_effect(kitchen: Cafe) -> None:
    kitchen.apply(an_ingress("menu", {"cafe.example": {"/": ("Prefix", "coffee")}}))
    kitchen.settled(lambda: kitchen.who("http://cafe.example/hostname") == "coffee", "coffee")
    user = kitchen.lab.user
    assert user.kubectl is not None
    edit = [user.kubectl, f"--kubeconfig={user.kubeconfig}", "edit", "ingress", "menu", f"--namespace={NAMESPACE}"]
    environment = {**os.environ, "KUBE_EDITOR": "sed -i s/name:.coffee/name:\\ tea/", "HOME": str(kitchen.directory)}
    subprocess.run(edit, env=environment, check=True, capture_output=True, timeout=30)
    kitchen.settled(lambda: kitchen.who("http://cafe.example/hostname") == "tea", "tea after kubectl edit")
    replacement = kitchen.directory / "menu.yaml"
    replacement.write_text(yaml.safe_dump(an_ingress("menu", {"cafe.example": {"/": ("Prefix", "coffee")}})))
    user.run("replace", f"--filename={replacement}")
    kitchen.settled(lambda: kitchen.who("http://cafe.example/hostname") == "coffee", "coffee after kubectl replace")


def test_the_config_map_changes_nginx_while_it_runs(kitchen: Cafe) -> None:
    kitchen.apply(an_ingress("menu", {"cafe.example": {"/": ("Prefix", "coffee")}}))
    kitchen.settled(lambda: kitchen.who("http://cafe.example/hostname") == "coffee", "coffee")
    big = kitchen.directory / "big"
    big.write_bytes(bytes(2 << 20))
    post = ("--data-binary", f"@{big}", "--header", "Expect:")
    assert kitchen.status("http://cafe.example/", *post) == "413"
    assert "nginx/" not in kitchen.curl("http://cafe.example/", "--head")
    for name, header in (("told", {"X-Table": "seven"}), ("said", {"X-Motto": "fresh"})):
        meta = {"name": name, "namespace": NAMESPACE}
        kitchen.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": header})
    settings = {
        "proxy_body_size": "8m",
        "server_tokens": "true",
        "keep_alive": "0",
        "proxy_set_headers": f"{NAMESPACE}/told",
        "add_headers": f"{NAMESPACE}/said",
    }
    kitchen.set_config("ingress-nginx-controller", **settings)
    try:
        kitchen.settled(lambda: kitchen.status("http://cafe.example/", *post) == "200", "a big request is taken")
        head = kitchen.curl("http://cafe.example/", "--head")
        assert "Server: nginx/" in head
        assert "Connection: close" in head
        assert "X-Motto: fresh" in head
        assert kitchen.curl("http://cafe.example/header?key=X-Table") == "seven"
    finally:
        kitchen.set_config("ingress-nginx-controller", **dict.fromkeys(settings))
    kitchen.settled(lambda: kitchen.status("http://cafe.example/", *post) == "413", "the default again")


def test_a_setting_that_nginx_refuses_leaves_what_was_in_force(kitchen: Cafe) -> None:
    kitchen.apply(an_ingress("menu", {"cafe.example": {"/": ("Prefix", "coffee")}}))
    kitchen.settled(lambda: kitchen.who("http://cafe.example/hostname") == "coffee", "coffee")
    kitchen.set_config("ingress-nginx-controller", http_snippet="no_such_directive on;")
    logs = kitchen.lab.paths.logs
    try:
        eventually(
            lambda: any("no_such_directive" in log.read_text() for log in logs.glob("ingress-nginx_*controller*.log")),
            "the log says what nginx refuses",
        )
        assert kitchen.who("http://cafe.example/hostname") == "coffee"
    finally:
        kitchen.set_config("ingress-nginx-controller", http_snippet=None)


def test_tcp_and_udp_services_are_passed_on(kitchen: Cafe) -> None:
    ports = [
        {"name": "coffee-tcp", "port": 9000, "targetPort": 9000, "protocol": "TCP"},
        {"name": "tea-udp", "port": 9001, "targetPort": 9001, "protocol": "UDP"},
    ]
    # As a user does it: the ConfigMaps say what is passed on, the Service opens the ports.
    kitchen.set_config("tcp-services", **{"9000": f"{NAMESPACE}/coffee:80"})
    kitchen.set_config("udp-services", **{"9001": f"{NAMESPACE}/tea:talk"})
    patch = yaml.safe_dump({"spec": {"ports": ports}})
    words = ("patch", "service", "ingress-nginx-controller", "--namespace=ingress-nginx", f"--patch={patch}")
    kitchen.lab.user.run(*words)
    url = f"http://{kitchen.address}:9000/hostname"
    eventually(
        lambda: kitchen.lab.run_on("client", "curl", "--silent", "--max-time", "2", url).stdout.startswith("coffee-"), "TCP"
    )

    def asked() -> str:
        topology = kitchen.lab.topology
        words = ["python3", "-c", UDP_QUESTION, kitchen.address, "9001", "hostname"]
        return subprocess.run(
            netns.enter(topology.netns("client"), words), capture_output=True, text=True, check=False, timeout=30
        ).stdout

    eventually(lambda: asked().startswith("tea-"), "UDP")
