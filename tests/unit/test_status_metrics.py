"""The metrics made of a status document: names, values, and what is left out."""

from __future__ import annotations

import math
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families

from paramserver.runreport import snapshot
from paramserver.runtable import RunTable
from paramserver.spec import RunSpec, TableSpec
from paramserver.status.metrics import StatusCollector
from paramserver.types import PeerId
from paramserver.wire.run import Report

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def registry(document: dict[str, Any], ready: tuple[str, str] = ("ok", "ok")) -> CollectorRegistry:
    made = CollectorRegistry()
    made.register(StatusCollector(lambda: document, lambda: ready))
    return made


def samples(document: dict[str, Any], ready: tuple[str, str] = ("ok", "ok")) -> Samples:
    text = generate_latest(registry(document, ready)).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def labelled(**labels: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(labels.items()))


def run_snapshot() -> dict[str, Any]:
    """A real run's snapshot: one of two workers trained a clock, the other was dropped."""
    table = RunTable(
        RunSpec(
            name="mnist",
            table=TableSpec(size=10, consistency="bsp", parts=2),
            examples=64,
            batch_size=32,
            epochs=2,
        ),
        0.0,
    )
    one, two = PeerId("peer-0", 1), PeerId("peer-1", 1)
    for who in (one, two):
        table.report(Report("mnist", who.name, who.incarnation, "numpy", "", True, 1), 0.0)
    table.work_for(one, 0.0)
    table.report(Report("mnist", one.name, 1, "numpy", "", True, 2, initialised=True), 0.0)
    table.drop(two, "left", 1.0)
    table.report(
        Report(
            "mnist",
            one.name,
            1,
            "numpy",
            "",
            True,
            3,
            parts=[(0, 0, 16, 8.0, 12), (0, 1, 16, 24.0, 4)],
            pushes=(0, 1, 0),
        ),
        2.0,
    )
    return snapshot(table, 4.0)


def document(**other: Any) -> dict[str, Any]:
    return {
        "version": 1,
        "cluster": "local",
        "peer": {"name": "peer-0", "incarnation": 7, "uptime": 12.5, "device": "pocl"},
        "coordinator": {"state": "connected", "leader": "peer-0", "is_leader": True},
        "members": {
            "peer-0": {"roles": ["shard", "worker"]},
            "peer-1": {"roles": ["worker"]},
            "spare": {"roles": []},
        },
        "map": {
            "serial": 3,
            "tables": {
                "mnist/model": {
                    "size": 1000,
                    "slices": 17,
                    "held": 9,
                    "clock": 12,
                    "applied": 100,
                    "repeated": 1,
                    "refused": 2,
                    "staleness": {"mean": 0.25, "max": 3},
                }
            },
        },
        "run": None,
        **other,
    }


def test_the_peer_and_its_cluster() -> None:
    found = samples(document())
    assert found["paramserver_uptime_seconds", ()] == 12.5
    assert found["paramserver_is_leader", ()] == 1
    assert found["paramserver_coordinator_connected", ()] == 1
    assert found["paramserver_members", ()] == 3
    assert found["paramserver_members_by_role", labelled(role="shard")] == 1
    assert found["paramserver_members_by_role", labelled(role="worker")] == 2
    assert found["paramserver_map_serial", ()] == 3
    info = labelled(cluster="local", name="peer-0", incarnation="7", address="", device="pocl")
    assert found["paramserver_peer_info", info] == 1


@pytest.mark.parametrize("state", ["ok", "degraded", "not ready"])
def test_readiness(state: str) -> None:
    found = samples(document(), (state, "why"))
    for known in ("ok", "degraded", "not ready"):
        label = labelled(paramserver_ready_state=known)
        assert found["paramserver_ready_state", label] == (known == state)


def test_tables() -> None:
    found = samples(document())
    label = labelled(table="mnist/model")
    assert found["paramserver_table_values", label] == 1000
    assert found["paramserver_table_slices_held", label] == 9
    assert found["paramserver_table_updates_applied_total", label] == 100
    assert found["paramserver_table_updates_repeated_total", label] == 1
    assert found["paramserver_table_updates_refused_total", label] == 2
    assert found["paramserver_table_staleness_mean_updates", label] == 0.25


