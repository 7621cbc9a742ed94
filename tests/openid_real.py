"""A certified OpenID provider (oidc-provider, of npm) with a login form, on loopback. `scripts/install-openid-peer` has
it installed; without it these tests are skipped.
"""

from __future__ import annotations

import asyncio
import contextlib
import html
import json
import os
import re
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest
from joserfc.jwk import RSAKey

_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dogwatch-tests"
_LIBRARY = _CACHE / "oidc-provider-9.13.3" / "node_modules" / "oidc-provider" / "lib" / "index.js"
_PROGRAM = Path(__file__).parent.parent / "scripts" / "peers" / "openid" / "provider.mjs"
CLIENT, SECRET = "dogwatch", "a secret: with / signs + that forms escape"
PASSWORD = "password of the provider"
needs_provider = pytest.mark.skipif(
    not _LIBRARY.exists() or not shutil.which("node"), reason="scripts/install-openid-peer has not installed one"
)


def _key(name: str) -> dict[str, Any]:
    return RSAKey.generate_key(2048, {"kid": name, "use": "sig", "alg": "RS256"}).as_dict(private=True)


class RealProvider:
    """Another name than the server's own: cookies go by names, and each has its own."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self.issuer = f"http://localhost:{self._port}"
        self._file = folder / "openid.json"
        self.keys = [_key("first")]
        self.skew_s = 0
        self.in_token = False
        self.redirect_uris = ["http://127.0.0.1/login/oidc/callback"]
        self.users: dict[str, dict[str, Any]] = {}
        self.user("ann", "ops")
        self._process: asyncio.subprocess.Process | None = None

    def user(self, name: str, *groups: str) -> None:
        """Make a user, or change one; the provider sees it at once."""
        claims = {"sub": f"id-of-{name}", "preferred_username": name, "name": f"{name} of Example", "groups": groups}
        self.users[name] = {"password": PASSWORD, "claims": {**claims, "email": f"{name}@example.org"}}
        self.write()

    def rotate(self) -> None:
        """Sign with a new key; what the old one signed still holds. From the next start on."""
        self.keys.insert(0, _key("second"))

    def write(self) -> None:
        client = {"id": CLIENT, "secret": SECRET, "redirect_uris": self.redirect_uris}
        config = {"issuer": self.issuer, "port": self._port, "client": client, "jwks": {"keys": self.keys}}
        more = {"users": self.users, "skew_s": self.skew_s, "in_token": self.in_token, "library": str(_LIBRARY)}
        self._file.write_text(json.dumps({**config, **more}))

    async def start(self) -> None:
        self.write()
        self._process = await asyncio.create_subprocess_exec(
            "node",
            str(_PROGRAM),
            str(self._file),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert self._process.stdout
        async with asyncio.timeout(60):
            told = b""
            while told != b"ready\n":
                told = await self._process.stdout.readline()
                assert told, "the provider ended"

    async def stop(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.communicate()
            self._process = None

    async def restart(self) -> None:
        await self.stop()
        await self.start()


@asynccontextmanager
async def real_provider(folder: Path) -> AsyncIterator[RealProvider]:
    one = RealProvider(folder)
    try:
        yield one
    finally:
        await one.stop()


async def until(browser: httpx.AsyncClient, answer: httpx.Response, stop: str) -> httpx.Response:
    """Follow redirections as a browser does, until a page comes or one leads to an address with `stop` in it."""
    for _ in range(12):
        where = answer.headers.get("location", "")
        if not where or (stop and stop in where):
            return answer
        answer = await browser.get(urljoin(str(answer.url), where))
    raise AssertionError(f"led in a circle: {answer.url}")


async def signed_in(browser: httpx.AsyncClient, user: str, password: str = PASSWORD, next_: str = "/") -> str:
    """Log in by the provider's own form, and return where it sends the browser back to, which is not opened yet."""
    answer = await until(browser, await browser.get("/login/oidc", params={"next": next_}), "/login/oidc/callback")
    if "/login/oidc/callback" not in answer.headers.get("location", ""):
        found = re.search(r'action="(/interaction/[^"/]+)"', answer.text)
        assert found, answer.text
        place = urljoin(str(answer.url), html.unescape(found[1]))
        answer = await browser.post(place, data={"login": user, "password": password})
        if answer.status_code == 401:
            return ""
        answer = await until(browser, answer, "/login/oidc/callback")
    return str(answer.headers["location"])
