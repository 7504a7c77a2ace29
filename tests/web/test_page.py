"""The status page in a real browser."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Locator, Page, expect

from paramserver.status.events import MOST_LISTENERS
from paramserver.status.server import StatusServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOSTILE = '<script>window.owned = 1</script><img src=x onerror="window.owned = 1">"&amp;'


@dataclass
class Visit:
    """A page open at a server, and what the browser complained of."""

    page: Page
    document: dict[str, Any]
    server: StatusServer
    address: str
    complaints: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    async def open(self, state: str = "live") -> None:
        await self.page.goto(f"http://{self.address}/")
        await self.shows("#link", state)

    async def shows(self, selector: str, text: str | re.Pattern[str]) -> None:
        await expect(self.page.locator(selector)).to_have_text(text, timeout=15_000)

    async def rows(self, table: str) -> list[list[str]]:
        """Return the texts of a table's cells, without its head."""
        rows = self.page.locator(f"#{table} tbody tr")
        return [await self._cells(row) for row in await rows.all()]

    async def _cells(self, row: Locator) -> list[str]:
        cells = await row.locator("th, td").all()
        return [" ".join(await cell.locator("> *").all_inner_texts()) for cell in cells]

    async def numbers(self, which: str = "run-numbers") -> dict[str, list[str]]:
        """Return the lines of each value by its title."""
        found = {}
        for entry in await self.page.locator(f"#{which} > div").all():
            title = await entry.locator("dt").inner_text()
            found[title] = await entry.locator("dd > span").all_inner_texts()
        return found


@pytest_asyncio.fixture(loop_scope="module")
async def visit(browser: Browser, document: dict[str, Any]) -> AsyncIterator[Visit]:
    server = StatusServer(lambda: document, lambda: ("ok", "ok"))
    address = await server.start("127.0.0.1", 0)
    context = await browser.new_context(viewport={"width": 1100, "height": 900})
    page = await context.new_page()
    made = Visit(page, document, server, address)
    page.on("console", lambda said: made.complaints.append(f"{said.type}: {said.text}"))
    page.on("pageerror", lambda error: made.complaints.append(str(error)))
    page.on("request", lambda request: made.asked.append(request.url))
    yield made
    await context.close()
    await server.close()


async def test_the_page_shows_the_cluster(visit: Visit) -> None:
    await visit.open()
    await visit.shows("#cluster", "Cluster local")
    await visit.shows("#peer", "as seen by peer-0")
    await visit.shows("#leader", "led by peer-1")
    await expect(visit.page).to_have_title("60 % peer-0 · local")
    assert await visit.rows("members") == [
        ["peer-0 this peer", "shard, worker", "PoCL, cpu-cascadelake", "127.0.0.1:7000"],
        ["peer-1 leader", "shard, worker", "NVIDIA H200", "127.0.0.1:7001"],
        ["peer-2", "spare", "–", "127.0.0.1:7002"],
        ["peer-10", "worker", "numpy", "10.0.0.5:7010"],
    ]
    links = await visit.page.locator("#members a").all()
    assert [await link.get_attribute("href") for link in links] == [
        "http://127.0.0.1:41000/",
        "http://127.0.0.1:41001/",
        "http://[::1]:41002/",
        # It listens on every address, so it is reached where it is a peer.
        "http://10.0.0.5:41010/",
    ]
    facts = await visit.numbers("this")
    assert facts["Up for"] == ["1 h 2 min"]
    assert facts["Coordinator"] == ["embedded, connected"]
    assert facts["Leader's term"] == ["1 / 17"]
    assert visit.complaints == []


async def test_the_page_shows_the_run(visit: Visit) -> None:
    await visit.open()
    await visit.shows("#run-title", "Run mnist-mlp")
    await visit.shows("#run-phase", "training")
    await visit.shows("#run-percent", "60 %")
    numbers = await visit.numbers()
    assert numbers["Epoch"] == ["3 of 5", "done"]
    assert numbers["Step"] == ["1,412", "consistency ssp"]
    assert numbers["Examples"] == ["180,736", "of 300,000, 128 repeated"]
    assert numbers["Examples per second"] == ["19,227", "about 6.2 s left"]
    assert numbers["Training loss"] == ["0.05210", "0.08123 over the epoch"]
    assert numbers["Training accuracy"][0] == "98.4 %"
    assert numbers["Staleness"] == ["0.13", "mean clocks, 3 at most"]
    assert numbers["Pushes"] == ["1,412", "3 duplicate, 0 refused"]
    assert await visit.rows("workers") == [
        ["peer-0", "PoCL, cpu-cascadelake", "706", "90,368", "just now"],
        ["peer-1", "NVIDIA H200", "704", "90,112", "2.2 s ago"],
    ]
    assert await visit.rows("dropped") == [["peer-10", "not heard of for 7.1 s"]]
    assert await visit.rows("tables") == [
        ["mnist-mlp/model", "2.6 MiB", "9 of 17", "1,412", "12,708", "3", "0", "0.13 / 3"],
        ["other", "1.0 KiB", "0 of 1", "–", "–", "–", "–", "–"],
    ]
    assert visit.complaints == []


