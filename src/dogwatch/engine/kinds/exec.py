"""Running a program or a shell script on the worker's own machine."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from dogwatch.core.units import Bytes, Seconds, format_size
from dogwatch.engine.action import Action, Change, Outcome, Scene
from dogwatch.engine.launch.command import ANSWER_BYTES, Command, ExitStatus
from dogwatch.engine.launch.launcher import Launcher
from dogwatch.engine.tracing import traceparent
from dogwatch.engine.values import Json
from dogwatch.errors import PermanentError

KEPT_BYTES = 64 * 1024
JSON_BYTES = 1024 * 1024
_LINE_CHARS = 300
_ANSWER = "DOGWATCH_OUTPUT"
_SCRIPT = "DOGWATCH_SCRIPT"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_TAKEN = frozenset({"stdout", "exit_code", "json", "lines"})
# A template in a script is quoted for these, and for nothing else.
_SHELLS = frozenset({"sh", "bash", "dash", "ash", "ksh", "mksh", "zsh", "busybox"})


class ProgramFailed(PermanentError):
    """It ran, and ended with a code that does not mean success. Whether it is tried again, the step's retry says."""

    code = "program_failed"

    def __init__(self, message: str, *, exit_code: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.program_exit_code = exit_code


class ExecAction(Action, frozen=True, kw_only=True):
    """Runs a shell script or a program on the machine of the worker. Nothing of it runs on when the step has ended.

    The program sees DOGWATCH_RUN_ID, _JOB, _STEP, _ATTEMPT and _IDEMPOTENCY_KEY, and TRACEPARENT. What it writes to
    the file $DOGWATCH_OUTPUT as lines `name=value`, or `name<<END`, lines and `END`, are further outputs.

    run: a script, for bash -eu -o pipefail, or sh -eu where there is no bash. command: a program and its arguments
    instead, without a shell. interpreter: what runs the script, which becomes its last argument: `python3 -c`.
    env: added to a clean environment. cwd: where it runs. stdin: what it reads. user: who runs it; needs root.
    umask: octal. nice: from -20 to 19. memory: of each process's address space. open_files: of each process.
    ok: exit codes that mean success. grace: from SIGTERM to SIGKILL, when it is cancelled or its time is over.
    output: what becomes of its standard output: text: the last 64 KiB are the output `stdout`; json: also parsed, in
    `json`; lines: also as a list, in `lines`; none: only in the run's log.
    """

    kind: ClassVar[str] = "exec"
    short: ClassVar[str] = "run"
    shell: ClassVar[tuple[str, ...]] = ("run",)
    outputs: ClassVar[Mapping[str, str]] = {"*": "dyn", "exit_code": "int"}

    run: str = ""
    command: tuple[str, ...] = ()
    interpreter: str = ""
    env: Mapping[str, str] = {}
    cwd: str = ""
    stdin: str | None = None
    user: str = ""
    umask: str = ""
    nice: Annotated[int, Meta(ge=-20, le=19)] = 0
    memory: Bytes | None = None
    open_files: Annotated[int, Meta(ge=3)] | None = None
    ok: tuple[Annotated[int, Meta(ge=0, le=255)], ...] = (0,)
    output: Literal["text", "json", "lines", "none"] = "text"
    grace: Seconds = 5.0

    def faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        if bool(self.run.strip()) == bool(self.command):
            yield ("run",), "give either 'run' (a script) or 'command' (a program and its arguments)", ""
        if self.command and not self.command[0]:
            yield ("command", 0), "names no program", ""
        if self.umask and not re.fullmatch(r"0?[0-7]{1,3}", self.umask):
            yield ("umask",), f"'{self.umask[:20]}' is no umask", "write three octal digits, in quotes: '027'"
        if not self.ok:
            yield ("ok",), "no exit code would mean success", "[0]"
        for name in self.env:
            if not name or "=" in name or "\0" in name:
                yield ("env", name), "is no name of a variable", ""
        yield from self._interpreter_faults()

    def _interpreter_faults(self) -> Iterable[tuple[tuple[str | int, ...], str, str]]:
        if not self.interpreter:
            return
        if self.command:
            yield ("interpreter",), "means nothing without 'run'", ""
        try:
            words = shlex.split(self.interpreter)
        except ValueError as error:
            yield ("interpreter",), f"cannot be read: {str(error).lower()}", ""
            return
        program = os.path.basename(words[0]) if words else ""  # noqa: PTH119 no file is meant yet
        if program not in _SHELLS and "{{" in self.run:
            hint = "put the value into env and let the script read the variable"
            yield ("run",), f"a template cannot be quoted safely for {program or 'no program'}", hint

    def plan(self) -> Change:
        details = []
        if self.run:
            lines = self.run.strip("\n").split("\n")
            summary = f"run {lines[0]}{' …' if len(lines) > 1 else ''}"
            details += [f"| {line}" for line in lines] if len(lines) > 1 else []
            details += [f"interpreter: {self.interpreter}"] if self.interpreter else []
        else:
            summary = f"run {shlex.join(self.command)}"
        details += [f"env {name}={text}" for name, text in self.env.items()]
        for name in ("cwd", "user", "umask", "nice"):
            if value := getattr(self, name):
                details.append(f"{name}: {value}")
        if self.memory is not None:
            details.append(f"memory: {format_size(self.memory)}")
        return Change(summary=summary, details=tuple(details))

    async def apply(self, scene: Scene) -> Outcome:
        for _, message, hint in self.faults():
            raise PermanentError(message, hint=hint)
        kept = _Kept(JSON_BYTES if self.output == "json" else KEPT_BYTES)

        def output(stream: str, data: bytes) -> None:
            scene.write(data, stream)
            kept.add(stream, data)

        status = await scene.get(Launcher).run(self._command(scene), output)
        if status.code not in self.ok:
            raise _failure(status, scene.mask(kept.last_line()))
        outputs = {"exit_code": status.code, **self._outputs(kept, scene), **answers(_answer_text(status, scene))}
        return Outcome(outputs=outputs, message=f"exit code {status.code}" if status.code else "")

    def _command(self, scene: Scene) -> Command:
        about = {
            "DOGWATCH_RUN_ID": scene.run_id,
            "DOGWATCH_JOB": scene.job,
            "DOGWATCH_STEP": scene.step,
            "DOGWATCH_ATTEMPT": str(scene.attempt),
            "DOGWATCH_IDEMPOTENCY_KEY": scene.idempotency_key,
            "TRACEPARENT": traceparent(scene.run_id, scene.step, scene.attempt),
        }
        args = self.command or [*self._interpreter(), self.run]
        if self.run and self._in_shell() and scene.mask(self.run) != self.run:
            # Everybody on the machine may read command lines; the environment only whoever runs it.
            args, about[_SCRIPT] = [*args[:-1], f'eval "unset {_SCRIPT}; ${_SCRIPT}"'], self.run
        return Command(
            args=args,
            env={**self.env, **about},
            cwd=self.cwd,
            stdin=None if self.stdin is None else self.stdin.encode(),
            user=self.user,
            umask=int(self.umask, 8) if self.umask else None,
            nice=self.nice,
            memory_bytes=self.memory,
            open_files=self.open_files,
            grace_s=self.grace,
            answer=_ANSWER,
        )

    def _in_shell(self) -> bool:
        """Return whether a shell takes the script as its last argument."""
        words = shlex.split(self.interpreter)
        if not words:
            return True
        program = os.path.basename(words[0])  # noqa: PTH119 no file is meant
        return program in _SHELLS and words[-1].startswith("-") and words[-1].endswith("c")

    def _interpreter(self) -> list[str]:
        if self.interpreter:
            return shlex.split(self.interpreter)
        if shutil.which("bash", path=self.env.get("PATH")):
            return ["bash", "-eu", "-o", "pipefail", "-c"]
        return ["sh", "-eu", "-c"]

    def _outputs(self, kept: _Kept, scene: Scene) -> Mapping[str, Json]:
        if self.output == "none":
            return {}
        text = scene.mask(kept.text())
        if self.output == "json":
            if kept.cut:
                raise PermanentError(
                    f"its output is larger than {format_size(JSON_BYTES)}, too much to be read as JSON"
                )
            return {"json": _parse(text), "stdout": text[-KEPT_BYTES:]}
        if self.output == "lines":
            return {"lines": text.splitlines()[1 if kept.cut else 0 :], "stdout": text}
        return {"stdout": text}


class _Kept:
    """The end of what a program wrote to stdout, and a little of stderr."""

    def __init__(self, limit: int) -> None:
        self._limits = {"stdout": limit, "stderr": 4096}
        self._kept = {"stdout": bytearray(), "stderr": bytearray()}
        self.cut = False

    def add(self, stream: str, data: bytes) -> None:
        kept, limit = self._kept[stream], self._limits[stream]
        kept += data
        if len(kept) > 2 * limit:  # not each time: moving the rest costs more than keeping it
            del kept[:-limit]
            self.cut = self.cut or stream == "stdout"

    def text(self) -> str:
        kept, limit = self._kept["stdout"], self._limits["stdout"]
        if len(kept) > limit:
            self.cut = True
            del kept[:-limit]
        # A character that was cut in two is left out.
        begin = next((at for at in range(min(4, len(kept))) if kept[at] & 0xC0 != 0x80), 0) if self.cut else 0
        return kept[begin:].decode(errors="replace")

    def last_line(self) -> str:
        """Return the last line that says something: of stderr, or of stdout where that is empty."""
        for name in ("stderr", "stdout"):
            for line in reversed(self._kept[name][-4096:].decode(errors="replace").splitlines()):
                if line.strip():
                    return line.strip()[:_LINE_CHARS]
        return ""


def _failure(status: ExitStatus, line: str) -> ProgramFailed:
    hint = ""
    if status.signal:
        try:
            name = signal.Signals(status.signal).name
        except ValueError:
            name = f"signal {status.signal}"
        text = f"ended by {name}"
        if status.signal == signal.SIGKILL:
            hint = "the kernel kills so when memory runs out: see its log (dmesg)"
    else:
        text = f"exit code {status.code}"
    return ProgramFailed(f"{text}: {line}" if line else text, exit_code=status.code, hint=hint)


def _parse(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        start = text.strip()[:60] or "nothing"
        raise PermanentError(f"its output is not JSON: {error}; it wrote: {start}") from None


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no JSON value")


def _answer_text(status: ExitStatus, scene: Scene) -> str:
    if len(status.answer) > ANSWER_BYTES:
        raise PermanentError(f"it wrote more than {format_size(ANSWER_BYTES)} to the file ${_ANSWER}")
    return scene.mask(status.answer.decode(errors="replace"))


def answers(text: str) -> dict[str, str]:
    """Return what a program wrote as further outputs: lines `name=value`, or `name<<END`, lines, `END`.

    Raises: PermanentError naming the line.
    """
    found: dict[str, str] = {}
    lines = enumerate(text.removesuffix("\n").split("\n") if text else [], 1)
    for number, line in lines:
        if not line.strip():
            continue
        name, sign, rest = _split(line)
        if not sign or not _NAME.fullmatch(name):
            raise _bad(number, f"'{line[:60]}' is neither name=value nor name<<END")
        if name in _TAKEN:
            raise _bad(number, f"the name '{name}' is taken")
        if sign == "<<":
            block: list[str] = []
            for _, inner in lines:
                if inner == rest:
                    break
                block.append(inner)
            else:
                raise _bad(number, f"'{name}' is not ended by a line '{rest[:60]}'")
            rest = "\n".join(block)
        found[name] = rest
    return found


def _split(line: str) -> tuple[str, str, str]:
    """Return name, sign and rest by the sign that comes first: a value may hold both."""
    signs = [(at, sign) for sign in ("=", "<<") if (at := line.find(sign)) >= 0]
    if not signs:
        return line, "", ""
    at, sign = min(signs)
    return line[:at].strip(), sign, line[at + len(sign) :]


def _bad(number: int, what: str) -> PermanentError:
    return PermanentError(f"${_ANSWER}, line {number}: {what}")
