"""Trace ids of runs, in the form of W3C Trace Context and OpenTelemetry."""

from __future__ import annotations

import hashlib


def trace_of(run_id: str) -> str:
    """Return the trace id of a run, 32 hex digits: the same wherever it is asked for, so that it is kept nowhere."""
    return hashlib.blake2b(run_id.encode(), digest_size=16, person=b"dogwatch-trace").hexdigest()


def span_of(run_id: str, step: str = "", attempt: int = 0) -> str:
    """Return the span id of a run, or of an attempt at one of its steps; 16 hex digits."""
    text = f"{run_id}\0{step}\0{attempt}"
    return hashlib.blake2b(text.encode(), digest_size=8, person=b"dogwatch-span").hexdigest()


def traceparent(run_id: str, step: str = "", attempt: int = 0) -> str:
    """Return the header (and environment variable) that hands the trace on."""
    return f"00-{trace_of(run_id)}-{span_of(run_id, step, attempt)}-01"
