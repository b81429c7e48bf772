"""The names and meanings of the speaker's metrics (MetalLB's names, so that dashboards and alerts keep working).

Made once by main(), passed to those who count. prometheus_client would append `_total` to counters; MetalLB's names have no
such ending, so the counters here are collected by a class of our own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from config.model import IPAddress, NodeName, ServiceKey

LAYER2 = "layer2"


def new_registry() -> CollectorRegistry:
    """An empty registry for one process."""
    return CollectorRegistry()


class PlainCounter(Collector):
    """A counter per label value that is exposed under exactly its name."""

    def __init__(self, name: str, text: str, label: str | None, registry: CollectorRegistry) -> None:
        self._name = name
        self._text = text
        self._label = label
        self._values: dict[str, int] = {} if label else {"": 0}
        registry.register(self)

    def increase(self, value: str = "", by: int = 1) -> None:
        """Count for a label value."""
        self._values[value] = self._values.get(value, 0) + by

    def value(self, value: str = "") -> int:
        """What has been counted for a label value."""
        return self._values.get(value, 0)

    def describe(self) -> Iterable[Metric]:
        """The name, for the registry's check of duplicates."""
        return [Metric(self._name, self._text, "unknown")]

    def collect(self) -> Iterator[Metric]:
        """The values now."""
        metric = Metric(self._name, self._text, "unknown")
        for value, counted in self._values.items():
            metric.add_sample(self._name, {self._label: value} if self._label else {}, counted)
        yield metric


class Metrics:
    """All metrics of a speaker, in one registry."""

    def __init__(self, registry: CollectorRegistry, node: NodeName) -> None:
        self._node = node
        self._announced = Gauge(
            "metallb_speaker_announced",
            "1 for every address that this node has decided to announce, by Service.",
            ["service", "protocol", "node", "ip"],
            registry=registry,
        )
        received = "ARP and NDP questions for addresses that this node owns, all of which are answered."
        self._received = PlainCounter("metallb_layer2_requests_received", received, "ip", registry)
        self._responses = PlainCounter(
            "metallb_layer2_responses_sent", "Answers to ARP and NDP questions that were sent.", "ip", registry
        )
        sent = "Announcements that were sent, per interface and round: two gratuitous ARP frames, or one unsolicited advertisement."
        self._gratuitous = PlainCounter("metallb_layer2_gratuitous_sent", sent, "ip", registry)
        updates = "Changes of Kubernetes objects that were taken into account."
        self.updates = PlainCounter("metallb_k8s_client_updates_total", updates, None, registry)
        failed = "Writes to the API server that failed."
        self.update_errors = PlainCounter("metallb_k8s_client_update_errors_total", failed, None, registry)
        self.config_loaded = Gauge(
            "metallb_k8s_client_config_loaded_bool", "1 once a configuration is in force.", registry=registry
        )
        self.config_stale = Gauge(
            "metallb_k8s_client_config_stale_bool",
            "1 while something users configured cannot be used, so that its last valid edition is in force.",
            registry=registry,
        )
        self._texts: dict[IPAddress, str] = {}

    def announced(self, service: ServiceKey, addresses: Iterable[IPAddress]) -> None:
        """The addresses of a Service are announced here from now on."""
        for address in addresses:
            self._announced.labels(service, LAYER2, self._node, str(address)).set(1)

    def withdrawn(self, service: ServiceKey, addresses: Iterable[IPAddress]) -> None:
        """They are not any more: the series ends."""
        for address in addresses:
            self._announced.remove(service, LAYER2, self._node, str(address))

    def request_received(self, address: IPAddress) -> None:
        """A request that is answered came in."""
        self._received.increase(self._text_of(address))

    def response_sent(self, address: IPAddress) -> None:
        """A reply went out."""
        self._responses.increase(self._text_of(address))

    def gratuitous_sent(self, address: IPAddress) -> None:
        """An announcement frame went out."""
        self._gratuitous.increase(self._text_of(address))

    def _text_of(self, address: IPAddress) -> str:
        """The address as text; kept, because this is done for every packet."""
        text = self._texts.get(address)
        if text is None:
            text = self._texts[address] = str(address)
        return text
