"""`fleet plan | apply | drift` where something is wrong: mistakes, approval, crashes, sick hosts, lost connections."""

from __future__ import annotations

import http.server
import json
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from tests.integration.fleet.operating import tree
from tests.integration.fleet.planning import BOOK, Site, code, states, wait_for
from tests.integration.fleet.servers import Sshd, sshd

from dogwatch.errors import DogwatchError


def test_mistakes_are_told_all_at_once(site: Site) -> None:
    site.write(
        "hosts: all\nbatches: [50%, 10%]\noperations:\n"
        "  - fil: {path: /a}\n"
        "  - file: {pth: /a, content: x}\n"
        "  - file: {path: a, mode: 644, state: gone}\n"
        "  - template: {src: no.j2, path: /a}\n"
        "    notify: nobody\n"
        "    when: 'hosst == 1'\n"
        "  - line: {path: /a, line: '{{ open'}\n"
        "  - file: {path: /a}\n    link: {path: /b}\n"
    )
    error = site.plan().exception
    assert isinstance(error, DogwatchError)
    told = str(error).replace(str(site.folder), "")
    for part in (
        "/site.yaml:4: unknown operation 'fil'; did you mean 'file'?",
        "/site.yaml:5: file.pth: unknown option; did you mean 'path'?",
        "/site.yaml:5: file: 'path' is missing",
        "/site.yaml:6: file.state: ",
        "/site.yaml:7: template.src: /no.j2: no such file or directory",
        "/site.yaml:8: there is no handler 'nobody'",
        "/site.yaml:9: when: ",
        "/site.yaml:10: line.line: the template cannot be read",
        "/site.yaml:11: an operation is of one kind; this one has several: file, link",
        "/site.yaml:2: batches: ",
    ):
        assert part in told, part


