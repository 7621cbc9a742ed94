"""From a log line to its trace, run, incident and host, over the real daemon: in the browser and by the API."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from playwright.async_api import Browser, Page, expect
from tests.consoles import needs_chromium
from tests.e2e.running import Daemon, free_port, running, wait_until
from tests.log_peers import running as peer_running
from tests.log_peers_more import Collector

from dogwatch.engine.tracing import trace_of

pytestmark = needs_chromium
# A program that logs as programs do: JSON lines with the trace that it was given, and no word of who runs it.
LOGS = r"""
trace=$(echo "$TRACEPARENT" | cut -d- -f2)
say() { echo "{\"level\": \"$1\", \"message\": \"$2\", \"trace_id\": \"$trace\", \"service\": \"deploy\"}" >> LOG; }
"""
CONFIG = """
logs:
  checkpoint: 100ms
  sources:
    - name: shop
      file: {{paths: [{folder}/app.log], start: beginning, search: 100ms}}
  routes:
    - do: [json]
  sinks:
    - name: here
      store: {{}}
jobs:
  - name: ship
    steps:
      - name: go
        exec: {{run: {ship}}}
probes:
  - name: shop
    tcp: "127.0.0.1:{port}"
    every: 200ms
    timeout: 200ms
    failures: 2
    successes: 1
    do:
      - {{name: mend, says: mend it, exec: {mend}, verify: 2s, attempts: 1}}
    mode: {mode}
    budget: {{max: 3, per: 1h}}
    remedy: {{cooldown: 0s}}
incidents: {{settle: 1s}}
"""


def script(folder: Path, *lines: tuple[str, str]) -> str:
    words = "\n".join(f'say {level} "{text}"' for level, text in lines)
    return json.dumps(LOGS.replace("LOG", f"{folder}/app.log") + words)


def configured(folder: Path, port: int, mode: str = "auto") -> str:
    ship = script(folder, ("info", "shipping v7"), ("error", "the shop refused v7"))
    mend = script(folder, ("warn", "mending the shop"))
    return CONFIG.format(folder=folder, ship=ship, mend=mend, port=port, mode=mode)


def found(daemon: Daemon, where: str) -> list[dict[str, Any]]:
    return daemon.get(f"/api/v1/logs?where={quote(where)}")["items"]  # type: ignore[no-any-return]


@asynccontextmanager
async def opened(browser: Browser, daemon: Daemon, path: str) -> AsyncIterator[Page]:
    """Open a page; afterwards demand that it complained about nothing."""
    context = await browser.new_context(viewport={"width": 1280, "height": 900}, locale="en-GB")
    page = await context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    try:
        await page.goto(daemon.server + path)
        yield page
        assert complaints == []
    finally:
        await context.close()


async def test_a_line_leads_to_its_trace_run_host_and_back(browser: Browser, tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as healthy,
        running(tmp_path, configured(tmp_path, healthy.getsockname()[1])) as daemon,
    ):
        ended = daemon.run("job", "run", "ship", "--wait", "--json")
        assert ended.returncode == 0, ended.stderr
        run_id = daemon.get("/api/v1/runs?job=ship")["items"][0]["run_id"]
        wait_until(lambda: found(daemon, 'message.contains("refused")'), what="the line in the store")
        (line,) = found(daemon, 'message.contains("refused")')
        async with opened(browser, daemon, "/logs") as page:
            shown = page.locator("details.log", has_text="the shop refused v7")
            await shown.locator("summary").click()
            hosts = shown.locator("a:text-is('host')")
            assert await hosts.get_attribute("href") == f"/hosts/{socket.gethostname()}"
            await shown.locator("a:text-is('trace')").click()
            await page.wait_for_url(f"**trace={line['fields']['trace_id']}*")
            await expect(page.locator("details.log")).to_have_count(2)
        async with opened(browser, daemon, "/logs") as page:
            shown = page.locator("details.log", has_text="the shop refused v7")
            await shown.locator("summary").click()
            await shown.locator("a:text-is('run')").click()
            await page.wait_for_url(f"**/runs/{run_id}")
            logs = page.locator("#run-logs details.log")
            await expect(logs).to_have_count(2)
            # As it was said, and nothing that leads back to where one is.
            await expect(logs.first).to_contain_text("shipping v7")
            await expect(logs.locator("a:text-is('run')")).to_have_count(0)
            await page.click("#run-logs a:text-is('Search them')")
            await expect(page.locator("details.log")).to_have_count(2)
        said = daemon.run("logs", "query", "--run", run_id, "--folder", str(tmp_path / "data/logs/store"), "--json")
        messages = [json.loads(one)["message"] for one in said.stdout.splitlines()]
        assert messages == ["shipping v7", "the shop refused v7"]


def test_a_run_is_a_trace_to_a_real_collector(tmp_path: Path) -> None:
    """Run, steps and what their programs logged carry one trace id, at OpenTelemetry's own collector."""
    with peer_running(Collector) as collector:
        assert isinstance(collector, Collector)
        sinks = f"    - name: there\n      otlp: {{url: '{collector.url}', resource: {{service.name: shop}}}}\n"
        config = configured(tmp_path, free_port(), mode="plan").replace(
            "      store: {}\n", "      store: {}\n" + sinks
        )
        with running(tmp_path, config + f"traces: {{url: '{collector.url}', every: 200ms}}\n") as daemon:
            assert daemon.run("job", "run", "ship", "--wait").returncode == 0
            wait_until(lambda: len(collector.spans()) == 2, what="spans of the run and its step")
            wait_until(lambda: len(collector.records("shop")) == 2, what="the lines of its program")
            run_id = daemon.get("/api/v1/runs?job=ship")["items"][0]["run_id"]
        run, step = sorted(collector.spans(), key=lambda one: one.get("parentSpanId", ""))
        assert step["parentSpanId"] == run["spanId"]
        wanted = {run["traceId"], step["traceId"], *(one["traceId"] for one in collector.records("shop"))}
        assert wanted == {trace_of(run_id)}


