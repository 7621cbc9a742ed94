"""Every route says who may call it, and every permission opens exactly the routes that ask for it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from litestar import Litestar, get
from tests.fakes import FakeProgram

from dogwatch.access.actor import Actor
from dogwatch.access.identity import Identity, anonymous
from dogwatch.access.permissions import BUILT_IN, NOUNS, VERBS, Permission, Rights, Role, Rule
from dogwatch.web import application, permissions
from dogwatch.web.application import create_web
from dogwatch.web.permissions import IDENTITY, PUBLIC, Gate, declared, may, routes
from dogwatch.web.problems import WebRefusal


class Asked:
    """What the gate looks at of a request."""

    def __init__(self, identity: Identity, method: str) -> None:
        self.scope = {"method": method, IDENTITY: identity}
        self.headers = {"x-csrf-token": "right"}


class Handler:
    def __init__(self, opt: dict[str, Any]) -> None:
        self.opt = opt


def inner() -> Litestar:
    web = create_web(FakeProgram().services)
    found: Any = web._guarded._inner
    return found


ROUTES = sorted(
    ((f"{method} {route.path}", method, opt) for route, method, opt in routes(inner())), key=lambda one: one[0]
)
PERMISSIONS = [Permission(noun, verb) for noun, verb in itertools.product(NOUNS, VERBS)]
# What needs no login at all: this list is read by people, and grows by their decision only.
OPEN = {
    "GET /api/v1",
    "GET /api/v1/openapi.json",
    "GET /api/v1/{path:str}",
    "GET /favicon.ico",
    "GET /healthz",
    "GET /login",
    "GET /login/oidc",
    "GET /login/oidc/callback",
    "GET /ping/{ping_id:str}",
    "GET /ping/{ping_id:str}/{action:str}",
    "HEAD /ping/{ping_id:str}",
    "HEAD /ping/{ping_id:str}/{action:str}",
    "GET /readyz",
    "GET /setup",
    "GET /ack/{link:str}",
    "GET /approve/{link:str}",
    "GET /status",
    "GET /status/badge.svg",
    "GET /status/badge/{file:str}",
    "GET /status/confirm",
    "GET /status/feed.atom",
    "GET /status/summary.json",
    "GET /status/unsubscribe",
    "POST /status/confirm",
    "POST /status/subscribe",
    "POST /status/unsubscribe",
    "GET /static/{version:str}/{name:path}",
    "POST /ack/{link:str}",
    "POST /approve/{link:str}",
    "POST /api/v1/login",
    "POST /hooks/{name:str}",
    "POST /login",
    "POST /ping/{ping_id:str}",
    "POST /ping/{ping_id:str}/{action:str}",
    "POST /setup",
}


def one(*granted: Permission, labels: dict[str, str] | None = None) -> Identity:
    rules = tuple(Rule(nouns=(p.noun,), verbs=(p.verb,), labels=labels or {}) for p in granted)
    rights = Rights([Role(name="one", rules=rules)])
    return Identity(actor=Actor(kind="user", name="ann"), rights=rights, how="session", user="ann", csrf="right")


async def opens(identity: Identity, method: str, opt: dict[str, Any]) -> bool:
    try:
        await Gate(None)(Asked(identity, method), Handler(opt))  # type: ignore[arg-type]
    except WebRefusal as refusal:
        return refusal.status != (403 if identity.known else 401)
    return True


def test_a_route_that_says_nothing_keeps_the_application_from_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    @get("/forgotten")
    async def forgotten() -> None: ...

    monkeypatch.setattr(application, "HANDLERS", (*application.HANDLERS, forgotten))
    with pytest.raises(RuntimeError, match=r"routes without a permission .*GET /forgotten"):
        create_web(FakeProgram().services)


def test_a_permission_that_there_is_not_cannot_be_asked_for() -> None:
    with pytest.raises(ValueError, match="prob:read"):
        may("prob")


def test_what_is_open_is_known() -> None:
    assert {name for name, _method, opt in ROUTES if opt["permission"] == "public"} == OPEN


@pytest.mark.parametrize(("name", "method", "opt"), ROUTES, ids=[name for name, _method, _opt in ROUTES])
async def test_each_permission_opens_the_routes_that_ask_for_it_and_no_other(
    name: str, method: str, opt: dict[str, Any]
) -> None:
    wanted = opt["permission"]
    assert await opens(anonymous(), method, opt) is (wanted == "public")
    assert await opens(one(), method, opt) is (wanted in ("public", "known"))
    for permission in PERMISSIONS:
        expected = wanted in ("public", "known") or permission == wanted
        assert await opens(one(permission), method, opt) is expected, permission
    everything_else = [permission for permission in PERMISSIONS if permission != wanted]
    assert await opens(one(*everything_else), method, opt) is (wanted in ("public", "known"))
    admin = Identity(actor=Actor(kind="local", name="x"), rights=Rights([BUILT_IN["admin"]]), how="local")
    assert await opens(admin, method, opt)


@pytest.mark.parametrize(("name", "method", "opt"), ROUTES, ids=[name for name, _method, _opt in ROUTES])
async def test_whoever_is_limited_to_labels_has_nothing_of_what_has_none(
    name: str, method: str, opt: dict[str, Any]
) -> None:
    wanted = opt["permission"]
    if isinstance(wanted, Permission):
        assert await opens(one(wanted, labels={"team": "shop"}), method, opt) is not opt["whole"]
        assert opt["whole"] or wanted.noun not in ("user", "token", "role", "program")


@pytest.mark.parametrize(("name", "method", "opt"), ROUTES, ids=[name for name, _method, _opt in ROUTES])
async def test_every_change_by_a_browser_needs_its_token(name: str, method: str, opt: dict[str, Any]) -> None:
    if method in ("GET", "HEAD"):
        return
    identity = one(*PERMISSIONS)
    asked = Asked(identity, method)
    asked.headers = {"x-csrf-token": "wrong"}
    if opt.get("form"):
        # Of the public status page: done as somebody unknown, whoever is logged in; the guard refuses other sites.
        public = ("POST /status/subscribe", "POST /status/confirm", "POST /status/unsubscribe")
        # Whoever has the link of a notice may acknowledge, or approve: the link is its secret.
        linked = ("POST /ack/{link:str}", "POST /approve/{link:str}")
        known = ("POST /login", "POST /logout", "POST /setup")
        assert name in (*known, *public, *linked), "its handler must look at the form's token"
        return
    with pytest.raises(WebRefusal) as caught:
        await Gate(None)(asked, Handler(opt))  # type: ignore[arg-type]
    assert caught.value.status == 403


def test_viewers_change_nothing_and_operators_administer_nothing() -> None:
    for name, verbs in (("viewer", {"read"}), ("operator", set(VERBS) - {"delete"})):
        rights = Rights([BUILT_IN[name]])
        granted = {permission for permission in PERMISSIONS if rights.may(permission)}
        assert {permission.verb for permission in granted} == verbs
        assert not {permission.noun for permission in granted} & {"user", "token", "role", "audit"}
    assert all(Rights([BUILT_IN["admin"]]).may(permission) for permission in PERMISSIONS)


def test_nothing_but_reads_is_got() -> None:
    """A GET changes nothing: it needs no CSRF token."""
    # What runs brought is read by those who may run: it may be any file of any host.
    more = ("GET /probe", "GET /api/v1/fleet/runs/{run_id:str}/files/{host:str}")
    for name, method, opt in ROUTES:
        if method == "GET" and isinstance(opt["permission"], Permission):
            assert opt["permission"].verb == "read" or name in more, name


def test_declared_knows_all_kinds() -> None:
    gate = Gate(None)
    with pytest.raises(RuntimeError, match="do not go through the gate: /"):
        declared(inner(), gate)  # it has one of its own
    assert PUBLIC["permission"] == "public"
    assert permissions.undeclared(inner()) == []
