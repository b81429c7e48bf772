import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

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
from lab.ingress.kinds import Ingress, IngressClass
from lab.ingress.nginx import RESERVED, Ground, http, stream
from lab.ingress.routing import Location, Match, Server, Target, addresses, ours, servers, streams
from lab.ingress.settings import ANNOTATIONS, CONFIG, choose

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


def made(*ingresses: Ingress, names: dict[str, list[str]] | None = None, default: Target | None = None) -> list[Server]:
    """The servers of Ingresses with which nothing is wrong."""
    found, problems = servers(ingresses, names or {}, default=default)
    assert problems == []
    return found


def written(*ingresses: Ingress, default: Target | None = None, config: dict[str, str] | None = None, **ground: Any) -> str:
    chosen, problems = choose(config or {}, CONFIG, of="ConfigMap x/y")
    assert problems == []
    found = made(*ingresses, names={"x/cert": ["cafe.example"]}, default=default)
    return http(found, ENDPOINTS, Ground(chosen, {"": "/fake.pem", "x/cert": "/cert.pem"}, **ground))


def location(text: str, where: str) -> str:
    """What happens at a location of the last host that has it."""
    return [line for line in text.splitlines() if line.strip().startswith(f"location {where} {{")][-1]


def with_annotations(ingress: Ingress, **annotations: str) -> Ingress:
    wanted = {f"nginx.ingress.kubernetes.io/{key.replace('_', '-')}": value for key, value in annotations.items()}
    return replace(ingress, metadata=replace(ingress.metadata, annotations=wanted))


def test_two_paths_of_a_host_lead_to_two_services() -> None:
    ingress = an_ingress(("/coffee", "Prefix", "coffee"), ("/tea", "Exact", "tea"))
    assert made(ingress)[1] == Server(
        "cafe.example", (Location("/coffee", Match.PREFIX, COFFEE), Location("/tea", Match.EXACT, TEA))
    )
    text = written(ingress)
    assert "proxy_pass http://x_coffee_80;" in location(text, '= "/coffee"')
    assert "proxy_pass http://x_coffee_80;" in location(text, '"/coffee/"')
    assert "proxy_pass http://x_tea_http;" in location(text, '= "/tea"')
    assert 'location "/tea/"' not in text
    assert "upstream x_tea_http { server 198.18.1.3:80; server 198.18.2.3:80; keepalive 320; }" in text


def test_an_implementation_specific_path_is_compared_by_its_beginning() -> None:
    text = written(an_ingress(("/tea", "ImplementationSpecific", "tea")))
    assert location(text, '"/tea"')
    assert 'location = "/tea"' not in text


def test_unclaimed_hosts_and_paths_go_to_the_default_backend() -> None:
    text = written(an_ingress(("/coffee", "Prefix", "coffee")), default=DEFAULT)
    assert text.count("proxy_pass http://ingress_nginx_default_;") == 2
    assert "server { server_name _;\n      listen 80 default_server;" in text
    assert "return 404;" in location(written(), "/")


def test_a_default_backend_beside_rules_serves_the_other_paths_of_their_hosts() -> None:
    backend = {"service": {"name": "tea", "port": {"name": "http"}}}
    every, cafe = made(an_ingress(("/c", "Prefix", "coffee"), defaultBackend=backend), default=DEFAULT)
    assert (every.fallback, cafe.fallback) == (DEFAULT, TEA)
    (every,) = made(an_ingress(rules=[], defaultBackend=backend), default=DEFAULT)
    assert every.fallback == TEA


def test_an_exact_path_wins_over_a_prefix_of_the_same_name() -> None:
    text = written(an_ingress(("/a", "Prefix", "coffee"), ("/a", "Exact", "tea")))
    assert "proxy_pass http://x_tea_http;" in location(text, '= "/a"')


def test_the_older_ingress_keeps_a_contested_path() -> None:
    young = an_ingress(("/", "Prefix", "tea"), name="a", born="2")
    old = an_ingress(("/", "Prefix", "coffee"), name="b", born="1")
    assert [each.target for each in made(young, old)[1].locations] == [COFFEE]


def test_a_backend_without_endpoints_answers_503() -> None:
    text = http(made(an_ingress(("/", "Prefix", "coffee"))), {COFFEE: []}, Ground(choose({}, CONFIG, of="")[0], {"": "/f"}))
    assert "return 503;" in text
    assert "upstream x_coffee_80" not in text


def test_rules_without_a_host_take_every_host() -> None:
    (server,) = made(an_ingress(("/all", "Prefix", "coffee"), host=""))
    assert (server.host, server.locations[0].path) == ("", "/all")


def test_an_asterisk_stands_for_one_label() -> None:
    assert r'server_name "~^[\w-]+[.]cafe[.]example$";' in written(an_ingress(("/", "Prefix", "tea"), host="*.cafe.example"))


