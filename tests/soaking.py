"""What a soak has shown already, so that it can be ended at any time and goes on where it was.

One file for each state of the sources: what passed with other code says nothing of this one.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path

from tests.log_peers import CACHE

ROOT = Path(__file__).resolve().parents[1]


class Book:
    """Appends a line for each part that passed. about: the sources whose change makes all parts due again."""

    def __init__(self, name: str, about: Iterable[Path], folder: Path = CACHE / "soak") -> None:
        digest = hashlib.sha256()
        for path in sorted(about):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
        self.path = folder / f"{name}-{digest.hexdigest()[:16]}.ndjson"

    def passed(self) -> dict[str, dict[str, object]]:
        """Return part → what it found. A line that a kill tore is left out."""
        found = {}
        lines = self.path.read_bytes().split(b"\n")[:-1] if self.path.exists() else []
        for line in lines:
            one = json.loads(line)
            found[one["part"]] = one
        return found

    def note(self, part: str, **found: object) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"part": part, "at": time.strftime("%FT%TZ", time.gmtime()), **found}).encode() + b"\n"
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, line)
        finally:
            os.close(fd)


def log_sources() -> list[Path]:
    """Return what a soak of the log agent is about."""
    tests = ("integration/logs/test_delivery.py", "log_targets.py")
    return [*(ROOT / "src" / "dogwatch" / "logs").rglob("*.py"), *(ROOT / "tests" / one for one in tests)]
