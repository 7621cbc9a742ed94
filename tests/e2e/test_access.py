"""Access as people meet it: the command line against a real daemon, this machine's own user, the set-up link, TLS."""

from __future__ import annotations

import getpass
import http.client
import json
import os
import re
import ssl
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trustme
from tests.e2e.running import Daemon, running, wait_until, written

PASSWORD = "battery staple horse"
CONFIG = """
probes:
  - name: shop
    exec: ["true"]
    every: 1h
access:
  roles:
    shop: [{nouns: [probe], verbs: [read], labels: {team: shop}}]
  audit:
    head_every: 1
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running(tmp_path, CONFIG) as one:
        yield one


def run(daemon: Daemon, *arguments: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    own = {
        "DOGWATCH_SERVER": daemon.server,
        "DOGWATCH_SOCKET": str(daemon.data / "admin.sock"),
        "DOGWATCH_CONTEXTS": str(daemon.folder / "contexts.json"),
    }
    return subprocess.run(
        daemon.command(*arguments),
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **own, **env},
        check=False,
        input=stdin,
    )


def elsewhere(daemon: Daemon, *arguments: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command as if on another machine: without the admin socket."""
    return run(daemon, *arguments, stdin=stdin, **{"DOGWATCH_SOCKET": str(daemon.folder / "none"), **env})


def test_from_no_users_to_tokens(daemon: Daemon) -> None:
    assert "There are no users" in run(daemon, "user", "list").stdout
    # Somebody must stay who can make others.
    refused = run(daemon, "user", "add", "ann", "--role", "viewer", stdin=PASSWORD + "\n")
    assert (refused.returncode, "must be an admin" in refused.stderr) == (11, True)
    made = run(daemon, "user", "add", "root", "--role", "admin", stdin=PASSWORD + "\n")
    assert made.returncode == 0, made.stderr
    # From now on one says who one is; on this machine the admin socket vouches for its user.
    assert elsewhere(daemon, "probe", "list").returncode != 0
    assert run(daemon, "probe", "pause", "shop").returncode == 0
    newest = json.loads(run(daemon, "audit", "list", "--verb", "pause", "--json").stdout)[0]["event"]
    assert newest["actor"] == {"kind": "local", "name": getpass.getuser(), "address": ""}
    # Logging in from elsewhere keeps a token in a context.
    wrong = elsewhere(daemon, "login", "--user", "root", stdin="wrong password\n")
    assert (wrong.returncode, "wrong" in wrong.stderr) == (12, True)
    logged = elsewhere(daemon, "login", "--user", "root", "--context", "here", stdin=PASSWORD + "\n")
    assert logged.returncode == 0, logged.stderr
    contexts = daemon.folder / "contexts.json"
    assert contexts.stat().st_mode & 0o777 == 0o600
    assert elsewhere(daemon, "probe", "list").returncode == 0
    assert elsewhere(daemon, "probe", "list", DOGWATCH_SERVER="").returncode == 0
    assert "here" in elsewhere(daemon, "context", "list").stdout
    # A token for a program: less than its owner may.
    token = elsewhere(daemon, "token", "create", "ci", "--role", "viewer", "--expires", "1d").stdout.strip()
    assert token.startswith("dw_")
    assert elsewhere(daemon, "probe", "list", DOGWATCH_TOKEN=token).returncode == 0
    assert elsewhere(daemon, "probe", "pause", "shop", DOGWATCH_TOKEN=token).returncode == 12
    listed = json.loads(elsewhere(daemon, "token", "list", "--json").stdout)
    ci = next(one for one in listed if one["name"] == "ci")
    assert elsewhere(daemon, "token", "revoke", ci["id"]).returncode == 0
    assert elsewhere(daemon, "probe", "list", DOGWATCH_TOKEN=token).returncode == 12
    assert elsewhere(daemon, "context", "remove", "here").returncode == 0
    assert elsewhere(daemon, "probe", "list").returncode == 12


