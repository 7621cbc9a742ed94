"""What listeners of the database are told of. Names of topics are shared by all processes on one database."""

from __future__ import annotations

# A run became ready: workers claim.
READY = "runs"


def of_worker(worker_id: str) -> str:
    """An order or a signal for a run that this worker holds: its heartbeat brings it."""
    return f"worker:{worker_id}"


def of_run(run_id: str) -> str:
    """The run ended."""
    return f"run:{run_id}"


def of_output(run_id: str) -> str:
    """The run wrote output."""
    return f"output:{run_id}"
