"""Random faults of networks, servers and processes: leaders change, and what they write is in order."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import pytest
from faulting.proxy import FaultProxy, Proxy
from zookeeping.jars import NoZooKeeper
from zookeeping.server import Ensemble, Server

from tests.support.process import ROOT, environment

pytestmark = pytest.mark.usefixtures("no_orphans")

SECONDS = float(os.environ.get("PARAMSERVER_CHAOS_SECONDS", "20"))
T = 1.0
NAMES = "abcd"
OFTEN = 0.35
"""Seconds between two faults, in the mean."""
FAULTS = {
    "reset": 3,
    "end": 3,
    "refuse": 4,
    "half-close": 3,
    "black hole": 4,
    "expire": 3,
    "stop a candidate": 3,
    "freeze a server": 2,
    "kill a server": 1,
    "part a server": 2,
    "heal": 4,
}
"""How often each comes, in comparison."""


class Trouble:
    """Breaks the ways of candidates, the candidates and the servers, and heals them."""

    def __init__(
        self,
        chance: random.Random,
        folder: Path,
        ways: dict[str, list[FaultProxy]],
        candidates: dict[str, subprocess.Popen[bytes]],
        servers: list[Server],
        between: dict[tuple[int, int], list[Proxy]],
    ) -> None:
        self._chance = chance
        self._folder = folder
        self._ways = ways
        self._candidates = candidates
        self._servers = servers
        self._between = between
        self._unwell: Server | None = None
        self.done: Counter[str] = Counter()

    async def go_on(self, seconds: float) -> None:
        """Make trouble for so many seconds, then heal everything."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while loop.time() < end:
            await asyncio.sleep(min(self._chance.expovariate(1 / OFTEN), 3.0))
            await self._one()
        await self._heal()

    async def _one(self) -> None:
        kind = self._chance.choices(list(FAULTS), list(FAULTS.values()))[0]
        name = self._victim()
        if kind == "expire" and not await self._expire(name):
            return
        if kind != "heal":
            self.done[kind] += 1
        for way in self._ways[name]:
            match kind:
                case "reset" | "end":
                    way.cut(refuse=False, reset=kind == "reset")
                case "refuse":
                    way.cut(refuse=True)
                case "half-close":
                    way.half_close()
                case "black hole":
                    way.frozen = True
        match kind:
            case "stop a candidate":
                self._candidates[name].send_signal(signal.SIGSTOP)
            case "freeze a server" | "kill a server" | "part a server" if self._unwell is None:
                # One at a time: without a quorum there is nothing to elect anybody by.
                place = self._chance.randrange(len(self._servers))
                self._unwell = self._servers[place]
                if kind == "freeze a server":
                    self._unwell.freeze()
                elif kind == "kill a server":
                    self._unwell.kill()
                else:
                    self._part(place)
            case "heal":
                await self._heal()

    async def _expire(self, name: str) -> bool:
        """End a candidate's session behind its back, at any server that knows it."""
        for way in self._ways[name]:
            way.cut(refuse=True)
        return any([await way.expire() for way in self._ways[name]])

    def _part(self, place: int) -> None:
        """Part a server from the others, while it goes on to answer clients for a while."""
        silent = self._chance.random() < 0.5
        for pair, ways in self._between.items():
            for way in ways if place in pair else ():
                if silent:
                    way.frozen = True
                else:
                    way.cut(refuse=True)

    def _victim(self) -> str:
        """Choose a candidate: mostly the one that leads, who wrote last."""
        if self._chance.random() < 0.4:
            return self._chance.choice(NAMES)
        return max(self._folder.glob("*.jsonl"), key=lambda log: log.stat().st_mtime).stem

    async def _heal(self) -> None:
        for way in chain(*self._ways.values(), *self._between.values()):
            way.refuses = way.frozen = False
        for candidate in self._candidates.values():
            candidate.send_signal(signal.SIGCONT)
        unwell, self._unwell = self._unwell, None
        if unwell is not None:
            unwell.thaw()
            unwell.start()
            await asyncio.to_thread(unwell.wait)


