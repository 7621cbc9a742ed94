"""Conditions: our closures against cel-expr-python, same expressions and values, alternately in one run."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

from dogwatch.expressions.cel_reference import compile_reference
from dogwatch.expressions.conditions import compile_condition

NAME = "conditions"
VARIABLES = {
    "status": "int",
    "body": "string",
    "page": "string",
    "json": "dyn",
    "duration_s": "double",
    "headers": "map",
}
VALUES = {
    "status": 200,
    "body": "<html><body>all is ok</body></html>",
    "page": "x" * 2000 + " all is ok",
    "json": {"status": "healthy", "checks": [{"name": "db", "ok": True}, {"name": "queue", "ok": True}]},
    "duration_s": 0.031,
    "headers": {"content-type": "application/json"},
}
EXPRESSIONS = (
    'status == 200 && body.contains("ok")',
    'status == 200 && page.contains("ok")',
    "status in [200, 204] && duration_s < 0.5",
    'json.status == "healthy" && json.checks[0].ok',
    'headers["content-type"].startsWith("application/") || has(json.version)',
    'body.matches("all is [a-z]k")',
    "json.checks.all(c, c.ok)",
)
TARGET_US = 1.0


def _time_us(function: Callable[[], Any], times: int) -> float:
    started_s = time.thread_time()
    for _ in range(times):
        function()
    return (time.thread_time() - started_s) / times * 1e6


def run(quick: bool) -> dict[str, Any]:
    times, rounds = (2_000, 3) if quick else (20_000, 7)
    rows = []
    for text in EXPRESSIONS:
        condition = compile_condition(text, VARIABLES)
        program, _kind = compile_reference(text, VARIABLES)
        pairs = [
            (_time_us(lambda: condition.test(VALUES), times), _time_us(lambda: program(VALUES), times))  # noqa: B023
            for _ in range(rounds)
        ]
        ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
        rows.append(
            {
                "expression": text,
                "compiled": condition.compiled,
                "ours_us": ours,
                "cel_expr_python_us": theirs,
                "ratio": ours / theirs,
            }
        )
    first = float(str(rows[0]["ours_us"]))
    target = {"what": f"{EXPRESSIONS[0]}, µs", "target": TARGET_US, "measured": first, "met": first < TARGET_US}
    return {"name": NAME, "rows": rows, "targets": [target]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.conditions", description=__doc__)
    parser.add_argument("--quick", action="store_true")
    print(json.dumps(run(parser.parse_args().quick), indent=2))
