"""Values of Vault's key-value store, from a server that answers as Vault's API does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from dogwatch.config.load import Loader
from dogwatch.config.vault import VaultSecrets
from dogwatch.errors import ConfigError
from dogwatch.features import PROBES_SECTION, SECTIONS

SECRETS: dict[str, Any] = {
    "/v1/secret/data/shop": (200, {"data": {"data": {"password": "hunter2", "port": 5432}, "metadata": {}}}),
    "/v1/secret/data/gone": (200, {"data": {"data": None, "metadata": {"deletion_time": "2026"}}}),
    "/v1/secret/data/forbidden": (403, {"errors": ["permission denied"]}),
    "/v1/kv1/data/old": (200, {"data": {"password": "x"}}),
    "/v1/secret/data/sealed": (503, {"errors": ["Vault is sealed"]}),
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server: Any = self.server
        server.asked.append((self.path, self.headers["x-vault-token"], self.headers["x-vault-namespace"]))
        status, answer = SECRETS.get(self.path, (404, {"errors": []}))
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def vault() -> Iterator[Any]:
    server: Any = HTTPServer(("127.0.0.1", 0), Handler)
    server.asked = []
    server.environ = {"VAULT_ADDR": f"http://127.0.0.1:{server.server_port}", "VAULT_TOKEN": "s.token"}
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_values_are_read_once_with_the_token(vault: Any) -> None:
    secrets = VaultSecrets({**vault.environ, "VAULT_NAMESPACE": "team"})
    assert secrets.text("secret/shop#password") == "hunter2"
    assert secrets.text("secret/shop#port") == "5432"
    assert secrets.text("secret/data/shop#password") == "hunter2"
    assert vault.asked == [("/v1/secret/data/shop", "s.token", "team")] * 2


@pytest.mark.parametrize(
    ("where", "word"),
    [
        ("secret/shop", "names no value"),
        ("shop#password", "names no value"),
        ("secret/shop#nothing", "has no 'nothing'"),
        ("secret/none#x", "is not there"),
        ("secret/forbidden#x", "may not be read"),
        ("secret/gone#x", "was deleted"),
        ("secret/sealed#x", "sealed"),
        ("kv1/old#x", "version 2"),
    ],
)
def test_what_cannot_be_read_is_said(vault: Any, where: str, word: str) -> None:
    with pytest.raises(ValueError, match=word) as caught:
        VaultSecrets(vault.environ).text(where)
    assert "hunter2" not in str(caught.value.args)


def test_tokens_come_from_files_too(vault: Any, tmp_path: Path) -> None:
    (tmp_path / ".vault-token").write_text("s.file\n")
    environ = {"VAULT_ADDR": vault.environ["VAULT_ADDR"], "HOME": str(tmp_path)}
    VaultSecrets(environ).text("secret/shop#password")
    assert vault.asked[0][1] == "s.file"
    with pytest.raises(ValueError, match="no token"):
        VaultSecrets({**environ, "HOME": "/nonexistent"}).text("secret/shop#password")


def test_an_absent_vault_is_said() -> None:
    environ = {"VAULT_ADDR": "http://127.0.0.1:9", "VAULT_TOKEN": "x"}
    with pytest.raises(ValueError, match=r"cannot ask Vault at 127\.0\.0\.1:9"):
        VaultSecrets(environ).text("secret/shop#password")
    with pytest.raises(ValueError, match="VAULT_ADDR"):
        VaultSecrets({}).text("secret/shop#password")


def test_configuration_takes_them_and_never_shows_them(vault: Any, tmp_path: Path) -> None:
    file = tmp_path / "dogwatch.yaml"
    file.write_text("probes: [{name: shop, tcp: 'db:${vault:secret/shop#port}'}]\n")
    loaded = Loader([file], SECTIONS, environ=vault.environ).load()
    assert "5432" in str(loaded.get(PROBES_SECTION)[0].check)
    file.write_text("probes: [{name: shop, tcp: 'db:1', every: '${vault:secret/shop#password}'}]\n")
    with pytest.raises(ConfigError) as caught:
        Loader([file], SECTIONS, environ=vault.environ).load()
    assert "hunter2" not in str(caught.value)
