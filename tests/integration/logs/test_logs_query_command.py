"""`dogwatch logs query` as one types it: records, counts, traces, mistakes, and what comes while one watches."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dogwatch.engine.tracing import trace_of
from dogwatch.logs.store import sealing
from dogwatch.logs.store.layout import wal_path
from dogwatch.logs.store.wal import header

pytestmark = pytest.mark.allow_leak("*:*", reason="the libraries of the store last as long as the process")
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
RUN = "run-7"


def lines(records: list[dict[str, Any]], source: str, begin: int = 0) -> bytes:
    found = [{"id": f"{source}:{begin + at}", "source": source, "file": "/f", **one} for at, one in enumerate(records)]
    return msgspec.json.Encoder().encode_lines(found)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hundred records of two sources, half of them in segments, half still new."""
    folder = tmp_path_factory.mktemp("store")
    now_us = int(time.time() * 1e6)
    for number in range(2):
        shop = [
            {
                "timestamp": _moment(int(now_us - (3 - 2.5 * number) * 3_600_000_000 + at * 1_000_000)),
                "level": "error" if at % 10 == 0 else "info",
                "message": f"order {at} of part {number}" + (" refused by ☃" if at == 7 else ""),
                "status": 500 if at % 10 == 0 else 200,
                **({"trace_id": TRACE} if at == 3 else {}),
                **({"trace_id": trace_of(RUN)} if at == 4 else {}),
            }
            for at in range(80)
        ]
        web = [{"message": f"GET /{at}", **({"trace_id": TRACE} if at == 5 else {})} for at in range(20)]
        data = lines(shop, "shop", 100 * number) + lines(web, "web", 100 * number)
        wal_path(folder, number).write_bytes(header(now_us) + data)
        if number == 0:
            sealing.seal(folder, 0)
    assert len(list(folder.glob("seg-*.parquet"))) == 2
    return folder


def _moment(at_us: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at_us // 1_000_000)) + "Z"


def query(store: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dogwatch", "logs", "query", "--folder", str(store), *words]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, "COLUMNS": "80", **more}
    )


def found(store: Path, *words: str) -> list[dict[str, Any]]:
    done = query(store, *words, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_condition_over_what_is_sealed_and_what_is_new(store: Path) -> None:
    records = found(store, 'level == "error" && status >= 500', "--since", "4h")
    assert len(records) == 16
    assert {one["level"] for one in records} == {"error"}
    assert [one["@time"] for one in records] == sorted(one["@time"] for one in records)


def test_times_bound_the_answer(store: Path) -> None:
    """Half of the shop's records are three hours old, half of them half an hour."""
    shop = ("--source", "shop", "--limit", "1000")
    assert {one["id"] for one in found(store, *shop, "--since", "2h")} == {f"shop:{100 + at}" for at in range(80)}
    moment = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() - 2 * 3600))
    before = found(store, *shop, "--since", "4h", "--until", moment)
    assert {one["id"] for one in before} == {f"shop:{at}" for at in range(80)}


def test_words_in_any_field_and_any_case(store: Path) -> None:
    assert [one["message"] for one in found(store, "--text", "REFUSED order", "--since", "1d")] == [
        "order 7 of part 0 refused by ☃",
        "order 7 of part 1 refused by ☃",
    ]


def test_the_newest_are_shown_and_sources_chosen(store: Path) -> None:
    records = found(store, "--source", "web", "--limit", "3")
    assert [one["source"] for one in records] == ["web"] * 3
    assert len(found(store, "--all", "--limit", "10000")) == 200


def test_a_trace_over_all_sources_and_that_of_a_run(store: Path) -> None:
    records = found(store, "--trace", TRACE)
    assert {(one["source"], one["trace_id"]) for one in records} == {("shop", TRACE), ("web", TRACE)}
    assert len(records) == 4
    # As some write it.
    dashed = f"{TRACE[:8]}-{TRACE[8:12]}-{TRACE[12:16]}-{TRACE[16:20]}-{TRACE[20:]}"
    assert len(found(store, "--trace", dashed)) == 4
    assert [one["trace_id"] for one in found(store, "--run", RUN)] == [trace_of(RUN)] * 2


