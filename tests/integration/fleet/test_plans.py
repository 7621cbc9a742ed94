"""`fleet plan | apply | drift` over a real server: saved plans, hosts that moved, locks, kills, the way back."""

from __future__ import annotations

import contextlib
import http.server
import json
import random
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner, Result
from tests.integration.fleet.operating import tree
from tests.integration.fleet.servers import USER, Sshd, sshd

from dogwatch.cli.fleet import fleet
from dogwatch.errors import DogwatchError

BOOK = """
hosts: "web*"
defaults: {{port: 80}}
vars: {{root: "{folder}/{{{{ host }}}}"}}
secrets: {{password: "${{file:secret}}"}}
operations:
  - directory: {{path: "{{{{ root }}}}/conf"}}
  - name: main
    template: {{src: main.j2, path: "{{{{ root }}}}/conf/main", mode: "600"}}
    notify: reload
  - link: {{path: "{{{{ root }}}}/current", target: conf/main}}
handlers:
  - name: reload
    command: {{run: "echo reloaded >> {{{{ root }}}}/log", always: true}}
"""


class Site:
    """A folder with playbook, inventory and the folders that stand for hosts."""

    def __init__(self, folder: Path, server: Sshd, hosts: int = 3) -> None:
        self.server = server
        self.folder, self.hosts = folder, [f"web{at}" for at in range(1, hosts + 1)]
        (folder / "hosts").mkdir()
        for host in self.hosts:
            (folder / "hosts" / host).mkdir()
        (folder / "known").write_text(server.known_line())
        lines = [
            f"{host} ansible_host=127.0.0.1 ansible_port={server.port} ansible_user={USER} "
            f"ansible_ssh_private_key_file={server.key} dogwatch_state={folder}/state/{host}"
            for host in self.hosts
        ]
        (folder / "hosts.ini").write_text("\n".join(lines) + "\n")
        (folder / "secret").write_text("it's-S3cret\n")
        (folder / "main.j2").write_text("port {{ port }}\npassword {{ password }}\n")
        (folder / "empty").write_text("")
        self.write(BOOK.format(folder=folder / "hosts"))

    def write(self, text: str) -> None:
        (self.folder / "site.yaml").write_text(text)

    def root(self, host: str) -> Path:
        return self.folder / "hosts" / host

    def words(self, *words: str) -> list[str]:
        return [
            *words, "-i", str(self.folder / "hosts.ini"), "--known-hosts", str(self.folder / "known"),
            "--ssh-config", str(self.folder / "empty"),
        ]  # fmt: skip

    def run(self, *words: str) -> Result:
        return CliRunner().invoke(fleet, self.words(*words), standalone_mode=False, catch_exceptions=True)

    def plan(self, *words: str) -> Result:
        return self.run("plan", str(self.folder / "site.yaml"), "-o", self.file, *words)

    def apply(self, *words: str) -> Result:
        return self.run("apply", self.file, *words)

    @property
    def file(self) -> str:
        return str(self.folder / "site.plan")

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "dogwatch", "fleet", *self.words(*words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


@pytest.fixture
def site(tmp_path: Path, server: Sshd, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("DOGWATCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return Site(tmp_path, server)


def code(result: Result) -> int:
    """Return the exit code as the command line has it."""
    if isinstance(result.exception, DogwatchError):
        return result.exception.exit_code
    if result.exception is not None:
        raise result.exception
    return int(result.return_value or 0)


def states(result: Result) -> dict[str, str]:
    return {one["host"]: one["state"] for one in json.loads(result.stdout)["hosts"]}


def test_a_plan_is_applied_exactly_and_then_nothing_is_left(site: Site) -> None:
    before = {host: tree(site.root(host)) for host in site.hosts}
    planned = site.plan()
    assert code(planned) == 0
    assert "web[1-3] (3 hosts): 4 changes" not in planned.stdout  # their paths differ
    assert "+password ***" in planned.stdout
    assert {host: tree(site.root(host)) for host in site.hosts} == before
    saved = Path(site.file).read_bytes()
    assert b"S3cret" not in saved
    assert Path(site.file).stat().st_mode & 0o777 == 0o600
    applied = site.apply("--json")
    assert (code(applied), set(states(applied).values())) == (0, {"applied"})
    for host in site.hosts:
        assert (site.root(host) / "conf" / "main").read_text() == "port 80\npassword it's-S3cret\n"
        assert (site.root(host) / "log").read_text() == "reloaded\n"
    again = site.plan("--exit-code")
    assert (code(again), "web[1-3] (3 hosts): nothing to do" in again.stdout) == (0, True)
    after = {host: tree(site.root(host)) for host in site.hosts}
    assert states(site.apply("--json")) == dict.fromkeys(site.hosts, "unchanged")
    assert {host: tree(site.root(host)) for host in site.hosts} == after


def test_an_apply_is_audited(site: Site) -> None:
    site.plan()
    site.apply()
    site.apply("--roll-back")
    databases = list((site.folder / "data").rglob("state.db"))
    assert len(databases) == 1
    with contextlib.closing(sqlite3.connect(databases[0])) as database:
        rows = database.execute("SELECT actor, verb, noun, outcome, body FROM audit_events ORDER BY number").fetchall()
    assert [row[:4] for row in rows] == [
        (f"local:{USER}", "apply", "fleet-plan", "begun"),
        (f"local:{USER}", "apply", "fleet-plan", "done"),
        (f"local:{USER}", "roll back", "fleet-plan", "begun"),
        (f"local:{USER}", "roll back", "fleet-plan", "done"),
    ]
    assert "web[1-3]" in rows[1][4]
    assert not any("S3cret" in row[4] for row in rows)


def test_a_host_that_moved_is_refused_and_the_others_go_on(site: Site) -> None:
    site.plan()
    (site.root("web2") / "conf").mkdir()
    applied = site.apply("--json", "--max-fail", "3")
    assert code(applied) == 11
    assert states(applied) == {"web1": "applied", "web2": "moved", "web3": "applied"}
    message = next(one["message"] for one in json.loads(applied.stdout)["hosts"] if one["host"] == "web2")
    assert f"path {site.root('web2')}/conf" in message
    assert tree(site.root("web2")).keys() == {"conf"}


def test_secrets_are_in_no_plan_and_in_every_place_where_they_belong(site: Site) -> None:
    secret = "p4ss'wd\"$(x)`y` \\z"
    (site.folder / "secret").write_text(secret + "\n")
    (site.root("web1") / "old").write_text("a = 1\nkey = an-0ld-key\n")
    root = site.root("web1")
    site.write(
        "hosts: web1\nsecrets: {password: '${file:secret}'}\noperations:\n"
        f"  - command:\n      run: 'printf %s \"$P\" > {root}/env; cat > {root}/stdin'\n"
        "      env: {P: '{{ password }}'}\n      stdin: '{{ password }}'\n      user: root\n"
        f"      unless: 'grep -qF -- {{{{ password | quote }}}} {root}/env'\n"
        f"  - line: {{path: {root}/old, match: '^key', line: 'key = {{{{ password }}}}'}}\n"
    )
    planned = site.plan()
    assert code(planned) == 0
    saved = Path(site.file).read_text()
    for text in (planned.stdout, saved):
        for part in ("p4ss", "$(x)", "an-0ld-key"):
            assert part not in text
    assert "-***" in planned.stdout
    assert code(site.apply()) == 0
    assert (root / "env").read_text() == secret
    assert (root / "stdin").read_text() == secret
    assert (root / "old").read_text() == f"a = 1\nkey = {secret}\n"
    assert code(site.plan("--exit-code")) == 0
    assert "p4ss" not in "".join(path.read_text() for path in site.folder.glob("site.plan*"))


def test_a_secret_that_moved_is_refused(site: Site) -> None:
    site.plan()
    (site.folder / "secret").write_text("another-S3cret\n")
    applied = site.apply("--json", "--max-fail", "3")
    assert (code(applied), set(states(applied).values())) == (11, {"moved"})
    assert "another-S3cret" not in applied.stdout
    assert all(tree(site.root(host)) == {} for host in site.hosts)


def test_the_way_back(site: Site) -> None:
    main = site.root("web1") / "conf" / "main"
    main.parent.mkdir()
    main.write_text("as it was\n")
    main.chmod(0o644)
    before = tree(site.root("web1"))
    site.plan()
    assert code(site.apply()) == 0
    log = site.root("web1") / "log"
    back = site.apply("--roll-back", "--json")
    assert (code(back), set(states(back).values())) == (0, {"rolled_back"})
    assert "there is no way back of: run echo reloaded" in back.stdout
    log.unlink()
    assert tree(site.root("web1")) == before
    for host in ("web2", "web3"):
        assert tree(site.root(host)).keys() == {"log"}


def test_the_way_back_leaves_alone_what_others_changed_since(site: Site) -> None:
    site.plan("-t", "web1")
    site.apply()
    main = site.root("web1") / "conf" / "main"
    main.write_text("by hand\n")
    back = site.apply("--roll-back")
    assert code(back) == 1
    assert "was changed since" in back.stdout
    assert main.read_text() == "by hand\n"


def test_two_applies_on_one_host_at_once(site: Site) -> None:
    gate = site.folder / "go"
    site.write(
        f"hosts: web1\noperations:\n  - command: {{run: 'until [ -e {gate} ]; do sleep 0.05; done', always: true}}\n"
        f"  - file: {{path: {site.root('web1')}/a, content: x}}\n"
    )
    site.plan()
    first = site.start("apply", site.file)
    try:
        wait_for((site.folder / "state" / "web1" / "open").exists)
        assert code(site.apply()) == 11  # the same plan, from the same machine
        other = site.folder / "other.plan"
        other.write_bytes(Path(site.file).read_bytes())
        second = site.run("apply", str(other), "--json")
        assert (code(second), states(second)) == (11, {"web1": "locked"})
        assert "another apply holds it: apply " in second.stdout
    finally:
        gate.touch()
        out, _ = first.communicate(timeout=60)
    assert first.returncode == 0, out
    assert (site.root("web1") / "a").read_text() == "x"


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_any_point_and_resumed(site: Site, seed: int) -> None:
    """kill -9 of dogwatch in the middle: no file is half written, and the rest is done exactly once."""
    size = 300_000
    operations = "".join(
        f"  - file: {{path: '{{{{ root }}}}/f{at}', src: big{at}}}\n"
        f"  - command: {{run: 'echo {at} >> {{{{ root }}}}/log', unless: 'grep -qx {at} {{{{ root }}}}/log'}}\n"
        for at in range(6)
    )
    for at in range(6):
        (site.folder / f"big{at}").write_bytes(bytes([65 + at]) * size)
    site.write(f"hosts: all\nvars: {{root: '{site.folder}/hosts/{{{{ host }}}}'}}\noperations:\n{operations}")
    assert code(site.plan()) == 0
    running = site.start("apply", site.file, "--forks", "2")
    # From before the first connection to the very end of what it does.
    journals = [site.folder / "state" / host for host in site.hosts]
    wait_for(lambda: any(one.exists() for one in journals) or running.poll() is not None)
    time.sleep(random.Random(seed).uniform(0.0, 0.4))
    running.send_signal(signal.SIGKILL)
    running.communicate()
    whole = {bytes([65 + at]) * size for at in range(6)}
    for host in site.hosts:
        assert {path.read_bytes() for path in site.root(host).glob("f*")} <= whole
    if running.returncode == -signal.SIGKILL:
        assert code(site.apply()) == 11
    resumed = site.apply("--resume", "--json")
    assert code(resumed) == 0, resumed.stdout
    for host in site.hosts:
        assert [(site.root(host) / f"f{at}").read_bytes()[:1] for at in range(6)] == [bytes([65 + a]) for a in range(6)]
        assert (site.root(host) / "log").read_text() == "0\n1\n2\n3\n4\n5\n"
        assert list(site.root(host).glob(".dogwatch*")) == []
    assert code(site.plan("--exit-code")) == 0


def test_a_failing_step_stops_its_host_and_then_the_fleet(site: Site) -> None:
    site.write(
        f"hosts: all\nbatches: [1, 100%]\nvars: {{root: '{site.folder}/hosts/{{{{ host }}}}'}}\noperations:\n"
        "  - file: {path: '{{ root }}/a', content: x}\n"
        "  - command: {run: 'echo it is broken >&2; exit 3', creates: '{{ root }}/b'}\n"
        "  - file: {path: '{{ root }}/c', content: x}\n"
    )
    site.plan()
    applied = site.apply("--json")
    assert code(applied) == 1
    assert states(applied) == {"web1": "failed", "web2": "not_started", "web3": "not_started"}
    assert "it is broken" in applied.stdout
    assert tree(site.root("web1")).keys() == {"a"}
    # What stood in its way is mended by hand: the rest, and only the rest, is done.
    for host in site.hosts:
        (site.root(host) / "b").write_text("")
    resumed = site.apply("--resume", "--json", "--max-fail", "3")
    assert states(resumed)["web1"] == "applied", resumed.stdout
    assert tree(site.root("web1")).keys() == {"a", "b", "c"}


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


def wait_for(true: Any, seconds: float = 20.0) -> None:
    end_s = time.monotonic() + seconds
    pause = threading.Event()
    while not true():
        assert time.monotonic() < end_s, "it did not come"
        pause.wait(0.02)


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
