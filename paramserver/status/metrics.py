"""Prometheus metrics, collected from the status document when they are asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client import Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    StateSetMetricFamily,
)
from prometheus_client.registry import Collector

from paramserver.runstate import Phase

STALENESS_BOUNDS = (0, 1, 2, 4, 8, 16, 32, 64, 128)


@dataclass(frozen=True, slots=True)
class Reading:
    """One metric: where its number stands in a part of the document. Counters get ``_total``."""

    name: str
    path: str
    help: str
    counter: bool = False


PEER = (
    Reading("paramserver_uptime_seconds", "peer.uptime", "How long this peer has been up."),
    Reading(
        "paramserver_is_leader", "coordinator.is_leader", "1 where this peer leads the cluster."
    ),
    Reading("paramserver_map_serial", "map.serial", "Version of the map that this peer knows."),
)
TABLES = (
    Reading("paramserver_table_values", "size", "Float32 values in the whole table."),
    Reading("paramserver_table_slices", "slices", "Slices of the whole table."),
    Reading("paramserver_table_slices_held", "held", "Slices that this peer holds."),
    Reading("paramserver_table_clock", "clock", "Clock that this peer's slices have reached."),
    Reading(
        "paramserver_table_updates_applied", "applied", "Updates applied to slices here.", True
    ),
    Reading(
        "paramserver_table_updates_repeated",
        "repeated",
        "Updates that came again and were answered but not applied.",
        True,
    ),
    Reading("paramserver_table_updates_refused", "refused", "Updates refused here.", True),
    Reading(
        "paramserver_table_staleness_mean_updates",
        "staleness.mean",
        "Mean count of updates between a pull and the push that followed it.",
    ),
    Reading(
        "paramserver_table_staleness_max_updates",
        "staleness.max",
        "Largest count of updates between a pull and the push that followed it.",
    ),
)
RUN = (
    Reading("paramserver_run_attempt", "attempt", "Raised at each restart from a checkpoint."),
    Reading("paramserver_run_epochs", "epochs", "Epochs done.", True),
    Reading("paramserver_run_epochs_wanted", "epochs_wanted", "Epochs that the run is to do."),
    Reading("paramserver_run_clock", "clock", "The run's clock (bsp)."),
    Reading("paramserver_run_steps", "steps", "Server updates done.", True),
    Reading("paramserver_run_examples", "examples", "Examples trained.", True),
    Reading(
        "paramserver_run_examples_wanted", "examples_wanted", "Examples that the run is to train."
    ),
    Reading(
        "paramserver_run_repeated_examples",
        "repeated_examples",
        "Examples trained again after a worker was lost.",
        True,
    ),
    Reading("paramserver_run_training_seconds", "seconds", "Time spent in training.", True),
    Reading(
        "paramserver_run_examples_per_second",
        "samples_per_second",
        "Examples per second of training, since its start.",
    ),
    Reading("paramserver_run_loss", "loss", "Training loss of the last whole epoch, or so far."),
    Reading("paramserver_run_recent_loss", "recent_loss", "Training loss of recent examples."),
    Reading(
        "paramserver_run_recent_accuracy_ratio",
        "recent_accuracy",
        "Share of recent training examples classified right.",
    ),
    Reading("paramserver_run_test_loss", "test_loss", "Loss on the test examples."),
    Reading(
        "paramserver_run_test_accuracy_ratio",
        "test_accuracy",
        "Share of test examples classified right.",
    ),
    Reading(
        "paramserver_run_staleness_mean_versions",
        "staleness.versions_mean",
        "Mean count of updates applied to a slice since the version that was pulled.",
    ),
)
WORKERS = (
    Reading("paramserver_run_worker_clock", "clock", "Iterations that the worker has finished."),
    Reading("paramserver_run_worker_examples", "examples", "Examples it trained.", True),
    Reading("paramserver_run_worker_heard_seconds", "heard_ago", "How long ago it was heard."),
)


class StatusCollector(Collector):
    """Makes the metrics of one peer from its status document at each scrape.

    What the document lacks is left out, so a peer that does not hold the run table has no
    ``paramserver_run_*``.
    """

    def __init__(
        self, status: Callable[[], dict[str, Any]], ready: Callable[[], tuple[str, str]]
    ) -> None:
        self._status = status
        self._ready = ready

    def collect(self) -> Iterator[Metric]:
        """Yield every metric family that has a sample."""
        document = self._status()
        yield from self._peer(document)
        tables = _map(_at(document, "map.tables"))
        yield from _families(TABLES, ["table"], [([name], table) for name, table in tables.items()])
        run = _map(document.get("run"))
        if "phase" in run:
            yield from _run(run)

    def _peer(self, document: dict[str, Any]) -> Iterator[Metric]:
        peer = _map(document.get("peer"))
        yield InfoMetricFamily(
            "paramserver_peer",
            "This peer.",
            value={
                "cluster": _text(document.get("cluster")),
                "name": _text(peer.get("name")),
                "incarnation": _text(peer.get("incarnation")),
                "address": _text(peer.get("address")),
                "device": _text(peer.get("device")),
            },
        )
        state, _ = self._ready()
        yield StateSetMetricFamily(
            "paramserver_ready_state",
            "Whether this peer can serve.",
            value={known: state == known for known in ("ok", "degraded", "not ready")},
        )
        yield from _families(PEER, [], [([], document)])
        coordinator = _map(document.get("coordinator"))
        if coordinator:
            connected = coordinator.get("state") == "connected"
            yield GaugeMetricFamily(
                "paramserver_coordinator_connected",
                "1 where the coordination store answers.",
                value=float(connected),
            )
        members = _map(document.get("members"))
        yield GaugeMetricFamily(
            "paramserver_members", "Peers in the cluster.", value=float(len(members))
        )
        roles = Counter(
            _text(role) for member in members.values() for role in _map(member).get("roles") or ()
        )
        by_role = GaugeMetricFamily(
            "paramserver_members_by_role", "Peers that have a role.", labels=["role"]
        )
        for role in ("shard", "worker"):
            by_role.add_metric([role], float(roles[role]))
        yield by_role


def _run(run: dict[str, Any]) -> Iterator[Metric]:
    name = _text(run.get("run"))
    yield from _families(RUN, ["run"], [([name], run)])
    phase = StateSetMetricFamily("paramserver_run_phase", "Where the run stands.", labels=["run"])
    phase.add_metric([name], {known.value: run["phase"] == known.value for known in Phase})
    yield phase
    pushes = CounterMetricFamily(
        "paramserver_run_pushes", "Logical pushes by their outcome.", labels=["run", "outcome"]
    )
    for outcome, count in _map(run.get("pushes")).items():
        if (number := _number(count)) is not None:
            pushes.add_metric([name, _text(outcome)], number)
    if pushes.samples:
        yield pushes
    yield from _staleness(name, _map(_at(run, "staleness.clocks")))
    workers = _map(run.get("workers"))
    for family, help_text, count in (
        ("paramserver_run_workers", "Active workers.", len(workers)),
        ("paramserver_run_workers_dropped", "Workers dropped.", len(_map(run.get("dropped")))),
    ):
        gauge = GaugeMetricFamily(family, help_text, labels=["run"])
        gauge.add_metric([name], float(count))
        yield gauge
    rows = [([name, worker], document) for worker, document in workers.items()]
    yield from _families(WORKERS, ["run", "worker"], rows)


def _staleness(run: str, clocks: dict[str, Any]) -> Iterator[Metric]:
    counts = {int(value): int(count) for value, count in clocks.items()}
    buckets = [
        (f"{bound:.1f}", float(sum(n for value, n in counts.items() if value <= bound)))
        for bound in STALENESS_BOUNDS
    ]
    buckets.append(("+Inf", float(sum(counts.values()))))
    family = HistogramMetricFamily(
        "paramserver_run_staleness_clocks",
        "How many clocks a worker was ahead of the least active one.",
        labels=["run"],
    )
    family.add_metric([run], buckets, float(sum(value * n for value, n in counts.items())))
    yield family


def _families(
    readings: Iterable[Reading],
    labels: Sequence[str],
    rows: Sequence[tuple[Sequence[str], Any]],
) -> Iterator[Metric]:
    """Yield one family a reading, with a sample for each row whose document has the number."""
    for reading in readings:
        kind = CounterMetricFamily if reading.counter else GaugeMetricFamily
        family = kind(reading.name, reading.help, labels=labels)
        for values, document in rows:
            number = _number(_at(document, reading.path))
            if number is not None:
                family.add_metric([_text(value) for value in values], number)
        if family.samples:
            yield family


def _at(document: Any, path: str) -> Any:
    for key in path.split("."):
        document = _map(document).get(key)
    return document


def _map(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _text(value: Any) -> str:
    """Return a label's value; what cannot be encoded in UTF-8 becomes a question mark."""
    return "" if value is None else str(value).encode("utf-8", "replace").decode("utf-8")
