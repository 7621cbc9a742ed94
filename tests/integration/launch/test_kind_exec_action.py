"""Steps that run programs, with real ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from tests.launching import alive

from dogwatch.access.actor import Actor
from dogwatch.engine.action import Outcome
from dogwatch.engine.kinds.exec import ExecAction, ProgramFailed
from dogwatch.engine.launch.launcher import Launcher
from dogwatch.errors import PermanentError

T = TypeVar("T")


class Stage:
    """A scene for one attempt, with one secret."""

    run_id, step, attempt, idempotency_key, job = "r1", "build", 2, "r1.build", "release"
    actor = Actor(kind="run", name="r1")
    woken, memory, signal = False, None, None
    now_s = 0.0

    def __init__(self, launcher: Launcher | None) -> None:
        self._launcher = launcher
        self.labels: dict[str, str] = {}
        self.log: list[tuple[str, bytes]] = []
        self.wrote = asyncio.Event()

    def remaining_s(self) -> float:
        return 60.0

    def write(self, text: bytes | str, stream: str = "stdout") -> None:
        self.log.append((stream, text if isinstance(text, bytes) else text.encode()))
        self.wrote.set()

    def mask(self, text: str) -> str:
        return text.replace("hunter2", "***")

    def get(self, service: type[T]) -> T:
        if not isinstance(self._launcher, service):
            raise PermanentError(f"this program has no {service.__name__}")
        return self._launcher

    def text(self, wanted: str = "stdout") -> str:
        return b"".join(data for stream, data in self.log if stream == wanted).decode()


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    launcher = Launcher(tmp_path / "guard.lock")
    await launcher.open()
    yield Stage(launcher)
    await launcher.close()


async def apply(stage: Stage, **options: Any) -> Outcome:
    return await ExecAction(**options).apply(stage)


async def test_a_script(stage: Stage) -> None:
    outcome = await apply(stage, run="echo one\necho two >&2\ncat", stdin="three")
    assert outcome.outputs == {"exit_code": 0, "stdout": "one\nthree"}
    assert stage.text("stderr") == "two\n"


async def test_a_script_ends_at_its_first_mistake(stage: Stage) -> None:
    for script in ("false\necho on", "echo $UNSET\necho on", "false | cat\necho on"):
        with pytest.raises(ProgramFailed):
            await apply(stage, run=script)
    assert "on" not in stage.text()


async def test_a_command_without_a_shell(stage: Stage) -> None:
    outcome = await apply(stage, command=("printf", "%s", "$HOME; a 'b'"))
    assert outcome.outputs["stdout"] == "$HOME; a 'b'"


async def test_another_interpreter(stage: Stage) -> None:
    outcome = await apply(stage, run="import sys; print(sys.argv, 6 * 7)", interpreter="python3 -c")
    assert outcome.outputs["stdout"] == "['-c'] 42\n"


async def test_it_knows_which_attempt_it_is(stage: Stage) -> None:
    names = ("RUN_ID", "JOB", "STEP", "ATTEMPT", "IDEMPOTENCY_KEY")
    script = " ".join(["echo", *(f"$DOGWATCH_{name}" for name in names), "$MORE"])
    outcome = await apply(stage, run=script, env={"MORE": "more", "DOGWATCH_STEP": "forged"})
    assert outcome.outputs["stdout"] == "r1 release build 2 r1.build more\n"


async def test_a_failure_says_code_and_last_words(stage: Stage) -> None:
    with pytest.raises(ProgramFailed, match=r"^exit code 3: no such host \*\*\*$") as caught:
        await apply(stage, run="echo noise; echo trying >&2; echo 'no such host hunter2' >&2; exit 3")
    assert caught.value.program_exit_code == 3
    with pytest.raises(ProgramFailed, match=r"^exit code 4$"):
        await apply(stage, run="exit 4")
    with pytest.raises(ProgramFailed, match=r"^ended by SIGKILL$") as caught:
        await apply(stage, run="kill -9 $$")
    assert "memory" in caught.value.hint


async def test_codes_that_mean_success(stage: Stage) -> None:
    outcome = await apply(stage, run="exit 1", ok=(0, 1))
    assert (outcome.outputs["exit_code"], outcome.message) == (1, "exit code 1")
    with pytest.raises(ProgramFailed):
        await apply(stage, run="exit 0", ok=(1,))


async def test_json(stage: Stage) -> None:
    outcome = await apply(stage, run="""echo '{"a": [1, "hunter2"]}'; echo note >&2""", output="json")
    assert outcome.outputs["json"] == {"a": [1, "***"]}
    for script, message in (("echo {", "is not JSON"), ("true", "it wrote: nothing"), ("echo NaN", "no JSON value")):
        with pytest.raises(PermanentError, match=message):
            await apply(stage, run=script, output="json")
    with pytest.raises(PermanentError, match="too much to be read as JSON"):
        await apply(stage, run="head -c 1100000 /dev/zero", output="json")


async def test_json_that_is_large(stage: Stage) -> None:
    outcome = await apply(stage, run="""python3 -c 'print([7] * 200000)'""", output="json")
    assert outcome.outputs["json"] == [7] * 200_000
    assert len(outcome.outputs["stdout"]) == 64 * 1024


async def test_lines(stage: Stage) -> None:
    assert (await apply(stage, run="printf 'a\\n\\nb'", output="lines")).outputs["lines"] == ["a", "", "b"]
    lines = (await apply(stage, run="seq 100000", output="lines")).outputs["lines"]
    assert lines[-1] == "100000"
    assert lines[0] == str(100_001 - len(lines))  # the first one was cut and is left out


async def test_no_output_is_kept_but_in_the_log(stage: Stage) -> None:
    assert (await apply(stage, run="echo x", output="none")).outputs == {"exit_code": 0}
    assert stage.text() == "x\n"


async def test_only_the_end_of_long_output_is_kept(stage: Stage) -> None:
    outcome = await apply(stage, run="seq 100000")
    assert len(outcome.outputs["stdout"]) == 64 * 1024
    assert outcome.outputs["stdout"].endswith("\n100000\n")


async def test_output_that_is_no_text(stage: Stage) -> None:
    outcome = await apply(stage, run=r"printf '\xff\x00ok'")
    assert outcome.outputs["stdout"] == "\ufffd\0ok"


async def test_outputs_that_the_program_names(stage: Stage) -> None:
    script = """
