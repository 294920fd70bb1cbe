"""What a proxy says of itself: its health as JSON, and its counters for Prometheus.

The counters are the writer's own, read when they are asked for: what passes through the proxy pays nothing for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from recorder import jsontext
from recorder.collect.writer import COMMIT_SECONDS, Writer

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4.encode()


class Metrics:
    """Of one writer."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Counters(writer))

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)

    def health(self) -> tuple[bool, bytes]:
        """Whether all is well, and a JSON document that says what is not."""
        writer = self._writer
        since = writer.failing_since or writer.hanging_since
        said = {
            "status": "ok" if since is None else "failing",
            "database": "ok" if since is None else "failing",
            "failing_since": since and since.isoformat(timespec="milliseconds"),
            "streams_open": len(writer.open),
            "memory_bytes": writer.budget.used,
            "memory_limit_bytes": writer.budget.limit,
            "queue_bytes": writer.waiting_bytes,
            "queue_age_seconds": round(writer.waiting_seconds, 6),
        }
        return since is None, jsontext.dumps(said).encode() + b"\n"


class _Counters(Collector):
    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        writer, budget = self._writer, self._writer.budget
        yield GaugeMetricFamily("recorder_streams_open", "Streams that have not ended yet.", len(writer.open))
        yield _by("recorder_streams", "Streams that ended, by how (an outcome of the log's).", "outcome", writer.outcomes.copy())
        yield CounterMetricFamily("recorder_events", "Events that were committed.", writer.events)
        yield CounterMetricFamily("recorder_bytes", "Bytes of bodies that were committed.", writer.bytes)
        yield GaugeMetricFamily("recorder_queue_bytes", "Bytes of memory that wait to be committed.", writer.waiting_bytes)
        memory = GaugeMetricFamily("recorder_memory_bytes", "Bytes of memory that are held, by what for.", labels=["of"])
        for of, size in (("queue", budget.queue), ("blocks", budget.blocks), ("requests", budget.requests)):
            memory.add_metric([of], size)
        yield memory
        yield GaugeMetricFamily("recorder_memory_limit_bytes", "Bytes beyond which they are dropped.", budget.limit)
        yield GaugeMetricFamily("recorder_queue_age_seconds", "How long the oldest of them has waited.", writer.waiting_seconds)
        yield CounterMetricFamily("recorder_commits", "Transactions that were committed.", writer.commits)
        commits = HistogramMetricFamily("recorder_commit_seconds", "How long a commit took.")
        bounds = [*map(str, COMMIT_SECONDS), "+Inf"]
        commits.add_metric([], list(zip(bounds, accumulate(writer.commit_times), strict=True)), writer.commit_seconds)
        yield commits
        yield _by("recorder_gaps", "Gaps that were recorded, by why.", "reason", writer.gaps.copy())
        yield CounterMetricFamily("recorder_dropped_bytes", "Bytes that were not recorded.", writer.dropped_bytes)
        yield CounterMetricFamily("recorder_database_errors", "Transactions that failed.", writer.errors)
        yield CounterMetricFamily("recorder_faults", "Errors of recorder itself.", writer.faults)
        yield CounterMetricFamily("recorder_streams_given_up", "Streams whose rest could not be stored.", writer.given_up)
        yield CounterMetricFamily("recorder_streams_missing", "Streams that are not recorded at all.", writer.missing)
        yield CounterMetricFamily("recorder_leases_lost", "How often another took this recorder for dead.", writer.leases_lost)
        yield CounterMetricFamily("recorder_files_lost", "How often the database's file was removed.", writer.files_lost)


def _by(name: str, documentation: str, label: str, counts: dict[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, documentation, labels=[label])
    for value, count in sorted(counts.items()):
        family.add_metric([value], count)
    return family
