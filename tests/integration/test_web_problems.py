"""Every operation of the OpenAPI document, asked wrongly in every way: it answers a problem document with a code of the
exit codes' vocabulary, and nothing that its description does not say.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.consoles import Console, console

from dogwatch import errors
from dogwatch.access.identity import local
from dogwatch.access.options import AccessOptions
from dogwatch.access.permissions import Rule
from dogwatch.cli.client import Client
from dogwatch.web.options import RateOptions
from dogwatch.web.problems import CODES, STATUSES, from_error

# What nobody has to say who they are for.
OPEN = {("POST", "/api/v1/login")}
PROBLEM = {"title", "status", "code", "detail", "hint", "problems", "type"}
# Of what a query takes, what it cannot be.
WRONG = {"limit": "many", "since_s": "soon", "until_s": "-1", "points": "-1", "count": "x"}


def every_error(kind: type[errors.DogwatchError] = errors.DogwatchError) -> Iterator[type[errors.DogwatchError]]:
    yield kind
    for below in kind.__subclasses__():
        if below.__module__ == errors.__name__:
            yield from every_error(below)


VOCABULARY = {kind.code for kind in every_error()} | STATUSES.keys() | set(CODES.values()) | {"internal"}


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Console]:
    async with console(tmp_path, AccessOptions(roles={"nobody": (Rule(nouns=("job",), verbs=("approve",)),)})) as found:
        await found.user("rosa", "admin")
        yield found


async def client_of(site: Console, *roles: str) -> httpx.AsyncClient:
    headers = {}
    if roles:
        secret, _token = await site.access.add_token(local("test"), "asker", roles, labels={}, expires_after_s=None)
        headers = {"Authorization": f"Bearer {secret}"}
    return httpx.AsyncClient(base_url=site.url, headers=headers, timeout=60)


async def operations(client: httpx.AsyncClient) -> list[tuple[str, str, Any]]:
    document = (await client.get("/api/v1/openapi.json")).json()
    found = [(m.upper(), path, one) for path, methods in document["paths"].items() for m, one in methods.items()]
    assert len(found) > 100
    return found


def address(path: str, name: str = "nobody%20has%20this") -> str:
    """Return the address of something that there is not."""
    path = re.sub(r"{number}", "987654321", path)
    return re.sub(r"{\w+}", name, path)


def told(answer: httpx.Response, method: str, path: str, operation: Any) -> Any:
    """Return the problem, once it is as every problem is, and as the description says."""
    where = (method, path, answer.status_code, answer.text[:300])
    assert answer.headers["content-type"].startswith("application/problem+json"), where
    body = answer.json()
    assert body.keys() == PROBLEM, where
    assert body["status"] == answer.status_code, where
    assert body["code"] in VOCABULARY, where
    assert body["detail"], where
    assert "Traceback" not in answer.text, where
    assert answer.status_code != 500, where
    # What the door refuses (nobody known, a method, a length) may come from every address.
    if answer.status_code not in (401, 403, 405, 411, 413, 415, 429):
        assert str(answer.status_code) in operation["responses"], where
    return body


def exit_code(answer: httpx.Response) -> int:
    """Return what the command line ends with after this answer."""
    client: Any = Client("http://127.0.0.1:1")
    try:
        client._decode(answer.status_code, "", answer.content)
    except errors.DogwatchError as error:
        return error.exit_code
    return 0


def test_every_error_keeps_its_word_and_its_exit_code_over_the_wire() -> None:
    seen = set()
    for kind in every_error():
        error = kind([errors.Problem("is wrong", "a.b")]) if kind is errors.ConfigError else kind("is wrong")
        problem = from_error(error)
        assert problem.code == error.code
        assert 400 <= problem.status < 600
        answer = httpx.Response(problem.status, json={"code": problem.code, "detail": problem.detail})
        assert exit_code(answer) == error.exit_code, kind
        seen.add(error.code)
    assert len(seen) >= 11
    assert set(CODES.values()) <= VOCABULARY


async def test_who_says_nothing_is_told_so_everywhere(site: Console) -> None:
    async with await client_of(site) as nobody:
        for method, path, operation in await operations(nobody):
            if (method, path) in OPEN:
                continue
            answer = await nobody.request(method, address(path))
            assert answer.status_code == 401, (method, path, answer.status_code)
            assert told(answer, method, path, operation)["code"] == "not_allowed"
            assert exit_code(answer) == 12


async def test_who_may_nothing_is_refused_everywhere(site: Console) -> None:
    async with await client_of(site, "nobody") as weak:
        refused = 0
        for method, path, operation in await operations(weak):
            if path.endswith("/events") or (method, path) in OPEN:
                continue
            answer = await weak.request(method, address(path), json={} if method == "POST" else None)
            if answer.status_code < 400:
                assert method == "GET", (method, path)
                continue
            body = told(answer, method, path, operation)
            refused += answer.status_code == 403
            assert exit_code(answer) == {400: 2, 403: 12, 404: 10, 422: 2}[answer.status_code], (method, path, body)
        assert refused > 90


async def test_what_is_not_there_is_not_found_everywhere(site: Console) -> None:
    async with await client_of(site, "admin") as admin:
        absent = 0
        for method, path, operation in await operations(admin):
            if "{" not in path or method != "GET":
                continue
            answer = await admin.request(method, address(path))
            body = told(answer, method, path, operation)
            assert (answer.status_code, body["code"]) in {(404, "not_found"), (400, "usage")}, (method, path, body)
            assert exit_code(answer) in (10, 2)
            absent += answer.status_code == 404
        assert absent > 20


async def test_what_cannot_be_read_is_a_mistake_everywhere(site: Console) -> None:
    async with await client_of(site, "admin") as admin:
        for method, path, operation in await operations(admin):
            query = {one["name"] for one in operation.get("parameters", ()) if one["in"] == "query"}
            for name in query & WRONG.keys():
                answer = await admin.request(method, address(path), params={name: WRONG[name]})
                assert told(answer, method, path, operation)["code"] in ("usage", "not_found"), (path, name)
            if "requestBody" in operation:
                for content in (b"{", b"[]", b'"\xff"', b'{"nobody_knows_this": 1}'):
                    answer = await admin.request(
                        method, address(path), content=content, headers={"content-type": "application/json"}
                    )
                    assert answer.status_code in (400, 403, 404, 422), (method, path, content, answer.status_code)
                    told(answer, method, path, operation)
            answer = await admin.request("PATCH", address(path))
            assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed"), path
            assert answer.headers["allow"]


async def test_who_asks_too_much_is_told_when_to_come_back(tmp_path: Path) -> None:
    """The limit holds for every operation: each counts, and each is refused once it is used up."""
    async with console(tmp_path, rate=RateOptions(max=3, per=3600.0, local=True)) as site:
        await site.user("rosa", "admin")
        async with await client_of(site, "admin") as one, await client_of(site, "admin") as other:
            document = [one_ for one_ in await operations(other) if "{" not in one_[1]]
            for _ in range(3):
                assert (await one.get("/api/v1/version")).status_code == 200
            for method, path, operation in document:
                if (method, path) in OPEN:
                    continue
                answer = await one.request(method, path, json={} if method == "POST" else None)
                body = told(answer, method, path, operation)
                assert (answer.status_code, body["code"]) == (429, "too_many"), (method, path)
                assert int(answer.headers["retry-after"]) > 0
                assert exit_code(answer) == 1
            # It is its own: others may go on.
            assert (await other.get("/api/v1/version")).status_code == 200
