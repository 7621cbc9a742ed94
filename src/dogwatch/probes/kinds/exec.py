"""The `exec` kind."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from dogwatch.core.units import Seconds, Secret
from dogwatch.probes.patterns import matches, pattern_faults
from dogwatch.probes.probe import Attempt
from dogwatch.probes.processes import Child, Command
from dogwatch.probes.progress import ProbeFailed, Progress, SteppedProbe

_NAGIOS = ("OK", "WARNING", "CRITICAL", "UNKNOWN")
_MAX_VALUES = 200
_LINE = re.compile(r"\s*([A-Za-z_][\w.-]*)\s*[=:]\s*(.*?)\s*")
# 'label'=value[unit];warn;crit;min;max: quotes are needed only around labels with spaces.
_PERFDATA = re.compile(r"(?:'((?:[^']|'')+)'|([^\s='|]+))=(-?[\d.]+)(us|ms|s|%|[KMGTP]?i?B|c)?(?:;[^\s]*)?")
_UNITS = {"us": 1e-6, "ms": 1e-3}
_BYTES = {"K": 1, "M": 2, "G": 3, "T": 4, "P": 5}


class ExecProbe(SteppedProbe, frozen=True, kw_only=True):
    """Runs a program and judges its exit status and output.

    It gets its own process group, no descriptor of ours and only a few variables of our environment. When time is up it
    gets TERM, and KILL after `grace`; what it leaves in the background is killed, too.

    args: program and arguments; no shell reads them. shell: a command line for `/bin/sh -c`, instead of args. env:
    further variables; may hold passwords and is never shown. pass_env: names of our own variables handed on; default
    PATH, HOME, LANG, LC_ALL, TZ. cwd: folder to run in; default: ours. stdin: text for its standard input; never
    shown; default: nothing. user: name or number of the user to run as, which needs root; default: ours. exit_status:
    those that are a success; default 0, and 0 and 1 (OK and WARNING) for format nagios. expect_output: regular
    expression (RE2) that its standard output must match; default: any. format: how values are read from its standard
    output: text (lines of `key=value`), json (one object) or nagios (performance data; times in seconds, sizes in
    bytes); default text. max_output: most bytes it may write to each of its outputs; default 64KiB. grace: time from
    TERM to KILL; default 2s.
    """

    kind: ClassVar[str] = "exec"
    short: ClassVar[str] = "args"
    variables: ClassVar[dict[str, str]] = {
        "exit_status": "int",
        "output": "string",
        "errors": "string",
        "data": "map",
        "state": "string",
        "failed_regex": "bool",
    }
    meanings: ClassVar[Mapping[str, str]] = {
        "exit_status": "exit status; negative for the signal that ended it",
        "output": "standard output",
        "errors": "standard error",
        "data": "values read from the output, by name",
        "state": "OK, WARNING, CRITICAL or UNKNOWN, for format nagios",
        "failed_regex": "whether expect_output did not match",
    }
    metrics: ClassVar[dict[str, tuple[str, str]]] = {
        "exit_status": ("probe_exec_exit_status", "Exit status of the program; negative: the signal that ended it"),
        "data": ("probe_exec_value{name}", "Numbers read from the program's output, by name; at most 50"),
        "failed_regex": ("probe_failed_due_to_regex", "Indicates if probe failed due to regex"),
    }

    args: tuple[str, ...] = ()
    shell: str = ""
    env: dict[str, Secret] = msgspec.field(default_factory=dict)
    pass_env: tuple[str, ...] = ("PATH", "HOME", "LANG", "LC_ALL", "TZ")
    cwd: str = ""
    stdin: Secret | None = None
    user: str = ""
    exit_status: tuple[Annotated[int, Meta(ge=0, le=255)], ...] = ()
    expect_output: str | None = None
    format: Literal["text", "json", "nagios"] = "text"
    max_output: Annotated[int, Meta(ge=1, le=16 * 1024 * 1024, extra={"unit": "size"})] = 64 * 1024
    grace: Seconds = 2.0

    def _program(self) -> str:
        # Arguments may hold passwords; the program's name does not.
        return self.args[0] if self.args else "sh"

    def address(self) -> str:
        return self._program() if self.args else "shell command"

    def faults(self) -> list[tuple[tuple[str | int, ...], str, str]]:
        found = pattern_faults(self.expect_output, "expect_output")
        if bool(self.args) == bool(self.shell):
            found.append((("args",), "exactly one of args and shell must be given", 'args: ["/usr/bin/check", "-v"]'))
        elif self.args and not self.args[0]:
            found.append((("args", 0), "is empty", ""))
        for number, arg in enumerate(self.args):
            if "\0" in arg:
                found.append((("args", number), "has a NUL character", ""))
        for name, value in self.env.items():
            if not name or "=" in name or "\0" in name + value:
                found.append((("env", name), "is not an environment variable", ""))
        return found

    def _command(self) -> Command:
        handed_on = {name: os.environ[name] for name in self.pass_env if name in os.environ}
        return Command(
            args=self.args or ("/bin/sh", "-c", self.shell),
            env=handed_on | self.env,
            cwd=self.cwd,
            user=self.user,
            stdin=None if self.stdin is None else self.stdin.encode(),
            max_output_bytes=self.max_output,
        )

    async def ask(self, attempt: Attempt, progress: Progress) -> None:
        progress.doing = f"running {self._program()}"
        child = Child(self._command())
        try:
            status = await child.wait()
        except ProbeFailed as failed:
            raise ProbeFailed(failed.reason, f"{self._program()}: {failed.message}") from failed
        finally:
            progress.hear(child.output)
            progress.hear(child.errors)
            child.close(self.grace, attempt.env.tasks)
        self._judge(status, bytes(child.output), bytes(child.errors), progress)

    def _judge(self, status: int, output: bytes, errors: bytes, progress: Progress) -> None:
        text = output.decode("utf-8", "replace")
        progress.values.update(
            {"exit_status": status, "output": text, "errors": errors.decode("utf-8", "replace"), "data": {}}
        )
        state = _NAGIOS[status] if 0 <= status < 4 else "UNKNOWN"
        if self.format == "nagios":
            progress.values["state"] = state
        trouble: ProbeFailed | None = None
        try:
            progress.values["data"] = _READERS[self.format](text)
        except ValueError as error:
            trouble = ProbeFailed("protocol", f"{self._program()}: {error}")
        if status not in (self.exit_status or ((0, 1) if self.format == "nagios" else (0,))):
            raise ProbeFailed("exit", self._exit_message(status, state, text or errors.decode("utf-8", "replace")))
        if trouble is not None:
            raise trouble
        if self.expect_output is not None:
            progress.values["failed_regex"] = not matches(self.expect_output, output)
            if progress.values["failed_regex"]:
                message = f"{self._program()}: its output does not match '{self.expect_output}'"
                raise ProbeFailed("mismatch", message)

    def _exit_message(self, status: int, state: str, text: str) -> str:
        if status < 0:
            return f"{self._program()}: ended by signal {-status}"
        if self.format == "nagios":
            first = text.partition("\n")[0].partition("|")[0].strip()[:200]
            return f"{self._program()}: {state}{f': {first}' if first else ''}"
        return f"{self._program()}: exit status {status}"


def _number_or_text(text: str) -> float | int | str:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return text[:1000]


def _from_text(output: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for line in output.splitlines():
        found = _LINE.fullmatch(line) if len(line) < 2000 and len(values) < _MAX_VALUES else None
        if found:
            values[found[1]] = _number_or_text(found[2])
    return values


def _from_json(output: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(output, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"its output is not a JSON object: {error}") from error


def _from_nagios(output: str) -> dict[str, Any]:
    """Return performance data: what stands behind `|`, on any line, in base units."""
    values: dict[str, Any] = {}
    for line in output.splitlines()[:_MAX_VALUES]:
        for quoted, plain, number, unit in _PERFDATA.findall(line.partition("|")[2][:4000]):
            if len(values) >= _MAX_VALUES or number.count(".") > 1 or number.strip("-.") == "":
                continue
            values[(quoted or plain).replace("''", "'")] = float(number) * _factor(unit)
    return values


def _factor(unit: str) -> float:
    if unit.endswith("B"):
        return float(1024 ** _BYTES.get(unit[0], 0))  # as the plugins themselves count
    return _UNITS.get(unit, 1.0)


_READERS = {"text": _from_text, "json": _from_json, "nagios": _from_nagios}
