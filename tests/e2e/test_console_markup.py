"""Markup in every field that the API takes, one after the other; then every page is opened in a real browser, and none
of it has run, or tried to.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
from playwright.async_api import Browser
from tests.consoles import PAGES, console, needs_chromium
from tests.e2e.test_changes import NOT_KEPT, ROWS, inner

from dogwatch.access.identity import local

pytestmark = needs_chromium
EVIL = "<img src=x onerror=window.bad=1>\"'</script><script>window.bad=2</script><svg onload=window.bad=3>"
# What the console has of each kind, for addresses.
NAMES = {
    "/silences/": "none",
    "/users/": "eve",
    "/deliveries/": "dlv_0001",
    "/plans/": "plan1",
    "/runs/": "01991111",
    "/incidents/": "1",
    "/jobs/": "deploy",
    "/maintenance/": "none",
    "/notify/": "ops",
    "/outbox/": "msg_0003",
    "/schedules/": "nightly%2Fdeploy",
    "/targets/": "shop",
    "/tokens/": "none",
    "/workers/": "watch-1-4711-a1",
    "/locations/": "berlin",
}
MORE_PAGES = ("/incidents?state=all", "/targets/mail", "/users", "/tokens", "/audit", "/maintenance")


def filled(path: str) -> str:
    while "{" in path:
        before, _, rest = path.partition("{")
        place = next(place for place in NAMES if before.endswith(place))
        path = before + NAMES[place] + rest.partition("}")[2]
    return path


def whole(schema: Mapping[str, Any], document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a schema with references followed; of alternatives, the one that says most."""
    if "$ref" in schema:
        return whole(document["components"]["schemas"][schema["$ref"].rpartition("/")[2]], document)
    several = schema.get("oneOf") or schema.get("anyOf")
    return max((whole(one, document) for one in several), key=len) if several else schema


def marked(schema: Mapping[str, Any]) -> Any:
    """Return a value of markup for a field, None where it takes no text."""
    kinds = schema.get("type", "")
    if "string" in kinds and "enum" not in schema:
        return EVIL[: schema.get("maxLength", 1000)]
    if "array" in kinds:
        return [EVIL] if "string" in str(schema.get("items", "string")) else None
    return {EVIL: EVIL} if "object" in kinds and "properties" not in schema else None


def changes() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield method, address and body of every change, with markup in one of its fields at a time, and in all."""
    document: Any = inner().openapi_schema.to_schema()
    for path, methods in document["paths"].items():
        for method in ("post", "put", "patch", "delete"):
            body = methods.get(method, {}).get("requestBody", {}).get("content", {}).get("application/json")
            name = f"{method.upper()} {path}"
            if body is None or (name in NOT_KEPT and "backtest" not in name):
                continue
            if path.startswith("/api/v1/fleet/") and not path.endswith("/decision"):
                continue  # what starts runs over hosts needs an engine
            row = ROWS.get(name)
            good = dict(copy.deepcopy(row.body)) if row is not None and row.body is not None else {}
            fields = {
                key: marked(whole(one, document))
                for key, one in whole(body["schema"], document).get("properties", {}).items()
            }
            evil = {key: value for key, value in fields.items() if value is not None}
            for key, value in evil.items():
                yield method, filled(path), {**good, key: value}
            yield method, filled(path), {**good, **evil}


async def test_markup_in_any_field_runs_nowhere(browser: Browser, tmp_path: Path) -> None:
    async with console(tmp_path) as web:
        secret, _token = await web.access.add_token(local("t"), "t", ["admin"], labels={}, expires_after_s=None)
        headers = {"authorization": f"Bearer {secret}"}
        taken = asked = 0
        async with httpx.AsyncClient(base_url=web.url, headers=headers, timeout=60, trust_env=False) as client:
            for method, path, body in changes():
                answer = await client.request(method, path, json=body)
                assert answer.status_code < 500, (method, path, body, answer.text)
                assert answer.headers["content-type"].startswith("application/"), path
                asked, taken = asked + 1, taken + (answer.status_code < 300)
            for text in (EVIL, EVIL[:90]):
                made = {"name": "eve", "password": "battery staple horse", "title": text[:200], "email": text[:200]}
                await client.post("/api/v1/users", json={**made, "roles": ["viewer"]})
        assert asked >= 60
        assert taken >= 20
        context = await browser.new_context()
        page = await context.new_page()
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.on("console", lambda one: complaints.append(one.text) if "Content Security Policy" in one.text else None)
        await context.set_extra_http_headers(headers)
        shown = 0
        for path in dict.fromkeys((*PAGES, *MORE_PAGES)):
            await page.goto(f"{web.url}{path}", wait_until="load")
            assert await page.evaluate("typeof window.bad") == "undefined", path
            assert await page.locator("img[src=x], svg[onload]").count() == 0, path
            shown += "onerror=window.bad" in await page.locator("body").inner_text()
        assert shown >= 6, "too few pages showed anything of it"
        assert complaints == []
        await context.close()
