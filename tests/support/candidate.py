"""A candidate as a process of its own: ``python -m tests.support.candidate ADDRESS NAME LOG T``.

While it leads it raises the number in the map, and writes a line of JSON for each try: the monotonic
time before and after, its term, and what came of it. A write whose outcome cannot be told is named so.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any, TextIO

from paramserver.config import ClusterConfig
from paramserver.coordination.coordinator import Coordinator, MemberInfo
from paramserver.coordination.documents import ABSENT
from paramserver.coordination.zookeeper import open_zookeeper
from paramserver.errors import BadVersion, Fenced, OutcomeUnknown, StoreError

PAUSE = 0.02


async def stand(address: str, name: str, log: TextIO, timeout: float) -> None:
    config = ClusterConfig(session_timeout=timeout, zookeeper={"address": address})
    store = await open_zookeeper(config, deadline=30.0)
    coordinator = Coordinator(store, cluster="chaos")
    info = MemberInfo(name=name, incarnation=1, address=f"{name}:1", roles=())
    async with asyncio.TaskGroup() as group:
        group.create_task(coordinator.run())
        await coordinator.members.register(info)
        while True:
            await raise_number(coordinator, name, log)
            await asyncio.sleep(PAUSE)


async def raise_number(coordinator: Coordinator, name: str, log: TextIO) -> None:
    began, term = time.monotonic(), coordinator.election.term
    valid = term is not None and term.valid
    if term is None or not valid:
        return
    line: dict[str, Any] = {"name": name, "term": [term.generation, term.czxid], "began": began}
    try:
        found, version = await coordinator.get_map()
        if found is None and version != ABSENT:
            return
        n = found["n"] + 1 if found is not None else 1
        line["n"] = n
        await coordinator.put_map({"n": n, "by": name}, version)
        line["outcome"] = "written"
    except (Fenced, BadVersion) as error:
        line["outcome"] = type(error).__name__
    except OutcomeUnknown:
        line["outcome"] = "unknown"
    except StoreError:
        line["outcome"] = "unavailable"
    print(json.dumps({**line, "ended": time.monotonic()}), file=log, flush=True)


def main() -> None:
    address, name, path, timeout = sys.argv[1:]
    with open(path, "a", encoding="utf-8") as log:
        asyncio.run(stand(address, name, log, float(timeout)))


if __name__ == "__main__":
    main()
