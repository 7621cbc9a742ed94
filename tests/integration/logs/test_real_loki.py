"""The `loki` sink against a real Loki: what it takes in part, what comes late, limits of its rate."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from tests.integration.logs.test_real_sinks import LINES, block, deliver, letters
from tests.log_peers import Peer, running, unique
from tests.log_peers_more import Loki

from dogwatch.errors import TransientError
from dogwatch.logs.sinks.loki import LokiSink

pytestmark = pytest.mark.allow_leak("fd:anon_inode:*", reason="the runtime of polars lasts as long as the process")


@pytest.fixture(scope="module")
def loki() -> Iterator[Peer]:
    with running(Loki) as peer:
        yield peer


def at(ago_s: float) -> str:
    return datetime.fromtimestamp(time.time() - ago_s, UTC).isoformat()


def numbers(loki: Loki, env: str) -> list[int]:
    return [json.loads(line)["n"] for _id, line, _time in loki.lines(f'{{env="{env}"}}', hours=24 * 14)]


async def test_lines_arrive_once_with_ids_and_times(loki: Loki, tmp_path: Path) -> None:
    env = unique("env")
    lines = [json.dumps({"timestamp": at(60), "n": number}) for number in range(3)]
    made = block(*lines, columns=True)
    await deliver(LokiSink(url=loki.url, labels={"env": env}), tmp_path, made, times=3)
    found = loki.lines(f'{{env="{env}"}}')
    assert [one[0] for one in found] == made.ids(), "what comes twice has the same time, and is dropped"
    assert [json.loads(one[1])["n"] for one in found] == [0, 1, 2]
    assert not (tmp_path / "dead").exists()


async def test_plain_lines(loki: Loki, tmp_path: Path) -> None:
    env = unique("env")
    odd = ("nul \0 nul", "colour \x1b[31m", "\ufffd bad", "")
    await deliver(LokiSink(url=loki.url, labels={"env": env}, compression="none"), tmp_path, block(*LINES, *odd))
    assert [one[1] for one in loki.lines(f'{{env="{env}"}}')] == [*LINES, *odd]


@pytest.mark.parametrize("late", ["now", "dead"])
async def test_times_that_are_not_taken(loki: Loki, tmp_path: Path, late: str) -> None:
    """One line of 2020 among a hundred must not make dead letters of them."""
    env = unique("env")
    times = [at(60) if number % 20 else "2020-01-01T00:00:00Z" for number in range(100)]
    times[50] = at(-5 * 3600)
    lines = [json.dumps({"timestamp": one, "n": number}) for number, one in enumerate(times)]
    sink = LokiSink(url=loki.url, labels={"env": env}, late=late)  # type: ignore[arg-type]
    await deliver(sink, tmp_path, block(*lines, columns=True))
    refused = {0, 20, 40, 50, 60, 80}
    found = numbers(loki, env)
    assert len(found) == len(set(found)), "what was taken at the first try came again under another time"
    assert set(found) == set(range(100)) - (refused if late == "dead" else set())
    if late == "dead":
        assert {one["record"]["n"] for one in letters(tmp_path)} == refused  # type: ignore[index]
    else:
        assert not (tmp_path / "dead").exists()


async def test_a_backlog_behind_newer_lines_of_its_stream(loki: Loki, tmp_path: Path) -> None:
    """After an outage the rest of a rotated file comes beside the new one, under the same name."""
    env = unique("env")
    sink = LokiSink(url=loki.url, labels={"env": env})
    new = [json.dumps({"timestamp": at(1), "n": number}) for number in range(10)]
    old = [json.dumps({"timestamp": at(3 * 3600 - number), "n": 100 + number}) for number in range(50)]
    await deliver(sink, tmp_path, block(*new, columns=True))
    await deliver(sink, tmp_path, block(*old, columns=True))
    assert sorted(numbers(loki, env)) == [*range(10), *range(100, 150)]
    assert not (tmp_path / "dead").exists()


async def test_what_one_stream_is_refused_is_heard_beside_another_that_is_taken(loki: Loki, tmp_path: Path) -> None:
    """Of several streams in one push its ingester tells of the last one alone, and forgets the lines of the others."""
    env = unique("env")
    sink = LokiSink(url=loki.url, labels={"env": env})
    new = [json.dumps({"timestamp": at(1), "n": number}) for number in range(10)]
    old = [json.dumps({"timestamp": at(3 * 3600 - number), "n": 100 + number}) for number in range(50)]
    await deliver(sink, tmp_path, block(*new, columns=True))
    other = [
        msgspec.structs.replace(block(f'{{"n": {200 + one}}}', columns=True), path=f"/l/{one}") for one in range(3)
    ]
    await deliver(sink, tmp_path, other[0], block(*old, columns=True), *other[1:])
    assert sorted(numbers(loki, env)) == [*range(10), *range(100, 150), *range(200, 203)]
    assert not (tmp_path / "dead").exists()


async def test_one_line_that_is_too_long_is_apart(loki: Loki, tmp_path: Path) -> None:
    env = unique("env")
    lines = [json.dumps({"n": number, "text": "x" * (300_000 if number == 7 else 10)}) for number in range(40)]
    await deliver(LokiSink(url=loki.url, labels={"env": env}), tmp_path, block(*lines, columns=True))
    found = numbers(loki, env)
    assert sorted(found) == [number for number in range(40) if number != 7]
    (letter,) = letters(tmp_path)
    assert letter["record"]["n"] == 7  # type: ignore[index]
    assert "max entry size" in str(letter["reason"])


async def test_what_is_refused_as_a_whole_does_not_ask_for_each_line(loki: Loki, tmp_path: Path) -> None:
    """More labels than Loki allows: each line is refused, whatever its time."""
    labels = {f"label{number}": "x" for number in range(30)}
    lines = [f"line {number}" for number in range(500)]
    began_s = time.monotonic()
    await deliver(LokiSink(url=loki.url, labels=labels), tmp_path, block(*lines))
    assert len(letters(tmp_path)) == 500
    assert time.monotonic() - began_s < 30


async def test_more_than_its_rate_is_tried_again(tmp_path: Path) -> None:
    with running(lambda: Loki("ingestion_rate_mb: 0.01\ningestion_burst_size_mb: 0.01")) as slow:
        sink = LokiSink(url=slow.url, compression="none")  # type: ignore[attr-defined]
        with pytest.raises(TransientError, match="429"):
            await deliver(sink, tmp_path, block(*(f"{number} {'x' * 500}" for number in range(200))))
    assert not (tmp_path / "dead").exists()
