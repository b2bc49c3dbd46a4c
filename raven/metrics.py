"""What Prometheus reads of a daemon itself: families computed at each scrape from what it keeps anyway.

Nothing is counted twice: the parts of a daemon keep plain counters by reason, and a daemon's `report` module
turns them into families here. Imported only where --metrics-listen is not off, because prometheus-client is
3 MB of a small device's memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from raven import __version__

CONTENT_TYPE = CONTENT_TYPE_LATEST


class Family(NamedTuple):
    """One metric: its samples by the values of its labels."""

    name: str  # without raven_ and without _total
    help: str
    kind: Literal["counter", "gauge"]
    labels: tuple[str, ...]
    samples: Mapping[tuple[str, ...], float]


def single(name: str, help: str, value: float, *, kind: Literal["counter", "gauge"] = "gauge") -> Family:
    """A family of one sample without labels."""
    return Family(name, help, kind, (), {(): value})


def by(
    label: str,
    name: str,
    help: str,
    counts: Mapping[str, float],
    kind: Literal["counter", "gauge"] = "counter",
) -> Family:
    """A family with one label, from a mapping such as a Counter of reasons."""
    return Family(name, help, kind, (label,), {(key,): value for key, value in counts.items()})


class _Families(Collector):
    def __init__(self, read: Callable[[], Iterable[Family]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        for family in self._read():
            kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
            metric = kind(f"raven_{family.name}", family.help, labels=family.labels)
            for labels, value in family.samples.items():
                metric.add_metric(labels, value)
            yield metric

    def describe(self) -> Iterable[Metric]:
        return []  # else the registry would read everything once at the start, before there is anything


def renderer(role: str, read: Callable[[], Iterable[Family]]) -> Callable[[], bytes]:
    """A function that gives the text of a scrape: the families of `read`, build information, the process."""
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    running: dict[tuple[str, ...], float] = {(role, __version__): 1}
    build = Family("build_info", "The running software.", "gauge", ("role", "version"), running)
    registry.register(_Families(lambda: [build, *read()]))
    return lambda: generate_latest(registry)
