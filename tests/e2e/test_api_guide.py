"""The client of the API's guide, run as it stands there against a real daemon."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.e2e.running import running, wait_until
from tests.e2e.test_changes import an_administrator

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "api.md"
CONFIG = """
probes:
  - {name: gone, tcp: "127.0.0.1:9", every: 1s, timeout: 500ms, failures: 1}
  - {name: here, exec: ["true"], every: 1h}
jobs:
  - {name: hello, steps: [{name: one, exec: "true"}]}
"""


def test_the_guides_client_works(tmp_path: Path) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    with running(tmp_path, CONFIG) as daemon:
        wait_until(lambda: daemon.target("gone")["status"] == "down", what="the failure")
        token = an_administrator(daemon)
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program],
            env={"DOGWATCH_SERVER": daemon.server, "DOGWATCH_TOKEN": token},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    down, started = done.stdout.splitlines()
    assert down == "gone refused"
    assert re.fullmatch(r"(queued|running|succeeded) hello", started)
