"""What a leader decides, from what it sees."""

from __future__ import annotations

from dataclasses import replace

from paramserver.membership import Present, View, decide
from paramserver.placement import ClusterMap, Member
from paramserver.spec import RunSpec, TableSpec


def member(name: str, incarnation: int = 1) -> Member:
    return Member(name=name, incarnation=incarnation, address=f"{name}:7000")


def present(**roles: str) -> dict[str, Present]:
    return {name: Present(member(name), tuple(has.split())) for name, has in roles.items()}


RUN = RunSpec(name="r", table=TableSpec(size=100_000), examples=10, min_workers=2, min_shards=1)


def test_a_run_begins_once_enough_members_are_there() -> None:
    runs = {"r": RUN}
    few = View(present(a="shard worker"), ClusterMap(), runs)
    assert decide(few).map is None
    enough = View(present(a="shard worker", b="worker", c="shard", d=""), ClusterMap(), runs)
    placed = decide(enough).map
    assert placed is not None
    assert placed.run is not None
    assert [one.name for one in placed.members] == ["a", "c"]
    assert decide(View(enough.present, placed, runs)).map is None


def test_runs_wait_for_their_turn_and_ended_ones_are_not_begun_again() -> None:
    here = present(a="shard worker", b="worker")
    runs = {"r": RUN, "s": RUN.model_copy(update={"name": "s"})}
    first = decide(View(here, ClusterMap(), runs)).map
    assert first is not None
    assert first.run is not None
    assert first.run.name == "r"
    second = decide(View(here, ClusterMap(), runs, frozenset({"r"}))).map
    assert second is not None
    assert second.run is not None
    assert second.run.name == "s"


def test_a_finished_run_makes_way_only_when_another_waits() -> None:
    here = present(a="shard worker", b="worker")
    placed = ClusterMap().with_run(RUN, [member("a")])
    assert decide(View(here, placed, {"r": RUN}, finished=True)).map is None
    runs = {"r": RUN, "s": RUN.model_copy(update={"name": "s"})}
    assert decide(View(here, placed, runs)).map is None
    driven = {**runs, "r": RUN.model_copy(update={"driver": ("b", 1)})}
    assert decide(View(here, placed, driven, finished=True)).map is None, "b fetches the result"
    decision = decide(View(here, placed, runs, finished=True))
    assert decision.map is not None
    assert decision.map.run is None
    assert decision.outcomes == {"r": {"status": "finished"}}
    begun = decide(View(here, decision.map, runs, frozenset({"r"}))).map
    assert begun is not None
    assert begun.run is not None
    assert begun.run.name == "s"


def test_outcomes_of_runs_that_nobody_asks_for_any_more_are_forgotten() -> None:
    decision = decide(View({}, ClusterMap(), {}, frozenset({"old"})))
    assert decision.forget == ["old"]


def test_a_withdrawn_run_leaves_the_map() -> None:
    here = present(a="shard worker", b="worker")
    placed = ClusterMap().with_run(RUN, [member("a")])
    after = decide(View(here, placed, {})).map
    assert after is not None
    assert after.run is None
    assert after.tables == {}


def test_a_lost_worker_changes_nothing_and_a_lost_shard_ends_the_run_by_name() -> None:
    placed = ClusterMap().with_run(RUN, [member("a"), member("b")])
    runs = {"r": RUN}
    whole = present(a="shard worker", b="shard worker")
    assert decide(View(whole, placed, runs)).map is None
    waiting = View(present(a="shard worker"), placed, runs, settled=False)
    assert decide(waiting).map is None
    assert decide(replace(waiting, dead=frozenset({("b", 2)}))).map is None
    assert decide(replace(waiting, dead=frozenset({("b", 1)}))).outcomes["r"]["exit_code"] == 75
    doubted = replace(waiting, settled=True, doubt=frozenset({("b", 1)}))
    assert decide(doubted).outcomes == {}
    assert decide(replace(doubted, doubt=frozenset())).outcomes["r"]["exit_code"] == 75
    decision = decide(View(present(a="shard worker"), placed, runs))
    assert decision.map is not None
    assert decision.map.run is None
    outcome = decision.outcomes["r"]
    assert outcome["exit_code"] == 75
    assert "lost b at b:7000 (8 of 17 slices)" in outcome["error"]


def test_another_incarnation_is_a_lost_member_even_if_it_is_there() -> None:
    placed = ClusterMap().with_run(RUN, [member("a")])
    reborn = {"a": Present(member("a", 2), ("shard", "worker"))}
    decision = decide(View(reborn, placed, {"r": RUN}))
    assert "the run table" in decision.outcomes["r"]["error"]
