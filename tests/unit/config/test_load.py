"""What valid text comes to: values, merging, substitution, precedence, origins, digest."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.unit.config.watchlike import (
    CATALOG,
    NOTIFY,
    PROBES,
    RULES,
    SECTIONS,
    SERVER,
    HttpProbe,
    IcmpProbe,
    Level,
    Server,
    Slack,
    Ssh,
    TcpProbe,
    problems,
    read,
)

from dogwatch.config.load import Loader, load
from dogwatch.config.overrides import Override
from dogwatch.errors import ConfigError


def test_nothing_written_is_every_default() -> None:
    loaded = read("# later\n")
    assert loaded.get(PROBES) == []
    assert loaded.get(SERVER) == Server()
    assert loaded.get(NOTIFY) == {}


def test_units_choices_and_containers() -> None:
    server = read(
        """
server:
  grace: 1h30m
  share: 25%
  level: warning
  debug: true
  origins: [a, b]
  window: [3, x]
  workers: 0x10
"""
    ).get(SERVER)
    assert server == Server(
        grace=5400.0,
        share=0.25,
        level=Level.WARNING,
        debug=True,
        origins=frozenset({"a", "b"}),
        window=(3, "x"),
        workers=16,
    )


def test_zero_needs_no_unit_and_a_share_may_be_a_ratio() -> None:
    server = read("server: {grace: 0, share: 0.25}").get(SERVER)
    assert (server.grace, server.share) == (0.0, 0.25)


def test_families_are_written_as_one_key() -> None:
    loaded = read(
        """
