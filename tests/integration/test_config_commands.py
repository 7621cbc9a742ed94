"""`dogwatch config …` and `dogwatch init` on real files."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import jsonschema_rs
import pytest
import yaml
from click.testing import CliRunner, Result
from tests.unit.config.watchlike import SECTIONS

from dogwatch.cli.config import commands, find_paths, parse_settings
from dogwatch.errors import ConfigError, Conflict, DogwatchError, UsageError

Run = Callable[..., Result]
GOOD = """\
server: {listen: ':80', token: hunter2}
probes:
  - {name: a, http: https://a}
  - {name: b, icmp: }
"""
BAD = """\
server: {token: [hunter2], tokn: hunter2}
probes:
  - name: a
    http: {url: a, methd: GET}
    evry: 5s
sevrer:
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    group = click.Group("dogwatch", commands=commands(lambda: SECTIONS))

    def call(*arguments: str, **environ: str) -> Result:
        return CliRunner().invoke(group, list(arguments), standalone_mode=False, env=environ)

    return call


def write(text: str, name: str = "dogwatch.yaml") -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_check_says_ok_with_counts(run: Run) -> None:
    write(GOOD)
    result = run("config", "check")
    assert (result.return_value, result.output) == (0, "ok: 1 file, probes: 2, rules: 0, notify: 0\n")
    data = json.loads(run("config", "check", "--json").stdout)
    assert (data["ok"], data["sections"]["probes"], data["files"]) == (True, 2, ["dogwatch.yaml"])


def test_check_tells_every_mistake_with_its_line_and_no_secret(run: Run) -> None:
    write(BAD)
    result = run("config", "check")
    assert (result.return_value, result.stdout) == (2, "")
    assert (
        result.stderr
        == """\
dogwatch.yaml:1: server.token: expected a secret, found a list
     1 | server: {token: …
       |          ^^^^^
dogwatch.yaml:1: server.tokn: unknown option; did you mean 'token'? (it takes a secret)
dogwatch.yaml:4: probes[0].http.methd: unknown option; did you mean 'method'? (it takes 'GET', 'HEAD' or 'POST')
     4 |     http: {url: a, methd: …
       |                    ^^^^^
dogwatch.yaml:5: probes[0].evry: unknown option; did you mean 'every'? (it takes a duration)
     5 |     evry: …
       |     ^^^^
dogwatch.yaml:6: sevrer: unknown section; did you mean 'server'?
     6 | sevrer:
       | ^^^^^^
5 problems
"""
    )
    problems = json.loads(run("config", "check", "--json").stdout)["problems"]
    assert [problem["line"] for problem in problems] == [1, 1, 4, 5, 6]
    assert problems[3]["path"] == "probes[0].evry"


def test_check_of_a_broken_file_shows_the_line(run: Run) -> None:
    write("server:\n  listen: [a\n  workers: 2\n")
    result = run("config", "check")
    assert result.return_value == 2
    assert "dogwatch.yaml:3: not YAML" in result.stderr
    assert "     3 |   workers: 2\n" in result.stderr


def test_several_files_folders_flags_and_environment(run: Run) -> None:
    one, two = write(GOOD, "one.yaml"), write("notify: {o: {slack: {webhook: hunter2}}}", "d/two.yml")
    paths = ["-c", str(one), "--config", str(two.parent)]
    result = run(
        "config", "show", *paths, "--set", "server.listen=:81", "--origin", "--json", DOGWATCH_SERVER__WORKERS="4"
    )
    shown = {row["path"]: (row["value"], row["origin"]) for row in json.loads(result.stdout)}
    assert shown["server.listen"] == (":81", "--set server.listen")
    assert shown["server.workers"] == (4, "environment DOGWATCH_SERVER__WORKERS")
    assert shown["server.token"] == ("***", "one.yaml:1")
    assert shown["server.debug"] == (False, "default")
    assert shown["notify.o.slack.webhook"] == ("***", "d/two.yml:1")
    assert "hunter2" not in result.output


def test_show_is_plain_and_fits(run: Run) -> None:
    write(GOOD)
    result = run("config", "show", "--origin")
    assert max(map(len, result.output.splitlines())) <= 80
    assert "server.listen = :80                               # dogwatch.yaml:1\n" in result.output
    assert run("config", "show", "server.listen").output == "server.listen = :80\n"
    assert run("config", "show", "probes[1]").output.splitlines()[:2] == [
        "probes[1].name = b",
        "probes[1].icmp.expect = null",
    ]
    assert isinstance(run("config", "show", "sever").exception, UsageError)


def test_show_of_a_bad_configuration_is_an_error(run: Run) -> None:
    write(BAD)
    assert isinstance(run("config", "show").exception, ConfigError)


def test_schema_fits_the_configuration(run: Run) -> None:
    schema = json.loads(run("config", "schema").stdout)
    validator = jsonschema_rs.Draft202012Validator(schema)
    assert validator.is_valid(yaml.safe_load(GOOD))
    assert not validator.is_valid(yaml.safe_load(BAD))


def test_init_writes_what_passes_and_refuses_to_overwrite(run: Run) -> None:
    result = run("init")
    assert (result.return_value, result.output.startswith("wrote dogwatch.yaml; now: ")) == (0, True)
    assert run("config", "check").return_value == 0
    write("mine: 1")
    refused = run("init").exception
    assert isinstance(refused, Conflict)
    assert "--force" in refused.hint
    assert Path("dogwatch.yaml").read_text() == "mine: 1"
    assert run("init", "--force").return_value == 0
    assert run("init", "--path", "other.yaml").return_value == 0
    failed = run("init", "--path", "gone/other.yaml").exception
    assert isinstance(failed, DogwatchError)


def test_where_a_configuration_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_paths(["x"], {"DOGWATCH_CONFIG": "y"}) == ["x"]
    assert find_paths([], {"DOGWATCH_CONFIG": "y:z"}) == ["y", "z"]
    write(GOOD)
    assert find_paths([], {}) == ["dogwatch.yaml"]


@pytest.mark.parametrize("setting", ["", "a", "=x", "a..b=x", ".=x"])
def test_settings_that_are_none(setting: str) -> None:
    with pytest.raises(UsageError, match="KEY=VALUE"):
        parse_settings([setting])


def imported_by(code: str) -> Sequence[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_loading_imports_nothing_heavy() -> None:
    modules = imported_by("import dogwatch.config.load")
    assert not {"asyncio", "ctypes", "jsonschema", "rich", "socket"} & set(modules)
    assert not {"msgspec", "yaml"} & set(imported_by("import dogwatch.cli.config"))
