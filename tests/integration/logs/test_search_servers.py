"""The `elasticsearch` sink against real servers, Elasticsearch and OpenSearch: data streams, duplicates, refused items,
blocked indices.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.logs.test_real_sinks import LINES, block, deliver, letters
from tests.log_peers import OpenSearch, Peer, Search, running, unique
from tests.log_peers_more import Elasticsearch
from tests.unit.logs.test_log_splice import path_of

from dogwatch.errors import TransientError
from dogwatch.logs.records import json_lines
from dogwatch.logs.sinks.elasticsearch import ElasticsearchSink
from dogwatch.logs.transforms.parse import JsonTransform

pytestmark = pytest.mark.allow_leak("fd:anon_inode:*", reason="the runtime of polars lasts as long as the process")


@pytest.fixture(scope="module", params=[OpenSearch, Elasticsearch], ids=["opensearch", "elasticsearch"])
def search(request: pytest.FixtureRequest) -> Iterator[Peer]:
    with running(request.param) as peer:
        yield peer


async def test_what_comes_twice_is_there_once(search: Search, tmp_path: Path) -> None:
    index = unique("logs")
    made = block(*LINES)
    await deliver(ElasticsearchSink(url=search.url, index=index), tmp_path, made, times=3)
    found = search.documents(index)
    assert {one["_id"]: one["message"] for one in found} == dict(zip(made.ids(), LINES, strict=True))


async def test_a_data_stream_takes_lines_and_has_their_times(search: Search, tmp_path: Path) -> None:
    """Elasticsearch makes one of every index that is called logs-…-…; it refuses what has no @timestamp."""
    pattern = unique("logs")
    search.ask("PUT", f"_index_template/{pattern}", {"index_patterns": [f"{pattern}-*"], "data_stream": {}})
    lines = ['{"timestamp": "2026-11-21T07:00:00.25Z", "n": 1}', '{"@timestamp": "2026-11-21T08:00:00Z", "n": 2}']
    sink = ElasticsearchSink(url=search.url, index=f"{pattern}-shop")
    await deliver(sink, tmp_path, block(*lines, columns=True), block("plain"), times=2)
    assert not (tmp_path / "dead").exists()
    found = search.documents(f"{pattern}-shop")
    assert len(found) == 3
    times = {one["n"]: one["@timestamp"] for one in found if "n" in one}
    assert times == {1: "2026-11-21T07:00:00.250Z", 2: "2026-11-21T08:00:00Z"}


async def test_one_item_that_does_not_fit_is_apart(search: Search, tmp_path: Path) -> None:
    index = unique("logs")
    search.ask("PUT", index, {"mappings": {"properties": {"n": {"type": "integer"}}}})
    lines = ['{"n": 1}', '{"n": "no number"}', '{"n": 3}']
    await deliver(ElasticsearchSink(url=search.url, index=index), tmp_path, block(*lines, columns=True))
    assert sorted(one["n"] for one in search.documents(index)) == [1, 3]
    (letter,) = letters(tmp_path)
    assert "no number" in json.dumps(letter["record"])
    assert "parsing_exception" in str(letter["reason"])
    assert "For input string" in str(letter["reason"]), "the cause is said, not only that there was one"


async def test_a_blocked_index_is_tried_again(search: Search, tmp_path: Path) -> None:
    """What an operator mends makes no dead letters: they are for what will never be taken."""
    index = unique("logs")
    search.ask("PUT", index)
    search.ask("PUT", f"{index}/_settings", {"index.blocks.write": True})
    sink = ElasticsearchSink(url=search.url, index=index)
    with pytest.raises(TransientError, match="3 of 3 records refused: 403 cluster_block_exception"):
        await deliver(sink, tmp_path, block(*LINES))
    search.ask("PUT", f"{index}/_settings", {"index.blocks.write": False})
    await deliver(sink, tmp_path, block(*LINES))
    assert len(search.documents(index)) == 3
    assert not (tmp_path / "dead").exists()


async def test_a_missing_index_that_is_not_made_is_tried_again(search: Search, tmp_path: Path) -> None:
    search.ask("PUT", "_cluster/settings", {"transient": {"action.auto_create_index": "false"}})
    try:
        with pytest.raises(TransientError, match="index_not_found_exception"):
            await deliver(ElasticsearchSink(url=search.url, index=unique("logs")), tmp_path, block(*LINES))
    finally:
        search.ask("PUT", "_cluster/settings", {"transient": {"action.auto_create_index": None}})
    assert not (tmp_path / "dead").exists()


async def test_more_than_the_server_takes_at_once(search: Search, tmp_path: Path) -> None:
    index = unique("logs")
    lines = [f"{number} {unique('x') * 80}" for number in range(300)]
    sink = ElasticsearchSink(url=search.url, index=index, compression="none")
    await deliver(sink, tmp_path, block(*lines))
    assert sorted(one["message"] for one in search.documents(index)) == sorted(lines)


async def test_a_pipeline_that_is_not_there(search: Search, tmp_path: Path) -> None:
    sink = ElasticsearchSink(url=search.url, index=unique("logs"), pipeline="none")
    with pytest.raises(TransientError, match="pipeline with id"):
        await deliver(sink, tmp_path, block(*LINES))


async def test_a_name_that_is_there_twice_counts_with_its_last_value(search: Search, tmp_path: Path) -> None:
    index = unique("logs")
    given = block('{"n": 1, "n": 2}', '{"n": 3}', '{"in": {"a": "x", "a": "y"}}')
    spliced = path_of(JsonTransform()).encoded(given)
    assert b'"n": 1, "n": 2' in json_lines(spliced), "it goes on as it was"
    await deliver(ElasticsearchSink(url=search.url, index=index), tmp_path, spliced)
    assert not (tmp_path / "dead").exists()
    found = search.documents(index)
    assert sorted(one["n"] for one in found if "n" in one) == [2, 3]
    assert [one["in"] for one in found if "in" in one] == [{"a": "y"}]
