"""Tokens for modules with `oauth2`: got from the token endpoint by our own http probe, kept until they expire."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import secrets
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

import msgspec

from dogwatch.core.component import Registry
from dogwatch.errors import ConfigError, Problem
from dogwatch.probes.adhoc import build_probe
from dogwatch.probes.blackbox_checks import tls_options
from dogwatch.probes.blackbox_format import Oauth2Config
from dogwatch.probes.blackbox_proxy import proxy_of
from dogwatch.probes.blackbox_rules import JWT_BEARER
from dogwatch.probes.blackbox_secrets import MemoryFile, MemoryFiles, either
from dogwatch.probes.http.request import basic
from dogwatch.probes.probe import Attempt, Probe, ProbeEnv, ProbeResult, attempt_once
from dogwatch.probes.target import close_memory

# A token is taken for expired a little early, so that it is still good when it arrives.
_EARLY_S = 10.0
_ASSERTION_S = 3600
_MAX_ANSWER = "1048576B"


class TokenRefused(Exception):
    """No token: the text says why, and holds no secret."""


class _Token(msgspec.Struct, frozen=True):
    """header: the value of Authorization. until_s: on the monotonic clock."""

    header: str
    until_s: float


class Tokens:
    """Gets tokens and keeps them, one per configuration."""

    def __init__(self, env: ProbeEnv, registry: Registry[Probe], memory: MemoryFiles) -> None:
        self._env = env
        self._registry = registry
        self._memory = memory
        self._kept: dict[Oauth2Key, _Token] = {}
        self._locks: dict[Oauth2Key, asyncio.Lock] = {}

    def clear(self) -> None:
        self._kept.clear()
        self._locks.clear()

    def forget(self, config: Oauth2Config) -> None:
        """Drop a token that a target did not take."""
        self._kept.pop(key_of(config), None)

    async def header(self, config: Oauth2Config, timeout_s: float) -> str:
        """Return the Authorization header.

        Raises: TokenRefused, also when there is none within timeout_s; ConfigError for files that cannot be read.
        """
        key = key_of(config)
        kept = self._kept.get(key)
        if kept is not None and kept.until_s > time.monotonic():
            return kept.header
        try:
            async with asyncio.timeout(timeout_s):
                # One asks, the others wait for its answer.
                async with self._locks.setdefault(key, asyncio.Lock()):
                    kept = self._kept.get(key)
                    if kept is None or kept.until_s <= time.monotonic():
                        kept = self._kept[key] = await self._ask(config, timeout_s)
                    return kept.header
        except TimeoutError:
            raise TokenRefused(f"no token within {timeout_s:.3g} s") from None

    async def _ask(self, config: Oauth2Config, timeout_s: float) -> _Token:
        if config.grant_type == JWT_BEARER:
            form = {"grant_type": JWT_BEARER, "assertion": await asyncio.to_thread(_assertion, config)}
            return _token(await self._post(config, {**form, **config.endpoint_params}, "", timeout_s))
        secret = either(config.client_secret, config.client_secret_file, config.client_secret_ref)
        form = {"grant_type": "client_credentials"}
        if config.scopes:
            form["scope"] = " ".join(config.scopes)
        form.update(config.endpoint_params)
        # As RFC 6749 prefers; a server that knows only the form is asked a second time.
        result = await self._post(config, form, f"{quote(config.client_id, '')}:{quote(secret, '')}", timeout_s)
        if not result.success and result.reason == "status":
            form |= {"client_id": config.client_id, **({"client_secret": secret} if secret else {})}
            result = await self._post(config, form, "", timeout_s)
        return _token(result)

    async def _post(self, config: Oauth2Config, form: Mapping[str, str], user: str, timeout_s: float) -> ProbeResult:
        held: list[MemoryFile] = []
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        if user:
            headers["Authorization"] = basic(user)
        proxy = proxy_of(config, config.token_url, os.environ)
        sent = {name: ", ".join(values) for name, values in config.proxy_connect_header.items()} if proxy else {}
        options: dict[str, Any] = {
            "url": config.token_url,
            "method": "POST",
            "headers": headers,
            "body": urlencode(form),
            "tls": tls_options(config.tls_config, self._memory, held),
            "body_limit": _MAX_ANSWER,
            "proxy": proxy,
            "proxy_headers": sent,
        }
        probe = build_probe(self._registry, "http", options)
        memory: dict[str, Any] = {}
        wants = frozenset(("json", "body", "headers"))
        attempt = Attempt(target=config.token_url, timeout_s=timeout_s, env=self._env, wants=wants, memory=memory)
        try:
            return await attempt_once(probe, attempt)
        finally:
            close_memory(memory)
            held.clear()


Oauth2Key = bytes


def key_of(config: Oauth2Config) -> Oauth2Key:
    return msgspec.json.encode(config)


def _token(result: ProbeResult) -> _Token:
    if not result.success:
        raise TokenRefused(f"the token endpoint: {result.message}")
    answer = result.values.get("json")
    if not isinstance(answer, dict):
        answer = dict(parse_qsl(str(result.values.get("body", ""))))
    token = answer.get("access_token") or answer.get("id_token")
    if not isinstance(token, str) or not token or not token.isprintable():
        raise TokenRefused("the token endpoint's answer has no access_token")
    try:
        lives_s = float(answer.get("expires_in") or 0)
    except (TypeError, ValueError):
        lives_s = 0.0
    # Without a lifetime a token is good until somebody refuses it.
    until_s = time.monotonic() + lives_s - _EARLY_S if lives_s > 0 else float("inf")
    kind = str(answer.get("token_type") or "Bearer")
    known = {"bearer": "Bearer", "basic": "Basic", "mac": "MAC"}
    return _Token(f"{known.get(kind.lower(), kind)} {token}", until_s)


def _assertion(config: Oauth2Config) -> str:
    """Return the signed claim that the client is who it says (RFC 7523).

    Raises: ConfigError.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import padding, rsa

    pem = either(config.client_certificate_key, config.client_certificate_key_file, config.client_certificate_key_ref)
    try:
        key = serialization.load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError([Problem("client_certificate_key is not a PEM private key")]) from None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ConfigError([Problem("client_certificate_key is not an RSA key")])
    algorithm = config.signature_algorithm or "RS256"
    now = int(time.time())
    claims = {
        "iss": config.iss or config.client_id,
        "sub": config.client_id,
        "aud": config.audience or config.token_url,
        "iat": now,
        "exp": now + _ASSERTION_S,
        "jti": secrets.token_hex(16),
        **({"scope": " ".join(config.scopes)} if config.scopes else {}),
        **config.claims,
    }
    head = {"alg": algorithm, "typ": "JWT"}
    if config.client_certificate_key_id:
        head["kid"] = config.client_certificate_key_id
    signed = ".".join(_base64(json.dumps(part, separators=(",", ":")).encode()) for part in (head, claims))
    digests = {"RS256": hashes.SHA256(), "RS384": hashes.SHA384(), "RS512": hashes.SHA512()}
    return f"{signed}.{_base64(key.sign(signed.encode(), padding.PKCS1v15(), digests[algorithm]))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
