"""A /proc that hides other users' processes (hidepid=2) and whose files we may not read: reported, never a crash."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

_PROGRAM = """
import asyncio, json
from dogwatch.core.clock import SystemClock
from dogwatch.core.metrics import render
from dogwatch.hosts.machine import Machine
from dogwatch.hosts.runner import Entry, Runner
from dogwatch.hosts.section import HostSpec

async def main():
    machine = Machine()
    chosen = HostSpec().enabled()
    entries = {kind: Entry(c, c.open(machine), every_s=15.0) for kind, c in chosen.items()}
    runner = Runner(SystemClock(), lambda _at, _entries: None)
    runner.replace(entries)
    runner.run_due()
    for entry in entries.values():
        while entry.task is not None:
            await asyncio.wait([entry.task])
    text = render(runner.families())
    glance = runner.glance()
    views = {view.name: (view.ok, view.message) for view in runner.views()}
    print(json.dumps({"views": views, "count": glance.process_count, "lines": text.count("node_")}))

asyncio.run(main())
"""


def test_hidden_processes_and_forbidden_files_are_reported() -> None:
    if os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("setpriv"):
        pytest.skip("needs root, unshare and setpriv")
    script = (
        # Another file over it: a change of its mode would be the whole machine's.
        "mount -t proc -o hidepid=2 proc /proc && f=$(mktemp) && chmod 0 $f && mount --bind $f /proc/loadavg && rm $f; "
        'exec setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all "$@"'
    )
    done = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "sh", "-c", script, "sh", sys.executable, "-c", _PROGRAM],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "Permission denied" in done.stderr and "dogwatch" not in done.stderr:
        pytest.skip(f"another user may not run this Python here: {done.stderr.strip()[-200:]}")
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    views = seen["views"]
    assert seen["count"] >= 1
    assert views["processes"][0]
    assert views["cpu"] == [True, ""]
    assert views["memory"] == [True, ""]
    assert views["load"][1] == "cannot read /proc/loadavg: Permission denied"
    assert not views["load"][0]
    assert seen["lines"] > 300
