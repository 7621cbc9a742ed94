"""Login at an OpenID Connect provider: authorization code flow with PKCE, state and nonce, each good for one answer.

Source: OpenID Connect Core 1.0 §3.1, RFC 7636, RFC 9700.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import ssl
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus, urlencode, urlsplit

import msgspec

from dogwatch.access.options import OidcOptions
from dogwatch.access.tokens import digest_of, new_secret
from dogwatch.access.users import User, proper_name
from dogwatch.core.clock import Clock
from dogwatch.errors import NotAllowed, Unreachable, UsageError
from dogwatch.store.database import Database, Tx

if TYPE_CHECKING:
    from joserfc.jwk import KeySet

log = logging.getLogger(__name__)
# Asymmetric ones only: a secret shared with the client must not vouch for users, and `none` nobody at all.
_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519")
_TIMEOUT_S = 10.0
_LOGIN_S = 600.0
_LOGINS_KEPT = 10_000
_METADATA_S = 3600.0
_KEYS_EVERY_S = 30.0
_LEEWAY_S = 60
_ANSWER_BYTES = 1024 * 1024
_CLOCKS = "the clocks of the provider and of this machine must agree to within a minute"


class Provider:
    """One provider, as it described itself when it was last asked. Its libraries are loaded for the first login."""

    def __init__(self, options: OidcOptions, database: Database, clock: Clock) -> None:
        self.options = options
        self._database = database
        self._clock = clock
        self._metadata: dict[str, Any] = {}
        self._metadata_until_s = 0.0
        self._keys: KeySet | None = None
        self._keys_at_s = -_KEYS_EVERY_S

    async def begin(self, browser: str, redirect_uri: str, target: str) -> str:
        """Return the address to send a browser to. browser: a secret that only it has, in a cookie. target: where it
        goes afterwards.

        Raises: Unreachable.
        """
        metadata = await self._described()
        state, nonce, verifier = new_secret(), new_secret(), new_secret()

        def work(tx: Tx) -> None:
            tx.run("DELETE FROM oidc_logins WHERE created_s < :old", old=tx.now_s - _LOGIN_S)
            tx.run(
                "DELETE FROM oidc_logins WHERE digest IN "
                "(SELECT digest FROM oidc_logins ORDER BY created_s DESC LIMIT 1000 OFFSET :kept)",
                kept=_LOGINS_KEPT,
            )
            tx.run(
                "INSERT INTO oidc_logins (digest, browser, nonce, verifier, target, created_s) "
                "VALUES (:digest, :browser, :nonce, :verifier, :target, :now)",
                digest=digest_of(state),
                browser=digest_of(browser),
                nonce=nonce,
                verifier=verifier,
                target=target,
                now=tx.now_s,
            )

        await self._database.write(work)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
        query = {
            "response_type": "code",
            "client_id": self.options.client_id,
            "redirect_uri": redirect_uri,
            "scope": " ".join(self.options.scopes),
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        address = str(metadata["authorization_endpoint"])
        return f"{address}{'&' if urlsplit(address).query else '?'}{urlencode(query)}"

    async def finish(self, browser: str, redirect_uri: str, query: Mapping[str, str]) -> tuple[User, str]:
        """Return the user that the provider vouches for, and where the browser wanted to go.

        Raises: NotAllowed for an answer that does not hold, Unreachable.
        """
        nonce, verifier, target = await self._claimed(query.get("state", ""), browser)
        if query.get("error"):
            raise NotAllowed(f"the provider refused: {query['error'][:100]}")
        issuer = query.get("iss")
        if issuer is not None and issuer != self.options.issuer:
            raise NotAllowed("the answer is another provider's")  # RFC 9207
        token = await self._exchange(query.get("code", ""), redirect_uri, verifier)
        claims = await self._verified(str(token.get("id_token") or ""), nonce)
        if self.options.groups not in claims or self.options.name not in claims:
            claims = {**await self._userinfo(str(token.get("access_token") or ""), str(claims["sub"])), **claims}
        return self._user(claims), target

    async def _claimed(self, state: str, browser: str) -> tuple[str, str, str]:
        """Take a login that is under way: whoever comes second finds nothing."""

        def work(tx: Tx) -> tuple[str, str, str] | None:
            row = tx.one(
                "DELETE FROM oidc_logins WHERE digest = :digest RETURNING nonce, verifier, target, browser, created_s",
                digest=digest_of(state),
            )
            if row is None or row[3] != digest_of(browser) or float(row[4] or 0) < tx.now_s - _LOGIN_S:
                return None
            return str(row[0]), str(row[1]), str(row[2])

        found = await self._database.write(work)
        if found is None:
            raise NotAllowed("this login is not under way (any more)", hint="begin again from the login page")
        return found

    async def _asked(
        self,
        address: str,
        *,
        form: Mapping[str, str] | None = None,
        token: str = "",
        login: tuple[str, str] | None = None,
    ) -> tuple[int, dict[str, Any]]:
        """Return the status and the JSON of an answer. form: is posted. Raises: Unreachable."""
        import httpx

        headers = {"Accept": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
        try:
            context = ssl.create_default_context(cafile=self.options.ca or None)
            async with httpx.AsyncClient(verify=context, timeout=_TIMEOUT_S, trust_env=False, auth=login) as client:
                method = "GET" if form is None else "POST"
                async with client.stream(method, address, headers=headers, data=form) as answer:
                    content = b""
                    async for part in answer.aiter_bytes():
                        content += part
                        if len(content) > _ANSWER_BYTES:
                            raise Unreachable(f"the OpenID provider's answer at {address} is too large")
                    status = answer.status_code
            return status, msgspec.json.decode(content, type=dict[str, Any])
        except (httpx.HTTPError, httpx.InvalidURL, OSError, msgspec.MsgspecError) as error:
            raise Unreachable(f"cannot ask the OpenID provider at {address}: {error}") from error

    async def _fetched(self, address: str, token: str = "") -> dict[str, Any]:
        status, answer = await self._asked(address, token=token)
        if status != 200:
            raise Unreachable(f"the OpenID provider answered {status} at {address}")
        return answer

    async def _described(self) -> dict[str, Any]:
        now_s = self._clock.monotonic_s()
        if not self._metadata or now_s >= self._metadata_until_s:
            found = await self._fetched(f"{self.options.issuer.rstrip('/')}/.well-known/openid-configuration")
            if found.get("issuer") != self.options.issuer:
                raise Unreachable(
                    f"the OpenID provider calls itself {str(found.get('issuer'))[:200]!r}",
                    hint="access.oidc.issuer must be exactly that",
                )
            for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
                if not isinstance(found.get(name), str):
                    raise Unreachable(f"the OpenID provider does not say its {name}")
            self._metadata, self._metadata_until_s = found, now_s + _METADATA_S
        return self._metadata

    async def _key_set(self, *, renew: bool = False) -> KeySet:
        from joserfc.errors import JoseError
        from joserfc.jwk import KeySet

        now_s = self._clock.monotonic_s()
        age_s = now_s - self._keys_at_s
        # Asked for again now and then: a key that the provider has withdrawn must not hold for ever.
        if self._keys is None or age_s >= _METADATA_S or (renew and age_s >= _KEYS_EVERY_S):
            found = await self._fetched(str((await self._described())["jwks_uri"]))
            keys = found.get("keys")
            # Keys that this program cannot use (newer kinds, encryption) must not cost those that it can.
            usable = [key for key in keys if _usable(key)] if isinstance(keys, list) else []
            try:
                self._keys = KeySet.import_key_set({"keys": usable})
            except (JoseError, ValueError, TypeError) as error:
                raise Unreachable(f"the OpenID provider's keys cannot be read: {error}") from error
            self._keys_at_s = now_s
        return self._keys

    async def _exchange(self, code: str, redirect_uri: str, verifier: str) -> Mapping[str, Any]:
        metadata = await self._described()
        methods = metadata.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
        }
        login: tuple[str, str] | None = None
        if self.options.client_secret and "client_secret_basic" in methods:
            # RFC 6749 §2.3.1: as in a form.
            login = (quote_plus(self.options.client_id), quote_plus(self.options.client_secret))
        else:
            form["client_id"] = self.options.client_id
            if self.options.client_secret:
                form["client_secret"] = self.options.client_secret
        status, answer = await self._asked(str(metadata["token_endpoint"]), form=form, login=login)
        if status != 200:
            why = str(answer.get("error") or f"it answered {status}")
            raise NotAllowed(f"the provider does not take its code back: {why[:100]}")
        return answer

    async def _verified(self, id_token: str, nonce: str) -> dict[str, Any]:
        """Return the claims of an ID token that is the provider's, for us, for this login, and of now."""
        from joserfc.errors import ClaimError, JoseError

        try:
            claims = self._decoded(id_token, await self._key_set())
        except (JoseError, ValueError, KeyError):
            # The provider may have new keys; it is asked at most every half minute.
            try:
                claims = self._decoded(id_token, await self._key_set(renew=True))
            except (JoseError, ValueError, KeyError) as error:
                late = isinstance(error, ClaimError) and error.claim in ("exp", "iat", "nbf")
                raise NotAllowed(
                    f"the provider's ID token does not hold: {error}", hint=_CLOCKS if late else ""
                ) from error
        audience = claims.get("aud")
        many = isinstance(audience, list) and len(audience) > 1
        if claims.get("azp", self.options.client_id) != self.options.client_id or (many and "azp" not in claims):
            raise NotAllowed("the provider's ID token was made for another program")
        if claims.get("nonce") != nonce:
            raise NotAllowed("the provider's ID token belongs to another login")
        return claims

    def _decoded(self, id_token: str, keys: KeySet) -> dict[str, Any]:
        from joserfc import jwt

        token = jwt.decode(id_token, keys, algorithms=list(_ALGORITHMS))
        registry = jwt.JWTClaimsRegistry(
            now=lambda: int(self._clock.now_s()),
            leeway=_LEEWAY_S,
            iss={"essential": True, "value": self.options.issuer},
            aud={"essential": True, "value": self.options.client_id},
            sub={"essential": True},
            exp={"essential": True},
            iat={"essential": True},
        )
        registry.validate(token.claims)
        return dict(token.claims)

    async def _userinfo(self, access_token: str, subject: str) -> dict[str, Any]:
        address = (await self._described()).get("userinfo_endpoint")
        if not isinstance(address, str) or not access_token:
            return {}
        found = await self._fetched(address, access_token)
        # Core §5.3.2: another subject's answer must not be used.
        return found if found.get("sub") == subject else {}

    def _user(self, claims: Mapping[str, Any]) -> User:
        groups = _texts(claims.get(self.options.groups))
        if self.options.allow_groups and not set(groups) & set(self.options.allow_groups):
            raise NotAllowed("you are in none of the groups that may log in here")
        text = str(claims.get(self.options.name) or claims.get("email") or claims["sub"])
        try:
            name = proper_name(text)
        except UsageError as error:
            raise NotAllowed(f"the provider's name for you cannot be used: {text[:100]!r}", hint=error.hint) from error
        # Two fields without a separator could be two other fields with one.
        identity = f"{self.options.issuer} {claims['sub']}"
        return User(
            name=name,
            title=str(claims.get("name") or "")[:200],
            email=str(claims.get("email") or "")[:200],
            source="oidc",
            identity=identity,
            groups=groups,
        )


def _usable(key: object) -> bool:
    return isinstance(key, dict) and key.get("kty") in ("RSA", "EC", "OKP") and key.get("use", "sig") == "sig"


def _texts(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    return tuple(str(one) for one in value) if isinstance(value, Sequence) else ()
