"""Runs, deliveries, messages, incidents, audit events and log records, a hundred thousand of each, of a real daemon in
a real browser: a page is a page of it, the next one follows, the filter is in the address, and the totals say how many
there are as far as they are counted, on the first page.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from playwright.async_api import Browser, Page, expect
from tests.consoles import live, needs_chromium
from tests.e2e.running import Daemon, running, wait_until

pytestmark = needs_chromium
TOTAL = 100_000
# As far as is counted: of all there are as many or more, and as many of every tenth.
COUNTED = 10_000
WEIGHT = "performance.getEntriesByType('navigation')[0].encodedBodySize"
# Far above what it takes (some ms), for a machine that does other things, too; reading everything takes longer.
FIRST_PAGE_S = 1.0
CONFIG = """
probes:
  - {name: away, tcp: "127.0.0.1:1", every: 1s, timeout: 500ms, failures: 1}
incidents: {settle: 0s}
jobs:
  - {name: quick, steps: [{name: one, exec: "true"}]}
hooks:
  - {name: incoming, job: quick, token: {secrets: ["a-token-of-a-hook"]}, keep_max: 1000000}
notify:
  ops: {command: ["true"]}
logs:
  sources: [{name: shop, file: {paths: [PLACE/shop.log], start: beginning}}]
  routes: [{do: [json]}]
  sinks: [{name: here, store: {}}]
