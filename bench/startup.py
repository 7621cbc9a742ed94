"""Start-up of the command line against bare `python -c pass`, whole processes in alternation."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

NAME = "startup"


def _one(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - started) * 1000


def run(quick: bool) -> dict[str, object]:
    """Return medians in milliseconds and ratios to bare Python of the neighbouring run."""
    python, dogwatch = sys.executable, str(Path(sys.executable).parent / "dogwatch")
    commands = {"--version": [dogwatch, "--version"], "--help": [dogwatch, "--help"]}
    bare: list[float] = []
    times: dict[str, list[float]] = {name: [] for name in commands}
    ratios: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(5 if quick else 25):
        bare.append(_one([python, "-c", "pass"]))
        for name, command in commands.items():
            times[name].append(_one(command))
            ratios[name].append(times[name][-1] / bare[-1])
    rows = [{"what": "python -c pass", "median_ms": round(statistics.median(bare), 1)}]
    rows += [
        {
            "what": f"dogwatch {name}",
            "median_ms": round(statistics.median(times[name]), 1),
            "ratio": round(statistics.median(ratios[name]), 2),
        }
        for name in commands
    ]
    limits = {"--version": 2.0, "--help": 8.0}
    targets = [
        {
            "what": f"dogwatch {name} against python -c pass",
            "target": f"<= {limit} x",
            "measured": f"{statistics.median(ratios[name]):.2f} x",
            "met": statistics.median(ratios[name]) <= limit,
        }
        for name, limit in limits.items()
    ]
    return {"name": NAME, "rows": rows, "targets": targets}


if __name__ == "__main__":
    print(run(quick=True))
