"""What following many files costs our log agent: latency and CPU at a moderate rate, CPU when nothing happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def _agent(folder: Path, files: int) -> Iterator[tuple[int, list[Path]]]:
    paths = [folder / f"{number:04d}.log" for number in range(files)]
    for path in paths:
        path.write_bytes(f"the beginning of {path.name}\n".encode())
    (folder / "c.yaml").write_text(
        f"logs:\n  sources: [{{name: a, file: {{paths: ['{folder}/*.log'], start: beginning}}}}]\n"
        f"  sinks: [{{name: o, file: {{path: '{folder}/out', rotate: 0B}}}}]\n"
    )
    arguments = [sys.executable, "-m", "dogwatch", "logs", "run", "-c", "c.yaml", "--folder", str(folder / "state")]
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen(arguments, cwd=folder, stdout=said, stderr=said)
    try:
        deadline_s = time.monotonic() + 30
        while not (folder / "out").exists() or (folder / "out").read_bytes().count(b"\n") < files:
            if time.monotonic() > deadline_s or process.poll() is not None:
                raise RuntimeError(f"the agent did not begin: {(folder / 'said').read_text()[-500:]}")
            time.sleep(0.05)
        time.sleep(2)
        yield process.pid, paths
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def idle(seconds: float) -> dict[str, float]:
    """Return the share of a core with 1,000 files in which nothing happens."""
    with tempfile.TemporaryDirectory() as name, _agent(Path(name), 1000) as (pid, _paths):
        before_s, begun_s = _cpu_s(pid), time.monotonic()
        time.sleep(seconds)
        return {"core": (_cpu_s(pid) - before_s) / (time.monotonic() - begun_s)}


def followed(seconds: float) -> dict[str, float]:
    """Return latency and CPU while each of 200 files gets a line every 10 ms; a line tells when it was written."""
    with tempfile.TemporaryDirectory() as name, _agent(Path(name), 200) as (pid, paths):
        late_ms: list[float] = []
        stop = threading.Event()
        reader = threading.Thread(target=_read, args=(Path(name) / "out", late_ms, stop))
        reader.start()
        before_s, begun_s = _cpu_s(pid), time.monotonic()
        fds = [os.open(path, os.O_WRONLY | os.O_APPEND) for path in paths]
        written = 0
        next_s = begun_s
        while next_s < begun_s + seconds:
            time.sleep(max(0.0, next_s - time.monotonic()))
            for fd in fds:
                os.write(
                    fd,
                    b"written %d ns, and as long as lines of a program that says what it does\n" % time.monotonic_ns(),
                )
            written += len(fds)
            next_s += 0.01
        core = (_cpu_s(pid) - before_s) / (time.monotonic() - begun_s)
        time.sleep(1.5)
        stop.set()
        reader.join()
        for fd in fds:
            os.close(fd)
    late_ms.sort()
    return {
        "p50_ms": late_ms[len(late_ms) // 2],
        "p99_ms": late_ms[int(len(late_ms) * 0.99)],
        "core": core,
        "lines_missing": written - len(late_ms),
    }


def _read(path: Path, late_ms: list[float], stop: threading.Event) -> None:
    with path.open("rb") as file:
        rest = b""
        while not stop.is_set():
            data = rest + file.read()
            now_ns = time.monotonic_ns()
            *lines, rest = data.split(b"\n")
            late_ms.extend((now_ns - int(line.split()[1])) / 1e6 for line in lines if line.startswith(b"written"))
            time.sleep(0.004)
