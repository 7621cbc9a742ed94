"""Records as rows: what was in the lines, value for value; the same as columns make of them; nothing spoofed."""

from __future__ import annotations

import functools
import json
import re
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dogwatch.logs.block import Block
from dogwatch.logs.disk import _pack, _read_entry
from dogwatch.logs.records import json_lines, records
from dogwatch.logs.route import Path
from dogwatch.logs.rows import ABSENT, MAX_DEPTH, MAX_NAMES, Encoded
from dogwatch.logs.section import Route
from dogwatch.logs.steps import through
from dogwatch.logs.transform import Transform
from dogwatch.logs.transforms.access_log import _NAMES, ACCESS_PATTERN, by_columns, by_pattern, by_quotes
from dogwatch.logs.transforms.change import RedactTransform, RenameTransform, SetTransform
from dogwatch.logs.transforms.parse import JsonTransform, NginxTransform
from dogwatch.logs.transforms.where import WhereTransform

PLAIN = r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+"


def block(lines: list[bytes]) -> Block:
    data = b"".join(line + b"\n" for line in lines)
    return Block(source="s", stream="f.0", path="/p", begin=3, end=3 + len(data), data=data, count=len(lines))


def after(lines: list[bytes], *transforms: Transform) -> list[dict[str, Any]]:
    done = through(block(lines), [one.open() for one in transforms])
    found = [json.loads(line) for line in json_lines(done).splitlines()]
    kept = [{k: v for k, v in one.items() if v is not None} for one in found]
    assert kept == records(done)
    return kept


VALUE = st.recursive(
    st.one_of(
        st.text(max_size=8), st.integers(-(2**63), 2**63), st.booleans(), st.none(), st.floats(allow_nan=False),
        st.sampled_from(["a@b.example", "x\0y@z.org", "\\u0040", "bob@x.de, al@y.de"]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=3), inner, max_size=2)),
    max_leaves=3,
)  # fmt: skip
RECORD = st.dictionaries(
    st.one_of(st.text(max_size=6), st.sampled_from(["id", "source", "file", "user"])), VALUE, max_size=5
)


@settings(deadline=None)
@given(st.lists(st.one_of(RECORD.map(lambda one: json.dumps(one).encode()), st.binary(max_size=9)), max_size=12))
def test_json_keeps_every_value_and_its_type(lines: list[bytes]) -> None:
    lines = [line.replace(b"\n", b"").replace(b"\r", b"") for line in lines]
    found = after(lines, JsonTransform())
    for line, one in zip(lines, found, strict=True):
        assert (one.pop("source"), one.pop("file")) == ("s", "/p")
        assert one.pop("id").startswith("f.0:")
        try:
            given = json.loads(line.decode("utf-8", "replace"))
        except ValueError:
            given = None
        try:
            read = msgspec.json.decode(line.decode("utf-8", "replace"))
            strict = isinstance(read, dict) and not re.search(r'["\\\x00-\x1f\ud800-\udfff]', "".join(read))
        except msgspec.MsgspecError:
            strict = False
        if not strict:
            assert one == {"message": line.decode("utf-8", "replace")}
            continue
        wanted = {k: v for k, v in given.items() if v is not None and k not in ("id", "source", "file")}
        assert repr(sorted(one.items())) == repr(sorted(wanted.items()))


@settings(deadline=None)
@given(st.lists(RECORD, min_size=1, max_size=6), st.integers(0, 1))
def test_redaction_leaves_no_address(found: list[dict[str, Any]], copies: int) -> None:
    # Many lines take another way than few.
    lines = [json.dumps(one, ensure_ascii=bool(copies)).encode() for one in found] * (1 + 600 * copies)
    steps = (JsonTransform(), SetTransform(fields={"added": "me@here.example"}), RedactTransform(detectors=("email",)))
    for one in after(lines, *steps):
        texts = list(_texts({k: v for k, v in one.items() if k not in ("id", "source", "file")}))
        assert not [text for text in texts if re.search(PLAIN, text)]


def _texts(value: object) -> Any:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)


@pytest.mark.parametrize("count", [3, 1500])
def test_a_record_cannot_name_its_source(count: int) -> None:
    lines = [b'{"id": "x", "source": "bank", "file": "/etc/x", "n": 1}', b'{"\\u0073ource": "bank"}'] * count
    for one in after(lines, JsonTransform()):
        assert (one["source"], one["file"]) == ("s", "/p")
        assert one["id"] != "x"


def test_new_names_garbage_and_nulls_in_one_block() -> None:
    lines = [b'{"a":1}', b"nonsense", b'{"b":null,"a":"x"}', b"", b"[1]", b'{"c.d":{"e":[1,2]}}', b'{"a":1}{"b":2}']
    unread = JsonTransform().open()
    done = through(block(lines), [unread])
    shown = [{k: v for k, v in one.items() if k not in ("id", "source", "file")} for one in records(done)]
    assert shown == [
        {"a": 1}, {"message": "nonsense"}, {"a": "x"}, {"message": ""}, {"message": "[1]"}, {"c.d": {"e": [1, 2]}},
        {"message": '{"a":1}{"b":2}'},
    ]  # fmt: skip
    assert unread.counts["unread"] == 4