async def play(folder: Path, ensemble: Ensemble, seconds: float, seed: int) -> Counter[str]:
    """Have four candidates under random faults; each writes ``folder``/name.jsonl."""
    chance, servers = random.Random(seed), ensemble.servers
    between: dict[tuple[int, int], list[Proxy]] = {}
    ways: dict[str, list[FaultProxy]] = {}
    candidates: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for one in ensemble.ways:
            proxy = Proxy(one.target, one.port)
            await proxy.start()
            between.setdefault((one.here, one.there), []).append(proxy)
        await asyncio.to_thread(ensemble.__enter__)
        for name in NAMES:
            ways[name] = [FaultProxy(server.address) for server in servers]
            address = ",".join([await way.start() for way in ways[name]])
            log, errors = folder / f"{name}.jsonl", folder / f"{name}.txt"
            command = [sys.executable, "-m", "tests.support.candidate", address, name, str(log)]
            with errors.open("wb") as stderr:
                candidates[name] = subprocess.Popen(  # noqa: ASYNC220
                    [*command, str(T)], cwd=ROOT, env=environment(), stderr=stderr
                )
        trouble = Trouble(chance, folder, ways, candidates, servers, between)
        await more_writes(folder, 0)
        await trouble.go_on(seconds)
        # All is well again, so somebody leads again.
        await more_writes(folder, written(folder) + 10)
        ended = {name: process.poll() for name, process in candidates.items()}
        said = {name: (folder / f"{name}.txt").read_text()[-2000:] for name in NAMES}
        assert set(ended.values()) == {None}, (ended, said)
    finally:
        for process in candidates.values():
            process.kill()
            process.wait()
        ensemble.__exit__()
        for way in chain(*ways.values(), *between.values()):
            await way.close()
    return trouble.done


async def more_writes(folder: Path, than: int, seconds: float = 30.0) -> None:
    """Wait until more numbers were written ``than`` so many."""
    async with asyncio.timeout(seconds):
        while written(folder) <= than:
            await asyncio.sleep(0.1)  # other processes write them


def written(folder: Path) -> int:
    """Return how many numbers were written so far."""
    return sum(one["outcome"] == "written" for one in lines(folder))


def lines(folder: Path) -> list[dict[str, Any]]:
    """Return all tries of all candidates, in the order of their ends."""
    found = [
        json.loads(line)
        for log in folder.glob("*.jsonl")
        for line in log.read_text().splitlines()
        if line.endswith("}")
    ]
    return sorted(found, key=lambda one: float(one["ended"]))


def judge(tries: list[dict[str, Any]]) -> dict[str, Any]:
    """See that what was written is in order; return the figures."""
    written = [one for one in tries if one["outcome"] == "written"]
    by_number = sorted(written, key=lambda one: one["n"])
    numbers = [one["n"] for one in by_number]
    assert len(set(numbers)) == len(numbers), "a number was written twice"
    terms = [tuple(one["term"]) for one in by_number]
    assert terms == sorted(terms), "a term wrote after a later one had"
    owners = {(tuple(one["term"]), one["name"]) for one in tries}
    assert len(owners) == len({term for term, _ in owners}), "two candidates had one term"
    for before, after in pairwise(by_number):
        assert before["began"] < after["ended"], "a later number was written before"
        if before["term"] != after["term"]:
            # A term begins after the one before it could be valid no more.
            assert before["began"] < after["began"]
    times = [one["ended"] for one in by_number]
    return {
        "writes": len(written),
        "terms": len(set(terms)),
        "rejected": sum(one["outcome"] in ("Fenced", "BadVersion") for one in tries),
        "unknown": sum(one["outcome"] == "unknown" for one in tries),
        "longest gap": max(b - a for a, b in pairwise(times)),
    }


@pytest.mark.deadline(SECONDS + 120)
def test_leaders_write_in_order_through_faults(tmp_path: Path, seed: int) -> None:
    try:
        ensemble = Ensemble(tmp_path / "zookeeper", 3, tick=200, apart=True)
        done = asyncio.run(play(tmp_path, ensemble, SECONDS, seed))
    except NoZooKeeper as error:
        pytest.skip(f"NO ZOOKEEPER: {error}")
    found = judge(lines(tmp_path))
    print(f"{sum(done.values())} faults in {SECONDS:g} s: {dict(done)}; {found}")
    assert found["terms"] > max(2, SECONDS / 20), "hardly anybody lost a term"
    assert found["writes"] > SECONDS
    assert sum(done.values()) > SECONDS
