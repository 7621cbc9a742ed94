"""What sinks send of whole blocks says what the same records say one by one."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from tests.unit.logs.test_log_splice import LINE, PLAIN, block, path_of

from dogwatch.logs.block import Block
from dogwatch.logs.fields import level, rfc3339, rfc3339s, severity_number, time_ns, times_ns
from dogwatch.logs.multiline import INNER
from dogwatch.logs.records import as_sent, json_lines, pieces, records, with_ids
from dogwatch.logs.rows import Encoded
from dogwatch.logs.sinks.otlp_bytes import Writer, any_value, key_value, sized, varint
from dogwatch.logs.transforms.change import SetTransform
from dogwatch.logs.transforms.parse import JsonTransform

NOW_NS = 1_795_244_400_123_456_789
RAW = st.one_of(
    LINE, st.binary(max_size=12).map(lambda one: one.replace(b"\n", b"")), st.just(b'",'), st.just(b"\\"),
    st.just("ü \x7f\u2028 \U0001f600".encode()), st.just(b"a\rb\r"),
)  # fmt: skip
STAMP = st.one_of(
    st.datetimes().map(lambda one: one.isoformat() + "Z"),
    st.sampled_from(["2026-11-21T07:00:00Z", "2026-11-21T07:00:00.25+02:00", "2026-11-21", "x", "9999-12-31"]),
    st.integers(), st.none(),
)  # fmt: skip
LEVEL = st.sampled_from(["info", "ERROR", "trace", "odd", "", 30, None, ["x"]])
TRACE = st.sampled_from(["0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "00" * 16, "xyz", 7])
VALUE = st.one_of(
    st.text(max_size=200), st.integers(-(2**70), 2**70), st.booleans(), st.none(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.lists(st.integers(0, 3), max_size=2), st.dictionaries(st.text(max_size=2), st.text(max_size=2), max_size=2),
)  # fmt: skip
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "message": VALUE, "timestamp": STAMP, "@timestamp": STAMP, "level": LEVEL, "severity": LEVEL, "trace_id": TRACE,
        "span_id": TRACE, "user": VALUE, "n": VALUE,
    },
)  # fmt: skip
OBJECTS = st.lists(FIELDS, min_size=1, max_size=5).map(
    lambda some: [json.dumps(one, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace") for one in some]
)


def forms(lines: list[bytes]) -> list[Block]:
    """Return a block as it was read, of rows, and of JSON lines that stayed as they were."""
    given = block(lines)
    rows = path_of(JsonTransform(), SetTransform(fields={"env": "é"}))
    return [given, rows.apply(given), path_of(JsonTransform()).encoded(given)]


@settings(deadline=None)
@given(st.lists(RAW, min_size=1, max_size=6))
@example([b'x",', b"y"])
@example([b'{"message":"a"}', b'{"message":"a","b":null}', b'{ "message" : "\\u00e9\\"" }', b"{}"])
@example([b'{"a":{"b":"x","source":"s","file":"/p"}}'])
def test_pieces_are_the_records(lines: list[bytes]) -> None:
    for taken in forms(lines):
        some, told = pieces(taken), records(taken)
        documents = some.documents()
        assert some.lines() == json_lines(taken) == b"".join(one + b"\n" for one in documents)
        assert [one.decode() for one in some.ids] == taken.ids()
        whole = [json.loads(one) for one in documents]
        assert [without_nulls(one) for one in whole] == [without_nulls(one) for one in told]
        for text, own, record in zip(some.messages(), some.own(), whole, strict=True):
            rest = {name: value for name, value in record.items() if name not in ("id", "source", "file")}
            assert json.loads(own) == rest
            said = json.loads(text)
            if list(rest) == ["message"] and isinstance(rest["message"], str):
                assert said == rest["message"]
            else:
                assert json.loads(said) == rest
        assert with_ids([taken], {some.ids[-1]})[-1] == told[-1]
        if taken.made is None:
            assert as_sent(taken, some, json=False) == taken.lines()


def without_nulls(record: Any) -> dict[str, Any]:
    return {name: value for name, value in record.items() if value is not None}


def test_lines_that_stand_for_several_are_sent_whole() -> None:
    given = msgspec.structs.replace(block([b"one" + INNER + b"more", b"two"]), joined=True, starts=(3, 99))
    assert as_sent(given, pieces(given), json=False) == [b"one\nmore", b"two"]
    assert [json.loads(one)["message"] for one in pieces(given).documents()] == ["one\nmore", "two"]
    assert [one.decode() for one in pieces(given).ids] == given.ids()


@settings(deadline=None)
@given(OBJECTS)
def test_columns_are_the_values(lines: list[bytes]) -> None:
    for taken in forms(lines)[1:]:
        some = pieces(taken)
        for name in ("timestamp", "user", "message"):
            values = [json.loads(one).get(name, msgspec.UNSET) for one in some.documents()]
            assert some.columns((name,))[0] == values
            if any(one is not msgspec.UNSET for one in values):
                assert some.may_have((name.encode(),))


@pytest.mark.allow_leak("fd:anon_inode:*", reason="the runtime of polars lasts as long as the process")
def test_columns_of_a_library_are_cut_as_well() -> None:
    given = forms([PLAIN, b'{"level":"\x7f/\\u0001","n":2}'])[1]
    assert isinstance(given.frame, pl.DataFrame)
    odd = msgspec.structs.replace(given, made=given.frame, path="/a\x7f\"'\\ü")
    assert [json.loads(one)["level"] for one in pieces(odd).documents()] == ["info", "\x7f/\x01"]
    assert [one.decode() for one in pieces(odd).ids] == given.ids()


def test_a_number_beyond_a_double_is_passed_on() -> None:
    given = block([b'{"n":1e999,"timestamp":"2026-11-21T07:00:00Z"}'])
    some = pieces(msgspec.structs.replace(given, data=b"", made=path_of(JsonTransform()).encoded(given).made))
    assert some.columns(("timestamp",)) == [["2026-11-21T07:00:00Z"]]
    assert b'"n":1e999' in some.documents()[0]


@given(st.lists(STAMP, max_size=4))
def test_times_of_many_are_the_times_of_each(texts: list[object]) -> None:
    times = [time_ns({"timestamp": text}, NOW_NS) for text in texts]
    assert times_ns(texts, NOW_NS) == times
    assert rfc3339s(times) == [rfc3339(one) for one in times]


# -- OpenTelemetry, beside its own library


def value_of(target: AnyValue, value: object) -> None:
    match value:
        case bool():
            target.bool_value = value
        case int() if -(2**63) <= value < 2**63:
            target.int_value = value
        case float():
            target.double_value = value
        case list():
            target.array_value.SetInParent()
            for one in value:
                value_of(target.array_value.values.add(), one)
        case dict():
            target.kvlist_value.SetInParent()
            for name, one in value.items():
                value_of(target.kvlist_value.values.add(key=name).value, one)
        case None:
            target.SetInParent()
        case _:
            target.string_value = str(value)


def expected(record: dict[str, Any]) -> tuple[LogRecord, dict[str, bytes]]:
    """Return a record as the library writes it, without its attributes, and these."""
    target = LogRecord(observed_time_unix_nano=NOW_NS, time_unix_nano=NOW_NS)
    rest = {name: value for name, value in record.items() if name not in ("id", "source", "file", "message")}
    at_ns = time_ns(record, -1)
    if 0 <= at_ns < 2**64:
        target.time_unix_nano = at_ns
        rest.pop("timestamp", None)
    if (known := level(record)) is not None:
        target.severity_text = known[0]
        target.severity_number = severity_number(*known)  # type: ignore[assignment]
        rest.pop("level" if "level" in record else "severity")
    if record.get("message") is not None:
        value_of(target.body, record["message"])
    for name, size in (("trace_id", 32), ("span_id", 16)):
        text = record.get(name)
        if isinstance(text, str) and len(text) == size and set(text) <= set("0123456789abcdef") and set(text) != {"0"}:
            setattr(target, name, bytes.fromhex(text))
            del rest[name]
    rest = {name: one for name, one in rest.items() if one is not None}
    attributes = {}
    for name, one in {"log.record.uid": record["id"], "log.file.path": record["file"], **rest}.items():
        value = AnyValue()
        value_of(value, one)
        attributes[name] = value.SerializeToString()
    return target, attributes


@settings(deadline=None)
@given(st.lists(OBJECTS, min_size=1, max_size=3), st.booleans())
def test_log_records_are_what_the_library_reads(batches: list[list[bytes]], plain: bool) -> None:
    writer = Writer()
    for lines in batches:
        for taken in forms(lines)[:1] if plain else forms(lines)[1:]:
            body = sized(b"\x0a", sized(b"\x12", writer.records(pieces(taken), taken.path, NOW_NS)))
            request = ExportLogsServiceRequest.FromString(body)
            found = request.resource_logs[0].scope_logs[0].log_records
            told = [json.loads(one) for one in pieces(taken).documents()]
            assert len(found) == len(told)
            for one, record in zip(found, told, strict=True):
                target, attributes = expected(record)
                assert {a.key: a.value.SerializeToString() for a in one.attributes} == attributes
                assert len(one.attributes) == len(attributes)
                del one.attributes[:]
                assert one == target


@given(st.recursive(VALUE, lambda inner: st.lists(inner, max_size=2), max_leaves=3), st.text(max_size=150))
def test_values_are_written_as_the_library_does(value: object, name: str) -> None:
    target = AnyValue()
    value_of(target, value)
    assert AnyValue.FromString(any_value(value)) == target
    assert key_value(name, value).startswith(b"\x0a" + varint(len(name.encode())))


def test_many_different_names_do_not_stay() -> None:
    writer = Writer()
    for number in range(60):
        given = forms([b'{"n%d":1,"level":"info"}' % (number + at) for at in range(3)])[2]
        request = sized(b"\x0a", sized(b"\x12", writer.records(pieces(given), "/p", NOW_NS)))
        found = ExportLogsServiceRequest.FromString(request).resource_logs[0].scope_logs[0].log_records
        assert [{a.key for a in one.attributes} for one in found] == [
            {"log.record.uid", "log.file.path", f"n{number + at}"} for at in range(3)
        ]
    assert len(writer._book.shape.names) < 60


def test_numbers_that_have_no_end_are_values() -> None:
    assert AnyValue.FromString(any_value(math.inf)).double_value == math.inf
    assert isinstance(forms([PLAIN])[2].made, Encoded)
