"""`${vault:secret/shop#password}`: values of HashiCorp Vault's key-value store, version 2, over its HTTP API.

Where it is and who asks stands in Vault's own variables: VAULT_ADDR, VAULT_TOKEN or VAULT_TOKEN_FILE (or
~/.vault-token), VAULT_NAMESPACE, VAULT_CACERT.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, urlsplit

_TIMEOUT_S = 5.0
_ANSWER_BYTES = 2**20
_REASONS = {
    403: "may not be read with this token",
    404: "is not there",
    503: "cannot be read: Vault is sealed",
}


class VaultSecrets:
    """Asks for each secret once per load. The calls block: configuration is read in a thread."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._kept: dict[str, Mapping[str, object] | ValueError] = {}

    def text(self, where: str) -> str:
        """Return one value. where: `mount/path#key`, the path with or without Vault's own `data/`.

        Raises: ValueError(message, hint).
        """
        path, hash_, key = where.strip().partition("#")
        if not hash_ or not key or "/" not in path.strip("/"):
            raise ValueError("${vault:} names no value", "write ${vault:secret/shop#password}")
        path = path.strip("/")
        if path not in self._kept:
            try:
                self._kept[path] = self._read(path)
            except ValueError as error:
                # Of many values in one secret, one question: the others say the same.
                self._kept[path] = error
        kept = self._kept[path]
        if isinstance(kept, ValueError):
            raise kept
        if key not in kept:
            raise ValueError(f"Vault's {path} has no '{key}'", f"known: {', '.join(sorted(kept))}")
        value = kept[key]
        return value if isinstance(value, str) else json.dumps(value)

    def _read(self, path: str) -> Mapping[str, object]:
        address = self._environ.get("VAULT_ADDR", "")
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("VAULT_ADDR says not where Vault is", "set it to https://vault.example:8200")
        mount, _, rest = path.partition("/")
        rest = rest.removeprefix("data/")
        url = f"{parts.path.rstrip('/')}/v1/{quote(mount)}/data/{quote(rest)}"
        status, content = self._asked(parts.scheme == "https", parts.hostname, parts.port or 8200, url)
        if status != 200:
            raise ValueError(f"Vault's {path} {_REASONS.get(status, f'cannot be read: it answered {status}')}")
        try:
            found = json.loads(content)["data"]["data"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"Vault's {path} is no secret of the key-value store, version 2") from None
        if not isinstance(found, dict):
            raise ValueError(f"Vault's {path} was deleted")
        return found

    def _asked(self, secure: bool, host: str, port: int, url: str) -> tuple[int, bytes]:
        # Loaded for the first value: most configurations have none.
        import http.client
        import ssl

        headers = {"X-Vault-Token": self._token(), "X-Vault-Request": "true"}
        if self._environ.get("VAULT_NAMESPACE"):
            headers["X-Vault-Namespace"] = self._environ["VAULT_NAMESPACE"]
        try:
            connection: http.client.HTTPConnection
            if secure:
                context = ssl.create_default_context(cafile=self._environ.get("VAULT_CACERT") or None)
                connection = http.client.HTTPSConnection(host, port, timeout=_TIMEOUT_S, context=context)
            else:
                connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
            try:
                connection.request("GET", url, headers=headers)
                answer = connection.getresponse()
                return answer.status, answer.read(_ANSWER_BYTES)
            finally:
                connection.close()
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            raise ValueError(f"cannot ask Vault at {host}:{port}: {error}", "see VAULT_ADDR") from None

    def _token(self) -> str:
        token = self._environ.get("VAULT_TOKEN", "")
        if token:
            return token.strip()
        home = self._environ.get("HOME", "")
        file = self._environ.get("VAULT_TOKEN_FILE") or (f"{home}/.vault-token" if home else "")
        try:
            return Path(file).read_text("ascii").strip()
        except (OSError, ValueError):
            raise ValueError("there is no token for Vault", "set VAULT_TOKEN or VAULT_TOKEN_FILE") from None