@pytest.mark.parametrize("depth", [MAX_DEPTH - 1, MAX_DEPTH, 900, 975, 985, 100_000])
@pytest.mark.parametrize("ends", [(b"[", b"]"), (b'{"a":', b"}"), (b'[1,"[",', b',"]"]')])
def test_what_is_nested_deep_is_read_or_left_and_ends_nobody(depth: int, ends: tuple[bytes, bytes]) -> None:
    # Each level costs what reads, changes and writes it a call of itself, and calls are bounded.
    line = b'{"x":' + ends[0] * depth + b"1" + ends[1] * depth + b"}"
    steps = (JsonTransform(), RedactTransform(detectors=("email", "card")))
    deep, plain = after([line, b'{"y":1}'], *steps)
    assert plain["y"] == 1
    assert ("x" in deep) == (depth < MAX_DEPTH)
    assert deep.get("message", line.decode()) == line.decode()
    route = Path(Route(from_=("s",), to=("o",), do=(JsonTransform(),)))
    assert [one["id"] for one in records(route.encoded(block([line])))] == block([line]).ids()
    within = json.dumps({"text": line.decode()}).encode()
    (one,) = after([within], JsonTransform(), JsonTransform(field="text"))
    assert ("x" in one) == (depth < MAX_DEPTH)


def test_many_brackets_beside_each_other_are_not_deep() -> None:
    line = json.dumps({"x": [[{"a": "["}]] * 400})
    assert after([line.encode()], JsonTransform())[0]["x"] == [[{"a": "["}]] * 400


@pytest.mark.parametrize(
    "lines",
    [
        [b"", b'{"a":1}{"b":2}'],
        [b'{"a":1} {"b":2}', b" \t"],
        [b'{"a":', b'{"x":1}}', b'{"b":1}{"c":1}'],
        [b'{"a":{}', b"}", b'{"c":1}{"b":2}'],
        [b'{"a":1', b',"b":2}', b'{"c":1}{"d":2}\r'],
    ],
)
def test_no_line_gets_the_record_of_another(lines: list[bytes]) -> None:
    step = JsonTransform().open()
    found = records(through(block(lines), [step]))
    wanted = []
    for line in lines:
        try:
            wanted.append(json.loads(line))
        except ValueError:
            wanted.append({"message": line.decode().removesuffix("\r")})
    assert [{k: v for k, v in one.items() if k not in ("id", "source", "file")} for one in found] == wanted
    assert step.counts["unread"] == sum("message" in one for one in wanted) > 0


def test_names_without_number_are_bounded() -> None:
    step = JsonTransform().open()
    lines = [json.dumps({f"k{at}": at}).encode() for at in range(MAX_NAMES * 2)]
    done = through(block(lines), [step])
    assert done.rows == len(lines)
    found = records(done)
    assert found[0]["k0"] == 0
    assert found[-1]["message"] == lines[-1].decode()
    assert step.counts["unread"] >= MAX_NAMES


def test_rename_swaps_and_keeps_what_it_has_nothing_for() -> None:
    lines = [b'{"a":1,"b":2}', b'{"b":3}', b'{"c":4}']
    found = after(lines, JsonTransform(), RenameTransform(fields={"a": "b", "b": "a"}))
    assert [{k: one[k] for k in "abc" if k in one} for one in found] == [{"a": 2, "b": 1}, {"a": 3}, {"c": 4}]


@settings(deadline=None)
@given(st.lists(RECORD, min_size=1, max_size=5))
def test_rows_survive_the_disk(found: list[dict[str, Any]]) -> None:
    done = through(block([json.dumps(one).encode() for one in found]), [JsonTransform().open()])
    encoded = msgspec.structs.replace(done, made=Encoded(json_lines(done), done.rows))
    for one in (done, encoded):
        import io

        packed = b"\1\0\0\0" + _pack(one)
        (back,) = _read_entry(io.BytesIO(packed), len(packed))
        assert records(back) == records(one)
        assert back.ids() == done.ids()
        assert back.rows == done.rows


PART = st.text(st.sampled_from('aZ9"[] -\t:/\x0b\xa0é\\.'), max_size=7)
LINE = st.one_of(
    st.builds(
        lambda a, u, t, m, p, v, s, b, r, g, end: f'{a} - {u} [{t}] "{m} {p} {v}" {s} {b} "{r}" "{g}"{end}',
        PART, PART, PART, st.sampled_from(["GET", "get", "PURGE", ""]), PART, st.sampled_from(["HTTP/1.1", ""]),
        st.sampled_from(["200", "20", "2000", "abc", "²00"]), st.sampled_from(["12", "-", "", "1" * 25, "+1"]), PART,
        PART, st.sampled_from(["", " x", ' "y"', ' "10.1.2.3, ::1"', ' "-"', '\\"', ' "']),
    ),
    st.text(max_size=30).map(lambda text: text.replace("\n", "")),
)  # fmt: skip


