"""The API over HTTP: targets, history, hosts, problems, metrics."""

from __future__ import annotations

import asyncio
from urllib.parse import quote

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families
from tests.fakes import FakeProgram
from tests.fakes_watch import many, view
from tests.web_server import Running, running

from dogwatch.app import Readiness
from dogwatch.errors import TransientError


async def test_status_says_what_is_wrong(client: httpx.AsyncClient) -> None:
    body = (await client.get("/api/v1/status")).json()
    assert body["targets"] == {"pending": 1, "up": 7, "degraded": 1, "down": 1, "paused": 1, "maintenance": 1}
    assert [one["name"] for one in body["wrong"]] == ["shop/checkout", "blog"]
    assert body["ready"] is True
    assert body["reload"]["outcome"] == "applied"


async def test_targets_page_through_by_cursor(client: httpx.AsyncClient) -> None:
    seen: list[str] = []
    cursor = ""
    while True:
        body = (await client.get("/api/v1/targets", params={"limit": 5, "cursor": cursor})).json()
        assert body["total"] == 12
        seen += [one["name"] for one in body["items"]]
        cursor = body["next_cursor"]
        if not cursor:
            break
    assert len(seen) == len(set(seen)) == 12


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("status=down&status=degraded", {"shop/checkout", "blog"}),
        ("group=data&q=db", {"db-1", "db-2"}),
        ("label=team%3Dshop&status=up", {"shop", "login"}),
        ("q=status:paused", {"certificate"}),
    ],
)
async def test_targets_filter(client: httpx.AsyncClient, query: str, names: set[str]) -> None:
    body = (await client.get(f"/api/v1/targets?{query}")).json()
    assert {one["name"] for one in body["items"]} == names


@pytest.mark.parametrize("name", ["shop/checkout", "größe 数据 <b>&", "edge-lb"])
async def test_names_with_slashes_and_unicode_work_everywhere(client: httpx.AsyncClient, name: str) -> None:
    path = quote(name, safe="")
    for rest in ("", "/history", "/results", "/failures", "/transitions", "/availability"):
        answer = await client.get(f"/api/v1/targets/{path}{rest}")
        assert answer.status_code == 200, (rest, answer.text)
    assert (await client.get(f"/api/v1/targets/{path}")).json()["name"] == name
    assert (await client.get(f"/targets/{path}")).status_code == 200
    assert (await client.get(f"/badge/{path}.svg")).status_code == 200


async def test_per_cent_signs_in_names_are_not_decoded_twice() -> None:
    names = ["100%", "a%2Fb", "a/b", "%25"]
    program = FakeProgram([view(name, "tcp", "x:1", "g", "up", 0.01, "", 0.0) for name in names])
    async with running(program) as server, httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        for name in names:
            answer = await client.get(f"/api/v1/targets/{quote(name, safe='')}")
            assert answer.json()["name"] == name


async def test_unknown_name_is_a_problem_with_a_hint(client: httpx.AsyncClient) -> None:
    answer = await client.get("/api/v1/targets/shoop")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert (body["code"], body["hint"]) == ("not_found", "did you mean 'shop'?")


async def test_history_has_phases_and_bounds(client: httpx.AsyncClient) -> None:
    body = (await client.get("/api/v1/targets/shop/history", params={"range": "7d", "points": 50})).json()
    assert body["until_s"] - body["since_s"] == 7 * 86400
    assert 0 < len(body["points"]) <= 50
    assert body["points"][0]["phases"]["tls_s"] == 0.024


async def test_results_go_back_in_time(client: httpx.AsyncClient) -> None:
    first = (await client.get("/api/v1/targets/shop/results", params={"limit": 3})).json()
    second = (
        await client.get("/api/v1/targets/shop/results", params={"limit": 3, "cursor": first["next_cursor"]})
    ).json()
    times = [one["time_s"] for one in first["items"] + second["items"]]
    assert times == sorted(times, reverse=True)
    assert len(set(times)) == 6


async def test_failures_carry_their_evidence(client: httpx.AsyncClient) -> None:
    body = (await client.get("/api/v1/targets/shop%2Fcheckout/failures")).json()["items"]
    assert body[0]["headers"][0] == {"name": "content-type", "value": "text/html"}
    assert "<script>" in body[0]["body"]


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/targets?limit=0",
        "/api/v1/targets?limit=x",
        "/api/v1/targets?status=dwon",
        "/api/v1/targets?cursor=nonsense",
        "/api/v1/targets?label=team",
        "/api/v1/targets/shop/history?range=2d",
        "/api/v1/targets/shop/history?since_s=5&until_s=4",
        "/api/v1/hosts/watch-1/series?metric=,",
        "/api/v1/events?topics=nonsense",
    ],
)
async def test_wrong_questions_are_usage_problems(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)
    assert answer.status_code == 400, answer.text
    assert answer.json()["code"] == "usage"
    assert answer.json()["detail"]


async def test_hosts_and_their_series(client: httpx.AsyncClient) -> None:
    hosts = (await client.get("/api/v1/hosts")).json()["items"]
    assert [one["name"] for one in hosts] == ["watch-1", "build-2"]
    series = (await client.get("/api/v1/hosts/watch-1/series?metric=node_load1&range=1h&points=10")).json()["series"]
    assert series[0]["series"] == "node_load1"
    assert len(series[0]["times_s"]) == len(series[0]["values"]) == 10
    assert (await client.get("/api/v1/hosts/watch-9")).status_code == 404


