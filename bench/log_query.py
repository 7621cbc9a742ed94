"""The log store: how fast it takes records in, and how long queries over ten million of them take on two cores.

Every query is a process of its own (`dogwatch logs query`), bound to two cores, start-up included; the median of five.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NAME = "log_query"
_BATCH = 50_000
_RECORD = (
    '{"id":"f:%d","source":"shop","file":"/l/a.log","timestamp":"2026-11-%02dT%02d:%02d:%02d.%03dZ","level":"%s",'
    '"service":"s%d","message":"%s for user%d","ms":%d}'
)
_WORDS = ("request", "handled", "cache", "missed", "payment", "accepted", "basket", "opened", "login", "page", "sent")


def _batch(number: int, rare: bool) -> bytes:
    begin = number * _BATCH
    lines = []
    for n in range(begin, begin + _BATCH):
        text = " ".join(_WORDS[(n * step) % len(_WORDS)] for step in (1, 3, 5, 7))
        if rare and n == begin + 777:
            text += " zanzibar"
        lines.append(
            _RECORD
            % (
                n, 1 + n // 3_600_000 % 28, n // 150_000 % 24, n // 2500 % 60, n // 42 % 60, n % 1000,
                ("info", "debug", "warn", "info", "error")[n % 5], n % 7, text, n % 50_021, n % 977,
            )
        )  # fmt: skip
    return ("#1795000000000000\n" + "\n".join(lines) + "\n").encode()


def _fill(folder: Path, batches: int) -> dict[str, float]:
    from dogwatch.logs.store import sealing
    from dogwatch.logs.store.keeping import Keep, Keeper, Steady
    from dogwatch.logs.store.layout import wal_path

    keeper = Keeper(folder, Keep(), Steady(time.time, time.monotonic))
    cpu_s = 0.0
    raw = 0
    for number in range(batches):
        if number % 20 == 0:
            print(f"   {number * _BATCH:,} records taken in", file=sys.stderr, flush=True)
        data = _batch(number, number == batches * 2 // 3)
        raw += len(data)
        wal_path(folder, number).write_bytes(data)
        before_s = time.process_time()
        keeper.work(number + 1)
        cpu_s += time.process_time() - before_s
    assert sealing is not None
    stored = sum(path.stat().st_size for path in folder.iterdir())
    return {"mb_per_cpu_s": raw / 1e6 / cpu_s, "bytes_ratio": stored / raw}


def _query_s(folder: Path, *arguments: str) -> tuple[float, int, float]:
    """Return the median of the seconds, how many records were found, and the peak of memory in MiB."""
    cores = sorted(os.sched_getaffinity(0))[-2:]
    command = [
        "taskset",
        "-c",
        ",".join(map(str, cores)),
        sys.executable,
        "-m",
        "dogwatch",
        "logs",
        "query",
        "--folder",
        str(folder),
        "--all",
        "--json",
        *arguments,
    ]
    print(f"   {' '.join(arguments)}", file=sys.stderr, flush=True)
    times, count, peak_mib = [], 0, 0.0
    for _ in range(5):
        begun_s = time.monotonic()
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            said = process.stdout.read()
            _pid, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        times.append(time.monotonic() - begun_s)
        assert process.returncode == 0
        peak_mib = max(peak_mib, usage.ru_maxrss / 1024)
        found = said.splitlines()
        count = json.loads(said).get("matched", 0) if "--group" in arguments else len(found)
    return statistics.median(times), count, peak_mib


def run(quick: bool) -> dict[str, object]:
    """Return seconds of each query, and the rate of taking in."""
    batches = 10 if quick else 200
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # In a process of its own: what this one takes would count as memory of the queries that it starts.
        filling = [sys.executable, "-m", "bench.log_query", str(folder), str(batches)]
        taken = json.loads(subprocess.run(filling, stdout=subprocess.PIPE, check=True).stdout)
        rare_s, rare, rare_mib = _query_s(folder, "--text", "zanzibar")
        assert rare == 1
        within_s, within, within_mib = _query_s(folder, 'message.contains("zanzib")')
        assert within == 1
        field_s, field, field_mib = _query_s(folder, 'level == "error" && service == "s3"')
        group_s, grouped, group_mib = _query_s(folder, 'level == "error"', "--group", "service")
        rows = [
            {"what": "taking in", **taken},
            {"what": "rare word", "s": rare_s, "found": rare},
            {"what": "part of a word, every message read", "s": within_s, "found": within},
            {"what": "newest 100 of two fields", "s": field_s, "found": field},
            {"what": "count of errors by service", "s": group_s, "found": grouped},
        ]
    rows.append({"what": "peak memory of the largest query", "mib": max(rare_mib, within_mib, field_mib, group_mib)})
    records = batches * _BATCH
    target = {"what": f"rare word in {records:,} records, s", "measured": rare_s, "target": "<= 2", "met": rare_s <= 2}
    return {"rows": rows, "targets": [target], "records": records}


if __name__ == "__main__":
    print(json.dumps(_fill(Path(sys.argv[1]), int(sys.argv[2]))))