@settings(deadline=None)
@given(st.lists(LINE, min_size=1, max_size=5))
def test_access_logs_are_cut_as_the_pattern_says(lines: list[str]) -> None:
    if not any(odd in line for line in lines for odd in "\t\r\x0b\x0c"):
        assert by_quotes(lines, whole, ()) == [by_pattern(line) for line in lines]
    for line in lines:
        match = re.match(ACCESS_PATTERN, line, re.ASCII)
        found = by_pattern(line)
        assert (found is None) == (match is None)
        if match is not None and found is not None:
            wanted = match.groupdict(ABSENT)
            wanted["status"] = int(match["status"])
            size = match["body_bytes_sent"]
            wanted["body_bytes_sent"] = ABSENT if size == "-" or len(size) > 18 else int(size)
            assert dict(zip(_NAMES, found, strict=True)) == wanted


def whole(*fields: object) -> tuple[object, ...]:
    """Return the fields with those that records get by default."""
    return (*fields, *[ABSENT] * (len(_NAMES) - len(fields)))


PLAIN = '1.2.3.4 - - [21/Nov/2026:07:00:00 +0000] "GET /a HTTP/1.1" 200 5 "-" "curl 8"'
PROXIED = PLAIN + ' "10.1.2.3"'
# Plain lines with a few cuts and insertions: what is missing in one may be too much in the next.
BENT = st.lists(
    st.tuples(
        st.integers(0, len(PLAIN)),
        st.integers(0, 4),
        st.sampled_from(['"', " ", "[", "] ", " [", "", "-", "GET", '\\"', "\\"]),
    ),
    max_size=2,
).map(lambda bends: functools.reduce(lambda line, one: line[: one[0]] + one[2] + line[one[0] + one[1] :], bends, PLAIN))


@settings(deadline=None, max_examples=400)
@given(st.lists(st.one_of(st.sampled_from([PLAIN, PROXIED]), BENT, LINE), min_size=1, max_size=4))
@example([PLAIN.replace("5", "-"), PLAIN])
@example([PLAIN.replace('"GET', "GET"), PLAIN.replace('"GET', '""GET')])
@example([PLAIN.replace('] "', '"'), PLAIN[:-1] + '"] '])
@example([PLAIN.replace("[21", "21"), PLAIN.replace("[21", "[21 [21")])
@example([PLAIN.replace("GET ", "GET"), PLAIN.replace("GET ", "GET / ")])
@example([PLAIN.replace("200 ", "200"), PLAIN.replace("200 ", "200 1 ")])
def test_access_logs_cut_in_columns_are_what_the_pattern_says(lines: list[str]) -> None:
    lines = [line for line in lines if not any(odd in line for odd in "\t\r\x0b\x0c")]
    if lines:
        found = by_columns("".join(line + "\n" for line in lines).encode(), len(lines))
        assert found is None or [whole(*one) for one in zip(*found, strict=True)] == [
            by_pattern(line) for line in lines
        ]
        usual = {line.replace("5", "-") for line in lines}
        assert found is not None or usual not in ({PLAIN.replace("5", "-")}, {PROXIED.replace("5", "-")})


def test_access_log_lines_that_do_not_match_keep_their_text() -> None:
    line = b'1.2.3.4 - - [21/Nov/2026:07:00:00 +0000] "GET / HTTP/1.1" 200 5'
    (first, second) = after([line, b"no"], NginxTransform(), WhereTransform(condition="status == 200"))
    assert (first["status"], first["body_bytes_sent"], second["message"]) == (200, 5, "no")


FLAT = st.dictionaries(
    st.sampled_from(["level", "n", "ok"]),
    st.sampled_from(["error", "info", "", 1, 2, -1, 0.5, 1.0, True, False, None, ["error"], {"a": 1}]),
)
LEAF = st.sampled_from([
    'level == "error"', 'level != "info"', "n > 1", "n <= 1", "1 < n", "n == 1.0", "ok", "ok == true", "n in [1, 2]",
    'level in ["error", "x"]', 'level.contains("err")', 'level.startsWith("i")', 'level.matches("^e")', "nowhere == 1",
    "size(level) > 2",
])  # fmt: skip
WHERE = st.recursive(
    LEAF,
    lambda one: st.one_of(
        one.map(lambda text: f"!({text})"),
        st.tuples(one, st.sampled_from(["&&", "||"]), one).map(lambda parts: f"({parts[0]}) {parts[1]} ({parts[2]})"),
    ),
    max_leaves=4,
)


@settings(deadline=None, max_examples=100)
@given(st.lists(FLAT, min_size=1, max_size=8), WHERE)
def test_conditions_over_rows_say_what_cel_says(found: list[dict[str, Any]], condition: str) -> None:
    step: Any = WhereTransform(condition=condition).open()
    lines = [json.dumps(one).encode() for one in found]
    kept = records(through(block(lines), [JsonTransform().open(), step]))
    verdicts = [step._one({k: v for k, v in one.items() if v is not None}) for one in found]
    ids = block(lines).ids()
    assert [one["id"] for one in kept] == [ids[at] for at, verdict in enumerate(verdicts) if verdict is not False]
    assert step.counts["unjudged"] == verdicts.count(None)
