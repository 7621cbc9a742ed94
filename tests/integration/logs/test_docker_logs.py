"""The `docker` source and the files of a real engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.integration.docker_fixture import DockerDaemon

from dogwatch.config.load import Loader
from dogwatch.logs import frames  # loads polars, which sets a variable of the process once
from dogwatch.logs.agent import Agent
from dogwatch.logs.section import LOGS

assert frames.OFFSET
pytestmark = [
    pytest.mark.serial,
    pytest.mark.allow_leak("fd:anon_inode:*", reason="the runtime of polars lasts as long as the process"),
]


def agent(folder: Path, source: str, do: str) -> Agent:
    path = folder / "c.yaml"
    path.write_text(
        f"logs:\n  checkpoint: 100ms\n  sources: [{{name: s, {source}}}]\n  routes: [{{do: {do}}}]\n"
        f"  sinks: [{{name: o, file: {{path: {folder}/out.ndjson, format: json}}}}]\n"
    )
    return Agent(Loader([path], [LOGS], environ={}).load().get(LOGS), folder / "state")


def records(folder: Path) -> list[dict[str, str]]:
    path = folder / "out.ndjson"
    # It is written meanwhile: the last line may be there by half.
    whole = path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""
    return [json.loads(line) for line in whole.splitlines()]


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not done():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


SCRIPT = (
    "i=0; while [ $i -lt 40 ]; do echo out $i; echo err $i >&2; i=$((i+1)); sleep 0.05; done; printf %20000d 7; echo"
)


async def test_output_is_read_across_a_restart(docker_daemon: DockerDaemon, tmp_path: Path) -> None:
    source = f"docker: {{socket: {docker_daemon.socket}, only: [logged], search: 200ms}}"
    first = agent(tmp_path, source, "[json]")
    await first.start()
    try:
        await asyncio.to_thread(docker_daemon.run, "other", command=("echo", "not this one"))
        await asyncio.to_thread(docker_daemon.run, "logged", command=("sh", "-c", SCRIPT))
        await until(lambda: len(records(tmp_path)) >= 10)
    finally:
        await first.stop()
    await asyncio.sleep(0.3)
    second = agent(tmp_path, source, "[json]")
    await second.start()
    try:
        await until(lambda: len(records(tmp_path)) >= 81)
        await asyncio.sleep(0.5)
    finally:
        await second.stop()
        await asyncio.to_thread(docker_daemon.docker, "rm", "-f", "logged", "other")
    found = records(tmp_path)
    assert [one["message"] for one in found if one["stream"] == "stdout"][:40] == [f"out {n}" for n in range(40)]
    assert [one["message"] for one in found if one["stream"] == "stderr"] == [f"err {n}" for n in range(40)]
    assert [len(one["message"]) for one in found if one["message"].endswith("7")][-1] == 20_000
    assert len(found) == len({one["id"] for one in found}) == 81
    assert {one["container"] for one in found} == {"logged"}


async def test_the_engines_own_files(docker_daemon: DockerDaemon, tmp_path: Path) -> None:
    identity = await asyncio.to_thread(
        docker_daemon.run, "filed", command=("sh", "-c", "echo one; printf %20000d 7; echo")
    )
    try:
        path = await asyncio.to_thread(docker_daemon.docker, "inspect", "--format", "{{.LogPath}}", identity)
        one = agent(tmp_path, f"containers: {{paths: ['{path}'], start: beginning}}", "[container]")
        await one.start()
        try:
            await until(lambda: len(records(tmp_path)) >= 2)
        finally:
            await one.stop()
    finally:
        await asyncio.to_thread(docker_daemon.docker, "rm", "-f", "filed")
    assert [(len(one["message"]), one["stream"]) for one in records(tmp_path)] == [(3, "stdout"), (20_000, "stdout")]