async def test_what_a_remedy_says_leads_to_its_incident(browser: Browser, tmp_path: Path) -> None:
    """Its run was started by a rule for an incident; the line itself knows the trace alone."""
    with running(tmp_path, configured(tmp_path, free_port())) as daemon:
        wait_until(lambda: found(daemon, 'message == "mending the shop"'), within_s=60, what="the remedy's line")
        async with opened(browser, daemon, "/logs?text=mending") as page:
            shown = page.locator("details.log").first
            await shown.locator("summary").click()
            await shown.locator("a:text-is('incident')").click()
            await page.wait_for_url("**/incidents/1")
            await expect(page.locator("h1")).to_contain_text("shop")


async def test_a_run_that_goes_on_shows_its_lines_as_they_come(browser: Browser, tmp_path: Path) -> None:
    config = configured(tmp_path, free_port(), mode="plan")
    waiting = f"say info first; while [ ! -e {tmp_path}/go ]; do sleep 0.1; done; say info second"
    slow = json.dumps(LOGS.replace("LOG", f"{tmp_path}/app.log") + waiting)
    config = config.replace("jobs:\n", f"jobs:\n  - {{name: slow, steps: [{{name: one, exec: {{run: {slow}}}}}]}}\n")
    with running(tmp_path, config) as daemon:
        assert daemon.run("job", "run", "slow").returncode == 0
        run_id = daemon.get("/api/v1/runs?job=slow")["items"][0]["run_id"]
        wait_until(lambda: found(daemon, 'message == "first"'), what="the first line")
        async with opened(browser, daemon, f"/runs/{run_id}") as page:
            await expect(page.locator("#run-logs details.log")).to_have_count(1)
            (tmp_path / "go").touch()
            await expect(page.locator("#run-head .st")).to_have_text("succeeded", timeout=30_000)
            await expect(page.locator("#run-logs details.log")).to_have_count(2, timeout=30_000)


async def test_what_does_not_work_is_said_on_the_page(browser: Browser, tmp_path: Path) -> None:
    sinks = "    - name: archive\n      file: {path: /proc/nowhere/out}\n"
    config = configured(tmp_path, free_port(), mode="plan").replace("      store: {}\n", "      store: {}\n" + sinks)
    (tmp_path / "app.log").write_text("one\n")
    with running(tmp_path, config) as daemon:
        (said,) = wait_until(lambda: daemon.get("/api/v1/logs/troubles")["items"], what="the sink's failure")
        assert (said["kind"], said["name"]) == ("sink", "archive")
        async with opened(browser, daemon, "/logs") as page:
            await expect(page.locator(".banner")).to_contain_text("archive: no such file or directory")
            await page.fill("#l-where", "level == = 3")
            await page.click("button:has-text('Search')")
            await expect(page.locator("#l-mistake mark")).to_have_text("=")
            await page.fill("#l-where", 'servce == "deploy"')
            await page.click("button:has-text('Search')")
            await expect(page.locator("#l-none")).to_contain_text("no record has a field 'servce'")
