"""Finds out who makes a request: a token, a session, a client's certificate, this machine itself, or nobody known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dogwatch.access.identity import VIEW_RIGHTS, Identity, anonymous, local
from dogwatch.access.service import Access
from dogwatch.web.options import WebOptions, is_loopback, parse_listen

# With `__Host-` a browser takes it over TLS only, and from this very name only.
COOKIE = "dogwatch_session"
SECURE_COOKIE = "__Host-dogwatch_session"
_LONGEST = 200
# Where the server leaves the names of a client's certificate, in the connection's state.
CERTIFICATE = "dogwatch.certificate"


class Recogniser:
    def __init__(self, options: WebOptions, access: Access | None) -> None:
        self._access = access
        self._writes = options.writes
        self._loopback_only = is_loopback(parse_listen(options.listen)[0] or "0.0.0.0")  # noqa: S104 compared, not bound

    async def __call__(
        self, scope: Mapping[str, Any], headers: Mapping[bytes, bytes], *, forwarded: bool, counts: bool = True
    ) -> Identity:
        """Return who asks. A token or session that does not hold is nobody, whatever else the request carries.

        counts: whether it is used by this; a stream that is open is no sign of its reader.
        Raises: TransientError while the database cannot be asked.
        """
        client = scope.get("client")
        address = str(client[0]) if client else ""
        access = self._access
        if access is None:
            return local("console", address)
        authorization = headers.get(b"authorization", b"")
        if authorization:
            kind, _, secret = authorization.decode("latin-1").partition(" ")
            if kind.lower() != "bearer" or len(secret) > _LONGEST:
                return anonymous(address)
            return await access.by_token(secret.strip(), address, counts=counts) or anonymous(address)
        cookie = session_cookie(headers, secure=scope.get("scheme") == "https")
        if cookie:
            found = await access.by_session(cookie, address, counts=counts)
            if found is not None:
                return found
        names = scope.get("state", {}).get(CERTIFICATE, ())
        if names:
            found = await access.by_certificate(names, address)
            if found is not None:
                return found
        if not access.has_users and self._trusts(client, forwarded=forwarded):
            return local("console", address, VIEW_RIGHTS) if self._writes == "nobody" else local("console", address)
        return anonymous(address)

    def _trusts(self, client: Any, *, forwarded: bool) -> bool:
        """Return whether somebody without a name is this machine's own, while there are no users."""
        if self._writes == "anyone":
            return True
        return self._loopback_only and not forwarded and (client is None or is_loopback(client[0]))


def session_cookie(headers: Mapping[bytes, bytes], *, secure: bool) -> str:
    """Return the session's cookie; over TLS only the one that a browser cannot have got elsewhere."""
    wanted = SECURE_COOKIE if secure else COOKIE
    for part in headers.get(b"cookie", b"").decode("latin-1").split(";"):
        name, _, value = part.strip().partition("=")
        if name == wanted and len(value) <= _LONGEST:
            return value
    return ""
