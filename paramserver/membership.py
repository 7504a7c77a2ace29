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
    """All that a leader looks at: who is there, the map, the runs asked for and those ended.

    ``finished`` says that the run under way has ended, as its run table tells, ``settled`` that who is
    not ``present`` has gone, and is not on its way back; those of the ``dead`` have in any case. Who
    is in ``doubt`` was taken for dead a moment ago, and comes back at once if it lives.
    """

    present: Mapping[str, Present]
    map: ClusterMap
    runs: Mapping[str, RunSpec]
    outcomes: frozenset[str] = frozenset()
    finished: bool = False
    settled: bool = True
    dead: frozenset[tuple[str, int]] = frozenset()
    doubt: frozenset[tuple[str, int]] = frozenset()

    @property
    def waiting(self) -> list[str]:
        """The runs asked for that have neither begun nor ended."""
        current = self.map.run.name if self.map.run is not None else None
        return sorted(name for name in self.runs if name not in self.outcomes and name != current)


@dataclass(slots=True)
class Decision:
    """What a leader writes: a new map, outcomes of runs that ended, and those to forget."""

    map: ClusterMap | None = None
    outcomes: dict[str, dict[str, Any]] = field(default_factory=dict)
    forget: list[str] = field(default_factory=list)


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
    decision = _keep(view) if view.map.run is not None else _begin(view)
    decision.forget = sorted(view.outcomes - set(view.runs))
    return decision


def _begin(view: View) -> Decision:
    """Start the first run asked for that has enough members."""
    shards, workers = shards_of(view), workers_of(view)
    for name in view.waiting:
        spec = view.runs[name]
        if len(shards) >= spec.min_shards and len(workers) >= spec.min_workers:
            return Decision(map=view.map.with_run(spec, shards))
    return Decision()


def _keep(view: View) -> Decision:
    """End the run under way where it was withdrawn, is lost, or stands in another's way.

    A run that has finished keeps its weights until its driver has fetched them and withdraws it, or,
    if the driver is gone, until another run is asked for.
    """
    run = view.map.run
    assert run is not None
    spec = view.runs.get(run.name)
    table = f"{run.name}/model"
    if spec is None or run.name in view.outcomes or spec.attempt != run.attempt:
        return Decision(map=view.map.without_run(table))
    if view.finished and view.waiting and not is_here(view, spec.driver):
        return Decision(
            map=view.map.without_run(table), outcomes={run.name: {"status": "finished"}}
        )
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
    error = f"lost {'; '.join(texts)}: no other peer holds a copy"
    return Decision(
        map=view.map.without_run(table),
        outcomes={run.name: {"status": "failed", "error": error, "exit_code": 75}},
    )


def is_here(view: View, peer: tuple[str, int] | None) -> bool:
    """Say whether a peer is there in this very incarnation."""
    here = view.present.get(peer[0]) if peer is not None else None
    return here is not None and peer is not None and here.member.incarnation == peer[1]


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
        if here is None:
            who = (member.name, member.incarnation)
            gone = who in view.dead or (view.settled and who not in view.doubt)
        else:
            gone = here.member.incarnation != member.incarnation
        if gone:
            lost[member] = slices
    return lost
