"""Runs a program that prints an inventory, bounded in time and output; it leaves no children behind."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from dogwatch.core.units import format_duration
from dogwatch.fleet.inventory.draft import Draft, Place

ANSWER_BYTES = 64 * 2**20
_ERROR_BYTES = 4096


def run_program(
    args: Sequence[str], draft: Draft, *, cwd: Path, timeout_s: float, env: Mapping[str, str]
) -> str | None:
    """Return what the program printed; None and a problem in the draft where it failed."""
    place = Place(args[0] if args else "command")
    if not args:
        draft.problem(place, "names no program")
        return None
    try:
        # In a session of its own, so that what it started can be ended with it.
        process = subprocess.Popen(  # noqa: S603 the configuration names it
            list(args),
            cwd=cwd,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        draft.problem(place, f"cannot be run: {reason.lower()}")
        return None
    try:
        out, err, fault = _collect(process, timeout_s)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
    if fault:
        draft.problem(place, fault)
        return None
    if process.returncode:
        lines = [line for line in err.decode(errors="replace").splitlines() if line.strip()]
        why = f": {lines[-1].strip()[:300]}" if lines else ""
        draft.problem(place, f"ended with exit code {process.returncode}{why}")
        return None
    return out.decode(errors="replace")


def _collect(process: subprocess.Popen[bytes], timeout_s: float) -> tuple[bytes, bytes, str]:
    """Read both streams to their end, then wait for the program. The third value says what went wrong."""
    end_s = time.monotonic() + timeout_s
    kept = {"out": bytearray(), "err": bytearray()}
    with selectors.DefaultSelector() as selector:
        for name, stream in (("out", process.stdout), ("err", process.stderr)):
            assert stream is not None
            selector.register(stream.fileno(), selectors.EVENT_READ, name)
        late = f"took longer than {format_duration(timeout_s)}"
        while selector.get_map():
            rest_s = end_s - time.monotonic()
            if rest_s <= 0:
                return b"", b"", late
            for key, _events in selector.select(rest_s):
                data = os.read(key.fd, 65536)
                if not data:
                    selector.unregister(key.fd)
                    continue
                kept[key.data] += data
                if key.data == "err":
                    del kept["err"][:-_ERROR_BYTES]
                elif len(kept["out"]) > ANSWER_BYTES:
                    return b"", b"", f"printed more than {ANSWER_BYTES // 2**20} MiB"
    try:
        process.wait(max(0.0, end_s - time.monotonic()))
    except subprocess.TimeoutExpired:
        return b"", b"", late
    return bytes(kept["out"]), bytes(kept["err"]), ""