def test_users_and_roles(daemon: Daemon) -> None:
    run(daemon, "user", "add", "root", "--role", "admin", stdin=PASSWORD + "\n")
    assert (
        run(daemon, "user", "add", "ann", "--role", "shop", "--title", "Ann A", stdin=PASSWORD + "\n").returncode == 0
    )
    assert "Ann A" in run(daemon, "user", "show", "ann").stdout
    assert run(daemon, "user", "show", "bob").returncode == 10
    assert run(daemon, "user", "roles", "ann", "--role", "king").returncode == 2
    assert run(daemon, "user", "passwd", "ann", stdin="another good one\n").returncode == 0
    assert "disabled" in run(daemon, "user", "disable", "ann").stdout
    assert elsewhere(daemon, "login", "--user", "ann", stdin="another good one\n").returncode == 12
    assert run(daemon, "user", "delete", "ann").returncode == 0
    assert "team=shop" in run(daemon, "role", "show", "shop").stdout
    assert {one["name"] for one in json.loads(run(daemon, "role", "list", "--json").stdout)["roles"]} == {
        "viewer",
        "operator",
        "admin",
        "shop",
    }
    # What is changed in the configuration holds without a restart.
    daemon.config.write_text(CONFIG.replace("shop: [{nouns", "till: [{nouns"))
    wait_until(lambda: run(daemon, "role", "show", "till").returncode == 0, what="the reload")
    reloads = json.loads(run(daemon, "audit", "list", "--verb", "reload", "--json").stdout)
    assert [str(one["event"]["actor"]["name"]) for one in reloads] == ["reload by file"]


def test_the_trail_on_the_command_line(daemon: Daemon, tmp_path: Path) -> None:
    run(daemon, "user", "add", "root", "--role", "admin", stdin=PASSWORD + "\n")
    run(daemon, "probe", "pause", "shop")
    heads_file = daemon.data / "audit-heads.jsonl"
    wait_until(lambda: written(heads_file), what="a head")
    kept = tmp_path / "kept.jsonl"
    kept.write_text(heads_file.read_text())
    verified = run(daemon, "audit", "verify", "--heads", str(kept))
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert "as they were written; signed" in verified.stdout
    assert "root" in run(daemon, "audit", "search", "root").stdout
    assert "public key" in run(daemon, "audit", "heads").stdout
    lines = run(daemon, "audit", "export").stdout.splitlines()
    assert [json.loads(line)["number"] for line in lines] == list(range(len(lines), 0, -1))
    key = daemon.data / "audit.key"
    assert key.stat().st_mode & 0o777 == 0o600
    # Somebody with the machine's files changes the past while it is off.
    assert daemon.stop() == 143
    import sqlite3

    with sqlite3.connect(daemon.data / "state.db") as connection:
        connection.execute("UPDATE audit_events SET body = REPLACE(body, 'root', 'evil') WHERE number = 1")
    connection.close()
    daemon.start()
    broken = run(daemon, "audit", "verify")
    assert (broken.returncode, "broken at event 1" in broken.stdout) == (1, True), broken.stdout + broken.stderr


def test_beyond_loopback_the_terminal_shows_a_link(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, CONFIG)
    daemon.up_command = lambda: daemon.command(  # type: ignore[method-assign]
        "up", "--config", str(daemon.config), "--data", str(daemon.data), "--listen", f"0.0.0.0:{daemon.port}"
    )
    try:
        daemon.start()
        found = wait_until(lambda: re.search(r"Set up\s+(http\S+/setup\?code=\S+)", daemon.output()), what="the link")
        assert daemon.request("GET", "/api/v1/targets")[0] == 401
        with urllib.request.urlopen(found[1]) as page:
            assert found[1].split("code=")[1] in page.read().decode()
        # Who is on the machine need no link.
        assert run(daemon, "user", "add", "root", "--role", "admin", stdin=PASSWORD + "\n").returncode == 0
        assert run(daemon, "probe", "list").returncode == 0
    finally:
        daemon.close()


def setting_up(daemon: Daemon, link: str, name: str = "root") -> int:
    """Fill in the form of a set-up link, as a browser that has just come does, and return the status."""
    path = "/" + link.split("/", 3)[3]
    with closing(http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=30)) as connection:
        connection.request("GET", path)
        page = connection.getresponse()
        text = page.read().decode()
        if page.status != 200:
            return page.status
        token = re.search(r'name="form_token" value="([^"]+)"', text)
        assert token
        fields = {"form_token": token[1], "code": path.partition("code=")[2], "name": name, "password": PASSWORD}
        cookie = str(page.headers["set-cookie"]).split(";")[0]
        sent = {"cookie": cookie, "content-type": "application/x-www-form-urlencoded"}
        connection.request("POST", "/setup", urllib.parse.urlencode(fields), sent)
        answer = connection.getresponse()
        answer.read()
        return answer.status


