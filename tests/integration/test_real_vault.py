"""Values of a real Vault: HashiCorp's server and its key-value engine, built from their Go modules, in memory."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from dogwatch.config.load import Loader
from dogwatch.config.vault import VaultSecrets
from dogwatch.errors import ConfigError
from dogwatch.features import PROBES_SECTION, SECTIONS

VAULT = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dogwatch-tests" / "vault-1.21.4"
pytestmark = pytest.mark.skipif(not VAULT.exists(), reason="scripts/install-vault has not built one")


class Vault:
    """A Vault that was initialised and opened. root: its first token."""

    def __init__(self, address: str) -> None:
        self.address, self.root, self.key = address, "", ""

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        data = json.dumps(body).encode() if body is not None else None
        request = Request(f"{self.address}/v1/{path}", data, {"X-Vault-Token": self.root}, method=method)
        with urlopen(request, timeout=10) as answer:
            content = answer.read()
        return json.loads(content) if content else None

    def open(self) -> None:
        found = self.ask("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
        self.root, self.key = found["root_token"], found["keys"][0]
        self.ask("PUT", "sys/unseal", {"key": self.key})
        self.ask("POST", "sys/mounts/secret", {"type": "kv", "options": {"version": "2"}})
        self.ask("POST", "sys/mounts/old", {"type": "kv", "options": {"version": "1"}})

    def environ(self, token: str = "") -> dict[str, str]:
        return {"VAULT_ADDR": self.address, "VAULT_TOKEN": token or self.root}


@pytest.fixture
def vault() -> Iterator[Vault]:
    process = subprocess.Popen(
        [str(VAULT), "127.0.0.1:0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        one = Vault(f"http://{process.stdout.readline().strip()}")
        one.open()
        yield one
    finally:
        process.kill()
        process.communicate()


def test_a_real_vault_gives_its_values(vault: Vault, tmp_path: Path) -> None:
    vault.ask("POST", "secret/data/shop", {"data": {"password": "hunter22", "port": 5432}})
    vault.ask("POST", "secret/data/team/deep", {"data": {"password": "deeper"}})
    secrets = VaultSecrets(vault.environ())
    assert secrets.text("secret/shop#password") == "hunter22"
    assert secrets.text("secret/data/team/deep#password") == "deeper"
    file = tmp_path / "dogwatch.yaml"
    file.write_text("probes: [{name: shop, tcp: 'db:${vault:secret/shop#port}'}]\n")
    loaded = Loader([file], SECTIONS, environ=vault.environ()).load()
    assert "5432" in str(loaded.get(PROBES_SECTION)[0].check)


def test_a_real_vault_refuses(vault: Vault, tmp_path: Path) -> None:
    vault.ask("POST", "secret/data/shop", {"data": {"password": "hunter22"}})
    vault.ask("POST", "secret/data/gone", {"data": {"password": "hunter22"}})
    vault.ask("DELETE", "secret/data/gone")
    vault.ask("POST", "old/shop", {"password": "hunter22"})
    vault.ask("PUT", "sys/policies/acl/some", {"policy": 'path "secret/data/team/*" { capabilities = ["read"] }'})
    limited = vault.ask("POST", "auth/token/create", {"policies": ["some"]})["auth"]["client_token"]
    for environ, where, why in (
        (vault.environ(), "secret/none#x", "is not there"),
        (vault.environ(), "secret/gone#password", "is not there"),
        (vault.environ(), "secret/shop#nothing", "has no 'nothing'; known: password"),
        (vault.environ(), "old/shop#password", "is not there"),
        (vault.environ(limited), "secret/shop#password", "may not be read with this token"),
        (vault.environ("hvs.unknown"), "secret/shop#password", "may not be read with this token"),
    ):
        with pytest.raises(ValueError, match=why.partition(";")[0]) as caught:
            VaultSecrets(environ).text(where)
        assert "hunter22" not in str(caught.value.args)
    vault.ask("PUT", "sys/seal")
    file = tmp_path / "dogwatch.yaml"
    file.write_text("probes: [{name: shop, tcp: 'db:${vault:secret/shop#password}'}]\n")
    with pytest.raises(ConfigError, match="Vault is sealed"):
        Loader([file], SECTIONS, environ=vault.environ()).load()
