"""What our log agent with a store takes of memory, together with the processes that it starts."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_LINE = (
    b'{"timestamp":"2026-11-21T%02d:%02d:%02d.%03dZ","level":"%s","service":"s%d",'
    b'"message":"request %d handled for user%d","path":"/cart/%d","ms":%d}\n'
)


def _lines(count: int) -> bytes:
    levels = (b"info", b"debug", b"warn", b"info", b"error")
    return b"".join(
        _LINE
        % (
            n // 3_600_000 % 24, n // 60_000 % 60, n // 1000 % 60, n % 1000,
            levels[n % 5], n % 7, n, n % 50_021, n % 977, n % 1009,
        )
        for n in range(count)
    )  # fmt: skip


def _family(pid: int) -> list[int]:
    """Return a process and all that came of it."""
    found = [pid]
    with contextlib.suppress(OSError):
        for path in Path(f"/proc/{pid}/task").iterdir():
            for child in (path / "children").read_text().split():
                found += _family(int(child))
    return found


def _mib(pid: int, file: str, name: str) -> float:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1]) / 1024
    return 0.0


def stored(count: int) -> dict[str, float]:
    """Return the peaks while so many records are parsed, stored, sealed and merged, and how fast that was.

    together_mib: of all processes, pages that several have counted once.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in.log").write_bytes(_lines(count))
        (folder / "c.yaml").write_text(
            f"logs:\n  sources: [{{name: a, file: {{paths: ['{folder}/in.log'], start: beginning}}}}]\n"
            f"  routes: [{{do: [json]}}]\n  sinks: [{{name: o, store: {{path: '{folder}/store', wait: 1s}}}}]\n"
        )
        command = [sys.executable, "-m", "dogwatch", "logs", "run", "-c", "c.yaml", "--folder", str(folder / "state")]
        begun_s = time.monotonic()
        with (folder / "said").open("wb") as said:
            process = subprocess.Popen(command, cwd=folder, stdout=said, stderr=said)
        together_mib = 0.0
        try:
            while not _sealed(folder / "store"):
                together_mib = max(together_mib, sum(_mib(one, "smaps_rollup", "Pss") for one in _family(process.pid)))
                if time.monotonic() - begun_s > 120 or process.poll() is not None:
                    raise RuntimeError(f"the store was not filled: {(folder / 'said').read_text()[-500:]}")
                time.sleep(0.03)
            took_s = time.monotonic() - begun_s
            agent_mib = _mib(process.pid, "status", "VmHWM")
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)
    return {"agent_mib": agent_mib, "together_mib": together_mib, "records_per_s": count / took_s}


def _sealed(folder: Path) -> bool:
    """Return whether nothing but the file that is written to is left to seal, and nobody is at it."""
    if not any(folder.glob("seg-*.parquet")) or len(list(folder.glob("wal-*.ndjson"))) > 1:
        return False
    return not any(folder.glob("*.new"))