@pytest.mark.parametrize(
    ("host", "path", "kind"),
    [
        ("bad;host", "/", "Prefix"),
        ("ok.example", '/"; return 200;', "Prefix"),
        ("ok.example", '/"', "ImplementationSpecific"),
        ("ok.example", "/a b", "ImplementationSpecific"),
        ("ok.example", "/a\\", "ImplementationSpecific"),
        ("ok.example", "/a(.*)?x|y", "Exact"),
        ("ok.example", "no-slash", "Prefix"),
    ],
)
def test_what_could_break_out_of_the_configuration_is_left_out_with_a_message(host: str, path: str, kind: str) -> None:
    found, problems = servers([an_ingress((path, kind, "coffee"), host=host)], {}, default=None)
    assert [each.locations for each in found if each.locations] == []
    assert len(problems) == 1
    assert problems[0].startswith("Ingress x/i: ")


# Annotations


def test_a_rewrite_makes_all_paths_of_its_host_regular_expressions() -> None:
    rewriting = with_annotations(an_ingress(("/api(/|$)(.*)", "ImplementationSpecific", "tea")), rewrite_target="/$2")
    text = written(rewriting, an_ingress(("/coffee", "Prefix", "coffee"), name="j"))
    assert 'rewrite "(?i)/api(/|$)(.*)" /$2 break; proxy_pass' in location(text, '~* "^/api(/|$)(.*)"')
    assert location(text, '~* "^/coffee"')
    assert 'location "/coffee/"' not in text


def test_the_redirect_to_https_is_for_hosts_with_tls_unless_an_annotation_says_otherwise() -> None:
    tls = [{"hosts": ["cafe.example"], "secretName": "cert"}]
    redirect = "if ($scheme = http) { return 308 https://$host$request_uri; }"
    secure, open_ = an_ingress(("/", "Prefix", "tea"), tls=tls), an_ingress(("/", "Prefix", "tea"))
    assert redirect in written(secure)
    assert redirect not in written(open_)
    assert redirect not in written(with_annotations(secure, ssl_redirect="false"))
    assert redirect in written(with_annotations(open_, force_ssl_redirect="true"))
    assert redirect not in written(secure, config={"ssl-redirect": "false"})


def test_annotations_become_directives_and_wrong_ones_are_named() -> None:
    ingress = with_annotations(
        an_ingress(("/", "Prefix", "tea")), proxy_body_size="8m", allowlist_source_range="10.0.0.0/8,::1"
    )
    assert "allow 10.0.0.0/8; allow ::1; deny all; client_max_body_size 8m;" in location(written(ingress), "/")
    wrong = with_annotations(an_ingress(("/", "Prefix", "tea")), proxy_body_size="8m; evil", affinity="cookie")
    found, problems = servers([wrong], {}, default=None)
    assert found[1].locations[0].options.values == {}
    assert [problem.partition(":")[0] for problem in problems] == ["Ingress x/i", "Ingress x/i"]


def test_redirects_application_roots_and_virtual_hosts() -> None:
    ingress = an_ingress(("/", "Prefix", "tea"))
    assert "return 301 https://other.example/;" in written(
        with_annotations(ingress, permanent_redirect="https://other.example/")
    )
    assert "return 302 /later;" in written(with_annotations(ingress, temporal_redirect="/later"))
    assert "if ($uri = /) { return 302 $scheme://$http_host/app; }" in written(with_annotations(ingress, app_root="/app"))
    changed = with_annotations(ingress, upstream_vhost="inner.example", backend_protocol="HTTPS")
    assert 'proxy_set_header Host "inner.example";' in written(changed)
    assert "proxy_pass https://x_tea_http;" in written(changed)


# Certificates


@pytest.mark.parametrize(
    ("tls", "pem"),
    [
        ([{"hosts": ["cafe.example"], "secretName": "cert"}], "/cert.pem"),
        ([{"hosts": ["*.example"], "secretName": "cert"}], "/cert.pem"),
        ([{"hosts": ["other.example"], "secretName": "cert"}], "/cert.pem"),  # Its certificate is for this host all the same.
        ([{"hosts": ["cafe.example"]}], "/fake.pem"),
        ([{"hosts": ["cafe.example"], "secretName": "lost"}], "/fake.pem"),
        ([], "/fake.pem"),
    ],
)
def test_a_host_shows_the_certificate_that_was_meant_for_it(tls: list[dict[str, Any]], pem: str) -> None:
    text = written(an_ingress(("/", "Prefix", "tea"), tls=tls))
    assert f'ssl_certificate "{pem}";' in text.partition("server_name cafe.example;")[2]


# The ConfigMap


def test_settings_have_defaults_and_wrong_ones_keep_them() -> None:
    chosen, problems = choose({"server-tokens": "yes", "unheard-of": "1", "keep-alive": "7"}, CONFIG, of="ConfigMap x/y")
    assert {"server_tokens off;", "keepalive_timeout 7s;", "client_max_body_size 1m;"} <= set(chosen.all_directives())
    assert len(problems) == 2
    assert "'unheard-of'" in problems[1]


