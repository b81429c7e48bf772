"""The names and meanings of the speaker's metrics (MetalLB's names, so that dashboards and alerts keep working).

Made once by main(), passed to those who count. prometheus_client would append `_total` to counters; MetalLB's names have no
such ending, so the counters here are collected by a class of our own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from config.model import IPAddress, NodeName, ServiceKey

LAYER2 = "layer2"
BGP = "bgp"
FAILOVER_BUCKETS_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.5, 5.0, 10.0)


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
        claimed = "Times that a machine which is no speaker claimed an address that this node owns, as far as disputed."
        self._foreign = PlainCounter("metallb_layer2_foreign_claims", claimed, "ip", registry)
        self._failover = Histogram(
            "metallb_speaker_failover_seconds",
            "Phases of taking over from a node that died: detect (first suspicion to declaration, per node), "
            "decide (declaration to decision) and announce (decision to first announcement), per address.",
            ["phase"],
            buckets=FAILOVER_BUCKETS_S,
            registry=registry,
        )
        for phase in ("detect", "decide", "announce"):
            self._failover.labels(phase)
        self._failing_over: set[IPAddress] = set()
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

    def announced(self, service: ServiceKey, addresses: Iterable[IPAddress], protocol: str = LAYER2) -> None:
        """The addresses of a Service are announced here from now on."""
        for address in addresses:
            self._announced.labels(service, protocol, self._node, str(address)).set(1)

    def withdrawn(self, service: ServiceKey, addresses: Iterable[IPAddress], protocol: str = LAYER2) -> None:
        """They are not any more: the series ends."""
        for address in addresses:
            self._announced.remove(service, protocol, self._node, str(address))

    def request_received(self, address: IPAddress) -> None:
        """A request that is answered came in."""
        self._received.increase(self._text_of(address))

    def response_sent(self, address: IPAddress) -> None:
        """A reply went out."""
        self._responses.increase(self._text_of(address))

    def gratuitous_sent(self, address: IPAddress) -> None:
        """An announcement frame went out."""
        self._gratuitous.increase(self._text_of(address))

    def death_detected(self, took_s: float) -> None:
        """A node was declared dead so long after it was first suspected."""
        self._failover.labels("detect").observe(took_s)

    def takeover_decided(self, addresses: Iterable[IPAddress], took_s: float) -> None:
        """So long after a node was declared dead these addresses of its were decided to be ours."""
        for address in addresses:
            self._failing_over.add(address)
            self._failover.labels("decide").observe(took_s)

    def first_announced(self, address: IPAddress, took_s: float) -> None:
        """An address is announced for the first time since it is ours, so long after that was decided."""
        if address in self._failing_over:
            self._failing_over.discard(address)
            self._failover.labels("announce").observe(took_s)

    def foreign_claim(self, address: IPAddress) -> None:
        """A stranger spoke for an address that is owned here."""
        self._foreign.increase(self._text_of(address))

    def _text_of(self, address: IPAddress) -> str:
        """The address as text; kept, because this is done for every packet."""
        text = self._texts.get(address)
        if text is None:
            text = self._texts[address] = str(address)
        return text