def test_a_run() -> None:
    snapshot = run_snapshot()
    found = samples(document(run=snapshot))
    run = labelled(run="mnist")
    assert found["paramserver_run_examples_total", run] == 32
    assert found["paramserver_run_examples_wanted", run] == 128
    assert found["paramserver_run_steps_total", run] == 1
    assert found["paramserver_run_loss", run] == 1.0
    assert found["paramserver_run_recent_accuracy_ratio", run] == 0.5
    assert found["paramserver_run_training_seconds_total", run] == 4.0
    assert found["paramserver_run_examples_per_second", run] == 8.0
    assert found["paramserver_run_workers", run] == 1
    assert found["paramserver_run_workers_dropped", run] == 1
    assert found["paramserver_run_pushes_total", labelled(run="mnist", outcome="applied")] == 2
    assert found["paramserver_run_pushes_total", labelled(run="mnist", outcome="duplicate")] == 1
    worker = labelled(run="mnist", worker="peer-0")
    assert found["paramserver_run_worker_examples_total", worker] == 32
    assert found["paramserver_run_worker_heard_seconds", worker] == 2.0
    train = labelled(run="mnist", paramserver_run_phase="train")
    assert found["paramserver_run_phase", train] == 1
    # Nothing was tested yet.
    assert ("paramserver_run_test_loss", run) not in found


def test_the_staleness_of_a_run_is_a_histogram() -> None:
    snapshot = run_snapshot()
    snapshot["staleness"]["clocks"] = {"0": 5, "1": 3, "3": 2, "500": 1}
    found = samples(document(run=snapshot))

    def bucket(bound: str) -> float:
        return found["paramserver_run_staleness_clocks_bucket", labelled(run="mnist", le=bound)]

    assert [bucket(bound) for bound in ("0.0", "1.0", "2.0", "4.0", "128.0", "+Inf")] == [
        5,
        8,
        8,
        10,
        10,
        11,
    ]
    assert found["paramserver_run_staleness_clocks_count", labelled(run="mnist")] == 11
    assert found["paramserver_run_staleness_clocks_sum", labelled(run="mnist")] == 509


@pytest.mark.parametrize(
    "lacking",
    [
        {"version": 1},
        dict.fromkeys(("version", "cluster", "peer", "coordinator", "members", "map", "run")),
        document(run={"run": "mnist", "at": "peer-1"}),
        document(
            peer={},
            coordinator={},
            members={"a": None, "b": {"roles": None}},
            map={"serial": None, "tables": {"t": {"size": None, "held": 0}}},
            run={"run": "mnist", "phase": "initialise", "loss": None, "staleness": None},
        ),
    ],
)
def test_what_the_document_lacks_is_left_out(lacking: dict[str, Any]) -> None:
    found = samples(lacking)
    assert ("paramserver_members", ()) in found
    assert not any(name == "paramserver_run_loss" for name, _ in found)


def test_numbers_that_are_not_finite_are_kept() -> None:
    found = samples(document(run={"run": "r", "phase": "train", "loss": math.nan}))
    assert math.isnan(found["paramserver_run_loss", labelled(run="r")])


def test_hostile_names_stay_labels() -> None:
    name = 'a"} 1\nforged 2\\\udc80'
    tables = {name: {"size": 1}}
    found = samples(document(map={"tables": tables}))
    assert ("forged", ()) not in found
    assert found["paramserver_table_values", labelled(table='a"} 1\nforged 2\\?')] == 1


def test_openmetrics_accepts_the_same() -> None:
    text = generate_openmetrics(registry(document(run=run_snapshot()))).decode()
    names = {family.name for family in parse_openmetrics(text)}
    assert {"paramserver_run_examples", "paramserver_peer", "paramserver_run_phase"} <= names