probes:
  - {name: a, http: https://a, every: 5s}
  - name: b
    http: {url: https://b, method: HEAD, body_limit: 64KiB, expect: status == 200}
  - {name: c, tcp: {host: c, port: 22}}
  - {name: d, icmp: }
rules:
  - {name: r, when: x == 1, do: [{ssh: {run: ls}}], extra: {a: [1, 2.5, true, ~, "5", 010]}}
notify:
  ops: {slack: {webhook: https://hook}}
"""
    )
    assert [target.probe for target in loaded.get(PROBES)] == [
        HttpProbe(url="https://a"),
        HttpProbe(url="https://b", method="HEAD", body_limit=65536, expect="status == 200"),
        TcpProbe(host="c", port=22),
        IcmpProbe(),
    ]
    assert loaded.get(RULES)[0].do == [Ssh(run="ls")]
    assert loaded.get(RULES)[0].extra == {"a": [1, 2.5, True, None, "5", "010"]}
    assert loaded.get(NOTIFY) == {"ops": Slack(webhook="https://hook")}


def test_text_fields_take_what_is_written_to_the_letter() -> None:
    target = read(
        "probes: [{name: no, icmp: {}, version: 1.10, labels: {a: on, b: 12:30, c: 1_000, d: 010, e: 2024-01-01}}]"
    ).get(PROBES)[0]
    assert (target.name, target.version) == ("no", "1.10")
    assert target.labels == {"a": "on", "b": "12:30", "c": "1_000", "d": "010", "e": "2024-01-01"}


@pytest.mark.parametrize(
    ("written", "value"), [("8080", 8080), ("'8080'", "8080"), ("http", "http"), ("~", None), ("", None)]
)
def test_alternatives_take_the_narrowest_meaning(written: str, value: object) -> None:
    assert read(f"probes: [{{name: a, icmp: {{}}, port: {written}}}]").get(PROBES)[0].port == value


def test_files_join_lists_and_mappings() -> None:
    loaded = read(
        "probes: [{name: a, icmp: {}}]\nserver: {listen: x}\nnotify: {a: {slack: {webhook: h}}}",
        "probes: [{name: b, icmp: {}}]\nserver: {workers: 3}\nnotify: {b: {slack: {webhook: h}}}",
    )
    assert [target.name for target in loaded.get(PROBES)] == ["a", "b"]
    assert loaded.get(SERVER) == Server(listen="x", workers=3)
    assert set(loaded.get(NOTIFY)) == {"a", "b"}
    assert loaded.origin(("probes", 1, "name")) == "b.yaml:1"


def test_the_same_setting_in_two_files_names_both_places() -> None:
    assert problems("server:\n  listen: x", "\n\nserver:\n  listen: x") == [
        "b.yaml:4: server.listen: is already set at a.yaml:2; keep one of the two"
    ]
    assert problems("server: {}", "server: []") == ["b.yaml:1: server: is already set at a.yaml:1; keep one of the two"]


def test_a_broken_file_does_not_hide_the_mistakes_of_another_nor_invent_any() -> None:
    found = problems("probes:\n  - {name: a, icmp: {}, depends_on: [b]}\n  - {nam: c, icmp: {}}", "probes: [")
    assert [line.split(":")[0] for line in found] == ["a.yaml", "a.yaml", "b.yaml"]
    assert not any("no probe 'b'" in line for line in found)


def test_substitution_from_environment_and_files() -> None:
    loaded = read(
        """
server:
  listen: ${HOST}:${PORT:-80}
  workers: "${WORKERS}"
  token: ${file:/run/token}
  debug: ${DEBUG}
  grace: ${GRACE:-5m}
probes:
  - {name: a, icmp: {}, version: "$${HOST} ${EMPTY:-x}${SET_EMPTY}", labels: {yaml: "${TRICK}"}}
""",
        environ={"HOST": "h", "WORKERS": "7", "DEBUG": "true", "TRICK": "{a: [b, c]}\nd: e", "SET_EMPTY": ""},
        secrets={"/run/token": b"s3cret\n"},
    )
    assert loaded.get(SERVER) == Server(listen="h:80", workers=7, token="s3cret", debug=True, grace=300.0)
    target = loaded.get(PROBES)[0]
    assert target.version == "${HOST} x"
    assert target.labels == {"yaml": "{a: [b, c]}\nd: e"}
    assert Path("/run/token") in loaded.parsed.watched


def test_a_file_substitution_is_relative_to_the_file_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t\n")
    (tmp_path / "c.yaml").write_text("server: {token: '${file:token}'}")
    loaded = load([tmp_path / "c.yaml"], SECTIONS, environ={})
    assert loaded.get(SERVER).token == "t"
    assert tmp_path / "token" in loaded.parsed.watched


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a\0b"])
def test_unusable_secret_files_are_problems(content: bytes) -> None:
    found = problems("server: {token: '${file:/t}'}", secrets={"/t": content})
    assert len(found) == 1
    assert found[0].startswith("a.yaml:1: server.token: /t is not")


def test_flag_wins_over_environment_over_file_over_default() -> None:
    text = "server: {listen: file, workers: 2}\n"
    environ = {"DOGWATCH_SERVER__LISTEN": "env", "DOGWATCH_SERVER__GRACE": "5s"}
    flag = Override(("server", "listen"), "flag", "--listen")
    loaded = read(text, environ=environ, overrides=[flag])
    assert loaded.get(SERVER) == Server(listen="flag", workers=2, grace=5.0)
    origins = [loaded.origin(("server", key)) for key in ("listen", "grace", "workers", "debug")]
    assert origins == ["--listen", "environment DOGWATCH_SERVER__GRACE", "a.yaml:1", "default"]
    assert read(text, environ=environ).get(SERVER).listen == "env"


def test_the_environment_reaches_kinds_and_named_entries() -> None:
    text = "notify: {on-call: {slack: {webhook: x}}}"
    loaded = read(
        text, environ={"DOGWATCH_NOTIFY__ON_CALL__SLACK__WEBHOOK": "y", "DOGWATCH_NOTIFY__NEW__SLACK__WEBHOOK": "z"}
    )
    assert loaded.get(NOTIFY) == {"on-call": Slack(webhook="y"), "new": Slack(webhook="z")}
    # Without the file, too; and the file's nodes are not changed behind its back.
    assert read("# none\n", environ={"DOGWATCH_SERVER__WORKERS": "9"}).get(SERVER).workers == 9


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("DOGWATCH_SERVER__LISTN", "x", "unknown name in the environment; did you mean 'DOGWATCH_SERVER__LISTEN'?"),
        ("DOGWATCH_SERVR__LISTEN", "x", "unknown name in the environment; did you mean 'DOGWATCH_SERVER'?"),
        ("DOGWATCH_", "x", "unknown name in the environment"),
        ("DOGWATCH_PROBES", "x", "which the environment cannot hold"),
        ("DOGWATCH_PROBES__0__NAME", "x", "unknown name in the environment"),
        ("DOGWATCH_SERVER__LISTEN__X", "x", "unknown name in the environment"),
        ("DOGWATCH_SERVER__WORKERS", "many", "server.workers: expected a whole number between 1 and 64, found 'many'"),
        ("DOGWATCH_SERVER__LISTEN", "\udcff", "server.listen: is not UTF-8"),
    ],
)
def test_mistakes_in_the_environment(name: str, value: str, said: str) -> None:
    found = problems("server: {}", environ={name: value})
    assert len(found) == 1
    assert found[0].startswith(f"environment {name}: ")
    assert said in found[0]


def test_names_that_are_no_settings_are_let_be() -> None:
    assert (
        not problems(
            "server: {token: '${DOGWATCH_MY_TOKEN}'}",
            environ={"DOGWATCH_CONFIG": "x", "DOGWATCH_SERVER": "unix:/x", "DOGWATCH_MY_TOKEN": "t"},
        )
        or problems("server: {token: '${DOGWATCH_MY_TOKEN}'}", environ={"DOGWATCH_MY_TOKEN": "t"}) == []
    )


def test_the_digest_is_of_the_meaning() -> None:
    one = read("server: {listen: a, workers: 2} # comment\n").digest
    assert one == read("\n\nserver:\n  listen: a\n  workers: 2\n").digest
    assert one == read("server: {listen: '${A}', workers: 2}", environ={"A": "a"}).digest
    assert one != read("server: {listen: b, workers: 2}").digest
    assert one != read("server: {listen: a, workers: 2}", environ={"DOGWATCH_SERVER__DEBUG": "true"}).digest
    text = "server: {token: '${file:/t}'}"
    assert read(text, secrets={"/t": b"1"}).digest != read(text, secrets={"/t": b"2"}).digest


def test_folders_are_read_in_order_without_hidden_files(tmp_path: Path) -> None:
    (tmp_path / "20-b.yml").write_text("probes: [{name: b, icmp: {}}]")
    (tmp_path / "10-a.yaml").write_text("probes: [{name: a, icmp: {}}]")
    (tmp_path / ".hidden.yaml").write_text("broken: [")
    (tmp_path / "notes.txt").write_text("broken: [")
    loaded = load([tmp_path], SECTIONS, environ={})
    assert [target.name for target in loaded.get(PROBES)] == ["a", "b"]
    assert loaded.files == (str(tmp_path / "10-a.yaml"), str(tmp_path / "20-b.yml"))


def test_what_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    os.mkfifo(tmp_path / "fifo.yaml")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    folder = tmp_path / "d"
    (folder / "x.yaml").mkdir(parents=True)
    paths = [
        tmp_path / "gone.yaml",
        empty,
        tmp_path / "fifo.yaml",
        tmp_path / "loop.yaml",
        folder,
        tmp_path / "gone.yaml/x",
    ]
    with pytest.raises(ConfigError) as caught:
        load(paths, SECTIONS, environ={})
    found = {problem.file.removeprefix(f"{tmp_path}/"): problem.message for problem in caught.value.problems}
    assert found == {
        "gone.yaml": "there is no such file",
        "empty": "no *.yaml or *.yml file in this folder",
        "fifo.yaml": "cannot be read: it is not a regular file",
        "loop.yaml": "cannot be read: too many levels of symbolic links",
        "d/x.yaml": "cannot be read: it is a folder, not a file",
        "gone.yaml/x": "there is no such file",
    }


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("server: {}")
    (tmp_path / "c.yaml").chmod(0)
    with pytest.raises(ConfigError, match="permission denied"):
        load([tmp_path / "c.yaml"], SECTIONS, environ={})


def test_a_failed_parse_still_knows_what_to_watch(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("server: {token: '${file:token}', bad: [}")
    assert path in Loader([path], CATALOG, environ={}).parse().watched
    path.write_text("server: {token: '${file:token}'}")
    parsed = Loader([path], CATALOG, environ={}).parse()
    assert parsed.problems
    assert tmp_path / "token" in parsed.watched


def test_a_weak_override_is_only_a_default(tmp_path: Path) -> None:
    path = tmp_path / "dogwatch.yaml"
    weak = Override(("server", "listen"), "weak", "--data", weak=True)
    path.write_text("probes: []")
    assert Loader([path], CATALOG, environ={}, overrides=[weak]).load().get(SERVER).listen == "weak"
    path.write_text("server: {listen: file}")
    assert Loader([path], CATALOG, environ={}, overrides=[weak]).load().get(SERVER).listen == "file"
    environ = {"DOGWATCH_SERVER__LISTEN": "environment"}
    path.write_text("probes: []")
    assert Loader([path], CATALOG, environ=environ, overrides=[weak]).load().get(SERVER).listen == "environment"
