"""Certificates instead of passwords: the command line, another place, workers; daemon and PostgreSQL are real."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from tests.certificates import Authority
from tests.e2e.running import Daemon, wait_until
from tests.e2e.test_workers import working
from tests.postgres import Postgres

CENTER = """
server:
  tls:
    certificate: {pki}/server.pem
    key: {pki}/server.key
    client_ca: {pki}/ca.pem
    client_crl: {pki}/crl.pem
access:
  roles:
    place: [{{nouns: [location], verbs: [create]}}]
    looks: [{{nouns: [probe], labels: {{team: shop}}}}]
  certificates:
    - {{subject: berlin, roles: [place]}}
    - {{san: "DNS:laptop.example", roles: [looks]}}
locations: {{name: here, quorum: [{{target: shop, locations: [here, berlin], down: 2}}]}}
probes:
  - {{name: shop, tcp: "127.0.0.1:9", every: 1h, labels: {{team: shop}}}}
  - {{name: till, tcp: "127.0.0.1:9", every: 1h, labels: {{team: till}}}}
"""
BERLIN = """
probes:
  - {{name: shop, exec: ["true"], every: 1s, timeout: 900ms}}
locations:
  name: berlin
  every: 1s
  silent: 5s
  report_to:
    - {{url: "https://localhost:{port}", ca_file: {pki}/ca.pem, cert_file: {pki}/{who}.pem, key_file: {pki}/{who}.key}}
"""


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    one = Authority(tmp_path / "pki")
    one.issue("server", "localhost", "127.0.0.1")
    one.issue("berlin", "berlin.example")
    one.issue("stolen", "berlin.example")
    one.issue("laptop", "laptop.example")
    one.revoke("stolen")
    return one


@pytest.fixture
def center(tmp_path: Path, authority: Authority) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path, CENTER.format(pki=authority.folder))
    try:
        daemon.spawn()
        wait_until(lambda: "Open      https://" in daemon.output(), what="the start")
        yield daemon
    finally:
        daemon.close()


def run(daemon: Daemon, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    own = {
        "DOGWATCH_SERVER": f"https://localhost:{daemon.port}",
        "DOGWATCH_SOCKET": str(daemon.folder / "none"),
        "DOGWATCH_CONTEXTS": str(daemon.folder / "contexts.json"),
        "SSL_CERT_FILE": str(daemon.folder / "pki" / "ca.pem"),
    }
    command = daemon.command(*words)
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **own, **env}, timeout=60, check=False
    )


def test_the_command_line_shows_a_certificate(center: Daemon, authority: Authority) -> None:
    pki = str(authority.folder)
    nobody = run(center, "probe", "list")
    assert nobody.returncode == 13, nobody.stdout + nobody.stderr
    shown = {"DOGWATCH_CERT": f"{pki}/laptop.pem", "DOGWATCH_KEY": f"{pki}/laptop.key"}
    listed = run(center, "probe", "list", "--json", **shown)
    assert listed.returncode == 0, listed.stderr
    assert [one["name"] for one in json.loads(listed.stdout)] == ["shop"], "its role is bound to the subject"
    assert run(center, "probe", "pause", "shop", **shown).returncode == 12
    revoked = {"DOGWATCH_CERT": f"{pki}/stolen.pem", "DOGWATCH_KEY": f"{pki}/stolen.key"}
    assert run(center, "probe", "list", **revoked).returncode == 13
    mixed = run(center, "probe", "list", **{**shown, "DOGWATCH_KEY": f"{pki}/berlin.key"})
    assert (mixed.returncode, "pair" in mixed.stderr) == (2, True), mixed.stderr
    gone = run(center, "probe", "list", **{**shown, "DOGWATCH_CERT": f"{pki}/none.pem"})
    assert (gone.returncode, "no such file" in gone.stderr) == (2, True), gone.stderr
    # Kept in a context, whatever the folder is that one is in.
    words = ["context", "add", "center", "--server", f"https://localhost:{center.port}", "--ca", f"{pki}/ca.pem"]
    made = run(center, *words, "--cert", f"{pki}/laptop.pem", "--key", f"{pki}/laptop.key")
    assert made.returncode == 0, made.stderr
    plain = run(center, "probe", "list", DOGWATCH_SERVER="", SSL_CERT_FILE="/dev/null")
    assert plain.returncode == 0, plain.stderr
    assert "shop" in plain.stdout


@pytest.mark.parametrize("who", ["berlin", "stolen"])
def test_another_place_reports_with_its_certificate(
    center: Daemon, authority: Authority, tmp_path: Path, who: str
) -> None:
    folder = tmp_path / "berlin"
    folder.mkdir()
    place = Daemon(folder, BERLIN.format(port=center.port, pki=authority.folder, who=who))
    shown = {"DOGWATCH_CERT": f"{authority.folder}/laptop.pem", "DOGWATCH_KEY": f"{authority.folder}/laptop.key"}
    try:
        place.start()
        if who == "stolen":
            wait_until(lambda: "is not told what this place sees" in place.output(), what="the refusal")
            return
        log = center.data / "state.db"

        def reported() -> bool:
            import sqlite3

            with sqlite3.connect(log, timeout=10) as database:
                rows = database.execute("SELECT location FROM location_reports").fetchall()
            database.close()
            return rows == [("berlin",)]

        wait_until(reported, what="the report")
        assert "is not told what this place sees" not in place.output()
        # Nothing else is open to it.
        denied = run(
            center,
            "probe",
            "list",
            **{**shown, "DOGWATCH_CERT": f"{authority.folder}/berlin.pem"}
            | {"DOGWATCH_KEY": f"{authority.folder}/berlin.key"},
        )
        assert denied.returncode == 12, denied.stderr
    finally:
        place.close()


WORKED = """
database: {{url: "postgresql://dogwatch@localhost:{port}/{database}?{query}"}}
engine: {{work: {work}, key: "a key of a test, long enough"}}
jobs:
  - {{name: quick, steps: [{{name: say, exec: "echo done"}}]}}
