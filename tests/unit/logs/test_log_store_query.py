"""Queries give what a plain reading of the records gives, wherever those are: new, sealed or merged."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dogwatch.errors import NotFound
from dogwatch.expressions.conditions import ConditionFailure, compile_condition
from dogwatch.logs.store import sealing
from dogwatch.logs.store.layout import Index, wal_path, wals
from dogwatch.logs.store.query import Limits, LogStore, Query, QueryError, TooLong
from dogwatch.logs.store.values import words
from dogwatch.logs.store.wal import header

NOW_US = 1_795_000_000_000_000


@pytest.fixture(scope="module", autouse=True)
def _libraries(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Both libraries begin threads with their first use that last as long as the process."""
    folder = tmp_path_factory.mktemp("first")
    for number in range(8):
        put(folder, number, [{"a": 1}])
        sealing.seal(folder, number)
    sealing.merge(folder, Index(folder).contents().segments)
    LogStore(folder).run(Query())


def put(folder: Path, number: int, records: list[dict[str, Any]], source: str = "s") -> None:
    lines = [{"id": f"x:{number}:{at}", "source": source, "file": "/f", **one} for at, one in enumerate(records)]
    wal_path(folder, number).write_bytes(header(NOW_US + number) + msgspec.json.Encoder().encode_lines(lines))


VALUES = st.one_of(
    st.sampled_from(["error", "info", "Debug", "a b", "payment refused", "x_y", "50%", "é", "É'q", ""]),
    st.integers(-3, 3),
    st.sampled_from([0.5, 1.0, -2.5]),
    st.booleans(),
    st.none(),
    st.just({"in": "error"}),
    st.just(["info", 1]),
)
RECORD = st.dictionaries(st.sampled_from(["level", "n", "Level", "ok", "message"]), VALUES, max_size=4)
NAMES = st.sampled_from(["level", "n", "ok", "source", "nowhere", "message"])
TEXT = st.sampled_from(['"error"', '"info"', '""', '"s"', '"re"', '"x_"', '"é"'])
LITERAL = st.one_of(TEXT, st.sampled_from(["0", "1", "2", "0.5", "true", "false"]))
LEAF = st.one_of(
    st.builds(lambda n, op, v: f"{n} {op} {v}", NAMES, st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), LITERAL),
    st.builds(lambda n, f, v: f"{n}.{f}({v})", NAMES, st.sampled_from(["contains", "startsWith", "endsWith"]), TEXT),
    st.builds(lambda n, a, b: f"{n} in [{a}, {b}]", NAMES, TEXT, TEXT),
    st.builds(lambda n: n, NAMES),
    st.builds(lambda n: f"size(string({n})) > 2", NAMES),
)
CONDITION = st.recursive(
    LEAF,
    lambda inner: st.one_of(
        st.builds(lambda a: f"!({a})", inner),
        st.builds(lambda a, op, b: f"({a}) {op} ({b})", inner, st.sampled_from(["&&", "||"]), inner),
    ),
    max_leaves=4,
)


def texts(value: object) -> list[str]:
    if isinstance(value, str):
        return words(value)
    if isinstance(value, dict):
        return [word for one in value.values() for word in texts(one)]
    return [word for one in value for word in texts(one)] if isinstance(value, list) else []


def plainly(condition: str, text: str, records: list[dict[str, Any]]) -> list[str]:
    names = {"level", "n", "ok", "source", "nowhere", "message"}
    compiled = compile_condition(condition, dict.fromkeys(sorted(names), "dyn")) if condition else None
    found = []
    for record in records:
        try:
            if compiled and not compiled.test({k: v for k, v in record.items() if v is not None}):
                continue
        except ConditionFailure:
            continue
        own = {k: v for k, v in record.items() if k not in ("id", "source", "file")}
        if set(words(text)) <= set(texts(own)):
            found.append(record["id"])
    return sorted(found)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(RECORD, max_size=6), min_size=1, max_size=10),
    CONDITION,
    st.sampled_from(["", "error", "payment", "REFUSED payment", "x_y", "é"]),
    st.sampled_from(["new", "sealed", "merged", "mixed"]),
)
def test_answers_are_those_of_a_plain_reading(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[dict[str, Any]]], condition: str, text: str, where: str
) -> None:
    folder = tmp_path_factory.mktemp("store")
    for number, records in enumerate(batches):
        put(folder, number, records)
        if where in ("sealed", "merged") or (where == "mixed" and number % 2):
            sealing.seal(folder, number)
    everything = [
        {"id": f"x:{number}:{at}", "source": "s", "file": "/f", **one}
        for number, records in enumerate(batches)
        for at, one in enumerate(records)
    ]
    if where == "merged" and (parts := sealing.to_merge(Index(folder).contents().segments)):
        sealing.merge(folder, parts)
        assert len(Index(folder).contents().segments) < len([one for one in batches if one])
    expected = plainly(condition, text, everything)
    store = LogStore(folder)
    answer = store.run(Query(condition=condition, text=text, limit=1000))
    assert sorted(one["id"] for one in answer.records) == expected
    by_id = {one["id"]: one for one in everything}
    for one in answer.records:
        # Value for value, with their types: 1 is not true, and not 1.0.
        got = {k: v for k, v in one.items() if k != "time_us"}
        want = {k: v for k, v in by_id[one["id"]].items() if v is not None}
        assert msgspec.json.encode(got, order="sorted") == msgspec.json.encode(want, order="sorted")
    counted = store.run(Query(condition=condition, text=text, limit=0, group=("level", "n"), bucket_us=1000))
    groups = Counter(tuple(_key(by_id[one].get(name)) for name in ("level", "n")) for one in expected)
    assert Counter({tuple(map(_key, values)): count for values, count in counted.groups}) == groups
    assert counted.matched == sum(counted.buckets.values()) == len(expected)


