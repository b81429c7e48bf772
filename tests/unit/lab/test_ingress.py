from typing import Any

import msgspec
import pytest

from kube.objects import (
    Endpoint,
    EndpointConditions,
    EndpointPort,
    EndpointSlice,
    ObjectMeta,
    Service,
    ServicePort,
    ServiceSpec,
)
from lab.ingress import Ingress, IngressClass, Route, Target, addresses, configuration, ours, routes

COFFEE, TEA, DEFAULT = Target("x", "coffee", 80), Target("x", "tea", "http"), Target("ingress-nginx", "default")
ENDPOINTS = {COFFEE: ["198.18.1.2:80"], TEA: ["198.18.1.3:80", "198.18.2.3:80"], DEFAULT: ["198.18.3.4:8080"]}


def an_ingress(
    *paths: tuple[str, str, str], host: str = "cafe.example", name: str = "i", born: str = "1", **spec: Any
) -> Ingress:
    document = {
        "metadata": {"name": name, "namespace": "x", "creationTimestamp": born},
        "spec": {
            "ingressClassName": "nginx",
            "rules": [
                {
                    "host": host,
                    "http": {
                        "paths": [
                            {
                                "path": path,
                                "pathType": kind,
                                "backend": {
                                    "service": {
                                        "name": service,
                                        "port": {"number": 80} if service == "coffee" else {"name": "http"},
                                    }
                                },
                            }
                            for path, kind, service in paths
                        ]
                    },
                }
            ],
            **spec,
        },
    }
    return msgspec.convert(document, Ingress)


def test_two_paths_of_a_host_lead_to_two_services() -> None:
    wanted = routes([an_ingress(("/coffee", "Prefix", "coffee"), ("/tea", "Exact", "tea"))])
    assert wanted == [Route("cafe.example", "/coffee", False, COFFEE), Route("cafe.example", "/tea", True, TEA)]
    text = configuration(wanted, ENDPOINTS, DEFAULT)
    assert 'location = "/coffee" { proxy_pass http://x_coffee_80; }' in text
    assert 'location "/coffee/" { proxy_pass http://x_coffee_80; }' in text
    assert 'location = "/tea" { proxy_pass http://x_tea_http; }' in text
    assert 'location "/tea/"' not in text
    assert "upstream x_tea_http { server 198.18.1.3:80; server 198.18.2.3:80; }" in text


def test_unclaimed_hosts_and_paths_go_to_the_default_backend() -> None:
    text = configuration(routes([an_ingress(("/coffee", "Prefix", "coffee"))]), ENDPOINTS, DEFAULT)
    assert text.count("location / { proxy_pass http://ingress_nginx_default_; }") == 2
    assert "listen 80 default_server; server_name _;" in text
    assert "location / { return 404; }" in configuration([], {}, None)


def test_an_exact_path_wins_over_a_prefix_of_the_same_name() -> None:
    text = configuration(routes([an_ingress(("/a", "Prefix", "coffee"), ("/a", "Exact", "tea"))]), ENDPOINTS, None)
    assert text.count('location = "/a"') == 1
    assert 'location = "/a" { proxy_pass http://x_tea_http; }' in text


def test_the_older_ingress_keeps_a_contested_path() -> None:
    young = an_ingress(("/", "Prefix", "tea"), name="a", born="2")
    old = an_ingress(("/", "Prefix", "coffee"), name="b", born="1")
    assert [route.target for route in routes([young, old])] == [COFFEE]


def test_a_backend_without_endpoints_answers_503() -> None:
    text = configuration(routes([an_ingress(("/", "Prefix", "coffee"))]), {COFFEE: []}, None)
    assert "location / { return 503; }" in text
    assert "upstream x_coffee_80" not in text


def test_rules_without_a_host_and_default_backends_take_every_host() -> None:
    catch_all = an_ingress(("/all", "Prefix", "coffee"), host="")
    assert '  location = "/all"' in configuration(routes([catch_all]), ENDPOINTS, None)
    backend = {"service": {"name": "tea", "port": {"name": "http"}}}
    assert routes([an_ingress(rules=[], defaultBackend=backend)]) == [Route("", "/", False, TEA)]


@pytest.mark.parametrize(("host", "path"), [("bad;host", "/"), ("ok.example", '/"; return 200;'), ("ok.example", "no-slash")])
def test_what_could_break_out_of_the_configuration_is_left_out(host: str, path: str) -> None:
    assert routes([an_ingress((path, "Prefix", "coffee"), host=host)]) == []


def test_an_ingress_is_ours_by_its_class_or_by_the_old_annotation() -> None:
    classes = {
        "nginx": msgspec.convert({"metadata": {"name": "nginx"}, "spec": {"controller": "k8s.io/ingress-nginx"}}, IngressClass)
    }

    def mine(ingress: Ingress) -> bool:
        return ours(ingress, classes, controller="k8s.io/ingress-nginx", annotation="nginx")

    assert mine(an_ingress())
    assert not mine(an_ingress(ingressClassName="other"))
    assert not mine(an_ingress(ingressClassName=""))
    old = msgspec.convert({"metadata": {"name": "i", "annotations": {"kubernetes.io/ingress.class": "nginx"}}}, Ingress)
    assert mine(old)


def test_only_ready_endpoints_of_the_right_port_are_asked() -> None:
    service = Service(
        metadata=ObjectMeta(name="tea", namespace="x"),
        spec=ServiceSpec(ports=(ServicePort(name="http", port=80), ServicePort(name="metrics", port=9))),
    )
    slice_ = EndpointSlice(
        metadata=ObjectMeta(name="tea-1", namespace="x", labels={"kubernetes.io/service-name": "tea"}),
        address_type="IPv4",
        ports=(EndpointPort(name="http", port=8080), EndpointPort(name="metrics", port=9)),
        endpoints=(
            Endpoint(addresses=("198.18.1.2",)),
            Endpoint(addresses=("198.18.1.3",), conditions=EndpointConditions(ready=False)),
        ),
    )
    services = {"x/tea": service}
    assert addresses(TEA, services, [slice_]) == ["198.18.1.2:8080"]
    assert addresses(Target("x", "tea", 9), services, [slice_]) == ["198.18.1.2:9"]
    assert addresses(Target("x", "tea"), services, [slice_]) == ["198.18.1.2:8080"]
    assert addresses(Target("x", "tea", "nobody"), services, [slice_]) == []
    assert addresses(COFFEE, services, [slice_]) == []
