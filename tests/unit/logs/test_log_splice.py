"""Lines that stay as they were written say what the same lines say that were read whole and written anew."""

from __future__ import annotations

import functools
import json
import math
from typing import Any, cast

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dogwatch.logs.block import UNCOUNTED, Block
from dogwatch.logs.records import json_lines, records
from dogwatch.logs.route import Path, Routing
from dogwatch.logs.section import LogsSpec, Route, SinkSpec
from dogwatch.logs.sinks.stdout import StdoutSink
from dogwatch.logs.sinks.syslog import SyslogSink
from dogwatch.logs.transform import Transform
from dogwatch.logs.transforms.blot import blot_out
from dogwatch.logs.transforms.change import (
    DETECTORS,
    RedactTransform,
    RemoveTransform,
    RenameTransform,
    SampleTransform,
    SetTransform,
)
from dogwatch.logs.transforms.parse import JsonTransform, NginxTransform
from dogwatch.logs.transforms.where import WhereTransform

MAIL = RedactTransform(detectors=("email",))
DROP = WhereTransform(condition='level != "debug"')
PLAIN = b'{"time":"2026-11-21T07:00:00Z","level":"info","user":"bob@example.org","n":1.50}'


def block(lines: list[bytes], path: str = "/p") -> Block:
    data = b"".join(line + b"\n" for line in lines)
    return Block(source="s", stream="f.0", path=path, begin=3, end=3 + len(data), data=data, count=len(lines))


def path_of(*transforms: Transform) -> Path:
    return Path(Route(from_=("s",), to=("o",), do=transforms))


def spliced(path: Path, given: Block) -> tuple[bytes, int, int] | None:
    assert path._splice is not None
    return path._splice.apply(given)


def slowly(path: Path, given: Block) -> list[Any]:
    return [json.loads(line) for line in json_lines(path._compiled.apply(given)).splitlines()]


TEXT = st.one_of(
    st.text(max_size=6),
    st.sampled_from([
        "bob@example.org", "a@b.c@d.e", "x@y", "@b.c", ".@b.c.", "l" * 70 + "@b.c", "say \"a@b.c\": x", "\na@b.c",
        "\\a@b.c", "é@b.c", "a@b.cé", "<a@b.c>", "a\0@b.c", "debug", "10.1.2.3", "a@b-.c-", "x\ty@z.w", "ü" * 3,
    ]),
)  # fmt: skip
VALUE = st.recursive(
    st.one_of(TEXT, st.integers(-(2**63), 2**64 - 1), st.booleans(), st.none(), st.floats(allow_nan=False)),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(TEXT, inner, max_size=2)),
    max_leaves=3,
)
NAME = st.one_of(
    st.sampled_from(["level", "user", "env", "old", "n", "id", "source", "file", "me@here.example", "a@b.c x"]), TEXT
)
# Pairs and not a mapping: a name may come twice.
PAIRS = st.lists(st.tuples(NAME, st.one_of(VALUE, st.sampled_from(["debug", "info"]))), max_size=4)


def written(pairs: list[tuple[str, Any]], gap: str, ascii_only: bool) -> bytes:
    dump = lambda one: json.dumps(one, ensure_ascii=ascii_only)  # noqa: E731
    text = ("," + gap).join(f"{dump(name)}{gap}:{gap}{dump(value)}" for name, value in pairs)
    return f"{gap}{{{gap}{text}{gap}}}{gap}".encode("utf-8", "surrogatepass")