def test_headers_from_config_maps_reach_backends_and_clients() -> None:
    text = written(
        an_ingress(("/", "Prefix", "tea")),
        request_headers={"X-Where": "$host"},
        response_headers={"X-Motto": 'say "hi"; \n{}'},
        config={"hide-headers": "Server,X-Powered-By", "hsts-preload": "true", "use-forwarded-headers": "true"},
    )
    assert 'proxy_set_header X-Where "$host";' in text
    assert 'add_header X-Motto "say \\"hi\\";  {}" always;' in text
    assert "proxy_hide_header X-Powered-By;" in text
    assert '"max-age=31536000; includeSubDomains; preload"' in text
    assert 'X-Forwarded-For "$proxy_add_x_forwarded_for"' in text


def test_ports_of_the_stream_config_maps_become_listeners() -> None:
    tcp, problems = streams({"9000": "x/tea:http"}, protocol="TCP", reserved=RESERVED, of="ConfigMap x/tcp")
    udp, wrong = streams({"53": "x/dns:53", "80": "x/dns:53"}, protocol="UDP", reserved=RESERVED, of="ConfigMap x/udp")
    assert problems == wrong == []
    text = stream({key: ["198.18.1.2:80"] for key in [*tcp, *udp]}, choose({}, CONFIG, of="")[0])
    assert "server { listen 9000; listen [::]:9000; proxy_timeout 600s; proxy_pass tcp_9000_x_tea_http; }" in text
    assert "listen 53 udp; listen [::]:53 udp; proxy_responses 1;" in text
    assert "server {" not in stream({key: [] for key in tcp}, choose({}, CONFIG, of="")[0])


@pytest.mark.parametrize(
    ("key", "value"), [("443", "x/tea:80"), ("http", "x/tea:80"), ("9000", "tea:80"), ("9000", "x/tea:80:PROXY")]
)
def test_a_wrong_stream_is_left_out_with_a_message(key: str, value: str) -> None:
    found, problems = streams({key: value}, protocol="TCP", reserved=RESERVED, of="ConfigMap x/tcp")
    assert found == []
    assert problems[0].startswith("ConfigMap x/tcp: ")


# Whose Ingress, which endpoints


def test_an_ingress_without_a_class_is_ours_when_our_class_is_the_default() -> None:
    document = {"metadata": {"name": "nginx", "annotations": {}}, "spec": {"controller": "k8s.io/ingress-nginx"}}
    plain = msgspec.convert(document, IngressClass)
    marked = {"ingressclass.kubernetes.io/is-default-class": "true"}
    chosen = replace(plain, metadata=replace(plain.metadata, annotations=marked))
    for each, expected in ((plain, False), (chosen, True)):
        ingress = an_ingress(ingressClassName="")
        assert ours(ingress, {"nginx": each}, controller="k8s.io/ingress-nginx", annotation="nginx") is expected
    foreign = replace(an_ingress(ingressClassName=""), metadata=ObjectMeta(annotations={"kubernetes.io/ingress.class": "x"}))
    assert not ours(foreign, {"nginx": chosen}, controller="k8s.io/ingress-nginx", annotation="nginx")


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
    assert addresses(TEA, services, [slice_], protocol="TCP") == ["198.18.1.2:8080"]
    assert addresses(Target("x", "tea", 9), services, [slice_], protocol="TCP") == ["198.18.1.2:9"]
    assert addresses(Target("x", "tea"), services, [slice_], protocol="TCP") == ["198.18.1.2:8080"]
    assert addresses(Target("x", "tea", "nobody"), services, [slice_], protocol="TCP") == []
    assert addresses(COFFEE, services, [slice_], protocol="TCP") == []
    assert addresses(TEA, services, [slice_], protocol="UDP") == []


def test_endpoints_are_those_of_the_services_first_family() -> None:
    service = Service(
        metadata=ObjectMeta(name="tea", namespace="x"),
        spec=ServiceSpec(ports=(ServicePort(name="http", port=80),), ip_families=("IPv6", "IPv4")),
    )
    slices = [
        EndpointSlice(
            metadata=ObjectMeta(name=kind, namespace="x", labels={"kubernetes.io/service-name": "tea"}),
            address_type=kind,
            ports=(EndpointPort(name="http", port=8080),),
            endpoints=(Endpoint(addresses=(address,)),),
        )
        for kind, address in (("IPv4", "198.18.1.2"), ("IPv6", "2001:db8:198:1::2"))
    ]
    assert addresses(TEA, {"x/tea": service}, slices, protocol="TCP") == ["[2001:db8:198:1::2]:8080"]


def test_the_page_lists_every_setting() -> None:
    page = (Path(__file__).parents[4] / "docs" / "reference" / "lab-ingress.md").read_text()
    for title, rows in (("## Annotations", ANNOTATIONS), ("## Keys of the ConfigMap", CONFIG)):
        section = page.partition(title)[2].partition("\n## ")[0].partition("\n\n")[2].partition("\n\n")[0]
        listed = set(re.findall(r"`([-a-z0-9]+)`", section)) - {"allowlist-source-range"}
        assert listed == set(rows)
