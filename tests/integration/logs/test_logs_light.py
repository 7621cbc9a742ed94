"""An agent alone loads what it runs with, and nothing of the rest of the program."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CODE = """
import sys
from dogwatch.cli.logs import load_logs
spec, _folder = load_logs((sys.argv[1],))
heavy = ("dogwatch.probes", "dogwatch.rules", "polars")
print(len(spec.sources), *(name for name in heavy if name in sys.modules))
"""
LOGS = "logs:\n  sources: [{name: a, file: {paths: [/l/*.log]}}]\n  sinks: [{name: o, stdout: {}}]\n"


def loaded(folder: Path, text: str) -> str:
    (folder / "c.yaml").write_text(text)
    arguments = [sys.executable, "-c", CODE, str(folder / "c.yaml")]
    return subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.strip()


def test_an_agent_alone_is_light(tmp_path: Path) -> None:
    assert loaded(tmp_path, LOGS) == "1"


def test_beside_other_sections_it_is_the_same(tmp_path: Path) -> None:
    assert loaded(tmp_path, f"probes: [{{name: p, tcp: {{host: h, port: 1}}}}]\n{LOGS}").startswith("1 dogwatch.probes")
