"""Every transform: lines in, records out; ids stay with their records."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import pytest

from dogwatch.logs.block import Block
from dogwatch.logs.frames import to_frame
from dogwatch.logs.records import json_lines, records
from dogwatch.logs.steps import through
from dogwatch.logs.transform import Step, Transform
from dogwatch.logs.transforms import TRANSFORMS
from dogwatch.logs.transforms.change import (
    RedactTransform,
    RemoveTransform,
    RenameTransform,
    SampleTransform,
    SetTransform,
)
from dogwatch.logs.transforms.limit import DedupeTransform, RateLimitTransform, _Dedupe, _RateLimit
from dogwatch.logs.transforms.metric import MetricStep, MetricTransform
from dogwatch.logs.transforms.parse import JsonTransform, NginxTransform, RegexTransform, TimestampTransform
from dogwatch.logs.transforms.text import (
    ApacheTransform,
    ContainerTransform,
    CsvTransform,
    LogfmtTransform,
    SyslogTransform,
)
from dogwatch.logs.transforms.trace import TraceTransform
from dogwatch.logs.transforms.wasm import WasmTransform
from dogwatch.logs.transforms.where import WhereTransform

JSON = JsonTransform()
CASES_FOLDER = Path(__file__).parent.parent / "cases"


def block(*lines: str) -> Block:
    data = "".join(line + "\n" for line in lines).encode()
    return Block(source="s", stream="f", path="/p", begin=7, end=7 + len(data), data=data, count=len(lines))


class _AnyTime:  # noqa: PLW1641
    """Equal to any RFC 3339 time: of one that names no year, the year is the clock's."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and other.endswith("-11-21T07:00:00.000000Z")


ANY_TIME = _AnyTime()


def after(lines: list[str], *transforms: Transform) -> list[dict[str, Any]]:
    done = through(block(*lines), [one.open() for one in transforms])
    return [{k: v for k, v in one.items() if k not in ("id", "source", "file")} for one in records(done)]


@pytest.fixture(scope="module", autouse=True)
def _polars() -> None:
    """The library's own runtime begins with the first block and lasts as long as the process."""
    after(["a"], RegexTransform(pattern="(?P<a>a)"), TimestampTransform(field="a"))