def _key(value: object) -> str:
    shown = value if isinstance(value, str) and value[:1] in ("{", "[") else msgspec.json.encode(value).decode()
    return str(shown)


def test_the_newest_in_time_are_returned_the_oldest_first(tmp_path: Path) -> None:
    for number in range(3):
        records = [{"n": at, "timestamp": f"2026-11-21T0{number}:00:{at:02d}Z"} for at in range(50)]
        put(tmp_path, number, records)
    sealing.seal(tmp_path, 1)
    found = LogStore(tmp_path).run(Query(limit=60)).records
    assert [one["timestamp"] for one in found[:10]] == [f"2026-11-21T01:00:{at}Z" for at in range(40, 50)]
    assert len(found) == 60
    until = found[10]["time_us"]
    before = LogStore(tmp_path).run(Query(until_us=until, limit=1)).records
    assert before[0]["timestamp"] == "2026-11-21T01:00:49Z"


def test_segments_without_the_word_are_not_opened(tmp_path: Path) -> None:
    for number in range(4):
        put(tmp_path, number, [{"message": f"word{number} and more"}])
        sealing.seal(tmp_path, number)
    answer = LogStore(tmp_path).run(Query(text="WORD2"))
    assert [one["message"] for one in answer.records] == ["word2 and more"]
    assert (answer.segments, answer.skipped) == (4, 3)


def test_sources_that_are_not_asked_for_stay_unseen(tmp_path: Path) -> None:
    put(tmp_path, 1, [{"message": "a"}], "shop")
    put(tmp_path, 2, [{"message": "b"}], "bank")
    sealing.seal(tmp_path, 1)
    store = LogStore(tmp_path)
    assert [one["message"] for one in store.run(Query(sources=("bank",))).records] == ["b"]
    assert [one["message"] for one in store.run(Query(sources=("shop",), condition='source != "x"')).records] == ["a"]
    assert store.run(Query(sources=())).records == []


def test_mistakes_say_where(tmp_path: Path) -> None:
    with pytest.raises(QueryError) as caught:
        LogStore(tmp_path).run(Query(condition='level == "error" && ('))
    assert caught.value.position == 21
    with pytest.raises(NotFound):
        LogStore(tmp_path / "none").run(Query())


def test_a_query_ends_when_its_time_is_over(tmp_path: Path) -> None:
    put(tmp_path, 1, [{"message": "x" * 50, "n": n} for n in range(20_000)])
    sealing.seal(tmp_path, 1)
    store = LogStore(tmp_path, Limits(time_s=0.0))
    begun = time.monotonic()
    with pytest.raises(TooLong):
        store.run(Query(condition="size(message) > 3", limit=10))
    assert time.monotonic() - begun < 5


def test_wal_of_several_batches(tmp_path: Path) -> None:
    put(tmp_path, 1, [{"a": 1}])
    with wal_path(tmp_path, 1).open("ab") as file:
        file.write(header(NOW_US + 7_000_000) + b'{"id":"y","source":"s","file":"/f","message":"late # 1"}\n{"torn')
    found = LogStore(tmp_path).run(Query()).records
    assert [(one["id"], one["time_us"]) for one in found] == [("x:1:0", NOW_US + 1), ("y", NOW_US + 7_000_000)]
    sealing.seal(tmp_path, 1)
    assert LogStore(tmp_path).run(Query()).records == found
    assert not wals(tmp_path)
