"""Files that are followed are open: the daemon takes what it may have, says where that is little, and stays within."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.e2e.faulty import descriptors, metrics
from tests.e2e.running import Daemon, wait_until

FILES = 700
CONFIG = """
logs:
  checkpoint: 100ms
  sources:
    - name: many
      file: {{paths: ["{folder}/in/*.log"], start: beginning, search: 100ms}}
  sinks:
    - name: out
      file: {{path: {folder}/out.log}}
"""


class LimitedDaemon(Daemon):
    """A daemon that begins with these limits, `soft:hard`."""

    limits = ""

    def up_command(self) -> list[str]:
        return ["prlimit", f"--nofile={self.limits}", *super().up_command()]


@pytest.mark.parametrize("limits", ["256:8192", "256:400"])
def test_many_files(tmp_path: Path, limits: str) -> None:
    (tmp_path / "in").mkdir()
    for number in range(FILES):
        (tmp_path / "in" / f"{number}.log").write_text(f"line {number}\n")
    daemon = LimitedDaemon(tmp_path, CONFIG.format(folder=tmp_path))
    daemon.limits = limits
    hard = int(limits.partition(":")[2])
    try:
        daemon.start()
        said = Path(f"/proc/{daemon.pid}/limits").read_text()
        assert re.search(rf"Max open files\s+{hard}\s+{hard}", said)
        assert (f"only {hard} files may be open at once" in daemon.output()) == (hard < 4096)
        out = tmp_path / "out.log"

        def lines() -> int:
            return len(out.read_text().splitlines()) if out.exists() else 0

        if hard > FILES:
            wait_until(lambda: lines() == FILES, within_s=60, what="a line of each file")
            assert descriptors(daemon.pid) > FILES
            return
        wait_until(lambda: "more files than may be open at once" in daemon.output(), within_s=60, what="a word")
        wait_until(lambda: lines() > 20, within_s=60, what="lines of those that are open")
        # The rest of it has what it needs: pages, the API, the checkpoint, the store.
        for _ in range(5):
            assert daemon.request("GET", "/")[0] == 200
        assert len(list(Path(f"/proc/{daemon.pid}/fd").iterdir())) < hard
        assert metrics(daemon)['dogwatch_logs_source_events_total{source="many",event="too_many"}'] > 0
        assert not re.search(r"Errno 24|too many open files|Traceback", daemon.output(), re.IGNORECASE)
        assert daemon.stop() == 143
    finally:
        daemon.close()