CASES: list[tuple[str, list[str], tuple[Transform, ...], list[dict[str, Any]]]] = [
    ("json", ['{"a": 1}', '{"b": "x"}'], (JSON,), [{"a": 1}, {"b": "x"}]),
    ("json", ['{"a": 1}', "no json", "[1]"], (JSON,), [{"a": 1}, {"message": "no json"}, {"message": "[1]"}]),
    (
        "regex",
        ["a=1", "nothing"],
        (RegexTransform(pattern="^(?P<k>[a-z])=(?P<v>[0-9])"),),
        [{"k": "a", "v": "1"}, {"message": "nothing"}],
    ),
    (
        "nginx",
        ['10.0.0.1 - bob [21/Nov/2026:07:00:00 +0000] "GET /x HTTP/1.1" 404 12 "-" "curl"'],
        (NginxTransform(), RemoveTransform(fields=("time_local", "protocol", "http_referer"))),
        [
            {
                "remote_addr": "10.0.0.1",
                "remote_user": "bob",
                "method": "GET",
                "path": "/x",
                "status": 404,
                "body_bytes_sent": 12,
                "http_user_agent": "curl",
            }
        ],
    ),
    (
        "timestamp",
        ['{"t": "21/Nov/2026:07:00:00 +0100"}'],
        (JSON, TimestampTransform(field="t", format="%d/%b/%Y:%H:%M:%S %z", to="t")),
        [{"t": "2026-11-21T06:00:00.000000Z"}],
    ),
    (
        "timestamp",
        ['{"t": "2026-07-01T07:00:00.5"}', '{"t": "2026-07-01T07:00:00Z"}'],
        (JSON, TimestampTransform(field="t", zone="Europe/Berlin", to="t")),
        [{"t": "2026-07-01T05:00:00.500000Z"}, {"t": "2026-07-01T07:00:00.000000Z"}],
    ),
    ("where", ['{"n": 1}', '{"n": 5}'], (JSON, WhereTransform(condition="n > 2")), [{"n": 5}]),
    ("set", ["x"], (SetTransform(fields={"env": "test", "n": 1}),), [{"message": "x", "env": "test", "n": 1}]),
    ("rename", ["x"], (RenameTransform(fields={"message": "text", "none": "y"}),), [{"text": "x"}]),
    ("remove", ['{"a": 1, "b": 2}'], (JSON, RemoveTransform(fields=("a", "none"))), [{"b": 2}]),
    (
        "redact",
        ["mail bob@example.org from 10.1.2.3, Authorization: Bearer abcdefgh12345"],
        (RedactTransform(detectors=("email", "ipv4", "bearer"), mask="$1"),),
        [{"message": "mail $1 from $1, Authorization: $1"}],
    ),
    (
        "logfmt",
        ['level=warn msg="a \\"b\\" \\n c" ok n=3 url=/x?a=b', "nothing here"],
        (LogfmtTransform(),),
        [
            {"level": "warn", "msg": 'a "b" \n c', "ok": "true", "n": "3", "url": "/x?a=b"},
            {"message": "nothing here"},
        ],
    ),
    (
        "apache",
        ['h:80 ::1 - - [21/Nov/2026:07:00:00 +0000] "-" 408 - "-" "a \\"b\\""', "else"],
        (ApacheTransform(format="vhost"),),
        [
            {
                "vhost": "h:80",
                "remote_addr": "::1",
                "time_local": "21/Nov/2026:07:00:00 +0000",
                "status": 408,
                "http_user_agent": 'a \\"b\\"',
            },
            {"message": "else"},
        ],
    ),
    (
        "apache",
        ["[Sat Nov 21 07:00:00.1 2026] [ssl:error] [pid 7:tid 8] [client ::1:9] AH01: no", "else"],
        (ApacheTransform(format="error"),),
        [
            {
                "time_local": "Sat Nov 21 07:00:00.1 2026",
                "module": "ssl",
                "level": "error",
                "pid": 7,
                "tid": 8,
                "client": "::1:9",
                "message": "AH01: no",
            },
            {"message": "else"},
        ],
    ),
    (
        "syslog",
        [
            '<165>1 2026-11-21T08:00:00.003+01:00 h app 7 ID47 [x@1 a="b" c="d\\]"][y@2] \ufeffhello',
            "<34>Nov 21 07:00:00 h su[9]: failed: x",
            "<13>bare",
            "none",
            "2026-11-21T08:00:00.003456+01:00 h sshd[9]: as rsyslog writes it",
            "Nov 21 07:00:00 h kernel: as it was written before",
        ],
        (SyslogTransform(), RenameTransform(fields={"timestamp": "t"}), WhereTransform(condition="msgid != 'no'")),
        [
            {
                "facility": "local4",
                "level": "notice",
                "t": "2026-11-21T07:00:00.003000Z",
                "host": "h",
                "app": "app",
                "pid": "7",
                "msgid": "ID47",
                "structured": 'x@1.a="b" x@1.c="d\\]"',
                "message": "hello",
            },
            {
                "facility": "auth",
                "level": "crit",
                "t": ANY_TIME,
                "host": "h",
                "app": "su",
                "pid": "9",
                "message": "failed: x",
            },
            {"facility": "user", "level": "notice", "message": "bare"},
            {"message": "none"},
            {
                "t": "2026-11-21T07:00:00.003456Z",
                "host": "h",
                "app": "sshd",
                "pid": "9",
                "message": "as rsyslog writes it",
            },
            {"t": ANY_TIME, "host": "h", "app": "kernel", "message": "as it was written before"},
        ],
    ),
    (
        "csv",
        ['1,"a, ""b""",x', "1,2", '1,"open,x'],
        (CsvTransform(columns=("n", "text", "")),),
        [{"n": "1", "text": 'a, "b"'}, {"message": "1,2"}, {"message": '1,"open,x'}],
    ),
    (
        "container",
        ['{"log":"a\\n","stream":"stdout","time":"2026-11-21T07:00:00Z"}', '{"log":', "else"],
        (ContainerTransform(),),
        [
            {"message": "a", "stream": "stdout", "timestamp": "2026-11-21T07:00:00Z"},
            {"message": '{"log":'},
            {"message": "else"},
        ],
    ),
    (
        "trace",
        [
            '{"otelTraceID": "4BF92F3577B34DA6A3CE929D0E0E4736", "spanId": "00f067aa0ba902b7"}',
            '{"message": "x traceparent=00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}',
            '{"message": "trace_id=00000000000000000000000000000000 span_id=00f067aa0ba902b7"}',
        ],
        (JSON, TraceTransform(), RemoveTransform(fields=("message", "otelTraceID", "spanId"))),
        [
            {"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736", "span_id": "00f067aa0ba902b7"},
            {"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736", "span_id": "00f067aa0ba902b7"},
            {"span_id": "00f067aa0ba902b7"},
        ],
    ),
    (
        "rate_limit",
        ['{"k": "a", "n": 1}', '{"k": "a", "n": 2}', '{"k": "a", "n": 3}', '{"k": "b", "n": 4}'],
        (JSON, RateLimitTransform(rate=0.001, by=("k",), burst=2)),
        [{"k": "a", "n": 1}, {"k": "a", "n": 2}, {"k": "b", "n": 4}],
    ),
    (
        "redact",
        [
            "card 4111 1111 1111 1111 not 4111 1111 1111 1112",
            "fe80::1 and 2001:db8:0:0:0:0:0:1, not 12:30:45",
            "ghp_abcdefghijklmnopqrstuvwxyz0123456789 sk_live_0123456789abcdef",
            'password=hunter2&x=1 "api_key": "k-1" postgres://me:pw@db/x',
        ],
        (RedactTransform(detectors=("card", "ipv6", "token", "url_credentials", "password")),),
        [
            {"message": "card *** not 4111 1111 1111 1112"},
            {"message": "*** and ***, not 12:30:45"},
            {"message": "*** ***"},
            {"message": 'password=***&x=1 "api_key": "***" postgres://***db/x'},
        ],
    ),
    (
        "metric",
        ['{"n": 1}'],
        (JSON, MetricTransform(name="n_total", value="n")),
        [{"n": 1}],
    ),
    ("wasm", ['{"a": "xaxa"}'], (JSON, WasmTransform(module=f"{CASES_FOLDER}/logs/replace.wat")), [{"b": "xbxb"}]),
    ("dedupe", ["x", "x", "y", "x"], (DedupeTransform(),), [{"message": "x"}, {"message": "y"}]),
    ("sample", ["x"], (SampleTransform(share=1.0),), [{"message": "x"}]),
]


