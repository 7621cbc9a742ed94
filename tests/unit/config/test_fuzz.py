"""10,000 malformed configurations: each ends in a ConfigError whose problems have a place, never in anything else."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import msgspec
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.config.watchlike import CATALOG

from dogwatch.config.changes import changes
from dogwatch.config.files import Reading, SecretFiles, SourceFile
from dogwatch.config.load import Loader
from dogwatch.config.schema import schema
from dogwatch.config.show import rows
from dogwatch.errors import ConfigError

FUZZ = settings(
    max_examples=1000,
    deadline=None,
    database=None,
    # The same examples on every run: a failure on one machine is a failure on all.
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
VALID = """\
x-base: &base {every: 5s, labels: {team: shop}}
server:
  listen: ${HOST:-localhost}:80
  token: ${file:/t}
  grace: 1h30m
  share: 25%
  window: [3, "x"]
  origins: [a, b]
probes:
  - <<: *base
    name: shop
    http: {url: https://shop, method: HEAD, headers: {a: "b"}, statuses: [200, 204], body_limit: 64KiB}
  - name: db
    tcp: {host: db, port: 5432}
    depends_on: [shop]
    port: 80
  - {name: ping, icmp: , version: 1.10}
rules:
  - name: disk
    when: 'used == 0.85'
    do: [{ssh: {run: "df"}}]
notify:
  ops: {slack: {webhook: "${WEBHOOK}"}}
"""
ENVIRON = {"WEBHOOK": "https://x", "WEIRD": "\udcff", "DOGWATCH_SERVER__WORKERS": "3"}
KEYS = ["<<", "do", "every", "extra", "http", "icmp", "labels", "name", "notify", "port", "probes", "rules", "server"]
KEYS += ["tcp", "token", "url", "when"]
WORDS = ["~", "null", "true", "no", "010", "0x", "1e999", "-1", "5s", "5m5", "25%", "64MiB", "${X}", "${", "${file:/t}"]
WORDS += [
    "${file:/gone}",
    "${WEIRD}",
    "*a",
    "&a",
    "!!int",
    "!!python/none",
    "---",
    "...",
    "? ",
    "- ",
    ": ",
    "{",
    "}",
    "[",
    "]",
]
WORDS += [
    "'",
    '"',
    "|",
    ">",
    "#",
    "\t",
    "\n",
    "\n  ",
    "\n    - ",
    ",",
    "%TAG",
    "@",
    "`",
    "\x00",
    "\x7f",
    "\u2028",
    "🐕",
    "9" * 500,
]


def check(*documents: bytes) -> None:
    """Load documents. The only exception that may come out is a ConfigError with places."""
    names = [f"{index}.yaml" for index in range(len(documents))]

    def read(path: Path) -> bytes:
        if str(path) == "/t":
            return b"hunter2"
        raise FileNotFoundError(2, "gone")

    loader = Loader([], CATALOG, environ=ENVIRON)
    files = tuple(SourceFile(name, data) for name, data in zip(names, documents, strict=True))
    parsed = loader.parse_reading(Reading(files=files), SecretFiles(read))
    try:
        loaded = loader.validate(parsed)
    except ConfigError as error:
        problems = error.problems
    else:
        msgspec.json.encode(rows(loaded))
        assert changes(parsed.tree, parsed.tree) == ()
        return
    assert problems
    for problem in problems:
        assert problem.file in names or problem.file.startswith("environment ")
        # The whole file is meant where there is no line; the environment has none.
        assert problem.line >= 1 or not problem.path or problem.file not in names
        line = str(problem)
        assert "\n" not in line
        assert line.isprintable()
        assert "hunter2" not in line
    lines = [(names.index(one.file), one.line) for one in problems if one.file in names]
    assert lines == sorted(lines)


@FUZZ
@given(st.binary(max_size=200))
def test_bytes(data: bytes) -> None:
    check(data)


@FUZZ
@given(st.text(max_size=200))
def test_unicode(text: str) -> None:
    check(text.encode("utf-8", "surrogatepass"))


@FUZZ
@given(st.lists(st.sampled_from([*WORDS, *KEYS, *(f"{key}: " for key in KEYS)]), max_size=40))
def test_yaml_like_words(parts: list[str]) -> None:
    check("".join(parts).encode())


@FUZZ
@given(st.lists(st.tuples(st.integers(0, 6), st.sampled_from(KEYS), st.sampled_from([*WORDS, "", ""])), max_size=20))
def test_yaml_like_lines(lines: list[tuple[int, str, str]]) -> None:
    check("\n".join(f"{'  ' * indent}{key}: {value}" for indent, key, value in lines).encode())


@FUZZ
@given(st.data())
def test_valid_documents_with_a_few_characters_changed(data: st.DataObject) -> None:
    text = VALID
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        cut = data.draw(st.integers(0, 5))
        text = (
            text[:at]
            + data.draw(st.one_of(st.sampled_from(WORDS), st.text(string.printable, max_size=4)))
            + text[at + cut :]
        )
    check(text.encode())


@FUZZ
@given(st.data())
def test_valid_documents_with_lines_moved_and_lost(data: st.DataObject) -> None:
    lines = VALID.splitlines()
    for _ in range(data.draw(st.integers(1, 6))):
        line = lines.pop(data.draw(st.integers(0, len(lines) - 1)))
        if data.draw(st.booleans()):
            lines.insert(data.draw(st.integers(0, len(lines))), " " * data.draw(st.integers(0, 3)) + line.strip())
    check("\n".join(lines).encode())


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=10),
    st.sampled_from(WORDS),
    st.dates(),
    st.binary(max_size=4),
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.sampled_from(KEYS), st.text(max_size=5), st.integers()), inner, max_size=5),
    ),
    max_leaves=12,
)


@FUZZ
@given(st.dictionaries(st.sampled_from(["server", "probes", "rules", "notify"]), TREES, max_size=4))
def test_structures_where_others_are_expected(tree: dict[str, Any]) -> None:
    check(yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "replace"))


TARGETS = st.fixed_dictionaries(
    {},
    optional={key: st.one_of(SCALARS, TREES) for key in ("name", "every", "failures", "labels", "depends_on", "port")}
    | dict.fromkeys(("http", "tcp", "icmp", "udp"), TREES),
)


@FUZZ
@given(st.lists(TARGETS, max_size=4))
def test_structures_that_are_nearly_right(targets: list[dict[str, Any]]) -> None:
    check(yaml.safe_dump({"probes": targets}).encode("utf-8", "replace"))


@FUZZ
@given(
    st.integers(1, 3000),
    st.sampled_from(["[", "{a: ", "- ", "? ", "[&a ", "!!seq [", "{[", "\n- - "]),
    st.integers(0, 3000),
)
def test_deep(depth: int, opening: str, closing: int) -> None:
    check(("server: " if depth % 2 else "").encode() + (opening * depth + "]" * closing).encode())


@FUZZ
@given(
    st.lists(
        st.sampled_from([VALID, VALID[:150], VALID[150:], "probes: []", "server: [", "rules: {a: b}", "notify: 5"]),
        max_size=4,
    )
)
def test_several_files(texts: list[str]) -> None:
    check(*(text.encode() for text in texts))


def test_the_environment_is_fuzzed_too() -> None:
    @FUZZ
    @given(
        st.dictionaries(
            st.text("DOGWATCH_SERVERNOTIFYPROBES", max_size=12).map(lambda tail: f"DOGWATCH_{tail}"),
            st.text(max_size=5),
            max_size=3,
        )
    )
    def run(environ: dict[str, str]) -> None:
        loader = Loader([], CATALOG, environ=environ)
        try:
            loader.validate(loader.parse_reading(Reading()))
        except ConfigError as error:
            strangers = [problem for problem in error.problems if not problem.file.startswith("environment ")]
        else:
            strangers = []
        assert not strangers

    run()


def test_the_schema_is_finite() -> None:
    assert len(msgspec.json.encode(schema(CATALOG))) < 50_000