LINE = st.one_of(
    st.builds(written, PAIRS, st.sampled_from(["", " ", "\t"]), st.booleans()),
    st.just(PLAIN),
    st.sampled_from([
        b"", b"{}", b"{ }", b"[1]", b"nonsense", b'{"a":1}{"b":2}', b'{"a":1}\r', b'{"a":"\xff"}',
        b'{"a":"\\u0040b.c"}',
        b'{"user":"bob\\u0040example.org"}', b'{"user":"\\u0062ob@example.org"}', b'{"a":01}', b'{"\\u0069d":"x"}',
        b'{"le\\u0076el":"debug"}', b'{"a":"x\0"}', b'{"level":"debug","level":"info"}', b'{"a":{"id":1}}',
        b'{"a":"\\nbob@x.de"}', b'{"a":"\\\\bob@x.de"}', b'{"a":"\\/bob@x.de"}', b'{"a":"\\"bob@x.de\\":"}',
        b'{"bob@x.de" :1}', b'{"x":"<bob@x.de> \\u003e"}', b'{"a":{"bob@x.de y":"bob@x.de"}}', b'{"a":1e5,"b":-0}',
    ]),
    st.binary(max_size=8).map(lambda one: one.replace(b"\n", b"")),
)  # fmt: skip
PLANS: tuple[tuple[Transform, ...], ...] = (
    (JsonTransform(),),
    (JsonTransform(), DROP, SetTransform(fields={"env": "prod"}), MAIL),
    (JsonTransform(), MAIL, SetTransform(fields={"env": "me@here.example"})),
    (JsonTransform(), SetTransform(fields={"env": "me@here.example"}), MAIL),
    (JsonTransform(), WhereTransform(condition='n > 1 || level.contains("f")'), RemoveTransform(fields=("old",))),
    (JsonTransform(), WhereTransform(condition="size(level) > 4"), RenameTransform(fields={"old": "new"})),
    (JsonTransform(), RedactTransform(detectors=("ipv4", "email"), mask='"\\\x07')),
    (JsonTransform(), RedactTransform(detectors=("password", "ipv4", "url_credentials"), patterns=("x+y",))),
    (JsonTransform(), RedactTransform(detectors=("email",), hash_key="k")),
    (JsonTransform(), SampleTransform(share=0.5)),
)


def _beyond(value: object) -> bool:
    """Whether there is a number in it that no double holds: see docs/decisions/0136."""
    if isinstance(value, dict | list):
        return any(map(_beyond, value.values() if isinstance(value, dict) else value))
    return isinstance(value, float) and math.isinf(value)


@settings(deadline=None, max_examples=400)
@given(st.sampled_from(range(len(PLANS))), st.lists(LINE, min_size=1, max_size=6), st.booleans())
@example(0, [b"", b'{"a":1}{"b":2}'], False)
@example(0, [b" ", b'{"a":1} {"b":2}'], False)
@example(0, [b'{"a":', b'{"x":1}}', b"{}{}"], False)
@example(0, [b'{"a":{}', b"}", b'{"c":1}{"b":2}'], False)
@example(1, [b'{"level":"info"}', b'{"a":"bob@x.de","level":"debug"}', b'{"a":"bob@x.de"}'], False)
def test_spliced_lines_say_what_records_say(plan: int, lines: list[bytes], alone: bool) -> None:
    for some in [[line] for line in lines] if alone else [lines]:
        fast, slow = path_of(*PLANS[plan]), path_of(*PLANS[plan])
        done = spliced(fast, block(some)) if fast._splice is not None else None
        if done is None:
            # Nothing was counted for what goes another way.
            assert not any(value for step in fast.steps for value in step.counts.values())
            continue
        found = [json.loads(line) for line in done[0].splitlines()]
        assert (len(found), len(some)) == done[1:]
        if any(map(_beyond, found)):
            continue
        assert repr([sorted(one.items()) for one in found]) == repr(
            [sorted(one.items()) for one in slowly(slow, block(some))]
        )
        assert [step.counts for step in fast.steps] == [step.counts for step in slow.steps]


@pytest.mark.parametrize("plan", PLANS)
def test_ordinary_lines_are_spliced(plan: tuple[Transform, ...]) -> None:
    path = path_of(*plan)
    lines = [b'{"level":"info","n":1.50,"say":"\\u00e9 \\" \\n"}', b'{ "level" : "info", "n":7, "x":[1,{"y":null}]} ']
    if any(isinstance(one, RedactTransform) and len(one.detectors) > 1 for one in plan):
        lines = [b'{"level":"info","at":"10.1"}']
    if MAIL in plan and plan[-1] is not MAIL:
        return  # an address of ours, put in after others went, must stay
    done = spliced(path, block(lines))
    assert done is not None
    assert done[1] == len(done[0].splitlines()) == len(slowly(path_of(*plan), block(lines)))