def test_a_set_up_link_is_for_one_start_and_one_user(tmp_path: Path) -> None:
    """A link that somebody else has seen, or that was left in a log, is worth nothing after a restart, or once used."""
    daemon = Daemon(tmp_path, CONFIG)
    daemon.up_command = lambda: daemon.command(  # type: ignore[method-assign]
        "up", "--config", str(daemon.config), "--data", str(daemon.data), "--listen", f"0.0.0.0:{daemon.port}"
    )

    def links() -> list[str]:
        return re.findall(r"Set up\s+(http\S+/setup\?code=\S+)", daemon.output())

    try:
        daemon.start()
        (first,) = wait_until(links, what="the link")
        # Nothing is open without it, and no name or password is there from the start.
        for name, password in (("admin", "admin"), ("root", "root"), ("admin", ""), ("dogwatch", "dogwatch")):
            body = json.dumps({"name": name, "password": password}).encode()
            assert daemon.request("POST", "/api/v1/login", body)[0] in (400, 403)
        daemon.stop()
        daemon.start()
        second = wait_until(lambda: links()[1:], what="another link")[0]
        assert second != first
        assert setting_up(daemon, first) == 403
        assert setting_up(daemon, second.rpartition("=")[0] + "=guessed") == 403
        assert setting_up(daemon, second) == 303
        assert setting_up(daemon, second, "other") == 303, "to the login: there is a user"
        listed = json.loads(run(daemon, "user", "list", "--json").stdout)
        assert [one["name"] for one in listed] == ["root"]
        daemon.stop()
        daemon.start()
        assert len(links()) == 2, "no link where there is a user"
    finally:
        daemon.close()


def serial(port: int, ca: trustme.CA, client: trustme.LeafCert | None = None) -> str:
    context = ssl.create_default_context()
    ca.configure_trust(context)
    if client is not None:
        client.configure_cert(context)
    with (
        __import__("socket").create_connection(("127.0.0.1", port), 5) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as channel,
    ):
        channel.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        answer = b""
        while part := channel.recv(4096):
            answer += part
        assert b" 200 " in answer.split(b"\r\n")[0]
        assert b"strict-transport-security" in answer
        certificate = channel.getpeercert()
    assert certificate
    return str(certificate["serialNumber"])


def issue(ca: trustme.CA, folder: Path) -> None:
    leaf = ca.issue_cert("localhost")
    (folder / "key.pem").write_bytes(leaf.private_key_pem.bytes())
    (folder / "cert.pem").write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))


def test_tls_with_certificates_that_change_and_clients_that_show_theirs(tmp_path: Path) -> None:
    ca, others = trustme.CA(), trustme.CA()
    issue(ca, tmp_path)
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    tls = f"server: {{tls: {{certificate: {tmp_path}/cert.pem, key: {tmp_path}/key.pem}}}}\n"
    daemon = Daemon(tmp_path, CONFIG + tls)
    try:
        daemon.spawn()
        wait_until(lambda: "Open      https://" in daemon.output(), what="the start")
        first = serial(daemon.port, ca)
        secure = {"DOGWATCH_SERVER": f"https://localhost:{daemon.port}", "SSL_CERT_FILE": str(tmp_path / "ca.pem")}
        assert run(daemon, "probe", "list", **secure).returncode == 0
        assert run(daemon, "probe", "list", **{**secure, "SSL_CERT_FILE": "/dev/null"}).returncode == 13
        # A key that is none of the certificate's is not used; the pair that follows is.
        (tmp_path / "key.pem").write_bytes(ca.issue_cert("localhost").private_key_pem.bytes())
        wait_until(lambda: "not used (yet)" in daemon.output(), within_s=60, what="the refusal")
        assert serial(daemon.port, ca) == first
        issue(ca, tmp_path)
        wait_until(lambda: serial(daemon.port, ca) != first, within_s=60, what="the new certificate")
        # Clients must show one, from now on.
        daemon.config.write_text(CONFIG + tls.replace("key.pem}", f"key.pem, client_ca: {tmp_path}/ca.pem}}"))
        wait_until(lambda: not works(daemon.port, ca, None), within_s=60, what="the reload")
        assert works(daemon.port, ca, ca.issue_cert("agent-1"))
        assert not works(daemon.port, ca, others.issue_cert("agent-1"))
        # A certificate that cannot be used changes nothing.
        daemon.config.write_text(CONFIG + tls.replace("cert.pem", "none.pem"))
        wait_until(lambda: "none.pem" in daemon.output(), within_s=60, what="the complaint")
        assert works(daemon.port, ca, ca.issue_cert("agent-1"))
    finally:
        daemon.close()


def works(port: int, ca: trustme.CA, client: trustme.LeafCert | None) -> bool:
    try:
        serial(port, ca, client)
    except (OSError, AssertionError):
        return False
    return True


def test_memory_of_a_daemon_that_nobody_has_logged_in_to(daemon: Daemon) -> None:
    """What checks passwords, signs and logs in at providers is loaded when it is first needed."""
    maps = Path(f"/proc/{daemon.pid}/maps").read_text()
    for library in ("argon2", "cryptography"):
        assert library not in maps, library