@pytest.mark.parametrize(("kind", "lines", "transforms", "expected"), CASES)
def test_examples(
    kind: str, lines: list[str], transforms: tuple[Transform, ...], expected: list[dict[str, Any]]
) -> None:
    assert kind in {one.kind for one in transforms}
    assert after(lines, *transforms) == expected


def test_every_kind_has_an_example() -> None:
    assert {kind for kind, *_rest in CASES} == set(TRANSFORMS.kinds())


CONDITIONS = [
    'level != "debug"',
    'level == "error" || n >= 3',
    'level in ["info", "warn"]',
    '!(n < 2) && level.startsWith("i")',
    'level.contains("r")',
    'level.matches("^(warn|info)$")',
]


@pytest.mark.parametrize("condition", CONDITIONS)
def test_columns_judge_as_rows_do(condition: str) -> None:
    lines = [f'{{"level": "{level}", "n": {n}}}' for level in ("debug", "info", "warn", "error") for n in range(4)]
    step: Any = WhereTransform(condition=condition).open()
    kept = through(block(*lines), [JSON.open(), step])
    assert step.counts["row_by_row"] == 0
    rows: list[Any] = [row for row in records(through(block(*lines), [JSON.open()])) if step._one(row)]
    assert [one["level"] for one in records(kept)] == [row["level"] for row in rows]
    assert 0 < len(rows) < 16


def test_what_cannot_be_judged_is_kept_and_counted() -> None:
    step: Step = WhereTransform(condition='level == "error"').open()
    kept = through(block('{"level": "error"}', '{"other": 1}', '{"level": "info"}'), [JSON.open(), step])
    assert kept.rows == 2
    assert step.counts == {"dropped": 1, "unjudged": 1, "row_by_row": 0}


def test_beyond_columns_it_goes_row_by_row() -> None:
    step: Step = WhereTransform(condition="size(message) > 2").open()
    assert records(through(block("a", "abc"), [step]))[0]["message"] == "abc"
    assert step.counts["row_by_row"] == 2


def test_ids_stay_with_their_records() -> None:
    line = b'{"n": 3}'
    lines = block('{"n": 1}', '{"n": 2}', '{"n": 3}')
    ids = lines.ids()
    kept = through(lines, [JSON.open(), WhereTransform(condition="n != 2").open()])
    assert [one["id"] for one in records(kept)] == [ids[0], ids[2]]
    assert ids[2] == f"f:25:{zlib.crc32(line):08x}"
    assert json_lines(kept).count(b"\n") == 2


def test_a_sample_is_the_same_every_time_and_about_its_share() -> None:
    lines = block(*("all alike" for _ in range(4000)))
    first = through(lines, [SampleTransform(share=0.25).open()])
    assert first.ids() == through(lines, [SampleTransform(share=0.25).open()]).ids()
    assert 800 < first.rows < 1200