"""


@pytest.fixture
def secure(tmp_path: Path, authority: Authority) -> Iterator[tuple[Postgres, str]]:
    """A PostgreSQL that takes nobody without a certificate in its own name."""
    server = Postgres()
    try:
        server.start()
        database = server.create().rpartition("/")[2]
        with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
            connection.execute("CREATE ROLE dogwatch SUPERUSER LOGIN")
        server.stop()
        for name in ("server.pem", "server.key", "ca.pem", "crl.pem"):
            shutil.copy(authority.folder / name, server.data / name)
            os.chmod(server.data / name, 0o600)  # noqa: PTH101
            if os.geteuid() == 0:
                shutil.chown(server.data / name, "postgres", "postgres")
        with (server.data / "postgresql.conf").open("a") as file:
            file.write(
                "ssl = on\nssl_cert_file = 'server.pem'\nssl_key_file = 'server.key'\n"
                "ssl_ca_file = 'ca.pem'\nssl_crl_file = 'crl.pem'\n"
            )
        hba = "local all postgres trust\nhost all postgres 127.0.0.1/32 trust\nhostssl all dogwatch all cert\n"
        (server.data / "pg_hba.conf").write_text(hba)
        server.start()
        yield server, database
    finally:
        server.stop(signal.SIGINT)
        shutil.rmtree(server.data, ignore_errors=True)


def test_workers_and_daemon_meet_at_a_database_with_certificates(
    secure: tuple[Postgres, str], authority: Authority, tmp_path: Path
) -> None:
    server, database = secure
    authority.issue("dogwatch", "dogwatch.example")
    pki = authority.folder

    def config(folder: Path, who: str, *, work: bool) -> Daemon:
        folder.mkdir()
        query = f"sslmode=verify-full&sslrootcert={pki}/ca.pem&sslcert={pki}/{who}.pem&sslkey={pki}/{who}.key"
        text = WORKED.format(port=server.port, database=database, query=query, work=str(work).lower())
        return Daemon(folder, text)

    daemon = config(tmp_path / "daemon", "dogwatch", work=False)
    try:
        daemon.start()
        with working(config(tmp_path / "one", "dogwatch", work=True), "worker"):
            run_id = json.loads(daemon.run("job", "run", "quick", "--json").stdout)["run_id"]
            wait_until(lambda: daemon.get(f"/api/v1/runs/{run_id}")["state"] == "succeeded", what="the run")
        # One whose certificate is another's, and one without: they never begin, and say why.
        for who, word in (("berlin", "certificate authentication failed"), ("stolen", "certificate")):
            other = config(tmp_path / who, who, work=True)
            with working(other, "worker") as worker:
                log = worker.log
                wait_until(lambda log=log, word=word: word in log.read_text(), what=f"the refusal of {who}")  # type: ignore[misc]
        assert [one["state"] for one in daemon.get("/api/v1/workers")["items"]].count("active") <= 1
    finally:
        daemon.close()
