"""`dogwatch logs` on real files, and the agent as a part of the daemon."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from dogwatch.config.load import Loader
from dogwatch.config.section import Section
from dogwatch.errors import Conflict
from dogwatch.logs import frames  # loads polars, which sets a variable of the process once
from dogwatch.logs.agent import Agent
from dogwatch.logs.part import LogsPart
from dogwatch.logs.section import LOGS, LogsSpec

CONFIG = """
logs:
  checkpoint: 100ms
  sources:
    - name: app
      file: {{paths: [{0}/in.log], start: beginning, search: 100ms}}
  routes:
    - do: [json, {{where: 'level != "debug"'}}]
  sinks:
    - name: out
      file: {{path: {0}/{1}, format: json}}
"""


def dogwatch(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dogwatch", "logs", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def configured(folder: Path, out: str = "out.log") -> Path:
    path = folder / "dogwatch.yaml"
    path.write_text(CONFIG.format(folder, out))
    return path


def test_check_finds_every_mistake_at_once(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "logs:\n  sources:\n    - name: a\n      file: {paths: [relative.log]}\n"
        "  routes:\n    - {from: [aa], do: [{where: 'level =='}], to: [o]}\n"
        "  sinks:\n    - name: o\n      http: {url: nowhere}\n"
    )
    found = dogwatch("check", "-c", str(path))
    assert found.returncode == 2
    for words in (
        "not an absolute path",
        "no source is called 'aa'",
        "did you mean 'a'?",
        "do[0].where",
        "not an http",
    ):
        assert words in found.stderr


def test_check_says_what_goes_where(tmp_path: Path) -> None:
    found = dogwatch("check", "-c", str(configured(tmp_path)))
    assert (found.returncode, found.stdout) == (0, "app → json, where → out\nok: 1 source, 1 sink\n")


def test_test_shows_each_step(tmp_path: Path) -> None:
    sample = tmp_path / "sample.log"
    sample.write_text('{"level": "debug"}\n{"level": "info", "n": 1}\n')
    found = dogwatch("test", str(tmp_path / "in.log"), "--with", str(sample), "-c", str(configured(tmp_path)))
    assert found.returncode == 0
    assert "where: dropped" in found.stdout
    assert 'json: {"level":"info","n":1}\n    where: as it was' in found.stdout
    assert dogwatch("test", "nothing", "--with", str(sample), "-c", str(configured(tmp_path))).returncode == 10


def test_test_shows_records_of_several_lines_and_what_could_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    (tmp_path / "m.wat").write_text("(module)")
    path.write_text(
        f"logs:\n  sources: [{{name: app, file: {{paths: [{tmp_path}/a.log], multiline: {{preset: java}}}}}}]\n"
        "  routes: [{do: [logfmt, {redact: [card, token]}, "
        f"{{wasm: {tmp_path}/m.wat}}, trace, {{rate_limit: 1}}]}}]\n"
        "  sinks: [{name: o, stdout: {}}]\n"
    )
    sample = tmp_path / "sample.log"
    sample.write_text("a=4111111111111111\n\tat x\nplain\nplain\n")
    found = dogwatch("test", "app", "--with", str(sample), "-c", str(path))
    assert found.returncode == 0, found.stderr
    failed = "(the module failed, and it passes as it is; it exports no memory)"
    assert found.stdout.splitlines() == [
        "route 1, to o",
        "  a=4111111111111111",
        "  \tat x",
        '    logfmt: {"a":"4111111111111111","at":"true","x":"true"}',
        '    redact: {"a":"***","at":"true","x":"true"}',
        "    wasm: as it was  " + failed,
        "    trace: as it was",
        "    rate_limit: as it was",
        *(
            [
                "  plain",
                '    logfmt: {"message":"plain"}  (it could not be read, and passes as it is)',
                "    redact: as it was",
                "    wasm: as it was  " + failed,
                "    trace: as it was",
                "    rate_limit: dropped",
            ]
            * 2
        ),
    ]


def test_run_reads_standard_input_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("logs:\n  sources: [{name: i, stdin: {}}]\n  sinks: [{name: o, stdout: {}}]\n")
    command = [sys.executable, "-m", "dogwatch", "logs", "run", "-c", str(path), "--folder", str(tmp_path / "state")]
    text = "".join(f"line {n}\n" for n in range(5000)) + "no end"
    found = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout == text + "\n"


def test_test_reads_standard_input_and_prints_json(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dogwatch", "logs", "test", "app", "--with", "-", "--json"]
    command += ["-c", str(configured(tmp_path))]
    given = '{"level": "debug"}\nplain \x1b[31mred\n'
    found = subprocess.run(command, input=given, capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 0, found.stderr
    one, other = map(json.loads, found.stdout.splitlines())
    assert [one["route"], one["to"], one["line"]] == [1, ["out"], '{"level": "debug"}']
    assert [(step["step"], step["record"]) for step in one["steps"]] == [("json", {"level": "debug"}), ("where", None)]
    assert other["steps"][0]["notes"] == ["it could not be read, and passes as it is"]
    for_people = subprocess.run(
        [word for word in command if word != "--json"],
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "\x1b" not in for_people.stdout


def test_check_says_where_nothing_is_collected(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("logs: {}\n")
    found = dogwatch("check", "-c", str(path))
    assert (found.returncode, "no sources" in found.stdout) == (0, True)


@pytest.mark.parametrize(
    ("folder", "sink", "code", "said"),
    [
        (
            "/proc/nowhere/state",
            "file: {{path: {0}/out}}",
            1,
            "cannot use the log agent's folder /proc/nowhere/state: no such",
        ),
        ("{0}/a-file", "file: {{path: {0}/out}}", 1, "cannot use the log agent's folder {0}/a-file: file exists"),
        ("{0}/state", "file: {{path: /proc/nowhere/out}}", 1, "sink o: no such file or directory: /proc/nowhere"),
        ("{0}/state", "stdout: {{}}", 0, "1 line read; to o: 1 written"),
    ],
)
def test_run_says_what_is_wrong_and_what_was_done(tmp_path: Path, folder: str, sink: str, code: int, said: str) -> None:
    """What a program or standard input said and nobody took is lost with the agent: that is no success."""
    (tmp_path / "a-file").touch()
    path = tmp_path / "c.yaml"
    sinks = f"[{{name: o, {sink.format(tmp_path)}}}]"
    path.write_text(f"logs:\n  grace: 200ms\n  sources: [{{name: i, stdin: {{}}}}]\n  sinks: {sinks}\n")
    command = [sys.executable, "-m", "dogwatch", "logs", "run", "-c", str(path), "--folder", folder.format(tmp_path)]
    found = subprocess.run(command, input="one\n", capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == code, found.stderr
    assert said.format(tmp_path) in found.stderr
    assert "Traceback" not in found.stderr
    assert "Errno" not in found.stderr


class Given:
    def __init__(self, spec: LogsSpec) -> None:
        self._spec = spec

    def get(self, section: Section[LogsSpec]) -> LogsSpec:
        return self._spec


@pytest.mark.allow_leak("fd:anon_inode:*", reason="the runtime of polars lasts as long as the process")
async def test_the_part_follows_the_configuration(tmp_path: Path) -> None:
    assert frames.OFFSET
    part = LogsPart(tmp_path / "state")
    source = tmp_path / "in.log"
    source.write_text('{"level": "info", "n": 1}\n')

    async def put(out: str) -> None:
        spec = Loader([configured(tmp_path, out)], [LOGS], environ={}).load().get(LOGS)
        prepared = part.prepare(Given(spec))  # type: ignore[arg-type]
        await prepared.start()
        prepared.swap()
        await prepared.finish()

    async def until(path: Path, count: int) -> None:
        def ready() -> bool:
            return path.exists() and path.read_text().count("\n") >= count

        async with asyncio.timeout(60):
            while not ready():  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    await put("one.log")
    await until(tmp_path / "one.log", 1)
    with pytest.raises(Conflict, match="another agent"):
        await Agent(part.spec, tmp_path / "state").start()
    with source.open("a") as file:
        file.write('{"level": "debug"}\n{"level": "warn", "n": 2}\n')
    await until(tmp_path / "one.log", 2)
    await put("two.log")
    with source.open("a") as file:
        file.write('{"level": "info", "n": 3}\n')
    await until(tmp_path / "two.log", 1)
    sources, sinks = part.status()
    assert sources[0].counts["lines"] == 1, "what the old agent delivered is not read again"
    # It is counted once it is acknowledged.
    while not sinks[0].written:
        await asyncio.sleep(0.02)
        sinks = part.status()[1]
    assert sinks[0].written == 1
    assert 'dogwatch_logs_sink_written_total{sink="out"}' in {s for one in part.metrics() for s, _value in one.series}
    await part.stop()
    assert (tmp_path / "one.log").read_text().count("\n") == 2


@pytest.mark.allow_leak("fd:anon_inode:*", reason="the runtime of polars lasts as long as the process")
async def test_changed_configurations_under_load_lose_nothing(tmp_path: Path) -> None:
    """Reloaded again and again while a file is written and rotated: each line is in one of the outputs, once."""
    part = LogsPart(tmp_path / "state")
    source = tmp_path / "in.log"
    source.touch()
    written = []

    def write(count: int) -> None:
        lines = [f'{{"level": "info", "n": {len(written) + at}}}' for at in range(count)]
        written.extend(range(len(written), len(written) + count))
        with source.open("a") as file:
            file.write("\n".join(lines) + "\n")

    def found() -> list[int]:
        paths = tmp_path.glob("out-*.log")
        return [json.loads(line)["n"] for path in paths for line in path.read_bytes().rpartition(b"\n")[0].splitlines()]

    async def reload(number: int) -> None:
        spec = Loader([configured(tmp_path, f"out-{number % 3}.log")], [LOGS], environ={}).load().get(LOGS)
        prepared = part.prepare(Given(spec))  # type: ignore[arg-type]
        await prepared.start()
        if number % 4 == 3:
            # Another part of the configuration failed: the old one goes on.
            await prepared.discard()
            return
        prepared.swap()
        await prepared.finish()

    for number in range(12):
        await reload(number)
        for _ in range(3):
            write(200)
            await asyncio.sleep(0.03)
        if number % 3 == 0:
            source.rename(tmp_path / f"in.log.{number}")
            source.touch()
    async with asyncio.timeout(60):
        while len(found()) < len(written):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await part.stop()
    assert sorted(found()) == written