def test_a_hash_stands_for_one_value_and_columns_do_as_rows_do() -> None:
    redact = RedactTransform(detectors=("ipv4", "password"), hash_key="k")
    lines = ["from 10.0.0.1", "from 10.0.0.2", "again 10.0.0.1 pwd=x"]
    found = [one["message"] for one in after(lines, redact)]
    stand_in = found[0].split()[1]
    assert len(stand_in) == 16
    assert found[1].split()[1] != stand_in
    assert found[2].startswith(f"again {stand_in} pwd=")
    assert "x" not in found[2].rpartition("=")[2]
    frame = to_frame(block(*lines))
    assert redact.open().apply(frame)["message"].to_list() == found


def test_a_limit_refills_and_keys_are_bounded() -> None:
    now_s = [0.0]
    step = _RateLimit(RateLimitTransform(rate=2.0, by=("message",), max_keys=2), lambda: now_s[0])
    frame = to_frame(block("a", "a", "a"))
    assert step.apply(frame).height == 2
    now_s[0] = 0.5
    assert step.apply(frame).height == 1
    step.apply(to_frame(block("b", "c")))
    assert step.counts == {"dropped": 3, "forgotten": 1}


def test_what_comes_again_later_says_how_often_it_was_dropped() -> None:
    now_s = [0.0]
    step = _Dedupe(DedupeTransform(within=10.0), lambda: now_s[0])
    assert step.apply(to_frame(block("a", "a", "a", "b"))).height == 2
    now_s[0] = 11.0
    again = step.apply(to_frame(block("a", "b")))
    assert again["repeated"].to_list() == [2, None]


def test_metrics_of_what_passes() -> None:
    options = MetricTransform(name="t_s", type="histogram", value="t", by=("k",), buckets=(0.1, 1.0), max_series=2)
    step = options.open()
    assert isinstance(step, MetricStep)
    lines = ['{"k": "a", "t": 0.05}', '{"k": "a", "t": 0.5}', '{"k": "b", "t": 3}', '{"k": "b"}', '{"t": "x"}']
    through(block(*lines), [JSON.open(), step])
    (family,) = step.families()
    assert dict(family.series) == {
        't_s_bucket{k="a",le="0.1"}': 1,
        't_s_bucket{k="a",le="1"}': 2,
        't_s_bucket{k="a",le="+Inf"}': 2,
        't_s_sum{k="a"}': 0.55,
        't_s_count{k="a"}': 2,
        't_s_bucket{k="b",le="0.1"}': 0,
        't_s_bucket{k="b",le="1"}': 0,
        't_s_bucket{k="b",le="+Inf"}': 1,
        't_s_sum{k="b"}': 3,
        't_s_count{k="b"}': 1,
    }
    through(block('{"k": "c", "t": 1}'), [JSON.open(), step])
    assert step.counts == {"counted": 3, "series_dropped": 1}
    counter = MetricTransform(name="n_total").open()
    through(block("x", "y"), [counter])
    assert isinstance(counter, MetricStep)
    assert [dict(one.series) for one in counter.families()] == [{"n_total": 2}]


@pytest.mark.parametrize("case", ["loops", "grows", "traps", "lies", "no_exports", "missing"])
def test_a_module_that_does_not_behave_changes_nothing(case: str, tmp_path: Path) -> None:
    text = (CASES_FOLDER / "logs" / "wrong.wat").read_text()
    path = tmp_path / "m.wat"
    if case == "no_exports":
        path.write_text("(module)")
    elif case != "missing":
        path.write_text(text.replace("CASE", f"${case}"))
    step: Step = WasmTransform(module=str(path), timeout=0.05, memory=1024 * 1024).open()
    kept = through(block("one", "two"), [step])
    assert [one["message"] for one in records(kept)] == ["one", "two"]
    assert step.counts == {"dropped": 0, "failed": 2}


def test_a_module_may_drop_records_and_ids_stay(tmp_path: Path) -> None:
    path = tmp_path / "m.wat"
    # Its answer is an empty line for the first of two records.
    path.write_text(
        '(module (memory (export "memory") 1) (data (i32.const 8) "\\n{\\"k\\":2}\\n")'
        '(func (export "alloc") (param i32) (result i32) i32.const 1024)'
        '(func (export "transform") (param i32 i32) (result i64) i64.const 34359738377))'
    )
    lines = block("one", "two")
    kept = through(lines, [WasmTransform(module=str(path)).open()])
    assert [(one["id"], one["k"]) for one in records(kept)] == [(lines.ids()[1], 2)]
