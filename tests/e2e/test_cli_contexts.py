"""Contexts as kubectl has them: two real daemons, one behind TLS with a token, seen from a machine that is neither."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from tests.e2e.running import Daemon, running, wait_until

PASSWORD = "battery staple horse"
CONFIG = 'probes: [{name: NAME, exec: ["true"], every: 1h}]\n'


class Desk:
    """A person at another machine: its own contexts, no admin socket of any daemon."""

    def __init__(self, folder: Path, near: Daemon, far: Daemon, ca: Path) -> None:
        self.folder, self.near, self.far, self.ca = folder, near, far, ca
        self.contexts = folder / "home" / "contexts.json"
        self.far_server = f"https://localhost:{far.port}"

    def run(self, *arguments: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        own = {"DOGWATCH_CONTEXTS": str(self.contexts), "DOGWATCH_SOCKET": str(self.folder / "none")}
        known = {name: value for name, value in os.environ.items() if not name.startswith(("DOGWATCH_", "SSL_CERT"))}
        command = self.near.command(*arguments)
        return subprocess.run(
            command, capture_output=True, text=True, timeout=60, env={**known, **own, **env}, check=False, input=stdin
        )

    def ok(self, *arguments: str, **env: str) -> str:
        done = self.run(*arguments, **env)
        assert done.returncode == 0, (arguments, done.stderr)
        return done.stdout

    def refused(self, code: int, *arguments: str, stdin: str = "", **env: str) -> str:
        """Run what must fail with a code, in words, and as an object with --json."""
        done = self.run(*arguments, stdin=stdin, **env)
        assert done.returncode == code, (arguments, done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done.stderr

    def probes(self, *arguments: str, **env: str) -> list[str]:
        return [one["name"] for one in json.loads(self.ok("probe", "list", "--json", *arguments, **env))]

    def token(self, name: str, *more: str) -> tuple[str, str]:
        """Make a token at the far daemon, on its own machine; return it and its id."""
        made = json.loads(self.far_run("token", "create", name, "--role", "viewer", "--json", *more).stdout)
        return made["secret"], made["token"]["id"]

    def far_run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        env = {
            **os.environ,
            "DOGWATCH_SERVER": self.far_server,
            "SSL_CERT_FILE": str(self.ca),
            "DOGWATCH_SOCKET": str(self.far.data / "admin.sock"),
            "DOGWATCH_CONTEXTS": str(self.folder / "nobody.json"),
        }
        return subprocess.run(
            self.far.command(*arguments),
            capture_output=True,
            text=True,
            timeout=60,
            env=env,
            check=True,
            input=stdin,
        )

    def token_file(self, text: str, mode: int = 0o600) -> str:
        path = self.folder / "token"
        path.unlink(missing_ok=True)
        path.touch(mode=mode)
        path.write_text(text + "\n")
        path.chmod(mode)
        return str(path)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder: Path = tmp_path_factory.mktemp("contexts")
    ca = trustme.CA()
    leaf = ca.issue_cert("localhost")
    (folder / "near").mkdir()
    (folder / "far").mkdir()
    ca.cert_pem.write_to_path(folder / "ca.pem")
    leaf.private_key_pem.write_to_path(folder / "far" / "key.pem")
    (folder / "far" / "cert.pem").write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    tls = f"server: {{tls: {{certificate: {folder}/far/cert.pem, key: {folder}/far/key.pem}}}}\n"
    far = Daemon(folder / "far", CONFIG.replace("NAME", "far") + tls)
    with running(folder / "near", CONFIG.replace("NAME", "near")) as near:
        try:
            far.spawn()
            wait_until(lambda: "Open      https://" in far.output(), what="the far daemon")
            one = Desk(folder, near, far, folder / "ca.pem")
            one.far_run("user", "add", "root", "--role", "admin", stdin=PASSWORD + "\n")
            yield one
        finally:
            far.close()


@pytest.fixture
def clean(desk: Desk) -> Desk:
    desk.contexts.unlink(missing_ok=True)
    return desk


@pytest.fixture
def two(clean: Desk) -> Desk:
    """Both daemons as contexts; the far one is in use."""
    secret, _id = clean.token("reader")
    clean.ok("context", "add", "near", "--server", clean.near.server)
    file = clean.token_file(secret)
    clean.ok("context", "add", "far", "--server", clean.far_server, "--token-file", file, "--ca", str(clean.ca))
    return clean


def test_none_yet(clean: Desk) -> None:
    assert "No contexts" in clean.ok("context", "list")
    assert json.loads(clean.ok("context", "list", "--json")) == []
    assert "no context is in use" in clean.refused(10, "context", "current")
    assert "there is no context 'prod'" in clean.refused(10, "context", "use", "prod")
    assert "there is no context 'prod'" in clean.refused(10, "context", "remove", "prod")
    assert "there is no context 'prod'" in clean.refused(10, "context", "rename", "prod", "x")
    assert "there is no context 'prod'" in clean.refused(10, "probe", "list", "--context", "prod")


def test_added_listed_used_renamed_removed(two: Desk) -> None:
    assert two.ok("context", "current") == "far\n"
    assert json.loads(two.ok("context", "current", "--json")) == {"name": "far", "server": two.far_server}
    listed = {one["name"]: one for one in json.loads(two.ok("context", "list", "--json"))}
    assert [(name, one["current"], one["token"]) for name, one in listed.items()] == [
        ("near", False, False),
        ("far", True, True),
    ]
    assert two.probes() == ["far"]
    two.ok("context", "use", "near")
    assert two.probes() == ["near"]
    assert "* " in next(line for line in two.ok("context", "list").splitlines() if "near" in line)
    assert "already" in two.refused(11, "context", "rename", "near", "far")
    two.ok("context", "rename", "near", "here")
    assert two.ok("context", "current") == "here\n"
    assert two.probes() == ["near"]
    two.ok("context", "rename", "far", "prod")
    assert two.ok("context", "current") == "here\n"
    assert two.probes("--context", "prod") == ["far"]
    assert "none is in use now" in two.ok("context", "remove", "here")
    assert two.refused(10, "context", "current")
    two.ok("context", "remove", "prod")
    assert json.loads(two.ok("context", "list", "--json")) == []


def test_what_is_kept_is_for_its_owner_only(two: Desk) -> None:
    assert two.contexts.stat().st_mode & 0o777 == 0o600
    assert two.contexts.parent.stat().st_mode & 0o077 == 0
    secret = json.loads(two.contexts.read_text())["contexts"]["far"]["token"]
    assert secret.startswith("dw_")
    for arguments in (["context", "list"], ["context", "list", "--json"], ["context", "current", "--json"]):
        assert secret not in two.ok(*arguments)


def test_a_token_comes_from_a_file_that_nobody_else_reads(clean: Desk) -> None:
    secret, _id = clean.token("from-a-file")
    add = ("context", "add", "far", "--server", clean.far_server, "--ca", str(clean.ca), "--token-file")
    for mode in (0o644, 0o640, 0o604):
        assert "can be read by others" in clean.refused(2, *add, clean.token_file(secret, mode))
    assert "holds no token" in clean.refused(2, *add, clean.token_file(""))
    assert "holds no token" in clean.refused(2, *add, clean.token_file("two words"))
    assert "no such file" in clean.refused(2, *add, str(clean.folder / "absent"))
    assert "cannot use" in clean.refused(2, *add[:-1], "--ca", str(clean.folder / "absent"))
    assert "holds no certificate" in clean.refused(2, *add[:-1], "--ca", clean.token_file("none"))
    assert json.loads(clean.ok("context", "list", "--json")) == []
    clean.ok(*add, clean.token_file(secret))
    assert clean.probes() == ["far"]
    clean.ok("context", "remove", "far")
    done = clean.run(*add, "-", stdin=secret)
    assert (done.returncode, clean.probes()) == (0, ["far"])


def test_a_path_of_an_authority_holds_from_everywhere(clean: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    secret, _id = clean.token("elsewhere")
    monkeypatch.chdir(clean.ca.parent)
    add = ("context", "add", "far", "--server", clean.far_server, "--ca", clean.ca.name)
    clean.ok(*add, "--token-file", clean.token_file(secret))
    monkeypatch.chdir("/")
    assert clean.probes() == ["far"]


def test_a_token_that_is_revoked_or_over_says_so(two: Desk) -> None:
    secret, id_ = two.token("leaving")
    add = ("context", "add", "gone", "--server", two.far_server, "--ca", str(two.ca), "--token-file")
    two.ok(*add, two.token_file(secret))
    assert two.probes() == ["far"]
    two.far_run("token", "revoke", id_)
    text = two.refused(12, "probe", "list")
    assert "token" in text
    assert secret not in text
    told = json.loads(two.refused(12, "probe", "list", "--json"))
    assert (told["code"], bool(told["hint"])) == ("not_allowed", True)
    over, id_ = two.token("over", "--expires", "1h")
    two.ok(*add, two.token_file(over))
    assert two.probes() == ["far"]
    with sqlite3.connect(two.far.data / "state.db", timeout=30) as database:
        database.execute("UPDATE tokens SET expires_s = 1 WHERE digest LIKE ?", (f"{id_}%",))
    database.close()
    # Who it is is remembered for a moment.
    wait_until(lambda: two.run("probe", "list").returncode == 12, what="the end of the token")
    assert "token" in two.refused(12, "probe", "list")
    two.ok("context", "use", "far")
    assert two.probes() == ["far"]


def test_what_wins_is_what_is_documented(two: Desk) -> None:
    """--server, --context, DOGWATCH_SERVER, DOGWATCH_CONTEXT, the context in use."""
    near, far = two.near.server, two.far_server
    two.ok("context", "use", "far")
    assert two.probes() == ["far"]
    assert two.probes(DOGWATCH_CONTEXT="near") == ["near"]
    assert two.probes(DOGWATCH_SERVER=near) == ["near"]
    assert two.probes(DOGWATCH_SERVER=near, DOGWATCH_CONTEXT="far") == ["near"]
    assert two.probes("--context", "far", DOGWATCH_SERVER=near) == ["far"]
    assert two.probes("--context", "near", DOGWATCH_CONTEXT="far") == ["near"]
    assert two.probes("--server", near, DOGWATCH_CONTEXT="far", DOGWATCH_SERVER=far) == ["near"]
    assert two.probes("--server", far, DOGWATCH_CONTEXT="near") == ["far"], "the server's own context has its token"
    assert two.probes(DOGWATCH_SERVER="", DOGWATCH_CONTEXT="") == ["far"]
    assert "both given" in two.refused(2, "probe", "list", "--server", near, "--context", "near")
    wrong = f"dw_{'0' * 40}"
    assert two.refused(12, "probe", "list", DOGWATCH_TOKEN=wrong), "the environment's token wins over the context's"


def test_a_token_goes_to_its_own_server_only(two: Desk) -> None:
    two.ok("context", "use", "far")
    # Another address of the same daemon is another server: no token is shown to it.
    other = f"https://127.0.0.1:{two.far.port}"
    assert two.refused(13, "probe", "list", "--server", other)
    two.ok("context", "use", "near")
    assert two.probes() == ["near"]


def test_a_server_that_is_down_and_one_nobody_vouches_for(two: Desk) -> None:
    two.ok("context", "add", "down", "--server", "http://127.0.0.1:1")
    told = two.refused(13, "probe", "list")
    assert "cannot reach the daemon at http://127.0.0.1:1: connection refused" in told
    assert json.loads(two.refused(13, "probe", "list", "--json"))["code"] == "unreachable"
    two.ok("context", "add", "doubtful", "--server", two.far_server)
    told = two.refused(13, "probe", "list")
    assert "is not vouched for" in told
    assert "--ca FILE" in told
    other = two.folder / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    two.ok("context", "add", "doubtful", "--server", two.far_server, "--ca", str(other))
    assert f"is not vouched for by {other}" in two.refused(13, "probe", "list")
    two.ok("context", "add", "plain", "--server", f"http://localhost:{two.far.port}")
    assert "https://" in two.refused(13, "probe", "list")
    for wrong in ("https://", "ftp://x", "http://x:0", "http://[::1"):
        assert "is not a server address" in two.refused(2, "context", "add", "x", "--server", wrong)


def test_login_makes_a_context_and_a_broken_file_is_named(clean: Desk) -> None:
    server = ("--server", clean.far_server, "--ca", str(clean.ca))
    assert clean.refused(12, "login", *server, "--user", "root", stdin="wrong one\n")
    done = clean.run("login", *server, "--user", "root", "--context", "prod", stdin=PASSWORD + "\n")
    assert done.returncode == 0, done.stderr
    assert clean.ok("context", "current") == "prod\n"
    assert clean.probes() == ["far"]
    clean.contexts.write_text("{")
    assert "is not a file of contexts" in clean.refused(1, "context", "list")
    assert "is not a file of contexts" in clean.refused(1, "probe", "list")
