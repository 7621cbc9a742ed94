"""Runs the benchmarks and writes bench/results/NAME.json: figures, ratios, targets, the machine and its load."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import platform
import sys
import time
from pathlib import Path

import bench

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, object]:
    """Describe where this ran."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_1m_5m_15m": os.getloadavg(),
    }


def short(value: object) -> str:
    """Return four significant digits of a float, anything else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def names() -> list[str]:
    """Return the modules of this package that have a `run`."""
    found = [info.name for info in pkgutil.iter_modules(bench.__path__) if not info.name.startswith("_")]
    return [name for name in found if hasattr(importlib.import_module(f"bench.{name}"), "run")]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", help="which ones (default: all)")
    parser.add_argument("--quick", action="store_true", help="short runs; results are printed, not written")
    options = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    missed = 0
    for name in options.names or names():
        module = importlib.import_module(f"bench.{name}")
        print(f"── {name}", flush=True)
        before, started = machine(), time.time()
        result = module.run(quick=options.quick)
        result = {
            **result,
            "machine": before,
            "load_after": os.getloadavg(),
            "seconds": round(time.time() - started, 1),
        }
        for row in result.get("rows", []):
            print("  ", "  ".join(f"{key}={short(value)}" for key, value in row.items()))
        for target in result.get("targets", []):
            missed += not target["met"]
            word = "met   " if target["met"] else "MISSED"
            print(f"   {word} {target['what']}: {short(target['measured'])} (target {target['target']})")
        if not options.quick:
            (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1, default=str) + "\n")
    print(f"{missed} target(s) missed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
