"""Figures for Prometheus. The hot path adds to plain numbers; a scrape turns them into metrics.

`Metrics` belongs to the event loop: nothing here locks. Labels are bounded: routes are names from
`routes`, methods those that llhttp knows, codes are numbers.
"""

import os
import resource
import time
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """`gauges` and `counters` are asked at each scrape: (name, help) to value."""

    def __init__(self) -> None:
        self.requests: dict[tuple[bytes, int, str], list[int]] = {}
        """(method, code, route) to [requests, body bytes]."""
        self.counters: dict[tuple[str, str], float] = {}
        self._sources: list[Callable[[], Iterator[Metric]]] = []
        self._started = time.time()
        self._registry = CollectorRegistry()
        self._registry.register(_Collector(self))

    def answered(self, method: bytes, code: int, route: str, sent: int) -> None:
        """Count one exchange; `sent` is the answer's body in bytes."""
        cell = self.requests.get((method, code, route))
        if cell is None:
            cell = self.requests[(method, code, route)] = [0, 0]
        cell[0] += 1
        cell[1] += sent

    def count(self, name: str, text: str, amount: float = 1) -> None:
        """Add to a counter without labels; `text` is its help."""
        key = (name, text)
        self.counters[key] = self.counters.get(key, 0) + amount

    def add_source(self, source: Callable[[], Iterator[Metric]]) -> None:
        """Let another room's figures be collected at each scrape."""
        self._sources.append(source)

    def render(self) -> bytes:
        """The exposition text, format 0.0.4."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "mender_gateway_http_requests",
            "Requests answered.",
            labels=("method", "code", "route"),
        )
        sent = CounterMetricFamily(
            "mender_gateway_http_response_bytes",
            "Bytes of answer bodies sent.",
            labels=("method", "code", "route"),
        )
        for (method, code, route), (number, size) in list(self.requests.items()):
            labels = (method.decode("latin-1"), str(code), route)
            requests.add_metric(labels, number)
            sent.add_metric(labels, size)
        yield requests
        yield sent
        for (name, text), value in list(self.counters.items()):
            yield CounterMetricFamily(name, text, value=value)
        for source in self._sources:
            yield from source()
        yield from self._process()

    def _process(self) -> Iterator[Metric]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        yield GaugeMetricFamily(
            "process_start_time_seconds", "Start of the process, Unix time.", value=self._started
        )
        yield CounterMetricFamily(
            "process_cpu_seconds",
            "User and system time of the process.",
            value=usage.ru_utime + usage.ru_stime,
        )
        try:
            with open("/proc/self/statm", "rb") as file:
                virtual, resident = (int(word) for word in file.read().split()[:2])
        except OSError:
            return
        page = resource.getpagesize()
        yield GaugeMetricFamily(
            "process_resident_memory_bytes", "Resident memory.", value=resident * page
        )
        yield GaugeMetricFamily(
            "process_virtual_memory_bytes", "Virtual memory.", value=virtual * page
        )
        yield GaugeMetricFamily(
            "process_open_fds", "Open descriptors.", value=len(os.listdir("/proc/self/fd"))
        )
        yield GaugeMetricFamily(
            "process_max_fds",
            "Bound on open descriptors.",
            value=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        )


class _Collector:
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return self._metrics.collect()