async def test_pause_resume_and_run(client: httpx.AsyncClient, server: Running) -> None:
    assert (await client.post("/api/v1/targets/shop/pause")).json()["status"] == "paused"
    assert server.program.watch.target("shop").status == "paused"
    assert (await client.get("/api/v1/targets?q=status:paused")).json()["total"] == 2
    assert (await client.post("/api/v1/targets/shop/resume")).json()["status"] == "up"
    run = (await client.post("/api/v1/targets/shop%2Fcheckout/run")).json()
    assert (run["success"], run["message"]) == (False, "status is 503, expected 200")
    assert (await client.post("/api/v1/targets/nobody/pause")).status_code == 404


async def test_reload_answers_with_its_record(client: httpx.AsyncClient, server: Running) -> None:
    server.program.reload.problems = ("dogwatch.yaml:3: probes[0].hots: unknown option",)
    body = (await client.post("/api/v1/reload")).json()
    assert (body["outcome"], body["problems"]) == ("failed", ["dogwatch.yaml:3: probes[0].hots: unknown option"])
    assert (await client.get("/api/v1/reloads")).json()["items"][0]["number"] == 2


async def test_store_errors_keep_their_vocabulary(client: httpx.AsyncClient, server: Running) -> None:
    async def fail(*_args: object, **_options: object) -> None:
        raise TransientError("the store is busy", hint="try again", retry_after_s=3)

    server.program.store.results = fail  # type: ignore[assignment]
    answer = await client.get("/api/v1/targets/shop/results")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "3")
    assert answer.json()["code"] == "transient"


async def test_an_error_of_our_own_tells_nothing_secret(
    client: httpx.AsyncClient, server: Running, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> list[Readiness]:
        raise RuntimeError("password=hunter2")

    server.program.services.readiness = fail
    answer = await client.get("/api/v1/status")
    assert answer.status_code == 500
    assert answer.json()["code"] == "internal"
    assert "hunter2" not in answer.text
    assert "hunter2" in caplog.text


async def test_openapi_describes_what_is_there(client: httpx.AsyncClient) -> None:
    answer = await client.get("/api/v1/openapi.json")
    body = answer.json()
    assert body["openapi"].startswith("3.1")
    assert "/api/v1/targets/{name}/history" in body["paths"]
    assert not [path for path in body["paths"] if not path.startswith("/api/v1/")]
    assert "cdn" not in answer.text
    for path in ("/api/v1/swagger", "/api/v1/redoc", "/schema"):
        assert (await client.get(path)).status_code == 404


async def test_wrong_method_says_which_are_right(client: httpx.AsyncClient) -> None:
    answer = await client.delete("/api/v1/targets/shop")
    assert answer.status_code == 405
    assert "GET" in answer.headers["allow"]


async def test_metrics_parse_in_both_formats(client: httpx.AsyncClient) -> None:
    answer = await client.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    plain = {family.name: family for family in text_string_to_metric_families(answer.text)}
    assert len(plain["probe_success"].samples) == 12
    assert {sample.labels["target"] for sample in plain["probe_success"].samples} >= {"größe 数据 <b>&"}
    accept = {"accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"}
    answer = await client.get("/metrics", headers=accept)
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    rich = {family.name: family for family in parse_openmetrics(answer.text)}
    assert rich["dogwatch_probe_attempts"].type == "counter"
    assert rich["dogwatch_probe_attempts"].samples[0].value == 12345


async def test_metrics_of_thousands_let_the_loop_go_on() -> None:
    program = FakeProgram(many(5000, 1_800_000_000.0))
    async with running(program) as server, httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        loop = asyncio.get_running_loop()
        worst = 0.0

        async def watch() -> None:
            nonlocal worst
            while True:
                before = loop.time()
                await asyncio.sleep(0.001)
                worst = max(worst, loop.time() - before)

        task = asyncio.create_task(watch())
        answer = await client.get("/metrics", headers={"accept-encoding": "gzip"})
        task.cancel()
        assert answer.headers["content-encoding"] == "gzip"
        assert answer.text.count("\nprobe_success{") == 5000
        assert worst < 0.5  # about 0.01 alone; other tests share the machine


@pytest.mark.parametrize(
    ("query", "status", "text"),
    [
        ("", 400, "Target parameter is missing\n"),
        ("?target=x&module=nope", 400, 'Unknown module "nope"\n'),
        ("?target=x", 200, "# HELP probe_success x\n# TYPE probe_success gauge\nprobe_success 1\n"),
        ("?target=x&module=http_2xx&module=nope", 200, None),
    ],
)
async def test_probe_answers_as_blackbox(client: httpx.AsyncClient, query: str, status: int, text: str | None) -> None:
    answer = await client.get(f"/probe{query}")
    assert answer.status_code == status
    assert text is None or answer.text == text


async def test_probe_without_blackbox_is_absent() -> None:
    program = FakeProgram()
    program.services.blackbox = None
    async with running(program) as server, httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        assert (await client.get("/probe?target=x")).status_code == 404


async def test_health_and_readiness(client: httpx.AsyncClient, server: Running) -> None:
    assert (await client.get("/healthz")).text == "ok\n"
    assert (await client.get("/readyz")).status_code == 200
    server.program.ready.append(Readiness(name="probes", ok=False, message="first round is not over"))
    answer = await client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["checks"][-1]["message"] == "first round is not over"
    assert (await client.get("/healthz")).status_code == 200


async def test_head_is_get_without_a_body(client: httpx.AsyncClient) -> None:
    for path in ("/", "/healthz", "/metrics", "/badge/shop.svg", "/api/v1/version"):
        answer = await client.head(path)
        assert (answer.status_code, answer.content) == (200, b""), path
