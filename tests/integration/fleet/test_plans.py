"""`fleet plan | apply` over a real server: saved plans, hosts that moved, locks, kills, the way back."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import sqlite3
import time
from pathlib import Path

import pytest
from tests.integration.fleet.operating import tree
from tests.integration.fleet.planning import Site, code, states, wait_for
from tests.integration.fleet.servers import USER


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
