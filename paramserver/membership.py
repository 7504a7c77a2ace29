"""What a leader decides: the map from the members, and the fate of a run. Pure, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from paramserver.placement import ClusterMap, Member
from paramserver.spec import RunSpec


@dataclass(frozen=True, slots=True)
class Present:
    """A member of the cluster as it registered itself."""

    member: Member
    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class View:
    """All that a leader looks at: who is there, the map, the runs asked for and those ended."""

    present: Mapping[str, Present]
    map: ClusterMap
    runs: Mapping[str, RunSpec]
    outcomes: frozenset[str] = frozenset()


@dataclass(slots=True)
class Decision:
    """What a leader writes: a new map, and outcomes of runs that cannot go on."""

    map: ClusterMap | None = None
    outcomes: dict[str, dict[str, Any]] = field(default_factory=dict)


def shards_of(view: View) -> list[Member]:
    """Return the members that hold slices, in the order of their names."""
    found = [one.member for one in view.present.values() if "shard" in one.roles]
    return sorted(found, key=lambda member: member.name)


def workers_of(view: View) -> list[Member]:
    """Return the members that compute, in the order of their names."""
    found = [one.member for one in view.present.values() if "worker" in one.roles]
    return sorted(found, key=lambda member: member.name)


def decide(view: View) -> Decision:
    """Decide what to change; an empty decision where all is as it should be."""
    if view.map.run is not None:
        return _keep(view)
    return _begin(view)


def _begin(view: View) -> Decision:
    """Start the first run asked for that has enough members."""
    shards, workers = shards_of(view), workers_of(view)
    for name in sorted(view.runs):
        spec = view.runs[name]
        if name in view.outcomes:
            continue
        if len(shards) >= spec.min_shards and len(workers) >= spec.min_workers:
            return Decision(map=view.map.with_run(spec, shards))
    return Decision()


def _keep(view: View) -> Decision:
    """End the run under way where it was withdrawn, or where slices of it are lost."""
    run = view.map.run
    assert run is not None
    spec = view.runs.get(run.name)
    table = f"{run.name}/model"
    if spec is None or run.name in view.outcomes:
        return Decision(map=view.map.without_run(table))
    lost = _lost(view, table)
    if not lost:
        return Decision()
    entry = view.map.tables[table]
    total = len(entry.chains)
    texts = []
    for member, slices in lost.items():
        held = f"{len(slices)} of {total} slices" if slices else "no slice"
        texts.append(
            f"{member.name} at {member.address} "
            f"({held}{', the run table' if member == view.map.run_primary() else ''})"
        )
    error = (
        f"lost {'; '.join(texts)}: no other peer holds a copy; "
        "start the run again, with peers that stay"
    )
    return Decision(
        map=view.map.without_run(table),
        outcomes={run.name: {"status": "failed", "error": error, "exit_code": 75}},
    )


def _lost(view: View, table: str) -> dict[Member, list[int]]:
    """Return the members of the map that are gone, with the slices that only they held."""
    lost: dict[Member, list[int]] = {}
    run = view.map.run
    needed: dict[int, list[int]] = {place: [] for place in run.chain} if run is not None else {}
    for index, chain in enumerate(view.map.tables[table].chains):
        needed.setdefault(chain[0], []).append(index)
    for place, slices in needed.items():
        member = view.map.members[place]
        here = view.present.get(member.name)
        if here is None or here.member.incarnation != member.incarnation:
            lost[member] = slices
    return lost
