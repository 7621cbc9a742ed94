"""The journal of a real systemd-journald: kills of ours and of its, rotation, and entries that it deletes."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.integration.journald_fixture import Journald, journald

__all__ = ["journald"]
CONFIG = """
logs:
  checkpoint: 200ms
  sources:
    - name: system
      journald: {{directory: {journal}, start: {start}, matches: [SYSLOG_IDENTIFIER=shop]}}
  routes:
    - do: [json]
  sinks:
    - name: out
      file: {{path: {folder}/out.ndjson, format: json}}
"""


class Ours:
    """`dogwatch logs run` on a journal."""

    def __init__(self, folder: Path, journal: Path, start: str = "beginning") -> None:
        self.folder, self.config, self.said = folder, folder / "c.yaml", folder / "said"
        self.config.write_text(CONFIG.format(folder=folder, journal=journal, start=start))

    @contextmanager
    def run(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run it; killed at the end, unless it has ended."""
        words = [sys.executable, "-m", "dogwatch", "logs", "run", "-c", str(self.config)]
        with self.said.open("ab") as said:
            process = subprocess.Popen([*words, "--folder", str(self.folder / "state")], stderr=said)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def records(self) -> list[dict[str, str]]:
        path = self.folder / "out.ndjson"
        whole = path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""
        return [json.loads(line) for line in whole.split(b"\n") if line]

    def numbers(self) -> list[int]:
        return [int(one["message"][5:]) for one in self.records() if one["message"].startswith("line ")]

    def until(self, done: Callable[[], bool], what: str, limit_s: float = 60.0) -> None:
        until_s = time.monotonic() + limit_s
        while not done():
            assert time.monotonic() < until_s, (what, len(self.records()), self.said.read_text()[-1000:])
            time.sleep(0.05)

    def saved(self, number: int) -> bool:
        """Whether the checkpoint has what is in the sink, up to a line."""
        path = self.folder / "state" / "checkpoint"
        return number in self.numbers() and path.exists()


def lines(first: int, last: int) -> list[str]:
    return [f"line {number}" for number in range(first, last)]


def test_nothing_is_lost_to_kills_and_rotations(journald: Journald, tmp_path: Path) -> None:
    ours, stop = Ours(tmp_path, journald.journal), threading.Event()
    written = 0

    def write() -> None:
        nonlocal written
        while not stop.wait(0.01):
            journald.write(*lines(written, written + 10))
            written += 10

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for round_ in range(6):
            before = len(ours.records())
            with ours.run():
                ours.until(lambda before=before: len(ours.records()) > before + 50, f"lines of round {round_}")
                journald.rotate()
                after = len(ours.records())
                ours.until(lambda after=after: len(ours.records()) > after + 20, f"lines after rotation {round_}")
    finally:
        stop.set()
        writer.join()
    with ours.run():
        ours.until(lambda: len(set(ours.numbers())) >= written, "all lines")
    assert len(journald.files()) > 6
    # The file sink has each once; the journal has them in their order.
    assert ours.numbers() == list(range(written))
    assert "Traceback" not in ours.said.read_text()


def test_an_entry_that_the_journal_deleted_takes_no_other_with_it(journald: Journald, tmp_path: Path) -> None:
    """Reading goes on behind the last entry that was read. Where that is gone, the next one is not to be left out."""
    ours = Ours(tmp_path, journald.journal)
    journald.write(*lines(0, 100))
    with ours.run() as process:
        ours.until(lambda: len(ours.numbers()) >= 100, "the first lines")
        process.terminate()
        assert process.wait(60) == 0
    assert "is gone" not in ours.said.read_text()
    journald.sync()
    journald.rotate()
    journald.write(*lines(100, 150))
    journald.sync()
    journald.vacuum()
    assert not [one for one in journald.files() if "@" in one.name]
    with ours.run() as process:
        ours.until(lambda: 149 in ours.numbers(), "the lines after it")
        journald.write(*lines(150, 160))
        ours.until(lambda: 159 in ours.numbers(), "lines that come")
        process.terminate()
        assert process.wait(60) == 0
    assert ours.numbers() == list(range(160))
    assert "the entry that was read last is gone" in ours.said.read_text()


def test_the_last_entry_comes_once_and_journald_itself_may_be_killed(journald: Journald, tmp_path: Path) -> None:
    ours = Ours(tmp_path, journald.journal)
    for first in (0, 20, 40):
        journald.write(*lines(first, first + 20))
        journald.sync()
        with ours.run() as process:
            ours.until(lambda first=first: first + 19 in ours.numbers(), "lines")
            # It begins a new journal, whose entries count from one again.
            journald.stop()
            journald.start()
            process.terminate()
            assert process.wait(60) == 0
    with ours.run():
        journald.write(*lines(60, 70))
        ours.until(lambda: 69 in ours.numbers(), "the last lines")
    assert ours.numbers() == list(range(70))
    found = [one["id"] for one in ours.records()]
    assert len(set(found)) == len(found)
    assert "is gone" not in ours.said.read_text()


def test_the_end_is_the_beginning_where_one_asks_for_it(journald: Journald, tmp_path: Path) -> None:
    journald.write(*lines(0, 10))
    journald.sync()
    ours = Ours(tmp_path, journald.journal, start="end")
    checkpoint = tmp_path / "state" / "checkpoint"
    with ours.run():
        ours.until(lambda: checkpoint.exists() and b'"s=' in checkpoint.read_bytes(), "a first position")
        journald.write(*lines(10, 20))
        ours.until(lambda: 19 in ours.numbers(), "lines")
    assert ours.numbers() == list(range(10, 20))


def test_why_the_journal_cannot_be_read_is_said(journald: Journald, tmp_path: Path) -> None:
    ours = Ours(tmp_path, journald.journal / "nowhere")
    with ours.run() as process:
        ours.until(lambda: b"nowhere" in ours.said.read_bytes(), "a reason")
        process.terminate()
        assert process.wait(60) == 1
    assert "no such file or directory" in ours.said.read_text().lower()