def test_groups_and_histogram(store: Path) -> None:
    done = query(store, "--all", "--group", "level", "--group", "source", "--json")
    counts = {tuple(one["values"].values()): one["count"] for one in json.loads(done.stdout)["groups"]}
    assert counts == {("error", "shop"): 16, ("info", "shop"): 144, (None, "web"): 40}
    done = query(store, 'source == "shop"', "--since", "4h", "--histogram", "10m", "--json")
    buckets = json.loads(done.stdout)["buckets"]
    assert sum(one["count"] for one in buckets) == 160
    assert all(one["time_us"] % 600_000_000 == 0 for one in buckets)


def test_what_people_see_fits_their_screen(store: Path) -> None:
    done = query(store, "--source", "shop", "--limit", "2", NO_COLOR="1")
    assert done.returncode == 0
    assert "order 79 of part 1" in done.stdout
    assert "2 records in" in done.stderr
    shown = query(store, "--histogram", "--since", "4h")
    assert "█" in shown.stdout
    assert all(len(line) <= 80 for line in shown.stdout.splitlines())
    table = query(store, "--all", "--group", "level")
    assert "level" in table.stdout.splitlines()[0]
    assert "–" in table.stdout, "those without the field are counted, too"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["level = 'error'"], 2, "^"),
        (["--follow", "--group", "level"], 2, "--follow shows records"),
        (["--since", "yesterday"], 2, "neither a duration"),
        (["--histogram", "often"], 2, "--histogram"),
        (["--memory", "plenty"], 2, "plenty"),
        (["--text", "!!"], 2, "no word"),
        (["--limit", "99999"], 2, "--limit"),
        (["--folder", "/nonexistent/store"], 10, "no log store"),
        (["--folder", "/proc/self/fdinfo"], 0, "nothing is kept there yet"),
        (["--since", "2h", "--until", "3h"], 2, "--until is not after --since"),
        (['stauts == 500 && level == "error"'], 0, "no record has a field 'stauts'; did you mean 'status'?"),
        (["--group", "nonesuch"], 0, "no record has a field 'nonesuch'"),
        (["--time", "1ms", "message.matches('(a|b|c)*d')", "--all"], 1, "longer than"),
    ],
)
def test_mistakes_are_said(store: Path, words: list[str], code: int, said: str) -> None:
    done = query(store, *words)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr


def test_what_comes_is_followed_once_until_ctrl_c(store: Path, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    current = wal_path(folder, 5)
    now = header(int(time.time() * 1e6))
    current.write_bytes(now + lines([{"message": "before", "level": "error"}], "shop"))
    command = [sys.executable, "-u", "-m", "dogwatch", "logs", "query", "--folder", str(folder)]
    following = subprocess.Popen(
        [*command, 'level == "error"', "--follow", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert following.stdout is not None
        seen = [json.loads(following.stdout.readline())["message"]]
        records = [{"message": f"new {at}", "level": "error" if at % 2 else "info"} for at in range(6)]
        data = lines(records, "shop", 10)
        with current.open("ab") as file:
            # A line that is there by half is not shown by half.
            file.write(data[:-20])
            file.flush()
            seen += [json.loads(following.stdout.readline())["message"] for _ in range(2)]
            file.write(data[-20:])
            file.flush()
        seen.append(json.loads(following.stdout.readline())["message"])
        # The agent goes on in its next file.
        wal_path(folder, 6).write_bytes(now + lines([{"message": "next", "level": "error"}], "shop", 30))
        seen.append(json.loads(following.stdout.readline())["message"])
    finally:
        following.send_signal(signal.SIGINT)
        rest, said = following.communicate(timeout=60)
    assert seen == ["before", "new 1", "new 3", "new 5", "next"]
    assert (following.returncode, rest, said.strip()) == (130, "", "")
