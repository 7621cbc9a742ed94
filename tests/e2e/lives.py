"""Lives of processes that carry runs out, begun and ended by a test, and what their effects say afterwards."""

from __future__ import annotations

import itertools
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

PROGRAM = Path(__file__).with_name("runs_life.py")
ROOT = PROGRAM.parents[2]
PATIENCE_S = 60.0


class Line(msgspec.Struct, array_like=True, frozen=True):
    """What an effect wrote. what: begin, end, cut (it was cancelled)."""

    job: str
    run: str
    step: str
    attempt: int
    what: str
    pid: int
    at_s: float


class Lives:
    """The process that forks lives. deaths: process id → when it ended."""

    def __init__(self, folder: Path) -> None:
        self.effects = folder / "effects"
        self.effects.touch()
        self.log = folder / "lives.log"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(PROGRAM)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        self._rest = b""
        self.deaths: dict[int, float] = {}
        self.codes: dict[int, int] = {}
        self._began: list[int] = []
        self._until(lambda said: "ready" in said)

    def _until(self, true: Any) -> dict[str, Any]:
        """Read what is said until something that was wanted."""
        assert self._process.stdout is not None
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            *lines, self._rest = self._rest.split(b"\n")
            for number, line in enumerate(lines):
                said: dict[str, Any] = json.loads(line)
                if "ended" in said:
                    self.deaths[said["ended"]], self.codes[said["ended"]] = said["at_s"], said["code"]
                if true(said):
                    self._rest = b"\n".join([*lines[number + 1 :], self._rest])
                    return said
            readable, _, _ = select.select([self._process.stdout], [], [], 1.0)
            if readable:
                data = os.read(self._process.stdout.fileno(), 65536)
                assert data, f"the lives' parent is gone:\n{self.log.read_text()[-4000:]}"
                self._rest += data
        raise AssertionError(f"nothing happened:\n{self.log.read_text()[-6000:]}")

    def begin(self, **life: Any) -> int:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"effects": str(self.effects), **life}).encode() + b"\n")
        self._process.stdin.flush()
        pid = int(self._until(lambda said: "began" in said)["began"])
        self._began.append(pid)
        return pid

    def ended(self, pid: int) -> int:
        """Wait for the end of a life; return its exit code, -9 for a killed one."""
        if pid not in self.codes:
            self._until(lambda said: said.get("ended") == pid)
        return self.codes[pid]

    def any_ended(self, *pids: int) -> int:
        for pid in pids:
            if pid in self.codes:
                return pid
        return int(self._until(lambda said: said.get("ended") in pids)["ended"])

    def lines(self) -> list[Line]:
        # A line that crosses a page is seen half by who reads meanwhile.
        whole, _, _ = self.effects.read_bytes().rpartition(b"\n")
        return [msgspec.json.decode(line, type=Line) for line in whole.splitlines()]

    def saw(self, job: str, step: str, what: str = "begin", *, times: int = 1) -> Line:
        """Wait until a step wrote something."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            found = [line for line in self.lines() if (line.job, line.step, line.what) == (job, step, what)]
            if len(found) >= times:
                return found[times - 1]
            time.sleep(0.005)
        raise AssertionError(f"{job} {step} {what} did not happen:\n{self.log.read_text()[-6000:]}")

    def kill(self, pid: int) -> int:
        """Kill a life, if it did not end by itself; return its exit code."""
        if pid not in self.codes:
            with suppress(ProcessLookupError):  # it ended, and that was not yet heard of
                os.kill(pid, signal.SIGKILL)
        return self.ended(pid)

    def close_lives(self) -> None:
        """End those that still live."""
        for pid in self._began:
            self.kill(pid)

    def close(self) -> None:
        self.close_lives()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


@contextmanager
def lives(folder: Path) -> Iterator[Lives]:
    running = Lives(folder)
    try:
        yield running
    finally:
        running.close()


def random_job(chance: random.Random) -> dict[str, Any]:
    """Return a job of up to six steps, as runs_life reads it: parallel, after each other, waiting, failing at first."""
    steps: list[dict[str, Any]] = []
    for number in range(chance.randint(1, 6)):
        earlier = [step["name"] for step in steps]
        effect: dict[str, Any] = {"hold_s": chance.choice([0.0, 0.0, 0.01, 0.03])}
        step: dict[str, Any] = {"name": f"s{number}", "effect": effect}
        step["needs"] = chance.sample(earlier, chance.randint(0, min(2, len(earlier))))
        odd = chance.random()
        if odd < 0.15:
            effect["rest_s"] = 0.05
        elif odd < 0.3:
            effect["fails"] = 1
            step["retry"] = {"attempts": 2, "base": 0.02}
        elif odd < 0.4:
            step["after_crash"] = "fail"
        steps.append(step)
    if chance.random() < 0.3:
        steps.append({"name": "ask", "effect": {"ask": True}, "needs": []})
        steps.append({"name": "answer", "effect": {"answers": "ask"}, "needs": []})
    steps.append({"name": "clean", "effect": {}, "needs": [step["name"] for step in steps], "always": True})
    return {"steps": steps, "on_error": chance.choice(["stop", "collect"])}


def check_effects(lives: Lives, jobs: Mapping[str, Any], rows: Mapping[tuple[str, str], Any]) -> None:
    """Fail where an effect was lost, happened beside itself, or was repeated although it had not been cut.

    rows: (job, step) → the step as it is on disk at the end.
    """
    lines = lives.lines()
    for (job, step), row in rows.items():
        own = [line for line in lines if (line.job, line.step) == (job, step)]
        _never_beside_itself(lives, own)
        spec = next(spec for spec in jobs[job]["steps"] if spec["name"] == step)
        if "child" in spec:
            continue
        _repeated_only_where_cut(lives, own, spec)
        done = [line for line in own if line.what == "end"]
        if row.state == "succeeded":
            assert done, f"{job} {step} is written as succeeded, and has no effect"
            assert done[-1].attempt == row.attempt
            # What was answered was on disk: no crash forgets it.
            assert row.outputs["said"] == ("yes" if spec["effect"].get("ask") else None)
        if row.state == "skipped":
            assert not own
        if spec.get("always"):
            assert row.state == "succeeded", f"cleanup of {job}: {row}"
        _after_what_it_needs(lines, own, job, spec)


def _never_beside_itself(lives: Lives, own: list[Line]) -> None:
    open_line: Line | None = None
    for line in sorted(own, key=lambda line: line.at_s):
        if line.what == "begin":
            if open_line is not None:
                ended_s = lives.deaths.get(open_line.pid)
                assert ended_s is not None, f"{line} began while {open_line} was still running"
                # When its parent learned of a death is a little after it.
                assert ended_s < line.at_s + 1.0, f"{line} began before {open_line} was dead"
                assert line.pid != open_line.pid, f"{line} began beside {open_line}"
            open_line = line
        elif open_line is not None and open_line.pid == line.pid:
            open_line = None


def _repeated_only_where_cut(lives: Lives, own: list[Line], spec: Mapping[str, Any]) -> None:
    begins = [line for line in own if line.what == "begin"]
    for before, after in itertools.pairwise(begins):
        if after.attempt == before.attempt + 1 and spec["effect"].get("fails", 0) >= before.attempt:
            continue
        assert after.attempt == before.attempt, f"{after} is one attempt too many"
        cut = any(line.what == "cut" and line.pid == before.pid for line in own)
        assert cut or lives.codes.get(before.pid) == -9, f"{before} was not cut, and was repeated"
    if spec.get("after_crash") == "fail":
        assert len(begins) <= 1, f"{begins} must not be repeated"


def _after_what_it_needs(lines: list[Line], own: list[Line], job: str, spec: Mapping[str, Any]) -> None:
    """What a step needs has ended before it begins, and never begins again afterwards."""
    for begin in (line for line in own if line.what == "begin"):
        for line in lines:
            if line.job == job and line.run == begin.run and line.step in spec["needs"] and line.what == "begin":
                assert line.at_s < begin.at_s, f"{line} is needed by {begin}, and came after it"