echo "version=1.2" >> "$DOGWATCH_OUTPUT"
{ echo "notes<<EOF"; echo "two hunter2"; echo lines; echo EOF; } >> "$DOGWATCH_OUTPUT"
"""
    outcome = await apply(stage, run=script)
    assert outcome.outputs == {"exit_code": 0, "stdout": "", "version": "1.2", "notes": "two ***\nlines"}
    with pytest.raises(PermanentError, match=r"\$DOGWATCH_OUTPUT, line 1: 'bad' is neither"):
        await apply(stage, run='echo bad > "$DOGWATCH_OUTPUT"')
    with pytest.raises(PermanentError, match="more than 256 KiB"):
        await apply(stage, run='head -c 300000 /dev/zero > "$DOGWATCH_OUTPUT"')


async def test_what_cannot_run_says_why(stage: Stage) -> None:
    with pytest.raises(PermanentError, match="cannot run no-such: no such file or directory"):
        await apply(stage, command=("no-such",))
    with pytest.raises(PermanentError, match="in /no/such: no such file"):
        await apply(stage, run="true", cwd="/no/such")
    with pytest.raises(PermanentError, match="either 'run'"):
        await apply(stage)


async def test_without_a_launcher_it_says_so() -> None:
    with pytest.raises(PermanentError, match="this program has no Launcher"):
        await apply(Stage(None), run="true")


async def test_cancelled_it_leaves_nothing(stage: Stage) -> None:
    task = asyncio.create_task(apply(stage, run="trap '' TERM; echo $$; while :; do sleep 1; done", grace=0.2))
    await stage.wrote.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not alive(int(stage.text()))
