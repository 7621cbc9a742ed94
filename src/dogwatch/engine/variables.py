"""The names that expressions and templates of a job may read, and where each of them is there."""

from __future__ import annotations

from collections.abc import Mapping

# Name → CEL type. Which of them are there depends on the place; the section's check says so.
VARIABLES: Mapping[str, str] = {
    "params": "map",
    "secrets": "map",
    "steps": "map",
    "run": "map",
    "trigger": "map",
    "env": "map",
    "item": "dyn",
    "index": "int",
    "result": "map",
}
# Before a run exists: keys, locks.
START_ROOTS = frozenset({"params", "trigger"})
# The job's own environment.
ENV_ROOTS = frozenset({"params", "secrets", "run", "trigger"})
STEP_ROOTS = frozenset({"params", "secrets", "steps", "run", "trigger", "env"})
MAP_ROOTS = STEP_ROOTS | {"item", "index"}
OUTPUT_ROOTS = STEP_ROOTS | {"result"}
# The parts that each of these always has.
STEP_PARTS = ("state", "outputs", "reason", "attempt")
TRIGGER_PARTS = ("kind", "name", "data")
RUN_PARTS = (
    "id",
    "job",
    "step",
    "attempt",
    "actor",
    "actor_kind",
    "key",
    "priority",
    "labels",
    "rerun_of",
    "parent",
    "created_s",
    "started_s",
    "deadline_s",
)