def test_approval_by_somebody_else(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.write(f"approval: true\n{BOOK.format(folder=site.folder / 'hosts').lstrip()}")
    site.plan()
    assert code(site.apply()) == 12
    assert code(site.apply("--approve")) == 12  # one's own
    with monkeypatch.context() as patched:
        patched.setattr("getpass.getuser", lambda: "somebody-else")
        assert code(site.apply("--approve")) == 0
    assert code(site.apply()) == 0


def test_drift(site: Site) -> None:
    site.plan()
    site.apply()
    book = str(site.folder / "site.yaml")
    well = site.run("drift", book, "--exit-code")
    assert (code(well), well.stdout) == (0, "3 of 3 hosts are as they should be\n")
    (site.root("web2") / "conf" / "main").chmod(0o644)
    bad = site.run("drift", book, "--exit-code", "--diff")
    assert code(bad) == 4
    assert "web2  wandered  main" in bad.stdout
    assert "mode 644 → 600" in bad.stdout


def test_origin_of_variables(site: Site) -> None:
    book = str(site.folder / "site.yaml")
    shown = site.run("plan", book, "--origin", "web1", "--var", "port=81", "--json")
    found: dict[str, Any] = json.loads(shown.stdout)["variables"]
    assert found["port"] == {"value": 81, "from": "--var"}
    assert found["root"]["value"] == str(site.root("web1"))
    assert found["password"]["value"] == "(hidden)"
    assert "hosts.ini" in found["ansible_host"]["from"]


def test_facts_are_gathered_once(site: Site) -> None:
    shown = site.run("facts", "web1", "--json")
    facts = json.loads(shown.stdout)["hosts"]["web1"]
    assert facts["cpus"] >= 1
    assert facts["os"]["family"]
    site.write("hosts: web1\noperations:\n  - file: {path: '/tmp/{{ facts.os.family }}-dogwatch', state: absent}\n")
    (site.folder / "cache" / "dogwatch" / "facts" / "web1.json").write_text(
        json.dumps({"at_s": time.time(), "facts": {**facts, "os": {"family": "kept"}}})
    )
    planned = site.plan("--json")
    assert code(planned) == 0


def test_a_host_that_cannot_be_read_is_told_and_the_others_are_planned(site: Site, tmp_path: Path) -> None:
    with sshd(tmp_path / "odd", more="SetEnv PATH=/nowhere", authorized=site.server.key) as odd:
        (site.folder / "known").write_text(site.server.known_line() + odd.known_line())
        text = (site.folder / "hosts.ini").read_text().splitlines()
        text[1] = text[1].replace(str(site.server.port), str(odd.port))
        (site.folder / "hosts.ini").write_text("\n".join(text) + "\n")
        site.write(f"hosts: all\noperations:\n  - file: {{path: '{site.folder}/hosts/{{{{ host }}}}/a', content: x}}\n")
        planned = site.plan("--json")
        found = {one["host"]: one["problems"] for one in json.loads(planned.stdout)["hosts"]}
        assert code(planned) == 3
        assert found["web1"] == found["web3"] == []
        assert "cannot be read" in found["web2"][0]
        facts = site.run("facts", "-t", "all", "--json")
        assert json.loads(facts.stdout)["hosts"].keys() >= {"web1", "web3"}


def test_what_is_changed_between_a_crash_and_its_resume_is_refused(site: Site) -> None:
    root = site.root("web1")
    (root / "mine").write_text("as planned\n")
    site.write(
        f"hosts: web1\noperations:\n  - file: {{path: {root}/a, content: x}}\n"
        f"  - command: {{always: true, run: 'echo > {root}/b; until [ -e {root}/go ]; do sleep 0.05; done'}}\n"
        f"  - file: {{path: {root}/mine, content: y}}\n"
    )
    assert code(site.plan()) == 0
    running = site.start("apply", site.file)
    wait_for((root / "b").exists)
    running.kill()
    running.communicate()
    (root / "mine").write_text("by hand\n")
    (root / "go").touch()
    resumed = site.apply("--resume", "--json")
    assert code(resumed) in (1, 11)
    assert (root / "mine").read_text() == "by hand\n"


def test_ctrl_c_stops_between_steps_and_the_rest_can_be_done(site: Site) -> None:
    root = site.root("web1")
    site.write(
        f"hosts: web1\noperations:\n"
        f"  - command: {{always: true, run: 'echo > {root}/b; sleep 1; echo > {root}/c'}}\n"
        f"  - file: {{path: {root}/d, content: x}}\n"
    )
    site.plan()
    running = site.start("apply", site.file)
    wait_for((root / "b").exists)
    running.send_signal(signal.SIGINT)
    out, _ = running.communicate(timeout=60)
    assert running.returncode == 130, out
    assert not (root / "d").exists()
    assert b"--resume" in out
    resumed = site.apply("--resume", "--json")
    assert (code(resumed), states(resumed)) == (0, {"web1": "applied"}), resumed.stdout
    assert (root / "d").read_text() == "x"
    assert list(root.glob(".dogwatch*")) == []


class Probes(http.server.BaseHTTPRequestHandler):
    """A daemon that knows one target for each host; `down` are down."""

    down: ClassVar[set[str]] = set()

    def do_GET(self) -> None:
        items = [
            {
                "name": f"shop on web{at}",
                "labels": {"host": f"web{at}"},
                "status": "down" if f"web{at}" in self.down else "up",
                "last_time_s": time.time() + 1,
            }
            for at in (1, 2, 3)
        ]
        body = json.dumps({"items": items, "total": 3, "counts": {}, "next_cursor": ""}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002


@pytest.fixture
def probes() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Probes) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.allow_leak("thread:*asyncio*", reason="the loop's own threads ask the daemon")
def test_a_batch_that_makes_hosts_sick_is_the_last(site: Site, probes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOGWATCH_TOKEN", "t")
    text = BOOK.format(folder=site.folder / "hosts").lstrip()
    site.write(f"batches: [1]\nprobes: {{match: 'host={{{{ host }}}}', settle: 100ms}}\n{text}")
    assert code(site.plan()) == 0
    assert code(site.apply("--server", "http://127.0.0.1:9")) == 13  # before anything is changed
    assert tree(site.root("web1")) == {}
    monkeypatch.setattr(Probes, "down", {"web2"})
    applied = site.apply("--server", probes, "--json")
    assert states(applied) == {"web1": "applied", "web2": "applied", "web3": "not_started"}
    assert "probes are not well: shop on web2 (down)" in json.loads(applied.stdout)["stopped"]
    monkeypatch.setattr(Probes, "down", set())
    assert states(site.apply("--server", probes, "--json", "--resume"))["web3"] == "applied"


def test_the_example_of_the_guide(site: Site) -> None:
    """What the guide shows is done with it: planned, applied, and nothing to do after it."""
    guide = (Path(__file__).parents[3] / "docs" / "guide" / "playbooks.md").read_text()
    book = re.search(r"```yaml\n# site.yaml\n(.*?)```", guide, re.DOTALL)
    template = re.search(r"```jinja\n(.*?)```", guide, re.DOTALL)
    assert book is not None
    assert template is not None
    site.write(book[1].replace("/tmp/shop", str(site.folder / "hosts")))
    (site.folder / "shop.conf.j2").write_text(template[1])
    (site.folder / "token.txt").write_text("very-secret\n")
    assert code(site.plan()) == 0
    assert code(site.apply()) == 0
    for host in site.hosts:
        assert (site.root(host) / "current").read_text() == "listen = 8080\ntoken = very-secret\n"
        assert (site.root(host) / "hosts.allow").read_text() == "sshd: 10.0.0.0/8\nsshd: 192.168.0.0/16\n"
        assert (site.root(host) / "limits.yaml").read_text() == "limits:\n  open_files: 65536\n"
    assert code(site.plan("--exit-code")) == 0
    assert code(site.run("drift", str(site.folder / "site.yaml"), "--exit-code")) == 0


def test_a_connection_that_is_lost_in_the_middle(tmp_path: Path, server: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host is told as lost, nothing is torn, and the rest is done when it is back."""
    monkeypatch.setenv("DOGWATCH_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with sshd(tmp_path / "dying", authorized=server.key) as dying:
        site = Site(tmp_path, dying, hosts=1)
        root = site.root("web1")
        site.write(
            f"hosts: web1\noperations:\n  - file: {{path: {root}/a, content: x}}\n"
            "  - command:\n      always: true\n"
            f"      run: 'echo begun > {root}/b; until [ -e {root}/go ]; do sleep 0.05; done'\n"
            f"  - file: {{path: {root}/c, content: x}}\n"
        )
        assert code(site.plan()) == 0
        running = site.start("apply", site.file)
        wait_for((root / "b").exists)
        dying.kill()
        out, _ = running.communicate(timeout=60)
        assert running.returncode == 1, out
        assert b"connection lost" in out
        assert not (root / "c").exists()
        (root / "go").touch()
        dying.start()
        resumed = site.apply("--resume", "--json")
        assert (code(resumed), states(resumed)) == (0, {"web1": "applied"}), resumed.stdout
        assert (root / "c").read_text() == "x"