ACCESS = (NginxTransform(), SetTransform(fields={"env": "prod"}), MAIL)
SEEN = '10.0.0.1 - - [21/Nov/2026:07:00:00 +0000] "GET /a@b.example HTTP/1.1" 200 5 "-" "x"'
ACCESS_PLANS: tuple[tuple[Transform, ...], ...] = (
    ACCESS,
    ACCESS[:1],
    (NginxTransform(), WhereTransform(condition="status > 99 && body_bytes_sent != 7"), *ACCESS[1:]),
    (NginxTransform(), WhereTransform(condition='!(path.contains("a@b") || http_x_forwarded_for == "10.1.2.3")')),
    (NginxTransform(), WhereTransform(condition='size(path) > 12 && request != "x"'), SampleTransform(share=0.5)),
    (NginxTransform(), WhereTransform(condition='method == 1 || level == "x" || status in [200]')),
    (NginxTransform(), WhereTransform(condition="status < 100"), MAIL),
)
BENT = st.lists(
    st.tuples(
        st.integers(0, len(SEEN)),
        st.integers(0, 3),
        st.sampled_from(['"', " ", "\\", "\x01", "\x7f", "é", "@", "0", "-", "", "\t", "\\x22"]),
    ),
    max_size=2,
).map(lambda bends: functools.reduce(lambda line, one: line[: one[0]] + one[2] + line[one[0] + one[1] :], bends, SEEN))


@settings(deadline=None, max_examples=400)
@given(
    st.lists(st.one_of(st.just(SEEN), BENT, st.just(SEEN + ' "10.1.2.3"')), min_size=1, max_size=4),
    st.sampled_from(ACCESS_PLANS),
)
@example([SEEN + ' "10.1.2.3"'] * 2, ACCESS)
@example([SEEN.replace(" 200 ", " 000 ")], ACCESS)
@example([SEEN.replace(" 5 ", " 05 "), SEEN.replace(" 5 ", " 0 ")], ACCESS)
@example([SEEN.replace(" 5 ", " - ")], ACCESS)
@example([SEEN.replace(" 5 ", " 7 "), SEEN], ACCESS_PLANS[2])
@example([SEEN, SEEN.replace("a@b", "")], ACCESS_PLANS[3])
def test_access_logs_written_at_once_say_what_records_say(lines: list[str], plan: tuple[Transform, ...]) -> None:
    fast, slow = path_of(*plan), path_of(*plan)
    done = spliced(fast, block([line.encode() for line in lines]))
    if done is None:
        assert set(lines) not in ({SEEN}, {SEEN + ' "10.1.2.3"'})
        return
    found = [json.loads(line) for line in done[0].splitlines()]
    wanted = slowly(slow, block([line.encode() for line in lines]))
    assert found == wanted
    assert done[1:] == (len(wanted), len(lines))
    assert [step.counts for step in fast.steps] == [step.counts for step in slow.steps]


def test_what_is_not_touched_keeps_its_form() -> None:
    path = path_of(JsonTransform(), DROP, SetTransform(fields={"env": "prod"}), MAIL)
    done = path.encoded(block([PLAIN, b'{"level":"debug"}']))
    ((line,),) = ([line.decode() for line in json_lines(done).splitlines()],)
    assert line.startswith('{"id":"f.0:3:')
    assert line.endswith(
        ',"source":"s","file":"/p","env":"prod","time":"2026-11-21T07:00:00Z","level":"info","user":"***","n":1.50}'
    )
    assert [one["id"] for one in records(done)] == block([PLAIN]).ids()


def test_an_address_in_the_path_of_a_file_stays() -> None:
    path = path_of(JsonTransform(), MAIL)
    done = path.encoded(block([PLAIN], path="/home/me@here.example/x"))
    (one,) = records(done)
    assert (one["file"], one["user"]) == ("/home/me@here.example/x", "***")


def test_a_number_that_no_double_holds_stays_and_can_still_be_buried() -> None:
    done = path_of(JsonTransform()).encoded(block([b'{"n":1e999}']))
    assert b'"n":1e999}' in json_lines(done)
    (one,) = records(done)
    assert one["n"] == math.inf
    assert msgspec.json.encode(one)


