"""A real OpenID provider on loopback: discovery, keys, code flow with PKCE, userinfo. It can be told to lie."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import uvicorn
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, OctKey, RSAKey

CLIENT, SECRET = "dogwatch", "client-secret"


class Provider:
    """user: who logs in next. change: is given the ID token's claims; forge: makes the token from them instead."""

    def __init__(self, issuer: str) -> None:
        self.issuer = issuer
        self.key: Any = RSAKey.generate_key(2048, {"kid": "one", "use": "sig", "alg": "RS256"})
        self.user: dict[str, Any] = {"sub": "7", "preferred_username": "ann", "name": "Ann A", "groups": ["ops"]}
        self.change: Callable[[dict[str, Any]], dict[str, Any]] = lambda claims: claims
        self.forge: Callable[[dict[str, Any]], str] | None = None
        self.in_userinfo: set[str] = set()
        self.codes: dict[str, dict[str, str]] = {}
        self.tokens: dict[str, dict[str, Any]] = {}
        self.asked: list[dict[str, str]] = []
        self.userinfo_sub = ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        query = {key: one[0] for key, one in parse_qs(scope["query_string"].decode()).items()}
        form = {key: one[0] for key, one in parse_qs(body.decode()).items()}
        headers = {key.decode().lower(): text.decode() for key, text in scope["headers"]}
        routes: dict[str, Callable[..., tuple[int, Any]]] = {
            "/.well-known/openid-configuration": self.metadata,
            "/jwks": self.jwks,
            "/authorize": lambda: self.authorize(query),
            "/token": lambda: self.token(form, headers),
            "/userinfo": lambda: self.userinfo(headers),
        }
        status, answer = routes.get(scope["path"], lambda: (404, {}))()
        out = [(b"content-type", b"application/json")]
        if status == 302:
            out, answer = [(b"location", str(answer).encode())], {}
        await send({"type": "http.response.start", "status": status, "headers": out})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

    def metadata(self) -> tuple[int, Any]:
        return 200, {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/jwks",
            "userinfo_endpoint": f"{self.issuer}/userinfo",
            "token_endpoint_auth_methods_supported": ["client_secret_basic"],
        }

    def jwks(self) -> tuple[int, Any]:
        keys = KeySet([self.key]).as_dict(private=False)["keys"]
        return 200, {
            "keys": [*keys, {"kty": "new", "kid": "unheard-of"}, {"kty": "RSA", "use": "enc", "n": "x", "e": "x"}]
        }

    def authorize(self, query: dict[str, str]) -> tuple[int, Any]:
        self.asked.append(query)
        assert query["response_type"] == "code"
        assert query["code_challenge_method"] == "S256"
        code = secrets.token_urlsafe(16)
        self.codes[code] = query
        return 302, f"{query['redirect_uri']}?{urlencode({'code': code, 'state': query['state']})}"

    def token(self, form: dict[str, str], headers: dict[str, str]) -> tuple[int, Any]:
        expected = base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
        if headers.get("authorization") != f"Basic {expected}":
            return 401, {"error": "invalid_client"}
        query = self.codes.pop(form.get("code", ""), None)
        if query is None or query["redirect_uri"] != form.get("redirect_uri"):
            return 400, {"error": "invalid_grant"}
        if create_s256_code_challenge(form.get("code_verifier", "")) != query["code_challenge"]:
            return 400, {"error": "invalid_grant"}
        now = int(time.time())
        shown = {key: one for key, one in self.user.items() if key not in self.in_userinfo}
        claims = {"iss": self.issuer, "aud": CLIENT, "iat": now, "exp": now + 300, "nonce": query["nonce"], **shown}
        claims = self.change(claims)
        access = secrets.token_urlsafe(16)
        self.tokens[access] = self.user
        id_token = self.forge(claims) if self.forge else self.sign(claims)
        return 200, {"access_token": access, "token_type": "Bearer", "expires_in": 300, "id_token": id_token}

    def sign(self, claims: dict[str, Any]) -> str:
        algorithm = "RS256" if isinstance(self.key, RSAKey) else "ES256"
        return jwt.encode({"alg": algorithm, "kid": self.key.kid}, claims, self.key)

    def userinfo(self, headers: dict[str, str]) -> tuple[int, Any]:
        user = self.tokens.get(headers.get("authorization", "").removeprefix("Bearer "))
        if user is None:
            return 401, {}
        return 200, {**user, "sub": self.userinfo_sub or user["sub"]}

    # -- lies ----------------------------------------------------------------------------------------------------------

    def unsigned(self, claims: dict[str, Any]) -> str:
        return f"{_part({'alg': 'none', 'typ': 'JWT'})}.{_part(claims)}."

    def signed_with_public_key(self, claims: dict[str, Any]) -> str:
        """What a verifier takes that lets the token choose HMAC, with the public key as its secret."""
        import hashlib
        import hmac

        public = self.key.as_pem(private=False)
        text = f"{_part({'alg': 'HS256', 'kid': 'one'})}.{_part(claims)}"
        digest = hmac.digest(public, text.encode(), hashlib.sha256)
        return f"{text}.{base64.urlsafe_b64encode(digest).decode().rstrip('=')}"

    def signed_with_client_secret(self, claims: dict[str, Any]) -> str:
        return jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(SECRET * 4))

    def signed_by_another(self, claims: dict[str, Any]) -> str:
        other = RSAKey.generate_key(2048, {"kid": "one"})
        return jwt.encode({"alg": "RS256", "kid": "one"}, claims, other)

    def new_key(self) -> None:
        self.key = ECKey.generate_key("P-256", {"kid": "two", "use": "sig"})


def _part(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def path_of(address: str) -> str:
    parts = urlsplit(address)
    return f"{parts.path}?{parts.query}"


@asynccontextmanager
async def provider() -> AsyncIterator[Provider]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = Provider(f"http://127.0.0.1:{listener.getsockname()[1]}")
        config = uvicorn.Config(one, lifespan="off", ws="none", log_config=None, access_log=False)  # type: ignore[arg-type]
        server = uvicorn.Server(config)
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        config.load()
        server.lifespan = config.lifespan_class(config)
        await server.startup(sockets=[listener])
        ticking = asyncio.create_task(server.main_loop())
        try:
            yield one
        finally:
            server.should_exit = True
            await ticking
            await server.shutdown(sockets=[listener])