"""
COUNT = "WITH RECURSIVE counted(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counted WHERE n < :total)"
# Of the newest row of a table so many more: column → what it is in the n-th, the others as they are there. Every tenth
# is of another state.
COPIES = {
    "runs": {
        "run_id": "printf('seed%08d', n)",
        "created_s": "created_s - n * 0.01",
        "state": "CASE WHEN n % 10 = 0 THEN 'failed' ELSE 'succeeded' END",
        "start_key": "NULL",
    },
    "hook_deliveries": {
        "delivery_id": "printf('dlv_%08d', n)",
        "received_s": "received_s - n * 0.01",
        "state": "CASE WHEN n % 10 = 0 THEN 'ignored' ELSE 'accepted' END",
    },
    "outbox": {
        "message_id": "printf('msg_%08d', n)",
        "created_s": "created_s - n * 0.01",
        "state": "CASE WHEN n % 10 = 0 THEN 'dead' ELSE 'delivered' END",
        "dedupe": "NULL",
    },
    "incidents": {
        "number": "number + 1000 + n",
        "state": "CASE WHEN n % 10 = 0 THEN 'merged' ELSE 'resolved' END",
        "ended_s": "opened_s + 1",
        "body": "json_set(body, '$.number', number + 1000 + n, '$.ended_s', opened_s + 1, '$.into', "
        "CASE WHEN n % 10 = 0 THEN number ELSE 0 END)",
    },
    "audit_events": {
        "number": "number + n",
        "time_s": "time_s + n * 0.001",
        "verb": "CASE WHEN n % 10 = 0 THEN 'resume' ELSE 'pause' END",
        "body": "json_set(body, '$.number', number + n)",
    },
}
# page → (the words of its link to what is older, a filter, the address of the same list in the API)
LISTS = {
    "/runs": ("Older", "state=failed", "/api/v1/runs"),
    "/deliveries": ("Older", "state=ignored", "/api/v1/deliveries"),
    "/outbox": ("Older", "state=dead", "/api/v1/outbox"),
    "/incidents?state=all": ("Older", "state=merged", "/api/v1/incidents"),
    "/audit": ("Older events", "q=verb:resume", "/api/v1/audit"),
}


def post(daemon: Daemon, path: str, token: str = "") -> Any:
    import urllib.request

    headers = {"content-type": "application/json", **({"authorization": token} if token else {})}
    request = urllib.request.Request(daemon.server + path, b"{}", headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read() or b"null")


def seed(database: sqlite3.Connection, table: str, changed: dict[str, str]) -> None:
    names = [str(row[1]) for row in database.execute(f"PRAGMA table_info({table})")]
    values = ", ".join(changed.get(name, name) for name in names)
    newest = f"SELECT * FROM {table} ORDER BY {names[0]} DESC LIMIT 1"
    # The end of the audit trail is where its chain goes on: it stays the last.
    database.execute(
        f"{COUNT} INSERT INTO {table} ({', '.join(names)}) SELECT {values} FROM counted, ({newest})", {"total": TOTAL}
    )


def records(daemon: Daemon) -> int:
    """Return how many log records are kept; the store is made with the first."""
    status, body = daemon.request("GET", "/api/v1/logs/counts")
    return int(json.loads(body)["matched"]) if status == 200 else 0


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder: Path = tmp_path_factory.mktemp("rows")
    begin_us = int((time.time() - 3000) * 1e6)
    with (folder / "shop.log").open("wb") as file:
        for at in range(TOTAL):
            level = "error" if at % 10 == 0 else "info"
            file.write(msgspec.json.encode({"time": (begin_us + at * 20_000) / 1e6, "level": level, "n": at}) + b"\n")
    with running(folder, CONFIG.replace("PLACE", str(folder))) as one:
        wait_until(lambda: one.get("/api/v1/incidents")["items"], what="an incident")
        post(one, "/api/v1/jobs/quick/runs")
        post(one, "/hooks/incoming", "a-token-of-a-hook")
        post(one, "/api/v1/notify/ops/test")
        post(one, "/api/v1/targets/away/pause")
        wait_until(lambda: one.get("/api/v1/runs?state=open")["total"] == 0, what="the end of the runs")
        wait_until(lambda: one.get("/api/v1/outbox?state=delivered")["items"], what="the message")
        with contextlib.closing(sqlite3.connect(one.data / "state.db", timeout=60)) as database, database:
            for table, changed in COPIES.items():
                seed(database, table, changed)
        wait_until(lambda: records(one) == TOTAL, what="the log records")
        yield one


async def shown_total(page: Page) -> str:
    """Return what the page says there is in all, "" where it does not."""
    text = page.locator(".pager .muted")
    return (await text.inner_text()).replace("\u202f", "") if await text.count() else ""


async def first_of(page: Page) -> str:
    """Return what names the first row."""
    script = "(row) => row.id || row.querySelector('a').getAttribute('href')"
    return str(await page.locator("tbody tr").first.evaluate(script))


async def at_most(page: Page, limit: int) -> int:
    assert await page.evaluate(WEIGHT) < 200_000
    count = await page.locator("tbody tr").count()
    assert 10 <= count <= limit
    return count


@pytest.mark.timeout(240)
@pytest.mark.parametrize("path", LISTS)
async def test_a_list_of_a_hundred_thousand(daemon: Daemon, browser: Browser, path: str) -> None:
    older, narrowed, address = LISTS[path]
    assert daemon.get(f"{address}?limit=1")["total"] == COUNTED
    context = await browser.new_context(locale="en-GB")
    page = await context.new_page()
    await page.goto(daemon.server + path)
    await live(page)
    took_s = await page.evaluate("performance.getEntriesByType('navigation')[0].responseEnd / 1000")
    count = await at_most(page, 100)
    assert await shown_total(page) == "10000 or more in all"
    first = await first_of(page)
    # On, further on, and back to where it begins.
    await page.click(f".pager >> text={older}")
    await live(page)
    second = await first_of(page)
    assert await at_most(page, 100) == count
    assert await shown_total(page) == ""
    await page.click(f".pager >> text={older}")
    await live(page)
    assert len({first, second, await first_of(page)}) == 3
    await page.go_back()
    await live(page)
    assert await first_of(page) == second
    await page.click(".pager >> text=Newest")
    await live(page)
    assert await first_of(page) == first
    # A filter is in the address: whoever opens it sees the same.
    separator = "&" if "?" in path else "?"
    path = path.partition("?")[0] if narrowed.startswith("state") else path
    separator = separator if "?" in path else "?"
    await page.goto(f"{daemon.server}{path}{separator}{narrowed}")
    await live(page)
    assert await shown_total(page) == "10000 or more in all"
    await page.click(f".pager >> text={older}")
    await live(page)
    assert narrowed.replace(":", "%3A") in page.url
    assert await shown_total(page) == ""
    await expect(page.locator("tbody tr")).to_have_count(count)
    await context.close()
    assert took_s < FIRST_PAGE_S, f"{path} came after {took_s:.2f} s"


@pytest.mark.parametrize("address", [one[2] for one in LISTS.values()])
def test_pages_of_the_api_follow_one_another(daemon: Daemon, address: str) -> None:
    seen: set[str] = set()
    cursor = ""
    best_s = 60.0
    for _page in range(5):
        begun = time.monotonic()
        page = daemon.get(f"{address}?limit=500&cursor={cursor}")
        best_s = min(best_s, time.monotonic() - begun)
        seen |= {json.dumps(one, sort_keys=True) for one in page["items"]}
        assert page["total"] == (None if cursor else COUNTED)
        cursor = page["next_cursor"]
    assert len(seen) == 2500
    assert best_s < FIRST_PAGE_S


async def test_log_records(daemon: Daemon, browser: Browser) -> None:
    context = await browser.new_context(locale="en-GB")
    page = await context.new_page()
    await page.goto(f"{daemon.server}/logs?period=all")
    await expect(page.locator(".logs-count p").first).to_contain_text("100\u202f000 records")
    assert await page.evaluate(WEIGHT) < 200_000
    assert 10 <= await page.locator("details.log").count() <= 500
    await page.fill("#l-where", 'level == "error"')
    await page.click("text=Search")
    await page.wait_for_url("**where=level*")
    await expect(page.locator(".logs-count p").first).to_contain_text("10\u202f000 records")
    await page.reload()
    await expect(page.locator("#l-where")).to_have_value('level == "error"')
    await expect(page.locator(".logs-count p").first).to_contain_text("10\u202f000 records")
    await context.close()