def test_lines_that_are_otherwise_are_tried_ever_more_seldom() -> None:
    path = path_of(JsonTransform())
    tried = 0
    assert path._splice is not None
    original = path._splice._apply

    def counting(given: Block) -> tuple[bytes, int, int] | None:
        nonlocal tried
        tried += 1
        return original(given)

    path._splice._apply = counting  # type: ignore[method-assign]
    for _ in range(300):
        assert path.encoded(block([b"no json"])).rows == 1
    assert 6 <= tried <= 10
    for _ in range(300):
        path.encoded(block([PLAIN]))
    before = tried
    for _ in range(5):
        path.encoded(block([PLAIN]))
    assert tried == before + 5


@pytest.mark.parametrize(
    "plan",
    [
        (DROP, JsonTransform()),
        (JsonTransform(keep=True),),
        (JsonTransform(field="x"),),
        (JsonTransform(), MAIL, WhereTransform(condition='user == "***"')),
        (JsonTransform(), SetTransform(fields={"a": 1}), WhereTransform(condition="a == 1")),
        (JsonTransform(), RedactTransform(detectors=("email",), fields=("user",))),
        (JsonTransform(), SetTransform(fields={'a"b': 1})),
        (NginxTransform(), SetTransform(fields={"path": "x"})),
        (NginxTransform(), RemoveTransform(fields=("remote_user",))),
        (NginxTransform(keep=True),),
    ],
)
def test_routes_that_need_records_have_no_plan(plan: tuple[Transform, ...]) -> None:
    assert path_of(*plan)._splice is None


@pytest.mark.parametrize("to", ["stdout", "syslog", "both"])
@pytest.mark.parametrize("lines", [[PLAIN, b'{"level":"debug"}'], [PLAIN, b"no json"], [b'{"level":"debug"}']])
def test_lines_that_nobody_counted_are_counted_on_the_way(lines: list[bytes], to: str) -> None:
    syslog = SinkSpec(name="syslog", sink=SyslogSink(url="tcp://localhost:1"))
    stdout = SinkSpec(name="stdout", sink=StdoutSink())
    routes = [Route(from_=("s",), do=(JsonTransform(), DROP), to=(to,) if to != "both" else ("syslog",))]
    if to == "both":
        routes.append(Route(from_=("s",), to=("stdout",)))
    routing = Routing(LogsSpec(sinks=(syslog, stdout), routes=tuple(routes)))
    given = block(lines)
    for some in ([given], [msgspec.structs.replace(given, count=UNCOUNTED), given]):
        found, count = routing.apply(some, ("syslog", "stdout"))
        assert count == len(lines) * len(some)
        assert all(one.rows >= 0 for blocks in found.values() for one in blocks)
        if to == "both":
            assert [one.count for one in found["stdout"]] == [len(lines)] * len(some)


def test_texts_beside_the_mask_are_json_still() -> None:
    path = path_of(JsonTransform(), RedactTransform(detectors=("email",), mask='"\n\\'))
    (one,) = records(path.encoded(block([PLAIN])))
    assert one["user"] == '"\n\\'


SECRET = st.lists(
    st.sampled_from([
        "a@b.example", "10.1.2.3", "4111111111111111", "Bearer abcdefgh1", "AKIAABCDEFGHIJKLMNOP", "password=x",
        "secret: '", "https://me:pw@h/", "fe80::1", "-----BEGIN KEY", "ghp_" + "a" * 36, " ", "\0", "\n", "-", "é", "1",
    ]),
    max_size=4,
).map("".join)  # fmt: skip
DETECTED = st.lists(st.sampled_from(sorted(DETECTORS)), min_size=1, max_size=5, unique=True)


@settings(deadline=None)
@given(DETECTED, st.lists(st.one_of(SECRET, st.just("plain")), min_size=1, max_size=6), st.sampled_from(["", "k"]))
def test_detectors_together_find_what_each_finds(names: list[Any], values: list[str], key: str) -> None:
    options = RedactTransform(detectors=tuple(names), patterns=("^p", "n$", "[^-]-"), hash_key=key)
    step = cast("Any", options.open())
    wanted = list(values)
    for name, pattern in [*((one, DETECTORS[one]) for one in names), *(("", one) for one in options.patterns)]:
        blot = step._blot(name, pattern)
        wanted = [blot._sub(value) for value in wanted]
    assert (blot_out(values, step._blots) or values) == wanted