async def test_the_page_follows_the_peer(visit: Visit) -> None:
    await visit.open()
    run = visit.document["run"]
    run |= {"phase": "evaluate", "examples": 300000, "test_loss": 0.07, "test_accuracy": 0.9791}
    del run["workers"]["peer-1"]
    run["dropped"] = {}
    await visit.shows("#run-phase", "evaluating")
    assert (await visit.numbers())["Test accuracy"] == ["97.9 %", "test loss 0.07000"]
    assert len(await visit.rows("workers")) == 1
    await expect(visit.page.locator("#dropped-part")).to_be_hidden()
    run |= {"phase": "finished", "status": "failed", "error": "training diverged at step 7"}
    await visit.shows("#run-phase", "failed")
    await visit.shows("#run-error", "training diverged at step 7")
    visit.document["run"] = None
    await visit.shows("#run-note", "No run is under way.")
    await expect(visit.page.locator("#run")).to_be_hidden()
    visit.document["run"] = {"run": "next", "at": "peer-1"}
    await visit.shows("#run-note", "Its progress is kept by peer-1. Follow it there")
    link = visit.page.locator("#run-note a")
    assert await link.get_attribute("href") == "http://127.0.0.1:41001/"
    assert visit.complaints == []


async def test_an_unchanged_link_keeps_its_focus(visit: Visit) -> None:
    await visit.open()
    await visit.page.locator("#members a").nth(1).focus()
    visit.document["cluster"] = "changed"
    await visit.shows("#cluster", "Cluster changed")
    assert await visit.page.evaluate("document.activeElement.textContent") == "peer-1"


def poisoned(value: Any) -> Any:
    """Put hostile text in the place of every text and before every key that is a name."""
    if isinstance(value, dict):
        return {
            f"{HOSTILE}{key}" if key.startswith(("peer-", "mnist")) else key: poisoned(inner)
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [poisoned(inner) for inner in value]
    return HOSTILE if isinstance(value, str) else value


async def test_hostile_text_is_shown_as_text(visit: Visit) -> None:
    hostile = poisoned(visit.document)
    hostile["members"]["j"] = {"status": "javascript:alert(1)//:80", "address": "x"}
    hostile["members"]["k"] = {"status": "127.0.0.1:80@evil.example:80", "roles": "worker"}
    hostile["members"]["__proto__"] = {"status": "127.0.0.1:1"}
    hostile["run"]["phase"] = "constructor"
    hostile["run"] |= {"status": "running", "error": HOSTILE}
    visit.document.clear()
    visit.document.update(hostile)
    await visit.open()
    await visit.shows("#cluster", f"Cluster {HOSTILE}")
    await visit.shows("#run-phase", "constructor")
    await visit.shows("#run-error", HOSTILE)
    assert (await visit.rows("dropped"))[0] == [f"{HOSTILE}peer-10", HOSTILE]
    assert (await visit.rows("tables"))[0][0] == f"{HOSTILE}mnist-mlp/model"
    links = await visit.page.locator("main a").all()
    assert [await link.get_attribute("href") for link in links] == ["http://127.0.0.1:1/"]
    assert await visit.page.locator("script").count() == 1
    assert await visit.page.evaluate("window.owned") is None
    assert visit.complaints == []


@pytest.mark.parametrize(
    "document",
    [
        {"version": 1},
        {
            "version": 1,
            "cluster": None,
            "peer": None,
            "coordinator": None,
            "members": None,
            "map": None,
            "run": None,
        },
        {
            "version": 1,
            "peer": {"roles": None},
            "coordinator": {"leader": None, "term": None},
            "members": {"a": None, "b": {}},
            "map": {"tables": {"t": None}},
            "run": {"run": "r", "phase": None, "workers": None, "dropped": None},
        },
    ],
)
async def test_a_document_that_lacks_things_is_shown(visit: Visit) -> None:
    await visit.open()
    await expect(visit.page.locator("main")).to_be_visible()
    text = await visit.page.locator("body").inner_text()
    assert not re.search(r"undefined|null|NaN|Infinity|\[object", text)
    assert "no leader now" in text
    assert visit.complaints == []


async def test_a_peer_that_is_gone_is_said_and_its_return_noticed(visit: Visit) -> None:
    await visit.open()
    await visit.server.close()
    await visit.shows(
        "#banner",
        re.compile(
            r"^This peer stopped answering at \d\d:\d\d:\d\d\. What follows is the last it said\.$"
        ),
    )
    await visit.shows("#link", "no answer")
    await visit.shows("#run-percent", "60 %")
    again = StatusServer(lambda: visit.document, lambda: ("ok", "ok"))
    host, port = visit.address.split(":")
    await again.start(host, int(port))
    try:
        await visit.shows("#link", re.compile("live|polling"))
        await expect(visit.page.locator("#banner")).to_be_hidden()
    finally:
        await again.close()


async def test_without_events_the_page_polls(visit: Visit) -> None:
    async with aiohttp.ClientSession(
        f"http://{visit.address}", connector=aiohttp.TCPConnector(limit=0)
    ) as client:
        others = [await client.get("/events") for _ in range(MOST_LISTENERS)]
        await visit.open("polling")
        visit.document["cluster"] = "changed"
        await visit.shows("#cluster", "Cluster changed")
        for other in others:
            other.close()


async def test_another_version_asks_to_reload(visit: Visit) -> None:
    await visit.open()
    visit.document["version"] = 2
    await visit.shows("#banner", "This peer now writes version 2 of its status: reload the page.")


async def test_nothing_is_asked_of_others(visit: Visit) -> None:
    await visit.open()
    assert len(visit.asked) >= 6
    assert all(url.startswith(f"http://{visit.address}/") for url in visit.asked)


@pytest.mark.parametrize("width", [320, 390, 768, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_page_fits_the_screen(visit: Visit, width: int, scheme: Any) -> None:
    await visit.page.set_viewport_size({"width": width, "height": 800})
    await visit.page.emulate_media(color_scheme=scheme)
    await visit.open()
    wide = await visit.page.evaluate("document.documentElement.scrollWidth")
    assert wide <= width
    ground = await visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    levels = [int(level) for level in re.findall(r"\d+", ground)]
    assert (sum(levels) / 3 > 127) == (scheme == "light")
